//! Settings for all collections or for one: `service`, or `posts=service`.

use std::str::FromStr;

use clap::ValueEnum;
use record::model::Collection;

use crate::conflict::Side;
use crate::error::Error;
use crate::plan::Plan;

/// A setting for one collection or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scoped<T> {
    collection: Option<String>,
    value: T,
}

impl<T> Scoped<T> {
    /// Makes a setting for all collections.
    pub fn all(value: T) -> Self {
        Self { collection: None, value }
    }
}

/// Returns the last setting `given` for a collection, else the last for all.
pub fn of<T: Copy>(given: &[Scoped<T>], collection: Collection) -> Option<T> {
    let last = |scope| given.iter().rev().find(|given| given.collection.as_deref() == scope).map(|given| given.value);
    last(Some(collection.name())).or_else(|| last(None))
}

/// Checks that `plan` has every collection that the `given` settings name.
///
/// # Errors
/// A collection is not in the plan.
pub fn check<T>(given: &[Scoped<T>], plan: &Plan) -> Result<(), Error> {
    given.iter().filter_map(|given| given.collection.as_deref()).try_for_each(|name| plan.find(name).map(drop))
}

/// Reads `VALUE` or `COLLECTION=VALUE`.
fn read<T>(text: &str, value: impl FnOnce(&str) -> Result<T, String>) -> Result<Scoped<T>, String> {
    let Some((name, rest)) = text.split_once('=') else { return Ok(Scoped { collection: None, value: value(text)? }) };
    if name.is_empty() {
        return Err("the name of a collection is missing before `=`".to_owned());
    }
    Ok(Scoped { collection: Some(name.to_owned()), value: value(rest)? })
}

impl FromStr for Scoped<Side> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(text, |value| {
            Side::from_str(value, false).map_err(|_| format!("{value:?} is neither monolith nor service"))
        })
    }
}

impl FromStr for Scoped<u64> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(text, |value| value.parse().map_err(|error: std::num::ParseIntError| error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_setting_for_a_collection_overrides_those_for_all() {
        let given: Vec<Scoped<u64>> = ["1", "posts=7", "2", "posts=8"].map(|text| text.parse().unwrap()).into();
        let plan = Plan::workspace();
        assert_eq!(
            plan.iter().map(|collection| of(&given, collection)).collect::<Vec<_>>(),
            [Some(2), Some(2), Some(8)]
        );
        assert_eq!(of::<u64>(&[], plan.named("users").unwrap()), None);
        check(&given, &plan).unwrap();
        let other: Scoped<u64> = "cats=1".parse().unwrap();
        let refused = check(&[other], &plan).unwrap_err();
        assert_eq!(refused.to_string(), "there is no collection \"cats\": there are users, threads, posts");
        assert_eq!(refused.exit_code(), 2);
        assert_eq!("users=service".parse::<Scoped<Side>>().unwrap().value, Side::Service);
        for wrong in ["posts=", "posts=theirs", "=service", "both"] {
            wrong.parse::<Scoped<Side>>().unwrap_err();
        }
    }
}
