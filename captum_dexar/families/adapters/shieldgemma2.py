"""ShieldGemma 2, whose classifier is a Gemma 3 that answers yes or no."""

from typing import Any, ClassVar

from captum_dexar.families.adapters.gemma3 import Gemma3Adapter


class ShieldGemma2Adapter(Gemma3Adapter):
    """As Gemma 3, without crops; the question is a policy."""

    name: ClassVar[str] = "ShieldGemma 2"
    model_types: ClassVar[tuple[str, ...]] = ("shieldgemma2",)
    processor_types: ClassVar[tuple[str, ...]] = ("ShieldGemma2Processor",)

    def process(self, images: Any, text: str, processor: Any) -> Any:
        """See :meth:`FamilyAdapter.process`.

        The processor's own call puts one prompt per stored policy in place of the
        text; that of its base class takes the text.
        """
        bases = type(processor).__mro__
        own = [base.__name__ for base in bases].index("ShieldGemma2Processor")
        call: Any = bases[own + 1].__call__
        made = call(processor, images=images, text=[text], return_tensors="pt")
        if "mm_token_type_ids" in made:
            made["token_type_ids"] = made.pop("mm_token_type_ids")
        return made
