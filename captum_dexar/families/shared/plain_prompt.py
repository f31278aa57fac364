"""Families whose prompts need no chat template."""

from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter


class PlainPromptAdapter(FamilyAdapter):
    """A prompt is the images' placeholders, then the question.

    If the processor has a chat template, that is used instead.
    """

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """See :meth:`FamilyAdapter.prompt`."""
        if getattr(processor, "chat_template", None) is not None:
            return super().prompt(question, processor, num_images)
        return self.placeholder(processor) * num_images + question


class SingleImageAdapter(FamilyAdapter):
    """A prompt is the question: the processor adds the placeholder of its one image."""

    takes_several_images: ClassVar[bool] = False

    def placeholder(self, processor: Any) -> str:
        """See :meth:`FamilyAdapter.placeholder`; prompts have none."""
        return ""

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """See :meth:`FamilyAdapter.prompt`."""
        if num_images != 1:
            raise ValueError(
                f"{self.name} takes one image per prompt, got {num_images}."
            )
        return question
