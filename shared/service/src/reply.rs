//! The answer of an endpoint, and its content types.

use bytes::Bytes;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
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
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
