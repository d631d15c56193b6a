//! Sums up an answer of any length in constant memory.
//!
//! Each record is an element of a set, by its id and the bytes after it. There is one set for each remainder of the ids, so
//! that two different answers show where to look. Each set exists twice: for the records as sent, and for the records as
//! JavaScript rewrites them.

use std::collections::{BTreeMap, HashMap};

use record::declaration::{IdRule, read_id_text};
use record::id::Id;
use record::record_set::RecordSet;
use roaring::RoaringTreemap;
use sha2::{Digest, Sha256};

use super::client::{Body, Failure};
use super::elements::{Elements, Shape};
use super::javascript::respell;
use super::reference::{Reference, Spelling};
use super::route::{Route, key_of};

/// The number of sets for an answer.
pub const BUCKETS: u64 = 1024;

/// The size of an answer whose records are kept, in bytes. Most are shorter, and are asked for only once.
pub const WINDOW: usize = 128 << 10;

/// The size of the differing records that are kept of a second answer, in bytes.
pub const SECOND_WINDOW: usize = 4 << 20;

/// The memory of a kept record beside its text, in bytes.
const OVERHEAD: usize = 96;

/// The settings for reading an answer.
pub struct Lens<'r> {
    /// The route; if it does not send records, only the answer's bytes count.
    pub route: Route,
    /// The id in the path.
    pub id: Option<u64>,
    /// Whether the answer is the monolith's: its records get the ids that they should have.
    pub is_monolith: bool,
    /// The source.
    pub reference: &'r Reference,
    /// The greatest length of a record, in bytes.
    pub room: usize,
    /// The records to keep.
    pub keep: Keep,
}

/// The records of an answer to keep.
pub enum Keep {
    /// All records, if they fit into [`WINDOW`].
    Window,
    /// The records of these buckets, if they fit into this number of bytes.
    Buckets(Vec<bool>, usize),
}

/// The sets of one bucket.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    sent: RecordSet,
    javascript: RecordSet,
}

/// A record that was kept.
pub struct Kept {
    /// The record, with the id that it should have.
    pub json: Vec<u8>,
    /// The origin of the spelling, if JavaScript has another.
    pub spelling: Option<Spelling>,
}

/// The summary of an answer.
pub struct Summary {
    /// A list, a record or something else.
    pub shape: Shape,
    /// The number of records.
    pub count: u64,
    /// The number of bytes.
    pub bytes: u64,
    /// The buckets that have records: most answers are short.
    buckets: BTreeMap<u64, Sums>,
    /// The ids of the first two neighbours that are not in ascending order.
    pub disorder: Option<(u64, u64)>,
    /// The number of records without an id.
    pub without_id: u64,
    /// The number of records that do not belong to the path.
    pub strangers: u64,
    /// The number of records that were given the id that they should have.
    pub given_ids: u64,
    /// The number of records with numbers that JavaScript spells differently.
    pub digits: u64,
    /// The number of records with keys that JavaScript orders differently.
    pub keys: u64,
    /// The number of such records whose spelling is not the source's.
    pub other_spelling: u64,
    /// The number of such records whose spelling in the source is unknown.
    pub unknown_spelling: u64,
    /// The records by their ids, in the order of arrival; `None` if there were too many.
    pub kept: Option<BTreeMap<u64, Vec<Kept>>>,
    /// The requested buckets whose records fitted.
    pub kept_buckets: Vec<bool>,
    /// The ids of the records.
    pub ids: RoaringTreemap,
}

impl Summary {
    /// Sums up a body.
    ///
    /// # Errors
    /// The body cannot be read to its end, or begins as JSON but is malformed.
    pub fn of(body: Body, lens: Lens) -> Result<Self, Failure> {
        let mut elements = Elements::new(body, lens.room)?;
        let shape = if lens.route.collection().is_some() { elements.shape() } else { Shape::Opaque };
        let mut summary = Self {
            shape,
            count: 0,
            bytes: 0,
            buckets: BTreeMap::new(),
            disorder: None,
            without_id: 0,
            strangers: 0,
            given_ids: 0,
            digits: 0,
            keys: 0,
            other_spelling: 0,
            unknown_spelling: 0,
            kept: Some(BTreeMap::new()),
            kept_buckets: Vec::new(),
            ids: RoaringTreemap::new(),
        };
        if shape == Shape::Opaque {
            summary.add_opaque(&mut elements)?;
            return Ok(summary);
        }
        let mut adder = Adder { lens, repeated: HashMap::new(), last: None, kept_bytes: 0 };
        while let Some(json) = elements.read_next()? {
            adder.add(json, &mut summary);
        }
        if let Keep::Buckets(kept, _) = adder.lens.keep {
            summary.kept_buckets = kept;
        }
        Ok(summary)
    }

    /// Adds a body as mere bytes.
    fn add_opaque(&mut self, elements: &mut Elements) -> Result<(), Failure> {
        let (mut hash, mut begin) = (Sha256::new(), Vec::new());
        elements.take_as_bytes();
        while let Some(piece) = elements.read_next()? {
            self.bytes += piece.len() as u64;
            hash.update(piece);
            begin.extend_from_slice(&piece[..piece.len().min(WINDOW - begin.len())]);
        }
        self.count = 1;
        let sums = self.buckets.entry(0).or_default();
        sums.sent.add(hash.clone());
        sums.javascript.add(hash);
        self.kept = Some(BTreeMap::from([(0, vec![Kept { json: begin, spelling: None }])]));
        Ok(())
    }

    /// Returns whether both have the same records, byte for byte.
    pub fn is_equal_to(&self, other: &Self) -> bool {
        self.is_equal_in(other, |sums| sums.sent)
    }

    /// Returns whether both have the same records after JavaScript has rewritten them.
    pub fn is_equal_in_javascript(&self, other: &Self) -> bool {
        self.is_equal_in(other, |sums| sums.javascript)
    }

    fn is_equal_in(&self, other: &Self, set: fn(&Sums) -> RecordSet) -> bool {
        let sets = |side: &Self| side.buckets.iter().map(|(bucket, sums)| (*bucket, set(sums))).collect::<Vec<_>>();
        self.shape == other.shape && sets(self) == sets(other)
    }

    /// Returns the buckets in which two lists differ.
    pub fn different_buckets(&self, other: &Self) -> Vec<bool> {
        let sent = |side: &Self, bucket| side.buckets.get(&bucket).map(|sums| sums.sent);
        (0..BUCKETS).map(|bucket| sent(self, bucket) != sent(other, bucket)).collect()
    }
}

/// The state of adding records to a summary.
struct Adder<'r> {
    lens: Lens<'r>,
    /// The numbers of equal records without ids so far, by the first of their given ids.
    repeated: HashMap<u64, usize>,
    /// The previous id and its place.
    last: Option<(u64, u64)>,
    kept_bytes: usize,
}

impl Adder<'_> {
    fn add(&mut self, json: &[u8], summary: &mut Summary) {
        let own = respell(json);
        let rule = self.lens.route.collection().map(|collection| collection.declaration().ids);
        let record = Record::read(json, rule);
        let sent = own.as_ref().map_or(json, |own| &own.text);
        let (id, form) = match record.id.or_else(|| self.id_given_to(sent)) {
            Some(given) if record.id.is_none() => {
                summary.given_ids += 1;
                (given, WITH_FIRST_ID)
            }
            id => (id.unwrap_or_default(), record.form),
        };
        summary.count += 1;
        summary.bytes += json.len() as u64;
        summary.strangers += u64::from(self.lens.is_monolith && !self.belongs(id, json));
        if id == 0 {
            summary.without_id += 1;
        } else {
            summary.ids.insert(id);
        }
        let collection = self.lens.route.collection();
        let place = collection.map_or(Some(id), |collection| self.lens.reference.place_of(collection, id));
        if let Some(place) = place {
            if let Some((last, _)) = self.last.filter(|(_, last)| place <= *last) {
                summary.disorder.get_or_insert((last, id));
            }
            self.last = Some((id, place));
        }

        let bucket = id % BUCKETS;
        let sums = summary.buckets.entry(bucket).or_default();
        let mut one = RecordSet::default();
        one.add(hash(id, form, record.tail));
        sums.sent.merge(&one);
        let mut spelling = None;
        match &own {
            // JavaScript puts an array index before the id that the record should have.
            None if form == record.form || !record.begins_with_index() => sums.javascript.merge(&one),
            None => sums.javascript.add(javascript_hash(&whole(id, form, record.tail), rule)),
            Some(own) => {
                summary.digits += u64::from(own.digits);
                summary.keys += u64::from(own.keys);
                sums.javascript.add(javascript_hash(&whole(id, form, record.tail), rule));
                if let (Some(collection), false) = (self.lens.route.collection(), self.lens.is_monolith) {
                    let found = self.lens.reference.spelling_of(collection, id, json);
                    spelling = Some(found);
                    summary.other_spelling += u64::from(found == Spelling::Other);
                    summary.unknown_spelling += u64::from(found == Spelling::Unknown);
                }
            }
        }
        self.keep(bucket as usize, id, form, record.tail, spelling, summary);
    }

    /// Returns whether a record belongs to the path.
    fn belongs(&self, id: u64, json: &[u8]) -> bool {
        let Some(wanted) = self.lens.id else { return true };
        let Some(index) = self.lens.route.index() else { return id == wanted };
        let mut members = std::str::from_utf8(json).into_iter().flat_map(record::json::members);
        let is_wanted = |value| read_id_text(value).is_some_and(|text| key_of(&text) == wanted);
        members.any(|(other, value)| *other == *index.field && is_wanted(value))
    }

    /// Returns the id that the split gave to a record that the monolith `sent` without one.
    fn id_given_to(&mut self, sent: &[u8]) -> Option<u64> {
        let collection = self.lens.route.collection().filter(|_| self.lens.is_monolith)?;
        match self.lens.reference.given_ids(collection, sent) {
            [] => None,
            [(_, id)] => Some(*id),
            many => {
                let nth = self.repeated.entry(many[0].1).or_default();
                *nth += 1;
                many.get(*nth - 1).map(|(_, id)| *id)
            }
        }
    }

    fn keep(
        &mut self,
        bucket: usize,
        id: u64,
        form: u8,
        tail: &[u8],
        spelling: Option<Spelling>,
        summary: &mut Summary,
    ) {
        let Some(kept) = &mut summary.kept else { return };
        let bytes = tail.len() + OVERHEAD;
        match &mut self.lens.keep {
            Keep::Window => {
                self.kept_bytes += bytes;
                if self.kept_bytes > WINDOW {
                    summary.kept = None;
                    return;
                }
            }
            Keep::Buckets(wanted, budget) => {
                if !wanted[bucket] {
                    return;
                }
                // To make room, drops whole buckets, the last first; a single bucket stays, incomplete.
                while self.kept_bytes + bytes > *budget {
                    let filled = |id: &u64| (*id % BUCKETS) as usize;
                    let last = kept.keys().map(filled).max().unwrap_or_default().max(bucket);
                    if kept.keys().all(|id| filled(id) == bucket) {
                        return;
                    }
                    wanted[last] = false;
                    kept.retain(|id, records| {
                        let gone = filled(id) == last;
                        let size = |record: &Kept| tail_of(&record.json).len() + OVERHEAD;
                        self.kept_bytes -= if gone { records.iter().map(size).sum() } else { 0 };
                        !gone
                    });
                    if last == bucket {
                        return;
                    }
                }
                self.kept_bytes += bytes;
            }
        }
        kept.entry(id).or_default().push(Kept { json: whole(id, form, tail), spelling });
    }
}

/// An object whose id, if any, is not its first member.
const OBJECT: u8 = 0;
/// An object whose first member is its id.
const WITH_FIRST_ID: u8 = 1;
/// Not an object.
const NO_OBJECT: u8 = 2;

/// A record, split at its id.
struct Record<'j> {
    id: Option<u64>,
    form: u8,
    /// The text after the brace, or after an id that is the first member and its comma.
    tail: &'j [u8],
}

impl<'j> Record<'j> {
    /// Splits a record; `rule` says what kind of id it has.
    fn read(json: &'j [u8], rule: Option<IdRule>) -> Self {
        let Some(tail) = json.strip_prefix(b"{") else { return Self { id: None, form: NO_OBJECT, tail: json } };
        if rule == Some(IdRule::Single) {
            return Self { id: Some(Id::FIRST.get()), form: OBJECT, tail };
        }
        let first = tail.strip_prefix(b"\"id\":").and_then(|value| {
            let digits = value.iter().position(|byte| !byte.is_ascii_digit())?;
            let id = std::str::from_utf8(&value[..digits]).ok()?.parse::<Id>().ok()?;
            let rest = &value[digits..];
            // A comma must precede a member: `{"id":1,}` is not `{"id":1}`.
            let tail = rest.strip_prefix(b",").filter(|tail| tail.starts_with(b"\""));
            Some((id.get(), tail.or_else(|| Some(rest).filter(|rest| *rest == b"}"))?))
        });
        if let Some((id, tail)) = first {
            return Self { id: Some(id), form: WITH_FIRST_ID, tail };
        }
        let id = memchr::memmem::find(json, b"\"id\":").and_then(|_| {
            let (_, value) = record::json::members(std::str::from_utf8(json).ok()?).find(|(key, _)| *key == "id")?;
            if rule == Some(IdRule::Text) {
                return read_id_text(value).map(|text| key_of(&text));
            }
            value.parse::<Id>().ok().map(Id::get)
        });
        Self { id, form: OBJECT, tail }
    }

    /// Returns whether the first member may be an array index.
    fn begins_with_index(&self) -> bool {
        self.tail.get(1).is_some_and(u8::is_ascii_digit)
    }
}

/// Returns a record without an id that is its first member.
pub fn tail_of(json: &[u8]) -> &[u8] {
    Record::read(json, None).tail
}

/// Returns the record as it is sent, with its id in its place.
fn whole(id: u64, form: u8, tail: &[u8]) -> Vec<u8> {
    let begin = match form {
        NO_OBJECT => String::new(),
        WITH_FIRST_ID if tail == b"}" => format!("{{\"id\":{id}"),
        WITH_FIRST_ID => format!("{{\"id\":{id},"),
        _ => "{".to_owned(),
    };
    // Allocates the exact size, since a record may be long.
    let mut json = Vec::with_capacity(begin.len() + tail.len());
    json.extend_from_slice(begin.as_bytes());
    json.extend_from_slice(tail);
    json
}

fn hash(id: u64, form: u8, tail: &[u8]) -> Sha256 {
    Sha256::new().chain_update(id.to_be_bytes()).chain_update([form]).chain_update(tail)
}

/// Returns the hash of a record as JavaScript rewrites it.
fn javascript_hash(json: &[u8], rule: Option<IdRule>) -> Sha256 {
    let own = respell(json);
    let record = Record::read(own.as_ref().map_or(json, |own| &own.text), rule);
    hash(record.id.unwrap_or_default(), record.form, record.tail)
}
