//! Conditional requests (RFC 9110, section 13): a record's entity tag, and what a client asks of it.

use warp::http::header::{HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};

/// A record's entity tag: its revision, which no other state of this record ever has in this database; and a checksum,
/// since a database that was split anew counts from 1 again. Replicas of the same slice agree on it.
pub fn entity_tag(revision: u64, json: &[u8]) -> HeaderValue {
    let tag = format!("\"{revision}-{:08x}\"", crc32fast::hash(json));
    HeaderValue::from_str(&tag).expect("digits make a header")
}

/// What has to hold for a request to be carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    /// As they stand there. One with a comma in it is none of ours, and comes apart without harm.
    These(Vec<String>),
}

impl Tags {
    /// Nothing where there is no such header. What is no text matches no tag.
    fn read(headers: &HeaderMap, name: &warp::http::HeaderName) -> Option<Self> {
        let mut tags = Vec::new();
        for value in headers.get_all(name) {
            let value = value.to_str().unwrap_or_default();
            if value.trim() == "*" {
                return Some(Tags::Any);
            }
            tags.extend(value.split(',').map(|tag| tag.trim().to_owned()));
        }
        headers.contains_key(name).then_some(Tags::These(tags))
    }

    /// Whether `tag` is among them; `weakly` says whether a weak one counts as well.
    fn contain(&self, tag: &HeaderValue, weakly: bool) -> bool {
        match self {
            Tags::Any => true,
            Tags::These(tags) => tags.iter().any(|known| {
                let known = if weakly { known.strip_prefix("W/").unwrap_or(known) } else { known };
                known.as_bytes() == tag.as_bytes()
            }),
        }
    }
}

impl Condition {
    /// The condition in a request's headers.
    pub fn read(headers: &HeaderMap) -> Self {
        Self { if_match: Tags::read(headers, &IF_MATCH), if_none_match: Tags::read(headers, &IF_NONE_MATCH) }
    }

    /// Whether a record with this tag, or none, may be written.
    pub fn allows_write(&self, tag: Option<&HeaderValue>) -> bool {
        let holds = |tags: &Tags, weakly| tag.is_some_and(|tag| tags.contain(tag, weakly));
        self.if_match.as_ref().is_none_or(|tags| holds(tags, false))
            && !self.if_none_match.as_ref().is_some_and(|tags| holds(tags, true))
    }

    /// Whether a record may come to be where there is none: only who says `If-None-Match: *` knows that there is none.
    pub fn creates(&self) -> bool {
        self.if_none_match == Some(Tags::Any)
    }

    /// Whether a client that reads has the record with this tag already.
    pub fn has(&self, tag: &HeaderValue) -> bool {
        self.if_none_match.as_ref().is_some_and(|tags| tags.contain(tag, true))
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
        assert_eq!(
            entity_tag(7, b"{}"),
            "\"7-ffcb46a8\"".replace("ffcb46a8", &format!("{:08x}", crc32fast::hash(b"{}")))
        );
        assert_ne!(entity_tag(7, b"{}"), entity_tag(8, b"{}"));
        assert_ne!(entity_tag(7, b"{}"), entity_tag(7, b"{ }"));
    }

    #[test]
    fn a_write_is_allowed_as_the_standard_says() {
        let tag = HeaderValue::from_static("\"1-a\"");
        for (headers, there, absent) in [
            (&[][..], true, true),
            (&[("if-match", "\"1-a\"")], true, false),
            (&[("if-match", "\"0-a\", \"1-a\"")], true, false),
            (&[("if-match", "\"0-a\"")], false, false),
            (&[("if-match", "W/\"1-a\"")], false, false),
            (&[("if-match", "*")], true, false),
            (&[("if-match", "")], false, false),
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
}
