"""The inputs of an explanation: image, prompt, model inputs and target ids."""

from captum_dexar.inputs.batching import answers_of, batch_key, batch_of
from captum_dexar.inputs.given_processor import check_processor
from captum_dexar.inputs.image_prompt import ImagePromptInput
from captum_dexar.inputs.model_inputs import logits_of, positional_inputs, prepared
from captum_dexar.inputs.prompt import Prompt, read_prompt
from captum_dexar.inputs.targets import check_integers, check_vocabulary, ids_of, Target
from captum_dexar.maps.image_tokens import display_input, ImageTokenInput, token_names

__all__ = [
    "ImagePromptInput",
    "ImageTokenInput",
    "Prompt",
    "Target",
    "answers_of",
    "batch_key",
    "batch_of",
    "check_integers",
    "check_processor",
    "check_vocabulary",
    "display_input",
    "ids_of",
    "logits_of",
    "positional_inputs",
    "prepared",
    "read_prompt",
    "token_names",
]
