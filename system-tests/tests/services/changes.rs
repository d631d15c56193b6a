//! Tests of those who follow the changes, through the entrance and across the end of a service.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use world::posts::{self, Client};
use world::{PATIENCE, Process, free_port, program, root, sample, seed, split, text, tool, try_get, wait_for};

/// A client that follows the changes of posts.
struct Follower(BufReader<TcpStream>);

impl Follower {
    fn connect(address: SocketAddr, after: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = "host: a\r\naccept: application/x-ndjson";
        write!(stream, "GET /api/posts/changes{after} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
        Self(BufReader::new(stream))
    }

    /// Returns the next change, or the first line of an answer that is none.
    fn next(&mut self) -> serde_json::Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the answer ended");
            assert!(!line.starts_with("HTTP/") || line.contains(" 200 "), "{line}");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

/// Starts posts at `address`, which may have been used before.
fn start(data: &Path, address: SocketAddr) -> Process {
    let mut arguments = posts::arguments(data, "power");
    let free = arguments.iter().position(|argument| argument == "127.0.0.1:0").unwrap();
    arguments[free] = address.to_string().into();
    let mut posts = Process::start(Command::new(program("posts")).args(arguments));
    posts.await_line(" on http://");
    posts
}

#[test]
fn those_who_follow_through_the_entrance_take_no_place_from_others_and_miss_nothing_when_posts_is_killed() {
    let Some(haproxy) = tool("haproxy", "the entrance") else { return };
    let data = tempfile::tempdir().unwrap();
    split(&sample(), data.path());
    let [of_posts, entrance] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let posts = start(data.path(), of_posts);
    let mut command = Command::new(haproxy);
    command.args(["-db", "-f"]).arg(root().join("gateway/haproxy.cfg")).env("TARGET_REQUESTS", "1");
    command.env("ENTRANCE", entrance.to_string()).env("POSTS", of_posts.to_string());
    command.env("USERS", "127.0.0.1:9").env("THREADS", "127.0.0.1:9").env("INTERVAL", "100ms");
    let _entrance = Process::start(&mut command);
    let is_up =
        || ["/api/posts/1", "/api/posts/-/changes?after=0"].map(|path| try_get(entrance, path).map(|got| got.0));
    wait_for("the entrance to reach posts", || is_up() == [Some(200), Some(410)]);

    let mut followers: Vec<Follower> = (0..5).map(|_| Follower::connect(entrance, "")).collect();
    for follower in &mut followers {
        assert_eq!(follower.next()["event"], "place");
    }
    let client = Client::new(entrance);
    let write = |text| {
        let answer = client.send("POST", "/api/posts", &[], &format!(r#"{{"thread":1,"text":"{text}","user":1}}"#));
        assert_eq!(answer.status, 201, "{answer:?}");
    };
    write("one");
    let mut place = String::new();
    for follower in &mut followers {
        let change = follower.next();
        assert_eq!(change["record"]["text"], "one");
        place = change["place"].as_str().unwrap().to_owned();
    }
    drop(followers);
    ["two", "three"].into_iter().for_each(write);
    posts::kill(posts);
    let posts = start(data.path(), of_posts);
    wait_for("the entrance to reach posts again", || is_up() == [Some(200), Some(410)]);
    let mut follower = Follower::connect(entrance, &format!("?after={place}"));
    assert_eq!(follower.next()["event"], "place");
    assert_eq!(["two", "three"], [0, 1].map(|_| follower.next()["record"]["text"].as_str().unwrap().to_owned()));
    write("four");
    assert_eq!(follower.next()["record"]["text"], "four");
    posts.signal("TERM");
}

/// Were their events kept for them, they would take 3 GB.
#[test]
fn a_thousand_followers_who_do_not_read_take_little_memory_and_keep_nobody_waiting() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let data = tempfile::tempdir().unwrap();
    split(&sample(), data.path());
    let (posts, address) = posts::start(data.path());
    let mut reader = Follower::connect(address, "");
    assert_eq!(reader.next()["event"], "place");
    let lazy: Vec<Follower> = (0..1000)
        .map(|_| {
            let mut follower = Follower::connect(address, "");
            assert_eq!(follower.next()["event"], "place");
            follower
        })
        .collect();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", posts.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    let before = resident();
    let client = Client::new(address);
    let mut highest = before;
    for number in 0..200 {
        let text = format!("{number} {}", "t".repeat(16_000));
        let answer = client.send("PATCH", "/api/posts/1", &[], &format!(r#"{{"text":"{text}"}}"#));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(reader.next()["record"]["text"], *text);
        highest = highest.max(resident());
    }
    eprintln!("{} followers do not read 200 changes: {before} MiB before, {highest} MiB at most", lazy.len());
    assert!(highest < before + 64, "{before} MiB before, {highest} MiB at most");
}

#[test]
fn those_who_follow_are_told_what_a_newer_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    split(&sample(), &data);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let posts = start(&data, address);
    let mut follower = Follower::connect(address, "");
    assert_eq!(follower.next()["event"], "place");

    let file = fs::read_to_string(sample()).unwrap();
    let (rest, last) = file.rsplit_once("    { \"thread\": 5,").unwrap();
    assert!(last.contains("Seconded"), "{last}");
    let new = r#"{ "thread": 1, "text": "Written in the monolith meanwhile.", "user": 1 } ] }"#;
    let file = rest.replace("mostly reading along.", "mostly reading along now.") + new;
    let count = serde_json::from_str::<serde_json::Value>(&file).unwrap()["posts"].as_array().unwrap().len();
    let newer = folder.path().join("newer.json");
    fs::write(&newer, file).unwrap();
    let done = seed(["--input", newer.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    assert!(done.status.success(), "{}", text(&done.stderr));

    let mut told: Vec<(String, serde_json::Value, serde_json::Value)> = Vec::new();
    while told.len() < 3 {
        let change = follower.next();
        told.push((
            change["event"].as_str().unwrap().to_owned(),
            change["id"].clone(),
            change["record"]["text"].clone(),
        ));
    }
    told.sort_by_key(|(_, id, _)| id.as_u64());
    let expected = [
        ("put".to_owned(), 3.into(), "Chiara, mostly reading along now.".into()),
        ("delete".to_owned(), count.into(), serde_json::Value::Null),
        ("put".to_owned(), (count + 1).into(), "Written in the monolith meanwhile.".into()),
    ];
    assert_eq!(told, expected);
    posts.signal("TERM");
}
