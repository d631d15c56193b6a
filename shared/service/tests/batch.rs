//! Tests of bodies with several records, and of lists as lines.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use record::model::Collection;
use record::sample;
use serde_json::{Value, json};
use service::testing::{Answer, App, bearer};

fn send(app: &App, of: Collection, key: &str, body: &str) -> Answer {
    let (token, kind) = (bearer(of), "application/x-ndjson; charset=utf-8");
    let mut headers = vec![("authorization", &*token), ("content-type", kind)];
    if !key.is_empty() {
        headers.push(("idempotency-key", key));
    }
    app.send("POST", &format!("/api/{}", of.name()), &headers, body)
}

fn post(text: &str) -> String {
    json!({"thread": 1, "text": text, "user": 1}).to_string()
}

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.header("content-type"), "application/x-ndjson", "{}", answer.body);
    answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(app: &App, path: &str) -> usize {
    app.get(path).body.matches("\"id\":").count()
}

#[test]
fn each_line_is_a_record_and_each_is_answered() {
    let app = App::spawn_writable(sample::posts(), [r#"{"id":7,"thread":1,"text":"t","user":1}"#]);
    let body: Vec<String> = (0..1000).map(|n| post(&format!("한 {n}"))).collect();
    let answer = send(&app, sample::posts(), "a key", &(body.join("\n") + "\n"));
    assert_eq!(answer.status, 201, "{}", answer.body);
    let answered = lines(&answer);
    assert_eq!(answered.len(), 1000);
    for (n, line) in answered.iter().enumerate() {
        let got = app.get(line["location"].as_str().unwrap());
        assert_eq!(got.header("etag"), line["etag"]);
        let record: Value = serde_json::from_str(&got.body).unwrap();
        assert_eq!((&record["id"], &record["text"]), (&line["id"], &format!("한 {n}").into()));
        assert_eq!(record["id"], 8 + n);
    }
    assert_eq!(count(&app, "/api/posts?q=한+999"), 1, "they are found");
}

#[test]
fn all_records_of_a_body_are_created_or_none() {
    let app = App::spawn_writable(sample::users(), [r#"{"id":1,"username":"ann","name":"Ann","bio":null}"#]);
    let user = |name: &str| json!({"username": name, "name": "N", "bio": null}).to_string();
    let (good, other) = (user("bob"), user("cid"));
    for (body, status, reason) in [
        (format!("{good}\n{other}\n{}", user("ann")), 409, "Another user has this username (line 3)."),
        (format!("{good}\n{other}\n{good}"), 409, "Another user has this username (line 3)."),
        (format!("{good}\n{}\n{}", user("-"), user("a b")), 422, r#""pointer":"/1/username""#),
        (format!("{good}\n{}\n{}", user("-"), user("a b")), 422, r#""pointer":"/2/username""#),
        (format!("{good}\n{{\"username\":"), 400, "pointer \\\"/1"),
        (format!("{good}\n\n{other}"), 400, "pointer \\\"/1"),
        (format!("[{good}]"), 400, "pointer \\\"/0"),
        (String::new(), 400, "there is no record"),
        (format!("{good}\n").repeat(1001), 413, "at most 1000 records"),
        (format!("{good}{}\n{other}", " ".repeat(70_000)), 413, "at most 65536 bytes"),
        (
            format!("{}\n", json!({"username": "x", "name": "N", "bio": "b".repeat(4000)})).repeat(300),
            413,
            "at most 1048576 bytes",
        ),
    ] {
        let answer = send(&app, sample::users(), "", &body);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(reason), "{reason}: {}", answer.body);
        assert_eq!(count(&app, "/api/users"), 1, "{reason}");
    }
    assert_eq!(send(&app, sample::users(), "", &format!("{good}\r\n{other}")).status, 201);
    assert_eq!(app.get("/api/users/by-username/cid").status, 200);
}

#[test]
fn a_repeated_body_with_the_same_key_is_answered_as_before() {
    let app = App::spawn_writable(sample::posts(), [""; 0]);
    let body = [post("a"), post("b")].join("\n");
    let first = send(&app, sample::posts(), "k", &body);
    let again = send(&app, sample::posts(), "k", &body);
    assert_eq!(
        (first.status, &first.body, first.header("content-type")),
        (again.status, &again.body, again.header("content-type"))
    );
    assert_eq!(send(&app, sample::posts(), "k", &post("a")).status, 422);
    // The same bytes as one record are another request.
    let token = bearer(sample::posts());
    let one = |key: &str| {
        let headers = [("authorization", &*token), ("content-type", "application/json"), ("idempotency-key", key)];
        app.send("POST", "/api/posts", &headers, &post("c")).status
    };
    assert_eq!((one("j"), send(&app, sample::posts(), "j", &post("c")).status), (201, 422));
    assert_eq!(count(&app, "/api/posts"), 3);
}

/// sled does not sync a leaf that is too long, so no value may be.
#[test]
fn an_answer_that_is_too_long_to_be_kept_is_refused_before_anything_is_created() {
    let notes = Collection::embedded(r#"{"name":"notes","ids":"text","fields":[]}"#);
    let app = App::spawn_writable(notes, [""; 0]);
    let body: Vec<String> = (0..1000).map(|n| format!("{{\"id\":\"{n:0>64}\"}}")).collect();
    let body = body.join("\n");
    let refused = send(&app, notes, "key", &body);
    assert!(refused.status == 413 && refused.body.contains("too long to be kept"), "{}", refused.body);
    assert_eq!(app.get("/api/notes").body, "[]");
    assert_eq!(lines(&send(&app, notes, "", &body)).len(), 1000);
}

#[test]
fn who_has_the_array_does_not_have_the_lines() {
    let records = (1..=3000).map(|id| json!({"id": id, "text": "x".repeat(50), "thread": 1, "user": 1}).to_string());
    let app = App::spawn(sample::posts(), records.collect::<Vec<_>>());
    for path in ["/api/posts", "/api/posts?limit=5", "/api/posts/in-thread/1?limit=5"] {
        let tag = app.get(path).header("etag").to_owned();
        let known = [("if-none-match", &*tag), ("accept", "application/x-ndjson")];
        assert_eq!(app.send("GET", path, &known[..1], "").status, 304, "{path}");
        assert_eq!(app.send("GET", path, &known, "").status, 200, "{path}");
    }
}

#[test]
fn lines_are_for_those_who_like_json_no_better() {
    let app = App::spawn(sample::posts(), [r#"{"id":1,"thread":1,"text":"t","user":1}"#]);
    for (accept, is_lines) in [
        ("application/x-ndjson", true),
        ("Application/X-NDJSON; q=0.5, */*;q=0.1", true),
        ("application/json, application/x-ndjson", true),
        ("application/x-ndjson;q=0", false),
        ("application/x-ndjson; q=0.0", false),
        ("application/json, application/x-ndjson;q=0.1", false),
        ("application/x-ndjson;q=none", false),
        ("*/*", false),
    ] {
        for path in ["/api/posts", "/api/posts/in-thread/1", "/api/posts/in-thread/1"] {
            let answer = app.send("GET", path, &[("accept", accept)], "");
            assert_eq!(answer.header("content-type") == "application/x-ndjson", is_lines, "{accept}");
        }
    }
}

#[test]
fn a_list_comes_as_lines_if_the_client_accepts_them() {
    let records =
        (1..=3000).map(|id| json!({"id": id, "text": "x".repeat(50), "thread": id % 2 + 1, "user": 1}).to_string());
    let app = App::spawn(sample::posts(), records.collect::<Vec<_>>());
    let accept = [("accept", "text/html, application/x-ndjson;q=0.9")];
    for path in [
        "/api/posts",
        "/api/posts/in-thread/1",
        "/api/posts?limit=3",
        "/api/posts?ids=9,2",
        "/api/posts?q=x*",
        "/api/posts/in-thread/9",
    ] {
        // Twice: the second answer may be a known one.
        for _ in 0..2 {
            let array = app.get(path);
            let list: Vec<Value> = serde_json::from_str(&array.body).unwrap();
            let answer = app.send("GET", path, &accept, "");
            assert_eq!(lines(&answer), list, "{path}");
            assert!(answer.body.is_empty() || answer.body.ends_with("}\n"), "{path}");
            assert_eq!((answer.header("vary"), array.header("vary")), ("accept", "accept"), "{path}");
            // Other bytes, and so another tag.
            assert!(!array.header("etag").is_empty() && !answer.header("etag").is_empty(), "{path}");
            assert!(list.is_empty() || answer.header("etag") != array.header("etag"), "{path}");
        }
    }
    assert_eq!(app.send("GET", "/api/posts/7", &accept, "").header("content-type"), "application/json; charset=utf-8");
}
