//! The process ends between the steps of a commit: a write is then whole or absent, and there if it was answered.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::{Command, abort};
use std::sync::atomic::{AtomicUsize, Ordering};

use shared::id::Id;
use shared::model::{Collection, Post, Term};
use shared::store::{Commit, Durability, KeptRecord, Purpose, Store, Transaction};

const POINTS: [&str; 8] = [
    "before the lap's mark",
    "before the journal",
    "before the sync",
    "before the mark",
    "before the step",
    "within the step",
    "between flush and sync",
    "before the answer",
];

/// Long enough for the journal to begin anew every few groups.
fn record(id: Id, nth: u64) -> String {
    format!(r#"{{"id":{id},"thread":{},"text":"{nth}{}","user":1}}"#, nth % 3 + 1, " ".repeat(20_000))
}

/// Writes until the point of the environment is passed often enough, and says what was answered. Run by the test below.
#[test]
#[ignore = "the process of another test"]
fn writes_until_it_ends() {
    let Some(path) = env::var_os("DATABASE") else { return };
    let number = |name| env::var(name).unwrap().parse::<usize>().unwrap();
    let (passes, from) = (number("PASSES"), number("FROM") as u64);
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let end = move || {
        if PASSED.fetch_add(1, Ordering::Relaxed) + 1 == passes {
            abort();
        }
    };
    let store = Store::open(Path::new(&path), Collection::Posts, Purpose::Serving).unwrap();
    let commit = Commit::start(&store, Durability::Power).unwrap();
    fail::cfg_callback(env::var("POINT").unwrap(), end).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let write = |nth: u64| {
        commit.write(move |now: &mut Transaction| {
            let id = now.next_id().unwrap();
            let json = record(id, nth);
            let revision = now.put(id, &json);
            now.keep_answer(format!("key-{nth}"), KeptRecord::new([0; 32], id, revision, json));
            (id, nth)
        })
    };
    for group in 0_u64.. {
        let writes: Vec<_> = (0..=group % 4).map(|nth| write(from + group * 4 + nth)).collect();
        for answered in runtime.block_on(futures_util::future::join_all(writes)) {
            let (id, nth) = answered.unwrap();
            // At once, since the process ends without a word.
            use std::io::Write;
            writeln!(std::io::stderr(), "answered {id} {nth}").unwrap();
        }
    }
}

#[test]
fn a_crash_at_any_step_leaves_a_write_whole_or_absent_and_an_answered_one_there() {
    for point in POINTS {
        for passes in [1, 2, 7] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            drop(Store::create(&path, Collection::Posts).unwrap());
            let answered = write_until(&path, point, passes, 0);
            check(&path, &answered, &format!("{point}, {passes}"));
        }
    }
}

/// The story: a start that did what the journal had began a lap without its mark, and the second lap after that one took
/// the journal for an older one when the process ended before its own.
#[test]
fn a_crash_of_a_database_that_has_had_one_before_is_no_worse() {
    // After some laps, so that the areas have marks of their own.
    for first in ["before the sync", "before the answer"] {
        for second in POINTS {
            for passes in [1, 2] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("db");
                drop(Store::create(&path, Collection::Posts).unwrap());
                let mut answered = write_until(&path, first, 30, 0);
                answered.extend(write_until(&path, second, passes, 500));
                check(&path, &answered, &format!("{first}, then {second}, {passes}"));
            }
        }
    }
}

/// Runs a process that writes records, numbered on from `from`, until it has passed `point` so often. Returns what was
/// answered.
fn write_until(path: &Path, point: &str, passes: usize, from: u64) -> BTreeMap<u64, u64> {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["writes_until_it_ends", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let child = child.env("DATABASE", path).env("POINT", point);
    let output = child.env("PASSES", passes.to_string()).env("FROM", from.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{point}: the process did not end there: {said}");
    let answered = said.lines().filter_map(|line| {
        let (id, nth) = line.strip_prefix("answered ")?.split_once(' ')?;
        Some((id.parse().ok()?, nth.parse().ok()?))
    });
    answered.collect()
}

fn check(path: &Path, answered: &BTreeMap<u64, u64>, what: &str) {
    let store = Store::open(path, Collection::Posts, Purpose::Serving).unwrap();
    let found: BTreeMap<u64, String> = store
        .records()
        .map(|found| {
            let (id, stored) = found.unwrap();
            (id.get(), String::from_utf8(stored.json().to_vec()).unwrap())
        })
        .collect();
    for (id, nth) in answered {
        assert_eq!(found.get(id), Some(&record((*id).try_into().unwrap(), *nth)), "{what}");
    }
    // Each record is whole, in its index, and has its kept answer; and nothing else has one.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let commit = Commit::start(&store, Durability::Power).unwrap();
    let kept = commit.write(|now: &mut Transaction| {
        let kept = |nth: u64| now.kept(&format!("key-{nth}")).unwrap().map(|kept| (kept.id.get(), kept.json));
        (0..1000).filter_map(kept).collect::<BTreeMap<u64, String>>()
    });
    assert_eq!(runtime.block_on(kept).unwrap(), found, "{what}");
    let listed = |thread: u64| {
        let ids = store.ids(Post::IN_THREAD, &Term::Id(thread.try_into().unwrap()));
        ids.map(|id| id.unwrap().get()).collect::<Vec<_>>()
    };
    let of = |thread: u64| {
        let in_thread = format!("\"thread\":{thread},");
        found.iter().filter(|(_, json)| json.contains(&in_thread)).map(|(id, _)| *id).collect::<Vec<_>>()
    };
    for thread in 1..=3 {
        assert_eq!(listed(thread), of(thread), "{what}");
    }
    // An id that was given, though its write is absent, may come again: nobody was told of it. One that is there may not.
    let next = runtime.block_on(commit.write(|now: &mut Transaction| now.next_id())).unwrap().unwrap();
    assert!(!found.contains_key(&next.get()), "{what}");
}
