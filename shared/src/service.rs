//! A service's process: its command line, its log, and its life from opening the store to exit.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, io, panic, thread};

use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::api::{self, Routes};
use crate::broker::{self, Broker};
use crate::building::Building;
use crate::declaration::Declaration;
use crate::desk::Counter;
use crate::drain::Drain;
use crate::fill::{FillError, Slice};
use crate::model::Collection;
use crate::operate::Operator;
use crate::store::{Commit, Durability, Folder, OnDamage, Purpose, Redeclaration, Store};
use crate::token::{TokenFileError, Tokens};
use crate::workers::Workers;
use crate::write::Writes;
use crate::{check, offline, sandbox, serve};

/// How many connections may wait to be accepted. The system's own limit may be lower.
const BACKLOG: u32 = 4096;

/// How long the database may take to be synced at the end.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

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
    #[command(subcommand)]
    command: Option<Command>,

    /// The service's folder, made by `seed` or filled with --slice
    #[arg(long, value_name = "DIR", env = "DATA_DIR")]
    data: PathBuf,

    /// Fill the folder from this slice if it holds no database yet
    #[arg(long, value_name = "FILE", env = "SLICE")]
    slice: Option<PathBuf>,

    /// The address to serve on, or to ask; port 0 takes a free one
    #[arg(long, value_name = "ADDR", env = "LISTEN", global = true)]
    listen: SocketAddr,

    /// Let whoever has a token of this file write; without it, the service is read-only
    #[arg(long, value_name = "FILE", env = "WRITE_TOKEN_FILE")]
    write_token_file: Option<PathBuf>,

    /// How long to go on serving once told to end, while /ready already answers 503
    #[arg(long, value_name = "SECONDS", env = "DRAIN", default_value = "0", value_parser = seconds)]
    drain: Duration,

    /// What an answered write survives
    #[arg(long, value_name = "WHAT", env = "DURABILITY", default_value = "power")]
    durability: Durability,

    /// Start though answered writes are damaged or gone: keep all that is whole, and log what is not
    #[arg(long, env = "ACCEPT_LOSS", value_parser = FalseyValueParser::new(), global = true)]
    accept_loss: bool,

    /// How often to read and check everything, at low priority; 0 is never
    #[arg(long, value_name = "SECONDS", env = "SCRUB_EVERY", default_value = "86400", value_parser = seconds)]
    scrub_every: Duration,

    /// Do without the sandbox, in which the service opens nothing but its folder and connects nowhere
    #[arg(long, env = "NO_SANDBOX", value_parser = FalseyValueParser::new())]
    no_sandbox: bool,
}

/// What the program does other than serving.
#[derive(Subcommand)]
enum Command {
    /// Ask the service that listens on ADDR for its health: exits with 0 if it is ready, else with 1, and says why
    Check,
    /// Have everything in the database read and checked: by the service that listens on ADDR, else here. Exits with 0 if
    /// all is sound, else with 1, and names what is damaged
    Scrub,
    /// Write the database anew, without the room that deleted and replaced records left behind. The service is stopped
    Compact,
    /// Read FILE at every request of a service
    #[command(name = broker::COMMAND, hide = true)]
    Broker { file: PathBuf },
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

impl Config {
    fn on_damage(&self) -> OnDamage {
        if self.accept_loss { OnDamage::AcceptLoss } else { OnDamage::Refuse }
    }

    /// Reads the command line, with the defaults of this service. Exits with 2 when it cannot be understood.
    fn read(service: &Service) -> Self {
        let name = service.collection.name();
        let matches = Self::command_of(name)
            .about(format!("Serves /api/{name} from the service's own database"))
            .mut_arg("data", |arg| arg.required(false).default_value(service.data))
            .mut_arg("listen", |arg| arg.required(false).default_value(service.listen))
            .get_matches();
        Config::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The same of a program that serves whatever is declared in a file, and that file's collection.
    fn read_declared() -> (Self, Collection) {
        let declaration = Arg::new("declaration")
            .long("declaration")
            .value_name("FILE")
            .env("DECLARATION")
            .help("What the collection is: its collection.json")
            .value_parser(value_parser!(PathBuf))
            .global(true);
        let command = Self::command_of("collection")
            .about("Serves the collection that a file declares, at /api/NAME, from its own database")
            .arg(declaration)
            .mut_arg("data", |arg| arg.help("The service's folder, made by `seed` or filled with --slice"))
            .mut_arg("listen", |arg| arg.required(false).default_value("127.0.0.1:3000"));
        let matches = command.clone().get_matches();
        let config = Config::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let Some(path) = matches.get_one::<PathBuf>("declaration") else {
            command.clone().error(ErrorKind::MissingRequiredArgument, "--declaration FILE says what is served").exit()
        };
        let read = || -> Result<Declaration, String> {
            let json = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
            Declaration::read(&json).map_err(|error| error.to_string())
        };
        let declaration = read().unwrap_or_else(|reason| {
            command.clone().error(ErrorKind::Io, format!("{}: {reason}", path.display())).exit()
        });
        (config, Collection::of(declaration))
    }

    /// What every program's command line has.
    fn command_of(name: &'static str) -> clap::Command {
        Config::command()
            .name(name)
            .after_help(
                "RUST_LOG sets what is logged (default: info; access=off leaves out requests).\n\
                 SIGTERM and SIGINT end the service in order; a second one cuts the wait of --drain short.\n\
                 SIGHUP reloads --write-token-file; one that is invalid leaves the old tokens in force.\n\
                 Exits with 0 after an orderly end, 1 when it cannot start or cannot flush, 2 for a wrong command line.",
            )
    }
}

/// Runs `service` until SIGTERM or SIGINT: 0 after an orderly end, 1 when it cannot start or cannot flush.
pub fn run(service: &Service) -> ExitCode {
    run_as(service.collection, service.routes, &Config::read(service))
}

/// Runs the service of a collection that has no code of its own: the command line names its declaration.
pub fn run_declared() -> ExitCode {
    let (config, collection) = Config::read_declared();
    run_as(collection, api::routes_of, &config)
}

fn run_as(collection: Collection, routes: fn(Store) -> Routes, config: &Config) -> ExitCode {
    if let Some(command) = &config.command {
        let done = match command {
            Command::Check => check::ready(config.listen).map(|()| String::new()),
            Command::Scrub => offline::scrub(config.listen, &config.data, collection, config.on_damage()),
            Command::Compact => offline::compact(&config.data, collection, config.on_damage()),
            Command::Broker { file } => broker::run(file).map(|()| String::new()).map_err(|error| error.to_string()),
        };
        return match done {
            Ok(report) => {
                print!("{report}");
                ExitCode::SUCCESS
            }
            Err(reason) => {
                eprintln!("{}: {}", collection.name(), reason.trim_end());
                ExitCode::FAILURE
            }
        };
    }
    start_log();
    log_panics();
    match panic::catch_unwind(|| live(collection, routes, config)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
        // The panic hook has logged it.
        Err(_panic) => ExitCode::FAILURE,
    }
}

/// Logs to standard error, from `info` up unless `RUST_LOG` says otherwise.
pub(crate) fn start_log() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(log::LevelFilter::Info),
    };
    builder.init();
}

/// Makes every panic one line of the log, where the standard library would print several that anybody can forge.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
        // Quoted: it may repeat what a client sent.
        log::error!(target: "panic", "panicked{place}: {:?}", text.unwrap_or("(no message)"));
    }));
}

/// Takes what lies outside the sandbox, goes in, and serves.
///
/// The sandbox holds for the calling thread and the threads it spawns. So it comes before the runtime's threads and
/// before sled's, while this is the only one; and the database is opened, or filled from a slice, inside.
fn live(collection: Collection, routes: fn(Store) -> Routes, config: &Config) -> Result<(), Box<dyn Error>> {
    // It has no threads yet. From here on SIGHUP ends nothing.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let hangups = {
        let _context = runtime.enter();
        signal(SignalKind::hangup())?
    };
    // The files that tell a container's share of the processors lie outside too.
    let threads = thread::available_parallelism()?.get();
    if config.slice.is_some() {
        std::fs::create_dir_all(&config.data).map_err(|error| format!("{}: {error}", config.data.display()))?;
    }
    let folder = Folder::lock(&config.data)?;
    let database = folder.settled_database()?;
    let slice = match &config.slice {
        Some(path) if database.exists() => {
            log::info!("{}: there is a database; {} is left alone", database.display(), path.display());
            None
        }
        Some(path) => Some(Slice::open(path)?),
        None => None,
    };
    // sled opens nothing that it cannot write to: a file system that can only be read is read through a copy.
    let aside = if folder.is_read_only() { Some(read_through_a_copy(&folder)?) } else { None };
    let (folder, _original) = match &aside {
        Some(aside) => (folder.copy_database(aside.path())?, Some(folder)),
        None => (folder, None),
    };
    let tokens = Arc::new(tokens(collection, config)?);
    let counter = if aside.is_none() { open_counter(&folder) } else { None };
    let broker = config.write_token_file.as_deref().map(Broker::start).transpose()?;
    let cannot_listen =
        |error| format!("{}: cannot listen here: {error}; --listen names another address", config.listen);
    let socket = bind(config.listen).map_err(cannot_listen)?;
    if config.no_sandbox {
        log::warn!("without a sandbox, as --no-sandbox says");
    } else if let Some(missing) = sandbox::enter(folder.path())? {
        log::warn!("the sandbox is not whole: this kernel cannot {missing}");
    }
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::spawn(broker::reload(hangups, broker, Arc::clone(&tokens)));
        let folder = Arc::new(folder);
        let opening = {
            let (folder, on_damage) = (Arc::clone(&folder), config.on_damage());
            tokio::task::spawn_blocking(move || open(&folder, collection, slice, on_damage))
        };
        let redeclaration = tokio::select! {
            opened = opening => opened??,
            // What was not finished, the next start removes.
            () = signals.next() => return Ok(()),
        };
        let store = redeclaration.store().clone();
        if aside.is_some() {
            store.set_read_only();
        }
        let listener = socket.listen(BACKLOG).map_err(cannot_listen)?;
        log::info!("serving {} on http://{}", folder.path().display(), listener.local_addr()?);
        let drain = Drain::default();
        let commit = Commit::start(&store, config.durability)?;
        let operator = Operator::new(store.clone(), commit.clone(), Arc::clone(&tokens));
        let read_only = store.is_read_only();
        let writes = Writes { collection, commit: commit.clone(), tokens, read_only };
        let mut routes = operator.over(writes.over(routes(store.clone())));
        let (building, told) = (Building::default(), Arc::new(AtomicBool::new(false)));
        if !redeclaration.is_current() {
            building.begin();
            routes = building.over(routes);
        }
        let routes = drain.over(routes);
        let mut made = {
            let told = Arc::clone(&told);
            tokio::task::spawn_blocking(move || redeclaration.make(&told))
        };
        let scrubs = tokio::spawn(scrubs(operator.clone(), config.scrub_every));
        let (mut restart, mut failed) = (false, None);
        let end = async {
            let made = async {
                let made: Result<(), Box<dyn Error>> = match (&mut made).await {
                    Ok(Ok(())) => counter
                        .as_ref()
                        .map_or(Ok(()), |counter| counter.serve(store.clone(), commit.clone()).map_err(Into::into)),
                    Ok(Err(error)) => Err(error.into()),
                    Err(panic) => Err(panic.into()),
                };
                if let Err(error) = made {
                    return error;
                }
                building.end();
                std::future::pending().await
            };
            tokio::select! {
                () = told_to_end(&mut signals, &drain, config.drain) => {}
                () = commit.until_a_restart_helps() => restart = true,
                error = made => failed = Some(error),
            }
        };
        serve::serve(listener, routes, Workers::start(threads)?, end).await;
        operator.end();
        told.store(true, Ordering::Relaxed);
        if !made.is_finished()
            && let Err(unfinished) = made.await?
        {
            log::info!("{unfinished}");
        }
        if let Some(counter) = counter {
            tokio::task::spawn_blocking(move || counter.close()).await?;
        }
        scrubs.abort();
        let _ = scrubs.await;
        let synced: Result<(), Box<dyn Error>> = if let Some(error) = failed {
            Err(error)
        } else if restart {
            let path = folder.path().display();
            Err(format!(
                "{path}: writes failed, as the log says, and the disk has room again; a new start takes writes"
            )
            .into())
        } else {
            let store = store.clone();
            let synced = tokio::task::spawn_blocking(move || store.sync());
            match timeout(SYNC_TIMEOUT, synced).await {
                Ok(synced) => synced?.map_err(Into::into),
                Err(_elapsed) => {
                    Err(format!("not synced after {} s; the next start will see to it", SYNC_TIMEOUT.as_secs()).into())
                }
            }
        };
        if synced.is_err() {
            // Not closed: sled would wait for a disk that has failed.
            std::mem::forget(store);
            return synced;
        }
        drop((commit, writes, operator));
        let closing = store.close();
        if let Err(error) = tokio::task::spawn_blocking(move || closing.mark_clean()).await? {
            log::warn!("the next start will read the database's files anew: {error}");
        }
        log::info!("ended in order");
        Ok(())
    });
    // Not waiting for a database that is still being opened or filled.
    runtime.shutdown_background();
    ended
}

/// Has everything read and checked every so often.
async fn scrubs(operator: Operator, every: Duration) {
    if !every.is_zero() {
        operator.scrub_every(every).await;
    }
}

/// Where `seed` brings newer files while the service runs; without it, they have to wait until it does not.
fn open_counter(folder: &Folder) -> Option<Counter> {
    let opened = Counter::open(folder.path());
    if let Err(error) = &opened {
        let path = folder.path().display();
        log::warn!(
            "{path}: no socket for `seed`: {error}; a newer file can be brought only while the service is stopped"
        );
    }
    opened.ok()
}

/// Makes a folder for a copy of what lies on a file system that can only be read.
fn read_through_a_copy(folder: &Folder) -> Result<TempDir, String> {
    let elsewhere = env::temp_dir();
    log::warn!(
        "{}: the file system can only be read: the service only reads, from a copy in {}",
        folder.path().display(),
        elsewhere.display()
    );
    let cannot = |error: io::Error| {
        format!("{}: no place for a copy of what can only be read: {error}; TMPDIR names another", elsewhere.display())
    };
    tempfile::tempdir().map_err(cannot)
}

/// Who may write.
fn tokens(collection: Collection, config: &Config) -> Result<Tokens, TokenFileError> {
    let Some(path) = &config.write_token_file else {
        log::info!("read-only, since there is no --write-token-file");
        return Ok(Tokens::none(collection));
    };
    let tokens = Tokens::read(collection, path)?;
    log::info!("open for writes; tokens of {}: {}", path.display(), tokens.count());
    Ok(tokens)
}

/// Binds, and does not listen yet: until the database is open, clients are better refused than left waiting.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of an earlier run may still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Opens the folder's database, and fills it first if there is a slice to fill it from. Says what has to become of it before
/// it can be served.
fn open(
    folder: &Folder,
    collection: Collection,
    slice: Option<Slice>,
    on_damage: OnDamage,
) -> Result<Redeclaration, FillError> {
    folder.remove_part()?;
    if let Some(slice) = slice {
        log::info!("filling {} from its slice", folder.database().display());
        let records = slice.fill(folder, collection)?;
        log::info!("filled with {records} records");
    }
    Ok(folder.open(collection, Purpose::Serving, on_damage)?.redeclare()?)
}

/// Ends when the listener has to close: at a first signal and, if there is a time to drain, after it or at a second.
async fn told_to_end(signals: &mut Signals, drain: &Drain, time: Duration) {
    signals.next().await;
    drain.begin();
    if time.is_zero() {
        return;
    }
    log::info!("not ready any more; serving for another {} s", time.as_secs());
    tokio::select! {
        () = sleep(time) => {}
        () = signals.next() => {}
    }
}

/// What tells a service to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Ends at the next SIGTERM or SIGINT.
    async fn next(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        log::info!("{name} received");
    }
}
