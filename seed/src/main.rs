//! The command line of `seed`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Splits a monolith's db.json into one slice and one database per service, and proves that nothing was lost
#[derive(Parser)]
#[command(
    version,
    after_help = "\
A second run on the same file checks the split and changes nothing.

Exit codes:
  0  done
  2  the command line is wrong
  3  the input is wrong; the message says where
  4  what was read back is not what the source holds
  5  the target is in use, or holds something else
  6  a file or a database could not be read or written"
)]
struct Arguments {
    /// The monolith's file
    #[arg(long, value_name = "FILE", default_value = "seed/db.json")]
    input: PathBuf,

    /// Where the three services' folders are
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,

    /// Replaces what is in DIR, once the new split is verified
    #[arg(long)]
    replace: bool,
}

fn main() -> ExitCode {
    let Arguments { input, data, replace } = Arguments::parse();
    match seed::run(&input, &data, replace) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("seed: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
