//! What else `seed` can be told.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod world;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use world::{program, sample, seed, split, text};

/// One thread by nobody, two posts in a thread that is not there, one post by nobody.
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
        "4 references lead nowhere: 1 threads by no known user, 2 posts in no known thread, 1 posts by no known user.",
    ] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let manifest = json(&fs::read(data.join("manifest.json")).unwrap());
    assert_eq!(
        manifest["orphans"],
        serde_json::json!({"threads_by_user": 1, "posts_in_thread": 2, "posts_by_user": 1})
    );
    assert_eq!(manifest["posts"]["records"], 3);

    let whole = dir.path().join("whole");
    let strict = seed([Path::new("--data"), &whole, Path::new("--strict")]);
    assert!(strict.status.success(), "the sample has none: {}", text(&strict.stderr));
    assert!(!text(&strict.stdout).contains("nowhere"));
}

#[test]
fn what_no_service_owns_is_put_aside_if_so_told() {
    let dir = tempfile::tempdir().unwrap();
    let [input, data, rest] = ["in.json", "data", "rest.json"].map(|name| dir.path().join(name));
    let with_rest = || seed([Path::new("--input"), &input, Path::new("--data"), &data, Path::new("--rest"), &rest]);
    let write = |more: &str| {
        fs::write(&input, format!(r#"{{{more} "users":[], "threads":[], "posts":[], "likes":7}}"#)).unwrap();
    };
    // What is put aside has to be JSON, and to be there once.
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
    // From now on the file is known, and verify passes over the rest of it.
    assert!(split(&input, &data).contains("already holds the split of"));
    let verified = seed(["verify".as_ref(), "--input".as_ref(), input.as_path(), "--data".as_ref(), &data]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
}

#[test]
fn standard_input_is_a_source() {
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
    assert!(text(&output.stderr).contains("standard-input: byte 0: the file is empty"), "{}", text(&output.stderr));
}

#[test]
fn the_report_is_one_json_object_if_so_told() {
    let dir = tempfile::tempdir().unwrap();
    let [data, joined] = ["data", "joined.json"].map(|name| dir.path().join(name));
    let data = data.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = seed(arguments.iter().chain(&["--json", "--quiet", "--data", data]));
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        json(&output.stdout)
    };
    let report = run(&[]);
    assert_eq!((&report["outcome"], &report["manifest"]["users"]["records"]), (&"split".into(), &7.into()));
    let report = run(&[]);
    assert_eq!(report["outcome"], "checked");
    assert_eq!(report["posts"], serde_json::json!({"as_split": 20, "changed": 0, "removed": 0, "added": 0}));
    assert_eq!(run(&["verify"])["outcome"], "verified");
    assert_eq!(run(&["join", "--output", joined.to_str().unwrap()])["outcome"], "joined");
    // What goes to standard output is the file then, and nothing else.
    assert_eq!(run(&["join"]), json(&fs::read(&joined).unwrap()));
}

#[test]
fn slices_can_be_had_alone() {
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
    // A bad file leaves them as they are, and nothing beside them.
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
    // What the kernel counts at the end of the process, as resident at most, file pages included.
    let mut timed = Command::new("python3");
    timed.args(["-c", "import os,sys;p=os.spawnv(os.P_NOWAIT,sys.argv[1],sys.argv[1:]);_,s,u=os.wait4(p,0);print(u.ru_maxrss//1024);sys.exit(s!=0)"]);
    timed.arg(program("seed")).args(["--json", "--input"]).arg(&input).arg("--data").arg(&data);
    let Ok(output) = timed.output() else { return world::skip("python3 is not installed; memory is not measured") };
    assert!(output.status.success(), "{}", text(&output.stderr));
    let resident: u64 = text(&output.stdout).lines().last().unwrap().parse().unwrap();
    let size = fs::metadata(&input).unwrap().len() >> 20;
    assert!(size > 120 && resident < 512, "{resident} MiB for a file of {size} MiB");
}
