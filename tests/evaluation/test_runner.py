"""A run goes on where it was, however it ended, and its tables are the same."""

import json
import multiprocessing
import random
import resource
import shutil
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients
from captum_dexar import VLMForward
from captum_dexar.baselines import (
    LayerAttention,
    LayerRandomMap,
    LayerTokenActivation,
    LayerUniformMap,
)
from captum_dexar.comparison.methods import named_methods
from captum_dexar.evaluation import DamagedSample, EvaluationDataset, ShapesDataset
from captum_dexar.evaluation.protocols import (
    EvaluationProtocol,
    Line,
    LocalizationProtocol,
)
from captum_dexar.evaluation.results_folder import (
    BusyFolderError,
    OtherRunError,
    read_lines,
    read_skipped,
)
from captum_dexar.evaluation.runner import Job, opened_run, run
from captum_dexar.evaluation.summary import write_summary
from captum_dexar.model.layers import find_layers
from captum_dexar.shapes import load_vlm

NUM_SCENES = 8
World = tuple[Any, Any]
# The process that is killed has everything imported and loaded.
forked = multiprocessing.get_context("fork")


@pytest.fixture(name="world", scope="module")
def _world() -> World:
    return load_vlm()


@pytest.fixture(name="job", scope="module")
def _job(world: World) -> Job:
    model, processor = world
    dataset = ShapesDataset(range(NUM_SCENES), processor, model)
    methods = named_methods(["attention-last", "random"], model)
    return Job(dataset, methods, LocalizationProtocol(), model, processor, seed=7)


@pytest.fixture(name="whole", scope="module")
def _whole(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(job, folder)
    write_summary(folder)
    return folder


def tables(folder: Path) -> list[bytes]:
    write_summary(folder)
    return [(folder / name).read_bytes() for name in ("summary.md", "summary.csv")]


def without_times(folder: Path) -> list[dict[str, Any]]:
    """The lines, sorted; times differ from run to run."""
    lines = [json.loads(line.to_json()) for line in read_lines(folder)]
    for line in lines:
        del line["seconds"]
    return sorted(lines, key=lambda one: (one["sample"], one["method"]))


def copied(whole: Path, folder: Path) -> Path:
    """The folder of a run without its tables."""
    folder.mkdir()
    for name in ("results.jsonl", "skipped.jsonl", "run.json"):
        shutil.copy(whole / name, folder)
    return folder


def test_twenty_kills_change_nothing(job: Job, whole: Path, tmp_path: Path) -> None:
    started = time.perf_counter()
    run(job, tmp_path / "timed")
    taken = time.perf_counter() - started
    out, moments, killed = tmp_path / "out", random.Random(3), 0
    for _ in range(20):
        process = forked.Process(target=run, args=(job, out))
        process.start()
        # Long enough altogether to be killed in every part of the run.
        process.join(moments.uniform(0, taken / 5))
        killed += process.is_alive()
        process.kill()
        process.join()
    assert killed >= 5
    run(job, out)
    assert without_times(out) == without_times(whole)
    assert tables(out) == tables(whole)


def test_a_torn_line_is_measured_again(job: Job, whole: Path, tmp_path: Path) -> None:
    text = (whole / "results.jsonl").read_bytes()
    cuts = random.Random(4).sample(range(len(text) - 600, len(text)), 4)
    for cut in [0, *cuts, len(text) - 1]:
        out = copied(whole, tmp_path / str(cut))
        (out / "results.jsonl").write_bytes(text[:cut])
        before = list(read_lines(out))
        assert len(before) == text[:cut].count(b"\n")
        if cut:
            run(job, out)
            assert (out / "results.jsonl").read_bytes().count(b"\n") == 2 * NUM_SCENES
            assert list(read_lines(out))[: len(before)] == before
            assert tables(out) == tables(whole)


def test_what_is_missing_is_measured_in_any_order(
    job: Job, whole: Path, tmp_path: Path
) -> None:
    """Lines of single methods as well; random maps have their sample's own seed."""
    lines = (whole / "results.jsonl").read_text().splitlines(keepends=True)
    random.Random(5).shuffle(lines)
    out = copied(whole, tmp_path / "out")
    (out / "results.jsonl").write_text("".join(lines[5:]))
    assert tables(out)[0] != tables(whole)[0]
    assert "**Not finished**" in (out / "summary.md").read_text()
    run(job, out)
    assert (out / "results.jsonl").read_text().startswith("".join(lines[5:]))
    assert without_times(out) == without_times(whole)
    assert tables(out) == tables(whole)
    maps = [line.values for line in read_lines(out) if "Random" in line.method]
    assert all(maps.count(values) == 1 for values in maps)


class Untouchable(ShapesDataset):
    """The scenes, none of which may be drawn."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("measured again")


def test_a_finished_run_is_not_measured_again(
    job: Job, whole: Path, tmp_path: Path
) -> None:
    out = copied(whole, tmp_path / "out")
    dataset = Untouchable(range(NUM_SCENES), job.processor, job.model)
    before = (out / "results.jsonl").read_bytes()
    run(_changed(job, dataset=dataset), out)
    assert (out / "results.jsonl").read_bytes() == before
    assert tables(out) == tables(whole)


def _changed(job: Job, **fields: Any) -> Job:
    return Job(**{**vars(job), **fields})


def test_another_run_is_refused(job: Job, whole: Path, tmp_path: Path) -> None:
    model, processor = load_vlm()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    out = copied(whole, tmp_path / "out")
    before = sorted((one.name, one.read_bytes()) for one in out.iterdir())
    other_methods = named_methods(["random"], job.model)
    first_layer = LayerAttention(job.model, find_layers(job.model)[0])
    other_layer = {**job.methods, "Attention, last layer": (first_layer, {})}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seed": 8}, "seed was 7, and is now 8"),
        ({"model": model}, r"model\.fingerprint was .*, and is now"),
        ({"methods": other_methods}, "methods had .*Attention, last layer"),
        ({"methods": other_layer}, r"last layer\.layers was .*4.*, and is now .*0"),
        (
            {"protocol": LocalizationProtocol(gen_args={"max_new_tokens": 3})},
            r'protocol\.gen_args was null, and is now \{"max_new_tokens": 3\}',
        ),
        (
            {"dataset": ShapesDataset(range(1), processor)},
            r"dataset\.samples was 8, and is now 1; dataset\.seeds was",
        ),
    ]
    for fields, message in cases:
        with pytest.raises(OtherRunError, match=message):
            run(_changed(job, **fields), out)
    (out / ".lock").unlink(missing_ok=True)
    assert sorted((one.name, one.read_bytes()) for one in out.iterdir()) == before


def test_what_methods_are_made_with_is_a_part_of_the_run(
    world: World,
) -> None:
    model, processor = world
    made = {
        name: Job(
            ShapesDataset(range(1), processor),
            {"one": method},
            LocalizationProtocol(),
            model,
            processor,
        ).description()["methods"]["one"]["settings"]
        for name, method in {
            "question": LayerTokenActivation(model),
            "all": LayerTokenActivation(model, context="all"),
            "global": IntegratedGradients(VLMForward(model)),
            "local": IntegratedGradients(VLMForward(model), multiply_by_inputs=False),
        }.items()
    }
    assert made == {
        "question": {"context": "question"},
        "all": {"context": "all"},
        "global": {"multiply_by_inputs": True},
        "local": {"multiply_by_inputs": False},
    }


def test_other_versions_are_told(job: Job, whole: Path, tmp_path: Path) -> None:
    out = copied(whole, tmp_path / "out")
    said = json.loads((out / "run.json").read_text())
    said["versions"]["torch"] = "1.0"
    (out / "run.json").write_text(json.dumps(said))
    with pytest.warns(UserWarning, match=r'versions\.torch was "1\.0", and is now'):
        run(job, out)


def test_one_process_at_a_time(job: Job, tmp_path: Path) -> None:
    numbers = _changed(job, dataset=Numbers(2), protocol=Calling(len))
    with opened_run(numbers, tmp_path):
        with pytest.raises(BusyFolderError, match="Another process is writing"):
            run(numbers, tmp_path)
        process = forked.Process(target=_busy, args=(numbers, tmp_path))
        process.start()
        process.join()
        assert process.exitcode == 5
    run(numbers, tmp_path)


def _busy(job: Job, out: Path) -> None:
    try:
        run(job, out)
    except BusyFolderError:
        raise SystemExit(5) from None


class PartlyDamaged(ShapesDataset):
    """The second scene and the last can't be read."""

    tried: list[int] = []

    def __getitem__(self, index: int) -> Any:
        if index in (1, len(self) - 1):
            self.tried.append(index)
            raise DamagedSample(self.sample_id(index), "x.png", "no image")
        return super().__getitem__(index)


def test_damaged_samples_are_listed(job: Job, tmp_path: Path) -> None:
    dataset = PartlyDamaged(range(4), job.processor, job.model)
    damaged = _changed(job, dataset=dataset)
    with (
        pytest.warns(UserWarning, match="Sample 1 is skipped: no image"),
        pytest.warns(UserWarning, match="Sample 3 is skipped: no image"),
    ):
        run(damaged, tmp_path)
    run(damaged, tmp_path)
    assert dataset.tried == [1, 3]
    noted = {"path": "x.png", "reason": "no image"}
    assert read_skipped(tmp_path) == [{"sample": s, **noted} for s in ("1", "3")]
    assert [line.sample for line in read_lines(tmp_path)] == ["0", "0", "2", "2"]
    summary = write_summary(tmp_path)
    assert summary.is_complete
    assert "2 damaged samples skipped" in summary.markdown()
    assert "- 1: no image" in summary.markdown()


class Failing(LayerUniformMap):
    """Can't explain scenes whose caption is long."""

    def _maps(self, steps: Any) -> Any:
        if steps.num_steps > 16:
            raise RuntimeError("too long\nfor me")
        return super()._maps(steps)


def test_a_method_that_fails_is_told(job: Job, tmp_path: Path) -> None:
    methods: dict[str, Any] = {
        "failing": (Failing(job.model), {}),
        "random": (LayerRandomMap(job.model), {}),
    }
    failing = _changed(job, methods=methods)
    run(failing, tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    run(failing, tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    lines = list(read_lines(tmp_path))
    assert [line.method for line in lines] == ["failing", "random"] * NUM_SCENES
    failed = [line for line in lines if line.error]
    assert 0 < len(failed) < NUM_SCENES
    assert {line.method for line in failed} == {"failing"}
    assert "RuntimeError" in failed[0].error and "too long\nfor me" in failed[0].error
    summary = write_summary(tmp_path)
    assert summary.is_complete
    text = summary.markdown()
    assert f"{len(failed)} measurements failed" in text
    assert f"- failing, {len(failed)} samples: RuntimeError: " in text
    assert all(row.number for row in summary.rows)


def test_a_full_disk_is_told(job: Job, whole: Path, tmp_path: Path) -> None:
    """What was written stays readable, and the run goes on when there is room."""
    room = (whole / "results.jsonl").stat().st_size * 2 // 5
    process = forked.Process(target=_with_room, args=(job, tmp_path, room))
    process.start()
    process.join()
    assert process.exitcode == 6
    text = (tmp_path / "results.jsonl").read_bytes()
    assert text.endswith(b"\n") and 0 < len(text) <= room
    assert len(list(read_lines(tmp_path))) == text.count(b"\n")
    run(job, tmp_path)
    assert tables(tmp_path) == tables(whole)


def _with_room(job: Job, out: Path, room: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        run(job, out)
    except OSError as error:
        text = str(error)
        if "what was measured before is kept" in text and "results.jsonl" in text:
            raise SystemExit(6) from None


def test_a_folder_that_can_not_be_written(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(job, tmp_path / "file" / "out")


def test_a_damaged_file_is_told(job: Job, whole: Path, tmp_path: Path) -> None:
    lines = (whole / "results.jsonl").read_text().splitlines(keepends=True)
    cases = [
        ([lines[0], "{}\n", lines[1]], "results.jsonl, line 2: Expected a JSON object"),
        ([lines[0], lines[1], lines[0]], "line 3: sample 0 has two lines"),
        ([lines[0], "\n", lines[1]], "results.jsonl, line 2: Expecting value"),
        ([lines[0], "\udcff\n", lines[1]], "results.jsonl, line 2: .* decode byte"),
        (
            [lines[0].replace('"sample": "0"', '"sample": "x"')],
            "line 1: the dataset has no sample 'x'",
        ),
    ]
    for number, (damaged, message) in enumerate(cases):
        out = copied(whole, tmp_path / str(number))
        (out / "results.jsonl").write_text("".join(damaged), errors="surrogateescape")
        with pytest.raises(ValueError, match=message):
            run(job, out)
        if "no sample" not in message:
            message = message.replace("line 3: sample", "Sample")
            with pytest.raises(ValueError, match=message):
                write_summary(out)
    out = copied(whole, tmp_path / "run")
    for content in (b"{", b"[]", b"\xff"):
        (out / "run.json").write_bytes(content)
        with pytest.raises(ValueError, match="run.json is damaged"):
            run(job, out)


def test_results_of_an_unknown_run_are_refused(
    job: Job, whole: Path, tmp_path: Path
) -> None:
    """Without run.json they could be those of another model."""
    out = copied(whole, tmp_path / "out")
    (out / "run.json").unlink()
    with pytest.raises(OtherRunError, match="holds results.jsonl but no run.json"):
        run(job, out)
    assert not (out / "run.json").exists()
    (out / "results.jsonl").write_bytes(b"")
    with opened_run(job, out) as writer:
        assert not writer.done.any()


def test_names_that_are_no_text(job: Job, tmp_path: Path) -> None:
    """Half a character, as Python reads other bytes in the names of files."""

    def failing(sample: str) -> None:
        raise ValueError("no file \udcff")

    dataset = Numbers(1)
    dataset.sample_id = lambda index: "\udcff"  # type: ignore[method-assign]
    odd = _changed(job, dataset=dataset, protocol=Calling(failing))
    run(odd, tmp_path)
    run(odd, tmp_path)
    lines = list(read_lines(tmp_path))
    assert [line.sample for line in lines] == ["\udcff"] * 2
    write_summary(tmp_path)
    assert "no file \\udcff" in (tmp_path / "summary.md").read_text(encoding="utf-8")


class Numbers(EvaluationDataset):
    """Samples without an image."""

    name = "numbers"

    def __init__(self, number: int, same: bool = False) -> None:
        self.number, self.same = number, same

    def __len__(self) -> int:
        return self.number

    def sample_id(self, index: int) -> str:
        return "same" if self.same else str(index)

    def __getitem__(self, index: int) -> Any:
        return None, None, []


class Calling(EvaluationProtocol):
    """Calls a function per sample, whose answer is the line's details."""

    name = "calling"

    def __init__(self, call: Callable[[str], Any]) -> None:
        self.call = call

    def description(self) -> dict[str, Any]:
        return {"name": self.name}

    def measure(
        self,
        methods: Any,
        example: Any,
        processor: Any,
        *,
        sample: str,
        image: str,
        seed: int,
    ) -> Iterator[Line]:
        for name in methods:
            details = {"found": self.call(sample)}
            yield Line(sample, image, name, 0.0, {"": {"seed": [seed]}}, {}, details)


def test_memory_does_not_grow(job: Job, tmp_path: Path) -> None:
    protocol = Calling(lambda sample: sample.rjust(100_000))
    long = _changed(job, dataset=Numbers(300), protocol=protocol)
    tracemalloc.start()
    run(long, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    assert (tmp_path / "results.jsonl").stat().st_size > 60_000_000
    write_summary(tmp_path)
    _, later = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000 and later < 25_000_000


def test_an_interruption_leaves_whole_lines(job: Job, tmp_path: Path) -> None:
    def interrupted(sample: str) -> int:
        if sample == "2":
            raise KeyboardInterrupt
        return 0

    numbers = _changed(job, dataset=Numbers(4), protocol=Calling(interrupted))
    with pytest.raises(KeyboardInterrupt):
        run(numbers, tmp_path)
    assert [line.sample for line in read_lines(tmp_path)] == ["0", "0", "1", "1"]
    run(_changed(numbers, protocol=Calling(lambda sample: 0)), tmp_path)
    seeds = [line.values[""]["seed"] for line in read_lines(tmp_path)]
    assert seeds == [[7], [7], [8], [8], [9], [9], [10], [10]]


@pytest.mark.parametrize("kind", [ImportError, MemoryError, OSError])
def test_what_fails_for_every_sample_ends_the_run(
    job: Job, tmp_path: Path, kind: type[Exception]
) -> None:
    def failing(sample: str) -> None:
        raise kind("no")

    with pytest.raises(kind, match="no"):
        run(_changed(job, dataset=Numbers(2), protocol=Calling(failing)), tmp_path)
    assert not list(read_lines(tmp_path))


def test_datasets_that_can_not_be_run(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The dataset has no sample"):
        run(_changed(job, dataset=Numbers(0)), tmp_path)
    with pytest.raises(ValueError, match="Two samples of the dataset have the same"):
        run(_changed(job, dataset=Numbers(2, same=True)), tmp_path)


class Broken(LayerUniformMap):
    """Raises while it explains; a note on the error has the method's name."""

    kind: type[BaseException] = MemoryError

    def _maps(self, steps: Any) -> Any:
        raise self.kind("no more")


@pytest.mark.parametrize(
    "kind",
    [
        ImportError,
        MemoryError,
        OSError,
        *([torch.AcceleratorError] if hasattr(torch, "AcceleratorError") else []),
    ],
)
def test_what_fails_within_a_method_ends_the_run_too(
    job: Job, tmp_path: Path, kind: type[BaseException]
) -> None:
    """Nothing is recorded, so the same call measures it when the reason is gone."""
    method = Broken(job.model)
    method.kind = kind
    broken = _changed(job, methods={"x": (method, {})})
    with pytest.raises(kind, match="no more") as raised:
        run(broken, tmp_path)
    assert "x could not explain the answer" in vars(raised.value)["__notes__"]
    assert not list(read_lines(tmp_path))


def test_methods_without_arguments(job: Job) -> None:
    """As in ``compare`` and ``evaluate``."""
    method = LayerUniformMap(job.model)
    assert _changed(job, methods={"x": method}).methods == {"x": (method, {})}
    with pytest.raises(ValueError, match="There is no method"):
        _changed(job, methods={})
