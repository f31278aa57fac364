"""PP-FormulaNet, whose decoder writes the formula that an encoder has seen."""

from collections.abc import Mapping
from typing import Any, ClassVar

from captum_dexar.families.base import ImageTokens, PreparedImage
from captum_dexar.families.geometry.thumbnail import thumbnail_canvas
from captum_dexar.families.prompt_reuse import Reuse
from captum_dexar.families.shared.image_encoder import ImageEncoderAdapter
from captum_dexar.maps.layout import Size


class PPFormulaNetAdapter(ImageEncoderAdapter):
    """A square grid over a formula that is cut out, fitted and padded.

    Two convolutions of 3 x 3 patches and stride 2 make a token; its box is its cell of
    4 x 4 patches, as GOT-OCR 2's.
    """

    name: ClassVar[str] = "PP-FormulaNet"
    model_types: ClassVar[tuple[str, ...]] = ("pp_formulanet",)
    processor_types: ClassVar[tuple[str, ...]] = ("PPFormulaNetProcessor",)
    boxes_checked: ClassVar[str] = (
        "end to end with the encoder's blocks silenced, where torchvision is "
        "installed; convolutions also see three quarters of a box more above and to "
        "the left"
    )
    steps_run_on: ClassVar[str] = "one full pass"

    def reuse(self, inputs: Mapping[str, Any], config: Any) -> Reuse:
        """See :meth:`FamilyAdapter.reuse`; the decoder reads what is pooled from the
        encoder's states, which are not kept."""
        return "full_pass"

    def num_states(self, inputs: Mapping[str, Any], config: Any) -> int:
        """See :meth:`ImageEncoderAdapter.num_states`."""
        rows, columns = _grid(config)
        return rows * columns

    def image_tokens(self, image: PreparedImage) -> ImageTokens:
        """See :meth:`FamilyAdapter.image_tokens`."""
        rectangle = None
        if image.size is not None and image.image_processor is not None:
            rectangle = thumbnail_canvas(image.image_processor, image.size, image.image)
        return self.placed("full", _grid(image.config), rectangle)


def _grid(config: Any) -> Size:
    vision = config.vision_config
    side = int(vision.image_size) // int(vision.patch_size)
    for _ in range(2):
        side = (side + 1) // 2
    return side, side
