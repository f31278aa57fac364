"""Perturbation curves, literally: an image, a processor's call and a pass per token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn, Tensor

# What a token of the answer has there, in the families that are tried.
GROWING = {"attention_mask": 1, "token_type_ids": 1, "mm_token_type_ids": 0}


def literal_log_probs(
    model: nn.Module, made: Any, answer: Sequence[int]
) -> list[float]:
    """Of each token of an answer, by a pass over every prefix.

    Args:
        model: the model
        made: what the processor makes of prompt and images
        answer: ids
    """
    found = []
    config: Any = model.config
    for step, token in enumerate(answer):
        inputs = {name: value for name, value in made.items() if name != "labels"}
        ids = torch.tensor([list(answer[:step])], dtype=torch.long)
        if config.is_encoder_decoder:
            start = torch.tensor([[config.get_text_config().decoder_start_token_id]])
            inputs["decoder_input_ids"] = torch.cat([start, ids], dim=1)
        else:
            inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
            for name, fill in GROWING.items():
                if name in inputs:
                    more = torch.full_like(ids, fill)
                    inputs[name] = torch.cat([inputs[name], more], dim=1)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        found.append(float(logits.double().log_softmax(-1)[token]))
    return found


def boxed(
    image: Image.Image,
    boxes: Sequence[tuple[int, int, int, int]],
    colour: Sequence[int],
) -> Image.Image:
    """A copy with some boxes (y0, x0, y1, x1) painted over."""
    pixels = np.array(image)
    for y0, x0, y1, x1 in boxes:
        pixels[y0:y1, x0:x1] = colour
    return Image.fromarray(pixels)


def mean_colour(image: Image.Image) -> list[int]:
    pixels = np.array(image).reshape(-1, 3).tolist()
    return [round(sum(one[c] for one in pixels) / len(pixels)) for c in range(3)]


def literal_order(values: Tensor) -> list[int]:
    """Places of the values, largest first; no two may be equal."""
    listed = values.flatten().tolist()
    assert len(set(listed)) == len(listed), "equal values have no order"
    return sorted(range(len(listed)), key=lambda place: -listed[place])


def literal_removed(
    ranked: Sequence[int], fraction: float, order: str, mode: str
) -> list[int]:
    """The parts that are painted over."""
    first = list(ranked) if order == "positive" else list(ranked)[::-1]
    number = int(fraction * len(first) + 0.5)
    return first[:number] if mode == "removal" else first[number:]
