//! Tests that given ids stay with their records, however the list without ids changes.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use record::id::Id;
use seed::commands::join::Joining;
use seed::commands::split::split_and_verify;
use seed::conflict::Side;
use seed::error::Error;
use seed::options::Options;
use seed::progress::Progress;
use seed::report::Report;
use seed::scoped::Scoped;
use store::{Change, Purpose, Store, Writer};
use world::changes::{change, collection, joined};
use world::{seed, split, start_service, text};

/// Returns a post as the monolith has it.
fn post(text: &str) -> String {
    format!(r#"{{"thread":1,"text":{},"user":1}}"#, serde_json::to_string(text).unwrap())
}

/// Returns the post as the service has it.
fn with_id(id: u64, post: &str) -> String {
    format!("{{\"id\":{id},{}", &post[1..])
}

/// Returns a file with these posts.
fn file(posts: &[String]) -> String {
    let [user, thread] = [r#"{"id":1,"username":"ada"}"#, r#"{"id":1,"title":"t","createdBy":1}"#];
    format!("{{\"users\":[{user}],\"threads\":[{thread}],\"posts\":[{}]}}\n", posts.join(","))
}

fn write(path: &Path, texts: &[&str]) {
    fs::write(path, file(&texts.iter().map(|text| post(text)).collect::<Vec<_>>())).unwrap();
}

fn run(input: &Path, data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = seed(["--input", input.to_str().unwrap(), "--data", data.to_str().unwrap()].iter().chain(more));
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Returns the posts in the database.
fn posts(data: &Path) -> BTreeMap<u64, String> {
    let store = Store::open(&data.join("posts/db"), collection("posts"), Purpose::Serving).unwrap();
    let record = |record: Result<(Id, store::Stored), _>| {
        let (id, stored) = record.unwrap();
        (id.get(), text(stored.json()))
    };
    store.records().map(record).collect()
}

/// Returns the highest id that a post ever had.
fn last_id(data: &Path) -> u64 {
    let store = Store::open(&data.join("posts/db"), collection("posts"), Purpose::Serving).unwrap();
    Writer::new(&store).unwrap().last_id()
}

/// Returns the texts of the posts in the database.
fn texts(data: &Path) -> Vec<(u64, String)> {
    let text =
        |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["text"].as_str().unwrap().to_owned();
    posts(data).into_iter().map(|(id, json)| (id, text(&json))).collect()
}

#[test]
fn a_post_keeps_its_id_however_the_list_changes() {
    let before = ["apple", "bear", "cloud", "dune"];
    let ids = |ids: &[u64]| ids.to_vec();
    for (name, after, expected, row) in [
        ("one is removed", &["apple", "cloud", "dune"][..], ids(&[1, 3, 4]), "0 0 1"),
        ("one is inserted", &["apple", "bear", "new", "cloud", "dune"], ids(&[1, 2, 5, 3, 4]), "1 0 0"),
        ("another order", &["dune", "cloud", "bear", "apple"], ids(&[4, 3, 2, 1]), "0 0 0"),
        ("one moves", &["bear", "cloud", "dune", "apple"], ids(&[2, 3, 4, 1]), "0 0 0"),
        ("one is changed", &["apple", "bear and wolf", "cloud", "dune"], ids(&[1, 2, 3, 4]), "0 1 0"),
        ("one is replaced", &["apple", "wolf", "cloud", "dune"], ids(&[1, 5, 3, 4]), "1 0 1"),
        ("one is removed and its neighbour changed", &["apple", "cloud, again", "dune"], ids(&[1, 3, 4]), "0 1 1"),
        ("one is repeated", &["apple", "bear", "bear", "cloud", "dune"], ids(&[1, 2, 5, 3, 4]), "1 0 0"),
        ("the last two are replaced", &["apple", "bear", "x", "y"], ids(&[1, 2, 5, 6]), "2 0 2"),
        ("some are added", &["apple", "bear", "cloud", "dune", "x", "y"], ids(&[1, 2, 3, 4, 5, 6]), "2 0 0"),
        ("a lot at once", &["new", "dune", "apple", "cloud here"], ids(&[5, 4, 1, 3]), "1 1 1"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, data, other, back] =
            ["old.json", "new.json", "data", "other", "back.json"].map(|name| dir.path().join(name));
        write(&old, &before);
        write(&new, after);
        split(&old, &data);
        let (code, dry) = run(&new, &data, &["--dry-run"]);
        assert_eq!(code, Some(0), "{name}: {dry}");
        let (code, report) = run(&new, &data, &[]);
        assert_eq!(code, Some(0), "{name}: {report}");
        let found = report.lines().find(|line| line.trim_start().starts_with("posts ")).unwrap();
        let found: Vec<&str> = found.split_whitespace().skip(1).take(3).collect();
        assert_eq!(found.join(" "), row, "{name}: {report}");
        let expected: BTreeMap<u64, String> =
            expected.into_iter().zip(after.iter().map(|text| (*text).to_owned())).collect();
        assert_eq!(texts(&data), expected.clone().into_iter().collect::<Vec<_>>(), "{name}: {report}");
        // Joining gives the file back, and its split is the same, in this folder and in another.
        assert_eq!(joined(&data), fs::read_to_string(&new).unwrap(), "{name}");
        let output = seed(["join", "--data", data.to_str().unwrap(), "--output", back.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(fs::read(&back).unwrap(), fs::read(&new).unwrap());
        let verified = seed(["verify", "--data", data.to_str().unwrap(), "--input", back.to_str().unwrap()]);
        assert!(verified.status.success(), "{name}: {}", text(&verified.stderr));
        let (code, report) = run(&back, &data, &[]);
        assert!(code == Some(0) && report.contains("already holds the split of"), "{name}: {report}");
        split(&back, &other);
        assert_eq!(posts(&other), posts(&data), "{name}");
        // The other split reuses no id, either.
        assert_eq!(last_id(&other), last_id(&data), "{name}");
        // A service that fills itself from its slice gives the same ids.
        let mut filled = std::process::Command::new(world::program("posts"));
        filled.args(["--listen", "127.0.0.1:0"]).arg("--slice").arg(data.join("posts/db.json"));
        let mut service = world::Process::start(filled.arg("--data").arg(dir.path().join("filled")));
        let address = service.await_line(" on http://").trim().parse().unwrap();
        for (id, json) in posts(&data) {
            assert!(world::get(address, "/api/posts").2.contains(&json), "{name}: {id}");
        }
    }
}

#[test]
fn a_dry_run_says_what_each_post_is_taken_for() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    write(&old, &["apple", "bear", "cloud", "dune", "earth"]);
    write(&new, &["earth", "apple", "bear and wolf", "new", "dune"]);
    split(&old, &data);
    let (code, report) = run(&new, &data, &["--dry-run"]);
    assert_eq!(code, Some(0), "{report}");
    for line in [
        "1 has moved, 1 is changed, 1 is new, 1 is gone:",
        "  /posts/0: id 5, moved",
        "  /posts/2: id 2, changed",
        "  /posts/3: id 6, new",
        "  /posts/-: id 3, gone",
    ] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let (_, report) = run(&new, &data, &["--dry-run", "--json"]);
    let report: serde_json::Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
    assert_eq!(report["posts"]["without_ids"]["moved"], 1);
    assert_eq!(
        report["posts"]["without_ids"]["first"][0],
        serde_json::json!({"index": 0, "id": 5, "taken_for": "moved"})
    );
    assert_eq!(texts(&data)[4], (5, "earth".to_owned()));
}

#[test]
fn a_list_with_little_of_the_split_one_is_refused_without_realign() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    write(&old, &["apple", "bear", "cloud", "dune", "earth"]);
    write(&new, &["apple", "bear", "x", "y", "z"]);
    split(&old, &data);
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(5), "{report}");
    assert!(report.contains("3 of 5 posts") && report.contains("--max-removed posts=3"), "{report}");
    for more in [&["--max-removed", "9"], &["--max-removed", "posts=3"]] {
        let (code, report) = run(&new, &data, more);
        assert_eq!(code, Some(5), "{report}");
        assert!(
            report.contains("has 2 of its 5 records of posts without ids, in the same or similar words, among 5")
                && report.contains("--realign"),
            "{report}"
        );
    }
    assert_eq!(texts(&data)[4], (5, "earth".to_owned()));
    let (code, report) = run(&new, &data, &["--realign", "--max-removed", "posts=3"]);
    assert_eq!(code, Some(0), "{report}");
    let expected = [(1, "apple"), (2, "bear"), (6, "x"), (7, "y"), (8, "z")].map(|(id, text)| (id, text.to_owned()));
    assert_eq!(texts(&data), expected);
}

#[test]
fn positions_in_the_file_do_not_affect_the_services_own_changes() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, newer, data] = ["old.json", "new.json", "newer.json", "data"].map(|name| dir.path().join(name));
    write(&old, &["apple", "bear", "cloud"]);
    split(&old, &data);
    // The service deletes one post, adds two and deletes one of them: the id 5 is never given again.
    let [own, gone] = [with_id(4, &post("of the service")), with_id(5, &post("for a moment"))];
    change(&data, collection("posts"), &[(2, None), (4, Some(&own)), (5, Some(&gone))]);
    change(&data, collection("posts"), &[(5, None)]);
    write(&new, &["apple", "bear", "cloud", "of the file"]);
    let (code, report) = run(&new, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    let expect = |expected: &[(u64, &str)]| {
        assert_eq!(texts(&data), expected.iter().map(|(id, text)| (*id, (*text).to_owned())).collect::<Vec<_>>());
    };
    expect(&[(1, "apple"), (3, "cloud"), (4, "of the service"), (6, "of the file")]);
    // The post that the service deleted does not come back under any id, and the file deletes only its own post.
    write(&newer, &["bear", "cloud", "of the file", "another"]);
    let (code, report) = run(&newer, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    expect(&[(3, "cloud"), (4, "of the service"), (6, "of the file"), (7, "another")]);
    let own = format!(",{}]", with_id(4, &post("of the service")));
    assert!(joined(&data).contains(&own), "{}", joined(&data));
    let (_posts, address) = start_service("posts", &data.join("posts"));
    assert_eq!(
        world::get(address, "/api/posts/in-thread/1").2,
        format!("[{}]", posts_json(&[(3, "cloud"), (4, "of the service"), (6, "of the file"), (7, "another")]))
    );
}

fn posts_json(posts: &[(u64, &str)]) -> String {
    posts.iter().map(|(id, text)| with_id(*id, &post(text))).collect::<Vec<_>>().join(",")
}

#[test]
fn a_post_that_becomes_invalid_stays_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data, rejects] = ["old.json", "new.json", "data", "rejects"].map(|name| dir.path().join(name));
    write(&old, &["apple", "bear", "cloud", "dune"]);
    split(&old, &data);
    // The second or the third post is invalid and the other removed: which is which is unknown. And a user is invalid.
    let spoilt = file(&[post("apple"), r#"{"thread":1,"text":7,"user":1}"#.to_owned(), post("dune")]);
    fs::write(&new, spoilt.replace(r#""username":"ada""#, r#""username":null"#)).unwrap();
    let rejects_path = rejects.to_str().unwrap();
    let (code, report) = run(&new, &data, &["--rejects", rejects_path, "--dry-run"]);
    assert_eq!(code, Some(7), "{report}");
    assert_eq!(fs::read_to_string(&rejects).unwrap().lines().count(), 2);
    for line in [
        "users: 1 record is invalid in the file now, and stays unchanged: id 1",
        "posts: 2 records are invalid in the file now, and stay unchanged: id 2, 3",
    ] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let (code, report) = run(&new, &data, &["--rejects", rejects_path]);
    assert_eq!(code, Some(7), "{report}");
    assert_eq!(
        texts(&data),
        [(1, "apple"), (2, "bear"), (3, "cloud"), (4, "dune")].map(|(id, text)| (id, text.to_owned()))
    );
    assert!(joined(&data).starts_with(r#"{"users":[{"id":1,"username":"ada"}]"#));
}

/// A post of the monolith with its identity.
#[derive(Clone, Debug)]
struct Known {
    id: u64,
    text: String,
}

/// A model of a history: what each side did to which post.
#[derive(Clone, Debug, Default)]
struct Model {
    /// The monolith's list; new posts have the id 0 until they are given one.
    list: Vec<Known>,
    /// The posts as split.
    base: BTreeMap<u64, String>,
    /// The service's posts, and whether the service wrote them, so that they have their own ids.
    service: BTreeMap<u64, (String, bool)>,
    last_id: u64,
}

impl Model {
    /// Splits or applies the monolith's file, and returns the number of conflicts. If there are any and no side is
    /// preferred, applies nothing.
    fn update(&mut self, prefer: Option<Side>) -> usize {
        let mut next = self.clone();
        for known in next.list.iter_mut().filter(|known| known.id == 0) {
            next.last_id += 1;
            known.id = next.last_id;
        }
        let file: BTreeMap<u64, String> = next.list.iter().map(|known| (known.id, known.text.clone())).collect();
        let ids: Vec<u64> = file.keys().chain(next.base.keys()).copied().collect();
        let mut conflicts = 0;
        for id in ids {
            let (was, theirs) = (next.base.remove(&id), file.get(&id).cloned());
            let ours = next.service.get(&id).map(|(text, _)| text.clone());
            let conflict = theirs != was && ours != was && theirs != ours;
            conflicts += usize::from(conflict);
            if theirs != was && ours == was || conflict && prefer == Some(Side::Monolith) {
                match &theirs {
                    Some(text) => next.service.insert(id, (text.clone(), false)),
                    None => next.service.remove(&id),
                };
            }
            next.base.extend(theirs.map(|text| (id, text)));
        }
        if conflicts == 0 || prefer.is_some() {
            *self = next;
        }
        conflicts
    }

    /// Returns the expected posts in the database.
    fn expected(&self) -> BTreeMap<u64, String> {
        self.service.iter().map(|(id, (text, _))| (*id, with_id(*id, &post(text)))).collect()
    }

    /// Returns the expected joined file: the monolith's order, then the service's own posts.
    fn joined(&self) -> String {
        let in_list = self.list.iter().map(|known| known.id);
        let added = self.service.keys().copied().filter(|id| self.list.iter().all(|known| known.id != *id));
        let posts = in_list.chain(added).filter_map(|id| {
            let (text, is_own) = self.service.get(&id)?;
            Some(if *is_own { with_id(id, &post(text)) } else { post(text) })
        });
        file(&posts.collect::<Vec<_>>())
    }
}

/// Makes a text unlike any other.
fn fresh(rng: &mut Rng) -> String {
    let word = |rng: &mut Rng| (0..rng.usize(4..9)).map(|_| rng.lowercase()).collect::<String>();
    (0..rng.usize(2..6)).map(|_| word(rng)).collect::<Vec<_>>().join(" ")
}

/// Makes random changes on both sides, as between two runs.
fn live(model: &mut Model, rng: &mut Rng, data: &Path, writes: &mut usize) {
    let list = &mut model.list;
    // A post that is both moved and changed between two runs counts as another post, so do only one.
    let (mut moved, mut edited) = (Vec::new(), Vec::new());
    for _ in 0..rng.usize(0..6) {
        let place = rng.usize(..=list.len());
        match rng.u8(0..10) {
            0..3 => list.push(Known { id: 0, text: fresh(rng) }),
            3..5 => list.insert(place, Known { id: 0, text: fresh(rng) }),
            5..7 if list.len() > 4 => drop(list.remove(place.min(list.len() - 1))),
            7 if !list.is_empty() => {
                let place = place.min(list.len() - 1);
                if edited.contains(&list[place].text) {
                    continue;
                }
                let known = list.remove(place);
                moved.push(known.text.clone());
                list.insert(rng.usize(..=list.len()), known);
            }
            8 if !list.is_empty() => {
                let place = place.min(list.len() - 1);
                if moved.contains(&list[place].text) {
                    continue;
                }
                let more = list[place].text.clone() + " " + &fresh(rng)[..3];
                edited.push(more.clone());
                list[place].text = more;
            }
            _ => {}
        }
    }
    if edited.is_empty() && rng.u8(0..10) == 0 {
        list.reverse();
    }
    for _ in 0..rng.usize(0..4) {
        *writes += 1;
        let ids: Vec<u64> = model.service.keys().copied().collect();
        let some = rng.choice(&ids).copied();
        match (rng.u8(0..4), some) {
            (0 | 1, _) => {
                model.last_id += 1;
                let (id, text) = (model.last_id, fresh(rng));
                change(data, collection("posts"), &[(id, Some(&with_id(id, &post(&text))))]);
                model.service.insert(id, (text, true));
            }
            (2, Some(id)) => {
                let text = fresh(rng);
                change(data, collection("posts"), &[(id, Some(&with_id(id, &post(&text))))]);
                model.service.insert(id, (text, true));
            }
            (3, Some(id)) => {
                change(data, collection("posts"), &[(id, None)]);
                model.service.remove(&id);
            }
            _ => {}
        }
    }
}

/// Compares random histories of both sides, `HISTORIES` of them, with a model that knows each post's identity.
#[test]
fn in_random_histories_no_post_is_lost_or_gets_another_id() {
    let histories: u64 = std::env::var("HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let (mut updates, mut with_conflicts, mut realigned, mut writes) = (0, 0, 0, 0);
    for seed in 0..histories {
        let mut rng = Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let [input, data, back] = ["db.json", "data", "back.json"].map(|name| dir.path().join(name));
        let list = (0..rng.usize(0..25)).map(|_| Known { id: 0, text: fresh(&mut rng) }).collect();
        let mut model = Model { list, ..Model::default() };
        model.update(None);
        save(&model, &input);
        apply(&input, &data, None, false).unwrap();
        for round in 0..3 {
            let before = model.list.len();
            live(&mut model, &mut rng, &data, &mut writes);
            save(&model, &input);
            let there = model.expected();
            // If most of the list is removed, nothing shows that it is the same list.
            let stayed = model.list.iter().filter(|known| known.id > 0).count();
            let realign = stayed * 2 < before.min(model.list.len());
            if realign {
                let refused = apply(&input, &data, None, false).unwrap_err();
                assert!(refused.to_string().contains("--realign"), "history {seed}, round {round}: {refused}");
                assert_eq!(posts(&data), there, "history {seed}, round {round}");
                realigned += 1;
            }
            let conflicts = model.update(None);
            match apply(&input, &data, None, realign) {
                Ok(_) => assert_eq!(conflicts, 0, "history {seed}, round {round}"),
                Err(Error::Conflicts(report)) => {
                    assert_eq!(
                        report.json["posts"]["conflicts"], conflicts,
                        "history {seed}, round {round}: {}",
                        report.text
                    );
                    assert_eq!(posts(&data), there, "history {seed}, round {round}");
                    with_conflicts += 1;
                    let side = if rng.bool() { Side::Monolith } else { Side::Service };
                    model.update(Some(side));
                    apply(&input, &data, Some(side), realign).unwrap();
                }
                Err(error) => panic!("history {seed}, round {round}: {error}"),
            }
            updates += 1;
            assert_eq!(posts(&data), model.expected(), "history {seed}, round {round}");
            let joining = Joining { output: Some(&back), with_ids: false, rest: None, progress: Progress::Quiet };
            seed::commands::join::join(&data, &joining).unwrap();
            assert_eq!(fs::read_to_string(&back).unwrap(), model.joined(), "history {seed}, round {round}");
        }
        let again = dir.path().join("again");
        apply(&back, &again, None, false).unwrap();
        assert_eq!(posts(&again), posts(&data), "history {seed}");
    }
    println!(
        "{histories} histories: {updates} updates, {with_conflicts} with conflicts, {realigned} of another list, {writes} writes of the service"
    );
    assert!(with_conflicts > 0 && writes > 0);
}

fn save(model: &Model, input: &PathBuf) {
    fs::write(input, file(&model.list.iter().map(|known| post(&known.text)).collect::<Vec<_>>())).unwrap();
}

fn apply(input: &Path, data: &Path, prefer: Option<Side>, realign: bool) -> Result<Report, Error> {
    let prefer = prefer.map(Scoped::all).into_iter().collect();
    let max_removed = vec![Scoped::all(u64::MAX)];
    split_and_verify(input, data, &Options { prefer, max_removed, realign, ..Options::default() })
}

/// A service never gives an id that an update gave, nor an update one that a service gave.
#[test]
fn updates_and_services_never_give_the_same_id() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
    write(&old, &["apple", "bear"]);
    write(&new, &["apple", "bear", "cloud"]);
    split(&old, &data);
    assert_eq!(run(&new, &data, &[]).0, Some(0));
    write(&new, &["apple", "bear"]);
    assert_eq!(run(&new, &data, &[]).0, Some(0));
    let store = Store::open(&data.join("posts/db"), collection("posts"), Purpose::Serving).unwrap();
    let mut writer = Writer::new(&store).unwrap();
    assert_eq!(writer.last_id(), 3);
    writer.apply(&[Change::Remove(Id::try_from(2).unwrap())]).unwrap();
    assert_eq!(writer.next_id().unwrap().get(), 4);
}

/// Writes a file of posts with these texts; `None` makes an invalid post.
fn write_with_rejects(path: &Path, texts: &[Option<&str>]) {
    let post = |text: &Option<&str>| text.map_or(r#"{"thread":1,"text":7,"user":1}"#.to_owned(), post);
    fs::write(path, file(&texts.iter().map(post).collect::<Vec<_>>())).unwrap();
}

#[test]
fn a_rejected_post_keeps_its_id_when_it_is_corrected() {
    let before = ["apple", "bear", "cloud", "dune"];
    for (name, bad, then, expected) in [
        (
            "corrected",
            vec![Some("apple"), None, Some("cloud"), Some("dune")],
            &before[..],
            &[(1, "apple"), (2, "bear"), (3, "cloud"), (4, "dune")][..],
        ),
        ("all of them", vec![None, None, None, None], &before, &[(1, "apple"), (2, "bear"), (3, "cloud"), (4, "dune")]),
        (
            "deleted",
            vec![Some("apple"), None, Some("cloud"), Some("dune")],
            &["apple", "cloud", "dune"],
            &[(1, "apple"), (3, "cloud"), (4, "dune")],
        ),
        (
            "changed",
            vec![Some("apple"), None, Some("cloud"), Some("dune")],
            &["apple", "bear, again", "cloud", "dune"],
            &[(1, "apple"), (2, "bear, again"), (3, "cloud"), (4, "dune")],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let [old, with_rejects, newer, data, rejects] =
            ["old.json", "bad.json", "newer.json", "data", "rejects"].map(|name| dir.path().join(name));
        write(&old, &before);
        split(&old, &data);
        write_with_rejects(&with_rejects, &bad);
        for _ in 0..2 {
            let (code, report) = run(&with_rejects, &data, &["--rejects", rejects.to_str().unwrap()]);
            assert!(code == Some(7) || report.contains("already holds"), "{name}: {report}");
            assert_eq!(texts(&data).len(), 4, "{name}: {report}");
            let (code, report) = run(&with_rejects, &data, &[]);
            assert!(code == Some(0) && report.contains("already holds"), "{name}: {report}");
        }
        assert_eq!(joined(&data), fs::read_to_string(&old).unwrap(), "{name}");
        write(&newer, then);
        let (code, report) = run(&newer, &data, &[]);
        assert_eq!(code, Some(0), "{name}: {report}");
        assert_eq!(
            texts(&data),
            expected.iter().map(|(id, text)| (*id, (*text).to_owned())).collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[test]
fn an_invalid_record_is_identified_by_its_content() {
    let bad = |text: &str| format!(r#"{{"thread":1,"text":"{text}","user":"nobody"}}"#);
    let good = |texts: &[&str]| texts.iter().map(|text| post(text)).collect::<Vec<_>>();
    let before = ["apple pie", "bear hug", "cloud nine", "dune sea", "earth worm"];
    for (name, after, expected) in [
        (
            "its neighbour is removed",
            [good(&["apple pie"]), vec![bad("cloud nine")], good(&["dune sea", "earth worm"])].concat(),
            vec![1, 3, 4, 5],
        ),
        (
            "it has moved",
            [good(&["apple pie", "cloud nine"]), vec![bad("bear hug")], good(&["dune sea", "earth worm"])].concat(),
            vec![1, 2, 3, 4, 5],
        ),
        (
            "its neighbour is changed",
            [good(&["apple pie", "bear hug of mine"]), vec!["7".to_owned()], good(&["dune sea", "earth worm"])]
                .concat(),
            vec![1, 2, 3, 4, 5],
        ),
        (
            "another record's id is inside it",
            [
                vec![r#"{"thread":1,"text":"apple pie","user":"x","re":{"id":4}}"#.to_owned()],
                good(&["bear hug", "cloud nine", "earth worm"]),
            ]
            .concat(),
            vec![1, 2, 3, 5],
        ),
        (
            "it cannot be identified, and is elsewhere",
            [good(&["apple pie", "cloud nine", "dune sea", "earth worm"]), vec!["7".to_owned()]].concat(),
            vec![1, 2, 3, 4, 5],
        ),
        (
            "it cannot be identified",
            [good(&["apple pie"]), vec!["{\"text\":".to_owned() + "}"], good(&["dune sea", "earth worm"])].concat(),
            vec![1, 2, 3, 4, 5],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let [old, newer, data, rejects] =
            ["old.json", "newer.json", "data", "rejects"].map(|name| dir.path().join(name));
        write(&old, &before);
        split(&old, &data);
        fs::write(&newer, file(&after)).unwrap();
        let (code, report) = run(&newer, &data, &["--rejects", rejects.to_str().unwrap()]);
        assert_eq!(code, Some(7), "{name}: {report}");
        assert_eq!(posts(&data).into_keys().collect::<Vec<_>>(), expected, "{name}: {report}");
    }
    // Users have their own ids, but the id of an invalid user may be unreadable.
    for bad in [
        r#"{"id":"3","username":"u3"}"#,
        r#"{"username":"u3"}"#,
        r#"{"id":-3,"username":"u3"}"#,
        "7",
        r#"{"profile":{"id":9},"id":3,"username":7}"#,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let [old, newer, data, rejects] =
            ["old.json", "newer.json", "data", "rejects"].map(|name| dir.path().join(name));
        let users = |third: Option<&str>, ids: std::ops::RangeInclusive<u64>| {
            let user = |id| match third.filter(|_| id == 3) {
                Some(bad) => bad.to_owned(),
                None => format!(r#"{{"id":{id},"username":"u{id}"}}"#),
            };
            let users: Vec<String> = ids.map(user).collect();
            format!(r#"{{"users":[{}],"threads":[],"posts":[]}}"#, users.join(","))
        };
        fs::write(&old, users(None, 1..=9)).unwrap();
        fs::write(&newer, users(Some(bad), 1..=8)).unwrap();
        split(&old, &data);
        let (code, report) = run(&newer, &data, &["--rejects", rejects.to_str().unwrap()]);
        assert_eq!(code, Some(7), "{bad}: {report}");
        assert!(
            report.contains("users: 1 record is invalid in the file now, and stays unchanged: id 3"),
            "{bad}: {report}"
        );
        assert_eq!(joined(&data), users(None, 1..=8) + "\n", "{bad}");
    }
}

/// Aligns many records at once, with few unchanged ones between them or none.
#[test]
fn ids_stay_with_their_records_in_long_lists() {
    let word =
        |n: u64| ["ash", "birch", "cedar", "elm", "fir", "gum", "hazel", "ivy", "juniper", "kapok"][(n % 10) as usize];
    let unique = |n: u64| {
        format!("{} {} {} of a {}", word(n), word(n / 10), word(n / 100), "very ".repeat((n % 7 + 1) as usize))
    };
    let text = |n: u64| if n % 12 == 5 { "me too".to_owned() } else { format!("{} no{n}", unique(n)) };
    let liked = |text: &str| format!("{},\"likes\":0}}", post(text).strip_suffix('}').unwrap());
    let often = |n: u64| ["yes", "no", "perhaps"][(n * n % 7 % 3) as usize].to_owned();
    let all =
        |from: u64, text: &dyn Fn(u64) -> String| (from..=1000).map(|n| (n, text(n))).collect::<Vec<(u64, String)>>();
    for (name, before, after) in [
        (
            "a field is added to all, and twenty in a row are removed",
            all(1, &|n| format!("{} no{n}", unique(n))),
            all(1, &|n| liked(&format!("{} no{n}", unique(n))))
                .into_iter()
                .filter(|(n, _)| !(601..=620).contains(n))
                .collect::<Vec<_>>(),
        ),
        (
            "twenty are removed, and those after them are changed",
            all(1, &|n| format!("{} no{n}", unique(n))),
            all(1, &|n| {
                if (421..=550).contains(&n) {
                    format!("{} no{n} edited", unique(n))
                } else {
                    format!("{} no{n}", unique(n))
                }
            })
            .into_iter()
            .filter(|(n, _)| !(401..=420).contains(n))
            .collect(),
        ),
        (
            "a field is added to all, many say the same, and one is inserted",
            all(1, &text),
            all(1, &|n| liked(&text(n)))
                .into_iter()
                .flat_map(|post| if post.0 == 500 { vec![(1001, liked("me too")), post] } else { vec![post] })
                .collect(),
        ),
        (
            "all say one of three things, and two are changed",
            (1..=5000).map(|n| (n, often(n))).collect(),
            (1..=5000).map(|n| (n, if n == 11 || n == 4990 { often(n) + " really" } else { often(n) })).collect(),
        ),
        (
            "every second one is changed",
            all(1, &|n| format!("{} no{n}", unique(n))),
            all(1, &|n| format!("{} no{n}{}", unique(n), if n % 2 == 0 { " edited" } else { "" })),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, data] = ["old.json", "new.json", "data"].map(|name| dir.path().join(name));
        let record = |text: &String| if text.starts_with('{') { text.clone() } else { post(text) };
        let posts_of = |posts: &[(u64, String)]| file(&posts.iter().map(|(_, text)| record(text)).collect::<Vec<_>>());
        fs::write(&old, posts_of(&before)).unwrap();
        fs::write(&new, posts_of(&after)).unwrap();
        split(&old, &data);
        let (code, report) = run(&new, &data, &[]);
        assert_eq!(code, Some(0), "{name}: {report}");
        let expected: BTreeMap<u64, String> =
            after.iter().map(|(id, text)| (*id, with_id(*id, &record(text)))).collect();
        let found = posts(&data);
        let wrong = expected.iter().filter(|(id, json)| found.get(*id) != Some(*json)).count();
        // Of two equal neighbours, either may be the new or changed one.
        let allowed = if name.contains("say") { 2 } else { 0 };
        assert!(wrong <= allowed && found.len() == expected.len(), "{name}: {wrong} are not where they were\n{report}");
    }
}

#[test]
fn a_joined_file_with_equal_posts_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [old, back, data] = ["old.json", "back.json", "data"].map(|name| dir.path().join(name));
    write(&old, &["x", "x", "x", "end"]);
    split(&old, &data);
    change(&data, collection("posts"), &[(2, None)]);
    let there = texts(&data);
    let output = seed(["join", "--data", data.to_str().unwrap(), "--output", back.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (code, report) = run(&back, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(texts(&data), there, "{report}");
    let verified = seed(["verify", "--data", data.to_str().unwrap(), "--input", back.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
}

/// The manifest of an earlier `seed` records neither given ids nor the databases' revisions.
#[test]
fn a_split_of_an_earlier_seed_can_be_updated() {
    let dir = tempfile::tempdir().unwrap();
    let [old, newer, data, rejects] = ["old.json", "newer.json", "data", "rejects"].map(|name| dir.path().join(name));
    let words = ["ash", "birch", "cedar", "elm", "fir", "gum", "hazel", "ivy"];
    let list = |more: &[&'static str]| -> Vec<Option<&'static str>> {
        words
            .iter()
            .enumerate()
            .map(|(n, word)| (n != 3).then_some(*word))
            .chain(more.iter().map(|word| Some(*word)))
            .collect()
    };
    write_with_rejects(&old, &list(&[]));
    let rejects = ["--rejects", rejects.to_str().unwrap()];
    assert_eq!(run(&old, &data, &rejects).0, Some(7));
    let path = data.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for collection in ["users", "threads", "posts"] {
        let entry = manifest["collections"][collection].as_object_mut().unwrap();
        entry.remove("database").unwrap();
        entry.remove("given");
    }
    fs::write(&path, manifest.to_string()).unwrap();
    let verified = seed(["verify", "--data", data.to_str().unwrap(), "--input", old.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    change(&data, collection("posts"), &[(6, None)]);
    write_with_rejects(&newer, &list(&["juniper"]));
    let (code, report) = run(&newer, &data, &rejects);
    assert_eq!(code, Some(7), "{report}");
    let expected = [(1, "ash"), (2, "birch"), (3, "cedar"), (5, "fir"), (7, "hazel"), (8, "ivy"), (9, "juniper")];
    assert_eq!(texts(&data), expected.map(|(id, text)| (id, text.to_owned())), "{report}");
}
