"""What generating has computed is gone on from, in every family, and is the same."""

from typing import Any, cast

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution, VLMAttributionResult
from captum_dexar.baselines import LayerAttention, LayerAttentionGradient
from captum_dexar.decoding import DecodingSteps, generate
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs import Prompt
from captum_dexar.model.decoder import find_decoder
from tests.families.cases import CASES
from tests.families.test_gradients import distinct_cases, every_case, model_of
from tests.helpers.explained import assert_same, explained, relative_error
from tests.helpers.family_case import FamilyCase
from tests.helpers.tiny_models import prompt_inputs, random_targets, tiny_vlm
from tests.helpers.untouched import untouched, warm
from torch import nn, Tensor
from transformers import StoppingCriteria

# Every other family is replayed.
PLANS = {
    **dict.fromkeys(
        (
            "blip",
            "blip2",
            "blip2_t5",
            "dots3_note",
            "git",
            "glm5_next",
            "idefics",
            "idefics_resampler",
            "idefics_two_images",
            "inkling2",
            "inkling_mm_model",
            "instructblip",
            "instructblip_t5",
            "kosmos-2",
            "kosmos2_5",
            "minicpm_ocr",
            "minicpmv4_6",
            "minicpmv4_6_fine",
            "minicpmv4_7",
            "minimax_m3_vl",
            "mistral_large4",
            "nemotron_h_omni",
            "paligemma2",
            "pp_formulanet",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen4_exp",
            "udop",
            "unlimited_ocr",
        ),
        "full_pass",
    ),
    **dict.fromkeys(
        ("donut", "florence2", "pix2struct", "t5gemma2", "trocr"), "encoder"
    ),
}
# Their decoders compute attention themselves: each token is explained by plain
# autograd, in a pass of its own over the whole prefix.
PASS_PER_TOKEN = ("blip", "git", "trocr")
# Their layers mix positions behind the attention: what was recorded is not replayed,
# and the answer's rows are differentiated one by one, in passes over all positions.
RUN_AGAIN = ("inkling2", "inkling_mm_model")
# Layers whose states have an axis of streams before that of the examples.
STREAMS_FIRST = ("Gemma3nTextDecoderLayer",)
NUM_TOKENS = 5
GREEDY = {"max_new_tokens": NUM_TOKENS, "do_sample": False, "eos_token_id": -1}
VISION_TOWERS = ("vision_tower", "visual", "vision_model")


class _Counter:
    """Counts calls of a module, or positions that go through it."""

    def __init__(self, module: nn.Module) -> None:
        self.calls: list[int] = []
        self.handle = module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        axis = 2 if type(module).__name__ in STREAMS_FIRST else 1
        self.calls.append(first.shape[axis] if isinstance(first, Tensor) else 1)

    def __enter__(self) -> list[int]:
        return self.calls

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


def vision_tower(model: nn.Module) -> nn.Module | None:
    named = dict(model.named_modules())
    names = [name for name in named if name.split(".")[-1] in VISION_TOWERS]
    return named[names[0]] if names else None


def same(
    one: VLMAttributionResult, other: VLMAttributionResult, tolerance: float = 1e-5
) -> None:
    assert torch.equal(one.target_ids, other.target_ids)
    assert relative_error(one.token_attr, other.token_attr) <= tolerance
    assert relative_error(one.head_weights, other.head_weights) <= tolerance
    torch.testing.assert_close(
        one.token_weights,
        other.token_weights,
        rtol=tolerance,
        atol=tolerance * float(other.head_weights.max()),
    )
    torch.testing.assert_close(
        one.token_log_probs, other.token_log_probs, rtol=1e-4, atol=1e-4
    )


@every_case
def test_the_plan_of_each_family(case: FamilyCase) -> None:
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    config: Any = model.config
    plan = adapter_for_config(config).reuse(inputs, config)
    assert plan == PLANS.get(case.name, "replay")


def positions_of_prompt(model: nn.Module, inputs: Any) -> int:
    prompt, root = Prompt(model, inputs), cast(Any, model)
    return prompt.length + prompt.adapter.num_keys_ahead(prompt.inputs, root.config)


@every_case
def test_no_position_is_run_twice(case: FamilyCase) -> None:
    """The prompt once, and each generated token once."""
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    # Pix2Struct's configuration turns the cache off.
    gen_args = {**GREEDY, "use_cache": True}
    if case.name == "blip":
        # It sets the end itself.
        del gen_args["eos_token_id"]
    method.attribute(inputs, gen_args=gen_args, places=case.places)
    first_layer = find_decoder(model).layers[0]
    length = positions_of_prompt(model, inputs)
    expected = [length, *[1] * (NUM_TOKENS - 1)]
    if case.name in PASS_PER_TOKEN:
        expected += range(length, length + NUM_TOKENS)
    with _Counter(first_layer) as positions:
        method.attribute(inputs, gen_args=gen_args, places=case.places)
    if case.name in RUN_AGAIN:
        # In generating; what comes after it is run again.
        assert positions[:NUM_TOKENS] == expected
        assert len(positions) > NUM_TOKENS
        return
    assert positions == expected
    if case.places is not None:
        # A stream knows them from its input alone, see test_queries.py.
        return
    with _Counter(first_layer) as positions:
        list(method.stream(inputs, gen_args=gen_args))
    if case.name in PASS_PER_TOKEN:
        # Between those of generating.
        positions.sort()
        expected.sort()
    assert positions == expected


@distinct_cases
def test_what_generating_left_is_gone_on_from(case: FamilyCase) -> None:
    """As where nobody looked on while the model generated: the explained rows once more
    in one pass; where that would not be exact, the whole prompt."""
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    method = LayerDexAR(model)
    expected = VLMAttribution(method).attribute(inputs, gen_args=GREEDY)
    answer = generate(Prompt(model, inputs), GREEDY)
    assert answer.explained is None and answer.target_logits is not None
    assert torch.equal(answer.ids[0], expected.target_ids)
    with _Counter(find_decoder(model).layers[0]) as positions:
        steps = DecodingSteps(Prompt(model, inputs), answer.ids)
        replayed = method.attribute_steps(steps, answer.cache)
    is_full = PLANS.get(case.name) == "full_pass"
    before = positions_of_prompt(model, inputs) - 1 if is_full else 0
    assert positions == [before + NUM_TOKENS]
    maps = replayed.token_attr[0][:, expected.layout.placed]
    assert relative_error(maps, expected.token_attr) <= case.tolerance


@distinct_cases
def test_the_image_is_encoded_once(case: FamilyCase) -> None:
    model = model_of(case, 0, case.implementations[0])
    tower = vision_tower(model)
    if tower is None:
        pytest.skip("this family has no vision tower")
    method = VLMAttribution(LayerDexAR(model))
    inputs = case.inputs(0, 3)
    method.attribute(inputs, gen_args=GREEDY)
    with _Counter(tower) as plain, torch.no_grad():
        root: Any = model
        root.generate(**inputs, **GREEDY)
    with _Counter(tower) as calls:
        method.attribute(inputs, gen_args=GREEDY)
    assert len(calls) == len(plain)
    with _Counter(tower) as calls:
        method.attribute(inputs, target=[7, 8, 9])
    assert len(calls) == len(plain)
    with _Counter(tower) as calls:
        list(method.stream(inputs, gen_args=GREEDY))
    assert len(calls) == len(plain)


@distinct_cases
@pytest.mark.parametrize(
    "gen_args",
    [
        {"num_beams": 3, "do_sample": False},
        {"do_sample": True, "temperature": 1.7, "top_k": 20},
    ],
    ids=["beams", "sampling"],
)
def test_the_answer_is_explained_as_it_was_generated(
    case: FamilyCase, gen_args: dict[str, Any]
) -> None:
    model = model_of(case, 0, case.implementations[0])
    root: Any = model
    inputs = case.inputs(0, 3)
    # An answer with an image token in it could not be run with the prompt.
    forbidden = [getattr(root.config, "image_token_id", None) or 0]
    gen_args = {**GREEDY, **gen_args, "suppress_tokens": forbidden}
    method = VLMAttribution(LayerDexAR(model))
    torch.manual_seed(3)
    with torch.no_grad():
        try:
            sequences = root.generate(**inputs, **gen_args)
        except ValueError as error:
            pytest.skip(f"transformers can't generate this way: {error}")
    torch.manual_seed(3)
    result = method.attribute(inputs, gen_args=gen_args)
    assert torch.equal(result.target_ids, sequences[0, -len(result.target_ids) :])
    given = method.attribute(inputs, target=result.target_ids)
    same(result, given, case.tolerance)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "florence2"])
def test_beams_share_the_image(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, "sdpa")
    tower = vision_tower(model)
    assert tower is not None
    method = VLMAttribution(LayerDexAR(model))
    with _Counter(tower) as calls:
        method.attribute(case.inputs(0, 3), gen_args={**GREEDY, "num_beams": 3})
    assert len(calls) == 1


class _StopAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        is_done = input_ids.shape[1] >= self.length
        return torch.full((input_ids.shape[0],), is_done)


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "paligemma2"])
def test_stopping_criteria_of_the_user_stop(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    criteria = [_StopAt(inputs["input_ids"].shape[1] + 3)]
    method = VLMAttribution(LayerDexAR(model))
    result = method.attribute(
        inputs, gen_args={**GREEDY, "stopping_criteria": criteria}
    )
    assert len(result.target_ids) == 3 and len(criteria) == 1
    same(result, method.attribute(inputs, target=result.target_ids), case.tolerance)


@distinct_cases
def test_several_passes_equal_one(case: FamilyCase) -> None:
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    method = VLMAttribution(LayerDexAR(model))
    whole = method.attribute(inputs, gen_args=GREEDY)
    for target, gen_args, max_tokens in (
        (None, GREEDY, 2),
        (whole.target_ids, None, 1),
        (whole.target_ids, None, 2),
    ):
        parts = method.attribute(
            inputs, target, gen_args, max_tokens_per_pass=max_tokens
        )
        same(parts, whole, case.tolerance)


@distinct_cases
def test_one_token_is_enough(case: FamilyCase) -> None:
    model = model_of(case, 1, case.implementations[0])
    inputs = case.inputs(1, 2)
    method = VLMAttribution(LayerDexAR(model))
    with untouched(warm(model, inputs)):
        result = method.attribute(
            inputs, gen_args={**GREEDY, "max_new_tokens": 1}, head_filter=False
        )
    reference = explained(
        model, inputs, result.target_ids[None], engine="autograd", head_filter=False
    )
    assert relative_error(
        result.token_attr, reference.token_attr[0][:, result.layout.placed]
    ) <= max(case.tolerance, 1e-5)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama", "gemma3"])
def test_other_methods_go_on_from_the_cache(name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    model = model_of(case, 0, "sdpa")
    inputs = case.inputs(0, 3)
    answer = generate(Prompt(model, inputs), GREEDY)
    for method in (LayerAttention(model), LayerAttentionGradient(model)):
        wrapped = VLMAttribution(method)
        with _Counter(find_decoder(model).layers[-1]) as positions:
            result = wrapped.attribute(inputs, gen_args=GREEDY)
        assert positions[-1] == NUM_TOKENS
        given = wrapped.attribute(inputs, target=answer.ids[0])
        assert relative_error(result.token_attr, given.token_attr) <= 1e-5


class _LooksAround(nn.Module):
    """An MLP that gives something else for several positions than for one."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.mlp(hidden)
        return output * (1.0 if hidden.shape[1] in (1, 27, 31) else 0.5)


def test_a_layer_that_records_do_not_tell_is_explained_from_its_own_passes() -> None:
    """As a module of a user's, it is not replayed."""
    model: Any = tiny_vlm(seed=4)
    inputs = prompt_inputs(4)
    assert inputs["input_ids"].shape[1] == 27
    expected = VLMAttribution(LayerDexAR(model)).attribute(inputs, gen_args=GREEDY)
    for layer in model.model.language_model.layers:
        layer.mlp = _LooksAround(layer.mlp).eval()

    class Uncached(type(adapter_for_config(model.config))):  # type: ignore[misc]
        replayable = False

    method = VLMAttribution(LayerDexAR(model))
    uncached = Uncached()
    with pytest.MonkeyPatch.context() as patch:
        place = "captum_dexar.inputs.prompt.adapter_for_config"
        patch.setattr(place, lambda _: uncached)
        with _Counter(find_decoder(model).layers[-1]) as positions:
            same(method.attribute(inputs, gen_args=GREEDY), expected)
    assert positions == [27, *[1] * (NUM_TOKENS - 1)]


@pytest.mark.parametrize("layers", [[0], [1, 2], [2, 0]])
def test_some_layers_of_a_generated_answer(layers: list[int]) -> None:
    (case,) = [case for case in CASES if case.name == "paligemma2"]
    model = model_of(case, 0, case.implementations[0])
    inputs = case.inputs(0, 3)
    every = LayerDexAR(model).layer
    method = VLMAttribution(LayerDexAR(model, [every[index] for index in layers]))
    result = method.attribute(inputs, gen_args=GREEDY)
    reference = explained(
        model, inputs, result.target_ids[None], engine="autograd", layers=layers
    )
    assert relative_error(result.layer_attr, reference.layer_attr[0]) <= 1e-5
    assert result.layer_indices == layers


def test_bad_sizes_are_refused() -> None:
    method = VLMAttribution(LayerDexAR(tiny_vlm()))
    for size in (0, -3):
        with pytest.raises(ValueError, match="max_tokens_per_pass must be a positive"):
            method.attribute(prompt_inputs(), [7], max_tokens_per_pass=size)


def test_a_long_answer_in_passes_equals_autograd() -> None:
    model = tiny_vlm("bakllava_sliding", seed=7)
    inputs, targets = prompt_inputs(7), random_targets(21, 7)
    reference = explained(model, inputs, targets, engine="autograd")
    assert_same(explained(model, inputs, targets, max_tokens_per_pass=4), reference)
