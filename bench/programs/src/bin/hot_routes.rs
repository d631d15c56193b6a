//! Sends requests to the connections and routes of posts, and to the floor, in one process without sockets, so that
//! callgrind can count the instructions of each. `bench/instructions` runs it.
//!
//! Each kind of request has a phase between two calls of [`mark`], after as many requests that warm up. Prints a line
//! a phase: the number of its requests, and its name.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bench_programs::Floor;
use clap::Parser;
use hyper::StatusCode;
use record::model::Collection;
use record::token::TokenFile;
use service::authorize::Writers;
use service::health::Health;
use service::logging::start_log;
use service::operate::Operator;
use service::routes::{Routes, routes};
use service::serve::serve_stream;
use service::state::State;
use store::fill::Slice;
use store::{Commit, Durability, Folder, OnDamage, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const POSTS: usize = 1000;
const IN_THREAD: usize = 20;
const SECRET: &str = "posts_of_a_bench";
const TEXT: &str = "post about the kettle and a line of bread, tea and radio in a long winter by the sea";

/// The bytes of answers that are repeated from memory, as by default.
const CACHE: u64 = 64 << 20;

/// How answers end. Looking for that costs the client less than reading their heads.
const ONE: &[u8] = b"}";
const LIST: &[u8] = b"]";
const CHUNKS: &[u8] = b"\r\n0\r\n\r\n";
const FLOOR: &[u8] = b"x\"";
const NO_BODY: &[u8] = b"\r\n\r\n";

/// The room between client and server. All answers but the whole list fit.
const PIPE: usize = 64 << 10;

/// Sends requests to the routes of posts, and to the floor
#[derive(Parser)]
struct Options {
    /// How many of each kind to send; a fiftieth of the whole list
    #[arg(long, default_value = "500")]
    requests: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let count = Options::parse().requests;
    start_log(None);
    let [folder, other] = [tempfile::tempdir()?, tempfile::tempdir()?];
    let (state, unkept) = (fill(folder.path())?, fill(other.path())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let posts = Server::Posts(Box::new(routes(&state, None, CACHE)));
        // Of its own, since a database has one memory for its pages.
        let reading = Server::Posts(Box::new(routes(&unkept, None, 0)));
        let one = |nth: usize| get(&format!("/api/posts/{}", nth * 7 % POSTS + 1), "");
        let thread = |nth: usize| get(&format!("/api/posts/in-thread/{}", nth * 7 % (POSTS / IN_THREAD) + 1), "");
        let all = |_| get("/api/posts", "");
        let mut client = posts.connect();
        client.ask(&one(1), ONE).await?;
        let bytes_of_one = client.body_bytes();
        let tag = client.header("etag").ok_or("a post has no tag")?;
        let known = |_| get("/api/posts/8", &format!("if-none-match: {tag}\r\n"));
        client.ask(&thread(1), LIST).await?;
        let bytes_of_thread = client.body_bytes();
        client.ask(&all(1), CHUNKS).await?;
        let bytes_of_all = client.body_bytes();
        let floor = |bytes| Server::Floor(Box::new(Floor::new(StatusCode::OK, bytes)));
        let floor_304 = Server::Floor(Box::new(Floor::new(StatusCode::NOT_MODIFIED, 0)));

        phase("one post", &posts, count, ("200", ONE), one).await?;
        phase("one post: floor", &floor(bytes_of_one), count, ("200", FLOOR), one).await?;
        phase("one post, not in memory", &reading, count, ("200", ONE), one).await?;
        phase("304", &posts, count, ("304", NO_BODY), known).await?;
        phase("304: floor", &floor_304, count, ("304", NO_BODY), known).await?;
        phase("20 posts of a thread", &posts, count, ("200", LIST), thread).await?;
        phase("20 posts of a thread: floor", &floor(bytes_of_thread), count, ("200", FLOOR), thread).await?;
        phase("20 posts of a thread, not in memory", &reading, count, ("200", LIST), thread).await?;
        phase("1,000 posts", &posts, count / 50, ("200", CHUNKS), all).await?;
        phase("1,000 posts: floor", &floor(bytes_of_all), count / 50, ("200", FLOOR), all).await?;
        phase("POST", &posts, count, ("201", ONE), |_| post()).await
    })
}

/// Makes posts' database in `folder` as a service does, and returns what its routes share.
fn fill(folder: &Path) -> Result<State, Box<dyn Error>> {
    let collection = Collection::embedded(include_str!("../../../../posts/collection.json"));
    let post = |nth: usize| format!(r#"{{"thread":{},"text":"{TEXT}","user":{}}}"#, nth / IN_THREAD + 1, nth % 100 + 1);
    let slice = folder.join("posts.json");
    fs::write(&slice, format!(r#"{{"posts":[{}]}}"#, (0..POSTS).map(post).collect::<Vec<_>>().join(",")))?;
    let tokens = TokenFile::default().with(&folder.join("tokens"), &"bench".parse()?, SECRET)?;
    let data = folder.join("data");
    fs::create_dir(&data)?;
    let folder = Folder::lock(&data)?;
    Slice::open(&slice)?.fill(&folder, collection)?;
    let redeclaration = folder.open(collection, Purpose::Serving, OnDamage::Refuse)?.redeclare()?;
    redeclaration.make(&AtomicBool::new(false))?;
    let store = redeclaration.store().clone();
    let commit = Commit::start(&store, Durability::Power)?;
    let writers = Arc::new(Writers::new(collection, tokens, None));
    let operator = Operator::new(store.clone(), commit.clone(), Arc::clone(&writers));
    Ok(State { store, commit, writers, replica: None, operator, health: Health::default() })
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:3003\r\n{headers}\r\n")
}

fn post() -> String {
    let body = format!(r#"{{"thread":7,"text":"{TEXT}","user":3}}"#);
    let headers = format!("authorization: Bearer {SECRET}\r\ncontent-type: application/json\r\n");
    let length = body.len();
    format!("POST /api/posts HTTP/1.1\r\nhost: 127.0.0.1:3003\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

/// Sends `count` requests to warm up, and as many to be counted.
async fn phase(
    name: &str,
    server: &Server,
    count: usize,
    (status, end): (&str, &[u8]),
    request: impl Fn(usize) -> String,
) -> Result<(), Box<dyn Error>> {
    let requests: Vec<String> = (0..count).map(request).collect();
    let mut client = server.connect();
    for is_counted in [false, true] {
        if is_counted {
            mark();
        }
        for request in &requests {
            client.ask(request, end).await?;
            if client.answer.get(9..12) != Some(status.as_bytes()) {
                return Err(format!("{name}: {}", String::from_utf8_lossy(&client.answer)).into());
            }
        }
    }
    mark();
    println!("{count} {name}");
    Ok(())
}

/// Callgrind writes down its counts and begins anew where this function begins.
#[inline(never)]
fn mark() {
    black_box(());
}

enum Server {
    Posts(Box<Routes>),
    Floor(Box<Floor>),
}

impl Server {
    fn connect(&self) -> Client {
        let (stream, server) = duplex(PIPE);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
        match self {
            Self::Posts(routes) => drop(tokio::spawn(serve_stream(server, Routes::clone(routes), address))),
            Self::Floor(floor) => drop(tokio::spawn(Floor::clone(floor).serve(server))),
        }
        Client { stream, answer: Vec::with_capacity(1 << 20) }
    }
}

/// A client of one connection.
struct Client {
    stream: DuplexStream,
    answer: Vec<u8>,
}

impl Client {
    /// Sends a request and reads the answer, which ends with `end`.
    async fn ask(&mut self, request: &str, end: &[u8]) -> Result<(), Box<dyn Error>> {
        self.stream.write_all(request.as_bytes()).await?;
        self.answer.clear();
        while !self.answer.ends_with(end) {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(format!("no answer ends here: {}", String::from_utf8_lossy(&self.answer)).into());
            }
        }
        Ok(())
    }

    /// Returns the length of the answer's body.
    fn body_bytes(&self) -> usize {
        let head = self.answer.windows(NO_BODY.len()).position(|end| end == NO_BODY);
        head.map_or(0, |end| self.answer.len() - end - NO_BODY.len())
    }

    /// Returns a header of the answer.
    fn header(&self, name: &str) -> Option<String> {
        let lines = self.answer.split(|byte| *byte == b'\n').take_while(|line| line.len() > 1);
        let mut lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
        lines.find_map(|line| Some(line.split_once(": ").filter(|(key, _)| *key == name)?.1.trim().to_owned()))
    }
}
