//! What a service prints about its own command line: its manual and its completions.

use std::io::{self, Write};

use clap::{ArgMatches, Command};
use clap_complete::Shell;

/// Prints the manual or the completions and ends the process, if `matches` asks for them, as `--help` does.
pub(crate) fn print_if_asked(command: &Command, matches: &ArgMatches) {
    let text = match matches.subcommand() {
        Some(("man", _)) => write_manual(command),
        Some(("completions", asked)) => asked.get_one("shell").map(|shell| write_completions(command, *shell)),
        _ => return,
    };
    if let Some(text) = text {
        // A reader that wants no more is no failure.
        let _ = io::stdout().lock().write_all(&text);
    }
    std::process::exit(0);
}

/// Writes the manual without what only this machine and its environment have.
fn write_manual(command: &Command) -> Option<Vec<u8>> {
    let command = command.clone().mut_args(|arg| arg.hide_env_values(true));
    let command = command.mut_arg("cache", |arg| arg.hide_default_value(true));
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).ok()?;
    Some(page)
}

fn write_completions(command: &Command, shell: Shell) -> Vec<u8> {
    let (mut command, mut script) = (command.clone(), Vec::new());
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}
