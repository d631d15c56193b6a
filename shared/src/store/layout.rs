//! The bytes of keys and values.
//!
//! ```text
//! key    00 "collection"                      value  01 name                  which collection this database holds
//!        00 "counters"                               01 revision last-id      absent until something is written, and
//!                                                                              behind what the journal has
//!        01 page                                     01 entry entry …         up to 16 records
//!        02 index term first-id                      01 gaps                  a run of an index
//!        03 id revision part                         01 json                  a part of a record too long for its page
//!        04 idempotency-key                          01 kept                  the answer to a request that may come again
//!        05 time idempotency-key                     nothing                  when that may be forgotten
//!
//! page, id, first-id, revision in a key   8 bytes, big-endian: key order is id order; page is id / 16
//! index          1 byte, the number of a model's index
//! part           2 bytes, big-endian, from 0; each is PART_BYTES long but for the last, which is shorter
//! term           an id: 8 bytes, big-endian · a text: its UTF-8, then FF, which no UTF-8 holds, so that no term is the
//!                beginning of another · a text of more than TERM_BYTES: FE, then its SHA-256
//! 01 …           the format's version, then bincode (standard configuration: little-endian, variable-length integers)
//! name           bincode of a string
//! revision       in a value: bincode of a u64: the highest that a record of this database ever had
//! last-id        bincode of a u64: the highest that a record of this database ever had
//! kept           bincode of request: [u8; 32], id: u64, revision: u64, json: bytes, until: time as u64
//! time           8 bytes, big-endian: seconds since 1970
//! entry          bincode of slot: u8 (id mod 16, ascending), revision: u64, id_from_position: bool, json: bytes;
//!                json is empty where it lies under 03
//! gaps           bincode of a list of u64: what to add to first-id for the second id, to that for the third, …
//! ```
//!
//! The JSON lies in its entry exactly as it will be sent, so a GET sends sled's own memory and parses nothing.
//! Reference fields are not repeated beside it: only a write needs them, and it has to read the record anyway.
//!
//! Neighbours share a page, and the ids of a term share runs of up to [`RUN_IDS`], because a key is what costs in
//! sled: sixteen records to a key go in, and come out in a scan, several times faster than each under its own, and a
//! post would need three keys where it now needs a fraction of one. `bench/split` shows what that gives.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Decode, Encode};
use sha2::{Digest, Sha256};

use crate::id::Id;
use crate::model::{Index, Term};

/// The first byte of a page's key.
pub(super) const PAGE: u8 = 1;
/// The first byte of an index run's key.
pub(super) const INDEX: u8 = 2;
/// The first byte of the key of a record that lies apart from its page.
const APART: u8 = 3;
/// The key under which the collection's name lies.
pub(super) const COLLECTION_KEY: &[u8] = b"\0collection";
/// The key under which the counters lie.
pub(super) const COUNTERS_KEY: &[u8] = b"\0counters";
/// The first byte of every value.
const VERSION: u8 = 1;

/// How many ids share a page: two to this power.
const PAGE_BITS: u32 = 4;

/// The highest slot of a page.
pub(super) const LAST_SLOT: u8 = (1 << PAGE_BITS) - 1;

/// A record whose JSON is longer, in bytes, lies apart from its page.
const ENTRY_BYTES: usize = 4 << 10;

/// How long a part of such a record is, in bytes of JSON: so that no value is long where sled minds
/// ([`SEGMENT`](super::SEGMENT)).
pub(super) const PART_BYTES: usize = 64 << 10;

/// The longest text that stands in a key of an index as it is, in bytes: sled has keys in memory, and at each of its
/// branches. A service takes no name this long, but a split does.
const TERM_BYTES: usize = 1 << 10;

/// How many ids one run of an index holds at most.
pub const RUN_IDS: usize = 128;

/// The largest record, in bytes of JSON. Bounds what a hostile file or a damaged length can make us allocate.
pub const RECORD_BYTES: usize = 16 << 20;

/// Nothing stored is larger than a record and its envelope's few bytes.
const CONFIG: Configuration<LittleEndian, Varint, Limit<{ RECORD_BYTES + 64 }>> =
    bincode::config::standard().with_limit::<{ RECORD_BYTES + 64 }>();

/// A record in its page, and what the store keeps with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub(super) struct Entry<'a> {
    pub(super) slot: u8,
    pub(super) revision: u64,
    pub(super) id_from_position: bool,
    /// Empty where it lies apart.
    pub(super) json: &'a [u8],
}

/// What a database counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Counters {
    pub(super) revision: u64,
    pub(super) last_id: u64,
}

/// Changes that belong together. Doing them once more, or after some of them, ends the same.
#[derive(Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Step {
    /// Keys and the values that they get, in an order in which nothing that is to be found is ever missing.
    pub(super) puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys that go. They come after the puts.
    pub(super) removes: Vec<Vec<u8>>,
    /// What is counted then.
    pub(super) counters: Counters,
}

impl Step {
    pub(super) fn put(&mut self, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.puts.push((key.into(), value));
    }
}

/// The answer to a request that was kept in case it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub(super) struct KeptAnswer<'a> {
    pub(super) request: [u8; 32],
    pub(super) id: u64,
    pub(super) revision: u64,
    pub(super) json: &'a [u8],
    pub(super) until: u64,
}

/// The first byte of the key of what may be forgotten at a time.
pub(super) const FORGET: u8 = 5;

pub(super) fn kept_key(key: &str) -> Vec<u8> {
    [&[4], key.as_bytes()].concat()
}

/// `time` in seconds since 1970.
pub(super) fn forget_key(time: u64, key: &str) -> Vec<u8> {
    [&tagged(FORGET, time), key.as_bytes()].concat()
}

/// The time and the idempotency key of a [`forget_key`].
pub(super) fn forget_key_parts(key: &[u8]) -> Option<(u64, &str)> {
    let (time, key) = key.get(1..)?.split_first_chunk()?;
    Some((u64::from_be_bytes(*time), std::str::from_utf8(key).ok()?))
}

/// Where a record lies: its page and its slot there.
pub(super) fn place(id: Id) -> (u64, u8) {
    (id.get() >> PAGE_BITS, (id.get() & ((1 << PAGE_BITS) - 1)) as u8)
}

/// The id of the record in that slot of that page; nothing where there can be none.
pub(super) fn id_at(page: u64, slot: u8) -> Option<Id> {
    let id =
        page.checked_mul(1 << PAGE_BITS)?.checked_add(u64::from(slot)).filter(|_| u32::from(slot) < 1 << PAGE_BITS)?;
    Id::try_from(id).ok()
}

pub(super) fn page_key(page: u64) -> [u8; 9] {
    tagged(PAGE, page)
}

/// The page that a key names.
pub(super) fn page_of(key: &[u8]) -> Option<u64> {
    let [PAGE, page @ ..] = key else { return None };
    page.try_into().ok().map(u64::from_be_bytes)
}

/// A part of a record, which never changes: what is written later has another revision.
pub(super) fn part_key(id: Id, revision: u64, part: u16) -> Vec<u8> {
    [&tagged(APART, id.get())[..], &revision.to_be_bytes(), &part.to_be_bytes()].concat()
}

/// The parts of a record that lies apart: their keys and what each holds.
pub(super) fn parts(id: Id, revision: u64, json: &[u8]) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
    // The last is shorter than all others, if need be empty: so it shows.
    (0_u16..=(json.len() / PART_BYTES) as u16).map(move |part| {
        let begin = usize::from(part) * PART_BYTES;
        (part_key(id, revision, part), &json[begin..json.len().min(begin + PART_BYTES)])
    })
}

/// Whether a record with this JSON lies apart from its page.
pub(super) fn lies_apart(json: &[u8]) -> bool {
    json.len() > ENTRY_BYTES
}

fn tagged(tag: u8, number: u64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The beginning that all runs of `term` share.
pub(super) fn term_prefix(index: Index, term: &Term) -> Vec<u8> {
    let mut key = vec![INDEX, index.0];
    match term {
        Term::Id(id) => key.extend_from_slice(&id.get().to_be_bytes()),
        Term::Text(text) if text.len() > TERM_BYTES => {
            key.push(0xFE);
            key.extend_from_slice(&Sha256::digest(text.as_bytes()));
        }
        Term::Text(text) => {
            key.extend_from_slice(text.as_bytes());
            key.push(0xFF);
        }
    }
    key
}

/// The key of the run that begins with `first`.
pub(super) fn run_key(prefix: &[u8], first: u64) -> Vec<u8> {
    [prefix, &first.to_be_bytes()].concat()
}

/// The id that the key of a run in an index of ids stands for.
pub(super) fn referred_id(key: &[u8]) -> Option<Id> {
    let [INDEX, _, term @ ..] = key else { return None };
    Id::try_from(u64::from_be_bytes(*term.first_chunk()?)).ok()
}

/// The id that ends a key.
pub(super) fn last_id(key: &[u8]) -> Option<Id> {
    Id::try_from(u64::from_be_bytes(*key.last_chunk()?)).ok()
}

/// `entries` ascend by slot.
pub(super) fn encode_page<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for entry in entries {
        put(entry, &mut bytes);
    }
    bytes
}

/// The entries of a page, each read when it is asked for.
pub(super) fn decode_page(value: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, String>> {
    let mut rest = body(value);
    std::iter::from_fn(move || match rest.clone() {
        Ok([]) => None,
        Ok(bytes) => match bincode::borrow_decode_from_slice::<Entry, _>(bytes, CONFIG) {
            Ok((entry, length)) => {
                rest = Ok(&bytes[length..]);
                Some(Ok(entry))
            }
            Err(error) => {
                rest = Ok(&[]);
                Some(Err(format!("a page cannot be decoded: {error}")))
            }
        },
        Err(error) => {
            rest = Ok(&[]);
            Some(Err(error))
        }
    })
}

pub(super) fn encode_part(json: &[u8]) -> Vec<u8> {
    [&[VERSION], json].concat()
}

pub(super) fn decode_part(value: &[u8]) -> Result<&[u8], String> {
    body(value)
}

pub(super) fn encode_name(name: &str) -> Vec<u8> {
    encode(name.len(), name)
}

pub(super) fn decode_name(value: &[u8]) -> Result<String, String> {
    decode::<&str>(value).map(str::to_owned)
}

pub(super) fn encode_counters(counters: Counters) -> Vec<u8> {
    encode(8, counters)
}

pub(super) fn decode_counters(value: &[u8]) -> Result<Counters, String> {
    decode(value)
}

pub(super) fn encode_kept(kept: KeptAnswer) -> Vec<u8> {
    encode(kept.json.len() + 64, kept)
}

pub(super) fn decode_kept(value: &[u8]) -> Result<KeptAnswer<'_>, String> {
    decode(value)
}

/// `ids` ascend.
pub(super) fn encode_run(ids: &[Id]) -> Vec<u8> {
    let gaps: Vec<u64> = ids.windows(2).map(|pair| pair[1].get() - pair[0].get()).collect();
    encode(2 * ids.len(), gaps)
}

pub(super) fn decode_run(key: &[u8], value: &[u8]) -> Result<Vec<Id>, String> {
    let mut id = last_id(key).ok_or("an index key does not end in an id")?;
    let gaps: Vec<u64> = decode(value)?;
    let mut ids = Vec::with_capacity(1 + gaps.len());
    ids.push(id);
    for gap in gaps {
        let next = id.get().checked_add(gap).filter(|_| gap > 0).and_then(|next| Id::try_from(next).ok());
        id = next.ok_or("the ids of an index run do not ascend")?;
        ids.push(id);
    }
    Ok(ids)
}

fn encode(size_hint: usize, value: impl Encode) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_hint + 16);
    bytes.push(VERSION);
    put(value, &mut bytes);
    bytes
}

/// Appends `value` to `bytes`.
pub(super) fn put(value: impl Encode, bytes: &mut Vec<u8>) {
    bincode::encode_into_std_write(value, bytes, CONFIG).expect("memory takes every value");
}

fn decode<'a, T: BorrowDecode<'a, ()>>(value: &'a [u8]) -> Result<T, String> {
    decode_all(body(value)?)
}

/// The value that `bytes` are, all of them.
pub(super) fn decode_all<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, String> {
    match bincode::borrow_decode_from_slice(bytes, CONFIG) {
        Ok((decoded, length)) if length == bytes.len() => Ok(decoded),
        Ok((_, length)) => Err(format!("a value has {} bytes too many", bytes.len() - length)),
        Err(error) => Err(format!("a value cannot be decoded: {error}")),
    }
}

/// What follows the version.
fn body(value: &[u8]) -> Result<&[u8], String> {
    match value {
        [VERSION, rest @ ..] => Ok(rest),
        _ => Err(format!("a value begins with {:?}, not with the format version {VERSION}", value.first())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> Id {
        number.try_into().unwrap()
    }

    fn entry(slot: u8, json: &[u8]) -> Entry<'_> {
        Entry { slot, revision: 1, id_from_position: true, json }
    }

    /// Whoever changes these bytes needs a new version and a way to read the old one.
    #[test]
    fn the_bytes_are_what_they_were() {
        assert_eq!(place(id(0x1234)), (0x123, 4));
        assert_eq!(page_key(258), [1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(part_key(id(258), 3, 4), b"\x03\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03\0\x04");
        let long_lived = Entry { revision: 300, id_from_position: false, ..entry(15, b"") };
        assert_eq!(encode_page([entry(2, b"{}"), long_lived]), [1, 2, 1, 1, 2, b'{', b'}', 15, 251, 44, 1, 0, 0]);
        assert_eq!(encode_part(b"{}"), b"\x01{}");
        assert_eq!(encode_name("posts"), b"\x01\x05posts");
        assert_eq!(encode_counters(Counters { revision: 300, last_id: 7 }), [1, 251, 44, 1, 7]);
        let kept = KeptAnswer { request: [9; 32], id: 7, revision: 2, json: b"{}", until: 3 };
        assert_eq!(encode_kept(kept), [&[1][..], &[9; 32], &[7, 2, 2], b"{}", &[3]].concat());
        assert_eq!(decode_kept(&encode_kept(kept)), Ok(kept));
        assert_eq!(kept_key("t/k"), b"\x04t/k");
        assert_eq!(forget_key(258, "k"), b"\x05\0\0\0\0\0\0\x01\x02k");
        let by_id = term_prefix(Index(2), &Term::Id(id(7)));
        assert_eq!(run_key(&by_id, 9), [2, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(term_prefix(Index(1), &Term::from("é")), [2, 1, 0xC3, 0xA9, 0xFF]);
        let long = term_prefix(Index(1), &Term::from(&*"x".repeat(1025)));
        assert_eq!(long[..7], [2, 1, 0xFE, 0xC6, 0xD8, 0xE9, 0x90]);
        assert_eq!(encode_run(&[id(9), id(10), id(1009)]), [1, 2, 1, 251, 231, 3]);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let entries = [entry(0, b"{\"a\":1}"), entry(3, b""), entry(15, b"{}")];
        let page = encode_page(entries);
        assert_eq!(decode_page(&page).collect::<Result<Vec<_>, _>>(), Ok(entries.to_vec()));
        assert_eq!(decode_page(&encode_page([])).count(), 0);
        let ids = [1, 2, 300, i64::MAX as u64].map(id);
        assert_eq!(decode_run(&run_key(b"prefix", 1), &encode_run(&ids)), Ok(ids.to_vec()));
        for id in [id(1), id(16), Id::MAX] {
            let (page, slot) = place(id);
            assert_eq!(page_of(&page_key(page)), Some(page));
            assert_eq!(id_at(page, slot), Some(id));
        }
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        for value in [
            &b""[..],
            b"\x02",
            b"\x01\x01",
            b"\x01\x01\x01\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\x01\x01\x01\x02{",
        ] {
            assert!(decode_page(value).any(|entry| entry.is_err()), "{value:?}");
        }
        for (page, slot) in [(0, 0), (0, 16), (u64::MAX, 1), (1 << 59, 0)] {
            assert_eq!(id_at(page, slot), None);
        }
        let key = run_key(b"", 1);
        for value in [
            &b"\x01\x01\x00"[..],
            b"\x01\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x01\x00\x00",
        ] {
            assert!(decode_run(&key, value).is_err(), "{value:?}");
        }
        assert!(decode_run(&run_key(b"", 0), b"\x01\x00").is_err());
        assert!(decode_run(b"short", b"\x01\x00").is_err());
    }
}
