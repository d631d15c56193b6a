//! Prometheus' own checker, from this machine or from its image.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use super::{compose, root, skip, text, tool};

/// Runs promtool with `input`, and with access to `folder`. Returns whether it is content, and what it prints; `None` if
/// neither promtool nor Docker is here.
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let is_here = env::split_paths(&env::var_os("PATH")?).any(|path| path.join("promtool").is_file());
    let mut command = if is_here {
        Command::new(tool("promtool", "what Prometheus reads")?)
    } else if compose::can_build() {
        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--interactive", "--network", "none", "--entrypoint", "promtool"]);
        docker.arg(format!("--volume={0}:{0}:ro", folder.display())).arg(image());
        docker
    } else {
        skip("neither promtool nor Docker is here; what Prometheus reads is not checked");
        return None;
    };
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("it has an input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    Some((output.status.success(), text(&output.stdout) + &text(&output.stderr)))
}

/// Returns the image that compose.observe.yaml names.
fn image() -> String {
    let compose = fs::read_to_string(root().join("compose.observe.yaml")).expect("it is there");
    let image = compose.lines().find_map(|line| line.trim().strip_prefix("image: prom/"));
    format!("prom/{}", image.expect("Prometheus has an image"))
}
