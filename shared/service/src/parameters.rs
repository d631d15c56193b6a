//! The parameters of a request. None is ignored in silence: one that a path does not know is a 400 that names it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Bound;

use form_urlencoded::{Serializer, parse};
use percent_encoding::percent_decode_str;
use record::declaration::{IndexDeclaration, TermKind};
use record::edit::RecordName;
use record::id::Id;
use record::model::{Collection, Index, Term};
use record::number::Number;
use record::search::Query;
use store::{Order, Place};

use crate::problem::Problem;

/// The most records of a page.
pub(crate) const PAGE_RECORDS: usize = 1000;

/// The most records that are asked for by their ids.
pub(crate) const BATCH: usize = 100;

/// The records that a numbered page may lie behind. Each has to be counted again for each page.
pub(crate) const SKIPPED: usize = 10_000;

/// The records of a numbered page if the request does not say how many, as in json-server.
const NUMBERED_RECORDS: usize = 10;

/// The longest part of a parameter that a message repeats, in characters.
const SHOWN: usize = 64;

/// The parameters of every list, under our names and json-server's.
const OF_LISTS: [&str; 11] =
    ["limit", "after", "count", "sort", "fields", "q", "_limit", "_page", "_per_page", "_sort", "_order"];

/// The bounds of a range of ids, as in json-server, where ids are integers.
pub(crate) const BOUNDS: [&str; 4] = ["id_gte", "id_gt", "id_lte", "id_lt"];

/// The endings of the parameters that bound a field with an order: from it on, above, up to, and below.
pub(crate) const ENDINGS: [&str; 4] = ["_gte", "_gt", "_lte", "_lt"];

/// The longest bound, in characters. The index has the beginnings of longer values alone.
pub(crate) const BOUND_CHARACTERS: usize = 250;

/// The beginning of each `after`. Another version of this program may have others.
const CURSOR: &str = "c1-";

/// The beginning of each `after` of a list in the order of a field.
const SORTED: &str = "s1-";

/// The beginning of each `after` of a ranked list.
const RANK: &str = "r2-";

/// The names and values of a query, in its order.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query.
    pub(crate) fn read(query: &str) -> Result<Self, Problem> {
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(wrong("The query is not percent-encoded UTF-8."));
        }
        Ok(Self(parse(query.as_bytes()).into_owned().collect()))
    }

    /// Takes the value of `name`.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.take_all(name);
        if values.len() > 1 {
            return Err(wrong(format!("`{name}` stands twice in the query.")));
        }
        Ok(values.pop())
    }

    fn take_all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value).collect()
    }

    /// Takes the value of the first of `names` that is there. They mean the same.
    fn take_any(&mut self, names: &[&str]) -> Result<Option<String>, Problem> {
        let mut found: Option<(&str, String)> = None;
        for name in names {
            if let Some(value) = self.take(name)? {
                if let Some((other, _)) = found {
                    return Err(wrong(format!("`{other}` and `{name}` mean the same; send one of them.")));
                }
                found = Some((name, value));
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    /// Fails if parameters are left. `known` lists those that the path takes.
    pub(crate) fn finish(self, known: &[&str]) -> Result<(), Problem> {
        let Some((name, _)) = self.0.first() else { return Ok(()) };
        let name = shorten(name);
        Err(wrong(if known.is_empty() {
            format!("There is no parameter `{name}` here; this request takes none.")
        } else {
            format!("There is no parameter `{name}` here; there are {}.", known.join(", "))
        }))
    }
}

/// Values of a field between two bounds, by the index in whose order they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) index: Index,
    pub(crate) field: &'static str,
    pub(crate) bounds: (Bound<Term>, Bound<Term>),
}

/// A place among the records that fit some words best. It has all that their order follows from, so that what others write
/// meanwhile moves no record to another page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rank {
    /// The highest id among the records of the first page's list.
    pub(crate) newest: Id,
    /// The mean length of their texts.
    pub(crate) mean: f64,
    /// The score of the record at this place, and its id.
    pub(crate) score: f64,
    pub(crate) id: Id,
}

impl Rank {
    /// Tells whether the record with this score and id comes behind this place.
    pub(crate) fn is_before(&self, score: f64, id: Id) -> bool {
        score.total_cmp(&self.score).then(id.cmp(&self.id)).is_lt()
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { newest, mean, score, id } = self;
        write!(f, "{RANK}{:x}-{:016x}-{:016x}-{:x}", newest.get(), mean.to_bits(), score.to_bits(), id.get())
    }
}

/// The wanted part of a list.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    /// The query's own pairs but for the place, for links to other pages.
    rest: Vec<(String, String)>,
    pub(crate) order: Order,
    /// The index in whose order the list is; `None` if it is in the order of ids.
    pub(crate) by: Option<Index>,
    pub(crate) after: Option<Id>,
    /// What the list is behind, if it is in the order of an index.
    pub(crate) behind: Option<Place>,
    pub(crate) limit: Option<usize>,
    /// The lowest and the highest id, if the list has bounds.
    pub(crate) range: (Option<u64>, Option<u64>),
    /// The number of the page, from 1.
    pub(crate) page: Option<usize>,
    /// Whether the answer says how many records there are in all.
    pub(crate) count: bool,
    /// What the records have.
    pub(crate) filters: Vec<(Index, Term)>,
    /// The bounds of what they have.
    pub(crate) spans: Vec<Span>,
    /// The words to search for.
    pub(crate) query: Option<Query>,
    /// Whether the records that fit the words best come first; else the list is in the order of ids or of an index.
    pub(crate) is_ranked: bool,
    /// What such a list is behind.
    pub(crate) behind_rank: Option<Rank>,
    /// The records by name, in this order.
    pub(crate) batch: Option<Vec<RecordName>>,
    /// Whether the answer is lines of JSON.
    pub(crate) lines: bool,
    /// The fields to answer with.
    pub(crate) fields: Option<Vec<String>>,
}

impl Wanted {
    /// Reads what is wanted of a list of `collection`. `of_all` tells that it is the list of all records.
    pub(crate) fn read(collection: Collection, of_all: bool, mut given: Parameters) -> Result<Self, Problem> {
        let place = ["after", "_page"];
        let rest = given.0.iter().filter(|(name, _)| !place.contains(&&**name)).cloned().collect();
        let mut wanted = Self { rest, ..Self::default() };
        wanted.fields = read_fields(collection, &mut given)?;
        if of_all {
            wanted.batch = read_batch(collection, &mut given)?;
        }
        // Most requests have no parameters, so the names are made only for those that have.
        let finish = |given: Parameters| {
            if given.0.is_empty() {
                return Ok(());
            }
            let known = names(collection, of_all);
            given.finish(&known.iter().map(|name| &**name).collect::<Vec<&str>>())
        };
        if wanted.batch.is_some() {
            let known = names(collection, of_all);
            return match given.0.iter().find(|(name, _)| known.iter().any(|known| known == name)) {
                Some((name, _)) => Err(wrong(format!("`{name}` does not go with ids; only `fields` does."))),
                None => finish(given).map(|()| wanted),
            };
        }
        let limit = given.take_any(&["limit", "_limit", "_per_page"])?;
        wanted.limit = limit.map(|limit| read_number("limit", &limit, PAGE_RECORDS)).transpose()?;
        wanted.query = given.take("q")?.map(|text| read_query(collection, &text)).transpose()?;
        let is_ranked = wanted.query.is_some() && !given.0.iter().any(|(name, _)| matches!(&**name, "sort" | "_sort"));
        let (order, by) = read_order(collection, of_all, &mut given)?;
        (wanted.order, wanted.by) = (order, by.map(|index| index.number));
        match given.take("after")? {
            after if by.is_some() => wanted.behind = after.map(|after| read_place(&after)).transpose()?,
            after if is_ranked => wanted.behind_rank = after.map(|after| read_rank(&after)).transpose()?,
            after => wanted.after = after.map(|after| read_cursor(&after)).transpose()?,
        }
        wanted.is_ranked = is_ranked;
        if is_ranked {
            wanted.order = Order::Descending;
        }
        if !collection.has_text_ids() {
            wanted.range = read_range(&mut given)?;
        }
        wanted.count = match given.take("count")?.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(wrong(format!("`count` is true or false, not `{}`.", shorten(other)))),
        };
        if let Some(page) = given.take("_page")? {
            let page = read_number("_page", &page, usize::MAX)?;
            if wanted.limit.is_none() {
                wanted.limit = Some(NUMBERED_RECORDS);
                wanted.rest.push(("_limit".to_owned(), NUMBERED_RECORDS.to_string()));
            }
            if wanted.after.is_some() || wanted.behind.is_some() || wanted.behind_rank.is_some() {
                return Err(wrong("`_page` and `after` are two places; send one of them."));
            }
            if !wanted.reaches(page) {
                let way = "follow the `next` link of `limit` and `after`";
                return Err(wrong(format!("Numbered pages end behind {SKIPPED} records; to go further, {way}.")));
            }
            (wanted.page, wanted.count) = (Some(page), true);
        }
        for index in collection.indexes().iter().filter(|index| !OF_LISTS.contains(&&*index.field)) {
            if let Some(value) = given.take(&index.field)? {
                wanted.filters.push((index.number, index.term(read_term(collection, index, &value)?)));
            }
        }
        for index in sortable(collection) {
            if given.0.is_empty() {
                break;
            }
            wanted.spans.extend(read_span(collection, index, &mut given)?);
        }
        if let Some((name, _)) = given.0.first()
            && collection.declaration().field(name).is_some()
        {
            let name = shorten(name);
            return Err(wrong(format!("No index lists records by `{name}`; one over it in the declaration would.")));
        }
        finish(given)?;
        let is_part = !wanted.filters.is_empty() || wanted.query.is_some() || wanted.range != (None, None);
        if let Some(index) = by
            && (is_part || wanted.spans.iter().any(|span| span.index != index.number))
        {
            return Err(wrong(format!(
                "A list in the order of `{}` is one of all records or within bounds of it; filters, other bounds and `q` go with \
                 `sort=id` or `sort=-id`.",
                index.field
            )));
        }
        Ok(wanted)
    }

    /// Returns whether nothing but the whole list is wanted.
    pub(crate) fn is_everything(&self) -> bool {
        *self == Self { rest: self.rest.clone(), lines: self.lines, ..Self::default() }
    }

    /// Returns the number of records before a numbered page.
    pub(crate) fn skipped(&self) -> usize {
        self.page.map_or(0, |page| self.before(page))
    }

    fn before(&self, page: usize) -> usize {
        (page - 1).saturating_mul(self.limit.unwrap_or_default())
    }

    /// Returns whether a page can be read by its number.
    pub(crate) fn reaches(&self, page: usize) -> bool {
        self.before(page) <= SKIPPED
    }

    /// Returns the query of the page behind record `after`.
    pub(crate) fn behind(&self, after: Id) -> String {
        self.at("after", &format!("{CURSOR}{:x}", after.get()))
    }

    /// Returns the query of the page behind `place`.
    pub(crate) fn behind_place(&self, place: &Place) -> String {
        self.at("after", &format!("{SORTED}{}-{:x}", hex::encode(&place.term), place.id.get()))
    }

    /// Returns the query of the page behind `rank`.
    pub(crate) fn behind_rank(&self, rank: &Rank) -> String {
        self.at("after", &rank.to_string())
    }

    /// Returns the query of page `number`.
    pub(crate) fn numbered(&self, number: usize) -> String {
        self.at("_page", &number.to_string())
    }

    /// Returns the query of the first page.
    pub(crate) fn first(&self) -> String {
        if self.page.is_some() {
            self.numbered(1)
        } else {
            Serializer::new(String::new()).extend_pairs(&self.rest).finish()
        }
    }

    fn at(&self, place: &str, value: &str) -> String {
        Serializer::new(String::new()).extend_pairs(&self.rest).append_pair(place, value).finish()
    }
}

/// Lists the parameters of a list.
pub(crate) fn names(collection: Collection, of_all: bool) -> Vec<Cow<'static, str>> {
    let (ours, of_json_server) = OF_LISTS.split_at(6);
    let ours = ours.iter().filter(|name| **name != "q" || collection.is_searchable());
    let batch: &[&str] = if of_all { &["id", "ids"] } else { &[] };
    let bounds: &[&str] = if collection.has_text_ids() { &[] } else { &BOUNDS };
    let fields = collection.indexes().iter().map(|index| &*index.field).filter(|field| !OF_LISTS.contains(field));
    let all = ours.chain(batch).chain(bounds).copied().chain(fields).chain(of_json_server.iter().copied());
    let bounds = sortable(collection).flat_map(move |index| bounds_of(collection, index).into_iter().flatten());
    all.map(Cow::Borrowed).chain(bounds.map(Cow::Owned)).collect()
}

/// Returns the parameters that bound the field of `index`: from it on, above, up to, and below. Those that are fields' names are
/// filters by these instead.
pub(crate) fn bounds_of(collection: Collection, index: &IndexDeclaration) -> [Option<String>; 4] {
    let is_free = |name: &String| collection.declaration().field(name).is_none() && !BOUNDS.contains(&&**name);
    ENDINGS.map(|ending| Some(format!("{}{ending}", index.field)).filter(is_free))
}

/// Reads `fields`, of a list or a record.
pub(crate) fn read_fields(collection: Collection, given: &mut Parameters) -> Result<Option<Vec<String>>, Problem> {
    let Some(fields) = given.take("fields")? else { return Ok(None) };
    let fields: Vec<String> = fields.split(',').map(str::to_owned).collect();
    for (nth, field) in fields.iter().enumerate() {
        if fields[..nth].contains(field) {
            return Err(wrong(format!("`{}` stands twice in `fields`.", shorten(field))));
        }
        if field != "id" && collection.declaration().field(field).is_none() {
            let declared: Vec<&str> = collection.declaration().fields.iter().map(|field| &*field.name).collect();
            let field = shorten(field);
            return Err(wrong(format!("There is no field `{field}`; there are id, {}.", declared.join(", "))));
        }
    }
    Ok(Some(fields))
}

/// Reads the names of single records: `ids=1,2`, or `id=1&id=2`.
fn read_batch(collection: Collection, given: &mut Parameters) -> Result<Option<Vec<RecordName>>, Problem> {
    let mut ids = given.take_all("id");
    let list = given.take("ids")?;
    let is_list = list.is_some();
    if let Some(list) = list {
        ids.extend(list.split(',').map(str::to_owned));
    }
    if ids.len() > BATCH {
        return Err(wrong(format!("At most {BATCH} records are read by their ids at once, not {}.", ids.len())));
    }
    let name = |id: String| match id.parse() {
        _ if collection.has_text_ids() => Ok(RecordName::Text(id.into())),
        Ok(id) => Ok(RecordName::Number(id)),
        Err(_) => Err(not_an_id(if is_list { "ids" } else { "id" }, &id)),
    };
    let names = ids.into_iter().map(name).collect::<Result<Vec<_>, _>>()?;
    Ok((!names.is_empty()).then_some(names))
}

/// Reads the bounds of a range of ids.
fn read_range(given: &mut Parameters) -> Result<(Option<u64>, Option<u64>), Problem> {
    let mut bound = |name: &str| -> Result<Option<u64>, Problem> {
        let Some(value) = given.take(name)? else { return Ok(None) };
        value.parse().map(|id: Id| Some(id.get())).map_err(|_| not_an_id(name, &value))
    };
    let [least, above, most, below] = [bound(BOUNDS[0])?, bound(BOUNDS[1])?, bound(BOUNDS[2])?, bound(BOUNDS[3])?];
    let (above, below) = (above.map(|id| id + 1), below.map(|id| id - 1));
    let highest = match (most, below) {
        (Some(most), Some(below)) => Some(most.min(below)),
        (most, below) => most.or(below),
    };
    Ok((least.max(above), highest))
}

/// Reads the bounds of the field of `index`, if there are any.
fn read_span(
    collection: Collection,
    index: &'static IndexDeclaration,
    given: &mut Parameters,
) -> Result<Option<Span>, Problem> {
    let mut bound = |name: Option<String>| -> Result<Option<Term>, Problem> {
        let Some(name) = name else { return Ok(None) };
        let Some(value) = given.take(&name)? else { return Ok(None) };
        if value.chars().count() > BOUND_CHARACTERS {
            return Err(wrong(format!("`{name}` has at most {BOUND_CHARACTERS} characters.")));
        }
        read_term(collection, index, &value).map(|term| Some(index.term(term)))
    };
    let [least, above, most, below] = bounds_of(collection, index);
    let least = match (bound(least)?, bound(above)?) {
        (Some(least), above) if above.as_ref().is_none_or(|above| *above < least) => Bound::Included(least),
        (_, above) => above.map_or(Bound::Unbounded, Bound::Excluded),
    };
    let most = match (bound(most)?, bound(below)?) {
        (Some(most), below) if below.as_ref().is_none_or(|below| *below > most) => Bound::Included(most),
        (_, below) => below.map_or(Bound::Unbounded, Bound::Excluded),
    };
    let span = Span { index: index.number, field: &index.field, bounds: (least, most) };
    Ok(Some(span).filter(|span| span.bounds != (Bound::Unbounded, Bound::Unbounded)))
}

fn read_term(collection: Collection, index: &IndexDeclaration, value: &str) -> Result<Term, Problem> {
    match collection.terms_of(index) {
        TermKind::Id => value.parse().map(Term::Id).map_err(|_| not_an_id(&index.field, value)),
        TermKind::TextId | TermKind::Text => Ok(Term::Text(value.into())),
        TermKind::Number => read_number_of(&index.field, value),
    }
}

/// Reads a number to search for.
pub(crate) fn read_number_of(field: &str, value: &str) -> Result<Term, Problem> {
    let number = Number::read(value).map(Term::Number);
    number.ok_or_else(|| wrong(format!("`{field}` is a number as in JSON, not `{}`.", shorten(value))))
}

/// Lists the indexes in whose order the list of all records can be.
pub(crate) fn sortable(collection: Collection) -> impl Iterator<Item = &'static IndexDeclaration> {
    collection.indexes().iter().filter(|index| index.order)
}

/// Reads `sort=id`, `sort=-id`, or json-server's `_sort` and `_order`; of all records also `sort=FIELD` and `sort=-FIELD`.
fn read_order(
    collection: Collection,
    of_all: bool,
    given: &mut Parameters,
) -> Result<(Order, Option<&'static IndexDeclaration>), Problem> {
    let sort = given.take_any(&["sort", "_sort"])?;
    let order = given.take("_order")?;
    let (field, sorted) = match sort.as_deref() {
        None => ("id", Order::Ascending),
        Some(sort) => match sort.strip_prefix('-') {
            Some(field) => (field, Order::Descending),
            None => (sort, Order::Ascending),
        },
    };
    if sorted == Order::Descending && order.is_some() {
        return Err(wrong(format!("`-{}` has an order already; send it without `_order`.", shorten(field))));
    }
    let by = match field {
        "id" => None,
        _ => sortable(collection).find(|index| of_all && &*index.field == field),
    };
    if field != "id" && by.is_none() {
        let fields = sortable(collection).filter(|_| of_all).map(|index| &*index.field);
        let known: Vec<String> = ["id"].into_iter().chain(fields).map(|field| format!("{field} or -{field}")).collect();
        let (field, known) = (shorten(field), known.join(", "));
        let missing = if !of_all {
            "Only the list of all records can be in the order of a field".to_owned()
        } else if collection.declaration().field(&field).is_some() {
            format!("No index has records in the order of `{field}`; one over it that is declared with `order` would")
        } else {
            format!("There is no field `{field}`")
        };
        return Err(wrong(format!("{missing}; `sort` is {known} here.")));
    }
    let order = match order.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None => Ok(sorted),
        Some("asc") => Ok(Order::Ascending),
        Some("desc") => Ok(Order::Descending),
        Some(other) => Err(wrong(format!("`_order` is asc or desc, not `{}`.", shorten(other)))),
    };
    order.map(|order| (order, by))
}

fn read_place(value: &str) -> Result<Place, Problem> {
    let read = || {
        let (term, id) = value.strip_prefix(SORTED)?.split_once('-')?;
        Some(Place { term: hex::decode(term).ok()?, id: Id::try_from(u64::from_str_radix(id, 16).ok()?).ok()? })
    };
    let place = read().filter(|place| Wanted::default().behind_place(place).ends_with(value));
    place.ok_or_else(|| wrong(format!("`after` comes from a `next` link; `{}` is none.", shorten(value))))
}

fn read_number(name: &str, value: &str, most: usize) -> Result<usize, Problem> {
    // Neither a sign nor zeros in front.
    let number = value.parse().ok().filter(|number: &usize| (1..=most).contains(number) && number.to_string() == value);
    let range = if most == usize::MAX { "from 1 on".to_owned() } else { format!("from 1 to {most}") };
    number.ok_or_else(|| wrong(format!("`{name}` is an integer {range}, not `{}`.", shorten(value))))
}

fn read_cursor(value: &str) -> Result<Id, Problem> {
    let number = value.strip_prefix(CURSOR).and_then(|number| u64::from_str_radix(number, 16).ok());
    let id =
        number.and_then(|number| Id::try_from(number).ok()).filter(|id| value == format!("{CURSOR}{:x}", id.get()));
    id.ok_or_else(|| wrong(format!("`after` comes from a `next` link; `{}` is none.", shorten(value))))
}

fn read_rank(value: &str) -> Result<Rank, Problem> {
    let read = || {
        let mut parts = value.strip_prefix(RANK)?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let mut next = || parts.next().flatten();
        let (newest, mean, score, id) = (next()?, next()?, next()?, next()?);
        let [newest, id] = [newest, id].map(|id| Id::try_from(id).ok());
        Some(Rank { newest: newest?, mean: f64::from_bits(mean), score: f64::from_bits(score), id: id? })
    };
    let rank = read().filter(|rank| rank.to_string() == value);
    rank.ok_or_else(|| wrong(format!("`after` comes from a `next` link; `{}` is none.", shorten(value))))
}

fn read_query(collection: Collection, text: &str) -> Result<Query, Problem> {
    if !collection.is_searchable() {
        return Err(wrong(format!("No field of {} is declared for searches.", collection.name())));
    }
    Query::read(text).map_err(|error| wrong(error.to_string()))
}

fn not_an_id(name: &str, value: &str) -> Problem {
    wrong(format!("`{name}` is an integer from 1 to {}, not `{}`.", Id::MAX, shorten(value)))
}

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

pub(crate) fn wrong(detail: impl Into<String>) -> Problem {
    Problem::Parameter(detail.into())
}
