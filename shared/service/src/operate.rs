//! The operators' requests to a running service, except for its health.
//!
//! ```text
//! GET  /api/{collection}/-/backup   all records at one revision (see [`backup`](store::backup)); an increment with
//!                                   ?history=…&since=…; needs a token, unless the service is read-only
//! POST /scrub                       reads and checks everything, then answers; not reachable through the load balancer
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use store::backup::{Chunks, Since};
use store::{Commit, Scrub, Snapshot, Store, StoreError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep;
use warp::http::StatusCode;
use warp::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use warp::reply::{Reply, Response};

use crate::authorize::Writers;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::reply::Answer;

/// The most backups at once: for each, the service sets aside the records that are changed meanwhile.
const BACKUPS: usize = 2;

/// The most chunks of a backup that wait for its reader.
const CHUNKS: usize = 4;

/// The priority of background work, as a `nice` value.
#[cfg(target_os = "linux")]
const BACKGROUND: i32 = 15;

/// Runs backups and scrubs.
#[derive(Clone)]
pub struct Operator {
    /// The service's records.
    pub store: Store,
    /// Begins snapshots.
    pub commit: Commit,
    /// Those who may read a backup.
    pub writers: Arc<Writers>,
    backups: Arc<Semaphore>,
    scrubs: Arc<Semaphore>,
    last_scrub: Arc<Mutex<Option<(u64, SystemTime)>>>,
    end: Arc<AtomicBool>,
}

impl Operator {
    /// Returns an operator of `store`.
    pub fn new(store: Store, commit: Commit, writers: Arc<Writers>) -> Self {
        let [backups, scrubs] = [BACKUPS, 1].map(|count| Arc::new(Semaphore::new(count)));
        Self { store, commit, writers, backups, scrubs, last_scrub: Arc::default(), end: Arc::default() }
    }

    /// Scrubs again and again, with `pause` before each time.
    pub async fn scrub_every(self, pause: Duration) {
        loop {
            sleep(pause).await;
            // The scrub logs its result.
            let _ = self.scrub().await;
        }
    }

    /// Returns the bytes of all values, as the last scrub read them, and when it ended. Returns `None` before that.
    pub(crate) fn last_scrub(&self) -> Option<(u64, SystemTime)> {
        *self.last_scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the scrub that is under way, if any.
    pub fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// `GET /api/{collection}/-/backup`
    pub(crate) async fn backup(self, headers: &HeaderMap, mut given: Parameters) -> Answer {
        let since = read_since(&mut given)?;
        given.finish(&["history", "since"])?;
        let known = match self.writers.authorize(headers) {
            Ok(writer) => writer.check_all().map(|()| true)?,
            // A read-only service has no tokens. It gives the same records as its list.
            Err(Problem::ReadOnly(_)) => false,
            Err(problem) => return Err(problem),
        };
        let permit = Arc::clone(&self.backups).try_acquire_owned().map_err(|_| Problem::BackupsBusy)?;
        let snapshot = self.commit.snapshot().await?;
        // On its own thread: on a worker's, other connections would wait for it.
        let (put, mut chunks) = mpsc::channel(CHUNKS);
        in_background("backup", move || {
            send_backup(Chunks::new(snapshot, since.as_ref(), known), &put);
            drop(permit);
        })?;
        let mut response =
            warp::reply::stream(stream::poll_fn(move |context| chunks.poll_recv(context))).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        Ok(response)
    }

    /// `POST /scrub`
    pub(crate) async fn answer_scrub(self) -> Answer {
        let scrub = self.scrub().await?;
        let mut response = Response::new(scrub.to_string().into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if scrub.damaged > 0 {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok(response)
    }

    /// Reads and checks everything, at low priority, and logs the damage.
    async fn scrub(&self) -> Result<Scrub, Problem> {
        let permit = Arc::clone(&self.scrubs).try_acquire_owned().map_err(|_| Problem::ScrubBusy)?;
        let snapshot = self.commit.snapshot().await?;
        let (store, end, begin) = (self.store.clone(), Arc::clone(&self.end), Instant::now());
        let (tell, told) = oneshot::channel();
        in_background("scrub", move || {
            let scrub = run_scrub(&store, snapshot, &end);
            // First, so that a client that has its answer can begin the next.
            drop(permit);
            // The client may have gone.
            let _ = tell.send(scrub);
        })?;
        let scrub = told.await.ok().flatten().ok_or(Problem::Draining)?;
        *self.last_scrub.lock().unwrap_or_else(PoisonError::into_inner) = Some((scrub.bytes, SystemTime::now()));
        if scrub.damaged == 0 {
            log::info!("{} in {:.1} s", scrub.to_string().trim_end(), begin.elapsed().as_secs_f64());
        }
        Ok(scrub)
    }
}

fn run_scrub(store: &Store, snapshot: Snapshot, end: &AtomicBool) -> Option<Scrub> {
    let scrub = Scrub::run(store, snapshot, true, end).ok()?;
    scrub.damage.iter().for_each(|what| log::error!("a scrub found damage: {what}"));
    Some(scrub)
}

/// Sends a backup until its end, or until its reader goes.
fn send_backup(chunks: Chunks, put: &mpsc::Sender<Result<Bytes, StoreError>>) {
    for chunk in chunks {
        if let Err(error) = &chunk {
            log::error!("a backup was cut short: {error}");
        }
        if put.blocking_send(chunk).is_err() {
            log::info!("a backup's reader went before its end");
            return;
        }
    }
}

/// Reads which backup an increment continues.
fn read_since(given: &mut Parameters) -> Result<Option<Since>, Problem> {
    match (given.take("history")?, given.take("since")?) {
        (None, None) => Ok(None),
        (Some(history), Some(revision)) if let Ok(revision) = revision.parse() => Ok(Some(Since { history, revision })),
        _ => Err(Problem::Parameter("`history` and `since` go together; `since` is a revision.".to_owned())),
    }
}

/// Runs `task` on a thread of low priority.
fn in_background(name: &str, task: impl FnOnce() + Send + 'static) -> Result<(), Problem> {
    let run = move || {
        // On Linux the priority is this thread's alone. If setting it fails, the task runs at normal priority.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, BACKGROUND);
        task();
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(|error| {
        log::error!("cannot start a thread for a {name}: {error}");
        Problem::BackupsBusy
    })
}
