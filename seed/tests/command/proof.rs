//! Tests of `seed verify` and `seed join`: the proof of a split, and the way back.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use proptest::prelude::*;
use record::model::Records;
use seed::commands::join::Joining;
use seed::options::Options;
use seed::plan::Plan;
use seed::progress::{Progress, Total};
use seed::scan::{Scanned, scan, scan_loaded};
use seed::sums::Sums;
use store::{Purpose, Store};
use world::{Process, open_sled, program, sample, seed, split, start_service, text};

fn verify(data: &Path, input: Option<&Path>) -> (Option<i32>, String) {
    let mut arguments = vec!["verify".as_ref(), "--data".as_ref(), data.as_os_str()];
    if let Some(input) = input {
        arguments.extend(["--input".as_ref(), input.as_os_str()]);
    }
    let output = seed(arguments);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn join(data: &Path, more: &[&str]) -> String {
    let output = seed(["join", "--data", data.to_str().unwrap()].iter().chain(more));
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn sample_json() -> serde_json::Value {
    serde_json::from_slice(&fs::read(sample()).unwrap()).unwrap()
}

fn manifest(data: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(data.join("manifest.json")).unwrap()).unwrap()
}

fn digests(data: &Path) -> [(serde_json::Value, serde_json::Value); 3] {
    let manifest = manifest(data);
    let entry = |name| &manifest["collections"][name];
    ["users", "threads", "posts"].map(|name| (entry(name)["records"].clone(), entry(name)["digest"].clone()))
}

#[test]
fn the_manifest_describes_the_file_and_the_slices() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let manifest = manifest(dir.path());
    let sha256 = |path: &Path| {
        let output = Command::new("sha256sum").arg(path).output().unwrap();
        text(&output.stdout)[..64].to_owned()
    };
    assert_eq!(manifest["version"], 2);
    assert_eq!(manifest["source"]["sha256"], sha256(&sample()));
    assert_eq!(manifest["source"]["bytes"], fs::metadata(sample()).unwrap().len());
    assert_eq!(manifest["collections"]["posts"]["records"], 20);
    assert_eq!(manifest["collections"]["posts"]["slice"]["sha256"], sha256(&dir.path().join("posts/db.json")));
    let (code, report) = verify(dir.path(), None);
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains(manifest["collections"]["posts"]["digest"].as_str().unwrap()), "{report}");
    assert_eq!(verify(dir.path(), Some(&sample())).0, Some(0));
}

#[test]
fn verify_shows_each_difference_with_both_values() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    let changed = dir.path().join("changed.json");
    let source = fs::read_to_string(sample()).unwrap();
    fs::write(
        &changed,
        source
            .replace("\"Repairs radios", "\"Breaks radios")
            .replace("\"karma\": 12345678901234567890", "\"karma\": 12345678901234567891"),
    )
    .unwrap();
    let (code, report) = verify(&data, Some(&changed));
    assert_eq!(code, Some(4), "{report}");
    assert!(report.contains("2 records differ (2 changed, 0 only in the file, 0 only in the database)"), "{report}");
    assert!(report.contains(r#"/users/1/bio: "Breaks radios \"until they play\"" in the file, "Repairs radios \"until they play\"" in the database"#), "{report}");
    assert!(
        report.contains("/users/5/karma: 12345678901234567891 in the file, 12345678901234567890 in the database"),
        "{report}"
    );

    // A database that lost records differs from its slice.
    let db = open_sled(&data.join("threads/db"));
    let page = [1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(db.remove(page).unwrap().is_some());
    drop(db);
    let (code, report) = verify(&data, None);
    assert_eq!(code, Some(6), "{report}");
    let damaged = "threads: the database is damaged: its records do not match its service's count of them; \
                   an index does not match the records";
    assert!(report.contains(damaged), "{report}");
    assert!(report.contains("6 records differ (0 changed, 6 only in the file, 0 only in the database)"), "{report}");
    assert!(report.contains(r#"/threads/0: {"id":1,"title":"Welcome: say who you are","createdBy":1} in the file, nothing in the database"#), "{report}");
    // Spelling does not count as a difference.
    fs::write(&changed, source.replace("0.10", "1e-1").replace("안", "\\uc548")).unwrap();
    split(&sample(), &dir.path().join("again"));
    assert_eq!(verify(&dir.path().join("again"), Some(&changed)).0, Some(0));
}

/// Tampers with a database between its loading and its proof.
#[test]
fn what_was_loaded_is_found_different_if_anything_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let posts = Plan::workspace().named("posts").unwrap();
    let db = dir.path().join("posts/db");
    let open = || Store::open(&db, posts, Purpose::Passing).unwrap();
    let stage = Progress::Quiet.stage("reading back", Total::Unknown);

    let loaded = open();
    let (mut expected, mut records) = (Sums::default(), Records::new(posts, 0));
    for record in loaded.records() {
        let (id, stored) = record.unwrap();
        records.push_stored(std::str::from_utf8(stored.json()).unwrap(), id).unwrap();
        expected.add_record(id, stored.id_from_position, stored.json());
    }
    records.iter().for_each(|record| expected.add_entries_of(&loaded, &record));
    let Scanned { store, digests, .. } = scan(loaded, &stage).unwrap();
    let read = scan_loaded(store, &expected, digests, &stage).unwrap();
    assert!(read.is_sound() && read.digests == digests);
    drop(read);

    let tamper = |change: &dyn Fn(&sled::Db)| {
        let sled = open_sled(&db);
        change(&sled);
        drop(sled);
        scan_loaded(open(), &expected, digests, &stage)
    };
    let key = |sled: &sled::Db, kind: &[u8]| sled.scan_prefix(kind).keys().last().unwrap().unwrap();
    // An index entry is gone, and is put back; then a page of records is gone.
    let gone = std::cell::RefCell::new(None);
    let read = tamper(&|sled| {
        let entry = key(sled, &[2, 1]);
        gone.replace(sled.remove(&entry).unwrap().map(|value| (entry, value)));
    });
    let read = read.unwrap();
    assert_eq!((read.indexes_equal, read.digests.exact), (false, digests.exact));
    drop(read);
    let read = tamper(&|sled| {
        let (entry, value) = gone.take().unwrap();
        sled.insert(entry, value).unwrap();
    });
    assert!(read.unwrap().is_sound());
    let read = tamper(&|sled| drop(sled.remove(key(sled, &[1])).unwrap().unwrap())).unwrap();
    assert_eq!((read.indexes_equal, read.counted), (false, false));
    assert!(read.digests.exact.count < digests.exact.count);
}

#[test]
fn a_file_with_a_repeated_id_is_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let (file, mut source) = (dir.path().join("twice.json"), sample_json());
    let first = source["users"][0].clone();
    source["users"].as_array_mut().unwrap().push(first);
    fs::write(&file, source.to_string()).unwrap();
    let (code, report) = verify(dir.path(), Some(&file));
    assert_eq!(code, Some(3), "{report}");
    assert!(report.contains("/users/7 ") && report.contains("taken by an earlier record"), "{report}");
}

#[test]
fn verify_and_join_refuse_the_databases_of_a_running_service() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let _users = start_service("users", &dir.path().join("users"));
    assert_eq!(verify(dir.path(), None).0, Some(5));
    assert_eq!(seed(["join", "--data", dir.path().to_str().unwrap()]).status.code(), Some(5));
    assert_eq!(verify(&dir.path().join("nowhere"), None).0, Some(6));
}

#[test]
fn split_and_join_give_the_source_back() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second, third] = ["first", "second", "third"].map(|name| dir.path().join(name));
    split(&sample(), &first);
    let joined = dir.path().join("joined.json");
    assert_eq!(join(&first, &["--output", joined.to_str().unwrap()]), format!("{} is joined.\n", joined.display()));
    let json = |path: &Path| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    assert_eq!(json(&joined), json(&sample()));
    assert!(!dir.path().join("joined.json.part").exists());

    // Canonical input comes back byte for byte.
    split(&joined, &second);
    assert_eq!(join(&second, &[]), fs::read_to_string(&joined).unwrap());
    assert_eq!(digests(&second), digests(&first));

    // --ids writes the ids that the split gave; they do not change the digests.
    let with_ids = join(&second, &["--ids"]);
    assert!(with_ids.contains(r#"{"id":1,"thread":1,"text":"I am Ada."#), "{with_ids}");
    fs::write(&joined, &with_ids).unwrap();
    split(&joined, &third);
    assert_eq!(digests(&third), digests(&first));
    assert_eq!(join(&third, &[]), with_ids);
}

#[test]
fn join_writes_whole_files_or_none() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let output = seed(["join", "--data", dir.path().to_str().unwrap(), "--output", "/dev/full/x"]);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    let mut to_full = Command::new(program("seed"));
    to_full.args(["join", "--data"]).arg(dir.path()).stdout(fs::File::create("/dev/full").unwrap());
    let output = to_full.output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(text(&output.stderr).contains("No space left on device"), "{}", text(&output.stderr));
}

/// The story: an operator replaces a split in use by that of a new file, and the run is killed at any moment. Afterwards one
/// of the two splits is there, complete.
#[test]
fn a_replacement_killed_at_fifty_moments_leaves_the_old_or_the_new_split() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let inputs = ["a.json", "b.json"].map(|name| dir.path().join(name));
    for (input, word) in inputs.iter().zip(["alpha", "beta"]) {
        let posts: Vec<String> =
            (0..3000).map(|n| format!(r#"{{"thread":{},"text":"{word} {n}","user":1}}"#, n % 50 + 1)).collect();
        fs::write(input, format!(r#"{{"users":[],"threads":[],"posts":[{}]}}"#, posts.join(","))).unwrap();
    }
    let began = std::time::Instant::now();
    split(&inputs[0], &data);
    let whole = began.elapsed();
    let replace = |input: &Path| {
        let mut command = Command::new(program("seed"));
        command.arg("--input").arg(input).arg("--data").arg(&data).arg("--replace");
        Process::start(&mut command)
    };
    // Evenly over the time of a split, with more kills near the end, where it is put into place.
    for kill in 0..50_u32 {
        let mut process = replace(&inputs[usize::try_from(kill % 2).unwrap()]);
        let share = if kill % 3 == 0 { 90 + kill / 3 } else { kill * 2 };
        thread::sleep(whole * share / 100);
        process.signal("KILL");
        process.wait();

        // Once the next run has settled, the manifest describes the data, whether it was put into place or not.
        let settled = inputs.iter().filter(|input| {
            let flags = ["--dry-run", "--json"].map(Path::new);
            let output = seed([Path::new("--input"), input, Path::new("--data"), &data].into_iter().chain(flags));
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
            text(&output.stdout).contains(r#""outcome":"checked""#)
        });
        assert_eq!(settled.count(), 1, "kill {kill}");
        let (code, report) = verify(&data, None);
        assert_eq!(code, Some(0), "kill {kill}: {report}");
        let names: Vec<_> = fs::read_dir(data.join("posts")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }
    let output = seed([Path::new("--input"), &inputs[1], Path::new("--data"), &data, Path::new("--replace")]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// Makes values for a field that no model names.
fn extra() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|word| word.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        "([ -!#-\\[\\]-~]|\\\\[\"\\\\/bfnrt]|\\\\u00[0-9a-f]{2}|\\\\ud83c\\\\udfb8){0,8}"
            .prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(" , "))),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(|members| {
                let member =
                    |(key, value): (String, String)| format!("{}: {value}", serde_json::to_string(&key).unwrap());
                format!("{{{}}}", members.into_iter().map(member).collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// Makes records, mostly good ones: sometimes an id repeats, a type is wrong, a field is absent or a key repeats.
fn record(fields: &'static [(&'static str, bool)]) -> impl Strategy<Value = String> {
    let id = prop_oneof![30 => 1_u64..10_000, 5 => 1_u64..5, 2 => Just(i64::MAX as u64), 1 => Just(0)];
    let field = prop_oneof![40 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    let fields_spoilt = prop::collection::vec((field, 1_u64..50, any::<String>()), fields.len());
    (id, fields_spoilt, prop::option::of((any::<String>(), extra()))).prop_map(move |(id, values, more)| {
        let mut members = Vec::new();
        for ((name, is_id), (spoilt, number, text)) in fields.iter().zip(values) {
            let number = if *name == "id" { id } else { number };
            let is_id = if spoilt == 1 { !is_id } else { *is_id };
            let value = if is_id { number.to_string() } else { serde_json::to_string(&text).unwrap() };
            if spoilt != 2 {
                members.push(format!("\"{name}\" :{value}"));
            }
        }
        members.extend(more.map(|(key, value)| format!("{}:{value}", serde_json::to_string(&key).unwrap())));
        format!("{{ {} }}", members.join("\n, "))
    })
}

/// Returns the error of `seed verify`; empty if there is none.
fn fault(input: &Path, data: &Path) -> String {
    seed::commands::verify::verify(Some(input), None, data, Progress::Quiet)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

fn join_to(data: &Path, output: &Path) {
    let joining = Joining { output: Some(output), with_ids: false, rest: None, progress: Progress::Quiet };
    seed::commands::join::join(data, &joining).unwrap();
}

/// Makes files, each with its number of records.
fn document() -> impl Strategy<Value = (String, usize)> {
    let list = |fields| prop::collection::vec(record(fields), 0..5);
    (
        list(&[("id", true), ("username", false)]),
        list(&[("id", true), ("title", false), ("createdBy", true)]),
        list(&[("thread", true), ("text", false), ("user", true)]),
    )
        .prop_map(|(users, threads, posts)| {
            let count = users.len() + threads.len() + posts.len();
            let [users, threads, posts] = [users, threads, posts].map(|records| records.join(","));
            (format!("{{\"posts\":[{posts}],\"users\":[{users}] ,\t\"threads\":[{threads}]}}"), count)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any document is either refused with a position, or comes back with the same meaning.
    #[test]
    fn a_document_is_refused_with_a_position_or_comes_back_equal((source, records) in document()) {
        let dir = tempfile::tempdir().unwrap();
        let [input, back, data, again] = ["in.json", "back.json", "data", "again"].map(|name| dir.path().join(name));
        fs::write(&input, &source).unwrap();
        match seed::commands::split::split_and_verify(&input, &data, &Options::default()) {
            Err(error) => {
                prop_assert_eq!(error.exit_code(), 3, "{}", error);
                prop_assert!(error.to_string().contains("(byte "), "{}", error);
                prop_assert!(!data.exists());
                // Without the invalid records, the rest is a good file.
                let rejects = dir.path().join("rejects");
                let options = Options { rejects: Some(rejects.clone()), ..Options::default() };
                seed::commands::split::split_and_verify(&input, &data, &options).unwrap();
                prop_assert_eq!(fault(&input, &data), "");
                let lines = fs::read_to_string(rejects).unwrap().lines().count() as u64;
                let kept: u64 = digests(&data).iter().map(|(records, _)| records.as_u64().unwrap()).sum();
                prop_assert_eq!(&manifest(&data)["rejected"], lines);
                prop_assert_eq!(kept + lines, records as u64);
                join_to(&data, &back);
                prop_assert_eq!(fault(&back, &data), "");
                // The rejected records are gone, and all others keep their ids.
                seed::commands::split::split_and_verify(&back, &again, &Options::default()).unwrap();
                prop_assert_eq!(digests(&again), digests(&data));
            }
            Ok(_) => {
                prop_assert_eq!(fault(&input, &data), "");
                join_to(&data, &back);
                // The returned file equals the data of the original, and the reverse.
                prop_assert_eq!(fault(&back, &data), "");
                seed::commands::split::split_and_verify(&back, &again, &Options::default()).unwrap();
                prop_assert_eq!(fault(&input, &again), "");
                prop_assert_eq!(digests(&again), digests(&data));
            }
        }
    }
}
