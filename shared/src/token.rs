//! Who may write: the tokens of one service, by name, in a file that holds no secret.
//!
//! ```text
//! # NAME, a space, and the SHA-256 of the secret in lower-case hexadecimal; empty lines and comments are passed over
//! ci 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! ```
//!
//! A secret is 32 random bytes, so a plain digest of it cannot be turned back; a password is no secret in this sense.
//! It begins with its service's name: a file given to two services by mistake does not open both to the same secret.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use warp::http::HeaderMap;
use warp::http::header::{AUTHORIZATION, HeaderValue};

use crate::model::Collection;
use crate::problem::Problem;

/// How long a token file may be, in bytes: room for some hundreds of tokens, each of which every write is compared with.
pub const FILE_BYTES: u64 = 64 << 10;

/// How long a token's name may be, in bytes.
const NAME_BYTES: usize = 64;

/// How long a digest is, in hexadecimal digits.
const DIGEST_DIGITS: usize = 64;

/// A token's name: 1 to 64 of `A-Z a-z 0-9 . _ -`, and so fit for any log line. In a response's extensions, it is
/// written into the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Arc<str>);

/// A text is no token's name.
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

/// A token file, for whoever adds to it. The default is an empty one.
#[derive(Debug, Default)]
pub struct TokenFile {
    text: String,
    tokens: Vec<Token>,
}

/// Why a token file cannot be used. What is in the file is never repeated: it may be a secret put there by mistake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// A line is not as it should be.
    #[error("{}: line {line}: {reason}. Correct the line or remove it; `seed token` adds lines that fit", .path.display())]
    Line {
        /// The token file.
        path: PathBuf,
        /// Which of its lines, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file as a whole is not as it should be.
    #[error("{}: {reason}", .path.display())]
    Whole {
        /// The token file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
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
    /// Reads the file at `path`, which may have no token yet.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let at = |source| TokenFileError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).map_err(at)?.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(at)?;
        Self::from_bytes(path, bytes)
    }

    /// Parses what was read at `path`: the whole file, or more than [`FILE_BYTES`].
    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, TokenFileError> {
        let not_text = "it is not UTF-8; is it the right file?";
        let text =
            String::from_utf8(bytes).map_err(|_| TokenFileError::Whole { path: path.to_owned(), reason: not_text })?;
        Self::parse(path, text)
    }

    /// Understands `text` as what is, or will be, at `path`.
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

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many tokens it has.
    pub fn count(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has a token of that name.
    pub fn has(&self, name: &Name) -> bool {
        self.tokens.iter().any(|token| token.name == *name)
    }

    /// The file with one more line, for `secret`. `path` is for the error, which says when that would not be a token
    /// file any more: it is full, or has the name or the secret already.
    pub fn with(self, path: &Path, name: &Name, secret: &str) -> Result<Self, TokenFileError> {
        let mut text = self.text;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text += &format!("{name} {}\n", digest(secret.as_bytes()));
        Self::parse(path, text)
    }
}

/// A line that is neither empty nor a comment.
fn token(line: &str) -> Option<Token> {
    let (name, digest) = line.split_once(' ')?;
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = digest.len() == DIGEST_DIGITS && digest.bytes().all(digit);
    fits.then_some(Token { name: name.parse().ok()?, digest: digest.to_owned() })
}

/// What stands in the file for a secret.
fn digest(secret: &[u8]) -> String {
    hex(&Sha256::digest(secret))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What every secret of a service begins with.
fn prefix(collection: Collection) -> String {
    format!("{}_", collection.name())
}

/// The secret of that service which `random` makes: 32 bytes that nobody can guess.
pub fn secret(collection: Collection, random: [u8; 32]) -> String {
    prefix(collection) + &hex(&random)
}

/// Who may write to one service.
#[derive(Debug)]
pub struct Tokens {
    collection: Collection,
    /// Those in force; none where the service is read-only.
    tokens: Option<RwLock<Arc<[Token]>>>,
}

impl Tokens {
    /// Nobody may.
    pub fn none(collection: Collection) -> Self {
        Self { collection, tokens: None }
    }

    /// Whoever has a secret of the file at `path`, which has one at least. The file is not looked at again.
    pub fn read(collection: Collection, path: &Path) -> Result<Self, TokenFileError> {
        let file = TokenFile::read(path)?;
        if file.count() == 0 {
            let reason = "there is no token in it. `seed token` adds one; without --write-token-file, nobody may write";
            return Err(TokenFileError::Whole { path: path.to_owned(), reason });
        }
        Ok(Self::of(collection, file))
    }

    fn of(collection: Collection, file: TokenFile) -> Self {
        Self { collection, tokens: Some(RwLock::new(file.tokens.into())) }
    }

    /// Replaces the tokens in force by those of `file`, from the next request on. A file without tokens revokes all: else
    /// the last one could not be revoked. A read-only service stays read-only.
    pub fn replace(&self, file: TokenFile) {
        if let Some(tokens) = &self.tokens {
            *tokens.write().unwrap_or_else(PoisonError::into_inner) = file.tokens.into();
        }
    }

    /// Returns those in force now; `None` where the service is read-only.
    fn now(&self) -> Option<Arc<[Token]>> {
        let tokens = self.tokens.as_ref()?;
        Some(Arc::clone(&tokens.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// How many there are; none where the service is read-only.
    pub fn count(&self) -> usize {
        self.now().map_or(0, |tokens| tokens.len())
    }

    /// The name of the token that a request with these headers shows as `Authorization: Bearer SECRET`, else why it
    /// may not write. Nothing but that one header counts.
    pub fn authorize(&self, headers: &HeaderMap) -> Result<Name, Problem> {
        let tokens = self.now().ok_or(Problem::ReadOnly(self.collection))?;
        // With two of them, whoever stands in front may have looked at the other one.
        let secrets: Vec<Option<&[u8]>> = headers.get_all(AUTHORIZATION).iter().map(bearer).collect();
        let name = match secrets[..] {
            [Some(secret)] => self.find(&tokens, secret),
            _ => None,
        };
        let given = secrets.iter().any(Option::is_some);
        name.ok_or(Problem::Unauthorized { realm: self.collection, given })
    }

    /// Compares with every token to its end, so that no time taken tells how near a guess is.
    fn find(&self, tokens: &[Token], secret: &[u8]) -> Option<Name> {
        if !secret.starts_with(prefix(self.collection).as_bytes()) {
            return None;
        }
        let digest = digest(secret);
        let mut found = None;
        for token in tokens {
            if bool::from(token.digest.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(&token.name);
            }
        }
        found.cloned()
    }
}

/// The secret in the value of an `Authorization` header, if its scheme is `Bearer`.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, secret) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use warp::http::Method;

    use super::*;
    use crate::testing::sample;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> Result<TokenFile, String> {
        TokenFile::parse(Path::new("f"), text.to_owned()).map_err(|error| error.to_string())
    }

    /// Tokens of posts: `ci` with the secret of ones, `phone` with that of twos.
    fn tokens() -> (Tokens, String, String) {
        let [one, two] = [[1; 32], [2; 32]].map(|random| secret(sample::posts(), random));
        let [ci, phone] = ["ci", "phone"].map(|name| name.parse().unwrap());
        let path = Path::new("f");
        let file = TokenFile::default().with(path, &ci, &one).unwrap().with(path, &phone, &two).unwrap();
        (Tokens::of(sample::posts(), file), one, two)
    }

    /// The name, or the status, the challenge and the text of the refusal.
    fn ask(tokens: &Tokens, values: &[&str]) -> Result<String, (u16, String)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        tokens.authorize(&headers).map(|name| name.to_string()).map_err(|problem| {
            let response = problem.into_response(&Method::POST);
            let challenge = response.headers().get("www-authenticate");
            (response.status().as_u16(), challenge.map_or("", |value| value.to_str().unwrap()).to_owned())
        })
    }

    #[test]
    fn a_secret_is_known_by_the_name_of_its_token() {
        let (tokens, one, two) = tokens();
        assert_eq!(tokens.count(), 2);
        for (value, name) in [
            (format!("Bearer {one}"), "ci"),
            (format!("Bearer {two}"), "phone"),
            (format!("bearer {two}"), "phone"),
            (format!("BEARER   {one} "), "ci"),
        ] {
            assert_eq!(ask(&tokens, &[&value]), Ok(name.to_owned()), "{value}");
        }
    }

    #[test]
    fn anything_else_is_401_with_a_challenge() {
        let (tokens, one, two) = tokens();
        let none = Err((401, r#"Bearer realm="posts""#.to_owned()));
        let invalid = Err((401, r#"Bearer realm="posts", error="invalid_token""#.to_owned()));
        for values in [vec![], vec![""], vec!["Bearer"], vec!["Basic Y2k6Y2k="], vec![&one], vec!["caf\u{e9}"]] {
            assert_eq!(ask(&tokens, &values), none, "{values:?}");
        }
        let given = |secret: &str| format!("Bearer {secret}");
        let [good, other] = [given(&one), given(&two)];
        for values in [
            vec![given("")],
            vec![given("posts_")],
            vec![given("caf\u{e9}")],
            vec![given(&one[..one.len() - 1])],
            vec![given(&format!("{one}1"))],
            vec![given(&format!("{one} {one}"))],
            vec![given(&format!("{one},{two}"))],
            vec![given(&one.to_uppercase())],
            vec![given(&one["posts_".len()..])],
            // What stands in the file opens nothing.
            vec![given(&digest(one.as_bytes()))],
            vec![given(&format!("posts_{}", digest(one.as_bytes())))],
            vec![good.clone(), good.clone()],
            vec![good.clone(), other],
            vec![good, "Basic Y2k6Y2k=".to_owned()],
        ] {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(ask(&tokens, &values), invalid, "{values:?}");
        }
    }

    #[test]
    fn a_secret_of_one_service_opens_no_other_that_has_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let secret = secret(sample::posts(), [7; 32]);
        fs::write(&path, TokenFile::default().with(&path, &"ci".parse().unwrap(), &secret).unwrap().text()).unwrap();
        for collection in sample::all() {
            let answer = ask(&Tokens::read(collection, &path).unwrap(), &[&format!("Bearer {secret}")]);
            assert_eq!(answer.is_ok(), collection == sample::posts(), "{answer:?}");
        }
    }

    #[test]
    fn without_tokens_every_secret_is_403() {
        let (_, one, _) = tokens();
        for values in [vec![], vec![format!("Bearer {one}")]] {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(ask(&Tokens::none(sample::posts()), &values), Err((403, String::new())));
        }
    }

    #[test]
    fn tokens_are_replaced_and_none_that_are_left_are_401() {
        let (tokens, one, two) = tokens();
        let path = Path::new("f");
        let ask = |secret: &str| ask(&tokens, &[&format!("Bearer {secret}")]).map_err(|(status, _)| status);
        // The same name with another secret is another token.
        tokens.replace(TokenFile::default().with(path, &"ci".parse().unwrap(), &two).unwrap());
        assert_eq!((tokens.count(), ask(&one), ask(&two)), (1, Err(401), Ok("ci".to_owned())));
        tokens.replace(TokenFile::default());
        assert_eq!((tokens.count(), ask(&one), ask(&two)), (0, Err(401), Err(401)));
        tokens.replace(TokenFile::default().with(path, &"new".parse().unwrap(), &one).unwrap());
        assert_eq!((tokens.count(), ask(&one), ask(&two)), (1, Ok("new".to_owned()), Err(401)));

        let read_only = Tokens::none(sample::posts());
        read_only.replace(TokenFile::default().with(path, &"ci".parse().unwrap(), &one).unwrap());
        assert_eq!(super::tests::ask(&read_only, &[&format!("Bearer {one}")]), Err((403, String::new())));
    }

    #[test]
    fn a_file_has_comments_and_empty_lines() {
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
    fn what_is_wrong_with_a_file_is_said_with_its_line_and_without_its_content() {
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
    fn a_file_without_a_token_or_too_long_or_no_text_or_absent_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let read = || Tokens::read(sample::posts(), &path).unwrap_err().to_string();
        let begin = format!("{}: ", path.display());
        assert!(read().starts_with(&format!("{begin}the token file cannot be read: No such file")), "{}", read());
        for (content, reason) in [
            (b"# none yet\n".to_vec(), "there is no token in it"),
            (vec![b'\n'; FILE_BYTES as usize], "there is no token in it"),
            (vec![b'\n'; FILE_BYTES as usize + 1], "it is longer than 64 KiB"),
            (vec![0xff; 7], "it is not UTF-8"),
        ] {
            fs::write(&path, content).unwrap();
            assert!(read().starts_with(&format!("{begin}{reason}")), "{}", read());
        }
    }

    #[test]
    fn a_line_is_added_to_what_is_there() {
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
    fn a_secret_names_its_service_and_is_as_long_as_its_randomness() {
        assert_eq!(secret(sample::users(), [0xa5; 32]), format!("users_{}", "a5".repeat(32)));
    }
}
