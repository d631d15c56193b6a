//! A first plan for any monolith: its file is read once, and what its collections seem to be is declared.
//!
//! A proposal is for a person to look at: each comes with its reasons, and says what it is unsure of.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::BufReader;
use std::path::Path;

use record::declaration::{
    Answers, Declaration, Field, IdRule, Index, IndexDeclaration, Shape, USERNAME_CHARACTERS, read_id_text,
};
use record::id::Id;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::Error;
use crate::topology::{self, PLAN};

/// How many different values of a field are looked at, to tell whether they are all different, or ids.
const DISTINCT: usize = 1 << 20;

/// Fields that mostly tell records apart, where their values do.
const UNIQUE: [&str; 8] = ["username", "email", "slug", "login", "handle", "isbn", "sku", "code"];

/// Fields that mostly name somebody, and collections of such.
const SOMEBODY: [&str; 10] =
    ["user", "author", "owner", "by", "createdby", "updatedby", "creator", "sender", "recipient", "assignee"];
const PEOPLE: [&str; 7] = ["users", "accounts", "people", "authors", "members", "profiles", "customers"];

/// The first port that is proposed.
const FIRST_PORT: u16 = 3001;

/// What a file's collections seem to be.
#[derive(Debug, Default)]
pub struct Proposal {
    /// In the file's order.
    pub collections: Vec<Proposed>,
    /// What is no collection that a service could have, and why.
    pub left_out: Vec<(String, String)>,
}

/// What one collection seems to be.
#[derive(Debug)]
pub struct Proposed {
    /// How many records were looked at.
    pub records: u64,
    /// What they seem to be.
    pub declaration: Declaration,
    /// Why it is taken for that.
    pub reasons: Vec<String>,
    /// What should be looked at.
    pub unsure: Vec<String>,
}

/// Reads the file at `input` and proposes a plan.
///
/// # Errors
/// The file cannot be read, or is no JSON object.
pub fn propose(input: &Path) -> Result<Proposal, Error> {
    let file = File::open(input).map_err(Error::io(input))?;
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 18, file));
    let read = deserializer.deserialize_map(Collections).and_then(|read| deserializer.end().map(|()| read));
    let read = read.map_err(|error| match error.is_io() {
        true => Error::io(input)(error.into()),
        false => Error::Input { file: input.to_owned(), place: "the file".to_owned(), reason: error.to_string() },
    })?;
    let mut proposal = Proposal::default();
    let mut taken: Vec<(String, Seen)> = Vec::new();
    for (name, seen) in read {
        let why_not = match &seen {
            Seen::Records(_) => topology::check_name(&name).err(),
            Seen::Other(what) => Some(format!("it holds {what}, not records")),
        };
        match why_not {
            Some(reason) => proposal.left_out.push((name, reason)),
            None => taken.push((name, seen)),
        }
    }
    let of = |(name, seen)| match seen {
        Seen::Records(looked) => Some((name, looked)),
        Seen::Other(_) => None,
    };
    let looked: Vec<(String, Looked)> = taken.into_iter().filter_map(of).collect();
    proposal.collections = looked.iter().map(|(name, of)| propose_one(name, of, &looked)).collect();
    Ok(proposal)
}

/// Writes `proposal` into the folder `output`.
///
/// # Errors
/// A file that would be written is there already, or cannot be written.
pub fn write(proposal: &Proposal, output: &Path) -> Result<(), Error> {
    let list = output.join(PLAN);
    let path_of = |proposed: &Proposed| output.join(&*proposed.declaration.name).join("collection.json");
    let paths = proposal.collections.iter().map(path_of);
    if let Some(there) = std::iter::once(list.clone()).chain(paths).find(|path| path.exists()) {
        let reason = "it is there already, and may have been edited; name another folder".to_owned();
        return Err(Error::Output { path: there, reason });
    }
    for proposed in &proposal.collections {
        let path = path_of(proposed);
        let folder = path.parent().expect("it lies in a folder");
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let json = serde_json::to_string_pretty(&proposed.declaration).expect("a declaration can be written as JSON");
        fs::write(&path, json + "\n").map_err(Error::io(&path))?;
    }
    fs::write(&list, proposal.list()).map_err(Error::io(&list))
}

impl Proposal {
    /// The list of the plan, with the reasons.
    fn list(&self) -> String {
        let mut list =
            String::from("# Proposed from a db.json: each line is a collection, and the port of its service.\n");
        let mut ports = (FIRST_PORT..).filter(|port| *port != 8080);
        for proposed in &self.collections {
            let name = &proposed.declaration.name;
            let _ = writeln!(list, "\n# {} records.", proposed.records);
            for reason in &proposed.reasons {
                let _ = writeln!(list, "# {reason}");
            }
            for unsure in &proposed.unsure {
                let _ = writeln!(list, "# Unsure: {unsure}");
            }
            let _ = writeln!(list, "{name}  {}", ports.next().unwrap_or_default());
        }
        for (name, reason) in &self.left_out {
            let _ = writeln!(list, "\n# Left out: {name:?}: {}. --rest FILE puts it aside.", reason.replace('\n', " "));
        }
        list
    }
}

/// What stands under a name.
enum Seen {
    Records(Looked),
    Other(&'static str),
}

/// What was seen of a collection's records.
#[derive(Default)]
struct Looked {
    records: u64,
    is_single: bool,
    /// How many have an integer for an id, a text, none, or something else.
    integer_ids: u64,
    text_ids: u64,
    no_ids: u64,
    other_ids: u64,
    ids: HashSet<u64>,
    repeats_ids: bool,
    /// By name, in the order in which they were met.
    fields: Vec<(String, Values)>,
    places: BTreeMap<String, usize>,
}

/// What was seen of a field's values.
#[derive(Default)]
struct Values {
    present: u64,
    nulls: u64,
    texts: u64,
    integers: u64,
    numbers: u64,
    booleans: u64,
    nested: u64,
    most_characters: usize,
    most_bytes: usize,
    breaks_lines: bool,
    is_username: bool,
    distinct: HashSet<u64>,
    repeats: bool,
}

thread_local! {
    static HASHER: RandomState = RandomState::new();
}

fn hash(text: &str) -> u64 {
    HASHER.with(|hasher| hasher.hash_one(text))
}

impl Looked {
    fn look_at(&mut self, record: &serde_json::Map<String, Value>) {
        self.records += 1;
        match record.get("id") {
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
        for (name, value) in record.iter().filter(|(name, _)| *name != "id") {
            let place = *self.places.entry(name.clone()).or_insert_with(|| {
                self.fields.push((name.clone(), Values { is_username: true, ..Values::default() }));
                self.fields.len() - 1
            });
            self.fields[place].1.look_at(value);
        }
    }
}

impl Values {
    fn look_at(&mut self, value: &Value) {
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
    fn count(&self) -> u64 {
        self.present - self.nulls
    }

    fn shape(&self) -> Shape {
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

/// Declares what was seen of a collection, beside `all`.
fn propose_one(name: &str, looked: &Looked, all: &[(String, Looked)]) -> Proposed {
    let (mut reasons, mut unsure) = (Vec::new(), Vec::new());
    let ids = propose_ids(looked, &mut reasons, &mut unsure);
    let (mut fields, mut indexes) = (Vec::new(), Vec::new());
    for (field, values) in &looked.fields {
        if field.is_empty() || field.contains(|c: char| c.is_control() || "\"\\".contains(c)) {
            unsure.push(format!("the field {field:?} has a name that JSON escapes, so it is kept but not declared"));
            continue;
        }
        let required = values.present == looked.records && values.nulls == 0 && looked.records > 0;
        let mut shape = values.shape();
        let referred =
            if looked.is_single { None } else { find_referred(field, values, all, &mut reasons, &mut unsure) };
        if let Some((to, text)) = referred {
            shape = Shape::Reference { to: to.into(), text };
            indexes.push((field, to, Answers::Many, false));
        } else if matches!(shape, Shape::Line { .. })
            && UNIQUE.contains(&&*field.to_lowercase())
            && !values.repeats
            && values.count() > 1
        {
            if field == "username" && values.is_username {
                shape = Shape::Username;
            }
            reasons.push(format!("{field} tells records apart: all {} values are different", values.count()));
            indexes.push((field, field, Answers::One, true));
        }
        if shape == Shape::Any && values.count() > 0 && values.nested == 0 {
            unsure.push(format!("{field} is of several kinds, so it may be anything"));
        }
        fields.push(Field { name: field.as_str().into(), shape, required });
    }
    let mut routes: Vec<String> = Vec::new();
    let declare = |(nth, (field, of, answers, unique)): (u8, (&String, &str, Answers, bool))| {
        let mut route = format!("by-{}", singular(of));
        if routes.contains(&route) || topology::check_name(&route).is_err() {
            route = format!("by-{}", dashed(field));
        }
        routes.push(route.clone());
        let number = Index::numbered(nth).expect("it is not zero");
        let (field, route) = (field.as_str().into(), route.into());
        IndexDeclaration { number, field, route, answers, unique, in_monolith: false }
    };
    // More than a database has numbers for, nobody needs.
    let indexes = (1..u8::MAX).zip(indexes).map(declare).collect();
    let declaration = Declaration { name: name.into(), ids, in_monolith: true, fields: fields.into(), indexes };
    Proposed { records: looked.records, declaration, reasons, unsure }
}

fn propose_ids(looked: &Looked, reasons: &mut Vec<String>, unsure: &mut Vec<String>) -> IdRule {
    let Looked { records, is_single, integer_ids, text_ids, no_ids, other_ids, repeats_ids, .. } = looked;
    if *repeats_ids {
        unsure.push("an id stands twice: the split refuses that".to_owned());
    }
    if *other_ids > 0 {
        unsure.push(format!("{other_ids} records have an id that is neither a number nor a text"));
    }
    match () {
        () if *is_single => {
            reasons.push("it is one object, and no list".to_owned());
            IdRule::Single
        }
        () if *text_ids > 0 => {
            reasons.push(format!("{text_ids} of {records} ids are texts, {integer_ids} are integers"));
            IdRule::Text
        }
        () if *no_ids > 0 => {
            reasons.push(format!("{no_ids} of {records} records have no id: it is their position"));
            IdRule::Position
        }
        () if *records == 0 => {
            unsure.push("there are no records to tell by".to_owned());
            IdRule::Record
        }
        () => {
            reasons.push("each record has an integer id".to_owned());
            IdRule::Record
        }
    }
}

/// The collection that a field refers to, and whether its ids are texts: by the field's name and its values.
fn find_referred<'a>(
    field: &str,
    values: &Values,
    all: &'a [(String, Looked)],
    reasons: &mut Vec<String>,
    unsure: &mut Vec<String>,
) -> Option<(&'a str, bool)> {
    let count = values.count();
    if count == 0 || values.integers + values.texts != count {
        return None;
    }
    let stem = field.to_lowercase().replace(['_', '-'], "");
    let is_marked = stem.ends_with("id") && stem.len() > 2;
    let stem = stem.strip_suffix("id").filter(|stem| !stem.is_empty()).unwrap_or(&stem).to_owned();
    let is_named = |name: &str| {
        let name = name.to_lowercase().replace(['_', '-'], "");
        stem == name || stem == singular(&name) || PEOPLE.contains(&&*name) && SOMEBODY.contains(&&*stem)
    };
    for (name, looked) in all.iter().filter(|(_, looked)| !looked.is_single) {
        let known = values.distinct.iter().filter(|value| looked.ids.contains(value)).count();
        let of = values.distinct.len();
        let text = looked.text_ids > 0;
        if is_named(name) && (text || values.texts == 0) && (known > 0 || looked.ids.is_empty() || is_marked) {
            let found = format!("{field} refers to {name}: by its name, and {known} of its {of} values are ids there");
            if known * 10 < of * 9 {
                unsure.push(found)
            } else {
                reasons.push(found)
            }
            return Some((name, text));
        }
    }
    let fits = |(_, looked): &&(String, Looked)| {
        !looked.is_single && values.distinct.len() > 1 && values.distinct.iter().all(|value| looked.ids.contains(value))
    };
    if let Some((name, _)) = all.iter().find(fits)
        && (is_marked || values.texts == count)
    {
        let of = values.distinct.len();
        unsure
            .push(format!("{field} may refer to {name}: all of its {of} values are ids there, its name says nothing"));
    }
    None
}

/// A word as one of many: as far as English plurals are regular.
fn singular(word: &str) -> String {
    match (word.strip_suffix("ies"), word.strip_suffix('s')) {
        (Some(stem), _) => format!("{stem}y"),
        (None, Some(stem)) => stem.to_owned(),
        (None, None) => word.to_owned(),
    }
}

/// `createdBy` as `created-by`, for a route.
fn dashed(field: &str) -> String {
    let mut dashed = String::new();
    for character in field.chars() {
        match character {
            'A'..='Z' if !dashed.is_empty() => {
                dashed.push('-');
                dashed.push(character.to_ascii_lowercase());
            }
            _ if character.is_ascii_alphanumeric() => dashed.push(character.to_ascii_lowercase()),
            _ => dashed.push('-'),
        }
    }
    dashed
}

/// The file: an object of whatever.
struct Collections;

impl<'de> Visitor<'de> for Collections {
    type Value = Vec<(String, Seen)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of collections")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            all.push((name, map.next_value_seed(OneOf)?));
        }
        Ok(all)
    }
}

/// A collection, or something else. Records pass one at a time.
struct OneOf;

impl<'de> DeserializeSeed<'de> for OneOf {
    type Value = Seen;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Seen, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneOf {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Seen, A::Error> {
        let (mut looked, mut others) = (Looked::default(), 0_u64);
        while let Some(element) = array.next_element::<Value>()? {
            match element {
                Value::Object(record) => looked.look_at(&record),
                _ => others += 1,
            }
        }
        Ok(if others > 0 { Seen::Other("a list with something else than objects") } else { Seen::Records(looked) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
        let mut record = serde_json::Map::new();
        while let Some((name, value)) = map.next_entry()? {
            record.insert(name, value);
        }
        let mut looked = Looked { is_single: true, ..Looked::default() };
        looked.look_at(&record);
        Ok(Seen::Records(looked))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::Other("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Seen, E> {
        Ok(Seen::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::Other("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Seen, E> {
        Ok(Seen::Other("a text"))
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::Other("null"))
    }
}
