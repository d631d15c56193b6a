//! The routes that both sides have, and those that only one has.

use std::fmt;

use serde::{Deserialize, Serialize};
use shared::id::Id;
use shared::model::Collection;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Route {
    /// `/`
    #[serde(rename = "/")]
    Root,
    /// `/api/`
    #[serde(rename = "/api/")]
    Api,
    /// `/api/users`
    #[serde(rename = "/api/users")]
    Users,
    /// `/api/users/:id`
    #[serde(rename = "/api/users/:id")]
    User,
    /// `/api/threads`
    #[serde(rename = "/api/threads")]
    Threads,
    /// `/api/threads/:id`
    #[serde(rename = "/api/threads/:id")]
    Thread,
    /// `/api/posts`
    #[serde(rename = "/api/posts")]
    Posts,
    /// `/api/posts/in-thread/:id`
    #[serde(rename = "/api/posts/in-thread/:id")]
    PostsInThread,
    /// `/api/posts/by-user/:id`
    #[serde(rename = "/api/posts/by-user/:id")]
    PostsByUser,
    /// A route that only the services have.
    #[serde(rename = "added")]
    Added,
    /// Any other path.
    #[serde(rename = "other")]
    Other,
}

impl Route {
    /// The routes that the monolith has, in the order in which they are asked for.
    pub const OF_THE_MONOLITH: [Route; 9] = [
        Route::Root,
        Route::Api,
        Route::Users,
        Route::Threads,
        Route::Posts,
        Route::User,
        Route::PostsByUser,
        Route::Thread,
        Route::PostsInThread,
    ];

    /// The route of a path, and the id in it if it is one.
    pub fn of(path: &str) -> (Route, Option<u64>) {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        let id = |text: &str| text.parse::<Id>().ok().map(Id::get);
        match parts[..] {
            [""] => (Route::Root, None),
            ["api"] => (Route::Api, None),
            ["api", "users"] => (Route::Users, None),
            ["api", "threads"] => (Route::Threads, None),
            ["api", "posts"] => (Route::Posts, None),
            ["api", "users", text] => (Route::User, id(text)),
            ["api", "threads", text] => (Route::Thread, id(text)),
            ["api", "posts", "in-thread", text] => (Route::PostsInThread, id(text)),
            ["api", "posts", "by-user", text] => (Route::PostsByUser, id(text)),
            ["api", "users", "by-username", _] | ["api", "threads", "by-user", _] | ["api", "posts", _] => {
                (Route::Added, None)
            }
            _ => (Route::Other, None),
        }
    }

    /// What it looks like.
    pub fn name(self) -> &'static str {
        match self {
            Route::Root => "/",
            Route::Api => "/api/",
            Route::Users => "/api/users",
            Route::User => "/api/users/:id",
            Route::Threads => "/api/threads",
            Route::Thread => "/api/threads/:id",
            Route::Posts => "/api/posts",
            Route::PostsInThread => "/api/posts/in-thread/:id",
            Route::PostsByUser => "/api/posts/by-user/:id",
            Route::Added => "added",
            Route::Other => "other",
        }
    }

    /// Whose records it sends, if it sends records.
    pub fn collection(self) -> Option<Collection> {
        match self {
            Route::Users | Route::User => Some(Collection::Users),
            Route::Threads | Route::Thread => Some(Collection::Threads),
            Route::Posts | Route::PostsInThread | Route::PostsByUser => Some(Collection::Posts),
            Route::Root | Route::Api | Route::Added | Route::Other => None,
        }
    }

    /// Whether it sends a list of records; `None` if it sends none.
    pub fn is_list(self) -> Option<bool> {
        self.collection().map(|_| !matches!(self, Route::User | Route::Thread))
    }

    /// Whether an id belongs into the path.
    pub fn takes_id(self) -> bool {
        matches!(self, Route::User | Route::Thread | Route::PostsInThread | Route::PostsByUser)
    }

    /// Its path with this id.
    pub fn path_of(self, id: u64) -> String {
        self.name().replace(":id", &id.to_string())
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_that_of_its_route() {
        for route in Route::OF_THE_MONOLITH {
            let id = route.takes_id().then_some(7);
            assert_eq!(Route::of(&route.path_of(7)), (route, id));
            assert_eq!(serde_json::to_string(&route).unwrap(), format!("\"{route}\""));
        }
        for (path, expected) in [
            ("/api/users/", (Route::Users, None)),
            ("/api/users/7/?a=/b", (Route::User, Some(7))),
            ("/api/users/1abc", (Route::User, None)),
            ("/api/users/01", (Route::User, None)),
            ("/api/posts/7", (Route::Added, None)),
            ("/api/users/by-username/a", (Route::Added, None)),
            ("/API/users", (Route::Other, None)),
            ("//", (Route::Root, None)),
            ("/favicon.ico", (Route::Other, None)),
        ] {
            assert_eq!(Route::of(path), expected, "{path}");
        }
    }
}
