//! Authorization of writes: by the tokens of a service's token file, and by users' JSON Web Tokens.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use record::edit::New;
use record::model::Collection;
use record::token::{Name, TokenFile, TokenFileError};
use warp::http::HeaderMap;
use warp::http::header::{AUTHORIZATION, HeaderValue};

use crate::jwt::{self, Keys, Meant, Refused, User};
use crate::problem::{Problem, Unknown};

/// The characters of a user's id that the access log shows as they are.
const IN_LOGS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'@').remove(b'|');

/// Those who may write to one service.
#[derive(Debug)]
pub struct Writers {
    collection: RwLock<Collection>,
    /// `None` if the service is read-only.
    accepted: Option<RwLock<Arc<Accepted>>>,
}

/// What lets clients write, at a moment.
#[derive(Clone, Debug, Default)]
struct Accepted {
    tokens: Arc<TokenFile>,
    keys: Arc<Keys>,
    /// `None` if no JSON Web Token is accepted.
    meant: Option<Arc<Meant>>,
}

/// Reads the tokens of the file at `path`. Fails if it has none.
pub fn read_tokens(path: &Path) -> Result<TokenFile, TokenFileError> {
    let file = TokenFile::read(path)?;
    if file.count() == 0 {
        let reason = "there is no token in it. `seed token` adds one; without --write-token-file, nobody may write";
        return Err(TokenFileError::Whole { path: path.to_owned(), reason });
    }
    Ok(file)
}

impl Writers {
    /// Returns nobody: the service is read-only.
    pub fn none(collection: Collection) -> Self {
        Self { collection: RwLock::new(collection), accepted: None }
    }

    /// Returns those with one of the `tokens`, and the users with a JSON Web Token by one of the keys that is meant so.
    pub fn new(collection: Collection, tokens: TokenFile, jwt: Option<(Keys, Meant)>) -> Self {
        let (keys, meant) = jwt.unzip();
        let (keys, meant) = (Arc::new(keys.unwrap_or_default()), meant.map(Arc::new));
        let accepted = Accepted { tokens: Arc::new(tokens), keys, meant };
        Self { collection: RwLock::new(collection), accepted: Some(RwLock::new(Arc::new(accepted))) }
    }

    /// Lets what they may write follow another declaration of the collection.
    pub fn redeclare(&self, collection: Collection) {
        *self.collection.write().unwrap_or_else(PoisonError::into_inner) = collection;
    }

    /// Replaces the tokens in force with those of `file`, from the next request on. A file without tokens revokes all,
    /// so that the last token can be revoked. A read-only service stays read-only.
    pub fn replace_tokens(&self, file: TokenFile) {
        self.replace(|accepted| accepted.tokens = Arc::new(file));
    }

    /// Replaces the keys in force, from the next request on. Without any key, no user may write.
    pub fn replace_keys(&self, keys: Keys) {
        self.replace(|accepted| accepted.keys = Arc::new(keys));
    }

    fn replace(&self, change: impl FnOnce(&mut Accepted)) {
        if let Some(accepted) = &self.accepted {
            let mut accepted = accepted.write().unwrap_or_else(PoisonError::into_inner);
            let mut changed = (**accepted).clone();
            change(&mut changed);
            *accepted = Arc::new(changed);
        }
    }

    /// Returns what is in force; `None` if the service is read-only.
    fn now(&self) -> Option<Arc<Accepted>> {
        let accepted = self.accepted.as_ref()?;
        Some(Arc::clone(&accepted.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Returns the number of tokens, and that of keys.
    pub fn counts(&self) -> (usize, usize) {
        self.now().map_or((0, 0), |now| (now.tokens.count(), now.keys.count()))
    }

    /// Returns who writes, by `Authorization: Bearer TOKEN`, the only header that counts.
    ///
    /// # Errors
    /// The service is read-only, or there is not exactly one such header with a token that may write.
    pub fn authorize(&self, headers: &HeaderMap) -> Result<Writer, Problem> {
        let collection = *self.collection.read().unwrap_or_else(PoisonError::into_inner);
        let by = self.now().ok_or(Problem::ReadOnly(collection))?;
        let refuse = |unknown| Problem::Unauthorized { realm: collection, unknown };
        // With two headers, a proxy in front may have checked the other one.
        let tokens: Vec<Option<&[u8]>> = headers.get_all(AUTHORIZATION).iter().map(bearer).collect();
        let token = match tokens[..] {
            [Some(token)] => token,
            _ if tokens.iter().any(Option::is_some) => return Err(refuse(Unknown::Token)),
            _ => return Err(refuse(Unknown::Nobody)),
        };
        if let Some(name) = by.tokens.find(collection, token) {
            return Ok(Writer { who: Who::Token(name), collection, by });
        }
        let meant = by.meant.as_ref().filter(|_| token.contains(&b'.')).ok_or_else(|| refuse(Unknown::Token))?;
        match by.keys.check(token, meant, collection) {
            Ok(user) => Ok(Writer { who: Who::User(user), collection, by }),
            Err(Refused::Token(why)) => Err(refuse(Unknown::Jwt(why))),
            Err(Refused::Scope) => Err(Problem::NoScope { realm: collection, scope: jwt::WRITE }),
        }
    }

    /// Checks that `writer` may still write: its token may have been revoked while a body arrived.
    ///
    /// # Errors
    /// It may not.
    pub fn check_again(&self, writer: &Writer, headers: &HeaderMap) -> Result<(), Problem> {
        let is_same = self.now().is_some_and(|now| Arc::ptr_eq(&now, &writer.by));
        if is_same && !writer.has_ended() { Ok(()) } else { self.authorize(headers).map(drop) }
    }
}

/// Who writes. The server writes it into the access log if it is in a response's extensions.
#[derive(Clone, Debug)]
pub struct Writer {
    who: Who,
    collection: Collection,
    /// What let it write.
    by: Arc<Accepted>,
}

#[derive(Clone, Debug)]
enum Who {
    /// A token of the token file. It may write everything.
    Token(Name),
    User(User),
}

impl Writer {
    /// Returns the collection that it writes to.
    pub(crate) fn collection(&self) -> Collection {
        self.collection
    }

    fn has_ended(&self) -> bool {
        matches!(&self.who, Who::User(user) if user.until <= jwt::now())
    }

    /// Checks that it may write the records of all owners, and read what only they may.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check_all(&self) -> Result<(), Problem> {
        match &self.who {
            Who::User(user) if !user.is_admin => Err(Problem::NoScope { realm: self.collection, scope: jwt::ADMIN }),
            _ => Ok(()),
        }
    }

    /// Returns which records it may write.
    pub(crate) fn rights(&self) -> Rights {
        match &self.who {
            Who::User(user) if !user.is_admin => Rights { collection: self.collection, user: Some(user.id.clone()) },
            _ => Rights { collection: self.collection, user: None },
        }
    }

    /// Returns a key that no other writer has.
    pub(crate) fn own_key(&self, key: &str) -> String {
        match &self.who {
            // A token's name has no colon.
            Who::Token(name) => format!("{name}/{key}"),
            Who::User(User { id, .. }) => format!("{}:{id}/{key}", id.len()),
        }
    }
}

/// Which records of its collection a writer may write, whoever it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rights {
    pub(crate) collection: Collection,
    /// The id of the user who may write what is theirs; `None` for all records.
    pub(crate) user: Option<Box<str>>,
}

impl Rights {
    /// Checks that they include the record `json`: the one that is there as well as the one that is to be.
    ///
    /// # Errors
    /// The declaration names an owner, and it is another.
    pub(crate) fn check_record(&self, json: &str) -> Result<(), Problem> {
        let collection = self.collection;
        match &self.user {
            Some(user) if collection.declaration().owner.is_some() => {
                let is_own = collection.owner_of(json).is_some_and(|owner| owner == *user);
                if is_own { Ok(()) } else { Err(Problem::NotOwner { realm: collection, line: None }) }
            }
            _ => Ok(()),
        }
    }

    /// Checks that they include a new record. Its id, unless the body has one, is no user's yet.
    ///
    /// # Errors
    /// The declaration names an owner, and it is another.
    pub(crate) fn check_new(&self, new: &New) -> Result<(), Problem> {
        self.check_record(new.body())
    }

    /// Checks that they let a deleted record be created again, whose integer id was another's perhaps: links to it are still
    /// there.
    ///
    /// # Errors
    /// The declaration names an owner by a field, and these are not the rights to all records.
    pub(crate) fn check_revival(&self) -> Result<(), Problem> {
        match (&self.user, self.collection.declaration().owner.as_deref()) {
            (None, _) | (_, None | Some("id")) => Ok(()),
            (Some(_), Some(_)) => Err(Problem::NoScope { realm: self.collection, scope: jwt::ADMIN }),
        }
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Token(name) => name.fmt(f),
            Who::User(user) => write!(f, "user:{}", utf8_percent_encode(&user.id, IN_LOGS)),
        }
    }
}

/// Returns the token in the value of an `Authorization` header, if its scheme is `Bearer`.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use record::sample;
    use record::token::{FILE_BYTES, secret};
    use sha2::{Digest, Sha256};
    use warp::http::Method;

    use super::*;

    /// Returns tokens of posts, `ci` and `phone`, and their secrets.
    fn tokens() -> (Writers, String, String) {
        let [one, two] = [[1; 32], [2; 32]].map(|random| secret(sample::posts(), random));
        let [ci, phone] = ["ci", "phone"].map(|name| name.parse().unwrap());
        let path = Path::new("f");
        let file = TokenFile::default().with(path, &ci, &one).unwrap().with(path, &phone, &two).unwrap();
        (Writers::new(sample::posts(), file, None), one, two)
    }

    /// Returns the token's name, or the status and the challenge of the refusal.
    fn ask(tokens: &Writers, values: &[&str]) -> Result<String, (u16, String)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        tokens.authorize(&headers).map(|name| name.to_string()).map_err(|problem| {
            let response = problem.into_response(sample::posts(), &Method::POST);
            let challenge = response.headers().get("www-authenticate");
            (response.status().as_u16(), challenge.map_or("", |value| value.to_str().unwrap()).to_owned())
        })
    }

    #[test]
    fn a_request_without_exactly_one_known_token_is_401_with_a_challenge() {
        let (tokens, one, two) = tokens();
        let none = Err((401, r#"Bearer realm="posts""#.to_owned()));
        let invalid = Err((401, r#"Bearer realm="posts", error="invalid_token""#.to_owned()));
        for values in [vec![], vec![""], vec!["Bearer"], vec!["Basic Y2k6Y2k="], vec![&one], vec!["caf\u{e9}"]] {
            assert_eq!(ask(&tokens, &values), none, "{values:?}");
        }
        let given = |secret: &str| format!("Bearer {secret}");
        let [good, other] = [given(&one), given(&two)];
        let in_the_file = hex::encode(Sha256::digest(&one));
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
            // The digest in the file is not the secret.
            vec![given(&in_the_file)],
            vec![given(&format!("posts_{}", in_the_file))],
            vec![good.clone(), good.clone()],
            vec![good.clone(), other],
            vec![good, "Basic Y2k6Y2k=".to_owned()],
        ] {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(ask(&tokens, &values), invalid, "{values:?}");
        }
    }

    #[test]
    fn a_secret_opens_only_its_own_service_even_if_services_share_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let secret = secret(sample::posts(), [7; 32]);
        fs::write(&path, TokenFile::default().with(&path, &"ci".parse().unwrap(), &secret).unwrap().text()).unwrap();
        for collection in sample::all() {
            let answer =
                ask(&Writers::new(collection, read_tokens(&path).unwrap(), None), &[&format!("Bearer {secret}")]);
            assert_eq!(answer.is_ok(), collection == sample::posts(), "{answer:?}");
        }
    }

    #[test]
    fn without_tokens_every_secret_is_403() {
        let (_, one, _) = tokens();
        for values in [vec![], vec![format!("Bearer {one}")]] {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(ask(&Writers::none(sample::posts()), &values), Err((403, String::new())));
        }
    }

    #[test]
    fn tokens_are_replaced_and_revoked_ones_are_401() {
        let (tokens, one, two) = tokens();
        let path = Path::new("f");
        let ask = |secret: &str| ask(&tokens, &[&format!("Bearer {secret}")]).map_err(|(status, _)| status);
        // The same name with another secret is another token.
        tokens.replace_tokens(TokenFile::default().with(path, &"ci".parse().unwrap(), &two).unwrap());
        assert_eq!((tokens.counts().0, ask(&one), ask(&two)), (1, Err(401), Ok("ci".to_owned())));
        tokens.replace_tokens(TokenFile::default());
        assert_eq!((tokens.counts().0, ask(&one), ask(&two)), (0, Err(401), Err(401)));
        tokens.replace_tokens(TokenFile::default().with(path, &"new".parse().unwrap(), &one).unwrap());
        assert_eq!((tokens.counts().0, ask(&one), ask(&two)), (1, Ok("new".to_owned()), Err(401)));

        let read_only = Writers::none(sample::posts());
        read_only.replace_tokens(TokenFile::default().with(path, &"ci".parse().unwrap(), &one).unwrap());
        assert_eq!(super::tests::ask(&read_only, &[&format!("Bearer {one}")]), Err((403, String::new())));
    }

    #[test]
    fn a_secret_gives_the_name_of_its_token() {
        let (tokens, one, two) = tokens();
        assert_eq!(tokens.counts().0, 2);
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
    fn an_empty_overlong_non_text_or_absent_file_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let read = || read_tokens(&path).unwrap_err().to_string();
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
}
