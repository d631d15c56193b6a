//! Words: what a search finds in the fields that a declaration marks with `search`.
//!
//! A text is brought to lower case and to Unicode's form NFC, and cut into words at whatever is neither a letter, a mark
//! nor a digit. Scripts without spaces between words, or whose words grow endings (한국어: 서울, 서울은), are listed by
//! pairs of neighbouring characters, and the last one alone: so each character begins something that is listed. A list
//! of pairs finds more than was asked for; [`Query::count`] looks at the text itself.

use std::borrow::Cow;

use unicode_normalization::char::is_combining_mark;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::json::members;
use crate::model::Collection;

/// The characters of a word that are listed; longer ones are told apart by their text.
const LISTED: usize = 32;

/// The most words and parts of words that a query has.
const MOST: usize = 8;

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'t> {
    /// A word between others.
    Word(&'t str),
    /// Characters of a script that is listed by pairs.
    Run(&'t str),
}

/// Tells whether a character belongs to a script that is listed by pairs: Hangul, Han, Hiragana or Katakana.
fn is_paired(character: char) -> bool {
    matches!(character,
        '\u{1100}'..='\u{11FF}' | '\u{3040}'..='\u{30FF}' | '\u{3130}'..='\u{318F}' | '\u{31F0}'..='\u{31FF}'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{A960}'..='\u{A97F}' | '\u{AC00}'..='\u{D7FF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// Returns the text in lower case and NFC.
fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        let is_upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
        return if is_upper { text.to_ascii_lowercase().into() } else { text.into() };
    }
    let lower = text.to_lowercase();
    if is_nfc(&lower) { lower.into() } else { lower.nfc().collect::<String>().into() }
}

/// Cuts a folded text into its parts.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    // What a character belongs to: nothing, a word, a run.
    let kind = |character: char| match character {
        // Most characters of most texts, told without a table.
        _ if character.is_ascii() => u8::from(character.is_ascii_alphanumeric()),
        _ if is_paired(character) && (character.is_alphanumeric() || is_combining_mark(character)) => 2,
        _ if character.is_alphanumeric() || is_combining_mark(character) => 1,
        _ => 0,
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|character| kind(character) == 0);
        let of = kind(rest.chars().next()?);
        let end = rest.find(|character| kind(character) != of).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        rest = behind;
        Some(if of == 1 { Part::Word(part) } else { Part::Run(part) })
    })
}

/// Returns the beginning of a text that has `characters`.
fn begin(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// Returns the pairs of a run, each as it is listed.
fn pairs(run: &str) -> impl Iterator<Item = &str> {
    run.char_indices().map(|(at, _)| begin(&run[at..], 2))
}

impl Collection {
    /// Tells whether its records can be searched.
    pub fn is_searchable(self) -> bool {
        self.declaration().fields.iter().any(|field| field.search)
    }

    /// Returns the folded texts of the searchable fields of a record.
    fn searched(self, json: &str) -> impl Iterator<Item = Cow<'_, str>> {
        let is_searched = move |name: &str| self.declaration().field(name).is_some_and(|field| field.search);
        let texts = members(json).filter(move |(name, _)| is_searched(name));
        texts.filter_map(|(_, value)| {
            let inside = value.strip_prefix('"')?.strip_suffix('"')?;
            Some(match memchr::memchr(b'\\', inside.as_bytes()) {
                None => fold(inside),
                Some(_) => fold(&serde_json::from_str::<String>(value).ok()?).into_owned().into(),
            })
        })
    }

    /// Calls `list` with each word that the record with the text `json` is listed under, as often as the record has it.
    pub fn list_words(self, json: &str, mut list: impl FnMut(&str)) {
        if !self.is_searchable() {
            return;
        }
        for text in self.searched(json) {
            if text.is_ascii() {
                // Most words of most texts, told without a table.
                let words = text.as_bytes().split(|byte| !byte.is_ascii_alphanumeric());
                let words = words.filter(|word| !word.is_empty()).map(|word| &word[..word.len().min(LISTED)]);
                words.filter_map(|word| str::from_utf8(word).ok()).for_each(&mut list);
                continue;
            }
            for part in parts(&text) {
                match part {
                    Part::Word(word) => list(begin(word, LISTED)),
                    Part::Run(run) => pairs(run).for_each(&mut list),
                }
            }
        }
    }

    /// Returns what the record with the text `json` is listed under, each once.
    pub fn listed_words(self, json: &str) -> Vec<Box<str>> {
        let mut listed = Vec::new();
        self.list_words(json, |word| listed.push(word.into()));
        listed.sort_unstable();
        listed.dedup();
        listed
    }
}

/// What a search asks for: all of its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query(Vec<Asked>);

/// A part of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// A whole word.
    Word(Box<str>),
    /// The beginning of a word.
    Beginning(Box<str>),
    /// Neighbouring characters anywhere.
    Run(Box<str>),
}

/// What a record that a query finds is listed under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Exactly this.
    As(Box<str>),
    /// Something that begins with this.
    From(Box<str>),
}

/// The reason why a query cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// It has no word.
    #[error("`q` has no word to search for.")]
    Empty,
    /// It has too many.
    #[error("`q` has more than {MOST} words.")]
    TooLong,
}

impl Query {
    /// Reads a query: words with spaces between, of which those that end in `*` are beginnings.
    ///
    /// # Errors
    /// It has no word, or too many.
    pub fn read(text: &str) -> Result<Self, QueryError> {
        let mut asked = Vec::new();
        for piece in fold(text).split_whitespace() {
            let parts: Vec<Part> = parts(piece).collect();
            for (nth, part) in parts.iter().enumerate() {
                asked.push(match *part {
                    Part::Word(word) if nth + 1 == parts.len() && piece.ends_with('*') => Asked::Beginning(word.into()),
                    Part::Word(word) => Asked::Word(word.into()),
                    Part::Run(run) => Asked::Run(run.into()),
                });
            }
        }
        match asked.len() {
            0 => Err(QueryError::Empty),
            1..=MOST => Ok(Self(asked)),
            _ => Err(QueryError::TooLong),
        }
    }

    /// Returns what each record that it finds is listed under: under all of these.
    pub fn listed(&self) -> Vec<Listed> {
        let mut listed = Vec::new();
        for asked in &self.0 {
            match asked {
                Asked::Word(word) => listed.push(Listed::As(begin(word, LISTED).into())),
                Asked::Beginning(word) => listed.push(Listed::From(begin(word, LISTED).into())),
                Asked::Run(run) => {
                    let (mut pairs, is_single) = (pairs(run).peekable(), run.chars().nth(1).is_none());
                    while let Some(pair) = pairs.next() {
                        if is_single {
                            listed.push(Listed::From(pair.into()));
                        } else if pairs.peek().is_some() {
                            // The last character alone is listed only at the end of a run.
                            listed.push(Listed::As(pair.into()));
                        }
                    }
                }
            }
        }
        listed.dedup();
        listed
    }

    /// Returns how often each part of the query stands in the record with the text `json`, and the record's length in
    /// bytes of text; `None` if a part is missing.
    pub fn count(&self, collection: Collection, json: &str) -> Option<(Vec<usize>, usize)> {
        let (mut counts, mut length) = (vec![0; self.0.len()], 0);
        for text in collection.searched(json) {
            length += text.len();
            for part in parts(&text) {
                for (asked, count) in self.0.iter().zip(&mut counts) {
                    *count += match (asked, part) {
                        (Asked::Word(asked), Part::Word(word)) => usize::from(**asked == *word),
                        (Asked::Beginning(asked), Part::Word(word)) => usize::from(word.starts_with(&**asked)),
                        (Asked::Run(asked), Part::Run(run)) => run.matches(&**asked).count(),
                        _ => 0,
                    };
                }
            }
        }
        counts.iter().all(|count| *count > 0).then_some((counts, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Collection {
        Collection::embedded(
            r#"{"name":"notes","ids":"record","fields":[
                {"name":"title","shape":{"line":{"most":99}},"search":true,"required":false},
                {"name":"text","shape":{"text":{"most":99}},"search":true},
                {"name":"secret","shape":{"text":{"most":99}},"required":false}]}"#,
        )
    }

    fn note(text: &str) -> String {
        serde_json::json!({"id": 1, "text": text, "secret": "hidden"}).to_string()
    }

    #[test]
    fn a_text_is_listed_under_its_words_and_its_pairs() {
        for (text, listed) in [
            ("", &[][..]),
            ("The kettle, the KETTLE!", &["kettle", "the"]),
            ("서울은 비", &["비", "서울", "울은", "은"]),
            ("K팝 2024년", &["2024", "k", "년", "팝"]),
            ("東京へ行く", &["く", "へ行", "京へ", "東京", "行く"]),
            // Decomposed and composed, and a vowel sign that is a mark.
            ("Cafe\u{301} हिन्दी", &["café", "हिन्दी"]),
            ("\u{1109}\u{1165}\u{110B}\u{116E}\u{11AF}", &["서울", "울"]),
            ("don't re-do", &["do", "don", "re", "t"]),
        ] {
            let found = notes().listed_words(&note(text));
            assert_eq!(found.iter().map(|word| &**word).collect::<Vec<_>>(), listed, "{text}");
        }
        let both = r#"{"id":1,"title":"A","text":"b","secret":"c"}"#;
        assert_eq!(notes().listed_words(both), [Box::from("a"), "b".into()]);
    }

    #[test]
    fn a_query_finds_what_its_words_say() {
        let long = "x".repeat(40);
        for (query, text, is_found) in [
            ("kettle", "The KETTLE sings", true),
            ("kettle sings", "sings the kettle", true),
            ("kett", "kettle", false),
            ("kett*", "the kettle", true),
            ("ettle*", "the kettle", false),
            ("서울", "서울은", true),
            ("서울", "남서울시", true),
            ("서울", "서 울", false),
            ("울", "서울", true),
            ("은", "서울은 비", true),
            // Both pairs are there, but not beside each other.
            ("서울은", "서울 울은", false),
            ("café", "CAFE\u{301}", true),
            ("K팝", "k-팝", true),
            (&long, &format!("{long}y"), false),
            (&long, &long, true),
            ("hidden", "in another field", false),
        ] {
            let read = Query::read(query).unwrap();
            assert_eq!(read.count(notes(), &note(text)).is_some(), is_found, "{query} in {text}");
            let listed = notes().listed_words(&note(text));
            let is_listed = read.listed().iter().all(|one| match one {
                Listed::As(word) => listed.contains(word),
                Listed::From(begin) => listed.iter().any(|word| word.starts_with(&**begin)),
            });
            assert!(is_listed || !is_found, "{query} in {text}: {:?} {listed:?}", read.listed());
        }
        assert_eq!(Query::read(" *, "), Err(QueryError::Empty));
        assert_eq!(Query::read("a b c d e f g h i"), Err(QueryError::TooLong));
    }
}
