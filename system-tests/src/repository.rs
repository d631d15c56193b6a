//! A copy of the repository that a test may change and build.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::compose::copy_sources;
use crate::{forget_package, snapshot, text};

/// A copy of the repository.
pub struct Repository {
    /// Where it lies.
    pub folder: PathBuf,
    /// Where Cargo builds it.
    pub target: PathBuf,
}

impl Repository {
    /// Copies it to where the last run had it below `scratch`, so that Cargo compiles only what has changed since. The file
    /// is locked: one test at a time has the copy.
    pub fn copy(scratch: &str) -> (Self, File) {
        let morning = Path::new(scratch).join("morning");
        fs::create_dir_all(&morning).unwrap();
        let alone = File::create(morning.join("lock")).unwrap();
        alone.lock().unwrap();
        let copy = Self { folder: morning.join("repository"), target: morning.join("target") };
        copy.refresh();
        (copy, alone)
    }

    /// Copies it anew.
    pub fn refresh(&self) {
        let _ = fs::remove_dir_all(&self.folder);
        fs::create_dir(&self.folder).unwrap();
        copy_sources(&self.folder);
        // It is older than the one that the last run has left, and Cargo would not see it.
        fs::write(self.folder.join("plan"), self.read("plan")).unwrap();
    }

    /// Returns the content of one of its files.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap()
    }

    /// What Git would see of it, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let own = |path: &Path| path.strip_prefix(&self.folder).unwrap().to_str().unwrap().to_owned();
        let files = snapshot(&self.folder).into_iter().map(|(path, content)| (own(&path), content));
        files.filter(|(path, _)| !path.starts_with("tokens/")).collect()
    }

    /// Returns a command in its folder, which builds into its target folder.
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

    /// Returns where its program is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// The digests of its programs.
    pub fn programs(&self) -> BTreeMap<String, String> {
        let names = ["users", "threads", "posts", "collection", "seed"];
        names.map(|name| (name.to_owned(), hex::encode(Sha256::digest(fs::read(self.program(name)).unwrap())))).into()
    }

    /// Runs its `seed`; returns the exit code, and all that was printed.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(self.program("seed")).args(arguments).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    /// The same, which must succeed.
    pub fn seed(&self, arguments: &[&str]) -> String {
        let (code, report) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {report}");
        report
    }

    /// A new token's secret.
    pub fn token(&self, collection: &str) -> String {
        self.seed(&["token", collection]).lines().next().unwrap().to_owned()
    }
}
