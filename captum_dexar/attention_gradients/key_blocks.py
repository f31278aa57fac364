"""The keys of an attention call in blocks, image and text keys apart."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Text keys per block, which bounds memory for any prompt.
TEXT_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class KeyBlock:
    """Some keys, and which queries may not attend to them.

    Attributes:
        keys (slice or Tensor): the same keys for every example, or ``(batch, keys)``
        masked (Tensor or None): True where a query may not attend to a key,
            broadcastable to ``(batch, heads, steps, keys)``; None if it always may
    """

    keys: slice | Tensor
    masked: Tensor | None

    def of(self, tensor: Tensor, dim: int) -> Tensor:
        """The block's entries of a tensor ``(batch, ...)`` along one of its axes; a
        view where every example has the same keys."""
        if isinstance(self.keys, slice):
            start, stop, _ = self.keys.indices(tensor.shape[dim])
            return tensor.narrow(dim, start, stop - start)
        shape = [1] * tensor.dim()
        shape[0], shape[dim] = self.keys.shape
        sizes = list(tensor.shape)
        sizes[dim] = self.keys.shape[1]
        return tensor.gather(dim, self.keys.view(shape).expand(sizes))


@dataclass(frozen=True, eq=False)
class KeyBlocks:
    """All keys of an attention call for some queries.

    Attributes:
        image (KeyBlock or None): the image tokens, in key order
        text (list of KeyBlock): every other key
        num_image_keys, num_text_keys (Tensor): how many a query may attend to,
            ``(batch or 1, steps, heads or 1)``
    """

    image: KeyBlock | None
    text: list[KeyBlock]
    num_image_keys: Tensor
    num_text_keys: Tensor


def key_blocks(
    image_keys: Tensor | None,
    num_keys: int,
    held_keys: int,
    allowed: Tensor | None,
    num_steps: int,
    device: torch.device,
) -> KeyBlocks:
    """Separates image keys from text keys.

    Args:
        image_keys (Tensor or None): positions among all keys, ``(batch, image keys)``;
            None where no key is an image token
        num_keys (int): number of all keys
        held_keys (int): how many of them the call holds; a layer with a sliding window
            may hold the last ones only
        allowed (Tensor or None): True where a query may attend to a held key,
            broadcastable to ``(batch, heads, steps, held keys)``
        num_steps (int): number of queries
        device (torch.device): of the call

    Returns:
        KeyBlocks
    """
    if allowed is not None:
        allowed = allowed.to(device)[..., -held_keys:]
        allowed = allowed.expand(*allowed.shape[:2], num_steps, held_keys)
    image: KeyBlock | None = None
    text: list[tuple[slice | Tensor, Tensor | None]]
    if image_keys is None or image_keys.shape[1] == 0:
        text = [(keys, None) for keys in _slices(0, held_keys)]
    else:
        held = image_keys.to(device) - (num_keys - held_keys)
        run = _common_run(held)
        if run is not None:
            image = _block(run, None, allowed)
            text = [
                (keys, None)
                for start, stop in ((0, run.start), (run.stop, held_keys))
                for keys in _slices(start, stop)
            ]
        else:
            exists = held >= 0
            image = _block(held.clamp(min=0), exists, allowed)
            is_text = torch.ones(
                held.shape[0], held_keys + 1, dtype=torch.bool, device=device
            )
            is_text.scatter_(1, held.where(exists, held_keys), False)
            text = list(_scattered(is_text[:, :held_keys]))
    blocks = [
        _block(keys, exists, allowed) for keys, exists in text or [(slice(0, 0), None)]
    ]
    return KeyBlocks(
        image=image,
        text=blocks,
        num_image_keys=_count([image] if image else [], num_steps, device),
        num_text_keys=_count(blocks, num_steps, device),
    )


def _block(
    keys: slice | Tensor, exists: Tensor | None, allowed: Tensor | None
) -> KeyBlock:
    """``exists`` is False for entries of ``keys`` that only pad a row."""
    masked = None
    if allowed is not None:
        if isinstance(keys, Tensor):
            allowed = allowed.expand(keys.shape[0], *allowed.shape[1:])
        masked = ~KeyBlock(keys, None).of(allowed, 3)
    if exists is not None and not bool(exists.all()):
        missing = ~exists[:, None, None]
        masked = missing if masked is None else masked | missing
    if masked is not None and not bool(masked.any()):
        masked = None
    return KeyBlock(keys, masked)


def _count(blocks: list[KeyBlock], num_steps: int, device: torch.device) -> Tensor:
    total = torch.zeros(1, num_steps, 1, dtype=torch.long, device=device)
    for block in blocks:
        if isinstance(block.keys, slice):
            size = block.keys.stop - block.keys.start
        else:
            size = block.keys.shape[1]
        total = total + size
        if block.masked is not None:
            masked = block.masked.expand(-1, -1, num_steps, -1)
            total = total - masked.sum(-1).transpose(1, 2)
    return total


def _common_run(positions: Tensor) -> slice | None:
    """The contiguous keys that are every example's image tokens, if they are such."""
    first, length = int(positions[0, 0]), positions.shape[1]
    run = torch.arange(first, first + length, device=positions.device)
    if first < 0 or not bool((positions == run).all()):
        return None
    return slice(first, first + length)


def _slices(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, TEXT_BLOCK):
        yield slice(first, min(first + TEXT_BLOCK, stop))


def _scattered(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of the true entries of each row, and which of them are not padding."""
    counts = mask.sum(1)
    width = int(counts.max())
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    exists = torch.arange(width, device=mask.device) < counts[:, None]
    yield from zip(order[:, :width].split(TEXT_BLOCK, 1), exists.split(TEXT_BLOCK, 1))
