"""An image and a prompt as one Captum input."""

from collections.abc import Mapping, Sequence
from typing import Any

from captum_dexar.families import (
    adapter_for_config,
    adapter_for_processor,
    FamilyAdapter,
    given_layout,
)
from captum_dexar.inputs.given_processor import check_processor
from captum_dexar.inputs.image_axes import check_axes
from captum_dexar.inputs.messages import Conversation
from captum_dexar.inputs.pictures import Picture, picture_of
from captum_dexar.inputs.places import derived_places, DerivedPlaces
from captum_dexar.inputs.processor_pixels import rgb_as_processed
from captum_dexar.inputs.processor_watch import watched_image_processors
from captum_dexar.inputs.question import asked_texts, positions_of_texts
from captum_dexar.maps.image_tokens import ImageTokenInput, one_or_all
from captum_dexar.model.state import device_of
from torch import nn, Tensor


class ImagePromptInput(ImageTokenInput):
    r"""An image and a question, ready for :class:`VLMAttribution`.

    A Captum ``ImageMaskInput`` whose interpretable features are the image tokens. Each
    feature is a box of the original image. It also works with Captum's own
    ``LLMAttribution``, whose result then has the same columns. Call its ``attribute``
    with ``use_cached_outputs=False``: with captum 0.9 and transformers 5.23 its cached
    forward pass does not see the perturbed pixels.

    Args:
        image (PIL.Image.Image, numpy.ndarray, Tensor, str, os.PathLike, list or None):
            the image, or a list of several in the order of their placeholders; None if
            the images are inside chat messages. A PIL image of any mode; an array or
            tensor, ``(H, W)``, ``(H, W, channels)`` or ``(channels, H, W)``, uint8 or
            floating point between 0 and 1; or the path of a file, which is opened with
            Pillow. It is rotated according to its EXIF tag, and converted to RGB as the
            processor converts it, so that transparent pixels, for example, get the
            processor's background. Levels of more than 8 bits are scaled. The originals
            are not changed.
        prompt (str or list of dict): a plain question, which is wrapped in the model's
            chat template (or the family's raw prompt); a complete prompt with one image
            placeholder per image, which is used unchanged; or chat messages, as
            ``processor.apply_chat_template`` takes them. The parts
            ``{"type": "image"}`` of messages may hold their images; those that don't
            take the images of ``image`` in order. If the last message is the
            assistant's, the answer goes on from it.
        processor (ProcessorMixin): the model's processor
        model (nn.Module, optional): if given, inputs are created on its device, and its
            configuration takes precedence over the processor's. Default: None
        grid (tuple of int, optional): rows and columns of the image tokens over the
            whole image, for an unsupported family. Default: None, the family's grid
        boxes (Tensor, optional): each image token's box, ``(N, 4)`` as y0, x0, y1, x1
            in pixels of the original image, for an unsupported family.
            Default: None, the family's boxes
        places (str, optional): ``"resampler"`` for models whose image tokens are
            queries, each of which reads the whole image (BLIP-2, Idefics2 ...):
            attributions of a query are spread over the patches in proportion to its
            attention, followed through the layers of the resampler, which is an
            approximation. Needs ``model``. Default: None, the image tokens' own places,
            without which such a model is refused

    Attributes:
        layout (ImageLayout): the image tokens' grid and boxes
        prompt (str): the whole prompt, image placeholders included
        texts (tuple of str or None): what of it is not the template's: the question,
            or the texts of the user's and the assistant's messages; None if a complete
            prompt was given
        question (str): these texts as one, for readers; a complete prompt as it is
        tokenizer (Any): the processor's tokenizer

    Raises:
        TypeError: an image or the prompt has another type, or the processor belongs to
            no supported family, or to one whose image tokens have no places.
        ValueError: an image is empty, an address, or its levels or axes can have two
            meanings (for some processors, those of an image that is 3 pixels high); the
            number of placeholders is not the number of images; the chat template is
            missing or does not take the messages; the image tokens do not fill the
            grid, or the number of boxes is not the number of image tokens.
        FileNotFoundError: there is no such file.

    Examples::

        >>> from captum_dexar import ImagePromptInput
        >>> from captum_dexar.shapes import load_vlm, make_scene
        >>> model, processor = load_vlm()
        >>> inp = ImagePromptInput(make_scene(0).image, "Describe it.", processor)
        >>> inp.prompt
        'USER: <image>\nDescribe it. ASSISTANT:'
        >>> inp.n_itp_features
        144

        A conversation, with the beginning of the answer:

        >>> question = [{"type": "image"}, {"type": "text", "text": "Describe it."}]
        >>> messages = [
        ...     {"role": "user", "content": question},
        ...     {"role": "assistant", "content": "the image shows"},
        ... ]
        >>> ImagePromptInput(make_scene(0).image, messages, processor).prompt
        'USER: <image>\nDescribe it. ASSISTANT: the image shows'
    """

    def __init__(
        self,
        image: Picture | Sequence[Picture] | None,
        prompt: str | Sequence[Mapping[str, Any]],
        processor: Any,
        model: nn.Module | None = None,
        *,
        grid: tuple[int, int] | None = None,
        boxes: Tensor | None = None,
        places: str | None = None,
    ) -> None:
        config: Any = None if model is None else getattr(model, "config", None)
        if model is None:
            adapter = adapter_for_processor(processor)
        else:
            adapter = adapter_for_config(config)
            check_processor(processor)
        are_given = grid is not None or boxes is not None
        adapter = adapter.placed_by(places, are_given)
        given = _listed(image)
        asked = prompt if isinstance(prompt, str) else Conversation.of(prompt)
        if isinstance(asked, Conversation):
            given = asked.all_images(given)
        if not given:
            raise ValueError(
                "There is no image: image is None or an empty list, and the prompt "
                "holds none."
            )
        pictures = [picture_of(one) for one in given]
        text = _whole_prompt(asked, processor, adapter, len(pictures))

        make_inputs = _Processing(adapter, text, processor, model)
        images = rgb_as_processed(
            pictures,
            lambda some: make_inputs(one_or_all(some)),
            getattr(processor, "image_processor", None),
        )
        with watched_image_processors() as calls:
            model_inputs = make_inputs(one_or_all(images))
        check_axes(images, calls)
        num_tokens = adapter.num_image_tokens(model_inputs, processor, config)
        sizes = [(one.height, one.width) for one in images]
        if not are_given:
            found = derived_places(
                adapter,
                model_inputs,
                num_tokens,
                images,
                calls,
                processor=processor,
                config=config,
            )
        else:
            layout = given_layout(num_tokens, sizes, grid=grid, boxes=boxes)
            found = DerivedPlaces(layout, are_certain=True)
        super().__init__(images, found.layout, make_inputs, model_inputs=model_inputs)
        self.prompt = text
        self.texts = asked_texts(asked, adapter.placeholder(processor))
        self.question = text if self.texts is None else "\n".join(self.texts)
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.places = found
        self.places_are_given = are_given
        self.asked_places = places

    def asked_positions(self, ids: Sequence[int], after: int = 0) -> list[int] | None:
        """Which tokens of the prompt are the user's words and not the template's.

        Args:
            ids (sequence of int): the prompt's text tokens, without image tokens
            after (int, optional): number of text tokens before the last image, where
                words are looked for last. Default: 0

        Returns:
            list of int, positions in ``ids``; None if that is not known.
        """
        if self.texts is None:
            return None
        return positions_of_texts(ids, self.texts, self.tokenizer, after)


class _Processing:
    """Makes model inputs of images, for one prompt.

    Copies for other processes know the device that the inputs belong on, rather than
    the model.
    """

    def __init__(
        self, adapter: FamilyAdapter, text: str, processor: Any, model: nn.Module | None
    ) -> None:
        self.adapter = adapter
        self.text = text
        self.processor = processor
        self.model = model
        self.device: Any = None

    def __call__(self, images: Any) -> Any:
        made = self.adapter.process(images, self.text, self.processor)
        device = self.device if self.model is None else device_of(self.model)
        return made if device is None else made.to(device)

    def __getstate__(self) -> dict[str, Any]:
        device = self.device if self.model is None else device_of(self.model)
        return {**vars(self), "model": None, "device": device}


def _listed(image: Any) -> list[Any]:
    if image is None:
        return []
    return list(image) if isinstance(image, (list, tuple)) else [image]


def _whole_prompt(
    prompt: str | Conversation, processor: Any, adapter: FamilyAdapter, num_images: int
) -> str:
    """The prompt with its image placeholders, one per image."""
    placeholder = adapter.placeholder(processor)
    if isinstance(prompt, Conversation):
        text = prompt.prompt(processor)
        count = text.count(placeholder) if placeholder else num_images
        if count != num_images:
            raise ValueError(
                f"The prompt that the chat template writes holds the image placeholder "
                f"{placeholder!r} {count} times, but the number of images is "
                f"{num_images}. Write a part {{'type': 'image'}} for each image, where "
                "it belongs."
            )
        return text
    count = prompt.count(placeholder) if placeholder else 0
    if count == 0:
        return adapter.prompt(prompt, processor, num_images)
    if count != num_images:
        raise ValueError(
            f"The prompt holds the image placeholder {placeholder!r} {count} times, "
            f"but the number of images is {num_images}. Write it once per image; the "
            "processor repeats it as needed."
        )
    return prompt
