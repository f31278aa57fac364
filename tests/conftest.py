"""One thread and no display, so that every run is the same everywhere."""

import gc
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import matplotlib
import pytest
import torch
import transformers
from captum_dexar.compatibility import (
    installed,
    missing_model,
    OLDEST_TORCH_OF,
    OLDEST_TRANSFORMERS_OF,
)
from tests.helpers.browser import started_browser

matplotlib.use("Agg")
torch.set_num_threads(1)
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

# Tests, by a part of their name, of what models and processors themselves do otherwise
# in versions of transformers before 5.23.
DIFFERS_IN_TRANSFORMERS = {
    "[beams-smolvlm]": "generate() fails with beams",
    "[beams-qwen3_5]": "generate() with beams has other logits than the model",
    "test_the_soft_cap_of_the_logits_is_applied": "PaliGemma 2 does not apply it",
    "test_gemma4_breaks_under_an_attention_of_another_name": "it does not break",
}


def pytest_configure(config: pytest.Config) -> None:
    """Tests come in another order each time, by pytest-randomly, where it is installed.
    They draw from generators of their own, and some look whether the global ones are
    left alone: those are not seeded before each test.
    """
    config.option.randomly_reset_seed = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what the installed versions do not have, or do otherwise."""
    reasons = {
        kind: missing_model(kind)
        for kind in (*OLDEST_TRANSFORMERS_OF, *OLDEST_TORCH_OF)
    }
    if (installed("transformers") or (5, 23)) < (5, 23):
        for part, difference in DIFFERS_IN_TRANSFORMERS.items():
            reasons[part] = f"transformers {transformers.__version__}: {difference}"
    if (installed("torch") or (2, 7)) < (2, 7):
        part = "test_half_precision_is_no_worse_than_autograd_in_it"
        reasons[part] = f"torch {torch.__version__} sums half precision less precisely"
    for item in items:
        name = item.nodeid.rpartition("/")[2]
        for part, reason in reasons.items():
            if reason and part in name:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """What has been imported stays: the garbage collector need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that need it are skipped where there is none."""
    with started_browser() as started:
        yield started


@pytest.fixture(autouse=True)
def _no_figure_of_another_test() -> Iterator[None]:
    """Captum and matplotlib leave figures open; tests of ours look that none is."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
