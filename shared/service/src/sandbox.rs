//! A service's sandbox: it limits the part of the machine that an attacker reaches through a compromised service.
//!
//! A thread inside it, and every thread that it spawns, opens nothing but the service's folder (no device, no `/proc`,
//! not even the program itself). It executes nothing, makes no links out of the folder, connects to no TCP port (a
//! replica: to its broker's ports alone), binds none, and reaches no outside process by a signal or an abstract Unix socket. Files opened before stay open: the log,
//! the listener, the lock, the pipes to the reloader. The kernel's landlock enforces this for any user and for good.
//!
//! Not restricted, since no released kernel that this was tried on can refuse them: UDP, Unix sockets in the file
//! system, and a `listen` without a `bind`.

use std::path::Path;

/// The sandbox could not be made, although this kernel supports it.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox could not be made: {0}; --no-sandbox runs without one")]
pub struct SandboxError(String);

/// The files with which the standard library finds the address of a name.
const RESOLVER: [&str; 5] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];

/// Puts the calling thread, and every thread it spawns from now on, into a sandbox around `folder`. If there are `ports`,
/// it may connect to these by TCP, and read what it needs to find their hosts. Returns the
/// restrictions that this kernel lacks, in words that follow "cannot", or `None` if it has all.
#[cfg(target_os = "linux")]
pub fn enter(folder: &Path, ports: &[u16]) -> Result<Option<String>, SandboxError> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetError, Scope, make_bitflags,
    };

    /// The requested version, tried on a kernel that has it. Try a newer version before you request it.
    const WANTED: ABI = ABI::V6;
    /// The restrictions that each version added, for the warning if they are missing.
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
    let resolver: &[&str] = if ports.is_empty() { &[] } else { &RESOLVER };
    // Not every system has them all.
    let resolver = resolver.iter().filter_map(|path| PathFd::new(path).ok());
    let enter = || -> Result<_, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(WANTED))?
            .handle_access(AccessNet::from_all(WANTED))?
            .scope(Scope::from_all(WANTED))?
            .create()?
            .add_rule(PathBeneath::new(folder, own))?
            .add_rules(resolver.map(|file| Ok::<_, RulesetError>(PathBeneath::new(file, AccessFs::ReadFile))))?
            .add_rules(ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp))))?
            .restrict_self()
    };
    let status = enter().map_err(|error| SandboxError(error.to_string()))?;
    let has = ABI::from(status.landlock);
    let missing: Vec<&str> = BROUGHT.iter().filter(|(since, _)| has < *since).map(|(_, what)| *what).collect();
    Ok((!missing.is_empty()).then(|| missing.join(", ")))
}

/// Does nothing, since this system has no landlock. Returns what it cannot do.
#[cfg(not(target_os = "linux"))]
pub fn enter(_folder: &Path, _ports: &[u16]) -> Result<Option<String>, SandboxError> {
    Ok(Some("keep it from anything".to_owned()))
}
