//! A first plan for any monolith: its file is read once, and what its collections seem to be is declared.
//!
//! A proposal is for a person to look at: each comes with its reasons, and says what it is unsure of.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use record::declaration::{
    Answers, Declaration, Field, IdRule, Index, IndexDeclaration, Shape, USERNAME_CHARACTERS, read_id_text,
};
use record::id::Id;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use store::{sync, sync_tree};
use tempfile::TempDir;

use crate::error::Error;
use crate::identity::folder_of;
use crate::report::Report;
use crate::topology::{self, PLAN, PlanLine};

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
    /// What its service is called.
    pub service: String,
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
    let mut collections: Vec<(String, Profile)> = Vec::new();
    for (name, member) in read {
        let is_twice = collections.iter().any(|(other, _)| *other == name);
        let why_not = match (member, topology::check_collection(&name)) {
            (Member::Other(what), _) => format!("it holds {what}, not records"),
            (_, Err(reason)) => reason,
            _ if is_twice => "it is in the file twice, and the split refuses that".to_owned(),
            (Member::Records(profile), Ok(())) => {
                collections.push((name, profile));
                continue;
            }
        };
        proposal.left_out.push((name, why_not));
    }
    let names: Vec<&str> = collections.iter().map(|(name, _)| &**name).collect();
    let propose =
        |((name, profile), service): (&(String, Profile), String)| propose_one(name, service, profile, &collections);
    proposal.collections = collections.iter().zip(name_services(&names)).map(propose).collect();
    Ok(proposal)
}

/// Names for the services of collections that are called `names`: the same where a topology takes that, else what comes
/// near.
fn name_services(names: &[&str]) -> Vec<String> {
    let fits = |name: &str| topology::check_name(name).is_ok();
    let mut services = vec![String::new(); names.len()];
    // Those whose own name fits have it first, wherever they stand.
    for own in [true, false] {
        for nth in (0..names.len()).filter(|nth| fits(names[*nth]) == own) {
            let base = if own { names[nth].to_owned() } else { name_near(names[nth]) };
            services[nth] =
                number(&base, |name| fits(name) && !services.iter().any(|other| topology::meet(other, name)));
        }
    }
    services
}

/// `blog-posts` for `blogPosts`, `service-2024-events` for `2024-events`, `monolith-service` for `monolith`.
fn name_near(collection: &str) -> String {
    let mut name = dashed(collection);
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        name.insert_str(0, "service-");
    }
    let name = cut(&name, topology::NAME_LENGTH);
    if topology::check_name(name).is_ok() { name.to_owned() } else { format!("{name}-service") }
}

/// `base`, or the first of `base-2`, `base-3`, … that is free.
fn number(base: &str, is_free: impl Fn(&str) -> bool) -> String {
    const ROOM: usize = topology::NAME_LENGTH - "-999".len();
    let numbered = (2_u64..).map(|nth| format!("{}-{nth}", cut(base, ROOM)));
    let mut names = std::iter::once(cut(base, topology::NAME_LENGTH).to_owned()).chain(numbered);
    names.find(|name| is_free(name)).expect("there are more numbers than names")
}

/// At most so many characters of a name, which is ASCII.
fn cut(name: &str, most: usize) -> &str {
    name[..name.len().min(most)].trim_end_matches(['-', '_'])
}

/// Writes `proposal` into the folder `output`, which appears whole or not at all.
///
/// # Errors
/// There is something in it already, or it cannot be written.
pub fn write(proposal: &Proposal, output: &Path) -> Result<(), Error> {
    let is_empty = fs::read_dir(output).map(|mut inside| inside.next().is_none());
    if !is_empty.unwrap_or_else(|_| !output.exists()) {
        let reason = "it is there already, and may have been edited; name another folder".to_owned();
        return Err(Error::Output { path: output.to_owned(), reason });
    }
    // Of a path that ends with a slash, too.
    let output = &output.components().collect::<PathBuf>();
    let beside = folder_of(output);
    fs::create_dir_all(beside).map_err(Error::io(beside))?;
    let part = TempDir::new_in(beside).map_err(Error::io(beside))?;
    let whole = part.path().join(PLAN);
    for Proposed { service, declaration, .. } in &proposal.collections {
        let folder = whole.join(service);
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let json = serde_json::to_string_pretty(declaration).expect("a declaration can be written as JSON");
        let path = folder.join("collection.json");
        fs::write(&path, json + "\n").map_err(Error::io(&path))?;
    }
    fs::create_dir_all(&whole).map_err(Error::io(&whole))?;
    fs::write(whole.join(PLAN), proposal.list()).map_err(Error::io(&whole))?;
    sync_tree(&whole)?;
    fs::rename(&whole, output).map_err(Error::io(output))?;
    sync(beside)?;
    Ok(())
}

impl Proposal {
    /// The list of the plan, with the reasons.
    fn list(&self) -> String {
        let mut list = String::from(
            "# Proposed from a db.json. Each line is a service: its name, its port, and its collection's name where that is\n\
             # another.\n",
        );
        let ports = (FIRST_PORT..).filter(|port| *port != 8080);
        for (proposed, port) in self.collections.iter().zip(ports) {
            let _ = writeln!(list, "\n# {} records.", proposed.records);
            for reason in &proposed.reasons {
                let _ = writeln!(list, "# {reason}");
            }
            for unsure in &proposed.unsure {
                let _ = writeln!(list, "# Unsure: {unsure}");
            }
            let (name, collection) = (proposed.service.clone(), proposed.declaration.name.to_string());
            let _ = writeln!(list, "{}", PlanLine { name, port, collection });
        }
        for (name, reason) in &self.left_out {
            let _ = writeln!(list, "\n# Left out: {name:?}: {}. --rest FILE puts it aside.", reason.replace('\n', " "));
        }
        list
    }
}

/// What stands under a name.
enum Member {
    Records(Profile),
    Other(&'static str),
}

/// What was seen of a collection's records.
#[derive(Default)]
struct Profile {
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

impl Profile {
    fn look_at(&mut self, record: &Record) {
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
fn propose_one(name: &str, service: String, profile: &Profile, all: &[(String, Profile)]) -> Proposed {
    let (mut reasons, mut unsure) = (Vec::new(), Vec::new());
    let ids = propose_ids(profile, &mut reasons, &mut unsure);
    let (mut fields, mut indexes) = (Vec::new(), Vec::new());
    for (field, values) in &profile.fields {
        if field.is_empty() || field.contains(|c: char| c.is_control() || "\"\\".contains(c)) {
            unsure.push(format!("the field {field:?} has a name that JSON escapes, so it is kept but not declared"));
            continue;
        }
        let required = values.present == profile.records && values.nulls == 0 && profile.records > 0;
        let mut shape = values.shape();
        let referred =
            if profile.is_single { None } else { find_referred(field, values, all, &mut reasons, &mut unsure) };
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
        let mut route = format!("by-{}", dashed(&singular(of)));
        if routes.contains(&route) {
            route = format!("by-{}", dashed(field));
        }
        let route = number(&route, |route| !routes.iter().any(|other| other == route));
        routes.push(route.clone());
        let number = Index::numbered(nth).expect("it is not zero");
        let (field, route) = (field.as_str().into(), route.into());
        IndexDeclaration { number, field, route, answers, unique, in_monolith: false }
    };
    // More than a database has numbers for, nobody needs.
    let indexes = (1..u8::MAX).zip(indexes).map(declare).collect();
    let declaration = Declaration { name: name.into(), ids, in_monolith: true, fields: fields.into(), indexes };
    Proposed { service, records: profile.records, declaration, reasons, unsure }
}

fn propose_ids(profile: &Profile, reasons: &mut Vec<String>, unsure: &mut Vec<String>) -> IdRule {
    let Profile { records, is_single, integer_ids, text_ids, no_ids, other_ids, repeats_ids, .. } = profile;
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
    all: &'a [(String, Profile)],
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
    for (name, profile) in all.iter().filter(|(_, profile)| !profile.is_single) {
        let known = values.distinct.iter().filter(|value| profile.ids.contains(value)).count();
        let of = values.distinct.len();
        let text = profile.text_ids > 0;
        if is_named(name) && (text || values.texts == 0) && (known > 0 || profile.ids.is_empty() || is_marked) {
            let found = format!("{field} refers to {name}: by its name, and {known} of its {of} values are ids there");
            if known * 10 < of * 9 {
                unsure.push(found)
            } else {
                reasons.push(found)
            }
            return Some((name, text));
        }
    }
    let fits = |(_, profile): &&(String, Profile)| {
        !profile.is_single
            && values.distinct.len() > 1
            && values.distinct.iter().all(|value| profile.ids.contains(value))
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

/// `createdBy` as `created-by`, for a route or a service.
fn dashed(name: &str) -> String {
    let mut dashed = String::new();
    let mut before = ' ';
    for character in name.chars() {
        let is_known = character.is_ascii_alphanumeric();
        let begins_word = character.is_ascii_uppercase() && !before.is_ascii_uppercase();
        if (!is_known || begins_word) && !dashed.is_empty() && !dashed.ends_with('-') {
            dashed.push('-');
        }
        dashed.extend(is_known.then_some(character.to_ascii_lowercase()));
        before = character;
    }
    dashed.truncate(dashed.trim_end_matches('-').len());
    dashed
}

/// A record, its members' names in the file's order.
#[derive(Default)]
struct Record {
    names: Vec<String>,
    values: serde_json::Map<String, Value>,
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

/// What stands in a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Element {
    Record(Record),
    Other(IgnoredAny),
}

/// The file: an object of whatever.
struct Collections;

impl<'de> Visitor<'de> for Collections {
    type Value = Vec<(String, Member)>;

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
    type Value = Member;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Member, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneOf {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Member, A::Error> {
        let (mut profile, mut others) = (Profile::default(), 0_u64);
        while let Some(element) = array.next_element()? {
            match element {
                Element::Record(record) => profile.look_at(&record),
                Element::Other(IgnoredAny) => others += 1,
            }
        }
        Ok(if others > 0 { Member::Other("a list with something else than objects") } else { Member::Records(profile) })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Member, A::Error> {
        let record = Record::deserialize(MapAccessDeserializer::new(map))?;
        let mut profile = Profile { is_single: true, ..Profile::default() };
        profile.look_at(&record);
        Ok(Member::Records(profile))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Member, E> {
        Ok(Member::Other("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Member, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Member, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Member, E> {
        Ok(Member::Other("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Member, E> {
        Ok(Member::Other("a text"))
    }

    fn visit_unit<E>(self) -> Result<Member, E> {
        Ok(Member::Other("null"))
    }
}

/// A plan that was proposed.
pub fn describe(input: &Path, output: &Path, proposal: &Proposal) -> Report {
    let mut text = format!("{} has the plan that {} seems to be of. Look at it:\n", output.display(), input.display());
    let mut json =
        json!({ "outcome": "proposed", "output": output.to_string_lossy(), "collections": {}, "left_out": {} });
    for Proposed { service, records, declaration, reasons, unsure } in &proposal.collections {
        let name = &*declaration.name;
        let _ = writeln!(text, "\n{name}: {records} records");
        if service != name {
            let _ = writeln!(text, "  its service is called {service}, since a topology does not take its own name");
        }
        for reason in reasons {
            let _ = writeln!(text, "  {reason}");
        }
        for unsure in unsure {
            let _ = writeln!(text, "  unsure: {unsure}");
        }
        json["collections"][name] = json!({
            "service": service, "records": records, "declaration": declaration, "reasons": reasons, "unsure": unsure,
        });
    }
    for (name, reason) in &proposal.left_out {
        let _ = writeln!(text, "\nleft out: {name:?}: {reason}. --rest FILE puts it aside");
        json["left_out"][name] = reason.as_str().into();
    }
    let _ = writeln!(text, "\nThen: seed --plan {} --input {} --data DIR", output.display(), input.display());
    Report::new(text, json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_collection_has_a_service_by_a_name_that_a_topology_takes() {
        let [long, shouted] = ["a", "A"].map(|letter| letter.repeat(40));
        let named = [
            ("blogPosts", "blog-posts"),
            ("user_profiles", "user_profiles"),
            ("Products", "products-2"),
            ("products", "products"),
            ("order-items", "order-items"),
            ("orderItems", "order-items-2"),
            ("2024-events", "service-2024-events"),
            ("monolith", "monolith-service"),
            ("service", "service-service"),
            ("a.b~c", "a-b-c"),
            ("abc", "abc"),
            ("HTTPLogs", "httplogs"),
            ("_", "service-service-2"),
            (&long, &long[..32]),
            (&shouted, &format!("{}-2", &long[..28])),
        ];
        let services = name_services(&named.map(|(name, _)| name));
        let expected = named.map(|(name, service)| if name == "a.b~c" { "a-b-c-2" } else { service });
        assert_eq!(services, expected);
        let lines = services.iter().zip(3001..).map(|(name, port)| format!("{name} {port}\n"));
        assert!(topology::parse(Path::new(PLAN), &lines.collect::<String>()).is_ok());
    }

    #[test]
    fn fields_stay_in_the_files_order_and_routes_are_different() {
        let source = r#"{"users": [{"id": 1}, {"id": 2}], "blogPosts": [
            {"zeta": 1, "id": 7, "user_id": 1, "alpha": 2, "userId": 2, "alpha": 3, "user-id": 1},
            {"mid": null, "zeta": 2}
        ]}"#;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, source.as_bytes()).unwrap();
        let proposal = propose(file.path()).unwrap();
        let declaration = &proposal.collections[1].declaration;
        let names: Vec<&str> = declaration.fields.iter().map(|field| &*field.name).collect();
        assert_eq!(names, ["zeta", "user_id", "alpha", "userId", "user-id", "mid"]);
        let routes: Vec<&str> = declaration.indexes.iter().map(|index| &*index.route).collect();
        assert_eq!(routes, ["by-user", "by-user-id", "by-user-id-2"]);
        assert!(declaration.check().is_ok());
    }
}
