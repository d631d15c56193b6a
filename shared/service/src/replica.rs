//! A replica: its writes go through the stream that all replicas of the service follow.
//!
//! ```text
//! handlers ──► commands ──► the publisher: one message at a time ──► the broker's stream
//!                                                                         │ in order, to each replica
//!    answers ◄── the committer: decides the message's commands ◄── the follower
//! ```
//!
//! Each replica decides every command itself, in the stream's order and at the stream's time, from records that are the
//! same on all of them. So no replica needs the broker for more than that order. A write is answered when the replica
//! that was asked has applied it. Each answer has in `Sequence` the number of a message up to which all that it tells is in
//! the stream, and a read with `Read-After: N` waits until message N is applied here. So a client that sends the highest
//! number it has seen sees nothing go back, whichever replica answers.
//!
//! A replica stops, and serves no more than what it has, if it cannot know what the others do: the stream is another or
//! shorter than it was, a message is of other rules, its records are not those that the stream began with, or not those of
//! most others.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{
    Begin, Broker, BrokerError, Commands, Delivered, MESSAGE_BYTES, MOST_BYTES, Message, RULES, Ruled, Rules,
    StateBehind, StreamState,
};
use futures_util::StreamExt;
use record::declaration::Declaration;
use record::model::Collection;
use store::{Agreed, Commit, CommitError, Decide, Position, Store, StoreError};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use warp::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::agreement::{Agreement, EVERY};
use crate::command::Command;
use crate::health::Health;
use crate::loading::Loading;
use crate::problem::Problem;
use crate::reply::Answer;
use crate::wire;

/// The header of an answer with the number of a message: that of the write, or of the last that the answer may know of.
pub(crate) const SEQUENCE: HeaderName = HeaderName::from_static("sequence");

/// The header of a read that waits for a message.
pub(crate) const READ_AFTER: HeaderName = HeaderName::from_static("read-after");

/// The time that a read waits for its message.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// The time for which a message is published again and again until the broker has taken it. It has no effect if the
/// stream takes it later.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(10);

/// The time that a client waits for a write.
const WRITE_PATIENCE: Duration = Duration::from_secs(15);

/// The time that a message may take which is being applied when the service ends.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The pause before the broker is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// The time for which a stream may seem shorter than it was, while its servers choose a leader.
const SHORTER: Duration = Duration::from_secs(30);

/// The time within which the replicas end one after the other, to be started again by other rules.
const CHANGE_OVER: Duration = Duration::from_secs(2);

/// The most messages that a replica may lack and be ready.
const NEAR: u64 = 64;

/// The most commands of a message, and the most that wait.
const COMMANDS: usize = 1024;

/// The longest command, in bytes: that of a message, less its envelope.
const COMMAND_BYTES: usize = MOST_BYTES - (1 << 10);

/// A replica's link to its stream. Clones share it.
#[derive(Clone)]
pub struct Replica {
    link: Arc<Link>,
    tasks: Arc<[JoinHandle<()>; 2]>,
}

struct Link {
    broker: Broker,
    queue: mpsc::Sender<Submitted>,
    /// The number of the last message whose effects may be seen here.
    begun: AtomicU64,
    /// The number of the last message that is applied here.
    applied: watch::Sender<u64>,
    /// The number of this process's last message that is applied here.
    own: watch::Sender<u64>,
    /// The commands of this process's messages that are not applied yet, by the message's number.
    waiting: Mutex<HashMap<u64, Vec<Submitted>>>,
    stage: Mutex<Stage>,
    /// Held while a message is being applied.
    applying: tokio::sync::Mutex<()>,
    /// Whether the last message could not be published.
    is_away: AtomicBool,
    /// The stream's time, and when it was that here.
    clock: Mutex<(u64, Instant)>,
    /// A random number of this process.
    publisher: u64,
    /// The number of this process's last message.
    issued: AtomicU64,
    /// What keeps it from following, as it was last.
    trouble: Mutex<Option<String>>,
    /// Told when only a snapshot helps.
    is_outrun: Notify,
    /// How far the snapshot is loaded that helps.
    loading: Loading,
    /// Told when the stream has changed over to another declaration.
    is_changed_over: Notify,
    /// Whether the stream is decided by other rules than this replica's, so that nothing that it publishes counts.
    is_changing: AtomicBool,
    /// Whether this replica follows by another declaration than its program's.
    is_waiting: bool,
}

/// What a replica does.
#[derive(Clone, Debug)]
enum Stage {
    /// It applies what the others have written meanwhile.
    CatchingUp,
    Following,
    /// It follows no more. The text says why.
    Stopped(String),
    /// It follows no more, since the stream no longer has what it lacks, and begins again with a snapshot.
    Outrun,
}

/// A command that a client waits for.
struct Submitted {
    bytes: Vec<u8>,
    /// The time until which it may take effect.
    until: Instant,
    answer: oneshot::Sender<Answer>,
    /// Whether it was published before, too late to have an effect.
    is_late: bool,
}

/// The reason why a replica has to stop.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Stop(String),
    /// Its records are others than they should be.
    #[error("{0}")]
    Apart(String),
    /// The stream no longer has what it lacks.
    #[error("{0}")]
    Outrun(String),
    /// From here on, commands are decided by another declaration.
    #[error("the stream changes over to another declaration")]
    ChangesOver,
}

fn stop<T>(why: impl Display) -> Result<T, FollowError> {
    Err(FollowError::Stop(why.to_string()))
}

impl Replica {
    /// Starts to follow the stream of `store`'s collection, and to publish what is submitted. `own` is the program's
    /// declaration, which may be newer than the one that the stream is decided by.
    pub fn start(
        broker: Broker,
        own: Collection,
        store: &Store,
        commit: &Commit,
        health: &Health,
        publisher: u64,
    ) -> Result<Self, StoreError> {
        let position = store.position()?;
        let (rules, _) = find_rules(store)?;
        let current = position.as_ref().and_then(|position| position.rules);
        let stage = store.apart()?.map_or(Stage::CatchingUp, Stage::Stopped);
        let (queue, submitted) = mpsc::channel(COMMANDS);
        let link = Arc::new(Link {
            broker,
            queue,
            begun: AtomicU64::new(position.as_ref().map_or(0, |position| position.sequence)),
            applied: watch::Sender::new(position.as_ref().map_or(0, |position| position.sequence)),
            own: watch::Sender::new(0),
            waiting: Mutex::default(),
            stage: Mutex::new(stage),
            applying: tokio::sync::Mutex::default(),
            is_away: AtomicBool::new(false),
            clock: Mutex::new((position.as_ref().map_or(0, |position| position.time), Instant::now())),
            publisher,
            issued: AtomicU64::new(0),
            trouble: Mutex::default(),
            is_outrun: Notify::new(),
            loading: Loading::default(),
            is_changed_over: Notify::new(),
            is_changing: AtomicBool::new(current.is_some_and(|current| current != pair(rules))),
            is_waiting: rules_of(store.collection()) != rules_of(own),
        });
        let follower = Follower {
            link: Arc::clone(&link),
            store: store.clone(),
            commit: commit.clone(),
            health: health.clone(),
            collection: store.collection(),
            rules,
            position,
            agreement: Agreement::default(),
        };
        let tasks = [tokio::spawn(follower.follow()), tokio::spawn(publish_all(Arc::clone(&link), submitted, rules))];
        Ok(Self { link, tasks: Arc::new(tasks) })
    }

    /// Ends it, not in the middle of a message unless that waits for room on the disk.
    pub async fn end(&self) {
        let _applying = timeout(END_PATIENCE, self.link.applying.lock()).await;
        self.tasks.iter().for_each(JoinHandle::abort);
        while !self.tasks.iter().all(JoinHandle::is_finished) {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Has all replicas decide `command`; returns this one's answer.
    pub(crate) async fn submit(&self, command: &Command) -> Answer {
        let link = &self.link;
        let bytes = wire::encode(command);
        if bytes.len() > COMMAND_BYTES {
            return Err(Problem::BodyTooLarge(COMMAND_BYTES));
        }
        if let Some(obstacle) = self.find_obstacle() {
            return Err(obstacle);
        }
        if link.is_changing.load(Ordering::Relaxed) {
            return Err(Problem::ChangingOver);
        }
        if !self.reaches_broker() {
            return Err(Problem::BrokerAway);
        }
        let (answer, answered) = oneshot::channel();
        link.queue
            .try_send(Submitted { bytes, until: Instant::now() + PUBLISH_PATIENCE, answer, is_late: false })
            .map_err(|_full| Problem::Busy)?;
        match timeout(WRITE_PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            // It may be in the stream, or get there.
            Ok(Err(_)) | Err(_) => Err(Problem::FateUnknown),
        }
    }

    /// Returns what keeps this replica from being ready.
    pub(crate) fn find_obstacle(&self) -> Option<Problem> {
        match &*self.link.stage() {
            Stage::Following => None,
            Stage::CatchingUp => Some(Problem::CatchingUp),
            Stage::Stopped(_) => Some(Problem::Apart),
            Stage::Outrun => Some(Problem::Loading(format!(
                "The stream no longer has what this replica lacks. The service {}.",
                self.link.loading
            ))),
        }
    }

    /// Returns when this replica can go on only with a snapshot. Who loads one notes in the result how far it is.
    pub async fn until_outrun(&self) -> &Loading {
        self.link.is_outrun.notified().await;
        &self.link.loading
    }

    /// Returns when the stream has changed over to another declaration, which a new start serves.
    pub async fn until_changed_over(&self) {
        self.link.is_changed_over.notified().await;
        // Not all replicas at once: reads go on.
        sleep(Duration::from_millis(self.link.publisher % CHANGE_OVER.as_millis() as u64)).await;
    }

    /// Returns the connection to the broker.
    pub fn broker(&self) -> &Broker {
        &self.link.broker
    }

    /// Returns what is wrong although this replica is ready.
    pub(crate) fn find_remark(&self) -> Option<String> {
        match &*self.link.stage() {
            Stage::Stopped(why) => Some(format!("apart from its stream: {why}")),
            // What keeps it from being ready says it.
            Stage::Outrun => None,
            _ if self.link.is_changing.load(Ordering::Relaxed) => {
                Some("its stream is decided by another declaration: no writes".to_owned())
            }
            _ if self.link.broker.is_refused() => Some("the broker does not know its key: no writes".to_owned()),
            _ if !self.reaches_broker() => Some("the broker is away: no writes".to_owned()),
            Stage::CatchingUp => self.link.trouble().as_ref().map(|trouble| format!("does not follow: {trouble}")),
            Stage::Following if self.link.is_waiting => {
                Some("serves by the declaration of its stream until that changes over".to_owned())
            }
            Stage::Following => None,
        }
    }

    /// Tells whether the broker takes messages, as far as is known.
    pub(crate) fn reaches_broker(&self) -> bool {
        self.link.broker.is_connected() && !self.link.is_away.load(Ordering::Relaxed)
    }

    /// Returns the number of the last message that is applied here.
    pub(crate) fn applied(&self) -> u64 {
        *self.link.applied.borrow()
    }

    /// Adds to an answer that has no number yet that of the last message it may know of.
    pub(crate) fn add_sequence(&self, headers: &mut HeaderMap) {
        headers.entry(SEQUENCE).or_insert_with(|| self.link.begun.load(Ordering::Acquire).into());
    }

    /// Tells whether the request has to wait for a message.
    pub(crate) fn is_behind(&self, headers: &HeaderMap) -> bool {
        let mut named = headers.get_all(READ_AFTER).iter();
        named.next().is_some_and(|after| read_sequence(after).is_none_or(|after| after > self.applied()))
            || named.next().is_some()
    }

    /// Waits until the message that the request names is applied here.
    ///
    /// # Errors
    /// It was not in time, or the request names none.
    pub(crate) async fn wait(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !self.is_behind(headers) {
            return Ok(());
        }
        let mut named = headers.get_all(READ_AFTER).iter().map(read_sequence);
        let (Some(Some(after)), None) = (named.next(), named.next()) else { return Err(Problem::NotASequence) };
        let mut applied = self.link.applied.subscribe();
        let reached = timeout(READ_PATIENCE, applied.wait_for(|applied| *applied >= after)).await;
        reached.map(drop).map_err(|_elapsed| Problem::Behind)
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("applied", &self.applied()).finish_non_exhaustive()
    }
}

/// Reads a message's number: digits alone.
fn read_sequence(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Returns what the outcome of a command depends on beside the records.
fn rules_of(collection: Collection) -> Rules {
    Rules::of(&serde_json::to_vec(collection.declaration()).unwrap_or_default())
}

/// Returns rules as a [`Position`] has them.
fn pair(rules: Rules) -> (u32, u64) {
    (rules.program, rules.declaration)
}

/// Returns the rules by which a replica with the database `store` follows its stream, and their declaration: the stream's, if
/// commands have the same outcome by the one that the database is opened by.
fn find_rules(store: &Store) -> Result<(Rules, Declaration), StoreError> {
    let (declaration, rules) = (store.collection().declaration(), rules_of(store.collection()));
    let of_stream = find_ruling(store)?.map(|ruling| (rules_of(ruling), ruling.declaration()));
    let (rules, declaration) =
        of_stream.filter(|(_, ruling)| ruling.decides_like(declaration)).unwrap_or((rules, declaration));
    Ok((rules, declaration.clone()))
}

/// Returns the collection by the declaration that the stream of `store` is decided by, if it is noted.
fn find_ruling(store: &Store) -> Result<Option<Collection>, StoreError> {
    let Some((_, rules)) = store.position()?.and_then(|position| position.rules) else { return Ok(None) };
    let noted = [store.announced()?, store.ruled()?];
    let mut noted = noted.into_iter().flatten().map(Collection::of);
    Ok(noted.find(|collection| rules_of(*collection).declaration == rules))
}

/// Returns the collection by the declaration that a replica's database is to be opened by, if that is not the one of `store`,
/// the program's own: the one that its stream is decided by, or the one before if its records contradict that. The
/// program's own will do if commands have the same outcome by it.
pub(crate) fn find_ruled(store: &Store) -> Result<Option<Collection>, StoreError> {
    let own = store.collection();
    let Some(rules) = store.position()?.and_then(|position| position.rules) else { return Ok(None) };
    let is_ruling = |collection: Collection| rules_of(collection).declaration == rules.1;
    if store.contradicted()? == Some(rules) {
        return Ok(store.ruled()?.map(Collection::of).filter(|before| !is_ruling(*before)));
    }
    if is_ruling(own) {
        return Ok(None);
    }
    Ok(find_ruling(store)?.filter(|ruling| !ruling.declaration().decides_like(own.declaration())))
}

/// Notes that the records of `store` contradict the declaration that its stream has changed over to. Returns whether there is
/// one to go back to.
pub(crate) fn note_contradiction(store: &Store) -> Result<bool, StoreError> {
    let rules = pair(rules_of(store.collection()));
    let is_ruled = store.position()?.is_some_and(|position| position.rules == Some(rules));
    let is_other = |before| pair(rules_of(Collection::of(before))) != rules;
    let has_before = is_ruled && store.ruled()?.is_some_and(is_other);
    if has_before {
        store.put_contradicted(rules)?;
    }
    Ok(has_before)
}

/// Notes the declaration by which `store` follows its stream, unless the stream is decided by another.
fn note_ruled(store: &Store) -> Result<(), StoreError> {
    let (rules, declaration) = find_rules(store)?;
    let is_other = store.position()?.and_then(|position| position.rules).is_some_and(|current| current != pair(rules));
    if is_other || store.ruled()?.as_ref() == Some(&declaration) {
        return Ok(());
    }
    store.put_ruled(&declaration)?;
    store.sync()
}

impl Link {
    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Vec<Submitted>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the stream's time as far as it is known, in milliseconds, whatever this machine's clock says. Where it is not
    /// known well, as after a start, the first message comes too late and is published once more.
    fn time(&self) -> u64 {
        let (time, at) = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        time + at.elapsed().as_millis() as u64
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers all commands of message `number` that still wait.
    fn refuse(&self, number: u64, problem: impl Fn() -> Problem) {
        for submitted in self.waiting().remove(&number).unwrap_or_default() {
            // The client may have gone.
            let _ = submitted.answer.send(Err(problem()));
        }
    }
}

/// Publishes what is submitted, one message at a time, until it is applied here: those that come meanwhile share the next.
async fn publish_all(link: Arc<Link>, mut submitted: mpsc::Receiver<Submitted>, rules: Rules) {
    let (mut number, mut next) = (0, None);
    loop {
        let Some(first) = (if next.is_some() { next.take() } else { submitted.recv().await }) else { return };
        let Some(first) = drop_if_late(first) else { continue };
        let (mut length, mut until, mut group) = (first.bytes.len(), first.until, vec![first]);
        while group.len() < COMMANDS
            && let Ok(more) = submitted.try_recv()
        {
            let Some(more) = drop_if_late(more) else { continue };
            length += more.bytes.len();
            until = until.min(more.until);
            if length > MESSAGE_BYTES {
                next = Some(more);
                break;
            }
            group.push(more);
        }
        number += 1;
        link.issued.store(number, Ordering::Relaxed);
        let message = Message::Commands(Commands {
            publisher: link.publisher,
            number,
            until: link.time() + until.saturating_duration_since(Instant::now()).as_millis() as u64,
            rules,
            commands: group.iter().map(|submitted| submitted.bytes.clone()).collect(),
        });
        link.waiting().insert(number, group);
        // Behind the change, none waits any more whom it would not see.
        if link.is_changing.load(Ordering::SeqCst) {
            link.refuse(number, || Problem::ChangingOver);
            continue;
        }
        publish(&link, number, message.encode()).await;
    }
}

/// Returns the command if it may still take effect. It was not published until now, so nothing becomes of it otherwise.
fn drop_if_late(submitted: Submitted) -> Option<Submitted> {
    if Instant::now() < submitted.until {
        return Some(submitted);
    }
    // The client may have gone.
    let _ = submitted.answer.send(Err(Problem::BrokerAway));
    None
}

/// Publishes a message until the broker has taken it, or for [`PUBLISH_PATIENCE`]. Returns once it is applied here.
async fn publish(link: &Link, number: u64, bytes: Vec<u8>) {
    let (id, bytes) = (format!("{:016x}-{number}", link.publisher), bytes::Bytes::from(bytes));
    let (began, mut own) = (Instant::now(), link.own.subscribe());
    while began.elapsed() < PUBLISH_PATIENCE {
        let published = tokio::select! {
            published = link.broker.publish(&id, bytes.clone()) => published,
            // Its acknowledgement was lost, or is late.
            _ = own.wait_for(|applied| *applied >= number) => Ok(0),
        };
        match published {
            Ok(_) => {
                link.is_away.store(false, Ordering::Relaxed);
                // Applying costs a wait for the disk a message: what comes before this one's end had better share the next.
                let _ = timeout(PUBLISH_PATIENCE, own.wait_for(|applied| *applied >= number)).await;
                return;
            }
            // The server that was asked refuses it. It may have been another's to take, which has it.
            Err(BrokerError::Refused(why)) => {
                log::error!("the broker refuses a message: {why}");
                break;
            }
            Err(error) => {
                log::warn!("message {number} is not acknowledged yet: {error}");
                link.is_away.store(true, Ordering::Relaxed);
            }
        }
        sleep(PAUSE).await;
    }
    link.refuse(number, || Problem::FateUnknown);
    // No write is taken before the broker answers again, and the stream has room.
    link.is_away.store(true, Ordering::Relaxed);
    let has_room = |stream: StreamState| stream.bytes.0 + MOST_BYTES as u64 <= stream.bytes.1;
    while !link.broker.state().await.is_ok_and(has_room) {
        sleep(PAUSE).await;
    }
    link.is_away.store(false, Ordering::Relaxed);
}

/// What follows the stream.
struct Follower {
    link: Arc<Link>,
    store: Store,
    commit: Commit,
    health: Health,
    collection: Collection,
    /// The rules of the declaration that it follows by.
    rules: Rules,
    position: Option<Position>,
    agreement: Agreement,
}

impl Follower {
    /// Follows the stream for as long as possible.
    async fn follow(mut self) {
        if let Stage::Stopped(why) = &*self.link.stage() {
            return log::error!("this replica stopped following its stream, and is to be made anew: {why}");
        }
        // No command may be decided by half an index.
        while self.health.is_building() {
            sleep(PAUSE).await;
        }
        // Not before: with a declaration that its records contradict, it would not come here.
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || note_ruled(&store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("the declaration of the stream is not noted: {error}"),
            Err(_panic) => log::error!("noting the declaration of the stream panicked"),
        }
        let mut shorter_since = None;
        loop {
            let Err(error) = self.follow_once(&mut shorter_since).await;
            match error {
                // The message of a change over comes again.
                error @ (FollowError::Broker(_) | FollowError::Store(StoreError::NoRoom(_))) => {
                    if let FollowError::Store(_) = error {
                        *self.link.stage() = Stage::CatchingUp;
                    }
                    let what = error.to_string();
                    let before = self.link.trouble().replace(what.clone());
                    if before.as_ref() != Some(&what) {
                        log::warn!("the stream is not followed for now: {what}");
                    }
                    sleep(PAUSE).await;
                }
                FollowError::ChangesOver => {
                    log::warn!("{error}: this replica ends, to be started again by that");
                    self.link.is_changed_over.notify_one();
                    return;
                }
                FollowError::Apart(why) => {
                    log::error!("this replica stops following its stream: {why}");
                    // It would be the same after a restart, but nothing would show it for a while.
                    if let Err(error) = self.store.set_apart(&why) {
                        log::error!("this cannot be noted in the database: {error}");
                    }
                    *self.link.stage() = Stage::Stopped(why);
                    return;
                }
                FollowError::Outrun(why) => {
                    log::error!("this replica stops following its stream: {why}");
                    self.link.loading.begin("looks for a snapshot");
                    *self.link.stage() = Stage::Outrun;
                    self.link.is_outrun.notify_one();
                    return;
                }
                error => {
                    log::error!("this replica stops following its stream: {error}");
                    *self.link.stage() = Stage::Stopped(error.to_string());
                    return;
                }
            }
        }
    }

    /// Follows the stream until something fails.
    async fn follow_once(
        &mut self,
        shorter_since: &mut Option<Instant>,
    ) -> Result<std::convert::Infallible, FollowError> {
        let stream = self.link.broker.state().await?;
        self.check(&stream, shorter_since).await?;
        let applied = self.position.as_ref().map_or(0, |position| position.sequence);
        if stream.last > applied + NEAR {
            // Until it has caught up, others answer.
            *self.link.stage() = Stage::CatchingUp;
        }
        // The last message that was applied comes first, to be compared, unless the stream has it no more.
        let from = applied.max(stream.first).max(1);
        let mut messages = self.link.broker.follow(from).await?;
        let mut next = from;
        loop {
            if next > applied {
                self.link.trouble().take();
                self.note_progress(&stream, next - 1);
            }
            let message = messages.next().await;
            let message = message.ok_or_else(|| BrokerError::Away("the messages end".to_owned()))??;
            let sequence = message.sequence;
            // Unless it was removed since the stream's state was asked.
            if sequence > next && next == from && self.link.broker.state().await?.first <= next {
                return stop(format!("message {next} is missing in the stream: the next is {sequence}"));
            }
            // The client makes its consumer anew after a break. If nothing had come by then, it begins with the first.
            if sequence != next {
                return Err(BrokerError::Away(format!("message {sequence} comes instead of {next}")).into());
            }
            next += 1;
            if sequence <= applied {
                self.compare_last(&message)?;
                continue;
            }
            let link = Arc::clone(&self.link);
            let _applying = link.applying.lock().await;
            self.apply(&stream.identity, message).await?;
        }
    }

    /// Checks that the last message that was applied is still the one with its number.
    fn compare_last(&self, message: &Delivered) -> Result<(), FollowError> {
        match &self.position {
            Some(position) if position.message != Position::digest(&message.bytes) => stop(format!(
                "the stream of {} has lost messages: its message {} is not the one that was applied here",
                self.collection.name(),
                message.sequence
            )),
            _ => Ok(()),
        }
    }

    /// Notes whether all is applied that was in the stream when it was asked.
    fn note_progress(&self, stream: &StreamState, applied: u64) {
        let mut stage = self.link.stage();
        if matches!(*stage, Stage::CatchingUp) && applied >= stream.last {
            log::info!("caught up with the stream: {applied} messages are applied");
            *stage = Stage::Following;
        }
        drop(stage);
        self.link.applied.send_if_modified(|before| std::mem::replace(before, applied) != applied);
    }

    /// Checks that the stream is the one that the database follows.
    async fn check(&self, stream: &StreamState, shorter_since: &mut Option<Instant>) -> Result<(), FollowError> {
        let name = self.collection.name();
        let Some(position) = &self.position else {
            // It may have writes that are nowhere else, so it is not replaced.
            if stream.first > 1 {
                return stop(format!(
                    "the stream of {name} begins with message {}, and this database follows none yet: put it aside, and start \
                     with a snapshot or another replica's backup",
                    stream.first
                ));
            }
            return Ok(());
        };
        if position.stream != stream.identity {
            return stop(format!(
                "the stream of {name} was made anew ({}, not {}): what the replicas have is no longer in it",
                stream.identity, position.stream
            ));
        }
        if stream.first > position.sequence + 1 {
            let lacks = format!(
                "the stream of {name} begins with message {}, but only {} are applied here",
                stream.first, position.sequence
            );
            return Err(FollowError::Outrun(format!("{lacks}: it begins again with a snapshot")));
        }
        if stream.last < position.sequence {
            // A leader that is just chosen may not know all yet.
            let since = shorter_since.get_or_insert_with(Instant::now);
            let (last, applied) = (stream.last, position.sequence);
            return if since.elapsed() < SHORTER {
                Err(BrokerError::Away(format!("it ends with message {last}, but {applied} are applied here")).into())
            } else {
                stop(format!(
                    "the stream of {name} has lost messages: it ends with {last}, but {applied} are applied here"
                ))
            };
        }
        *shorter_since = None;
        Ok(())
    }

    /// Applies the next message. Returns when its effects are durable here.
    async fn apply(&mut self, identity: &str, message: Delivered) -> Result<(), FollowError> {
        let Delivered { sequence, time, bytes } = message;
        let before = self.position.clone().unwrap_or_else(|| Position::before(identity.to_owned()));
        if Message::is_newer(&bytes) {
            return stop(format!("message {sequence} is of a newer version of this program; update this replica"));
        }
        let message = Message::decode(&bytes);
        let mut position = before;
        position.advance(sequence, &bytes, time);
        let (mut told, mut switched) = (None, None);
        let (own, commands) = match message {
            Some(Message::Begin(begin)) if sequence == 1 => {
                self.check_begin(&begin).await?;
                self.announce(&begin.ruled)?;
                position.rules = Some(pair(begin.ruled.rules));
                switched = Some(begin.ruled.rules);
                (None, Vec::new())
            }
            None | Some(Message::Begin(_)) => {
                log::error!("message {sequence} has no effect: no replica would publish it");
                (None, Vec::new())
            }
            Some(_) if sequence == 1 => {
                return stop("the stream has no beginning: `seed streams create` makes it".to_owned());
            }
            Some(Message::State(state)) => {
                told = (state.publisher != self.link.publisher).then_some(state);
                (None, Vec::new())
            }
            Some(Message::Switch(ruled)) => {
                self.announce(&ruled)?;
                position.rules = Some(pair(ruled.rules));
                switched = Some(ruled.rules);
                (None, Vec::new())
            }
            Some(Message::Commands(commands)) => {
                let own = (commands.publisher == self.link.publisher).then_some(commands.number);
                let is_current = position.rules == Some(pair(commands.rules));
                if is_current && commands.rules != self.rules {
                    return stop(self.tell_rules(sequence, commands.rules));
                }
                let counts = is_current && position.take(commands.publisher, commands.number, commands.until);
                if !is_current {
                    log::warn!("message {sequence} has no effect: it is of other rules than the stream is decided by");
                    own.inspect(|number| self.link.refuse(*number, || Problem::ChangingOver));
                } else if !counts {
                    log::warn!("message {sequence} has no effect: it is late, or there twice");
                }
                (own.map(|number| (number, counts)), if counts { commands.commands } else { Vec::new() })
            }
        };
        *self.link.clock.lock().unwrap_or_else(PoisonError::into_inner) = (position.time, Instant::now());
        let mut answers: Vec<Submitted> = match own {
            Some((number, true)) => self.link.waiting().remove(&number).unwrap_or_default(),
            Some((number, false)) => {
                self.submit_again(number);
                Vec::new()
            }
            None => Vec::new(),
        };
        answers.reverse();
        self.link.begun.store(sequence, Ordering::Release);
        let mut answers = answers.into_iter().map(|submitted| submitted.answer).collect::<Vec<_>>();
        let agreed = loop {
            let decisions = self.decide_all(sequence, &commands, &mut answers);
            match self.commit.apply_message(position.clone(), decisions).await {
                Ok(agreed) => break agreed,
                Err(CommitError::Busy) => sleep(PAUSE).await,
                Err(CommitError::Damaged(what)) => {
                    return stop(format!("message {sequence} cannot be decided here: {what}"));
                }
                Err(CommitError::Panicked) => {
                    return stop(format!("message {sequence} makes this program panic; its log says where"));
                }
                // The disk is full, or the service is about to start again. The committer logs it.
                Err(_) => {
                    while self.commit.is_broken() {
                        sleep(PAUSE).await;
                    }
                }
            }
        };
        self.position = Some(position);
        if let Some(rules) = switched {
            self.change_over(sequence, rules)?;
        }
        if let Some((number, _)) = own.filter(|(number, _)| *number <= self.link.issued.load(Ordering::Relaxed)) {
            self.link.own.send_if_modified(|before| std::mem::replace(before, (*before).max(number)) < number);
        }
        match told {
            Some(StateBehind { publisher, sequence, state }) => {
                self.compare(|all| all.note(sequence, publisher, state))
            }
            None if sequence.is_multiple_of(EVERY) => self.tell_state(sequence, &agreed),
            None => Ok(()),
        }
    }

    /// Notes the declaration that a message changes over to, so that a start after it can open the database by it.
    fn announce(&self, ruled: &Ruled) -> Result<(), FollowError> {
        let name = self.collection.name();
        let unread = |why: &dyn Display| {
            FollowError::Stop(format!(
                "this version cannot read the declaration of {name} that its stream changes over to: {why}"
            ))
        };
        let declaration = Declaration::read(&ruled.declaration).map_err(|error| unread(&error))?;
        let collection = Collection::of(declaration);
        if collection.name() != name || rules_of(collection).declaration != ruled.rules.declaration {
            return Err(unread(&"it is of another collection, or of a newer version"));
        }
        Ok(self.store.put_announced(collection.declaration())?)
    }

    /// Goes on behind a message that changes the rules, if these are this replica's.
    fn change_over(&self, sequence: u64, rules: Rules) -> Result<(), FollowError> {
        let is_changing = rules != self.rules;
        self.link.is_changing.store(is_changing, Ordering::SeqCst);
        if !is_changing {
            return Ok(());
        }
        log::info!("from message {sequence} on, commands are decided by other rules");
        // What was before this message is answered. What is behind it has no effect, unless the rules change back before.
        let waiting: Vec<u64> = self.link.waiting().keys().copied().collect();
        waiting.into_iter().for_each(|number| self.link.refuse(number, || Problem::FateUnknown));
        self.link.own.send_replace(self.link.issued.load(Ordering::Relaxed));
        if rules.program == RULES {
            // All that it will apply before its end.
            self.link.applied.send_replace(sequence);
            return Err(FollowError::ChangesOver);
        }
        log::error!("this replica takes no writes until it is started again in the version that decides commands now");
        Ok(())
    }

    /// Tells the others what the records amount to behind a message, unless they have told it long ago.
    fn tell_state(&mut self, sequence: u64, agreed: &Agreed) -> Result<(), FollowError> {
        let state = agreed.to_string();
        if matches!(*self.link.stage(), Stage::Following) {
            let message = StateBehind { publisher: self.link.publisher, sequence, state: state.clone() };
            let (broker, id) = (self.link.broker.clone(), format!("{:016x}-state-{sequence}", self.link.publisher));
            tokio::spawn(async move {
                if let Err(error) = broker.publish(&id, Message::State(message).encode().into()).await {
                    log::debug!("the state behind message {sequence} is not told: {error}");
                }
            });
        }
        self.compare(|all| all.note_own(sequence, state))
    }

    /// Compares this replica with the others.
    fn compare(&mut self, note: impl FnOnce(&mut Agreement) -> Result<(), String>) -> Result<(), FollowError> {
        note(&mut self.agreement).map_err(FollowError::Apart)
    }

    /// Makes the decisions of `commands`. The `answers` of those that wait here are taken, in reverse order.
    fn decide_all(
        &self,
        sequence: u64,
        commands: &[Vec<u8>],
        answers: &mut Vec<oneshot::Sender<Answer>>,
    ) -> Vec<Decide> {
        let (collection, mut is_told) = (self.collection, false);
        let decide = |bytes: &Vec<u8>| -> Decide {
            let (command, answer) = (wire::decode(collection, bytes), answers.pop());
            if command.is_none() && !std::mem::replace(&mut is_told, true) {
                log::error!("a command of message {sequence} has no effect: no replica would publish it");
            }
            Box::new(move |now| {
                let decided = command.map(|command| command.decide(now, collection));
                Box::new(move || {
                    if let Some((answer, decided)) = answer.zip(decided) {
                        // The client may have gone.
                        let _ = answer.send(decided.map(|mut response| {
                            response.headers_mut().insert(SEQUENCE, sequence.into());
                            response
                        }));
                    }
                })
            })
        };
        commands.iter().map(decide).collect()
    }

    /// Submits the commands of an own message again that came too late to have an effect: the broker's clock may be
    /// another since its leader changed.
    fn submit_again(&self, number: u64) {
        for submitted in self.link.waiting().remove(&number).unwrap_or_default() {
            if submitted.is_late {
                let _ = submitted.answer.send(Err(Problem::BrokerAway));
            } else if let Err(full) = self.link.queue.try_send(Submitted { is_late: true, ..submitted }) {
                let _ = full.into_inner().answer.send(Err(Problem::Busy));
            }
        }
    }

    /// Checks that the database is what the stream began with.
    async fn check_begin(&self, begin: &Begin) -> Result<(), FollowError> {
        // It reads all records: other requests must not wait for that.
        let store = self.store.clone();
        let state = tokio::task::spawn_blocking(move || store.describe_beginning()).await;
        let state = state.map_err(|_panic| FollowError::Stop("describing the database panicked".to_owned()))??;
        if (&*begin.collection, &begin.state) != (self.collection.name(), &state) {
            return stop(format!(
                "this database is not what the stream began with: it has {state}, the stream of {} began with {}; fill the folder from \
                 the slice that `seed streams` was given",
                begin.collection, begin.state
            ));
        }
        Ok(())
    }

    fn tell_rules(&self, sequence: u64, rules: Rules) -> String {
        if rules.program > self.rules.program {
            format!("message {sequence} is decided by newer rules ({}); update this replica", rules.program)
        } else if rules.program < self.rules.program {
            format!("message {sequence} is of older rules ({}); run the version of that time first", rules.program)
        } else {
            format!(
                "message {sequence} is of a replica with another declaration of {}, which the records here contradict",
                self.collection.name()
            )
        }
    }
}
