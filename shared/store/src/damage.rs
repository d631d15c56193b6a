//! What was found damaged since a database was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what was found damaged. What that is, the log says.
#[derive(Debug, Default)]
pub(super) struct Damage(AtomicU64);

impl Damage {
    /// Counts one more.
    pub(super) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often damage was met, if it was.
    pub(super) fn found(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|found| *found > 0)
    }
}
