"""The samples of a dataset and their annotations, in a temporary file on disk."""

import hashlib
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

_TABLES = """
CREATE TABLE samples (
    position INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, image TEXT, data TEXT
);
CREATE TABLE details (kind TEXT, key INTEGER, data TEXT);
CREATE INDEX details_of ON details (kind, key);
"""
# Nothing is lost with the file but the time to write it again.
_SETTINGS = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"


class IndexWriter:
    """What fills an :class:`AnnotationIndex`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._digest = hashlib.sha256()
        self.count = 0

    def add_sample(
        self, sample_id: str, image_id: str, data: Any, source: Path | None = None
    ) -> None:
        """Adds a sample after the last one; ``data`` are JSON values, and ``source``
        is the file that lists it, for the error.

        Raises:
            ValueError: there is a sample of this id already.
        """
        row = (self.count, sample_id, image_id, json.dumps(data))
        try:
            self._connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            where = "" if source is None else f" in {source}"
            raise ValueError(
                f"The sample {sample_id!r} is listed twice{where}. Remove one."
            ) from None
        self.count += 1

    def add_detail(self, kind: str, key: int, data: Any) -> None:
        """Adds what :meth:`AnnotationIndex.details` returns for a kind and key."""
        row = (kind, key, json.dumps(data))
        self._connection.execute("INSERT INTO details VALUES (?, ?, ?)", row)

    def details(self, kind: str, key: int) -> list[Any]:
        """The details of a kind and key that were added so far."""
        return _details(self._connection, kind, key)

    def add_to_digest(self, content: bytes) -> None:
        """Adds a part of what the index is made from to its digest."""
        self._digest.update(content)

    @property
    def digest(self) -> str:
        """The digest of all that was added to it, hexadecimal."""
        return self._digest.hexdigest()


Fill: TypeAlias = Callable[[IndexWriter], None]


class AnnotationIndex:
    """The samples of a dataset and their annotations, in a temporary file on disk.

    Memory does not grow with their number. A pickled index reads the same file if it is
    unpickled on the same machine while the first one lives; else it makes its own.

    Args:
        fill (callable): adds all samples and details to an :class:`IndexWriter`; a
            function that can be pickled

    Attributes:
        digest (str): digest of the annotations, the same wherever they are

    Raises:
        OSError: the temporary file can't be written.
    """

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        self._write()

    def __len__(self) -> int:
        return self._count

    def sample(self, position: int) -> tuple[str, str, Any]:
        """Id, image id and data of a sample."""
        query = "SELECT id, image, data FROM samples WHERE position = ?"
        found = self._connection().execute(query, (position,)).fetchone()
        if found is None:
            raise IndexError(f"There are {len(self)} samples, got {position}.")
        return found[0], found[1], json.loads(found[2])

    def details(self, kind: str, key: int) -> list[Any]:
        """All details of a kind and key, in the order in which they were added."""
        return _details(self._connection(), kind, key)

    def _write(self) -> None:
        # Removed with this object, or when Python ends.
        self._folder = tempfile.TemporaryDirectory(prefix="captum-dexar-")
        self._path = Path(self._folder.name, "annotations.sqlite")
        self._local = threading.local()
        connection = sqlite3.connect(self._path)
        try:
            connection.executescript(_SETTINGS + _TABLES)
            writer = IndexWriter(connection)
            self._fill(writer)
            connection.commit()
        except sqlite3.OperationalError as error:
            raise OSError(
                f"The index of the annotations can't be written to {self._path}: "
                f"{error}. Set the environment variable TMPDIR to another folder."
            ) from error
        finally:
            connection.close()
        self._count = writer.count
        self.digest = writer.digest

    def _connection(self) -> sqlite3.Connection:
        # A connection works in the process and the thread that opened it only.
        if getattr(self._local, "process", None) != os.getpid():
            address = f"{self._path.as_uri()}?mode=ro"
            self._local.connection = sqlite3.connect(address, uri=True)
            self._local.process = os.getpid()
        connection: sqlite3.Connection = self._local.connection
        return connection

    def __getstate__(self) -> dict[str, Any]:
        local = ("_folder", "_local")
        return {k: value for k, value in self.__dict__.items() if k not in local}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()
        if self._path.exists():
            return
        self._write()
        if self.digest != state["digest"]:
            raise ValueError(
                "The annotations on this machine are not those that the dataset was "
                "made with: their digests differ. Copy them again."
            )


def _details(connection: sqlite3.Connection, kind: str, key: int) -> list[Any]:
    query = "SELECT data FROM details WHERE kind = ? AND key = ? ORDER BY rowid"
    rows: Sequence[tuple[str]] = connection.execute(query, (kind, key)).fetchall()
    return [json.loads(data) for (data,) in rows]


def json_entries(
    path: Path,
    key: str,
    required: Mapping[str, type | tuple[type, ...]],
    digest: IndexWriter | None = None,
) -> Iterator[dict[str, Any]]:
    """The entries of a list in a JSON file, one at a time.

    Args:
        path (Path): the file, which holds an object
        key (str): the name of the list in it
        required (Mapping): what every entry has: the type, or types, by name
        digest (IndexWriter, optional): gets the content of the file for its digest.
            Default: None

    Raises:
        ImportError: ijson is not installed.
        ValueError: the file is no JSON, or of another layout.
    """
    try:
        import ijson
    except ImportError as error:
        raise ImportError(
            "Annotations in JSON are read with ijson, which is not installed: pip "
            'install "captum-dexar[evaluation]".'
        ) from error
    count = 0
    with path.open("rb") as file:
        source = _Read(file, digest)
        try:
            for entry in ijson.items(source, f"{key}.item", use_float=True):
                _check_entry(entry, path, key, count, required)
                yield entry
                count += 1
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is damaged: it is not valid JSON ({error}). Download it again."
            ) from error
    if not count:
        raise ValueError(
            f"{path} is not in the published layout: its top level must be an object "
            f"with a list {key!r}, which is missing or empty."
        )


class _Read:
    """A file of which every part that is read counts for a digest."""

    def __init__(self, file: Any, writer: IndexWriter | None) -> None:
        self._file = file
        self._writer = writer

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._file.read(size)
        if self._writer is not None:
            self._writer.add_to_digest(content)
        return content


def _check_entry(
    entry: Any,
    path: Path,
    key: str,
    count: int,
    required: Mapping[str, type | tuple[type, ...]],
) -> None:
    wrong = list(required)
    if isinstance(entry, dict):
        wrong = [
            k
            for k, kind in required.items()
            # True and False are numbers in Python, but none in JSON.
            if not isinstance(entry.get(k), kind) or isinstance(entry[k], bool)
        ]
    if wrong:
        raise ValueError(
            f"{path} is not in the published layout: in entry {count} of {key!r}, "
            f"{' and '.join(map(repr, wrong))} must be there and have the published "
            "type."
        )
