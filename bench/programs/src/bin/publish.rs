//! JetStream's own limit: plain publishes to a replicated stream of its own. `bench/replicas` compares a replicated
//! service with it.

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{ConnectOptions, ServerAddr};
use bytes::Bytes;
use clap::Parser;
use futures_util::future::join_all;

/// The stream, which is made if it is not there.
const STREAM: &str = "plain";

/// The most bytes of the stream: the oldest messages make room.
const MOST: i64 = 1 << 30;

/// Publishes messages for a while, and prints how many a second were acknowledged
#[derive(Parser)]
struct Options {
    /// The broker's servers
    #[arg(long, value_delimiter = ',')]
    broker: Vec<ServerAddr>,

    /// The file with the seed of an NKey that may make a stream
    #[arg(long)]
    key: PathBuf,

    /// On how many servers the stream is kept
    #[arg(long, default_value = "3")]
    replicas: usize,

    /// How many messages wait for their acknowledgement at once
    #[arg(long, default_value = "1")]
    in_flight: usize,

    /// The length of a message
    #[arg(long, default_value = "200")]
    bytes: usize,

    /// How long
    #[arg(long, default_value = "4")]
    seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let seed = fs::read_to_string(&options.key)?.trim().to_owned();
    let client = ConnectOptions::with_nkey(seed).ignore_discovered_servers().connect(options.broker).await?;
    let context = async_nats::jetstream::new(client);
    let config = Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("{STREAM}.commands")],
        storage: StorageType::File,
        num_replicas: options.replicas,
        max_bytes: MOST,
        ..Config::default()
    };
    context.get_or_create_stream(config).await?;
    let bytes = Bytes::from(vec![b'p'; options.bytes]);
    let (acknowledged, failed) = (Cell::new(0_u64), Cell::new(0_u64));
    let (began, seconds) = (Instant::now(), Duration::from_secs(options.seconds));
    let publish_all = async || {
        while began.elapsed() < seconds {
            let sent = context.publish(format!("{STREAM}.commands"), bytes.clone()).await;
            let is_taken = match sent {
                Ok(acknowledgement) => acknowledgement.await.is_ok(),
                Err(_) => false,
            };
            let count = if is_taken { &acknowledged } else { &failed };
            count.set(count.get() + 1);
        }
    };
    join_all((0..options.in_flight).map(|_| publish_all())).await;
    let rate = acknowledged.get() as f64 / began.elapsed().as_secs_f64();
    println!("{{\"rate\":{rate},\"failed\":{}}}", failed.get());
    Ok(())
}
