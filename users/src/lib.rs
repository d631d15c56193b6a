//! The users service: the authors of threads and posts.
//!
//! ```text
//! GET /api/users                    every user, in id order
//! GET /api/users/:id                one user
//! GET /api/users/by-username/:name  the user with that name; if there are several, the one with the lowest id
//! ```

use service::Collection;

/// Returns the collection of users.
pub fn collection() -> Collection {
    Collection::embedded(include_str!("../collection.json"))
}
