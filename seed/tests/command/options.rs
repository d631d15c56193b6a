//! Tests of `seed`'s options.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use world::{program, sample, seed, split, text};

/// A file with a thread by a missing user, two posts in a missing thread, and a post by a missing user.
const ORPHANS: &str = r#"{"users":[{"id":1,"username":"a"}],
    "threads":[{"id":1,"title":"t","createdBy":1},{"id":2,"title":"t","createdBy":5}],
    "posts":[{"thread":1,"text":"","user":1},{"thread":9,"text":"","user":1},{"thread":9,"text":"","user":7}]}"#;

fn json(stdout: &[u8]) -> serde_json::Value {
    serde_json::from_slice(stdout).unwrap()
}

#[test]
fn orphans_are_kept_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data] = ["in.json", "data"].map(|name| dir.path().join(name));
    fs::write(&input, ORPHANS).unwrap();
    let strict = seed([Path::new("--input"), &input, Path::new("--data"), &data, Path::new("--strict")]);
    assert_eq!(strict.status.code(), Some(3));
    assert!(text(&strict.stderr).contains("--strict refuses them"), "{}", text(&strict.stderr));
    assert!(!data.exists());

    let report = split(&input, &data);
    for line in [
        "threads: id 2: createdBy is 5, which is not among users",
        "posts: id 2: thread is 9, which is not among threads",
        "posts: id 3: thread is 9, which is not among threads",
        "posts: id 3: user is 7, which is not among users",
        "4 references lead nowhere: threads by no known user (1), posts in no known thread (2), posts by no known user (1).",
    ] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let manifest = json(&fs::read(data.join("manifest.json")).unwrap());
    assert_eq!(
        manifest["orphans"],
        serde_json::json!({"threads_by_user": 1, "posts_in_thread": 2, "posts_by_user": 1})
    );
    assert_eq!(manifest["collections"]["posts"]["records"], 3);

    let whole = dir.path().join("whole");
    let strict = seed([Path::new("--data"), &whole, Path::new("--strict")]);
    assert!(strict.status.success(), "the sample has no orphans: {}", text(&strict.stderr));
    assert!(!text(&strict.stdout).contains("nowhere"));
}

#[test]
fn rest_puts_aside_the_collections_that_no_service_owns() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data, rest] = ["in.json", "data", "rest.json"].map(|name| dir.path().join(name));
    let with_rest = || seed([Path::new("--input"), &input, Path::new("--data"), &data, Path::new("--rest"), &rest]);
    let write = |more: &str| {
        fs::write(&input, format!(r#"{{{more} "users":[], "threads":[], "posts":[], "likes":7}}"#)).unwrap();
    };
    // Such collections must be valid JSON and must not repeat.
    for bad in
        [r#""votes":[1 2],"#, r#""votes":[tru],"#, r#""votes":{]},"#, r#""likes":1,"#, r#""votes","#, r#""votes":,"#]
    {
        write(bad);
        let output = with_rest();
        assert_eq!(output.status.code(), Some(3), "{bad}: {}", text(&output.stderr));
        assert!(!data.exists() && !rest.exists() && fs::read_dir(dir.path()).unwrap().count() == 1, "{bad}");
    }
    let large = format!("[{}]", vec![r#"{"a": "]\"}"}"#; 200_000].join(", "));
    write(&format!(r#""com\u006dents": {large},"#));
    let refused = seed([Path::new("--input"), &input, Path::new("--data"), &data]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(
        text(&refused.stderr).contains("/comments (byte 1): no service owns this collection"),
        "{}",
        text(&refused.stderr)
    );

    let output = with_rest();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&rest).unwrap(), format!("{{\"comments\":{large},\"likes\":7}}\n"));
    // Now the file is known, and verify ignores its other collections.
    assert!(split(&input, &data).contains("already holds the split of"));
    let verified = seed(["verify".as_ref(), "--input".as_ref(), input.as_path(), "--data".as_ref(), &data]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
}

#[test]
fn standard_input_can_be_split() {
    let dir = tempfile::tempdir().unwrap();
    let run = |source: &Path, data: &Path| {
        let stdin = Stdio::from(fs::File::open(source).unwrap());
        Command::new(program("seed")).args(["--input", "-", "--data"]).arg(data).stdin(stdin).output().unwrap()
    };
    let output = run(&sample(), &dir.path().join("data"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(split(&sample(), &dir.path().join("data")).contains("already holds the split of"));
    let output = run(Path::new("/dev/null"), &dir.path().join("none"));
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("standard input: byte 0: the file is empty"), "{}", text(&output.stderr));
}

#[test]
fn json_prints_the_report_as_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let [data, joined] = ["data", "joined.json"].map(|name| dir.path().join(name));
    let data = data.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = seed(arguments.iter().chain(&["--json", "--quiet", "--data", data]));
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        json(&output.stdout)
    };
    let report = run(&[]);
    assert_eq!(
        (&report["outcome"], &report["manifest"]["collections"]["users"]["records"]),
        (&"split".into(), &7.into())
    );
    let report = run(&[]);
    assert_eq!(report["outcome"], "checked");
    assert_eq!(report["posts"], serde_json::json!({"as_split": 20, "changed": 0, "removed": 0, "added": 0}));
    assert_eq!(run(&["verify"])["outcome"], "verified");
    assert_eq!(run(&["join", "--output", joined.to_str().unwrap()])["outcome"], "joined");
    // Standard output has only the joined file.
    assert_eq!(run(&["join"]), json(&fs::read(&joined).unwrap()));
}

#[test]
fn slices_writes_slices_without_databases() {
    let dir = tempfile::tempdir().unwrap();
    let [output, data] = ["slices", "data"].map(|name| dir.path().join(name));
    let run =
        |input: &Path| seed(["slices".as_ref(), "--input".as_ref(), input, "--output".as_ref(), output.as_path()]);
    let sliced = run(&sample());
    assert!(sliced.status.success(), "{}", text(&sliced.stderr));
    split(&sample(), &data);
    let slice = |path: &Path| fs::read_to_string(path).unwrap();
    for name in ["users", "threads", "posts"] {
        assert_eq!(slice(&output.join(format!("{name}.json"))), slice(&data.join(name).join("db.json")));
    }
    // A bad file changes no slice and leaves no other file.
    let bad = dir.path().join("bad.json");
    fs::write(&bad, "{\"users\":[7]}").unwrap();
    assert_eq!(run(&bad).status.code(), Some(3));
    assert_eq!(fs::read_dir(&output).unwrap().count(), 3);
    assert_eq!(slice(&output.join("posts.json")), slice(&data.join("posts/db.json")));
}

#[test]
fn a_large_split_stays_within_half_a_gibibyte() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data] = ["in.json", "data"].map(|name| dir.path().join(name));
    let text_of = |n: u32| format!("{n} {}", "words and more words ".repeat(40));
    let posts: Vec<String> = (0..150_000)
        .map(|n| format!(r#"{{"thread":{},"text":"{}","user":{}}}"#, n % 977 + 1, text_of(n), n % 91 + 1))
        .collect();
    fs::write(&input, format!(r#"{{"users":[],"threads":[],"posts":[{}]}}"#, posts.join(","))).unwrap();
    // The kernel's count of the process: the most resident memory, with file pages.
    let mut timed = Command::new("python3");
    timed.args(["-c", "import os,sys;p=os.spawnv(os.P_NOWAIT,sys.argv[1],sys.argv[1:]);_,s,u=os.wait4(p,0);print(u.ru_maxrss//1024);sys.exit(s!=0)"]);
    timed.arg(program("seed")).args(["--json", "--input"]).arg(&input).arg("--data").arg(&data);
    let Ok(output) = timed.output() else { return world::skip("python3 is not installed; memory is not measured") };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let resident: u64 = text(&output.stdout).lines().last().unwrap().parse().unwrap();
    let size = fs::metadata(&input).unwrap().len() >> 20;
    assert!(size > 120 && resident < 512, "{resident} MiB for a file of {size} MiB");
}

#[test]
fn errors_are_json_with_stable_names() {
    let dir = tempfile::tempdir().unwrap();
    let [data, bad, beside] = ["data", "bad.json", "beside"].map(|name| dir.path().join(name));
    split(&sample(), &data);
    fs::write(&bad, r#"{"users":[{"id":0}],"threads":[],"posts":[]}"#).unwrap();
    let [data, bad, beside] = [&data, &bad, &beside].map(|path| path.to_str().unwrap());
    let inside = format!("{data}/users/db.json");
    for (arguments, error, code) in [
        (&["--input", bad, "--data", beside][..], "input", 3),
        (&["--input", bad, "--data", data], "input", 3),
        (&["--input", beside, "--data", data], "io", 6),
        (&["verify", "--data", beside], "missing", 6),
        (&["verify", "--data", data, "--input", bad], "input", 3),
        (&["join", "--data", data, "--output", &inside], "output", 5),
        (&["join", "--data", data, "--backup", beside], "io", 6),
        (&["--nothing"], "usage", 2),
        (&["verify", "--input"], "usage", 2),
    ] {
        let output = seed(arguments.iter().chain(&["--json"]));
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let report = json(&output.stdout);
        assert_eq!(
            (&report["outcome"], &report["error"]),
            (&"failed".into(), &error.into()),
            "{arguments:?}: {report}"
        );
        assert_eq!(report["exit_code"], code, "{report}");
        assert!(report["message"].as_str().unwrap().len() > 10, "{report}");
    }
    let output = seed(["--input", bad, "--data", beside, "--json"]);
    assert_eq!(json(&output.stdout)["place"], "/users/0/id (byte 16)");
    let output = seed(["verify", "--data", beside]);
    assert!(text(&output.stderr).contains("`seed --input FILE --data DIR`"), "{}", text(&output.stderr));
}

#[test]
fn each_option_can_come_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(program("seed"));
        command.args(arguments).current_dir(world::root()).envs(environment.iter().copied());
        command.output().unwrap()
    };
    let given = [("SEED_DATA", data.to_str().unwrap()), ("SEED_JSON", "true"), ("SEED_QUIET", "1")];
    let output = run(&[], &given);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(json(&output.stdout)["outcome"], "split");
    // Other commands ignore the split's own settings.
    let input = [("SEED_INPUT", "seed/db.json"), ("SEED_PREFER", "service"), ("SEED_MAX_REMOVED", "posts=3")];
    let output = run(&["verify"], &[&given[..], &input].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout.starts_with(b"{"), "{}", text(&output.stdout));
    // The command line overrides the environment.
    let output = run(&["verify", "--data", "nowhere"], &given);
    assert_eq!(json(&output.stdout)["error"], "missing");
    assert_eq!(run(&[], &[("SEED_DATA", "nowhere"), ("SEED_PREFER", "both")]).status.code(), Some(2));
    assert_eq!(json(&run(&["--nothing"], &given).stdout)["error"], "usage");
    assert!(!run(&["verify"], &[given[0], ("SEED_JSON", "0")]).stdout.starts_with(b"{"));
}

#[test]
fn completions_and_manual_pages_are_written() {
    let dir = tempfile::tempdir().unwrap();
    for (shell, sign) in [("bash", "_seed()"), ("zsh", "#compdef seed"), ("fish", "complete -c seed")] {
        let output = seed(["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains(sign), "{shell}");
    }
    assert_eq!(seed(["completions", "sh"]).status.code(), Some(2));
    let manual = text(&seed(["man"]).stdout);
    for word in [".TH seed 1", ".TH seed-verify 1", "max\\-removed", "SEED_MAX_REMOVED", "Exit codes"] {
        assert!(manual.contains(word), "{word}");
    }
    let pages = dir.path().join("man1");
    assert!(seed(["man", "--output", pages.to_str().unwrap()]).status.success());
    let page = fs::read_to_string(pages.join("seed-join.1")).unwrap();
    assert!(page.contains("SEED_OUTPUT") && !page.contains(".TH seed 1"), "{page}");
}

#[test]
fn the_log_has_each_step_and_the_report_has_the_phases() {
    let dir = tempfile::tempdir().unwrap();
    let [data, log, tokens] = ["data", "log", "tokens"].map(|name| dir.path().join(name));
    let [data, log, tokens] = [&data, &log, &tokens].map(|path| path.to_str().unwrap());
    let output = seed(["--data", data, "--log", log, "--json"]);
    let report = json(&output.stdout);
    let phases: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["splitting", "writing indexes", "reading back", "checking references", "putting into place"]);
    assert!(report["phases"][0]["seconds"].is_number());
    assert_eq!(seed(["verify", "--data", "nowhere", "--log", log]).status.code(), Some(6));
    let secret = text(&seed(["token", "posts", "--file", tokens, "--log", log]).stdout);
    let lines = fs::read_to_string(log).unwrap();
    for line in
        ["Z splitting begins", "Z reading back has taken ", " is split:", "nowhere/users: there is no split here"]
    {
        assert!(lines.contains(line), "{line:?} is not in {lines}");
    }
    assert!(secret.trim().len() > 20 && !lines.contains(secret.trim()), "a secret is in the log");
    let nowhere = format!("{data}/no/log");
    assert_eq!(seed(["verify", "--data", data, "--log", &nowhere]).status.code(), Some(6));
}

/// A bar that is wider than the terminal would leave parts of itself behind: this terminal has 40 columns.
#[test]
fn progress_bars_fit_on_a_narrow_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data, typed] = ["in.json", "data", "typescript"].map(|name| dir.path().join(name));
    let posts: Vec<String> =
        (0..60_000).map(|n| format!(r#"{{"thread":{},"text":"post {n}","user":1}}"#, n % 7 + 1)).collect();
    fs::write(&input, format!(r#"{{"users":[],"threads":[],"posts":[{}]}}"#, posts.join(","))).unwrap();
    let run = format!(
        "stty cols 40 rows 10; {} --input {} --data {}",
        program("seed").display(),
        input.display(),
        data.display()
    );
    let mut script = Command::new("script");
    // A service manager or a container names no terminal.
    script.args(["-q", "-e", "-c", &run]).arg(&typed).env("TERM", "xterm").stdin(Stdio::null());
    let output = script.output();
    let Ok(output) = output else { return world::skip("`script` is not installed; progress bars are not tested") };
    assert!(output.status.success(), "{}", text(&output.stdout));
    let typed = fs::read_to_string(&typed).unwrap();
    let drawn: Vec<String> = typed.split(['\r', '\n']).map(without_escapes).collect();
    let bars: Vec<&String> = drawn.iter().filter(|line| line.contains('%') && !line.contains("COLUMNS")).collect();
    assert!(bars.iter().any(|line| line.starts_with("splitting") || line.starts_with("reading back")), "{typed}");
    for line in bars {
        assert!(line.chars().count() <= 40, "{} columns: {line:?}", line.chars().count());
    }
}

/// Removes the escape sequences from a terminal's output.
fn without_escapes(text: &str) -> String {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            letters.by_ref().take_while(|letter| !letter.is_ascii_alphabetic()).for_each(drop);
        } else {
            out.push(letter);
        }
    }
    out
}

#[test]
fn json_that_only_node_accepts_is_refused_or_rejected_or_read_as_node() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data, rejects, back] = ["in.json", "data", "rejects", "back.json"].map(|name| dir.path().join(name));
    let users: [&[u8]; 4] = [
        br#"{"id":1,"username":"a","username":"ada"}"#,
        br#"{"id":2,"username":"half \ud83c"}"#,
        b"{\"id\":3,\"username\":\"caf\xe9\"}",
        br#"{"id":4,"username":"d"}"#,
    ];
    let post = br#"{"thread":1,"text":"x","text":"the last counts","user":1}"#;
    let file = |users: &[&[u8]]| {
        [&br#"{"users":["#[..], &users.join(&b","[..]), br#"],"threads":[],"posts":["#, post, b"]}"].concat()
    };
    fs::write(&input, file(&users)).unwrap();
    let [input_path, data_path, rejects_path] = [&input, &data, &rejects].map(|path| path.to_str().unwrap());
    let run = |more: &[&str]| seed(["--input", input_path, "--data", data_path, "--json"].iter().chain(more));
    assert_eq!(run(&[]).status.code(), Some(3));
    let rejected = run(&["--rejects", rejects_path, "--dry-run"]);
    assert_eq!(rejected.status.code(), Some(7), "{}", text(&rejected.stdout));
    assert_eq!(fs::read_to_string(&rejects).unwrap().lines().count(), 4);
    let taken = run(&["--as-node"]);
    assert!(taken.status.success(), "{}", text(&taken.stdout));
    let taken = json(&taken.stdout);
    assert_eq!(taken["as_node"]["count"], 4);
    assert_eq!(taken["as_node"]["first"], serde_json::json!(["/users/0", "/users/1", "/users/2", "/posts/0"]));
    let joined = || seed(["join", "--data", data_path]);
    let expected = "{\"users\":[{\"id\":1,\"username\":\"ada\"},{\"id\":2,\"username\":\"half \u{fffd}\"},\
                    {\"id\":3,\"username\":\"caf\u{fffd}\"},{\"id\":4,\"username\":\"d\"}],\"threads\":[],\
                    \"posts\":[{\"thread\":1,\"text\":\"the last counts\",\"user\":1}]}\n";
    assert_eq!(text(&joined().stdout), expected);
    // The same file is recognised and verified; a newer file is read in the same way.
    assert_eq!(json(&run(&[]).stdout)["outcome"], "checked");
    let verified = seed(["verify", "--data", data_path, "--input", input_path]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    fs::write(&input, file(&users[..3])).unwrap();
    assert_eq!(run(&[]).status.code(), Some(3));
    let newer = json(&run(&["--as-node"]).stdout);
    assert_eq!(
        (&newer["users"]["removed"], &newer["users"]["changed"], &newer["posts"]["without_ids"]["moved"]),
        (&1.into(), &0.into(), &0.into()),
        "{newer}"
    );
    fs::write(&back, joined().stdout).unwrap();
    split(&back, &dir.path().join("again"));
}
