"""Where a folder lives: SQLite's write-ahead log needs memory shared by all its users, so a local file system."""

from __future__ import annotations

from pathlib import Path

_SHARED = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
)
_MOUNTS = Path("/proc/self/mounts")


def is_local(path: Path) -> bool:
    """Say whether ``path`` is on a file system of this machine; where no one can tell, assume that it is."""
    if not _MOUNTS.exists():
        return True
    return is_local_type(mounted_type(path.resolve(), _MOUNTS.read_text(encoding="utf-8")))


def is_local_type(kind: str) -> bool:
    """Say whether a file system of this kind (third column of the mount table) is local.

    File systems in user space (sshfs, object stores) rarely share memory between their users; ``fuseblk`` is a disk.
    """
    return kind not in _SHARED and not kind.startswith("fuse.")


def mounted_type(path: Path, mounts: str) -> str:
    """Return the kind of file system that holds ``path``, given the text of a mount table; "" when none does.

    Args:
        path: absolute path.
        mounts: lines of ``device mount-point kind options ...``; later lines cover earlier ones.
    """
    found, depth = "", -1
    for line in mounts.splitlines():
        columns = line.split()
        if len(columns) < 3:
            continue
        point = Path(columns[1].replace("\\040", " "))  # the table writes blanks in octal
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = columns[2], len(point.parts)
    return found
