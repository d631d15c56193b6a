//! Parts of lists: pages, filters, records by their ids.
//!
//! The ids are found first, by an index or in the order of ids, and then the records are read as they are sent. So the
//! work follows from what is answered, never from what the collection holds.

use std::cell::RefCell;
use std::iter::Peekable;

use percent_encoding::{CONTROLS, utf8_percent_encode};
use record::edit::RecordName;
use record::id::Id;
use record::json::members;
use record::model::{Collection, Index, Term, term_of};
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

/// The most records of the shortest of several lists, if what they have in common is searched.
const SEARCHED: usize = 20_000;

/// The longest links, in bytes. Load balancers have room for some 16 KiB of headers.
const LINKS: usize = 8 << 10;

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
    refuse_long_search(store, &filters)?;
    let Some(limit) = wanted.limit else {
        let total = count(store, &filters, &wanted)?;
        let all = |store: &Store| match ids_within(store, &filters, wanted.order, wanted.after, wanted.range) {
            Ok(ids) => Box::new(records(store, ids, filters.clone())) as read::Selection,
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        let mut response = read::selected(store, all, fields)?;
        total.map(|total| response.headers_mut().insert(TOTAL, total.into()));
        return Ok(response);
    };
    // Ids, number and records are read at once, so that they fit each other beside an update from a newer file.
    let found = RefCell::new(Ok((Vec::new(), None)));
    let all = |store: &Store| {
        let page = find_page(store, &filters, &wanted, limit);
        let ids: Vec<Id> = page.as_ref().map_or(Vec::new(), |(ids, _)| ids.iter().take(limit).copied().collect());
        *found.borrow_mut() = page;
        Box::new(records(store, ids.into_iter().map(Ok), filters.clone())) as read::Selection
    };
    let mut response = read::selected(store, all, fields)?;
    let (ids, total) = found.into_inner()?;
    let headers = response.headers_mut();
    total.map(|total| headers.insert(TOTAL, total.into()));
    headers.insert(LINK, link(path, &wanted, limit, &ids, total)?);
    Ok(response)
}

/// Finds the ids of a page and, if there are more, the one behind it; and the number of records on all pages.
fn find_page(
    store: &Store,
    filters: &[(Index, Term)],
    wanted: &Wanted,
    limit: usize,
) -> Result<(Vec<Id>, Option<u64>), Problem> {
    let ids = ids_within(store, filters, wanted.order, wanted.after, wanted.range)?;
    let page = ids.skip(wanted.skipped()).take(limit + 1).collect::<Result<_, _>>()?;
    Ok((page, count(store, filters, wanted)?))
}

/// Makes the links from the page with these `ids` to others.
fn link(path: &str, wanted: &Wanted, limit: usize, ids: &[Id], total: Option<u64>) -> Result<HeaderValue, Problem> {
    // A path may have come with bytes above ASCII.
    let path = utf8_percent_encode(path, CONTROLS);
    let has_more = ids.len() > limit;
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
        && let Some(last) = ids.get(limit - 1)
    {
        links.push(format!("<{path}?{}>; rel=\"next\"", wanted.behind(*last)));
    }
    let links = links.join(", ");
    if links.len() > LINKS {
        return Err(Problem::Parameter("The query is too long for links to other pages; shorten it.".to_owned()));
    }
    Ok(HeaderValue::try_from(links).expect("a path and a query can be sent"))
}

/// Refuses a search for what several long lists have in common: it could go through all of them for nothing.
fn refuse_long_search(store: &Store, filters: &[(Index, Term)]) -> Result<(), Problem> {
    if filters.len() < 2 {
        return Ok(());
    }
    for (index, term) in filters {
        let mut ids = store.ids_behind(*index, term, Order::Ascending, None)?.take(SEARCHED + 1);
        if ids.try_fold(0, |count, id| id.map(|_| count + 1))? <= SEARCHED {
            return Ok(());
        }
    }
    let least = format!("Each of these values is in more than {SEARCHED} records; ask for one that is in fewer.");
    Err(Problem::Parameter(least))
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
    filters: Vec<(Index, Term)>,
) -> impl Iterator<Item = Result<Stored, StoreError>> + Send + Sync + use<I>
where
    I: Iterator<Item = Result<Id, StoreError>> + Send + Sync,
{
    let store = store.clone();
    let read = move |id| {
        let stored = store.get(id)?;
        Ok(stored.filter(|stored| filters.iter().all(|filter| has(store.collection(), stored, filter))))
    };
    ids.filter_map(move |id| id.and_then(&read).transpose())
}

/// Returns whether a record has the value of a filter.
fn has(collection: Collection, stored: &Stored, (index, term): &(Index, Term)) -> bool {
    let Some(declared) = collection.indexes().iter().find(|declared| declared.number == *index) else { return true };
    let field = collection.declaration().field(&declared.field);
    let json = str::from_utf8(stored.json()).unwrap_or_default();
    let value = members(json).find(|(key, _)| *key == &*declared.field);
    value.zip(field).is_some_and(|((_, value), field)| term_of(&field.shape, value).as_ref() == Some(term))
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
        let [in_thread_7, of_2] = [(IN_THREAD, Term::Id(id(7))), (BY_USER, Term::Id(id(2)))];
        for (filters, expected) in [
            (vec![], vec![1, 2, 3, 4]),
            (vec![in_thread_7.clone()], vec![1, 2, 4]),
            (vec![of_2.clone()], vec![1, 3, 4]),
            (vec![in_thread_7, of_2], vec![1, 4]),
        ] {
            // Number 5 was deleted.
            let found = records(&store, (1..=5).map(|number| Ok(id(number))), filters);
            let found: Vec<String> =
                found.map(|stored| String::from_utf8_lossy(stored.unwrap().json())[..7].to_owned()).collect();
            assert_eq!(found, expected.iter().map(|id| format!("{{\"id\":{id}")).collect::<Vec<_>>());
        }
    }
}
