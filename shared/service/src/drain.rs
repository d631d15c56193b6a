//! The time between a service's being told to end and its end.
//!
//! A load balancer notices a change of health only at its next checks. Until then it goes on sending requests, and
//! they have to be answered: so first the service says that it is not ready, and only later stops listening.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use warp::Filter;
use warp::http::Method;
use warp::http::header::{CONNECTION, HeaderValue};
use warp::reply::Response;

use crate::api::{Routes, read};
use crate::problem::Problem;

/// Whether a service is about to end. Clones share the answer.
#[derive(Clone, Default)]
pub struct Drain(Arc<AtomicBool>);

impl Drain {
    /// From now on the service is about to end.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `routes` as they are until the service is about to end. Then `/ready` says so, and every answer asks its client
    /// to come back on another connection, so that none is idle, and about to be used, when it has to be closed.
    pub fn over(&self, routes: Routes) -> Routes {
        let drain = self.clone();
        let unready = warp::path("ready").and(read()).and(warp::method()).and_then(move |method: Method| {
            let answer = drain.has_begun().then(|| Problem::Draining.into_response(&method));
            async { answer.ok_or_else(warp::reject::not_found) }
        });
        let drain = self.clone();
        let close = move |mut response: Response| {
            if drain.has_begun() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        };
        unready.or(routes).unify().map(close).boxed()
    }
}
