"""Which file system a folder lies on, and those on which the catalog would be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lagar.errors import HomeError

NETWORK_DISKS: Final = (
    "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "ceph", "glusterfs",
    "lustre", "beegfs", "gpfs", "ocfs2", "gfs", "gfs2", "orangefs", "pvfs2", "drvfs", "davfs", "fuse.sshfs",
    "fuse.glusterfs", "fuse.cephfs", "fuse.ceph-fuse", "fuse.s3fs", "fuse.goofys", "fuse.gcsfuse", "fuse.rclone",
    "fuse.mount-s3", "fuse.blobfuse", "fuse.blobfuse2", "fuse.davfs", "fuse.juicefs", "fuse.nfs",
)  # fmt: skip
"""File systems on which the shared memory of a write-ahead log does not work between machines, or at all."""


def refuse_network_disk(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Raise HomeError when path lies on a network file system: SQLite's log would be corrupted there."""
    kind = disk_kind(path, mounts)
    if kind in NETWORK_DISKS:
        raise HomeError(
            f"the home {path} lies on a network disk ({kind}), where the catalog would be damaged: "
            "set LAGAR_HOME to a folder on a local disk"
        )


def disk_kind(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system under path (ext4, nfs4, …), None where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = path.resolve()
    best: tuple[int, str] | None = None
    for line in lines:
        left, _, right = line.partition(" - ")
        parts = left.split(" ")
        if len(parts) < 5 or not right:
            continue
        point = Path(parts[4].encode("latin-1", "surrogateescape").decode("unicode_escape", "replace"))
        # the last of equally deep ones lies on top
        if real.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), right.split(" ")[0])
    return best[1] if best else None
