//! Tests of a split: its results, the refused files, and the data that stays unchanged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use world::{Process, program, sample, seed, skip, snapshot, split, start_service, text};

const SMALL: &str = r#"{"users":[{"id":1,"username":"a"}],"threads":[{"id":1,"title":"t","createdBy":1}],"posts":[{"thread":1,"text":"p","user":1}]}"#;

#[test]
fn the_sample_becomes_three_slices_and_databases() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let report = split(&sample(), &data);
    for row in ["users 7", "threads 6", "posts 20"] {
        let line = report.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(line.into_iter().any(|line| line.starts_with(row)), "{row}: {report}");
    }
    assert!(report.contains("Every record was read back and equals the source."), "{report}");

    let source: serde_json::Value = serde_json::from_slice(&fs::read(sample()).unwrap()).unwrap();
    for name in ["users", "threads", "posts"] {
        let slice: serde_json::Value =
            serde_json::from_slice(&fs::read(data.join(name).join("db.json")).unwrap()).unwrap();
        assert_eq!(slice, serde_json::json!({ name: source[name] }), "{name}");
        assert!(data.join(name).join("db").is_dir());
    }
    // No other file is left.
    let mut names: Vec<_> = fs::read_dir(data.join("posts")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["db", "db.json", "lock"]);
}

#[test]
fn a_slice_keeps_the_sources_text_without_spaces_and_needless_escapes() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.json");
    fs::write(
        &input,
        "\u{feff} { \"posts\" : [ {\"thread\":1,\"text\":\"\\u0041\\/\\n\",\"user\":1,\"n\":[1.0,-0,1e999]} ] ,\n \"threads\":[],\"users\":[\n]\r\n}\n",
    )
    .unwrap();
    let data = dir.path().join("data");
    split(&input, &data);
    let slice = |name: &str| fs::read_to_string(data.join(name).join("db.json")).unwrap();
    assert_eq!(slice("posts"), "{\"posts\":[{\"thread\":1,\"text\":\"A/\\n\",\"user\":1,\"n\":[1.0,-0,1e999]}]}\n");
    assert_eq!(slice("users"), "{\"users\":[]}\n");
}

#[test]
fn a_second_run_checks_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let slices = |data: &Path| {
        snapshot(data)
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|ext| ext == "json"))
            .collect::<Vec<_>>()
    };
    let before = slices(dir.path());
    assert_eq!(before.len(), 4, "three slices and a manifest");
    let report = split(&sample(), dir.path());
    assert!(report.contains("already holds the split of"), "{report}");
    assert_eq!(slices(dir.path()), before);
    // The same bytes under another name are the same file.
    let copy = dir.path().join("copy.json");
    fs::copy(sample(), &copy).unwrap();
    assert!(split(&copy, dir.path()).contains("already holds the split of"));
}

#[test]
fn a_second_run_finds_a_damaged_slice() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    let slice = dir.path().join("threads/db.json");
    fs::write(&slice, fs::read_to_string(&slice).unwrap().replace("Sourdough", "Sauerteig")).unwrap();
    let output = seed([Path::new("--data"), dir.path()]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        text(&output.stderr).contains("threads: the slice is not what the source holds"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_split_with_a_missing_part_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    split(&sample(), dir.path());
    fs::remove_dir_all(dir.path().join("posts/db")).unwrap();
    let output = seed([Path::new("--data"), dir.path()]);
    assert_eq!(output.status.code(), Some(5));
    let message = text(&output.stderr);
    assert!(message.contains("posts/db is gone") && message.contains("--replace"), "{message}");
    assert!(seed([Path::new("--data"), dir.path(), Path::new("--replace")]).status.success());
    assert!(split(&sample(), dir.path()).contains("already holds the split of"));
}

#[test]
fn a_database_that_waits_to_take_a_place_does_not_take_that_of_a_newer_split() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    // A replica that was outrun leaves it so.
    let posts = data.join("posts");
    assert!(Command::new("cp").arg("-r").args([posts.join("db"), posts.join("db.new")]).status().unwrap().success());
    let input = dir.path().join("small.json");
    fs::write(&input, SMALL).unwrap();
    let replaced = seed([Path::new("--input"), &input, Path::new("--data"), &data, Path::new("--replace")]);
    assert!(replaced.status.success(), "{}", text(&replaced.stderr));
    assert!(!posts.join("db.new").exists());
    let verified = seed([Path::new("verify"), Path::new("--data"), &data, Path::new("--input"), &input]);
    assert!(verified.status.success(), "{}{}", text(&verified.stdout), text(&verified.stderr));
}

#[test]
fn another_file_is_refused_without_replace() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    let input = dir.path().join("small.json");
    fs::write(&input, SMALL).unwrap();
    let arguments = [Path::new("--input"), &input, Path::new("--data"), &data];
    let before = snapshot(&data);

    let output = seed(arguments);
    assert_eq!(output.status.code(), Some(5));
    let message = text(&output.stderr);
    assert!(message.contains("of its 33 records") && message.contains("--replace"), "{message}");
    assert!(snapshot(&data) == before, "a refusal changed something");

    // A bad file does not replace a good split.
    let bad = dir.path().join("bad.json");
    fs::write(&bad, SMALL.replace("\"user\":1", "\"user\":0")).unwrap();
    let output = seed([Path::new("--input"), &bad, Path::new("--data"), &data, Path::new("--replace")]);
    assert_eq!(output.status.code(), Some(3));
    assert!(snapshot(&data) == before, "a bad file changed something");

    let output = seed(arguments.into_iter().chain([Path::new("--replace")]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("is split:"));
    assert!(fs::read_to_string(data.join("posts/db.json")).unwrap().contains("\"text\":\"p\""));
    assert!(split(&input, &data).contains("already holds the split of"));
}

#[test]
fn a_folder_with_other_data_stays_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("posts")).unwrap();
    fs::write(dir.path().join("posts/db.json"), "mine").unwrap();
    let output = seed([Path::new("--data"), dir.path()]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("without a manifest"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(dir.path().join("posts/db.json")).unwrap(), "mine");
    assert!(!dir.path().join("users").exists(), "a refused run leaves nothing behind");
}

#[test]
fn a_running_service_is_an_error_only_if_something_would_change() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    split(&sample(), &data);
    let (posts, _) = start_service("posts", &data.join("posts"));
    let output = seed([Path::new("--data"), &data, Path::new("--replace")]);
    assert_eq!(output.status.code(), Some(5));
    let expected = format!("in use by posts (process {}); stop it first", posts.id());
    assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
    // Another file does not count as a newer one, whether services run or not.
    let input = dir.path().join("small.json");
    fs::write(&input, SMALL).unwrap();
    let output = seed([Path::new("--input"), &input, Path::new("--data"), &data]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("of its 33 records"), "{}", text(&output.stderr));
    // With the same file there is nothing to change: containers run the split at every start.
    let output = seed([Path::new("--data"), &data]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("Its databases were not checked"), "{}", text(&output.stdout));
}

/// The second of two runs must not remove what the first is about to commit.
#[test]
fn a_run_changes_nothing_while_another_one_works() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["users", "threads", "posts"] {
        fs::create_dir_all(dir.path().join(name).join("next/db")).unwrap();
    }
    fs::write(dir.path().join("manifest.next.json"), "{}").unwrap();
    for held in ["users", "posts"] {
        let _other = store::Folder::lock(&dir.path().join(held)).unwrap();
        let before = snapshot(dir.path());
        let output = seed([Path::new("--data"), dir.path(), Path::new("--replace")]);
        assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
        assert!(snapshot(dir.path()) == before && dir.path().join("users/next/db").exists());
    }
    // No other run works any more, so the uncommitted files are removed.
    assert!(split(&sample(), dir.path()).contains("is split:"));
}

#[test]
fn a_bad_file_is_refused_with_the_place_of_the_fault_and_leaves_nothing() {
    let users = r#"{"users":[{"id":1,"username":"a"}]"#;
    let with_user = |user: &str| format!(r#"{{"users":[{user}],"threads":[],"posts":[]}}"#);
    let with_posts = |posts: &str| format!(r#"{{"users":[],"threads":[],"posts":[{posts}]}}"#);
    let deep = format!(r#"{{"id":1,"username":"a","x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", b"".to_vec(), "byte 0: the file is empty"),
        ("only spaces", b" \n".to_vec(), "byte 2: the file is empty"),
        ("not JSON", b"hello".to_vec(), "byte 0: expected an object of collections, found something that is not JSON"),
        ("YAML", b"users:\n  - id: 1".to_vec(), "found something that is not JSON"),
        ("an array", b"[]".to_vec(), "byte 0: expected an object of collections, found an array"),
        ("null", b"null".to_vec(), "found null"),
        (
            "cut in a string",
            SMALL.as_bytes()[..30].to_vec(),
            "/users/0 (byte 30): the file ends in the middle of the value that begins at byte 10",
        ),
        ("cut in an array", SMALL.as_bytes()[..33].to_vec(), "the file ends inside the collection"),
        ("cut after a collection", users.into(), "byte 34: expected `,` or `}` after a collection"),
        ("more after the end", format!("{SMALL}{{}}").into(), "there is more after the end of the object"),
        ("an empty object", "{}".into(), "byte 1: none of the collections users, threads, posts is in it"),
        ("a collection repeated", r#"{"users":[],"users":[]}"#.into(), "/users (byte 12): the collection is repeated"),
        (
            "an object as collection",
            r#"{"users":{}}"#.into(),
            "/users (byte 9): expected an array of records, found an object",
        ),
        ("null as collection", r#"{"users":null}"#.into(), "/users (byte 9): expected an array of records, found null"),
        (
            "an unknown collection",
            r#"{"users":[],"com/ments":[]}"#.into(),
            "/com~1ments (byte 12): no service owns this collection",
        ),
        ("no comma", r#"{"users":[] "posts":[]}"#.into(), "byte 12: expected `,` or `}`"),
        ("a trailing comma", r#"{"users":[],}"#.into(), "byte 12: expected a collection's name"),
        (
            "a trailing comma in a collection",
            with_user(r#"{"id":1,"username":"a"},"#).into(),
            "/users/1 (byte 34): expected a record",
        ),
        ("a number as record", with_user("7").into(), "/users/0 (byte 10): expected an object, found a number"),
        ("an array as record", with_user("[1]").into(), "/users/0 (byte 10): expected an object, found an array"),
        ("a word as record", with_user("nul").into(), "/users/0 (byte 10)"),
        ("brackets that do not match", with_user(r#"{"id":1]"#).into(), "/users/0 (byte 17)"),
        ("a field missing", with_user(r#"{"id":1}"#).into(), "/users/0 (byte 10): missing field `username`"),
        ("an id missing", with_user(r#"{"username":"a"}"#).into(), "/users/0 (byte 10): missing field `id`"),
        (
            "a field of the wrong type",
            with_user(r#"{"id":1,"username":["a"]}"#).into(),
            "/users/0/username (byte 29): invalid type: sequence, expected a string",
        ),
        (
            "an id as text",
            with_user(r#"{"id":"1","username":"a"}"#).into(),
            "/users/0/id (byte 16): invalid type: string \"1\", expected an integer from 1 to",
        ),
        ("id 0", with_user(r#"{"id":0,"username":"a"}"#).into(), "/users/0/id (byte 16): invalid value: integer `0`"),
        (
            "a negative id",
            with_user(r#"{"id":-3,"username":"a"}"#).into(),
            "/users/0/id (byte 16): invalid type: integer `-3`",
        ),
        (
            "a fractional id",
            with_user(r#"{"id":1.5,"username":"a"}"#).into(),
            "/users/0/id (byte 16): invalid type: floating point `1.5`",
        ),
        (
            "an id too big",
            with_user(r#"{"id":9223372036854775808,"username":"a"}"#).into(),
            "/users/0/id (byte 16): invalid value",
        ),
        (
            "an id far too big",
            with_user(r#"{"id":99999999999999999999999,"username":"a"}"#).into(),
            "/users/0/id (byte 16)",
        ),
        (
            "a key repeated",
            with_user(r#"{"id":1,"username":"a","\u0069d":2}"#).into(),
            "/users/0/id (byte 43): the key is repeated",
        ),
        (
            "a key repeated deep inside",
            with_user(r#"{"id":1,"username":"a","x":[{"y":1,"y":1}]}"#).into(),
            "/users/0/x/0/y (byte 49): the key is repeated",
        ),
        ("nested too deep", with_user(&deep).into(), "nested deeper than 128 levels"),
        (
            "an id repeated",
            with_user(r#"{"id":1,"username":"a"},{"id":2,"username":"b"},{"id":1,"username":"c"}"#).into(),
            "/users/2 (byte 58): the id 1 is taken by /users/0",
        ),
        (
            "a position that is another's id",
            with_posts(r#"{"id":2,"thread":1,"text":"","user":1},{"thread":1,"text":"","user":1}"#).into(),
            "/posts/1 (byte 73): the id 2, which it has from its position, is taken by /posts/0",
        ),
        ("an invalid reference", with_posts(r#"{"thread":0,"text":"","user":1}"#).into(), "/posts/0/thread (byte 44)"),
        (
            "a lone surrogate",
            with_user(r#"{"id":1,"username":"\ud800"}"#).into(),
            "/users/0/username (byte 30): a lone surrogate",
        ),
        ("a lone surrogate in a key", with_user(r#"{"id":1,"username":"a","\udc00":1}"#).into(), "a lone surrogate"),
        (
            "not UTF-8",
            [br#"{"users":[{"id":1,"username":""#.as_slice(), b"\xff\"}]}"].concat(),
            "/users/0 (byte 30): this is not UTF-8",
        ),
        (
            "a control character",
            with_user("{\"id\":1,\"username\":\"a\nb\"}").into(),
            "/users/0/username (byte 31): a control character",
        ),
        (
            "a record too long",
            with_user(&format!(r#"{{"id":1,"username":"{}"}}"#, "a".repeat(17 << 20))).into(),
            "the record is longer than 16 MiB",
        ),
    ];
    for (case, content, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in.json");
        fs::write(&input, content).unwrap();
        let output = seed([Path::new("--input"), &input, Path::new("--data"), &dir.path().join("data")]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{case}: {message}");
        assert!(message.contains(expected), "{case}: expected {expected:?} in {message}");
        // The last line but one says what to do.
        let way_on = message.lines().rev().nth(1).unwrap();
        let corrects = [": correct the file", "Correct the file", "puts it aside."];
        assert!(message.ends_with("Nothing was changed.\n"), "{case}: {message}");
        assert!(corrects.iter().any(|words| way_on.contains(words)), "{case}: {message}");
        assert!(text(&output.stdout).is_empty(), "{case}");
        assert!(!dir.path().join("data").exists(), "{case}: something was left behind");
    }
}

#[test]
fn a_path_that_cannot_be_read_or_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (input, code, expected) in [
        (dir.path().join("absent.json"), 6, "No such file"),
        (dir.path().to_owned(), 3, "it is a folder, not a db.json"),
        ("/dev/null".into(), 3, "it is no regular file"),
    ] {
        let output = seed([Path::new("--input"), &input, Path::new("--data"), &data]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains(expected) && message.contains(input.to_str().unwrap()), "{message}");
        assert!(!data.exists());
    }
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let output = seed([Path::new("--data"), &file]);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert_eq!(seed(["--no-such-option"]).status.code(), Some(2));
}

#[test]
fn missing_permissions_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let [input, target] = ["in.json", "target"].map(|name| dir.path().join(name));
    fs::copy(sample(), &input).unwrap();
    fs::create_dir(&target).unwrap();
    for path in [&input, &target] {
        assert!(Command::new("chmod").arg("000").arg(path).status().unwrap().success());
    }
    assert!(Command::new("chmod").arg("755").arg(dir.path()).status().unwrap().success());
    // Permissions do not restrict root; setpriv, part of every Linux, runs `seed` as another user.
    let is_root = text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0";
    let copy = dir.path().join("seed");
    fs::copy(program("seed"), &copy).unwrap();
    let as_another_user = |input: &Path, data: &Path| {
        let mut command = Command::new(if is_root { "setpriv" } else { "env" });
        if is_root {
            command.args(["--reuid=65532", "--regid=65532", "--clear-groups"]);
        }
        command.arg(&copy).arg("--input").arg(input).arg("--data").arg(data).output().unwrap()
    };
    for (input, data) in [(input.as_path(), dir.path().join("data")), (&sample(), target.join("data"))] {
        let output = as_another_user(input, &data);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{message}");
        assert!(message.contains("Permission denied"), "{message}");
    }
}

#[test]
fn a_full_disk_leaves_the_data_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=36m", "tmpfs"]).arg(dir.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return skip("a small file system cannot be mounted here (it needs root)");
    }
    let unmount = Unmount(dir.path());
    let data = dir.path().join("data");
    split(&sample(), &data);
    let before = snapshot(&data);

    let outside = tempfile::tempdir().unwrap();
    let input = outside.path().join("large.json");
    let posts: Vec<String> =
        (0..50_000).map(|n| format!(r#"{{"thread":1,"text":"post number {n} with some words","user":1}}"#)).collect();
    fs::write(&input, format!(r#"{{"users":[],"threads":[],"posts":[{}]}}"#, posts.join(","))).unwrap();
    let output = seed([Path::new("--input"), &input, Path::new("--data"), &data, Path::new("--replace")]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{message}");
    assert!(message.contains("No space left on device"), "{message}");
    assert!(snapshot(&data) == before, "the full disk changed something");
    // The old split is still usable.
    assert!(split(&sample(), &data).contains("already holds the split of"));
    drop(unmount);
}

struct Unmount<'p>(&'p Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn an_interrupted_split_leaves_nothing_or_all() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let input = dir.path().join("in.json");
    let posts: Vec<String> =
        (0..20_000).map(|n| format!(r#"{{"thread":{},"text":"{n}","user":1}}"#, n % 7 + 1)).collect();
    fs::write(&input, format!(r#"{{"users":[],"threads":[],"posts":[{}]}}"#, posts.join(","))).unwrap();
    // Kills each run a little later than the one before, from the first file on.
    for delay in 0..10 {
        let mut child =
            Process::start(Command::new(program("seed")).arg("--input").arg(&input).arg("--data").arg(&data));
        let begun = data.join("posts/building/db");
        world::wait_for("the split to begin", || begun.exists() || data.join("manifest.json").exists());
        std::thread::sleep(std::time::Duration::from_millis(delay * 30));
        child.signal("KILL");
        child.wait();
        assert!(
            data.join("manifest.json").exists() || !data.join("posts/db").exists(),
            "a half-made split was published"
        );
    }
    split(&input, &data);
    assert!(split(&input, &data).contains("already holds the split of"));
}

#[test]
fn a_run_continues_an_interrupted_one_on_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let [input, other] = ["in.json", "other.json"].map(|name| dir.path().join(name));
    for (path, word) in [(&input, "one"), (&other, "two")] {
        let posts: Vec<String> =
            (0..20_000).map(|n| format!(r#"{{"thread":{},"text":"{word} {n}","user":1}}"#, n % 7 + 1)).collect();
        fs::write(path, format!(r#"{{"users":[],"threads":[],"posts":[{}]}}"#, posts.join(","))).unwrap();
    }
    let invert = |path: PathBuf| {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[..middle + 5][middle.saturating_sub(200_000)..].iter_mut().for_each(|byte| *byte = !*byte);
        fs::write(path, bytes).unwrap();
    };
    let change_meaning = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let (before, digest) = text.rsplit_once("\"canonical\":\"").unwrap();
        let digit = if digest.starts_with('0') { '1' } else { '0' };
        fs::write(path, format!("{before}\"canonical\":\"{digit}{}", &digest[1..])).unwrap();
    };
    let nothing = |_: PathBuf| {};
    let cases: [(_, _, _, &dyn Fn(PathBuf), _); 6] = [
        ("unchanged", &input, "building.json", &nothing, true),
        ("another file", &other, "building.json", &nothing, false),
        ("a slice is damaged", &input, "posts/building/db.json", &invert, false),
        ("a database is damaged", &input, "posts/building/db/db", &invert, false),
        ("the checkpoint is damaged", &input, "building.json", &invert, false),
        ("the checkpoint has another meaning", &input, "building.json", &change_meaning, false),
    ];
    for (name, input_of_next, file, damage, taken_up) in cases {
        let data = dir.path().join(name);
        // Repeats until a kill comes between the checkpoint and the commit.
        loop {
            let mut interrupted =
                Process::start(Command::new(program("seed")).arg("--input").arg(&input).arg("--data").arg(&data));
            let [checkpoint, manifest] = ["building.json", "manifest.json"].map(|name| data.join(name));
            world::wait_for("the split to be whole", || checkpoint.exists() || manifest.exists());
            interrupted.signal("KILL");
            interrupted.wait();
            if checkpoint.exists() && !data.join("manifest.next.json").exists() && !manifest.exists() {
                break;
            }
            fs::remove_dir_all(&data).unwrap();
        }
        damage(data.join(file));
        let arguments = ["--input", input_of_next.to_str().unwrap(), "--data", data.to_str().unwrap(), "--json"];
        let output = seed(arguments);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["taken_up"], taken_up, "{name}");
        assert!(!data.join("building.json").exists() && !data.join("posts/building").exists());
        let verified = seed(["verify", "--data", data.to_str().unwrap(), "--input", input_of_next.to_str().unwrap()]);
        assert!(verified.status.success(), "{name}: {}", text(&verified.stderr));
    }
}
