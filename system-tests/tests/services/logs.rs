//! The log of a running service: its formats, what it says of requests, and of settings.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use world::{Process, get, program, sample, split, wait_for};

/// The trace that W3C's text has as its example.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Splits the sample; returns the folder and posts' own.
fn data() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let posts = dir.path().join("posts");
    (dir, posts)
}

/// Starts posts and waits until it listens.
fn start(folder: &Path, change: impl FnOnce(&mut Command)) -> (Process, SocketAddr) {
    let mut command = Command::new(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(folder);
    change(&mut command);
    let mut posts = Process::start(&mut command);
    let rest = posts.await_line("/posts on http://");
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len());
    let address = rest[..end].parse().unwrap();
    wait_for("posts to be ready", || get(address, "/ready").0 == 200);
    (posts, address)
}

/// Sends a GET with more fields; returns once it is answered.
fn ask(address: SocketAddr, target: &[u8], fields: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    let end = format!(" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(&[b"GET ", target, end.as_bytes()].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}

#[test]
fn each_line_is_a_json_object_whatever_a_client_sends() {
    let (_dir, folder) = data();
    let (mut posts, address) = start(&folder, |command| drop(command.args(["--log-format", "json"]).get_args()));
    let targets: [&[u8]; 7] = [
        b"/api/posts/1",
        b"/api/posts/\"quoted\"\\",
        b"/api/posts/1?%22%0a{level:1}",
        "/api/posts/서울".as_bytes(),
        b"/api/posts/%00%ff",
        b"/api/posts?access_token=hidden",
        b"/api/posts/{},[]",
    ];
    for target in targets {
        ask(address, target, "");
    }
    ask(address, b"/api/posts/2", &format!("x-request-id: of-2\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"));
    posts.await_line(TRACE);
    posts.signal("TERM");
    assert!(posts.wait().success());
    let log = posts.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    for line in &lines {
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{line}");
        assert!(line["level"].is_string() && line["target"].is_string(), "{line}");
        assert_eq!(line["message"].is_string(), line["target"] != "access", "{line}");
    }
    let requests: Vec<&Value> = lines.iter().filter(|line| line["target"] == "access").collect();
    assert_eq!(requests.len(), targets.len() + 1, "{log}");
    let paths: BTreeSet<&str> = requests.iter().map(|request| request["path"].as_str().unwrap()).collect();
    let sent = targets.map(|target| str::from_utf8(target).unwrap());
    let sent = sent.map(|target| if target.contains("hidden") { "/api/posts?..." } else { target });
    assert_eq!(paths, BTreeSet::from(sent).into_iter().chain(["/api/posts/2"]).collect());
    for request in &requests {
        assert!(request["ms"].is_f64() && request["bytes"].is_u64() && request["status"].is_u64(), "{request}");
        assert!(request["method"] == "GET" && request["client"].as_str().unwrap().starts_with("127.0.0.1:"));
        let expected = (request["path"] == "/api/posts/2").then(|| ("of-2".into(), TRACE.into()));
        assert_eq!(request.get("id").cloned().zip(request.get("trace").cloned()), expected, "{request}");
    }
}

#[test]
fn a_well_formed_trace_is_in_the_line_of_its_request_and_no_other_is() {
    let (_dir, folder) = data();
    let (posts, address) = start(&folder, |_| {});
    let parent = "00f067aa0ba902b7";
    let good = [
        format!("00-{TRACE}-{parent}-01"),
        format!("00-{TRACE}-{parent}-ff"),
        format!("01-{TRACE}-{parent}-01-of-a-later-version"),
    ];
    let bad = [
        String::new(),
        TRACE.to_owned(),
        format!("00-{TRACE}-{parent}"),
        format!("00-{TRACE}-{parent}-01-more"),
        format!("00-{TRACE}-{parent}-1"),
        format!("ff-{TRACE}-{parent}-01"),
        format!("00-{}-{parent}-01", TRACE.to_uppercase()),
        format!("00-{}-{parent}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE} x-{parent}-01"),
        format!("00-{}-{parent}-01", &TRACE[1..]),
    ];
    for (nth, trace) in good.iter().chain(&bad).enumerate() {
        ask(address, format!("/api/posts/{}", nth + 1).as_bytes(), &format!("traceparent: {trace}\r\n"));
    }
    let count = good.len() + bad.len();
    let requests =
        || posts.log().lines().filter(|line| line.contains("access > ")).map(str::to_owned).collect::<Vec<_>>();
    wait_for("all lines", || requests().len() == count);
    for line in requests() {
        let is_good = (1..=good.len()).any(|id| line.contains(&format!("\"/api/posts/{id}\"")));
        assert_eq!(line.ends_with(&format!(" trace={TRACE}")), is_good, "{line}");
        assert_eq!(line.contains("trace="), is_good, "{line}");
    }
}

#[test]
fn the_first_lines_have_the_settings_and_what_is_misspelt() {
    let (_dir, folder) = data();
    let (posts, _) = start(&folder, |command| {
        command.env("ALLOW_ORIGINS", "https://forum.example").env("drain", "9").env("LISTEN_FDS", "3");
        command.env("SCRUB_EVERY", "0").env("LOG_FORMAT", "kv").args(["--cache", "7"]);
    });
    let log = posts.log();
    let line = log.lines().find(|line| line.contains("settings: ")).unwrap().to_owned() + " ";
    for expected in [
        "--cache=7 ",
        "--scrub-every=0 (SCRUB_EVERY) ",
        "--drain=0 ",
        "--listen=127.0.0.1:0 ",
        "--log-format=kv (LOG_FORMAT)",
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    assert!(line.contains(&format!("--data={}", folder.display())), "{line}");
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("which nothing here reads")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    let is_said = |name: &str, meant: &str| {
        warnings.iter().any(|line| line.ends_with(&format!("{name:?}, which nothing here reads; {meant} is read")))
    };
    assert!(is_said("ALLOW_ORIGINS", "ALLOW_ORIGIN") && is_said("drain", "DRAIN"), "{warnings:?}");
    // Colours only where they are asked for.
    assert!(!log.contains('\u{1b}'));
    drop(posts);
    let (posts, _) = start(&folder, |command| drop(command.env("LOG_FORMAT", "pretty").get_args()));
    assert!(posts.log().contains('\u{1b}'));
}
