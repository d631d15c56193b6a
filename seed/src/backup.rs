//! Backups: taken from running services or from stopped ones, read, and put back.
//!
//! ```text
//! B/backup.json         what is here, by SHA-256
//! B/users.ndjson …      the records of each collection at one revision of its database: see store::backup
//! B/split.json          the manifest of the split, and
//! B/users.json …        its slices, where they were at hand: what a newer file is compared with
//! ```
//!
//! Or one file, `B.ndjson`, with the three sections after each other. Each proves itself: the digest in its first line is
//! the one that the service keeps while it writes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, SystemTime};

use record::model::Collection;
use record::record_set::RecordSet;
use serde::{Deserialize, Serialize};
use store::backup::{BackupError, Chunks, Head, Rest, Section, Since};
use store::{Folder, OnDamage, Purpose, Restore, Snapshot, SnapshotRecord, Store, sync_tree};
use tempfile::TempDir;

use crate::error::Error;
use crate::identity::{BUFFER, Hashed, Identity, folder_of, identify, put_in_place};
use crate::manifest::{MANIFEST, Manifest};
use crate::plan::Plan;
use crate::progress::{Progress, Stage, Total};

/// The name of a backup's own manifest.
const BACKUP: &str = "backup.json";
/// The name that the split's manifest has in a backup.
const SPLIT: &str = "split.json";
/// How the name of a backup ends that is one file.
const ONE_FILE: &str = "ndjson";

/// The priority of a backup, as `nice` has it.
#[cfg(target_os = "linux")]
const BACKGROUND: i32 = 10;

/// How long a service may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many records are handed on as one piece, and how many such pieces may wait.
const PIECE: usize = 1024;
const PIECES: usize = 8;

/// Where a backup is taken from.
pub struct Origin<'o> {
    /// The entrance, or services; where there are none, the databases in `data`.
    pub urls: &'o [String],
    /// The services' folders. Manifest and slices come from here in either case.
    pub data: &'o Path,
    /// The secrets of write tokens, one a line: each service has its own.
    pub secrets: Option<&'o Path>,
    /// The backup that an increment goes on from, and the increments before it.
    pub since: &'o [PathBuf],
}

/// What is in a backup.
#[derive(Debug, Serialize, Deserialize)]
pub struct Contents {
    version: u32,
    /// When it was taken: RFC 3339, UTC.
    pub created: String,
    /// Its sections.
    pub sections: Vec<Entry>,
}

/// A section, and its file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// What the section's first line says.
    #[serde(flatten)]
    pub head: Head,
    /// The file.
    pub file: Identity,
}

/// Takes a backup, and puts it at `output` once it has been read back and proven.
///
/// # Errors
/// See [`Error`]; nothing is at `output` then.
pub fn take(origin: &Origin, output: &Path, progress: Progress) -> Result<Contents, Error> {
    // A service on the same machine comes first.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, BACKGROUND);
    if output.exists() {
        return Err(Error::Backup { path: output.display().to_string(), reason: "it is there already".to_owned() });
    }
    let into = folder_of(output);
    fs::create_dir_all(into).map_err(Error::io(into))?;
    // Beside its place, so that it can be moved there.
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
        let whole = part.path().join("whole");
        concatenate(part.path(), &plan, &whole)?;
        put_in_place(&whole, output)?;
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

/// Reads a new backup from end to end: an increment with the backup that it goes on from.
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

fn section_path(folder: &Path, collection: Collection) -> PathBuf {
    folder.join(format!("{}.{ONE_FILE}", collection.name()))
}

fn lock_all(data: &Path, plan: &Plan) -> Result<Vec<Folder>, Error> {
    let lock = |collection: Collection| Folder::lock(&data.join(collection.name()));
    let folders: Result<Vec<Folder>, _> = plan.iter().map(lock).collect();
    folders.map_err(|error| match error {
        store::StoreError::InUse { .. } => Error::Backup {
            path: data.display().to_string(),
            reason: format!("{error}; or name the running services: --from http://…"),
        },
        error => error.into(),
    })
}

/// Writes the section of a database that nobody serves.
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

/// Writes the section of a running service: the first of `urls` that has the collection.
fn fetch(
    urls: &[String],
    collection: Collection,
    since: Option<&Since>,
    secrets: &[String],
    out: &mut impl Write,
    path: &Path,
) -> Result<(), Error> {
    let name = collection.name();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .max_redirects(0)
        .user_agent(concat!("seed/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let mut why = String::new();
    for url in urls {
        let base = url.trim_end_matches('/');
        let mut request = agent.get(format!("{base}/api/{name}/-/backup"));
        if let Some(Since { history, revision }) = since {
            request = request.query("history", history).query("since", revision.to_string());
        }
        // A secret begins with its service's name.
        if let Some(secret) = secrets.iter().find(|secret| secret.starts_with(&format!("{name}_"))) {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        let failed = |reason: String| Error::Backup { path: format!("{base}/api/{name}"), reason };
        let mut answer = match request.call() {
            Ok(answer) => answer,
            Err(error) => {
                why = failed(format!("no answer: {error}")).to_string();
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
                let how = "the service wants a token: --secrets FILE, with the secret of one of its tokens in a line";
                return Err(failed(how.to_owned()));
            }
            404 => {
                why = failed("there is no such collection here, or the service is older than backups".to_owned())
                    .to_string()
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

/// Copies manifest and slices of the split in `data`, where they are.
fn copy_split(data: &Path, to: &Path) -> Result<(), Error> {
    let Some(manifest) = Manifest::read(data)? else { return Ok(()) };
    for collection in manifest.collections() {
        let (slice, copy) = (data.join(collection.name()).join("db.json"), slice_path(to, collection));
        fs::copy(&slice, &copy).map_err(Error::io(&slice))?;
        if identify(&copy)? != manifest.entry(collection).slice {
            let reason = "the slice is not what the manifest says".to_owned();
            return Err(Error::Damaged(format!("{}: {reason}", slice.display())));
        }
    }
    let path = data.join(MANIFEST);
    fs::copy(&path, to.join(SPLIT)).map(drop).map_err(Error::io(&path))
}

/// Where the slice of a collection is in the backup in `folder`.
pub fn slice_path(folder: &Path, collection: Collection) -> PathBuf {
    folder.join(format!("{}.json", collection.name()))
}

fn concatenate(folder: &Path, plan: &Plan, to: &Path) -> Result<(), Error> {
    let mut whole = File::create_new(to).map_err(Error::io(to))?;
    for collection in plan.iter() {
        let path = section_path(folder, collection);
        let mut section = File::open(&path).map_err(Error::io(&path))?;
        std::io::copy(&mut section, &mut whole).map_err(Error::io(to))?;
    }
    Ok(())
}

/// A backup, and the increments on it in their order.
pub struct Chain {
    paths: Vec<PathBuf>,
    plan: OnceLock<Plan>,
}

type Input = Section<Box<dyn BufRead + Send>>;

impl Chain {
    /// Takes the backup at the first path, and its increments at the others. Files are proven where they have a list.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        for path in paths {
            let list = path.join(BACKUP);
            if !path.is_dir() {
                continue;
            }
            let text = fs::read(&list).map_err(Error::io(&list))?;
            let contents: Contents = serde_json::from_slice(&text).map_err(|error| broken(&list, error.to_string()))?;
            for Entry { head, file } in &contents.sections {
                let section = path.join(format!("{}.{ONE_FILE}", head.collection));
                if identify(&section)? != *file {
                    return Err(broken(&section, format!("it is not what {BACKUP} says: it was damaged or changed")));
                }
            }
        }
        Ok(Self { paths: paths.to_vec(), plan: OnceLock::new() })
    }

    /// Which collections the backup is of.
    pub fn plan(&self) -> Result<&Plan, Error> {
        match self.plan.get() {
            Some(plan) => Ok(plan),
            None => {
                let plan = self.find_plan()?;
                Ok(self.plan.get_or_init(|| plan))
            }
        }
    }

    /// Finds that out by the split that is in it, else by its sections, which say it since backups have declarations. A
    /// file of several sections has to be read for that.
    fn find_plan(&self) -> Result<Plan, Error> {
        if let Some((manifest, _)) = self.split()? {
            return Ok(manifest.plan());
        }
        let last = self.paths.last().expect("a chain has a backup");
        let mut found = Vec::new();
        let mut files = vec![last.to_owned()];
        if last.is_dir() {
            let inside = fs::read_dir(last).map_err(Error::io(last))?;
            files = inside
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()
                .map_err(Error::io(last))?;
            files.retain(|path| path.extension().is_some_and(|extension| extension == ONE_FILE));
            files.sort();
        }
        for file in files {
            let failed = |error: BackupError| broken(&file, error.to_string());
            let mut input = open_sections(&file)?;
            while let Some(section) = Section::open(input, &known()).map_err(failed)? {
                found.push(section.collection());
                if last.is_dir() {
                    // Each has a file of its own.
                    break;
                }
                input = section.finish().map_err(failed)?.1;
            }
        }
        let workspace = Plan::workspace();
        // A part of a backup is none.
        let is_of_workspace = found.iter().all(|collection| workspace.named(collection.name()).is_some());
        Ok(if is_of_workspace { workspace } else { found.into_iter().collect() })
    }

    /// The first line of the last section of a collection.
    pub fn head(&self, collection: Collection) -> Result<Head, Error> {
        let last = self.paths.last().expect("a chain has a backup");
        Ok(section(last, collection)?.head().clone())
    }

    /// The manifest of the split, and the slices, where a backup has them: the last that does.
    pub fn split(&self) -> Result<Option<(Manifest, PathBuf)>, Error> {
        for path in self.paths.iter().rev() {
            if path.join(SPLIT).exists() {
                let manifest = Manifest::read_at(&path.join(SPLIT))?;
                return Ok(manifest.map(|manifest| (manifest, path.clone())));
            }
        }
        Ok(None)
    }

    /// Hands on all records of a collection, as the last increment has them: by ascending id.
    ///
    /// # Errors
    /// Something is missing or damaged: what was handed on is then of no use.
    pub fn read(
        &self,
        collection: Collection,
        mut put: impl FnMut(&SnapshotRecord) -> Result<(), Error>,
    ) -> Result<(Head, Rest), Error> {
        let mut sections = Vec::new();
        for path in &self.paths {
            let section = section(path, collection)?;
            let head = section.head();
            let goes_on =
                |before: &Input| head.history == before.head().history && head.since <= Some(before.head().revision);
            match head.since {
                // In a full backup is all that was before it.
                None => sections.clear(),
                Some(_) if sections.last().is_some_and(|(_, before)| goes_on(before)) => {}
                Some(_) => {
                    let reason = "it is an increment; name the backup that it goes on from before it".to_owned();
                    return Err(broken(path, reason));
                }
            }
            sections.push((path, section));
        }
        let (last, section) = sections.last().expect("a chain has a backup");
        let (last, head) = (last.as_path(), section.head().clone());
        let rest = self::section(last, collection)?.finish().map_err(|error| broken(last, error.to_string()))?.0;
        let mut next = Vec::new();
        for (path, section) in &mut sections {
            next.push(advance(section, path)?);
        }
        let mut set = RecordSet::default();
        while let Some(id) = next.iter().flatten().map(|record| record.id).min() {
            let mut newest = None;
            for (nth, (path, section)) in sections.iter_mut().enumerate() {
                if next[nth].as_ref().is_some_and(|record| record.id == id) {
                    newest = std::mem::replace(&mut next[nth], advance(section, path)?);
                }
            }
            if let Some(record) = newest.filter(|record| rest.has(record.id)) {
                set.add_record(record.id, record.id_from_position, &record.json);
                put(&record)?;
            }
        }
        if !head.is_of(&set) {
            let reason = format!(
                "the {} that were read are not those that the service counted: {} of {}, with digest {set} for {}",
                collection.name(),
                set.count,
                head.records,
                head.digest
            );
            return Err(broken(last, reason));
        }
        Ok((head, rest))
    }

    /// Makes a database at `path`, where nothing is yet, of a collection: declared as the one that was backed up.
    pub fn restore(&self, collection: Collection, path: &Path, stage: &Stage) -> Result<Head, Error> {
        let declared = self.head(collection)?.declaration.map_or(collection, Collection::of);
        let (send, pieces) = sync_channel::<Vec<SnapshotRecord>>(PIECES);
        thread::scope(|scope| {
            let loader = scope.spawn(move || {
                let mut restore = Restore::create(path, declared)?;
                for piece in pieces {
                    piece.iter().try_for_each(|record| restore.put(record))?;
                }
                Ok::<_, Error>(restore)
            });
            let mut piece = Vec::new();
            let read = self.read(collection, |record| {
                piece.push(record.clone());
                if piece.len() == PIECE {
                    stage.advance(0, PIECE as u64);
                    // Why nobody takes it any more is the loader's to say.
                    let _ = send.send(std::mem::take(&mut piece));
                }
                Ok(())
            });
            let _ = send.send(piece);
            drop(send);
            let restore = loader.join().expect("a loader returns its errors")?;
            let (head, rest) = read?;
            restore.finish(&rest.kept, head.revision, head.last_id)?.sync()?;
            Ok(head)
        })
    }
}

fn advance(section: &mut Input, path: &Path) -> Result<Option<SnapshotRecord>, Error> {
    section.next().transpose().map_err(|error| broken(path, error.to_string()))
}

/// Opens a collection's section of the backup at `path`: a folder, a file of all sections, or a section's file.
fn section(path: &Path, collection: Collection) -> Result<Input, Error> {
    let path = if path.is_dir() { section_path(path, collection) } else { path.to_owned() };
    let mut input = open_sections(&path)?;
    let failed = |error: BackupError| broken(&path, error.to_string());
    loop {
        let section = Section::open(input, &known()).map_err(failed)?;
        let section = section.ok_or_else(|| broken(&path, format!("there are no {} in it", collection.name())))?;
        if section.collection() == collection {
            return Ok(section);
        }
        input = section.finish().map_err(failed)?.1;
    }
}

/// A file of sections, one after the other.
fn open_sections(path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    let file = File::open(path).map_err(Error::io(path))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER, file)))
}

/// The collections of backups that do not say what they are of.
fn known() -> Vec<Collection> {
    Plan::workspace().iter().collect()
}

fn broken(path: &Path, reason: String) -> Error {
    Error::Backup { path: path.display().to_string(), reason }
}

/// Databases that were made of a backup to be looked at.
pub struct Unpacked {
    /// Where they are.
    pub _dir: TempDir,
    /// In the plan's order.
    pub stores: Vec<Store>,
}

/// Makes databases of a backup in a temporary folder.
pub fn unpack(chain: &Chain, progress: Progress) -> Result<Unpacked, Error> {
    let dir = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    let stage = progress.stage("unpacking", Total::Records(records(chain)?));
    let mut stores = Vec::new();
    for collection in chain.plan()?.iter() {
        let path = dir.path().join(collection.name());
        chain.restore(collection, &path, &stage)?;
        stores.push(Store::open(&path, collection, Purpose::Passing)?);
    }
    Ok(Unpacked { _dir: dir, stores })
}

/// How many records a backup has.
pub fn records(chain: &Chain) -> Result<u64, Error> {
    chain.plan()?.iter().map(|collection| Ok(chain.head(collection)?.records)).sum()
}

/// Copies the slice of a collection out of the backup in `folder`.
pub fn copy_slice(folder: &Path, collection: Collection, to: &Path) -> Result<(), Error> {
    let from = slice_path(folder, collection);
    fs::copy(&from, to).map(drop).map_err(Error::io(&from))
}
