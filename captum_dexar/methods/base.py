"""What DEX-AR and the methods that it is compared with have in common."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from captum.attr import LayerAttribution
from captum_dexar.attention_gradients import users_change
from captum_dexar.decoding import DecodingSteps
from captum_dexar.decoding.step_attributions import OnlineAttribution, StepAttributions
from captum_dexar.families import adapter_for_config
from captum_dexar.inputs import (
    check_integers,
    check_vocabulary,
    ids_of,
    num_examples,
    positional_inputs,
    Prompt,
)
from captum_dexar.maps.composition import compose
from captum_dexar.maps.normalization import min_max_normalize
from captum_dexar.model.finite import check_finite
from captum_dexar.model.layers import find_layers, layer_indices
from captum_dexar.model.state import check_model_state, kept_state
from captum_dexar.model.wrappers import check_not_parallel, unwrapped
from captum_dexar.vlm_forward import VLMForward
from torch import nn, Tensor


class DecoderLayerAttribution(LayerAttribution):
    """A method that explains decoding steps by the decoder's layers.

    Subclasses say how, in :meth:`attribute_steps`; all steps of an answer are explained
    in as few passes as the method allows.

    Args:
        forward_func (nn.Module): a Hugging Face vision-language model in eval mode, or
            a :class:`VLMForward` around it
        layer (nn.Module or list of nn.Module, optional): decoder layer or layers of
            the language model. Default: None, all layers
        device_ids (list of int, optional): as in Captum; more than one device is
            refused. Default: None

    Attributes:
        step_arguments (tuple of str): names of the method's own arguments
        takes_contrast (bool): whether it explains differences to a contrast
        parts_per_step (int): how often ``on_layer`` is told of a step

    Raises:
        TypeError: the model is of no supported family.
        ValueError: ``layer`` is none of the model's decoder layers, or there are
            several devices.
    """

    step_arguments: ClassVar[tuple[str, ...]] = ()
    takes_contrast: ClassVar[bool] = False

    def __init__(
        self,
        forward_func: nn.Module,
        layer: nn.Module | list[nn.Module] | None = None,
        device_ids: list[int] | None = None,
    ) -> None:
        model = forward_func
        if isinstance(forward_func, VLMForward):
            model = forward_func.model
        if not isinstance(model, nn.Module):
            raise TypeError(
                "forward_func must be a Hugging Face vision-language model or a "
                f"VLMForward around one, got {type(forward_func).__name__}."
            )
        check_not_parallel(model)
        model = unwrapped(model)
        if device_ids is not None and len(device_ids) > 1:
            raise ValueError(
                f"device_ids names {len(device_ids)} devices, but DataParallel copies "
                "of a model can't be explained. Pass the model itself."
            )
        self.model = model
        self.adapter = adapter_for_config(getattr(model, "config", None))
        decoder_layers = find_layers(model)
        self.layer_indices = layer_indices(decoder_layers, layer)
        chosen = [decoder_layers[index] for index in self.layer_indices]
        super().__init__(forward_func, chosen, device_ids)
        self.parts_per_step = len(chosen)

    @property
    def can_be_batched(self) -> bool:
        """Whether several prompts can be explained together, with equal results."""
        change = users_change(self.model, with_hooks=False)
        return self.adapter.can_be_batched and change is None

    def check_layers(self) -> None:
        """Raises ValueError if the model's decoder layers are not those of before."""
        layers = find_layers(self.model)
        for index, chosen in zip(self.layer_indices, self.layer):
            if index >= len(layers) or layers[index] is not chosen:
                raise ValueError(
                    f"Decoder layer {index} of the model is not the one that it was "
                    f"when {type(self).__name__} was made. Make it anew."
                )

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raises TypeError for an argument that the method does not have, and
        ValueError as :meth:`check_layers`."""
        self.check_layers()
        check_known(
            self.get_name(),
            arguments,
            self.step_arguments,
            " Layers are chosen in its constructor; keep_layers=True keeps the maps of "
            "single layers in the result.",
        )

    def name_with(self, arguments: Mapping[str, Any]) -> str:
        """The name for display, with the arguments that make it another method."""
        return str(self.get_name())

    @abstractmethod
    def attribute_steps(
        self,
        steps: DecodingSteps,
        cache: Any = None,
        *,
        on_layer: Callable[[int], object] | None = None,
        **arguments: Any,
    ) -> StepAttributions:
        """Explains all decoding steps of an answer.

        Args:
            steps (DecodingSteps): the prompts and their answers
            cache (PromptCache or DynamicCache, optional): keys and values of what is
                before the steps, from generating the answer. Default: computed
            on_layer (Callable, optional): called with the number of steps of which a
                layer is done, for progress. Default: None
            **arguments: the method's own, see ``step_arguments``

        Returns:
            StepAttributions
        """

    def online(self, prompt: Prompt, **arguments: Any) -> OnlineAttribution | None:
        """The method at work while the model generates.

        Args:
            prompt (Prompt): the prompt that is answered
            **arguments: the method's own, see ``step_arguments``

        Returns:
            OnlineAttribution, or None if the method explains answers as a whole only
        """
        return None

    def attribute_next_token(
        self,
        inputs: Any,
        target: Any,
        additional_forward_args: Any,
        *,
        normalize: bool,
        sum_layers: bool,
        **arguments: Any,
    ) -> Tensor | list[Tensor]:
        """Explains one step with Captum's arguments; see :meth:`LayerDexAR.attribute`.

        Returns:
            *Tensor* ``(N, 1, h, w)``, or a list of them, one per layer
        """
        check_model_state(self.model)
        self.check_layers()
        model_inputs = positional_inputs(inputs, additional_forward_args, self.model)
        target_ids = self._target_ids(model_inputs, target)
        prompt = Prompt(self.model, model_inputs)
        steps, layout = DecodingSteps(prompt, target_ids[:, None]), prompt.layout
        self.adapter.check(self.model, model_inputs, layout, [], None)
        if "keep_layers" in self.step_arguments:
            arguments["keep_layers"] = not sum_layers
        result = self.attribute_steps(steps, **arguments)
        check_finite(result.token_attr, f"The maps of {self.get_name()}", self.model)
        tokens = [result.token_attr[:, 0, layout.placed]]
        if not sum_layers:
            assert result.layer_attr is not None
            tokens = list(result.layer_attr[:, 0, :, layout.placed].unbind(1))
        maps = [compose(values, layout) for values in tokens]
        if normalize:
            maps = [
                min_max_normalize(token_map.flatten(1)).view_as(token_map)
                for token_map in maps
            ]
        pictures = [token_map.float().unsqueeze(1) for token_map in maps]
        return pictures[0] if sum_layers else pictures

    def _target_ids(self, model_inputs: dict[str, Any], target: Any) -> Tensor:
        """One id for each example, ``(N,)``."""
        batch = num_examples(model_inputs, self.adapter)
        if target is None:
            inputs = dict(model_inputs)
            pixels = inputs.pop(self.adapter.pixel_input)
            ids = inputs.pop(self.adapter.prompt_input, None)
            with torch.no_grad(), kept_state(self.model):
                logits: Tensor = VLMForward(self.model)(pixels, ids, inputs)
            return logits.argmax(-1)
        ids = ids_of(target, "a vocabulary id, or one for each example")
        if ids.dim() > 1 or ids.numel() not in (1, batch):
            raise ValueError(
                f"target must be one id, or one for each of {batch} examples, got "
                f"shape {tuple(ids.shape)}. Answers of several tokens are for "
                "VLMAttribution."
            )
        check_integers(ids)
        config: Any = self.model.config
        check_vocabulary(ids.reshape(-1), config.get_text_config().vocab_size)
        device = model_inputs[self.adapter.pixel_input].device
        return ids.reshape(-1).long().to(device).expand(batch)

    def has_convergence_delta(self) -> bool:
        """False: the maps do not sum to a difference of outputs."""
        return False

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Tensor:
        """Not defined."""
        raise NotImplementedError(
            f"{self.get_name()} has no convergence delta: its maps do not sum to a "
            "difference of the model's outputs."
        )

    def attribute_future(self, *args: Any, **kwargs: Any) -> None:
        """Not supported."""
        raise NotImplementedError(
            f"attribute_future is not supported for {type(self).__name__}."
        )

    @property
    def multiplies_by_inputs(self) -> bool:
        """False: attributions are gradients, not multiplied by the inputs."""
        return False


def check_known(
    name: str, arguments: Mapping[str, Any], known: Sequence[str], hint: str = ""
) -> None:
    """Raises TypeError for an argument that a method does not have.

    Args:
        name (str): the method's name
        arguments (Mapping): what it is called with
        known (sequence of str): names of its own arguments
        hint (str, optional): what else to say. Default: nothing
    """
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise TypeError(
            f"{name} has no argument {', '.join(unknown)}; it has "
            f"{', '.join(known) or 'none of its own'}.{hint}"
        )
