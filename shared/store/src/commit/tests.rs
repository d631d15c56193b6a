//! Tests of the thread that commits: a handler's for lone writes, the committer's for others.

use std::thread;
use std::time::{Duration, Instant};

use record::sample;
use tokio::runtime::{Builder, Runtime};

use super::{Commit, Durability, LONE, QUICK, Transaction};
use crate::{Store, tests::id};

/// A store in a temporary directory, and a thread that writes to it.
struct Writing {
    store: Store,
    commit: Commit,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Writing {
    fn start(durability: Durability) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
        let commit = Commit::start(&store, durability).unwrap();
        Self { store, commit, runtime: Builder::new_current_thread().build().unwrap(), _dir: dir }
    }

    /// Adds one to the number in the first post. Returns whether this thread committed that.
    fn count_on(&self) -> bool {
        let here = thread::current().id();
        let write = self.commit.write(move |now: &mut Transaction| {
            let number = now.get(id(1)).unwrap().map_or(0, |found| number_in(found.json.as_bytes()));
            let json = format!(r#"{{"id":1,"thread":1,"text":"{}","user":1}}"#, number + 1);
            now.put(now.read(id(1), &json));
            thread::current().id() == here
        });
        self.runtime.block_on(write).unwrap()
    }

    /// Counts on until this thread commits a write. Returns how many writes that took.
    fn count_on_until_here(&self) -> usize {
        let begin = Instant::now();
        let mut writes = 1;
        while !self.count_on() {
            assert!(begin.elapsed() < Duration::from_secs(60), "this thread commits none of {writes} lone writes");
            writes += 1;
        }
        writes
    }

    fn number(&self) -> usize {
        number_in(self.store.get(id(1)).unwrap().unwrap().json())
    }
}

fn number_in(json: &[u8]) -> usize {
    let text = str::from_utf8(json).unwrap();
    text.split('"').nth(7).unwrap().parse().unwrap()
}

#[test]
fn a_lone_write_is_committed_by_its_own_thread() {
    for durability in [Durability::Power, Durability::Process, Durability::None] {
        let writing = Writing::start(durability);
        let writes = writing.count_on_until_here();
        assert!(writes > LONE, "{writes}");
        assert_eq!(writing.number(), writes);
    }
}

#[test]
fn no_handler_waits_for_a_slow_disk() {
    let writing = Writing::start(Durability::Process);
    for _ in 0..3 * LONE {
        // As if the last write had waited long for the disk.
        writing.commit.committer.lock().unwrap().waited = 2 * QUICK;
        assert!(!writing.count_on());
    }
    writing.count_on_until_here();
}

#[test]
fn a_lone_write_is_settled_by_the_committers_thread() {
    let writing = Writing::start(Durability::Power);
    for _ in 0..3 {
        writing.count_on_until_here();
        let begin = Instant::now();
        let is_settled = || writing.commit.committer.lock().unwrap().journal.is_settled();
        while !is_settled() {
            assert!(begin.elapsed() < Duration::from_secs(60), "nobody settles the journal");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn writes_of_all_threads_come_in_one_order() {
    const THREADS: usize = 3;
    let writing = Writing::start(Durability::None);
    // One of them is often alone, since the others pause.
    thread::scope(|scope| {
        for pause in 0..THREADS {
            let (store, commit) = (writing.store.clone(), writing.commit.clone());
            scope.spawn(move || {
                let runtime = Builder::new_current_thread().build().unwrap();
                let own = Writing { store, commit, runtime, _dir: tempfile::tempdir().unwrap() };
                for nth in 0..600 {
                    own.count_on();
                    if nth % 50 == 0 {
                        let counted = own.commit.snapshot_now().unwrap();
                        drop(counted);
                        thread::sleep(Duration::from_millis(10 * pause as u64));
                    }
                }
            });
        }
    });
    assert_eq!(writing.number(), THREADS * 600);
}
