//! The workspace's own collections, for tests.

use crate::model::{Collection, Index};

/// Users.
pub fn users() -> Collection {
    Collection::embedded(include_str!("../../../users/collection.json"))
}

/// Threads.
pub fn threads() -> Collection {
    Collection::embedded(include_str!("../../../threads/collection.json"))
}

/// Posts.
pub fn posts() -> Collection {
    Collection::embedded(include_str!("../../../posts/collection.json"))
}

/// All of them, in the monolith's order.
pub fn all() -> [Collection; 3] {
    [users(), threads(), posts()]
}

/// Posts by their thread.
pub const IN_THREAD: Index = Index(1);
/// Posts by their user.
pub const BY_USER: Index = Index(2);
