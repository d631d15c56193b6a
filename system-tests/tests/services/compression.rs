//! What the entrance does for clients that compress and cache: the coding of answers, their entity tags and `Vary`, and
//! `Cache-Control`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::json;
use world::{PATIENCE, Process, program, sample, split, start_writable, text, try_get, wait_for};

use crate::entrance::{Entrance, Target, writes};

/// An answer as it comes, but for the chunks of its body.
#[derive(Debug)]
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Returns all values of a field, with commas between them.
    fn field(&self, name: &str) -> String {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        values.collect::<Vec<_>>().join(", ")
    }

    fn decoded(&self) -> String {
        let mut decoded = String::new();
        GzDecoder::new(&*self.body).read_to_string(&mut decoded).unwrap();
        decoded
    }
}

fn ask(address: SocketAddr, request: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}{length}\r\n");
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut answer = Answer { head: text(&bytes[..end]), body: bytes.split_off(end) };
    if answer.field("transfer-encoding") == "chunked" {
        let mut rest = &*answer.body;
        let mut body = Vec::new();
        while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(&text(&rest[..line]), 16).unwrap();
            body.extend(&rest[line + 2..line + 2 + size]);
            rest = &rest[line + 4 + size..];
        }
        answer.body = body;
    }
    answer
}

const GZIP: (&str, &str) = ("accept-encoding", "gzip, deflate, br");

/// Posts, writable, behind the entrance.
struct World {
    _folder: tempfile::TempDir,
    _posts: Process,
    entrance: Entrance,
    authorization: String,
}

impl World {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        split(&sample(), folder.path());
        let (posts, address, secret) = start_writable(&mut Command::new(program("posts")), "posts", folder.path(), &[]);
        let entrance = Entrance::start(&[("POSTS", &address.to_string())])?;
        wait_for("posts", || try_get(entrance.address, "/api/posts/1").is_some_and(|got| got.0 == 200));
        Some(Self { _folder: folder, _posts: posts, entrance, authorization: format!("Bearer {secret}") })
    }

    fn ask(&self, request: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let of_writes = [("authorization", &*self.authorization), ("content-type", "application/json")];
        let fields = [fields, if body.is_empty() { &[] } else { &of_writes }].concat();
        ask(self.entrance.address, request, &fields, body)
    }
}

/// A browser compresses always. If the tags that it gets were of no use, it could not write safely.
#[test]
fn the_tag_of_a_compressed_record_spares_a_read_and_guards_a_write() {
    let Some(world) = World::start() else { return };
    let long = json!({ "thread": 1, "user": 1, "text": "word ".repeat(1000) }).to_string();
    let path = world.ask("POST /api/posts", &[], &long).field("location");
    let get = format!("GET {path}");

    let plain = world.ask(&get, &[], "");
    assert_eq!((&*plain.field("content-encoding"), &*plain.field("vary")), ("", "Accept-Encoding"));
    let packed = world.ask(&get, &[GZIP], "");
    assert_eq!((&*packed.field("content-encoding"), &*packed.field("vary")), ("gzip", "Accept-Encoding"));
    assert_eq!(packed.decoded(), text(&plain.body));
    assert!(packed.body.len() < plain.body.len() / 10, "{} {}", packed.body.len(), plain.body.len());

    // Two codings are two representations: one strong tag may not stand for both.
    let (strong, weak) = (plain.field("etag"), packed.field("etag"));
    assert!(strong.starts_with('"') && weak == format!("W/{strong}"), "{strong} {weak}");
    for tag in [&strong, &weak] {
        let known = world.ask(&get, &[GZIP, ("if-none-match", tag)], "");
        assert_eq!((known.status(), known.field("etag")), (304, tag.clone()), "{known:?}");
    }

    let patch = format!("PATCH {path}");
    let written = world.ask(&patch, &[("if-match", &weak)], r#"{"text":"short"}"#);
    assert_eq!(written.status(), 200, "{written:?}");
    let late = world.ask(&patch, &[("if-match", &weak)], r#"{"text":"other"}"#);
    assert_eq!(late.status(), 412, "{late:?}");
    let current = world.ask(&get, &[GZIP], "").field("etag");
    let several = format!("\"x\", W/\"y\", W/{}", current.trim_start_matches("W/"));
    assert_eq!(world.ask(&patch, &[("if-match", &several)], r#"{"text":"other"}"#).status(), 200);
    assert_eq!(world.ask(&get, &[("if-none-match", &current)], "").status(), 200);
}

#[test]
fn only_what_a_client_takes_is_compressed() {
    let Some(world) = World::start() else { return };
    for (accepted, is_packed) in [
        ("gzip", true),
        ("br;q=1.0, gzip;q=0.5", true),
        ("identity", false),
        ("gzip;q=0", false),
        ("deflate", false),
        ("br, zstd", false),
    ] {
        let list = world.ask("GET /api/posts", &[("accept-encoding", accepted)], "");
        assert_eq!(
            (list.status(), list.field("content-encoding") == "gzip"),
            (200, is_packed),
            "{accepted}: {}",
            list.head
        );
        assert_eq!(list.field("vary"), "accept, Accept-Encoding", "{accepted}");
    }
    let head = world.ask("HEAD /api/posts", &[GZIP], "");
    assert_eq!((&*head.field("content-encoding"), &*head.field("vary")), ("", "accept, Accept-Encoding"));
    // The tag of a list is the service's own weak one: it guards nothing, compressed or not.
    let tag = world.ask("GET /api/posts", &[GZIP], "").field("etag");
    assert_eq!(world.ask("GET /api/posts", &[("if-none-match", &tag)], "").status(), 304);
    assert_eq!(world.ask("GET /api/posts", &[("if-match", &tag)], "").status(), 412);
}

#[test]
fn a_read_is_kept_only_to_be_asked_for_again_and_an_error_not_at_all() {
    let Some(world) = World::start() else { return };
    for (request, expected) in [
        ("GET /api/posts/1", "no-cache"),
        ("GET /api/posts", "no-cache"),
        ("GET /", "no-cache"),
        ("GET /api/posts/999999", "no-store"),
        ("GET /api/posts/x", "no-store"),
        ("GET /nowhere", "no-store"),
        ("GET /api/users", "no-store"),
    ] {
        let answer = world.ask(request, &[], "");
        assert_eq!(answer.field("cache-control"), expected, "{request}: {answer:?}");
    }
    let authorization = [("authorization", &*world.authorization), GZIP];
    let backup = ask(world.entrance.address, "GET /api/posts/-/backup", &authorization, "");
    assert_eq!((backup.status(), &*backup.field("cache-control")), (200, "no-store"));
    assert_eq!(backup.field("content-encoding"), "");
}

/// A compressed event would wait for others.
#[test]
fn streams_and_what_a_service_says_of_caches_pass_unchanged() {
    const EVENTS: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\r\nid: 1\n\n";
    const LINES: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncache-control: max-age=5\r\n\r\n{}\n";
    for (sent, control) in [(EVENTS, "no-store"), (LINES, "max-age=5")] {
        let target = Target::start(writes(sent));
        let Some(entrance) = Entrance::before(&target, &[]) else { return };
        let got = ask(entrance.address, "GET /api/posts/changes", &[GZIP], "");
        let (_, body) = sent.split_once("\r\n\r\n").unwrap();
        assert_eq!((text(&got.body), got.field("content-encoding")), (body.to_owned(), String::new()));
        assert_eq!((&*got.field("cache-control"), &*got.field("vary")), (control, ""));
    }
}

#[test]
fn compression_can_be_turned_off() {
    let packs = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"1\"\r\ncontent-length: 4\r\n\r\n[12]";
    let target = Target::start(writes(packs));
    let Some(entrance) = Entrance::before(&target, &[("COMPRESSION", "off")]) else { return };
    let got = ask(entrance.address, "GET /api/posts", &[GZIP, ("if-match", "W/\"1\"")], "");
    assert_eq!((&*got.field("etag"), &*got.field("content-encoding"), &*got.field("vary")), ("\"1\"", "", ""));
    assert_eq!(target.seen()[0].values("if-match"), ["W/\"1\""]);
}
