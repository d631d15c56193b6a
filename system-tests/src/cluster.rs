//! A replicated service with its broker, whose parts can be killed, frozen and cut off from one another.
//!
//! ```text
//! replicas ──► links ──► three nats-servers ──► links ──► each other
//! ```
//!
//! Every connection goes through a link of this process: a closed one holds back what it carries, as a network does that
//! is broken, and takes no notice of who is waiting.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use record::declaration::Declaration;
use record::model::Collection;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{Process, declare, free_port, program, seed, text, tool, try_get, wait_for};

/// The number of brokers, and that of replicas.
pub const COUNT: usize = 3;

/// The write token's secret.
pub const SECRET: &str = "notes_of_a_test";

/// The secret of a token that only the operator has.
pub const OPERATOR: &str = "notes_of_an_operator";

/// The collection that is replicated: a text, and a slug that only one may have.
const NOTES: &str = r#"{
  "name": "notes", "ids": "record",
  "fields": [
    { "name": "text", "shape": { "text": { "most": 4096 } } },
    { "name": "slug", "shape": { "line": { "most": 64 } }, "required": false }
  ],
  "indexes": [{ "number": 1, "field": "slug", "route": "by-slug", "answers": "one", "unique": true }]
}"#;

/// A way for connections, which can be closed for a while.
pub struct Link {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
}

impl Link {
    /// Opens a link to `port`.
    fn new(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, is_open) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let gate = Arc::clone(&is_open);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    wait_until_open(&gate);
                    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
                    let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    let other = Arc::clone(&gate);
                    thread::spawn(move || carry(from_client, server, &gate));
                    carry(from_server, client, &other);
                });
            }
        });
        Self { address, is_open }
    }

    fn set(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }
}

fn wait_until_open(gate: &AtomicBool) {
    while !gate.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Carries what comes until one side ends.
fn carry(mut from: TcpStream, mut to: TcpStream, gate: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    let _ = from.set_nodelay(true);
    while let Ok(count) = from.read(&mut bytes)
        && count > 0
    {
        wait_until_open(gate);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A process that can be started again.
struct Part {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    process: Option<Process>,
    is_frozen: bool,
}

impl Part {
    fn new(command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        Self { command: Box::new(command), process: None, is_frozen: false }
    }

    fn start(&mut self) {
        if self.process.is_none() {
            self.process = Some(Process::start(&mut (self.command)()));
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("KILL");
            process.wait();
        }
        self.is_frozen = false;
    }

    fn freeze(&mut self) {
        if let Some(process) = &self.process {
            process.signal("STOP");
            self.is_frozen = true;
        }
    }

    /// Runs it again, whatever became of it.
    fn heal(&mut self) {
        if let (Some(process), true) = (&self.process, self.is_frozen) {
            process.signal("CONT");
            self.is_frozen = false;
        }
        let has_ended =
            self.process.as_ref().is_some_and(|process| !Path::new(&format!("/proc/{}/exe", process.id())).exists());
        if has_ended {
            self.process = None;
        }
        self.start();
    }
}

/// Three brokers and three replicas of one collection.
pub struct Cluster {
    dir: TempDir,
    brokers: Vec<Part>,
    replicas: Vec<Part>,
    /// From broker to broker.
    routes: Vec<Vec<Option<Link>>>,
    /// From replica to broker.
    ways: Vec<Vec<Link>>,
    /// How far the clocks of the replicas are off, as `faketime -f` takes it.
    clocks: Arc<Mutex<[String; COUNT]>>,
    addresses: Vec<SocketAddr>,
    ports: Vec<u16>,
    /// The most MiB of the stream.
    most: u16,
}

impl Cluster {
    /// Starts it with the records of `input`, a list in JSON; returns `None` without nats-server.
    pub fn start(input: &str) -> Option<Self> {
        Self::start_from(split(input))
    }

    /// Starts it with the split in the folder `data` of `dir`, which [`split`] has made.
    pub fn start_from(dir: TempDir) -> Option<Self> {
        Self::start_with_room(dir, 256)
    }

    /// Starts it with a stream of at most so many MiB.
    pub fn start_with_room(dir: TempDir, most: u16) -> Option<Self> {
        let server = tool("nats-server", "a replicated service")?;
        let at = |name: &str| dir.path().join(name);
        let [plan, keys] = ["plan", "keys"].map(|name| at(name).display().to_string());
        run(&["streams", "keys", "--plan", &plan, "--output", &keys]);

        let ports: Vec<u16> = (0..COUNT).map(|_| free_port()).collect();
        let between: Vec<u16> = (0..COUNT).map(|_| free_port()).collect();
        let link_to = |ports: &[u16], but: Option<usize>| -> Vec<Option<Link>> {
            ports.iter().enumerate().map(|(nth, port)| (Some(nth) != but).then(|| Link::new(*port))).collect()
        };
        let routes: Vec<_> = (0..COUNT).map(|from| link_to(&between, Some(from))).collect();
        let ways: Vec<Vec<Link>> = (0..COUNT).map(|_| link_to(&ports, None).into_iter().flatten().collect()).collect();
        let brokers = (0..COUNT).map(|nth| {
            let config = at(&format!("broker-{nth}.conf"));
            let to_others: Vec<String> =
                routes[nth].iter().flatten().map(|link| format!("\"nats://{}\"", link.address)).collect();
            // Nobody may find a way past the links.
            let nowhere = free_port();
            let lines = format!(
                "server_name: b{nth}\nlisten: \"127.0.0.1:{}\"\n\
                 jetstream {{ store_dir: {:?}, sync_interval: always, max_file_store: 1GB, max_memory_store: 64MB }}\n\
                 cluster {{ name: c, listen: \"127.0.0.1:{}\", advertise: \"127.0.0.1:{nowhere}\", routes: [{}] }}\n\
                 ping_interval: 1s\nping_max: 3\ninclude \"keys/accounts.conf\"\n",
                ports[nth],
                at(&format!("broker-{nth}")),
                between[nth],
                to_others.join(", ")
            );
            fs::write(&config, lines).unwrap();
            let server = server.clone();
            Part::new(move || {
                let mut command = Command::new(&server);
                command.arg("-c").arg(&config);
                command
            })
        });
        let mut cluster = Self {
            brokers: brokers.collect(),
            replicas: Vec::new(),
            addresses: (0..COUNT).map(|_| SocketAddr::from(([127, 0, 0, 1], free_port()))).collect(),
            routes,
            ways,
            clocks: Arc::default(),
            ports,
            most,
            dir,
        };
        cluster.brokers.iter_mut().for_each(Part::start);
        cluster.create_stream();
        for nth in 0..COUNT {
            let command = cluster.command(nth);
            // A test may have made it, on another disk.
            fs::create_dir_all(cluster.data(nth)).unwrap();
            copy(&cluster.path("data/notes"), &cluster.data(nth));
            fs::copy(cluster.path("plan/notes/collection.json"), cluster.declaration(nth)).unwrap();
            cluster.replicas.push(Part::new(command));
            cluster.replicas[nth].start();
        }
        (0..COUNT).for_each(|nth| cluster.await_ready(nth));
        Some(cluster)
    }

    fn create_stream(&self) {
        self.create_stream_of("data", &[]);
    }

    /// Makes the stream, with `more` options, of the databases in the folder `data`.
    pub fn create_stream_of(&self, data: &str, more: &[&str]) {
        let [data, keys] = [data, "keys"].map(|name| self.path(name).display().to_string());
        let (broker, most) = (self.broker(), self.most.to_string());
        let options = ["--broker", &broker, "--keys", &keys, "--data", &data, "--most", &most];
        run(&[&["streams", "create"], &options[..], more].concat());
    }

    /// Returns the addresses of the brokers, as a list that options take.
    pub fn broker(&self) -> String {
        let urls: Vec<String> = self.ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        urls.join(",")
    }

    /// Writes a plan with this declaration; returns its folder's name.
    pub fn write_plan(&self, name: &str, declaration: &str) -> PathBuf {
        declare(&self.path(name), &[("notes", declaration)]);
        self.path(name)
    }

    /// Writes a plan in which another collection that nobody serves comes before notes; returns its folder's name.
    pub fn write_plan_of_two(&self, name: &str) -> PathBuf {
        declare(&self.path(name), &[("drafts", &*NOTES.replace("notes", "drafts")), ("notes", NOTES)]);
        self.path(name)
    }

    /// Lets the stream be decided by the declaration of `plan`; returns what `seed` says.
    pub fn switch(&self, plan: &Path) -> Output {
        let [plan, keys] = [plan, &self.path("keys")].map(|path| path.display().to_string());
        seed(["streams", "switch", "--plan", &plan, "--broker", &self.broker(), "--keys", &keys])
    }

    /// Stores a snapshot of a replica at the broker; returns what `seed` says.
    pub fn store_snapshot(&self, replica: usize) -> Output {
        seed(self.storing(replica))
    }

    /// Returns the arguments with which `seed` stores a snapshot of a replica.
    pub fn storing(&self, replica: usize) -> Vec<String> {
        let [plan, keys, secrets] = ["plan", "keys", "secrets"].map(|name| self.path(name).display().to_string());
        fs::write(&secrets, OPERATOR).unwrap();
        let (from, broker) = (format!("http://{}", self.addresses[replica]), self.broker());
        let command = ["streams", "snapshot", "--plan", &plan, "--from", &from, "--secrets", &secrets];
        [&command[..], &["--broker", &broker, "--keys", &keys]].concat().into_iter().map(str::to_owned).collect()
    }

    /// Lets the brokers lose all they have, and makes the stream anew.
    pub fn make_stream_anew(&mut self) {
        for nth in 0..COUNT {
            self.brokers[nth].kill();
            fs::remove_dir_all(self.path(&format!("broker-{nth}"))).unwrap();
        }
        self.brokers.iter_mut().for_each(Part::start);
        self.create_stream();
    }

    /// Returns how a replica is started.
    fn command(&self, nth: usize) -> impl Fn() -> Command + Send + Sync + 'static {
        let servers: Vec<String> = self.ways[nth].iter().map(|link| format!("nats://{}", link.address)).collect();
        let (servers, address, folder) =
            (servers.join(","), self.addresses[nth].to_string(), self.data(nth).join("notes"));
        let [tokens, key] = ["tokens", "keys/notes.nk"].map(|name| self.path(name));
        let slice = self.path("data/notes/db.json");
        let (declaration, clocks) = (self.declaration(nth), Arc::clone(&self.clocks));
        move || {
            let mut command = Command::new(program("collection"));
            let off = &clocks.lock().unwrap()[nth];
            if !off.is_empty() {
                // As `faketime` does, which is a process of its own and would outlive its child.
                command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1").env("FAKETIME", off);
            }
            command.arg("--declaration").arg(&declaration).args(["--listen", &address, "--broker", &servers]);
            command.arg("--data").arg(&folder).arg("--write-token-file").arg(&tokens).arg("--broker-key").arg(&key);
            command.env("RUST_LOG", "info,access=off").env("SLICE", &slice);
            command
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the folder above that of a replica.
    pub fn data(&self, replica: usize) -> PathBuf {
        self.path(&format!("replica-{replica}"))
    }

    /// Returns the address of a replica.
    pub fn address(&self, replica: usize) -> SocketAddr {
        self.addresses[replica]
    }

    /// Waits until a replica is ready.
    pub fn await_ready(&self, replica: usize) {
        wait_for(&format!("replica {replica} to be ready"), || {
            try_get(self.addresses[replica], "/ready").is_some_and(|(status, ..)| status == 200)
        });
    }

    /// Returns what a replica has printed since its start.
    pub fn log(&self, replica: usize) -> String {
        self.replicas[replica].process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Returns the file with the declaration of a replica.
    pub fn declaration(&self, nth: usize) -> PathBuf {
        self.path(&format!("replica-{nth}.json"))
    }

    /// Puts the clock of a replica forward or back at its next start.
    pub fn set_clock(&self, nth: usize, off: &str) {
        self.clocks.lock().unwrap()[nth] = off.to_owned();
    }

    /// Returns the folder of it all.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Lets all replicas read their tokens again.
    pub fn hang_up(&mut self) {
        for replica in self.replicas.iter_mut().filter_map(|replica| replica.process.as_mut()) {
            replica.signal("HUP");
            replica.await_line("reloaded");
        }
    }

    /// Ends a replica in order, for a look at its folder.
    pub fn stop_replica(&mut self, nth: usize) {
        if let Some(mut replica) = self.replicas[nth].process.take() {
            replica.signal("TERM");
            assert!(replica.wait().success(), "{}", replica.log());
        }
    }

    /// Waits until a replica has ended by itself, with an error; returns what it has printed.
    pub fn await_end(&mut self, nth: usize) -> String {
        let mut replica = self.replicas[nth].process.take().expect("it was started");
        assert_eq!(replica.wait().code(), Some(1), "{}", replica.log());
        replica.log()
    }

    /// Starts a replica again.
    pub fn start_replica(&mut self, nth: usize) {
        self.replicas[nth].start();
    }

    pub fn kill_broker(&mut self, nth: usize) {
        self.brokers[nth].kill();
    }

    pub fn freeze_broker(&mut self, nth: usize) {
        self.brokers[nth].freeze();
    }

    /// Closes the ways between a broker and the others.
    pub fn cut_broker(&self, nth: usize) {
        for (from, links) in self.routes.iter().enumerate() {
            for (to, link) in links.iter().enumerate() {
                if let (Some(link), true) = (link, from == nth || to == nth) {
                    link.set(false);
                }
            }
        }
    }

    pub fn kill_replica(&mut self, nth: usize) {
        self.replicas[nth].kill();
    }

    pub fn freeze_replica(&mut self, nth: usize) {
        self.replicas[nth].freeze();
    }

    /// Closes the ways between a replica and these brokers.
    pub fn cut_replica(&self, nth: usize, brokers: &[usize]) {
        brokers.iter().for_each(|broker| self.ways[nth][*broker].set(false));
    }

    /// Starts everything again and opens all ways.
    pub fn heal(&mut self) {
        self.routes.iter().flatten().flatten().chain(self.ways.iter().flatten()).for_each(|link| link.set(true));
        self.brokers.iter_mut().chain(&mut self.replicas).for_each(Part::heal);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A frozen process would not take the signal to end.
        self.replicas.iter_mut().chain(&mut self.brokers).for_each(Part::kill);
    }
}

/// Returns the line of a token file.
pub fn token(name: &str, secret: &str) -> String {
    format!("{name} {}\n", hex::encode(Sha256::digest(secret)))
}

/// Returns the collection.
pub fn notes() -> Collection {
    Collection::of(Declaration::read(NOTES).unwrap())
}

/// Splits `input`, a list of notes in JSON, in a new folder: `plan`, `data`, and `tokens` with that of [`SECRET`].
pub fn split(input: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    declare(&at("plan"), &[("notes", NOTES)]);
    fs::write(at("db.json"), format!("{{\"notes\":{input}}}")).unwrap();
    let [plan, input, data] = ["plan", "db.json", "data"].map(|name| at(name).display().to_string());
    run(&["--plan", &plan, "--input", &input, "--data", &data, "--quiet"]);
    fs::write(at("tokens"), token("test", SECRET) + &token("operator", OPERATOR)).unwrap();
    dir
}

/// Runs `seed`, which has to succeed.
pub fn run(arguments: &[&str]) {
    let output = seed(arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Copies a stopped service's folder.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "cp failed");
}
