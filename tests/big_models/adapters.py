"""Every kind of adapter that peft has, on a tiny LLaVA, and what becomes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tests.helpers.literal import TARGET
from tests.helpers.tiny_models import prompt_inputs, tiny_vlm
from torch import nn

# Loaded by whoever calls: the table in the README is made without it.
Peft = Any
PROJECTIONS = "q_proj|v_proj|o_proj|down_proj|gate_proj"
TEXT = rf".*language_model.*\.({PROJECTIONS})"
SQUARE = r".*language_model.*\.(q_proj|o_proj)"


def disturbed(model: Any) -> Any:
    """Adapters change nothing at first; their weights are moved."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.15 * (parameter.abs().mean() + 0.5) * noise
    return model.eval()


@dataclass(frozen=True, eq=False)
class Adapter:
    """A kind of adapter, or a variant of one.

    Attributes:
        make: makes an adapted model, in a folder if it has to save something
        refused: what the error says, as a regular expression; None if it is explained
        given_is_refused: what the error for a given answer says, if only generated ones
            are explained, and given ones by ``engine="autograd"``
        reference: options of :func:`tests.helpers.literal.literal`
        note: for the table
    """

    make: Callable[[Peft, Path], nn.Module]
    refused: str | None = None
    given_is_refused: str | None = None
    reference: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def outcome(self) -> str:
        """In the table."""
        if self.refused is not None:
            return "refused"
        return "explained" if self.given_is_refused is None else "generated answers"


def of(config: str, **options: Any) -> Callable[[Peft, Path], nn.Module]:
    """Adapts the whole model, by a config of this name."""

    def make(peft: Peft, folder: Path) -> nn.Module:
        given = {"target_modules": TEXT, **options}
        model = peft.get_peft_model(tiny_vlm(seed=1), getattr(peft, config)(**given))
        adapted: nn.Module = disturbed(model)
        return adapted

    return make


def of_text(config: str, **options: Any) -> Callable[[Peft, Path], nn.Module]:
    """Adapts the language model inside, in place."""

    def make(peft: Peft, folder: Path) -> nn.Module:
        model: Any = tiny_vlm(seed=1)
        text = model.model.language_model
        disturbed(peft.get_peft_model(text, getattr(peft, config)(**options)))
        return model

    return make


def virtual(config: str, **options: Any) -> Callable[[Peft, Path], nn.Module]:
    """Puts virtual tokens before the prompt."""
    tokens = {
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": 4,
        "num_layers": 3,
        "token_dim": 48,
        "num_attention_heads": 4,
        "num_transformer_submodules": 1,
    }

    def make(peft: Peft, folder: Path) -> nn.Module:
        given = getattr(peft, config)(**{**tokens, **options})
        adapted: nn.Module = disturbed(peft.get_peft_model(tiny_vlm(seed=1), given))
        return adapted

    return make


def in_context(peft: Peft, folder: Path) -> nn.Module:
    config = peft.CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=[5, 6, 7],
        cpt_mask=[1, 1, 1],
        cpt_tokens_type_mask=[1, 2, 3],
    )
    adapted: nn.Module = disturbed(peft.get_peft_model(tiny_vlm(seed=1), config))
    return adapted


def mixture(peft: Peft, folder: Path) -> nn.Module:
    """X-LoRA, of two adapters that are read from files."""
    paths = {}
    for name in ("0", "1"):
        model: Any = of("LoraConfig", r=2, task_type="CAUSAL_LM")(peft, folder)
        model.save_pretrained(folder / name)
        paths[name] = str(folder / name)
    base: Any = tiny_vlm(seed=1)
    base.config.use_cache = False
    config = peft.XLoraConfig(
        hidden_size=48, adapters=paths, xlora_size=8, task_type="CAUSAL_LM"
    )
    adapted: nn.Module = disturbed(peft.get_peft_model(base, config))
    return adapted


def activated(peft: Peft, folder: Path) -> nn.Module:
    """aLoRA, which works from two tokens near the prompt's end on."""
    invocation = prompt_inputs(1)["input_ids"][0, -3:-1].tolist()
    options = {"alora_invocation_tokens": invocation, "task_type": "CAUSAL_LM"}
    return of("LoraConfig", r=3, **options)(peft, folder)


def blocks_of_lora(peft: Peft, folder: Path) -> nn.Module:
    configs: Any = import_module("peft.tuners.lora.config")
    parts = {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["o_proj"]}
    blocks = configs.BdLoraConfig(**parts, nblocks=2)
    options = {"target_modules": SQUARE, "use_bdlora": blocks}
    return of("LoraConfig", r=4, **options)(peft, folder)


def with_lora_option(name: str, config: str, **options: Any) -> Any:
    """LoRA with an option that has a config of its own."""

    def make(peft: Peft, folder: Path) -> nn.Module:
        configs: Any = import_module("peft.tuners.lora.config")
        given = {name: getattr(configs, config)(**options)}
        target = {"target_modules": SQUARE, "r": 4}
        return of("LoraConfig", **target, **given)(peft, folder)

    return make


TOKENS = "virtual tokens before the prompt"
# By the name in peft.PeftType.
ADAPTERS: dict[str, Adapter] = {
    "ADALORA": Adapter(of("AdaLoraConfig", init_r=4, target_r=2, total_step=10)),
    "ADAMSS": Adapter(
        of("AdamssConfig", r=8, num_subspaces=2, target_modules=SQUARE),
        # Its layers keep the dtype that they were made in.
        reference={"in_float64": False},
    ),
    "ADAPTION_PROMPT": Adapter(
        of_text("AdaptionPromptConfig", adapter_len=4, adapter_layers=2),
        note="put on the language model inside, as peft knows no VLM for it",
    ),
    "BEFT": Adapter(of("BeftConfig")),
    "BOFT": Adapter(of("BOFTConfig", boft_block_size=4)),
    "BONE": Adapter(of("BoneConfig", r=4), note="MISS in newer versions"),
    "C3A": Adapter(of("C3AConfig", block_size=8)),
    "CARTRIDGE": Adapter(virtual("CartridgeConfig"), TOKENS),
    "CPT": Adapter(in_context, TOKENS),
    "DEFT": Adapter(of("DeftConfig", r=3)),
    "DELORA": Adapter(of("DeloraConfig", r=3)),
    "FOURIERFT": Adapter(of("FourierFTConfig", n_frequency=20)),
    "FROD": Adapter(of("FrodConfig", target_modules=SQUARE, progressbar=False)),
    "GLORA": Adapter(of("GloraConfig", r=3)),
    "GRALORA": Adapter(of("GraloraConfig", r=4)),
    "HIRA": Adapter(of("HiraConfig", r=3)),
    "HRA": Adapter(of("HRAConfig", r=4)),
    "IA3": Adapter(
        of(
            "IA3Config",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        )
    ),
    "LILY": Adapter(
        of("LilyConfig", r=4),
        given_is_refused=r"tuners\.lily.*which positions share its pass",
        note="it averages over the positions of a pass",
    ),
    "LN_TUNING": Adapter(
        of("LNTuningConfig", target_modules=r".*language_model.*norm")
    ),
    "LOHA": Adapter(of("LoHaConfig", r=3)),
    "LOKR": Adapter(of("LoKrConfig", r=3)),
    "LORA": Adapter(of("LoraConfig", r=3, task_type="CAUSAL_LM")),
    "MISS": Adapter(of("MissConfig", r=4)),
    "MULTITASK_PROMPT_TUNING": Adapter(
        virtual("MultitaskPromptTuningConfig", num_tasks=1), TOKENS
    ),
    "OFT": Adapter(of("OFTConfig", r=0, oft_block_size=4)),
    "OSF": Adapter(of("OSFConfig", effective_rank=8)),
    "PEANUT": Adapter(of("PeanutConfig", r=4)),
    "POLY": Adapter(of("PolyConfig", r=2, n_tasks=1, n_skills=2), r"Poly\).*task_ids"),
    "PREFIX_TUNING": Adapter(virtual("PrefixTuningConfig"), TOKENS),
    "PROMPT_TUNING": Adapter(virtual("PromptTuningConfig"), TOKENS),
    "PSOFT": Adapter(of("PsoftConfig", r=4)),
    "PVERA": Adapter(of("PveraConfig", r=4, target_modules=SQUARE)),
    "P_TUNING": Adapter(virtual("PromptEncoderConfig", encoder_hidden_size=16), TOKENS),
    # Its scale is large by default, and rounding with it.
    "RANDLORA": Adapter(of("RandLoraConfig", r=4, randlora_alpha=8)),
    "ROAD": Adapter(of("RoadConfig", group_size=8)),
    "SHADOW": Adapter(
        of_text("ShadowConfig", r=4, shadow_num_hidden_layers=1),
        r"Shadow\) sends a second state",
    ),
    "SHIRA": Adapter(of("ShiraConfig", r=3, random_seed=1)),
    "SUPERTUNING": Adapter(of("SupertuningConfig", sparsity=0.5)),
    "TINYLORA": Adapter(of("TinyLoraConfig", r=2, u=8)),
    "TRAINABLE_TOKENS": Adapter(
        of(
            "TrainableTokensConfig",
            token_indices=[5, 6, *TARGET],
            target_modules=["embed_tokens"],
        )
    ),
    "UNILORA": Adapter(of("UniLoraConfig", r=2, theta_d_length=16)),
    "VBLORA": Adapter(of("VBLoRAConfig", r=2, num_vectors=8, vector_length=8)),
    "VERA": Adapter(of("VeraConfig", r=4, target_modules=SQUARE)),
    "WAVEFT": Adapter(of("WaveFTConfig", n_frequency=20)),
    "XLORA": Adapter(mixture, r"X-LoRA\) runs all layers twice"),
}
# Options of LoRA, and of others, that are methods of their own.
VARIANTS: dict[str, Adapter] = {
    "LORA, all linear layers": Adapter(
        of("LoraConfig", r=3, target_modules="all-linear")
    ),
    "LORA, bias": Adapter(of("LoraConfig", r=3, lora_bias=True)),
    "LORA, rsLoRA": Adapter(of("LoraConfig", r=3, use_rslora=True)),
    "LORA, DoRA": Adapter(of("LoraConfig", r=3, use_dora=True)),
    "LORA, PiSSA": Adapter(of("LoraConfig", r=3, init_lora_weights="pissa")),
    "LORA, OLoRA": Adapter(of("LoraConfig", r=2, init_lora_weights="olora")),
    "LORA, orthogonal": Adapter(of("LoraConfig", r=4, init_lora_weights="orthogonal")),
    "LORA, KaSA": Adapter(with_lora_option("kasa_config", "KasaConfig")),
    "LORA, VeLoRA": Adapter(
        with_lora_option("velora_config", "VeloraConfig", num_groups=4)
    ),
    "LORA, MonteCLoRA": Adapter(
        with_lora_option("monteclora_config", "MontecloraConfig")
    ),
    "LORA, BD-LoRA": Adapter(blocks_of_lora),
    "LORA, aLoRA": Adapter(
        activated,
        # Generating, it keeps working on the cache, which a pass by itself does not.
        reference={"on_cache": False},
        note="a given answer that holds its invocation tokens is refused",
    ),
    "PVERA, sample_at_inference": Adapter(
        of("PveraConfig", r=4, target_modules=SQUARE, sample_at_inference=True),
        "PVeRA.*random numbers",
    ),
}
