//! The answer of an endpoint, and its content types.

use bytes::Bytes;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use crate::problem::Problem;

/// An endpoint's answer.
pub type Answer = Result<Response, Problem>;

pub(crate) fn json(response: Response) -> Response {
    with_type(response, "application/json; charset=utf-8")
}

pub(crate) fn text(text: impl Into<Bytes>) -> Answer {
    Ok(with_type(Response::new(text.into().into()), "text/plain; charset=utf-8"))
}

fn with_type(mut response: Response, content_type: &'static str) -> Response {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
