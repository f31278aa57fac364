"""Every image-text-to-text model of the installed transformers is listed or refused."""

from captum_dexar.compatibility import missing_model
from captum_dexar.families import known_families
from captum_dexar.families.refused import REFUSALS
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as EVERY_TYPE,
)

LISTED = {kind for adapter in known_families() for kind in adapter.model_types}
REFUSED = {kind for refusal in REFUSALS for kind in refusal.model_types}
# Models of these types are refused under a condition only.
IN_PART = {kind for one in REFUSALS if one.only for kind in one.model_types}


def test_no_type_is_forgotten() -> None:
    forgotten = sorted(EVERY_TYPE.keys() - LISTED - (REFUSED - IN_PART))
    assert not forgotten, (
        "AutoModelForImageTextToText loads models of these types, which no adapter "
        f"lists and which are not refused: {', '.join(forgotten)}."
    )


def test_a_type_is_either_listed_or_refused() -> None:
    assert LISTED & REFUSED <= IN_PART


def test_every_type_exists() -> None:
    """An older transformers lacks those that it is said to lack, and no other."""
    there = {kind for kind in LISTED | REFUSED if missing_model(kind) is None}
    assert there <= set(CONFIG_MAPPING)
