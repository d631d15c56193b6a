//! Waiting awake for a moment, instead of being woken.
//!
//! The write of a client that waits for each answer goes from its connection's thread to the committer and back. On an
//! idle processor both have to be woken, which takes longer than the work, and together as long as a fast disk. So while
//! there is a single writer, and the disk is fast, both stay awake. They stop once others write, whom they would be in
//! the way of.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{available_parallelism, yield_now};
use std::time::{Duration, Instant};

/// The longest wait for the disk, and the work beside it.
const ANSWER: Duration = Duration::from_micros(500);

/// The longest wait for the next write of the same client.
const NEXT: Duration = Duration::from_micros(200);

/// How often a thread looks before it lets others go first.
const LOOKS: usize = 500;

/// Tells whether staying awake is of use.
#[derive(Debug)]
pub(super) struct Awake {
    /// With a single processor, a thread that stays awake is in the way of all others.
    has_processors: bool,
    /// The writes that are not answered yet.
    writes: AtomicUsize,
    /// Whether the last group was a single write, and the disk was fast.
    was_quick: AtomicBool,
}

impl Default for Awake {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self { has_processors: processors > 1, writes: AtomicUsize::new(0), was_quick: AtomicBool::new(false) }
    }
}

/// A write that is not answered yet.
pub(super) struct Waiting<'a>(&'a Awake);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.writes.fetch_sub(1, Relaxed);
    }
}

impl Awake {
    /// Notes a write, until the result is dropped.
    pub(super) fn begin(&self) -> Waiting<'_> {
        self.writes.fetch_add(1, Relaxed);
        Waiting(self)
    }

    /// Notes a group of `writes` that has waited for the disk.
    pub(super) fn note(&self, writes: usize, waited: Duration) {
        self.was_quick.store(self.has_processors && writes == 1 && waited < ANSWER, Relaxed);
    }

    /// Waits a moment until the only write `is_answered`.
    pub(super) fn await_answer(&self, is_answered: impl Fn() -> bool) {
        if self.was_quick.load(Relaxed) {
            wait(ANSWER, || (is_answered() || self.writes.load(Relaxed) > 1).then_some(()));
        }
    }

    /// Waits a moment for the next job, which `look` returns.
    pub(super) fn await_next<T>(&self, look: impl Fn() -> Option<T>) -> Option<T> {
        if self.was_quick.load(Relaxed) { wait(NEXT, look) } else { None }
    }
}

fn wait<T>(most: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    while begin.elapsed() < most {
        for _ in 0..LOOKS {
            if let Some(found) = look() {
                return Some(found);
            }
            spin_loop();
        }
        // Whoever else has work goes first.
        yield_now();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Returns how often a thread looks for an answer that does not come.
    fn looks(awake: &Awake) -> usize {
        let looks = Cell::new(0);
        awake.await_answer(|| {
            looks.set(looks.get() + 1);
            false
        });
        looks.get()
    }

    #[test]
    fn only_a_single_writer_to_a_fast_disk_keeps_threads_awake() {
        let awake = Awake { has_processors: true, ..Awake::default() };
        let write = awake.begin();
        assert_eq!((looks(&awake), awake.await_next(|| Some(()))), (0, None), "before the first group");
        awake.note(1, Duration::from_micros(100));
        assert!(looks(&awake) > 1);
        assert_eq!(awake.await_next(|| Some(7)), Some(7));
        let other = awake.begin();
        assert_eq!(looks(&awake), 1);
        drop(other);
        assert!(looks(&awake) > 1);
        drop(write);
        for (writes, waited) in [(2, Duration::ZERO), (1, ANSWER)] {
            awake.note(writes, waited);
            assert_eq!((looks(&awake), awake.await_next(|| Some(()))), (0, None));
        }
        let alone = Awake { has_processors: false, ..Awake::default() };
        alone.note(1, Duration::ZERO);
        assert_eq!(looks(&alone), 0);
    }
}
