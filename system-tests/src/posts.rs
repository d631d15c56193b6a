//! The posts service with a write token, and clients that write to it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{PATIENCE, Process, program};

/// The write token's secret.
pub const SECRET: &str = "posts_of_a_test";

/// Returns the posts service's command, on a free port and with [`SECRET`] as its token.
pub fn service(data: &Path) -> Command {
    let mut command = Command::new(program("posts"));
    command.args(arguments(data, "power"));
    command
}

/// Returns the command's arguments and writes its token file.
pub fn arguments(data: &Path, durability: &str) -> Vec<OsString> {
    let (folder, tokens) = (data.join("posts"), data.join("tokens"));
    let digest = hex::encode(Sha256::digest(SECRET));
    fs::write(&tokens, format!("test {digest}\n")).unwrap();
    let mut arguments: Vec<OsString> = ["--listen", "127.0.0.1:0", "--durability", durability].map(Into::into).into();
    arguments.extend(["--data".into(), folder.into(), "--write-token-file".into(), tokens.into()]);
    arguments
}

/// Starts posts and waits until it listens.
pub fn start(data: &Path) -> (Process, SocketAddr) {
    let mut posts = Process::start(&mut service(data));
    let address = posts.await_line(" on http://").trim().parse().unwrap();
    (posts, address)
}

/// Kills the service with SIGKILL.
pub fn kill(mut posts: Process) {
    posts.signal("KILL");
    posts.wait();
}

/// A client with one connection.
pub struct Client {
    agent: ureq::Agent,
    address: SocketAddr,
    secret: String,
}

/// An answer that a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub tag: String,
    pub location: String,
    pub body: String,
}

impl Client {
    /// Returns a client of `address` with [`SECRET`].
    pub fn new(address: SocketAddr) -> Self {
        Self::with_secret(address, SECRET)
    }

    /// Returns a client of `address` with another secret.
    pub fn with_secret(address: SocketAddr, secret: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true);
        Self { agent: config.timeout_global(Some(PATIENCE)).build().into(), address, secret: secret.to_owned() }
    }

    /// Sends a request; returns the answer if all of it arrives.
    pub fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let own = [("authorization", &*format!("Bearer {}", self.secret)), ("content-type", "application/json")];
        for (name, value) in own.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let (head, body) = self.agent.run(request.body(body.to_owned()).unwrap()).ok()?.into_parts();
        let header = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = body.into_with_config().limit(u64::MAX).read_to_string().ok()?;
        Some(Answer { status: head.status.as_u16(), tag: header("etag"), location: header("location"), body })
    }

    /// Sends a request and panics without an answer.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// Sends `GET path`.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }
}

/// A client and the posts that it wrote.
pub struct Posts {
    pub client: Client,
    pub answered: Vec<Answer>,
}

impl Posts {
    /// Connects to `address`; writes nothing yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { client: Client::new(address), answered: Vec::new() }
    }

    /// Writes one post; the same number repeats the request.
    pub fn post(&self, number: usize) -> Answer {
        self.try_post(number).unwrap_or_else(|| panic!("no answer to post {number}"))
    }

    /// Writes one post; returns `None` without an answer.
    pub fn try_post(&self, number: usize) -> Option<Answer> {
        let body = format!(r#"{{"thread":1,"text":"{number}{}","user":1}}"#, "x".repeat(10_000));
        self.client.try_send("POST", "/api/posts", &[("idempotency-key", &number.to_string())], &body)
    }

    /// Writes `count` posts, or until one is refused; returns the refusal.
    pub fn write(&mut self, count: usize) -> Option<Answer> {
        for _ in 0..count {
            let answer = self.post(self.answered.len());
            if answer.status != 201 {
                return Some(answer);
            }
            self.answered.push(answer);
        }
        None
    }

    /// Checks that every answered post is there.
    pub fn are_all_there(&self) {
        for answer in &self.answered {
            let now = self.client.get(&answer.location);
            assert_eq!((now.status, &now.body, &now.tag), (200, &answer.body, &answer.tag));
        }
    }

    /// Checks that each request, repeated, gets the same answer.
    pub fn replay(&self) {
        for (number, answer) in self.answered.iter().enumerate() {
            assert_eq!(&self.post(number), answer);
        }
    }
}
