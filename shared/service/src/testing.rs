//! A service on a free port with a fresh folder, for the tests of every service.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use record::model::{Collection, Records};
use record::record_set::RecordSet;
use record::token::TokenFile;
use store::{Commit, Durability, Load, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use ureq::http::{HeaderMap, Response};

use crate::admin::{Admin, AdminListener};
use crate::authorize::Writers;
use crate::health::Health;
use crate::loading::Loading;
use crate::operate::Operator;
use crate::routes::{Own, routes};
use crate::serve::serve;
use crate::state::State;
use crate::workers::Workers;

/// The memory for answers, in bytes.
const CACHE: u64 = 1 << 20;

/// The time an answer may take; then the test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running service. Ends when dropped.
pub struct App {
    /// The address at which it listens.
    pub address: SocketAddr,
    /// The address of its admin listener.
    pub admin: SocketAddr,
    /// Its health.
    pub health: Health,
    shutdown: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
    _dir: TempDir,
}

/// Returns the `Authorization` header of a client that may write to a writable service.
pub fn bearer(collection: Collection) -> String {
    format!("Bearer {}_secret", collection.name())
}

/// Returns the token file with the secret of [`bearer`] alone.
pub fn tokens(collection: Collection) -> TokenFile {
    let name = "test".parse().expect("it is a name");
    let secret = format!("{}_secret", collection.name());
    TokenFile::default().with(Path::new("tokens"), &name, &secret).expect("it is the first")
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Returns a header's value, or `""` if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("our headers are text")).unwrap_or_default()
    }
}

impl App {
    /// Serves `records`, each in the text of the monolith's file.
    pub fn spawn<R: AsRef<str>>(collection: Collection, records: impl IntoIterator<Item = R>) -> Self {
        Self::start(collection, None, records, Writers::none(collection))
    }

    /// Serves `records` with a service's own routes.
    pub fn spawn_with<R: AsRef<str>>(collection: Collection, own: Own, records: impl IntoIterator<Item = R>) -> Self {
        Self::start(collection, Some(own), records, Writers::none(collection))
    }

    /// Serves `records`, and lets clients write that send [`bearer`].
    pub fn spawn_writable<R: AsRef<str>>(collection: Collection, records: impl IntoIterator<Item = R>) -> Self {
        Self::spawn_for(collection, Writers::new(collection, tokens(collection), None), records)
    }

    /// Serves `records`, and lets these clients write.
    pub fn spawn_for<R: AsRef<str>>(
        collection: Collection,
        writers: Writers,
        records: impl IntoIterator<Item = R>,
    ) -> Self {
        Self::start(collection, None, records, writers)
    }

    fn start<R: AsRef<str>>(
        collection: Collection,
        own: Option<Own>,
        records: impl IntoIterator<Item = R>,
        writers: Writers,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::create(&dir.path().join("db"), collection).expect("a database can be made");
        let mut load = Load::new(store);
        let mut read = Records::new(collection, 0);
        for (position, record) in (1_u64..).zip(records) {
            read.push(record.as_ref(), position.try_into().ok()).expect("a test's records fit");
        }
        assert_eq!(
            load.put([&read], &RecordSet::of(read.iter())).expect("a database can be written"),
            None,
            "an id is taken"
        );
        let store = load.finish().expect("a database can be written");
        let redeclaration = store.redeclare().expect("the declaration is its own");
        redeclaration.make(&AtomicBool::new(false)).expect("words can be listed");
        let health = Health::default();
        let of_state = health.clone();
        let writers = Arc::new(writers);
        let (shutdown, asked) = oneshot::channel();
        let (tell_address, address) = std::sync::mpsc::channel();
        let operators = AdminListener::open("127.0.0.1:0").expect("there is a free port");
        let admin = operators.address().expect("it has one");
        let server = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be made");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
                tell_address.send(listener.local_addr().expect("it is bound")).expect("the test waits");
                // The default, since the others take another way into the database.
                let commit = Commit::start(&store, Durability::Power).expect("a thread can be started");
                let operator = Operator::new(store.clone(), commit.clone(), Arc::clone(&writers));
                let state = State { store, commit, writers, replica: None, operator, health: of_state };
                let workers = Workers::start(2).expect("threads can be started");
                let routes = routes(&state, own, CACHE);
                let admin = Admin::new(collection, routes.metrics.clone(), Loading::default());
                admin.begin_serving(&state, &routes);
                let operators = tokio::spawn(operators.serve(admin));
                serve(listener, routes, workers, async { drop(asked.await) }).await;
                operators.abort();
            });
        });
        let address = address.recv().expect("the server starts");
        Self { address, admin, health, shutdown: Some(shutdown), server: Some(server), _dir: dir }
    }

    /// Returns the answer to `GET path`.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path)
    }

    /// Returns the answer to a request without a body.
    pub fn request(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[], "")
    }

    /// Returns the answer to a request with headers and a body.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_owned()).expect("a test's request is valid");
        let response: Response<ureq::Body> = agent.run(request).expect("the service answers");
        let (head, mut body) = response.into_parts();
        let body = body.with_config().limit(u64::MAX).read_to_string().expect("the body is text");
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Sends bytes unchanged and returns everything until the connection ends.
    pub fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the service listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        // The service may end the connection before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the service hangs"),
            _ => String::from_utf8_lossy(&answer).into_owned(),
        }
    }

    /// Asks the service to end, and returns at once.
    pub fn shut_down(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }

    /// Waits until the service has ended.
    pub fn join(&mut self) {
        self.shut_down();
        if let Some(server) = self.server.take() {
            server.join().expect("the server does not panic");
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.join();
        }
    }
}
