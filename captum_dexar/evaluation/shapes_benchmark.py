"""How well a method finds the object that a word speaks of, on the bundled world.

For held-out scenes the true caption is teacher-forced, and the map of every colour and
shape word is compared with the exact mask of *the* object that the word describes.
Chance (a uniform map, and a random smooth one) goes through the same measures.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from captum_dexar.baselines import (
    LayerAttention,
    LayerAttentionGradient,
    LayerAttentionRollout,
    LayerRandomMap,
    LayerTokenActivation,
    LayerUniformMap,
)
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.methods.base import DecoderLayerAttribution
from captum_dexar.methods.layer_dexar import LayerDexAR
from captum_dexar.metrics import (
    best_iou,
    energy_pointing_game,
    pointing_game,
    signal_to_noise,
    soft_iou,
)
from captum_dexar.model.layers import find_layers
from captum_dexar.shapes import make_scene, Scene
from captum_dexar.vlm_attribution import VLMAttribution
from torch import nn, Tensor
from tqdm.auto import tqdm

PROMPT = "Describe the image."
POINTING_TOLERANCE = 4.0
MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "pointing": lambda heat, mask: float(
        pointing_game(heat, mask, tolerance=POINTING_TOLERANCE)
    ),
    "soft-IoU": soft_iou,
    "EPG": energy_pointing_game,
    "best IoU": best_iou,
    "SNR (dB)": signal_to_noise,
}
WORD_KINDS = ("colour", "shape")


@dataclass(frozen=True)
class MethodScores:
    """Scores of one method.

    Attributes:
        method (str): its name
        means (Mapping): mean of each measure, by word kind: ``means["colour"]["EPG"]``;
            ``means["both"]`` is over words of both kinds
        num_words (Mapping): words of each kind
        weight_auroc (float or None): how well token weights tell colour and shape words
            from fillers: the probability that the former's is larger
    """

    method: str
    means: Mapping[str, Mapping[str, float]]
    num_words: Mapping[str, int]
    weight_auroc: float | None


def compared_methods(
    model: nn.Module,
) -> dict[str, tuple[DecoderLayerAttribution, dict[str, Any]]]:
    """DEX-AR as in the paper, its options, other methods of one pass, and chance; each
    a method and its arguments."""
    layers = find_layers(model)
    every = LayerDexAR(model)
    last_half = LayerDexAR(model, layers[len(layers) // 2 :])
    return {
        "DEX-AR, all layers (the paper)": (every, {}),
        "DEX-AR, last half of the layers": (last_half, {}),
        "DEX-AR without head filter": (every, {"head_filter": False}),
        "extension: attention_power=0.5": (every, {"attention_power": 0.5}),
        "extension: attention_power=1": (every, {"attention_power": 1.0}),
        "extension: 0.5, last half": (last_half, {"attention_power": 0.5}),
        "attention x gradient": (LayerAttentionGradient(model), {}),
        "attention, mean of layers": (LayerAttention(model), {}),
        "attention, last layer": (LayerAttention(model, layers[-1]), {}),
        "attention rollout": (LayerAttentionRollout(model), {}),
        "Token Activation Map": (LayerTokenActivation(model), {}),
        "chance: random smooth map": (LayerRandomMap(model), {}),
        "chance: uniform map": (LayerUniformMap(model), {}),
    }


def evaluate_on_shapes(
    model: nn.Module, processor: Any, seeds: Iterable[int], progress: bool = False
) -> list[MethodScores]:
    """Measures DEX-AR, its options, other methods and chance on scenes of the world.

    Args:
        model (nn.Module): a model that was trained on the world
        processor (ProcessorMixin): its processor
        seeds (iterable of int): the scenes
        progress (bool, optional): shows a progress bar. Default: False

    Returns:
        A list of MethodScores, one a method.
    """
    compared = compared_methods(model)
    random_map: Any = compared["chance: random smooth map"][0]
    methods = {
        name: (VLMAttribution(method, processor), arguments)
        for name, (method, arguments) in compared.items()
    }
    collected: dict[str, _Collector] = defaultdict(_Collector)
    for seed in tqdm(
        list(seeds), desc="explaining", unit="scene", disable=not progress
    ):
        scene = make_scene(seed)
        inp = ImagePromptInput(scene.image, PROMPT, processor, model)
        random_map.seed = seed
        for name, (method, arguments) in methods.items():
            result = method.attribute(inp, target=scene.caption, **arguments)
            maps = [result.pixel_map(t) for t in range(len(result.output_tokens))]
            collected[name].add(scene, maps, result.token_weights)
    return [collector.scores(name) for name, collector in collected.items()]


class _Collector:
    """The words' scores of one method."""

    def __init__(self) -> None:
        self.scores_of: dict[str, dict[str, list[float]]] = {
            kind: {name: [] for name in MEASURES} for kind in WORD_KINDS
        }
        self.weights: dict[bool, list[float]] = {True: [], False: []}

    def add(self, scene: Scene, maps: list[Tensor], weights: Tensor | None) -> None:
        if len(maps) != len(scene.caption_words):
            raise ValueError(
                f"The caption has {len(scene.caption_words)} words but {len(maps)} "
                "tokens: the processor is not that of the bundled world."
            )
        for position, word in enumerate(scene.caption_words):
            if weights is not None and word.kind in (*WORD_KINDS, "filler"):
                self.weights[word.kind in WORD_KINDS].append(float(weights[position]))
            if word.kind not in WORD_KINDS or word.object_index is None:
                continue
            mask = torch.from_numpy(scene.objects[word.object_index].mask.copy())
            for name, measure in MEASURES.items():
                value = measure(maps[position], mask)
                self.scores_of[word.kind][name].append(value)

    def scores(self, method: str) -> MethodScores:
        both = {
            name: [v for kind in WORD_KINDS for v in self.scores_of[kind][name]]
            for name in MEASURES
        }
        groups = {**self.scores_of, "both": both}
        return MethodScores(
            method=method,
            means={
                kind: {name: _finite_mean(values) for name, values in group.items()}
                for kind, group in groups.items()
            },
            num_words={kind: len(group["EPG"]) for kind, group in groups.items()},
            weight_auroc=_auroc(self.weights[True], self.weights[False]),
        )


def _finite_mean(values: list[float]) -> float:
    """The mean; an infinite ratio of signal to noise counts as 60 dB either way."""
    return float(torch.tensor(values, dtype=torch.float64).clamp(-60, 60).mean())


def _auroc(positive: list[float], negative: list[float]) -> float | None:
    """Probability that a positive is larger than a negative, ties counting half."""
    if not positive or not negative:
        return None
    larger = torch.tensor(positive)[:, None] - torch.tensor(negative)
    return float(((larger > 0).double() + 0.5 * (larger == 0).double()).mean())


def localization_table(scores: Iterable[MethodScores]) -> str:
    """A Markdown table: rows methods, a column a measure and kind of word."""
    header = ["method"]
    for kind in (*WORD_KINDS, "both"):
        header += [f"{kind}: {name}" for name in MEASURES]
    header.append("weight AUROC")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in scores:
        cells = [row.method]
        for kind in (*WORD_KINDS, "both"):
            cells += [f"{row.means[kind][name]:.3f}" for name in MEASURES]
        cells.append("" if row.weight_auroc is None else f"{row.weight_auroc:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
