//! Conditional requests (RFC 9110, section 13): a record's entity tag, and what a client asks of it.

use headers::{ETag, HeaderMapExt, IfMatch, IfNoneMatch};
use warp::http::header::HeaderMap;

/// A record's entity tag: its revision, which no other state of this record ever has in this database; and a checksum,
/// since a database that was split anew counts from 1 again. Replicas of the same slice agree on it.
pub fn entity_tag(revision: u64, json: &[u8]) -> ETag {
    format!("\"{revision}-{:08x}\"", crc32fast::hash(json)).parse().expect("digits make a tag")
}

/// What has to hold for a request to be carried out. What is no tag matches none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    if_match: Option<IfMatch>,
    if_none_match: Option<IfNoneMatch>,
}

impl Condition {
    /// The condition in a request's headers.
    pub fn read(headers: &HeaderMap) -> Self {
        Self { if_match: headers.typed_get(), if_none_match: headers.typed_get() }
    }

    /// Whether a record with this tag, or none, may be written.
    pub fn allows_write(&self, tag: Option<&ETag>) -> bool {
        let matches = |tags: &IfMatch| tag.is_some_and(|tag| tags.precondition_passes(tag));
        self.if_match.as_ref().is_none_or(matches) && !tag.is_some_and(|tag| self.has(tag))
    }

    /// Whether a record may come to be where there is none: only who says `If-None-Match: *` knows that there is none.
    pub fn creates(&self) -> bool {
        self.if_none_match == Some(IfNoneMatch::any())
    }

    /// Whether the record with this tag is one that the client has already, or does not want to be there.
    pub fn has(&self, tag: &ETag) -> bool {
        self.if_none_match.as_ref().is_some_and(|tags| !tags.precondition_passes(tag))
    }
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderValue;

    use super::*;

    fn condition(headers: &[(&'static str, &'static str)]) -> Condition {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        Condition::read(&headers.collect::<HeaderMap>())
    }

    #[test]
    fn a_tag_tells_states_of_a_record_apart() {
        // CRC-32 of "{}", by another program.
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

    /// Who asks for a condition that cannot be read must not write without one.
    #[test]
    fn a_condition_that_is_no_text_matches_nothing() {
        let tag = "\"1-a\"".parse().unwrap();
        for value in [&b"\xff"[..], b"\"\xff\"", b"\xc3\xa9"] {
            let mut headers = HeaderMap::new();
            headers.insert("if-match", HeaderValue::from_bytes(value).unwrap());
            assert!(!Condition::read(&headers).allows_write(Some(&tag)), "{value:?}");
        }
    }
}
