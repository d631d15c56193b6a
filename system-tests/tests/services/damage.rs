//! A service never serves and never hides data that its disk, or a person, has damaged.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use world::changes::copy_database;
use world::file_system::mount;
use world::{Process, free_port, get, open_sled, program, run_to_end, sample, seed, skip, split, text, wait_for};

const SECRET: &str = "posts_of_a_test";

/// Returns the command of the posts service of `data`, with the token [`SECRET`].
fn posts(data: &Path) -> Command {
    let digest = hex::encode(Sha256::digest(SECRET));
    let tokens = data.with_extension("tokens");
    fs::write(&tokens, format!("test {digest}\n")).unwrap();
    let mut command = Command::new(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--write-token-file"]).arg(tokens).arg("--data").arg(data.join("posts"));
    command
}

fn start(command: &mut Command) -> (Process, SocketAddr) {
    let mut posts = Process::start(command);
    let address = posts.await_line(" on http://").trim().parse().unwrap();
    (posts, address)
}

fn post(agent: &ureq::Agent, address: SocketAddr, length: usize) -> Option<(u16, String)> {
    let body = format!(r#"{{"thread":1,"text":"{}","user":1}}"#, "x".repeat(length));
    let request = agent.post(format!("http://{address}/api/posts")).header("authorization", format!("Bearer {SECRET}"));
    let mut answer = request.header("content-type", "application/json").send(body).ok()?;
    Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// Runs `posts COMMAND` on the folder of `data`.
fn run(data: &Path, arguments: &[&str]) -> Output {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(program("posts"));
    command.args(["--data"]).arg(data.join("posts")).args(["--listen", &listen]).args(arguments);
    run_to_end(&mut command)
}

fn insert(data: &Path, key: &[u8], value: Option<&[u8]>) {
    let path = data.join("posts/db");
    let db = open_sled(&path);
    match value {
        Some(value) => assert!(db.insert(key, value).unwrap().is_some()),
        None => assert!(db.remove(key).unwrap().is_some()),
    }
    db.flush().unwrap();
}

/// Reads the lap of the journal that a database is in, from a copy of it; one below 251, which bincode keeps in a byte.
fn lap_of(database: &Path) -> u64 {
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("db");
    copy_database(database, &path).unwrap();
    let db = open_sled(&path);
    u64::from(*db.get("\0lap").unwrap().unwrap().last().unwrap())
}

/// The key of the page of records 16 to 20.
const PAGE: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 0, 1];

/// Starts posts, has four clients write, and kills it after a hundred answers. Returns the answered posts.
fn write_until_killed(data: &Path) -> BTreeMap<u64, String> {
    let (mut process, address) = start(&mut posts(data));
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        let write = || {
            let agent = agent();
            let mut answered = Vec::new();
            while let Some((201, body)) = post(&agent, address, fastrand::usize(..3000)) {
                let id = serde_json::from_str::<serde_json::Value>(&body).unwrap()["id"].as_u64().unwrap();
                answered.push((id, body));
                count.fetch_add(1, Ordering::Relaxed);
            }
            answered
        };
        let writers: Vec<_> = (0..4).map(|_| scope.spawn(write)).collect();
        wait_for("answers", || count.load(Ordering::Relaxed) > 100);
        process.signal("KILL");
        process.wait();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

#[test]
fn with_a_damaged_journal_after_a_kill_a_service_does_not_start_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    let journal = data.join("posts/db/journal");
    let mut answered: BTreeMap<u64, String> = BTreeMap::new();
    let (bytes, area) = loop {
        answered.extend(write_until_killed(&data));
        let bytes = fs::read(&journal).unwrap();
        // Damages an entry of the current lap, whose area has the higher mark. Not if the kill came between the next
        // lap's beginning in the database and its mark: then the database has all of these entries.
        let lap = |area: usize| u64::from_le_bytes(bytes[area + 16..area + 24].try_into().unwrap());
        let area = if lap(0) > lap(bytes.len() / 2) { 0 } else { bytes.len() / 2 };
        if lap(area) < lap_of(&data.join("posts/db")) {
            continue;
        }
        // The last entry of a lap may be torn. This one has others behind it.
        let tag = &bytes[area + 4096..area + 4104];
        if bytes[area + 8192..area + bytes.len() / 2].chunks(4096).filter(|page| page.starts_with(tag)).count() > 2 {
            break (bytes, area);
        }
    };
    let mut damaged = bytes.clone();
    damaged[area + 4096 + 40] ^= 4;
    for content in [Some(damaged), None] {
        match &content {
            Some(content) => fs::write(&journal, content).unwrap(),
            None => fs::remove_file(&journal).unwrap(),
        }
        let output = run_to_end(&mut posts(&data));
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        for said in ["its journal is", "Everything up to revision", "seed restore", "--accept-loss"] {
            assert!(log.contains(said), "{said:?} is not in {log}");
        }
        // `seed verify` refuses it, too.
        let verified = seed(["verify".as_ref(), "--data".as_ref(), data.as_os_str()]);
        assert_eq!(verified.status.code(), Some(6), "{}", text(&verified.stderr));
    }
    fs::write(&journal, &bytes).unwrap();
    let whole = data.with_extension("whole");
    assert!(Command::new("cp").arg("-r").arg(&data).arg(&whole).status().unwrap().success());
    fs::remove_file(&journal).unwrap();
    let (mut process, address) = start(posts(&data).arg("--accept-loss"));
    process.await_line("gone, as --accept-loss accepts: its journal is missing");
    process.await_line("records are kept");
    let (status, created) = post(&agent(), address, 1).unwrap();
    assert_eq!(status, 201);
    let id = serde_json::from_str::<serde_json::Value>(&created).unwrap()["id"].as_u64().unwrap();
    assert!(answered.keys().all(|answered| *answered < id), "{id} was given before");
    process.signal("TERM");
    assert!(process.wait().success());
    let verified = seed(["verify".as_ref(), "--data".as_ref(), data.as_os_str()]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", text(&verified.stdout), text(&verified.stderr));
    // With its journal, every answered write is there.
    let (_process, address) = start(&mut posts(&whole));
    for (id, body) in &answered {
        assert_eq!(get(address, &format!("/api/posts/{id}")).2, *body);
    }
}

#[test]
fn damage_fails_only_its_requests_is_logged_and_reported_and_a_scrub_finds_it_first() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    let sound = run(&data, &["scrub"]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound.stderr));
    assert!(text(&sound.stdout).contains("sound; its 20 records are those that it counts"), "{}", text(&sound.stdout));
    // A page that is whole, but has another page's content.
    insert(&data, &PAGE, Some(b"\x02\0\0\0\0\0"));
    let found = run(&data, &["scrub"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        text(&found.stderr).contains("the page of ids 16 to 31: its checksum does not match"),
        "{}",
        text(&found.stderr)
    );

    let (mut process, address) = start(posts(&data).args(["--scrub-every", "1"]));
    // No request has read it yet.
    process.await_line("a scrub found damage: ");
    assert_eq!(get(address, "/api/posts/16").0, 500);
    assert_eq!(get(address, "/api/posts/1").0, 200);
    let (status, _, ready) = get(address, "/ready");
    assert_eq!(status, 200, "undamaged records are still served");
    assert!(ready.contains("ready; damaged: "), "{ready}");
    process.await_line("the page of ids 16 to 31: its checksum does not match");
    let listen = address.to_string();
    let asked = Command::new(program("posts")).args(["--listen", &listen, "scrub"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1));
    let said = text(&asked.stderr);
    assert!(said.contains("the page of ids 16 to 31") || said.contains("A scrub is under way"), "{said}");
    process.signal("TERM");
    assert!(process.wait().success());

    // Neither `compact` nor `backup` passes the damage on.
    let compacted = run(&data, &["compact"]);
    assert_eq!(compacted.status.code(), Some(1), "{}", text(&compacted.stdout));
    let output = dir.path().join("backup");
    let arguments = ["backup".as_ref(), "--data".as_ref(), data.as_os_str(), "--output".as_ref(), output.as_os_str()];
    assert_eq!(seed(arguments).status.code(), Some(6));
    assert!(!output.exists());
    let verified = seed(["verify".as_ref(), "--data".as_ref(), data.as_os_str()]);
    assert_eq!(verified.status.code(), Some(6), "{}", text(&verified.stderr));
    // With `--accept-loss`, `compact` reports the loss.
    let compacted = run(&data, &["compact", "--accept-loss"]);
    assert_eq!(compacted.status.code(), Some(0), "{}", text(&compacted.stderr));
    assert!(text(&compacted.stderr).contains("gone, as --accept-loss accepts"), "{}", text(&compacted.stderr));
    assert!(text(&compacted.stderr).contains("15 records are kept"), "{}", text(&compacted.stderr));
    assert_eq!(run(&data, &["scrub"]).status.code(), Some(0));
}

#[test]
fn a_scrub_finds_that_a_page_has_disappeared() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    insert(&data, &PAGE, None);
    let found = run(&data, &["scrub"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        text(&found.stderr).contains("its records are not those that it counts: 15 records"),
        "{}",
        text(&found.stderr)
    );
}

#[test]
fn a_killed_compaction_leaves_a_whole_database_and_a_finished_one_frees_room() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let records: Vec<String> =
        (0..20_000).map(|n| format!(r#"{{"thread":{},"text":"{}","user":1}}"#, n % 50 + 1, "x".repeat(200))).collect();
    let input = dir.path().join("db.json");
    fs::write(&input, format!(r#"{{"users":[],"threads":[],"posts":[{}]}}"#, records.join(","))).unwrap();
    split(&input, &data);
    for kill in 0..12 {
        let mut command = Command::new(program("posts"));
        let mut process = Process::start(command.arg("--data").arg(data.join("posts")).arg("compact"));
        thread::sleep(Duration::from_millis(kill * 60));
        process.signal("KILL");
        process.wait();
    }
    let ended = run(&data, &["compact"]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert!(text(&ended.stdout).contains("KiB on the disk"), "{}", text(&ended.stdout));
    let names: Vec<_> = fs::read_dir(data.join("posts")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let verified =
        seed(["verify".as_ref(), "--data".as_ref(), data.as_os_str(), "--input".as_ref(), input.as_os_str()]);
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
    assert_eq!(text(&verified.stdout).matches("as split").count(), 3);
    // A folder in use by a service is left alone.
    let (_process, _) = start(&mut posts(&data));
    assert_eq!(run(&data, &["compact"]).status.code(), Some(1));
}

#[test]
fn a_newer_database_that_waits_on_a_read_only_file_system_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = mount(&["-t", "tmpfs", "-o", "size=128m", "tmpfs"], dir.path()) else { return };
    let remount = |how: &str| {
        let mut command = Command::new("mount");
        assert!(command.args(["-o", &format!("remount,{how}")]).arg(dir.path()).status().unwrap().success());
    };
    let data = dir.path().join("data");
    split(&sample(), &data);
    let [now, new, old] = ["db", "db.new", "db.old"].map(|name| data.join("posts").join(name));
    let mut command = posts(&data);
    fs::rename(&now, &new).unwrap();
    remount("ro");
    let output = run_to_end(&mut command);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains(&format!("{}: this newer database waits to take the place", new.display())), "{log}");
    assert!(log.contains("make it writable and start the service once"), "{log}");
    // What is left of a replaced database is in nobody's way.
    remount("rw");
    fs::rename(&new, &now).unwrap();
    fs::create_dir(&old).unwrap();
    remount("ro");
    let (process, address) = start(&mut command);
    assert_eq!(get(address, "/api/posts/1").0, 200);
    drop(process);
}

#[test]
fn a_service_on_a_read_only_file_system_serves_reads() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str]| {
        let done = Command::new("mount").args(arguments).arg(dir.path()).output();
        done.is_ok_and(|output| output.status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=128m", "tmpfs"]) {
        return skip("a small file system cannot be mounted here (it needs root)");
    }
    struct Unmount<'p>(&'p Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(dir.path());
    let data = dir.path().join("data");
    split(&sample(), &data);
    let (mut process, address) = start(&mut posts(&data));
    let (status, created) = post(&agent(), address, 10).unwrap();
    assert_eq!(status, 201);
    process.signal("KILL");
    process.wait();
    let mut command = posts(&data);
    assert!(mount(&["-o", "remount,ro"]));
    let (mut process, address) = start(&mut command);
    process.await_line("the file system is read-only");
    assert_eq!(get(address, "/api/posts/21").2, created, "writes in the journal are there, too");
    assert_eq!(get(address, "/ready").0, 200);
    assert!(get(address, "/ready").2.contains("ready; read-only"));
    let (status, refused) = post(&agent(), address, 10).unwrap();
    assert_eq!(status, 503);
    assert!(refused.contains("file system is read-only"), "{refused}");
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
    assert!(mount(&["-o", "remount,rw"]));
    let (_process, address) = start(&mut posts(&data));
    assert_eq!(post(&agent(), address, 10).unwrap().0, 201);
}
