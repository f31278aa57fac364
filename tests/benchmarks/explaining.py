"""The package's side of the benchmarks: explaining on a cache that generating left."""

import copy
from typing import Any

import torch
from captum_dexar import LayerDexAR
from captum_dexar.decoding import DecodingSteps
from tests.benchmarks.models import answer, prefilled
from tests.benchmarks.timing import Side
from torch import Tensor


def explaining_on_cache(
    model: Any, inputs: dict[str, Tensor], num_tokens: int, cache: Any = None
) -> Side:
    """Explaining ``num_tokens``, each time on a fresh copy of the prompt's cache.

    The model's logits of the tokens are known, as they are after generating.

    Args:
        model: the LLaVA
        inputs (dict): one prompt, or several
        num_tokens (int): of the answer
        cache (DynamicCache, optional): holds the prompt but its last token.
            Default: computed
    """
    method = LayerDexAR(model)
    ids = answer(num_tokens, inputs["input_ids"].shape[0])
    if cache is None:
        cache = prefilled(model, inputs)
    given = DecodingSteps(model, inputs, ids)
    with torch.no_grad():
        said = given.cheapest_pass(copy.deepcopy(cache)).say()
    return Side(
        run=lambda fresh: method.attribute_steps(
            DecodingSteps(model, inputs, ids, said), fresh
        ),
        prepare=lambda: copy.deepcopy(cache),
    )
