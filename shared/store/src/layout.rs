//! The bytes of keys and values: the layout's second version. `v1.rs` reads the first.
//!
//! ```text
//! key    00 "database"                        body  name history          which collection this is, and which database
//!        00 "counters"                              revision last-id set  may lag behind the journal
//!        00 "declared"                              declaration           which of its indexes are whole
//!        00 "lap"                                   lap                   the number of the journal's lap
//!        00 "buckets"                               buckets               how many there are, where ids are texts
//!        00 "named"                                 last-id               buckets list the records up to here
//!        00 "applied"                               run groups            how much of a newer file's changes is applied
//!        00 "indexed"                               last-id               the words of records up to here are listed
//!        00 "position"                              position              how far a replica has followed its stream
//!        00 "apart"                                 text                  why it must follow it no more
//!        01 page                                    table entry entry …   up to 16 records
//!        02 index term first-id                     gaps                  a run of an index: ids of one term
//!        02 00 first-hash                           names                 a bucket of the ids, where those are texts
//!        03 id revision part                        json                  a part of a record too long for its page
//!        04 idempotency-key                         kept                  the answer to a request that may be repeated
//!        05 time idempotency-key                    empty                 when that answer may be forgotten
//!
//! value          02, the CRC-32C of key, 02 and body (4 bytes, little-endian), body; of a page: of key, 02 and table
//! page, id, first-id, revision in a key   8 bytes, big-endian: key order is id order; page is id / 16
//! index          1 byte, the number of a declared index; 0 is that of the ids, where ids are texts; 255 of words
//! part           2 bytes, big-endian, from 0; each is PART_BYTES long but for the last, which is shorter
//! term           an id: 8 bytes, big-endian · a text: its UTF-8, then FF, which no UTF-8 holds, so that no term is the
//!                beginning of another · a text of more than TERM_BYTES: FE, then its SHA-256 · a text in an index with an
//!                order: its UTF-8, in which FF follows each 00, then 00 00; a longer one is cut, then has 00 01 and its
//!                SHA-256. So what is the beginning of another text comes before it · a number: the bytes of
//!                [`Number`](record::number::Number); of more than TERM_BYTES only so many, then the SHA-256 of all
//! table          the number of entries: 1 byte; for each, by ascending slot: its slot (id mod 16): 1 byte; where it
//!                ends, counted from the table's end, and its CRC-32C: 4 bytes each, little-endian
//! entry          bincode of revision: u64, flags: u8; then the record's JSON to the entry's end, or no JSON if it lies
//!                under 03. Flags: 1 the id is from the record's position, 2 the JSON lies under 03; no others are known
//! name, history  bincode of a string and a u64, which is random: databases that began apart have different ones
//! revision       in a value: the highest that a record of this database ever had
//! last-id        the highest that a record of this database ever had
//! set            count: u64, sum: [u64; 4]: the [`RecordSet`] of all records
//! run, groups    bincode of two u64: which run of `seed`, and how many of its groups of changes are applied
//! position       bincode of a [`Position`](super::Position)
//! kept           bincode of request: [u8; 32], id: u64, revision: u64, json: bytes, until: time as u64
//! time           8 bytes, big-endian: seconds since 1970
//! declaration    JSON of a declaration, without the fields that are not indexed
//! gaps           bincode of a list of u64: the second id minus first-id, the third minus the second, …
//! hash           of a text id: the first 8 bytes of the SHA-256 of history (8 bytes, little-endian) and text. Nobody who
//!                does not know history can choose texts that share a hash or a bucket
//! first-hash     8 bytes, big-endian: a bucket has the hashes from there up to the next bucket's
//! buckets        a u64 as bincode; `bucket_of` says which there are. A database of an earlier version has none, and
//!                under 02 00 runs of texts in order; `names.rs` builds its buckets when it is opened
//! names          of each text id: its hash, then its record's number, 8 bytes each, big-endian; ascending. A bucket may
//!                still have names that moved to a newer one
//! ```
//!
//! `idempotency.rs` makes and reads the bytes of 04 and 05.
//!
//! bincode has its standard configuration: little-endian, variable-length integers. A value's checksum covers its key, so
//! a value under a wrong key is detected, too. Every read is checked. Of a page, a read checks the table and the entries
//! it needs: checking the whole page would make a read of one record several times slower.
//!
//! The JSON lies in its entry exactly as it is sent, so a GET sends sled's own memory and parses nothing. Reference
//! fields are not repeated beside it: only a write needs them, and it reads the record anyway.
//!
//! Keys are the main cost in sled. So neighbours share a page, and the ids of a term share runs of up to [`RUN_IDS`]:
//! sixteen records under one key are written and scanned several times faster than under sixteen keys, and a post needs a
//! fraction of a key instead of three. `bench/split` measures the gain.

use std::iter;
use std::sync::Arc;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Decode, Encode};
use record::id::Id;
use record::model::{Index, Term};
use record::reader::RECORD_BYTES;
use record::record_set::RecordSet;
use sha2::{Digest, Sha256};

use crate::Agreed;

/// The first byte of a page's key.
pub(super) const PAGE: u8 = 1;
/// The first byte of an index run's key.
pub(super) const INDEX: u8 = 2;
/// The first byte of the key of a record part, stored apart from its page.
const APART: u8 = 3;
/// The key of the database's identity.
pub(super) const DATABASE_KEY: &[u8] = b"\0database";
/// The key of the counters.
pub(super) const COUNTERS_KEY: &[u8] = b"\0counters";
/// The key of the declaration that the indexes follow from.
pub(super) const DECLARED_KEY: &[u8] = b"\0declared";
/// The key of the journal's lap.
pub(super) const LAP_KEY: &[u8] = b"\0lap";
/// The key of the number of buckets, where ids are texts.
pub(super) const BUCKETS_KEY: &[u8] = b"\0buckets";
/// The key of the highest id up to which buckets list all records, where ids are texts.
pub(super) const NAMED_KEY: &[u8] = b"\0named";
/// The key of the count of a newer file's changes that are applied.
pub(super) const APPLIED_KEY: &[u8] = b"\0applied";
/// The key of the highest id whose words are listed.
pub(super) const INDEXED_KEY: &[u8] = b"\0indexed";
/// The key of how far a replica has followed its stream.
pub(super) const POSITION_KEY: &[u8] = b"\0position";
/// The key of the declaration by which a replica has decided its stream's commands.
pub(super) const RULED_KEY: &[u8] = b"\0ruled";
/// The key of the declaration that the stream has changed over to.
pub(super) const ANNOUNCED_KEY: &[u8] = b"\0announced";
/// The key of the rules that a replica's records contradict.
pub(super) const CONTRADICTED_KEY: &[u8] = b"\0contradicted";
/// The key of the reason why a replica must not follow its stream any more.
pub(super) const APART_KEY: &[u8] = b"\0apart";
/// The first byte of every value.
const VERSION: u8 = 2;
/// The offset of the body in a value: behind the version and the checksum.
pub(super) const BODY: usize = 5;

/// The binary logarithm of the number of ids that share a page.
pub(super) const PAGE_BITS: u32 = 4;

/// The highest slot of a page.
pub(super) const LAST_SLOT: u8 = (1 << PAGE_BITS) - 1;

/// The longest JSON that lies in a page, in bytes; a longer record lies apart.
const ENTRY_BYTES: usize = 4 << 10;

/// The length of a part of such a record, in bytes of JSON. It keeps values short enough for sled
/// ([`SEGMENT`](super::SEGMENT)).
pub(super) const PART_BYTES: usize = 64 << 10;

/// The longest text that stands in an index key as it is, in bytes. sled keeps keys in memory, and repeats them in its
/// branches. A service accepts no name this long, but a split does.
const TERM_BYTES: usize = 1 << 10;

/// The most ids that one run of an index holds.
pub const RUN_IDS: usize = 128;

/// Numbers below this are a byte each in bincode. Most gaps are, and bincode takes much longer for each.
const SHORT: u64 = 251;

/// The number of text ids for each bucket. A write rewrites the bucket of its id.
pub(super) const BUCKET_NAMES: u64 = 32;

/// The encoding. Nothing stored is larger than a record and its envelope's few bytes.
const CONFIG: Configuration<LittleEndian, Varint, Limit<{ RECORD_BYTES + 64 }>> =
    bincode::config::standard().with_limit::<{ RECORD_BYTES + 64 }>();

/// A record in its page, with what the store keeps beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) slot: u8,
    pub(super) revision: u64,
    pub(super) id_from_position: bool,
    /// `None` if the record lies apart.
    pub(super) json: Option<&'a [u8]>,
}

/// The most bytes of an entry before its JSON: its revision and its flags.
const HEAD_BYTES: usize = 10;

/// The entry's flag: the id is from the record's position.
const FROM_POSITION: u8 = 1;
/// The entry's flag: the record lies apart from its page.
const LIES_APART: u8 = 2;

/// The identity of a database.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Identity {
    /// The name of its collection.
    pub(super) name: String,
    /// A random number: databases that began apart have different ones.
    pub(super) history: u64,
}

/// The counters of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Counters {
    pub(super) revision: u64,
    pub(super) last_id: u64,
    /// The set of its records.
    pub(super) records: RecordSet,
}

impl From<Counters> for Agreed {
    fn from(Counters { revision, last_id, records }: Counters) -> Self {
        Self { revision, last_id, records }
    }
}

/// Changes that belong together. They are idempotent: repeating the step gives the same state, even after a part of it.
#[derive(Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Step {
    /// Keys with their new values. The order keeps everything findable after each put.
    pub(super) puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys to remove, after the puts.
    pub(super) removes: Vec<Vec<u8>>,
    /// The counters after the step.
    pub(super) counters: Counters,
}

impl Step {
    /// Adds a key and the body of its value.
    pub(super) fn put(&mut self, key: impl Into<Vec<u8>>, body: &[u8]) {
        let key = key.into();
        let value = seal(&key, body);
        self.puts.push((key, value));
    }
}

/// Returns a record's page and its slot there.
pub(super) fn place(id: Id) -> (u64, u8) {
    (id.get() >> PAGE_BITS, (id.get() & ((1 << PAGE_BITS) - 1)) as u8)
}

/// Returns the id for a slot of a page, or `None` if the pair is out of range.
pub(super) fn id_at(page: u64, slot: u8) -> Option<Id> {
    let id =
        page.checked_mul(1 << PAGE_BITS)?.checked_add(u64::from(slot)).filter(|_| u32::from(slot) < 1 << PAGE_BITS)?;
    Id::try_from(id).ok()
}

pub(super) fn page_key(page: u64) -> [u8; 9] {
    tagged(PAGE, page)
}

/// Returns the page that a key names.
pub(super) fn page_of(key: &[u8]) -> Option<u64> {
    let [PAGE, page @ ..] = key else { return None };
    page.try_into().ok().map(u64::from_be_bytes)
}

/// Builds the key of a part of a record. A part never changes: a later write has another revision.
pub(super) fn part_key(id: Id, revision: u64, part: u16) -> Vec<u8> {
    [&tagged(APART, id.get())[..], &revision.to_be_bytes(), &part.to_be_bytes()].concat()
}

/// Splits a record that lies apart into parts: their keys and their bytes.
pub(super) fn parts(id: Id, revision: u64, json: &[u8]) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
    // The last part is shorter than the others, empty if need be: that marks the end.
    (0_u16..=(json.len() / PART_BYTES) as u16).map(move |part| {
        let begin = usize::from(part) * PART_BYTES;
        (part_key(id, revision, part), &json[begin..json.len().min(begin + PART_BYTES)])
    })
}

/// Returns whether a record with this JSON lies apart from its page.
pub(super) fn lies_apart(json: &[u8]) -> bool {
    json.len() > ENTRY_BYTES
}

/// Builds a key of `tag` and `number`.
pub(super) fn tagged(tag: u8, number: u64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A term as it stands in a key. Terms sort as their keys do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(super) struct TermKey {
    /// The first bytes: a sort compares these and rarely needs the text.
    head: [u8; 8],
    /// The whole term, or `None` if the head is the whole. Equal terms share it if they can, and are then compared fast.
    text: Option<Arc<[u8]>>,
}

impl TermKey {
    /// Returns the key of a term that is a number in keys: an id, or the hash of a text id.
    pub(super) fn of_head(head: u64) -> Self {
        Self { head: head.to_be_bytes(), text: None }
    }

    pub(super) fn of(term: &Term) -> Self {
        if let Term::Id(id) = term {
            return Self::of_head(id.get());
        }
        let mut text = Vec::new();
        push_term(term, &mut text);
        Self::of_text(text.into())
    }

    /// Returns the key of a term that stands as `text` in keys.
    pub(super) fn of_text(text: Arc<[u8]>) -> Self {
        Self { head: head_of(&text).to_be_bytes(), text: Some(text) }
    }

    /// Returns the first bytes as a number. Terms with different heads sort as their heads do.
    pub(super) fn head(&self) -> u64 {
        u64::from_be_bytes(self.head)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.text.as_deref().unwrap_or(&self.head)
    }
}

/// Returns the first bytes of a term's text as a number. No term is a prefix of another, so the padding of a short one does
/// not matter.
pub(super) fn head_of(text: &[u8]) -> u64 {
    let mut head = [0; 8];
    let length = text.len().min(head.len());
    head[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(head)
}

/// Builds the prefix of all runs of `term`.
pub(super) fn term_prefix(index: Index, term: &TermKey) -> Vec<u8> {
    [&[INDEX, index.0], term.bytes()].concat()
}

/// Builds the prefix of all runs of `term`, as [`term_prefix`] does.
pub(super) fn prefix_of(index: Index, term: &Term) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(64);
    prefix.extend([INDEX, index.0]);
    push_term(term, &mut prefix);
    prefix
}

/// Returns the end of all runs of `index`: no key of it is this or comes behind it.
pub(super) fn index_end(index: Index) -> [u8; 2] {
    (u16::from_be_bytes([INDEX, index.0]) + 1).to_be_bytes()
}

/// Appends `term` as it stands in a key.
pub(super) fn push_term(term: &Term, key: &mut Vec<u8>) {
    match term {
        Term::Id(id) => key.extend(id.get().to_be_bytes()),
        Term::Text(text) if text.len() > TERM_BYTES => {
            key.push(0xFE);
            key.extend(Sha256::digest(text.as_bytes()));
        }
        Term::Text(text) => {
            key.reserve(text.len() + 1);
            key.extend_from_slice(text.as_bytes());
            key.push(0xFF);
        }
        Term::Ordered(text) => push_ordered(text, key),
        Term::Number(number) => push_number(number.bytes(), key),
    }
}

/// Appends the bytes of a text that sort as texts do, by their code points.
fn push_ordered(text: &str, key: &mut Vec<u8>) {
    key.reserve(text.len() + 2);
    for byte in text.bytes().take(TERM_BYTES) {
        key.push(byte);
        if byte == 0 {
            key.push(0xFF);
        }
    }
    if text.len() > TERM_BYTES {
        key.extend([0, 1]);
        key.extend(Sha256::digest(text.as_bytes()));
    } else {
        key.extend([0, 0]);
    }
}

/// Appends the bytes of a number in a key. Those that are cut sort among the others as before, since none are the beginning of
/// others.
fn push_number(bytes: &[u8], key: &mut Vec<u8>) {
    match bytes.get(..TERM_BYTES) {
        Some(begin) if bytes.len() > TERM_BYTES => {
            key.extend_from_slice(begin);
            key.extend(Sha256::digest(bytes));
        }
        _ => key.extend_from_slice(bytes),
    }
}

/// Builds the key of the run that begins with `first`.
pub(super) fn run_key(prefix: &[u8], first: u64) -> Vec<u8> {
    [prefix, &first.to_be_bytes()].concat()
}

/// Encodes the body of a run; its ids ascend.
pub(super) fn encode_run(run: &[Id]) -> Vec<u8> {
    let gaps = || run.windows(2).map(|pair| pair[1].get() - pair[0].get());
    if run.len() <= SHORT as usize && gaps().all(|gap| gap < SHORT) {
        return iter::once(gaps().count() as u64).chain(gaps()).map(|number| number as u8).collect();
    }
    encode(gaps().collect::<Vec<u64>>())
}

/// Decodes the ids of the run under `key`.
pub(super) fn decode_run(key: &[u8], body: &[u8]) -> Result<Vec<Id>, String> {
    let mut id = last_id(key).ok_or("an index key does not end in an id")?;
    let gaps = decode_gaps(body)?;
    let mut ids = Vec::with_capacity(1 + gaps.len());
    ids.push(id);
    for gap in gaps {
        let next = id.get().checked_add(gap).filter(|_| gap > 0).and_then(|next| Id::try_from(next).ok());
        id = next.ok_or("the ids of an index run do not ascend")?;
        ids.push(id);
    }
    Ok(ids)
}

fn decode_gaps(body: &[u8]) -> Result<Vec<u64>, String> {
    match body.split_first() {
        Some((count, gaps))
            if usize::from(*count) == gaps.len() && body.iter().all(|byte| u64::from(*byte) < SHORT) =>
        {
            Ok(gaps.iter().map(|gap| u64::from(*gap)).collect())
        }
        _ => decode(body),
    }
}

/// The hash of a text id, and its record's number.
pub(super) type Name = (u64, Id);

/// The prefix of all buckets of names.
pub(super) const NAMES: [u8; 2] = [INDEX, Index::IDS.0];

/// Computes the hash of a text id in a database of this `history`.
pub(super) fn hash_of(history: u64, text: &str) -> u64 {
    let digest = Sha256::new().chain_update(history.to_le_bytes()).chain_update(text).finalize();
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Returns the first hash of the bucket that `hash` belongs to, if there are so many `buckets`: a power of two that
/// are equally wide, the first of them halved.
pub(super) fn bucket_of(hash: u64, buckets: u64) -> u64 {
    let bits = buckets.ilog2();
    let halved = buckets - (1 << bits);
    let is_halved = hash.checked_shr(64 - bits).unwrap_or(0) < halved;
    hash & !(u64::MAX >> (bits + u32::from(is_halved)))
}

/// Returns the first hash of the bucket that is added to so many `buckets`: the second half of the first one that is
/// not halved yet.
pub(super) fn next_bucket(buckets: u64) -> u64 {
    let bits = buckets.ilog2();
    (2 * (buckets - (1 << bits)) + 1) << (63 - bits)
}

/// Builds the key of the bucket that begins with `first_hash`.
pub(super) fn bucket_key(first_hash: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&NAMES);
    key[2..].copy_from_slice(&first_hash.to_be_bytes());
    key
}

/// Returns the first hash of the bucket under `key`.
pub(super) fn first_hash(key: &[u8]) -> Option<u64> {
    key.strip_prefix(&NAMES)?.try_into().ok().map(u64::from_be_bytes)
}

/// The length of a name in a bucket.
const NAME: usize = 16;

/// Encodes the body of a bucket; `names` ascend.
pub(super) fn encode_names(names: &[Name]) -> Vec<u8> {
    let numbers = names.iter().map(|(hash, number)| [hash.to_be_bytes(), number.get().to_be_bytes()]);
    numbers.collect::<Vec<_>>().as_flattened().as_flattened().to_vec()
}

/// Decodes the names of a bucket.
pub(super) fn decode_names(body: &[u8]) -> Result<Vec<Name>, String> {
    let (names, []) = body.as_chunks::<NAME>() else {
        return Err("a bucket of the ids is cut short".to_owned());
    };
    let names: Option<Vec<Name>> = names.iter().map(decode_name).collect();
    let names = names.ok_or("a bucket of the ids holds an invalid number")?;
    if names.is_sorted_by(|a, b| a < b) { Ok(names) } else { Err("the ids of a bucket do not ascend".to_owned()) }
}

fn decode_name(name: &[u8; NAME]) -> Option<Name> {
    let [hash, number] = [0, 8].map(|at| name[at..].first_chunk().map_or(0, |number| u64::from_be_bytes(*number)));
    Some((hash, Id::try_from(number).ok()?))
}

/// Iterates over the numbers of the texts with this `hash` in a bucket: mostly one at most.
pub(super) fn numbers_under(body: &[u8], hash: u64) -> impl Iterator<Item = Id> {
    let (names, _) = body.as_chunks::<NAME>();
    let alike = names.iter().filter(move |name| name.starts_with(&hash.to_be_bytes()));
    alike.filter_map(decode_name).map(|(_, number)| number)
}

/// Returns whether the value under `key` is a bucket of names.
pub(super) fn lists_names(key: &[u8]) -> bool {
    key.starts_with(&NAMES)
}

/// Returns the id that a run's key has for a term.
pub(super) fn referred_id(key: &[u8]) -> Option<Id> {
    let [INDEX, _, term @ ..] = key else { return None };
    Id::try_from(u64::from_be_bytes(*term.first_chunk()?)).ok()
}

/// Returns the text that a run's key has for a term, or `None` if the key holds its digest.
pub(super) fn listed_text(key: &[u8]) -> Option<&str> {
    let [INDEX, _, term @ ..] = key else { return None };
    let (0xFF, text) = term.get(..term.len().checked_sub(size_of::<u64>())?)?.split_last()? else { return None };
    std::str::from_utf8(text).ok()
}

/// Returns the id at the end of a key.
pub(super) fn last_id(key: &[u8]) -> Option<Id> {
    Id::try_from(u64::from_be_bytes(*key.last_chunk()?)).ok()
}

/// Builds the value of `body` under `key`: version, checksum, body.
pub(super) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(BODY + body.len());
    value.push(VERSION);
    value.extend_from_slice(&checksum(key, body).to_le_bytes());
    value.extend_from_slice(body);
    value
}

/// Checks `value`, found under `key`, and returns its body.
pub(super) fn unseal<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], String> {
    match value {
        [VERSION, crc @ ..] => match crc.split_first_chunk() {
            Some((crc, body)) if u32::from_le_bytes(*crc) == checksum(key, body) => Ok(body),
            Some(_) => Err("its checksum does not match".to_owned()),
            None => Err("it has no checksum".to_owned()),
        },
        _ => Err(format!("it begins with {:?}, not with the layout's version {VERSION}", value.first())),
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &[VERSION]);
    crc32c::crc32c_append(crc, body)
}

/// Describes a key, for messages.
pub(super) fn describe_key(key: &[u8]) -> String {
    let number =
        |at: usize| key.get(at..).and_then(|rest| rest.first_chunk()).map(|number| u64::from_be_bytes(*number));
    match (key.first(), number(1)) {
        (Some(&PAGE), Some(page)) if page <= Id::MAX.get() >> PAGE_BITS => {
            let first = page << PAGE_BITS;
            format!("the page of ids {first} to {}", first + u64::from(LAST_SLOT))
        }
        (Some(&APART), Some(id)) => format!("a part of record {id}"),
        (Some(&INDEX), _) => format!("a run of index {} ({})", key.get(1).unwrap_or(&0), key[1..].escape_ascii()),
        _ => format!("the key {}", key.escape_ascii()),
    }
}

/// Encodes a page's value under `key`; `entries` ascend by slot.
pub(super) fn encode_page(key: &[u8], entries: &[Entry]) -> Vec<u8> {
    let table_end = BODY + 1 + ROW * entries.len();
    let json: usize = entries.iter().map(|entry| entry.json.map_or(0, <[u8]>::len)).sum();
    let mut value = Vec::with_capacity(table_end + HEAD_BYTES * entries.len() + json);
    value.resize(table_end, 0);
    let mut table = Vec::with_capacity(table_end - BODY);
    table.push(u8::try_from(entries.len()).expect("a page holds sixteen records"));
    for Entry { slot, revision, id_from_position, json } in entries {
        let from_position = if *id_from_position { FROM_POSITION } else { 0 };
        let apart = if json.is_none() { LIES_APART } else { 0 };
        let begin = value.len();
        put((*revision, from_position | apart), &mut value);
        value.extend_from_slice(json.unwrap_or_default());
        table.push(*slot);
        let end = u32::try_from(value.len() - table_end).expect("a page holds sixteen records that are short");
        table.extend_from_slice(&end.to_le_bytes());
        table.extend_from_slice(&crc32c::crc32c(&value[begin..]).to_le_bytes());
    }
    value[..table_end].copy_from_slice(&seal(key, &table));
    value
}

/// A page whose table has been checked. Each entry is checked when it is read.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    table: &'a [[u8; ROW]],
    entries: &'a [u8],
}

/// The length of a table's row: slot, end, checksum.
const ROW: usize = 9;

impl<'a> Page<'a> {
    /// Reads `value`, found under `key`, as a page.
    pub(super) fn read(key: &[u8], value: &'a [u8]) -> Result<Self, String> {
        let table_end = BODY + 1 + ROW * usize::from(value.get(BODY).copied().unwrap_or_default());
        let Some((sealed, entries)) = value.split_at_checked(table_end) else {
            return Err("its table is cut short".to_owned());
        };
        let (_, table) = unseal(key, sealed)?.split_first().ok_or("it is empty")?;
        Ok(Self { table: table.as_chunks().0, entries })
    }

    /// Returns the entry in `slot`, if any.
    pub(super) fn find(self, slot: u8) -> Result<Option<Entry<'a>>, String> {
        self.table.binary_search_by_key(&slot, |row| row[0]).ok().map(|nth| self.entry(nth)).transpose()
    }

    /// Iterates over all entries.
    pub(super) fn iter(self) -> impl Iterator<Item = Result<Entry<'a>, String>> {
        (0..self.table.len()).map(move |nth| self.entry(nth))
    }

    /// Returns the highest slot with an entry.
    pub(super) fn last_slot(self) -> Option<u8> {
        self.table.last().map(|row| row[0])
    }

    fn entry(self, nth: usize) -> Result<Entry<'a>, String> {
        let row = |nth: usize| {
            let [slot, e0, e1, e2, e3, crc @ ..] = self.table[nth];
            (slot, u32::from_le_bytes([e0, e1, e2, e3]) as usize, u32::from_le_bytes(crc))
        };
        let begin = if nth == 0 { 0 } else { row(nth - 1).1 };
        let (slot, end, crc) = row(nth);
        let entry = self.entries.get(begin..end).ok_or("an entry ends outside the page")?;
        if crc32c::crc32c(entry) != crc {
            return Err(format!("the checksum of entry {slot} does not match"));
        }
        let ((revision, flags), length): ((u64, u8), usize) = bincode::borrow_decode_from_slice(entry, CONFIG)
            .map_err(|error| format!("entry {slot} cannot be decoded: {error}"))?;
        if flags & !(FROM_POSITION | LIES_APART) != 0 {
            return Err(format!("entry {slot} has flags {flags:#04x} that this version does not know"));
        }
        let json = (flags & LIES_APART == 0).then_some(&entry[length..]);
        Ok(Entry { slot, revision, id_from_position: flags & FROM_POSITION != 0, json })
    }
}

/// Encodes `value` with bincode.
pub(super) fn encode(value: impl Encode) -> Vec<u8> {
    let mut body = Vec::new();
    put(value, &mut body);
    body
}

/// Checks the whole `value` found under `key`, if it is a page or a run; otherwise only its checksum.
pub(super) fn check(key: &[u8], value: &[u8]) -> Result<(), String> {
    if key.first() == Some(&PAGE) {
        let page = page_of(key).ok_or("it is not a page's key")?;
        return Page::read(key, value)?.iter().try_for_each(|entry| {
            id_at(page, entry?.slot).map(drop).ok_or_else(|| "it holds an invalid id".to_owned())
        });
    }
    let body = unseal(key, value)?;
    match key.first() {
        Some(&INDEX) if lists_names(key) => decode_names(body).map(drop),
        Some(&INDEX) => decode_run(key, body).map(drop),
        _ => Ok(()),
    }
}

/// Appends `value` to `bytes`.
pub(super) fn put(value: impl Encode, bytes: &mut Vec<u8>) {
    bincode::encode_into_std_write(value, bytes, CONFIG).expect("memory takes every value");
}

/// Decodes all of `body` with bincode.
pub(super) fn decode<'a, T: BorrowDecode<'a, ()>>(body: &'a [u8]) -> Result<T, String> {
    match bincode::borrow_decode_from_slice(body, CONFIG) {
        Ok((decoded, length)) if length == body.len() => Ok(decoded),
        Ok((_, length)) => Err(format!("a value has {} bytes too many", body.len() - length)),
        Err(error) => Err(format!("a value cannot be decoded: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use record::number::Number;

    use super::*;

    fn id(number: u64) -> Id {
        number.try_into().unwrap()
    }

    fn entry(slot: u8, json: &[u8]) -> Entry<'_> {
        Entry { slot, revision: 1, id_from_position: true, json: Some(json) }
    }

    /// A change to these bytes needs a new version and a way to read the old one.
    #[test]
    fn the_layout_does_not_change() {
        assert_eq!(seal(b"123", b"456789"), [&[2, 230, 89, 202, 122][..], b"456789"].concat());
        assert_eq!(place(id(0x1234)), (0x123, 4));
        assert_eq!(page_key(258), [1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(part_key(id(258), 3, 4), b"\x03\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03\0\x04");
        let long_lived = Entry { revision: 300, id_from_position: false, ..entry(14, b"") };
        let apart = Entry { slot: 15, json: None, ..long_lived };
        let crc = |bytes: &[u8]| crc32c::crc32c(bytes).to_le_bytes();
        let entries: [&[u8]; 3] = [b"\x01\x01{}", &[251, 44, 1, 0], &[251, 44, 1, 2]];
        let [first, second, third] = entries.map(crc);
        let rows = [&[3, 2, 4, 0, 0, 0][..], &first, &[14, 8, 0, 0, 0], &second, &[15, 12, 0, 0, 0], &third];
        let page = [seal(b"key", &rows.concat()), entries.concat()].concat();
        assert_eq!(encode_page(b"key", &[entry(2, b"{}"), long_lived, apart]), page);
        assert_eq!(encode(Identity { name: "posts".to_owned(), history: 7 }), b"\x05posts\x07");
        let sum = format!("{:016x}{:048x}", 300, 1);
        let mut records: RecordSet = sum.parse().unwrap();
        records.count = 2;
        assert_eq!(encode(Counters { revision: 300, last_id: 7, records }), [251, 44, 1, 7, 2, 1, 0, 0, 251, 44, 1]);
        let by_id = term_prefix(Index(2), &TermKey::of(&Term::Id(id(7))));
        assert_eq!(run_key(&by_id, 9), [2, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(term_prefix(Index(1), &TermKey::of(&Term::from("é"))), [2, 1, 0xC3, 0xA9, 0xFF]);
        let long = term_prefix(Index(1), &TermKey::of(&Term::from(&*"x".repeat(1025))));
        assert_eq!(long[..7], [2, 1, 0xFE, 0xC6, 0xD8, 0xE9, 0x90]);
        let number = |text: &str| TermKey::of(&Term::Number(Number::read(text).unwrap()));
        assert_eq!(term_prefix(Index(3), &number("-9.50")), [2, 3, 1, 0x7E, 0x9F, 0xFF]);
        let long = term_prefix(Index(3), &number(&"5".repeat(3000)));
        assert_eq!(long.len(), 2 + TERM_BYTES + 32);
        assert_eq!(long[..8], [2, 3, 3, 0xC0, 0, 0, 0, 4]);
        let digest = Sha256::digest(Number::read(&"5".repeat(3000)).unwrap().bytes());
        assert_eq!(long[2 + TERM_BYTES..], digest[..]);
        assert_eq!([index_end(Index(2)), index_end(Index(255))], [[2, 3], [3, 0]]);
        assert_eq!(encode_run(&[id(9), id(10), id(1009)]), [2, 1, 251, 231, 3]);
        for gap in [1, 250, 251] {
            let run: Vec<Id> = (1..=RUN_IDS as u64).map(|nth| id(nth * gap)).collect();
            assert_eq!(encode_run(&run), encode(vec![gap; RUN_IDS - 1]), "{gap}");
            assert_eq!(decode_run(&run_key(b"", gap), &encode_run(&run)), Ok(run));
        }
        assert_eq!(hash_of(7, "é"), 0xBBDD_EF6F_7A19_620E);
        assert_eq!(bucket_key(0xA000_0000_0000_0000), [2, 0, 0xA0, 0, 0, 0, 0, 0, 0, 0]);
        let names = [(0xA102, id(9)), (0xFFFF_0000_0000_0000, id(300))];
        let bytes = b"\0\0\0\0\0\0\xA1\x02\0\0\0\0\0\0\0\x09\xFF\xFF\0\0\0\0\0\0\0\0\0\0\0\0\x01\x2C";
        assert_eq!(encode_names(&names), bytes);
        assert_eq!(decode_names(bytes), Ok(names.to_vec()));
    }

    proptest! {
        /// A key that is cut keeps its place among those with other beginnings, and equal keys are of equal numbers.
        #[test]
        fn keys_of_long_numbers_sort_as_far_as_they_go(
            signs in "-?", common in "[1-9][0-9]{2030,2050}", ends in prop::collection::vec("[059]{0,30}", 2..6),
        ) {
            let numbers = ends.iter().flat_map(|end| [format!("{signs}0.{common}{end}"), format!("{signs}0.{common}{end}0")]);
            let numbers: Vec<Number> = numbers.map(|text| Number::read(&text).unwrap()).collect();
            let keys: Vec<TermKey> = numbers.iter().map(|number| TermKey::of(&Term::Number(number.clone()))).collect();
            for (a, key) in numbers.iter().zip(&keys) {
                for (b, other) in numbers.iter().zip(&keys) {
                    prop_assert_eq!(a == b, key == other);
                    let are_alike = a.bytes().get(..TERM_BYTES) == b.bytes().get(..TERM_BYTES);
                    prop_assert!(are_alike || a.cmp(b) == key.cmp(other));
                    prop_assert!(are_alike || a.cmp(b) == key.bytes().cmp(other.bytes()));
                    prop_assert!(a == b || !key.bytes().starts_with(other.bytes()));
                    prop_assert!(key.bytes().len() <= TERM_BYTES + 32);
                }
            }
        }
    }

    #[test]
    fn decoding_reverses_encoding() {
        let entries = [entry(0, b"{\"a\":1}"), Entry { json: None, ..entry(3, b"") }, entry(15, b"{}")];
        let page = encode_page(b"key", &entries);
        let page = Page::read(b"key", &page).unwrap();
        assert_eq!(page.iter().collect::<Result<Vec<_>, _>>(), Ok(entries.to_vec()));
        for slot in 0..=LAST_SLOT {
            assert_eq!(page.find(slot), Ok(entries.into_iter().find(|entry| entry.slot == slot)));
        }
        assert_eq!(page.last_slot(), Some(15));
        let empty = encode_page(b"key", &[]);
        assert_eq!(Page::read(b"key", &empty).unwrap().iter().count(), 0);
        let ids = [1, 2, 300, i64::MAX as u64].map(id);
        assert_eq!(decode_run(&run_key(b"prefix", 1), &encode_run(&ids)), Ok(ids.to_vec()));
        for id in [id(1), id(16), Id::MAX] {
            let (page, slot) = place(id);
            assert_eq!(page_of(&page_key(page)), Some(page));
            assert_eq!(id_at(page, slot), Some(id));
        }
    }

    #[test]
    fn a_value_with_a_flipped_bit_or_under_another_key_is_refused() {
        let (page, part) = (page_key(3), part_key(id(3), 1, 0));
        let entries = [entry(0, b"{\"a\":1}"), entry(3, b"{}")];
        for (key, value) in [(&page[..], encode_page(&page, &entries)), (&part, seal(&part, b"{\"a\":1}"))] {
            assert_eq!(check(key, &value), Ok(()));
            for bit in 0..value.len() * 8 {
                let mut damaged = value.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(check(key, &damaged).is_err(), "bit {bit}");
            }
            for bit in 8..key.len() * 8 {
                let mut other = key.to_vec();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&other, &value).is_err(), "bit {bit} of the key");
            }
            for length in 0..value.len() {
                assert!(check(key, &value[..length]).is_err(), "{length} bytes");
            }
        }
    }

    /// Another program's bytes may have a matching checksum.
    #[test]
    fn foreign_bodies_with_matching_checksums_are_errors() {
        let key = page_key(3);
        let row = |slot: u8, end: u32, entry: &[u8]| {
            [&[slot][..], &end.to_le_bytes(), &crc32c::crc32c(entry).to_le_bytes()].concat()
        };
        for (table, entries) in [
            (vec![], &b""[..]),
            ([vec![2], row(1, 2, b"\x01\0")].concat(), b"\x01\0"),
            ([vec![1], row(1, 3, b"\x01\0")].concat(), b"\x01\0"),
            ([vec![1], row(1, 1, b"\xfd")].concat(), b"\xfd"),
            ([vec![2], row(1, 2, b"\x01\0"), row(2, 1, b"")].concat(), b"\x01\0"),
            ([vec![1], row(1, 2, b"\x01\x04")].concat(), b"\x01\x04"),
            ([vec![1], row(99, 2, b"\x01\0")].concat(), b"\x01\0"),
        ] {
            let value = [&seal(&key, &table), entries].concat();
            assert!(check(&key, &value).is_err(), "{value:?}");
        }
        for (page, slot) in [(0, 0), (0, 16), (u64::MAX, 1), (1 << 59, 0)] {
            assert_eq!(id_at(page, slot), None);
        }
        let key = run_key(b"", 1);
        for body in [
            &b"\x01\x00"[..],
            b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xfd\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x00\x00",
        ] {
            assert!(decode_run(&key, body).is_err(), "{body:?}");
        }
        assert!(decode_run(&run_key(b"", 0), b"\x00").is_err());
        assert!(decode_run(b"short", b"\x00").is_err());
        let names = |names: &[[u64; 2]]| names.as_flattened().iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
        assert_eq!(decode_names(&names(&[[5, 2], [5, 3], [6, 1]])).map(|names| names.len()), Ok(3));
        for body in [names(&[[5, 0]]), names(&[[5, 2], [5, 2]]), names(&[[5, 2], [4, 3]]), vec![0; 15]] {
            assert!(decode_names(&body).is_err(), "{body:?}");
        }
    }

    /// However many buckets there are, they follow each other without gaps, and a further one halves one of them.
    #[test]
    fn buckets_grow_one_at_a_time() {
        let mut firsts = std::collections::BTreeSet::from([0_u64]);
        for buckets in 1..300 {
            for hash in firsts.iter().flat_map(|first| [*first, first.wrapping_sub(1)]) {
                assert_eq!(Some(&bucket_of(hash, buckets)), firsts.range(..=hash).next_back(), "{hash:x} of {buckets}");
            }
            let next = next_bucket(buckets);
            let halved = bucket_of(next, buckets);
            assert!(firsts.insert(next));
            let end = firsts.range(next + 1..).next().copied().unwrap_or_default();
            assert_eq!(next - halved, end.wrapping_sub(next), "{next:x} of {buckets}");
        }
    }
}
