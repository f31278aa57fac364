"""Packs several turns about one image into one sequence.

The turns share the image prefix. Each attends only to the prefix and to itself, and its
positions restart after the prefix. So its loss equals that of a separate sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from captum_dexar.worlds.processing import BOS, EOS, IMAGE, PAD
from torch import nn, Tensor
from transformers import LlavaForConditionalGeneration

BEFORE_IMAGE = (BOS, "user", ":")


@dataclass(frozen=True)
class Turn:
    """A question (or the caption prompt) and its answer, words separated by spaces.

    Args:
        prompt (str): the question
        answer (str): the answer
        kind (str, optional): what is asked, for the measures of the training.
            Default: ``""``
    """

    prompt: str
    answer: str
    kind: str = ""


@dataclass(frozen=True)
class PackedBatch:
    """A batch of packed sequences.

    Args:
        input_ids (Tensor): ``(batch, length)``
        position_ids (Tensor): ``(batch, length)``, restarting for every turn
        attention_mask (Tensor): ``(batch, 1, queries, keys)``, bool, True where a query
            may attend to a key
        answer_rows (Tensor): ``(answer tokens, 2)``, batch index and position of the
            output that predicts each token of an answer
        answer_ids (Tensor): ``(answer tokens,)``, these tokens
        answer_turns (Tensor): ``(answer tokens,)``, the turn of each, counted through
            the batch
        kinds (tuple of str): the kind of every turn
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    answer_rows: Tensor
    answer_ids: Tensor
    answer_turns: Tensor
    kinds: tuple[str, ...]


def pack(
    conversations: Sequence[Sequence[Turn]],
    vocabulary: Mapping[str, int],
    image_tokens: int,
) -> PackedBatch:
    """Packs the turns about each image into one sequence, padded on the right."""
    prefix = [vocabulary[word] for word in (*BEFORE_IMAGE, *[IMAGE] * image_tokens)]
    sequences, owners, positions = [], [], []
    rows: list[tuple[int, int]] = []
    turn_of_answers: list[int] = []
    kinds: list[str] = []
    for index, turns in enumerate(conversations):
        ids, owner, position = list(prefix), [0] * len(prefix), list(range(len(prefix)))
        for number, turn in enumerate(turns, start=1):
            prompt = [*turn.prompt.split(), "assistant", ":"]
            answer = [*turn.answer.split(), EOS]
            start = len(ids) + len(prompt) - 1
            rows += [(index, start + offset) for offset in range(len(answer))]
            turn_of_answers += [len(kinds)] * len(answer)
            kinds.append(turn.kind)
            words = [vocabulary[word] for word in (*prompt, *answer)]
            ids += words
            owner += [number] * len(words)
            position += range(len(prefix), len(prefix) + len(words))
        sequences.append(ids)
        owners.append(owner)
        positions.append(position)

    length = max(len(ids) for ids in sequences)

    def padded(lists: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in lists])

    input_ids = padded(sequences, vocabulary[PAD])
    turn_of = padded(owners, -1)
    same = turn_of[:, :, None] == turn_of[:, None, :]
    allowed = (same | (turn_of == 0)[:, None, :]).tril()
    answer_rows = torch.tensor(rows)
    return PackedBatch(
        input_ids=input_ids,
        position_ids=padded(positions, 0),
        attention_mask=allowed[:, None],
        answer_rows=answer_rows,
        answer_ids=input_ids[answer_rows[:, 0], answer_rows[:, 1] + 1],
        answer_turns=torch.tensor(turn_of_answers),
        kinds=tuple(kinds),
    )


def answer_logits(
    model: LlavaForConditionalGeneration, pixel_values: Tensor, batch: PackedBatch
) -> tuple[Tensor, Tensor]:
    """The logits of the answers' tokens, ``(answer tokens, vocabulary)``, and the
    projected image tokens, ``(batch, image tokens, channels)``."""
    features = image_features(model, pixel_values)
    embeddings = model.get_input_embeddings()(batch.input_ids)
    first = len(BEFORE_IMAGE)
    last = first + features.shape[1]
    embeddings = torch.cat(
        [embeddings[:, :first], features, embeddings[:, last:]], dim=1
    )
    states = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    rows = states[batch.answer_rows[:, 0], batch.answer_rows[:, 1]]
    return model.lm_head(rows), features


def answer_loss(logits: Tensor, batch: PackedBatch) -> Tensor:
    """Mean cross-entropy of the answers' tokens."""
    return nn.functional.cross_entropy(logits.float(), batch.answer_ids)


def exact_answers(logits: Tensor, batch: PackedBatch) -> Tensor:
    """Which turns would be answered exactly right by greedy decoding, ``(turns,)``.

    The first wrong token of a greedy answer follows right ones. So the answer is right
    if and only if every token is the likeliest one after the true ones before it.
    """
    wrong = logits.detach().argmax(-1) != batch.answer_ids
    mistakes = torch.zeros(len(batch.kinds), dtype=torch.long)
    mistakes.index_add_(0, batch.answer_turns, wrong.long())
    return mistakes == 0


def image_features(
    model: LlavaForConditionalGeneration, pixel_values: Tensor
) -> Tensor:
    """The projected image tokens ``(batch, image tokens, channels)``."""
    features = model.get_image_features(pixel_values=pixel_values).pooler_output
    return torch.stack(tuple(features))
