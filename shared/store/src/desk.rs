//! What `seed` asks of a database when a newer file changes it: here, or of the service that runs on it.
//!
//! It has four steps. `seed` looks at what is there; it holds the records that it will change; it commits, in its own
//! folder; and it has the changes applied ([`Hold`], [`Staged`]). A [`Desk`] does that on a database of this process. A
//! [`Counter`] is where a service keeps one, behind a socket in its folder:
//!
//! ```text
//! data/posts/seed.socket   only the service's own user may connect,
//! data/posts/seed.key      and must show what is in here: so that another service of the same user, which can connect but
//!                          open no file of this folder, gets nothing
//! ```
//!
//! Both are made anew at each start, before the service goes into its sandbox. On the socket, the key comes first. Then
//! each message is a length of 4 bytes, little-endian, and bincode: a greeting, questions ([`Ask`]) and answers in turn.
//!
//! When the other end is gone before its run has committed, what it holds is released. Has it come so far that it may
//! have committed (there is a `next/` in the folder), the records stay held until `seed` is run again, which knows.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bincode::{Decode, Encode};
use record::id::Id;
use record::model::Index;
use record::record_set::RecordSet;
use subtle::ConstantTimeEq;

use crate::{Commit, CommitError, Durability, Hold, Scrub, Snapshot, Staged, Store, StoreError};

const SOCKET: &str = "seed.socket";
const KEY: &str = "seed.key";

/// How long a key is, in bytes.
const KEY_BYTES: usize = 32;

/// How long whoever connects may take to show the key.
const KEY_PATIENCE: Duration = Duration::from_secs(2);

/// How many may connect at once without having shown it.
const STRANGERS: usize = 16;

/// How long to wait before records are released again that could not be.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);

/// How long a service may take to greet.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to answer what is no work.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// How many ids, or ranges of them, an answer has at most.
const IDS: usize = 1 << 16;

/// How many runs of an index it holds at most.
const RUNS: usize = 1 << 12;

/// How many bytes of records make an answer complete.
const ANSWER_BYTES: usize = 4 << 20;

/// How long a message may be, in bytes: an answer that is nearly complete, and the longest record.
const MESSAGE_BYTES: u32 = 64 << 20;

/// The longest path of a socket that every system takes, in bytes.
const SOCKET_PATH: usize = 100;

/// A question.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Ask {
    /// What is there?
    Look,
    /// Which records are there from this id on, and which of them were written after that revision?
    Written {
        /// The revision.
        since: u64,
        /// The first id.
        from: u64,
    },
    /// What are these records? The answer may end before them, where it gets long.
    Records(Vec<u64>),
    /// Who refers to whom, by an index of ids, behind that reference?
    References {
        /// The index.
        index: u8,
        /// The record that is referred to, and the one that does.
        after: (u64, u64),
    },
    /// Which ids may new records have? Nobody else gets them.
    Reserve {
        /// How many.
        count: u64,
        /// All of them are higher than this one.
        above: u64,
    },
    /// Are the records that the staged changes concern still as they were seen? Nobody else may change them then.
    Hold,
    /// The run has committed: make its changes.
    Apply,
    /// It has not, and will not.
    Release,
    /// Read and check everything.
    Scrub,
    /// Which numbers have the records with these ids, which are texts?
    Numbers(Vec<String>),
    /// Which records does an index of texts list, behind that entry?
    Texts {
        /// The index.
        index: u8,
        /// The text, and a record under it.
        after: Option<(String, u64)>,
    },
}

/// An answer.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Answer {
    /// What is there.
    Looked(Look),
    /// Ids.
    Written(Written),
    /// Records that are there.
    Records(Vec<Seen>),
    /// References.
    References(Vec<(u64, u64)>),
    /// The last id before those that were given.
    Reserved(u64),
    /// Whether the records are held.
    Held(Hold),
    /// It is done, and durable.
    Done,
    /// What a scrub found, and whether all is sound.
    Scrubbed(String, bool),
    /// It could not be done.
    Failed(String),
    /// Numbers, in the order of the texts; 0 where there is no such record.
    Numbers(Vec<u64>),
    /// Entries of an index.
    Texts(Vec<(String, Vec<u64>)>),
}

/// What is in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Look {
    /// Which database it is.
    pub history: u64,
    /// Its revision.
    pub revision: u64,
    /// The highest id that a record ever had.
    pub last_id: u64,
    /// What it counts.
    pub records: RecordSet,
}

/// A part of the ids there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Written {
    /// From the first to the last of those that follow on each other.
    pub there: Vec<(u64, u64)>,
    /// Those that were written later.
    pub written: Vec<u64>,
    /// Where the next part begins, if there is one.
    pub next: Option<u64>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Seen {
    /// Its id.
    pub id: u64,
    /// Its revision.
    pub revision: u64,
    /// Whether the split gave it its id.
    pub id_from_position: bool,
    /// Its text, as it is sent.
    pub json: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its committer.
    #[error("{}: {error}", path.display())]
    Commit {
        /// The database.
        path: PathBuf,
        /// What it said.
        error: CommitError,
    },
    /// What the service said.
    #[error("{}: the service says: {reason}", folder.display())]
    Refused {
        /// Its folder.
        folder: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The service is gone.
    #[error("{}: the service does not answer any more: {source}", folder.display())]
    Gone {
        /// Its folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Answers, for a database of this process.
pub struct Desk {
    store: Store,
    commit: Option<Commit>,
    /// The service's folder.
    folder: PathBuf,
    /// Whether this process is about to end.
    ends: Arc<AtomicBool>,
    /// Whether it has changed the database.
    has_applied: bool,
}

impl Desk {
    /// A desk for `store`, in the service's folder `folder`.
    pub fn new(folder: &Path, store: Store) -> Self {
        Self { store, commit: None, folder: folder.to_owned(), ends: Arc::default(), has_applied: false }
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Answers `ask`.
    pub fn answer(&mut self, ask: Ask) -> Result<Answer, DeskError> {
        let store = &self.store;
        Ok(match ask {
            Ask::Look => Answer::Looked(self.look()?),
            Ask::Written { since, from } => Answer::Written(written(store, since, from)?),
            Ask::Records(ids) => Answer::Records(records(store, &ids)?),
            Ask::References { index, after } => Answer::References(references(store, Index(index), after)?),
            Ask::Reserve { count, above } => Answer::Reserved(self.commit(|commit| commit.reserve_ids(count, above))?),
            Ask::Hold => Answer::Held(self.hold()?),
            Ask::Apply => {
                self.apply()?;
                Answer::Done
            }
            Ask::Release => {
                self.commit(Commit::release)?;
                Answer::Done
            }
            Ask::Scrub => {
                let snapshot = self.commit(Commit::snapshot_now)?;
                let scrub = Scrub::run(&self.store, snapshot, false, &self.ends);
                let scrub = scrub.map_err(|error| self.refused(&error.to_string()))?;
                Answer::Scrubbed(scrub.to_string(), scrub.damaged == 0)
            }
            Ask::Numbers(texts) => {
                let number = |text: &String| Ok(store.number_of(text)?.map_or(0, Id::get));
                Answer::Numbers(texts.iter().map(number).collect::<Result<_, StoreError>>()?)
            }
            Ask::Texts { index, after } => {
                Answer::Texts(store.texts_after(Index(index), after).take(RUNS).collect::<Result<_, _>>()?)
            }
        })
    }

    fn look(&mut self) -> Result<Look, DeskError> {
        let snapshot: Snapshot = self.commit(Commit::snapshot_now)?;
        Ok(Look {
            history: self.store.history(),
            revision: snapshot.revision(),
            last_id: snapshot.last_id(),
            records: *snapshot.set(),
        })
    }

    fn hold(&mut self) -> Result<Hold, DeskError> {
        let mut staged = self.staged()?;
        let (mut seen, mut texts) = (Vec::new(), HashMap::new());
        while let Some(group) = staged.next_group()? {
            seen.extend(group.iter().map(|edit| (edit.id, edit.seen)));
            texts.extend(self.store.id_texts(&group)?);
        }
        Ok(self.commit(|commit| commit.hold(seen, texts))??)
    }

    fn apply(&mut self) -> Result<(), DeskError> {
        let mut staged = self.staged()?;
        self.has_applied = true;
        let mut nth = 0;
        while let Some(group) = staged.next_group()? {
            if self.ends.load(Ordering::Relaxed) {
                let source = io::Error::other("it is about to end");
                return Err(DeskError::Gone { folder: self.folder.clone(), source });
            }
            self.commit(|commit| commit.apply(staged.run, nth, group))??;
            nth += 1;
        }
        self.commit(Commit::release)?;
        // With every durability: whoever ran `seed` may put the file away.
        Ok(self.store.sync()?)
    }

    /// The changes that `seed` has put beside the new slice.
    fn staged(&self) -> Result<Staged, StoreError> {
        Staged::open(&staged_at(&self.folder))
    }

    fn commit<T>(&mut self, ask: impl FnOnce(&Commit) -> Result<T, CommitError>) -> Result<T, DeskError> {
        let commit = match &self.commit {
            Some(commit) => commit,
            None => self.commit.insert(Commit::start(&self.store, Durability::Power)?),
        };
        ask(commit).map_err(|error| DeskError::Commit { path: self.store.path().to_owned(), error })
    }

    fn refused(&self, reason: &str) -> DeskError {
        DeskError::Refused { folder: self.folder.clone(), reason: reason.to_owned() }
    }

    /// Closes the database. One that was changed is closed in order, where that can be; of another no file changes.
    pub fn close(self) {
        drop(self.commit);
        if self.has_applied
            && let Err(error) = self.store.close().mark_clean()
        {
            log::debug!("{}: the next start will read the files anew: {error}", self.folder.display());
        }
    }
}

/// Where `seed` puts the changes of a run for the service in `folder`, before it commits.
pub fn staged_at(folder: &Path) -> PathBuf {
    folder.join("next").join("changes")
}

fn written(store: &Store, since: u64, from: u64) -> Result<Written, StoreError> {
    let mut part = Written::default();
    let Ok(from) = Id::try_from(from) else { return Ok(part) };
    for revision in store.revisions(from) {
        let (id, revision) = revision?;
        let id = id.get();
        if part.there.len() + part.written.len() >= IDS {
            part.next = Some(id);
            break;
        }
        match part.there.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => part.there.push((id, id)),
        }
        if revision > since {
            part.written.push(id);
        }
    }
    Ok(part)
}

fn references(store: &Store, index: Index, after: (u64, u64)) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut references = Vec::new();
    let numbers = |pair: Result<(Id, Id), StoreError>| pair.map(|(referred, by)| (referred.get(), by.get()));
    if let (Ok(referred), Ok(by)) = (Id::try_from(after.0), Id::try_from(after.1)) {
        for pair in store.references_after(index, (referred, by)).take(IDS) {
            references.push(numbers(pair)?);
        }
    } else {
        for pair in store.references(index).take(IDS) {
            references.push(numbers(pair)?);
        }
    }
    Ok(references)
}

/// The records with these ids, as far as they are there: at least one, and then as many as an answer takes.
fn records(store: &Store, ids: &[u64]) -> Result<Vec<Seen>, StoreError> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    for id in ids.iter().filter_map(|id| Id::try_from(*id).ok()) {
        let Some(stored) = store.get(id)? else { continue };
        let json = String::from_utf8_lossy(stored.json()).into_owned();
        bytes += json.len();
        let (revision, id_from_position) = (stored.revision, stored.id_from_position);
        records.push(Seen { id: id.get(), revision, id_from_position, json });
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    Ok(records)
}

/// Where a service is asked.
pub struct Counter {
    listener: UnixListener,
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    desk: Arc<Mutex<Option<Desk>>>,
    ends: Arc<AtomicBool>,
}

impl Counter {
    /// Makes the socket and the key in the folder of a service that is about to start, which nobody else has.
    ///
    /// # Errors
    /// The file system has no sockets, or cannot be written to.
    pub fn open(folder: &Path) -> io::Result<Self> {
        for name in [SOCKET, KEY] {
            remove(&folder.join(name))?;
        }
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(folder.join(KEY))?.write_all(&key)?;
        let listener = with_short_path(folder, |path| UnixListener::bind(path))?;
        fs::set_permissions(folder.join(SOCKET), Permissions::from_mode(0o600))?;
        Ok(Self { listener, folder: folder.to_owned(), key, desk: Arc::default(), ends: Arc::default() })
    }

    /// Answers from now on, for `store`, to which `commit` writes.
    pub fn serve(&self, store: Store, commit: Commit) -> io::Result<()> {
        let mut desk = Desk::new(&self.folder, store);
        (desk.commit, desk.ends) = (Some(commit), Arc::clone(&self.ends));
        *lock(&self.desk) = Some(desk);
        let (listener, key, desk) = (self.listener.try_clone()?, self.key, Arc::clone(&self.desk));
        let (folder, busy, strangers) = (self.folder.clone(), Arc::default(), Arc::new(AtomicUsize::new(0)));
        let accept = move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let caller =
                    Caller { stream, desk: Arc::clone(&desk), folder: folder.clone(), busy: Arc::clone(&busy) };
                let strangers = Leave(Arc::clone(&strangers));
                if strangers.0.fetch_add(1, Ordering::AcqRel) >= STRANGERS {
                    continue;
                }
                // Where there is no thread for it, it is hung up on.
                let _ = thread::Builder::new().name("seed".to_owned()).spawn(move || caller.serve(&key, strangers));
            }
        };
        thread::Builder::new().name("seed".to_owned()).spawn(accept).map(drop)
    }

    /// Answers nobody any more, once what is being done has come to a place where it can be left.
    pub fn close(&self) {
        self.ends.store(true, Ordering::Relaxed);
        lock(&self.desk).take();
        for name in [SOCKET, KEY] {
            let _ = remove(&self.folder.join(name));
        }
    }
}

/// What a panic left is as good as what it found: a desk decides nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody at the counter.
struct Caller {
    stream: UnixStream,
    desk: Arc<Mutex<Option<Desk>>>,
    folder: PathBuf,
    /// How many are being answered: one, or this one too many.
    busy: Arc<AtomicUsize>,
}

impl Caller {
    /// Whether it shows the key, and soon.
    fn shows(&mut self, key: &[u8; KEY_BYTES]) -> bool {
        let mut shown = [0; KEY_BYTES];
        let read = self.stream.set_read_timeout(Some(KEY_PATIENCE)).and_then(|()| self.stream.read_exact(&mut shown));
        read.is_ok() && self.stream.set_read_timeout(None).is_ok() && bool::from(shown.ct_eq(key))
    }

    fn say(&mut self, answer: &Answer) -> io::Result<()> {
        write_message(&mut self.stream, answer)
    }

    fn serve(mut self, key: &[u8; KEY_BYTES], stranger: Leave) {
        if !self.shows(key) {
            log::warn!("somebody asked for what only `seed` may, without the key");
            return;
        }
        drop(stranger);
        let place = Leave(Arc::clone(&self.busy));
        let is_first = place.0.fetch_add(1, Ordering::AcqRel) == 0;
        let greeting = if is_first { Answer::Done } else { Answer::Failed("another `seed` is at work".to_owned()) };
        if self.say(&greeting).is_ok() && is_first {
            self.answer();
        }
    }

    /// Answers until the other end is gone, and then sees to what it holds.
    fn answer(&mut self) {
        let mut holds = false;
        while let Ok(ask) = read_message::<Ask>(&mut self.stream) {
            let (is_hold, ends_hold) = (matches!(ask, Ask::Hold), matches!(ask, Ask::Apply | Ask::Release));
            // A desk that is gone answers nobody.
            let Some(answer) = lock(&self.desk).as_mut().map(|desk| desk.answer(ask)) else { return };
            if is_hold && let Ok(Answer::Held(Hold::Held(_))) = &answer {
                holds = true;
            }
            if ends_hold && answer.is_ok() {
                holds = false;
            }
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    log::error!("a newer file: {error}");
                    if let DeskError::Gone { .. } = error {
                        return;
                    }
                    Answer::Failed(error.to_string())
                }
            };
            if self.say(&answer).is_err() {
                break;
            }
        }
        if !holds {
            return;
        }
        if !matches!(fs::exists(self.folder.join("next")), Ok(false)) {
            log::warn!(
                "`seed` was interrupted, and may have committed: what it was about to change can only be read until the same \
                 `seed` command is run again, which finishes the job"
            );
            return;
        }
        log::warn!("`seed` was interrupted before it changed anything");
        // While writes fail, nothing can be released either.
        while let Some(Err(_)) = lock(&self.desk).as_mut().map(|desk| desk.answer(Ask::Release)) {
            thread::sleep(RELEASE_AGAIN);
        }
    }
}

/// Somebody who counts among others until this is dropped.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A way to the desk of a service that runs.
pub struct Connection {
    folder: PathBuf,
    stream: UnixStream,
    is_gone: bool,
}

impl Connection {
    /// Connects to the service that runs in `folder`.
    ///
    /// # Errors
    /// None runs there, or it cannot be reached; [`ErrorKind::ResourceBusy`] where another `seed` is at work.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        File::open(folder.join(KEY))?.read_exact(&mut key)?;
        let mut stream = with_short_path(folder, |path| UnixStream::connect(path))?;
        stream.write_all(&key)?;
        stream.set_read_timeout(Some(GREETING_PATIENCE))?;
        if let Answer::Failed(reason) = read_message(&mut stream)? {
            return Err(io::Error::new(ErrorKind::ResourceBusy, reason));
        }
        Ok(Self { folder: folder.to_owned(), stream, is_gone: false })
    }

    /// The service's answer to `ask`.
    ///
    /// # Errors
    /// [`DeskError::Gone`] where there is none in time, and from then on: what a service that hangs says later answers
    /// something else.
    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, DeskError> {
        let patience = match ask {
            // As long as its work.
            Ask::Apply | Ask::Scrub => None,
            // Others are held until this is answered.
            _ => Some(ANSWER_PATIENCE),
        };
        let answered = if self.is_gone {
            Err(ErrorKind::NotConnected.into())
        } else {
            let timeout = self.stream.set_read_timeout(patience);
            let asked = timeout.and_then(|()| write_message(&mut self.stream, ask));
            asked.and_then(|()| read_message(&mut self.stream))
        };
        self.is_gone = answered.is_err();
        match answered {
            Ok(Answer::Failed(reason)) => Err(DeskError::Refused { folder: self.folder.clone(), reason }),
            Ok(answer) => Ok(answer),
            Err(source) => Err(DeskError::Gone { folder: self.folder.clone(), source }),
        }
    }
}

/// Calls `with` with a path of the socket in `folder` that is not too long for one.
fn with_short_path<T>(folder: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = folder.join(SOCKET);
    if path.as_os_str().len() <= SOCKET_PATH {
        return with(&path);
    }
    let link = tempfile::tempdir()?;
    let short = link.path().join("d");
    std::os::unix::fs::symlink(fs::canonicalize(folder)?, &short)?;
    with(&short.join(SOCKET))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_message(stream: &mut UnixStream, message: &impl Encode) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    bincode::encode_into_std_write(message, &mut bytes, bincode::config::standard()).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|length| *length <= MESSAGE_BYTES);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&bytes)
}

fn read_message<T: Decode<()>>(stream: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_BYTES {
        return Err(io::Error::other("the message is too long"));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    let config = bincode::config::standard().with_limit::<{ MESSAGE_BYTES as usize }>();
    bincode::decode_from_slice(&bytes, config).map(|(message, _)| message).map_err(io::Error::other)
}
