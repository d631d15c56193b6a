//! How alike two records are that are not equal: whether the one may be the other, changed.
//!
//! What somebody wrote makes a record what it is, so what counts are the words in its texts, upper and lower case alike:
//!
//! - More than half of the words, of both records together, are in both. A word of four letters or more counts as being
//!   in both, too, where more than half of its pairs of letters are: somebody has corrected it. Half of the words is
//!   enough where both have the same ones with digits in them.
//! - Or the one text begins with the words of the other, of four characters or more: somebody has added to it.
//! - Never where each has a word with a digit in it that the other lacks: `post 17` is not `post 23`.
//!
//! Records without texts are alike where at least half of their members are equal.

use std::collections::HashMap;

use crate::text::{each, each_member, value_end};

/// How many words of a record are looked at.
const WORDS: usize = 256;

/// How many letters make a word that may have been corrected.
const CORRECTED: usize = 4;

/// How many characters make a text that may have been added to.
const ADDED_TO: usize = 4;

/// What a record says.
#[derive(Debug, Default, PartialEq)]
pub struct Content {
    /// Its members, but for the id.
    members: Vec<(String, String)>,
    /// All its texts, one after the other.
    text: String,
    /// The words in them.
    words: Vec<String>,
}

impl Content {
    /// What the record `json`, in canonical text, says.
    pub fn of(json: &str) -> Self {
        let mut content = Self::default();
        each_member(json.as_bytes(), |key, value| {
            if key == b"\"id\"" {
                return;
            }
            content.add_texts(value);
            let [key, value] = [key, value].map(|part| String::from_utf8_lossy(part).into_owned());
            content.members.push((key, value));
        });
        let words = content.text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
        content.words = words.take(WORDS).map(str::to_owned).collect();
        content
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

/// How alike two records are, from ½ to 1; nothing where the one cannot be taken for the other.
pub fn alikeness(left: &Content, right: &Content) -> Option<f64> {
    if left.text.trim().is_empty() && right.text.trim().is_empty() {
        let equal = left.members.iter().filter(|member| right.members.contains(member)).count();
        let all = left.members.len().max(right.members.len());
        return (equal * 2 >= all).then(|| equal as f64 / all.max(1) as f64);
    }
    if left.text == right.text {
        return Some(1.0);
    }
    if left.words.is_empty() || right.words.is_empty() {
        return None;
    }
    let mut counts: HashMap<&str, i64> = HashMap::new();
    left.words.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    right.words.iter().for_each(|word| *counts.entry(word).or_default() -= 1);
    let has_digit = |word: &str| word.chars().any(char::is_numeric);
    let lacks_one = |sign: i64| counts.iter().any(|(word, count)| count * sign > 0 && has_digit(word));
    if lacks_one(1) && lacks_one(-1) {
        return None;
    }
    let all = (left.words.len() + right.words.len()) as f64;
    let apart: i64 = counts.values().map(|count| count.abs()).sum();
    let common = all - apart as f64 + 2.0 * corrected(&counts) as f64;
    let numbered = left.words.iter().any(|word| has_digit(word)) && !lacks_one(1) && !lacks_one(-1);
    if common / all > 0.5 || numbered && common / all >= 0.5 {
        return Some(common / all);
    }
    let [shorter, longer] =
        if left.text.len() < right.text.len() { [&left.text, &right.text] } else { [&right.text, &left.text] };
    let shorter = shorter.trim_end();
    let rest = longer.strip_prefix(shorter).filter(|_| shorter.chars().count() >= ADDED_TO);
    rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)).then_some(0.5)
}

/// How many words of the one are words of the other that were corrected.
fn corrected(counts: &HashMap<&str, i64>) -> usize {
    let of = |sign: i64| {
        let words = counts.iter().filter(move |(_, count)| *count * sign > 0).map(|(word, _)| *word);
        let mut words: Vec<&str> = words.filter(|word| word.chars().count() >= CORRECTED).collect();
        words.sort_unstable();
        words.truncate(WORDS / 8);
        words
    };
    let mut others = of(-1);
    let mut found = 0;
    for word in of(1) {
        let near = |other: &&str| strsim::sorensen_dice(word, other) > 0.5;
        if let Some(nth) = others.iter().position(near) {
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
    fn a_record_that_was_changed_is_near_and_another_is_not() {
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
    fn texts_lie_anywhere_and_records_without_any_are_alike_by_their_members() {
        let near = |left, right| alikeness(&Content::of(left), &Content::of(right));
        assert_eq!(near(r#"{"a":{"b":["x y","z"]},"c":1}"#, r#"{"c":2,"a":["x y",{"q":"z"}]}"#), Some(1.0));
        assert_eq!(near(r#"{"id":7,"a":1,"b":2}"#, r#"{"a":1,"b":3}"#), Some(0.5));
        assert_eq!(near(r#"{"a":1,"b":2}"#, r#"{"a":2,"b":3}"#), None);
    }
}
