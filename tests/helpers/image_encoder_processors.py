"""Real processors of models whose encoder reads the image alone."""

import shutil
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from tests.families.cases.image_encoders import DONUT_SIZE, FORMULA_SIDE, PATCH
from tests.helpers.plain_prompt_processors import tokenizer_of
from transformers import DonutProcessor, Pix2StructProcessor, TrOCRProcessor
from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil
from transformers.models.nougat.image_processing_pil_nougat import (
    NougatImageProcessorPil,
)
from transformers.models.nougat.processing_nougat import NougatProcessor
from transformers.models.pix2struct.image_processing_pil_pix2struct import (
    Pix2StructImageProcessorPil,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
REVISION = 40 * "0"


def pix2struct_processor(**settings: Any) -> Pix2StructProcessor:
    """At most 30 patches. Normalising would let every patch change with any other."""
    if not hasattr(Pix2StructProcessor, "images_kwargs"):
        pytest.skip("before transformers 5.23 its number of patches is fixed")
    made = Pix2StructProcessor(
        Pix2StructImageProcessorPil(
            patch_size={"height": PATCH, "width": PATCH}, do_normalize=False, **settings
        ),
        tokenizer_of("<image>"),
    )
    made.images_kwargs = {"max_patches": 30}
    return made


def font_in_cache(folder: Path) -> None:
    """A cache of the hub with a font by the name of that which Pix2Struct loads."""
    repository = folder / "models--ybelkada--fonts"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    shutil.copy(FONT, snapshot / "Arial.TTF")


def trocr_processor(**settings: Any) -> TrOCRProcessor:
    """16 x 16 pixels."""
    size = {"height": 16, "width": 16}
    return TrOCRProcessor(
        ViTImageProcessorPil(**{"size": size, **settings}), tokenizer_of("<image>")
    )


def donut_processor(**settings: Any) -> DonutProcessor:
    return DonutProcessor(
        DonutImageProcessorPil(**{"size": canvas(DONUT_SIZE), **settings}),
        tokenizer_of("<image>"),
    )


def nougat_processor(**settings: Any) -> NougatProcessor:
    return NougatProcessor(
        NougatImageProcessorPil(**{"size": canvas(DONUT_SIZE), **settings}),
        tokenizer_of("<image>"),
    )


def pp_formulanet_processor(**settings: Any) -> Any:
    """Needs torchvision."""
    from transformers import PPFormulaNetProcessor
    from transformers.models.pp_formulanet.image_processing_pp_formulanet import (
        PPFormulaNetImageProcessor,
    )

    size = canvas((FORMULA_SIDE, FORMULA_SIDE))
    return PPFormulaNetProcessor(
        PPFormulaNetImageProcessor(**{"size": size, **settings}),
        tokenizer_of("<image>"),
    )


def canvas(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
