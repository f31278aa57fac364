"""What a family of vision-language models has to state about itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.layout import ImageLayout
from torch import Tensor


class FamilyAdapter(ABC):
    """Facts of one family; the method itself is the same for all.

    Attributes:
        model_types (tuple of str): ``config.model_type`` of the family's models
        processor_types (tuple of str): class names of the family's processors
        sequence_inputs (Mapping): model inputs with one entry a token of the prompt,
            besides ``input_ids``, and the value that a generated token has there.
            Whatever else the processor returns belongs to the image and is not passed
            again once the prompt is cached.
    """

    model_types: ClassVar[tuple[str, ...]]
    processor_types: ClassVar[tuple[str, ...]]
    sequence_inputs: ClassVar[Mapping[str, int]] = {"attention_mask": 1}

    def image_keys(self, input_ids: Tensor, config: Any) -> Tensor:
        """Positions of the image tokens in the prompt.

        Args:
            input_ids (Tensor): ``(batch, tokens)``
            config (PreTrainedConfig): the model's configuration

        Returns:
            *Tensor* of **positions**, ``(batch, image tokens)``, in order.

        Raises:
            ValueError: there is no image token, or the examples differ in their number.
        """
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

    def position_ids(self, attention_mask: Tensor) -> Tensor:
        """Positions of a left-padded prompt, ``(batch, tokens)``, as in generating."""
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)

    def is_replayable(self, input_ids: Tensor, config: Any) -> bool:
        """Whether the prompt's last token can be run again on a cache of the others."""
        return not bool((input_ids[:, -1] == config.image_token_id).any())

    @abstractmethod
    def layout(
        self,
        inputs: Mapping[str, Any],
        num_tokens: int,
        *,
        image_size: tuple[int, int] | None,
        processor: Any = None,
        config: Any = None,
    ) -> ImageLayout:
        """Places of one example's image tokens on its original image.

        Args:
            inputs (Mapping): the model's inputs, as the processor made them
            num_tokens (int): image tokens of the example
            image_size (tuple of int or None): height and width of the original image
            processor (ProcessorMixin, optional): the processor that prepared the
                image. Without it the grid is known, but not its place on the image.
            config (PreTrainedConfig, optional): the model's configuration

        Raises:
            ValueError: the image tokens do not fill the grid.
        """

    def prompt(self, question: str, processor: Any) -> str:
        """The model's own prompt around a plain question, image placeholder included.

        Raises:
            ValueError: the processor has no chat template.
        """
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"{type(processor).__name__} has no chat template, so the prompt can't "
                "be built from a question. Write the whole prompt, with the image "
                f"placeholder {processor.image_token!r} where the image belongs."
            )
        content = [{"type": "image"}, {"type": "text", "text": question}]
        conversation = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(conversation, add_generation_prompt=True)
        return str(text)
