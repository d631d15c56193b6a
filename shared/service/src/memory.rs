//! The memory of the container or the machine that a service runs in, and the service's share of it.

use std::fs;
use std::path::Path;

/// The least part of the memory that answers and pages take if `--cache` says nothing: one in this many bytes.
const SHARE: u64 = 8;

/// What the database with its buffers, and connections, take besides, in bytes. Of what is left, answers take half.
const BESIDE: u64 = 160 << 20;

/// The most that they then take, in MiB: with the database's own share, some 256 are resident.
pub(crate) const MOST: u64 = 160;

/// The most where not all records fit: a larger database takes more for itself.
pub(crate) const MOST_OF_MANY: u64 = 64;

/// The least, in MiB.
const LEAST: u64 = 4;

/// Returns the memory for answers that a service takes by itself if all of its records fit there, in MiB.
pub(crate) fn share() -> u64 {
    available(Path::new("/")).map_or(MOST, share_of)
}

fn share_of(bytes: u64) -> u64 {
    let half = bytes.saturating_sub(BESIDE) / 2;
    (half.max(bytes / SHARE) >> 20).clamp(LEAST, MOST)
}

/// Returns the memory that the container leaves to this process, or else the machine has, in bytes; `None` if the
/// system does not say. `root` is the root of its files.
fn available(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limits(root, line));
    limits.chain(installed(root)).min()
}

/// Returns the machine's memory.
fn installed(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Returns the limits of one group of a line `number:controllers:path`, and of those above it. A container may see its
/// own group as the root, under the path that it has outside: so groups that are not there count for nothing.
fn limits(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (mounted, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    let files = groups.map(|group| root.join(mounted).join(group).join(file));
    // Without a limit it says "max", or more than any machine has.
    files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).collect()
}

/// Keeps the process, and those it starts, from huge pages; or lets it have them.
///
/// The allocator asks the system for pages of 2 MiB. With much memory they make reads faster. A service with little of it
/// writes a few bytes into each of twenty, all of which are then resident.
pub(crate) fn avoid_huge_pages(avoid: bool) {
    #[cfg(target_os = "linux")]
    // A system that cannot do this has no huge pages.
    let _ = rustix::thread::disable_transparent_huge_pages(avoid);
    #[cfg(not(target_os = "linux"))]
    let _ = avoid;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the memory that files at these paths tell of.
    fn available_with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        available(root.path())
    }

    #[test]
    fn the_lowest_limit_of_a_container_or_the_machine_counts() {
        let machine = ("proc/meminfo", "MemTotal:        2097152 kB\nMemFree:         1000 kB\n");
        let second = ("proc/self/cgroup", "0::/pod/container\n");
        let first = ("proc/self/cgroup", "5:devices:/docker/a\n4:cpu,memory:/docker/a\n0::/\n");
        let none = "9223372036854771712\n";
        assert_eq!(available_with(&[]), None);
        assert_eq!(available_with(&[machine]), Some(2 << 30));
        assert_eq!(
            available_with(&[machine, second, ("sys/fs/cgroup/pod/container/memory.max", "max\n")]),
            Some(2 << 30)
        );
        let pod = ("sys/fs/cgroup/pod/memory.max", "268435456\n");
        assert_eq!(available_with(&[machine, second, pod]), Some(256 << 20));
        let own = ("sys/fs/cgroup/pod/container/memory.max", "134217728\n");
        assert_eq!(available_with(&[machine, second, pod, own]), Some(128 << 20));
        // In a container the group that /proc names lies outside, and its own is the root.
        let root = ("sys/fs/cgroup/memory.max", "536870912\n");
        assert_eq!(available_with(&[machine, second, root]), Some(512 << 20));
        let root = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(available_with(&[machine, first, root]), Some(512 << 20));
        let unlimited = ("sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", none);
        assert_eq!(available_with(&[machine, first, unlimited]), Some(2 << 30));
    }

    #[test]
    fn a_share_has_a_least_and_a_most() {
        let machines = [16, 128, 256, 320, 512, 24 << 10].map(|mib| mib << 20);
        assert_eq!(machines.map(share_of), [LEAST, 16, 48, 80, MOST, MOST]);
    }
}
