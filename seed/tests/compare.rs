//! `seed compare` between a monolith and the services behind their entrance.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod world;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use world::{seed, split, start_entrance, start_service, text};

/// Three collections; each record as the monolith sends it.
#[derive(Clone, Copy)]
struct Forum {
    users: &'static [&'static str],
    threads: &'static [&'static str],
    posts: &'static [&'static str],
}

const FORUM: Forum = Forum {
    users: &[r#"{"id":1,"username":"a"}"#, r#"{"id":2,"username":"b"}"#],
    threads: &[r#"{"id":2,"title":"second","createdBy":1}"#, r#"{"id":1,"title":"first","createdBy":2}"#],
    posts: &[
        r#"{"thread":1,"text":"x","user":1}"#,
        r#"{"thread":1,"text":"y","user":2}"#,
        r#"{"thread":7,"text":"z","user":1}"#,
    ],
};

impl Forum {
    fn source(self) -> String {
        let [users, threads, posts] = [self.users, self.threads, self.posts].map(|records| records.join(","));
        format!("{{\"users\":[{users}],\"threads\":[{threads}],\"posts\":[{posts}]}}")
    }

    /// What the monolith's seven routes send: 204 where the body is empty, 404 where there is none.
    fn answer(self, path: &str) -> Option<String> {
        let matching = |records: &[&str], field: &str, id: &str| {
            let field_of = |record: &str| serde_json::from_str::<serde_json::Value>(record).unwrap()[field].as_u64();
            let id = id.parse().ok();
            records.iter().copied().filter(|record| field_of(record) == id).collect::<Vec<_>>().join(",")
        };
        let list = |records: String| Some(format!("[{records}]"));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            [""] => Some("Ready to receive requests".to_owned()),
            ["api"] => Some("API ready to receive requests".to_owned()),
            ["api", "users"] => list(self.users.join(",")),
            ["api", "threads"] => list(self.threads.join(",")),
            ["api", "posts"] => list(self.posts.join(",")),
            ["api", "users", id] => Some(matching(self.users, "id", id)),
            ["api", "threads", id] => Some(matching(self.threads, "id", id)),
            ["api", "posts", "in-thread", id] => list(matching(self.posts, "thread", id)),
            ["api", "posts", "by-user", id] => list(matching(self.posts, "user", id)),
            _ => None,
        }
    }
}

/// A monolith as far as this goes. Serves until the test ends.
fn start_monolith(forum: Forum) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = request.split(' ').nth(1).unwrap_or_default();
            let kind = if path.len() < 6 { "text/plain" } else { "application/json" };
            let body = forum.answer(path);
            let status = match &body {
                None => "404 Not Found",
                Some(body) if body.is_empty() => "204 No Content",
                Some(_) => "200 OK",
            };
            let body = body.unwrap_or_default();
            let length =
                if status.starts_with("204") { String::new() } else { format!("content-length: {}\r\n", body.len()) };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-type: {kind}; charset=utf-8\r\n{length}connection: close\r\n\r\n{body}"
            );
        }
    });
    address
}

#[test]
fn the_services_answer_as_the_monolith_but_for_what_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data, paths] = ["in.json", "data", "access.log"].map(|name| dir.path().join(name));
    fs::write(&input, FORUM.source()).unwrap();
    split(&input, &data);
    let start = |name| start_service(name, &data.join(name));
    let [users, threads, posts] = ["users", "threads", "posts"].map(start);
    let Some((_entrance, entrance)) = start_entrance(users.1, threads.1, posts.1) else { return };
    let compare = |monolith: SocketAddr, more: &[&str]| {
        let (monolith, services) = (format!("http://{monolith}"), format!("http://{entrance}/"));
        let arguments = ["compare", "--json", "--quiet", "--monolith", &monolith, "--services", &services];
        let output = seed(arguments.iter().chain(more));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), report, text(&output.stderr))
    };

    // 5 lists and texts, users 1 and 2 with their posts, threads 1, 2 and 7 with theirs.
    let monolith = start_monolith(FORUM);
    let (code, report, error) = compare(monolith, &[]);
    assert_eq!(code, Some(0), "{report} {error}");
    assert_eq!((&report["paths"], &report["different"]), (&15.into(), &0.into()), "{report}");
    // In /api/posts, of both users and of threads 1 and 7; in /api/threads; for thread 7.
    let expected = serde_json::json!({"a post's added id": 5, "the order of a list": 1, "404 for 204": 1});
    assert_eq!(report["expected"], expected);
    assert_eq!(compare(monolith, &["--input", input.to_str().unwrap(), "--at-once", "1"]).1, report);

    fs::write(
        &paths,
        "/api/users/1\nGET /api/users/99\n1.2.3.4 - \"GET /api/threads/2 HTTP/1.1\" 200\n\n/api/users/1\n",
    )
    .unwrap();
    let (code, report, _) = compare(monolith, &["--paths", paths.to_str().unwrap()]);
    assert_eq!((code, &report["paths"], &report["equal"]), (Some(0), &3.into(), &2.into()), "{report}");

    // A monolith that has moved on.
    let users = &[r#"{"id":1,"username":"A"}"#, r#"{"id":2,"username":"b"}"#];
    let newer = start_monolith(Forum { users, posts: &[], ..FORUM });
    let (code, report, _) = compare(newer, &[]);
    assert_eq!(code, Some(4), "{report}");
    let named = report["first"].to_string();
    assert!(
        named.contains(r#"/api/users/1: at /username: \"A\" from the monolith, \"a\" from the services"#),
        "{named}"
    );
    assert!(named.contains("/api/posts: 0 elements from the monolith, 3 from the services"), "{named}");

    let nobody = SocketAddr::from(([127, 0, 0, 1], world::free_port()));
    let (code, _, error) = compare(nobody, &[]);
    assert_eq!(code, Some(6));
    assert!(error.contains("no answer from") && error.contains("is this the monolith?"), "{error}");
}
