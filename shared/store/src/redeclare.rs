//! Redeclaration: what a changed declaration means for an existing database.
//!
//! | the declaration now | the database |
//! |---|---|
//! | has other limits, fields, routes | stays as it is |
//! | has a new index | gets it, before it is read or written |
//! | lacks an index | loses that index's entries, so that its number can be used again |
//! | makes an index unique | is searched for records that share a value, and refused if there are any |
//! | searches other fields | lists all words anew, before it is read or written |
//! | gives an index's number to another field or kind of value, or changes the id rule | is refused |
//!
//! The database holds a note that names its complete indexes. An index leaves the note before its entries are removed,
//! and enters it once all its entries are on the disk. So entries of an index that is not in the note come from an
//! interrupted start, and are removed. Without a note (as in a database of an earlier version) an index with entries
//! counts as complete, unless its first entries show that it was made for another field.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use record::declaration::{Declaration, Field, IdRule, IndexDeclaration, Shape, TermKind};
use record::id::Id;
use record::json::members;
use record::model::{Collection, Index, Term};
use record::words::agree;

use super::layout::{self, INDEX};
use super::load::write_index;
use super::sorter::Sorter;
use super::{Store, StoreError, at};

/// The runs of an index that are compared with its records if no note says which field it was made for.
const SAMPLE: usize = 64;

/// The way on where an index's number was used before.
const REUSED: &str = "give the new index a number that was never used, or start the service once without it, which \
                      removes the old one";

/// The time between two log lines on a build's progress.
const SAY_EVERY: Duration = Duration::from_secs(3);

/// The part of a declaration that determines the bytes of a database.
#[derive(PartialEq, Eq)]
struct Essence<'d> {
    ids: IdRule,
    indexes: Vec<(Index, &'d str, Option<TermKind>, bool, bool)>,
    searched: Vec<&'d str>,
}

impl<'d> Essence<'d> {
    fn of(declaration: &'d Declaration) -> Self {
        let mut indexes: Vec<_> = declaration
            .indexes
            .iter()
            .map(|index| (index.number, &*index.field, kind_of(declaration, index), index.unique, index.order))
            .collect();
        indexes.sort_by_key(|(number, ..)| *number);
        Self { ids: declaration.ids, indexes, searched: searched(declaration) }
    }
}

/// Returns the names of the fields that are searched, sorted.
fn searched(declaration: &Declaration) -> Vec<&str> {
    let fields = declaration.fields.iter().filter(|field| field.search);
    let mut names: Vec<&str> = fields.map(|field| &*field.name).collect();
    names.sort_unstable();
    names
}

fn kind_of(declaration: &Declaration, index: &IndexDeclaration) -> Option<TermKind> {
    declaration.field(&index.field).and_then(|field| field.shape.is_of())
}

/// Returns the part of `declaration` that a database notes, with the indexes that `is_whole` picks, and with the words if
/// `has_words`.
fn note_of(declaration: &Declaration, is_whole: impl Fn(&IndexDeclaration) -> bool, has_words: bool) -> Declaration {
    let mut note = declaration.clone();
    // An older program does not know these, and needs neither.
    (note.owner, note.deprecated) = (None, None);
    note.indexes = declaration.indexes.iter().filter(|index| is_whole(index)).cloned().collect();
    note.indexes.iter_mut().for_each(|index| index.deprecated = None);
    note.fields.iter_mut().for_each(|field| field.search &= has_words);
    let is_noted = |field: &Field| field.search || note.indexes.iter().any(|index| index.field == field.name);
    note.fields = note.fields.iter().filter(|field| is_noted(field)).cloned().collect();
    note
}

impl Store {
    /// Returns the declaration that the database was made by. Its indexes follow that one, even if
    /// [`collection`](Self::collection) differs.
    pub fn made_by(&self) -> Collection {
        self.made_by
    }

    /// Reads the note, if the database has one.
    pub(super) fn read_note(&mut self) -> Result<(), StoreError> {
        if let Some(noted) = self.noted()?
            && Essence::of(&noted) != Essence::of(self.collection.declaration())
        {
            self.made_by = Collection::of(noted);
        }
        Ok(())
    }

    /// Notes the declaration of a new database.
    pub(super) fn note_all(&self) -> Result<(), StoreError> {
        self.note(&note_of(self.collection.declaration(), |_| true, true))
    }

    /// Notes the declaration of a database whose words are not listed yet.
    pub(super) fn note_without_words(&self) -> Result<(), StoreError> {
        if self.collection.is_searchable() {
            self.note(&note_of(self.collection.declaration(), |_| true, false))?;
        }
        Ok(())
    }

    fn noted(&self) -> Result<Option<Declaration>, StoreError> {
        let Some(value) = self.value(layout::DECLARED_KEY)? else { return Ok(None) };
        let noted = Declaration::read(&String::from_utf8_lossy(&value[layout::BODY..]));
        noted.map(Some).map_err(|error| {
            self.contradiction(format!(
                "the database's own declaration cannot be read ({error}); use the newer program that wrote it"
            ))
        })
    }

    fn note(&self, declaration: &Declaration) -> Result<(), StoreError> {
        let json = serde_json::to_vec(declaration).expect("a declaration can be written as JSON");
        self.put(layout::DECLARED_KEY, &json)
    }

    fn contradiction(&self, what: String) -> StoreError {
        StoreError::Contradiction { path: self.path().to_owned(), what }
    }

    /// Compares the database's declaration with [`collection`](Self::collection).
    ///
    /// # Errors
    /// [`StoreError::Contradiction`] if the database cannot be served under the new declaration.
    pub fn redeclare(&self) -> Result<Redeclaration, StoreError> {
        let noted = self.noted()?;
        let declaration = self.collection.declaration();
        let (mut missing, mut restricted) = (Vec::new(), Vec::new());
        match &noted {
            None => {
                self.refuse_reused()?;
                missing = self.find_unbuilt()?;
            }
            Some(noted) => {
                self.refuse_contradictions(noted)?;
                for index in &declaration.indexes {
                    match noted.indexes.iter().find(|before| before.number == index.number) {
                        None => missing.push(index),
                        Some(before) if index.unique && !before.unique => restricted.push(index),
                        Some(_) => {}
                    }
                }
            }
        }
        let store = Self { made_by: self.collection, ..self.clone() };
        let lists_words = noted.as_ref().is_some_and(|noted| searched(noted) == searched(declaration));
        let lacks_words = self.collection.is_searchable() && !lists_words;
        let is_current = noted.as_ref().is_some_and(|noted| Essence::of(noted) == Essence::of(declaration))
            && store.strays(declaration)?.is_empty();
        Ok(Redeclaration { store, noted, missing, lacks_words, restricted, is_current })
    }

    fn refuse_contradictions(&self, noted: &Declaration) -> Result<(), StoreError> {
        let declaration = self.collection.declaration();
        if noted.ids != declaration.ids {
            return Err(self.contradiction(format!(
                "its ids were declared as {}, and are now as {}; declare them as they were, or split again with \
                 `seed --replace`",
                name_of(noted.ids),
                name_of(declaration.ids)
            )));
        }
        for index in &declaration.indexes {
            let Some(before) = noted.indexes.iter().find(|before| before.number == index.number) else { continue };
            let (was, is) = (kind_of(noted, before), kind_of(declaration, index));
            if (&before.field, was) == (&index.field, is) && before.order != index.order {
                let (was, is) = if index.order { ("no", "an") } else { ("an", "no") };
                return Err(self.contradiction(format!(
                    "index {} of the field {:?} has {was} order, and is now declared with {is} order; {REUSED}",
                    index.number.number(),
                    index.field
                )));
            }
            if (&before.field, was) != (&index.field, is) {
                return Err(self.contradiction(format!(
                    "index {} lists the {} of the field {:?}, and is now declared for the {} of {:?}; {REUSED}",
                    index.number.number(),
                    plural(was),
                    before.field,
                    plural(is),
                    index.field
                )));
            }
        }
        Ok(())
    }

    /// Refuses an index whose first runs do not list its field in their records.
    fn refuse_reused(&self) -> Result<(), StoreError> {
        for index in self.collection.indexes() {
            for run in self.scan(&[INDEX, index.number.0]).take(SAMPLE) {
                let (key, value) = run?;
                let ids = self.decode_run(&key, &value)?;
                // What lists a missing record is damaged, not reused.
                let Some(stored) = self.get(ids[0])? else { continue };
                let terms = self.terms_of(ids[0], stored.json())?;
                let is_of_field = terms.iter().any(|(number, term)| {
                    *number == index.number && key.starts_with(&self.entry_prefix(*number, term))
                });
                if !is_of_field {
                    return Err(self.contradiction(format!(
                        "index {} was made for another field than {:?}, as record {} shows; {REUSED}",
                        index.number.number(),
                        index.field,
                        ids[0]
                    )));
                }
            }
        }
        Ok(())
    }

    /// Returns the declared indexes that have no entries, though a record should have one.
    fn find_unbuilt(&self) -> Result<Vec<&'static IndexDeclaration>, StoreError> {
        let mut unbuilt = Vec::new();
        for index in self.collection.indexes() {
            if self.db.scan_prefix([INDEX, index.number.0]).next().is_some() {
                continue;
            }
            // Usually there are no records either.
            for record in self.records() {
                let (id, stored) = record?;
                if self.terms_of(id, stored.json())?.iter().any(|(number, _)| *number == index.number) {
                    unbuilt.push(index);
                    break;
                }
            }
        }
        Ok(unbuilt)
    }

    /// Returns the numbers of indexes that have entries but are not in `declaration`.
    fn strays(&self, declaration: &Declaration) -> Result<Vec<u8>, StoreError> {
        let is_declared = |number: u8| {
            let ids = declaration.ids == IdRule::Text && Index(number) == Index::IDS;
            let words = Index(number) == Index::WORDS && declaration.fields.iter().any(|field| field.search);
            ids || words || declaration.indexes.iter().any(|index| index.number.0 == number)
        };
        let mut strays = Vec::new();
        let mut from = vec![INDEX, 0];
        while let Some(found) = self.db.range(&from[..]..&[INDEX + 1]).next() {
            let (key, _) = found.map_err(|source| self.sled(source))?;
            let number = key.get(1).copied().unwrap_or_default();
            if !is_declared(number) {
                strays.push(number);
            }
            match number.checked_add(1) {
                Some(next) => from = vec![INDEX, next],
                None => break,
            }
        }
        Ok(strays)
    }
}

/// The changes that a database needs before it can be served as it is declared now.
pub struct Redeclaration {
    store: Store,
    noted: Option<Declaration>,
    /// The indexes to build.
    missing: Vec<&'static IndexDeclaration>,
    /// Whether the words of all records have to be listed.
    lacks_words: bool,
    /// The indexes that are unique now.
    restricted: Vec<&'static IndexDeclaration>,
    is_current: bool,
}

impl Redeclaration {
    /// Returns the database as it is declared now. Do not read its indexes or write to it before [`make`](Self::make)
    /// is done.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns whether there is nothing to do.
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// Builds and removes indexes until the database matches its declaration, and notes it. If this is interrupted, the
    /// next start repeats it.
    ///
    /// # Errors
    /// [`StoreError::Contradiction`] if records share a value that is unique now; [`StoreError::Interrupted`] if `end`
    /// is set. Then no new index counts.
    pub fn make(&self, end: &AtomicBool) -> Result<(), StoreError> {
        if self.is_current {
            return Ok(());
        }
        let (store, declaration) = (&self.store, self.store.collection.declaration());
        for index in &self.restricted {
            store.refuse_shared(index)?;
        }
        let is_new = |index: &IndexDeclaration| self.missing.iter().any(|missing| missing.number == index.number);
        let kept = note_of(declaration, |index| !is_new(index), !self.lacks_words);
        if self.noted.as_ref() != Some(&kept) {
            store.note(&kept)?;
            store.sync()?;
        }
        fail_point!("before the strays");
        store.remove_strays(&kept)?;
        if self.missing.is_empty() && !self.lacks_words {
            return store.sync();
        }
        if let Err(error) = self.build(end) {
            // An older program ignores the note and would take an incomplete index for complete.
            store.remove_strays(&kept)?;
            return Err(error);
        }
        store.sync()?;
        if self.lacks_words {
            store.note_all_indexed()?;
        }
        fail_point!("before the note");
        store.note(&note_of(declaration, |_| true, true))?;
        store.sync()
    }

    /// Builds the missing indexes as a split does: collects and sorts all entries, so that each run is written once.
    fn build(&self, end: &AtomicBool) -> Result<(), StoreError> {
        let (store, begin) = (&self.store, Instant::now());
        let routes = self.missing.iter().map(|index| format!("{:?}", index.route));
        let words = self.lacks_words.then(|| "the words for searches".to_owned());
        let routes = routes.chain(words).collect::<Vec<String>>().join(", ");
        let path = store.path().display();
        let records = store.counted()?.count;
        log::info!("{path}: building new indexes: {routes}, of {records} {}", agree(records, "record", "records"));
        let progress = Progress::new(store, end, "records read", records);
        // The sorted files lie beside the database, on a disk that must have room for its index entries anyway.
        let folder = store.path().parent().expect("a database has a name").to_owned();
        let mut columns: Vec<Column> = self.missing.iter().map(|index| Column::of(store.collection, index)).collect();
        let mut words = self.lacks_words.then(Sorter::default);
        let mut listed = 0;
        for record in store.records() {
            let (id, stored) = match record {
                // Words only are listed: what is damaged is not found, and fails its own requests as before.
                Err(StoreError::Corrupt { what, .. }) if self.missing.is_empty() => {
                    log::error!("{path}: not searched, since it is damaged: {what}");
                    continue;
                }
                record => record?,
            };
            let json = std::str::from_utf8(stored.json())
                .map_err(|error| store.corrupt(&format!("record {id} is not UTF-8: {error}")))?;
            for column in &mut columns {
                column.add(id, json, &folder)?;
            }
            if let Some(words) = &mut words {
                for word in store.collection.listed_words(json) {
                    words.push(&Term::Text(word), id, &folder).map_err(at(&folder))?;
                    listed += 1;
                }
            }
            progress.advance(1)?;
        }
        let entries = columns.iter().map(|column| column.count).sum::<u64>() + listed;
        let progress = &Progress::new(store, end, "entries written", entries);
        thread::scope(|scope| {
            let mut writers = Vec::new();
            for column in columns {
                writers.push(scope.spawn(move || column.write(store, progress)));
            }
            if let Some(words) = words {
                let count = |ids: &[Id]| progress.advance(ids.len() as u64);
                writers.push(scope.spawn(move || write_index(store, Index::WORDS, words, count)));
            }
            writers.into_iter().try_for_each(|writer| writer.join().expect("a writer returns its errors"))
        })?;
        log::info!("{path}: built {routes}: {entries} entries, in {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A missing index while it is built.
struct Column {
    index: &'static IndexDeclaration,
    shape: &'static Shape,
    entries: Sorter,
    count: u64,
    /// The number of records whose value the index cannot list, and the first of them.
    left_out: Option<(u64, Id)>,
}

impl Column {
    fn of(collection: Collection, index: &'static IndexDeclaration) -> Self {
        let field = collection.declaration().field(&index.field).expect("an index is of a declared field");
        Self { index, shape: &field.shape, entries: Sorter::default(), count: 0, left_out: None }
    }

    fn add(&mut self, id: Id, json: &str, folder: &Path) -> Result<(), StoreError> {
        let value = members(json).find(|(name, _)| *name == &*self.index.field).map(|(_, value)| value);
        match value.filter(|value| *value != "null").map(|value| self.index.term_of(self.shape, value)) {
            Some(Some(term)) => {
                self.count += 1;
                self.entries.push(&term, id, folder).map_err(at(folder))?;
            }
            Some(None) => self.left_out.get_or_insert((0, id)).0 += 1,
            None => {}
        }
        Ok(())
    }

    fn write(self, store: &Store, progress: &Progress) -> Result<(), StoreError> {
        let Self { index, shape, entries, left_out, .. } = self;
        write_index(store, index.number, entries, |ids| {
            if let ([first, second, ..], true) = (ids, index.unique) {
                return Err(store.shared_value(index, *first, *second));
            }
            progress.advance(ids.len() as u64)
        })?;
        if let Some((count, first)) = left_out {
            log::warn!(
                "{}: {count} {} {:?}: {:?} is not one of the {} it lists; the first is \
                 record {first}",
                store.path().display(),
                agree(count, "record is served but not in the index", "records are served but not in the index"),
                index.route,
                index.field,
                plural(shape.is_of())
            );
        }
        Ok(())
    }
}

impl Store {
    /// Fails if two records share a value in `index`.
    fn refuse_shared(&self, index: &IndexDeclaration) -> Result<(), StoreError> {
        let mut before: Option<(Vec<u8>, Id)> = None;
        for run in self.scan(&[INDEX, index.number.0]) {
            let (key, value) = run?;
            let ids = self.decode_run(&key, &value)?;
            let term = &key[..key.len() - size_of::<u64>()];
            let same = before.as_ref().filter(|(of, _)| of == term).map(|(_, id)| *id);
            if let [first, second, ..] = same.into_iter().chain(ids.iter().copied()).take(2).collect::<Vec<_>>()[..] {
                return Err(self.shared_value(index, first, second));
            }
            before = ids.last().map(|id| (term.to_vec(), *id));
        }
        Ok(())
    }

    fn shared_value(&self, index: &IndexDeclaration, first: Id, second: Id) -> StoreError {
        self.contradiction(format!(
            "the index {:?} is declared as unique, but the records {first} and {second} have the same {:?}; change one of \
             them while it is served as it was declared before, or declare the index without `unique`",
            index.route, index.field
        ))
    }

    /// Removes the entries of indexes that are not in `declaration`.
    fn remove_strays(&self, declaration: &Declaration) -> Result<(), StoreError> {
        for number in self.strays(declaration)? {
            self.remove_index(number)?;
            log::info!("{}: removed index {number}, which is not declared or not complete", self.path().display());
        }
        Ok(())
    }

    /// Removes all entries of an index.
    pub(super) fn remove_index(&self, number: u8) -> Result<(), StoreError> {
        for entry in self.db.scan_prefix([INDEX, number]) {
            let (key, _) = entry.map_err(|source| self.sled(source))?;
            self.db.remove(key).map_err(|source| self.sled(source))?;
        }
        Ok(())
    }
}

/// The progress of a build, for the log. It also passes on the request to stop.
struct Progress<'p> {
    store: &'p Store,
    end: &'p AtomicBool,
    verb: &'static str,
    all: u64,
    done: AtomicU64,
    said: Mutex<Instant>,
}

impl<'p> Progress<'p> {
    fn new(store: &'p Store, end: &'p AtomicBool, verb: &'static str, all: u64) -> Self {
        Self { store, end, verb, all, done: AtomicU64::new(0), said: Mutex::new(Instant::now()) }
    }

    fn advance(&self, count: u64) -> Result<(), StoreError> {
        fail_point!("within the build");
        let path = self.store.path();
        if self.end.load(Ordering::Relaxed) {
            return Err(StoreError::Interrupted(path.to_owned()));
        }
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        if let Ok(mut said) = self.said.try_lock()
            && said.elapsed() >= SAY_EVERY
        {
            *said = Instant::now();
            log::info!("{}: {}: {done} of {}", path.display(), self.verb, self.all);
        }
        Ok(())
    }
}

/// Returns an id rule as a declaration writes it.
fn name_of(ids: IdRule) -> String {
    serde_json::to_string(&ids).unwrap_or_default()
}

fn plural(kind: Option<TermKind>) -> &'static str {
    match kind {
        Some(TermKind::Id) => "integer ids",
        Some(TermKind::TextId) => "text ids",
        Some(TermKind::Text) => "texts",
        Some(TermKind::Number) => "numbers",
        None => "values",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{id, json};
    use super::super::{Purpose, Restore, SnapshotRecord};
    use super::*;
    use record::model::Term;
    use record::number::Number;
    use record::sample;
    use std::ops::Bound;

    /// Returns posts with the given indexes: numbers, fields and routes.
    fn posts(indexes: &str) -> Collection {
        let mut declaration = sample::posts().declaration().clone();
        declaration.indexes = serde_json::from_str(indexes).unwrap();
        declaration.fields.iter_mut().for_each(|field| field.search = false);
        Collection::of(declaration)
    }

    const USER: &str = r#"[{"number":255,"field":"user","route":"by"}]"#;

    /// Creates a database of 300 posts in two threads.
    fn restore(path: &Path) {
        let mut restore = Restore::create(path, sample::posts()).unwrap();
        for number in 1..=300 {
            let json = json(number, number % 2 + 1).into_bytes().into();
            restore.put(&SnapshotRecord { id: id(number), revision: 1, id_from_position: false, json }).unwrap();
        }
        restore.finish(&[], 1, 300).unwrap().sync().unwrap();
    }

    fn listed(store: &Store, number: u8, term: u64) -> usize {
        store.ids(Index(number), &Term::Id(id(term))).filter(Result::is_ok).count()
    }

    fn make(path: &Path, collection: Collection) -> Store {
        let redeclaration = Store::open(path, collection, Purpose::Serving).unwrap().redeclare().unwrap();
        redeclaration.make(&AtomicBool::new(false)).unwrap();
        redeclaration.store().clone()
    }

    #[test]
    fn an_opened_database_keeps_its_own_declaration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        restore(&path);
        assert_eq!(listed(&make(&path, posts(USER)), 255, 1), 300);
        let store = Store::open(&path, sample::posts(), Purpose::Passing).unwrap();
        assert_eq!(store.made_by().indexes().len(), 1);
        assert_eq!(store.collection().indexes().len(), 2);
        assert_eq!(store.terms_of(id(1), json(1, 2).as_bytes()).unwrap()[..], [(Index(255), Term::Id(id(1)))]);
        drop(store);
        let store = make(&path, sample::posts());
        assert_eq!([(1, 1), (1, 2), (2, 1), (255, 1)].map(|(of, term)| listed(&store, of, term)), [150, 150, 300, 0]);
        assert!(store.redeclare().unwrap().is_current());
    }

    #[test]
    fn a_database_without_a_note_gets_one_and_its_missing_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        restore(&path);
        let store = Store::open(&path, posts("[]"), Purpose::Serving).unwrap();
        store.db.remove(layout::DECLARED_KEY).unwrap();
        store.remove_strays(posts(r#"[{"number":1,"field":"thread","route":"in"}]"#).declaration()).unwrap();
        drop(store);
        // An interrupted build leaves nothing that the next start could take for complete.
        let store = Store::open(&path, sample::posts(), Purpose::Serving).unwrap();
        let redeclaration = store.redeclare().unwrap();
        assert!(!redeclaration.is_current());
        assert!(matches!(redeclaration.make(&AtomicBool::new(true)), Err(StoreError::Interrupted(_))));
        store.list(Index(2), &Term::Id(id(1)), &[id(7)]).unwrap();
        drop((redeclaration, store));
        let store = make(&path, sample::posts());
        assert_eq!([(1, 1), (2, 1)].map(|(of, term)| listed(&store, of, term)), [150, 300]);
    }

    #[test]
    fn without_a_note_a_reused_number_is_found_by_the_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        restore(&path);
        Store::open(&path, sample::posts(), Purpose::Serving).unwrap().db.remove(layout::DECLARED_KEY).unwrap();
        let reused = r#"[{"number":1,"field":"user","route":"by"}]"#;
        let refused = {
            let store = Store::open(&path, posts(reused), Purpose::Serving).unwrap();
            store.redeclare().err().unwrap().to_string()
        };
        assert!(refused.contains("index 1 was made for another field than \"user\", as record 1 shows"), "{refused}");
        // The ways on.
        assert_eq!(listed(&make(&path, posts(USER)), 255, 1), 300);
        assert_eq!(listed(&make(&path, posts(reused)), 1, 1), 300);
    }

    #[test]
    fn words_are_listed_at_the_first_start_and_anew_when_other_fields_are_searched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        restore(&path);
        let has_words = |store: &Store| store.db.scan_prefix([INDEX, Index::WORDS.0]).next().is_some();
        let words = |store: &Store| store.texts_from(Index::WORDS, "", 999).unwrap().unwrap();
        assert!(!has_words(&Store::open(&path, sample::posts(), Purpose::Passing).unwrap()), "a split lists none");
        let stopped = Store::open(&path, sample::posts(), Purpose::Serving).unwrap().redeclare().unwrap();
        assert!(matches!(stopped.make(&AtomicBool::new(true)), Err(StoreError::Interrupted(_))));
        drop(stopped);
        let store = make(&path, sample::posts());
        let all: Vec<Box<str>> = (1..=300).flat_map(|n| sample::posts().listed_words(&json(n, 1))).collect();
        let all: std::collections::BTreeSet<Box<str>> = all.into_iter().collect();
        assert_eq!(words(&store), all.iter().cloned().collect::<Vec<_>>());
        let ids = |word: &str| store.ids(Index::WORDS, &Term::from(word)).map(Result::unwrap).collect::<Vec<Id>>();
        for word in &all {
            let expected: Vec<Id> =
                (1..=300).filter(|n| sample::posts().listed_words(&json(*n, 1)).contains(word)).map(id).collect();
            assert_eq!(ids(word), expected, "{word}");
        }
        drop(store);
        assert!(Store::open(&path, sample::posts(), Purpose::Serving).unwrap().redeclare().unwrap().is_current());
        // Nothing is searched, then something is again.
        assert!(!has_words(&make(&path, posts("[]"))));
        assert_eq!(words(&make(&path, sample::posts())).len(), all.len());
    }

    #[test]
    fn an_index_gets_an_order_under_a_new_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        restore(&path);
        let by_text = |number: u8, order: bool| {
            posts(&format!(r#"[{{"number":{number},"field":"text","route":"by","order":{order}}}]"#))
        };
        for (number, order, refused) in [
            (7, false, ""),
            (7, true, "has no order, and is now declared with an order; give the new index a number"),
            (8, true, ""),
            (8, false, "has an order, and is now declared with no order"),
            (9, false, ""),
            (10, true, ""),
        ] {
            let collection = by_text(number, order);
            if !refused.is_empty() {
                let error = Store::open(&path, collection, Purpose::Serving).unwrap().redeclare().err().unwrap();
                assert!(error.to_string().contains(refused), "{error}");
                continue;
            }
            let store = make(&path, collection);
            assert!(store.redeclare().unwrap().is_current());
            let mut texts: Vec<(String, u64)> = Vec::new();
            for n in 1..=300 {
                let terms = store.terms_of(id(n), json(n, n % 2 + 1).as_bytes()).unwrap();
                assert!(store.ids(Index(number), &terms[0].1).any(|found| found.unwrap() == id(n)), "{n}");
                match &terms[0].1 {
                    Term::Ordered(text) if order => texts.push((text.to_string(), n)),
                    Term::Text(_) if !order => {}
                    other => panic!("{other:?}"),
                }
            }
            let mut entries = store.entries();
            let count = std::iter::from_fn(|| entries.next().map(|entry| entry.map(|_| ()).unwrap())).count();
            assert_eq!(count, 300, "nothing of the former one is left");
            if order {
                texts.sort_unstable();
                let sorted = store
                    .sorted(Index(number), crate::Order::Ascending, None, &(Bound::Unbounded, Bound::Unbounded))
                    .unwrap();
                let sorted: Vec<u64> = sorted.map(|place| place.unwrap().id.get()).collect();
                assert_eq!(sorted, texts.iter().map(|(_, n)| *n).collect::<Vec<_>>());
            }
        }
    }

    const PRICE: &str = r#"{"name":"price","shape":"number"}"#;

    /// Returns goods whose prices, of this field, are listed by the given indexes.
    fn goods(price: &str, indexes: &str) -> Collection {
        let json = format!(r#"{{"name":"goods","ids":"record","fields":[{price}],"indexes":{indexes}}}"#);
        Collection::of(Declaration::read(&json).unwrap())
    }

    #[test]
    fn numbers_are_listed_once_an_index_of_them_is_declared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let any = r#"{"name":"price","shape":"any"}"#;
        let mut restore = Restore::create(&path, goods(any, "[]")).unwrap();
        // The last one is of another kind, as the field could be until now.
        let prices =
            ["9.5", "10", "-0", "1e2", "0.0", "9.50", "100", "9007199254740993", "9007199254740992", "\"9.5\""];
        for (number, price) in (1..).zip(prices) {
            let json = format!(r#"{{"id":{number},"price":{price}}}"#).into_bytes().into();
            restore.put(&SnapshotRecord { id: id(number), revision: 1, id_from_position: false, json }).unwrap();
        }
        restore.finish(&[], 1, 10).unwrap().sync().unwrap();
        let of_number = |text: &str| Term::Number(Number::read(text).unwrap());
        let ids = |store: &Store, number: u8, text: &str| -> Vec<u64> {
            store.ids(Index(number), &of_number(text)).map(|id| id.unwrap().get()).collect()
        };
        // 255 is the highest number of an index.
        for number in [1, 255] {
            let index = format!(r#"[{{"number":{number},"field":"price","route":"for","order":true}}]"#);
            let store = make(&path, goods(PRICE, &index));
            assert!(store.redeclare().unwrap().is_current());
            for (text, expected) in [
                ("9.5", &[1, 6][..]),
                ("0e999999999999", &[3, 5]),
                ("100", &[4, 7]),
                ("9007199254740992", &[9]),
                ("9007199254740993.0", &[8]),
                ("1e-99999999999", &[]),
            ] {
                assert_eq!(ids(&store, number, text), expected, "{text}");
            }
            for (order, after, expected) in [
                (crate::Order::Ascending, None, &[3, 5, 1, 6, 2, 4, 7, 9, 8][..]),
                (crate::Order::Descending, None, &[8, 9, 7, 4, 2, 6, 1, 5, 3]),
                (crate::Order::Ascending, Some(("9.50", 1)), &[6, 2, 4, 7, 9, 8]),
                (crate::Order::Descending, Some(("10", 2)), &[6, 1, 5, 3]),
            ] {
                let after = after.map(|(text, number)| crate::Place::of(&of_number(text), id(number)));
                let sorted = store.sorted(Index(number), order, after, &(Bound::Unbounded, Bound::Unbounded)).unwrap();
                assert_eq!(sorted.map(|place| place.unwrap().id.get()).collect::<Vec<_>>(), expected, "{order:?}");
            }
            use Bound::{Excluded, Included, Unbounded};
            for (least, most, expected) in [
                (Included("9.5"), Included("100.0"), &[1, 6, 2, 4, 7][..]),
                (Excluded("9.5"), Excluded("100.0"), &[2]),
                (Unbounded, Excluded("0"), &[]),
                (Excluded("10"), Excluded("10"), &[]),
                (Included("10"), Excluded("10"), &[]),
                (Included("1e400"), Included("-1e400"), &[]),
                (Included("9007199254740992.5"), Unbounded, &[8]),
            ] {
                let within = (least.map(of_number), most.map(of_number));
                let sorted = |order, after| -> Vec<u64> {
                    let sorted = store.sorted(Index(number), order, after, &within).unwrap();
                    sorted.map(|place| place.unwrap().id.get()).collect()
                };
                assert_eq!(sorted(crate::Order::Ascending, None), expected, "{least:?} {most:?}");
                let backwards: Vec<u64> = expected.iter().rev().copied().collect();
                assert_eq!(sorted(crate::Order::Descending, None), backwards, "{least:?} {most:?}");
                // A place outside the bounds leads into them or to nothing.
                for place in ["-5", "9.5", "1e500"] {
                    let after = |place: &str| Some(crate::Place::of(&of_number(place), id(1)));
                    let is_behind = |n: &&u64| {
                        Number::read(prices[**n as usize - 1]) > Number::read(place)
                            || (**n > 1 && prices[**n as usize - 1].starts_with(place))
                    };
                    let behind: Vec<u64> = expected.iter().filter(is_behind).copied().collect();
                    assert_eq!(sorted(crate::Order::Ascending, after(place)), behind, "{least:?} {most:?} {place}");
                }
            }
        }
        // The number of an index of numbers gets no other meaning.
        let text = r#"{"name":"price","shape":{"text":{"most":9}}}"#;
        for (price, order, refused) in [
            (text, true, "lists the numbers of the field \"price\", and is now declared for the texts of \"price\""),
            (PRICE, false, "has an order, and is now declared with no order"),
        ] {
            let index = format!(r#"[{{"number":255,"field":"price","route":"for","order":{order}}}]"#);
            let error = Store::open(&path, goods(price, &index), Purpose::Serving).unwrap().redeclare().err().unwrap();
            assert!(error.to_string().contains(refused), "{error}");
        }
        let unique = r#"[{"number":255,"field":"price","route":"for","order":true,"unique":true}]"#;
        let redeclaration = Store::open(&path, goods(PRICE, unique), Purpose::Serving).unwrap().redeclare().unwrap();
        let refused = redeclaration.make(&AtomicBool::new(false)).unwrap_err().to_string();
        assert!(refused.contains("but the records 3 and 5 have the same \"price\""), "{refused}");
        drop(redeclaration);
        let store = make(&path, goods(any, "[]"));
        assert!(store.entries().next().is_none());
    }

    #[test]
    fn records_that_share_a_value_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        restore(&path);
        let unique = r#"[{"number":1,"field":"thread","route":"in-thread","unique":true}]"#;
        let refused = {
            let redeclaration = Store::open(&path, posts(unique), Purpose::Serving).unwrap().redeclare().unwrap();
            redeclaration.make(&AtomicBool::new(false)).unwrap_err().to_string()
        };
        assert!(refused.contains("but the records 2 and 4 have the same \"thread\""), "{refused}");
        assert_eq!(listed(&Store::open(&path, sample::posts(), Purpose::Serving).unwrap(), 2, 1), 300);
    }
}
