//! The desk answers what `seed` asks of a database when a newer file changes it: in this process, or through the
//! service that runs on it.
//!
//! An update has four steps. `seed` reads what is there, holds the records that it will change, commits in its own
//! folder, and has the changes applied ([`Hold`], [`Staged`]). A [`Desk`] does this on a database of this process. A
//! service offers its desk at a [`Counter`], behind a socket in its folder:
//!
//! ```text
//! data/posts/seed.socket   accepts connections of the service's own user
//! data/posts/seed.key      holds the key that a client must show: another service of the same user can connect, but cannot
//!                          open a file of this folder
//! ```
//!
//! Both are made at each start, before the service enters its sandbox. On the socket the key comes first. Each message
//! after it is a length of 4 bytes, little-endian, and bincode: a greeting, then questions ([`Ask`]) and answers in
//! turn.
//!
//! If the client disconnects before its run has committed, the records it holds are released. If it may have committed
//! (the folder has a `next/`), they stay held until `seed` is run again, which finishes the job.

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

/// The length of a key, in bytes.
const KEY_BYTES: usize = 32;

/// The time in which a client must show the key.
const KEY_PATIENCE: Duration = Duration::from_secs(2);

/// The most connections at once that have not shown the key.
const STRANGERS: usize = 16;

/// The time between two attempts to release records.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);

/// The time in which a service must greet.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// The time in which a service must answer a short question.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// The most ids, or ranges of them, in an answer.
const IDS: usize = 1 << 16;

/// The most runs of an index in an answer.
const RUNS: usize = 1 << 12;

/// The bytes of records after which an answer is complete.
const ANSWER_BYTES: usize = 4 << 20;

/// The most bytes of a message: an answer that is nearly complete, and the longest record.
const MESSAGE_BYTES: u32 = 64 << 20;

/// The longest path of a socket that every system accepts, in bytes.
const SOCKET_PATH: usize = 100;

/// A question to the desk.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Ask {
    /// What does the database hold?
    Look,
    /// Which records exist from this id on, and which of them were written after that revision?
    Written {
        /// The revision.
        since: u64,
        /// The first id.
        from: u64,
    },
    /// What are these records? The answer may leave out the last ones when it gets long.
    Records(Vec<u64>),
    /// Which references does an index of ids list after this one?
    References {
        /// The index.
        index: u8,
        /// The record that is referred to, and the record that refers to it.
        after: (u64, u64),
    },
    /// Which ids may new records have? No other record gets them.
    Reserve {
        /// The number of ids.
        count: u64,
        /// All ids are higher than this one.
        above: u64,
    },
    /// Are the records of the staged changes still as `seed` saw them? If so, nobody else may change them from now on.
    Hold,
    /// The run has committed: apply its changes.
    Apply,
    /// The run will not commit: release its records.
    Release,
    /// Is everything sound? Reads and checks all of it.
    Scrub,
    /// Which numbers do the records with these text ids have?
    Numbers(Vec<String>),
    /// Which records does an index of texts list after this entry?
    Texts {
        /// The index.
        index: u8,
        /// The text, and the record under it.
        after: Option<(String, u64)>,
    },
}

/// An answer of the desk.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Answer {
    /// The state of the database.
    Looked(Look),
    /// Ids.
    Written(Written),
    /// The records that exist.
    Records(Vec<Seen>),
    /// References.
    References(Vec<(u64, u64)>),
    /// The id before the first reserved one.
    Reserved(u64),
    /// The outcome of the attempt to hold the records.
    Held(Hold),
    /// The request is done, and durable.
    Done,
    /// The report of a scrub, and whether all is sound.
    Scrubbed(String, bool),
    /// The request failed: the reason.
    Failed(String),
    /// The numbers, in the order of the texts; 0 if there is no such record.
    Numbers(Vec<u64>),
    /// Entries of an index.
    Texts(Vec<(String, Vec<u64>)>),
}

/// The state of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Look {
    /// The database's history, which identifies it.
    pub history: u64,
    /// The revision.
    pub revision: u64,
    /// The highest id that a record ever had.
    pub last_id: u64,
    /// The set of its records.
    pub records: RecordSet,
}

/// A part of the ids in a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Written {
    /// The ranges of ids: first and last.
    pub there: Vec<(u64, u64)>,
    /// The ids that were written after the revision in question.
    pub written: Vec<u64>,
    /// The first id of the next part, if there is one.
    pub next: Option<u64>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Seen {
    /// The id.
    pub id: u64,
    /// The revision.
    pub revision: u64,
    /// Whether the split gave the record its id.
    pub id_from_position: bool,
    /// The text, as a GET sends it.
    pub json: String,
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database's committer refused.
    #[error("{}: {error}", path.display())]
    Commit {
        /// The database.
        path: PathBuf,
        /// The reason.
        error: CommitError,
    },
    /// The service answered with an error.
    #[error("{}: the service says: {reason}", folder.display())]
    Refused {
        /// The service's folder.
        folder: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The service does not answer.
    #[error("{}: the service does not answer: {source}", folder.display())]
    Gone {
        /// The service's folder.
        folder: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
}

/// A desk answers questions about a database of this process.
pub struct Desk {
    store: Store,
    commit: Option<Commit>,
    /// The service's folder.
    folder: PathBuf,
    /// Whether this process is about to end.
    ends: Arc<AtomicBool>,
    /// Whether the desk has changed the database.
    has_applied: bool,
}

impl Desk {
    /// Creates a desk for `store`, in the service's folder `folder`.
    pub fn new(folder: &Path, store: Store) -> Self {
        Self { store, commit: None, folder: folder.to_owned(), ends: Arc::default(), has_applied: false }
    }

    /// Returns the database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Answers `ask`.
    pub fn answer(&mut self, ask: Ask) -> Result<Answer, DeskError> {
        let store = &self.store;
        if let (Ask::Reserve { .. } | Ask::Hold | Ask::Apply, Some(_)) = (&ask, store.position()?) {
            return Err(self.refused(
                "this is the database of a replica, which changes through its stream alone; `seed streams leave` makes it one \
                 of its own",
            ));
        }
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
        // Even with a lower durability: once `seed` is done, its user may delete the file.
        Ok(self.store.sync()?)
    }

    /// Opens the changes that `seed` has put beside the new slice.
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

    /// Closes the database. If the desk changed it, marks it as closed in order, if possible; otherwise no file
    /// changes.
    pub fn close(self) {
        drop(self.commit);
        if self.has_applied
            && let Err(error) = self.store.close().mark_clean()
        {
            log::debug!("{}: the next start reads the files from the disk: {error}", self.folder.display());
        }
    }
}

/// Returns where `seed` puts the changes of a run for the service in `folder`, before it commits.
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

/// Returns the records with these ids that exist: at least one, and then as many as fit into an answer.
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

/// A counter where a running service answers `seed`.
pub struct Counter {
    listener: UnixListener,
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    desk: Arc<Mutex<Option<Desk>>>,
    ends: Arc<AtomicBool>,
}

impl Counter {
    /// Creates the socket and the key in the folder of a service that is about to start and holds the folder's lock.
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

    /// Answers from now on for `store`; changes go through `commit`.
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
                // Without a thread the connection is dropped.
                let _ = thread::Builder::new().name("seed".to_owned()).spawn(move || caller.serve(&key, strangers));
            }
        };
        thread::Builder::new().name("seed".to_owned()).spawn(accept).map(drop)
    }

    /// Stops answering, once the request under way can be left.
    pub fn close(&self) {
        self.ends.store(true, Ordering::Relaxed);
        lock(&self.desk).take();
        for name in [SOCKET, KEY] {
            let _ = remove(&self.folder.join(name));
        }
    }
}

/// Locks, despite a panic of another holder: a desk has no state that a panic could leave half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client at the counter.
struct Caller {
    stream: UnixStream,
    desk: Arc<Mutex<Option<Desk>>>,
    folder: PathBuf,
    /// The number of clients being answered; more than one is too many.
    busy: Arc<AtomicUsize>,
}

impl Caller {
    /// Returns whether the client shows the key in time.
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
            log::warn!("refused a connection to `seed`'s socket: it did not show the key");
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

    /// Answers until the client disconnects; then releases its records, unless it may have committed.
    fn answer(&mut self) {
        let mut holds = false;
        while let Ok(ask) = read_message::<Ask>(&mut self.stream) {
            let (is_hold, ends_hold) = (matches!(ask, Ask::Hold), matches!(ask, Ask::Apply | Ask::Release));
            // A closed desk does not answer.
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
                    log::error!("could not answer `seed`: {error}");
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
                "`seed` was interrupted and may have committed: the records it holds are read-only until the same `seed` \
                 command is run again, which finishes the job"
            );
            return;
        }
        log::warn!("`seed` was interrupted before it changed anything");
        // While writes fail, a release fails too.
        while let Some(Err(_)) = lock(&self.desk).as_mut().map(|desk| desk.answer(Ask::Release)) {
            thread::sleep(RELEASE_AGAIN);
        }
    }
}

/// One of a number of clients; it leaves when this is dropped.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection to the desk of a running service.
pub struct Connection {
    folder: PathBuf,
    stream: UnixStream,
    is_gone: bool,
}

impl Connection {
    /// Connects to the service that runs in `folder`.
    ///
    /// # Errors
    /// No service runs there, or it cannot be reached; [`ErrorKind::ResourceBusy`] if another `seed` is at work.
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

    /// Returns the service's answer to `ask`.
    ///
    /// # Errors
    /// [`DeskError::Gone`] if there is no answer in time, and at every later call: a late answer would belong to
    /// another question.
    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, DeskError> {
        let patience = match ask {
            // These take as long as their work.
            Ask::Apply | Ask::Scrub => None,
            // Writers may be held until this is answered.
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

/// Calls `with` with a path to the socket in `folder` that is short enough for every system.
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
