"""What maps that know nothing of the object score in localisation."""

import torch
from captum_dexar.maps.normalization import widened_for_sums
from captum_dexar.metrics.localization import check_tolerance, object_masks, Score
from torch import Tensor


def localization_chance(mask: Tensor, tolerance: float = 0.0) -> dict[str, Score]:
    r"""What chance scores in each localisation measure, from the mask alone.

    - ``soft_iou``, ``best_iou``, ``energy_pointing_game``: the object's share of the
      image, ``|M| / (H W)``. That is what a map of ones scores, without normalisation.
      For the energy-based pointing game it is also the expected score of every random
      map whose pixels are exchangeable.
    - ``pointing_game``: the share of pixels that are a hit, i.e. lie within the
      tolerance of the object: the expected score of a random pixel as the maximum.
    - ``signal_to_noise``: 0 dB, no difference.

    A constant map as such has no maximum and no contrast, and the measures give it 0 by
    convention. So compare methods with the values of this function, not with the score
    of a constant map. Random smooth maps (:class:`LayerRandomMap`) score less in
    soft-IoU and more in best IoU, where the best threshold is chosen; those values have
    no closed form and have to be measured. So do chance scores of perturbation curves
    and of sufficiency, which depend on the model. The chance level of
    :func:`token_weight_auroc` is 0.5.

    Args:
        mask (Tensor): ``(H, W)``, or ``(N, H, W)``; nonzero on the object
        tolerance (float, optional): that of :func:`pointing_game`. Default: 0.0

    Returns:
        dict of float, or of *Tensor* ``(N,)``, by the name of the measure's function

    Raises:
        TypeError: the mask is no tensor.
        ValueError: the mask has another shape, is empty or holds NaN, or ``tolerance``
            is negative, infinite or NaN.

    Examples::

        >>> import torch
        >>> from captum_dexar.metrics import localization_chance
        >>> mask = torch.zeros(10, 10)
        >>> mask[2:4, 3:8] = 1
        >>> chance = localization_chance(mask, tolerance=1)
        >>> chance["soft_iou"], chance["pointing_game"], chance["signal_to_noise"]
        (0.1, 0.24, 0.0)
    """
    check_tolerance(tolerance)
    is_object = object_masks(mask)
    area = _share(is_object)
    found = {name: area for name in ("soft_iou", "best_iou", "energy_pointing_game")}
    found["pointing_game"] = _share(_within(is_object, tolerance))
    found["signal_to_noise"] = torch.zeros_like(area)
    if mask.dim() == 3:
        return dict(found)
    return {name: float(value) for name, value in found.items()}


def _share(masks: Tensor) -> Tensor:
    return widened_for_sums(masks).mean((1, 2))


def _within(masks: Tensor, distance: float) -> Tensor:
    """Pixels whose centre is no further than this from that of a mask's pixel."""
    reach = int(distance)
    if reach < 1:
        return masks
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disc = (offsets**2 + offsets[:, None] ** 2 <= distance**2).float()
    counts = torch.nn.functional.conv2d(
        masks[:, None].float(), disc.to(masks.device)[None, None], padding=reach
    )
    return counts[:, 0] > 0.5
