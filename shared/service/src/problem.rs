//! Errors as the client sees them: RFC 9457 problem documents. Every status but 200 is named here.

use std::borrow::Cow;
use std::mem::take;

use record::json::Fault;
use record::limits::{BODY_BYTES, Violation};
use record::model::Collection;
use serde::Serialize;
use store::{CommitError, StoreError};
use warp::Rejection;
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{Method, StatusCode};
use warp::reject::MethodNotAllowed;
use warp::reply::Response;

/// What a path answers to that is only read.
pub(crate) const READS: &str = "GET, HEAD";

/// When to ask again, in seconds, for `Retry-After`.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("5");

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
    /// The path does not answer to this method, but to these, as `Allow` has them.
    MethodNotAllowed(&'static str),
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
    /// There is no such entity tag, or there is one.
    ConditionFailed,
    /// The body is of another kind than is taken here.
    MediaType,
    /// The body is longer than is taken.
    BodyTooLarge,
    /// The body ended too early.
    BodyBroken,
    /// The body took too long to come.
    BodySlow,
    /// An idempotency key that is none.
    NotAKey,
    /// An idempotency key that another request had.
    KeyReused,
    /// Another record has that value in a field that tells records apart.
    Taken {
        /// What such a record is called.
        singular: Cow<'static, str>,
        /// The field.
        field: &'static str,
    },
    /// No record ever had that id, so none is put there.
    IdNotGiven,
    /// There are no ids left to give.
    NoIdsLeft,
    /// There is no room for another write just now.
    Busy,
    /// A newer file of the monolith's is about to change the record.
    Held,
    /// As many backups as may be are being read.
    BackupsBusy,
    /// A scrub is under way.
    ScrubBusy,
    /// The file system can only be read.
    DiskReadOnly,
    /// Writes have failed: there are none until the service is started anew.
    WritesFailed,
    /// Indexes that are new in the declaration are being built.
    Building,
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

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Busy => Problem::Busy,
            CommitError::Held => Problem::Held,
            CommitError::Panicked => Problem::Panicked,
            // The committer has logged why.
            CommitError::Failed(_) | CommitError::Broken => Problem::WritesFailed,
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        if rejection.is_not_found() {
            Problem::NoSuchPath
        } else if rejection.find::<MethodNotAllowed>().is_some() {
            Problem::MethodNotAllowed(READS)
        } else {
            Problem::Unexpected(rejection)
        }
    }
}

impl Problem {
    /// The response for a request by `method`. A cause is logged; the client gets a fixed text.
    pub fn into_response(mut self, method: &Method) -> Response {
        self.log();
        let status = self.status();
        let mut response = match &self {
            // As the monolith's router does.
            Problem::MethodNotAllowed(_) if method == Method::OPTIONS => {
                let mut response = Response::default();
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            _ => {
                let errors = if let Problem::Invalid(violations) = &mut self { take(violations) } else { Vec::new() };
                document(status, &self.detail(method), errors)
            }
        };
        let headers = response.headers_mut();
        if let Problem::MethodNotAllowed(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, ASK_AGAIN);
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    fn log(&self) {
        match self {
            Problem::Store(error) => log::error!("the store failed: {error}"),
            Problem::NoIdsLeft => log::error!("there are no ids left to give"),
            Problem::Unexpected(rejection) => log::error!("a filter rejected a request: {rejection:?}"),
            _ => {}
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Problem::NotAnId | Problem::NotAText | Problem::Malformed(_) | Problem::BodyBroken | Problem::NotAKey => {
                StatusCode::BAD_REQUEST
            }
            Problem::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Problem::ReadOnly(_) => StatusCode::FORBIDDEN,
            Problem::NoSuchRecord | Problem::NoSuchPath => StatusCode::NOT_FOUND,
            Problem::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Problem::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Problem::Taken { .. } => StatusCode::CONFLICT,
            Problem::ConditionFailed => StatusCode::PRECONDITION_FAILED,
            Problem::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Problem::Invalid(_) | Problem::KeyReused | Problem::IdNotGiven => StatusCode::UNPROCESSABLE_ENTITY,
            Problem::Store(_) | Problem::Panicked | Problem::Unexpected(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Problem::Busy
            | Problem::Held
            | Problem::BackupsBusy
            | Problem::ScrubBusy
            | Problem::DiskReadOnly
            | Problem::WritesFailed
            | Problem::Building
            | Problem::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Problem::NoIdsLeft => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// What the client is told.
    fn detail(&self, method: &Method) -> Cow<'static, str> {
        let text = match self {
            Problem::Malformed(Fault { pointer, offset, reason }) => {
                return format!("The body can't be taken: {reason} (byte {offset}, pointer \"{pointer}\").").into();
            }
            Problem::MethodNotAllowed(_) => return format!("This path does not answer to {method}.").into(),
            Problem::ReadOnly(collection) => {
                return format!(
                    "This service is read-only. To let it be written to, start it with --write-token-file FILE; \
                     `seed token {}` makes a token and its file.",
                    collection.name()
                )
                .into();
            }
            Problem::Unauthorized { realm, given } => {
                let what = if *given { "The token is not one" } else { "Writing takes a token" };
                let how = "it is sent as `Authorization: Bearer`, once.";
                return format!("{what} of the service {}; {how}", realm.name()).into();
            }
            Problem::BodyTooLarge => return format!("A body has at most {BODY_BYTES} bytes.").into(),
            Problem::Taken { singular, field } => return format!("Another {singular} has this {field}.").into(),
            Problem::NotAnId => "An id is an integer from 1 to 9223372036854775807.",
            Problem::NotAText => "The name in the path is not percent-encoded UTF-8.",
            Problem::Invalid(_) => "The record can't be written as it would be; see errors.",
            Problem::NoSuchRecord => "There is no such record.",
            Problem::NoSuchPath => "There is nothing at this path.",
            Problem::ConditionFailed => "The record is not as the request's condition says.",
            Problem::MediaType => "A body is application/json, a patch application/merge-patch+json as well.",
            Problem::BodyBroken => "The body ended too early.",
            Problem::BodySlow => "The body did not arrive in time.",
            Problem::NotAKey => "An Idempotency-Key is one text of 1 to 255 visible characters.",
            Problem::KeyReused => "This Idempotency-Key belongs to a request with another body.",
            Problem::IdNotGiven => "Ids are given by the service, and it has not given this one; POST gives one.",
            Problem::NoIdsLeft => "There are no ids left.",
            Problem::Busy => "Too many writes wait; try again later.",
            Problem::Held => "A newer file of the monolith's is about to change this record; try again.",
            Problem::BackupsBusy => "Enough backups are being read; try again later.",
            Problem::ScrubBusy => "A scrub is under way; its end is in the log.",
            Problem::DiskReadOnly => {
                "The service's file system can only be read, so the service only reads, until it is started on one that \
                 can be written to."
            }
            Problem::WritesFailed => {
                "The service cannot write now; reads go on. A write that was under way may have been made all the same."
            }
            Problem::Building => {
                "Indexes that are new in the declaration are being built; the log says how far that is."
            }
            Problem::Draining => "The service is about to end; send requests elsewhere.",
            Problem::Store(_) | Problem::Panicked | Problem::Unexpected(_) => "The service failed; its log says why.",
        };
        text.into()
    }

    /// What a 401 asks for (RFC 6750).
    fn challenge(&self) -> Option<HeaderValue> {
        let Problem::Unauthorized { realm, given } = self else { return None };
        let error = if *given { r#", error="invalid_token""# } else { "" };
        let challenge = format!(r#"Bearer realm="{}"{error}"#, realm.name());
        Some(challenge.try_into().expect("a collection's name can be sent"))
    }
}

fn document(status: StatusCode, detail: &str, errors: Vec<Violation>) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let document = Document { kind: "about:blank", title, status: status.as_u16(), detail, errors };
    let body = serde_json::to_vec(&document).expect("a problem can be written as JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
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
        let fault = record::edit::read(br#"{"a":{"b":1,"b":2}}"#).unwrap_err();
        let body = concat!(
            r#"{"type":"about:blank","title":"Bad Request","status":400,"#,
            r#""detail":"The body can't be taken: the key is repeated (byte 16, pointer \"/a/b\")."}"#
        );
        assert_eq!(sent(Problem::Malformed(fault)), (400, body.to_owned()));
    }
}
