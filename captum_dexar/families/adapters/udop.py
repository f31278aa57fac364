"""UDOP, whose encoder reads a page as words with boxes and as patches."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.grids import side_of
from captum_dexar.families.prompt_reuse import Reuse
from captum_dexar.families.shared.plain_prompt import SingleImageAdapter
from torch import Tensor


class UdopAdapter(SingleImageAdapter):
    """One grid of patches over the stretched page, behind the words.

    A patch at which a word's box has its centre has no token of its own: the model adds
    it to the word's token. That counts as text, because most of what it says is the
    word, and the map is zero there. With boxes in thousandths, as the processor writes
    them, the model takes the last patch for that of every word.

    The place that such a patch would have had among the tokens is padding at their end,
    so that there are always as many as patches.
    """

    name: ClassVar[str] = "UDOP"
    model_types: ClassVar[tuple[str, ...]] = ("udop",)
    processor_types: ClassVar[tuple[str, ...]] = ("UdopProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end; a word's token, to which the patch below it is added, is text"
    )
    required_inputs: ClassVar[tuple[str, ...]] = ("bbox",)
    sequence_inputs: ClassVar[Mapping[str, int | None]] = {
        "attention_mask": 1,
        "bbox": 0,
    }
    steps_run_on: ClassVar[str] = "a pass over prompt and answer"
    # Padding has a box, too, and takes the first patch.
    can_be_batched: ClassVar[bool] = False
    only_model_counts_tokens: ClassVar[bool] = True
    cross_attention: ClassVar[str | None] = "layer.1.EncDecAttention"

    def probabilities_at_softmax(self, config: Any) -> bool:
        """See :meth:`FamilyAdapter.probabilities_at_softmax`; attention modules return
        their position bias in the place of the probabilities."""
        return True

    def decoder_start(self, config: Any) -> int:
        """See :meth:`FamilyAdapter.decoder_start`."""
        return int(config.pad_token_id)

    def reuse(self, inputs: Mapping[str, Any], config: Any) -> Reuse:
        """See :meth:`FamilyAdapter.reuse`; the encoder's output is not complete without
        the mask that it makes."""
        return "full_pass"

    def image_keys(self, inputs: Mapping[str, Any], config: Any) -> Tensor:
        """See :meth:`FamilyAdapter.image_keys`; in the order of the patches."""
        side = config.image_size // config.patch_size
        is_taken = _taken_patches(inputs["bbox"], side)
        # Those with a token of their own come first, then padding.
        order = is_taken.long().argsort(dim=1, stable=True)
        num_words = int(inputs["input_ids"].shape[1])
        return num_words + order.argsort(dim=1)

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        side = side_of(image.remaining_tokens)
        return self.placed("full", (side, side), image.whole())

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`; without OCR a page has no words, and those
        of the question lie nowhere."""
        if processor.image_processor.apply_ocr:
            return processor(images=images, text=text, return_tensors="pt")
        words = text.split()
        boxes = [processor.tokenizer.pad_token_box] * len(words)
        return processor(images=images, text=words, boxes=boxes, return_tensors="pt")


def _taken_patches(boxes: Tensor, side: int) -> Tensor:
    """The patches without a token of their own, ``(batch, patches)``, bool.

    Every token takes one, those whose box means nothing as well.
    """
    taken = torch.zeros(len(boxes), side**2, dtype=torch.bool, device=boxes.device)
    centres = [
        torch.floor((boxes[:, :, axis] + boxes[:, :, axis + 2]) / 2.0 * side)
        for axis in (0, 1)
    ]
    columns, rows = (cells.long().clamp(0, side - 1) for cells in centres)
    return taken.scatter(1, rows * side + columns, True)
