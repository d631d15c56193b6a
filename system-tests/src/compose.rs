//! compose.yaml in a project of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, fs, process, thread};

use tempfile::TempDir;

use super::{free_port, root, sample, skip, text, try_get, wait_for};

/// A Compose project, alone on this machine among those of its test program; gone with its volumes when dropped.
pub struct Project {
    name: String,
    /// Where compose.yaml lies.
    root: PathBuf,
    files: Vec<&'static str>,
    port: u16,
    input: TempDir,
    _copy: Option<TempDir>,
    _alone: MutexGuard<'static, ()>,
}

impl Project {
    /// A project of a copy of the repository's compose.yaml with more files over it; nothing of it runs yet. `None` where
    /// there is no Docker to run it.
    pub fn new(over: &[&'static str]) -> Option<Self> {
        let copy = tempfile::tempdir().expect("a folder can be made");
        copy_sources(copy.path());
        let mut project = Self::at(copy.path(), over)?;
        project._copy = Some(copy);
        Some(project)
    }

    /// The same with a copy that lies there.
    pub fn at(root: &Path, over: &[&'static str]) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        if !can_build() {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let input = tempfile::tempdir().expect("a folder can be made");
        fs::copy(sample(), input.path().join("db.json")).expect("it can be copied");
        // The split runs as nobody in particular, and has to be able to read it.
        let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(input.path()).status();
        assert!(readable.expect("chmod runs").success());
        let files = [&["compose.yaml"], over].concat();
        let name = format!("split-test-{}-{}", process::id(), free_port());
        Some(Self { name, root: root.to_owned(), files, port: free_port(), input, _copy: None, _alone: alone })
    }

    /// Builds and starts it all, with more arguments for `up`, and waits until every collection is served.
    pub fn up(&self, more: &[&str]) {
        self.ok(&[&["up", "--build", "--detach"], more].concat());
        for name in ["users", "threads", "posts"] {
            wait_for(name, || try_get(self.entrance(), &format!("/api/{name}/1")).is_some_and(|got| got.0 == 200));
        }
    }

    /// Where the file is that the split reads. It is bound into the container: who changes it must not replace it.
    pub fn input(&self) -> PathBuf {
        self.input.path().join("db.json")
    }

    /// Where clients go.
    pub fn entrance(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Runs Compose.
    pub fn compose(&self, arguments: &[&str]) -> Output {
        let mut command = program().expect("Compose is installed");
        command.current_dir(&self.root).args(["--project-name", &self.name]);
        self.files.iter().for_each(|file| drop(command.args(["--file", file]).get_args()));
        command.args(arguments);
        command.env("PORT", self.port.to_string()).env("DB_JSON", self.input.path().join("db.json"));
        // What Compose 1 needs to build as today's does.
        command.env("DOCKER_BUILDKIT", "1").env("COMPOSE_DOCKER_CLI_BUILD", "1");
        command.output().expect("Compose runs")
    }

    /// Runs Compose, which must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.compose(arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// The containers of a service.
    pub fn containers(&self, service: &str) -> Vec<String> {
        self.ok(&["ps", "--quiet", service]).split_whitespace().map(str::to_owned).collect()
    }

    /// The one container of a service.
    pub fn container(&self, service: &str) -> String {
        self.containers(service).into_iter().next().expect("it has one")
    }

    /// The image a service runs from.
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

/// Compose, as a command of Docker's or by itself, if it is installed.
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

/// Runs Docker, which must succeed.
pub fn docker_ok(arguments: &[&str]) -> String {
    let output = docker(arguments);
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// What Docker knows of a container or an image.
pub fn inspect(name: &str, format: &str) -> String {
    docker_ok(&["inspect", "--format", format, name])
}

/// Whether an engine answers and builds; says so where not.
pub fn can_build() -> bool {
    static CAN: OnceLock<Result<(), String>> = OnceLock::new();
    let can = CAN.get_or_init(|| {
        if !Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success()) {
            return Err("no Docker engine answers".to_owned());
        }
        // A client can be newer than what it needs for building.
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

/// What Cargo.toml says of a release.
const RELEASE: &str = "lto = \"thin\"\ncodegen-units = 1\n";

/// Copies what a build reads of the repository to `to`, and more. A release is built quickly there: what images are tested
/// for is not their speed, and the linker's optimization takes longer than all else.
pub fn copy_sources(to: &Path) {
    let mut tar = Command::new("sh");
    tar.current_dir(root()).env("TO", to).args([
        "-c",
        "tar -c --exclude=.git --exclude=fuzz --exclude=./target --exclude=./data --exclude=./tokens . | tar -x -C \"$TO\"",
    ]);
    assert!(tar.status().expect("tar runs").success(), "{:?}", env::current_dir());
    let manifest = to.join("Cargo.toml");
    let released = fs::read_to_string(&manifest).expect("it is there");
    let quick = released.replace(RELEASE, "opt-level = 1\n");
    assert_ne!(quick, released, "the profile `release` is another");
    fs::write(manifest, quick).expect("it can be written");
}
