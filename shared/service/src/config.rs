//! The command line of every service.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::{FalseyValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use record::declaration::Declaration;
use record::model::Collection;
use store::{Durability, OnDamage};

use crate::cors::Origin;
use crate::jwt::Meant;
use crate::logging::LogFormat;
use crate::manual;
use crate::routes::Own;
use crate::settings::Settings;

/// The commit that the program was built from, if the build named it (`deploy/revision`); else empty.
pub(crate) const REVISION: &str = match option_env!("REVISION") {
    Some(revision) => revision,
    None => "",
};

static VERSION: LazyLock<String> = LazyLock::new(|| match REVISION {
    "" => env!("CARGO_PKG_VERSION").to_owned(),
    _ => format!("{} ({REVISION})", env!("CARGO_PKG_VERSION")),
});

/// A service's collection and its defaults.
pub struct Service {
    /// The collection that it serves.
    pub collection: Collection,
    /// The default folder.
    pub data: &'static str,
    /// The default address.
    pub listen: &'static str,
    /// Its own routes below `/api/{collection}/`.
    pub own: Option<Own>,
}

/// The command line of every service.
#[derive(Parser)]
#[command(version = VERSION.as_str())]
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

    /// Serve /metrics, /ready and /log-level for operators here: an address, or a Unix socket as unix:PATH. It asks for no
    /// token: keep it from clients
    #[arg(long, value_name = "ADDR", env = "ADMIN_LISTEN")]
    pub(crate) admin_listen: Option<String>,

    /// Let clients with a token of this file write; without it, the service is read-only
    #[arg(long, value_name = "FILE", env = "WRITE_TOKEN_FILE")]
    pub(crate) write_token_file: Option<PathBuf>,

    /// Let users write what is theirs who have a JSON Web Token signed by one of these public keys: a JWKS for RS256, ES256 or
    /// EdDSA
    #[arg(long, value_name = "FILE", env = "JWT_KEYS", requires_all = ["jwt_audience", "jwt_issuer"])]
    pub(crate) jwt_keys: Option<PathBuf>,

    /// The audience that such a token must name (aud)
    #[arg(long, value_name = "TEXT", env = "JWT_AUDIENCE", requires = "jwt_keys")]
    pub(crate) jwt_audience: Option<String>,

    /// The issuer that such a token must name (iss)
    #[arg(long, value_name = "TEXT", env = "JWT_ISSUER", requires = "jwt_keys")]
    pub(crate) jwt_issuer: Option<String>,

    /// The claim of such a token with the user's id
    #[arg(long, value_name = "NAME", env = "JWT_USER_CLAIM", default_value = "sub")]
    pub(crate) jwt_user_claim: String,

    /// Replicate: send writes through this broker, a NATS server such as nats://10.0.0.1:4222, and apply those of all
    /// replicas. Several servers are separated by commas
    #[arg(long, value_name = "URL", env = "BROKER", value_delimiter = ',')]
    pub(crate) broker: Vec<broker::Server>,

    /// The key with which the broker knows this service: a file with an NKey's seed, made by `seed streams`
    #[arg(long, value_name = "FILE", env = "BROKER_KEY", requires = "broker")]
    pub(crate) broker_key: Option<PathBuf>,

    /// How long to go on serving after the signal to end, while /ready already answers 503
    #[arg(long, value_name = "SECONDS", env = "DRAIN", default_value = "0", value_parser = parse_seconds)]
    pub(crate) drain: Duration,

    /// What an answered write survives
    #[arg(long, value_name = "WHAT", env = "DURABILITY", default_value = "power", value_parser = durability_parser())]
    pub(crate) durability: Durability,

    /// Start even if answered writes are damaged or lost: keep all that is whole, and log the rest
    #[arg(long, env = "ACCEPT_LOSS", value_parser = FalseyValueParser::new(), global = true)]
    pub(crate) accept_loss: bool,

    /// How often to read and check everything, at low priority; 0 means never
    #[arg(long, value_name = "SECONDS", env = "SCRUB_EVERY", default_value = "86400", value_parser = parse_seconds)]
    pub(crate) scrub_every: Duration,

    /// The memory for answers that are repeated, and for all records if they fit, in MiB; 0 keeps none. By default half of
    /// what the container or the machine has beyond 160 MiB, or an eighth of all, at most 160, or 64 if not all records fit
    #[arg(long, value_name = "MIB", env = "CACHE", value_parser = value_parser!(u64).range(..=1 << 20))]
    pub(crate) cache: Option<u64>,

    /// Let pages of this origin use the API, such as https://forum.example; * lets all. May be given several times
    #[arg(long, value_name = "ORIGIN", env = "ALLOW_ORIGIN", value_delimiter = ',')]
    pub(crate) allow_origin: Vec<Origin>,

    /// How lines of the log look; by default pretty on a terminal, else kv
    #[arg(long, value_name = "HOW", env = "LOG_FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,

    /// Run without the sandbox, in which the service opens only its folder and connects nowhere
    #[arg(long, env = "NO_SANDBOX", value_parser = FalseyValueParser::new())]
    pub(crate) no_sandbox: bool,

    /// What was read.
    #[arg(skip)]
    pub(crate) settings: Settings,
}

/// The commands other than serving.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Ask the service that listens on ADDR for its health: exits with 0 if it is ready, else with 1 and the reason
    Check,
    /// Read and check everything in the database: through the service that listens on ADDR, or here if none does. Exits
    /// with 0 if all is sound, else with 1 and a list of the damage
    Scrub,
    /// Rewrite the database without the space that deleted and replaced records left behind. Stop the service first
    Compact,
    /// Print a script that lets a shell complete this command line
    Completions {
        /// The shell to write for
        shell: Shell,
    },
    /// Print the manual, for `man -l -`
    Man,
    /// Print the OpenAPI document of the service
    Openapi,
}

/// Reads the command line. A clone of `command` would leave the allocator with a place for sled's largest buffer that is
/// not fresh, so that all of its 8 MiB would be resident.
fn read_matches(command: &mut clap::Command) -> ArgMatches {
    command.try_get_matches_from_mut(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

fn parse_seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}

/// Returns the parser of [`Durability`], with its names and their help.
fn durability_parser() -> impl TypedValueParser<Value = Durability> {
    let value = |name: &'static str, help: &'static str| PossibleValue::new(name).help(help);
    let values = [
        value("power", "A power loss: the disk has it"),
        value(
            "process",
            "The end of the process for any reason: the system has it. After a power loss the last writes may be lost, \
             and the service may need one start with --accept-loss",
        ),
        value(
            "none",
            "Neither: the last half second may be lost, and after a power loss the database may not open at all. For \
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
    /// Returns the file of keys, and what a token must say that one of them has signed.
    pub(crate) fn meant(&self) -> Option<(&Path, Meant)> {
        let (audience, issuer) = (self.jwt_audience.clone()?, self.jwt_issuer.clone()?);
        let meant = Meant { audience, issuer, user_claim: self.jwt_user_claim.clone() };
        Some((self.jwt_keys.as_deref()?, meant))
    }

    pub(crate) fn on_damage(&self) -> OnDamage {
        if self.accept_loss { OnDamage::AcceptLoss } else { OnDamage::Refuse }
    }

    /// Reads the command line, with the defaults of `service`. Exits with 2 if it is invalid.
    pub(crate) fn read(service: &Service) -> Self {
        let name = service.collection.name();
        let mut command = Self::command_of(name, &format!("{name} "))
            .about(format!("Serves /api/{name} from the service's own database"))
            .mut_arg("data", |arg| arg.required(false).default_value(service.data))
            .mut_arg("listen", |arg| arg.required(false).default_value(service.listen));
        let matches = read_matches(&mut command);
        Self::from(&command, &matches)
    }

    /// Takes the options of `command` from `matches`. Exits with 2 if they are invalid.
    fn from(command: &clap::Command, matches: &ArgMatches) -> Self {
        manual::print_if_asked(command, matches);
        let config = Config::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
        let names = std::env::vars_os().map(|(name, _)| name);
        Self { settings: Settings::of(command, matches, names), ..config }
    }

    /// Reads the command line of a program that serves any declared collection. Returns that collection too.
    pub(crate) fn read_declared() -> (Self, Collection) {
        let declaration = Arg::new("declaration")
            .long("declaration")
            .value_name("FILE")
            .env("DECLARATION")
            .help("The collection's declaration, a collection.json")
            .value_parser(value_parser!(PathBuf))
            .global(true);
        let mut command =
            Self::command_of("collection", "collection --declaration notes/collection.json --data data/notes ")
                .about("Serves the collection that a file declares, at /api/NAME, from its own database")
                .arg(declaration)
                .mut_arg("data", |arg| arg.help("The service's folder, made by `seed` or filled with --slice"))
                .mut_arg("listen", |arg| arg.required(false).default_value("127.0.0.1:3000"));
        let matches = read_matches(&mut command);
        let config = Self::from(&command, &matches);
        let Some(path) = matches.get_one::<PathBuf>("declaration") else {
            command
                .clone()
                .error(
                    ErrorKind::MissingRequiredArgument,
                    "--declaration FILE is required: it names the collection to serve",
                )
                .exit()
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

    /// Returns the command line that all services share. Examples begin with `call`.
    fn command_of(name: &'static str, call: &str) -> clap::Command {
        let examples = [
            ("", "serves the folder that `seed` has made"),
            ("--slice db.json", "fills the folder from a slice first, if it is empty"),
            ("--write-token-file tokens", "lets clients write that have a token of `seed token`"),
            ("--admin-listen unix:/run/admin", "answers operators on a socket, with metrics"),
            ("check", "asks whether it is ready; exits with 0 or 1"),
        ];
        let examples: String = examples.iter().map(|(rest, what)| format!("  {call}{rest}\n      {what}\n")).collect();
        let rest = "RUST_LOG sets what is logged (default: info; access=off leaves out requests).\n\
                 SIGTERM and SIGINT end the service in order; a second one ends the wait of --drain.\n\
                 SIGHUP reloads --write-token-file and --jwt-keys; if a file is invalid, what it had stays in force.\n\
                 Exits with 0 after an orderly end, 1 if it cannot start or cannot flush, 2 for a wrong command line.";
        // `man` and `completions` need no folder.
        let command = Config::command().name(name).subcommand_negates_reqs(true);
        command.after_help(format!("Examples:\n{examples}\n{rest}"))
    }
}
