//! An HTTP client with limits on the size, duration and rate of answers.
//!
//! [`FailureKind`] tells faults apart: a body that ends too early differs from one that never ends. This module decodes
//! gzip itself, because the library would hide whether the body was gzip at all.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use ureq::config::Config;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use ureq::http::uri::Authority;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::address::{Address, Secrets, redact_url};

/// The number of times that a request without an answer is sent again.
pub const RETRIES: u32 = 2;

/// The pause before a request is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The time for which a host's addresses are used before it is looked up again.
const RESOLVED_FOR: Duration = Duration::from_secs(10);

/// The size of a read from a connection, in bytes.
const BUFFER: usize = 32 << 10;

/// The greatest part of an unused body that is read so that its connection can be reused, in bytes.
const DRAINED: u64 = 64 << 10;

/// The limits on answers and requests.
#[derive(Clone, Copy)]
pub struct Limits {
    /// The time from the connection to the body's last byte.
    pub time: Duration,
    /// The size of a decoded body, in bytes.
    pub bytes: u64,
    /// The interval between two requests to one side.
    pub interval: Option<Duration>,
    /// The number of requests at once, each on its own connection.
    pub at_once: usize,
}

/// The reason why there is no answer to compare.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// The message for people.
    pub text: String,
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// There was no answer.
    NoAnswer,
    /// The answer took too long.
    TimedOut,
    /// The body ended too early.
    Truncated,
    /// The body went on for too long.
    TooLong,
    /// The body is not encoded as its header says, or not in a way that the client accepts.
    ContentEncoding,
    /// The body begins as JSON but is malformed.
    Malformed,
    /// A record needs memory that only one answer at a time may have.
    NeedsRoom,
}

impl Failure {
    /// Makes a failure with a message for people.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Returns whether many of these failures in a row mean that a server is in trouble.
    pub fn is_trouble(&self) -> bool {
        use FailureKind::{NoAnswer, TimedOut, TooLong, Truncated};
        matches!(self.kind, NoAnswer | TimedOut | TooLong | Truncated)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// One of the two sides.
pub struct Endpoint {
    /// The name in messages: "the monolith" or "the services".
    pub name: &'static str,
    /// The URL.
    pub address: Address,
    headers: HeaderMap,
    agent: ureq::Agent,
    limits: Limits,
    /// The earliest time of the next request.
    turn: Mutex<Instant>,
}

impl Endpoint {
    /// Makes the side at `address`, which also gets these headers.
    pub fn new(name: &'static str, address: Address, headers: HeaderMap, agent: ureq::Agent, limits: Limits) -> Self {
        let mut all = HeaderMap::new();
        all.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(Ok(mut credentials)) = address.credentials().map(HeaderValue::try_from) {
            credentials.set_sensitive(true);
            all.insert(AUTHORIZATION, credentials);
        }
        // Given headers, which may repeat a name, replace the client's own headers of that name.
        for name in headers.keys() {
            all.remove(name);
        }
        for (name, value) in &headers {
            all.append(name, value.clone());
        }
        Self { name, address, headers: all, agent, limits, turn: Mutex::new(Instant::now()) }
    }

    /// Asks for `path`. Sends a request without an answer again, up to [`RETRIES`] times.
    ///
    /// # Errors
    /// There is no answer.
    pub fn get(&self, path: &str) -> Result<Reply, Failure> {
        let mut tries_left = RETRIES;
        loop {
            self.wait_for_turn();
            match self.try_get(path) {
                Err(failure) if failure.kind == FailureKind::NoAnswer && tries_left > 0 => {
                    tries_left -= 1;
                    thread::sleep(RETRY_PAUSE);
                }
                reply => return reply,
            }
        }
    }

    fn try_get(&self, path: &str) -> Result<Reply, Failure> {
        let mut request = Request::get(self.address.url_of(path));
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.headers);
        }
        let request =
            request.body(()).map_err(|_| self.failed(FailureKind::Malformed, "the path does not fit into a URL"))?;
        let response = self.agent.run(request).map_err(|error| self.explain(&error))?;
        let (head, body) = response.into_parts();
        // A repeated header counts as all its values together.
        let header = |name: HeaderName| {
            let values = head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            values.collect::<Vec<_>>().join(", ")
        };
        let encoding = header(CONTENT_ENCODING).trim().to_ascii_lowercase();
        let announced = header(CONTENT_LENGTH).parse().ok();
        let raw = body.into_with_config().limit(u64::MAX).reader();
        let inner: Box<dyn Read + Send> = match encoding.as_str() {
            "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(raw)),
            _ => Box::new(raw),
        };
        let location = header(LOCATION);
        Ok(Reply {
            status: head.status.as_u16(),
            content_type: header(CONTENT_TYPE),
            location: (!location.is_empty()).then(|| redact_url(&location)),
            body: Body { side: self.name, inner, bytes: 0, limit: self.limits, announced, encoding },
        })
    }

    /// Waits until the rate limit allows another request, across all threads.
    fn wait_for_turn(&self) {
        let Some(interval) = self.limits.interval else { return };
        let now = Instant::now();
        let at = {
            let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let at = now.max(*turn);
            *turn = at + interval;
            at
        };
        thread::sleep(at.duration_since(now));
    }

    fn failed(&self, kind: FailureKind, why: &str) -> Failure {
        Failure::new(kind, format!("no answer from {} at {}: {why}", self.name, self.address))
    }

    /// Explains an error of the library, without repeating the URL.
    fn explain(&self, error: &ureq::Error) -> Failure {
        match error {
            error if is_timeout(error) => {
                self.failed(FailureKind::TimedOut, &format!("none within {} s", self.limits.time.as_secs_f64()))
            }
            ureq::Error::Io(error) => self.failed(FailureKind::NoAnswer, &error.to_string()),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                self.failed(FailureKind::Malformed, "the path does not fit into a URL")
            }
            ureq::Error::HostNotFound => self.failed(FailureKind::NoAnswer, "no such host"),
            error => self.failed(FailureKind::NoAnswer, &error.to_string()),
        }
    }
}

fn is_timeout(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => error.kind() == ErrorKind::TimedOut,
        _ => false,
    }
}

/// An answer.
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The value of `Content-Type`; empty without one.
    pub content_type: String,
    /// The target of a redirect, without its secrets.
    pub location: Option<String>,
    /// The body, decoded.
    pub body: Body,
}

/// A body that is still arriving.
pub struct Body {
    side: &'static str,
    inner: Box<dyn Read + Send>,
    /// The number of decoded bytes read so far.
    bytes: u64,
    limit: Limits,
    /// The value of `Content-Length`.
    announced: Option<u64>,
    encoding: String,
}

impl Body {
    /// Returns the encoding; empty if the body is not encoded.
    pub fn encoding(&self) -> &str {
        if self.encoding == "identity" { "" } else { &self.encoding }
    }

    /// Returns the name of the side, for messages.
    pub fn side(&self) -> &'static str {
        self.side
    }

    /// Returns the number of decoded bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the next bytes; returns 0 at the body's end.
    ///
    /// # Errors
    /// The body is cut, too long or too slow, or not encoded as it says.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        if !matches!(self.encoding(), "" | "gzip" | "x-gzip") {
            let text =
                format!("the body from {} is encoded as {:?}, which was not asked for", self.side, self.encoding);
            return Err(Failure::new(FailureKind::ContentEncoding, text));
        }
        let read = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let read = read.map_err(|error| self.explain(error))?;
        self.bytes += read as u64;
        if self.bytes > self.limit.bytes {
            let (side, limit) = (self.side, self.limit.bytes);
            let text = format!("the body from {side} is longer than {limit} bytes; --max-answer allows more");
            return Err(Failure::new(FailureKind::TooLong, text));
        }
        Ok(read)
    }

    /// Reads and discards a short body, so that its connection can be reused.
    pub fn drain(mut self) {
        let mut buffer = [0; 8 << 10];
        while self.bytes < DRAINED && self.read_some(&mut buffer).is_ok_and(|read| read > 0) {}
    }

    fn explain(&self, error: io::Error) -> Failure {
        let side = self.side;
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        if error.kind() == ErrorKind::TimedOut || inner.is_some_and(is_timeout) {
            let (seconds, bytes) = (self.limit.time.as_secs_f64(), self.bytes);
            let text = format!("the body from {side} did not end within {seconds} s; {bytes} bytes came");
            return Failure::new(FailureKind::TimedOut, text);
        }
        if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) && !self.encoding.is_empty() {
            let text = format!("the body from {side} is not {}, as its header says: {error}", self.encoding);
            return Failure::new(FailureKind::ContentEncoding, text);
        }
        let of = self.announced.filter(|_| self.encoding().is_empty());
        let of = of.map(|length| format!(" of {length}")).unwrap_or_default();
        let text = format!("the body from {side} is truncated: it ends after {}{of} bytes ({error})", self.bytes);
        Failure::new(FailureKind::Truncated, text)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(io::Error::other)
    }
}

/// Makes a client with these limits; `ca` has certificates to trust instead of the system's.
///
/// # Errors
/// The file cannot be read, or has no certificate.
pub fn agent(limits: Limits, ca: Option<&Path>) -> Result<ureq::Agent, String> {
    let roots = match ca {
        None => RootCerts::PlatformVerifier,
        Some(file) => RootCerts::from(certificates(file)?),
    };
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(limits.time));
    let config = config.max_redirects(0).user_agent(concat!("seed/", env!("CARGO_PKG_VERSION")));
    let config = config.max_idle_connections(2 * limits.at_once).max_idle_connections_per_host(limits.at_once);
    // Each connection keeps both buffers for its lifetime.
    let config = config.input_buffer_size(BUFFER).output_buffer_size(BUFFER / 4);
    let config = config.tls_config(TlsConfig::builder().root_certs(roots).build()).build();
    Ok(ureq::Agent::with_parts(config, DefaultConnector::new(), RememberingResolver::default()))
}

/// A resolver that looks a host up once in a while. The library's own does so for each request, even on an open
/// connection, and starts a thread each time, which costs more than the request.
#[derive(Debug, Default)]
struct RememberingResolver {
    resolver: DefaultResolver,
    known: Mutex<HashMap<Authority, (Instant, Vec<SocketAddr>)>>,
}

impl Resolver for RememberingResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(host) = uri.authority() else { return self.resolver.resolve(uri, config, timeout) };
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, addresses)) = lock().get(host)
            && since.elapsed() < RESOLVED_FOR
        {
            let mut known = self.empty();
            addresses.iter().for_each(|address| known.push(*address));
            return Ok(known);
        }
        let addresses = self.resolver.resolve(uri, config, timeout)?;
        lock().insert(host.clone(), (Instant::now(), addresses.to_vec()));
        Ok(addresses)
    }
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let unusable = |why: &str| format!("{}: {why}", file.display());
    let pem = fs::read(file).map_err(|error| unusable(&error.to_string()))?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(unusable(&error.to_string())),
        }
    }
    if certificates.is_empty() { Err(unusable("the file has no PEM certificate")) } else { Ok(certificates) }
}

/// Reads headers of the command line: `Name: value`, or `@FILE` with one on each line.
///
/// # Errors
/// A header is invalid. The message has no header values, which may be secrets.
pub fn read_headers(given: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for given in given {
        let lines = match given.strip_prefix('@') {
            Some(file) => fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?,
            None => given.clone(),
        };
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let invalid = || "write a header as `Name: value`, or as `@FILE` with one on each line".to_owned();
            let (name, value) = line.split_once(':').ok_or_else(invalid)?;
            let name: HeaderName = name.trim().parse().map_err(|_| invalid())?;
            let mut value = HeaderValue::from_str(value.trim()).map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// Returns the secrets in headers: each value, and the part after its scheme, as in `Bearer …`.
pub fn secrets_of(headers: &HeaderMap) -> Vec<String> {
    let values = headers.values().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| [Some(value), value.rsplit_once(' ').map(|(_, secret)| secret)])
        .flatten()
        .map(str::to_owned)
        .collect()
}

/// Both sides and their secrets.
pub struct Sides {
    /// The monolith.
    pub monolith: Endpoint,
    /// The services.
    pub services: Endpoint,
    /// The secrets of both.
    pub secrets: Secrets,
}
