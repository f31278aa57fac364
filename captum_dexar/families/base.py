"""What an adapter states about its family of vision-language models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import torch
from captum_dexar.families.geometry.grids import patch_of, tokens_of_picture
from captum_dexar.families.image_settings import with_stored_settings
from captum_dexar.families.prepared_image import ImageTokens, PreparedImage
from captum_dexar.families.prompt_reuse import can_be_cropped, Reuse
from captum_dexar.maps.layout import ImageLayout, Rectangle, Size, View
from PIL import Image
from torch import nn, Tensor

__all__ = ["FamilyAdapter", "ImageTokens", "PreparedImage"]


def check_choice(places: Any, are_given: bool = False) -> None:
    """Raises ValueError unless ``places`` is a choice that there is."""
    if places != "resampler":
        raise ValueError(f'places must be "resampler" or None, got {places!r}.')
    if are_given:
        raise ValueError('Pass places="resampler", or grid= or boxes=, not both.')


# The class is long because it is the whole contract: every fact that the package asks
# of a family, with the default that holds for most. Only image_tokens() has none.
class FamilyAdapter(ABC):
    """Facts about one family; the attribution method is the same for all of them.

    Attributes:
        name (str): the family's usual name
        model_types (tuple of str): ``config.model_type`` of the family's models
        processor_types (tuple of str): class names of the family's processors
        shared_processors (tuple of str): those that another family lists, for the table
            of families
        boxes_checked (str): how the places of the image tokens were verified, for the
            table of families
        largest_error (float): how far, relative to the largest value, attributions may
            be from plain autograd in tests: 1e-5, or what float32 allows
        pixel_input (str): the model input that holds the pixels
        prompt_input (str): the model input that holds the prompt's ids:
            ``decoder_input_ids`` where an encoder reads the image alone
        required_inputs (tuple of str): model inputs without which the model, or the
            places of its image tokens, would silently be wrong
        call_settings (Mapping): what the processor has to be called with, apart from
            images and text
        grid_inputs (tuple of str): model inputs with one row per image that give its
            grid; they must be the same for all examples of a batch
        flat_pixels (bool): whether the rows of ``pixel_input`` are patches or tiles
            rather than examples
        pixel_dims (int): number of dimensions of ``pixel_input``, where it is flat
        sequence_inputs (Mapping): model inputs with one entry per prompt token, besides
            ``input_ids``, and the value for a generated token; None repeats the value
            of the last token. Inputs that the processor does not return are not
            added, except for the attention mask; others with an entry per token are
            refused. Everything else the processor returns
            belongs to the image and is not passed again once the prompt is cached.
        position_offset (int or None): position of the first token. None leaves position
            ids to the model, where they are more than a running count.
        replayable (bool): whether the prompt's last token, run on a cache of the tokens
            before it, gives the same result as in a pass over the whole prompt
        prompt_is_bidirectional (bool): whether prompt tokens attend to later ones, so
            that the prompt has to be run as a whole
        inputs_on_cache (tuple of str): those of ``sequence_inputs``, besides the
            attention mask, that a pass on a cache takes too, for all tokens so far
        steps_run_on (str): what :meth:`reuse` returns, in words, for the table of
            families
        reuses_projections (bool): whether a layer that is replayed takes over the
            recorded outputs of its projections. That is fastest, but its output then no
            longer shows whether arguments with an entry per position (masks, position
            embeddings) were taken at the right positions: False where this has not been
            tested.
        cross_attention (str or None): name of the attention module inside a decoder
            layer whose keys are the image's, for models that use cross-attention
        can_be_batched (bool): whether left-padded prompts give the same results as
            single ones
        takes_several_images (bool): whether a prompt may hold several images
        only_model_counts_tokens (bool): whether the processor does not know how many
            tokens the model makes of an image
        class_token_is_last (bool): whether the vision tower puts its class token after
            the patches rather than before them
        looks_for_places (bool): whether :meth:`check` compares the layout with the
            model, however the images were prepared
        follows_resampler (bool): whether attributions of image tokens, which have no
            places themselves, are spread over the patches that these read; then
            layouts are those of the patches
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    processor_types: ClassVar[tuple[str, ...]]
    shared_processors: ClassVar[tuple[str, ...]] = ()
    boxes_checked: ClassVar[str] = "end to end"
    largest_error: ClassVar[float] = 1e-5
    pixel_input: ClassVar[str] = "pixel_values"
    prompt_input: ClassVar[str] = "input_ids"
    required_inputs: ClassVar[tuple[str, ...]] = ()
    call_settings: ClassVar[Mapping[str, Any]] = {}
    grid_inputs: ClassVar[tuple[str, ...]] = ()
    flat_pixels: ClassVar[bool] = False
    pixel_dims: ClassVar[int] = 4
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "token_type_ids": 0,
        "mm_token_type_ids": 0,
    }
    position_offset: ClassVar[int | None] = 0
    replayable: ClassVar[bool] = True
    prompt_is_bidirectional: ClassVar[bool] = False
    inputs_on_cache: ClassVar[tuple[str, ...]] = ()
    steps_run_on: ClassVar[str] = "a cache of the prompt"
    reuses_projections: ClassVar[bool] = True
    cross_attention: ClassVar[str | None] = None
    can_be_batched: ClassVar[bool] = True
    takes_several_images: ClassVar[bool] = True
    only_model_counts_tokens: ClassVar[bool] = False
    class_token_is_last: ClassVar[bool] = False
    looks_for_places: ClassVar[bool] = False
    follows_resampler: bool = False

    def matches(self, config: Any) -> bool:
        """Whether a model of this configuration belongs to the family."""
        return getattr(config, "model_type", None) in self.model_types

    def placed_by(self, places: str | None, are_given: bool = False) -> "FamilyAdapter":
        """The family with the places that the user asks for.

        Args:
            places (str or None): None, the image tokens' own; ``"resampler"``, those of
                the patches that they read
            are_given (bool, optional): whether the user knows the places.
                Default: False

        Raises:
            TypeError: The image tokens have no places.
            ValueError: They have, or there is no such choice.
        """
        if places is None:
            return self
        check_choice(places, are_given)
        raise ValueError(
            f'places="resampler" is for models whose image tokens are queries, but '
            f"those of {self.name} have places of their own. Leave it out."
        )

    @abstractmethod
    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """The number of tokens of one image, and where on it they lie.

        Args:
            image (PreparedImage): what is known about the image

        Returns:
            ImageTokens, whose views have ``image=0``, and no rectangle where the size
            of the original image or its preprocessing is not known.
        """

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """Positions of the image tokens among the keys that the answer attends to.

        Args:
            inputs (Mapping): the model's inputs; ``input_ids`` is ``(batch, tokens)``
            config (PreTrainedConfig): the model's configuration

        Returns:
            *Tensor* of **positions**, ``(batch, image tokens)``, in order.

        Raises:
            ValueError: There are no image tokens, or the examples differ in their
                number.
        """
        input_ids: Tensor = inputs["input_ids"]
        is_image: Tensor = input_ids == config.image_token_id
        counts: Tensor = is_image.sum(1)
        if bool((counts == 0).any()):
            raise ValueError(
                "The prompt has no image token (id "
                f"{config.image_token_id}) among its {input_ids.shape[1]} tokens, so "
                "there is nothing to map an answer to. Put the image placeholder into "
                "the text, or build the input with ImagePromptInput(image, prompt, "
                "processor)."
            )
        if bool((counts != counts[0]).any()):
            raise ValueError(
                "All examples of a batch must have the same number of image tokens, "
                f"got {counts.tolist()}."
            )
        return is_image.nonzero()[:, 1].view(input_ids.shape[0], -1)

    def num_image_tokens(
        self, inputs: Mapping[str, Any], processor: Any, config: Any
    ) -> int:
        """Number of image tokens of one prompt; ``config`` may be None.

        Raises:
            ValueError: ``config`` is None and :attr:`only_model_counts_tokens`.
        """
        if config is not None:
            return self.image_keys(inputs, config).shape[1]
        if self.only_model_counts_tokens:
            raise ValueError(
                f"The processor of {self.name} does not know how many tokens the model "
                "makes of an image. Pass the model too: ImagePromptInput(image, "
                "prompt, processor, model)."
            )
        return int((inputs["input_ids"] == self.image_token_id(processor)).sum())

    def image_token_id(self, processor: Any) -> int:
        """The id of an image token, where the model's configuration is not known."""
        return int(processor.image_token_id)

    def named(self, inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """The processor's output by the names that the model takes it by, with what
        ``generate`` puts in the place of a prompt that is left out."""
        return dict(inputs)

    def as_generated(self, inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """What ``generate`` makes of the inputs before it runs the model."""
        return dict(inputs)

    def num_keys_ahead(self, inputs: Mapping[str, Any], config: Any) -> int:
        """Number of positions before the prompt's, which have no ids."""
        return 0

    def num_encoder_keys(self, inputs: Mapping[str, Any], config: Any) -> int:
        """How many states of an encoder are keys of the decoder's self-attention, too.

        They come behind the decoder's own, and image keys are positions among them.
        """
        return 0

    def is_encoder_decoder(self, config: Any) -> bool:
        """Whether an encoder reads the prompt and a decoder writes the answer."""
        return bool(getattr(config, "is_encoder_decoder", False))

    def decoder_start(self, config: Any) -> int:
        """The id of the token with which a decoder starts."""
        return int(config.get_text_config(decoder=True).decoder_start_token_id)

    def with_decoder_start(
        self, inputs: Mapping[str, Any], config: Any
    ) -> dict[str, Any]:
        """An encoder-decoder model's inputs with the decoder's first token."""
        started = dict(inputs)
        if started.get("decoder_input_ids") is None:
            first = self.decoder_start(config)
            rows: Tensor = inputs[
                "input_ids" if "input_ids" in inputs else self.pixel_input
            ]
            started["decoder_input_ids"] = rows.new_full(
                (rows.shape[0], 1), first, dtype=torch.long
            )
        return started

    def cross_attention_of(self, config: Any) -> str | None:
        """``cross_attention`` for a model of this configuration."""
        return self.cross_attention

    def needs_autograd(self, config: Any) -> bool:
        """Whether the decoder's attention modules take the softmax themselves, without
        transformers' attention interface.

        Such a decoder is explained by plain autograd at the softmax, a pass per token.
        """
        return False

    def probabilities_at_softmax(self, config: Any) -> bool:
        """Whether plain autograd finds the probabilities at the softmax only, because
        the attention modules do not return them."""
        return self.needs_autograd(config)

    def inputs_required_by(self, config: Any) -> tuple[str, ...]:
        """Those of ``required_inputs`` that a model of this configuration uses."""
        return self.required_inputs

    def position_ids(self, attention_mask: Tensor) -> Tensor | None:
        """Positions of a left-padded prompt, ``(batch, tokens)``, as in generating."""
        if self.position_offset is None:
            return None
        counted = attention_mask.long().cumsum(-1) - 1
        return counted.clamp(min=0) + self.position_offset

    def reuse(self, inputs: Mapping[str, Any], config: Any) -> Reuse:
        """What decoding steps are run on: "replay", "full_pass" or "encoder"."""
        if self.is_encoder_decoder(config):
            return "encoder"
        is_replayed = self.replayable and can_be_cropped(inputs["input_ids"], config)
        return "replay" if is_replayed else "full_pass"

    def crop(self, cache: Any, num_tokens: int, config: Any) -> None:
        """Removes the last tokens from a cache."""
        if num_tokens:
            cache.crop(-num_tokens)

    def layout(
        self,
        inputs: Mapping[str, Any],
        num_tokens: int,
        *,
        image_sizes: Sequence[Size] | None,
        images: Sequence[Any] | None = None,
        processor: Any = None,
        image_processor: Any = None,
        config: Any = None,
    ) -> ImageLayout:
        """Places of one example's image tokens on its original images.

        The number of tokens of each image tells where the next one begins, not the
        text between them: two images may be adjacent, and there may be text between
        the tiles of one.

        Args:
            inputs (Mapping): the model's inputs, as the processor made them
            num_tokens (int): image tokens of the example
            image_sizes (sequence of tuple of int or None): height and width of each
                original image
            images (sequence, optional): the images that the image processor was given,
                of those sizes. Default: None
            processor (ProcessorMixin, optional): the processor that prepared the
                images. Without it the grid is known, but not its place on the image.
                Default: None
            image_processor (BaseImageProcessor, optional): the image processor with
                the settings of the call that prepared the images. Default: None, the
                processor's, with its stored settings
            config (PreTrainedConfig, optional): the model's configuration.
                Default: None

        Raises:
            ValueError: The image tokens do not fill the grids.
        """
        views: list[View] = []
        if image_processor is None:
            image_processor = with_stored_settings(processor)
        used = index = 0
        while used < num_tokens:
            size = None
            if image_sizes is not None:
                if index == len(image_sizes):
                    raise self._count_error(num_tokens, used, index, views)
                size = image_sizes[index]
            tokens = self.image_tokens(
                PreparedImage(
                    index=index,
                    inputs=inputs,
                    size=size,
                    image=None if images is None else images[index],
                    image_processor=image_processor,
                    processor=processor,
                    config=config,
                    remaining_tokens=num_tokens - used,
                    num_images=None if image_sizes is None else len(image_sizes),
                )
            )
            views += [
                replace(view, start=used + view.start, image=index)
                for view in tokens.views
            ]
            used += tokens.count
            index += 1
            if tokens.count < 1 or used > num_tokens:
                raise self._count_error(num_tokens, used, index, views)
        if image_sizes is not None and index < len(image_sizes):
            raise self._count_error(num_tokens, used, index, views)
        if index > 1 and not self.takes_several_images:
            raise ValueError(
                f"{self.name} takes one image per prompt, got the tokens of {index}."
            )
        sizes = None if image_sizes is None else tuple(image_sizes)
        layout = ImageLayout(num_tokens, tuple(views), sizes)
        placed = layout.placed
        assert bool((placed[1:] > placed[:-1]).all()), "views are not in key order"
        return layout

    def token_of_pixel_input(
        self, inputs: Mapping[str, Any], layout: ImageLayout, config: Any
    ) -> Tensor:
        """The image token that each element of the pixel input belongs to.

        The default is for pixels in which every picture ``(channels, height, width)``
        is one view, in the order of the views, cut into patches from its top left
        corner.

        Args:
            inputs (Mapping): the model's inputs for one prompt
            layout (ImageLayout): places of its image tokens
            config (PreTrainedConfig): the model's configuration

        Returns:
            int64 *Tensor* that can be broadcast to the pixels' shape: an index among
            all image tokens, -1 for pixels that no token sees.

        Raises:
            TypeError: This is not known for the family.
        """
        shape = tuple(inputs[self.pixel_input].shape)
        if len(shape) < 4 or prod(shape[:-3]) != len(layout.views):
            raise self.unknown_pixels(shape)
        picture, patch = (shape[-2], shape[-1]), self.pixel_patch(config)
        tokens = [tokens_of_picture(view, picture, patch) for view in layout.views]
        return torch.stack(tokens).view(*shape[:-3], 1, *picture)

    def pixel_patch(self, config: Any) -> Size | None:
        """Height and width of a patch of the pixel input; None where the cells of the
        grid fill the picture."""
        return patch_of(config)

    def unknown_pixels(self, shape: Sequence[int]) -> TypeError:
        """The error for pixels whose shape can't be matched with image tokens."""
        return TypeError(
            f"Which pixels of {self.pixel_input} {tuple(shape)} the image tokens stand "
            f"for is not known for {self.name}, so that attributions of pixels can't "
            "be summed. Use a method on the image tokens' boxes (FeatureAblation with "
            "an ImagePromptInput) or on layers."
        )

    def vision_order(
        self, layer: str, inputs: Mapping[str, Any], config: Any
    ) -> Tensor | None:
        """The order of the tokens in a layer of the vision tower.

        Args:
            layer (str): the layer's name in the model
            inputs (Mapping): the model's inputs for one prompt
            config (PreTrainedConfig): the model's configuration

        Returns:
            int64 *Tensor*: the indices of equally long runs of tokens, in the layer's
            order; None where that is the order of the patches.
        """
        return None

    def joined(self, inputs: dict[str, Any], examples: int) -> dict[str, Any]:
        """Inputs of several examples, joined along their first axes, for one pass.

        A family overrides this if its pixels are joined along another axis, or if some
        of its inputs are indices among the pixels of all examples.

        Args:
            inputs (dict): those of all examples, one after the other
            examples (int): how many have been joined, all of the same shape
        """
        return inputs

    def visible(self, pixels: Tensor) -> Tensor:
        """Pixels that the model does not drop, even where they are zero.

        Methods with a baseline replace the image by zeros, which some models take for
        a picture that is not there.
        """
        return pixels

    def check(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        layout: ImageLayout,
        images: list[Image.Image],
        process: Callable[[Any], Any] | None,
    ) -> None:
        """Raises if the image tokens do not lie where the layout says.

        There is nothing to do for families whose layout is covered by tests.

        Args:
            model (nn.Module): the model
            inputs (Mapping): its inputs for one prompt
            layout (ImageLayout): the layout to be checked
            images (list of PIL.Image.Image): the original images, if known
            process (Callable or None): turns an image into model inputs

        Raises:
            ValueError: The layout is wrong, or can't be checked.
        """

    def _count_error(
        self, num_tokens: int, expected: int, images: int, views: Sequence[View]
    ) -> ValueError:
        grids = ", ".join(f"{v.name} {v.grid[0]} x {v.grid[1]}" for v in views[:8])
        return ValueError(
            f"The prompt has {num_tokens} image tokens, but {images} "
            f"{'image makes' if images == 1 else 'images make'} {expected} (grid: "
            f"{grids}{', ...' if len(views) > 8 else ''}) for a model of the family "
            f"{self.name}. Prepare image and prompt together with the processor that "
            "belongs to the model, one placeholder an image."
        )

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """The family's prompt for a plain question, with image placeholders.

        Raises:
            ValueError: The processor has no chat template.
        """
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"{type(processor).__name__} has no chat template, so the prompt can't "
                "be built from a question. Write the whole prompt, with the image "
                f"placeholder {self.placeholder(processor)!r} where the image belongs."
            )
        content = [{"type": "image"} for _ in range(num_images)]
        content.append({"type": "text", "text": question})
        conversation = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(conversation, add_generation_prompt=True)
        return str(text)

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """The model's inputs for a prompt and its image, or list of images."""
        # A chat template writes the first token itself; it must not be added twice.
        first = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
        is_begun = isinstance(first, str) and text.startswith(first)
        settings = dict(self.call_settings)
        if is_begun:
            settings["add_special_tokens"] = False
        return processor(images=images, text=text, return_tensors="pt", **settings)

    def placeholder(self, processor: Any) -> str:
        """The text that stands for one image in a prompt."""
        return str(processor.image_token)

    def placed(self, name: str, grid: Size, rectangle: Rectangle | None) -> ImageTokens:
        """Image tokens that are those of a single view, the common case."""
        return ImageTokens(grid[0] * grid[1], (View(name, grid, rectangle),))
