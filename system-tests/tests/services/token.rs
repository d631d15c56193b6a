//! `seed token`, and services that use its file.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use sha2::{Digest, Sha256};
use world::{Process, get, program, run_to_end, sample, split, text, wait_for};

/// Runs `seed token` in `folder`.
fn token(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(program("seed")).arg("token").args(arguments).current_dir(folder).output().unwrap()
}

/// Returns the secret that it printed.
fn secret(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).strip_suffix('\n').unwrap().to_owned()
}

fn line(name: &str, secret: &str) -> String {
    let digest = hex::encode(Sha256::digest(secret));
    format!("{name} {digest}\n")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Returns the number of entries of a folder.
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
fn a_service_is_named_as_in_the_plan_or_by_its_collection() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("db.json");
    fs::write(&input, r#"{"animalData": [{"id": 1}]}"#).unwrap();
    let proposed = ["plan", "--from", "db.json", "--output", "plan"];
    let proposed = Command::new(program("seed")).args(proposed).current_dir(&dir).output().unwrap();
    assert!(proposed.status.success(), "{}", text(&proposed.stderr));
    for name in ["animal-data", "animalData"] {
        let made = token(dir.path(), &[name, "--plan", "plan"]);
        assert!(secret(&made).starts_with("animalData_"), "{name}");
        let note = text(&made.stderr);
        assert!(note.contains("`animal-data --write-token-file tokens/animalData`"), "{note}");
    }
}

#[test]
fn the_json_report_contains_the_secret() {
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
fn a_new_token_keeps_the_files_content_its_mode_and_a_link_to_it() {
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
fn a_failed_command_has_its_exit_code_and_changes_nothing() {
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
        (["posts", "--file", "folder", "--name", "ci"], 6, "folder: it is not a regular file"),
        (["posts", "--file", "good/file", "--name", "ci"], 6, "good"),
        (["posts", "--file", "new", "--name", "c i"], 2, "a token's name is 1 to 64 of"),
        (["posts", "--file", "new", "--name", ""], 2, "a"),
        (
            ["likes", "--file", "new", "--name", "ci"],
            2,
            "there is no collection \"likes\": there are users, threads, posts",
        ),
    ] {
        let output = token(dir.path(), &arguments);
        let log = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{arguments:?}: {log}");
        assert!(log.contains(message) && !log.contains("posts_ef"), "{message:?} is not in {log}");
        assert_eq!(world::snapshot(dir.path()), before, "{arguments:?}");
    }
}

#[test]
fn tokens_made_concurrently_are_all_kept() {
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

/// Returns the command of posts, on a free port.
fn posts(data: &Path) -> Command {
    let mut command = Command::new(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(data.join("posts"));
    command
}

#[test]
fn a_service_logs_at_its_start_whether_it_takes_writes_and_never_a_secret() {
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
        let output = run_to_end(posts(&data).arg("--write-token-file").arg(&file));
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(&format!("{}: {message}", file.display())) && !log.contains("5ec3e7"), "{log}");
    }
}

/// A client that keeps its connection to a service.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(world::PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Reads the next answer; returns its status.
    fn status(&mut self) -> u16 {
        let (mut head, mut length) = (String::new(), 0);
        while self.0.read_line(&mut head).unwrap() > 2 {}
        for line in head.lines() {
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse().unwrap();
            }
        }
        self.0.read_exact(&mut vec![0; length]).unwrap();
        head.split(' ').nth(1).unwrap_or_else(|| panic!("the connection was closed: {head:?}")).parse().unwrap()
    }

    /// Sends a new post; returns the answer's status.
    fn post(&mut self, secret: &str) -> u16 {
        self.send(&(head("POST /api/posts", secret) + POST));
        self.status()
    }
}

const POST: &str = r#"{"thread":1,"text":"t","user":1}"#;

/// Returns the head of a request whose body is [`POST`].
fn head(request: &str, secret: &str) -> String {
    let length = POST.len();
    format!(
        "{request} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

/// Starts posts in its sandbox with `tokens/posts` in `folder`, as a relative path, and connects to it.
fn start(folder: &Path) -> (Process, SocketAddr, Client) {
    start_by(Command::new(program("posts")), folder)
}

/// Starts posts as [`start`] does, through `command`.
fn start_by(mut command: Command, folder: &Path) -> (Process, SocketAddr, Client) {
    let data = folder.join("data");
    if !data.exists() {
        split(&sample(), &data);
    }
    command.args(["--listen", "127.0.0.1:0", "--data", "data/posts", "--write-token-file", "tokens/posts"]);
    let mut posts = Process::start(command.current_dir(folder));
    let address = posts.await_line(" on http://").trim().parse().unwrap();
    assert!(!posts.log().contains("without a sandbox"));
    (posts, address, Client::connect(address))
}

/// Sends SIGHUP; waits for the one line about it in the log and returns it.
fn reload(posts: &Process) -> String {
    let lines =
        |log: String| log.lines().filter(|line| line.contains("SIGHUP: ")).map(str::to_owned).collect::<Vec<_>>();
    let before = lines(posts.log()).len();
    posts.signal("HUP");
    wait_for("the log of a SIGHUP", || lines(posts.log()).len() > before);
    let lines = lines(posts.log());
    assert_eq!(lines.len(), before + 1, "{lines:?}");
    lines[before].clone()
}

/// Replaces the file at `path` by a new one with `content`, as editors do.
fn replace(path: &Path, content: &str) {
    let part = path.with_extension("part");
    fs::write(&part, content).unwrap();
    fs::rename(part, path).unwrap();
}

#[test]
fn sighup_adds_and_revokes_tokens_also_for_open_connections() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens/posts");
    let ci = secret(&token(dir.path(), &["posts", "--name", "ci"]));
    // Ignores signals as `nohup` and some test runners do.
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", r#"trap "" HUP INT; exec "$0" "$@""#]).arg(program("posts"));
    let (mut posts, address, mut client) = start_by(ignoring, dir.path());
    assert_eq!(client.post(&ci), 201);

    let made = token(dir.path(), &["posts", "--name", "phone"]);
    assert!(text(&made.stderr).contains("`docker compose kill -s HUP posts`"), "{}", text(&made.stderr));
    let phone = secret(&made);
    assert_eq!(client.post(&phone), 401);
    let said = reload(&posts);
    assert!(said.contains("INFO") && said.ends_with("reloaded; tokens of tokens/posts: 2"), "{said}");
    assert_eq!((client.post(&phone), client.post(&ci)), (201, 201));

    // These writes have begun when their token is revoked.
    let (begin, end) = POST.split_at(9);
    let slow = ["POST /api/posts", "PUT /api/posts/1", "PATCH /api/posts/1"].map(|request| {
        let mut slow = Client::connect(address);
        slow.send(&(head(request, &ci) + begin));
        slow
    });
    replace(&file, &line("phone", &phone));
    assert_eq!(client.post(&ci), 201);
    assert!(reload(&posts).ends_with("tokens of tokens/posts: 1"));
    assert_eq!((client.post(&ci), client.post(&phone)), (401, 201));
    for mut slow in slow {
        slow.send(end);
        assert_eq!(slow.status(), 401);
    }

    // A file without the last token revokes it, too.
    for empty in ["", "# nobody\n"] {
        replace(&file, &line("phone", &phone));
        reload(&posts);
        assert_eq!(client.post(&phone), 201);
        replace(&file, empty);
        let said = reload(&posts);
        assert!(said.contains("WARN") && said.contains("tokens of tokens/posts: 0, so nobody may write"), "{said}");
        assert_eq!((client.post(&phone), client.post(&ci)), (401, 401));
    }
    let again = secret(&token(dir.path(), &["posts"]));
    assert!(reload(&posts).ends_with("tokens of tokens/posts: 1"));
    assert_eq!(client.post(&again), 201);
    assert_eq!(get(address, "/ready").0, 200);
    posts.signal("TERM");
    assert!(posts.wait().success());
    for secret in [ci, phone, again] {
        assert!(!posts.log().contains(&secret["posts_".len()..]), "{}", posts.log());
    }
}

/// Kubernetes replaces files like this: their folder is a link, which it replaces by another link.
#[test]
fn a_token_file_is_followed_through_changing_links() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    for (version, secret) in [("1", "posts_one"), ("2", "posts_two")] {
        fs::create_dir_all(tokens.join(version)).unwrap();
        fs::write(tokens.join(version).join("posts"), line("ci", secret)).unwrap();
    }
    symlink("1", tokens.join("..data")).unwrap();
    symlink("..data/posts", tokens.join("posts")).unwrap();
    let (posts, _, mut client) = start(dir.path());
    assert_eq!((client.post("posts_one"), client.post("posts_two")), (201, 401));
    symlink("2", tokens.join("..new")).unwrap();
    fs::rename(tokens.join("..new"), tokens.join("..data")).unwrap();
    fs::remove_dir_all(tokens.join("1")).unwrap();
    assert!(reload(&posts).ends_with("tokens of tokens/posts: 1"));
    assert_eq!((client.post("posts_one"), client.post("posts_two")), (401, 201));
}

#[test]
fn an_invalid_file_leaves_the_old_tokens_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens/posts");
    let good = secret(&token(dir.path(), &["posts"]));
    let (posts, _, mut client) = start(dir.path());
    let mut refused = |what: &str, expected: &str| {
        let said = reload(&posts);
        assert!(
            said.contains("ERROR") && said.contains(&format!("SIGHUP: tokens/posts: {expected}")),
            "{what}: {said}"
        );
        assert!(said.ends_with("The old tokens stay in force (1); an empty file revokes them"), "{said}");
        assert_eq!(client.post(&good), 201, "{what}");
    };
    for (content, expected) in [
        (format!("{}ci posts_5ec3e7\n", line("other", "posts_other")), "line 2: expected a name"),
        (line("ci", "posts_a") + &line("ci", "posts_b"), "line 2: an earlier line has the same name"),
        ("#".repeat((64 << 10) + 1), "it is longer than 64 KiB"),
        ("#".repeat(1 << 20), "it is longer than 64 KiB"),
    ] {
        replace(&file, &content);
        refused(expected, expected);
    }
    fs::write(&file, b"\xff\n").unwrap();
    refused("bytes", "it is not UTF-8");
    fs::remove_file(&file).unwrap();
    refused("no file", "the token file cannot be read: No such file");
    fs::create_dir(&file).unwrap();
    refused("a folder", "the token file cannot be read: it is not a regular file");
    fs::remove_dir(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    refused("a pipe", "the token file cannot be read: it is not a regular file");
    fs::remove_file(&file).unwrap();
    symlink("posts", &file).unwrap();
    refused("a loop of links", "the token file cannot be read: ");
    fs::remove_file(&file).unwrap();
    assert!(!posts.log().contains("5ec3e7"));

    replace(&file, &line("new", "posts_new"));
    assert!(reload(&posts).ends_with("tokens of tokens/posts: 1"));
    assert_eq!((client.post("posts_new"), client.post(&good)), (201, 401));
}

#[test]
fn sighup_never_ends_a_service() {
    let dir = tempfile::tempdir().unwrap();
    // Without a token file.
    let data = dir.path().join("data");
    split(&sample(), &data);
    let mut read_only = Process::start(&mut posts(&data));
    let address: SocketAddr = read_only.await_line(" on http://").trim().parse().unwrap();
    let said = reload(&read_only);
    assert!(said.contains("nothing to reload, since there is no --write-token-file"), "{said}");
    assert_eq!(Client::connect(address).post("posts_a"), 403);
    read_only.signal("TERM");
    assert!(read_only.wait().success());

    // While its database is filled from a slice that comes slowly.
    fs::remove_dir_all(data.join("posts")).unwrap();
    token(dir.path(), &["posts"]);
    let slice = dir.path().join("slice");
    assert!(Command::new("mkfifo").arg(&slice).status().unwrap().success());
    let mut command = posts(&data);
    command
        .args(["--drain", "3600", "--slice"])
        .arg(&slice)
        .arg("--write-token-file")
        .arg(dir.path().join("tokens/posts"));
    let mut filled = Process::start(&mut command);
    let mut writer = fs::OpenOptions::new().write(true).open(&slice).unwrap();
    filled.await_line("filling ");
    let new = secret(&token(dir.path(), &["posts"]));
    assert!(reload(&filled).ends_with("tokens/posts: 2"));
    writer.write_all(br#"{"posts":[]}"#).unwrap();
    drop(writer);
    let address: SocketAddr = filled.await_line(" on http://").trim().parse().unwrap();
    assert_eq!(Client::connect(address).post(&new), 201);

    // While it drains.
    filled.signal("TERM");
    filled.await_line("serving for another 3600 s");
    fs::write(dir.path().join("tokens/posts"), "").unwrap();
    assert!(reload(&filled).contains("nobody may write"));
    assert_eq!(Client::connect(address).post(&new), 401);
    filled.signal("INT");
    assert!(filled.wait().success(), "{}", filled.log());
    filled.await_line("ended in order");
}

/// Returns the running children of a process.
#[cfg(target_os = "linux")]
fn children(of: &Process) -> Vec<u32> {
    let parent = format!("\nPPid:\t{}\n", of.id());
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| status(*pid).contains(&parent)).collect()
}

/// Returns the system's status of a process; an empty text if it has ended.
#[cfg(target_os = "linux")]
fn status(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    if status.contains("\nState:\tZ") { String::new() } else { status }
}

#[cfg(target_os = "linux")]
fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_service_does_not_depend_on_its_reloader_and_the_reloader_never_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens/posts");
    let good = secret(&token(dir.path(), &["posts"]));
    let (mut posts, address, mut client) = start(dir.path());
    let reloader = children(&posts)[..].try_into().map(|[reloader]: [u32; 1]| reloader).unwrap();
    // Ctrl-C goes to a process group.
    let group = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap().to_owned()
    };
    assert_ne!(group(reloader), group(posts.id()));

    // If the reloader hangs, the log says so, and its answer takes effect when it comes.
    signal(reloader, "STOP");
    replace(&file, &line("new", "posts_new"));
    let said = reload(&posts);
    assert!(
        said.contains("tokens/posts: not read again within 5 s; it takes effect once it is read. The old tokens stay"),
        "{said}"
    );
    assert_eq!((client.post(&good), client.post("posts_new")), (201, 401));
    signal(reloader, "CONT");
    posts.await_line("reloaded; tokens of tokens/posts: 1");
    assert_eq!((client.post(&good), client.post("posts_new")), (401, 201));

    // Signals that end other programs do not end the reloader before its service.
    for name in ["HUP", "INT", "TERM"] {
        signal(reloader, name);
    }
    replace(&file, &line("newer", "posts_newer"));
    reload(&posts);
    assert_eq!((client.post("posts_new"), client.post("posts_newer")), (401, 201));

    signal(reloader, "KILL");
    posts.await_line("reads tokens/posts again at SIGHUP has ended (signal: 9 (SIGKILL)); restart the service");
    assert!(children(&posts).is_empty() && status(reloader).is_empty());
    replace(&file, &line("new", "posts_new"));
    for _ in 0..2 {
        let said = reload(&posts);
        assert!(said.contains("the process that reads it again has ended; restart the service"), "{said}");
        assert!(said.contains("The old tokens stay in force (1)"), "{said}");
    }
    assert_eq!((client.post("posts_new"), client.post("posts_newer"), get(address, "/ready").0), (401, 201, 200));
    posts.signal("TERM");
    assert!(posts.wait().success());

    // The reloader ends with its service, whether in order or not.
    for name in ["TERM", "KILL"] {
        let (mut posts, ..) = start(dir.path());
        let reloader = children(&posts)[0];
        posts.signal(name);
        posts.wait();
        wait_for("the reloader to end", || status(reloader).is_empty());
    }
    let mut read_only = Process::start(&mut self::posts(&dir.path().join("data")));
    read_only.await_line(" on http://");
    assert!(children(&read_only).is_empty(), "there is nothing to read again");
}
