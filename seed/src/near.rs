//! The likeness of two records that are not equal: one may be the other, changed.
//!
//! People recognize a record by its words, so the words in its texts count, regardless of case:
//!
//! - Two records are alike if they share more than half of all their words. A word of four letters or more counts as
//!   shared if more than half of its letter pairs are: it may have been corrected. Exactly half of the words is enough
//!   if both have the same words with digits.
//! - They are alike if one text, of four characters or more, begins the other: it may have been added to.
//! - They are never alike if each has a word with a digit that the other lacks: `post 17` is not `post 23`. From ten
//!   words on, a number may differ if nine tenths of the words are the same.
//!
//! Records without texts are alike if at least half of their members are equal.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};

use record::json::{each, each_member, value_end};

/// The number of words of a record that are compared.
const WORDS: usize = 256;

/// The number of bytes of its texts that are compared.
const TEXT: usize = 4096;

/// The number of letters from which on a word may have been corrected.
const CORRECTED: usize = 4;

/// The number of words of one record that may be corrected words of the other.
const MAX_CORRECTED: usize = 16;

/// The number of characters from which on a text may have been added to.
const ADDED_TO: usize = 4;

/// The number of words from which on a number may differ, if nearly all else is the same.
const LONG: usize = 10;

/// A record's content, as far as it is compared.
#[derive(Debug, Default, PartialEq)]
pub struct Content {
    /// Its members except the id, if it has no texts.
    members: Vec<(String, String)>,
    /// All its texts, one after the other.
    text: String,
    /// A hash of the uncut texts.
    hash: u64,
    /// The words in them, sorted.
    words: Vec<String>,
}

impl Content {
    /// Reads the content of the record `json`, in canonical text.
    pub fn of(json: &str) -> Self {
        let mut content = Self::default();
        let mut members = Vec::new();
        each_member(json.as_bytes(), |key, value| {
            if key != b"\"id\"" {
                content.add_texts(value);
                members.push((key, value));
            }
        });
        if content.text.trim().is_empty() {
            let text = |part| String::from_utf8_lossy(part).into_owned();
            content.members = members.into_iter().map(|(key, value)| (text(key), text(value))).collect();
        }
        let mut hasher = DefaultHasher::new();
        content.text.hash(&mut hasher);
        content.hash = hasher.finish();
        let words = content.text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
        content.words = words.take(WORDS).map(str::to_owned).collect();
        content.words.sort_unstable();
        let end = content.text.char_indices().map(|(at, _)| at).take_while(|at| *at <= TEXT).last().unwrap_or(0);
        let end = if content.text.len() <= TEXT { content.text.len() } else { end };
        content.text.truncate(end);
        content
    }

    /// Returns a hash of its texts.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the words in its texts, sorted.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Adds the texts in a value.
    fn add_texts(&mut self, value: &[u8]) {
        match value[0] {
            b'"' => {
                let text: String = serde_json::from_slice(value).expect("a canonical string is JSON");
                self.text += &text.to_lowercase();
                self.text.push('\n');
            }
            b'{' => drop(each_member(value, |_, value| self.add_texts(value))),
            b'[' => {
                each(value, |part| {
                    let length = value_end(part);
                    self.add_texts(&part[..length]);
                    length
                });
            }
            _ => {}
        }
    }
}

/// Returns how alike two records are, from ½ to 1; `None` if one cannot be taken for the other.
pub fn alikeness(left: &Content, right: &Content) -> Option<f64> {
    if left.text.trim().is_empty() && right.text.trim().is_empty() {
        let equal = left.members.iter().filter(|member| right.members.contains(member)).count();
        let all = left.members.len().max(right.members.len());
        return (equal * 2 >= all).then(|| equal as f64 / all.max(1) as f64);
    }
    if left.hash == right.hash {
        return Some(1.0);
    }
    if left.words.is_empty() || right.words.is_empty() {
        return None;
    }
    let (common, only_left, only_right) = compare_words(&left.words, &right.words);
    let all = (left.words.len() + right.words.len()) as f64;
    let share = (2 * common) as f64 / all;
    let has_digit = |word: &str| word.chars().any(char::is_numeric);
    let [digits_left, digits_right] = [&only_left, &only_right].map(|words| words.iter().any(|word| has_digit(word)));
    if digits_left && digits_right && (share < 0.9 || left.words.len().min(right.words.len()) < LONG) {
        return None;
    }
    // Corrections cannot lift a share this low to half.
    let share = if share > 0.1 || all < 8.0 {
        (2 * (common + count_corrected(&only_left, &only_right))) as f64 / all
    } else {
        share
    };
    let numbered = !digits_left && !digits_right && left.words.iter().any(|word| has_digit(word));
    if share > 0.5 || numbered && share >= 0.5 {
        return Some(share);
    }
    let [shorter, longer] =
        if left.text.len() < right.text.len() { [&left.text, &right.text] } else { [&right.text, &left.text] };
    let shorter = shorter.trim_end();
    let rest = longer.strip_prefix(shorter).filter(|_| shorter.chars().count() >= ADDED_TO);
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)).then_some(0.5)
}

/// Counts the words that two sorted lists share, and returns the words that only one has.
fn compare_words<'w>(left: &'w [String], right: &'w [String]) -> (usize, Vec<&'w str>, Vec<&'w str>) {
    let (mut l, mut r, mut common) = (0, 0, 0);
    let (mut only_left, mut only_right) = (Vec::new(), Vec::new());
    while l < left.len() || r < right.len() {
        let order = match (left.get(l), right.get(r)) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Equal => (l, r, common) = (l + 1, r + 1, common + 1),
            Ordering::Less => {
                only_left.push(left[l].as_str());
                l += 1;
            }
            Ordering::Greater => {
                only_right.push(right[r].as_str());
                r += 1;
            }
        }
    }
    (common, only_left, only_right)
}

/// Counts the words of one list that are corrected words of the other.
fn count_corrected(left: &[&str], right: &[&str]) -> usize {
    let long = |words: &[&str]| -> Vec<String> {
        let words = words.iter().filter(|word| word.chars().count() >= CORRECTED);
        words.take(MAX_CORRECTED).map(|word| (*word).to_owned()).collect()
    };
    let mut others = long(right);
    let mut found = 0;
    for word in long(left) {
        if let Some(nth) = others.iter().position(|other| strsim::sorensen_dice(&word, other) > 0.5) {
            others.swap_remove(nth);
            found += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(left: &str, right: &str) -> bool {
        let post = |text: &str| Content::of(&format!(r#"{{"thread":1,"text":{},"user":2}}"#, serde_json::json!(text)));
        let near = alikeness(&post(left), &post(right)).is_some();
        assert_eq!(near, alikeness(&post(right), &post(left)).is_some());
        near
    }

    #[test]
    fn a_changed_record_is_near_and_another_record_is_not() {
        for (left, right) in [
            ("the first", "the first"),
            ("The first!", "the first"),
            ("helo", "hello"),
            ("a helo from here", "a hello from here"),
            ("a long word from here", "a long word from there"),
            ("post 17", "post 17 edited"),
            ("b", "b changed"),
            ("post 17", "something 17"),
            ("bear", "bear and wolf"),
            ("What do you think?", "What do you think? Edited: I have found it out myself, never mind, all is well"),
            ("안녕하세요 여러분", "안녕하세요, 여러분!"),
            ("?!", "?!"),
            (
                "We meet at ten in the hall of the old house at 10:00, bring what you have",
                "We meet at ten in the hall of the old house at 11:00, bring what you have",
            ),
        ] {
            assert!(is_near(left, right), "{left:?} {right:?}");
        }
        for (left, right) in [
            ("post 17", "post 23"),
            ("post A", "post B"),
            ("b", "x"),
            ("first", "second"),
            ("the weather is fine", "my cat has a cold"),
            ("8c1f03", "77ab0e"),
            ("a", "a wholly other thing"),
            ("", "something"),
            ("😀", "🎉"),
        ] {
            assert!(!is_near(left, right), "{left:?} {right:?}");
        }
    }

    #[test]
    fn texts_are_found_at_any_depth_and_records_without_texts_are_compared_by_their_members() {
        let near = |left, right| alikeness(&Content::of(left), &Content::of(right));
        assert_eq!(near(r#"{"a":{"b":["x y","z"]},"c":1}"#, r#"{"c":2,"a":["x y",{"q":"z"}]}"#), Some(1.0));
        assert_eq!(near(r#"{"id":7,"a":1,"b":2}"#, r#"{"a":1,"b":3}"#), Some(0.5));
        assert_eq!(near(r#"{"a":1,"b":2}"#, r#"{"a":2,"b":3}"#), None);
    }
}
