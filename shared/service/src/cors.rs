//! Pages of other origins: browsers let them read answers that allow it (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! Nothing is allowed unless the operator names origins. An answer never allows cookies, of which the API has none.

use std::sync::Arc;

use warp::http::Method;
use warp::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};

/// The headers that a page may send, beside those that need no permission.
const SENT: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, read-after",
);

/// The headers that a page may read, beside those that need no permission.
const READ: HeaderValue =
    HeaderValue::from_static("allow, deprecation, etag, link, location, retry-after, sequence, sunset, x-total-count");

/// The seconds for which a browser may remember a permission.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// An origin as a browser sends it, or `*` for every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl std::str::FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
        let is_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:[]".contains(&byte);
        if text == "*" || !host.is_empty() && host.bytes().all(is_host) {
            return HeaderValue::from_str(text).map(Self).map_err(|error| error.to_string());
        }
        Err("an origin is https://host or http://host:port in lower case, without a path; * is every one".to_owned())
    }
}

/// The origins whose pages may use the API. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Cors(Arc<[Origin]>);

/// What an answer says about its request's origin.
pub(crate) struct Permission {
    origin: Option<HeaderValue>,
    /// Whether other origins get another answer.
    varies: bool,
    asks_before: bool,
}

impl Cors {
    /// Returns `None` without origins.
    pub(crate) fn new(origins: &[Origin]) -> Option<Self> {
        (!origins.is_empty()).then(|| Self(origins.into()))
    }

    /// Decides about a request.
    pub(crate) fn decide(&self, method: &Method, headers: &HeaderMap) -> Permission {
        let any = self.0.iter().find(|origin| origin.0 == "*");
        let asking = headers.get(ORIGIN);
        let origin = any.or_else(|| self.0.iter().find(|origin| Some(&origin.0) == asking));
        Permission {
            origin: origin.filter(|_| asking.is_some()).map(|origin| origin.0.clone()),
            varies: any.is_none(),
            asks_before: *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD),
        }
    }
}

impl Permission {
    /// Tells whether a browser asks what its page may send, before that.
    pub(crate) fn asks_before(&self) -> bool {
        self.asks_before
    }

    /// Adds it to an answer's headers.
    pub(crate) fn add_to(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = self.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.asks_before {
            if let Some(methods) = headers.get(ALLOW).cloned() {
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
            }
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, SENT);
            headers.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        } else {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, READ);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for text in ["*", "https://forum.example", "http://localhost:5173", "http://[::1]:80", "https://a-b.c"] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in [
            "",
            "null",
            "forum.example",
            "https://",
            "https://a/",
            "https://a/b",
            "https://A",
            "ftp://a",
            "https://a b",
            "https://*",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
