"""Saving: the old file or the new one, never a part, and never another kind of file."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.cli.reports import write_csv
from captum_dexar.evaluation.results_folder import replace_text
from captum_dexar.result import whole_file
from captum_dexar.result.whole_file import draft_of, write_whole
from tests.result.test_result import make_result

resource = pytest.importorskip("resource", reason="there are no limits on Windows")

# All that write files of a user's, with more than the disk below has room for.
WRITERS: dict[str, Callable[[Path], object]] = {
    "save": lambda path: make_result(token_attr=torch.ones(5, 8)).save(path),
    "save_regions": lambda path: make_result().save_regions(path),
    "tables of an evaluation": lambda path: replace_text(path, "a" * 10_000),
    "bytes": lambda path: write_whole(path, bytes(10_000)),
}


@contextmanager
def no_more_room(size: int = 100) -> Iterator[None]:
    """Within it no file grows beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_oserror_and_the_old_file_stays(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "answer.dexar"
    path.write_bytes(b"before")
    with no_more_room(), pytest.raises(OSError) as raised:
        WRITERS[name](path)
    assert type(raised.value) is OSError and raised.value.errno
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), draft_of(path) as draft:
        write_csv(draft, ["a"], [])
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "answer.dexar"
    path.write_bytes(b"before")
    program = """
        import os, runpy, signal, sys
        from pathlib import Path

        draft_of = runpy.run_path(sys.argv[1])["draft_of"]
        with draft_of(Path(sys.argv[2])) as draft:
            draft.write_bytes(b"a part")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), whole_file.__file__]
    command.append(str(path))
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"before"


def test_symbolic_links_stay(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for target in (other / "there", other / "not there yet"):
        link = tmp_path / f"link to {target.name}"
        link.symlink_to(target)
        if target.name == "there":
            target.write_bytes(b"before")
        make_result().save(link)
        assert link.is_symlink() and not target.is_symlink()
        assert VLMAttributionResult.load(target) == make_result()
    assert len(list(other.iterdir())) == 2


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    """A pipe here; devices are the same, but only the superuser makes them."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    make_result().save(pipe)
    (tmp_path / "read").write_bytes(reader.communicate()[0])
    assert VLMAttributionResult.load(tmp_path / "read") == make_result()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    make_result().save(Path(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o664, 0o400])
def test_permissions_stay(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "answer.dexar"
    path.write_bytes(b"before")
    path.chmod(mode)
    make_result().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    with draft_of(path) as draft:
        # Nobody else reads what is not finished either.
        assert stat.S_IMODE(draft.stat().st_mode) & 0o077 == mode & 0o077 & ~umask()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_is_made_as_the_umask_says(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        make_result().save(tmp_path / "answer.dexar")
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "answer.dexar").stat().st_mode)
    assert mode == 0o666 & ~mask


def test_the_umask_of_other_threads_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(mask: int) -> int:
        raise AssertionError("the umask belongs to the whole process")

    monkeypatch.setattr(os, "umask", touched)
    make_result().save(tmp_path / "answer.dexar")


@pytest.mark.parametrize("length", [1, 200, 252, 255])
def test_long_names(tmp_path: Path, length: int) -> None:
    for name in ("x" * length, f"{'x' * (length - 1)}.", f".{'x' * (length - 1)}"):
        if name != "." and name != "..":
            make_result().save(tmp_path / name)
            assert (tmp_path / name).is_file()


@pytest.mark.parametrize("place", ["nowhere/answer.dexar", ".", "file/answer.dexar"])
def test_where_no_file_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        make_result().save(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
