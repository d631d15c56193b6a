//! A service's process: its command line, its log, and its life from opening the store to exit.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::Routes;
use crate::model::Collection;
use crate::serve;
use crate::store::{Folder, Purpose, Store};

/// What a service is.
pub struct Service {
    /// Whose records it serves.
    pub collection: Collection,
    /// Its folder, unless told otherwise.
    pub data: &'static str,
    /// Where it listens, unless told otherwise.
    pub listen: &'static str,
    /// What it answers.
    pub routes: fn(Store) -> Routes,
}

/// The command line of every service.
#[derive(Parser)]
#[command(version)]
struct Config {
    /// The service's folder, made by `seed`
    #[arg(long, value_name = "DIR", env = "DATA_DIR")]
    data: PathBuf,

    /// The address to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", env = "LISTEN")]
    listen: SocketAddr,
}

impl Config {
    /// Reads the command line, with the defaults of this service. Exits with 2 when it cannot be understood.
    fn read(service: &Service) -> Self {
        let name = service.collection.name();
        let matches = Config::command()
            .name(name)
            .about(format!("Serves /api/{name} from the service's own database"))
            .after_help("RUST_LOG sets what is logged (default: info; access=off leaves out requests).")
            .mut_arg("data", |arg| arg.required(false).default_value(service.data))
            .mut_arg("listen", |arg| arg.required(false).default_value(service.listen))
            .get_matches();
        Config::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Runs `service` until SIGTERM or SIGINT: 0 after an orderly end, 1 when it cannot start or cannot flush.
pub fn run(service: &Service) -> ExitCode {
    let config = Config::read(service);
    start_log();
    match live(service, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error, from `info` up unless `RUST_LOG` says otherwise.
fn start_log() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(log::LevelFilter::Info),
    };
    builder.init();
}

#[tokio::main]
async fn live(service: &Service, config: &Config) -> Result<(), Box<dyn Error>> {
    let shutdown = shutdown_signal()?;
    let folder = Folder::lock(&config.data)?;
    let store = Store::open(&folder.settled_database()?, service.collection, Purpose::Serving)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| format!("{}: cannot listen here: {error}; --listen names another address", config.listen))?;
    log::info!("serving {} on http://{}", folder.path().display(), listener.local_addr()?);
    serve::serve(listener, (service.routes)(store.clone()), shutdown).await;
    store.sync()?;
    log::info!("ended in order");
    Ok(())
}

/// Ends at the first SIGTERM or SIGINT.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        log::info!("{name} received");
    })
}
