//! JSON Web Tokens (RFC 7519): an identity provider signs who asks and what they may do, and its public keys lie in a file.
//!
//! The algorithm follows from the key, never from the token (RFC 8725, section 3.1): an RSA key checks RS256 alone, a P-256
//! key ES256, an Ed25519 key EdDSA. A file with a private or a symmetric key is refused, since whoever reads it could make
//! tokens.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use record::declaration::ID_TEXT_BYTES;
use record::model::Collection;
use record::token::FILE_BYTES;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The least bytes of an RSA key's modulus.
const RSA_BYTES: usize = 256;

/// The time by which the provider's clock may be ahead of ours, in seconds. No token is accepted after its end.
const AHEAD: u64 = 60;

/// What a token must say to be meant for this service.
#[derive(Clone, Debug)]
pub struct Meant {
    /// One of its audiences (`aud`).
    pub audience: String,
    /// Its issuer (`iss`).
    pub issuer: String,
    /// The claim with the user's id.
    pub user_claim: String,
}

/// A user, as a token names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id: a text, or the digits of an integer.
    pub id: Box<str>,
    /// Whether the user may write the records of all owners.
    pub is_admin: bool,
    /// The end of the token, in seconds since 1970.
    pub until: u64,
}

/// The reason why a token does not let its user write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The token is none for this service. The text says why.
    Token(&'static str),
    /// Its scopes do not allow writing here.
    Scope,
}

/// The public keys of an identity provider.
#[derive(Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
    /// The number of keys in the file that are for something else.
    left_out: usize,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The reason why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .path.display())]
pub struct KeysError {
    path: PathBuf,
    reason: String,
}

/// A JSON Web Key Set (RFC 7517).
#[derive(Deserialize)]
struct Set {
    keys: Vec<Map<String, Value>>,
}

impl Keys {
    /// Reads the JWKS at `path`.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|error| KeysError {
            path: path.to_owned(),
            reason: format!("the file of keys cannot be read: {error}"),
        })?;
        Self::from_bytes(path, &bytes)
    }

    /// Parses the bytes read at `path`: the whole file, or more than [`FILE_BYTES`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, KeysError> {
        Self::parse(bytes).map_err(|reason| KeysError { path: path.to_owned(), reason })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > FILE_BYTES {
            return Err("it is longer than 64 KiB; leave only the keys in use".to_owned());
        }
        let set: Set = serde_json::from_slice(bytes)
            .map_err(|error| format!("it is no JSON Web Key Set, as {{\"keys\":[…]}}: {error}"))?;
        let mut keys = Self::default();
        for (nth, key) in (1..).zip(set.keys) {
            match Key::read(key).map_err(|reason| format!("key {nth}: {reason}"))? {
                Some(key) => keys.keys.push(key),
                None => keys.left_out += 1,
            }
        }
        Ok(keys)
    }

    /// Returns the number of keys that check tokens.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Returns the number of keys in the file that are for something else.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Checks a token for a service. Its user may write if it has the scope `posts:write` or `posts:admin`.
    pub fn check(&self, token: &[u8], meant: &Meant, collection: Collection) -> Result<User, Refused> {
        let claims = self.verify(token, meant)?;
        // The library takes a list with the issuer in it, too.
        if !claims.get("iss").is_some_and(Value::is_string) {
            return Err(Refused::Token("it is of another issuer"));
        }
        let until = claims.get("exp").and_then(read_seconds).unwrap_or_default();
        let now = now();
        if until <= now {
            return Err(EXPIRED);
        }
        if let Some(begin) = claims.get("nbf")
            && read_seconds(begin).is_none_or(|begin| begin > now + AHEAD)
        {
            return Err(Refused::Token("it is not valid yet"));
        }
        let id = claims.get(&meant.user_claim).and_then(read_user).ok_or(Refused::Token("it names no user"))?;
        let has = |what| has_scope(&claims, &scope(collection, what));
        let is_admin = has(ADMIN);
        if is_admin || has(WRITE) { Ok(User { id, is_admin, until }) } else { Err(Refused::Scope) }
    }

    /// Returns the claims of a token that is signed by one of the keys, and meant for this service.
    fn verify(&self, token: &[u8], meant: &Meant) -> Result<Map<String, Value>, Refused> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| refuse(&error))?;
        if header.crit.is_some() {
            return Err(Refused::Token("its header has an extension that is not known here"));
        }
        let is_of = |key: &&Key| key.algorithm == header.alg && (header.kid.is_none() || key.id == header.kid);
        // Several keys may fit a token without a key's id.
        let mut found = Err(Refused::Token("none of the service's keys has its key id and algorithm"));
        for key in self.keys.iter().filter(is_of) {
            let mut validation = Validation::new(key.algorithm);
            validation.leeway = 0;
            validation.set_audience(&[&meant.audience]);
            validation.set_issuer(&[&meant.issuer]);
            validation.set_required_spec_claims(&["exp", "aud", "iss"]);
            use_ring();
            match jsonwebtoken::decode(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => found = Err(refuse(&error)),
                // Another key would not make it better.
                Err(error) => return Err(refuse(&error)),
            }
        }
        found
    }
}

impl Key {
    /// Reads a key; returns `None` if it is for something else than checking tokens.
    fn read(key: Map<String, Value>) -> Result<Option<Self>, String> {
        if key.contains_key("d") || key.get("kty").is_some_and(|kind| kind == "oct") {
            let reason = "it is a private or a symmetric key, with which tokens are made. Replace it at the identity \
                          provider, since it lay here, and give the service the public key alone";
            return Err(reason.to_owned());
        }
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let algorithm = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => Algorithm::RS256,
            (Some("EC"), Some("P-256")) => Algorithm::ES256,
            (Some("OKP"), Some("Ed25519")) => Algorithm::EdDSA,
            (Some(_), _) => return Ok(None),
            (None, _) => return Err("its kind is missing (`kty`)".to_owned()),
        };
        let key: Jwk = serde_json::from_value(key.into()).map_err(|error| error.to_string())?;
        let common = &key.common;
        let fits = common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm))
            && common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|of| of.contains(&KeyOperations::Verify));
        if !fits {
            return Ok(None);
        }
        let id = key.common.key_id.clone();
        let key = DecodingKey::from_jwk(&key).map_err(|_| "a part of it is missing or no base64url")?;
        let is_whole = match (key.kind(), algorithm) {
            (DecodingKeyKind::RsaModulusExponent { n, .. }, _) => {
                n.iter().skip_while(|byte| **byte == 0).count() >= RSA_BYTES
            }
            (DecodingKeyKind::SecretOrDer(point), Algorithm::ES256) => point.len() == 65,
            (DecodingKeyKind::SecretOrDer(key), _) => key.len() == 32,
        };
        if !is_whole {
            return Err("it has not enough bytes; an RSA key has at least 2048 bits".to_owned());
        }
        Ok(Some(Self { id, algorithm, key }))
    }
}

/// The scope that lets users write the records that they own.
pub(crate) const WRITE: &str = "write";

/// The scope that lets users write all records, and read backups.
pub(crate) const ADMIN: &str = "admin";

/// Returns the seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

const EXPIRED: Refused = Refused::Token("it has expired");

/// Returns a scope as tokens name it.
pub(crate) fn scope(collection: Collection, what: &str) -> String {
    format!("{}:{what}", collection.name())
}

/// Tells whether `scope` (RFC 8693), or `scp` as some providers call it, has this one: in a text with spaces, or a list.
fn has_scope(claims: &Map<String, Value>, wanted: &str) -> bool {
    ["scope", "scp"].into_iter().filter_map(|name| claims.get(name)).any(|scopes| match scopes {
        Value::String(text) => text.split(' ').any(|scope| scope == wanted),
        Value::Array(list) => list.iter().any(|scope| scope == wanted),
        _ => false,
    })
}

fn read_user(value: &Value) -> Option<Box<str>> {
    let text: Box<str> = match value {
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => number.as_u64()?.to_string().into(),
        _ => return None,
    };
    (1..=ID_TEXT_BYTES).contains(&text.len()).then_some(text)
}

/// Reads a time in seconds since 1970, which may have a fraction.
fn read_seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

/// Says why a token is refused. What it holds is not quoted.
fn refuse(error: &Error) -> Refused {
    if matches!(error.kind(), ErrorKind::ExpiredSignature) {
        return EXPIRED;
    }
    Refused::Token(match error.kind() {
        ErrorKind::InvalidSignature => "no key of the service has signed it",
        ErrorKind::InvalidAudience => "it is meant for another audience",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::MissingRequiredClaim(_) => "it lacks its issuer, audience or end",
        _ => "it is neither a write token nor a JSON Web Token that is accepted here",
    })
}

/// Lets the library check signatures by ring, which is here anyway and needs only a C compiler.
fn use_ring() {
    static RING: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        verifier_factory: |algorithm, key| Ok(Box::new(Check { algorithm: *algorithm, key: key.clone() })),
        key_utils: KeyUtils::new_unimplemented(),
    };
    // It is an error from the second time on.
    let _ = RING.install_default();
}

/// The check of one signature.
struct Check {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let checked = match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            _ => Err(ring::error::Unspecified),
        };
        checked.map_err(|_unspecified| signature::Error::new())
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
