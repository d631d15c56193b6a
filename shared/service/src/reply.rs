//! The answer of an endpoint, and its content types.

use bytes::Bytes;
use warp::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use warp::reply::Response;

use crate::problem::Problem;

/// The content type of JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// The media type of lines of JSON.
pub(crate) const LINES: &str = "application/x-ndjson";

/// Tells whether the client names lines of JSON, and does not like JSON better.
pub(crate) fn accepts_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut lines, mut json) = (0.0, 0.0);
    for kind in accepted.flat_map(|value| value.split(',')) {
        let mut parts = kind.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
        if kind.eq_ignore_ascii_case(LINES) {
            lines = weight;
        } else if kind.eq_ignore_ascii_case("application/json") {
            json = weight;
        }
    }
    lines > 0.0 && lines >= json
}

/// A list as lines of JSON.
pub(crate) fn lines<B>(response: hyper::Response<B>) -> hyper::Response<B> {
    with_type(vary(response), HeaderValue::from_static(LINES))
}

/// A list as a JSON array.
pub(crate) fn list<B>(response: hyper::Response<B>) -> hyper::Response<B> {
    json(vary(response))
}

/// Says that the answer follows from `Accept`.
pub(crate) fn vary<B>(mut response: hyper::Response<B>) -> hyper::Response<B> {
    const ACCEPT: HeaderValue = HeaderValue::from_static("accept");
    response.headers_mut().insert(VARY, ACCEPT);
    response
}

/// An endpoint's answer.
pub type Answer = Result<Response, Problem>;

pub(crate) fn json<B>(response: hyper::Response<B>) -> hyper::Response<B> {
    with_type(response, JSON)
}

pub(crate) fn text(text: impl Into<Bytes>) -> Answer {
    Ok(with_type(Response::new(text.into().into()), HeaderValue::from_static("text/plain; charset=utf-8")))
}

fn with_type<B>(mut response: hyper::Response<B>, content_type: HeaderValue) -> hyper::Response<B> {
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
