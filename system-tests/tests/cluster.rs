//! A replicated service under faults: no acknowledged write is lost, none is made twice, and all replicas agree.
//!
//! Clients write to all three replicas while brokers and replicas are killed, frozen and cut off from one another at random.
//! Each client keeps a journal. What has no answer may have happened or not; all else must be as it was answered.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use tempfile::TempDir;
use world::changes::change;
use world::cluster::{COUNT, Cluster, OPERATOR, SECRET, copy, notes, run, split, token};
use world::file_system::mount;
use world::posts::Client;
use world::{Process, get, open_sled, program, seed, text, tool, try_get, wait_for};

/// The default of `CLUSTER_SECONDS`: how long faults go on.
const SECONDS: u64 = 30;

/// Clients that write at once.
const CLIENTS: usize = 4;

/// The slugs that clients compete for.
const SLUGS: usize = 40;

/// The operations on a record before its history ends: to judge one takes time that grows fast with its length.
const HISTORY: u64 = 24;

/// A record whose texts are numbers that are written once each, as its clients see it.
#[derive(Clone, Debug)]
struct Register(u64);

#[derive(Clone, Debug, PartialEq)]
enum Op {
    Read,
    /// Replaces the text, if it is this one.
    Swap {
        expected: u64,
        new: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Ret {
    Text(u64),
    Swapped(bool),
}

impl SequentialSpec for Register {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match op {
            Op::Read => Ret::Text(self.0),
            Op::Swap { expected, new } => {
                let is_expected = self.0 == *expected;
                if is_expected {
                    self.0 = *new;
                }
                Ret::Swapped(is_expected)
            }
        }
    }
}

/// A record's history so far.
struct History {
    path: String,
    tester: LinearizabilityTester<u64, Register>,
    /// The texts that have been read, with their tags.
    known: HashMap<u64, String>,
    operations: u64,
}

/// What all clients know.
struct World {
    addresses: Vec<SocketAddr>,
    end: AtomicBool,
    /// The highest number of an answered write.
    sequence: AtomicU64,
    /// Numbers that are used once each.
    next: AtomicU64,
    history: Mutex<Option<History>>,
    /// The number of operations and of histories that were judged.
    judged: Mutex<(u64, u64)>,
    /// Texts of created records, with their ids.
    created: Mutex<BTreeMap<String, u64>>,
    /// Slugs with the ids of the records that got them.
    claimed: Mutex<BTreeMap<String, u64>>,
}

/// An answer, or `None` if it is not known what became of the request.
struct Answer {
    status: u16,
    tag: String,
    body: Value,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl World {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request to a replica.
    fn send(
        &self,
        agent: &ureq::Agent,
        replica: usize,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: String,
    ) -> Option<Answer> {
        let uri = format!("http://{}{path}", self.addresses[replica]);
        let mut request = ureq::http::Request::builder().method(method).uri(uri);
        let own = [("authorization", &*format!("Bearer {SECRET}")), ("content-type", "application/json")];
        for (name, value) in own.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let (head, body) = agent.run(request.body(body).unwrap()).ok()?.into_parts();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = body.into_with_config().read_to_string().ok()?;
        if let Ok(sequence) = header("sequence").parse() {
            self.sequence.fetch_max(sequence, Ordering::SeqCst);
        }
        let body = serde_json::from_str(&body).unwrap_or_default();
        Some(Answer { status: head.status.as_u16(), tag: header("etag"), body })
    }

    /// Repeats a POST at one replica after the other until it has an answer; `None` if the faults end before.
    fn post(&self, agent: &ureq::Agent, random: &mut fastrand::Rng, body: &str) -> Option<Answer> {
        let key = format!("k{}", self.number());
        loop {
            let sent = self.send(
                agent,
                random.usize(..COUNT),
                ("POST", "/api/notes"),
                &[("idempotency-key", &key)],
                body.to_owned(),
            );
            match sent {
                Some(answer) if matches!(answer.status, 201 | 409) => return Some(answer),
                Some(answer) => assert!(matches!(answer.status, 503 | 504), "{}: {}", answer.status, answer.body),
                None => {}
            }
            if self.end.load(Ordering::Relaxed) {
                return None;
            }
            thread::sleep(Duration::from_millis(random.u64(20..200)));
        }
    }

    fn create(&self, agent: &ureq::Agent, random: &mut fastrand::Rng) {
        let text = format!("created {}", self.number());
        if let Some(answer) = self.post(agent, random, &format!(r#"{{"text":"{text}"}}"#)) {
            assert_eq!(answer.status, 201, "{}", answer.body);
            lock(&self.created).insert(text, answer.body["id"].as_u64().unwrap());
        }
    }

    fn claim(&self, agent: &ureq::Agent, random: &mut fastrand::Rng) {
        let slug = format!("s{}", random.usize(..SLUGS));
        let body = format!(r#"{{"text":"claims {}","slug":"{slug}"}}"#, self.number());
        if let Some(answer) = self.post(agent, random, &body)
            && answer.status == 201
        {
            let before = lock(&self.claimed).insert(slug.clone(), answer.body["id"].as_u64().unwrap());
            assert_eq!(before, None, "two records got the slug {slug}");
        }
    }

    /// Reads or changes the record whose history is being made.
    fn operate(&self, agent: &ureq::Agent, random: &mut fastrand::Rng) {
        let mut history = lock(&self.history);
        if history.as_ref().is_none_or(|history| history.operations >= HISTORY) {
            let ended = history.take();
            drop(history);
            self.judge(ended);
            self.begin_history(agent, random);
            return;
        }
        let current = history.as_mut().unwrap();
        let (path, thread) = (current.path.clone(), self.number());
        current.operations += 1;
        let swap = random.choice(&current.known).map(|(text, tag)| (*text, tag.clone())).filter(|_| random.bool());
        let (op, tag) = match swap {
            Some((expected, tag)) => (Op::Swap { expected, new: self.number() }, tag),
            None => (Op::Read, String::new()),
        };
        current.tester.on_invoke(thread, op.clone()).unwrap();
        // Everything that was answered before is to be seen.
        let after = self.sequence.load(Ordering::SeqCst).to_string();
        drop(history);
        let replica = random.usize(..COUNT);
        let answer = match &op {
            Op::Read => self.send(agent, replica, ("GET", &path), &[("read-after", &after)], String::new()),
            Op::Swap { new, .. } => {
                self.send(agent, replica, ("PATCH", &path), &[("if-match", &tag)], format!(r#"{{"text":"{new}"}}"#))
            }
        };
        let Some(answer) = answer else { return };
        let text = || answer.body["text"].as_str().unwrap().parse().unwrap();
        let ret = match (&op, answer.status) {
            (Op::Read, 200) => Ret::Text(text()),
            (Op::Swap { .. }, 200) => Ret::Swapped(true),
            (Op::Swap { .. }, 412) => Ret::Swapped(false),
            // A read that had no answer is none; it is not known what became of a write.
            (_, 503 | 504) => return,
            (op, status) => panic!("{op:?}: {status}: {}", answer.body),
        };
        let mut history = lock(&self.history);
        // Another client may have ended this history meanwhile.
        if let Some(current) = history.as_mut().filter(|current| current.path == path) {
            if answer.status == 200 {
                current.known.insert(text(), answer.tag);
            }
            current.tester.on_return(thread, ret).unwrap();
        }
    }

    /// Begins the history of a new record.
    fn begin_history(&self, agent: &ureq::Agent, random: &mut fastrand::Rng) {
        let text = self.number();
        let Some(answer) = self.post(agent, random, &format!(r#"{{"text":"{text}"}}"#)) else { return };
        let path = format!("/api/notes/{}", answer.body["id"]);
        let tester = LinearizabilityTester::new(Register(text));
        let known = [(text, answer.tag)].into();
        lock(&self.history).get_or_insert(History { path, tester, known, operations: 0 });
    }

    fn judge(&self, history: Option<History>) {
        if let Some(history) = history {
            assert!(history.tester.is_consistent(), "not linearizable: {:?}", history.tester);
            let mut judged = lock(&self.judged);
            *judged = (judged.0 + history.operations, judged.1 + 1);
        }
    }

    fn work(&self, seed: u64) {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(Duration::from_secs(20))).build().into();
        let mut random = fastrand::Rng::with_seed(seed);
        while !self.end.load(Ordering::Relaxed) {
            match random.u8(..4) {
                0 => self.create(&agent, &mut random),
                1 => self.claim(&agent, &mut random),
                _ => self.operate(&agent, &mut random),
            }
        }
    }
}

/// Does one thing that goes wrong; says what.
fn break_something(cluster: &mut Cluster, random: &mut fastrand::Rng) -> String {
    let (one, other) = (random.usize(..COUNT), random.usize(..COUNT));
    match random.u8(..10) {
        0 => {
            cluster.kill_broker(one);
            format!("broker {one} is killed")
        }
        1 => {
            cluster.freeze_broker(one);
            format!("broker {one} is frozen")
        }
        2 | 3 => {
            cluster.cut_broker(one);
            format!("broker {one} is cut off from the others")
        }
        4 => {
            (0..COUNT).filter(|nth| *nth != one).for_each(|nth| cluster.kill_broker(nth));
            format!("all brokers but {one} are killed")
        }
        5 => {
            (0..COUNT).for_each(|nth| cluster.cut_broker(nth));
            "all brokers are cut off from one another".to_owned()
        }
        6 => {
            cluster.kill_replica(one);
            format!("replica {one} is killed")
        }
        7 => {
            cluster.freeze_replica(one);
            format!("replica {one} is frozen")
        }
        8 => {
            cluster.cut_replica(one, &[0, 1, 2]);
            format!("replica {one} is cut off from all brokers")
        }
        _ => {
            cluster.cut_replica(one, &[other]);
            cluster.kill_replica(other);
            format!("replica {one} is cut off from broker {other}, and replica {other} is killed")
        }
    }
}

#[test]
fn every_acknowledged_write_is_on_every_replica_whatever_fails() {
    let Some(mut cluster) = Cluster::start("[]") else { return };
    let seconds = env::var("CLUSTER_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let seed = env::var("CLUSTER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("CLUSTER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World {
        addresses: (0..COUNT).map(|nth| cluster.address(nth)).collect(),
        end: AtomicBool::new(false),
        sequence: AtomicU64::new(0),
        next: AtomicU64::new(1),
        history: Mutex::default(),
        judged: Mutex::default(),
        created: Mutex::default(),
        claimed: Mutex::default(),
    };
    let (mut faults, mut snapshots) = (0, 0);
    thread::scope(|scope| {
        let _ended = EndOnPanic(&world.end);
        for nth in 0..CLIENTS {
            let (world, seed) = (&world, random.u64(..));
            scope.spawn(move || {
                // A client that panics must not leave the others running.
                let ended = EndOnPanic(&world.end);
                world.work(seed ^ nth as u64);
                drop(ended);
            });
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(seconds) && !world.end.load(Ordering::Relaxed) {
            println!("{:.1} s: {}", begin.elapsed().as_secs_f64(), break_something(&mut cluster, &mut random));
            faults += 1;
            thread::sleep(Duration::from_millis(random.u64(300..3000)));
            cluster.heal();
            thread::sleep(Duration::from_millis(random.u64(0..3000)));
            // Meanwhile the stream is shortened, which some replica may still need and others may not be ready for.
            if random.u8(..3) == 0 {
                let replica = random.usize(..COUNT);
                let stored = cluster.store_snapshot(replica).status.success();
                snapshots += u32::from(stored);
                println!("{:.1} s: a snapshot of replica {replica}: {stored}", begin.elapsed().as_secs_f64());
            }
        }
        // At the end nothing is broken, so that all POSTs get their answers. A replica ends to begin with a snapshot.
        let is_ready = |nth: usize| try_get(world.addresses[nth], "/ready").is_some_and(|(status, ..)| status == 200);
        wait_for("all replicas to be ready", || {
            cluster.heal();
            (0..COUNT).all(is_ready)
        });
        let answered = world.sequence.load(Ordering::SeqCst);
        wait_for("writes after the last fault", || {
            world.sequence.load(Ordering::SeqCst) > answered + 3 || world.end.load(Ordering::Relaxed)
        });
        world.end.store(true, Ordering::Relaxed);
    });
    world.judge(lock(&world.history).take());
    let sequence = world.sequence.load(Ordering::SeqCst);
    let lists: Vec<(u16, String)> = (0..COUNT).map(|nth| read_all(&cluster, nth, sequence)).collect();
    for (nth, (status, list)) in lists.iter().enumerate() {
        assert_eq!((*status, list), (200, &lists[0].1), "replica {nth} has other records\n{}", cluster.log(nth));
    }
    // The list's tag has the revisions and a digest; a scrub finds what an index lacks or has too much.
    let tags: Vec<String> =
        (0..COUNT).map(|nth| Client::with_secret(cluster.address(nth), SECRET).get("/api/notes").tag).collect();
    assert!(!tags[0].is_empty() && tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");
    for nth in 0..COUNT {
        let scrubbed = Client::with_secret(cluster.address(nth), SECRET).send("POST", "/scrub", &[], "");
        assert_eq!(scrubbed.status, 200, "replica {nth}: {}", scrubbed.body);
        for slug in (0..SLUGS).map(|slug| format!("/api/notes/by-slug/s{slug}")) {
            assert_eq!(get(cluster.address(nth), &slug), get(cluster.address(0), &slug), "replica {nth}: {slug}");
        }
    }
    let records: Vec<Value> = serde_json::from_str(&lists[0].1).unwrap();
    let with = |field: &str, value: &str| records.iter().filter(|record| record[field] == value).collect::<Vec<_>>();
    for (field, known) in [("text", &world.created), ("slug", &world.claimed)] {
        for (value, id) in lock(known).iter() {
            let found = with(field, value);
            assert_eq!(found.len(), 1, "{field} {value}: {found:?}");
            assert_eq!(found[0]["id"], *id, "{field} {value}");
        }
    }
    for slug in (0..SLUGS).map(|slug| format!("s{slug}")) {
        assert!(with("slug", &slug).len() <= 1, "{slug} is there twice");
    }
    let (operations, histories) = *lock(&world.judged);
    let (created, claimed) = (lock(&world.created).len(), lock(&world.claimed).len());
    println!(
        "{faults} faults and {snapshots} snapshots in {seconds} s: {sequence} messages, {created} created, {claimed} slugs of {SLUGS} taken, {operations} operations in {histories} histories; {} records on each replica",
        records.len()
    );
    assert!(created > 0 && claimed > 0 && histories > 0, "nothing was tried");
}

/// Sends a new note to a replica; returns the answer's status.
fn post(cluster: &Cluster, replica: usize, text: &str) -> u16 {
    let client = Client::with_secret(cluster.address(replica), SECRET);
    client.send("POST", "/api/notes", &[], &format!(r#"{{"text":"{text}"}}"#)).status
}

/// Waits until a replica is not ready since it is apart from the others, and its log says why.
fn await_apart(cluster: &Cluster, replica: usize, why: &str) {
    wait_for(&format!("replica {replica} to be apart"), || {
        let (status, _, body) = get(cluster.address(replica), "/ready");
        status == 503 && body.contains("problems#apart")
    });
    let log = cluster.log(replica);
    assert!(log.contains("this replica stops following its stream") && log.contains(why), "{log}");
    // It takes no writes, but what it has can be looked at.
    assert_eq!(post(cluster, replica, "not here"), 503);
    assert_eq!(get(cluster.address(replica), "/api/notes/1").0, 200);
}

#[test]
fn a_replica_with_other_records_than_most_takes_itself_out() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"},{"id":2,"text":"b"}]"#) else { return };
    assert_eq!(post(&cluster, 0, "before"), 201);
    cluster.stop_replica(2);
    // As many, as long, and the counters as they should be: no checksum tells it.
    change(&cluster.data(2), notes(), &[(2, Some(r#"{"id":2,"text":"c"}"#))]);
    cluster.start_replica(2);
    cluster.await_ready(2);
    // The states are compared behind message 1,024.
    thread::scope(|scope| {
        for replica in [0, 1] {
            let cluster = &cluster;
            scope.spawn(move || (0..600).for_each(|_| assert_eq!(post(cluster, replica, "more"), 201)));
        }
    });
    await_apart(&cluster, 2, "behind message 1024 its records are not those of the other replicas");
    // Also after a restart.
    cluster.stop_replica(2);
    cluster.start_replica(2);
    wait_for("the replica to say so again", || cluster.log(2).contains("this replica stopped following its stream"));
    assert_eq!(get(cluster.address(2), "/ready").0, 503);
    // It is made anew from another's backup, while that one goes on.
    let dir = cluster.dir().path().to_owned();
    let at = |name: &str| dir.join(name).display().to_string();
    let (url, [data, backup, anew, secrets]) =
        (format!("http://{}", cluster.address(1)), ["data", "backup.ndjson", "anew", "secrets"].map(at));
    fs::write(&secrets, SECRET).unwrap();
    run(&["backup", "--from", &url, "--data", &data, "--output", &backup, "--secrets", &secrets]);
    run(&["restore", "--backup", &backup, "--data", &anew, "--as-replica"]);
    assert_eq!(post(&cluster, 1, "after the backup"), 201);
    cluster.stop_replica(2);
    fs::rename(cluster.data(2), at("inquest")).unwrap();
    fs::rename(at("anew"), cluster.data(2)).unwrap();
    cluster.start_replica(2);
    cluster.await_ready(2);
    assert_eq!(post(&cluster, 2, "is one of them again"), 201);
    let last = get(cluster.address(2), "/api/notes").2;
    wait_for("all to have that", || (0..2).all(|nth| get(cluster.address(nth), "/api/notes").2 == last));
    for replica in [0, 1] {
        assert_eq!((get(cluster.address(replica), "/ready").0, post(&cluster, replica, "goes on")), (200, 201));
    }
}

#[test]
fn a_replica_that_cannot_read_what_a_command_needs_takes_itself_out_and_the_others_go_on() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"},{"id":20,"text":"b"}]"#) else { return };
    cluster.stop_replica(1);
    let path = cluster.data(1).join("notes/db");
    let db = open_sled(&path);
    // The page of records 16 to 31.
    let key = [1, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut page = db.get(key).unwrap().unwrap().to_vec();
    *page.last_mut().unwrap() ^= 1;
    db.insert(key, page).unwrap();
    db.flush().unwrap();
    drop(db);
    cluster.start_replica(1);
    cluster.await_ready(1);
    let client = Client::with_secret(cluster.address(0), SECRET);
    assert_eq!(client.send("PATCH", "/api/notes/20", &[], r#"{"text":"c"}"#).status, 200);
    await_apart(&cluster, 1, "cannot be decided here");
    for replica in [0, 2] {
        assert_eq!((get(cluster.address(replica), "/ready").0, post(&cluster, replica, "goes on")), (200, 201));
    }
}

#[test]
fn a_replica_whose_disk_is_full_waits_for_room_and_catches_up() {
    let (dir, disk) = (split(r#"[{"id":1,"text":"a"}]"#), tempfile::tempdir().unwrap());
    let Some(_mounted) = mount(&["-t", "tmpfs", "-o", "size=192m", "none"], disk.path()) else { return };
    symlink(disk.path(), dir.path().join("replica-0")).unwrap();
    let Some(cluster) = Cluster::start_from(dir) else { return };
    let filler = disk.path().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 64 << 10]).is_ok() {}
    drop(file);
    // More than a lap of the journal, for which room was reserved.
    let text = "x".repeat(4000);
    let write = || (0..300).for_each(|_| assert_eq!(post(&cluster, 1, &text), 201));
    write();
    wait_for("the full disk to be noticed", || get(cluster.address(0), "/ready").0 == 503);
    assert_eq!(post(&cluster, 2, "goes on"), 201);
    assert_eq!(get(cluster.address(0), "/api/notes/1").0, 200, "reads go on");
    fs::remove_file(filler).unwrap();
    cluster.await_ready(0);
    write();
    // The beginning, and a message for each.
    let lists: Vec<_> = (0..COUNT).map(|nth| read_all(&cluster, nth, 602)).collect();
    assert!(lists.iter().all(|list| *list == lists[0]), "the replicas have other records");
    assert_eq!(serde_json::from_str::<Vec<Value>>(&lists[0].1).unwrap().len(), 602);
}

#[test]
fn a_replica_whose_disk_is_full_when_its_stream_changes_over_waits_for_room() {
    let (dir, disk) = (split(r#"[{"id":1,"text":"a"}]"#), tempfile::tempdir().unwrap());
    let Some(_mounted) = mount(&["-t", "tmpfs", "-o", "size=192m", "none"], disk.path()) else { return };
    symlink(disk.path(), dir.path().join("replica-0")).unwrap();
    let Some(mut cluster) = Cluster::start_from(dir) else { return };
    // The journal has that; the database's file gets it with the next sync.
    (0..30).for_each(|_| assert_eq!(post(&cluster, 1, &"x".repeat(4000)), 201));
    assert_eq!(read_all(&cluster, 0, 31).0, 200);
    store_snapshot(&cluster, 1);
    // The room that is reserved for what comes next goes, too: that behind the file's end, and that of its zeros.
    let path = disk.path().join("notes/db/db");
    let database = File::options().write(true).open(&path).unwrap();
    database.set_len(database.metadata().unwrap().len()).unwrap();
    assert!(Command::new("fallocate").arg("--dig-holes").arg(path).status().unwrap().success());
    let filler = disk.path().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4 << 10]).is_ok() {}
    drop(file);
    let new = fs::read_to_string(cluster.declaration(0)).unwrap().replace("4096", "20");
    for replica in 0..COUNT {
        fs::write(cluster.declaration(replica), &new).unwrap();
    }
    let plan = cluster.write_plan("new", &new);
    assert!(cluster.switch(&plan).status.success());
    for replica in [1, 2] {
        cluster.await_end(replica);
        cluster.start_replica(replica);
        cluster.await_ready(replica);
        assert_eq!(post(&cluster, replica, "goes on"), 201);
    }
    wait_for("the full disk to be noticed", || cluster.log(0).contains("is not followed for now: "));
    assert!(cluster.log(0).contains("the disk has no room"), "{}", cluster.log(0));
    assert_eq!((get(cluster.address(0), "/ready").0, get(cluster.address(0), "/api/notes/1").0), (503, 200));
    fs::remove_file(filler).unwrap();
    let log = cluster.await_end(0);
    assert!(log.contains("its stream has changed over to another declaration"), "{log}");
    cluster.start_replica(0);
    cluster.await_ready(0);
    let lists: Vec<_> = (0..COUNT).map(|nth| read_all(&cluster, nth, 34)).collect();
    assert!(lists.iter().all(|list| *list == lists[0]), "the replicas have other records");
}

#[test]
fn writes_go_on_when_a_brokers_disk_is_full_and_nothing_is_lost_when_those_of_most_are() {
    let (dir, disk) = (split(r#"[{"id":1,"text":"a"}]"#), tempfile::tempdir().unwrap());
    let disks: Vec<_> = (0..COUNT).map(|nth| disk.path().join(nth.to_string())).collect();
    let mut mounted = Vec::new();
    for (nth, disk) in disks.iter().enumerate() {
        fs::create_dir(disk).unwrap();
        let Some(unmount) = mount(&["-t", "tmpfs", "-o", "size=64m", "none"], disk) else { return };
        mounted.push(unmount);
        symlink(disk, dir.path().join(format!("broker-{nth}"))).unwrap();
    }
    let Some(mut cluster) = Cluster::start_from(dir) else { return };
    let fill = |nth: usize| {
        let mut file = File::create(disks[nth].join("filler")).unwrap();
        while file.write_all(&[0; 4 << 10]).is_ok() {}
    };
    let (text, mut answered) = ("x".repeat(4000), 0);
    // Each until it is answered, or for so many seconds.
    let mut write = |cluster: &Cluster, count: usize, patience: u64| {
        let before = answered;
        for nth in 0..count {
            let until = Instant::now() + Duration::from_secs(patience);
            while post(cluster, nth % COUNT, &text) != 201 {
                if Instant::now() > until {
                    return answered - before;
                }
                thread::sleep(Duration::from_millis(100));
            }
            answered += 1;
        }
        answered - before
    };
    assert_eq!(write(&cluster, 30, 60), 30);
    fill(0);
    assert_eq!(write(&cluster, 100, 60), 100, "one full disk stops no writes");
    fill(1);
    fill(2);
    assert!(write(&cluster, 20_000, 20) < 20_000, "the disks are not full");
    assert_eq!(get(cluster.address(0), "/api/notes/1").0, 200, "reads go on");
    for (nth, disk) in disks.iter().enumerate() {
        fs::remove_file(disk.join("filler")).unwrap();
        cluster.kill_broker(nth);
    }
    cluster.heal();
    (0..COUNT).for_each(|nth| cluster.await_ready(nth));
    assert_eq!(write(&cluster, 30, 60), 30);
    let last = Client::with_secret(cluster.address(0), SECRET).send("POST", "/api/notes", &[], r#"{"text":"last"}"#);
    assert_eq!(last.status, 201, "{}", last.body);
    let lists = || (0..COUNT).map(|nth| get(cluster.address(nth), "/api/notes").2).collect::<Vec<_>>();
    wait_for("all replicas to have all", || {
        lists().iter().all(|list| list.contains("\"last\"") && *list == lists()[0])
    });
    let records: Vec<Value> = serde_json::from_str(&lists()[0]).unwrap();
    // What was not answered may be there.
    assert!(records.len() >= answered + 2, "{} of {answered}", records.len());
}

#[test]
fn replicas_whose_clocks_are_hours_apart_agree() {
    if tool("faketime", "a replica whose clock is wrong").is_none() {
        return;
    }
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    for (replica, off) in [(1, "+1h"), (2, "-1h")] {
        cluster.stop_replica(replica);
        cluster.set_clock(replica, off);
        cluster.start_replica(replica);
        cluster.await_ready(replica);
    }
    let send = |replica: usize, key: &str| {
        let client = Client::with_secret(cluster.address(replica), SECRET);
        client.send("POST", "/api/notes", &[("idempotency-key", key)], &format!(r#"{{"text":"{key}"}}"#))
    };
    let dates: Vec<String> = (0..COUNT).map(|replica| date(cluster.address(replica))).collect();
    assert!(dates[0] != dates[1] && dates[1] != dates[2], "no clock is wrong: {dates:?}");
    // Also after a minute by the clock that is ahead, no message is late.
    for key in 0..9 {
        let answers: Vec<_> = (0..COUNT).map(|nth| send((key + nth) % COUNT, &key.to_string())).collect();
        assert!(answers.iter().all(|answer| answer.status == 201 && *answer == answers[0]), "{answers:?}");
    }
    let lists: Vec<_> = (0..COUNT).map(|nth| read_all(&cluster, nth, 28)).collect();
    assert!(lists.iter().all(|list| *list == lists[0]), "the replicas have other records");
    assert_eq!(serde_json::from_str::<Vec<Value>>(&lists[0].1).unwrap().len(), 10);
}

/// Returns the hour and minute by a service's clock.
fn date(address: SocketAddr) -> String {
    let answer = ureq::get(format!("http://{address}/live")).call().unwrap();
    answer.headers()["date"].to_str().unwrap().rsplit_once(':').unwrap().0.to_owned()
}

#[test]
fn a_replica_of_another_declaration_goes_on_by_that_of_the_stream() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    cluster.stop_replica(2);
    let declaration = fs::read_to_string(cluster.declaration(2)).unwrap();
    fs::write(cluster.declaration(2), declaration.replace("4096", "4095")).unwrap();
    cluster.start_replica(2);
    cluster.await_ready(2);
    // Before any command, too.
    for replica in [2, 0] {
        assert_eq!(post(&cluster, replica, &"x".repeat(4096)), 201);
    }
    for replica in 0..COUNT {
        assert_eq!(read_all(&cluster, replica, 3), read_all(&cluster, 0, 3));
        assert_eq!((get(cluster.address(replica), "/ready").0, post(&cluster, replica, "goes on")), (200, 201));
    }
}

#[test]
fn who_follows_the_changes_goes_on_at_another_replica() {
    // Those that are filled from the same slice have no history in common but the stream's.
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    cluster.stop_replica(1);
    fs::remove_dir_all(cluster.data(1).join("notes/db")).unwrap();
    cluster.start_replica(1);
    cluster.await_ready(1);
    let follow = |replica: usize, place: &str| {
        let path = format!("http://{}/api/notes/-/changes", cluster.address(replica));
        let answer = ureq::get(path).header("last-event-id", place).call().unwrap();
        BufReader::new(answer.into_body().into_reader()).lines().map(Result::unwrap)
    };
    // The next change: its place, and its data.
    fn read_change(lines: &mut impl Iterator<Item = String>) -> (String, String) {
        let mut place = String::new();
        let data = lines.find(|line| {
            place = line.strip_prefix("id: ").map_or(place.clone(), str::to_owned);
            line.starts_with("data: {\"")
        });
        (place, data.unwrap())
    }
    let (mut all, mut place) = (follow(0, "1"), String::from("1"));
    for (nth, text) in ["first", "second", "third"].into_iter().enumerate() {
        assert_eq!(post(&cluster, nth, text), 201);
        // The replica may be behind.
        let change = read_change(&mut follow((nth + 1) % COUNT, &place));
        assert!(change.1.contains(&format!(r#""text":"{text}""#)), "{change:?}");
        assert_eq!(read_change(&mut all), change);
        place = change.0;
    }
}

/// More records than a service indexes before it listens.
#[test]
fn no_command_is_decided_by_half_an_index() {
    let records: Vec<String> = (1..=25_000).map(|id| format!(r#"{{"id":{id},"text":"t{id}"}}"#)).collect();
    let Some(mut cluster) = Cluster::start(&format!("[{}]", records.join(","))) else { return };
    let declaration = fs::read_to_string(cluster.declaration(0)).unwrap();
    let index = r#"[{"number":2,"field":"text","route":"by-text","answers":"one","unique":true},"#;
    for replica in 0..COUNT {
        cluster.stop_replica(replica);
        fs::write(
            cluster.declaration(replica),
            declaration.replace("\"indexes\": [", &format!("\"indexes\": {index}")),
        )
        .unwrap();
        cluster.start_replica(replica);
        cluster.await_ready(replica);
    }
    let plan = cluster.write_plan("new", &fs::read_to_string(cluster.declaration(0)).unwrap());
    store_snapshot(&cluster, 0);
    assert!(cluster.switch(&plan).status.success());
    (0..COUNT).for_each(|replica| drop(cluster.await_end(replica)));
    for replica in [0, 1] {
        cluster.start_replica(replica);
        cluster.await_ready(replica);
    }
    let client = Client::with_secret(cluster.address(0), SECRET);
    let ids = || (1..=25_000).step_by(250);
    for id in ids() {
        let patched = client.send("PATCH", &format!("/api/notes/{id}"), &[], &format!(r#"{{"text":"new {id}"}}"#));
        assert_eq!(patched.status, 200, "{}", patched.body);
    }
    // It has all of that to apply, and its index to build.
    cluster.start_replica(2);
    cluster.await_ready(2);
    for id in ids() {
        for (text, status) in [(format!("t{id}"), 404), (format!("new%20{id}"), 200)] {
            assert_eq!(get(cluster.address(2), &format!("/api/notes/by-text/{text}")).0, status, "{text}");
        }
        // Of 1 there is no other.
        assert_eq!(post(&cluster, (id % 3) as usize, &format!("new {id}")), 409, "{id}");
    }
}

#[test]
fn what_a_frozen_broker_gets_too_late_has_no_effect() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    assert_eq!(post(&cluster, 0, "before"), 201);
    (0..COUNT).for_each(|nth| cluster.freeze_broker(nth));
    thread::scope(|scope| {
        for nth in 0..4 {
            let cluster = &cluster;
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(300 * nth));
                let status = post(cluster, 0, &format!("late {nth}"));
                assert!([503, 504].contains(&status), "{status}");
            });
        }
    });
    // All have an answer: the first are older than 10 s, and so is the last when its turn comes.
    cluster.heal();
    wait_for("writes to go on", || post(&cluster, 0, "after") == 201);
    let (_, list) = read_all(&cluster, 0, 3);
    assert!(!list.contains("late"), "{list}");
}

#[test]
fn a_newer_file_does_not_change_the_database_of_a_replica() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    assert_eq!(post(&cluster, 0, "in the stream"), 201);
    cluster.stop_replica(0);
    let at = |name: &str| cluster.dir().path().join(name).display().to_string();
    let [plan, newer, data, notes] = ["plan", "newer.json", "data", "data/notes"].map(at);
    fs::write(&newer, r#"{"notes":[{"id":1,"text":"changed"},{"id":7,"text":"new"}]}"#).unwrap();
    fs::remove_dir_all(&notes).unwrap();
    fs::rename(cluster.data(0).join("notes"), &notes).unwrap();
    let refused = seed(["--plan", &plan, "--input", &newer, "--data", &data]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("this is the database of a replica"), "{said}");
    fs::rename(&notes, cluster.data(0).join("notes")).unwrap();
    cluster.start_replica(0);
    cluster.await_ready(0);
    assert_eq!(get(cluster.address(0), "/api/notes").2, get(cluster.address(1), "/api/notes").2);
}

#[test]
fn a_body_of_many_lines_is_one_command() {
    let Some(cluster) = Cluster::start("[]") else { return };
    let body = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000)).repeat(1000);
    assert_eq!(post_lines(&cluster, 0, &body), 201);
    assert_eq!(read_all(&cluster, 1, 2), read_all(&cluster, 2, 2));
    assert_eq!(serde_json::from_str::<Vec<Value>>(&read_all(&cluster, 1, 2).1).unwrap().len(), 1000);
}

/// Returns the bytes of a list of notes as long as that, for a POST of lines.
fn lines(text: &str, bytes: usize) -> String {
    let line = format!("{{\"text\":\"{text}{}\"}}\n", "x".repeat(1000));
    line.repeat(bytes / line.len())
}

/// Sends lines; returns the answer's status.
fn post_lines(cluster: &Cluster, replica: usize, body: &str) -> u16 {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let request = ureq::Agent::from(config.build()).post(format!("http://{}/api/notes", cluster.address(replica)));
    let request = request.header("content-type", "application/x-ndjson");
    request.header("authorization", format!("Bearer {SECRET}")).send(body).unwrap().status().as_u16()
}

/// Stores a snapshot of a replica; returns the number of the message behind which it is, and how many were removed.
fn store_snapshot(cluster: &Cluster, replica: usize) -> (u64, u64) {
    let output = cluster.store_snapshot(replica);
    let (said, wrong) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{wrong}");
    let row: Vec<&str> =
        said.lines().map(str::trim).find(|line| line.starts_with("notes ")).unwrap().split_whitespace().collect();
    (row[1].parse().unwrap(), row[4].parse().unwrap())
}

#[test]
fn a_replica_without_a_database_and_one_that_was_outrun_begin_with_a_snapshot() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    cluster.stop_replica(2);
    // Kept answers and slugs are in it, too.
    let first = |replica| {
        let client = Client::with_secret(cluster.address(replica), SECRET);
        client.send("POST", "/api/notes", &[("idempotency-key", "k")], r#"{"text":"b","slug":"s"}"#)
    };
    let answered = first(0);
    assert_eq!(answered.status, 201);
    assert_eq!(store_snapshot(&cluster, 0), (2, 0));
    assert_eq!(post(&cluster, 1, "between"), 201);
    assert_eq!(read_all(&cluster, 0, 3).0, 200);
    // Messages up to the older of two go; the one that it ends with stays.
    assert_eq!(store_snapshot(&cluster, 0), (3, 1));
    assert_eq!(post(&cluster, 1, "after both"), 201);

    // Its folder is empty, but there is a slice, which is too old.
    fs::remove_dir_all(cluster.data(2).join("notes")).unwrap();
    cluster.start_replica(2);
    cluster.await_ready(2);
    assert!(cluster.log(2).contains("loads the snapshot behind message 3"), "{}", cluster.log(2));
    let all = read_all(&cluster, 1, 4);
    assert_eq!(read_all(&cluster, 2, 4), all);
    assert_eq!(get(cluster.address(2), "/api/notes/by-slug/s"), get(cluster.address(0), "/api/notes/by-slug/s"));
    let client = Client::with_secret(cluster.address(2), SECRET);
    let again = client.send("POST", "/api/notes", &[("idempotency-key", "k")], r#"{"text":"b","slug":"s"}"#);
    assert_eq!(again, answered);
    assert_eq!(post(&cluster, 2, "by the new one"), 201);

    // One whose position is no longer in the stream.
    cluster.kill_replica(1);
    for _ in 0..3 {
        assert_eq!(post(&cluster, 0, "without it"), 201);
        store_snapshot(&cluster, 0);
    }
    assert_eq!(post(&cluster, 2, "without it"), 201);
    cluster.start_replica(1);
    let log = cluster.await_end(1);
    for said in ["it begins again with a snapshot", "is a replica up to message", "restart the service"] {
        assert!(log.contains(said), "{said:?} is not in {log}");
    }
    cluster.start_replica(1);
    cluster.await_ready(1);
    let all = read_all(&cluster, 0, 9);
    for replica in [1, 2] {
        assert_eq!(read_all(&cluster, replica, 9), all);
    }

    // One that follows no stream may have what is nowhere else.
    cluster.stop_replica(1);
    fs::rename(cluster.data(1), cluster.dir().path().join("put-aside")).unwrap();
    fs::create_dir(cluster.data(1)).unwrap();
    copy(&cluster.dir().path().join("data/notes"), &cluster.data(1));
    cluster.start_replica(1);
    wait_for("it to answer", || try_get(cluster.address(1), "/live").is_some());
    await_apart(&cluster, 1, "follows none yet: put it aside");
    cluster.stop_replica(1);
    assert!(cluster.data(1).join("notes/db").exists());
    // A killed one begins again, and no half of a snapshot passes for a database.
    fs::remove_dir_all(cluster.data(1).join("notes")).unwrap();
    for pause in (0..400).step_by(40) {
        cluster.start_replica(1);
        thread::sleep(Duration::from_millis(pause));
        cluster.kill_replica(1);
    }
    cluster.start_replica(1);
    cluster.await_ready(1);
    assert_eq!(read_all(&cluster, 1, 9), all);
}

/// Works with the broker as the owner of a key of the stream.
fn ask_broker<T>(cluster: &Cluster, key: &str, work: impl AsyncFnOnce(broker::Broker) -> T) -> T {
    let servers: Vec<broker::Server> = cluster.broker().split(',').map(|url| url.parse().unwrap()).collect();
    let key = fs::read_to_string(cluster.dir().path().join("keys").join(key)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work(broker::Broker::connect(&servers, Some(key), "notes", "test").await.unwrap()).await })
}

/// Stores `bytes` as a snapshot behind message `sequence`; returns whether the broker takes it.
fn store_bytes(cluster: &Cluster, key: &str, sequence: u64, bytes: &[u8]) -> bool {
    ask_broker(cluster, key, async |broker| {
        let stream = broker.state().await.unwrap();
        broker.store_snapshot(&stream.identity, sequence, bytes).await.is_ok()
    })
}

/// Waits until a replica is not ready since it loads something, and says this about it.
fn await_loading(cluster: &Cluster, replica: usize, expected: &str) {
    wait_for(expected, || {
        try_get(cluster.address(replica), "/ready").is_some_and(|(status, _, body)| {
            status == 503 && body.contains("problems#loading") && body.contains(expected)
        })
    });
}

#[test]
fn an_outrun_replica_answers_reads_until_there_is_a_snapshot_that_is_whole() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    assert_eq!(post(&cluster, 0, "all have it"), 201);
    let before = read_all(&cluster, 2, 2).1;
    cluster.stop_replica(2);
    for _ in 0..3 {
        assert_eq!(post(&cluster, 0, "without it"), 201);
    }
    assert_eq!(ask_broker(&cluster, "notes.admin.nk", async |broker| broker.purge(5).await.unwrap()), 4);
    cluster.start_replica(2);
    let address = cluster.address(2);
    await_loading(
        &cluster,
        2,
        "The stream no longer has what this replica lacks. The service can load no snapshot yet",
    );
    // Neither without a snapshot nor with a broken one.
    assert_eq!(
        (get(address, "/live").0, get(address, "/api/notes").2, post(&cluster, 2, "no")),
        (200, before.clone(), 503)
    );
    assert!(store_bytes(&cluster, "notes.admin.nk", 5, b"no backup"));
    wait_for("it to try that", || cluster.log(2).contains("the snapshot behind message 5 cannot be loaded"));
    await_loading(&cluster, 2, "no snapshot that is whole has those before it");
    assert_eq!(get(address, "/api/notes").2, before);
    store_snapshot(&cluster, 0);
    while let Some((status, _, list)) = try_get(address, "/api/notes") {
        assert_eq!((status, &list), (200, &before), "reads go on while it loads");
    }
    let log = cluster.await_end(2);
    assert!(log.contains("is a replica up to message 5") && log.contains("restart the service"), "{log}");
    cluster.start_replica(2);
    cluster.await_ready(2);
    assert_eq!(post(&cluster, 2, "again"), 201);
    assert_eq!(read_all(&cluster, 2, 6), read_all(&cluster, 0, 6));

    // Without a database it lives, too, and waits for the broker.
    cluster.stop_replica(2);
    fs::remove_dir_all(cluster.data(2).join("notes")).unwrap();
    cluster.cut_replica(2, &[0, 1, 2]);
    cluster.start_replica(2);
    await_loading(&cluster, 2, "The service can load no snapshot yet: the broker does not answer");
    assert_eq!((get(address, "/live").0, get(address, "/api/notes/1").0), (200, 503));
    cluster.heal();
    cluster.await_ready(2);
    assert_eq!(read_all(&cluster, 2, 6), read_all(&cluster, 0, 6));
}

#[test]
fn a_snapshot_that_is_not_whole_is_neither_loaded_nor_does_it_shorten_the_stream() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    assert_eq!(post(&cluster, 0, "b"), 201);
    assert_eq!(store_snapshot(&cluster, 0), (2, 0));
    assert_eq!(post(&cluster, 0, "c"), 201);
    // The service's own key stores none and removes nothing.
    assert!(!store_bytes(&cluster, "notes.nk", 3, b"anything"));
    assert!(ask_broker(&cluster, "notes.nk", async |broker| broker.purge(2).await.is_err()));
    let whole = fs::read(cluster.dir().path().join("data/notes/db.json")).unwrap();
    assert!(store_bytes(&cluster, "notes.admin.nk", 3, &whole), "the administrator may");
    cluster.stop_replica(2);
    fs::remove_dir_all(cluster.data(2).join("notes/db")).unwrap();
    cluster.start_replica(2);
    cluster.await_ready(2);
    let log = cluster.log(2);
    assert!(
        log.contains("the snapshot behind message 3 cannot be loaded: line 1: ") && log.contains("behind message 2"),
        "{log}"
    );
    assert_eq!(read_all(&cluster, 2, 3), read_all(&cluster, 0, 3));
    // Of two there, one is not whole.
    assert_eq!(post(&cluster, 0, "d"), 201);
    assert_eq!(read_all(&cluster, 1, 4).0, 200);
    assert_eq!(store_snapshot(&cluster, 1), (4, 1), "the older of two that are whole is behind message 2, which stays");

    // The broker has their names, but loses their pieces: this is no broker that is slow.
    let key = fs::read_to_string(cluster.dir().path().join("keys/notes.admin.nk")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = async_nats::ConnectOptions::with_nkey(key.trim().to_owned());
        let client = options.connect(cluster.broker().split(',').next().unwrap()).await.unwrap();
        let bucket = async_nats::jetstream::new(client).get_stream("OBJ_snapshots-notes").await.unwrap();
        assert!(bucket.purge().filter("$O.snapshots-notes.C.>").await.unwrap().purged >= 2);
    });
    let began = Instant::now();
    assert_eq!(post(&cluster, 0, "e"), 201);
    assert_eq!(read_all(&cluster, 1, 5).0, 200);
    for (text, stored) in [("f", (5, 0)), ("g", (6, 3))] {
        assert_eq!(store_snapshot(&cluster, 1), stored, "those without pieces do not count, and are removed");
        assert_eq!(post(&cluster, 0, text), 201);
        assert_eq!(read_all(&cluster, 1, stored.0 + 1).0, 200);
    }
    // A slow broker is waited for 30 s, each time.
    assert!(began.elapsed() < Duration::from_secs(50), "each was waited for");
}

#[test]
fn a_snapshot_that_is_removed_while_it_is_read_is_not_waited_for() {
    let Some(cluster) = Cluster::start("[]") else { return };
    let stored: Vec<u8> = (0..48_u32 << 18).flat_map(u32::to_le_bytes).collect();
    assert!(store_bytes(&cluster, "notes.admin.nk", 1, &stored));
    let began = Instant::now();
    let (begin, rest) = ask_broker(&cluster, "notes.admin.nk", async |broker| {
        let identity = broker.state().await.unwrap().identity;
        let snapshots = broker.list_snapshots(&identity).await.unwrap();
        let mut reader = broker.open_snapshot(&snapshots[0]).await.unwrap().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut begin = [0; 8];
            reader.read_exact(&mut begin).unwrap();
            (reader, begin)
        });
        let (mut reader, begin) = read.await.unwrap();
        broker.remove_snapshots(&snapshots).await.unwrap();
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).map(|_| rest)
        });
        (begin, rest.await.unwrap())
    });
    assert_eq!(begin, stored[..8]);
    match rest {
        Ok(rest) => assert!(rest == stored[8..], "all of it was under way, and came in part"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}"),
    }
    assert!(began.elapsed() < Duration::from_secs(25), "a slow broker is waited for 30 s, this one was, too");
}

#[test]
fn snapshots_are_stored_again_and_again_also_after_one_that_failed() {
    let Some(mut cluster) = Cluster::start("[]") else { return };
    let mut command = Command::new(program("seed"));
    let storing = Process::start(command.args(cluster.storing(0)).args(["--every", "1"]));
    let await_shorter = |cluster: &Cluster, than: u64| {
        assert_eq!(post(cluster, 1, "more"), 201);
        wait_for("the stream to be shortened", || {
            ask_broker(cluster, "notes.nk", async |broker| broker.state().await.unwrap().first > than)
        });
    };
    await_shorter(&cluster, 1);
    cluster.stop_replica(0);
    let before = storing.log().len();
    wait_for("a snapshot to fail", || storing.log()[before..].contains("notes: "));
    cluster.start_replica(0);
    cluster.await_ready(0);
    await_shorter(&cluster, 2);
}

#[test]
fn a_collection_without_a_snapshot_does_not_keep_others_from_theirs() {
    let Some(cluster) = Cluster::start("[]") else { return };
    assert_eq!(post(&cluster, 1, "more"), 201);
    let plan = cluster.write_plan_of_two("two").display().to_string();
    let mut storing = cluster.storing(0);
    let place = storing.iter().position(|argument| argument == "--plan").unwrap();
    storing[place + 1] = plan;
    let output = seed(storing);
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("drafts: ") && said.contains("Stored: notes"), "{said}");
    // The broker's server that answers may be behind.
    let count = || {
        ask_broker(&cluster, "notes.nk", async |broker| {
            let stream = broker.state().await.unwrap();
            broker.list_snapshots(&stream.identity).await.unwrap().len()
        })
    };
    wait_for("one snapshot", || count() == 1);
}

#[test]
fn a_full_stream_takes_writes_again_when_two_snapshots_have_what_is_in_it() {
    let Some(cluster) = Cluster::start_with_room(split("[]"), 4) else { return };
    let body = lines("n", 200 << 10);
    let mut answered = 0;
    while post_lines(&cluster, 0, &body) == 201 || post(&cluster, 1, &"n".repeat(4000)) == 201 {
        answered += 1;
        assert!(answered < 400, "the stream takes all");
    }
    let (_, list) = read_all(&cluster, 1, answered + 1);
    // Of one snapshot there is no second copy.
    assert_eq!(store_snapshot(&cluster, 0).1, 0);
    assert!(store_snapshot(&cluster, 1).1 >= answered);
    wait_for("room", || post(&cluster, 0, "room again") == 201);
    wait_for("room at the other", || post(&cluster, 1, "room again") == 201);
    assert!(read_all(&cluster, 2, answered + 3).1.starts_with(list.strip_suffix(']').unwrap()));
}

#[test]
fn replicas_of_two_declarations_agree_while_they_are_updated_one_by_one_and_change_over_together() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    let old = fs::read_to_string(cluster.declaration(0)).unwrap();
    // Shorter texts, which may be there only once.
    let index = r#"[{"number":2,"field":"text","route":"by-text","answers":"one","unique":true},"#;
    let new = old.replace("4096", "20").replace("\"indexes\": [", &format!("\"indexes\": {index}"));
    let plan = cluster.write_plan("new", &new);
    assert_eq!(post(&cluster, 0, "first"), 201);
    let (addresses, end) = ((0..COUNT).map(|nth| cluster.address(nth)).collect::<Vec<_>>(), AtomicBool::new(false));
    let answered = Mutex::new(Vec::new());
    let long = "x".repeat(4000);
    thread::scope(|scope| {
        let _ended = EndOnPanic(&end);
        for client in 0..2 {
            let (addresses, end, answered) = (&addresses, &end, &answered);
            scope.spawn(move || {
                for number in 0.. {
                    let text = format!("{client} {number}");
                    let body = format!(r#"{{"text":"{text}"}}"#);
                    // Until it is answered, at any replica: a write that was refused for the change has no effect.
                    for attempt in 0.. {
                        if end.load(Ordering::Relaxed) {
                            return;
                        }
                        let client = Client::with_secret(addresses[(number + attempt) % COUNT], SECRET);
                        let sent = client.try_send("POST", "/api/notes", &[("idempotency-key", &text)], &body);
                        if sent.is_some_and(|answer| answer.status == 201) {
                            lock(answered).push(text);
                            break;
                        }
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        }
        for replica in 0..COUNT {
            let before = lock(&answered).len();
            cluster.stop_replica(replica);
            fs::write(cluster.declaration(replica), &new).unwrap();
            cluster.start_replica(replica);
            cluster.await_ready(replica);
            // By the declaration of the others.
            let ready = get(cluster.address(replica), "/ready");
            assert_eq!(post(&cluster, replica, &long), 201, "{ready:?}");
            assert_eq!(post(&cluster, replica, &long), 201);
            assert_eq!(get(cluster.address(replica), "/api/notes/by-text/first").0, 404);
            assert!(cluster.log(replica).contains("is decided by another declaration of notes"));
            wait_for("writes beside it", || lock(&answered).len() > before + 10);
        }
        // One is not updated after all; and of a text there may be one alone from now on.
        cluster.stop_replica(2);
        fs::write(cluster.declaration(2), &old).unwrap();
        cluster.start_replica(2);
        cluster.await_ready(2);
        let list: Vec<Value> = serde_json::from_str(&get(cluster.address(0), "/api/notes").2).unwrap();
        let client = Client::with_secret(cluster.address(0), SECRET);
        for id in list.iter().filter(|note| note["text"] == *long).map(|note| note["id"].to_string()) {
            assert_eq!(
                client.send("PATCH", &format!("/api/notes/{id}"), &[], &format!(r#"{{"text":"was {id}"}}"#)).status,
                200
            );
        }
        store_snapshot(&cluster, 0);
        assert!(cluster.switch(&plan).status.success());
        for replica in 0..COUNT {
            let log = cluster.await_end(replica);
            assert!(log.contains("its stream has changed over to another declaration; restart the service"), "{log}");
        }
        // The one that was not updated, too.
        for replica in 0..COUNT {
            cluster.start_replica(replica);
            cluster.await_ready(replica);
        }
        assert!(cluster.log(2).contains("is decided by another declaration of notes"), "{}", cluster.log(2));
        let before = lock(&answered).len();
        wait_for("writes after the change", || lock(&answered).len() > before + 10);
        end.store(true, Ordering::Relaxed);
    });
    for replica in 0..COUNT {
        assert_eq!(post(&cluster, replica, &long), 422, "too long now");
        assert_eq!(post(&cluster, replica, "first"), 409, "there already");
    }
    let last = Client::with_secret(cluster.address(0), SECRET).send("POST", "/api/notes", &[], r#"{"text":"last"}"#);
    assert_eq!(last.status, 201);
    wait_for("all to have the last", || {
        (0..COUNT).all(|nth| get(cluster.address(nth), "/api/notes/by-text/last").0 == 200)
    });
    let lists: Vec<_> = (0..COUNT).map(|nth| get(cluster.address(nth), "/api/notes").2).collect();
    assert!(lists.iter().all(|list| *list == lists[0]), "the replicas have other records");
    let records: Vec<Value> = serde_json::from_str(&lists[0]).unwrap();
    for text in lock(&answered).iter() {
        assert_eq!(records.iter().filter(|record| record["text"] == **text).count(), 1, "{text}");
    }
    for nth in 0..COUNT {
        assert_eq!(Client::with_secret(cluster.address(nth), SECRET).send("POST", "/scrub", &[], "").status, 200);
    }
    // A new one begins with the snapshot of before the change, and changes over by itself.
    cluster.stop_replica(1);
    fs::remove_dir_all(cluster.data(1).join("notes")).unwrap();
    cluster.start_replica(1);
    let log = cluster.await_end(1);
    assert!(log.contains("loads the snapshot") && log.contains("its stream has changed over"), "{log}");
    cluster.start_replica(1);
    cluster.await_ready(1);
    assert_eq!(get(cluster.address(1), "/api/notes").2, lists[0]);
}

/// More records than a service indexes before it listens.
#[test]
fn a_new_index_comes_with_each_replicas_update_without_a_change_over_and_without_a_pause() {
    let records: Vec<String> = (1..=25_000).map(|id| format!(r#"{{"id":{id},"text":"t{}"}}"#, id % 1000)).collect();
    let Some(mut cluster) = Cluster::start(&format!("[{}]", records.join(","))) else { return };
    let old = fs::read_to_string(cluster.declaration(0)).unwrap();
    let index = r#"[{"number":2,"field":"text","route":"with-text"},"#;
    let new = old.replace("\"indexes\": [", &format!("\"indexes\": {index}"));
    let plan = cluster.write_plan("new", &new);
    assert_eq!(post(&cluster, 0, "before"), 201);
    let addresses: Vec<_> = (0..COUNT).map(|nth| cluster.address(nth)).collect();
    let (end, reads, writes) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _ended = EndOnPanic(&end);
        // As the entrance does, both take the next replica if one does not answer.
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let read = |address: &SocketAddr| try_get(*address, "/api/notes/7").is_some_and(|read| read.0 == 200);
                assert!(addresses.iter().any(read), "nobody answers a read");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            for number in 0.. {
                let body = format!(r#"{{"text":"meanwhile {number}"}}"#);
                let key = format!("w{number}");
                for attempt in 0.. {
                    if end.load(Ordering::Relaxed) {
                        return;
                    }
                    let client = Client::with_secret(addresses[(number + attempt) % COUNT], SECRET);
                    let sent = client.try_send("POST", "/api/notes", &[("idempotency-key", &key)], &body);
                    if sent.is_some_and(|answer| answer.status == 201) {
                        writes.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
        for replica in 0..COUNT {
            cluster.stop_replica(replica);
            fs::write(cluster.declaration(replica), &new).unwrap();
            cluster.start_replica(replica);
            cluster.await_ready(replica);
            assert_eq!(get(cluster.address(replica), "/ready").2, "ready");
            // Beside those of the old declaration.
            let before = writes.load(Ordering::Relaxed);
            wait_for("writes beside it", || writes.load(Ordering::Relaxed) > before + 10);
            let note = Client::with_secret(cluster.address(replica), SECRET);
            let text = format!("by {replica}");
            let posted = note.send("POST", "/api/notes", &[], &format!(r#"{{"text":"{text}"}}"#));
            assert_eq!(posted.status, 201, "{}", posted.body);
            for (text, count) in [("t7", 25), (&*text, 1)] {
                let path = format!("/api/notes/with-text/{}", text.replace(' ', "%20"));
                assert_eq!(get(cluster.address(replica), &path).2.matches("\"id\":").count(), count, "{text}");
            }
            assert!(!cluster.log(replica).contains("is decided by another declaration"), "{}", cluster.log(replica));
        }
        end.store(true, Ordering::Relaxed);
    });
    assert!(reads.into_inner() > 0);
    // One goes back to the version before, which does not keep the index, and forth again.
    for (declaration, status) in [(&old, 404), (&new, 200)] {
        cluster.stop_replica(2);
        fs::write(cluster.declaration(2), declaration).unwrap();
        cluster.start_replica(2);
        cluster.await_ready(2);
        assert_eq!(post(&cluster, 2, "back and forth"), 201);
        assert_eq!(get(cluster.address(2), "/api/notes/with-text/t7").0, status);
    }
    let both = get(cluster.address(2), "/api/notes/with-text/back%20and%20forth").2;
    assert_eq!(both.matches("\"id\":").count(), 2, "{both}");
    let lists = |cluster: &Cluster| {
        assert_eq!(post(cluster, 0, "last"), 201);
        let last = |nth| get(cluster.address(nth), "/api/notes/with-text/last").2;
        wait_for("all to have the last", || (0..COUNT).all(|nth| last(nth) == last(0)));
        (0..COUNT).map(|nth| get(cluster.address(nth), "/api/notes").2).collect::<Vec<_>>()
    };
    let before = lists(&cluster);
    assert!(before.iter().all(|list| *list == before[0]), "the replicas have other records");
    // A new replica begins with a snapshot of them.
    store_snapshot(&cluster, 0);
    cluster.stop_replica(1);
    fs::remove_dir_all(cluster.data(1).join("notes")).unwrap();
    cluster.start_replica(1);
    cluster.await_ready(1);
    assert_eq!(get(cluster.address(1), "/api/notes").2, before[0]);
    assert_eq!(get(cluster.address(1), "/api/notes/with-text/t7").2.matches("\"id\":").count(), 25);
    // So does one that is made anew from a backup.
    let dir = cluster.dir().path().to_owned();
    let at = |name: &str| dir.join(name).display().to_string();
    let (url, [data, backup, anew, secrets]) =
        (format!("http://{}", cluster.address(0)), ["data", "backup.ndjson", "anew", "secrets"].map(at));
    fs::write(&secrets, SECRET).unwrap();
    run(&["backup", "--from", &url, "--data", &data, "--output", &backup, "--secrets", &secrets]);
    assert!(fs::read_to_string(&backup).unwrap().contains(r#""ruled":"#), "it does not name the stream's declaration");
    run(&["restore", "--backup", &backup, "--data", &anew, "--as-replica"]);
    cluster.stop_replica(2);
    fs::remove_dir_all(cluster.data(2)).unwrap();
    fs::rename(at("anew"), cluster.data(2)).unwrap();
    cluster.start_replica(2);
    cluster.await_ready(2);
    assert!(!cluster.log(2).contains("is decided by another declaration"), "{}", cluster.log(2));
    assert_eq!(get(cluster.address(2), "/api/notes").2, before[0]);
    assert_eq!(post(&cluster, 2, "by one from a backup"), 201);
    // The stream can change over to it all the same.
    assert!(cluster.switch(&plan).status.success());
    (0..COUNT).for_each(|replica| drop(cluster.await_end(replica)));
    for replica in 0..COUNT {
        cluster.start_replica(replica);
        cluster.await_ready(replica);
    }
    let after = lists(&cluster);
    assert!(after.iter().all(|list| *list == after[0]) && after[0].len() > before[0].len(), "other records");
}

#[test]
fn a_change_that_the_records_contradict_can_be_taken_back() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"},{"id":2,"text":"a"}]"#) else { return };
    let old = fs::read_to_string(cluster.declaration(0)).unwrap();
    let index = r#"[{"number":2,"field":"text","route":"by-text","answers":"one","unique":true},"#;
    let new = old.replace("\"indexes\": [", &format!("\"indexes\": {index}"));
    let plans = [cluster.write_plan("new", &new), cluster.write_plan("old", &old)];
    assert_eq!(post(&cluster, 0, "before"), 201);
    for replica in 0..COUNT {
        cluster.stop_replica(replica);
        fs::write(cluster.declaration(replica), &new).unwrap();
        cluster.start_replica(replica);
        cluster.await_ready(replica);
    }
    let refused = cluster.switch(&plans[0]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("notes: there is no snapshot, without which"), "{said}");
    store_snapshot(&cluster, 0);
    assert!(cluster.switch(&plans[0]).status.success());
    for replica in 0..COUNT {
        cluster.await_end(replica);
    }
    // They serve what they have by the declaration before, and write nothing; after another start, too.
    for replica in [0, 1, 2, 0] {
        cluster.stop_replica(replica);
        cluster.start_replica(replica);
        cluster.await_ready(replica);
        assert_eq!(post(&cluster, replica, "nowhere"), 503);
        assert_eq!(get(cluster.address(replica), "/api/notes/1").0, 200);
    }
    assert!(cluster.log(1).contains("unique"), "{}", cluster.log(1));
    assert!(cluster.switch(&plans[1]).status.success());
    for replica in 0..COUNT {
        wait_for("writes", || post(&cluster, replica, "after") == 201);
    }
    let last = read_all(&cluster, 0, 7).1;
    assert!(last.contains("after") && !last.contains("nowhere"), "{last}");
    // What is no contradiction any more can be changed over to.
    let client = Client::with_secret(cluster.address(0), SECRET);
    for note in serde_json::from_str::<Vec<Value>>(&last).unwrap() {
        let id = &note["id"];
        assert_eq!(
            client.send("PATCH", &format!("/api/notes/{id}"), &[], &format!(r#"{{"text":"{id}"}}"#)).status,
            200
        );
    }
    assert!(cluster.switch(&plans[0]).status.success());
    (0..COUNT).for_each(|replica| drop(cluster.await_end(replica)));
    for replica in 0..COUNT {
        cluster.start_replica(replica);
        cluster.await_ready(replica);
        assert_eq!(get(cluster.address(replica), "/api/notes/by-text/1").0, 200);
        assert_eq!(post(&cluster, replica, "1"), 409);
    }
}

/// The brokers lose all they have, and replicas begin a new stream with what one of them has: the steps of
/// docs/replicas.md.
#[test]
fn a_stream_that_was_made_anew_is_refused_until_it_begins_with_what_replicas_have() {
    let Some(mut cluster) = Cluster::start(r#"[{"id":1,"text":"a"}]"#) else { return };
    assert_eq!(post(&cluster, 0, "in the old stream"), 201);
    assert_eq!(read_all(&cluster, 1, 2).0, 200);
    cluster.make_stream_anew();
    for replica in 0..COUNT {
        await_apart(&cluster, replica, "was made anew");
    }
    let dir = cluster.dir().path().to_owned();
    let at = |name: &str| dir.join(name).display().to_string();
    let (url, [data, backup, anew, secrets]) =
        (format!("http://{}", cluster.address(1)), ["data", "backup.ndjson", "anew", "secrets"].map(at));
    let kept = get(cluster.address(1), "/api/notes").2;
    fs::write(&secrets, SECRET).unwrap();
    run(&["backup", "--from", &url, "--data", &data, "--output", &backup, "--secrets", &secrets]);
    run(&["restore", "--backup", &backup, "--data", &anew, "--as-replica"]);
    run(&["streams", "leave", "--data", &anew]);
    (0..COUNT).for_each(|replica| cluster.stop_replica(replica));
    cluster.create_stream_of("anew", &["--anew"]);
    for replica in 0..COUNT {
        fs::rename(cluster.data(replica), at(&format!("inquest-{replica}"))).unwrap();
        fs::create_dir(cluster.data(replica)).unwrap();
        copy(&dir.join("anew/notes"), &cluster.data(replica));
        cluster.start_replica(replica);
    }
    for replica in 0..COUNT {
        cluster.await_ready(replica);
        assert_eq!(get(cluster.address(replica), "/api/notes").2, kept);
    }
    for replica in 0..COUNT {
        assert_eq!(post(&cluster, replica, "in the new stream"), 201);
    }
    let last = read_all(&cluster, 0, 4).1;
    assert_eq!(serde_json::from_str::<Vec<Value>>(&last).unwrap().len(), 5);
    for replica in 1..COUNT {
        assert_eq!(read_all(&cluster, replica, 4).1, last);
    }
    // One that comes back with the old stream's position is refused.
    cluster.stop_replica(2);
    fs::rename(cluster.data(2), at("put-aside")).unwrap();
    fs::rename(at("inquest-2"), cluster.data(2)).unwrap();
    cluster.start_replica(2);
    wait_for("it to answer", || try_get(cluster.address(2), "/live").is_some());
    await_apart(&cluster, 2, "was made anew");
}

/// The steps of docs/deploy.md.
#[test]
fn a_running_service_becomes_replicated_and_single_again_and_loses_nothing() {
    if tool("nats-server", "a replicated service").is_none() {
        return;
    }
    let (old, new) = (split(r#"[{"id":1,"text":"a"}]"#), split("[]"));
    let (mut single, address) = start_single(old.path());
    let at = |dir: &TempDir, name: &str| dir.path().join(name).display().to_string();
    let post = |address, key: &str| {
        let body = format!(r#"{{"text":"{key}"}}"#);
        Client::with_secret(address, SECRET).send("POST", "/api/notes", &[("idempotency-key", key)], &body)
    };
    let first = post(address, "first");
    assert_eq!(first.status, 201, "{}", first.body);
    // Whoever is asked by clients.
    let (current, end) = (Mutex::new(address), AtomicBool::new(false));
    let switch = |to: SocketAddr| *lock(&current) = to;
    let back = thread::scope(|scope| {
        let _ended = EndOnPanic(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let asked = lock(&current);
                assert_eq!(get(*asked, &first.location).0, 200);
            }
        });
        // No more writes, but reads go on. What it has goes into a backup, and from there to the replicas.
        let take = |address: SocketAddr, from: &TempDir, to: &TempDir| {
            assert_eq!(post(address, "too late").status, 401);
            let (backup, secrets) = (at(to, "backup.ndjson"), at(to, "secrets"));
            fs::write(&secrets, OPERATOR).unwrap();
            let url = format!("http://{address}");
            run(&["backup", "--from", &url, "--data", &at(from, "data"), "--output", &backup, "--secrets", &secrets]);
            fs::remove_dir_all(to.path().join("data")).unwrap();
            run(&["restore", "--backup", &backup, "--data", &at(to, "data")]);
        };
        let stop_writes = |dir: &TempDir| fs::write(dir.path().join("tokens"), token("operator", OPERATOR)).unwrap();
        stop_writes(&old);
        single.signal("HUP");
        single.await_line("reloaded");
        take(address, &old, &new);
        let mut cluster = Cluster::start_from(new).unwrap();
        switch(cluster.address(0));
        drop(single);

        for replica in 0..COUNT {
            assert_eq!(post(cluster.address(replica), "first"), first, "replica {replica}");
        }
        let second = post(cluster.address(1), "second");
        assert_eq!(second.status, 201, "{}", second.body);
        let third = post(cluster.address(2), "third");
        assert_eq!(third.status, 201, "{}", third.body);
        assert_eq!(read_all(&cluster, 0, 4).0, 200);

        // And back.
        let back = split("[]");
        let replica = cluster.address(0);
        stop_writes(cluster.dir());
        cluster.hang_up();
        take(replica, cluster.dir(), &back);
        let (single, address) = start_single(back.path());
        switch(address);
        cluster.stop_replica(0);
        drop(cluster);
        for (key, answer) in [("first", first.clone()), ("second", second), ("third", third)] {
            assert_eq!(post(address, key), answer);
        }
        assert_eq!(post(address, "fourth").status, 201);
        assert_eq!(serde_json::from_str::<Vec<Value>>(&get(address, "/api/notes").2).unwrap().len(), 5);
        end.store(true, Ordering::Relaxed);
        (back, single)
    });
    drop(back);
}

/// Starts the service alone, on the split in `dir`.
fn start_single(dir: &Path) -> (Process, SocketAddr) {
    let mut command = Command::new(program("collection"));
    command.arg("--declaration").arg(dir.join("plan/notes/collection.json")).args(["--listen", "127.0.0.1:0"]);
    command.arg("--data").arg(dir.join("data/notes")).arg("--write-token-file").arg(dir.join("tokens"));
    let mut service = Process::start(&mut command);
    let address = service.await_line(" on http://").trim().parse().unwrap();
    wait_for("it to be ready", || get(address, "/ready").0 == 200);
    (service, address)
}

/// Ends the test if its thread panics.
struct EndOnPanic<'e>(&'e AtomicBool);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Returns all records of a replica once it has applied message `sequence`.
fn read_all(cluster: &Cluster, replica: usize, sequence: u64) -> (u16, String) {
    let address = cluster.address(replica);
    wait_for(&format!("replica {replica} to have message {sequence}"), || {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent: ureq::Agent = config.timeout_global(Some(Duration::from_secs(20))).build().into();
        let path = format!("http://{address}/api/notes/-/docs");
        agent.get(path).header("read-after", sequence.to_string()).call().is_ok_and(|answer| answer.status() == 200)
    });
    let (status, _, body) = get(address, "/api/notes");
    (status, body)
}
