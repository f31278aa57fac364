"""A family that no adapter knows: derived and checked, given, or refused."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
from captum_dexar.families import adapter_for_config, register, registry
from captum_dexar.families.generic import GenericAdapter
from tests.helpers.blocks import (
    block_report,
    check,
    dark_image,
    random_blocks,
    silence_vision_attention,
)
from tests.helpers.explained import assert_same, explained
from tests.helpers.tiny_models import prompt_inputs, random_targets
from tests.helpers.unknown_family import unknown_model, unknown_processor


@pytest.fixture(scope="module")
def model() -> Any:
    return unknown_model()


@pytest.fixture(scope="module")
def processor() -> Any:
    return unknown_processor()


def test_the_family_is_not_known(model: Any) -> None:
    assert adapter_for_config(model.config).name == "others"


def test_the_readme_s_adapter(model: Any, processor: Any) -> None:
    """It is complete: it puts the tokens where the padded square has them."""
    readme = Path(__file__).parents[2] / "captum_dexar/families/README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "class OwnAdapter" in block]
    known = list(registry._ADAPTERS)
    try:
        exec(block, {"__name__": "readme"})
        assert adapter_for_config(model.config).name == "our model"
        silenced: Any = silence_vision_attention(copy.deepcopy(model), "vision_model")
        for shape in ((20, 60), (60, 15), (37, 37), (300, 100), (9, 12)):
            inp = ImagePromptInput(dark_image(*shape), "<image> a", processor, silenced)
            report = block_report(
                inp,
                random_blocks(*shape, 8),
                lambda inputs: silenced.model.get_image_features(
                    inputs["pixel_values"]
                ).pooler_output[0],
            )
            check(report)
            assert report.covering.any()
        result = VLMAttribution(LayerDexAR(model)).attribute(
            prompt_inputs(), target=[7]
        )
        assert result.grid == (4, 4)
    finally:
        registry._ADAPTERS[:] = known


def test_only_adapters_can_be_registered() -> None:
    with pytest.raises(TypeError, match="FamilyAdapter, got"):
        register(GenericAdapter)  # type: ignore[arg-type]


def test_gradients_equal_autograd(model: Any) -> None:
    inputs, targets = prompt_inputs(0), random_targets(4)
    reference = explained(model, inputs, targets, engine="autograd")
    assert_same(explained(model, inputs, targets), reference)


def test_a_grid_that_fits_is_found(model: Any, processor: Any) -> None:
    inp = ImagePromptInput(dark_image(40, 40), "is <image> a", processor, model)
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target=[7, 8])
    assert result.token_maps.shape == (2, 4, 4)
    assert result.boxes[5].tolist() == [10, 10, 20, 20]


def test_from_model_inputs_alone(model: Any) -> None:
    result = VLMAttribution(LayerDexAR(model)).attribute(prompt_inputs(), target=[7])
    assert result.grid == (4, 4) and result.boxes is None


def test_a_grid_that_does_not_fit_is_refused(model: Any, processor: Any) -> None:
    inp = ImagePromptInput(dark_image(20, 60), "is <image> a", processor, model)
    method = VLMAttribution(LayerDexAR(model), processor)
    with pytest.raises(ValueError, match="does not fit.*register an adapter"):
        method.attribute(inp, target=[7])


def test_given_boxes_are_believed(model: Any, processor: Any) -> None:
    """Those of the padded square: rows of 15 pixels, 20 pixels above the image."""
    boxes = torch.tensor(
        [
            [15.0 * r - 20, 15.0 * c, 15.0 * r - 5, 15.0 * c + 15]
            for r in range(4)
            for c in range(4)
        ]
    )
    inp = ImagePromptInput(
        dark_image(20, 60), "is <image> a", processor, model, boxes=boxes
    )
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target=[7])
    clipped = boxes.clone()
    clipped[:, 0::2] = clipped[:, 0::2].clamp(0, 20)
    torch.testing.assert_close(result.boxes.float(), clipped)
    on_image = result.token_attr[0, 4:12].sum()
    torch.testing.assert_close(
        result.placeless_share[0], 1 - on_image / result.token_attr[0].sum()
    )
    heat = result.pixel_map(0)
    assert heat.shape == (20, 60) and heat.max() > 0.9


def test_a_given_grid_is_believed(model: Any, processor: Any) -> None:
    inp = ImagePromptInput(
        dark_image(20, 60), "is <image> a", processor, model, grid=(2, 8)
    )
    result = VLMAttribution(LayerDexAR(model), processor).attribute(inp, target=[7])
    assert result.token_maps.shape == (1, 2, 8)
    result = VLMAttribution(LayerDexAR(model)).attribute(
        prompt_inputs(), target=[7], grid=(8, 2)
    )
    assert result.token_maps.shape == (1, 8, 2)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"grid": (3, 5)}, "15 cells, but the prompt has 16"),
        ({"boxes": torch.zeros(4, 4)}, r"\(16, 4\), got \(4, 4\)"),
        ({"boxes": torch.zeros(16, 4)}, "y1 > y0"),
        ({"grid": (4, 4), "boxes": torch.zeros(16, 4)}, "not both"),
    ],
)
def test_places_that_can_not_be(
    model: Any, processor: Any, places: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePromptInput(dark_image(20, 60), "is <image> a", processor, model, **places)


def test_tokens_that_make_no_square_are_refused(model: Any) -> None:
    inputs = prompt_inputs()
    inputs["input_ids"] = inputs["input_ids"][:, 6:]
    with pytest.raises(ValueError, match="no square grid.*grid=\\(rows, columns\\)"):
        VLMAttribution(LayerDexAR(model)).attribute(inputs, target=[7])
