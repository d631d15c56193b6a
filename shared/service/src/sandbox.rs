//! A service's sandbox: what whoever takes a service over can still reach of its machine.
//!
//! Inside it, a thread and all that it spawns open nothing but the service's folder (no device, no `/proc`, not even
//! the program itself), execute nothing, make no links out of it, connect to no TCP port, bind none, signal no process
//! outside and reach no abstract Unix socket of one. What was opened before stays open: the log, the listener, the
//! lock, the pipes to the broker. The kernel's landlock enforces it, for any user, and nothing can leave it again.
//!
//! Left as they are, since no released kernel that this was tried on can refuse them: UDP, Unix sockets in the file
//! system, and a `listen` without a `bind`.

use std::path::Path;

/// The sandbox could not be made, though this kernel has them.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox could not be made: {0}; --no-sandbox does without")]
pub struct SandboxError(String);

/// Puts the calling thread, and every thread it spawns from now on, into a sandbox around `folder`. Returns what this
/// kernel cannot do, in words that follow "cannot", if there is anything.
#[cfg(target_os = "linux")]
pub fn enter(folder: &Path) -> Result<Option<String>, SandboxError> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
        Scope, make_bitflags,
    };

    /// What is asked for, all of it tried on a kernel that has it; a newer one's additions are to be tried first.
    const WANTED: ABI = ABI::V6;
    /// What each version brought, for the warning where it is missing.
    const BROUGHT: [(ABI, &str); 5] = [
        (ABI::V1, "keep it to its folder"),
        (ABI::V3, "keep it from truncating other files"),
        (ABI::V4, "keep it from TCP"),
        (ABI::V5, "keep it from controlling devices"),
        (ABI::V6, "keep it from signals and abstract Unix sockets"),
    ];

    let own = make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir
    });
    let folder = PathFd::new(folder).map_err(|error| SandboxError(error.to_string()))?;
    let enter = || -> Result<_, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(WANTED))?
            .handle_access(AccessNet::from_all(WANTED))?
            .scope(Scope::from_all(WANTED))?
            .create()?
            .add_rule(PathBeneath::new(folder, own))?
            .restrict_self()
    };
    let status = enter().map_err(|error| SandboxError(error.to_string()))?;
    let has = ABI::from(status.landlock);
    let missing: Vec<&str> = BROUGHT.iter().filter(|(since, _)| has < *since).map(|(_, what)| *what).collect();
    Ok((!missing.is_empty()).then(|| missing.join(", ")))
}

/// There is none.
#[cfg(not(target_os = "linux"))]
pub fn enter(_folder: &Path) -> Result<Option<String>, SandboxError> {
    Ok(Some("keep it from anything".to_owned()))
}
