"""DEX-AR beside Integrated Gradients, the attribution that most people know."""

from typing import Any

from captum.attr import IntegratedGradients
from captum_dexar import LayerDexAR, VLMAttribution, VLMForward
from tests.benchmarks.models import answer, llava, prompt
from tests.benchmarks.ratios import Ratio, RatioTable
from tests.benchmarks.sizes import Sizes
from tests.benchmarks.timing import Side, timed_in_pairs

NUM_TOKENS = 2


def bench_integrated_gradients(
    benchmark: Any, ratios: RatioTable, sizes: Sizes
) -> None:
    """Few tokens and steps, as it is slow: a step is a forward and a backward pass of
    the whole prompt and the vision tower, for every token."""
    model, inputs = llava(sizes.grid, sizes.layers[-1]), prompt(sizes.grid)
    ids = answer(sizes.short)[0]
    dexar = VLMAttribution(LayerDexAR(model))
    gradients = VLMAttribution(IntegratedGradients(VLMForward(model)))

    def integrated(num_tokens: int, steps: int) -> object:
        return gradients.attribute(inputs, target=ids[:num_tokens], n_steps=steps)

    pairs = timed_in_pairs(
        benchmark,
        Side(lambda _: dexar.attribute(inputs, target=ids)),
        Side(
            run=lambda _: integrated(NUM_TOKENS, sizes.steps),
            warm_up=lambda: integrated(1, 1),
        ),
        rounds=1,
    )
    per_token = sizes.short / NUM_TOKENS
    ratio = pairs.reference_over_ours()
    ratios.add_times(
        f"Integrated Gradients, {sizes.steps} steps, over ours, per token",
        Ratio(ratio.median * per_token, ratio.best * per_token),
        note=(
            f"{pairs.reference[0] / NUM_TOKENS:.3g} s a token, measured on "
            f"{NUM_TOKENS}; ours {pairs.ours[0] / sizes.short:.3g} s a token, measured "
            f"on {sizes.short}, prompt included"
        ),
    )
