//! Errors as the client sees them: RFC 9457 problem documents. This file names every error status.

use std::borrow::Cow;
use std::mem::take;

use record::json::Fault;
use record::limits::{BATCH_RECORDS, Violation};
use record::model::Collection;
use serde::Serialize;
use store::{CommitError, NotInHistory, StoreError};
use warp::Rejection;
use warp::http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use warp::http::{Method, StatusCode};
use warp::reject::MethodNotAllowed;
use warp::reply::Response;

use crate::jwt;

/// The methods of a path that is only read, for `Allow`.
pub(crate) const READS: &str = "GET, HEAD";

/// The media types of patches (RFC 5789).
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// The seconds after which to ask again, for `Retry-After`.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("5");

/// The reason why a request fails.
pub enum Problem {
    /// The id in the path is invalid.
    NotAnId,
    /// The path is not percent-encoded UTF-8.
    NotAText,
    /// The request does not name one host.
    NotAHost,
    /// A parameter of the query is unknown here or has no meaning. The text says which, and what there is.
    Parameter(String),
    /// The body is not a well-formed JSON object, or would lose something.
    Malformed(Fault),
    /// The record breaks its model or a limit.
    Invalid(Vec<Violation>),
    /// No record has that id or name.
    NoSuchRecord,
    /// The path does not exist.
    NoSuchPath,
    /// The path does not answer this method. The field lists those it answers, for `Allow`.
    MethodNotAllowed(&'static str),
    /// This service has no tokens, so it is read-only.
    ReadOnly(Collection),
    /// The request to write has no token, or an unknown one.
    Unauthorized {
        /// The collection whose token is required.
        realm: Collection,
        /// What is wrong.
        unknown: Unknown,
    },
    /// The user's token lacks a scope.
    NoScope {
        /// The collection that the scope is for.
        realm: Collection,
        /// What it allows.
        scope: &'static str,
    },
    /// The record is another user's.
    NotOwner {
        /// The collection.
        realm: Collection,
        /// The line of the record in a body with several, from 1.
        line: Option<usize>,
    },
    /// The store failed.
    Store(StoreError),
    /// `If-Match` or `If-None-Match` does not hold.
    ConditionFailed,
    /// The body's media type is not accepted here.
    MediaType,
    /// The body has a content coding.
    Encoded,
    /// A PUT has only a part of the record.
    PartOfRecord,
    /// The body is longer than this many bytes.
    BodyTooLarge(usize),
    /// The body has too many records.
    BatchTooLong,
    /// The answer to a body with many records is too long to be kept for a repeated request.
    AnswerTooLong,
    /// The body ended too early.
    BodyBroken,
    /// The body did not arrive in time.
    BodySlow,
    /// The idempotency key is invalid.
    NotAKey,
    /// Another request has used the idempotency key.
    KeyReused,
    /// Another record has that value in a unique field.
    Taken {
        /// The word for one such record.
        singular: Cow<'static, str>,
        /// The field.
        field: &'static str,
        /// The line of the record in a body with several, from 1.
        line: Option<usize>,
    },
    /// The service has never given that id, so PUT does not create it.
    IdNotGiven,
    /// All ids are used up.
    NoIdsLeft,
    /// The queue of writes is full.
    Busy,
    /// A newer monolith file is about to change the record.
    Held,
    /// The limit of lists under way is reached.
    ListsBusy,
    /// The limit of those who follow the changes is reached.
    ListenersBusy,
    /// The history of changes does not reach back to the place that the request names.
    NotInHistory(NotInHistory),
    /// The place that the request names belongs to another database.
    OtherHistory,
    /// The limit of concurrent backups is reached.
    BackupsBusy,
    /// A scrub is under way.
    ScrubBusy,
    /// The broker of a replicated service takes no writes now. Nothing was written.
    BrokerAway,
    /// The replicas change over to another declaration. Nothing was written.
    ChangingOver,
    /// It is not known whether a write got into the stream of a replicated service.
    FateUnknown,
    /// The request's `Read-After` is not a message's number.
    NotASequence,
    /// This replica has not applied the message of the request's `Read-After` in time.
    Behind,
    /// This replica applies what the others have written meanwhile.
    CatchingUp,
    /// This replica no longer follows its stream.
    Apart,
    /// The file system is read-only.
    DiskReadOnly,
    /// A write has failed; the service takes no writes until it is restarted.
    WritesFailed,
    /// The database is being filled, loaded or opened. The text says what, and how far it is.
    Loading(String),
    /// Indexes that are new in the declaration are being built.
    Building,
    /// The service is about to end. The request is not at fault, but clients should send no more.
    Draining,
    /// The request's handler panicked; the panic hook logs it.
    Panicked,
    /// A filter rejected the request for a reason that our routes do not have.
    Unexpected(Rejection),
}

/// The reason why it is not known who asks.
#[derive(Clone, Copy, Debug)]
pub enum Unknown {
    /// There is no token.
    Nobody,
    /// There is not exactly one token, or it is none of this service's.
    Token,
    /// The JSON Web Token is not accepted. The text says why.
    Jwt(&'static str),
}

/// A kind of problem, as the reference shows it.
pub(crate) struct Kind {
    /// Its name, by which refusals are counted.
    pub(crate) reason: &'static str,
    pub(crate) status: StatusCode,
    /// What a client can do.
    pub(crate) advice: &'static str,
}

/// Names the kinds of problems, in this order: each has its reason, its status and advice for clients.
macro_rules! kinds {
    ($($problem:pat => $reason:literal, $status:ident, $advice:literal;)*) => {
        /// All kinds.
        pub(crate) const KINDS: [Kind; [$($reason),*].len()] =
            [$(Kind { reason: $reason, status: StatusCode::$status, advice: $advice }),*];

        impl Problem {
            /// Returns the name of its kind.
            pub(crate) fn reason(&self) -> &'static str {
                match self {
                    $($problem => $reason,)*
                }
            }

            fn status(&self) -> StatusCode {
                match self {
                    $($problem => StatusCode::$status,)*
                }
            }
        }
    };
}

kinds! {
    Problem::NotAnId => "not-an-id", BAD_REQUEST, "Correct the id in the path.";
    Problem::NotAText => "not-a-text", BAD_REQUEST, "Percent-encode the path as UTF-8.";
    Problem::NotAHost => "not-a-host", BAD_REQUEST, "Send one Host field with one host.";
    Problem::Parameter(_) => "parameter", BAD_REQUEST, "Use the parameters that `detail` lists, with values as it says.";
    Problem::Malformed(_) => "malformed", BAD_REQUEST, "Correct the body where `detail` says.";
    Problem::Invalid(_) => "invalid", UNPROCESSABLE_ENTITY, "Correct each field that `errors` points to.";
    Problem::NoSuchRecord => "no-such-record", NOT_FOUND, "There is none, or no longer: ask for another, or create it.";
    Problem::NoSuchPath => "no-such-path", NOT_FOUND, "Look the path up in the OpenAPI document.";
    Problem::MethodNotAllowed(_) => "method-not-allowed", METHOD_NOT_ALLOWED, "Use a method of the header `Allow`.";
    Problem::ReadOnly(_) => "read-only", FORBIDDEN, "The operator has to allow writes.";
    Problem::Unauthorized { .. } => "unauthorized", UNAUTHORIZED, "Send a token of this service that has not expired.";
    Problem::NoScope { .. } => "no-scope", FORBIDDEN, "Ask the identity provider for a token with the scope that `WWW-Authenticate` names.";
    Problem::NotOwner { .. } => "not-owner", FORBIDDEN, "Leave it to the owner, or send a token of an admin.";
    Problem::Store(_) => "store-failed", INTERNAL_SERVER_ERROR, "Tell the operator, whose log has the cause.";
    Problem::ConditionFailed => "condition-failed", PRECONDITION_FAILED, "Read the record again, merge your change into it, and send it with its new tag.";
    Problem::MediaType => "media-type", UNSUPPORTED_MEDIA_TYPE, "Send `Content-Type` as `detail` says.";
    Problem::Encoded => "encoded", UNSUPPORTED_MEDIA_TYPE, "Send the body as it is, without compression.";
    Problem::PartOfRecord => "part-of-record", BAD_REQUEST, "Send the whole record, or use PATCH.";
    Problem::BodyTooLarge(_) => "body-too-large", PAYLOAD_TOO_LARGE, "Send less at once.";
    Problem::BatchTooLong => "batch-too-long", PAYLOAD_TOO_LARGE, "Send fewer lines at once.";
    Problem::AnswerTooLong => "answer-too-long", PAYLOAD_TOO_LARGE, "Send fewer lines at once, or without an `Idempotency-Key`.";
    Problem::BodyBroken => "body-broken", BAD_REQUEST, "Send the request again.";
    Problem::BodySlow => "body-slow", REQUEST_TIMEOUT, "Send the request again, faster or with less.";
    Problem::NotAKey => "not-a-key", BAD_REQUEST, "Send one key of visible characters.";
    Problem::KeyReused => "key-reused", UNPROCESSABLE_ENTITY, "Use a new key for each new request.";
    Problem::Taken { .. } => "taken", CONFLICT, "Choose another value.";
    Problem::IdNotGiven => "id-not-given", UNPROCESSABLE_ENTITY, "Create records with POST; PUT only creates deleted ones again.";
    Problem::NoIdsLeft => "no-ids-left", INSUFFICIENT_STORAGE, "Tell the operator.";
    Problem::Busy => "busy", SERVICE_UNAVAILABLE, "Try again after `Retry-After`; a POST with an `Idempotency-Key`.";
    Problem::Held => "held", SERVICE_UNAVAILABLE, "Try again.";
    Problem::ListsBusy => "lists-busy", SERVICE_UNAVAILABLE, "Try again after `Retry-After`, or read pages.";
    Problem::ListenersBusy => "listeners-busy", SERVICE_UNAVAILABLE, "Try again after `Retry-After`.";
    Problem::NotInHistory(_) => "not-in-history", GONE, "Follow the changes from now on, then read the list anew.";
    Problem::OtherHistory => "other-history", GONE, "Follow the changes from now on, then read the list anew.";
    Problem::BackupsBusy => "backups-busy", SERVICE_UNAVAILABLE, "Try again when another backup is done.";
    Problem::ScrubBusy => "scrub-busy", SERVICE_UNAVAILABLE, "Wait for the scrub that is under way.";
    Problem::BrokerAway => "broker-away", SERVICE_UNAVAILABLE, "Nothing was written. Try again after `Retry-After`; reads go on.";
    Problem::ChangingOver => "changing-over", SERVICE_UNAVAILABLE, "Nothing was written. Try again after `Retry-After`; reads go on.";
    Problem::FateUnknown => "fate-unknown", GATEWAY_TIMEOUT, "Read whether the write has succeeded, or repeat a POST with its `Idempotency-Key`.";
    Problem::NotASequence => "not-a-sequence", BAD_REQUEST, "Send the number that a write's answer had as `Sequence`.";
    Problem::Behind => "behind", SERVICE_UNAVAILABLE, "Try again after `Retry-After`: another replica may have it.";
    Problem::CatchingUp => "catching-up", SERVICE_UNAVAILABLE, "Try again; other replicas answer.";
    Problem::Apart => "apart", SERVICE_UNAVAILABLE, "Try again; other replicas answer. The operator has to look at this one.";
    Problem::DiskReadOnly => "disk-read-only", SERVICE_UNAVAILABLE, "The operator has to start the service on a writable file system.";
    Problem::WritesFailed => "writes-failed", SERVICE_UNAVAILABLE, "Read whether the write has succeeded, then try again.";
    Problem::Loading(_) => "loading", SERVICE_UNAVAILABLE, "Try again after `Retry-After`; other replicas answer.";
    Problem::Building => "building", SERVICE_UNAVAILABLE, "Try again after `Retry-After`.";
    Problem::Draining => "draining", SERVICE_UNAVAILABLE, "Try again; another process takes over.";
    Problem::Panicked => "panicked", INTERNAL_SERVER_ERROR, "Tell the operator, whose log has the cause.";
    Problem::Unexpected(_) => "unexpected", INTERNAL_SERVER_ERROR, "Tell the operator, whose log has the cause.";
}

/// Returns the path of the page that explains problems.
pub(crate) fn page_of(collection: Collection) -> String {
    format!("/api/{}/-/problems", collection.name())
}

/// The reason why a request was refused. It lies in the extensions of the response.
#[derive(Clone, Copy)]
pub(crate) struct Refused(pub(crate) &'static str);

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

impl<'a> Document<'a> {
    fn new(kind: &'a str, status: StatusCode, detail: &'a str, errors: Vec<Violation>) -> Self {
        Self { kind, title: title_of(status), status: status.as_u16(), detail, errors }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Problem::Store(error)
    }
}

impl From<NotInHistory> for Problem {
    fn from(gone: NotInHistory) -> Self {
        Problem::NotInHistory(gone)
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Busy => Problem::Busy,
            CommitError::Held => Problem::Held,
            CommitError::Panicked => Problem::Panicked,
            // The committer logs the reason.
            CommitError::Failed(_) | CommitError::Damaged(_) | CommitError::Broken => Problem::WritesFailed,
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
    /// Makes the response of a collection's service for a request with `method`. Logs the cause; the client gets a fixed text.
    pub fn into_response(mut self, collection: Collection, method: &Method) -> Response {
        self.log();
        let status = self.status();
        let mut response = match &self {
            // The monolith's router answers the same.
            Problem::MethodNotAllowed(_) if method == Method::OPTIONS => {
                let mut response = Response::default();
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            _ => {
                let errors = if let Problem::Invalid(violations) = &mut self { take(violations) } else { Vec::new() };
                let mut response = respond(&self.kind(collection), status, &self.detail(method), errors);
                response.extensions_mut().insert(Refused(self.reason()));
                response
            }
        };
        let headers = response.headers_mut();
        let takes_patches = match self {
            Problem::MethodNotAllowed(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
                allowed.contains("PATCH")
            }
            Problem::Encoded => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                false
            }
            _ => matches!(self, Problem::MediaType) && method == Method::PATCH,
        };
        if takes_patches {
            headers.insert(ACCEPT_PATCH, HeaderValue::from_static("application/merge-patch+json, application/json"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, ASK_AGAIN);
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// Adds the line of the record in a body with several, from 1.
    pub(crate) fn at_line(self, number: usize) -> Self {
        match self {
            Problem::Taken { singular, field, .. } => Problem::Taken { singular, field, line: Some(number) },
            Problem::NotOwner { realm, .. } => Problem::NotOwner { realm, line: Some(number) },
            other => other,
        }
    }

    /// Returns the document that a client gets, as an example.
    pub(crate) fn example(&self, collection: Collection) -> serde_json::Value {
        let errors = if let Problem::Invalid(violations) = self { violations.clone() } else { Vec::new() };
        let detail = self.detail(&Method::TRACE);
        let document = serde_json::to_value(Document::new(&self.kind(collection), self.status(), &detail, errors));
        document.expect("a problem can be written as JSON")
    }

    /// Returns the URI of its kind, which leads to its part of the page of problems.
    fn kind(&self, collection: Collection) -> String {
        format!("{}#{}", page_of(collection), self.reason())
    }

    fn log(&self) {
        match self {
            Problem::Store(error) => log::error!("the store failed: {error}"),
            Problem::NoIdsLeft => log::error!("there are no ids left to give"),
            Problem::Unexpected(rejection) => log::error!("a filter rejected a request: {rejection:?}"),
            _ => {}
        }
    }

    /// Returns the text for the client.
    pub(crate) fn detail(&self, method: &Method) -> Cow<'static, str> {
        let text = match self {
            Problem::NotInHistory(NotInHistory { oldest }) => {
                return format!(
                    "The history of changes begins after revision {oldest}. Follow from now on, then read the list anew."
                )
                .into();
            }
            Problem::Malformed(Fault { pointer, offset, reason }) => {
                return format!("The body can't be taken: {reason} (byte {offset}, pointer \"{pointer}\").").into();
            }
            Problem::Parameter(text) | Problem::Loading(text) => return text.clone().into(),
            Problem::MethodNotAllowed(_) => return format!("This path does not answer to {method}.").into(),
            Problem::ReadOnly(collection) => {
                return format!(
                    "This service is read-only. To allow writes, start it with --write-token-file FILE; \
                     `seed token {}` makes a token and its file.",
                    collection.name()
                )
                .into();
            }
            Problem::Unauthorized { unknown: Unknown::Jwt(why), .. } => return format!("The token: {why}.").into(),
            Problem::Unauthorized { realm, unknown } => {
                let what = if let Unknown::Nobody = unknown { "Writing needs a token" } else { "The token is not one" };
                let how = "send it once, as `Authorization: Bearer`.";
                return format!("{what} of the service {}; {how}", realm.name()).into();
            }
            Problem::NoScope { realm, scope } => {
                return format!("The token lacks the scope {}.", jwt::scope(*realm, scope)).into();
            }
            Problem::NotOwner { realm, line } => {
                let line = line.map_or(String::new(), |line| format!(" (line {line})"));
                let (owner, admin) =
                    (realm.declaration().owner.as_deref().unwrap_or("id"), jwt::scope(*realm, jwt::ADMIN));
                return format!(
                    "Users write only what is theirs, by `{owner}`, before and after{line}; the scope {admin} allows all."
                )
                .into();
            }
            Problem::BodyTooLarge(most) => return format!("A body has at most {most} bytes.").into(),
            Problem::BatchTooLong => return format!("A body has at most {BATCH_RECORDS} records.").into(),
            Problem::Taken { singular, field, line } => {
                let line = line.map_or(String::new(), |line| format!(" (line {line})"));
                return format!("Another {singular} has this {field}{line}.").into();
            }
            Problem::NotAnId => "An id in this path is an integer from 1 to 9223372036854775807.",
            Problem::NotAText => "The name in the path is not percent-encoded UTF-8.",
            Problem::NotAHost => "A request names one host, in one Host field.",
            Problem::Invalid(_) => "The record is not valid; see errors.",
            Problem::NoSuchRecord => "There is no such record.",
            Problem::NoSuchPath => "There is nothing at this path.",
            Problem::ConditionFailed => "The record does not meet the request's condition.",
            Problem::MediaType => {
                "Send application/json; a patch may be application/merge-patch+json too, and new records application/x-ndjson."
            }
            Problem::Encoded => "Send the body without a Content-Encoding.",
            Problem::PartOfRecord => "PUT takes the whole record, without Content-Range; PATCH takes a part.",
            Problem::BodyBroken => "The body ended too early.",
            Problem::BodySlow => "The body did not arrive in time.",
            Problem::AnswerTooLong => {
                "The answer is too long to be kept for an Idempotency-Key; send fewer records at once, or no key."
            }
            Problem::NotAKey => "An Idempotency-Key is one text of 1 to 255 visible characters.",
            Problem::KeyReused => "This Idempotency-Key belongs to a request with another body.",
            Problem::IdNotGiven => "The service gives integer ids, and has not given this one; use POST to get one.",
            Problem::NoIdsLeft => "There are no ids left.",
            Problem::Busy => "Too many writes wait; try again later.",
            Problem::Held => "A newer monolith file is about to change this record; try again.",
            Problem::ListsBusy => "Too many lists are being sent; try again later.",
            Problem::ListenersBusy => "Too many clients follow the changes; try again later.",
            Problem::OtherHistory => {
                "This place is not one of this database, which was made anew. Follow from now on, then read the list anew."
            }
            Problem::BackupsBusy => "Too many backups are being read; try again later.",
            Problem::ScrubBusy => "A scrub is under way; the log will show its result.",
            Problem::BrokerAway => "The service cannot write now, since its broker takes nothing; reads go on.",
            Problem::ChangingOver => {
                "The service changes over to another version and takes no writes for a moment; reads go on."
            }
            Problem::FateUnknown => {
                "The broker did not answer in time. The write may have succeeded, or still succeed for a moment."
            }
            Problem::NotASequence => "Read-After is one number, as a write's answer has it as Sequence.",
            Problem::Behind => "This replica has not applied that write yet.",
            Problem::CatchingUp => "This replica applies what the others have written meanwhile.",
            Problem::Apart => "This replica no longer follows the others; its log says why.",
            Problem::DiskReadOnly => {
                "The service's file system is read-only, so it takes no writes. Start it on a writable file system."
            }
            Problem::WritesFailed => {
                "The service cannot write now; reads go on. A write that was under way may have succeeded."
            }
            Problem::Building => "Indexes that are new in the declaration are being built; the log shows the progress.",
            Problem::Draining => "The service is about to end; send requests elsewhere.",
            Problem::Store(_) | Problem::Panicked | Problem::Unexpected(_) => "The service failed; its log says why.",
        };
        text.into()
    }

    /// Returns the challenge of a token that is unknown or allows too little (RFC 6750).
    fn challenge(&self) -> Option<HeaderValue> {
        let (realm, error) = match self {
            Problem::Unauthorized { realm, unknown: Unknown::Nobody } => (realm, String::new()),
            Problem::Unauthorized { realm, .. } => (realm, r#", error="invalid_token""#.to_owned()),
            Problem::NoScope { realm, scope } => {
                (realm, format!(r#", error="insufficient_scope", scope="{}""#, jwt::scope(*realm, scope)))
            }
            _ => return None,
        };
        let challenge = format!(r#"Bearer realm="{}"{error}"#, realm.name());
        Some(challenge.try_into().expect("a collection's name can be sent"))
    }
}

/// Returns the words for a status.
pub(crate) fn title_of(status: StatusCode) -> &'static str {
    match status {
        // Its name of today (RFC 9110), as the entrance says it.
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        _ => status.canonical_reason().unwrap_or_default(),
    }
}

fn respond(kind: &str, status: StatusCode, detail: &str, errors: Vec<Violation>) -> Response {
    let document = Document::new(kind, status, detail, errors);
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
    use record::sample;

    use super::*;

    /// Returns the status and the body of the response.
    fn sent(problem: Problem) -> (u16, String) {
        let response = problem.into_response(sample::posts(), &Method::POST);
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).now_or_never();
        let bytes = frame.flatten().unwrap().unwrap().into_data().unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn a_problem_has_errors_only_where_a_record_has_violations() {
        let body = concat!(
            r#"{"type":"/api/posts/-/problems#no-such-record","title":"Not Found","status":404,"#,
            r#""detail":"There is no such record."}"#
        );
        assert_eq!(sent(Problem::NoSuchRecord), (404, body.to_owned()));

        let body = concat!(
            r#"{"type":"/api/posts/-/problems#invalid","title":"Unprocessable Entity","status":422,"#,
            r#""detail":"The record is not valid; see errors.","#,
            r#""errors":[{"pointer":"/title","detail":"must be given"}]}"#
        );
        let violation = Violation { pointer: "/title".to_owned(), detail: "must be given".to_owned() };
        assert_eq!(sent(Problem::Invalid(vec![violation])), (422, body.to_owned()));
    }

    #[test]
    fn a_malformed_body_is_refused_with_its_place() {
        let fault = record::edit::read(br#"{"a":{"b":1,"b":2}}"#).unwrap_err();
        let body = concat!(
            r#"{"type":"/api/posts/-/problems#malformed","title":"Bad Request","status":400,"#,
            r#""detail":"The body can't be taken: the key is repeated (byte 16, pointer \"/a/b\")."}"#
        );
        assert_eq!(sent(Problem::Malformed(fault)), (400, body.to_owned()));
    }
}
