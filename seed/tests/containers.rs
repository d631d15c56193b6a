//! compose.yaml as it is: images built, the split run once, three services and the entrance in containers.

mod world;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use world::{free_port, get, root, skip, text, try_get, wait_for};

/// A Compose project of its own; gone with its volumes when dropped.
struct Project {
    name: String,
    port: u16,
    input: PathBuf,
}

impl Project {
    fn compose(&self, arguments: &[&str]) -> Output {
        let mut command =
            if Command::new("docker").args(["compose", "version"]).output().is_ok_and(|o| o.status.success()) {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            } else {
                Command::new("docker-compose")
            };
        command.current_dir(root()).args(["--project-name", &self.name]).args(arguments);
        command.env("PORT", self.port.to_string()).env("DB_JSON", &self.input);
        // What Compose 1 needs to build as today's does.
        command.env("DOCKER_BUILDKIT", "1").env("COMPOSE_DOCKER_CLI_BUILD", "1");
        command.output().expect("Compose runs")
    }

    fn compose_ok(&self, arguments: &[&str]) -> String {
        let output = self.compose(arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn container(&self, service: &str) -> String {
        self.compose_ok(&["ps", "--quiet", service]).trim().to_owned()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", text(&self.compose(&["logs", "--no-color"]).stdout));
        }
        self.compose(&["down", "--volumes", "--timeout", "2", "--rmi", "local"]);
    }
}

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().expect("Docker runs")
}

#[test]
fn the_containers_serve_and_a_killed_one_takes_none_with_it() {
    if !Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success()) {
        return skip("no Docker engine answers; the containers are not tested");
    }
    // A client can be newer than what it needs for building.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), "FROM scratch\nLABEL of=test\n").unwrap();
    let build = Command::new("docker").env("DOCKER_BUILDKIT", "1").args(["build", "--quiet"]).arg(dir.path()).output();
    let build = build.expect("Docker runs");
    if !build.status.success() {
        return skip(&format!(
            "this Docker cannot build ({}); the containers are not tested",
            text(&build.stderr).trim()
        ));
    }
    docker(&["rmi", text(&build.stdout).trim()]);
    let input = dir.path().join("db.json");
    fs::copy(world::sample(), &input).unwrap();
    // The split runs as nobody in particular, and has to be able to read it.
    assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(dir.path()).status().unwrap().success());
    let port = free_port();
    let project = Project { name: format!("split-test-{}", std::process::id()), port, input };
    let entrance = SocketAddr::from(([127, 0, 0, 1], port));

    project.compose_ok(&["up", "--build", "--detach"]);
    for name in ["users", "threads", "posts"] {
        wait_for(name, || try_get(entrance, &format!("/api/{name}/1")).is_some_and(|got| got.0 == 200));
    }
    assert_eq!(get(entrance, "/api/posts/4").2, r#"{"id":4,"thread":1,"text":"안녕하세요! 👋","user":4}"#);
    assert_eq!(get(entrance, "/").2, "Ready to receive requests");

    // An image holds its program alone: no shell to run, no other service's program.
    for (service, other) in [("users", "posts"), ("threads", "users"), ("posts", "threads")] {
        let container = project.container(service);
        for program in ["sh".to_owned(), format!("/{other}")] {
            assert!(!docker(&["exec", &container, &program]).status.success(), "{service} has {program}");
        }
        assert!(docker(&["exec", &container, &format!("/{service}"), "--version"]).status.success());
    }

    let posts = project.container("posts");
    assert!(docker(&["kill", &posts]).status.success());
    wait_for("the entrance to notice", || get(entrance, "/api/posts/1").0 == 503);
    assert_eq!(get(entrance, "/api/users/1").0, 200);
    assert_eq!(get(entrance, "/api/threads/1").0, 200);

    // Up again: the split is found finished, what runs is left running, posts comes back.
    project.compose_ok(&["up", "--detach"]);
    wait_for("posts to come back", || get(entrance, "/api/posts/1").0 == 200);
    let logs = project.compose_ok(&["logs", "--no-color", "seed"]);
    assert!(logs.contains("is split:") && logs.contains("already holds the split of"), "{logs}");
}
