//! Errors as the client sees them: RFC 9457 problem documents. Every status but 200 is named here.

use std::borrow::Cow;

use serde::Serialize;
use warp::Rejection;
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use warp::http::{Method, StatusCode};
use warp::reject::MethodNotAllowed;
use warp::reply::Response;

use crate::model::Collection;
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
    /// This service has no tokens, so nobody may write.
    ReadOnly(Collection),
    /// Whoever asks to write shows no token, or none that is known.
    Unauthorized {
        /// Whose tokens are wanted.
        realm: Collection,
        /// Whether a token was shown.
        given: bool,
    },
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
        let challenge = self.challenge();
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
            Problem::ReadOnly(collection) => (
                StatusCode::FORBIDDEN,
                format!(
                    "This service is read-only. To let it be written to, start it with --write-token-file FILE; \
                     `seed token {}` makes a token and its file.",
                    collection.name()
                )
                .into(),
            ),
            Problem::Unauthorized { realm, given } => {
                let what = if given { "The token is not one" } else { "Writing takes a token" };
                let how = "it is sent as `Authorization: Bearer`, once.";
                (StatusCode::UNAUTHORIZED, format!("{what} of the service {}; {how}", realm.name()).into())
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
        if let Some(challenge) = challenge {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// What a 401 asks for (RFC 6750).
    fn challenge(&self) -> Option<HeaderValue> {
        let Problem::Unauthorized { realm, given } = self else { return None };
        let error = if *given { r#", error="invalid_token""# } else { "" };
        let challenge = format!(r#"Bearer realm="{}"{error}"#, realm.name());
        Some(challenge.try_into().expect("a collection's name can be sent"))
    }
}
