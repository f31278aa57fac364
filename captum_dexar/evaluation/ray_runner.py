"""Measures methods on a dataset with many processes, on one machine or several."""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from captum_dexar.evaluation.dataset import DamagedSample
from captum_dexar.evaluation.protocols.base import Line, plain
from captum_dexar.evaluation.results_folder import opened_results, ResultsWriter, SAME
from captum_dexar.evaluation.runner import Job, measured_lines
from tqdm.auto import tqdm

Load: TypeAlias = Callable[[], Job]

# Samples that a worker gets at once: what is lost, and done again, with a worker.
MOST_SAMPLES = 8
# Blocks of samples per worker, so that no worker waits long for the last one.
_BLOCKS_PER_WORKER = 4
# One that is measured, and one that waits.
_BLOCKS_AHEAD = 2
# How often a sample may end its process before it gets a line with an error.
TRIES = 3
_SECONDS_TO_REACH = 10.0
_INSTEAD = (
    "Without Ray, the same evaluation runs in this process: captum_dexar.evaluation."
    "runner.run, or the command without --ray."
)


@dataclass(frozen=True)
class Workers:
    """The processes of :func:`run_on_ray`; each loads the model once.

    Attributes:
        count (int or None): their number. Default: None: as many as the cluster has
            GPUs for or, if it has none, one per machine
        gpus (float or None): GPUs of each, more than one for a model that is loaded
            with ``device_map="auto"``. Default: None: one if the cluster has any
        cpus (int): CPU cores of each, which is also its number of threads. Default: 1
    """

    count: int | None = None
    gpus: float | None = None
    cpus: int = 1

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"There must be at least one worker, got {self.count}.")
        if self.cpus < 1 or (self.gpus is not None and self.gpus < 0):
            raise ValueError(
                "A worker needs at least one CPU core, and no negative number of GPUs, "
                f"got {self.cpus} and {self.gpus}."
            )

    def on(self, cluster: Mapping[str, float], machines: int) -> Workers:
        """The same with all numbers known, for a cluster's resources."""
        available = cluster.get("GPU", 0.0)
        gpus = min(1.0, available) if self.gpus is None else float(self.gpus)
        count = self.count
        if count is None:
            count = max(1, int(available // gpus)) if gpus else machines
        return Workers(count, gpus, self.cpus)


def run_on_ray(
    load: Load,
    out: str | Path,
    *,
    address: str | None = None,
    workers: Workers = Workers(),
    progress: bool = False,
) -> None:
    """Measures what the folder does not have yet, like :func:`run`, on Ray Data.

    Samples are streamed to workers, of which each loads the model once; this process
    writes their results as they come. The samples of a worker that is lost are done
    again by another, and a sample that ends its process ``TRIES`` times gets a line
    with an error. The folder is that of :func:`run`: either goes on where the other
    was interrupted, and the tables are the same.

    Args:
        load (callable): makes the job, in each worker. It is pickled, and so must hold
            names and paths rather than a model. It decides the device (``"cuda"`` is
            the worker's own GPU), or loads with ``device_map="auto"``
        out (str or Path): the folder, on this machine
        address (str, optional): address of a Ray cluster, whose machines must have this
            package, the model and the data. Default: None, a cluster on this machine,
            which is shut down in the end; or the one that this process is connected to
        workers (Workers, optional): their number and resources
        progress (bool, optional): shows a progress bar. Default: False

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: Ray can't start, or a worker failed in a way that would fail for
            every sample. What was written is kept.
        OtherRunError, BusyFolderError, OSError, ValueError: as :func:`run`.

    Examples::

        >>> from captum_dexar.evaluation.ray_runner import run_on_ray, Workers
        >>> from captum_dexar.evaluation.runner import Job
        >>> def load():
        ...     from captum_dexar.comparison.methods import named_methods
        ...     from captum_dexar.evaluation import ShapesDataset
        ...     from captum_dexar.evaluation.protocols import LocalizationProtocol
        ...     from captum_dexar.shapes import load_vlm
        ...     model, processor = load_vlm()
        ...     dataset = ShapesDataset(range(10), processor, model)
        ...     methods = named_methods(["dexar", "random"], model)
        ...     return Job(dataset, methods, LocalizationProtocol(), model, processor)
        >>> run_on_ray(load, "measured", workers=Workers(2))  # doctest: +SKIP
    """
    with _started(address, workers) as ray:
        known = workers.on(ray.cluster_resources(), _machines(ray))
        with _errors_of_workers(ray):
            # The first worker says what the run is; this process loads no model.
            describe = ray.remote(num_cpus=known.cpus, num_gpus=known.gpus)(_described)
            run, samples = ray.get(describe.remote(load))
        if not samples:
            raise ValueError("The dataset has no sample: there is nothing to measure.")
        methods = list(run["methods"])
        with opened_results(Path(out), run, samples, methods) as writer:
            todo = (~writer.done.all(axis=1)).nonzero()[0].tolist()
            rows = [
                {"index": index, "methods": writer.missing(index)} for index in todo
            ]
            with (
                tqdm(
                    total=len(samples),
                    initial=len(samples) - len(rows),
                    desc="measuring",
                    unit="sample",
                    disable=not progress,
                ) as bar,
                _errors_of_workers(ray),
            ):
                for result in _results(ray, load, run, rows, known):
                    _write(writer, result)
                    bar.update()


def _write(writer: ResultsWriter, result: Mapping[str, Any]) -> None:
    """Writes what a worker measured of one sample."""
    index = int(result["index"])
    for line in json.loads(result["lines"]):
        writer.write(index, Line.from_json(line))
    damaged = json.loads(result["damaged"])
    if damaged is not None:
        skipped = DamagedSample(*damaged)
        warnings.warn(str(skipped), stacklevel=3)
        writer.skip(index, skipped)


def _described(load: Load) -> tuple[dict[str, Any], list[str]]:
    """In a worker: what ``run.json`` says, and the ids of all samples."""
    job = load()
    ids = [job.dataset.sample_id(index) for index in range(len(job.dataset))]
    return plain(job.description()), ids


class _Attempts:
    """In a process of its own: which samples were begun and not finished."""

    def __init__(self) -> None:
        self.unfinished: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        """How often the sample was begun before and not finished."""
        self.unfinished[index] += 1
        return self.unfinished[index] - 1

    def finish(self, index: int) -> None:
        """The process has survived the sample."""
        del self.unfinished[index]


class _Measuring:
    """In a worker: measures the samples that it gets.

    Args:
        load (callable): makes the job
        run (Mapping): what ``run.json`` says, which the job has to agree with
        attempts (ActorHandle): of :class:`_Attempts`
        tries (int): how often a sample may end its process
    """

    def __init__(
        self, load: Load, run: Mapping[str, Any], attempts: Any, tries: int
    ) -> None:
        self.job = load()
        self.attempts = attempts
        self.tries = tries
        own = plain(self.job.description())
        other = [name for name in SAME if own.get(name) != run.get(name)]
        if other:
            raise ValueError(
                f"A worker's {' and '.join(other)} are not those of the first one. All "
                "machines need the same model and data."
            )

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The lines of a sample, and what is damaged, as JSON."""
        index = int(row["index"])
        lines, damaged = self._measured(index, list(row["methods"]))
        return {
            "index": index,
            "lines": json.dumps([line.to_json() for line in lines]),
            "damaged": json.dumps(damaged),
        }

    def _measured(
        self, index: int, names: list[str]
    ) -> tuple[list[Line], tuple[str, ...] | None]:
        """The lines of a sample, and the arguments of its DamagedSample, if any."""
        import ray

        deaths = ray.get(self.attempts.begin.remote(index))
        if deaths >= self.tries:
            dataset = self.job.dataset
            ids = dataset.sample_id(index), dataset.image_id(index)
            ended = f"The process that measured the sample ended, {deaths} times."
            return [Line(*ids, name, 0.0, error=ended) for name in names], None
        lines: list[Line] = []
        damaged: tuple[str, ...] | None = None
        try:
            lines += measured_lines(self.job, index, names)
        except DamagedSample as error:
            damaged = error.args
        self.attempts.finish.remote(index)
        return lines, damaged


def _results(
    ray: Any,
    load: Load,
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    workers: Workers,
) -> Iterator[Mapping[str, Any]]:
    """Yields what the workers measure, a row per sample, as it comes."""
    if not rows:
        return
    assert workers.count is not None
    count = min(workers.count, len(rows))
    blocks = max(len(rows) // MOST_SAMPLES, _BLOCKS_PER_WORKER * count)
    attempts = ray.remote(num_cpus=0, max_restarts=-1)(_Attempts).remote()
    # Ray Data restarts workers, and gives their samples out again, without limit.
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), blocks)).map(
        _Measuring,
        fn_constructor_args=(load, run, attempts, TRIES),
        compute=ray.data.ActorPoolStrategy(
            size=count, max_tasks_in_flight_per_actor=_BLOCKS_AHEAD
        ),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    dataset.context.enable_progress_bars = False
    dataset.context.raise_original_map_exception = True
    # A sample may take long, and so may loading the model.
    dataset.context.execution_no_progress_timeout_s = -1
    yield from dataset.iter_rows()


@contextmanager
def _started(address: str | None, workers: Workers) -> Iterator[Any]:
    """Ray, connected to a cluster; one that was started here is shut down again."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            'Ray is not installed: pip install "captum-dexar[ray]". ' + _INSTEAD
        ) from error
    if ray.is_initialized():
        yield ray
        return
    settings: dict[str, Any] = {"address": address}
    if address is None:
        # "local" starts a new cluster, even if another one runs on this machine.
        settings = {"address": "local", "include_dashboard": False}
        if workers.count is not None:
            # Cores are only counted: workers beyond them would wait for ever.
            needed = workers.count * workers.cpus
            settings["num_cpus"] = max(needed, os.cpu_count() or 1)
    try:
        if address is not None:
            _check_reachable(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:  # Ray raises many types
        ray.shutdown()
        raise RuntimeError(f"Ray can't start: {error} {_INSTEAD}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises OSError if nothing listens; Ray itself tries for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), _SECONDS_TO_REACH).close()
        except OSError as error:
            raise OSError(f"nothing listens at {address} ({error}).") from error


def _machines(ray: Any) -> int:
    return max(1, sum(bool(node["Alive"]) for node in ray.nodes()))


@contextmanager
def _errors_of_workers(ray: Any) -> Iterator[None]:
    """Names what failed in a worker, without Ray's own frames."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(
            f"A worker failed: {_cause(error)}. What was measured is kept; the same "
            f"call goes on from there. {_INSTEAD}"
        ) from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"Ray failed: {error}. What was measured is kept; the same call goes on "
            f"from there. {_INSTEAD}"
        ) from error


def _cause(error: BaseException) -> str:
    """The innermost error that is not Ray's."""
    inner: BaseException = error
    while (deeper := getattr(inner, "cause", None) or inner.__cause__) is not None:
        inner = deeper
    return f"{type(inner).__name__}: {inner}"
