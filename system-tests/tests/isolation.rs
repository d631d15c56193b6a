//! Tests the claims of ARCHITECTURE.md in containers: a fault and a break-in stay in their service, and each service
//! scales and ships alone.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use world::compose::{Project, copy_sources, docker, docker_ok, inspect};
use world::posts::Client;
use world::{get, program, text, tool, try_get, wait_for};

/// Requests of a measurement.
const REQUESTS: usize = 10_000;

/// Connections of a measurement.
const CLIENTS: usize = 8;

/// The most repetitions of a measurement, for machines that are busy with other things.
const ROUNDS: usize = 6;

/// Requests users and threads on several connections; returns the 99th percentile. Panics if a request fails.
fn p99(entrance: SocketAddr) -> Duration {
    let client = || {
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(20)));
        let agent: ureq::Agent = config.build().into();
        let ask = |nth: usize| {
            let path = ["/api/users/1", "/api/threads", "/api/users", "/api/threads/by-user/1"][nth % 4];
            let began = Instant::now();
            let response = agent.get(format!("http://{entrance}{path}")).call();
            response.unwrap_or_else(|error| panic!("{path}: {error}")).into_body().read_to_string().unwrap();
            began.elapsed()
        };
        (0..REQUESTS / CLIENTS).map(ask).collect::<Vec<_>>()
    };
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    times.sort();
    times[times.len() * 99 / 100]
}

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), pid]).status().unwrap().success());
}

/// Eats memory in the control groups of `pid`, again and again until `over`.
fn hog(pid: &str, over: &AtomicBool) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let folders = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        Some(format!("/sys/fs/cgroup/{controllers}{path}/cgroup.procs"))
    });
    let join: String = folders.map(|folder| format!("[ ! -e {folder} ] || echo $$ >{folder}; ")).collect();
    while !over.load(Ordering::Relaxed) {
        // The kernel kills it when the container's memory is full.
        let status = Command::new("sh").args(["-c", &format!("set -e; {join} exec tail /dev/zero")]).status().unwrap();
        assert!(!status.success(), "the container's memory has no limit");
    }
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn a_fault_in_posts_stays_there_and_posts_comes_back() {
    let Some(project) = Project::new(&[]) else { return };
    project.up(&[]);
    let entrance = project.entrance();
    p99(entrance);
    type Fault = fn(&str, &AtomicBool);
    let faults: [(&str, Fault); 3] =
        [("SIGKILL", |pid, _| signal(pid, "KILL")), ("SIGSTOP", |pid, _| signal(pid, "STOP")), ("a memory hog", hog)];
    for (name, fault) in faults {
        let mut ratios = Vec::new();
        while ratios.len() < ROUNDS && !ratios.last().is_some_and(|ratio| *ratio <= 2.0) {
            let undisturbed = p99(entrance);
            let pid = inspect(&project.container("posts"), "{{.State.Pid}}");
            let over = AtomicBool::new(false);
            let disturbed = thread::scope(|scope| {
                scope.spawn(|| fault(&pid, &over));
                let disturbed = p99(entrance);
                over.store(true, Ordering::Relaxed);
                disturbed
            });
            if name == "SIGSTOP" {
                signal(&pid, "CONT");
            }
            wait_for("posts to come back by itself", || {
                try_get(entrance, "/api/posts/1").is_some_and(|got| got.0 == 200)
            });
            ratios.push(disturbed.as_secs_f64() / undisturbed.as_secs_f64());
            eprintln!("{name} in posts: p99 of users and threads {disturbed:.1?}, undisturbed {undisturbed:.1?}");
        }
        assert!(
            ratios.last().is_some_and(|ratio| *ratio <= 2.0),
            "{name}: p99 is {ratios:.1?} times the undisturbed one"
        );
    }
}

/// Runs a command with the network, volumes and rights of a service's container.
fn break_in(container: &str, command: &str) -> Output {
    let network = format!("container:{container}");
    let rights = ["--user", "65532:65532", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"];
    let place = ["run", "--rm", "--network", &network, "--volumes-from", container];
    let shell = ["debian:bookworm-slim", "timeout", "10", "bash", "-c", command];
    docker(&[&place[..], &rights, &shell].concat())
}

/// Tries all addresses at once from inside a service's container; returns those that accept a connection.
fn reached(container: &str, addresses: &[String]) -> String {
    let attempts = addresses.iter().map(|address| {
        let path = address.replace(':', "/");
        format!("(timeout 2 bash -c 'exec 3<>/dev/tcp/{path}' 2>/dev/null && echo {address}) & ")
    });
    text(&break_in(container, &(attempts.collect::<String>() + "wait")).stdout)
}

/// Returns what Docker knows about a container in each of its networks.
fn every(container: &str, field: &str) -> Vec<String> {
    let format = format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}} {{{{end}}}}");
    inspect(container, &format).split_whitespace().map(str::to_owned).collect()
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn who_breaks_into_posts_reaches_no_other_service_no_other_data_and_nothing_outside() {
    let Some(project) = Project::new(&[]) else { return };
    project.up(&[]);
    let posts = project.container("posts");
    let break_in = |command: &str| break_in(&posts, command);
    let reached = |addresses: &[String]| reached(&posts, addresses);
    let works = |command: &str| break_in(command).status.success();

    // The shell stands for posts: it reaches what posts may reach.
    assert_eq!(reached(&["127.0.0.1:3000".to_owned()]), "127.0.0.1:3000\n");
    assert!(works("grep -q thread /data/db.json && touch /data/mine && rm /data/mine"));
    assert!(works("getent hosts entrance"));

    let outside = TcpListener::bind("0.0.0.0:0").unwrap();
    let outside = outside.local_addr().unwrap().port();
    let port = project.entrance().port();
    let mut addresses = vec!["192.0.2.1:80".to_owned()];
    for service in ["users", "threads"] {
        addresses.extend(every(&project.container(service), "IPAddress").iter().map(|ip| format!("{ip}:3000")));
        assert!(!works(&format!("getent hosts {service}")), "posts knows where {service} is");
    }
    let entrance = project.container("entrance");
    for ip in every(&entrance, "IPAddress") {
        addresses.extend([format!("{ip}:{port}"), format!("{ip}:8404")]);
    }
    // The machine itself, in each of its networks.
    for ip in [every(&entrance, "Gateway"), every(&posts, "Gateway"), vec!["172.17.0.1".to_owned()]].concat() {
        addresses.extend([format!("{ip}:{outside}"), format!("{ip}:{port}")]);
    }
    // By default, Docker gives the machine the first address of a network.
    for ip in every(&posts, "IPAddress") {
        let (network, _) = ip.rsplit_once('.').unwrap();
        addresses.extend([format!("{network}.1:{outside}"), format!("{network}.1:{port}")]);
    }
    assert_eq!(reached(&addresses), "", "of {addresses:?}");
    eprintln!("from inside posts: {} addresses tried, none reached", addresses.len());
    // Only its own volume is mounted, and nothing else can be written.
    let mounts = text(&break_in("cat /proc/mounts").stdout);
    assert!(!mounts.contains("/data/") && mounts.contains(" /data "), "{mounts}");
    assert!(works("test ! -e /data/users && test ! -e /data/threads && test ! -e /data/manifest.json"));
    assert!(!works("touch /mine") && !works("touch /etc/mine"));
    assert_eq!(inspect(&posts, "{{len .Mounts}}"), "1");
}

/// Follows the instructions at the top of compose.cluster.yaml.
#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn replicas_that_take_writes_reach_their_broker_and_nothing_else_and_nothing_is_lost_with_them() {
    let dir = tempfile::tempdir().unwrap();
    copy_sources(dir.path());
    let Some(project) = Project::at(dir.path(), &["compose.writes.yaml", "compose.cluster.yaml"]) else { return };
    let seed = |arguments: &[&str]| {
        let output = Command::new(program("seed")).args(arguments).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    seed(&["streams", "keys", "--output", "keys"]);
    let [_, _, secret] = ["users", "threads", "posts"].map(|name| seed(&["token", name]));
    let secrets = ["users", "threads", "posts"].map(|name| seed(&["token", name, "--name", "snapshots"]));
    fs::write(dir.path().join("keys/snapshots"), secrets.join("\n")).unwrap();
    let mut readable = Command::new("sh");
    readable.args(["-c", "chmod -R a+rX keys/* tokens"]).current_dir(dir.path());
    assert!(readable.status().unwrap().success());
    project.up(&[]);
    let client = Client::with_secret(project.entrance(), &secret);
    let write = |key: &str| {
        let body = r#"{"thread":1,"text":"written","user":4}"#;
        let mut location = String::new();
        wait_for("a write to be answered", || {
            let answer = client.try_send("POST", "/api/posts", &[("idempotency-key", key)], body);
            let answer = answer.filter(|answer| answer.status == 201);
            location = answer.map(|answer| answer.location).unwrap_or_default();
            !location.is_empty()
        });
        location
    };

    // Each of three replicas has what any of them has taken.
    let replicas = project.containers("posts");
    assert_eq!(replicas.len(), 3);
    let locations: Vec<String> = (0..6).map(|number| write(&number.to_string())).collect();
    for replica in &replicas {
        let ask = |path: &str| {
            format!("exec 3<>/dev/tcp/127.0.0.1/3000; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")
        };
        wait_for("the replica to have all", || {
            locations.iter().all(|path| text(&break_in(replica, &ask(path)).stdout).starts_with("HTTP/1.0 200"))
        });
    }

    // Of all addresses, a replica reaches the brokers' ports for clients in its own network.
    let posts = &replicas[0];
    let own: Vec<String> = every(posts, "NetworkID");
    let brokers = ["broker-1", "broker-2", "broker-3"].map(|name| project.container(name));
    let mut expected: Vec<String> = brokers
        .iter()
        .flat_map(|broker| every(broker, "NetworkID").into_iter().zip(every(broker, "IPAddress")))
        .filter(|(network, _)| own.contains(network))
        .map(|(_, ip)| format!("{ip}:4222"))
        .collect();
    assert_eq!(expected.len(), 3);
    let mut addresses = Vec::new();
    for ip in brokers.iter().flat_map(|broker| every(broker, "IPAddress")) {
        addresses.extend([4222, 6222, 8222].map(|port| format!("{ip}:{port}")));
    }
    let others = ["users", "threads"].iter().flat_map(|name| project.containers(name));
    addresses.extend(others.flat_map(|other| every(&other, "IPAddress")).map(|ip| format!("{ip}:3000")));
    let port = project.entrance().port();
    for ip in every(&project.container("entrance"), "IPAddress") {
        addresses.extend([format!("{ip}:{port}"), format!("{ip}:8404")]);
    }
    addresses.push("192.0.2.1:80".to_owned());
    let mut found: Vec<String> = reached(posts, &addresses).lines().map(str::to_owned).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "of {addresses:?}");
    eprintln!("from inside a replica: {} addresses tried, {} reached: the brokers", addresses.len(), found.len());
    // Those who store snapshots reach all replicas and brokers, where they can ask them, and nothing else.
    let snapshots = project.container("snapshots");
    let networks: Vec<String> = every(&snapshots, "NetworkID");
    let asked = |name: &str, port: u16| {
        let all = project.containers(name).into_iter();
        let all = all.flat_map(|one| every(&one, "NetworkID").into_iter().zip(every(&one, "IPAddress")));
        let met = all.filter(|(network, _)| networks.contains(network)).map(move |(_, ip)| format!("{ip}:{port}"));
        met.collect::<Vec<_>>()
    };
    let services = ["users", "threads", "posts"].map(|name| asked(name, 3000)).concat();
    let mut expected =
        [services.clone(), ["broker-1", "broker-2", "broker-3"].map(|name| asked(name, 4222)).concat()].concat();
    addresses.extend(services);
    let mut found: Vec<String> = reached(&snapshots, &addresses).lines().map(str::to_owned).collect();
    expected.sort();
    found.sort();
    found.dedup();
    assert_eq!(found, expected, "of {addresses:?}");
    wait_for("the first snapshots", || text(&docker(&["logs", &snapshots]).stdout).contains("read back whole"));
    // It has its own key alone.
    assert!(break_in(posts, "test -s /key && test ! -e /keys").status.success());
    assert_eq!(inspect(posts, "{{len .Mounts}}"), "4", "its database, the slice, the tokens, its key");
    for broker in &brokers {
        let host = |field: &str| inspect(broker, &format!("{{{{.HostConfig.{field}}}}}"));
        assert_eq!((host("ReadonlyRootfs"), host("CapDrop")), ("true".to_owned(), "[ALL]".to_owned()));
        assert_eq!(inspect(broker, "{{.Config.User}}"), "65532:65532");
    }

    // Without a replica and a broker, writes go on.
    docker_ok(&["kill", &replicas[1], &brokers[0]]);
    write("a replica and a broker are gone");
    // All containers and all replicas' databases go; the streams stay.
    project.ok(&["down", "--timeout", "2"]);
    project.ok(&["up", "--detach"]);
    let last = write("all are back");
    wait_for("the posts of before", || {
        locations.iter().chain([&last]).all(|path| try_get(project.entrance(), path).is_some_and(|got| got.0 == 200))
    });
    assert_eq!(last, "/api/posts/28");
}

/// A running wrk that requests a path until it is stopped.
struct Wrk(Child);

impl Wrk {
    fn start(entrance: SocketAddr, path: &str) -> Option<Self> {
        let wrk = tool("wrk", "what load does to scaling and restarts")?;
        let mut command = Command::new(wrk);
        command.args(["-t1", "-c8", "-d600s", "--timeout", "10s", &format!("http://{entrance}{path}")]);
        Some(Self(command.stdout(Stdio::piped()).spawn().unwrap()))
    }

    /// Stops it; returns the number of requests. Panics if any was not answered with 200.
    fn stop(self) -> u64 {
        signal(&self.0.id().to_string(), "INT");
        let report = text(&self.0.wait_with_output().unwrap().stdout);
        assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
        let line = report.lines().find(|line| line.contains(" requests in ")).unwrap_or_else(|| panic!("{report}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// Returns the number of requests for posts that a container has answered.
fn served(container: &str) -> usize {
    let logs = docker(&["logs", container]);
    (text(&logs.stdout) + &text(&logs.stderr)).matches(r#"path="/api/posts"#).count()
}

/// Waits until a container gets requests.
fn await_requests(project: &Project, container: &str) {
    let before = served(container);
    wait_for("a replica to get requests", || {
        get(project.entrance(), "/api/posts/2");
        served(container) > before
    });
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn posts_scales_alone_and_loses_no_request_when_a_replica_dies_or_all_are_restarted() {
    let Some(project) = Project::new(&["compose.replicas.yaml"]) else { return };
    project.up(&["--scale", "posts=3"]);
    let entrance = project.entrance();
    let replicas = project.containers("posts");
    assert_eq!(replicas.len(), 3);
    replicas.iter().for_each(|replica| await_requests(&project, replica));
    assert_eq!(project.containers("users").len(), 1);

    // The load is even: each replica gets its share of many connections.
    let before: Vec<usize> = replicas.iter().map(|replica| served(replica)).collect();
    let Some(wrk) = Wrk::start(entrance, "/api/posts/in-thread/1") else { return };
    wait_for("some load", || replicas.iter().zip(&before).all(|(replica, before)| served(replica) > before + 2000));
    let requests = wrk.stop();
    let shares: Vec<usize> = replicas.iter().zip(&before).map(|(replica, before)| served(replica) - before).collect();
    eprintln!("three replicas: {requests} requests, none failed; shares {shares:?}");
    assert!(shares.iter().max() < shares.iter().min().map(|least| least * 2).as_ref(), "{shares:?}");

    // One is killed under load: the entrance repeats its open requests elsewhere.
    let wrk = Wrk::start(entrance, "/api/posts/in-thread/1").unwrap();
    let others = served(&replicas[1]);
    wait_for("some load", || served(&replicas[1]) > others + 500);
    signal(&inspect(&replicas[0], "{{.State.Pid}}"), "KILL");
    let others = served(&replicas[1]);
    wait_for("more load", || served(&replicas[1]) > others + 2000);
    wait_for("the replica to come back by itself", || inspect(&replicas[0], "{{.State.Health.Status}}") == "healthy");
    eprintln!("one replica killed under load: {} requests, none failed", wrk.stop());

    // All are restarted under load, one after the other.
    let wrk = Wrk::start(entrance, "/api/posts/in-thread/1").unwrap();
    for replica in &replicas {
        docker_ok(&["restart", "--time", "20", replica]);
        wait_for("the replica to be healthy", || inspect(replica, "{{.State.Health.Status}}") == "healthy");
        await_requests(&project, replica);
    }
    eprintln!("a rolling restart under load: {} requests, none failed", wrk.stop());
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn posts_ships_alone() {
    let dir = tempfile::tempdir().unwrap();
    copy_sources(dir.path());
    let Some(project) = Project::at(dir.path(), &[]) else { return };
    project.up(&[]);
    let entrance = project.entrance();
    let others = ["users", "threads", "entrance"];
    let before = others.map(|name| project.container(name));
    let started = || others.map(|name| inspect(&project.container(name), "{{.State.StartedAt}} {{.Image}}"));
    let (started_before, posts_before) = (started(), project.image("posts"));

    let main = dir.path().join("posts/src/main.rs");
    let source = fs::read_to_string(&main).unwrap();
    // Another default port, which the image overrides.
    let changed = source.replace("3003", "3993");
    assert_ne!(changed, source);
    fs::write(&main, changed).unwrap();
    // The declaration belongs to posts alone, too: a limit, a field, and an index that the service builds at its start.
    let declared = dir.path().join("posts/collection.json");
    let source = fs::read_to_string(&declared).unwrap();
    let changed = source
        .replace("16384", "20000")
        .replace(
            r#""fields": ["#,
            r#""fields": [{ "name": "mood", "shape": { "line": { "most": 9 } }, "required": false },"#,
        )
        .replace(r#""indexes": ["#, r#""indexes": [{ "number": 9, "field": "text", "route": "saying" },"#);
    assert!(["20000", "mood", "saying"].iter().all(|edit| changed.contains(edit)), "{changed}");
    fs::write(&declared, changed).unwrap();
    // A new collection does not change their images either.
    fs::create_dir(dir.path().join("comments")).unwrap();
    fs::write(dir.path().join("comments/collection.json"), "{}").unwrap();
    let plan = fs::read_to_string(dir.path().join("plan")).unwrap();
    fs::write(dir.path().join("plan"), plan.clone() + "comments 3004\n").unwrap();
    for name in ["users", "threads"] {
        let mut build = Command::new("docker");
        build.env("DOCKER_BUILDKIT", "1").args(["build", "--quiet", "--target", "service", "--build-arg"]);
        let built = build.arg(format!("SERVICE={name}")).arg(dir.path()).output().unwrap();
        assert_eq!(text(&built.stdout).trim(), project.image(name), "{name} is another image: {}", text(&built.stderr));
    }
    fs::write(dir.path().join("plan"), plan).unwrap();
    let over = AtomicBool::new(false);
    let during = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(get(entrance, "/api/users/1").0, 200);
                assert_eq!(get(entrance, "/api/threads/1").0, 200);
                asked += 2;
            }
            asked
        });
        project.ok(&["up", "--build", "--detach", "--no-deps", "posts"]);
        wait_for("the new posts", || {
            let saying = try_get(entrance, "/api/posts/saying/nothing");
            saying.is_some_and(|got| got.0 == 200 && got.2 == "[]")
        });
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert_ne!(project.image("posts"), posts_before, "the image of posts is not a new one");
    assert_eq!(started(), started_before, "something else was replaced");
    assert_eq!(others.map(|name| project.container(name)), before);
    eprintln!("posts replaced: {during} requests for users and threads meanwhile, none failed");
}
