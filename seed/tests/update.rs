//! A newer file on a split that is there.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{fs, thread};

use proptest::prelude::*;
use seed::error::Error;
use seed::run::{Options, split_and_verify};
use seed::update::Side;
use shared::id::Id;
use shared::model::{Collection, Records};
use shared::store::{Change, Purpose, Store, Writer};
use world::{Process, program, seed, split, start_service, text};

/// What a service does to its records: each is to be this, or gone.
fn change(data: &Path, collection: Collection, changes: &[(u64, Option<&str>)]) {
    let store = Store::open(&data.join(collection.name()).join("db"), collection, Purpose::Serving).unwrap();
    let mut records = Records::new(collection, 0);
    let mut gone = Vec::new();
    for (id, json) in changes {
        match json {
            Some(json) => records.push(json, None).unwrap(),
            None => gone.push(Change::Remove(Id::try_from(*id).unwrap())),
        }
    }
    let mut writer = Writer::new(&store).unwrap();
    let changes: Vec<Change> =
        records.iter().map(|record| Change::Put(record, writer.next_revision())).chain(gone).collect();
    writer.apply(&changes).unwrap();
    store.sync().unwrap();
}

/// A file with these users and posts, and one thread.
fn write(path: &Path, users: &[&str], posts: &[&str]) {
    let thread = r#"{"id":1,"title":"t","createdBy":1}"#;
    let text = format!(r#"{{"users":[{}],"threads":[{thread}],"posts":[{}]}}"#, users.join(","), posts.join(","));
    fs::write(path, text).unwrap();
}

const ADA: &str = r#"{"id":1,"username":"ada"}"#;
const BOB: &str = r#"{"id":2,"username":"bob"}"#;
const CY: &str = r#"{"id":3,"username":"cy"}"#;
const FIRST: &str = r#"{"thread":1,"text":"first","user":1}"#;
const SECOND: &str = r#"{"thread":1,"text":"second","user":2}"#;

/// Runs `seed` on `input` with more arguments: its exit code and what it said.
fn run(input: &Path, data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let arguments = ["--input", input.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let output = seed(arguments.iter().chain(more));
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn joined(data: &Path) -> String {
    let output = seed(["join", "--data", data.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// A row of the report.
fn row(report: &str, collection: &str) -> Vec<String> {
    let row = report.lines().find(|line| line.trim_start().starts_with(collection));
    row.unwrap_or_else(|| panic!("{report}")).split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn a_newer_file_changes_what_it_changes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    write(&old, &[ADA, BOB, CY], &[FIRST]);
    split(&old, &data);
    // Bob is renamed, Cy leaves, somebody comes, and there is a second post.
    let renamed = r#"{"id":2,"username":"robert"}"#;
    write(&new, &[ADA, renamed, r#"{"id":4,"username":"di"}"#], &[FIRST, SECOND]);

    let (code, report) = run(&new, &data, &["--dry-run"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(row(&report, "users"), ["1", "1", "1", "0", "0"], "{report}");
    assert!(report.contains("Nothing was changed."), "{report}");
    assert_eq!(joined(&data).trim(), fs::read_to_string(&old).unwrap());

    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(row(&report, "users"), ["1", "1", "1", "0", "0"], "{report}");
    assert_eq!(row(&report, "threads"), ["0", "0", "0", "0", "0"], "{report}");
    assert_eq!(row(&report, "posts"), ["1", "0", "0", "0", "0"], "{report}");
    assert_eq!(joined(&data).trim(), fs::read_to_string(&new).unwrap());
    let verified = seed(["verify", "--data", data.to_str().unwrap(), "--input", new.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    // What did not change is the same record as before, to the revision.
    let store = Store::open(&data.join("users/db"), Collection::Users, Purpose::Serving).unwrap();
    let revisions: Vec<u64> = store.records().map(|record| record.unwrap().1.revision).collect();
    assert_eq!(revisions, [1, 2, 3]);
    drop(store);
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0));
    assert!(report.contains("already holds the split of"), "{report}");

    let (_users, address) = start_service("users", &data.join("users"));
    assert_eq!(world::get(address, "/api/users/by-username/robert").2, renamed);
    assert_eq!(world::get(address, "/api/users/by-username/bob").0, 404);
    assert_eq!(world::get(address, "/api/users/3").0, 404);
    // While a service runs, a newer file has to wait.
    assert_eq!(run(&old, &data, &[]).0, Some(5));
}

#[test]
fn what_a_service_changed_alone_stays() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    write(&old, &[ADA, BOB, CY], &[FIRST]);
    split(&old, &data);
    let renamed = r#"{"id":2,"username":"robert"}"#;
    let own = r#"{"id":9,"username":"eve"}"#;
    change(&data, Collection::Users, &[(2, Some(renamed)), (9, Some(own)), (3, None)]);
    write(&new, &[ADA, BOB, CY], &[FIRST, SECOND]);
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(row(&report, "users"), ["0", "0", "0", "3", "0"], "{report}");
    assert!(joined(&data).starts_with(&format!(r#"{{"users":[{ADA},{renamed},{own}],"#)), "{}", joined(&data));
}

#[test]
fn a_conflict_is_listed_and_nothing_is_applied_until_a_side_is_preferred() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = ["old.json", "new.json"].map(|name| dir.path().join(name));
    let theirs = r#"{"id":2,"username":"bobby"}"#;
    let own = r#"{"id":2,"thread":1,"text":"mine","user":1}"#;
    for (side, users, posts) in [
        ("monolith", format!("{ADA},{theirs}"), format!("{FIRST},{SECOND}")),
        ("service", format!(r#"{ADA},{{"id":2,"username":"robert"}},{CY}"#), format!("{FIRST},{own}")),
    ] {
        let data = dir.path().join(side);
        write(&old, &[ADA, BOB, CY], &[FIRST]);
        split(&old, &data);
        // Bob has two new names, Cy is changed here and gone there, and the second post is two.
        let changes = [(2, Some(r#"{"id":2,"username":"robert"}"#)), (3, Some(r#"{"id":3,"username":"cyd"}"#))];
        change(&data, Collection::Users, &changes);
        change(&data, Collection::Posts, &[(2, Some(own))]);
        write(&new, &[ADA, theirs], &[FIRST, SECOND]);
        let before = joined(&data);
        for more in [&["--dry-run"][..], &[]] {
            let (code, report) = run(&new, &data, more);
            assert_eq!(code, Some(5), "{report}");
            assert_eq!(row(&report, "users").last().unwrap(), "2", "{report}");
            assert_eq!(row(&report, "posts").last().unwrap(), "1", "{report}");
            for line in [
                r#"/users/1/username: "bobby" in the file, "robert" in the service"#,
                r#"/users/- (id 3): nothing in the file, {"id":3,"username":"cyd"} in the service"#,
                r#"/posts/1/text: "second" in the file, "mine" in the service"#,
                "--prefer",
            ] {
                assert!(report.contains(line), "{line:?} is not in {report}");
            }
            assert_eq!(joined(&data), before);
        }
        let (code, report) = run(&new, &data, &["--prefer", side, "--json"]);
        assert_eq!(code, Some(0), "{report}");
        let report: serde_json::Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
        assert_eq!(report["users"]["conflicts"], 2);
        let users = users.replace(CY, r#"{"id":3,"username":"cyd"}"#);
        assert!(joined(&data).starts_with(&format!(r#"{{"users":[{users}],"#)), "{}", joined(&data));
        assert!(joined(&data).trim_end().ends_with(&format!(r#""posts":[{posts}]}}"#)), "{}", joined(&data));
    }
}

#[test]
fn killed_at_twenty_moments_an_update_leaves_the_old_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let inputs = ["a.json", "b.json"].map(|name| dir.path().join(name));
    for (nth, input) in inputs.iter().enumerate() {
        let posts: Vec<String> = (0..3000 + nth * 500)
            .map(|n| format!(r#"{{"thread":1,"text":"{}","user":{}}}"#, n % (7 + nth), n % 9 + 1))
            .collect();
        write(input, &[], &posts.iter().map(String::as_str).collect::<Vec<_>>());
    }
    split(&inputs[0], &data);
    let began = Instant::now();
    split(&inputs[1], &data);
    let whole = began.elapsed();
    for kill in 0..20_u32 {
        let input = &inputs[usize::try_from(kill % 2).unwrap()];
        let mut process =
            Process::start(Command::new(program("seed")).arg("--input").arg(input).arg("--data").arg(&data));
        thread::sleep(whole * (kill * 5 + 3) / 100);
        process.signal("KILL");
        process.wait();
        // The next run, whatever it is for, settles it. Then there is the one or the other, whole.
        run(input, &data, &["--dry-run"]);
        let now = joined(&data);
        let found = inputs.iter().filter(|input| now.trim() == fs::read_to_string(input).unwrap()).count();
        assert_eq!(found, 1, "kill {kill}");
        let (code, report) = run(input, &data, &[]);
        assert_eq!(code, Some(0), "kill {kill}: {report}");
        assert_eq!(joined(&data).trim(), fs::read_to_string(input).unwrap());
    }
}

type Versions = BTreeMap<u64, u8>;

fn users(versions: &Versions) -> BTreeMap<u64, String> {
    versions.iter().map(|(id, name)| (*id, format!(r#"{{"id":{id},"username":"{name}"}}"#))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the file and the service did to whichever records: the outcome is what the table in `update` says.
    #[test]
    fn an_update_does_what_the_table_says(
        split in prop::collection::btree_map(1_u64..24, 0_u8..3, 0..20),
        file in prop::collection::btree_map(1_u64..24, 0_u8..3, 0..24),
        service in prop::collection::btree_map(1_u64..24, prop::option::of(0_u8..3), 0..5),
        prefer in prop_oneof![Just(None), Just(Some(Side::Monolith)), Just(Some(Side::Service))],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
        for (path, versions) in [(&old, &split), (&new, &file)] {
            let records: Vec<String> = users(versions).into_values().collect();
            write(path, &records.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        }
        let options = Options { prefer, max_removed: Some(u64::MAX), ..Options::default() };
        split_and_verify(&old, &data, &options).unwrap();
        let mut now = split.clone();
        for (id, version) in &service {
            match version {
                Some(version) => now.insert(*id, *version),
                None => now.remove(id),
            };
        }
        let texts = users(&service.iter().filter_map(|(id, version)| version.map(|version| (*id, version))).collect());
        change(&data, Collection::Users, &service.keys().map(|id| (*id, texts.get(id).map(String::as_str))).collect::<Vec<_>>());

        let (mut expected, mut conflicts) = (now.clone(), 0);
        for id in split.keys().chain(file.keys()).chain(now.keys()).copied().collect::<BTreeSet<_>>() {
            let [was, theirs, ours] = [&split, &file, &now].map(|versions| versions.get(&id).copied());
            let conflict = theirs != was && ours != was && theirs != ours;
            conflicts += usize::from(conflict);
            if theirs != was && ours == was || conflict && prefer == Some(Side::Monolith) {
                match theirs {
                    Some(version) => expected.insert(id, version),
                    None => expected.remove(&id),
                };
            }
        }
        match split_and_verify(&new, &data, &options) {
            Ok(_) => prop_assert!(conflicts == 0 || prefer.is_some()),
            Err(Error::Conflicts(report)) => {
                prop_assert!(prefer.is_none());
                prop_assert_eq!(report.json["users"]["conflicts"].as_u64(), Some(conflicts as u64));
                expected = now;
            }
            Err(error) => panic!("{error}"),
        }
        let store = Store::open(&data.join("users/db"), Collection::Users, Purpose::Serving).unwrap();
        let found: BTreeMap<u64, String> = store.records().map(|record| {
            let (id, stored) = record.unwrap();
            (id.get(), text(stored.json()))
        }).collect();
        prop_assert_eq!(found, users(&expected));
    }
}
