//! Tests of parts of lists: pages, filters, orders, fields, and parameters that mean nothing.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;

use record::declaration::Declaration;
use record::model::Collection;
use record::sample;
use serde_json::Value;
use service::testing::{Answer, App, bearer};

fn post(number: u64) -> String {
    format!(r#"{{"id":{number},"thread":{},"text":"t{number}","user":{}}}"#, number % 3 + 1, number % 5 + 1)
}

fn ids(answer: &Answer) -> Vec<u64> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let records: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
    records.iter().map(|record| record["id"].as_u64().unwrap()).collect()
}

/// Returns the target of a link.
fn link(answer: &Answer, to: &str) -> Option<String> {
    let links = answer.header("link").split(", ").filter_map(|link| link.split_once(">; rel="));
    links.filter(|(_, rel)| *rel == format!("\"{to}\"")).map(|(target, _)| target[1..].to_owned()).next()
}

/// Follows the links to the next page; returns the ids of all pages.
fn walk(app: &App, path: &str, mut between: impl FnMut(usize)) -> Vec<Vec<u64>> {
    let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let page = app.get(&path);
        next = link(&page, "next");
        pages.push(ids(&page));
        between(pages.len());
    }
    pages
}

/// Returns the ids of users in the order of their names, which are compared byte by byte.
fn by_name(users: &[(u64, String)], descending: bool) -> Vec<u64> {
    let mut sorted: Vec<(&str, u64)> = users.iter().map(|(id, name)| (&**name, *id)).collect();
    sorted.sort_unstable();
    if descending {
        sorted.reverse();
    }
    sorted.into_iter().map(|(_, id)| id).collect()
}

/// A collection that can be in the order of names, of which several records may have one.
fn people() -> Collection {
    let json = r#"{"name":"people","ids":"record","fields":[{"name":"username","shape":{"line":{"most":2000}}},
        {"name":"of","shape":{"reference":{"to":"people"}},"required":false}],
        "indexes":[{"number":1,"field":"username","route":"named","order":true},{"number":2,"field":"of","route":"of"}]}"#;
    Collection::of(Declaration::read(json).unwrap())
}

#[test]
fn a_list_in_the_order_of_a_field_is_that_of_a_sorted_list() {
    // Several have one name, as a monolith allows; 300 of them are more than two runs of the index.
    let name = |id: u64| match id % 5 {
        0 => "same".to_owned(),
        1 => format!("Zoe{}", id % 40),
        2 => format!("a.{}", 2000 - id),
        3 => format!("\u{e9}{}", id % 7),
        _ => format!("n{id:04}"),
    };
    let mut users: Vec<(u64, String)> = (1..=1500).filter(|id| id % 7 != 0).map(|id| (id, name(id))).collect();
    let json = |(id, name): &(u64, String)| format!(r#"{{"id":{id},"username":{}}}"#, Value::from(&**name));
    let app = App::spawn_writable(people(), users.iter().map(json));
    let count = users.len().to_string();
    for (sort, descending) in [
        ("sort=username", false),
        ("sort=-username", true),
        ("_sort=username&_order=desc", true),
        ("_sort=username&_order=asc", false),
    ] {
        assert_eq!(ids(&app.get(&format!("/api/people?{sort}"))), by_name(&users, descending), "{sort}");
        for limit in [1000, 100, 37] {
            let pages = walk(&app, &format!("/api/people?{sort}&limit={limit}"), |_| {});
            assert!(pages.iter().rev().skip(1).all(|page| page.len() == limit), "{sort} {limit}");
            assert_eq!(pages.concat(), by_name(&users, descending), "{sort} {limit}");
        }
        let numbered = app.get(&format!("/api/people?{sort}&_page=3&_per_page=10"));
        assert_eq!(ids(&numbered), by_name(&users, descending)[20..30], "{sort}");
        assert_eq!(numbered.header("x-total-count"), count, "{sort}");
    }
    let same = app.get("/api/people?sort=username&limit=5");
    let known = [("if-none-match", same.header("etag"))];
    assert_eq!(app.send("GET", "/api/people?sort=username&limit=5", &known, "").status, 304);

    // Between the pages others delete who was last, rename whom the walk has passed, and sign up before and behind it.
    let token = bearer(people());
    let write = |method: &str, path: &str, body: &str| {
        let headers = [("authorization", &*token), ("content-type", "application/json")];
        let answer = app.send(method, path, &headers, body);
        assert!(answer.status < 300, "{}", answer.body);
    };
    let mut seen: Vec<u64> = Vec::new();
    let mut next = Some("/api/people?sort=username&limit=50&fields=id,username".to_owned());
    let mut gone = Vec::new();
    while let Some(path) = next {
        let page = app.get(&path);
        seen.extend(ids(&page));
        next = link(&page, "next");
        let (last, first) = (seen[seen.len() - 1], seen[seen.len() - 50.min(seen.len())]);
        if gone.len() < 10 {
            write("DELETE", &format!("/api/people/{last}"), "");
            write("PATCH", &format!("/api/people/{first}"), &format!(r#"{{"username":"A{first}"}}"#));
            write("POST", "/api/people", &format!(r#"{{"username":"0{first}"}}"#));
            gone.push(last);
        }
    }
    let expected = by_name(&users, false);
    assert_eq!(seen, expected, "who stays in place is there once");
    users.retain(|(id, _)| !gone.contains(id));
    assert_eq!(ids(&app.get("/api/people?sort=username")).len(), users.len() + 10);
}

/// Goods that can be in the order of their prices. No two have one code.
fn goods() -> Collection {
    let json = r#"{"name":"goods","ids":"record","fields":[{"name":"price","shape":"number"},
        {"name":"code","shape":"number","required":false},{"name":"shop","shape":{"reference":{"to":"shops"}},"required":false}],
        "indexes":[{"number":1,"field":"price","route":"for","order":true},
        {"number":2,"field":"code","route":"coded","answers":"one","unique":true},
        {"number":3,"field":"shop","route":"of"}]}"#;
    Collection::of(Declaration::read(json).unwrap())
}

/// Spells an amount of cents in one of several ways.
fn spell(cents: i64, way: u64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let (whole, part) = (cents.abs() / 100, cents.abs() % 100);
    match way % 4 {
        0 => format!("{cents}e-2"),
        1 => format!("{sign}{whole}.{part:02}00"),
        2 => format!("{cents}.0E-002"),
        _ => format!("{sign}0.000{:09}e+8", cents.abs() * 100),
    }
}

#[test]
fn numbers_are_found_and_sorted_by_their_values_however_they_are_spelled() {
    let cents = |id: u64| [0, 950, -950, 100, 10_000, 7, (id as i64 * 7919) % 5000 - 1000][(id % 7) as usize];
    let mut goods_by_price: Vec<(i64, u64)> = (1..=1200).filter(|id| id % 11 != 0).map(|id| (cents(id), id)).collect();
    let json = |(cents, id): &(i64, u64)| format!(r#"{{"id":{id},"price":{},"shop":1}}"#, spell(*cents, *id));
    let app = App::spawn_writable(goods(), goods_by_price.iter().map(json));
    goods_by_price.sort_unstable();
    let sorted = |descending: bool| -> Vec<u64> {
        let ids = goods_by_price.iter().map(|(_, id)| *id);
        if descending { ids.rev().collect() } else { ids.collect() }
    };
    for (sort, descending) in [
        ("sort=price", false),
        ("sort=-price", true),
        ("_sort=price&_order=desc", true),
        ("_sort=price&_order=asc", false),
    ] {
        assert_eq!(ids(&app.get(&format!("/api/goods?{sort}"))), sorted(descending), "{sort}");
        for limit in [1000, 37] {
            let pages = walk(&app, &format!("/api/goods?{sort}&limit={limit}"), |_| {});
            assert_eq!(pages.concat(), sorted(descending), "{sort} {limit}");
        }
        let numbered = app.get(&format!("/api/goods?{sort}&_page=3&_per_page=10"));
        assert_eq!(ids(&numbered), sorted(descending)[20..30], "{sort}");
        assert_eq!(numbered.header("x-total-count"), goods_by_price.len().to_string(), "{sort}");
    }
    for (price, cents) in [
        ("9.5", 950),
        ("9.500", 950),
        ("95e-1", 950),
        ("0.00095E%2B4", 950),
        ("-9.5", -950),
        ("0", 0),
        ("-0", 0),
        ("0.0", 0),
        ("0e999999999999", 0),
        ("100", 10_000),
        ("1e2", 10_000),
        ("1E%2b2", 10_000),
        ("1", 100),
        ("1.0", 100),
        ("1e000", 100),
        ("9.51", 951),
        ("1e400", -1),
        ("-1e-99999999999", -1),
        ("1e99999999999999999999999", -1),
    ] {
        let mut expected: Vec<u64> = goods_by_price.iter().filter(|good| good.0 == cents).map(|(_, id)| *id).collect();
        expected.retain(|_| cents != -1);
        expected.sort_unstable();
        let answer = app.get(&format!("/api/goods?price={price}&count=true"));
        assert_eq!(ids(&answer), expected, "{price}");
        assert_eq!(answer.header("x-total-count"), expected.len().to_string(), "{price}");
        assert_eq!(ids(&app.get(&format!("/api/goods/for/{price}"))), expected, "{price}");
        assert_eq!(ids(&app.get(&format!("/api/goods?price={price}&shop=1&id_gte=1"))), expected, "{price}");
        expected.reverse();
        assert_eq!(walk(&app, &format!("/api/goods?price={price}&sort=-id&limit=50"), |_| {}).concat(), expected);
    }
    for price in [
        "",
        "01",
        "+1",
        "%2B1",
        "1_0",
        "1,0",
        "NaN",
        "Infinity",
        "0x1",
        "1.",
        ".5",
        "1e",
        "%229.5%22",
        "1e+2",
        "9.5%20",
    ] {
        let answer = app.get(&format!("/api/goods?price={price}"));
        let reason = "`price` is a number as in JSON, not `";
        assert!(answer.status == 400 && answer.body.contains(reason), "{price}: {}", answer.body);
        let answer = app.get(&format!("/api/goods/for/{price}"));
        // A `+` is a space in a query alone.
        assert_eq!(answer.status, if price == "1e+2" { 200 } else { 400 }, "{price}: {}", answer.body);
    }
}

#[test]
fn a_changed_number_is_found_under_its_new_value_alone() {
    let app = App::spawn_writable(
        goods(),
        [r#"{"id":1,"price":9007199254740993,"code":7}"#, r#"{"id":2,"price":9007199254740992}"#],
    );
    let token = bearer(goods());
    let headers = [("authorization", &*token), ("content-type", "application/json")];
    let write = |method: &str, path: &str, body: &str, status: u16| {
        let answer = app.send(method, path, &headers, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        answer.body
    };
    // Not every number is one of serde's.
    let found = |price: &str| ids(&app.get(&format!("/api/goods?price={price}&fields=id")));
    assert_eq!(
        (found("9007199254740993"), found("9007199254740992"), found("9007199254740992.5")),
        (vec![1], vec![2], vec![])
    );
    // Of another value, then of the same one in another spelling, which the record keeps.
    write("PATCH", "/api/goods/1", r#"{"price":9.5}"#, 200);
    assert_eq!((found("9007199254740993"), found("9.50")), (vec![], vec![1]));
    assert_eq!(write("PATCH", "/api/goods/1", r#"{"price":95e-1}"#, 200), r#"{"id":1,"price":95e-1,"code":7}"#);
    assert_eq!(found("9.5"), [1]);
    write("PATCH", "/api/goods/1", r#"{"price":"9.5"}"#, 422);
    write("PATCH", "/api/goods/1", r#"{"price":null}"#, 422);
    write("PATCH", "/api/goods/1", r#"{"price":01}"#, 400);
    // One has many digits, others an exponent that no float has.
    let long = "123456789".repeat(1200);
    for (id, price) in [
        (3, format!("{long}.5")),
        (4, format!("{long}.6")),
        (5, "1e400".to_owned()),
        (6, "1e-99999999999".to_owned()),
        (7, "-1e99999999999999999999".to_owned()),
    ] {
        write("POST", "/api/goods", &format!(r#"{{"price":{price}}}"#), 201);
        assert_eq!(found(&price), [id], "{price:.30}");
    }
    let listed = walk(&app, "/api/goods?sort=price&limit=1&fields=id", |_| {}).concat();
    // Of those with the same first digits some order stays.
    let (others, mut long): (Vec<u64>, Vec<u64>) = listed.iter().partition(|id| !matches!(id, 3 | 4));
    long.sort_unstable();
    assert_eq!((others, long), (vec![7, 6, 1, 2, 5], vec![3, 4]));
    assert_eq!(listed, ids(&app.get("/api/goods?_sort=price&_page=1&fields=id")));
    write("DELETE", "/api/goods/5", "", 204);
    assert_eq!((found("1e400"), found("10e399")), (vec![], vec![]));
    // A unique number has one value in every spelling.
    assert_eq!(app.get("/api/goods/coded/7.0").body, r#"{"id":1,"price":95e-1,"code":7}"#);
    assert_eq!(app.get("/api/goods/coded/8").status, 404);
    for (code, status) in [
        ("7", 409),
        ("7.0", 409),
        ("70E-1", 409),
        ("7.00000000000000000001", 201),
        ("-7", 201),
        ("null", 201),
        ("0", 201),
        ("-0.0", 409),
    ] {
        write("POST", "/api/goods", &format!(r#"{{"price":1,"code":{code}}}"#), status);
    }
    let of_code = app.get("/api/goods?sort=code");
    assert!(of_code.status == 400 && of_code.body.contains("price or -price here"), "{}", of_code.body);
    write("PATCH", "/api/goods/1", r#"{"code":null}"#, 200);
    write("POST", "/api/goods", r#"{"price":1,"code":7e0}"#, 201);
}

#[test]
fn bounds_of_a_field_are_those_of_a_plain_list_in_either_order() {
    let cents = |id: u64| [0, 950, -950, (id as i64 * 7919) % 5000 - 1000][(id % 4) as usize];
    let all: Vec<(i64, u64)> = (1..=700).map(|id| (cents(id), id)).collect();
    let json =
        |(cents, id): &(i64, u64)| format!(r#"{{"id":{id},"price":{},"shop":{}}}"#, spell(*cents, *id), id % 3 + 1);
    let app = App::spawn_writable(goods(), all.iter().map(json));
    type Matches<'m> = &'m dyn Fn(i64) -> bool;
    let bounds: [(&str, Matches); 11] = [
        ("price_gte=9.5", &|cents| cents >= 950),
        ("price_gt=9.50", &|cents| cents > 950),
        ("price_lte=-95e-1", &|cents| cents <= -950),
        ("price_lt=-9.5", &|cents| cents < -950),
        ("price_gte=-9.5&price_lte=9.5", &|cents| (-950..=950).contains(&cents)),
        ("price_gt=-9.5&price_lt=9.5", &|cents| (-949..950).contains(&cents)),
        ("price_gte=0&price_gt=-1&price_lte=9.5&price_lt=30", &|cents| (0..=950).contains(&cents)),
        ("price_gte=0&price_gt=0&price_lte=9.5&price_lt=9.5", &|cents| (1..950).contains(&cents)),
        ("price_gte=5&price_lte=4", &|_| false),
        ("price_gt=9.5&price_lt=9.5", &|_| false),
        ("price_gt=-1e99999999999&price_lt=1e400", &|_| true),
    ];
    for (bound, matches) in bounds {
        let mut by_id: Vec<(i64, u64)> = all.iter().copied().filter(|(cents, _)| matches(*cents)).collect();
        let mut by_price = by_id.clone();
        by_price.sort_unstable();
        for (sort, expected) in [("", &mut by_id), ("sort=price&", &mut by_price)] {
            let mut expected: Vec<u64> = expected.iter().map(|(_, id)| *id).collect();
            for sort in
                [sort.to_owned(), if sort.is_empty() { "sort=-id&".to_owned() } else { "sort=-price&".to_owned() }]
            {
                let whole = app.get(&format!("/api/goods?{sort}{bound}&count=true"));
                assert_eq!(ids(&whole), expected, "{sort}{bound}");
                assert_eq!(whole.header("x-total-count"), expected.len().to_string(), "{sort}{bound}");
                assert_eq!(walk(&app, &format!("/api/goods?{sort}{bound}&limit=60"), |_| {}).concat(), expected);
                let numbered = app.get(&format!("/api/goods?{sort}{bound}&_page=2&_per_page=10"));
                assert_eq!(
                    ids(&numbered),
                    expected.iter().copied().skip(10).take(10).collect::<Vec<u64>>(),
                    "{sort}{bound}"
                );
                assert_eq!(numbered.header("x-total-count"), expected.len().to_string(), "{sort}{bound}");
                expected.reverse();
            }
        }
        let in_shop: Vec<u64> = by_id.iter().map(|(_, id)| *id).filter(|id| id % 3 == 1).collect();
        assert_eq!(ids(&app.get(&format!("/api/goods?{bound}&shop=2"))), in_shop, "{bound}");
        assert_eq!(ids(&app.get(&format!("/api/goods/of/2?{bound}"))), in_shop, "{bound}");
    }
    let long = "1".repeat(251);
    for (query, reason) in [
        ("price_gte=01", "`price` is a number as in JSON, not `01`"),
        ("price_gte=1&price_gte=2", "`price_gte` stands twice"),
        (&format!("price_lt={long}"), "`price_lt` has at most 250 characters"),
        ("code_gte=1", "There is no parameter `code_gte` here"),
        ("sort=price&price_gte=1&shop=2", "is one of all records or within bounds of it"),
        ("sort=price&id_gte=1", "is one of all records or within bounds of it"),
    ] {
        let answer = app.get(&format!("/api/goods?{query}"));
        assert!(answer.status == 400 && answer.body.contains(reason), "{query:.40}: {}", answer.body);
    }
    // Texts have bounds, too, such as days; none of the texts lies beyond its bound for being long.
    let long = "l".repeat(1100);
    let names = ["", "2026-11-28", "2026-11-28T09:00", "2026-12-01", "\u{e9}", &long, &long[..250], "l", "m"];
    let records = (1..).zip(&names).map(|(id, name)| format!(r#"{{"id":{id},"username":{}}}"#, Value::from(*name)));
    let app = App::spawn(people(), records.collect::<Vec<String>>());
    for (least, most) in names.iter().flat_map(|least| names.map(|most| (*least, most))) {
        if least.len() > 250 || most.len() > 250 {
            continue;
        }
        let [from, to]: [String; 2] =
            [least, most].map(|text| form_urlencoded::byte_serialize(text.as_bytes()).collect());
        let found = ids(&app.get(&format!("/api/people?username_gte={from}&username_lt={to}")));
        let is_within = |name: &str| least <= name && name < most;
        let expected: Vec<u64> = (1..).zip(&names).filter(|(_, name)| is_within(name)).map(|(id, _)| id).collect();
        assert_eq!(found, expected, "{least:.20} {most:.20}");
    }
}

/// What is the beginning of another text comes before it, whatever byte the other goes on with.
#[test]
fn an_order_is_that_of_code_points_and_its_index_finds_each_text() {
    let long = "l".repeat(1100);
    let texts = [
        "",
        "\u{0}",
        "\u{0}\u{0}",
        "\u{0}\u{1}",
        "\u{0}a",
        "\u{1}",
        "Ann",
        "Ann\u{0}",
        "Ann ",
        "Anna",
        "Zo",
        "ann",
        "\u{e9}",
        "\u{ff}",
        "\u{ac00}",
        "\u{ffff}",
        "\u{10000}",
        "l",
        "\u{7f}",
        &long[..1023],
        &long[..1024],
        &long,
        &format!("{long}2"),
        "m",
    ];
    // Ids count downwards, so that the order of ids is another.
    let records: Vec<String> = (1..)
        .zip(texts.iter().rev())
        .map(|(id, text)| format!(r#"{{"id":{id},"username":{}}}"#, Value::from(*text)))
        .collect();
    let app = App::spawn(people(), &records);
    let listed: Vec<Value> = serde_json::from_str(&app.get("/api/people?sort=username").body).unwrap();
    let listed: Vec<&str> = listed.iter().map(|record| record["username"].as_str().unwrap()).collect();
    let mut sorted = texts.to_vec();
    sorted.sort_unstable();
    // The longest have the beginning in common that a key holds.
    let of_key = |text: &&str| text.get(..1024).unwrap_or(text).to_owned();
    assert_eq!(listed.iter().map(of_key).collect::<Vec<_>>(), sorted.iter().map(of_key).collect::<Vec<_>>());
    let pages = walk(&app, "/api/people?sort=-username&limit=1", |_| {}).concat();
    let mut whole = ids(&app.get("/api/people?sort=username"));
    whole.reverse();
    assert_eq!(pages, whole);
    for (text, id) in texts.iter().rev().zip(1_u64..) {
        let value: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        assert_eq!(ids(&app.get(&format!("/api/people?username={value}"))), [id], "{text:?}");
        if !text.is_empty() {
            let value = value.replace('+', "%20");
            assert_eq!(ids(&app.get(&format!("/api/people/named/{value}"))), [id], "{text:?}");
        }
    }
}

#[test]
fn an_order_that_is_not_declared_is_refused() {
    let posts = App::spawn(sample::posts(), [post(1)]);
    let app = App::spawn(people(), [r#"{"id":1,"username":"a","of":1}"#]);
    let refused = |app: &App, path: &str, reason: &str| {
        let answer = app.get(path);
        assert!(answer.status == 400 && answer.body.contains(reason), "{path}: {}", answer.body);
    };
    refused(
        &posts,
        "/api/posts?sort=user",
        "`user`; one over it that is declared with `order` would; `sort` is id or -id here",
    );
    refused(&app, "/api/people?sort=of", "with `order` would; `sort` is id or -id, username or -username here");
    refused(
        &app,
        "/api/people/of/1?sort=username",
        "Only the list of all records can be in the order of a field; `sort` is id or -id here",
    );
    refused(&app, "/api/people?sort=username&of=1", "is one of all records");
    refused(&app, "/api/people?sort=username&id_gt=1", "is one of all records");
    refused(&app, "/api/people?sort=-username&_order=asc", "`-username` has an order already");
    for place in
        ["c1-1", "r2-1", "s1-", "s1--", "s1-0-1", "s1-00-0", "s1-00-01", "s1-0G-1", "s1-AB-1", "s1-\u{e9}\u{e9}-1"]
    {
        refused(&app, &format!("/api/people?sort=username&after={place}"), "`after` comes from a `next` link");
    }
    for place in ["s1--1", "s1-ff-1", "s1-fe-7fffffffffffffff"] {
        assert_eq!(app.get(&format!("/api/people?sort=username&after={place}")).status, 200, "{place}");
    }
    for (required, shape) in [("false", r#"{"line":{"most":9}}"#), ("true", r#"{"reference":{"to":"p","text":true}}"#)]
    {
        let json = format!(
            r#"{{"name":"p","ids":"record","fields":[{{"name":"a","shape":{shape},"required":{required}}}],
                "indexes":[{{"number":1,"field":"a","route":"a","order":true}}]}}"#
        );
        assert!(Declaration::read(&json).unwrap_err().to_string().contains("has no order"));
    }
}

#[test]
fn pages_of_each_filter_and_order_are_those_of_a_plain_list() {
    let app = App::spawn(sample::posts(), (1..=400).filter(|number| number % 7 != 0).map(post));
    let plain = |matches: &dyn Fn(u64) -> bool, descending: bool| {
        let mut ids: Vec<u64> = (1..=400).filter(|number| number % 7 != 0 && matches(*number)).collect();
        if descending {
            ids.reverse();
        }
        ids
    };
    let filters: [(&str, &dyn Fn(u64) -> bool); 10] = [
        ("/api/posts?", &|_| true),
        ("/api/posts?thread=2&", &|number| number % 3 == 1),
        ("/api/posts?user=3&thread=2&", &|number| number % 3 == 1 && number % 5 == 2),
        ("/api/posts/in-thread/2?user=3&", &|number| number % 3 == 1 && number % 5 == 2),
        ("/api/posts/by-user/5?", &|number| number % 5 == 4),
        ("/api/posts?user=9&", &|_| false),
        ("/api/posts?id_gte=33&id_lte=320&", &|number| (33..=320).contains(&number)),
        ("/api/posts?id_gt=33&id_lt=320&id_gte=40&thread=2&", &|number| number % 3 == 1 && (40..320).contains(&number)),
        ("/api/posts/in-thread/2?id_lte=9223372036854775807&id_gt=1&", &|number| number % 3 == 1 && number > 1),
        ("/api/posts?id_lt=1&", &|_| false),
    ];
    for (path, matches) in filters {
        for (order, descending) in [("", false), ("sort=-id&", true), ("_sort=id&_order=DESC&", true)] {
            let expected = plain(matches, descending);
            let whole = app.get(&format!("{path}{order}count=true"));
            assert_eq!(ids(&whole), expected, "{path}{order}");
            assert_eq!(whole.header("x-total-count"), expected.len().to_string(), "{path}{order}");
            for limit in [1, 7, 16, 1000] {
                // A thousand pages of one would take long.
                let limit = if limit == 1 && expected.len() > 50 { 3 } else { limit };
                let pages = walk(&app, &format!("{path}{order}limit={limit}"), |_| ());
                assert_eq!(pages.concat(), expected, "{path}{order} {limit}");
                assert!(pages.iter().rev().skip(1).all(|page| page.len() == limit), "{path}{order} {limit}");
            }
        }
    }
}

/// A long list and a short one whose records are far apart.
#[test]
fn filters_with_few_records_in_common_find_them_all() {
    let rare = |number: u64| matches!(number, 1..=3 | 300 | 301 | 480 | 998..=1000);
    let text =
        |number: u64| format!(r#"{{"id":{number},"thread":{},"text":"t","user":1}}"#, 2 - u64::from(rare(number)));
    let app = App::spawn(sample::posts(), (1..=1000).map(text));
    let mut expected: Vec<u64> = (1..=1000).filter(|number| rare(*number)).collect();
    for order in ["", "&sort=-id"] {
        for filters in ["thread=1&user=1", "user=1&thread=1"] {
            for limit in ["", "&limit=2"] {
                let found = walk(&app, &format!("/api/posts?{filters}{order}{limit}"), |_| ()).concat();
                assert_eq!(found, expected, "{filters}{order}{limit}");
            }
        }
        expected.reverse();
    }
}

/// A record that is there all the time is on one page, whatever others write.
#[test]
fn pages_are_stable_while_others_write() {
    let app = App::spawn_writable(sample::posts(), (1..=100).map(post));
    let token = bearer(sample::posts());
    let headers = [("authorization", &*token), ("content-type", "application/json")];
    for order in ["", "&sort=-id"] {
        let mut gone = Vec::new();
        let all: Vec<u64> = ids(&app.get("/api/posts"));
        let pages = walk(&app, &format!("/api/posts?limit=10{order}"), |nth| {
            if nth <= 5 {
                // One that was on the page just read, one that is still to come, and new ones.
                for id in [all[nth * 3], all[all.len() - nth * 4]] {
                    if app.send("DELETE", &format!("/api/posts/{id}"), &headers, "").status == 204 {
                        gone.push(id);
                    }
                }
                assert_eq!(app.send("POST", "/api/posts", &headers, r#"{"thread":1,"text":"n","user":1}"#).status, 201);
            }
        });
        let mut seen = BTreeMap::new();
        pages.concat().into_iter().for_each(|id| *seen.entry(id).or_insert(0) += 1);
        assert!(seen.values().all(|count| *count == 1), "{order}: a record is on two pages");
        let missing: Vec<&u64> = all.iter().filter(|id| !gone.contains(id) && !seen.contains_key(id)).collect();
        assert!(missing.is_empty(), "{order}: {missing:?} are on no page");
    }
}

#[test]
fn numbered_pages_are_those_of_json_server() {
    let app = App::spawn(sample::posts(), (1..=25).map(post));
    let page = app.get("/api/posts?_page=2&_limit=10");
    assert_eq!((ids(&page), page.header("x-total-count")), ((11..=20).collect(), "25"));
    for (to, expected) in [("first", "1"), ("prev", "1"), ("next", "3"), ("last", "3")] {
        assert_eq!(link(&page, to).unwrap(), format!("/api/posts?_limit=10&_page={expected}"), "{to}");
    }
    let last = app.get(&link(&page, "last").unwrap());
    assert_eq!((ids(&last), link(&last, "next")), ((21..=25).collect(), None));
    assert_eq!(ids(&app.get("/api/posts?_page=1")).len(), 10);
    assert_eq!(ids(&app.get("/api/posts?_page=9&_per_page=20")).len(), 0);
    // Where numbers end, the link goes on without them, and none leads to a refusal.
    let many = App::spawn(sample::posts(), (1..=11_005).map(post));
    let page = many.get("/api/posts?_page=11&_limit=1000");
    assert_eq!((ids(&page).first(), link(&page, "last")), (Some(&10_001), None));
    let next = link(&page, "next").unwrap();
    assert!(next.contains("after=") && !next.contains("_page"), "{next}");
    assert_eq!(ids(&many.get(&next)), (11_001..=11_005).collect::<Vec<_>>());
    // Ten records are the default, behind the numbers too.
    let page = many.get("/api/posts?_page=1001");
    assert_eq!(ids(&many.get(&link(&page, "next").unwrap())), (10_011..=10_020).collect::<Vec<_>>());
    let answer = app.get("/api/posts?_page=1002&_per_page=10");
    assert!(answer.status == 400 && answer.body.contains("`after`"), "{}", answer.body);
}

#[test]
fn a_list_is_counted_where_there_is_a_counter_or_as_far_as_it_is_short() {
    let post = |number: u64| format!(r#"{{"id":{number},"thread":1,"text":"t","user":1}}"#);
    let app = App::spawn(sample::posts(), (1..=100_001).map(post));
    let total = |path: &str| app.get(path).header("x-total-count").to_owned();
    assert_eq!(total("/api/posts?count=true&limit=1"), "100001");
    assert_eq!(total("/api/posts?count=true&limit=1&thread=1&id_gt=1"), "100000");
    for path in ["/api/posts?count=true&limit=1&thread=1", "/api/posts?count=true&id_gte=1"] {
        let answer = app.get(path);
        assert!(answer.status == 400 && answer.body.contains("More than 100000 records match"), "{}", answer.body);
    }
    // Both lists are long: what they have in common may be nothing.
    let answer = app.get("/api/posts?thread=1&user=1&limit=1");
    assert!(answer.status == 400 && answer.body.contains("in more than 20000 records"), "{}", answer.body);
    assert!(ids(&app.get("/api/posts?thread=1&user=2&limit=1")).is_empty());
    let page = app.get("/api/posts/in-thread/1?_page=2&_limit=5");
    assert_eq!((ids(&page), page.header("x-total-count")), ((6..=10).collect(), ""));
    assert!(link(&page, "next").is_some() && link(&page, "last").is_none(), "{}", page.header("link"));
}

#[test]
fn records_are_read_by_their_ids_in_the_order_asked_for() {
    let app = App::spawn(sample::posts(), (1..=25).map(post));
    assert_eq!(ids(&app.get("/api/posts?ids=7,3,99,25")), [7, 3, 25]);
    assert_eq!(ids(&app.get("/api/posts?id=7&id=3")), [7, 3]);
    let many = |count: u64| (1..=count).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(ids(&app.get(&format!("/api/posts?ids={}", many(100)))).len(), 25);
    assert_eq!(app.get(&format!("/api/posts?ids={}", many(101))).status, 400);
}

#[test]
fn a_record_and_a_list_have_the_fields_asked_for_and_a_part_is_never_taken_for_the_whole() {
    let app = App::spawn(sample::posts(), (1..=3).map(post));
    for _ in 0..2 {
        // The whole, from memory the second time, and then a part of it under the same path.
        let whole = app.get("/api/posts/2");
        assert_eq!((whole.status, &*whole.body), (200, &*post(2)));
        let part = app.get("/api/posts/2?fields=text,id");
        assert_eq!((&*part.body, part.header("etag")), (r#"{"id":2,"text":"t2"}"#, ""));
        assert_eq!(app.get("/api/posts/in-thread/3").body, format!("[{}]", post(2)));
        assert_eq!(app.get("/api/posts/in-thread/3?fields=user").body, r#"[{"user":3}]"#);
        assert_eq!(app.get("/api/posts?fields=id&sort=-id").body, r#"[{"id":3},{"id":2},{"id":1}]"#);
        // An empty query says nothing.
        assert_eq!(app.get("/api/posts/2?").body, post(2));
    }
}

#[test]
fn a_parameter_that_means_nothing_is_refused_by_name() {
    let app = App::spawn_writable(sample::posts(), (1..=3).map(post));
    // Known answers must not hide it.
    for path in ["/api/posts/1", "/api/posts", "/api/posts/in-thread/2"] {
        assert_eq!(app.get(path).status, 200);
    }
    for (path, expected) in [
        ("/api/posts?limits=1", "`limits` here; there are limit, after, count, sort, fields, q, id, ids, id_gte"),
        ("/api/posts?id_gt=0", "`id_gt` is an integer from 1"),
        ("/api/posts/in-thread/2?ids=1", "`ids` here; there are limit, after"),
        ("/api/posts/1?limit=1", "`limit` here; there are fields."),
        ("/api/posts/1?x", "`x` here"),
        ("/?x=1", "`x` here; this request takes none."),
        ("/live?x=1", "`x` here; this request takes none."),
        ("/api/posts/-/backup?sinc=1", "`sinc` here; there are history, since."),
        ("/api/posts/-/backup?since=1", "go together"),
        ("/api/posts?limit=0", "`limit` is an integer from 1 to 1000, not `0`."),
        ("/api/posts?limit=1001", "from 1 to 1000"),
        ("/api/posts?limit=+5", "from 1 to 1000"),
        ("/api/posts?limit=", "from 1 to 1000"),
        ("/api/posts?limit=1&limit=2", "`limit` stands twice"),
        ("/api/posts?limit=1&_limit=2", "mean the same"),
        ("/api/posts?after=2", "comes from a `next` link"),
        ("/api/posts?after=c1-0", "comes from a `next` link"),
        ("/api/posts?after=c1-02", "comes from a `next` link"),
        ("/api/posts?after=c1-2&_page=1", "two places"),
        ("/api/posts?_page=0", "from 1 on"),
        ("/api/posts?_page=18446744073709551615", "Numbered pages end"),
        ("/api/posts?count=yes", "true or false"),
        (
            "/api/posts?sort=text",
            "in the order of `text`; one over it that is declared with `order` would; `sort` is id or -id here",
        ),
        ("/api/posts?_sort=likes", "There is no field `likes`; `sort` is id or -id here"),
        (
            "/api/posts/in-thread/7?sort=text",
            "Only the list of all records can be in the order of a field; `sort` is id",
        ),
        ("/api/posts?text=a", "No index lists records by `text`; one over it in the declaration would"),
        ("/api/posts?limit=010", "from 1 to 1000"),
        ("/api/posts?_sort=-id&_order=asc", "`-id` has an order already"),
        ("/api/posts?_order=up", "asc or desc"),
        ("/api/posts?thread=a", "`thread` is an integer from 1"),
        ("/api/posts?text=t1", "No index lists records by `text`"),
        ("/api/posts?fields=id,txt", "There is no field `txt`; there are id, thread, text, user."),
        ("/api/posts?fields=id,text,id", "`id` stands twice in `fields`"),
        ("/api/posts?thread=1&thread=2", "`thread` stands twice"),
        ("/api/posts?ids=1,x", "`ids` is an integer from 1"),
        ("/api/posts?id=1&id=x", "`id` is an integer from 1"),
        ("/api/posts?ids=1&limit=1", "does not go with ids"),
        ("/api/posts?limit=%FF", "not percent-encoded UTF-8"),
    ] {
        let token = bearer(sample::posts());
        for method in ["GET", "HEAD"] {
            let answer = app.send(method, path, &[("authorization", &token)], "");
            if path.contains("backup") && method == "HEAD" {
                continue;
            }
            assert_eq!(answer.status, 400, "{method} {path}: {}", answer.body);
            assert!(method == "HEAD" || answer.body.contains(expected), "{path}: {}", answer.body);
        }
    }
}

#[test]
fn a_write_takes_no_parameters_and_is_answered_after_its_body() {
    let app = App::spawn_writable(sample::posts(), (1..=3).map(post));
    let token = bearer(sample::posts());
    let headers = [("authorization", &*token), ("content-type", "application/json")];
    let body = format!(r#"{{"thread":1,"text":"{}","user":1}}"#, "x".repeat(16_000));
    for (method, path) in [("POST", "/api/posts?notify=1"), ("PUT", "/api/posts/1?x"), ("PATCH", "/api/posts/1?x=")] {
        let answer = app.send(method, path, &headers, &body);
        assert!(answer.status == 400 && answer.body.contains("takes none"), "{method} {path}: {answer:?}");
    }
    assert_eq!(app.send("DELETE", "/api/posts/1?force=true", &headers, "").status, 400);
    assert_eq!(ids(&app.get("/api/posts")), [1, 2, 3]);
}

#[test]
fn a_list_that_has_not_changed_is_not_sent_again_and_one_that_has_is() {
    // The lists are sent in one piece, the whole one in several, both in several.
    for count in [20, 3000, 6000] {
        let app = App::spawn_writable(sample::posts(), (1..=count).map(post));
        let token = bearer(sample::posts());
        let headers = [("authorization", &*token), ("content-type", "application/json")];
        let paths = ["/api/posts", "/api/posts/in-thread/2", "/api/posts?limit=5", "/api/posts?user=2&fields=id,user"];
        let ask = |path: &str, tag: &str| app.send("GET", path, &[("if-none-match", tag)], "");
        let tags = || paths.map(|path| app.get(path).header("etag").to_owned());
        let before = tags();
        for (path, tag) in paths.iter().zip(&before) {
            assert!(!tag.is_empty(), "{path}");
            let answer = ask(path, tag);
            assert_eq!((answer.status, &*answer.body, answer.header("etag")), (304, "", &**tag), "{path}");
        }
        // Post 1 is in thread 2 and of user 2.
        let write = |method: &str, path: &str, body: &str| app.send(method, path, &headers, body).status;
        assert_eq!(write("PATCH", "/api/posts/1", r#"{"text":"changed"}"#), 200);
        for (path, tag) in paths.iter().zip(&before).take(3) {
            let answer = ask(path, tag);
            assert!(answer.status == 200 && answer.body.contains("changed"), "{path}: {}", answer.status);
        }
        let changed = tags();
        assert_eq!(write("DELETE", "/api/posts/1", ""), 204);
        for (path, tag) in paths.iter().zip(&changed) {
            let answer = ask(path, tag);
            assert!(answer.status == 200 && !answer.body.contains("changed"), "{path}: {}", answer.status);
        }
        // A state that comes back has another tag: who read in between may have the other one.
        let [before, ..] = tags();
        for text in ["B", "t2"] {
            assert_eq!(write("PATCH", "/api/posts/2", &format!(r#"{{"text":"{text}"}}"#)), 200);
        }
        assert_eq!(ask("/api/posts", &before).status, 200);
        // What others write does not touch a list that it is not in, if that is short enough to be looked at first.
        let [_, in_thread, ..] = tags();
        assert_eq!(write("POST", "/api/posts", r#"{"thread":9,"text":"n","user":1}"#), 201);
        let is_short = app.get("/api/posts/in-thread/2").body.len() <= 64 << 10;
        assert_eq!(is_short, count < 6000);
        assert_eq!(ask("/api/posts/in-thread/2", &in_thread).status, if is_short { 304 } else { 200 });
    }
}

/// All records of a split have the same revision, and who wrote these texts made their checksums alike.
#[test]
fn a_list_has_another_tag_with_another_record_whatever_is_in_it() {
    let posts = [(1, "nbifiicpic"), (2, "rpiydpbivx")]
        .map(|(id, text)| format!(r#"{{"id":{id},"thread":1,"text":"{text}","user":1}}"#));
    assert_eq!(
        crc32fast::hash(format!("[{}]", posts[0]).as_bytes()),
        crc32fast::hash(format!("[{}]", posts[1]).as_bytes())
    );
    let app = App::spawn_writable(sample::posts(), &posts);
    let before = app.get("/api/posts?limit=1").header("etag").to_owned();
    let token = bearer(sample::posts());
    assert_eq!(app.send("DELETE", "/api/posts/1", &[("authorization", &token)], "").status, 204);
    let answer = app.send("GET", "/api/posts?limit=1", &[("if-none-match", &before)], "");
    assert_eq!((answer.status, ids(&answer)), (200, vec![2]));
}

/// What is counted has each write that is answered.
#[test]
fn counts_follow_each_write() {
    let app = App::spawn_writable(sample::posts(), (1..=3).map(post));
    let token = bearer(sample::posts());
    let headers = [("authorization", &*token), ("content-type", "application/json")];
    for number in 4..40 {
        assert_eq!(app.send("POST", "/api/posts", &headers, r#"{"thread":1,"text":"n","user":1}"#).status, 201);
        let counted = ["/api/posts?limit=1&count=true", "/api/posts?_page=1"].map(|path| app.get(path));
        assert_eq!(counted.each_ref().map(|answer| answer.header("x-total-count")), [&*number.to_string(); 2]);
    }
}

#[test]
fn links_are_short_enough_for_load_balancers() {
    let app = App::spawn(sample::users(), [r#"{"id":1,"username":"a","name":null,"bio":null}"#]);
    for (length, status) in [(1000, 200), (6000, 400)] {
        assert_eq!(app.get(&format!("/api/users?limit=1&username={}", "'".repeat(length))).status, status, "{length}");
    }
}
