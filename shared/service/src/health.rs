//! Whether a service serves: what `/ready` says, and what holds until then and after it.
//!
//! A load balancer notices a change of health only at its next checks. Until then it goes on sending requests, and
//! they have to be answered: so first a service says that it is not ready, and only later stops listening.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use store::{Commit, Store};

use crate::problem::Problem;
use crate::reply::{self, Answer};

/// Where a service is on its way from its start to its end. Clones share it.
#[derive(Clone, Default)]
pub struct Health {
    building: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
}

impl Health {
    /// Whether its database is getting indexes that are new in the declaration. `/live` alone is served meanwhile.
    pub fn set_building(&self, is_building: bool) {
        self.building.store(is_building, Ordering::Release);
    }

    pub(crate) fn is_building(&self) -> bool {
        self.building.load(Ordering::Acquire)
    }

    /// From now on the service is about to end. `/ready` says so, and every answer asks its client to come back on
    /// another connection.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// `GET /ready`
    pub(crate) fn check(&self, store: &Store, commit: &Commit) -> Answer {
        if self.is_draining() {
            return Err(Problem::Draining);
        }
        if commit.is_broken() {
            return Err(Problem::WritesFailed);
        }
        store.check()?;
        // Whoever balances load looks at the status alone: what can be served is.
        let remarks = [
            store.is_read_only().then(|| "for reads alone: its file system can only be read".to_owned()),
            store.damage().map(|found| format!("damaged: {found} values could not be read; the log names them")),
        ];
        let remarks: Vec<String> = remarks.into_iter().flatten().collect();
        reply::text(if remarks.is_empty() { "ready".to_owned() } else { format!("ready; {}\n", remarks.join("; ")) })
    }
}
