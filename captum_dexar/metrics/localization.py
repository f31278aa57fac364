"""How well a map finds an object whose mask is known.

Every function takes one map and one mask of the same size. The map is min-max
normalised to ``A`` in [0, 1] (a constant map becomes zero); the mask is ``M``. For a
signed map, pass its positive part (``heat.clamp(min=0)``).
"""

import torch
from captum_dexar.maps.normalization import min_max_normalize
from torch import Tensor

# Number of equally spaced thresholds for IoU, without the ends of [0, 1].
NUM_THRESHOLDS = 20


def _prepared(attribution_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if attribution_map.dim() != 2 or attribution_map.shape != mask.shape:
        raise ValueError(
            "The map and the mask must be 2-D and of one size, got "
            f"{tuple(attribution_map.shape)} and {tuple(mask.shape)}. Resize the map "
            "first (VLMAttributionResult.pixel_map does)."
        )
    if not bool(torch.isfinite(attribution_map).all()):
        raise ValueError("The map holds NaN or infinite values.")
    is_object = mask.to(torch.bool)
    if not bool(is_object.any()):
        raise ValueError("The mask is empty: there is no object to find.")
    flat = min_max_normalize(attribution_map.flatten())
    return flat.view(attribution_map.shape), is_object.to(flat.dtype)


def soft_iou(attribution_map: Tensor, mask: Tensor) -> float:
    r"""Soft intersection over union, ``sum(AM) / (sum A + sum M - sum AM)``.

    Args:
        attribution_map (Tensor): ``(H, W)``
        mask (Tensor): ``(H, W)``, nonzero on the object

    Returns:
        float in [0, 1]; 0 for a constant map.

    Raises:
        ValueError: sizes differ, the map is not finite or the mask is empty.

    Example::

        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> soft_iou(mask.float(), mask)
        1.0
    """
    heat, is_object = _prepared(attribution_map, mask)
    shared = (heat * is_object).sum()
    return float(shared / (heat.sum() + is_object.sum() - shared))


def best_iou(attribution_map: Tensor, mask: Tensor) -> float:
    """Intersection over union of ``A >= threshold``, at the best of 20 thresholds.

    The thresholds are k / 21 for k from 1 to 20. Arguments and errors as in
    :func:`soft_iou`; 0 for a constant map.
    """
    heat, is_object = _prepared(attribution_map, mask)
    best = 0.0
    for k in range(1, NUM_THRESHOLDS + 1):
        found = (heat >= k / (NUM_THRESHOLDS + 1)).to(heat.dtype)
        shared = (found * is_object).sum()
        best = max(best, float(shared / (found.sum() + is_object.sum() - shared)))
    return best


def energy_pointing_game(attribution_map: Tensor, mask: Tensor) -> float:
    """The share of the map that lies on the object, ``sum(AM) / sum(A)``.

    Arguments and errors as in :func:`soft_iou`; 0 for a constant map.
    """
    heat, is_object = _prepared(attribution_map, mask)
    total = heat.sum()
    return float((heat * is_object).sum() / total) if total > 0 else 0.0


def pointing_game(
    attribution_map: Tensor, mask: Tensor, tolerance: float = 0.0
) -> bool:
    """Whether the map's maximum hits the object.

    If several pixels share the maximum (a grid cell rendered without interpolation),
    their centre of mass is used; a constant map points nowhere and is a miss.

    Args:
        attribution_map (Tensor): ``(H, W)``
        mask (Tensor): ``(H, W)``, nonzero on the object
        tolerance (float, optional): distance from the object, in pixels, within which a
            maximum still counts as a hit. Default: 0.0

    Returns:
        bool

    Raises:
        ValueError: as :func:`soft_iou`.
    """
    heat, is_object = _prepared(attribution_map, mask)
    if not bool(heat.any()):
        return False
    peak = (heat == heat.max()).nonzero().double().mean(0)
    distances = (is_object.nonzero().double() - peak).norm(dim=1)
    # Half a pixel's diagonal: the distance from a pixel's centre to its corner.
    return bool(distances.min() <= max(tolerance, 0.5**0.5))


def signal_to_noise(attribution_map: Tensor, mask: Tensor) -> float:
    r"""Mean of the map on the object over its mean elsewhere, in dB.

    ``10 log10( (<A, M> / |M|) / (<A, 1 - M> / |1 - M|) )``

    Arguments and errors as in :func:`soft_iou`.

    Returns:
        float; 0 for a constant map and for an object that fills the image, ``inf`` if
        the map is zero elsewhere and ``-inf`` if it is zero on the object.
    """
    heat, is_object = _prepared(attribution_map, mask)
    elsewhere = 1 - is_object
    if not bool(heat.any()) or not bool(elsewhere.any()):
        return 0.0
    signal = (heat * is_object).sum() / is_object.sum()
    noise = (heat * elsewhere).sum() / elsewhere.sum()
    return float(10 * torch.log10(signal / noise))
