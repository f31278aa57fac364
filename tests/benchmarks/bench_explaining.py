"""What explaining costs, against the plain ways, in one run and on one thread.

``python -m pytest tests/benchmarks/bench_explaining.py`` prints a table; the numbers in
brackets are ratios to the fastest row. It needs the extra ``benchmark`` and some
minutes.

The model is a random LLaVA of about 135 M parameters (the shape of SmolLM-135M) with
576 image tokens; 32 answer tokens are teacher-forced, float32, SDPA.
"""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

NUM_TOKENS = 32
IMAGE_TOKEN = 3
GRID = 24


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(name="model", scope="module")
def _model() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=14 * GRID,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(name="inputs", scope="module")
def _inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(4, 49152, (1, 24), generator=generator)
    image = torch.full((1, GRID * GRID), IMAGE_TOKEN)
    return {
        "input_ids": torch.cat([text[:, :4], image, text[:, 4:]], dim=1),
        "pixel_values": torch.randn(1, 3, 336, 336, generator=generator),
    }


TARGET = torch.arange(100, 100 + NUM_TOKENS)


@pytest.mark.benchmark(group=f"{NUM_TOKENS} tokens")
@pytest.mark.filterwarnings("ignore:The map of the whole answer")
@pytest.mark.parametrize(
    ("engine", "rounds"), [("closed_form", 3), ("autograd", 1)], ids=str
)
def bench_teacher_forced(
    benchmark: Any, model: Any, inputs: Any, engine: str, rounds: int
) -> None:
    """Prefill included: the closed form, and eager autograd with a growing prefix."""
    method = VLMAttribution(LayerDexAR(model, engine=engine))
    method.attribute(inputs, target=TARGET[:1])
    benchmark.pedantic(
        method.attribute, args=(inputs,), kwargs={"target": TARGET}, rounds=rounds
    )


@pytest.mark.benchmark(group=f"{NUM_TOKENS} tokens")
def bench_generating_without_explaining(
    benchmark: Any, model: Any, inputs: Any
) -> None:
    """The answer itself, for comparison."""
    settings = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS}
    model.generate(**inputs, max_new_tokens=2)
    benchmark.pedantic(
        model.generate, kwargs={**inputs, **settings, "do_sample": False}, rounds=3
    )


@pytest.mark.benchmark(group=f"{NUM_TOKENS} tokens")
@pytest.mark.filterwarnings("ignore:The map of the whole answer")
def bench_generating_and_explaining(benchmark: Any, model: Any, inputs: Any) -> None:
    """The answer and its explanation, on the cache that generating leaves."""
    settings = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS}
    method = VLMAttribution(LayerDexAR(model))
    gen_args = {**settings, "do_sample": False}
    benchmark.pedantic(
        method.attribute, args=(inputs,), kwargs={"gen_args": gen_args}, rounds=3
    )
