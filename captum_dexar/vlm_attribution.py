"""Explains every token of an answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from numbers import Integral
from typing import Any, overload

import torch
from captum.attr import Attribution, InterpretableInput
from captum_dexar.captum_methods import as_step_method
from captum_dexar.decoding import (
    answer_lengths,
    check_log_probs,
    DecodingSteps,
    generate,
    GeneratedAnswer,
    generation_progress,
    GenerationSettings,
    OnlineWithProgress,
    PromptCache,
    StepAttributions,
    streamed,
)
from captum_dexar.decoding.streaming import no_stop_iteration
from captum_dexar.inputs import (
    answers_of,
    batch_key,
    batch_of,
    check_processor,
    Prompt,
    read_prompt,
    Target,
)
from captum_dexar.methods import LayerDexAR
from captum_dexar.methods.options import DexAROptions
from captum_dexar.methods.verification import Verification, verify as verify_token
from captum_dexar.model.consistency import Inconsistent
from captum_dexar.model.hook_effects import noted_effects
from captum_dexar.model.precision import rounding_dtype
from captum_dexar.model.state import check_model_state
from captum_dexar.result.factory import answer_result
from captum_dexar.result.result import VLMAttributionResult
from torch import Tensor
from tqdm.auto import tqdm

BATCH_SIZE = 8
# Inputs kept in memory after their check; further ones are prepared again later.
MOST_PREPARED = 64


# Long because of its documentation: the single entry point for all methods.
class VLMAttribution(Attribution):
    r"""Runs an attribution method over every decoding step of an answer.

    The counterpart of ``captum.attr.LLMAttribution`` for vision-language models. The
    answer is generated, or given and teacher-forced. Its ids are never decoded and
    tokenised again. A generated end-of-sequence token is part of the answer.

    Args:
        attr_method (Attribution): the method, constructed with the model or a
            :class:`VLMForward` around it. :class:`LayerDexAR` explains an answer during
            the forward passes that generate it; it and the methods of
            :mod:`captum_dexar.baselines` explain all steps of a given answer in one
            pass. Captum's own methods explain step by step: gradient methods explain
            pixels, whose attributions are summed over each image token's box;
            perturbation methods perturb these boxes, or the segments of an
            ``ImageMaskInput``; layer methods explain tokens of the vision tower or the
            projector.
        processor (ProcessorMixin, optional): the model's processor (or tokenizer).
            Needed for a target given as a string, for the tokens' text, and for the
            places of the image tokens of a plain ``ImageMaskInput``. Default: None

    Raises:
        TypeError: the method is not supported, or the processor is none.

    Examples::

        >>> from captum_dexar import ImagePromptInput, LayerDexAR, VLMAttribution
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> dexar = VLMAttribution(LayerDexAR(model), processor)
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> result = dexar.attribute(inp)  # generates, explains every generated token
        >>> same = dexar.attribute(inp, target=result.target_ids)  # teacher-forced
        >>> given = dexar.attribute(inp, target="the image shows a red circle .")
        >>> given.token_attr.shape
        torch.Size([7, 144])
    """

    def __init__(self, attr_method: Attribution, processor: Any = None) -> None:
        self._method = as_step_method(attr_method)
        if processor is not None:
            check_processor(processor, or_tokenizer=True)
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
        places: str | None = None,
        normalize: bool = True,
        batch_size: int = BATCH_SIZE,
        verify: bool = False,
        **kwargs: Any,
    ) -> VLMAttributionResult | list[VLMAttributionResult]:
        r"""Explains an answer, token by token.

        Args:
            inp (ImagePromptInput, ImageMaskInput or Mapping): image and prompt; or the
                processor's output for one prompt, in which case the original image and
                the image tokens' boxes are not known. Or a list of inputs: prompts with
                the same number of image tokens are batched, and a list of results is
                returned, equal to single ones up to rounding
            target (str, list of int or Tensor, optional): the answer: a string, which
                is tokenised without special tokens, or its ids, 1-D; for a list of
                inputs, a list of answers. Default: None, the model generates it
            gen_args (Mapping, optional): arguments of ``model.generate``, only without
                a target. Default: None, at most 25 tokens, greedily, as in Captum
            progress (bool, optional): shows progress bars: over the tokens of one
                input, over the inputs of a list. Default: False
            contrast (str, list of int or Tensor, optional): another answer. Each token
                is then explained by the difference between its logit and that of the
                contrast token at the same step: why this token rather than that one?
                The attribution is zero where both agree; tokens beyond a shorter
                contrast are explained without one. Maps and weights are those of the
                paper for the difference; ``rivals`` lets the model name the other
                tokens, and takes other weights. Default: None
            grid (tuple of int, optional), boxes (Tensor, optional): places of the image
                tokens, for an unsupported family; as in :class:`ImagePromptInput`.
                Default: None
            places (str, optional): ``"resampler"`` follows the resampler's attention,
                for models whose image tokens are queries; as in
                :class:`ImagePromptInput`. Default: None
            normalize (bool, optional): False sums un-normalised token maps in the
                sequence map, as in the method's first release, instead of equation
                (6). Default: True
            batch_size (int, optional): maximum number of inputs of a list per batch.
                Default: 8
            verify (bool, optional): recomputes a random token of each answer in a
                random layer by plain autograd, and compares; the result's
                ``verification`` tells the error. Only for :class:`LayerDexAR`.
                Default: False
            **kwargs: arguments of the method: ``head_filter``, ``top_k``,
                ``attention_power``, ``rivals`` (instead of ``contrast``),
                ``grad_kwargs`` of :meth:`LayerDexAR.attribute`,
                ``keep_layers`` and ``max_tokens_per_pass`` of ``attribute_steps``.
                Captum's methods take their own. Perturbation methods also take
                ``patches``, rows and columns of coarser image parts. Pixel gradient
                methods also take ``steps_per_batch``, the number of steps whose
                gradients share a forward pass (default: as many as fit into 1 GiB).

        Returns:
            VLMAttributionResult, or a list of them

        Raises:
            TypeError: the input or target has an unsupported type, or the method does
                not have an argument.
            ValueError: no image, no image token, not exactly one prompt, or non-finite
                pixels; an empty, 2-D or out-of-vocabulary target; a target together
                with ``gen_args``; a string without a processor.
            RuntimeError: as :meth:`LayerDexAR.attribute`; or a pass that explains the
                answer does not give the logits from which it was generated; or
                verification fails.
        """
        check_model_state(self.model)
        if target is not None and gen_args is not None:
            raise ValueError(
                "gen_args are for generating an answer, but target gives one. Leave "
                "one of them out."
            )
        is_list = isinstance(inp, (list, tuple))
        of_one: dict[str, Any] = {"contrast": contrast, "grid": grid, "boxes": boxes}
        if is_list and any(value is not None for value in of_one.values()):
            raise ValueError(
                "contrast, grid and boxes are for one input; explain the inputs of "
                "the list one by one."
            )
        self._check_arguments(contrast, kwargs)
        if verify and not isinstance(self._method, LayerDexAR):
            raise TypeError(
                "verify=True compares LayerDexAR with plain autograd, but the method "
                f"is {self._method.get_name()}."
            )
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
                places=places,
                **of_one,
            )

        results: dict[int, VLMAttributionResult] = {}
        with tqdm(
            total=len(inps),
            desc="explaining",
            unit="input",
            disable=not progress or len(inps) == 1,
        ) as bar:
            prepared, groups = self._batches(len(inps), prompt_of, batch_size, gen_args)
            for group in groups:
                prompts = [
                    prepared.pop(place) if place in prepared else prompt_of(place)
                    for place in group
                ]
                shows_progress = progress and len(inps) == 1
                settings = gen_args, shows_progress, normalize, verify, kwargs
                if len(prompts) == 1:
                    explained = self._explain(prompts[0], *settings)
                else:
                    with noted_effects(self.model) as effects:
                        explained = self._explain(batch_of(prompts), *settings)
                    if effects:
                        # Users' hooks may depend on padding, and on other examples.
                        each = [self._explain(one, *settings) for one in prompts]
                        explained = [result for (result,) in each]
                results.update(zip(group, explained))
                bar.update(len(group))
        in_order = [results[place] for place in range(len(inps))]
        return in_order if is_list else in_order[0]

    def stream(
        self,
        inp: InterpretableInput | Mapping[str, Any],
        gen_args: Mapping[str, Any] | None = None,
        *,
        every: int = 1,
        places: str | None = None,
        normalize: bool = True,
        **kwargs: Any,
    ) -> Iterator[VLMAttributionResult]:
        """Generates an answer and explains each token as soon as it is decoded.

        :class:`LayerDexAR` explains a token in the forward pass that predicts it. Other
        methods run the position that predicted the newest token again on the KV cache
        of its prefix or, in families where that is not exact, the whole prompt.

        Explaining tokens one by one reads the model's weights once more for each of
        them. With ``every=4`` that happens once for four tokens, whose results then
        come together. They are the same. On a GPU streaming takes several times as long
        as generating, which :meth:`attribute` does not.

        The model generates in a thread of its own. Other threads may run the same
        model, take gradients of it, explain it and copy it at any time, and get what
        they would get alone. Until the iterator is closed, the model has hooks on it
        and on its decoder layers, these layers and their projections have a
        ``forward`` of their own, and ``AttentionInterface.get_interface`` is wrapped;
        all of them do nothing in other threads, and copies lack them. The model itself
        (its weights, modules and adapters) must not be changed meanwhile.

        Args:
            inp (ImagePromptInput, ImageMaskInput or Mapping): as in :meth:`attribute`
            gen_args (Mapping, optional): as in :meth:`attribute`; one beam
            every (int, optional): how many tokens are explained at a time. The last
                ones may be fewer, and so are those of a layer that a user's hook has
                changed, or of ``max_tokens_per_pass``. Default: 1
            places (str, optional): as in :meth:`attribute`. Default: None
            normalize (bool, optional): as in :meth:`attribute`. Default: True
            **kwargs: arguments of the method, as in :meth:`attribute`

        Yields:
            VLMAttributionResult of one token. Its ``answer`` is the text that the token
            adds, so that the joined texts are the whole answer. A token that ends
            within a character adds nothing, and the one that completes the character
            adds the whole of it. Closing the iterator stops generation.

        Raises:
            ValueError: several beams or answers are requested, ``every`` is not
                positive, or as :meth:`attribute`.
            TypeError: ``every`` is not an integer, or as :meth:`attribute`.

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
        try:
            check_model_state(self.model)
            _check_every(every)
            self._check_arguments(None, kwargs)
            prompt = read_prompt(inp, self.model, self.processor, places=places)
            steps = self._steps(prompt, gen_args, every, kwargs)
            earlier_ids = prompt.ids.new_empty(0)
            with closing(steps):
                for token, explained in steps:
                    yield self._result(
                        prompt,
                        token,
                        explained,
                        0,
                        normalize,
                        kwargs,
                        earlier_ids=earlier_ids,
                    )
                    earlier_ids = torch.cat([earlier_ids, token])
        except StopIteration as error:
            raise no_stop_iteration(error) from error

    def _steps(
        self,
        prompt: Prompt,
        gen_args: Mapping[str, Any] | None,
        every: int,
        arguments: Mapping[str, Any],
    ) -> Generator[tuple[Tensor, StepAttributions], None, None]:
        """Each token of a stream, with its attributions."""
        given = dict(arguments)
        step_arguments = getattr(self._method, "step_arguments", ())
        if every == 1 and "max_tokens_per_pass" in step_arguments:
            given["max_tokens_per_pass"] = 1
        online = self._method.online(prompt, **given)

        def explain_steps(steps: DecodingSteps, cache: Any) -> StepAttributions:
            return self._method.attribute_steps(steps, cache, **arguments)

        return streamed(prompt, gen_args, online, explain_steps, every)

    def _check_arguments(self, contrast: Target, arguments: Mapping[str, Any]) -> None:
        self._method.check_arguments(arguments)
        if contrast is not None and not self._method.takes_contrast:
            raise TypeError(
                f"{self._method.get_name()} explains no difference of logits, so there "
                "is nothing to contrast. Use LayerDexAR or a gradient method."
            )

    def _batches(
        self,
        count: int,
        prompt_of: Callable[[int], Prompt],
        batch_size: int,
        gen_args: Mapping[str, Any] | None,
    ) -> tuple[dict[int, Prompt], list[list[int]]]:
        """The prompts of inputs, by index, and batches of indices.

        All inputs are checked before the model runs. Those beyond ``MOST_PREPARED`` are
        to be prepared again when needed.
        """
        prepared: dict[int, Prompt] = {}
        groups: dict[Hashable, list[int]] = {}
        settings = GenerationSettings(self.model, gen_args or {})
        is_batched = settings.treats_prompts_alike
        if count > 1 and settings["past_key_values"] is not None:
            raise ValueError(
                "gen_args: past_key_values is one cache for a list of inputs. Explain "
                "them one by one."
            )
        for place in range(count):
            prompt = prompt_of(place)
            is_generated = prompt.answer is None
            key: Hashable = place
            if self._method.can_be_batched and (is_batched or not is_generated):
                key = batch_key(prompt), is_generated
            groups.setdefault(key, []).append(place)
            if len(prepared) < MOST_PREPARED:
                prepared[place] = prompt
        return prepared, [
            group[start : start + batch_size]
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ]

    def _explain(
        self,
        prompt: Prompt,
        gen_args: Mapping[str, Any] | None,
        progress: bool,
        normalize: bool,
        verify: bool,
        arguments: Mapping[str, Any],
    ) -> list[VLMAttributionResult]:
        """Explains the given answers of a batch, or generated ones."""
        method = self._method
        given = answers_of(prompt)
        if given is None:
            online = method.online(prompt, **arguments)
            if online is not None and progress:
                online = OnlineWithProgress(online)
            with generation_progress(gen_args, progress) as shown_args:
                answer = generate(prompt, shown_args, online)
            lengths = answer_lengths(answer.ids, self.model, gen_args)
        else:
            answer = GeneratedAnswer(given)
            lengths = [
                len(one.answer) for one in prompt.examples if one.answer is not None
            ]
        explained = answer.explained
        if explained is None:
            try:
                explained = self._afterwards(
                    prompt, answer, answer.cache, lengths, progress, arguments
                )
            except Inconsistent:
                if answer.cache is None:
                    raise
                explained = self._afterwards(
                    prompt, answer, None, lengths, progress, arguments
                )
        verified = None
        results = []
        for row, (one, length) in enumerate(zip(prompt.examples, lengths)):
            ids = answer.ids[row, :length]
            if verify:
                options = DexAROptions(**arguments)
                verified = verify_token(one, ids, explained, row, options)
            results.append(
                self._result(one, ids, explained, row, normalize, arguments, verified)
            )
        return results

    def _afterwards(
        self,
        prompt: Prompt,
        answer: GeneratedAnswer,
        cache: PromptCache | None,
        lengths: list[int],
        progress: bool,
        arguments: Mapping[str, Any],
    ) -> StepAttributions:
        """Explains an answer that is known, and compares the passes with generating."""
        steps = DecodingSteps(prompt, answer.ids)
        with tqdm(
            total=self._method.parts_per_step * steps.num_steps,
            desc="explaining",
            unit="token",
            unit_scale=1 / self._method.parts_per_step,
            disable=not progress,
        ) as bar:
            explained = self._method.attribute_steps(
                steps, cache, on_layer=bar.update, **arguments
            )
        if answer.target_logits is not None:
            check_log_probs(
                answer.target_logits,
                explained.token_log_probs,
                rounding_dtype(self.model),
                lengths,
                answer.settings,
            )
        return explained

    def _result(
        self,
        prompt: Prompt,
        target_ids: Tensor,
        explained: StepAttributions,
        example: int,
        normalize: bool,
        arguments: Mapping[str, Any],
        verification: Verification | None = None,
        earlier_ids: Tensor | None = None,
    ) -> VLMAttributionResult:
        return answer_result(
            prompt,
            target_ids,
            explained,
            example,
            processor=self.processor,
            method=self._method.name_with(arguments),
            normalize=normalize,
            verification=verification,
            earlier_ids=earlier_ids,
        )

    @classmethod
    def get_name(cls) -> str:
        """The display name."""
        return "VLM Attribution"


def _check_every(every: Any) -> None:
    if isinstance(every, bool) or not isinstance(every, Integral):
        raise TypeError(
            "every must be a whole number of tokens to explain at a time, such as 4, "
            f"got {type(every).__name__}."
        )
    if every < 1:
        raise ValueError(
            f"every must be at least 1, the number of tokens to explain at a time, got "
            f"{every}."
        )
