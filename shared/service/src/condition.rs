//! Conditional requests (RFC 9110, section 13): a record's entity tag, and a client's conditions on it.

use headers::{ETag, HeaderMapExt, IfMatch, IfNoneMatch};
use record::id::Id;
use record::record_set::RecordSet;
use warp::http::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};

/// Returns a record's entity tag: its revision and a checksum. A revision is unique among the record's states in one
/// database, but a new split counts from 1 again. Replicas of the same slice have the same tags.
pub fn entity_tag(revision: u64, json: &[u8]) -> ETag {
    let header = entity_tag_header(revision, json);
    header.to_str().ok().and_then(|tag| tag.parse().ok()).expect("digits make a tag")
}

/// Returns a record's entity tag as the value of `ETag`.
pub(crate) fn entity_tag_header(revision: u64, json: &[u8]) -> HeaderValue {
    format!("\"{revision}-{:08x}\"", crc32fast::hash(json)).try_into().expect("digits make a header")
}

/// Returns a tag as `ETag` has it.
pub(crate) fn tag_text(tag: &ETag) -> String {
    let mut headers = HeaderMap::new();
    headers.typed_insert(tag.clone());
    headers.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned()
}

/// Returns the tag of the list of all `records` at `revision`. It is weak: the list is sent while it is read, and may be
/// newer than its tag. No revision comes again, so that such a tag never becomes current.
pub(crate) fn list_tag(revision: u64, records: &RecordSet) -> ETag {
    format!("W/\"{revision}-{:032x}\"", records.digest()).parse().expect("digits make a tag")
}

/// Returns the tag of the same list as lines: they are other bytes, so nobody who has the one has the other.
pub(crate) fn lines_tag(revision: u64, records: &RecordSet) -> ETag {
    format!("W/\"{revision}-{:032x}-lines\"", records.digest()).parse().expect("digits make a tag")
}

/// The numbers and revisions of records one after the other, as one number. Within a database they tell lists apart, and
/// unlike a checksum of the text, who writes a record can't choose them. All records of a split have the same revision.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Revisions(u64);

impl Revisions {
    pub(crate) fn add(&mut self, id: Id, revision: u64) {
        for number in [id.get(), revision] {
            // FxHash's step: quick, and it depends on the order.
            self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }

    /// Returns the tag of a list that is sent as `json`.
    pub(crate) fn tag(self, json: &[u8]) -> ETag {
        format!("\"{:x}-{:08x}\"", self.0, crc32fast::hash(json)).parse().expect("digits make a tag")
    }
}

/// The condition under which a request is carried out. A malformed tag matches no record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    if_match: Option<IfMatch>,
    if_none_match: Option<IfNoneMatch>,
}

impl Condition {
    /// Reads the condition from a request's headers.
    pub fn read(headers: &HeaderMap) -> Self {
        Self { if_match: headers.typed_get(), if_none_match: headers.typed_get() }
    }

    /// Returns the values of `If-Match` and of `If-None-Match`.
    pub(crate) fn values(&self) -> [Option<HeaderValue>; 2] {
        let mut headers = HeaderMap::new();
        self.if_match.iter().for_each(|tags| headers.typed_insert(tags.clone()));
        self.if_none_match.iter().for_each(|tags| headers.typed_insert(tags.clone()));
        [headers.remove(IF_MATCH), headers.remove(IF_NONE_MATCH)]
    }

    /// Returns the condition with these [`values`](Self::values).
    pub(crate) fn with_values(values: [Option<HeaderValue>; 2]) -> Self {
        let named = [IF_MATCH, IF_NONE_MATCH].into_iter().zip(values);
        Self::read(&named.filter_map(|(name, value)| Some((name, value?))).collect())
    }

    /// Tells whether the answer, of which `tag` is the entity tag if it has one, may be sent.
    pub fn allows_read(&self, tag: Option<&ETag>) -> bool {
        let matches = |tags: &IfMatch| tag.map_or(*tags == IfMatch::any(), |tag| tags.precondition_passes(tag));
        self.if_match.as_ref().is_none_or(matches)
    }

    /// Tells whether a record may be added to a list, which exists but has no tag.
    pub fn allows_addition(&self) -> bool {
        self.if_match.is_none() && !self.creates()
    }

    /// Tells whether the record may be written. `tag` is `None` if the record does not exist.
    pub fn allows_write(&self, tag: Option<&ETag>) -> bool {
        let matches = |tags: &IfMatch| tag.is_some_and(|tag| tags.precondition_passes(tag));
        self.if_match.as_ref().is_none_or(matches) && !tag.is_some_and(|tag| self.has(tag))
    }

    /// Tells whether PUT may create the record: only `If-None-Match: *` shows that the client expects none.
    pub fn creates(&self) -> bool {
        self.if_none_match == Some(IfNoneMatch::any())
    }

    /// Tells whether `If-None-Match` names this tag: a reader has the record already, a writer may not replace it.
    pub fn has(&self, tag: &ETag) -> bool {
        self.if_none_match.as_ref().is_some_and(|tags| !tags.precondition_passes(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(headers: &[(&'static str, &'static str)]) -> Condition {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        Condition::read(&headers.collect::<HeaderMap>())
    }

    #[test]
    fn a_tag_tells_states_of_a_record_apart() {
        // CRC-32 of "{}", computed by another program.
        assert_eq!(entity_tag(7, b"{}"), "\"7-a3a6bf43\"".parse().unwrap());
        assert_ne!(entity_tag(7, b"{}"), entity_tag(8, b"{}"));
        assert_ne!(entity_tag(7, b"{}"), entity_tag(7, b"{ }"));
    }

    #[test]
    fn a_write_is_allowed_as_the_standard_says() {
        let tag = "\"1-a\"".parse().unwrap();
        for (headers, there, absent) in [
            (&[][..], true, true),
            (&[("if-match", "\"1-a\"")], true, false),
            (&[("if-match", "\"0-a\", \"1-a\"")], true, false),
            (&[("if-match", "\"0-a\"")], false, false),
            (&[("if-match", "W/\"1-a\"")], false, false),
            (&[("if-match", "*")], true, false),
            (&[("if-match", "")], false, false),
            (&[("if-match", "junk")], false, false),
            (&[("if-match", "\"1-a")], false, false),
            (&[("if-match", "1-a")], false, false),
            (&[("if-match", "junk, \"1-a\"")], true, false),
            (&[("if-match", "\"0-a\""), ("if-match", "\"1-a\"")], true, false),
            (&[("if-match", "\"a,b\", \"1-a\"")], true, false),
            (&[("if-none-match", "junk")], true, true),
            (&[("if-none-match", "*")], false, true),
            (&[("if-none-match", "\"1-a\"")], false, true),
            (&[("if-none-match", "W/\"1-a\"")], false, true),
            (&[("if-none-match", "\"0-a\"")], true, true),
            (&[("if-match", "\"1-a\""), ("if-none-match", "\"1-a\"")], false, false),
        ] {
            let condition = condition(headers);
            assert_eq!(Condition::with_values(condition.values()), condition, "{headers:?}");
            assert_eq!(
                (condition.allows_write(Some(&tag)), condition.allows_write(None)),
                (there, absent),
                "{headers:?}"
            );
        }
        assert!(condition(&[("if-none-match", "*")]).creates());
        assert!(!condition(&[("if-none-match", "\"1-a\"")]).creates());
        assert!(condition(&[("if-none-match", "\"0\", W/\"1-a\"")]).has(&tag));
        assert!(!condition(&[("if-match", "\"1-a\"")]).has(&tag));
    }

    #[test]
    fn a_read_is_answered_and_a_record_added_as_the_standard_says() {
        let tag = "\"1-a\"".parse().unwrap();
        for (headers, tagged, untagged, added) in [
            (&[][..], true, true, true),
            (&[("if-match", "\"1-a\"")], true, false, false),
            (&[("if-match", "\"0-a\"")], false, false, false),
            (&[("if-match", "*")], true, true, false),
            (&[("if-match", "junk")], false, false, false),
            (&[("if-none-match", "*")], true, true, false),
            (&[("if-none-match", "\"1-a\"")], true, true, true),
        ] {
            let condition = condition(headers);
            let got = (condition.allows_read(Some(&tag)), condition.allows_read(None), condition.allows_addition());
            assert_eq!(got, (tagged, untagged, added), "{headers:?}");
        }
    }

    /// An unreadable condition must not turn into an unconditional write.
    #[test]
    fn a_condition_that_is_not_text_matches_nothing() {
        let tag = "\"1-a\"".parse().unwrap();
        for value in [&b"\xff"[..], b"\"\xff\"", b"\xc3\xa9"] {
            let mut headers = HeaderMap::new();
            headers.insert("if-match", HeaderValue::from_bytes(value).unwrap());
            assert!(!Condition::read(&headers).allows_write(Some(&tag)), "{value:?}");
        }
    }
}
