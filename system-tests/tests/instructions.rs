//! `bench/instructions` fails if a request takes more instructions than it did, or fewer: then the file has to follow.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::path::Path;
use std::process::Command;

use world::{root, text};

/// Compares these counts with the committed ones. Returns whether that passed, and what it printed.
fn compare(counts: &str, folder: &Path) -> (bool, String) {
    let file = folder.join("counted.txt");
    fs::write(&file, counts).unwrap();
    let output = Command::new(root().join("bench/instructions")).arg(&file).output().unwrap();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn three_percent_more_or_fewer_instructions_pass_and_four_fail() {
    let folder = tempfile::tempdir().unwrap();
    let committed = fs::read_to_string(root().join("bench/instructions.txt")).unwrap();
    let counts: Vec<(u64, &str)> = committed
        .lines()
        .skip(1)
        .map(|line| line.trim().split_once(' ').unwrap())
        .map(|(count, name)| (count.parse().unwrap(), name))
        .collect();
    assert!(counts.len() >= 10, "{committed}");
    let text_of = |counts: &[(u64, &str)]| -> String {
        let lines = counts.iter().map(|(count, name)| format!("{count} {name}\n"));
        committed.lines().next().unwrap().to_owned() + "\n" + &lines.collect::<String>()
    };
    let (passes, printed) = compare(&committed, folder.path());
    assert!(passes, "{printed}");
    for nth in 0..counts.len() {
        for (percent, passes, word) in [(97, true, ""), (103, true, ""), (96, false, "fewer"), (104, false, "more")] {
            let mut changed = counts.clone();
            // Towards the committed count, where a percentage is no whole number.
            let towards = if percent < 100 { 99 } else { 0 };
            changed[nth].0 = (changed[nth].0 * percent + towards) / 100;
            let (passed, printed) = compare(&text_of(&changed), folder.path());
            assert_eq!(passed, passes, "{percent} percent: {printed}");
            let named = printed.lines().any(|line| line.starts_with(changed[nth].1) && line.contains(word));
            assert!(passes || named, "{printed}");
        }
    }
    let (passed, printed) = compare(&text_of(&counts[1..]), folder.path());
    assert!(!passed && printed.contains("not counted any more"), "{printed}");
    let (passed, printed) = compare(&(committed.clone() + "5 another request\n"), folder.path());
    assert!(!passed && printed.contains("another request: new"), "{printed}");
}
