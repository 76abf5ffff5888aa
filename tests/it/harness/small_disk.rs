//! A disk that is soon full.

use std::{fs, path::PathBuf, process::Command};

/// A small file system of its own; unmounted with the value.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// `None` when this process may not mount.
    pub fn mount(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&at).expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(at))
    }

    /// Gives it another size.
    pub fn grow(&self, size: &str) {
        let remount = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &remount]).arg(&self.0).status().expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Fails only when something still uses it, and then the directory stays.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
