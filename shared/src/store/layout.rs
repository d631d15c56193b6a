//! The bytes of keys and values.
//!
//! ```text
//! key    00 "collection"                      value  01 name                  which collection this database holds
//!        01 id                                       01 envelope              a record
//!        02 index term first-id                      01 gaps                  a run of an index
//!
//! id, first-id   8 bytes, big-endian: key order is id order
//! index          1 byte, the number of a model's index
//! term           an id: 8 bytes, big-endian · a text: its UTF-8, then FF, which no UTF-8 holds,
//!                so that no term is the beginning of another
//! 01 …           the format's version, then bincode (standard configuration: little-endian, variable-length integers)
//! name           bincode of a string
//! envelope       bincode of revision: u64, id_from_position: bool, json: bytes
//! gaps           bincode of a list of u64: what to add to first-id for the second id, to that for the third, …
//! ```
//!
//! The JSON lies at the end of its envelope exactly as it will be sent, so a GET copies from sled's memory to the
//! socket and parses nothing. Reference fields are not repeated beside it: only a write needs them, and it has to
//! read the record anyway.
//!
//! An index keeps the ids of a term in runs of up to [`RUN_IDS`], not each id in a key of its own: inserting a key is
//! what sled's load costs, and a post would need three of them where it now needs about one.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Encode};

use crate::id::Id;
use crate::model::{Index, Term};

/// The first byte of a record's key.
pub(super) const RECORD: u8 = 1;
/// The first byte of an index run's key.
pub(super) const INDEX: u8 = 2;
/// The key under which the collection's name lies.
pub(super) const COLLECTION_KEY: &[u8] = b"\0collection";
/// The first byte of every value.
const VERSION: u8 = 1;

/// How many ids one run of an index holds at most.
pub const RUN_IDS: usize = 128;

/// The largest record, in bytes of JSON. Bounds what a hostile file or a damaged length can make us allocate.
pub const RECORD_BYTES: usize = 16 << 20;

/// Nothing stored is larger than a record and its envelope's few bytes.
const CONFIG: Configuration<LittleEndian, Varint, Limit<{ RECORD_BYTES + 64 }>> =
    bincode::config::standard().with_limit::<{ RECORD_BYTES + 64 }>();

/// A record and what the store keeps with it.
#[derive(Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub(super) struct Envelope<'a> {
    pub(super) revision: u64,
    pub(super) id_from_position: bool,
    pub(super) json: &'a [u8],
}

pub(super) fn record_key(id: Id) -> [u8; 9] {
    let mut key = [RECORD; 9];
    key[1..].copy_from_slice(&id.get().to_be_bytes());
    key
}

pub(super) fn record_id(key: &[u8]) -> Option<Id> {
    last_id(key).filter(|_| key.len() == 9)
}

/// The beginning that all runs of `term` share.
pub(super) fn term_prefix(index: Index, term: &Term) -> Vec<u8> {
    let mut key = vec![INDEX, index.0];
    match term {
        Term::Id(id) => key.extend_from_slice(&id.get().to_be_bytes()),
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

/// The id that ends a key.
pub(super) fn last_id(key: &[u8]) -> Option<Id> {
    Id::try_from(u64::from_be_bytes(*key.last_chunk()?)).ok()
}

pub(super) fn encode_record(revision: u64, id_from_position: bool, json: &[u8]) -> Vec<u8> {
    encode(json.len(), Envelope { revision, id_from_position, json })
}

pub(super) fn decode_record(value: &[u8]) -> Result<Envelope<'_>, String> {
    decode(value)
}

pub(super) fn encode_name(name: &str) -> Vec<u8> {
    encode(name.len(), name)
}

pub(super) fn decode_name(value: &[u8]) -> Result<String, String> {
    decode::<&str>(value).map(str::to_owned)
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
    bincode::encode_into_std_write(value, &mut bytes, CONFIG).expect("memory takes every value");
    bytes
}

fn decode<'a, T: BorrowDecode<'a, ()>>(value: &'a [u8]) -> Result<T, String> {
    let [VERSION, rest @ ..] = value else {
        return Err(format!("a value begins with {:?}, not with the format version {VERSION}", value.first()));
    };
    match bincode::borrow_decode_from_slice(rest, CONFIG) {
        Ok((decoded, length)) if length == rest.len() => Ok(decoded),
        Ok((_, length)) => Err(format!("a value has {} bytes too many", rest.len() - length)),
        Err(error) => Err(format!("a value cannot be decoded: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> Id {
        number.try_into().unwrap()
    }

    /// Whoever changes these bytes needs a new version and a way to read the old one.
    #[test]
    fn the_bytes_are_what_they_were() {
        assert_eq!(record_key(id(258)), [1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(encode_record(1, true, b"{}"), [1, 1, 1, 2, b'{', b'}']);
        assert_eq!(encode_record(300, false, b"{}"), [1, 251, 44, 1, 0, 2, b'{', b'}']);
        assert_eq!(encode_name("posts"), b"\x01\x05posts");
        let by_id = term_prefix(Index(2), &Term::Id(id(7)));
        assert_eq!(run_key(&by_id, 9), [2, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(term_prefix(Index(1), &Term::from("é")), [2, 1, 0xC3, 0xA9, 0xFF]);
        assert_eq!(encode_run(&[id(9), id(10), id(1009)]), [1, 2, 1, 251, 231, 3]);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let value = encode_record(3, true, b"{\"a\":1}");
        assert_eq!(decode_record(&value), Ok(Envelope { revision: 3, id_from_position: true, json: b"{\"a\":1}" }));
        let ids = [1, 2, 300, i64::MAX as u64].map(id);
        assert_eq!(decode_run(&run_key(b"prefix", 1), &encode_run(&ids)), Ok(ids.to_vec()));
        assert_eq!(record_id(&record_key(Id::MAX)), Some(Id::MAX));
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        for value in
            [&b""[..], b"\x02", b"\x01", b"\x01\x01\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff", b"\x01\x01\x01\x02{}x"]
        {
            assert!(decode_record(value).is_err(), "{value:?}");
        }
        let key = run_key(b"", 1);
        for value in [
            &b"\x01\x01\x00"[..],
            b"\x01\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\x7f",
        ] {
            assert!(decode_run(&key, value).is_err(), "{value:?}");
        }
        assert!(decode_run(&run_key(b"", 0), b"\x01\x00").is_err());
        assert!(decode_run(b"short", b"\x01\x00").is_err());
    }
}
