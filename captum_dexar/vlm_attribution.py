"""Explaining every token of an answer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from captum.attr import Attribution, ImageMaskInput, InterpretableInput
from captum.attr._core.llm_attr import DEFAULT_GEN_ARGS
from captum_dexar import scoring
from captum_dexar.answer_tokens import AnswerTokens
from captum_dexar.captum_methods import (
    extra_arguments,
    model_of,
    name_of,
    run_captum_method,
    StepRequest,
)
from captum_dexar.decoding import (
    contrast_tensor,
    DecodingSteps,
    generate,
    target_tensor,
)
from captum_dexar.families import adapter_for_config
from captum_dexar.image_tokens import ImageTokenInput
from captum_dexar.inputs import check_places, layout_of, model_inputs_of
from captum_dexar.layout import ImageLayout
from captum_dexar.model_state import check_model_state
from captum_dexar.result import VLMAttributionResult
from captum_dexar.stepwise import StepwiseLayerAttribution
from torch import Tensor
from tqdm.auto import tqdm
from transformers.generation.streamers import BaseStreamer

# Arguments of Captum's methods that are given for the user.
_OURS = ("inputs", "target", "additional_forward_args", "feature_mask")
Target = str | Sequence[int] | Tensor | None


class VLMAttribution(Attribution):
    r"""Runs an attribution method over every decoding step of an answer.

    To vision-language models what ``captum.attr.LLMAttribution`` is to language models.
    The answer is generated, or given and teacher-forced; its ids are explained as they
    are, never decoded and tokenised again. An end-of-sequence token that was generated
    is one of the answer's tokens.

    Args:

        attr_method (Attribution): the method, made with the model or a
            :class:`VLMForward` around it. :class:`LayerDexAR` and the methods of
            :mod:`captum_dexar.baselines` explain all decoding steps in one pass, on the
            cache that generating leaves. Captum's own methods explain one step after
            the other: gradient methods the pixels, whose attributions are summed into
            the image tokens' boxes; perturbation methods the image tokens' boxes; layer
            methods the vision tower's or the projector's tokens.
        processor (ProcessorMixin, optional): the model's processor (or tokenizer).
            Needed for a target given as a string, for the tokens' text, and to know
            where the image tokens of a plain ``ImageMaskInput`` lie. Default: None

    Raises:

        TypeError: the method is none that can be run.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> dexar = VLMAttribution(LayerDexAR(model), processor)
        >>> image = make_scene(0).image
        >>> inp = ImagePromptInput(image, "Describe the image.", processor)
        >>> result = dexar.attribute(inp)  # generates, explains every generated token
        >>> same = dexar.attribute(inp, target=result.target_ids)  # teacher-forced
        >>> given = dexar.attribute(inp, target="the image shows a red circle .")
        >>> given.token_attr.shape
        torch.Size([7, 144])
    """

    def __init__(self, attr_method: Attribution, processor: Any = None) -> None:
        model = model_of(attr_method)
        super().__init__(attr_method.forward_func)
        self.attr_method: Any = attr_method
        self.processor = processor
        self.model = model
        self.adapter = adapter_for_config(model.config)

    def attribute(
        self,
        inp: InterpretableInput | Mapping[str, Any],
        target: Target = None,
        gen_args: Mapping[str, Any] | None = None,
        *,
        progress: bool = False,
        contrast: Target = None,
        grid: tuple[int, int] | None = None,
        boxes: Tensor | None = None,
        **kwargs: Any,
    ) -> VLMAttributionResult:
        r"""Explains an answer, token by token.

        Args:

            inp (ImagePromptInput, ImageMaskInput or Mapping): image and prompt; or the
                processor's own output for one prompt, of which the original image, and
                so the image tokens' boxes, are not known
            target (str, list of int or Tensor, optional): the answer: a string, which
                is tokenised once without special tokens, or its ids, 1-D.
                Default: None, the model generates it
            gen_args (Mapping, optional): arguments of ``model.generate``, only without
                a target. Default: None, at most 25 tokens, greedily, as in Captum
            progress (bool, optional): shows a progress bar. Default: False
            contrast (str, list of int or Tensor, optional): another answer. Each token
                is then explained against the one in the same place there: why this
                rather than that, by the difference of their logits. Where both agree
                the attribution is zero; tokens beyond a shorter contrast are explained
                by themselves. Default: None
            grid (tuple of int, optional), boxes (Tensor, optional): where the image
                tokens lie, for a model of a family that is not known; as in
                :class:`ImagePromptInput`. Default: None
            **kwargs: arguments of the method: ``head_filter``, ``top_k``,
                ``attention_power``, ``grad_kwargs`` of :meth:`LayerDexAR.attribute`.
                ``normalize=False`` sums un-normalised token maps in the sequence map,
                as the method's first release does, instead of equation (6).

        Returns:

            VLMAttributionResult

        Raises:

            TypeError: input or target of another kind, or an argument that the method
                does not have.
            ValueError: no image, no image token, not one prompt, pixels that are not
                finite; an empty, 2-D or out-of-vocabulary target; a target together
                with ``gen_args``; a string without a processor.
            RuntimeError: as :meth:`LayerDexAR.attribute`.
        """
        check_model_state(self.model)
        if target is not None and gen_args is not None:
            raise ValueError(
                "gen_args are for generating an answer, but target gives one. Leave "
                "one of them out."
            )
        self._check_arguments(kwargs)
        normalize = bool(kwargs.pop("normalize", True))
        given_ids = None if target is None else self._given_ids(target)
        inputs = model_inputs_of(inp, self.model)
        image_keys = self.adapter.image_keys(inputs, self.model.config)
        layout = layout_of(
            inp,
            inputs,
            image_keys.shape[1],
            self.model,
            self.processor,
            grid=grid,
            boxes=boxes,
        )
        if grid is None and boxes is None:
            check_places(inp, inputs, layout, self.model)
        cache = None
        if given_ids is None:
            with _generation_progress(gen_args, progress) as arguments:
                target_ids, cache = generate(self.model, inputs, arguments)
        else:
            target_ids = given_ids[None]
        steps = DecodingSteps(self.model, inputs, target_ids)
        contrast_ids = None
        if contrast is not None:
            contrast_ids = contrast_tensor(
                self._given_ids(contrast, "contrast"), steps.num_steps
            )
        explain = self._explain if self._is_stepwise else self._run_captum_method
        every_token, fields = explain(
            inp, steps, layout, cache, contrast_ids, progress, kwargs
        )
        answer = AnswerTokens(steps.target_ids[0].cpu(), self.processor)
        token_attr = every_token[:, layout.placed]
        weights = fields.get("token_weights")
        return VLMAttributionResult(
            output_tokens=answer.texts,
            target_ids=answer.ids,
            special_tokens=answer.special,
            word_starts=answer.word_starts,
            token_attr=token_attr,
            seq_attr=scoring.sequence_attribution(
                token_attr,
                torch.ones(len(token_attr)) if weights is None else weights,
                normalize=normalize,
            ).float(),
            placeless_attr=every_token[:, layout.placeless],
            layout=layout,
            **_pictured(inp, layout),
            **fields,
            method=name_of(self.attr_method),
        )

    def _explain(
        self,
        inp: Any,
        steps: DecodingSteps,
        layout: ImageLayout,
        cache: Any,
        contrast_ids: Tensor | None,
        progress: bool,
        arguments: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Any]]:
        """All steps in as few passes as the method allows: attributions of all image
        tokens, ``(T, image tokens)``, and further fields of the result."""
        if contrast_ids is not None:
            arguments = {**arguments, "contrast_ids": contrast_ids}
        num_layers = len(self.attr_method.layer_indices)
        with tqdm(
            total=num_layers, desc="explaining", unit="layer", disable=not progress
        ) as bar:
            explained = self.attr_method.attribute_steps(
                steps, cache, on_layer=bar.update, **arguments
            )
        layer_attr = explained.layer_attr[0].cpu()
        return explained.token_attr[0].cpu(), {
            "token_weights": _first(explained.token_weights),
            "token_log_probs": _first(explained.token_log_probs),
            "head_weights": _first(explained.head_weights),
            "layer_attr": layer_attr[..., layout.placed],
            "layer_indices": explained.layer_indices,
        }

    def _run_captum_method(
        self,
        inp: Any,
        steps: DecodingSteps,
        layout: ImageLayout,
        cache: Any,
        contrast_ids: Tensor | None,
        progress: bool,
        arguments: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Any]]:
        """One step after the other, by a method of Captum; see :meth:`_explain`."""
        with tqdm(
            total=steps.num_steps, desc="explaining", unit="token", disable=not progress
        ) as bar:
            scores = run_captum_method(
                StepRequest(
                    method=self.attr_method,
                    model=self.model,
                    inp=inp,
                    steps=steps,
                    contrast_ids=contrast_ids,
                    layout=layout,
                    arguments=arguments,
                    on_step=bar.update,
                )
            )
        return scores.token_attr.cpu(), {
            "token_log_probs": scores.token_log_probs.cpu(),
            "convergence_delta": scores.convergence_delta,
        }

    @property
    def _is_stepwise(self) -> bool:
        return isinstance(self.attr_method, StepwiseLayerAttribution)

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raises TypeError for an argument that the method does not have."""
        if self._is_stepwise:
            known: tuple[str, ...] = (*self.attr_method.step_arguments, "normalize")
        else:
            parameters = signature(self.attr_method.attribute).parameters
            known = (*parameters, "normalize", *extra_arguments(self.attr_method))
            if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                return
        unknown = sorted(set(arguments) - set(known) | set(arguments) & set(_OURS))
        if unknown:
            raise TypeError(
                f"{name_of(self.attr_method)} has no argument {', '.join(unknown)} "
                f"here; it has {', '.join(k for k in known if k not in _OURS)}. Layers "
                "are chosen in its constructor, and a result always holds the maps of "
                "single layers."
            )

    def _given_ids(self, target: Any, name: str = "target") -> Tensor:
        if isinstance(target, str):
            if self.processor is None:
                raise ValueError(
                    f"A {name} given as a string needs a processor to tokenise it: "
                    "VLMAttribution(attr_method, processor). Or give its ids."
                )
            tokenizer = getattr(self.processor, "tokenizer", self.processor)
            target = tokenizer.encode(target, add_special_tokens=False)
        config: Any = self.model.config
        return target_tensor(target, config.get_text_config().vocab_size)

    @classmethod
    def get_name(cls) -> str:
        """The name for humans."""
        return "VLM Attribution"


def _first(tensor: Tensor | None) -> Tensor | None:
    """The only example of a batch, on the CPU."""
    return None if tensor is None else tensor[0].cpu()


def _pictured(inp: Any, layout: ImageLayout) -> dict[str, Any]:
    """The image of an input, and the input whose features are our columns."""
    if isinstance(inp, ImageTokenInput):
        return {"inp": inp, "images": inp.images}
    if isinstance(inp, ImageMaskInput):
        # As the processor saw it: it does not turn images by their EXIF tag.
        image = inp.image.convert("RGB")
        if layout.boxes() is None:
            return {"images": [image]}
        columns = ImageTokenInput(
            [image],
            layout,
            inp.processor_fn,
            baseline=inp.baseline,
            model_inputs=inp.original_model_inputs,
        )
        return {"inp": columns, "images": [image]}
    return {}


class _TokenCounter(BaseStreamer):
    """Moves a progress bar with every generated token."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.has_seen_prompt = False

    def put(self, value: Tensor) -> None:
        if self.has_seen_prompt:
            self.bar.update(1)
        self.has_seen_prompt = True

    def end(self) -> None:
        self.bar.close()


@contextmanager
def _generation_progress(
    gen_args: Mapping[str, Any] | None, progress: bool
) -> Iterator[Mapping[str, Any] | None]:
    """Arguments for generating that show a progress bar, where one is possible."""
    arguments = dict(gen_args if gen_args is not None else DEFAULT_GEN_ARGS)
    if not progress or arguments.get("num_beams", 1) != 1 or "streamer" in arguments:
        yield gen_args
        return
    with tqdm(
        total=arguments.get("max_new_tokens"), desc="generating", unit="token"
    ) as bar:
        yield {**arguments, "streamer": _TokenCounter(bar)}
