//! Secondary indexes: the ids under each term, in runs (see [`layout`]).

use std::ops::Bound;
use std::{iter, vec};

use record::id::Id;
use record::model::{Index, Term};

use super::layout::{self, NAMES, Name, Step};
use super::{Scan, Store, StoreError};

impl Store {
    /// Iterates over the ids that `index` lists under `term`, ascending.
    pub fn ids(&self, index: Index, term: &Term) -> Ids {
        let no_run = Vec::new().into_iter();
        let (runs, run): (Scan, _) = match (index, term) {
            (Index::IDS, Term::Text(text)) => match self.number_of(text) {
                Ok(number) => (Box::new(iter::empty()), number.into_iter().collect::<Vec<Id>>().into_iter()),
                Err(error) => (Box::new(iter::once(Err(error))), no_run),
            },
            _ => (self.scan(&layout::prefix_of(index, term)), no_run),
        };
        Ids { store: self.clone(), runs, run, last: None }
    }

    /// Finds the run that `id` belongs to: the last that does not begin behind it.
    pub(super) fn run_of(&self, prefix: &[u8], id: Id) -> Result<Option<(sled::IVec, sled::IVec)>, StoreError> {
        let run = self.db.range(prefix..=&layout::run_key(prefix, id.get())[..]).next_back();
        let Some((key, value)) = run.transpose().map_err(|source| self.sled(source))? else { return Ok(None) };
        self.verify(&key, &value)?;
        Ok(Some((key, value)))
    }

    /// Iterates over every entry of every index: the run's key without its first id, and an id. Skips entries of an
    /// interrupted build.
    pub fn entries(&self) -> Entries {
        let unlisted = self.shared.unlisted.all();
        Entries {
            store: self.clone(),
            runs: self.scan(&[layout::INDEX]),
            run: Vec::new().into_iter(),
            names: unlisted.clone().into_iter(),
            unlisted,
            prefix: NAMES.to_vec(),
        }
    }

    /// Iterates over the entries of an index of ids, sorted: the id referred to, and a record that refers to it.
    pub fn references(&self, index: Index) -> impl Iterator<Item = Result<(Id, Id), StoreError>> + use<> {
        self.read_references(self.db.scan_prefix([layout::INDEX, index.0]))
    }

    /// Iterates over [`references`](Self::references) behind the entry `after`.
    pub fn references_after(
        &self,
        index: Index,
        after: (Id, Id),
    ) -> impl Iterator<Item = Result<(Id, Id), StoreError>> + use<> {
        let prefix = layout::prefix_of(index, &Term::Id(after.0));
        let key = layout::run_key(&prefix, after.1.get());
        // The run that holds the entry, or the place where it would be.
        let run = self.db.range(&prefix[..]..=&key[..]).next_back().and_then(Result::ok);
        let first = run.map_or(key, |(key, _)| key.to_vec());
        let references = self.read_references(self.db.range(&first[..]..&layout::index_end(index)));
        references.filter(move |pair| pair.as_ref().map_or(true, |pair| *pair > after))
    }

    /// Iterates over the runs of an index of text references, behind the entry `after`: the text, and records under it,
    /// ascending.
    pub fn texts_after(
        &self,
        index: Index,
        after: Option<(String, u64)>,
    ) -> impl Iterator<Item = Result<(String, Vec<u64>), StoreError>> + use<> {
        let first = after.as_ref().map_or(vec![layout::INDEX, index.0], |(text, by)| {
            let prefix = layout::prefix_of(index, &Term::from(&**text));
            let key = layout::run_key(&prefix, *by);
            // The run that holds the entry, or the place where it would be.
            let run = self.db.range(&prefix[..]..=&key[..]).next_back().and_then(Result::ok);
            run.map_or(key, |(key, _)| key.to_vec())
        });
        let store = self.clone();
        let runs = self.checked(self.db.range(&first[..]..&layout::index_end(index))).map(move |run| {
            let (key, value) = run?;
            let text = layout::listed_text(&key).ok_or_else(|| store.damaged(&key, "it holds no text"))?;
            let mut ids: Vec<u64> = store.decode_run(&key, &value)?.into_iter().map(Id::get).collect();
            // Only ids under the same text can come before the entry. Texts themselves do not sort as their keys do.
            if let Some((_, by)) = after.as_ref().filter(|after| after.0 == text) {
                ids.retain(|id| id > by);
            }
            Ok((text.to_owned(), ids))
        });
        runs.filter(|run| run.as_ref().map_or(true, |(_, ids)| !ids.is_empty()))
    }

    fn read_references(&self, runs: sled::Iter) -> impl Iterator<Item = Result<(Id, Id), StoreError>> + use<> {
        let store = self.clone();
        self.checked(runs).flat_map(move |run| {
            let run = run.and_then(|(key, value)| {
                let referred = layout::referred_id(&key).ok_or_else(|| store.damaged(&key, "it holds no id"))?;
                Ok((referred, store.decode_run(&key, &value)?))
            });
            match run {
                Ok((referred, ids)) => ids.into_iter().map(|id| Ok((referred, id))).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// Returns the texts of `index` that begin with `begin`, sorted; `None` if they are more than `most`.
    pub fn texts_from(&self, index: Index, begin: &str, most: usize) -> Result<Option<Vec<Box<str>>>, StoreError> {
        let first = [&[layout::INDEX, index.0], begin.as_bytes()].concat();
        let mut from = first.clone();
        // Read first: they may become part of the index meanwhile.
        let mut texts = if index == Index::WORDS { self.shared.fresh.words_from(begin, most + 1) } else { Vec::new() };
        let fresh = texts.len();
        if fresh > most {
            return Ok(None);
        }
        while let Some(run) = self.db.range(&from[..]..).next() {
            let (key, _) = run.map_err(|source| self.sled(source))?;
            if !key.starts_with(&first) {
                break;
            }
            let text = layout::listed_text(&key).ok_or_else(|| self.damaged(&key, "it holds no text"))?;
            if texts.len() - fresh > most {
                return Ok(None);
            }
            texts.push(text.into());
            // Behind all runs of this text.
            let prefix = layout::prefix_of(index, &Term::from(text));
            from = [&layout::run_key(&prefix, u64::MAX)[..], &[0]].concat();
        }
        texts.sort_unstable();
        texts.dedup();
        Ok((texts.len() <= most).then_some(texts))
    }

    /// Builds the prefix that [`entries`](Self::entries) gives for `term`.
    pub fn entry_prefix(&self, index: Index, term: &Term) -> Vec<u8> {
        let mut prefix = Vec::new();
        self.push_entry_prefix(index, term, &mut prefix);
        prefix
    }

    /// Appends the prefix that [`entries`](Self::entries) gives for `term`.
    pub fn push_entry_prefix(&self, index: Index, term: &Term, prefix: &mut Vec<u8>) {
        prefix.extend([layout::INDEX, index.0]);
        match (index, term) {
            (Index::IDS, Term::Text(text)) => prefix.extend(self.hash_of(text).to_be_bytes()),
            _ => layout::push_term(term, prefix),
        }
    }

    /// Returns whether `index` lists `id` under `term`.
    pub(super) fn lists(&self, index: Index, term: &Term, id: Id) -> Result<bool, StoreError> {
        if let (Index::IDS, Term::Text(text)) = (index, term) {
            return self.lists_name((self.hash_of(text), id));
        }
        let run = self.run_of(&layout::prefix_of(index, term), id)?;
        let Some((key, value)) = run else { return Ok(false) };
        Ok(self.decode_run(&key, &value)?.binary_search(&id).is_ok())
    }

    /// Lists `ids`, which ascend, under `term`.
    #[cfg(test)]
    pub(super) fn list(&self, index: Index, term: &Term, ids: &[Id]) -> Result<(), StoreError> {
        let ids: Vec<(Id, bool)> = ids.iter().map(|id| (*id, true)).collect();
        let mut step = Step::default();
        self.relist(&layout::prefix_of(index, term), &ids, |_| false, &mut step)?;
        self.apply_in_parts(&step)
    }

    /// Adds the puts and removes to `step` that list the ids of `changes` marked `true` in the runs under `prefix`, and
    /// unlist those marked `false`. `changes` ascend. If `is_new` returns `true` for an id, nothing is listed from there
    /// on.
    pub(super) fn relist(
        &self,
        prefix: &[u8],
        changes: &[(Id, bool)],
        is_new: impl Fn(Id) -> bool,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        let mut rest = changes;
        let mut known = None;
        while let Some((first, _)) = rest.first() {
            let all_new = is_new(*first);
            let found = match known.take() {
                Some(found) => found,
                None => self.run_for(prefix, *first, all_new)?,
            };
            let old = match &found {
                Some((key, value)) => self.decode_run(key, value)?,
                None => Vec::new(),
            };
            // Ids behind the run's last may belong to another run.
            let inside = rest.partition_point(|(id, _)| Some(id) <= old.last()).max(1);
            let mut end = if all_new { rest.len() } else { inside };
            while let Some((id, _)) = rest.get(end) {
                let other = self.run_for(prefix, *id, is_new(*id))?;
                if other.as_ref().map(|(key, _)| key) != found.as_ref().map(|(key, _)| key) {
                    known = Some(other);
                    break;
                }
                end += 1;
            }
            let (here, later) = rest.split_at(end);
            rest = later;
            let at_the_end = here.iter().all(|(id, _)| Some(id) > old.last());
            let (mut new, mut is_changed) = (old, false);
            for (id, stays) in here {
                match (new.binary_search(id), stays) {
                    (Err(place), true) => new.insert(place, *id),
                    (Ok(place), false) => drop(new.remove(place)),
                    _ => continue,
                }
                is_changed = true;
            }
            if !is_changed {
                continue;
            }
            // Ids mostly ascend, so full runs stay behind. A run that overflows in its middle is cut evenly, so that
            // both parts have room.
            let pieces = new.len().div_ceil(layout::RUN_IDS).max(1);
            let length = if at_the_end { layout::RUN_IDS } else { new.len().div_ceil(pieces).max(1) };
            // The last piece is written first: an id that leaves a run is then in another already.
            for run in new.chunks(length).rev() {
                step.put(layout::run_key(prefix, run[0].get()), &layout::encode_run(run));
            }
            if let Some((key, _)) = found
                && new.chunks(length).all(|run| layout::run_key(prefix, run[0].get())[..] != key[..])
            {
                step.removes.push(key.to_vec());
            }
        }
        Ok(())
    }

    /// Finds the run that `id` belongs to. If it would come before all runs, returns the first, which then begins
    /// with it. A new id comes behind all runs, so it needs no such look.
    fn run_for(&self, prefix: &[u8], id: Id, is_new: bool) -> Result<Option<(sled::IVec, sled::IVec)>, StoreError> {
        match self.run_of(prefix, id)? {
            None if !is_new => self.next_run(prefix, &layout::run_key(prefix, id.get())),
            run => Ok(run),
        }
    }

    /// Returns the first run under `prefix` behind `key`; its value is checked.
    fn next_run(&self, prefix: &[u8], key: &[u8]) -> Result<Option<(sled::IVec, sled::IVec)>, StoreError> {
        let next = self.db.range::<&[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
        let Some((key, value)) = next.transpose().map_err(|source| self.sled(source))? else { return Ok(None) };
        if !key.starts_with(prefix) {
            return Ok(None);
        }
        self.verify(&key, &value)?;
        Ok(Some((key, value)))
    }

    /// Decodes a run whose `value` has been checked.
    pub(super) fn decode_run(&self, key: &[u8], value: &[u8]) -> Result<Vec<Id>, StoreError> {
        layout::decode_run(key, &value[layout::BODY..]).map_err(|what| self.damaged(key, &what))
    }
}

/// An iterator over the ids under one term, made by [`Store::ids`].
pub struct Ids {
    store: Store,
    runs: Scan,
    run: vec::IntoIter<Id>,
    last: Option<Id>,
}

impl Iterator for Ids {
    type Item = Result<Id, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // While a run is rewritten under another key, both versions can be met.
            if let Some(id) = self.run.by_ref().find(|id| Some(*id) > self.last) {
                self.last = Some(id);
                return Some(Ok(id));
            }
            match self.runs.next()?.and_then(|(key, value)| self.store.decode_run(&key, &value)) {
                Ok(ids) => self.run = ids.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// An iterator over all entries of all indexes, made by [`Store::entries`].
pub struct Entries {
    store: Store,
    runs: Scan,
    prefix: Vec<u8>,
    run: vec::IntoIter<Id>,
    names: vec::IntoIter<Name>,
    /// The names that buckets need not list yet: these come first.
    unlisted: Vec<Name>,
}

impl Entries {
    /// Returns the next entry.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not lend the prefix")]
    pub fn next(&mut self) -> Option<Result<(&[u8], Id), StoreError>> {
        loop {
            if let Some((hash, id)) = self.names.next() {
                self.prefix.splice(NAMES.len().., hash.to_be_bytes());
                return Some(Ok((&self.prefix, id)));
            }
            if let Some(id) = self.run.next() {
                return Some(Ok((&self.prefix, id)));
            }
            match self.runs.next()?.and_then(|(key, value)| self.read(&key, &value)) {
                Ok(()) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn read(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let store = &self.store;
        if store.made_by().index_numbers().all(|index| Some(&index.0) != key.get(1)) {
            return Ok(());
        }
        self.prefix.clear();
        if layout::lists_names(key) {
            let mut names = store.names_under(key, value)?;
            names.retain(|name| self.unlisted.binary_search(name).is_err());
            self.names = names.into_iter();
            self.prefix.extend_from_slice(&NAMES);
        } else {
            self.run = store.decode_run(key, value)?.into_iter();
            self.prefix.extend_from_slice(&key[..key.len() - size_of::<u64>()]);
        }
        Ok(())
    }
}
