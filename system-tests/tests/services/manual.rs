//! What services say about themselves, and the unit that runs them under systemd.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::process::Command;

use world::{program, root, text, tool};

fn print(name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program(name)).args(arguments).env("LISTEN", "127.0.0.1:4711").output().unwrap();
    (output.status.code(), text(&output.stdout))
}

#[test]
fn a_service_prints_its_manual_its_completions_and_examples() {
    for name in ["posts", "collection"] {
        for (shell, sign) in [("bash", format!("_{name}()")), ("fish", format!("complete -c {name}"))] {
            let (code, script) = print(name, &["completions", shell]);
            assert!(code == Some(0) && script.contains(&sign) && script.contains("admin-listen"), "{script}");
        }
        assert_eq!(print(name, &["completions", "sh"]).0, Some(2));
        let (code, manual) = print(name, &["man"]);
        assert_eq!(code, Some(0));
        for word in [&*format!(".TH {name} 1"), "admin\\-listen", "ADMIN_LISTEN", "Examples:", "compact"] {
            assert!(manual.contains(word), "{word} in {manual}");
        }
        assert!(!manual.contains("4711"), "it has the environment of this test: {manual}");
        let (_, help) = print(name, &["--help"]);
        let examples: Vec<&str> = help.lines().filter(|line| line.starts_with(&format!("  {name} "))).collect();
        assert!(examples.len() >= 4, "{help}");
    }
    // Nothing else does without its folder.
    assert_eq!(print("collection", &["compact"]).0, Some(2));
}

/// The figure is in the unit's own comment.
#[test]
fn systemd_finds_the_unit_as_closed_as_it_says() {
    let Some(analyze) = tool("systemd-analyze", "the unit of a service") else { return };
    let unit = fs::read_to_string(root().join("deploy/systemd/split@.service")).unwrap();
    let (_, stated) = unit.split_once("states an exposure of ").unwrap();
    let stated = &stated[..3];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("split@posts.service");
    fs::write(&path, unit.replace("/usr/local/bin/%i", program("posts").to_str().unwrap())).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(&analyze).args(arguments).arg(&path).output().unwrap();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (is_good, printed) = run(&["security", "--offline=true", "--no-pager"]);
    assert!(is_good && printed.contains(&format!("split@posts.service: {stated} OK")), "{printed}");
    let (is_good, printed) = run(&["verify", "--man=no"]);
    assert!(is_good && printed.is_empty(), "{printed}");
}
