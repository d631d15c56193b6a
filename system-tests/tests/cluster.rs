//! A replicated service under faults: no acknowledged write is lost, none is made twice, and all replicas agree.
//!
//! Clients write to all three replicas while brokers and replicas are killed, frozen and cut off from one another at random.
//! Each client keeps a journal. What has no answer may have happened or not; all else must be as it was answered.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use world::cluster::{COUNT, Cluster, SECRET};
use world::{get, wait_for};

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
    let mut faults = 0;
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
        }
        // At the end nothing is broken, so that all POSTs get their answers.
        cluster.heal();
        (0..COUNT).for_each(|nth| cluster.await_ready(nth));
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
        "{faults} faults in {seconds} s: {sequence} messages, {created} created, {claimed} slugs of {SLUGS} taken, {operations} operations in {histories} histories; {} records on each replica",
        records.len()
    );
    assert!(created > 0 && claimed > 0 && histories > 0, "nothing was tried");
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
