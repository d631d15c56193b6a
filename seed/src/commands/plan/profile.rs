//! What was seen of the records of a file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use record::declaration::{Shape, USERNAME_CHARACTERS, read_id_text};
use record::id::Id;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// How many different values of a field are looked at, to tell whether they are all different, or ids.
const DISTINCT: usize = 1 << 20;

/// What was seen of a collection's records.
#[derive(Default)]
pub(super) struct Profile {
    pub(super) records: u64,
    pub(super) is_single: bool,
    /// How many have an integer for an id, a text, none, or something else.
    pub(super) integer_ids: u64,
    pub(super) text_ids: u64,
    pub(super) no_ids: u64,
    pub(super) other_ids: u64,
    pub(super) ids: HashSet<u64>,
    pub(super) repeats_ids: bool,
    /// By name, in the order in which they were met.
    pub(super) fields: Vec<(String, Values)>,
    pub(super) places: BTreeMap<String, usize>,
}

/// What was seen of a field's values.
#[derive(Default)]
pub(super) struct Values {
    pub(super) present: u64,
    pub(super) nulls: u64,
    pub(super) texts: u64,
    pub(super) integers: u64,
    pub(super) numbers: u64,
    pub(super) booleans: u64,
    pub(super) nested: u64,
    pub(super) most_characters: usize,
    pub(super) most_bytes: usize,
    pub(super) breaks_lines: bool,
    pub(super) is_username: bool,
    pub(super) distinct: HashSet<u64>,
    pub(super) repeats: bool,
}

thread_local! {
    static HASHER: RandomState = RandomState::new();
}

fn hash(text: &str) -> u64 {
    HASHER.with(|hasher| hasher.hash_one(text))
}

impl Profile {
    pub(super) fn look_at(&mut self, record: &Record) {
        self.records += 1;
        match record.values.get("id") {
            None => self.no_ids += 1,
            Some(id) => {
                let text = id.to_string();
                match id {
                    Value::Number(_) if text.parse::<Id>().is_ok() => self.integer_ids += 1,
                    _ if read_id_text(&text).is_some() => self.text_ids += 1,
                    _ => self.other_ids += 1,
                }
                if let Some(text) = read_id_text(&text) {
                    self.repeats_ids |= !self.ids.insert(hash(&text));
                }
            }
        }
        for name in record.names.iter().filter(|name| *name != "id") {
            let place = *self.places.entry(name.clone()).or_insert_with(|| {
                self.fields.push((name.clone(), Values { is_username: true, ..Values::default() }));
                self.fields.len() - 1
            });
            self.fields[place].1.look_at(&record.values[name]);
        }
    }
}

impl Values {
    pub(super) fn look_at(&mut self, value: &Value) {
        self.present += 1;
        match value {
            Value::Null => self.nulls += 1,
            Value::Bool(_) => self.booleans += 1,
            Value::Number(_) if value.to_string().parse::<Id>().is_ok() => self.integers += 1,
            Value::Number(_) => self.numbers += 1,
            Value::Array(_) | Value::Object(_) => self.nested += 1,
            Value::String(text) => {
                self.texts += 1;
                self.most_characters = self.most_characters.max(text.chars().count());
                self.most_bytes = self.most_bytes.max(text.len());
                self.breaks_lines |= text.contains(|c: char| c.is_control() || "\u{2028}\u{2029}".contains(c));
                let is_known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                self.is_username &= (1..=USERNAME_CHARACTERS).contains(&text.len())
                    && text.chars().all(is_known)
                    && !text.starts_with(['.', '-']);
            }
        }
        if let Some(text) = read_id_text(&value.to_string())
            && self.distinct.len() < DISTINCT
        {
            self.repeats |= !self.distinct.insert(hash(&text));
        }
    }

    /// How many values are neither null nor absent.
    pub(super) fn count(&self) -> u64 {
        self.present - self.nulls
    }

    pub(super) fn shape(&self) -> Shape {
        let all = self.count();
        if all == 0 || self.nested > 0 {
            return Shape::Any;
        }
        if self.texts == all {
            let room = |most: usize, least: usize| (2 * most).next_power_of_two().max(least);
            return if self.breaks_lines || self.most_characters > 256 {
                Shape::Text { most: room(self.most_bytes, 4096) }
            } else {
                Shape::Line { least: 0, most: room(self.most_characters, 256) }
            };
        }
        match () {
            () if self.booleans == all => Shape::Boolean,
            () if self.integers + self.numbers == all => Shape::Number,
            () => Shape::Any,
        }
    }
}

/// A record, its members' names in the file's order.
#[derive(Default)]
pub(super) struct Record {
    pub(super) names: Vec<String>,
    pub(super) values: serde_json::Map<String, Value>,
}

impl Record {
    /// Of a name that is repeated, the last value counts.
    fn add(&mut self, name: String, value: Value) {
        if self.values.insert(name.clone(), value).is_none() {
            self.names.push(name);
        }
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut record = Record::default();
                while let Some((name, value)) = map.next_entry()? {
                    record.add(name, value);
                }
                Ok(record)
            }
        }

        deserializer.deserialize_map(Members)
    }
}
