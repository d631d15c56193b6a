//! The verdict on one path that both sides were asked for.
//!
//! | the monolith | the services | |
//! |---|---|---|
//! | no whole answer; 3xx; 401, 403, 407, 408, 425, 429; 5xx | not asked | unknown: the answer proves nothing |
//! | 204 | 404 as a problem document | expected |
//! | 404 for a route that only the services have | 2xx | expected |
//! | 2xx for an invalid id, or for another case of a path | 400, 404 | expected |
//! | 4xx, 204, `[]` where the source has records; records of another path | the same | unknown: both may be wrong |
//! | 4xx | the same | alike, without compared records |
//! | 2xx | the same, with the same records | alike |
//! | anything else | | different |

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use record::reader::RECORD_BYTES;
use record::words::agree;
use roaring::RoaringTreemap;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::address::redact_query;
use super::client::{Endpoint, Failure, FailureKind, Reply, Sides};
use super::elements::Shape;
use super::finding::{Expected, Finding, Kind};
use super::javascript::respell;
use super::reference::{Reference, Spelling};
use super::route::Route;
use super::summary::{BUCKETS, Keep, Kept, Lens, SECOND_WINDOW, Summary, tail_of};
use crate::plan::Plan;

/// The greatest length of a record that is compared beside others, in bytes; longer ones are compared one at a time.
const ROOM: usize = 128 << 10;

/// The most differences of one answer that are named.
const NAMED: usize = 20;

/// The context of all comparisons.
pub struct Context {
    /// Both sides.
    pub sides: Sides,
    /// The ids and spelling that they should have.
    pub reference: Reference,
    /// The collections.
    pub plan: Plan,
}

/// The verdict on a path's two answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The services answer as the monolith does, except for expected differences.
    Alike(BTreeSet<Expected>),
    /// The answers differ.
    Different,
    /// The answers cannot be judged, for this reason.
    Unknown(String),
}

/// The outcome of a path.
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The number of the monolith's records that were compared.
    pub records: u64,
    /// The ids of these records.
    pub ids: RoaringTreemap,
    /// Whether many such outcomes in a row mean that a server is in trouble.
    pub trouble: bool,
    /// Whether both sides agree against the source.
    pub contradicts: bool,
}

impl Outcome {
    fn without_records(verdict: Verdict) -> Self {
        Self { verdict, records: 0, ids: RoaringTreemap::new(), trouble: false, contradicts: false }
    }

    fn unknown(why: impl Into<String>) -> Self {
        Self::without_records(Verdict::Unknown(why.into()))
    }
}

/// A callback for each difference that is found.
pub type Sink<'s> = dyn FnMut(Finding) + 's;

impl Context {
    /// Asks both sides for `path`, and passes the differences to `sink`.
    ///
    /// # Errors
    /// A record is too long to be compared beside others, and the path is not compared alone (`is_alone`). No difference
    /// was passed on then.
    pub fn compare_path(&self, path: &str, is_alone: bool, sink: &mut Sink) -> Result<Outcome, NeedsRoom> {
        let (route, id) = Route::of(&self.plan, path);
        let printed = redact_query(path);
        let room = if is_alone { RECORD_BYTES } else { ROOM };
        let comparison = Comparison { context: self, path, printed: &printed, route, id, room };
        comparison.run(&mut |mut finding| {
            if let Some(collection) = route.collection().filter(|collection| collection.has_text_ids()) {
                finding.name(|id| self.reference.text_of(collection, id));
            }
            finding.hide(&self.sides.secrets);
            sink(finding);
        })
    }
}

/// An error: an answer has a record so long that it must be compared alone, to limit memory.
pub struct NeedsRoom;

struct Comparison<'c> {
    context: &'c Context,
    path: &'c str,
    printed: &'c str,
    route: Route,
    id: Option<u64>,
    room: usize,
}

impl Comparison<'_> {
    fn run(&self, sink: &mut Sink) -> Result<Outcome, NeedsRoom> {
        let Sides { monolith, services, secrets } = &self.context.sides;
        let hidden = |text: &str| secrets.hide(text).into_owned();
        let unproven =
            |failure: Failure| Outcome { trouble: failure.is_trouble(), ..Outcome::unknown(hidden(&failure.text)) };
        let left = match monolith.get(self.path) {
            Ok(reply) => reply,
            Err(failure) => return Ok(unproven(failure)),
        };
        if let Some(why) = proves_nothing(&left) {
            left.body.drain();
            return Ok(Outcome::unknown(hidden(&why)));
        }
        let (left_head, left) = match self.read(monolith, left) {
            Err(failure) if self.needs_room(&failure) => return Err(NeedsRoom),
            Err(failure) => return Ok(unproven(failure)),
            Ok(read) => read,
        };
        let right = services.get(self.path).and_then(|reply| {
            // If the statuses differ, the body does not matter.
            let same = reply.status == left_head.status;
            if same { self.read(services, reply) } else { Ok((Head::of(reply), None)) }
        });
        let (right_head, right) = match right {
            Err(failure) if self.needs_room(&failure) => return Err(NeedsRoom),
            Err(failure) => {
                let note = Some(Cow::Borrowed(&*failure.text));
                sink(Finding { note, ..self.finding(failure.kind.into()) });
                return Ok(Outcome { trouble: failure.is_trouble(), ..Outcome::without_records(Verdict::Different) });
            }
            Ok(read) => read,
        };
        let verdict = self.compare_heads(&left_head, &right_head, sink);
        let is_alike = verdict.as_ref().is_none_or(|verdict| matches!(verdict, Verdict::Alike(_)));
        if is_alike && let Some(why) = self.contradiction(left.as_ref(), right.as_ref()) {
            return Ok(Outcome { contradicts: true, ..Outcome::unknown(why) });
        }
        if let Some(verdict) = verdict {
            return Ok(Outcome::without_records(verdict));
        }
        let (Some(left), Some(right)) = (left, right) else {
            return Ok(Outcome::without_records(Verdict::Alike(BTreeSet::new())));
        };
        // Guards against a server that sends the same page for every path: both sides would look alike.
        let is_records = match self.route.is_list() {
            Some(true) => left.shape == Shape::List,
            Some(false) => left.shape == Shape::One,
            None => true,
        };
        if !is_records {
            return Ok(Outcome::unknown(format!("the monolith sends {} instead of records", shape_name(left.shape))));
        }
        let verdict = self.compare_bodies(&left, &right, sink);
        let is_compared = self.route.collection().is_some() && !matches!(verdict, Verdict::Unknown(_));
        let records = if is_compared { left.count } else { 0 };
        let ids = if records > 0 { left.ids } else { RoaringTreemap::new() };
        Ok(Outcome { records, ids, ..Outcome::without_records(verdict) })
    }

    /// Returns how both sides contradict the source, if they do.
    fn contradiction(&self, left: Option<&Summary>, right: Option<&Summary>) -> Option<String> {
        let count = |side: Option<&Summary>| side.map_or(0, |side| side.count);
        if count(left) + count(right) == 0 && self.context.reference.has_records(self.route, self.id) {
            return Some("neither side sends a record, but the source has some here".to_owned());
        }
        let (left, right) = (left?, right?);
        let is_wrong = left.strangers > 0 && left.shape == right.shape && left.is_equal_to(right);
        is_wrong.then(|| format!("both sides send records of another path: {} of {}", left.strangers, left.count))
    }

    fn needs_room(&self, failure: &Failure) -> bool {
        failure.kind == FailureKind::NeedsRoom && self.room < RECORD_BYTES
    }

    fn finding(&self, kind: Kind) -> Finding<'_> {
        Finding::new(self.route, self.printed, kind)
    }

    /// Reads an answer, and sums up its body if there is one to compare.
    fn read(&self, side: &Endpoint, reply: Reply) -> Result<(Head, Option<Summary>), Failure> {
        self.read_keeping(side, reply, Keep::Window)
    }

    fn read_keeping(&self, side: &Endpoint, reply: Reply, keep: Keep) -> Result<(Head, Option<Summary>), Failure> {
        if !(200..300).contains(&reply.status) || reply.status == 204 {
            return Ok((Head::of(reply), None));
        }
        let (head, body) = Head::split(reply);
        let reference = &self.context.reference;
        let is_monolith = std::ptr::eq(side, &raw const self.context.sides.monolith);
        let lens = Lens { route: self.route, id: self.id, is_monolith, reference, room: self.room, keep };
        Ok((head, Some(Summary::of(body, lens)?)))
    }

    /// Judges by statuses and headers; returns `None` if the bodies must be compared.
    fn compare_heads(&self, left: &Head, right: &Head, sink: &mut Sink) -> Option<Verdict> {
        let is_problem = right.content_type.to_ascii_lowercase().starts_with("application/problem+json");
        let alike = |expected: Expected| Some(Verdict::Alike(BTreeSet::from([expected])));
        let is_success = |head: &Head| (200..300).contains(&head.status);
        if left.status != right.status {
            match (left.status, right.status) {
                (204, 404) if is_problem => return alike(Expected::NotFound),
                (404, _) if self.route == Route::Added && is_success(right) => return alike(Expected::AddedRoute),
                (_, 400) if is_success(left) && is_problem && self.route.takes_id() && self.id.is_none() => {
                    return alike(Expected::NotAnId);
                }
                (_, 404) if is_success(left) && self.is_other_case() => return alike(Expected::PathCase),
                _ => {}
            }
            let [monolith, services] = [left, right].map(|head| Some(Cow::Owned(head.status_text())));
            sink(Finding { monolith, services, ..self.finding(Kind::Status) });
            return Some(Verdict::Different);
        }
        if !is_success(left) || left.status == 204 {
            // The bodies of errors may differ.
            return Some(Verdict::Alike(BTreeSet::new()));
        }
        if media_type(&left.content_type) != media_type(&right.content_type) {
            let [monolith, services] = [left, right].map(|head| Some(Cow::Owned(format!("{:?}", head.content_type))));
            sink(Finding { monolith, services, ..self.finding(Kind::ContentType) });
            return Some(Verdict::Different);
        }
        None
    }

    /// Returns whether the path is a known route in another case.
    fn is_other_case(&self) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        self.route == Route::Other && Route::of_any_case(&self.context.plan, path) != Route::Other
    }

    fn compare_bodies(&self, left: &Summary, right: &Summary, sink: &mut Sink) -> Verdict {
        if left.shape != right.shape {
            let [monolith, services] = [left, right].map(|side| Some(Cow::Borrowed(shape_name(side.shape))));
            sink(Finding { monolith, services, ..self.finding(Kind::Shape) });
            return Verdict::Different;
        }
        let mut found = 0;
        let mut sink = |finding: Finding| {
            found += 1;
            sink(finding);
        };
        if right.shape != Shape::Opaque {
            self.check_order(right, &mut sink);
        }
        let mut expected = BTreeSet::new();
        expected.extend(self.route.collection().filter(|_| left.given_ids > 0).map(Expected::GivenId));
        expected.extend((left.disorder.is_some()).then_some(Expected::Order));
        let mut unproven = 0;
        if !left.is_equal_to(right) {
            // If the monolith's text is what JavaScript sends, all differences are in spelling, and each was looked up.
            let is_javascript = left.digits + left.keys == 0 && left.is_equal_in_javascript(right);
            if is_javascript && right.other_spelling == 0 {
                unproven = right.unknown_spelling;
                expected.extend((right.digits > 0).then_some(Expected::Digits));
                expected.extend((right.keys > 0).then_some(Expected::IntegerKeys));
            } else {
                let naming = self.name_differences(left, right, &mut sink);
                unproven = naming.unproven;
                expected.extend((naming.proven > 0).then_some(Expected::Digits));
            }
        }
        if found > 0 {
            return Verdict::Different;
        }
        if unproven > 0 {
            let why = format!(
                "{unproven} {} numbers or keys that JavaScript spells differently, and only the source can show whether \
                 the services are right: name it with --data DIR or --input FILE",
                agree(unproven, "record has", "records have")
            );
            return Verdict::Unknown(why);
        }
        Verdict::Alike(expected)
    }

    fn check_order(&self, right: &Summary, sink: &mut Sink) {
        if right.without_id > 0 {
            let (count, have) = (right.without_id, agree(right.without_id, "has", "have"));
            let records = agree(count, "record", "records");
            let note = Some(Cow::Owned(format!("{count} {records} from the services {have} no id")));
            sink(Finding { note, ..self.finding(Kind::NoId) });
        } else if let Some((before, id)) = right.disorder {
            let (kind, note) = if before == id {
                (Kind::Repeated, "the services send this record more than once".to_owned())
            } else {
                let text = self.route.collection().and_then(|of| self.context.reference.text_of(of, before));
                let before = text.map_or_else(|| before.to_string(), |text| format!("{text:?}"));
                (Kind::Order, format!("the services' list is not in id order: this follows id {before}"))
            };
            sink(Finding { id: Some(id), note: Some(Cow::Owned(note)), ..self.finding(kind) });
        }
    }

    /// Names the records that differ. Asks for them again if there were too many to keep.
    fn name_differences(&self, left: &Summary, right: &Summary, sink: &mut Sink) -> Naming {
        if let (Some(left), Some(right)) = (&left.kept, &right.kept) {
            let mut named = 0;
            let naming = self.name_kept(left, right, &mut |finding| {
                named += 1;
                sink(finding);
            });
            if named + naming.proven + naming.unproven == 0 {
                // Only the beginning of a long text was kept.
                let note = Some(Cow::Borrowed("the bodies begin alike, but differ later"));
                sink(Finding { note, ..self.finding(Kind::Value) });
            }
            return naming;
        }
        let again = self.ask_again(&left.different_buckets(right));
        let note = match again {
            Err(failure) => format!("; a second request to name them failed: {failure}"),
            Ok([left, right]) => {
                let (Some(left), Some(right)) = (left.kept, right.kept) else { return Naming::default() };
                let mut named = 0;
                let naming = self.name_kept(&left, &right, &mut |finding| {
                    named += 1;
                    sink(finding);
                });
                if named > 0 {
                    return naming;
                }
                "; in a second request none differed".to_owned()
            }
        };
        let counts = format!(
            "{} {} from the monolith, {} from the services, and they differ",
            left.count,
            agree(left.count, "record", "records"),
            right.count
        );
        sink(Finding { note: Some(Cow::Owned(counts + &note)), ..self.finding(Kind::Value) });
        Naming::default()
    }

    /// Asks both sides again, and keeps the records of these buckets.
    fn ask_again(&self, buckets: &[bool]) -> Result<[Summary; 2], Failure> {
        let budget = SECOND_WINDOW.max(if self.room > ROOM { self.room + ROOM } else { 0 });
        let Sides { monolith, services, .. } = &self.context.sides;
        let ask = |side: &Endpoint, buckets: Vec<bool>| {
            let reply = side.get(self.path)?;
            let status = reply.status;
            let (_, summary) = self.read_keeping(side, reply, Keep::Buckets(buckets, budget))?;
            summary.ok_or_else(|| Failure::new(FailureKind::NoAnswer, format!("status {status} from {}", side.name)))
        };
        let mut left = ask(monolith, buckets.to_vec())?;
        let right = ask(services, left.kept_buckets.clone())?;
        // Drops the buckets for which the other side had no room.
        let both = |id: &u64| right.kept_buckets.get((id % BUCKETS) as usize).is_none_or(|kept| *kept);
        left.kept.iter_mut().for_each(|kept| kept.retain(|id, _| both(id)));
        Ok([left, right])
    }

    fn name_kept(&self, left: &BTreeMap<u64, Vec<Kept>>, right: &BTreeMap<u64, Vec<Kept>>, sink: &mut Sink) -> Naming {
        let mut naming = Naming::default();
        let mut pairs: Vec<Pair> = Vec::new();
        let ids: BTreeSet<u64> = left.keys().chain(right.keys()).copied().collect();
        for id in ids {
            let [ours, theirs] = [left, right].map(|side| side.get(&id).map_or(&[][..], Vec::as_slice));
            for nth in 0..ours.len().max(theirs.len()) {
                let pair = Pair { id, left: ours.get(nth), right: theirs.get(nth), is_first: nth == 0 };
                match pair.difference_in_spelling() {
                    Some(Spelling::OfTheSource) => naming.proven += 1,
                    Some(Spelling::Unknown) => naming.unproven += 1,
                    Some(Spelling::Other) => pairs.push(pair),
                    None if pair.is_equal() => {}
                    None => pairs.push(pair),
                }
            }
        }
        // A record with another id is one difference, not two.
        let mut moved: HashMap<&[u8], usize> = HashMap::new();
        for (nth, pair) in pairs.iter().enumerate() {
            if let Some(theirs) = pair.right.filter(|record| record.json.starts_with(b"{")) {
                moved.entry(tail_of(&theirs.json)).or_insert(nth);
            }
        }
        let (mut named, mut arrived) = (0, BTreeSet::new());
        for (nth, pair) in pairs.iter().enumerate() {
            let to = pair.left.and_then(|ours| moved.get(tail_of(&ours.json))).copied();
            let Some(to) = to.filter(|to| pairs[*to].id != pair.id) else { continue };
            arrived.extend([nth, to]);
            named += 1;
            if named <= NAMED {
                let note = match pairs[to].id {
                    0 => "the services give the record no id".to_owned(),
                    id => {
                        let text = self.route.collection().and_then(|of| self.context.reference.text_of(of, id));
                        let id = text.map_or_else(|| id.to_string(), |text| format!("{text:?}"));
                        format!("the services give the record the id {id}")
                    }
                };
                let [monolith, services] =
                    [pair.left, pairs[to].right].map(|side| side.map(|kept| String::from_utf8_lossy(&kept.json)));
                let (id, note) = (Some(pair.id).filter(|id| *id > 0), Some(Cow::Owned(note)));
                sink(Finding { id, note, monolith, services, ..self.finding(Kind::Id) });
            }
        }
        let mut nth = 0..;
        pairs.retain(|_| !nth.next().is_some_and(|nth| arrived.contains(&nth)));
        join_changed(&mut pairs);
        for pair in &pairs {
            named += 1;
            if named <= NAMED {
                pair.name(self, sink);
            }
        }
        naming
    }
}

/// The numbers of records that differ in spelling only.
#[derive(Default)]
struct Naming {
    /// The services have the source's spelling.
    proven: u64,
    /// The source's spelling is not known.
    unproven: u64,
}

/// Pairs changed records. A monolith's record without an id gets none if the source does not have it in the same words. If
/// the services have as many records without a counterpart, pairs them in order.
fn join_changed(pairs: &mut Vec<Pair>) {
    let is_changed = |pair: &Pair| pair.id == 0 && pair.right.is_none();
    let changed: Vec<Option<&Kept>> = pairs.iter().filter(|pair| is_changed(pair)).map(|pair| pair.left).collect();
    if changed.len() == pairs.iter().filter(|pair| pair.left.is_none()).count() {
        pairs.retain(|pair| !is_changed(pair));
        pairs.iter_mut().filter(|pair| pair.left.is_none()).zip(changed).for_each(|(pair, left)| pair.left = left);
    }
}

/// The records of both sides under one id.
struct Pair<'k> {
    id: u64,
    left: Option<&'k Kept>,
    right: Option<&'k Kept>,
    is_first: bool,
}

impl Pair<'_> {
    fn is_equal(&self) -> bool {
        matches!((self.left, self.right), (Some(left), Some(right)) if left.json == right.json)
    }

    /// Returns the origin of the services' spelling, if only the spelling differs.
    fn difference_in_spelling(&self) -> Option<Spelling> {
        let (left, right) = (self.left?, self.right?);
        if left.json == right.json {
            return None;
        }
        let own = respell(&right.json)?;
        let sent = respell(&left.json);
        // The monolith's text must be as JavaScript sends it; there, an id that the split gave may be in another place.
        let is_sent = sent.as_ref().map_or(&left.json, |sent| &sent.text) == &own.text;
        let is_javascript = sent.is_none_or(|sent| !sent.digits);
        (is_sent && is_javascript).then(|| right.spelling.unwrap_or(Spelling::Other))
    }

    fn name(&self, comparison: &Comparison, sink: &mut Sink) {
        let id = Some(self.id).filter(|id| *id > 0);
        match (self.left, self.right) {
            (Some(left), Some(right)) if self.difference_in_spelling() == Some(Spelling::Other) => {
                let place = deepest(left, right);
                sink(Finding {
                    id,
                    note: Some(Cow::Borrowed("the services' spelling is not the source's")),
                    pointer: Some(Cow::Owned(place.pointer)),
                    monolith: place.left,
                    services: place.right,
                    ..comparison.finding(Kind::Digits)
                });
            }
            (Some(left), Some(right)) => {
                let place = deepest(left, right);
                let kind = if place.is_spelling { Kind::Spelling } else { Kind::Value };
                let note = place.is_spelling.then_some(Cow::Borrowed("the bodies differ, though they mean the same"));
                let pointer = Some(Cow::Owned(place.pointer));
                let (monolith, services) = (place.left, place.right);
                sink(Finding { id, note, pointer, monolith, services, ..comparison.finding(kind) });
            }
            (Some(left), None) => {
                sink(Finding {
                    id,
                    monolith: Some(String::from_utf8_lossy(&left.json)),
                    ..comparison.finding(Kind::Missing)
                });
            }
            (None, Some(right)) => {
                let kind = if self.is_first { Kind::Added } else { Kind::Repeated };
                sink(Finding { id, services: Some(String::from_utf8_lossy(&right.json)), ..comparison.finding(kind) });
            }
            (None, None) => {}
        }
    }
}

/// The first place where two records differ.
struct Place<'k> {
    pointer: String,
    left: Option<Cow<'k, str>>,
    right: Option<Cow<'k, str>>,
    /// Whether the values mean the same.
    is_spelling: bool,
}

fn deepest<'k>(left: &'k Kept, right: &'k Kept) -> Place<'k> {
    let [left, right] = [left, right].map(|side| String::from_utf8_lossy(&side.json));
    let mut place = Place { pointer: String::new(), left: None, right: None, is_spelling: false };
    let (Cow::Borrowed(ours), Cow::Borrowed(theirs)) = (&left, &right) else {
        return Place { left: Some(left), right: Some(right), ..place };
    };
    let (mut ours, mut theirs) = (*ours, *theirs);
    loop {
        match step(ours, theirs) {
            Step::Down(key, left, right) => {
                record::json::push_pointer(&mut place.pointer, &key);
                (ours, theirs) = (left, right);
            }
            Step::Missing(key, left, right) => {
                record::json::push_pointer(&mut place.pointer, &key);
                return Place { left: left.map(Cow::Borrowed), right: right.map(Cow::Borrowed), ..place };
            }
            Step::Here { is_spelling } => {
                return Place {
                    left: Some(Cow::Borrowed(ours)),
                    right: Some(Cow::Borrowed(theirs)),
                    is_spelling,
                    ..place
                };
            }
        }
    }
}

enum Step<'k> {
    /// Both have this key, with different values.
    Down(String, &'k str, &'k str),
    /// Only one side has this key.
    Missing(String, Option<&'k str>, Option<&'k str>),
    /// The values differ as a whole.
    Here { is_spelling: bool },
}

fn step<'k>(left: &'k str, right: &'k str) -> Step<'k> {
    // Checks brackets and lengths first: the parser's error would copy a long text.
    let both_are = |bracket| left.starts_with(bracket) && right.starts_with(bracket);
    let members = |json| both_are('{').then(|| serde_json::from_str::<Members>(json).ok()).flatten();
    let elements = |json| both_are('[').then(|| serde_json::from_str::<Vec<&RawValue>>(json).ok()).flatten();
    let string = |json: &str| {
        let is_short = json.len() < ROOM && both_are('"');
        is_short.then(|| serde_json::from_str::<String>(json).ok()).flatten()
    };
    if let (Some(ours), Some(theirs)) = (members(left), members(right)) {
        let value_in = |members: &Members<'k>, key: &str| {
            members.0.iter().find(|(other, _)| other == key).map(|(_, value)| value.get())
        };
        for (key, value) in &ours.0 {
            match value_in(&theirs, key) {
                None => return Step::Missing(key.clone().into_owned(), Some(value.get()), None),
                Some(other) if other != value.get() => {
                    return Step::Down(key.clone().into_owned(), value.get(), other);
                }
                Some(_) => {}
            }
        }
        let more = theirs.0.iter().find(|(key, _)| value_in(&ours, key).is_none());
        return match more {
            Some((key, value)) => Step::Missing(key.clone().into_owned(), None, Some(value.get())),
            None => Step::Here { is_spelling: true },
        };
    }
    if let (Some(ours), Some(theirs)) = (elements(left), elements(right))
        && ours.len() == theirs.len()
    {
        let differs = ours.iter().zip(&theirs).enumerate().find(|(_, (left, right))| left.get() != right.get());
        return match differs {
            Some((nth, (left, right))) => Step::Down(nth.to_string(), left.get(), right.get()),
            None => Step::Here { is_spelling: true },
        };
    }
    Step::Here { is_spelling: string(left).zip(string(right)).is_some_and(|(left, right)| left == right) }
}

/// The members of an object, with unparsed values.
struct Members<'j>(Vec<(Cow<'j, str>, &'j RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// The status and headers of an answer.
struct Head {
    status: u16,
    content_type: String,
    location: Option<String>,
}

impl Head {
    fn split(reply: Reply) -> (Self, super::client::Body) {
        let Reply { status, content_type, location, body } = reply;
        (Self { status, content_type, location }, body)
    }

    /// Returns the head of an answer, and discards the body.
    fn of(reply: Reply) -> Self {
        let (head, body) = Self::split(reply);
        body.drain();
        head
    }

    fn status_text(&self) -> String {
        let to = self.location.as_ref().map(|to| format!(" (to {to})")).unwrap_or_default();
        format!("{}{to}", self.status)
    }
}

/// Returns the reason why an answer of the monolith proves nothing, if it does not.
fn proves_nothing(reply: &Reply) -> Option<String> {
    let status = reply.status;
    match status {
        300..=399 => {
            let to = reply.location.as_deref().unwrap_or("nowhere");
            Some(format!("the monolith redirects to {to} (status {status})"))
        }
        401 | 403 | 407 => Some(format!("the monolith refuses the request (status {status}); --header may let it in")),
        408 | 425 | 429 => Some(format!("the monolith refuses the request (status {status}); --rate asks more slowly")),
        500.. => Some(format!("the monolith failed (status {status})")),
        _ => None,
    }
}

/// Returns the meaning of a `Content-Type`, without case, quotes and the order of parameters.
fn media_type(value: &str) -> (String, BTreeSet<(String, String)>) {
    let mut parts = value.split(';');
    let kind = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let parameters = parts.filter(|part| !part.trim().is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim().trim_matches('"');
        let value = if name == "charset" { value.to_ascii_lowercase() } else { value.to_owned() };
        (name, value)
    });
    (kind, parameters.collect())
}

fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::List => "a list",
        Shape::One => "an object",
        Shape::Opaque => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_compared_by_its_meaning() {
        let same = [
            "application/json; charset=utf-8",
            "Application/JSON;charset=\"UTF-8\" ; ",
            "application/json ; CHARSET=Utf-8",
        ];
        for other in same {
            assert_eq!(media_type(other), media_type(same[0]), "{other}");
        }
        for other in ["application/json", "text/json; charset=utf-8", "application/json; charset=latin1", ""] {
            assert_ne!(media_type(other), media_type(same[0]), "{other}");
        }
    }

    #[test]
    fn a_difference_is_named_at_its_deepest_place() {
        for (left, right, pointer, ours, theirs, is_spelling) in [
            (r#"{"a":1,"b":{"c/d":[1,2]}}"#, r#"{"a":1,"b":{"c/d":[1,3]}}"#, "/b/c~1d/1", Some("2"), Some("3"), false),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, "/b", None, Some("2"), false),
            (r#"{"a":1,"b":2}"#, r#"{"b":2}"#, "/a", Some("1"), None, false),
            (r#"{"a":[1]}"#, r#"{"a":[1,2]}"#, "/a", Some("[1]"), Some("[1,2]"), false),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, "", Some(r#"{"a":1,"b":2}"#), Some(r#"{"b":2,"a":1}"#), true),
            (r#"{"a":"é"}"#, r#"{"a":"\u00e9"}"#, "/a", Some(r#""é""#), Some(r#""\u00e9""#), true),
            ("text", "other", "", Some("text"), Some("other"), false),
        ] {
            let [left, right] = [left, right].map(|json| Kept { json: json.as_bytes().to_vec(), spelling: None });
            let place = deepest(&left, &right);
            let found = (&*place.pointer, place.left.as_deref(), place.right.as_deref(), place.is_spelling);
            assert_eq!(found, (pointer, ours, theirs, is_spelling));
        }
    }
}
