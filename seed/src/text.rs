//! Records as texts: their ids, and the differences between two of them.

use std::fmt::Display;

use record::json::each_member;
use record::model::Collection;
use sha2::{Digest, Sha256};

use crate::digest::meaning;

/// Returns the value of a member of the object `json`; `key` is the member's name in its quotes.
pub fn member_of<'j>(json: &'j str, key: &str) -> Option<&'j str> {
    let mut found = None;
    each_member(json.as_bytes(), |name, value| {
        if name == key.as_bytes() {
            found = std::str::from_utf8(value).ok();
        }
    });
    found
}

/// Returns the `id` of the record `json` as it stands there if ids are texts, else its number.
pub fn id_in(collection: Collection, number: impl Display, json: &str) -> String {
    let own = if collection.has_text_ids() { member_of(json, "\"id\"") } else { None };
    own.map_or_else(|| number.to_string(), str::to_owned)
}

/// Returns the name of a text id: a short hash that tells ids apart.
pub fn name_of(text: &str) -> u128 {
    u128::from_le_bytes(Sha256::digest(text)[..16].try_into().expect("a digest is longer"))
}

/// Returns the place of a record that stands in no file.
pub fn place_of(collection: Collection, number: impl Display, json: &str) -> String {
    if collection.is_single() {
        return format!("/{}", collection.name());
    }
    format!("/{}/- (id {})", collection.name(), id_in(collection, number, json))
}

/// One difference between two values.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The JSON pointer of its place.
    pub pointer: String,
    /// The left value there, if any.
    pub left: Option<String>,
    /// The right value there, if any.
    pub right: Option<String>,
}

/// Lists the differences in meaning between `left` and `right`, canonical texts: the deepest places, below `pointer`.
pub fn differences(pointer: &str, left: &str, right: &str) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(pointer, Some(left), Some(right), &mut found);
    found
}

fn compare(pointer: &str, left: Option<&str>, right: Option<&str>, found: &mut Vec<Difference>) {
    if let (Some(left), Some(right)) = (left, right) {
        if meaning(left) == meaning(right) {
            return;
        }
        if let (Some(left), Some(right)) = (parts(left), parts(right)) {
            for (key, value) in &left {
                compare(&below(pointer, key), Some(value), value_of(&right, key), found);
            }
            for (key, value) in &right {
                if value_of(&left, key).is_none() {
                    compare(&below(pointer, key), None, Some(value), found);
                }
            }
            return;
        }
    }
    let [left, right] = [left, right].map(|side| side.map(str::to_owned));
    found.push(Difference { pointer: pointer.to_owned(), left, right });
}

/// Lists the members of an object by their unquoted keys; returns `None` if `json` is not an object.
fn parts(json: &str) -> Option<Vec<(String, &str)>> {
    if !json.starts_with('{') {
        return None;
    }
    let mut parts = Vec::new();
    each_member(json.as_bytes(), |key, value| {
        let key = serde_json::from_slice(key).expect("a canonical string is JSON");
        parts.push((key, std::str::from_utf8(value).expect("a part of a text, cut at its brackets, is text")));
    });
    Some(parts)
}

fn value_of<'j>(parts: &[(String, &'j str)], key: &str) -> Option<&'j str> {
    parts.iter().find(|(other, _)| other == key).map(|(_, value)| *value)
}

fn below(pointer: &str, key: &str) -> String {
    let mut below = pointer.to_owned();
    record::json::push_pointer(&mut below, key);
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_at_their_deepest_places() {
        let left = r#"{"a":1,"b":{"c/d":[1,2],"e":null},"f":"x"}"#;
        let right = r#"{"f":"x","b":{"e":0,"c/d":[1,3]},"a":1.0,"g":{}}"#;
        let found = differences("/posts/3", left, right);
        let found: Vec<_> = found.iter().map(|d| (d.pointer.as_str(), d.left.as_deref(), d.right.as_deref())).collect();
        assert_eq!(
            found,
            [
                ("/posts/3/b/c~1d", Some("[1,2]"), Some("[1,3]")),
                ("/posts/3/b/e", Some("null"), Some("0")),
                ("/posts/3/g", None, Some("{}")),
            ]
        );
        assert_eq!(differences("", left, left), []);
    }
}
