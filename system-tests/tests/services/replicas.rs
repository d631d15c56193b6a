//! `./up --cluster`: replicas of each service behind one entrance, which agree through a broker.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Client as Nats, ConnectOptions};
use futures_util::StreamExt;
use serde_json::{Value, json};
use world::changes::joined;
use world::posts::Client;
use world::{Process, free_port, get, root, run_to_end, sample, seed, text, tool, try_get, wait_for};

use crate::topology::up;

const SERVICES: [&str; 3] = ["users", "threads", "posts"];

/// A running `./up --cluster`.
struct Cluster {
    up: Process,
    entrance: SocketAddr,
    /// Those of posts.
    replicas: [SocketAddr; 3],
    brokers: [SocketAddr; 3],
}

/// Returns the command of `./up` on free ports, with its data and its tokens in `dir`, and the ports by variable.
fn command(dir: &Path) -> (Command, BTreeMap<String, SocketAddr>) {
    let (mut command, ports) = up(&dir.join("data"));
    command.env("TOKENS", dir.join("tokens")).env_remove("REPLICAS");
    let variables = ["PORT", "USERS_PORT", "THREADS_PORT", "POSTS_PORT"].map(str::to_owned);
    let mut addresses: BTreeMap<String, SocketAddr> = variables.into_iter().zip(ports).collect();
    for number in 1..=3 {
        let replicas = SERVICES.iter().filter(|_| number > 1).map(|name| format!("{}_{number}", name.to_uppercase()));
        for name in replicas.chain([format!("BROKER_{number}"), format!("ROUTES_{number}")]) {
            let port = free_port();
            command.env(format!("{name}_PORT"), port.to_string());
            addresses.insert(format!("{name}_PORT"), SocketAddr::from(([127, 0, 0, 1], port)));
        }
    }
    (command, addresses)
}

impl Cluster {
    fn start(dir: &Path, arguments: &[&Path]) -> Self {
        let (mut command, addresses) = command(dir);
        let entrance = addresses["PORT"];
        let mut up = Process::start(command.arg("--cluster").args(arguments));
        up.await_line(&format!("up       | ready: http://{entrance}/api/users  …/api/threads  …/api/posts"));
        assert!(!up.log().contains("is not ready"), "{}", up.log());
        let replicas = ["POSTS_PORT", "POSTS_2_PORT", "POSTS_3_PORT"].map(|name| addresses[name]);
        let brokers = ["BROKER_1_PORT", "BROKER_2_PORT", "BROKER_3_PORT"].map(|name| addresses[name]);
        Self { up, entrance, replicas, brokers }
    }

    /// Kills the process that listens there; returns the command that starts it again.
    fn kill(&self, address: SocketAddr) -> Command {
        let children = format!("/proc/{0}/task/{0}/children", self.up.id());
        let children = fs::read_to_string(children).unwrap();
        let read = |pid: &str, file: &str| -> Vec<String> {
            let content = text(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default());
            content.split('\0').filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        // The broker has its address from the environment.
        let names = |pid: &&str| {
            let parts = [read(pid, "cmdline"), read(pid, "environ")].concat();
            let is_it = |part: &String| *part == address.to_string() || *part == format!("LISTEN={address}");
            parts.iter().any(is_it)
        };
        let pid = children.split_whitespace().find(names).unwrap();
        let (arguments, environment) = (read(pid, "cmdline"), read(pid, "environ"));
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
        wait_for("its end", || try_get(address, "/ready").is_none());
        let mut again = Command::new(&arguments[0]);
        again.current_dir(root()).args(&arguments[1..]).env_clear();
        again.envs(environment.iter().filter_map(|variable| variable.split_once('=')));
        again
    }

    fn stop(mut self) {
        self.up.signal("TERM");
        assert!(self.up.wait().success(), "{}", self.up.log());
    }
}

/// A client that writes posts through the entrance, each with the same key until it is answered.
struct Writer {
    client: Client,
    written: BTreeMap<String, String>,
}

impl Writer {
    fn new(entrance: SocketAddr, secret: &str) -> Self {
        Self { client: Client::with_secret(entrance, secret), written: BTreeMap::new() }
    }

    /// Writes posts until `count` more are answered; returns how many answers were refusals.
    fn write(&mut self, count: usize) -> usize {
        let mut refusals = 0;
        for _ in 0..count {
            let key = format!("key-{}", self.written.len());
            let body = json!({ "thread": 1, "text": key, "user": 1 }).to_string();
            wait_for("the write to be answered", || {
                let answer = self.client.try_send("POST", "/api/posts", &[("idempotency-key", &key)], &body);
                let status = answer.as_ref().map_or(0, |answer| answer.status);
                assert!([0, 201, 502, 503, 504].contains(&status), "{answer:?}");
                if let Some(answer) = answer.filter(|_| status == 201) {
                    assert_eq!(self.written.insert(answer.location, answer.body), None, "an id was given twice");
                } else {
                    refusals += 1;
                }
                status == 201
            });
        }
        refusals
    }

    /// Waits until a replica has all that was answered, and checks that it has nothing else.
    fn check(&self, replica: SocketAddr) {
        let all = || try_get(replica, "/api/posts").filter(|got| got.0 == 200).map(|got| got.2).unwrap_or_default();
        let count = |list: &str| serde_json::from_str::<Vec<Value>>(list).map_or(0, |list| list.len());
        let before =
            count(&serde_json::from_slice::<Value>(&fs::read(sample()).unwrap()).unwrap()["posts"].to_string());
        wait_for("the replica to have all", || count(&all()) >= before + self.written.len());
        assert_eq!(count(&all()), before + self.written.len(), "a post is there twice");
        for (path, body) in &self.written {
            assert_eq!(&get(replica, path).2, body, "{path}");
        }
    }
}

/// Makes a token for posts in `dir`; returns its secret.
fn make_token(dir: &Path) -> String {
    fs::create_dir(dir.join("tokens")).unwrap();
    let made = seed(["token", "posts", "--file", dir.join("tokens/posts").to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    text(&made.stdout).trim().to_owned()
}

#[test]
fn a_cluster_goes_on_without_one_replica_or_one_broker_and_keeps_all_until_it_is_one_service_again() {
    if tool("haproxy", "the entrance").is_none() || tool("nats-server", "a cluster").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (dir, data) = (dir.path(), dir.path().join("data"));
    let secret = make_token(dir);
    let cluster = Cluster::start(dir, &[]);
    let mut writer = Writer::new(cluster.entrance, &secret);
    assert_eq!(writer.write(20), 0);
    cluster.replicas.iter().for_each(|replica| writer.check(*replica));
    let each = cluster.up.log();
    for number in 1..=3 {
        assert!(each.contains(&format!(" entrance posts/posts{number} ")), "no write went to posts-{number}");
    }

    // Without one replica. What clients wrote meanwhile, it has soon after it is back.
    let mut again = cluster.kill(cluster.replicas[1]);
    writer.write(20);
    assert_eq!(get(cluster.entrance, "/api/posts/1").0, 200);
    let mut returned = vec![Process::start(&mut again)];
    wait_for("the replica to be ready", || try_get(cluster.replicas[1], "/ready").is_some_and(|got| got.0 == 200));
    writer.check(cluster.replicas[1]);

    // Without any one of the brokers; one of them leads the stream of posts.
    for broker in cluster.brokers {
        let mut again = cluster.kill(broker);
        let refusals = writer.write(20);
        eprintln!("a broker killed: {refusals} writes refused before 20 were answered");
        assert_eq!(get(cluster.entrance, "/api/posts/1").0, 200);
        returned.push(Process::start(&mut again));
        returned.last_mut().unwrap().await_line("Server is ready");
        writer.write(20);
    }
    cluster.replicas.iter().for_each(|replica| writer.check(*replica));
    cluster.stop();
    drop(returned);
    let posts = |list: String| serde_json::from_str::<Value>(&list).unwrap()["posts"].as_array().unwrap().len();
    assert_eq!(posts(joined(&data)), 20, "the split has changed");

    // Neither a service alone nor a newer file has a place beside the replicas.
    for (arguments, expected) in [
        (vec![], "/data/cluster has replicas, which may have newer records than the split: ./up --cluster goes on"),
        (vec![PathBuf::from("--cluster"), sample()], "/data/cluster has replicas already, and they take no newer file"),
    ] {
        let refused = run_to_end(self::command(dir).0.args(arguments));
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
        assert!(text(&refused.stdout).contains(expected), "{}", text(&refused.stdout));
    }

    // The next run goes on with all; a replica whose folder is lost is made anew from the split and the streams.
    fs::remove_dir_all(data.join("cluster/replicas/3/posts")).unwrap();
    let cluster = Cluster::start(dir, &[]);
    writer.client = Client::with_secret(cluster.entrance, &secret);
    assert_eq!(writer.write(20), 0);
    cluster.replicas.iter().for_each(|replica| writer.check(*replica));
    // Another run on the same data, with other ports, must not touch the brokers' stores.
    let mut second = Process::start(self::command(dir).0.arg("--cluster"));
    assert_eq!(second.wait().code(), Some(1), "{}", second.log());
    assert!(second.log().contains("/data/cluster is in use: broker-1 is process "), "{}", second.log());
    cluster.stop();

    // The way back, as docs/deploy.md has it.
    for name in SERVICES {
        fs::remove_dir_all(data.join(name)).unwrap();
        fs::rename(data.join("cluster/replicas/1").join(name), data.join(name)).unwrap();
    }
    let left = seed(["streams", "leave", "--data", data.to_str().unwrap()]);
    assert!(left.status.success(), "{}", text(&left.stderr));
    fs::remove_dir_all(data.join("cluster")).unwrap();
    let (mut command, addresses) = command(dir);
    let mut alone = Process::start(&mut command);
    alone.await_line("up       | ready: http://");
    writer.client = Client::with_secret(addresses["PORT"], &secret);
    assert_eq!(writer.write(3), 0);
    writer.check(addresses["POSTS_PORT"]);
}

/// Connects to the broker as the owner of a key; returns what the broker complains of, too.
async fn connect(broker: SocketAddr, key: &Path) -> (Nats, jetstream::Context, Arc<Mutex<Vec<String>>>) {
    let complaints = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&complaints);
    let options = ConnectOptions::with_nkey(fs::read_to_string(key).unwrap().trim().to_owned());
    let options = options.request_timeout(Some(Duration::from_secs(2))).event_callback(move |event| {
        events.lock().unwrap().push(event.to_string());
        std::future::ready(())
    });
    let client = options.connect(format!("nats://{broker}")).await.unwrap();
    let mut context = jetstream::new(client.clone());
    context.set_timeout(Duration::from_secs(2));
    (client, context, complaints)
}

/// Returns the number of messages in a stream that the context may see.
async fn count_messages(context: &jetstream::Context, stream: &str) -> u64 {
    context.get_stream(stream).await.unwrap().cached_info().state.messages
}

#[test]
fn the_key_of_posts_opens_no_other_stream_and_lets_it_only_add_to_its_own() {
    if tool("haproxy", "the entrance").is_none() || tool("nats-server", "a cluster").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let secret = make_token(dir.path());
    let cluster = Cluster::start(dir.path(), &[]);
    Writer::new(cluster.entrance, &secret).write(3);
    let key = |name: &str| dir.path().join(format!("data/cluster/keys/{name}.nk"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_, users, _) = connect(cluster.brokers[0], &key("users")).await;
        let (client, posts, complaints) = connect(cluster.brokers[0], &key("posts")).await;
        let before = (count_messages(&users, "users").await, count_messages(&posts, "posts").await);
        assert_eq!(before.0, 1);
        assert!(before.1 > 1, "{before:?}");

        // What is users'.
        let published = async { posts.publish("users.commands", "x".into()).await?.await };
        assert!(published.await.is_err());
        assert!(posts.get_stream("users").await.is_err());
        let mut heard = client.subscribe("users.>").await.unwrap();
        let mut all = client.subscribe(">").await.unwrap();
        // Its own stream: to purge, delete, change or make it anew is the administrator's.
        let own = posts.get_stream("posts").await.unwrap();
        assert!(own.purge().await.is_err());
        assert!(own.delete_message(2).await.is_err());
        assert!(own.direct_get(2).await.is_err());
        assert!(posts.delete_stream("posts").await.is_err());
        let config = |name: &str, subject: &str| stream::Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            ..stream::Config::default()
        };
        assert!(posts.update_stream(config("posts", "posts.commands")).await.is_err());
        assert!(posts.create_stream(config("mine", "mine")).await.is_err());
        assert!(posts.create_stream(config("copy", "users.commands")).await.is_err());
        assert!(client.request("$JS.API.INFO", "".into()).await.is_err());
        // Snapshots: it reads its own, and stores or removes none.
        assert!(posts.get_object_store("snapshots-users").await.is_err());
        let snapshots = posts.get_object_store("snapshots-posts").await.unwrap();
        assert!(snapshots.put("9-0", &mut &b"mine"[..]).await.is_err());
        let pieces = posts.get_stream("OBJ_snapshots-posts").await.unwrap();
        assert!(pieces.purge().await.is_err());
        assert!(posts.delete_object_store("snapshots-posts").await.is_err());

        assert_eq!((count_messages(&users, "users").await, count_messages(&posts, "posts").await), before);
        let quiet = Duration::from_millis(200);
        assert!(tokio::time::timeout(quiet, heard.next()).await.ok().flatten().is_none());
        assert!(tokio::time::timeout(quiet, all.next()).await.ok().flatten().is_none());
        let complaints = complaints.lock().unwrap().join("\n").to_lowercase();
        for subject in ["users.commands", "$js.api.stream.info.users", "$js.api.stream.purge.posts", "users.>"] {
            assert!(complaints.contains(subject), "the broker did not complain of {subject}: {complaints}");
        }
    });
    cluster.stop();
}

#[test]
fn a_cluster_without_a_broker_of_its_version_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old-server");
    crate::topology::fake(&old, "echo nats-server: v2.9.10");
    for (program, expected) in [
        (
            "no-such-server",
            "missing: no-such-server; to install: python3 -m pip install --target target/nats nats-server",
        ),
        (old.to_str().unwrap(), "is of version 2.9.10, but 2.15.1 is needed"),
    ] {
        let mut command = command(dir.path()).0;
        let refused = run_to_end(command.arg("--cluster").env("NATS_SERVER", program));
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
        assert!(text(&refused.stdout).contains(expected), "{}", text(&refused.stdout));
    }
    assert!(!dir.path().join("data").exists());
}
