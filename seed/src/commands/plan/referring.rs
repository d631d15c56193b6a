//! Which fields refer to which collections.

use super::naming::singular;
use super::profile::Profile;
use super::profile::Values;

/// Fields that mostly name somebody, and collections of such.
const SOMEBODY: [&str; 10] =
    ["user", "author", "owner", "by", "createdby", "updatedby", "creator", "sender", "recipient", "assignee"];
const PEOPLE: [&str; 7] = ["users", "accounts", "people", "authors", "members", "profiles", "customers"];

/// The collection that a field refers to, and whether its ids are texts: by the field's name and its values.
pub(super) fn find_referred<'a>(
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
