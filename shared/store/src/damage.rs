//! The damage found since a database was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter of damage. The log describes the damage.
#[derive(Debug, Default)]
pub(super) struct Damage(AtomicU64);

impl Damage {
    /// Counts one more fault.
    pub(super) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many faults were found, or `None` if none were.
    pub(super) fn found(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|found| *found > 0)
    }
}
