"""Word supervision: the image tokens together learn which words are true of the image.

Nothing here says where an object is: no mask is read, and no position.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from captum_dexar.training.measures import Measures
from captum_dexar.worlds.scene import Scene
from captum_dexar.worlds.world import World
from torch import nn, Tensor

# Whole phrases are many and mostly absent; their mean has this weight.
PHRASE_WEIGHT = 4.0
# Of a word's logit before training: most words are absent.
FIRST_LOGIT = -2.0


def word_labels(world: World, scenes: Sequence[Scene]) -> Tensor:
    """Which words, and which whole phrases such as "small red circle", are true of some
    object of each image, ``(batch, words + phrases)``: 1 or 0."""
    word_ids = _numbered(
        (word,) for words in world.attributes.values() for word in words
    )
    phrase_ids = _numbered(world.phrases())
    labels = torch.zeros(len(scenes), len(word_ids) + len(phrase_ids))
    for row, scene in zip(labels, scenes):
        for item in scene.objects:
            phrase = world.words_for(item)
            row[[word_ids[(word,)] for word in phrase]] = 1
            row[len(word_ids) + phrase_ids[phrase]] = 1
    return labels


def _numbered(phrases: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    return {phrase: index for index, phrase in enumerate(phrases)}


class WordHeads(nn.Module):
    """Tells which words are true of an image from all of its image tokens.

    A linear classifier gives each token a logit of each word. The image's logit is the
    logarithm of the tokens' mean odds, a soft maximum: it is large if the word is true
    at some token, whichever (multiple-instance learning).

    Args:
        world (World): gives the words
        channels (int): channels of an image token
    """

    def __init__(self, world: World, channels: int) -> None:
        super().__init__()
        sizes = {name: len(words) for name, words in world.attributes.items()}
        self.sizes = sizes | {"phrase": math.prod(sizes.values())}
        self.head = nn.Linear(channels, sum(self.sizes.values()))
        nn.init.constant_(self.head.bias, FIRST_LOGIT)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Measures]:
        """The binary cross-entropies for ``features``, ``(batch, tokens, channels)``,
        and the share of true words that are among the likeliest, as many as are true.
        """
        logits = self.head(features).float()
        logits = logits.logsumexp(dim=1) - math.log(features.shape[1])
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="none"
        )
        words = losses.shape[1] - self.sizes["phrase"]
        loss = losses[:, :words].mean() + PHRASE_WEIGHT * losses[:, words:].mean()
        measures, sizes = Measures(), list(self.sizes.values())
        for name, one, true in zip(
            self.sizes, logits.detach().split(sizes, 1), labels.split(sizes, 1)
        ):
            ranks = one.argsort(dim=1, descending=True).argsort(dim=1)
            found = ranks < true.sum(dim=1, keepdim=True)
            measures.add(f"word {name}", found[true > 0])
        return loss, measures
