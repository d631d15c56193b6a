//! Reads text that only Node's `JSON.parse` accepts, as Node reads it.
//!
//! - The last value of a repeated key counts, in the place of the first.
//! - Bytes that are not UTF-8 become U+FFFD, as when Node reads a file.
//! - Half a surrogate pair becomes U+FFFD, too, because no Rust text can hold it. Node keeps it and sends it as an
//!   escape.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Returns the value as valid JSON; `None` if Node refuses it, too.
pub fn read(raw: &[u8]) -> Option<String> {
    let text = replace_lone_surrogates(&String::from_utf8_lossy(raw));
    let mut out = String::with_capacity(text.len());
    write(serde_json::from_str::<&RawValue>(&text).ok()?, &mut out, record::json::MAX_DEPTH)?;
    Some(out)
}

/// Writes a value with each key once; returns `None` if it is nested too deeply.
fn write(value: &RawValue, out: &mut String, depth: usize) -> Option<()> {
    let text = value.get();
    if depth == 0 {
        return None;
    }
    match text.as_bytes()[0] {
        b'{' => {
            let members: Members = serde_json::from_str(text).ok()?;
            for (nth, (key, value)) in members.0.iter().enumerate() {
                out.push(if nth == 0 { '{' } else { ',' });
                out.push_str(&serde_json::to_string(key).ok()?);
                out.push(':');
                write(value, out, depth - 1)?;
            }
            out.push_str(if members.0.is_empty() { "{}" } else { "}" });
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            for (nth, value) in elements.iter().enumerate() {
                out.push(if nth == 0 { '[' } else { ',' });
                write(value, out, depth - 1)?;
            }
            out.push_str(if elements.is_empty() { "[]" } else { "]" });
        }
        _ => out.push_str(text),
    }
    Some(())
}

/// An object's members; a repeated key has its last value, in the place of the first.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                let mut places: HashMap<String, usize> = HashMap::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    match places.get(&key) {
                        Some(place) => members[*place].1 = value,
                        None => {
                            places.insert(key.clone(), members.len());
                            members.push((key, value));
                        }
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// Replaces each escape of half a surrogate pair by `\\ufffd`.
fn replace_lone_surrogates(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let length = match (is_surrogate(escape, 0xD800), is_surrogate(escape, 0xDC00)) {
            (true, _) if escape.get(6..).is_some_and(|next| is_surrogate(next, 0xDC00)) => 12,
            (true, _) | (_, true) => {
                out.push_str("\\ufffd");
                rest = &escape[6..];
                continue;
            }
            // A backslash and the escaped character, which may be a backslash.
            _ => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&escape[..length]);
        rest = &escape[length..];
    }
    out + rest
}

/// Tells whether `text` begins with the escape of one of the 1,024 surrogates from `first` on.
fn is_surrogate(text: &str, first: u32) -> bool {
    let digits = text.strip_prefix("\\u").and_then(|rest| rest.get(..4));
    let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    unit.is_some_and(|unit| (first..first + 0x400).contains(&unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_only_node_accepts_is_read_as_node_reads_it() {
        for (raw, text) in [
            (&br#"{"a":1,"b":2,"a":3}"#[..], r#"{"a":3,"b":2}"#),
            (
                br#"{"a":{"x":1,"\u0078":[{"y":0,"y":{}}]},"b":12345678901234567890.0}"#,
                r#"{"a":{"x":[{"y":{}}]},"b":12345678901234567890.0}"#,
            ),
            (b"{\"a\":\"\xff\xc3\"}", "{\"a\":\"\u{fffd}\u{fffd}\"}"),
            (
                br#"{"a":"\ud83c","b":"\udfb8\ud83c\udfb8","c":"\\ud83c"}"#,
                r#"{"a":"\ufffd","b":"\ufffd\ud83c\udfb8","c":"\\ud83c"}"#,
            ),
            (br#"{"\ud800":[],"\udc00":[ ]}"#, r#"{"\u{fffd}":[]}"#),
            (b" [ ] ", "[]"),
        ] {
            let expected = text.replace("\\u{fffd}", "\u{fffd}");
            assert_eq!(read(raw).as_deref(), Some(&*expected), "{}", String::from_utf8_lossy(raw));
        }
        for raw in [&b"{"[..], br#"{"a":01}"#, br#"{"a":"\ud8"}"#, b"{'a':1}", br#"{"a":1,}"#, b"\xff"] {
            assert_eq!(read(raw), None, "{}", String::from_utf8_lossy(raw));
        }
        assert_eq!(read("[".repeat(200_000).as_bytes()), None);
        let deep = "[".repeat(400) + &"]".repeat(400);
        assert_eq!(read(deep.as_bytes()), None);
    }
}
