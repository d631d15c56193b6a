//! The operators' listener of a running service: outside of the sandbox that holds, and out of the clients' reach.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use world::prometheus::promtool;
use world::{Process, get, program, root, sample, split, start_entrance, start_service, wait_for};

/// Starts posts with more arguments and waits until it listens.
fn start(folder: &Path, arguments: &[&str]) -> (Process, SocketAddr) {
    let mut command = Command::new(program("posts"));
    let mut posts = Process::start(command.args(["--listen", "127.0.0.1:0", "--data"]).arg(folder).args(arguments));
    let address = posts.await_line("/posts on http://").trim().parse().unwrap();
    wait_for("posts to be ready", || get(address, "/ready").0 == 200);
    (posts, address)
}

/// Sends a request on a connection of its own; returns status and body.
fn ask(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Splits the sample; returns the folder and posts' own.
fn data() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let posts = dir.path().join("posts");
    (dir, posts)
}

#[test]
fn a_unix_socket_answers_from_within_the_sandbox_and_outlives_nobody() {
    let (dir, folder) = data();
    let path = dir.path().join("admin.sock");
    let place = format!("unix:{}", path.display());
    for place in [&place, path.to_str().unwrap()] {
        let (posts, address) = start(&folder, &["--admin-listen", place]);
        assert!(!posts.log().contains("without a sandbox"), "{}", posts.log());
        let connect = || UnixStream::connect(&path).unwrap();
        assert_eq!(get(address, "/api/posts/1").0, 200);
        let (status, metrics) = ask(connect(), "GET", "/metrics", "");
        assert_eq!(status, 200);
        let counted =
            r#"service_request_duration_seconds_count{method="GET",route="/api/{collection}/{id}",status="2xx"} 1"#;
        assert!(metrics.contains(counted), "{metrics}");
        assert_eq!(
            ask(connect(), "GET", "/ready", ""),
            (200, "{\"ready\":true,\"reasons\":[],\"remarks\":[]}\n".into())
        );
        // It leaves its socket behind, which the next start takes over.
        posts.signal("KILL");
        drop(posts);
        assert!(path.exists());
    }
    // A socket that answers is somebody's, and a file is no socket.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let refused = |place: &str| {
        let mut command = Command::new(program("posts"));
        let command = command.args(["--listen", "127.0.0.1:0", "--data"]).arg(&folder);
        let mut posts = Process::start(command.args(["--admin-listen", place]));
        assert_eq!(posts.wait().code(), Some(1), "{}", posts.log());
        let line = posts.await_line(": cannot listen here: ");
        assert!(line.ends_with("choose another place with --admin-listen"), "{line}");
    };
    refused(&place);
    assert!(UnixStream::connect(&path).is_ok());
    drop(other);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    refused(&place);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    refused("192.0.2.1:1");
    refused("nowhere");
}

#[test]
fn the_level_of_the_log_changes_while_it_runs() {
    let (_dir, folder) = data();
    let (mut posts, address) = start(&folder, &["--admin-listen", "127.0.0.1:0"]);
    let admin = posts.await_line("operators are answered on http://");
    let set = |method, body| ask(TcpStream::connect(&admin).unwrap(), method, "/log-level", body);
    assert_eq!(set("GET", ""), (200, "info\n".into()));
    // Load balancers' requests are at the level `debug`.
    get(address, "/ready?before");
    assert_eq!(set("PUT", "debug"), (200, "debug\n".into()));
    posts.await_line("has set what is logged: debug");
    get(address, "/ready");
    posts.await_line("DEBUG access > method=\"GET\" path=\"/ready\"");
    assert!(!posts.log().contains("?before"));
    assert_eq!(set("PUT", "warn\n"), (200, "warn\n".into()));
    get(address, "/api/posts/2");
    assert_eq!(set("PUT", "default"), (200, "info\n".into()));
    assert_eq!(set("PUT", "loud").0, 400);
    get(address, "/api/posts/3");
    posts.await_line("path=\"/api/posts/3\"");
    assert!(!posts.log().contains("/api/posts/2"), "{}", posts.log());
    posts.signal("TERM");
    assert!(posts.wait().success());

    let mut command = Command::new(program("posts"));
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(&folder);
    command.env("RUST_LOG", "info,access=off").env("ADMIN_LISTEN", "127.0.0.1:0");
    let mut posts = Process::start(&mut command);
    let admin = posts.await_line("operators are answered on http://");
    let address: SocketAddr = posts.await_line("/posts on http://").trim().parse().unwrap();
    let set = |method, body| ask(TcpStream::connect(&admin).unwrap(), method, "/log-level", body);
    assert_eq!(set("GET", ""), (200, "info,access=off\n".into()));
    get(address, "/api/posts/2");
    assert_eq!(set("PUT", "info"), (200, "info\n".into()));
    get(address, "/api/posts/3");
    posts.await_line("path=\"/api/posts/3\"");
    assert!(!posts.log().contains("/api/posts/2"), "{}", posts.log());
}

#[test]
fn the_entrance_leads_no_client_to_what_operators_ask() {
    let (dir, folder) = data();
    let (mut posts, address) = start(&folder, &["--admin-listen", "127.0.0.1:0"]);
    let admin: SocketAddr = posts.await_line("operators are answered on http://").trim().parse().unwrap();
    let others = ["users", "threads"].map(|name| start_service(name, &dir.path().join(name)));
    let Some((_entrance, entrance)) = start_entrance(others[0].1, others[1].1, address) else { return };
    for path in ["/metrics", "/log-level", "/ready", "/api/posts/-/metrics", "/api/posts/../../metrics"] {
        for method in ["GET", "PUT"] {
            let (status, body) = {
                let mut stream = TcpStream::connect(entrance).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                write!(stream, "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                (answer[9..12].to_owned(), answer)
            };
            assert!(["400", "404", "405"].contains(&&*status), "{method} {path}: {body}");
        }
    }
    assert_eq!(ask(TcpStream::connect(admin).unwrap(), "GET", "/log-level", "").1, "info\n");
}

/// The queries of the dashboard.
fn queries() -> Vec<String> {
    let dashboard = fs::read_to_string(root().join("deploy/observe/grafana/services.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The words of a text that are metrics of a service; a histogram's parts have its name.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).filter(|word| word.starts_with("service_"));
    let histogram = |word: &'static str| move |name: &str| name.strip_suffix(word).map(str::len);
    let whole = |word| {
        let parts = ["_bucket", "_count", "_sum"].map(histogram);
        &word[..parts.iter().find_map(|part| part(word)).unwrap_or(word.len())]
    };
    words.map(whole).collect()
}

/// Each alert is in the runbook, fires in Prometheus' own test, and asks for metrics that there are, as each panel of the
/// dashboard does.
#[test]
fn each_alert_fires_and_has_its_row_and_each_panel_has_its_metrics() {
    let folder = root().join("deploy/observe");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let (rules, tests) = (read("alerts.yml"), read("alerts_test.yml"));
    let names = |text: &str, before: &str| -> BTreeSet<String> {
        let rest = text.split(before).skip(1);
        rest.map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect()).collect()
    };
    let alerts = names(&rules, "- alert: ");
    assert!(alerts.len() > 10, "{alerts:?}");
    let fired: BTreeSet<String> = tests
        .split("alertname: ")
        .skip(1)
        .filter(|rest| rest.split("exp_alerts:").nth(1).is_some_and(|rest| rest.trim_start().starts_with('-')))
        .map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect())
        .collect();
    assert_eq!(alerts, fired, "alerts, and those that a test fires");
    let operate = fs::read_to_string(root().join("docs/operate.md")).unwrap();
    let (_, table) = operate.split_once("### An alert fires").unwrap();
    let table = table.split("###").next().unwrap();
    assert_eq!(alerts, names(table, "\n| `"), "alerts, and those of docs/operate.md");
    let served = metrics_in(&operate);
    let queries = queries();
    for text in queries.iter().map(String::as_str).chain([&*rules]) {
        let asked = metrics_in(text);
        assert!(asked.is_subset(&served), "{asked:?} of {text}");
    }

    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for arguments in [["check", "config", &path("prometheus.yml")], ["test", "rules", &path("alerts_test.yml")]] {
        let Some((is_good, printed)) = promtool(root(), &arguments, "") else { return };
        assert!(is_good, "{arguments:?}: {printed}");
    }
    // Prometheus reads what Grafana will ask, with Grafana's own variables filled in.
    let dir = tempfile::tempdir().unwrap();
    let asked = queries.iter().enumerate().map(|(nth, query)| {
        let query = query.replace("$__rate_interval", "1m").replace("$job", ".+");
        format!("      - {{ record: 'a:b{nth}', expr: {} }}\n", serde_json::to_string(&query).unwrap())
    });
    let rules = format!("groups:\n  - name: dashboard\n    rules:\n{}", asked.collect::<String>());
    fs::write(dir.path().join("rules.yml"), rules).unwrap();
    let file = dir.path().join("rules.yml");
    let (is_good, printed) = promtool(dir.path(), &["check", "rules", file.to_str().unwrap()], "").unwrap();
    assert!(is_good && printed.contains(&format!("{} rules found", queries.len())), "{printed}");
}

/// The table of docs/operate.md has each metric.
#[test]
fn prometheus_takes_the_metrics_and_the_documents_have_them() {
    let (_dir, folder) = data();
    let (mut posts, address) = start(&folder, &["--admin-listen", "127.0.0.1:0"]);
    let admin: SocketAddr = posts.await_line("operators are answered on http://").trim().parse().unwrap();
    get(address, "/api/posts/1");
    get(address, "/api/posts/404");
    let scrubbed = Command::new(program("posts")).args(["scrub", "--listen", &address.to_string()]).output().unwrap();
    assert!(scrubbed.status.success());
    wait_for("all requests to be counted", || {
        ask(TcpStream::connect(admin).unwrap(), "GET", "/metrics", "").1.contains(r#"route="/scrub""#)
    });
    let (_, metrics) = ask(TcpStream::connect(admin).unwrap(), "GET", "/metrics", "");
    let served: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let operate = fs::read_to_string(root().join("docs/operate.md")).unwrap();
    let is_name = |code: &&str| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let named: BTreeSet<&str> =
        operate.split('`').filter(|code| code.starts_with("service_")).filter(is_name).collect();
    assert_eq!(served, named, "served, and named in docs/operate.md");
    let Some((is_good, printed)) = promtool(root(), &["check", "metrics"], &metrics) else { return };
    assert!(is_good && printed.is_empty(), "{printed}\n{metrics}");
    // It would say so.
    let (is_good, printed) = promtool(root(), &["check", "metrics"], "# TYPE a counter\na{b=\"c} 1\n").unwrap();
    assert!(!is_good, "{printed}");
}
