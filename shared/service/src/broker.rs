//! Reads the token file again at SIGHUP, for a service whose sandbox does not let it open the file.
//!
//! Most programs change a file by replacing it. A descriptor kept from the start, or a landlock rule for the old file,
//! does not reach the new one, and a rule for the folder would open everything in it. So before a service enters its
//! sandbox, it starts a broker: the same program in another process, which stays outside. Only two pipes and the log
//! connect them. A compromised service can make the broker read that one file again, whose digests it already has. It
//! cannot name another file, nor give the broker anything to parse.
//!
//! ```text
//! service to broker   any byte: read the file now
//! broker to service   a byte, GOOD or FAILED; a length, u32 big-endian; that many bytes: the file's, or the reason
//! ```
//!
//! The broker ends when the service's end of its pipe closes, however the service ended. SIGHUP, SIGINT and SIGTERM do
//! not end it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use record::token::{FILE_BYTES, TokenFile, TokenFileError};
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::authorize::Tokens;

/// The first argument that makes a service's program a broker. It is not in a service's command line, since a broker
/// needs none of a service's options.
const COMMAND: &str = "read-token-file";

/// The time after which the log says that the broker's answer is late.
const PATIENCE: Duration = Duration::from_secs(5);

/// The advice for a service that has lost its broker.
const RESTART: &str = "restart the service to reload the file";

/// The kind of an answer with the file's bytes.
const GOOD: u8 = 0;
/// The kind of an answer with the reason why the file cannot be read.
const FAILED: u8 = 1;

/// Runs the broker if this process is one, and returns its exit code.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().filter(|first| first == COMMAND)?;
    let path = PathBuf::from(arguments.next()?);
    Some(match run(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{COMMAND} {}: {error}", path.display());
            ExitCode::FAILURE
        }
    })
}

/// Reads the file at `path` at every request, until the service has ended.
fn run(path: &Path) -> io::Result<()> {
    // A signal to all processes of a service is for the service. A signal with a handler does not end the process,
    // and tokio keeps the handler after the drop.
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let _context = runtime.enter();
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        drop(signal(kind)?);
    }
    let mut answers = io::stdout().lock();
    for request in io::stdin().lock().bytes() {
        request?;
        let (kind, bytes) = match read(path) {
            Ok(bytes) => (GOOD, bytes),
            Err(error) => (FAILED, error.to_string().into_bytes()),
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        answers.write_all(&[&[kind][..], &length.to_be_bytes(), &bytes].concat())?;
        answers.flush()?;
    }
    Ok(())
}

/// Reads the file, up to one byte more than the longest token file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Without NONBLOCK, opening a pipe would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The broker could not be started.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start the process that reads {} again at SIGHUP: {source}; allow the service to start its own program",
    .path.display()
)]
pub struct BrokerError {
    path: PathBuf,
    source: io::Error,
}

/// The service's side of a broker.
pub struct Broker {
    path: PathBuf,
    process: Child,
    requests: OwnedFd,
    answers: OwnedFd,
}

impl Broker {
    /// Starts a broker for the file at `path`. Call it before the sandbox, which forbids it.
    pub fn start(path: &Path) -> Result<Self, BrokerError> {
        let start = || {
            let (asked, requests) = io::pipe()?;
            let (answers, answered) = io::pipe()?;
            let mut program = Command::new(std::env::current_exe()?);
            // Its own process group, so that Ctrl-C does not end it; no environment, since settings are the service's.
            program.arg(COMMAND).arg(path).env_clear().process_group(0).stdin(asked).stdout(answered);
            Ok((program.spawn()?, requests.into(), answers.into()))
        };
        let (process, requests, answers) = start().map_err(|source| BrokerError { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), process, requests, answers })
    }

    /// Reads the file again at every hangup and replaces the tokens in force. Takes every answer in order, even a late
    /// one: each is newer than the tokens in force.
    async fn reload(self, mut hangups: Signal, tokens: Arc<Tokens>) -> io::Result<()> {
        let Self { path, mut process, requests, answers } = self;
        let (mut requests, mut answers) = (Sender::from_owned_fd(requests)?, Receiver::from_owned_fd(answers)?);
        let (taken, mut seen) = watch::channel(0_u64);
        let taking = async {
            while let Ok(answer) = receive(&mut answers).await {
                take(&path, answer, &tokens);
                taken.send_modify(|taken| *taken += 1);
            }
            drop(taken);
            let how = match tokio::task::spawn_blocking(move || process.wait()).await {
                Ok(Ok(status)) => status.to_string(),
                _ => "its status is unknown".to_owned(),
            };
            log::error!("the process that reads {} again at SIGHUP has ended ({how}); {RESTART}", path.display());
        };
        let asking = async {
            let mut asked = 0;
            while hangups.recv().await.is_some() {
                let answered = timeout(PATIENCE, async {
                    requests.write_all(b"?").await.ok()?;
                    asked += 1;
                    seen.wait_for(|taken| *taken >= asked).await.ok().map(drop)
                });
                let what = match answered.await {
                    Ok(Some(())) => continue,
                    Ok(None) => format!("the process that reads it again has ended; {RESTART}"),
                    Err(_elapsed) => {
                        format!("not read again within {} s; it takes effect once it is read", PATIENCE.as_secs())
                    }
                };
                log_failure(&format!("{}: {what}", path.display()), &tokens);
            }
        };
        tokio::join!(taking, asking);
        Ok(())
    }
}

/// Receives the next answer. Fails when the broker has ended.
async fn receive(answers: &mut Receiver) -> io::Result<Result<Vec<u8>, String>> {
    let kind = answers.read_u8().await?;
    let length = answers.read_u32().await?;
    if u64::from(length) > FILE_BYTES + 1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Exactly that many: a part of a token file may be a valid one too.
    let mut bytes = vec![0; length as usize];
    answers.read_exact(&mut bytes).await?;
    Ok(if kind == GOOD { Ok(bytes) } else { Err(String::from_utf8_lossy(&bytes).into_owned()) })
}

/// Replaces the tokens in force with those of the file at `path`, unless it is invalid.
fn take(path: &Path, answer: Result<Vec<u8>, String>, tokens: &Tokens) {
    let unread = |reason| TokenFileError::Io { path: path.to_owned(), source: io::Error::other(reason) };
    match answer.map_err(unread).and_then(|bytes| TokenFile::from_bytes(path, bytes)) {
        Ok(file) => {
            let (path, count) = (path.display(), file.count());
            tokens.replace(file);
            if count > 0 {
                log::info!("SIGHUP: reloaded; tokens of {path}: {count}");
            } else {
                log::warn!(
                    "SIGHUP: reloaded; tokens of {path}: 0, so nobody may write. Before the next start, add one with \
                     `seed token`, or remove --write-token-file"
                );
            }
        }
        Err(error) => log_failure(&error.to_string(), tokens),
    }
}

/// Logs why the old tokens stay in force.
fn log_failure(what: &str, tokens: &Tokens) {
    let count = tokens.count();
    log::error!("SIGHUP: {what}. The old tokens stay in force ({count}); an empty file revokes them");
}

/// Reloads the tokens at every hangup. Without a broker, which means without a token file, it only logs that.
pub async fn reload(mut hangups: Signal, broker: Option<Broker>, tokens: Arc<Tokens>) {
    let Some(broker) = broker else {
        while hangups.recv().await.is_some() {
            log::info!("SIGHUP: nothing to reload, since there is no --write-token-file");
        }
        return;
    };
    if let Err(error) = broker.reload(hangups, tokens).await {
        log::error!("SIGHUP reloads nothing: {error}; {RESTART}");
    }
}
