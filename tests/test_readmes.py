"""What READMEs print as Python runs, and what they print as commands is accepted."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum_dexar import ImagePromptInput
from captum_dexar.cli import _parser
from captum_dexar.families import known_families, registry
from captum_dexar.shapes import load_vlm, make_scene
from captum_dexar.shapes.bundled import VLM_FOLDER
from tests.helpers.published_layouts import write_voc

PROJECT = Path(__file__).parents[1]
READMES = sorted(
    path.relative_to(PROJECT)
    for folder, pattern in (
        (PROJECT, "*.md"),
        (PROJECT / "captum_dexar", "**/*.md"),
        (PROJECT / "docs", "**/*.md"),
        (PROJECT / "tutorials", "*.md"),
        (PROJECT / "tests", "**/*.md"),
    )
    for path in folder.glob(pattern)
)
# What is printed for models that the tests do not have; and the same for the bundled
# one.
HERE = {
    'name = "llava-hf/llava-1.5-7b-hf"  # a download of 14 GB': (
        f"name = {str(VLM_FOLDER)!r}"
    ),
    "grid=(24, 24)": "grid=(12, 12)",
    'places="resampler"': "places=None",
    "range(20)": "range(2)",
}


def blocks(path: Path, language: str) -> list[str]:
    text = (PROJECT / path).read_text(encoding="utf-8")
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


@pytest.fixture(name="workplace")
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that a reader is assumed to have."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    image = make_scene(0).image
    image.save(tmp_path / "photo.jpg")
    mask = np.ones((image.height, image.width), int)
    write_voc(tmp_path / "VOCdevkit", {"one": (image, mask)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already")
@pytest.mark.parametrize(
    "path", [path for path in READMES if blocks(path, "python")], ids=str
)
def test_python_runs(
    path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a file, one after the other."""
    if path.parent.name == "tutorials":
        pytest.importorskip("IPython", reason="the extra tutorials is not installed")
    model, processor = load_vlm()
    image, prompt = make_scene(0).image, "Describe the image."
    inp = ImagePromptInput(image, prompt, processor, model)
    # What fragments take for granted; whole examples make their own.
    names: dict[str, Any] = {
        "model": model,
        "processor": processor,
        "image": image,
        "prompt": prompt,
        "inp": inp,
        "boxes": torch.tensor([[0, 0, 8, 8]]).expand(144, 4),
    }
    monkeypatch.setattr(registry, "_ADAPTERS", list(known_families()))
    for code in blocks(path, "python"):
        for printed, here in HERE.items():
            code = code.replace(printed, here)
        exec(compile(code, str(path), "exec"), names)


@pytest.mark.parametrize(
    "path", [path for path in READMES if "captum-dexar " in path.read_text()], ids=str
)
def test_commands_are_accepted(path: Path) -> None:
    for block in blocks(path, "bash"):
        for line in (
            block.replace("\\\n", "").replace("$model", "some/model").split("\n")
        ):
            _, found, arguments = line.rpartition("captum-dexar ")
            if found:
                _parser().parse_args(shlex.split(arguments, comments=True))
