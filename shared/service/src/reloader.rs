//! Reads the files with tokens and keys again at SIGHUP, for a service whose sandbox does not let it open them.
//!
//! Most programs change a file by replacing it. A descriptor kept from the start, or a landlock rule for the old file,
//! does not reach the new one, and a rule for the folder would open everything in it. So before a service enters its
//! sandbox, it starts a reloader: the same program in another process, which stays outside. Only two pipes and the log
//! connect them. A compromised service can make the reloader read these files again, whose digests and public keys it already
//! has. It cannot name another file, nor give the reloader anything to parse.
//!
//! ```text
//! service to reloader   a byte, the number of a file: read it now
//! reloader to service   that byte; a byte, GOOD or FAILED; a length, u32 big-endian; that many bytes: the file's, or the reason
//! ```
//!
//! The reloader ends when the service's end of its pipe closes, however the service ended. SIGHUP, SIGINT and SIGTERM do
//! not end it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use record::token::{FILE_BYTES, TokenFile};
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::authorize::Writers;
use crate::jwt::Keys;

/// The first argument that makes a service's program a reloader. It is not in a service's command line, since a reloader
/// needs none of a service's options.
const COMMAND: &str = "read-files";

/// The time after which the log says that the reloader's answer is late.
const PATIENCE: Duration = Duration::from_secs(5);

/// The advice for a service that has lost its reloader.
const RESTART: &str = "restart the service to reload the file";

/// The kind of an answer with the file's bytes.
const GOOD: u8 = 0;
/// The kind of an answer with the reason why the file cannot be read.
const FAILED: u8 = 1;

/// Runs the reloader if this process is one, and returns its exit code.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().filter(|first| first == COMMAND)?;
    let paths: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    Some(match run(&paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{COMMAND} {paths:?}: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Reads one of the files at `paths` at every request, until the service has ended.
fn run(paths: &[PathBuf]) -> io::Result<()> {
    // A signal to all processes of a service is for the service. A signal with a handler does not end the process,
    // and tokio keeps the handler after the drop.
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let _context = runtime.enter();
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        drop(signal(kind)?);
    }
    let mut answers = io::stdout().lock();
    for request in io::stdin().lock().bytes() {
        let number = request?;
        let path = paths.get(usize::from(number)).ok_or(io::ErrorKind::InvalidInput)?;
        let (kind, bytes) = match read(path) {
            Ok(bytes) => (GOOD, bytes),
            Err(error) => (FAILED, error.to_string().into_bytes()),
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        answers.write_all(&[&[number, kind][..], &length.to_be_bytes(), &bytes].concat())?;
        answers.flush()?;
    }
    Ok(())
}

/// Reads the file, up to one byte more than the longest that is accepted.
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

/// The reloader could not be started.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start the process that reads {files} again at SIGHUP: {source}; allow the service to start its own program"
)]
pub struct BrokerError {
    files: String,
    source: io::Error,
}

/// A file that is read again, by what it holds.
#[derive(Clone, Debug)]
pub enum Reloaded {
    /// The token file.
    Tokens(PathBuf),
    /// The public keys of an identity provider.
    Keys(PathBuf),
}

impl Reloaded {
    fn path(&self) -> &Path {
        match self {
            Self::Tokens(path) | Self::Keys(path) => path,
        }
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "tokens",
            Self::Keys(_) => "keys",
        }
    }

    /// Lets the file with these bytes take effect, unless it is invalid. Returns the number of tokens or keys.
    fn take(&self, bytes: Vec<u8>, writers: &Writers) -> Result<usize, String> {
        match self {
            Self::Tokens(path) => {
                let file = TokenFile::from_bytes(path, bytes).map_err(|error| error.to_string())?;
                let count = file.count();
                writers.replace_tokens(file);
                Ok(count)
            }
            Self::Keys(path) => {
                let keys = Keys::from_bytes(path, &bytes).map_err(|error| error.to_string())?;
                let count = keys.count();
                writers.replace_keys(keys);
                Ok(count)
            }
        }
    }

    /// Logs an answer of the reloader, and lets it take effect unless it is invalid.
    fn receive(&self, answer: Result<Vec<u8>, String>, writers: &Writers) {
        let (path, what) = (self.path().display(), self.what());
        let whole = if let Self::Tokens(_) = self { "the token file" } else { "the file of keys" };
        let taken = answer.map_err(|reason| format!("{path}: {whole} cannot be read: {reason}"));
        match taken.and_then(|bytes| self.take(bytes, writers)) {
            Ok(0) => log::warn!(
                "SIGHUP: reloaded; {what} of {path}: 0, so nobody may write with one. Before the next start, add one (`seed token` \
                 does, for tokens), or remove the option"
            ),
            Ok(count) => log::info!("SIGHUP: reloaded; {what} of {path}: {count}"),
            Err(reason) => self.log_failure(&reason, writers),
        }
    }

    /// Logs why the old tokens or keys stay in force.
    fn log_failure(&self, reason: &str, writers: &Writers) {
        let (what, (tokens, keys)) = (self.what(), writers.counts());
        let count = if let Self::Tokens(_) = self { tokens } else { keys };
        let empty =
            if let Self::Tokens(_) = self { "an empty file revokes them" } else { "{\"keys\":[]} revokes them" };
        log::error!("SIGHUP: {reason}. The old {what} stay in force ({count}); {empty}");
    }
}

/// The service's side of a reloader.
pub struct Reloader {
    files: Vec<Reloaded>,
    process: Child,
    requests: OwnedFd,
    answers: OwnedFd,
}

impl Reloader {
    /// Starts a reloader for `files`. Call it before the sandbox, which forbids it.
    pub fn start(files: Vec<Reloaded>) -> Result<Self, BrokerError> {
        let start = || {
            let (asked, requests) = io::pipe()?;
            let (answers, answered) = io::pipe()?;
            let mut program = Command::new(std::env::current_exe()?);
            // Its own process group, so that Ctrl-C does not end it; no environment, since settings are the service's.
            program.arg(COMMAND).args(files.iter().map(Reloaded::path));
            program.env_clear().process_group(0).stdin(asked).stdout(answered);
            Ok((program.spawn()?, requests.into(), answers.into()))
        };
        let (process, requests, answers) = start().map_err(|source| BrokerError { files: list(&files), source })?;
        Ok(Self { files, process, requests, answers })
    }

    /// Reads the files again at every hangup and replaces the tokens and keys in force. Takes every answer in order, even a
    /// late one: each is newer than what is in force.
    async fn reload(self, mut hangups: Signal, writers: Arc<Writers>) -> io::Result<()> {
        let Self { files, mut process, requests, answers } = self;
        let (mut requests, mut answers) = (Sender::from_owned_fd(requests)?, Receiver::from_owned_fd(answers)?);
        let (taken, mut seen) = watch::channel(0_u64);
        let taking = async {
            while let Ok((number, answer)) = receive(&mut answers).await {
                let Some(file) = files.get(usize::from(number)) else { break };
                file.receive(answer, &writers);
                taken.send_modify(|taken| *taken += 1);
            }
            drop(taken);
            let how = match tokio::task::spawn_blocking(move || process.wait()).await {
                Ok(Ok(status)) => status.to_string(),
                _ => "its status is unknown".to_owned(),
            };
            log::error!("the process that reads {} again at SIGHUP has ended ({how}); {RESTART}", list(&files));
        };
        let asking = async {
            let mut asked = 0;
            while hangups.recv().await.is_some() {
                for (number, file) in (0_u8..).zip(&files) {
                    let answered = timeout(PATIENCE, async {
                        requests.write_all(&[number]).await.ok()?;
                        asked += 1;
                        seen.wait_for(|taken| *taken >= asked).await.ok().map(drop)
                    });
                    let what = match answered.await {
                        Ok(Some(())) => continue,
                        Ok(None) => format!("the process that reads it again has ended; {RESTART}"),
                        Err(_elapsed) => {
                            let seconds = PATIENCE.as_secs();
                            format!("not read again within {seconds} s; it takes effect once it is read")
                        }
                    };
                    file.log_failure(&format!("{}: {what}", file.path().display()), &writers);
                }
            }
        };
        tokio::join!(taking, asking);
        Ok(())
    }
}

/// Lists the paths of `files`, for messages.
fn list(files: &[Reloaded]) -> String {
    files.iter().map(|file| file.path().display().to_string()).collect::<Vec<_>>().join(" and ")
}

/// Receives the next answer, with the number of its file. Fails when the reloader has ended.
async fn receive(answers: &mut Receiver) -> io::Result<(u8, Result<Vec<u8>, String>)> {
    let number = answers.read_u8().await?;
    let kind = answers.read_u8().await?;
    let length = answers.read_u32().await?;
    if u64::from(length) > FILE_BYTES + 1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Exactly that many: a part of a token file may be a valid one too.
    let mut bytes = vec![0; length as usize];
    answers.read_exact(&mut bytes).await?;
    Ok((number, if kind == GOOD { Ok(bytes) } else { Err(String::from_utf8_lossy(&bytes).into_owned()) }))
}

/// Reloads the tokens and keys at every hangup. Without a reloader, which means without files, it only logs that.
pub async fn reload(mut hangups: Signal, reloader: Option<Reloader>, writers: Arc<Writers>) {
    let Some(reloader) = reloader else {
        while hangups.recv().await.is_some() {
            log::info!("SIGHUP: nothing to reload, since there is no --write-token-file and there are no --jwt-keys");
        }
        return;
    };
    if let Err(error) = reloader.reload(hangups, writers).await {
        log::error!("SIGHUP reloads nothing: {error}; {RESTART}");
    }
}
