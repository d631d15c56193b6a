//! The command line of every service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use record::declaration::Declaration;
use record::model::Collection;
use store::{Durability, OnDamage};

use crate::routes::Own;

/// What a service is.
pub struct Service {
    /// Whose records it serves.
    pub collection: Collection,
    /// Its folder, unless told otherwise.
    pub data: &'static str,
    /// Where it listens, unless told otherwise.
    pub listen: &'static str,
    /// What it alone answers, below `/api/{collection}/`.
    pub own: Option<Own>,
}

/// The command line of every service.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// The service's folder, made by `seed` or filled with --slice
    #[arg(long, value_name = "DIR", env = "DATA_DIR")]
    pub(crate) data: PathBuf,

    /// Fill the folder from this slice if it holds no database yet
    #[arg(long, value_name = "FILE", env = "SLICE")]
    pub(crate) slice: Option<PathBuf>,

    /// The address to serve on, or to ask; port 0 takes a free one
    #[arg(long, value_name = "ADDR", env = "LISTEN", global = true)]
    pub(crate) listen: SocketAddr,

    /// Let whoever has a token of this file write; without it, the service is read-only
    #[arg(long, value_name = "FILE", env = "WRITE_TOKEN_FILE")]
    pub(crate) write_token_file: Option<PathBuf>,

    /// How long to go on serving once told to end, while /ready already answers 503
    #[arg(long, value_name = "SECONDS", env = "DRAIN", default_value = "0", value_parser = seconds)]
    pub(crate) drain: Duration,

    /// What an answered write survives
    #[arg(long, value_name = "WHAT", env = "DURABILITY", default_value = "power", value_parser = durability())]
    pub(crate) durability: Durability,

    /// Start though answered writes are damaged or gone: keep all that is whole, and log what is not
    #[arg(long, env = "ACCEPT_LOSS", value_parser = FalseyValueParser::new(), global = true)]
    pub(crate) accept_loss: bool,

    /// How often to read and check everything, at low priority; 0 is never
    #[arg(long, value_name = "SECONDS", env = "SCRUB_EVERY", default_value = "86400", value_parser = seconds)]
    pub(crate) scrub_every: Duration,

    /// Do without the sandbox, in which the service opens nothing but its folder and connects nowhere
    #[arg(long, env = "NO_SANDBOX", value_parser = FalseyValueParser::new())]
    pub(crate) no_sandbox: bool,
}

/// What the program does other than serving.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Ask the service that listens on ADDR for its health: exits with 0 if it is ready, else with 1, and says why
    Check,
    /// Have everything in the database read and checked: by the service that listens on ADDR, else here. Exits with 0 if
    /// all is sound, else with 1, and names what is damaged
    Scrub,
    /// Write the database anew, without the room that deleted and replaced records left behind. The service is stopped
    Compact,
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

/// What [`Durability`] is called, and what it means.
fn durability() -> impl TypedValueParser<Value = Durability> {
    let value = |name: &'static str, help: &'static str| PossibleValue::new(name).help(help);
    let values = [
        value("power", "Power loss: the disk has it"),
        value(
            "process",
            "The end of the process, however that comes: the system has it. After a power loss the last writes may be \
             gone, and the service may have to be started once with --accept-loss",
        ),
        value(
            "none",
            "Neither: the last half second may be gone, and after a power loss the database may not open at all. For \
             data that can be made again; `process` is nearly as fast",
        ),
    ];
    PossibleValuesParser::new(values).map(|name| match name.as_str() {
        "power" => Durability::Power,
        "process" => Durability::Process,
        _ => Durability::None,
    })
}

impl Config {
    pub(crate) fn on_damage(&self) -> OnDamage {
        if self.accept_loss { OnDamage::AcceptLoss } else { OnDamage::Refuse }
    }

    /// Reads the command line, with the defaults of this service. Exits with 2 when it cannot be understood.
    pub(crate) fn read(service: &Service) -> Self {
        let name = service.collection.name();
        let matches = Self::command_of(name)
            .about(format!("Serves /api/{name} from the service's own database"))
            .mut_arg("data", |arg| arg.required(false).default_value(service.data))
            .mut_arg("listen", |arg| arg.required(false).default_value(service.listen))
            .get_matches();
        Config::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The same of a program that serves whatever is declared in a file, and that file's collection.
    pub(crate) fn read_declared() -> (Self, Collection) {
        let declaration = Arg::new("declaration")
            .long("declaration")
            .value_name("FILE")
            .env("DECLARATION")
            .help("What the collection is: its collection.json")
            .value_parser(value_parser!(PathBuf))
            .global(true);
        let command = Self::command_of("collection")
            .about("Serves the collection that a file declares, at /api/NAME, from its own database")
            .arg(declaration)
            .mut_arg("data", |arg| arg.help("The service's folder, made by `seed` or filled with --slice"))
            .mut_arg("listen", |arg| arg.required(false).default_value("127.0.0.1:3000"));
        let matches = command.clone().get_matches();
        let config = Config::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let Some(path) = matches.get_one::<PathBuf>("declaration") else {
            command.clone().error(ErrorKind::MissingRequiredArgument, "--declaration FILE says what is served").exit()
        };
        let read = || -> Result<Declaration, String> {
            let json = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
            Declaration::read(&json).map_err(|error| error.to_string())
        };
        let declaration = read().unwrap_or_else(|reason| {
            command.clone().error(ErrorKind::Io, format!("{}: {reason}", path.display())).exit()
        });
        (config, Collection::of(declaration))
    }

    /// What every program's command line has.
    fn command_of(name: &'static str) -> clap::Command {
        Config::command()
            .name(name)
            .after_help(
                "RUST_LOG sets what is logged (default: info; access=off leaves out requests).\n\
                 SIGTERM and SIGINT end the service in order; a second one cuts the wait of --drain short.\n\
                 SIGHUP reloads --write-token-file; one that is invalid leaves the old tokens in force.\n\
                 Exits with 0 after an orderly end, 1 when it cannot start or cannot flush, 2 for a wrong command line.",
            )
    }
}
