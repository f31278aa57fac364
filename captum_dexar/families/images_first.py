"""Families whose plain prompt is the images' placeholders, then the question."""

from typing import Any, ClassVar

from captum_dexar.families.base import FamilyAdapter


class ImagesFirstAdapter(FamilyAdapter):
    """Needs no chat template; one that the processor has is used."""

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """See :meth:`FamilyAdapter.prompt`."""
        if getattr(processor, "chat_template", None) is not None:
            return super().prompt(question, processor, num_images)
        return self.placeholder(processor) * num_images + question


class OneImageFirstAdapter(FamilyAdapter):
    """The processor itself writes the placeholder of the one image."""

    takes_several_images: ClassVar[bool] = False

    def placeholder(self, processor: Any) -> str:
        """See :meth:`FamilyAdapter.placeholder`; a prompt holds none."""
        return ""

    def prompt(self, question: str, processor: Any, num_images: int = 1) -> str:
        """See :meth:`FamilyAdapter.prompt`."""
        if num_images != 1:
            raise ValueError(f"{self.name} takes one image a prompt, got {num_images}.")
        return question
