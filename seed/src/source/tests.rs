//! Tests of the reader of untrusted files: what it accepts, what it refuses, and the places that it names.

use std::io::{Cursor, Read};

use serde_json::Value;

use super::*;
use crate::rejects::Rejects;

/// A reader that gives one byte at a time, so that every token meets a buffer's end.
struct Dribble(Cursor<Vec<u8>>);

impl Read for Dribble {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let one = bytes.len().min(1);
        self.0.read(&mut bytes[..one])
    }
}

/// Reads the posts in `input` as canonical records; returns the place and the reason of a refusal.
fn read_from(input: Box<dyn Read + Send>) -> Result<Vec<String>, (String, String)> {
    let path = Path::new("f");
    let plan = Plan::of(Plan::workspace().named("posts").unwrap());
    let refused = |error: Error| match error {
        Error::Input { place, reason, .. } => (place, reason),
        other => panic!("{other}"),
    };
    let mut source = Source::new(path, &plan, input);
    let mut read = Vec::new();
    while let Some(batch) = source.next_batch().map_err(refused)? {
        for records in Rejects::refuse(path).sift(&batch).map_err(refused)? {
            read.extend(records.iter().map(|record| record.json().into_owned()));
        }
        source.recycle(batch);
    }
    Ok(read)
}

fn read(text: &[u8]) -> Result<Vec<String>, (String, String)> {
    let whole = read_from(Box::new(Cursor::new(text.to_vec())));
    let dribbled = read_from(Box::new(Dribble(Cursor::new(text.to_vec()))));
    assert_eq!(whole, dribbled, "{}", String::from_utf8_lossy(text));
    whole
}

/// Makes a file with one post whose member `x` is `value`; returns it with the value's offset.
fn with_value(value: &[u8]) -> (Vec<u8>, usize) {
    let begin = br#"{"posts":[{"thread":1,"text":"t","user":1,"x":"#;
    ([begin, value, b"}]}"].concat(), begin.len())
}

#[test]
fn every_json_value_keeps_its_meaning() {
    for value in [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-1",
        "10",
        "0.5",
        "-0.0",
        "1e5",
        "1E5",
        "1e+5",
        "1e-5",
        "1.5e300",
        "123456789012345678901234567890",
        "\"\"",
        "\"a\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\\u0041\"",
        "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\u{7f}\"",
        "\"é😀\u{2028}\u{feff}\"",
        "\"\\u0000\"",
        "\"\\\\u0041\"",
        "[]",
        "{}",
        "[1,2]",
        "[ 1 , 2 ]",
        "[[[]]]",
        "{\"a\":{\"b\":[]}}",
        "{\"\":0}",
        "{\"a\":1,\"A\":2}",
        " \t\r\n1 \t\r\n",
        "{\"a b\":\"c\\\"d\"}",
        "\"}]\"",
        "\"[{\"",
        "\"\\\\\"",
    ] {
        let (text, _) = with_value(value.as_bytes());
        let posts = read(&text).unwrap_or_else(|refused| panic!("{value}: {refused:?}"));
        let ours: Value = serde_json::from_str(&posts[0]).unwrap();
        assert_eq!(ours["x"], serde_json::from_str::<Value>(value).unwrap(), "{value}");
        assert_eq!(ours["id"], 1, "{value}");
    }
    // A number beyond every float keeps its spelling.
    let (text, _) = with_value(b"1e400");
    assert!(read(&text).unwrap()[0].ends_with("\"x\":1e400}"));
}

#[test]
fn a_value_that_is_not_json_is_refused_at_its_byte() {
    // The value, and the least distance of the fault from its beginning.
    for (value, at) in [
        (&b""[..], 0),
        (b"nul", 0),
        (b"True", 0),
        (b"NaN", 0),
        (b"-", 0),
        (b"+1", 0),
        (b"01", 0),
        (b"-01", 0),
        (b"1.", 0),
        (b".5", 0),
        (b"1e", 0),
        (b"1e+", 0),
        (b"0x1", 0),
        (b"1 2", 0),
        (b"'a'", 0),
        (b"\"\\x\"", 0),
        (b"\"\\u12\"", 0),
        (b"\"\\u123g\"", 0),
        (b"\"\\ud800\"", 0),
        (b"\"\\udc00\"", 0),
        (b"\"\\ud800\\u0041\"", 0),
        (b"\"\t\"", 0),
        (b"\"\n\"", 0),
        (b"\"\0\"", 0),
        (b"\"\xff\"", 0),
        (b"\"\xc0\x80\"", 0),
        (b"\"\xed\xa0\x80\"", 0),
        (b"[1,]", 0),
        (b"[,1]", 0),
        (b"[1", 0),
        (b"[1}", 0),
        (b"{\"a\"}", 0),
        (b"{\"a\":}", 0),
        (b"{\"a\":1,}", 0),
        (b"{a:1}", 0),
        (b"{\"a\":1,\"a\":2}", 0),
        (b"{\"a\":1,\"\\u0061\":2}", 0),
        (b"// x\n1", 0),
        (b"1 /* x */", 0),
        (b"undefined", 0),
        (b"\xef\xbb\xbf1", 0),
        (b"\xa0 1", 0),
    ] {
        let (text, begin) = with_value(value);
        let shown = String::from_utf8_lossy(value);
        let (place, reason) = read(&text).expect_err(&shown);
        let offset: usize = place
            .rsplit_once("byte ")
            .and_then(|(_, rest)| rest.trim_end_matches(')').parse().ok())
            .unwrap_or_else(|| panic!("{shown}: no byte in {place:?}"));
        // The fault is in the value or at the first byte after it that cannot follow; at the end if the value never
        // ends.
        let last = if matches!(value, b"[1" | b"[1}" | b"\"\\u12\"") { text.len() } else { begin + value.len() + 1 };
        assert!((begin + at..=last).contains(&offset), "{shown}: {place}: {reason}");
        assert!(!reason.is_empty() && reason.len() < 200, "{shown}: {reason}");
    }
}

#[test]
fn a_file_that_does_not_hold_collections_is_refused_with_its_place() {
    for (text, place, reason) in [
        (&b""[..], "byte 0", "empty"),
        (b" ", "byte 1", "empty"),
        (b"[]", "byte 0", "expected"),
        (b"null", "byte 0", "expected"),
        (b"{", "byte 1", "expected"),
        (b"{\"posts\"", "/posts (byte 8)", "expected `:`"),
        (b"{\"posts\":", "/posts (byte 9)", "expected an array of records, found the end of the file"),
        (b"{\"posts\":1}", "/posts (byte 9)", "expected an array of records, found a number"),
        (b"{\"posts\":{}}", "/posts (byte 9)", "expected an array of records, found an object"),
        (b"{\"posts\":[", "/posts/0 (byte 10)", "end"),
        (b"{\"posts\":[1]}", "/posts/0 (byte 10)", "expected an object"),
        (b"{\"posts\":[,]}", "/posts/0 (byte 10)", ""),
        (b"{\"posts\":[]", "byte 11", "expected"),
        (b"{\"posts\":[]}x", "byte 12", ""),
        (b"{\"posts\":[]}{}", "byte 12", ""),
        (b"{\"posts\":[],}", "byte 12", ""),
        (b"{\"posts\":[],\"posts\":[]}", "/posts (byte 12)", "repeated"),
        (b"{\"other\":[]}", "/other (byte 1)", "no service owns"),
        (b"{}", "byte 1", "none of the collections"),
        (b"{posts:[]}", "byte 1", "expected"),
        (b"{'posts':[]}", "byte 1", "expected"),
    ] {
        let shown = String::from_utf8_lossy(text);
        let (found, why) = read(text).expect_err(&shown);
        assert!(found == place && why.contains(reason), "{shown}: {found}: {why}");
    }
    for (text, count) in [
        (&b"{\"posts\":[]}"[..], 0),
        (b" \t\r\n{ \"posts\" : [ ] } \n", 0),
        (b"\xef\xbb\xbf{\"posts\":[]}", 0),
        (b"{\"p\\u006fsts\":[{\"thread\":1,\"text\":\"\",\"user\":1}]}", 1),
    ] {
        assert_eq!(read(text).map(|posts| posts.len()), Ok(count), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn nesting_ends_at_its_limit_before_the_stack_does() {
    let deep = |depth: usize| {
        with_value(
            "[".repeat(depth)
                .into_bytes()
                .into_iter()
                .chain("]".repeat(depth).into_bytes())
                .collect::<Vec<_>>()
                .as_slice(),
        )
        .0
    };
    assert!(read(&deep(100)).is_ok());
    let (place, reason) = read_from(Box::new(Cursor::new(deep(1_000_000)))).unwrap_err();
    assert!(reason.contains("nested deeper") && place.starts_with("/posts/0"), "{place}: {reason}");
}
