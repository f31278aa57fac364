"""GLM-4V (GLM-4.1V, GLM-4.5V), GLM-4.6V, GLM-OCR and GLM-GA."""

from typing import ClassVar

from captum_dexar.families.shared.patch_grid import MultimodalRopeAdapter


class Glm4vAdapter(MultimodalRopeAdapter):
    """One grid per image, with rows and columns as positions."""

    name: ClassVar[str] = "GLM-4V, GLM-4.6V, GLM-OCR, GLM-GA"
    model_types: ClassVar[tuple[str, ...]] = (
        "glm4v",
        "glm4v_moe",
        "glm46v",
        "glm_ocr",
        "glmga",
    )
    processor_types: ClassVar[tuple[str, ...]] = ("Glm4vProcessor", "Glm46VProcessor")
