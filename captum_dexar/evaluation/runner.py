"""Measures methods on a dataset, sample by sample, into a folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from captum_dexar.comparison.comparison import named_pairs
from captum_dexar.evaluation.dataset import DamagedSample, EvaluationDataset
from captum_dexar.evaluation.protocols.base import EvaluationProtocol, Line, plain
from captum_dexar.evaluation.provenance import fingerprint, versions
from captum_dexar.evaluation.results_folder import opened_results, ResultsWriter
from captum_dexar.model import device_of
from torch import nn
from tqdm.auto import tqdm

# What would fail for every sample after it is not recorded, but raised. An accelerator
# is of no use after an error of its own, other than running out of memory.
_FATAL: tuple[type[BaseException], ...] = (ImportError, MemoryError, OSError)
if hasattr(torch, "AcceleratorError"):
    _FATAL += (torch.AcceleratorError,)


@dataclass(frozen=True)
class Job:
    """What is measured, on what, with what.

    Attributes:
        dataset (EvaluationDataset): the samples
        methods (Mapping): methods by name, as in :func:`captum_dexar.compare`; what is
            kept are pairs with arguments of their ``attribute``
        protocol (EvaluationProtocol): what is measured
        model (nn.Module): the model of all methods
        processor (ProcessorMixin): its processor
        seed (int): sample ``i`` of the dataset uses ``seed + i`` for everything random,
            so that neither the order of work nor an interruption matters. Default: 0
    """

    dataset: EvaluationDataset
    methods: Mapping[str, Any]
    protocol: EvaluationProtocol
    model: nn.Module
    processor: Any
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", named_pairs(self.methods))

    def description(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        modules = {id(module): name for name, module in self.model.named_modules()}
        return {
            "dataset": self.dataset.description(),
            "protocol": self.protocol.description(),
            "methods": {
                name: {
                    "method": type(method).__name__,
                    "layers": _layers(method, modules),
                    "settings": _settings(method),
                    "arguments": {key: _said(one) for key, one in arguments.items()},
                }
                for name, (method, arguments) in self.methods.items()
            },
            "seed": self.seed,
            "samples": len(self.dataset),
            "model": {
                "class": type(self.model).__name__,
                "dtype": str(getattr(self.model, "dtype", None)),
                "fingerprint": fingerprint(self.model),
            },
            "versions": versions(),
            "environment": {"device": str(device_of(self.model))},
        }


def run(job: Job, out: str | Path, *, progress: bool = False) -> None:
    """Measures what the folder does not have yet.

    Started again after an interruption, however it came about, it goes on where it
    was: nothing is lost, and nothing measured twice. A sample whose files are damaged
    is noted in ``skipped.jsonl``, and a method that raises for a sample gets a line
    with the error; neither ends the run, nor is tried again.

    Args:
        job (Job): what is measured
        out (str or Path): the folder
        progress (bool, optional): shows a progress bar. Default: False

    Raises:
        OtherRunError: the folder holds results of other arguments or another model.
        BusyFolderError: another process is writing to it.
        OSError: the folder can't be written, or the disk is full. What was written
            stays readable.
        ValueError: the dataset has no sample.

    Examples::

        >>> import tempfile
        >>> from captum_dexar.comparison.methods import named_methods
        >>> from captum_dexar.evaluation import ShapesDataset
        >>> from captum_dexar.evaluation.protocols import LocalizationProtocol
        >>> from captum_dexar.evaluation.runner import Job, run
        >>> from captum_dexar.evaluation.summary import write_summary
        >>> from captum_dexar.shapes import load_vlm
        >>> model, processor = load_vlm()
        >>> dataset = ShapesDataset(range(2), processor, model)
        >>> methods = named_methods(["dexar", "random"], model)
        >>> job = Job(dataset, methods, LocalizationProtocol(), model, processor)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run(job, folder)
        ...     print(write_summary(folder).table("colour"))
        | method | n | pointing | ...
    """
    with opened_run(job, out) as writer:
        todo = (~writer.done.all(axis=1)).nonzero()[0]
        with tqdm(
            total=len(job.dataset),
            initial=len(job.dataset) - len(todo),
            desc="measuring",
            unit="sample",
            disable=not progress,
        ) as bar:
            for index in todo.tolist():
                try:
                    for line in measured_lines(job, index, writer.missing(index)):
                        writer.write(index, line)
                except DamagedSample as damaged:
                    warnings.warn(str(damaged), stacklevel=2)
                    writer.skip(index, damaged)
                bar.update()


@contextmanager
def opened_run(job: Job, out: str | Path) -> Iterator[ResultsWriter]:
    """Opens the folder of a job; see :func:`opened_results`.

    Raises:
        ValueError: the dataset has no sample.
        OtherRunError, BusyFolderError, OSError: as :func:`run`.
    """
    if not len(job.dataset):
        raise ValueError("The dataset has no sample: there is nothing to measure.")
    samples = [job.dataset.sample_id(index) for index in range(len(job.dataset))]
    with opened_results(
        Path(out), job.description(), samples, list(job.methods)
    ) as writer:
        yield writer


def measured_lines(job: Job, index: int, names: Sequence[str]) -> Iterator[Line]:
    """Yields the lines of one sample. Writes nothing, so any process can do it.

    Args:
        job (Job): what is measured
        index (int): the sample's index in the dataset
        names (sequence of str): the methods that are wanted, some of the job's

    Raises:
        DamagedSample: the sample's files are missing or damaged.
        ImportError, MemoryError, OSError, torch.AcceleratorError: what would fail for
            every sample; or what was raised from it.
    """
    example = job.dataset[index]
    wanted = [name for name in job.methods if name in names]
    sample, image = job.dataset.sample_id(index), job.dataset.image_id(index)
    while wanted:
        lines = job.protocol.measure(
            {name: job.methods[name] for name in wanted},
            example,
            job.processor,
            sample=sample,
            image=image,
            seed=job.seed + index,
        )
        try:
            for line in lines:
                wanted.remove(line.method)
                yield line
        except Exception as error:  # methods raise many types
            if _is_fatal(error):
                raise
            failed = f"{type(error).__name__}: {error}"
            yield Line(sample, image, wanted.pop(0), 0.0, error=failed)
        else:
            if wanted:
                raise RuntimeError(
                    f"The protocol {job.protocol.name} gave no line for "
                    f"{', '.join(wanted)}."
                )


def _is_fatal(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, would come for every sample."""
    while error is not None:
        if isinstance(error, _FATAL):
            return True
        error = error.__cause__
    return False


def _layers(method: Any, modules: Mapping[int, str]) -> list[str]:
    """The names of the layers that a layer method explains; none for other methods."""
    layer = getattr(method, "layer", None)
    layers = layer if isinstance(layer, (list, tuple)) else [layer]
    return [modules[id(one)] for one in layers if id(one) in modules]


def _settings(method: Any) -> dict[str, Any]:
    """What the method was made with, where it keeps that as plain values."""
    kept = vars(method)
    found = {
        name: kept.get(name, kept.get(f"_{name}"))
        for name in signature(type(method)).parameters
    }
    plain_types = (bool, int, float, str)
    return {name: one for name, one in found.items() if isinstance(one, plain_types)}


def _said(value: Any) -> Any:
    """An argument as ``run.json`` says it; a function by its name."""
    try:
        return plain(value)
    except TypeError:
        return getattr(value, "__qualname__", type(value).__name__)
