//! The command line of `seed`.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, process};

use clap::builder::{FalseyValueParser, TypedValueParser};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use record::token::Name;
use seed::chain::Chain;
use seed::commands::backup::Origin;
use seed::commands::compare::CompareArgs;
use seed::commands::join::Joining;
use seed::commands::plan::render::Purpose;
use seed::commands::{backup, compare, join, plan, restore, slices, split, token, verify};
use seed::error::Error;
use seed::options::Options;
use seed::plan::Plan;
use seed::progress::Progress;
use seed::report::Report;
use serde_json::json;

/// Splits a monolith's db.json into one slice and one database per service, and proves that nothing was lost
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
A second run on the same file checks the split and changes nothing. One on a newer file applies what that changes, and
keeps what the services have changed meanwhile.

Exit codes:
  0  done
  1  `plan render --check` found stale files
  2  the command line is wrong, or nothing was compared
  3  the input is wrong; the message says where
  4  a difference was found, or of too much it is unknown whether there is one
  5  the target is in use, or holds something else, or what a service has changed otherwise than the file
  6  a file, a database, a backup or the monolith could not be read or written, or is damaged
  7  done, but some records were rejected"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    split: Split,

    /// Prints the report, or why there is none, as one JSON object
    #[arg(long, global = true)]
    json: bool,

    /// Shows no progress
    #[arg(long, global = true)]
    quiet: bool,

    /// Writes what is done, and when, behind what is in FILE
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Reads everything in the databases: are they sound, and as split or changed by their services since?
    Verify {
        /// Compares them with this file, such as the one that was split
        #[arg(long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// Compares them with this backup; its increments follow, each with another --against
        #[arg(long, value_name = "BACKUP", conflicts_with = "backup")]
        against: Vec<PathBuf>,
        /// Looks at this backup, not at the databases; its increments follow, each with another --backup
        #[arg(long, value_name = "BACKUP")]
        backup: Vec<PathBuf>,
        #[command(flatten)]
        data: Data,
    },
    /// Takes a backup: from running services, which go on writing, or from stopped ones. Each collection as it was at one
    /// moment of its own
    Backup {
        /// Where the entrance is, or a service, such as http://127.0.0.1:8080; several are asked in turn. Without it, the
        /// databases are read, and the services are stopped
        #[arg(long, value_name = "URL")]
        from: Vec<String>,
        /// The folder to make, or a file whose name ends in .ndjson
        #[arg(long, value_name = "BACKUP")]
        output: PathBuf,
        /// Takes only what was written since this backup; the increments on it follow, each with another --since
        #[arg(long, value_name = "BACKUP")]
        since: Vec<PathBuf>,
        /// The secrets of write tokens, one a line, which services want that have tokens
        #[arg(long, value_name = "FILE")]
        secrets: Option<PathBuf>,
        #[command(flatten)]
        data: Data,
    },
    /// Puts a backup into the services' folders, once it has been read back and proven. The services are stopped
    Restore {
        /// The backup; its increments follow, each with another --backup
        #[arg(long, value_name = "BACKUP", required = true)]
        backup: Vec<PathBuf>,
        /// Replaces what is in DIR
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        data: Data,
    },
    /// Writes the three slices alone, without databases: ids that repeat are then not looked for
    Slices {
        /// The monolith's file
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
        /// The folder to write users.json, threads.json and posts.json to
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        plan: PlanFolder,
    },
    /// Asks a running monolith and the services for the same paths, and compares what they answer. A post's added id, the
    /// order of a list, 404 for 204 and the source's own digits are expected; anything else is a difference, and an answer
    /// of the monolith that proves nothing is counted as unknown. A request that gets no answer is sent again, twice
    Compare(Box<CompareArgs>),
    /// Writes one db.json from the three databases, or from a backup: the way back to the monolith
    Join {
        /// Where to; standard output where it is not given
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Writes the ids that the split gave to posts, too
        #[arg(long)]
        ids: bool,
        /// Puts the collections back that --rest has put aside
        #[arg(long, value_name = "REST")]
        with: Option<PathBuf>,
        /// Takes this backup, not the databases; its increments follow, each with another --backup
        #[arg(long, value_name = "BACKUP")]
        backup: Vec<PathBuf>,
        #[command(flatten)]
        data: Data,
    },
    /// Makes a token for writing to one service: prints its secret, this once, and adds its digest to a token file
    Token {
        /// The service: its name in `plan`, or that of its collection
        service: String,
        /// The token file, which the service is given as --write-token-file. Not in the service's own folder: whoever
        /// breaks into it writes there [default: tokens/COLLECTION]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// What the service's log calls whoever has the token [default: the next token-N]
        #[arg(long, value_name = "NAME")]
        name: Option<Name>,
        #[command(flatten)]
        plan: PlanFolder,
    },
    /// Proposes the declarations of the collections in a db.json, or renders what follows from the list of collections
    #[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
    Plan {
        #[command(subcommand)]
        command: Option<PlanCommand>,
        #[command(flatten)]
        proposing: Option<Proposing>,
    },
    /// Writes what a shell needs to complete this command line
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Writes the manual, for `man -l -`; or with --output a page for each command
    Man {
        /// The folder to write the pages to
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

#[derive(Args)]
struct PlanFolder {
    /// The folder whose file `plan` lists the collections [default: the workspace's own]
    #[arg(long, value_name = "FOLDER")]
    plan: Option<PathBuf>,
}

impl PlanFolder {
    fn read(&self) -> Result<Plan, Error> {
        self.plan.as_deref().map_or_else(|| Ok(Plan::workspace()), Plan::read)
    }
}

#[derive(Args)]
struct Proposing {
    /// The monolith's file, which is looked at; `-` is standard input
    #[arg(long, value_name = "FILE", required = true)]
    from: PathBuf,
    /// Takes what Node's JSON.parse takes and JSON does not allow, as the split does with --as-node
    #[arg(long)]
    as_node: bool,
    /// The folder to write `plan` and NAME/collection.json to, for a person to edit. Nothing there is overwritten
    #[arg(long, value_name = "FOLDER", required = true)]
    output: PathBuf,
}

#[derive(Subcommand)]
enum PlanCommand {
    /// Renders what compose.yaml, compose.writes.yaml, gateway/ and deploy/ecs.yaml have for each collection. They are read
    /// in the current folder, the top of the repository
    Render {
        /// The folder that has the list
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        plan: PathBuf,
        /// Writes copies into this folder, and leaves the files alone
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
        /// Changes nothing, names the files that are stale, and ends with 1 if there are any
        #[arg(long, conflicts_with = "output")]
        check: bool,
    },
}

#[derive(Args)]
struct Split {
    /// The monolith's file; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "seed/db.json")]
    input: PathBuf,

    #[command(flatten)]
    data: Data,

    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Data {
    /// Where the three services' folders are
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

/// The command line, in which each option can also come from the environment: `--max-removed` as SEED_MAX_REMOVED. The
/// split's own say nothing to the other commands, and are left out where it is not `is_split`.
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

/// Reads the command line. Exits with 2 when it cannot be understood.
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

/// A command, and those below it, each by a name of its own.
fn collect_pages(name: &str, command: &clap::Command, pages: &mut Vec<(String, clap::Command)>) {
    pages.push((name.to_owned(), command.clone().name(name.to_owned())));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        collect_pages(&format!("{name}-{}", below.get_name()), below, pages);
    }
}

/// The manual: of all commands one after the other, or in a file each.
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

/// Writes what the completion of `shell` needs.
fn write_completions(shell: Shell) -> Report {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "seed", &mut text);
    Report::of_text(String::from_utf8_lossy(&text).into_owned())
}

/// Does what the command line says, and ends as it went.
pub(crate) fn run() -> ExitCode {
    let Cli { command, split, json, quiet, log } = read_command_line();
    let progress = if quiet { Progress::Quiet } else { Progress::on_stderr() };
    let logged = log.as_deref().map_or(Ok(()), seed::progress::log_to);
    let done = logged.and_then(|()| do_command(command, split, progress));
    end(done, json)
}

fn do_command(command: Option<Command>, split: Split, progress: Progress) -> Result<Report, Error> {
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
        Some(Command::Restore { backup, replace, data }) => {
            Chain::open(&backup).and_then(|chain| restore::restore(&chain, &data.dir, replace, progress))
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
        Some(Command::Plan { command: None, proposing: Some(Proposing { from, as_node, output }) }) => {
            let proposal = plan::propose::propose(&from, as_node)?;
            plan::proposal::write(&proposal, &output)?;
            Ok(plan::proposal::describe(&from, &output, &proposal))
        }
        Some(Command::Plan { command: None, proposing: None }) => {
            let missing = "`seed plan` wants --from FILE and --output FOLDER, or `render`";
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

/// Prints what was done, or why it was not.
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
                // Who closes the pipe early has read enough.
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
