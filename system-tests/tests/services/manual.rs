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

#[test]
fn a_debian_package_has_the_program_its_unit_its_manual_and_completions() {
    if tool("dpkg-deb", "Debian packages").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let make = |name: &str, rest: &[&str]| {
        let output = Command::new(root().join("deploy/deb")).arg(name).args(rest).output().unwrap();
        (output.status.code(), text(&output.stdout).trim().to_owned(), text(&output.stderr))
    };
    for (name, is_service) in [("posts", true), ("seed", false)] {
        let program = program(name);
        let (code, file, said) = make(name, &["--output", folder, "--program", program.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{said}");
        let ask = |arguments: &[&str]| {
            let output = Command::new("dpkg-deb").args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
            text(&output.stdout)
        };
        assert_eq!(ask(&["--field", &file, "Package"]).trim(), format!("split-{name}"));
        assert_eq!(ask(&["--field", &file, "Version"]).trim(), env!("CARGO_PKG_VERSION"));
        let content = ask(&["--contents", &file]);
        for path in [
            "usr/lib/systemd/system/split@posts.service",
            "usr/share/man/man1/posts.1.gz",
            "usr/share/bash-completion/completions/posts",
        ] {
            assert_eq!(content.contains(path), is_service, "{content}");
        }
        assert!(content.lines().all(|line| line.contains(" root/root ")), "{content}");
        let unpacked = dir.path().join(name);
        ask(&["--extract", &file, unpacked.to_str().unwrap()]);
        let version = Command::new(unpacked.join("usr/bin").join(name)).arg("--version").output().unwrap();
        assert_eq!(text(&version.stdout).trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
        let scripts = dir.path().join(format!("{name}.control"));
        ask(&["--control", &file, scripts.to_str().unwrap()]);
        for script in ["postinst", "prerm"].map(|script| scripts.join(script)).iter().filter(|_| is_service) {
            assert!(Command::new("sh").arg("-n").arg(script).status().unwrap().success());
        }
    }
    let unit = fs::read_to_string(dir.path().join("posts/usr/lib/systemd/system/split@posts.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/%i\n") && unit.contains("NoNewPrivileges=yes"), "{unit}");
    assert_eq!(
        (make("nothing", &[]).0, make("--what", &[]).0, make("posts", &["--output"]).0),
        (Some(2), Some(2), Some(2))
    );
}
