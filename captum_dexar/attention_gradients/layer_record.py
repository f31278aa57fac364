"""What a decoder layer computes for the last position of each pass."""

from collections.abc import Callable
from typing import Any

import torch
from captum_dexar.attention_gradients.attention_call import (
    allowed_keys,
    AttentionCall,
    mask_rule,
    narrowed,
)
from captum_dexar.attention_gradients.attention_tail import AttentionTail, Runs
from captum_dexar.attention_gradients.frozen_cache import FrozenCache
from captum_dexar.attention_gradients.layer_replay import changed
from captum_dexar.model.layers import hidden_argument
from torch import nn, Tensor
from transformers.cache_utils import Cache, EncoderDecoderCache

# Arguments of a layer that only its attention reads, which is not run again.
READ_BY_ATTENTION = {
    "attention_mask",
    "cache_position",
    "past_key_values",
    "position_embeddings",
    "position_ids",
}
# The axis of the positions in each further argument of a layer.
Axes = dict[int | str, int]
# Positional and keyword arguments.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Overwritten(Exception):
    """A recorded tensor has been changed since."""


class Rows:
    """The last entry along an axis of one tensor per pass.

    A tensor with a single entry is kept as it is, so that nothing is copied while a
    model decodes. Of a longer one the last entry is copied, so that the rest can be
    freed.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self._rows: list[Tensor] = []
        self._versions: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, tensor: Tensor) -> None:
        """Takes a pass's tensor."""
        if tensor.shape[self.axis] > 1:
            tensor = last_of(tensor, self.axis)
        self._rows.append(tensor)
        self._versions.append(tensor._version)

    def joined(self) -> Tensor:
        """All rows, in a new tensor.

        Raises:
            Overwritten: the model has written into one of them.
        """
        if [row._version for row in self._rows] != self._versions:
            raise Overwritten
        return torch.cat(self._rows, dim=self.axis)

    def num_bytes(self) -> int:
        """The size of all rows."""
        return sum(row.nbytes for row in self._rows)

    def reset(self) -> None:
        """Forgets all rows."""
        self._rows.clear()
        self._versions.clear()


class GrowingKeys:
    """The keys (or values) that all recorded positions read, from the passes' tensors.

    A cache that grows by one position per pass needs no copy: its last tensor holds
    all keys. Of a sliding window the first tensor is kept, and each further pass's new
    position.
    """

    def __init__(self, is_constant: bool) -> None:
        self.is_constant = is_constant
        self.first: Tensor | None = None
        self.further = Rows(axis=2)

    def add(self, keys: Tensor) -> None:
        """Takes a pass's tensor, ``(batch, heads, keys, head size)``."""
        first = self.first
        if first is None or self.is_constant:
            self.first = keys
        elif not len(self.further) and keys.shape[2] == first.shape[2] + 1:
            self.first = keys
        else:
            self.further.add(keys)

    def joined(self) -> Tensor:
        """All keys, up to the last position's own."""
        assert self.first is not None
        if not len(self.further):
            return self.first
        return torch.cat([self.first, self.further.joined()], dim=2)

    def reset(self) -> None:
        """Forgets all keys."""
        self.first = None
        self.further.reset()


class CallRecord:
    """An attention call of a layer, in all recorded passes.

    Args:
        call (AttentionCall): the first of them
        with_attention (bool): whether queries and keys are recorded too
    """

    def __init__(self, call: AttentionCall, with_attention: bool) -> None:
        self.functions = call.attention_function, call.eager_function
        self.module = call.module
        self.is_cross = call.is_cross
        self.keeps_prompt = call.keeps_prompt
        self.encoder_keys = call.encoder_keys
        self.with_attention = with_attention
        self.outputs = Rows(axis=1)
        self.queries = Rows(axis=2)
        self.values = GrowingKeys(call.is_cross)
        self.keys = GrowingKeys(call.is_cross)
        # The mask, queries and keys of each pass; and the layer's mask, if it is
        # another one.
        self.masks: list[tuple[Any, int, int]] = []
        self.layer_masks: list[Tensor | None] = []
        self.masked_by_kernel = False
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        # Those that have a row for each query, pass by pass.
        self.by_query: dict[str, list[Tensor]] = {}
        self.device = torch.device("cpu")

    def add(
        self,
        call: AttentionCall,
        output: Tensor,
        mask: Any,
        layer_mask: Tensor | None,
    ) -> None:
        """Takes another pass's call.

        Args:
            call (AttentionCall): the call, which is not kept: it holds whole prompts
            output (Tensor): ``(batch, queries, heads, head size)``
            mask (Any): the last query's row of its mask
            layer_mask (Tensor or None): that of :attr:`AttentionCall.layer_mask`
        """
        self.layer_masks.append(layer_mask)
        self.masked_by_kernel = call.masked_by_kernel
        self.args = call.args
        self.kwargs = call.kwargs
        self.device = call.value.device
        self.outputs.add(output)
        self.values.add(call.value)
        self.masks.append((mask, call.query.shape[2], call.value.shape[2]))
        if self.with_attention:
            self.queries.add(call.query)
            self.keys.add(call.key)
            for name, value in call.arguments_by_query().items():
                self.by_query.setdefault(name, []).append(value[:, :, -1:].clone())

    def joined(
        self, layer: int, masks: dict[Any, Tensor], prompt_length: int
    ) -> AttentionCall:
        """The call as if one pass had run all recorded positions.

        Args:
            layer (int): index of the decoder layer
            masks (dict): masks of earlier layers by how they mask, to be shared
            prompt_length (int): tokens of the prompt
        """
        num_kept = prompt_length if self.keeps_prompt else self.encoder_keys
        key = (
            *((id(mask), queries, keys) for mask, queries, keys in self.masks),
            *mask_rule(self.masked_by_kernel, self.module, self.kwargs),
            self.is_cross,
            num_kept,
            self.device,
        )
        value = self.values.joined()
        if key not in masks:
            masks[key] = self._joined_mask(self.masks, num_kept)[..., -value.shape[2] :]
        none = value[:, :, :0]
        by_query = {
            name: self._aligned(rows, num_kept)[..., -value.shape[2] :]
            for name, rows in self.by_query.items()
        }
        call = AttentionCall(
            layer,
            self.is_cross,
            *self.functions,
            self.module,
            self.queries.joined() if self.with_attention else none,
            self.keys.joined() if self.with_attention else none,
            value,
            masks[key],
            *self.args,
            **{**self.kwargs, **by_query},
        )
        call.encoder_keys = self.encoder_keys
        if any(mask is not None for mask in self.layer_masks):
            given = [
                (own if mask is None else mask, queries, keys)
                for mask, (own, queries, keys) in zip(self.layer_masks, self.masks)
            ]
            call.layer_mask = self._joined_mask(given, num_kept)[..., -value.shape[2] :]
        return call

    def reset(self) -> None:
        """Forgets all passes."""
        for kept in (self.outputs, self.queries, self.values, self.keys):
            kept.reset()
        self.masks = []
        self.layer_masks = []
        self.by_query = {}

    def _joined_mask(self, masks: list[tuple[Any, int, int]], num_kept: int) -> Tensor:
        """The keys that each position may attend to, ``(batch or 1, heads or 1,
        positions, keys)``; the first ones are those of every pass."""
        return self._aligned([self._mask_row(*mask) for mask in masks], num_kept)

    def _aligned(self, rows: list[Tensor], num_kept: int) -> Tensor:
        """Rows of all passes, ``(..., 1, keys)``, under each other; zero for keys that
        a pass did not have."""
        if self.is_cross or all(row.shape[3] == 1 for row in rows):
            return torch.cat(rows, dim=2)
        last = len(rows) - 1
        num_keys = max(last - index + row.shape[3] for index, row in enumerate(rows))
        # Each row's keys end at its own position, the last row's at the last key.
        padded = []
        for index, row in enumerate(rows):
            after = last - index
            before = num_keys - after - row.shape[3]
            kept, row = row[..., :num_kept], row[..., num_kept:]
            further = nn.functional.pad(row, (before, after))
            padded.append(torch.cat([kept, further], dim=3) if num_kept else further)
        return torch.cat(padded, dim=2)

    def _mask_row(self, mask: Any, num_queries: int, num_keys: int) -> Tensor:
        device = self.device
        allowed = allowed_keys(
            mask,
            num_queries=num_queries,
            num_keys=num_keys,
            query_positions=torch.tensor([num_queries - 1], device=device),
            masked_by_kernel=self.masked_by_kernel,
            module=self.module,
            kwargs=self.kwargs,
        )
        if allowed is None:
            return torch.ones(1, 1, 1, num_keys, dtype=torch.bool, device=device)
        return allowed.expand(-1, -1, 1, num_keys)


class LayerRecord:
    """A decoder layer, in all recorded passes.

    Args:
        with_attention (bool): whether queries and keys are recorded too
        position_axis (int, optional): the axis of the positions in the hidden states
            that it takes. Default: 1

    Attributes:
        passes (list): positional and keyword arguments of each pass
        hidden_in (Rows): what it takes, ``(batch, passes, hidden size)``
        hidden_out (Rows): its states, ``(batch, passes, ..., hidden size)``
        projections (dict): outputs of the layer's projections after its attention,
            ``(batch, passes, features)``; None for one that does not keep positions
            apart
        calls (list of CallRecord): its attention calls, in order
        tails (Runs): the runs of an attention module that chooses keys, each with its
            last position
        length (int): positions of the current pass
        num_calls (int): attention calls of the current pass, so far
        axes (dict): the axis of the positions in each further argument, as far as
            passes over several positions have shown
        is_hooked (bool): whether others' hooks may have changed its output
    """

    def __init__(self, with_attention: bool, position_axis: int = 1) -> None:
        self.with_attention = with_attention
        self.passes: list[Arguments] = []
        self.hidden_in = Rows(axis=position_axis)
        self.hidden_out = Rows(axis=1)
        self.projections: dict[nn.Linear, Rows | None] = {}
        self.calls: list[CallRecord] = []
        self.tails: Runs = []
        self.length = 0
        self.num_calls = 0
        self.axes: Axes = {}
        self.is_hooked = False
        self._is_settled = False
        # Of the current pass.
        self._mask: Any = None

    def add_pass(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Takes the arguments of another pass."""
        hidden = hidden_argument(args, kwargs)
        # The first pass has shown which projections keep positions apart.
        self._is_settled = bool(self.length)
        self.hidden_in.add(hidden)
        self.length = length = hidden.shape[self.hidden_in.axis]
        self.num_calls = 0
        self._mask = kwargs.get("attention_mask")
        if length > 1:
            for place, value in _further(args, kwargs):
                if isinstance(value, Tensor) and length in value.shape:
                    self.axes[place] = value.shape.index(length)
            args, kwargs = _of_last((args, kwargs), length)
        self.passes.append((args, kwargs))

    def add_projection(self, module: nn.Linear, output: Tensor) -> None:
        """Takes the output of one of its projections."""
        if not self._is_settled:
            # Outputs for an encoder's states or for chosen positions differ in length.
            keeps_positions = output.dim() == 3 and output.shape[1] == self.length
            self.projections[module] = Rows(axis=1) if keeps_positions else None
        rows = self.projections.get(module)
        if rows is not None:
            rows.add(output)

    def add_call(
        self, call: AttentionCall, output: Tensor, row_of: Callable[[Any], Any]
    ) -> None:
        """Takes the next of its attention calls.

        Args:
            call, output: see :meth:`CallRecord.add`
            row_of (Callable): the last query's row of a mask that layers share
        """
        index = self.num_calls
        self.num_calls = index + 1
        if index == len(self.calls):
            self.calls.append(CallRecord(call, self.with_attention))
        mask = call.attention_mask
        layer_mask = None if call.is_cross else narrowed(self._mask, mask)
        if layer_mask is None:
            mask = row_of(mask)
        else:
            # The attention module's own.
            mask, layer_mask = _last_row(mask), row_of(layer_mask)
        self.calls[index].add(call, output, mask, layer_mask)

    def add_tail(self, tail: AttentionTail) -> None:
        """Takes a run of its attention module."""
        self.tails.append((tail, torch.tensor([tail.output.shape[1] - 1])))

    def joined_tails(self) -> Runs | None:
        """The runs of its attention module, if each pass has one."""
        is_complete = len(self.tails) == len(self.passes) and len(self.calls) == 1
        return list(self.tails) if is_complete else None

    def joined_arguments(self, axes: Axes) -> Arguments:
        """The last pass's arguments, with the entries of all passes where a position's
        own matters after the attention.

        Args:
            axes (dict): ``axes`` of all layers of its type
        """
        args, kwargs = changed(self.passes[-1], lambda tensor: tensor, _frozen)
        args = list(args)

        def put(place: int | str, value: Tensor) -> None:
            if isinstance(place, int):
                args[place] = value
            else:
                kwargs[place] = value

        put(0 if args else "hidden_states", self.hidden_in.joined())
        entries: dict[int | str, list[Tensor]] = {}
        for given in self.passes:
            for place, value in _further(*given):
                if place in axes and isinstance(value, Tensor):
                    entries.setdefault(place, []).append(value)
        for place, values in entries.items():
            if len(values) == len(self.passes) and _fit(values, axes[place]):
                put(place, torch.cat(values, dim=axes[place]))
        return tuple(args), kwargs

    def joined_projections(self) -> dict[nn.Linear, Tensor]:
        """The outputs of every projection that ran once per pass."""
        return {
            module: rows.joined()
            for module, rows in self.projections.items()
            if rows is not None and len(rows) == len(self.passes)
        }

    def num_bytes(self) -> int:
        """What is held beyond the layer's inputs, which are other layers' outputs."""
        rows = [call.outputs for call in self.calls]
        rows += [each for each in self.projections.values() if each is not None]
        # Of a prompt the graph has all positions.
        tails = sum(3 * tail.leaf.nbytes for tail, last in self.tails if int(last))
        return tails + sum(each.num_bytes() for each in (self.hidden_out, *rows))

    def reset(self) -> None:
        """Forgets all passes."""
        self.passes.clear()
        self.tails.clear()
        for call in self.calls:
            call.reset()
        for rows in (self.hidden_in, self.hidden_out, *self.projections.values()):
            if rows is not None:
                rows.reset()


def _last_row(mask: Any) -> Any:
    """The last query's row of a mask."""
    is_of_queries = isinstance(mask, Tensor) and mask.dim() == 4
    return last_of(mask, 2) if is_of_queries else mask


def last_of(tensor: Tensor, axis: int) -> Tensor:
    """The last entry along an axis; of several a copy, which does not hold them all."""
    size = tensor.shape[axis]
    return tensor if size == 1 else tensor.narrow(axis, size - 1, 1).clone()


def _further(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[int | str, Any]]:
    """A layer's arguments other than hidden states that matter after its attention."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    return [
        (place, value)
        for place, value in places
        if place not in READ_BY_ATTENTION and place not in (0, "hidden_states")
    ]


def _fit(values: list[Tensor], axis: int) -> bool:
    """Whether tensors differ along an axis at most; a position bias grows along that
    of its keys, and only the attention reads it."""
    shapes = {(*v.shape[:axis], *v.shape[axis + 1 :]) for v in values}
    return len(shapes) == 1


def _of_last(arguments: Any, length: int) -> Any:
    """A layer's arguments for the last of so many positions."""

    def of_last(tensor: Tensor) -> Tensor:
        if length not in tensor.shape:
            return tensor
        return last_of(tensor, tensor.shape.index(length))

    return changed(arguments, of_last, lambda cache: cache)


def _frozen(cache: Cache) -> Any:
    """An encoder's cached keys are not needed: the output that read them is known."""
    return None if isinstance(cache, EncoderDecoderCache) else FrozenCache(cache)
