//! The URL of one side of the comparison, and its secrets.
//!
//! A printed URL has `…` for its user, password and query values. All other printed text has the known secrets removed,
//! since a server may repeat them.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine};
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

/// The replacement of a secret.
const HIDDEN: &str = "…";

/// The least length of a secret that is removed from texts, in bytes: a shorter one may occur by chance.
const SHORT: usize = 5;

/// The URL before `/api/…`.
pub struct Address {
    scheme: String,
    /// The host in lower case, without brackets.
    host: String,
    port: u16,
    /// The path without a slash at its end.
    path: String,
    /// The query, which is added to each requested path.
    query: Option<String>,
    userinfo: Option<String>,
}

/// An error: a text is not the URL of a server. It does not repeat the text, which may hold a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a URL such as http://127.0.0.1:8080: {0}")]
pub struct NotAnAddress(&'static str);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let text = text.split_once('#').map_or(text, |(before, _)| before);
        let uri: Uri = text.trim().parse().map_err(|_| NotAnAddress("it cannot be parsed"))?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            Some(_) => return Err(NotAnAddress("its scheme is neither http nor https")),
            None => return Err(NotAnAddress("it has no scheme")),
        };
        let authority = uri.authority().ok_or(NotAnAddress("it has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        if host.is_empty() {
            return Err(NotAnAddress("it has no host"));
        }
        let userinfo = authority.as_str().rsplit_once('@').map(|(userinfo, _)| userinfo.to_owned());
        Ok(Self {
            scheme: uri.scheme_str().unwrap_or_default().to_owned(),
            host,
            port: authority.port_u16().unwrap_or(default_port),
            path: uri.path().trim_end_matches('/').to_owned(),
            query: uri.query().map(str::to_owned),
            userinfo,
        })
    }
}

impl Address {
    /// Returns the URL of `path`, which may have its own query. User and password are left out: see
    /// [`credentials`](Self::credentials).
    pub fn url_of(&self, path: &str) -> String {
        let host = self.bracketed_host();
        let mut url = format!("{}://{host}:{}{}{path}", self.scheme, self.port, self.path);
        if let Some(query) = &self.query {
            url.push(if path.contains('?') { '&' } else { '?' });
            url.push_str(query);
        }
        url
    }

    /// Returns the value of `Authorization` for the URL's user and password.
    pub fn credentials(&self) -> Option<String> {
        let decoded: Vec<u8> = percent_decode_str(self.userinfo.as_ref()?).collect();
        Some(format!("Basic {}", BASE64_STANDARD.encode(decoded)))
    }

    /// Returns the parts of the URL that are never printed.
    pub fn secrets(&self) -> Vec<String> {
        let userinfo = self.userinfo.iter().flat_map(|userinfo| userinfo.split(':'));
        let values = self.query.iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split_once('='));
        let raw: Vec<&str> = userinfo.chain(values.map(|(_, value)| value)).collect();
        let decoded = raw.iter().map(|secret| percent_decode_str(secret).decode_utf8_lossy().into_owned());
        decoded.chain(raw.iter().map(|&secret| secret.to_owned())).chain(self.credentials()).collect()
    }

    /// Returns whether both lead to the same server and path, so that comparing them proves nothing.
    ///
    /// Two names on one machine may be two virtual hosts; an IP address and `localhost` are not.
    pub fn is_same_place(&self, other: &Self) -> bool {
        if (self.port, &self.path) != (other.port, &other.path) {
            return false;
        }
        let is_virtual = |host: &str| host != "localhost" && host.parse::<IpAddr>().is_err();
        if self.host == other.host || (is_virtual(&self.host) && is_virtual(&other.host)) {
            return self.host == other.host;
        }
        let [ours, theirs] = [self, other].map(Self::resolve);
        ours.iter().any(|address| theirs.contains(address))
    }

    /// Returns the URL without its secrets, which identifies this side in saved progress.
    pub fn place(&self) -> String {
        format!("{}://{}:{}{}", self.scheme, self.bracketed_host(), self.port, self.path)
    }

    fn resolve(&self) -> Vec<IpAddr> {
        let addresses = (self.host.as_str(), self.port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        addresses.unwrap_or_default().into_iter().map(|address: SocketAddr| normalise_ip(address.ip())).collect()
    }

    fn bracketed_host(&self) -> Cow<'_, str> {
        if self.host.contains(':') { Cow::Owned(format!("[{}]", self.host)) } else { Cow::Borrowed(&self.host) }
    }
}

/// Maps the addresses by which a machine reaches itself to one: servers mostly listen on all of them.
fn normalise_ip(ip: IpAddr) -> IpAddr {
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip == IpAddr::V6(std::net::Ipv6Addr::LOCALHOST) {
        return IpAddr::V4(Ipv4Addr::LOCALHOST);
    }
    ip
}

/// The URL, for people.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.userinfo.is_some() { "…@" } else { "" };
        write!(f, "{}://{user}{}", self.scheme, self.bracketed_host())?;
        if self.port != if self.scheme == "https" { 443 } else { 80 } {
            write!(f, ":{}", self.port)?;
        }
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        write!(f, "{}{}", self.path, redact_query(&query))
    }
}

/// Removes the query's values from a path, or from a URL without a user.
pub fn redact_query(path: &str) -> Cow<'_, str> {
    let Some((path, query)) = path.split_once('?') else { return Cow::Borrowed(path) };
    let redacted: Vec<String> = query
        .split('&')
        .map(|pair| pair.split_once('=').map_or(pair.to_owned(), |(key, _)| format!("{key}={HIDDEN}")))
        .collect();
    Cow::Owned(format!("{path}?{}", redacted.join("&")))
}

/// Removes the user, query values and fragment from a server's URL, such as a `Location`.
pub fn redact_url(url: &str) -> String {
    let url = url.split_once('#').map_or(url, |(before, _)| before);
    let redacted = redact_query(url);
    let Some((scheme, rest)) = redacted.split_once("//") else { return redacted.into_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}//{HIDDEN}@{host}{path}"),
        None => redacted.into_owned(),
    }
}

/// The texts that are never printed.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// Takes these as secrets, except those so short that they may occur in a text by chance.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> = secrets.into_iter().filter(|secret| secret.len() >= SHORT).collect();
        // Longer ones first, since one may be part of another.
        secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self(secrets)
    }

    /// Replaces the secrets in a text.
    pub fn hide<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            if memchr::memmem::find(text.as_bytes(), secret.as_bytes()).is_some() {
                text = Cow::Owned(text.replace(secret.as_str(), HIDDEN));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_same_place_is_recognised_however_it_is_spelled() {
        for (left, right, same) in [
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000/", true),
            ("http://127.0.0.1:3000", "http://localhost:3000", true),
            ("http://LOCALHOST:3000", "http://localhost:3000//", true),
            ("http://[::1]:3000", "http://127.0.0.1:3000", true),
            ("http://[::ffff:127.0.0.1]:3000", "http://127.0.0.1:3000", true),
            ("http://0.0.0.0:3000", "http://127.0.0.1:3000", true),
            ("http://127.0.0.1", "http://127.0.0.1:80", true),
            ("https://Example.com.", "https://example.com:443/", true),
            ("http://a:b@127.0.0.1:3000", "http://127.0.0.1:3000?token=c", true),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3001", false),
            ("http://127.0.0.1:3000/old", "http://127.0.0.1:3000/new", false),
            ("http://127.0.0.1:3000", "http://127.0.0.2:3000", false),
            ("http://old.localhost:3000", "http://new.localhost:3000", false),
        ] {
            assert_eq!(address(left).is_same_place(&address(right)), same, "{left} {right}");
            assert_eq!(address(right).is_same_place(&address(left)), same, "{right} {left}");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let address = address("https://me:s%40cret@example.com:444/base/?token=sesame&k#x");
        assert_eq!(address.to_string(), "https://…@example.com:444/base?token=…&k");
        assert_eq!(address.url_of("/api/users?page=1"), "https://example.com:444/base/api/users?page=1&token=sesame&k");
        assert_eq!(address.credentials().unwrap(), "Basic bWU6c0BjcmV0");
        let secrets = Secrets::new(address.secrets());
        assert_eq!(secrets.hide("s@cret s%40cret sesame bWU6c0BjcmV0 me"), "… … … bWU6c0BjcmV0 me");
        assert_eq!(redact_url("https://me:x@host/a?b=c&d#e"), "https://…@host/a?b=…&d");
        assert_eq!(redact_url("/a?b=c@d"), "/a?b=…");
        for text in ["ftp://me:secret@host", "me:secret@host", "", "http://", "http://a b", "/x"] {
            let error = text.parse::<Address>().err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
