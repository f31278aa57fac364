"""Places are those of these pixels, whatever is done around the processor's call."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import ImageMaskInput
from captum_dexar import ImagePromptInput
from captum_dexar.inputs import read_prompt
from captum_dexar.inputs.processor_watch import watched_image_processors
from captum_dexar.shapes import load_vlm, make_scene
from PIL import Image, ImageOps
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

PROMPT = "USER: <image>\nDescribe it. ASSISTANT:"
SQUARE = {"height": 96, "width": 96}
STRETCHED = {"do_center_crop": False, "size": SQUARE}
METHOD = "_preprocess_image_like_inputs"

Process = Callable[[Any], Any]


@pytest.fixture(scope="module", name="vlm")
def _vlm() -> tuple[Any, Any]:
    return load_vlm()


@pytest.fixture(scope="module", name="image")
def _image() -> Image.Image:
    """96 high, 192 wide, with a black border at the left."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 192, 3)).astype(np.uint8)
    pixels[:, :40] = 0
    return Image.fromarray(pixels)


def extent(vlm: tuple[Any, Any], image: Image.Image, process: Process) -> list[float]:
    """What all image tokens together cover."""
    model, processor = vlm
    inp = ImageMaskInput(image, processor_fn=process)
    boxes = read_prompt(inp, model, processor, target=[7]).layout.boxes()
    assert boxes is not None and len(boxes) == 144
    return [*boxes[:, :2].amin(0).tolist(), *boxes[:, 2:].amax(0).tolist()]


def calling(processor: Any, before: Process = lambda x: x, **settings: Any) -> Process:
    def process(image: Any) -> Any:
        return processor(
            images=before(image), text=PROMPT, return_tensors="pt", **settings
        )

    return process


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 48, 96, 144]),
        (STRETCHED, [0, 0, 96, 192]),
        ({"size": {"shortest_edge": 120}}, [9.6, 57.6, 86.4, 134.4]),
        ({"do_resize": False}, [0, 48, 96, 144]),
    ],
    ids=str,
)
def test_settings_of_the_call(
    vlm: tuple[Any, Any],
    image: Image.Image,
    settings: dict[str, Any],
    expected: list[float],
) -> None:
    process = calling(vlm[1], **settings)
    assert extent(vlm, image, process) == pytest.approx(expected)


@pytest.mark.parametrize(
    "before",
    [
        lambda image: image.resize((150, 150)),
        lambda image: np.asarray(image),
        lambda image: np.moveaxis(np.asarray(image), -1, 0),
    ],
    ids=["resized", "array", "channels first"],
)
def test_the_same_picture_in_another_form(
    vlm: tuple[Any, Any], image: Image.Image, before: Process
) -> None:
    process = calling(vlm[1], before, **STRETCHED)
    assert extent(vlm, image, process) == pytest.approx([0, 0, 96, 192])


@pytest.mark.parametrize(
    "before",
    [
        ImageOps.mirror,
        ImageOps.flip,
        lambda image: image.rotate(180),
        lambda image: image.rotate(4),
        lambda image: image.crop((0, 0, 96, 96)),
        lambda image: image.crop((4, 2, 188, 94)),
        lambda image: ImageOps.pad(image, (192, 192)),
        # Depends on the image: it cuts the border off.
        lambda image: image.crop(image.getbbox()),
    ],
    ids=["mirror", "flip", "turn", "tilt", "crop", "little crop", "pad", "border"],
)
def test_another_picture_is_refused(
    vlm: tuple[Any, Any], image: Image.Image, before: Process
) -> None:
    process = calling(vlm[1], before, **STRETCHED)
    with pytest.raises(ValueError, match=r"grid=\(rows, columns\) or boxes="):
        extent(vlm, image, process)


def test_pixels_that_are_changed_after_the_call(
    vlm: tuple[Any, Any], image: Image.Image
) -> None:
    plain = calling(vlm[1])

    def brighter(image: Any) -> Any:
        made = plain(image)
        return {**made, "pixel_values": 1.1 * made["pixel_values"] + 0.1}

    def flipped(image: Any) -> Any:
        made = plain(image)
        return {**made, "pixel_values": made["pixel_values"].flip(-1)}

    def other_each_time(image: Any) -> Any:
        made = plain(image)
        return {**made, "pixel_values": made["pixel_values"] + torch.rand(())}

    assert extent(vlm, image, brighter) == pytest.approx([0, 48, 96, 144])
    with pytest.raises(ValueError, match="grid="):
        extent(vlm, image, flipped)
    with pytest.raises(ValueError, match="Remove what is random"):
        extent(vlm, image, other_each_time)


def test_a_pipeline_without_the_image_processor(
    vlm: tuple[Any, Any], image: Image.Image
) -> None:
    """Its places are those of the stored settings, or refused; or they are given."""
    model, processor = vlm

    def pipeline(crops: bool) -> Process:
        def process(image: Any) -> Any:
            shown = ImageOps.fit(image, (96, 96)) if crops else image.resize((96, 96))
            pixels = torch.tensor(np.asarray(shown)).permute(2, 0, 1)[None] / 255
            text = PROMPT.replace("<image>", 144 * "<image>")
            ids = processor.tokenizer(text, return_tensors="pt")
            return {**ids, "pixel_values": (pixels - 0.5) / 0.25}

        return process

    assert extent(vlm, image, pipeline(True)) == pytest.approx([0, 48, 96, 144])
    with pytest.raises(ValueError, match="grid="):
        extent(vlm, image, pipeline(False))
    inp = ImageMaskInput(image, processor_fn=pipeline(False))
    layout = read_prompt(inp, model, processor, target=[7], grid=(12, 12)).layout
    assert layout.views[0].rectangle == (0, 0, 96, 192)


class _Cropping(CLIPImageProcessorPil):
    """Looks at the left half of the image only."""

    def resize(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        return super().resize(image[..., : image.shape[-1] // 2], *args, **kwargs)


def test_image_processors_that_are_not_those_of_transformers(
    image: Image.Image,
) -> None:
    model, processor = load_vlm()
    plain = processor.image_processor
    settings = {"image_mean": plain.image_mean, "image_std": plain.image_std}
    processor.image_processor = _Cropping(**STRETCHED, **settings)
    inp = ImagePromptInput(image, PROMPT, processor, model)
    with pytest.raises(ValueError, match="grid="):
        read_prompt(inp, model, processor, target=[7])
    processor.image_processor = plain
    resize = plain.resize
    plain.resize = lambda image, *args, **kwargs: resize(
        image[..., ::-1].copy(), *args, **kwargs
    )
    inp = ImagePromptInput(image, PROMPT, processor, model)
    with pytest.raises(ValueError, match="grid="):
        read_prompt(inp, model, processor, target=[7])


def test_a_method_that_is_replaced_in_the_class(
    image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_vlm()
    kind = type(processor.image_processor)
    resize = kind.resize

    def mirrored(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
        return resize(self, image[..., ::-1].copy(), *args, **kwargs)

    monkeypatch.setattr(kind, "resize", mirrored)
    inp = ImagePromptInput(image, PROMPT, processor, model)
    with pytest.raises(ValueError, match="grid="):
        read_prompt(inp, model, processor, target=[7])
    monkeypatch.undo()
    inp = ImagePromptInput(image, PROMPT, processor, model)
    assert read_prompt(inp, model, processor, target=[7]).layout.is_located


def test_only_calls_of_this_thread_are_seen(
    vlm: tuple[Any, Any], image: Image.Image
) -> None:
    process, plain = calling(vlm[1]), getattr(BaseImageProcessor, METHOD)
    seen_by_other: list[Any] = []

    def other() -> None:
        process(image)
        with watched_image_processors() as calls:
            process(image)
        seen_by_other.extend(calls)

    with watched_image_processors() as calls:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert calls == []
        process(image)
        assert len(calls) == 1 and calls[0].settings["do_center_crop"]
    assert len(seen_by_other) == 1
    assert getattr(BaseImageProcessor, METHOD) is plain


def test_pixels_that_are_flipped_in_place_are_refused() -> None:
    model, processor = load_vlm()
    text = "USER: <image>\nDescribe the image. ASSISTANT:"

    def flipped(image: Any) -> Any:
        made = processor(images=image, text=text, return_tensors="pt")
        made["pixel_values"].copy_(made["pixel_values"].flip(-1))
        return made

    inp = ImageMaskInput(make_scene(0).image, processor_fn=flipped)
    with pytest.raises(ValueError, match="grid="):
        read_prompt(inp, model, processor, target=[7])
