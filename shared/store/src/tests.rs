use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;
use record::model::Records;
use record::record_set::RecordSet;
use record::sample;

use super::*;

pub(super) fn id(number: u64) -> Id {
    number.try_into().unwrap()
}

fn posts(posts: &[(u64, u64)]) -> Records {
    let mut records = Records::new(sample::posts(), 0);
    for (number, thread) in posts {
        records.push(&json(*number, *thread), None).unwrap();
    }
    records
}

pub(super) fn json(number: u64, thread: u64) -> String {
    let text = if number == LONG { "x".repeat(9000) } else { "t".to_owned() };
    format!(r#"{{"id":{number},"thread":{thread},"text":"{text}","user":1}}"#)
}

/// The id of a post that is too long for its page.
const LONG: u64 = 9000;

/// Adds records to a load.
fn put(load: &mut Load, records: &Records) -> Option<Id> {
    load.put([records], &RecordSet::of(records.iter())).unwrap()
}

/// Writes records and removes others, in one step.
fn write(store: &Store, records: &Records, removed: Vec<Change>) {
    let mut writer = Writer::new(store).unwrap();
    let puts: Vec<_> = records.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
    writer.apply(&puts.into_iter().chain(removed).collect::<Vec<_>>()).unwrap();
}

fn ids_in_thread(store: &Store, thread: u64) -> Vec<u64> {
    store.ids(sample::IN_THREAD, &Term::Id(id(thread))).map(|id| id.unwrap().get()).collect()
}

#[test]
fn pages_of_single_records_stay_in_memory_with_their_neighbours_and_those_of_lists_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut load = Load::new(Store::create(&dir.path().join("db"), sample::posts()).unwrap());
    assert_eq!(put(&mut load, &posts(&[(1, 2), (2, 2), (LONG, 2), (255, 2), (256, 2)])), None);
    let store = load.finish().unwrap();
    assert!(store.get(id(1)).unwrap().is_some());
    assert!(store.get_from_memory(id(1)).is_none(), "there is no memory for it yet");
    let pages = Arc::new(Pages::default());
    store.keep_pages_in(pages.clone());
    assert_eq!(store.find(sample::IN_THREAD, &Term::Id(id(2))).count(), 5);
    assert!([3000, 9_000_000, Id::MAX.get()].iter().all(|absent| store.get(id(*absent)).unwrap().is_none()));
    assert!(pages.0.lock().unwrap().is_empty(), "what is asked for in vain takes no memory");
    assert!(store.get_from_memory(id(1)).is_none());
    assert!(store.get(id(1)).unwrap().is_some());
    assert_eq!(store.get_from_memory(id(2)).unwrap().json(), json(2, 2).as_bytes());
    assert!(store.get_from_memory(id(3)).is_none());
    // Sixteen pages are read at once.
    assert_eq!(store.get_from_memory(id(255)).unwrap().json(), json(255, 2).as_bytes());
    assert!(store.get_from_memory(id(256)).is_none());
    // A long record lies apart from its page.
    assert_eq!(store.get(id(LONG)).unwrap().unwrap().json(), json(LONG, 2).as_bytes());
    assert!(store.get_from_memory(id(LONG)).is_none());
    write(&store, &posts(&[(1, 3)]), vec![Change::Remove(id(2))]);
    assert!(store.get_from_memory(id(1)).is_none(), "it is old");
    assert_eq!(store.get(id(1)).unwrap().unwrap().json(), json(1, 3).as_bytes());
    assert_eq!(store.get_from_memory(id(1)).unwrap().json(), json(1, 3).as_bytes());
    assert!(store.get_from_memory(id(2)).is_none());
    // A page that comes into a group in memory.
    write(&store, &posts(&[(100, 3)]), Vec::new());
    assert!(store.get(id(100)).unwrap().is_some() && store.get_from_memory(id(100)).is_some());
    // A list's pages stay where there is room for all.
    drop(store);
    let store = Store::open(&dir.path().join("db"), sample::posts(), Purpose::Serving).unwrap();
    store.keep_pages_in(Arc::new(Pages(Mutex::default(), true)));
    assert_eq!(store.find(sample::IN_THREAD, &Term::Id(id(2))).count(), 3);
    assert_eq!(store.get_from_memory(id(256)).unwrap().json(), json(256, 2).as_bytes());
}

#[test]
fn a_loaded_store_gives_its_records_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut load = Load::new(Store::create(&path, sample::posts()).unwrap());
    for batch in [&[(3, 2), (1, 2), (LONG, 7)][..], &[(2, 1)], &[(300, 1)], &[(256, 1)]] {
        assert_eq!(put(&mut load, &posts(batch)), None);
    }
    let store = load.finish().unwrap();
    store.sync().unwrap();
    drop(store);

    let store = Store::open(&path, sample::posts(), Purpose::Serving).unwrap();
    let all: Vec<u64> = store.records().map(|record| record.unwrap().0.get()).collect();
    assert_eq!(all, [1, 2, 3, 256, 300, 9000]);
    let stored = store.get(id(256)).unwrap().unwrap();
    assert_eq!(stored.json(), br#"{"id":256,"thread":1,"text":"t","user":1}"#);
    assert_eq!((stored.revision, stored.id_from_position), (1, false));
    assert_eq!(stored.into_json(), json(256, 1));
    assert_eq!(store.get(id(LONG)).unwrap().unwrap().into_json(), json(LONG, 7));
    assert!(store.get(id(4)).unwrap().is_none());
    assert!(store.get(id(9999)).unwrap().is_none());
    assert_eq!(ids_in_thread(&store, 1), [2, 256, 300]);
    assert_eq!(ids_in_thread(&store, 2), [1, 3]);
    assert_eq!(ids_in_thread(&store, 3), [0_u64; 0]);
    let found = store.find(sample::IN_THREAD, &Term::Id(id(2)));
    let found: Vec<Bytes> = found.map(|stored| stored.unwrap().into_json()).collect();
    assert_eq!(found, [json(1, 2), json(3, 2)]);
}

#[test]
fn a_load_reports_a_taken_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut load = Load::new(Store::create(&dir.path().join("db"), sample::posts()).unwrap());
    assert_eq!(put(&mut load, &posts(&[(20, 1), (1, 1)])), None);
    assert_eq!(put(&mut load, &posts(&[(2, 1), (20, 2)])), Some(id(20)));
    assert_eq!(put(&mut load, &posts(&[(5, 1), (5, 2)])), Some(id(5)));
}

#[test]
fn terms_that_are_prefixes_of_each_other_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), sample::users()).unwrap();
    let index = record::model::Index(1);
    let (long, longer) = ("a".repeat(2000), "a".repeat(2001));
    let names = ["", "a", "ab", "a\0", "a\u{10FFFF}", "é", &long, &longer, &long[..1024]];
    for (number, name) in (1..).zip(names) {
        store.list(index, &Term::from(name), &[id(number)]).unwrap();
    }
    for (number, name) in (1..).zip(names) {
        let ids: Vec<Id> = store.ids(index, &Term::from(name)).collect::<Result<_, _>>().unwrap();
        assert_eq!(ids, [id(number)], "{name:?}");
    }
}

#[test]
fn errors_of_opening_name_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let open = |collection| {
        Store::open(&path, collection, Purpose::Serving).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(open(sample::posts()).contains("there is no database here"), "{}", open(sample::posts()));

    drop(Store::create(&path, sample::users()).unwrap());
    assert!(open(sample::posts()).contains("holds users, not posts"), "{}", open(sample::posts()));

    // A crash during an earlier open left this behind (sled #1527).
    std::fs::write(path.join("snap.0000.generating"), b"half").unwrap();
    assert_eq!(open(sample::users()), "");
    assert!(!path.join("snap.0000.generating").exists());

    let held = Store::open(&path, sample::users(), Purpose::Serving).unwrap();
    assert!(open(sample::users()).contains("in use"), "{}", open(sample::users()));
    drop(held);

    for entry in std::fs::read_dir(&path).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            std::fs::write(file, [0xA5; 4096]).unwrap();
        }
    }
    assert!(open(sample::users()).contains("damaged"), "{}", open(sample::users()));
}

#[test]
fn a_folder_has_one_holder_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let held = Folder::lock(dir.path()).unwrap();
    let error = Folder::lock(dir.path()).err().unwrap().to_string();
    assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    assert!(held.settled_database().is_ok());
    std::fs::create_dir(held.next()).unwrap();
    assert!(matches!(held.settled_database(), Err(StoreError::Unfinished(_))));
    drop(held);
    Folder::lock(dir.path()).unwrap();
}

/// sled never syncs the separate files that it makes for long nodes: see [`SEGMENT`].
#[test]
fn no_value_goes_to_a_separate_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut load = Load::new(Store::create(&path, sample::posts()).unwrap());
    let record = |number: u64, length: usize| {
        let mut record = Records::new(sample::posts(), 0);
        record.push(&long(number, length), None).unwrap();
        record
    };
    for number in 1..40 {
        put(&mut load, &record(number, 1 << 20));
    }
    let store = load.finish().unwrap();
    for number in 1..40 {
        let name = format!("{number}{}", "x".repeat(1 << 20));
        store.list(Index(9), &Term::from(&*name), &[id(number)]).unwrap();
    }
    let mut writer = Writer::new(&store).unwrap();
    for number in 30..800 {
        // These lengths lie in a page, lie in one part, and need several parts.
        let record = record(number, [4000, 65_000, 4000, 200_000][number as usize % 4]);
        let revision = writer.next_revision();
        writer.apply(&[Change::Put(record.iter().next().unwrap(), revision)]).unwrap();
        assert_eq!(std::fs::read_dir(path.join("blobs")).unwrap().count(), 0, "after {number} posts");
    }
}

/// Returns a post's JSON of `length` bytes.
fn long(number: u64, length: usize) -> String {
    let json = format!(r#"{{"id":{number},"thread":1,"text":"","user":1}}"#);
    json.replace(r#""""#, &format!(r#""{}""#, "x".repeat(length - json.len())))
}

#[test]
fn a_long_record_lies_in_parts_and_leaves_none_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
    let mut writer = Writer::new(&store).unwrap();
    let part = layout::PART_BYTES;
    for length in [3 * part + 5, part - 1, part, part + 1, 2 * part, 100, 5 * part] {
        let json = long(7, length);
        let mut record = Records::new(sample::posts(), 0);
        record.push(&json, None).unwrap();
        let revision = writer.next_revision();
        writer.apply(&[Change::Put(record.iter().next().unwrap(), revision)]).unwrap();
        let stored = store.get(id(7)).unwrap().unwrap();
        assert!((stored.revision, stored.json()) == (revision, json.as_bytes()), "{length}");
        let parts = if length > 4096 { length / part + 1 } else { 0 };
        assert_eq!(store.db.scan_prefix([3]).count(), parts, "{length}");
    }
    store.db.remove(layout::part_key(id(7), store.get(id(7)).unwrap().unwrap().revision, 2)).unwrap();
    assert!(matches!(store.get(id(7)), Err(StoreError::Corrupt { .. })), "a part is missing");
    assert!(writer.apply(&[Change::Remove(id(7))]).is_err());
}

/// Ids that come before a run can push it, as it is, behind a new one.
#[test]
fn a_run_that_is_pushed_back_whole_stays_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
    let run = layout::RUN_IDS as u64;
    for ids in [run + 1..=2 * run, 1..=run] {
        store.list(sample::IN_THREAD, &Term::Id(id(1)), &ids.map(id).collect::<Vec<_>>()).unwrap();
    }
    assert_eq!(ids_in_thread(&store, 1), (1..=2 * run).collect::<Vec<_>>());
}

/// Text ids share a bucket. If it is damaged, a read of any of them reports the damage instead of an absent record, and no
/// text id is given twice.
#[test]
fn a_damaged_bucket_of_text_ids_does_not_pass_for_an_absent_one() {
    let dir = tempfile::tempdir().unwrap();
    let notes = notes();
    let mut load = Load::new(Store::create(&dir.path().join("db"), notes).unwrap());
    let mut records = Records::new(notes, 0);
    for number in 1..=100 {
        records.push_stored(&format!(r#"{{"id":"n{number:03}"}}"#), id(number)).unwrap();
    }
    load.put([&records], &RecordSet::of(records.iter())).unwrap();
    let store = load.finish().unwrap();
    let (key, value) = store.db.scan_prefix(layout::NAMES).nth(1).unwrap().unwrap();
    let names = store.names_under(&key, &value).unwrap();
    let is_here = |text: &String| layout::bucket_of(store.hash_of(text), 6) == layout::first_hash(&key).unwrap();
    let absent = (0..).map(|nth| format!("absent{nth}")).find(is_here).unwrap();
    for bit in [0, value.len() * 4, value.len() * 8 - 1] {
        let mut damaged = value.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        store.db.insert(&key, damaged).unwrap();
        let read: Vec<bool> = (1..=100).map(|n| store.number_of(&format!("n{n:03}")).is_ok()).collect();
        assert_eq!(read.iter().filter(|is_read| !**is_read).count(), names.len());
        assert!(store.number_of(&absent).is_err(), "the damaged bucket might hold it, so it is not free");
        assert!(store.damage().is_some());
    }
    store.db.insert(&key, value).unwrap();
    assert!((1..=100).all(|n| store.number_of(&format!("n{n:03}")).unwrap() == Some(id(n))));
}

/// The words of records, each with the records' ids.
type Words = BTreeMap<Box<str>, Vec<u64>>;

/// Reads what the store lists, each word in both orders.
fn words_of(store: &Store) -> Words {
    let ids = |word: &str, order: Order| {
        let ids = store.ids_behind(Index::WORDS, &Term::from(word), order, None).unwrap();
        ids.map(|id| id.unwrap().get()).collect::<Vec<u64>>()
    };
    let words = store.texts_from(Index::WORDS, "", usize::MAX - 1).unwrap().unwrap();
    let both = |word: &str| {
        let mut back = ids(word, Order::Descending);
        back.reverse();
        assert_eq!(back, ids(word, Order::Ascending), "{word}");
        back
    };
    words.into_iter().map(|word| (word.clone(), both(&word))).collect()
}

/// Groups of pages in a plain map, which may be roomy.
#[derive(Default)]
struct Pages(Mutex<BTreeMap<u64, PageGroup>>, bool);

impl PageCache for Pages {
    fn find(&self, number: u64) -> Option<PageGroup> {
        self.peek(number)
    }

    fn peek(&self, number: u64) -> Option<PageGroup> {
        self.0.lock().unwrap().get(&number).cloned()
    }

    fn keep(&self, number: u64, group: PageGroup) {
        self.0.lock().unwrap().insert(number, group);
    }

    fn has_room(&self) -> bool {
        self.0.lock().unwrap().len() < 100
    }

    fn is_roomy(&self) -> bool {
        self.1
    }
}

/// Finds the words of the records of a plain map.
fn words_in(records: &BTreeMap<u64, (String, u64)>) -> Words {
    let mut words = Words::new();
    for (id, (json, _)) in records {
        for word in sample::posts().listed_words(json) {
            words.entry(word).or_default().push(*id);
        }
    }
    words
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any writes, many at a time, and any number of reopenings, the store equals a plain map and has given no id
    /// twice.
    #[test]
    fn a_committed_store_equals_a_map(
        steps in prop::collection::vec((prop::collection::vec((0_u8..4, 0_usize..40, 1_u64..4), 1..40), any::<bool>()), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut store = Store::create(&path, sample::posts()).unwrap();
        store.keep_pages_in(Arc::new(Pages::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut model: BTreeMap<u64, (String, u64)> = BTreeMap::new();
        let mut kept: BTreeMap<String, u64> = BTreeMap::new();
        let mut given = std::collections::BTreeSet::new();
        let mut commit = Commit::start(&store, Durability::Process).unwrap();
        // One who follows the changes, also after the store is opened again.
        let begun = store.follow().last_change();
        let (mut place, mut followed, mut written) = (begun, BTreeMap::new(), Vec::new());
        for (operations, reopen) in steps {
            // The writes are handed in together. They are decided in this order, in any number of groups.
            let decisions = operations.iter().map(|&(operation, which, thread)| {
                commit.write(move |now: &mut Transaction| {
                    let key = format!("key-{which}");
                    let kept = if operation == 0 { now.kept(&key).unwrap() } else { None };
                    if let Some(kept) = kept {
                        return (0, kept.id, Some((kept.json, kept.revision)));
                    }
                    let id = if operation < 2 { now.next_id().unwrap() } else { id(which as u64 + 1) };
                    let found = now.get(id).unwrap();
                    if operation >= 2 && found.is_none() {
                        return (9, id, None);
                    }
                    if operation == 3 {
                        now.remove(id, found.unwrap());
                        return (3, id, None);
                    }
                    let json = json(id.get(), thread).replace(r#""t""#, &format!(r#""w{which} of{thread} all""#));
                    let revision = now.put(now.read(id, &json));
                    if operation == 0 {
                        now.keep_answer(key, KeptRecord::new(now.time(), [0; 32], id, revision, json.clone()));
                    }
                    assert!(now.ids(sample::IN_THREAD, &Term::Id("1".parse().unwrap())).is_ok());
                    (operation, id, Some((json, revision)))
                })
            });
            let outcomes = runtime.block_on(futures_util::future::join_all(decisions));
            for (&(operation, which, _), outcome) in operations.iter().zip(outcomes) {
                let (done, id, record) = outcome.unwrap();
                match (done, record) {
                    (3, _) => prop_assert!(model.remove(&id.get()).is_some()),
                    (9, _) => prop_assert!(!model.contains_key(&id.get())),
                    (_, Some(record)) => {
                        if operation == 0 {
                            let first = *kept.entry(format!("key-{which}")).or_insert(record.1);
                            prop_assert_eq!(first, record.1, "a key was answered twice");
                            if !given.insert(id.get()) {
                                continue;
                            }
                        } else if operation == 1 {
                            prop_assert!(given.insert(id.get()), "the id {} was given twice", id);
                        }
                        written.push(record.1);
                        model.insert(id.get(), record);
                    }
                    _ => unreachable!(),
                }
            }
            let changes = store.follow().changes_after(place, usize::MAX).unwrap();
            prop_assert!(changes.is_sorted_by(|a, b| a.revision < b.revision));
            let puts: Vec<u64> = changes.iter().filter(|change| !change.is_deletion).map(|change| change.revision).collect();
            prop_assert_eq!(&puts, &written, "each write that was answered, once");
            written.clear();
            for change in changes {
                place = change.revision;
                if change.is_deletion {
                    let last: Option<(String, u64)> = followed.remove(&change.id());
                    prop_assert!(last.is_some_and(|(last, _)| last == *change.json));
                } else {
                    followed.insert(change.id(), (change.json.to_string(), change.revision));
                }
            }
            prop_assert_eq!(&followed, &model);
            // Twice: what the first one has read lies in memory, and is old after the next step.
            for number in (1..60).chain(1..60) {
                let found = store.get(id(number)).unwrap().map(|stored| (stored.json().to_vec(), stored.revision));
                let expected = model.get(&number).map(|(text, revision)| (text.clone().into_bytes(), *revision));
                prop_assert_eq!(&found, &expected);
                let in_memory = store.get_from_memory(id(number));
                prop_assert_eq!(&in_memory.map(|stored| (stored.json().to_vec(), stored.revision)), &expected);
            }
            if reopen {
                // The committer's thread ends soon after its last handle; until then it keeps the database open.
                drop(commit);
                store.sync().unwrap();
                drop(store);
                store = Store::open(&path, sample::posts(), Purpose::Serving).unwrap();
                store.keep_pages_in(Arc::new(Pages(Mutex::default(), true)));
                prop_assert_eq!(store.follow().last_change(), place);
                prop_assert_eq!(words_of(&store), words_in(&model));
                if place > begun {
                    prop_assert_eq!(store.follow().changes_after(place - 1, 1).unwrap().len(), 1, "the journal has it");
                }
                commit = Commit::start(&store, Durability::Process).unwrap();
            }
        }
        let found: BTreeMap<u64, (String, u64)> = store.records().map(|record| {
            let (id, stored) = record.unwrap();
            (id.get(), (String::from_utf8(stored.json().to_vec()).unwrap(), stored.revision))
        }).collect();
        for (id, (text, revision)) in &model {
            prop_assert_eq!(found.get(id), Some(&(text.clone(), *revision)));
        }
        prop_assert_eq!(found.len(), model.len());
        prop_assert_eq!(words_of(&store), words_in(&found));
        let in_thread = |thread: u64| model.iter().filter(|(_, (text, _))| text.contains(&format!("\"thread\":{thread},"))).map(|(id, _)| *id).collect::<Vec<_>>();
        for thread in 1..4 {
            prop_assert_eq!(ids_in_thread(&store, thread), in_thread(thread));
        }
    }

    /// After any changes and reopenings, records, indexes and revisions equal those of a plain map.
    #[test]
    fn a_written_store_equals_a_map(
        loaded in prop::collection::btree_map(1_u64..600, 1_u64..4, 0..300),
        steps in prop::collection::vec((prop::collection::btree_map(1_u64..600, prop::option::of((1_u64..4, 0_usize..9)), 1..200), any::<bool>()), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut load = Load::new(Store::create(&path, sample::posts()).unwrap());
        put(&mut load, &posts(&loaded.iter().map(|(id, thread)| (*id, *thread)).collect::<Vec<_>>()));
        let mut store = load.finish().unwrap();
        let mut model: BTreeMap<u64, (u64, String, u64)> =
            loaded.into_iter().map(|(id, thread)| (id, (thread, json(id, thread), 1))).collect();
        let mut last_id = model.keys().last().copied().unwrap_or_default();
        let mut revision = 1;
        for (changes, reopen) in steps {
            if reopen {
                store.sync().unwrap();
                drop(store);
                store = Store::open(&path, sample::posts(), Purpose::Serving).unwrap();
            }
            let mut records = Records::new(sample::posts(), 0);
            let mut removed = Vec::new();
            for (number, change) in changes {
                match change {
                    Some((thread, length)) => {
                        let text = "é".repeat(length * 400);
                        let json = format!(r#"{{"id":{number},"thread":{thread},"text":"{text}","user":1}}"#);
                        records.push(&json, None).unwrap();
                        revision += 1;
                        model.insert(number, (thread, json, revision));
                    }
                    None => {
                        removed.push(Change::Remove(id(number)));
                        model.remove(&number);
                    }
                }
            }
            write(&store, &records, removed);
            last_id = last_id.max(model.keys().last().copied().unwrap_or_default());
            // No id is given twice, not even that of a removed record after a reopening.
            prop_assert_eq!(Writer::new(&store).unwrap().next_id().unwrap().get(), last_id + 1);
        }
        let found: Vec<(u64, String, u64)> = store.records().map(|record| {
            let (id, stored) = record.unwrap();
            (id.get(), String::from_utf8(stored.json().to_vec()).unwrap(), stored.revision)
        }).collect();
        let expected: Vec<(u64, String, u64)> =
            model.iter().map(|(id, (_, json, revision))| (*id, json.clone(), *revision)).collect();
        prop_assert_eq!(found, expected);
        for thread in 1..4 {
            let listed: Vec<u64> = model.iter().filter(|(_, post)| post.0 == thread).map(|(id, _)| *id).collect();
            prop_assert_eq!(ids_in_thread(&store, thread), listed);
        }
        let mut entries = store.entries();
        let mut count = 0;
        while let Some(entry) = entries.next() {
            entry.unwrap();
            count += 1;
        }
        prop_assert_eq!(count, 2 * model.len());
        prop_assert_eq!(store.db.scan_prefix([3]).count(), model.values().filter(|post| layout::lies_apart(post.1.as_bytes())).count());
        for run in store.db.scan_prefix([layout::INDEX]) {
            let (key, value) = run.unwrap();
            prop_assert!(layout::decode_run(&key, layout::unseal(&key, &value).unwrap()).unwrap().len() <= layout::RUN_IDS);
        }
    }

    /// In whatever order ids arrive, the index lists each once, sorted, in runs of at most RUN_IDS.
    #[test]
    fn an_index_equals_a_sorted_map(groups in prop::collection::vec((1_u64..4, prop::collection::btree_set(1_u64..2000, 1..400)), 1..8)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
        let mut model: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (thread, ids) in groups {
            let known = model.entry(thread).or_default();
            let ids: Vec<Id> = ids.into_iter().filter(|number| !known.contains(number)).map(id).collect();
            store.list(sample::IN_THREAD, &Term::Id(id(thread)), &ids).unwrap();
            known.extend(ids.iter().map(|id| id.get()));
            known.sort_unstable();
        }
        for (thread, known) in &model {
            prop_assert_eq!(&ids_in_thread(&store, *thread), known);
        }
        let mut entries = store.entries();
        let mut count = 0;
        while let Some(entry) = entries.next() {
            let (prefix, id) = entry.unwrap();
            let thread = u64::from_be_bytes(*prefix.last_chunk().unwrap());
            prop_assert!(model[&thread].contains(&id.get()));
            count += 1;
        }
        prop_assert_eq!(count, model.values().map(Vec::len).sum::<usize>());
        for run in store.db.scan_prefix([layout::INDEX]) {
            let (key, value) = run.unwrap();
            prop_assert!(layout::decode_run(&key, layout::unseal(&key, &value).unwrap()).unwrap().len() <= layout::RUN_IDS);
        }
    }

    /// After any changes to text ids, each is found with its number, no other is found, and buckets stay short. With `old`,
    /// the database begins with the index of an earlier version.
    #[test]
    fn an_index_of_text_ids_equals_a_map(
        loaded in prop::collection::btree_map("[ab\u{0}é]{1,5}", Just(()), 0..200),
        old in any::<bool>(),
        steps in prop::collection::vec(
            (prop::collection::btree_map(1_u64..400, prop::option::of("[ab\u{0}é]{1,5}"), 1..150), any::<bool>()),
            1..8,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut model: BTreeMap<u64, String> = (1..).zip(loaded.into_keys()).collect();
        // A file's text ids come in any order.
        let mut load = Load::new(Store::create(&path, notes()).unwrap());
        let mut records = Records::new(notes(), 0);
        model.iter().rev().for_each(|(number, text)| records.push_stored(&note(text), id(*number)).unwrap());
        put(&mut load, &records);
        let mut store = load.finish().unwrap();
        if old {
            store.remove_index(0).unwrap();
            store.db.remove(layout::BUCKETS_KEY).unwrap();
            for (number, text) in &model {
                let key = [&[2, 0], text.as_bytes(), &[0xFF], &number.to_be_bytes()].concat();
                store.put(&key, &[0]).unwrap();
            }
        }
        for (changes, reopen) in steps {
            if reopen || old {
                store.sync().unwrap();
                drop(store);
                store = Store::open(&path, notes(), Purpose::Serving).unwrap();
            }
            let (mut records, mut removed) = (Records::new(notes(), 0), Vec::new());
            for (number, text) in changes {
                match text {
                    Some(text) if model.iter().all(|(other, has)| *has != text || *other == number) => {
                        records.push_stored(&note(&text), id(number)).unwrap();
                        model.insert(number, text);
                    }
                    _ => {
                        removed.push(Change::Remove(id(number)));
                        model.remove(&number);
                    }
                }
            }
            write(&store, &records, removed);
            for (number, text) in &model {
                prop_assert_eq!(store.number_of(text).unwrap(), Some(id(*number)));
                prop_assert!(store.lists(Index::IDS, &Term::from(&**text), id(*number)).unwrap());
                let longer = format!("{text}a");
                let known = model.iter().find(|(_, text)| **text == longer).map(|(number, _)| id(*number));
                prop_assert_eq!(store.number_of(&longer).unwrap(), known);
            }
        }
        let (mut entries, mut found) = (store.entries(), BTreeMap::new());
        while let Some(entry) = entries.next() {
            let (prefix, number) = entry.unwrap();
            prop_assert!(found.insert(number.get(), prefix.to_vec()).is_none());
        }
        let entry = |text: &String| store.entry_prefix(Index::IDS, &Term::from(&**text));
        prop_assert_eq!(found, model.iter().map(|(id, text)| (*id, entry(text))).collect());
        for bucket in store.db.scan_prefix(layout::NAMES) {
            let (key, value) = bucket.unwrap();
            prop_assert_eq!(layout::check(&key, &value), Ok(()));
            prop_assert!(store.names_under(&key, &value).unwrap().len() < 5 * layout::BUCKET_NAMES as usize);
        }
    }
}

/// Returns a collection of records that have a text id and nothing else.
fn notes() -> Collection {
    let declared = r#"{"name":"notes","ids":"text","fields":[],"indexes":[]}"#;
    Collection::of(record::declaration::Declaration::read(declared).unwrap())
}

fn note(id: &str) -> String {
    format!(r#"{{"id":{}}}"#, serde_json::json!(id))
}

/// The bytes of an earlier version's index of text ids: one run, of both records.
#[test]
fn text_ids_of_an_earlier_version_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::create(&path, notes()).unwrap();
    let mut records = Records::new(notes(), 0);
    for (text, number) in [("a", 9), ("é", 300)] {
        records.push_stored(&note(text), id(number)).unwrap();
    }
    write(&store, &records, Vec::new());
    store.remove_index(0).unwrap();
    store.db.remove(layout::BUCKETS_KEY).unwrap();
    store.put(b"\x02\0a\xFF\0\0\0\0\0\0\0\x09", &[1, 2, 0xC3, 0xA9, 251, 44, 1]).unwrap();
    store.sync().unwrap();
    drop(store);
    for _ in 0..2 {
        let store = Store::open(&path, notes(), Purpose::Passing).unwrap();
        let numbers = ["a", "é", "b"].map(|text| store.number_of(text).unwrap());
        assert_eq!(numbers, [Some(id(9)), Some(id(300)), None]);
        assert_eq!(store.db.scan_prefix(layout::NAMES).count(), 1);
    }
}

/// A hash is no proof: a text is the id of a record only if the record says so.
#[test]
fn texts_with_one_hash_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut load = Load::new(Store::create(&dir.path().join("db"), notes()).unwrap());
    let mut records = Records::new(notes(), 0);
    for (text, number) in [("b", 1), ("a", 2)] {
        records.push_stored(&note(text), id(number)).unwrap();
    }
    put(&mut load, &records);
    let store = load.finish().unwrap();
    let hash = store.hash_of("a");
    for (names, found) in [(&[(hash, id(1)), (hash, id(2))][..], Some(id(2))), (&[(hash, id(1))], None)] {
        store.put(&layout::bucket_key(0), &layout::encode_names(names)).unwrap();
        assert_eq!(store.number_of("a").unwrap(), found);
    }
}

/// Readers never miss a text id while buckets are halved.
#[test]
fn text_ids_are_found_while_others_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), notes()).unwrap();
    let (last, ended) = (std::sync::atomic::AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                let last = last.load(Ordering::Acquire);
                for number in 1..=last {
                    assert_eq!(store.number_of(&format!("n{number}")).unwrap(), Some(id(number)));
                }
            }
        });
        let mut writer = Writer::new(&store).unwrap();
        for first in (0..3000).step_by(50) {
            let mut records = Records::new(notes(), 0);
            for number in first + 1..=first + 50 {
                records.push_stored(&note(&format!("n{number}")), id(number)).unwrap();
            }
            let changes: Vec<_> = records.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
            let mut step = Step::default();
            writer.step(&changes, &mut step).unwrap();
            store.apply_in_parts(&step).unwrap();
            writer.note_fresh();
            last.store(first + 50, Ordering::Release);
        }
        ended.store(true, Ordering::Release);
    });
}

/// Starts a process's life on a database of notes: returns it and its writer.
fn reopen(path: &Path) -> (Store, Writer) {
    let store = Store::open(path, notes(), Purpose::Passing).unwrap();
    let writer = Writer::new(&store).unwrap();
    (store, writer)
}

/// The newest text ids are in memory only, and move into buckets over many steps. Wherever that is interrupted, each is
/// found and listed once, and a start reads a bounded number of them.
#[test]
fn new_text_ids_are_found_wherever_a_process_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(Store::create(&path, notes()).unwrap());
    let mut chance = fastrand::Rng::with_seed(7);
    let (mut model, mut last, mut most_read) = (BTreeMap::<u64, String>::new(), 0, 0);
    for _ in 0..60 {
        let (store, mut writer) = reopen(&path);
        let read = store.shared.unlisted.all();
        most_read = most_read.max(read.len());
        // A newer file's records get lower ids than others that are written earlier.
        let mut reserved: Vec<u64> = (last + 1..=last + chance.u64(0..20)).collect();
        last += reserved.len() as u64;
        writer.give_no_id_up_to(last);
        for _ in 0..chance.usize(1..12) {
            let mut records = Records::new(notes(), 0);
            let added = (last + 1..=last + chance.u64(0..20)).chain(reserved.pop_if(|_| chance.bool()));
            let added: Vec<u64> = added.collect();
            let mut changed: Vec<u64> = model.keys().copied().filter(|_| chance.u8(..) < 8).collect();
            let removed = changed.split_off(changed.len() / 2);
            for number in added.iter().chain(&changed) {
                last = last.max(*number);
                let renamed = !changed.contains(number) || chance.bool();
                let text = if renamed { format!("{number} {}", chance.u64(..)) } else { model[number].clone() };
                records.push_stored(&note(&text), id(*number)).unwrap();
                model.insert(*number, text);
            }
            removed.iter().for_each(|number| drop(model.remove(number)));
            let puts: Vec<_> = records.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
            let removed = removed.into_iter().map(|number| Change::Remove(id(number)));
            writer.apply(&puts.into_iter().chain(removed).collect::<Vec<_>>()).unwrap();
        }
        for (number, text) in &model {
            assert_eq!(store.number_of(text).unwrap(), Some(id(*number)), "{text}");
        }
        let entry = |(number, text): (&u64, &String)| (*number, store.entry_prefix(Index::IDS, &Term::from(&**text)));
        let (mut entries, mut found) = (store.entries(), BTreeMap::new());
        while let Some(entry) = entries.next() {
            let (prefix, number) = entry.unwrap();
            assert!(found.insert(number.get(), prefix.to_vec()).is_none(), "{number} is listed twice");
        }
        assert_eq!(found, model.iter().map(entry).collect());
        store.sync().unwrap();
    }
    assert!(model.len() > 400 && most_read > 40, "{} records, {most_read} read", model.len());
    assert!(most_read < 400, "{most_read}");
}

/// A text id that cannot be read at a start may be any: what is not found fails, and nothing becomes of its place.
#[test]
fn a_new_text_id_that_is_damaged_does_not_pass_for_an_absent_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(Store::create(&path, notes()).unwrap());
    let (store, _) = reopen(&path);
    let mut records = Records::new(notes(), 0);
    (1..=20).for_each(|number| records.push_stored(&note(&format!("n{number}")), id(number)).unwrap());
    write(&store, &records, Vec::new());
    let key = layout::page_key(1);
    let mut value = store.db.get(key).unwrap().unwrap().to_vec();
    *value.last_mut().unwrap() ^= 1;
    store.db.insert(key, value).unwrap();
    store.sync().unwrap();
    drop(store);
    let (store, _) = reopen(&path);
    assert_eq!(store.number_of("n19").unwrap(), Some(id(19)));
    assert!(matches!(store.number_of("n20"), Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.number_of("other"), Err(StoreError::Corrupt { .. })));
}

/// A bucket may be damaged after a text id was taken that belongs there.
#[test]
fn a_damaged_bucket_does_not_stop_writes_of_other_text_ids() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), notes()).unwrap();
    let mut writer = Writer::new(&store).unwrap();
    let mut add = |numbers: std::ops::RangeInclusive<u64>| {
        let mut records = Records::new(notes(), 0);
        numbers.for_each(|number| records.push_stored(&note(&format!("n{number}")), id(number)).unwrap());
        let puts: Vec<_> = records.iter().map(|record| Change::Put(record, writer.next_revision())).collect();
        writer.apply(&puts)
    };
    add(1..=145).unwrap();
    for bucket in store.db.scan_prefix(layout::NAMES) {
        store.db.insert(bucket.unwrap().0, b"damaged").unwrap();
    }
    // So many records need no further bucket.
    for number in 146..160 {
        add(number..=number).unwrap();
        assert!((1..=number).all(|number| store.number_of(&format!("n{number}")).unwrap() == Some(id(number))));
    }
}
