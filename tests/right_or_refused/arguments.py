"""Every argument of ``generate``."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tests.right_or_refused.setting import GREEDY, NUM_TOKENS, Setting
from torch import nn, Tensor
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
    WatermarkingConfig,
)
from transformers.generation.streamers import BaseStreamer

Made = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Argument:
    """One or more arguments of ``generate``.

    Attributes:
        name: in the table
        make: the arguments, anew for every call, since some have a state
        named: what a refusal has to say, as a regular expression
        is_random: whether the answers of a batch differ from those of its prompts
        on_config: whether they are set in ``model.generation_config`` instead
        base: arguments that all are called with
    """

    name: str
    make: Callable[[Setting], Made]
    named: str
    is_random: bool = False
    on_config: bool = False
    base: Made | None = None

    def call(self, setting: Setting) -> dict[str, Any]:
        """The arguments of one call."""
        base = dict(GREEDY if self.base is None else self.base)
        return base if self.on_config else {**base, **self.make(setting)}

    def configured(self, setting: Setting, model: nn.Module) -> Any:
        """The model, or a copy whose generation config has them."""
        if not self.on_config:
            return model
        copied: Any = copy.deepcopy(model)
        for name, value in self.make(setting).items():
            setattr(copied.generation_config, name, value)
        return copied


def plain(name: str = "", named: str = "", random: bool = False, base: Any = None, **values: Any) -> Argument:
    """Values that hold for every model."""
    first = next(iter(values))
    label = name or ", ".join(f"{key}={value!r}" for key, value in values.items())
    return Argument(label, lambda setting: values, named or "|".join(values), random, False, base)


def made(name: str, make: Callable[[Setting], Made], named: str = "", random: bool = False, base: Any = None) -> Argument:
    return Argument(name, make, named or name.split("=")[0].split(" ")[0], random, False, base)


def configured(argument: Argument) -> Argument:
    return Argument(argument.name + " (generation_config)", argument.make, argument.named, argument.is_random, True, argument.base)


class Bias(LogitsProcessor):
    """Changes scores where they are."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, 10:20] += 30.0
        return scores


class StopAt(StoppingCriteria):
    """Ends each answer of a batch at some token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Any, **unused: Any) -> Any:
        return input_ids[:, -1] == self.token


class Collected(BaseStreamer):
    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def put(self, value: Tensor) -> None:
        self.values.append(value)

    def end(self) -> None:
        self.values.clear()


def odd_only(batch: int, ids: Tensor) -> list[int]:
    return list(range(5, 91, 2))


def second_best(model: Any, input_ids: Tensor, generation_config: Any, **rest: Any) -> Tensor:
    """A way of decoding of the user's own."""
    rest.pop("logits_processor"), rest.pop("stopping_criteria")
    kwargs = {k: v for k, v in rest.items() if k in ("pixel_values", "token_type_ids", "image_grid_thw", "mm_token_type_ids")}
    for _ in range(NUM_TOKENS):
        logits = model(input_ids=input_ids, **kwargs, use_cache=False).logits[:, -1]
        input_ids = torch.cat([input_ids, logits.topk(2).indices[:, 1:]], 1)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in kwargs:
                kwargs[name] = torch.nn.functional.pad(kwargs[name], (0, 1))
    return input_ids


def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(WordLevel({f"w{n}": n for n in range(99)}, unk_token="w4"))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w4", pad_token="w0")


def text_config(setting: Setting) -> Any:
    return setting.pristine.config.get_text_config(decoder=True)


def prefix_cache(setting: Setting) -> Made:
    cache = DynamicCache(config=text_config(setting))
    prompt = setting.prompt()
    with torch.no_grad():
        copy.deepcopy(setting.pristine)(
            **{k: (v[:, :-1] if k in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask") else v) for k, v in prompt.items()},
            past_key_values=cache, use_cache=True,
        )
    return {"past_key_values": cache}


def text_prefix_cache(setting: Setting) -> Made:
    """The text before the image only."""
    cache = DynamicCache(config=text_config(setting))
    with torch.no_grad():
        copy.deepcopy(setting.pristine)(input_ids=setting.prompt()["input_ids"][:, :2], past_key_values=cache, use_cache=True)
    return {"past_key_values": cache}


def static_cache(setting: Setting) -> Made:
    return {"past_key_values": StaticCache(config=text_config(setting), max_cache_len=100)}


SAMPLED = {"max_new_tokens": NUM_TOKENS, "do_sample": True, "top_k": 0}
ENDLESS = {**GREEDY, "eos_token_id": None}
FREE = {"do_sample": False}

BEAMS = (
    plain(num_beams=2),
    plain(num_beams=3, length_penalty=2.0, early_stopping=True),
    plain(num_beams=3, length_penalty=-2.0, early_stopping="never"),
    plain(num_beams=2, num_return_sequences=2),
    plain(num_beams=2, output_scores=True, return_dict_in_generate=True),
    plain(num_beams=2, use_cache=False),
    plain(num_beams=2, cache_implementation="static"),
    plain(num_beams=2, repetition_penalty=1.5),
    made("num_beams=2, eos_token_id at step 2", lambda s: {"num_beams": 2, "eos_token_id": s.greedy[1]}, "num_beams"),
    plain(num_beams=2, do_sample=True, top_k=0, random=True),
    plain(num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
    made("num_beams=2, own cache", lambda s: {"num_beams": 2, "past_key_values": DynamicCache(config=text_config(s))}, "num_beams|past_key_values"),
    plain("constraints", num_beams=2, force_words_ids=[[[11]]]),
    plain(num_beams=2, guidance_scale=1.5),
    plain(num_return_sequences=2, do_sample=True, top_k=0, random=True),
    plain(num_return_sequences=1),
    plain(num_beams=2, low_memory=True),
)
SAMPLING = (
    plain(do_sample=True, random=True, base=SAMPLED),
    plain(temperature=2.0, random=True, base=SAMPLED),
    plain(temperature=0.5, random=True, base=SAMPLED),
    plain(top_k=3, random=True, base=SAMPLED),
    plain(top_p=0.6, random=True, base=SAMPLED),
    plain(typical_p=0.5, random=True, base=SAMPLED),
    plain(min_p=0.05, random=True, base=SAMPLED),
    plain(epsilon_cutoff=0.01, random=True, base=SAMPLED),
    plain(eta_cutoff=0.01, random=True, base=SAMPLED),
    plain(top_h=0.5, random=True, base=SAMPLED),
    plain(renormalize_logits=True, top_k=5, random=True, base=SAMPLED),
)
PENALTIES = (
    plain(repetition_penalty=1.8),
    plain(encoder_repetition_penalty=1.5),
    plain(no_repeat_ngram_size=1),
    plain(encoder_no_repeat_ngram_size=1),
    made("bad_words_ids", lambda s: {"bad_words_ids": [[s.greedy[0]], [s.greedy[1], s.greedy[2]]]}),
    made("sequence_bias", lambda s: {"sequence_bias": {(s.greedy[0],): -10.0}}),
    made("suppress_tokens", lambda s: {"suppress_tokens": s.greedy[:2]}),
    made("begin_suppress_tokens", lambda s: {"begin_suppress_tokens": s.greedy[:1]}),
    plain(forced_bos_token_id=11),
    plain(forced_eos_token_id=7),
    plain(exponential_decay_length_penalty=(1, 1.5)),
    plain(renormalize_logits=True),
    plain(remove_invalid_values=True),
    plain("watermarking_config", watermarking_config=WatermarkingConfig(bias=5.0, seeding_scheme="selfhash")),
    plain(guidance_scale=1.5),
    made("guidance_scale=1.5, negative_prompt_ids", lambda s: {"guidance_scale": 1.5, "negative_prompt_ids": torch.tensor([[9, 30, 12]])}, "guidance_scale|negative_prompt_ids"),
    made("negative_prompt_ids", lambda s: {"negative_prompt_ids": torch.tensor([[9, 30, 12]])}),
    made("logits_processor", lambda s: {"logits_processor": LogitsProcessorList([Bias()])}),
    plain("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn=odd_only),
)
LENGTHS = (
    plain(max_new_tokens=1),
    made("max_length", lambda s: {"max_length": (1 if s.pristine.config.is_encoder_decoder else s.prompt()["input_ids"].shape[1]) + 3}, base=FREE),
    made("min_new_tokens", lambda s: {"min_new_tokens": 3, "eos_token_id": s.greedy[0]}),
    made("min_length", lambda s: {"min_length": s.prompt()["input_ids"].shape[1] + 3, "eos_token_id": s.greedy[0]}),
    plain(max_time=100.0),
    plain(max_time=0.0),
)
ENDS = (
    made("eos_token_id=step 1", lambda s: {"eos_token_id": s.greedy[0]}, base=GREEDY),
    made("eos_token_id=step 2", lambda s: {"eos_token_id": s.greedy[1]}, base=GREEDY),
    made("eos_token_id=list", lambda s: {"eos_token_id": [7, s.greedy[2]]}),
    made("eos_token_id=tensor", lambda s: {"eos_token_id": torch.tensor([7, s.greedy[2]])}),
    plain(eos_token_id=None),
    plain(eos_token_id=-1),
    made("eos_token_id=step 2, pad_token_id=the same", lambda s: {"eos_token_id": s.greedy[1], "pad_token_id": s.greedy[1]}, "eos_token_id|pad_token_id"),
    made("pad_token_id=a token of the answer", lambda s: {"pad_token_id": s.greedy[1], "eos_token_id": None}, "pad_token_id"),
    plain(pad_token_id=0),
    plain(pad_token_id=None),
    made("stopping_criteria", lambda s: {"stopping_criteria": StoppingCriteriaList([StopAt(s.greedy[1])]), "eos_token_id": 7}),
    made("stopping_criteria, no eos", lambda s: {"stopping_criteria": StoppingCriteriaList([StopAt(s.greedy[1])]), "pad_token_id": 0, "eos_token_id": None}, "stopping_criteria"),
    made("stop_strings", lambda s: {"stop_strings": [f"w{s.greedy[1]}"], "tokenizer": tokenizer(), "pad_token_id": 0}),
)
CACHES = (
    *(plain(cache_implementation=name) for name in ("dynamic", "static", "offloaded", "offloaded_static", "sliding_window", "hybrid", "hybrid_chunked", "quantized", "nonsense")),
    plain(cache_implementation="static", max_cache_len=200),
    plain("cache_config", cache_implementation="quantized", cache_config={"backend": "hqq"}),
    plain(use_cache=False),
    plain(use_cache=True),
    made("past_key_values=DynamicCache()", lambda s: {"past_key_values": DynamicCache()}),
    made("past_key_values=DynamicCache(config)", lambda s: {"past_key_values": DynamicCache(config=text_config(s))}),
    made("past_key_values=StaticCache", static_cache),
    made("past_key_values=cache of the prompt", prefix_cache),
    made("past_key_values=cache of the first tokens", text_prefix_cache),
    made("past_key_values=tuple", lambda s: {"past_key_values": ()}),
    plain(prefill_chunk_size=5),
    plain(prefill_chunk_size=1000),
    plain("compile_config", compile_config=CompileConfig()),
    plain(disable_compile=True),
    plain(cache_implementation="static", disable_compile=True),
)
DECODING = (
    plain(prompt_lookup_num_tokens=2),
    plain(prompt_lookup_num_tokens=2, max_matching_ngram_size=1),
    made("assistant_model=the model", lambda s: {"assistant_model": s.pristine}),
    plain(assistant_early_exit=1),
    plain(penalty_alpha=0.6, top_k=4),
    plain(dola_layers="low"),
    made("token_healing", lambda s: {"token_healing": True, "tokenizer": tokenizer()}),
    plain("custom_generate=function", custom_generate=second_best),
    plain(custom_generate="nobody/nothing"),
    plain(use_mtp=True),
    plain(is_assistant=True),
    plain(speculation_type="mtp"),
)
OUTPUTS = (
    plain(output_scores=True, return_dict_in_generate=True),
    plain(output_scores=True),
    plain(output_logits=True, return_dict_in_generate=True),
    plain(output_attentions=True, return_dict_in_generate=True),
    plain(output_hidden_states=True, return_dict_in_generate=True),
    plain(output_hidden_states=True, output_attentions=True, output_logits=True, output_scores=True, return_dict_in_generate=True),
    plain(return_dict_in_generate=True),
    plain(return_dict_in_generate=False),
    made("streamer", lambda s: {"streamer": Collected()}),
    plain(synced_gpus=True),
    plain(synced_gpus=False),
)
OTHERS = (
    made("generation_config", lambda s: {"generation_config": GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=s.greedy[1])}, base={}),
    made("generation_config, static", lambda s: {"generation_config": GenerationConfig(max_new_tokens=4, do_sample=False, cache_implementation="static")}, "generation_config|cache_implementation", base={}),
    made("generation_config, num_beams=2", lambda s: {"generation_config": GenerationConfig(max_new_tokens=4, do_sample=False, num_beams=2)}, "generation_config|num_beams", base={}),
    made("generation_config, use_cache=False", lambda s: {"generation_config": GenerationConfig(max_new_tokens=4, do_sample=False, use_cache=False)}, "generation_config|use_cache", base={}),
    made("generation_config=dict", lambda s: {"generation_config": {"max_new_tokens": 3}}, base={}),
    made("attention_mask", lambda s: {"attention_mask": torch.ones_like(s.prompt()["input_ids"])}),
    made("position_ids", lambda s: {"position_ids": torch.arange(s.prompt()["input_ids"].shape[1])[None] + 3}),
    made("inputs_embeds", lambda s: {"inputs_embeds": s.pristine.get_input_embeddings()(s.prompt()["input_ids"]).detach()}),
    made("input_ids", lambda s: {"input_ids": s.prompt()["input_ids"][:, :-1]}),
    made("inputs", lambda s: {"inputs": s.prompt()["input_ids"][:, :-1]}),
    made("pixel_values", lambda s: {"pixel_values": torch.zeros_like(s.prompt()["pixel_values"])}),
    made("decoder_input_ids", lambda s: {"decoder_input_ids": torch.tensor([[2, 9]])}),
    plain(decoder_start_token_id=9),
    plain(bos_token_id=9),
    plain(logits_to_keep=1),
    plain(logits_to_keep=0),
    plain(max_tokens=3),
    plain(num_beam=2),
    plain(output_router_logits=True),
    plain("labels", labels=torch.tensor([[3]])),
    made("tokenizer", lambda s: {"tokenizer": tokenizer()}),
    plain(trust_remote_code=True),
    plain(use_model_defaults=False),
    plain("nothing", named="$", base={"max_new_tokens": 4}, do_sample=None),
)
IN_CALL = (*BEAMS, *SAMPLING, *PENALTIES, *LENGTHS, *ENDS, *CACHES, *DECODING, *OUTPUTS, *OTHERS)


def by_name(name: str) -> Argument:
    (found,) = [one for one in IN_CALL if one.name == name]
    return found


ON_CONFIG = tuple(
    configured(by_name(name))
    for name in (
        "num_beams=2", "num_beams=2, num_return_sequences=2", "do_sample=True", "temperature=2.0", "repetition_penalty=1.8",
        "no_repeat_ngram_size=1", "bad_words_ids", "suppress_tokens", "sequence_bias", "guidance_scale=1.5", "forced_eos_token_id=7",
        "eos_token_id=step 2", "eos_token_id=list", "min_new_tokens", "cache_implementation='dynamic'", "cache_implementation='static'",
        "cache_implementation='offloaded'", "use_cache=False", "prefill_chunk_size=5", "prompt_lookup_num_tokens=2",
        "assistant_early_exit=1", "output_scores=True", "output_attentions=True, return_dict_in_generate=True", "return_dict_in_generate=True",
        "watermarking_config", "max_time=0.0", "penalty_alpha=0.6, top_k=4", "dola_layers='low'", "pad_token_id=a token of the answer",
        "compile_config", "is_assistant=True", "decoder_start_token_id=9",
    )
)
ARGUMENTS = (*IN_CALL, *ON_CONFIG)
