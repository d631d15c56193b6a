//! The access log: one line a request, written without making a request wait.
//!
//! Each thread collects its lines in a buffer of its own. One thread writes all buffers, 10 ms after the first line or
//! when one of them is long. If standard error takes nothing for so long that a buffer is full, further lines are
//! counted instead, and the count is logged.

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    /// The name of the token that wrote.
    pub(crate) token: Option<&'l dyn Display>,
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Written in pieces, since formatting many arguments takes several times as long. Numbers have no fractions for
        // the same reason.
        f.write_str("method=")?;
        write_quoted(f, self.method)?;
        f.write_str(" path=")?;
        write_quoted(f, self.path)?;
        f.write_str(" status=")?;
        self.status.fmt(f)?;
        f.write_str(" bytes=")?;
        match self.bytes {
            Some(bytes) => bytes.fmt(f)?,
            None => f.write_char('-')?,
        }
        f.write_str(" ms=")?;
        let micros = self.took.as_micros() as u64;
        (micros / 1000).fmt(f)?;
        f.write_str(digits(&mut [b'.'; 4], micros % 1000))?;
        f.write_str(" client=")?;
        f.write_str(self.client)?;
        if let Some(id) = self.id {
            f.write_str(" id=")?;
            f.write_str(id)?;
        }
        if let Some(token) = self.token {
            write!(f, " token={token}")?;
        }
        Ok(())
    }
}

/// Writes `text` in quotes, with escapes, so that no client can forge a line of the log.
fn write_quoted(f: &mut fmt::Formatter, text: &str) -> fmt::Result {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        f.write_char('"')?;
        f.write_str(text)?;
        f.write_char('"')
    } else {
        write!(f, "{text:?}")
    }
}

/// Writes the three digits of `number` behind the first byte of `text`.
fn digits(text: &mut [u8; 4], number: u64) -> &str {
    for (place, divisor) in [(1, 100), (2, 10), (3, 1)] {
        text[place] = b'0' + (number / divisor % 10) as u8;
    }
    std::str::from_utf8(text).expect("digits are ASCII")
}

/// The lines that are not written yet.
struct Lines {
    buffers: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    lost: AtomicU64,
    writer: Thread,
    /// How often the writer has written all that was there.
    rounds: Mutex<u64>,
    has_written: Condvar,
}

/// Starts the writer with the first line: by then the process is in its sandbox, which holds for threads started later.
static LINES: LazyLock<Lines> = LazyLock::new(|| {
    let writer = thread::Builder::new().name("log".to_owned()).spawn(|| LINES.write());
    let writer = writer.expect("the system has a thread for the log").thread().clone();
    let (buffers, lost, rounds, has_written) = Default::default();
    Lines { buffers, lost, writer, rounds, has_written }
});

thread_local! {
    static OWN: Arc<Mutex<Vec<u8>>> = {
        let own = Arc::default();
        lock(&LINES.buffers).push(Arc::clone(&own));
        own
    };
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// Adds a line to the calling thread's buffer.
pub(crate) fn add(record: &log::Record) {
    OWN.with(|own| {
        let mut lines = lock(own);
        let before = lines.len();
        if before >= FULL {
            LINES.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        CLOCK.with_borrow_mut(|clock| lines.extend_from_slice(clock.now()));
        let added = writeln!(lines, " {:<5} {} > {}", record.level(), record.target(), record.args());
        added.expect("memory takes every line");
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
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                log::warn!("{lost} lines of the access log are lost: standard error took them too slowly");
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
        self.text[end - 1..end + 3].copy_from_slice(digits(&mut [b'.'; 4], since.subsec_millis().into()).as_bytes());
        &self.text
    }
}
