"""A model's fingerprint tells other weights, and nothing else."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from captum_dexar.evaluation.provenance import fingerprint, MOST_ELEMENTS, versions
from tests.helpers.tiny_models import tiny_vlm
from torch import nn

CPU = torch.device("cpu")


@pytest.fixture(name="model", scope="module")
def _model() -> nn.Module:
    return tiny_vlm()


def test_it_is_the_same_wherever_the_model_comes_from(
    model: Any, tmp_path: Path
) -> None:
    whole = fingerprint(model)
    assert whole == fingerprint(tiny_vlm()) and whole == fingerprint(model)
    model.save_pretrained(tmp_path / "saved")
    loaded = type(model).from_pretrained(tmp_path / "saved")
    assert fingerprint(loaded) == whole == fingerprint(model)
    on_the_cpu = cpu_offload(copy.deepcopy(model), execution_device=CPU)
    on_the_disk = disk_offload(copy.deepcopy(model), tmp_path, execution_device=CPU)
    assert fingerprint(on_the_cpu) == whole == fingerprint(on_the_disk)
    assert any(parameter.is_meta for parameter in on_the_disk.parameters())


def _weight(model: Any) -> None:
    model.get_output_embeddings().weight.data.view(-1)[-1] += 1e-3


def _large(model: Any) -> None:
    weight = model.get_input_embeddings().weight.data
    assert weight.numel() > MOST_ELEMENTS
    weight *= 1.01


def _transposed(model: Any) -> None:
    projection = model.get_decoder().layers[0].self_attn.q_proj
    projection.weight.data = projection.weight.data.T.contiguous()


def _config(model: Any) -> None:
    model.config.text_config.rms_norm_eps *= 2


def _dtype(model: Any) -> None:
    model.to(torch.bfloat16)


@pytest.mark.parametrize("change", [_weight, _large, _transposed, _config, _dtype])
def test_it_tells_another_model(
    model: nn.Module, change: Callable[[Any], None]
) -> None:
    other = copy.deepcopy(model)
    change(other)
    assert fingerprint(other) != fingerprint(model)


def test_versions_are_those_installed() -> None:
    found = versions()
    assert torch.__version__.startswith(found["torch"].partition("+")[0])
    assert {"python", "platform", "transformers", "captum", "captum-dexar"} <= set(
        found
    )
