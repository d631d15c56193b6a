//! `seed compare`: compares the monolith with the services over HTTP. A client should get the same answers from both.
//!
//! - [`address`], [`client`]: the URLs of both sides, and requests within limits; no secret is printed
//! - [`reference`](mod@reference): the ids that records should have, and the source's digits
//! - [`route`], [`paths`]: the routes and paths to ask for, as the plan has them
//! - [`elements`], [`javascript`], [`summary`]: an answer of any length, as sums of its records
//! - [`verdict`], [`finding`]: the verdict on two answers, and their differences
//! - [`tally`]: the totals, and the bound on differences in paths that were not asked for
//! - [`journal`]: the saved progress of an interrupted comparison
//! - [`printout`], [`page`]: the reports for people and programs

pub mod address;
pub mod client;
pub mod elements;
pub mod finding;
pub mod javascript;
pub mod journal;
pub mod page;
pub mod paths;
pub mod printout;
pub mod reference;
pub mod route;
pub mod summary;
pub mod tally;
pub mod verdict;

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use record::model::Collection;
use roaring::RoaringTreemap;
use serde_json::json;
use ureq::http::HeaderMap;

use self::address::{Address, Secrets};
use self::client::{Endpoint, Limits, Sides};
use self::finding::Finding;
use self::journal::{Binding, Journal, Progressed};
use self::page::ReportFile;
use self::paths::Paths;
use self::printout::Printout;
use self::reference::{Origin, Reference};
use self::route::Route;
use self::verdict::{Context, NeedsRoom, Outcome};
use crate::error::{self, Error};
use crate::manifest::Manifest;
use crate::plan::Plan;
use crate::progress::{Progress, Total};
use crate::report::Report;

/// The interval at which `--resume` saves progress.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);

/// The version of the file that `--resume` writes.
const VERSION: u32 = 3;

/// The options of `seed compare`.
#[derive(Args)]
pub struct CompareArgs {
    /// Asks the monolith at URL, such as http://127.0.0.1:3000. Sends the URL's user, password and query along
    #[arg(long, value_name = "URL", hide_env_values = true)]
    monolith: String,
    /// Asks the services' entrance at URL, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL", hide_env_values = true)]
    services: String,
    /// Takes ids and digits from the split in DIR, whose services may run. Without it and --input, takes them from the
    /// monolith's own lists
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    data: Option<PathBuf>,
    /// Takes ids and digits from FILE, a db.json
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Reads the list of collections from the file `plan` in FOLDER [default: the split's, else the workspace's own]
    #[arg(long, value_name = "FOLDER", conflicts_with = "data")]
    plan: Option<PathBuf>,
    /// Asks for the paths in FILE, one a line, or those in an access log. Without it, asks for every route of every record
    #[arg(long, value_name = "FILE")]
    paths: Option<PathBuf>,
    /// Sends the monolith a header, `Name: value`, or each header in a file, `@FILE`. Can be repeated
    #[arg(long, value_name = "HEADER", visible_alias = "monolith-header", hide_env_values = true)]
    header: Vec<String>,
    /// Sends the services a header, given as for --header. Can be repeated
    #[arg(long, value_name = "HEADER", hide_env_values = true)]
    services_header: Vec<String>,
    /// Trusts the PEM certificates in FILE instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Asks for up to N paths at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    at_once: usize,
    /// Sends each side up to N requests a second [default: as many as it answers]
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    rate: Option<f64>,
    /// Gives each answer this many seconds, up to its last byte
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_positive)]
    timeout: f64,
    /// Allows answers of up to SIZE bytes; K, M and G are units
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    max_answer: u64,
    /// Gives up after N paths in a row without a whole answer; 0 is never
    #[arg(long, value_name = "N", default_value_t = 10)]
    give_up_after: usize,
    /// Allows up to N unknown paths, whose answers prove nothing. With more, exits with 4
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_unknown: u64,
    /// Asks for only N random paths, from every route. Without it, asks for all
    #[arg(long, value_name = "N")]
    sample: Option<u64>,
    /// Chooses the same sample again for the same N [default: a new sample each time]
    #[arg(long, value_name = "N", requires = "sample")]
    sample_seed: Option<u64>,
    /// Saves progress in FILE, and continues from it if it is of the same comparison. FILE is removed at the end
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Writes a report with uncut values to FILE, whose name ends in .html or .json. Can be repeated
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,
}

fn parse_positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    let is_duration = number > 0.0 && number.recip() <= 1e9 && number <= 1e9;
    if is_duration { Ok(number) } else { Err("it is not between 1e-9 and 1e9".to_owned()) }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "it is not a number of bytes, such as 500M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

/// The reason why nothing was compared.
enum Stop {
    /// The command line is wrong.
    Usage(String),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error)
    }
}

/// Asks both sides for the same paths and compares their answers.
///
/// # Errors
/// Always [`Error::Compared`], with a report and an exit code: answers differ, too many paths are unknown, nothing was
/// compared, or the comparison failed.
pub fn compare(args: &CompareArgs, progress: Progress) -> Result<Report, Error> {
    let mut secrets = Secrets::default();
    let (kind, message, exit_code) = match try_compare(args, progress, &mut secrets) {
        Ok(report) if report.exit_code == 0 => return Ok(report),
        Ok(Report { text, json, exit_code, .. }) => {
            return Err(Error::Compared(error::Outcome { text, json, exit_code }));
        }
        Err(Stop::Usage(message)) => ("usage", message, 2),
        Err(Stop::Error(error)) => (kind_of(&error), error.to_string(), error.exit_code()),
    };
    let text = secrets.hide(&message).into_owned();
    let json = json!({ "outcome": "failed", "kind": kind, "message": text, "exit_code": exit_code });
    Err(Error::Compared(error::Outcome { text, json, exit_code }))
}

/// Returns the key of an error in the report for programs.
fn kind_of(error: &Error) -> &'static str {
    match error {
        Error::Input { .. } => "input_invalid",
        Error::Plan { .. } => "plan_invalid",
        Error::Monolith(_) => "monolith_unusable",
        Error::Backup { .. } | Error::Occupied { .. } => "split_unusable",
        Error::Io { .. } => "file_unusable",
        _ => "failed",
    }
}

fn try_compare(args: &CompareArgs, progress: Progress, secrets: &mut Secrets) -> Result<Report, Stop> {
    let (mut sides, limits) = open_sides(args)?;
    *secrets = std::mem::take(&mut sides.secrets);
    sides.secrets = secrets.clone();
    if let Some(path) = args.report.iter().find(|path| !ReportFile::is_known(path)) {
        return Err(Stop::Usage(format!("--report {}: its name ends neither in .html nor in .json", path.display())));
    }
    let saved = args.resume.as_deref().map(Journal::binding_of).transpose()?.flatten();
    let manifest = args.data.as_deref().map(read_manifest).transpose()?;
    let plan = match (&manifest, &args.plan) {
        (Some(manifest), _) => manifest.plan(),
        (None, Some(folder)) => Plan::read(folder)?,
        (None, None) => Plan::workspace(),
    };
    let (origin, source) = match (&args.data, &manifest, &args.input) {
        (Some(data), Some(manifest), _) => (Origin::Data(data, manifest), "data"),
        (.., Some(input)) => (Origin::Input(input), "input"),
        (.., None) => (Origin::Monolith(&sides.monolith), "monolith"),
    };
    let (mut paths, reference) = make_paths(args.paths.as_deref(), &plan, origin, progress)?;
    let seed = args.sample_seed.or(saved.as_ref().map(|saved| saved.seed));
    let seed = seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    if let Some(count) = args.sample {
        paths.sample(count, seed);
    }
    let binding = bind(&sides, &plan, source, args.sample.map(|count| (count, seed)), &paths);
    if let (Some(saved), Some(path)) = (&saved, &args.resume) {
        check_binding(saved, &binding, path)?;
    }
    let reports = args.report.iter().map(|path| ReportFile::create(path)).collect::<Result<Vec<_>, _>>()?;
    let (journal, progressed) = Journal::open(args.resume.as_deref(), &binding, !reports.is_empty())?;
    let names = [&sides.monolith, &sides.services].map(|side| side.address.to_string());
    let is_known = args.paths.is_none() || source != "monolith";
    let (records_of, rejected) = (is_known.then(|| reference.all_records()), reference.rejected);

    let context = Arc::new(Context { sides, reference, plan: plan.clone() });
    let journal = Arc::new(Mutex::new(journal));
    let run = Run { context, journal, limits, give_up_after: args.give_up_after };
    let mut ran = run.ask_all(&paths, progressed, progress)?;
    let [monolith, services] = names;
    let printout = Printout {
        monolith,
        services,
        source,
        finished: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        plan: &plan,
        paths: &paths,
        tally: &ran.progressed.tally,
        records_of,
        rejected,
        seed,
        gave_up: ran.gave_up.take(),
        max_unknown: args.max_unknown,
    };
    write_reports(reports, &printout, ran.journal, &ran.progressed.done)?;
    Ok(printout.report())
}

/// Writes the reports, and removes the journal of a finished comparison.
fn write_reports(
    reports: Vec<ReportFile>,
    printout: &Printout,
    mut journal: Journal,
    done: &RoaringTreemap,
) -> Result<(), Error> {
    for file in reports {
        file.write(printout, &mut journal, done)?;
    }
    if printout.gave_up.is_none() { journal.remove() } else { Ok(()) }
}

/// Returns the identity of this comparison; `sample` is the sample's size and seed.
fn bind(sides: &Sides, plan: &Plan, source: &str, sample: Option<(u64, u64)>, paths: &Paths) -> Binding {
    Binding {
        version: VERSION,
        monolith: sides.monolith.address.place(),
        services: sides.services.address.place(),
        plan: plan.iter().map(|collection| collection.declaration().clone()).collect(),
        source: source.to_owned(),
        sample: sample.map(|(count, _)| count),
        seed: sample.map_or(0, |(_, seed)| seed),
        paths: paths.digest(),
    }
}

/// Reads the sides and limits from the command line.
fn open_sides(args: &CompareArgs) -> Result<(Sides, Limits), Stop> {
    let address =
        |option: &str, url: &str| url.parse::<Address>().map_err(|error| Stop::Usage(format!("{option}: {error}")));
    let monolith = address("--monolith", &args.monolith)?;
    let services = address("--services", &args.services)?;
    if monolith.is_same_place(&services) {
        let text = format!(
            "--monolith {monolith} and --services {services} are the same server, which proves nothing; name two"
        );
        return Err(Stop::Usage(text));
    }
    let limits = Limits {
        time: Duration::from_secs_f64(args.timeout),
        bytes: args.max_answer,
        interval: args.rate.map(|rate| Duration::from_secs_f64(rate.recip())),
        at_once: args.at_once.max(1),
    };
    let agent = client::agent(limits, args.ca.as_deref()).map_err(|error| Stop::Usage(format!("--ca {error}")))?;
    let headers = |option: &str, given: &[String]| {
        client::read_headers(given).map_err(|error| Stop::Usage(format!("{option}: {error}")))
    };
    let of_monolith: HeaderMap = headers("--header", &args.header)?;
    let of_services: HeaderMap = headers("--services-header", &args.services_header)?;
    let secrets =
        [monolith.secrets(), services.secrets(), client::secrets_of(&of_monolith), client::secrets_of(&of_services)];
    let secrets = Secrets::new(secrets.into_iter().flatten());
    let monolith = Endpoint::new("the monolith", monolith, of_monolith, agent.clone(), limits);
    let services = Endpoint::new("the services", services, of_services, agent, limits);
    Ok((Sides { monolith, services, secrets }, limits))
}

fn read_manifest(data: &Path) -> Result<Manifest, Error> {
    Manifest::read(data)?.ok_or_else(|| {
        let reason = "there is no manifest.json, so this is not the folder of a split";
        Error::Backup { path: data.display().to_string(), reason: reason.to_owned() }
    })
}

fn make_paths(
    file: Option<&Path>,
    plan: &Plan,
    origin: Origin,
    progress: Progress,
) -> Result<(Paths, Reference), Error> {
    let compared: Plan = plan.iter().filter(|collection| route::why_not(*collection).is_none()).collect();
    let Some(file) = file else {
        let reference = Reference::read(origin, &compared, progress)?;
        return Ok((Paths::of_records(plan, &reference), reference));
    };
    let paths = Paths::of_file(plan, file)?;
    let needed = match origin {
        // The monolith's lists are long: read only those that give records their ids.
        Origin::Monolith(_) => {
            let is_needed = |collection: &Collection| collection.may_lack_ids() && paths.has_records_of(*collection);
            compared.iter().filter(is_needed).collect()
        }
        _ => compared,
    };
    let reference = Reference::read(origin, &needed, progress)?;
    Ok((paths, reference))
}

fn check_binding(saved: &Binding, binding: &Binding, path: &Path) -> Result<(), Stop> {
    let parts = [
        (saved.version == binding.version, "the layout"),
        (saved.monolith == binding.monolith, "the monolith"),
        (saved.services == binding.services, "the services"),
        (saved.plan == binding.plan, "the plan"),
        (saved.source == binding.source, "the source of ids and digits"),
        ((saved.sample, saved.seed) == (binding.sample, binding.seed), "the sample"),
        (saved.paths == binding.paths, "the paths"),
    ];
    let others: Vec<&str> = parts.into_iter().filter(|(same, _)| !same).map(|(_, part)| part).collect();
    if others.is_empty() {
        return Ok(());
    }
    let text = format!(
        "--resume {}: the file is of another comparison: {} changed. Name another FILE to begin a new comparison",
        path.display(),
        others.join(", ")
    );
    Err(Stop::Usage(text))
}

/// A path that was compared.
struct Compared {
    nth: u64,
    route: Route,
    path: String,
    outcome: Outcome,
    findings: Vec<Finding<'static>>,
    /// The result of writing the differences to the journal.
    written: io::Result<()>,
}

/// A worker's result for a path.
enum Answered {
    Compared(Compared),
    /// The path must be compared again, by the one worker that has the memory for it.
    NeedsRoom(u64, String),
}

/// A worker's message: a result, or its panic, which the receiver resumes.
type Sent = Result<Answered, Box<dyn Any + Send>>;

/// A running comparison.
struct Run {
    context: Arc<Context>,
    journal: Arc<Mutex<Journal>>,
    limits: Limits,
    give_up_after: usize,
}

/// The outcome of a run.
struct Ran {
    progressed: Progressed,
    gave_up: Option<String>,
    journal: Journal,
}

impl Run {
    /// Asks for all paths that are not yet done.
    fn ask_all(self, asked: &Paths, mut progressed: Progressed, progress: Progress) -> Result<Ran, Error> {
        let done = progressed.done.clone();
        let stage = progress.stage("comparing", Total::Paths(asked.asked() - done.len()));
        let mut paths = (0..).zip(asked.paths()).filter(|(nth, _)| !done.contains(*nth));
        let (results, compared) = mpsc::channel();
        let work = self.start_workers(self.limits.at_once, &results, false);
        let long_work = self.start_workers(1, &results, true);
        let (mut under_way, mut trouble, mut gave_up) = (0, Vec::new(), None);
        let mut kept = Instant::now();
        loop {
            // More than are asked for at once, so that no worker waits.
            while under_way < 2 * self.limits.at_once {
                let Some(job) = paths.next() else { break };
                work.send(job).expect("the workers wait for more until the end");
                under_way += 1;
            }
            if under_way == 0 {
                break;
            }
            if kept.elapsed() >= CHECKPOINT_EVERY {
                kept = Instant::now();
                self.lock().checkpoint(&progressed)?;
            }
            let one = match compared.recv_timeout(CHECKPOINT_EVERY) {
                Ok(Ok(Answered::Compared(one))) => one,
                Ok(Ok(Answered::NeedsRoom(nth, path))) => {
                    long_work.send((nth, path)).expect("the worker waits for more until the end");
                    continue;
                }
                Ok(Err(panic)) => panic::resume_unwind(panic),
                // No answer yet: goes on to save progress.
                Err(_) => continue,
            };
            under_way -= 1;
            stage.advance(0, 1);
            let is_trouble = one.outcome.trouble;
            trouble.push(one);
            if !is_trouble {
                for one in trouble.drain(..) {
                    commit(&mut progressed, one)?;
                }
            } else if trouble.len() == self.give_up_after {
                gave_up = Some(self.explain_trouble(&trouble));
                break;
            }
        }
        drop((work, long_work));
        // The paths in trouble are reported; they come after the checkpoint, so the next run asks for them again.
        if gave_up.is_some() {
            self.lock().checkpoint(&progressed)?;
        }
        for one in trouble {
            commit(&mut progressed, one)?;
        }
        // Workers may still wait for a server that does not answer; this takes the journal from them.
        let none = Journal::open(None, &Binding::default(), false)?.0;
        let journal = std::mem::replace(&mut *self.lock(), none);
        Ok(Ran { progressed, gave_up, journal })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `count` threads that compare paths; returns the channel for the paths.
    fn start_workers(&self, count: usize, results: &Sender<Sent>, are_alone: bool) -> Sender<(u64, String)> {
        let (work, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..count {
            self.start_worker(Arc::clone(&jobs), results.clone(), are_alone);
        }
        work
    }

    /// Starts a thread that compares paths until the channel closes. It is never joined, since a request may hang.
    fn start_worker(&self, jobs: Arc<Mutex<Receiver<(u64, String)>>>, results: Sender<Sent>, is_alone: bool) {
        let (context, journal) = (Arc::clone(&self.context), Arc::clone(&self.journal));
        thread::spawn(move || {
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((nth, path)) = job else { return };
                let sent =
                    panic::catch_unwind(AssertUnwindSafe(|| compare_one(&context, &journal, nth, path, is_alone)));
                if results.send(sent).is_err() {
                    return;
                }
            }
        });
    }

    fn explain_trouble(&self, trouble: &[Compared]) -> String {
        let last = trouble.last().map(|one| match &one.outcome.verdict {
            verdict::Verdict::Unknown(why) => why.clone(),
            _ => one.findings.first().map(Finding::text).unwrap_or_default(),
        });
        let last = last.unwrap_or_default();
        let go_on = if self.lock().is_kept() { " The same command goes on from here." } else { "" };
        format!("Gave up after {} paths in a row without a whole answer; the last: {last}.{go_on}", trouble.len())
    }
}

fn compare_one(context: &Context, journal: &Mutex<Journal>, nth: u64, path: String, is_alone: bool) -> Answered {
    let (mut findings, mut written) = (Vec::new(), Ok(()));
    let outcome = context.compare_path(&path, is_alone, &mut |finding: Finding| {
        findings.push(finding.cut());
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = journal.finding(nth, &finding) {
            written = Err(error);
        }
    });
    let (route, _) = Route::of(&context.plan, &path);
    match outcome {
        Ok(outcome) => Answered::Compared(Compared { nth, route, path, outcome, findings, written }),
        Err(NeedsRoom) => Answered::NeedsRoom(nth, path),
    }
}

/// Adds a path's result to the progress.
fn commit(progressed: &mut Progressed, one: Compared) -> Result<(), Error> {
    one.written.map_err(Error::io(Path::new("the differences")))?;
    progressed.done.insert(one.nth);
    progressed.tally.add(one.route, &one.path, one.outcome, one.findings);
    Ok(())
}
