//! A digest of a set of records: equal sets have equal sums, in any order of addition.
//!
//! A set is the count of its elements and the sum of their SHA-256, modulo 2²⁵⁶. Elements can be removed again, so a
//! service updates the sum of its records as it writes. A reader of all records compares the sum to detect a missing,
//! doubled or changed one. A sum protects against loss and mistakes, but not against an attacker who chooses records to
//! match it.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use crate::id::Id;
use crate::model::Record;

/// A set's count and sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RecordSet {
    /// The number of elements.
    pub count: u64,
    /// The sum's limbs, least significant first.
    sum: [u64; 4],
}

impl RecordSet {
    /// Returns the set of `records`.
    pub fn of<'r>(records: impl IntoIterator<Item = Record<'r>>) -> Self {
        let mut set = Self::default();
        records
            .into_iter()
            .for_each(|record| set.add_record(record.id, record.id_from_position, record.json().as_bytes()));
        set
    }

    /// Adds the record `id` with its text as it is sent.
    pub fn add_record(&mut self, id: Id, id_from_position: bool, json: &[u8]) {
        self.add(element(id, id_from_position, json));
    }

    /// Removes a record that is in this set.
    pub fn remove_record(&mut self, id: Id, id_from_position: bool, json: &[u8]) {
        let mut one = Self::default();
        one.add_record(id, id_from_position, json);
        self.unmerge(&one);
    }

    /// Adds an element by its hash.
    pub fn add(&mut self, hash: Sha256) {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(hash.finalize().as_chunks().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        self.merge(&Self { count: 1, sum: limbs });
    }

    /// Adds all elements of another set.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        let mut carry = false;
        for (limb, other) in self.sum.iter_mut().zip(other.sum) {
            let (sum, first) = limb.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, first || second);
        }
    }

    /// Removes all elements of another set, which must be in this one.
    pub fn unmerge(&mut self, other: &Self) {
        // Subtracts in two's complement: adds the other's complement and one.
        self.merge(&Self { count: 0, sum: other.sum.map(|limb| !limb) });
        self.merge(&Self { count: 0, sum: [1, 0, 0, 0] });
        self.count = self.count.wrapping_sub(other.count);
    }
}

fn element(id: Id, id_from_position: bool, json: &[u8]) -> Sha256 {
    let mut head = [0; 9];
    head[..8].copy_from_slice(&id.get().to_be_bytes());
    head[8] = u8::from(id_from_position);
    Sha256::new().chain_update(head).chain_update(json)
}

impl RecordSet {
    /// Returns the lower half of the sum: for a short mark of a set, not for proofs.
    pub fn digest(&self) -> u128 {
        u128::from(self.sum[1]) << 64 | u128::from(self.sum[0])
    }
}

/// Writes the sum in hexadecimal, most significant digit first.
impl fmt::Display for RecordSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sum.iter().rev().try_for_each(|limb| write!(f, "{limb:016x}"))
    }
}

/// The error for a text that is not the sum of a [`RecordSet`].
#[derive(Debug, thiserror::Error)]
#[error("a digest has 64 hexadecimal digits")]
pub struct NotADigest;

/// Reads a sum that [`Display`](fmt::Display) wrote. The count is unknown and becomes 0.
impl FromStr for RecordSet {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let (chunks, []) = text.as_bytes().as_chunks::<16>() else { return Err(NotADigest) };
        let chunks: &[_; 4] = chunks.try_into().map_err(|_| NotADigest)?;
        let mut sum = [0; 4];
        for (limb, digits) in sum.iter_mut().rev().zip(chunks) {
            if !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(NotADigest);
            }
            let digits = std::str::from_utf8(digits).map_err(|_| NotADigest)?;
            *limb = u64::from_str_radix(digits, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self { count: 0, sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_does_not_depend_on_the_order_of_its_elements() {
        let hash = |text: &str| Sha256::new().chain_update(text);
        let sum = |texts: &[&str]| {
            texts.iter().fold(RecordSet::default(), |mut sum, text| {
                sum.add(hash(text));
                sum
            })
        };
        assert_eq!(sum(&["a", "b", "c"]), sum(&["c", "a", "b"]));
        assert_ne!(sum(&["a", "b", "c"]), sum(&["a", "b", "b"]));
        let mut parts = sum(&["a"]);
        parts.merge(&sum(&["b", "c"]));
        assert_eq!(parts, sum(&["a", "b", "c"]));
        parts.unmerge(&sum(&["b"]));
        assert_eq!(parts, sum(&["c", "a"]));
        parts.unmerge(&sum(&["a", "c"]));
        assert_eq!(parts, RecordSet::default());
        let written = sum(&["abc"]).to_string();
        assert_eq!(written.len(), 64);
        assert_eq!(written.parse::<RecordSet>().unwrap().to_string(), written);
        for text in ["", &written[1..], &written.replace(|c: char| c.is_ascii_digit(), "+"), &format!("{written}0")] {
            assert!(text.parse::<RecordSet>().is_err(), "{text}");
        }
    }
}
