//! Small file systems, some on devices that fail. Mounting needs root.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::fs;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{skip, text, tool, wait_for};

/// Mounts a small file system; returns `None` if that is not possible.
pub fn mount(what: &[&str], path: &Path) -> Option<Unmount> {
    let mounted = Command::new("mount").args(what).arg(path).output();
    if mounted.is_ok_and(|output| output.status.success()) {
        return Some(Unmount(path.to_owned()));
    }
    skip("a small file system cannot be mounted here (it needs root)");
    None
}

/// A file system that is mounted until dropped.
pub struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The length of the device, in bytes.
const DEVICE: u64 = 96 << 20;

/// The room left on the full device, in bytes: a few laps of the journal, and up to another segment of the database.
const LEFT: Range<u64> = 4 << 20..10 << 20;

/// An ext4 file system whose device fails when told to. The device is a file on a tmpfs. When the tmpfs is full, the
/// device takes no new block. It already has all blocks of the file system itself, so only data is lost.
///
/// It takes at most a page at once: if the tmpfs takes only a part of a longer write, Linux 6.18 reports it as done.
pub struct FailingDisk {
    // They are dropped in this order.
    mounted: Unmount,
    small: Unmount,
    dir: TempDir,
}

impl FailingDisk {
    /// Makes a disk that works; returns `None` if that is not possible.
    pub fn new() -> Option<Self> {
        let (mkfs, _) = (tool("mkfs.ext4", "a disk that fails")?, tool("fstrim", "a disk that fails")?);
        let dir = tempfile::tempdir().unwrap();
        let (small, path) = (dir.path().join("small"), dir.path().join("disk"));
        [&small, &path].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let small = mount(&["-t", "tmpfs", "-o", "size=256m", "tmpfs"], &small)?;
        let image = small.0.join("image");
        fs::File::create(&image).unwrap().set_len(DEVICE).unwrap();
        run(Command::new(mkfs).args(["-q", "-b", "4096"]).arg(&image));
        // Rewriting the file gives it every block.
        fs::write(&image, fs::read(&image).unwrap()).unwrap();
        let mounted = mount(&["-o", "loop", &image.to_string_lossy()], &path)?;
        let (major, minor) = device(&path);
        if fs::write(format!("/sys/dev/block/{major}:{minor}/queue/max_sectors_kb"), "4").is_err() {
            skip("the limit of a device's writes cannot be set here; a disk that fails is not tested");
            return None;
        }
        Some(Self { mounted, small, dir })
    }

    /// Returns the folder that the file system is mounted on.
    pub fn path(&self) -> &Path {
        &self.mounted.0
    }

    /// Makes the device refuse nearly every block that the file system does not use yet. Returns `None` if it cannot.
    pub fn fill(&self) -> Option<()> {
        run(Command::new("sync").arg("-f").arg(self.path()));
        if !Command::new("fstrim").arg(self.path()).status().is_ok_and(|status| status.success()) {
            skip("a loop device cannot give blocks back here; a disk that fails is not tested");
            return None;
        }
        self.resize(fs::metadata(self.image()).unwrap().blocks() * 512 + fastrand::u64(LEFT));
        Some(())
    }

    /// Makes the device take every block again.
    pub fn give_room(&self) {
        self.resize(256 << 20);
    }

    fn resize(&self, bytes: u64) {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.small.0));
    }

    fn image(&self) -> PathBuf {
        self.small.0.join("image")
    }

    /// Waits until the device rests and mounts a copy of its content, which is what a loss of power would leave.
    pub fn after_power_loss(&self) -> DiskCopy {
        let dir = tempfile::tempdir_in(&self.dir).unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("disk"));
        let mut bytes = fs::read(self.image()).unwrap();
        wait_for("the device to rest", || {
            let before = mem::replace(&mut bytes, fs::read(self.image()).unwrap());
            before == bytes
        });
        fs::write(&image, bytes).unwrap();
        fs::create_dir(&path).unwrap();
        let mounted = mount(&["-o", "loop", &image.to_string_lossy()], &path).expect("the first was mounted");
        DiskCopy { mounted, _dir: dir }
    }
}

/// A mounted copy of a device.
pub struct DiskCopy {
    mounted: Unmount,
    _dir: TempDir,
}

impl DiskCopy {
    /// Returns the folder that the copy is mounted on.
    pub fn path(&self) -> &Path {
        &self.mounted.0
    }
}

/// Returns the major and minor number of the device that a folder lies on.
fn device(path: &Path) -> (u32, u32) {
    let device = fs::metadata(path).unwrap().dev();
    (rustix::fs::major(device), rustix::fs::minor(device))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}
