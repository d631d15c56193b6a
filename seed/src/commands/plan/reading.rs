//! Reads a monolith's file for a proposal: its members, and the records of its collections. It uses the split's reader, so
//! both accept the same files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use record::declaration::{Collection, Declaration, IdRule};
use record::json::{Fault, MAX_DEPTH, Object};
use record::reader::{Opened, Reader, Stretch, pointer_to, pointer_to_all};

use super::profile::Profile;
use crate::error::Error;
use crate::node;
use crate::obstacle::Kind;
use crate::source::{input_error, reader_error};

/// A member of the file's object.
pub(super) enum Member {
    /// A collection.
    Records(Profile),
    /// Another value, with its kind.
    Other(&'static str),
}

/// Returns the name of `input` in messages.
pub(super) fn name_input(input: &Path) -> &Path {
    if input == Path::new("-") { Path::new("standard input") } else { input }
}

/// Reads the file at `input` (`-` is standard input). `as_node` also accepts JSON that only Node accepts.
///
/// # Errors
/// The file cannot be read, or is not a JSON object.
pub(super) fn read(input: &Path, as_node: bool) -> Result<Vec<(String, Member)>, Error> {
    let name = name_input(input);
    if name != input {
        return read_from(io::stdin().lock(), name, as_node);
    }
    read_from(File::open(input).map_err(Error::io(input))?, input, as_node)
}

/// Reads `source`, which messages call `path`.
fn read_from(source: impl Read, path: &Path, as_node: bool) -> Result<Vec<(String, Member)>, Error> {
    let mut looking = Looking { reader: Reader::new(source), path, as_node };
    let mut all = Vec::new();
    while let Some((name, offset)) = looking.reader.next_name().map_err(|error| reader_error(path, error))? {
        let member = looking.read_member(&name, offset)?;
        all.push((name, member));
    }
    looking.reader.close().map_err(|error| reader_error(path, error))?;
    Ok(all)
}

struct Looking<'p, R> {
    reader: Reader<R>,
    path: &'p Path,
    as_node: bool,
}

impl<R: Read> Looking<'_, R> {
    fn read_member(&mut self, name: &str, offset: u64) -> Result<Member, Error> {
        let of = |ids| {
            let (fields, indexes) = Default::default();
            let (name, owner, deprecated) = (name.into(), None, None);
            Collection::of(Declaration { name, ids, in_monolith: true, owner, deprecated, fields, indexes })
        };
        let mut profile = Profile::default();
        let mut opened = self.reader.open(of(IdRule::Text), offset).map_err(|error| reader_error(self.path, error))?;
        if let Opened::Other(_) = opened {
            profile.is_single = true;
            opened = self.reader.open(of(IdRule::Single), offset).map_err(|error| reader_error(self.path, error))?;
        }
        match opened {
            Opened::Records => {}
            Opened::Null => return Ok(Member::Other("null")),
            Opened::Other(found) => {
                let (pointer, offset) = (pointer_to_all(name), self.reader.offset());
                if found == record::json::kind("") {
                    return Err(input_error(self.path, Kind::Json, &pointer, offset, "expected a value"));
                }
                let skipped = self.reader.skip(&pointer, &mut io::sink());
                skipped.map_err(|error| reader_error(self.path, error))?.expect("a sink takes everything");
                return Ok(Member::Other(found));
            }
        }
        let mut has_others = false;
        while let Some(stretch) = self.reader.read_records().map_err(|error| reader_error(self.path, error))? {
            has_others |= self.look_at(&stretch, &mut profile)?;
            self.reader.recycle(stretch.bytes, stretch.records);
        }
        Ok(if has_others { Member::Other("a list with values other than objects") } else { Member::Records(profile) })
    }

    /// Adds the records of `stretch` to `profile`. Returns whether it also has other values.
    fn look_at(&self, stretch: &Stretch, profile: &mut Profile) -> Result<bool, Error> {
        let mut has_others = false;
        for (number, range) in (stretch.first..).zip(&stretch.records) {
            let raw = &stretch.bytes[range.clone()];
            if !raw.starts_with(b"{") {
                has_others = true;
                continue;
            }
            let read = read_record(raw).or_else(|fault| {
                let text = if self.as_node { node::read(raw) } else { None };
                text.and_then(|text| Object::read(&text, MAX_DEPTH).ok()).ok_or(fault)
            });
            let record = read.map_err(|Fault { pointer, offset, reason }| {
                let pointer = pointer_to(stretch.collection, number) + &pointer;
                input_error(self.path, Kind::Record, &pointer, stretch.base + (range.start + offset) as u64, &reason)
            })?;
            profile.look_at(record.text());
        }
        Ok(has_others)
    }
}

fn read_record(raw: &[u8]) -> Result<Object, Fault> {
    let text = simdutf8::compat::from_utf8(raw).map_err(|error| {
        let (pointer, reason) = (String::new(), "this is not UTF-8".to_owned());
        Fault { pointer, offset: error.valid_up_to(), reason }
    })?;
    Object::read(text, MAX_DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &[u8], as_node: bool) -> Result<Vec<(String, Member)>, Error> {
        read_from(source, Path::new("db.json"), as_node)
    }

    #[test]
    fn a_file_that_the_split_accepts_is_accepted() {
        let deep = format!("{{\"a\":[{{\"x\":{}{}}}]}}", "[".repeat(127), "]".repeat(127));
        for source in ["\u{feff}{\"a\": [{\"x\": 1}]}", r#"{"a":[{"x":1e400}]}"#, r#"{"a":{"x":-0.0}}"#, &deep] {
            let members = read(source.as_bytes(), false).unwrap();
            let [(_, Member::Records(profile))] = &members[..] else { panic!("{source}") };
            assert_eq!((profile.records, &*profile.fields[0].0), (1, "x"), "{source}");
        }
    }

    #[test]
    fn a_file_that_the_split_refuses_is_refused_in_the_same_words_unless_as_node() {
        for (source, place, reason, in_node) in [
            (&b"{\"a\":[{\"x\":\"\xff\"}]}"[..], "/a/0 (byte 12)", "this is not UTF-8", true),
            (br#"{"a":[{},{"x":"\ud800"}]}"#, "/a/1/x", "surrogate", true),
            (br#"{"a":[{"x":1,"x":2}]}"#, "/a/0/x", "the key is repeated", true),
            (br#"{"a":[{"x":01}]}"#, "/a/0/x", "", false),
            (br#"{"a":undefined}"#, "/a (byte 5)", "expected a value", false),
            (br#"{"a":[{}"#, "/a/1", "the file ends inside the collection", false),
            (b"[]", "byte 0", "expected an object of collections, found an array", false),
            (b"", "byte 0", "the file is empty", false),
        ] {
            let refused = read(source, false).err().unwrap().to_string();
            assert!(refused.contains(place) && refused.contains(reason), "{refused}");
            assert_eq!(read(source, true).is_ok(), in_node, "{refused}");
        }
    }
}
