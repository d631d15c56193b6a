//! The posts service: the texts that users write in threads.
//!
//! ```text
//! GET /api/posts                every post, in id order
//! GET /api/posts/:id            one post
//! GET /api/posts/in-thread/:id  the posts of a thread
//! GET /api/posts/by-user/:id    the posts of a user
//! ```

use service::Collection;

/// Returns the collection of posts.
pub fn collection() -> Collection {
    Collection::embedded(include_str!("../collection.json"))
}
