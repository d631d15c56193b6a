//! The entrance and real services under attack: what clients do to each other, and what they may not.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;

use world::posts::{self, SECRET};
use world::{PATIENCE, Process, free_port, root, split, tool, try_get, wait_for};

/// Posts with a few records and tokens, behind the entrance.
struct World {
    entrance: Process,
    address: SocketAddr,
    _posts: Process,
    _folder: tempfile::TempDir,
}

impl World {
    /// Starts both with settings of the entrance. Returns `None` without HAProxy.
    fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let haproxy = tool("haproxy", "the entrance")?;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        split(&world::sample(), &data);
        let (service, posts) = posts::start(&data);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(haproxy);
        command.args(["-db", "-f"]).arg(root().join("gateway/haproxy.cfg")).env("ENTRANCE", address.to_string());
        command.envs(["USERS", "THREADS", "POSTS"].map(|group| (group, posts.to_string())));
        command.envs(settings.iter().copied());
        let entrance = Process::start(&mut command);
        wait_for("the entrance", || try_get(address, "/api/posts/1").is_some_and(|answer| answer.0 == 200));
        Some(Self { entrance, address, _posts: service, _folder: folder })
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
