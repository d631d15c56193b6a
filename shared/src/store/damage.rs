//! What was found damaged since a database was opened.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what was found damaged, and remembers the first of it.
#[derive(Debug, Default)]
pub(super) struct Damage {
    found: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Damage {
    /// Counts `what`.
    pub(super) fn note(&self, what: &str) {
        self.found.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut first) = self.first.lock() {
            first.get_or_insert_with(|| what.to_owned());
        }
    }

    /// The first damage in words, if there was any.
    pub(super) fn summary(&self) -> Option<String> {
        let first = self.first.lock().ok()?.clone()?;
        Some(match self.found.load(Ordering::Relaxed) {
            0 | 1 => first,
            found => format!("{first}; met {found} times in all, there or elsewhere"),
        })
    }
}
