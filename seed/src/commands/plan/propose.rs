//! Proposes a first plan for any monolith: reads its file once and declares what its collections seem to be.
//!
//! A person reviews the proposal, so each declaration comes with reasons and doubts. The live monolith's next record must
//! be valid, so a rule that few records support does not become a constraint.

use std::path::Path;

use record::declaration::{Answers, Declaration, Field, IdRule, Index, IndexDeclaration, Shape};
use record::limits::RECORD_LIMIT;
use record::reader::pointer_to_all;
use record::words::agree;

use super::naming::{dashed, name_services, number, singular, words};
use super::profile::{Profile, Values};
use super::proposal::{Proposal, Proposed, count_records};
use super::reading::{self, Member};
use super::referring::{Referred, find_referred, is_of_people};
use crate::error::Error;
use crate::topology;

/// The number of records that is enough to predict the next one.
const TELLING: u64 = 20;

/// The number of different values that is enough to call a field unique.
const DIFFERENT: u64 = 5;

/// The greatest length of the texts of a field that is declared a line, in characters.
const SHORT: usize = 64;

/// Fields that mostly identify a person or a thing, and a field that records are searched by.
const OF_PEOPLE: [&str; 4] = ["username", "email", "login", "handle"];
const OF_THINGS: [&str; 3] = ["slug", "sku", "isbn"];
const SOUGHT: [&str; 1] = ["code"];

/// Fields of records that people write: one person may write several.
const WRITTEN: [&str; 6] = ["text", "comment", "message", "feedback", "review", "rating"];

/// Reads the file at `input` (`-` is standard input) and proposes a plan. `as_node` also accepts JSON that only Node
/// accepts.
///
/// # Errors
/// The file cannot be read, is not a JSON object, or has no collection that a service could own.
pub fn propose(input: &Path, as_node: bool) -> Result<Proposal, Error> {
    let mut proposal = Proposal { as_node, ..Proposal::default() };
    let mut collections: Vec<(String, Profile)> = Vec::new();
    for (name, member) in reading::read(input, as_node)? {
        let is_twice = collections.iter().any(|(other, _)| *other == name);
        let why_not = match (member, topology::check_collection(&name)) {
            (Member::Other(what), _) => format!("it holds {what}, not records"),
            (_, Err(reason)) => reason,
            _ if is_twice => "it is in the file twice, which the split refuses".to_owned(),
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

/// The reasons and doubts about a proposal.
#[derive(Default)]
struct Notes {
    reasons: Vec<String>,
    unsure: Vec<String>,
}

/// The names of fields that share a remark.
#[derive(Default)]
struct Alike<'f> {
    several_kinds: Vec<&'f str>,
    lines: Vec<&'f str>,
    few: Vec<&'f str>,
}

/// Proposes the declaration of one collection among `all`.
fn propose_one(name: &str, service: String, profile: &Profile, all: &[(String, Profile)]) -> Proposed {
    let mut notes = Notes::default();
    let ids = propose_ids(name, profile, &mut notes);
    let is_written = is_of_somebody(name, profile, all);
    let (mut fields, mut indexes, mut alike) = (Vec::new(), Vec::new(), Alike::default());
    for (field, values) in &profile.fields {
        if field.is_empty() || field.contains(|c: char| c.is_control() || "\"\\".contains(c)) {
            let unsure = format!(
                "the field \"{field}\" has an empty name or one that JSON escapes: it is kept but not declared"
            );
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
        let is_found = is_text || shape == Shape::Number;
        let lower = field.to_lowercase();
        let [of_people, of_things, sought] =
            [&OF_PEOPLE[..], &OF_THINGS, &SOUGHT].map(|names| names.contains(&&*lower));
        if is_found && !profile.is_single && values.count() > 1 && (of_people || of_things || sought) {
            let tells_apart = of_things || is_of_people(name);
            let unique = tells_apart && !is_written && values.count() >= DIFFERENT && values.all_differ();
            if unique {
                let reason = format!("{field} identifies a record: all {} values are different", values.count());
                notes.reasons.push(reason);
                if is_text && lower == "username" && !values.is_free && values.count() >= TELLING {
                    shape = Shape::Username;
                }
            } else {
                notes.reasons.push(format!("{field} finds records, and several may have the same value"));
            }
            indexes.push((field, field, if unique { Answers::One } else { Answers::Many }, unique));
        }
        // These shapes are stricter than the remarks assume.
        if shape.is_reference() || shape == Shape::Username {
            alike.forget(field);
        }
        fields.push(Field { name: field.as_str().into(), shape, required, search: false });
    }
    notes.unsure.extend(alike.say());
    let declaration = Declaration {
        name: name.into(),
        ids,
        in_monolith: true,
        owner: None,
        deprecated: None,
        fields: fields.into(),
        indexes: number_indexes(indexes).into(),
    };
    let Notes { reasons, unsure } = notes;
    Proposed { service, records: profile.records, declaration, reasons, unsure }
}

/// Gives numbers and routes to indexes: each has its field, the name that its route is made of, its answers, and whether it
/// is unique.
fn number_indexes(indexes: Vec<(&String, &str, Answers, bool)>) -> Vec<IndexDeclaration> {
    let mut routes: Vec<String> = Vec::new();
    let declare = |(nth, (field, of, answers, unique)): (u8, (&String, &str, Answers, bool))| {
        let mut route = format!("by-{}", dashed(&singular(of)));
        if routes.contains(&route) {
            route = format!("by-{}", dashed(field));
        }
        let route = number(&route, |route| !routes.iter().any(|other| other == route));
        routes.push(route.clone());
        let number = Index::numbered(nth).expect("the number is not zero");
        let (field, route) = (field.as_str().into(), route.into());
        IndexDeclaration { number, field, route, answers, unique, order: false, in_monolith: false, deprecated: None }
    };
    // A database has no numbers for more indexes.
    (1..u8::MAX).zip(indexes).map(declare).collect()
}

/// Returns whether people write such records: they refer to people, or have a field for text or a rating.
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

/// Proposes the shape of a field. Few values do not fix it, except for texts: a field must be declared a text to have an
/// index.
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

    /// Returns the remarks.
    fn say(&self) -> impl Iterator<Item = String> {
        let several = self
            .several_kinds
            .iter()
            .map(|field| format!("{field} has values of several kinds, so it may be anything"));
        let lines = (!self.lines.is_empty())
            .then(|| format!("a line break or more than 256 characters would be refused in {}", self.lines.join(", ")));
        let few = (!self.few.is_empty()).then(|| {
            let few = self.few.join(", ");
            format!(
                "fewer than {TELLING} values show what {few} must be: texts are declared as texts, others may be anything"
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
            "{long} {} longer than {limit} KiB: served, but no write can be so long",
            agree(*long, "record is", "records are")
        ));
    }
    if *is_single {
        reasons.push("it is one object, not a list".to_owned());
        return IdRule::Single;
    }
    if *repeats_ids {
        unsure.push("an id is repeated: the split refuses that".to_owned());
    }
    if *other_ids > 0 {
        unsure.push(format!(
            "{other_ids} {} an id that is neither an integer nor a text of 1 to 255 bytes: the split refuses that",
            agree(*other_ids, "record has", "records have")
        ));
    }
    if let Some(first) = profile.taken_positions().next() {
        let (pointer, taken) = (pointer_to_all(name), profile.taken_positions().count() - 1);
        let more = if taken == 0 {
            String::new()
        } else {
            format!("; {taken} more {} like this", agree(taken as u64, "is", "are"))
        };
        unsure.push(format!(
            "{pointer}/{} has no id, and its position, {first}, is another record's id: the split refuses that{more}",
            first - 1
        ));
    }
    let alike = profile.fields.iter().find(|(field, values)| is_like_id(name, field) && tells_all(profile, values));
    if let Some((field, _)) = alike.filter(|_| without_id == *records && *records > 1) {
        unsure.push(format!("{field} looks like the id: no two values are equal. Services only use a field called id"));
    }
    if *odd_ids > 0 {
        let (ids, are) = (agree(*records, "id", "ids"), agree(*odd_ids, "is not an integer", "are not integers"));
        reasons.push(format!("{odd_ids} of {records} {ids} {are} from 1 to 2^63-1, so ids are texts"));
        unsure.push("a new record without an id gets a random text, not a number, since ids are texts".to_owned());
    }
    match () {
        () if *text_ids > 0 => {
            let ids = agree(*records, "id", "ids");
            let texts = agree(*text_ids, "is a text", "are texts");
            let integers = agree(*integer_ids, "is an integer", "are integers");
            reasons.push(format!("{text_ids} of {records} {ids} {texts}, {integer_ids} {integers}"));
            IdRule::Text
        }
        () if *odd_ids > 0 => IdRule::Text,
        () if without_id > 0 => {
            let have = agree(without_id, "has", "have");
            reasons
                .push(format!("{without_id} of {} {have} no id, so the id is the position", count_records(*records)));
            IdRule::Position
        }
        () if *records == 0 => {
            unsure.push("there are no records to judge by".to_owned());
            IdRule::Record
        }
        () => {
            reasons.push("each record has an integer id".to_owned());
            IdRule::Record
        }
    }
}

/// Returns whether a field's name is that of an id of these records: `_id`, `key`, `bill_Id` in `bills`.
fn is_like_id(collection: &str, field: &str) -> bool {
    let own = || words(field).concat() == words(&singular(collection)).concat() + "id";
    ["_id", "key", "_key", "Id", "ID", "uuid"].contains(&field) || own()
}

/// Returns whether every record has the field, each with a different value.
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

    /// Returns the proposal for the collection `name` of `source`.
    fn propose_named(source: &Value, name: &str) -> Proposed {
        let mut collections = propose_for(source).unwrap().collections.into_iter();
        collections.find(|proposed| &*proposed.declaration.name == name).unwrap()
    }

    /// Returns the references of the collection `things`: the field and the collection that it refers to.
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
    fn few_records_set_no_constraints() {
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
        assert!(says(&proposed, "fewer than 20 values show what long, open, price, title must be"));
        let (many, proposed) = shapes(20);
        let line = Shape::Line { least: 0, most: 256 };
        let all = [(text, true), (Shape::Boolean, true), (Shape::Number, true), (Shape::Any, false), (line, true)];
        assert_eq!(many, all);
        assert!(says(&proposed, "would be refused in title"), "{:?}", proposed.unsure);
    }

    #[test]
    fn only_identifying_fields_are_unique() {
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
    fn numbers_that_identify_records_find_them_too() {
        let of = |number| {
            let record = |id| json!({"id": id, "isbn": 9_780_000_000_000_u64 + id, "code": 1.5, "price": id});
            propose_named(&json!({"books": list(number, record)}), "books").declaration.indexes
        };
        let indexes: Vec<_> = of(20).iter().map(|index| (index.field.to_string(), index.unique, index.order)).collect();
        assert_eq!(indexes, [("code".to_owned(), false, false), ("isbn".to_owned(), true, false)]);
        // Fewer may be anything.
        assert!(of(19).is_empty());
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
        // The best name of several wins, but never a collection that has none of the values as ids.
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
    fn a_field_that_only_looks_like_a_reference_is_not_declared_one() {
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
                "xId may refer to a or 1 other:",
            ),
            (
                json!({"users": ids(3), "things": [{"id": 1, "userId": 1}, {"id": 2, "userId": 0}]}),
                "1 of its 2 values is not an integer from 1",
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
    fn odd_ids_are_reported() {
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
    fn fields_keep_the_files_order_and_routes_are_unique() {
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
