//! What a declaration announces to be gone: answers say so in `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use headers::{Date, HeaderMapExt};
use record::declaration::Deprecation;
use record::model::Collection;
use warp::http::Uri;
use warp::http::header::{DATE, HeaderMap, HeaderName, HeaderValue, LINK};

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// What a service announces. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Announcements {
    collection: Collection,
    all: Option<Announcement>,
    /// By the route's segment of a path, and the field that a query names.
    routes: Arc<[(&'static str, &'static str, Announcement)]>,
}

/// The headers that announce one thing.
#[derive(Clone, Debug)]
struct Announcement {
    deprecation: HeaderValue,
    sunset: Option<HeaderValue>,
    link: Option<HeaderValue>,
}

impl Announcements {
    /// Returns `None` if the declaration announces nothing.
    pub(crate) fn new(collection: Collection) -> Option<Self> {
        let all = collection.declaration().deprecated.as_ref().map(Announcement::new);
        let routes = collection.indexes().iter().filter_map(|index| {
            let deprecated = index.deprecated.as_ref()?;
            Some((&*index.route, &*index.field, Announcement::new(deprecated)))
        });
        let routes: Arc<[_]> = routes.collect();
        (all.is_some() || !routes.is_empty()).then_some(Self { collection, all, routes })
    }

    /// Adds what is announced about `uri` to an answer's headers.
    pub(crate) fn add_to(&self, uri: &Uri, headers: &mut HeaderMap) {
        let found = self.find(uri.path(), uri.query().unwrap_or_default());
        let Some(Announcement { deprecation, sunset, link }) = found else { return };
        headers.insert(DEPRECATION, deprecation.clone());
        if let Some(sunset) = sunset {
            headers.insert(SUNSET, sunset.clone());
        }
        if let Some(link) = link {
            headers.append(LINK, link.clone());
        }
    }

    /// Tells whether something is announced about `path`, and whether the day is known on which it will be gone.
    pub(crate) fn about(&self, path: &str) -> Option<bool> {
        self.find(path, "").map(|announcement| announcement.sunset.is_some())
    }

    fn find(&self, path: &str, query: &str) -> Option<&Announcement> {
        let mut segments = path.strip_prefix("/api/")?.split('/');
        segments.next().filter(|name| *name == self.collection.name())?;
        let (route, term) = (segments.next(), segments.next().filter(|term| !term.is_empty()));
        let of_route = self.routes.iter().find(|(name, ..)| Some(*name) == route && term.is_some());
        // Who filters or sorts by the field uses the index, too.
        let of_query = || self.routes.iter().find(|(_, field, _)| uses(query, field));
        of_route.or_else(of_query).map(|(.., announcement)| announcement).or(self.all.as_ref())
    }
}

/// Tells whether a query has a filter, a bound or an order by `field`.
fn uses(query: &str, field: &str) -> bool {
    !query.is_empty()
        && form_urlencoded::parse(query.as_bytes()).any(|(name, value)| match &*name {
            "sort" | "_sort" => value.strip_prefix('-').unwrap_or(&value) == field,
            name => name.strip_prefix(field).is_some_and(|rest| ["", "_gte", "_gt", "_lte", "_lt"].contains(&rest)),
        })
}

impl Announcement {
    fn new(deprecated: &Deprecation) -> Self {
        let since = deprecated.since.time().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let sunset = deprecated.sunset.and_then(|day| {
            let mut headers = HeaderMap::new();
            headers.typed_insert(Date::from(day.time()));
            headers.remove(DATE)
        });
        let link = deprecated.link.as_ref().map(|link| format!("<{link}>; rel=\"deprecation\""));
        let to_value = |text: String| HeaderValue::from_str(&text).expect("a declaration's link can be sent");
        Self { deprecation: to_value(format!("@{since}")), sunset, link: link.map(to_value) }
    }
}
