//! Tests of users' JSON Web Tokens and of what their users may write. The tokens are made here byte by byte, so that they
//! can be wrong in every way.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use record::declaration::Declaration;
use record::model::Collection;
use record::sample;
use record::token::TokenFile;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
    RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};
use service::authorize::Writers;
use service::jwt::{Keys, Meant};
use service::testing::{Answer, App, bearer, tokens};

/// The RSA key of RFC 7515, appendix A.2. ring makes no RSA keys.
const RSA: &str = include_str!("rfc7515-a2.json");

/// What signs a token.
enum Signer {
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Hmac(hmac::Key),
    Nobody,
}

impl Signer {
    fn rsa(encoding: &'static dyn RsaEncoding) -> Self {
        let jwk: Value = serde_json::from_str(RSA).unwrap();
        let part = |name: &str| BASE64.decode(jwk[name].as_str().unwrap()).unwrap();
        let [n, e, d, p, q, dp, dq, qi] = ["n", "e", "d", "p", "q", "dp", "dq", "qi"].map(part);
        let public_key = PublicKeyComponents { n, e };
        let parts = KeyPairComponents { public_key, d, p, q, dP: dp, dQ: dq, qInv: qi };
        Self::Rsa(Box::new(RsaKeyPair::from_components(&parts).unwrap()), encoding)
    }

    fn p256() -> Self {
        let (of, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(of, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(of, key.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    /// Returns the public key as a JWK with this id.
    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(..) => {
                let jwk: Value = serde_json::from_str(RSA).unwrap();
                json!({"kty": "RSA", "kid": kid, "n": jwk["n"], "e": jwk["e"]})
            }
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                let [x, y] = [&point[1..33], &point[33..]].map(|part| BASE64.encode(part));
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y})
            }
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": BASE64.encode(key.public_key().as_ref())})
            }
            Self::Hmac(_) | Self::Nobody => panic!("it has no public key"),
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Nobody => Vec::new(),
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = BASE64.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns claims of a user with these scopes.
fn claims(user: &Value, scope: &str) -> Value {
    json!({"iss": "https://id.example", "aud": "forum", "sub": user, "scope": scope, "exp": now() + 600})
}

/// Returns `value` with a changed member; without it if that is null.
fn with(value: &Value, name: &str, member: Value) -> Value {
    let mut value = value.clone();
    if member.is_null() {
        value.as_object_mut().unwrap().remove(name);
    } else {
        value[name] = member;
    }
    value
}

fn keys(keys: &[Value]) -> Result<Keys, String> {
    Keys::from_bytes(Path::new("f"), json!({ "keys": keys }).to_string().as_bytes()).map_err(|error| error.to_string())
}

fn writers(of: Collection, all: &[Value]) -> Writers {
    let meant =
        Meant { audience: "forum".to_owned(), issuer: "https://id.example".to_owned(), user_claim: "sub".to_owned() };
    Writers::new(of, tokens(of), Some((keys(all).unwrap(), meant)))
}

/// Sends a record with `token`.
fn send(app: &App, method: &str, path: &str, token: &str, body: &str) -> Answer {
    let kind = if body.contains('\n') { "application/x-ndjson" } else { "application/json" };
    let headers = [("authorization", &*format!("Bearer {token}")), ("content-type", kind)];
    app.send(method, path, &headers, body)
}

/// A service of posts of users 1 and 2, and the key whose tokens it accepts as `a`.
fn posts() -> (App, Signer) {
    let signer = Signer::ed25519();
    let records = [r#"{"thread":1,"text":"one","user":1}"#, r#"{"thread":1,"text":"two","user":2}"#];
    (App::spawn_for(sample::posts(), writers(sample::posts(), &[signer.jwk("a")]), records), signer)
}

const POST: &str = r#"{"thread":1,"text":"new","user":1}"#;

#[test]
fn tokens_by_each_algorithm_let_their_user_write() {
    let signers = [("RS256", Signer::rsa(&RSA_PKCS1_SHA256)), ("ES256", Signer::p256()), ("EdDSA", Signer::ed25519())];
    let all: Vec<Value> = signers.iter().map(|(name, signer)| signer.jwk(name)).collect();
    let app = App::spawn_for(sample::posts(), writers(sample::posts(), &all), [""; 0]);
    let good = claims(&json!(1), "openid posts:write");
    for (name, signer) in &signers {
        for header in [json!({"alg": name, "kid": name, "typ": "at+jwt"}), json!({"alg": name})] {
            let answer = send(&app, "POST", "/api/posts", &signer.token(&header, &good), POST);
            assert_eq!(answer.status, 201, "{name}: {}", answer.body);
        }
        // Whatever a token looks like, its key decides about the algorithm.
        for (other, _) in signers.iter().filter(|(other, _)| other != name) {
            for kid in [name, other] {
                let token = signer.token(&json!({"alg": other, "kid": kid}), &good);
                assert_eq!(send(&app, "POST", "/api/posts", &token, POST).status, 401, "{name} as {other}, {kid}");
            }
        }
    }
    // The token file works beside them.
    let headers = [("authorization", &*bearer(sample::posts())), ("content-type", "application/json")];
    assert_eq!(app.send("POST", "/api/posts", &headers, POST).status, 201);
}

#[test]
fn a_token_is_refused_that_is_not_signed_by_a_known_key_in_its_own_way() {
    let (ours, other) = (Signer::rsa(&RSA_PKCS1_SHA256), Signer::p256());
    let jwk = ours.jwk("a");
    let app = App::spawn_for(sample::posts(), writers(sample::posts(), std::slice::from_ref(&jwk)), [""; 0]);
    let good = claims(&json!("1"), "posts:admin");
    let right = ours.token(&json!({"alg": "RS256", "kid": "a"}), &good);
    let parts: Vec<&str> = right.split('.').collect();
    let hmac = |secret: &[u8]| Signer::Hmac(hmac::Key::new(hmac::HMAC_SHA256, secret));
    let n = BASE64.decode(jwk["n"].as_str().unwrap()).unwrap();
    let forged = BASE64.encode(claims(&json!("2"), "posts:admin").to_string());
    for (what, token) in [
        ("no signature", Signer::Nobody.token(&json!({"alg": "none"}), &good)),
        ("none in capitals", Signer::Nobody.token(&json!({"alg": "None", "kid": "a"}), &good)),
        ("the algorithm alone", Signer::Nobody.token(&json!({"alg": "RS256", "kid": "a"}), &good)),
        ("the public key as a secret", hmac(&n).token(&json!({"alg": "HS256", "kid": "a"}), &good)),
        ("its text as a secret", hmac(jwk.to_string().as_bytes()).token(&json!({"alg": "HS256", "kid": "a"}), &good)),
        ("an empty secret", hmac(b"").token(&json!({"alg": "HS256"}), &good)),
        ("RS512 by the right key", {
            let signer = Signer::rsa(&RSA_PKCS1_SHA512);
            signer.token(&json!({"alg": "RS512", "kid": "a"}), &good)
        }),
        ("another key", other.token(&json!({"alg": "ES256", "kid": "a"}), &good)),
        ("another key, named in the token", {
            other.token(&json!({"alg": "ES256", "kid": "b", "jwk": other.jwk("b")}), &good)
        }),
        ("an unknown key id", ours.token(&json!({"alg": "RS256", "kid": "b"}), &good)),
        ("an extension", ours.token(&json!({"alg": "RS256", "kid": "a", "crit": ["b64"], "b64": false}), &good)),
        ("no algorithm", ours.token(&json!({"kid": "a"}), &good)),
        ("changed claims", format!("{}.{forged}.{}", parts[0], parts[2])),
        ("another's header", format!("{}.{}.{}", BASE64.encode(r#"{"alg":"none"}"#), parts[1], parts[2])),
        ("a cut signature", right[..right.len() - 3].to_owned()),
        ("no third part", format!("{}.{}", parts[0], parts[1])),
        ("an empty third part", format!("{}.{}.", parts[0], parts[1])),
        ("five parts", format!("{right}.a.b")),
        ("padding", format!("{right}=")),
        ("two tokens", format!("{right},{right}")),
        ("dots", "..".to_owned()),
        ("a dot", ".".to_owned()),
        ("long", "a.".repeat(3000)),
    ] {
        let answer = send(&app, "POST", "/api/posts", &token, POST);
        assert_eq!(answer.status, 401, "{what}: {}", answer.body);
        assert!(answer.header("www-authenticate").contains("invalid_token"), "{what}");
        assert!(!answer.body.contains(&token[..token.len().min(8)]) || token.len() < 8, "{what}: {}", answer.body);
    }
    assert_eq!(send(&app, "POST", "/api/posts", &right, POST).status, 201);
    assert_eq!(app.get("/api/posts").body.matches("\"id\":").count(), 1);
}

#[test]
fn a_token_that_is_meant_otherwise_or_ended_is_refused_with_the_reason() {
    let (app, signer) = posts();
    let good = claims(&json!("1"), "posts:write");
    let ask = |claims: &Value| {
        let answer =
            send(&app, "POST", "/api/posts", &signer.token(&json!({"alg": "EdDSA", "kid": "a"}), claims), POST);
        (answer.status, answer.body)
    };
    for (name, value, reason) in [
        ("exp", json!(now()), "it has expired"),
        ("exp", json!(now() - 3600), "it has expired"),
        ("exp", json!(0), "it has expired"),
        ("exp", json!(-1), "it lacks its issuer, audience or end"),
        ("exp", json!("2999-01-01"), "it lacks its issuer, audience or end"),
        ("exp", json!((now() + 600).to_string()), "it lacks its issuer, audience or end"),
        ("exp", Value::Null, "it lacks its issuer, audience or end"),
        ("nbf", json!(now() + 600), "it is not valid yet"),
        ("nbf", json!("soon"), "it is not valid yet"),
        ("aud", json!("another"), "it is meant for another audience"),
        ("aud", json!("Forum"), "it is meant for another audience"),
        ("aud", json!("forum2"), "it is meant for another audience"),
        ("aud", json!([]), "it is meant for another audience"),
        ("aud", json!(["a", "b"]), "it is meant for another audience"),
        ("aud", json!({"forum": true}), "it lacks its issuer, audience or end"),
        ("aud", Value::Null, "it lacks its issuer, audience or end"),
        ("iss", json!("https://id.example/"), "it is of another issuer"),
        ("iss", json!(["https://id.example"]), "it is of another issuer"),
        ("iss", Value::Null, "it lacks its issuer, audience or end"),
        ("sub", Value::Null, "it names no user"),
        ("sub", json!(""), "it names no user"),
        ("sub", json!(1.5), "it names no user"),
        ("sub", json!(-1), "it names no user"),
        ("sub", json!(["1"]), "it is neither a write token"),
        ("sub", json!(true), "it names no user"),
        ("sub", json!("1".repeat(256)), "it names no user"),
    ] {
        let (status, body) = ask(&with(&good, name, value.clone()));
        assert!(status == 401 && body.contains(reason), "{name} {value}: {status} {body}");
    }
    for scope in
        ["", "posts", "posts:read", "threads:write", "Posts:write", "posts:writer", "posts:write,x", "xposts:write"]
    {
        let (status, body) = ask(&with(&good, "scope", json!(scope)));
        assert!(status == 403 && body.contains("The token lacks the scope posts:write."), "{scope}: {status} {body}");
    }
    for (name, value) in [
        ("exp", json!(now() as f64 + 600.5)),
        ("nbf", json!(now() + 30)),
        ("aud", json!(["other", "forum"])),
        ("sub", json!(1)),
        ("scope", json!("openid posts:write email")),
        ("scope", json!(["openid", "posts:write"])),
    ] {
        let (status, body) = ask(&with(&good, name, value.clone()));
        assert_eq!(status, 201, "{name} {value}: {body}");
    }
    let of_another = with(&with(&good, "scope", Value::Null), "scp", json!(["posts:write"]));
    assert_eq!(ask(&of_another).0, 201);
}

/// Without a key's id, keys of its kind are tried; the one that has signed it says why it is refused.
#[test]
fn a_token_without_a_key_id_is_refused_for_its_own_reason() {
    let (first, second) = (Signer::ed25519(), Signer::ed25519());
    let keys = [first.jwk("a"), second.jwk("b")];
    let app = App::spawn_for(sample::posts(), writers(sample::posts(), &keys), [""; 0]);
    let good = claims(&json!("1"), "posts:write");
    for (signer, claims, reason) in [
        (&first, with(&good, "exp", json!(1)), "it has expired"),
        (&second, with(&good, "exp", json!(1)), "it has expired"),
        (&Signer::ed25519(), good.clone(), "no key of the service has signed it"),
    ] {
        let answer = send(&app, "POST", "/api/posts", &signer.token(&json!({"alg": "EdDSA"}), &claims), POST);
        assert!(answer.status == 401 && answer.body.contains(reason), "{}", answer.body);
    }
    for signer in [&first, &second] {
        let token = signer.token(&json!({"alg": "EdDSA"}), &good);
        assert_eq!(send(&app, "POST", "/api/posts", &token, POST).status, 201);
    }
}

#[test]
fn a_missing_scope_is_named_in_the_challenge() {
    let (app, signer) = posts();
    let token = signer.token(&json!({"alg": "EdDSA"}), &claims(&json!("1"), "threads:admin"));
    let answer = send(&app, "DELETE", "/api/posts/1", &token, "");
    let challenge = r#"Bearer realm="posts", error="insufficient_scope", scope="posts:write""#;
    assert_eq!((answer.status, answer.header("www-authenticate")), (403, challenge));
}

#[test]
fn users_write_their_own_records_alone_and_an_admin_all() {
    let (app, signer) = posts();
    let token = |user: Value, scope: &str| signer.token(&json!({"alg": "EdDSA", "kid": "a"}), &claims(&user, scope));
    let (one, two, three) =
        (token(json!("1"), "posts:write"), token(json!(2), "posts:write"), token(json!("03"), "posts:write"));
    let admin = token(json!("operator"), "posts:admin");
    let own = |token: &str, method: &str, path: &str, body: &str| send(&app, method, path, token, body).status;

    for (method, path, body) in [
        ("POST", "/api/posts", r#"{"thread":1,"text":"in another's name","user":2}"#),
        (
            "POST",
            "/api/posts",
            "{\"thread\":1,\"text\":\"own\",\"user\":1}\n{\"thread\":1,\"text\":\"not\",\"user\":2}\n",
        ),
        ("PUT", "/api/posts/2", r#"{"thread":1,"text":"not mine","user":2}"#),
        // Nobody takes a record by writing themselves into it, nor gives one away.
        ("PUT", "/api/posts/2", r#"{"thread":1,"text":"mine now","user":1}"#),
        ("PUT", "/api/posts/1", r#"{"thread":1,"text":"yours now","user":2}"#),
        ("PATCH", "/api/posts/2", r#"{"text":"changed"}"#),
        ("PATCH", "/api/posts/2", r#"{"user":1}"#),
        ("PATCH", "/api/posts/1", r#"{"user":2}"#),
        ("DELETE", "/api/posts/2", ""),
    ] {
        assert_eq!(own(&one, method, path, body), 403, "{method} {path} {body}");
    }
    let list = app.get("/api/posts").body;
    assert_eq!(list, r#"[{"id":1,"thread":1,"text":"one","user":1},{"id":2,"thread":1,"text":"two","user":2}]"#);

    // Who may not write learns nothing by a condition, and overwrites nothing by one.
    let headers = |condition| {
        [("authorization", format!("Bearer {one}")), ("content-type", "application/json".to_owned()), condition]
    };
    for condition in [("if-none-match", "*".to_owned()), ("if-match", "\"0\"".to_owned()), ("if-match", "*".to_owned())]
    {
        let headers = headers(condition);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(app.send("PUT", "/api/posts/2", &headers, POST).status, 403, "{headers:?}");
    }

    for (token, method, path, body, status) in [
        (&one, "PATCH", "/api/posts/1", r#"{"text":"changed"}"#, 200),
        (&one, "PUT", "/api/posts/1", r#"{"thread":2,"text":"whole","user":1}"#, 200),
        (&one, "POST", "/api/posts", POST, 201),
        (&two, "PATCH", "/api/posts/2", r#"{"text":"changed"}"#, 200),
        (&two, "PATCH", "/api/posts/1", r#"{"text":"changed"}"#, 403),
        (&three, "POST", "/api/posts", r#"{"thread":1,"text":"new","user":3}"#, 403),
        (&one, "DELETE", "/api/posts/9", "", 404),
        (&one, "DELETE", "/api/posts/1", "", 204),
        (&admin, "PATCH", "/api/posts/2", r#"{"user":1}"#, 200),
        (&two, "DELETE", "/api/posts/2", "", 403),
        (&admin, "POST", "/api/posts", r#"{"thread":1,"text":"by an admin","user":7}"#, 201),
        (&admin, "DELETE", "/api/posts/2", "", 204),
    ] {
        let answer = send(&app, method, path, token, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
    }
    // Nobody takes the place of a deleted record, to which links may lead.
    for (token, status) in [(&one, 403), (&two, 403), (&admin, 201)] {
        let headers = [
            ("authorization", format!("Bearer {token}")),
            ("content-type", "application/json".to_owned()),
            ("if-none-match", "*".to_owned()),
        ];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(app.send("PUT", "/api/posts/2", &headers, POST).status, status);
    }
    let answer = send(
        &app,
        "POST",
        "/api/posts",
        &one,
        "{\"thread\":1,\"text\":\"a\",\"user\":1}\n{\"thread\":1,\"text\":\"b\",\"user\":2}\n",
    );
    assert!(answer.status == 403 && answer.body.contains("(line 2)"), "{}", answer.body);
}

#[test]
fn a_backup_is_for_admins() {
    let (app, signer) = posts();
    let read = |scope: &str| {
        let token = signer.token(&json!({"alg": "EdDSA"}), &claims(&json!("1"), scope));
        send(&app, "GET", "/api/posts/-/backup", &token, "").status
    };
    assert_eq!((read("posts:write"), read("posts:admin"), read("")), (403, 200, 403));
}

#[test]
fn users_are_their_own_owners_and_do_not_make_themselves() {
    let signer = Signer::ed25519();
    let records = [r#"{"id":1,"username":"ada"}"#, r#"{"id":2,"username":"bo"}"#];
    let app = App::spawn_for(sample::users(), writers(sample::users(), &[signer.jwk("a")]), records);
    let token = |user: &str, scope: &str| signer.token(&json!({"alg": "EdDSA"}), &claims(&json!(user), scope));
    let most = token("9223372036854775807", "users:write");
    for (token, method, path, body, status) in [
        (&token("1", "users:write"), "PATCH", "/api/users/1", r#"{"bio":"mine"}"#, 200),
        (&token("1", "users:write"), "PATCH", "/api/users/2", r#"{"bio":"not mine"}"#, 403),
        (&token("1", "users:write"), "DELETE", "/api/users/2", "", 403),
        (&token("3", "users:write"), "POST", "/api/users", r#"{"username":"new"}"#, 403),
        (&most, "POST", "/api/users", r#"{"username":"new"}"#, 403),
        (&token("x", "users:admin"), "POST", "/api/users", r#"{"username":"new"}"#, 201),
        (&token("3", "users:write"), "PATCH", "/api/users/3", r#"{"bio":"me"}"#, 200),
    ] {
        let answer = send(&app, method, path, token, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
    }
}

/// Owners may also be texts, or the ids of a collection with text ids.
#[test]
fn owners_are_compared_by_what_their_fields_hold() {
    let signer = Signer::ed25519();
    let declare = |ids: &str, owner: &str| {
        let json = format!(
            r#"{{"name":"notes","ids":"{ids}","owner":"{owner}","fields":[
                {{"name":"by","shape":"username"}},{{"name":"for","shape":{{"reference":{{"to":"people","text":true}}}},"required":false}}],
                "indexes":[{{"number":1,"field":"for","route":"for"}}]}}"#
        );
        Collection::of(Declaration::read(&json).unwrap())
    };
    let start = |of, records: &[&str]| App::spawn_for(of, writers(of, &[signer.jwk("a")]), records.to_vec());
    let token = |user: &str| signer.token(&json!({"alg": "EdDSA"}), &claims(&json!(user), "notes:write"));
    let by = start(declare("text", "by"), &[r#"{"id":"a","by":"ada"}"#, r#"{"id":"b","by":"b\u006f"}"#]);
    let patch = |app: &App, user: &str, path: &str| send(app, "PATCH", path, &token(user), r#"{"x":1}"#).status;
    assert_eq!((patch(&by, "ada", "/api/notes/a"), patch(&by, "ada", "/api/notes/b")), (200, 403));
    assert_eq!((patch(&by, "bo", "/api/notes/b"), patch(&by, "Ada", "/api/notes/a")), (200, 403));
    assert_eq!(patch(&by, "null", "/api/notes/a"), 403);

    // A record that names nobody is for admins.
    let of = start(
        declare("text", "for"),
        &[r#"{"id":"a","by":"x","for":"7"}"#, r#"{"id":"b","by":"x","for":null}"#, r#"{"id":"c","by":"x"}"#],
    );
    assert_eq!(
        (patch(&of, "7", "/api/notes/a"), patch(&of, "null", "/api/notes/b"), patch(&of, "", "/api/notes/c")),
        (200, 403, 401)
    );

    let own = start(declare("text", "id"), &[r#"{"id":"ada","by":"x"}"#, r#"{"by":"x"}"#]);
    let post = |user: &str, body: &str| send(&own, "POST", "/api/notes", &token(user), body).status;
    assert_eq!((patch(&own, "ada", "/api/notes/ada"), patch(&own, "2", "/api/notes/2")), (200, 200));
    assert_eq!(
        (post("bo", r#"{"id":"bo","by":"x"}"#), post("bo", r#"{"id":"cy","by":"x"}"#), post("bo", r#"{"by":"x"}"#)),
        (201, 403, 403)
    );
}

#[test]
fn an_owner_is_a_field_that_can_name_somebody() {
    let read = |ids: &str, owner: &str| {
        let json = format!(
            r#"{{"name":"n","ids":"{ids}","owner":"{owner}","fields":[{{"name":"count","shape":"number"}},{{"name":"by","shape":"username"}}]}}"#
        );
        Declaration::read(&json).map(drop).map_err(|error| error.to_string())
    };
    for (ids, owner, fits) in [
        ("record", "id", true),
        ("record", "by", true),
        ("single", "by", true),
        ("single", "id", false),
        ("record", "count", false),
        ("record", "nobody", false),
    ] {
        let declared = read(ids, owner);
        assert_eq!(declared.is_ok(), fits, "{ids} {owner}");
        assert!(fits || declared.unwrap_err().contains(&format!("the owner {owner:?} is neither")));
    }
}

#[test]
fn each_user_has_idempotency_keys_of_their_own() {
    let (app, signer) = posts();
    let post = |user: Value, key: &str, body: &str| {
        let token = signer.token(&json!({"alg": "EdDSA"}), &claims(&user, "posts:write"));
        let headers = [
            ("authorization", format!("Bearer {token}")),
            ("content-type", "application/json".to_owned()),
            ("idempotency-key", key.to_owned()),
        ];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let answer = app.send("POST", "/api/posts", &headers, body);
        (answer.status, answer.header("location").to_owned())
    };
    let two = r#"{"thread":1,"text":"new","user":2}"#;
    let first = post(json!("1"), "k", POST);
    assert_eq!(first, (201, "/api/posts/3".to_owned()));
    assert_eq!(post(json!(1), "k", POST), first, "the same user");
    assert_eq!(post(json!("2"), "k", two), (201, "/api/posts/4".to_owned()), "another one has other keys");
}

#[test]
fn replaced_keys_are_in_force_from_the_next_request_on() {
    let (old, new) = (Signer::ed25519(), Signer::p256());
    let writers = writers(sample::posts(), &[old.jwk("old")]);
    let may = |signer: &Signer, alg: &str| {
        let token = signer.token(&json!({ "alg": alg }), &claims(&json!("1"), "posts:write"));
        let mut headers = warp::http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        writers.authorize(&headers).is_ok()
    };
    assert_eq!((may(&old, "EdDSA"), may(&new, "ES256")), (true, false));
    writers.replace_keys(keys(&[old.jwk("old"), new.jwk("new")]).unwrap());
    assert_eq!((may(&old, "EdDSA"), may(&new, "ES256")), (true, true));
    writers.replace_tokens(TokenFile::default());
    writers.replace_keys(keys(&[new.jwk("new")]).unwrap());
    assert_eq!((may(&old, "EdDSA"), may(&new, "ES256")), (false, true));
    writers.replace_keys(Keys::default());
    assert_eq!((may(&old, "EdDSA"), may(&new, "ES256")), (false, false));
    assert_eq!(writers.counts(), (0, 0));
}

#[test]
fn keys_for_something_else_are_left_out_and_dangerous_ones_refused() {
    let good = Signer::ed25519().jwk("a");
    let rsa: Value = serde_json::from_str(RSA).unwrap();
    let public = |n: &str| json!({"kty": "RSA", "n": n, "e": "AQAB"});
    let others = [
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        with(&public(rsa["n"].as_str().unwrap()), "use", json!("enc")),
        with(&public(rsa["n"].as_str().unwrap()), "alg", json!("RSA-OAEP")),
        with(&public(rsa["n"].as_str().unwrap()), "alg", json!("PS256")),
        with(&good, "key_ops", json!(["encrypt"])),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
    ];
    for other in &others {
        let read = keys(&[other.clone(), good.clone()]).map(|keys| (keys.count(), keys.left_out()));
        assert_eq!(read, Ok((1, 1)), "{other}");
    }
    for (key, reason) in [
        (rsa.clone(), "key 2: it is a private or a symmetric key"),
        (json!({"kty": "oct", "k": "c2VjcmV0"}), "key 2: it is a private or a symmetric key"),
        (public(&BASE64.encode([0xff; 128])), "key 2: it has not enough bytes"),
        (public(&BASE64.encode([vec![0; 200], vec![0xff; 100]].concat())), "key 2: it has not enough bytes"),
        (with(&good, "x", json!("AAAA")), "key 2: it has not enough bytes"),
        (with(&good, "x", json!("?")), "key 2: "),
        (with(&good, "x", Value::Null), "key 2: "),
        (json!({"kid": "no kind"}), "key 2: "),
    ] {
        let error = keys(&[good.clone(), key.clone()]).unwrap_err();
        assert!(error.starts_with(&format!("f: {reason}")), "{key}: {error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
    for (text, reason) in [
        ("", "it is no JSON Web Key Set"),
        ("{}", "it is no JSON Web Key Set"),
        ("[]", "it is no JSON Web Key Set"),
        (&good.to_string(), "it is no JSON Web Key Set"),
        (&format!("{{\"keys\":[]}}{}", " ".repeat(64 << 10)), "it is longer than 64 KiB"),
    ] {
        let error = Keys::from_bytes(Path::new("f"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("f: {reason}")), "{text}: {error}");
    }
    assert_eq!(keys(&[]).unwrap().count(), 0);
}
