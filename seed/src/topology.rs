//! `plan`: the list of collections from which a topology follows.
//!
//! ```text
//! # A comment.
//! users      3001
//! threads    3002
//! blog-posts 3003 blogPosts
//! ```
//!
//! A line is a service's name, its port, and its collection's name if that differs: a name that is valid in JSON and in
//! a URL may be invalid for code folders, images, containers, HAProxy or CloudFormation.
//!
//! This file depends on no other file of the crate, so that the build script can read the list, too.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The list's name in its folder.
pub const PLAN: &str = "plan";

/// The greatest length of a service's name.
pub const NAME_LENGTH: usize = 32;

/// The greatest length of a collection's name, the same as in declarations.
const COLLECTION_LENGTH: usize = 64;

/// The ports of services. Lower ones belong to root; the system gives higher ones to clients. A listener rule on AWS
/// has its collection's port as its priority: priorities end at 50,000, and the smallest are the entrance's own.
const PORTS: RangeInclusive<u16> = 1024..=49151;

/// The port of every service in its container, and the entrance's port under `./up`.
const OTHERS_PORTS: [u16; 2] = [3000, 8080];

/// Other names in the places where services have theirs; without `-` and `_`.
#[rustfmt::skip]
const OTHERS_NAMES: &[&str] = &[
    // Programs, folders and files here, in containers and in a data folder.
    "seed", "shared", "collection", "service", "up", "test", "plan", "target", "tokens", "keys", "data", "manifest", "next",
    "old", "building",
    // Compose: services, networks, volumes, and the names that the entrance finds by DNS.
    "entrance", "outside", "outsideentrance", "default", "localhost",
    "prometheus", "grafana", "broker1", "broker2", "broker3", "brokers", "streams", "snapshots",
    // HAProxy: sections, and variables of the environment.
    "all", "targetgroup", "names", "monolith", "nowhere", "metrics",
    "replicas", "nameserver", "certificate", "tls", "redirect", "hsts", "connections", "clientconnections",
    "clientrequests", "ratelimit", "connecttimeout", "headertimeout", "idletimeout",
    "answertimeout", "queuetimeout", "targetrequests", "targetqueue", "targetlisteners", "interval", "slowstart", "ui",
    "compression",
    "path", "home", "hostname",
    // deploy/kubernetes: the image of the broker.
    "nats",
    // deploy/ecs.yaml: RootRule, ApiRule, MethodRule, SliceImage.
    "root", "api", "method", "slice",
    // Not texts in YAML.
    "y", "n", "yes", "no", "on", "off", "true", "false", "null",
];

/// Other names in the places where collections have theirs, in lower case: a file system may ignore case.
#[rustfmt::skip]
const RESERVED: &[&str] = &[
    // Files in a data folder, and in a backup.
    "manifest.json", "manifest.next.json", "manifest.json.part", "building.json", "cluster", "backup", "split",
    // Members of a report beside the collections.
    "outcome", "dry_run", "rejected", "running", "as_node", "absent", "added", "phases", "manifest", "error", "message",
    "exit_code",
];

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine {
    /// The service's name, also of its folder, image and containers.
    pub name: String,
    /// Its port under `./up`.
    pub port: u16,
    /// Its collection's name, in the data, in URLs and in messages.
    pub collection: String,
}

impl Display for PlanLine {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        let Self { name, port, collection } = self;
        write!(formatter, "{name} {port}")?;
        if collection != name { write!(formatter, " {collection}") } else { Ok(()) }
    }
}

/// A fault in a list.
#[derive(Debug)]
pub struct PlanFault {
    /// The list.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: usize,
    /// The fault, and its remedy.
    pub reason: String,
}

impl Display for PlanFault {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        write!(formatter, "{}: line {}: {}", self.file.display(), self.line, self.reason)
    }
}

impl std::error::Error for PlanFault {}

/// Parses a list that was read from `file`.
pub fn parse(file: &Path, text: &str) -> Result<Vec<PlanLine>, PlanFault> {
    let fault = |line, reason| PlanFault { file: file.to_owned(), line, reason };
    let mut plan: Vec<(usize, PlanLine)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let line = parse_line(content).map_err(|reason| fault(number, reason))?;
        for (earlier, other) in &plan {
            if meet(&other.name, &line.name) {
                let reason = format!(
                    "{:?} and {:?} of line {earlier} differ in - and _ at most; give one of them another name",
                    line.name, other.name
                );
                return Err(fault(number, reason));
            }
            if other.port == line.port {
                let reason =
                    format!("{:?} has the port {} already, in line {earlier}; take another", other.name, line.port);
                return Err(fault(number, reason));
            }
            if other.collection == line.collection {
                let reason = format!("{:?} has a service already, in line {earlier}; drop one", line.collection);
                return Err(fault(number, reason));
            }
        }
        plan.push((number, line));
    }
    if plan.is_empty() {
        return Err(fault(1, "no collection is listed; write `NAME PORT` for each, such as `users 3001`".to_owned()));
    }
    Ok(plan.into_iter().map(|(_, line)| line).collect())
}

/// Parses `NAME PORT` or `NAME PORT COLLECTION`.
pub fn parse_line(line: &str) -> Result<PlanLine, String> {
    let (name, port, collection) = match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, port] => (name, port, name),
        [name, port, collection] => (name, port, collection),
        _ => return Err(format!("{line:?} is not a name and a port; `users 3001` is")),
    };
    check_name(name)?;
    check_collection(collection)?;
    let port = port.parse().ok().filter(|port| PORTS.contains(port) && !OTHERS_PORTS.contains(port));
    let port = port.ok_or_else(|| {
        let [container, entrance] = OTHERS_PORTS;
        format!(
            "{name:?} needs a port of {} to {}, but not {container} (where services listen in containers) or \
             {entrance} (the entrance's)",
            PORTS.start(),
            PORTS.end()
        )
    })?;
    Ok(PlanLine { name: name.to_owned(), port, collection: collection.to_owned() })
}

/// Checks a collection's name: it becomes a segment of a URL's path and a folder in a data folder.
pub fn check_collection(name: &str) -> Result<(), String> {
    // The unreserved characters of RFC 3986. A leading `.` hides a file; a leading `-` looks like an option.
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let begins = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let fits = name.len() <= COLLECTION_LENGTH && name.bytes().all(is_unreserved);
    if !fits || !name.as_bytes().first().is_some_and(begins) {
        return Err(format!(
            "{name:?} cannot stand in a URL and name a folder unchanged: use 1 to {COLLECTION_LENGTH} of \
             a-z A-Z 0-9 - . _ ~, beginning with a letter, a digit or _"
        ));
    }
    if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("{name:?} is the name of something else in data folders, backups or reports"));
    }
    Ok(())
}

/// Checks a service's name.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_mark = |byte: u8| matches!(byte, b'-' | b'_');
    let bytes = name.as_bytes();
    let fits = bytes.len() <= NAME_LENGTH
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || is_mark(*byte))
        // Image registries accept no other names.
        && !bytes.last().is_some_and(|byte| is_mark(*byte))
        && !bytes.windows(2).any(|pair| is_mark(pair[0]) && is_mark(pair[1]));
    if !fits {
        return Err(format!(
            "{name:?} is not a valid name: use 1 to {NAME_LENGTH} of a-z 0-9 - _, beginning with a letter, each - or _ \
             between two others. A collection may have another name than its service: `users 3001 Users`"
        ));
    }
    if OTHERS_NAMES.contains(&without_marks(name).as_str()) {
        return Err(format!(
            "{name:?} is the name of something else in the topology; take another, and write the \
             collection's behind the port: `NAME PORT {name}`"
        ));
    }
    Ok(())
}

/// Tells whether two names are the same in places that allow neither `-` nor `_`.
pub fn meet(one: &str, other: &str) -> bool {
    without_marks(one) == without_marks(other)
}

/// Returns the name as it stands in such places.
fn without_marks(name: &str) -> String {
    name.replace(['-', '_'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PlanLine>, String> {
        parse(Path::new("x/plan"), text).map_err(|fault| fault.to_string())
    }

    #[test]
    fn each_line_of_a_list_has_a_name_and_a_port_or_a_comment() {
        let plan = read("# the list\n\n  users\t3001 # these\nopen-issues_2 3002\nblog  3003  blogPosts").unwrap();
        let line = |name: &str, port, collection: &str| PlanLine {
            name: name.to_owned(),
            port,
            collection: collection.to_owned(),
        };
        let expected = [
            line("users", 3001, "users"),
            line("open-issues_2", 3002, "open-issues_2"),
            line("blog", 3003, "blogPosts"),
        ];
        assert_eq!(plan, expected);
        let written: Vec<String> = plan.iter().map(PlanLine::to_string).collect();
        assert_eq!(written, ["users 3001", "open-issues_2 3002", "blog 3003 blogPosts"]);
    }

    #[test]
    fn a_fault_in_a_list_is_named_with_its_line() {
        for (text, expected) in [
            ("", "x/plan: line 1: no collection is listed"),
            ("#\nusers", "x/plan: line 2: \"users\" is not a name and a port"),
            ("users 3001 x y", "line 1: \"users 3001 x y\" is not"),
            ("users 3001 a/b", "\"a/b\" cannot stand in a URL"),
            ("users 3001\nothers 3002 users", "line 2: \"users\" has a service already, in line 1"),
            ("Users 3001", "\"Users\" is not a valid name"),
            ("2users 3001", "is not a valid name"),
            ("a- 3001", "is not a valid name"),
            ("a-_b 3001", "is not a valid name"),
            ("a.b 3001", "is not a valid name"),
            ("über 3001", "is not a valid name"),
            ("a23456789012345678901234567890123 3001", "is not a valid name"),
            ("monolith 3001", "\"monolith\" is the name of something else"),
            ("rate-limit 3001", "is the name of something else"),
            ("users 80", "\"users\" needs a port of 1024 to 49151"),
            ("users 3000", "but not 3000"),
            ("users 3001\nposts 3001", "line 2: \"users\" has the port 3001 already, in line 1"),
            ("a-b 3001\n# x\nab 3002", "line 3: \"ab\" and \"a-b\" of line 1 differ in - and _ at most"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(expected), "{message} does not say {expected}");
        }
    }

    #[test]
    fn a_collection_may_have_any_name_that_is_valid_in_a_url_and_for_a_folder() {
        let longest = "x".repeat(64);
        for name in
            ["blogPosts", "user_profiles", "Products", "2024-events", "a.b", "_x~y", "monolith", "data", &longest]
        {
            assert_eq!(check_collection(name), Ok(()), "{name}");
            // A declaration accepts the name, so its service starts.
            let json = format!(r#"{{"name": "{name}", "ids": "record", "fields": []}}"#);
            assert!(record::declaration::Declaration::read(&json).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".git", "-x", "~x", "a b", "a/b", "a%20b", "über", "x\ny", &"x".repeat(65)] {
            assert!(check_collection(name).unwrap_err().contains("cannot stand in a URL"), "{name}");
            let declaration = serde_json::json!({"name": name, "ids": "record", "fields": []}).to_string();
            assert!(record::declaration::Declaration::read(&declaration).is_err(), "{name}");
        }
        for name in ["manifest.json", "Manifest.next.json", "backup", "outcome"] {
            assert!(check_collection(name).unwrap_err().contains("something else"), "{name}");
        }
    }

    /// Fails if these files get a new name that a service could have, too.
    #[test]
    fn names_of_other_things_are_refused() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let file = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        let plan: Vec<String> = read(&file(PLAN)).unwrap().into_iter().map(|line| line.name).collect();
        let haproxy = file("gateway/haproxy.cfg");
        let sections = ["presetenv", "backend", "frontend", "resolvers", "defaults"];
        let mut names: Vec<String> = haproxy
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.len() > 1 && sections.contains(&words[0]))
            .map(|words| words[1].to_lowercase())
            .collect();
        let compose = [file("compose.yaml"), file("compose.cluster.yaml")];
        let parts = compose.iter().flat_map(|text| text.lines().skip_while(|line| *line != "services:"));
        names.extend(parts.filter_map(|line| line.strip_prefix("  ")?.split_once(':')).map(|(key, _)| key.to_owned()));
        let template = file("deploy/ecs.yaml");
        let ids = || template.lines().filter_map(|line| Some(line.strip_prefix("  ")?.split_once(':')?.0));
        let first = plan[0][..1].to_uppercase() + &plan[0][1..];
        for suffix in ids().filter_map(|id| id.strip_prefix(&first)) {
            names.extend(ids().filter_map(|id| id.strip_suffix(suffix)).map(str::to_lowercase));
        }
        names.retain(|name| !plan.contains(name) && !name.starts_with([' ', '#']) && !name.is_empty());
        assert!(names.len() > 30, "{names:?}");
        for name in names {
            assert!(check_name(&name).is_err(), "{name} is taken");
        }
    }
}
