"""What a decoder layer computed for the last position of each pass."""

from typing import Any

import torch
from captum_dexar.attention_gradients.allowed_keys import allowed_keys
from captum_dexar.attention_gradients.contraction import attention_rows
from captum_dexar.attention_gradients.interception import AttentionFunction
from captum_dexar.attention_gradients.layer_again import changed
from captum_dexar.attention_gradients.recorded_rows import GrowingKeys, Rows
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
# Along which axis of a layer's further arguments its positions lie.
Axes = dict[int | str, int]
# Positional and keyword arguments.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class CallRecord:
    """One attention call of a layer, in all recorded passes."""

    def __init__(
        self, module: nn.Module, eager_function: AttentionFunction, is_cross: bool
    ) -> None:
        self.module = module
        self.eager_function = eager_function
        self.is_cross = is_cross
        self.outputs = Rows(axis=1)
        self.queries = Rows(axis=2)
        self.values = GrowingKeys(is_cross)
        self.keys = GrowingKeys(is_cross)
        self.masks: list[tuple[Any, int, int]] = []
        self.masked_by_kernel = False
        self.kwargs: dict[str, Any] = {}
        self.device = torch.device("cpu")

    def mask_key(self) -> tuple[Any, ...]:
        """The same for calls that mask alike, as long as they are kept."""
        return (
            *((id(mask), queries, keys) for mask, queries, keys in self.masks),
            self.masked_by_kernel,
            self.is_cross,
            self.kwargs.get("sliding_window"),
            self.kwargs.get("is_causal", getattr(self.module, "is_causal", True)),
            self.device,
        )

    def reset(self) -> None:
        """Starts anew with the next pass."""
        for kept in (self.outputs, self.queries, self.values, self.keys):
            kept.reset()
        self.masks = []

    def allowed(self) -> Tensor:
        """The keys that each row may attend to, ``(batch or 1, heads or 1, rows,
        keys)``."""
        rows = [self._allowed_row(*mask) for mask in self.masks]
        if self.is_cross:
            return torch.cat(rows, dim=2)
        num_keys = max(
            len(rows) - 1 - place + row.shape[3] for place, row in enumerate(rows)
        )
        # Each row's keys end at its own position, the last row's at the last key.
        return torch.cat(
            [
                nn.functional.pad(
                    row,
                    (num_keys - after - row.shape[3], after),
                )
                for row, after in zip(rows, reversed(range(len(rows))))
            ],
            dim=2,
        )

    def attention(self, power: float) -> Tensor:
        """Attention probabilities of the rows to a power, ``(batch, heads, rows,
        keys)``."""
        values = self.values.whole()
        allowed = self.allowed()[..., -values.shape[2] :]
        probabilities = attention_rows(
            self.eager_function,
            self.module,
            self.queries.whole(),
            self.keys.whole(),
            values,
            allowed,
            self.kwargs,
        )
        return probabilities.pow(power)

    def _allowed_row(self, mask: Any, num_queries: int, num_keys: int) -> Tensor:
        device = self.device
        allowed = allowed_keys(
            mask,
            num_queries=num_queries,
            num_keys=num_keys,
            rows=torch.tensor([num_queries - 1], device=device),
            masked_by_kernel=self.masked_by_kernel,
            module=self.module,
            kwargs=self.kwargs,
        )
        if allowed is None:
            return torch.ones(1, 1, 1, num_keys, dtype=torch.bool, device=device)
        return allowed.expand(-1, -1, 1, num_keys)


class LayerRecord:
    """One layer, in all recorded passes.

    Attributes:
        passes (list): positional and keyword arguments of each pass
        hidden_in, hidden_out (Rows): ``(batch, passes, hidden size)``
        products (dict): outputs of the layer's projections behind its attention,
            ``(batch, passes, features)``; None of one that does not work row by row
        calls (list of CallRecord): in their order
        length (int): positions of the pass at hand
        num_calls (int): attention calls of the pass at hand, so far
        axes (dict): along which axis of each further argument the positions lie, as far
            as passes over several have shown
    """

    def __init__(self) -> None:
        self.passes: list[Arguments] = []
        self.hidden_in = Rows(axis=1)
        self.hidden_out = Rows(axis=1)
        self.products: dict[nn.Linear, Rows | None] = {}
        self.calls: list[CallRecord] = []
        self.length = 0
        self.num_calls = 0
        self.axes: Axes = {}
        self._is_settled = False

    def starts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Takes the arguments of another pass."""
        hidden = args[0] if args else kwargs["hidden_states"]
        # Which projections work row by row has shown in the first pass.
        self._is_settled = bool(self.length)
        self.hidden_in.add(hidden)
        self.length = length = hidden.shape[1]
        self.num_calls = 0
        if length > 1:
            for place, value in _places(args, kwargs):
                if isinstance(value, Tensor) and length in value.shape:
                    self.axes[place] = value.shape.index(length)
            args, kwargs = _of_last((args, kwargs), length)
        self.passes.append((args, kwargs))

    def projects(self, module: nn.Linear, output: Tensor) -> None:
        """Takes what one of its projections gave."""
        if not self._is_settled:
            # Of an encoder's states, or of chosen positions, they have other rows.
            is_by_row = output.dim() == 3 and output.shape[1] == self.length
            self.products[module] = Rows(axis=1) if is_by_row else None
        rows = self.products.get(module)
        if rows is not None:
            rows.add(output)

    def attends(
        self, module: nn.Module, eager_function: AttentionFunction, is_cross: bool
    ) -> CallRecord:
        """The record of the next of its attention calls."""
        number = self.num_calls
        self.num_calls = number + 1
        if number == len(self.calls):
            self.calls.append(CallRecord(module, eager_function, is_cross))
        return self.calls[number]

    def arguments(self, axes: Axes) -> Arguments:
        """The last pass's arguments, with an entry for each pass where a row's own
        count behind the attention.

        Args:
            axes (dict): ``axes`` of all layers of its kind
        """
        args, kwargs = changed(self.passes[-1], lambda tensor: tensor, _frozen)
        args = list(args)

        def put(place: int | str, value: Tensor) -> None:
            if isinstance(place, int):
                args[place] = value
            else:
                kwargs[place] = value

        put(0 if args else "hidden_states", self.hidden_in.whole())
        rows: dict[int | str, list[Tensor]] = {}
        for given in self.passes:
            for place, value in _places(*given):
                if place in axes and isinstance(value, Tensor):
                    rows.setdefault(place, []).append(value)
        for place, values in rows.items():
            if len(values) == len(self.passes):
                put(place, torch.cat(values, dim=axes[place]))
        return tuple(args), kwargs

    def row_products(self) -> dict[nn.Linear, Tensor]:
        """Of every projection that ran once a pass, row by row."""
        return {
            module: rows.whole()
            for module, rows in self.products.items()
            if rows is not None and len(rows) == len(self.passes)
        }

    def num_bytes(self) -> int:
        """What is held beyond the layers' inputs, which are others' outputs."""
        rows = [call.outputs for call in self.calls]
        rows += [each for each in self.products.values() if each is not None]
        return sum(each.num_bytes() for each in (self.hidden_out, *rows))

    def reset(self) -> None:
        """Starts anew with the next pass."""
        self.passes.clear()
        for call in self.calls:
            call.reset()
        for rows in (self.hidden_in, self.hidden_out, *self.products.values()):
            if rows is not None:
                rows.reset()


def _places(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[int | str, Any]]:
    """A layer's arguments that count behind its attention, but its hidden states."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    return [
        (place, value)
        for place, value in places
        if place not in READ_BY_ATTENTION and place not in (0, "hidden_states")
    ]


def last_of(tensor: Tensor, axis: int) -> Tensor:
    """The last entry along an axis; of several a copy, which does not hold them all."""
    if tensor.shape[axis] == 1:
        return tensor
    return tensor.narrow(axis, tensor.shape[axis] - 1, 1).clone()


def _of_last(arguments: Any, length: int) -> Any:
    """A layer's arguments for the last of so many positions."""

    def of_last(tensor: Tensor) -> Tensor:
        if length not in tensor.shape:
            return tensor
        return last_of(tensor, tensor.shape.index(length))

    return changed(arguments, of_last, lambda cache: cache)


class _FrozenCache:
    """A cache that can be read, and takes nothing up."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> Any:
        return keys, values


def _frozen(cache: Cache) -> Any:
    """What an encoder's keys are kept in is not needed: the layer has its output."""
    return None if isinstance(cache, EncoderDecoderCache) else _FrozenCache(cache)
