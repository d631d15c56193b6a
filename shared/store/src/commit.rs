//! Group commit: one thread decides all writes, in order, and makes many of them durable with one sync.
//!
//! ```text
//! handlers ──► what is to be decided ──► the committer: decides each, with those before it in sight
//!                                                │
//!                                the journal: records, indexes, counters, kept answers, synced at once
//!                                                │
//!                                    answers ◄── the database
//! ```
//!
//! A single thread has no contention and needs no transaction, and what waits while one group is being synced is the
//! next group. An answer is given, and a read sees what was written, only when it is as durable as [`Durability`] asks.

mod group;
mod held;
pub(crate) mod journal;
mod pace;

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use record::id::Id;
use record::model::{Index, Term};
use tokio::sync::{Notify, oneshot};

pub use self::group::Draft;
use self::group::{Group, Now};
pub(crate) use self::held::Held;
pub use self::journal::Hole;
use self::journal::Journal;
use self::pace::Pace;
use crate::idempotency::Kept;
use crate::layout::{Counters, Step};
use crate::{Edit, Hold, KeptRecord, Snapshot, Store, StoreError, Writer};

/// How many bytes of records may make a group longer.
const GROUP_BYTES: usize = 1 << 20;

/// How many writes may wait for the committer.
const WAITING: usize = 4096;

/// How long to wait for another write before what the last one left is settled.
const SETTLE: Duration = Duration::from_millis(20);

/// How often to look for room on a disk that was full.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// What an answered write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss: the disk has it.
    #[default]
    Power,
    /// The end of the process, however that comes: the system has it. After a power loss the last writes may be gone, and
    /// the service may have to be started once with --accept-loss.
    Process,
    /// Neither: the last half second may be gone, and after a power loss the database may not open at all. For data that
    /// can be made again; `process` is nearly as fast.
    None,
}

/// Why a write was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// It could not be made durable. There are none for now.
    #[error("{0}")]
    Failed(Arc<String>),
    /// There are none for now, since an earlier one failed.
    #[error("an earlier write could not be made durable")]
    Broken,
    /// More wait than may.
    #[error("too many writes wait")]
    Busy,
    /// What decides it panicked.
    #[error("the write's decision panicked")]
    Panicked,
    /// A newer file is about to change the record.
    #[error("a newer file is about to change the record")]
    Held,
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

/// What waits for the committer.
enum Job {
    /// A write that is to be decided.
    Write(Decision),
    /// What is done between two groups.
    Between(Work),
}

/// Decides a write, and returns what answers it.
type Decision = Box<dyn FnOnce(&mut Transaction) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), CommitError>)>;
/// What has the committer to itself.
type Work = Box<dyn FnOnce(&mut Committer) + Send>;

impl Commit {
    /// Starts the committer of `store`, which was opened for it: there is one, and it has no successor before the store is
    /// opened anew.
    pub fn start(store: &Store, durability: Durability) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel(WAITING);
        let state = Arc::new(State::default());
        let writer = Writer::new(store)?;
        let journal = Journal::new(store, durability, writer.counters())?;
        let kept = Kept::count(store)?;
        let mut committer = Committer {
            store: store.clone(),
            writer,
            kept,
            journal,
            pace: Pace::new(),
            sound: true,
            held: None,
            state: Arc::clone(&state),
        };
        let thread = thread::Builder::new().name("committer".to_owned());
        let io = |source| StoreError::Io { path: store.path().to_owned(), source };
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
        self.hand_in(Job::Write(Box::new(|transaction| {
            let outcome = decide(transaction);
            Box::new(|committed| drop(answer.send(committed.map(|()| outcome))))
        })))?;
        answered
            .await
            .unwrap_or_else(|_dropped| Err(if self.is_broken() { CommitError::Broken } else { CommitError::Panicked }))
    }

    /// The records as they are between two groups of writes. Writes go on while it is read.
    pub async fn snapshot(&self) -> Result<Snapshot, CommitError> {
        let (answer, answered) = oneshot::channel();
        self.hand_in(Job::Between(Box::new(|committer| {
            // Whoever does not wait any more wants none.
            let _ = answer.send(Snapshot::begin(&committer.store, committer.writer.counters()));
        })))?;
        answered.await.map_err(|_dropped| CommitError::Broken)
    }

    /// Holds records for an update, which are given by ascending ids with the revisions that were seen of them, and the
    /// `texts` that are ids of those that are written: whoever else writes to one, or wants to be called so, is told
    /// [`CommitError::Held`]. Waits, as do the other parts of an update: not for a runtime's threads.
    pub fn hold(
        &self,
        seen: Vec<(u64, u64)>,
        texts: HashMap<Box<str>, u64>,
    ) -> Result<Result<Hold, StoreError>, CommitError> {
        self.between(move |committer| committer.hold(&seen, texts))
    }

    /// Makes the changes of group `nth` of an update, and then lets others change those records again. Returns when it is
    /// as durable as every write.
    pub fn apply(&self, run: u64, nth: u64, edits: Vec<Edit>) -> Result<Result<(), StoreError>, CommitError> {
        self.between(move |committer| {
            let counted = committer.writer.counters();
            let applied = committer.apply_group(run, nth, &edits);
            if let Err(error) = &applied {
                committer.give_up(error, counted);
            }
            applied
        })
    }

    /// Lets others change all records again.
    pub fn release(&self) -> Result<(), CommitError> {
        self.between(Committer::release)
    }

    /// Gives `count` ids away, higher than `above`, which no record gets but by an update. Returns the last one before them.
    pub fn reserve_ids(&self, count: u64, above: u64) -> Result<u64, CommitError> {
        self.between(move |committer| {
            let last_id = committer.writer.last_id().max(above);
            committer.writer.give_no_id_up_to(last_id.saturating_add(count).min(Id::MAX.get()));
            last_id
        })
    }

    /// Has the committer to itself for `work`.
    fn between<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Committer) -> T + Send + 'static,
    ) -> Result<T, CommitError> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |committer| drop(answer.send(work(committer))));
        self.jobs.send(Job::Between(work)).map_err(|_ended| CommitError::Broken)?;
        answered.blocking_recv().map_err(|_dropped| CommitError::Broken)
    }

    /// The same, for threads that may wait.
    pub fn snapshot_now(&self) -> Result<Snapshot, CommitError> {
        self.between(|committer| Snapshot::begin(&committer.store, committer.writer.counters()))
    }

    fn hand_in(&self, job: Job) -> Result<(), CommitError> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Busy,
            TrySendError::Disconnected(_) => CommitError::Broken,
        })
    }

    /// Whether a write could not be made durable: there are none for now.
    pub fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Relaxed)
    }

    /// Ends when writes have failed and would succeed after a new start: sled takes none before.
    pub async fn until_a_restart_helps(&self) {
        self.state.restart.notified().await;
    }
}

/// The thread that decides and commits.
pub(super) struct Committer {
    pub(super) store: Store,
    pub(super) writer: Writer,
    kept: Kept,
    pub(super) journal: Journal,
    pace: Pace,
    /// Whether the store can take writes again without being opened anew.
    sound: bool,
    /// What only an update changes for now.
    pub(super) held: Option<Held>,
    state: Arc<State>,
}

impl Committer {
    fn run(&mut self, waiting: &Receiver<Job>) {
        while let Some(job) = self.next(waiting) {
            let mut next = Some(job);
            while let Some(job) = next.take() {
                let first = match job {
                    Job::Write(first) => first,
                    Job::Between(work) => {
                        work(self);
                        if self.state.broken.load(Ordering::Relaxed) && !self.recover(waiting) {
                            return;
                        }
                        continue;
                    }
                };
                let begin = Instant::now();
                let (mut group, answers);
                (group, answers, next) = self.decide(first, waiting);
                if !self.answer(&mut group, answers, begin) && !self.recover(waiting) {
                    return;
                }
            }
        }
    }

    /// What waits next; nothing when nobody can hand in any more.
    fn next(&mut self, waiting: &Receiver<Job>) -> Option<Job> {
        match waiting.recv_timeout(SETTLE) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(error) = self.journal.settle(&self.store) {
            log::error!("no writes for now: {error}");
            self.sound = false;
            self.state.broken.store(true, Ordering::Relaxed);
            if !self.recover(waiting) {
                return None;
            }
        }
        waiting.recv().ok()
    }

    /// Commits a group and answers its writes. Returns whether there can be more.
    fn answer(&mut self, group: &mut Group, answers: Vec<Answer>, begin: Instant) -> bool {
        let counted = self.writer.counters();
        let committed = match group.failed.take() {
            Some(error) => Err(error),
            None if group.is_empty() => Ok(Duration::ZERO),
            None => self.commit(group),
        };
        if let Err(error) = &committed {
            self.give_up(error, counted);
        }
        let outcome = committed.as_ref().map(drop).map_err(|error| CommitError::Failed(Arc::new(error.to_string())));
        let writes = answers.len();
        answers.into_iter().for_each(|answer| answer(outcome.clone()));
        if let Ok(waited) = committed
            // Where none waits for the disk, a small group is no better than a large one.
            && self.journal.is_durable()
            && !group.is_empty()
        {
            self.pace.note(writes, begin.elapsed().saturating_sub(waited), waited);
        }
        outcome.is_ok()
    }

    /// A group could not be made durable: nothing of it is there, as it was `counted` before.
    fn give_up(&mut self, error: &StoreError, counted: Counters) {
        log::error!("no writes for now, since this one could not be made durable: {error}");
        self.sound = matches!(error, StoreError::NoRoom(_));
        self.writer.take_back(counted);
        self.state.broken.store(true, Ordering::Relaxed);
    }

    /// Has a group of writes decided: the first, and those that wait. Returns what waits behind it and is no write.
    fn decide(&mut self, first: Decision, waiting: &Receiver<Job>) -> (Group, Vec<Answer>, Option<Job>) {
        let (mut group, mut answers) = (Group::default(), Vec::new());
        for job in std::iter::once(Job::Write(first)).chain(waiting.try_iter()).take(self.pace.limit()) {
            let Job::Write(decide) = job else { return (group, answers, Some(job)) };
            let mut transaction = Transaction { committer: self, group: &mut group, own: Own::default() };
            // One decision that panics is one request's failure; the panic hook has logged it.
            if let Ok(answer) = catch_unwind(AssertUnwindSafe(|| decide(&mut transaction))) {
                if transaction.own.is_held.get() {
                    answer(Err(CommitError::Held));
                } else {
                    transaction.keep();
                    answers.push(answer);
                }
            }
            if group.bytes >= GROUP_BYTES {
                break;
            }
        }
        (group, answers, None)
    }

    /// Commits a group, and says how long it waited for the disk.
    fn commit(&mut self, group: &Group) -> Result<Duration, StoreError> {
        let mut step = Step::default();
        self.kept.step(&self.store, &group.kept, &mut step)?;
        group.step(&mut self.writer, &mut step)?;
        let begin = Instant::now();
        self.journal.append(&self.store, &step)?;
        let waited = begin.elapsed();
        fail_point!("before the step");
        self.do_step(&step)?;
        fail_point!("before the answer");
        Ok(waited)
    }

    /// Has the database do what the journal has.
    pub(super) fn do_step(&self, step: &Step) -> Result<(), StoreError> {
        if self.journal.is_durable() { self.store.apply_in_parts(step) } else { self.store.apply(step) }
    }

    /// Waits until there can be writes again: here, if the store is sound, or else after a new start, since sled takes
    /// none after a failure. Reads go on meanwhile. Returns whether they can be here.
    fn recover(&mut self, waiting: &Receiver<Job>) -> bool {
        loop {
            match waiting.recv_timeout(LOOK_FOR_ROOM) {
                Ok(_too_late) => continue,
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let room = if self.sound { self.journal.begin_lap(&self.store) } else { self.store.probe() };
            match room {
                Err(StoreError::NoRoom(_)) => {}
                Err(error) => {
                    log::error!("writes need a new start: {error}");
                    self.sound = false;
                }
                Ok(()) if self.sound => match Kept::count(&self.store) {
                    Ok(kept) => {
                        self.kept = kept;
                        log::info!("the disk has room again; writes go on");
                        self.state.broken.store(false, Ordering::Relaxed);
                        return true;
                    }
                    Err(error) => {
                        log::error!("writes need a new start: {error}");
                        self.sound = false;
                    }
                },
                Ok(()) => {
                    self.state.restart.notify_one();
                    return false;
                }
            }
        }
    }
}

/// What one write decides from, and what it decides.
pub struct Transaction<'g> {
    committer: &'g mut Committer,
    group: &'g mut Group,
    own: Own,
}

/// What this one write changes: nothing of it counts if it panics half-way.
#[derive(Default)]
struct Own {
    record: Option<(Id, Now)>,
    kept: Option<(String, KeptRecord)>,
    /// Whether it concerns what only an update changes for now.
    is_held: Cell<bool>,
}

/// A record as a write finds it, or leaves it.
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
        self.look_whether_held(id);
        match self.group.records.get(&id) {
            Some(now) => Ok(now.there().map(|(revision, record)| Found { revision, json: record.source.to_owned() })),
            None => Ok(self.noted(self.committer.store.get(id))?.map(|stored| Found {
                revision: stored.revision,
                json: String::from_utf8_lossy(stored.json()).into_owned(),
            })),
        }
    }

    /// The ids that `index` lists under `term`, with the writes before this one.
    pub fn ids(&self, index: Index, term: &Term) -> Result<Vec<Id>, StoreError> {
        let mut ids = Vec::new();
        for id in self.committer.store.ids(index, term) {
            ids.push(self.noted(id)?);
        }
        ids.retain(|id| !self.group.records.contains_key(id));
        let listed = |now: &Now| {
            now.there().is_some_and(|(_, record)| record.terms.iter().any(|(i, t)| *i == index && t == term))
        };
        ids.extend(self.group.records.iter().filter(|(_, now)| listed(now)).map(|(id, _)| *id));
        Ok(ids)
    }

    /// An id that no record ever had; nothing where all are used up. It is given to the record that is put with it.
    pub fn next_id(&self) -> Option<Id> {
        self.committer.writer.free_id()
    }

    /// The highest id that a record ever had.
    pub fn last_id(&self) -> u64 {
        self.committer.writer.last_id()
    }

    /// Reads `json`, the canonical text of the record `id`, to be [`put`](Self::put).
    ///
    /// # Panics
    /// It does not fit the model.
    pub fn read(&self, id: Id, json: &str) -> Draft {
        Draft::read(self.committer.store.made_by(), id, json).expect("the record was checked against its model")
    }

    /// The record is to be what `draft` says: its new revision. From now on its id is its own, even if the split gave it.
    pub fn put(&mut self, draft: Draft) -> u64 {
        let record = draft.record();
        let id = record.id;
        self.look_whether_held(id);
        if let (Some(held), Some(text)) = (&self.committer.held, record.id_text())
            && held.has_text(text)
        {
            self.own.is_held.set(true);
        }
        self.group.bytes += record.source.len();
        self.committer.writer.give_no_id_up_to(id.get());
        let revision = self.committer.writer.next_revision();
        self.own.record = Some((id, Now::There { revision, draft }));
        revision
    }

    /// The record `id` is to be gone.
    pub fn remove(&mut self, id: Id) {
        self.look_whether_held(id);
        // So that no two groups end at the same.
        self.committer.writer.next_revision();
        self.own.record = Some((id, Now::Gone));
    }

    /// The answer that was kept under an idempotency key.
    pub fn kept(&self, key: &str) -> Result<Option<KeptRecord>, StoreError> {
        if let Some(kept) = self.group.kept.get(key) {
            return Ok(Some(kept.clone()));
        }
        let store = &self.committer.store;
        Ok(self.noted(store.kept(key))?.filter(|kept| !kept.is_over()))
    }

    /// Whether there is room to keep another answer.
    pub fn can_keep(&self) -> bool {
        self.committer.kept.has_room(self.group.kept.len())
    }

    /// Keeps the answer under an idempotency key.
    pub fn keep_answer(&mut self, key: String, kept: KeptRecord) {
        self.group.bytes += kept.json.len();
        self.own.kept = Some((key, kept));
    }

    fn look_whether_held(&self, id: Id) {
        if self.committer.held.as_ref().is_some_and(|held| held.has(id)) {
            self.own.is_held.set(true);
        }
    }

    /// Once sled has failed it takes no writes any more.
    fn noted<T>(&self, found: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Sled { path, source }) = &found {
            let _ = self.group.failed.set(StoreError::Sled { path: path.clone(), source: source.clone() });
        }
        found
    }

    /// What was decided counts.
    fn keep(self) {
        self.group.records.extend(self.own.record);
        self.group.kept.extend(self.own.kept);
    }
}
