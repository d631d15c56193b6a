//! `seed plan render`: what follows from `plan` in the files that describe the topology.
//!
//! Regions of these files have a line or a block for each collection:
//!
//! ```text
//! # plan: a line for each, as users 3001
//!   users:
//!   threads:
//! # plan: end
//! ```
//!
//! The first one is written by hand, for the collection that the comment names; the others are the same in other words.
//! Blocks are what blank lines divide. In a region of lines `for each that has none`, people have a say in each line:
//! it stays as it is, and the comment itself has a new one's text.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::error::Error;
use crate::report::Report;
use crate::topology::{self, PLAN, PlanFault, PlanLine};

/// The files, below the top of the repository.
const FILES: [&str; 5] =
    ["compose.yaml", "compose.writes.yaml", "gateway/haproxy.cfg", "gateway/routes.map", "deploy/ecs.yaml"];

/// What `--check` ends with where a file is stale.
const STALE: u8 = 1;

/// What to do with what was rendered.
#[derive(Clone, Copy)]
pub enum Purpose<'a> {
    /// Puts it in place.
    Update,
    /// Says which files are stale.
    Check,
    /// Writes copies into this folder.
    Copy(&'a Path),
}

impl From<PlanFault> for Error {
    fn from(PlanFault { file, line, reason }: PlanFault) -> Self {
        Error::Input { file, place: format!("line {line}"), reason }
    }
}

/// Renders the files in the current folder for the plan in `folder`.
pub fn render(folder: &Path, purpose: Purpose) -> Result<Report, Error> {
    let list = folder.strip_prefix(".").unwrap_or(folder).join(PLAN);
    let plan = topology::parse(&list, &read(&list)?)?;
    let mut stale = Vec::new();
    for file in FILES {
        let target = match purpose {
            Purpose::Copy(output) => output.join(file),
            _ => file.into(),
        };
        let rendered = render_text(Path::new(file), &read(Path::new(file))?, &plan, purpose)?;
        let is_fresh = match fs::read_to_string(&target) {
            Ok(present) => present == rendered,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(Error::io(&target)(error)),
        };
        if !is_fresh {
            stale.push((file, target, rendered));
        }
    }
    let files = stale.iter().map(|(_, target, _)| target.display().to_string()).collect::<Vec<_>>();
    let names = files.join(", ");
    let (outcome, text) = match purpose {
        _ if files.is_empty() => ("unchanged", format!("All is as {} says.\n", list.display())),
        Purpose::Check => {
            ("stale", format!("Not as {} says: {names}. `seed plan render` renders them.\n", list.display()))
        }
        _ => ("rendered", format!("Rendered as {} says: {names}.\n", list.display())),
    };
    let exit_code = if outcome == "stale" { STALE } else { 0 };
    if outcome == "rendered" {
        for (file, target, rendered) in &stale {
            replace_file(Path::new(file), target, rendered)?;
        }
    }
    Ok(Report {
        text,
        json: json!({ "outcome": outcome, "files": files }),
        note: String::new(),
        exit_code,
        is_secret: false,
    })
}

fn read(path: &Path) -> Result<String, Error> {
    let explain = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => io::Error::other("it is not there; run this at the top of the repository"),
        _ => error,
    };
    fs::read_to_string(path).map_err(explain).map_err(Error::io(path))
}

/// Puts `text` into the place of `target`, whole or not at all, with the permissions of `file`.
fn replace_file(file: &Path, target: &Path, text: &str) -> Result<(), Error> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replace = || {
        fs::create_dir_all(folder)?;
        let mut part = NamedTempFile::new_in(folder)?;
        part.write_all(text.as_bytes())?;
        part.as_file().set_permissions(fs::metadata(file)?.permissions())?;
        part.as_file().sync_all()?;
        part.persist(target)?;
        Ok(())
    };
    replace().map_err(Error::io(target))
}

/// How a region's comment says what is in it.
const KINDS: [(&str, Kind); 3] = [
    ("a line for each, as ", Kind::Lines),
    ("a block for each, as ", Kind::Blocks),
    ("a line for each that has none, as ", Kind::Missing),
];

#[derive(Clone, Copy)]
enum Kind {
    Lines,
    Blocks,
    Missing,
}

/// What a comment says of the plan.
fn read_marker(line: &str) -> Option<&str> {
    line.trim().strip_prefix("# plan:").map(str::trim)
}

/// Renders every region of a text.
fn render_text(file: &Path, text: &str, plan: &[PlanLine], purpose: Purpose) -> Result<String, Error> {
    let fault = |number: usize, reason: String| Error::from(PlanFault { file: file.to_owned(), line: number, reason });
    let mut rendered: Vec<String> = Vec::new();
    let mut regions = 0;
    let mut lines = (1..).zip(text.split('\n'));
    while let Some((begin, line)) = lines.next() {
        let Some(marker) = read_marker(line) else {
            rendered.push(line.to_owned());
            continue;
        };
        if marker == "end" {
            return Err(fault(begin, "this ends nothing; the comment that begins what it ends is missing".to_owned()));
        }
        let mut body = Vec::new();
        let end = loop {
            match lines.next() {
                None => return Err(fault(begin, "`# plan: end` is missing after this".to_owned())),
                Some((_, line)) if read_marker(line) == Some("end") => break line,
                Some((number, line)) if read_marker(line).is_some() => {
                    return Err(fault(number, format!("`# plan: end` is missing between this and line {begin}")));
                }
                Some((_, line)) => body.push(line),
            }
        };
        let first_line = begin + 1;
        let region = Region::read(marker, &body).map_err(|reason| fault(begin, reason))?;
        let first = &plan[0];
        if !matches!(purpose, Purpose::Copy(_)) && !region.can_be_of(first) {
            let reason = format!(
                "{} or {} means something else in what follows, so that nothing could be rendered from it; list \
                 another collection first",
                first.name, first.port
            );
            return Err(fault(first_line, reason));
        }
        rendered.push(replace_words(line, &region.owner, first));
        rendered.extend(region.render(plan));
        rendered.push(end.to_owned());
        regions += 1;
    }
    if regions == 0 {
        return Err(fault(1, "there is no `# plan:` comment, so nothing says what to render".to_owned()));
    }
    Ok(rendered.join("\n"))
}

/// What is between two comments.
struct Region<'a> {
    kind: Kind,
    /// Whose the template is.
    owner: PlanLine,
    template: String,
    body: &'a [&'a str],
}

impl<'a> Region<'a> {
    fn read(marker: &str, body: &'a [&'a str]) -> Result<Self, String> {
        let known = KINDS.iter().find_map(|(words, kind)| Some((kind, marker.strip_prefix(words)?)));
        let Some((kind, owner)) = known else {
            let kinds = KINDS.map(|(words, _)| format!("`# plan: {words}NAME PORT`"));
            return Err(format!("{marker:?} begins nothing; these do: {}", kinds.join(", ")));
        };
        let (owner, template) = match kind {
            Kind::Lines => (owner, body.first().copied().unwrap_or_default().to_owned()),
            Kind::Blocks => {
                let block: Vec<&str> = body.iter().copied().take_while(|line| !line.trim().is_empty()).collect();
                (owner, block.join("\n"))
            }
            Kind::Missing => {
                let parts = owner.split_once(": ").ok_or("a new line's text is missing here, after `NAME PORT: `")?;
                (parts.0, parts.1.to_owned())
            }
        };
        let owner = topology::parse_line(owner)?;
        let nobody = PlanLine { name: String::new(), port: 0 };
        if replace_words(&template, &owner, &nobody) == template {
            return Err(format!("the first line or block after this does not name {}", owner.name));
        }
        Ok(Self { kind: *kind, owner, template, body })
    }

    /// Whether the template, made that of `first`, still tells its words from all others.
    fn can_be_of(&self, first: &PlanLine) -> bool {
        let made = replace_words(&self.template, &self.owner, first);
        replace_words(&made, first, &self.owner) == self.template
    }

    fn render(&self, plan: &[PlanLine]) -> Vec<String> {
        let made = plan.iter().map(|line| replace_words(&self.template, &self.owner, line));
        match self.kind {
            Kind::Lines => made.collect(),
            Kind::Blocks => vec![made.collect::<Vec<_>>().join("\n\n")],
            Kind::Missing => {
                let is_word = |word: &str| plan.iter().any(|line| line.name == word);
                let stays = |line: &&str| line.trim_start().starts_with('#') || line.split(ends_word).any(is_word);
                let mut lines: Vec<String> = self.body.iter().copied().filter(stays).map(str::to_owned).collect();
                let begin = |line: &str| line.split_whitespace().next().map(str::to_owned);
                let there: Vec<_> = lines.iter().map(|line| begin(line)).collect();
                lines.extend(made.filter(|line| !there.contains(&begin(line))));
                lines
            }
        }
    }
}

fn ends_word(character: char) -> bool {
    !(character.is_ascii_alphanumeric() || matches!(character, '-' | '_'))
}

/// The name as deploy/ecs.yaml begins words with it: OpenIssues for `open-issues`.
fn capitalize(name: &str) -> String {
    let part = |part: &str| part[..part.len().min(1)].to_uppercase() + part.get(1..).unwrap_or_default();
    name.split(['-', '_']).map(part).collect()
}

/// The name as a variable of the environment.
fn upper_case(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Replaces what names one collection by what names another: whole words, and `Users` in `UsersTask`.
fn replace_words(text: &str, from: &PlanLine, to: &PlanLine) -> String {
    let replace = |word: &str| {
        let begin = capitalize(&from.name);
        if word == from.name {
            to.name.clone()
        } else if word == upper_case(&from.name) {
            upper_case(&to.name)
        } else if word == from.port.to_string() {
            to.port.to_string()
        } else if let Some(rest) = word.strip_prefix(&begin)
            && !rest.starts_with(|next: char| next.is_ascii_lowercase() || next.is_ascii_digit())
        {
            capitalize(&to.name) + rest
        } else {
            word.to_owned()
        }
    };
    text.split_inclusive(ends_word)
        .map(|piece| {
            let word = piece.trim_end_matches(ends_word);
            replace(word) + &piece[word.len()..]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
# plan: a line for each that has none, as users 3001: /api/users/ users
/api/users/     monolith
# A part of it.
/api/users/old/ monolith
/api/gone/ gone
# plan: end
";

    fn plan(list: &str) -> Vec<PlanLine> {
        topology::parse(Path::new(PLAN), list).unwrap()
    }

    fn rendered(text: &str, list: &str) -> String {
        let rendered = render_text(Path::new("file"), text, &plan(list), Purpose::Update).unwrap();
        let again = render_text(Path::new("file"), &rendered, &plan(list), Purpose::Update).unwrap();
        assert_eq!(again, rendered, "rendered again it differs");
        rendered
    }

    #[test]
    fn each_collection_has_the_first_ones_line_in_words_of_its_own() {
        let text = "\
a
  # plan: a line for each, as users 3001
  users: /api/users, ${USERS} UsersTask 3001, not: users-x xusers 30010 Userscope
  stale
  # plan: end
z\r
no newline";
        let expected = "\
a
  # plan: a line for each, as users 3001
  users: /api/users, ${USERS} UsersTask 3001, not: users-x xusers 30010 Userscope
  open-issues: /api/open-issues, ${OPEN_ISSUES} OpenIssuesTask 3002, not: users-x xusers 30010 Userscope
  # plan: end
z\r
no newline";
        assert_eq!(rendered(text, "users 3001\nopen-issues 3002"), expected);
        // Another first one, and back.
        let swapped = rendered(expected, "open-issues 3102\nusers 3001");
        assert!(
            swapped.contains("# plan: a line for each, as open-issues 3102\n  open-issues: /api/open-"),
            "{swapped}"
        );
        assert_eq!(rendered(&swapped, "users 3001\nopen-issues 3002"), expected);
    }

    #[test]
    fn a_block_ends_with_a_blank_line() {
        let text = "# plan: a block for each, as users 3001\n# users\nusers:\n  x\n\nstale\n# plan: end\n";
        let expected = "# plan: a block for each, as users 3001\n# users\nusers:\n  x\n\n# a\na:\n  x\n# plan: end\n";
        assert_eq!(rendered(text, "users 3001\na 3002"), expected);
    }

    #[test]
    fn a_listener_rule_that_somebody_wrote_stays_as_long_as_its_collection() {
        assert_eq!(rendered(MAP, "users 3001\nposts 3002"), MAP.replace("/api/gone/ gone\n", "/api/posts/ posts\n"),);
        let without = rendered(MAP, "posts 3002");
        assert_eq!(
            without,
            "# plan: a line for each that has none, as posts 3002: /api/posts/ posts\n# A part of it.\n/api/posts/ posts\n# plan: end\n"
        );
    }

    #[test]
    fn broken_regions_are_refused_with_file_and_line() {
        for (text, expected) in [
            ("a\n", "file: line 1: there is no `# plan:` comment"),
            ("a\n# plan: end\n", "file: line 2: this ends nothing"),
            (
                "# plan: lines, as users 3001\nusers\n# plan: end",
                "file: line 1: \"lines, as users 3001\" begins nothing",
            ),
            ("\n# plan: a line for each, as users 3001\nusers\n", "file: line 2: `# plan: end` is missing after this"),
            (
                "# plan: a line for each, as users 3001\nusers\n# plan: a line for each, as users 3001\nusers\n# plan: end",
                "file: line 3: `# plan: end` is missing between this and line 1",
            ),
            ("# plan: a line for each, as users\nusers\n# plan: end", "\"users\" is not a name and a port"),
            (
                "# plan: a line for each, as users 3001\n# plan: end",
                "line 1: the first line or block after this does not",
            ),
            ("# plan: a line for each, as users 3001\nposts\n# plan: end", "does not name users"),
            ("# plan: a line for each that has none, as users 3001\n# plan: end", "a new line's text is missing here"),
        ] {
            let error = render_text(Path::new("file"), text, &plan("users 3001"), Purpose::Check).unwrap_err();
            assert!(error.to_string().contains(expected), "{error} does not say {expected}");
            assert_eq!(error.exit_code(), 3);
        }
    }

    #[test]
    fn a_first_name_that_means_something_else_in_a_block_is_refused_but_for_copies() {
        let text = "# plan: a line for each, as users 3001\nusers logs 2012\n# plan: end\n";
        for list in ["logs 3001", "users 2012"] {
            let error = render_text(Path::new("file"), text, &plan(list), Purpose::Update).unwrap_err();
            assert!(error.to_string().contains("file: line 2: "), "{error}");
            assert!(error.to_string().contains("list another collection first"), "{error}");
        }
        let copy = Purpose::Copy(Path::new("elsewhere"));
        let copied = render_text(Path::new("file"), text, &plan("logs 3001\nusers 2012"), copy).unwrap();
        assert!(copied.contains("\nlogs logs 2012\nusers logs 2012\n"), "{copied}");
    }
}
