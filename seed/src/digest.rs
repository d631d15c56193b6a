//! Digests of a collection's records, independent of their order: of their bytes and of their meaning.

use std::io::Write;

use record::id::Id;
use record::json::{each, each_member, string_end, value_end};
use record::record_set::RecordSet;
use sha2::{Digest as _, Sha256};

/// The digests of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// The digest of the records as they are sent, byte for byte, and of whether their ids are from their positions.
    pub exact: RecordSet,
    /// The digest of the records' meaning: the order of keys and the spelling of numbers and escapes do not matter.
    pub canonical: RecordSet,
}

impl Digests {
    /// Adds a record. `json` is the record as it is sent, in [canonical text](record::json).
    pub fn add(&mut self, id: Id, id_from_position: bool, json: &str) {
        self.exact.add_record(id, id_from_position, json.as_bytes());
        self.canonical.add(Sha256::new().chain_update(meaning(json)));
    }

    /// Adds all records of another set.
    pub fn merge(&mut self, other: &Digests) {
        self.exact.merge(&other.exact);
        self.canonical.merge(&other.canonical);
    }

    /// Removes all records of another set, which must be in this one.
    pub fn unmerge(&mut self, other: &Digests) {
        self.exact.unmerge(&other.exact);
        self.canonical.unmerge(&other.canonical);
    }
}

/// Returns the meaning of a value in canonical text: the same bytes for equal values in any spelling.
pub fn meaning(json: &str) -> Vec<u8> {
    let mut meaning = Vec::with_capacity(json.len());
    write_meaning(json.as_bytes(), &mut meaning);
    meaning
}

/// Appends the meaning of the value at the beginning of `json`, canonical text: keys in the order of their bytes,
/// numbers as [`write_number`] writes them. Returns the value's length.
fn write_meaning(json: &[u8], out: &mut Vec<u8>) -> usize {
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
                match value[0] {
                    // Its end is known.
                    b'"' => out.extend_from_slice(value),
                    _ => {
                        write_meaning(value, out);
                    }
                }
            }
            out.push(b'}');
            end
        }
        b'[' => {
            out.push(b'[');
            let end = each(json, |part| {
                let length = write_meaning(part, out);
                out.push(b',');
                length
            });
            out.push(b']');
            end
        }
        b'-' | b'0'..=b'9' => {
            let end = value_end(json);
            write_number(&json[..end], out);
            end
        }
        _ => {
            let end = value_end(json);
            out.extend_from_slice(&json[..end]);
            end
        }
    }
}

/// Appends a number in its only canonical spelling: digits without zeros at either end, `e`, and the power of ten that
/// multiplies them. 1200, 1.2e3 and 12E+2 are all `12e2`; every zero is `0`.
fn write_number(text: &[u8], out: &mut Vec<u8>) {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits != b"0" && digits.iter().all(u8::is_ascii_digit) {
        // Nearly all numbers are integers.
        let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
        out.extend_from_slice(&text[..text.len() - zeros]);
        return write_power(zeros as i64, out);
    }
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
        // The exponent exceeds all practical numbers: the spelling stays.
        return out.extend_from_slice(text);
    };
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(&digits);
    write_power(exponent, out);
}

/// Appends `e` and the power of ten.
fn write_power(exponent: i64, out: &mut Vec<u8>) {
    write!(out, "e{exponent}").expect("memory takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning_of(text: &str) -> String {
        let mut json = String::new();
        record::json::canonical_object(text, &mut json, &mut Vec::new()).unwrap();
        let mut out = Vec::new();
        assert_eq!(write_meaning(json.as_bytes(), &mut out), json.len());
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
            ("-7", "-7e0"),
            ("-120", "-12e1"),
            ("-0", "0"),
            ("10000000000", "1e10"),
            ("0.010", "1e-2"),
            ("-1.50", "-15e-1"),
            ("1e400", "1e400"),
            ("9007199254740993", "9007199254740993e0"),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            let mut out = Vec::new();
            write_number(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
