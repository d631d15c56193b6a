//! What a client must do to keep its connection, and its share of what all connections have.
//!
//! A connection notes what it does, and `Connections::sweep` looks at all of them once a second. So a request costs
//! a few stores to memory, and no timer.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use futures_util::stream;
use hyper::body::{Body, Incoming};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Version};
use record::model::Collection;
use rustix::io::ioctl_fionread;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::reply::{Reply, Response};

use crate::changes::Listening;
use crate::problem::{Problem, READS};

/// The most connections served at once, if the limit of open files allows them; more wait in the listener's queue.
pub const CONNECTIONS: usize = 1024;

/// The most lists sent in chunks at once. The other connections are left to single records and writes.
pub const LISTS: usize = CONNECTIONS / 4;

/// The most clients that follow the changes at once, beside [`CONNECTIONS`].
pub const LISTENERS: usize = 2 * CONNECTIONS;

/// The time between two requests. It exceeds the idle timeout of the load balancers in front (60 s on AWS): they close
/// first and never send a request into a closing connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The time that a request's head has once its first byte has come.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The time in which a client that keeps an answer waiting has to take [`STALL_BYTES`] of it.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// See [`STALL_TIMEOUT`].
pub const STALL_BYTES: u64 = 32 << 10;

/// The time after a connection's last answer in which the rest of a refused body is read and dropped.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes of a refused body that are read and dropped.
pub const LINGER_BYTES: u64 = 1 << 20;

/// The time that a new connection has for the first byte of a request before it may be given up for another one. A
/// request that has come with the connection is read later than it, the more so on a busy machine.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// The most connections that are to end with their next answers because others wait for a place. Each that ends makes room
/// for one, which lets the next one be chosen.
const LEAVING: usize = 32;

/// The time between two sweeps.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);

/// The bytes of answers that the system keeps for a connection; Linux doubles it. A client that does not read costs
/// this and a list's chunk, even if it has read quickly before. (TCP_NOTSENT_LOWAT would not limit what is sent and not
/// acknowledged.)
pub(crate) const SEND_BUFFER: usize = 64 << 10;

/// The most bytes of a head, and those of an answer that are collected before the client has to take some: a list's
/// chunk.
pub(crate) const BUFFER: usize = 64 << 10;

// The phases of a connection.
/// No byte of the next request has come.
const WAITING: u8 = 0;
/// A request's head is arriving.
const HEAD: u8 = 1;
/// A request is being answered, or its list sent.
const BUSY: u8 = 2;
/// The last answer is sent.
const LINGERING: u8 = 3;

/// The most that there may be at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) connections: usize,
    /// Those that follow the changes come on top.
    pub(crate) listeners: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: CONNECTIONS, listeners: LISTENERS }
    }
}

/// What some kinds of answers have of all connections.
#[derive(Debug)]
struct Shares {
    connections: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
}

/// What one connection has done so far.
#[derive(Debug)]
struct Pulse {
    shares: Arc<Shares>,
    /// The connection's permit, until it is a listener's.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    phase: AtomicU8,
    requests: AtomicU64,
    /// The bytes that the client has sent.
    received: AtomicU64,
    /// The bytes that the system has taken.
    sent: AtomicU64,
    /// The system takes no more until the client has read some.
    is_blocked: AtomicBool,
    /// The last request had a body, of which some may still come.
    has_body: AtomicBool,
    /// The next answer is the connection's last.
    is_leaving: AtomicBool,
    /// The connection ends, since others need its place, unless a request has come by now that was not read yet.
    is_given_up: AtomicBool,
    /// The reason why the connection must end.
    ended: OnceLock<&'static str>,
    /// Wakes the connection's task.
    waker: OnceLock<Waker>,
}

impl Pulse {
    fn new(shares: Arc<Shares>) -> Self {
        Self {
            shares,
            permit: Mutex::default(),
            phase: AtomicU8::new(WAITING),
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            is_blocked: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
            ended: OnceLock::new(),
            waker: OnceLock::new(),
        }
    }

    fn check(&self) -> io::Result<()> {
        self.ended.get().map_or(Ok(()), |reason| Err(io::Error::new(io::ErrorKind::TimedOut, *reason)))
    }

    fn end(&self, reason: &'static str) {
        if self.ended.set(reason).is_ok() {
            self.wake();
        }
    }

    fn give_up(&self) {
        self.is_given_up.store(true, Relaxed);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Keeps the waker of the connection's task; a task has the same one for life.
    fn remember(&self, context: &Context<'_>) {
        self.waker.get_or_init(|| context.waker().clone());
    }

    /// Tells whether the client is not waited for on behalf of a request.
    fn is_waiting(&self) -> bool {
        let has_ended = self.is_given_up.load(Relaxed) || self.ended.get().is_some();
        self.phase.load(Relaxed) < BUSY && !self.is_blocked.load(Relaxed) && !has_ended
    }
}

/// A connection as the sweeps have seen it.
#[derive(Debug)]
struct Entry {
    pulse: Arc<Pulse>,
    accepted: Instant,
    /// Phase and number of requests at the last sweep, and the sweeps since they changed.
    seen: (u8, u64),
    age: u32,
    /// While the client keeps an answer waiting: the bytes sent when this was last measured, and the sweeps since.
    stalled: Option<(u64, u32)>,
}

impl Entry {
    fn new(pulse: Arc<Pulse>) -> Self {
        Self { pulse, accepted: Instant::now(), seen: (WAITING, 0), age: 0, stalled: None }
    }

    fn state(&self) -> (u8, u64) {
        (self.pulse.phase.load(Relaxed), self.pulse.requests.load(Relaxed))
    }

    fn sweep(&mut self) {
        let sent = self.pulse.sent.load(Relaxed);
        self.stalled = match self.stalled {
            _ if !self.pulse.is_blocked.load(Relaxed) => None,
            Some((before, age)) if age < sweeps(STALL_TIMEOUT) => Some((before, age + 1)),
            Some((before, _)) if sent - before < STALL_BYTES => {
                return self.pulse.end("the client takes too little of its answer");
            }
            _ => Some((sent, 1)),
        };
        let state = self.state();
        self.age = if state == self.seen { self.age + 1 } else { 0 };
        self.seen = state;
        let (limit, reason) = match state.0 {
            _ if self.stalled.is_some() => return,
            WAITING => (IDLE_TIMEOUT, "no further request came"),
            HEAD => (HEAD_TIMEOUT, "the head of a request did not arrive in time"),
            LINGERING => (LINGER_TIMEOUT, "the client does not close"),
            _ => return,
        };
        if self.age > sweeps(limit) {
            self.pulse.end(reason);
        }
    }

    /// Returns the sweeps for which the connection has waited for a request, if it may be given up for another one:
    /// it has sent none in its [`GRACE`], or none since the last sweep.
    fn waited(&self) -> Option<u32> {
        let age = if self.state() == self.seen { self.age } else { 0 };
        let is_silent = || self.pulse.requests.load(Relaxed) == 0 && self.accepted.elapsed() >= GRACE;
        (self.pulse.is_waiting() && (age > 0 || is_silent())).then_some(age)
    }

    /// Tells whether requests have come one after the other, so that there will be a next answer soon.
    fn is_in_use(&self) -> bool {
        self.age == 0 || self.state() != self.seen
    }
}

/// Returns the number of sweeps in `time`.
fn sweeps(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / SWEEP.as_millis()).unwrap_or(u32::MAX)
}

/// What connections amount to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// The number of connections so far.
    pub(crate) accepted: u64,
    /// The number of those that are open.
    pub(crate) open: u64,
    /// The number of requests under way.
    pub(crate) busy: u64,
    /// The bytes that clients have sent, and those that they were sent.
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Figures {
    fn add_bytes(&mut self, pulse: &Pulse) {
        self.received += pulse.received.load(Relaxed);
        self.sent += pulse.sent.load(Relaxed);
    }
}

/// The connections that are open, and what those before them amount to.
#[derive(Debug, Default)]
struct Open {
    /// By number, so in the order in which they came.
    entries: BTreeMap<u64, Entry>,
    past: Figures,
}

/// All open connections of a service.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    open: Arc<Mutex<Open>>,
    shares: Arc<Shares>,
    count: u64,
}

impl Connections {
    /// Has room for so many connections.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let Bounds { connections, listeners } = bounds;
        let lists = connections * LISTS / CONNECTIONS;
        let [connections, lists, listeners] =
            [connections, lists, listeners].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { open: Arc::default(), shares: Arc::new(Shares { connections, lists, listeners }), count: 0 }
    }

    /// Returns the permits for connections that are no listeners'.
    pub(crate) fn permits(&self) -> &Arc<Semaphore> {
        &self.shares.connections
    }

    /// Returns the watch over the next connection. Dropping it takes the connection off the list.
    pub(crate) fn watch(&mut self) -> Watch {
        self.count += 1;
        let pulse = Arc::new(Pulse::new(Arc::clone(&self.shares)));
        let mut open = self.lock();
        open.past.accepted += 1;
        open.entries.insert(self.count, Entry::new(Arc::clone(&pulse)));
        drop(open);
        Watch { pulse, connections: self.clone() }
    }

    /// Ends connections whose clients are too slow. To be called once in each [`SWEEP`].
    pub(crate) fn sweep(&self) {
        self.lock().entries.values_mut().for_each(Entry::sweep);
    }

    /// Ends the connection that has waited longest for a request. If none may be given up, the oldest of those in use are to
    /// end with their next answers: clients that ask without a pause must not keep others out. Another call may find one
    /// after [`GRACE`].
    pub(crate) fn make_room(&self) {
        let open = self.lock();
        // The first of several.
        let waiting = open.entries.values().rev().filter_map(|entry| Some((entry.waited()?, entry)));
        if let Some((_, entry)) = waiting.max_by_key(|(age, _)| *age) {
            return entry.pulse.give_up();
        }
        let in_use = open.entries.values().filter(|entry| entry.is_in_use());
        in_use.take(LEAVING).for_each(|entry| entry.pulse.is_leaving.store(true, Relaxed));
    }

    /// Returns what the connections so far amount to.
    pub(crate) fn figures(&self) -> Figures {
        let open = self.lock();
        let mut figures = Figures { open: open.entries.len() as u64, ..open.past };
        for Entry { pulse, .. } in open.entries.values() {
            figures.add_bytes(pulse);
            figures.busy += u64::from(pulse.phase.load(Relaxed) == BUSY);
        }
        figures
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }
}

/// Locks, despite a panic of another holder: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The watch over one connection.
#[derive(Debug)]
pub(crate) struct Watch {
    pulse: Arc<Pulse>,
    /// The connection's number is their count.
    connections: Connections,
}

impl Watch {
    /// Returns the guard of the connection's requests.
    pub(crate) fn guard(&self) -> Guard {
        Guard(Arc::clone(&self.pulse))
    }

    /// Keeps the connection's permit to be there.
    pub(crate) fn keep(&self, permit: OwnedSemaphorePermit) {
        *lock(&self.pulse.permit) = Some(permit);
    }

    /// Wraps the connection's stream so that the watch sees what it does, and can end it.
    pub(crate) fn stream(self, stream: TcpStream) -> Watched {
        Watched { stream, watch: self, lingered: None }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.entries.remove(&self.connections.count);
        open.past.add_bytes(&self.pulse);
    }
}

/// Tells a connection's watch when a request begins and ends.
pub(crate) struct Guard(Arc<Pulse>);

impl Guard {
    /// Notes that `request` has begun.
    pub(crate) fn begin(&self, request: &Request<Incoming>) -> Busy {
        Busy::begin(&self.0, !request.body().is_end_stream())
    }
}

/// A request under way. Dropped with its answer, or with the last chunk of its list.
pub(crate) struct Busy(Arc<Pulse>);

impl Busy {
    fn begin(pulse: &Arc<Pulse>, has_body: bool) -> Self {
        // Only the connection's own task changes these.
        pulse.requests.store(pulse.requests.load(Relaxed) + 1, Relaxed);
        pulse.has_body.store(has_body, Relaxed);
        pulse.phase.store(BUSY, Relaxed);
        Self(Arc::clone(pulse))
    }

    /// Tells whether the answer is the connection's last, since others wait for its place.
    pub(crate) fn is_last(&self) -> bool {
        self.0.is_leaving.load(Relaxed) || self.0.is_given_up.load(Relaxed)
    }

    /// Ends the request with `response`. A list that is sent in chunks takes one of the lists' permits, and the request is
    /// under way until its last chunk; without a permit, the answer is a 503. A listener's answer takes one of the
    /// listeners' permits and leaves the connection's own to others.
    pub(crate) fn limit_list(self, response: Response, collection: Collection) -> Response {
        if response.body().size_hint().exact().is_some() {
            return response;
        }
        let shares = &self.0.shares;
        let is_listening = response.extensions().get::<Listening>().is_some();
        let (share, busy) = if is_listening {
            (&shares.listeners, Problem::ListenersBusy)
        } else {
            (&shares.lists, Problem::ListsBusy)
        };
        match Arc::clone(share).try_acquire_owned() {
            Ok(permit) => {
                if is_listening {
                    drop(lock(&self.0.permit).take());
                }
                hold(response, (self, permit))
            }
            Err(_none_left) => busy.into_response(collection, &Method::GET),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.phase.store(WAITING, Relaxed);
    }
}

/// Keeps `held` until the response's body is sent or dropped.
fn hold(response: Response, held: impl Send + Sync + 'static) -> Response {
    let (parts, mut body) = response.into_parts();
    let chunks = stream::poll_fn(move |context| {
        let _ = &held;
        let frame = ready!(Pin::new(&mut body).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
    });
    Response::from_parts(parts, warp::reply::stream(chunks).into_response().into_body())
}

/// Checks that the request names one host, as RFC 9112, section 3.2, asks.
pub(crate) fn check_host(request: &Request<Incoming>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(()),
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        _ => Err(Problem::NotAHost),
    }
}

/// Checks that the request names a path. CONNECT names none, and warp's filters would panic.
pub(crate) fn check_path(request: &Request<Incoming>) -> Result<(), Problem> {
    if request.uri().path_and_query().is_some() { Ok(()) } else { Err(Problem::MethodNotAllowed(READS)) }
}

/// Tells whether `value` is a host with or without a port. The name may be empty.
fn is_host(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    let end =
        value.iter().rposition(|byte| *byte == b':').filter(|end| value[end + 1..].iter().all(u8::is_ascii_digit));
    let name = &value[..end.unwrap_or(value.len())];
    match name {
        [b'[', address @ .., b']'] => address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte)),
        name => name.iter().all(|byte| HOST_BYTES[usize::from(*byte)]),
    }
}

/// The bytes of a host's name, by RFC 3986, section 3.2.2. Each request asks for them.
const HOST_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        bytes[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let (others, mut nth) = (b"-._~%!$&'()*+,;=", 0);
    while nth < others.len() {
        bytes[others[nth] as usize] = true;
        nth += 1;
    }
    bytes
};

/// A connection's stream. It fails once the watch has ended it.
pub(crate) struct Watched {
    stream: TcpStream,
    watch: Watch,
    /// The bytes dropped since our side was closed.
    lingered: Option<u64>,
}

impl Watched {
    /// Notes the outcome of a write.
    fn note(&self, context: &Context<'_>, written: &Poll<io::Result<usize>>) {
        let pulse = &self.watch.pulse;
        match written {
            Poll::Ready(Ok(bytes)) => {
                pulse.sent.store(pulse.sent.load(Relaxed) + *bytes as u64, Relaxed);
                pulse.is_blocked.store(false, Relaxed);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                pulse.remember(context);
                pulse.is_blocked.store(true, Relaxed);
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let pulse = &this.watch.pulse;
        pulse.check()?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let more = buffer.filled().len() - before;
        pulse.received.store(pulse.received.load(Relaxed) + more as u64, Relaxed);
        if read.is_pending() {
            // First: who gives it up wakes it.
            pulse.remember(context);
            // On a busy machine, the runtime may not know yet of bytes that have come.
            let has_bytes = || ioctl_fionread(&this.stream).is_ok_and(|bytes| bytes > 0);
            if pulse.is_given_up.load(Relaxed) && pulse.phase.load(Relaxed) < BUSY && !has_bytes() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "others need its place")));
            }
        } else if more > 0 && pulse.phase.load(Relaxed) == WAITING {
            pulse.phase.store(HEAD, Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.watch.pulse.check()?;
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.note(context, &written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.watch.pulse.check()?;
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.note(context, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    /// Closes our side, then drops the rest of a refused body. A socket that is closed with unread bytes is reset, and
    /// the reset may overtake the answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let pulse = &this.watch.pulse;
        let lingered = match &mut this.lingered {
            Some(lingered) => lingered,
            none => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
                pulse.phase.store(LINGERING, Relaxed);
                none.insert(0)
            }
        };
        while pulse.has_body.load(Relaxed) && pulse.ended.get().is_none() && *lingered < LINGER_BYTES {
            let mut bytes = [0; 4096];
            let mut bytes = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(context, &mut bytes) {
                Poll::Ready(Ok(())) if !bytes.filled().is_empty() => *lingered += bytes.filled().len() as u64,
                Poll::Ready(_) => break,
                Poll::Pending => {
                    pulse.remember(context);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The system forgets what the client would not take.
        if self.watch.pulse.is_blocked.load(Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps `count` times; returns whether the connection is to end.
    fn sweep(connections: &Connections, watch: &Watch, count: u32) -> bool {
        (0..count).for_each(|_| connections.sweep());
        watch.pulse.ended.get().is_some()
    }

    #[test]
    fn a_connection_may_be_idle_for_longer_than_a_load_balancer_keeps_it() {
        let mut connections = Connections::new(Bounds::default());
        let watch = connections.watch();
        assert!(!sweep(&connections, &watch, 70));
        // A request begins the time anew.
        drop(Busy::begin(&watch.pulse, false));
        assert!(!sweep(&connections, &watch, 76));
        assert!(sweep(&connections, &watch, 1));
    }

    #[test]
    fn a_request_under_way_may_take_any_time() {
        let mut connections = Connections::new(Bounds::default());
        let watch = connections.watch();
        let _busy = Busy::begin(&watch.pulse, true);
        assert!(!sweep(&connections, &watch, 10_000));
    }

    #[test]
    fn a_head_has_ten_seconds_and_heads_one_after_the_other_have_ten_each() {
        let mut connections = Connections::new(Bounds::default());
        let watch = connections.watch();
        for _ in 0..3 {
            watch.pulse.phase.store(HEAD, Relaxed);
            assert!(!sweep(&connections, &watch, 10));
            drop(Busy::begin(&watch.pulse, false));
        }
        watch.pulse.phase.store(HEAD, Relaxed);
        assert!(sweep(&connections, &watch, 12));
    }

    #[test]
    fn a_client_has_to_take_some_of_its_answer_every_ten_seconds() {
        let mut connections = Connections::new(Bounds::default());
        let watch = connections.watch();
        let _busy = Busy::begin(&watch.pulse, false);
        watch.pulse.is_blocked.store(true, Relaxed);
        for window in 1..=100 {
            assert!(!sweep(&connections, &watch, 10), "{window}");
            watch.pulse.sent.store(window * STALL_BYTES, Relaxed);
        }
        // Never blocked for long.
        for _ in 0..100 {
            watch.pulse.is_blocked.store(true, Relaxed);
            assert!(!sweep(&connections, &watch, 9));
            watch.pulse.is_blocked.store(false, Relaxed);
            assert!(!sweep(&connections, &watch, 1));
        }
        watch.pulse.is_blocked.store(true, Relaxed);
        assert!(!sweep(&connections, &watch, 10));
        watch.pulse.sent.store(101 * STALL_BYTES - 1, Relaxed);
        assert!(sweep(&connections, &watch, 1));
    }

    #[test]
    fn the_connection_that_has_waited_longest_is_given_up_and_none_in_use() {
        let mut connections = Connections::new(Bounds::default());
        let watches: Vec<Watch> = (0..7).map(|_| connections.watch()).collect();
        let [busy, blocked, served, idle, _silent, trickling, _later] = &watches[..] else { unreachable!() };
        connections.lock().entries.values_mut().for_each(|entry| entry.accepted -= GRACE);
        let _busy = Busy::begin(&busy.pulse, false);
        blocked.pulse.is_blocked.store(true, Relaxed);
        drop(Busy::begin(&idle.pulse, false));
        sweep(&connections, idle, 2);
        drop(Busy::begin(&served.pulse, false));
        trickling.pulse.phase.store(HEAD, Relaxed);
        let mut given_up = Vec::new();
        for _ in 0..10 {
            connections.make_room();
            for watch in watches.iter().filter(|watch| watch.pulse.is_given_up.load(Relaxed)) {
                let number = watch.connections.count;
                if !given_up.contains(&number) {
                    given_up.push(number);
                }
            }
        }
        // Not the one that was served since the last sweep.
        assert_eq!(given_up, [5, 7, 4, 6]);
        sweep(&connections, served, 2);
        connections.make_room();
        assert!(served.pulse.is_given_up.load(Relaxed));
    }

    #[test]
    fn of_busy_connections_the_oldest_end_with_their_next_answers() {
        let mut connections = Connections::new(Bounds::default());
        let watches: Vec<Watch> = (0..LEAVING + 3).map(|_| connections.watch()).collect();
        let busy: Vec<Busy> = watches.iter().map(|watch| Busy::begin(&watch.pulse, false)).collect();
        // The first one sends a list for long; then the others ask again.
        (0..2).for_each(|_| connections.sweep());
        let _again: Vec<Busy> = watches[1..].iter().map(|watch| Busy::begin(&watch.pulse, false)).collect();
        connections.make_room();
        connections.make_room();
        let last: Vec<bool> = busy.iter().map(Busy::is_last).collect();
        assert_eq!(last, [vec![false], vec![true; LEAVING], vec![false; 2]].concat());
        // The next one is chosen when one has gone.
        let mut watches = watches;
        drop(watches.remove(1));
        connections.make_room();
        assert!(busy[LEAVING + 1].is_last() && !busy[LEAVING + 2].is_last());
        assert!(!watches.iter().any(|watch| watch.pulse.is_given_up.load(Relaxed)));
    }

    #[test]
    fn a_new_connection_is_not_given_up_before_its_request_could_be_read() {
        let mut connections = Connections::new(Bounds::default());
        let watch = connections.watch();
        let give_up = |accepted| {
            connections.lock().entries.values_mut().for_each(|entry| entry.accepted = accepted);
            connections.make_room();
            watch.pulse.is_given_up.load(Relaxed)
        };
        let now = Instant::now();
        assert!(!give_up(now + Duration::from_secs(3600)));
        assert!(give_up(now - GRACE));
    }

    #[test]
    fn a_closed_connection_is_forgotten() {
        let mut connections = Connections::new(Bounds::default());
        let watches = [connections.watch(), connections.watch()];
        assert_eq!(connections.lock().entries.len(), 2);
        drop(watches);
        assert_eq!(connections.lock().entries.len(), 0);
    }
}
