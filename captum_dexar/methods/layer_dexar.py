"""DEX-AR as a Captum attribution method."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
from captum.attr import GradientAttribution
from captum.log import log_usage
from captum_dexar.attention_gradients import (
    AttentionGradients,
    AutogradReference,
    ClosedForm,
    PositionGraphs,
    RecordedGradients,
    users_change,
)
from captum_dexar.decoding import DecodingSteps, ModelPass
from captum_dexar.decoding.step_attributions import StepAttributions
from captum_dexar.inputs import Prompt
from captum_dexar.methods.answer_scores import AnswerScores
from captum_dexar.methods.base import DecoderLayerAttribution
from captum_dexar.methods.online_dexar import OnlineDexAR
from captum_dexar.methods.options import check_rivals, DexAROptions
from captum_dexar.methods.positions_apart import check_positions_are_apart
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.hook_effects import noted_effects
from captum_dexar.model.memory import tokens_at_once
from captum_dexar.model.state import check_model_state, is_offloaded
from captum_dexar.model.target_logits import rival_ids, TargetLogits
from torch import nn, Tensor

ENGINES = ("closed_form", "autograd")


# Long by its documentation: Captum's arguments, each explained where it is called.
class LayerDexAR(DecoderLayerAttribution, GradientAttribution):
    r"""Where in the image a vision-language model finds its next token.

    For each decoder layer :math:`l` the logit lens reads the logit of token :math:`v_t`
    at the position that predicts it (equation (3) of the paper), and
    :math:`G^{l,t,i} = relu(\partial o^{l,t} / \partial A^l_i)` shows which keys would
    raise that reading if attention head :math:`i` attended to them more (4). Heads
    whose gradient is larger at the image than at the text are summed, weighted by the
    difference (5).

    Unlike Captum's other layer methods this one does not explain
    ``d forward_func / d layer``: every layer has its own reading, so
    ``compute_layer_gradients_and_eval`` is not used, and there is no convergence delta.
    Gradients are exact and need no attention matrices; any attention implementation
    works.

    More details regarding DEX-AR can be found in the paper:
    https://arxiv.org/abs/2603.06302
    Following it, the model's final norm is applied exactly once, every key that is not
    an image token counts as text, and all layers take part. ``attention_power`` and
    ``rivals`` are extensions of this package, not in the paper, and off by default.

    With ``rivals=k`` the question is why the model says this token *rather than* each
    of the :math:`k` tokens :math:`u` that it would choose next: those of the largest
    logits of the model itself at this position, the same for every layer, whatever
    penalties, filters or sampling make of them. In (4) and (5)

    .. math:: A_i^p \, \frac{\partial (o^{l,t} - o^{l,u})}{\partial A^l_i}, \; p = 0.75

    takes the place of the gradient, once for each :math:`u`, with :math:`A_i` held
    constant; ``relu``, :math:`S_{img}` and :math:`S_{text}` are those of the product.
    The token's attributions are the mean over :math:`u`, before any normalisation, and
    its weight the mean of the share of head scores by which the image exceeds the text,

    .. math::

        \frac{\sum_{l,i} relu(S_{img} - S_{text})}{\sum_{l,i} S_{img} + S_{text}}

    instead of (6): from 0 to 1 and rarely 0, not to be compared with weights without
    rivals. What this is good for, what it costs and where it fails is measured in the
    README of :mod:`captum_dexar.evaluation`.

    Args:
        forward_func (nn.Module): a Hugging Face vision-language model in eval mode, or
            a :class:`VLMForward` around it
        layer (nn.Module or list of nn.Module, optional): decoder layer or layers of
            the language model. The last layers alone separate words with a place in
            the image from filler words better than all layers do. Default: None, all
            layers
        device_ids (list of int, optional): as in Captum; more than one device is
            refused. Default: None
        engine (str, optional): ``"closed_form"``; or ``"autograd"``, plain
            differentiation under eager attention with one pass per token, for models
            that do not use the attention interface of transformers, and as a reference
            implementation. Default: ``"closed_form"``

    Raises:
        TypeError: the model is of no supported family.
        ValueError: ``layer`` is not one of the model's decoder layers, or the engine or
            the devices are not as above.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> image = make_scene(0).image
        >>> inp = ImagePromptInput(image, "Describe the image.", processor)
        >>> inputs = dict(inp.to_model_input())
        >>> pixel_values = inputs.pop("pixel_values")  # (1, 3, 96, 96)
        >>> input_ids = inputs.pop("input_ids")  # (1, 155)
        >>> attr = LayerDexAR(model).attribute(
        ...     pixel_values, additional_forward_args=(input_ids, inputs)
        ... )
        >>> attr.shape
        torch.Size([1, 1, 12, 12])
    """

    takes_contrast: ClassVar[bool] = True
    step_arguments: ClassVar[tuple[str, ...]] = tuple(
        field.name for field in fields(DexAROptions)
    )

    def __init__(
        self,
        forward_func: nn.Module,
        layer: nn.Module | list[nn.Module] | None = None,
        device_ids: list[int] | None = None,
        *,
        engine: str = "closed_form",
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}, got {engine!r}.")
        self.engine = engine
        DecoderLayerAttribution.__init__(self, forward_func, layer, device_ids)
        GradientAttribution.__init__(self, forward_func)

    @property
    def uses_autograd(self) -> bool:
        """Whether plain autograd explains the model, asked for or not."""
        config: Any = self.model.config
        is_only_way = self.adapter.needs_autograd(config)
        return is_only_way or self.engine == "autograd"

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        target: int | list[int] | Tensor | None = None,
        additional_forward_args: Any = None,
        *,
        head_filter: bool = True,
        top_k: int = 1,
        attention_power: float | None = None,
        rivals: int = 0,
        normalize: bool = True,
        sum_layers: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Tensor | list[Tensor]:
        r"""Explains one decoding step: the token after each example's prompt.

        Args:
            inputs (Tensor or tuple of Tensor): ``pixel_values``, ``(N, channels,
                height, width)``, as the processor makes them
            target (int, list of int or Tensor, optional): the token to explain, a
                vocabulary id for all examples, or one for each. Default: None, the
                model's own most likely next token
            additional_forward_args (tuple): ``(input_ids, other_model_inputs)``:
                *Tensor* ``(N, tokens)`` of prompts padded on the left, and a mapping of
                the model's further inputs (``attention_mask`` ...), which may be
                omitted
            head_filter (bool, optional): False gives every head weight one, instead of
                equation (5)'s ``relu(S_img - S_text)``. Default: True
            top_k (int, optional): head scores are means of this many largest
                gradients. Default: 1, the paper's best setting
            attention_power (float, optional): ``A ** attention_power * G`` takes the
                place of ``G``. 0 is the paper's: which patches *would* raise the logit.
                1 is the first-order contribution of what *was* attended to. Not in the
                paper. Default: None, 0; with ``rivals``, 0.75
            rivals (int, optional): each token is contrasted with so many tokens that
                the model itself would choose next, see above. Not in the paper.
                At least one fewer than the vocabulary's tokens. Default: 0
            normalize (bool, optional): scales each map to [0, 1]; a constant map
                becomes zero. False returns the attributions as they are, comparable
                between examples and tokens. Default: True
            sum_layers (bool, optional): False returns a list of maps, one per layer.
                Default: True
            grad_kwargs (dict, optional): further arguments of
                ``torch.autograd.grad``. Default: None

        Returns:
            *Tensor* or *list of Tensor* of **attributions**:

            - **attributions** (*Tensor*): ``(N, 1, h, w)``, float32, never negative, on
              the ``h x w`` grid of image tokens; for ``sum_layers=False`` a list of
              them in the order of ``layer``. All zero where nothing in the image
              supports the token: a result, not a failure.

        Raises:
            ValueError: no image or no image token; a target that is not in the
                vocabulary, or not one for each example; image tokens that do not fill
                the grid; a negative ``attention_power`` or ``rivals``.
            TypeError: a target that is not an integer, or inputs of another kind.
            RuntimeError: the model is in training mode, the call is inside
                ``torch.inference_mode``, or the logit lens does not reproduce the
                model's logits.

        Examples::

            >>> from captum.attr import LayerAttribution
            >>> from captum_dexar.shapes import load_vlm, make_scene
            >>> model, processor = load_vlm()
            >>> inputs = dict(
            ...     processor(
            ...         images=[make_scene(0).image, make_scene(1).image],
            ...         text=[
            ...             "USER: <image> describe the image . ASSISTANT: the",
            ...             "USER: <image> how many objects are there ? ASSISTANT:",
            ...         ],
            ...         padding=True,
            ...         return_tensors="pt",
            ...     )
            ... )
            >>> pixel_values = inputs.pop("pixel_values")
            >>> input_ids = inputs.pop("input_ids")
            >>> attr = LayerDexAR(model).attribute(
            ...     pixel_values, additional_forward_args=(input_ids, inputs)
            ... )  # (2, 1, 12, 12)
            >>> LayerAttribution.interpolate(attr, (96, 96), "bilinear").shape
            torch.Size([2, 1, 96, 96])
        """
        return self.attribute_next_token(
            inputs,
            target,
            additional_forward_args,
            normalize=normalize,
            sum_layers=sum_layers,
            head_filter=head_filter,
            top_k=top_k,
            attention_power=attention_power,
            rivals=rivals,
            grad_kwargs=grad_kwargs,
        )

    def attribute_steps(
        self,
        steps: DecodingSteps,
        cache: Any = None,
        *,
        on_layer: Callable[[int], object] | None = None,
        **arguments: Any,
    ) -> StepAttributions:
        """Explains all decoding steps of an answer in as few passes as fit.

        Args:
            steps (DecodingSteps): the prompts and their answers
            cache (PromptCache or DynamicCache, optional): keys and values of what comes
                before the steps, from generating the answer. Default: computed
            on_layer (Callable, optional): called with the number of steps each time a
                layer of them is done, for progress. Default: None
            **arguments: fields of :class:`DexAROptions`

        Returns:
            StepAttributions
        """
        check_model_state(self.model)
        options = DexAROptions(**arguments)
        check_rivals(options, steps.prompt)
        if self.uses_autograd:
            engines = self._engines(steps, cache, options)
            return self._explained(steps, engines, options, on_layer)
        decoder: Any = self.model
        decoder = decoder.get_decoder()
        # What users have changed may depend on which positions share a pass.
        change = users_change(decoder, with_hooks=False)
        explained, effect = None, None
        if change is None:
            with noted_effects(decoder) as effects:
                explained = self._by_shortcuts(steps, cache, options, on_layer)
            effect = next(iter(effects), None)
        if explained is None or effect is not None:
            engine = ClosedForm(
                steps.full_pass(),
                replays=False,
                contrast_ids=self._contrasts(steps, options, [steps.full_pass()]),
                **self._shared(options),
            )
            explained = self._explained(steps, [engine], options, on_layer)
        check_positions_are_apart(steps, explained, change or effect)
        return explained

    def _by_shortcuts(
        self,
        steps: DecodingSteps,
        cache: Any,
        options: DexAROptions,
        on_layer: Callable[[int], object] | None,
    ) -> StepAttributions | None:
        """In as few positions as possible, by replayed layers; None if that fails."""
        engines = self._engines(steps, cache, options)
        try:
            return self._explained(steps, engines, options, on_layer)
        except Inconsistent:
            return None

    def _explained(
        self,
        steps: DecodingSteps,
        engines: Iterable[AttentionGradients],
        options: DexAROptions,
        on_layer: Callable[[int], object] | None,
    ) -> StepAttributions:
        decoder = find_decoder(self.model)
        scores = AnswerScores(
            steps.prompt.image_keys,
            slice(0, steps.num_steps),
            self.layer_indices,
            options,
        )
        target_logits = TargetLogits.joined(
            [
                engine(
                    decoder,
                    self.layer_indices,
                    lambda gradients: scores.add(gradients, on_layer),
                )
                for engine in engines
            ]
        )
        return scores.result(target_logits)

    @staticmethod
    def _shared(options: DexAROptions) -> dict[str, Any]:
        """Arguments of every engine."""
        return {
            "attention_power": options.power,
            "grad_kwargs": options.grad_kwargs,
        }

    def _engines(
        self, steps: DecodingSteps, cache: Any, options: DexAROptions
    ) -> Iterator[AttentionGradients]:
        """One for each pass, to be run before the next."""
        shared = self._shared(options)
        if self.uses_autograd:
            yield AutogradReference(
                self.model,
                steps.prefixes(),
                steps.target_ids,
                steps.prompt.image_keys,
                cross_attention=self.adapter.cross_attention_of(self.model.config),
                at_softmax=self.adapter.probabilities_at_softmax(self.model.config),
                encoder_keys=steps.prompt.encoder_keys,
                contrast_ids=steps.contrasts,
                rivals=options.rivals,
                **shared,
            )
            return
        size = options.max_tokens_per_pass or tokens_at_once(
            self.model, self.layer[0], steps.target_ids
        )
        contrasts = self._contrasts(steps, options, steps.passes(None, size))
        for explained_pass in steps.passes(cache, size):
            yield ClosedForm(
                explained_pass,
                size,
                reuses_projections=self.adapter.reuses_projections,
                contrast_ids=contrasts,
                **shared,
            )

    @staticmethod
    def _contrasts(
        steps: DecodingSteps, options: DexAROptions, passes: Iterable[ModelPass]
    ) -> Tensor | None:
        """What each token is contrasted with, ``(contrasts, batch, steps)``: the
        user's contrast or its rivals, which are known from passes of their own."""
        if not options.rivals:
            return steps.contrasts
        with torch.no_grad():
            found = [
                rival_ids(one.logits(), one.target_ids, options.rivals)
                for one in passes
            ]
        return torch.cat(found, dim=-1)

    def online(self, prompt: Prompt, **arguments: Any) -> OnlineDexAR | None:
        """See :meth:`DecoderLayerAttribution.online`; fields of
        :class:`DexAROptions`."""
        options = DexAROptions(**arguments)
        check_rivals(options, prompt)
        if self.uses_autograd:
            return None
        check_model_state(self.model)
        decoder = find_decoder(self.model)
        is_streamed = options.max_tokens_per_pass == 1 and not is_offloaded(self.model)
        if any(map(users_change, decoder.layers)):
            # Such a layer is not run again, but explained from the pass itself.
            options = replace(options, max_tokens_per_pass=1)
            is_streamed = True
        engine = PositionGraphs if is_streamed else RecordedGradients
        gradients = engine(
            decoder,
            self.layer_indices,
            prompt.image_keys,
            prompt.length + prompt.encoder_keys,
            self.adapter.cross_attention_of(self.model.config),
            self.adapter.reuses_projections,
            options.power,
            options.grad_kwargs,
            prompt.encoder_keys,
        )
        return OnlineDexAR(prompt, gradients, self.layer_indices, options)

    @classmethod
    def get_name(cls) -> str:
        """The name for display, which Captum would split at every capital."""
        return "Layer DEX-AR"

    def name_with(self, arguments: Mapping[str, Any]) -> str:
        """See :meth:`DecoderLayerAttribution.name_with`."""
        return ", ".join([self.get_name(), *DexAROptions(**arguments).changed()])
