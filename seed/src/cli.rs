//! The command line of `seed`.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use clap::builder::{FalseyValueParser, TypedValueParser};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use record::model::Collection;
use record::token::Name;
use seed::chain::Chain;
use seed::commands::backup::Origin;
use seed::commands::compare::CompareArgs;
use seed::commands::join::Joining;
use seed::commands::plan::render::Purpose;
use seed::commands::{backup, compare, join, plan, restore, slices, snapshot, split, streams, token, verify};
use seed::error::Error;
use seed::options::Options;
use seed::plan::Plan;
use seed::progress::Progress;
use seed::report::Report;
use serde_json::json;

/// The first and the longest time until a snapshot that could not be stored is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// With the commit that it was built from, if the build named it (`deploy/revision`).
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("REVISION") {
        None | Some("") => version.to_owned(),
        Some(revision) => format!("{version} ({revision})"),
    }
});

/// Splits a monolith's db.json into one slice and one database per service, and proves that nothing was lost
#[derive(Parser)]
#[command(
    version = VERSION.as_str(),
    args_conflicts_with_subcommands = true,
    after_help = "\
A second run on the same file checks the split and changes nothing. A run on a newer file applies its changes and keeps
those that the services have made since.

Exit codes:
  0  done
  1  `plan render --check` found stale files
  2  the command line is wrong, or nothing was compared
  3  the input is wrong; the message says where
  4  a difference was found, or too many paths could not be judged
  5  the target is in use or holds something else, or a service's changes conflict with the file
  6  a file, a database, a backup or the monolith could not be read or written, or is damaged
  7  done, but some records were rejected"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    split: Split,

    /// Prints the report or the error as one JSON object, instead of text
    #[arg(long, global = true)]
    json: bool,

    /// Hides the progress, which otherwise goes to standard error
    #[arg(long, global = true)]
    quiet: bool,

    /// Appends each step of the run to FILE, with its time
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Checks every record and index of the databases, and reports what the services have changed since the split
    Verify {
        /// Compares the databases with FILE, such as the file that was split
        #[arg(long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// Compares the databases with BACKUP. Repeat it for each increment, in order
        #[arg(long, value_name = "BACKUP", conflicts_with = "backup")]
        against: Vec<PathBuf>,
        /// Checks BACKUP instead of the databases. Repeat it for each increment, in order
        #[arg(long, value_name = "BACKUP")]
        backup: Vec<PathBuf>,
        #[command(flatten)]
        data: Data,
    },
    /// Takes a backup of running services, which go on writing, or of stopped ones. It holds each collection as it was
    /// at one revision
    Backup {
        /// Asks the entrance or a service at URL, such as http://127.0.0.1:8080. Repeat it to ask several in turn. Without
        /// it, reads the databases of stopped services
        #[arg(long, value_name = "URL")]
        from: Vec<String>,
        /// Writes the backup to this new folder, or to one file if the name ends in .ndjson
        #[arg(long, value_name = "BACKUP")]
        output: PathBuf,
        /// Takes an increment: only what was written since BACKUP. Repeat it for each earlier increment, in order
        #[arg(long, value_name = "BACKUP")]
        since: Vec<PathBuf>,
        /// Reads the secrets of write tokens from FILE, one a line. A service with tokens demands one of its own
        #[arg(long, value_name = "FILE")]
        secrets: Option<PathBuf>,
        #[command(flatten)]
        data: Data,
    },
    /// Restores a backup into the folders of stopped services, after reading it back and checking it
    Restore {
        /// Restores BACKUP. Repeat it for each increment, in order
        #[arg(long, value_name = "BACKUP", required = true)]
        backup: Vec<PathBuf>,
        /// Replaces the data in DIR. Without it, a DIR that holds data is refused
        #[arg(long)]
        replace: bool,
        /// Makes replicas that go on where those were that were backed up, with a token; one service's backup is enough.
        /// Without it, the databases follow no stream
        #[arg(long)]
        as_replica: bool,
        #[command(flatten)]
        data: Data,
    },
    /// Writes only the slices, without databases, and does not look for repeated ids
    Slices {
        /// Reads the monolith's data from FILE
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
        /// Writes users.json, threads.json and posts.json to this folder
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        plan: PlanFolder,
    },
    /// Asks a running monolith and the services for the same paths, and compares their answers. A post's added id, the
    /// order of a list, 404 for 204 and the source's own digits are expected; anything else is a difference. An answer of
    /// the monolith that proves nothing counts as unknown. A request without an answer is sent again, twice
    Compare(Box<CompareArgs>),
    /// Writes one db.json from the databases or from a backup: the way back to the monolith
    Join {
        /// Writes db.json to FILE instead of standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Also writes the ids that the split gave to posts. Without it, they are left out, as in the monolith's file
        #[arg(long)]
        ids: bool,
        /// Adds the collections in REST, which the split's --rest put aside
        #[arg(long, value_name = "REST")]
        with: Option<PathBuf>,
        /// Reads BACKUP instead of the databases. Repeat it for each increment, in order
        #[arg(long, value_name = "BACKUP")]
        backup: Vec<PathBuf>,
        #[command(flatten)]
        data: Data,
    },
    /// Makes a token for writing to one service: prints its secret once, and adds its digest to a token file
    Token {
        /// The service's name in `plan`, or its collection's name
        service: String,
        /// Adds the token to FILE, which the service takes as --write-token-file. Keep it outside the service's own
        /// folder: an intruder in the service can write there [default: tokens/COLLECTION]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Names the token in the service's log [default: the next token-N]
        #[arg(long, value_name = "NAME")]
        name: Option<Name>,
        #[command(flatten)]
        plan: PlanFolder,
    },
    /// Prepares the streams of replicated services at their broker
    Streams {
        #[command(subcommand)]
        command: StreamsCommand,
    },
    /// Proposes declarations for the collections in a db.json, or renders the topology's files from the list of collections
    #[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
    Plan {
        #[command(subcommand)]
        command: Option<PlanCommand>,
        #[command(flatten)]
        proposing: Option<Proposing>,
    },
    /// Prints a script that lets a shell complete this command line
    Completions {
        /// The shell to write for
        shell: Shell,
    },
    /// Prints the manual, for `man -l -`
    Man {
        /// Writes a page for each command to this folder instead
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

#[derive(Args)]
struct PlanFolder {
    /// Reads the list of collections from the file `plan` in FOLDER [default: the workspace's own]
    #[arg(long, value_name = "FOLDER")]
    plan: Option<PathBuf>,
}

impl PlanFolder {
    fn read(&self) -> Result<Plan, Error> {
        self.plan.as_deref().map_or_else(|| Ok(Plan::workspace()), Plan::read)
    }
}

#[derive(Args)]
struct Link {
    /// Asks this server of the broker, such as nats://127.0.0.1:4222. Several are separated by commas
    #[arg(long, value_name = "URL", required = true, value_delimiter = ',')]
    broker: Vec<broker::Server>,
    /// Finds the keys that `seed streams keys` has made in FOLDER. Without it, connects without a key
    #[arg(long, value_name = "FOLDER")]
    keys: Option<PathBuf>,
}

#[derive(Args)]
struct Chosen {
    #[command(flatten)]
    plan: PlanFolder,
    /// Leaves out all but this collection. Repeat it for several
    #[arg(long, value_name = "COLLECTION")]
    only: Vec<String>,
}

impl Chosen {
    fn read(&self) -> Result<Plan, Error> {
        let plan = self.plan.read()?;
        if self.only.is_empty() { Ok(plan) } else { self.only.iter().map(|name| plan.find(name)).collect() }
    }
}

#[derive(Args)]
struct Proposing {
    /// Examines the monolith's data in FILE; `-` is standard input
    #[arg(long, value_name = "FILE", required = true)]
    from: PathBuf,
    /// Accepts invalid JSON that Node's JSON.parse accepts, as the split does with --as-node. Without it, the file is
    /// refused
    #[arg(long)]
    as_node: bool,
    /// Writes `plan` and NAME/collection.json to this new or empty folder, for a person to edit
    #[arg(long, value_name = "FOLDER", required = true)]
    output: PathBuf,
}

#[derive(Subcommand)]
enum PlanCommand {
    /// Renders the parts of compose.yaml, compose.writes.yaml, gateway/ and deploy/ecs.yaml that each collection needs. Run
    /// it at the top of the repository
    Render {
        /// Reads the list of collections from the file `plan` in FOLDER
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        plan: PathBuf,
        /// Writes rendered copies into FOLDER, and leaves the files themselves unchanged
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
        /// Changes nothing, but names the stale files and exits with 1 if any file is stale
        #[arg(long, conflicts_with = "output")]
        check: bool,
    },
}

#[derive(Subcommand)]
enum StreamsCommand {
    /// Makes an account with keys for each collection: accounts.conf for nats-server to include, and the seeds of the keys
    Keys {
        /// Writes accounts.conf, and for each collection COLLECTION.nk, which its service takes as --broker-key, and
        /// COLLECTION.admin.nk, which `seed streams create` takes, to this new or empty folder
        #[arg(long, value_name = "FOLDER")]
        output: PathBuf,
        #[command(flatten)]
        plan: PlanFolder,
    },
    /// Makes the stream of each collection, which begins with what the databases of the stopped services have. Streams that
    /// are there are left alone
    Create {
        #[command(flatten)]
        link: Link,
        /// Removes streams that are there, with all their messages, and makes them anew. Without it, they are left alone
        #[arg(long)]
        anew: bool,
        /// Keeps each stream on so many of the broker's servers
        #[arg(long, value_name = "COUNT", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=5))]
        replicas: u8,
        /// Lets each stream grow to so many MiB; after that, the services take no writes
        #[arg(long, value_name = "MIB", default_value = "4096", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
        most: u64,
        /// Lets the first commands be decided by the declarations listed in the file `plan` in FOLDER [default: those of the
        /// split]
        #[arg(long, value_name = "FOLDER")]
        plan: Option<PathBuf>,
        #[command(flatten)]
        data: Data,
    },
    /// Stores a snapshot of each collection at the broker, from running replicas, for those that begin later. Removes the
    /// messages that two snapshots have, which are read back first
    Snapshot {
        /// Asks the services at URL: the entrance, or a replica of each. Repeat it for several
        #[arg(long, value_name = "URL", required = true)]
        from: Vec<String>,
        /// Reads the secrets of write tokens from FILE, one a line: each service demands one of its own
        #[arg(long, value_name = "FILE")]
        secrets: PathBuf,
        /// Goes on, and stores the next ones after SECONDS; those that have failed after a minute at the latest
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
        every: Option<u64>,
        #[command(flatten)]
        link: Link,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Changes the streams over to the declarations of a plan: from one message on, commands are decided by these. Replicas
    /// end within two seconds, to be started again
    Switch {
        #[command(flatten)]
        link: Link,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Lets the databases of stopped services forget their streams, so that the services take writes alone again
    Leave {
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Args)]
struct Split {
    /// Splits the monolith's data in FILE; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "seed/db.json")]
    input: PathBuf,

    #[command(flatten)]
    data: Data,

    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Data {
    /// Finds the services' folders in DIR
    #[arg(long = "data", value_name = "DIR", default_value = "data")]
    dir: PathBuf,
}

fn verify(
    input: Option<&Path>,
    against: &[PathBuf],
    backup: &[PathBuf],
    data: &Data,
    progress: Progress,
) -> Result<Report, Error> {
    if !backup.is_empty() {
        return verify::verify_backup(input, &Chain::open(backup)?, progress);
    }
    let against = if against.is_empty() { None } else { Some(Chain::open(against)?) };
    verify::verify(input, against.as_ref(), &data.dir, progress)
}

/// Returns the command line, whose options can also come from the environment: `--max-removed` as SEED_MAX_REMOVED.
/// Unless `is_split`, the environment does not set the split's own options: other commands do not take them.
fn command_line(is_split: bool) -> clap::Command {
    let from_environment = |arg: clap::Arg| {
        let name = arg.get_long().map(|long| format!("SEED_{}", long.to_uppercase().replace('-', "_")));
        let arg = if matches!(arg.get_action(), ArgAction::SetTrue) {
            arg.value_parser(FalseyValueParser::new())
        } else {
            arg
        };
        match name {
            Some(name) => arg.env(name),
            None => arg,
        }
    };
    fn below(command: clap::Command, from_environment: &impl Fn(clap::Arg) -> clap::Arg) -> clap::Command {
        command.mut_subcommands(|command| below(command.mut_args(from_environment), from_environment))
    }
    let command = Cli::command();
    let command = command.mut_args(|arg| if is_split || arg.is_global_set() { from_environment(arg) } else { arg });
    below(command, &from_environment)
}

/// Reads the command line. Exits with 2 if it is invalid.
fn read_command_line() -> Cli {
    let names: Vec<String> = Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let is_split = !env::args().skip(1).any(|argument| names.contains(&argument));
    let read = command_line(is_split).try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    read.unwrap_or_else(|error| {
        let is_failure = error.exit_code() != 0;
        let by_environment = env::var("SEED_JSON").is_ok_and(|value| {
            FalseyValueParser::new().parse_ref(&Cli::command(), None, value.as_ref()).unwrap_or(false)
        });
        if is_failure && (by_environment || env::args().any(|argument| argument == "--json")) {
            let message = error.render().to_string();
            println!(
                "{}",
                json!({ "outcome": "failed", "error": "usage", "message": message.trim_end(), "exit_code": 2 })
            );
            process::exit(2);
        }
        error.exit()
    })
}

/// Adds a command and its subcommands to `pages`, each under its full name.
fn collect_pages(name: &str, command: &clap::Command, pages: &mut Vec<(String, clap::Command)>) {
    pages.push((name.to_owned(), command.clone().name(name.to_owned())));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        collect_pages(&format!("{name}-{}", below.get_name()), below, pages);
    }
}

/// Writes the manual: all commands in one text, or a file for each command in the folder `output`.
fn write_manual(output: Option<&Path>) -> Result<Report, Error> {
    let mut command = command_line(true);
    command.build();
    let mut pages = Vec::new();
    collect_pages(command.get_name(), &command, &mut pages);
    let mut text = Vec::new();
    for (name, command) in pages {
        let mut page = Vec::new();
        let at = Path::new("the manual");
        clap_mangen::Man::new(command).render(&mut page).map_err(Error::io(at))?;
        match output {
            Some(folder) => {
                let path = folder.join(format!("{name}.1"));
                fs::create_dir_all(folder).map_err(Error::io(folder))?;
                fs::write(&path, page).map_err(Error::io(&path))?;
            }
            None => text.extend(page),
        }
    }
    Ok(Report::of_text(String::from_utf8_lossy(&text).into_owned()))
}

/// Writes the completion script for `shell`.
fn write_completions(shell: Shell) -> Report {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "seed", &mut text);
    Report::of_text(String::from_utf8_lossy(&text).into_owned())
}

/// Runs the command of the command line; returns its exit code.
pub(crate) fn run() -> ExitCode {
    let Cli { command, split, json, quiet, log } = read_command_line();
    // The allocator asks for pages of two megabytes, of which little is used: they take a third more memory, and the
    // system's time to clear them. If it refuses this call, there are none, or `seed` only takes more memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let progress = if quiet { Progress::Quiet } else { Progress::on_stderr() };
    let logged = log.as_deref().map_or(Ok(()), seed::progress::log_to);
    let done = logged.and_then(|()| do_command(command, split, progress, json));
    end(done, json)
}

fn do_command(command: Option<Command>, split: Split, progress: Progress, json: bool) -> Result<Report, Error> {
    match command {
        None => {
            let Split { input, data, mut options } = split;
            options.progress = progress;
            split::split_and_verify(&input, &data.dir, &options)
        }
        Some(Command::Verify { input, against, backup, data }) => {
            verify(input.as_deref(), &against, &backup, &data, progress)
        }
        Some(Command::Backup { from, output, since, secrets, data }) => {
            let origin = Origin { urls: &from, data: &data.dir, secrets: secrets.as_deref(), since: &since };
            backup::take(&origin, &output, progress).map(|contents| backup::describe(&output, &contents))
        }
        Some(Command::Restore { backup, replace, as_replica, data }) => {
            let chain = Chain::open(&backup)?;
            let chain = if as_replica { chain.allow_part() } else { chain };
            restore::restore(&chain, &data.dir, replace, as_replica, progress)
        }
        Some(Command::Compare(args)) => compare::compare(&args, progress),
        Some(Command::Slices { input, output, plan }) => slices::slices(&input, &plan.read()?, &output, progress),
        Some(Command::Join { output, ids, with, backup, data }) => {
            let output = output.as_deref();
            let joining = Joining { output, with_ids: ids, rest: with.as_deref(), progress };
            let joined = match &backup[..] {
                [] => join::join(&data.dir, &joining),
                paths => Chain::open(paths).and_then(|chain| join::join_backup(&chain, &joining)),
            };
            joined.map(|joined| join::describe(output, &joined))
        }
        Some(Command::Token { service, file, name, plan }) => {
            let (collection, service) = plan.read()?.find_service(plan.plan.as_deref(), &service)?;
            let file = file.unwrap_or_else(|| token::default_file(collection));
            token::make(collection, &file, name).map(|made| token::describe(collection, &service, &made))
        }
        Some(Command::Streams { command }) => match command {
            StreamsCommand::Keys { output, plan } => streams::make_keys(&plan.read()?, &output),
            StreamsCommand::Create { link, anew, replicas, most, plan, data } => {
                let plan = plan.as_deref().map(Plan::read).transpose()?;
                let making = streams::Making {
                    broker: &link.broker,
                    keys: link.keys.as_deref(),
                    anew,
                    replicas: replicas.into(),
                    most: most << 20,
                };
                streams::create(&data.dir, plan.as_ref(), &making)
            }
            StreamsCommand::Snapshot { from, secrets, every, link, chosen } => {
                let (broker, keys) = (&*link.broker, link.keys.as_deref());
                let storing = snapshot::Storing { from: &from, secrets: &secrets, broker, keys };
                let all: Vec<Collection> = chosen.read()?.iter().collect();
                let store = |collections: &[Collection]| snapshot::store_all(collections, &storing, progress);
                let Some(every) = every.map(Duration::from_secs) else { return store(&all).finish() };
                let (mut due, mut next, mut pause) = (all.clone(), Instant::now() + every, RETRY.0);
                loop {
                    let round = store(&due);
                    // What was stored is not stored again before its time: replicas that are away need the messages between.
                    due = round.failed();
                    end(round.finish(), json);
                    let left = next.saturating_duration_since(Instant::now());
                    if due.is_empty() || left <= pause {
                        thread::sleep(left);
                        (due, next, pause) = (all.clone(), Instant::now() + every, RETRY.0);
                    } else {
                        thread::sleep(pause);
                        pause = RETRY.1.min(pause * 2);
                    }
                }
            }
            StreamsCommand::Switch { link, chosen } => {
                streams::switch(&chosen.read()?, &link.broker, link.keys.as_deref())
            }
            StreamsCommand::Leave { data } => streams::leave(&data.dir),
        },
        Some(Command::Plan { command: None, proposing: Some(Proposing { from, as_node, output }) }) => {
            let proposal = plan::propose::propose(&from, as_node)?;
            plan::proposal::write(&proposal, &output)?;
            Ok(plan::proposal::describe(&from, &output, &proposal))
        }
        Some(Command::Plan { command: None, proposing: None }) => {
            let missing = "`seed plan` needs --from FILE and --output FOLDER, or `render`";
            Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, missing).exit()
        }
        Some(Command::Plan { command: Some(PlanCommand::Render { plan, output, check }), .. }) => {
            let purpose = match output.as_deref() {
                Some(output) => Purpose::Copy(output),
                None if check => Purpose::Check,
                None => Purpose::Update,
            };
            plan::render::render(&plan, purpose)
        }
        Some(Command::Completions { shell }) => Ok(write_completions(shell)),
        Some(Command::Man { output }) => write_manual(output.as_deref()),
    }
}

/// Prints the report or the error; returns the exit code.
fn end(done: Result<Report, Error>, json: bool) -> ExitCode {
    match done {
        Ok(report) => {
            let report = report.with_phases(&seed::progress::phases());
            seed::progress::log(if report.is_secret { &report.note } else { &report.text });
            let (text, note) = if json && !report.json.is_null() {
                (format!("{}\n", report.json), String::new())
            } else {
                (report.text, report.note)
            };
            match std::io::stdout().write_all(text.as_bytes()) {
                // A reader that closes the pipe early has read enough.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    let error = Error::io(Path::new("standard output"))(error);
                    eprintln!("seed: {error}");
                    return ExitCode::from(error.exit_code());
                }
                _ => {}
            }
            let _ = std::io::stderr().write_all(note.as_bytes());
            ExitCode::from(report.exit_code)
        }
        Err(error) => {
            seed::progress::log(&error.to_string());
            if json {
                println!("{}", error.json());
            } else {
                eprintln!("seed: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
