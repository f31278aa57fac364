"""Measures of the quality of attribution maps."""

from captum_dexar.metrics.chance import localization_chance
from captum_dexar.metrics.effects import (
    effect_agreement,
    EffectAgreement,
    object_shares,
    rank_agreement,
    removal_effects,
)
from captum_dexar.metrics.localization import (
    best_iou,
    energy_pointing_game,
    pointing_game,
    signal_to_noise,
    soft_iou,
)
from captum_dexar.metrics.perturbation import (
    normalized_perplexity,
    perturbation_curve,
    PerturbationCurve,
)
from captum_dexar.metrics.pixels import on_pixels
from captum_dexar.metrics.sufficiency import Sufficiency, sufficiency
from captum_dexar.metrics.token_weights import token_weight_auroc

__all__ = [
    "EffectAgreement",
    "PerturbationCurve",
    "Sufficiency",
    "best_iou",
    "effect_agreement",
    "energy_pointing_game",
    "localization_chance",
    "normalized_perplexity",
    "object_shares",
    "on_pixels",
    "perturbation_curve",
    "pointing_game",
    "rank_agreement",
    "removal_effects",
    "signal_to_noise",
    "soft_iou",
    "sufficiency",
    "token_weight_auroc",
]
