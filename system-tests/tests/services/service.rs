//! One service's process: filling from a slice, health checks, draining, and its sandbox.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest, Sha256};
use world::posts::{self, Posts};
use world::{
    Process, free_port, get, program, run_to_end, sample, skip, split, start_service, text, try_get, wait_for,
};

/// Returns a service's command, on a free port.
fn service(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(program(name));
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(folder);
    command
}

/// Starts it and waits until it listens.
fn start(command: &mut Command) -> (Process, SocketAddr) {
    let mut process = Process::start(command);
    let address = process.await_line(" on http://").trim().parse().unwrap();
    (process, address)
}

fn check(address: &str) -> Output {
    Command::new(program("posts")).args(["check", "--listen", address]).output().unwrap()
}

/// Makes a named pipe, for a slice that arrives as slowly as a test wants.
fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_service_filled_from_its_slice_answers_like_one_filled_by_seed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    for (name, paths) in [
        ("users", vec!["/1", "/7", "/by-username/farid", "/by-username/greta%2F2", "/99"]),
        ("threads", vec!["/1", "/by-user/1", "/by-user/2", "/by-user/99"]),
        ("posts", vec!["/1", "/4", "/16", "/in-thread/1", "/in-thread/4", "/by-user/4", "/by-user/99", "/99"]),
    ] {
        // Neither the folder nor its parent exists yet.
        let folder = dir.path().join("replica").join(name);
        let slice = data.join(name).join("db.json");
        let (mut replica, replica_address) = start(service(name, &folder).arg("--slice").arg(&slice));
        replica.await_line("filled with ");
        let (_original, original_address) = start_service(name, &data.join(name));
        for path in [""].into_iter().chain(paths) {
            let path = format!("/api/{name}{path}");
            assert_eq!(get(replica_address, &path), get(original_address, &path), "{path}");
        }
        assert!(!folder.join("db.part").exists());

        // At the second start there is a database, so the slice is not read.
        replica.signal("TERM");
        assert!(replica.wait().success());
        let (mut again, address) = start(service(name, &folder).env("SLICE", dir.path().join("absent")));
        again.await_line("is left alone");
        assert_eq!(get(address, &format!("/api/{name}")), get(original_address, &format!("/api/{name}")));
    }
}

/// Starts users, and returns it and its folder in /proc if it has at most 8 MiB of its own once the allocator has returned
/// what the start has freed.
fn start_small(folder: &Path) -> Option<(Process, PathBuf)> {
    let (users, _address) = start_service("users", folder);
    let process = PathBuf::from(format!("/proc/{}", users.id()));
    // Its program's own pages depend on how it was built, and are shared.
    let memory = || {
        let text = fs::read_to_string(process.join("smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    };
    let begin = Instant::now();
    while memory() > 8 << 10 {
        if begin.elapsed() > Duration::from_secs(20) {
            return None;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Some((users, process))
}

#[test]
fn an_idle_service_is_small() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    // Where the allocator puts sled's tables varies a little; now and then an older place has to be zeroed.
    let small = (0..3).find_map(|_| start_small(&dir.path().join("users")));
    let (_users, process) = small.expect("an idle service has at most 8 MiB");
    // sled starts seven threads for its files, and one that flushes.
    let is_of_sled = |name: &str| name.starts_with("sled-io-") || name == "log flusher";
    let names = || {
        let tasks = fs::read_dir(process.join("task")).unwrap();
        // A thread that ends is gone when it is asked for its name.
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let names = names.map(|name| name.trim().to_owned());
        let mut names: Vec<String> = names.filter(|name| name != "worker" && !is_of_sled(name)).collect();
        names.sort();
        names
    };
    wait_for("the threads that start a service to end", || names() == ["committer", "seed", "users"]);
}

#[test]
fn a_slice_of_many_blocks_in_any_order_is_loaded_whole() {
    let dir = tempfile::tempdir().unwrap();
    let padding = "x".repeat(1000);
    // First come posts with descending ids of their own, then posts whose ids are their positions.
    let records: Vec<String> = (1..=12_000_u64)
        .map(|position| {
            let id = if position <= 6000 { format!(r#""id":{},"#, 30_001 - position) } else { String::new() };
            format!("{{{id}\"thread\":{},\"text\":\"{padding}\",\"user\":1}}", position % 3 + 1)
        })
        .collect();
    let slice = dir.path().join("db.json");
    fs::write(&slice, format!(" {{ \"posts\" : [ {} ] }} \n", records.join(" ,\n "))).unwrap();
    let (mut posts, address) = start(service("posts", &dir.path().join("data")).arg("--slice").arg(&slice));
    posts.await_line("filled with 12000 records");
    assert_eq!(get(address, "/api/posts").2.matches("\"id\":").count(), 12_000);
    assert_eq!(get(address, "/api/posts/in-thread/2").2.matches("\"id\":").count(), 4000);
    assert_eq!(get(address, "/api/posts/30000").2, records[0]);
    assert_eq!(get(address, "/api/posts/6001").2, records[6000].replacen('{', "{\"id\":6001,", 1));
}

#[test]
fn a_bad_slice_is_refused_with_its_place_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let post = r#"{"thread":1,"text":"t","user":1}"#;
    let huge = format!(r#"{{"posts":[{post},{{"thread":1,"text":"{}","user":1}}]}}"#, "x".repeat(17 << 20));
    for (slice, expected) in [
        ("", "EOF while parsing"),
        ("[]", "expected an object that holds \"posts\" alone"),
        ("{}", "the collection \"posts\" is missing"),
        (r#"{"users":[]}"#, "the collection \"users\" is here, expected \"posts\" alone"),
        (&format!(r#"{{"posts":[{post}],"users":[]}}"#), "the collection \"users\" is here"),
        (r#"{"posts":[],"posts":[]}"#, "the collection \"posts\" is here twice"),
        (r#"{"posts":{}}"#, "expected an array of posts"),
        (r#"{"posts":[]} x"#, "trailing characters"),
        (&format!(r#"{{"posts":[{post}"#), "EOF while parsing"),
        (&format!(r#"{{"posts":[{post},{{"thread"}}]}}"#), "/posts/1: expected"),
        (&format!(r#"{{"posts":[{post},7]}}"#), "/posts/1: expected an object, found a number"),
        (&format!(r#"{{"posts":[{post},{post},{{"thread":"1","text":"t","user":1}}]}}"#), "/posts/2/thread: "),
        (&format!(r#"{{"posts":[{post},{{"thread":1,"user":1,"text":"\ud800"}}]}}"#), "/posts/1/text: "),
        (
            &format!(r#"{{"posts":[{post},{post},{{"id":1,"thread":1,"text":"t","user":1}},{post}]}}"#),
            "/posts/2: an earlier record has the id 1 too",
        ),
        (&huge, "/posts/1: it is longer than 16 MiB"),
    ] {
        let path = dir.path().join("db.json");
        fs::write(&path, slice).unwrap();
        let output = run_to_end(service("posts", &dir.path().join("data")).arg("--slice").arg(&path));
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(expected), "{expected:?} is not in {log}");
        assert!(log.contains(&format!("{}: ", path.display())), "{log}");
        for left in ["db", "db.part"] {
            assert!(!dir.path().join("data").join(left).exists(), "{left} is left: {log}");
        }
    }
    let output = run_to_end(service("posts", &dir.path().join("data")).args(["--slice", "/nowhere/db.json"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nowhere/db.json: No such file"), "{}", text(&output.stderr));
}

#[test]
fn an_interrupted_fill_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("posts");
    let slice = pipe(dir.path());
    let post = r#"{"thread":1,"text":"t","user":1}"#;
    for signal in ["KILL", "TERM", "INT"] {
        let mut posts = Process::start(service("posts", &folder).arg("--slice").arg(&slice));
        let mut writer = OpenOptions::new().write(true).open(&slice).unwrap();
        write!(writer, r#"{{"posts":[{post},"#).unwrap();
        posts.await_line("filling ");
        wait_for("the database to grow", || folder.join("db.part/db").exists());
        posts.signal(signal);
        assert_eq!(posts.wait().success(), signal != "KILL", "{}", posts.log());
        assert!(!folder.join("db").exists());
    }
    assert!(folder.join("db.part").exists(), "nothing was interrupted");
    let mut posts = Process::start(service("posts", &folder).arg("--slice").arg(&slice));
    fs::write(&slice, format!(r#"{{"posts":[{post},{post}]}}"#)).unwrap();
    let address = posts.await_line(" on http://").trim().parse().unwrap();
    assert!(!folder.join("db.part").exists());
    assert_eq!(get(address, "/api/posts").2.matches("\"id\":").count(), 2);
}

#[test]
fn a_service_lives_and_says_what_it_does_while_its_database_is_filled_and_then_serves_whoever_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, slice) = (dir.path().join("posts"), pipe(dir.path()));
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(program("posts"));
    command.args(["--listen", &address.to_string()]).arg("--data").arg(&folder).arg("--slice").arg(&slice);
    let operators = SocketAddr::from(([127, 0, 0, 1], free_port()));
    command.args(["--allow-origin", "https://forum.example", "--admin-listen", &operators.to_string()]);
    let mut posts = Process::start(&mut command);
    let mut writer = OpenOptions::new().write(true).open(&slice).unwrap();
    let post = r#"{"thread":1,"text":"t","user":1}"#;
    write!(writer, r#"{{"posts":[{post},"#).unwrap();
    posts.await_line("filling ");
    for path in ["/live", "/live/"] {
        wait_for("an answer", || try_get(address, path).is_some());
        assert_eq!(get(address, path), (200, "text/plain; charset=utf-8".to_owned(), "live".to_owned()));
    }
    let detail = "The service fills its database from its slice.";
    let body = format!(
        r#"{{"type":"/api/posts/-/problems#loading","title":"Service Unavailable","status":503,"detail":"{detail}"}}"#
    );
    for path in ["/ready", "/", "/api/posts", "/api/posts/1", "/api/posts/-/changes", "/nowhere"] {
        assert_eq!(get(address, path), (503, "application/problem+json".to_owned(), body.clone()), "{path}");
    }
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let refused = agent.post(format!("http://{address}/api/posts")).send("x".repeat(3 << 20)).unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].as_bytes()), (503, &b"5"[..]));
    let reason = format!(r#"the answer is "HTTP/1.1 503 Service Unavailable": {detail}"#);
    let said = text(&check(&address.to_string()).stderr);
    assert!(said.contains(&reason), "{said}");
    posts.await_line(r#"path="/nowhere" status=503"#);
    let state = format!(r#"{{"ready":false,"reasons":[{{"detail":"{detail}","reason":"loading"}}],"remarks":[]}}"#);
    assert_eq!(get(operators, "/ready"), (503, "application/json; charset=utf-8".to_owned(), state + "\n"));
    let metrics = get(operators, "/metrics").2;
    assert!(metrics.contains("\nservice_ready 0\n") && !metrics.contains("service_records"), "{metrics}");
    assert!(metrics.contains(r#"service_refused_requests_total{reason="loading"} "#), "{metrics}");
    // A page of another origin sees why.
    let origin = ("origin", "https://forum.example");
    let seen = agent.get(format!("http://{address}/api/posts")).header(origin.0, origin.1).call().unwrap();
    assert_eq!(
        (seen.status().as_u16(), &seen.headers()["access-control-allow-origin"]),
        (503, &origin.1.parse().unwrap())
    );
    let asks = agent.options(format!("http://{address}/api/posts")).header(origin.0, origin.1);
    let may = asks.header("access-control-request-method", "POST").call().unwrap();
    assert_eq!(may.status(), 204);
    assert!(may.headers()["access-control-allow-methods"].to_str().unwrap().contains("POST"), "{may:?}");
    // From here on every request has an answer, too.
    thread::scope(|scope| {
        scope.spawn(|| {
            while let (status, _, found) = get(address, "/api/posts/1")
                && status != 200
            {
                assert_eq!(status, 503, "{found}");
            }
        });
        write!(writer, "{post}]}}").unwrap();
        drop(writer);
    });
    assert_eq!(get(address, "/api/posts").2.matches("\"id\":").count(), 2);
    wait_for("readiness", || get(operators, "/ready").0 == 200);
    let metrics = get(operators, "/metrics").2;
    assert!(metrics.contains("\nservice_ready 1\n") && metrics.contains("\nservice_records 2\n"), "{metrics}");
    posts.signal("TERM");
    assert!(posts.wait().success(), "{}", posts.log());
}

/// Returns the command of a service that may have so many open files.
fn limited(files: u32, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {files} && exec \"$@\""), "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

#[test]
fn clients_that_hold_all_connections_do_not_keep_a_service_from_its_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let (dir, files) = (tempfile::tempdir().unwrap(), 1024);
    fs::create_dir(dir.path().join("posts")).unwrap();
    let (slice, address) = (pipe(dir.path()), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let mut arguments = posts::arguments(dir.path(), "power");
    arguments[1] = address.to_string().into();
    let mut command = Command::new(program("posts"));
    command.args(arguments).arg("--slice").arg(&slice);
    let mut process = Process::start(&mut limited(files, &command));
    let mut writer = OpenOptions::new().write(true).open(&slice).unwrap();
    let post = r#"{"thread":1,"text":"t","user":1}"#;
    write!(writer, r#"{{"posts":[{post},"#).unwrap();
    process.await_line("so there are at most");
    wait_for("an answer", || try_get(address, "/live").is_some());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Each that is given up comes back.
        scope.spawn(|| {
            let mut held = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                held.retain_mut(|client: &mut TcpStream| {
                    matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
                });
                while held.len() < 2000
                    && !is_over.load(Ordering::Relaxed)
                    && let Ok(client) = TcpStream::connect_timeout(&address, Duration::from_millis(100))
                {
                    client.set_nonblocking(true).unwrap();
                    held.push(client);
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        struct Over<'o>(&'o AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&is_over);
        let open = || fs::read_dir(format!("/proc/{}/fd", process.id())).map_or(0, Iterator::count);
        wait_for("the clients to take all connections", || open() > 350);
        write!(writer, "{post}]}}").unwrap();
        drop(writer);
        let mut posts = Posts::new(address);
        wait_for("a write", || posts.write(1).is_none());
        assert_eq!(posts.write(3), None);
        let open = open();
        assert!(open < 600, "{open} of {files} files are open");
    });
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
}

#[test]
fn a_service_that_may_open_too_few_files_says_so() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let output = run_to_end(&mut limited(100, &service("posts", &dir.path().join("posts"))));
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("a process may have 100 open files here, and a service needs"), "{log}");
}

#[test]
fn check_says_whether_a_service_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let (mut posts, address) = start_service("posts", &dir.path().join("posts"));
    for asked in [address.to_string(), format!("0.0.0.0:{}", address.port())] {
        let output = check(&asked);
        assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
    }
    let by_environment = Command::new(program("posts")).arg("check").env("LISTEN", address.to_string()).output();
    assert!(by_environment.unwrap().status.success());
    posts.signal("TERM");
    posts.wait();
    let output = check(&address.to_string());
    let reason = text(&output.stderr);
    assert!(reason.starts_with(&format!("posts: http://{address}/ready: Connection refused")), "{reason}");
    assert_eq!((output.status.code(), reason.lines().count()), (Some(1), 1));
    assert_eq!(check("nowhere").status.code(), Some(2));
}

#[test]
fn a_draining_service_is_not_ready_and_serves_until_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let folder = dir.path().join("posts");
    let (mut posts, address) = start(service("posts", &folder).args(["--drain", "3600"]));
    let before = get(address, "/api/posts/1");
    posts.signal("TERM");
    wait_for("/ready to turn", || get(address, "/ready").0 == 503);
    let detail = "The service is about to end; send requests elsewhere.";
    let body = format!(
        r#"{{"type":"/api/posts/-/problems#draining","title":"Service Unavailable","status":503,"detail":"{detail}"}}"#
    );
    for path in ["/ready", "/ready/"] {
        assert_eq!(get(address, path), (503, "application/problem+json".to_owned(), body.clone()));
    }
    assert_eq!(get(address, "/live").0, 200);
    assert_eq!(get(address, "/api/posts/1"), before);
    let response = ureq::get(format!("http://{address}/api/posts/1")).call().unwrap();
    assert_eq!(response.headers()["connection"], "close");
    let output = check(&address.to_string());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("503 Service Unavailable"), "{}", text(&output.stderr));
    // A second signal ends the drain.
    posts.signal("INT");
    assert!(posts.wait().success(), "{}", posts.log());
    posts.await_line("ended in order");
    assert_eq!(try_get(address, "/live"), None);

    let (mut posts, address) = start(service("posts", &folder).env("DRAIN", "1"));
    assert!(!ureq::get(format!("http://{address}/ready")).call().unwrap().headers().contains_key("connection"));
    posts.signal("TERM");
    posts.await_line("serving for another 1 s");
    assert!(posts.wait().success(), "{}", posts.log());
    for wrong in ["-1", "soon", ""] {
        assert_eq!(run_to_end(service("posts", &folder).arg(format!("--drain={wrong}"))).status.code(), Some(2));
    }
}

#[test]
fn a_running_service_cannot_leave_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let folder = dir.path().join("posts");
    let (file, elsewhere, tokens) =
        (folder.join("db/journal"), dir.path().join("elsewhere"), dir.path().join("tokens"));
    let digest = hex::encode(Sha256::digest("posts_secret"));
    fs::write(&tokens, format!("test {digest}\n")).unwrap();
    // A service opens its journal at the first write. Here the journal is a link out of the folder, so the write fails,
    // but only with the sandbox.
    for (option, succeeds) in [("--drain=0", false), ("--no-sandbox", true)] {
        let mut command = service("posts", &folder);
        // What is open before the sandbox opens nothing in it.
        command.arg("--admin-listen").arg(dir.path().join("admin"));
        let (mut posts, address) = start(command.arg(option).arg("--write-token-file").arg(&tokens));
        assert_eq!(get(address, "/api/posts/1").0, 200);
        if posts.log().contains("the sandbox is not whole") {
            skip("this kernel has no landlock, or an old one");
            return;
        }
        assert_eq!(posts.log().contains("without a sandbox"), succeeds);
        // Landlock sets this flag before it restricts a thread, so it shows which threads are restricted.
        let threads = fs::read_dir(format!("/proc/{}/task", posts.id())).unwrap();
        let statuses: Vec<String> =
            threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap()).collect();
        assert!(statuses.len() > 3, "sled and the runtime have threads");
        if !succeeds {
            assert!(statuses.iter().all(|status| status.contains("NoNewPrivs:\t1")), "a thread is outside");
        }
        fs::write(&elsewhere, "").unwrap();
        symlink(&elsewhere, &file).unwrap();
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.post(format!("http://{address}/api/posts")).header("authorization", "Bearer posts_secret");
        let request = request.header("content-type", "application/json");
        let status = request.send(r#"{"thread":1,"text":"","user":1}"#).unwrap().status().as_u16();
        assert_eq!(status, if succeeds { 201 } else { 503 }, "{}", posts.log());
        if !succeeds {
            posts.await_line("db/journal: Permission denied");
        }
        drop(posts);
        fs::remove_file(&file).unwrap();
        if succeeds {
            // The answered write is in there: the service would not start without it.
            fs::rename(&elsewhere, &file).unwrap();
        }
    }
    for value in ["1", "true", "yes"] {
        let (mut posts, _) = start(service("posts", &folder).env("NO_SANDBOX", value));
        posts.await_line("without a sandbox");
    }
    let (posts, _) = start(service("posts", &folder).env("NO_SANDBOX", "0"));
    assert!(!posts.log().contains("without a sandbox"));
}

#[test]
fn only_pages_of_named_origins_may_read_answers() {
    let folder = tempfile::tempdir().unwrap();
    split(&sample(), folder.path());
    let data = folder.path().join("posts");
    let ask = |address: SocketAddr, request: &str, fields: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let end = "host: a\r\nconnection: close\r\n\r\n";
        stream.write_all(format!("{request} HTTP/1.1\r\n{fields}{end}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let allows = |answer: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix("access-control-allow-origin: "));
        line.map(ToOwned::to_owned)
    };
    let (forum, other) = ("https://forum.example", "https://forum.example.evil");
    let from = |origin: &str| format!("origin: {origin}\r\n");
    let before = "access-control-request-method: POST\r\n";
    {
        let (_posts, address) = start(&mut service("posts", &data));
        let answer = ask(address, "GET /api/posts/1", &from(forum));
        assert!(!answer.contains("access-control") && !answer.contains("vary"), "{answer}");
    }
    {
        let (_posts, address) =
            start(service("posts", &data).args(["--allow-origin", forum, "--allow-origin", "http://localhost:5173"]));
        // The second time from memory; a 304, an error, a list, and one that is sent in no piece.
        for request in
            ["GET /api/posts/1", "GET /api/posts/1", "GET /api/posts/99", "GET /api/posts", "HEAD /api/posts"]
        {
            let answer = ask(address, request, &from(forum));
            assert_eq!(allows(&answer).as_deref(), Some(forum), "{request}: {answer}");
            assert!(answer.contains("access-control-expose-headers: allow, deprecation, etag, link,"), "{answer}");
            for fields in [from(other), from("null"), String::new()] {
                let answer = ask(address, request, &fields);
                assert!(!answer.contains("access-control"), "{fields}: {answer}");
                // A cache between must not give one page's answer to another.
                assert!(answer.contains("vary: origin"), "{answer}");
            }
        }
        let answer = ask(address, "OPTIONS /api/posts", &(from("http://localhost:5173") + before));
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        for line in [
            "access-control-allow-origin: http://localhost:5173",
            "access-control-allow-methods: GET, HEAD, POST",
            "access-control-allow-headers: authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, read-after",
            "access-control-max-age: 600",
        ] {
            assert!(answer.lines().any(|found| found == line), "{line}: {answer}");
        }
        assert!(!ask(address, "OPTIONS /api/posts", &(from(other) + before)).contains("access-control"));
    }
    let (_posts, address) = start(service("posts", &data).env("ALLOW_ORIGIN", "*"));
    let answer = ask(address, "GET /api/posts/1", &from(other));
    assert!(allows(&answer).as_deref() == Some("*") && !answer.contains("vary"), "{answer}");
    let refused = run_to_end(service("posts", &data).args(["--allow-origin", "https://forum.example/"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("without a path"), "{}", text(&refused.stderr));
}
