"""One call of an attention function: which keys it allows, and its probabilities."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from captum_dexar.decoding.prompt_cache import KEEPS_PROMPT
from captum_dexar.model.changes import LIBRARIES
from captum_dexar.model.precision import widened
from torch import nn, Tensor
from torch.nn.attention.flex_attention import BlockMask

AttentionFunction = Callable[..., Any]


def narrowed(layer_mask: Any, attention_mask: Any) -> Tensor | None:
    """The mask of a decoder layer, if its attention module has made another one."""
    is_other = layer_mask is not None and layer_mask is not attention_mask
    return layer_mask if is_other and isinstance(layer_mask, Tensor) else None


class AttentionCall:
    """A call of transformers' attention interface inside a decoder layer.

    Nothing is computed before it is asked for: one is made for every attention call of
    every decoding step.

    Args:
        layer (int): index of the decoder layer
        is_cross (bool): whether it is the cross-attention that reads the image
        attention_function (Callable): the model's own
        eager_function (Callable): the model family's eager implementation
        module (nn.Module): the attention module
        query (Tensor): ``(batch, heads, queries, head size)``
        key, value (Tensor): ``(batch, key heads, keys, head size)``; a layer with a
            sliding window may hold the last keys of the sequence only
        attention_mask (Tensor, BlockMask or None): see :func:`allowed_keys`
        *args, **kwargs: further arguments of the attention function

    Attributes:
        layer_mask (Tensor or None): the mask that the decoder layer was given, if it is
            another one: some attention modules choose keys among those that it allows
        encoder_keys (int): how many of an encoder's keys come before the decoder's own;
            see :func:`encoder_first`
    """

    def __init__(
        self,
        layer: int,
        is_cross: bool,
        attention_function: AttentionFunction,
        eager_function: AttentionFunction,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.layer = layer
        self.is_cross = is_cross
        self.attention_function = attention_function
        self.eager_function = eager_function
        self.module = module
        self.query = query
        self.key = key
        self.value = value
        self.attention_mask = attention_mask
        self.args = args
        self.kwargs = kwargs
        self.layer_mask: Tensor | None = None
        self.encoder_keys = 0

    def run(self) -> Any:
        """Calls the model's own attention function."""
        return self.attention_function(
            self.module,
            self.query,
            self.key,
            self.value,
            self.attention_mask,
            *self.args,
            **self.kwargs,
        )

    @property
    def masked_by_kernel(self) -> bool:
        """See :func:`allowed_keys`."""
        return self.attention_function is not self.eager_function

    @property
    def window(self) -> int | None:
        """How many of the last keys the layer may hold in place of all of them."""
        config = getattr(self.module, "config", None)
        known = (
            self.kwargs.get("sliding_window"),
            getattr(self.module, "sliding_window", None),
            getattr(config, "sliding_window", None),
            getattr(config, "attention_chunk_size", None),
        )
        return next((size for size in known if isinstance(size, int) and size), None)

    @property
    def keeps_prompt(self) -> bool:
        """Whether a layer with such a window holds the whole prompt before it."""
        config = getattr(self.module, "config", None)
        types = getattr(config, "layer_types", None) or ()
        return KEEPS_PROMPT in types and types[self.layer] == KEEPS_PROMPT

    @property
    def is_users_function(self) -> bool:
        """Whether the attention function is a user's own, which may do anything."""
        function: Any = self.attention_function
        while isinstance(function, partial):
            function = function.func
        module = getattr(function, "__module__", None) or type(function).__module__
        return module.partition(".")[0] not in LIBRARIES

    def mask_key(self) -> tuple[Any, ...]:
        """The same for calls that mask alike, as long as their mask is kept alive."""
        return (
            id(self.attention_mask),
            self.query.shape[2],
            self.value.shape[2],
            self.is_cross,
            *mask_rule(self.masked_by_kernel, self.module, self.kwargs),
            self.value.device,
        )

    def allowed_keys(self, query_positions: Tensor) -> Tensor | None:
        """The keys that some queries may attend to; see :func:`allowed_keys`."""
        return self._allowed_by(self.attention_mask, query_positions)

    def _allowed_by(self, mask: Any, query_positions: Tensor) -> Tensor | None:
        return allowed_keys(
            mask,
            num_queries=self.query.shape[2],
            num_keys=self.value.shape[2],
            query_positions=query_positions.to(self.value.device),
            masked_by_kernel=self.masked_by_kernel,
            module=self.module,
            kwargs=self.kwargs,
        )

    def causal_keys(self, query_positions: Tensor) -> Tensor | None:
        """As :meth:`allowed_keys`, before the attention module has chosen keys."""
        mask = self.attention_mask if self.layer_mask is None else self.layer_mask
        return self._allowed_by(mask, query_positions)

    def probabilities(self, query_positions: Tensor) -> Tensor:
        """Attention probabilities of some queries.

        Fused kernels never make them, and ``output_attentions`` is empty under them.
        They are computed again by the model family's own eager function, so that
        scaling, soft caps and sinks are right.

        Args:
            query_positions (Tensor): indices of the queries, ``(positions,)``

        Returns:
            *Tensor* ``(batch, heads, positions, keys)``, float32 at least
        """
        query = self.query[:, :, query_positions.to(self.query.device)]
        rows = {
            name: value[:, :, query_positions.to(value.device)]
            for name, value in self.arguments_by_query().items()
        }
        kwargs = {**self.kwargs, **rows}
        allowed = self.allowed_keys(query_positions)
        mask = None
        if allowed is not None:
            mask = torch.zeros_like(allowed, dtype=query.dtype)
            mask.masked_fill_(~allowed, torch.finfo(query.dtype).min)
        attention = self.eager_function(
            self.module, query, self.key, self.value, mask, *self.args, **kwargs
        )[1]
        assert isinstance(attention, Tensor)
        attention = widened(attention.detach())
        # The softmax of a query without any allowed key is uniform.
        return attention if allowed is None else attention * allowed

    def arguments_by_query(self) -> dict[str, Tensor]:
        """The arguments that have a row for each query: a bias of positions, ``(batch
        or 1, heads, queries, keys)``, or a sink, ``(batch, heads, queries, 1)``."""
        num_queries, num_keys = self.query.shape[2], self.value.shape[2]
        return {
            name: value
            for name, value in self.kwargs.items()
            if isinstance(value, Tensor)
            and value.dim() == 4
            and value.shape[2] == num_queries
            and value.shape[3] in (1, num_keys)
        }


def encoder_first(call: AttentionCall, encoder_keys: int) -> AttentionCall:
    """A call whose softmax covers a decoder's and an encoder's keys, in another order.

    Models put the encoder's keys behind the decoder's own, so that their positions are
    others for every token. The sum over all keys has no order.

    Args:
        call (AttentionCall): the call
        encoder_keys (int): how many keys of an encoder it ends with; 0 for none
    """
    if not encoder_keys:
        return call
    mask = call.attention_mask
    moved = AttentionCall(
        call.layer,
        call.is_cross,
        call.attention_function,
        call.eager_function,
        call.module,
        call.query,
        call.key.roll(encoder_keys, dims=2),
        call.value.roll(encoder_keys, dims=2),
        mask.roll(encoder_keys, dims=-1) if isinstance(mask, Tensor) else mask,
        *call.args,
        **call.kwargs,
    )
    moved.encoder_keys = encoder_keys
    return moved


def mask_rule(
    masked_by_kernel: bool, module: nn.Module, kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """How an attention function masks keys beside its mask argument."""
    is_causal = kwargs.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    return masked_by_kernel, is_causal, kwargs.get("sliding_window")


def allowed_keys(
    attention_mask: Any,
    *,
    num_queries: int,
    num_keys: int,
    query_positions: Tensor,
    masked_by_kernel: bool,
    module: nn.Module,
    kwargs: Mapping[str, Any],
) -> Tensor | None:
    """The keys that some queries of an attention call may attend to.

    The gradient of a logit with respect to an attention probability is ``<value, c>``
    whether or not the key may be attended to. A key that may not is neither image nor
    text for that query, so its gradient has to be set to zero by this mask.

    Args:
        attention_mask (Tensor, BlockMask or None): the mask as the attention function
            received it: boolean (True: may attend) or additive, ``(batch, heads or 1,
            queries, keys)``; FlashAttention's padding mask ``(batch, keys)``; a block
            mask; or None
        num_queries (int): queries of the call
        num_keys (int): keys of the call
        query_positions (Tensor): indices of the queries, ``(positions,)``
        masked_by_kernel (bool): whether the attention function itself masks what its
            mask argument leaves open (causality and sliding window); False for eager
            functions, for which a missing mask means that every key is allowed
        module (nn.Module): the attention module
        kwargs (Mapping): further keyword arguments of the attention call

    Returns:
        Boolean *Tensor*, broadcastable to ``(batch, heads, positions, keys)``, or None
        if every key is allowed.

    Raises:
        TypeError: the mask is of an unknown kind.
    """
    if isinstance(attention_mask, BlockMask):
        return _of_block_mask(attention_mask, num_keys, query_positions)
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        raise TypeError(
            "The attention mask must be a tensor, a BlockMask or None, got "
            f"{type(attention_mask).__name__}. Use another attn_implementation, or "
            'LayerDexAR(..., engine="autograd").'
        )
    if attention_mask is not None and attention_mask.dim() == 4:
        is_shared = attention_mask.shape[2] == 1
        mask = attention_mask[:, :, [0] if is_shared else query_positions]
        mask = mask[..., :num_keys]
        if mask.dtype == torch.bool:
            return mask
        return mask > torch.finfo(mask.dtype).min / 2
    _, is_causal, window = mask_rule(masked_by_kernel, module, kwargs)
    allowed = None
    if masked_by_kernel and is_causal:
        # Aligned to the lower right corner.
        query = (query_positions + num_keys - num_queries)[:, None]
        key = torch.arange(num_keys, device=query_positions.device)
        allowed = key <= query
        if window is not None and window > 0:
            allowed &= key > query - window
        allowed = None if bool(allowed.all()) else allowed[None, None]
    if masked_by_kernel and attention_mask is not None:
        padding = attention_mask[:, None, None, -num_keys:].bool()
        allowed = padding if allowed is None else padding & allowed
    return allowed


def _of_block_mask(
    block_mask: BlockMask, num_keys: int, query_positions: Tensor
) -> Tensor:
    """Evaluates the rule of a block mask for some queries, one example at a time."""
    device = query_positions.device
    key, head = torch.arange(num_keys, device=device), torch.tensor(0, device=device)
    batch = []
    for example in range(block_mask.kv_num_blocks.shape[0]):
        index = torch.tensor(example, device=device)
        allowed = [
            block_mask.mask_mod(index, head, query, key).expand(num_keys)
            for query in query_positions
        ]
        batch.append(torch.stack(allowed))
    return torch.stack(batch)[:, None]
