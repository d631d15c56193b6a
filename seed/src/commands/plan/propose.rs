//! A first plan for any monolith: its file is read once, and what its collections seem to be is declared.
//!
//! A proposal is for a person to look at: each comes with its reasons, and says what it is unsure of.

use std::path::Path;

use record::declaration::{Answers, Declaration, Field, IdRule, Index, IndexDeclaration, Shape};

use super::naming::{dashed, name_services, number, singular};
use super::profile::Profile;
use super::proposal::{Proposal, Proposed};
use super::reading::{self, Member};
use super::referring::find_referred;
use crate::error::Error;
use crate::topology;

/// Fields that mostly tell records apart, where their values do.
const UNIQUE: [&str; 8] = ["username", "email", "slug", "login", "handle", "isbn", "sku", "code"];

/// Reads the file at `input` and proposes a plan.
///
/// # Errors
/// The file cannot be read, or is no JSON object.
pub fn propose(input: &Path) -> Result<Proposal, Error> {
    let mut proposal = Proposal::default();
    let mut collections: Vec<(String, Profile)> = Vec::new();
    for (name, member) in reading::read(input)? {
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

#[cfg(test)]
mod tests {
    use super::*;

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
