//! A collection's stream of commands on NATS JetStream, the log that all replicas of its service follow.
//!
//! JetStream gives the order of the messages and keeps them on most of its servers' disks; nothing else of it is relied
//! on. A [`Broker`] connects again by itself for as long as it lives. Each stream lies in an account of its own, whose
//! users cannot see other streams: [`Keys`] are its users' NKeys.
//!
//! This crate knows neither HTTP nor databases: [`Message`] is what a stream has in it.

mod accounts;
mod message;
mod snapshots;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::connection::State;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

pub use crate::accounts::{Keys, render_accounts};
pub use crate::message::{Begin, Commands, Message, RULES, Ruled, Rules, StateBehind};
pub use crate::snapshots::{SnapshotReader, StoredSnapshot};

/// The time that a request to the broker may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The time for which the broker is asked for messages at once.
const EXPIRES: Duration = Duration::from_secs(2);

/// The longest pause between two attempts to connect.
const RECONNECT: Duration = Duration::from_secs(1);

/// The time for which JetStream recognizes a message that was published twice.
const DUPLICATES: Duration = Duration::from_secs(120);

/// The bytes after which a message takes no more commands: a quarter of the limit, since it holds up all behind it.
pub const MESSAGE_BYTES: usize = 256 << 10;

/// The longest message of a stream, in bytes: JetStream's default.
pub const MOST_BYTES: usize = 1 << 20;

/// The address of one of the broker's servers, such as `nats://127.0.0.1:4222`.
#[derive(Clone, Debug)]
pub struct Server(ServerAddr);

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: ServerAddr = text.parse().map_err(|error| format!("{error}; nats://HOST:4222 is an address"))?;
        if address.has_user_pass() {
            return Err("a password has no place in an address: --broker-key names a file".to_owned());
        }
        Ok(Self(address))
    }
}

impl Server {
    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.0.port()
    }
}

/// What went wrong at the broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker cannot be reached, or not enough of its servers.
    #[error("the broker does not answer: {0}")]
    Away(String),
    /// The broker has no such stream, or not for this user.
    #[error("the broker has no stream {0} for this key; `seed streams` makes it")]
    NoStream(String),
    /// Not enough of the broker's servers have room for the stream, or are there yet.
    #[error("the broker has no place for the stream: {0}; its servers need a max_file_store above the stream's limit")]
    NoPlace(String),
    /// The broker refuses.
    #[error("the broker refuses: {0}")]
    Refused(String),
    /// The stream begins with this message, and no snapshot that is whole has those before it.
    #[error(
        "the stream begins with message {0}, and no snapshot that is whole has those before it; store one with `seed streams snapshot`"
    )]
    NoSnapshot(u64),
}

fn away(error: impl Display) -> BrokerError {
    BrokerError::Away(error.to_string())
}

/// A stream's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// Its identity: a stream that is made anew has another.
    pub identity: String,
    /// The number of the first message that is still there.
    pub first: u64,
    /// The number of the last message.
    pub last: u64,
    /// The bytes of all messages, and the most that they may be.
    pub bytes: (u64, u64),
}

/// A message that the stream has taken.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Its number in the stream, from 1.
    pub sequence: u64,
    /// When the stream took it, in milliseconds since 1970 by one of the broker's clocks.
    pub time: u64,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A connection to a collection's stream. Clones share it.
#[derive(Clone)]
pub struct Broker {
    client: Client,
    context: Context,
    stream: String,
    /// The name of the bucket of the stream's snapshots.
    bucket: String,
    /// What the broker's monitoring shows, and the beginning of the consumers' names.
    name: String,
    consumers: Arc<AtomicU64>,
    refused: Arc<AtomicBool>,
}

impl Broker {
    /// Connects to one of `servers` as the user with the NKey seed `key`, without one if it is `None`. Does not wait:
    /// while no server answers, requests fail. `name` is what the broker's
    /// monitoring shows, different for each process.
    ///
    /// # Errors
    /// The key is not a seed.
    pub async fn connect(
        servers: &[Server],
        key: Option<String>,
        collection: &str,
        name: &str,
    ) -> Result<Self, BrokerError> {
        let refused = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&refused);
        let options = match key {
            Some(seed) => ConnectOptions::with_nkey(seed.trim().to_owned()),
            None => ConnectOptions::new(),
        };
        let options = options
            .name(name)
            .retry_on_initial_connect()
            .ignore_discovered_servers()
            .connection_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE))
            .ping_interval(PATIENCE)
            .reconnect_delay_callback(|attempts| RECONNECT.min(Duration::from_millis(50) * attempts as u32))
            .event_callback(move |event| {
                note(&told, &event);
                std::future::ready(())
            });
        let addresses: Vec<ServerAddr> = servers.iter().map(|server| server.0.clone()).collect();
        let client = options.connect(addresses).await.map_err(|error| BrokerError::Refused(error.to_string()))?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(PATIENCE);
        Ok(Self {
            client,
            context,
            stream: stream_of(collection),
            bucket: snapshots::bucket_of(collection),
            name: name.to_owned(),
            consumers: Arc::default(),
            refused,
        })
    }

    /// Tells whether a server is connected.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Tells whether the last attempt to connect failed since the broker does not know the key.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the stream's state, as its leader has it.
    pub async fn state(&self) -> Result<StreamState, BrokerError> {
        let stream = self.context.get_stream(&self.stream).await.map_err(|error| self.no_stream(&error))?;
        let info = stream.cached_info();
        Ok(StreamState {
            identity: info.created.to_string(),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            bytes: (info.state.bytes, u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX)),
        })
    }

    fn no_stream(&self, error: &jetstream::context::GetStreamError) -> BrokerError {
        use jetstream::context::GetStreamErrorKind::JetStream;
        match error.kind() {
            JetStream(answer) if answer.code() == 404 => BrokerError::NoStream(self.stream.clone()),
            _ => away(error),
        }
    }

    /// Publishes a message; returns its number once most of the broker's servers have it on their disks. An `id` that
    /// was published a moment ago is not taken again.
    ///
    /// # Errors
    /// After [`BrokerError::Away`] the stream may have the message, or get it later.
    pub async fn publish(&self, id: &str, bytes: Bytes) -> Result<u64, BrokerError> {
        let message = PublishMessage::build().message_id(id).expected_stream(&self.stream).payload(bytes);
        let told = |error: jetstream::context::PublishError| match error.kind() {
            PublishErrorKind::Other | PublishErrorKind::MaxPayloadExceeded => BrokerError::Refused(error.to_string()),
            _ => away(error),
        };
        let published = self.context.send_publish(subject(&self.stream), message).await.map_err(told)?;
        Ok(published.await.map_err(told)?.sequence)
    }

    /// Lets the commands behind be decided by `ruled`. Returns the message's number.
    pub async fn switch(&self, ruled: Ruled) -> Result<u64, BrokerError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        self.publish(&format!("switch-{now}"), Message::Switch(ruled).encode().into()).await
    }

    /// Returns the messages from number `from` on, without an end. An error is followed by nothing: follow again.
    pub async fn follow(
        &self,
        from: u64,
    ) -> Result<impl Stream<Item = Result<Delivered, BrokerError>> + Unpin + use<>, BrokerError> {
        let config = OrderedConfig {
            name: Some(format!("{}-{}", self.name, self.consumers.fetch_add(1, Ordering::Relaxed))),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            // Half of it is the time between two signs of life. The consumer lies on one of the broker's servers alone, and may
            // be gone with it while the connection to another one lasts.
            max_expires: EXPIRES,
            ..OrderedConfig::default()
        };
        let consumer = self.context.create_consumer_on_stream(config, &self.stream).await.map_err(away)?;
        let messages = consumer.messages().await.map_err(away)?;
        Ok(messages.map(|message| {
            let message = message.map_err(away)?;
            let info = message.info().map_err(away)?;
            let time = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
            Ok(Delivered { sequence: info.stream_sequence, time, bytes: message.payload.clone() })
        }))
    }

    /// Removes the stream with all its messages and snapshots. Needs the key of an administrator. Returns whether it was there.
    pub async fn remove(&self) -> Result<bool, BrokerError> {
        match self.state().await {
            Ok(_) => {}
            Err(BrokerError::NoStream(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.context.delete_object_store(&self.bucket).await {
            Ok(()) => {}
            // There is none, or the stream cannot be removed either.
            Err(error) => log::debug!("the snapshots are not removed: {error}"),
        }
        let removed = self.context.delete_stream(&self.stream).await;
        removed.map(|_| true).map_err(|error| BrokerError::Refused(error.to_string()))
    }

    /// Makes the stream, which may take `most` bytes, on `replicas` of the broker's servers, and publishes `begin` as its
    /// first message; beside it, a bucket for snapshots. Needs the key of an administrator. Returns `false` if the stream is
    /// there already.
    pub async fn create(&self, begin: Begin, replicas: usize, most: u64) -> Result<bool, BrokerError> {
        match self.state().await {
            Ok(state) if state.last > 0 => return self.create_bucket(replicas).await.map(|()| false),
            Ok(_) | Err(BrokerError::NoStream(_)) => {}
            Err(error) => return Err(error),
        }
        let config = Config {
            name: self.stream.clone(),
            subjects: vec![subject(&self.stream)],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: replicas,
            max_bytes: i64::try_from(most).unwrap_or(i64::MAX),
            max_message_size: i32::try_from(MOST_BYTES).unwrap_or(i32::MAX),
            duplicate_window: DUPLICATES,
            deny_delete: true,
            allow_direct: false,
            ..Config::default()
        };
        self.context.create_stream(config).await.map_err(|error| match error.kind() {
            CreateStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::CLUSTER_NO_PEERS => {
                BrokerError::NoPlace(answer.to_string())
            }
            CreateStreamErrorKind::TimedOut => away(error),
            _ => BrokerError::Refused(error.to_string()),
        })?;
        self.create_bucket(replicas).await?;
        self.publish("begin", Message::Begin(begin).encode().into()).await?;
        Ok(true)
    }
}

/// Returns the name of a collection's stream, which has no dots.
fn stream_of(collection: &str) -> String {
    collection.replace('.', "=2E")
}

/// Returns the subject of a stream's messages.
fn subject(stream: &str) -> String {
    format!("{stream}.commands")
}

/// Logs what becomes of the connection.
fn note(refused: &AtomicBool, event: &Event) {
    match event {
        Event::Connected => {
            refused.store(false, Ordering::Relaxed);
            log::info!("connected to the broker");
        }
        Event::Disconnected => log::warn!("the broker is away"),
        Event::ServerError(error) => log::warn!("the broker says: {error}"),
        Event::ClientError(error) if error.to_string().to_lowercase().contains("authorization") => {
            if !refused.swap(true, Ordering::Relaxed) {
                log::error!("the broker does not know the key of --broker-key");
            }
        }
        _ => log::debug!("the broker: {event}"),
    }
}
