"""Sanity checks: what becomes of a map when the model's weights are made random.

J. Adebayo et al., *Sanity Checks for Saliency Maps*, 2018,
https://arxiv.org/abs/1810.03292: an explanation of what a model has learned can't stay
the same when that is destroyed. A method whose maps survive it shows the image, or the
architecture, but not the model.

Weights are made random by permuting the values of each parameter. Unlike drawing from
an initialisation this keeps their scale, in every family and precision: a map changes
because of what was lost, and not because activations vanish or overflow, or because a
gate is closed again. Parameters whose values are all equal stay as they are.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
from operator import setitem
from typing import Any, TYPE_CHECKING, TypeVar

import torch
from captum_dexar.maps.normalization import min_max_normalize
from captum_dexar.model.layers import find_layers, output_head
from torch import nn, Tensor

if TYPE_CHECKING:
    from captum_dexar.inputs import Target
    from captum_dexar.vlm_attribution import VLMAttribution

T = TypeVar("T")

# What the models of transformers call the part that sees pixels.
_VISION_NAMES = (
    "vision_tower",
    "visual",
    "vision_model",
    "vision_encoder",
    "image_tower",
    "vqmodel",
)
# Side of the windows that SSIM is computed in, where a map is large enough.
_SSIM_WINDOW = 7


@dataclass(frozen=True, eq=False)
class ModelPart:
    """A part of a model whose weights are made random together.

    Attributes:
        name (str): what tables call it
        modules (tuple of nn.Module): everything inside them belongs to the part
    """

    name: str
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True)
class MapSimilarity:
    """How much two maps are alike; see :func:`map_similarity`.

    Attributes:
        spearman (float or None): rank correlation, from -1 to 1
        ssim (float or None): structural similarity, at most 1
    """

    spearman: float | None
    ssim: float | None


def decoder_parts(model: nn.Module) -> list[ModelPart]:
    """The parts of a decoder from the top: its output head, then its last layer ...

    Args:
        model (nn.Module): the vision-language model

    Returns:
        list of ModelPart, named ``"head"``, ``"layer 31"``, ..., ``"layer 0"``

    Raises:
        TypeError: the model has no decoder or output head that can be found.

    Example::

        >>> from captum_dexar.evaluation import decoder_parts
        >>> from captum_dexar.shapes import load_vlm
        >>> model, _ = load_vlm()
        >>> [part.name for part in decoder_parts(model)]
        ['head', 'layer 4', 'layer 3', 'layer 2', 'layer 1', 'layer 0']
    """
    layers = [
        ModelPart(f"layer {index}", (layer,))
        for index, layer in enumerate(find_layers(model))
    ]
    return [ModelPart("head", (output_head(model),)), *reversed(layers)]


def vision_part(model: nn.Module) -> ModelPart:
    """The vision tower, without the projection into the language model.

    Args:
        model (nn.Module): the vision-language model

    Returns:
        ModelPart named ``"vision tower"``

    Raises:
        TypeError: the model has none (Fuyu), or it has an unknown name.
    """
    waiting = deque([model])
    while waiting:
        children = dict(waiting.popleft().named_children())
        for name in _VISION_NAMES:
            if name in children:
                return ModelPart("vision tower", (children[name],))
        waiting.extend(children.values())
    raise TypeError(
        f"No vision tower was found in {type(model).__name__}: no module in it is "
        f"called {', '.join(_VISION_NAMES)}. If it has one, pass "
        "ModelPart('vision tower', (module,))."
    )


@contextmanager
def randomized(
    model: nn.Module, parts: Sequence[ModelPart], seed: int = 0
) -> Iterator[None]:
    """Within it, the weights of some parts of a model are random.

    Random parameters are put in the place of the model's own, which are neither written
    to nor moved. Leaving the block, for whatever reason, puts them back. Memory for the
    random parameters is needed. A parameter that the parts share with the rest of the
    model (an output head tied to the embedding) stays as it is in the rest.

    What a parameter becomes depends only on its name, the seed and the kind of device,
    so blocks inside one another are the same as one block with all parts. Other threads
    must not run the model meanwhile.

    Explaining inside the block works as outside. Only for families without an adapter,
    whose image tokens' places are checked by means of the vision tower, give ``grid=``
    or ``boxes=`` when that is random.

    Args:
        model (nn.Module): the vision-language model
        parts (sequence of ModelPart): what is made random
        seed (int, optional): another seed gives other weights, and so does another kind
            of device. Default: 0

    Raises:
        TypeError: a part has quantised weights, or is sharded over devices (FSDP,
            tensor parallelism).
        RuntimeError: weights are offloaded, and so are not in memory.
        ValueError: a part does not belong to the model, or has no parameters.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.evaluation import decoder_parts, randomized
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> dexar = VLMAttribution(LayerDexAR(model), processor)
        >>> with randomized(model, decoder_parts(model)):
        ...     result = dexar.attribute(inp, "a red circle")
        >>> result.token_maps.shape
        torch.Size([3, 12, 12])
    """
    places = _parameters_of(model, parts)
    random: dict[int, nn.Parameter] = {}
    for name, owner, key in places:
        original = owner[key]
        if id(original) not in random:
            random[id(original)] = _permuted(name, original, seed)
    owners = [owner for _, owner, _ in places]
    keys = [key for _, _, key in places]
    originals = [owner[key] for _, owner, key in places]
    replacements = [random[id(original)] for original in originals]
    # All are exchanged by one call into C, which no signal interrupts half-way.
    exchange = map(setitem, owners, keys, replacements)
    put_back = map(setitem, owners, keys, originals)
    once_more = map(setitem, owners, keys, originals)
    try:
        try:
            deque(exchange, maxlen=0)
            yield
        finally:
            deque(put_back, maxlen=0)
    finally:
        # An interruption may have come just before the last line.
        deque(once_more, maxlen=0)


def _parameters_of(
    model: nn.Module, parts: Sequence[ModelPart]
) -> list[tuple[str, dict[str, Any], str]]:
    """Each parameter's full name, the dictionary that holds it, and its key there."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        raise TypeError(
            f"The model's weights are quantised ({type(quantizer).__name__}), so they "
            "can't be made random without changing their precision. Load the model "
            "without quantization_config."
        )
    names = {id(module): name for name, module in model.named_modules()}
    places = []
    seen: set[int] = set()
    for part in parts:
        found = 0
        for outer in part.modules:
            if id(outer) not in names:
                raise ValueError(
                    f"The part {part.name!r} holds a {type(outer).__name__} that is "
                    f"no module of this {type(model).__name__}."
                )
            for module in outer.modules():
                prefix = names[id(module)]
                where = prefix or type(model).__name__
                _check_module(module, where)
                held: Any = module._parameters
                for key, parameter in held.items():
                    if parameter is None:
                        continue
                    found += 1
                    name = f"{prefix}.{key}" if prefix else key
                    _check_parameter(parameter, name)
                    if id(module) not in seen:
                        places.append((name, held, key))
                seen.add(id(module))
        if not found:
            raise ValueError(
                f"The part {part.name!r} has no parameters to make random."
            )
    return places


def _check_module(module: nn.Module, where: str) -> None:
    kinds = type(module).__mro__
    if any("FSDP" in one.__name__ or "FullySharded" in one.__name__ for one in kinds):
        raise TypeError(
            f"{where} is sharded over processes by FSDP, so that its weights are not "
            "all here. Load the model without FSDP; device_map can spread it over GPUs."
        )
    if type(module).__module__.startswith(("torch.ao.nn.", "torch.nn.quantized")):
        raise TypeError(
            f"{where} is a quantised {type(module).__name__}, whose weights can't be "
            "made random. Use the model before quantisation."
        )


def _check_parameter(parameter: Tensor, name: str) -> None:
    if parameter.is_meta:
        raise RuntimeError(
            f"{name} is offloaded: it is in memory only while its module runs. Load "
            "the model on devices that hold it whole."
        )
    if type(parameter.detach()) is not Tensor or parameter.layout != torch.strided:
        raise TypeError(
            f"{name} is a {type(parameter).__name__} of {parameter.layout}, not a "
            "plain tensor: it is quantised or sharded, and can't be made random. Load "
            "the model without quantisation and tensor parallelism."
        )
    if not parameter.is_floating_point() or parameter.element_size() < 2:
        raise TypeError(
            f"{name} is of {parameter.dtype}: it is quantised, and can't be made "
            "random. Load the model in float16, bfloat16 or float32."
        )


def _permuted(name: str, parameter: Tensor, seed: int) -> nn.Parameter:
    """The parameter's values in another order, which follows from name and seed."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    # On its own device: large models have billions of weights to put in order.
    generator = torch.Generator(parameter.device)
    generator.manual_seed(int.from_bytes(digest[:7], "big"))
    flat = parameter.detach().reshape(-1)
    order = torch.randperm(
        flat.numel(),
        generator=generator,
        dtype=torch.int32 if flat.numel() < 2**31 else torch.int64,
        device=flat.device,
    )
    values = flat.index_select(0, order).view(parameter.shape)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def cascading_randomization(
    explain: Callable[[], T],
    model: nn.Module,
    parts: Sequence[ModelPart] | None = None,
    seed: int = 0,
) -> list[tuple[str, T]]:
    """Explains a model again and again, with one more part made random each time.

    Args:
        explain (Callable): called without arguments for every depth
        model (nn.Module): the model that it explains
        parts (sequence of ModelPart, optional): in the order in which they are made
            random. Default: None, those of :func:`decoder_parts`, from the top
        seed (int, optional): seed of the weights. Default: 0

    Returns:
        list of pairs, the name of the part that was made random last, and what
        ``explain`` returned

    Raises:
        As :func:`randomized` and ``explain``.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.evaluation import cascading_randomization, map_similarity
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> dexar = VLMAttribution(LayerDexAR(model), processor)
        >>> def explain():
        ...     return dexar.attribute(inp, "the image shows a red cross .")
        >>> true_map = explain().token_maps[5]
        >>> for name, result in cascading_randomization(explain, model):
        ...     print(name, map_similarity(true_map, result.token_maps[5]).spearman)
        head ...
        layer 4 ...
    """
    if parts is None:
        parts = decoder_parts(model)
    results = []
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(randomized(model, [part], seed))
            results.append((part.name, explain()))
    return results


def independent_randomization(
    explain: Callable[[], T],
    model: nn.Module,
    parts: Sequence[ModelPart] | None = None,
    seed: int = 0,
) -> list[tuple[str, T]]:
    """Explains a model with one part made random at a time.

    Args:
        explain (Callable): called without arguments for every part
        model (nn.Module): the model that it explains
        parts (sequence of ModelPart, optional): Default: None, those of
            :func:`decoder_parts`; for the vision tower add :func:`vision_part`
        seed (int, optional): seed of the weights. Default: 0

    Returns:
        list of pairs, the part's name, and what ``explain`` returned

    Raises:
        As :func:`randomized` and ``explain``.
    """
    if parts is None:
        parts = decoder_parts(model)
    results = []
    for part in parts:
        with randomized(model, [part], seed):
            results.append((part.name, explain()))
    return results


def swap_similarity(
    method: VLMAttribution, inp: Any, other: Any, target: Target, **arguments: Any
) -> list[MapSimilarity]:
    """How much the maps of an answer stay the same when the image is another one.

    The answer is true of the first image only. A method whose maps stay shows the
    answer, or always the same place, but not the image.

    Args:
        method (VLMAttribution): the method
        inp (ImagePromptInput): image and prompt that the answer belongs to
        other (ImagePromptInput): another image
        target (str, list of int or Tensor): the answer
        **arguments: of ``method.attribute``

    Returns:
        list of MapSimilarity, one for each token of the answer; of the first image,
        where a prompt has several
    """
    first = method.attribute(inp, target, **arguments)
    second = method.attribute(other, first.target_ids, **arguments)
    return [
        map_similarity(
            _one(first.token_map_of(token)), _one(second.token_map_of(token))
        )
        for token in range(len(first.output_tokens))
    ]


def _one(maps: Tensor | list[Tensor]) -> Tensor:
    return maps[0] if isinstance(maps, list) else maps


def map_similarity(first: Tensor, second: Tensor) -> MapSimilarity:
    """Spearman's rank correlation of two maps, and their structural similarity.

    SSIM compares windows of 7 x 7 cells (fewer on smaller maps) of the maps, each
    min-max normalised. Signed maps are compared with their signs. Unrelated maps are
    not at zero in either measure: most maps of a method have something in common, such
    as a dark border. So compare with maps of other images.

    Args:
        first (Tensor): ``(h, w)``
        second (Tensor): ``(h, w)``; if it has another size, it is resized bilinearly

    Returns:
        MapSimilarity. Both are None if a map is constant, where they are not defined;
        SSIM is None if a side is shorter than 3.

    Raises:
        ValueError: a map is not 2-D, or holds values that are not finite.
        ImportError: SciPy or scikit-image is missing.

    Example::

        >>> import torch
        >>> from captum_dexar.evaluation import map_similarity
        >>> ramp = torch.arange(64.0).view(8, 8)
        >>> round(map_similarity(ramp, ramp**2).spearman, 6)
        1.0
        >>> map_similarity(ramp, torch.zeros(8, 8)).spearman is None
        True
    """
    try:
        from scipy.stats import spearmanr
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError(
            "The similarity of maps needs SciPy and scikit-image: pip install "
            '"captum-dexar[evaluation]"'
        ) from error
    for one in (first, second):
        if one.dim() != 2 or not bool(torch.isfinite(one).all()):
            raise ValueError(
                "A map must be 2-D and finite, got shape "
                f"{tuple(one.shape)} and {int((~torch.isfinite(one)).sum())} values "
                "that are not finite."
            )
    first, second = first.detach().double().cpu(), second.detach().double().cpu()
    if second.shape != first.shape:
        second = nn.functional.interpolate(
            second[None, None], first.shape, mode="bilinear", align_corners=False
        )[0, 0]
    if is_constant(first) or is_constant(second):
        return MapSimilarity(None, None)
    ranks = float(spearmanr(first.numpy().ravel(), second.numpy().ravel()).statistic)
    shortest = min(first.shape)
    if shortest < 3:
        return MapSimilarity(ranks, None)
    flat = [min_max_normalize(one.flatten()) for one in (first, second)]
    structure = structural_similarity(
        *(one.view(first.shape).numpy() for one in flat),
        win_size=min(_SSIM_WINDOW, shortest - (shortest + 1) % 2),
        data_range=1.0,
    )
    return MapSimilarity(ranks, float(structure))


def is_constant(one: Tensor) -> bool:
    """Whether a map has one value everywhere, so that it shows nothing."""
    return bool(one.amax() == one.amin())
