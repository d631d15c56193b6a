//! Finds the fields that refer to collections: by their names first, then by their values.

use record::declaration::Shape;
use record::words::agree;

use super::naming::{singulars, words};
use super::profile::{Profile, Values};

/// The fewest values of a field that counts as a reference without an `id` in its name.
const ENOUGH: u64 = 5;

/// Words that name a person in a field, and words that name people in a collection.
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

/// Words that say that a record refers to another of its own collection.
const KIN: [&str; 6] = ["parent", "reply", "replied", "root", "previous", "next"];

/// The judgement on a field.
pub(super) enum Referred<'a> {
    /// A reference, with the reason.
    To(Shape, &'a str, String),
    /// A doubtful reference, with the reason.
    Unsure(Shape, &'a str, String),
    /// A possible reference that is not declared as one, with the reason.
    Maybe(String),
}

/// Returns whether a collection's name is about people.
pub(super) fn is_of_people(name: &str) -> bool {
    let last = words(name).pop().unwrap_or_default();
    singulars(&last).iter().any(|one| PEOPLE.contains(&&**one))
}

/// A field's name, split into words.
struct FieldName {
    /// The words except `id`.
    words: Vec<String>,
    /// Whether `id` is a word of the name: `userId`, `user_id`, `idUser`.
    has_id: bool,
    /// Whether the only word ends in `id`: `userid`.
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

    /// Ranks how well the field names `collection`: 0 is best, `None` not at all.
    fn rank(&self, collection: &str) -> Option<usize> {
        let whole = words(collection).concat();
        let mut names = singulars(&whole);
        // `alerts` is a count or a list; `alert` may be a reference.
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
        // The longer the matching part, the better.
        let tail = (1..self.words.len()).find(|from| is_named(&self.words[*from..].concat()));
        let by_tail = tail.map(|from| 10 + from);
        let somebody = user.filter(|_| self.words.last().is_some_and(|word| is_somebody(word)));
        by_tail.or(somebody.map(|nth| 30 + nth))
    }

    /// Returns whether the name says that it refers to records of its own collection.
    fn is_kin(&self) -> bool {
        self.words.iter().any(|word| KIN.contains(&&**word))
    }
}

/// Judges what `field` of the collection `own` refers to.
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
    // Collections with some of the values as ids come first; then the best name decides, then the values.
    candidates.sort_by_key(|(rank, known, ..)| (*known == 0, *rank, usize::MAX - known));
    let Some(&(rank, known, to, profile)) = candidates.first() else {
        return find_by_values(own, &name, field, values, all).map(Referred::Maybe);
    };
    let is_near = known * 10 >= of * 9;
    // A number is a count as often as a reference: all must be ids, and too many for chance.
    let is_text = values.texts > values.digits;
    let is_surely = known == of && (count >= ENOUGH || is_text);
    if !name.has_id && !name.ends_in_id && !is_surely {
        return None;
    }
    let are_ids = agree(known as u64, "is an id", "are ids");
    let found = format!("{known} of its {of} {} {are_ids} there", agree(of as u64, "value", "values"));
    if known == 0 || rank >= 10 && !is_near {
        return Some(Referred::Maybe(format!("{field} may refer to {to} by its name, but {found}")));
    }
    let text = profile.has_text_ids() || values.digits > 0;
    let fits = if profile.has_text_ids() { values.id_texts } else { values.integers + values.digits };
    if fits < count {
        let others = count - fits;
        let are = match profile.has_text_ids() {
            true => agree(others, "is neither a text nor an integer", "are neither texts nor integers"),
            false => agree(others, "is not an integer from 1", "are not integers from 1"),
        };
        let values_of_it = agree(count, "value", "values");
        return Some(Referred::Maybe(format!(
            "{field} may refer to {to}: {found}. But {others} of its {count} {values_of_it} {are}, so it is not declared"
        )));
    }
    let shape = Shape::Reference { to: to.into(), text };
    let reason = format!("{field} refers to {to}: by its name, and {found}");
    Some(if is_near { Referred::To(shape, to, reason) } else { Referred::Unsure(shape, to, reason) })
}

/// Judges by the values alone, if the name only says that the field is an id.
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
    let or = if more.is_empty() {
        String::new()
    } else {
        format!(" or {} {}", more.len(), agree(more.len() as u64, "other", "others"))
    };
    Some(format!(
        "{field} may refer to {first}{or}: all of its {of} values are ids there, but its name does not say so"
    ))
}
