//! Tests of those who follow the changes: nothing is missing, nothing comes twice, and nobody is in the way of others.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use record::sample;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use service::connection::{CONNECTIONS, LISTENERS};
use service::testing::{App, bearer};

const POST: &str = r#"{"id":1,"thread":1,"text":"first","user":1}"#;

fn spawn() -> App {
    App::spawn_writable(sample::posts(), [POST])
}

/// A client that follows the changes as lines of JSON.
struct Listener {
    lines: BufReader<TcpStream>,
    status: String,
    place: String,
}

impl Listener {
    /// Connects; `after` is the place that it knows.
    fn connect(app: &App, after: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(app.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let known = after.map_or(String::new(), |place| format!("last-event-id: {place}\r\n"));
        let head = "host: a\r\naccept: application/x-ndjson\r\n";
        stream.write_all(format!("GET /api/posts/changes HTTP/1.1\r\n{head}{known}\r\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut status = String::new();
        lines.read_line(&mut status).unwrap();
        let mut head = String::new();
        while head != "\r\n" {
            head.clear();
            lines.read_line(&mut head).unwrap();
        }
        let mut listener = Self { lines, status, place: String::new() };
        if listener.status.contains("200") {
            assert_eq!(listener.next().unwrap()["event"], "place");
        }
        listener
    }

    /// Returns the next event, or `None` at the end of the answer.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) => return None,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
                // The sizes of chunks lie between.
                Ok(_) if !line.starts_with('{') => {}
                Ok(_) => {
                    let event: Value = serde_json::from_str(&line).unwrap();
                    self.place = event["place"].as_str().unwrap().to_owned();
                    return Some(event);
                }
            }
        }
    }
}

fn post(app: &App, text: &str) -> (u64, u64) {
    let body = json!({"thread": 1, "text": text, "user": 1}).to_string();
    let answer = app.send(
        "POST",
        "/api/posts",
        &[("authorization", &bearer(sample::posts())), ("content-type", "application/json")],
        &body,
    );
    assert_eq!(answer.status, 201, "{}", answer.body);
    let record: Value = serde_json::from_str(&answer.body).unwrap();
    (record["id"].as_u64().unwrap(), revision(answer.header("etag")))
}

fn change(app: &App, method: &str, id: u64, body: &str) -> u64 {
    let token = bearer(sample::posts());
    let headers = [("authorization", &*token), ("content-type", "application/json")];
    let answer = app.send(method, &format!("/api/posts/{id}"), &headers, body);
    assert!(matches!(answer.status, 200 | 204), "{}", answer.body);
    if answer.status == 204 { 0 } else { revision(answer.header("etag")) }
}

fn revision(tag: &str) -> u64 {
    tag[1..].split('-').next().unwrap().parse().unwrap()
}

#[test]
fn each_change_is_sent_with_its_place_and_a_client_that_comes_back_goes_on_from_there() {
    let app = spawn();
    let mut listener = Listener::connect(&app, None);
    let begun = listener.place.clone();
    let (id, created) = post(&app, "한\u{2028}글");
    let changed = change(&app, "PATCH", id, r#"{"text":"two\nlines"}"#);
    change(&app, "DELETE", id, "");
    let expected = |mut event: Value| {
        let place = event.as_object_mut().unwrap().remove("place").unwrap();
        (place.as_str().unwrap().split('-').next().unwrap().to_owned(), event)
    };
    let record = |text: &str| json!({"id": id, "thread": 1, "text": text, "user": 1});
    let wanted = [
        (created, json!({"event": "put", "id": id, "revision": created, "record": record("한\u{2028}글")})),
        (changed, json!({"event": "put", "id": id, "revision": changed, "record": record("two\nlines")})),
        (changed + 1, json!({"event": "delete", "id": id, "revision": changed + 1})),
    ];
    for (revision, event) in &wanted {
        assert_eq!(expected(listener.next().unwrap()), (revision.to_string(), event.clone()));
    }
    drop(listener);
    for (nth, place) in [begun.clone(), begun.split('-').next().unwrap().to_owned()].iter().enumerate() {
        let mut again = Listener::connect(&app, Some(place));
        for (revision, event) in &wanted {
            assert_eq!(expected(again.next().unwrap()), (revision.to_string(), event.clone()), "{nth}");
        }
    }
    let last = format!("{}{}", changed + 1, &begun[begun.find('-').unwrap()..]);
    let mut again = Listener::connect(&app, Some(&last));
    let (_, next) = post(&app, "next");
    assert_eq!(expected(again.next().unwrap()).0, next.to_string(), "nothing twice");
}

#[test]
fn browsers_get_server_sent_events() {
    let mut app = spawn();
    let (_, revision) = post(&app, "<b>");
    let reader = thread::scope(|scope| {
        let address = app.address;
        let reader = scope.spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let get = format!("GET /api/posts/changes?after={} HTTP/1.1\r\nhost: a\r\n\r\n", revision - 1);
            stream.write_all(get.as_bytes()).unwrap();
            let (mut text, mut lines) = (String::new(), BufReader::new(stream));
            while lines.read_line(&mut text).unwrap() > 0 {
                if text.ends_with("\n\r\n0\r\n\r\n") || text.contains("event: put") && text.ends_with("}\n") {
                    break;
                }
            }
            (text, lines)
        });
        reader.join().unwrap()
    });
    let (text, mut lines) = reader;
    let head = text.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
    for field in ["200 ok", "content-type: text/event-stream", "cache-control: no-store", "connection: close"] {
        assert!(head.contains(field), "{head}");
    }
    let data =
        format!(r#"data: {{"id":2,"revision":{revision},"record":{{"id":2,"text":"<b>","thread":1,"user":1}}}}"#);
    assert!(text.contains(&format!("event: put\nid: {revision}-")) && text.contains(&data), "{text}");
    // The service does not wait for those who listen.
    app.shut_down();
    let mut rest = String::new();
    while lines.read_line(&mut rest).unwrap() > 0 {}
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
}

#[test]
fn a_place_that_is_none_or_gone_is_refused() {
    let app = spawn();
    let (_, revision) = post(&app, "x");
    let place = Listener::connect(&app, None).place;
    let gone = |after: &str| Listener::connect(&app, Some(after)).status;
    for place in ["", "x", "-1", "1-", "1-xyz", "01", "1-0123456789", "18446744073709551616", "+1"] {
        assert!(gone(place).contains("400"), "{place:?} {}", gone(place));
    }
    // What was never there, what the history no longer has, and what belongs to another database.
    let other = format!("{revision}-{:08x}", u32::from_str_radix(&place[place.len() - 8..], 16).unwrap() ^ 1);
    for place in [(revision + 1).to_string(), "0".to_owned(), other] {
        assert!(gone(&place).contains("410"), "{place}");
    }
    let text = "t".repeat(16_000);
    for _ in 0..600 {
        change(&app, "PATCH", 1, &json!({ "text": text }).to_string());
    }
    assert!(gone(&place).contains("410"), "more was written than the history keeps");
    let answer = app.get(&format!("/api/posts/changes?after={revision}"));
    assert!(answer.body.contains("The history of changes begins after revision "), "{}", answer.body);
    assert_eq!(app.get("/api/posts/changes?since=1").status, 400);
    assert_eq!(app.send("POST", "/api/posts/changes", &[], "").status, 405);
}

#[test]
fn who_follows_while_others_write_misses_nothing_and_gets_nothing_twice() {
    let app = spawn();
    let first = Listener::connect(&app, None).place;
    let (mut written, followed) = thread::scope(|scope| {
        let followers: Vec<_> = (0..4_u64)
            .map(|seed| {
                let (app, mut place) = (&app, first.clone());
                scope.spawn(move || {
                    let (mut random, mut revisions) = (fastrand::Rng::with_seed(seed), Vec::new());
                    loop {
                        let mut listener = Listener::connect(app, Some(&place));
                        for _ in 0..random.usize(1..30) {
                            let event = listener.next().unwrap();
                            revisions.push(event["revision"].as_u64().unwrap());
                            place = listener.place.clone();
                            if event["record"]["text"] == "last" {
                                return revisions;
                            }
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..6_u64)
            .map(|seed| {
                let app = &app;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    // Many change the first record in one group.
                    let write = |nth: u32| match random.u8(..3) {
                        0 => post(app, &nth.to_string()).1,
                        _ => change(app, "PATCH", 1, &format!(r#"{{"text":"{seed}-{nth}"}}"#)),
                    };
                    (0..150).map(write).collect::<Vec<u64>>()
                })
            })
            .collect();
        let mut written: Vec<u64> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        written.push(post(&app, "last").1);
        (written, followers.into_iter().map(|follower| follower.join().unwrap()).collect::<Vec<_>>())
    });
    written.sort_unstable();
    for revisions in followed {
        assert_eq!(revisions, written, "all answered writes, in order");
    }
}

#[test]
fn listeners_leave_the_connections_of_others_alone_and_one_that_does_not_read_is_cut_off() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let app = spawn();
    let mut listeners: Vec<Listener> = (0..CONNECTIONS + 100).map(|_| Listener::connect(&app, None)).collect();
    assert!(listeners.len() < LISTENERS);
    let (_, revision) = post(&app, "for all");
    for listener in &mut listeners {
        assert_eq!(listener.next().unwrap()["revision"], revision);
    }
    let lazy = &listeners[0];
    set_socket_recv_buffer_size(lazy.lines.get_ref(), 4096).unwrap();
    let text = "t".repeat(16_000);
    drop(listeners.split_off(3));
    for _ in 0..700 {
        change(&app, "PATCH", 1, &json!({ "text": text }).to_string());
        let event = listeners[1].next().unwrap();
        assert_eq!(event["record"]["text"], text, "the others get everything");
    }
    let mut lines = 0;
    while listeners[0].next_whole().is_some() {
        lines += 1;
    }
    assert!(lines < 700, "{lines}");
}

impl Listener {
    /// Returns the next event, or `None` if the answer breaks off.
    fn next_whole(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        (read.is_ok_and(|length| length > 0)).then_some(line)
    }
}
