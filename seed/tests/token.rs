//! `seed token`, and the service that is given its file.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod world;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use sha2::{Digest, Sha256};
use world::{Process, program, sample, split, text};

/// Runs `seed token` in `folder`.
fn token(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(program("seed")).arg("token").args(arguments).current_dir(folder).output().unwrap()
}

/// The secret that it printed.
fn secret(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).strip_suffix('\n').unwrap().to_owned()
}

fn line(name: &str, secret: &str) -> String {
    let digest: String = Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {digest}\n")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// How many entries a folder has.
fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_token_is_printed_once_and_kept_as_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let first = token(dir.path(), &["posts"]);
    let one = secret(&first);
    let random = one.strip_prefix("posts_").unwrap();
    assert!(random.len() == 64 && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{one}");
    let note = text(&first.stderr);
    assert!(note.contains("`posts --write-token-file tokens/posts`") && !note.contains(random), "{note}");
    let file = dir.path().join("tokens/posts");
    assert_eq!(fs::read_to_string(&file).unwrap(), line("token-1", &one));
    assert_eq!((mode(&file), mode(&dir.path().join("tokens"))), (0o600, 0o700));

    let two = secret(&token(dir.path(), &["posts", "--name", "ci"]));
    let three = secret(&token(dir.path(), &["posts"]));
    assert!(one != two && two != three);
    let all = line("token-1", &one) + &line("ci", &two) + &line("token-3", &three);
    assert_eq!(fs::read_to_string(&file).unwrap(), all);

    let of_users = secret(&token(dir.path(), &["users", "--file", "elsewhere"]));
    assert!(of_users.starts_with("users_"));
    assert_eq!(fs::read_to_string(dir.path().join("elsewhere")).unwrap(), line("token-1", &of_users));
    assert_eq!((entries(&dir.path().join("tokens")), entries(dir.path())), (1, 2));
}

#[test]
fn the_report_in_json_has_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let output = token(dir.path(), &["threads", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let secret = report["secret"].as_str().unwrap();
    let file = "tokens/threads";
    let expected = serde_json::json!({
        "outcome": "made", "collection": "threads", "name": "token-1", "file": file, "secret": secret,
    });
    assert_eq!((report.clone(), text(&output.stderr).as_str()), (expected, ""));
    assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), line("token-1", secret));
}

#[test]
fn what_was_in_the_file_stays_and_so_do_its_mode_and_a_link_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let [file, link] = ["file", "link"].map(|name| dir.path().join(name));
    let before = "# the gate\nold ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    fs::write(&file, before).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    symlink("file", &link).unwrap();
    let secret = secret(&token(dir.path(), &["posts", "--file", "link"]));
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{before}\n{}", line("token-2", &secret)));
    assert_eq!(mode(&file), 0o640);
    assert_eq!((fs::read_link(&link).unwrap().as_path(), entries(dir.path())), (Path::new("file"), 2));
}

#[test]
fn what_cannot_be_done_has_its_exit_code_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    secret(&token(dir.path(), &["posts", "--file", "good", "--name", "ci"]));
    fs::write(dir.path().join("bad"), "posts_ef secret\n").unwrap();
    fs::write(dir.path().join("full"), "#".repeat(64 << 10)).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    let before = world::snapshot(dir.path());
    for (arguments, code, message) in [
        (["posts", "--file", "good", "--name", "ci"], 5, "good: there is a token ci already"),
        (["posts", "--file", "bad", "--name", "ci"], 3, "bad: line 1: expected a name"),
        (["posts", "--file", "full", "--name", "ci"], 3, "full: it is longer than 64 KiB"),
        (["posts", "--file", "folder", "--name", "ci"], 6, "folder: it is no regular file"),
        (["posts", "--file", "good/file", "--name", "ci"], 6, "good"),
        (["posts", "--file", "new", "--name", "c i"], 2, "a token's name is 1 to 64 of"),
        (["posts", "--file", "new", "--name", ""], 2, "a"),
        (["likes", "--file", "new", "--name", "ci"], 2, "[possible values: users, threads, posts]"),
    ] {
        let output = token(dir.path(), &arguments);
        let log = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{arguments:?}: {log}");
        assert!(log.contains(message) && !log.contains("posts_ef"), "{message:?} is not in {log}");
        assert_eq!(world::snapshot(dir.path()), before, "{arguments:?}");
    }
}

#[test]
fn tokens_made_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let secrets: Vec<String> = thread::scope(|scope| {
        let made: Vec<_> = (0..8).map(|_| scope.spawn(|| secret(&token(dir.path(), &["posts"])))).collect();
        made.into_iter().map(|made| made.join().unwrap()).collect()
    });
    let file = fs::read_to_string(dir.path().join("tokens/posts")).unwrap();
    assert_eq!(file.lines().count(), 8, "{file}");
    for secret in secrets {
        let digest = line("", &secret);
        let number = (1..=8).find(|number| file.contains(&format!("token-{number}{digest}")));
        assert!(number.is_some(), "{digest:?} is not in {file}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_secret_that_cannot_be_printed_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(program("seed"));
    let output = command.args(["token", "posts"]).current_dir(dir.path()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(text(&output.stderr).contains("standard output: No space left"), "{}", text(&output.stderr));
}

/// posts, for a free port.
fn posts(data: &Path) -> Command {
    let mut command = Command::new(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(data.join("posts"));
    command
}

#[test]
fn a_service_says_at_its_start_who_may_write_and_logs_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    let mut read_only = Process::start(&mut posts(&data));
    read_only.await_line("read-only, since there is no --write-token-file");
    drop(read_only);

    let secret = secret(&token(dir.path(), &["posts"]));
    let file = dir.path().join("tokens/posts");
    let mut open = Process::start(posts(&data).env("WRITE_TOKEN_FILE", &file).env("RUST_LOG", "trace"));
    open.await_line(&format!("open for writes; tokens of {}: 1", file.display()));
    let address: SocketAddr = open.await_line(" on http://").trim().parse().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let request =
        format!("GET /api/posts/1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    client.read_to_string(&mut String::new()).unwrap();
    open.await_line("path=\"/api/posts/1\"");
    open.signal("TERM");
    assert!(open.wait().success());
    assert!(!open.log().contains(&secret["posts_".len()..]), "{}", open.log());
}

#[test]
fn a_service_does_not_start_with_a_bad_token_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    let file = dir.path().join("tokens");
    for (content, message) in [
        (None, "the token file cannot be read: No such file"),
        (Some("# none yet\n"), "there is no token in it"),
        (Some("\nci posts_5ec3e7\n"), "line 2: expected a name"),
    ] {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let output = posts(&data).arg("--write-token-file").arg(&file).output().unwrap();
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(&format!("{}: {message}", file.display())) && !log.contains("5ec3e7"), "{log}");
    }
}
