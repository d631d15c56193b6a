//! The token file: the names and digests of the tokens that may write to a service. It holds no secret.
//!
//! ```text
//! # NAME, a space, and the SHA-256 of the secret in lower-case hexadecimal; empty lines and comments are skipped
//! ci 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! ```
//!
//! A secret is 32 random bytes, so its plain digest cannot be reversed; a password is not such a secret.
//! It begins with its service's name, so that a file given to two services by mistake does not open both to one secret.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::model::Collection;

/// The longest token file, in bytes: room for some hundreds of tokens. Every write is compared with each of them.
pub const FILE_BYTES: u64 = 64 << 10;

/// The longest name of a token, in bytes.
const NAME_BYTES: usize = 64;

/// The length of a digest, in hexadecimal digits.
const DIGEST_DIGITS: usize = 64;

/// A token's name: 1 to 64 of `A-Z a-z 0-9 . _ -`, so it is safe in a log line. The server writes it into the access
/// log if it is in a response's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Arc<str>);

/// The error for a text that is not a token's name.
#[derive(Debug, thiserror::Error)]
#[error("a token's name is 1 to {NAME_BYTES} of A-Z, a-z, 0-9, `.`, `_` and `-`")]
pub struct NotAName;

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.into())) } else { Err(NotAName) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line of a token file.
#[derive(Debug)]
struct Token {
    name: Name,
    /// In hexadecimal.
    digest: String,
}

/// A parsed token file, with its text. The default is an empty file.
#[derive(Debug, Default)]
pub struct TokenFile {
    text: String,
    tokens: Vec<Token>,
}

/// The reason why a token file cannot be used. It never quotes the file, which may hold a secret by mistake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// A line is invalid.
    #[error("{}: line {line}: {reason}. Correct the line or remove it; `seed token` adds lines that fit", .path.display())]
    Line {
        /// The token file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The fault of the line.
        reason: &'static str,
    },
    /// The file as a whole is invalid.
    #[error("{}: {reason}", .path.display())]
    Whole {
        /// The token file.
        path: PathBuf,
        /// The fault, and what to do.
        reason: &'static str,
    },
    /// The file cannot be read.
    #[error("{}: the token file cannot be read: {source}", .path.display())]
    Io {
        /// The token file.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
}

impl TokenFile {
    /// Reads the file at `path`, which may have no tokens yet.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let at = |source| TokenFileError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).map_err(at)?.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(at)?;
        Self::from_bytes(path, bytes)
    }

    /// Parses the bytes read at `path`: the whole file, or more than [`FILE_BYTES`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, TokenFileError> {
        let not_text = "it is not UTF-8; is it the right file?";
        let text =
            String::from_utf8(bytes).map_err(|_| TokenFileError::Whole { path: path.to_owned(), reason: not_text })?;
        Self::parse(path, text)
    }

    /// Parses `text`, which is or will be the file at `path`.
    fn parse(path: &Path, text: String) -> Result<Self, TokenFileError> {
        if text.len() as u64 > FILE_BYTES {
            let reason = "it is longer than 64 KiB; remove tokens that nobody uses";
            return Err(TokenFileError::Whole { path: path.to_owned(), reason });
        }
        let mut tokens: Vec<Token> = Vec::new();
        for (line, content) in (1..).zip(text.lines().map(str::trim)) {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong = |reason| TokenFileError::Line { path: path.to_owned(), line, reason };
            let token = token(content).ok_or_else(|| {
                wrong("expected a name of A-Z a-z 0-9 . _ -, a space and a SHA-256 digest of 64 lower-case hex digits")
            })?;
            if tokens.iter().any(|earlier| earlier.name == token.name) {
                return Err(wrong("an earlier line has the same name"));
            }
            if tokens.iter().any(|earlier| earlier.digest == token.digest) {
                return Err(wrong("an earlier line has the same digest under another name"));
            }
            tokens.push(token);
        }
        Ok(Self { text, tokens })
    }

    /// Returns the text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the number of tokens.
    pub fn count(&self) -> usize {
        self.tokens.len()
    }

    /// Tells whether it has a token with that name.
    pub fn has(&self, name: &Name) -> bool {
        self.tokens.iter().any(|token| token.name == *name)
    }

    /// Returns the name of the token with this secret, if it is one of `collection`. Compares every token to its end,
    /// so that the time taken does not tell how close a guess is.
    pub fn find(&self, collection: Collection, secret: &[u8]) -> Option<Name> {
        if !secret.starts_with(prefix(collection).as_bytes()) {
            return None;
        }
        let digest = digest(secret);
        let mut found = None;
        for token in &self.tokens {
            if bool::from(token.digest.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(&token.name);
            }
        }
        found.cloned()
    }

    /// Adds a line for `secret`. `path` is for the error.
    ///
    /// # Errors
    /// The file is full, or has the name or the secret already.
    pub fn with(self, path: &Path, name: &Name, secret: &str) -> Result<Self, TokenFileError> {
        let mut text = self.text;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text += &format!("{name} {}\n", digest(secret.as_bytes()));
        Self::parse(path, text)
    }
}

/// Parses a line that is neither empty nor a comment.
fn token(line: &str) -> Option<Token> {
    let (name, digest) = line.split_once(' ')?;
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = digest.len() == DIGEST_DIGITS && digest.bytes().all(digit);
    fits.then_some(Token { name: name.parse().ok()?, digest: digest.to_owned() })
}

/// Returns the digest of a secret that stands in the file.
fn digest(secret: &[u8]) -> String {
    hex::encode(Sha256::digest(secret))
}

/// Returns the beginning of every secret of a service.
fn prefix(collection: Collection) -> String {
    format!("{}_", collection.name())
}

/// Makes a secret of `collection` from `random`: 32 bytes that nobody can guess.
pub fn secret(collection: Collection, random: [u8; 32]) -> String {
    prefix(collection) + &hex::encode(random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> Result<TokenFile, String> {
        TokenFile::parse(Path::new("f"), text.to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_may_have_comments_and_empty_lines() {
        let second = ABC.replace('b', "0");
        let file = parse(&format!("# who may write\r\n\r\n  \n  # mine:\nmy.Own_name-1 {ABC}\r\nx {second} ")).unwrap();
        assert_eq!(file.count(), 2);
        assert!(file.has(&"my.Own_name-1".parse().unwrap()) && file.has(&"x".parse().unwrap()));
        assert_eq!(file.tokens[0].digest, digest(b"abc"));
        for empty in ["", "\n", "# ci"] {
            assert_eq!(parse(empty).unwrap().count(), 0);
        }
    }

    #[test]
    fn an_invalid_file_is_reported_with_its_line_but_not_its_content() {
        let long = "n".repeat(65);
        for line in [
            "ci",
            ABC,
            &format!("ci  {ABC}"),
            &format!("ci\t{ABC}"),
            &format!("ci {ABC} more"),
            &format!("ci {}", ABC.to_uppercase()),
            &format!("ci {}", &ABC[1..]),
            &format!("ci {ABC}0"),
            &format!("ci {}g", &ABC[1..]),
            &format!("ci/2 {ABC}"),
            &format!("caf\u{e9} {ABC}"),
            &format!("{long} {ABC}"),
            &format!("ci {}", secret(sample::posts(), [0; 32])),
        ] {
            let error = parse(&format!("# first\n{line}\n")).unwrap_err();
            let says = error.starts_with("f: line 2: expected a name") && error.contains("`seed token`");
            assert!(says && !error.contains(line), "{error}");
        }
        let other = ABC.replace('b', "0");
        let error = parse(&format!("ci {ABC}\nci {other}\n")).unwrap_err();
        assert!(error.starts_with("f: line 2: an earlier line has the same name."), "{error}");
        let error = parse(&format!("ci {ABC}\n\nphone {ABC}\n")).unwrap_err();
        assert!(error.starts_with("f: line 3: an earlier line has the same digest under another name."), "{error}");
    }

    #[test]
    fn a_new_line_is_added_at_the_end() {
        let path = Path::new("f");
        let name: Name = "new".parse().unwrap();
        for (before, after) in [
            (String::new(), format!("new {ABC}\n")),
            ("# mine".to_owned(), format!("# mine\nnew {ABC}\n")),
            (format!("old {}", ABC.replace('b', "0")), format!("old {}\nnew {ABC}\n", ABC.replace('b', "0"))),
        ] {
            let file = parse(&before).unwrap().with(path, &name, "abc").unwrap();
            assert_eq!(file.text(), after);
            assert!(file.has(&name));
        }
        let full = parse(&"#".repeat(FILE_BYTES as usize - 10)).unwrap();
        assert!(full.with(path, &name, "abc").unwrap_err().to_string().contains("longer than 64 KiB"));
    }

    #[test]
    fn a_secret_is_its_service_name_and_32_random_bytes() {
        assert_eq!(secret(sample::users(), [0xa5; 32]), format!("users_{}", "a5".repeat(32)));
    }
}
