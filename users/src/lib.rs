//! The users service: who writes.
//!
//! ```text
//! GET /api/users                    every user, in id order
//! GET /api/users/:id                one user
//! GET /api/users/by-username/:name  one user; of several with that name, the one with the lowest id
//! ```

use shared::api::{self, Answer, NameInPath, Routes, read};
use shared::model::{Term, User};
use shared::store::Store;
use warp::{Filter, Rejection};

/// Everything the service answers to.
pub fn routes(users: Store) -> Routes {
    api::routes(&users, by_username(&users))
}

/// `GET /api/users/by-username/finn`
fn by_username(users: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let users = users.clone();
    warp::path!("by-username" / NameInPath / ..).and(read()).map(move |name: NameInPath| {
        let name = Term::from(name.name()?.as_str());
        api::record(&users, || users.find(User::BY_USERNAME, &name).next().transpose())
    })
}
