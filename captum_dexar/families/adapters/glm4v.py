"""GLM-4V (GLM-4.1V) and GLM-4.6V."""

from typing import ClassVar

from captum_dexar.families.shared.patch_grid import MultimodalRopeAdapter


class Glm4vAdapter(MultimodalRopeAdapter):
    """One grid per image, with rows and columns as positions."""

    name: ClassVar[str] = "GLM-4V, GLM-4.6V"
    model_types: ClassVar[tuple[str, ...]] = ("glm4v", "glm46v")
    processor_types: ClassVar[tuple[str, ...]] = ("Glm4vProcessor", "Glm46VProcessor")
