//! The id of a record.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

/// The id of a record: an integer from 1 to 2⁶³−1, a number in JSON and plain decimal digits in a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Id(NonZeroU64);

/// The error for a text or number that is not an [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is {}", Id::EXPECTED)]
pub struct NotAnId;

impl Id {
    /// The largest id, 2⁶³−1.
    pub const MAX: Id = Id(NonZeroU64::new(i64::MAX as u64).expect("it is not zero"));
    /// The smallest id.
    pub const FIRST: Id = Id(NonZeroU64::MIN);
    pub(crate) const EXPECTED: &str = "an integer from 1 to 9223372036854775807";

    /// Returns the id as a number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl TryFrom<u64> for Id {
    type Error = NotAnId;

    fn try_from(number: u64) -> Result<Self, NotAnId> {
        NonZeroU64::new(number).map(Id).filter(|id| *id <= Id::MAX).ok_or(NotAnId)
    }
}

/// Accepts an id in its only spelling: digits without a leading zero.
impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        // `u64::from_str` also accepts "+1" and "01", but a record has only one address.
        match text.as_bytes() {
            [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
                text.parse::<u64>().map_err(|_| NotAnId)?.try_into()
            }
            _ => Err(NotAnId),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Id::EXPECTED)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
                Id::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_u64(IdVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_a_range() {
        for (text, number) in [("1", 1), ("42", 42), ("9223372036854775807", i64::MAX as u64)] {
            assert_eq!(text.parse::<Id>().unwrap().get(), number);
            assert_eq!(serde_json::from_str::<Id>(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "01",
            "1abc",
            "1.0",
            "1e3",
            " 1",
            "９",
            "9223372036854775808",
            "99999999999999999999999",
        ] {
            assert_eq!(text.parse::<Id>(), Err(NotAnId), "{text:?}");
        }
        for json in ["0", "-1", "1.0", "1.5", "1e3", "\"1\"", "null", "true", "9223372036854775808"] {
            let error = serde_json::from_str::<Id>(json).unwrap_err().to_string();
            assert!(error.contains("an integer from 1 to 9223372036854775807"), "{json}: {error}");
        }
    }
}
