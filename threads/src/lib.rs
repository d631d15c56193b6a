//! The threads service: the subjects that posts belong to.
//!
//! ```text
//! GET /api/threads              every thread, in id order
//! GET /api/threads/:id          one thread
//! GET /api/threads/by-user/:id  the threads that a user began
//! ```

use service::Collection;

/// Returns the collection of threads.
pub fn collection() -> Collection {
    Collection::embedded(include_str!("../collection.json"))
}
