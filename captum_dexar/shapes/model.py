"""The bundled model's architecture: a LLaVA with about 1.3 M parameters."""

from captum_dexar.shapes.drawing import IMAGE_SIZE
from captum_dexar.shapes.processing import (
    BOS,
    EOS,
    IMAGE,
    PAD,
    PATCH_SIZE,
    VISION_FEATURE_STRATEGY,
    VOCABULARY,
)
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
MAX_NEW_TOKENS = 32


def build_model() -> LlavaForConditionalGeneration:
    """The untrained model, float32, initialised from torch's global random state."""
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    ids = {name: VOCABULARY[name] for name in (PAD, BOS, EOS, IMAGE)}
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids[IMAGE],
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy=VISION_FEATURE_STRATEGY,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return model
