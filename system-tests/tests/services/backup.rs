//! A backup holds a service's data at one revision, despite concurrent writes, and a restore gives the same data.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};
use store::{Position, Purpose, Store};
use world::changes::collection;
use world::{Process, get, program, sample, seed, split, start_service, text, wait_for};

const SECRET: &str = "posts_of_a_test";

/// Connections that write at once.
const WRITERS: usize = 6;

/// The three services of a split of the sample; posts takes writes.
struct World {
    dir: tempfile::TempDir,
    _users: Process,
    _threads: Process,
    posts: Process,
    addresses: [SocketAddr; 3],
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        split(&sample(), &data);
        let digest = hex::encode(Sha256::digest(SECRET));
        fs::write(dir.path().join("tokens"), format!("test {digest}\n")).unwrap();
        fs::write(dir.path().join("secrets"), format!("# of a test\n{SECRET}\n")).unwrap();
        let (users, first) = start_service("users", &data.join("users"));
        let (threads, second) = start_service("threads", &data.join("threads"));
        let (posts, third) = start_posts(dir.path());
        Self { dir, _users: users, _threads: threads, posts, addresses: [first, second, third] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn backup(&self, more: &[&str]) -> Output {
        let mut arguments = vec!["backup".to_owned()];
        for address in self.addresses {
            arguments.extend(["--from".to_owned(), format!("http://{address}")]);
        }
        for (option, path) in [("--data", "data"), ("--secrets", "secrets")] {
            arguments.extend([option.to_owned(), self.path(path).to_str().unwrap().to_owned()]);
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        seed(arguments)
    }

    /// Runs `seed` with paths of this world.
    fn seed(&self, arguments: &[&str]) -> Output {
        let is_path = |argument: &&str| !argument.starts_with('-') && *argument != arguments[0];
        seed(
            arguments.iter().map(|argument| {
                if is_path(argument) { self.path(argument).into_os_string() } else { (*argument).into() }
            }),
        )
    }
}

fn start_posts(dir: &Path) -> (Process, SocketAddr) {
    let mut command = Command::new(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--write-token-file"]).arg(dir.join("tokens"));
    let mut posts = Process::start(command.arg("--data").arg(dir.join("data/posts")));
    let address = posts.await_line(" on http://").trim().parse().unwrap();
    (posts, address)
}

fn fine(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// An answered write: its revision, the record's id, and the record, or `None` if it was deleted.
type Written = (u64, u64, Option<String>);

struct Client(ureq::Agent, SocketAddr);

impl Client {
    fn new(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true);
        Self(config.build().into(), address)
    }

    fn send(&self, method: &str, path: &str, key: &str, body: &str) -> (u16, u64, String) {
        let request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.1));
        let request = request.header("authorization", format!("Bearer {SECRET}"));
        let request = request.header("content-type", "application/json").header("idempotency-key", key);
        let (head, mut body) = self.0.run(request.body(body.to_owned()).unwrap()).unwrap().into_parts();
        let tag = head.headers.get("etag").map(|tag| tag.to_str().unwrap().to_owned()).unwrap_or_default();
        let revision = tag.trim_matches('"').split('-').next().unwrap().parse().unwrap_or_default();
        (head.status.as_u16(), revision, body.read_to_string().unwrap())
    }
}

fn id_of(json: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(json).unwrap()["id"].as_u64().unwrap()
}

/// Writes until `stop`; returns what each write made.
fn write(address: SocketAddr, seed: u64, stop: &AtomicBool, written: &AtomicUsize) -> Vec<Written> {
    let (client, mut rng) = (Client::new(address), fastrand::Rng::with_seed(seed));
    let (mut own, mut log): (Vec<u64>, Vec<Written>) = (Vec::new(), Vec::new());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let long = "x".repeat(if rng.u8(..10) == 0 { rng.usize(..15_000) } else { rng.usize(..300) });
        if own.len() < 20 || rng.u8(..3) == 0 {
            let body = format!(r#"{{"thread":{},"text":"{long}","user":1}}"#, rng.u64(1..9));
            let (status, revision, json) = client.send("POST", "/api/posts", &format!("{seed}-{number}"), &body);
            assert_eq!(status, 201, "{json}");
            own.push(id_of(&json));
            log.push((revision, id_of(&json), Some(json)));
        } else if rng.u8(..8) == 0 {
            let id = own.swap_remove(rng.usize(..own.len()));
            assert_eq!(client.send("DELETE", &format!("/api/posts/{id}"), "", "").0, 204);
            // The answer has no revision: it lies between those of the neighbouring writes.
            log.push((0, id, None));
        } else {
            let id = own[rng.usize(..own.len())];
            let body = format!(r#"{{"text":"{long}","thread":{}}}"#, rng.u64(1..9));
            let (status, revision, json) = client.send("PATCH", &format!("/api/posts/{id}"), "", &body);
            assert_eq!(status, 200, "{json}");
            log.push((revision, id, Some(json)));
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
    log
}

/// Reads a section; returns its head, and its records with their revisions by id.
fn section(path: &Path) -> (serde_json::Value, BTreeMap<u64, (u64, String)>) {
    let section = fs::read_to_string(path).unwrap();
    let mut lines = section.lines();
    let head = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut records = BTreeMap::new();
    for line in lines {
        if let Some((begin, record)) = line.strip_suffix('}').and_then(|line| line.split_once("\"record\":")) {
            let revision = begin.trim_start_matches("{\"revision\":").split(',').next().unwrap().parse().unwrap();
            records.insert(id_of(record), (revision, record.to_owned()));
        }
    }
    (head, records)
}

#[test]
fn a_backup_under_writes_holds_the_services_data_at_its_revision() {
    let world = World::start();
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (logs, names) = thread::scope(|scope| {
        let address = world.addresses[2];
        let (stop, written) = (&stop, &written);
        let writers: Vec<_> =
            (0..WRITERS as u64).map(|seed| scope.spawn(move || write(address, seed, stop, written))).collect();
        let mut names = Vec::new();
        for number in 0..4 {
            let before = written.load(Ordering::Relaxed);
            wait_for("writes", || written.load(Ordering::Relaxed) > before + 150);
            let name = format!("backup-{number}");
            let output = world.path(&name);
            fine(&world.backup(&["--output", output.to_str().unwrap()]));
            names.push(name);
        }
        stop.store(true, Ordering::Relaxed);
        (writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>(), names)
    });
    for name in names {
        let (head, records) = section(&world.path(&name).join("posts.ndjson"));
        let at = head["revision"].as_u64().unwrap();
        assert_eq!(head["records"].as_u64().unwrap(), records.len() as u64);
        for log in &logs {
            // The client's records as it wrote them, in order, up to the backup's revision.
            let mut expected: BTreeMap<u64, Option<&str>> = BTreeMap::new();
            let mut unsure = Vec::new();
            for (nth, (revision, id, json)) in log.iter().enumerate() {
                let later = log[nth..].iter().map(|(revision, ..)| *revision).find(|revision| *revision > 0);
                let earlier = log[..nth].iter().rev().map(|(revision, ..)| *revision).find(|revision| *revision > 0);
                match (*revision, earlier, later) {
                    // The removal lies between two revisions, one on each side of the backup's.
                    (0, earlier, later)
                        if earlier.is_none_or(|earlier| earlier <= at) && later.is_none_or(|later| later > at) =>
                    {
                        unsure.push(*id);
                    }
                    (0, earlier, _) if earlier.is_some_and(|earlier| earlier > at) => {}
                    (revision, ..) if revision > at => {}
                    _ => drop(expected.insert(*id, json.as_deref())),
                }
            }
            for (id, json) in expected.iter().filter(|(id, _)| !unsure.contains(id)) {
                assert_eq!(records.get(id).map(|(_, json)| &**json), *json, "{name}: post {id} at revision {at}");
            }
            // No later write is in the backup.
            for (revision, id, _) in log.iter().filter(|(revision, ..)| *revision > at) {
                assert!(records.get(id).is_none_or(|(found, _)| found < revision), "{name}: post {id} is from later");
            }
        }
    }
}

/// The steps of docs/replicas.md, which ask one replica of one service.
#[test]
fn a_backup_of_one_service_alone_becomes_a_replica_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let [data, backup, new] = ["data", "backup", "new"].map(at);
    split(&sample(), Path::new(&data));
    let run = |arguments: &[&str]| {
        let output = seed(arguments);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let section = format!("{backup}/posts.ndjson");
    let restore = ["restore", "--backup", &section, "--data", &new, "--as-replica"];
    assert_eq!(run(&["backup", "--data", &data, "--output", &backup]).0, Some(0));
    let (code, said) = run(&restore);
    assert!(code == Some(6) && said.contains("it has no position in a stream"), "{said}");

    let posts = Path::new(&data).join("posts/db");
    let store = Store::open(&posts, collection("posts"), Purpose::Passing).unwrap();
    let mut position = Position::before("a stream".to_owned());
    position.advance(7, b"a message", 1000);
    store.put_position(&position).unwrap();
    store.sync().unwrap();
    drop(store);
    fs::remove_dir_all(&backup).unwrap();
    assert_eq!(run(&["backup", "--data", &data, "--output", &backup]).0, Some(0));
    let (code, said) = run(&restore[..5]);
    assert!(code == Some(6) && said.contains("there are no users in it"), "{said}");
    let (code, said) = run(&restore);
    assert_eq!(code, Some(0), "{said}");
    let store = Store::open(&Path::new(&new).join("posts/db"), collection("posts"), Purpose::Passing).unwrap();
    assert_eq!(store.position().unwrap(), Some(position));
    drop(store);
    let (code, said) = run(&["streams", "leave", "--data", &new]);
    assert!(code == Some(0) && said.contains("posts was a replica up to message 7"), "{said}");
}

#[test]
fn a_restored_service_has_the_data_and_the_kept_answers_of_the_backup() {
    let mut world = World::start();
    let client = Client::new(world.addresses[2]);
    let body = r#"{"thread":1,"text":"kept","user":1}"#;
    let (_, _, created) = client.send("POST", "/api/posts", "once", body);
    assert_eq!(client.send("PATCH", "/api/posts/1", "", r#"{"text":"changed"}"#).0, 200);
    assert_eq!(client.send("DELETE", "/api/posts/2", "", "").0, 204);
    let before = get(world.addresses[2], "/api/posts");
    let output = world.path("backup");
    let report = fine(&world.backup(&["--output", output.to_str().unwrap()]));
    assert!(report.contains("is a backup, read back and proven"), "{report}");
    // A second backup does not overwrite it.
    let again = world.backup(&["--output", output.to_str().unwrap()]);
    assert_eq!((again.status.code(), text(&again.stderr).contains("it is there already")), (Some(6), true));
    // Restoring undoes later changes.
    assert_eq!(client.send("PATCH", "/api/posts/3", "", r#"{"text":"later"}"#).0, 200);
    for process in [&mut world.posts, &mut world._users, &mut world._threads] {
        process.signal("TERM");
        process.wait();
    }
    let refused = world.seed(&["restore", "--backup", "backup", "--data", "data"]);
    assert_eq!(refused.status.code(), Some(5), "{}", text(&refused.stderr));
    let against = ["verify", "--data", "data", "--against", "backup"];
    let differs = world.seed(&against);
    assert_eq!(differs.status.code(), Some(4), "{}", text(&differs.stderr));
    assert!(text(&differs.stderr).contains("posts: 20 records with digest"), "{}", text(&differs.stderr));
    fine(&world.seed(&["restore", "--backup", "backup", "--data", "data", "--replace"]));
    let report = fine(&world.seed(&against));
    assert!(report.contains("changed by its service: 1 changed, 1 removed, 1 added since the split"), "{report}");

    let (posts, address) = start_posts(world.dir.path());
    assert_eq!(get(address, "/api/posts"), before);
    let client = Client::new(address);
    assert_eq!(client.send("POST", "/api/posts", "once", body).2, created, "a retry is answered as before");
    let (_, _, next) = client.send("POST", "/api/posts", "another", body);
    assert_eq!(id_of(&next), id_of(&created) + 1);
    drop(posts);

    // The split is restored too, so a newer file can be applied.
    let newer = fs::read_to_string(sample()).unwrap().replace("Repairs radios", "Mends radios");
    fs::write(world.path("newer.json"), newer).unwrap();
    let arguments = [PathBuf::from("--input"), world.path("newer.json"), "--data".into(), world.path("data")];
    let updated = fine(&seed(arguments));
    assert!(updated.contains("is brought up to date with"), "{updated}");
}

#[test]
fn verify_and_join_work_from_a_backup_while_services_run() {
    let world = World::start();
    let one = world.path("all.ndjson");
    fine(&world.backup(&["--output", one.to_str().unwrap()]));
    let folder = world.path("folder");
    fine(&world.backup(&["--output", folder.to_str().unwrap()]));
    let report = fine(&world.seed(&["verify", "--backup", "folder"]));
    assert_eq!(report.matches("as split").count(), 3, "{report}");
    // A backup in one file does not contain the split.
    let report = fine(&world.seed(&["verify", "--backup", "all.ndjson"]));
    assert_eq!(report.matches("  sound").count(), 3, "{report}");
    for backup in ["folder", "all.ndjson"] {
        let sample = sample();
        let path = world.path(backup);
        let verified =
            seed(["verify".as_ref(), "--backup".as_ref(), path.as_os_str(), "--input".as_ref(), sample.as_os_str()]);
        fine(&verified);
        let joined = fine(&world.seed(&["join", "--backup", backup]));
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(&joined), json(&fs::read_to_string(&sample).unwrap()));
    }
    // It can be restored, but then a newer file is refused, since the services' changes are unknown without the split.
    let report = fine(&world.seed(&["restore", "--backup", "all.ndjson", "--data", "new"]));
    assert!(report.contains("has no split in it"), "{report}");
    fine(&world.seed(&["verify", "--data", "new"]));
    let newer = seed(["--input".as_ref(), sample().as_os_str(), "--data".as_ref(), world.path("new").as_os_str()]);
    assert_eq!(newer.status.code(), Some(5), "{}", text(&newer.stderr));
    assert!(text(&newer.stderr).contains("has no split in it"), "{}", text(&newer.stderr));
}

#[test]
fn increments_bring_a_backup_forward() {
    let world = World::start();
    let client = Client::new(world.addresses[2]);
    let path = |name: &str| world.path(name).to_str().unwrap().to_owned();
    fine(&world.backup(&["--output", &path("full")]));
    client.send("POST", "/api/posts", "a", r#"{"thread":1,"text":"first","user":1}"#);
    client.send("DELETE", "/api/posts/2", "", "");
    fine(&world.backup(&["--output", &path("one"), "--since", &path("full")]));
    client.send("PATCH", "/api/posts/1", "", r#"{"text":"second"}"#);
    client.send("DELETE", "/api/posts/21", "", "");
    fine(&world.backup(&["--output", &path("two"), "--since", &path("full"), "--since", &path("one")]));
    let (_, records) = section(&world.path("two").join("posts.ndjson"));
    assert_eq!(records.keys().copied().collect::<Vec<_>>(), [1], "an increment has only the records written since");
    let chain = ["restore", "--backup", "full", "--backup", "one", "--backup", "two", "--data", "restored"];
    fine(&world.seed(&chain));
    let (_posts, address) = start_service("posts", &world.path("restored/posts"));
    assert_eq!(get(address, "/api/posts"), get(world.addresses[2], "/api/posts"));
    // An increment needs the full backup and all increments before it.
    for backups in [&["one"][..], &["two"], &["full", "two"], &["one", "full", "two"]] {
        let mut arguments = vec!["restore", "--data", "other"];
        backups.iter().for_each(|backup| arguments.extend(["--backup", backup]));
        let output = world.seed(&arguments);
        assert_eq!(output.status.code(), Some(6), "{backups:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("it is an increment"), "{}", text(&output.stderr));
        assert!(!world.path("other").exists());
    }
}

#[test]
fn a_damaged_or_cut_backup_is_refused_and_nothing_is_restored() {
    let world = World::start();
    let output = world.path("all.ndjson");
    fine(&world.backup(&["--output", output.to_str().unwrap()]));
    let folder = world.path("folder");
    fine(&world.backup(&["--output", folder.to_str().unwrap()]));
    let whole = fs::read(&output).unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    for number in 0..60 {
        let mut damaged = whole.clone();
        let at = rng.usize(..whole.len());
        let what = match number % 3 {
            0 => {
                damaged.truncate(at);
                format!("cut at {at}")
            }
            1 => {
                damaged[at] ^= 1 << rng.u8(..8);
                format!("a bit turned at {at}")
            }
            _ => {
                // One whole line is missing; the others are intact.
                let begin = whole[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                let end = at + whole[at..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
                damaged.drain(begin..end);
                format!("the line at {begin} gone")
            }
        };
        fs::write(&output, damaged).unwrap();
        let restored = world.seed(&["restore", "--backup", "all.ndjson", "--data", "new"]);
        assert_eq!(restored.status.code(), Some(6), "{what}: {}", text(&restored.stderr));
        assert!(!world.path("new").exists(), "{what}");
    }
    // In a folder, each file also has its SHA-256.
    for file in ["posts.ndjson", "users.ndjson"] {
        let path = folder.join(file);
        let good = fs::read(&path).unwrap();
        for _ in 0..10 {
            let mut damaged = good.clone();
            damaged[rng.usize(..good.len())] ^= 1 << rng.u8(..8);
            fs::write(&path, damaged).unwrap();
            let restored = world.seed(&["restore", "--backup", "folder", "--data", "new"]);
            assert_eq!(restored.status.code(), Some(6), "{}", text(&restored.stderr));
            assert!(!world.path("new").exists());
        }
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_backup_of_running_services_needs_tokens_and_without_urls_services_must_be_stopped() {
    let mut world = World::start();
    let path = world.path("backup");
    let mut arguments = vec!["backup".to_owned(), "--output".to_owned(), path.to_str().unwrap().to_owned()];
    let data = ["--data".to_owned(), world.path("data").to_str().unwrap().to_owned()];
    arguments.extend(data.clone());
    let stopped = seed(&arguments);
    assert_eq!(stopped.status.code(), Some(6), "{}", text(&stopped.stderr));
    assert!(text(&stopped.stderr).contains("--from http://"), "{}", text(&stopped.stderr));
    for address in world.addresses {
        arguments.extend(["--from".to_owned(), format!("http://{address}")]);
    }
    let without = seed(&arguments);
    assert_eq!(without.status.code(), Some(6));
    assert!(text(&without.stderr).contains("--secrets FILE"), "{}", text(&without.stderr));
    fs::write(world.path("wrong"), "posts_of_another\n").unwrap();
    let wrong =
        arguments.iter().cloned().chain(["--secrets".to_owned(), world.path("wrong").to_str().unwrap().to_owned()]);
    let wrong = seed(wrong);
    assert_eq!(wrong.status.code(), Some(6));
    assert!(!text(&wrong.stderr).contains("posts_of_another"), "a secret is not printed");
    assert!(!path.exists() && fs::read_dir(world.dir.path()).unwrap().count() == 4, "nothing is left behind");
    // The backup's path is not an id.
    assert_eq!(get(world.addresses[0], "/api/users/-").0, 400);
    for process in [&mut world.posts, &mut world._users, &mut world._threads] {
        process.signal("TERM");
        process.wait();
    }
    fine(&seed(
        ["backup".to_owned(), "--output".to_owned(), path.to_str().unwrap().to_owned()].into_iter().chain(data),
    ));
}
