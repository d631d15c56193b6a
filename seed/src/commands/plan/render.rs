//! `seed plan render`: renders the files of the topology from `plan`.
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
//! The first one is the template, written by hand for the collection that the comment names; the others replace its names.
//! Blank lines separate blocks. In a region of lines `for each that has none`, people edit the lines: existing lines stay,
//! and the comment has the text for new ones.
//!
//! A collection may have another name than its service (`blog-posts 3001 blogPosts`). A name after `/api/`, `/data/`,
//! `/tokens/` or `/keys/` is the collection's, any other the service's.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde_json::json;

use crate::error::Error;
use crate::identity::folder_of;
use crate::part_file::PartFile;
use crate::report::Report;
use crate::topology::{self, PLAN, PlanFault, PlanLine};

/// The rendered files, relative to the top of the repository.
const FILES: [&str; 15] = [
    "compose.yaml",
    "compose.cluster.yaml",
    "compose.writes.yaml",
    "gateway/haproxy.cfg",
    "gateway/routes.map",
    "deploy/ecs.yaml",
    "compose.observe.yaml",
    "deploy/observe/alerts.yml",
    "deploy/observe/prometheus.yml",
    "deploy/kubernetes/base/services.yaml",
    "deploy/kubernetes/writes/services.yaml",
    "deploy/kubernetes/overlays/single/kustomization.yaml",
    "deploy/kubernetes/overlays/replicas/kustomization.yaml",
    "deploy/kubernetes/overlays/replicas/services.yaml",
    "deploy/kubernetes/overlays/replicas/snapshots.yaml",
];

/// The exit code of `--check` if a file is stale.
const STALE: u8 = 1;

/// The purpose of rendering.
#[derive(Clone, Copy)]
pub enum Purpose<'a> {
    /// Update the files.
    Update,
    /// Name the stale files.
    Check,
    /// Write copies into this folder.
    Copy(&'a Path),
}

impl From<PlanFault> for Error {
    fn from(PlanFault { file, line, reason }: PlanFault) -> Self {
        Error::Input { file, kind: None, place: format!("line {line}"), reason }
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
        _ if files.is_empty() => ("unchanged", format!("All files match {}.\n", list.display())),
        Purpose::Check => {
            let text =
                format!("Files that do not match {}: {names}. `seed plan render` renders them.\n", list.display());
            ("stale", text)
        }
        _ => ("rendered", format!("Rendered from {}: {names}.\n", list.display())),
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
        ErrorKind::NotFound => io::Error::other("the file is missing; run this at the top of the repository"),
        _ => error,
    };
    fs::read_to_string(path).map_err(explain).map_err(Error::io(path))
}

/// Replaces `target` by `text` atomically, with the permissions of `file`.
fn replace_file(file: &Path, target: &Path, text: &str) -> Result<(), Error> {
    let folder = folder_of(target);
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let permissions = fs::metadata(file).map_err(Error::io(file))?.permissions();
    let mut part = PartFile::create_private(target)?;
    part.write(text)?;
    part.as_file().set_permissions(permissions).map_err(Error::io(target))?;
    part.put_in_place()
}

/// The words of a region's comment for each kind of region.
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

/// Returns the text after `# plan:`, if the line is such a comment.
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
            return Err(fault(begin, "this ends no region: the comment that begins the region is missing".to_owned()));
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
        let plan = if matches!(region.kind, Kind::Missing) { &routed(plan) } else { plan };
        let first = &plan[0];
        if !matches!(purpose, Purpose::Copy(_)) && !region.can_be_of(first) {
            let reason = format!(
                "{} or {} also means something else in the following template, so it cannot be rendered; list another \
                 collection first",
                first.name, first.port
            );
            return Err(fault(first_line, reason));
        }
        let (indent, _) = line.split_at(line.len() - line.trim_start().len());
        rendered.push(format!("{indent}# plan: {}", region.marker(first)));
        rendered.extend(region.render(plan));
        rendered.push(end.to_owned());
        regions += 1;
    }
    if regions == 0 {
        return Err(fault(1, "there is no `# plan:` comment, so no region can be rendered; add one".to_owned()));
    }
    Ok(rendered.join("\n"))
}

/// The lines between two comments.
struct Region<'a> {
    kind: Kind,
    /// The comment's words before the collection.
    words: &'static str,
    /// The collection of the template.
    owner: PlanLine,
    template: String,
    body: &'a [&'a str],
}

impl<'a> Region<'a> {
    fn read(marker: &str, body: &'a [&'a str]) -> Result<Self, String> {
        let known = KINDS.iter().find_map(|(words, kind)| Some((kind, *words, marker.strip_prefix(words)?)));
        let Some((kind, words, owner)) = known else {
            let kinds = KINDS.map(|(words, _)| format!("`# plan: {words}NAME PORT`"));
            return Err(format!("{marker:?} begins no region; write one of: {}", kinds.join(", ")));
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
        let nobody = PlanLine { name: String::new(), port: 0, collection: String::new() };
        if replace_words(&template, &owner, &nobody) == template {
            return Err(format!("the first line or block after this does not name {}", owner.name));
        }
        Ok(Self { kind: *kind, words, owner, template, body })
    }

    /// Returns the comment that begins the region if `first` is the first collection.
    fn marker(&self, first: &PlanLine) -> String {
        let Self { words, template, .. } = self;
        match self.kind {
            Kind::Missing => format!("{words}{first}: {}", replace_words(template, &self.owner, first)),
            Kind::Lines | Kind::Blocks => format!("{words}{first}"),
        }
    }

    /// Returns whether the template can be rewritten for `first` without mixing up its names with other words.
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
                let wants_spelling = |line: &PlanLine| line.collection.contains(|c: char| c.is_ascii_uppercase());
                let made = plan.iter().zip(made).map(|(line, made)| match wants_spelling(line) {
                    true => format!("={made}"),
                    false => made,
                });
                let is_service = |word: &str| plan.iter().any(|line| line.name == word);
                let is_collection = |path: &str| plan.iter().any(|line| segment(path) == line.collection);
                let is_moved_back = |line: &str| {
                    line.split_whitespace().nth(1) == Some("monolith") && behind_folders(line).any(is_collection)
                };
                let is_ours = |line: &str| line.split(ends_word).any(is_service) || is_moved_back(line);
                let stays = |line: &&str| line.trim_start().starts_with('#') || is_ours(line);
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

/// Returns the name as words in deploy/ecs.yaml begin with it: OpenIssues for `open-issues`.
fn capitalize(name: &str) -> String {
    let part = |part: &str| part[..part.len().min(1)].to_uppercase() + part.get(1..).unwrap_or_default();
    name.split(['-', '_']).map(part).collect()
}

/// Returns the name of an environment variable: OPEN_ISSUES for `open-issues`.
fn upper_case(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// The prefixes of a collection's name, not its service's.
const FOLDERS: [&str; 4] = ["/api/", "/data/", "/tokens/", KEYS];

/// The folder of files that `seed streams keys` has named after collections, and their endings.
const KEYS: &str = "/keys/";
const KEY_ENDINGS: [&str; 2] = [".admin.nk", ".nk"];

/// Returns the text after each of these prefixes in `text`.
fn behind_folders(text: &str) -> impl Iterator<Item = &str> {
    FOLDERS.into_iter().flat_map(move |folder| text.split(folder).skip(1))
}

/// Returns the path's first segment.
fn segment(path: &str) -> &str {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-._~".contains(character);
    &path[..path.find(|character| !is_part(character)).unwrap_or(path.len())]
}

/// Returns the plan with each collection's name as in routes.map: in lower case, as the entrance looks up paths. A name
/// whose lower case belongs to another collection keeps its spelling, for a rule that matches only that.
fn routed(plan: &[PlanLine]) -> Vec<PlanLine> {
    let spell = |line: &PlanLine| {
        let lower = line.collection.to_ascii_lowercase();
        let mut same = plan.iter().filter(|other| other.collection.eq_ignore_ascii_case(&lower));
        let owner = same.clone().find(|other| other.collection == lower).or_else(|| same.next());
        if owner == Some(line) { lower } else { line.collection.clone() }
    };
    plan.iter().map(|line| PlanLine { collection: spell(line), ..line.clone() }).collect()
}

/// Replaces the names of one collection and its service by another's: the collection's after [`FOLDERS`], the service's
/// elsewhere.
fn replace_words(text: &str, from: &PlanLine, to: &PlanLine) -> String {
    let found = FOLDERS.into_iter().filter_map(|folder| Some(text.find(folder)? + folder.len())).min();
    let Some(at) = found else { return replace_service(text, from, to) };
    let (before, path) = text.split_at(at);
    let mut name = segment(path);
    if before.ends_with(KEYS) {
        name = KEY_ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    }
    let (name, rest) = path.split_at(name.len());
    let name = if name == from.collection { &to.collection } else { name };
    replace_service(before, from, to) + name + &replace_words(rest, from, to)
}

/// Replaces the names of one service by another's: whole words, and `Users` in `UsersTask`.
fn replace_service(text: &str, from: &PlanLine, to: &PlanLine) -> String {
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
    fn each_collection_gets_the_first_line_with_its_own_names() {
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
        // Another collection comes first, and back.
        let swapped = rendered(expected, "open-issues 3102\nusers 3001");
        assert!(
            swapped.contains("# plan: a line for each, as open-issues 3102\n  open-issues: /api/open-"),
            "{swapped}"
        );
        assert_eq!(rendered(&swapped, "users 3001\nopen-issues 3002"), expected);
    }

    #[test]
    fn paths_have_the_collections_name_and_all_else_the_services() {
        let text = "\
# plan: a line for each, as users 3001
users:/data/users /tokens/users /keys/users.nk ./keys/users.admin.nk, [/api/users, /api/users/*] ${Bucket}/users/* $USERS UsersTask /api/users-x 3001
# plan: end";
        let list = "users 3001\nblog-posts 3002 blogPosts\nmonolith-service 3003 monolith\na 3004 a.b~c";
        let all = rendered(text, list);
        for expected in [
            "blog-posts:/data/blogPosts /tokens/blogPosts /keys/blogPosts.nk \
             ./keys/blogPosts.admin.nk, [/api/blogPosts, /api/blogPosts/*] ${Bucket}/blog-posts/* \
             $BLOG_POSTS BlogPostsTask /api/users-x 3002",
            "monolith-service:/data/monolith /tokens/monolith /keys/monolith.nk \
             ./keys/monolith.admin.nk, [/api/monolith, /api/monolith/*] \
             ${Bucket}/monolith-service/* $MONOLITH_SERVICE MonolithServiceTask /api/users-x 3003",
            "a:/data/a.b~c /tokens/a.b~c /keys/a.b~c.nk ./keys/a.b~c.admin.nk, [/api/a.b~c, /api/a.b~c/*] ${Bucket}/a/* $A ATask /api/users-x 3004",
        ] {
            assert!(all.lines().any(|line| line == expected), "{expected} is not in {all}");
        }
        // Another collection comes first, and back.
        let swapped = rendered(&all, "blog-posts 3002 blogPosts");
        assert!(
            swapped.starts_with("# plan: a line for each, as blog-posts 3002 blogPosts\nblog-posts:/data/blogPosts")
        );
        assert_eq!(rendered(&swapped, "users 3001"), text);
    }

    #[test]
    fn listener_rules_are_in_lower_case_unless_case_alone_tells_collections_apart() {
        let rules = |list: &str| {
            let map = rendered(MAP, list);
            map.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(rules("blog-posts 3001 blogPosts"), ["/api/blogposts/ blog-posts"]);
        assert_eq!(
            rules("a 3001 Tags\nb 3002 tags\nc 3003 TAGS"),
            ["=/api/Tags/ a", "/api/tags/ b", "=/api/TAGS/ c"],
            "the collection whose name is in lower case keeps it",
        );
        assert_eq!(rules("c 3003 TAGS\na 3001 Tags"), ["/api/tags/ c", "=/api/Tags/ a"]);
        // A rule that was moved back to the monolith stays; a rule for a service with a new name is rendered again.
        let moved = MAP.replace("/api/gone/ gone", "/api/blogposts/ monolith\n/api/tags/ tags");
        let moved = rendered(&moved, "users 3001\nblog-posts 3002 blogPosts\nlabels 3003 tags");
        assert!(moved.contains("\n/api/blogposts/ monolith\n/api/tags/ labels\n# plan: end"), "{moved}");
    }

    #[test]
    fn a_block_ends_with_a_blank_line() {
        let text = "# plan: a block for each, as users 3001\n# users\nusers:\n  x\n\nstale\n# plan: end\n";
        let expected = "# plan: a block for each, as users 3001\n# users\nusers:\n  x\n\n# a\na:\n  x\n# plan: end\n";
        assert_eq!(rendered(text, "users 3001\na 3002"), expected);
    }

    #[test]
    fn a_handwritten_listener_rule_stays_as_long_as_its_collection() {
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
            ("a\n# plan: end\n", "file: line 2: this ends no region"),
            (
                "# plan: lines, as users 3001\nusers\n# plan: end",
                "file: line 1: \"lines, as users 3001\" begins no region",
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
    fn a_first_name_with_another_meaning_in_the_template_is_refused_except_for_copies() {
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
