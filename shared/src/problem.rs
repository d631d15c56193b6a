//! Errors as the client sees them: RFC 9457 problem documents. Every status but 200 is named here.

use std::borrow::Cow;

use serde::Serialize;
use warp::Rejection;
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reject::MethodNotAllowed;
use warp::reply::Response;

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
        let (status, detail): (StatusCode, Cow<'static, str>) = match self {
            Problem::NotAnId => (StatusCode::BAD_REQUEST, "An id is an integer from 1 to 9223372036854775807.".into()),
            Problem::NotAText => (StatusCode::BAD_REQUEST, "The name in the path is not percent-encoded UTF-8.".into()),
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
