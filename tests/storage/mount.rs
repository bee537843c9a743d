//! Small file systems that get full or fail, for tests that run as root.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A mounted file system; unmounted when dropped.
pub struct Mount {
    dir: TempDir,
    /// A tmpfs with the image of the mounted file system.
    behind: Option<Box<Mount>>,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

impl Mount {
    /// A tmpfs of this size, or `None` where mounting is not allowed.
    pub fn tmpfs(size: &str) -> Option<Mount> {
        let dir = tempfile::tempdir().ok()?;
        let is_mounted = run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none", dir.path().to_str()?]);
        if !is_mounted {
            eprintln!("skipped: mounting a tmpfs needs root");
        }
        is_mounted.then_some(Mount { dir, behind: None })
    }

    /// An ext4 of this size on a loop device over a sparse image in a tmpfs, or `None` where that is not possible.
    pub fn ext4(size: &str) -> Option<Mount> {
        let behind = Mount::tmpfs("80m")?;
        let image = behind.image();
        let dir = tempfile::tempdir().ok()?;
        let mount = || {
            run("truncate", &["-s", size, &image])
                && run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])
                && run("mount", &["-o", "loop", &image, dir.path().to_str().unwrap_or_default()])
        };
        if !mount() {
            eprintln!("skipped: no loop device, or no mkfs.ext4");
            return None;
        }
        Some(Mount { dir, behind: Some(Box::new(behind)) })
    }

    fn image(&self) -> String {
        self.path().join("image").display().to_string()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Mounts it again, read-only.
    pub fn read_only(&self) {
        assert!(run("mount", &["-o", "remount,ro", &self.path().display().to_string()]));
    }

    /// From now on the device cannot write: its image loses its pages and gets no new ones.
    pub fn fail(&self) {
        let behind = self.behind.as_ref().expect("only a loop device can fail");
        let _ = Command::new("sync").arg("-f").arg(self.path()).status();
        assert!(run("fallocate", &["-p", "-o", "0", "-l", "1G", &behind.image()]));
        let fill = format!("of={}", behind.path().join("filler").display());
        // Ends when the tmpfs is full.
        run("dd", &["if=/dev/zero", &fill, "bs=64k"]);
        run("dd", &["if=/dev/zero", &format!("{fill}-2"), "bs=4k"]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l", &self.path().display().to_string()]);
    }
}
