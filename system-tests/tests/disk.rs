//! A start believes the system's page cache only after an orderly end.
//!
//! After a failed sync, Linux keeps the pages that it could not write and treats them as written. A service started
//! then read them, built on them and answered writes. A loss of power took these pages, and the database did not open
//! any more.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{env, iter, thread};

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

use world::changes::copy_database;
use world::file_system::{DiskCopy, FailingDisk, mount};
use world::posts::{Client, Posts, arguments, kill, start};
use world::{Process, program, sample, skip, split, tool, wait_for};

/// The default of `FAILING_DISKS`, the number of disks that fail.
const FAILING_DISKS: u64 = 1;

/// The unit of the page cache, in bytes.
const PAGE: usize = 4 << 10;

/// Pages of a [`Witness`]. A start reads every fourth page to see whether it left the cache, and so brings it back.
const PAGES: usize = 1024;

#[test]
fn the_next_start_does_not_believe_what_a_failed_sync_did_not_write() {
    let disks = env::var("FAILING_DISKS").map_or(FAILING_DISKS, |disks| disks.parse().expect("it is a number"));
    for _ in 0..disks {
        let Some(disk) = FailingDisk::new() else { return };
        split(&sample(), disk.path());
        let Some(()) = disk.fill() else { return };
        let (mut process, address) = start(disk.path());
        let mut posts = Posts::new(address);
        let refused = posts.write(10_000).unwrap();
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(posts.client.get("/ready").status, 503);

        // Linux reports the error only once: this sync succeeds, although the disk lacks pages that are read.
        let database = Path::new("posts/db/db");
        File::open(disk.path().join(database)).unwrap().sync_all().unwrap();
        let believed = pages_that_differ(&disk.path().join(database), &disk.after_power_loss().path().join(database));
        if believed == 0 {
            return skip("this system drops pages that it could not write; a disk that fails is not tested");
        }
        disk.give_room();
        assert_eq!(process.wait().code(), Some(1), "{}", process.log());
        process.await_line("the disk has room again");

        let (process, address) = start(disk.path());
        assert!(!process.log().contains("keeps parts of it in memory"), "{}", process.log());
        posts.client = Client::new(address);
        posts.are_all_there();
        assert_all_there_after(&disk.after_power_loss(), &mut posts);
        posts.client = Client::new(address);
        assert_eq!(posts.write(20), None);
        assert_all_there_after(&disk.after_power_loss(), &mut posts);
        end(process);
        // This start believes the page cache.
        let (process, address) = start(disk.path());
        posts.client = Client::new(address);
        assert_eq!(posts.write(20), None);
        kill(process);
        assert_all_there_after(&disk.after_power_loss(), &mut posts);
        println!("{} posts were answered; {believed} pages were not on the disk", posts.answered.len());
    }
}

/// A file system that takes no writes until this is dropped: they wait.
struct Frozen<'p>(&'p Path);

impl<'p> Frozen<'p> {
    fn new(path: &'p Path) -> Self {
        assert!(Command::new("fsfreeze").arg("--freeze").arg(path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(self.0).status();
    }
}

#[test]
fn reads_go_on_while_the_disk_hangs_in_a_write() {
    let (Some(_), Some(mkfs)) = (tool("fsfreeze", "a disk that hangs"), tool("mkfs.ext4", "a disk that hangs")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (image, disk) = (dir.path().join("image"), dir.path().join("disk"));
    File::create(&image).unwrap().set_len(96 << 20).unwrap();
    assert!(Command::new(mkfs).arg("-q").arg(&image).status().unwrap().success());
    fs::create_dir(&disk).unwrap();
    let Some(_mounted) = mount(&["-o", "loop", &image.to_string_lossy()], &disk) else { return };
    split(&sample(), &disk);
    let (process, address) = start(&disk);
    let readers: Vec<Client> = (0..8).map(|_| Client::new(address)).collect();
    let read = |reader: &Client| assert_eq!(reader.get("/api/posts/1").status, 200);
    readers.iter().for_each(read);
    // One write after the other, and at last one that waits.
    let (answered, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = Client::new(address);
            while !is_over.load(Ordering::Acquire) {
                let answer = client.send("POST", "/api/posts", &[], r#"{"thread":1,"text":"","user":1}"#);
                assert_eq!(answer.status, 201, "{answer:?}");
                answered.fetch_add(1, Ordering::Release);
            }
        });
        wait_for("some writes", || answered.load(Ordering::Acquire) >= 100);
        let frozen = Frozen::new(&disk);
        is_over.store(true, Ordering::Release);
        // Old connections and new ones, by whichever thread they are served.
        readers.iter().for_each(read);
        (0..8).for_each(|_| read(&Client::new(address)));
        drop(frozen);
    });
    end(process);
}

/// Checks that a service has every answered post after a loss of power.
fn assert_all_there_after(loss: &DiskCopy, posts: &mut Posts) {
    let (process, address) = start(loss.path());
    posts.client = Client::new(address);
    posts.are_all_there();
    posts.replay();
    end(process);
}

fn pages_that_differ(one: &Path, other: &Path) -> usize {
    let (one, other) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    let other = other.chunks(PAGE).chain(iter::repeat(&[][..]));
    one.chunks(PAGE).zip(other).filter(|(one, other)| one != other).count()
}

/// Ends a service in order.
fn end(mut process: Process) {
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
}

/// A file in the database's folder that no service reads. Its pages in the cache tell whether a start dropped the
/// cache.
struct Witness {
    file: PathBuf,
    clean: PathBuf,
}

impl Witness {
    /// Writes one into a service's folder; returns `None` if the system does not tell what its page cache holds.
    fn new(folder: &Path) -> Option<Self> {
        let witness = Self { file: folder.join("db/witness"), clean: folder.join("db/clean") };
        fs::write(&witness.file, vec![1; PAGES * PAGE]).unwrap();
        let file = File::open(&witness.file).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let forgotten = !witness.is_remembered();
        fs::read(&witness.file).unwrap();
        if !forgotten || !witness.is_remembered() {
            skip("this system does not tell what its page cache holds (a tmpfs?)");
            return None;
        }
        Some(witness)
    }

    /// Reads the file into the page cache and starts a service; returns whether the service believes the cache.
    fn is_believed_by(&self, start: impl FnOnce() -> Process) -> (bool, Process) {
        fs::read(&self.file).unwrap();
        assert!(self.is_remembered());
        let process = start();
        assert!(!self.clean.exists(), "the mark counts for one start");
        (self.is_remembered(), process)
    }

    fn is_remembered(&self) -> bool {
        let file = File::open(&self.file).unwrap();
        // Reading a page must not bring others.
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let is_there = |page: &usize| {
            let mut byte = [0];
            preadv2(&file, &mut [IoSliceMut::new(&mut byte)], (page * PAGE) as u64, ReadWriteFlags::NOWAIT).is_ok()
        };
        // Reading a page that is missing makes the system fetch it, so a few may be there; most are not.
        (2..PAGES).step_by(4).filter(is_there).count() > PAGES / 8
    }
}

#[test]
fn a_start_believes_the_page_cache_only_after_an_orderly_end() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    split(&sample(), dir.path());
    let folder = dir.path().join("posts");
    let Some(witness) = Witness::new(&folder) else { return };
    let write = |process| {
        let (process, address): (Process, _) = process;
        assert_eq!(Posts::new(address).write(1), None);
        process
    };
    let serve = || write(start(dir.path()));

    let (believed, process) = witness.is_believed_by(serve);
    assert!(!believed, "there is no mark yet");
    end(process);
    assert!(witness.clean.exists());
    let (believed, process) = witness.is_believed_by(serve);
    assert!(believed, "the last run ended in order");
    kill(process);
    assert!(!witness.clean.exists());
    let (believed, process) = witness.is_believed_by(serve);
    assert!(!believed, "the last run was killed");
    end(process);

    // The mark is not valid for copies of the files.
    let copy = tempfile::tempdir_in(dir.path()).unwrap();
    copy_database(&folder, &copy.path().join("posts")).unwrap();
    let of_copy = Witness { file: copy.path().join("posts/db/witness"), clean: copy.path().join("posts/db/clean") };
    assert!(of_copy.clean.exists());
    let (believed, process) = of_copy.is_believed_by(|| start(copy.path()).0);
    assert!(!believed, "it is a copy");
    end(process);
    let (believed, process) = witness.is_believed_by(serve);
    assert!(believed, "the last run ended in order");
    end(process);
}

#[test]
fn a_backup_copied_over_its_own_files_is_not_believed() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    split(&sample(), dir.path());
    let (database, backup) = (dir.path().join("posts/db"), dir.path().join("backup"));
    let Some(witness) = Witness::new(&dir.path().join("posts")) else { return };
    end(start(dir.path()).0);
    copy_database(&database, &backup).unwrap();
    // Writes into the existing files, as `cp` does.
    for entry in fs::read_dir(&backup).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), database.join(entry.file_name())).unwrap();
    }
    let (believed, process) = witness.is_believed_by(|| start(dir.path()).0);
    assert!(!believed, "nobody has synced the copy");
    end(process);
}

#[test]
fn after_a_failed_sync_an_orderly_end_leaves_no_mark() {
    let Some(strace) = tool("strace", "a sync that fails") else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    split(&sample(), dir.path());
    let journal = dir.path().join("posts/db/journal");
    let mut command = Command::new(strace);
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-P"]).arg(journal);
    command.args(["-e", "inject=fdatasync:error=EIO:when=1"]).arg(program("posts"));
    let mut strace = Process::start(command.args(arguments(dir.path(), "power")));
    let address = strace.await_line(" on http://").trim().parse().unwrap();
    let mut posts = Posts::new(address);
    let refused = posts.write(10).unwrap();
    assert_eq!((refused.status, posts.answered.len()), (503, 0), "{refused:?}");
    strace.signal_traced("TERM");
    strace.wait();
    strace.await_line("SIGTERM received");
    assert!(!dir.path().join("posts/db/clean").exists(), "{}", strace.log());
}
