//! The changes that a monolith in JavaScript makes to a record: `JSON.stringify(JSON.parse(text))`.
//!
//! Numbers become the nearest double in ECMAScript's spelling (`1.0` is sent as `1`, `1e400` as `null`), and members whose
//! keys are array indexes (`"7"`) are sent before the others, in numeric order.

use std::ops::Range;

use record::json::{each, string_end, value_end};
use serde_json::value::RawValue;

/// The most digits of an integer that is surely a double, spelled the same in JavaScript.
const SAFE_DIGITS: usize = 15;

/// A text as JavaScript sends it.
#[derive(Debug, PartialEq, Eq)]
pub struct Respelled {
    /// The text.
    pub text: Vec<u8>,
    /// Whether the spelling of a number changed.
    pub digits: bool,
    /// Whether the order of members changed.
    pub keys: bool,
}

/// Rewrites `json`, compact JSON, as JavaScript does; returns `None` if nothing changes. Text that is not JSON stays.
pub fn respell(json: &[u8]) -> Option<Respelled> {
    let mut scan = Scan::default();
    scan.run(json);
    let mut text = scan.out.map(|mut out| {
        out.extend_from_slice(&json[scan.copied..]);
        out
    });
    let digits = text.is_some();
    let mut keys = false;
    if scan.integer_keys {
        let before = text.as_deref().unwrap_or(json);
        if let Some(reordered) = reorder(before).filter(|reordered| reordered != before) {
            (keys, text) = (true, Some(reordered));
        }
    }
    text.map(|text| Respelled { text, digits, keys })
}

/// One pass over a text, which copies only if something changes.
#[derive(Default)]
struct Scan {
    out: Option<Vec<u8>>,
    /// The length of the text that `out` covers.
    copied: usize,
    integer_keys: bool,
}

impl Scan {
    fn run(&mut self, json: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = json.get(at) {
            let begin = at;
            match byte {
                b'"' => {
                    at = end_of_string(json, at);
                    let key = json.get(at) == Some(&b':');
                    self.integer_keys |= key && as_array_index(&json[begin + 1..at - 1]).is_some();
                }
                b'-' | b'0'..=b'9' => {
                    let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                    at += json[at..].iter().position(|byte| !is_part(byte)).unwrap_or(json.len() - at);
                    self.number(json, begin..at);
                }
                _ => at += 1,
            }
        }
    }

    fn number(&mut self, json: &[u8], range: Range<usize>) {
        let number = &json[range.clone()];
        let digits = number.strip_prefix(b"-").unwrap_or(number);
        if digits.len() <= SAFE_DIGITS && digits.iter().all(u8::is_ascii_digit) && digits.first() != Some(&b'0') {
            return;
        }
        let Some(spelled) = std::str::from_utf8(number).ok().and_then(spell).filter(|own| own.as_bytes() != number)
        else {
            return;
        };
        let out = self.out.get_or_insert_with(|| Vec::with_capacity(json.len()));
        out.extend_from_slice(&json[self.copied..range.start]);
        out.extend_from_slice(spelled.as_bytes());
        self.copied = range.end;
    }
}

/// Returns JavaScript's spelling of a number; `None` if it is not a JSON number.
fn spell(number: &str) -> Option<String> {
    serde_json::from_str::<&RawValue>(number).ok()?;
    let value: f64 = number.parse().ok()?;
    if value.is_infinite() {
        return Some("null".to_owned());
    }
    // Negative zero is sent as 0.
    Some(ryu_js::Buffer::new().format(value + 0.0).to_owned())
}

/// Finds the end of the string that begins at `begin`, in any text, even invalid JSON.
fn end_of_string(json: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    loop {
        match json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            None => return json.len().max(begin + 2),
            Some(skip) if json[at + skip] == b'"' => return at + skip + 1,
            Some(skip) => at += skip + 2,
        }
    }
}

/// Reads a key as a JavaScript array index; such members come first.
fn as_array_index(key: &[u8]) -> Option<u32> {
    match key {
        b"0" => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 10 && rest.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(key).ok()?.parse().ok().filter(|index| *index < u32::MAX)
        }
        _ => None,
    }
}

/// Returns the text with every object's array indexes first; `None` if it is not canonical JSON.
fn reorder(json: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(json).ok()?;
    let mut canonical = String::with_capacity(text.len());
    record::json::canonical_object(text, &mut canonical, &mut Vec::new()).ok()?;
    let mut out = Vec::with_capacity(json.len());
    (canonical == text).then(|| reorder_value(json, &mut out))?;
    Some(out)
}

/// Appends the value at the beginning of `json`, canonical text; returns its length there.
fn reorder_value(json: &[u8], out: &mut Vec<u8>) -> usize {
    match json[0] {
        b'{' => {
            let mut members = Vec::new();
            let length = each(json, |part| {
                let key = string_end(part);
                let mut member = part[..=key].to_vec();
                let length = key + 1 + reorder_value(&part[key + 1..], &mut member);
                members.push((as_array_index(&part[1..key - 1]), member));
                length
            });
            // Stable: the other keys keep their order.
            members.sort_by_key(|(index, _)| (index.is_none(), *index));
            let members: Vec<Vec<u8>> = members.into_iter().map(|(_, member)| member).collect();
            out.push(b'{');
            out.extend_from_slice(&members.join(&b','));
            out.push(b'}');
            length
        }
        b'[' => {
            out.push(b'[');
            let begin = out.len();
            let length = each(json, |part| {
                if out.len() > begin {
                    out.push(b',');
                }
                reorder_value(part, out)
            });
            out.push(b']');
            length
        }
        _ => {
            let length = value_end(json);
            out.extend_from_slice(&json[..length]);
            length
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn respelled(json: &str) -> (String, bool, bool) {
        let Some(Respelled { text, digits, keys }) = respell(json.as_bytes()) else {
            return (json.to_owned(), false, false);
        };
        assert_ne!(text, json.as_bytes(), "a text that does not change is None");
        (String::from_utf8(text).unwrap(), digits, keys)
    }

    #[test]
    fn numbers_and_keys_are_sent_as_javascript_does() {
        // As Node prints JSON.stringify(JSON.parse(text)).
        for (source, sent, digits, keys) in [
            (r#"{"a":12345678901234567890}"#, r#"{"a":12345678901234567000}"#, true, false),
            (r#"{"a":[1.0,-0,1e400,-1e400,1E2,0.10]}"#, r#"{"a":[1,0,null,null,100,0.1]}"#, true, false),
            (
                r#"{"a":[1e21,1e-7,123456789012345680000,5e-324]}"#,
                r#"{"a":[1e+21,1e-7,123456789012345680000,5e-324]}"#,
                true,
                false,
            ),
            (
                r#"{"a":[1,-1,0,0.5,9007199254740991,null,true]}"#,
                r#"{"a":[1,-1,0,0.5,9007199254740991,null,true]}"#,
                false,
                false,
            ),
            (r#"{"a":"1.0","b\"1.0":"\\"}"#, r#"{"a":"1.0","b\"1.0":"\\"}"#, false, false),
            (r#"{"b":0,"10":1,"9":2.0,"01":3}"#, r#"{"9":2,"10":1,"b":0,"01":3}"#, true, true),
            (r#"{"b":[{"x":{},"1":[]},{"1":0}]}"#, r#"{"b":[{"1":[],"x":{}},{"1":0}]}"#, false, true),
            (r#"{"4294967294":0,"a":1,"4294967295":2}"#, r#"{"4294967294":0,"a":1,"4294967295":2}"#, false, false),
        ] {
            assert_eq!(respelled(source), (sent.to_owned(), digits, keys), "{source}");
        }
    }

    #[test]
    fn text_that_is_not_json_stays_unchanged() {
        for text in
            ["", "\"", "\"a", "\"\\", "{\"1\":", "[1.,2]", "01", "-", "{\"a\":1.0.0}", "+", "{\"7\":{\"", "\u{fffd}1-"]
        {
            assert_eq!(respell(text.as_bytes()), None, "{text}");
        }
    }
}
