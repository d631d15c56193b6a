//! Adds a fourth collection to a copy of the repository while an existing split is served and written to. One folder
//! and one line in `plan` are made by hand; all else follows.
//!
//! The copy is built in `target/tmp/morning`, which keeps compiled dependencies for the next run.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;
use world::changes::make_manifest_old;
use world::compose::{can_build, copy_sources, docker_ok};
use world::liar::{Answer, Forum, Server};
use world::repository::Repository;
use world::{PATIENCE, Process, free_port, get, sample, text, tool};

/// The declaration in the new folder.
const COMMENTS: &str = r#"{
  "name": "comments",
  "ids": "position",
  "fields": [
    { "name": "post", "shape": { "reference": { "to": "posts" } } },
    { "name": "body", "shape": { "text": { "most": 1000 } } }
  ],
  "indexes": [
    { "number": 1, "field": "post", "route": "on-post" }
  ]
}
"#;

/// The new line in `plan`.
const LINE: &str = "comments 3004\n";

/// The further files of a service with code of its own.
const MANIFEST: &str = r#"[package]
name = "comments"
version.workspace = true
edition.workspace = true

[dependencies]
service.workspace = true
warp.workspace = true
"#;
const MAIN: &str = r#"use service::routes::OwnRoutes;
use service::{Collection, Service, Store, run};
use warp::{Filter, Reply};

fn own(_: &Store) -> OwnRoutes {
    warp::path!("own").map(|| Ok("by its own program".into_response())).boxed()
}

fn main() -> std::process::ExitCode {
    let collection = Collection::embedded(include_str!("../collection.json"));
    run(&Service { collection, data: "data/comments", listen: "127.0.0.1:3004", own: Some(own) })
}
"#;

/// The files that `seed plan render` writes.
const RENDERED: [&str; 15] = [
    "compose.cluster.yaml",
    "compose.observe.yaml",
    "compose.writes.yaml",
    "compose.yaml",
    "deploy/ecs.yaml",
    "deploy/kubernetes/base/services.yaml",
    "deploy/kubernetes/overlays/replicas/kustomization.yaml",
    "deploy/kubernetes/overlays/replicas/services.yaml",
    "deploy/kubernetes/overlays/replicas/snapshots.yaml",
    "deploy/kubernetes/overlays/single/kustomization.yaml",
    "deploy/kubernetes/writes/services.yaml",
    "deploy/observe/alerts.yml",
    "deploy/observe/prometheus.yml",
    "gateway/haproxy.cfg",
    "gateway/routes.map",
];

const OTHERS: [&str; 3] = ["users", "threads", "posts"];

/// Adds the folder and the line.
fn add_comments(repository: &Repository) {
    fs::create_dir(repository.folder.join("comments")).unwrap();
    fs::write(repository.folder.join("comments/collection.json"), COMMENTS).unwrap();
    fs::write(repository.folder.join("plan"), repository.read("plan") + LINE).unwrap();
}

/// Starts the copy's `./up` with the data in `data` and waits until it is ready.
fn start_up(repository: &Repository, data: &str) -> Up {
    let mut command = repository.command("bash");
    command.arg("up").env("PROFILE", "dev").env("DATA", data).env("CARGO_NET_OFFLINE", "true");
    for port in ["PORT", "USERS_PORT", "THREADS_PORT", "POSTS_PORT", "COMMENTS_PORT"] {
        command.env(port, free_port().to_string());
    }
    let mut process = Process::start(&mut command);
    let ready = process.await_line("up       | ready: http://");
    Up { entrance: ready.split('/').next().unwrap().parse().unwrap(), process }
}

/// Returns the names that are new, gone or changed.
fn differences<T: PartialEq>(before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

// ---- Running services.

/// A running `./up`.
struct Up {
    process: Process,
    entrance: SocketAddr,
}

impl Up {
    fn get(&self, path: &str) -> String {
        let (status, _, body) = get(self.entrance, path);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Sends a write; returns the answer's status and body.
    fn send(&self, secret: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let config = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true);
        let agent: ureq::Agent = config.timeout_global(Some(PATIENCE)).build().into();
        let request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.entrance));
        let request = request.header("authorization", format!("Bearer {secret}"));
        let request = request.header("content-type", "application/json").body(body.to_owned()).unwrap();
        let mut answer = agent.run(request).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// Sends requests while `work` runs, each of which must succeed; returns their number.
    fn serve_during(&self, work: impl FnOnce() + Send) -> usize {
        thread::scope(|scope| {
            let work = scope.spawn(work);
            let mut asked = 0;
            while !work.is_finished() {
                OTHERS.iter().for_each(|name| drop(self.get(&format!("/api/{name}/1"))));
                asked += OTHERS.len();
                // Leaves the processors to the compiler.
                thread::sleep(Duration::from_millis(10));
            }
            work.join().unwrap();
            asked
        })
    }

    fn stop(mut self) {
        assert!(!self.process.log().contains(" ended with status "), "{}", self.process.log());
        self.process.signal("TERM");
        assert!(self.process.wait().success(), "{}", self.process.log());
    }
}

/// Starts a monolith that serves `source`, comments included.
fn start_monolith(source: &str) -> Server {
    let mut source: BTreeMap<String, Vec<Box<RawValue>>> = serde_json::from_str(source).unwrap();
    let mut take = |name| source.remove(name).unwrap().iter().map(|record| record.get().to_owned()).collect::<Vec<_>>();
    let comments = take("comments");
    let forum = Forum { users: take("users"), threads: take("threads"), posts: take("posts") };
    Server::start(move |path| {
        let on_post = |id: &str| {
            let is_on =
                |comment: &&String| serde_json::from_str::<Value>(comment).unwrap()["post"].as_u64() == id.parse().ok();
            comments.iter().filter(is_on).cloned().collect::<Vec<_>>()
        };
        let found = match path.trim_matches('/').split('/').collect::<Vec<_>>()[..] {
            ["api", "comments"] => comments.clone(),
            ["api", "comments", "on-post", id] => on_post(id),
            _ => return forum.as_monolith(path),
        };
        Answer::new(200, "application/json; charset=utf-8", &format!("[{}]", found.join(",")))
    })
}

// ---- The new service.

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn a_folder_and_a_line_add_a_service_to_a_running_split() {
    if tool("haproxy", "a service in a morning").is_none() {
        return;
    }
    let (repository, _alone) = Repository::copy(env!("CARGO_TARGET_TMPDIR"));
    let begin = Instant::now();
    let tell = |what: &str| eprintln!("{:6.1} s  {what}", begin.elapsed().as_secs_f64());
    let before = repository.files();
    repository.build();
    let programs = repository.programs();
    tell("built before there are comments");

    // Before: the forum is split, served, written to, and updated from a newer file.
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [data, newer, back] = ["data", "newer.json", "back.json"].map(path);
    let write = |source: &Value| fs::write(&newer, source.to_string()).unwrap();
    let mut source: Value = serde_json::from_slice(&fs::read(sample()).unwrap()).unwrap();
    repository.seed(&["--data", &data, "--input", sample().to_str().unwrap()]);
    let posts = repository.token("posts");
    let up = start_up(&repository, &data);
    let own = r#"{"id":2,"thread":1,"text":"by its service","user":2}"#;
    assert_eq!(up.send(&posts, "PUT", "/api/posts/2", own), (200, own.to_owned()));
    assert_eq!(up.send(&posts, "POST", "/api/posts", r#"{"thread":1,"text":"new","user":1}"#).0, 201);
    source["users"][0]["name"] = "Ada Lovelace".into();
    write(&source);
    repository.seed(&["--data", &data, "--input", &newer]);
    assert!(up.get("/api/users/1").contains("Ada Lovelace"));
    up.stop();
    make_manifest_old(Path::new(&data));
    repository.seed(&["verify", "--data", &data]);
    let mut expected = source.clone();
    // A record that a service wrote is joined with its id; a record that only the split numbered is not.
    expected["posts"][1] = serde_json::from_str(own).unwrap();
    expected["posts"].as_array_mut().unwrap().push(json!({"id": 21, "thread": 1, "text": "new", "user": 1}));
    let joined = || -> Value { serde_json::from_str(&repository.seed(&["join", "--data", &data])).unwrap() };
    assert_eq!(joined(), expected);

    // While it is served: add the folder and the line, render, build, and load a file with comments.
    let up = start_up(&repository, &data);
    source["comments"] = json!([{"post": 1, "body": "first"}, {"body": "second", "post": 2}]);
    write(&source);
    let asked = up.serve_during(|| {
        add_comments(&repository);
        let by_hand = differences(&before, &repository.files());
        assert_eq!(by_hand, ["comments/collection.json", "plan"]);
        assert_eq!(repository.read("plan").lines().count(), text(&before["plan"]).lines().count() + 1);
        repository.seed(&["plan", "render"]);
        let all = differences(&before, &repository.files());
        let rendered: Vec<&String> = all.iter().filter(|file| !by_hand.contains(file)).collect();
        assert_eq!(rendered, RENDERED);
        repository.build();
        assert_eq!(differences(&before, &repository.files()), all, "the build has changed files");
        let changed = differences(&programs, &repository.programs());
        assert_eq!(changed, ["seed"], "a program other than seed, which contains the plan, has changed");
        tell(&format!("by hand: {by_hand:?}; rendered: {rendered:?}; programs that changed: {changed:?}"));
        let report = repository.seed(&["--data", &data, "--input", &newer]);
        assert!(report.contains("Added to the split: comments with 2 records"), "{report}");
    });
    assert_eq!(up.get("/api/posts/2"), own);
    up.stop();
    tell(&format!("the running split has comments; {asked} requests meanwhile, all answered"));
    repository.seed(&["verify", "--data", &data]);
    expected["comments"] = source["comments"].clone();
    assert_eq!(joined(), expected);

    // The fourth service is served by the entrance, written to, and updated from a newer file.
    let comments = repository.token("comments");
    let up = start_up(&repository, &data);
    assert_eq!(up.get("/api/comments/1"), r#"{"id":1,"body":"first","post":1}"#);
    assert_eq!(up.get("/api/comments/on-post/2"), r#"[{"id":2,"body":"second","post":2}]"#);
    let written = (201, r#"{"id":3,"post":1,"body":"third"}"#.to_owned());
    assert_eq!(up.send(&comments, "POST", "/api/comments", r#"{"post":1,"body":"third"}"#), written);
    assert_eq!(up.send(&comments, "POST", "/api/comments", r#"{"post":"1","body":"third"}"#).0, 422);
    assert_eq!(up.send(&posts, "POST", "/api/comments", r#"{"post":1,"body":"third"}"#).0, 401);
    source["comments"][0]["body"] = "first, corrected".into();
    source["threads"][0]["title"] = "Say who you are".into();
    write(&source);
    repository.seed(&["--data", &data, "--input", &newer]);
    assert_eq!(up.get("/api/comments/1"), r#"{"id":1,"body":"first, corrected","post":1}"#);
    up.stop();
    repository.seed(&["verify", "--data", &data]);
    expected["threads"] = source["threads"].clone();
    expected["comments"] = source["comments"].clone();
    expected["comments"].as_array_mut().unwrap().push(json!({"id": 3, "post": 1, "body": "third"}));
    repository.seed(&["join", "--data", &data, "--output", &back]);
    let source_and_writes = fs::read_to_string(&back).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&source_and_writes).unwrap(), expected);

    let up = start_up(&repository, &data);
    let services = format!("http://{}", up.entrance);
    let compare = |source: &str| {
        let monolith = start_monolith(source).url();
        repository.run(&["compare", "--json", "--monolith", &monolith, "--services", &services, "--input", &back])
    };
    let alike = compare(&source_and_writes);
    assert_eq!(alike.0, Some(0), "{}", alike.1);
    let different = compare(&source_and_writes.replace("third", "3rd"));
    assert!(different.0 == Some(4) && different.1.contains("/api/comments/on-post/1"), "{}", different.1);
    up.stop();
    tell("served, written to, brought up to a newer file, verified, joined, compared");

    take_a_file_without_comments(&repository, &dir);
    give_comments_a_program(&repository, &data, &programs);
    tell("the same with a program of its own: by hand a folder and two lines");
}

/// Checks that a missing collection is empty and reported, or that `--require` refuses the file.
fn take_a_file_without_comments(repository: &Repository, dir: &TempDir) {
    let sample = sample();
    let other = dir.path().join("other");
    let arguments = ["--data", other.to_str().unwrap(), "--input", sample.to_str().unwrap()];
    let (code, refused) = repository.run(&[&arguments[..], &["--require"]].concat());
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused.contains("the collection \"comments\" is missing") && !other.exists(), "{refused}");
    let report = repository.seed(&arguments);
    let said = "Not in the file, and therefore empty: comments. --require refuses such a file.";
    assert!(report.contains(said), "{report}");
    repository.seed(&[&["verify"], &arguments[..]].concat());
}

/// Gives comments a program of its own, which needs only its folder and its line among the workspace's members.
fn give_comments_a_program(repository: &Repository, data: &str, programs: &BTreeMap<String, String>) {
    let before = repository.files();
    let write = |file: &str, content: &str| fs::write(repository.folder.join(file), content).unwrap();
    fs::create_dir(repository.folder.join("comments/src")).unwrap();
    write("comments/Cargo.toml", MANIFEST);
    write("comments/src/main.rs", MAIN);
    write("Cargo.toml", &repository.read("Cargo.toml").replacen("\"posts\", ", "\"posts\", \"comments\", ", 1));
    let by_hand = differences(&before, &repository.files());
    assert_eq!(by_hand, ["Cargo.toml", "comments/Cargo.toml", "comments/src/main.rs"]);
    repository.build();
    let all = differences(&before, &repository.files());
    assert_eq!(all, [&["Cargo.lock".to_owned()], &by_hand[..]].concat());
    for name in OTHERS {
        assert_eq!(repository.programs()[name], programs[name], "{name} is not the same");
    }
    let up = start_up(repository, data);
    assert_eq!(up.get("/api/comments/own"), "by its own program");
    assert_eq!(up.get("/api/comments/3"), r#"{"id":3,"post":1,"body":"third"}"#);
    up.stop();
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn a_fourth_service_leaves_the_images_of_the_others_unchanged() {
    if !can_build() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository { folder: dir.path().to_owned(), target: dir.path().join("target") };
    copy_sources(dir.path());
    let build = |name: &str| {
        let mut build = Command::new("docker");
        build.env("DOCKER_BUILDKIT", "1").args(["build", "--quiet", "--target", "service", "--build-arg"]);
        let built = build.arg(format!("SERVICE={name}")).arg(dir.path()).output().unwrap();
        assert!(built.status.success(), "{name}: {}", text(&built.stderr));
        text(&built.stdout).trim().to_owned()
    };
    let before = OTHERS.map(build);
    add_comments(&repository);
    let render = Command::new(world::program("seed")).args(["plan", "render"]).current_dir(dir.path()).output();
    assert!(render.unwrap().status.success());
    assert_eq!(OTHERS.map(build), before);
    // A build depends on contents, not on times: it sees a change in a file older than the last build, as in a fresh
    // checkout.
    let main = dir.path().join("posts/src/main.rs");
    let changed = fs::read_to_string(&main).unwrap().replace("3003", "3993");
    fs::write(&main, changed).unwrap();
    File::options().append(true).open(&main).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let help = docker_ok(&["run", "--rm", &build("posts"), "--help"]);
    assert!(help.contains("127.0.0.1:3993"), "the change of posts is not in its image: {help}");
    eprintln!("images of {OTHERS:?}: the same");
}
