"""The block test: which image tokens notice that a block of the image has changed?

What an image processor really does is compared with where an adapter says that the
image tokens lie. Blocks of a dark original image are painted white; the tokens that
change are compared with the tokens whose boxes hold the block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum_dexar.maps.image_tokens import ImageTokenInput
from captum_dexar.maps.layout import ImageLayout
from PIL import Image
from torch import nn, Tensor

Block = tuple[int, int, int, int]

# PIL's bicubic kernel ends two pixels from its centre; when it shrinks an image, two
# pixels of the small one.
BICUBIC_SUPPORT = 2.0
# Height and width of images: square, odd, thin, smaller than a patch, and large.
SHAPES = (
    (48, 48),
    (33, 130),
    (130, 33),
    (71, 50),
    (20, 31),
    (31, 20),
    (9, 7),
    (401, 190),
    (300, 777),
    (16, 16),
)


@dataclass(frozen=True)
class BlockReport:
    """The result for all blocks of one image.

    Attributes:
        changed (Tensor): tokens that changed, ``(blocks, image tokens)``, bool
        covering (Tensor): tokens whose boxes overlap the block
        reachable (Tensor): tokens that resampling lets the block reach
    """

    changed: Tensor
    covering: Tensor
    reachable: Tensor


def dark_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """Quiet noise, near black: painting white changes every average by a lot."""
    noise = np.random.default_rng(seed).integers(20, 26, (height, width, 3))
    return Image.fromarray(noise.astype(np.uint8))


def random_blocks(height: int, width: int, count: int, seed: int = 0) -> list[Block]:
    """Blocks ``y0, x0, y1, x1`` of 4 x 4 pixels; larger or smaller on images that are
    shrunk to a tenth or hardly larger than a block."""
    generator = np.random.default_rng(seed)
    side = max(1, min(4, min(height, width) // 3), min(height, width) // 20)
    tops = generator.integers(0, height - side + 1, count)
    lefts = generator.integers(0, width - side + 1, count)
    return [(y, x, y + side, x + side) for y, x in zip(tops.tolist(), lefts.tolist())]


def painted(image: Image.Image, block: Block) -> Image.Image:
    y0, x0, y1, x1 = block
    pixels = np.array(image)
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


def block_report(
    inp: ImageTokenInput,
    blocks: list[Block],
    features: Callable[[Any], Tensor],
    token_pixels: int = 8,
    support: float = BICUBIC_SUPPORT,
) -> BlockReport:
    """Paints one block after the other and compares.

    Args:
        inp: the input of the original image
        blocks: what to paint
        features: of the processor's output for one image, ``(image tokens, size)``, in
            key order, tokens without a place included
        token_pixels: side of the square of the processed image that a token stands for
        support: of the resampling kernel, in pixels of the smaller image
    """
    images = [inp.image, *(painted(inp.image, block) for block in blocks)]
    with torch.no_grad():
        tokens = torch.stack([features(inp.processor_fn(image)) for image in images])
    difference = (tokens[1:] - tokens[:1]).abs().amax(-1)
    placed = inp.layout.placed
    report = BlockReport(
        changed=difference > 1e-5 * tokens.abs().max(),
        covering=torch.zeros(difference.shape, dtype=torch.bool),
        reachable=torch.zeros(difference.shape, dtype=torch.bool),
    )
    boxes, reaches = unclipped_boxes(inp.layout, token_pixels, support)
    for index, block in enumerate(blocks):
        report.covering[index, placed] = overlap(boxes, block)
        report.reachable[index, placed] = within_reach(boxes, reaches, block)
    return report


def unclipped_boxes(
    layout: ImageLayout, token_pixels: int = 8, support: float = BICUBIC_SUPPORT
) -> tuple[Tensor, Tensor]:
    """Boxes of all tokens, beyond the image's border too, and how far they reach.

    The outermost resampled pixel of a token has its centre half a pixel inside the
    token's square, and takes in original pixels whose centre is nearer than the
    kernel's end.

    Returns:
        ``(tokens, 4)`` boxes and ``(tokens, 2)`` reaches, vertical and horizontal.
    """
    every_box, every_reach = [], []
    for view in layout.views:
        assert view.rectangle is not None
        y0, x0, _, _ = view.rectangle
        rows, columns = view.grid
        step_y, step_x = view.cell_size
        boxes = torch.tensor(
            [
                [y0 + r * step_y, x0 + c * step_x, y0 + (r + 1) * step_y, 0.0]
                for r in range(rows)
                for c in range(columns)
            ],
            dtype=torch.float64,
        )
        boxes[:, 3] = boxes[:, 1] + step_x
        scales = (step_y / token_pixels, step_x / token_pixels)
        reach = [support * max(scale, 1.0) - 0.5 * scale for scale in scales]
        every_box.append(boxes)
        every_reach.append(torch.tensor(reach).expand(len(boxes), 2))
    return torch.cat(every_box), torch.cat(every_reach)


def overlap(boxes: Tensor, block: Block) -> Tensor:
    y0, x0, y1, x1 = boxes.T
    inside_y: Tensor = (y0 < block[2]) & (y1 > block[0])
    inside_x: Tensor = (x0 < block[3]) & (x1 > block[1])
    return inside_y.logical_and(inside_x)


def within_reach(boxes: Tensor, reach: Tensor, block: Block) -> Tensor:
    """Whether the nearest pixel centre of the block is within reach of the box."""
    y0, x0, y1, x1 = boxes.T
    up, side = reach.T
    near_y: Tensor = (block[0] + 0.5 < y1 + up) & (block[2] - 0.5 > y0 - up)
    near_x: Tensor = (block[1] + 0.5 < x1 + side) & (block[3] - 0.5 > x0 - side)
    return near_y.logical_and(near_x)


def check(report: BlockReport) -> None:
    """No token missed, and none changed that resampling can't reach."""
    missed = report.covering & ~report.changed
    assert not missed.any(), missed.nonzero().tolist()
    unexpected = report.changed & ~report.reachable
    assert not unexpected.any(), unexpected.nonzero().tolist()


def silence_vision_attention(
    model: nn.Module, tower: str = "vision_tower", output: str = "self_attn.out_proj"
) -> nn.Module:
    """Every image token is then a function of its own patch alone.

    Args:
        model: changed in place
        tower: part of the name of the vision tower's modules
        output: how the names of its attentions' output projections end
    """
    silenced = 0
    for name, module in model.named_modules():
        if tower in name and name.endswith(output):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
            silenced += 1
    assert silenced, "The vision tower has no attention to silence."
    return model


def patch_features(inputs: Any, patch_size: int = 8) -> Tensor:
    """Patches of the processed image in raster order, for any size of it."""
    pixels = inputs["pixel_values"]
    return nn.functional.unfold(pixels, patch_size, stride=patch_size)[0].T
