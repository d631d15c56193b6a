//! An answered write survives the loss of power: what the disk was not told to keep may be gone, and every answered write
//! is there all the same.
//!
//! strace writes down what the service writes into its database, when it syncs, and when it answers. From that, disks are
//! made as a loss of power at any moment may leave them: all that was synced by then is on them, and of the rest any part,
//! also of a single write. Taken for durable at once is what changes a file's name or length.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use fastrand::Rng;
use seed::update::copy_database;
use sha2::{Digest, Sha256};
use shared::model::{Collection, Post, Term};
use shared::store::{Purpose, Store};
use world::{Process, program, sample, split, tool};

const SECRET: &str = "posts_of_a_test";

/// How many connections write at once, and how many posts each.
const CONNECTIONS: usize = 4;
const POSTS: usize = 60;

/// How long a post's text is at most: pages of such posts fill many laps of the journal.
const TEXT: usize = 6000;

/// How many losses of power are tried.
const LOSSES: u64 = 30;

/// The smallest part of a write that a disk has whole or not at all, in bytes.
const SECTOR: usize = 512;

#[test]
fn an_answered_write_survives_the_loss_of_power() {
    let Some(run) = run("power") else { return };
    assert_eq!(run.answers.len(), CONNECTIONS * POSTS);
    for number in 0..LOSSES {
        let lost = run.lost_after_power_loss(number).unwrap_or_else(|error| panic!("loss {number}: {error}"));
        assert!(lost.is_empty(), "loss {number} took answered posts: {lost:?}");
    }
}

/// The test above can fail.
#[test]
fn without_syncs_a_loss_of_power_takes_answered_writes() {
    let Some(run) = run("process") else { return };
    assert!((0..LOSSES).any(|number| run.lost_after_power_loss(number).is_ok_and(|lost| !lost.is_empty())));
}

/// What a service did while clients wrote.
struct Run {
    dir: tempfile::TempDir,
    calls: Vec<Call>,
    /// After which call which post was answered, and what it holds.
    answers: Vec<(usize, u64, String)>,
}

/// Something that was done to a file of the database.
enum Done {
    /// These bytes were written, from there on.
    Written(u64, Vec<u8>),
    /// It has this length now.
    Cut(u64),
    Synced,
    /// A post was answered: no file of the database's.
    Answered(u64),
}

struct Call {
    file: PathBuf,
    done: Done,
    /// Numbers of lines in strace's log.
    begin: usize,
    end: usize,
}

/// Runs a service under strace while clients write posts.
fn run(durability: &str) -> Option<Run> {
    let strace = tool("strace", "the test of a loss of power")?;
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let (folder, trace) = (dir.path().join("posts"), dir.path().join("trace"));
    copy_database(&folder.join("db"), &dir.path().join("before")).unwrap();
    let tokens = dir.path().join("tokens");
    let digest: String = Sha256::digest(SECRET).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&tokens, format!("test {digest}\n")).unwrap();
    let mut command = Command::new(strace);
    command.args(["-f", "-qq", "-y", "-xx", "-s", "20000000", "-o"]).arg(&trace);
    command.args(["-e", "trace=pwrite64,writev,sendto,ftruncate,fdatasync,fsync"]).arg(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--durability", durability, "--write-token-file"]).arg(&tokens);
    let mut strace = Process::start(command.arg("--data").arg(&folder));
    let address: SocketAddr = strace.await_line(" on http://").trim().parse().unwrap();
    let sent: BTreeMap<u64, String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(move || write(address))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    // strace's only child; strace ends with it.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", strace.id())).unwrap();
    assert!(Command::new("kill").arg(children.trim()).status().unwrap().success());
    strace.wait();
    let calls = calls(&fs::read_to_string(&trace).unwrap(), &folder.join("db"));
    let answers = calls.iter().filter_map(|call| match call.done {
        Done::Answered(id) => Some((call.begin, id, sent[&id].clone())),
        _ => None,
    });
    let answers = answers.collect();
    Some(Run { dir, calls, answers })
}

/// Writes posts: their ids, and what was answered.
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
    // A call that another thread's came into the middle of has two lines.
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
    whole.iter().filter_map(|(begin, end, text)| call(*begin, *end, text, database)).collect()
}

fn call(begin: usize, end: usize, text: &str, database: &Path) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let (file, arguments) = arguments.split_once('<')?.1.split_once('>')?;
    let file = if file.starts_with("\\x") { String::from_utf8(bytes(file)).ok()? } else { file.to_owned() };
    let mut strings = arguments.split('"').skip(1).step_by(2).map(bytes);
    let last_number = |call: &str| call.rsplit_once(", ").unwrap().1.trim_end_matches([')', ' ']).parse().unwrap();
    let result = arguments.rsplit_once(" = ").map_or(arguments, |(call, _)| call).trim_end();
    let (file, done) = match (name, Path::new(&file).strip_prefix(database)) {
        ("pwrite64", Ok(file)) => (file, Done::Written(last_number(result), strings.next().unwrap())),
        ("ftruncate", Ok(file)) => (file, Done::Cut(last_number(result))),
        ("fdatasync" | "fsync", Ok(file)) => (file, Done::Synced),
        ("writev" | "sendto", Err(_)) => {
            let head = String::from_utf8(strings.next()?).ok()?;
            let (_, id) = head.strip_prefix("HTTP/1.1 201")?.split_once("/api/posts/")?;
            (Path::new(""), Done::Answered(id.split('\r').next()?.parse().ok()?))
        }
        _ => return None,
    };
    Some(Call { file: file.to_owned(), done, begin, end })
}

/// `\x61\x62`
fn bytes(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

impl Run {
    /// Which answered posts are not there after a loss of power.
    fn lost_after_power_loss(&self, number: u64) -> Result<Vec<u64>, String> {
        let rng = &mut Rng::with_seed(number);
        let ends = self.calls.iter().map(|call| call.end).filter(|end| *end < usize::MAX).max().unwrap();
        let moment = rng.usize(self.calls[0].begin..=ends + 1);
        let path = self.dir.path().join(format!("disk-{number}"));
        copy_database(&self.dir.path().join("before"), &path).unwrap();
        self.write_what_is_left(moment, &path, rng);
        let store = Store::open(&path, Collection::Posts, Purpose::Serving).map_err(|error| error.to_string())?;
        let there: BTreeMap<u64, String> = store
            .records()
            .map(|record| record.map(|(id, stored)| (id.get(), String::from_utf8_lossy(stored.json()).into_owned())))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        let answered = self.answers.iter().filter(|(after, ..)| *after < moment);
        let lost = answered.filter(|(_, id, json)| there.get(id) != Some(json)).map(|(_, id, _)| *id).collect();
        // The index is that of the records that are there.
        let listed = |thread: u64| store.ids(Post::IN_THREAD, &Term::Id(thread.try_into().unwrap()));
        let listed: BTreeSet<u64> = (1..100).flat_map(listed).map(|id| id.unwrap().get()).collect();
        assert_eq!(listed, there.keys().copied().collect(), "loss {number}");
        drop(store);
        fs::remove_dir_all(path).unwrap();
        Ok(lost)
    }

    fn write_what_is_left(&self, moment: usize, path: &Path, rng: &mut Rng) {
        let share = *[0.0, 0.1, 0.5, 0.9, 1.0].get(rng.usize(..5)).unwrap();
        let torn = rng.bool();
        let syncs: Vec<&Call> =
            self.calls.iter().filter(|call| matches!(call.done, Done::Synced) && call.end < moment).collect();
        for call in self.calls.iter().filter(|call| call.begin < moment) {
            let file =
                || OpenOptions::new().write(true).create(true).truncate(false).open(path.join(&call.file)).unwrap();
            match &call.done {
                Done::Cut(length) if call.end < moment => file().set_len(*length).unwrap(),
                Done::Written(at, data) => {
                    let synced = syncs.iter().any(|sync| sync.file == call.file && sync.begin > call.end);
                    if synced {
                        file().write_all_at(data, *at).unwrap();
                    } else if torn {
                        write_torn(&file(), *at, data, share, rng);
                    } else if rng.f64() < share {
                        file().write_all_at(data, *at).unwrap();
                    }
                }
                _ => {}
            }
        }
    }
}

/// Writes a share of the sectors.
fn write_torn(file: &File, at: u64, data: &[u8], share: f64, rng: &mut Rng) {
    let mut begin = 0;
    while begin < data.len() {
        let end = (begin + SECTOR - (at as usize + begin) % SECTOR).min(data.len());
        if rng.f64() < share {
            file.write_all_at(&data[begin..end], at + begin as u64).unwrap();
        }
        begin = end;
    }
}
