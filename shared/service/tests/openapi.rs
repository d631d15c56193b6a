//! Tests of the path of the OpenAPI document. What the document says is tested in `system-tests`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use record::declaration::Declaration;
use record::sample;
use serde_json::Value;
use service::Collection;
use service::testing::App;

#[test]
fn a_service_describes_itself_below_its_collection() {
    let app = App::spawn(sample::posts(), [r#"{"thread":1,"text":"t","user":1}"#]);
    let document = app.get("/api/posts/openapi.json");
    assert_eq!((document.status, document.header("content-type")), (200, "application/json; charset=utf-8"));
    let described: Value = serde_json::from_str(&document.body).unwrap();
    assert_eq!(described["openapi"], "3.1.0");
    assert!(described["paths"]["/api/posts/in-thread/{value}"]["get"].is_object());
    assert_eq!(app.get("/api/posts/-/openapi.json").body, document.body);
    let known = [("if-none-match", document.header("etag"))];
    assert_eq!(app.send("GET", "/api/posts/openapi.json", &known, "").status, 304);
    let refused = app.request("DELETE", "/api/posts/openapi.json");
    assert_eq!((refused.status, refused.header("allow")), (405, "GET, HEAD"));
    assert_eq!(app.get("/api/posts/openapi.json?limit=1").status, 400);
}

#[test]
fn the_reference_page_loads_its_own_files_alone() {
    let app = App::spawn(sample::posts(), [r#"{"thread":1,"text":"t","user":1}"#]);
    let page = app.get("/api/posts/docs");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; script-src 'self';"));
    assert_eq!(app.get("/api/posts/-/docs/").body, page.body);
    let loaded: Vec<&str> = page.body.split(['"', ' ']).filter(|word| word.starts_with("/api/posts/-/docs/")).collect();
    assert_eq!(loaded.len(), 3, "{}", page.body);
    for path in loaded {
        let file = app.request("HEAD", path);
        let content = (file.header("content-type"), file.header("x-content-type-options"));
        assert!(content.0.starts_with("text/") && content.1 == "nosniff", "{path}: {file:?}");
        assert_eq!(app.send("HEAD", path, &[("if-none-match", file.header("etag"))], "").status, 304, "{path}");
    }
    assert_eq!(app.get("/api/posts/-/docs/other.js").status, 404);
    // No other path lets a browser run anything.
    assert_eq!(app.get("/api/posts/1").header("content-security-policy"), "");
}

#[test]
fn a_record_whose_id_is_openapi_json_can_be_read() {
    let texts = r#"{"name":"files","ids":"text","fields":[]}"#;
    let app = App::spawn(Collection::embedded(texts), [r#"{"id":"openapi.json"}"#]);
    assert_eq!(app.get("/api/files/openapi.json").body, r#"{"id":"openapi.json"}"#);
    let document: Value = serde_json::from_str(&app.get("/api/files/-/openapi.json").body).unwrap();
    assert!(document["paths"]["/api/files/{id}"]["delete"].is_object());
    assert_eq!(document["paths"]["/api/files/openapi.json"], Value::Null);
}

/// Returns a collection of notes with `more` in its declaration and in that of its route `by`.
fn notes(more: &str, of_route: &str) -> Collection {
    let json = format!(
        r#"{{"name":"notes","ids":"record"{more},"fields":[{{"name":"by","shape":"username"}},{{"name":"to","shape":"username"}}],
            "indexes":[{{"number":1,"field":"by","route":"by"{of_route}}},{{"number":2,"field":"to","route":"to"}}]}}"#
    );
    Collection::of(Declaration::read(&json).unwrap())
}

#[test]
fn what_will_be_gone_is_announced_on_its_own_paths_also_when_an_answer_is_repeated() {
    let of_route = r#","order":true,"deprecated":{"since":"2026-12-01","sunset":"2027-06-01","link":"/changes"}"#;
    let app = App::spawn(notes("", of_route), [r#"{"id":1,"by":"ada","to":"bo"}"#]);
    let announced = |path: &str| {
        let answer = app.get(path);
        ["deprecation", "sunset", "link"].map(|name| answer.header(name).to_owned())
    };
    let headers = ["@1796083200", "Tue, 01 Jun 2027 00:00:00 GMT", r#"</changes>; rel="deprecation""#];
    for path in [
        "/api/notes/by/ada",
        "/api/notes/by/ada",
        "/api/notes/by/nobody",
        "/api/notes/by/%ff",
        // The same index.
        "/api/notes?by=ada",
        "/api/notes/to/bo?b%79=ada",
        "/api/notes?sort=-by",
        "/api/notes?by_gte=ad",
    ] {
        assert_eq!(announced(path), headers, "{path}");
    }
    // A page's links stay.
    let links = app.get("/api/notes/by/ada?limit=1");
    let links: Vec<&str> = links.headers.get_all("link").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(links.len() == 2 && links[0].contains("rel=\"first\""), "{links:?}");
    for path in [
        "/api/notes",
        "/api/notes/1",
        "/api/notes/to/bo",
        "/api/notes?to=by",
        "/api/notes/by",
        "/ready",
        "/api/notes/openapi.json",
    ] {
        assert_eq!(announced(path), ["", "", ""], "{path}");
    }
    let document: Value = serde_json::from_str(&app.get("/api/notes/openapi.json").body).unwrap();
    let by = &document["paths"]["/api/notes/by/{value}"]["get"];
    assert_eq!(by["deprecated"], true);
    assert!(by["responses"]["200"]["headers"]["Sunset"].is_object());
    assert!(document["paths"]["/api/notes/to/{value}"]["get"].get("deprecated").is_none());
    let parameters = document["paths"]["/api/notes"]["get"]["parameters"].as_array().unwrap();
    let announced: Vec<&Value> =
        parameters.iter().filter(|one| one["deprecated"] == true).map(|one| &one["name"]).collect();
    assert_eq!(announced, ["by_gte", "by_gt", "by_lte", "by_lt", "by"]);
}

#[test]
fn a_whole_collection_can_be_announced_to_be_gone_at_no_known_day() {
    let app = App::spawn(notes(r#","deprecated":{"since":"1970-01-01"}"#, ""), [r#"{"id":1,"by":"ada","to":"bo"}"#]);
    for path in ["/api/notes", "/api/notes/1", "/api/notes/1", "/api/notes/to/bo", "/api/notes/2"] {
        let answer = app.get(path);
        assert_eq!((answer.header("deprecation"), answer.header("sunset")), ("@0", ""), "{path}");
    }
    assert_eq!(app.get("/").header("deprecation"), "");
}

#[test]
fn an_announcement_without_meaning_is_refused() {
    for (announcement, reason) in [
        (r#"{"since":"2027-06-01","sunset":"2026-12-01"}"#, "gone before it is deprecated"),
        (r#"{"since":"tomorrow"}"#, "no day"),
        (r#"{"since":"2026-02-30"}"#, "no day"),
        (r#"{"since":"1969-12-31"}"#, "no day"),
        (r#"{"since":"2026-12-01T00:00:00Z"}"#, "no day"),
        (r#"{"since":"2026-12-01","link":"a>\r\nx: y"}"#, "is no address"),
        (r#"{"since":"2026-12-01","until":"2027-06-01"}"#, "unknown field"),
        (r#"{}"#, "missing field"),
    ] {
        let json = format!(r#"{{"name":"n","ids":"record","fields":[],"deprecated":{announcement}}}"#);
        let error = Declaration::read(&json).unwrap_err().to_string();
        assert!(error.contains(reason), "{announcement}: {error}");
    }
    let json = r#"{"name":"n","ids":"record","deprecated":{"since":"2026-12-01","sunset":"2027-06-01"},"fields":[],"indexes":[]}"#;
    assert_eq!(serde_json::to_string(&Declaration::read(json).unwrap()).unwrap(), json);
}

#[test]
fn the_type_of_each_problem_leads_to_its_part_of_a_page() {
    let app = App::spawn(sample::posts(), [r#"{"thread":1,"text":"t","user":1}"#]);
    let page = app.get("/api/posts/-/problems");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    for (method, path) in [
        ("GET", "/api/posts/9"),
        ("GET", "/api/posts/x"),
        ("GET", "/api/posts?limits=1"),
        ("GET", "/other"),
        ("POST", "/api/posts"),
        ("TRACE", "/api/posts"),
    ] {
        let problem: Value = serde_json::from_str(&app.request(method, path).body).unwrap();
        let kind = problem["type"].as_str().unwrap();
        let (at, part) = kind.split_once('#').unwrap();
        assert_eq!(app.get(at).body, page.body, "{kind}");
        let (_, explained) = page.body.split_once(&format!("<section id=\"{part}\">")).unwrap();
        let begin = format!("\n<h2>{part}</h2>\n<p>{} {}. ", problem["status"], problem["title"].as_str().unwrap());
        assert!(explained.starts_with(&begin), "{explained}");
    }
}
