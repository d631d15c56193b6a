//! Crash tests: the process ends between the steps of a commit. Then each write is whole or absent, and every answered
//! write is there.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::{Command, abort};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use record::id::Id;
use record::model::{Collection, Index, Records, Term};
use record::sample;
use store::desk::{Ask, Desk, staged_at};
use store::{
    Change, Commit, CommitError, Durability, Edit, KeptRecord, Purpose, Restore, SnapshotRecord, Staging, Store, Text,
    Transaction, Writer,
};

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

/// Returns a record long enough for a new lap of the journal every few groups.
fn record(id: Id, nth: u64) -> String {
    format!(r#"{{"id":{id},"thread":{},"text":"{nth}{}","user":1}}"#, nth % 3 + 1, " ".repeat(20_000))
}

/// Writes until the fail point `POINT` has been passed `PASSES` times, and prints the answered writes. The test below
/// runs this.
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
    let store = Store::open(Path::new(&path), sample::posts(), Purpose::Serving).unwrap();
    let commit = Commit::start(&store, Durability::Power).unwrap();
    fail::cfg_callback(env::var("POINT").unwrap(), end).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let write = |nth: u64| {
        commit.write(move |now: &mut Transaction| {
            let id = now.next_id().unwrap();
            let json = record(id, nth);
            let revision = now.put(now.read(id, &json));
            now.keep_answer(format!("key-{nth}"), KeptRecord::new(now.time(), [0; 32], id, revision, json));
            (id, nth)
        })
    };
    for group in 0_u64.. {
        let writes: Vec<_> = (0..=group % 4).map(|nth| write(from + group * 4 + nth)).collect();
        for answered in runtime.block_on(futures_util::future::join_all(writes)) {
            let (id, nth) = answered.unwrap();
            // Prints at once, since the process ends without flushing.
            use std::io::Write;
            writeln!(std::io::stderr(), "answered {id} {nth}").unwrap();
        }
    }
}

/// Lets a write panic after it is in the journal. The test below runs this.
#[test]
#[ignore = "the process of another test"]
fn panics_in_a_write() {
    let Some(path) = env::var_os("DATABASE") else { return };
    let store = Store::open(Path::new(&path), sample::posts(), Purpose::Serving).unwrap();
    let commit = Commit::start(&store, Durability::Power).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let write = || {
        runtime.block_on(commit.write(|now: &mut Transaction| {
            let id = now.next_id().unwrap();
            now.put(now.read(id, &format!(r#"{{"id":{id},"thread":1,"text":"","user":1}}"#)));
        }))
    };
    write().unwrap();
    fail::cfg("before the step", "1*panic").unwrap();
    assert!(matches!(write(), Err(CommitError::Failed(_))));
    assert!(commit.is_broken());
    assert!(matches!(write(), Err(CommitError::Broken)));
    assert!(commit.snapshot_now().is_err());
    runtime.block_on(async {
        let restart = commit.until_a_restart_helps();
        tokio::time::timeout(std::time::Duration::from_secs(60), restart).await.unwrap();
    });
}

#[test]
fn a_panic_in_a_write_ends_in_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(Store::create(&path, sample::posts()).unwrap());
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["panics_in_a_write", "--exact", "--ignored", "--test-threads=1"]);
    let output = child.env("DATABASE", &path).output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

#[test]
fn a_crash_at_any_step_leaves_writes_whole_or_absent_and_keeps_answered_ones() {
    for point in POINTS {
        for passes in [1, 2, 7] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            drop(Store::create(&path, sample::posts()).unwrap());
            let answered = write_until(&path, point, passes, 0);
            check(&path, &answered, &format!("{point}, {passes}"));
        }
    }
}

/// Guards against a bug: a start that replayed the journal began a lap without writing its mark. If the process ended
/// before the mark of the second lap after it, the next start took the journal for one of an earlier state.
#[test]
fn a_second_crash_is_no_worse_than_the_first() {
    // The first crash comes after some laps, so that the areas have marks of their own.
    for first in ["before the sync", "before the answer"] {
        for second in POINTS {
            for passes in [1, 2] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("db");
                drop(Store::create(&path, sample::posts()).unwrap());
                let mut answered = write_until(&path, first, 30, 0);
                answered.extend(write_until(&path, second, passes, 500));
                check(&path, &answered, &format!("{first}, then {second}, {passes}"));
            }
        }
    }
}

/// Runs a process that writes records, numbered from `from`, until it has passed `point` that many times. Returns the
/// answered writes.
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
    let store = Store::open(path, sample::posts(), Purpose::Serving).unwrap();
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
    // Each record is whole, is in its index, and has its kept answer; there are no other kept answers.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let commit = Commit::start(&store, Durability::Power).unwrap();
    let kept = commit.write(|now: &mut Transaction| {
        let kept = |nth: u64| now.kept(&format!("key-{nth}")).unwrap().map(|kept| (kept.id.get(), kept.json));
        (0..1000).filter_map(kept).collect::<BTreeMap<u64, String>>()
    });
    assert_eq!(runtime.block_on(kept).unwrap(), found, "{what}");
    let listed = |thread: u64| {
        let ids = store.ids(sample::IN_THREAD, &Term::Id(thread.try_into().unwrap()));
        ids.map(|id| id.unwrap().get()).collect::<Vec<_>>()
    };
    let of = |thread: u64| {
        let in_thread = format!("\"thread\":{thread},");
        found.iter().filter(|(_, json)| json.contains(&in_thread)).map(|(id, _)| *id).collect::<Vec<_>>()
    };
    for thread in 1..=3 {
        assert_eq!(listed(thread), of(thread), "{what}");
    }
    // An id given to an absent write may be used again: no client has seen it. The id of an existing record may not.
    let next = runtime.block_on(commit.write(|now: &mut Transaction| now.next_id())).unwrap().unwrap();
    assert!(!found.contains_key(&next.get()), "{what}");
}

/// The number of records that the newer file changes, deletes or adds. Half as many exist before.
const EDITED: u64 = 900;

/// Returns the change to record `id`: every fifth is deleted, others are changed, and some are new.
fn edit(id: u64, revision: u64) -> Edit {
    let json = format!(r#"{{"id":{id},"thread":{},"text":"newer","user":1}}"#, id % 2 + 4);
    Edit { id, seen: revision, becomes: (!id.is_multiple_of(5)).then_some(Text { given: false, json }) }
}

/// Applies a newer file's changes until the fail point `POINT` has been passed `PASSES` times. The test below runs
/// this.
#[test]
#[ignore = "the process of another test"]
fn applies_until_it_ends() {
    let Some(folder) = env::var_os("FOLDER") else { return };
    let passes = env::var("PASSES").unwrap().parse::<usize>().unwrap();
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let end = move || {
        if PASSED.fetch_add(1, Ordering::Relaxed) + 1 == passes {
            abort();
        }
    };
    let folder = Path::new(&folder);
    let store = Store::open(&folder.join("db"), sample::posts(), Purpose::Serving).unwrap();
    let mut desk = Desk::new(folder, store);
    desk.answer(Ask::Hold).unwrap();
    fail::cfg_callback(env::var("POINT").unwrap(), end).unwrap();
    desk.answer(Ask::Apply).unwrap();
    abort();
}

#[test]
fn a_crash_during_an_update_leaves_whole_groups_and_applying_it_again_finishes_it() {
    for point in POINTS {
        for passes in [1, 2, 5, 11] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path();
            let store = Store::create(&folder.join("db"), sample::posts()).unwrap();
            let mut records = Records::new(sample::posts(), 0);
            for id in 1..=EDITED / 2 {
                records.push(&record(id.try_into().unwrap(), id % 3).replace(&" ".repeat(20_000), ""), None).unwrap();
            }
            let mut writer = Writer::new(&store).unwrap();
            let puts: Vec<Change> = records.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
            writer.apply(&puts).unwrap();
            let revision = |id: u64| store.get(id.try_into().unwrap()).unwrap().map_or(0, |stored| stored.revision);
            std::fs::create_dir(folder.join("next")).unwrap();
            let mut staging = Staging::create(&staged_at(folder), 7).unwrap();
            (1..=EDITED)
                .filter(|id| id % 5 != 0 || *id <= EDITED / 2)
                .for_each(|id| staging.put(edit(id, revision(id))).unwrap());
            staging.finish().unwrap();
            drop((store, writer));

            let mut child = Command::new(env::current_exe().unwrap());
            child.args(["applies_until_it_ends", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
            let child = child.env("FOLDER", folder).env("POINT", point).env("PASSES", passes.to_string());
            assert!(!child.output().unwrap().status.success());

            let what = format!("{point}, {passes}");
            let store = Store::open(&folder.join("db"), sample::posts(), Purpose::Serving).unwrap();
            let texts = |store: &Store| {
                let text = |found: Result<(Id, store::Stored), _>| {
                    let (id, stored) = found.unwrap();
                    (id.get(), String::from_utf8(stored.json().to_vec()).unwrap())
                };
                store.records().map(text).collect::<BTreeMap<u64, String>>()
            };
            // A group is whole or absent. Groups are applied in order, so changed records come before unchanged ones.
            let now = texts(&store);
            let is_made = |id: &u64| match edit(*id, 0).becomes {
                Some(text) => now.get(id) == Some(&text.json),
                None => !now.contains_key(id),
            };
            let made = (1..=EDITED).take_while(is_made).count() as u64;
            assert!((made + 1..=EDITED).filter(|id| *id <= EDITED / 2).all(|id| !is_made(&id)), "{what}: {made}");
            let mut desk = Desk::new(folder, store);
            desk.answer(Ask::Apply).unwrap();
            let expected: BTreeMap<u64, String> =
                (1..=EDITED).filter_map(|id| Some((id, edit(id, 0).becomes?.json))).collect();
            assert_eq!(texts(desk.store()), expected, "{what}");
            desk.answer(Ask::Apply).unwrap();
            assert_eq!(texts(desk.store()), expected, "{what}");
            let listed = |thread: u64| {
                let ids = desk.store().ids(sample::IN_THREAD, &Term::Id(thread.try_into().unwrap()));
                ids.map(|id| id.unwrap().get()).collect::<Vec<_>>()
            };
            let of = |thread: u64| expected.keys().copied().filter(|id| id % 2 + 4 == thread).collect::<Vec<_>>();
            assert_eq!([1, 2, 3, 4, 5].map(listed), [vec![], vec![], vec![], of(4), of(5)], "{what}");
        }
    }
}

/// Declares posts with an index of their texts, too, and without the index of their users.
fn redeclared() -> Collection {
    let mut declaration = sample::posts().declaration().clone();
    let mut indexes = declaration.indexes.to_vec();
    indexes.retain(|index| index.number == sample::IN_THREAD);
    indexes.push(serde_json::from_str(r#"{"number":3,"field":"text","route":"saying"}"#).unwrap());
    declaration.indexes = indexes.into();
    Collection::of(declaration)
}

/// Redeclares a database until the fail point `POINT` has been passed `PASSES` times. The test below runs this.
#[test]
#[ignore = "the process of another test"]
fn redeclares_until_it_ends() {
    let Some(path) = env::var_os("DATABASE") else { return };
    let passes = env::var("PASSES").unwrap().parse::<usize>().unwrap();
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let end = move || {
        if PASSED.fetch_add(1, Ordering::Relaxed) + 1 == passes {
            abort();
        }
    };
    fail::cfg_callback(env::var("POINT").unwrap(), end).unwrap();
    let store = Store::open(Path::new(&path), redeclared(), Purpose::Serving).unwrap();
    store.redeclare().unwrap().make(&AtomicBool::new(false)).unwrap();
}

#[test]
fn a_crash_during_a_redeclaration_leaves_no_half_index() {
    for point in ["before the strays", "within the build", "before the note", "between flush and sync"] {
        for passes in [1, 2, 700] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("db");
            let mut restore = Restore::create(&path, sample::posts()).unwrap();
            for id in (1..=400).map(|id| Id::try_from(id).unwrap()) {
                let json =
                    format!(r#"{{"id":{id},"thread":1,"text":"{}","user":2}}"#, id.get() % 5).into_bytes().into();
                restore.put(&SnapshotRecord { id, revision: 1, id_from_position: false, json }).unwrap();
            }
            restore.finish(&[], 1, 400).unwrap().sync().unwrap();
            let mut child = Command::new(env::current_exe().unwrap());
            child.args(["redeclares_until_it_ends", "--exact", "--ignored", "--test-threads=1"]);
            let child = child.env("DATABASE", &path).env("POINT", point).env("PASSES", passes.to_string());
            let has_ended = !child.output().unwrap().status.success();
            let what = format!("{point}, {passes}");
            assert!(has_ended || passes > 1, "{what}: the process did not end there");
            // Whichever declaration the next start has, its indexes are complete, and there are no others.
            for collection in [redeclared(), sample::posts(), redeclared()] {
                let store = Store::open(&path, collection, Purpose::Serving).unwrap();
                let redeclaration = store.redeclare().unwrap();
                redeclaration.make(&AtomicBool::new(false)).unwrap();
                let store = redeclaration.store();
                let count = |index: Index, term: Term| store.ids(index, &term).filter(Result::is_ok).count();
                let two = Term::Id(2.try_into().unwrap());
                let [in_thread, by_user] = [(sample::IN_THREAD, Term::Id(Id::FIRST)), (sample::BY_USER, two)];
                assert_eq!(count(in_thread.0, in_thread.1), 400, "{what}");
                let is_old = collection.index_at("by-user").is_some();
                assert_eq!(count(by_user.0, by_user.1), if is_old { 400 } else { 0 }, "{what}");
                let saying = Index::numbered(3).unwrap();
                assert_eq!(count(saying, Term::from("3")), if is_old { 0 } else { 80 }, "{what}");
                assert_eq!(store.records().count(), 400, "{what}");
            }
        }
    }
}
