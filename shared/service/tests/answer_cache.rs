//! Tests of answers that are repeated from memory: no client can tell them from answers read anew.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use record::model::Collection;
use record::sample;
use service::testing::{Answer, App, bearer};

const JSON: (&str, &str) = ("content-type", "application/json");

fn write(app: &App, collection: Collection, method: &str, path: &str, body: &str) -> u16 {
    let headers = [JSON, ("authorization", &*bearer(collection))];
    app.send(method, path, &headers, body).status
}

/// Returns the answer to a request, without the time of day.
fn ask(app: &App, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut answer = app.send(method, path, headers, "");
    answer.headers.remove("date");
    answer
}

/// Asks three times, so that the last answers come from memory.
fn get(app: &App, path: &str) -> (u16, String) {
    let answers = [(); 3].map(|()| ask(app, "GET", path, &[]));
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
    let [answer, ..] = answers;
    (answer.status, answer.body)
}

#[test]
fn a_write_shows_in_every_answer_that_it_concerns() {
    let posts = sample::posts();
    let app = App::spawn_writable(
        posts,
        (1..=40).map(|n| format!(r#"{{"id":{n},"thread":{},"text":"t","user":1}}"#, n % 2 + 1)),
    );
    let lists = [1, 2].map(|thread| format!("/api/posts/in-thread/{thread}"));
    let before = [get(&app, &lists[0]), get(&app, &lists[1])];
    assert_eq!(get(&app, "/api/posts/3").1, r#"{"id":3,"thread":2,"text":"t","user":1}"#);
    // Another text, in the list too, though the index is the same.
    assert_eq!(write(&app, posts, "PATCH", "/api/posts/3", r#"{"text":"new"}"#), 200);
    let renewed = r#"{"id":3,"thread":2,"text":"new","user":1}"#;
    assert_eq!(get(&app, "/api/posts/3").1, renewed);
    assert!(get(&app, &lists[1]).1.contains(renewed));
    assert_eq!(get(&app, &lists[0]), before[0]);
    // Moved from one list into the other.
    assert_eq!(write(&app, posts, "PATCH", "/api/posts/3", r#"{"thread":1}"#), 200);
    assert!(get(&app, &lists[0]).1.contains(r#"{"id":3,"thread":1,"text":"new","user":1}"#));
    assert!(before[1].1.contains(r#""id":3,"#) && !get(&app, &lists[1]).1.contains(r#""id":3,"#));
    // A list that was empty, a new record, and one that is gone.
    assert_eq!(get(&app, "/api/posts/in-thread/9").1, "[]");
    assert_eq!(get(&app, "/api/posts/41").0, 404);
    assert_eq!(write(&app, posts, "POST", "/api/posts", r#"{"thread":9,"text":"x","user":1}"#), 201);
    assert_eq!(get(&app, "/api/posts/in-thread/9").1, r#"[{"id":41,"thread":9,"text":"x","user":1}]"#);
    assert_eq!(get(&app, "/api/posts/41").0, 200);
    assert_eq!(write(&app, posts, "DELETE", "/api/posts/41", ""), 204);
    assert_eq!(get(&app, "/api/posts/41").0, 404);
    assert_eq!(get(&app, "/api/posts/in-thread/9").1, "[]");
}

#[test]
fn a_name_that_passes_to_another_record_is_answered_with_that_one() {
    let users = sample::users();
    let app = App::spawn_writable(users, [r#"{"id":1,"username":"kim"}"#, r#"{"id":2,"username":"lee"}"#]);
    assert_eq!(get(&app, "/api/users/by-username/kim").1, r#"{"id":1,"username":"kim"}"#);
    assert_eq!(write(&app, users, "PATCH", "/api/users/1", r#"{"username":"park"}"#), 200);
    assert_eq!(get(&app, "/api/users/by-username/kim").0, 404);
    assert_eq!(write(&app, users, "PATCH", "/api/users/2", r#"{"username":"kim"}"#), 200);
    assert_eq!(get(&app, "/api/users/by-username/kim").1, r#"{"id":2,"username":"kim"}"#);
    let notes = Collection::embedded(
        r#"{ "name": "notes", "ids": "text", "fields": [{ "name": "text", "shape": { "text": { "most": 100 } } }] }"#,
    );
    let app = App::spawn_writable(notes, [r#"{"id":"a-b","text":"first"}"#]);
    assert_eq!(get(&app, "/api/notes/a-b").1, r#"{"id":"a-b","text":"first"}"#);
    assert_eq!(write(&app, notes, "DELETE", "/api/notes/a-b", ""), 204);
    assert_eq!(get(&app, "/api/notes/a-b").0, 404);
    let body = r#"{"id":"a-b","text":"second"}"#;
    let answer = app.send("POST", "/api/notes", &[JSON, ("authorization", &*bearer(notes))], body);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(get(&app, "/api/notes/a-b").1, body);
}

#[test]
fn conditions_and_methods_are_answered_alike_from_memory() {
    let app = App::spawn_writable(sample::posts(), [r#"{"id":1,"thread":1,"text":"t","user":1}"#]);
    let get = |headers: &[(&str, &str)]| ask(&app, "GET", "/api/posts/1", headers);
    let first = get(&[]);
    let tag = first.header("etag").to_owned();
    for _ in 0..3 {
        assert_eq!(get(&[]), first);
        for (header, status) in [
            (&*tag, 304),
            (&format!("W/{tag}"), 304),
            ("*", 304),
            (&format!("\"0\", {tag}"), 304),
            ("\"0\"", 200),
            ("junk", 200),
        ] {
            let answer = get(&[("if-none-match", header)]);
            assert_eq!((answer.status, answer.header("etag")), (status, &*tag), "{header}");
            assert_eq!(answer.body.is_empty(), status == 304, "{header}");
            assert_eq!(answer.header("content-type").is_empty(), status == 304, "{header}");
        }
        assert_eq!(get(&[("if-none-match", "\"0\""), ("if-none-match", &tag)]).status, 304);
        let head = ask(&app, "HEAD", "/api/posts/1", &[]);
        assert_eq!((head.status, head.headers, &*head.body), (200, first.headers.clone(), ""));
        assert_eq!(ask(&app, "GET", "/api/posts/1/", &[]), first);
        assert_eq!(app.request("OPTIONS", "/api/posts/1").status, 204);
        assert_eq!(app.request("POST", "/api/posts/1").status, 405);
    }
}

/// Returns how many answers came from memory.
fn count_repeated(app: &App) -> u32 {
    let (mut admin, mut text) = (TcpStream::connect(app.admin).unwrap(), String::new());
    admin.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    admin.read_to_string(&mut text).unwrap();
    text.lines().find_map(|line| line.strip_prefix("service_repeated_answers_total ")?.parse().ok()).unwrap()
}

#[test]
fn records_are_answered_from_pages_only_if_all_fit_and_ids_are_numbers() {
    let ask_two = |app: &App, path: &str, ids: [&str; 2]| {
        for id in ids {
            assert_eq!(app.get(&format!("{path}/{id}")).status, 200, "{id}");
        }
        count_repeated(app)
    };
    let post = |n: u64, length: usize| format!(r#"{{"id":{n},"thread":1,"text":"{}","user":1}}"#, "x".repeat(length));
    let few = App::spawn(sample::posts(), (1..=40).map(|n| post(n, 2000)));
    assert_eq!(ask_two(&few, "/api/posts", ["1", "2"]), 1);
    // More than the memory of a test's service.
    let many = App::spawn(sample::posts(), (1..=800).map(|n| post(n, 2000)));
    assert_eq!(ask_two(&many, "/api/posts", ["1", "2"]), 0);
    let notes = Collection::embedded(
        r#"{ "name": "notes", "ids": "text", "fields": [{ "name": "text", "shape": { "text": { "most": 100 } } }] }"#,
    );
    let named = App::spawn(notes, [r#"{"id":"1","text":"a"}"#, r#"{"id":"2","text":"b"}"#]);
    assert_eq!(ask_two(&named, "/api/notes", ["2", "1"]), 0);
    assert!(named.get("/api/notes/1").body.contains("\"a\""));
}

/// The first request for a record reads its page, which has its neighbours, too.
#[test]
fn a_record_of_a_page_in_memory_is_answered_as_from_the_database() {
    let posts = sample::posts();
    let app = App::spawn_writable(posts, (1..=9).map(|n| format!(r#"{{"id":{n},"thread":1,"text":"t","user":1}}"#)));
    let count = || count_repeated(&app);
    assert_eq!(ask(&app, "GET", "/api/posts/1", &[]).status, 200);
    assert_eq!(count(), 0);
    // The other spelling goes through the routes.
    let anew = |n: u64, method: &str, headers: &[(&str, &str)]| ask(&app, method, &format!("/api/posts/{n}/"), headers);
    let short = |n: u64, method: &str, headers: &[(&str, &str)]| ask(&app, method, &format!("/api/posts/{n}"), headers);
    for method in ["GET", "HEAD", "GET"] {
        let before = count();
        let got = short(2, method, &[]);
        assert_eq!(count(), before + 1);
        assert_eq!(got, anew(2, method, &[]));
    }
    let tag = short(3, "GET", &[]).header("etag").to_owned();
    for headers in [&[("if-none-match", &*tag)], &[("if-none-match", "\"0\"")], &[("if-match", "\"0\"")]] {
        assert_eq!(short(3, "GET", headers), anew(3, "GET", headers), "{headers:?}");
    }
    for path in ["/api/posts/10", "/api/posts/0", "/api/posts/03", "/api/posts/+3", "/api/posts/3a", "/API/posts/3"] {
        assert_eq!(ask(&app, "GET", path, &[]), ask(&app, "GET", &format!("{path}/"), &[]), "{path}");
    }
    // A write makes the page old, whichever record it changes.
    assert_eq!(write(&app, posts, "PATCH", "/api/posts/4", r#"{"text":"new"}"#), 200);
    for n in [4, 5] {
        assert_eq!(short(n, "GET", &[]), anew(n, "GET", &[]), "{n}");
    }
    assert!(get(&app, "/api/posts/4").1.contains("new"));
    assert_eq!(write(&app, posts, "DELETE", "/api/posts/6", ""), 204);
    assert_eq!(short(7, "GET", &[]).status, 200);
    assert_eq!(short(6, "GET", &[]), anew(6, "GET", &[]));
    assert_eq!(get(&app, "/api/posts/6").0, 404);
}

/// A 304 has what a 200 would have (RFC 9110, section 15.4.5).
#[test]
fn a_304_says_what_the_list_varies_by_also_from_memory() {
    let app = App::spawn(sample::posts(), [r#"{"id":1,"thread":1,"text":"t","user":1}"#]);
    for path in ["/api/posts/in-thread/1", "/api/posts", "/api/posts?limit=1"] {
        let tag = ask(&app, "GET", path, &[]).header("etag").to_owned();
        for _ in 0..2 {
            let answer = ask(&app, "GET", path, &[("if-none-match", &tag)]);
            assert_eq!((answer.status, answer.header("vary")), (304, "accept"), "{path}");
        }
    }
}

/// A list of many chunks, each of which is repeated from memory.
#[test]
fn a_long_list_is_always_as_the_writes_left_it() {
    let posts = sample::posts();
    let text = |length: usize| "x".repeat(length);
    let record = |n: u64, text: &str| format!(r#"{{"id":{n},"thread":1,"text":"{text}","user":1}}"#);
    // Whole pages are missing.
    let first = (1..=600).filter(|n| n / 48 % 2 == 0);
    let mut model: BTreeMap<u64, String> = first.map(|n| (n, record(n, &text(1000)))).collect();
    let app = App::spawn_writable(posts, model.values().cloned());
    let token = bearer(posts);
    let mut chance = fastrand::Rng::with_seed(7);
    for nth in 0..400 {
        let id = chance.u64(1..=600);
        let body = text(chance.usize(1..3000));
        let (method, path) = match nth % 4 {
            0 => ("POST", "/api/posts".to_owned()),
            1 if model.contains_key(&id) => ("DELETE", format!("/api/posts/{id}")),
            _ if model.contains_key(&id) => ("PATCH", format!("/api/posts/{id}")),
            _ => ("PUT", format!("/api/posts/{id}")),
        };
        let fields = format!(r#"{{"thread":1,"text":"{body}","user":1}}"#);
        let mut headers = vec![JSON, ("authorization", &*token)];
        if method == "PUT" {
            headers.push(("if-none-match", "*"));
        }
        let status = app.send(method, &path, &headers, if method == "DELETE" { "" } else { &fields }).status;
        match method {
            "DELETE" => drop(model.remove(&id)),
            "POST" => drop(model.insert(601 + nth / 4, record(601 + nth / 4, &body))),
            _ => drop(model.insert(id, record(id, &body))),
        }
        assert!(matches!(status, 200..=204), "{method} {path}: {status}");
        if nth % 8 > 5 {
            let expected = format!("[{}]", model.values().map(String::as_str).collect::<Vec<_>>().join(","));
            assert!(app.get("/api/posts").body == expected, "after {method} {path}");
        }
    }
}

/// Ends the readers when it is dropped.
struct End<'d>(&'d AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_reader_goes_back_in_time_while_records_change() {
    const READERS: usize = 3;
    let posts = sample::posts();
    let app = App::spawn_writable(posts, (1..=40).map(|n| format!(r#"{{"id":{n},"thread":1,"text":"0","user":1}}"#)));
    let (app, is_done) = (&app, &AtomicBool::new(false));
    let paths = ["/api/posts/7", "/api/posts/in-thread/1"];
    // The text of post 7, also in the list.
    let count = |body: &str| -> u32 {
        let (_, rest) = body.split_once(r#"{"id":7,"thread":1,"text":""#).unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    thread::scope(|scope| {
        // Also when an assertion fails.
        let _end = End(is_done);
        for reader in 0..READERS * paths.len() {
            scope.spawn(move || {
                let (path, mut last) = (paths[reader % paths.len()], 0);
                while !is_done.load(Ordering::Relaxed) {
                    let now = count(&app.get(path).body);
                    assert!(now >= last, "{path}: {now} after {last}");
                    last = now;
                }
            });
        }
        for n in 1..=150 {
            assert_eq!(write(app, posts, "PATCH", "/api/posts/7", &format!(r#"{{"text":"{n}"}}"#)), 200);
            for path in paths {
                assert_eq!(count(&app.get(path).body), n, "{path}");
            }
        }
    });
}
