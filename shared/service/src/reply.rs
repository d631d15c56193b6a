//! The answer of an endpoint, and its content types.

use bytes::Bytes;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use crate::problem::Problem;

/// An endpoint's answer.
pub type Answer = Result<Response, Problem>;

pub(crate) fn json<B>(response: hyper::Response<B>) -> hyper::Response<B> {
    with_type(response, "application/json; charset=utf-8")
}

pub(crate) fn text(text: impl Into<Bytes>) -> Answer {
    Ok(with_type(Response::new(text.into().into()), "text/plain; charset=utf-8"))
}

fn with_type<B>(mut response: hyper::Response<B>, content_type: &'static str) -> hyper::Response<B> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // A cache on the way may keep it, and asks with the tag whether it is still current. Without this, some guess.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
