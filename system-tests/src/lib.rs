//! Helpers for tests of several programs and of `seed`: real processes on free ports with fresh folders.
#![allow(missing_docs, reason = "the names of many test helpers say enough")]

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

pub mod browser;
pub mod changes;
pub mod cluster;
pub mod compose;
pub mod file_system;
pub mod liar;
pub mod posts;
pub mod prometheus;
pub mod repository;

/// The longest wait before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// Returns the path of the sample that `seed` splits by default.
pub fn sample() -> PathBuf {
    root().join("seed/db.json")
}

/// Builds the workspace once and returns the path of one of its programs.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        // `cargo test -p seed` alone builds no other package's programs.
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root()).args(["build", "--quiet", "--workspace", "--bins"]);
        let test = env::current_exe().expect("a test is a file");
        let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/test").to_owned();
        if folder.ends_with("release") {
            build.arg("--release");
        }
        forget_package(&mut build);
        assert!(build.status().expect("cargo runs").success(), "the workspace does not build");
        folder
    });
    folder.join(name)
}

/// Removes the variables about a test's package from a command that builds. Otherwise Cargo compiles ring and all that
/// depends on it again, both now and for the next `cargo test`.
pub fn forget_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_", "OUT_DIR"]
            .iter()
            .any(|own| name.as_encoded_bytes().starts_with(own.as_bytes()))
        {
            command.env_remove(name);
        }
    }
}

/// Runs `seed` to its end.
pub fn seed<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(program("seed")).args(arguments).current_dir(root()).output().expect("seed runs")
}

/// Splits `input` into `data` and panics if that fails; returns the report.
pub fn split(input: &Path, data: &Path) -> String {
    let output = seed([Path::new("--input"), input, Path::new("--data"), data]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Writes a plan into `folder`, with these collections and their declarations, on ports from 4001.
pub fn declare(folder: &Path, collections: &[(&str, impl AsRef<str>)]) {
    let mut list = String::from("# Collections.\n");
    for ((name, declaration), port) in collections.iter().zip(4001..) {
        list += &format!("{name} {port}\n");
        fs::create_dir_all(folder.join(name)).expect("a folder can be made");
        fs::write(folder.join(name).join("collection.json"), declaration.as_ref()).expect("it can be written");
    }
    fs::write(folder.join("plan"), list).expect("it can be written");
}

/// Converts output to text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that has to end by itself, like a service that must not start. One that goes on fails its test, instead
/// of holding it up forever.
pub fn run_to_end(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    let id = child.id();
    let (ended, end) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        let goes_on = end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if goes_on {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
        }
        goes_on
    });
    let output = child.wait_with_output().expect("it can be waited for");
    drop(ended);
    let goes_on = guard.join().expect("the guard does not panic");
    assert!(!goes_on, "{command:?} had to end, but went on:\n{}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// A process that ends with its test.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts it and keeps what it prints.
    pub fn start(command: &mut Command) -> Self {
        let (read, write) = std::io::pipe().expect("a pipe can be made");
        let out = write.try_clone().expect("a pipe has many ends");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(write).spawn().expect("the program starts");
        // The command holds ends of the pipe too: without this, the reader would never see the pipe's end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let log = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(read).lines().map_while(Result::ok) {
                let mut log = lines.lock().expect("no holder panics");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log, reader }
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it has printed.
    pub fn log(&self) -> String {
        self.log.lock().expect("no holder panics").clone()
    }

    /// Waits until it has printed `expected`; returns the rest of that line.
    pub fn await_line(&mut self, expected: &str) -> String {
        let mut found = None;
        wait_for(&format!("{expected:?} in the log"), || {
            let log = self.log();
            found = log.lines().find_map(|line| line.split_once(expected)).map(|(_, rest)| rest.to_owned());
            // Its last lines may arrive after its end.
            let ended = found.is_none()
                && self.child.try_wait().expect("it can be waited for").is_some()
                && self.reader.is_finished();
            assert!(!ended || self.log().contains(expected), "it ended:\n{}", self.log());
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "no process takes {name}");
    }

    /// Sends a signal to the program that strace traces, its only child. strace ends with it.
    pub fn signal_traced(&self, name: &str) {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.id())).expect("it runs");
        let status = Command::new("kill").args([&format!("-{name}"), children.trim()]).status();
        assert!(status.expect("kill runs").success(), "no process takes {name}");
    }

    /// Waits until it ends; returns its status.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the process to end", || {
            status = self.child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        // Waits for the rest of the log, but not forever: a child may outlive the process and hold the pipe.
        let begin = Instant::now();
        while !self.reader.is_finished() && begin.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(10));
        }
        status.expect("it was waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Sends TERM before KILL: `up` has to end its own processes.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").arg(self.id().to_string()).status();
            let begin = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(15) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of process {}\n{}", self.id(), self.log());
        }
    }
}

/// Starts a service on a free port and waits until it listens.
pub fn start_service(name: &str, folder: &Path) -> (Process, SocketAddr) {
    let mut service =
        Process::start(Command::new(program(name)).args(["--listen", "127.0.0.1:0", "--data"]).arg(folder));
    let address = service.await_line(" on http://").trim().parse().expect("the log names an address");
    (service, address)
}

/// Starts a service for writes on its collection's folder in `data`. `plan` tells `seed` of another plan. Returns the secret
/// of its token too.
pub fn start_writable(
    program: &mut Command,
    collection: &str,
    data: &Path,
    plan: &[&str],
) -> (Process, SocketAddr, String) {
    let tokens = data.join(format!("{collection}.tokens"));
    let token = seed([&["token", collection, "--file", tokens.to_str().expect("it is text")], plan].concat());
    assert!(token.status.success(), "{}", text(&token.stderr));
    program.args(["--listen", "127.0.0.1:0", "--data"]).arg(data.join(collection));
    let mut service = Process::start(program.arg("--write-token-file").arg(tokens));
    let address = service.await_line(" on http://").trim().parse().expect("the log names an address");
    (service, address, text(&token.stdout).trim().to_owned())
}

/// Starts the entrance before three services and waits until it reaches them all; returns `None` without HAProxy.
pub fn start_entrance(users: SocketAddr, threads: SocketAddr, posts: SocketAddr) -> Option<(Process, SocketAddr)> {
    let haproxy = tool("haproxy", "the entrance")?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(haproxy);
    command.args(["-db", "-f"]).arg(root().join("gateway/haproxy.cfg"));
    command.env("ENTRANCE", address.to_string()).env("USERS", users.to_string());
    command.env("THREADS", threads.to_string()).env("POSTS", posts.to_string()).env("UI", "on");
    let entrance = Process::start(&mut command);
    wait_for("the entrance to reach all services", || {
        ["users", "threads", "posts"]
            .iter()
            .all(|name| try_get(address, &format!("/api/{name}/1")).is_some_and(|got| got.0 != 503))
    });
    Some((entrance, address))
}

/// Returns a port that was free a moment ago, for programs that cannot take port 0, or that need theirs again.
pub fn free_port() -> u16 {
    // A port that the system gives to whoever asks for any may go to an outgoing connection before it is used: these
    // lie below them. A process of its own, which `cargo test` runs beside others, begins elsewhere.
    const BELOW_EPHEMERAL: Range<u32> = 16_384..32_768;
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(RandomState::new().hash_one("a port") as u32));
    loop {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed) % BELOW_EPHEMERAL.len() as u32;
        let port = (BELOW_EPHEMERAL.start + nth) as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// Sends `GET path`; returns status, content type and body, or `None` without an answer.
pub fn try_get(address: SocketAddr, path: &str) -> Option<(u16, String, String)> {
    static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        config.max_idle_connections(0).build().into()
    });
    let response = AGENT.get(format!("http://{address}{path}")).call().ok()?;
    let kind =
        response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let status = response.status().as_u16();
    let mut body = String::new();
    response.into_body().into_reader().read_to_string(&mut body).ok()?;
    Some((status, kind, body))
}

/// Sends `GET path` and panics without an answer; returns status, content type and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    try_get(address, path).unwrap_or_else(|| panic!("no answer to GET {path} at {address}"))
}

/// Polls until `condition` holds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited {} s for {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Opens a service's database without the store. Its last holder's lock may outlast it a little.
pub fn open_sled(path: &Path) -> sled::Db {
    let mut opened = None;
    wait_for("the database", || {
        opened = sled::Config::new().segment_size(store::SEGMENT).path(path).open().ok();
        opened.is_some()
    });
    opened.expect("it is opened")
}

/// Finds a program on this machine. If it is missing, the test says that it is skipped; in CI no test may be skipped.
pub fn tool(name: &str, what_for: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed; {what_for} is not tested"));
    }
    found
}

/// Prints why a test is skipped; panics if CI is set, as `./test` sets it.
pub fn skip(reason: &str) {
    assert!(env::var_os("CI").is_none(), "CI is set, so nothing may be skipped: {reason}");
    // The test runner hides what `eprintln!` prints.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Returns every file below a folder with its content, except locks.
pub fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name() != Some("lock".as_ref()) {
                let content = fs::read(&path).expect("it can be read");
                files.push((path, content));
            }
        }
    }
    files.sort();
    files
}
