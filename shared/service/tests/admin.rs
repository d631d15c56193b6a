//! Tests of the operators' listener: what it tells is true, and clients do not reach it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use record::sample;
use serde_json::{Value, json};
use service::testing::{App, bearer};

const RECORD: &str = r#"{"id":1,"thread":1,"text":"t","user":1}"#;

/// The longest wait for a figure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a request on a connection of its own; returns status and body.
fn send(admin: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The samples of `/metrics` by name and labels, in their order.
fn samples(app: &App) -> Vec<(String, f64)> {
    let (status, text) = send(app.admin, "GET", "/metrics", "");
    assert_eq!(status, 200, "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// Returns a sample; 0 if it is not there.
fn sample(app: &App, name: &str) -> f64 {
    samples(app).into_iter().find(|(known, _)| known == name).map_or(0.0, |(_, value)| value)
}

/// Waits until a sample has this value.
fn await_sample(app: &App, name: &str, expected: f64) {
    let begin = Instant::now();
    while sample(app, name) != expected {
        assert!(begin.elapsed() < PATIENCE, "{name} is {}, not {expected}", sample(app, name));
        thread::sleep(Duration::from_millis(10));
    }
}

fn answers(method: &str, route: &str, class: &str) -> String {
    format!("service_request_duration_seconds_count{{method={method:?},route={route:?},status={class:?}}}")
}

#[test]
fn each_request_counts_under_its_method_its_route_its_status_and_its_reason() {
    let app = App::spawn(sample::posts(), [RECORD]);
    // The first answer is read, the others are repeated from memory.
    for _ in 0..3 {
        assert_eq!(app.get("/api/posts/1").status, 200);
    }
    let tag = app.get("/api/posts/1").header("etag").to_owned();
    assert_eq!(app.send("GET", "/api/posts/1", &[("if-none-match", &tag)], "").status, 304);
    assert_eq!(app.request("HEAD", "/api/posts/in-thread/1").status, 200);
    assert_eq!(app.get("/api/posts").status, 200);
    assert_eq!(app.get("/ready").status, 200);
    assert_eq!(app.get("/api/posts/2").status, 404);
    assert_eq!(app.get("/api/posts/2/").status, 404);
    assert_eq!(app.get("/nothing/here").status, 404);
    assert_eq!(app.get("/api/posts/x").status, 400);
    assert_eq!(app.request("DELETE", "/api/posts").status, 405);
    assert_eq!(app.request("OPTIONS", "/api/posts").status, 204);
    assert_eq!(app.send("POST", "/api/posts", &[("content-type", "application/json")], "{}").status, 403);
    let one = "/api/{collection}/{id}";
    let all = "/api/{collection}";
    let counts = [
        (answers("GET", one, "2xx"), 4.0),
        (answers("GET", one, "3xx"), 1.0),
        (answers("GET", one, "4xx"), 3.0),
        (answers("HEAD", "/api/{collection}/{index}/{term}", "2xx"), 1.0),
        (answers("GET", all, "2xx"), 1.0),
        (answers("GET", "/ready", "2xx"), 1.0),
        (answers("GET", "unknown", "4xx"), 1.0),
        (answers("DELETE", all, "4xx"), 1.0),
        (answers("other", all, "2xx"), 1.0),
        (answers("POST", all, "4xx"), 1.0),
    ];
    let of_app = samples(&app);
    let counted: BTreeMap<&str, f64> = of_app.iter().map(|(name, value)| (&**name, *value)).collect();
    for (name, count) in &counts {
        assert_eq!(counted.get(&**name), Some(count), "{name}");
    }
    let kinds = of_app.iter().filter(|(name, _)| name.starts_with("service_request_duration_seconds_count")).count();
    assert_eq!(kinds, counts.len(), "{of_app:?}");
    let refused: BTreeMap<&str, f64> = of_app
        .iter()
        .filter_map(|(name, count)| Some((name.strip_prefix("service_refused_requests_total{reason=")?, *count)))
        .filter(|(_, count)| *count > 0.0)
        .collect();
    let expected = [
        (r#""method-not-allowed"}"#, 1.0),
        (r#""no-such-path"}"#, 1.0),
        (r#""no-such-record"}"#, 2.0),
        (r#""not-an-id"}"#, 1.0),
        (r#""read-only"}"#, 1.0),
    ];
    assert_eq!(refused, BTreeMap::from(expected));
    assert_eq!(counted["service_repeated_answers_total"], 4.0);
    assert!(counted["service_answer_cache_bytes"] > 0.0);
    assert_eq!(counted["service_records"], 1.0);
    assert_eq!(counted["service_damaged_values"], 0.0);
    assert_eq!(counted["service_ready"], 1.0);
    assert!(counted["service_sent_bytes_total"] > 1_000.0 && counted["service_received_bytes_total"] > 500.0);
    // Each request of this client had a connection of its own.
    assert_eq!(counted["service_connections_total"], 15.0);
    assert_eq!(counted["service_journal_bytes_total"], 0.0);
    assert!(counted["service_disk_size_bytes"] > counted["service_disk_free_bytes"]);
    assert!(counted["service_database_bytes"] > 0.0);
}

#[test]
fn a_write_counts_with_its_group_its_wait_and_its_journal() {
    let app = App::spawn_writable(sample::posts(), [RECORD]);
    let secret = bearer(sample::posts());
    let headers = [("content-type", "application/json"), ("authorization", &*secret)];
    let body = r#"{"thread":1,"text":"new","user":1}"#;
    assert_eq!(app.send("POST", "/api/posts", &headers, body).status, 201);
    // The committer counts after it has answered.
    await_sample(&app, "service_write_commit_seconds_count", 1.0);
    assert_eq!(sample(&app, r#"service_write_group_size_bucket{le="1"}"#), 1.0);
    assert_eq!(sample(&app, "service_write_group_size_sum"), 1.0);
    assert_eq!(sample(&app, "service_write_disk_wait_seconds_count"), 1.0);
    let journal = sample(&app, "service_journal_bytes_total");
    assert!(journal > 30.0, "{journal}");
    assert_eq!(sample(&app, "service_records"), 2.0);
    let before = sample(&app, "service_revision");
    assert_eq!(app.send("DELETE", "/api/posts/2", &headers, "").status, 204);
    assert_eq!(app.send("PATCH", "/api/posts/1", &headers, r#"{"text":7}"#).status, 422);
    await_sample(&app, "service_write_group_size_count", 2.0);
    assert!(sample(&app, "service_journal_bytes_total") > journal);
    assert_eq!(sample(&app, "service_records"), 1.0);
    assert_eq!(sample(&app, "service_revision"), before + 1.0);
    assert_eq!(sample(&app, r#"service_refused_requests_total{reason="invalid"}"#), 1.0);
    assert_eq!(sample(&app, &answers("PATCH", "/api/{collection}/{id}", "4xx")), 1.0);
}

#[test]
fn buckets_are_cumulative_and_end_with_the_count() {
    let app = App::spawn(sample::posts(), [RECORD]);
    for id in 1..40 {
        app.get(&format!("/api/posts/{}", id % 3 + 1));
    }
    let samples = samples(&app);
    let mut histograms = 0;
    let mut below = 0.0;
    for (nth, (name, value)) in samples.iter().enumerate() {
        if name.contains("_bucket") {
            assert!(*value >= below, "{name} is below the one before");
            below = if name.contains(r#"le="+Inf""#) {
                histograms += 1;
                let (count_name, count) = &samples[nth + 2];
                assert!(count_name.contains("_count") && count == value, "{name} {value}, {count_name} {count}");
                let (sum_name, sum) = &samples[nth + 1];
                assert!(sum_name.contains("_sum") && (*sum > 0.0) == (*count > 0.0), "{sum_name} {sum}");
                0.0
            } else {
                *value
            };
        }
    }
    // Two kinds of answers, and three of writes.
    assert_eq!(histograms, 5);
}

#[test]
fn a_request_under_way_and_an_open_connection_are_seen() {
    let app = App::spawn_writable(sample::posts(), [RECORD]);
    assert_eq!(sample(&app, "service_connections"), 0.0);
    let mut client = TcpStream::connect(app.address).unwrap();
    await_sample(&app, "service_connections", 1.0);
    assert_eq!(sample(&app, "service_requests_in_flight"), 0.0);
    let secret = bearer(sample::posts());
    let head = format!(
        "POST /api/posts HTTP/1.1\r\nhost: a\r\nauthorization: {secret}\r\ncontent-type: application/json\r\n\
         content-length: 9\r\n\r\n{{"
    );
    client.write_all(head.as_bytes()).unwrap();
    await_sample(&app, "service_requests_in_flight", 1.0);
    assert_eq!(sample(&app, "service_received_bytes_total"), head.len() as f64);
    drop(client);
    await_sample(&app, "service_connections", 0.0);
    assert_eq!(sample(&app, "service_requests_in_flight"), 0.0);
    assert_eq!(sample(&app, "service_received_bytes_total"), head.len() as f64);
}

#[test]
fn readiness_has_its_reasons_in_json() {
    let app = App::spawn(sample::posts(), [RECORD]);
    let ready = |status| {
        let (found, body) = send(app.admin, "GET", "/ready", "");
        assert_eq!(found, status, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    assert_eq!(ready(200), json!({ "ready": true, "reasons": [], "remarks": [] }));
    app.health.set_building(true);
    app.health.begin_draining();
    let draining = json!({ "reason": "draining", "detail": "The service is about to end; send requests elsewhere." });
    let building = json!({
        "reason": "building",
        "detail": "Indexes that are new in the declaration are being built; the log shows the progress.",
    });
    assert_eq!(ready(503), json!({ "ready": false, "reasons": [draining, building], "remarks": [] }));
    assert_eq!(sample(&app, "service_ready"), 0.0);
}

#[test]
fn clients_do_not_reach_what_operators_do_and_the_other_way_round() {
    let app = App::spawn(sample::posts(), [RECORD]);
    for path in ["/metrics", "/log-level"] {
        assert_eq!(app.get(path).status, 404);
        assert_eq!(app.send("PUT", path, &[], "debug").status, 404);
    }
    assert_eq!(send(app.admin, "GET", "/api/posts/1", "").0, 404);
    assert_eq!(send(app.admin, "POST", "/scrub", "").0, 404);
    assert_eq!(send(app.admin, "PUT", "/metrics", "").0, 405);
    assert_eq!(send(app.admin, "DELETE", "/log-level", "").0, 405);
    assert_eq!(send(app.admin, "PUT", "/log-level", "loud").0, 400);
    for (method, path) in [("GET", "/metrics?x=1"), ("GET", "/ready?x=1"), ("PUT", "/log-level?level=debug")] {
        let (status, body) = send(app.admin, method, path, "debug");
        assert!(status == 400 && body.contains("There is no parameter `"), "{path}: {status} {body}");
    }
    assert_eq!(send(app.admin, "PUT", "/log-level", &"x".repeat(1_000)).0, 413);
    // Not even these count as requests of clients.
    assert_eq!(sample(&app, "service_connections_total"), 4.0, "those of operators are not counted");
}

#[test]
fn clients_that_say_nothing_keep_no_place_of_the_admin_listener() {
    let app = App::spawn(sample::posts(), [RECORD]);
    let silent: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(app.admin).unwrap()).collect();
    let begin = Instant::now();
    let mut first = &silent[0];
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    assert!((9..20).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    // The service itself has its own places.
    assert_eq!(app.get("/api/posts/1").status, 200);
    drop(silent);
    assert_eq!(send(app.admin, "GET", "/ready", "").0, 200);
}
