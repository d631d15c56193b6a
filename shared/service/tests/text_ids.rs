//! Tests of collections with text ids and of single-record collections, over a real socket.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use record::model::Collection;
use service::testing::{App, bearer};

fn notes() -> Collection {
    Collection::embedded(
        r#"{
            "name": "notes", "ids": "text",
            "fields": [
                { "name": "text", "shape": { "text": { "most": 100 } } },
                { "name": "parent", "shape": { "reference": { "to": "notes", "text": true } }, "required": false }
            ],
            "indexes": [{ "number": 1, "field": "parent", "route": "below" }]
        }"#,
    )
}

fn profile() -> Collection {
    Collection::embedded(
        r#"{ "name": "profile", "ids": "single", "fields": [{ "name": "name", "shape": { "line": { "most": 9 } } }] }"#,
    )
}

struct Client<'a> {
    app: &'a App,
    collection: Collection,
}

impl Client<'_> {
    /// Sends a request. Returns the status, the body, and `Location`.
    fn ask(&self, method: &str, path: &str, body: &str, header: Option<(&str, &str)>) -> (u16, String, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.app.address))
            .header("content-type", "application/json")
            .header("authorization", bearer(self.collection));
        let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let mut answer = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_to_string().unwrap(), location.unwrap_or_default())
    }

    fn get(&self, path: &str) -> (u16, String) {
        let (status, body, _) = self.ask("GET", path, "", None);
        (status, body)
    }
}

#[test]
fn a_record_is_found_by_its_text_id_and_listed_in_the_source_order() {
    let (z, seven, none) = (
        r#"{"id":"z é/1","text":"first"}"#,
        r#"{"text":"second","id":7,"parent":"z é/1"}"#,
        r#"{"text":"third","parent":7}"#,
    );
    let app = App::spawn_writable(notes(), [z, seven, none]);
    let client = Client { app: &app, collection: notes() };
    let given = r#"{"id":3,"text":"third","parent":7}"#;
    for (path, expected) in [
        ("/api/notes", (200, format!("[{z},{seven},{given}]"))),
        ("/api/notes/z%20%C3%A9%2F1", (200, z.to_owned())),
        ("/api/notes/7", (200, seven.to_owned())),
        ("/api/notes/3", (200, given.to_owned())),
        ("/api/notes/below/z%20%C3%A9%2F1", (200, format!("[{seven}]"))),
        ("/api/notes/below/7", (200, format!("[{given}]"))),
        ("/api/notes/below/1", (200, "[]".to_owned())),
    ] {
        assert_eq!(client.get(path), expected, "{path}");
    }
    // Neither its number within the database nor another spelling is its id.
    for path in ["/api/notes/1", "/api/notes/2", "/api/notes/07", "/api/notes/Z%20%C3%A9%2F1"] {
        assert_eq!(client.get(path).0, 404, "{path}");
    }
}

#[test]
fn text_ids_are_made_or_taken_from_the_body_and_kept() {
    let app = App::spawn_writable(notes(), [r#"{"id":7,"text":"a"}"#]);
    let client = Client { app: &app, collection: notes() };
    let post = |body: &str| client.ask("POST", "/api/notes", body, None);
    assert_eq!(post(r#"{"text":"b","id":"own"}"#), (201, r#"{"text":"b","id":"own"}"#.into(), "/api/notes/own".into()));
    for (taken, id) in [(r#"{"id":"own","text":"c"}"#, "own"), (r#"{"id":"7","text":"c"}"#, "7")] {
        let (status, body, _) = post(taken);
        assert!(status == 409 && body.contains("Another note has this id."), "{id}: {body}");
    }
    for bad in
        [r#"{"id":8,"text":"c"}"#, r#"{"id":"","text":"c"}"#, r#"{"id":"a b","text":"c"}"#, r#"{"id":"..","text":"c"}"#]
    {
        let (status, body, _) = post(bad);
        assert!(status == 422 && body.contains("/id"), "{bad}: {body}");
    }
    let (status, body, location) = post(r#"{"text":"d"}"#);
    let made = location.strip_prefix("/api/notes/").unwrap();
    assert_eq!((status, body), (201, format!(r#"{{"id":"{made}","text":"d"}}"#)));
    assert!(made.len() == 16 && client.get(&location).0 == 200, "{made}");
    // The repeated request gets the same answer.
    let key = Some(("idempotency-key", "k"));
    let first = client.ask("POST", "/api/notes", r#"{"text":"e"}"#, key);
    assert_eq!(client.ask("POST", "/api/notes", r#"{"text":"e"}"#, key), first);

    // A number stays a number.
    assert_eq!(client.ask("PUT", "/api/notes/7", r#"{"text":"f"}"#, None).1, r#"{"id":7,"text":"f"}"#);
    assert_eq!(
        client.ask("PATCH", "/api/notes/own", r#"{"parent":7}"#, None).1,
        r#"{"text":"b","id":"own","parent":7}"#
    );
    assert_eq!(client.ask("PATCH", "/api/notes/own", r#"{"id":"other"}"#, None).0, 422);
    assert_eq!(client.ask("PUT", "/api/notes/new", r#"{"text":"g"}"#, None).0, 404);
    let (status, body, _) = client.ask("PUT", "/api/notes/new", r#"{"text":"g"}"#, Some(("if-none-match", "*")));
    assert_eq!((status, body), (201, r#"{"id":"new","text":"g"}"#.to_owned()));
    assert_eq!(client.ask("DELETE", "/api/notes/own", "", None).0, 204);
    assert_eq!(client.get("/api/notes/own").0, 404);
    assert_eq!(client.get("/api/notes/below/7").1, "[]");
    assert_eq!(post(r#"{"text":"h","id":"own"}"#).0, 201);
}

#[test]
fn a_single_record_is_read_and_written_at_its_collections_path() {
    let app = App::spawn_writable(profile(), [r#"{"name":"typicode","id":"any"}"#]);
    let client = Client { app: &app, collection: profile() };
    assert_eq!(client.get("/api/profile"), (200, r#"{"name":"typicode","id":"any"}"#.to_owned()));
    assert_eq!(client.get("/api/profile/1").0, 404);
    assert_eq!(client.ask("PATCH", "/api/profile", r#"{"x":1}"#, None).1, r#"{"name":"typicode","id":"any","x":1}"#);
    assert_eq!(client.ask("PUT", "/api/profile", r#"{"name":"me"}"#, None).1, r#"{"name":"me"}"#);
    assert_eq!(client.get("/api/profile"), (200, r#"{"name":"me"}"#.to_owned()));
    assert_eq!(client.ask("PUT", "/api/profile", r#"{"name":"much too long"}"#, None).0, 422);
    for (method, path) in [("POST", "/api/profile"), ("DELETE", "/api/profile")] {
        assert_eq!(client.ask(method, path, r#"{"name":"a"}"#, None).0, 405, "{method}");
    }
}
