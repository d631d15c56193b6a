//! A service's health: the answer of `/ready`, and its states before it is ready and while it drains.
//!
//! A load balancer notices a change of health only at its next check, and sends requests until then. So a service first
//! says that it is not ready, and stops listening only later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::problem::Problem;
use crate::replica::Replica;
use crate::reply::{self, Answer};
use crate::state::State;

/// The stage of a service between its start and its end. Clones share it.
#[derive(Clone, Default)]
pub struct Health {
    building: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
}

impl Health {
    /// Sets whether the database is getting indexes that are new in the declaration. Meanwhile only `/live` is served.
    pub fn set_building(&self, is_building: bool) {
        self.building.store(is_building, Ordering::Release);
    }

    pub(crate) fn is_building(&self) -> bool {
        self.building.load(Ordering::Acquire)
    }

    /// Begins the end of the service: `/ready` answers 503, and every answer asks its client to reconnect.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

impl State {
    /// Returns what keeps the service from taking requests.
    pub(crate) fn find_obstacles(&self) -> Vec<Problem> {
        let obstacles = [
            self.health.is_draining().then_some(Problem::Draining),
            self.health.is_building().then_some(Problem::Building),
            self.commit.is_broken().then_some(Problem::WritesFailed),
            self.store.check().err().map(Problem::Store),
            self.replica.as_ref().and_then(Replica::find_obstacle),
            // The others have what it cannot read.
            (self.replica.is_some() && self.store.damage().is_some()).then_some(Problem::Apart),
        ];
        obstacles.into_iter().flatten().collect()
    }

    /// Returns what is wrong although the service is ready. Load balancers look only at the status: a damaged or
    /// read-only service still serves.
    pub(crate) fn list_remarks(&self) -> Vec<String> {
        let store = &self.store;
        let remarks = [
            self.replica.as_ref().and_then(Replica::find_remark),
            store.is_read_only().then(|| "read-only: its file system is read-only".to_owned()),
            store.damage().map(|found| format!("damaged: {found} values could not be read; the log names them")),
        ];
        remarks.into_iter().flatten().collect()
    }

    /// `GET /ready`
    pub(crate) fn check_ready(&self) -> Answer {
        if let Some(obstacle) = self.find_obstacles().into_iter().next() {
            return Err(obstacle);
        }
        let remarks = self.list_remarks();
        reply::text(if remarks.is_empty() { "ready".to_owned() } else { format!("ready; {}\n", remarks.join("; ")) })
    }
}
