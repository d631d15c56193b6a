//! The workspace's own collections, for tests.

use crate::model::{Collection, Index};

/// Returns users.
pub fn users() -> Collection {
    Collection::embedded(include_str!("../../../users/collection.json"))
}

/// Returns threads.
pub fn threads() -> Collection {
    Collection::embedded(include_str!("../../../threads/collection.json"))
}

/// Returns posts.
pub fn posts() -> Collection {
    Collection::embedded(include_str!("../../../posts/collection.json"))
}

/// Returns all three, in the monolith's order.
pub fn all() -> [Collection; 3] {
    [users(), threads(), posts()]
}

/// The index of posts by thread.
pub const IN_THREAD: Index = Index(1);
/// The index of posts by user.
pub const BY_USER: Index = Index(2);
