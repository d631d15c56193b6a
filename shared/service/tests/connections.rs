//! Tests of a service's connections: clients that hold one without using it lose it, and others are served meanwhile.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use record::sample;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service::connection::{CONNECTIONS, HEAD_TIMEOUT, LISTS, STALL_TIMEOUT};
use service::read;
use service::routes::OwnRoutes;
use service::testing::{App, bearer};
use store::Store;
use warp::Filter;

const RECORD: &str = r#"{"id":1,"thread":1,"text":"t","user":1}"#;

/// Returns a route with a list that does not end, of the record 2, which is long.
fn endless(posts: &Store) -> OwnRoutes {
    let store = posts.clone();
    let endless = warp::path("endless").map(move || {
        let records = store.clone();
        read::list(&store, move || {
            let store = records.clone();
            (0..).map(move |_: u64| Ok(store.get("2".parse().unwrap())?.unwrap()))
        })
    });
    endless.boxed()
}

fn spawn_app() -> App {
    // Both ends of each connection are in this process.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let long = format!(r#"{{"id":2,"thread":2,"text":"{}","user":1}}"#, "a".repeat(16_000));
    App::spawn_with(sample::posts(), endless, [RECORD, &long])
}

/// Opens a connection and sends `bytes`.
fn open(app: &App, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(app.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// Returns the first bytes of the answer.
fn begin(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 300];
    let length = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

const LIST: &str = "GET /api/posts/endless HTTP/1.1\r\nhost: a\r\n\r\n";
const ONE: &str = "GET /api/posts/1 HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn a_client_that_does_not_read_its_list_loses_its_connection() {
    let app = spawn_app();
    let (began, stream) = (Instant::now(), open(&app, LIST));
    let error = loop {
        if let Some(error) = stream.take_error().unwrap() {
            break error;
        }
        assert!(began.elapsed() < 4 * STALL_TIMEOUT, "it is still open");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(began.elapsed() >= STALL_TIMEOUT, "{:?}", began.elapsed());
}

#[test]
fn a_client_that_reads_slowly_but_enough_keeps_its_connection() {
    let app = spawn_app();
    let mut stream = open(&app, "");
    // With a large buffer, the client's system takes nothing for a while, and then much at once.
    set_socket_recv_buffer_size(&stream, 32 << 10).unwrap();
    stream.write_all(LIST.as_bytes()).unwrap();
    let began = Instant::now();
    let mut bytes = vec![0; 16 << 10];
    // More than twice of what it has to take.
    while began.elapsed() < 2 * STALL_TIMEOUT {
        stream.read_exact(&mut bytes).unwrap();
        thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn lists_have_a_share_of_the_connections_and_leave_the_rest_to_others() {
    let app = spawn_app();
    let mut lists = Vec::new();
    // On a slow machine, the first ones end meanwhile.
    let refused = loop {
        let mut list = open(&app, LIST);
        let answer = begin(&mut list);
        if !answer.starts_with("HTTP/1.1 200") {
            break answer;
        }
        lists.push(list);
    };
    assert!(lists.len() >= LISTS, "{}", lists.len());
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 5\r\n"), "{refused}");
    assert!(refused.contains("Too many lists are being sent; try again later."), "{refused}");
    // A short list needs no share.
    for path in ["/api/posts/1", "/api/posts", "/api/posts/in-thread/1"] {
        assert_eq!(app.get(path).status, 200, "{path}");
    }
    lists.pop();
    let began = Instant::now();
    while !begin(&mut open(&app, LIST)).starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < Duration::from_secs(20), "the place is not given back");
    }
}

#[test]
fn a_head_that_trickles_in_is_ended_and_an_idle_connection_is_kept() {
    let app = spawn_app();
    let mut idle = open(&app, ONE);
    assert!(begin(&mut idle).ends_with(RECORD));
    let mut slow = open(&app, "GET /api/posts/1 HTTP/1.1\r\n");
    let began = Instant::now();
    while slow.write_all(b"x: y\r\n").is_ok() {
        assert!(began.elapsed() < 4 * HEAD_TIMEOUT, "it is still open");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() >= HEAD_TIMEOUT, "{:?}", began.elapsed());
    idle.write_all(ONE.as_bytes()).unwrap();
    assert!(begin(&mut idle).ends_with(RECORD));
}

/// The clients of an attack hold more connections than there are.
#[test]
fn connections_that_wait_for_a_request_make_room_for_one_that_has_one() {
    for bytes in ["", "GET /api/posts/1 HTTP/1.1\r\n", ONE] {
        let app = spawn_app();
        let mut held: Vec<TcpStream> = (0..CONNECTIONS + 50).map(|_| open(&app, bytes)).collect();
        let began = Instant::now();
        for _ in 0..10 {
            assert_eq!(app.get("/api/posts/1").body, RECORD);
        }
        assert!(began.elapsed() < HEAD_TIMEOUT / 2, "{bytes:?} for {:?}", began.elapsed());
        // The others are kept.
        let last = held.last_mut().unwrap();
        last.write_all(if bytes.is_empty() { ONE.as_bytes() } else { b"host: a\r\n\r\n" }).unwrap();
        assert!(begin(last).starts_with("HTTP/1.1 "));
    }
}

/// The clients of a load test hold all connections, and ask without a pause.
#[test]
fn busy_clients_do_not_keep_others_out() {
    let app = spawn_app();
    let is_over = AtomicBool::new(false);
    let (asked, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| open(&app, ONE)).collect();
    streams.iter_mut().for_each(|stream| assert!(begin(stream).ends_with(RECORD)));
    thread::scope(|scope| {
        for streams in streams.chunks_mut(CONNECTIONS / 8) {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    // A client that does not ask within two seconds, on a slow machine, may lose its place without an answer.
                    streams.iter_mut().for_each(|stream| drop(stream.write_all(ONE.as_bytes())));
                    for stream in streams.iter_mut() {
                        asked.fetch_add(1, Relaxed);
                        let mut bytes = [0; 300];
                        let length = stream.read(&mut bytes).unwrap_or_default();
                        let is_last = String::from_utf8_lossy(&bytes[..length]).contains("connection: close");
                        left.fetch_add(usize::from(is_last), Relaxed);
                        if is_last || length == 0 {
                            *stream = open(&app, "");
                        }
                    }
                }
            });
        }
        let newcomers = scope.spawn(|| {
            while asked.load(Relaxed) < 2 * CONNECTIONS {
                thread::yield_now();
            }
            let (mut served, mut lost) = (0, 0);
            while served < 20 {
                match &*begin(&mut open(&app, ONE)) {
                    // On a slow machine, more than a tenth of a second may pass between the two: then it looks silent.
                    "" => lost += 1,
                    answer => {
                        assert!(answer.ends_with(RECORD), "{answer}");
                        served += 1;
                    }
                }
                assert!(lost < 20, "{served} newcomers are served, and {lost} are not");
            }
        });
        let served = newcomers.join();
        is_over.store(true, Relaxed);
        served.unwrap();
    });
    assert!(left.into_inner() > 0, "nobody was asked to leave");
}

#[test]
fn a_body_that_trickles_in_is_408() {
    let app = App::spawn_writable(sample::posts(), [RECORD]);
    let fields = format!("authorization: {}\r\ncontent-type: application/json", bearer(sample::posts()));
    let mut stream =
        open(&app, &format!("POST /api/posts HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n{fields}\r\n\r\n"));
    let mut answer = stream.try_clone().unwrap();
    let began = Instant::now();
    let answer = thread::spawn(move || begin(&mut answer));
    while !answer.is_finished() {
        let _ = stream.write_all(&[b' '; 100]);
        thread::sleep(Duration::from_millis(100));
    }
    assert!(answer.join().unwrap().starts_with("HTTP/1.1 408 "));
    // Far less than it takes at that pace.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_request_names_one_host() {
    let app = spawn_app();
    for (fields, version, status) in [
        ("host: a\r\n", "1.1", 200),
        ("host: a.example:80\r\n", "1.1", 200),
        ("host: 127.0.0.1:\r\n", "1.1", 200),
        ("host: [::1]:3000\r\n", "1.1", 200),
        ("host:\r\n", "1.1", 200),
        ("", "1.0", 200),
        ("", "1.1", 400),
        ("host: a\r\nhost: a\r\n", "1.1", 400),
        ("host: a\r\nhost: b\r\n", "1.0", 400),
        ("host: a b\r\n", "1.1", 400),
        ("host: a/b\r\n", "1.1", 400),
        ("host: user@a\r\n", "1.1", 400),
        ("host: a:80:80\r\n", "1.1", 400),
        ("host: [::1\r\n", "1.1", 400),
        ("host: a:b\r\n", "1.1", 400),
    ] {
        let answer =
            app.raw(format!("GET /api/posts/1 HTTP/{version}\r\n{fields}connection: close\r\n\r\n").as_bytes());
        assert!(answer.starts_with(&format!("HTTP/{version} {status} ")), "{fields:?}: {answer}");
    }
}
