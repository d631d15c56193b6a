//! What operators ask a running service for, beside its health.
//!
//! ```text
//! GET  /api/{collection}/-/backup   all records at one revision (see [`backup`](store::backup)); with ?history=…&since=…
//!                                   an increment. With a token of the service's; where it has none, it takes none
//! POST /scrub                       has everything read and checked, and answers at the end; not behind the entrance
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use store::backup::{Chunks, Since};
use store::{Commit, Scrub, Snapshot, Store, StoreError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::sleep;
use warp::http::StatusCode;
use warp::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use warp::reply::{Reply, Response};

use crate::authorize::Tokens;
use crate::problem::Problem;
use crate::reply::Answer;

/// How many backups may be read at once: each has the service put aside what is changed meanwhile.
const BACKUPS: usize = 2;

/// How many chunks of a backup may wait for its reader.
const CHUNKS: usize = 4;

/// The priority of what nobody waits for, as `nice` has it.
#[cfg(target_os = "linux")]
const BACKGROUND: i32 = 15;

/// Who does what operators ask for.
#[derive(Clone)]
pub struct Operator {
    /// The service's records.
    pub store: Store,
    /// Who begins snapshots.
    pub commit: Commit,
    /// Who may have a backup.
    pub tokens: Arc<Tokens>,
    backups: Arc<Semaphore>,
    scrubs: Arc<Semaphore>,
    end: Arc<AtomicBool>,
}

impl Operator {
    /// An operator of `store`.
    pub fn new(store: Store, commit: Commit, tokens: Arc<Tokens>) -> Self {
        let [backups, scrubs] = [BACKUPS, 1].map(|count| Arc::new(Semaphore::new(count)));
        Self { store, commit, tokens, backups, scrubs, end: Arc::default() }
    }

    /// Has everything read and checked again and again, so long after the last time.
    pub async fn scrub_every(self, pause: Duration) {
        loop {
            sleep(pause).await;
            // It has been logged.
            let _ = self.scrub().await;
        }
    }

    /// Has a scrub that is under way end.
    pub fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// `GET /api/{collection}/-/backup`
    pub(crate) async fn backup(self, headers: &HeaderMap, query: &HashMap<String, String>) -> Answer {
        let known = match self.tokens.authorize(headers) {
            Ok(_) => true,
            // A read-only service gives what its list gives.
            Err(Problem::ReadOnly(_)) => false,
            Err(problem) => return Err(problem),
        };
        let permit = Arc::clone(&self.backups).try_acquire_owned().map_err(|_| Problem::BackupsBusy)?;
        let snapshot = self.commit.snapshot().await?;
        let since = match (query.get("history"), query.get("since").and_then(|since| since.parse().ok())) {
            (Some(history), Some(revision)) => Some(Since { history: history.clone(), revision }),
            _ => None,
        };
        // On a thread of its own: on a worker's, other connections would wait for it.
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

    /// Reads and checks everything, at low priority, and logs what is damaged.
    async fn scrub(&self) -> Result<Scrub, Problem> {
        let permit = Arc::clone(&self.scrubs).try_acquire_owned().map_err(|_| Problem::ScrubBusy)?;
        let snapshot = self.commit.snapshot().await?;
        let (store, end, begin) = (self.store.clone(), Arc::clone(&self.end), Instant::now());
        let (tell, told) = oneshot::channel();
        in_background("scrub", move || {
            // Who asked may have gone.
            let _ = tell.send(run_scrub(&store, snapshot, &end));
            drop(permit);
        })?;
        let scrub = told.await.ok().flatten().ok_or(Problem::Draining)?;
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

/// Sends a backup on, for as long as somebody takes it.
fn send_backup(chunks: Chunks, put: &mpsc::Sender<Result<Bytes, StoreError>>) {
    for chunk in chunks {
        if let Err(error) = &chunk {
            log::error!("a backup was cut short: {error}");
        }
        if put.blocking_send(chunk).is_err() {
            log::info!("nobody takes the rest of a backup");
            return;
        }
    }
}

/// Runs `task` on a thread that has the processors when nobody else wants them.
fn in_background(name: &str, task: impl FnOnce() + Send + 'static) -> Result<(), Problem> {
    let run = move || {
        // On Linux that is this thread's alone. Where it cannot be, the task has its share like all others.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, BACKGROUND);
        task();
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(|error| {
        log::error!("no {name}: {error}");
        Problem::BackupsBusy
    })
}
