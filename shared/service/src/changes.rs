//! `GET /api/{collection}/changes`: each change of a record as it happens.
//!
//! Changes are sent as server-sent events, or as lines of JSON if the client accepts them. Each has a place, which is the
//! event's `id`: the revision that the change made, and the database's fingerprint. A client that comes back with the last
//! place it knows, as `Last-Event-ID` or `?after=`, misses nothing and gets nothing twice. If the history no longer
//! reaches that far, or is another one, the answer is 410, and the client reads the list anew.
//!
//! A listener holds no changes: it reads the store's history when its client takes more. So a slow client costs little more
//! memory than a quick one: what is on its way to it, which it shares with those who are at the same place. It is cut off
//! when the history has passed it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use record::json::members;
use record::model::Collection;
use store::{Follower, NotInHistory, RecordChange, Store};
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{sleep, timeout};
use warp::http::HeaderMap;
use warp::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use warp::reply::Reply;

use crate::parameters::{Parameters, wrong};
use crate::problem::Problem;
use crate::reply::{Answer, LINES, accepts_lines};

/// The header with the place that a client knows.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The longest time in which nothing is sent.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The bytes of records that are sent at once.
const CHUNK: usize = 16 << 10;

/// The time between two calls, for each listener: to wake one and to send takes about half of it. So thousands of
/// listeners leave time for requests.
const PACE: Duration = Duration::from_micros(100);

/// The texts that are remembered for listeners who come to the same place later.
const TEXTS: usize = 32;

/// The listeners of a service. Clones share them.
#[derive(Clone)]
pub(crate) struct Listeners {
    store: Store,
    texts: Arc<Mutex<VecDeque<Text>>>,
    /// Whether the service ends. Sent anew when there are changes.
    call: Sender<bool>,
}

/// Some changes, as they are sent.
#[derive(Clone)]
struct Text {
    format: Format,
    /// The places before the first and at the last of them.
    after: u64,
    until: u64,
    bytes: Bytes,
}

/// The mark of an answer to a listener.
#[derive(Clone)]
pub(crate) struct Listening;

impl Listeners {
    pub(crate) fn new(store: &Store) -> Self {
        Self { store: store.clone(), texts: Arc::default(), call: Sender::new(false) }
    }

    /// Calls the listeners when there are changes.
    pub(crate) async fn call(&self) -> Infallible {
        loop {
            self.store.until_changed().await;
            self.call.send_modify(|_| {});
            let listeners = u32::try_from(self.call.receiver_count()).unwrap_or(u32::MAX);
            sleep(PACE.saturating_mul(listeners)).await;
        }
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.call.receiver_count()
    }

    /// Ends all listeners' answers.
    pub(crate) fn end(&self) {
        self.call.send_replace(true);
    }

    /// `GET /api/{collection}/changes`
    pub(crate) fn answer(&self, headers: &HeaderMap, mut given: Parameters) -> Answer {
        let after = given.take("after")?;
        given.finish(&["after"])?;
        // A browser that comes back repeats the query of its first request.
        let known = headers.get(LAST_EVENT_ID).map(|place| place.to_str().unwrap_or("?").to_owned()).or(after);
        let follower = self.store.follow();
        let place = match known {
            Some(place) => read_place(&place, &self.store)?,
            None => follower.last_change(),
        };
        follower.changes_after(place, 0)?;
        let format = Format::read(headers);
        let shape = Shape { format, collection: self.store.collection(), fingerprint: self.store.fingerprint() };
        let begin = shape.begin(place);
        let listener =
            Listener { follower, place, called: self.call.subscribe(), texts: Arc::clone(&self.texts), shape };
        let rest = stream::unfold(listener, async |mut listener| Some((listener.next().await?, listener)));
        let begin = stream::once(async { Ok::<_, io::Error>(begin) });
        let events = futures_util::StreamExt::chain(begin, rest);
        let mut response = warp::reply::stream(events).into_response();
        response.extensions_mut().insert(Listening);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // A listener has no place among the connections that send requests.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(response)
    }
}

/// Reads a place: a revision, with the fingerprint of its database if the place comes from an event.
fn read_place(place: &str, store: &Store) -> Result<u64, Problem> {
    let (revision, fingerprint) = place.split_once('-').map_or((place, None), |(first, rest)| (first, Some(rest)));
    let number = revision.parse().ok().filter(|number: &u64| number.to_string() == revision);
    let fingerprint = fingerprint.map(|text| u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8));
    match (number, fingerprint) {
        (Some(_), Some(Some(fingerprint))) if fingerprint != store.fingerprint() => Err(Problem::OtherHistory),
        (Some(revision), None | Some(Some(_))) => Ok(revision),
        _ => Err(wrong("`after` and Last-Event-ID are the id of an event, or a revision.")),
    }
}

/// How changes are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Events,
    Lines,
}

impl Format {
    fn read(headers: &HeaderMap) -> Self {
        if accepts_lines(headers) { Format::Lines } else { Format::Events }
    }

    fn media_type(self) -> &'static str {
        match self {
            Format::Events => "text/event-stream",
            Format::Lines => LINES,
        }
    }
}

/// The shape of what a listener gets.
#[derive(Clone, Copy)]
struct Shape {
    format: Format,
    collection: Collection,
    fingerprint: u32,
}

impl Shape {
    /// Tells the client where it is, so that it can come back even if nothing changes.
    fn begin(self, place: u64) -> Bytes {
        let mut text = String::new();
        self.write(&mut text, "place", place, "{}");
        text.into()
    }

    fn heartbeat(self) -> Bytes {
        Bytes::from_static(match self.format {
            Format::Events => b":\n\n",
            Format::Lines => b"\n",
        })
    }

    fn changes(self, changes: &[RecordChange]) -> Bytes {
        let mut text = String::new();
        for change in changes {
            let id = match members(&change.json).find(|(key, _)| *key == "id") {
                Some((_, id)) if self.collection.has_text_ids() => format!("\"id\":{id},"),
                _ if self.collection.is_single() => String::new(),
                _ => format!("\"id\":{},", change.id()),
            };
            let revision = change.revision;
            if change.is_deletion {
                self.write(&mut text, "delete", revision, &format!("{{{id}\"revision\":{revision}}}"));
            } else {
                let record = &change.json;
                self.write(&mut text, "put", revision, &format!("{{{id}\"revision\":{revision},\"record\":{record}}}"));
            }
        }
        text.into()
    }

    /// Writes an event; `data` is a JSON object.
    fn write(self, text: &mut String, event: &str, place: u64, data: &str) {
        let fingerprint = self.fingerprint;
        // Writing to memory does not fail. Canonical JSON has no line breaks.
        let _ = match self.format {
            Format::Events => write!(text, "event: {event}\nid: {place}-{fingerprint:08x}\ndata: {data}\n\n"),
            Format::Lines => {
                let comma = if data == "{}" { "" } else { "," };
                let rest = &data[1..];
                writeln!(text, "{{\"event\":\"{event}\",\"place\":\"{place}-{fingerprint:08x}\"{comma}{rest}")
            }
        };
    }
}

/// A client that listens, and what it has.
struct Listener {
    follower: Follower,
    place: u64,
    called: Receiver<bool>,
    texts: Arc<Mutex<VecDeque<Text>>>,
    shape: Shape,
}

impl Listener {
    /// Returns what to send next; `None` if the service ends, an error if the client is too slow.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if *self.called.borrow_and_update() {
                return None;
            }
            match self.read_on() {
                Ok(Some(text)) => {
                    self.place = text.until;
                    return Some(Ok(text.bytes));
                }
                Ok(None) => {}
                Err(passed) => return Some(Err(io::Error::other(passed))),
            }
            match timeout(HEARTBEAT, self.called.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_ended)) => return None,
                Err(_elapsed) => return Some(Ok(self.shape.heartbeat())),
            }
        }
    }

    /// Returns what follows the listener's place, if there is anything.
    fn read_on(&self) -> Result<Option<Text>, NotInHistory> {
        let (format, after) = (self.shape.format, self.place);
        // Whatever a panic leaves is whole.
        let texts = || self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = texts().iter().rev().find(|text| (text.format, text.after) == (format, after)).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let changes = self.follower.changes_after(after, CHUNK)?;
        let Some(last) = changes.last() else { return Ok(None) };
        let text = Text { format, after, until: last.revision, bytes: self.shape.changes(&changes) };
        let mut texts = texts();
        if texts.len() == TEXTS {
            texts.pop_front();
        }
        texts.push_back(text.clone());
        Ok(Some(text))
    }
}
