//! Settings for all collections or for one: `service`, or `posts=service`.

use std::str::FromStr;

use clap::ValueEnum;
use shared::model::Collection;

use crate::conflict::Side;

/// One such setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoped<T> {
    collection: Option<Collection>,
    value: T,
}

impl<T> Scoped<T> {
    /// The same for all.
    pub fn all(value: T) -> Self {
        Self { collection: None, value }
    }
}

/// What holds for a collection: the last that was `given` for it, else the last for all.
pub fn of<T: Copy>(given: &[Scoped<T>], collection: Collection) -> Option<T> {
    let last = |scope| given.iter().rev().find(|given| given.collection == scope).map(|given| given.value);
    last(Some(collection)).or_else(|| last(None))
}

/// Reads `VALUE` or `COLLECTION=VALUE`.
fn read<T>(text: &str, value: impl FnOnce(&str) -> Result<T, String>) -> Result<Scoped<T>, String> {
    let Some((name, rest)) = text.split_once('=') else { return Ok(Scoped { collection: None, value: value(text)? }) };
    let collection = Collection::ALL.into_iter().find(|collection| collection.name() == name);
    let collection = collection.ok_or_else(|| format!("there is no collection {name:?}"))?;
    Ok(Scoped { collection: Some(collection), value: value(rest)? })
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
    fn the_last_setting_of_a_collection_counts_and_else_the_last_for_all() {
        let given: Vec<Scoped<u64>> = ["1", "posts=7", "2", "posts=8"].map(|text| text.parse().unwrap()).into();
        assert_eq!(Collection::ALL.map(|collection| of(&given, collection)), [Some(2), Some(2), Some(8)]);
        assert_eq!(of::<u64>(&[], Collection::Users), None);
        assert_eq!("users=service".parse::<Scoped<Side>>().unwrap().value, Side::Service);
        for wrong in ["cats=service", "posts=", "posts=theirs", "=service", "both"] {
            wrong.parse::<Scoped<Side>>().unwrap_err();
        }
    }
}
