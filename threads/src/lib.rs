//! The threads service: the subjects that posts belong to.
//!
//! ```text
//! GET /api/threads              every thread, in id order
//! GET /api/threads/:id          one thread
//! GET /api/threads/by-user/:id  the threads that a user began
//! ```

use shared::api::{self, Answer, IdInPath, Routes, read};
use shared::model::{Term, Thread};
use shared::store::Store;
use warp::{Filter, Rejection};

/// Everything the service answers to.
pub fn routes(threads: Store) -> Routes {
    api::routes(&threads, by_user(&threads))
}

/// `GET /api/threads/by-user/7`
fn by_user(threads: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let threads = threads.clone();
    warp::path!("by-user" / IdInPath / ..).and(read()).map(move |user: IdInPath| {
        let user = Term::Id(user.id()?);
        api::list(&threads, || threads.find(Thread::BY_USER, &user))
    })
}
