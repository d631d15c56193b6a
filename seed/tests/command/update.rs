//! Tests of a newer file's changes to an existing split.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{fs, thread};

use proptest::prelude::*;
use seed::commands::split::split_and_verify;
use seed::conflict::Side;
use seed::error::Error;
use seed::options::Options;
use seed::scoped::Scoped;
use store::{Purpose, Store};
use world::changes::{change, collection, joined};
use world::{Process, open_sled, program, seed, split, start_service, text};

/// Writes a file with these users and posts, and one thread.
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

/// Runs `seed` on `input` with more arguments; returns its exit code and output.
fn run(input: &Path, data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let arguments = ["--input", input.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let output = seed(arguments.iter().chain(more));
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Returns a collection's row in the report.
fn row(report: &str, collection: &str) -> Vec<String> {
    let row = report.lines().find(|line| line.trim_start().starts_with(collection));
    row.unwrap_or_else(|| panic!("{report}")).split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn a_newer_files_changes_are_applied_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    write(&old, &[ADA, BOB, CY], &[FIRST]);
    split(&old, &data);
    // Bob is renamed, Cy is removed, Di is added, and there is a second post.
    let renamed = r#"{"id":2,"username":"robert"}"#;
    write(&new, &[ADA, renamed, r#"{"id":4,"username":"di"}"#], &[FIRST, SECOND]);

    let (code, report) = run(&new, &data, &["--dry-run"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(row(&report, "users"), ["1", "1", "1", "0", "0", "0"], "{report}");
    assert!(report.contains("Nothing was changed."), "{report}");
    assert_eq!(joined(&data).trim(), fs::read_to_string(&old).unwrap());

    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(row(&report, "users"), ["1", "1", "1", "0", "0", "0"], "{report}");
    assert_eq!(row(&report, "threads"), ["0", "0", "0", "0", "0", "0"], "{report}");
    assert_eq!(row(&report, "posts"), ["1", "0", "0", "0", "0", "0"], "{report}");
    assert_eq!(joined(&data).trim(), fs::read_to_string(&new).unwrap());
    let verified = seed(["verify", "--data", data.to_str().unwrap(), "--input", new.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    // Unchanged records keep their revisions.
    let store = Store::open(&data.join("users/db"), collection("users"), Purpose::Serving).unwrap();
    let revisions: Vec<u64> = store.records().map(|record| record.unwrap().1.revision).collect();
    assert_eq!(revisions, [1, 2, 4]);
    drop(store);
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0));
    assert!(report.contains("already holds the split of"), "{report}");

    let (_users, address) = start_service("users", &data.join("users"));
    assert_eq!(world::get(address, "/api/users/by-username/robert").2, renamed);
    assert_eq!(world::get(address, "/api/users/by-username/bob").0, 404);
    assert_eq!(world::get(address, "/api/users/3").0, 404);
}

#[test]
fn changes_that_only_the_service_made_stay() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    write(&old, &[ADA, BOB, CY], &[FIRST]);
    split(&old, &data);
    let renamed = r#"{"id":2,"username":"robert"}"#;
    let own = r#"{"id":9,"username":"eve"}"#;
    change(&data, collection("users"), &[(2, Some(renamed)), (9, Some(own)), (3, None)]);
    write(&new, &[ADA, BOB, CY], &[FIRST, SECOND]);
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(row(&report, "users"), ["0", "0", "0", "3", "0", "0"], "{report}");
    assert!(joined(&data).starts_with(&format!(r#"{{"users":[{ADA},{renamed},{own}],"#)), "{}", joined(&data));
}

#[test]
fn a_conflict_is_listed_and_nothing_is_applied_until_a_side_is_preferred() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = ["old.json", "new.json"].map(|name| dir.path().join(name));
    let theirs = r#"{"id":2,"username":"bobby"}"#;
    let own = r#"{"id":2,"thread":1,"text":"mine","user":1}"#;
    let posts = format!("{FIRST},{SECOND},{own}");
    for (side, users) in
        [("monolith", format!("{ADA},{theirs}")), ("service", format!(r#"{ADA},{{"id":2,"username":"robert"}},{CY}"#))]
    {
        let data = dir.path().join(side);
        write(&old, &[ADA, BOB, CY], &[FIRST]);
        split(&old, &data);
        // Bob is renamed on both sides, Cy is changed by the service and removed by the file, and both sides add a post.
        let changes = [(2, Some(r#"{"id":2,"username":"robert"}"#)), (3, Some(r#"{"id":3,"username":"cyd"}"#))];
        change(&data, collection("users"), &changes);
        change(&data, collection("posts"), &[(2, Some(own))]);
        write(&new, &[ADA, theirs], &[FIRST, SECOND]);
        let before = joined(&data);
        for more in [&["--dry-run"][..], &[]] {
            let (code, report) = run(&new, &data, more);
            assert_eq!(code, Some(5), "{report}");
            assert_eq!(row(&report, "users").last().unwrap(), "2", "{report}");
            // Two added posts do not conflict: both stay.
            assert_eq!(row(&report, "posts"), ["1", "0", "0", "1", "0", "0"], "{report}");
            for line in [
                r#"/users/1/username: "bobby" in the file, "robert" in the service, "bob" in the split"#,
                r#"/users/- (id 3): nothing in the file, {"id":3,"username":"cyd"} in the service"#,
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
fn an_update_killed_at_twenty_moments_leaves_the_old_or_the_new_records() {
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
        // Any next run settles the update: all records are then the old or the new ones.
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

    /// For all changes of the file and the service, the three versions of each record decide the outcome.
    #[test]
    fn an_update_follows_from_the_three_versions_of_each_record(
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
        let prefer_of_all = prefer.map(Scoped::all).into_iter().collect();
        let max_removed = vec![Scoped::all(u64::MAX)];
        let options = Options { prefer: prefer_of_all, max_removed, ..Options::default() };
        split_and_verify(&old, &data, &options).unwrap();
        let mut now = split.clone();
        for (id, version) in &service {
            match version {
                Some(version) => now.insert(*id, *version),
                None => now.remove(id),
            };
        }
        let texts = users(&service.iter().filter_map(|(id, version)| version.map(|version| (*id, version))).collect());
        change(&data, collection("users"), &service.keys().map(|id| (*id, texts.get(id).map(String::as_str))).collect::<Vec<_>>());

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
        let store = Store::open(&data.join("users/db"), collection("users"), Purpose::Serving).unwrap();
        let found: BTreeMap<u64, String> = store.records().map(|record| {
            let (id, stored) = record.unwrap();
            (id.get(), text(stored.json()))
        }).collect();
        prop_assert_eq!(found, users(&expected));
    }
}

#[test]
fn each_collection_has_its_own_limit_of_removed_records() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    let posts: Vec<String> = (0..40).map(|n| format!(r#"{{"id":{},"thread":1,"text":"t","user":1}}"#, n + 1)).collect();
    let posts: Vec<&str> = posts.iter().map(String::as_str).collect();
    write(&old, &[ADA, BOB, CY], &posts);
    write(&new, &[], &posts);
    split(&old, &data);
    let before = joined(&data);
    for more in [
        &[][..],
        &["--max-removed", "2"],
        &["--max-removed", "posts=40"],
        &["--max-removed", "9", "--max-removed", "users=1"],
    ] {
        let (code, report) = run(&new, &data, more);
        assert_eq!(code, Some(5), "{report}");
        assert!(report.contains("3 of 3 users") && report.contains("--max-removed users=3"), "{report}");
        assert_eq!(joined(&data), before);
    }
    assert_eq!(run(&new, &data, &["--max-removed", "cats=3"]).0, Some(2));
    assert_eq!(run(&new, &data, &["--max-removed", "users=3"]).0, Some(0));
    assert!(joined(&data).starts_with(r#"{"users":[],"#));
}

#[test]
fn changes_to_different_fields_of_a_record_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    let user = |name: &str, bio: &str| format!(r#"{{"id":1,"username":"{name}","bio":"{bio}"}}"#);
    write(&old, &[&user("ada", "b"), BOB], &[]);
    write(&new, &[&user("countess", "b"), BOB], &[]);
    split(&old, &data);
    change(&data, collection("users"), &[(1, Some(&user("ada", "mathematician")))]);
    let (code, report) = run(&new, &data, &["--merge", "records"]);
    assert_eq!(code, Some(5), "{report}");
    // The report names the record as a whole: each side has changed another field.
    assert!(!report.contains("/users/0/bio") && report.contains("/users/0: "), "{report}");
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(row(&report, "users"), ["0", "0", "0", "0", "1", "0"], "{report}");
    let both = user("countess", "mathematician");
    assert!(joined(&data).starts_with(&format!(r#"{{"users":[{both},{BOB}],"#)), "{}", joined(&data));
    let verified = seed(["verify", "--data", data.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    // The file is now the split: the same file changes nothing, and a newer one builds on it.
    let (code, report) = run(&new, &data, &[]);
    assert!(code == Some(0) && report.contains("already holds"), "{report}");
    write(&new, &[&user("lovelace", "b"), BOB], &[]);
    assert_eq!(run(&new, &data, &[]).0, Some(0));
    assert!(joined(&data).contains(&user("lovelace", "mathematician")), "{}", joined(&data));
}

#[test]
fn conflicts_are_written_to_a_file_and_resolved_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data, conflicts] = ["old.json", "new.json", "data", "conflicts"].map(|name| dir.path().join(name));
    let users = |name: &str, count: u64| -> Vec<String> {
        (1..=count).map(|id| format!(r#"{{"id":{id},"username":"{name}{id}"}}"#)).collect()
    };
    let write_users =
        |path: &Path, users: &[String]| write(path, &users.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    write_users(&old, &users("u", 80));
    write_users(&new, &users("file", 80));
    split(&old, &data);
    let own = users("service", 80);
    let changes: Vec<(u64, Option<&str>)> = (1..).zip(&own).map(|(id, json)| (id, Some(json.as_str()))).collect();
    change(&data, collection("users"), &changes);
    let path = conflicts.to_str().unwrap();
    for more in [&["--dry-run"][..], &[]] {
        let _ = fs::remove_file(&conflicts);
        let (code, report) = run(&new, &data, &[&["--conflicts", path], more].concat());
        assert_eq!(code, Some(5), "{report}");
        assert!(report.contains("and 60 more conflicts in users; --conflicts FILE lists all"), "{report}");
    }
    let lines: Vec<serde_json::Value> =
        fs::read_to_string(&conflicts).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 80);
    assert_eq!(lines[2]["base"]["username"], "u3");
    assert_eq!(lines[2]["file"]["username"], "file3");
    assert_eq!(lines[2]["service"]["username"], "service3");
    assert_eq!(lines[2]["fields"], serde_json::json!(["/username"]));

    // Some conflicts are resolved; the others still prevent the update.
    let takes = [
        serde_json::json!("file"),
        serde_json::json!("service"),
        serde_json::json!("base"),
        serde_json::json!({"id": 4, "username": "agreed"}),
    ];
    let with_takes = |count: usize| {
        let mut lines = lines.clone();
        for (nth, line) in lines.iter_mut().enumerate().take(count) {
            line["take"] = takes.get(nth).unwrap_or(&takes[1]).clone();
        }
        lines.iter().map(|line| format!("{line}\n")).collect::<String>()
    };
    let resolved = dir.path().join("resolved");
    fs::write(&resolved, with_takes(79)).unwrap();
    let before = joined(&data);
    let resolutions = ["--resolutions", resolved.to_str().unwrap()];
    let (code, report) = run(&new, &data, &resolutions);
    assert_eq!(code, Some(5), "{report}");
    assert_eq!(joined(&data), before);
    // A resolution applies only to the versions that it was made for.
    fs::write(&resolved, with_takes(80)).unwrap();
    change(&data, collection("users"), &[(2, Some(r#"{"id":2,"username":"again"}"#))]);
    let (code, report) = run(&new, &data, &resolutions);
    assert_eq!(code, Some(3), "{report}");
    assert!(report.contains("line 2: users 2 has changed since"), "{report}");
    change(&data, collection("users"), &changes[1..2]);
    let (code, report) = run(&new, &data, &resolutions);
    assert_eq!(code, Some(0), "{report}");
    let expected =
        [r#"{"id":1,"username":"file1"}"#, &own[1], r#"{"id":3,"username":"u3"}"#, r#"{"id":4,"username":"agreed"}"#];
    assert!(joined(&data).starts_with(&format!("{{\"users\":[{},{}", expected.join(","), own[4])), "{}", joined(&data));
    let verified = seed(["verify", "--data", data.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
}

#[test]
fn a_side_may_be_preferred_for_one_collection() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    let post = |text: &str| format!(r#"{{"id":1,"thread":1,"text":"{text}","user":1}}"#);
    write(&old, &[ADA, BOB], &[&post("split")]);
    write(&new, &[ADA, r#"{"id":2,"username":"bobby"}"#], &[&post("file")]);
    split(&old, &data);
    change(&data, collection("users"), &[(2, Some(r#"{"id":2,"username":"robert"}"#))]);
    change(&data, collection("posts"), &[(1, Some(&post("service")))]);
    let (code, report) = run(&new, &data, &["--prefer", "users=service"]);
    assert_eq!(code, Some(5), "{report}");
    let (code, report) = run(&new, &data, &["--prefer", "monolith", "--prefer", "users=service"]);
    assert_eq!(code, Some(0), "{report}");
    assert!(joined(&data).contains("robert") && joined(&data).contains(&post("file")), "{}", joined(&data));
}

#[test]
fn join_refuses_data_folders_and_restores_the_collections_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let [old, data, rest, back] = ["old.json", "data", "rest.json", "back.json"].map(|name| dir.path().join(name));
    write(&old, &[ADA], &[FIRST]);
    let more = r#","comments" : [ {"id":1,"text":"}{"} ],"profile":{"name":"f"}}"#;
    let text_of_old = fs::read_to_string(&old).unwrap();
    fs::write(&old, format!("{}{more}", text_of_old.strip_suffix('}').unwrap())).unwrap();
    assert_eq!(run(&old, &data, &["--rest", rest.to_str().unwrap()]).0, Some(0));
    let join = |arguments: &[&str]| {
        let output = seed(["join", "--data", data.to_str().unwrap()].iter().chain(arguments));
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for inside in ["users/db.json", "users/db/x.json", "joined.json", "posts/../joined.json"] {
        let path = data.join(inside);
        let before = fs::read(data.join("users/db.json")).unwrap();
        let (code, report) = join(&["--output", path.to_str().unwrap()]);
        assert_eq!(code, Some(5), "{inside}: {report}");
        assert!(report.contains("name a file outside"), "{report}");
        assert_eq!(fs::read(data.join("users/db.json")).unwrap(), before);
    }
    let (code, report) = join(&["--output", back.to_str().unwrap(), "--with", rest.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{report}");
    let json = |path: &Path| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    assert_eq!(json(&back), json(&old));
    for (wrong, code, reason) in [
        ("[]", 3, "it is not a file that --rest wrote"),
        (r#"{"a":1} x"#, 3, "it is not a file that --rest wrote"),
        (r#"{"users":[]}"#, 3, "/users: a service owns this collection"),
    ] {
        fs::write(&rest, wrong).unwrap();
        let (found, report) = join(&["--output", back.to_str().unwrap(), "--with", rest.to_str().unwrap()]);
        assert_eq!(found, Some(code), "{report}");
        assert!(report.contains(reason), "{report}");
        assert_eq!(json(&back), json(&old));
    }
    fs::write(&rest, "{}").unwrap();
    let (code, report) = join(&["--output", rest.to_str().unwrap(), "--with", rest.to_str().unwrap()]);
    assert!(code == Some(5) && report.contains("it is what --with reads"), "{report}");
    fs::write(&rest, " { } ").unwrap();
    let (code, report) = join(&["--with", rest.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report.trim(), text_of_old);
}

#[test]
fn rest_rejects_and_conflicts_overwrite_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data, out] = ["old.json", "new.json", "data", "out"].map(|name| dir.path().join(name));
    write(&old, &[ADA], &[FIRST]);
    write(&new, &[ADA, BOB], &[FIRST]);
    split(&old, &data);
    let slice = data.join("posts/db.json");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&new, &link).unwrap();
    let [new_path, slice_path, out_path, link_path] = [&new, &slice, &out, &link].map(|path| path.to_str().unwrap());
    let before = [&new, &slice].map(|path| fs::read(path).unwrap());
    for arguments in [
        &["--conflicts", slice_path][..],
        &["--rejects", slice_path],
        &["--rest", slice_path],
        &["--conflicts", new_path],
        &["--rejects", link_path],
        &["--conflicts", out_path, "--rejects", out_path],
        &["--conflicts", out_path, "--resolutions", out_path],
    ] {
        for more in [&["--dry-run"][..], &[]] {
            let (code, report) = run(&new, &data, &[arguments, more].concat());
            assert_eq!(code, Some(5), "{arguments:?}: {report}");
            assert_eq!([&new, &slice].map(|path| fs::read(path).unwrap()), before, "{arguments:?}");
        }
    }
    assert_eq!(run(&new, &data, &["--conflicts", out_path]).0, Some(0));

    // A special file, such as a pipe or /dev/null, is written to, not replaced.
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    write(&new, &[ADA, BOB, r#"{"id":7}"#], &[FIRST]);
    assert_eq!(run(&new, &data, &["--rejects", pipe.to_str().unwrap()]).0, Some(7));
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(reader.join().unwrap().contains("missing field `username`"));
}

#[test]
fn new_files_have_the_permissions_of_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data, out, rest] = ["old.json", "new.json", "data", "out", "rest"].map(|name| dir.path().join(name));
    let [old_text, new_text, data_text, out_text, rest_text] =
        [&old, &new, &data, &out, &rest].map(|path| path.to_str().unwrap());
    let run = |arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"umask 027 && exec "$0" "$@""#, program("seed").to_str().unwrap()]);
        assert!(shell.args(arguments).output().unwrap().status.success(), "{arguments:?}");
    };
    let check = |paths: &[&str]| {
        for path in paths {
            let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640, "{path}");
        }
    };
    let written = ["data/manifest.json", "data/users/db.json", "data/posts/db.json"];
    write(&old, &[ADA, BOB], &[FIRST, SECOND]);
    run(&["--input", old_text, "--data", data_text, "--rest", rest_text]);
    check(&[&written[..], &["rest"]].concat());
    // The files of a killed run neither prevent another run nor stay.
    let left = ["data/manifest.json.part", "out.part", "rest.part"].map(|path| dir.path().join(path));
    for path in &left {
        fs::write(path, "left").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    write(&new, &[ADA, BOB, CY], &[SECOND]);
    run(&["--input", new_text, "--data", data_text, "--rest", rest_text]);
    run(&["join", "--data", data_text, "--output", out_text]);
    check(&[&written[..], &["rest", "out", "out.ids"]].concat());
    assert!(left.iter().all(|path| !path.exists()));
}

#[test]
fn a_resolution_overrides_a_merge() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data, conflicts] = ["old.json", "new.json", "data", "conflicts"].map(|name| dir.path().join(name));
    let user = |x: &str, y: &str| format!(r#"{{"id":1,"username":"a","x":{x},"y":{y}}}"#);
    write(&old, &[&user("1", "1")], &[]);
    write(&new, &[&user("7", "1")], &[]);
    split(&old, &data);
    change(&data, collection("users"), &[(1, Some(&user("1", "5")))]);
    let path = conflicts.to_str().unwrap();
    assert_eq!(run(&new, &data, &["--merge", "records", "--conflicts", path]).0, Some(5));
    let line = fs::read_to_string(&conflicts).unwrap();
    fs::write(&conflicts, line.replace(r#""take":null"#, r#""take":"file""#)).unwrap();
    let (code, report) = run(&new, &data, &["--resolutions", path]);
    assert_eq!(code, Some(0), "{report}");
    assert!(joined(&data).contains(&user("7", "1")), "{}", joined(&data));
    // A line about a conflict that is already resolved is refused.
    write(&new, &[&user("7", "1"), BOB], &[]);
    let (code, report) = run(&new, &data, &["--resolutions", path]);
    assert_eq!(code, Some(3), "{report}");
    assert!(report.contains("line 1: users 1 is no longer in conflict"), "{report}");
    // A number with other digits is a change here, too.
    let [old, new, data] = ["old2.json", "new2.json", "data2"].map(|name| dir.path().join(name));
    write(&old, &[&user("2", "1")], &[]);
    write(&new, &[&user("2.0", "1")], &[]);
    split(&old, &data);
    change(&data, collection("users"), &[(1, Some(&user("5", "1")))]);
    let (code, report) = run(&new, &data, &[]);
    assert!(
        code == Some(5) && report.contains("/users/0/x: 2.0 in the file, 5 in the service, 2 in the split"),
        "{report}"
    );
}

/// A monolith overwrites its file when it saves. A reader at that time gets a mixture, which must be refused.
#[test]
fn a_file_that_is_written_while_it_is_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [live, data] = ["live.json", "data"].map(|name| dir.path().join(name));
    let posts: Vec<String> =
        (0..40_000).map(|n| format!(r#"{{"id":{},"thread":1,"text":"post {n}","user":1}}"#, n + 1)).collect();
    write(&live, &[ADA], &posts.iter().map(String::as_str).collect::<Vec<_>>());
    let whole = fs::read(&live).unwrap();
    let mut refused = 0;
    for _ in 0..20 {
        let mut process =
            Process::start(Command::new(program("seed")).arg("--input").arg(&live).arg("--data").arg(&data));
        let begun = data.join("posts/building/db.json");
        world::wait_for("reading to begin", || begun.exists() || data.join("manifest.json").exists());
        // Length and text stay the same: only the write itself can be noticed.
        fs::write(&live, &whole).unwrap();
        let output = process.wait();
        let message = process.log();
        if message.contains("the file was changed while it was read") {
            assert_eq!(output.code(), Some(4), "{message}");
            assert!(!data.join("manifest.json").exists());
            refused += 1;
            break;
        }
        let _ = fs::remove_dir_all(&data);
    }
    assert!(refused > 0, "the file was never written in time");
}

#[test]
fn an_update_checks_the_records_it_touches_and_with_verify_all_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    // So many users that one changed user is a small part.
    let others: Vec<String> = (4..60).map(|id| format!(r#"{{"id":{id},"username":"user {id}"}}"#)).collect();
    let users = |third| [ADA, BOB, third].into_iter().chain(others.iter().map(String::as_str)).collect::<Vec<_>>();
    write(&old, &users(CY), &[FIRST]);
    write(&new, &users(r#"{"id":3,"username":"cyd"}"#), &[FIRST]);
    split(&old, &data);
    // Removes Bob from the index, as no service does.
    let db = open_sled(&data.join("users/db"));
    let bobs: Vec<_> = db
        .iter()
        .keys()
        .map(|key| key.unwrap())
        .filter(|key| key.first() == Some(&INDEX) && key.windows(3).any(|part| part == b"bob"))
        .collect();
    assert_eq!(bobs.len(), 1);
    db.remove(&bobs[0]).unwrap();
    drop(db);
    let before = joined(&data);
    let (code, report) = run(&new, &data, &["--verify", "all"]);
    assert_eq!(code, Some(6), "{report}");
    assert!(report.contains("an index does not match the records"), "{report}");
    assert_eq!(joined(&data), before);
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
}

/// The first byte of an index's keys.
const INDEX: u8 = 2;

#[test]
fn a_record_that_a_resolution_restores_keeps_its_own_id() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data, conflicts, back] =
        ["old.json", "new.json", "data", "conflicts", "back.json"].map(|name| dir.path().join(name));
    let third = r#"{"thread":1,"text":"third","user":1}"#;
    write(&old, &[ADA], &[FIRST, SECOND, third]);
    write(&new, &[ADA], &[FIRST, third]);
    split(&old, &data);
    change(&data, collection("posts"), &[(2, Some(r#"{"id":2,"thread":1,"text":"mine","user":2}"#))]);
    let path = conflicts.to_str().unwrap();
    assert_eq!(run(&new, &data, &["--conflicts", path]).0, Some(5));
    let line = fs::read_to_string(&conflicts).unwrap();
    fs::write(&conflicts, line.replace(r#""take":null"#, r#""take":"base""#)).unwrap();
    assert_eq!(run(&new, &data, &["--resolutions", path]).0, Some(0));
    let there = joined(&data);
    assert!(there.contains(r#"{"id":2,"thread":1,"text":"second","user":2}"#), "{there}");
    let output = seed(["join", "--data", data.to_str().unwrap(), "--output", back.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (code, report) = run(&back, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(joined(&data), there, "{report}");
}
