//! HTTP as a careful client: so much of an answer and no more, for so long and no longer, and no faster than told.
//!
//! What is wrong with an answer is told apart by [`FailureKind`]: a body that ends too early is another thing than one
//! that never ends. gzip is decoded here and not by the library, which would hide whether it was gzip at all.

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

/// How often a request that got no answer at all is sent again.
pub const RETRIES: u32 = 2;

/// How long to wait before that.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// For how long a host's addresses are used before it is looked up again.
const RESOLVED_FOR: Duration = Duration::from_secs(10);

/// How much is read from a connection at a time, in bytes.
const BUFFER: usize = 32 << 10;

/// How much of a body that nobody looks at is read, so that its connection can be used again, in bytes.
const DRAINED: u64 = 64 << 10;

/// How long and how much an answer may be, and how often one is asked for.
#[derive(Clone, Copy)]
pub struct Limits {
    /// From the connection to the body's last byte.
    pub time: Duration,
    /// Of a body, decoded, in bytes.
    pub bytes: u64,
    /// Between two requests to one side.
    pub interval: Option<Duration>,
    /// Requests at once, each on a connection of its own.
    pub at_once: usize,
}

/// Why there is no answer to compare.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// For people.
    pub text: String,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Nothing came.
    NoAnswer,
    /// It took too long.
    TimedOut,
    /// The body ended too early.
    Truncated,
    /// The body went on for too long.
    TooLong,
    /// The body is not encoded as its header says, or in a way that was not asked for.
    ContentEncoding,
    /// The body is not the JSON that it begins as.
    Malformed,
    /// A record needs the room that only one answer at a time may have.
    NeedsRoom,
}

impl Failure {
    /// A failure for people to read.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Whether many of these in a row mean that a server is in trouble.
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
    /// "the monolith", "the services".
    pub name: &'static str,
    /// Where it is.
    pub address: Address,
    headers: HeaderMap,
    agent: ureq::Agent,
    limits: Limits,
    /// When the next request may be sent.
    turn: Mutex<Instant>,
}

impl Endpoint {
    /// The side at `address`, which is sent these headers too.
    pub fn new(name: &'static str, address: Address, headers: HeaderMap, agent: ureq::Agent, limits: Limits) -> Self {
        let mut all = HeaderMap::new();
        all.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(Ok(mut credentials)) = address.credentials().map(HeaderValue::try_from) {
            credentials.set_sensitive(true);
            all.insert(AUTHORIZATION, credentials);
        }
        // A name may be given more than once; together they replace what is sent by itself.
        for name in headers.keys() {
            all.remove(name);
        }
        for (name, value) in &headers {
            all.append(name, value.clone());
        }
        Self { name, address, headers: all, agent, limits, turn: Mutex::new(Instant::now()) }
    }

    /// Asks for `path`. What got no answer at all is asked for again, [`RETRIES`] times.
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
        let request = request.body(()).map_err(|_| self.failed(FailureKind::Malformed, "the path fits in no URL"))?;
        let response = self.agent.run(request).map_err(|error| self.explain(&error))?;
        let (head, body) = response.into_parts();
        // A header that is there twice is another one than either.
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

    /// Lets so many requests a second pass, whoever sends them.
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

    /// An error of the library, of which some repeat the URL.
    fn explain(&self, error: &ureq::Error) -> Failure {
        match error {
            error if is_timeout(error) => {
                self.failed(FailureKind::TimedOut, &format!("none within {} s", self.limits.time.as_secs_f64()))
            }
            ureq::Error::Io(error) => self.failed(FailureKind::NoAnswer, &error.to_string()),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                self.failed(FailureKind::Malformed, "the path fits in no URL")
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

/// What came back.
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The value of `Content-Type`; empty without one.
    pub content_type: String,
    /// Where a redirect leads, without its secrets.
    pub location: Option<String>,
    /// The body, decoded.
    pub body: Body,
}

/// A body as it comes in.
pub struct Body {
    side: &'static str,
    inner: Box<dyn Read + Send>,
    /// How many were read, decoded.
    bytes: u64,
    limit: Limits,
    /// What `Content-Length` says.
    announced: Option<u64>,
    encoding: String,
}

impl Body {
    /// How it is encoded; empty if it is not.
    pub fn encoding(&self) -> &str {
        if self.encoding == "identity" { "" } else { &self.encoding }
    }

    /// Whose body it is, for messages.
    pub fn side(&self) -> &'static str {
        self.side
    }

    /// How many bytes were read, decoded.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what comes next; 0 at the body's end.
    ///
    /// # Errors
    /// The body is cut, too long or too slow, or not encoded as it says.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        if !matches!(self.encoding(), "" | "gzip" | "x-gzip") {
            let text = format!("{} encode the body as {:?}, which was not asked for", self.side, self.encoding);
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

    /// Reads a body that nobody looks at, if it is short.
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
            let text = format!("{side} say that the body is {}, and it is not: {error}", self.encoding);
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

/// A client with these limits; `ca` has certificates to trust instead of the system's.
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
    // Each connection has both buffers for as long as it lives.
    let config = config.input_buffer_size(BUFFER).output_buffer_size(BUFFER / 4);
    let config = config.tls_config(TlsConfig::builder().root_certs(roots).build()).build();
    Ok(ureq::Agent::with_parts(config, DefaultConnector::new(), RememberingResolver::default()))
}

/// Looks a host up once in a while. The library's own does it for each request, even on a connection that is open, and
/// begins a thread each time, which costs more than the request.
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
    if certificates.is_empty() { Err(unusable("it has no certificate in PEM")) } else { Ok(certificates) }
}

/// Reads headers as they are given on a command line: `Name: value`, or `@FILE` with one in each line.
///
/// # Errors
/// One is not a header. The message has no value of any: they may be secrets.
pub fn read_headers(given: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for given in given {
        let lines = match given.strip_prefix('@') {
            Some(file) => fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?,
            None => given.clone(),
        };
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let invalid = || "a header is `Name: value`, or `@FILE` with one in each line".to_owned();
            let (name, value) = line.split_once(':').ok_or_else(invalid)?;
            let name: HeaderName = name.trim().parse().map_err(|_| invalid())?;
            let mut value = HeaderValue::from_str(value.trim()).map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// What of the headers is never printed: each value, and what follows its scheme, as in `Bearer …`.
pub fn secrets_of(headers: &HeaderMap) -> Vec<String> {
    let values = headers.values().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| [Some(value), value.rsplit_once(' ').map(|(_, secret)| secret)])
        .flatten()
        .map(str::to_owned)
        .collect()
}

/// What both sides are, and what must not be printed of them.
pub struct Sides {
    /// The monolith.
    pub monolith: Endpoint,
    /// The services.
    pub services: Endpoint,
    /// The secrets of both.
    pub secrets: Secrets,
}
