//! Collections with text ids and collections of a single record, as in files of json-server: from the proposed plan to
//! a newer file and back.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use ::seed::commands::split::split_and_verify;
use ::seed::conflict::{Merge, Side};
use ::seed::options::Options;
use ::seed::plan::Plan;
use ::seed::scoped::Scoped;
use fastrand::Rng;
use percent_encoding::percent_decode_str;
use record::model::{Collection, Records};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{Change, Purpose, Store, Writer};
use world::changes::joined;
use world::liar::{Answer, Server};
use world::posts::Client;
use world::{Process, declare, program, seed, text};

/// A split by a proposed plan.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// Proposes a plan for `source` and splits by it.
    fn split(source: &Value) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        let input = world.write("db.json", source);
        done(&["plan", "--from", &input, "--output", &world.path("plan")]);
        done(&["--plan", &world.path("plan"), "--input", &input, "--data", &world.path("data")]);
        world.is(source);
        done(&["verify", "--data", &world.path("data"), "--input", &input]);
        // The same file again changes nothing.
        let report = done(&["--input", &input, "--data", &world.path("data")]);
        assert!(report.contains("already holds the split"), "{report}");
        world
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn write(&self, name: &str, value: &Value) -> String {
        fs::write(self.dir.path().join(name), value.to_string()).unwrap();
        self.path(name)
    }

    /// Checks that all is sound and joins to `expected`.
    fn is(&self, expected: &Value) {
        done(&["verify", "--data", &self.path("data")]);
        let back: Value = serde_json::from_str(&joined(&self.data())).unwrap();
        assert_eq!(back, *expected);
    }

    fn update(&self, newer: &Value, more: &[&str]) -> (Option<i32>, String) {
        let newer = self.write("newer.json", newer);
        run(&[&["--input", &newer, "--data", &self.path("data")], more].concat())
    }

    /// Starts the service of a collection.
    fn serve(&self, name: &str) -> (Process, Client) {
        let (tokens, secret) = (self.dir.path().join(format!("tokens-{name}")), secret_of(name));
        let digest: String = Sha256::digest(&secret).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&tokens, format!("test {digest}\n")).unwrap();
        let mut command = Command::new(program("collection"));
        command.arg("--declaration").arg(self.dir.path().join("plan").join(name).join("collection.json"));
        command.arg("--data").arg(self.data().join(name)).arg("--write-token-file").arg(tokens);
        let mut service = Process::start(command.args(["--listen", "127.0.0.1:0"]));
        let address = service.await_line(" on http://").trim().parse().unwrap();
        (service, Client::with_secret(address, &secret))
    }
}

fn secret_of(name: &str) -> String {
    format!("{name}_of_a_test")
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

fn stop(mut service: Process) {
    service.signal("TERM");
    assert!(service.wait().success());
}

fn got(client: &Client, path: &str) -> Value {
    let answer = client.get(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

fn send(client: &Client, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.send(method, path, &[], &body);
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
    serde_json::from_str(&answer.body).unwrap_or_default()
}

const UUID: &str = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d";

fn blog() -> Value {
    json!({
        "posts": [
            {"id": "k3f9", "title": "Hello, world", "views": 100, "tags": ["a", "b"]},
            {"id": UUID, "title": "Second", "views": 1.5},
            {"id": 7, "title": "A number", "views": 0}
        ],
        "comments": [
            {"id": "zz01", "text": "first", "postId": "k3f9"},
            {"id": "zz02", "text": "second", "postId": 7},
            {"id": "zz03", "text": "lost", "postId": "gone"},
            {"id": "zz04", "text": "at large", "postId": null}
        ],
        "profile": {"name": "typicode", "links": {"home": "/"}}
    })
}

#[test]
fn a_blog_is_split_served_written_to_and_updated_while_served() {
    let world = World::split(&blog());
    let manifest: Value = serde_json::from_slice(&fs::read(world.data().join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["orphans"], json!({"comments_by_post": 1}));
    let strict = ["--plan", &world.path("plan"), "--input", &world.path("db.json"), "--data", &world.path("strict")];
    let (code, refused) = run(&[&strict[..], &["--strict"]].concat());
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused.contains(r#"comments: id "zz03": postId is "gone", which is not among posts"#), "{refused}");

    let (of_posts, posts) = world.serve("posts");
    let (of_comments, comments) = world.serve("comments");
    let (of_profile, profile) = world.serve("profile");
    assert_eq!(got(&posts, "/api/posts"), blog()["posts"]);
    assert_eq!(got(&posts, &format!("/api/posts/{UUID}")), blog()["posts"][1]);
    assert_eq!(got(&comments, "/api/comments/by-post/7"), json!([blog()["comments"][1]]));
    assert_eq!(got(&profile, "/api/profile"), blog()["profile"]);

    send(&posts, "PATCH", "/api/posts/k3f9", &json!({"views": 101}));
    send(&posts, "PUT", "/api/posts/7", &json!({"title": "Seven", "views": 7}));
    let made = send(&comments, "POST", "/api/comments", &json!({"text": "new", "postId": UUID}));
    send(&comments, "DELETE", "/api/comments/zz03", &Value::Null);
    send(&profile, "PATCH", "/api/profile", &json!({"name": "me"}));

    // The monolith has changed, too: another order, another title, one more record and one less.
    let mut newer = blog();
    newer["posts"][0]["title"] = "Hello again".into();
    newer["posts"].as_array_mut().unwrap().reverse();
    newer["posts"].as_array_mut().unwrap().insert(0, json!({"id": "n3w1", "title": "Newest", "views": 0}));
    newer["comments"].as_array_mut().unwrap().remove(1);
    newer["profile"]["links"]["home"] = "/me".into();
    let (code, report) = world.update(&newer, &["--json"]);
    assert_eq!(code, Some(0), "{report}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let counts =
        |name: &str| ["added", "changed", "removed", "kept", "merged"].map(|of| report[name][of].as_u64().unwrap());
    assert_eq!(counts("posts"), [1, 0, 0, 1, 1], "{report}");
    assert_eq!(counts("comments"), [0, 0, 1, 2, 0], "{report}");
    assert_eq!(counts("profile"), [0, 0, 0, 0, 1], "{report}");

    let hello = json!({"id": "k3f9", "title": "Hello again", "views": 101, "tags": ["a", "b"]});
    let seven = json!({"id": 7, "title": "Seven", "views": 7});
    let [second, newest] = [blog()["posts"][1].clone(), newer["posts"][0].clone()];
    // A service lists new records after the old ones.
    assert_eq!(got(&posts, "/api/posts"), json!([hello, second, seven, newest]));
    assert_eq!(got(&posts, "/api/posts/n3w1"), newest);
    assert_eq!(got(&profile, "/api/profile"), json!({"name": "me", "links": {"home": "/me"}}));
    assert_eq!(comments.get("/api/comments/zz02").status, 404);
    [of_posts, of_comments, of_profile].into_iter().for_each(stop);
    // `join` writes the file's order, and then the records that the service made.
    let [first, _, _, last] = [0, 1, 2, 3].map(|nth| blog()["comments"][nth].clone());
    world.is(&json!({
        "posts": [newest, seven, second, hello], "comments": [first, last, made],
        "profile": {"name": "me", "links": {"home": "/me"}}
    }));
    // Splitting the joined file gives the same again.
    let back = world.path("back.json");
    done(&["join", "--data", &world.path("data"), "--output", &back]);
    done(&["verify", "--data", &world.path("data"), "--input", &back]);
    done(&["--plan", &world.path("plan"), "--input", &back, "--data", &world.path("again")]);
    assert_eq!(joined(&world.dir.path().join("again")), fs::read_to_string(&back).unwrap());
    let report = done(&["--input", &back, "--data", &world.path("data"), "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["posts"]["added"], &report["posts"]["removed"]), (&0.into(), &0.into()), "{report}");
    done(&["verify", "--data", &world.path("data"), "--input", &back]);
}

#[test]
fn a_shop_has_ids_of_both_kinds_and_references_by_them() {
    let source = json!({
        "customers": [{"id": 1, "name": "Ada", "address": {"lines": ["a", {"b": null}]}}, {"id": 2, "name": "Bo"}],
        "products": [
            {"id": "1", "name": "Pen", "sizes": [1, 2, [3]], "price": 1.10},
            {"id": 2, "name": "Ink", "sizes": [], "price": 20000000000000000000.0},
            {"id": "é/ü?", "name": "Odd", "sizes": null, "price": 0}
        ],
        "orders": [
            {"id": 10, "customerId": 1, "productId": 1, "items": [{"product": "2", "count": 1}]},
            {"id": 11, "customerId": null, "productId": "2", "items": []},
            {"id": 12, "customerId": 3, "productId": "é/ü?", "items": []}
        ],
        "settings": {"id": 4, "currency": "EUR", "rates": [1.0, 1e2]}
    });
    let world = World::split(&source);
    let manifest: Value = serde_json::from_slice(&fs::read(world.data().join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["orphans"], json!({"orders_by_customer": 1, "orders_by_product": 0}));
    let (service, orders) = world.serve("orders");
    let order = |nth: usize| source["orders"][nth].clone();
    assert_eq!(got(&orders, "/api/orders/by-product/1"), json!([order(0)]));
    assert_eq!(got(&orders, "/api/orders/by-product/%C3%A9%2F%C3%BC%3F"), json!([order(2)]));
    let made = send(&orders, "POST", "/api/orders", &json!({"customerId": 2, "productId": "none", "items": []}));
    assert_eq!(made["id"], 13);
    stop(service);
    let (service, products) = world.serve("products");
    assert_eq!(got(&products, "/api/products/%C3%A9%2F%C3%BC%3F"), source["products"][2]);
    // "1" and 1 are the same id; the record keeps its own spelling.
    assert_eq!(send(&products, "PATCH", "/api/products/1", &json!({"price": 2}))["id"], "1");
    stop(service);
    let mut now = source.clone();
    now["products"][0]["price"] = 2.into();
    now["orders"].as_array_mut().unwrap().push(made);
    world.is(&now);

    // Both sides have changed the price.
    let mut newer = source.clone();
    newer["products"][0] = json!({"id": 1, "name": "Pen", "sizes": [], "price": 3});
    let conflicts = world.path("conflicts");
    let (code, report) = world.update(&newer, &["--conflicts", &conflicts]);
    assert_eq!(code, Some(5), "{report}");
    let line: Value = serde_json::from_str(fs::read_to_string(&conflicts).unwrap().trim()).unwrap();
    assert_eq!((&line["id"], &line["fields"]), (&"1".into(), &json!(["/price"])), "{line}");
    let mut line = line;
    line["take"] = json!({"id": "2", "name": "Pen", "sizes": [], "price": 4});
    let resolutions = world.write("resolutions", &line);
    let (code, report) = world.update(&newer, &["--resolutions", &resolutions]);
    assert_eq!(code, Some(3), "{report}");
    assert!(report.contains(r#"the record to take has the id "2", not "1""#), "{report}");
    line["take"]["id"] = "1".into();
    world.write("resolutions", &line);
    let (code, report) = world.update(&newer, &["--resolutions", &resolutions]);
    assert_eq!(code, Some(0), "{report}");
    now["products"][0] = line["take"].clone();
    world.is(&now);

    // A referenced record is removed.
    newer["products"].as_array_mut().unwrap().remove(2);
    newer["orders"][1]["productId"] = "nothing".into();
    let (code, report) = world.update(&newer, &["--json", "--max-removed", "1", "--strict"]);
    assert_eq!(code, Some(3), "{report}");
    for lost in ["\"é/ü?\"", "\"nothing\"", "\"none\""] {
        assert!(report.contains(&lost.replace('"', "\\\"")), "{lost}: {report}");
    }
}

#[test]
fn a_to_do_list_mixes_records_with_and_without_ids_and_has_one_profile() {
    let todo = |text: &str| json!({"text": text, "done": false});
    let source = json!({
        "todos": [todo("buy some bread"), {"id": "x9", "text": "call mum", "done": true}, todo("water all plants")],
        "profile": null
    });
    let dir = tempfile::tempdir().unwrap();
    let proposed = dir.path().join("db.json");
    fs::write(&proposed, source.to_string().replace("null", "{}")).unwrap();
    let world = World { dir };
    let input = world.write("source.json", &source);
    done(&["plan", "--from", proposed.to_str().unwrap(), "--output", &world.path("plan")]);
    done(&["--plan", &world.path("plan"), "--input", &input, "--data", &world.path("data")]);
    world.is(&source);
    let (service, todos) = world.serve("todos");
    let given = |id: u64, mut record: Value| {
        record["id"] = id.into();
        record
    };
    assert_eq!(got(&todos, "/api/todos/3"), given(3, todo("water all plants")));
    assert_eq!(todos.get("/api/todos/2").status, 404);
    stop(service);

    // One record is inserted first, one is removed, one is changed: records without ids keep the ids they were given.
    let newer = json!({
        "todos": [todo("feed the cat"), todo("water all plants twice"), {"id": "x9", "text": "call mum", "done": true}],
        "profile": {"name": "me"}
    });
    let (code, report) = world.update(&newer, &[]);
    assert_eq!(code, Some(0), "{report}");
    world.is(&newer);
    let (service, todos) = world.serve("todos");
    assert_eq!(got(&todos, "/api/todos/3"), given(3, todo("water all plants twice")));
    assert_eq!(got(&todos, "/api/todos/4"), given(4, todo("feed the cat")));
    assert_eq!(todos.get("/api/todos/1").status, 404);
    // The id is a text that spells the next number.
    send(&todos, "POST", "/api/todos", &json!({"id": "6", "text": "mine", "done": true}));
    stop(service);
    let mut newest = newer.clone();
    newest["todos"].as_array_mut().unwrap().push(todo("an entirely other thing"));
    let (code, report) = world.update(&newest, &[]);
    assert_eq!(code, Some(0), "{report}");
    let mut now = newest.clone();
    now["todos"].as_array_mut().unwrap().push(json!({"id": "6", "text": "mine", "done": true}));
    world.is(&now);
    let back = world.path("back.json");
    done(&["join", "--data", &world.path("data"), "--output", &back]);
    done(&["--plan", &world.path("plan"), "--input", &back, "--data", &world.path("again")]);
    assert_eq!(all(&world.dir.path().join("again"), "todos"), all(&world.data(), "todos"));
    let (code, report) = world.update(&json!({"todos": now["todos"], "profile": [1]}), &[]);
    assert_eq!(code, Some(3), "{report}");
    assert!(report.contains("/profile") && report.contains("expected an object or null, found an array"), "{report}");
}

#[test]
fn a_duplicate_id_is_refused_with_both_places_or_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let world = World { dir };
    let good = json!({"notes": [{"id": "a", "x": 1}, {"id": 1, "x": 2}]});
    let input = world.write("good.json", &good);
    done(&["plan", "--from", &input, "--output", &world.path("plan")]);
    // The planner does not infer a number from two values.
    let declaration = world.dir.path().join("plan/notes/collection.json");
    let declared = fs::read_to_string(&declaration).unwrap();
    assert!(declared.contains(r#""any""#), "{declared}");
    fs::write(&declaration, declared.replace(r#""any""#, r#""number""#)).unwrap();
    for (twice, reason) in [
        (json!({"id": "a", "x": 3}), r#"the id "a" is taken by /notes/0"#),
        (json!({"id": "1", "x": 3}), r#"the id "1" is taken by /notes/1"#),
    ] {
        let mut bad = good.clone();
        bad["notes"].as_array_mut().unwrap().push(twice);
        let input = world.write("bad.json", &bad);
        let arguments = ["--plan", &world.path("plan"), "--input", &input, "--data", &world.path("data")];
        let (code, refused) = run(&arguments);
        assert_eq!(code, Some(3), "{refused}");
        assert!(refused.contains(reason), "{refused}");
        let rejects = world.path("rejects");
        let (code, report) = run(&[&arguments[..], &["--replace", "--rejects", &rejects]].concat());
        assert_eq!(code, Some(7), "{report}");
        assert!(fs::read_to_string(&rejects).unwrap().contains("is taken by an earlier record"));
        world.is(&good);
        // A newer file with the duplicate is treated alike.
        bad["notes"][0]["x"] = 4.into();
        let (code, refused) = world.update(&bad, &[]);
        assert_eq!(code, Some(3), "{refused}");
        assert!(refused.contains("is taken by /notes/"), "{refused}");
        let (code, report) = world.update(&bad, &["--rejects", &rejects]);
        assert_eq!(code, Some(7), "{report}");
        let mut now = good.clone();
        now["notes"][0]["x"] = 4.into();
        world.is(&now);
    }
    // A record that is bad in the newer file stays as it was.
    let (code, report) = world
        .update(&json!({"notes": [{"id": "a", "x": true}, {"id": 1, "x": 2}]}), &["--rejects", &world.path("rejects")]);
    assert_eq!(code, Some(7), "{report}");
    assert!(report.contains("id \"a\""), "{report}");
}

/// Returns all records of a collection with their internal numbers.
fn all(data: &Path, name: &str) -> Vec<(u64, String)> {
    let collection = of_data(data, name);
    let store = Store::open(&data.join(name).join("db"), collection, Purpose::Serving).unwrap();
    let record = |record: Result<(record::id::Id, store::Stored), _>| {
        let (id, stored) = record.unwrap();
        (id.get(), text(stored.json()))
    };
    store.records().map(record).collect()
}

fn of_data(data: &Path, name: &str) -> Collection {
    ::seed::manifest::Manifest::read(data).unwrap().unwrap().plan().named(name).unwrap()
}

/// Changes records as their service does: puts the record, or removes it if `None`.
fn change(data: &Path, collection: Collection, changes: &BTreeMap<String, Option<String>>) {
    let store = Store::open(&data.join(collection.name()).join("db"), collection, Purpose::Serving).unwrap();
    let mut writer = Writer::new(&store).unwrap();
    let (mut records, mut gone) = (Records::new(collection, 0), Vec::new());
    for (id, json) in changes {
        let number = store.number_of(id).unwrap();
        match json {
            Some(json) => {
                let number = number.or_else(|| writer.next_id());
                records.push_given(json, None, number).unwrap();
            }
            None => gone.extend(number.map(Change::Remove)),
        }
    }
    let changes: Vec<Change> =
        records.iter().map(|record| Change::Put(record, writer.next_revision())).chain(gone).collect();
    writer.apply(&changes).unwrap();
    store.sync().unwrap();
}

/// Returns a record with `id`, which is sometimes spelled as a number.
fn note(random: &mut Rng, id: &str) -> String {
    let number = id.parse::<u64>().is_ok() && random.bool();
    let id = if number { id.to_owned() } else { format!("{id:?}") };
    format!(r#"{{"id":{id},"text":"{}"}}"#, random.u32(..4))
}

fn id_of(record: &str) -> String {
    let record: Value = serde_json::from_str(record).unwrap();
    record["id"].as_str().map_or_else(|| record["id"].to_string(), str::to_owned)
}

#[test]
fn random_changes_of_a_file_and_a_service_lose_and_duplicate_no_record() {
    let declaration = r#"{"name":"notes","ids":"text","fields":[{"name":"text","shape":{"text":{"most":9}}}]}"#;
    for round in 0..8 {
        let mut random = Rng::with_seed(round);
        let dir = tempfile::tempdir().unwrap();
        let [plan, data, input] = ["plan", "data", "db.json"].map(|name| dir.path().join(name));
        declare(&plan, &[("notes", declaration)]);
        let notes = Plan::read(&plan).unwrap().named("notes").unwrap();
        let prefers = random.bool();
        let options = Options {
            plan: Some(plan),
            merge: Merge::Records,
            prefer: vec![Scoped::all(if prefers { Side::Monolith } else { Side::Service })],
            max_removed: vec![Scoped::all(u64::MAX)],
            ..Options::default()
        };
        let ids: Vec<String> = (0..14).map(|n| if n % 3 == 0 { n.to_string() } else { format!("id{n}") }).collect();
        // The file's records in order, those of its last version, and the service's.
        let mut file: Vec<String> = Vec::new();
        let mut base: BTreeMap<String, String> = BTreeMap::new();
        let mut service: BTreeMap<String, String> = BTreeMap::new();
        for step in 0..8 {
            for _ in 0..random.usize(..5) {
                let id = random.choice(&ids).unwrap();
                let there = file.iter().position(|record| id_of(record) == **id);
                match (there, random.u8(..3)) {
                    (Some(nth), 0) => drop(file.remove(nth)),
                    (Some(nth), _) => file[nth] = note(&mut random, id),
                    (None, _) => file.insert(random.usize(..=file.len()), note(&mut random, id)),
                }
            }
            if random.u8(..4) == 0 {
                random.shuffle(&mut file);
            }
            let text = format!("{{\"notes\":[{}]}}", file.join(","));
            let is_new = fs::read_to_string(&input).ok().as_ref() != Some(&text);
            fs::write(&input, text).unwrap();
            split_and_verify(&input, &data, &options).unwrap_or_else(|error| panic!("{round}, {step}: {error}"));

            let now: BTreeMap<String, String> = file.iter().map(|record| (id_of(record), record.clone())).collect();
            let mut expected = BTreeMap::new();
            for id in &ids {
                let [was, there, own] = [&base, &now, &service].map(|versions| versions.get(id));
                let becomes = match () {
                    () if there == was => own,
                    () if own == was || own == there || prefers => there,
                    () => own,
                };
                expected.extend(becomes.map(|record| (id.clone(), record.clone())));
            }
            (base, service) = (now, expected);
            let found = all(&data, "notes");
            let by_id: BTreeMap<String, String> =
                found.iter().map(|(_, record)| (id_of(record), record.clone())).collect();
            assert_eq!((by_id.len(), &by_id), (found.len(), &service), "{round}, {step}");
            // The file's order, and then the other records.
            let mut order: Vec<String> = file.iter().map(|record| id_of(record)).collect();
            order.retain(|id| service.contains_key(id));
            let others = found.iter().map(|(_, record)| id_of(record)).filter(|id| !base.contains_key(id));
            order.extend(others.collect::<Vec<_>>());
            let back: Value = serde_json::from_str(&joined(&data)).unwrap();
            let back: Vec<String> =
                back["notes"].as_array().unwrap().iter().map(|record| id_of(&record.to_string())).collect();
            // If the file is unchanged, recreated records stay after the others.
            assert!(!is_new || back == order, "{round}, {step}: {back:?} {order:?}");
            if step % 4 == 3 {
                done(&["verify", "--data", data.to_str().unwrap()]);
            }

            let mut changes = BTreeMap::new();
            for _ in 0..random.usize(..4) {
                let id = random.choice(&ids).unwrap();
                let json = (random.u8(..3) > 0).then(|| note(&mut random, id));
                changes.insert(id.clone(), json);
            }
            change(&data, notes, &changes);
            if random.bool() {
                // Creates the deleted records again, as other records.
                for (id, json) in changes.iter_mut().filter(|(_, json)| json.is_none()) {
                    *json = Some(note(&mut random, id));
                }
                change(&data, notes, &changes);
            }
            for (id, json) in changes {
                match json {
                    Some(json) => drop(service.insert(id, json)),
                    None => drop(service.remove(&id)),
                }
            }
        }
    }
}

/// Writes these records until each is created or its id is taken; returns the created ones.
fn write_all(client: &Client, records: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut made = Vec::new();
    for (id, record) in records {
        loop {
            let answer = client.send("POST", "/api/notes", &[], &record);
            match answer.status {
                201 => made.push((id.clone(), answer.body)),
                409 => assert!(answer.body.contains("Another note has this id"), "{}", answer.body),
                // The run holds this record.
                503 => {
                    assert!(answer.body.contains("is about to change this record"), "{}", answer.body);
                    continue;
                }
                _ => panic!("{id}: {answer:?}"),
            }
            break;
        }
    }
    made
}

#[test]
fn an_id_used_at_once_by_a_client_and_a_newer_file_belongs_to_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let world = World { dir };
    let declaration = r#"{"name":"notes","ids":"text","fields":[{"name":"by","shape":{"line":{"most":9}}}]}"#;
    declare(&world.dir.path().join("plan"), &[("notes", declaration)]);
    let note = |id: &str, by: &str| format!(r#"{{"id":"{id}","by":"{by}"}}"#);
    let file = |ids: &[String]| {
        let notes: Vec<String> = ids.iter().map(|id| note(id, "file")).collect();
        let path = world.path("db.json");
        fs::write(&path, format!(r#"{{"notes":[{}]}}"#, notes.join(","))).unwrap();
        path
    };
    let mut ids = vec!["first".to_owned()];
    let data = world.path("data");
    done(&["--plan", &world.path("plan"), "--input", &file(&ids), "--data", &data]);
    let (service, client) = world.serve("notes");
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    let (mut refused, mut of_file) = (0, 0);
    for round in 0..12 {
        let new: Vec<String> = (0..20).map(|nth| format!("{round}.{nth}")).collect();
        ids.extend(new.iter().cloned());
        let input = file(&ids);
        let has_ended = AtomicBool::new(false);
        let of_round: Vec<Vec<(String, String)>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..4_u64)
                .map(|writer| {
                    let mut random = Rng::with_seed(round * 4 + writer);
                    let records = random.choose_multiple(new.iter(), 4).into_iter();
                    let records = records.map(|id| (id.clone(), note(id, &format!("writer {writer}")))).collect();
                    let (client, staged, has_ended) = (&client, world.data().join("notes/next"), &has_ended);
                    scope.spawn(move || {
                        // One writer starts at once, the others when the run is about to hold its records.
                        while writer > 0 && !staged.exists() && !has_ended.load(Ordering::Relaxed) {
                            thread::yield_now();
                        }
                        write_all(client, records)
                    })
                })
                .collect();
            let (code, report) = run(&["--input", &input, "--data", &data, "--prefer", "service"]);
            // Exit code 5: the writers were faster each time.
            assert!(code == Some(0) || code == Some(5) && report.contains("the same records"), "{round}: {report}");
            has_ended.store(true, Ordering::Relaxed);
            refused += usize::from(code == Some(5));
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        for (id, record) in of_round.into_iter().flatten() {
            assert_eq!(made.insert(id.clone(), record), None, "{id} was made twice");
        }
        // Records that no client created come from the file.
        let (code, report) = run(&["--input", &input, "--data", &data, "--prefer", "service"]);
        assert_eq!(code, Some(0), "{round}: {report}");
        let expected = ids.iter().map(|id| (id.clone(), made.get(id).cloned().unwrap_or_else(|| note(id, "file"))));
        let expected: BTreeMap<String, String> = expected.collect();
        let list = got(&client, "/api/notes");
        let listed: Vec<String> = list.as_array().unwrap().iter().map(|note| id_of(&note.to_string())).collect();
        assert_eq!(listed.len(), expected.len(), "{round}: {listed:?}");
        for (id, record) in &expected {
            assert_eq!(&client.get(&format!("/api/notes/{id}")).body, record, "{round}");
            assert!(listed.contains(id), "{round}: {id} is not listed");
        }
        of_file = ids.len() - made.len();
    }
    let (of_clients, held) = (made.len(), service.log().matches("status=503").count());
    eprintln!(
        "{of_clients} ids are clients', {of_file} the file's; {held} writes waited, {refused} updates were overtaken"
    );
    stop(service);
    done(&["verify", "--data", &data]);
    let back: Value = serde_json::from_str(&joined(&world.data())).unwrap();
    assert_eq!(back["notes"].as_array().unwrap().len(), ids.len());
}

#[test]
fn a_backup_of_services_with_text_ids_comes_back_as_it_was() {
    let world = World::split(&blog());
    let services = ["posts", "comments", "profile"].map(|name| world.serve(name));
    send(&services[1].1, "DELETE", "/api/comments/zz01", &Value::Null);
    let made = send(&services[1].1, "POST", "/api/comments", &json!({"id": "own", "text": "new", "postId": "k3f9"}));
    fs::write(world.dir.path().join("secrets"), ["posts", "comments", "profile"].map(secret_of).join("\n")).unwrap();
    let mut arguments = vec!["backup".to_owned()];
    for (process, _) in &services {
        arguments.extend(["--from".to_owned(), format!("http://{}", address_of(process))]);
    }
    let [data, secrets, backup, restored] = ["data", "secrets", "backup", "restored"].map(|name| world.path(name));
    arguments.extend(["--data", &data, "--secrets", &secrets, "--output", &backup].map(str::to_owned));
    let output = seed(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    services.into_iter().for_each(|(service, _)| stop(service));
    done(&["verify", "--data", &data, "--against", &backup]);
    done(&["restore", "--backup", &backup, "--data", &restored]);
    for name in ["posts", "comments", "profile"] {
        assert_eq!(all(Path::new(&restored), name), all(&world.data(), name));
    }
    let mut expected = blog();
    expected["comments"].as_array_mut().unwrap().remove(0);
    expected["comments"].as_array_mut().unwrap().push(made);
    world.is(&expected);
    let output = seed(["join", "--backup", &backup]);
    assert_eq!(text(&output.stdout), joined(&world.data()));
    assert_eq!(joined(Path::new(&restored)), joined(&world.data()));
    // The restored data takes a newer file.
    let mut newer = blog();
    newer["posts"][1]["views"] = 9.into();
    let newer = world.write("newer.json", &newer);
    done(&["--input", &newer, "--data", &restored]);
    done(&["verify", "--data", &restored]);
}

/// A change that turns a true answer into a lie.
type Lie = fn(String) -> String;

/// Starts a monolith that serves `source` as json-server does.
fn monolith(source: &Value) -> Server {
    let source = source.clone();
    Server::start(move |path| {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let found = match parts[..] {
            [""] => return Answer::new(200, "text/plain; charset=utf-8", "Ready to receive requests"),
            ["api"] => return Answer::new(200, "text/plain; charset=utf-8", "API ready to receive requests"),
            ["api", name] => source.get(name),
            ["api", name, id] => {
                let id = percent_decode_str(id).decode_utf8().unwrap();
                source[name].as_array().and_then(|list| list.iter().find(|record| id_of(&record.to_string()) == *id))
            }
            _ => None,
        };
        match found {
            Some(found) => Answer::new(200, "application/json; charset=utf-8", &found.to_string()),
            None => Answer::new(404, "text/plain; charset=utf-8", "Not Found"),
        }
    })
}

#[test]
fn a_comparison_requests_records_by_text_ids_and_single_records() {
    let mut source = blog();
    source["posts"].as_array_mut().unwrap().push(json!({"id": "é/?", "title": "Odd"}));
    source["posts"].as_array_mut().unwrap().push(json!({"title": "Without"}));
    let world = World::split(&source);
    let names = ["posts", "comments", "profile"];
    let running = names.map(|name| world.serve(name));
    let addresses = running.each_ref().map(|(process, _)| address_of(process));
    let services = |lie: Lie| {
        Server::start(move |path| {
            let name = path.trim_start_matches("/api/").split('/').next().unwrap_or_default();
            let nth = names.iter().position(|other| *other == name).unwrap_or(0);
            let (status, kind, body) = world::get(addresses[nth], path);
            Answer::new(status, &kind, &lie(body))
        })
    };
    let compare = |services: &Server, more: &[&str]| {
        let (monolith, services) = (monolith(&source).url(), services.url());
        let arguments = ["compare", "--json", "--quiet", "--monolith", &monolith, "--services", &services];
        let (code, report) = run(&[&arguments, more].concat());
        (code, serde_json::from_str::<Value>(&report).unwrap_or_else(|_| panic!("{report}")))
    };
    let [plan, data, input] = ["plan", "data", "db.json"].map(|name| world.path(name));
    for more in [&["--data", &data][..], &["--plan", &plan, "--input", &input], &["--plan", &plan]] {
        let (code, report) = compare(&services(|body| body), more);
        assert_eq!(code, Some(0), "{more:?}: {report}");
        // Three lists, two texts, 4 posts and the referenced one, 4 comments.
        assert_eq!((&report["paths"], &report["different"]), (&14.into(), &0.into()), "{more:?}: {report}");
        assert_eq!(report["records"]["compared"], 10, "{more:?}: {report}");
        assert_eq!(report["expected"], json!({"post_id": 1}), "{more:?}: {report}");
        assert!(report.get("not_compared").is_none(), "{report}");
    }
    let liars: [(Lie, &str); 3] = [
        (|body| body.replace("Hello", "Hullo"), "id \\\"k3f9\\\""),
        (|body| body.replace("\"zz02\"", "\"zz03\""), "zz02"),
        (|body| body.replace("typicode", "nobody"), "typicode"),
    ];
    for (lie, named) in liars {
        let (code, report) = compare(&services(lie), &["--data", &data]);
        assert_eq!(code, Some(4), "{report}");
        assert!(report["differences"].to_string().contains(named), "{named}: {report}");
    }
    running.into_iter().for_each(|(service, _)| stop(service));
}

fn address_of(service: &Process) -> SocketAddr {
    let log = service.log();
    log.lines().find_map(|line| line.split_once(" on http://")).unwrap().1.trim().parse().unwrap()
}
