//! `seed backup`: takes a backup of running or stopped services.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use record::model::Collection;
use serde_json::json;
use store::backup::{Chunks, Since};
use store::{Folder, OnDamage, Purpose, Snapshot, sync_tree};

use crate::chain::{BACKUP, Chain, Contents, Entry, ONE_FILE, SPLIT, section_path, slice_path};
use crate::error::Error;
use crate::identity::{BUFFER, Hashed, folder_of, identify};
use crate::manifest::{MANIFEST, Manifest};
use crate::part_file::PartFile;
use crate::plan::Plan;
use crate::progress::{Progress, Total};
use crate::report::{Report, table};

/// The priority of a backup, a `nice` value.
#[cfg(target_os = "linux")]
const BACKGROUND: i32 = 10;

/// The time that a service may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The origin of a backup.
pub struct Origin<'o> {
    /// The entrance or services; if empty, the databases in `data` are read.
    pub urls: &'o [String],
    /// The services' folders. Manifest and slices always come from here.
    pub data: &'o Path,
    /// The file with the secrets of write tokens, one a line: each service has its own.
    pub secrets: Option<&'o Path>,
    /// The backup that an increment continues, and the increments before it.
    pub since: &'o [PathBuf],
}

/// Takes a backup, reads it back, and only then puts it at `output`.
///
/// # Errors
/// See [`Error`]; nothing is at `output` then.
pub fn take(origin: &Origin, output: &Path, progress: Progress) -> Result<Contents, Error> {
    // Services on the same machine have priority.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, BACKGROUND);
    if output.exists() {
        let reason = "it is there already; name another path".to_owned();
        return Err(Error::Backup { path: output.display().to_string(), reason });
    }
    let into = folder_of(output);
    fs::create_dir_all(into).map_err(Error::io(into))?;
    // In the same folder, so that a rename moves it into place.
    let part = tempfile::tempdir_in(into).map_err(Error::io(into))?;
    let follows = Chain::open(origin.since)?;
    let secrets = origin.secrets.map(read_secrets).transpose()?.unwrap_or_default();
    let plan = Manifest::read(origin.data)?.map_or_else(Plan::workspace, |manifest| manifest.plan());
    let folders = if origin.urls.is_empty() { lock_all(origin.data, &plan)? } else { Vec::new() };
    let mut sections = Vec::new();
    for (nth, collection) in plan.iter().enumerate() {
        let since = if origin.since.is_empty() { None } else { Some(follows.head(collection)?) };
        let since = since.map(|head| Since { history: head.history, revision: head.revision });
        let path = section_path(part.path(), collection);
        let file = File::create_new(&path).map_err(Error::io(&path))?;
        let mut out = Hashed::new(BufWriter::with_capacity(BUFFER, file), true);
        let stage = progress.stage("backing up", Total::Records(0));
        match folders.get(nth) {
            Some(folder) => copy_database(folder, collection, since.as_ref(), &mut out, &path)?,
            None => fetch(origin.urls, collection, since.as_ref(), &secrets, &mut out, &path)?,
        }
        let file = out.finish().map_err(Error::io(&path))?;
        drop(stage);
        let head = Chain::open(std::slice::from_ref(&path))?.head(collection)?;
        sections.push(Entry { head, file });
    }
    drop(folders);
    let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let contents = Contents { version: 1, created, sections };
    prove(part.path(), &plan, origin.since, &contents, progress)?;
    if output.extension().is_some_and(|extension| extension == ONE_FILE) {
        let whole = PartFile::create(output)?;
        concatenate(part.path(), &plan, &whole)?;
        whole.put_in_place()?;
        return Ok(contents);
    }
    copy_split(origin.data, part.path())?;
    let text = serde_json::to_string_pretty(&contents).expect("contents can be written as JSON") + "\n";
    fs::write(part.path().join(BACKUP), text).map_err(Error::io(part.path()))?;
    sync_tree(part.path())?;
    let part = part.keep();
    fs::rename(&part, output).map_err(Error::io(output))?;
    Ok(store::sync(into).map(|()| contents)?)
}

/// Writes the section of a running service to `file`, which messages call `path`.
///
/// # Errors
/// No service answers. What is in the file is to be read back.
pub(crate) fn copy_section(
    urls: &[String],
    secrets: &Path,
    collection: Collection,
    file: &File,
    path: &Path,
) -> Result<(), Error> {
    let secrets = read_secrets(secrets)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    fetch(urls, collection, None, &secrets, &mut out, path)?;
    out.flush().map_err(Error::io(path))
}

/// Reads a new backup from end to end; an increment together with the backup that it continues.
fn prove(part: &Path, plan: &Plan, since: &[PathBuf], contents: &Contents, progress: Progress) -> Result<(), Error> {
    let stage =
        progress.stage("reading back", Total::Records(contents.sections.iter().map(|entry| entry.head.records).sum()));
    for Entry { head, .. } in &contents.sections {
        let collection = plan.named(&head.collection).expect("a section is of a collection");
        let before = if head.since.is_some() { since } else { &[] };
        let paths = [before, &[section_path(part, collection)]].concat();
        Chain::open(&paths)?.read(collection, |_| {
            stage.advance(0, 1);
            Ok(())
        })?;
    }
    Ok(())
}

fn lock_all(data: &Path, plan: &Plan) -> Result<Vec<Folder>, Error> {
    let lock = |collection: Collection| Folder::lock(&data.join(collection.name()));
    let folders: Result<Vec<Folder>, _> = plan.iter().map(lock).collect();
    folders.map_err(|error| match error {
        store::StoreError::InUse { .. } => Error::Backup {
            path: data.display().to_string(),
            reason: format!("{error}; to back up running services, name them: --from http://…"),
        },
        error => error.into(),
    })
}

/// Writes the section of a stopped service's database.
fn copy_database(
    folder: &Folder,
    collection: Collection,
    since: Option<&Since>,
    out: &mut impl Write,
    path: &Path,
) -> Result<(), Error> {
    let store = folder.open(collection, Purpose::Passing, OnDamage::Refuse)?;
    for chunk in Chunks::new(Snapshot::of(&store)?, since, true) {
        out.write_all(&chunk?).map_err(Error::io(path))?;
    }
    Ok(())
}

/// Returns the HTTP client that asks services.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .max_redirects(0)
        .user_agent(concat!("seed/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Writes the section of a running service: asks the first of `urls` that has the collection.
fn fetch(
    urls: &[String],
    collection: Collection,
    since: Option<&Since>,
    secrets: &[String],
    out: &mut impl Write,
    path: &Path,
) -> Result<(), Error> {
    let name = collection.name();
    let agent = agent();
    let mut why = String::new();
    for url in urls {
        let base = url.trim_end_matches('/');
        let mut request = agent.get(format!("{base}/api/{name}/-/backup"));
        if let Some(Since { history, revision }) = since {
            request = request.query("history", history).query("since", revision.to_string());
        }
        // A secret begins with its service's name, which may also begin another service's name.
        let own = secrets.iter().filter(|secret| secret.starts_with(&format!("{name}_")));
        if let Some(secret) = own.min_by_key(|secret| secret.len()) {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        let failed = |reason: String| Error::Backup { path: format!("{base}/api/{name}"), reason };
        let mut answer = match request.call() {
            Ok(answer) => answer,
            Err(error) => {
                why = failed(format!("the service does not answer: {error}")).to_string();
                continue;
            }
        };
        match answer.status().as_u16() {
            200 => {
                let mut body = answer.body_mut().with_config().limit(u64::MAX).reader();
                let mut bytes = vec![0; BUFFER];
                loop {
                    let read = body.read(&mut bytes).map_err(|error| {
                        failed(format!("the service cut the backup short: {error}; its log says why"))
                    })?;
                    if read == 0 {
                        return Ok(());
                    }
                    out.write_all(&bytes[..read]).map_err(Error::io(path))?;
                }
            }
            401 => {
                let how = "the service demands a token: --secrets FILE names a file with a token's secret on a line";
                return Err(failed(how.to_owned()));
            }
            404 => {
                let reason = "the collection is not served here, or the service is too old to send backups";
                why = failed(reason.to_owned()).to_string()
            }
            status => {
                let detail = answer.body_mut().with_config().limit(1 << 16).read_to_string().unwrap_or_default();
                return Err(failed(format!("status {status}: {}", detail.trim_end())));
            }
        }
    }
    Err(Error::Backup { path: name.to_owned(), reason: why })
}

fn read_secrets(path: &Path) -> Result<Vec<String>, Error> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

/// Copies the manifest and slices of the split in `data`, if there is a split.
fn copy_split(data: &Path, to: &Path) -> Result<(), Error> {
    let Some(manifest) = Manifest::read(data)? else { return Ok(()) };
    for collection in manifest.collections() {
        let (slice, copy) = (data.join(collection.name()).join("db.json"), slice_path(to, collection));
        fs::copy(&slice, &copy).map_err(Error::io(&slice))?;
        if identify(&copy)? != manifest.entry(collection).slice {
            let reason = "the slice differs from the one in the manifest".to_owned();
            return Err(Error::Damaged(format!("{}: {reason}", slice.display())));
        }
    }
    let path = data.join(MANIFEST);
    fs::copy(&path, to.join(SPLIT)).map(drop).map_err(Error::io(&path))
}

fn concatenate(folder: &Path, plan: &Plan, whole: &PartFile) -> Result<(), Error> {
    for collection in plan.iter() {
        let path = section_path(folder, collection);
        let mut section = File::open(&path).map_err(Error::io(&path))?;
        std::io::copy(&mut section, &mut whole.as_file()).map_err(Error::io(whole.path()))?;
    }
    Ok(())
}

/// Reports a backup.
pub fn describe(output: &Path, contents: &Contents) -> Report {
    let mut rows = vec![["collection", "records", "revision", "since", "bytes", "digest"].map(String::from)];
    for Entry { head, file } in &contents.sections {
        rows.push([
            head.collection.clone(),
            head.records.to_string(),
            head.revision.to_string(),
            head.since.map_or("-".to_owned(), |since| since.to_string()),
            file.bytes.to_string(),
            head.digest.clone(),
        ]);
    }
    let text = format!(
        "{} is a backup, read back and proven. It holds each collection at its revision:\n\n{}",
        output.display(),
        table(&rows)
    );
    Report::new(text, json!({ "outcome": "backed up", "output": output.to_string_lossy(), "contents": contents }))
}
