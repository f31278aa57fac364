"""How well a map finds an object whose mask is known.

Every function takes a map ``(H, W)`` and a mask of the same size; or a batch of maps
``(N, H, W)`` with one mask for all or one for each, and then returns a tensor ``(N,)``.
A map is min-max normalised to ``A`` in [0, 1] (a constant map becomes zero); the mask
is ``M``. So no score depends on the scale of a map. For a signed map, pass its positive
part (``heat.clamp(min=0)``).

A constant map points nowhere and scores 0. This is a convention, not what chance
scores: see :func:`captum_dexar.metrics.localization_chance`.
"""

import math
from typing import Any, TypeAlias

import torch
from captum_dexar.maps.normalization import min_max_normalize
from torch import Tensor

# Number of equally spaced thresholds for IoU, without the ends of [0, 1].
NUM_THRESHOLDS = 20

# A float for one map, a tensor (N,) for a batch. With a union of both, typed code would
# have to tell them apart at every call.
Score: TypeAlias = Any


def soft_iou(attribution_map: Tensor, mask: Tensor) -> Score:
    r"""Soft intersection over union, ``sum(AM) / (sum A + sum M - sum AM)``.

    Higher is better. A map of ones scores the object's share of the image,
    ``|M| / (H W)``.

    Args:
        attribution_map (Tensor): ``(H, W)``, or ``(N, H, W)``
        mask (Tensor): ``(H, W)``, or ``(N, H, W)``; nonzero on the object

    Returns:
        float, or *Tensor* ``(N,)``, in [0, 1]; 0 for a constant map.

    Raises:
        TypeError: map or mask is no tensor.
        ValueError: sizes differ, a map is not finite, or a mask is empty or holds NaN.

    Example::

        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> soft_iou(mask.float(), mask)
        1.0
        >>> soft_iou(torch.stack([mask, 1 - mask]).float(), mask).tolist()
        [1.0, 0.0]
    """
    heat, is_object, is_batch = _prepared(attribution_map, mask)
    shared = _total(heat * is_object)
    return _score(shared / (_total(heat) + _total(is_object) - shared), is_batch)


def best_iou(attribution_map: Tensor, mask: Tensor) -> Score:
    """Intersection over union of ``A >= threshold``, at the best of 20 thresholds.

    The thresholds are k / 21 for k from 1 to 20, and the best one is chosen for each
    map. Higher is better. A map of ones scores the object's share of the image.

    Args, Returns, Raises: as :func:`soft_iou`.

    Example::

        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> best_iou(torch.tensor([[0.0, 0.6], [0.5, 1.0]]), mask)
        1.0
    """
    heat, is_object, is_batch = _prepared(attribution_map, mask)
    num_maps, levels = len(heat), NUM_THRESHOLDS + 1
    thresholds = torch.tensor(
        [k / levels for k in range(1, levels)], dtype=heat.dtype, device=heat.device
    )
    # How many thresholds a pixel reaches; pixels are counted by this number.
    reached = torch.bucketize(heat.flatten(1), thresholds, right=True)
    reached += levels * torch.arange(num_maps, device=heat.device)[:, None]
    inside = (is_object > 0).flatten(1).expand(num_maps, -1)

    def at_least(reached: Tensor) -> Tensor:
        """Number of pixels that reach each threshold, ``(N, thresholds)``."""
        counts = torch.bincount(reached.flatten(), minlength=num_maps * levels)
        return counts.view(num_maps, levels).flip(1).cumsum(1).flip(1)[:, 1:]

    shared = at_least(reached[inside]).to(heat.dtype)
    found = at_least(reached).to(heat.dtype)
    union = found + _total(is_object)[:, None] - shared
    return _score((shared / union).amax(1), is_batch)


def energy_pointing_game(attribution_map: Tensor, mask: Tensor) -> Score:
    """The share of the map that lies on the object, ``sum(AM) / sum(A)``.

    Higher is better. Maps whose pixels have no relation to the object score its share
    of the image on average, and a map of ones exactly that.

    Args, Returns, Raises: as :func:`soft_iou`.

    Example::

        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> energy_pointing_game(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), mask)
        0.5
    """
    heat, is_object, is_batch = _prepared(attribution_map, mask)
    total = _total(heat)
    share = _total(heat * is_object) / total.where(total > 0, 1.0)
    return _score(share, is_batch)


def pointing_game(
    attribution_map: Tensor, mask: Tensor, tolerance: float = 0.0
) -> Score:
    """Whether the map's maximum hits the object.

    If several pixels share the maximum (a grid cell rendered without interpolation),
    their centre of mass is used; a constant map points nowhere and is a miss. Chance is
    the share of pixels within the tolerance: a random pixel as the maximum.

    Args:
        attribution_map (Tensor): ``(H, W)``, or ``(N, H, W)``
        mask (Tensor): ``(H, W)``, or ``(N, H, W)``; nonzero on the object
        tolerance (float, optional): distance from the object, in pixels, within which a
            maximum still counts as a hit. Default: 0.0

    Returns:
        bool, or *Tensor* ``(N,)`` of bool

    Raises:
        TypeError, ValueError: as :func:`soft_iou`.
        ValueError: ``tolerance`` is negative, infinite or NaN.

    Example::

        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> pointing_game(torch.tensor([[0.0, 0.6], [0.5, 1.0]]), mask)
        True
    """
    check_tolerance(tolerance)
    heat, is_object, is_batch = _prepared(attribution_map, mask)
    peak = (heat == heat.amax((1, 2), keepdim=True)).to(heat.dtype)
    num_peaks = _total(peak)
    squares = []
    for axis in (1, 2):
        places = torch.arange(heat.shape[axis], dtype=heat.dtype, device=heat.device)
        centre = (peak.sum(3 - axis) * places).sum(1) / num_peaks
        distance = (places - centre[:, None]) ** 2
        squares.append(distance.unsqueeze(3 - axis))
    squared = (squares[0] + squares[1]).where(is_object > 0, torch.inf)
    # Half a pixel's diagonal: the distance from a pixel's centre to its corner.
    is_near = squared.amin((1, 2)).sqrt() <= max(tolerance, 0.5**0.5)
    hits = is_near & (heat > 0).any(2).any(1)
    return hits if is_batch else bool(hits)


def signal_to_noise(attribution_map: Tensor, mask: Tensor) -> Score:
    r"""Mean of the map on the object over its mean elsewhere, in dB.

    ``10 log10( (<A, M> / |M|) / (<A, 1 - M> / |1 - M|) )``. Higher is better; 0 is no
    difference, which a map of ones has.

    Args, Raises: as :func:`soft_iou`.

    Returns:
        float, or *Tensor* ``(N,)``; 0 for a constant map and for an object that fills
        the image, ``inf`` if the map is zero elsewhere and ``-inf`` if it is zero on
        the object.

    Example::

        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> signal_to_noise(torch.tensor([[0.1, 1.0], [0.0, 1.0]]), mask)
        13.0...
    """
    heat, is_object, is_batch = _prepared(attribution_map, mask)
    elsewhere = 1 - is_object
    area = _total(elsewhere)
    signal = _total(heat * is_object) / _total(is_object)
    noise = _total(heat * elsewhere) / area.where(area > 0, 1.0)
    has_both = (heat > 0).any(2).any(1) & (area > 0)
    decibels = 10 * torch.log10(signal / noise)
    return _score(decibels.where(has_both, 0.0), is_batch)


def check_tolerance(tolerance: float) -> None:
    """Raises ValueError for a distance that is none."""
    if not 0 <= tolerance < math.inf:
        raise ValueError(
            "tolerance must be a distance in pixels, 0 or greater, and finite, got "
            f"{tolerance}."
        )


def _prepared(attribution_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The normalised maps ``(N, H, W)``, their masks ``(N or 1, H, W)`` in the same
    dtype, and whether a batch was given."""
    _check_tensor("map", attribution_map)
    _check_tensor("mask", mask)
    is_batch = attribution_map.dim() == 3
    shapes = [attribution_map.shape, attribution_map.shape[-2:]][: 1 + is_batch]
    if attribution_map.dim() not in (2, 3) or mask.shape not in shapes:
        raise ValueError(
            "Expected a map (H, W) and a mask of one size, or maps (N, H, W) and one "
            f"mask or N masks, got {tuple(attribution_map.shape)} and "
            f"{tuple(mask.shape)}. Resize the map first "
            "(VLMAttributionResult.pixel_map does)."
        )
    if not attribution_map.numel():
        raise ValueError(f"The map is empty: {tuple(attribution_map.shape)}.")
    if not bool(torch.isfinite(attribution_map).all()):
        raise ValueError("The map holds NaN or infinite values.")
    is_object = object_masks(mask)
    maps = attribution_map.view(-1, *attribution_map.shape[-2:])
    heat = min_max_normalize(maps.flatten(1)).view(maps.shape)
    return heat, is_object.to(heat.device, heat.dtype), is_batch


def object_masks(mask: Tensor) -> Tensor:
    """Masks ``(H, W)`` or ``(N, H, W)`` as bool ``(N, H, W)``.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape, holds NaN, or one of them is empty.
    """
    _check_tensor("mask", mask)
    if mask.dim() not in (2, 3):
        raise ValueError(
            f"Expected a mask (H, W) or masks (N, H, W), got {tuple(mask.shape)}."
        )
    if bool(mask.isnan().any()):
        raise ValueError("The mask holds NaN.")
    is_object = mask.to(torch.bool)
    is_object = is_object if mask.dim() == 3 else is_object[None]
    if not len(is_object):
        raise ValueError("There is no mask.")
    if not bool(is_object.flatten(1).any(1).all()):
        raise ValueError("The mask is empty: there is no object to find.")
    return is_object


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"The {name} must be a tensor, got {type(value).__name__}; torch.as_tensor "
            "makes one of an array."
        )


def _total(values: Tensor) -> Tensor:
    return values.sum((1, 2))


def _score(scores: Tensor, is_batch: bool) -> Score:
    return scores if is_batch else float(scores)
