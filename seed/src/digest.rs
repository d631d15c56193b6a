//! Digests of sets of records: equal sets have equal digests, in whatever order they are read.
//!
//! A digest is the count and the sum, modulo 2²⁵⁶, of the SHA-256 of each element. What an element is, see
//! [`Digests::add`]. A sum is no protection against somebody who chooses records to match a digest; it is one against
//! every loss and every mistake.

use std::fmt;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use shared::id::Id;
use shared::model::Records;

use crate::text::{each, each_member, string_end, value_end};

/// A set's count and sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many elements.
    pub count: u64,
    /// Least significant first.
    sum: [u64; 4],
}

impl Digest {
    /// Adds an element by its hash.
    pub fn add(&mut self, hash: Sha256) {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(hash.finalize().as_chunks().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        self.merge(&Digest { count: 1, sum: limbs });
    }

    /// Adds all elements of another set.
    pub fn merge(&mut self, other: &Digest) {
        self.count += other.count;
        let mut carry = false;
        for (limb, other) in self.sum.iter_mut().zip(other.sum) {
            let (sum, first) = limb.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, first || second);
        }
    }

    /// Takes all elements of another set away, which are in this one.
    pub fn unmerge(&mut self, other: &Digest) {
        // In two's complement: what is added is the other's complement and one.
        let complement = Digest { count: 0, sum: other.sum.map(|limb| !limb) };
        self.merge(&complement);
        self.merge(&Digest { count: 0, sum: [1, 0, 0, 0] });
        self.count -= other.count;
    }
}

/// The sum, hexadecimal, most significant first.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sum.iter().rev().try_for_each(|limb| write!(f, "{limb:016x}"))
    }
}

/// The digests of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Of the records as they are sent, byte for byte, with whether their ids are from their positions.
    pub exact: Digest,
    /// Of what the records mean: the order of keys, the spelling of numbers and escapes do not matter.
    pub canonical: Digest,
}

impl Digests {
    /// The digests of records, by all cores.
    pub fn of(records: &[Records]) -> Self {
        let part = |records: &Records| {
            let mut digests = Self::default();
            for record in records.iter() {
                digests.add(record.id, record.id_from_position, &record.json());
            }
            digests
        };
        records.par_iter().map(part).reduce(Self::default, |mut sum, part| {
            sum.merge(&part);
            sum
        })
    }

    /// Adds a record. `json` is the record as it is sent, in [canonical text](shared::json).
    pub fn add(&mut self, id: Id, id_from_position: bool, json: &str) {
        let head = [&id.get().to_be_bytes()[..], &[u8::from(id_from_position)]].concat();
        self.exact.add(Sha256::new().chain_update(head).chain_update(json));
        self.canonical.add(Sha256::new().chain_update(meaning(json)));
    }

    /// Adds all records of another set.
    pub fn merge(&mut self, other: &Digests) {
        self.exact.merge(&other.exact);
        self.canonical.merge(&other.canonical);
    }

    /// Takes all records of another set away, which are in this one.
    pub fn unmerge(&mut self, other: &Digests) {
        self.exact.unmerge(&other.exact);
        self.canonical.unmerge(&other.canonical);
    }
}

/// What a value, in canonical text, means: equal for equal values, however they are spelled.
pub fn meaning(json: &str) -> Vec<u8> {
    let mut meaning = Vec::with_capacity(json.len());
    mean(json.as_bytes(), &mut meaning);
    meaning
}

/// Appends what the value at the beginning of `json`, canonical text, means: keys in the order of their bytes, numbers
/// as [`number`] writes them. Returns the value's length.
fn mean(json: &[u8], out: &mut Vec<u8>) -> usize {
    match json[0] {
        b'"' => {
            let end = string_end(json);
            out.extend_from_slice(&json[..end]);
            end
        }
        b'{' => {
            let mut members = Vec::new();
            let end = each_member(json, |key, value| members.push((key, value)));
            members.sort_unstable();
            out.push(b'{');
            for (key, value) in members {
                out.extend_from_slice(key);
                mean(value, out);
            }
            out.push(b'}');
            end
        }
        b'[' => {
            out.push(b'[');
            let end = each(json, |part| {
                let length = mean(part, out);
                out.push(b',');
                length
            });
            out.push(b']');
            end
        }
        b'-' | b'0'..=b'9' => {
            let end = value_end(json);
            number(&json[..end], out);
            end
        }
        _ => {
            let end = value_end(json);
            out.extend_from_slice(&json[..end]);
            end
        }
    }
}

/// Appends a number's one spelling: digits without zeros at either end, `e`, and the power of ten they are multiplied
/// with. 1200, 1.2e3 and 12E+2 are all `12e2`; every zero is `0`.
fn number(text: &[u8], out: &mut Vec<u8>) {
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b"0"[..]),
    };
    let (negative, mantissa) = match mantissa {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, mantissa),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.len().saturating_sub(point + 1);
    let mut digits: Vec<u8> = mantissa.iter().copied().filter(|byte| *byte != b'.').collect();
    let zeros_before = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros_before);
    if digits.is_empty() {
        return out.push(b'0');
    }
    let zeros_behind = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    digits.truncate(digits.len() - zeros_behind);
    let exponent = std::str::from_utf8(exponent).ok().and_then(|exponent| exponent.parse::<i64>().ok());
    let Some(exponent) = exponent.and_then(|e| e.checked_add(zeros_behind as i64 - fraction as i64)) else {
        // Beyond every number anybody has: it is taken by its spelling.
        return out.extend_from_slice(text);
    };
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(&digits);
    out.extend_from_slice(format!("e{exponent}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning_of(text: &str) -> String {
        let mut json = String::new();
        shared::json::canonical_object(text, &mut json, &mut Vec::new()).unwrap();
        let mut out = Vec::new();
        assert_eq!(mean(json.as_bytes(), &mut out), json.len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn spelling_does_not_matter_and_meaning_does() {
        let same = [
            r#"{"a":1200,"b":[0,{"c":"é/","d":null}],"e":{}}"#,
            r#"{"e":{},"b":[0.0e9,{"d":null,"c":"\u00e9\/"}],"a":1.2e3}"#,
            r#"{ "b":[-0, {"c":"é/","d":null}], "a":12E+2, "e":{} }"#,
        ];
        for other in same {
            assert_eq!(meaning_of(other), meaning_of(same[0]), "{other}");
        }
        for other in [
            r#"{"a":1201,"b":[0,{"c":"é/","d":null}],"e":{}}"#,
            r#"{"a":-1200,"b":[0,{"c":"é/","d":null}],"e":{}}"#,
            r#"{"a":"1200","b":[0,{"c":"é/","d":null}],"e":{}}"#,
            r#"{"a":1200,"b":[0,{"c":"é/"}],"e":{}}"#,
            r#"{"a":1200,"b":[0,{"c":"é/","d":false}],"e":{}}"#,
            r#"{"a":1200,"b":[{"c":"é/","d":null},0],"e":{}}"#,
            r#"{"a":1200,"b":[0,{"c":"é/","d":null}],"e":[]}"#,
        ] {
            assert_ne!(meaning_of(other), meaning_of(same[0]), "{other}");
        }
        for (text, expected) in [
            ("0", "0"),
            ("-0.00e5", "0"),
            ("10", "1e1"),
            ("0.010", "1e-2"),
            ("-1.50", "-15e-1"),
            ("1e400", "1e400"),
            ("9007199254740993", "9007199254740993e0"),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            let mut out = Vec::new();
            number(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn order_does_not_matter_to_a_sum() {
        let hash = |text: &str| Sha256::new().chain_update(text);
        let sum = |texts: &[&str]| {
            texts.iter().fold(Digest::default(), |mut sum, text| {
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
        assert_eq!(parts, Digest::default());
        assert_eq!(sum(&["abc"]).to_string().len(), 64);
    }
}
