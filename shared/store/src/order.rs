//! Ids in either order, from any place on: what pages of lists are made of.

use std::ops::Bound;

use record::id::Id;
use record::model::{Index, Term};

use super::layout::{self, TermKey};
use super::{Scan, Store, StoreError};

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By id, the lowest first.
    #[default]
    Ascending,
    /// By id, the highest first.
    Descending,
}

impl Order {
    /// Returns whether `a` comes before `b`.
    pub fn puts_before(self, a: Id, b: Id) -> bool {
        match self {
            Self::Ascending => a < b,
            Self::Descending => a > b,
        }
    }
}

/// A record's place in the order of an index: by the bytes of its term, and by its id among equal ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The bytes of its term in the index's keys.
    pub term: Vec<u8>,
    /// Its id.
    pub id: Id,
}

impl Place {
    /// Returns the place of record `id` under `term`.
    pub fn of(term: &Term, id: Id) -> Self {
        Self { term: TermKey::of(term).bytes().to_vec(), id }
    }
}

/// Ids, each once, in order.
pub type InOrder = Box<dyn Iterator<Item = Result<Id, StoreError>> + Send + Sync>;

impl Store {
    /// Iterates over the ids of all records, behind `after`. Ids that are added or removed meanwhile may be missing.
    pub fn all_ids(&self, order: Order, after: Option<Id>) -> InOrder {
        let page = after.map(|after| layout::page_key(layout::place(after).0));
        let pages = match order {
            Order::Ascending => {
                self.between(page.as_ref().map_or(&[layout::PAGE], |page| page), &[layout::PAGE + 1], order)
            }
            Order::Descending => match page {
                // The page itself belongs to the range.
                Some(page) => self.between(&[layout::PAGE], &[&page[..], &[0]].concat(), order),
                None => self.between(&[layout::PAGE], &[layout::PAGE + 1], order),
            },
        };
        let store = self.clone();
        let ids = pages.map(move |page| {
            let (key, value) = page?;
            Ok(store.revisions_in(&key, &value)?.into_iter().map(|(id, _)| id).collect())
        });
        in_order(ids, order, after)
    }

    /// Iterates over the ids that `index` lists under `term`, behind `after`.
    pub fn ids_behind(
        &self,
        index: Index,
        term: &Term,
        order: Order,
        after: Option<Id>,
    ) -> Result<InOrder, StoreError> {
        if index == Index::IDS && matches!(term, Term::Text(_)) {
            let ids = self.ids(index, term).collect::<Result<Vec<Id>, _>>()?;
            return Ok(in_order([Ok(ids)].into_iter(), order, after));
        }
        let fresh = match (index, term) {
            // Read first: they may become part of the index meanwhile.
            (Index::WORDS, Term::Text(word)) => self.shared.fresh.ids(word),
            _ => Vec::new(),
        };
        let prefix = layout::prefix_of(index, term);
        let end = |id: u64| [&layout::run_key(&prefix, id)[..], &[0]].concat();
        let runs = match (order, after) {
            (Order::Descending, after) => self.between(&prefix, &end(after.map_or(u64::MAX, Id::get)), order),
            (Order::Ascending, None) => self.between(&prefix, &end(u64::MAX), order),
            (Order::Ascending, Some(after)) => {
                // The run that holds the id, or the place where it would be.
                let found = self.run_of(&prefix, after)?;
                let begin = found.map_or_else(|| layout::run_key(&prefix, after.get()), |(key, _)| key.to_vec());
                self.between(&begin, &end(u64::MAX), order)
            }
        };
        let store = self.clone();
        let ids = runs.map(move |run| run.and_then(|(key, value)| store.decode_run(&key, &value)));
        if fresh.is_empty() {
            return Ok(in_order(ids, order, after));
        }
        // Fresh ids are above all others.
        let fresh = std::iter::once(Ok(fresh));
        Ok(match order {
            Order::Ascending => in_order(ids.chain(fresh), order, after),
            Order::Descending => in_order(fresh.chain(ids), order, after),
        })
    }

    /// Iterates over the records that `index` lists under the terms `within` two bounds, behind `after`, in the order of their
    /// terms and then of their ids. Beyond the longest text that a key holds a bound is not exact.
    pub fn sorted(
        &self,
        index: Index,
        order: Order,
        after: Option<Place>,
        within: &(Bound<Term>, Bound<Term>),
    ) -> Result<Box<dyn Iterator<Item = Result<Place, StoreError>> + Send + Sync>, StoreError> {
        let all = [layout::INDEX, index.number()];
        let key = |place: &Place| {
            let prefix = [&all[..], &place.term].concat();
            (layout::run_key(&prefix, place.id.get()), prefix)
        };
        let prefix_of = |term: &Term| layout::prefix_of(index, term);
        let behind = |term: &Term| [&layout::run_key(&prefix_of(term), u64::MAX)[..], &[0]].concat();
        let mut begin = match &within.0 {
            Bound::Unbounded => all.to_vec(),
            Bound::Included(term) => prefix_of(term),
            Bound::Excluded(term) => behind(term),
        };
        let mut end = match &within.1 {
            Bound::Unbounded => layout::index_end(index).to_vec(),
            Bound::Included(term) => behind(term),
            Bound::Excluded(term) => prefix_of(term),
        };
        match (order, after.as_ref().map(key)) {
            (_, None) => {}
            (Order::Ascending, Some((key, prefix))) => {
                // The run that holds the place, or where it would be.
                let found = self.run_of(&prefix, after.as_ref().map_or(Id::FIRST, |place| place.id))?;
                begin = begin.max(found.map_or(key, |(key, _)| key.to_vec()));
            }
            (Order::Descending, Some((key, _))) => end = end.min([&key[..], &[0]].concat()),
        }
        // Two bounds may have nothing between them.
        let runs = self.between(begin.as_slice().min(&end), &end, order);
        let store = self.clone();
        let places = runs.flat_map(move |run| {
            let read = run.and_then(|(key, value)| {
                let term = key[all.len()..].to_vec();
                let term = &term[..term.len() - size_of::<u64>()];
                let mut ids = store.decode_run(&key, &value)?;
                if order == Order::Descending {
                    ids.reverse();
                }
                Ok(ids.into_iter().map(|id| Place { term: term.to_vec(), id }).collect::<Vec<_>>())
            });
            match read {
                Ok(places) => places.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        });
        // While a run is rewritten under another key, both versions can be met.
        let mut last = after;
        Ok(Box::new(places.filter(move |place| {
            let Ok(place) = place else { return true };
            let is_next = last.as_ref().is_none_or(|last| match order {
                Order::Ascending => last < place,
                Order::Descending => last > place,
            });
            if is_next {
                last = Some(place.clone());
            }
            is_next
        })))
    }

    /// Scans the keys from `begin` to before `end`.
    fn between(&self, begin: &[u8], end: &[u8], order: Order) -> Scan {
        let pairs = self.db.range::<&[u8], _>((Bound::Included(begin), Bound::Excluded(end)));
        match order {
            Order::Ascending => self.checked(pairs),
            Order::Descending => self.checked(pairs.rev()),
        }
    }
}

/// Flattens ascending pieces. While a run is rewritten under another key, both versions can be met.
fn in_order<I>(pieces: I, order: Order, after: Option<Id>) -> InOrder
where
    I: Iterator<Item = Result<Vec<Id>, StoreError>> + Send + Sync + 'static,
{
    let mut last = after;
    let ids = pieces.flat_map(move |piece| match (piece, order) {
        (Ok(ids), Order::Ascending) => ids.into_iter().map(Ok).collect(),
        (Ok(ids), Order::Descending) => ids.into_iter().rev().map(Ok).collect(),
        (Err(error), _) => vec![Err(error)],
    });
    Box::new(ids.filter(move |id| {
        let Ok(id) = id else { return true };
        let is_next = last.is_none_or(|last| order.puts_before(last, *id));
        if is_next {
            last = Some(*id);
        }
        is_next
    }))
}

#[cfg(test)]
mod tests {
    use record::sample;

    use super::super::tests::{id, json};
    use super::super::{Change, Writer};
    use super::*;

    /// Against a plain list: each start, each order, gaps, and runs that were cut.
    #[test]
    fn ids_are_those_of_a_plain_list_from_any_place_in_either_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
        let mut writer = Writer::new(&store).unwrap();
        // Post n is in thread n % 3; 300 of them are two runs and more. Every seventh is missing.
        let numbers: Vec<u64> = (1..900).filter(|number| number % 7 != 0).collect();
        let mut records = record::model::Records::new(sample::posts(), 0);
        for number in &numbers {
            records.push(&json(*number, number % 3 + 1), None).unwrap();
        }
        let changes: Vec<Change> = records.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
        writer.apply(&changes).unwrap();
        let in_thread = Index::numbered(1).unwrap();
        let plain = |thread: Option<u64>, order: Order, after: Option<u64>| {
            let mut ids: Vec<Id> = numbers
                .iter()
                .filter(|number| thread.is_none_or(|thread| *number % 3 + 1 == thread))
                .map(|number| id(*number))
                .filter(|number| after.is_none_or(|after| order.puts_before(id(after), *number)))
                .collect();
            if order == Order::Descending {
                ids.reverse();
            }
            ids
        };
        for order in [Order::Ascending, Order::Descending] {
            for after in
                [None, Some(1), Some(2), Some(7), Some(16), Some(127), Some(128), Some(450), Some(898), Some(5000)]
            {
                let found: Vec<Id> = store.all_ids(order, after.map(id)).collect::<Result<_, _>>().unwrap();
                assert_eq!(found, plain(None, order, after), "{order:?} {after:?}");
                for thread in 1..=4 {
                    let found = store.ids_behind(in_thread, &Term::Id(id(thread)), order, after.map(id)).unwrap();
                    let found: Vec<Id> = found.collect::<Result<_, _>>().unwrap();
                    assert_eq!(found, plain(Some(thread), order, after), "thread {thread} {order:?} {after:?}");
                }
            }
        }
    }
}
