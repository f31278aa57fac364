"""Files that are written whole or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of endings, which programs choose formats by; a longer one is part of a name.
_LONGEST_SUFFIX = 16


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file by :func:`draft_of`.

    Args:
        path (Path): an existing file is replaced
        data (bytes): its whole content

    Raises:
        OSError: the file can't be written; an existing one is as before.
    """
    with draft_of(path) as draft:
        draft.write_bytes(data)


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A file to be written in the place of another, which it then replaces.

    Whoever reads ``path`` meanwhile, or after the program was killed, finds the old
    content or the new one. Symbolic links are followed and stay; an existing file keeps
    its permissions and, where the system allows it, its owner. What is no file (a
    device, a pipe) is written to itself.

    Args:
        path (Path): the file

    Yields:
        *Path* of the draft, an empty file in the same folder, with the same ending.

    Raises:
        OSError: the file can't be replaced. Then, and if the block raises, the draft is
            gone and an existing file is as before.
    """
    try:
        existing = os.stat(path)
    except FileNotFoundError:
        existing = None
    if existing is not None and not stat.S_ISREG(existing.st_mode):
        yield path
        return
    target = Path(os.path.realpath(path))
    suffix = path.suffix if len(path.suffix.encode()) <= _LONGEST_SUFFIX else ""
    draft = target.with_name(f".{secrets.token_hex(8)}{suffix}")
    # The system itself takes the umask away. Others can't read the draft of a file that
    # they can't read.
    mode = 0o666 if existing is None else stat.S_IMODE(existing.st_mode) & 0o777
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode | stat.S_IWUSR))
    try:
        yield draft
        _synced(draft)
        if existing is not None:
            _like(existing, draft)
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _synced(path: Path) -> None:
    """Sees to it that the content is on the disk before the name is."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _like(existing: os.stat_result, draft: Path) -> None:
    """Gives a draft the owner and the permissions of what it replaces."""
    own = draft.stat()
    if (own.st_uid, own.st_gid) != (existing.st_uid, existing.st_gid):
        try:
            os.chown(draft, existing.st_uid, existing.st_gid)
        except PermissionError:  # only the superuser gives files away
            pass
    os.chmod(draft, stat.S_IMODE(existing.st_mode))
