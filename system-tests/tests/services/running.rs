//! Updates from a newer file while the services run.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::{Value, json};
use store::Staging;
use world::changes::joined;
use world::posts::{self, Client};
use world::{PATIENCE, Process, get, program, seed, split, start_service, text};

/// Writes a file with one user, one thread and these posts without ids.
fn write(path: &Path, texts: impl IntoIterator<Item = String>) {
    let post = |text: String| json!({ "thread": 1, "text": text, "user": 1 });
    let posts: Vec<Value> = texts.into_iter().map(post).collect();
    let user = json!({ "id": 1, "username": "ada" });
    let thread = json!({ "id": 1, "title": "t", "createdBy": 1 });
    let [posts, user, thread] = [json!(posts), user, thread].map(|value| value.to_string());
    fs::write(path, format!(r#"{{"users":[{user}],"threads":[{thread}],"posts":{posts}}}"#)).unwrap();
}

/// Splits a first file with these posts; returns the paths for a newer file and of the data.
fn begin(dir: &Path, texts: impl IntoIterator<Item = String>) -> (PathBuf, PathBuf) {
    let [first, newer, data] = ["first.json", "newer.json", "data"].map(|name| dir.join(name));
    write(&first, texts);
    split(&first, &data);
    (newer, data)
}

/// Runs `seed` on `input`; returns its exit code and output.
fn run(input: &Path, data: &Path, more: &[&str]) -> (Option<i32>, String) {
    let arguments = ["--input", input.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let output = seed(arguments.iter().chain(more));
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn apply(input: &Path, data: &Path) -> String {
    let (code, report) = run(input, data, &[]);
    assert_eq!(code, Some(0), "{report}");
    report
}

/// Returns a post's text in a version of the file: unlike other posts, and similar to itself in other versions.
fn post(nth: usize, version: usize) -> String {
    format!("Post number{nth}, and what it says is much the same in every version, of which this is {version}")
}

/// A guard that sets the flag when dropped, so that threads that wait for it also end if the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the texts of posts in a list.
fn texts(list: &str) -> Vec<String> {
    let posts: Vec<Value> = serde_json::from_str(list).unwrap_or_else(|error| panic!("{error}: {list}"));
    posts.iter().map(|post| post["text"].as_str().unwrap().to_owned()).collect()
}

fn verify(data: &Path, input: Option<&Path>) -> (Option<i32>, String) {
    let mut arguments = vec!["verify".into(), "--data".into(), data.to_owned()];
    arguments.extend(input.into_iter().flat_map(|input| ["--input".into(), input.to_owned()]));
    let output = seed(arguments);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn running_services_take_a_newer_file_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (newer, data) = begin(dir.path(), ["a", "b", "c", "d"].map(String::from));
    let services = ["users", "threads", "posts"].map(|name| start_service(name, &data.join(name)));
    let posts = services[2].1;
    write(&newer, ["a", "c", "d", "e", "quite another"].map(String::from));

    let (code, report) = run(&newer, &data, &["--dry-run"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(texts(&get(posts, "/api/posts").2), ["a", "b", "c", "d"]);

    let report = apply(&newer, &data);
    assert!(
        report.contains("These ran meanwhile, and were changed by their own services: users, threads, posts."),
        "{report}"
    );
    assert_eq!(texts(&get(posts, "/api/posts").2), ["a", "c", "d", "e", "quite another"]);
    assert_eq!(get(posts, "/api/posts/2").0, 404);
    assert_eq!(texts(&get(posts, "/api/posts/in-thread/1").2).len(), 5);
    // The same file changes nothing; then a still newer one is applied.
    assert!(apply(&newer, &data).contains("already holds the split of"));
    let dropped = dir.path().join("dropped.json");
    write(&dropped, ["a", "c", "e", "quite another", "f"].map(String::from));
    apply(&dropped, &data);
    assert_eq!(texts(&get(posts, "/api/posts").2), ["a", "c", "e", "quite another", "f"]);

    for (mut service, _) in services {
        service.signal("TERM");
        assert!(service.wait().success());
    }
    assert!(!data.join("posts/seed.socket").exists() && !data.join("posts/seed.key").exists());
    assert_eq!(verify(&data, Some(&dropped)).0, Some(0));
    assert_eq!(joined(&data).trim(), fs::read_to_string(&dropped).unwrap().trim());
}

#[test]
fn a_newer_file_is_applied_while_only_one_service_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (newer, data) = begin(dir.path(), ["a", "b"].map(String::from));
    for name in ["users", "posts"] {
        let (service, _) = start_service(name, &data.join(name));
        write(&newer, ["a".to_owned(), "b".to_owned(), format!("while {name} runs")]);
        assert!(apply(&newer, &data).contains(&format!("changed by their own services: {name}.")));
        drop(service);
    }
    assert_eq!(verify(&data, Some(&newer)).0, Some(0));
}

#[test]
fn changes_of_a_running_service_conflict_or_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (newer, data) = begin(dir.path(), ["a", "a b c d e f g", "c"].map(String::from));
    let (_posts, address) = posts::start(&data);
    let client = Client::new(address);
    let patch = |id: u64, text: &str| {
        let path = format!("/api/posts/{id}");
        assert_eq!(client.send("PATCH", &path, &[], &json!({ "text": text }).to_string()).status, 200);
    };
    patch(2, "a b c d e f g, the service's");
    write(&newer, ["a", "a b c d e f g, the file's", "c"].map(String::from));
    let (code, report) = run(&newer, &data, &[]);
    assert_eq!(code, Some(5), "{report}");
    assert_eq!(texts(&client.get("/api/posts").body), ["a", "a b c d e f g, the service's", "c"]);
    let (code, report) = run(&newer, &data, &["--prefer", "monolith"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(texts(&client.get("/api/posts").body), ["a", "a b c d e f g, the file's", "c"]);
    // Records that only the service changed or added stay; the file and the service take ids from one sequence.
    patch(3, "the service's c");
    let own = json!({ "thread": 1, "text": "own", "user": 1 }).to_string();
    assert_eq!(client.send("POST", "/api/posts", &[], &own).location, "/api/posts/4");
    write(&newer, ["a", "a b c d e f g, the file's", "c", "new"].map(String::from));
    apply(&newer, &data);
    assert_eq!(
        texts(&client.get("/api/posts").body),
        ["a", "a b c d e f g, the file's", "the service's c", "own", "new"]
    );
    assert_eq!(client.send("POST", "/api/posts", &[], &own).location, "/api/posts/6");
}

#[test]
fn no_reader_finds_half_of_a_group() {
    const POSTS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let version = |number: usize| (0..POSTS).map(move |nth| post(nth, number));
    let (newer, data) = begin(dir.path(), version(0));
    let (_posts, address) = start_service("posts", &data.join("posts"));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = ["/api/posts", "/api/posts/in-thread/1", "/api/posts/by-user/1", "one by one"].map(|path| {
            let (client, done) = (Client::new(address), &done);
            scope.spawn(move || {
                let (mut reads, mut last) = (0, String::new());
                let version_of = |text: &str| text.rsplit(' ').next().unwrap().to_owned();
                while !done.load(Ordering::Relaxed) {
                    let found = if path == "one by one" {
                        let body = client.get(&format!("/api/posts/{}", reads * 7 % POSTS + 1)).body;
                        texts(&format!("[{body}]"))
                    } else {
                        texts(&client.get(path).body)
                    };
                    let version = version_of(&found[0]);
                    assert!(found.iter().all(|text| version_of(text) == version), "{path}: {found:?}");
                    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
                    assert!(number(&version) >= number(&last), "{path}: {version} after {last}");
                    (reads, last) = (reads + 1, version);
                }
                reads
            })
        });
        let ends = Ends(&done);
        for number in 1..=30 {
            write(&newer, version(number));
            apply(&newer, &data);
        }
        drop(ends);
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap() > 30));
    });
    assert_eq!(texts(&get(address, "/api/posts").2), version(30).collect::<Vec<_>>());
}

/// The last answered body of each post that clients wrote, by path.
type Written = BTreeMap<String, String>;

/// Writes and changes posts until `done`; ignores requests answered with 503.
fn write_beside(address: std::net::SocketAddr, name: usize, done: &AtomicBool) -> Written {
    let (client, mut written) = (Client::new(address), Written::new());
    for number in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let body = json!({ "thread": 1, "text": format!("by {name}: {number}"), "user": 1 }).to_string();
        let (method, path) = match written.keys().nth(number % 7) {
            Some(path) if number % 3 == 0 => ("PUT", path.clone()),
            _ => ("POST", "/api/posts".to_owned()),
        };
        let Some(answer) = client.try_send(method, &path, &[], &body) else { continue };
        match answer.status {
            200 => drop(written.insert(path, answer.body)),
            201 => assert_eq!(written.insert(answer.location, answer.body), None, "an id was given twice"),
            status => assert_eq!(status, 503, "{}", answer.body),
        }
    }
    written
}

#[test]
fn writes_during_an_update_stay_and_no_id_is_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let original = |number: usize| (0..200 + number).map(move |nth| post(nth, nth * 31 % (number + 3)));
    let (newer, data) = begin(dir.path(), original(0));
    let (posts, address) = posts::start(&data);
    let done = AtomicBool::new(false);
    let written: Vec<Written> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|name| {
                scope.spawn({
                    let done = &done;
                    move || write_beside(address, name, done)
                })
            })
            .collect();
        let ends = Ends(&done);
        for number in 1..=15 {
            write(&newer, original(number));
            apply(&newer, &data);
        }
        drop(ends);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let client = Client::new(address);
    let mut ids: Vec<&String> = written.iter().flat_map(BTreeMap::keys).collect();
    assert!(ids.len() > 100, "{}", ids.len());
    for (path, body) in written.iter().flatten() {
        assert_eq!(&client.get(path).body, body, "{path}");
    }
    ids.sort();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "an id was given twice");
    let all = texts(&client.get("/api/posts").body);
    assert_eq!(all.len(), ids.len() + original(15).count());
    for text in original(15) {
        assert_eq!(all.iter().filter(|found| **found == text).count(), 1, "{text}");
    }
    posts::kill(posts);
    assert_eq!(verify(&data, None).0, Some(0));
}

/// Starts `seed` on `input` and kills it after `pause`.
fn kill_seed(input: &Path, data: &Path, pause: Duration) {
    let mut process = Process::start(Command::new(program("seed")).arg("--input").arg(input).arg("--data").arg(data));
    thread::sleep(pause);
    process.signal("KILL");
    process.wait();
}

#[test]
fn after_a_kill_the_next_run_makes_all_changes_of_the_killed_one_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let version = |number: usize| (0..300).map(move |nth| post(nth, number));
    let (_, data) = begin(dir.path(), version(0));
    let inputs = [0, 1].map(|number| {
        let path = dir.path().join(format!("{number}.json"));
        write(&path, version(number));
        path
    });
    let services = ["users", "threads", "posts"].map(|name| start_service(name, &data.join(name)));
    let posts = services[2].1;
    let began = Instant::now();
    apply(&inputs[1], &data);
    let whole = began.elapsed();
    for kill in 0..20_u32 {
        let number = usize::try_from(kill % 2).unwrap();
        kill_seed(&inputs[number], &data, whole * (kill * 5 + 3) / 100);
        // Any further run settles the killed one: then the posts are all of one version.
        run(&inputs[number], &data, &["--dry-run"]);
        let now = texts(&get(posts, "/api/posts").2);
        let found = [0, 1].into_iter().filter(|number| version(*number).eq(now.iter().cloned())).count();
        assert_eq!(found, 1, "kill {kill}");
        apply(&inputs[number], &data);
        assert_eq!(texts(&get(posts, "/api/posts").2), version(number).collect::<Vec<_>>(), "kill {kill}");
    }
    drop(services);
    assert_eq!(verify(&data, None).0, Some(0));
}

#[test]
fn a_service_killed_during_an_update_has_all_of_it_or_nothing_when_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let version = |number: usize| (0..300).map(move |nth| post(nth, number));
    let (newer, data) = begin(dir.path(), version(0));
    let began = Instant::now();
    let whole = {
        let (_posts, _) = start_service("posts", &data.join("posts"));
        write(&newer, version(1));
        let started = began.elapsed();
        apply(&newer, &data);
        began.elapsed() - started
    };
    for kill in 2..=14_usize {
        let (mut posts, _) = start_service("posts", &data.join("posts"));
        write(&newer, version(kill));
        let mut process =
            Process::start(Command::new(program("seed")).arg("--input").arg(&newer).arg("--data").arg(&data));
        thread::sleep(whole * u32::try_from(kill).unwrap() / 12);
        posts.signal("KILL");
        posts.wait();
        let ended = process.wait();
        // If the kill came too early for the newer file, nothing has changed.
        let expected = if ended.success() { kill } else { kill - 1 };
        let now = joined(&data);
        let now: Value = serde_json::from_str(&now).unwrap();
        assert_eq!(texts(&now["posts"].to_string()), version(expected).collect::<Vec<_>>(), "kill {kill}: {ended}");
        apply(&newer, &data);
    }
    assert_eq!(verify(&data, None).0, Some(0));
}

#[test]
fn the_socket_answers_nothing_without_the_key_from_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (_, data) = begin(dir.path(), ["a".to_owned()]);
    let (_posts, address) = start_service("posts", &data.join("posts"));
    let [socket, key] = ["seed.socket", "seed.key"].map(|name| data.join("posts").join(name));
    for path in [&socket, &key] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    for shown in [&[0; 32][..], &[1; 16], b""] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may hang up before all is written.
        let _ = stream.write_all(shown).and_then(|()| stream.write_all(&[1, 0, 0, 0, 0]));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{shown:?}");
    }
    // With the key, an invalid message ends the connection and nothing else.
    for message in [&[255; 8][..], &[4, 0, 0, 0, 255, 255, 255, 255], &[1, 0, 0, 0, 99]] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&fs::read(&key).unwrap()).unwrap();
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(message).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or_default(), 0);
    }
    assert_eq!(get(address, "/ready").0, 200);
}

/// Connects to the service in `folder` as a run does and reads its greeting.
fn connect(folder: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(folder.join("seed.socket")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&fs::read(folder.join("seed.key")).unwrap()).unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    stream
}

#[test]
fn a_committed_run_counts_as_done_only_once_its_changes_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let (newer, data) = begin(dir.path(), ["a".to_owned()]);
    let (_posts, _) = start_service("posts", &data.join("posts"));
    write(&newer, ["a", "b"].map(String::from));
    apply(&newer, &data);
    // The service is still at work for a run that was killed.
    let at_work = connect(&data.join("posts"));
    let next = data.join("posts/next");
    fs::create_dir(&next).unwrap();
    let (code, report) = run(&newer, &data, &[]);
    assert_eq!(code, Some(5), "{report}");
    assert!(report.contains("posts: in use by another run of `seed`"), "{report}");
    drop(at_work);
    assert!(apply(&newer, &data).contains("already holds the split of"));
    assert!(!next.exists());
}

#[test]
fn an_interrupted_run_is_settled_even_if_its_services_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (newer, data) = begin(dir.path(), ["a".to_owned()]);
    write(&newer, ["a", "b"].map(String::from));
    apply(&newer, &data);
    for name in ["users", "posts"] {
        let next = data.join(name).join("next");
        fs::create_dir(&next).unwrap();
        Staging::create(&next.join("changes"), 1).unwrap().finish().unwrap();
    }
    let (code, report) = run(&newer, &data, &[]);
    assert_eq!(code, Some(0), "{report}");
    assert!(!data.join("posts/next").exists());
}

#[test]
fn a_service_that_ends_does_not_keep_others_from_being_settled() {
    let dir = tempfile::tempdir().unwrap();
    let (newer, data) = begin(dir.path(), ["a".to_owned()]);
    write(&newer, ["a", "b"].map(String::from));
    // A run has not committed, and users ends right after it greets the next run.
    fs::write(data.join("manifest.next.json"), "").unwrap();
    for name in ["users", "threads", "posts"] {
        fs::create_dir(data.join(name).join("next")).unwrap();
    }
    let users = data.join("users");
    fs::write(users.join("seed.key"), [0; 32]).unwrap();
    let listener = UnixListener::bind(users.join("seed.socket")).unwrap();
    let ends = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 32]).unwrap();
        stream.write_all(&[1, 0, 0, 0, 6]).unwrap();
    });
    let (code, report) = run(&newer, &data, &[]);
    ends.join().unwrap();
    assert_eq!(code, Some(6), "{report}");
    for name in ["users", "threads", "posts"] {
        assert!(!data.join(name).join("next").exists(), "{name}");
    }
    apply(&newer, &data);
}

#[test]
fn runs_exclude_each_other_even_if_no_service_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (newer, data) = begin(dir.path(), ["a".to_owned()]);
    write(&newer, ["a", "b"].map(String::from));
    // A run is still going on, although its services have ended.
    let other = File::open(&data).unwrap();
    other.try_lock().unwrap();
    let building = data.join("posts/building");
    fs::create_dir(&building).unwrap();
    for more in [&[][..], &["--replace"]] {
        let (code, report) = run(&newer, &data, more);
        assert_eq!(code, Some(5), "{report}");
        assert!(report.contains("data: in use by another run of `seed`"), "{report}");
        assert!(building.exists());
    }
    drop(other);
    apply(&newer, &data);
}

#[test]
fn a_dry_run_does_not_conflict_with_records_that_clients_add_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let original = |number: usize| (0..100 + number).map(move |nth| post(nth, number));
    let (newer, data) = begin(dir.path(), original(0));
    let (posts, address) = posts::start(&data);
    let done = AtomicBool::new(false);
    write(&newer, original(50));
    thread::scope(|scope| {
        (0..2).for_each(|name| {
            let done = &done;
            scope.spawn(move || write_beside(address, name, done));
        });
        let _ends = Ends(&done);
        for _ in 0..10 {
            let (code, report) = run(&newer, &data, &["--dry-run"]);
            assert_eq!(code, Some(0), "{report}");
        }
    });
    posts::kill(posts);
}
