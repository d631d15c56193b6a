//! The posts service: what was written in threads, by users.
//!
//! ```text
//! GET /api/posts                every post, in id order
//! GET /api/posts/:id            one post
//! GET /api/posts/in-thread/:id  the posts of a thread
//! GET /api/posts/by-user/:id    the posts of a user
//! ```

use service::Collection;

/// What posts are.
pub fn collection() -> Collection {
    Collection::embedded(include_str!("../collection.json"))
}
