//! Real processes on free ports with fresh folders: what the tests of several programs, and of `seed`, begin with.
#![allow(missing_docs, reason = "helpers of tests: many a name says it all")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

pub mod changes;
pub mod compose;
pub mod file_system;
pub mod liar;
pub mod posts;

/// How long anything may take before a test gives up waiting.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// The sample that `seed` splits unless told otherwise.
pub fn sample() -> PathBuf {
    root().join("seed/db.json")
}

/// A program of the workspace, built.
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

/// Takes from a command that builds what Cargo tells a test of its package: ring would be compiled anew for it, with all
/// that stands on it, and again by the next `cargo test`.
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

/// Splits `input` into `data`, which must succeed.
pub fn split(input: &Path, data: &Path) -> String {
    let output = seed([Path::new("--input"), input, Path::new("--data"), data]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Writes a plan into `folder`: these collections with their declarations, and ports from 4001 on.
pub fn declare(folder: &Path, collections: &[(&str, impl AsRef<str>)]) {
    let mut list = String::from("# Collections.\n");
    for ((name, declaration), port) in collections.iter().zip(4001..) {
        list += &format!("{name} {port}\n");
        fs::create_dir_all(folder.join(name)).expect("a folder can be made");
        fs::write(folder.join(name).join("collection.json"), declaration.as_ref()).expect("it can be written");
    }
    fs::write(folder.join("plan"), list).expect("it can be written");
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process that ends with its test.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Process {
    /// Starts it; what it prints is kept.
    pub fn start(command: &mut Command) -> Self {
        let (read, write) = std::io::pipe().expect("a pipe can be made");
        let out = write.try_clone().expect("a pipe has many ends");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(write).spawn().expect("the program starts");
        // The command holds ends of the pipe too: while it does, the reader never sees the pipe's end.
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

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        self.log.lock().expect("no holder panics").clone()
    }

    /// Waits until it has printed `expected`, and returns what follows in that line.
    pub fn await_line(&mut self, expected: &str) -> String {
        let mut found = None;
        wait_for(&format!("{expected:?} in the log"), || {
            let log = self.log();
            found = log.lines().find_map(|line| line.split_once(expected)).map(|(_, rest)| rest.to_owned());
            // Its last lines may be read only after its end.
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

    /// Sends a signal to what it traces, if it is strace: its only child, with which it ends.
    pub fn signal_traced(&self, name: &str) {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.id())).expect("it runs");
        let status = Command::new("kill").args([&format!("-{name}"), children.trim()]).status();
        assert!(status.expect("kill runs").success(), "no process takes {name}");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the process to end", || {
            status = self.child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        // So that the log is whole; but what it has started may outlive it, and hold the pipe.
        let begin = Instant::now();
        while !self.reader.is_finished() && begin.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(10));
        }
        status.expect("it was waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Politely first: `up` has processes of its own to end.
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

/// Starts the entrance before three services and waits until it sends requests to all.
pub fn start_entrance(users: SocketAddr, threads: SocketAddr, posts: SocketAddr) -> Option<(Process, SocketAddr)> {
    let haproxy = tool("haproxy", "the entrance")?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(haproxy);
    command.args(["-db", "-f"]).arg(root().join("gateway/haproxy.cfg"));
    command.env("ENTRANCE", address.to_string()).env("USERS", users.to_string());
    command.env("THREADS", threads.to_string()).env("POSTS", posts.to_string());
    let entrance = Process::start(&mut command);
    wait_for("the entrance to reach all services", || {
        ["users", "threads", "posts"]
            .iter()
            .all(|name| try_get(address, &format!("/api/{name}/1")).is_some_and(|got| got.0 != 503))
    });
    Some((entrance, address))
}

/// A port that was free a moment ago, for programs that cannot take port 0.
pub fn free_port() -> u16 {
    // Two tests at once must not be given the same.
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("no holder panics");
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        if !given.contains(&port) {
            given.push(port);
            return port;
        }
    }
}

/// Status, content type and body that `GET path` gets; `None` where nobody answers.
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

/// What `GET path` gets, which must be an answer.
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

/// Finds a program on this machine. Without it, skips the test.
pub fn tool(name: &str, what_for: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed; {what_for} is not tested"));
    }
    found
}

/// Says why a test does nothing; fails it if CI is set, as `./test` sets it.
pub fn skip(reason: &str) {
    assert!(env::var_os("CI").is_none(), "CI is set, so nothing may be skipped: {reason}");
    // Past the test runner, which would keep it to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Every file below a folder with its content, but for locks.
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
