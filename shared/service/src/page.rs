//! Parts of lists: pages, filters, records by their ids.
//!
//! The ids are found first, by an index or in the order of ids, and then the records are read as they are sent. So the
//! work follows from what is answered, never from what the collection holds.

use std::cell::RefCell;
use std::iter::Peekable;
use std::ops::{Bound, RangeBounds as _};
use std::sync::Arc;

use percent_encoding::{CONTROLS, utf8_percent_encode};
use record::edit::RecordName;
use record::id::Id;
use record::json::members;
use record::model::{Collection, Index, Term};
use record::search::Query;
use store::{InOrder, Order, Place, Store, StoreError, Stored};
use warp::http::header::{HeaderName, HeaderValue, LINK};

use crate::parameters::{Rank, Span, Wanted};
use crate::problem::Problem;
use crate::read;
use crate::reply::Answer;
use crate::search::{self, Ranked};

/// The header for the number of records on all pages, as in json-server.
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

/// The steps after which an id is far away: about as many as a look into the index takes.
const FAR: usize = 64;

/// The most records of a list that are counted one by one.
const COUNTED: usize = 100_000;

/// The most records of the shortest of several lists, if what they have in common is searched.
pub(crate) const SEARCHED: usize = 20_000;

/// The longest links, in bytes. Load balancers have room for some 16 KiB of headers.
const LINKS: usize = 8 << 10;

/// What the records of a part have in common.
#[derive(Clone)]
pub(crate) enum Filter {
    /// An index lists them under this term.
    Has(Index, Term),
    /// They are among these, which ascend.
    Among(Arc<[Id]>),
    /// They are among these, which ascend, as long as they are within the span.
    Within(Span, Arc<[Id]>),
}

impl Filter {
    fn ids_behind(&self, store: &Store, order: Order, after: Option<Id>) -> Result<InOrder, StoreError> {
        let ids = match self {
            Self::Has(index, term) => return store.ids_behind(*index, term, order, after),
            Self::Among(ids) | Self::Within(_, ids) => Arc::clone(ids),
        };
        let (begin, end) = match (order, after) {
            (_, None) => (0, ids.len()),
            (Order::Ascending, Some(after)) => (ids.partition_point(|id| *id <= after), ids.len()),
            (Order::Descending, Some(after)) => (0, ids.partition_point(|id| *id < after)),
        };
        Ok(match order {
            Order::Ascending => Box::new((begin..end).map(move |nth| Ok(ids[nth]))),
            Order::Descending => Box::new((begin..end).rev().map(move |nth| Ok(ids[nth]))),
        })
    }
}

/// The lowest and the highest id of a part, if there are any.
type Range = (Option<u64>, Option<u64>);

/// Answers with the `wanted` part of the list at `path`: that under `term` of an index, or of all records.
pub(crate) fn part(store: &Store, path: &str, term: Option<(Index, Term)>, wanted: Wanted) -> Answer {
    if let Some(names) = &wanted.batch {
        let (names, fields) = (names.clone(), wanted.fields.clone());
        return read::selected(store, move |store| Box::new(named(store, names.clone())), fields, wanted.lines);
    }
    if let Some(index) = wanted.by {
        return sorted(store, path, index, &wanted);
    }
    let filters = term.into_iter().chain(wanted.filters.iter().cloned());
    let mut filters: Vec<Filter> = filters.map(|(index, term)| Filter::Has(index, term)).collect();
    if let Some(query) = &wanted.query {
        filters.extend(search::lists(store, query)?);
    }
    for span in &wanted.spans {
        filters.push(list_within(store, span)?);
    }
    let is_short = put_short_first(store, &mut filters)?;
    if let (Some(query), true) = (&wanted.query, wanted.is_ranked) {
        return ranked(store, path, &filters, is_short, query, &wanted);
    }
    if !is_short {
        let least = format!("Each of these values is in more than {SEARCHED} records; ask for one that is in fewer.");
        return Err(Problem::Parameter(least));
    }
    let list = |store: &Store| ids_within(store, &filters, wanted.order, wanted.after, wanted.range);
    let read = |store: &Store, ids| -> read::Selection {
        Box::new(records(store, ids, filters.clone(), wanted.query.clone()))
    };
    respond(store, path, &wanted, &filters, list, read, |last| wanted.behind(*last))
}

/// Answers with all records, or a page of them, in the order of `index`.
fn sorted(store: &Store, path: &str, index: Index, wanted: &Wanted) -> Answer {
    let list = |store: &Store| store.sorted(index, wanted.order, wanted.behind.clone(), &bounds_in_order(wanted));
    let read = |store: &Store, places| -> read::Selection { Box::new(at_places(store, index, places)) };
    respond(store, path, wanted, &[], list, read, |last| wanted.behind_place(last))
}

/// Returns the bounds of a list in the order of an index: of this index alone, since others are refused.
fn bounds_in_order(wanted: &Wanted) -> (Bound<Term>, Bound<Term>) {
    wanted.spans.first().map_or((Bound::Unbounded, Bound::Unbounded), |span| span.bounds.clone())
}

/// Finds the records within a span.
fn list_within(store: &Store, span: &Span) -> Result<Filter, Problem> {
    let places = store.sorted(span.index, Order::Ascending, None, &span.bounds)?;
    let mut ids: Vec<Id> = places.take(SEARCHED + 1).map(|place| Ok(place?.id)).collect::<Result<_, StoreError>>()?;
    if ids.len() > SEARCHED {
        let field = span.field;
        let most = format!(
            "More than {SEARCHED} records are within the bounds of `{field}`; narrow them, or add `sort={field}`."
        );
        return Err(Problem::Parameter(most));
    }
    ids.sort_unstable();
    // One that changes meanwhile can be met twice.
    ids.dedup();
    Ok(Filter::Within(span.clone(), ids.into()))
}

/// The places of records in a list.
type Places<P> = Box<dyn Iterator<Item = Result<P, StoreError>> + Send + Sync>;

/// Answers with the records at the places that `list` finds, or with a page of them, as `read` reads them. `behind` makes the
/// query of what comes behind a place.
fn respond<P: Clone + Send + Sync + 'static>(
    store: &Store,
    path: &str,
    wanted: &Wanted,
    filters: &[Filter],
    list: impl Fn(&Store) -> Result<Places<P>, StoreError>,
    read: impl Fn(&Store, Places<P>) -> read::Selection,
    behind: impl Fn(&P) -> String,
) -> Answer {
    let fields = wanted.fields.clone();
    let Some(limit) = wanted.limit else {
        let total = count(store, filters, wanted)?;
        let all = |store: &Store| match list(store) {
            Ok(places) => read(store, places),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        let mut response = read::selected(store, all, fields, wanted.lines)?;
        total.map(|total| response.headers_mut().insert(TOTAL, total.into()));
        return Ok(response);
    };
    // Places, number and records are read at once, so that they fit each other beside an update from a newer file.
    let found = RefCell::new(Ok((Vec::new(), None)));
    let all = |store: &Store| {
        let page = || -> Result<(Vec<P>, Option<u64>), Problem> {
            let page = list(store)?.skip(wanted.skipped()).take(limit + 1).collect::<Result<_, _>>()?;
            Ok((page, count(store, filters, wanted)?))
        };
        let page = page();
        let places: Vec<P> =
            page.as_ref().map_or(Vec::new(), |(places, _)| places.iter().take(limit).cloned().collect());
        *found.borrow_mut() = page;
        read(store, Box::new(places.into_iter().map(Ok)))
    };
    let mut response = read::selected(store, all, fields, wanted.lines)?;
    let (places, total) = found.into_inner()?;
    let headers = response.headers_mut();
    total.map(|total| headers.insert(TOTAL, total.into()));
    let next = places.get(limit).and(places.get(limit - 1)).map(behind);
    headers.insert(LINK, link(path, wanted, limit, next, total)?);
    Ok(response)
}

/// Reads the records at these places of `index` that still have them.
fn at_places<I>(
    store: &Store,
    index: Index,
    places: I,
) -> impl Iterator<Item = Result<Stored, StoreError>> + Send + Sync + use<I>
where
    I: Iterator<Item = Result<Place, StoreError>> + Send + Sync,
{
    let store = store.clone();
    let read = move |place: Place| {
        let stored = store.get(place.id)?;
        let is_there = |stored: &Stored| {
            term_in(store.collection(), stored, index).is_some_and(|term| Place::of(&term, place.id) == place)
        };
        Ok(stored.filter(is_there))
    };
    places.filter_map(move |place| place.and_then(&read).transpose())
}

/// Answers with the records that fit the words best, among the newest that have them all.
fn ranked(store: &Store, path: &str, filters: &[Filter], is_short: bool, query: &Query, wanted: &Wanted) -> Answer {
    let behind = wanted.behind_rank;
    // What is newer than the first page is on no further one.
    let newer = behind.and_then(|behind| Id::try_from(behind.newest.get() + 1).ok());
    let ids = ids_within(store, filters, wanted.order, newer, wanted.range)?;
    let fits = |stored: &Stored| filters.iter().all(|filter| has(store.collection(), stored, filter));
    let Ranked { records: ranked, mean, is_whole } =
        search::rank(store, query, ids, fits, behind.map(|behind| behind.mean))?;
    let newest = behind.map(|behind| behind.newest).or_else(|| ranked.iter().map(|(_, id)| *id).max());
    let is_whole = is_whole && is_short;
    let total = wanted.count.then_some(ranked.len() as u64).filter(|_| is_whole);
    if wanted.count && total.is_none() && wanted.page.is_none() {
        let most =
            format!("{} records and more match, and no further ones are counted; narrow the list.", ranked.len());
        return Err(Problem::Parameter(most));
    }
    let limit = wanted.limit.unwrap_or(usize::MAX - 1);
    let is_behind = |(score, id): &(f64, Id)| behind.is_none_or(|behind| behind.is_before(*score, *id));
    let page: Vec<(f64, Id)> = ranked.into_iter().filter(is_behind).skip(wanted.skipped()).take(limit + 1).collect();
    let ids: Vec<Id> = page.iter().take(limit).map(|(_, id)| *id).collect();
    let all = |store: &Store| {
        let ids = ids.clone().into_iter().map(Ok);
        Box::new(records(store, ids, filters.to_vec(), Some(query.clone()))) as read::Selection
    };
    let mut response = read::selected(store, all, wanted.fields.clone(), wanted.lines)?;
    let headers = response.headers_mut();
    total.map(|total| headers.insert(TOTAL, total.into()));
    if wanted.limit.is_some() {
        let last = page.get(limit).and(page.get(limit - 1)).zip(newest);
        let next = last.map(|((score, id), newest)| wanted.behind_rank(&Rank { newest, mean, score: *score, id: *id }));
        headers.insert(LINK, link(path, wanted, limit, next, total)?);
    }
    Ok(response)
}

/// Makes the links from a page to others. `behind` is the query of what comes behind it, if there is more.
fn link(
    path: &str,
    wanted: &Wanted,
    limit: usize,
    behind: Option<String>,
    total: Option<u64>,
) -> Result<HeaderValue, Problem> {
    // A path may have come with bytes above ASCII.
    let path = utf8_percent_encode(path, CONTROLS);
    let has_more = behind.is_some();
    let mut links = vec![format!("<{path}?{}>; rel=\"first\"", wanted.first())];
    if let Some(number) = wanted.page {
        let last = total.map_or(u64::MAX, |total| total.div_ceil(limit as u64).max(1));
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        for (to, number, is_there) in
            [("prev", number - 1, number > 1), ("next", number + 1, has_more), ("last", last, true)]
        {
            if is_there && wanted.reaches(number) {
                links.push(format!("<{path}?{}>; rel=\"{to}\"", wanted.numbered(number)));
            }
        }
    }
    if let Some(next) = behind
        && !wanted.page.is_some_and(|number| wanted.reaches(number + 1))
    {
        links.push(format!("<{path}?{next}>; rel=\"next\""));
    }
    let links = links.join(", ");
    if links.len() > LINKS {
        return Err(Problem::Parameter("The query is too long for links to other pages; shorten it.".to_owned()));
    }
    Ok(HeaderValue::try_from(links).expect("a path and a query can be sent"))
}

/// Puts a list with at most [`SEARCHED`] ids first, so that what several have in common is found in as many steps. Returns
/// whether there is one.
fn put_short_first(store: &Store, filters: &mut [Filter]) -> Result<bool, StoreError> {
    if filters.len() < 2 {
        return Ok(true);
    }
    for nth in 0..filters.len() {
        let mut ids = filters[nth].ids_behind(store, Order::Ascending, None)?.take(SEARCHED + 1);
        if ids.try_fold(0, |count, id| id.map(|_| count + 1))? <= SEARCHED {
            filters.swap(0, nth);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the records with these names that exist.
fn named(
    store: &Store,
    names: Vec<RecordName>,
) -> impl Iterator<Item = Result<Stored, StoreError>> + Send + Sync + use<> {
    let store = store.clone();
    let read = move |name| match name {
        RecordName::Number(id) => store.get(id),
        RecordName::Text(text) => store.get_named(&text),
        RecordName::Single => store.get(Id::FIRST),
    };
    names.into_iter().filter_map(move |name| read(name).transpose())
}

/// Reads the records with these ids that `filters` still match: they may have been changed or deleted since.
fn records<I>(
    store: &Store,
    ids: I,
    filters: Vec<Filter>,
    query: Option<Query>,
) -> impl Iterator<Item = Result<Stored, StoreError>> + Send + Sync + use<I>
where
    I: Iterator<Item = Result<Id, StoreError>> + Send + Sync,
{
    let store = store.clone();
    let read = move |id| {
        let stored = store.get(id)?;
        let collection = store.collection();
        let finds =
            |stored: &Stored| query.as_ref().is_none_or(|query| search::count(query, collection, stored).is_some());
        Ok(stored.filter(|stored| filters.iter().all(|filter| has(collection, stored, filter)) && finds(stored)))
    };
    ids.filter_map(move |id| id.and_then(&read).transpose())
}

/// Returns whether a record has what a filter asks for. Of words, the query itself has to be asked.
fn has(collection: Collection, stored: &Stored, filter: &Filter) -> bool {
    let (index, term) = match filter {
        Filter::Has(index, term) => (index, term),
        Filter::Among(_) => return true,
        Filter::Within(span, _) => {
            return term_in(collection, stored, span.index).is_some_and(|term| span.bounds.contains(&term));
        }
    };
    collection.indexes().iter().all(|declared| declared.number != *index)
        || term_in(collection, stored, *index).as_ref() == Some(term)
}

/// Returns the term under which `index` lists a record.
fn term_in(collection: Collection, stored: &Stored, index: Index) -> Option<Term> {
    let declared = collection.indexes().iter().find(|declared| declared.number == index)?;
    let field = collection.declaration().field(&declared.field)?;
    let json = str::from_utf8(stored.json()).ok()?;
    let (_, value) = members(json).find(|(key, _)| *key == &*declared.field)?;
    declared.term_of(&field.shape, value)
}

/// Finds the ids that all `filters` list.
fn ids(store: &Store, filters: &[Filter], order: Order, after: Option<Id>) -> Result<InOrder, StoreError> {
    match filters {
        [] => Ok(store.all_ids(order, after)),
        [filter] => filter.ids_behind(store, order, after),
        _ => {
            let list = |filter: &Filter| {
                let ids = filter.ids_behind(store, order, after)?.peekable();
                Ok(Listed { store: store.clone(), filter: filter.clone(), order, ids })
            };
            let lists = filters.iter().map(list).collect::<Result<_, StoreError>>()?;
            Ok(Box::new(Common { lists, left: SEARCHED }))
        }
    }
}

/// Finds the ids from the lowest to the highest of `range` that all `filters` list.
fn ids_within(
    store: &Store,
    filters: &[Filter],
    order: Order,
    after: Option<Id>,
    (lowest, highest): Range,
) -> Result<InOrder, StoreError> {
    // The place before the range is one behind which a list begins, or none if that is the list's own beginning.
    let before = match order {
        Order::Ascending => lowest.and_then(|id| Id::try_from(id - 1).ok()),
        Order::Descending => highest.and_then(|id| Id::try_from(id + 1).ok()),
    };
    let after = match (after, before) {
        (Some(after), Some(before)) if order.puts_before(after, before) => Some(before),
        (after, before) => after.or(before),
    };
    let ids = ids(store, filters, order, after)?;
    Ok(match (order, lowest, highest) {
        (Order::Ascending, _, Some(end)) => {
            Box::new(ids.take_while(move |id| id.as_ref().map_or(true, |id| id.get() <= end)))
        }
        (Order::Descending, Some(end), _) => {
            Box::new(ids.take_while(move |id| id.as_ref().map_or(true, |id| id.get() >= end)))
        }
        _ => ids,
    })
}

/// Counts the records of a list, if that is wanted. A long list is counted only where the database has a counter.
fn count(store: &Store, filters: &[Filter], wanted: &Wanted) -> Result<Option<u64>, Problem> {
    if !wanted.count {
        return Ok(None);
    }
    let count = match wanted.by {
        _ if filters.is_empty() && wanted.spans.is_empty() && wanted.range == (None, None) => {
            return Ok(Some(store.counted()?.count));
        }
        Some(index) => {
            let mut places = store.sorted(index, Order::Ascending, None, &bounds_in_order(wanted))?.take(COUNTED + 1);
            places.try_fold(0, |count, place| place.map(|_| count + 1))?
        }
        None => {
            let ids = ids_within(store, filters, Order::Ascending, None, wanted.range)?;
            ids.take(COUNTED + 1).try_fold(0, |count, id| id.map(|_| count + 1))?
        }
    };
    if count <= COUNTED {
        Ok(Some(count as u64))
    } else if wanted.page.is_some() {
        Ok(None)
    } else {
        let most = format!("More than {COUNTED} records match, and no further ones are counted; narrow the list.");
        Err(Problem::Parameter(most))
    }
}

/// The ids of one filter.
struct Listed {
    store: Store,
    filter: Filter,
    order: Order,
    ids: Peekable<InOrder>,
}

impl Listed {
    /// Steps to the first id that does not come before `target`. One that is far away is looked up in the index.
    fn step_to(&mut self, target: Id) -> Result<Option<Id>, StoreError> {
        let mut steps = 0;
        while let Some(id) = self.ids.next_if(|id| id.as_ref().map_or(true, |id| self.order.puts_before(*id, target))) {
            let id = id?;
            steps += 1;
            if steps == FAR {
                let before = match self.order {
                    Order::Ascending => target.get() - 1,
                    Order::Descending => target.get().saturating_add(1),
                };
                let after = Id::try_from(before).unwrap_or(id);
                self.ids = self.filter.ids_behind(&self.store, self.order, Some(after))?.peekable();
            }
        }
        match self.ids.peek() {
            Some(Ok(id)) => Ok(Some(*id)),
            Some(Err(_)) => self.ids.next().transpose(),
            None => Ok(None),
        }
    }
}

/// The ids that several filters have in common.
struct Common {
    lists: Vec<Listed>,
    /// The places that may still be compared. Enough for all of a list that has at most [`SEARCHED`] ids.
    left: usize,
}

impl Common {
    fn find(&mut self) -> Result<Option<Id>, StoreError> {
        let Some(Some(mut target)) = self.lists.first_mut().map(|list| list.ids.next().transpose()).transpose()? else {
            return Ok(None);
        };
        'search: loop {
            let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
            self.left = left;
            for list in &mut self.lists[1..] {
                let Some(found) = list.step_to(target)? else { return Ok(None) };
                if found != target {
                    let Some(next) = self.lists[0].step_to(found)? else { return Ok(None) };
                    self.lists[0].ids.next();
                    target = next;
                    continue 'search;
                }
            }
            return Ok(Some(target));
        }
    }
}

impl Iterator for Common {
    type Item = Result<Id, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.find().transpose()
    }
}

#[cfg(test)]
mod tests {
    use record::model::Records;
    use record::sample::{self, BY_USER, IN_THREAD};
    use store::{Change, Writer};

    use super::*;

    /// An index lists ids a moment before the records are read.
    #[test]
    fn a_record_that_was_changed_after_it_was_listed_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
        let mut posts = Records::new(sample::posts(), 0);
        for (id, thread, user) in [(1, 7, 2), (2, 7, 3), (3, 8, 2), (4, 7, 2)] {
            posts.push(&format!(r#"{{"id":{id},"thread":{thread},"text":"t","user":{user}}}"#), None).unwrap();
        }
        let mut writer = Writer::new(&store).unwrap();
        let changes: Vec<Change> = posts.iter().map(|post| Change::Put(post, writer.next_revision())).collect();
        writer.apply(&changes).unwrap();
        let id = |id: u64| Id::try_from(id).unwrap();
        let [in_thread_7, of_2] =
            [(IN_THREAD, 7), (BY_USER, 2)].map(|(index, of)| Filter::Has(index, Term::Id(id(of))));
        for (filters, expected) in [
            (vec![], vec![1, 2, 3, 4]),
            (vec![in_thread_7.clone()], vec![1, 2, 4]),
            (vec![of_2.clone()], vec![1, 3, 4]),
            (vec![in_thread_7, of_2], vec![1, 4]),
        ] {
            // Number 5 was deleted.
            let found = records(&store, (1..=5).map(|number| Ok(id(number))), filters, None);
            let found: Vec<String> =
                found.map(|stored| String::from_utf8_lossy(stored.unwrap().json())[..7].to_owned()).collect();
            assert_eq!(found, expected.iter().map(|id| format!("{{\"id\":{id}")).collect::<Vec<_>>());
        }
    }
}
