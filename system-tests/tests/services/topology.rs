//! The whole topology as real processes: the split, three services, one entrance.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, socket};
use tempfile::TempDir;
use world::{
    Process, forget_package, free_port, get, open_sled, program, root, run_to_end, sample, seed, split, start_entrance,
    start_service, text, tool, try_get, wait_for,
};

struct World {
    data: TempDir,
    users: (Process, SocketAddr),
    threads: (Process, SocketAddr),
    posts: (Process, SocketAddr),
}

fn start_world() -> World {
    let data = tempfile::tempdir().unwrap();
    split(&sample(), data.path());
    let start = |name| start_service(name, &data.path().join(name));
    World { users: start("users"), threads: start("threads"), posts: start("posts"), data }
}

/// Returns the sample's records by collection.
fn source() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(sample()).unwrap()).unwrap()
}

#[test]
fn every_record_of_the_sample_is_served_by_the_service_that_owns_it() {
    let world = start_world();
    let services = [("users", world.users.1), ("threads", world.threads.1), ("posts", world.posts.1)];
    for (name, address) in services {
        let records = source()[name].as_array().unwrap().clone();
        let (status, kind, list) = get(address, &format!("/api/{name}"));
        assert_eq!((status, kind.as_str()), (200, "application/json; charset=utf-8"));
        let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.len(), records.len());
        for (position, mut record) in (1_u64..).zip(records) {
            let id = record["id"].as_u64().unwrap_or(position);
            record["id"] = id.into();
            let one = get(address, &format!("/api/{name}/{id}"));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&one.2).unwrap(), record);
            assert!(list.contains(&record), "{name} {id}");
        }
        for (other, _) in services {
            assert_eq!(get(address, &format!("/api/{other}")).0, if other == name { 200 } else { 404 });
        }
    }
    // Compares bytes, since a parser would not see these differences.
    assert_eq!(get(world.posts.1, "/api/posts/4").2, r#"{"id":4,"thread":1,"text":"안녕하세요! 👋","user":4}"#);
    assert!(get(world.users.1, "/api/users/by-username/farid").2.contains(r#""karma":12345678901234567890"#));
    assert!(get(world.users.1, "/api/users/by-username/greta%2F2").2.contains(r#""ratio":0.10"#));
    assert_eq!(get(world.threads.1, "/api/threads/by-user/1").2.matches("\"id\"").count(), 2);
}

#[test]
fn a_service_ends_with_0_at_a_signal_and_starts_again() {
    let mut world = start_world();
    for signal in ["TERM", "INT"] {
        let (posts, address) = &mut world.posts;
        assert_eq!(get(*address, "/ready").0, 200);
        posts.signal(signal);
        assert!(posts.wait().success(), "{}", posts.log());
        posts.await_line("ended in order");
        world.posts = start_service("posts", &world.data.path().join("posts"));
    }
    let (posts, address) = &mut world.posts;
    posts.signal("KILL");
    posts.wait();
    assert_eq!(try_get(*address, "/ready"), None);
    world.posts = start_service("posts", &world.data.path().join("posts"));
    assert_eq!(get(world.posts.1, "/api/posts/1").0, 200);
}

#[test]
fn a_client_that_never_finishes_does_not_hold_up_the_end() {
    let mut world = start_world();
    let (posts, address) = &mut world.posts;
    let mut slow = TcpStream::connect(*address).unwrap();
    slow.write_all(b"GET /api/posts/1 HTTP/1.1\r\nhost:").unwrap();
    assert_eq!(get(*address, "/ready").0, 200);
    posts.signal("TERM");
    assert!(posts.wait().success(), "{}", posts.log());
    posts.await_line("requests were still under way after 10 s");
    posts.await_line("ended in order");
}

#[test]
fn a_failing_store_is_500_with_a_fixed_text_and_the_cause_in_the_log() {
    let mut world = start_world();
    world.posts.0.signal("TERM");
    world.posts.0.wait();
    let folder = world.data.path().join("posts");
    // The page of records 16 to 20, in an unknown version.
    let db = open_sled(&folder.join("db"));
    assert!(db.insert([1, 0, 0, 0, 0, 0, 0, 0, 1], b"\x09").unwrap().is_some());
    drop(db);
    let (mut posts, address) = start_service("posts", &folder);
    for path in ["/api/posts/16", "/api/posts", "/api/posts/in-thread/4"] {
        let detail = "The service failed; its log says why.";
        let body = format!(
            r#"{{"type":"/api/posts/-/problems#store-failed","title":"Internal Server Error","status":500,"detail":"{detail}"}}"#
        );
        assert_eq!(get(address, path), (500, "application/problem+json".to_owned(), body), "{path}");
    }
    posts.await_line("the page of ids 16 to 31: its table is cut short");
    assert_eq!(get(address, "/api/posts/1").0, 200);
}

#[test]
fn a_service_that_cannot_start_says_why() {
    let world = start_world();
    let empty = tempfile::tempdir().unwrap();
    std::fs::create_dir(empty.path().join("next")).unwrap();
    let data = world.data.path();
    let taken = world.users.1.to_string();
    let cases: [(&[&str], &Path, i32, &str); 6] = [
        (&["--listen", "127.0.0.1:0"], &data.join("absent"), 1, "there is no database here"),
        (&["--listen", "127.0.0.1:0"], &data.join("posts"), 1, "in use by posts (process"),
        (&["--listen", "127.0.0.1:0"], empty.path(), 1, "a split into this folder was interrupted"),
        (&["--listen", "nowhere"], &data.join("posts"), 2, "invalid socket address"),
        (&["--listen", "127.0.0.1:0", "--no-such"], &data.join("posts"), 2, "--no-such"),
        (&["--listen", &taken], &data.join("spare"), 1, "cannot listen here"),
    ];
    split(&sample(), &data.join("other"));
    std::fs::rename(data.join("other/posts"), data.join("spare")).unwrap();
    for (arguments, folder, code, expected) in cases {
        let output = run_to_end(Command::new(program("posts")).args(arguments).arg("--data").arg(folder));
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{log}");
        assert!(log.contains(expected), "{expected:?} is not in {log}");
    }
    let output = run_to_end(Command::new(program("users")).arg("--data").arg(data.join("spare")));
    assert!(text(&output.stderr).contains("this database holds posts, not users"), "{}", text(&output.stderr));
}

#[test]
fn each_request_is_one_line_in_the_access_log() {
    let mut world = start_world();
    let (posts, address) = &mut world.posts;
    let mut raw = TcpStream::connect(*address).unwrap();
    raw.write_all(b"GET /api/posts/%0aINFO%20access%20forged\x7f\"x HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    drop(raw);
    get(*address, "/api/posts/1?a=%0a");
    let line = posts.await_line(" > method=\"GET\" path=\"/api/posts/1?a=%0a\" status=400 bytes=");
    assert!(line.starts_with("138 ms="), "{line}");
    get(*address, "/ready");
    get(*address, "/api/posts/99");
    posts.await_line("path=\"/api/posts/99\" status=404");
    let log = posts.log();
    assert!(!log.contains("path=\"/ready\""), "health checks are not logged: {log}");
    assert_eq!(log.lines().filter(|line| line.contains("access")).count(), log.matches("method=").count());
}

/// A pipe that is not read, as of a stopped log collector, takes 64 KiB.
#[test]
fn a_log_that_nobody_reads_delays_no_request_and_its_lost_lines_are_counted() {
    const REQUESTS: usize = 4000;
    let data = tempfile::tempdir().unwrap();
    split(&sample(), data.path());
    let mut posts = Command::new(program("posts"));
    posts.args(["--listen", "127.0.0.1:0", "--data"]).arg(data.path().join("posts")).stderr(Stdio::piped());
    let mut posts = posts.spawn().unwrap();
    let mut log = BufReader::new(posts.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(" on http://") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
    }
    let (_, address) = line.trim().split_once(" on http://").unwrap();

    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut requests = stream.try_clone().unwrap();
    let request = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(1000));
    let sender = thread::spawn(move || {
        for _ in 1..REQUESTS {
            requests.write_all(request.as_bytes()).unwrap();
        }
        requests.write_all(request.replace("host", "connection: close\r\nhost").as_bytes()).unwrap();
    });
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    sender.join().unwrap();
    assert_eq!(answers.matches("HTTP/1.1 404").count(), REQUESTS);

    let reader = thread::spawn(move || {
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        rest
    });
    assert!(Command::new("kill").arg(posts.id().to_string()).status().unwrap().success());
    assert!(posts.wait().unwrap().success());
    let log = reader.join().unwrap();
    let written =
        log.lines().filter(|line| line.contains("method=\"GET\"") && line.contains("client=127.0.0.1:")).count();
    let lost: Vec<usize> = log
        .lines()
        .filter_map(|line| line.split_once(" lines of the access log are lost"))
        .map(|(begin, _)| begin.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(!lost.is_empty(), "a megabyte was kept, not four");
    assert_eq!(written + lost.iter().sum::<usize>(), REQUESTS, "{lost:?}");
}

#[test]
fn the_entrance_sends_each_collection_to_its_service() {
    let world = start_world();
    let Some((_entrance, entrance)) = start_entrance(world.users.1, world.threads.1, world.posts.1) else { return };
    for (name, address) in [("users", world.users.1), ("threads", world.threads.1), ("posts", world.posts.1)] {
        for path in ["", "/", "/1", "/1/", "/x", "/4711", "/by-user/1", "?q=1"] {
            let path = format!("/api/{name}{path}");
            assert_eq!(get(entrance, &path), get(address, &path), "{path}");
        }
        // No service's own.
        let path = format!("/api/{name}less");
        let ((status, _, body), own) = (get(entrance, &path), get(address, &path).0);
        assert!((status, own) == (404, 404) && body.contains(r#""type":"about:blank""#), "{path}: {body}");
    }
    for (path, body) in [
        ("/", "Ready to receive requests"),
        ("/api", "API ready to receive requests"),
        ("/api/", "API ready to receive requests"),
    ] {
        assert_eq!(get(entrance, path), (200, "text/plain; charset=utf-8".to_owned(), body.to_owned()), "{path}");
    }
    for path in ["/nowhere", "/api/comments", "/API/users", "/live", "/ready"] {
        let (status, kind, body) = get(entrance, path);
        assert_eq!((status, kind.as_str()), (404, "application/problem+json"), "{path}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["status"], 404);
    }
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    // Without tokens, writes to a record are forbidden; writes to the entrance's own paths are never allowed.
    for (path, status, allow) in [("/", 405, "GET, HEAD"), ("/api/", 405, "GET, HEAD"), ("/api/posts/1", 403, "")] {
        let response = agent.delete(format!("http://{entrance}{path}")).call().unwrap();
        let allowed = response.headers().get("allow").map_or("", |allow| allow.to_str().unwrap());
        assert_eq!((response.status().as_u16(), allowed), (status, allow), "{path}");
        let response = agent.head(format!("http://{entrance}{path}")).call().unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_ne!(response.headers()["content-length"], "0");
    }
}

#[test]
fn a_service_that_is_down_is_503_and_the_others_go_on() {
    let mut world = start_world();
    let Some((_entrance, entrance)) = start_entrance(world.users.1, world.threads.1, world.posts.1) else { return };
    let (posts, address) = &mut world.posts;
    posts.signal("KILL");
    posts.wait();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.get(format!("http://{entrance}/api/posts/1")).call().unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["retry-after"], "5");
    let body: serde_json::Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
    assert_eq!(body["title"], "Service Unavailable");
    assert_eq!(get(entrance, "/api/users/1").0, 200);
    assert_eq!(get(entrance, "/api/threads/1").0, 200);

    let mut again = Command::new(program("posts"));
    again.args(["--listen", &address.to_string(), "--data"]).arg(world.data.path().join("posts"));
    let _again = Process::start(&mut again);
    wait_for("the entrance to find posts again", || get(entrance, "/api/posts/1").0 == 200);
}

/// Returns the command of `./up`, on free ports with its data in `data`.
pub(crate) fn up(data: &Path) -> (Command, [SocketAddr; 4]) {
    let ports = [(); 4].map(|()| free_port());
    let mut command = Command::new("bash");
    if cfg!(target_os = "linux") {
        // Sets the signals as a script's `&` does: INT is ignored.
        command = Command::new("env");
        command.args(["--default-signal=HUP,TERM", "--ignore-signal=INT", "bash"]);
    }
    // Uses the profile of this test, so that nothing is built twice.
    let profile = if program("seed").parent().unwrap().ends_with("release") { "release" } else { "dev" };
    command.arg(root().join("up")).env("PROFILE", profile).env("DATA", data);
    for (name, port) in ["PORT", "USERS_PORT", "THREADS_PORT", "POSTS_PORT"].into_iter().zip(ports) {
        command.env(name, port.to_string());
    }
    forget_package(&mut command);
    (command, ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))))
}

#[test]
fn up_serves_through_one_entrance_until_it_is_stopped() {
    if tool("haproxy", "the entrance").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut command, [entrance, services @ ..]) = up(&dir.path().join("data"));
    let mut process = Process::start(&mut command);
    process.await_line(&format!("up       | ready: http://{entrance}/api/users"));
    process.await_line("users    | ");
    assert_eq!(get(entrance, "/api/posts/in-thread/4").2.matches("\"id\"").count(), 3);
    assert_eq!(get(entrance, "/api/users/1"), get(services[0], "/api/users/1"));
    process.await_line("posts    | ");
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
    for address in [entrance].into_iter().chain(services) {
        assert_eq!(try_get(address, "/"), None, "{address} still answers");
    }
    assert_eq!(process.log().matches("ended in order").count(), 3, "{}", process.log());

    // A second start serves the existing data.
    let mut process = Process::start(&mut command);
    process.await_line(&format!("up       | ready: http://{entrance}/api/users  …/api/threads  …/api/posts"));
    assert!(!process.log().contains("is split"), "{}", process.log());
    process.signal("INT");
    assert!(process.wait().success(), "{}", process.log());
}

#[test]
fn up_without_haproxy_says_how_to_install_it_and_serves_each_port() {
    let dir = tempfile::tempdir().unwrap();
    let manager = dir.path().join("apt-get");
    fake(&manager, "echo apt-get was run");
    let (mut command, [entrance, services @ ..]) = up(&dir.path().join("data"));
    command.arg("--no-install").env("HAPROXY", "no-such-haproxy").env("PATH", path_before(dir.path()));
    let mut process = Process::start(&mut command);
    process.await_line("up       | missing: no-such-haproxy; to install: ");
    process.await_line("up       | HAProxy is not installed, so there is no entrance");
    process.await_line(&format!("up       | ready: http://{}/api/users http://", services[0]));
    assert_eq!(get(services[2], "/api/posts/1").0, 200);
    assert_eq!(try_get(entrance, "/"), None);

    // A service that ends is named, and the others go on.
    let children = format!("/proc/{0}/task/{0}/children", process.id());
    let children = std::fs::read_to_string(children).unwrap();
    let named = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "threads\n");
    let threads = children.split(' ').find(named).unwrap();
    assert!(Command::new("kill").args(["-KILL", threads]).status().unwrap().success());
    process.await_line("up       | threads ended with status 137; the others go on");
    assert_eq!(get(services[2], "/api/posts/1").0, 200);
    assert!(!process.log().contains("apt-get was run"), "{}", process.log());
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
}

#[test]
fn up_installs_haproxy_after_saying_so() {
    let Some(haproxy) = tool("haproxy", "the entrance") else { return };
    let dir = tempfile::tempdir().unwrap();
    let installed = dir.path().join("haproxy-of-a-test");
    // What asks for a password is not there, so that others than root are asked for nothing.
    fake(&dir.path().join("sudo"), "if [ \"$1\" != -n ]; then exec \"$@\"; fi");
    let install =
        format!("echo \"apt-get $*\"; [ $1 = update ] || ln -s {} {}", haproxy.display(), installed.display());
    fake(&dir.path().join("apt-get"), &install);
    let (mut command, [entrance, ..]) = up(&dir.path().join("data"));
    command.env("HAPROXY", "haproxy-of-a-test").env("PATH", path_before(dir.path()));
    command.env_remove("NO_INSTALL");
    let mut process = Process::start(&mut command);
    process.await_line("up       | missing: haproxy-of-a-test; installs: ");
    process.await_line(&format!("up       | ready: http://{entrance}/api/users"));
    let log = process.log();
    let says = log.find("installs: ").unwrap();
    let runs = log.find("\napt-get install -qq -y --no-install-recommends haproxy-of-a-test\n").unwrap();
    assert!(says < runs && log[says..runs].contains("\napt-get update -qq"), "{log}");
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
}

/// A script in the place of a program.
pub(crate) fn fake(path: &Path, script: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// `PATH` with a folder before all others.
fn path_before(folder: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap();
    std::env::join_paths([folder.to_owned()].into_iter().chain(std::env::split_paths(&path))).unwrap()
}

#[test]
fn a_second_up_names_the_taken_port_and_leaves_the_first_alone() {
    if tool("haproxy", "the entrance").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    let (mut command, addresses) = up(&dir.path().join("data"));
    let mut first = Process::start(&mut command);
    first.await_line("up       | ready: http://");
    let variables = ["PORT", "USERS_PORT", "THREADS_PORT", "POSTS_PORT"];
    for ((variable, name), address) in
        variables.into_iter().zip(["entrance", "users", "threads", "posts"]).zip(addresses)
    {
        let (mut command, _) = up(&other);
        let mut second = Process::start(command.env(variable, address.port().to_string()));
        assert_eq!(second.wait().code(), Some(1), "{variable}: {}", second.log());
        let taken = format!("up       | port {} is taken, where {name} is to listen; {variable} in", address.port());
        assert!(second.log().contains(&taken), "{taken:?} is not in {}", second.log());
        assert!(!other.exists(), "{variable}: it was split all the same");
    }
    for name in ["users", "threads", "posts"] {
        assert_eq!(get(addresses[0], &format!("/api/{name}/1")).0, 200, "{name}");
    }
    assert!(!first.log().contains(" ended with status "), "{}", first.log());

    // Only the service itself finds a port that is bound but has no listener yet.
    let (mut command, [.., posts]) = up(&other);
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &posts).unwrap();
    let mut second = Process::start(&mut command);
    assert_eq!(second.wait().code(), Some(1), "{}", second.log());
    for line in ["cannot listen here", &format!("up       | posts did not start on port {};", posts.port())] {
        assert!(second.log().contains(line), "{line:?} is not in {}", second.log());
    }
}

#[test]
fn up_serves_collections_of_any_name() {
    if tool("haproxy", "the entrance").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [input, plan, data] = ["db.json", "plan", "data"].map(|name| dir.path().join(name));
    let source = r#"{"blogPosts": [{"id": 1}], "Tags": [{"id": 2}], "tags": [{"id": 3}], "a.b~c": [], "monolith": []}"#;
    std::fs::write(&input, source).unwrap();
    let proposed =
        seed([Path::new("plan"), Path::new("--from"), &input, Path::new("--output"), &plan].map(Path::as_os_str));
    assert!(proposed.status.success(), "{}", text(&proposed.stderr));
    let (mut command, [entrance, ..]) = up(&data);
    for service in ["BLOG_POSTS", "TAGS_2", "TAGS", "A_B_C", "MONOLITH_SERVICE"] {
        command.env(format!("{service}_PORT"), free_port().to_string());
    }
    let mut process = Process::start(command.arg("--plan").arg(&plan).arg(&input));
    process
        .await_line(&format!("up       | ready: http://{entrance}/api/blogPosts  …/api/Tags  …/api/tags  …/api/a.b~c"));
    for (path, expected) in [
        ("/api/blogPosts", r#"[{"id":1}]"#),
        ("/api/blogPosts/1/", r#"{"id":1}"#),
        ("/api/Tags", r#"[{"id":2}]"#),
        ("/api/Tags/2", r#"{"id":2}"#),
        ("/api/tags/3", r#"{"id":3}"#),
        ("/api/a.b~c", "[]"),
        ("/api/monolith", "[]"),
    ] {
        let (status, _, body) = get(entrance, path);
        assert_eq!((status, &*body), (200, expected), "{path}");
    }
    // Another spelling leads to the service too, which answers 404; it never leads to the monolith or a neighbour.
    for (path, service) in [("/api/BLOGPOSTS/1", "blog-posts"), ("/api/blogposts", "blog-posts"), ("/api/TAGS", "tags")]
    {
        let (status, _, body) = get(entrance, path);
        assert_eq!(status, 404, "{path}: {body}");
        process.await_line(&format!(" entrance {service}/"));
    }
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
    assert!(data.join("blogPosts/db.json").exists() && !data.join("blog-posts").exists());
}

/// A closed terminal sends SIGHUP to all its processes; SIGHUP alone does not end a service.
#[test]
fn up_ends_in_order_when_its_terminal_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut command, addresses) = up(&dir.path().join("data"));
    let mut process = Process::start(command.process_group(0));
    process.await_line("up       | ready: http://");
    let group = format!("-{}", process.id());
    assert!(Command::new("kill").args(["-HUP", "--", &group]).status().unwrap().success());
    assert!(process.wait().success(), "{}", process.log());
    for address in addresses {
        assert_eq!(try_get(address, "/"), None, "{address} still answers");
    }
    assert_eq!(process.log().matches("ended in order").count(), 3, "{}", process.log());
}

#[test]
fn up_with_a_bad_file_prints_the_error_of_seed() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("bad.json");
    std::fs::write(&input, "{}").unwrap();
    let (mut command, _) = up(&dir.path().join("data"));
    let output = run_to_end(command.arg(&input));
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("none of the collections users, threads, posts is in it"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn up_with_another_file_than_the_split_one_names_another_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (data, input) = (dir.path().join("data"), dir.path().join("other.json"));
    let mut seed = Command::new(program("seed"));
    forget_package(&mut seed);
    let split = seed.arg("--input").arg(root().join("seed/db.json")).arg("--data").arg(&data).output().unwrap();
    assert!(split.status.success(), "{}", text(&split.stderr));
    std::fs::write(&input, r#"{"users":[],"threads":[],"posts":[]}"#).unwrap();
    let (mut command, _) = up(&data);
    let output = run_to_end(command.arg(&input));
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("it holds the split of another file"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("up       | DATA=FOLDER in the environment"), "{}", text(&output.stdout));
}
