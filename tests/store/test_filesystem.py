from pathlib import Path

import pytest

from autoprune.store.database import is_local_type, mounted_type

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/me/scratch xfs rw 0 0
user@host: /mnt/my\\040files fuse.sshfs rw 0 0
tmpfs /tmp tmpfs rw 0 0
overlay /tmp overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("/data/run", "ext4", True),
        ("/home/me/runs/r1", "nfs4", False),
        ("/home/me/scratch/r1", "xfs", True),  # the deepest mount point counts
        ("/homework", "ext4", True),  # not below /home
        ("/mnt/my files/r1", "fuse.sshfs", False),
        ("/tmp/x", "overlay", True),  # the later mount covers the earlier one
    ],
)
def test_the_deepest_and_latest_mount_decides(path: str, kind: str, local: bool) -> None:
    """Which file system holds a path is read off a mount table; network and user-space ones are not local."""
    assert mounted_type(Path(path), MOUNTS) == kind
    assert is_local_type(kind) is local


def test_a_disk_in_user_space_is_local() -> None:
    """``fuseblk`` is NTFS on a disk, not a network."""
    assert is_local_type("fuseblk")
