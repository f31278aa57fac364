"""Result files that are damaged or made by somebody else: refused, with a reason."""

import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.cli import main
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.page import page_of
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tests.result.mutants import fate, mutants
from tests.result.test_result import make_result

Content = tuple[dict[str, torch.Tensor], Any, dict[str, str]]


def content_of(path: Path) -> Content:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    return tensors, json.loads(metadata["content"]), metadata


def write(path: Path, content: Content) -> Path:
    tensors, plain, metadata = content
    save_file(tensors, path, metadata={**metadata, "content": json.dumps(plain)})
    return path


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> Path:
    path = tmp_path / "saved.dexar"
    make_result().save(path)
    return path


def picture(
    width: int, height: int, kind: str = "PNG", mode: str = "RGB"
) -> torch.Tensor:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind)
    return torch.from_numpy(np.frombuffer(file.getvalue(), dtype=np.uint8).copy())


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return lambda tensors, plain: tensors.update(
        {name: change(tensors[name]).contiguous().clone()}
    )


def view(**changes: Any) -> Any:
    return lambda tensors, plain: plain["layout"]["views"][0].update(changes)


def part(grid: list[int], start: int, rectangle: list[float]) -> dict[str, Any]:
    return {
        "name": "tile",
        "grid": grid,
        "rectangle": rectangle,
        "start": start,
        "image": 0,
        "row_stride": None,
    }


CASES: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "token too few": (changed("token_attr", lambda t: t[1:]), r"shape \(5, 8\)"),
    "no axes": (changed("seq_attr", lambda t: t[0]), "seq_attr must be of the shape"),
    "weights too many": (
        changed("token_weights", lambda t: t.repeat(2)),
        r"token_weights .* \(5\), got \(10,\)",
    ),
    "layers missing": (changed("layer_attr", lambda t: t[:, 1:]), "2 layers"),
    "words as numbers": (changed("word_starts", lambda t: t.float()), "bool"),
    "ids as fractions": (changed("target_ids", lambda t: t + 0.5), "integer"),
    "complex": (changed("seq_attr", lambda t: t.to(torch.complex64)), "float"),
    "image cut": (changed("image0", lambda t: t[:-30]), "image 0 can't be read"),
    "image without bytes": (
        lambda tensors, plain: tensors.update(image0=torch.tensor([1, 2, 3])),
        "image0 must be a row of bytes",
    ),
    "image of another format": (
        lambda tensors, plain: tensors.update(image0=picture(60, 40, "EPS")),
        "image 0 can't be read: not a PNG file",
    ),
    "image of another size": (
        lambda tensors, plain: tensors.update(image0=picture(3, 3)),
        "images must be of the sizes",
    ),
    "image too large": (
        lambda tensors, plain: tensors.update(image0=picture(20_000, 14_000, mode="1")),
        "images must be of 268435456 pixels .* got 280000000",
    ),
    "images that are not counted": (
        lambda tensors, plain: tensors.update(image7=tensors["image0"].clone()),
        "images must be image0, image1",
    ),
    "numbers of eight bits": (
        changed("token_attr", lambda t: t.to(torch.float8_e4m3fn)),
        "token_attr must be of float numbers, got 'F8_E4M3'",
    ),
    "no attributions": (
        lambda tensors, plain: tensors.pop("token_attr"),
        "token_attr must be there",
    ),
    "grid without end": (
        view(grid=[10**9, 4]),
        r"views.0.grid.0: Input should be less",
    ),
    "grid of more cells than tokens": (view(grid=[2**14, 2**14]), "cells at most"),
    "grid too large": (view(grid=[2**10, 4]), "views must be within 9 tokens"),
    "grid too small": (view(grid=[1, 4]), r"token_attr .* \(5, 4\)"),
    "grid without rows": (view(grid=[0, 4]), "Input should be greater than 0, got 0"),
    "grid of texts": (view(grid=["2", 4]), "grid.0: Input should be a valid integer"),
    "grid of one": (view(grid=[4]), "grid.1: Field required"),
    "rows without end": (view(row_stride=10**6), "views must be within 9 tokens"),
    "rows in rows": (view(row_stride=1), "row_stride is smaller than a row"),
    "nowhere": (view(rectangle=[0.0, 5.0, 0.0, 9.0]), "rectangle must be"),
    "no area": (view(rectangle=[0.0, 0.0, 1e-300, 60.0]), "of an area"),
    "far away": (
        view(rectangle=[-1e300, 0, 1e300, 9]),
        "rectangle.0: .* equal to -1000",
    ),
    "of no image": (view(image=1), "images must be numbered from 0"),
    "no view": (
        lambda tensors, plain: plain["layout"].update(views=[]),
        "layout.views: .* at least 1 item",
    ),
    "views without end": (
        lambda tensors, plain: plain["layout"].update(
            views=plain["layout"]["views"] * 20_000
        ),
        "layout.views: .* at most 16384 items",
    ),
    # Cells of a map are as small as the smallest boxes of any of its views.
    "map without end": (
        lambda tensors, plain: plain["layout"].update(
            views=[part([2, 2], 0, [0, 0, 1e-3, 1e-3]), part([2, 2], 4, [0, 0, 40, 60])]
        ),
        "views must be up to 8192 cells long, got 120000",
    ),
    "map of many cells": (
        lambda tensors, plain: plain["layout"].update(
            views=[
                part([2, 2], 0, [0, 0, 0.01, 0.015]),
                part([2, 2], 4, [0, 0, 40, 60]),
            ]
        ),
        "maps must be of 268435456 values together at most, got 384000000",
    ),
    "tokens without end": (
        lambda tensors, plain: plain["layout"].update(num_tokens=10**12),
        "num_tokens: Input should be less",
    ),
    "pixels without end": (
        lambda tensors, plain: plain["layout"].update(image_sizes=[[10**9, 10**9]]),
        "image_sizes.0.0: Input should be less",
    ),
    "pixels of several sides": (
        lambda tensors, plain: plain["layout"].update(image_sizes=[[2**15, 2**15]]),
        "268435456 pixels together at most",
    ),
    "sizes of other images": (
        lambda tensors, plain: plain["layout"].update(image_sizes=[[40, 60]] * 2),
        "image_sizes must be of 1 images, got 2",
    ),
    "no method": (
        lambda tensors, plain: plain.pop("method"),
        "method: Field required",
    ),
    "rivals without a text": (
        lambda tensors, plain: tensors.update(rival_ids=torch.ones(5, 2).long()),
        r"rival_tokens must be the texts of rival_ids, \[5, 2\], got None",
    ),
    "texts without rivals": (
        lambda tensors, plain: plain.update(rival_tokens=[["a"]] * 5),
        r"rival_tokens must be the texts of rival_ids, \[\], got",
    ),
    "fewer texts than rivals": (
        lambda tensors, plain: (
            tensors.update(rival_ids=torch.ones(5, 2).long()),
            plain.update(rival_tokens=[["a", "b"]] * 4 + [["a"]]),
        ),
        "rival_tokens must be the texts of rival_ids",
    ),
    "rivals of fewer tokens": (
        lambda tensors, plain: tensors.update(rival_ids=torch.ones(4, 2).long()),
        r"rival_ids must be of the shape \(5, any\)",
    ),
    "yes as a number": (
        lambda tensors, plain: plain.update(layer_indices=[True, 1, 2]),
        "layer_indices.0: Input should be a valid integer, got True",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_is_wrong(saved: Path, name: str) -> None:
    change, reason = CASES[name]
    content = content_of(saved)
    change(*content[:2])
    with pytest.raises(ValueError, match=f"not a readable result file: .*{reason}"):
        VLMAttributionResult.load(write(saved, content))


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys[:12]:
            yield from paths(value[key], (*path, key))


def put(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copied = json.loads(json.dumps(whole))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copied


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    float("inf"),
    float("nan"),
    "\ud800",
    [],
    {},
    [[1]],
    ["a"],
)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_any_value_anywhere_is_refused_or_shown(saved: Path, odd: Any) -> None:
    """Nothing but ValueError, whatever stands in the place of any part."""
    tensors, plain, metadata = content_of(saved)
    for path in paths(plain):
        write(saved, (tensors, put(plain, path, odd), metadata))
        try:
            result = VLMAttributionResult.load(saved)
        except ValueError:
            continue
        assert page_of({result.method: result}).words


def test_files_damaged_at_random_are_refused_or_shown(tmp_path: Path) -> None:
    """A few of those that ``python -m tests.result.mutants`` makes."""
    path = tmp_path / "mutant.dexar"
    for way, content in islice(mutants(path, seed=1), 300):
        what = fate(path, content)
        assert what in ("refused", "fine"), f"{way}: {what}"


def test_segments_are_checked(tmp_path: Path) -> None:
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, :10], masks[1, 5:] = True, True
    layout = SegmentLayout.of_masks(masks, ["one", "two"], (40, 60))
    attr = torch.rand(5, 2)
    result = make_result(
        layout=layout,
        token_attr=attr,
        seq_attr=attr.sum(0),
        placeless_attr=None,
        layer_attr=None,
        layer_indices=None,
    )
    path = tmp_path / "segments.dexar"
    result.save(path)
    assert VLMAttributionResult.load(path) == result
    content = content_of(path)
    labels = content[0]["segments"]
    for wrong in (labels + 1, labels - 1, labels[0], labels[:, 1:], labels.float()):
        content[0]["segments"] = wrong.contiguous().clone()
        with pytest.raises(ValueError, match="segments must be"):
            VLMAttributionResult.load(write(path, content))
    content[0]["segments"] = labels
    content[1]["layout"]["names"] = ["one"]
    with pytest.raises(ValueError, match="names must be 2 names"):
        VLMAttributionResult.load(write(path, content))


@pytest.mark.filterwarnings("error")
def test_an_image_larger_than_pillow_opens_comes_back(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(picture(60, 40).numpy().tobytes()))
    assert VLMAttributionResult.load(saved) == make_result()


def test_what_could_not_be_read_is_not_written(saved: Path) -> None:
    before = saved.read_bytes()
    view = View("full", (2, 4), (0.0, 0.0, 14e3, 20e3))
    large = ImageLayout(8, (view,), ((14_000, 20_000),))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"layout": large, "images": [Image.new("1", (20_000, 14_000))]}, "pixels"),
        ({"token_weights": torch.ones(4)}, r"token_weights must be of the shape \(5\)"),
        (
            {"layer_indices": [0.5, 1, 2]},
            "layer_indices.0: Input should be a valid int",
        ),
    ]
    for changes, reason in cases:
        with pytest.raises(ValueError, match=f"can't be written.*{reason}"):
            make_result(**changes).save(saved)
    assert saved.read_bytes() == before


def test_a_loaded_result_does_not_depend_on_its_file(saved: Path) -> None:
    result = VLMAttributionResult.load(saved)
    with saved.open("r+b") as file:
        file.truncate(10)
    assert result == make_result()


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "null", "\x00"])
def test_other_text_than_json(saved: Path, text: str) -> None:
    tensors, _, metadata = content_of(saved)
    save_file(tensors, saved, metadata={**metadata, "content": text})
    with pytest.raises(ValueError, match="not a readable result file"):
        VLMAttributionResult.load(saved)
    save_file(tensors, saved, metadata={**metadata, "version": "x"})
    with pytest.raises(ValueError, match="has format version x"):
        VLMAttributionResult.load(saved)


def test_the_command_says_so_too(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = content_of(saved)
    CASES["token too few"][0](*content[:2])
    assert main(["show", str(write(saved, content))]) == 2
    assert "token_attr must be of the shape" in capsys.readouterr().err
