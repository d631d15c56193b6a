//! Answered writes, and all data that a reader was shown, survive a loss of power that takes everything not synced.
//!
//! strace records what the service writes into its database, when it syncs, and when it answers. From that, the tests
//! make disks as a loss of power at any moment may leave them. They hold all that was synced by then and any part of
//! the rest, also of a single write. Changes of a file's name or length count as durable at once. The next run finds
//! what the last one did not sync in the system's memory.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, thread};

use fastrand::Rng;
use record::model::Term;
use store::{Purpose, Store};
use world::changes::{collection, copy_database};
use world::posts::{Answer, Client, Posts, SECRET, arguments, kill, start};
use world::{Process, program, sample, split, tool};

/// Connections that write at once, and the posts of each.
const CONNECTIONS: usize = 4;
const POSTS: usize = 60;

/// The longest text of a post, in bytes: pages of such posts fill many laps of the journal.
const TEXT: usize = 6000;

/// Losses of power that are tried.
const LOSSES: u64 = 30;

/// The default of `KILLS`, the number of services that are killed before they sync.
const KILLS: u64 = 3;

/// The part of a write that a disk keeps as a whole or not at all, in bytes.
const SECTOR: usize = 512;

#[test]
fn an_answered_write_survives_the_loss_of_power() {
    let Some(run) = run("power") else { return };
    assert_eq!(run.answers.len(), CONNECTIONS * POSTS);
    run.survives_power_losses();
}

/// Proves that the test above can fail.
#[test]
fn without_syncs_a_loss_of_power_takes_answered_writes() {
    let Some(run) = run("process") else { return };
    assert!((0..LOSSES).any(|number| run.lost_after_power_loss(number).is_ok_and(|lost| !lost.is_empty())));
}

/// If a process ends before its sync, the system alone has the write: the next run shows it to readers and answers its
/// repetition. A loss of power still took it, and its id went to another post.
#[test]
fn what_is_served_after_a_kill_survives_the_loss_of_power() {
    let kills = env::var("KILLS").map_or(KILLS, |kills| kills.parse().expect("KILLS is a number"));
    for number in 0..kills {
        let Some(mut run) = Run::new() else { return };
        // The committer's first sync is of the database, its second of the journal with the first post.
        let inject = format!("inject=fdatasync:signal=SIGKILL:when={}", number + 2);
        let (mut killed, address) = run.start("power", &["-e", &inject]);
        let mut posts = Posts::new(address);
        while let Some(answer) = posts.try_post(posts.answered.len()) {
            assert_eq!(answer.status, 201, "{answer:?}");
            posts.answered.push(answer);
        }
        assert!(!killed.wait().success());
        run.note(&by_id(&posts.answered));

        let (mut again, address) = run.start("power", &[]);
        posts.client = Client::new(address);
        let before = posts.client.get("/api/posts").body;
        if number == 0 {
            assert!(before.contains(r#""text":"0x"#), "the system lost what was not synced");
        }
        let repeated = posts.post(posts.answered.len());
        assert_eq!(repeated.status, 201, "{repeated:?}");
        let after = posts.client.get("/api/posts").body;
        again.signal_traced("KILL");
        again.wait();
        run.note(&by_id(std::slice::from_ref(&repeated)));

        run.survives_power_losses();
        let [.., first, second, third] = run.answered_at()[..] else { panic!("three requests were answered") };
        for (moment, list, more) in [(first, &before, None), (second, &after, Some(repeated)), (third, &after, None)] {
            posts.answered.extend(more);
            let data = tempfile::tempdir().unwrap();
            run.write_disk(moment, &data.path().join("posts/db"), &mut Left::nothing());
            let (process, address) = start(data.path());
            posts.client = Client::new(address);
            assert_eq!(&posts.client.get("/api/posts").body, list, "kill {number}: shown posts are gone");
            posts.replay();
            kill(process);
        }
    }
}

/// Returns the answered posts by their ids.
fn by_id(answers: &[Answer]) -> BTreeMap<u64, String> {
    let id = |answer: &Answer| answer.location.rsplit('/').next().unwrap().parse().unwrap();
    answers.iter().map(|answer| (id(answer), answer.body.clone())).collect()
}

/// The calls of services that ran one after the other while clients wrote.
struct Run {
    strace: PathBuf,
    dir: tempfile::TempDir,
    calls: Vec<Call>,
    /// The lines that strace has written about ended services.
    lines: usize,
    /// Answered posts: the number of the call, the id, and the post.
    answers: Vec<(usize, u64, String)>,
}

/// A change of a file of the database, or an answer.
enum Done {
    /// These bytes were written at this offset.
    Written(u64, Vec<u8>),
    /// These bytes were appended.
    Appended(Vec<u8>),
    /// The file was cut to this length.
    Cut(u64),
    /// The file got this name.
    Renamed(PathBuf),
    Removed,
    Synced,
    /// A client got an answer, with the id if a post was created.
    Answered(Option<u64>),
}

struct Call {
    file: PathBuf,
    done: Done,
    /// Numbers of lines in strace's logs.
    begin: usize,
    /// `usize::MAX` if the call did not end.
    end: usize,
}

/// Runs a service under strace while clients write posts.
fn run(durability: &str) -> Option<Run> {
    let mut run = Run::new()?;
    let (mut strace, address) = run.start(durability, &[]);
    let sent: BTreeMap<u64, String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(move || write(address))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    strace.signal_traced("TERM");
    strace.wait();
    run.note(&sent);
    Some(run)
}

/// Writes posts; returns their ids and the answers' bodies.
fn write(address: SocketAddr) -> Vec<(u64, String)> {
    let agent = ureq::Agent::new_with_defaults();
    let post = |_| {
        let text = "x".repeat(fastrand::usize(..TEXT));
        let body = format!(r#"{{"thread":{},"text":"{text}","user":1}}"#, fastrand::u64(1..9));
        let request =
            agent.post(format!("http://{address}/api/posts")).header("authorization", format!("Bearer {SECRET}"));
        let mut answer = request.header("content-type", "application/json").send(body).unwrap();
        let body = answer.body_mut().read_to_string().unwrap();
        let id = answer.headers()["location"].to_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
        (id, body)
    };
    (0..POSTS).map(post).collect()
}

/// Reads strace's log.
fn calls(trace: &str, database: &Path) -> Vec<Call> {
    // A call that another thread's call interrupts has two lines.
    let mut whole: Vec<(usize, usize, String)> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread, whole.len());
            whole.push((number, usize::MAX, begun.to_owned()));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end, text) = &mut whole[open.remove(thread).unwrap()];
            *end = number;
            text.push_str(resumed.split_once("resumed>").unwrap().1);
        } else {
            whole.push((number, number, rest.to_owned()));
        }
    }
    let mut lengths: HashMap<PathBuf, u64> = HashMap::new();
    let mut calls: Vec<Call> =
        whole.iter().filter_map(|(begin, end, text)| call(*begin, *end, text, database)).collect();
    for Call { file, done, .. } in &mut calls {
        match done {
            Done::Appended(bytes) => {
                let length = lengths.entry(file.clone()).or_default();
                let at = *length;
                *length += bytes.len() as u64;
                *done = Done::Written(at, std::mem::take(bytes));
            }
            Done::Renamed(_) | Done::Removed => drop(lengths.remove(file)),
            _ => {}
        }
    }
    calls
}

fn call(begin: usize, end: usize, text: &str, database: &Path) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let (arguments, result) = arguments.rsplit_once(" = ").unwrap_or((arguments, "?"));
    let end = if result == "?" { usize::MAX } else { end };
    if result.starts_with('-') {
        return None;
    }
    let mut strings = arguments.split('"').skip(1).step_by(2).map(bytes);
    let last_number = || arguments.rsplit_once(", ").unwrap().1.trim_end_matches([')', ' ']).parse().unwrap();
    if name.starts_with("rename") || name.starts_with("unlink") {
        let mut files = strings.map(|name| PathBuf::from(String::from_utf8(name).unwrap()));
        let file = files.next()?.strip_prefix(database).ok()?.to_owned();
        let to = files.next().map(|to| to.strip_prefix(database).unwrap().to_owned());
        return Some(Call { file, done: to.map_or(Done::Removed, Done::Renamed), begin, end });
    }
    let file = arguments.split_once('<')?.1.split_once('>')?.0;
    let file = if file.starts_with("\\x") { String::from_utf8(bytes(file)).ok()? } else { file.to_owned() };
    let (file, done) = match (name, Path::new(&file).strip_prefix(database)) {
        ("pwrite64", Ok(file)) => (file, Done::Written(last_number(), strings.next().unwrap())),
        ("write", Ok(file)) => (file, Done::Appended(strings.next().unwrap())),
        ("ftruncate", Ok(file)) => (file, Done::Cut(last_number())),
        ("fdatasync" | "fsync", Ok(file)) => (file, Done::Synced),
        ("writev" | "sendto", Err(_)) => {
            let head = String::from_utf8(strings.next()?).ok()?;
            let id = || head.split_once("/api/posts/")?.1.split('\r').next()?.parse().ok();
            let answered = if head.starts_with("HTTP/1.1 201") { Some(id()?) } else { None };
            head.starts_with("HTTP/1.1 20").then_some((Path::new(""), Done::Answered(answered)))?
        }
        _ => return None,
    };
    Some(Call { file: file.to_owned(), done, begin, end })
}

/// Decodes `\x61\x62`.
fn bytes(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

impl Run {
    /// Splits the sample, and lets the service list its words, which has syncs of its own.
    fn new() -> Option<Self> {
        let strace = tool("strace", "a loss of power")?;
        let dir = tempfile::tempdir().unwrap();
        split(&sample(), dir.path());
        let (mut first, _) = start(dir.path());
        first.signal("TERM");
        assert!(first.wait().success());
        copy_database(&dir.path().join("posts/db"), &dir.path().join("before")).unwrap();
        Some(Self { strace, dir, calls: Vec::new(), lines: 0, answers: Vec::new() })
    }

    /// Starts a service under strace, with `more` arguments for strace.
    fn start(&self, durability: &str, more: &[&str]) -> (Process, SocketAddr) {
        let mut command = Command::new(&self.strace);
        command.args(["-f", "-qq", "-y", "-xx", "-s", "20000000", "-o"]).arg(self.dir.path().join("trace"));
        let names = "?rename,?renameat,?renameat2,?unlink,?unlinkat";
        command.args(["-e", &format!("trace=pwrite64,write,writev,sendto,ftruncate,fdatasync,fsync,{names}")]);
        command.args(more).arg(program("posts")).args(arguments(self.dir.path(), durability));
        let mut strace = Process::start(&mut command);
        let address = strace.await_line(" on http://").trim().parse().unwrap();
        (strace, address)
    }

    /// Notes the calls of a service that has ended, and which of the `sent` posts it answered.
    fn note(&mut self, sent: &BTreeMap<u64, String>) {
        let (database, trace) = (self.dir.path().join("posts/db"), self.dir.path().join("trace"));
        let trace = fs::read_to_string(trace).unwrap();
        let before = self.lines;
        self.lines += trace.lines().count();
        for mut call in calls(&trace, &database) {
            call.begin += before;
            // A write that did not return may have been made all the same.
            let was_made = || match &call.done {
                Done::Written(at, data) => {
                    let mut there = vec![0; data.len()];
                    let file = File::open(database.join(&call.file));
                    file.is_ok_and(|file| file.read_exact_at(&mut there, *at).is_ok() && there == *data)
                }
                _ => false,
            };
            call.end = match call.end {
                usize::MAX if was_made() => self.lines - 1,
                usize::MAX => usize::MAX,
                end => end + before,
            };
            if let Done::Answered(Some(id)) = call.done
                && let Some(json) = sent.get(&id)
            {
                self.answers.push((call.begin, id, json.clone()));
            }
            self.calls.push(call);
        }
    }

    /// Returns the moments just after each answer.
    fn answered_at(&self) -> Vec<usize> {
        let answered = self.calls.iter().filter(|call| matches!(call.done, Done::Answered(_)));
        answered.map(|call| call.end + 1).collect()
    }

    /// Checks that losses of power at random moments take no answered post.
    fn survives_power_losses(&self) {
        for number in 0..LOSSES {
            let lost = self.lost_after_power_loss(number).unwrap_or_else(|error| panic!("loss {number}: {error}"));
            assert!(lost.is_empty(), "loss {number} took answered posts: {lost:?}");
        }
    }

    /// Returns the answered posts that are missing after a loss of power.
    fn lost_after_power_loss(&self, number: u64) -> Result<Vec<u64>, String> {
        let left = &mut Left::some(Rng::with_seed(number));
        let ends = self.calls.iter().map(|call| call.end).filter(|end| *end < usize::MAX).max().unwrap();
        let moment = left.rng.usize(self.calls[0].begin..=ends + 1);
        let path = self.dir.path().join(format!("disk-{number}"));
        self.write_disk(moment, &path, left);
        let store = Store::open(&path, collection("posts"), Purpose::Serving).map_err(|error| error.to_string())?;
        let there: BTreeMap<u64, String> = store
            .records()
            .map(|record| record.map(|(id, stored)| (id.get(), String::from_utf8_lossy(stored.json()).into_owned())))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        let answered = self.answers.iter().filter(|(after, ..)| *after < moment);
        let lost = answered.filter(|(_, id, json)| there.get(id) != Some(json)).map(|(_, id, _)| *id).collect();
        // The index matches the records.
        let in_thread = collection("posts").index_at("in-thread").unwrap().number;
        let listed = |thread: u64| store.ids(in_thread, &Term::Id(thread.try_into().unwrap()));
        let listed: BTreeSet<u64> = (1..100).flat_map(listed).map(|id| id.unwrap().get()).collect();
        assert_eq!(listed, there.keys().copied().collect(), "loss {number}");
        drop(store);
        fs::remove_dir_all(path).unwrap();
        Ok(lost)
    }

    /// Writes the database that a loss of power at `moment` leaves.
    fn write_disk(&self, moment: usize, path: &Path, left: &mut Left) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        copy_database(&self.dir.path().join("before"), path).unwrap();
        let syncs: Vec<&Call> =
            self.calls.iter().filter(|call| matches!(call.done, Done::Synced) && call.end < moment).collect();
        for call in self.calls.iter().filter(|call| call.begin < moment) {
            let name = path.join(&call.file);
            let file = || OpenOptions::new().write(true).create(true).truncate(false).open(&name).unwrap();
            match &call.done {
                Done::Cut(length) if call.end < moment => file().set_len(*length).unwrap(),
                Done::Renamed(to) if call.end < moment => fs::rename(name, path.join(to)).unwrap(),
                Done::Removed if call.end < moment => fs::remove_file(name).unwrap(),
                Done::Written(at, data) => {
                    let synced = syncs.iter().any(|sync| sync.file == call.file && sync.begin > call.end);
                    if synced {
                        file().write_all_at(data, *at).unwrap();
                    } else {
                        left.write(&file(), *at, data);
                    }
                }
                _ => {}
            }
        }
    }
}

/// The part of the unsynced data that a disk keeps.
struct Left {
    share: f64,
    torn: bool,
    rng: Rng,
}

impl Left {
    fn some(mut rng: Rng) -> Self {
        let share = *[0.0, 0.1, 0.5, 0.9, 1.0].get(rng.usize(..5)).unwrap();
        Self { share, torn: rng.bool(), rng }
    }

    fn nothing() -> Self {
        Self { share: 0.0, torn: false, rng: Rng::new() }
    }

    fn write(&mut self, file: &File, at: u64, data: &[u8]) {
        if !self.torn {
            if self.rng.f64() < self.share {
                file.write_all_at(data, at).unwrap();
            }
            return;
        }
        let mut begin = 0;
        while begin < data.len() {
            let end = (begin + SECTOR - (at as usize + begin) % SECTOR).min(data.len());
            if self.rng.f64() < self.share {
                file.write_all_at(&data[begin..end], at + begin as u64).unwrap();
            }
            begin = end;
        }
    }
}
