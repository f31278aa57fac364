"""Every argument of ``generate``, as one or several values."""

from dataclasses import replace

import torch
from tests.right_or_refused.argument import (
    Argument,
    GREEDY,
    made,
    Made,
    model_input,
    values,
)
from tests.right_or_refused.own_objects import (
    Bias,
    cache_of_first_tokens,
    cache_of_prompt,
    Collected,
    dynamic_cache,
    odd_ids,
    second_best,
    static_cache,
    StopAt,
    word_tokenizer,
)
from tests.right_or_refused.setting import Setting
from torch import Tensor
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
    WatermarkingConfig,
)

SAMPLED = {**GREEDY, "do_sample": True, "top_k": 0}
SEVERAL = "num_beams|num_return_sequences"
# What generate says to a batch of prompts.
ASSISTED = "assisted generate is only supported for batch_size = 1"


def length_of(setting: Setting) -> int:
    """Number of tokens that ``max_length`` counts before the answer."""
    if setting.pristine.config.is_encoder_decoder:
        return 1
    return int(setting.prompt()["input_ids"].shape[1])


def masked(setting: Setting) -> Made:
    """Two tokens before the image are hidden."""
    mask = torch.ones_like(setting.prompt()["input_ids"])
    mask[:, 1:3] = 0
    return {"attention_mask": mask}


def masked_inputs(setting: Setting) -> Made:
    """The mask, and the positions that ``generate`` counts from it."""
    mask: Tensor = masked(setting)["attention_mask"]
    if hasattr(setting.pristine.model, "get_rope_index"):
        return {"attention_mask": mask}
    return {"attention_mask": mask, "position_ids": mask.cumsum(-1) - 1}


def with_beams(argument: Argument) -> Argument:
    """The same with two beams, whose answers are explained in passes of their own."""

    def make(setting: Setting) -> Made:
        return {"num_beams": 2, **argument.make(setting)}

    name, regex = f"num_beams=2, {argument.name}", f"num_beams|{argument.named}"
    return replace(argument, name=name, named=regex, make=make)


def changed_embeddings(setting: Setting) -> Tensor:
    """Those of the prompt, but for its first two tokens."""
    embeddings = setting.pristine.get_input_embeddings()
    embedded: Tensor = embeddings(setting.prompt()["input_ids"]).detach()
    embedded[:, :2] += 0.5
    return embedded


def stopping(setting: Setting) -> StoppingCriteriaList:
    return StoppingCriteriaList([StopAt(setting.greedy[1])])


def configuration(name: str, **given: object) -> Argument:
    """A generation config as an argument; nothing else is given."""

    def make(setting: Setting) -> Made:
        return {"generation_config": GenerationConfig(**{**GREEDY, **given})}

    named = "|".join(["generation_config", *given])
    return made(f"generation_config, {name}", make, named, base={})


BEAMS = (
    values(num_beams=2),
    values(num_beams=3, length_penalty=2.0, early_stopping=True),
    values(num_beams=3, length_penalty=-2.0, early_stopping="never"),
    values(num_beams=2, num_return_sequences=2),
    values(num_beams=2, use_cache=False),
    values(num_beams=2, cache_implementation="static"),
    values(num_beams=2, repetition_penalty=1.5),
    values(num_beams=2, guidance_scale=1.5),
    values("num_beams=2, do_sample=True", num_beams=2, base=SAMPLED),
    values(num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
    values(num_beams=2, low_memory=True),
    values(num_beams=2, force_words_ids=[[[11]]]),
    values(num_beams=2, constraints=["a phrase"]),
    values(num_return_sequences=2, base=SAMPLED),
    values(num_return_sequences=1),
    made(
        "num_beams=2, eos_token_id=the second token",
        lambda s: {"num_beams": 2, "eos_token_id": s.greedy[1]},
    ),
    made(
        "num_beams=2, past_key_values",
        lambda s: {"num_beams": 2, "past_key_values": dynamic_cache(s)},
        "num_beams|past_key_values",
    ),
)
SAMPLING = (
    values(do_sample=True, top_k=0),
    values(temperature=2.0, base=SAMPLED),
    values(top_k=3, base=SAMPLED),
    values(top_p=0.6, base=SAMPLED),
    values(top_h=0.5, base=SAMPLED),
    values(typical_p=0.5, base=SAMPLED),
    values(min_p=0.05, base=SAMPLED),
    values(epsilon_cutoff=0.01, base=SAMPLED),
    values(eta_cutoff=0.01, base=SAMPLED),
    values(renormalize_logits=True, top_k=5, base=SAMPLED),
)
SCORES = (
    values(repetition_penalty=1.8),
    values(encoder_repetition_penalty=1.5),
    values(no_repeat_ngram_size=1),
    values(encoder_no_repeat_ngram_size=1),
    made(
        "bad_words_ids",
        lambda s: {"bad_words_ids": [[s.greedy[0]], [s.greedy[1], s.greedy[2]]]},
    ),
    made("sequence_bias", lambda s: {"sequence_bias": {(s.greedy[0],): -10.0}}),
    made("suppress_tokens", lambda s: {"suppress_tokens": s.greedy[:2]}),
    made("begin_suppress_tokens", lambda s: {"begin_suppress_tokens": s.greedy[:1]}),
    values(forced_bos_token_id=11),
    values(forced_eos_token_id=7),
    values(exponential_decay_length_penalty=(1, 1.5)),
    values(renormalize_logits=True),
    values(remove_invalid_values=True),
    values(
        "watermarking_config",
        watermarking_config=WatermarkingConfig(bias=5.0, seeding_scheme="selfhash"),
    ),
    values(guidance_scale=1.5),
    made(
        "guidance_scale=1.5, negative_prompt_ids",
        lambda s: {
            "guidance_scale": 1.5,
            "negative_prompt_ids": torch.tensor([[9, 30, 12]]),
        },
        "guidance_scale|negative_prompt_ids",
    ),
    made(
        "negative_prompt_ids",
        lambda s: {"negative_prompt_ids": torch.tensor([[9, 30, 12]])},
    ),
    made(
        "logits_processor",
        lambda s: {"logits_processor": LogitsProcessorList([Bias()])},
    ),
    values("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn=odd_ids),
)
ENDS = (
    values(max_new_tokens=1),
    made(
        "max_length",
        lambda s: {"max_length": length_of(s) + 3},
        base={"do_sample": False},
    ),
    made(
        "min_new_tokens", lambda s: {"min_new_tokens": 2, "eos_token_id": s.greedy[0]}
    ),
    made(
        "min_length",
        lambda s: {"min_length": length_of(s) + 2, "eos_token_id": s.greedy[0]},
    ),
    values(max_time=100.0),
    values(max_time=0.0),
    made("eos_token_id=the first token", lambda s: {"eos_token_id": s.greedy[0]}),
    made("eos_token_id=the second token", lambda s: {"eos_token_id": s.greedy[1]}),
    made("eos_token_id=a list", lambda s: {"eos_token_id": [7, s.greedy[1]]}),
    made(
        "eos_token_id=a tensor",
        lambda s: {"eos_token_id": torch.tensor([7, s.greedy[1]])},
    ),
    values(eos_token_id=None),
    values(eos_token_id=-1),
    made(
        "eos_token_id=pad_token_id",
        lambda s: {"eos_token_id": s.greedy[1], "pad_token_id": s.greedy[1]},
    ),
    made(
        "pad_token_id=a token of the answer",
        lambda s: {"pad_token_id": s.greedy[1], "eos_token_id": None},
    ),
    values(pad_token_id=0),
    values(pad_token_id=None),
    made(
        "stopping_criteria",
        lambda s: {"stopping_criteria": stopping(s), "eos_token_id": 7},
    ),
    made(
        "stopping_criteria, eos_token_id=None",
        lambda s: {"stopping_criteria": stopping(s), "eos_token_id": None},
    ),
    made(
        "stop_strings",
        lambda s: {"stop_strings": [f"w{s.greedy[1]}"], "tokenizer": word_tokenizer()},
    ),
)
CACHES = (
    values(use_cache=False),
    values(use_cache=True),
    values(cache_implementation="dynamic"),
    values(cache_implementation="static"),
    values(cache_implementation="static", disable_compile=True),
    values(cache_implementation="static", max_cache_len=200),
    values(cache_implementation="offloaded"),
    values(cache_implementation="offloaded_static"),
    values(cache_implementation="sliding_window"),
    values(cache_implementation="hybrid"),
    values(cache_implementation="hybrid_chunked"),
    values(cache_implementation="quantized"),
    values(cache_implementation="quantized", cache_config={"backend": "hqq"}),
    values(cache_implementation="unheard_of"),
    made(
        "past_key_values=DynamicCache", lambda s: {"past_key_values": dynamic_cache(s)}
    ),
    made(
        "past_key_values=DynamicCache()", lambda s: {"past_key_values": DynamicCache()}
    ),
    made("past_key_values=StaticCache", lambda s: {"past_key_values": static_cache(s)}),
    made(
        "past_key_values=the prompt's",
        lambda s: {"past_key_values": cache_of_prompt(s)},
    ),
    made(
        "past_key_values=the first tokens'",
        lambda s: {"past_key_values": cache_of_first_tokens(s)},
    ),
    values(past_key_values=()),
    values(prefill_chunk_size=5),
    values(prefill_chunk_size=1000),
    values("compile_config", compile_config=CompileConfig()),
)
DECODING = (
    values(prompt_lookup_num_tokens=2, named=f"prompt_lookup|{ASSISTED}"),
    made(
        "assistant_model=a copy",
        lambda s: {"assistant_model": s.pristine},
        f"assistant_model|{ASSISTED}",
    ),
    values(assistant_early_exit=1, named=f"assistant_early_exit|{ASSISTED}"),
    values(penalty_alpha=0.6, top_k=4),
    values(dola_layers="low"),
    made(
        "token_healing",
        lambda s: {"token_healing": True, "tokenizer": word_tokenizer()},
    ),
    values(
        "custom_generate=a function", "custom_generate", custom_generate=second_best
    ),
    values(custom_generate="nobody/nothing"),
    values(use_mtp=True),
    values(is_assistant=True),
)
OUTPUTS = (
    values(return_dict_in_generate=True),
    values(return_dict_in_generate=False),
    values(output_scores=True),
    values(output_logits=True),
    values(output_attentions=True),
    values(output_hidden_states=True),
    values(
        output_scores=True,
        output_logits=True,
        output_attentions=True,
        output_hidden_states=True,
        return_dict_in_generate=True,
    ),
    made("streamer", lambda s: {"streamer": Collected()}),
    values(synced_gpus=True),
)
CONFIGURATIONS = (
    configuration("eos_token_id", eos_token_id=7),
    configuration("num_beams=2", num_beams=2),
    configuration("use_cache=False", use_cache=False),
    configuration("cache_implementation='static'", cache_implementation="static"),
    configuration("guidance_scale=1.5", guidance_scale=1.5),
    values(generation_config={"max_new_tokens": 2}, base={}),
)
MASK = Argument("attention_mask", masked, "attention_mask", inputs=masked_inputs)
POSITIONS = model_input("position_ids", lambda s: 2 * torch.arange(length_of(s))[None])
INPUTS = (
    MASK,
    with_beams(MASK),
    POSITIONS,
    with_beams(POSITIONS),
    model_input("inputs_embeds", changed_embeddings),
    model_input("input_ids", lambda s: s.prompt()["input_ids"].flip(1)),
    model_input("pixel_values", lambda s: s.prompt()["pixel_values"] * 0),
    model_input("decoder_input_ids", lambda s: torch.tensor([[2, 9]])),
    made("inputs", lambda s: {"inputs": s.prompt()["input_ids"]}),
    Argument(
        "decoder_start_token_id",
        lambda s: {"decoder_start_token_id": 9},
        "decoder_start_token_id|decoder_input_ids",
        inputs=lambda s: (
            {"decoder_input_ids": torch.tensor([[9]])}
            if s.pristine.config.is_encoder_decoder
            else {}
        ),
    ),
    values(bos_token_id=9),
    values(logits_to_keep=1),
    values(logits_to_keep=0),
    values("labels", labels=torch.tensor([[3]])),
)
# Names that transformers has had, or that are mistyped.
UNKNOWN = (
    values(max_tokens=3),
    values(num_beam=2),
    values(use_model_defaults=False),
    values(trust_remote_code=True),
)
IN_THE_CALL = (
    *BEAMS,
    *SAMPLING,
    *SCORES,
    *ENDS,
    *CACHES,
    *DECODING,
    *OUTPUTS,
    *CONFIGURATIONS,
    *INPUTS,
    *UNKNOWN,
)


def named(name: str) -> Argument:
    """The argument of that name in the table."""
    (found,) = [argument for argument in IN_THE_CALL if argument.name == name]
    return found


IN_THE_CONFIG = tuple(
    named(name).in_config()
    for name in (
        "num_beams=2",
        "num_beams=2, num_return_sequences=2",
        "do_sample=True, top_k=0",
        "repetition_penalty=1.8",
        "bad_words_ids",
        "suppress_tokens",
        "sequence_bias",
        "forced_eos_token_id=7",
        "guidance_scale=1.5",
        "watermarking_config",
        "min_new_tokens",
        "max_time=0.0",
        "eos_token_id=the second token",
        "eos_token_id=a list",
        "pad_token_id=a token of the answer",
        "use_cache=False",
        "cache_implementation='dynamic'",
        "cache_implementation='static'",
        "cache_implementation='offloaded'",
        "prefill_chunk_size=5",
        "compile_config",
        "prompt_lookup_num_tokens=2",
        "assistant_early_exit=1",
        "penalty_alpha=0.6, top_k=4",
        "dola_layers='low'",
        "is_assistant=True",
        "return_dict_in_generate=True",
        "output_scores=True",
        "output_attentions=True",
    )
)
ARGUMENTS = (*IN_THE_CALL, *IN_THE_CONFIG)
