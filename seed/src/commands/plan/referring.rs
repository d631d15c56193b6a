//! Which fields refer to which collections: by their names first, then by their values.

use record::declaration::Shape;

use super::naming::{singulars, words};
use super::profile::{Profile, Values};

/// How many values a field has at least that says by its name alone that it refers to something, with no `id` in it.
const ENOUGH: u64 = 5;

/// What names somebody, and whom collections are about.
const SOMEBODY: [&str; 12] = [
    "user",
    "author",
    "owner",
    "by",
    "createdby",
    "updatedby",
    "creator",
    "sender",
    "recipient",
    "assignee",
    "member",
    "account",
];
const PEOPLE: [&str; 26] = [
    "user",
    "account",
    "person",
    "author",
    "member",
    "profile",
    "customer",
    "client",
    "admin",
    "employee",
    "worker",
    "staff",
    "student",
    "teacher",
    "patient",
    "doctor",
    "driver",
    "agent",
    "seller",
    "buyer",
    "owner",
    "supervisor",
    "candidate",
    "professional",
    "login",
    "credential",
];

/// What says that a record refers to one of its own collection.
const KIN: [&str; 6] = ["parent", "reply", "replied", "root", "previous", "next"];

/// What a field is taken for.
pub(super) enum Referred<'a> {
    /// A reference, and why.
    To(Shape, &'a str, String),
    /// The same, and something speaks against it.
    Unsure(Shape, &'a str, String),
    /// It may be one, but is not declared so.
    Maybe(String),
}

/// Whether a collection is about people.
pub(super) fn is_of_people(name: &str) -> bool {
    let last = words(name).pop().unwrap_or_default();
    singulars(&last).iter().any(|one| PEOPLE.contains(&&**one))
}

/// A field's name, taken apart.
struct FieldName {
    /// Without what says that it is an id.
    words: Vec<String>,
    /// Whether it says so: `userId`, `user_id`, `idUser`.
    has_id: bool,
    /// Whether it may say so: `userid`.
    ends_in_id: bool,
}

impl FieldName {
    fn read(field: &str) -> Self {
        let mut words = words(field);
        let has_id = words.len() > 1 && (words.last().is_some_and(|word| word == "id") || words[0] == "id");
        if has_id {
            let at = if words[0] == "id" { 0 } else { words.len() - 1 };
            words.remove(at);
        }
        let ends_in_id = !has_id && words.len() == 1 && words[0].len() > 2 && words[0].ends_with("id");
        Self { words, has_id, ends_in_id }
    }

    /// How well it names `collection`: 0 is best.
    fn rank(&self, collection: &str) -> Option<usize> {
        let whole = words(collection).concat();
        let mut names = singulars(&whole);
        // `alerts` is how many, or a list of them; `alert` may be one.
        if !self.has_id && !self.ends_in_id && names.len() > 1 {
            names.pop();
        }
        let is_named = |word: &str| names.iter().any(|name| name == word);
        let stem = self.words.concat();
        if is_named(&stem) || self.ends_in_id && stem.strip_suffix("id").is_some_and(is_named) {
            return Some(0);
        }
        let is_somebody = |word: &str| SOMEBODY.contains(&word);
        let bare = if self.ends_in_id { stem.strip_suffix("id").unwrap_or(&stem) } else { &stem };
        let users = ["user", "account", "person", "author", "member", "profile", "customer"];
        let user = names.iter().find_map(|name| users.iter().position(|user| user == name));
        match user {
            Some(nth) if is_somebody(bare) => return Some(1 + nth),
            _ if !self.has_id => return None,
            _ => {}
        }
        // The longer the part that is named, the better.
        let tail = (1..self.words.len()).find(|from| is_named(&self.words[*from..].concat()));
        let by_tail = tail.map(|from| 10 + from);
        let somebody = user.filter(|_| self.words.last().is_some_and(|word| is_somebody(word)));
        by_tail.or(somebody.map(|nth| 30 + nth))
    }

    /// Whether it says that it refers to its own collection's records.
    fn is_kin(&self) -> bool {
        self.words.iter().any(|word| KIN.contains(&&**word))
    }
}

/// What `field` of the collection `own` refers to.
pub(super) fn find_referred<'a>(
    own: &str,
    field: &str,
    values: &Values,
    all: &'a [(String, Profile)],
) -> Option<Referred<'a>> {
    let name = FieldName::read(field);
    let (count, of) = (values.count(), values.distinct.len());
    if values.id_texts == 0 || !name.has_id && values.id_texts < count {
        return None;
    }
    let mut candidates: Vec<(usize, usize, &str, &Profile)> = Vec::new();
    for (to, profile) in all.iter().filter(|(_, profile)| !profile.is_single) {
        let kin = to == own && name.has_id && name.words.len() == 1 && name.is_kin();
        let rank = if kin { Some(0) } else { name.rank(to) };
        if let Some(rank) = rank.filter(|_| to != own || name.is_kin()) {
            candidates.push((rank, profile.known(values), to, profile));
        }
    }
    // Of those that know some of its values, the best by name, then by data.
    candidates.sort_by_key(|(rank, known, ..)| (*known == 0, *rank, usize::MAX - known));
    let Some(&(rank, known, to, profile)) = candidates.first() else {
        return find_by_values(own, &name, field, values, all).map(Referred::Maybe);
    };
    let is_near = known * 10 >= of * 9;
    // A number is a count as often as a reference: all of them have to be ids, and not by chance.
    let is_text = values.texts > values.digits;
    let is_surely = known == of && (count >= ENOUGH || is_text);
    if !name.has_id && !name.ends_in_id && !is_surely {
        return None;
    }
    let found = format!("{known} of its {of} values are ids there");
    if known == 0 || rank >= 10 && !is_near {
        return Some(Referred::Maybe(format!("{field} may refer to {to} by its name, but {found}")));
    }
    let text = profile.has_text_ids() || values.digits > 0;
    let fits = if profile.has_text_ids() { values.id_texts } else { values.integers + values.digits };
    if fits < count {
        let others = count - fits;
        let what = if profile.has_text_ids() { "neither texts nor integers" } else { "no integers from 1" };
        return Some(Referred::Maybe(format!(
            "{field} may refer to {to}: {found}; but {others} of its {count} values are {what}, so it is not declared so"
        )));
    }
    let shape = Shape::Reference { to: to.into(), text };
    let reason = format!("{field} refers to {to}: by its name, and {found}");
    Some(if is_near { Referred::To(shape, to, reason) } else { Referred::Unsure(shape, to, reason) })
}

/// The same by the values alone, where the name says no more than that it is an id.
fn find_by_values(
    own: &str,
    name: &FieldName,
    field: &str,
    values: &Values,
    all: &[(String, Profile)],
) -> Option<String> {
    let of = values.distinct.len();
    if !name.has_id || of < 2 || values.id_texts < values.count() {
        return None;
    }
    let fits = |(to, profile): &&(String, Profile)| to != own && !profile.is_single && profile.known(values) == of;
    let fitting: Vec<&str> = all.iter().filter(fits).map(|(to, _)| &**to).collect();
    let (first, more) = fitting.split_first()?;
    let or = if more.is_empty() { String::new() } else { format!(" or {} others", more.len()) };
    Some(format!("{field} may refer to {first}{or}: all of its {of} values are ids there, its name says nothing"))
}
