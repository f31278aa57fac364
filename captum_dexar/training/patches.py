"""Patch supervision: each image token learns which object covers its patch."""

from collections.abc import Sequence

import numpy as np
import torch
from captum_dexar.training.measures import Measures
from captum_dexar.worlds.processing import PATCH_SIZE
from captum_dexar.worlds.scene import Scene
from captum_dexar.worlds.world import World
from torch import nn, Tensor

# A patch belongs to an object that covers at least this share of its pixels. Patches
# that are covered less, but not empty, are left out of the loss.
MIN_COVERAGE = 0.2
BACKGROUND_WEIGHT = 0.3
IGNORED = -100


def patch_labels(world: World, scenes: Sequence[Scene]) -> Tensor:
    """The labels of every patch, ``(attributes, batch, patches)``: the words for the
    object that covers most of it, counted from 1; 0 for background; -100 if left out.
    """
    labels = []
    for scene in scenes:
        masks = np.stack([item.mask for item in scene.objects])
        cells = masks.shape[1] // PATCH_SIZE
        blocks = masks.reshape(-1, cells, PATCH_SIZE, cells, PATCH_SIZE)
        coverage = blocks.mean(axis=(2, 4)).reshape(len(masks), -1)
        best, share = coverage.argmax(axis=0), coverage.max(axis=0)
        words = zip(*(world.words_for(item) for item in scene.objects))
        values = np.array(
            [
                [names.index(word) for word in row]
                for names, row in zip(world.attributes.values(), words)
            ]
        )
        covered = np.where(share >= MIN_COVERAGE, values[:, best] + 1, IGNORED)
        labels.append(np.where(share == 0, 0, covered))
    return torch.from_numpy(np.stack(labels, axis=1))


class PatchHeads(nn.Module):
    """Linear classifiers of the objects' attributes on the projected image tokens.

    Args:
        world (World): gives the attributes
        channels (int): channels of an image token
    """

    def __init__(self, world: World, channels: int) -> None:
        super().__init__()
        self.names = tuple(world.attributes)
        self.heads = nn.ModuleList(
            nn.Linear(channels, len(words) + 1) for words in world.attributes.values()
        )

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Measures]:
        """The summed cross-entropies of ``features``, ``(batch, patches, channels)``,
        and the accuracies on patches that an object covers."""
        losses, measures = [], Measures()
        for name, head, label in zip(self.names, self.heads, labels):
            logits = head(features).float()
            weight = torch.ones(logits.shape[-1])
            weight[0] = BACKGROUND_WEIGHT
            losses.append(
                nn.functional.cross_entropy(
                    logits.flatten(0, 1), label.flatten(), weight=weight
                )
            )
            covered = label > 0
            right = logits.detach().argmax(-1) == label
            measures.add(f"patch {name}", right[covered])
        return torch.stack(losses).sum(), measures
