//! The pages for people, in a real browser, through the entrance.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::net::SocketAddr;

use tempfile::TempDir;
use world::browser::Page;
use world::{Process, sample, split, start_entrance, start_service};

/// The forum, behind its entrance.
struct World {
    address: SocketAddr,
    _entrance: Process,
    _services: [(Process, SocketAddr); 3],
    _folder: TempDir,
}

impl World {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        split(&sample(), folder.path());
        let services = ["users", "threads", "posts"].map(|name| start_service(name, &folder.path().join(name)));
        let (entrance, address) = start_entrance(services[0].1, services[1].1, services[2].1)?;
        Some(Self { address, _entrance: entrance, _services: services, _folder: folder })
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
    page.click("#operations-records-read .btn.execute");
    page.await_that("document.querySelector('#operations-records-read .live-responses-table .response-col_status')");
    let answer = page.evaluate("document.querySelector('#operations-records-read .live-responses-table').innerText");
    let answer = answer.as_str().unwrap();
    assert!(answer.contains("200") && answer.contains("\"id\": 1,"), "{answer}");
    page.picture("docs-tried.png");
    is_at_home(&mut page, world.address);
}
