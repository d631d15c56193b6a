//! `plan`: the list of collections from which a topology follows.
//!
//! ```text
//! # A comment.
//! users   3001
//! threads 3002
//! ```
//!
//! It depends on nothing else here, so that a build script can read the list, too.

use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The list's name in its folder.
pub const PLAN: &str = "plan";

const NAME_LENGTH: usize = 32;

/// Those below belong to root, those above to the system, which gives them to clients. A listener rule on AWS has its
/// collection's port as its priority: that is at most 50,000, and the smallest are the entrance's own.
const PORTS: RangeInclusive<u16> = 1024..=49151;

/// Where every service listens in its container, and where the entrance listens under `./up`.
const OTHERS_PORTS: [u16; 2] = [3000, 8080];

/// What else has a name where collections have theirs; without `-` and `_`.
#[rustfmt::skip]
const OTHERS_NAMES: &[&str] = &[
    // Programs, folders and files here, in containers and in a data folder.
    "seed", "shared", "collection", "service", "up", "plan", "target", "tokens", "data", "manifest", "next", "old",
    "building",
    // Compose: services, networks, volumes, and the names that the entrance finds by DNS.
    "entrance", "outside", "outsideentrance", "default", "localhost",
    // HAProxy: sections, and variables of the environment.
    "all", "targetgroup", "names", "monolith", "nowhere", "metrics",
    "replicas", "nameserver", "certificate", "tls", "ratelimit", "connecttimeout", "headertimeout", "idletimeout",
    "answertimeout", "queuetimeout", "targetrequests", "targetqueue", "interval", "slowstart",
    "path", "home", "hostname",
    // deploy/ecs.yaml: RootRule, ApiRule, MethodRule, SliceImage.
    "root", "api", "method", "slice",
    // No text in YAML.
    "y", "n", "yes", "no", "on", "off", "true", "false", "null",
];

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine {
    /// The collection's name: in URLs, and that of its folder, its image and its containers.
    pub name: String,
    /// The port that its service has under `./up`.
    pub port: u16,
}

/// What is wrong in a list.
#[derive(Debug)]
pub struct PlanFault {
    /// The list.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl Display for PlanFault {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        write!(formatter, "{}: line {}: {}", self.file.display(), self.line, self.reason)
    }
}

impl std::error::Error for PlanFault {}

/// Reads a list, which was read from `file`.
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
            if without_marks(&other.name) == without_marks(&line.name) {
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
        }
        plan.push((number, line));
    }
    if plan.is_empty() {
        return Err(fault(1, "no collection is listed; write `NAME PORT` for each, such as `users 3001`".to_owned()));
    }
    Ok(plan.into_iter().map(|(_, line)| line).collect())
}

/// Reads `NAME PORT`.
pub fn parse_line(line: &str) -> Result<PlanLine, String> {
    let [name, port] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(format!("{line:?} is not a name and a port; `users 3001` is"));
    };
    check_name(name)?;
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
    Ok(PlanLine { name: name.to_owned(), port })
}

/// Says why a collection cannot have this name.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_mark = |byte: u8| matches!(byte, b'-' | b'_');
    let bytes = name.as_bytes();
    let fits = bytes.len() <= NAME_LENGTH
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || is_mark(*byte))
        // Registries take no other names for images.
        && !bytes.last().is_some_and(|byte| is_mark(*byte))
        && !bytes.windows(2).any(|pair| is_mark(pair[0]) && is_mark(pair[1]));
    if !fits {
        return Err(format!(
            "{name:?} is no name: 1 to {NAME_LENGTH} of a-z 0-9 - _ are one, beginning with a letter, each - or _ \
             between two others"
        ));
    }
    if OTHERS_NAMES.contains(&without_marks(name).as_str()) {
        return Err(format!("{name:?} is the name of something else in the topology; take another"));
    }
    Ok(())
}

/// The name as it stands where there can be neither `-` nor `_`. Two that are the same then would meet there.
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
    fn a_list_has_a_name_and_a_port_a_line_and_comments() {
        let plan = read("# the list\n\n  users\t3001 # these\nopen-issues_2 3002").unwrap();
        let line = |name: &str, port| PlanLine { name: name.to_owned(), port };
        assert_eq!(plan, [line("users", 3001), line("open-issues_2", 3002)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, expected) in [
            ("", "x/plan: line 1: no collection is listed"),
            ("#\nusers", "x/plan: line 2: \"users\" is not a name and a port"),
            ("users 3001 x", "line 1: \"users 3001 x\" is not"),
            ("Users 3001", "\"Users\" is no name"),
            ("2users 3001", "is no name"),
            ("a- 3001", "is no name"),
            ("a-_b 3001", "is no name"),
            ("a.b 3001", "is no name"),
            ("über 3001", "is no name"),
            ("a23456789012345678901234567890123 3001", "is no name"),
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

    /// Whatever is added to these files under a name that a collection could have.
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
        let compose = file("compose.yaml");
        let parts = compose.lines().skip_while(|line| *line != "services:");
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
