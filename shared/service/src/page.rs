//! Parts of lists: pages, filters, records by their ids.
//!
//! The ids are found first, by an index or in the order of ids, and then the records are read as they are sent. So the
//! work follows from what is answered, never from what the collection holds.

use std::iter::Peekable;

use record::edit::RecordName;
use record::id::Id;
use record::model::{Index, Term};
use store::{InOrder, Order, Store, StoreError, Stored};
use warp::http::header::{HeaderName, HeaderValue, LINK};

use crate::parameters::Wanted;
use crate::problem::Problem;
use crate::read;
use crate::reply::Answer;

/// The header for the number of records on all pages, as in json-server.
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

/// The steps after which an id is far away: about as many as a look into the index takes.
const FAR: usize = 64;

/// The most records of a list that are counted one by one.
const COUNTED: usize = 100_000;

/// The lowest and the highest id of a part, if there are any.
type Range = (Option<u64>, Option<u64>);

/// Answers with the `wanted` part of the list at `path`: that under `term` of an index, or of all records.
pub(crate) fn part(store: &Store, path: &str, term: Option<(Index, Term)>, wanted: Wanted) -> Answer {
    let fields = wanted.fields.clone();
    if let Some(names) = &wanted.batch {
        let names = names.clone();
        return read::selected(store, move |store| Box::new(named(store, names.clone())), fields);
    }
    let filters: Vec<(Index, Term)> = term.into_iter().chain(wanted.filters.iter().cloned()).collect();
    let (skipped, order, after, range) = (wanted.skipped(), wanted.order, wanted.after, wanted.range);
    let Some(limit) = wanted.limit else {
        let total = count(store, &filters, &wanted)?;
        let all = move |store: &Store| match ids_within(store, &filters, order, after, range) {
            Ok(ids) => Box::new(records(store, ids)) as read::Selection,
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        let mut response = read::selected(store, all, fields)?;
        total.map(|total| response.headers_mut().insert(TOTAL, total.into()));
        return Ok(response);
    };
    let (mut page, total) = store.read_whole(|| {
        let page: Vec<Id> = ids_within(store, &filters, order, after, range)?
            .skip(skipped)
            .take(limit + 1)
            .collect::<Result<_, _>>()?;
        Ok::<_, Problem>((page, count(store, &filters, &wanted)?))
    })?;
    let has_more = page.len() > limit;
    page.truncate(limit);
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
    if has_more
        && !wanted.page.is_some_and(|number| wanted.reaches(number + 1))
        && let Some(last) = page.last()
    {
        links.push(format!("<{path}?{}>; rel=\"next\"", wanted.behind(*last)));
    }
    let all = move |store: &Store| Box::new(records(store, page.clone().into_iter().map(Ok))) as read::Selection;
    let mut response = read::selected(store, all, fields)?;
    let headers = response.headers_mut();
    total.map(|total| headers.insert(TOTAL, total.into()));
    headers.insert(LINK, HeaderValue::try_from(links.join(", ")).expect("a path and a query can be sent"));
    Ok(response)
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

/// Reads the records with these ids. A missing one was deleted after the ids were read.
fn records<I>(store: &Store, ids: I) -> impl Iterator<Item = Result<Stored, StoreError>> + Send + Sync + use<I>
where
    I: Iterator<Item = Result<Id, StoreError>> + Send + Sync,
{
    let store = store.clone();
    ids.filter_map(move |id| id.and_then(|id| store.get(id)).transpose())
}

/// Finds the ids that all `filters` list.
fn ids(store: &Store, filters: &[(Index, Term)], order: Order, after: Option<Id>) -> Result<InOrder, StoreError> {
    match filters {
        [] => Ok(store.all_ids(order, after)),
        [(index, term)] => store.ids_behind(*index, term, order, after),
        _ => {
            let list = |filter: &(Index, Term)| {
                let ids = store.ids_behind(filter.0, &filter.1, order, after)?.peekable();
                Ok(Listed { store: store.clone(), filter: filter.clone(), order, ids })
            };
            Ok(Box::new(Common(filters.iter().map(list).collect::<Result<_, StoreError>>()?)))
        }
    }
}

/// Finds the ids from the lowest to the highest of `range` that all `filters` list.
fn ids_within(
    store: &Store,
    filters: &[(Index, Term)],
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
fn count(store: &Store, filters: &[(Index, Term)], wanted: &Wanted) -> Result<Option<u64>, Problem> {
    if !wanted.count {
        return Ok(None);
    }
    if filters.is_empty() && wanted.range == (None, None) {
        return Ok(Some(store.counted()?.count));
    }
    let ids = ids_within(store, filters, Order::Ascending, None, wanted.range)?;
    let count = ids.take(COUNTED + 1).try_fold(0, |count, id| id.map(|_| count + 1))?;
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
    filter: (Index, Term),
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
                let (index, term) = &self.filter;
                self.ids = self.store.ids_behind(*index, term, self.order, Some(after))?.peekable();
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
struct Common(Vec<Listed>);

impl Common {
    fn find(&mut self) -> Result<Option<Id>, StoreError> {
        let Some(Some(mut target)) = self.0.first_mut().map(|list| list.ids.next().transpose()).transpose()? else {
            return Ok(None);
        };
        'search: loop {
            for list in &mut self.0[1..] {
                let Some(found) = list.step_to(target)? else { return Ok(None) };
                if found != target {
                    let Some(next) = self.0[0].step_to(found)? else { return Ok(None) };
                    self.0[0].ids.next();
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
