"""Chameleon never generates image tokens."""

from typing import Any

import pytest
import torch
from captum_dexar import LayerDexAR, VLMAttribution
from captum_dexar.model.decoder import find_decoder
from captum_dexar.model.logit_lens import LogitLens
from captum_dexar.model.target_logits import TargetLogits
from tests.families.cases.early_fusion import (
    build_chameleon,
    chameleon_inputs,
    NUM_CODES,
)
from tests.helpers.tiny_models import VOCABULARY


@pytest.mark.parametrize("engine", ["closed_form", "autograd"])
def test_a_word_that_is_never_said_is_refused(engine: str) -> None:
    method = VLMAttribution(
        LayerDexAR(build_chameleon(False, 0, "sdpa"), engine=engine)
    )
    word = VOCABULARY - NUM_CODES
    with pytest.raises(ValueError, match=rf"never generates.*\[{word}\]"):
        method.attribute(chameleon_inputs(0, 3), [20, word])
    assert method.attribute(chameleon_inputs(0, 3), [20, word - 1]).token_attr.any()


def test_the_lowest_logits_do_not_make_the_check_blind() -> None:
    """They are 1e38; a tolerance relative to them would let anything pass."""
    model: Any = build_chameleon(False, 0, "sdpa")
    decoder = find_decoder(model)
    assert decoder.final_norm is model.model.norm
    with torch.no_grad():
        logits = model(**chameleon_inputs(0, 3)).logits
    hidden = torch.randn(*logits.shape[:2], 48)
    targets = logits.argmax(-1)
    with pytest.raises(RuntimeError, match="does not reproduce"):
        LogitLens(decoder, targets).check(hidden, TargetLogits.of(logits, targets))
