//! A service is started on existing data with a changed declaration.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use world::{Process, declare, get, program, run_to_end, seed, text, try_get, wait_for};

/// A collection `notes` that is split with one declaration and served with others.
struct Notes {
    dir: TempDir,
    secret: String,
}

/// Returns the first declaration of `notes`.
fn declared() -> Value {
    json!({
        "name": "notes",
        "ids": "record",
        "fields": [
            { "name": "title", "shape": { "line": { "most": 20 } } },
            { "name": "mood", "shape": { "line": { "most": 20 } }, "required": false },
            { "name": "stars", "shape": "number", "required": false }
        ],
        "indexes": [{ "number": 1, "field": "title", "route": "titled" }]
    })
}

fn index(number: u8, field: &str, route: &str) -> Value {
    json!({ "number": number, "field": field, "route": route })
}

/// Returns the declaration with other indexes.
fn indexed(indexes: &[Value]) -> Value {
    let mut declaration = declared();
    declaration["indexes"] = indexes.into();
    declaration
}

impl Notes {
    fn split(notes: &[Value]) -> Self {
        let mut made = Self { dir: tempfile::tempdir().unwrap(), secret: String::new() };
        made.declare(&declared());
        fs::write(made.path("db.json"), json!({ "notes": notes }).to_string()).unwrap();
        let (code, report) = made.seed(&["--plan", "plan", "--data", "data", "--input", "db.json"]);
        assert_eq!(code, Some(0), "{report}");
        let (_, token) = made.seed(&["token", "notes", "--plan", "plan", "--file", "tokens"]);
        made.secret = token.lines().next().unwrap().to_owned();
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn declare(&self, declaration: &Value) {
        declare(&self.path("plan"), &[("notes", declaration.to_string())]);
    }

    /// Runs `seed` in the folder of the test.
    fn seed(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let paths = ["plan", "data", "tokens", "db.json", "saved", "restored", "newer.json"];
        let arguments = arguments.iter().map(|argument| match paths.contains(argument) {
            true => self.path(argument).into_os_string(),
            false => argument.into(),
        });
        let output = seed(arguments);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    fn sound(&self, data: &str) {
        let (code, report) = self.seed(&["verify", "--data", data]);
        assert_eq!(code, Some(0), "{report}");
    }

    fn command(&self, data: &str) -> Command {
        let mut command = Command::new(program("collection"));
        command.arg("--declaration").arg(self.path("plan/notes/collection.json"));
        command.arg("--data").arg(self.path(data).join("notes")).args(["--listen", "127.0.0.1:0"]);
        command.arg("--write-token-file").arg(self.path("tokens"));
        command
    }

    /// Starts the service with `declaration` and waits until it is ready.
    fn serve(&self, declaration: &Value) -> Service<'_> {
        self.serve_in("data", declaration)
    }

    fn serve_in(&self, data: &str, declaration: &Value) -> Service<'_> {
        self.declare(declaration);
        let mut process = Process::start(&mut self.command(data));
        let address: SocketAddr = process.await_line(" on http://").trim().parse().unwrap();
        wait_for("the service to be ready", || {
            assert_eq!(get(address, "/live").0, 200);
            get(address, "/ready").0 == 200
        });
        Service { notes: self, process, address }
    }

    /// Checks that the service does not start with `declaration`; returns its messages.
    fn refused(&self, declaration: &Value) -> String {
        self.declare(declaration);
        let output = run_to_end(&mut self.command("data"));
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        text(&output.stderr)
    }
}

struct Service<'n> {
    notes: &'n Notes,
    process: Process,
    address: SocketAddr,
}

impl Service<'_> {
    fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = get(self.address, path);
        (status, body)
    }

    /// Returns the ids of the records in an answer.
    fn ids(&self, path: &str) -> Vec<u64> {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        let records: Vec<Value> = serde_json::from_str(&body).unwrap();
        records.iter().map(|record| record["id"].as_u64().unwrap()).collect()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.notes.secret));
        let mut answer = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// Ends it in order; returns its log.
    fn end(mut self) -> String {
        self.process.signal("TERM");
        assert!(self.process.wait().success(), "{}", self.process.log());
        self.process.log()
    }
}

fn three() -> Vec<Value> {
    vec![
        json!({ "id": 1, "title": "a", "mood": "glad" }),
        json!({ "id": 2, "title": "b", "mood": "sad", "stars": 3 }),
        json!({ "id": 5, "title": "a", "stars": 3 }),
    ]
}

#[test]
fn a_wider_limit_and_an_optional_field_leave_existing_records_unchanged() {
    let notes = Notes::split(&three());
    let mut wider = declared();
    wider["fields"][0]["shape"]["line"]["most"] = 60.into();
    wider["fields"].as_array_mut().unwrap().push(json!({ "name": "more", "shape": "boolean", "required": false }));
    wider["indexes"][0]["route"] = "called".into();
    let service = notes.serve(&wider);
    assert_eq!(service.ids("/api/notes/called/a"), [1, 5]);
    assert_eq!(
        service.ask("PATCH", "/api/notes/1", &json!({ "title": "x".repeat(50), "more": true }).to_string()).0,
        200
    );
    assert!(!service.end().contains("building"));
    notes.sound("data");
}

#[test]
fn existing_records_are_served_despite_a_narrower_limit() {
    let notes = Notes::split(&[json!({ "id": 1, "title": "rather long", "stars": 1 })]);
    let mut narrower = declared();
    narrower["fields"][0]["shape"]["line"]["most"] = 5.into();
    let service = notes.serve(&narrower);
    assert_eq!(service.ids("/api/notes/titled/rather%20long"), [1]);
    assert_eq!(service.ask("PATCH", "/api/notes/1", r#"{"stars":2}"#).0, 200);
    assert_eq!(service.ask("PATCH", "/api/notes/1", r#"{"title":"longer"}"#).0, 422);
    assert_eq!(service.ask("POST", "/api/notes", r#"{"title":"longer"}"#).0, 422);
    assert_eq!(service.ids("/api/notes/titled/rather%20long"), [1]);
    service.end();
    notes.sound("data");
}

#[test]
fn records_without_a_newly_required_field_are_served_and_can_be_written_with_it() {
    let notes = Notes::split(&three());
    let mut required = declared();
    required["fields"][1]["required"] = true.into();
    let service = notes.serve(&required);
    assert_eq!(service.ids("/api/notes"), [1, 2, 5]);
    let (status, body) = service.ask("PATCH", "/api/notes/5", r#"{"stars":4}"#);
    assert!(status == 422 && body.contains(r#"{"pointer":"/mood","detail":"must be given"}"#), "{body}");
    assert_eq!(service.ask("PUT", "/api/notes/5", r#"{"title":"a"}"#).0, 422);
    assert_eq!(service.ask("PATCH", "/api/notes/5", r#"{"mood":"calm","title":"c"}"#).0, 200);
    assert_eq!((service.ids("/api/notes/titled/a"), service.ids("/api/notes/titled/c")), (vec![1], vec![5]));
    service.end();
    notes.sound("data");
    // A record without it can be deleted, too.
    let mut required = declared();
    required["fields"][2]["required"] = true.into();
    let service = notes.serve(&required);
    assert_eq!(service.ask("DELETE", "/api/notes/1", "").0, 204);
    assert_eq!((service.ids("/api/notes"), service.get("/api/notes/titled/a").1), (vec![2, 5], "[]".to_owned()));
    service.end();
    notes.sound("data");
}

#[test]
fn records_that_do_not_fit_a_fields_new_shape_are_served_but_not_in_its_index() {
    let notes = Notes::split(&three());
    // Now titles are ids of notes, and moods are numbers.
    let mut other = indexed(&[index(2, "title", "on")]);
    other["fields"][0]["shape"] = json!({ "reference": { "to": "notes" } });
    other["fields"][1]["shape"] = "number".into();
    let service = notes.serve(&other);
    assert_eq!(service.ids("/api/notes"), [1, 2, 5]);
    assert_eq!(service.get("/api/notes/1").1, r#"{"id":1,"mood":"glad","title":"a"}"#);
    let (status, body) = service.ask("PATCH", "/api/notes/1", r#"{"title":2}"#);
    assert!(status == 422 && body.contains("/mood") && !body.contains("/title"), "{body}");
    let (status, body) = service.ask("PATCH", "/api/notes/1", r#"{"mood":7}"#);
    assert!(status == 422 && body.contains("/title") && !body.contains("/mood"), "{body}");
    assert_eq!(service.ask("PATCH", "/api/notes/1", r#"{"mood":null,"title":2}"#).0, 200);
    assert_eq!(service.ask("PUT", "/api/notes/5", r#"{"title":2,"mood":7}"#).0, 200);
    assert_eq!(service.ids("/api/notes/on/2"), [1, 5]);
    assert_eq!(service.ask("DELETE", "/api/notes/2", "").0, 204);
    let log = service.end();
    assert!(
        log.contains(r#"3 records are served but not in the index "on": "title" is not one of the integer ids it lists; the first is record 1"#),
        "{log}"
    );
    notes.sound("data");
    let (code, report) = notes.seed(&["join", "--data", "data"]);
    assert_eq!((code, report.contains(r#"{"id":1,"title":2}"#)), (Some(0), true), "{report}");
}

#[test]
fn a_new_index_is_built_before_the_service_is_ready() {
    let notes = Notes::split(&three());
    let service = notes.serve(&indexed(&[index(1, "title", "titled"), index(7, "mood", "feeling")]));
    assert_eq!((service.ids("/api/notes/feeling/sad"), service.ids("/api/notes/titled/a")), (vec![2], vec![1, 5]));
    assert_eq!(service.ask("PATCH", "/api/notes/5", r#"{"mood":"sad"}"#).0, 200);
    assert_eq!(service.ids("/api/notes/feeling/sad"), [2, 5]);
    let log = service.end();
    assert!(log.contains(r#"building new indexes: "feeling", of 3 records"#), "{log}");
    notes.sound("data");
    // `seed` has the older declaration and still keeps the index; so does a backup.
    fs::write(
        notes.path("newer.json"),
        json!({ "notes": [three()[0], three()[1], { "id": 9, "title": "n", "mood": "sad" }] }).to_string(),
    )
    .unwrap();
    let (code, report) = notes.seed(&["--data", "data", "--input", "newer.json", "--prefer", "monolith"]);
    assert_eq!(code, Some(0), "{report}");
    notes.sound("data");
    let (code, report) = notes.seed(&["backup", "--data", "data", "--output", "saved"]);
    assert_eq!(code, Some(0), "{report}");
    let (code, report) = notes.seed(&["restore", "--backup", "saved", "--data", "restored"]);
    assert_eq!(code, Some(0), "{report}");
    notes.sound("restored");
    for data in ["data", "restored"] {
        let service = notes.serve_in(data, &indexed(&[index(1, "title", "titled"), index(7, "mood", "feeling")]));
        assert_eq!(service.ids("/api/notes/feeling/sad"), [2, 9], "{data}");
        assert!(!service.end().contains("building"), "{data}");
    }
    let plan = ["--plan", "plan", "--data", "data", "--input"];
    for input in ["newer.json", "db.json"] {
        let (code, report) = notes.seed(&[&plan[..], &[input]].concat());
        assert_eq!(code, Some(0), "{report}");
    }
    notes.sound("data");
}

#[test]
fn a_removed_index_leaves_nothing_to_the_next_one_with_its_number() {
    let notes = Notes::split(&three());
    let log = notes.refused(&indexed(&[index(1, "mood", "feeling")]));
    assert!(
        log.contains(
            r#"index 1 lists the texts of the field "title", and is now declared for the texts of "mood"; give"#
        ),
        "{log}"
    );
    notes.serve(&declared()).end();
    let service = notes.serve(&indexed(&[]));
    assert_eq!(service.get("/api/notes/titled/a").0, 404);
    assert_eq!(service.ask("PATCH", "/api/notes/1", r#"{"title":"z"}"#).0, 200);
    service.end();
    notes.sound("data");
    let service = notes.serve(&indexed(&[index(1, "mood", "feeling")]));
    assert_eq!(service.ids("/api/notes/feeling/glad"), [1]);
    for title in ["a", "b", "z"] {
        assert_eq!(service.get(&format!("/api/notes/feeling/{title}")).1, "[]");
    }
    service.end();
    notes.sound("data");
    // The first index works again.
    notes.serve(&indexed(&[])).end();
    let service = notes.serve(&declared());
    assert_eq!((service.ids("/api/notes/titled/a"), service.ids("/api/notes/titled/z")), (vec![5], vec![1]));
    service.end();
    notes.sound("data");
}

#[test]
fn an_index_becomes_unique_only_if_the_records_differ() {
    let notes = Notes::split(&three());
    let unique = |number: u8, field: &str| json!({ "number": number, "field": field, "route": "only", "answers": "one", "unique": true });
    for (number, field, before) in [(1, "title", vec![]), (4, "title", vec![index(1, "title", "titled")])] {
        let log = notes.refused(&indexed(&[before, vec![unique(number, field)]].concat()));
        assert!(
            log.contains(r#"the index "only" is declared as unique, but the records 1 and 5 have the same "title""#),
            "{log}"
        );
        notes.sound("data");
    }
    let service = notes.serve(&indexed(&[index(1, "title", "titled"), unique(4, "mood")]));
    assert_eq!(service.get("/api/notes/only/sad").0, 200);
    assert_eq!(service.ask("PATCH", "/api/notes/5", r#"{"mood":"sad"}"#).0, 409);
    assert_eq!(service.ask("PATCH", "/api/notes/5", r#"{"title":"c"}"#).0, 200);
    service.end();
    let service = notes.serve(&indexed(&[unique(1, "title"), index(4, "mood", "feeling")]));
    assert_eq!(service.ask("PATCH", "/api/notes/5", r#"{"title":"b","mood":"sad"}"#).0, 409);
    service.end();
    notes.sound("data");
}

#[test]
fn a_changed_id_rule_or_name_is_refused() {
    let notes = Notes::split(&three());
    for rule in ["position", "text", "single"] {
        let mut other = declared();
        other["ids"] = rule.into();
        let log = notes.refused(&other);
        assert!(
            log.contains(&format!(r#"its ids were declared as "record", and are now as "{rule}"; declare them"#)),
            "{log}"
        );
    }
    let mut other = declared();
    other["name"] = "memos".into();
    assert!(notes.refused(&other).contains("this database holds notes, not memos"));
    notes.serve(&declared()).end();
    notes.sound("data");
}

#[test]
fn a_service_killed_while_it_builds_an_index_never_serves_a_part_of_it() {
    const RECORDS: u64 = 21_000;
    let moods: Vec<String> = (0..7).map(|n| format!("m{n}")).collect();
    let all: Vec<Value> = (1..=RECORDS)
        .map(|id| json!({ "id": id, "title": format!("t{id}"), "mood": moods[id as usize % 7] }))
        .collect();
    let notes = Notes::split(&all);
    let more = indexed(&[index(1, "title", "titled"), index(2, "mood", "feeling")]);
    let check = |address: SocketAddr| {
        // The index is not ready or whole. `None` if the service does not listen yet.
        let (status, _, body) = try_get(address, "/api/notes/feeling/m3")?;
        if status == 503 {
            assert!(body.contains("are being built"), "{body}");
            return Some(false);
        }
        let listed: Vec<Value> = serde_json::from_str(&body).unwrap();
        assert_eq!(listed.len() as u64, RECORDS / 7, "a part is served");
        Some(true)
    };
    let mut built = 0;
    for round in 0..20 {
        notes.declare(&more);
        let mut process = Process::start(&mut notes.command("data"));
        let address: SocketAddr = process.await_line(" on http://").trim().parse().unwrap();
        check(address);
        thread::sleep(Duration::from_millis(fastrand::u64(0..1000)));
        built += usize::from(check(address) == Some(true));
        process.signal("KILL");
        process.wait();
        if round % 4 == 3 {
            notes.sound("data");
        }
        if process.log().contains(": built ") {
            // Drops the index, so that the next round builds it from the beginning.
            notes.serve(&declared()).end();
        }
    }
    eprintln!("{built} of 20 rounds were killed after the build");
    let service = notes.serve(&more);
    assert_eq!(check(service.address), Some(true));
    assert_eq!(service.ids("/api/notes").len() as u64, RECORDS);
    service.end();
    notes.sound("data");
    assert_eq!(notes.seed(&["verify", "--data", "data", "--input", "db.json"]).0, Some(0));
}

#[test]
fn the_collection_program_reads_its_tokens_again_at_sighup() {
    let notes = Notes::split(&three());
    let service = notes.serve(&declared());
    assert_eq!(service.ask("PATCH", "/api/notes/1", r#"{"stars":1}"#).0, 200);
    fs::write(notes.path("tokens"), "# nobody\n").unwrap();
    service.process.signal("HUP");
    wait_for("the token to be revoked", || service.ask("PATCH", "/api/notes/1", r#"{"stars":2}"#).0 == 401);
    assert_eq!(service.ask("PATCH", "/api/notes/1", r#"{"stars":3}"#).0, 401);
    assert!(!service.get("/api/notes/1").1.contains("\"stars\":3"));
    let log = service.end();
    assert!(!log.contains("ERROR"), "{log}");
}
