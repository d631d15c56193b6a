//! Tests compose.yaml unchanged: it builds images, splits once, and runs three services and the entrance.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use world::compose::{Project, copy_sources, docker, docker_ok, inspect};
use world::{get, program, text, try_get, wait_for};

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn the_containers_serve_and_a_second_up_keeps_them_running() {
    let Some(project) = Project::new(&[]) else { return };
    project.up(&[]);
    let entrance = project.entrance();
    assert_eq!(get(entrance, "/api/posts/4").2, r#"{"id":4,"thread":1,"text":"안녕하세요! 👋","user":4}"#);
    assert_eq!(get(entrance, "/").2, "Ready to receive requests");

    // The second `up` finds the split finished, starts the stopped container and leaves the others running.
    let users = inspect(&project.container("users"), "{{.State.StartedAt}}");
    project.ok(&["stop", "posts"]);
    wait_for("the entrance to notice", || get(entrance, "/api/posts/1").0 == 503);
    project.ok(&["up", "--detach"]);
    wait_for("posts to come back", || get(entrance, "/api/posts/1").0 == 200);
    assert_eq!(inspect(&project.container("users"), "{{.State.StartedAt}}"), users);
    let logs = project.ok(&["logs", "--no-color", "seed"]);
    assert!(logs.contains("is split:") && logs.contains("already holds the split of"), "{logs}");

    // The third brings a newer file: the running services take it.
    let newer = fs::read_to_string(project.input()).unwrap().replace("Keeps bees on a roof", "Keeps bees on two roofs");
    fs::write(project.input(), newer).unwrap();
    project.ok(&["up", "--detach"]);
    assert!(get(entrance, "/api/users/1").2.contains("two roofs"));
    assert_eq!(inspect(&project.container("users"), "{{.State.StartedAt}}"), users);
    let logs = project.ok(&["logs", "--no-color", "seed"]);
    assert!(logs.contains("changed by their own services: users, threads, posts."), "{logs}");
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn an_image_holds_one_program_and_a_container_has_only_the_rights_it_needs() {
    let Some(project) = Project::new(&[]) else { return };
    project.up(&[]);
    for service in ["users", "threads", "posts"] {
        let container = project.container(service);
        for program in ["sh", "/bin/busybox", "apt", "/seed"] {
            assert!(!docker(&["exec", &container, program]).status.success(), "{service} has {program}");
        }
        docker_ok(&["exec", &container, "/service", "check"]);
        wait_for("Docker's own health check", || inspect(&container, "{{.State.Health.Status}}") == "healthy");
        assert_eq!(inspect(&container, "{{len .Mounts}} {{(index .Mounts 0).Destination}}"), "1 /data");
        let image = project.image(service);
        let bytes: u64 = inspect(&image, "{{.Size}}").parse().unwrap();
        assert!(bytes <= 40_000_000, "{service} has {bytes} bytes");
        assert_eq!(inspect(&image, "{{.Config.User}}"), "65532:65532");
        let title = r#"{{index .Config.Labels "org.opencontainers.image.title"}}"#;
        assert_eq!(inspect(&image, title), service);
    }
    for service in ["users", "threads", "posts", "entrance"] {
        let container = project.container(service);
        let host = |field: &str| inspect(&container, &format!("{{{{.HostConfig.{field}}}}}"));
        assert_eq!(host("ReadonlyRootfs"), "true", "{service}");
        assert_eq!(host("CapDrop"), "[ALL]", "{service}");
        assert!(host("SecurityOpt").contains("no-new-privileges"), "{service}");
        for limit in ["PidsLimit", "Memory", "NanoCpus"] {
            assert!(host(limit).parse::<u64>().unwrap() > 0, "{service}: {limit}");
        }
        assert_eq!(host("RestartPolicy.Name"), "unless-stopped", "{service}");
        // The kernel's own view of the process.
        let pid = inspect(&container, "{{.State.Pid}}");
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
            assert!(status.contains("CapEff:\t0000000000000000"), "{service}: {status}");
            assert!(status.contains("NoNewPrivs:\t1"), "{service}: {status}");
            assert!(!status.contains("Uid:\t0"), "{service}: {status}");
        }
        let published =
            inspect(&container, "{{range $port, $to := .NetworkSettings.Ports}}{{if $to}}{{$port}} {{end}}{{end}}");
        let expected = if service == "entrance" { format!("{}/tcp", project.entrance().port()) } else { String::new() };
        assert_eq!(published.trim(), expected, "{service}");
    }
}

/// Sends a new post; returns the answer's status and `Location`.
fn post(entrance: SocketAddr, secret: &str, body: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.post(format!("http://{entrance}/api/posts")).header("content-type", "application/json");
    let answer = request.header("authorization", format!("Bearer {secret}")).send(body).unwrap();
    let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), location.unwrap_or_default())
}

/// Follows the instructions at the top of compose.writes.yaml.
#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn only_a_token_of_posts_writes_a_post_and_the_post_survives_its_container() {
    let dir = tempfile::tempdir().unwrap();
    copy_sources(dir.path());
    let Some(project) = Project::at(dir.path(), &["compose.writes.yaml"]) else { return };
    let token = |name: &str| {
        let made = Command::new(program("seed")).args(["token", name]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        text(&made.stdout).trim().to_owned()
    };
    let [_, of_threads, of_posts] = ["users", "threads", "posts"].map(token);
    let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(dir.path().join("tokens")).status();
    assert!(readable.unwrap().success());
    project.up(&[]);
    let entrance = project.entrance();
    let body = r#"{"thread":1,"text":"written","user":4}"#;
    assert_eq!(post(entrance, &of_threads, body).0, 401);
    let (status, location) = post(entrance, &of_posts, body);
    assert_eq!(status, 201);
    let written = get(entrance, &location);
    assert!(written.0 == 200 && written.2.contains(r#""text":"written""#), "{written:?}");

    // Posts takes the new token file at SIGHUP, not before.
    let second = token("posts");
    assert_eq!(post(entrance, &second, body).0, 401);
    project.ok(&["kill", "-s", "HUP", "posts"]);
    wait_for("posts to take the new token", || post(entrance, &second, body).0 == 201);

    docker_ok(&["kill", &project.container("posts")]);
    project.ok(&["rm", "--force", "posts"]);
    project.ok(&["up", "--detach"]);
    wait_for("posts to come back", || try_get(entrance, &location).is_some_and(|got| got == written));
}

/// Asks Prometheus; returns each result's labels and value.
fn query(prometheus: SocketAddr, expression: &str) -> Vec<(serde_json::Value, String)> {
    let path = format!("/api/v1/query?query={}", utf8_percent_encode(expression, NON_ALPHANUMERIC));
    let Some((200, _, body)) = try_get(prometheus, &path) else { return Vec::new() };
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    let results = answer["data"]["result"].as_array().unwrap().iter();
    results.map(|result| (result["metric"].clone(), result["value"][1].as_str().unwrap().to_owned())).collect()
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn prometheus_sees_every_service_and_tells_of_one_that_is_gone_and_no_service_reaches_it() {
    let Some(project) = Project::new(&["compose.observe.yaml"]) else { return };
    project.up(&["entrance", "prometheus"]);
    let prometheus = project.prometheus();
    wait_for("Prometheus to see all", || query(prometheus, "count(up == 1)").iter().any(|(_, count)| count == "4"));
    get(project.entrance(), "/api/posts/2");
    let counted = r#"service_request_duration_seconds_count{job="posts",route="/api/{collection}/{id}"} > 0"#;
    wait_for("the request to be counted", || !query(prometheus, counted).is_empty());

    // A shell in a container's network stands for the program that was broken into.
    let reached = |from: &str, addresses: &[String]| {
        let attempts = addresses.iter().map(|address| {
            let path = address.replace(':', "/");
            format!("(timeout 2 bash -c 'exec 3<>/dev/tcp/{path}' 2>/dev/null && echo {address}) & ")
        });
        let network = format!("container:{}", project.container(from));
        let script = attempts.collect::<String>() + "wait";
        let run = ["run", "--rm", "--network", &network, "debian:bookworm-slim", "bash", "-c", &script];
        text(&docker(&run).stdout)
    };
    // Addresses by network: a container with a way out may reach something else at any other.
    let addresses = |service: &str, network: &str| -> Vec<String> {
        let format = "{{range $name, $its := .NetworkSettings.Networks}}{{$name}}={{$its.IPAddress}} {{end}}";
        let found = inspect(&project.container(service), format);
        let found = found.split_whitespace().filter_map(|pair| pair.split_once('='));
        found.filter(|(name, _)| name.ends_with(network)).map(|(_, ip)| ip.to_owned()).collect()
    };
    let at = |ips: &[String], port: u16| ips.iter().map(|ip| format!("{ip}:{port}")).collect::<Vec<_>>();
    let own = addresses("users", "_users");
    assert_eq!(reached("entrance", &at(&own, 3000)).lines().count(), 1);
    assert_eq!(reached("entrance", &at(&own, 9464)), "", "it listens in the operators' network alone");
    let all = [addresses("users", ""), addresses("threads", ""), addresses("prometheus", "")].concat();
    assert_eq!(all.len(), 8);
    let ports = [3000, 8404, 9090, 9464].map(|port| at(&all, port)).concat();
    assert_eq!(reached("posts", &ports), "", "of {ports:?}");
    let own = addresses("posts", ".operators");
    assert_eq!(reached("posts", &at(&own, 9464)).lines().count(), 1);

    project.ok(&["stop", "posts"]);
    let firing = r#"ALERTS{alertname="ServiceDown",alertstate="firing"}"#;
    wait_for("the alert", || query(prometheus, firing).iter().any(|(labels, _)| labels["job"] == "posts"));
    assert_eq!(query(prometheus, firing).len(), 1);
}
