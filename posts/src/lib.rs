//! The posts service: what was written in threads, by users.
//!
//! ```text
//! GET /api/posts                every post, in id order
//! GET /api/posts/:id            one post
//! GET /api/posts/in-thread/:id  the posts of a thread
//! GET /api/posts/by-user/:id    the posts of a user
//! ```

use shared::api::{self, Answer, IdInPath, Routes, read};
use shared::model::{Post, Term};
use shared::store::Store;
use warp::{Filter, Rejection};

/// Everything the service answers to.
pub fn routes(posts: Store) -> Routes {
    api::routes(&posts, in_thread(&posts).or(by_user(&posts)).unify())
}

/// `GET /api/posts/in-thread/7`
fn in_thread(posts: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let posts = posts.clone();
    warp::path!("in-thread" / IdInPath / ..).and(read()).map(move |thread: IdInPath| {
        let thread = Term::Id(thread.id()?);
        api::list(&posts, || posts.find(Post::IN_THREAD, &thread))
    })
}

/// `GET /api/posts/by-user/7`
fn by_user(posts: &Store) -> impl Filter<Extract = (Answer,), Error = Rejection> + Clone + use<> {
    let posts = posts.clone();
    warp::path!("by-user" / IdInPath / ..).and(read()).map(move |user: IdInPath| {
        let user = Term::Id(user.id()?);
        api::list(&posts, || posts.find(Post::BY_USER, &user))
    })
}
