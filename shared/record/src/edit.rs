//! The record that a write makes from the request's body and the current record. It is assembled from the texts of its
//! members, since serde_json's values would lose the digits of numbers and the order of keys.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::declaration::read_id_text;
use crate::id::Id;
use crate::json::{self, Fault, MAX_DEPTH, Object};
use crate::limits::{BODY_DEPTH, RECORD_LIMIT, Violation, violations};
use crate::model::Collection;

/// The longest text id of a new record, in characters.
const NEW_ID_CHARACTERS: usize = 64;

/// Reads a request's body, which the caller has limited to [`BODY_BYTES`](crate::limits::BODY_BYTES).
///
/// # Errors
/// The body is not UTF-8, is not exactly one well-formed JSON object, has a repeated key or a lone surrogate, or is
/// nested deeper than [`BODY_DEPTH`].
pub fn read(body: &[u8]) -> Result<Object, Fault> {
    let text = std::str::from_utf8(body).map_err(|error| Fault {
        pointer: String::new(),
        offset: error.valid_up_to(),
        reason: "the text is not UTF-8".to_owned(),
    })?;
    Object::read(text, BODY_DEPTH)
}

/// The name of a record in a request, which its own text has as its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordName {
    /// An integer id.
    Number(Id),
    /// A text id.
    Text(Box<str>),
    /// No id: the collection is a single record.
    Single,
}

impl RecordName {
    /// Returns the JSON of `id` in the record's text.
    fn json(&self) -> Option<String> {
        match self {
            Self::Number(id) => Some(id.to_string()),
            Self::Text(text) => serde_json::to_string(text).ok(),
            Self::Single => None,
        }
    }

    /// Tells whether `value` is the `id` of the record with this name.
    fn is(&self, value: Option<&str>) -> bool {
        match self {
            Self::Number(id) => value == Some(&id.to_string()),
            Self::Text(text) => value.and_then(read_id_text).as_deref() == Some(&**text),
            Self::Single => true,
        }
    }
}

/// A new record that fits its model and the limits. If the service gives its id, only the id is missing.
#[derive(Debug, PartialEq)]
pub struct New {
    body: Object,
    /// The JSON of the text id that the service made, if the body has none.
    made: Option<String>,
}

/// Checks the `body` of a new record.
///
/// # Errors
/// All violations: `body` has an `id` although the service gives it, or the record does not fit its model or the
/// limits.
pub fn create(collection: Collection, body: Object) -> Result<New, Vec<Violation>> {
    let named = match (body.get("id"), collection.has_text_ids()) {
        (None, _) => None,
        (Some(_), false) => Some(Violation::new("/id", "must not be given: the service gives it")),
        (Some(value), true) => check_new_id(value).err(),
    };
    let made = (collection.has_text_ids() && body.get("id").is_none()).then(make_id);
    check_new(collection, New { body, made }, named)
}

/// Checks a new record again that another replica has checked and given the id `made`, if ids are texts.
///
/// # Errors
/// Those of [`create`].
pub fn create_again(collection: Collection, body: Object, made: Option<String>) -> Result<New, Vec<Violation>> {
    let named = match (body.get("id"), made.as_deref()) {
        (None, None) if collection.has_text_ids() => Some(Violation::new("/id", "is missing")),
        (Some(_), None) if !collection.has_text_ids() => Some(Violation::new("/id", "must not be given")),
        (None, None) => None,
        (None, Some(id)) | (Some(id), None) if collection.has_text_ids() => check_new_id(id).err(),
        _ => Some(Violation::new("/id", "is given twice")),
    };
    check_new(collection, New { body, made }, named)
}

fn check_new(collection: Collection, new: New, of_id: Option<Violation>) -> Result<New, Vec<Violation>> {
    checked(collection, &new.body, None, of_id, new.with_id(Id::MAX))?;
    Ok(new)
}

/// Makes a new text id: 64 bits of the standard library's randomness, since a sandboxed service can open no device.
fn make_id() -> String {
    format!("\"{:016x}\"", RandomState::new().hash_one(0))
}

/// Checks that `value` may be the `id` of a new record.
///
/// # Errors
/// `value` does not fit the rules for text ids.
pub fn check_new_id(value: &str) -> Result<(), Violation> {
    let is_good = |text: &str| {
        let is_known = |character: char| character.is_ascii_alphanumeric() || "._~-".contains(character);
        (1..=NEW_ID_CHARACTERS).contains(&text.len()) && text.chars().all(is_known) && !text.starts_with('.')
    };
    if value.starts_with('"') && read_id_text(value).is_some_and(|text| is_good(&text)) {
        return Ok(());
    }
    let must = format!(
        "must be a string of 1 to {NEW_ID_CHARACTERS} of A-Z, a-z, 0-9, `.`, `_`, `~` and `-`, and not begin with `.`"
    );
    Err(Violation::new("/id", must))
}

impl New {
    /// Returns the body as it came.
    pub fn body(&self) -> &str {
        self.body.text()
    }

    /// Returns the JSON of the text id that the service made, if the body has none.
    pub fn made_id(&self) -> Option<&str> {
        self.made.as_deref()
    }

    /// Returns the record's canonical text: the id, then the members of the body as they came. If ids are texts, `id`
    /// is not used.
    pub fn with_id(&self, id: Id) -> String {
        match (&self.made, self.body.get("id")) {
            (Some(made), _) => with_id(&self.body, Some(made)),
            (None, Some(_)) => self.body.text().to_owned(),
            (None, None) => with_id(&self.body, Some(&id.to_string())),
        }
    }
}

/// Returns the canonical text of the record that replaces `current`, if that exists: `body` as it came, with the `id`
/// first if `body` has none.
///
/// # Errors
/// All violations: `body` has another `id`, or does not fit its model or the limits.
pub fn replace(
    collection: Collection,
    body: &Object,
    name: &RecordName,
    current: Option<&str>,
) -> Result<String, Vec<Violation>> {
    match body.get("id") {
        None if *name == RecordName::Single => checked(collection, body, None, None, body.text().to_owned()),
        None => {
            // Keeps the id's spelling: a number stays a number.
            let current = current.and_then(|current| json::members(current).find(|(key, _)| *key == "id"));
            let id = current.map(|(_, value)| value.to_owned()).or_else(|| name.json());
            checked(collection, body, None, None, with_id(body, id.as_deref()))
        }
        Some(_) => checked(collection, body, None, other_id(body, name), body.text().to_owned()),
    }
}

/// Returns the canonical text of the record `current` after `patch`, a JSON Merge Patch (RFC 7396). Members that the
/// patch does not name keep their bytes and places; new members come last, in the patch's order. `current` is the
/// record `name` in canonical form, as it is stored.
///
/// # Errors
/// All violations of the result: it lacks the `id` or has another, or a changed member does not fit the model or the
/// limits.
pub fn patch(
    collection: Collection,
    current: &str,
    patch: &Object,
    name: &RecordName,
) -> Result<String, Vec<Violation>> {
    // This does not fail: the result is nested no deeper than the deeper of the two.
    let record = Object::read(&merge(current, patch.text()), MAX_DEPTH)
        .map_err(|fault| vec![Violation::new(&fault.pointer, fault.reason)])?;
    checked(collection, &record, Some(current), other_id(&record, name), record.text().to_owned())
}

/// Returns `text` if it may be written. Its members are those of `record`, plus perhaps the `id`.
fn checked(
    collection: Collection,
    record: &Object,
    current: Option<&str>,
    of_id: Option<Violation>,
    text: String,
) -> Result<String, Vec<Violation>> {
    let too_long = (text.len() > RECORD_LIMIT)
        .then(|| Violation::new("", format!("must have at most {RECORD_LIMIT} bytes, but would have {}", text.len())));
    let all: Vec<_> = of_id.into_iter().chain(violations(collection, record, current)).chain(too_long).collect();
    if all.is_empty() { Ok(text) } else { Err(all) }
}

fn with_id(body: &Object, id: Option<&str>) -> String {
    let (id, body) = (id.unwrap_or_default(), body.text());
    let comma = if body == "{}" { "" } else { "," };
    format!("{{\"id\":{id}{comma}{}", &body[1..])
}

fn other_id(record: &Object, name: &RecordName) -> Option<Violation> {
    let name_json = name.json().unwrap_or_default();
    let must = || Violation::new("/id", format!("must be {name_json}, as in the path: it never changes"));
    (!name.is(record.get("id"))).then(must)
}

/// Computes `MergePatch(target, patch)` of RFC 7396. Both are in canonical form, and the patch is an object. Recurses
/// as deeply as the patch is nested.
fn merge(target: &str, patch: &str) -> String {
    let mut patches: HashMap<&str, &str> = json::members(patch).collect();
    let mut merged = String::from("{");
    let mut put = |key: &str, value: &str| {
        let comma = if merged.len() > 1 { "," } else { "" };
        merged.extend([comma, "\"", key, "\":", value]);
    };
    // A target that is not an object counts as an empty one.
    for (key, value) in json::members(target) {
        match patches.remove(key) {
            None => put(key, value),
            Some("null") => {}
            Some(patch) => put(key, &merge_value(value, patch)),
        }
    }
    for (key, patch) in json::members(patch).filter(|(key, patch)| patches.contains_key(key) && *patch != "null") {
        put(key, &merge_value("null", patch));
    }
    merged.push('}');
    merged
}

fn merge_value<'p>(target: &str, patch: &'p str) -> Cow<'p, str> {
    if patch.starts_with('{') { merge(target, patch).into() } else { patch.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::declaration::USERNAME_CHARACTERS;
    use crate::sample;
    const NAME_CHARACTERS: usize = 256;
    const BIO_BYTES: usize = 4 << 10;
    const TITLE_CHARACTERS: usize = 256;
    const TEXT_BYTES: usize = 16 << 10;
    use crate::model::Records;

    const USER: &str = r#"{"username":"ada","id":7,"n":[1.0,1E400,-0],"o":{"a":12345678901234567890,"b":{"c":1}}}"#;

    fn id(number: u64) -> Id {
        number.try_into().unwrap()
    }

    fn object(text: &str) -> Object {
        read(text.as_bytes()).unwrap()
    }

    fn patched(current: &str, by: &str) -> Result<String, Vec<Violation>> {
        patch(sample::users(), current, &object(by), &RecordName::Number(id(7)))
    }

    fn created(collection: Collection, body: Object) -> Result<String, Vec<Violation>> {
        create(collection, body).map(|new| new.with_id(id(7)))
    }

    fn pointers(written: Result<String, Vec<Violation>>) -> Vec<String> {
        written
            .map_or_else(|violations| violations.into_iter().map(|violation| violation.pointer).collect(), |_| vec![])
    }

    #[test]
    fn a_body_that_cannot_be_read_is_refused_with_pointer_offset_and_reason() {
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        for (body, pointer, offset, reason) in [
            (&b"{\"a\":\"\xff\"}"[..], "", 6, "not UTF-8"),
            (b"", "", 0, "the text ends"),
            (b"\xef\xbb\xbf{}", "", 0, "not JSON"),
            (b"[{}]", "", 0, "expected an object, found an array"),
            (b"null", "", 0, "expected an object, found null"),
            (b"{}{}", "", 2, "more after the end"),
            (b"{\"a\":{\"b\":1,\"\\u0062\":2}}", "/a/b", 21, "repeated"),
            (b"{\"a\":\"\\ud800\"}", "/a", 6, "lone surrogate"),
            (deep(33).as_bytes(), &format!("/a{}", "/0".repeat(31)), 36, "nested deeper than 32"),
        ] {
            let fault = read(body).unwrap_err();
            assert_eq!((fault.pointer.as_str(), fault.offset), (pointer, offset), "{fault}");
            assert!(fault.reason.contains(reason), "{fault}");
        }
        assert_eq!(read(deep(32).as_bytes()).unwrap().text(), deep(32));
    }

    #[test]
    fn a_new_record_has_its_id_first_and_the_rest_as_it_came() {
        let body = object(r#" { "text" : "\u00e9\/" , "thread" : 1, "user": 2, "n": [1.0, 1E400], "o": {"id": 3} } "#);
        let expected = r#"{"id":7,"text":"é/","thread":1,"user":2,"n":[1.0,1E400],"o":{"id":3}}"#;
        assert_eq!(created(sample::posts(), body).as_deref(), Ok(expected));
    }

    #[test]
    fn all_violations_of_a_record_are_reported_at_once() {
        let body = object(r#"{"\u0069d":7,"username":"a/b","name":1,"bio":["x"]}"#);
        let violations = created(sample::users(), body).unwrap_err();
        assert_eq!(
            serde_json::to_string(&violations).unwrap(),
            concat!(
                r#"[{"pointer":"/id","detail":"must not be given: the service gives it"},"#,
                r#"{"pointer":"/username","detail":"must be 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, "#,
                r#"and not begin with `.` or `-`"},"#,
                r#"{"pointer":"/name","detail":"must be a string, but is a number"},"#,
                r#"{"pointer":"/bio","detail":"must be a string, but is an array"}]"#,
            )
        );
        let empty = object("{}");
        for (collection, missing) in [
            (sample::users(), &["/username"][..]),
            (sample::threads(), &["/title", "/createdBy"]),
            (sample::posts(), &["/thread", "/text", "/user"]),
        ] {
            assert_eq!(pointers(created(collection, object("{}"))), missing);
            assert_eq!(pointers(replace(collection, &empty, &RecordName::Number(id(7)), None)), missing);
        }
    }

    #[test]
    fn a_replacement_may_contain_its_own_id_but_no_other() {
        let replaced = |body: &str| replace(sample::users(), &object(body), &RecordName::Number(id(7)), None);
        for (body, expected) in [
            (r#"{"username":"ada","name":null}"#, r#"{"id":7,"username":"ada","name":null}"#),
            (r#"{"username":"ada", "id":7}"#, r#"{"username":"ada","id":7}"#),
        ] {
            assert_eq!(replaced(body).as_deref(), Ok(expected));
        }
        for id in ["8", "7.0", "\"7\"", "null", "70e-1"] {
            assert_eq!(pointers(replaced(&format!(r#"{{"username":"ada","id":{id}}}"#))), ["/id"]);
        }
    }

    #[test]
    fn a_patch_keeps_the_bytes_and_places_of_members_that_it_does_not_name() {
        for (by, expected) in [
            ("{}", USER),
            (r#"{"id":7,"none":null,"o":{"b":{"none":null}}}"#, USER),
            (
                r#"{"z":1.50,"a":{"x":null,"y":[null]},"username":"bob"}"#,
                concat!(
                    r#"{"username":"bob","id":7,"n":[1.0,1E400,-0],"o":{"a":12345678901234567890,"b":{"c":1}},"#,
                    r#""z":1.50,"a":{"y":[null]}}"#
                ),
            ),
            (
                r#"{"n":null,"o":{"b":{"d":2,"c":null}}}"#,
                r#"{"username":"ada","id":7,"o":{"a":12345678901234567890,"b":{"d":2}}}"#,
            ),
            (r#"{"n":{"a":null},"o":null}"#, r#"{"username":"ada","id":7,"n":{}}"#),
        ] {
            assert_eq!(patched(USER, by).as_deref(), Ok(expected), "{by}");
        }
    }

    #[test]
    fn a_patch_neither_changes_nor_removes_the_id() {
        for id in ["null", "8", "7.0", "\"7\"", "{}"] {
            assert_eq!(pointers(patched(USER, &format!("{{\"id\":{id}}}"))), ["/id"]);
        }
    }

    #[test]
    fn the_result_of_a_patch_must_fit_the_model_and_the_limits() {
        assert_eq!(pointers(patched(USER, r#"{"id":8,"username":null,"bio":1}"#)), ["/id", "/username", "/bio"]);
        // A split may have loaded such a record.
        let old = r#"{"id":7,"username":"Ada L."}"#;
        assert_eq!(patched(old, r#"{"bio":"x"}"#).as_deref(), Ok(r#"{"id":7,"username":"Ada L.","bio":"x"}"#));
        assert_eq!(pointers(patched(old, r#"{"username":"Ada M."}"#)), ["/username"]);
        assert_eq!(patched(old, r#"{"username":"ada"}"#).as_deref(), Ok(r#"{"id":7,"username":"ada"}"#));
        // A store holds no such texts, but they must not cause a panic.
        for current in ["", "[]", "{\"a\":"] {
            assert_eq!(pointers(patched(current, "{}")), ["/id", "/username"]);
        }
    }

    #[test]
    fn patches_cannot_make_a_record_grow_beyond_its_limit() {
        let with = |length| format!(r#"{{"x":"{}"}}"#, "x".repeat(length));
        let current = r#"{"id":7,"username":"ada"}"#;
        let room = RECORD_LIMIT - current.len() - r#","x":"""#.len();
        assert_eq!(patched(current, &with(room)).unwrap().len(), RECORD_LIMIT);
        let detail = "must have at most 65536 bytes, but would have 65537";
        assert_eq!(patched(current, &with(room + 1)), Err(vec![Violation::new("", detail)]));
    }

    #[test]
    fn a_patch_reaches_as_deep_as_a_record_is_nested() {
        let nested = |depth, inner| format!("{}{inner}{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let current = format!(r#"{{"id":7,"username":"ada","a":{}}}"#, nested(MAX_DEPTH - 2, "{}"));
        let by = nested(BODY_DEPTH - 1, "{\"a\":1}");
        let expected = format!(r#"{{"id":7,"username":"ada","a":{}}}"#, nested(BODY_DEPTH - 1, "1"));
        assert_eq!(patched(&current, &by), Ok(expected));
        assert_eq!(patched(&current, r#"{"b":1}"#).unwrap().len(), current.len() + 6);
    }

    #[test]
    fn every_field_has_its_limit() {
        let json = |text: &str| serde_json::to_string(text).unwrap();
        let user = |field: &str, value: &str| (sample::users(), format!(r#""username":"ada","{field}":{value}"#));
        let username = |name: &str| (sample::users(), format!(r#""username":{}"#, json(name)));
        let name = |name: &str| user("name", &json(name));
        let bio = |bio: &str| user("bio", &json(bio));
        let title = |title: &str| (sample::threads(), format!(r#""title":{},"createdBy":1"#, json(title)));
        let began_by = |id: &str| (sample::threads(), format!(r#""title":"t","createdBy":{id}"#));
        let text = |text: &str| (sample::posts(), format!(r#""thread":1,"text":{},"user":2"#, json(text)));
        let post = |thread: &str, user: &str| {
            (sample::posts(), format!(r#""thread":{thread},"text":"","user":{user},"createdBy":"x""#))
        };
        for ((collection, members), pointer) in [
            (username("a"), None),
            (username("_A.z-09"), None),
            (username(&"x".repeat(USERNAME_CHARACTERS)), None),
            (username(&"x".repeat(USERNAME_CHARACTERS + 1)), Some("/username")),
            (username(""), Some("/username")),
            (username("."), Some("/username")),
            (username("-a"), Some("/username")),
            (username("a b"), Some("/username")),
            (username("é"), Some("/username")),
            (username("a\r\nSet-Cookie:x"), Some("/username")),
            (name(""), None),
            (user("name", "null"), None),
            (name(&"é".repeat(NAME_CHARACTERS)), None),
            (name(&"é".repeat(NAME_CHARACTERS + 1)), Some("/name")),
            (name("a\nb"), Some("/name")),
            (user("name", "false"), Some("/name")),
            (bio("two\nlines"), None),
            (user("bio", "null"), None),
            (bio(&"é".repeat(BIO_BYTES / 2)), None),
            (bio(&"é".repeat(BIO_BYTES / 2 + 1)), Some("/bio")),
            (title("t"), None),
            (title(&"é".repeat(TITLE_CHARACTERS)), None),
            (title(&"é".repeat(TITLE_CHARACTERS + 1)), Some("/title")),
            (title(""), Some("/title")),
            (title("a\u{1b}[31m"), Some("/title")),
            (title("a\u{85}b"), Some("/title")),
            (title("a\u{2028}b"), Some("/title")),
            (began_by("1"), None),
            (began_by("9223372036854775808"), Some("/createdBy")),
            (began_by("\"1\""), Some("/createdBy")),
            (began_by("null"), Some("/createdBy")),
            (text(""), None),
            (text(&"\n".repeat(TEXT_BYTES)), None),
            (text(&"x".repeat(TEXT_BYTES + 1)), Some("/text")),
            (post("1", "2"), None),
            (post("0", "2"), Some("/thread")),
            (post("1", "2.0"), Some("/user")),
        ] {
            let written = created(collection, object(&format!("{{{members}}}")));
            assert_eq!(pointers(written), Vec::from_iter(pointer), "{members:.80}");
        }
    }

    /// The test cases of RFC 7396, appendix A, one level down: a target, a patch, the result. A `null` patch removes.
    #[test]
    fn the_test_cases_of_rfc_7396_hold() {
        for (target, by, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", ""),
            (r#"{"a":"foo"}"#, "\"bar\"", "\"bar\""),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let current = format!(r#"{{"id":7,"username":"ada","x":{target}}}"#);
            let member = if expected.is_empty() { String::new() } else { format!(r#","x":{expected}"#) };
            let expected = format!(r#"{{"id":7,"username":"ada"{member}}}"#);
            assert_eq!(patched(&current, &format!("{{\"x\":{by}}}")), Ok(expected), "{target} {by}");
        }
    }

    /// Implements RFC 7396, section 2, literally.
    fn merge_patch(target: Value, patch: Value) -> Value {
        let Value::Object(patch) = patch else { return patch };
        let mut target = match target {
            Value::Object(target) => target,
            _ => serde_json::Map::new(),
        };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(&name);
            } else {
                let of = target.remove(&name).unwrap_or_default();
                target.insert(name, merge_patch(of, value));
            }
        }
        Value::Object(target)
    }

    const PLAIN: [&str; 6] = ["null", "true", "0", "-7", "\"\"", "\"é\\\",]}\\\\\""];
    /// Numbers that serde_json's values would change.
    const EXACT: [&str; 6] = ["null", "1.0", "-0", "1E400", "12345678901234567890", "0.10"];

    /// Generates canonical objects with recurring keys and these leaves. `more` are further members of the outermost
    /// object.
    fn objects(leaves: &'static [&str], more: &'static str) -> impl Strategy<Value = String> {
        let keys = prop::sample::subsequence(vec!["a", "b", "c/~", "\\\"}", "é", ""], 0..=6).prop_shuffle();
        let object = move |value: BoxedStrategy<String>, more: &'static str| {
            (keys.clone(), prop::collection::vec(value, 6)).prop_map(move |(keys, values)| {
                let members = keys.iter().zip(values).map(|(key, value)| format!("\"{key}\":{value}"));
                let more = more.split_terminator(';').map(str::to_owned);
                format!("{{{}}}", more.chain(members).collect::<Vec<_>>().join(","))
            })
        };
        let nested = object.clone();
        let value = prop::sample::select(leaves).prop_map(str::to_owned).prop_recursive(3, 24, 6, move |inner| {
            let array = prop::collection::vec(inner.clone(), 0..3);
            prop_oneof![array.prop_map(|values| format!("[{}]", values.join(","))), nested(inner.boxed(), "")]
        });
        object(value.boxed(), more)
    }

    /// Asserts that `patched` equals `target`, byte for byte and in the same order, except for the members that `patch`
    /// names.
    fn assert_kept(target: &str, patch: &str, patched: &str) {
        let [members, patch_members, patched_members] = [target, patch, patched].map(json::members);
        let [target, patch] = [target, patch].map(|text| Object::read(text, MAX_DEPTH).unwrap());
        let kept = members.filter(|(key, _)| patch.get(key) != Some("null")).map(|(key, _)| key);
        let new = patch_members.filter(|(key, value)| target.get(key).is_none() && *value != "null");
        let keys: Vec<&str> = kept.chain(new.map(|(key, _)| key)).collect();
        let patched: Vec<_> = patched_members.collect();
        assert_eq!(patched.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys);
        for (key, value) in patched {
            match (target.get(key), patch.get(key)) {
                (Some(target), None) => assert_eq!(value, target),
                (Some(target), Some(patch)) if target.starts_with('{') && patch.starts_with('{') => {
                    assert_kept(target, patch, value);
                }
                (_, Some(patch)) if !patch.starts_with('{') => assert_eq!(value, patch),
                _ => {}
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_patch_gives_the_result_that_rfc_7396_defines(
            current in objects(&PLAIN, r#""id":7;"username":"ada""#),
            by in objects(&PLAIN, ""),
        ) {
            let ours = patched(&current, &by).unwrap();
            let [current, by, ours] = [&current, &by, &ours].map(|text| serde_json::from_str::<Value>(text).unwrap());
            prop_assert_eq!(ours, merge_patch(current, by));
        }

        #[test]
        fn members_that_a_patch_does_not_name_keep_their_bytes(
            current in objects(&EXACT, r#""id":7;"username":"ada""#),
            by in objects(&EXACT, ""),
        ) {
            assert_kept(&current, &by, &patched(&current, &by).unwrap());
        }

        /// The limits and the models do not contradict each other.
        #[test]
        fn a_record_that_may_be_written_fits_its_model(
            values in prop::collection::vec(prop::option::weighted(0.8, prop::sample::select(vec![
                "1", "0", "1.0", "null", "\"x\"", "\"\\n\"", "[]", "{}", "9223372036854775808",
            ])), 9),
            collection in prop::sample::select(sample::all().to_vec()),
        ) {
            let names = ["id", "username", "name", "bio", "title", "createdBy", "thread", "text", "user"];
            let members = names.iter().zip(&values).filter_map(|(name, value)| Some(format!("\"{name}\":{}", (*value)?)));
            let body = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
            for written in [created(collection, object(&body)), replace(collection, &object(&body), &RecordName::Number(id(7)), None)] {
                if let Ok(text) = written {
                    let mut records = Records::new(collection, 0);
                    prop_assert_eq!(records.push(&text, None), Ok(()));
                    prop_assert_eq!(records.iter().next().unwrap().id, id(7));
                    prop_assert_eq!(records.text(), text);
                } else {
                    prop_assert_ne!(written, Err(vec![]));
                }
            }
        }
    }
}
