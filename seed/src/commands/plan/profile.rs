//! Statistics of the records of a file.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use record::declaration::{USERNAME_CHARACTERS, read_id_text};
use record::id::Id;
use record::json::members;
use record::limits::RECORD_LIMIT;

/// The number of different values of a field that are remembered, to tell whether all differ, or are ids.
const DISTINCT: usize = 1 << 20;

/// Statistics of a collection's records.
#[derive(Default)]
pub(super) struct Profile {
    pub(super) records: u64,
    pub(super) is_single: bool,
    /// The number of records whose id is an integer from 1, another integer, a text, or something else.
    pub(super) integer_ids: u64,
    pub(super) odd_ids: u64,
    pub(super) text_ids: u64,
    pub(super) other_ids: u64,
    /// The positions, from 1, of records without an id.
    pub(super) without_id: Vec<u64>,
    ids: HashSet<u64>,
    pub(super) repeats_ids: bool,
    /// The number of records that are longer than a service lets a client write.
    pub(super) long: u64,
    /// The fields by name, as JSON has it between quotes, in the order of their first appearance.
    pub(super) fields: Vec<(String, Values)>,
    places: HashMap<String, usize>,
}

/// Statistics of a field's values.
#[derive(Default)]
pub(super) struct Values {
    present: u64,
    nulls: u64,
    pub(super) texts: u64,
    /// Integers that can be ids, and other numbers.
    pub(super) integers: u64,
    pub(super) numbers: u64,
    pub(super) booleans: u64,
    pub(super) nested: u64,
    /// Texts and integers that can be ids if ids are texts; and texts that are the digits of an id.
    pub(super) id_texts: u64,
    pub(super) digits: u64,
    pub(super) most_characters: usize,
    pub(super) most_bytes: usize,
    pub(super) breaks_lines: bool,
    /// Whether any text is not a username.
    pub(super) is_free: bool,
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
    /// Adds the next record, which is canonical JSON.
    pub(super) fn look_at(&mut self, record: &str) {
        self.records += 1;
        self.long += u64::from(record.len() > RECORD_LIMIT);
        let mut has_id = false;
        for (name, value) in members(record) {
            if name == "id" {
                has_id = true;
                self.look_at_id(value);
                continue;
            }
            let place = *self.places.entry(name.to_owned()).or_insert_with(|| {
                self.fields.push((name.to_owned(), Values::default()));
                self.fields.len() - 1
            });
            self.fields[place].1.look_at(value);
        }
        if !has_id {
            self.without_id.push(self.records);
        }
    }

    fn look_at_id(&mut self, value: &str) {
        let text = read_id_text(value);
        match &text {
            None => self.other_ids += 1,
            Some(_) if value.starts_with('"') => self.text_ids += 1,
            Some(_) if value.parse::<Id>().is_ok() => self.integer_ids += 1,
            Some(_) => self.odd_ids += 1,
        }
        if let Some(text) = text {
            self.repeats_ids |= !self.ids.insert(hash(&text));
        }
    }

    /// Returns whether the ids have to be texts.
    pub(super) fn has_text_ids(&self) -> bool {
        self.text_ids + self.odd_ids > 0
    }

    /// Returns the positions of records without an id that are the ids of other records.
    pub(super) fn taken_positions(&self) -> impl Iterator<Item = u64> {
        let is_taken = |position: &u64| self.ids.contains(&hash(&position.to_string()));
        self.without_id.iter().copied().filter(is_taken)
    }

    /// Counts the different values of a field that are ids here, or positions of records without an id.
    pub(super) fn known(&self, values: &Values) -> usize {
        let by_id = values.distinct.iter().filter(|value| self.ids.contains(value)).count();
        let positions = self.without_id.iter().map(|position| hash(&position.to_string()));
        by_id + positions.filter(|position| values.distinct.contains(position) && !self.ids.contains(position)).count()
    }
}

impl Values {
    /// Adds the next value, which is canonical JSON.
    pub(super) fn look_at(&mut self, value: &str) {
        self.present += 1;
        match value.as_bytes()[0] {
            b'n' => self.nulls += 1,
            b't' | b'f' => self.booleans += 1,
            b'[' | b'{' => self.nested += 1,
            b'"' => self.look_at_text(&serde_json::from_str::<String>(value).expect("a canonical text is JSON")),
            _ if value.parse::<Id>().is_ok() => self.integers += 1,
            _ => self.numbers += 1,
        }
        if let Some(text) = read_id_text(value) {
            self.id_texts += 1;
            if self.distinct.len() < DISTINCT {
                self.repeats |= !self.distinct.insert(hash(&text));
            }
        }
    }

    fn look_at_text(&mut self, text: &str) {
        self.texts += 1;
        self.digits += u64::from(text.parse::<Id>().is_ok());
        self.most_characters = self.most_characters.max(text.chars().count());
        self.most_bytes = self.most_bytes.max(text.len());
        self.breaks_lines |= text.contains(|c: char| c.is_control() || "\u{2028}\u{2029}".contains(c));
        let is_known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        self.is_free |= !(1..=USERNAME_CHARACTERS).contains(&text.len())
            || !text.chars().all(is_known)
            || text.starts_with(['.', '-']);
    }

    /// Counts the values that are neither null nor absent.
    pub(super) fn count(&self) -> u64 {
        self.present - self.nulls
    }

    /// Returns whether no two values are the same.
    pub(super) fn all_differ(&self) -> bool {
        !self.repeats && self.id_texts == self.count()
    }
}
