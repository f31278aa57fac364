"""The architecture of the worlds' models: a LLaVA with about 1.3 M parameters."""

import torch
from captum_dexar.worlds.processing import (
    BOS,
    EOS,
    IMAGE,
    PAD,
    PATCH_SIZE,
    VISION_FEATURE_STRATEGY,
)
from captum_dexar.worlds.world import World
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

MAX_NEW_TOKENS = 32
# Sinusoidal positions should not drown what the patches show.
POSITION_SCALE = 0.3


def build_model(
    world: World, sinusoidal_positions: bool = False
) -> LlavaForConditionalGeneration:
    """The untrained model, float32, initialised from torch's global random state.

    Args:
        world (World): gives the vocabulary and the size of the images
        sinusoidal_positions (bool, optional): the vision tower's position embeddings,
            which are learnt, begin as :func:`sinusoids` and not at random.
            Default: False
    """
    cells = world.image_size // PATCH_SIZE
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=world.image_size,
        patch_size=PATCH_SIZE,
    )
    ids = {name: world.vocabulary[name] for name in (PAD, BOS, EOS, IMAGE)}
    text = LlamaConfig(
        vocab_size=len(world.vocabulary),
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
        image_seq_length=cells**2,
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
    if sinusoidal_positions:
        (table,) = (
            parameter
            for name, parameter in model.named_parameters()
            if name.endswith("position_embedding.weight")
        )
        with torch.no_grad():
            # The first position is that of the class token.
            waves = sinusoids(cells, vision.hidden_size)
            table[1:] = POSITION_SCALE * waves
    return model


def sinusoids(cells: int, channels: int) -> Tensor:
    """Sines and cosines of the rows and columns of a square grid.

    Args:
        cells (int): rows and columns
        channels (int): a multiple of 4

    Returns:
        *Tensor* ``(cells * cells, channels)``
    """
    count = channels // 4
    frequencies = 10_000.0 ** -(torch.arange(count) / count)
    rows, columns = torch.meshgrid(
        torch.arange(cells), torch.arange(cells), indexing="ij"
    )
    angles = [place.flatten()[:, None] * frequencies for place in (rows, columns)]
    waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return torch.cat(waves, dim=1)
