//! The command line of `seed`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use seed::progress::Progress;
use seed::run::Options;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Splits a monolith's db.json into one slice and one database per service, and proves that nothing was lost
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
A second run on the same file checks the split and changes nothing.

Exit codes:
  0  done
  2  the command line is wrong
  3  the input is wrong; the message says where
  4  a difference was found
  5  the target is in use, or holds something else
  6  a file or a database could not be read or written"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    split: Split,

    /// Prints the report as one JSON object
    #[arg(long, global = true)]
    json: bool,

    /// Shows no progress
    #[arg(long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Compares the databases with the manifest of their split, and with its source
    Verify {
        /// The file that was split
        #[arg(long, value_name = "FILE")]
        input: Option<PathBuf>,
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
    },
    /// Writes one db.json from the three databases: the way back to the monolith, and the backup
    Join {
        /// Where to; standard output where it is not given
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Writes the ids that the split gave to posts, too
        #[arg(long)]
        ids: bool,
        #[command(flatten)]
        data: Data,
    },
}

#[derive(Args)]
struct Split {
    /// The monolith's file; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "seed/db.json")]
    input: PathBuf,

    #[command(flatten)]
    data: Data,

    /// Replaces what is in DIR, once the new split is verified
    #[arg(long)]
    replace: bool,

    /// Refuses threads and posts that refer to users or threads which are not there
    #[arg(long)]
    strict: bool,
}

#[derive(Args)]
struct Data {
    /// Where the three services' folders are
    #[arg(long = "data", value_name = "DIR", default_value = "data")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let Cli { command, split, json, quiet } = Cli::parse();
    let progress = if quiet { Progress::Quiet } else { Progress::on_stderr() };
    let done = match command {
        None => {
            let options = Options { replace: split.replace, strict: split.strict, progress };
            seed::run::split_and_verify(&split.input, &split.data.dir, options)
        }
        Some(Command::Verify { input, data }) => seed::run::verify(input.as_deref(), &data.dir, progress),
        Some(Command::Slices { input, output }) => seed::run::slices(&input, &output, progress),
        Some(Command::Join { output, ids, data }) => {
            seed::join::join(&data.dir, output.as_deref(), ids).map(|()| seed::report::joined(output.as_deref()))
        }
    };
    match done {
        Ok(report) => {
            let text = if json && !report.json.is_null() { format!("{}\n", report.json) } else { report.text };
            // Who closes the pipe early has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("seed: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
