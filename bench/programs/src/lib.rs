//! Programs that the services are measured with. The floor is what HTTP itself costs: bare hyper answers every request
//! with the same status, headers and bytes, in a service's allocator and with its connections' settings.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

/// The floor, with its one answer.
#[derive(Clone)]
pub struct Floor {
    http: http1::Builder,
    status: StatusCode,
    kind: Option<HeaderValue>,
    tag: HeaderValue,
    body: Bytes,
}

impl Floor {
    /// Returns a floor whose answers are a JSON text of `bytes` bytes, at least two. A 304 has no body.
    pub fn new(status: StatusCode, bytes: usize) -> Self {
        let has_body = status != StatusCode::NOT_MODIFIED;
        let mut http = http1::Builder::new();
        // Nor does a service use hyper's timeout: it registers a timer for each request.
        http.timer(TokioTimer::new()).header_read_timeout(None);
        Self {
            http,
            status,
            kind: has_body.then(|| HeaderValue::from_static("application/json; charset=utf-8")),
            tag: HeaderValue::from_static("\"1234-89abcdef\""),
            body: if has_body { format!("\"{}\"", "x".repeat(bytes - 2)).into() } else { Bytes::new() },
        }
    }

    /// Gives a request's head some time, by hyper's own timer.
    pub fn limit_heads(&mut self, time: Duration) {
        self.http.header_read_timeout(time);
    }

    /// Serves one connection to its end.
    pub async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|_request| std::future::ready(Ok::<_, Infallible>(self.respond())));
        // A client may leave when it likes.
        let _ = self.http.serve_connection(TokioIo::new(stream), service).await;
    }

    fn respond(&self) -> Response<Whole> {
        let mut response = Response::new(Whole(self.body.clone()));
        *response.status_mut() = self.status;
        if let Some(kind) = &self.kind {
            response.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        response.headers_mut().insert(ETAG, self.tag.clone());
        response
    }
}

/// A body in one piece; empty once it was taken.
pub struct Whole(pub Bytes);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
