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

/// All that were given: for a collection the last of its own counts, else the last for all.
#[derive(Clone, Debug)]
pub struct PerCollection<T>(Vec<Scoped<T>>);

impl<T> Default for PerCollection<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> From<Vec<Scoped<T>>> for PerCollection<T> {
    fn from(given: Vec<Scoped<T>>) -> Self {
        Self(given)
    }
}

impl<T: Copy> PerCollection<T> {
    /// The same for all.
    pub fn all(value: T) -> Self {
        Self(vec![Scoped { collection: None, value }])
    }

    /// What holds for a collection.
    pub fn of(&self, collection: Collection) -> Option<T> {
        let last = |scope| self.0.iter().rev().find(|given| given.collection == scope).map(|given| given.value);
        last(Some(collection)).or_else(|| last(None))
    }
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
        let given = PerCollection::from(given);
        assert_eq!(Collection::ALL.map(|collection| given.of(collection)), [Some(2), Some(2), Some(8)]);
        assert_eq!(PerCollection::<u64>::default().of(Collection::Users), None);
        assert_eq!("users=service".parse::<Scoped<Side>>().unwrap().value, Side::Service);
        for wrong in ["cats=service", "posts=", "posts=theirs", "=service", "both"] {
            wrong.parse::<Scoped<Side>>().unwrap_err();
        }
    }
}
