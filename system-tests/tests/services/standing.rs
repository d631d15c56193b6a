//! The entrance and real services under attack: what clients do to each other, and what they may not.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use world::posts::{self, Client, SECRET};
use world::{PATIENCE, Process, free_port, root, split, tool, try_get, wait_for};

/// Posts with a few records and tokens, behind the entrance.
struct World {
    entrance: Process,
    address: SocketAddr,
    posts: Process,
    folder: tempfile::TempDir,
}

impl World {
    /// Starts both with settings of the entrance. Returns `None` without HAProxy.
    fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let haproxy = tool("haproxy", "the entrance")?;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        split(&world::sample(), &data);
        // The memory for answers is soon full: what grows in an hour is not that.
        let mut service = Process::start(posts::service(&data).args(["--cache", "8"]));
        let posts = service.await_line(" on http://").trim().parse::<SocketAddr>().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(haproxy);
        command.args(["-db", "-f"]).arg(root().join("gateway/haproxy.cfg")).env("ENTRANCE", address.to_string());
        command.envs(["USERS", "THREADS", "POSTS"].map(|group| (group, posts.to_string())));
        command.envs(settings.iter().copied());
        let entrance = Process::start(&mut command);
        wait_for("the entrance", || try_get(address, "/api/posts/1").is_some_and(|answer| answer.0 == 200));
        Some(Self { entrance, address, posts: service, folder })
    }
}

/// Sends `bytes` and returns everything until the connection ends; what came before an error counts.
fn send(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_refused_write_gets_its_answer_however_long_its_body() {
    let Some(world) = World::start(&[]) else { return };
    let token = format!("authorization: Bearer {SECRET}\r\n");
    for (fields, status) in [("content-type: application/json\r\n", 401), (&*token, 415)] {
        let head = "POST /api/posts HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 65000\r\n";
        let request = format!("{head}{fields}\r\n{}", "a".repeat(65_000));
        let lost: usize = thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let expected = format!("HTTP/1.1 {status} ");
                        (0..100).filter(|_| !send(world.address, request.as_bytes()).starts_with(&expected)).count()
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        assert_eq!(lost, 0, "of 800 answers of {status}");
        let cut = world.entrance.log().lines().filter(|line| line.contains(" SD-- ")).count();
        assert_eq!(cut, 0, "the log calls answers of {status} cut");
    }
}

#[test]
fn a_request_with_a_hundred_fields_is_answered() {
    let Some(world) = World::start(&[]) else { return };
    let fields: String = (0..98).map(|number| format!("x-{number}: a\r\n")).collect();
    let request = format!("GET /api/posts/1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
    let answer = send(world.address, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// Returns the clients of single posts in the log of posts: each connection of the entrance is one.
fn connections_of(posts: &Process) -> BTreeSet<String> {
    let log = posts.log();
    let of_client = |line: &str| Some(line.split_once(" client=")?.1.split(' ').next()?.to_owned());
    log.lines().filter(|line| line.contains("/api/posts/1")).filter_map(of_client).collect()
}

#[test]
fn the_entrance_keeps_its_connections_to_a_service_while_many_clients_are_connected() {
    let Some(world) = World::start(&[("CONNECTIONS", "128")]) else { return };
    let ask = |stream: &mut TcpStream, path: &str| {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
        let length = stream.read(&mut [0; 4096]).unwrap();
        assert!(length > 0, "{path}");
    };
    let connect = || {
        let stream = TcpStream::connect(world.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // The entrance answers these itself.
    let mut idle: Vec<TcpStream> = (0..80).map(|_| connect()).collect();
    idle.iter_mut().for_each(|stream| ask(stream, "/api"));
    let mut client = connect();
    for _ in 0..50 {
        ask(&mut client, "/api/posts/1");
    }
    let count = || world.posts.log().lines().filter(|line| line.contains("/api/posts/1")).count();
    wait_for("the access log", || count() >= 50);
    let connections = connections_of(&world.posts);
    assert!((1..10).contains(&connections.len()), "{connections:?}");
}

/// The default of `SOAK`, the seconds of the soak.
const SOAK: u64 = 60;

/// The posts that a client of the soak keeps: for each new one it deletes its oldest.
const KEPT: usize = 50;

/// A client of the soak: a forum's mix of reads, and one write in ten requests.
struct Reader {
    client: Client,
    random: fastrand::Rng,
    own: VecDeque<String>,
}

impl Reader {
    /// Sends one request and checks its answer.
    fn ask(&mut self) {
        let (method, path, body) = match self.random.u8(..100) {
            0..75 => ("GET", format!("/api/posts/in-thread/{}", self.random.u8(1..20)), ""),
            75..85 => ("GET", self.own.back().map_or("/api/posts/1", String::as_str).to_owned(), ""),
            85..90 => ("GET", "/api/posts".to_owned(), ""),
            90..93 if !self.own.is_empty() => ("PATCH", self.own[self.own.len() / 2].clone(), r#"{"text":"changed"}"#),
            _ if self.own.len() >= KEPT => ("DELETE", self.own.pop_front().unwrap_or_default(), ""),
            _ => ("POST", "/api/posts".to_owned(), ""),
        };
        let text = "a line of bread, tea and radio ".repeat(self.random.usize(1..30));
        let new = format!(r#"{{"thread":{},"text":"{text}","user":1}}"#, self.random.u8(1..20));
        let answer = self.client.send(method, &path, &[], if method == "POST" { &new } else { body });
        let expected = if method == "POST" {
            201
        } else if method == "DELETE" {
            204
        } else {
            200
        };
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.body);
        if method == "POST" {
            self.own.push_back(answer.location);
        }
    }
}

/// What a process and the database use.
#[derive(Debug)]
struct Use {
    resident: u64,
    descriptors: usize,
    disk: u64,
}

const MIB: u64 = 1 << 20;

impl World {
    fn measure(&self) -> Use {
        let process = format!("/proc/{}", self.posts.id());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident = resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
        let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().count();
        Use { resident, descriptors, disk: size(&self.folder.path().join("data/posts")) }
    }
}

/// Returns the bytes of all files below `folder`.
fn size(folder: &Path) -> u64 {
    // A file may go while the folder is read.
    let sizes = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { size(&entry.path()) } else { metadata.len() })
    });
    sizes.sum()
}

#[test]
fn an_hour_of_reads_and_writes_leaves_no_more_behind_than_a_minute() {
    let Some(world) = World::start(&[]) else { return };
    let length = Duration::from_secs(env::var("SOAK").map_or(SOAK, |soak| soak.parse().expect("SOAK is a number")));
    let idle = world.measure().descriptors;
    let begin = Instant::now();
    // Warm after a fifth: caches and the allocator are filled, and each client has its posts.
    let (warm, mut early, mut late) = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|seed| {
                let random = fastrand::Rng::with_seed(seed);
                let mut reader = Reader { client: Client::new(world.address), random, own: VecDeque::new() };
                scope.spawn(move || {
                    let mut micros = (Vec::new(), Vec::new());
                    while begin.elapsed() < length {
                        let asked = Instant::now();
                        reader.ask();
                        let took = asked.elapsed().as_micros();
                        let at = begin.elapsed();
                        if at < length / 5 {
                            micros.0.push(took);
                        } else if at > length * 4 / 5 {
                            micros.1.push(took);
                        }
                    }
                    micros
                })
            })
            .collect();
        while begin.elapsed() < length / 5 {
            thread::sleep(Duration::from_millis(100));
        }
        let warm = world.measure();
        let (early, late): (Vec<_>, Vec<_>) = clients.into_iter().map(|client| client.join().unwrap()).unzip();
        (warm, early.concat(), late.concat())
    });
    let end = world.measure();
    let p99 = |micros: &mut Vec<u128>| {
        micros.sort_unstable();
        micros.get(micros.len() * 99 / 100).map_or(0.0, |micros| *micros as f64 / 1000.0)
    };
    let (first, last) = (p99(&mut early), p99(&mut late));
    println!("{} s, {} and {} requests in the first and the last fifth", length.as_secs(), early.len(), late.len());
    println!("p99 {first:.1} and {last:.1} ms; after a fifth {warm:?}, at the end {end:?}");
    assert!(end.resident < warm.resident + 32 * MIB, "{} then {} bytes of memory", warm.resident, end.resident);
    assert!(end.disk < 2 * warm.disk + 32 * MIB, "{} then {} bytes on the disk", warm.disk, end.disk);
    // The entrance keeps connections to posts for its next clients.
    wait_for("descriptors to go", || world.measure().descriptors <= idle + 8);
}
