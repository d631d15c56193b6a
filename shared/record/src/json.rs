//! The canonical text of a JSON value: the result of `JSON.stringify(JSON.parse(text))`, but lossless.
//!
//! The text is compact, with keys in the source's order and strings escaped as `JSON.stringify` escapes them. But
//! numbers keep the source's digits, and a repeated key or a lone surrogate, which JavaScript would silently drop or
//! replace, is refused.
//!
//! One pass checks the text against the grammar of RFC 8259 and writes as it reads. serde_json cannot do this: its
//! values lose digits, or mistake a member named like its own markers for a number; its raw values need a pass for each
//! level. A test compares the two on every kind of text.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use memchr::memchr2;

/// The deepest nesting of values.
pub const MAX_DEPTH: usize = 128;

/// An error in a JSON text, and its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer} (byte {offset}): {reason}")]
pub struct Fault {
    /// A JSON pointer (RFC 6901) to the value; `""` is the whole text.
    pub pointer: String,
    /// The bytes from the start of the text.
    pub offset: usize,
    /// The reason, as a phrase for people.
    pub reason: String,
}

/// The places of a member of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key's place in the canonical text, without its quotes.
    pub key: Range<usize>,
    /// The value's place in the canonical text.
    pub value: Range<usize>,
    /// The value's offset in the source.
    pub offset: usize,
}

/// Appends the canonical text of `text`, an object, to `out`, and stores the places of its members in `members`.
///
/// # Errors
/// `text` is not exactly one well-formed JSON object, or would lose something. Then `out` holds a part of it.
pub fn canonical_object(text: &str, out: &mut String, members: &mut Vec<Member>) -> Result<(), Fault> {
    members.clear();
    let mut writer = Writer { members: std::mem::take(members), ..Writer::new(text, out) };
    let written = writer.document();
    *members = writer.members;
    written.map_err(|fault| *fault)
}

/// An object in canonical form, which owns its text.
#[derive(Clone, Debug)]
pub struct Object {
    text: String,
    members: Vec<Member>,
}

/// The same text has the same members.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Object {
    /// Reads `text`, nested at most `max_depth` deep, the object itself included, and at most [`MAX_DEPTH`].
    ///
    /// # Errors
    /// `text` is not exactly one well-formed JSON object, or would lose something, or is nested too deeply.
    pub fn read(text: &str, max_depth: usize) -> Result<Self, Fault> {
        let mut out = String::with_capacity(text.len());
        let mut writer = Writer { max_depth: max_depth.min(MAX_DEPTH), ..Writer::new(text, &mut out) };
        writer.document().map_err(|fault| *fault)?;
        let members = writer.members;
        Ok(Self { text: out, members })
    }

    /// Returns the canonical text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the value of the member `key`, if it exists.
    pub fn get(&self, key: &str) -> Option<&str> {
        let member = self.members.iter().find(|member| &self.text[member.key.clone()] == key)?;
        Some(&self.text[member.value.clone()])
    }
}

/// Lists the members of `value`, a canonical text: their keys, without quotes, and values. Empty if it is not an
/// object.
pub fn members(value: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = value.strip_prefix('{').unwrap_or_default();
    std::iter::from_fn(move || {
        let (key, more) = rest.split_at_checked(end(rest))?;
        let more = more.strip_prefix(':')?;
        let (value, more) = more.split_at_checked(end(more))?;
        rest = more.get(1..)?;
        Some((key.strip_prefix('"')?.strip_suffix('"')?, value))
    })
}

/// Returns the length of the key or value at the beginning of a text. Never panics, even if the text is not canonical.
fn end(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'"' => {
                while let Some(rest) = text.as_bytes().get(at + 1..) {
                    at += 1 + memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    match text.as_bytes().get(at) {
                        Some(b'\\') => at += 1,
                        _ => break,
                    }
                }
            }
            b',' | b':' | b'}' | b']' if depth == 0 => return at,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// Calls `part` at each member or element of the container at the beginning of `json`; `part` returns its length.
/// Returns the container's length.
pub fn each<'j>(json: &'j [u8], mut part: impl FnMut(&'j [u8]) -> usize) -> usize {
    let mut at = 1;
    while !matches!(json[at], b'}' | b']') {
        at += usize::from(json[at] == b',');
        at += part(&json[at..]);
    }
    at + 1
}

/// Returns the length of the string at the beginning of `json`.
pub fn string_end(json: &[u8]) -> usize {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', &json[at..]).expect("canonical text is whole");
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
}

/// Returns the length of the value at the beginning of `json`.
pub fn value_end(json: &[u8]) -> usize {
    match json[0] {
        b'"' => string_end(json),
        b'{' => each(json, |part| {
            let key = string_end(part);
            key + 1 + value_end(&part[key + 1..])
        }),
        b'[' => each(json, value_end),
        _ => json.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(json.len()),
    }
}

/// Calls `member` with each key, in quotes, and value of the object at the beginning of `json`. Returns the object's
/// length.
pub fn each_member<'j>(json: &'j [u8], mut member: impl FnMut(&'j [u8], &'j [u8])) -> usize {
    each(json, |part| {
        let key = string_end(part);
        let length = key + 1 + value_end(&part[key + 1..]);
        member(&part[..key], &part[key + 1..length]);
        length
    })
}

/// Reads the text of a JSON string. Mostly it has no escapes; then nothing is copied.
pub(crate) fn read_text(string: &str) -> Option<Cow<'_, str>> {
    if string.contains('\\') {
        serde_json::from_str(string).ok().map(Cow::Owned)
    } else {
        Some(string[1..string.len() - 1].into())
    }
}

/// Names the kind of a value, for "expected …, found …".
pub fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => "something that is not JSON",
    }
}

/// Returns the message of a serde_json error without its "at line 1 column 2".
pub fn reason_of(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason).to_owned()
}

/// Appends `key` to a JSON pointer.
pub fn push_pointer(pointer: &mut String, key: &str) {
    pointer.push('/');
    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

impl Fault {
    fn at(offset: usize, reason: impl Into<String>) -> Box<Self> {
        Box::new(Fault { pointer: String::new(), offset, reason: reason.into() })
    }

    /// Prepends `key`, the member or element that the fault is in, to its pointer.
    fn under(mut self: Box<Self>, key: &str) -> Box<Self> {
        let mut pointer = String::new();
        push_pointer(&mut pointer, key);
        self.pointer.insert_str(0, &pointer);
        self
    }
}

/// Reads `text` from `at` on, and appends its canonical form to `out`.
struct Writer<'t, 'o> {
    text: &'t str,
    /// Always at a character boundary.
    at: usize,
    /// The start of the text that is not yet written: text that is canonical already is written in large pieces.
    from: usize,
    out: &'o mut String,
    depth: usize,
    max_depth: usize,
    /// The places in `out` of the keys of all open objects, innermost last.
    keys: Vec<(usize, usize)>,
    /// The members of the outermost object.
    members: Vec<Member>,
}

impl<'t, 'o> Writer<'t, 'o> {
    fn new(text: &'t str, out: &'o mut String) -> Self {
        Self { text, at: 0, from: 0, out, depth: 0, max_depth: MAX_DEPTH, keys: Vec::new(), members: Vec::new() }
    }

    fn document(&mut self) -> Result<(), Box<Fault>> {
        let first = self.token();
        if !matches!(first, Some(b'{') | None) {
            return Err(Fault::at(self.at, format!("expected an object, found {}", kind(&self.text[self.at..]))));
        }
        self.object()?;
        self.write();
        match self.token() {
            None => Ok(()),
            Some(_) => Err(Fault::at(self.at, "there is more after the end of the object")),
        }
    }

    /// Writes the text up to the current byte.
    fn write(&mut self) {
        self.out.push_str(&self.text[self.from..self.at]);
        self.from = self.at;
    }

    /// Returns the place in `out` of what is written next.
    fn place(&self) -> usize {
        self.out.len() + self.at - self.from
    }

    /// Returns what is or will be written at these places in `out`. A string is written as a whole.
    fn written(&self, (begin, end): (usize, usize)) -> &[u8] {
        match begin.checked_sub(self.out.len()) {
            None => &self.out.as_bytes()[begin..end],
            Some(begin) => &self.text.as_bytes()[self.from + begin..self.from + end - self.out.len()],
        }
    }

    /// Skips white space and returns the next byte without passing over it.
    fn token(&mut self) -> Option<u8> {
        if let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.write();
            while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
                self.at += 1;
            }
            self.from = self.at;
        }
        self.peek()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over `byte`, which must come next.
    fn expect(&mut self, byte: u8) -> Result<(), Box<Fault>> {
        if self.token() != Some(byte) {
            return Err(self.unexpected(&format!("`{}`", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    fn unexpected(&self, expected: &str) -> Box<Fault> {
        match self.peek() {
            Some(_) => Fault::at(self.at, format!("expected {expected}")),
            None => Fault::at(self.at, format!("the text ends where {expected} is expected")),
        }
    }

    fn value(&mut self) -> Result<(), Box<Fault>> {
        match self.token() {
            Some(b'"') => self.string(),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn enter(&mut self) -> Result<(), Box<Fault>> {
        if self.depth == self.max_depth {
            return Err(Fault::at(self.at, format!("nested deeper than {} levels", self.max_depth)));
        }
        self.depth += 1;
        Ok(())
    }

    fn object(&mut self) -> Result<(), Box<Fault>> {
        self.enter()?;
        self.expect(b'{')?;
        let first_key = self.keys.len();
        let mut many = HashSet::new();
        if self.token() != Some(b'}') {
            loop {
                if self.token() != Some(b'"') {
                    return Err(self.unexpected("a key in double quotes"));
                }
                let key = self.place();
                self.string()?;
                let key = (key, self.place());
                self.expect(b':')?;
                self.token();
                if self.is_repeated(key, first_key, &mut many) {
                    return Err(Fault::at(self.at, "the key is repeated").under(&self.key(key)));
                }
                self.keys.push(key);
                let (offset, value) = (self.at, self.place());
                self.value().map_err(|fault| fault.under(&self.key(key)))?;
                if self.depth == 1 {
                    self.members.push(Member { key: key.0 + 1..key.1 - 1, value: value..self.place(), offset });
                }
                match self.token() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return Err(self.unexpected("`,` or `}`")),
                }
            }
        }
        self.at += 1;
        self.keys.truncate(first_key);
        self.depth -= 1;
        Ok(())
    }

    /// Tells whether the object whose keys begin at `first_key` has `key` already. Equal keys have equal canonical
    /// texts.
    fn is_repeated(&self, key: (usize, usize), first_key: usize, many: &mut HashSet<Vec<u8>>) -> bool {
        const FEW: usize = 16;
        let known = &self.keys[first_key..];
        if known.len() < FEW {
            return known
                .iter()
                .any(|known| known.1 - known.0 == key.1 - key.0 && self.written(*known) == self.written(key));
        }
        if many.is_empty() {
            many.extend(known.iter().map(|&known| self.written(known).to_owned()));
        }
        !many.insert(self.written(key).to_owned())
    }

    /// Reads a key back.
    fn key(&self, key: (usize, usize)) -> String {
        serde_json::from_slice(self.written(key)).expect("a canonical string is JSON")
    }

    fn array(&mut self) -> Result<(), Box<Fault>> {
        self.enter()?;
        self.at += 1;
        if self.token() != Some(b']') {
            for index in 0_usize.. {
                self.value().map_err(|fault| fault.under(&index.to_string()))?;
                match self.token() {
                    Some(b',') => self.at += 1,
                    Some(b']') => break,
                    _ => return Err(self.unexpected("`,` or `]`")),
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Box<Fault>> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Box<Fault>> {
        self.skip(b"-");
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.skip(b".") {
            self.digits()?;
        }
        if self.skip(b"eE") {
            self.skip(b"+-");
            self.digits()?;
        }
        if let Some(b'0'..=b'9') = self.peek() {
            return Err(Fault::at(self.at, "a number begins with a zero it does not need"));
        }
        Ok(())
    }

    fn skip(&mut self, any_of: &[u8]) -> bool {
        let skip = self.peek().is_some_and(|byte| any_of.contains(&byte));
        self.at += usize::from(skip);
        skip
    }

    fn digits(&mut self) -> Result<(), Box<Fault>> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == begin { Err(self.unexpected("a digit")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<(), Box<Fault>> {
        self.at += 1;
        let mut is_as_written = true;
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let special =
                find_special(rest).filter(|place| rest[*place] >= 0x20 || memchr2(b'"', b'\\', rest).is_some());
            let Some(length) = special else {
                return Err(Fault::at(self.text.len(), "the text ends in the middle of a string"));
            };
            self.at += length;
            match rest[length] {
                b'"' => {
                    self.at += 1;
                    // Its beginning is written already: a key is read back in one piece.
                    if !is_as_written {
                        self.write();
                    }
                    return Ok(());
                }
                b'\\' => is_as_written &= self.escape()?,
                _ => return Err(Fault::at(self.at, "a control character in a string; it must be escaped")),
            }
        }
    }

    /// Reads an escape. Its character is written escaped only if `JSON.stringify` escapes it. Returns whether it is
    /// spelled like that already; only otherwise it is written.
    fn escape(&mut self) -> Result<bool, Box<Fault>> {
        let begin = self.at;
        let letter = self.text.as_bytes().get(self.at + 1).copied();
        if let Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') = letter {
            self.at += 2;
            return Ok(true);
        }
        self.write();
        self.at += 2;
        let character = match letter {
            Some(b'/') => '/',
            Some(b'u') => self.unicode_escape(begin)?,
            _ => return Err(Fault::at(begin, "an escape that JSON does not have")),
        };
        match character {
            '"' => self.out.push_str("\\\""),
            '\\' => self.out.push_str("\\\\"),
            '\u{8}' => self.out.push_str("\\b"),
            '\u{c}' => self.out.push_str("\\f"),
            '\n' => self.out.push_str("\\n"),
            '\r' => self.out.push_str("\\r"),
            '\t' => self.out.push_str("\\t"),
            '\0'..'\u{20}' => self.out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => self.out.push(character),
        }
        self.from = self.at;
        Ok(false)
    }

    fn unicode_escape(&mut self, begin: usize) -> Result<char, Box<Fault>> {
        let mut units = vec![self.hex(begin)?];
        if (0xD800..0xDC00).contains(&units[0]) && self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            units.push(self.hex(begin)?);
        }
        match char::decode_utf16(units).next() {
            Some(Ok(character)) => Ok(character),
            _ => Err(Fault::at(begin, "a lone surrogate, which is half a character")),
        }
    }

    fn hex(&mut self, begin: usize) -> Result<u16, Box<Fault>> {
        let digits = self.text.get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        self.at += 4;
        digits
            .and_then(|digits| u16::from_str_radix(digits, 16).ok())
            .ok_or_else(|| Fault::at(begin, "an escape without its four hexadecimal digits"))
    }
}

/// Finds the first quote, backslash or control character in the rest of a string.
fn find_special(text: &[u8]) -> Option<usize> {
    /// The bytes that are searched eight at a time: most strings end there, before a longer search has begun.
    const SHORT: usize = 16;
    let (words, _) = text[..text.len().min(SHORT)].as_chunks();
    for (nth, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return Some(nth * size_of::<u64>() + special.trailing_zeros() as usize / 8);
        }
    }
    let begin = words.len() * size_of::<u64>();
    let rest = &text[begin..];
    let end = memchr2(b'"', b'\\', rest);
    let searched = &rest[..end.unwrap_or(rest.len())];
    // A loop without an early end lets the compiler use vector instructions.
    let place = match searched.iter().fold(false, |found, byte| found | (*byte < 0x20)) {
        true => searched.iter().position(|byte| *byte < 0x20),
        false => end,
    };
    place.map(|place| begin + place)
}

/// Marks the quotes, backslashes and control characters among eight bytes. The mark of the lowest one is right; above it,
/// others may be marked as well. See <https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>.
fn special_bytes(word: u64) -> u64 {
    const EACH: u64 = u64::MAX / 0xFF;
    let zeros = |word: u64| word.wrapping_sub(EACH) & !word;
    let [quotes, backslashes] = [b'"', b'\\'].map(|byte| zeros(word ^ (EACH * u64::from(byte))));
    let controls = word.wrapping_sub(EACH * 0x20) & !word;
    (quotes | backslashes | controls) & (EACH * 0x80)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Result<String, Fault> {
        let mut out = String::new();
        canonical_object(text, &mut out, &mut Vec::new())?;
        Ok(out)
    }

    #[test]
    fn canonical_text_is_that_of_json_stringify_with_the_digits_of_the_source() {
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

    proptest! {
        /// Bytes near those that are searched are as likely as they are.
        #[test]
        fn the_first_special_byte_is_found_wherever_it_is(
            text in prop::collection::vec(prop_oneof![
                40 => Just(b'a'), 1 => any::<u8>(), 1 => prop::sample::select(&b"!\"#[\\]\x1F\x20\x7F\x80\xA2\xDC\0"[..]),
            ], 0..60),
        ) {
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
            prop_assert_eq!(find_special(&text), text.iter().position(is_special));
        }
    }

    #[test]
    fn members_are_found_in_a_canonical_object_and_no_text_makes_the_search_panic() {
        let object = r#"{"a":1.0,"b\"}:":"x\\","":{"c":[{"d":",]"}]},"é":[]}"#;
        let expected = [("a", "1.0"), (r#"b\"}:"#, r#""x\\""#), ("", r#"{"c":[{"d":",]"}]}"#), ("é", "[]")];
        assert_eq!(members(object).collect::<Vec<_>>(), expected);
        for value in ["{}", "", "[]", "null", "{", "{\"", "{:", "{:1}", "{\":1}", "{é:1}", "{\"a\"", "{\"a\":1", "{]"]
        {
            assert_eq!(members(value).next(), None, "{value}");
        }
    }

    #[test]
    fn a_lossy_or_malformed_text_is_refused_with_pointer_and_offset() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        let deepest = "/0".repeat(MAX_DEPTH - 1);
        let many: String = (0..20).map(|n| format!("\"k{n}\":{n},")).collect();
        for (source, pointer, offset, reason) in [
            (r#"{"a":1,"\u0061":2}"#, "/a", 16, "repeated"),
            (r#"{"a":[0,{"b/c~":{"d":1,"d":2}}]}"#, "/a/1/b~1c~0/d", 27, "repeated"),
            (&format!("{{{many}\"k18\":1}}"), "/k18", 167, "repeated"),
            (r#"{"a":"\ud800"}"#, "/a", 6, "surrogate"),
            (r#"{"a":"\udc00x"}"#, "/a", 6, "surrogate"),
            (r#"{"a":{"\ud800":1}}"#, "/a", 7, "surrogate"),
            (&deep, &format!("/a{deepest}"), 5 + MAX_DEPTH - 1, "nested deeper"),
            ("[1]", "", 0, "expected an object, found an array"),
            (" 12", "", 1, "found a number"),
            ("", "", 0, "the text ends"),
            (r#"{"a":}"#, "/a", 5, "expected a value"),
            ("{\n\"a\":1,\n\"b\" 2}", "", 13, "expected `:`"),
            (r#"{"a":1}x"#, "", 7, "more after the end"),
            (r#"{"a":01}"#, "/a", 6, "begins with a zero"),
            ("{\"a\":\"x\n\"}", "/a", 7, "control character"),
        ] {
            let fault = canonical(source).unwrap_err();
            assert_eq!((fault.pointer.as_str(), fault.offset), (pointer, offset), "{source}: {fault}");
            assert!(fault.reason.contains(reason), "{source}: {fault}");
        }
    }

    /// Generates texts that are nearly JSON: every token, in nearly every order.
    fn nearly_json() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"b\"",
            "\"\"",
            "\"",
            "\\",
            "0",
            "1",
            "-",
            "10",
            ".5",
            "e9",
            "E+",
            "true",
            "fals",
            "null",
            " ",
            "\n",
            "\t",
            "\"\\u00e9\"",
            "\"\\ud83c\\udfb8\"",
            "\"\\n\\/\"",
            "\"é🎸\"",
            "\"\\x\"",
            "\u{1}",
            "{\"a\":1}",
        ]);
        prop::collection::vec(token, 0..12).prop_map(|tokens| format!("{{\"k\":{}}}", tokens.concat()))
    }

    /// Generates JSON objects in all their spellings, from serde_json's own values.
    fn spelled_out() -> impl Strategy<Value = (serde_json::Value, String)> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        let value = leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        });
        let object = prop::collection::btree_map(any::<String>(), value, 0..6)
            .prop_map(|members| serde_json::Value::Object(members.into_iter().collect()));
        (object, any::<bool>(), any::<bool>()).prop_map(|(value, pretty, escaped)| {
            let mut text =
                if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            if escaped {
                let units = |character: char| {
                    character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect::<String>()
                };
                text = text.chars().map(|c| if c.is_ascii() { c.to_string() } else { units(c) }).collect();
            }
            (value, text)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_accepts_the_texts_that_serde_json_accepts_except_lossy_ones(text in nearly_json()) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match canonical(&text) {
                Ok(ours) => {
                    match theirs {
                        Ok(theirs) => prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&ours).unwrap(), theirs),
                        // A number beyond every float, such as 1e910, keeps its digits.
                        Err(error) => prop_assert!(error.to_string().contains("number out of range"), "{}", error),
                    }
                    prop_assert_eq!(canonical(&ours), Ok(ours));
                }
                Err(fault) => {
                    let deliberate = ["repeated", "lone surrogate"].iter().any(|ours| fault.reason.contains(ours));
                    prop_assert!(theirs.is_err() || deliberate, "{}: {}", text, fault);
                    prop_assert!(fault.offset <= text.len());
                }
            }
        }

        #[test]
        fn every_spelling_of_a_value_gives_the_text_that_serde_json_writes((value, text) in spelled_out()) {
            // serde_json writes like JSON.stringify; its maps are sorted, and so are these.
            prop_assert_eq!(canonical(&text), Ok(serde_json::to_string(&value).unwrap()));
        }
    }
}
