//! The documents are true: links lead somewhere, what they name exists, what exists is named, and their commands run.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use world::repository::Repository;
use world::{free_port, get, program, root, snapshot, split, start_entrance, start_service, text, tool};

/// The documents of which each command block is run, in order, in a copy of the repository.
const RUN: [&str; 5] =
    ["README.md", "docs/split.md", "docs/your-own-monolith.md", "docs/adding-a-service.md", "docs/tutorial.md"];

/// Stands before a command block that no test can run, with the reason.
const NOT_RUN: &str = "<!-- not run";

/// How many blocks carry that comment. One more needs a good reason.
const BLOCKS_NOT_RUN: usize = 5;

/// A document, taken apart.
#[derive(Default)]
struct Document {
    name: String,
    source: String,
    headings: Vec<(usize, String)>,
    links: Vec<String>,
    /// Inline code.
    codes: Vec<String>,
    blocks: Vec<Block>,
}

struct Block {
    language: String,
    text: String,
    /// Whether a comment before it says that it is not run.
    is_run: bool,
}

impl Document {
    fn read(name: &str) -> Self {
        let source = fs::read_to_string(root().join(name)).unwrap();
        let mut document = Self { name: name.to_owned(), source: source.clone(), ..Self::default() };
        let (mut heading, mut block, mut is_run) = (None::<(usize, String)>, None::<Block>, true);
        let options = pulldown_cmark::Options::ENABLE_TABLES;
        for event in Parser::new_ext(&source, options) {
            match event {
                Event::Start(Tag::Heading { level, .. }) => heading = Some((level as usize, String::new())),
                Event::End(TagEnd::Heading(_)) => document.headings.extend(heading.take()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some(Block { language: language.into_string(), text: String::new(), is_run });
                    is_run = true;
                }
                Event::End(TagEnd::CodeBlock) => document.blocks.extend(block.take()),
                Event::Html(html) if html.starts_with(NOT_RUN) => is_run = false,
                Event::Code(code) => {
                    if let Some((_, heading)) = &mut heading {
                        heading.push_str(&code);
                    }
                    document.codes.push(code.into_string());
                }
                Event::Text(text) => match (&mut heading, &mut block) {
                    (Some((_, heading)), _) => heading.push_str(&text),
                    (_, Some(block)) => block.text.push_str(&text),
                    _ => {}
                },
                _ => {}
            }
        }
        document
    }

    /// Its headings' anchors, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let anchor = |heading: &str| -> String {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
        };
        self.headings.iter().map(|(_, heading)| anchor(heading)).collect()
    }

    /// All that is code in it: inline, and blocks.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.codes.iter().map(String::as_str).chain(self.blocks.iter().flat_map(|block| block.text.lines()))
    }

    fn commands(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.language == "sh")
    }
}

/// All documents of the repository.
fn documents() -> Vec<Document> {
    let mut names = Vec::new();
    for folder in ["", "docs", "bench"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                names.push(Path::new(folder).join(name).to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    names.iter().map(|name| Document::read(name)).collect()
}

/// What a program prints as its help.
fn help(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(program(name)).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}");
    text(&output.stdout)
}

/// All help texts of the programs, and of the scripts.
fn helps() -> Vec<String> {
    let top = help("seed", &[]);
    let commands = top.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then_some(name)
    });
    let mut helps: Vec<String> = commands.map(|command| help("seed", &[command])).collect();
    assert!(helps.len() >= 10, "{top}");
    helps.push(help("seed", &["plan", "render"]));
    helps.extend(["keys", "create", "snapshot", "switch", "leave"].map(|command| help("seed", &["streams", command])));
    helps.push(top);
    helps.push(help("posts", &[]));
    helps.extend(["check", "scrub", "compact", "openapi"].map(|command| help("posts", &[command])));
    helps.push(help("collection", &[]));
    helps
}

/// The `--options` in `line`.
fn options(line: &str) -> impl Iterator<Item = String> {
    let words = line.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    words.filter(|word| word.starts_with("--") && word.len() > 3).map(|word| word.trim_end_matches('-').to_owned())
}

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let documents: BTreeMap<String, Document> =
        documents().into_iter().map(|document| (document.name.clone(), document)).collect();
    let mut broken = Vec::new();
    for document in documents.values() {
        for link in document.links.iter().filter(|link| !link.starts_with("https://")) {
            let (path, anchor) = link.split_once('#').map_or((&**link, None), |(path, anchor)| (path, Some(anchor)));
            let file = if path.is_empty() {
                document.name.clone()
            } else {
                // Without `..`, as the names of the documents are.
                let from = Path::new(&document.name).parent().unwrap();
                match path.strip_prefix("../") {
                    Some(path) => path.to_owned(),
                    None => from.join(path).to_str().unwrap().to_owned(),
                }
            };
            let leads = root().join(&file).exists()
                && anchor
                    .is_none_or(|anchor| documents.get(&file).is_some_and(|target| target.anchors().contains(anchor)));
            if !leads {
                broken.push(format!("{}: {link}", document.name));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn every_file_and_test_that_is_named_is_there() {
    let sources: String = ["system-tests/tests", "seed/tests", "shared/service/tests"]
        .iter()
        .flat_map(|folder| world::snapshot(&root().join(folder)))
        .map(|(_, content)| text(&content))
        .collect();
    let mut missing = Vec::new();
    for document in documents().iter().filter(|document| document.name != "CHANGELOG.md") {
        for code in &document.codes {
            let is_path = code.ends_with(".rs") || code.ends_with(".md") || code.ends_with(".yaml");
            // Names of metrics are held by services/admin.rs.
            let is_test = code.len() > 20
                && !code.starts_with("service_")
                && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            let is_there = if is_path && code.contains('/') && !code.contains(' ') && !code.contains("NAME") {
                root().join(code).exists()
            } else if is_test && code.matches('_').count() > 2 {
                sources.contains(&format!("fn {code}("))
            } else {
                true
            };
            if !is_there {
                missing.push(format!("{}: {code}", document.name));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}

#[test]
fn every_option_that_is_named_exists_and_every_one_that_exists_is_named() {
    let documents: Vec<Document> = documents().into_iter().filter(|document| document.name != "CHANGELOG.md").collect();
    let scripts = ["up", "test", "deploy/push", "deploy/deploy", "deploy/deb", "bench/run"]
        .map(|name| fs::read_to_string(root().join(name)).unwrap());
    let helps = helps();
    let existing: BTreeSet<String> =
        helps.iter().chain(&scripts).flat_map(|text| text.lines()).flat_map(options).collect();
    // Other programs' options, where a document shows how to run those.
    let others = ["cargo ", "docker ", "aws ", "curl ", "just ", "git ", "systemctl ", "pip ", "kubectl "];
    let mut unknown = Vec::new();
    let mut named = BTreeSet::new();
    for document in &documents {
        for line in document.code() {
            for option in options(line) {
                if !existing.contains(&option) && !others.iter().any(|other| line.contains(other)) {
                    unknown.push(format!("{}: {option} in {line:?}", document.name));
                }
                named.insert(option);
            }
        }
    }
    assert_eq!(unknown, [""; 0]);
    let silent: Vec<&String> = helps
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| line.trim_start().starts_with('-'))
        .flat_map(options)
        .filter(|option| !["--help", "--version"].contains(&&**option))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|option| !named.contains(option))
        .map(|option| existing.get(&option).unwrap())
        .collect();
    assert_eq!(silent, [""; 0], "no document names these options");
}

#[test]
fn every_environment_variable_that_exists_is_named() {
    let all: String = documents().iter().map(|document| document.source.clone()).collect();
    let config = fs::read_to_string(root().join("gateway/haproxy.cfg")).unwrap();
    let of_entrance = config.lines().filter_map(|line| line.trim().strip_prefix("presetenv ")?.split(' ').next());
    let helps = helps();
    let of_programs = helps.iter().flat_map(|text| text.split("[env: ").skip(1)).map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_uppercase() || c == '_')).unwrap();
        &rest[..end]
    });
    // Each option of `seed` has one; the documents say how it is made of the option.
    let silent: BTreeSet<&str> = of_programs
        .filter(|name| !name.starts_with("SEED_"))
        .chain(of_entrance)
        .filter(|name| !all.contains(&format!("`{name}`")))
        .collect();
    assert_eq!(silent, BTreeSet::new());
}

/// The name of an environment variable that `text` begins with, if any.
fn variable(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let goes_on = text[end..].starts_with(|c: char| c.is_ascii_lowercase());
    (end > 1 && !goes_on && !text.starts_with(|c: char| c.is_ascii_digit())).then_some(&text[..end])
}

/// The variables that a script reads: `$NAME` and `${NAME`.
fn read_variables(script: &str) -> impl Iterator<Item = &str> {
    script.split('$').skip(1).filter_map(|rest| variable(rest.trim_start_matches(['{', '!'])))
}

#[test]
fn every_environment_variable_that_is_named_exists() {
    let files = ["", ".ci", "bench", "deploy", "gateway"].iter().flat_map(|folder| {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file() && path.extension().is_none_or(|ending| ending != "md"))
    });
    let scripts: String = files.map(|file| text(&fs::read(file).unwrap())).collect();
    let helps = helps().concat();
    let of_programs = helps.split("[env: ").skip(1).filter_map(variable);
    let of_entrance = scripts.split("presetenv ").skip(1).filter_map(variable);
    let mut existing: BTreeSet<&str> = read_variables(&scripts).chain(of_programs).chain(of_entrance).collect();
    // The logger's own.
    existing.insert("RUST_LOG");
    let plan = fs::read_to_string(root().join("plan")).unwrap();
    let services = plan.lines().filter_map(|line| line.split([' ', '#']).next()).filter(|name| !name.is_empty());
    // `up` makes these of the plan.
    let ports: Vec<String> = services.map(|name| name.to_uppercase() + "_PORT").collect();
    existing.extend(ports.iter().map(String::as_str));
    let is_method = |name: &str| ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].contains(&name);
    let (mut named, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for document in documents().iter().filter(|document| document.name != "CHANGELOG.md") {
        let alone = document.codes.iter().filter_map(|code| variable(code).filter(|name| name == code));
        // `SEED_` is a prefix.
        let alone = alone.filter(|name| !is_method(name) && !name.ends_with('_'));
        let code: Vec<&str> =
            document.codes.iter().chain(document.commands().map(|block| &block.text)).map(|code| &**code).collect();
        let words = code.iter().flat_map(|code| code.split_whitespace());
        let set = words.filter_map(|word| variable(word).filter(|name| word[name.len()..].starts_with('=')));
        for name in alone.chain(set).chain(code.iter().flat_map(|code| read_variables(code))) {
            named.insert(name.to_owned());
            if !existing.contains(name) {
                unknown.insert(format!("{}: {name}", document.name));
            }
        }
    }
    assert!(named.len() > 30, "{named:?}");
    assert_eq!(unknown, BTreeSet::new());
}

#[test]
fn each_figure_has_its_command_and_each_benchmark_its_figure() {
    let figures = Document::read("bench/README.md");
    let mut commands = BTreeSet::new();
    let mut command = None;
    for block in &figures.blocks {
        match &*block.language {
            "sh" => {
                let name = block.text.split_whitespace().next().unwrap().to_owned();
                assert!(root().join(&name).exists(), "{name}");
                commands.insert(name.clone());
                command = Some(name);
            }
            _ => assert!(command.take().is_some(), "no command stands before {}", block.text),
        }
    }
    assert!(figures.source.contains("2 cores"), "the machine is not named");
    let benches = fs::read_dir(root().join("bench")).unwrap().map(|entry| entry.unwrap().path());
    let benches = benches.filter(|path| path.is_file() && path.extension().is_none());
    let benches = benches.map(|path| format!("bench/{}", path.file_name().unwrap().to_str().unwrap()));
    let benches: BTreeSet<String> = benches.collect();
    assert_eq!(commands, benches);
}

/// A translation has the same structure: headings by level, command blocks, links.
#[test]
fn translations_have_the_same_headings_commands_and_links() {
    let translated: Vec<Document> =
        documents().into_iter().filter(|document| document.name.ends_with(".ko.md")).collect();
    let names: Vec<&str> = translated.iter().map(|document| &*document.name).collect();
    assert_eq!(names, ["README.ko.md", "docs/tutorial.ko.md"]);
    for document in translated {
        let original = Document::read(&document.name.replace(".ko.md", ".md"));
        let levels = |of: &Document| of.headings.iter().map(|(level, _)| *level).collect::<Vec<_>>();
        assert_eq!(levels(&document), levels(&original), "{}", document.name);
        // But for comments.
        let blocks = |of: &Document| -> Vec<String> {
            let code = |line: &str| line.split(" #").next().unwrap_or_default().trim_end().to_owned();
            of.blocks.iter().map(|block| block.text.lines().map(code).collect::<Vec<_>>().join("\n")).collect()
        };
        assert_eq!(blocks(&document), blocks(&original), "{}", document.name);
        // An anchor into a translation is another one, and each names the other.
        let links = |of: &Document| -> Vec<String> {
            let file = |link: &String| link.split('#').next().unwrap_or_default().replace(".ko.md", ".md");
            of.links.iter().map(file).collect()
        };
        assert_eq!(links(&document), links(&original), "{}", document.name);
        assert!(document.source.chars().filter(|c| ('가'..='힣').contains(c)).count() > 500, "{}", document.name);
    }
}

#[test]
#[ignore = "it builds for minutes; ./test runs it"]
fn every_command_block_runs() {
    let (copy, _alone) = Repository::copy(env!("CARGO_TARGET_TMPDIR"));
    copy.build();
    let mut not_run = 0;
    for name in RUN {
        let document = Document::read(name);
        not_run += document.commands().filter(|block| !block.is_run).count();
        let script: String = document.commands().filter(|block| block.is_run).map(|block| &*block.text).collect();
        copy.refresh();
        let port = free_port().to_string();
        let script = script.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
        let mut bash = copy.command("bash");
        bash.args(["-euo", "pipefail", "-c", &script]).env("PORT", port);
        for port in ["USERS_PORT", "THREADS_PORT", "POSTS_PORT", "COMMENTS_PORT"] {
            bash.env(port, free_port().to_string());
        }
        let path = std::env::var("PATH").unwrap();
        let programs = copy.program("").to_str().unwrap().to_owned();
        bash.env("PROFILE", "dev").env("CARGO_NET_OFFLINE", "true").env("PATH", format!("{programs}:{path}"));
        let output = bash.stdin(Stdio::null()).output().unwrap();
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{name}: {}\n{script}\n{printed}", output.status);
    }
    assert_eq!(not_run, BLOCKS_NOT_RUN);
}

#[test]
fn test_runs_what_cargo_leaves_out() {
    let test = fs::read_to_string(root().join("test")).unwrap();
    let long = test.lines().find_map(|line| line.strip_prefix("for name in ")).unwrap().split("; do").next().unwrap();
    let left_out = snapshot(&root().join("system-tests/tests")).into_iter().filter(|(_, text)| {
        let text = String::from_utf8_lossy(text);
        text.lines().any(|line| line.trim_start().starts_with("#[ignore"))
    });
    let left_out: Vec<String> =
        left_out.map(|(path, _)| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(left_out, long.split(' ').collect::<Vec<_>>());
}

/// All string literals of the store and the services, lines joined.
fn messages() -> String {
    let folders = ["shared/store/src", "shared/broker/src", "shared/service/src", "seed/src"];
    let files = folders.iter().flat_map(|folder| world::snapshot(&root().join(folder)));
    let joined = files.map(|(_, content)| {
        let mut joined = String::new();
        for line in text(&content).lines() {
            match joined.strip_suffix('\\') {
                Some(before) => joined = before.to_owned() + line.trim_start(),
                None => joined = joined + "\n" + line,
            }
        }
        joined
    });
    joined.collect()
}

#[test]
fn the_runbook_has_the_messages_that_end_a_process_or_a_request() {
    let operate = fs::read_to_string(root().join("docs/operate.md")).unwrap();
    let (_, runbook) = operate.split_once("## Runbook").unwrap();
    let rows = runbook.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let quotes: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2).take(1)).collect();
    let alerts = fs::read_to_string(root().join("deploy/observe/alerts.yml")).unwrap();
    let messages = messages() + &alerts;
    // The system's own, which no source of ours has.
    let ours = quotes.iter().filter(|quote| **quote != "Input/output error");
    let pieces = ours.flat_map(|quote| quote.split('…')).map(|piece| piece.trim_matches(|c| c == ' ' || c == ';'));
    let unsaid: Vec<&str> = pieces.filter(|piece| piece.len() > 3 && !messages.contains(piece)).collect();
    assert_eq!(unsaid, [""; 0], "nothing says this any more");
    // Whatever the store refuses to open or to write for, and each answer of 500 and above.
    let errors = fs::read_to_string(root().join("shared/store/src/lib.rs")).unwrap();
    let errors = errors
        .lines()
        .filter_map(|line| line.trim().strip_prefix("#[error(\""))
        .filter(|line| !line.starts_with("{}: {source}"));
    let problems = fs::read_to_string(root().join("shared/service/src/problem.rs")).unwrap();
    let fatal =
        ["Busy", "Held", "ListsBusy", "BackupsBusy", "ScrubBusy", "Building", "Draining", "NoIdsLeft", "Store(_)"];
    let answers = problems.lines().filter(|line| {
        line.contains("=> \"")
            && line.ends_with(".\",")
            && fatal.iter().any(|name| line.contains(&format!("Problem::{name} ")))
    });
    let described = |message: &str| {
        quotes.iter().any(|quote| {
            let longest = quote.split('…').map(str::trim).max_by_key(|piece| piece.len()).unwrap();
            longest.len() > 6 && message.contains(longest)
        })
    };
    // The hole's own words are in the rows of the journal.
    let missing: Vec<&str> =
        errors.chain(answers).filter(|line| !line.contains("{hole}") && !described(line)).collect();
    assert_eq!(missing, [""; 0], "the runbook does not have these");
}

/// A tag such as `lts` names another image tomorrow.
#[test]
fn base_images_are_named_by_their_full_version_and_rust_is_that_of_the_toolchain() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (build, test, toolchain) = (read("Dockerfile"), read("test"), read("rust-toolchain.toml"));
    let compose = read("compose.yaml") + &read("compose.observe.yaml");
    let from = build.lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next());
    let images = from.chain(compose.lines().filter_map(|line| line.trim().strip_prefix("image: ")));
    let images: BTreeSet<&str> = images.filter(|image| image.contains(':')).collect();
    assert_eq!(images.len(), 4, "{images:?}");
    for image in images {
        let version = image.split_once(':').unwrap().1.split('-').next().unwrap().trim_start_matches('v');
        let parts: Vec<&str> = version.split('.').collect();
        assert!(
            parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok()),
            "{image} has no full version"
        );
        // Nothing stands in for Grafana.
        let is_made = test.contains(&format!(" {image}")) || image.starts_with("grafana/");
        assert!(is_made, "./test makes no stand-in for {image}");
        if image.starts_with("rust:") {
            assert!(toolchain.contains(&format!("channel = \"{version}\"")), "{image} is another Rust");
        }
    }
}

/// The client of docs/api.md, which asks three services for one page.
#[test]
fn a_page_from_three_services_is_as_documented() {
    let document = Document::read("docs/api.md");
    let client = document.blocks.iter().find(|block| block.language == "python").expect("a client is there");
    let folder = tempfile::tempdir().unwrap();
    split(&world::sample(), folder.path());
    let services = ["users", "threads", "posts"].map(|name| start_service(name, &folder.path().join(name)));
    let Some((_entrance, address)) = start_entrance(services[0].1, services[1].1, services[2].1) else { return };
    let Some(python) = tool("python3", "the client of docs/api.md") else { return };
    let begin = Instant::now();
    let output = Command::new(python).args(["-c", &client.text]).env("ENTRANCE", format!("http://{address}")).output();
    let (output, took) = (output.unwrap(), begin.elapsed());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = text(&output.stdout);
    println!("{took:?} with Python's own start:\n{page}");
    let get = |path: &str| -> serde_json::Value { serde_json::from_str(&get(address, path).2).unwrap() };
    let (thread, posts) = (get("/api/threads/1"), get("/api/posts/in-thread/1"));
    let name = |id: &serde_json::Value| get(&format!("/api/users/{id}"))["username"].as_str().unwrap().to_owned();
    let mut expected = format!("{}, begun by {}\n", thread["title"].as_str().unwrap(), name(&thread["createdBy"]));
    for post in posts.as_array().unwrap() {
        expected += &format!("{}: {}\n", name(&post["user"]), post["text"].as_str().unwrap());
    }
    assert_eq!(page, expected);
}
