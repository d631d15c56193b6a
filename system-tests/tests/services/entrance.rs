//! The entrance as a load balancer: the real HAProxy before targets that misbehave, one property per test.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;
use world::{PATIENCE, Process, free_port, get, root, skip, text, tool, wait_for};

// ---- The targets.

/// A request as a strict target reads it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    head: String,
    body: String,
}

impl Request {
    /// Returns method and path.
    fn asked(&self) -> &str {
        self.head.rsplit_once(" HTTP/1.").map_or(&self.head, |(asked, _)| asked.lines().next().unwrap())
    }

    /// Returns every value of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// A connection's state after a request.
#[derive(PartialEq)]
pub(crate) enum Then {
    Keep,
    Close,
}

type Act = dyn Fn(&Request, &mut TcpStream) -> Then + Send + Sync;

/// A target, healthy by default, that answers requests as the test says.
pub(crate) struct Target {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

struct State {
    act: Box<Act>,
    seen: Mutex<Vec<Request>>,
    /// The number of checks to fail from now on; all if negative.
    failing: AtomicIsize,
    /// Checks get no answer.
    mute: AtomicBool,
    passed: AtomicUsize,
    failed: AtomicUsize,
    stopped: AtomicBool,
    /// Connections are reset before a request is read.
    abrupt: AtomicBool,
    /// Connections are left in the listener's queue.
    paused: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Target {
    pub(crate) fn start(act: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), act)
    }

    fn start_at(address: SocketAddr, act: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static) -> Self {
        let state = State {
            act: Box::new(act),
            seen: Mutex::default(),
            failing: AtomicIsize::new(0),
            mute: AtomicBool::new(false),
            passed: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            abrupt: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            open: Mutex::default(),
        };
        let mut target = Self { address, state: Arc::new(state), accepting: None };
        target.listen();
        target
    }

    fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        self.state.stopped.store(false, SeqCst);
        let state = Arc::clone(&self.state);
        self.accepting = Some(thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                while state.paused.load(SeqCst) && !state.stopped.load(SeqCst) {
                    thread::sleep(Duration::from_millis(10));
                }
                if state.stopped.load(SeqCst) {
                    break;
                }
                state.open.lock().unwrap().push(stream.try_clone().unwrap());
                let state = Arc::clone(&state);
                thread::spawn(move || state.serve(stream));
            }
        }));
    }

    /// Stops listening and closes open connections.
    fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.state.stopped.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        accepting.join().unwrap();
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn fail_checks(&self, how_many: isize) {
        self.state.failing.store(how_many, SeqCst);
    }

    fn passed(&self) -> usize {
        self.state.passed.load(SeqCst)
    }

    fn failed(&self) -> usize {
        self.state.failed.load(SeqCst)
    }

    /// Returns the requests so far, except health checks.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Returns method, path and body of each request so far.
    fn asked(&self) -> Vec<String> {
        let asked = |request: &Request| format!("{} {}", request.asked(), request.body).trim_end().to_owned();
        self.seen().iter().map(asked).collect()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut begin = [0; 10];
        if self.abrupt.load(SeqCst) && stream.peek(&mut begin).is_ok() && &begin != b"GET /ready" {
            self.seen.lock().unwrap().push(Request::default());
            // Closing a socket with unread bytes resets the connection; the other handle would keep it open.
            self.open.lock().unwrap().clear();
            return;
        }
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            let stream = reader.get_mut();
            // The monolith's health check is an HTTP/1.0 request of its root.
            let then = if request.head.starts_with("GET /ready ") || request.head.starts_with("GET / HTTP/1.0") {
                self.check(stream)
            } else {
                self.seen.lock().unwrap().push(request.clone());
                (self.act)(&request, stream)
            };
            if then == Then::Close {
                break;
            }
        }
        let _ = reader.get_ref().shutdown(Shutdown::Both);
    }

    fn check(&self, stream: &mut TcpStream) -> Then {
        if self.mute.load(SeqCst) {
            return hang(stream);
        }
        let left = self.failing.load(SeqCst);
        let (status, count) = if left == 0 { ("200 OK", &self.passed) } else { ("503 No", &self.failed) };
        if left > 0 {
            self.failing.store(left - 1, SeqCst);
        }
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        count.fetch_add(1, SeqCst);
        Then::Close
    }
}

/// Reads one request: its head, and its body as the header fields say.
fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut request = Request::default();
    while !request.head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut request.head).ok()? == 0 {
            return None;
        }
    }
    let mut body = Vec::new();
    if !request.values("transfer-encoding").is_empty() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            body.extend(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let [length] = request.values("content-length")[..] {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    }
    request.body = text(&body);
    Some(request)
}

/// Answers each request with a text.
fn says(body: &'static str) -> impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static {
    move |request, stream| {
        let sent = if request.head.starts_with("HEAD ") { "" } else { body };
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{sent}", body.len());
        Then::Keep
    }
}

/// Writes any bytes, which need not be an answer, and closes.
pub(crate) fn writes(bytes: &'static str) -> impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static {
    move |_, stream| {
        let _ = stream.write_all(bytes.as_bytes());
        Then::Close
    }
}

/// Answers nothing until the other side gives up.
fn hang(stream: &mut TcpStream) -> Then {
    let _ = stream.read_to_end(&mut Vec::new());
    Then::Close
}

/// Answers with a text, but holds requests to `/held` until the sender is used.
fn holds(body: &'static str) -> (mpsc::Sender<()>, impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static) {
    let (go, gone) = mpsc::channel();
    let gone = Mutex::new(gone);
    let act = move |request: &Request, stream: &mut TcpStream| {
        if request.asked().ends_with("/held") {
            let _ = gone.lock().unwrap().recv_timeout(PATIENCE);
        }
        says(body)(request, stream)
    };
    (go, act)
}

/// A DNS server that knows one name: `posts.test`.
struct Names {
    address: SocketAddr,
    known: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Names {
    fn start(known: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let names = Self { address: socket.local_addr().unwrap(), known: Arc::new(Mutex::new(known.to_vec())) };
        let known = Arc::clone(&names.known);
        thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok((_, asker)) = socket.recv_from(&mut packet) {
                // The question has a name that ends with an empty label, a type and a class.
                let name = packet[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
                let question = &packet[12..12 + name + 4];
                let (labels, kind) = (&question[..name], question[name + 1]);
                let addresses = match kind {
                    1 if labels == b"\x05posts\x04test\0" => known.lock().unwrap().clone(),
                    _ => Vec::new(),
                };
                let mut answer = packet[..2].to_vec();
                answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
                answer.extend(question);
                for address in addresses {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                    answer.extend(address.octets());
                }
                let _ = socket.send_to(&answer, asker);
            }
        });
        names
    }

    fn set(&self, known: &[Ipv4Addr]) {
        *self.known.lock().unwrap() = known.to_vec();
    }
}

/// Loopback addresses for replicas, which share a port.
const REPLICAS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

/// Returns a port that is free at all [`REPLICAS`].
fn replicas_port() -> Option<u16> {
    for _ in 0..100 {
        let port = free_port();
        match REPLICAS.map(|address| TcpListener::bind((address, port))) {
            [Ok(_), Ok(_)] => return Some(port),
            [Err(error), _] if error.kind() == ErrorKind::AddrNotAvailable => break,
            _ => {}
        }
    }
    skip("this machine has no 127.0.0.2; replicas are not tested");
    None
}

/// Starts two targets of the group posts, found through DNS, and the entrance before them.
fn two_replicas(
    first: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static,
    second: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static,
    settings: &[(&str, &str)],
) -> Option<(Entrance, Names, [Target; 2])> {
    let port = replicas_port()?;
    let targets =
        [Target::start_at((REPLICAS[0], port).into(), first), Target::start_at((REPLICAS[1], port).into(), second)];
    let names = Names::start(&REPLICAS);
    let entrance = start_discovering(port, &names, settings)?;
    // Both take part only after they passed a check.
    wait_for("both replicas to be found", || targets.iter().all(|target| target.passed() > 0) && entrance.up() == 2);
    Some((entrance, names, targets))
}

/// Starts the entrance with `posts.test` as the group posts.
fn start_discovering(port: u16, names: &Names, settings: &[(&str, &str)]) -> Option<Entrance> {
    let (posts, nameserver) = (format!("posts.test:{port}"), names.address.to_string());
    let mut all = vec![("POSTS", posts.as_str()), ("NAMESERVER", nameserver.as_str()), ("REPLICAS", "4")];
    all.extend(settings);
    Entrance::start(&all)
}

// ---- The entrance.

pub(crate) struct Entrance {
    process: Process,
    pub(crate) address: SocketAddr,
    metrics: SocketAddr,
    folder: TempDir,
}

impl Entrance {
    /// Starts HAProxy with settings from the environment and waits until it answers. Target groups without a setting
    /// have no target.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Option<Self> {
        let haproxy = tool("haproxy", "the entrance")?;
        let folder = tempfile::tempdir().unwrap();
        for file in ["haproxy.cfg", "routes.map"] {
            std::fs::copy(root().join("gateway").join(file), folder.path().join(file)).unwrap();
        }
        let [address, metrics, nobody] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = Command::new(haproxy);
        command.args(["-W", "-db", "-f"]).arg(folder.path().join("haproxy.cfg"));
        command.env("ENTRANCE", address.to_string()).env("METRICS", metrics.to_string());
        command.envs(["USERS", "THREADS", "POSTS"].map(|group| (group, nobody.to_string())));
        command.envs(settings.iter().copied());
        let mut process = Process::start(&mut command);
        process.await_line("Loading success");
        Some(Self { process, address, metrics, folder })
    }

    /// Starts the entrance before one target, as the group posts, and waits until the target is in use.
    pub(crate) fn before(target: &Target, settings: &[(&str, &str)]) -> Option<Self> {
        let posts = target.address.to_string();
        let mut all = vec![("POSTS", posts.as_str())];
        all.extend(settings);
        let entrance = Self::start(&all)?;
        wait_for("the first check", || target.passed() > 0 && entrance.up() == 1);
        Some(entrance)
    }

    /// Returns the number of targets of the group posts in use.
    fn up(&self) -> usize {
        self.metric("haproxy_backend_active_servers{proxy=\"posts\"} ").unwrap()
    }

    fn metric(&self, begin: &str) -> Option<usize> {
        let (_, _, metrics) = get(self.metrics, "/metrics");
        metrics.lines().find_map(|line| line.strip_prefix(begin)).map(|value| value.parse().unwrap())
    }

    fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
    }

    /// Sends these bytes; returns the first answer.
    fn send(&self, bytes: &str) -> Answer {
        let mut answers = self.send_all(bytes.as_bytes());
        assert!(!answers.is_empty(), "no answer to {bytes}");
        answers.remove(0)
    }

    /// Sends these bytes; returns all answers until the entrance closes the connection.
    fn send_all(&self, bytes: &[u8]) -> Vec<Answer> {
        let mut stream = self.connect();
        // It may refuse before it has read all.
        let _ = stream.write_all(bytes);
        let mut reader = BufReader::new(stream);
        std::iter::from_fn(|| read_answer(&mut reader)).collect()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Writes new listener rules and reloads.
    fn route(&self, rules: &str) {
        std::fs::write(self.folder.path().join("routes.map"), rules).unwrap();
        self.reload();
    }

    /// Writes new listener rules, reloads, and waits until the worker with the old rules takes no more connections.
    fn route_at_once(&self, rules: &str) {
        let stopped = || self.log().matches("Proxy entrance stopped").count();
        let before = stopped();
        self.route(rules);
        wait_for("the old worker to stop", || stopped() > before);
    }

    fn reload(&self) {
        let reloads = || self.log().matches("Reloading HAProxy").count();
        let before = reloads();
        // Just after its start, HAProxy's master does not hear signals yet.
        wait_for("a reload", || {
            self.process.signal("USR2");
            (0..100).any(|_| {
                thread::sleep(Duration::from_millis(10));
                reloads() > before
            })
        });
    }

    fn log(&self) -> String {
        self.process.log()
    }
}

/// An answer as a client reads it.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
    /// The whole body that the head announces has arrived.
    whole: bool,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Checks that it is a problem document with this status.
    fn is_problem(&self, status: u16) {
        assert_eq!((self.status, self.field("content-type")), (status, Some("application/problem+json")), "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!((&body["type"], &body["status"]), (&"about:blank".into(), &status.into()));
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        assert_eq!(self.field("retry-after").is_some(), matches!(status, 429 | 503), "{self:?}");
        assert!(self.field("x-request-id").is_some() && self.field("date").is_some(), "{self:?}");
    }
}

/// Reads the next answer; `None` at the connection's end.
fn read_answer(reader: &mut impl BufRead) -> Option<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut answer = Answer { status, head, body: String::new(), whole: true };
    if let Some(length) = answer.field("content-length").map(|length| length.parse().unwrap()) {
        let mut body = Vec::new();
        let _ = reader.take(length).read_to_end(&mut body);
        answer.whole = body.len() as u64 == length;
        answer.body = text(&body);
    } else if answer.field("transfer-encoding").is_some() {
        let mut body = Vec::new();
        answer.whole = reader.read_to_end(&mut body).is_ok() && body.ends_with(b"0\r\n\r\n");
        answer.body = text(&body);
    }
    Some(answer)
}

/// Clients that send requests on kept connections and count the answers.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    /// Starts four clients for each kind of request.
    fn start(entrance: &Entrance, requests: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |request: &str| {
            let body = if request.starts_with("POST ") { "content-length: 4\r\n\r\nbody" } else { "\r\n" };
            let bytes = format!("{request} HTTP/1.1\r\nhost: a\r\n{body}");
            let (stop, address) = (Arc::clone(&stop), entrance.address);
            thread::spawn(move || {
                let (mut answered, mut failed, mut kept) = (0, Vec::new(), None);
                while !stop.load(SeqCst) {
                    let mut stream =
                        kept.take().unwrap_or_else(|| BufReader::new(TcpStream::connect(address).unwrap()));
                    let written = stream.get_mut().write_all(bytes.as_bytes());
                    match read_answer(&mut stream) {
                        Some(answer) if answer.status == 200 && answer.whole => {
                            answered += 1;
                            // The client keeps the connection unless the answer says that it ends.
                            kept = (answer.field("connection") != Some("close")).then_some(stream);
                        }
                        answer => failed.push(format!("{bytes}: {written:?} {answer:?}")),
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                (answered, failed)
            })
        };
        let clients = requests.iter().flat_map(|request| [(); 4].map(|()| client(request))).collect();
        Self { stop, clients }
    }

    /// Stops the clients; checks that there were requests and that each was answered with 200.
    fn end(self) {
        self.stop.store(true, SeqCst);
        for client in self.clients {
            let (answered, failed) = client.join().unwrap();
            assert_eq!(failed, [""; 0], "beside {answered} answers");
            assert!(answered > 0);
        }
    }
}

// ---- Listener rules.

#[test]
fn the_longest_prefix_decides_and_the_monolith_gets_the_rest() {
    let [users, threads, posts, monolith] =
        ["users", "threads", "posts", "monolith"].map(|name| Target::start(says(name)));
    let addresses = [&users, &threads, &posts, &monolith].map(|target| target.address.to_string());
    let groups = ["USERS", "THREADS", "POSTS", "MONOLITH"];
    let settings: Vec<_> = groups.into_iter().zip(addresses.iter().map(String::as_str)).collect();
    let Some(entrance) = Entrance::start(&settings) else { return };
    wait_for("all groups", || {
        ["/api/users", "/api/threads", "/api/posts", "/x"].iter().all(|path| entrance.ask("GET", path).status == 200)
    });
    let check = |table: &[(&str, &str)]| {
        for (path, group) in table {
            assert_eq!(entrance.ask("GET", path).body, *group, "{path}");
        }
    };
    check(&[
        ("/api/users", "users"),
        ("/api/users/", "users"),
        ("/api/users/1?q=/api/posts", "users"),
        ("/api/users?q", "users"),
        ("/api/threads/by-user/1", "threads"),
        ("/api/posts/by-user/1", "posts"),
        ("/api/posts/in-thread/%ED%95%9C", "posts"),
        // Spellings that a lenient monolith would read as the collection's path.
        ("/API/Users/1", "users"),
        ("//api///users/1", "users"),
        ("/api/%75sers/1", "users"),
        ("/api%2Fusers", "users"),
        ("/api/userslist", "monolith"),
        ("/api/comments", "monolith"),
        ("/elsewhere", "monolith"),
        // The entrance's own paths.
        ("/", "Ready to receive requests"),
        ("/api", "API ready to receive requests"),
        ("/api/", "API ready to receive requests"),
    ]);
    // The target gets the path as the client wrote it.
    assert!(users.asked().contains(&"GET /api/%75sers/1".to_owned()), "{:?}", users.asked());

    // A rule may cover part of a collection; the order of the lines does not matter.
    entrance.route_at_once("/api/posts/ posts\n/api/posts/by-user/ monolith\n/api/users/ users\n");
    wait_for("the other rules", || entrance.ask("GET", "/api/posts/by-user/1").body == "monolith");
    check(&[("/api/posts/1", "posts"), ("/api/posts/by-user", "monolith"), ("/api/threads/1", "monolith")]);
}

#[test]
fn without_a_monolith_a_path_without_a_rule_is_404() {
    let Some(entrance) = Entrance::start(&[]) else { return };
    for path in ["/nowhere", "/api/comments", "/api/userslist", "/ready", "/metrics"] {
        entrance.ask("GET", path).is_problem(404);
    }
    // Rules name a missing monolith and an unknown group.
    entrance.route_at_once("/api/users/ monolith\n/api/threads/ thread\n");
    wait_for("the other rules", || entrance.ask("GET", "/api/posts").status == 404);
    entrance.ask("GET", "/api/users").is_problem(503);
    entrance.ask("GET", "/api/threads").is_problem(500);
}

#[test]
fn a_collection_moves_to_the_monolith_and_back_without_dropping_a_connection() {
    let (go, held) = holds("posts");
    let (posts, monolith) = (Target::start(held), Target::start(says("monolith")));
    let settings = [("MONOLITH", monolith.address.to_string())];
    let Some(entrance) = Entrance::before(&posts, &settings.each_ref().map(|(name, value)| (*name, value.as_str())))
    else {
        return;
    };
    wait_for("the monolith", || entrance.ask("GET", "/x").status == 200);
    let rules = std::fs::read_to_string(root().join("gateway/routes.map")).unwrap();
    let load = Load::start(&entrance, &["GET /api/posts/1", "POST /api/posts"]);
    thread::scope(|scope| {
        let under_way = scope.spawn(|| entrance.ask("GET", "/api/posts/held"));
        wait_for("the request", || posts.asked().contains(&"GET /api/posts/held".to_owned()));
        entrance.route(&rules.replace("/api/posts/     posts", "/api/posts/ monolith"));
        wait_for("the monolith's turn", || entrance.ask("GET", "/api/posts/1").body == "monolith");
        // A request that began before the move is not dropped either.
        go.send(()).unwrap();
        assert_eq!(under_way.join().unwrap().body, "posts");
    });
    // If the new rules cannot be read, the old ones stay in force.
    std::fs::remove_file(entrance.folder.path().join("routes.map")).unwrap();
    entrance.reload();
    wait_for("the refusal", || entrance.log().contains("failed to open pattern file"));
    assert_eq!(entrance.ask("GET", "/api/posts/1").body, "monolith");
    entrance.route(&rules);
    wait_for("the service's turn", || entrance.ask("GET", "/api/posts/1").body == "posts");
    load.end();
}

// ---- Target groups.

#[test]
fn two_failed_checks_put_a_target_out_and_two_passed_ones_back() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    let more_checks = |than: usize| wait_for("more checks", || target.passed() >= than + 3);
    more_checks(target.passed());
    // One failed check is not enough.
    target.fail_checks(1);
    wait_for("the failed check", || target.failed() == 1);
    more_checks(target.passed());
    assert_eq!(entrance.ask("GET", "/api/posts").body, "posts");
    assert!(!entrance.log().contains("Server posts/posts1 is DOWN"), "{}", entrance.log());

    target.fail_checks(-1);
    wait_for("the target to be out", || entrance.ask("GET", "/api/posts").status == 503);
    assert!(target.failed() >= 3);
    let seen = target.seen().len();
    entrance.ask("GET", "/api/posts").is_problem(503);
    assert_eq!(target.seen().len(), seen);

    let passed = target.passed();
    target.fail_checks(0);
    wait_for("the target to be back", || entrance.ask("GET", "/api/posts").status == 200);
    assert!(target.passed() >= passed + 2);
}

#[test]
fn a_target_that_does_not_answer_its_checks_is_out() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    target.state.mute.store(true, SeqCst);
    wait_for("the target to be out", || entrance.ask("GET", "/api/posts").status == 503);
    assert!(entrance.log().contains("Layer7 timeout"), "{}", entrance.log());
}

/// Waits until a target that is out got what was sent to it before; from then on, `other` answers.
fn wait_for_last_request(entrance: &Entrance, target: &Target, other: &str) {
    wait_for("the last request", || {
        let seen = target.seen().len();
        (0..10).for_each(|_| assert_eq!(entrance.ask("GET", "/api/posts").body, other));
        target.seen().len() == seen
    });
}

#[test]
fn replicas_come_and_go_with_their_addresses_in_dns() {
    let Some(port) = replicas_port() else { return };
    let first = Target::start_at((REPLICAS[0], port).into(), says("first"));
    let second = Target::start_at((REPLICAS[1], port).into(), says("second"));
    let names = Names::start(&[]);
    let Some(entrance) = start_discovering(port, &names, &[]) else { return };
    entrance.ask("GET", "/api/posts").is_problem(503);
    names.set(&REPLICAS[..1]);
    wait_for("the first", || entrance.ask("GET", "/api/posts").body == "first");
    assert_eq!(second.seen().len(), 0);
    let load = Load::start(&entrance, &["GET /api/posts/1", "POST /api/posts"]);
    names.set(&REPLICAS);
    wait_for("the second", || !second.seen().is_empty());
    names.set(&REPLICAS[1..]);
    wait_for("the first to be gone", || entrance.up() == 1);
    wait_for_last_request(&entrance, &first, "second");
    load.end();
}

#[test]
fn a_new_target_with_an_address_that_does_not_listen_yet_costs_no_request() {
    let Some(port) = replicas_port() else { return };
    let _first = Target::start_at((REPLICAS[0], port).into(), says("first"));
    let names = Names::start(&REPLICAS[..1]);
    let Some(entrance) = start_discovering(port, &names, &[]) else { return };
    wait_for("the first", || entrance.ask("GET", "/api/posts").body == "first");
    let load = Load::start(&entrance, &["GET /api/posts/1", "POST /api/posts"]);
    // The second target has an address before it listens.
    names.set(&REPLICAS);
    wait_for("a failed check", || entrance.log().contains("Connection refused"));
    let second = Target::start_at((REPLICAS[1], port).into(), says("second"));
    wait_for("the second", || !second.seen().is_empty());
    load.end();
}

#[test]
fn a_new_target_that_listens_but_is_not_ready_gets_nothing() {
    let Some(port) = replicas_port() else { return };
    let _first = Target::start_at((REPLICAS[0], port).into(), says("first"));
    let second = Target::start_at((REPLICAS[1], port).into(), says("second"));
    second.fail_checks(-1);
    let names = Names::start(&REPLICAS[..1]);
    let Some(entrance) = start_discovering(port, &names, &[]) else { return };
    wait_for("the first", || entrance.ask("GET", "/api/posts").body == "first");
    let load = Load::start(&entrance, &["GET /api/posts/1"]);
    names.set(&REPLICAS);
    // An older HAProxy uses a new target until its first check.
    wait_for("the first check", || second.failed() > 0 && entrance.up() == 1);
    wait_for_last_request(&entrance, &second, "first");
    let before = second.seen().len();
    assert!(before == 0 || version() < (3, 1), "{before} requests before the first check");
    wait_for("more checks", || second.failed() > 3);
    assert_eq!(second.seen().len(), before);
    second.fail_checks(0);
    wait_for("the second", || second.seen().len() > before);
    load.end();
}

/// Returns HAProxy's version.
fn version() -> (u32, u32) {
    let output = Command::new(tool("haproxy", "the entrance").unwrap()).arg("-v").output().unwrap();
    let output = text(&output.stdout);
    let mut parts = output.split_once("version ").unwrap().1.split(['.', '-']).map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn a_draining_target_finishes_its_requests_and_gets_no_new_ones() {
    let (go, held) = holds("first");
    let Some((entrance, _names, [first, second])) = two_replicas(held, says("second"), &[]) else { return };
    thread::scope(|scope| {
        // Repeats the request until it meets the target that holds it.
        let under_way = scope.spawn(|| {
            std::iter::repeat_with(|| entrance.ask("GET", "/api/posts/held").body).find(|body| body == "first").unwrap()
        });
        wait_for("the request", || first.asked().contains(&"GET /api/posts/held".to_owned()));
        first.fail_checks(-1);
        wait_for("the drain", || entrance.up() == 1);
        let seen = first.seen().len();
        for _ in 0..20 {
            assert_eq!(entrance.ask("GET", "/api/posts/1").body, "second");
        }
        assert_eq!((first.seen().len(), second.seen().len() >= 20), (seen, true));
        go.send(()).unwrap();
        assert_eq!(under_way.join().unwrap(), "first");
    });
}

#[test]
fn a_rolling_restart_loses_no_request() {
    let Some((entrance, _names, mut targets)) = two_replicas(says("posts"), says("posts"), &[]) else { return };
    let load = Load::start(&entrance, &["GET /api/posts/1", "POST /api/posts"]);
    for target in &mut targets {
        // Ends as a service does: first not ready, a while later gone.
        target.fail_checks(-1);
        wait_for("the drain", || entrance.up() == 1);
        target.stop();
        let seen = target.seen().len();
        target.fail_checks(0);
        target.listen();
        wait_for("the target to be back", || target.seen().len() > seen);
    }
    load.end();
}

#[test]
fn a_target_that_comes_back_begins_with_a_small_share() {
    let Some((entrance, _names, [first, _second])) =
        two_replicas(says("first"), says("second"), &[("SLOW_START", "5s")])
    else {
        return;
    };
    let share = || (0..40).filter(|_| entrance.ask("GET", "/api/posts/1").body == "first").count();
    wait_for("an even share", || share() == 20);
    first.fail_checks(-1);
    wait_for("the first to be out", || entrance.up() == 1);
    first.fail_checks(0);
    wait_for("the first to be back", || entrance.up() == 2);
    let begin = share();
    assert!(begin < 15, "{begin} of 40");
    wait_for("an even share again", || share() == 20);
}

// ---- Errors.

#[test]
fn an_invalid_answer_is_502() {
    for bytes in ["", "this is no HTTP\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"]
    {
        let target = Target::start(writes(bytes));
        let Some(entrance) = Entrance::before(&target, &[]) else { return };
        entrance.ask("GET", "/api/posts").is_problem(502);
        let seen = target.seen().len();
        entrance.ask("POST", "/api/posts").is_problem(502);
        // A write that may have been done is not repeated.
        assert_eq!(target.seen().len(), seen + 1, "{bytes:?}");
    }
    // The target resets the connection.
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    target.state.abrupt.store(true, SeqCst);
    entrance.ask("POST", "/api/posts").is_problem(502);
    assert_eq!(target.seen().len(), 1);
    entrance.ask("GET", "/api/posts").is_problem(502);
}

#[test]
fn an_answer_that_breaks_off_midway_never_looks_whole() {
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n",
    ] {
        let target = Target::start(writes(bytes));
        let Some(entrance) = Entrance::before(&target, &[]) else { return };
        let answer = entrance.ask("GET", "/api/posts");
        assert_eq!((answer.status, answer.whole), (200, false), "{answer:?}");
        // The answer had begun, so the request is not repeated.
        assert_eq!(target.seen().len(), 1);
    }
}

#[test]
fn a_silent_target_is_504_and_gets_the_request_once() {
    let target = Target::start(|_, stream| hang(stream));
    let Some(entrance) = Entrance::before(&target, &[("ANSWER_TIMEOUT", "300ms")]) else { return };
    entrance.ask("GET", "/api/posts").is_problem(504);
    assert_eq!(target.seen().len(), 1);
    entrance.ask("POST", "/api/posts").is_problem(504);
    assert_eq!(target.seen().len(), 2);
}

#[test]
fn a_target_that_cannot_be_connected_to_is_503() {
    let mut target = Target::start(says("posts"));
    let settings = [("CONNECT_TIMEOUT", "100ms"), ("ANSWER_TIMEOUT", "1s")];
    let Some(entrance) = Entrance::before(&target, &settings) else { return };
    // Nobody accepts connections and the listener's queue is full. If the queue has a place left, or a health check
    // notices first, try again.
    wait_for("a request to run into the connect timeout", || {
        target.state.paused.store(true, SeqCst);
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&target.address, Duration::from_millis(200)) {
            waiting.push(stream);
        }
        let answer = entrance.ask("POST", "/api/posts");
        drop(waiting);
        target.state.paused.store(false, SeqCst);
        wait_for("the target to be back", || entrance.ask("GET", "/api/posts").status == 200);
        let id = answer.field("x-request-id").unwrap();
        let timed_out = entrance.log().lines().any(|line| line.contains(" sC-- ") && line.contains(id));
        timed_out.then(|| answer.is_problem(503)).is_some()
    });
    // The target does not listen.
    target.stop();
    entrance.ask("POST", "/api/posts").is_problem(503);
}

#[test]
fn after_a_refused_connection_any_method_is_tried_on_another_target() {
    let Some((entrance, _names, [mut first, second])) = two_replicas(says("first"), says("second"), &[]) else {
        return;
    };
    wait_for("a request to be redispatched", || {
        first.stop();
        for method in ["GET", "POST", "DELETE", "POST"] {
            let answer = entrance.ask(method, "/api/posts");
            // On a busy machine the second may miss its checks, too.
            let are_out =
                || ["posts1", "posts2"].iter().all(|name| entrance.log().contains(&format!("{name} is DOWN")));
            assert!(answer.body == "second" || answer.status == 503 && are_out(), "{answer:?}\n{}", entrance.log());
        }
        first.listen();
        wait_for("the first to be back", || entrance.up() == 2);
        // The log has the number of retries.
        entrance.log().lines().any(|line| line.contains("/+1 ") && line.contains("\"POST "))
    });
    assert!(second.seen().len() >= 4);
}

#[test]
fn only_a_read_without_an_answer_is_tried_on_another_target() {
    for abrupt in [false, true] {
        let Some((entrance, _names, [first, second])) = two_replicas(writes(""), says("second"), &[]) else { return };
        first.state.abrupt.store(abrupt, SeqCst);
        for _ in 0..10 {
            assert_eq!(entrance.ask("GET", "/api/posts").body, "second");
            assert_eq!(entrance.ask("HEAD", "/api/posts").status, 200);
        }
        let tried = first.seen().len();
        assert!(tried > 0);
        let (mut done, mut lost) = (0, 0);
        let before = tried + second.seen().len();
        for _ in 0..10 {
            match entrance.ask("POST", "/api/posts") {
                answer if answer.status == 200 => done += 1,
                answer => {
                    answer.is_problem(502);
                    lost += 1;
                }
            }
        }
        assert!(done > 0 && lost > 0, "{done} {lost}");
        assert_eq!(first.seen().len() + second.seen().len() - before, 10);
    }
}

// ---- Limits.

#[test]
fn requests_above_a_targets_limit_wait_and_above_the_queues_limit_get_503_after_a_second() {
    let (go, held) = holds("posts");
    let target = Target::start(held);
    let settings = [("TARGET_REQUESTS", "1"), ("TARGET_QUEUE", "1"), ("QUEUE_TIMEOUT", "60s")];
    let Some(entrance) = Entrance::before(&target, &settings) else { return };
    thread::scope(|scope| {
        let first = scope.spawn(|| entrance.ask("GET", "/api/posts/held"));
        wait_for("the first request", || target.seen().len() == 1);
        let second = scope.spawn(|| entrance.ask("GET", "/api/posts/2"));
        wait_for("the queue", || entrance.metric("haproxy_backend_current_queue{proxy=\"posts\"} ") == Some(1));
        let began = std::time::Instant::now();
        entrance.ask("GET", "/api/posts/3").is_problem(503);
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
        assert_eq!(target.seen().len(), 1);
        go.send(()).unwrap();
        assert_eq!((first.join().unwrap().status, second.join().unwrap().status), (200, 200));
    });
    assert_eq!(target.asked(), ["GET /api/posts/held", "GET /api/posts/2"]);
}

#[test]
fn a_request_that_waits_too_long_for_a_target_gets_503() {
    let (go, held) = holds("posts");
    let target = Target::start(held);
    let settings = [("TARGET_REQUESTS", "1"), ("QUEUE_TIMEOUT", "200ms")];
    let Some(entrance) = Entrance::before(&target, &settings) else { return };
    thread::scope(|scope| {
        let first = scope.spawn(|| entrance.ask("GET", "/api/posts/held"));
        wait_for("the first request", || target.seen().len() == 1);
        entrance.ask("GET", "/api/posts/2").is_problem(503);
        go.send(()).unwrap();
        assert_eq!(first.join().unwrap().status, 200);
    });
    assert_eq!(target.seen().len(), 1);
    assert!(entrance.log().contains(" sQ-- "), "{}", entrance.log());
}

#[test]
fn a_slow_client_gets_408_and_holds_no_target() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("HEADER_TIMEOUT", "500ms")]) else { return };
    for begin in [
        "GET /api/posts HTTP/1.1\r\nhost: a\r\nx-slow: ",
        "POST /api/posts HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\n",
    ] {
        let mut stream = entrance.connect();
        stream.write_all(begin.as_bytes()).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let answer = thread::spawn(move || read_answer(&mut BufReader::new(&mut reader)));
        // An occasional byte does not extend the time.
        wait_for("the end of patience", || {
            thread::sleep(Duration::from_millis(50));
            answer.is_finished() || stream.write_all(b"a").is_err()
        });
        assert_eq!(answer.join().unwrap().unwrap().status, 408);
    }
    assert_eq!(target.seen().len(), 0);
    assert_eq!(entrance.ask("GET", "/api/posts").status, 200);
}

#[test]
fn an_idle_connection_is_kept_for_a_while_and_then_closed() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("IDLE_TIMEOUT", "500ms")]) else { return };
    let mut reader = BufReader::new(entrance.connect());
    for _ in 0..2 {
        reader.get_mut().write_all(b"GET /api/posts HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut reader).unwrap().status, 200);
    }
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_idle_connection_is_kept_as_long_as_in_an_aws_load_balancer() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    let mut reader = BufReader::new(entrance.connect());
    for pause in [0, 35] {
        thread::sleep(Duration::from_secs(pause));
        reader.get_mut().write_all(b"GET /api/posts HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut reader).expect("the connection is kept").status, 200);
    }
}

#[test]
fn a_head_and_a_body_have_a_limit() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("IDLE_TIMEOUT", "100ms")]) else { return };
    let post = |length: usize| {
        format!("POST /api/posts HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{}", "a".repeat(length))
    };
    entrance.send(&post(65_537)).is_problem(413);
    // A client that asks first does not send the body.
    let asks = "POST /api/posts HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n";
    entrance.send(asks).is_problem(413);
    // HAProxy's own answer is 400 or 414.
    let head = format!("GET /api/posts HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "a".repeat(17_000));
    assert_eq!(entrance.send(&head).status / 100, 4);
    assert_eq!(target.seen().len(), 0);
    assert_eq!(entrance.send(&post(65_536)).status, 200);
    assert_eq!(target.seen()[0].body.len(), 65_536);
}

#[test]
fn with_a_rate_limit_a_client_above_it_gets_429() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("RATE_LIMIT", "5")]) else { return };
    let mut refused = None;
    wait_for("the limit", || {
        refused = Some(entrance.ask("GET", "/api/posts")).filter(|answer| answer.status != 200);
        refused.is_some()
    });
    assert!(target.seen().len() >= 5);
    refused.unwrap().is_problem(429);
    wait_for("the limit to pass", || {
        thread::sleep(Duration::from_millis(500));
        entrance.ask("GET", "/api/posts").status == 200
    });
}

#[test]
fn a_client_has_a_number_of_requests_at_once_and_streams_of_http_2_count() {
    let (go, held) = holds("posts");
    let target = Target::start(held);
    let Some(entrance) = Entrance::before(&target, &[("CLIENT_REQUESTS", "2")]) else { return };
    thread::scope(|scope| {
        let waiting: Vec<_> = (1..=2)
            .map(|count| {
                let waiting = scope.spawn(|| entrance.ask("GET", "/api/posts/held"));
                wait_for("the request", || target.seen().len() == count);
                waiting
            })
            .collect();
        entrance.ask("GET", "/api/posts/1").is_problem(429);
        go.send(()).unwrap();
        go.send(()).unwrap();
        waiting.into_iter().for_each(|waiting| assert_eq!(waiting.join().unwrap().status, 200));
    });
    assert_eq!(entrance.ask("GET", "/api/posts/1").status, 200);
    let answers = |status: &str| entrance.log().matches(&format!(" {status} ")).count();
    // A request counts until its line is written, which is after its answer.
    wait_for("the lines of those that were answered", || answers("200") == 3);
    // Five streams of one connection: GET, http, a path and a host in HPACK.
    let mut stream = entrance.connect();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in [1, 3, 5, 7, 9] {
        bytes.extend(b"\0\0\x16\x01\x05\0\0\0");
        bytes.push(number);
        bytes.extend(b"\x82\x86\x04\x0f/api/posts/held\x01\x01a");
    }
    stream.write_all(&bytes).unwrap();
    // Three of HTTP/1.1 were answered and one was refused; a line is written after its answer.
    wait_for("the refusals", || answers("429") == 1 + 3);
    go.send(()).unwrap();
    go.send(()).unwrap();
    wait_for("the others", || answers("200") == 3 + 2);
}

#[test]
fn a_client_has_a_number_of_connections() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("CLIENT_CONNECTIONS", "3")]) else { return };
    let mut held: Vec<_> = (0..3).map(|_| entrance.connect()).collect();
    for stream in &mut held {
        stream.write_all(b"GET /api/posts HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut BufReader::new(stream)).unwrap().status, 200);
    }
    assert_eq!(entrance.send_all(b"GET /api/posts HTTP/1.1\r\nhost: a\r\n\r\n").len(), 0);
    held.pop();
    wait_for("room", || !entrance.send_all(b"GET /api/posts HTTP/1.0\r\n\r\n").is_empty());
}

#[test]
fn connections_that_one_client_holds_leave_room_for_others() {
    let Some(curl) = tool("curl", "another client's address") else { return };
    if replicas_port().is_none() {
        return;
    }
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("CONNECTIONS", "200")]) else { return };
    // More than there are; those above three quarters are refused. Two that come at the same time can refuse each other
    // and leave one too few, so one more comes before each request.
    let mut held: Vec<_> = (0..250).map(|_| entrance.connect()).collect();
    let mut ask = Command::new(curl);
    ask.args(["--silent", "--include", "--noproxy", "*", "--max-time", "5", "--interface", "127.0.0.2"]);
    ask.arg(format!("http://{}/api/posts/1", entrance.address));
    wait_for("a crowded entrance", || {
        held.push(entrance.connect());
        let answer = text(&ask.output().unwrap().stdout);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        answer.contains("connection: close")
    });
}

#[test]
fn a_client_that_does_not_read_its_answer_holds_no_target() {
    let freed = Arc::new(AtomicBool::new(false));
    let free = Arc::clone(&freed);
    let target = Target::start(move |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while stream.write_all(format!("1000\r\n{}\r\n", "a".repeat(0x1000)).as_bytes()).is_ok() {}
        free.store(true, SeqCst);
        Then::Close
    });
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    let mut stream = entrance.connect();
    stream.write_all(b"GET /api/posts HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let began = std::time::Instant::now();
    wait_for("the end of patience", || freed.load(SeqCst));
    // Less than an idle connection has.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}

// ---- Forwarding.

#[test]
fn a_target_learns_the_clients_address_and_protocol() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    let says = "x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\nx-forwarded-port: 1\r\nx-forwarded-port: 2";
    entrance.send(&format!("GET /api/posts HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{says}\r\n\r\n"));
    let [request] = &target.seen()[..] else { panic!("one request") };
    // The client's own value comes first, the address that the entrance saw last.
    assert_eq!(request.values("x-forwarded-for"), ["6.6.6.6", "127.0.0.1"]);
    assert_eq!(request.values("x-forwarded-proto"), ["http"]);
    assert_eq!(request.values("x-forwarded-port"), [entrance.address.port().to_string()]);
    assert_eq!(request.values("host"), ["a"]);
}

#[test]
fn a_request_has_one_id_for_target_client_and_log() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    let long = "x".repeat(65);
    let ids = ["ab-C_1.2", &long[1..], "", " ", "a b", "\"", "a\"b", &long, "x\r\nx-request-id: y z", "x\tx", "안"];
    for (position, id) in ids.into_iter().enumerate() {
        let bytes = format!("GET /api/posts HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: {id}\r\n\r\n");
        let answer = entrance.send(&bytes);
        let got = answer.field("x-request-id").unwrap();
        assert_eq!(got == id, position < 2, "{id}");
        assert!(
            got.len() <= 64 && got.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
            "{got}"
        );
        assert_eq!(target.seen().last().unwrap().values("x-request-id"), [got]);
        wait_for("the log", || {
            entrance.log().lines().any(|line| line.ends_with(&format!("\"GET /api/posts HTTP/1.1\" {got}")))
        });
    }
    // A query may hold a secret.
    entrance.ask("GET", "/api/posts?access_token=secret");
    wait_for("the log", || entrance.log().matches("\"GET /api/posts HTTP/1.1\"").count() == ids.len() + 1);
    assert!(!entrance.log().contains("secret"), "{}", entrance.log());
    // Generated ids differ.
    let [one, other] = [(); 2].map(|()| entrance.ask("GET", "/nowhere"));
    assert_ne!(one.field("x-request-id"), other.field("x-request-id"));
}

#[test]
fn a_trace_goes_through_the_entrance() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = format!("connection: close\r\ntraceparent: {trace}\r\ntracestate: a=1,b=2");
    assert_eq!(entrance.send(&format!("GET /api/posts HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n")).status, 200);
    let request = target.seen().pop().unwrap();
    assert_eq!(request.values("traceparent"), [trace]);
    assert_eq!(request.values("tracestate"), ["a=1,b=2"]);
}

#[test]
fn hop_by_hop_fields_are_not_forwarded() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("IDLE_TIMEOUT", "100ms")]) else { return };
    let send = |fields: &str| entrance.send(&format!("GET /api/posts HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n"));
    for fields in [
        "connection: keep-alive\r\nkeep-alive: timeout=9\r\nproxy-connection: keep-alive",
        "connection: close, TE\r\nte: trailers",
        "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        // Some servers read an underscore or a dot as a hyphen.
        "x_request_id: mine\r\nx_forwarded_for: 6.6.6.6\r\nx.forwarded.for: 6.6.6.6",
    ] {
        assert_eq!(send(fields).status, 200, "{fields}");
        let request = target.seen().pop().unwrap();
        for line in request.head.lines().skip(1).filter(|line| !line.is_empty()) {
            let (name, _) = line.split_once(": ").unwrap();
            let known = [
                "host",
                "x-request-id",
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-port",
                "sec-websocket-key",
            ];
            assert!(known.contains(&name), "{line} of {fields}");
        }
    }
    let seen = target.seen().len();
    for fields in [
        "connection: x-secret\r\nx-secret: 1",
        "connection: close, X-Request-Id",
        "connection: te\r\nconnection: x-forwarded-for",
    ] {
        send(fields).is_problem(400);
    }
    assert_eq!(target.seen().len(), seen);
}

#[test]
fn requests_are_never_merged_or_split() {
    let target = Target::start(says("posts"));
    let settings = [("IDLE_TIMEOUT", "100ms"), ("HEADER_TIMEOUT", "500ms")];
    let Some(entrance) = Entrance::before(&target, &settings) else { return };
    let next = "GET /api/posts/2 HTTP/1.1\r\nhost: a\r\n\r\n";
    let one = "POST /api/posts HTTP/1.1\r\nhost: a\r\n";
    let mut done = 0;
    let mut check = |bytes: &str, statuses: &[u16], asked: &[&str]| {
        let answers = entrance.send_all(bytes.as_bytes());
        let got: Vec<_> = answers.iter().map(|answer| answer.status / 100 * 100).collect();
        assert_eq!(got, statuses, "{bytes:?}");
        assert_eq!(target.asked()[done..], *asked, "{bytes:?}");
        done += asked.len();
    };
    // Two requests.
    let (first, second) = ("POST /api/posts", "GET /api/posts/2");
    check(&format!("{next}{next}"), &[200, 200], &[second, second]);
    check(&format!("{one}content-length: 4\r\n\r\nbody{next}"), &[200, 200], &["POST /api/posts body", second]);
    check(&format!("{one}content-length: 0\r\n\r\n{next}"), &[200, 200], &[first, second]);
    check(&format!("{one}\r\n{next}"), &[200, 200], &[first, second]);
    let chunked = "transfer-encoding: chunked\r\n";
    check(&format!("{one}{chunked}\r\n4\r\nbody\r\n0\r\n\r\n{next}"), &[200, 200], &["POST /api/posts body", second]);
    // One request.
    let length = format!("content-length: {}\r\n", next.len());
    let inside = format!("GET /api/posts {}", next.trim_end());
    check(&format!("GET /api/posts HTTP/1.1\r\nhost: a\r\n{length}\r\n{next}"), &[200], &[&inside]);
    check(&format!("{one}content-length: 4\r\ncontent-length: 4\r\n\r\nbody"), &[200], &["POST /api/posts body"]);
    // Of two lengths one wins, and the connection ends after the request.
    check(&format!("{one}{length}{chunked}\r\n0\r\n\r\n{next}"), &[200], &[first]);
    check(&format!("{one}{chunked}{length}\r\n0\r\n\r\n{next}"), &[200], &[first]);
    check(&format!("{one}transfer-encoding:\r\n chunked\r\n{length}\r\n0\r\n\r\n{next}"), &[200], &[first]);
    // Invalid requests.
    for refused in [
        "content-length: 4\r\ncontent-length: 5\r\n\r\nbody!",
        "content-length: 4, 5\r\n\r\nbody!",
        "content-length: +4\r\n\r\nbody",
        "content-length: 0x4\r\n\r\nbody",
        "content-length: -1\r\n\r\n",
        // 2⁶⁴ + 3
        "content-length: 18446744073709551619\r\n\r\nabc",
        "content-length: 00000000000000000004\r\n\r\nbody",
        "content-length : 4\r\n\r\nbody",
        "content-length: 9\r\n\r\nunfinished"[..26].trim_end(),
        "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nzz\r\nbody\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n4\r\nbodyXX0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n10000000000000004\r\nbody\r\n0\r\n\r\n",
        "host: b\r\n\r\n",
        "x y: z\r\n\r\n",
        "x: y\rcontent-length: 4\r\n\r\nbody",
        "no colon\r\n\r\n",
    ] {
        check(&format!("{one}{refused}"), &[400], &[]);
    }
    check("POST /api/posts HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", &[400], &[]);
    for host in ["", "host: a\r\nhost: b\r\n", "host: a b\r\n", "host: a/b\r\n", "host: u@a\r\n", "host: a:b\r\n"] {
        check(&format!("GET /api/posts HTTP/1.1\r\n{host}\r\n"), &[400], &[]);
    }
    check("GET /api/posts\r\n\r\n", &[400], &[]);
    check("GET /api/posts HTTP/1.1 HTTP/1.1\r\nhost: a\r\n\r\n", &[400], &[]);
    check("GET http://b/api/posts HTTP/1.1\r\nhost: a\r\n\r\n", &[400], &[]);
}

#[test]
fn an_ambiguous_path_is_refused_and_any_other_is_forwarded_unchanged() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[("IDLE_TIMEOUT", "100ms")]) else { return };
    for path in [
        "/api/posts/../users",
        "/api/posts/./1",
        "/api/posts/..",
        "/../api/posts",
        "/api/posts/%2e%2E/users",
        "/api/posts%2f..%2fusers",
        "/api/posts/.%2e/users",
        "/api/posts/%zz",
        "/api/posts/1%",
        "http://a/api/posts/../users",
    ] {
        entrance.ask("GET", path).is_problem(400);
    }
    for path in ["/api/posts#/../users", "*"] {
        assert_eq!(entrance.ask("GET", path).status, 400, "{path}");
    }
    entrance.ask("TRACE", "/api/posts").is_problem(501);
    assert_eq!(entrance.send("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").status, 400);
    assert_eq!(target.asked(), [""; 0]);
    for path in
        ["/api/posts/a%2Fb%20c", "/api/posts/...", "/api/posts/1..2/.x", "/api/posts?a=/../&b=%zz", "/api/posts//1;x=1"]
    {
        assert_eq!(entrance.ask("GET", path).status, 200, "{path}");
        assert_eq!(target.asked().pop().unwrap(), format!("GET {path}"));
    }
    // The target gets only the path, not the full URL.
    assert_eq!(entrance.ask("GET", "http://a/api/posts/1?x").status, 200);
    assert_eq!(target.asked().pop().unwrap(), "GET /api/posts/1?x");
}

// ---- Metrics and TLS.

#[test]
fn prometheus_reads_the_entrance_on_a_port_of_its_own() {
    let target = Target::start(says("posts"));
    let Some(entrance) = Entrance::before(&target, &[]) else { return };
    let answered = || entrance.metric("haproxy_backend_http_responses_total{proxy=\"posts\",code=\"2xx\"} ").unwrap();
    let before = answered();
    entrance.ask("GET", "/api/posts");
    wait_for("the count", || answered() == before + 1);
    assert_eq!(get(entrance.metrics, "/").0, 404);
    entrance.ask("GET", "/metrics").is_problem(404);
}

/// Makes a certificate for localhost in `folder`. Returns it, and a file with its key too.
fn certify(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let openssl = tool("openssl", "TLS")?;
    let [certificate, key, both] = ["site.crt", "site.key", "site.pem"].map(|file| folder.join(file));
    let mut request = Command::new(openssl);
    request.args(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost".split(' '),
    );
    request.args(["-addext", "subjectAltName=DNS:localhost", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    let made = request.output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    std::fs::write(&both, [certificate.as_path(), &key].map(|file| std::fs::read(file).unwrap()).concat()).unwrap();
    Some((certificate, both))
}

#[test]
fn tls_has_forward_secrecy_and_plain_requests_can_be_sent_there() {
    let (Some(openssl), Some(curl)) = (tool("openssl", "TLS"), tool("curl", "TLS")) else { return };
    let target = Target::start(says("posts"));
    let folder = tempfile::tempdir().unwrap();
    let Some((certificate, both)) = certify(folder.path()) else { return };
    let port = free_port();
    let (tls, redirect) = (format!("127.0.0.1:{port}"), port.to_string());
    let settings = [("CERTIFICATE", both.to_str().unwrap()), ("TLS", &tls), ("REDIRECT", &redirect)];
    let Some(entrance) = Entrance::start(&settings) else { return };
    for (cipher, accepted) in [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", true),
        ("ECDHE-ECDSA-AES256-SHA384", false),
        ("ECDHE-ECDSA-AES128-SHA", false),
        ("AES128-GCM-SHA256", false),
    ] {
        let mut speak = Command::new(&openssl);
        speak.args(["s_client", "-tls1_2", "-cipher", cipher, "-connect", &tls]).stdin(std::process::Stdio::null());
        let said = text(&speak.output().unwrap().stdout);
        assert_eq!(said.contains(&format!("Cipher is {cipher}")), accepted, "{cipher}: {said}");
    }
    let answer = entrance.ask("POST", "/api/posts?a=b");
    assert_eq!((answer.status, answer.field("location")), (308, Some(&*format!("https://a:{port}/api/posts?a=b"))));
    assert_eq!(target.seen().len(), 0);
    let mut ask = Command::new(curl);
    ask.args(["--silent", "--include", "--noproxy", "*", "--cacert"]).arg(&certificate);
    ask.args(["--resolve", &format!("localhost:{port}:127.0.0.1")]);
    let answer = text(&ask.arg(format!("https://localhost:{port}/api/posts")).output().unwrap().stdout);
    assert!(answer.contains("strict-transport-security: max-age=31536000\r\n"), "{answer}");
}

#[test]
fn with_a_certificate_it_speaks_tls_and_http_2() {
    let Some(curl) = tool("curl", "TLS") else { return };
    let target = Target::start(says("posts"));
    let folder = tempfile::tempdir().unwrap();
    let Some((certificate, both)) = certify(folder.path()) else { return };
    let port = free_port();
    let tls = format!("127.0.0.1:{port}");
    let Some(entrance) = Entrance::before(&target, &[("CERTIFICATE", both.to_str().unwrap()), ("TLS", &tls)]) else {
        return;
    };
    for (version, spoken) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let mut ask = Command::new(&curl);
        ask.args(["--silent", "--show-error", "--noproxy", "*", version, "--data", "body", "--cacert"])
            .arg(&certificate);
        ask.args(["--resolve", &format!("localhost:{port}:127.0.0.1"), "--write-out", " %{http_code} %{http_version}"]);
        let answer = ask.arg(format!("https://localhost:{port}/api/posts")).output().unwrap();
        assert_eq!(text(&answer.stdout), format!("posts 200 {spoken}"), "{}", text(&answer.stderr));
        let request = target.seen().pop().unwrap();
        assert_eq!((request.asked(), request.body.as_str()), ("POST /api/posts", "body"));
        assert_eq!(request.values("x-forwarded-proto"), ["https"]);
        assert_eq!(request.values("x-forwarded-port"), [port.to_string()]);
    }
    // The plain port works as before.
    assert_eq!(entrance.ask("GET", "/api/posts").status, 200);
}
