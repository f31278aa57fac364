"""Explaining every token of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from captum.attr import Attribution, InterpretableInput
from captum_dexar.captum_methods import (
    model_of,
    name_of,
    run_captum_method,
    StepRequest,
)
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.generation import generate, GeneratedAnswer
from captum_dexar.decoding.generation_progress import (
    generation_progress,
    OnlineWithProgress,
)
from captum_dexar.decoding.step_attributions import OnlineAttribution, StepAttributions
from captum_dexar.decoding.streaming import streamed
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs.model_inputs import model_inputs_of
from captum_dexar.inputs.prompt import check_places, CheckedPrompt, layout_of
from captum_dexar.inputs.targets import given_ids
from captum_dexar.method_arguments import check_arguments, check_contrast
from captum_dexar.methods.base import DecoderLayerAttribution
from captum_dexar.model.state import check_model_state
from captum_dexar.result.factory import answer_result, fields_of
from captum_dexar.result.result import VLMAttributionResult
from captum_dexar.vlm_batches import BATCH_SIZE, BatchAttribution
from torch import Tensor
from tqdm.auto import tqdm

Target = str | Sequence[int] | Tensor | None


class VLMAttribution(BatchAttribution, Attribution):
    r"""Runs an attribution method over every decoding step of an answer.

    To vision-language models what ``captum.attr.LLMAttribution`` is to language models.
    The answer is generated, or given and teacher-forced; its ids are explained as they
    are, never decoded and tokenised again. An end-of-sequence token that was generated
    is one of the answer's tokens.

    Args:

        attr_method (Attribution): the method, made with the model or a
            :class:`VLMForward` around it. :class:`LayerDexAR` explains an answer by the
            passes that generate it; it and the methods of
            :mod:`captum_dexar.baselines` explain all steps of a given answer in one
            pass. Captum's own methods explain one step after
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

    @overload
    def attribute(
        self,
        inp: InterpretableInput | Mapping[str, Any],
        target: Target = None,
        gen_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> VLMAttributionResult: ...

    @overload
    def attribute(
        self,
        inp: Sequence[InterpretableInput | Mapping[str, Any]],
        target: Sequence[Target] | None = None,
        gen_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[VLMAttributionResult]: ...

    def attribute(
        self,
        inp: Any,
        target: Any = None,
        gen_args: Mapping[str, Any] | None = None,
        *,
        progress: bool = False,
        contrast: Target = None,
        grid: tuple[int, int] | None = None,
        boxes: Tensor | None = None,
        **kwargs: Any,
    ) -> VLMAttributionResult | list[VLMAttributionResult]:
        r"""Explains an answer, token by token.

        Args:

            inp (ImagePromptInput, ImageMaskInput or Mapping): image and prompt; or the
                processor's own output for one prompt, of which the original image, and
                so the image tokens' boxes, are not known. A list of them: prompts with
                equally many image tokens share passes, at most ``batch_size`` (8) of
                them; a list of results is returned, equal to single ones up to rounding
            target (str, list of int or Tensor, optional): the answer: a string, which
                is tokenised once without special tokens, or its ids, 1-D; for a list
                of inputs a list of answers. Default: None, the model generates it
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
                ``attention_power``, ``grad_kwargs`` of :meth:`LayerDexAR.attribute`,
                ``keep_layers`` and ``max_tokens_per_pass`` of ``attribute_steps``.
                ``normalize=False`` sums un-normalised token maps in the sequence map,
                as the method's first release does, instead of equation (6). Of
                Captum's methods their own; perturbation methods also take ``patches``,
                rows and columns of coarser parts of the image, and gradient methods of
                the pixels ``steps_per_batch``, of how many steps the gradients come
                from one forward pass and are kept (as many as fit into a GiB).

        Returns:

            VLMAttributionResult, or a list of them

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
        if isinstance(inp, (list, tuple)):
            if contrast is not None or grid is not None or boxes is not None:
                raise ValueError(
                    "contrast, grid and boxes are for one input; explain the inputs of "
                    "the list one by one."
                )
            batch_size = kwargs.pop("batch_size", BATCH_SIZE)
            check_arguments(self.attr_method, kwargs)
            return self._attribute_list(
                inp, target, gen_args, progress, batch_size, kwargs
            )
        check_arguments(self.attr_method, kwargs)
        normalize = bool(kwargs.pop("normalize", True))
        prompt = self._prompt(inp, target, contrast, grid=grid, boxes=boxes)
        if prompt.answer is None:
            with generation_progress(gen_args, progress) as arguments:
                answer = self._generated(
                    prompt.inputs, arguments, kwargs, prompt.contrast, progress
                )
        else:
            answer = GeneratedAnswer(prompt.answer[None])
        steps = DecodingSteps(
            self.model, prompt.inputs, answer.ids, answer.target_logits
        )
        explain = self._explain if self._is_stepwise else self._run_captum_method
        every_token, fields = explain(prompt, steps, answer, progress, kwargs)
        return self._result(prompt, answer.ids[0], every_token, fields, normalize)

    def stream(
        self,
        inp: InterpretableInput | Mapping[str, Any],
        gen_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[VLMAttributionResult]:
        """Generates an answer, and explains each token as soon as it is decoded.

        :class:`LayerDexAR` explains a token in the very pass that predicts it: no
        position is run a second time, in any family. Of other methods the position that
        predicted the newest token is run once more on the cache of what is before it,
        or, in families where that is not exact, the whole prompt.

        Args:

            inp (ImagePromptInput, ImageMaskInput or Mapping): as in :meth:`attribute`
            gen_args (Mapping, optional): as in :meth:`attribute`; one beam
            **kwargs: arguments of the method, as in :meth:`attribute`

        Yields:

            VLMAttributionResult of one token. Closing the iterator stops generating.

        Raises:

            ValueError: several beams or answers are asked for, or as
                :meth:`attribute`.

        Examples::

            >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
            >>> from captum_dexar.shapes import load_vlm, make_scene
            >>> model, processor = load_vlm()
            >>> image = make_scene(0).image
            >>> inp = ImagePromptInput(image, "Describe the image.", processor)
            >>> dexar = VLMAttribution(LayerDexAR(model), processor)
            >>> for result in dexar.stream(inp):
            ...     print(result.answer, result.token_maps.shape)
            ...     break
            the torch.Size([1, 12, 12])
        """
        check_model_state(self.model)
        check_arguments(self.attr_method, kwargs)
        normalize = bool(kwargs.pop("normalize", True))
        prompt = self._prompt(inp, None, None)
        at_once = {"max_tokens_per_pass": 1} if self._is_stepwise else {}
        online = self._online(prompt.inputs, {**kwargs, **at_once}, None)
        explain = self._explain if self._is_stepwise else self._run_captum_method

        def explain_step(step: DecodingSteps, cache: Any) -> Any:
            answer = GeneratedAnswer(
                step.target_ids, cache=cache, target_logits=step.target_logits
            )
            return explain(prompt, step, answer, False, kwargs)

        steps = streamed(self.model, prompt.inputs, gen_args, online, explain_step)
        try:
            for token, explained in steps:
                if online is not None:
                    explained = fields_of(explained, 0, 1, prompt.layout)
                every_token, fields = explained
                yield self._result(prompt, token, every_token, fields, normalize)
        finally:
            steps.close()

    def _online(
        self,
        inputs: Mapping[str, Any],
        arguments: Mapping[str, Any],
        contrast_ids: Tensor | None,
    ) -> OnlineAttribution | None:
        """The method at work while the model answers a prompt, if it can be."""
        if not self._is_stepwise:
            return None
        nothing = torch.zeros(1, 1, dtype=torch.long)
        steps = DecodingSteps(self.model, inputs, nothing)
        if contrast_ids is not None:
            arguments = {**arguments, "contrast_ids": contrast_ids}
        online: OnlineAttribution | None = self.attr_method.online(steps, **arguments)
        return online

    def _generated(
        self,
        inputs: Mapping[str, Any],
        gen_args: Mapping[str, Any] | None,
        arguments: Mapping[str, Any],
        contrast_ids: Tensor | None = None,
        progress: bool = False,
    ) -> GeneratedAnswer:
        """Lets the model answer, and explains the steps on the way where possible."""
        online = self._online(inputs, arguments, contrast_ids)
        shown = (
            OnlineWithProgress(online) if online is not None and progress else online
        )
        return generate(self.model, inputs, gen_args, shown)

    def _prompt(
        self, inp: Any, target: Target, contrast: Target, **places: Any
    ) -> CheckedPrompt:
        """Checks an input and what belongs to it."""
        answer = (
            None if target is None else given_ids(target, self.processor, self.model)
        )
        against = None
        if contrast is not None:
            check_contrast(self.attr_method)
            against = given_ids(contrast, self.processor, self.model, "contrast")
        inputs = model_inputs_of(inp, self.model)
        num_tokens = self.adapter.image_keys(inputs, self.model.config).shape[1]
        layout = layout_of(
            inp, inputs, num_tokens, self.model, self.processor, **places
        )
        if all(place is None for place in places.values()):
            check_places(inp, inputs, layout, self.model)
        return CheckedPrompt(inp, inputs, layout, answer, against)

    def _result(
        self,
        prompt: CheckedPrompt,
        target_ids: Tensor,
        every_token: Tensor,
        fields: dict[str, Any],
        normalize: bool,
    ) -> VLMAttributionResult:
        return answer_result(
            prompt.inp,
            prompt.layout,
            target_ids,
            every_token,
            fields,
            processor=self.processor,
            method=name_of(self.attr_method),
            normalize=normalize,
        )

    def _explain(
        self,
        prompt: CheckedPrompt,
        steps: DecodingSteps,
        answer: GeneratedAnswer,
        progress: bool,
        arguments: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Any]]:
        """All steps in as few passes as the method allows: attributions of all image
        tokens, ``(T, image tokens)``, and further fields of the result."""
        explained = self._explained(
            steps, answer, prompt.contrast_ids(steps.num_steps), progress, arguments
        )
        return fields_of(explained, 0, steps.num_steps, prompt.layout)

    def _explained(
        self,
        steps: DecodingSteps,
        answer: GeneratedAnswer,
        contrast_ids: Tensor | None,
        progress: bool,
        arguments: dict[str, Any],
    ) -> StepAttributions:
        if answer.explained is not None:
            return answer.explained
        if contrast_ids is not None:
            arguments = {**arguments, "contrast_ids": contrast_ids}
        num_layers = len(self.attr_method.layer_indices)
        with tqdm(
            total=num_layers * steps.num_steps,
            desc="explaining",
            unit="token",
            unit_scale=1 / num_layers,
            disable=not progress,
        ) as bar:
            explained: StepAttributions = self.attr_method.attribute_steps(
                steps, answer.cache, on_layer=bar.update, **arguments
            )
        return explained

    def _run_captum_method(
        self,
        prompt: CheckedPrompt,
        steps: DecodingSteps,
        answer: GeneratedAnswer,
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
                    inp=prompt.inp,
                    steps=steps,
                    contrast_ids=prompt.contrast_ids(steps.num_steps),
                    layout=prompt.layout,
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
        return isinstance(self.attr_method, DecoderLayerAttribution)

    @classmethod
    def get_name(cls) -> str:
        """The name for humans."""
        return "VLM Attribution"
