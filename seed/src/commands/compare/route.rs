//! The routes of both sides, and those that only one side has.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use record::declaration::{Answers, IdRule, IndexDeclaration, TermKind};
use record::id::Id;
use record::model::Collection;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::plan::Plan;

/// The route of a path; routes are in the plan's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// `/`
    Root,
    /// `/api/`
    Api,
    /// Records of a collection that is compared.
    Records {
        /// The collection's place in the plan, which orders the routes; collections themselves are ordered by name.
        place: usize,
        /// The collection.
        collection: Collection,
        /// Its requested records.
        which: Which,
    },
    /// A route that only the services have.
    Added,
    /// Any other path.
    Other,
}

/// The requested records of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// All records, as in `/api/users`.
    All,
    /// The record with an id, as in `/api/users/:id`.
    One,
    /// The records that the nth index finds, as in `/api/posts/in-thread/:id`.
    Found(usize),
}

/// Returns the reason why a collection is not compared, if any.
pub fn why_not(collection: Collection) -> Option<&'static str> {
    if !collection.declaration().in_monolith { Some("the monolith does not have it") } else { None }
}

/// The parameter of a route's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// No parameter: the route has one path.
    Nothing,
    /// An id of the collection with this name.
    IdOf(&'static str),
    /// A text, or a number that is no id.
    Text,
}

impl Route {
    /// Returns the monolith's routes in the order of the requests: first the lists, then the routes that take ids,
    /// collection by collection, then those that take texts.
    pub fn of_the_monolith(plan: &Plan) -> Vec<Self> {
        let records = plan.iter().enumerate().flat_map(|(place, collection)| {
            let found = (0..collection.indexes().len()).map(Which::Found);
            let all = [Which::All, Which::One].into_iter().chain(found);
            all.map(move |which| Route::Records { place, collection, which })
        });
        let routes = [Route::Root, Route::Api].into_iter().chain(records);
        let is_compared = |route: &Route| route.collection().is_none_or(|collection| why_not(collection).is_none());
        let mut routes: Vec<Route> = routes.filter(|route| is_compared(route) && route.is_in_monolith()).collect();
        let place_of = |name| plan.iter().position(|collection| collection.name() == name);
        routes.sort_by_key(|route| match route.takes() {
            Takes::Nothing => (0, None, false),
            Takes::IdOf(name) => (1, place_of(name), route.index().is_some()),
            Takes::Text => (2, None, false),
        });
        routes
    }

    /// Returns the route of a path, and the key of the id in it, if it is valid; see [`key_of`].
    pub fn of(plan: &Plan, path: &str) -> (Self, Option<u64>) {
        Self::find(plan, path, |name, part| name == part)
    }

    /// Returns the route of a path, ignoring case.
    pub fn of_any_case(plan: &Plan, path: &str) -> Self {
        Self::find(plan, path, str::eq_ignore_ascii_case).0
    }

    fn find(plan: &Plan, path: &str, is: fn(&str, &str) -> bool) -> (Self, Option<u64>) {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        let (name, rest) = match &parts[..] {
            [""] => return (Route::Root, None),
            [api] if is("api", api) => return (Route::Api, None),
            [api, name, rest @ ..] if is("api", api) => (name, rest),
            _ => return (Route::Other, None),
        };
        let found = plan.iter().enumerate().find(|(_, collection)| is(collection.name(), name));
        let Some((place, collection)) = found else { return (Route::Other, None) };
        let index_at = |part: &str| collection.indexes().iter().position(|index| is(&index.route, part));
        let (which, text) = match rest {
            [] => (Some(Which::All), ""),
            [text] => (Some(Which::One), *text),
            [route, text] => (index_at(route).map(Which::Found), *text),
            _ => (None, ""),
        };
        let Some(which) = which else { return (Route::Other, None) };
        let route = Route::Records { place, collection, which };
        match (route.is_in_monolith(), why_not(collection)) {
            (false, _) => (Route::Added, None),
            (true, Some(_)) => (Route::Other, None),
            (true, None) => match route.takes() {
                Takes::IdOf(name) => (route, id_in(plan.named(name), text)),
                Takes::Nothing | Takes::Text => (route, None),
            },
        }
    }

    fn is_in_monolith(self) -> bool {
        let Route::Records { collection, which, .. } = self else { return true };
        let has_route = match which {
            Which::All => true,
            // The monolith cannot find a single record without an id.
            Which::One => !matches!(collection.declaration().ids, IdRule::Position | IdRule::Single),
            Which::Found(nth) => collection.indexes()[nth].in_monolith,
        };
        collection.declaration().in_monolith && has_route
    }

    /// Returns the name: the path with `:id` or another parameter.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Route::Root => "/".into(),
            Route::Api => "/api/".into(),
            Route::Records { .. } => match (self.takes(), self.index()) {
                (Takes::Text, Some(index)) => self.with(&format!(":{}", index.field)).into(),
                _ => self.with(":id").into(),
            },
            Route::Added => "added".into(),
            Route::Other => "other".into(),
        }
    }

    /// Returns the path with this id.
    pub fn path_of(self, id: u64) -> String {
        self.with(&id.to_string())
    }

    /// Returns the path with a text.
    pub fn path_of_text(self, text: &str) -> String {
        self.with(&utf8_percent_encode(text, NON_ALPHANUMERIC).to_string())
    }

    fn with(self, end: &str) -> String {
        let Route::Records { collection, which, .. } = self else { return self.name().into_owned() };
        let name = collection.name();
        match which {
            Which::All => format!("/api/{name}"),
            Which::One => format!("/api/{name}/{end}"),
            Which::Found(nth) => format!("/api/{name}/{}/{end}", collection.indexes()[nth].route),
        }
    }

    /// Returns the collection, if the route sends records.
    pub fn collection(self) -> Option<Collection> {
        if let Route::Records { collection, .. } = self { Some(collection) } else { None }
    }

    /// Returns the index that finds the records, if any.
    pub fn index(self) -> Option<&'static IndexDeclaration> {
        match self {
            Route::Records { collection, which: Which::Found(nth), .. } => Some(&collection.indexes()[nth]),
            _ => None,
        }
    }

    /// Returns whether the route sends a list of records; `None` if it does not send records.
    pub fn is_list(self) -> Option<bool> {
        let Route::Records { collection, which, .. } = self else { return None };
        let is_all = which == Which::All && !collection.is_single();
        Some(self.index().map_or(is_all, |index| index.answers == Answers::Many))
    }

    /// Returns the parameter of the path.
    pub fn takes(self) -> Takes {
        match (self, self.index()) {
            (Route::Records { collection, which: Which::One, .. }, _) => Takes::IdOf(collection.name()),
            (Route::Records { collection, .. }, Some(index)) => {
                let mut references = collection.references();
                let found = references.find(|reference| *reference.field == *index.field);
                let found = found.filter(|_| collection.terms_of(index) != TermKind::Text);
                found.map_or(Takes::Text, |reference| Takes::IdOf(reference.to))
            }
            _ => Takes::Nothing,
        }
    }

    /// Returns whether the path has an id.
    pub fn takes_id(self) -> bool {
        matches!(self.takes(), Takes::IdOf(_))
    }
}

/// The bit that marks the keys of ids that are not integers.
const TEXTS: u64 = 1 << 63;

/// Returns the key of an id in a comparison: the id itself if it is an integer, else a number beyond all integer ids.
pub fn key_of(text: &str) -> u64 {
    let digest = || u64::from_le_bytes(*Sha256::digest(text).first_chunk().expect("a SHA-256 has 32 bytes"));
    text.parse::<Id>().map_or_else(|_| digest() | TEXTS, Id::get)
}

/// Returns the key of the id in a path, of a record of `collection`.
fn id_in(collection: Option<Collection>, segment: &str) -> Option<u64> {
    if !collection.is_some_and(Collection::has_text_ids) {
        return segment.parse::<Id>().ok().map(Id::get);
    }
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    (!text.is_empty()).then(|| key_of(&text))
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// Serializes the route's name.
impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the route with that name.
    pub(in crate::commands::compare) fn named(plan: &Plan, name: &str) -> Route {
        Route::of_the_monolith(plan).into_iter().find(|route| route.name() == name).unwrap()
    }

    /// Returns the workspace's collections and four more: one that is not compared, one that is a single record, one whose
    /// ids are texts, and one with every kind of declared index.
    pub(in crate::commands::compare) fn wide_plan() -> Plan {
        let settings = r#"{"name":"settings","ids":"single","fields":[]}"#;
        let tags = r#"{"name":"tags","ids":"text",
            "fields":[{"name":"up","shape":{"reference":{"to":"tags","text":true}},"required":false}],
            "indexes":[{"number":1,"field":"up","route":"below"}]}"#;
        let added = r#"{"name":"friends","ids":"record","in_monolith":false,
            "fields":[{"name":"user","shape":{"reference":{"to":"users"}}}],
            "indexes":[{"number":1,"field":"user","route":"of-user"}]}"#;
        let full = r#"{"name":"Entries","ids":"position",
            "fields":[{"name":"label","shape":"username"},
                {"name":"up","shape":{"reference":{"to":"Entries"}},"required":false},
                {"name":"thread","shape":{"reference":{"to":"threads"}}}],
            "indexes":[{"number":1,"field":"label","route":"by-label"},{"number":2,"field":"up","route":"below"},
                {"number":3,"field":"thread","route":"about","answers":"one"}]}"#;
        Plan::workspace().iter().chain([added, settings, tags, full].map(Collection::embedded)).collect()
    }

    fn names(routes: impl IntoIterator<Item = Route>) -> Vec<String> {
        routes.into_iter().map(|route| route.to_string()).collect()
    }

    #[test]
    fn each_path_has_its_route() {
        for plan in [Plan::workspace(), wide_plan()] {
            for route in Route::of_the_monolith(&plan) {
                let id = route.takes_id().then_some(7);
                assert_eq!(Route::of(&plan, &route.path_of(7)), (route, id));
                assert_eq!(serde_json::to_string(&route).unwrap(), format!("\"{route}\""));
            }
        }
        let plan = Plan::workspace();
        let named = |name| named(&plan, name);
        for (path, expected) in [
            ("/api/users/", (named("/api/users"), None)),
            ("/api/users/7/?a=/b", (named("/api/users/:id"), Some(7))),
            ("/api/users/1abc", (named("/api/users/:id"), None)),
            ("/api/users/01", (named("/api/users/:id"), None)),
            ("/api/posts/7", (Route::Added, None)),
            ("/api/posts/in-thread/", (Route::Added, None)),
            ("/api/users/by-username/a", (Route::Added, None)),
            ("/api/users/by-name/a", (Route::Other, None)),
            ("/api/posts/in-thread/7/8", (Route::Other, None)),
            ("/API/users", (Route::Other, None)),
            ("//", (Route::Root, None)),
            ("/favicon.ico", (Route::Other, None)),
        ] {
            assert_eq!(Route::of(&plan, path), expected, "{path}");
        }
        assert_eq!(Route::of_any_case(&plan, "/API/Users/BY-username/a"), Route::Added);
        assert_eq!(Route::of_any_case(&plan, "/API/user"), Route::Other);
    }

    #[test]
    fn routes_are_asked_by_the_ids_in_them_and_reported_by_collection() {
        let plan = Plan::workspace();
        let mut routes = Route::of_the_monolith(&plan);
        let lists = ["/", "/api/", "/api/users", "/api/threads", "/api/posts"];
        let found = ["/api/users/:id", "/api/posts/by-user/:id", "/api/threads/:id", "/api/posts/in-thread/:id"];
        assert_eq!(names(routes.clone()), [&lists[..], &found].concat());
        routes.extend([Route::Other, Route::Added]);
        routes.sort();
        let [users, threads, posts] = [
            &["/", "/api/", "/api/users", "/api/users/:id", "/api/threads"][..],
            &["/api/threads/:id", "/api/posts", "/api/posts/in-thread/:id"],
            &["/api/posts/by-user/:id", "added", "other"],
        ];
        assert_eq!(names(routes), [users, threads, posts].concat());
    }

    #[test]
    fn routes_that_the_monolith_lacks_are_added_ones() {
        let plan = wide_plan();
        for (path, name, id) in [
            ("/api/settings", "/api/settings", None),
            ("/api/tags", "/api/tags", None),
            ("/api/tags/7", "/api/tags/:id", Some(7)),
            ("/api/tags/%C3%A9%2F", "/api/tags/:id", Some(key_of("é/"))),
            ("/api/tags/below/a", "/api/tags/below/:id", Some(key_of("a"))),
            ("/api/tags/%FF", "/api/tags/:id", None),
        ] {
            assert_eq!(Route::of(&plan, path), (named(&plan, name), id), "{path}");
        }
        assert_eq!(named(&plan, "/api/tags/:id").path_of_text("é/"), "/api/tags/%C3%A9%2F");
        assert_eq!(named(&plan, "/api/settings").is_list(), Some(false));
        for path in ["/api/settings/1", "/api/friends", "/api/friends/1", "/api/friends/of-user/1", "/api/Entries/1"] {
            assert_eq!(Route::of(&plan, path), (Route::Added, None), "{path}");
        }
        assert_eq!(
            names(Route::of_the_monolith(&plan))[5..],
            [
                "/api/settings",
                "/api/tags",
                "/api/Entries",
                "/api/users/:id",
                "/api/posts/by-user/:id",
                "/api/threads/:id",
                "/api/posts/in-thread/:id",
                "/api/Entries/about/:id",
                "/api/tags/:id",
                "/api/tags/below/:id",
                "/api/Entries/below/:id",
                "/api/Entries/by-label/:label",
            ]
        );
        let [label, about] = ["/api/Entries/by-label/7", "/api/Entries/about/7"].map(|path| Route::of(&plan, path));
        assert_eq!((label.0.takes(), label.1, label.0.is_list()), (Takes::Text, None, Some(true)));
        assert_eq!((about.0.takes(), about.1, about.0.is_list()), (Takes::IdOf("threads"), Some(7), Some(false)));
        assert_eq!(Route::of_any_case(&plan, "/api/entries"), named(&plan, "/api/Entries"));
    }
}
