//! The time in which a service listens and cannot serve yet: its database gets indexes that are new in the declaration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use warp::Filter;
use warp::filters::path::FullPath;
use warp::http::Method;

use crate::api::Routes;
use crate::problem::Problem;

/// Whether indexes are being built. Clones share the answer.
#[derive(Clone, Default)]
pub struct Building(Arc<AtomicBool>);

impl Building {
    /// From now on they are.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// All are whole.
    pub fn end(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// `routes` as they are once all indexes are whole. Until then `/live` alone is served; everything else is a 503.
    pub fn over(&self, routes: Routes) -> Routes {
        let building = self.clone();
        let wait = warp::path::full().and(warp::method()).and_then(move |path: FullPath, method: Method| {
            let is_waiting = building.0.load(Ordering::Acquire) && path.as_str() != "/live";
            let answer = is_waiting.then(|| Problem::Building.into_response(&method));
            async { answer.ok_or_else(warp::reject::not_found) }
        });
        wait.or(routes).unify().boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::testing::{App, sample};

    #[test]
    fn while_indexes_are_built_only_live_is_served() {
        static BUILDING: LazyLock<Building> = LazyLock::new(Building::default);
        let post = r#"{"thread":1,"text":"t","user":1}"#;
        let app = App::spawn(sample::posts(), |store| BUILDING.over(crate::api::routes(&store)), [post]);
        let paths = ["/live", "/ready", "/", "/api/posts", "/api/posts/1", "/api/posts/in-thread/1"];
        BUILDING.begin();
        for path in paths {
            let answer = app.get(path);
            assert_eq!(answer.status, if path == "/live" { 200 } else { 503 }, "{path}");
            let says_why = answer.body.contains("Indexes that are new in the declaration are being built");
            assert_eq!(
                says_why && !answer.header("retry-after").is_empty(),
                path != "/live",
                "{path}: {}",
                answer.body
            );
        }
        BUILDING.end();
        for path in paths {
            assert_eq!(app.get(path).status, 200, "{path}");
        }
    }
}
