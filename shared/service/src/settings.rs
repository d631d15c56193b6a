//! A service's settings as its log shows them at the start, and variables of the environment that look like one of them.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use strsim::osa_distance;

/// The most edits between a variable and the one that was meant.
const EDITS: usize = 1;

/// The settings that a process was started with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// All options with their values.
    pub(crate) options: String,
    /// Variables that no option reads, each with the one that it nearly is.
    pub(crate) misspelt: Vec<(String, String)>,
}

impl Settings {
    /// Describes what `command` read: `matches`, and the variables `names` of the environment.
    pub(crate) fn of(command: &Command, matches: &ArgMatches, names: impl Iterator<Item = OsString>) -> Self {
        let options: Vec<String> = command.get_arguments().filter_map(|arg| describe(arg, matches)).collect();
        let known: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
        let misspelt = names.filter_map(|name| name.into_string().ok()).filter_map(|name| {
            let meant = known.iter().find(|known| is_nearly(&name, known))?;
            (!known.contains(&&*name)).then(|| (name.clone(), (*meant).to_owned()))
        });
        Self { options: options.join(" "), misspelt: misspelt.collect() }
    }

    /// Logs them.
    pub(crate) fn log(&self) {
        log::info!("settings: {}", self.options);
        for (name, meant) in &self.misspelt {
            log::warn!("the environment has {name:?}, which nothing here reads; {meant} is read");
        }
    }
}

/// Returns an option with its value, and its variable if the value is from there. An option that hides its variable's
/// value holds a secret.
fn describe(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let (id, name) = (arg.get_id().as_str(), arg.get_long()?);
    let values = matches.get_raw(id)?;
    let values: Vec<String> = values.map(|value| value.to_string_lossy().into_owned()).collect();
    let value = if arg.is_hide_env_values_set() { "...".to_owned() } else { values.join(",") };
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let value = if value.bytes().all(is_plain) { value } else { format!("{value:?}") };
    let variable = arg.get_env().filter(|_| matches.value_source(id) == Some(ValueSource::EnvVariable));
    let variable = variable.map_or_else(String::new, |variable| format!(" ({})", variable.to_string_lossy()));
    Some(format!("--{name}={value}{variable}"))
}

/// Returns whether `name` may have been meant as `known`: another case, or a letter more, fewer or wrong.
fn is_nearly(name: &str, known: &str) -> bool {
    osa_distance(&name.to_uppercase().replace('-', "_"), known) <= EDITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str], names: &[&str]) -> Settings {
        let option = |name: &'static str, variable: &'static str| Arg::new(name).long(name).env(variable);
        let command = Command::new("service")
            .arg(option("listen", "OPS_TEST_LISTEN").default_value("127.0.0.1:1"))
            .arg(option("allow-origin", "OPS_TEST_ALLOW_ORIGIN").value_delimiter(','))
            .arg(option("secret", "OPS_TEST_SECRET").hide_env_values(true))
            .arg(option("slice", "OPS_TEST_SLICE"));
        let matches = command.clone().get_matches_from(arguments);
        Settings::of(&command, &matches, names.iter().map(OsString::from))
    }

    #[test]
    fn settings_are_one_line_and_secrets_are_left_out() {
        let settings = settings(&["service", "--allow-origin=a,b", "--secret=x7", "--slice=a b\nc"], &[]);
        let expected = r#"--listen=127.0.0.1:1 --allow-origin=a,b --secret=... --slice="a b\nc""#;
        assert_eq!(settings.options, expected);
    }

    #[test]
    fn a_variable_that_is_nearly_ours_is_found_and_others_are_not() {
        let names = [
            "OPS_TEST_LISTEN",
            "OPS_TEST_LISTENS",
            "ops_test_slice",
            "OPS-TEST-SLICE",
            "OPS_TEST_ALLOW_ORGIIN",
            "OPS_TEST_LISTEN_FDS",
            "PATH",
            "OPS_TEST",
        ];
        let misspelt = settings(&["service"], &names).misspelt;
        let misspelt: Vec<(&str, &str)> = misspelt.iter().map(|(name, meant)| (&**name, &**meant)).collect();
        let expected = [
            ("OPS_TEST_LISTENS", "OPS_TEST_LISTEN"),
            ("ops_test_slice", "OPS_TEST_SLICE"),
            ("OPS-TEST-SLICE", "OPS_TEST_SLICE"),
            ("OPS_TEST_ALLOW_ORGIIN", "OPS_TEST_ALLOW_ORIGIN"),
        ];
        assert_eq!(misspelt, expected);
    }
}
