//! The floor: what HTTP itself costs. Bare hyper on one thread answers every request with the same status, headers and
//! bytes, in a service's allocator and with its connections' settings. `bench/run` compares everything with it.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::Parser;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use service::serve::HEADER_TIMEOUT;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Answers every request with the same bytes
#[derive(Parser)]
struct Options {
    /// The address to serve on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// The length of the body
    #[arg(long, default_value = "100")]
    bytes: usize,

    /// The status, such as 304, which has no body
    #[arg(long, default_value = "200")]
    status: StatusCode,

    /// Wait for a request's head without end, as hyper does by itself
    #[arg(long)]
    no_header_timeout: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let has_body = options.status != StatusCode::NOT_MODIFIED;
    let answer = Answer {
        status: options.status,
        kind: has_body.then(|| HeaderValue::from_static("application/json; charset=utf-8")),
        tag: HeaderValue::from_static("\"1234-89abcdef\""),
        body: if has_body { Bytes::from(vec![b'x'; options.bytes]) } else { Bytes::new() },
    };
    let mut http = http1::Builder::new();
    if !options.no_header_timeout {
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen).await?;
        println!("floor on http://{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (http, answer) = (http.clone(), answer.clone());
            tokio::spawn(async move {
                let service = service_fn(|_request| std::future::ready(Ok::<_, Infallible>(answer.respond())));
                // A client may leave when it likes.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    kind: Option<HeaderValue>,
    tag: HeaderValue,
    body: Bytes,
}

impl Answer {
    fn respond(&self) -> Response<Fixed> {
        let mut response = Response::new(Fixed(self.body.clone()));
        *response.status_mut() = self.status;
        if let Some(kind) = &self.kind {
            response.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        response.headers_mut().insert(ETAG, self.tag.clone());
        response
    }
}

/// A body in one piece; empty once it was taken.
struct Fixed(Bytes);

impl Body for Fixed {
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
