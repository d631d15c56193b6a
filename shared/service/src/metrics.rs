//! What a service counts for its operators.
//!
//! A request costs a few loads and stores to memory that its worker has to itself: no lock, no allocation after the first
//! request of its kind. All else is looked up when somebody asks. [`admin`](crate::admin) tells it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hyper::{Method, Response, StatusCode};
use store::figures::{Counter, Histogram, Spread};

use crate::connection::{Bounds, Connections};
use crate::problem::{self, Refused};
use crate::routes::Route;

/// The times by which answers are counted, in microseconds.
const MICROS: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// The methods that are counted apart, and a name for all others.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other"];

/// The classes of statuses that final answers have.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// The number of kinds of answers: by method, route and class.
const KINDS: usize = METHODS.len() * Route::ALL.len() * CLASSES.len();

/// The counters of one worker.
pub(crate) struct Tally {
    answers: Box<[OnceLock<Box<Histogram<17>>>]>,
    refused: [Counter; problem::KINDS.len()],
    /// The answers that were repeated from memory.
    repeated: Counter,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let answers = (0..KINDS).map(|_| OnceLock::new()).collect();
        Self { answers, refused: std::array::from_fn(|_| Counter::default()), repeated: Counter::default() }
    }

    /// Counts an answer, which took so long up to its head.
    pub(crate) fn add<B>(&self, method: &Method, route: Route, response: &Response<B>, took: Duration) {
        let histogram = &self.answers[kind_of(method, route, response.status())];
        histogram.get_or_init(|| Box::new(Histogram::new(&MICROS))).add_time(took);
        if let Some(Refused(reason)) = response.extensions().get()
            && let Some(place) = problem::KINDS.iter().position(|known| known.reason == *reason)
        {
            self.refused[place].add(1);
        }
    }

    /// Counts an answer that is repeated from memory.
    pub(crate) fn add_repeated(&self) {
        self.repeated.add(1);
    }
}

/// Returns the place of an answer among the [`KINDS`].
fn kind_of(method: &Method, route: Route, status: StatusCode) -> usize {
    let method = match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        _ => 6,
    };
    let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
    (method * Route::ALL.len() + route as usize) * CLASSES.len() + class
}

/// The answers of one kind.
pub(crate) struct Answers {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) class: &'static str,
    /// Their times, in microseconds.
    pub(crate) times: Spread,
}

/// All that a service counts. Clones share it.
#[derive(Clone)]
pub(crate) struct Metrics {
    tallies: Arc<Mutex<Vec<Arc<Tally>>>>,
    pub(crate) connections: Connections,
}

impl Metrics {
    /// Counts nothing yet, and has room for so many connections.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { tallies: Arc::default(), connections: Connections::new(bounds) }
    }

    /// Adds the counters of another worker.
    pub(crate) fn add_worker(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::new());
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&tally));
        tally
    }

    fn tallies(&self) -> Vec<Arc<Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the answers so far, of each kind that there was.
    pub(crate) fn answers(&self) -> Vec<Answers> {
        let tallies = self.tallies();
        let mut answers = Vec::new();
        for kind in 0..KINDS {
            let mut times = Spread::default();
            for histogram in tallies.iter().filter_map(|tally| tally.answers[kind].get()) {
                times.merge(&histogram.read());
            }
            if times.count() > 0 {
                let (rest, class) = (kind / CLASSES.len(), kind % CLASSES.len());
                let (method, route) = (rest / Route::ALL.len(), rest % Route::ALL.len());
                answers.push(Answers {
                    method: METHODS[method],
                    route: Route::ALL[route].template(),
                    class: CLASSES[class],
                    times,
                });
            }
        }
        answers
    }

    /// Returns how many requests were refused for each reason.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let tallies = self.tallies();
        let count = move |place: usize| tallies.iter().map(|tally| tally.refused[place].get()).sum();
        problem::KINDS.iter().enumerate().map(move |(place, kind)| (kind.reason, count(place)))
    }

    /// Returns how many answers were repeated from memory.
    pub(crate) fn repeated(&self) -> u64 {
        self.tallies().iter().map(|tally| tally.repeated.get()).sum()
    }
}
