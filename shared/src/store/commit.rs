//! Group commit: one thread decides all writes, in order, and makes many of them durable with one sync.
//!
//! ```text
//! handlers ──► what is to be decided ──► the committer: decides each, with those before it in sight
//!                                                │
//!          answers ◄── flush and sync ◄── one atomic batch: records, indexes, counters, kept answers
//! ```
//!
//! A single thread has no contention and needs no transaction, and what waits while one group is being synced is the
//! next group. An answer is given only when what it says is as durable as [`Durability`] asks for.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};

use super::layout::{self, KeptAnswer};
use super::{Change, Store, StoreError, Writer};
use crate::id::Id;
use crate::model::{Index, Records, Term};

/// How many writes are made durable together at most.
const GROUP: usize = 1024;

/// How many writes may wait for the committer.
const WAITING: usize = 4096;

/// How long the answer to a request with an idempotency key is kept, in seconds.
const KEPT_SECONDS: u64 = 24 * 60 * 60;

/// How many such answers are kept at most.
const KEPT_ANSWERS: u64 = 100_000;

/// How many bytes of them are kept at most, in memory and on disk.
const KEPT_BYTES: u64 = 256 << 20;

/// How many kept answers are forgotten with one group at most.
const FORGET_AT_ONCE: usize = 64;

/// How often to look for room on a disk that was full.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// How much room there has to be, in bytes.
const ROOM: usize = 4 << 20;

/// What an answered write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// Power loss: the disk has it.
    #[default]
    Power,
    /// The end of the process, however that comes: the system has it.
    Process,
    /// Neither, within half a second.
    None,
}

/// Why a write was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// It could not be made durable. From now on there are no writes, until the service is started anew.
    #[error("{0}")]
    Failed(Arc<StoreError>),
    /// There are none any more, since an earlier one failed.
    #[error("an earlier write could not be made durable")]
    Broken,
    /// More wait than may.
    #[error("too many writes wait")]
    Busy,
    /// What decides it panicked.
    #[error("the write's decision panicked")]
    Panicked,
}

/// Where writes are handed in. Clones hand in to the same committer, which ends with the last of them.
#[derive(Clone)]
pub struct Commit {
    jobs: SyncSender<Job>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    broken: AtomicBool,
    restart: Notify,
}

/// Decides a write, and returns what answers it.
type Job = Box<dyn FnOnce(&mut Transaction) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), CommitError>)>;

impl Commit {
    /// Starts the committer of `store`. There is one of them.
    pub fn start(store: &Store, durability: Durability) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel(WAITING);
        let state = Arc::new(State::default());
        let mut committer = Committer {
            store: store.clone(),
            writer: Writer::new(store)?,
            kept: Kept::count(store)?,
            durability,
            state: Arc::clone(&state),
        };
        let thread = thread::Builder::new().name("committer".to_owned());
        let io = |source| StoreError::Io { path: store.path.clone(), source };
        thread.spawn(move || committer.run(&waiting)).map_err(io)?;
        Ok(Self { jobs, state })
    }

    /// Has `decide` decide a write, and returns what it says once that is durable. A `decide` that changes nothing waits
    /// for the writes before it all the same: what it saw is then durable too.
    pub async fn write<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Transaction) -> T + Send + 'static,
    ) -> Result<T, CommitError> {
        if self.is_broken() {
            return Err(CommitError::Broken);
        }
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(|transaction| {
            let outcome = decide(transaction);
            Box::new(|committed| drop(answer.send(committed.map(|()| outcome))))
        });
        match self.jobs.try_send(job) {
            Ok(()) => answered.await.unwrap_or(Err(CommitError::Panicked)),
            Err(TrySendError::Full(_)) => Err(CommitError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(CommitError::Broken),
        }
    }

    /// Whether a write could not be made durable: there are no more.
    pub fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Relaxed)
    }

    /// Ends when writes have failed and would succeed after a new start: sled takes none before.
    pub async fn until_a_restart_helps(&self) {
        self.state.restart.notified().await;
    }
}

/// The thread that decides and commits.
struct Committer {
    store: Store,
    writer: Writer,
    kept: Kept,
    durability: Durability,
    state: Arc<State>,
}

impl Committer {
    fn run(&mut self, waiting: &Receiver<Job>) {
        while let Ok(first) = waiting.recv() {
            let mut answers: Vec<Answer> = Vec::new();
            let mut staged = Staged::default();
            for job in std::iter::once(first).chain(waiting.try_iter()).take(GROUP) {
                let mut transaction = Transaction { committer: self, staged: &mut staged, own: Own::default() };
                // One decision that panics is one request's failure; the panic hook has logged it.
                if let Ok(answer) = catch_unwind(AssertUnwindSafe(|| job(&mut transaction))) {
                    transaction.keep();
                    answers.push(answer);
                }
            }
            let committed = if staged.is_empty() { Ok(()) } else { self.commit(staged) };
            if let Err(error) = &committed {
                log::error!("no more writes, since this one could not be made durable: {error}");
                self.state.broken.store(true, Ordering::Relaxed);
            }
            let committed = committed.map_err(|error| CommitError::Failed(Arc::new(error)));
            for answer in answers {
                answer(committed.clone());
            }
            if committed.is_err() {
                return self.wait_for_room();
            }
        }
    }

    fn commit(&mut self, staged: Staged) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let now = now();
        self.kept.forget(&self.store, now, &mut batch)?;
        for (key, kept) in &staged.kept {
            self.kept.add(key, kept);
            batch.insert(layout::kept_key(key), layout::encode_kept(kept.as_stored()));
            batch.insert(layout::forget_key(now + KEPT_SECONDS, key), &[]);
        }
        let changes: Vec<Change> = staged.records.iter().map(|(id, now)| now.as_change(*id)).collect();
        fail::fail_point!("before the batch");
        self.writer.apply_with(&changes, batch)?;
        fail::fail_point!("before the flush");
        match self.durability {
            Durability::Power => self.store.sync()?,
            Durability::Process => self.store.flush()?,
            Durability::None => {}
        }
        fail::fail_point!("before the answer");
        Ok(())
    }

    /// After a failure sled takes no writes until it is opened anew, which needs room. Reads go on meanwhile.
    fn wait_for_room(&self) {
        let probe = self.store.path.with_extension("room");
        loop {
            thread::sleep(LOOK_FOR_ROOM);
            let room = std::fs::write(&probe, vec![0; ROOM])
                .and_then(|()| std::fs::File::open(&probe)?.sync_all())
                .and_then(|()| std::fs::remove_file(&probe));
            if room.is_ok() {
                return self.state.restart.notify_one();
            }
            let _ = std::fs::remove_file(&probe);
        }
    }
}

/// What a group will change.
#[derive(Default)]
struct Staged {
    records: BTreeMap<Id, Now>,
    kept: HashMap<String, KeptRecord>,
}

impl Staged {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.kept.is_empty()
    }
}

/// What a record is, once its group is committed.
enum Now {
    There { revision: u64, record: Records },
    Gone,
}

impl Now {
    fn as_change(&self, id: Id) -> Change<'_> {
        match self {
            Now::There { revision, record } => Change::Put(record.iter().next().expect("one was put"), *revision),
            Now::Gone => Change::Remove(id),
        }
    }
}

/// The answer to a request with an idempotency key.
#[derive(Clone, Debug)]
pub struct KeptRecord {
    /// What the request was: a digest of it.
    pub request: [u8; 32],
    /// Whose record was answered.
    pub id: Id,
    /// The revision that was answered.
    pub revision: u64,
    /// The record that was answered.
    pub json: String,
}

impl KeptRecord {
    fn as_stored(&self) -> KeptAnswer<'_> {
        KeptAnswer { request: self.request, id: self.id.get(), revision: self.revision, json: self.json.as_bytes() }
    }
}

/// What one write decides from, and what it decides.
pub struct Transaction<'g> {
    committer: &'g mut Committer,
    staged: &'g mut Staged,
    own: Own,
}

/// What this one write changes: nothing of it counts if it panics half-way.
#[derive(Default)]
struct Own {
    record: Option<(Id, Now)>,
    kept: Option<(String, KeptRecord)>,
}

/// A record as a write finds it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its revision.
    pub revision: u64,
    /// Its text.
    pub json: String,
}

impl Transaction<'_> {
    /// The record, with the writes before this one.
    pub fn get(&self, id: Id) -> Result<Option<Found>, StoreError> {
        match self.staged.records.get(&id) {
            Some(Now::Gone) => Ok(None),
            Some(Now::There { revision, record }) => {
                let json = record.iter().next().map(|record| record.source.to_owned()).unwrap_or_default();
                Ok(Some(Found { revision: *revision, json }))
            }
            None => Ok(self.committer.store.get(id)?.map(|stored| Found {
                revision: stored.revision,
                json: String::from_utf8_lossy(stored.json()).into_owned(),
            })),
        }
    }

    /// The ids that `index` lists under `term`, with the writes before this one.
    pub fn ids(&self, index: Index, term: &Term) -> Result<Vec<Id>, StoreError> {
        let mut ids = Vec::new();
        for id in self.committer.store.ids(index, term) {
            ids.push(id?);
        }
        ids.retain(|id| !self.staged.records.contains_key(id));
        let listed = |now: &Now| match now {
            Now::There { record, .. } => {
                record.iter().any(|record| record.terms.iter().flatten().any(|(i, t)| *i == index && t == term))
            }
            Now::Gone => false,
        };
        ids.extend(self.staged.records.iter().filter(|(_, now)| listed(now)).map(|(id, _)| *id));
        Ok(ids)
    }

    /// An id that no record ever had; nothing where all are used up.
    pub fn next_id(&mut self) -> Option<Id> {
        self.committer.writer.next_id()
    }

    /// The highest id that a record ever had.
    pub fn last_id(&self) -> u64 {
        self.committer.writer.last_id()
    }

    /// The record `id` is to be `json`, which is its canonical text: its new revision. From now on its id is its own, even
    /// if the split gave it.
    ///
    /// # Panics
    /// `json` does not fit the model.
    pub fn put(&mut self, id: Id, json: &str) -> u64 {
        let mut record = Records::new(self.committer.store.collection(), json.len());
        record.push(json, None).expect("the record was checked against its model");
        let revision = self.committer.writer.next_revision();
        self.own.record = Some((id, Now::There { revision, record }));
        revision
    }

    /// The record `id` is to be gone.
    pub fn remove(&mut self, id: Id) {
        self.own.record = Some((id, Now::Gone));
    }

    /// The answer that was kept under an idempotency key.
    pub fn kept(&self, key: &str) -> Result<Option<KeptRecord>, StoreError> {
        if let Some(kept) = self.staged.kept.get(key) {
            return Ok(Some(kept.clone()));
        }
        let store = &self.committer.store;
        let Some(value) = store.value(&layout::kept_key(key))? else { return Ok(None) };
        let KeptAnswer { request, id, revision, json } =
            layout::decode_kept(&value).map_err(|what| store.corrupt(&what))?;
        let id = Id::try_from(id).map_err(|_| store.corrupt("a kept answer is of no record"))?;
        Ok(Some(KeptRecord { request, id, revision, json: String::from_utf8_lossy(json).into_owned() }))
    }

    /// Whether there is room to keep another answer.
    pub fn can_keep(&self) -> bool {
        let Kept { answers, bytes } = self.committer.kept;
        answers + (self.staged.kept.len() as u64) < KEPT_ANSWERS && bytes < KEPT_BYTES
    }

    /// Keeps the answer under an idempotency key, for a day.
    pub fn keep_answer(&mut self, key: String, kept: KeptRecord) {
        self.own.kept = Some((key, kept));
    }

    /// What was decided counts.
    fn keep(self) {
        self.staged.records.extend(self.own.record);
        self.staged.kept.extend(self.own.kept);
    }
}

/// How much is kept for requests that may come again.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    answers: u64,
    bytes: u64,
}

impl Kept {
    /// Counts what is kept.
    fn count(store: &Store) -> Result<Self, StoreError> {
        let mut kept = Self::default();
        for pair in store.scan(&layout::kept_key("")) {
            let (key, value) = pair.map_err(|source| store.sled(source))?;
            kept.answers += 1;
            kept.bytes += (key.len() + value.len()) as u64;
        }
        Ok(kept)
    }

    fn add(&mut self, key: &str, kept: &KeptRecord) {
        self.answers += 1;
        self.bytes += (key.len() + kept.json.len()) as u64;
    }

    /// Forgets, with `batch`, answers whose time is over.
    fn forget(&mut self, store: &Store, now: u64, batch: &mut sled::Batch) -> Result<(), StoreError> {
        for pair in store.db.scan_prefix([layout::FORGET]).take(FORGET_AT_ONCE) {
            let (key, _) = pair.map_err(|source| store.sled(source))?;
            let (time, name) = layout::forget_key_parts(&key).ok_or_else(|| store.corrupt("a kept key is none"))?;
            if time > now {
                break;
            }
            let kept = layout::kept_key(name);
            let bytes = store.value(&kept)?.map_or(0, |value| kept.len() + value.len()) as u64;
            self.answers = self.answers.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
            batch.remove(kept);
            batch.remove(key);
        }
        Ok(())
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
