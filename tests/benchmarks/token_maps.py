"""DEX-AR's token maps from gradients that a reference made its own way."""

from captum_dexar.methods import scoring
from torch import Tensor


def token_maps(gradients: Tensor, is_image: Tensor) -> Tensor:
    """Equations (4) and (5).

    Args:
        gradients (Tensor): ``(num_tokens, layers, heads, keys)``, zero at keys that a
            query may not attend to
        is_image (Tensor): which keys are image tokens, ``(keys,)``

    Returns:
        *Tensor* ``(num_tokens, image tokens)``, un-normalised.
    """
    image = gradients[..., is_image]
    text = gradients[..., ~is_image]
    weights = scoring.head_weights(
        scoring.head_scores(image), scoring.head_scores(text)
    )
    return scoring.token_map(image, weights).sum(1)


def relative_error(maps: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value of each token's map."""
    expected = expected.to(maps.dtype)
    largest = expected.amax(-1).clamp(min=1e-30)
    return float(((maps - expected).abs().amax(-1) / largest).max())
