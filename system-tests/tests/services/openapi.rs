//! The OpenAPI documents: the committed copies are current, and the services do what theirs say, of any declaration.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;

use tempfile::TempDir;
use world::{declare, program, root, sample, seed, split, start_writable, text, tool};

/// The requests of each operation and phase. More find more, and take longer.
const EXAMPLES: &str = "5";

/// Collections as other monoliths have them: text ids, a single record, and every shape.
const OTHERS: [(&str, &str); 2] = [
    (
        "things",
        r#"{"name":"things","ids":"text","owner":"name","fields":[
            {"name":"of","shape":{"reference":{"to":"things","text":true}},"required":false},
            {"name":"name","shape":"username"},
            {"name":"title","shape":{"line":{"least":2,"most":30}},"required":false},
            {"name":"text","shape":{"text":{"most":4096}},"required":false,"search":true},
            {"name":"count","shape":"number","required":false},
            {"name":"price","shape":"number"},
            {"name":"is_new","shape":"boolean"},
            {"name":"more","shape":"any","required":false}],
          "indexes":[
            {"number":1,"field":"of","route":"part-of"},
            {"number":2,"field":"title","route":"titled",
             "deprecated":{"since":"2026-01-01","sunset":"2099-01-01","link":"/changes"}},
            {"number":3,"field":"name","route":"named","answers":"one","unique":true,"order":true},
            {"number":4,"field":"price","route":"priced","order":true},
            {"number":5,"field":"count","route":"counted","answers":"one"}]}"#,
    ),
    (
        "profile",
        r#"{"name":"profile","ids":"single","fields":[{"name":"name","shape":{"line":{"least":1,"most":9}}}]}"#,
    ),
];

const RECORDS: &str = r#"{
    "things": [{"id":"a1","name":"ada","price":9.50,"is_new":true,"title":"One"}, {"id":7,"name":"bo","price":1e2,"is_new":false,"of":"a1"}],
    "profile": {"name":"a forum"}}"#;

/// The copies are for readers of the repository. `just openapi` writes them anew.
#[test]
fn the_committed_documents_are_those_of_the_services() {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("docs/openapi")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let printed = Command::new(program(&name)).arg("openapi").output().unwrap();
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        let is_current = fs::read(&path).unwrap() == printed.stdout;
        assert!(is_current, "{} is not what {name} prints; run `just openapi`", path.display());
        names.push(name);
    }
    assert!(names.len() >= 3, "{names:?}");
}

/// Runs schemathesis with all of its checks against a service that may be written to; panics with what it finds.
fn is_as_described(schemathesis: &Path, name: &str, address: SocketAddr, secret: &str) {
    // It reads the rules from the current folder, and keeps there what it found.
    let folder = tempfile::tempdir().unwrap();
    for file in ["schemathesis.toml", "hooks.py"] {
        fs::copy(root().join("system-tests/openapi").join(file), folder.path().join(file)).unwrap();
    }
    let url = format!("http://{}", address);
    let mut command = Command::new(schemathesis);
    command.args(["run", &format!("{url}/api/{name}/-/openapi.json"), "--url", &url, "--checks", "all"]);
    command.args(["--max-examples", EXAMPLES, "--seed", "1", "--continue-on-failure"]);
    command.args(["--header", &format!("Authorization: Bearer {}", secret)]);
    let output = command.current_dir(folder.path()).env("NO_COLOR", "1").output().unwrap();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && printed.contains("Tested:"), "{name}: {printed}{errors}");
    let summary = printed.split("Test Phases:").nth(1).unwrap_or_default();
    println!("{name}:{summary}");
}
#[test]
fn schemathesis_finds_nothing_in_the_three_services() {
    let Some(schemathesis) = tool("schemathesis", "what the services' documents say") else { return };
    let folder = tempfile::tempdir().unwrap();
    split(&sample(), &folder.path().join("data"));
    thread::scope(|scope| {
        for name in ["users", "threads", "posts"] {
            let mut command = Command::new(program(name));
            let (service, address, secret) = start_writable(&mut command, name, &folder.path().join("data"), &[]);
            let schemathesis = &schemathesis;
            scope.spawn(move || {
                is_as_described(schemathesis, name, address, &secret);
                drop(service);
            });
        }
    });
}

#[test]
fn schemathesis_finds_nothing_in_collections_with_text_ids_or_a_single_record() {
    let Some(schemathesis) = tool("schemathesis", "what the services' documents say") else { return };
    let folder: TempDir = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    declare(&folder.path().join("plan"), &OTHERS);
    fs::write(path("db.json"), RECORDS).unwrap();
    let (plan, input, data) = (path("plan"), path("db.json"), path("data"));
    let done = seed(["--plan", &plan, "--input", &input, "--data", &data]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    thread::scope(|scope| {
        for (name, _) in OTHERS {
            let mut command = Command::new(program("collection"));
            command.arg("--declaration").arg(folder.path().join("plan").join(name).join("collection.json"));
            let (service, address, secret) =
                start_writable(&mut command, name, &folder.path().join("data"), &["--plan", &plan]);
            let schemathesis = &schemathesis;
            scope.spawn(move || {
                is_as_described(schemathesis, name, address, &secret);
                drop(service);
            });
        }
    });
}
