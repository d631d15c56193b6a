//! Group commit: one thread decides all writes, in order, and makes many of them durable with one sync.
//!
//! ```text
//! handlers ──► writes to decide ──► the committer: decides each one in turn, seeing those before it
//!                                                │
//!                                the journal: records, indexes, counters, kept answers, synced at once
//!                                                │
//!                                    answers ◄── the database
//! ```
//!
//! A single thread has no contention and needs no transaction. Writes that arrive while one group is synced form the
//! next group. A write is answered, and becomes visible to reads, only when it is as durable as [`Durability`] asks.

mod awake;
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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, mem, thread};

use record::id::Id;
use record::model::{Index, Term};
use tokio::sync::{Notify, oneshot};

use self::awake::Awake;
pub use self::group::Draft;
use self::group::{Group, Now};
pub(crate) use self::held::Held;
pub use self::journal::Hole;
use self::journal::Journal;
use self::pace::Pace;
use crate::changes::Changed;
use crate::figures::WriteFigures;
use crate::idempotency::Kept;
use crate::layout::{Counters, Step};
use crate::{Agreed, Edit, Hold, KeptRecord, Position, RecordChange, Snapshot, Store, StoreError, Writer};

/// The number of bytes of records after which a group takes no more writes.
const GROUP_BYTES: usize = 1 << 20;

/// The number of writes that may wait for the committer.
const WAITING: usize = 4096;

/// The idle time before the journal is settled.
const SETTLE: Duration = Duration::from_millis(20);

/// The time between two checks for room on a full disk.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// The failures that an answered write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss: the write is on the disk.
    #[default]
    Power,
    /// The end of the process, however it comes: the system has the write. After a power loss the last writes may be
    /// gone, and the service may need one start with --accept-loss.
    Process,
    /// Neither. The last half second may be gone, and after a power loss the database may not open at all. For data that
    /// can be made again; `process` is nearly as fast.
    None,
}

/// The reason why a write was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The write could not be made durable. No further writes are taken for now.
    #[error("{0}")]
    Failed(Arc<String>),
    /// An earlier write failed, so none are taken for now.
    #[error("an earlier write could not be made durable")]
    Broken,
    /// The queue is full.
    #[error("too many writes wait")]
    Busy,
    /// The closure that decides the write panicked.
    #[error("the write's decision panicked")]
    Panicked,
    /// What a message of a replica's stream needs cannot be read here.
    #[error("{0}")]
    Damaged(Arc<String>),
    /// An update from a newer file holds the record.
    #[error("a newer file is about to change the record")]
    Held,
}

/// A handle to the committer, which takes writes. Clones share one committer; it ends when the last of them is dropped.
#[derive(Clone)]
pub struct Commit {
    jobs: SyncSender<Job>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    broken: AtomicBool,
    restart: Notify,
    awake: Awake,
    /// Only the committer adds to them.
    figures: WriteFigures,
}

/// A job for the committer.
enum Job {
    /// A write to decide.
    Write(Decision),
    /// A message of a replica's stream.
    Message(Message),
    /// Work to do between two groups.
    Between(Work),
}

/// A message of a replica's stream: writes that are one group, whatever else waits.
struct Message {
    /// The position behind it.
    position: Position,
    decisions: Vec<Decide>,
    answer: oneshot::Sender<Result<Agreed, CommitError>>,
}

/// A closure that decides a write of a stream and returns the closure that answers it, once it is durable.
pub type Decide = Box<dyn FnOnce(&mut Transaction) -> Box<dyn FnOnce()> + Send>;

/// A closure that decides a write and returns the closure that answers it.
type Decision = Box<dyn FnOnce(&mut Transaction) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), CommitError>)>;
/// A closure that has the committer to itself.
type Work = Box<dyn FnOnce(&mut Committer) + Send>;

impl Commit {
    /// Starts the committer of `store`. A store has one committer in its life: to start another, open the store again.
    pub fn start(store: &Store, durability: Durability) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel(WAITING);
        let state = Arc::new(State::default());
        let writer = Writer::new(store)?;
        store.shared.changes.begin_at(writer.counters().revision);
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

    /// Runs `decide` in the committer's thread; returns its result once the write is durable. Waits for the earlier
    /// writes even if `decide` changes nothing, so all it saw is durable too.
    pub async fn write<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Transaction) -> T + Send + 'static,
    ) -> Result<T, CommitError> {
        self.write_from(decide, false).await
    }

    /// Like [`write`](Self::write), for a thread that has nothing else to do if it `is_free`: it may then block it for a
    /// moment, since a thread that has to be woken takes longer.
    pub async fn write_from<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Transaction) -> T + Send + 'static,
        is_free: bool,
    ) -> Result<T, CommitError> {
        if self.is_broken() {
            return Err(CommitError::Broken);
        }
        let _waiting = self.state.awake.begin();
        let (answer, answered) = oneshot::channel();
        self.hand_in(Job::Write(Box::new(|transaction| {
            let outcome = decide(transaction);
            Box::new(|committed| drop(answer.send(committed.map(|()| outcome))))
        })))?;
        if is_free {
            self.state.awake.await_answer(|| !answered.is_empty());
        }
        answered
            .await
            .unwrap_or_else(|_dropped| Err(if self.is_broken() { CommitError::Broken } else { CommitError::Panicked }))
    }

    /// Applies a message of a replica's stream: the writes that `decisions` decide, in order, and the `position` behind
    /// them. All of it is durable, or none; then each write is answered. Returns what replicas must agree on there.
    ///
    /// # Errors
    /// Nothing of it was done. After [`CommitError::Damaged`] and [`CommitError::Panicked`] the message is not for this
    /// replica to decide: to skip it would set it apart from the others. After other failures the message may be applied
    /// again: once the disk has room, or after a restart.
    pub async fn apply_message(&self, position: Position, decisions: Vec<Decide>) -> Result<Agreed, CommitError> {
        if self.is_broken() {
            return Err(CommitError::Broken);
        }
        let (answer, answered) = oneshot::channel();
        self.hand_in(Job::Message(Message { position, decisions, answer }))?;
        answered.await.unwrap_or(Err(CommitError::Broken))
    }

    /// Takes a snapshot of the records between two groups of writes. Writes go on while it is read.
    pub async fn snapshot(&self) -> Result<Snapshot, CommitError> {
        let (answer, answered) = oneshot::channel();
        self.hand_in(Job::Between(Box::new(|committer| {
            // The receiver is gone if the caller stopped waiting.
            let _ = answer.send(Snapshot::begin(&committer.store, committer.writer.counters()));
        })))?;
        answered.await.map_err(|_dropped| CommitError::Broken)
    }

    /// Holds records for an update. `seen` has their ids, ascending, and the revisions they had when `seed` read them;
    /// `texts` has the text ids of the records it writes. Other writes to these records or ids fail with
    /// [`CommitError::Held`].
    /// Blocks, as all parts of an update do: do not call it on a thread of an async runtime.
    pub fn hold(
        &self,
        seen: Vec<(u64, u64)>,
        texts: HashMap<Box<str>, u64>,
    ) -> Result<Result<Hold, StoreError>, CommitError> {
        self.between(move |committer| committer.hold(&seen, texts))
    }

    /// Applies group `nth` of an update and releases its records. Returns when the group is as durable as any write.
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

    /// Releases all held records.
    pub fn release(&self) -> Result<(), CommitError> {
        self.between(Committer::release)
    }

    /// Reserves `count` ids above `above` for an update; no other record gets them. Returns the id before the first of
    /// them.
    pub fn reserve_ids(&self, count: u64, above: u64) -> Result<u64, CommitError> {
        self.between(move |committer| {
            let last_id = committer.writer.last_id().max(above);
            committer.writer.give_no_id_up_to(last_id.saturating_add(count).min(Id::MAX.get()));
            last_id
        })
    }

    /// Runs `work` while the committer does nothing else.
    fn between<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Committer) -> T + Send + 'static,
    ) -> Result<T, CommitError> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |committer| drop(answer.send(work(committer))));
        self.jobs.send(Job::Between(work)).map_err(|_ended| CommitError::Broken)?;
        answered.blocking_recv().map_err(|_dropped| CommitError::Broken)
    }

    /// Takes a snapshot as [`snapshot`](Self::snapshot) does, but blocks the thread.
    pub fn snapshot_now(&self) -> Result<Snapshot, CommitError> {
        self.between(|committer| Snapshot::begin(&committer.store, committer.writer.counters()))
    }

    fn hand_in(&self, job: Job) -> Result<(), CommitError> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Busy,
            TrySendError::Disconnected(_) => CommitError::Broken,
        })
    }

    /// Returns whether a write failed to become durable, so that no more are taken for now.
    pub fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Relaxed)
    }

    /// Returns what the committer has done so far.
    pub fn figures(&self) -> &WriteFigures {
        &self.state.figures
    }

    /// Returns when writes have failed and a restart would help: after a failure sled takes no more writes.
    pub async fn until_a_restart_helps(&self) {
        self.state.restart.notified().await;
    }
}

/// The state of the thread that decides and commits.
pub(super) struct Committer {
    pub(super) store: Store,
    pub(super) writer: Writer,
    kept: Kept,
    pub(super) journal: Journal,
    pace: Pace,
    /// Whether writes can go on without a restart.
    sound: bool,
    /// The records that only an update may change for now.
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
                    Job::Message(message) => {
                        if !self.apply_message(message) && !self.recover(waiting) {
                            return;
                        }
                        continue;
                    }
                    Job::Between(work) => {
                        let counted = self.writer.counters();
                        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
                            self.give_up(&self.panicked(), counted);
                        }
                        if self.state.broken.load(Ordering::Relaxed) && !self.recover(waiting) {
                            return;
                        }
                        if !self.fold() && !self.recover(waiting) {
                            return;
                        }
                        continue;
                    }
                };
                let begin = Instant::now();
                let (mut group, answers);
                (group, answers, next) = self.decide(first, waiting);
                let goes_on = self.answer(&mut group, answers, begin) && self.fold();
                if !goes_on && !self.recover(waiting) {
                    return;
                }
            }
        }
    }

    /// Returns the next job, or `None` when all handles are gone.
    fn next(&mut self, waiting: &Receiver<Job>) -> Option<Job> {
        if let Some(job) = self.state.awake.await_next(|| waiting.try_recv().ok()) {
            return Some(job);
        }
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

    /// Commits a group and answers its writes. Returns whether more writes can follow.
    fn answer(&mut self, group: &mut Group, answers: Vec<Answer>, begin: Instant) -> bool {
        let counted = self.writer.counters();
        let committed = match group.failed.take() {
            Some(error) => Err(error),
            None if group.is_empty() => Ok(Duration::ZERO),
            // A panic is a failure like others. The panic hook has logged it.
            None => catch_unwind(AssertUnwindSafe(|| self.commit(group))).unwrap_or_else(|_| Err(self.panicked())),
        };
        if let Err(error) = &committed {
            self.give_up(error, counted);
        }
        let outcome = committed.as_ref().map(drop).map_err(|error| CommitError::Failed(Arc::new(error.to_string())));
        let writes = answers.len();
        answers.into_iter().for_each(|answer| answer(outcome.clone()));
        if let Ok(waited) = committed
            && !group.is_empty()
        {
            let took = begin.elapsed();
            self.state.figures.add_group(writes, waited, took);
            // Without a wait for the disk a small group is no better than a large one.
            if self.journal.is_durable() {
                self.pace.note(writes, took.saturating_sub(waited), waited);
                self.state.awake.note(writes, waited);
            }
        }
        outcome.is_ok()
    }

    /// Refuses further writes, because a group could not be made durable, and restores the counters `counted` before
    /// it.
    fn give_up(&mut self, error: &StoreError, counted: Counters) {
        log::error!("no writes for now: this one could not be made durable: {error}");
        self.sound = matches!(error, StoreError::NoRoom(_));
        self.writer.take_back(counted);
        self.state.broken.store(true, Ordering::Relaxed);
    }

    /// Makes the error of a panic, after which the state of memory and disk is unknown.
    fn panicked(&self) -> StoreError {
        self.store.io(io::Error::other("the program has a bug, see the panic above"))
    }

    /// Decides a group: the first write and those that wait. Returns the group, its answers, and the job
    /// that ended it, if that is not a write.
    fn decide(&mut self, first: Decision, waiting: &Receiver<Job>) -> (Group, Vec<Answer>, Option<Job>) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let (mut group, mut answers) = (Group { time, ..Group::default() }, Vec::new());
        for job in std::iter::once(Job::Write(first)).chain(waiting.try_iter()).take(self.pace.limit()) {
            let Job::Write(decide) = job else { return (group, answers, Some(job)) };
            let mut transaction = Transaction { committer: self, group: &mut group, own: Own::default() };
            // A panic fails only its own request; the panic hook has logged it.
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

    /// Applies a message of a replica's stream. Returns whether more can follow.
    fn apply_message(&mut self, message: Message) -> bool {
        let Message { position, decisions, answer } = message;
        let (counted, begin, writes) = (self.writer.counters(), Instant::now(), decisions.len());
        let mut group = Group { time: position.seconds(), position: Some(position), ..Group::default() };
        let mut decided = Vec::new();
        let prepare = AssertUnwindSafe(|| {
            for decide in decisions {
                let mut transaction = Transaction { committer: self, group: &mut group, own: Own::default() };
                decided.push(decide(&mut transaction));
                transaction.keep();
            }
            group.failed.take().map_or_else(|| self.prepare(&group), Err)
        });
        // Until here nothing was done, so the replica can stop where it is. After that, a failure is like any other.
        let applied = match catch_unwind(prepare) {
            Ok(Ok(step)) => {
                let carry_out = AssertUnwindSafe(|| self.carry_out(&step, &mut group));
                let done = catch_unwind(carry_out).unwrap_or_else(|_| Err(self.panicked()));
                done.map_err(|error| (CommitError::Failed(Arc::new(error.to_string())), Some(error)))
            }
            Ok(Err(error @ StoreError::Corrupt { .. })) => {
                Err((CommitError::Damaged(Arc::new(error.to_string())), None))
            }
            Ok(Err(error)) => Err((CommitError::Failed(Arc::new(error.to_string())), Some(error))),
            Err(_panic) => Err((CommitError::Panicked, None)),
        };
        let outcome = match applied {
            Ok(waited) => {
                self.state.figures.add_group(writes, waited, begin.elapsed());
                decided.into_iter().for_each(|answer| answer());
                Ok(self.writer.counters().into())
            }
            Err((outcome, failure)) => {
                if let Some(error) = &failure {
                    self.give_up(error, counted);
                }
                // Other than clients' writes, the message may come again, and must be given the same ids and revisions.
                self.writer.restore(counted);
                Err(outcome)
            }
        };
        // The receiver is gone if the service is about to end.
        let _ = answer.send(outcome);
        !self.state.broken.load(Ordering::Relaxed) && self.fold()
    }

    /// Commits a group; returns how long it waited for the disk.
    fn commit(&mut self, group: &mut Group) -> Result<Duration, StoreError> {
        let step = self.prepare(group)?;
        self.carry_out(&step, group)
    }

    /// Returns the step of a group. Nothing of it is done yet.
    fn prepare(&mut self, group: &Group) -> Result<Step, StoreError> {
        let mut step = Step::default();
        if let Some(position) = &group.position {
            position.step(&mut step);
        }
        self.kept.step(&self.store, group.time, &group.kept, &mut step)?;
        group.step(&mut self.writer, &mut step)?;
        Ok(step)
    }

    /// Makes the step of a group durable and does it; returns how long it waited for the disk.
    fn carry_out(&mut self, step: &Step, group: &mut Group) -> Result<Duration, StoreError> {
        let begin = Instant::now();
        let changed = self.append(step, mem::take(&mut group.changes))?;
        let waited = begin.elapsed();
        fail_point!("before the step");
        self.do_step(step)?;
        self.writer.note_fresh();
        self.store.shared.changes.add(changed);
        fail_point!("before the answer");
        Ok(waited)
    }

    /// Lists the words of fresh records in the database, if there are many. Returns whether more writes can follow.
    fn fold(&mut self) -> bool {
        let Some(step) = self.writer.fold() else { return true };
        let counted = self.writer.counters();
        let fold = AssertUnwindSafe(|| {
            let changed = self.append(&step, Vec::new())?;
            self.do_step(&step)?;
            self.writer.note_folded();
            self.store.shared.changes.add(changed);
            Ok(())
        });
        let folded = catch_unwind(fold).unwrap_or_else(|_| Err(self.panicked()));
        if let Err(error) = &folded {
            self.give_up(error, counted);
        }
        folded.is_ok()
    }

    /// Appends a step and its `changes` of records to the journal. Returns the changes with their place.
    pub(super) fn append(&mut self, step: &Step, changes: Vec<RecordChange>) -> Result<Changed, StoreError> {
        let changed = self.journal.append(&self.store, step, changes)?;
        self.state.figures.journal_bytes.add(self.journal.last_length());
        Ok(changed)
    }

    /// Applies a step that is in the journal to the database.
    pub(super) fn do_step(&self, step: &Step) -> Result<(), StoreError> {
        if self.journal.is_durable() { self.store.apply_in_parts(step) } else { self.store.apply(step) }?;
        self.store.note_counters(step.counters);
        Ok(())
    }

    /// Waits until writes can go on. If the store is sound, they go on here and this returns `true`. Otherwise they
    /// need a restart, since sled takes none after a failure; this returns `false`. Reads go on meanwhile.
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
                    log::error!("writes need a restart: {error}");
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
                        log::error!("writes need a restart: {error}");
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

/// The view of the store that one write decides from, and its decision.
pub struct Transaction<'g> {
    committer: &'g mut Committer,
    group: &'g mut Group,
    own: Own,
}

/// The changes of one write. They are dropped if its decision panics.
#[derive(Default)]
struct Own {
    records: Vec<(Id, Now)>,
    changes: Vec<RecordChange>,
    kept: Option<(String, KeptRecord)>,
    /// Whether the write concerns a held record or id.
    is_held: Cell<bool>,
}

/// A record as a write finds or leaves it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The revision.
    pub revision: u64,
    /// The canonical text.
    pub json: String,
}

impl Transaction<'_> {
    /// Reads a record, including earlier writes of the group, but not this one's own.
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

    /// Returns the ids that `index` lists under `term`, including earlier writes of the group, but not this one's own.
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

    /// Returns an id that no record ever had, or `None` if all are used up. The id is taken once a record is put with
    /// it.
    pub fn next_id(&self) -> Option<Id> {
        self.committer.writer.free_id()
    }

    /// Returns the highest id that a record ever had.
    pub fn last_id(&self) -> u64 {
        self.committer.writer.last_id()
    }

    /// Reads `json`, the canonical text of record `id`, as a draft for [`put`](Self::put).
    ///
    /// # Panics
    /// The text does not fit the model.
    pub fn read(&self, id: Id, json: &str) -> Draft {
        Draft::read(self.committer.store.made_by(), id, json).expect("the record was checked against its model")
    }

    /// Stages `draft` as its record; returns the new revision. From now on the id counts as the record's own, even if
    /// the split gave it.
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
        self.own.changes.push(draft.as_record_change(revision));
        self.own.records.push((id, Now::There { revision, draft }));
        revision
    }

    /// Deletes record `id`, of which [`get`](Self::get) returned `last`.
    pub fn remove(&mut self, id: Id, last: Found) {
        self.look_whether_held(id);
        // Each change has a revision of its own.
        let revision = self.committer.writer.next_revision();
        self.own.changes.push(RecordChange::new(revision, id, last.json.into(), true));
        self.own.records.push((id, Now::Gone));
    }

    /// Returns the time at which the write is decided, in seconds since 1970: the same for a whole group.
    pub fn time(&self) -> u64 {
        self.group.time
    }

    /// Returns the answer kept under an idempotency key.
    pub fn kept(&self, key: &str) -> Result<Option<KeptRecord>, StoreError> {
        if let Some(kept) = self.group.kept.get(key) {
            return Ok(Some(kept.clone()));
        }
        let store = &self.committer.store;
        Ok(self.noted(store.kept(key))?.filter(|kept| !kept.is_over(self.group.time)))
    }

    /// Returns whether there is room to keep another answer.
    pub fn can_keep(&self) -> bool {
        self.committer.kept.has_room(self.group.kept.len())
    }

    /// Keeps an answer under an idempotency key.
    pub fn keep_answer(&mut self, key: String, kept: KeptRecord) {
        self.group.bytes += kept.json.len();
        self.own.kept = Some((key, kept));
    }

    fn look_whether_held(&self, id: Id) {
        if self.committer.held.as_ref().is_some_and(|held| held.has(id)) {
            self.own.is_held.set(true);
        }
    }

    /// Notes sled's errors in the group: after a failure sled takes no more writes. Of a message, any error is noted:
    /// other replicas may be able to read what this one cannot.
    fn noted<T>(&self, found: Result<T, StoreError>) -> Result<T, StoreError> {
        match &found {
            Err(StoreError::Sled { path, source }) => {
                let _ = self.group.failed.set(StoreError::Sled { path: path.clone(), source: source.clone() });
            }
            Err(StoreError::Corrupt { path, what }) if self.group.position.is_some() => {
                let _ = self.group.failed.set(StoreError::Corrupt { path: path.clone(), what: what.clone() });
            }
            _ => {}
        }
        found
    }

    /// Adds this write's changes to the group.
    fn keep(self) {
        self.group.records.extend(self.own.records);
        self.group.changes.extend(self.own.changes);
        self.group.kept.extend(self.own.kept);
    }
}
