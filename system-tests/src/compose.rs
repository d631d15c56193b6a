//! Runs compose.yaml as a Compose project.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, fs, process, thread};

use tempfile::TempDir;

use super::{free_port, root, sample, skip, text, try_get, wait_for};

/// A Compose project. A test program runs one at a time; dropping it removes it and its volumes.
pub struct Project {
    name: String,
    /// The folder of compose.yaml.
    root: PathBuf,
    files: Vec<&'static str>,
    port: u16,
    prometheus_port: u16,
    input: TempDir,
    _copy: Option<TempDir>,
    _alone: MutexGuard<'static, ()>,
}

impl Project {
    /// Copies the repository and makes a project of compose.yaml and the files `over` it. Starts nothing. Returns
    /// `None` without Docker.
    pub fn new(over: &[&'static str]) -> Option<Self> {
        let copy = tempfile::tempdir().expect("a folder can be made");
        copy_sources(copy.path());
        let mut project = Self::at(copy.path(), over)?;
        project._copy = Some(copy);
        Some(project)
    }

    /// Makes a project as [`Self::new`] does, from the copy in `root`.
    pub fn at(root: &Path, over: &[&'static str]) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        if !can_build() {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let input = tempfile::tempdir().expect("a folder can be made");
        fs::copy(sample(), input.path().join("db.json")).expect("it can be copied");
        // The split runs as an unprivileged user and must be able to read it.
        let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(input.path()).status();
        assert!(readable.expect("chmod runs").success());
        let files = [&["compose.yaml"], over].concat();
        let name = format!("split-test-{}-{}", process::id(), free_port());
        Some(Self {
            name,
            root: root.to_owned(),
            files,
            port: free_port(),
            prometheus_port: free_port(),
            input,
            _copy: None,
            _alone: alone,
        })
    }

    /// Builds and starts everything, with `more` arguments for `up`, and waits until every collection is served.
    pub fn up(&self, more: &[&str]) {
        // Docker 20.10 sometimes loses a layer between two builds (moby/moby issue 36573); the next one makes it again.
        if !self.compose(&["build"]).status.success() {
            self.ok(&["build"]);
        }
        self.ok(&[&["up", "--detach"], more].concat());
        for name in ["users", "threads", "posts"] {
            wait_for(name, || try_get(self.entrance(), &format!("/api/{name}/1")).is_some_and(|got| got.0 == 200));
        }
    }

    /// Returns the path of the file that the split reads. The container binds it: write into it, do not replace it.
    pub fn input(&self) -> PathBuf {
        self.input.path().join("db.json")
    }

    /// Returns the entrance's address.
    pub fn entrance(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Returns Prometheus' address, if compose.observe.yaml is among the files.
    pub fn prometheus(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.prometheus_port))
    }

    /// Runs Compose.
    pub fn compose(&self, arguments: &[&str]) -> Output {
        let mut command = program().expect("Compose is installed");
        command.current_dir(&self.root).args(["--project-name", &self.name]);
        self.files.iter().for_each(|file| drop(command.args(["--file", file]).get_args()));
        command.args(arguments);
        command.env("PROMETHEUS_PORT", self.prometheus_port.to_string());
        command.env("PORT", self.port.to_string()).env("DB_JSON", self.input.path().join("db.json"));
        // Compose 1 needs these to build as Compose 2 does.
        command.env("DOCKER_BUILDKIT", "1").env("COMPOSE_DOCKER_CLI_BUILD", "1");
        // Compose 1 gives up if the engine takes a minute for a step, as it does while a slow disk is busy.
        command.env("COMPOSE_HTTP_TIMEOUT", "600");
        command.output().expect("Compose runs")
    }

    /// Runs Compose and panics if it fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.compose(arguments);
        // A build says much; what went wrong is said last.
        let said = text(&output.stdout) + &text(&output.stderr);
        let end = said.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        assert!(output.status.success(), "{arguments:?}: {}:\n{end}", output.status);
        text(&output.stdout)
    }

    /// Returns the containers of a service.
    pub fn containers(&self, service: &str) -> Vec<String> {
        self.ok(&["ps", "--quiet", service]).split_whitespace().map(str::to_owned).collect()
    }

    /// Returns the first container of a service.
    pub fn container(&self, service: &str) -> String {
        self.containers(service).into_iter().next().expect("it has one")
    }

    /// Returns the image that a service runs from.
    pub fn image(&self, service: &str) -> String {
        inspect(&self.container(service), "{{.Image}}")
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", text(&self.compose(&["logs", "--no-color", "--tail", "100"]).stdout));
        }
        self.compose(&["down", "--volumes", "--timeout", "2", "--rmi", "local"]);
    }
}

/// Returns Compose, as Docker's subcommand or as its own program, if it is installed.
pub fn program() -> Option<Command> {
    let mut today = Command::new("docker");
    today.arg("compose");
    let runs = |command: &mut Command| command.arg("version").output().is_ok_and(|output| output.status.success());
    if runs(Command::new("docker").arg("compose")) {
        return Some(today);
    }
    runs(&mut Command::new("docker-compose")).then(|| Command::new("docker-compose"))
}

/// Runs Docker.
pub fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().expect("Docker runs")
}

/// Runs Docker and panics if it fails.
pub fn docker_ok(arguments: &[&str]) -> String {
    let output = docker(arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// Returns what Docker knows about a container or an image.
pub fn inspect(name: &str, format: &str) -> String {
    docker_ok(&["inspect", "--format", format, name])
}

/// Returns whether a Docker engine answers and builds; if not, skips the test and says why.
pub fn can_build() -> bool {
    static CAN: OnceLock<Result<(), String>> = OnceLock::new();
    let can = CAN.get_or_init(|| {
        if !Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success()) {
            return Err("no Docker engine answers".to_owned());
        }
        // A client may lack the builder that it needs.
        let dir = tempfile::tempdir().expect("a folder can be made");
        fs::write(dir.path().join("Dockerfile"), "FROM scratch\nLABEL of=test\n").expect("it can be written");
        let mut build = Command::new("docker");
        build.env("DOCKER_BUILDKIT", "1").args(["build", "--quiet"]).arg(dir.path());
        let build = build.output().expect("Docker runs");
        if !build.status.success() {
            return Err(format!("this Docker cannot build ({})", text(&build.stderr).trim()));
        }
        docker(&["rmi", text(&build.stdout).trim()]);
        Ok(())
    });
    if let Err(why) = can {
        skip(&format!("{why}; containers are not tested"));
    }
    can.is_ok()
}

/// Cargo.toml's settings for a release.
const RELEASE: &str = "lto = \"thin\"\ncodegen-units = 1\n";

/// Copies everything that a build reads from the repository to `to`. The copy builds releases quickly: no test of
/// images is about speed, and the linker's optimization takes longer than all else.
pub fn copy_sources(to: &Path) {
    let mut tar = Command::new("sh");
    tar.current_dir(root()).env("TO", to).args([
        "-c",
        "tar -c --exclude=.git --exclude=fuzz --exclude=./target --exclude=./data --exclude=./tokens --exclude=./keys . | tar -x -C \"$TO\"",
    ]);
    assert!(tar.status().expect("tar runs").success(), "{:?}", env::current_dir());
    let manifest = to.join("Cargo.toml");
    let released = fs::read_to_string(&manifest).expect("it is there");
    let quick = released.replace(RELEASE, "opt-level = 1\n");
    assert_ne!(quick, released, "the profile `release` has changed: adapt RELEASE");
    fs::write(manifest, quick).expect("it can be written");
}
