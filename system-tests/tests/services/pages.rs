//! The pages for people, in a real browser, through the entrance.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use world::browser::Page;
use world::{Process, get, program, sample, split, start_entrance, start_writable};

/// The forum, behind its entrance.
struct World {
    address: SocketAddr,
    _entrance: Process,
    /// Users, threads and posts, each with the secret of a token.
    services: [(Process, SocketAddr, String); 3],
    _folder: TempDir,
}

impl World {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        split(&sample(), folder.path());
        let services = ["users", "threads", "posts"]
            .map(|name| start_writable(&mut Command::new(program(name)), name, folder.path(), &[]));
        let (entrance, address) = start_entrance(services[0].1, services[1].1, services[2].1)?;
        Some(Self { address, _entrance: entrance, services, _folder: folder })
    }
}

impl World {
    fn get(&self, path: &str) -> Value {
        serde_json::from_str(&get(self.address, path).2).unwrap()
    }

    /// Sends a write to the posts as another client.
    fn write(&self, method: &str, path: &str, body: &Value) {
        let request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let request = request.header("authorization", format!("Bearer {}", self.services[2].2));
        let request = request.header("content-type", "application/json").body(body.to_string()).unwrap();
        ureq::run(request).unwrap();
    }
}

/// Nothing comes from elsewhere, and the policy of the page hinders nothing that it does.
fn is_at_home(page: &mut Page, address: SocketAddr) {
    let home = format!("http://{address}/");
    let elsewhere: Vec<String> =
        page.asked().into_iter().filter(|url| !url.starts_with(&home) && !url.starts_with("data:")).collect();
    assert_eq!((elsewhere, page.errors()), (vec![], vec![]));
}

#[test]
fn the_reference_page_lists_all_operations_and_sends_requests() {
    let Some(world) = World::start() else { return };
    let Some(mut page) = Page::open(&format!("http://{}/api/posts/docs", world.address)) else { return };
    page.await_that("document.querySelectorAll('.opblock').length > 15");
    let listed =
        page.evaluate("[...document.querySelectorAll('.opblock-summary-path')].map(path => path.dataset.path)");
    let listed = listed.as_array().unwrap();
    for path in ["/api/posts", "/api/posts/{id}", "/api/posts/in-thread/{value}", "/api/posts/-/backup"] {
        assert!(listed.iter().any(|listed| listed == path), "{listed:?}");
    }
    page.picture("docs.png");

    page.click("#operations-records-read .opblock-summary-control");
    page.click_until(
        "#operations-records-read .btn.execute",
        "document.querySelector('#operations-records-read .live-responses-table .response-col_status')",
    );
    let answer = page.evaluate("document.querySelector('#operations-records-read .live-responses-table').innerText");
    let answer = answer.as_str().unwrap();
    assert!(answer.contains("200") && answer.contains("\"id\": 1,"), "{answer}");
    page.picture("docs-tried.png");
    is_at_home(&mut page, world.address);
}

/// Writes `text` into a field of the forum's page.
fn fill(page: &mut Page, selector: &str, text: &str) {
    page.await_that(&format!("document.querySelector({selector:?})"));
    page.evaluate(&format!("document.querySelector({selector:?}).value = {}", json!(text)));
}

#[test]
fn the_forums_page_reads_and_writes_in_three_services() {
    let Some(world) = World::start() else { return };
    let Some(mut page) = Page::open(&format!("http://{}/ui", world.address)) else { return };

    // A list of threads, with the names of those who began them, that grows by a page.
    page.await_that("document.querySelectorAll('main article').length > 0");
    let threads = world.get("/api/threads?sort=-id&limit=20");
    let first = format!("{} by ", threads[0]["title"].as_str().unwrap());
    let shown = page.evaluate("document.querySelector('main article').innerText");
    assert!(shown.as_str().unwrap().starts_with(&first), "{shown}");
    page.picture("ui-threads.png");

    // Who writes.
    page.evaluate("document.querySelector('#writing').open = true");
    fill(&mut page, "#person [name=name]", "mallory");
    for (name, service) in ["users", "threads", "posts"].iter().zip(&world.services) {
        fill(&mut page, &format!("#person [name={name}]"), &service.2);
    }
    page.click("#person button");
    page.await_that("document.querySelector('#person output').innerText === 'You write as mallory.'");
    let mallory = world.get("/api/users/by-username/mallory")["id"].clone();

    // A thread and a post in it, which is text whatever is in it.
    fill(&mut page, "main form input", "A thread from the page");
    page.click("main form button");
    page.await_that("document.querySelector('main h1').innerText === 'A thread from the page'");
    let thread = world.get("/api/threads?sort=-id&limit=1")[0].clone();
    assert_eq!((&thread["title"], &thread["createdBy"]), (&json!("A thread from the page"), &mallory));
    let script = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>";
    fill(&mut page, "main form textarea", script);
    page.click("main form button");
    page.await_that("document.querySelectorAll('main article').length === 1");
    let post = world.get(&format!("/api/posts/in-thread/{}", thread["id"]))[0].clone();
    assert_eq!((&post["text"], &post["user"]), (&json!(script), &mallory));
    assert_eq!(page.evaluate("document.querySelector('main article p').innerText"), script);
    assert_eq!(page.evaluate("document.title"), "Forum");

    // A change, and one that comes too late. The long text is compressed on its way, so its tag is a weak one.
    let path = format!("/api/posts/{}", post["id"]);
    let long = "word ".repeat(1000);
    let is_open = "document.querySelector('main article textarea')";
    for text in [&*long, "short"] {
        page.click_until("main article button", is_open);
        fill(&mut page, "main article textarea", text);
        page.click("main article button");
        page.await_that("!document.querySelector('main article textarea')");
        assert_eq!(world.get(&path)["text"], text);
    }
    page.picture("ui-thread.png");
    page.click_until("main article button", is_open);
    world.write("PATCH", &path, &json!({ "text": "from another client" }));
    page.click("main article button");
    page.await_that("document.querySelector('main article .error').innerText.startsWith('Somebody else')");
    assert_eq!(world.get(&path)["text"], "from another client");
    page.click("main article span:nth-of-type(2) button");
    page.await_that("document.querySelector('main article button').innerText === 'Edit'");

    // What others write appears by itself, and what they delete goes.
    page.await_that("document.querySelector('#live output').innerText.includes('mallory wrote in thread')");
    let user = world.get("/api/users?limit=1")[0].clone();
    let other = json!({ "thread": thread["id"], "text": "서울은 비가 온다", "user": user["id"] });
    world.write("POST", "/api/posts", &other);
    page.await_that("document.querySelectorAll('main article').length === 2");
    let shown = page.evaluate("document.querySelector('main article.new:last-of-type').innerText");
    let shown = shown.as_str().unwrap();
    let name = user["username"].as_str().unwrap();
    assert!(shown.starts_with("서울은 비가 온다") && shown.contains(name), "{shown}");
    page.picture("ui-live.png");
    let last = world.get("/api/posts?sort=-id&limit=1")[0]["id"].clone();

    // Words of a language without spaces between all of them are found.
    fill(&mut page, "#search input", "서울");
    page.evaluate("document.querySelector('#search').requestSubmit()");
    page.await_that(&format!(
        "document.querySelector('main h1').innerText.includes('서울') && document.querySelector('#post-{last}')"
    ));
    assert_eq!(page.evaluate("document.querySelectorAll('main article').length"), 1);
    page.picture("ui-search.png");
    world.write("DELETE", &format!("/api/posts/{last}"), &json!({}));
    page.await_that(&format!("!document.querySelector('#post-{last}')"));

    // A person, and back.
    page.evaluate(&format!("location.hash = '#/user/{mallory}'"));
    page.await_that("document.querySelector('main h1').innerText === 'mallory' && document.querySelectorAll('main article').length === 2");
    page.click("main section:nth-of-type(1) article a");
    page.await_that("document.querySelector('main h1').innerText === 'A thread from the page'");
    page.click("main article small span:nth-of-type(2) button");
    page.await_that("document.querySelectorAll('main article').length === 0");
    assert_eq!(get(world.address, &path).0, 404);

    // The browser itself logs refusals: of a name that is not taken yet, and of the late change.
    let is_expected = |error: &&String| error.contains("status of 404") || error.contains("status of 412");
    let errors: Vec<String> = page.errors().into_iter().filter(|error| !is_expected(&error)).collect();
    assert_eq!(errors, [""; 0]);
}
