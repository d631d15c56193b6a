//! A file that is looked at: its members, and the records of those that are collections.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::profile::{Profile, Record};
use crate::error::Error;

/// Reads the file at `input`.
///
/// # Errors
/// The file cannot be read, or is no JSON object.
pub(super) fn read(input: &Path) -> Result<Vec<(String, Member)>, Error> {
    let file = File::open(input).map_err(Error::io(input))?;
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 18, file));
    let read = deserializer.deserialize_map(Collections).and_then(|read| deserializer.end().map(|()| read));
    read.map_err(|error| match error.is_io() {
        true => Error::io(input)(error.into()),
        false => Error::Input { file: input.to_owned(), place: "the file".to_owned(), reason: error.to_string() },
    })
}

/// What stands under a name.
pub(super) enum Member {
    /// Records.
    Records(Profile),
    /// What it is.
    Other(&'static str),
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
