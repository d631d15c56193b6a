//! An answered write survives the process: SIGKILL at random moments, competing clients, a full disk.
//!
//! The client of the first test keeps a journal, as etcd's robustness tests do. Each connection changes its own
//! records, one request at a time. So it knows what the service must hold, except for the one request without an
//! answer.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::Value;
use world::file_system::mount;
use world::posts::{Answer, Client, Posts, kill, service, start};
use world::{Process, sample, skip, split, wait_for};

/// The default of `CRASHES`, the number of kills.
const CRASHES: u64 = 12;

/// Connections that write at once.
const CONNECTIONS: u64 = 8;

/// The most records of a connection. They share few terms, so that runs of the indexes split and merge.
const RECORDS: usize = 60;

/// The highest id of threads and users that posts name, also in the sample. Every list is compared, even empty ones.
const TERMS: u64 = 13;

#[derive(Clone)]
struct Post {
    thread: u64,
    text: String,
    user: u64,
}

impl Post {
    fn members(&self) -> String {
        format!(r#""thread":{},"text":"{}","user":{}"#, self.thread, self.text, self.user)
    }

    fn stored(&self, id: u64) -> String {
        format!(r#"{{"id":{id},{}}}"#, self.members())
    }
}

/// A request, and its record afterwards.
#[derive(Clone)]
struct Write {
    method: &'static str,
    /// `None` if the service assigns the id.
    id: Option<u64>,
    header: (&'static str, String),
    body: String,
    after: Option<Post>,
}

impl Write {
    fn send(&self, client: &Client) -> Option<Answer> {
        let path = self.id.map_or("/api/posts".to_owned(), |id| format!("/api/posts/{id}"));
        client.try_send(self.method, &path, &[(self.header.0, &self.header.1)], &self.body)
    }
}

/// The knowledge of one connection.
struct Journal {
    name: u64,
    random: fastrand::Rng,
    /// The number of requests sent. Each text contains it, so that a text names its request.
    sent: u64,
    /// Its records as answered, with their entity tags.
    records: BTreeMap<u64, (Post, String)>,
    /// Its deleted records.
    gone: BTreeSet<u64>,
    /// Every POST that was answered.
    created: Vec<(Write, Answer)>,
    /// The request without an answer.
    open: Option<Write>,
}

impl Journal {
    fn new(name: u64, random: fastrand::Rng) -> Self {
        Self { name, random, sent: 0, records: BTreeMap::new(), gone: BTreeSet::new(), created: Vec::new(), open: None }
    }

    /// Makes up the next request.
    fn think(&mut self) -> Write {
        self.sent += 1;
        // Some texts are too long for a page, so that their records lie outside it.
        let padding = if self.random.u8(..8) == 0 { "x".repeat(5000) } else { String::new() };
        let text = format!("{} of {}{padding}", self.sent, self.name);
        let mut post = Post { thread: self.random.u64(1..4), text, user: self.random.u64(1..TERMS) };
        let known = self.random.choice(&self.records).map(|(id, (post, tag))| (*id, post.clone(), tag.clone()));
        let gone = self.random.choice(&self.gone).copied();
        match (self.random.u8(..8), known, gone) {
            (0, _, Some(id)) if self.records.len() < RECORDS => {
                let body = format!("{{{}}}", post.members());
                Write {
                    method: "PUT",
                    id: Some(id),
                    header: ("if-none-match", "*".to_owned()),
                    body,
                    after: Some(post),
                }
            }
            (1, Some((id, _, tag)), _) => {
                let header = ("if-match", tag);
                Write { method: "DELETE", id: Some(id), header, body: String::new(), after: None }
            }
            (2..4, Some((id, _, tag)), _) => {
                let body = format!("{{{}}}", post.members());
                Write { method: "PUT", id: Some(id), header: ("if-match", tag), body, after: Some(post) }
            }
            (4..6, Some((id, before, tag)), _) => {
                post.user = before.user;
                let body = format!(r#"{{"text":"{}","thread":{}}}"#, post.text, post.thread);
                Write { method: "PATCH", id: Some(id), header: ("if-match", tag), body, after: Some(post) }
            }
            _ if self.records.len() < RECORDS => {
                let header = ("idempotency-key", format!("{}-{}", self.name, self.sent));
                let body = format!("{{{}}}", post.members());
                Write { method: "POST", id: None, header, body, after: Some(post) }
            }
            _ => self.think(),
        }
    }

    fn write_until_it_dies(&mut self, client: &Client, ids: &Mutex<HashSet<u64>>) {
        while self.open.is_none() {
            let write = self.think();
            match write.send(client) {
                Some(answer) => self.answered(write, answer, ids),
                None => self.open = Some(write),
            }
        }
    }

    fn answered(&mut self, write: Write, answer: Answer, ids: &Mutex<HashSet<u64>>) {
        let id = write.id.unwrap_or_else(|| {
            let id = answer.location.strip_prefix("/api/posts/").and_then(|id| id.parse().ok());
            let id = id.unwrap_or_else(|| panic!("{} was answered with {answer:?}", write.method));
            assert!(ids.lock().unwrap().insert(id), "the id {id} was given twice");
            id
        });
        let status = match write.header.0 {
            "if-match" if write.after.is_none() => 204,
            "if-match" => 200,
            _ => 201,
        };
        let body = write.after.as_ref().map_or(String::new(), |post| post.stored(id));
        assert_eq!((answer.status, &answer.body), (status, &body), "{} of {id}", write.method);
        self.becomes(id, write.after.clone(), &answer.tag);
        if write.method == "POST" {
            self.created.push((write, answer));
        }
    }

    fn becomes(&mut self, id: u64, post: Option<Post>, tag: &str) {
        match post {
            Some(post) => {
                assert_ne!(tag, "");
                let before = self.records.insert(id, (post, tag.to_owned()));
                assert!(before.is_none_or(|(_, before)| before != tag), "two states of {id} have the tag {tag}");
                self.gone.remove(&id);
            }
            None => {
                self.records.remove(&id);
                self.gone.insert(id);
            }
        }
    }

    /// Checks that the request without an answer was done as a whole or not at all.
    fn settle(&mut self, client: &Client, ids: &Mutex<HashSet<u64>>) {
        let Some(write) = self.open.take() else { return };
        let Some(id) = write.id else {
            // The repeated POST makes the record at most once; the comparison of all records proves it.
            let answer = write.send(client).unwrap();
            return self.answered(write, answer, ids);
        };
        let now = client.get(&format!("/api/posts/{id}"));
        let before = self.records.get(&id).map(|(post, tag)| (post.stored(id), tag));
        let unchanged = match before {
            Some((body, tag)) => (&now.body, &now.tag) == (&body, tag),
            None => now.status == 404,
        };
        if !unchanged {
            match &write.after {
                Some(post) => assert_eq!((now.status, &now.body), (200, &post.stored(id)), "half of {}", write.method),
                None => assert_eq!(now.status, 404, "half of {}: {now:?}", write.method),
            }
            self.becomes(id, write.after, &now.tag);
        }
    }

    /// Checks the service against the journal.
    fn check(&mut self, client: &Client) {
        for (id, (post, tag)) in &self.records {
            let now = client.get(&format!("/api/posts/{id}"));
            assert_eq!((&now.body, &now.tag), (&post.stored(*id), tag));
        }
        for id in self.gone.iter().rev().take(10) {
            assert_eq!(client.get(&format!("/api/posts/{id}")).status, 404, "{id} was deleted");
        }
        let some = (0..10).filter_map(|_| self.random.choice(&self.created));
        for (write, answer) in self.created.iter().rev().take(50).chain(some.collect::<Vec<_>>()) {
            assert_eq!(write.send(client).as_ref(), Some(answer), "the answer kept under {:?}", write.header);
        }
    }
}

/// Checks that all records are `expected` and that every list of the indexes matches a scan of them.
fn check_all(client: &Client, expected: &BTreeMap<u64, String>) {
    let list =
        |records: Vec<&String>| format!("[{}]", records.into_iter().map(|json| &**json).collect::<Vec<_>>().join(","));
    assert_eq!(client.get("/api/posts").body, list(expected.values().collect()));
    let parsed: Vec<(Value, &String)> =
        expected.values().map(|json| (serde_json::from_str(json).unwrap(), json)).collect();
    for (path, field) in [("in-thread", "thread"), ("by-user", "user")] {
        for term in 1..=TERMS {
            let listed = parsed.iter().filter(|(post, _)| post[field] == term).map(|(_, json)| *json);
            assert_eq!(client.get(&format!("/api/posts/{path}/{term}")).body, list(listed.collect()), "{path}/{term}");
        }
    }
}

#[test]
fn a_kill_at_any_moment_loses_no_answered_write_and_leaves_no_half_of_another() {
    let crashes = env::var("CRASHES").map_or(CRASHES, |crashes| crashes.parse().expect("CRASHES is a number"));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    split(&sample(), dir.path());
    let mut random = fastrand::Rng::new();
    let mut journals: Vec<Journal> = (1..=CONNECTIONS).map(|name| Journal::new(name, random.fork())).collect();
    let ids = Mutex::new(HashSet::new());
    let mut untouched = BTreeMap::new();
    for round in 0..=crashes {
        let (mut posts, address) = start(dir.path());
        let client = Client::new(address);
        if round == 0 {
            untouched.extend((1..=20).map(|id| (id, client.get(&format!("/api/posts/{id}")).body)));
            ids.lock().unwrap().extend(untouched.keys());
        }
        journals.iter_mut().for_each(|journal| journal.settle(&client, &ids));
        let own = journals.iter().flat_map(|journal| &journal.records).map(|(id, (post, _))| (*id, post.stored(*id)));
        check_all(&client, &untouched.clone().into_iter().chain(own).collect());
        journals.iter_mut().for_each(|journal| journal.check(&client));
        if round == crashes {
            posts.signal("TERM");
            assert!(posts.wait().success());
            break;
        }
        thread::scope(|scope| {
            for journal in &mut journals {
                scope.spawn(|| journal.write_until_it_dies(&Client::new(address), &ids));
            }
            thread::sleep(Duration::from_millis(random.u64(..300)));
            kill(posts);
        });
        if random.u8(..4) == 0 {
            // Kills it once more while it recovers.
            let opening = Process::start(&mut service(dir.path()));
            thread::sleep(Duration::from_millis(random.u64(..100)));
            kill(opening);
        }
    }
    let created: usize = journals.iter().map(|journal| journal.created.len()).sum();
    let sent: u64 = journals.iter().map(|journal| journal.sent).sum();
    println!("{crashes} kills, {sent} writes, {created} of them POSTs");
}

#[test]
fn no_increment_is_lost_or_made_twice_by_competing_clients_and_kills() {
    const CLIENTS: u64 = 16;
    const EACH: u64 = 15;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    split(&sample(), dir.path());
    let (mut posts, address) = start(dir.path());
    let address = Mutex::new(address);
    let done = AtomicU64::new(0);
    let connect = || Client::new(*address.lock().unwrap());
    assert_eq!(connect().send("PATCH", "/api/posts/1", &[], r#"{"count":0}"#).status, 200);
    let compete = |name: String| {
        let mut client = connect();
        for number in 1..=EACH {
            // Each client also counts its own increments: so it sees whether one without an answer was made.
            let mut first = true;
            loop {
                let Some(read) = client.try_send("GET", "/api/posts/1", &[], "") else {
                    thread::sleep(Duration::from_millis(10));
                    client = connect();
                    continue;
                };
                let post: Value = serde_json::from_str(&read.body).unwrap();
                let own = post[&name].as_u64().unwrap_or(0);
                assert!(own + 1 == number || (own == number && !first), "{name} has {own} before its number {number}");
                if own == number {
                    break;
                }
                let body = format!(r#"{{"count":{},"{name}":{number}}}"#, post["count"].as_u64().unwrap() + 1);
                match client.try_send("PATCH", "/api/posts/1", &[("if-match", &read.tag)], &body) {
                    Some(answer) if answer.status == 200 => break,
                    Some(answer) => assert_eq!(answer.status, 412, "{answer:?}"),
                    None => first = false,
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || compete(format!("client-{client}")));
        }
        for third in 1..3 {
            wait_for("increments", || done.load(Ordering::Relaxed) >= third * CLIENTS * EACH / 3);
            posts.signal("KILL");
            posts.wait();
            let (again, new) = start(dir.path());
            (posts, *address.lock().unwrap()) = (again, new);
        }
    });
    let post: Value = serde_json::from_str(&connect().get("/api/posts/1").body).unwrap();
    assert_eq!(post["count"], CLIENTS * EACH);
}

#[test]
fn a_full_disk_stops_writes_but_not_reads_until_there_is_room_again() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(_unmount) = mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], dir.path()) else { return };
    split(&sample(), dir.path());
    let (mut process, address) = start(dir.path());
    let mut posts = Posts::new(address);
    assert_eq!(posts.write(50), None);
    // Another program takes all room at once.
    let filler = dir.path().join("filler");
    assert!(fs::write(&filler, vec![0; 64 << 20]).is_err());
    let refused = posts.write(10_000).unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    for _ in 0..3 {
        assert_eq!(posts.client.get("/ready").status, 503);
        assert_eq!(posts.client.get("/live").status, 200);
        assert_eq!(posts.client.send("PATCH", "/api/posts/1", &[], r#"{"text":""}"#).status, 503);
        posts.are_all_there();
    }
    process.await_line("the disk has no room");
    fs::remove_file(filler).unwrap();
    wait_for("writes", || posts.client.get("/ready").status == 200);
    posts.replay();
    assert_eq!(posts.write(50), None);
    kill(process);
    let (_process, address) = start(dir.path());
    posts.client = Client::new(address);
    posts.are_all_there();
    posts.replay();
}

#[test]
fn without_preallocation_a_full_disk_ends_the_process_once_there_is_room() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(64 << 20).unwrap();
    let made = Command::new("mkfs.ext2").arg("-q").arg(image.path()).output();
    if !made.is_ok_and(|output| output.status.success()) {
        return skip("mkfs.ext2 is not installed; a full disk without preallocation is not tested");
    }
    let Some(_unmount) = mount(&["-o", "loop", &image.path().to_string_lossy()], dir.path()) else { return };
    split(&sample(), dir.path());
    let filler = dir.path().join("filler");
    fs::write(&filler, vec![0; 24 << 20]).unwrap();
    let (mut process, address) = start(dir.path());
    let mut posts = Posts::new(address);
    let refused = posts.write(10_000).unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(posts.answered.len() > 20, "the disk was full after {}", posts.answered.len());
    assert_eq!(posts.client.get("/ready").status, 503);
    assert_eq!(posts.client.get("/live").status, 200);

    fs::remove_file(filler).unwrap();
    assert_eq!(process.wait().code(), Some(1), "{}", process.log());
    process.await_line("the disk has room again");
    let (_process, address) = start(dir.path());
    posts.client = Client::new(address);
    assert_eq!(posts.client.get("/ready").status, 200);
    posts.are_all_there();
    posts.replay();
    assert_eq!(posts.write(1), None);
}
