//! Creates the log's directory, and finds out whether its file system is a network file system, or full.
//!
//! The write-ahead log needs shared memory between connections, and reliable locks and syncs. A network file system may
//! accept the calls and not do what they promise (<https://sqlite.org/wal.html>,
//! <https://sqlite.org/faq.html#q5>). A trial would not show the failure, so the type of the file system decides.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// The types of network file systems, as Linux names them in the table of mounts.
const NETWORK: [&str; 14] = [
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "vboxsf",
];
/// The types of network file systems that run in user space. Before these names, Linux writes `fuse.`.
const NETWORK_FUSE: [&str; 10] =
    ["ceph", "cephfs", "davfs2", "gcsfuse", "glusterfs", "juicefs", "mount-s3", "rclone", "s3fs", "sshfs"];

/// How many bytes to write to see whether the disk is full: the log's files grow by about as much at once.
const TRIAL_BYTES: usize = 64 << 10;

/// The type of the network file system that `directory` is on; `None` when it is on a local one. Only Linux has the
/// table of mounts that tells, so on other systems it is always `None`.
pub(super) fn network_kind(directory: &Path) -> io::Result<Option<String>> {
    let device = fs::metadata(directory)?.dev();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Ok(kind_of_device(&mounts, device).filter(|kind| is_network(kind)).map(str::to_owned))
}

fn is_network(kind: &str) -> bool {
    match kind.strip_prefix("fuse.") {
        Some(kind) => NETWORK_FUSE.contains(&kind),
        None => NETWORK.contains(&kind),
    }
}

/// The type of the file system on `device`. `mounts` is the text of the table of mounts (`proc_pid_mountinfo(5)`).
fn kind_of_device(mounts: &str, device: u64) -> Option<&str> {
    // The encoding of glibc. The table has both parts in decimal.
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    let device = format!("{major}:{minor}");
    for line in mounts.lines() {
        // The number of fields before the dash varies.
        if let Some((mount, source)) = line.split_once(" - ")
            && mount.split(' ').nth(2) == Some(device.as_str())
        {
            return source.split(' ').next();
        }
    }
    None
}

/// Creates `path` and its missing parents. Syncs each parent, because a new name survives a power cut only then.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directory(parent)?;
    }
    fs::create_dir(path)?;
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Makes the names in the directory `path` survive a power cut.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Whether the disk of `directory` is full. Only an attempt to write a file can tell.
pub(super) fn is_full(directory: &Path) -> bool {
    let path = directory.join("room");
    let written = fs::write(&path, vec![0; TRIAL_BYTES]);
    // A file that is left over would make the next trial useless: it can be overwritten without new space.
    fs::remove_file(&path).ok();
    written.is_err_and(|error| is_full_error(&error))
}

/// Whether the error says that the disk is full, or that a quota is used up.
pub(super) fn is_full_error(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
28 1 254:16 / / rw,relatime shared:1 - ext4 /dev/vdb rw
31 28 0:27 / /dev/shm rw,nosuid,nodev - tmpfs tmpfs rw
57 28 0:45 / /mnt/nas rw,relatime shared:30 master:2 - nfs4 nas:/export rw,vers=4.2
58 28 0:46 / /mnt/with\\040blank rw,relatime - fuse.sshfs host:/ rw
59 28 0:47 / /var/lib/overlay rw,relatime - overlay overlay rw,lowerdir=/a - b
60 28 259:1048577 / /big rw - xfs /dev/nvme0n1p1 rw
";

    #[test]
    fn the_type_is_found_by_the_device() {
        // Goal: for mounts with different numbers of options, and for large device numbers.
        let large = (259 << 8) | (1 << 32);
        let devices = [(21, "proc"), (254 << 8 | 16, "ext4"), (45, "nfs4"), (46, "fuse.sshfs"), (47, "overlay")];
        for (device, expected) in devices.into_iter().chain([(large | 1, "xfs")]) {
            assert_eq!(kind_of_device(MOUNTS, device), Some(expected), "{device:#x}");
        }
        assert_eq!(kind_of_device(MOUNTS, 99), None, "a device that the table does not have is not refused");
        assert_eq!(kind_of_device("", 21), None);
        assert_eq!(kind_of_device("torn", 21), None);
    }

    #[test]
    fn network_file_systems_are_refused_and_local_ones_are_not() {
        // Goal: each type in the list is refused, and no local type is.
        assert!(NETWORK.is_sorted() && NETWORK.iter().all(|kind| is_network(kind)));
        assert!(NETWORK_FUSE.is_sorted() && NETWORK_FUSE.iter().all(|kind| is_network(&format!("fuse.{kind}"))));
        for local in
            ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "fuseblk", "fuse.gocryptfs", "virtiofs"]
        {
            assert!(!is_network(local), "{local}");
        }
        for directory in [".", "/", "/dev/shm", "/tmp"].map(Path::new).into_iter().filter(|path| path.is_dir()) {
            assert_eq!(network_kind(directory).expect("its type"), None, "{}", directory.display());
        }
    }
}
