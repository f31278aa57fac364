"""Explaining every token of an answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, overload

from captum.attr import Attribution, InterpretableInput
from captum_dexar.captum_methods import as_step_method
from captum_dexar.decoding import (
    answer_lengths,
    DecodingSteps,
    generate,
    GeneratedAnswer,
    generation_progress,
    OnlineWithProgress,
    StepAttributions,
    streamed,
)
from captum_dexar.inputs import (
    answers_of,
    batch_key,
    batch_of,
    Prompt,
    read_prompt,
    Target,
)
from captum_dexar.model.state import check_model_state
from captum_dexar.result import answer_result, VLMAttributionResult
from torch import Tensor
from tqdm.auto import tqdm

BATCH_SIZE = 8
# Inputs that are kept as they were checked; those beyond are prepared once more.
MOST_PREPARED = 64


# Long by its documentation: the one entry to every way of explaining an answer.
class VLMAttribution(Attribution):
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
        self._method = as_step_method(attr_method)
        super().__init__(attr_method.forward_func)
        self.attr_method = attr_method
        self.processor = processor
        self.model = self._method.model

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
        normalize: bool = True,
        batch_size: int = BATCH_SIZE,
        **kwargs: Any,
    ) -> VLMAttributionResult | list[VLMAttributionResult]:
        r"""Explains an answer, token by token.

        Args:
            inp (ImagePromptInput, ImageMaskInput or Mapping): image and prompt; or the
                processor's own output for one prompt, of which the original image, and
                so the image tokens' boxes, are not known. Of a list of inputs, prompts
                with equally many image tokens share passes; a list of results is
                returned, equal to single ones up to rounding
            target (str, list of int or Tensor, optional): the answer: a string, which
                is tokenised once without special tokens, or its ids, 1-D; for a list
                of inputs a list of answers. Default: None, the model generates it
            gen_args (Mapping, optional): arguments of ``model.generate``, only without
                a target. Default: None, at most 25 tokens, greedily, as in Captum
            progress (bool, optional): shows progress bars: over the tokens of one
                input, over the inputs of a list. Default: False
            contrast (str, list of int or Tensor, optional): another answer. Each token
                is then explained against the one in the same place there: why this
                rather than that, by the difference of their logits. Where both agree
                the attribution is zero; tokens beyond a shorter contrast are explained
                by themselves. Default: None
            grid (tuple of int, optional), boxes (Tensor, optional): where the image
                tokens lie, for a model of a family that is not known; as in
                :class:`ImagePromptInput`. Default: None
            normalize (bool, optional): False sums un-normalised token maps in the
                sequence map, as the method's first release does, instead of equation
                (6). Default: True
            batch_size (int, optional): at most so many inputs of a list share a pass.
                Default: 8
            **kwargs: arguments of the method: ``head_filter``, ``top_k``,
                ``attention_power``, ``grad_kwargs`` of :meth:`LayerDexAR.attribute`,
                ``keep_layers`` and ``max_tokens_per_pass`` of ``attribute_steps``.
                Captum's methods take their own; perturbation methods also take
                ``patches``, rows and columns of coarser parts of the image, and
                gradient methods of the pixels ``steps_per_batch``, how many steps share
                a forward pass and have their gradients kept (as many as fit into a
                GiB).

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
        is_list = isinstance(inp, (list, tuple))
        places: dict[str, Any] = {"contrast": contrast, "grid": grid, "boxes": boxes}
        if is_list and any(value is not None for value in places.values()):
            raise ValueError(
                "contrast, grid and boxes are for one input; explain the inputs of "
                "the list one by one."
            )
        self._check_arguments(contrast, kwargs)
        inps, targets = (inp, target) if is_list else ([inp], [target])
        if targets is None:
            targets = [None] * len(inps)
        has_targets = isinstance(targets, (list, tuple))
        if not has_targets or len(targets) != len(inps) or batch_size < 1:
            raise ValueError(
                f"Expected a list with a target for each of {len(inps)} inputs and a "
                f"positive batch_size, got {len(targets) if has_targets else targets!r}"
                f" and {batch_size}."
            )

        def prompt_of(place: int) -> Prompt:
            return read_prompt(
                inps[place],
                self.model,
                self.processor,
                target=targets[place],
                **places,
            )

        results: dict[int, VLMAttributionResult] = {}
        with tqdm(
            total=len(inps),
            desc="explaining",
            unit="input",
            disable=not progress or len(inps) == 1,
        ) as bar:
            for group, prompts in self._batches(len(inps), prompt_of, batch_size):
                explained = self._explain(
                    batch_of(prompts),
                    gen_args,
                    progress and len(inps) == 1,
                    normalize,
                    kwargs,
                )
                results.update(zip(group, explained))
                bar.update(len(group))
        in_order = [results[place] for place in range(len(inps))]
        return in_order if is_list else in_order[0]

    def stream(
        self,
        inp: InterpretableInput | Mapping[str, Any],
        gen_args: Mapping[str, Any] | None = None,
        *,
        normalize: bool = True,
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
            normalize (bool, optional): as in :meth:`attribute`. Default: True
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
        self._check_arguments(None, kwargs)
        prompt = read_prompt(inp, self.model, self.processor)
        arguments = dict(kwargs)
        if "max_tokens_per_pass" in getattr(self._method, "step_arguments", ()):
            arguments["max_tokens_per_pass"] = 1
        online = self._method.online(prompt, **arguments)

        def explain_step(step: DecodingSteps, cache: Any) -> StepAttributions:
            return self._method.attribute_steps(step, cache, **kwargs)

        steps = streamed(prompt, gen_args, online, explain_step)
        try:
            for token, explained in steps:
                yield self._result(prompt, token, explained, 0, normalize)
        finally:
            steps.close()

    def _check_arguments(self, contrast: Target, arguments: Mapping[str, Any]) -> None:
        self._method.check_arguments(arguments)
        if contrast is not None and not self._method.takes_contrast:
            raise TypeError(
                f"{self._method.get_name()} does not explain a logit, so that there is "
                "nothing to contrast. Use LayerDexAR or a gradient method."
            )

    def _batches(
        self, count: int, prompt_of: Callable[[int], Prompt], batch_size: int
    ) -> Iterator[tuple[list[int], list[Prompt]]]:
        """Which inputs go through the model together, with their prompts.

        All inputs are checked before the first goes through the model; those beyond
        ``MOST_PREPARED`` are prepared once more when their turn comes.
        """
        prepared: dict[int, Prompt] = {}
        groups: dict[Hashable, list[int]] = {}
        for place in range(count):
            prompt = prompt_of(place)
            key = place if not self._method.can_be_batched else batch_key(prompt)
            groups.setdefault((key, prompt.answer is None), []).append(place)
            if len(prepared) < MOST_PREPARED:
                prepared[place] = prompt
        for group in groups.values():
            for start in range(0, len(group), batch_size):
                places = group[start : start + batch_size]
                yield places, [
                    prepared.pop(place) if place in prepared else prompt_of(place)
                    for place in places
                ]

    def _explain(
        self,
        prompt: Prompt,
        gen_args: Mapping[str, Any] | None,
        progress: bool,
        normalize: bool,
        arguments: Mapping[str, Any],
    ) -> list[VLMAttributionResult]:
        """Generates the answers of a batch, or takes those given, and explains them."""
        method = self._method
        given = answers_of(prompt)
        if given is None:
            with generation_progress(gen_args, progress) as shown_args:
                answer = self._generated(prompt, shown_args, progress, arguments)
            lengths = answer_lengths(answer.ids, self.model, gen_args)
        else:
            answer = GeneratedAnswer(given)
            lengths = [
                len(one.answer) for one in prompt.examples if one.answer is not None
            ]
        steps = DecodingSteps(prompt, answer.ids, answer.target_logits)
        explained = answer.explained
        if explained is None:
            with tqdm(
                total=method.parts_per_step * steps.num_steps,
                desc="explaining",
                unit="token",
                unit_scale=1 / method.parts_per_step,
                disable=not progress,
            ) as bar:
                explained = method.attribute_steps(
                    steps, answer.cache, on_layer=bar.update, **arguments
                )
        return [
            self._result(one, answer.ids[row, :length], explained, row, normalize)
            for row, (one, length) in enumerate(zip(prompt.examples, lengths))
        ]

    def _generated(
        self,
        prompt: Prompt,
        gen_args: Mapping[str, Any] | None,
        progress: bool,
        arguments: Mapping[str, Any],
    ) -> GeneratedAnswer:
        """Lets the model answer, and explains the steps on the way where possible."""
        online = self._method.online(prompt, **arguments)
        if online is not None and progress:
            online = OnlineWithProgress(online)
        return generate(prompt, gen_args, online)

    def _result(
        self,
        prompt: Prompt,
        target_ids: Tensor,
        explained: StepAttributions,
        example: int,
        normalize: bool,
    ) -> VLMAttributionResult:
        return answer_result(
            prompt,
            target_ids,
            explained,
            example,
            processor=self.processor,
            method=self._method.get_name(),
            normalize=normalize,
        )

    @classmethod
    def get_name(cls) -> str:
        """The name for humans."""
        return "VLM Attribution"
