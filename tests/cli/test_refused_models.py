"""Models, devices and images that the command line refuses: in one line, with exit code
2, before anything is computed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar.cli import main
from PIL import Image
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
CONVERT = ".* only safetensors are. .* write it with save_pretrained"


def pickled(folder: Path, name: str = "pytorch_model.bin") -> None:
    torch.save(load_file(folder / WEIGHTS), folder / name)
    (folder / WEIGHTS).unlink()


def indexed(folder: Path, file: Any) -> None:
    names = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": {name: file for name in names}}
    (folder / INDEX).write_text(json.dumps(index))


def configured(folder: Path, part: str | None = None, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part]).update(changes)
    path.write_text(json.dumps(config))


def without(folder: Path, count: int) -> None:
    tensors = load_file(folder / WEIGHTS)
    for name in sorted(tensors)[:count]:
        del tensors[name]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def cut(folder: Path, share: float) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])


def adapter(folder: Path, base: Any = "nobody/nothing", weights: bool = False) -> None:
    said = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    if weights:
        save_file({}, folder / "adapter_model.safetensors")


def wrote(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"has no {WEIGHTS}{CONVERT}"),
    "pickled weights": (pickled, f"but pytorch_model.bin{CONVERT}"),
    "weights of Lightning": (
        lambda f: pickled(f, "last.ckpt"),
        f"last.ckpt{CONVERT}",
    ),
    "an index of pickles": (lambda f: indexed(f, "a.bin"), f"names 'a.bin'{CONVERT}"),
    "an index of another folder": (
        lambda f: indexed(f, "../part.safetensors"),
        "which is not in the same folder",
    ),
    "an index of another drive": (
        lambda f: indexed(f, "C:\\part.safetensors"),
        "which is not in the same folder",
    ),
    "an index of numbers": (lambda f: indexed(f, 1), "index.json names 1"),
    "an index of nothing": (wrote(INDEX, "{}"), "has no weight_map"),
    "an index that is a list": (wrote(INDEX, "[]"), "must be a JSON object, got list"),
    "pickles by the configuration": (
        lambda f: configured(f, transformers_weights="a.bin"),
        f"transformers_weights of config.json is 'a.bin'{CONVERT}",
    ),
    "missing weights": (lambda f: without(f, 3), "lacks 3 weights .* would be random"),
    "truncated weights": (lambda f: cut(f, 0.5), "damaged or incomplete"),
    "empty weights": (lambda f: cut(f, 0), "damaged or incomplete"),
    "a kernel of the Hub": (
        lambda f: configured(f, _attn_implementation="owner/kernel"),
        "'owner/kernel', which names code on the Hub.* Remove _attn_implementation",
    ),
    "a kernel by its other name": (
        lambda f: configured(f, attn_implementation="owner/kernel@main:fast"),
        "names code on the Hub",
    ),
    "a kernel for a part": (
        lambda f: configured(f, "text_config", _attn_implementation="a/b"),
        "text_config._attn_implementation of config.json is 'a/b'",
    ),
    "a kernel among others": (
        lambda f: configured(f, attn_implementation={"text_config": "a/b"}),
        "names code on the Hub",
    ),
    "kernels of experts": (
        lambda f: configured(f, experts_implementation="a/b"),
        "names code on the Hub",
    ),
    "code of its own": (
        lambda f: configured(f, model_type="own", auto_map={"AutoConfig": "a.B"}),
        "'own' are not in this version.* Code that comes with a model is never run",
    ),
    "an unknown type": (
        lambda f: configured(f, model_type="own"),
        "could not be loaded",
    ),
    "a text model": (
        lambda f: configured(f, model_type="llama"),
        "could not be loaded as a vision-language model",
    ),
    "a configuration that is none": (
        wrote("config.json", "{"),
        "config.json is not JSON",
    ),
    "a list as configuration": (
        wrote("config.json", "[]"),
        "config.json must be a JSON object, got list",
    ),
    "levels without end": (
        lambda f: configured(f, deep=json.loads('{"a":' * 60 + "1" + "}" * 60)),
        "more than 50 levels",
    ),
    "brackets without end": (wrote("config.json", "[" * 10**5), "is not JSON"),
    "a tokenizer that is none": (wrote("tokenizer.json", "{"), "could not be loaded"),
    "an adapter that is pickled": (adapter, f"without adapter_model{CONVERT}"),
}


def explain(model: Path | str, image: Path, *more: str) -> int:
    out = ["--out", str(image.parent / "never")]
    arguments = ["--model", str(model), "--image", str(image), "--prompt", "what ?"]
    return main(["explain", *arguments, "--max-new-tokens", "2", *out, *more])


def check(code: int, message: str, capsys: Any, image: Path) -> None:
    printed = capsys.readouterr().err
    assert code == 2 and "Traceback" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("captum-dexar: ")]
    text = printed[printed.index("captum-dexar: ") :].replace("\n", " ")
    assert len(lines) == 1
    assert re.search(message, text), text
    assert not (image.parent / "never").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(
    folder: Path,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    change, message = FOLDERS[name]
    changed = shutil.copytree(folder, tmp_path / "model")
    change(changed)
    check(explain(changed, image), message, capsys, image)


@pytest.mark.parametrize(
    ("base", "message"),
    [(None, "does not name the model it is for"), (7, "does not name the model")],
)
def test_adapters_of_no_model(
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    base: Any,
    message: str,
) -> None:
    adapter(tmp_path, base, weights=True)
    check(explain(tmp_path, image), message, capsys, image)


def test_the_base_of_an_adapter_is_checked_too(
    folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(folder, tmp_path / "base")
    pickled(base)
    (tmp_path / "adapter").mkdir()
    adapter(tmp_path / "adapter", str(base), weights=True)
    message = f"base has no {WEIGHTS}, but pytorch_model.bin"
    check(explain(tmp_path / "adapter", image), message, capsys, image)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "--device",
            "cuda:99",
            r"--device cuda:99 can't be used here \(.*\). Give auto",
        ),
        ("--device", "gpu", "can't be used here"),
        ("--device", "meta", "tensors on it have no values"),
        ("--device", "", "Device string must not be empty"),
        ("--attn", "owner/kernel", "names code on the Hub"),
        ("--attn", "nothing", "could not be loaded"),
    ],
)
def test_options(
    folder: Path,
    image: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    message: str,
) -> None:
    check(explain(folder, image, option, value), message, capsys, image)


@pytest.mark.parametrize("command", ["app", "evaluate"])
def test_devices_of_the_bundled_model(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "app":
        pytest.importorskip("gradio")
    out = ["--out", str(tmp_path / "never")] if command == "evaluate" else []
    assert main([command, "--device", "cuda:99", *out]) == 2
    assert "--device cuda:99 can't be used here" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def picture(name: str, size: tuple[int, int] = (600, 400)) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        image = Image.radial_gradient("L").resize(size)
        image.convert("RGB").save(path, name)

    return write


def truncated(name: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        picture(name)(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])

    return write


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated PNG": (
        truncated("PNG"),
        "is damaged or incomplete",
    ),
    "a truncated JPEG": (
        truncated("JPEG"),
        "is damaged or incomplete: image file is truncated",
    ),
    "a decompression bomb": (
        lambda path: Image.new("1", (16_000, 12_000)).save(path, "PNG"),
        "is too large: Image size .* exceeds limit .* PIL.Image.MAX_IMAGE_PIXELS",
    ),
    "a program": (picture("EPS"), "is EPS, which is a program. .* convert it to PNG"),
    "nothing": (lambda path: path.write_bytes(b""), "nothing that Pillow knows"),
    "a text": (lambda path: path.write_text("<svg/>"), "nothing that Pillow knows"),
    "levels of unknown range": (
        lambda path: Image.new("F", (4, 4), 1e9).save(path, "TIFF"),
        "levels",
    ),
    "a folder": (a_folder, "there is no image file"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(
    folder: Path, image: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, message = IMAGES[name]
    change(image)
    check(explain(folder, image), message, capsys, image)


@pytest.mark.parametrize(
    "command",
    [
        ["explain", "--model", "m", "--image", "i", "--prompt", "p"],
        ["demo"],
        ["compare"],
    ],
    ids=lambda command: command[0],
)
def test_where_nothing_can_be_written(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is loaded, and an answer explained that could not be kept."""
    (tmp_path / "file").write_text("")
    for out in ("file", "file/out", "file/deep/out"):
        assert main([*command, "--out", str(tmp_path / out)]) == 2
        assert "file is a file, and no folder" in capsys.readouterr().err
