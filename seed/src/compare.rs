//! The monolith and the services side by side, over HTTP: what a client gets from the one, it should get from the other.
//!
//! Gentle with both: so many requests at a time and no more, each given [`TIMEOUT`], and only one that got no answer at
//! all is asked again, [`RETRIES`] times.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use shared::model::{Collection, Post, Records, Term, Thread};

use crate::error::Error;
use crate::progress::{Progress, Total};
use crate::source::Source;
use crate::text::{Difference, differences, each, each_member};

/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a request that got no answer is sent again.
pub const RETRIES: u32 = 2;

/// How long to wait before that.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How many differences are named; the others are counted.
const NAMED: usize = 20;

/// Where the paths to ask for come from.
pub enum Paths<'p> {
    /// The lists that the monolith itself sends.
    FromTheMonolith,
    /// Its file.
    FromInput(&'p Path),
    /// A file with a path in each line, alone or as a word of it, as in an access log.
    FromFile(&'p Path),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many paths were asked for.
    pub paths: u64,
    /// How many answers were equal byte for byte.
    pub equal: u64,
    /// How many differed as they should, by how.
    pub expected: BTreeMap<Expected, u64>,
    /// How many differed as they should not.
    pub different: u64,
    /// The first of them.
    pub named: Vec<String>,
}

/// A difference that is there on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expected {
    /// A post has its id, as first member.
    PostId,
    /// A list is in id order.
    Order,
    /// 404 where the monolith sends 204.
    NotFound,
    /// A number keeps the digits that JavaScript rounds or rewrites.
    Digits,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Expected::PostId => "a post's added id",
            Expected::Order => "the order of a list",
            Expected::NotFound => "404 for 204",
            Expected::Digits => "a number's digits",
        })
    }
}

/// Asks `monolith` and `services`, both given as the URL before `/api/…`, for the same paths, `at_once` at a time.
///
/// # Errors
/// The paths cannot be read, or the monolith does not send its lists. Differences are no error here.
pub fn compare(
    monolith: &str,
    services: &str,
    paths: &Paths,
    at_once: usize,
    progress: Progress,
) -> Result<Comparison, Error> {
    let client = Client::new();
    let [monolith, services] = [monolith, services].map(|url| url.trim_end_matches('/'));
    let paths = match paths {
        Paths::FromTheMonolith => paths_of_lists(&client, monolith)?,
        Paths::FromInput(file) => paths_of_input(file)?,
        Paths::FromFile(file) => paths_in_file(file)?,
    };
    let stage = progress.stage("comparing", Total::Records(paths.len() as u64));
    let next = AtomicUsize::new(0);
    let mut comparison = Comparison::default();
    thread::scope(|scope| {
        let (found, findings) = mpsc::channel();
        for _ in 0..at_once.max(1) {
            let (found, client, paths, next) = (found.clone(), &client, &paths, &next);
            scope.spawn(move || {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let finding = compare_answers(&client.get(monolith, path), &client.get(services, path));
                    if found.send((path, finding)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(found);
        for (path, finding) in findings {
            stage.advance(0, 1);
            comparison.paths += 1;
            match finding {
                Ok(expected) if expected.is_empty() => comparison.equal += 1,
                Ok(expected) => {
                    expected.into_iter().for_each(|kind| *comparison.expected.entry(kind).or_default() += 1)
                }
                Err(what) => {
                    comparison.different += 1;
                    if comparison.named.len() < NAMED {
                        comparison.named.push(format!("{path}: {what}"));
                    }
                }
            }
        }
    });
    Ok(comparison)
}

/// What came back for one path; the text says why nothing did.
type Answer = Result<Response, String>;

struct Response {
    status: u16,
    content_type: String,
    body: String,
}

struct Client(ureq::Agent);

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        Self(config.max_redirects(0).user_agent(concat!("seed/", env!("CARGO_PKG_VERSION"))).build().into())
    }

    fn get(&self, base: &str, path: &str) -> Answer {
        let mut tries_left = RETRIES;
        loop {
            match self.try_get(&format!("{base}{path}")) {
                Err(_) if tries_left > 0 => {
                    tries_left -= 1;
                    thread::sleep(RETRY_PAUSE);
                }
                Err(error) => return Err(format!("no answer from {base}: {error}")),
                Ok(response) => return Ok(response),
            }
        }
    }

    fn try_get(&self, url: &str) -> Result<Response, ureq::Error> {
        let mut response = self.0.get(url).call()?;
        let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(u64::MAX).read_to_string()?;
        Ok(Response { status, content_type, body })
    }
}

/// How two answers differ: only as they should, or else in this.
fn compare_answers(monolith: &Answer, services: &Answer) -> Result<Vec<Expected>, String> {
    let (monolith, services) = match (monolith, services) {
        (Ok(monolith), Ok(services)) => (monolith, services),
        (Err(error), _) | (_, Err(error)) => return Err(error.clone()),
    };
    match (monolith.status, services.status) {
        (204, 404) => return Ok(vec![Expected::NotFound]),
        (left, right) if left != right => {
            return Err(format!("status {left} from the monolith, {right} from the services"));
        }
        _ => {}
    }
    // Errors have bodies of their own.
    if monolith.status >= 400 {
        return Ok(Vec::new());
    }
    if monolith.content_type != services.content_type {
        let (left, right) = (&monolith.content_type, &services.content_type);
        return Err(format!("content type {left:?} from the monolith, {right:?} from the services"));
    }
    if monolith.body == services.body { Ok(Vec::new()) } else { compare_bodies(&monolith.body, &services.body) }
}

fn compare_bodies(monolith: &str, services: &str) -> Result<Vec<Expected>, String> {
    let (Some(left), Some(right)) = (elements(monolith), elements(services)) else {
        if as_javascript(monolith) == as_javascript(services) {
            return Ok(vec![Expected::Digits]);
        }
        let first = canonical(monolith).zip(canonical(services)).map(|(left, right)| differences("", &left, &right));
        return Err(match first.and_then(|found| found.into_iter().next()) {
            Some(difference) => describe("", difference),
            None => "the bodies differ, though they mean the same".to_owned(),
        });
    };
    let mut expected = Vec::new();
    let added = left.iter().zip(&right).any(|(left, right)| !has_id(left) && has_id(right));
    let mut right: Vec<String> = if added { right.iter().map(|post| without_id(post)).collect() } else { right };
    if added {
        expected.push(Expected::PostId);
    }
    for (left, right) in left.iter().zip(&mut right) {
        if left != right && as_javascript(left) == as_javascript(right) {
            right.clone_from(left);
            expected.push(Expected::Digits);
        }
    }
    expected.dedup();
    if left == right {
        return Ok(expected);
    }
    let sorted = |list: &[String]| {
        let mut list: Vec<String> = list.to_vec();
        list.sort_unstable();
        list
    };
    if sorted(&left) == sorted(&right) {
        expected.push(Expected::Order);
        return Ok(expected);
    }
    if left.len() != right.len() {
        return Err(format!("{} elements from the monolith, {} from the services", left.len(), right.len()));
    }
    let differ = left.iter().zip(&right).position(|(left, right)| left != right);
    let nth = differ.expect("lists of one length that are not equal differ somewhere");
    let (left, right) = (&left[nth], &right[nth]);
    Err(match differences("", left, right).into_iter().next() {
        Some(difference) => describe(&format!("/{nth}"), difference),
        None => {
            format!("/{nth} differs, though it means the same: {left} from the monolith, {right} from the services")
        }
    })
}

fn describe(below: &str, Difference { pointer, left, right }: Difference) -> String {
    let [left, right] = [left, right].map(|side| side.unwrap_or_else(|| "nothing".to_owned()));
    format!("at {below}{pointer}: {left} from the monolith, {right} from the services")
}

/// A JSON text with its numbers as JavaScript has them. For comparing alone: it may spell them in another way.
fn as_javascript(json: &str) -> String {
    let bytes = json.as_bytes();
    let (mut out, mut at) = (String::with_capacity(json.len()), 0);
    while at < bytes.len() {
        let begin = at;
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
                out.push_str(json.get(begin..at).unwrap_or_default());
            }
            b'-' | b'0'..=b'9' => {
                while at < bytes.len() && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') {
                    at += 1;
                }
                match json[begin..at].parse::<f64>() {
                    Ok(number) if number.is_infinite() => out.push_str("null"),
                    // Negative zero is sent as 0.
                    Ok(number) => out.push_str(&(number + 0.0).to_string()),
                    Err(_) => out.push_str(&json[begin..at]),
                }
            }
            byte => {
                out.push(char::from(byte));
                at += 1;
            }
        }
    }
    out
}

/// A body in canonical form, if it is JSON.
fn canonical(body: &str) -> Option<String> {
    let mut out = String::new();
    // The writer of canonical text takes objects.
    shared::json::canonical_object(&format!("{{\"\":{body}}}"), &mut out, &mut Vec::new()).ok()?;
    Some(out["{\"\":".len()..out.len() - 1].to_owned())
}

/// The elements of a list, as they were sent.
fn elements(body: &str) -> Option<Vec<String>> {
    let canonical = canonical(body).filter(|canonical| canonical.starts_with('[') && canonical == body)?;
    let mut elements = Vec::new();
    each(canonical.as_bytes(), |part| {
        let length = crate::text::value_end(part);
        elements.push(String::from_utf8_lossy(&part[..length]).into_owned());
        length
    });
    Some(elements)
}

fn has_id(record: &str) -> bool {
    let mut found = false;
    if record.starts_with('{') {
        each_member(record.as_bytes(), |key, _| found |= key == b"\"id\"");
    }
    found
}

/// A post without the id that is its first member.
fn without_id(post: &str) -> String {
    match post.strip_prefix("{\"id\":").and_then(|rest| rest.split_once(',')) {
        Some((_, rest)) => format!("{{{rest}"),
        None => post.to_owned(),
    }
}

/// The ids that a monolith's routes are asked for.
#[derive(Default)]
struct Ids {
    users: BTreeSet<u64>,
    threads: BTreeSet<u64>,
}

impl Ids {
    fn add(&mut self, records: &Records) {
        for record in records.iter() {
            match records.collection() {
                Collection::Users => drop(self.users.insert(record.id.get())),
                Collection::Threads => drop(self.threads.insert(record.id.get())),
                Collection::Posts => {}
            }
            for (index, term) in record.terms.iter().flatten() {
                let Term::Id(id) = term else { continue };
                match records.collection() {
                    Collection::Posts if *index == Post::IN_THREAD => self.threads.insert(id.get()),
                    Collection::Posts if *index == Post::BY_USER => self.users.insert(id.get()),
                    Collection::Threads if *index == Thread::BY_USER => self.users.insert(id.get()),
                    _ => false,
                };
            }
        }
    }

    fn paths(self) -> Vec<String> {
        let lists = ["/", "/api/", "/api/users", "/api/threads", "/api/posts"].map(str::to_owned);
        let of_users =
            self.users.iter().flat_map(|id| [format!("/api/users/{id}"), format!("/api/posts/by-user/{id}")]);
        let of_threads =
            self.threads.iter().flat_map(|id| [format!("/api/threads/{id}"), format!("/api/posts/in-thread/{id}")]);
        lists.into_iter().chain(of_users).chain(of_threads).collect()
    }
}

fn paths_of_lists(client: &Client, monolith: &str) -> Result<Vec<String>, Error> {
    let mut ids = Ids::default();
    for collection in Collection::ALL {
        let path = format!("/api/{}", collection.name());
        let unusable = |why: String| Error::Monolith(format!("{monolith}{path}: {why}"));
        let response = client.get(monolith, &path).map_err(unusable)?;
        let list = canonical(&response.body).and_then(|list| elements(&list));
        let list = list.filter(|_| response.status == 200);
        let list = list.ok_or_else(|| unusable(format!("status {}, and no list of records", response.status)))?;
        let mut records = Records::new(collection, response.body.len());
        for (record, position) in list.iter().zip(1_u64..) {
            records.push(record, position.try_into().ok()).map_err(|fault| unusable(fault.to_string()))?;
        }
        ids.add(&records);
    }
    Ok(ids.paths())
}

fn paths_of_input(file: &Path) -> Result<Vec<String>, Error> {
    let mut ids = Ids::default();
    let mut source = Source::open(file)?.passing(Box::new(io::sink()));
    while let Some(batch) = source.next_batch()? {
        // What was rejected at the split is not asked for.
        batch.parse().0.iter().for_each(|records| ids.add(records));
    }
    Ok(ids.paths())
}

fn paths_in_file(file: &Path) -> Result<Vec<String>, Error> {
    let mut paths = BTreeSet::new();
    for line in BufReader::new(File::open(file).map_err(Error::io(file))?).lines() {
        let line = line.map_err(Error::io(file))?;
        // An access log quotes what it holds: `"GET /api/users HTTP/1.1"`, `path="/api/users"`.
        paths.extend(line.split([' ', '\t', '"']).find(|word| word.starts_with('/')).map(str::to_owned));
    }
    Ok(paths.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &str, body: &str) -> Answer {
        Ok(Response { status, content_type: content_type.to_owned(), body: body.to_owned() })
    }

    fn json(body: &str) -> Answer {
        answer(200, "application/json; charset=utf-8", body)
    }

    #[test]
    fn what_is_expected_has_a_name_and_what_is_not_has_a_place() {
        use Expected::{NotFound, Order, PostId};
        let expected = |left, right| compare_answers(&left, &right).unwrap();
        assert_eq!(expected(json("[]"), json("[]")), []);
        assert_eq!(expected(answer(204, "", ""), answer(404, "application/problem+json", "{}")), [NotFound]);
        assert_eq!(expected(answer(404, "text/plain", "Not Found"), answer(404, "application/problem+json", "{}")), []);
        let [one, two] = [r#"{"thread":1,"text":"a"}"#, r#"{"thread":1,"text":"b"}"#];
        let [one_id, two_id] = [r#"{"id":1,"thread":1,"text":"a"}"#, r#"{"id":2,"thread":1,"text":"b"}"#];
        assert_eq!(expected(json(&format!("[{one},{two}]")), json(&format!("[{one_id},{two_id}]"))), [PostId]);
        assert_eq!(expected(json(&format!("[{two},{one}]")), json(&format!("[{one_id},{two_id}]"))), [PostId, Order]);
        assert_eq!(expected(json(&format!("[{two_id},{one_id}]")), json(&format!("[{one_id},{two_id}]"))), [Order]);

        let [rounded, kept] = [
            r#"{"a":12345678901234567000,"b":[1,0,null],"c":"1.0é"}"#,
            r#"{"a":12345678901234567890,"b":[1.0,-0,1e400],"c":"1.0é"}"#,
        ];
        assert_eq!(expected(json(rounded), json(kept)), [Expected::Digits]);
        assert_eq!(expected(json(&format!("[{rounded}]")), json(&format!("[{kept}]"))), [Expected::Digits]);

        for (left, right, place) in [
            (json(r#"{"a":1,"c":"1"}"#), json(r#"{"a":1.5,"c":"1"}"#), "at /a: 1 from the monolith, 1.5"),
            (json(r#"{"c":"1.0"}"#), json(r#"{"c":"1"}"#), "at /c"),
            (json("[]"), answer(500, "application/problem+json", "{}"), "status 200 from the monolith, 500"),
            (json("[]"), answer(200, "text/plain", "[]"), "content type \"application/json; charset=utf-8\""),
            (json(&format!("[{one}]")), json(&format!("[{two_id}]")), "at /0/text: \"a\" from the monolith, \"b\""),
            (json(&format!("[{one}]")), json("[]"), "1 elements from the monolith, 0"),
            (json(one_id), json(two_id), "at /id: 1 from the monolith, 2 from the services"),
            (json(r#"{"a":1,"b":2}"#), json(r#"{"b":2,"a":1}"#), "though they mean the same"),
            (json("[]"), json("[] "), "though they mean the same"),
            (json("[]"), Err("no answer from there".to_owned()), "no answer from there"),
        ] {
            let what = compare_answers(&left, &right).unwrap_err();
            assert!(what.contains(place), "{place:?} is not in {what:?}");
        }
    }
}
