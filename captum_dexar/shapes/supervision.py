"""Patch supervision: each image token learns which object covers its patch."""

from collections.abc import Sequence

import numpy as np
import torch
from captum_dexar.shapes.language import COLOURS, SHAPES, SIZES
from captum_dexar.shapes.processing import PATCH_SIZE
from captum_dexar.shapes.scene import Scene
from torch import nn, Tensor

# A patch belongs to an object that covers at least this share of its pixels. Patches
# that are covered less, but not empty, are left out of the loss.
MIN_COVERAGE = 0.2
BACKGROUND_WEIGHT = 0.3
IGNORED = -100


def patch_labels(scenes: Sequence[Scene]) -> Tensor:
    """The labels of every patch, ``(3, batch, 144)``: shape, colour and size of the
    object that covers most of it, counted from 1; 0 for background; -100 if left out.
    """
    labels = []
    for scene in scenes:
        masks = np.stack([item.mask for item in scene.objects])
        cells = masks.shape[1] // PATCH_SIZE
        blocks = masks.reshape(-1, cells, PATCH_SIZE, cells, PATCH_SIZE)
        coverage = blocks.mean(axis=(2, 4)).reshape(len(masks), -1)
        best, share = coverage.argmax(axis=0), coverage.max(axis=0)
        values = np.array(
            [
                [SHAPES.index(item.shape) for item in scene.objects],
                [COLOURS.index(item.colour) for item in scene.objects],
                [SIZES.index(item.size) for item in scene.objects],
            ]
        )
        covered = np.where(share >= MIN_COVERAGE, values[:, best] + 1, IGNORED)
        labels.append(np.where(share == 0, 0, covered))
    return torch.from_numpy(np.stack(labels, axis=1))


class PatchHeads(nn.Module):
    """Linear classifiers of shape, colour and size on the projected image tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Linear(channels, len(names) + 1) for names in (SHAPES, COLOURS, SIZES)
        )

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The summed cross-entropies of ``features``, ``(batch, 144, channels)``, and
        the accuracies on patches that an object covers, ``(3,)``."""
        losses, accuracies = [], []
        for head, label in zip(self.heads, labels):
            logits = head(features)
            weight = torch.ones(logits.shape[-1])
            weight[0] = BACKGROUND_WEIGHT
            losses.append(
                nn.functional.cross_entropy(
                    logits.flatten(0, 1), label.flatten(), weight=weight
                )
            )
            covered = label > 0
            right = logits.detach().argmax(-1) == label
            accuracies.append(right[covered].float().mean())
        return torch.stack(losses).sum(), torch.stack(accuracies)
