//! A service's process, from its command line to its exit.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, io, panic, thread};

use broker::{Broker, BrokerError};
use record::model::Collection;
use record::token::TokenFile;
use record::words::agree;
use store::desk::Counter;
use store::fill::{FillError, Slice};
use store::{Commit, Folder, OnDamage, Purpose, Redeclaration, Store, StoreError};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::admin::{Admin, AdminListener};
use crate::answer_cache::AnswerCache;
use crate::authorize::{Writers, read_tokens};
use crate::config::{Command, Config, Service};
use crate::connection::Bounds;
use crate::cors::Cors;
use crate::health::Health;
use crate::jwt::Keys;
use crate::loading::{self, Loading};
use crate::logging::{log_panics, start_log};
use crate::metrics::Metrics;
use crate::operate::Operator;
use crate::reloader::{self, Reloaded, Reloader};
use crate::replica::{Replica, find_ruled, note_contradiction};
use crate::routes::{Own, routes};
use crate::serve::Server;
use crate::state::State;
use crate::{check, descriptors, memory, offline, openapi, sandbox, snapshot};

/// The most connections that wait to be accepted. The system's own limit may be lower.
const BACKLOG: u32 = 4096;

/// The time after which an idle thread that blocks ends. One has opened the database, and freed buffers of many MiB.
/// The allocator returns freed memory after a second at the earliest, and an idle service does it when a thread ends.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// The most records whose indexes are built before the service listens; it takes milliseconds. While more are built, it
/// answers that it is not ready.
const AT_ONCE: u64 = 20_000;

/// The time the last sync of the database may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs `service` until SIGTERM or SIGINT. Returns 0 after an orderly end, 1 if it cannot start or cannot flush.
pub fn run(service: &Service) -> ExitCode {
    memory::avoid_huge_pages(true);
    if let Some(ended) = reloader::run_if_asked() {
        return ended;
    }
    run_as(service.collection, service.own, &Config::read(service))
}

/// Runs the service of a collection without code of its own. The command line names its declaration.
pub fn run_declared() -> ExitCode {
    memory::avoid_huge_pages(true);
    if let Some(ended) = reloader::run_if_asked() {
        return ended;
    }
    let (config, collection) = Config::read_declared();
    run_as(collection, None, &config)
}

fn run_as(collection: Collection, own: Option<Own>, config: &Config) -> ExitCode {
    memory::avoid_huge_pages(config.cache.is_none_or(|mib| mib <= memory::MOST));
    if let Some(command) = &config.command {
        let done = match command {
            Command::Check => check::ready(config.listen).map(|()| String::new()),
            Command::Scrub => offline::scrub(config.listen, &config.data, collection, config.on_damage()),
            Command::Compact => offline::compact(&config.data, collection, config.on_damage()),
            // Printed with the command line.
            Command::Completions { .. } | Command::Man => Ok(String::new()),
            Command::Openapi => Ok(openapi::document(collection)),
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
    start_log(config.log_format);
    log_panics();
    config.settings.log();
    let ended = panic::catch_unwind(|| live(collection, own, config));
    log::logger().flush();
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
        // The panic hook logs it.
        Err(_panic) => ExitCode::FAILURE,
    }
}

/// Opens everything that lies outside the sandbox, enters the sandbox, and serves.
///
/// The sandbox holds for the calling thread and the threads it spawns. So the process enters it while this thread is
/// the only one, before the runtime and sled start theirs. The database is opened, or filled from a slice, inside.
fn live(collection: Collection, own: Option<Own>, config: &Config) -> Result<(), Box<dyn Error>> {
    // This runtime has no threads yet. From here on SIGHUP does not end the process.
    let runtime = runtime::Builder::new_current_thread().enable_all().thread_keep_alive(KEEP_ALIVE).build()?;
    let outside = {
        let _context = runtime.enter();
        Outside::take(collection, config)?
    };
    let ports: Vec<u16> = config.broker.iter().map(broker::Server::port).collect();
    if config.no_sandbox {
        log::warn!("running without a sandbox: --no-sandbox is set");
    } else if let Some(missing) = sandbox::enter(outside.folder.path(), &ports)? {
        log::warn!("the sandbox is not whole: this kernel cannot {missing}");
    }
    let ended = runtime.block_on(outside.serve(collection, own, config));
    // Does not wait for a database that is still being opened or filled.
    runtime.shutdown_background();
    ended
}

/// The things that a service opens before it enters its sandbox.
struct Outside {
    hangups: Signal,
    /// The number of threads that serve. The files with a container's share of the processors lie outside too.
    threads: usize,
    /// How many connections there may be.
    bounds: Bounds,
    folder: Folder,
    /// The place of the copy and the original folder, if the file system is read-only and `folder` is a copy.
    copied: Option<(TempDir, Folder)>,
    slice: Option<Slice>,
    writers: Arc<Writers>,
    counter: Option<Counter>,
    reloader: Option<Reloader>,
    admin: Option<AdminListener>,
    /// The seed of the key for the broker of a replicated service.
    key: Option<String>,
    socket: TcpSocket,
}

impl Outside {
    fn take(collection: Collection, config: &Config) -> Result<Self, Box<dyn Error>> {
        let hangups = signal(SignalKind::hangup())?;
        let threads = thread::available_parallelism()?.get();
        let bounds = descriptors::raise_limit(threads)?;
        if config.slice.is_some() || !config.broker.is_empty() {
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
        // sled cannot open files that it cannot write. So a database on a read-only file system is copied first.
        let (folder, copied) = if folder.is_read_only() {
            let place = read_through_a_copy(&folder)?;
            (folder.copy_database(place.path())?, Some((place, folder)))
        } else {
            (folder, None)
        };
        let writers = Arc::new(read_writers(collection, config)?);
        let is_replica = !config.broker.is_empty();
        if is_replica && copied.is_some() {
            return Err(format!("{}: a replica needs a writable file system", config.data.display()).into());
        }
        let key = config.broker_key.as_deref().map(read_key).transpose()?;
        // A newer file's changes would set a replica apart.
        let counter = if copied.is_none() && !is_replica { open_counter(&folder) } else { None };
        let tokens = config.write_token_file.clone().map(Reloaded::Tokens);
        let files: Vec<Reloaded> = tokens.into_iter().chain(config.jwt_keys.clone().map(Reloaded::Keys)).collect();
        let reloader = if files.is_empty() { None } else { Some(Reloader::start(files)?) };
        let admin = config.admin_listen.as_deref().map(open_admin).transpose()?;
        let socket = bind(config.listen).map_err(|error| cannot_listen(config, &error))?;
        Ok(Self { hangups, threads, bounds, folder, copied, slice, writers, counter, reloader, admin, key, socket })
    }

    /// Opens the database and serves it until a signal ends the service.
    ///
    /// Its long parts are boxed. Otherwise it is itself so large that the allocator puts sled's zeroed tables of 6 MiB behind
    /// it into memory that was used before, and writes the zeros, so that all of them are resident.
    async fn serve(self, collection: Collection, own: Option<Own>, config: &Config) -> Result<(), Box<dyn Error>> {
        let Self { hangups, threads, bounds, folder, copied, slice, writers, counter, reloader, admin, key, socket } =
            self;
        let mut signals = Signals::new()?;
        tokio::spawn(reloader::reload(hangups, reloader, Arc::clone(&writers)));
        let folder = Arc::new(folder);
        let link = Box::pin(connect(config, key, collection)).await?;
        let listener = socket.listen(BACKLOG).map_err(|error| cannot_listen(config, &error))?;
        let (address, metrics) = (listener.local_addr()?, Metrics::new(bounds));
        let mut server = Server::new(listener, metrics.clone());
        let (loading, broker) = (Loading::default(), link.as_ref().map(|(broker, _)| broker));
        let cors = Cors::new(&config.allow_origin);
        let operators = Admin::new(collection, metrics.clone(), loading.clone());
        let admin = admin.map(|listener| tokio::spawn(listener.serve(operators.clone())));
        let redeclaration = tokio::select! {
            opened = Box::pin(make_and_open(&folder, collection, slice, config.on_damage(), broker, &loading)) => opened?,
            // The next start begins again, and removes the unfinished database.
            () = signals.next() => return Ok(()),
            never = loading::answer(&mut server, threads, collection, cors.as_ref(), &loading) => match never? {},
        };
        let store = redeclaration.store().clone();
        writers.redeclare(store.collection());
        if copied.is_some() {
            store.set_read_only();
        }
        log::info!("serving {} on http://{}", folder.path().display(), address);
        let commit = Commit::start(&store, config.durability)?;
        let operator = Operator::new(store.clone(), commit.clone(), Arc::clone(&writers));
        let health = Health::default();
        // First: a replica follows its stream only with whole indexes.
        let mut making = Making::start(redeclaration, &health);
        let replica = start_replica(config, link, collection, &store, &commit, &health)?;
        let state = State { store, commit, writers, replica, operator, health };
        let scrubs = tokio::spawn(scrub_regularly(state.operator.clone(), config.scrub_every));
        let end = async {
            tokio::select! {
                () = wait_for_end(&mut signals, &state.health, config.drain) => End::Told,
                () = state.commit.until_a_restart_helps() => End::Restart,
                end = until_replica_ends(state.replica.as_ref(), &folder, &state) => end,
                error = making.open_counter(counter.as_ref(), &state) => End::Failed(error),
            }
        };
        let cache = config.cache.unwrap_or_else(|| AnswerCache::share(&state.store));
        let routes = routes(&state, own, cache << 20).allow(&config.allow_origin).count_in(metrics);
        operators.begin_serving(&state, &routes);
        drop(operators);
        server.start_workers(threads)?;
        let end = Box::pin(server.serve(routes, end)).await;
        state.operator.end();
        making.end().await?;
        if let Some(counter) = counter {
            tokio::task::spawn_blocking(move || counter.close()).await?;
        }
        scrubs.abort();
        let _ = scrubs.await;
        if let Some(admin) = admin {
            admin.abort();
            let _ = admin.await;
        }
        if let Some(replica) = &state.replica {
            replica.end().await;
        }
        if let (End::Failed(error), Some(_)) = (&end, &state.replica)
            && let Some(StoreError::Contradiction { .. }) = error.downcast_ref()
        {
            // The next start goes on by the declaration before.
            note_contradiction(&state.store)?;
        }
        let store = state.store.clone();
        drop(state);
        close(store, &folder, end).await
    }
}

/// The reason why a service ends.
enum End {
    /// A signal ended it.
    Told,
    /// Writes have failed, and would work after a restart.
    Restart,
    /// A replica can go on after a new start. The text says why.
    Again(&'static str),
    /// It cannot serve its database.
    Failed(Box<dyn Error>),
}

/// The thread that brings a database up to its declaration.
struct Making {
    is_told: Arc<AtomicBool>,
    made: JoinHandle<Result<(), StoreError>>,
}

impl Making {
    fn start(redeclaration: Redeclaration, health: &Health) -> Self {
        health.set_building(!redeclaration.is_current());
        let is_told = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_told);
        Self { is_told, made: tokio::task::spawn_blocking(move || redeclaration.make(&told)) }
    }

    /// Waits until the database is ready, then lets the service serve it and answer `seed`. Returns only on an error.
    async fn open_counter(&mut self, counter: Option<&Counter>, state: &State) -> Box<dyn Error> {
        let made = match (&mut self.made).await {
            Ok(made) => made.map_err(Into::into),
            Err(panic) => Err(panic.into()),
        };
        let serve = |counter: &Counter| counter.serve(state.store.clone(), state.commit.clone());
        let opened = made.and_then(|()| counter.map_or(Ok(()), serve).map_err(Into::into));
        if let Err(error) = opened {
            return error;
        }
        state.health.set_building(false);
        std::future::pending().await
    }

    /// Stops the work where it is. The next start finishes it.
    async fn end(self) -> Result<(), JoinError> {
        self.is_told.store(true, Ordering::Relaxed);
        if !self.made.is_finished()
            && let Err(unfinished) = self.made.await?
        {
            log::info!("{unfinished}");
        }
        Ok(())
    }
}

/// Syncs the database and marks it as closed in order, unless `end` is an error.
async fn close(store: Store, folder: &Folder, end: End) -> Result<(), Box<dyn Error>> {
    let again = if let End::Again(why) = end { Some(why) } else { None };
    let synced = match end {
        End::Failed(error) => Err(error),
        End::Restart => {
            let path = folder.path().display();
            Err(format!(
                "{path}: writes failed, as the log says, and the disk has room again; restart the service to take writes"
            )
            .into())
        }
        End::Told | End::Again(_) => {
            let store = store.clone();
            let synced = tokio::task::spawn_blocking(move || store.sync());
            match timeout(SYNC_TIMEOUT, synced).await {
                Ok(synced) => synced?.map_err(Into::into),
                Err(_elapsed) => Err(format!(
                    "the database is not synced after {} s; the next start will recover it",
                    SYNC_TIMEOUT.as_secs()
                )
                .into()),
            }
        }
    };
    if synced.is_err() {
        // Not dropped: sled would wait for the failed disk.
        std::mem::forget(store);
        return synced;
    }
    let closing = store.close();
    if let Err(error) = tokio::task::spawn_blocking(move || closing.mark_clean()).await? {
        log::warn!("the next start will read all of the database's files: {error}");
    }
    log::info!("ended in order");
    match again {
        Some(why) => Err(format!("{}: {why}", folder.path().display()).into()),
        None => Ok(()),
    }
}

/// Reads the seed of a key for the broker.
fn read_key(path: &Path) -> Result<String, String> {
    let seed = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let seed = seed.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(str::to_owned).ok_or_else(|| format!("{}: there is no seed of a user's NKey (SU…) in it", path.display()))
}

/// Connects to the broker of a replicated service. Returns the number of this replica's process, too.
async fn connect(
    config: &Config,
    key: Option<String>,
    collection: Collection,
) -> Result<Option<(Broker, u64)>, BrokerError> {
    if config.broker.is_empty() {
        return Ok(None);
    }
    let (name, number) = (collection.name(), RandomState::new().hash_one(SystemTime::now()));
    let broker = Broker::connect(&config.broker, key, name, &format!("{name}-{number:016x}")).await?;
    Ok(Some((broker, number)))
}

/// Lets the service follow its stream, if it has one. A database that has followed one takes no writes without it, since
/// they would set it apart from the other replicas.
fn start_replica(
    config: &Config,
    link: Option<(Broker, u64)>,
    own: Collection,
    store: &Store,
    commit: &Commit,
    health: &Health,
) -> Result<Option<Replica>, Box<dyn Error>> {
    match (link, store.position()?) {
        (Some((broker, number)), _) => Ok(Some(Replica::start(broker, own, store, commit, health, number)?)),
        (None, Some(position)) if config.write_token_file.is_some() || config.jwt_keys.is_some() => Err(format!(
            "{}: this database is a replica of the stream {} up to message {}: start it with --broker, or read-only; `seed streams leave` makes it a database of its own",
            store.path().display(),
            store.collection().name(),
            position.sequence
        )
        .into()),
        (None, _) => Ok(None),
    }
}

/// Returns when the replica can go on only after a new start, and why. One that was outrun loads a snapshot first; reads go
/// on meanwhile.
async fn until_replica_ends(replica: Option<&Replica>, folder: &Arc<Folder>, state: &State) -> End {
    let Some(replica) = replica else { return std::future::pending().await };
    let collection = state.store.collection();
    let why = tokio::select! {
        loading = replica.until_outrun() => {
            if snapshot::load_newest(replica.broker(), folder, collection, loading).await {
                "the database is that of a newer snapshot; restart the service"
            } else {
                "the stream has all that this replica lacks again; restart the service"
            }
        }
        () = replica.until_changed_over() => "its stream has changed over to another declaration; restart the service",
    };
    if state.health.is_draining() {
        // It is told to end, and does so in its own time.
        return std::future::pending().await;
    }
    End::Again(why)
}

fn cannot_listen(config: &Config, error: &io::Error) -> String {
    format!("{}: cannot listen here: {error}; choose another address with --listen", config.listen)
}

/// Listens for operators.
fn open_admin(place: &str) -> Result<AdminListener, String> {
    let opened = AdminListener::open(place)
        .map_err(|error| format!("{place}: cannot listen here: {error}; choose another place with --admin-listen"))?;
    let address = opened.address().map_or_else(|| place.to_owned(), |address| format!("http://{address}"));
    log::info!("operators are answered on {address}");
    Ok(opened)
}

/// Scrubs the database at intervals of `every`; never if that is zero.
async fn scrub_regularly(operator: Operator, every: Duration) {
    if !every.is_zero() {
        operator.scrub_every(every).await;
    }
}

/// Opens the socket through which `seed` updates the running service. Without it, `seed` updates only a stopped one.
fn open_counter(folder: &Folder) -> Option<Counter> {
    let opened = Counter::open(folder.path());
    if let Err(error) = &opened {
        let path = folder.path().display();
        log::warn!(
            "{path}: no socket for `seed`: {error}; a newer file can be applied only while the service is stopped"
        );
    }
    opened.ok()
}

/// Makes a temporary folder for a copy of a database on a read-only file system.
fn read_through_a_copy(folder: &Folder) -> Result<TempDir, String> {
    let elsewhere = env::temp_dir();
    log::warn!(
        "{}: the file system is read-only; the service is read-only too, and reads from a copy in {}",
        folder.path().display(),
        elsewhere.display()
    );
    let cannot = |error: io::Error| {
        format!(
            "{}: cannot copy the read-only database here: {error}; set TMPDIR to another folder",
            elsewhere.display()
        )
    };
    tempfile::tempdir().map_err(cannot)
}

/// Reads who may write; nobody if there are neither tokens nor keys.
fn read_writers(collection: Collection, config: &Config) -> Result<Writers, Box<dyn Error>> {
    let jwt =
        config.meant().map(|(path, meant)| Ok::<_, Box<dyn Error>>((path, read_keys(path)?, meant))).transpose()?;
    if config.write_token_file.is_none() && jwt.is_none() {
        log::info!("read-only, since there is no --write-token-file");
        return Ok(Writers::none(collection));
    }
    let mut tokens = TokenFile::default();
    if let Some(path) = &config.write_token_file {
        tokens = read_tokens(path)?;
        log::info!("open for writes; tokens of {}: {}", path.display(), tokens.count());
    }
    if let Some((path, keys, _)) = &jwt {
        let (path, count, left_out) = (path.display(), keys.count(), keys.left_out());
        log::info!(
            "open for users' writes; keys of {path}: {count}; left out, since they are for something else: {left_out}"
        );
        if collection.declaration().owner.is_none() {
            let name = collection.name();
            log::warn!("{name} declares no owner, so a user with the scope {name}:write may write all of it");
        }
    }
    Ok(Writers::new(collection, tokens, jwt.map(|(_, keys, meant)| (keys, meant))))
}

/// Reads the keys of the file at `path`. Fails if none of them can check tokens.
fn read_keys(path: &Path) -> Result<Keys, Box<dyn Error>> {
    let keys = Keys::read(path)?;
    if keys.count() == 0 {
        let path = path.display();
        return Err(format!("{path}: it has no key for RS256, ES256 or EdDSA; save the provider's JWKS there").into());
    }
    Ok(keys)
}

/// Binds but does not listen yet: nobody is answered before the sandbox is made.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the previous process may still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Opens the folder's database. If there is none, makes it first: that of a replica, with a `broker`, from the newest
/// snapshot, else from the slice. Returns the work that its declaration still needs before it can be served.
async fn make_and_open(
    folder: &Arc<Folder>,
    collection: Collection,
    slice: Option<Slice>,
    on_damage: OnDamage,
    broker: Option<&Broker>,
    loading: &Loading,
) -> Result<Redeclaration, Box<dyn Error>> {
    let is_loaded = match broker {
        Some(broker) if !folder.database().exists() => snapshot::load_newest(broker, folder, collection, loading).await,
        _ => false,
    };
    let slice = slice.filter(|_| !is_loaded);
    let (folder, is_replica, loading) = (Arc::clone(folder), broker.is_some(), loading.clone());
    let opening =
        tokio::task::spawn_blocking(move || fill_and_open(&folder, collection, slice, on_damage, is_replica, &loading));
    Ok(opening.await??)
}

/// Opens the folder's database, and fills it first if there is a slice.
fn fill_and_open(
    folder: &Folder,
    collection: Collection,
    slice: Option<Slice>,
    on_damage: OnDamage,
    is_replica: bool,
    loading: &Loading,
) -> Result<Redeclaration, FillError> {
    folder.remove_part()?;
    if let Some(slice) = slice {
        log::info!("filling {} from its slice", folder.database().display());
        let (bytes, read) = slice.progress()?;
        loading.begin_reading("fills its database from its slice", bytes, read);
        let records = slice.fill(folder, collection)?;
        log::info!("filled with {records} {}", agree(records, "record", "records"));
    }
    loading.begin("opens its database");
    if !is_replica {
        return Ok(redeclare(&folder.open(collection, Purpose::Serving, on_damage)?)?);
    }
    let mut store = open_ruled(folder, collection, on_damage)?;
    match redeclare(&store) {
        Err(error @ StoreError::Contradiction { .. }) if note_contradiction(&store)? => {
            log::error!(
                "{error}; this replica takes no writes until `seed streams switch` changes to another declaration"
            );
            drop(store);
            store = open_ruled(folder, collection, on_damage)?;
            Ok(redeclare(&store)?)
        }
        redeclared => Ok(redeclared?),
    }
}

/// Opens the database of a replica by the declaration that it has to follow its stream by.
fn open_ruled(folder: &Folder, own: Collection, on_damage: OnDamage) -> Result<Store, StoreError> {
    let store = folder.open(own, Purpose::Serving, on_damage)?;
    let Some(ruled) = find_ruled(&store)? else { return Ok(store) };
    drop(store);
    log::warn!(
        "{}: its stream is decided by another declaration of {}, so this is served by that until `seed streams switch` \
         changes over",
        folder.path().display(),
        own.name()
    );
    folder.open(ruled, Purpose::Serving, on_damage)
}

/// Brings a database up to its declaration, unless that takes long; returns the work that is left.
fn redeclare(store: &Store) -> Result<Redeclaration, StoreError> {
    let redeclaration = store.redeclare()?;
    if redeclaration.is_current() || redeclaration.store().counted()?.count > AT_ONCE {
        return Ok(redeclaration);
    }
    redeclaration.make(&AtomicBool::new(false))?;
    redeclaration.store().redeclare()
}

/// Returns when the listener must close: at the first signal, or, if there is a time to drain, after that time or at a
/// second signal.
async fn wait_for_end(signals: &mut Signals, health: &Health, time: Duration) {
    signals.next().await;
    health.begin_draining();
    if time.is_zero() {
        return;
    }
    log::info!("no longer ready; serving for another {} s", time.as_secs());
    tokio::select! {
        () = sleep(time) => {}
        () = signals.next() => {}
    }
}

/// The signals that end a service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next SIGTERM or SIGINT.
    async fn next(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        log::info!("{name} received");
    }
}
