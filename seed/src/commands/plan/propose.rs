//! A first plan for any monolith: its file is read once, and what its collections seem to be is declared.
//!
//! A proposal is for a person to look at: each comes with its reasons, and says what it is unsure of. The live monolith's
//! next record must be taken: what rests on few records is not demanded of others.

use std::path::Path;

use record::declaration::{Answers, Declaration, Field, IdRule, Index, IndexDeclaration, Shape};
use record::limits::RECORD_LIMIT;
use record::reader::pointer_to_all;

use super::naming::{dashed, name_services, number, singular, words};
use super::profile::{Profile, Values};
use super::proposal::{Proposal, Proposed, count};
use super::reading::{self, Member};
use super::referring::{Referred, find_referred, is_of_people};
use crate::error::Error;
use crate::topology;

/// How many records show what the next one will be like.
const TELLING: u64 = 20;

/// How many different values show that a field tells records apart.
const DIFFERENT: u64 = 5;

/// How long the texts of a field may be, in characters, that is taken for a line.
const SHORT: usize = 64;

/// Fields that mostly tell records apart: people, and things of any kind; and by which records are looked for.
const OF_PEOPLE: [&str; 4] = ["username", "email", "login", "handle"];
const OF_THINGS: [&str; 3] = ["slug", "sku", "isbn"];
const SOUGHT: [&str; 1] = ["code"];

/// Fields of what somebody has written, of which one person may write several.
const WRITTEN: [&str; 6] = ["text", "comment", "message", "feedback", "review", "rating"];

/// Reads the file at `input`, or standard input where that is `-`, and proposes a plan. What only Node takes is taken where
/// it is `as_node`.
///
/// # Errors
/// The file cannot be read, or is no JSON object, or there is nothing in it that a service could have.
pub fn propose(input: &Path, as_node: bool) -> Result<Proposal, Error> {
    let mut proposal = Proposal { as_node, ..Proposal::default() };
    let mut collections: Vec<(String, Profile)> = Vec::new();
    for (name, member) in reading::read(input, as_node)? {
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
    if collections.is_empty() {
        let why: Vec<String> = proposal.left_out.iter().map(|(name, why)| format!("{name:?}: {why}")).collect();
        let why = if why.is_empty() { "the object is empty".to_owned() } else { why.join("; ") };
        return Err(Error::NoService { file: reading::name_input(input).to_owned(), why });
    }
    let names: Vec<&str> = collections.iter().map(|(name, _)| &**name).collect();
    let propose =
        |((name, profile), service): (&(String, Profile), String)| propose_one(name, service, profile, &collections);
    proposal.collections = collections.iter().zip(name_services(&names)).map(propose).collect();
    Ok(proposal)
}

/// Why something is proposed, and what should be looked at.
#[derive(Default)]
struct Notes {
    reasons: Vec<String>,
    unsure: Vec<String>,
}

/// The names of fields of which the same is to be said.
#[derive(Default)]
struct Alike<'f> {
    several_kinds: Vec<&'f str>,
    lines: Vec<&'f str>,
    few: Vec<&'f str>,
}

/// Declares what was seen of a collection, beside `all`.
fn propose_one(name: &str, service: String, profile: &Profile, all: &[(String, Profile)]) -> Proposed {
    let mut notes = Notes::default();
    let ids = propose_ids(name, profile, &mut notes);
    let is_written = is_of_somebody(name, profile, all);
    let (mut fields, mut indexes, mut alike) = (Vec::new(), Vec::new(), Alike::default());
    for (field, values) in &profile.fields {
        if field.is_empty() || field.contains(|c: char| c.is_control() || "\"\\".contains(c)) {
            let unsure =
                format!("the field \"{field}\" has a name that JSON escapes, or none, so it is kept but not declared");
            notes.unsure.push(unsure);
            continue;
        }
        let required = profile.records >= TELLING && values.count() == profile.records;
        let mut shape = propose_shape(field, values, &mut alike);
        match find_referred(name, field, values, all).filter(|_| !profile.is_single) {
            Some(Referred::To(reference, to, reason)) => {
                notes.reasons.push(reason);
                shape = reference;
                indexes.push((field, to, Answers::Many, false));
            }
            Some(Referred::Unsure(reference, to, unsure)) => {
                notes.unsure.push(unsure);
                shape = reference;
                indexes.push((field, to, Answers::Many, false));
            }
            Some(Referred::Maybe(unsure)) => notes.unsure.push(unsure),
            None => {}
        }
        let is_text = matches!(shape, Shape::Line { .. } | Shape::Text { .. });
        let lower = field.to_lowercase();
        let [of_people, of_things, sought] =
            [&OF_PEOPLE[..], &OF_THINGS, &SOUGHT].map(|names| names.contains(&&*lower));
        if is_text && !profile.is_single && values.count() > 1 && (of_people || of_things || sought) {
            let tells_apart = of_things || is_of_people(name);
            let unique = tells_apart && !is_written && values.count() >= DIFFERENT && values.all_differ();
            if unique {
                let reason = format!("{field} tells records apart: all {} values are different", values.count());
                notes.reasons.push(reason);
                if lower == "username" && !values.is_free && values.count() >= TELLING {
                    shape = Shape::Username;
                }
            } else {
                notes.reasons.push(format!("records are found by {field}, and several may have the same"));
            }
            indexes.push((field, field, if unique { Answers::One } else { Answers::Many }, unique));
        }
        // What it is declared to be says more than that.
        if shape.is_reference() || shape == Shape::Username {
            alike.forget(field);
        }
        fields.push(Field { name: field.as_str().into(), shape, required });
    }
    notes.unsure.extend(alike.say());
    let declaration = Declaration {
        name: name.into(),
        ids,
        in_monolith: true,
        fields: fields.into(),
        indexes: number_indexes(indexes).into(),
    };
    let Notes { reasons, unsure } = notes;
    Proposed { service, records: profile.records, declaration, reasons, unsure }
}

/// Numbers and routes for indexes of these: the field, what the route is called by, how many answer, whether it is unique.
fn number_indexes(indexes: Vec<(&String, &str, Answers, bool)>) -> Vec<IndexDeclaration> {
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
    (1..u8::MAX).zip(indexes).map(declare).collect()
}

/// Whether records are what somebody has written: they refer to people, or have a field for that.
fn is_of_somebody(name: &str, profile: &Profile, all: &[(String, Profile)]) -> bool {
    profile.fields.iter().any(|(field, values)| {
        let words = words(field);
        let is_by_name = words.concat() == "userid" || words.iter().any(|word| WRITTEN.contains(&&**word));
        let refers = || match find_referred(name, field, values, all) {
            Some(Referred::To(_, to, _) | Referred::Unsure(_, to, _)) => is_of_people(to),
            _ => false,
        };
        is_by_name || refers()
    })
}

/// What a field's values are. A kind that few of them show is not demanded, but for texts, which have to be of one to be
/// found by.
fn propose_shape<'f>(field: &'f str, values: &Values, alike: &mut Alike<'f>) -> Shape {
    let all = values.count();
    if all == 0 || values.nested > 0 {
        return Shape::Any;
    }
    let is_telling = all >= TELLING;
    let numbers = values.integers + values.numbers;
    if ![values.texts, values.booleans, numbers].contains(&all) {
        alike.several_kinds.push(field);
        return Shape::Any;
    }
    if !is_telling {
        alike.few.push(field);
    }
    match () {
        () if values.texts == all => {
            if is_telling && !values.breaks_lines && values.most_characters <= SHORT {
                alike.lines.push(field);
                return Shape::Line { least: 0, most: 256 };
            }
            Shape::Text { most: (2 * values.most_bytes).next_power_of_two().max(RECORD_LIMIT) }
        }
        () if !is_telling => Shape::Any,
        () if values.booleans == all => Shape::Boolean,
        () => Shape::Number,
    }
}

impl<'f> Alike<'f> {
    fn forget(&mut self, field: &'f str) {
        for fields in [&mut self.several_kinds, &mut self.lines, &mut self.few] {
            fields.retain(|other| *other != field);
        }
    }

    /// What is to be said, a line for each kind.
    fn say(&self) -> impl Iterator<Item = String> {
        let several =
            self.several_kinds.iter().map(|field| format!("{field} is of several kinds, so it may be anything"));
        let lines = (!self.lines.is_empty()).then(|| {
            format!("a line break, or more than 256 characters, would be refused in {}", self.lines.join(", "))
        });
        let few = (!self.few.is_empty()).then(|| {
            let few = self.few.join(", ");
            format!(
                "fewer than {TELLING} values tell what {few} must be: texts are declared so, others may be anything"
            )
        });
        several.chain(lines).chain(few).collect::<Vec<_>>().into_iter()
    }
}

fn propose_ids(name: &str, profile: &Profile, notes: &mut Notes) -> IdRule {
    let Notes { reasons, unsure } = notes;
    let Profile { records, is_single, integer_ids, odd_ids, text_ids, other_ids, repeats_ids, long, .. } = profile;
    let without_id = profile.without_id.len() as u64;
    if *long > 0 {
        let limit = RECORD_LIMIT >> 10;
        unsure.push(format!(
            "{} longer than {limit} KiB: served, but no write can be so long",
            is_or_are(*long, "record")
        ));
    }
    if *is_single {
        reasons.push("it is one object, and no list".to_owned());
        return IdRule::Single;
    }
    if *repeats_ids {
        unsure.push("an id stands twice: the split refuses that".to_owned());
    }
    if *other_ids > 0 {
        let have = if *other_ids == 1 { "has" } else { "have" };
        unsure.push(format!(
            "{} {have} an id that is neither an integer nor a text of 1 to 255 bytes: the split refuses that",
            count(*other_ids, "record")
        ));
    }
    if let Some(first) = profile.taken_positions().next() {
        let (pointer, taken) = (pointer_to_all(name), profile.taken_positions().count() - 1);
        let more = if taken == 0 { String::new() } else { format!(", and so it is with {taken} more") };
        unsure.push(format!(
            "{pointer}/{} has no id, and its position, {first}, is another record's id: the split refuses that{more}",
            first - 1
        ));
    }
    let alike = profile.fields.iter().find(|(field, values)| is_like_id(name, field) && tells_all(profile, values));
    if let Some((field, _)) = alike.filter(|_| without_id == *records && *records > 1) {
        unsure.push(format!("{field} looks like the id: each record has another. The id that counts is called id"));
    }
    if *odd_ids > 0 {
        reasons.push(format!("{odd_ids} of {records} ids are no integers from 1 to 2^63-1, so ids are texts"));
        unsure.push("a new record without an id gets a random text, and no number, since ids are texts".to_owned());
    }
    match () {
        () if *text_ids > 0 => {
            reasons.push(format!("{text_ids} of {records} ids are texts, {integer_ids} are integers"));
            IdRule::Text
        }
        () if *odd_ids > 0 => IdRule::Text,
        () if without_id > 0 => {
            let have = if without_id == 1 { "has" } else { "have" };
            let of = count(*records, "record");
            reasons.push(format!("{without_id} of {of} {have} no id: it is their position"));
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

/// `1 record is`, `2 records are`.
fn is_or_are(number: u64, what: &str) -> String {
    format!("{} {}", count(number, what), if number == 1 { "is" } else { "are" })
}

/// Whether a field is called as the id of such records is: `_id`, `key`, `bill_Id` in `bills`.
fn is_like_id(collection: &str, field: &str) -> bool {
    let own = || words(field).concat() == words(&singular(collection)).concat() + "id";
    ["_id", "key", "_key", "Id", "ID", "uuid"].contains(&field) || own()
}

/// Whether each record has another value there.
fn tells_all(profile: &Profile, values: &Values) -> bool {
    values.count() == profile.records && values.all_differ()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn propose_for(source: &Value) -> Result<Proposal, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, source.to_string().as_bytes()).unwrap();
        let proposal = propose(file.path(), false)?;
        for Proposed { declaration, .. } in &proposal.collections {
            assert!(declaration.check().is_ok(), "{declaration:?}");
        }
        Ok(proposal)
    }

    /// What is proposed for the collection `name` of `source`.
    fn propose_named(source: &Value, name: &str) -> Proposed {
        let mut collections = propose_for(source).unwrap().collections.into_iter();
        collections.find(|proposed| &*proposed.declaration.name == name).unwrap()
    }

    /// To what each reference of the collection `things` refers.
    fn references(source: &Value) -> Vec<(String, String)> {
        let fields = propose_named(source, "things").declaration.fields.into_vec().into_iter();
        let refers = |field: Field| match field.shape {
            Shape::Reference { to, .. } => Some((field.name.into(), to.into())),
            _ => None,
        };
        fields.filter_map(refers).collect()
    }

    fn says(proposed: &Proposed, words: &str) -> bool {
        proposed.unsure.iter().any(|unsure| unsure.contains(words))
    }

    fn list(number: u64, record: impl Fn(u64) -> Value) -> Value {
        (1..=number).map(record).collect()
    }

    #[test]
    fn what_few_records_show_is_not_demanded() {
        let record =
            |id| json!({"id": id, "title": "t", "price": 1.5, "open": true, "long": "l".repeat(100), "some": null});
        let shapes = |number| {
            let proposed = propose_named(&json!({"things": list(number, record)}), "things");
            let fields = proposed.declaration.fields.iter();
            let fields: Vec<_> = fields.map(|field| (field.shape.clone(), field.required)).collect();
            (fields, proposed)
        };
        let text = Shape::Text { most: 65536 };
        let (few, proposed) = shapes(19);
        assert_eq!(few, [text.clone(), Shape::Any, Shape::Any, Shape::Any, text.clone()].map(|shape| (shape, false)));
        assert!(says(&proposed, "fewer than 20 values tell what long, open, price, title must be"));
        let (many, proposed) = shapes(20);
        let line = Shape::Line { least: 0, most: 256 };
        let all = [(text, true), (Shape::Boolean, true), (Shape::Number, true), (Shape::Any, false), (line, true)];
        assert_eq!(many, all);
        assert!(says(&proposed, "would be refused in title"), "{:?}", proposed.unsure);
    }

    #[test]
    fn only_what_tells_records_apart_is_unique() {
        for (name, record, unique) in [
            ("users", json!({"email": "e"}), true),
            ("students", json!({"username": "e"}), true),
            ("books", json!({"isbn": "e"}), true),
            ("feedback", json!({"email": "e"}), false),
            ("posts", json!({"username": "e", "title": "t"}), false),
            ("reviews", json!({"isbn": "e", "comment": "c"}), false),
            ("members", json!({"email": "e", "userId": 1}), false),
            ("airports", json!({"code": "e"}), false),
        ] {
            let field =
                record.as_object().unwrap().keys().find(|key| *key != "comment" && *key != "userId" && *key != "title");
            let field = field.unwrap().clone();
            let records = |number| {
                list(number, |id| {
                    let mut record = record.clone();
                    record["id"] = id.into();
                    record[&field] = format!("{id}@x").into();
                    record
                })
            };
            let indexed = |number| {
                let declaration =
                    propose_named(&json!({"people": [{"id": 1}], name: records(number)}), name).declaration;
                let index = declaration.indexes.iter().find(|index| *index.field == *field).unwrap().clone();
                (index.unique, index.answers)
            };
            assert_eq!(indexed(5), if unique { (true, Answers::One) } else { (false, Answers::Many) }, "{name}");
            assert_eq!(indexed(4), (false, Answers::Many), "{name}");
        }
    }

    #[test]
    fn references_are_found_by_their_names_and_values() {
        let ids = |number| list(number, |id| json!({"id": id}));
        for (to, field) in [
            ("quizzes", "quizId"),
            ("dishes", "dishId"),
            ("branches", "branch_id"),
            ("classes", "classId"),
            ("categories", "categoryID"),
            ("patients", "idPatient"),
            ("drivers", "id_driver"),
            ("airports", "departureAirportId"),
            ("agents", "responsible_agent_id"),
            ("user", "author_id"),
            ("users", "userid"),
            ("users", "createdBy"),
            ("users", "user"),
        ] {
            let source = json!({"others": ids(9), to: ids(7), "things": list(7, |id| json!({"id": id, field: id}))});
            assert_eq!(references(&source), [(field.to_owned(), to.to_owned())]);
        }
        // The best name of several, and none of whose ids none of the values is.
        let both = json!({"user": ids(3), "appUsers": ids(3), "things": [{"id": 1, "appUserId": 2}]});
        assert_eq!(references(&both), [("appUserId".to_owned(), "appUsers".to_owned())]);
        let one = json!({"profiles": [{"id": 9}], "users": ids(3), "things": [{"id": 1, "userId": 2}]});
        assert_eq!(references(&one), [("userId".to_owned(), "users".to_owned())]);
        let replies = json!({"things": [{"id": 1, "parentThingId": null}, {"id": 2, "parentThingId": 1}]});
        assert_eq!(references(&replies), [("parentThingId".to_owned(), "things".to_owned())]);
        let mixed = json!({"users": ids(3), "things": [{"id": 1, "userId": "1"}, {"id": 2, "userId": 2}]});
        assert!(
            propose_named(&mixed, "things").declaration.fields[0].shape
                == Shape::Reference { to: "users".into(), text: true }
        );
    }

    #[test]
    fn what_is_none_is_no_reference() {
        let ids = |number| list(number, |id| json!({"id": id}));
        for (source, words) in [
            (json!({"alerts": ids(9), "things": [{"id": 1, "alert": 6}]}), ""),
            (json!({"alerts": ids(9), "things": list(7, |id| json!({"id": id, "alerts": id}))}), ""),
            (json!({"things": list(7, |id| json!({"id": id, "thingId": id}))}), ""),
            (json!({"hair": ids(5), "things": list(5, |id| json!({"id": id, "rating": id}))}), ""),
            (
                json!({"users": ids(3), "things": [{"id": 1, "userId": 7}]}),
                "userId may refer to users by its name, but 0 of",
            ),
            (
                json!({"users": [], "things": [{"id": 1, "userId": 7}]}),
                "userId may refer to users by its name, but 0 of",
            ),
            (
                json!({"a": ids(3), "b": ids(3), "things": [{"id": 1, "xId": 1}, {"id": 2, "xId": 2}]}),
                "xId may refer to a or 1 others",
            ),
            (
                json!({"users": ids(3), "things": [{"id": 1, "userId": 1}, {"id": 2, "userId": 0}]}),
                "1 of its 2 values are no integers from 1",
            ),
        ] {
            assert_eq!(references(&source), [], "{source}");
            let proposed = propose_named(&source, "things");
            let said = proposed.unsure.iter().filter(|unsure| unsure.contains(" may refer to ")).count();
            assert_eq!(said, usize::from(!words.is_empty()), "{:?}", proposed.unsure);
            assert!(words.is_empty() || says(&proposed, words), "{:?}", proposed.unsure);
        }
        let zero = json!({"users": [{"id": 0}, {"id": 1}], "things": [{"id": 1, "userId": 1}, {"id": 2, "userId": 0}]});
        assert_eq!(references(&zero), [("userId".to_owned(), "users".to_owned())]);
    }

    #[test]
    fn what_is_odd_about_ids_is_said() {
        for (records, rule, words) in [
            (
                json!([{"id": 5}, {"a": 1}, {"id": 2}]),
                IdRule::Position,
                "/users/1 has no id, and its position, 2, is another",
            ),
            (json!([{"id": -1}, {"id": 2}]), IdRule::Text, "a new record without an id gets a random text"),
            (json!([{"id": u64::MAX}]), IdRule::Text, "a new record without an id gets a random text"),
            (json!([{"_id": "a"}, {"_id": "b"}]), IdRule::Position, "_id looks like the id"),
            (json!([{"user_id": 7}, {"user_id": 8}]), IdRule::Position, "user_id looks like the id"),
            (
                json!([{"id": 1, "text": "t".repeat(70_000)}]),
                IdRule::Record,
                "1 record is longer than 64 KiB: served, but no write",
            ),
            (json!([{"id": null}]), IdRule::Record, "1 record has an id that is neither"),
        ] {
            let proposed = propose_named(&json!({"users": records}), "users");
            assert_eq!(proposed.declaration.ids, rule, "{words}");
            assert!(says(&proposed, words), "{words:?}: {:?}", proposed.unsure);
        }
    }

    #[test]
    fn fields_stay_in_the_files_order_and_routes_are_different() {
        let source = r#"{"users": [{"id": 1}, {"id": 2}], "blogPosts": [
            {"zeta": 1, "id": 7, "user_id": 1, "alpha": 2, "userId": 2, "alpha": 3, "user-id": 1},
            {"mid": null, "zeta": 2}
        ]}"#;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, source.as_bytes()).unwrap();
        let proposal = propose(file.path(), true).unwrap();
        let declaration = &proposal.collections[1].declaration;
        let names: Vec<&str> = declaration.fields.iter().map(|field| &*field.name).collect();
        assert_eq!(names, ["zeta", "user_id", "alpha", "userId", "user-id", "mid"]);
        let routes: Vec<&str> = declaration.indexes.iter().map(|index| &*index.route).collect();
        assert_eq!(routes, ["by-user", "by-user-id", "by-user-id-2"]);
        assert!(declaration.check().is_ok());
    }
}
