//! Tests of the path of the OpenAPI document. What the document says is tested in `system-tests`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

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
