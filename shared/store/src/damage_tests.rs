//! Tests of damage: no answered write is lost silently, and no id is given twice.

use std::collections::BTreeMap;
use std::env;

use record::sample;

use super::tests::{id, json};
use super::*;

/// The number of damaged journals to try, unless `JOURNALS` is set.
const JOURNALS: u64 = 90;

/// The number of them made from one run of a writer.
const EACH: u64 = 15;

/// A database with its journal, as a killed process leaves it, and the answered writes.
struct Killed {
    dir: tempfile::TempDir,
    answered: BTreeMap<u64, String>,
}

impl Killed {
    /// Writes groups of posts and changes; then copies the files of the open database.
    fn after(rng: &mut fastrand::Rng, durability: Durability) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let store = Store::create(&live, sample::posts()).unwrap();
        let commit = Commit::start(&store, durability).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut answered = BTreeMap::new();
        for _ in 0..rng.u64(1..60) {
            let known = answered.len() as u64;
            // Some groups are too long for a journal's area.
            let is_long = rng.u8(..20) == 0;
            let writes: Vec<_> = (0..if is_long { 70 } else { rng.u64(1..12) })
                .map(|_| {
                    let length = if is_long { 8999 } else { rng.usize(0..9000) };
                    let (new, thread) = (rng.bool(), rng.u64(1..9));
                    let old = rng.u64(1..known.max(1) + 1);
                    commit.write(move |now: &mut Transaction| {
                        let id = if new || known == 0 { now.next_id().unwrap() } else { id(old) };
                        let text = "x".repeat(length);
                        let json = format!(r#"{{"id":{id},"thread":{thread},"text":"{text}","user":1}}"#);
                        now.put(now.read(id, &json));
                        (id.get(), json)
                    })
                })
                .collect();
            for written in runtime.block_on(futures_util::future::join_all(writes)) {
                let (id, json) = written.unwrap();
                answered.insert(id, json);
            }
        }
        copy_of_live(&live, &dir.path().join("killed"));
        drop(commit);
        Self { dir, answered }
    }

    fn copy(&self, name: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        copy(&self.dir.path().join("killed"), &to.join("db"));
        to
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            match fs::copy(entry.path(), to.join(entry.file_name())) {
                // sled has replaced one of its snapshots.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

/// Copies the files of an open database between two of sled's writes.
fn copy_of_live(live: &Path, to: &Path) {
    let again = to.with_extension("again");
    loop {
        for copied in [to, &again] {
            let _ = fs::remove_dir_all(copied);
            copy(live, copied);
        }
        let same = |name| fs::read(to.join(name)).unwrap() == fs::read(again.join(name)).unwrap();
        if same("db") && same("journal") {
            return fs::remove_dir_all(again).unwrap();
        }
    }
}

fn all(store: &Store) -> BTreeMap<u64, String> {
    let read = |record: Result<(Id, Stored), StoreError>| {
        let (id, stored) = record.unwrap();
        (id.get(), String::from_utf8(stored.json().to_vec()).unwrap())
    };
    store.records().map(read).collect()
}

/// Damages a journal in a way that disks, file systems or people do. Returns a description.
fn damage(path: &Path, rng: &mut fastrand::Rng) -> String {
    let mut bytes = fs::read(path).unwrap();
    // Damage has an effect only where something was written.
    let mut at = rng.usize(..bytes.len());
    for _ in 0..200 {
        if bytes[at] != 0 {
            break;
        }
        at = rng.usize(..bytes.len());
    }
    let what = match rng.u8(..7) {
        0 | 1 => {
            bytes[at] ^= 1 << rng.u8(..8);
            format!("a bit flipped at {at}")
        }
        2 | 3 => {
            let page = at / 4096 * 4096;
            let end = bytes.len().min(page + 4096);
            bytes[page..end].fill(0);
            format!("the page at {page} zeroed")
        }
        4 => {
            let sector = at / 512 * 512;
            let end = bytes.len().min(sector + 512);
            rng.fill(&mut bytes[sector..end]);
            format!("the sector at {sector} random")
        }
        5 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        _ => {
            fs::remove_file(path).unwrap();
            return "removed".to_owned();
        }
    };
    fs::write(path, bytes).unwrap();
    what
}

#[test]
fn a_damaged_journal_never_passes_for_an_empty_one() {
    let journals = env::var("JOURNALS").map_or(JOURNALS, |journals| journals.parse().expect("JOURNALS is a number"));
    let mut rng = fastrand::Rng::new();
    let (mut tried, mut refused) = (0, 0);
    while tried < journals {
        let durability = *rng.choice(&[Durability::Power, Durability::Process]).unwrap();
        let killed = Killed::after(&mut rng, durability);
        let open = |folder: &Path| Store::open(&folder.join("db"), sample::posts(), Purpose::Passing);
        // Without damage, all answered writes are there.
        let sound = killed.copy("sound");
        assert_eq!(all(&open(&sound).unwrap()), killed.answered);
        for number in 0..EACH {
            let folder = killed.copy(&format!("damaged-{number}"));
            let what = damage(&folder.join("db/journal"), &mut rng);
            tried += 1;
            match open(&folder) {
                Ok(store) => {
                    let found = all(&store);
                    let lost = killed.answered.iter().find(|(id, json)| found.get(id) != Some(json));
                    assert_eq!(lost.map(|(id, _)| id), None, "{what}: lost silently");
                }
                Err(StoreError::Lost { hole, .. }) => {
                    refused += 1;
                    accept(&folder, &killed.answered, &format!("{what}; {hole}"));
                }
                Err(error) => panic!("{what}: {error}"),
            }
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    println!("{tried} damaged journals, {refused} refused, none silent");
    assert!(refused > 0, "the test damaged nothing");
}

/// Checks that the database is sound after its loss is accepted, and that no id is given again.
fn accept(folder: &Path, answered: &BTreeMap<u64, String>, what: &str) {
    let folder = Folder::lock(folder).unwrap();
    let refused = folder.open(sample::posts(), Purpose::Passing, OnDamage::Refuse).err();
    assert!(matches!(refused, Some(StoreError::Lost { .. })), "{what}: still refused");
    let store = folder.open(sample::posts(), Purpose::Passing, OnDamage::AcceptLoss).unwrap();
    let found = all(&store);
    let scrub = Scrub::run(&store, Snapshot::of(&store).unwrap(), false, &Default::default()).unwrap();
    assert_eq!((scrub.damage, scrub.records), (vec![], Some(found.len() as u64)), "{what}");
    let listed: Vec<u64> = (1..9)
        .flat_map(|thread| store.ids(sample::IN_THREAD, &Term::Id(id(thread))))
        .map(|id| id.unwrap().get())
        .collect();
    let mut listed_in_order = listed.clone();
    listed_in_order.sort_unstable();
    assert_eq!(listed_in_order, found.keys().copied().collect::<Vec<_>>(), "{what}: the index lists all records");
    let next = Writer::new(&store).unwrap().next_id().unwrap().get();
    assert!(answered.keys().all(|id| *id < next), "{what}: {next} was given before");
}

/// Guards against a bug: old counters of the lap's start were trusted, though pages held higher ids.
#[test]
fn ids_never_run_backwards_even_with_old_counters() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
    let mut records = record::model::Records::new(sample::posts(), 0);
    records.push(&json(700, 1), None).unwrap();
    Writer::new(&store).unwrap().apply(&[Change::Put(records.iter().next().unwrap(), 2)]).unwrap();
    store.put_counters(Counters { last_id: 3, ..store.counters().unwrap() }).unwrap();
    assert_eq!(Writer::new(&store).unwrap().next_id().unwrap().get(), 701);
    let key = layout::page_key(layout::place(id(700)).0);
    store.db.insert(key, b"damaged").unwrap();
    assert_eq!(Writer::new(&store).unwrap().next_id().unwrap().get(), 704, "no id of the damaged page is given");
}

/// A group's step holds whole pages: it can be much longer than the records written, and longer than a record may be.
#[test]
fn a_group_longer_than_a_lap_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = Store::create(&live, sample::posts()).unwrap();
    let commit = Commit::start(&store, Durability::Power).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let long = |id: u64, length: usize| format!(r#"{{"id":{id},"thread":1,"text":"{}","user":1}}"#, "x".repeat(length));
    let write = |number: u64, length: usize| {
        commit.write(move |now: &mut Transaction| {
            let id = id(number);
            now.put(now.read(id, &long(id.get(), length)));
        })
    };
    for round in 0..3 {
        let all = (1..=800).map(|id| write(id, 4000 - round));
        runtime.block_on(futures_util::future::join_all(all)).into_iter().for_each(|written| written.unwrap());
        let sparse = (0..50).map(|page| write(page * 16 + 1, 30 + round));
        runtime.block_on(futures_util::future::join_all(sparse)).into_iter().for_each(|written| written.unwrap());
        let copied = dir.path().join(format!("killed-{round}"));
        copy_of_live(&live, &copied);
        assert!(fs::metadata(copied.join("journal")).unwrap().len() > 2 << 20, "no group was longer than an area");
        let store = Store::open(&copied, sample::posts(), Purpose::Passing).unwrap();
        let found = all_lengths(&store);
        let expected =
            (1..=800_u64).map(|number| long(number, if number % 16 == 1 { 30 + round } else { 4000 - round }).len());
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}

fn all_lengths(store: &Store) -> Vec<usize> {
    store.records().map(|record| record.unwrap().1.json().len()).collect()
}

/// Flips bits in all values of a small database: it serves only what was written.
#[test]
fn damage_to_a_value_is_an_error_that_names_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("db"), sample::posts()).unwrap();
    let mut records = record::model::Records::new(sample::posts(), 0);
    for number in 1..=20 {
        records.push(&json(number, number % 3 + 1), None).unwrap();
    }
    let mut load = Load::new(store);
    load.put([&records], &record::record_set::RecordSet::of(records.iter())).unwrap();
    let store = load.finish().unwrap();
    let pairs: Vec<_> = store.db.iter().map(Result::unwrap).collect();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut damaged = 0;
    for (key, value) in &pairs {
        for _ in 0..40 {
            let mut bytes = value.to_vec();
            bytes[rng.usize(..value.len())] ^= 1 << rng.u8(..8);
            store.db.insert(key, bytes).unwrap();
            let scrub =
                Scrub::run(&store, Snapshot::begin(&store, Counters::default()), false, &Default::default()).unwrap();
            let name = layout::describe_key(key);
            assert!(scrub.damage.iter().any(|what| what.contains(&name)), "{name}: {scrub:?}");
            for number in 1..=20 {
                match store.get(id(number)) {
                    Ok(stored) => assert_eq!(stored.unwrap().json(), json(number, number % 3 + 1).as_bytes()),
                    Err(error) => {
                        damaged += 1;
                        assert!(error.to_string().contains(&name), "{error}");
                    }
                }
            }
        }
        store.db.insert(key, value).unwrap();
    }
    assert!(damaged > 100 && store.damage().is_some());
    // A missing record has no checksum: only the database's count reveals it.
    store.db.remove(layout::page_key(1)).unwrap();
    let scrub = Scrub::run(&store, Snapshot::of(&store).unwrap(), false, &Default::default()).unwrap();
    assert!(scrub.damage[0].contains("its records are not those that it counts: 15 records"), "{scrub:?}");
}
