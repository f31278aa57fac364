"""Annotations are read one at a time, whatever their number."""

import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from captum_dexar.evaluation.datasets import vqav2
from captum_dexar.evaluation.datasets.annotation_index import (
    AnnotationIndex,
    IndexWriter,
    json_entries,
)


def _write(path: Path, count: int) -> None:
    """As many questions, without a list of them in memory."""
    with path.open("w") as file:
        file.write('{"info": {"year": 2014}, "questions": [')
        for number in range(count):
            comma = "," if number else ""
            file.write(
                f'{comma} {{"image_id": {number // 5}, "question": "what is it ?", '
                f'"question_id": {number}}}'
            )
        file.write('], "data_subtype": "val2014"}')


def _peak(path: Path, count: int) -> int:
    """The most bytes of Python objects while the index is written and read."""
    _write(path, count)
    tracemalloc.start()
    try:
        index = AnnotationIndex(partial(vqav2._fill_index, path, None))
        assert len(index) == count
        last = index.sample(count - 1)
        assert last == (str(count - 1), str((count - 1) // 5), "what is it ?")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    _peak(path, 2_000)
    few, many = _peak(path, 2_000), _peak(path, 20_000)
    # As objects, 18,000 more questions would take several MB.
    assert many < few + 100_000


def _nothing(writer: IndexWriter) -> None:
    writer.add_sample("a", "b", [1, {"c": None}])
    writer.add_detail("x", 1, "first")
    writer.add_detail("y", 1, "other kind")
    writer.add_detail("x", 2, "other key")
    writer.add_detail("x", 1, "second")
    assert writer.details("x", 1) == ["first", "second"]


def test_what_is_written_is_read() -> None:
    index = AnnotationIndex(_nothing)
    assert index.sample(0) == ("a", "b", [1, {"c": None}])
    assert index.details("x", 1) == ["first", "second"]
    assert index.details("x", 3) == []
    with pytest.raises(IndexError, match="1 samples, got 1"):
        index.sample(1)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = "captum_dexar.evaluation.datasets.annotation_index._SETTINGS"
    monkeypatch.setattr(full, "PRAGMA max_page_count = 20;")
    path = tmp_path / "questions.json"
    _write(path, 10_000)
    with pytest.raises(OSError, match="disk is full. Set the environment variable TMP"):
        AnnotationIndex(partial(vqav2._fill_index, path, None))


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "questions.json"
    _write(path, 5_000)
    index = AnnotationIndex(partial(vqav2._fill_index, path, None))
    assert index.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(1 for _ in json_entries(path, "questions", {"image_id": int})) == 5_000
