//! The canonical text of a JSON value: what `JSON.stringify(JSON.parse(text))` gives, without its losses.
//!
//! Compact, keys in the source's order, strings escaped as `JSON.stringify` escapes them; but numbers keep the
//! source's digits, and what JavaScript would silently drop or replace is refused: a repeated key, a lone surrogate.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// How deeply values may be nested.
pub const MAX_DEPTH: usize = 128;

/// What is wrong with a JSON text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer} (byte {offset}): {reason}")]
pub struct Fault {
    /// A JSON pointer (RFC 6901) to the value, from the text's root: `""` is the whole.
    pub pointer: String,
    /// Bytes from the start of the text.
    pub offset: usize,
    /// A phrase for people.
    pub reason: String,
}

/// The canonical text of `text`, an object. `default` is a key and the JSON of its value: the first member of the
/// result where the object has no such key. Says whether that was so.
///
/// # Errors
/// `text` is not one well-formed JSON object, or would lose something.
pub fn canonical_object(text: &str, default: Option<(&str, &str)>) -> Result<(Vec<u8>, bool), Fault> {
    let mut writer = Writer { text, out: Vec::with_capacity(text.len() + 16), depth: 0, defaulted: false, fault: None };
    let value = text.trim_start_matches([' ', '\t', '\n', '\r']);
    let written = if value.starts_with('{') || value.is_empty() {
        writer.container(text, default)
    } else {
        writer.refuse(value, 0, format!("expected an object, found {}", kind(value)))
    };
    match written {
        Ok(()) => Ok((writer.out, writer.defaulted)),
        Err(Refused) => Err(writer.fault.expect("every refusal states its fault")),
    }
}

/// The offset at which the value of the member `key` begins in `text`, a well-formed object.
pub fn member_offset(text: &str, key: &str) -> Option<usize> {
    struct Find<'k>(&'k str);

    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some((Text(key), value)) = map.next_entry()? {
                if key == self.0 {
                    found = Some(value);
                }
            }
            Ok(found)
        }
    }

    let found = serde_json::Deserializer::from_str(text).deserialize_map(Find(key)).ok()??;
    Some(offset_of(text, found.get()))
}

/// What a value is, for "expected …, found …".
pub fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The message of a serde_json error without its "at line 1 column 2".
pub fn reason_of(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason) {
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "a lone surrogate: half a character, which is no text".to_owned()
        }
        reason => reason.to_owned(),
    }
}

/// Where in `text` serde_json found its error, as bytes from the start.
pub fn offset_in(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let line_start: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    // serde_json stands one past the byte that is wrong; past a line's end that is column 0 of the next line.
    (line_start + error.column()).saturating_sub(1).min(text.len())
}

/// Appends `key` to a JSON pointer.
pub fn push_pointer(pointer: &mut String, key: &str) {
    pointer.push('/');
    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

/// The offset in `text` of `part`, which borrows from it.
fn offset_of(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// A string that borrows from the source where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// The value was refused; the writer holds the fault.
#[derive(Debug)]
struct Refused;

/// Writes JSON in its canonical form. serde_json reads one level at a time into raw text, so that a number is copied,
/// never parsed, and each value's offset is known.
struct Writer<'t> {
    text: &'t str,
    out: Vec<u8>,
    depth: usize,
    defaulted: bool,
    fault: Option<Fault>,
}

impl<'t> Writer<'t> {
    fn value(&mut self, raw: &'t str) -> Result<(), Refused> {
        match raw.as_bytes().first() {
            Some(b'{' | b'[') => self.container(raw, None),
            Some(b'"') => self.string(raw),
            _ => {
                self.out.extend_from_slice(raw.as_bytes());
                Ok(())
            }
        }
    }

    fn container(&mut self, raw: &'t str, default: Option<(&str, &str)>) -> Result<(), Refused> {
        if self.depth == MAX_DEPTH {
            return self.refuse(raw, 0, format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let mut deserializer = serde_json::Deserializer::from_str(raw);
        let read = Container { writer: self, default }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
        self.depth -= 1;
        match read {
            Ok(()) => Ok(()),
            Err(_) if self.fault.is_some() => Err(Refused),
            Err(error) => self.refuse(raw, offset_in(raw, &error), reason_of(&error)),
        }
    }

    fn string(&mut self, raw: &'t str) -> Result<(), Refused> {
        // Without an escape the text is already as JSON.stringify writes it: the grammar allows no raw character
        // that would need one.
        if memchr::memchr(b'\\', raw.as_bytes()).is_none() {
            self.out.extend_from_slice(raw.as_bytes());
            return Ok(());
        }
        match serde_json::from_str::<Text>(raw) {
            Ok(Text(text)) => self.text(&text),
            Err(error) => return self.refuse(raw, offset_in(raw, &error), reason_of(&error)),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        serde_json::to_writer(&mut self.out, text).expect("a string can be written to memory");
    }

    /// States the fault, `skip` bytes into `raw`. The pointer grows on the way back up, in [`Writer::under`].
    fn refuse(&mut self, raw: &'t str, skip: usize, reason: String) -> Result<(), Refused> {
        self.fault = Some(Fault { pointer: String::new(), offset: offset_of(self.text, raw) + skip, reason });
        Err(Refused)
    }

    /// Puts the member or element `key`, in which the fault lies, before its pointer.
    fn under<E: serde::de::Error>(&mut self, key: &str) -> E {
        let fault = self.fault.as_mut().expect("every refusal states its fault");
        let mut pointer = String::new();
        push_pointer(&mut pointer, key);
        fault.pointer.insert_str(0, &pointer);
        E::custom("refused")
    }
}

/// Visits the members of an object or the elements of an array.
struct Container<'w, 't, 'd> {
    writer: &'w mut Writer<'t>,
    default: Option<(&'d str, &'d str)>,
}

impl<'de: 't, 't> DeserializeSeed<'de> for Container<'_, 't, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de: 't, 't> Visitor<'de> for Container<'_, 't, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Container { writer, default } = self;
        let mut keys = Keys::default();
        writer.out.push(b'{');
        let members = writer.out.len();
        while let Some((Text(key), raw)) = map.next_entry::<_, &'de RawValue>()? {
            if writer.out.len() > members {
                writer.out.push(b',');
            }
            writer.text(&key);
            writer.out.push(b':');
            if keys.contains(&key) {
                let _ = writer.refuse(raw.get(), 0, "the key is repeated".to_owned());
                return Err(writer.under(&key));
            }
            writer.value(raw.get()).map_err(|Refused| writer.under::<A::Error>(&key))?;
            keys.insert(key);
        }
        if let Some((key, value)) = default
            && !keys.contains(key)
        {
            let comma = if writer.out.len() > members { "," } else { "" };
            writer.out.splice(members..members, format!("\"{key}\":{value}{comma}").into_bytes());
            writer.defaulted = true;
        }
        writer.out.push(b'}');
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let writer = self.writer;
        writer.out.push(b'[');
        let mut index = 0_usize;
        while let Some(raw) = seq.next_element::<&'de RawValue>()? {
            if index > 0 {
                writer.out.push(b',');
            }
            writer.value(raw.get()).map_err(|Refused| writer.under::<A::Error>(&index.to_string()))?;
            index += 1;
        }
        writer.out.push(b']');
        Ok(())
    }
}

/// The keys of one object: a list while there are few, as there nearly always are.
#[derive(Default)]
struct Keys<'a> {
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    const FEW: usize = 16;

    fn contains(&self, key: &str) -> bool {
        self.few.iter().any(|one| one == key) || self.many.contains(key)
    }

    fn insert(&mut self, key: Cow<'a, str>) {
        if self.few.len() < Self::FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Result<String, Fault> {
        canonical_object(text, None).map(|(json, _)| String::from_utf8(json).unwrap())
    }

    #[test]
    fn text_comes_out_as_json_stringify_writes_it_with_the_digits_of_the_source() {
        for (source, expected) in [
            (r#" { "b" : 1 , "a" : [ ] , "c" : { } } "#, r#"{"b":1,"a":[],"c":{}}"#),
            (r#"{"n":[1.0,-0,1E400,0.10,12345678901234567890]}"#, r#"{"n":[1.0,-0,1E400,0.10,12345678901234567890]}"#),
            (
                r#"{"t":"\u00e9\/\u001F\u007f\ud83c\udfb8\b\f\n\r\t\"\\"}"#,
                "{\"t\":\"é/\\u001f\u{7f}🎸\\b\\f\\n\\r\\t\\\"\\\\\"}",
            ),
            ("{\"t\":\"\u{7f}\u{2028}é\",\"\\u0061\":null}", "{\"t\":\"\u{7f}\u{2028}é\",\"a\":null}"),
            (r#"{"x":[true,false,null,{"y":[[]]}],"":0}"#, r#"{"x":[true,false,null,{"y":[[]]}],"":0}"#),
            (r#"{"$serde_json::private::RawValue":"1"}"#, r#"{"$serde_json::private::RawValue":"1"}"#),
        ] {
            assert_eq!(canonical(source).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_default_is_the_first_member_where_its_key_is_absent() {
        for (source, expected, defaulted) in [
            ("{}", r#"{"id":7}"#, true),
            (r#"{ "a": {"id":1} }"#, r#"{"id":7,"a":{"id":1}}"#, true),
            (r#"{"a":1,"i\u0064":2}"#, r#"{"a":1,"id":2}"#, false),
        ] {
            assert_eq!(canonical_object(source, Some(("id", "7"))), Ok((expected.into(), defaulted)), "{source}");
        }
    }

    #[test]
    fn what_would_be_lost_is_refused_with_pointer_and_offset() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        let deepest = "/0".repeat(MAX_DEPTH - 1);
        let many: String = (0..20).map(|n| format!("\"k{n}\":{n},")).collect();
        for (source, pointer, offset, reason) in [
            (r#"{"a":1,"\u0061":2}"#, "/a", 16, "repeated"),
            (r#"{"a":[0,{"b/c~":{"d":1,"d":2}}]}"#, "/a/1/b~1c~0/d", 27, "repeated"),
            (&format!("{{{many}\"k18\":1}}"), "/k18", 167, "repeated"),
            (r#"{"a":"\ud800"}"#, "/a", 12, "surrogate"),
            (r#"{"a":"\udc00x"}"#, "/a", 11, "surrogate"),
            (r#"{"a":{"\ud800":1}}"#, "/a", 13, "surrogate"),
            (&deep, &format!("/a{deepest}"), 5 + MAX_DEPTH - 1, "nested deeper"),
            ("[1]", "", 0, "expected an object, found an array"),
            (" 12", "", 1, "found a number"),
            ("", "", 0, "EOF"),
            (r#"{"a":}"#, "", 5, "expected value"),
            ("{\n\"a\":1,\n\"b\" 2}", "", 13, "expected `:`"),
            (r#"{"a":1}x"#, "", 7, "trailing"),
            (r#"{"a":01}"#, "", 6, "number"),
            ("{\"a\":\"x\n\"}", "", 6, "control character"),
        ] {
            let fault = canonical(source).unwrap_err();
            assert_eq!((fault.pointer.as_str(), fault.offset), (pointer, offset), "{source}: {fault}");
            assert!(fault.reason.contains(reason), "{source}: {fault}");
        }
    }
}
