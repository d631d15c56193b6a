//! `seed compare` between a monolith and services that answer truly or lie.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use world::liar::{Answer, Ending, Forum, Server};
use world::{program, seed, split, start_entrance, start_service, text};

/// The result of a comparison.
struct Compared {
    code: Option<i32>,
    report: Value,
    stdout: String,
    error: String,
}

impl Compared {
    /// Returns all output, to search it for secrets.
    fn printed(&self) -> String {
        format!("{}{}", self.stdout, self.error)
    }

    /// Returns the differences' kinds, each run of a kind once.
    fn kinds(&self) -> Vec<String> {
        let found = self.report["differences"].as_array().cloned().unwrap_or_default();
        let mut kinds: Vec<String> = found.iter().map(|found| found["kind"].as_str().unwrap().to_owned()).collect();
        kinds.dedup();
        kinds
    }
}

fn compare<S: AsRef<str>>(monolith: &str, services: &str, more: &[S]) -> Compared {
    let arguments = ["compare", "--json", "--quiet", "--monolith", monolith, "--services", services];
    let output = seed(arguments.into_iter().chain(more.iter().map(AsRef::as_ref)));
    let (stdout, error) = (text(&output.stdout), text(&output.stderr));
    Compared { code: output.status.code(), report: serde_json::from_str(&stdout).unwrap_or_default(), stdout, error }
}

/// Writes the combined file into a new folder; returns both.
fn write_source(forum: &Forum) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.json");
    fs::write(&input, forum.source()).unwrap();
    let input = input.to_str().unwrap().to_owned();
    (dir, input)
}

fn honest_monolith(forum: &Forum) -> Server {
    let forum = forum.clone();
    Server::start(move |path| forum.as_monolith(path))
}

fn honest_services(forum: &Forum) -> Server {
    lying_services(forum, |_, answer| answer)
}

/// Starts services that change their true answers.
fn lying_services(forum: &Forum, lie: impl Fn(&str, Answer) -> Answer + Send + Sync + 'static) -> Server {
    let split = forum.split();
    Server::start(move |path| lie(path, split.as_services(path)))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn the_services_answer_like_the_monolith_except_for_expected_differences() {
    let post = |thread, text, user| format!(r#"{{"thread":{thread},"text":"{text}","user":{user}}}"#);
    let forum = Forum {
        users: [r#"{"id":1,"username":"a"}"#, r#"{"id":2,"username":"b"}"#].map(String::from).to_vec(),
        threads: [r#"{"id":2,"title":"second","createdBy":1}"#, r#"{"id":1,"title":"first","createdBy":2}"#]
            .map(String::from)
            .to_vec(),
        posts: vec![post(1, "x", 1), post(1, "y", 2), post(7, "z", 1)],
    };
    let (dir, input) = write_source(&forum);
    let [data, paths] = ["data", "access.log"].map(|name| dir.path().join(name));
    split(Path::new(&input), &data);
    let start = |name| start_service(name, &data.join(name));
    let [users, threads, posts] = ["users", "threads", "posts"].map(start);
    let Some((_entrance, entrance)) = start_entrance(users.1, threads.1, posts.1) else { return };
    let services = format!("http://{entrance}/");

    // 5 lists and texts, users 1 and 2 with their posts, threads 1, 2 and 7 with theirs.
    let monolith = honest_monolith(&forum);
    let none: [&str; 0] = [];
    let alike = compare(&monolith.url(), &services, &none);
    assert_eq!(alike.code, Some(0), "{}", alike.printed());
    assert_eq!((&alike.report["paths"], &alike.report["different"]), (&15.into(), &0.into()), "{}", alike.report);
    assert_eq!(alike.report["records"], serde_json::json!({"compared": 7, "of": 7, "in_answers": 17}));
    // In /api/posts, of both users and of threads 1 and 7; in /api/threads; for thread 7.
    let expected = serde_json::json!({"post_id": 5, "order": 1, "not_found": 1});
    assert_eq!(alike.report["expected"], expected);
    for more in [&["--input", &input, "--at-once", "1"][..], &["--data", data.to_str().unwrap()]] {
        let other = compare(&monolith.url(), &services, more);
        assert_eq!((other.code, &other.report["expected"]), (Some(0), &expected), "{more:?}: {}", other.printed());
    }

    let log = "/api/users/1\nGET /api/users/99\n1.2.3.4 - \"GET /api/threads/2 HTTP/1.1\" 200\n\n/api/users/1\n";
    fs::write(&paths, log).unwrap();
    let logged = compare(&monolith.url(), &services, &["--paths", paths.to_str().unwrap()]);
    assert_eq!((logged.code, &logged.report["paths"]), (Some(0), &3.into()), "{}", logged.printed());
    assert_eq!(logged.report["equal"], 2);
    // The services serve and refuse further paths on purpose.
    fs::write(&paths, "/api/users/1\n/api/posts/1\n/api/users/1abc\n/API/users\n").unwrap();
    let own = forum.clone();
    let lenient = Server::start(move |path| own.as_monolith(&path.to_lowercase().replace("1abc", "1")));
    let logged = compare(&lenient.url(), &services, &["--paths", paths.to_str().unwrap()]);
    let expected = serde_json::json!({"added_route": 1, "not_an_id": 1, "path_case": 1});
    assert_eq!((logged.code, &logged.report["expected"]), (Some(0), &expected), "{}", logged.printed());

    // The monolith has changed since.
    let mut newer = Forum { posts: Vec::new(), ..forum.clone() };
    newer.users[0] = r#"{"id":1,"username":"A"}"#.to_owned();
    let different = compare(&honest_monolith(&newer).url(), &services, &none);
    assert_eq!(different.code, Some(4), "{}", different.printed());
    let named = different.report["first"].to_string();
    let expected = r#"/api/users/1: id 1: at /username: \"A\" from the monolith, \"a\" from the services"#;
    assert!(named.contains(expected), "{named}");
    assert!(named.contains("/api/posts: id 3: nothing from the monolith, {"), "{named}");

    let nobody = SocketAddr::from(([127, 0, 0, 1], world::free_port()));
    let unreachable = compare(&format!("http://{nobody}"), &services, &none);
    assert_eq!((unreachable.code, &unreachable.report["kind"]), (Some(6), &"monolith_unusable".into()));
    let message = unreachable.report["message"].to_string();
    assert!(message.contains("no answer from") && message.contains("is this the monolith?"), "{message}");
}

/// A lie of the services: its name, the kinds of its differences, a part of the report, and the lie.
type Lie = (&'static str, &'static [&'static str], &'static str, fn(&str, Answer) -> Answer);

/// Rewrites the list of the body's elements.
fn edit_list(answer: Answer, edit: impl FnOnce(&mut Vec<String>)) -> Answer {
    answer.edit(|body| {
        let elements: Vec<&serde_json::value::RawValue> = serde_json::from_str(&body).unwrap();
        let mut elements: Vec<String> = elements.iter().map(|element| element.get().to_owned()).collect();
        edit(&mut elements);
        format!("[{}]", elements.join(","))
    })
}

const LIES: &[Lie] = &[
    (
        "a field that is wrong once in a thousand",
        &["value"],
        "id 500: at /text: \"text é 500\" from the monolith, \"text é 5OO\"",
        |path, answer| {
            if path == "/api/posts" { answer.edit(|body| body.replace("text é 500", "text é 5OO")) } else { answer }
        },
    ),
    ("a record that is dropped", &["missing"], "id 777: {\"id\":777,", |path, answer| {
        if path == "/api/posts" { edit_list(answer, |list| drop(list.remove(776))) } else { answer }
    }),
    ("the last record that is dropped", &["missing"], "id 1000: {", |path, answer| {
        if path == "/api/posts" { edit_list(answer, |list| drop(list.pop())) } else { answer }
    }),
    (
        "a record that is doubled",
        &["repeated"],
        "id 12: the services send this record more than once",
        |path, answer| {
            if path == "/api/posts" { edit_list(answer, |list| list.insert(12, list[11].clone())) } else { answer }
        },
    ),
    (
        "a record that is doubled for one that is dropped",
        &["repeated", "missing"],
        "id 2: {\"id\":2,",
        |path, answer| {
            if path == "/api/posts" { edit_list(answer, |list| list[1] = list[0].clone()) } else { answer }
        },
    ),
    (
        "two records in the wrong order",
        &["order"],
        "id 500: the services' list is not in id order: this follows id 501",
        |path, answer| {
            if path == "/api/posts" { edit_list(answer, |list| list.swap(499, 500)) } else { answer }
        },
    ),
    ("the monolith's order", &["order"], "/api/threads: id 9", |path, answer| {
        if path == "/api/threads" { edit_list(answer, |list| list.reverse()) } else { answer }
    }),
    ("the id of another post", &["id"], "id 1: the services give the record the id 1001: {", |path, answer| {
        if path == "/api/posts" {
            return edit_list(answer, |list| {
                let first = list.remove(0).replace("\"id\":1,", "\"id\":1001,");
                list.push(first);
            });
        }
        answer
    }),
    ("one id for every post of a thread", &["repeated", "id"], "/api/posts/in-thread/3", |path, answer| {
        if path == "/api/posts/in-thread/3" {
            return edit_list(answer, |list| {
                for post in list {
                    let (_, rest) = post.split_once(',').unwrap();
                    *post = format!("{{\"id\":1,{rest}");
                }
            });
        }
        answer
    }),
    ("ids that are swapped", &["id"], "id 1: the services give the record the id 2: {", |path, answer| {
        if path == "/api/posts" {
            return edit_list(answer, |list| {
                let [first, second] = [0, 1].map(|nth| list[nth].split_once(',').unwrap().1.to_owned());
                (list[0], list[1]) = (format!("{{\"id\":1,{second}"), format!("{{\"id\":2,{first}"));
            });
        }
        answer
    }),
    ("posts without ids", &["no_id", "id"], "1000 records from the services have no id", |path, answer| {
        if path == "/api/posts" {
            return edit_list(answer, |list| {
                for post in list {
                    *post = format!("{{{}", post.split_once(',').unwrap().1);
                }
            });
        }
        answer
    }),
    ("an id that is not the first member", &["spelling"], "though they mean the same", |path, answer| {
        if path == "/api/posts/by-user/2" {
            return edit_list(answer, |list| list[0] = r#"{"thread":2,"id":1,"text":"text é 1","user":2}"#.to_owned());
        }
        answer
    }),
    ("another order of members", &["spelling"], "though they mean the same", |path, answer| {
        if path == "/api/users/3" {
            return answer.edit(|_| r#"{"username":"user-3","id":3,"name":"Name \"3\""}"#.to_owned());
        }
        answer
    }),
    (
        "an escape that JavaScript does not write",
        &["spelling"],
        "though they mean the same: at /text: \"text é 1\" from the monolith, \"text \\u00e9 1\"",
        |path, answer| {
            if path == "/api/posts/in-thread/2" {
                answer.edit(|body| body.replacen('é', "\\u00e9", 1))
            } else {
                answer
            }
        },
    ),
    ("a member more", &["value"], "at /more: nothing from the monolith, 1 from the services", |path, answer| {
        if path == "/api/users/4" { answer.edit(|body| body.replace('}', ",\"more\":1}")) } else { answer }
    }),
    (
        "a number as a fraction",
        &["digits"],
        "the services' spelling is not the source's: at /createdBy: 2 from the monolith, 2.0",
        |path, answer| {
            if path == "/api/threads/1" { answer.edit(|body| body.replace(":2}", ":2.0}")) } else { answer }
        },
    ),
    (
        "a number as a fraction in a list",
        &["digits"],
        "the services' spelling is not the source's: at /createdBy: 2 from the monolith, 2.0",
        |path, answer| {
            if path == "/api/threads" { answer.edit(|body| body.replace(":2}", ":2.0}")) } else { answer }
        },
    ),
    ("a space", &["malformed"], "malformed at byte 1", |path, answer| {
        if path == "/api/users" { answer.edit(|body| body.replacen('[', "[ ", 1)) } else { answer }
    }),
    ("more after the end", &["malformed"], "there is more after its end", |path, answer| {
        if path == "/api/users/1" { answer.edit(|body| body + "\n") } else { answer }
    }),
    ("nothing of a list", &["missing"], "/api/users: id 1: {", |path, answer| {
        if path == "/api/users" { answer.edit(|_| "[]".to_owned()) } else { answer }
    }),
    ("an object for a list", &["shape"], "a list from the monolith, an object from the services", |path, answer| {
        if path == "/api/users" { answer.edit(|_| r#"{"id":1}"#.to_owned()) } else { answer }
    }),
    (
        "another text",
        &["value"],
        "/: Ready to receive requests from the monolith, Ready from the services",
        |path, answer| {
            if path == "/" { answer.edit(|_| "Ready".to_owned()) } else { answer }
        },
    ),
    ("500", &["status"], "status 200 from the monolith, 500 from the services", |path, answer| {
        if path == "/api/users/1" { Answer::new(500, "application/problem+json", "{}") } else { answer }
    }),
    ("404", &["status"], "status 200 from the monolith, 404 from the services", |path, answer| {
        if path == "/api/posts" { Answer::new(404, "application/problem+json", "{}") } else { answer }
    }),
    (
        "a redirect",
        &["status"],
        "status 200 from the monolith, 302 (to http://else.where/?token=…) from the services",
        |path, answer| {
            if path == "/api/users/1" {
                return Answer::new(302, "", "").with("location", "http://else.where/?token=sesame#sesame");
            }
            answer
        },
    ),
    (
        "a body that is cut off",
        &["truncated"],
        "the body from the services is truncated: it ends after 100 of ",
        |path, answer| {
            if path == "/api/posts" { answer.ending(Ending::After(100)) } else { answer }
        },
    ),
    (
        "a body that is cut off at its length",
        &["truncated"],
        "the body from the services is truncated: its JSON is cut off after 100 bytes",
        |path, answer| {
            if path == "/api/posts" { answer.ending(Ending::Announced(100)) } else { answer }
        },
    ),
    ("a length that is too short by a bracket", &["truncated"], "its JSON is cut off", |path, answer| {
        let length = answer.body.len() - 1;
        if path == "/api/threads" { answer.ending(Ending::Announced(length)) } else { answer }
    }),
    ("a body without an end", &["too_long"], "longer than 1048576 bytes", |path, answer| {
        if path == "/api/posts" {
            answer.ending(Ending::Never(r#",{"id":2}"#)).edit(|_| r#"[{"id":1}"#.to_owned())
        } else {
            answer
        }
    }),
    ("a record without an end", &["too_long"], "/api/posts: ", |path, answer| {
        if path == "/api/posts" {
            answer.ending(Ending::Never("x")).edit(|_| r#"[{"id":1,"text":""#.to_owned())
        } else {
            answer
        }
    }),
    ("no answer", &["timed_out"], "none within 2 s", |path, answer| {
        if path == "/api/users/1" { answer.ending(Ending::Hung) } else { answer }
    }),
    ("a reset", &["no_answer"], "no answer from the services", |path, answer| {
        if path == "/api/users/1" { answer.ending(Ending::Reset) } else { answer }
    }),
    (
        "an encoding that is none",
        &["content_encoding"],
        "the body from the services is not gzip, as its header says",
        |path, answer| {
            if path == "/api/users" { answer.with("content-encoding", "gzip") } else { answer }
        },
    ),
    ("an encoding that was not asked for", &["content_encoding"], "\"br\", which was not asked for", |path, answer| {
        if path == "/api/users" { answer.with("content-encoding", "br") } else { answer }
    }),
    ("gzip that is cut off", &["truncated"], "the body from the services is truncated", |path, mut answer| {
        if path == "/api/users" {
            answer.body = gzip(&answer.body);
            answer.body.truncate(answer.body.len() - 12);
            return answer.with("content-encoding", "gzip");
        }
        answer
    }),
    ("another charset", &["content_type"], "\"application/json; charset=latin1\" from the services", |path, answer| {
        if path == "/api/users" { answer.with("content-type", "application/json; charset=latin1") } else { answer }
    }),
    (
        "two content types",
        &["content_type"],
        "\"application/json; charset=utf-8, text/html\" from the services",
        |path, answer| {
            let both = "application/json; charset=utf-8\r\ncontent-type: text/html";
            if path == "/api/users" { answer.with("content-type", both) } else { answer }
        },
    ),
    (
        "an encoding within another",
        &["content_encoding"],
        "\"identity, br\", which was not asked for",
        |path, answer| {
            if path == "/api/users" {
                answer.with("content-encoding", "identity\r\ncontent-encoding: br")
            } else {
                answer
            }
        },
    ),
    ("no charset", &["content_type"], "\"application/json\" from the services", |path, answer| {
        if path == "/api/users" { answer.with("content-type", "application/json") } else { answer }
    }),
    ("another kind", &["content_type"], "\"text/html; charset=utf-8\" from the services", |path, answer| {
        if path == "/api/users" { answer.with("content-type", "text/html; charset=utf-8") } else { answer }
    }),
];

#[test]
fn every_lie_is_named() {
    let forum = Forum::with_posts(1000);
    let (_dir, input) = write_source(&forum);
    let monolith = honest_monolith(&forum);
    for (name, kinds, said, lie) in LIES {
        let services = lying_services(&forum, lie);
        // Short only if it must run out: an honest answer may be slow on a busy machine.
        let timeout = if kinds == &["timed_out"] { "2" } else { "60" };
        let options = ["--input", &input, "--timeout", timeout, "--max-answer", "1M"];
        let compared = compare(&monolith.url(), &services.url(), &options);
        assert_eq!(compared.code, Some(4), "{name}: {}", compared.printed());
        assert_eq!(compared.report["different"], 1, "{name}: {}", compared.report["first"]);
        assert_eq!(compared.kinds(), *kinds, "{name}: {}", compared.report["first"]);
        let first: Vec<&str> = compared.report["first"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(first.iter().any(|found| found.contains(said)), "{name}: {said:?} is not in {first:?}");
    }
}

#[test]
fn answers_that_are_wrong_on_both_sides_are_not_alike() {
    let forum = Forum::with_posts(30);
    let (_dir, input) = write_source(&forum);
    let list = |body: &str| Answer::new(200, "application/json; charset=utf-8", body);
    let page = |end: &str| Answer::new(200, "text/plain", &("x".repeat(200_000) + end));
    // The name, a path, the answers of the monolith and the services, the result, and a part of the report.
    let cases = [
        (
            "404",
            "/api/users/3",
            Answer::new(404, "", ""),
            Answer::new(404, "", ""),
            "unknown",
            "the source has some here",
        ),
        (
            "204 and 404",
            "/api/threads/3",
            Answer::new(204, "", ""),
            Answer::new(404, "application/problem+json", "{}"),
            "unknown",
            "the source has some here",
        ),
        ("no posts", "/api/posts", list("[]"), list("[]"), "unknown", "the source has some here"),
        (
            "no posts of a thread",
            "/api/posts/in-thread/3",
            list("[]"),
            list("[]"),
            "unknown",
            "the source has some here",
        ),
        (
            "another user",
            "/api/users/1",
            forum.as_monolith("/api/users/2"),
            forum.as_monolith("/api/users/2"),
            "unknown",
            "both sides send records of another path: 1 of 1",
        ),
        (
            "another user's posts",
            "/api/posts/by-user/1",
            forum.as_monolith("/api/posts/by-user/2"),
            forum.split().as_services("/api/posts/by-user/2"),
            "unknown",
            "both sides send records of another path: 6 of 6",
        ),
        ("a long text's end", "/", page("a"), page("b"), "different", "the bodies begin alike, but differ later"),
        (
            "a comma before no member",
            "/api/users/1",
            list(r#"{"id":1}"#),
            list(r#"{"id":1,}"#),
            "different",
            r#"{\"id\":1,} from the services"#,
        ),
    ];
    for (name, path, left, right, result, said) in cases {
        let (own, split) = (forum.clone(), forum.split());
        let monolith = Server::start(move |asked| if asked == path { left.clone() } else { own.as_monolith(asked) });
        let services = Server::start(move |asked| if asked == path { right.clone() } else { split.as_services(asked) });
        let compared = compare(&monolith.url(), &services.url(), &["--input", &input]);
        assert_eq!(
            (compared.code, &compared.report["result"]),
            (Some(4), &result.into()),
            "{name}: {}",
            compared.error
        );
        assert_eq!(compared.report[result], 1, "{name}: {}", compared.report);
        let found = format!("{}{}", compared.report["first"], compared.report["unknown_paths"]);
        assert!(found.contains(said), "{name}: {said:?} is not in {found}");
    }
}

#[test]
fn equivalent_answers_are_not_different() {
    let forum = Forum::with_posts(100);
    let (_dir, input) = write_source(&forum);
    let monolith = honest_monolith(&forum);
    let services = lying_services(&forum, |_, mut answer| {
        if answer.status == 200 && answer.headers["content-type"].starts_with("application/json") {
            answer.body = gzip(&answer.body);
            return answer.with("content-encoding", "gzip").with("content-type", "Application/JSON;charset=\"UTF-8\"");
        }
        answer
    });
    let compared = compare(&monolith.url(), &services.url(), &["--input", &input]);
    assert_eq!((compared.code, &compared.report["different"]), (Some(0), &0.into()), "{}", compared.printed());
    let asked = services.take_requests();
    assert!(asked.iter().all(|request| request.headers.contains(&"accept-encoding: gzip".to_owned())));
}

#[test]
fn a_comparison_without_proof_does_not_pass() {
    let forum = Forum::with_posts(30);
    let (dir, input) = write_source(&forum);
    let (monolith, services) = (honest_monolith(&forum), honest_services(&forum));
    let from_file = ["--input", &input, "--max-answer", "100K"];
    // The name, the answer of both sides, the exit code, the result, and a part of the report.
    type Case = (&'static str, fn() -> Answer, i32, &'static str, &'static str);
    let cases: [Case; 10] = [
        ("500", || Answer::new(500, "text/plain", "x"), 4, "unknown", "the monolith failed (status 500)"),
        ("503", || Answer::new(503, "text/plain", "x"), 4, "unknown", "the monolith failed (status 503)"),
        ("401", || Answer::new(401, "text/plain", "x"), 4, "unknown", "--header may let it in"),
        ("429", || Answer::new(429, "text/plain", "x"), 4, "unknown", "--rate asks more slowly"),
        (
            "a redirect",
            || Answer::new(302, "", "").with("location", "https://me:sesame@else/a?k=sesame&x#sesame"),
            4,
            "unknown",
            "the monolith redirects to https://…@else/a?k=…&x (status 302)",
        ),
        ("404", || Answer::new(404, "text/plain", "Not Found"), 2, "nothing_compared", ""),
        ("204", || Answer::new(204, "", ""), 2, "nothing_compared", ""),
        (
            "one page",
            || Answer::new(200, "text/html", "<p>"),
            4,
            "unknown",
            "the monolith sends something else instead of records",
        ),
        (
            "a hung server",
            || Answer::new(200, "", "").ending(Ending::Hung),
            6,
            "gave_up",
            "no answer from the monolith at",
        ),
        (
            "no end",
            || Answer::new(200, "application/json", "[1").ending(Ending::Never(",1")),
            6,
            "gave_up",
            "the body from the monolith is longer than 102400 bytes",
        ),
    ];
    for (name, answer, code, result, said) in cases {
        let [left, right] = [0, 1].map(|_| Server::start(move |_| answer()));
        let timeout = if name == "a hung server" { "0.2" } else { "60" };
        let options = [&from_file[..], &["--timeout", timeout]].concat();
        let compared = compare(&left.url(), &right.url(), &options);
        assert_eq!(
            (compared.code, &compared.report["result"]),
            (Some(code), &result.into()),
            "{name}: {}",
            compared.printed()
        );
        assert!(compared.report["unknown_paths"].to_string().contains(said), "{name}: {}", compared.report);
        assert!(!compared.printed().contains("sesame"), "{name}: {}", compared.printed());
        assert_eq!(compared.report["records"]["compared"], 0, "{name}");
        // However many unknown paths are allowed, at least one must be known.
        if result == "unknown" {
            let compared = compare(&left.url(), &right.url(), &["--input", &input, "--max-unknown", "1000"]);
            assert_eq!((compared.code, &compared.report["result"]), (Some(2), &"nothing_compared".into()), "{name}");
            // Without a file, the monolith's own lists are needed.
            assert_eq!(compare(&left.url(), &right.url(), &["--timeout", "60"]).code, Some(6), "{name}");
        }
    }

    // One answer among others proves nothing.
    let own = forum.clone();
    let sick = Server::start(move |path| match path {
        "/api/users/3" => Answer::new(500, "text/plain", "x"),
        _ => own.as_monolith(path),
    });
    let compared = compare(&sick.url(), &services.url(), &from_file);
    assert_eq!((compared.code, &compared.report["unknown"]), (Some(4), &1.into()), "{}", compared.printed());
    let compared = compare(&sick.url(), &services.url(), &["--input", &input, "--max-unknown", "1"]);
    assert_eq!(compared.code, Some(0), "{}", compared.printed());

    let paths = dir.path().join("paths");
    for text in ["", "no path\n", "/favicon.ico\n/\n"] {
        fs::write(&paths, text).unwrap();
        let compared = compare(&monolith.url(), &services.url(), &["--paths", paths.to_str().unwrap()]);
        assert_eq!((compared.code, &compared.report["result"]), (Some(2), &"nothing_compared".into()), "{text:?}");
    }
    // Both sides have no records.
    let empty = Forum::default();
    let [left, right] = [honest_monolith(&empty), honest_services(&empty)];
    assert_eq!(compare(&left.url(), &right.url(), &["--at-once", "2"]).code, Some(2));

    let port = monolith.address.port();
    for other in [
        "http://127.0.0.1:PORT/",
        "http://LocalHost:PORT",
        "http://a:sesame@localhost:PORT//?b=sesame",
        "http://[::1]:PORT",
    ] {
        let compared = compare(&monolith.url(), &other.replace("PORT", &port.to_string()), &from_file);
        assert_eq!((compared.code, &compared.report["kind"]), (Some(2), &"usage".into()), "{}", compared.printed());
        assert!(!compared.printed().contains("sesame"), "{}", compared.printed());
        assert!(compared.report["message"].as_str().unwrap().contains("are the same"), "{}", compared.report);
    }
    assert_eq!(compare("ftp://a:sesame@b", &services.url(), &from_file).code, Some(2));
    assert!(!compare("ftp://a:sesame@b", &services.url(), &from_file).printed().contains("sesame"));
}

#[test]
fn ids_and_digits_must_be_those_of_the_split() {
    let forum = Forum {
        users: vec![r#"{"id":1,"username":"a","votes":{"b":0,"10":1,"9":2}}"#.to_owned()],
        threads: vec![r#"{"id":1,"title":"t","createdBy":1,"score":1.0}"#.to_owned()],
        posts: [
            r#"{"thread":1,"text":"first","user":1}"#,
            r#"{"thread":1,"id":70,"text":"of its own","user":1}"#,
            r#"{"thread":1,"text":"third","user":1,"big":12345678901234567890,"zero":-0,"all":1e400}"#,
            r#"{"id":2,"thread":1,"text":"an id that was free","user":1}"#,
        ]
        .map(String::from)
        .to_vec(),
    };
    // The same as Node sends it.
    let sent = Forum {
        users: vec![r#"{"id":1,"username":"a","votes":{"9":2,"10":1,"b":0}}"#.to_owned()],
        threads: vec![r#"{"id":1,"title":"t","createdBy":1,"score":1}"#.to_owned()],
        posts: vec![
            forum.posts[0].clone(),
            forum.posts[1].clone(),
            r#"{"thread":1,"text":"third","user":1,"big":12345678901234567000,"zero":0,"all":null}"#.to_owned(),
            forum.posts[3].clone(),
        ],
    };
    let (dir, input) = write_source(&forum);
    let data = dir.path().join("data");
    split(Path::new(&input), &data);
    let data = data.to_str().unwrap();
    let (monolith, services) = (honest_monolith(&sent), honest_services(&forum));
    for source in [["--data", data], ["--input", &input]] {
        let compared = compare(&monolith.url(), &services.url(), &source);
        assert_eq!(compared.code, Some(0), "{source:?}: {}", compared.printed());
        let expected = serde_json::json!({"post_id": 3, "order": 3, "digits": 5, "integer_keys": 2});
        assert_eq!(compared.report["expected"], expected, "{source:?}");
        // Digits that JavaScript reads alike, but that are not the source's.
        for (from, to) in
            [("1.0}", "1e0}"), ("12345678901234567890", "12345678901234567891"), ("-0,", "0.0,"), ("1e400", "1e401")]
        {
            let lying = lying_services(&forum, move |_, answer| answer.edit(|body| body.replace(from, to)));
            let compared = compare(&monolith.url(), &lying.url(), &source);
            assert_eq!(
                (compared.code, compared.kinds()),
                (Some(4), vec!["digits".to_owned()]),
                "{to}: {}",
                compared.printed()
            );
        }
        // Keys in another order that JavaScript would send alike.
        let lying = lying_services(&forum, |_, answer| {
            answer.edit(|body| body.replace(r#"{"b":0,"10":1,"9":2}"#, r#"{"9":2,"b":0,"10":1}"#))
        });
        assert_eq!(compare(&monolith.url(), &lying.url(), &source).code, Some(4));
    }
    // Without the source, the digits' origin is unknown.
    let compared = compare(&monolith.url(), &services.url(), &["--at-once", "3"]);
    assert_eq!((compared.code, &compared.report["result"]), (Some(4), &"unknown".into()), "{}", compared.printed());
    assert!(compared.report["unknown_paths"].to_string().contains("--data DIR or --input FILE"), "{}", compared.report);

    // A service has lost a record's own id or given another.
    for (from, to) in
        [(r#""id":70,"#, ""), (r#""id":70,"#, r#""id":71,"#), (r#"{"id":1,"thread""#, r#"{"id":5,"thread""#)]
    {
        let lying = lying_services(&forum, move |_, answer| answer.edit(|body| body.replace(from, to)));
        assert_eq!(compare(&monolith.url(), &lying.url(), &["--data", data]).code, Some(4), "{from} {to}");
    }
    // The slice does not match the manifest; then the folder has no split.
    let slice = Path::new(data).join("posts/db.json");
    fs::write(&slice, fs::read_to_string(&slice).unwrap().replace("first", "fIrst")).unwrap();
    let compared = compare(&monolith.url(), &services.url(), &["--data", data]);
    assert_eq!(
        (compared.code, &compared.report["kind"]),
        (Some(6), &"split_unusable".into()),
        "{}",
        compared.printed()
    );
    let compared = compare(&monolith.url(), &services.url(), &["--data", dir.path().to_str().unwrap()]);
    assert_eq!(compared.code, Some(6), "{}", compared.printed());
}

#[test]
fn a_rejected_post_shifts_no_ids() {
    let post = |thread, text: &str, user| format!(r#"{{"thread":{thread},"text":{text},"user":{user}}}"#);
    let forum = Forum {
        posts: vec![
            post(1, r#""first""#, 1),
            post(1, "7", 1),
            post(1, r#""third""#, 1),
            post(2, r#""fourth""#, 2),
            post(1, r#""third""#, 1),
        ],
        ..Forum::with_posts(0)
    };
    let (dir, input) = write_source(&forum);
    let [data, rejects] = ["data", "rejects"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let split = seed(["--input", &input, "--data", &data, "--rejects", &rejects]);
    assert_eq!(split.status.code(), Some(7), "{}", text(&split.stderr));
    // The services lack only the second post.
    let mut taken = forum.split();
    taken.posts.remove(1);
    let monolith = honest_monolith(&forum);
    let services = Server::start(move |path| taken.as_services(path));
    for source in [["--data", &data], ["--input", &input]] {
        let compared = compare(&monolith.url(), &services.url(), &source);
        assert_eq!((compared.code, compared.kinds()), (Some(4), vec!["missing".to_owned()]), "{}", compared.printed());
        // Only the monolith's lists with that post differ, and only in it.
        let found = compared.report["differences"].as_array().unwrap();
        let mut paths: Vec<&str> = found.iter().map(|found| found["path"].as_str().unwrap()).collect();
        // Several requests run at once, so the order varies.
        paths.sort_unstable();
        assert_eq!(paths, ["/api/posts", "/api/posts/by-user/1", "/api/posts/in-thread/1"]);
        assert!(found.iter().all(|found| found["monolith"] == post(1, "7", 1)), "{found:?}");
        assert_eq!(compared.report["rejected"], 1);
    }
    // The monolith changes: one post less, one changed, and all others at new positions.
    let newer = Forum { posts: forum.posts[2..].to_vec(), ..forum.clone() };
    let newer =
        Forum { posts: newer.posts.iter().map(|post| post.replace("fourth", "fourth, changed")).collect(), ..newer };
    let changed = dir.path().join("newer.json");
    fs::write(&changed, newer.source()).unwrap();
    let mut taken = newer.split();
    for (post, id) in taken.posts.iter_mut().zip([3, 4, 5]) {
        *post = format!("{{\"id\":{id},{}", post.split_once(',').unwrap().1);
    }
    let update = seed(["--input", changed.to_str().unwrap(), "--data", &data, "--max-removed", "2"]);
    assert!(update.status.success(), "{}", text(&update.stderr));
    let (monolith, services) = (honest_monolith(&newer), Server::start(move |path| taken.as_services(path)));
    let compared = compare(&monolith.url(), &services.url(), &["--data", &data]);
    assert_eq!(compared.code, Some(0), "{}", compared.printed());
}

/// Runs a comparison; returns it and its peak memory in MiB.
fn measure(monolith: &str, services: &str, more: &[&str]) -> Option<(Compared, u64)> {
    let mut timed = Command::new("python3");
    let script = "import os,sys;p=os.spawnv(os.P_NOWAIT,sys.argv[1],sys.argv[1:]);_,s,u=os.wait4(p,0);print(u.ru_maxrss//1024);sys.exit(os.waitstatus_to_exitcode(s))";
    timed.args(["-c", script]).arg(program("seed"));
    timed.args(["compare", "--json", "--quiet", "--monolith", monolith, "--services", services]).args(more);
    let Ok(output) = timed.output() else {
        world::skip("python3 is not installed; memory is not measured");
        return None;
    };
    let (stdout, error) = (text(&output.stdout), text(&output.stderr));
    let (report, resident) = stdout.trim_end().rsplit_once('\n').unwrap();
    let report = serde_json::from_str(report).unwrap();
    Some((Compared { code: output.status.code(), report, stdout: stdout.clone(), error }, resident.parse().unwrap()))
}

#[test]
fn memory_does_not_grow_with_an_answer() {
    let forum = Forum::with_posts(30);
    let (dir, input) = write_source(&forum);
    let monolith = honest_monolith(&forum);
    // Endless lists: eight at once, of each of which twenty megabytes are read.
    let more: &str = format!(r#",{{"id":2,"thread":1,"text":"{}","user":1}}"#, "y".repeat(4000)).leak();
    let endless = lying_services(&forum, move |path, answer| {
        if !path.contains("posts") {
            return answer;
        }
        answer.ending(Ending::Never(more)).edit(|_| "[{}".to_owned())
    });
    let options = ["--input", &input, "--max-answer", "20M", "--timeout", "300", "--give-up-after", "4"];
    let Some((compared, resident)) = measure(&monolith.url(), &endless.url(), &options) else { return };
    assert_eq!((compared.code, compared.kinds()), (Some(4), vec!["too_long".to_owned()]), "{}", compared.printed());
    assert!(resident <= 64, "{resident} MiB");

    // Fields of ten megabytes that differ in one byte are named, cut when printed, and whole in the reports.
    let long = |middle: &str| format!("{}{middle}{}", "a<b".repeat(1_700_000), "é".repeat(2_600_000));
    let post = |text: &str| format!(r#"{{"thread":1,"text":"{text}","user":1}}"#);
    let [left, right] =
        ["left", "right"].map(|side| Forum { posts: (0..3).map(|_| post(&long(side))).collect(), ..forum.clone() });
    let [html, json] = ["report.html", "report.json"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    // The file has only the ids, so that the test measures the comparison and not reading a large file.
    fs::write(&input, Forum { posts: (0..3).map(|_| post("")).collect(), ..forum.clone() }.source()).unwrap();
    let (monolith, services) = (honest_monolith(&left), honest_services(&right));
    let Some((_, resident)) = measure(&monolith.url(), &services.url(), &["--input", &input]) else { return };
    assert!(resident <= 64, "{resident} MiB");
    let options = ["--input", &input, "--report", &html, "--report", &json];
    let compared = compare(&monolith.url(), &services.url(), &options);
    assert_eq!((compared.code, compared.kinds()), (Some(4), vec!["value".to_owned()]), "{}", compared.error);
    assert!(compared.stdout.len() < 20_000, "{} bytes are printed", compared.stdout.len());
    assert!(compared.stdout.contains("bytes)"), "{}", compared.stdout);
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let first = &report["differences"][0];
    assert_eq!(first["monolith"], Value::from(format!("\"{}\"", long("left"))));
    assert_eq!(first["services"], Value::from(format!("\"{}\"", long("right"))));
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains(&long("right").replace('<', "&lt;")));
}

#[test]
fn a_hung_server_is_given_up_and_the_comparison_resumes_later() {
    let forum = Forum::with_posts(40);
    let (dir, input) = write_source(&forum);
    let monolith = honest_monolith(&forum);
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    // Threads hang; a field of a user is wrong from the beginning.
    let services = lying_services(&forum, move |path, answer| match path {
        "/api/users/2" => answer.edit(|body| body.replace("user-2", "user-II")),
        _ if path.contains("thread") && !is_well.load(Ordering::SeqCst) => answer.ending(Ending::Hung),
        _ => answer,
    });
    let [kept, report] = ["progress", "report.json"].map(|name| dir.path().join(name));
    let options = ["--input", &input, "--timeout", "2", "--give-up-after", "5", "--at-once", "2"];
    let resumed = [&options[..], &["--resume", kept.to_str().unwrap(), "--report", report.to_str().unwrap()]].concat();
    let begin = Instant::now();
    let given_up = compare(&monolith.url(), &services.url(), &resumed);
    assert!(begin.elapsed() < world::PATIENCE, "{:?}", begin.elapsed());
    assert_eq!(given_up.code, Some(4), "{}", given_up.printed());
    let why = given_up.report["gave_up"].as_str().unwrap();
    assert!(why.contains("Gave up after 5 paths in a row") && why.contains("goes on from here"), "{why}");
    assert!(given_up.report["first"].to_string().contains("user-II"), "{}", given_up.report);
    assert!(kept.exists());

    // The journal does not fit other services or other options.
    let elsewhere = honest_services(&forum);
    let other = compare(&monolith.url(), &elsewhere.url(), &resumed);
    assert_eq!((other.code, &other.report["kind"]), (Some(2), &"usage".into()), "{}", other.printed());
    assert!(other.report["message"].as_str().unwrap().contains("the services changed"), "{}", other.report);
    let sampled = compare(&monolith.url(), &services.url(), &[&resumed[..], &["--sample", "3"]].concat());
    assert!(
        sampled.report["message"].as_str().unwrap().contains("the sample, the paths changed"),
        "{}",
        sampled.report
    );

    well.store(true, Ordering::SeqCst);
    let before = services.take_paths();
    let done = compare(&monolith.url(), &services.url(), &resumed);
    let after = services.take_paths();
    assert_eq!((done.code, &done.report["gave_up"]), (Some(4), &Value::Null), "{}", done.printed());
    assert!(before.contains(&"/api/users/2".to_owned()) && !after.contains(&"/api/users/2".to_owned()), "{after:?}");
    assert!(after.contains(&"/api/threads/1".to_owned()), "paths without an answer are requested again: {after:?}");
    assert_eq!((&done.report["paths"], &done.report["different"]), (&35.into(), &1.into()), "{}", done.report);
    assert!(!kept.exists(), "the next run must ask again");
    // The result is the same as without the interruption.
    let whole = compare(&monolith.url(), &services.url(), &options);
    for key in ["paths", "equal", "expected", "different", "unknown", "records", "routes", "first", "differences"] {
        assert_eq!(done.report[key], whole.report[key], "{key}");
    }
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["differences"], whole.report["differences"]);

    // Without differences, a comparison that gave up has another exit code.
    let own = forum.clone();
    let hung = Server::start(move |path| match path {
        "/api/users" => own.as_monolith(path),
        _ => Answer::new(200, "", "").ending(Ending::Hung),
    });
    let given_up = compare(&hung.url(), &elsewhere.url(), &options);
    assert_eq!((given_up.code, &given_up.report["result"]), (Some(6), &"gave_up".into()), "{}", given_up.printed());
}

#[test]
fn a_killed_comparison_resumes() {
    let forum = Forum::with_posts(40);
    let (dir, input) = write_source(&forum);
    let monolith = honest_monolith(&forum);
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let services = lying_services(&forum, move |path, answer| match path {
        "/api/users/2" => answer.edit(|body| body.replace("user-2", "user-II")),
        "/api/threads/5" if !is_well.load(Ordering::SeqCst) => answer.ending(Ending::Hung),
        _ => answer,
    });
    let kept = dir.path().join("progress");
    let options = ["--input", &input, "--at-once", "1", "--resume", kept.to_str().unwrap()];
    let mut command = Command::new(program("seed"));
    command.args(["compare", "--quiet", "--monolith", &monolith.url(), "--services", &services.url()]).args(options);
    let mut killed = world::Process::start(&mut command);
    // The journal has the difference and then a checkpoint, while the process waits for an answer.
    world::wait_for("a checkpoint", || {
        let text = fs::read_to_string(&kept).unwrap_or_default();
        text.split_once("user-II").is_some_and(|(_, after)| after.contains("\ncheckpoint ") && after.ends_with("}\n"))
    });
    killed.signal("KILL");
    killed.wait();
    // The kill may cut off a line.
    let mut cut = fs::OpenOptions::new().append(true).open(&kept).unwrap();
    cut.write_all(b"checkpoint 1000 {\"done\":").unwrap();
    well.store(true, Ordering::SeqCst);
    services.take_paths();
    let done = compare(&monolith.url(), &services.url(), &options);
    let after = services.take_paths();
    assert_eq!((done.code, &done.report["paths"]), (Some(4), &35.into()), "{}", done.printed());
    assert!(done.report["first"].to_string().contains("user-II"), "{}", done.report);
    assert!(after.contains(&"/api/threads/5".to_owned()) && !after.contains(&"/api/users/2".to_owned()), "{after:?}");
}

#[test]
fn a_sample_says_how_much_may_still_differ() {
    let forum = Forum::with_posts(200);
    let (_dir, input) = write_source(&forum);
    let users: Vec<String> = (1..=300).map(|id| format!(r#"{{"id":{id},"username":"u{id}"}}"#)).collect();
    let forum = Forum { users, ..forum };
    fs::write(&input, forum.source()).unwrap();
    let (monolith, services) = (honest_monolith(&forum), honest_services(&forum));
    let options = ["--input", &input, "--sample", "100", "--sample-seed", "7"];
    let sampled = compare(&monolith.url(), &services.url(), &options);
    assert_eq!(sampled.code, Some(0), "{}", sampled.printed());
    let report = &sampled.report;
    assert_eq!((&report["paths"], &report["paths_of"], &report["sample_seed"]), (&100.into(), &625.into(), &7.into()));
    let routes = report["routes"].as_array().unwrap();
    let of = |name: &str| routes.iter().find(|route| route["route"] == name).unwrap();
    assert_eq!((&of("/api/threads/:id")["paths"], &of("/api/threads/:id")["may_differ"]), (&10.into(), &0.into()));
    let user = of("/api/users/:id");
    assert_eq!((&user["paths"], &user["of"]), (&37.into(), &300.into()), "{user}");
    // The exact bound for 37 of 300 without repetition; with repetition it would be 1 - 0.05^(1/37) = 7.8 %.
    assert_eq!(user["may_differ"], 21, "{user}");
    assert!(report["may_differ"].as_u64().unwrap() >= 21, "{report}");
    assert_eq!(routes.len(), 9, "every route is requested");
    // The same seed asks for the same paths; the printed text names the seed.
    let first = monolith.take_paths();
    compare(&monolith.url(), &services.url(), &options);
    let [mut first, mut second] = [first, monolith.take_paths()];
    first.sort();
    second.sort();
    assert_eq!(first, second);
    let output = seed(
        ["compare", "--quiet", "--monolith", &monolith.url(), "--services", &services.url()].into_iter().chain(options),
    );
    let printed = text(&output.stdout);
    for expected in [
        "510 of 510 records were compared, on 7 routes: ",
        " With 95 % confidence, no more than ",
        "--sample-seed 7 chooses it again",
        "/api/users/:id ",
    ] {
        assert!(printed.contains(expected), "{expected:?} is not in {printed}");
    }
}

#[test]
fn a_sample_leaves_out_long_lists() {
    let users: Vec<String> = (1..=10_001).map(|id| format!(r#"{{"id":{id},"username":"u{id}"}}"#)).collect();
    let forum = Forum { users, ..Forum::with_posts(20) };
    let (_dir, input) = write_source(&forum);
    let (monolith, services) = (honest_monolith(&forum), honest_services(&forum));
    let sampled = compare(&monolith.url(), &services.url(), &["--input", &input, "--sample", "40"]);
    assert_eq!(sampled.code, Some(0), "{}", sampled.printed());
    for side in [&monolith, &services] {
        let paths = side.take_paths();
        assert!(paths.contains(&"/api/posts".to_owned()) && !paths.contains(&"/api/users".to_owned()), "{paths:?}");
    }
    // The list counts as unknown and is named.
    let routes = sampled.report["routes"].as_array().unwrap();
    let users = routes.iter().find(|route| route["route"] == "/api/users").unwrap();
    assert_eq!([&users["paths"], &users["of"], &users["may_differ"]], [0, 1, 1]);
    let printed = |more: &[&str]| {
        let arguments = ["compare", "--monolith", &monolith.url(), "--services", &services.url(), "--sample", "40"];
        text(&seed(arguments.into_iter().chain(more.iter().copied())).stdout)
    };
    let said = "A sample leaves out long lists, which only a whole comparison has: /api/users (10001 records).";
    assert!(printed(&["--input", &input]).contains(said));
    assert!(printed(&[]).contains("--data DIR or --input FILE spares that"));
}

#[test]
fn headers_are_sent_and_no_secret_is_printed() {
    let forum = Forum::with_posts(20);
    let (dir, input) = write_source(&forum);
    let headers = dir.path().join("headers");
    fs::write(&headers, "X-Key: key-sesame\n\nCookie: session=cookie-sesame\n").unwrap();
    let split = forum.split();
    let monolith = honest_monolith(&forum);
    // The server repeats secrets that it should not have got, in a field, a redirect and a note.
    let services = Server::start(move |path| match path.split('?').next().unwrap() {
        "/api/users/1" => Answer::new(302, "", "").with("location", "/login?next=bearer-sesame"),
        "/api/users/2" => Answer::new(200, "application/json; charset=utf-8", r#"{"id":2,"username":"bearer-sesame"}"#),
        "/api/users/3" => Answer::new(200, "text/bearer-sesame", "{}"),
        _ => split.as_services(path),
    });
    let [html, json, kept] =
        ["report.html", "report.json", "progress"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let with_secrets = |server: &Server, name: &str| {
        format!("http://me:{name}-p%40ss-sesame@{}/?token={name}-query-sesame", server.address)
    };
    let options = [
        "--input",
        &input,
        "--header",
        "Authorization: Bearer bearer-sesame",
        "--header",
        &format!("@{}", headers.display()),
        "--services-header",
        "X-Other: other-sesame",
        "--report",
        &html,
        "--report",
        &json,
        "--resume",
        &kept,
    ];
    let mut arguments = vec!["compare".to_owned(), "--json".to_owned()];
    arguments.extend([
        "--monolith".to_owned(),
        with_secrets(&monolith, "old"),
        "--services".to_owned(),
        with_secrets(&services, "new"),
    ]);
    arguments.extend(options.map(String::from));
    let output = seed(&arguments);
    let printed = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{printed}");
    for written in [&printed, &fs::read_to_string(&html).unwrap(), &fs::read_to_string(&json).unwrap()] {
        assert!(!written.contains("sesame"), "{written}");
        assert!(written.contains("/api/users/2"), "{written}");
    }
    let sent = monolith.take_requests();
    assert!(sent.iter().all(|request| request.path.ends_with("?token=old-query-sesame")), "{}", sent[0].path);
    for header in ["authorization: Bearer bearer-sesame", "x-key: key-sesame", "cookie: session=cookie-sesame"] {
        assert!(
            sent.iter().all(|request| request.headers.contains(&header.to_owned())),
            "{header}: {:?}",
            sent[0].headers
        );
    }
    assert!(!sent[0].headers.iter().any(|header| header.contains("other-sesame")));
    let sent = services.take_requests();
    // The services get the user and password of the URL, but not the monolith's headers.
    let basic = "authorization: Basic bWU6bmV3LXBAc3Mtc2VzYW1l".to_owned();
    assert!(sent.iter().all(|request| request.headers.contains(&basic)), "{:?}", sent[0].headers);
    assert!(sent.iter().all(|request| request.headers.contains(&"x-other: other-sesame".to_owned())));
    assert!(!sent.iter().any(|request| request.headers.iter().any(|header| header.contains("key-sesame"))));

    // Options can come from the environment; the help shows only the variables' names.
    let mut help = Command::new(program("seed"));
    ["SEED_HEADER", "SEED_SERVICES_HEADER", "SEED_MONOLITH", "SEED_SERVICES"]
        .iter()
        .for_each(|name| drop(help.env(name, "sesame").get_args()));
    let help = text(&help.args(["compare", "--help"]).output().unwrap().stdout);
    assert!(help.contains("SEED_HEADER") && !help.contains("sesame"), "{help}");

    // The comparison does not even begin.
    let nobody = format!("http://me:sesame-too@127.0.0.1:{}/?token=sesame-too", world::free_port());
    for more in [
        vec![],
        vec!["--header", "sesame-too"],
        vec!["--header", "X: sesame-too\u{7f}"],
        vec!["--report", "sesame.txt"],
    ] {
        let compared = compare(&nobody, &services.url(), &more);
        assert!([Some(2), Some(6)].contains(&compared.code), "{}", compared.printed());
        assert!(!compared.printed().contains("sesame-too"), "{}", compared.printed());
        assert!(compared.report["message"].is_string() && compared.report["exit_code"].is_u64(), "{}", compared.report);
    }
}

#[test]
fn the_reports_stand_alone_and_are_escaped() {
    let forum = Forum::with_posts(20);
    let (dir, input) = write_source(&forum);
    let evil = r"</pre><script>alert(1)</script>";
    let services = lying_services(&forum, move |path, answer| match path {
        "/api/users/1" => answer.edit(|body| body.replace("user-1", evil)),
        "/api/threads" => answer.edit(|_| "[]".to_owned()),
        _ => answer,
    });
    let [html, json] = ["report.html", "report.json"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let options = ["--input", &input, "--report", &html, "--report", &json];
    let compared = compare(&honest_monolith(&forum).url(), &services.url(), &options);
    assert_eq!(compared.code, Some(4), "{}", compared.printed());
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script") && !page.contains(evil), "{page}");
    for expected in [
        "<h2>Differences on /api/users/:id</h2>",
        "<h2>Differences on /api/threads</h2>",
        "2 paths are answered differently.",
        "color-scheme: light dark",
    ] {
        assert!(page.contains(expected), "{expected} is not in {page}");
    }
    assert!(!page.contains("http-equiv=\"refresh\"") && !page.contains("src=") && !page.contains("href="), "{page}");
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["differences"], compared.report["differences"]);
    assert_eq!(report["result"], "different");
    assert!(
        fs::read_dir(dir.path()).unwrap().all(|entry| !entry.unwrap().file_name().to_str().unwrap().ends_with(".part"))
    );
    let nowhere = dir.path().join("none/report.html");
    let compared = compare(&honest_monolith(&forum).url(), &services.url(), &["--report", nowhere.to_str().unwrap()]);
    assert_eq!((compared.code, &compared.report["kind"]), (Some(6), &"file_unusable".into()), "{}", compared.printed());
}

#[test]
fn a_monolith_behind_https_is_trusted_by_its_own_authority() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let config = Arc::new(config);

    let forum = Forum::with_posts(20);
    let (dir, input) = write_source(&forum);
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, pem).unwrap();
    let own = forum.clone();
    let monolith = Server::start_with(
        move |path| own.as_monolith(path),
        move |stream, serve| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            serve(&mut tls);
            tls.conn.send_close_notify();
            let _ = tls.flush();
        },
    );
    let services = honest_services(&forum);
    let url = format!("https://localhost:{}", monolith.address.port());
    let trusted = compare(&url, &services.url(), &["--input", &input, "--ca", ca.to_str().unwrap()]);
    assert_eq!(trusted.code, Some(0), "{}", trusted.printed());
    // Without the authority, the certificate is not trusted.
    let untrusted = compare(&url, &services.url(), &["--timeout", "5"]);
    assert_eq!(untrusted.code, Some(6), "{}", untrusted.printed());
    assert!(untrusted.report["message"].to_string().contains("certificate"), "{}", untrusted.report);
    let none = compare(&url, &services.url(), &["--ca", &input]);
    assert_eq!(none.code, Some(2), "{}", none.printed());
}

#[test]
fn a_comparison_keeps_its_rate_and_shows_its_progress() {
    let forum = Forum::with_posts(20);
    let (_dir, input) = write_source(&forum);
    let (monolith, services) = (honest_monolith(&forum), honest_services(&forum));
    let begin = Instant::now();
    let compared = compare(&monolith.url(), &services.url(), &["--input", &input, "--rate", "20", "--sample", "20"]);
    assert_eq!(compared.code, Some(0), "{}", compared.printed());
    assert_eq!(monolith.take_paths().len(), 20);
    // The first request goes at once.
    assert!(begin.elapsed() >= Duration::from_millis(19 * 50), "{:?}", begin.elapsed());
    for wrong in ["0", "-1", "x", "NaN"] {
        assert_eq!(compare(&monolith.url(), &services.url(), &["--rate", wrong]).code, Some(2), "{wrong}");
    }
}
