"""The best maps there can be: the true mask itself, and the true effects."""

from __future__ import annotations

import torch
from captum_dexar.baselines import LayerUniformMap
from captum_dexar.maps.layout import ImageLayout
from torch import Tensor


class TrueMaskOracle(LayerUniformMap):
    """Stands for the true mask among the methods of a protocol.

    What it scores is the most that maps of this model's image tokens can. It is no
    explanation: protocols replace its map by the mask of the region that they measure,
    pooled to the image tokens by :func:`pooled_mask`. Elsewhere it is a uniform map.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerUniformMap`
    """

    name = "True mask (oracle)"


class EffectsOracle(LayerUniformMap):
    """Stands for the true effects of objects among the methods of a protocol.

    :class:`EffectsProtocol` replaces its map by the true effects themselves, each
    spread evenly over its object's pixels: shares and effects are then equal. Elsewhere
    it is a uniform map.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerUniformMap`
    """

    name = "True effects (oracle)"


class EffectsTokensOracle(EffectsOracle):
    """:class:`EffectsOracle`, pooled to the model's image tokens.

    The most that a map of image tokens can score: between pixels of two tokens it is
    interpolated like any other map.

    Args:
        forward_func, layer, device_ids: as in :class:`LayerUniformMap`
    """

    name = "True effects, on image tokens (oracle)"


def pooled_mask(mask: Tensor, layout: ImageLayout, image: int = 0) -> Tensor:
    """The share of each image token's box that a mask covers.

    Args:
        mask (Tensor): ``(H, W)`` on the original image, True on the object
        layout (ImageLayout): places of the image tokens
        image (int, optional): index of the image. Default: 0

    Returns:
        *Tensor* ``(N,)`` in [0, 1], float32, one value per token with a place; zero for
        tokens of other images and for boxes on padding only.

    Raises:
        ValueError: the original image is not known, or differs from the mask in size.

    Examples::

        >>> import torch
        >>> from captum_dexar.evaluation.oracle import pooled_mask
        >>> from captum_dexar.maps.layout import ImageLayout, View
        >>> layout = ImageLayout(2, (View("image", (1, 2), (0, 0, 2, 4)),), ((2, 4),))
        >>> mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
        >>> pooled_mask(mask, layout).tolist()
        [1.0, 0.25]
    """
    sizes = layout.image_sizes
    if sizes is None or tuple(mask.shape) != tuple(sizes[image]):
        known = "not known" if sizes is None else f"{tuple(sizes[image])}"
        raise ValueError(
            f"The mask must have the size of the image, which is {known}, got "
            f"{tuple(mask.shape)}."
        )
    pooled = []
    for view, _ in layout.columns():
        if view.image != image:
            pooled.append(torch.zeros(view.num_tokens))
            continue
        height, width = sizes[image]
        rows = _overlaps(view.edges(0, height), height)
        columns = _overlaps(view.edges(1, width), width)
        covered = rows @ mask.double() @ columns.T
        area = rows.sum(1)[:, None] * columns.sum(1)
        pooled.append((covered / area.where(area > 0, 1.0)).flatten().float())
    return torch.cat(pooled)


def _overlaps(edges: Tensor, num_pixels: int) -> Tensor:
    """How much of each pixel lies between two edges, ``(cells, pixels)``."""
    starts = torch.arange(num_pixels, dtype=torch.float64)
    stop = torch.minimum(edges[1:, None], starts + 1)
    return (stop - torch.maximum(edges[:-1, None], starts)).clamp(min=0)
