//! The users service: who writes.
//!
//! ```text
//! GET /api/users                    every user, in id order
//! GET /api/users/:id                one user
//! GET /api/users/by-username/:name  one user; of several with that name, the one with the lowest id
//! ```

use service::Collection;

/// What users are.
pub fn collection() -> Collection {
    Collection::embedded(include_str!("../collection.json"))
}
