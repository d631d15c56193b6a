//! Errors as the client sees them: RFC 9457 problem documents. Every status but 200 is named here.

use std::borrow::Cow;

use serde::Serialize;
use warp::Rejection;
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reject::MethodNotAllowed;
use warp::reply::Response;

use crate::json::Fault;
use crate::limits::Violation;
use crate::store::StoreError;

/// What a path answers to, for `Allow`.
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD");

/// What a client is told of a cause that is the service's own business.
const FAILED: &str = "The service failed; its log says why.";

/// Why a request gets no record.
pub enum Problem {
    /// The path names an id that is none.
    NotAnId,
    /// The path's percent-encoding is not that of a text.
    NotAText,
    /// The body is not a JSON object that can be taken.
    Malformed(Fault),
    /// The record would not be one that may be written.
    Invalid(Vec<Violation>),
    /// There is no record by that id or name.
    NoSuchRecord,
    /// There is no such path.
    NoSuchPath,
    /// The path does not answer to this method.
    MethodNotAllowed,
    /// The store failed.
    Store(StoreError),
    /// The service is about to end: not an error of this request, but nobody should send more.
    Draining,
    /// The request's handler panicked; the panic hook has logged it.
    Panicked,
    /// A filter rejected the request for a reason no route of ours has.
    Unexpected(Rejection),
}

/// The members of a problem document.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Violation>,
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Problem::Store(error)
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        if rejection.is_not_found() {
            Problem::NoSuchPath
        } else if rejection.find::<MethodNotAllowed>().is_some() {
            Problem::MethodNotAllowed
        } else {
            Problem::Unexpected(rejection)
        }
    }
}

impl Problem {
    /// The response for a request by `method`. A cause is logged; the client gets a fixed text.
    pub fn into_response(self, method: &Method) -> Response {
        let mut errors = Vec::new();
        let (status, detail): (StatusCode, Cow<'static, str>) = match self {
            Problem::NotAnId => (StatusCode::BAD_REQUEST, "An id is an integer from 1 to 9223372036854775807.".into()),
            Problem::NotAText => (StatusCode::BAD_REQUEST, "The name in the path is not percent-encoded UTF-8.".into()),
            Problem::Malformed(Fault { pointer, offset, reason }) => {
                let detail = format!("The body can't be taken: {reason} (byte {offset}, pointer \"{pointer}\").");
                (StatusCode::BAD_REQUEST, detail.into())
            }
            Problem::Invalid(violations) => {
                errors = violations;
                (StatusCode::UNPROCESSABLE_ENTITY, "The record can't be written as it would be; see errors.".into())
            }
            Problem::NoSuchRecord => (StatusCode::NOT_FOUND, "There is no such record.".into()),
            Problem::NoSuchPath => (StatusCode::NOT_FOUND, "There is nothing at this path.".into()),
            // As the monolith's router does.
            Problem::MethodNotAllowed if method == Method::OPTIONS => {
                let mut response = Response::default();
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(ALLOW, ALLOWED);
                return response;
            }
            Problem::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, format!("This path does not answer to {method}.").into())
            }
            Problem::Store(error) => {
                log::error!("the store failed: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, FAILED.into())
            }
            Problem::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "The service is about to end; send requests elsewhere.".into())
            }
            Problem::Panicked => (StatusCode::INTERNAL_SERVER_ERROR, FAILED.into()),
            Problem::Unexpected(rejection) => {
                log::error!("a filter rejected a request: {rejection:?}");
                (StatusCode::INTERNAL_SERVER_ERROR, FAILED.into())
            }
        };
        let body = Document {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: &detail,
            errors,
        };
        let body = serde_json::to_vec(&body).expect("a problem can be written as JSON");
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, ALLOWED);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::FutureExt;
    use hyper::body::Body;

    use super::*;

    /// Status and body.
    fn sent(problem: Problem) -> (u16, String) {
        let response = problem.into_response(&Method::POST);
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).now_or_never();
        let bytes = frame.flatten().unwrap().unwrap().into_data().unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn a_problem_has_errors_only_where_a_record_has_violations() {
        let body = concat!(
            r#"{"type":"about:blank","title":"Not Found","status":404,"#,
            r#""detail":"There is no such record."}"#
        );
        assert_eq!(sent(Problem::NoSuchRecord), (404, body.to_owned()));

        let body = concat!(
            r#"{"type":"about:blank","title":"Unprocessable Entity","status":422,"#,
            r#""detail":"The record can't be written as it would be; see errors.","#,
            r#""errors":[{"pointer":"/title","detail":"must be given"}]}"#
        );
        let violation = Violation { pointer: "/title".to_owned(), detail: "must be given".to_owned() };
        assert_eq!(sent(Problem::Invalid(vec![violation])), (422, body.to_owned()));
    }

    #[test]
    fn a_body_that_cannot_be_read_is_told_where() {
        let fault = crate::edit::read(br#"{"a":{"b":1,"b":2}}"#).unwrap_err();
        let body = concat!(
            r#"{"type":"about:blank","title":"Bad Request","status":400,"#,
            r#""detail":"The body can't be taken: the key is repeated (byte 16, pointer \"/a/b\")."}"#
        );
        assert_eq!(sent(Problem::Malformed(fault)), (400, body.to_owned()));
    }
}
