//! A copy of the repository that a test may change and build.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::compose::copy_sources;
use crate::{forget_package, program, snapshot, text};

/// A copy of the repository.
pub struct Repository {
    /// Its folder.
    pub folder: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
}

impl Repository {
    /// Copies the repository to the place below `scratch` that the last run used, so that Cargo compiles only changes.
    /// The returned file is locked: one test at a time has the copy.
    pub fn copy(scratch: &str) -> (Self, File) {
        let morning = Path::new(scratch).join("morning");
        fs::create_dir_all(&morning).unwrap();
        let alone = File::create(morning.join("lock")).unwrap();
        alone.lock().unwrap();
        let copy = Self { folder: morning.join("repository"), target: morning.join("target") };
        if !copy.target.exists() {
            copy.take_dependencies();
        }
        copy.refresh();
        (copy, alone)
    }

    /// Takes over what the tests' own build has compiled, of which only the packages from the registry are the same: these
    /// take most of the time.
    fn take_dependencies(&self) {
        let built = program("");
        fs::create_dir_all(self.target.join("debug")).unwrap();
        for (kind, how) in [("deps", "-al"), ("build", "-al"), (".fingerprint", "-a")] {
            let mut copy = Command::new("cp");
            copy.arg(how).arg(built.join(kind)).arg(self.target.join("debug"));
            assert!(copy.status().unwrap().success(), "cp {how} {kind} failed");
        }
    }

    /// Replaces the copy with a fresh one.
    pub fn refresh(&self) {
        let _ = fs::remove_dir_all(&self.folder);
        fs::create_dir(&self.folder).unwrap();
        copy_sources(&self.folder);
        // The copied plan is older than the last run's, so Cargo would not see the change.
        fs::write(self.folder.join("plan"), self.read("plan")).unwrap();
    }

    /// Returns the content of a file.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap()
    }

    /// Returns the files that Git would see, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let own = |path: &Path| path.strip_prefix(&self.folder).unwrap().to_str().unwrap().to_owned();
        let files = snapshot(&self.folder).into_iter().map(|(path, content)| (own(&path), content));
        files.filter(|(path, _)| !path.starts_with("tokens/")).collect()
    }

    /// Returns a command that runs in its folder and builds into its target folder.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("CARGO_TARGET_DIR", &self.target).env("CARGO_PROFILE_DEV_DEBUG", "0");
        forget_package(&mut command);
        command
    }

    /// Builds it as `./up` does.
    pub fn build(&self) {
        let mut cargo = self.command(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "--profile", "dev", "--workspace", "--bins"]);
        assert!(cargo.status().unwrap().success(), "the copy does not build");
    }

    /// Returns the path of a built program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// Returns the digests of its programs.
    pub fn programs(&self) -> BTreeMap<String, String> {
        let names = ["users", "threads", "posts", "collection", "seed"];
        names.map(|name| (name.to_owned(), hex::encode(Sha256::digest(fs::read(self.program(name)).unwrap())))).into()
    }

    /// Runs its `seed`; returns the exit code and all output.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(self.program("seed")).args(arguments).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Runs its `seed` and panics if it fails; returns all output.
    pub fn seed(&self, arguments: &[&str]) -> String {
        let (code, report) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {report}");
        report
    }

    /// Makes a new token; returns its secret.
    pub fn token(&self, collection: &str) -> String {
        self.seed(&["token", collection]).lines().next().unwrap().to_owned()
    }
}
