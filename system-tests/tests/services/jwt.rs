//! Services that accept users' JSON Web Tokens: their command line, their log, and new keys at SIGHUP.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;
use world::{Process, program, run_to_end, sample, split, text, wait_for};

/// An identity provider with one key.
struct Provider(Ed25519KeyPair);

impl Provider {
    fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn keys(&self) -> String {
        let x = BASE64.encode(self.0.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": "1", "x": x}]}).to_string()
    }

    fn token(&self, user: &str, scope: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims =
            json!({"iss": "https://id.example", "aud": "forum", "sub": user, "scope": scope, "exp": now + 600});
        let header = BASE64.encode(json!({"alg": "EdDSA", "kid": "1"}).to_string());
        let message = format!("{header}.{}", BASE64.encode(claims.to_string()));
        format!("{message}.{}", BASE64.encode(self.0.sign(message.as_bytes())))
    }
}

fn posts(folder: &Path) -> Command {
    let mut command = Command::new(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--data", "data/posts", "--jwt-keys", "keys.json"]).current_dir(folder);
    command.args(["--jwt-issuer", "https://id.example", "--jwt-audience", "forum"]);
    command
}

/// Returns the status of a PATCH of post 1, which is user 1's.
fn patch(address: SocketAddr, token: &str) -> u16 {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{address}/api/posts/1");
    let request = agent.patch(url).header("authorization", format!("Bearer {token}"));
    request.content_type("application/json").send("{\"x\":1}").unwrap().status().as_u16()
}

#[test]
fn users_write_and_new_keys_are_read_at_a_hangup() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), &dir.path().join("data"));
    let (old, new) = (Provider::new(), Provider::new());
    let keys = dir.path().join("keys.json");
    fs::write(&keys, old.keys()).unwrap();
    let mut service = Process::start(&mut posts(dir.path()));
    service.await_line("open for users' writes; keys of keys.json: 1; left out, since they are for something else: 0");
    let address: SocketAddr = service.await_line(" on http://").trim().parse().unwrap();
    let (owner, other) = (old.token("1", "posts:write"), old.token("2", "posts:write"));
    assert_eq!((patch(address, &owner), patch(address, &other), patch(address, "posts_x")), (200, 403, 401));
    service.await_line("status=200");
    wait_for("the user in the access log", || service.log().contains("token=user:1"));

    fs::write(&keys, "{").unwrap();
    service.signal("HUP");
    let said = service.await_line("SIGHUP: keys.json: it is no JSON Web Key Set");
    assert!(said.ends_with("The old keys stay in force (1); {\"keys\":[]} revokes them"), "{said}");
    assert_eq!(patch(address, &owner), 200);

    // As programs replace files.
    fs::write(dir.path().join("new"), new.keys()).unwrap();
    fs::rename(dir.path().join("new"), &keys).unwrap();
    service.signal("HUP");
    service.await_line("SIGHUP: reloaded; keys of keys.json: 1");
    assert_eq!((patch(address, &owner), patch(address, &new.token("1", "posts:write"))), (401, 200));

    fs::write(&keys, "{\"keys\":[]}").unwrap();
    service.signal("HUP");
    service.await_line("SIGHUP: reloaded; keys of keys.json: 0, so nobody may write with one");
    assert_eq!(patch(address, &new.token("1", "posts:write")), 401);
    for secret in [owner, other] {
        assert!(!service.log().contains(&secret), "{}", service.log());
    }
}

#[test]
fn a_service_does_not_start_with_keys_that_it_cannot_use() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), &dir.path().join("data"));
    let run = |command: &mut Command| {
        let output = run_to_end(command);
        (output.status.code(), text(&output.stderr))
    };
    let keys = dir.path().join("keys.json");
    for (content, reason) in [
        ("{\"keys\":[]}", "keys.json: it has no key for RS256, ES256 or EdDSA"),
        ("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}", "keys.json: key 1: it is a private or a symmetric key"),
    ] {
        fs::write(&keys, content).unwrap();
        let (code, said) = run(&mut posts(dir.path()));
        assert!(code == Some(1) && said.contains(reason), "{code:?} {said}");
    }
    fs::remove_file(&keys).unwrap();
    let (code, said) = run(&mut posts(dir.path()));
    assert!(code == Some(1) && said.contains("keys.json: the file of keys cannot be read: No such file"), "{said}");
    for (arguments, missing) in [
        (&["--jwt-keys", "keys.json"][..], "--jwt-audience <TEXT>"),
        (&["--jwt-keys", "keys.json", "--jwt-audience", "forum"], "--jwt-issuer <TEXT>"),
        (&["--jwt-issuer", "https://id.example"], "--jwt-keys <FILE>"),
    ] {
        let (code, said) = run(Command::new(program("posts")).args(arguments).current_dir(dir.path()));
        assert!(code == Some(2) && said.contains(missing), "{arguments:?}: {code:?} {said}");
    }
}
