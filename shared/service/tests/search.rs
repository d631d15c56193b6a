//! Tests of `?q=`: what is found, in which order, on which page.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeSet;

use record::model::Collection;
use record::search::Query;
use serde_json::{Value, json};
use service::testing::{Answer, App, bearer};

fn notes() -> Collection {
    Collection::embedded(
        r#"{"name":"notes","ids":"record","fields":[
            {"name":"folder","shape":{"reference":{"to":"folders"}}},
            {"name":"text","shape":{"text":{"most":9999}},"search":true}],
            "indexes":[{"number":1,"field":"folder","route":"in-folder"}]}"#,
    )
}

fn note(id: u64, text: &str) -> String {
    json!({"id": id, "folder": id % 3 + 1, "text": text}).to_string()
}

fn ids(answer: &Answer) -> Vec<u64> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let records: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
    records.iter().map(|record| record["id"].as_u64().unwrap()).collect()
}

fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link").split(", ").find(|link| link.ends_with("rel=\"next\""))?;
    Some(link[1..link.find('>').unwrap()].to_owned())
}

fn write(app: &App, method: &str, path: &str, body: &str) {
    let token = bearer(notes());
    let answer = app.send(method, path, &[("authorization", &token), ("content-type", "application/json")], body);
    assert!(answer.status < 300, "{}", answer.body);
}

/// Percent-encodes a query.
fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_search_finds_old_and_new_records_and_no_changed_or_deleted_ones() {
    let app =
        App::spawn_writable(notes(), [note(1, "The kettle sings"), note(2, "서울은 비"), note(3, "a tea kettle")]);
    let found = |q: &str| ids(&app.get(&format!("/api/notes?q={}", encode(q))));
    assert_eq!(found("KETTLE"), [3, 1], "in the shorter text the word is more");
    assert_eq!(found("서울"), [2]);
    write(&app, "POST", "/api/notes", r#"{"folder":1,"text":"남서울 kettle"}"#);
    assert_eq!(found("서울"), [2, 4]);
    write(&app, "PATCH", "/api/notes/2", r#"{"text":"부산은 비"}"#);
    write(&app, "DELETE", "/api/notes/3", "");
    assert_eq!(found("서울"), [4]);
    assert_eq!(found("부산"), [2]);
    assert_eq!(found("tea"), [0; 0]);
    assert_eq!(found("kettle sings"), [1]);
    assert_eq!(found("sing*"), [1]);
    assert_eq!(found("sing"), [0; 0]);
}

#[test]
fn what_fits_best_comes_first_and_pages_follow() {
    let texts = ["tea", "tea and much else that is not tea at all, and more", "tea tea tea", "coffee", "tea or coffee"];
    let app = App::spawn(notes(), (1..).zip(texts).map(|(id, text)| note(id, text)));
    assert_eq!(ids(&app.get("/api/notes?q=tea")), [3, 1, 5, 2]);
    assert_eq!(ids(&app.get("/api/notes?q=tea&sort=id")), [1, 2, 3, 5]);
    assert_eq!(ids(&app.get("/api/notes?q=tea&sort=-id&limit=2")), [5, 3]);
    assert_eq!(ids(&app.get("/api/notes?q=tea&folder=2")), [1]);
    assert_eq!(ids(&app.get("/api/notes/in-folder/3?q=tea")), [5, 2]);
    assert_eq!(ids(&app.get("/api/notes?q=tea&id_gt=2")), [3, 5]);
    let (mut pages, mut path) = (Vec::new(), Some("/api/notes?q=tea&limit=3&count=true".to_owned()));
    while let Some(asked) = path {
        let page = app.get(&asked);
        assert_eq!(page.header("x-total-count"), "4");
        path = next(&page);
        pages.push(ids(&page));
    }
    assert_eq!(pages, [vec![3, 1, 5], vec![2]]);
    assert_eq!(ids(&app.get("/api/notes?q=tea&_page=2&_limit=3")), [2]);
    let fields = app.get("/api/notes?q=coffee&fields=id");
    assert_eq!(fields.body, r#"[{"id":4},{"id":5}]"#);
}

#[test]
fn a_record_that_stays_is_on_one_page_whatever_others_write() {
    let texts = |id: u64| format!("zebra {}", "stripe ".repeat(id as usize * 7 % 11));
    let app = App::spawn_writable(notes(), (1..=30).map(|id| note(id, &texts(id))));
    let (mut seen, mut path) = (Vec::new(), Some("/api/notes?q=zebra&limit=4".to_owned()));
    let mut written = 0;
    while let Some(page) = path {
        let answer = app.get(&page);
        seen.extend(ids(&answer));
        path = next(&answer);
        // One that would be the first, one that would be the last, and one less.
        for text in ["zebra", &texts(3).repeat(40)] {
            write(&app, "POST", "/api/notes", &json!({"folder": 1, "text": text}).to_string());
        }
        if let Some(first) = seen.get(written) {
            write(&app, "DELETE", &format!("/api/notes/{first}"), "");
        }
        written += 1;
    }
    assert!(written > 5);
    seen.sort_unstable();
    assert_eq!(seen, (1..=30).collect::<Vec<_>>());
    // No place makes it panic, whatever a client writes there.
    for bits in [0, 1, u64::MAX, f64::NAN.to_bits(), f64::INFINITY.to_bits(), (-1.0_f64).to_bits()] {
        for id in [1, 9, i64::MAX] {
            let place = format!("r2-{id:x}-{bits:016x}-{:016x}-{id:x}", bits.rotate_left(7));
            assert_eq!(app.get(&format!("/api/notes?q=zebra&limit=4&after={place}")).status, 200);
        }
    }
}

#[test]
fn a_search_that_cannot_be_answered_says_why() {
    let app = App::spawn(notes(), (1..=300).map(|id| note(id, &format!("word{id}"))));
    for (query, reason) in [
        ("q=", "has no word"),
        ("q=+*", "has no word"),
        ("q=a+b+c+d+e+f+g+h+i", "more than 8 words"),
        ("q=word*", "More than 256 words begin with `word`; give more of it."),
        ("q=a&q=b", "stands twice"),
        ("q=word1&after=c1-1", "comes from a `next` link"),
        ("q=word1&after=r1-4", "comes from a `next` link"),
        ("q=word1&after=r2-1-0-0-1", "comes from a `next` link"),
        ("q=word1&after=r2-0-0000000000000000-0000000000000000-1", "comes from a `next` link"),
        ("q=word1&after=r2-1-0000000000000000-0000000000000000-1&_page=1", "two places"),
        ("q=word1&ids=1", "does not go with ids"),
    ] {
        let answer = app.get(&format!("/api/notes?{query}"));
        assert!(answer.status == 400 && answer.body.contains(reason), "{query}: {}", answer.body);
    }
    assert_eq!(ids(&app.get("/api/notes?q=word1*")).len(), 111);
    let unsearched = App::spawn(record::sample::users(), [""; 0]);
    assert!(unsearched.get("/api/users?q=a").body.contains("is declared for searches"));
}

#[test]
fn more_is_found_than_is_put_in_order() {
    let app =
        App::spawn(notes(), (1..=1200).map(|id| note(id, if id % 2 == 0 { "even and more" } else { "odd and more" })));
    let all = ids(&app.get("/api/notes?q=more"));
    assert_eq!((all.len(), all.iter().min()), (500, Some(&701)), "the newest");
    assert!(app.get("/api/notes?q=more&count=true").body.contains("500 records and more match"));
    let (mut found, mut path) = (BTreeSet::new(), Some("/api/notes?q=more+even&sort=id&limit=100".to_owned()));
    while let Some(asked) = path {
        let page = app.get(&asked);
        path = next(&page);
        found.extend(ids(&page));
    }
    assert_eq!(found, (1..=1200).filter(|id| id % 2 == 0).collect());
}

#[test]
fn random_searches_find_what_a_look_at_each_record_finds() {
    let words = [
        "tea",
        "teapot",
        "te",
        "서울",
        "서울은",
        "울은",
        "은",
        "서",
        "東京",
        "京都",
        "東京都",
        "Café",
        "cafe\u{301}s",
        "x",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut text = || (0..random.usize(1..5)).map(|_| words[random.usize(..words.len())]).collect::<Vec<_>>().join(" ");
    let mut texts: Vec<String> = (0..200).map(|_| text()).collect();
    let app = App::spawn_writable(notes(), (1..).zip(&texts).map(|(id, text)| note(id, text)));
    for nth in [3, 50, 120, 199] {
        texts[nth] = text();
        write(&app, "PATCH", &format!("/api/notes/{}", nth + 1), &json!({ "text": texts[nth] }).to_string());
    }
    for first in words {
        for second in ["", "서", "te*", "東京", "x"] {
            let q = format!("{first} {second}");
            let query = Query::read(&q).unwrap();
            let expected: BTreeSet<u64> = (1..)
                .zip(&texts)
                .filter(|(id, text)| query.count(notes(), &note(*id, text)).is_some())
                .map(|(id, _)| id)
                .collect();
            for order in ["", "&sort=id", "&sort=-id"] {
                let found = ids(&app.get(&format!("/api/notes?q={}{order}", encode(&q))));
                assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected, "{q}{order}");
                assert_eq!(found.len(), expected.len(), "{q}{order}");
            }
        }
    }
}
