//! Tests of writes over a real socket, with posts as the example of every collection.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use service::testing::{Answer, App, bearer};

const FIRST: &str = r#"{"thread":1,"text":"first","user":1}"#;
const JSON: (&str, &str) = ("content-type", "application/json");

fn app() -> App {
    App::spawn_writable(posts::collection(), [FIRST])
}

fn send(app: &App, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let bearer = bearer(posts::collection());
    app.send(method, path, &[&[("authorization", &*bearer), JSON], headers].concat(), body)
}

#[test]
fn a_post_is_created_read_changed_replaced_and_deleted() {
    let app = app();
    let created = send(&app, "POST", "/api/posts", &[], r#"{"thread":1,"text":"second","user":2,"more":{"n":1.50}}"#);
    let second = r#"{"id":2,"thread":1,"text":"second","user":2,"more":{"n":1.50}}"#;
    assert_eq!((created.status, created.body.as_str()), (201, second));
    assert_eq!(created.header("location"), "/api/posts/2");
    assert_eq!(created.header("content-type"), "application/json; charset=utf-8");
    let read = app.get("/api/posts/2");
    assert_eq!((read.body.as_str(), read.header("etag")), (second, created.header("etag")));
    assert_eq!(app.get("/api/posts/by-user/2").body, format!("[{second}]"));

    let patched = send(&app, "PATCH", "/api/posts/2", &[], r#"{"user":3,"more":{"m":[]}}"#);
    let changed = r#"{"id":2,"thread":1,"text":"second","user":3,"more":{"n":1.50,"m":[]}}"#;
    assert_eq!((patched.status, patched.body.as_str()), (200, changed));
    assert_ne!(patched.header("etag"), created.header("etag"));
    assert_eq!(app.get("/api/posts/by-user/2").body, "[]");
    assert_eq!(app.get("/api/posts/by-user/3").body, format!("[{changed}]"));

    let replaced = send(&app, "PUT", "/api/posts/2", &[], r#"{"thread":4,"text":"","user":3}"#);
    assert_eq!((replaced.status, replaced.body.as_str()), (200, r#"{"id":2,"thread":4,"text":"","user":3}"#));
    assert_eq!(app.get("/api/posts/in-thread/1").body, r#"[{"id":1,"thread":1,"text":"first","user":1}]"#);

    let deleted = send(&app, "DELETE", "/api/posts/2", &[], "");
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    for method in ["GET", "DELETE"] {
        assert_eq!(send(&app, method, "/api/posts/2", &[], "").status, 404);
    }
    assert_eq!(app.get("/api/posts/in-thread/4").body, "[]");
    // Its id is never given again.
    assert_eq!(send(&app, "POST", "/api/posts", &[], FIRST).header("location"), "/api/posts/3");
}

#[test]
fn an_entity_tag_guards_a_record() {
    let app = app();
    let tag = app.get("/api/posts/1").header("etag").to_owned();
    let first = r#"{"id":1,"thread":1,"text":"first","user":1}"#;
    assert_eq!(app.send("GET", "/api/posts/1", &[("if-none-match", "\"0\"")], "").body, first);
    let spared = app.send("GET", "/api/posts/1", &[("if-none-match", &tag)], "");
    assert_eq!((spared.status, spared.body.as_str(), spared.header("etag")), (304, "", &*tag));

    let stale = send(&app, "PATCH", "/api/posts/1", &[("if-match", "\"0\"")], r#"{"text":"x"}"#);
    assert_eq!(stale.status, 412, "{stale:?}");
    let fresh = send(&app, "PATCH", "/api/posts/1", &[("if-match", &tag)], r#"{"text":"x"}"#);
    assert_eq!(fresh.status, 200, "{fresh:?}");
    for method in ["PATCH", "PUT", "DELETE"] {
        assert_eq!(send(&app, method, "/api/posts/1", &[("if-match", &tag)], FIRST).status, 412, "{method}");
    }
    assert_eq!(app.send("GET", "/api/posts/1", &[("if-none-match", &tag)], "").status, 200);

    // PUT creates a record only with `If-None-Match: *`, and only with an id that was given before.
    let create = [("if-none-match", "*")];
    assert_eq!(send(&app, "PUT", "/api/posts/1", &create, FIRST).status, 412);
    assert_eq!(send(&app, "DELETE", "/api/posts/1", &[("if-match", fresh.header("etag"))], "").status, 204);
    assert_eq!(send(&app, "PUT", "/api/posts/1", &[], FIRST).status, 404);
    let again = send(&app, "PUT", "/api/posts/1", &create, FIRST);
    assert_eq!((again.status, again.body.as_str()), (201, first));
    assert_ne!(again.header("etag"), tag);
    assert_eq!(send(&app, "PUT", "/api/posts/9", &create, FIRST).status, 422);
}

#[test]
fn conditions_hold_for_reads_and_for_new_records_too() {
    let app = app();
    let tag = app.get("/api/posts/1").header("etag").to_owned();
    for (method, path, name, value, status) in [
        ("GET", "/api/posts/1", "if-match", "\"0\"", 412),
        ("HEAD", "/api/posts/1", "if-match", "\"0\"", 412),
        ("GET", "/api/posts/1", "if-match", &*tag, 200),
        ("GET", "/api/posts/1", "if-match", "*", 200),
        ("GET", "/api/posts", "if-match", "\"0\"", 412),
        ("GET", "/api/posts", "if-match", "*", 200),
        ("GET", "/api/posts/7", "if-match", "\"0\"", 404),
        ("POST", "/api/posts", "if-match", "\"0\"", 412),
        ("POST", "/api/posts", "if-match", "*", 412),
        ("POST", "/api/posts", "if-none-match", "*", 412),
        ("POST", "/api/posts", "if-none-match", "\"0\"", 201),
    ] {
        let body = if method == "POST" { FIRST } else { "" };
        assert_eq!(send(&app, method, path, &[(name, value)], body).status, status, "{method} {path} {name}: {value}");
    }
    // Several lines are one list.
    let lines = [("if-none-match", "\"0\""), ("if-none-match", &tag)];
    assert_eq!(app.send("GET", "/api/posts/1", &lines, "").status, 304);
}

#[test]
fn a_body_must_be_whole_and_without_a_coding() {
    let app = app();
    let merge = "application/merge-patch+json, application/json";
    let patch = app.send("PATCH", "/api/posts/1", &[("authorization", &bearer(posts::collection()))], "{}");
    assert_eq!((patch.status, patch.header("accept-patch")), (415, merge));
    assert_eq!(app.request("OPTIONS", "/api/posts/1").header("accept-patch"), merge);
    assert_eq!(app.request("OPTIONS", "/api/posts").header("accept-patch"), "");
    let part = send(&app, "PUT", "/api/posts/1", &[("content-range", "bytes 0-5/9")], FIRST);
    assert_eq!(part.status, 400, "{part:?}");
    let encoded = send(&app, "PUT", "/api/posts/1", &[("content-encoding", "gzip")], FIRST);
    assert_eq!((encoded.status, encoded.header("accept-encoding")), (415, "identity"));
    assert_eq!(send(&app, "PUT", "/api/posts/1", &[("content-encoding", "identity")], FIRST).status, 200);
    let long = format!(r#"{{"thread":1,"text":"{}","user":1}}"#, "x".repeat(70_000));
    assert!(send(&app, "POST", "/api/posts", &[], &long).body.contains(r#""title":"Content Too Large""#));
    // Quoted, as the draft has it, or not: the same key.
    let [quoted, bare] =
        ["\"a-1\"", "a-1"].map(|key| send(&app, "POST", "/api/posts", &[("idempotency-key", key)], FIRST));
    assert_eq!((quoted.status, quoted.header("location")), (201, bare.header("location")));
    assert_eq!(send(&app, "POST", "/api/posts", &[("idempotency-key", "\"a")], FIRST).status, 400);
}

#[test]
fn no_update_is_lost_among_clients_that_use_entity_tags() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 25;
    let app = app();
    let set = send(&app, "PATCH", "/api/posts/1", &[], r#"{"count":0}"#);
    assert_eq!(set.status, 200);
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    loop {
                        let read = app.get("/api/posts/1");
                        let (_, count) = read.body.rsplit_once("\"count\":").unwrap();
                        let count: u64 = count.trim_end_matches('}').parse().unwrap();
                        let body = format!(r#"{{"count":{}}}"#, count + 1);
                        match send(&app, "PATCH", "/api/posts/1", &[("if-match", read.header("etag"))], &body).status {
                            200 => break,
                            412 => refused.fetch_add(1, Ordering::Relaxed),
                            status => panic!("{status}"),
                        };
                    }
                }
            });
        }
    });
    let count = format!("\"count\":{}", CLIENTS * EACH);
    assert!(app.get("/api/posts/1").body.contains(&count), "{}", app.get("/api/posts/1").body);
    assert!(refused.into_inner() > 0, "nothing was ever contended");
}

#[test]
fn a_repeated_request_with_a_key_gets_the_first_answer() {
    let app = app();
    let key = [("idempotency-key", "a-1")];
    let first = send(&app, "POST", "/api/posts", &key, FIRST);
    assert_eq!(first.status, 201);
    assert_eq!(send(&app, "PATCH", "/api/posts/2", &[], r#"{"text":"changed since"}"#).status, 200);
    let again = send(&app, "POST", "/api/posts", &key, FIRST);
    assert_eq!((again.status, &again.body), (201, &first.body));
    for header in ["location", "etag"] {
        assert_eq!(again.header(header), first.header(header));
    }
    assert_eq!(send(&app, "POST", "/api/posts", &key, r#"{"thread":1,"text":"other","user":1}"#).status, 422);
    assert_eq!(
        send(&app, "POST", "/api/posts", &[("idempotency-key", "a-2")], FIRST).header("location"),
        "/api/posts/3"
    );
    assert_eq!(send(&app, "POST", "/api/posts", &[("idempotency-key", "")], FIRST).status, 400);
    assert_eq!(send(&app, "POST", "/api/posts", &[("idempotency-key", &"k".repeat(256))], FIRST).status, 400);
}

#[test]
fn a_refused_write_gets_a_reason_and_changes_nothing() {
    let app = app();
    let before = app.get("/api/posts").body;
    let long = format!(r#"{{"thread":1,"text":"{}","user":1}}"#, "x".repeat(70_000));
    let merge = ("content-type", "application/merge-patch+json");
    for (method, path, headers, body, status, detail) in [
        ("POST", "/api/posts", &[][..], "", 400, ""),
        ("POST", "/api/posts", &[], "{", 400, ""),
        ("POST", "/api/posts", &[], r#"{"thread":1,"text":7}"#, 422, r#""pointer":"/text""#),
        ("POST", "/api/posts", &[], r#"{"id":5,"thread":1,"text":"","user":1}"#, 422, r#""pointer":"/id""#),
        ("POST", "/api/posts", &[], &long, 413, "65536"),
        ("PATCH", "/api/posts/1", &[], r#"{"thread":null}"#, 422, "thread"),
        ("PATCH", "/api/posts/1", &[], r#"{"id":2}"#, 422, r#""pointer":"/id""#),
        ("PATCH", "/api/posts/0", &[], "{}", 400, "id"),
        ("PATCH", "/api/posts/7", &[], "{}", 404, ""),
        ("PUT", "/api/posts/1", &[merge], FIRST, 415, "application/json"),
        ("PUT", "/api/posts", &[], FIRST, 405, ""),
        ("POST", "/api/posts/1", &[], FIRST, 405, ""),
        ("POST", "/api/posts/in-thread/1", &[], FIRST, 405, ""),
    ] {
        let bearer = bearer(posts::collection());
        let kind = if headers.is_empty() { &[JSON][..] } else { headers };
        let answer = app.send(method, path, &[&[("authorization", &*bearer)], kind].concat(), body);
        assert_eq!(answer.status, status, "{method} {path} {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        assert!(answer.body.contains(detail), "{method} {path} {answer:?}");
    }
    assert_eq!(send(&app, "PUT", "/api/posts", &[], FIRST).header("allow"), "GET, HEAD, POST");
    assert_eq!(send(&app, "OPTIONS", "/api/posts/1", &[], "").header("allow"), "GET, HEAD, PUT, PATCH, DELETE");
    assert_eq!(app.get("/api/posts").body, before);
}

#[test]
fn a_write_needs_a_token_and_its_body_may_be_chunked() {
    let app = app();
    let missing = app.send("POST", "/api/posts", &[JSON], FIRST);
    assert_eq!((missing.status, missing.header("www-authenticate").is_empty()), (401, false));
    let read_only = App::spawn(posts::collection(), [FIRST]);
    let refused = send(&read_only, "POST", "/api/posts", &[], FIRST);
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("--write-token-file"), "{refused:?}");
    let head = format!(
        "POST /api/posts HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        bearer(posts::collection())
    );
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let (begin, end) = FIRST.split_at(9);
    let answer = app.raw(format!("{head}{}{}0\r\n\r\n", chunk(begin), chunk(end)).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let long = chunk(&"x".repeat(40_000));
    let answer = app.raw(format!("{head}{long}{long}0\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}
