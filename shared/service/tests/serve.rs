//! Tests of what `serve` adds to the routes: a panic fails only its own request, and the access log names requests and
//! the tokens that wrote.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use record::sample;
use record::token::{TokenFile, secret};
use service::authorize::Writers;
use service::logging::log_panics;
use service::read;
use service::reply::Answer;
use service::routes::OwnRoutes;
use service::testing::App;
use store::Store;
use warp::Filter;
use warp::http::HeaderMap;
use warp::reply::Response;

const RECORD: &str = r#"{"id":1,"thread":1,"text":"t","user":1}"#;
const FAILED: &str = r#"{"type":"/api/posts/-/problems#panicked","title":"Internal Server Error","status":500,"detail":"The service failed; its log says why."}"#;

/// The log of this test's process.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        // The tests' client is not part of a service.
        if record.target().starts_with("ureq") {
            return;
        }
        let line = format!("{} {}: {}", record.level(), record.target(), record.args());
        // Shows a test's own failures too.
        if record.level() <= log::Level::Info {
            eprintln!("{line}");
        }
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

fn lines_with(text: &str) -> Vec<String> {
    LOG.0.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
}

/// The secret of the token `ci`.
static SECRET: LazyLock<String> = LazyLock::new(|| secret(sample::posts(), *b"0123456789abcdef0123456789abcdef"));

/// Returns tokens with `ci` alone.
fn tokens() -> Writers {
    let file = TokenFile::default().with(Path::new("f"), &"ci".parse().unwrap(), &SECRET).unwrap();
    Writers::new(sample::posts(), file, None)
}

/// Returns a route that answers requests with a token that may write.
fn write(path: &'static str, writers: Writers) -> impl Filter<Extract = (Answer,), Error = warp::Rejection> + Clone {
    let writers = Arc::new(writers);
    warp::path(path).and(warp::header::headers_cloned()).map(move |headers: HeaderMap| {
        let writer = writers.authorize(&headers)?;
        let mut response = Response::new("written".into());
        response.extensions_mut().insert(writer);
        Ok(response)
    })
}

/// Returns two routes that panic, one at once and one in the middle of its list, and two that need a token, one of them
/// on a read-only service.
fn own(posts: &Store) -> OwnRoutes {
    let at_once = warp::path("at-once").map(|| -> Answer { panic!("no record\nINFO access > forged") });
    let store = posts.clone();
    let midway = warp::path("midway").map(move || {
        let (records, store) = (store.clone(), store.clone());
        read::list(&store, move || {
            let store = records.clone();
            (0..).map(move |number| {
                assert!(number < 50_000, "the list broke at {number}");
                Ok(store.get("1".parse().unwrap())?.unwrap())
            })
        })
    });
    let writes = write("write", tokens()).or(write("closed", Writers::none(sample::posts()))).unify();
    at_once.or(midway).unify().or(writes).unify().boxed()
}

fn spawn_app() -> App {
    // Only the first test sets the logger.
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
        log_panics();
    }
    App::spawn_with(sample::posts(), own, [RECORD])
}

#[test]
fn a_panic_costs_one_request_a_500_and_one_line_of_the_log() {
    let app = spawn_app();
    let mut other = TcpStream::connect(app.address).unwrap();
    other.write_all(b"GET /api/posts/1 HTTP/1.1\r\nhost: a\r\n").unwrap();
    for _ in 0..3 {
        let answer = app.get("/api/posts/at-once?first");
        assert_eq!((answer.status, answer.body.as_str()), (500, FAILED));
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    // Neither its own connection nor another one suffers.
    let both = app.raw(
        b"GET /api/posts/at-once HTTP/1.1\r\nhost: a\r\n\r\nGET /api/posts/1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert!(both.starts_with("HTTP/1.1 500") && both.contains("HTTP/1.1 200") && both.ends_with(RECORD), "{both}");
    other.write_all(b"connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(RECORD), "{answer}");

    let causes = lines_with("no record");
    assert_eq!(causes.len(), 4, "{causes:?}");
    let begin = format!("ERROR panic: panicked at {}:", file!());
    for cause in causes {
        assert!(cause.starts_with(&begin) && cause.ends_with(r#": "no record\nINFO access > forged""#), "{cause}");
    }
    let access = lines_with("/api/posts/at-once?first");
    assert!(access.len() == 3 && access.iter().all(|line| line.contains(" status=500 ")), "{access:?}");
}

#[test]
fn a_list_that_panics_in_the_middle_is_cut_off() {
    let app = spawn_app();
    for _ in 0..3 {
        let answer = app.raw(b"GET /api/posts/midway HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(RECORD), "{answer:.200}");
        assert!(answer.contains("transfer-encoding: chunked") && !answer.ends_with("0\r\n\r\n"), "it ends as if whole");
    }
    assert_eq!(app.get("/api/posts/1").body, RECORD);
    let causes = lines_with("the list broke at 50000");
    assert_eq!(causes.len(), 3, "{causes:?}");
}

#[test]
fn only_a_safe_request_id_is_logged() {
    let app = spawn_app();
    let longest = "x".repeat(64);
    let too_long = "x".repeat(65);
    for (number, (id, logged)) in [
        ("7f0a-1.B_c", true),
        (longest.as_str(), true),
        (too_long.as_str(), false),
        ("", false),
        ("two words", false),
        ("a=b", false),
        ("\"quoted\"", false),
        ("caf\u{e9}", false),
    ]
    .into_iter()
    .enumerate()
    {
        let request = format!(
            "GET /api/posts/1?id-{number} HTTP/1.1\r\nhost: a\r\nX-Request-Id: {id}\r\nconnection: close\r\n\r\n"
        );
        // The parameter is unknown, and tells the lines apart.
        assert!(app.raw(request.as_bytes()).starts_with("HTTP/1.1 400"), "{id}");
        let lines = lines_with(&format!("/api/posts/1?id-{number}\""));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].ends_with(&format!(" id={id}")), logged, "{}", lines[0]);
        assert!(logged || !lines[0].contains(" id="), "{}", lines[0]);
    }
    app.get("/api/posts/1?none");
    assert!(!lines_with("/api/posts/1?none")[0].contains(" id="));
}

#[test]
fn the_access_log_names_the_token_and_no_log_line_has_its_secret() {
    let app = spawn_app();
    let refused = |kind: &str, title: &str, status: u16, detail: &str| {
        format!(r#"{{"type":"/api/posts/-/problems#{kind}","title":"{title}","status":{status},"detail":"{detail}"}}"#)
    };
    let read_only = refused(
        "read-only",
        "Forbidden",
        403,
        "This service is read-only. To allow writes, start it with --write-token-file FILE; `seed token posts` makes a token and its file.",
    );
    let missing = refused(
        "unauthorized",
        "Unauthorized",
        401,
        "Writing needs a token of the service posts; send it once, as `Authorization: Bearer`.",
    );
    let unknown = refused(
        "unauthorized",
        "Unauthorized",
        401,
        "The token is not one of the service posts; send it once, as `Authorization: Bearer`.",
    );
    let challenge = r#"www-authenticate: Bearer realm="posts""#;
    let secret = SECRET.as_str();
    let not_quite = secret.replace('0', "1");
    for (path, shown, status, header, body, name) in [
        ("write?case-0", format!("Authorization: Bearer {secret}\r\n"), 200, "", "written", " token=ci"),
        ("write?case-1", String::new(), 401, challenge, &missing, ""),
        (
            "write?case-2",
            format!("Authorization: Bearer {not_quite}\r\n"),
            401,
            "error=\"invalid_token\"",
            &unknown,
            "",
        ),
        ("write?case-3", format!("Cookie: access_token={secret}\r\n"), 401, challenge, &missing, ""),
        ("closed?case-4", format!("Authorization: Bearer {secret}\r\n"), 403, "", &read_only, ""),
        ("%31", format!("Authorization: Bearer {secret}\r\n"), 200, "", RECORD, ""),
    ] {
        let request =
            format!("GET /api/posts/{path} HTTP/1.1\r\nhost: a\r\nX-Request-Id: r\r\n{shown}connection: close\r\n\r\n");
        let answer = app.raw(request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(header) && answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        assert_eq!(answer.contains("www-authenticate"), status == 401, "{answer}");
        let lines = lines_with(&format!("/api/posts/{path}\" status={status} "));
        assert!(lines.len() == 1 && lines[0].ends_with(&format!(" id=r{name}")), "{lines:?}");
    }
    for query in ["access_token=SECRET", "a=b&API_KEY=SECRET", "access%5Ft%6Fken=SECRET"] {
        app.get(&format!("/api/posts/1/?{}", query.replace("SECRET", secret)));
    }
    assert_eq!(lines_with("path=\"/api/posts/1/?...\"").len(), 3);
    assert!(lines_with("access: ").len() > 5, "the log is there");
    for secret in [secret, &not_quite] {
        assert_eq!(lines_with(&secret["posts_".len()..]), Vec::<String>::new());
    }
}
