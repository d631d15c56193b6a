//! The messages of a stream.
//!
//! ```text
//! message   01, then bincode of a Message
//! ```
//!
//! All replicas of a collection read the same messages, also those of another version of the program: what one of them
//! does not know, it must not skip. So a new kind of message is a new version. What is of a known version and cannot be
//! decoded is nobody's message, and has no effect on any replica.

use bincode::{Decode, Encode};
use sha2::{Digest, Sha256};

/// The version of the rules by which a service decides commands, limits and messages of refusals included. Count it up
/// with each change of an outcome: replicas with other rules must not decide the same stream.
pub const RULES: u32 = 1;

/// The first byte of each message.
const VERSION: u8 = 1;

/// A message of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// The first message: what every replica begins with.
    Begin(Begin),
    /// What clients asked of one replica, to be decided in this order.
    Commands(Commands),
    /// What a replica's records amount to.
    State(StateBehind),
    /// From here on, commands are decided by this.
    Switch(Ruled),
}

/// The state of a database before the stream's first command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Begin {
    /// The collection's name.
    pub collection: String,
    /// The state of its database, in words that are the same for the same records.
    pub state: String,
    /// By what the first commands are decided.
    pub ruled: Ruled,
}

/// By what commands are decided, whole: a replica with another declaration can go on by this.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ruled {
    /// The rules.
    pub rules: Rules,
    /// The text of their declaration.
    pub declaration: String,
}

impl Ruled {
    /// Returns the rules of this program for the declaration with this text.
    pub fn of(declaration: String) -> Self {
        Self { rules: Rules::of(declaration.as_bytes()), declaration }
    }
}

/// The state of a replica's database behind a message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StateBehind {
    /// A random number of the replica's process.
    pub publisher: u64,
    /// The message's number in the stream.
    pub sequence: u64,
    /// The state, in words that are the same for the same records.
    pub state: String,
}

/// Commands of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Commands {
    /// A random number of the replica's process.
    pub publisher: u64,
    /// The message's number among the publisher's, ascending.
    pub number: u64,
    /// The time, in the stream's milliseconds since 1970, after which the message has no effect.
    pub until: u64,
    /// The rules by which the publisher would decide the commands.
    pub rules: Rules,
    /// The commands, as the service encodes them.
    pub commands: Vec<Vec<u8>>,
}

/// What the outcome of a command depends on beside the records. Replicas with other rules could decide otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Rules {
    /// The version of the program's rules.
    pub program: u32,
    /// The beginning of the SHA-256 of the declaration.
    pub declaration: u64,
}

impl Rules {
    /// Returns the rules of this program for the declaration with this text.
    pub fn of(declaration: &[u8]) -> Self {
        let digest = Sha256::digest(declaration);
        Self { program: RULES, declaration: digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first)) }
    }
}

impl Message {
    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bincode::encode_into_std_write(self, &mut bytes, bincode::config::standard()).expect("memory takes all");
        bytes
    }

    /// Tells whether a newer version of the program has made a message: all messages are another version's then.
    pub fn is_newer(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|version| *version > VERSION)
    }

    /// Decodes a message. Returns `None` if no version of the program has made it, or a [newer](Self::is_newer) one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, body) = bytes.split_first()? else { return None };
        // A length in a message is at most that of the message, which the broker limits.
        let config = bincode::config::standard().with_limit::<{ 64 << 20 }>();
        let (message, length) = bincode::decode_from_slice(body, config).ok()?;
        (length == body.len()).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change to these bytes needs a new version: replicas of two versions read the same stream.
    #[test]
    fn the_bytes_do_not_change() {
        let rules = Rules { program: 1, declaration: 300 };
        let ruled = Ruled { rules, declaration: "{}".into() };
        let begin = Begin { collection: "posts".into(), state: "1".into(), ruled: ruled.clone() };
        assert_eq!(Message::Begin(begin).encode(), b"\x01\x00\x05posts\x011\x01\xfb\x2c\x01\x02{}");
        let commands = Commands { publisher: 4, number: 5, until: 6, rules, commands: vec![vec![7, 8]] };
        assert_eq!(Message::Commands(commands).encode(), b"\x01\x01\x04\x05\x06\x01\xfb\x2c\x01\x01\x02\x07\x08");
        let behind = StateBehind { publisher: 4, sequence: 9, state: "1".into() };
        assert_eq!(Message::State(behind).encode(), b"\x01\x02\x04\x09\x011");
        assert_eq!(Message::Switch(ruled).encode(), b"\x01\x03\x01\xfb\x2c\x01\x02{}");
        // The beginning of a digest computed by another program.
        assert_eq!(Rules::of(b"m"), Rules { program: RULES, declaration: 0x62c6_6a7a_5dd7_0c31 });
    }

    #[test]
    fn what_is_not_known_is_not_read() {
        let rules = Rules { program: 1, declaration: 300 };
        let message = Message::Commands(Commands { publisher: 4, number: 5, until: 6, rules, commands: vec![vec![7]] });
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Some(message));
        for length in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..length]), None, "{length}");
        }
        assert_eq!(Message::decode(&[&bytes[..], b"\0"].concat()), None);
        let newer = [b"\x02", &bytes[1..]].concat();
        assert_eq!((Message::decode(&newer), Message::is_newer(&newer)), (None, true), "another version");
        assert!(!Message::is_newer(&bytes) && !Message::is_newer(b""));
        assert_eq!(Message::decode(b"\x01\x04"), None, "another message");
        assert_eq!(Message::decode(b"\x01\x01\x04\x05\x06\x01\x07\xfd\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }
}
