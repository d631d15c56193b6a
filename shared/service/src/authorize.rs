//! Authorization of writes by the tokens of a service's token file.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use record::model::Collection;
use record::token::{Name, TokenFile, TokenFileError};
use warp::http::HeaderMap;
use warp::http::header::{AUTHORIZATION, HeaderValue};

use crate::problem::Problem;

/// The tokens that may write to one service.
#[derive(Debug)]
pub struct Tokens {
    collection: Collection,
    /// Those in force; `None` if the service is read-only.
    tokens: Option<RwLock<Arc<TokenFile>>>,
}

impl Tokens {
    /// Returns no tokens: the service is read-only.
    pub fn none(collection: Collection) -> Self {
        Self { collection, tokens: None }
    }

    /// Reads the tokens of the file at `path`. Fails if it has none. Does not watch the file for changes.
    pub fn read(collection: Collection, path: &Path) -> Result<Self, TokenFileError> {
        let file = TokenFile::read(path)?;
        if file.count() == 0 {
            let reason = "there is no token in it. `seed token` adds one; without --write-token-file, nobody may write";
            return Err(TokenFileError::Whole { path: path.to_owned(), reason });
        }
        Ok(Self::of(collection, file))
    }

    fn of(collection: Collection, file: TokenFile) -> Self {
        Self { collection, tokens: Some(RwLock::new(Arc::new(file))) }
    }

    /// Replaces the tokens in force with those of `file`, from the next request on. A file without tokens revokes all,
    /// so that the last token can be revoked. A read-only service stays read-only.
    pub fn replace(&self, file: TokenFile) {
        if let Some(tokens) = &self.tokens {
            *tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        }
    }

    /// Returns the tokens in force; `None` if the service is read-only.
    fn now(&self) -> Option<Arc<TokenFile>> {
        let tokens = self.tokens.as_ref()?;
        Some(Arc::clone(&tokens.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Returns the number of tokens; 0 if the service is read-only.
    pub fn count(&self) -> usize {
        self.now().map_or(0, |file| file.count())
    }

    /// Returns the name of the token in `Authorization: Bearer SECRET`, the only header that counts.
    ///
    /// # Errors
    /// The service is read-only, or there is not exactly one such header with a known token.
    pub fn authorize(&self, headers: &HeaderMap) -> Result<Name, Problem> {
        let tokens = self.now().ok_or(Problem::ReadOnly(self.collection))?;
        // With two headers, a proxy in front may have checked the other one.
        let secrets: Vec<Option<&[u8]>> = headers.get_all(AUTHORIZATION).iter().map(bearer).collect();
        let name = match secrets[..] {
            [Some(secret)] => tokens.find(self.collection, secret),
            _ => None,
        };
        let given = secrets.iter().any(Option::is_some);
        name.ok_or(Problem::Unauthorized { realm: self.collection, given })
    }
}

/// Returns the secret in the value of an `Authorization` header, if its scheme is `Bearer`.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, secret) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
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
    fn tokens() -> (Tokens, String, String) {
        let [one, two] = [[1; 32], [2; 32]].map(|random| secret(sample::posts(), random));
        let [ci, phone] = ["ci", "phone"].map(|name| name.parse().unwrap());
        let path = Path::new("f");
        let file = TokenFile::default().with(path, &ci, &one).unwrap().with(path, &phone, &two).unwrap();
        (Tokens::of(sample::posts(), file), one, two)
    }

    /// Returns the token's name, or the status and the challenge of the refusal.
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
    fn tokens_are_replaced_and_revoked_ones_are_401() {
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
    fn a_secret_gives_the_name_of_its_token() {
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
    fn an_empty_overlong_non_text_or_absent_file_is_refused_and_named() {
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
}
