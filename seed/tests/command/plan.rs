//! Tests with other collections than the workspace's: splits that are extended in place, given and proposed plans, and
//! services without their own code.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use world::changes::{change, collection, joined, make_manifest_old};
use world::{Process, declare, get, program, root, sample, seed, split, start_service, text};

const COMMENTS: &str = r#"{
  "name": "comments",
  "ids": "position",
  "fields": [
    { "name": "post", "shape": { "reference": { "to": "posts" } } },
    { "name": "by", "shape": { "reference": { "to": "users" } }, "required": false },
    { "name": "body", "shape": { "text": { "most": 100 } } },
    { "name": "stars", "shape": "number", "required": false }
  ],
  "indexes": [
    { "number": 1, "field": "post", "route": "on-post" },
    { "number": 7, "field": "by", "route": "by-user" },
    { "number": 3, "field": "body", "route": "saying", "answers": "one", "unique": true }
  ]
}"#;

/// Writes a plan of these collections: the workspace's own, and comments.
fn write_plan(folder: &Path, names: &[&str]) -> PathBuf {
    let plan = folder.join(names.join("-"));
    let declared = names.iter().map(|name| match *name {
        "comments" => ("comments", COMMENTS.to_owned()),
        name => (name, fs::read_to_string(root().join(name).join("collection.json")).unwrap()),
    });
    declare(&plan, &declared.collect::<Vec<_>>());
    plan
}

/// Writes the sample with comments.
fn write_commented(path: &Path, comments: &[Value]) {
    let source = fs::read_to_string(sample()).unwrap();
    let others = source.trim_end().strip_suffix('}').unwrap();
    fs::write(path, format!("{others}, \"comments\": {}}}", Value::from(comments))).unwrap();
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = seed(arguments);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn done(arguments: &[&str]) -> String {
    let (code, report) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {report}");
    report
}

#[test]
fn an_old_split_is_extended_in_place_and_keeps_its_services_changes() {
    let dir = tempfile::tempdir().unwrap();
    let [data, newer, back] = ["data", "newer.json", "back.json"].map(|name| dir.path().join(name));
    let [data_text, newer_text, back_text] = [&data, &newer, &back].map(|path| path.to_str().unwrap());
    let sample = sample();
    split(&sample, &data);
    let own = r#"{"id":2,"thread":1,"text":"by its service","user":2}"#;
    change(&data, collection("posts"), &[(2, Some(own)), (5, None)]);
    make_manifest_old(&data);
    let before = joined(&data);
    done(&["verify", "--data", data_text]);
    assert!(done(&["--input", sample.to_str().unwrap(), "--data", data_text]).contains("already holds the split"));

    let plan = write_plan(dir.path(), &["users", "threads", "posts", "comments"]);
    let with_plan = ["--plan", plan.to_str().unwrap(), "--data", data_text, "--input"];
    let the_same = [&with_plan[..], &[sample.to_str().unwrap()]].concat();
    let would = done(&[&the_same[..], &["--dry-run"]].concat());
    assert!(would.contains("Would be added to the split: comments with 0 records"), "{would}");
    assert_eq!(joined(&data), before);
    assert!(!data.join("comments/db").exists());

    // A running service is not disturbed.
    let (mut posts, address) = start_service("posts", &data.join("posts"));
    let added = done(&the_same);
    assert!(added.contains("Added to the split: comments with 0 records"), "{added}");
    assert_eq!(get(address, "/api/posts/2").2, own);
    posts.signal("TERM");
    assert!(posts.wait().success());
    done(&["verify", "--data", data_text]);
    assert_eq!(joined(&data), before.replace("]}\n", "],\"comments\":[]}\n"));

    let comments = [
        json!({"post": 1, "by": 2, "body": "first", "stars": 4.5}),
        json!({"post": 2, "by": null, "body": "second"}),
        json!({"post": 99, "body": "nowhere"}),
    ];
    write_commented(&newer, &comments);
    // Without --plan: the manifest has the plan.
    let report = done(&["--data", data_text, "--input", newer_text, "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["comments"]["added"], &report["posts"]["kept"]), (&3.into(), &2.into()), "{report}");
    done(&["verify", "--data", data_text]);
    let manifest: Value = serde_json::from_slice(&fs::read(data.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["orphans"]["comments_on_post"], 1);
    assert_eq!(manifest["orphans"]["comments_by_user"], 0);
    done(&["join", "--data", data_text, "--output", back_text]);
    let back: Value = serde_json::from_slice(&fs::read(&back).unwrap()).unwrap();
    assert_eq!(back["comments"], Value::from(&comments[..]));
    let (code, refused) = run(&["--data", data_text, "--input", newer_text, "--max-removed", "coments=1"]);
    assert_eq!(code, Some(2), "{refused}");
    assert!(
        refused.contains(r#"there is no collection "coments": there are users, threads, posts, comments"#),
        "{refused}"
    );
}

#[test]
fn one_run_adds_a_collection_and_applies_changes_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let [data, newer] = ["data", "newer.json"].map(|name| dir.path().join(name));
    split(&sample(), &data);
    write_commented(&newer, &[json!({"post": 1, "body": "new"})]);
    fs::write(&newer, fs::read_to_string(&newer).unwrap().replace("Ada Kaya", "Ada Lovelace")).unwrap();
    let plan = write_plan(dir.path(), &["users", "threads", "posts", "comments"]);
    let arguments = ["--data", data.to_str().unwrap(), "--input", newer.to_str().unwrap()];
    let (code, refused) = run(&arguments);
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused.contains("no service owns this collection"), "{refused}");
    let report = done(&[&arguments[..], &["--plan", plan.to_str().unwrap(), "--json"]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["added"]["comments"], &report["users"]["changed"]), (&1.into(), &1.into()), "{report}");
    done(&["verify", "--data", data.to_str().unwrap(), "--input", newer.to_str().unwrap()]);
}

#[test]
fn a_collection_that_is_not_in_the_file_is_empty_or_with_require_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [data, input] = ["data", "db.json"].map(|name| dir.path().join(name));
    fs::write(&input, r#"{"users":[{"id":1,"username":"a"}],"posts":[]}"#).unwrap();
    let arguments = ["--data", data.to_str().unwrap(), "--input", input.to_str().unwrap()];
    let (code, refused) = run(&[&arguments[..], &["--require"]].concat());
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused.contains("byte 45: the collection \"threads\" is missing"), "{refused}");
    assert!(!data.exists());
    let report = done(&arguments);
    assert!(
        report.contains("Not in the file, and therefore empty: threads. --require refuses such a file."),
        "{report}"
    );
    done(&["verify", "--data", data.to_str().unwrap(), "--input", input.to_str().unwrap()]);
    // A file that lacks a whole collection of the split does not count as a newer one.
    fs::write(&input, r#"{"posts":[]}"#).unwrap();
    let (code, refused) = run(&arguments);
    assert_eq!(code, Some(5), "{refused}");
    assert!(refused.contains("--max-removed users=1"), "{refused}");
}

#[test]
fn collections_can_move_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let [data, rest] = ["data", "rest.json"].map(|name| dir.path().join(name));
    let sample = sample();
    let split = |names: &[&str]| {
        let plan = write_plan(dir.path(), names);
        let [plan, data, rest] = [&plan, &data, &rest].map(|path| path.to_str().unwrap());
        done(&["--plan", plan, "--data", data, "--rest", rest, "--input", sample.to_str().unwrap()])
    };
    let verify = || done(&["verify", "--data", data.to_str().unwrap()]);
    split(&["users"]);
    verify();
    assert!(!data.join("posts").exists());
    let whole: Value = serde_json::from_slice(&fs::read(&sample).unwrap()).unwrap();
    let left: Value = serde_json::from_slice(&fs::read(&rest).unwrap()).unwrap();
    assert_eq!(left, json!({"threads": whole["threads"], "posts": whole["posts"]}));
    assert!(split(&["users", "threads"]).contains("Added to the split: threads with"));
    assert!(split(&["users", "threads", "posts"]).contains("Added to the split: posts with 20 records"));
    verify();
    let back: Value = serde_json::from_str(&joined(&data)).unwrap();
    assert_eq!(back, whole);
}

#[test]
fn members_that_were_put_aside_do_not_prevent_adding_a_collection() {
    let dir = tempfile::tempdir().unwrap();
    let [data, rest, input] = ["data", "rest.json", "db.json"].map(|name| dir.path().join(name));
    let [data, rest, input_text] = [&data, &rest, &input].map(|path| path.to_str().unwrap());
    let source =
        r#"{"version": 3, "users": [{"id": 1, "username": "ada"}], "threads": [{"id": 1, "title": 7}], "posts": []}"#;
    fs::write(&input, source).unwrap();
    let [users, threads] = [&["users"][..], &["users", "threads"]].map(|names| write_plan(dir.path(), names));
    let arguments = ["--data", data, "--input", input_text, "--plan"];
    done(&[&arguments[..], &[users.to_str().unwrap(), "--rest", rest]].concat());
    let extend = || run(&[&arguments[..], &[threads.to_str().unwrap()]].concat());
    let (code, refused) = extend();
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused.contains("/threads/0/title (byte "), "{refused}");
    assert!(!refused.contains("no service owns"), "{refused}");
    // In a newer file they must be put aside again, or are refused.
    fs::write(&input, source.replace("ada", "bob")).unwrap();
    let (code, refused) = extend();
    assert_eq!(code, Some(3), "{refused}");
    for expected in ["/version (byte 1): no service owns", "/threads/0/title (byte ", "/posts (byte "] {
        assert!(refused.contains(expected), "{expected:?} is not in {refused}");
    }
}

#[test]
fn the_order_of_a_plan_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let sample = sample();
    let [data_text, input] = [&data, &sample].map(|path| path.to_str().unwrap());
    split(&sample, &data);
    change(&data, collection("posts"), &[(2, Some(r#"{"id":2,"thread":1,"text":"own","user":2}"#))]);
    let plan = write_plan(dir.path(), &["posts", "users", "threads"]);
    let checked = done(&["--plan", plan.to_str().unwrap(), "--data", data_text, "--input", input, "--json"]);
    let checked: Value = serde_json::from_str(&checked).unwrap();
    assert_eq!(checked["posts"], json!({"as_split": 19, "changed": 1, "removed": 0, "added": 0}), "{checked}");
    assert_eq!(checked["users"], json!({"as_split": 7, "changed": 0, "removed": 0, "added": 0}), "{checked}");
    let newer = dir.path().join("newer.json");
    fs::write(&newer, fs::read_to_string(&sample).unwrap().replace("Ada Kaya", "Ada Lovelace")).unwrap();
    let newer = newer.to_str().unwrap();
    let updated = done(&["--plan", plan.to_str().unwrap(), "--data", data_text, "--input", newer, "--json"]);
    let updated: Value = serde_json::from_str(&updated).unwrap();
    assert_eq!((&updated["users"]["changed"], &updated["posts"]["kept"]), (&1.into(), &1.into()), "{updated}");
    done(&["verify", "--data", data_text]);
}

#[test]
fn a_backup_has_the_collections_of_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let [data, input] = ["data", "db.json"].map(|name| dir.path().join(name));
    let plan = write_plan(dir.path(), &["users", "threads", "posts", "comments"]);
    write_commented(&input, &[json!({"post": 1, "body": "a"})]);
    let data = data.to_str().unwrap();
    done(&["--plan", plan.to_str().unwrap(), "--data", data, "--input", input.to_str().unwrap()]);
    for name in ["folder", "file.ndjson"] {
        let [backup, again] = [name.to_owned(), format!("{name}-data")].map(|name| dir.path().join(name));
        let [backup, again] = [&backup, &again].map(|path| path.to_str().unwrap());
        done(&["backup", "--data", data, "--output", backup]);
        done(&["verify", "--backup", backup, "--input", input.to_str().unwrap()]);
        done(&["restore", "--backup", backup, "--data", again]);
        done(&["verify", "--data", again, "--against", backup]);
        assert_eq!(joined(Path::new(again)), joined(Path::new(data)), "{name}");
    }
}

#[test]
fn a_collection_without_its_own_code_is_served_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let [data, input] = ["data", "db.json"].map(|name| dir.path().join(name));
    let plan = write_plan(dir.path(), &["users", "threads", "posts", "comments"]);
    write_commented(
        &input,
        &[json!({"post": 1, "by": 2, "body": "a \"b\""}), json!({"post": 1, "body": "c", "id": 9})],
    );
    done(&["--plan", plan.to_str().unwrap(), "--data", data.to_str().unwrap(), "--input", input.to_str().unwrap()]);
    let tokens = dir.path().join("tokens");
    let [plan_text, tokens_text] = [&plan, &tokens].map(|path| path.to_str().unwrap());
    let made = done(&["token", "comments", "--plan", plan_text, "--file", tokens_text]);
    let secret = made.lines().next().unwrap();
    assert!(secret.starts_with("comments_"), "{made}");
    let declaration = plan.join("comments/collection.json");
    let mut command = Command::new(program("collection"));
    command.arg("--declaration").arg(&declaration).arg("--data").arg(data.join("comments"));
    command.args(["--listen", "127.0.0.1:0", "--write-token-file"]).arg(&tokens);
    let mut service = Process::start(&mut command);
    let address: std::net::SocketAddr = service.await_line(" on http://").trim().parse().unwrap();
    let (first, second) = (r#"{"id":1,"body":"a \"b\"","by":2,"post":1}"#, r#"{"body":"c","id":9,"post":1}"#);
    for (path, status, body) in [
        ("/api/comments", 200, format!("[{first},{second}]")),
        ("/api/comments/1", 200, first.to_owned()),
        ("/api/comments/on-post/1", 200, format!("[{first},{second}]")),
        ("/api/comments/by-user/2/", 200, format!("[{first}]")),
        ("/api/comments/by-user/3", 200, "[]".to_owned()),
        ("/api/comments/saying/c", 200, second.to_owned()),
        ("/api/comments/saying/a%20%22b%22", 200, first.to_owned()),
    ] {
        let (found, _, text) = get(address, path);
        assert_eq!((found, text), (status, body), "{path}");
    }
    for (path, status, detail) in [
        ("/api/comments/2", 404, "There is no"),
        ("/api/comments/on-post/x", 400, "An id in this path is an integer"),
        ("/api/comments/in-thread/1", 404, "There is nothing at this path"),
        ("/api/posts", 404, "There is nothing at this path"),
    ] {
        let (found, _, text) = get(address, path);
        assert!(found == status && text.contains(detail), "{path}: {found} {text}");
    }
    let post = |body: &'static str| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.post(format!("http://{address}/api/comments")).header("content-type", "application/json");
        let mut answer = request.header("authorization", format!("Bearer {secret}")).send(body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    let violated = post(r#"{"post":"1","stars":"many"}"#);
    assert_eq!(violated.0, 422, "{}", violated.1);
    for what in ["/post", "must be an integer", "/body", "must be given", "/stars", "must be a number"] {
        assert!(violated.1.contains(what), "{what}: {}", violated.1);
    }
    assert_eq!(post(r#"{"post":3,"body":"c"}"#).0, 409);
    assert_eq!(post(r#"{"post":3,"body":"d"}"#), (201, r#"{"id":10,"post":3,"body":"d"}"#.to_owned()));
    assert_eq!(get(address, "/api/comments/on-post/3").2, r#"[{"id":10,"post":3,"body":"d"}]"#);
    service.signal("TERM");
    assert!(service.wait().success());
    done(&["verify", "--data", data.to_str().unwrap()]);
    // The declaration of another collection does not fit the database.
    let mut command = Command::new(program("collection"));
    command.arg("--declaration").arg(plan.join("users/collection.json")).arg("--data").arg(data.join("comments"));
    let output = world::run_to_end(command.args(["--listen", "127.0.0.1:0"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("this database holds comments, not users"), "{}", text(&output.stderr));
}

#[test]
fn a_plan_that_contradicts_itself_is_refused_with_its_file_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let refused = |plan: &Path| {
        let (code, refused) = run(&["--plan", plan.to_str().unwrap(), "--data", data.to_str().unwrap()]);
        assert!(code == Some(3) || code == Some(6), "{refused}");
        assert!(!data.exists(), "{refused}");
        refused
    };
    let with = |from: &str, to: &str| {
        let plan = write_plan(dir.path(), &["users", "threads", "posts", "comments"]);
        let path = plan.join("comments/collection.json");
        fs::write(&path, COMMENTS.replace(from, to)).unwrap();
        refused(&plan)
    };
    for (from, to, reason) in [
        ("\"name\": \"comments\"", "\"name\": \"remarks\"", "it declares \"remarks\", and "),
        ("\"number\": 7", "\"number\": 1", "the index 1 is declared twice"),
        ("\"number\": 7", "\"number\": 0", "indexes are numbered from 1"),
        ("\"route\": \"by-user\"", "\"route\": \"on-post\"", "the route \"on-post\" is declared twice"),
        ("\"route\": \"by-user\"", "\"route\": \"by/user\"", "the route \"by/user\" must be of"),
        ("\"field\": \"by\"", "\"field\": \"bye\"", "is of the field \"bye\", which is not declared"),
        ("{ \"reference\": { \"to\": \"users\" } }", "\"boolean\"", "neither a text nor a number nor a reference"),
        (
            "\"to\": \"posts\"",
            "\"to\": \"letters\"",
            "comments refers to letters in \"post\", and letters is not listed",
        ),
        ("\"ids\"", "\"idz\"", "unknown field `idz`"),
    ] {
        let refused = with(from, to);
        assert!(refused.contains(reason) && refused.contains("Nothing was changed"), "{reason}: {refused}");
    }
    let no_index = COMMENTS.replace("{ \"number\": 7, \"field\": \"by\", \"route\": \"by-user\" },", "");
    let plan = write_plan(dir.path(), &["users", "threads", "posts", "comments"]);
    fs::write(plan.join("comments/collection.json"), no_index).unwrap();
    assert!(refused(&plan).contains("the reference \"by\" has no index"));
    assert!(refused(&dir.path().join("nowhere")).contains("nowhere"));
}

#[test]
fn a_plan_is_proposed_with_its_reasons_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [input, plan, data] = ["db.json", "plan", "data"].map(|name| dir.path().join(name));
    let [input_text, plan_text, data_text] = [&input, &plan, &data].map(|path| path.to_str().unwrap());
    let source = r#"{
        "shops": [{"id": 1, "slug": "a", "name": "A", "open": true}, {"id": 2, "slug": "b", "name": "B", "open": false}],
        "products": [
            {"id": 7, "shopId": 1, "price": 1.5, "tags": ["x"], "note": null},
            {"id": 9, "shopId": 2, "price": 2, "tags": [], "note": "line\nbreak"},
            {"id": 12, "shopId": 2, "price": 3, "tags": [], "odd": "1"}
        ],
        "reviews": [{"product_id": 7, "stars": 5}, {"product_id": 8, "stars": "many"}],
        "empty": [],
        "version": 3,
        "no segment": []
    }"#;
    fs::write(&input, source).unwrap();
    let report = done(&["plan", "--from", input_text, "--output", plan_text]);
    for reason in [
        "shops: 2 records\n  each record has an integer id\n  slug finds records, and several may have the same value",
        "shopId refers to shops: by its name, and 2 of its 2 values are ids there",
        "2 of 2 records have no id, so the id is the position",
        "unsure: product_id refers to products: by its name, and 1 of its 2 values is an id there",
        "unsure: stars has values of several kinds, so it may be anything",
        "unsure: there are no records to judge by",
        "left out: \"version\": it holds a number, not records. --rest FILE puts it aside",
        "left out: \"no segment\": \"no segment\" cannot stand in a URL",
    ] {
        assert!(report.contains(reason), "{reason:?} is not in {report}");
        let noted = reason.lines().last().unwrap().trim().trim_start_matches("unsure: ");
        let list = fs::read_to_string(plan.join("plan")).unwrap();
        assert!(reason.starts_with("left out") || list.contains(noted), "{noted:?} is not in {list}");
    }
    let declared = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(plan.join(name).join("collection.json")).unwrap()).unwrap()
    };
    let products = declared("products");
    let field = |name: &str| products["fields"].as_array().unwrap().iter().find(|field| field["name"] == name).cloned();
    assert_eq!(
        field("shopId"),
        Some(json!({"name": "shopId", "shape": {"reference": {"to": "shops"}}, "required": false}))
    );
    assert_eq!(field("note"), Some(json!({"name": "note", "shape": {"text": {"most": 65536}}, "required": false})));
    assert_eq!(field("tags"), Some(json!({"name": "tags", "shape": "any", "required": false})));
    assert_eq!(
        products["indexes"],
        json!([{"number": 1, "field": "shopId", "route": "by-shop", "in_monolith": false}])
    );

    let (code, refused) = run(&["plan", "--from", input_text, "--output", plan_text]);
    assert_eq!(code, Some(5), "{refused}");
    assert!(refused.contains("it is there already, and may have been edited"), "{refused}");

    let rest = dir.path().join("rest.json");
    let split = ["--plan", plan_text, "--input", input_text, "--data", data_text, "--rest", rest.to_str().unwrap()];
    let split = done(&split);
    assert!(split.contains("1 reference leads nowhere"), "{split}");
    done(&["verify", "--data", data_text, "--input", input_text]);
    let output = seed(["join", "--data", data_text, "--with", rest.to_str().unwrap()]);
    let back: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(back, serde_json::from_str::<Value>(source).unwrap());

    // No other file is left.
    let mut there: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    there.sort_unstable();
    assert_eq!(there, ["data", "db.json", "plan", "rest.json"]);

    fs::write(&input, "[]").unwrap();
    let other = dir.path().join("other");
    let (code, refused) = run(&["plan", "--from", input_text, "--output", other.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{refused}");
    assert!(!other.exists());
}

#[test]
fn a_file_without_collections_gets_no_plan_and_standard_input_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let [input, plan] = ["db.json", "plan"].map(|name| dir.path().join(name));
    let [input_text, plan_text] = [&input, &plan].map(|path| path.to_str().unwrap());
    for (source, why) in [
        ("{}", "the object is empty"),
        (
            r#"{"version": 3, "no segment": [], "tags": ["a"]}"#,
            "\"version\": it holds a number, not records; \"no segment\": \"no segment\" cannot stand in a URL",
        ),
    ] {
        fs::write(&input, source).unwrap();
        let (code, refused) = run(&["plan", "--from", input_text, "--output", plan_text]);
        assert_eq!(code, Some(3), "{refused}");
        assert!(refused.contains(&format!("nothing in {input_text} can be a service: {why}")), "{refused}");
        assert!(!plan.exists());
    }
    // The proposal accepts what the split accepts, since it uses the same reader.
    let deep = "[".repeat(127) + &"]".repeat(127);
    let source = format!("\u{feff}{{\"a\":[{{\"x\":1e400,\"y\":{deep},\"z\":\"\\ud800\"}}]}}");
    fs::write(&input, source).unwrap();
    let plan_of_stdin = |more: &[&str]| {
        let mut command = Command::new(program("seed"));
        command.args(["plan", "--from", "-", "--output", plan_text]).args(more);
        command.stdin(fs::File::open(&input).unwrap()).output().unwrap()
    };
    let refused = plan_of_stdin(&[]);
    assert_eq!(refused.status.code(), Some(3));
    let message = text(&refused.stderr);
    assert!(message.contains("standard input: /a/0/z (byte ") && message.contains("a lone surrogate"), "{message}");
    assert!(!plan.exists());
    let planned = plan_of_stdin(&["--as-node"]);
    assert!(planned.status.success(), "{}", text_of(&planned));
    assert!(text(&planned.stdout).contains("\na: 1 record\n"), "{}", text_of(&planned));
    let data = dir.path().join("data");
    done(&["--plan", plan_text, "--input", input_text, "--data", data.to_str().unwrap(), "--as-node"]);
}

#[test]
fn ids_that_are_texts_and_single_objects_are_proposed_and_split() {
    let dir = tempfile::tempdir().unwrap();
    for (name, source, reason) in [
        ("texts", r#"{"notes":[{"id":"a1b2"},{"id":3}]}"#, "1 of 2 ids is a text, 1 is an integer"),
        ("zero", r#"{"notes":[{"id":0},{"id":3}]}"#, "1 of 2 ids is not an integer from 1 to 2^63-1, so ids are texts"),
        ("single", r#"{"profile":{"name":"typicode"}}"#, "it is one object, not a list"),
    ] {
        let [input, plan, data] = ["json", "plan", "data"].map(|kind| dir.path().join(format!("{name}.{kind}")));
        let [input, plan, data_text] = [&input, &plan, &data].map(|path| path.to_str().unwrap());
        fs::write(input, source).unwrap();
        let report = done(&["plan", "--from", input, "--output", plan]);
        assert!(report.contains(reason), "{report}");
        done(&["--plan", plan, "--input", input, "--data", data_text]);
        assert_eq!(joined(&data), format!("{source}\n"));
    }
}

#[test]
fn collections_of_any_name_are_planned_split_served_and_joined_back() {
    let dir = tempfile::tempdir().unwrap();
    let [input, plan, data, newer] = ["db.json", "plan", "data", "newer.json"].map(|name| dir.path().join(name));
    let [input_text, plan_text, data_text, newer_text] =
        [&input, &plan, &data, &newer].map(|path| path.to_str().unwrap());
    let source = r#"{
        "blogPosts": [{"id": 1, "title": "a"}, {"id": 2, "title": "b"}],
        "Tags": [{"id": 1, "blogPostId": 2}],
        "tags": [{"id": 7, "tagId": 1}],
        "monolith": [{"id": 1}],
        "2024-events": [{"day": 1}],
        "a.b~c": [],
        "service": [{"id": 3}]
    }"#;
    fs::write(&input, source).unwrap();
    let report = done(&["plan", "--from", input_text, "--output", plan_text]);
    assert!(
        report.contains("a topology does not allow: blog-posts of blogPosts, tags-2 of Tags, monolith-service"),
        "{report}"
    );
    let list = fs::read_to_string(plan.join("plan")).unwrap();
    let lines: Vec<&str> = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let expected = [
        "blog-posts 3001 blogPosts",
        "tags-2 3002 Tags",
        "tags 3003",
        "monolith-service 3004 monolith",
        "service-2024-events 3005 2024-events",
        "a-b-c 3006 a.b~c",
        "service-service 3007 service",
    ];
    assert_eq!(lines, expected);
    done(&["--plan", plan_text, "--input", input_text, "--data", data_text]);
    done(&["verify", "--data", data_text, "--input", input_text]);
    assert_eq!(joined(&data), source.split_whitespace().collect::<String>() + "\n");
    for (service, collection, path, body) in [
        ("blog-posts", "blogPosts", "/api/blogPosts/2", r#"{"id":2,"title":"b"}"#),
        ("service-2024-events", "2024-events", "/api/2024-events/1", r#"{"id":1,"day":1}"#),
        ("a-b-c", "a.b~c", "/api/a.b~c", "[]"),
    ] {
        let mut command = Command::new(program("collection"));
        command.arg("--declaration").arg(plan.join(service).join("collection.json"));
        command.arg("--data").arg(data.join(collection)).args(["--listen", "127.0.0.1:0"]);
        let mut process = Process::start(&mut command);
        let address: std::net::SocketAddr = process.await_line(" on http://").trim().parse().unwrap();
        assert_eq!(get(address, path).2, body);
        process.signal("TERM");
        assert!(process.wait().success());
    }
    fs::write(&newer, source.replace(r#""title": "b""#, r#""title": "c""#)).unwrap();
    done(&["--input", newer_text, "--data", data_text]);
    let backup = dir.path().join("backup");
    done(&["backup", "--data", data_text, "--output", backup.to_str().unwrap()]);
    done(&["verify", "--backup", backup.to_str().unwrap(), "--input", newer_text]);

    // The list and the declaration must agree.
    fs::write(plan.join("plan"), "blog-posts 3001 blogposts\n").unwrap();
    let (code, refused) = run(&["--plan", plan_text, "--input", input_text, "--data", "elsewhere"]);
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused.contains("`blog-posts PORT blogPosts` lists the declared one"), "{refused}");
}

#[test]
fn all_obstacles_to_a_split_are_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data, rest] = ["db.json", "data", "rest.json"].map(|name| dir.path().join(name));
    let [input_text, data_text, rest] = [&input, &data, &rest].map(|path| path.to_str().unwrap());
    let source = r#"{"version": 3,
        "users": [{"id": 1, "username": "a"}, {"id": 1, "username": "b"}, {"id": "x"}],
        "posts": [1, 2, 3, {"thread": 1, "text": "t", "user": 1}, 4, 5, 6, 7],
        "tags": [{"id": [1]}], "users": []"#;
    fs::write(&input, format!("{source}}}")).unwrap();
    let arguments = ["--input", input_text, "--data", data_text];
    let (code, refused) = run(&[&arguments[..], &["--require"]].concat());
    assert_eq!(code, Some(3), "{refused}");
    for expected in [
        "db.json: this is in the way of a split:\n  /version (byte 1): no service owns this collection",
        "\n  /tags (byte 190): no service owns this collection",
        "\n  /users (byte 213): the collection is repeated",
        "the collection \"threads\" is missing",
        "\n  /users/1 (byte 61): the id 1 is taken by an earlier record",
        "\n  /users/2/id (byte 96): ",
        "\n  /posts/0 (byte 121): ",
        "\n  /posts/5 (byte ",
        "\n  and 2 more records of posts\n",
        "--rest FILE puts it aside, or `seed plan --from FILE --output FOLDER` proposes a plan that has it",
        "without --require it is empty",
        "--rejects FILE goes on without such records.",
        "Nothing was changed.",
    ] {
        assert!(refused.contains(expected), "{expected:?} is not in {refused}");
    }
    assert!(!refused.contains("/posts/6"), "{refused}");
    assert!(!data.exists());
    let (_, report) = run(&[&arguments[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["error"], &report["place"]), (&"input".into(), &"/version (byte 1)".into()), "{report}");
    assert_eq!(report["obstacles"].as_array().unwrap().len(), 10, "{report}");
    assert_eq!(report["obstacles"][0]["kind"], "unplannable", "{report}");
    assert_eq!(report["obstacles"][1]["kind"], "unowned", "{report}");
    assert_eq!(report["more"], json!([{"collection": "posts", "records": 2}]), "{report}");

    // Collections put aside are no obstacles; a single obstacle comes with what to do; invalid JSON ends the search.
    let aside = [&arguments[..], &["--rest", rest, "--rejects", rest]].concat();
    let (_, refused) = run(&aside[..aside.len() - 2]);
    assert!(!refused.contains("no service owns"), "{refused}");
    fs::write(&input, r#"{"users": {}, "threads": [], "posts": []}"#).unwrap();
    let (code, refused) = run(&arguments);
    assert_eq!(code, Some(3), "{refused}");
    assert!(
        refused.contains(
            "db.json: /users (byte 10): expected an array of records, found an object\nA collection that is not a list: correct"
        ) && refused.ends_with("puts it aside.\nNothing was changed.\n"),
        "{refused}"
    );
    fs::write(&input, r#"{"users": {}, "posts": [7], "threads": [}"#).unwrap();
    let (_, refused) = run(&arguments);
    for expected in
        ["/users (byte 10): expected an array", "/posts/0 (byte 24): ", "/threads/0 (byte 40): expected a record"]
    {
        assert!(refused.contains(expected), "{expected:?} is not in {refused}");
    }
    // Messages name standard input, not the temporary file that keeps it.
    let mut seed = Command::new(program("seed"));
    seed.args(["--input", "-", "--data", data_text]).current_dir(root()).stdin(fs::File::open(&input).unwrap());
    let refused = text(&seed.output().unwrap().stderr);
    assert!(refused.starts_with("seed: standard input: this is in the way of a split:\n"), "{refused}");
}

/// A record that a narrower declaration makes invalid stays unchanged, in the slice, too. It must not prevent later updates
/// and joins.
#[test]
fn a_record_spared_under_a_narrower_declaration_prevents_no_update_or_join() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let declare = |shape: &str| {
        let fields = json!([{ "name": "n", "shape": shape }]);
        let declaration = json!({ "name": "notes", "ids": "record", "fields": fields, "indexes": [] });
        world::declare(&path("plan"), &[("notes", declaration.to_string())]);
    };
    let update = |name: &str, text: &str, code: i32| {
        fs::write(path(name), text).unwrap();
        let [plan, input, data, rejects] = ["plan", name, "data", "rejects"].map(|name| path(name).into_os_string());
        let output =
            seed(["--plan".into(), plan, "--input".into(), input, "--data".into(), data, "--rejects".into(), rejects]);
        assert_eq!(output.status.code(), Some(code), "{}", text_of(&output));
    };
    let joined =
        || text(&seed(["join".as_ref(), "--data".as_ref(), path("data").as_os_str()]).stdout).trim_end().to_owned();
    declare("any");
    update("db.json", r#"{"notes":[{"id":1,"n":"text"},{"id":2,"n":2},{"id":3,"n":3}]}"#, 0);
    declare("number");
    update("new.json", r#"{"notes":[{"id":1,"n":"text"},{"id":2,"n":5},{"id":3,"n":3}]}"#, 7);
    assert_eq!(joined(), r#"{"notes":[{"id":1,"n":"text"},{"id":2,"n":5},{"id":3,"n":3}]}"#);
    update("newer.json", r#"{"notes":[{"id":2,"n":6},{"id":3,"n":3}]}"#, 0);
    assert_eq!(joined(), r#"{"notes":[{"id":2,"n":6},{"id":3,"n":3}]}"#);
}

fn text_of(output: &std::process::Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn each_refusal_names_its_reason_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let [plan, good, input, data] = ["plan", "good.json", "db.json", "data"].map(|name| dir.path().join(name));
    let [plan_text, good_text, input_text, data_text] =
        [&plan, &good, &input, &data].map(|path| path.to_str().unwrap());
    fs::write(&good, r#"{"users": [{"id": 1, "a": 1}], "tags": [{"id": "x"}], "todos": [{"b": 1}]}"#).unwrap();
    done(&["plan", "--from", good_text, "--output", plan_text]);
    // A proposal would not infer a shape from a single value.
    let declaration = plan.join("users/collection.json");
    let mut edited: Value = serde_json::from_slice(&fs::read(&declaration).unwrap()).unwrap();
    edited["fields"] = json!([{"name": "a", "shape": "number"}]);
    fs::write(&declaration, edited.to_string()).unwrap();
    let deep = format!(r#"{{"users": [{{"id": 1, "a": 1, "x": {}1{}}}]}}"#, r#"{"y":"#.repeat(130), "}".repeat(130));
    let long = format!(r#"{{"tags": [{{"id": "{}"}}]}}"#, "x".repeat(256));
    let as_node = r#"{"users": [{"id": "one", "a": "\ud800"}]}"#;
    let repeated = "A repeated id: correct the file, or --rejects FILE";
    let twice = "JSON.parse takes only the last one";
    let by_plan = "`seed plan --from FILE";
    for (file, options, expected, absent) in [
        (
            r#"{"users": [{"id": 1, "a": 1}, {"id": 1, "a": 2}]}"#,
            "",
            vec!["/users/1 (byte 30): the id 1 is taken by /users/0\n", repeated],
            "edit",
        ),
        (
            r#"{"todos": [{"b": 1}, {"id": 1, "b": 1}]}"#,
            "",
            vec!["/todos/1 (byte 21): the id 1 is taken by /todos/0, which has it from its position\n", repeated],
            "edit",
        ),
        (r#"{"users": [], "version": 3}"#, "", vec!["no plan can have: --rest FILE puts it aside"], by_plan),
        (r#"{"users": [], "list": [1, 2]}"#, "", vec!["no plan can have: --rest FILE puts it aside"], by_plan),
        (r#"{"users": [], "a/b": [{"id": 1}]}"#, "", vec!["no plan can have: --rest FILE puts it aside"], by_plan),
        (r#"{"users": [], "cats": [ {"id": 1}]}"#, "", vec!["--rest FILE puts it aside", by_plan], "correct"),
        (r#"{"users": [], "users": [{"id": 2, "a": 2}]}"#, "", vec!["/users (byte 14)", twice], "--rest"),
        (r#"{"users": [], "cats": [{}], "cats": [{}]}"#, "--rest", vec!["/cats (byte 28)", twice], "--rest"),
        (r#"{"users": [], "cats": [{}], "cats": [{}]}"#, "", vec!["/cats (byte 14)", "/cats (byte 28)", twice], "edit"),
        (r#"{"users": [{"id": "a"}]}"#, "", vec!["correct the file, or edit its collection.json"], "--plan"),
        (as_node, "--as-node", vec!["/users/0/id (byte 11): ", "expected an integer"], "surrogate"),
        (as_node, "", vec!["/users/0/a (byte ", "a lone surrogate"], "integer"),
        (r#"{"tags": [{"id": ""}]}"#, "", vec!["or an integer, found an empty string\n"], "bytes\n"),
        (&long, "", vec!["or an integer, found a string of 256 bytes\n"], "empty"),
        (&deep, "", vec!["/users/0/x/y/y", "…", "y/y (byte ", "nested deeper"], &"/y".repeat(100)),
    ] {
        fs::write(&input, file).unwrap();
        let aside = dir.path().join("aside");
        let mut arguments = vec!["--plan", plan_text, "--input", input_text, "--data", data_text];
        arguments.extend(Some(options).filter(|option| !option.is_empty()));
        arguments.extend(Some(aside.to_str().unwrap()).filter(|_| options == "--rest"));
        let (code, refused) = run(&arguments);
        assert_eq!(code, Some(3), "{file}: {refused}");
        for expected in expected {
            assert!(refused.contains(expected), "{file}: {expected:?} is not in {refused}");
        }
        assert!(!refused.contains(absent), "{file}: {absent:?} is in {refused}");
        assert!(refused.ends_with("Nothing was changed.\n"), "{refused}");
    }
    let (_, report) = run(&["--plan", plan_text, "--input", input_text, "--data", data_text, "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["place"].as_str().unwrap().contains(&"/y".repeat(100)), "{report}");

    // An existing split keeps its own declarations until a plan is given.
    done(&["--plan", plan_text, "--input", good_text, "--data", data_text]);
    fs::write(&input, r#"{"users": [{"id": 1, "a": "one"}], "tags": [{"id": "x"}], "todos": [{"b": 1}]}"#).unwrap();
    let (code, refused) = run(&["--input", input_text, "--data", data_text]);
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused.contains("give --plan FOLDER with the edited declaration; or --rejects FILE"), "{refused}");
    edited["fields"] = json!([]);
    fs::write(&declaration, edited.to_string()).unwrap();
    done(&["--plan", plan_text, "--input", input_text, "--data", data_text]);
}
