//! The answer of an endpoint, and its content types.

use bytes::Bytes;
use warp::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use warp::reply::Response;

use crate::problem::Problem;

/// The media type of lines of JSON.
pub(crate) const LINES: &str = "application/x-ndjson";

/// Tells whether the client accepts lines of JSON.
pub(crate) fn accepts_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).filter_map(|kind| kind.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case(LINES))
}

/// A list as lines of JSON.
pub(crate) fn lines<B>(response: hyper::Response<B>) -> hyper::Response<B> {
    with_type(vary(response), LINES)
}

/// A list as a JSON array.
pub(crate) fn list<B>(response: hyper::Response<B>) -> hyper::Response<B> {
    json(vary(response))
}

fn vary<B>(mut response: hyper::Response<B>) -> hyper::Response<B> {
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// An endpoint's answer.
pub type Answer = Result<Response, Problem>;

pub(crate) fn json<B>(response: hyper::Response<B>) -> hyper::Response<B> {
    with_type(response, "application/json; charset=utf-8")
}

pub(crate) fn text(text: impl Into<Bytes>) -> Answer {
    Ok(with_type(Response::new(text.into().into()), "text/plain; charset=utf-8"))
}

fn with_type<B>(mut response: hyper::Response<B>, content_type: &'static str) -> hyper::Response<B> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
