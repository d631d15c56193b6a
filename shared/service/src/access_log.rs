//! The access log: one line a request, written without making a request wait.
//!
//! Each thread collects its lines in a buffer of its own. One thread writes all buffers, 10 ms after the first line or
//! when one of them is long. If standard error takes nothing for so long that a buffer is full, further lines are
//! counted instead, and the count is logged.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::io::{self, Write as _};
use std::mem::take;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::Level;

/// The target of the log's lines.
pub(crate) const TARGET: &str = "access";

/// The time after which a line is written.
const WRITE_AFTER: Duration = Duration::from_millis(10);

/// The length of a buffer that is written at once, in bytes.
const LONG: usize = 32 << 10;

/// The length of a buffer that takes no more lines, in bytes.
const FULL: usize = 1 << 20;

/// A request and its answer, as the log names them. `-` stands for the bytes of a list that is sent in chunks.
pub(crate) struct Line<'l> {
    pub(crate) method: &'l str,
    pub(crate) path: &'l str,
    pub(crate) status: u16,
    pub(crate) bytes: Option<u64>,
    /// The time until the answer's head.
    pub(crate) took: Duration,
    pub(crate) client: &'l str,
    /// The load balancer's id of the request.
    pub(crate) id: Option<&'l str>,
    /// The id of the trace that the request is a part of.
    pub(crate) trace: Option<&'l str>,
    /// The name of the token that wrote.
    pub(crate) token: Option<&'l dyn Display>,
}

impl Line<'_> {
    /// Adds the line to the log, which takes lines of `level`.
    pub(crate) fn log(&self, level: Level) {
        if COLLECTS.load(Ordering::Relaxed) {
            add(level, self);
        } else {
            log::log!(target: TARGET, level, "{self}");
        }
    }

    /// Appends the line's text. Formatting by `write!` would take most of the time of a request's line, as would fractions.
    fn write_to(&self, text: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        // A method has no odd bytes.
        text.extend_from_slice(b"method=\"");
        text.extend_from_slice(self.method.as_bytes());
        text.extend_from_slice(b"\" path=");
        write_quoted(text, self.path);
        text.extend_from_slice(b" status=");
        text.extend_from_slice(number.format(self.status).as_bytes());
        text.extend_from_slice(b" bytes=");
        text.extend_from_slice(self.bytes.map_or("-", |bytes| number.format(bytes)).as_bytes());
        text.extend_from_slice(b" ms=");
        let micros = self.took.as_micros() as u64;
        text.extend_from_slice(number.format(micros / 1000).as_bytes());
        text.extend_from_slice(&digits(micros % 1000));
        text.extend_from_slice(b" client=");
        text.extend_from_slice(self.client.as_bytes());
        if let Some(id) = self.id {
            text.extend_from_slice(b" id=");
            text.extend_from_slice(id.as_bytes());
        }
        if let Some(trace) = self.trace {
            text.extend_from_slice(b" trace=");
            text.extend_from_slice(trace.as_bytes());
        }
        if let Some(token) = self.token {
            text.extend_from_slice(format!(" token={token}").as_bytes());
        }
    }

    /// Appends the members of the line's JSON object.
    fn write_json_to(&self, text: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        // Methods, addresses and ids have no odd bytes.
        let mut add = |before: &str, value: &str| {
            text.extend_from_slice(before.as_bytes());
            text.extend_from_slice(value.as_bytes());
        };
        add(",\"method\":\"", self.method);
        add("\",\"path\":", &serde_json::to_string(self.path).unwrap_or_default());
        add(",\"status\":", number.format(self.status));
        add(",\"bytes\":", self.bytes.map_or("null", |bytes| number.format(bytes)));
        let micros = self.took.as_micros() as u64;
        add(",\"ms\":", number.format(micros / 1000));
        add("", str::from_utf8(&digits(micros % 1000)).unwrap_or_default());
        add(",\"client\":\"", self.client);
        add("\"", "");
        let token = self.token.map(ToString::to_string);
        for (name, value) in [("id", self.id), ("trace", self.trace), ("token", token.as_deref())] {
            if let Some(value) = value {
                add(",\"", name);
                add("\":", &serde_json::to_string(value).unwrap_or_default());
            }
        }
    }
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut text = Vec::new();
        self.write_to(&mut text);
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Appends `value` in quotes, with escapes, so that no client can forge a line of the log.
fn write_quoted(text: &mut Vec<u8>, value: &str) {
    let is_odd = |byte| !matches!(byte, b' '..=b'~') | matches!(byte, b'"' | b'\\');
    // Looks at all bytes, since that takes a few instructions for many at once.
    if !value.bytes().fold(false, |any, byte| any | is_odd(byte)) {
        text.push(b'"');
        text.extend_from_slice(value.as_bytes());
        text.push(b'"');
    } else {
        text.extend_from_slice(format!("{value:?}").as_bytes());
    }
}

/// Returns a point and the three digits of `number`.
fn digits(number: u64) -> [u8; 4] {
    let digit = |divisor| b'0' + (number / divisor % 10) as u8;
    [b'.', digit(100), digit(10), digit(1)]
}

/// The lines that are not written yet.
struct Lines {
    buffers: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    writer: Thread,
    /// How often the writer has written all that was there.
    rounds: Mutex<u64>,
    has_written: Condvar,
}

/// Starts the writer with the first line: by then the process is in its sandbox, which holds for threads started later.
static LINES: LazyLock<Lines> = LazyLock::new(|| {
    let writer = thread::Builder::new().name("log".to_owned()).spawn(|| LINES.write());
    let writer = writer.expect("the system has a thread for the log").thread().clone();
    let (buffers, rounds, has_written) = Default::default();
    Lines { buffers, writer, rounds, has_written }
});

thread_local! {
    static OWN: Arc<Mutex<Vec<u8>>> = {
        let own = Arc::default();
        lock(&LINES.buffers).push(Arc::clone(&own));
        own
    };
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// The number of lines that were lost.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Returns how many lines were lost because standard error took them too slowly.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Whether lines are collected. Otherwise they go the way of all others.
static COLLECTS: AtomicBool = AtomicBool::new(false);

/// Whether collected lines are JSON objects.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Collects lines from now on, as JSON objects or as text.
pub(crate) fn collect(is_json: bool) {
    IS_JSON.store(is_json, Ordering::Relaxed);
    COLLECTS.store(true, Ordering::Relaxed);
}

/// Adds a line to the calling thread's buffer.
fn add(level: Level, line: &Line) {
    OWN.with(|own| {
        let mut lines = lock(own);
        let before = lines.len();
        if before >= FULL {
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if IS_JSON.load(Ordering::Relaxed) {
            lines.extend_from_slice(b"{\"time\":\"");
            CLOCK.with_borrow_mut(|clock| lines.extend_from_slice(clock.now().trim_ascii_start()));
            lines.extend_from_slice(b"\",\"level\":\"");
            lines.extend_from_slice(level.as_str().as_bytes());
            lines.extend_from_slice(b"\",\"target\":\"access\"");
            line.write_json_to(&mut lines);
            lines.extend_from_slice(b"}\n");
        } else {
            CLOCK.with_borrow_mut(|clock| lines.extend_from_slice(clock.now()));
            lines.extend_from_slice(if level == Level::Info { b" INFO  access > " } else { b" DEBUG access > " });
            line.write_to(&mut lines);
            lines.push(b'\n');
        }
        let is_long = before < LONG && lines.len() >= LONG;
        drop(lines);
        if before == 0 || is_long {
            LINES.writer.unpark();
        }
    });
}

/// Waits until the lines so far are written, at most for `patience`.
pub(crate) fn flush(patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut rounds = lock(&LINES.rounds);
    // The round that is under way may have passed a buffer already.
    let enough = *rounds + 2;
    while *rounds < enough && Instant::now() < deadline {
        LINES.writer.unpark();
        let waited = LINES.has_written.wait_timeout(rounds, WRITE_AFTER / 10);
        (rounds, _) = waited.unwrap_or_else(PoisonError::into_inner);
    }
}

impl Lines {
    /// Writes lines as they come, for ever.
    fn write(&self) {
        let mut told = 0;
        loop {
            let is_idle = lock(&self.buffers).iter().all(|buffer| lock(buffer).is_empty());
            if is_idle {
                thread::park();
            }
            // A long buffer ends this wait.
            thread::park_timeout(WRITE_AFTER);
            let mut text = Vec::new();
            lock(&self.buffers).retain(|buffer| {
                let mut lines = lock(buffer);
                if text.is_empty() {
                    text = take(&mut *lines)
                } else {
                    text.append(&mut lines)
                }
                // The thread of a buffer that only this list still has is gone.
                drop(lines);
                Arc::strong_count(buffer) > 1
            });
            // An error can be told to nobody.
            let _ = io::stderr().lock().write_all(&text);
            let lost = lost() - told;
            if lost > 0 {
                log::warn!("{lost} lines of the access log are lost: standard error took them too slowly");
                told += lost;
            }
            *lock(&self.rounds) += 1;
            self.has_written.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic leaves at worst a part of a line.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time as text. The text of a second is kept.
#[derive(Default)]
struct Clock {
    second: u64,
    text: Vec<u8>,
}

impl Clock {
    /// Returns ` 2026-01-31T12:00:00.000Z`.
    fn now(&mut self) -> &[u8] {
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second || self.text.is_empty() {
            self.second = since.as_secs();
            self.text = format!(" {}", humantime::format_rfc3339_millis(now)).into();
        }
        let end = self.text.len() - "000Z".len();
        self.text[end - 1..end + 3].copy_from_slice(&digits(since.subsec_millis().into()));
        &self.text
    }
}
