//! Conflicts: records that the newer file and the service have both changed. Some can be merged; a person resolves the
//! others in the file for `--conflicts`.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use record::declaration::read_id_text;
use record::id::Id;
use record::json::each_member;
use record::model::{Collection, Record, Records};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::plan::Plan;
use crate::text::id_in;

/// The side whose version of a record is taken if both have changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// The file's.
    Monolith,
    /// The database's.
    Service,
}

/// The changes of both sides that are merged without a conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Merge {
    /// Different fields of a record.
    #[default]
    Fields,
    /// Different records.
    Records,
}

/// The versions of a record that both sides have changed; `None` for a side without the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The record's collection.
    pub collection: Collection,
    /// Its id.
    pub id: Id,
    /// Its place in the file.
    pub pointer: String,
    /// The version that was split.
    pub base: Option<String>,
    /// The file's present version.
    pub file: Option<String>,
    /// The service's present version.
    pub service: Option<String>,
}

/// A field that both sides have changed, each in another way.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Its place in the record; empty for the whole record.
    pub pointer: String,
    /// The value that was split.
    pub base: Option<String>,
    /// The file's present value.
    pub file: Option<String>,
    /// The service's present value.
    pub service: Option<String>,
}

impl Conflict {
    /// Returns the `id` as it stands in the record.
    pub fn id_json(&self) -> String {
        let there = [&self.base, &self.file, &self.service].into_iter().flatten().next();
        id_in(self.collection, self.id, there.map_or("{}", |json| json))
    }

    /// Returns the record with both sides' changes; `None` if both have changed one field differently, if a version is
    /// missing, or if the result is not a valid record.
    pub fn merge(&self) -> Option<String> {
        let (Some(base), Some(file), Some(service)) = (&self.base, &self.file, &self.service) else { return None };
        let [base, file] = [members(base), members(file)];
        let mut merged = members(service);
        for (key, value) in &file {
            let was = value_of(&base, key);
            let now = value_of(&merged, key);
            if was == Some(*value) || now == Some(*value) {
                continue;
            }
            if was != now {
                return None;
            }
            match merged.iter_mut().find(|(other, _)| other == key) {
                Some((_, now)) => *now = value,
                None => merged.push((key, value)),
            }
        }
        for (key, was) in &base {
            if value_of(&file, key).is_some() {
                continue;
            }
            match value_of(&merged, key) {
                Some(now) if *was == now => merged.retain(|(other, _)| other != key),
                Some(_) => return None,
                None => {}
            }
        }
        let members: Vec<String> = merged.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        let merged = format!("{{{}}}", members.join(","));
        // Each side's version is valid; both changes together need not be.
        let mut records = Records::new(self.collection, merged.len());
        records.push_stored(&merged, self.id).ok()?;
        let is_itself = records.iter().all(|record| record.id == self.id && is_called(&record, &self.id_json()));
        is_itself.then_some(merged)
    }

    /// Lists the fields in conflict.
    pub fn fields(&self) -> Vec<Field> {
        let Self { base, file, service, .. } = self;
        let whole = || {
            let [base, file, service] = [base, file, service].map(Clone::clone);
            vec![Field { pointer: String::new(), base, file, service }]
        };
        let (Some(left), Some(right)) = (file, service) else { return whole() };
        let was = base.as_deref().map(members).unwrap_or_default();
        let [left, right] = [members(left), members(right)];
        let mut fields = Vec::new();
        let mut keys: Vec<&str> = left.iter().chain(&right).map(|(key, _)| *key).collect();
        let mut seen = Vec::new();
        keys.retain(|key| {
            !seen.contains(key) && {
                seen.push(key);
                true
            }
        });
        for key in keys {
            let [was, left, right] = [&was, &left, &right].map(|of| value_of(of, key));
            let both = left != right && (base.is_none() || was != left && was != right);
            if both {
                let mut pointer = String::new();
                let name: String = serde_json::from_str(key).expect("a canonical string is JSON");
                record::json::push_pointer(&mut pointer, &name);
                let [base, file, service] = [was, left, right].map(|value| value.map(str::to_owned));
                fields.push(Field { pointer, base, file, service });
            }
        }
        if fields.is_empty() { whole() } else { fields }
    }

    /// Returns a hash of the versions: a resolution is valid for these versions only.
    fn versions(&self) -> String {
        let mut hash = Sha256::new();
        for version in [&self.base, &self.file, &self.service] {
            match version {
                Some(json) => hash.update(format!("{} {json}", json.len())),
                None => hash.update("-"),
            }
        }
        hex::encode(&hash.finalize()[..8])
    }

    /// Writes the conflict as a line of JSON, with `take`, or null to be filled in.
    pub fn write(&self, take: Option<&Take>, out: &mut impl Write) -> std::io::Result<()> {
        let raw = |json: &Option<String>| {
            json.as_ref().map(|json| RawValue::from_string(json.clone()).expect("canonical text is JSON"))
        };
        let fields = self.fields().into_iter().map(|field| field.pointer).filter(|pointer| !pointer.is_empty());
        let line = Line {
            collection: self.collection.name().to_owned(),
            id: RawValue::from_string(self.id_json()).expect("canonical text is JSON"),
            pointer: self.pointer.clone(),
            base: raw(&self.base),
            file: raw(&self.file),
            service: raw(&self.service),
            fields: fields.collect(),
            versions: self.versions(),
            take: take.map(|take| {
                let json = match take {
                    Take::File => r#""file""#,
                    Take::Service => r#""service""#,
                    Take::Base => r#""base""#,
                    Take::Own(json) => json,
                };
                RawValue::from_string(json.to_owned()).expect("it is JSON")
            }),
        };
        writeln!(out, "{}", serde_json::to_string(&line).expect("a conflict can be written as JSON"))
    }
}

/// Lists the members of an object in canonical text: keys with their quotes, and values.
fn members(json: &str) -> Vec<(&str, &str)> {
    let mut members = Vec::new();
    let text = |part| std::str::from_utf8(part).expect("a part of a text, cut at its brackets, is text");
    each_member(json.as_bytes(), |key, value| members.push((text(key), text(value))));
    members
}

fn value_of<'j>(members: &[(&str, &'j str)], key: &str) -> Option<&'j str> {
    members.iter().find(|(other, _)| *other == key).map(|(_, value)| *value)
}

/// Tells whether `id` is the record's text id. A record of a collection without text ids always passes.
fn is_called(record: &Record, id: &str) -> bool {
    record.id_text().is_none_or(|text| read_id_text(id).as_deref() == Some(text) && !record.id_from_position)
}

/// A conflict as a line of a file.
#[derive(Serialize, Deserialize)]
struct Line {
    collection: String,
    id: Box<RawValue>,
    pointer: String,
    base: Option<Box<RawValue>>,
    file: Option<Box<RawValue>>,
    service: Option<Box<RawValue>>,
    fields: Vec<String>,
    versions: String,
    #[serde(default)]
    take: Option<Box<RawValue>>,
}

/// The version that resolves a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// The file's version.
    File,
    /// The service's version.
    Service,
    /// The version that was split.
    Base,
    /// This record.
    Own(String),
}

/// Resolved conflicts: the file for `--conflicts`, with a `take` filled in on its lines.
#[derive(Debug, Default)]
pub struct Resolutions {
    path: PathBuf,
    /// The line in the file, the hash of the versions, and the version to take, by collection and id text.
    of: HashMap<(&'static str, Box<str>), (u64, String, Take)>,
    /// The lines that have met their conflict.
    used: RefCell<HashSet<u64>>,
}

impl Resolutions {
    /// Reads the file at `path`. Skips lines without a `take`.
    ///
    /// # Errors
    /// A line is not one of `--conflicts`, or its `take` is not valid.
    pub fn read(path: &Path, plan: &Plan) -> Result<Self, Error> {
        let mut resolutions = Self { path: path.to_owned(), ..Self::default() };
        let file = BufReader::new(File::open(path).map_err(Error::io(path))?);
        for (number, line) in (1..).zip(file.lines()) {
            let line = match line {
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(resolutions.wrong(number, "this is not UTF-8".to_owned()));
                }
                line => line.map_err(Error::io(path))?,
            };
            if line.trim().is_empty() {
                continue;
            }
            let read: Line = serde_json::from_str(&line)
                .map_err(|error| resolutions.wrong(number, format!("this is not a line of --conflicts: {error}")))?;
            let Some(collection) = plan.named(&read.collection) else {
                return Err(resolutions.wrong(number, format!("there is no collection {:?}", read.collection)));
            };
            let id = read_id_text(read.id.get()).map(Box::from);
            // The number of a text id is not known here; any number does.
            let known = if collection.has_text_ids() { Some(Id::MAX) } else { read.id.get().parse::<Id>().ok() };
            let (Some(id), Some(known)) = (id, known) else {
                return Err(resolutions.wrong(number, format!("{} is not an id of {}", read.id, collection.name())));
            };
            let Some(take) = read.take.filter(|take| take.get() != "null") else { continue };
            let take = match take.get() {
                r#""file""# | r#""monolith""# => Take::File,
                r#""service""# => Take::Service,
                r#""base""# => Take::Base,
                record if record.starts_with('{') => {
                    let mut records = Records::new(collection, record.len());
                    let fault = records
                        .push_stored(record, known)
                        .err()
                        .map(|fault| format!("take{}: {}", fault.pointer, fault.reason));
                    let is_it = |record: &Record| record.id == known && is_called(record, read.id.get());
                    let other = records.iter().find(|record| !is_it(record)).map(|record| {
                        let other = id_in(collection, record.id, record.source);
                        format!("the record to take has the id {other}, not {}", read.id)
                    });
                    match fault.or(other) {
                        Some(fault) => return Err(resolutions.wrong(number, fault)),
                        None => Take::Own(records.text().to_owned()),
                    }
                }
                other => {
                    let reason = format!(r#"{other} cannot be taken; use "file", "service", "base" or a record"#);
                    return Err(resolutions.wrong(number, reason));
                }
            };
            let entry = (number, read.versions, take);
            if resolutions.of.insert((collection.name(), id), entry).is_some() {
                return Err(resolutions.wrong(number, format!("{} {} was resolved before", collection.name(), read.id)));
            }
        }
        Ok(resolutions)
    }

    /// Returns the resolution of `conflict`, if the file has one.
    ///
    /// # Errors
    /// The resolution is for other versions.
    pub fn take(&self, conflict: &Conflict) -> Result<Option<&Take>, Error> {
        let id = conflict.id_json();
        let key = (conflict.collection.name(), read_id_text(&id).unwrap_or_default().into());
        let Some((line, versions, take)) = self.of.get(&key) else { return Ok(None) };
        if *versions != conflict.versions() {
            let reason = format!(
                "{} {id} has changed since --conflicts wrote this line; write the file again with --conflicts",
                conflict.collection.name()
            );
            return Err(self.wrong(*line, reason));
        }
        self.used.borrow_mut().insert(*line);
        Ok(Some(take))
    }

    /// Checks that each resolution has met its conflict.
    ///
    /// # Errors
    /// A resolution is left over: its conflict no longer exists.
    pub fn check_all_used(&self) -> Result<(), Error> {
        let used = self.used.borrow();
        let unused =
            self.of.iter().filter(|(_, (line, _, _))| !used.contains(line)).min_by_key(|(_, (line, _, _))| *line);
        match unused {
            None => Ok(()),
            Some(((name, id), (line, _, _))) => Err(self.wrong(
                *line,
                format!(
                    "{name} {id} is no longer in conflict; delete this line, or write the file again with --conflicts"
                ),
            )),
        }
    }

    fn wrong(&self, line: u64, reason: String) -> Error {
        Error::Input { file: self.path.clone(), kind: None, place: format!("line {line}"), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(base: Option<&str>, file: Option<&str>, service: Option<&str>) -> Conflict {
        let [base, file, service] = [base, file, service]
            .map(|members| members.map(|members| format!(r#"{{"id":1,"username":"a"{members}}}"#)));
        Conflict {
            collection: Plan::workspace().named("users").unwrap(),
            id: Id::try_from(1).unwrap(),
            pointer: "/users/0".to_owned(),
            base,
            file,
            service,
        }
    }

    #[test]
    fn fields_that_only_one_side_has_changed_are_merged() {
        for (base, file, service, merged) in [
            (r#","bio":"b","x":1"#, r#","bio":"c","x":1"#, r#","bio":"b","x":2"#, Some(r#","bio":"c","x":2"#)),
            (r#","x":1"#, r#","x":1,"y":2"#, r#","x":1,"z":3"#, Some(r#","x":1,"z":3,"y":2"#)),
            (r#","x":1,"y":2"#, r#","y":2"#, r#","x":1,"y":3"#, Some(r#","y":3"#)),
            (r#","x":1,"y":2"#, r#","x":1,"y":4"#, r#","y":2"#, Some(r#","y":4"#)),
            (r#","x":1"#, r#","x":2"#, r#","x":2.0,"y":1"#, None),
            (r#","x":2"#, r#","x":2.0"#, r#","x":5"#, None),
            (r#","x":1"#, r#","x":2"#, r#","x":3"#, None),
            (r#","x":1"#, "", r#","x":3"#, None),
            (r#","x":1"#, r#","x":3"#, "", None),
            ("", r#","x":1"#, r#","x":2"#, None),
        ] {
            let found = conflict(Some(base), Some(file), Some(service)).merge();
            assert_eq!(
                found,
                merged.map(|members| format!(r#"{{"id":1,"username":"a"{members}}}"#)),
                "{base} {file} {service}"
            );
        }
        assert_eq!(conflict(None, Some(r#","x":1"#), Some(r#","y":1"#)).merge(), None);
        assert_eq!(conflict(Some(""), None, Some(r#","y":1"#)).merge(), None);
    }

    #[test]
    fn a_conflict_names_the_fields_that_both_sides_have_changed() {
        let pointers =
            |conflict: Conflict| conflict.fields().into_iter().map(|field| field.pointer).collect::<Vec<_>>();
        let changed = conflict(Some(r#","bio":"b","x":1"#), Some(r#","bio":"b","x":2"#), Some(r#","bio":"c","x":3"#));
        assert_eq!(pointers(changed), ["/x"]);
        assert_eq!(pointers(conflict(None, Some(r#","x":1"#), Some(r#","x":2"#))), ["/x"]);
        assert_eq!(pointers(conflict(Some(""), None, Some(r#","x":2"#))), [""]);
        let gone = conflict(Some(r#","x":1"#), Some(""), Some(r#","x":2"#));
        assert_eq!(
            gone.fields()[0],
            Field { pointer: "/x".to_owned(), base: Some("1".to_owned()), file: None, service: Some("2".to_owned()) }
        );
    }

    #[test]
    fn a_line_is_read_back_with_its_take() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conflicts");
        let found = conflict(Some(r#","x":1"#), Some(r#","x":2"#), Some(r#","x":3"#));
        let mut line = Vec::new();
        found.write(None, &mut line).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(r#""fields":["/x"]"#) && line.contains(r#""take":null"#), "{line}");
        let with = |take: &str| line.replace(r#""take":null"#, &format!(r#""take":{take}"#));
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Resolutions::read(&path, &Plan::workspace())
        };
        assert_eq!(read(&line).unwrap().take(&found).unwrap(), None);
        let own = r#"{"id":1,"username":"b"}"#;
        for (take, taken) in [
            (r#""file""#, Take::File),
            (r#""monolith""#, Take::File),
            (r#""service""#, Take::Service),
            (r#""base""#, Take::Base),
            (r#"{ "id": 1, "username": "b" }"#, Take::Own(own.to_owned())),
        ] {
            let resolutions = read(&with(take)).unwrap();
            assert_eq!(resolutions.take(&found).unwrap(), Some(&taken), "{take}");
            let other = Conflict { service: None, ..found.clone() };
            assert!(resolutions.take(&other).unwrap_err().to_string().contains("line 1: users 1 has changed since"));
        }
        for (text, reason) in [
            ("{}".to_owned(), "line 1: this is not a line of --conflicts"),
            (with("7"), "7 cannot be taken"),
            (with(r#"{"id":2,"username":"b"}"#), "has the id 2, not 1"),
            (with(r#"{"id":1}"#), "missing field `username`"),
            (with(r#""file""#).repeat(2), "line 2: users 1 was resolved before"),
            (line.replace("users\"", "cats\""), "there is no collection \"cats\""),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(error.exit_code(), 3);
        }
    }
}
