//! Connections that have one request each, for operators, who do not ask often.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use warp::reply::Response;

/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Places for connections.
pub(crate) struct Places {
    free: Arc<Semaphore>,
    /// The time that a connection has for its one request and the answer.
    patience: Duration,
}

impl Places {
    /// Has places for `count` connections at once, each for as long as its `patience`; more wait in the listener's queue.
    pub(crate) fn new(count: usize, patience: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), patience }
    }

    /// Accepts a connection and answers its one request with `answer`, in a task of its own.
    pub(crate) async fn serve<S, F>(
        &self,
        accept: impl AsyncFnOnce() -> io::Result<S>,
        answer: impl Fn(Request<Incoming>) -> F + Send + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Response> + Send,
    {
        let place = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                log::warn!("a connection could not be accepted: {error}");
                return sleep(PAUSE).await;
            }
        };
        let patience = self.patience;
        tokio::spawn(async move {
            let requests = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut http = http1::Builder::new();
            // The patience bounds heads, too.
            http.header_read_timeout(None).keep_alive(false);
            // A client that is slow or breaks off is no news.
            let _ = timeout(patience, http.serve_connection(TokioIo::new(stream), requests)).await;
            drop(place);
        });
    }
}
