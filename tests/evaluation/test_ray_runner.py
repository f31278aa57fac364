"""The evaluation on a local Ray cluster gives the tables of a single process."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar.cli import main
from captum_dexar.evaluation import DamagedSample, ShapesDataset
from captum_dexar.evaluation.dataset import Example
from captum_dexar.evaluation.protocols import LocalizationProtocol
from captum_dexar.evaluation.ray_runner import run_on_ray, Workers
from captum_dexar.evaluation.results_folder import read_lines, read_skipped
from captum_dexar.evaluation.runner import Job, measured_lines, opened_run, run
from captum_dexar.evaluation.summary import write_summary

ray = pytest.importorskip("ray", reason="Ray is not installed: captum-dexar[ray]")
pytest.importorskip("ray.data", reason="Ray Data is not installed: captum-dexar[ray]")

TABLES = ("summary.md", "summary.csv")
SAMPLES = 16
DAMAGED, DEADLY = 5, 8


class Scenes(ShapesDataset):
    """Scenes of which one is damaged.

    Args:
        record: a folder in which a file is made for each sample that is measured; it
            holds the numbers of the GPUs that the process may use
        deaths: how often a sample ends the process of its worker
        together: no sample is measured before two processes are there
    """

    def __init__(
        self, processor: Any, record: Path | None, deaths: int, together: bool
    ) -> None:
        super().__init__(range(SAMPLES), processor)
        self.record = record
        self.deaths = deaths
        self.together = together

    def __getitem__(self, index: int) -> Example:
        if index == DAMAGED:
            raise DamagedSample(self.sample_id(index), "5.png", "it is torn")
        if self.record is not None:
            times = len(list(self.record.glob(f"{index}-*")))
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            (self.record / f"{index}-{os.getpid()}-{times}").write_text(seen)
            end = time.monotonic() + 300
            while self.together and len(_processes(self.record)) < 2:
                assert time.monotonic() < end
                time.sleep(0.1)
            if index == DEADLY and times < self.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)

    def description(self) -> dict[str, Any]:
        return ShapesDataset(self.seeds, self.processor).description()


def _processes(record: Path) -> set[str]:
    return {path.name.split("-")[1] for path in record.iterdir()}


class Load:
    """Makes the job in a worker."""

    def __init__(
        self, record: Path | None = None, deaths: int = 0, together: bool = False
    ) -> None:
        self.options = (record, deaths, together)

    def __call__(self) -> Job:
        from captum_dexar.comparison.methods import named_methods
        from captum_dexar.shapes import load_vlm

        torch.set_num_threads(1)
        model, processor = load_vlm()
        dataset = Scenes(processor, *self.options)
        methods = named_methods(["dexar", "random"], model)
        return Job(dataset, methods, LocalizationProtocol(), model, processor, seed=7)


def test_workers() -> None:
    assert Workers().on({"CPU": 8.0}, machines=3) == Workers(3, 0.0, 1)
    assert Workers(5).on({"CPU": 8.0}, machines=3) == Workers(5, 0.0, 1)
    assert Workers().on({"CPU": 8.0, "GPU": 4.0}, machines=1) == Workers(4, 1.0, 1)
    assert Workers(gpus=2).on({"GPU": 5.0}, machines=1) == Workers(2, 2.0, 1)
    assert Workers(gpus=0.5).on({"GPU": 1.0}, machines=1) == Workers(2, 0.5, 1)
    assert Workers(gpus=0).on({"GPU": 4.0}, machines=2) == Workers(2, 0.0, 1)
    for wrong in ({"count": 0}, {"cpus": 0}, {"gpus": -1}):
        with pytest.raises(ValueError, match="got"):
            Workers(**wrong)


@pytest.fixture(name="cluster", scope="module")
def _cluster() -> Iterator[None]:
    # Ray takes our word for the GPUs; models stay on the CPU.
    ray.init(
        address="local",
        num_cpus=3,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(name="expected", scope="module")
def _expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of a single process."""
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("single")
    with pytest.warns(UserWarning, match="Sample 5 is skipped"):
        run(Load()(), out)
    torch.set_num_threads(threads)
    return _tables(out)


def _tables(out: Path) -> dict[str, bytes]:
    write_summary(out)
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.mark.filterwarnings("ignore:Sample 5 is skipped")
def test_samples_of_a_killed_worker_are_done_again(
    cluster: None, expected: dict[str, bytes], tmp_path: Path
) -> None:
    record, out = tmp_path / "record", tmp_path / "out"
    record.mkdir()
    # What a single process has measured before is not measured again.
    job = Load()()
    with opened_run(job, out) as writer:
        for index in (3, 9):
            for line in measured_lines(job, index, writer.missing(index)):
                writer.write(index, line)
    run_on_ray(Load(record, deaths=1, together=True), out, workers=Workers(2, gpus=0))
    assert _tables(out) == expected
    # Two workers and the one after the killed one measured what was left.
    assert len(_processes(record)) == 3 and str(os.getpid()) not in _processes(record)
    assert len(list(record.glob(f"{DEADLY}-*"))) == 2
    assert not list(record.glob("3-*")) and not list(record.glob("9-*"))
    assert [one["sample"] for one in read_skipped(out)] == ["5"]
    # A single process finds nothing left to do.
    content = (out / "results.jsonl").read_bytes()
    run(job, out)
    assert (out / "results.jsonl").read_bytes() == content


@pytest.mark.filterwarnings("ignore:Sample 5 is skipped")
def test_a_sample_that_always_kills_its_worker_is_given_up(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captum_dexar.evaluation.ray_runner.TRIES", 1)
    record, out = tmp_path / "record", tmp_path / "out"
    record.mkdir()
    run_on_ray(Load(record, deaths=99), out, workers=Workers(1, gpus=0))
    failed = {(line.sample, line.error) for line in read_lines(out) if line.error}
    error = "The process that measured the sample ended, 1 times."
    assert failed == {(str(DEADLY), error)}
    assert len(list(read_lines(out))) == 2 * (SAMPLES - 1)
    assert len(list(record.glob(f"{DEADLY}-*"))) == 1


class Broken(Load):
    """No worker can load the model."""

    def __call__(self) -> Job:
        raise OSError("There is no model here.")


def test_what_fails_in_a_worker_is_said(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed: OSError: There is no model here.."):
        run_on_ray(Broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Sample 5 is skipped")
def test_workers_get_gpus_of_their_own(
    cluster: None, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """As many workers as there are GPUs, and each sees one."""
    record, out = tmp_path / "record", tmp_path / "out"
    record.mkdir()
    run_on_ray(Load(record, together=True), out)
    assert _tables(out) == expected
    assert len(_processes(record)) == 2
    assert {path.read_text() for path in record.iterdir()} == {"0", "1"}


@pytest.mark.filterwarnings("ignore:Sample 5 is skipped")
def test_workers_share_a_gpu(
    cluster: None, expected: dict[str, bytes], tmp_path: Path
) -> None:
    record, out = tmp_path / "record", tmp_path / "out"
    record.mkdir()
    workers = Workers(2, gpus=0.5)
    run_on_ray(Load(record, together=True), out, workers=workers)
    assert _tables(out) == expected
    assert len(_processes(record)) == 2


def test_the_command_line(cluster: None, tmp_path: Path) -> None:
    asked = ["evaluate", "--methods", "dexar", "--limit", "4", "--seed", "3"]
    main([*asked, "--out", str(tmp_path / "plain")])
    main([*asked, "--out", str(tmp_path / "ray"), "--ray", "--workers", "2"])
    assert _tables(tmp_path / "ray") == _tables(tmp_path / "plain")
