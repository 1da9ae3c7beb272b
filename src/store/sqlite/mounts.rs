//! Which file systems are not one host's own.

use std::path::Path;

/// File systems whose clients do not share memory, or whose locks are not to be trusted. SQLite's
/// write-ahead log needs both.
const NETWORK: [&str; 22] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// The network file system that holds `directory` (absolute, without links), if one does. Linux
/// alone tells; elsewhere the answer is `None`.
pub(super) fn network_filesystem(directory: &Path) -> Option<&'static str> {
    let mounts = std::fs::read("/proc/self/mounts").ok()?;
    network_mount(&String::from_utf8_lossy(&mounts), directory)
}

fn network_mount(mounts: &str, directory: &Path) -> Option<&'static str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((unescape(fields.next()?), fields.next()?))
    });
    // The longest mount point holds the directory; of equal ones the last, which covers the others.
    let holding = mounts.filter(|(point, _)| directory.starts_with(point));
    let (_, kind) = holding.max_by_key(|(point, _)| Path::new(point).components().count())?;
    NETWORK.into_iter().find(|network| *network == kind)
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    field.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n").replace(r"\134", r"\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        /dev/sda / ext4 rw 0 0\n\
        server:/export /srv/chat nfs4 rw,vers=4.2 0 0\n\
        tmpfs /srv/chat/local tmpfs rw 0 0\n\
        me@host: /mnt/with\\040space fuse.sshfs rw 0 0\n\
        /dev/sdb /mnt/covered ext4 rw 0 0\n\
        //server/share /mnt/covered cifs rw 0 0\n";

    #[test]
    fn the_innermost_mount_decides() {
        let network = |path: &str| network_mount(MOUNTS, Path::new(path));
        assert_eq!(network("/var/lib/chat"), None);
        assert_eq!(network("/srv/chat"), Some("nfs4"));
        assert_eq!(network("/srv/chat/deep/er"), Some("nfs4"));
        assert_eq!(network("/srv/chat/local"), None);
        assert_eq!(network("/srv/chatter"), None, "names are compared whole");
        assert_eq!(network("/mnt/with space/x"), Some("fuse.sshfs"));
        assert_eq!(network("/mnt/covered"), Some("cifs"), "the later mount covers the earlier");
    }

    #[test]
    fn junk_is_no_network() {
        assert_eq!(network_mount("", Path::new("/x")), None);
        assert_eq!(network_mount("one\n\n two", Path::new("/x")), None);
    }
}
