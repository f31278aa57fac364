"""One thread and no display, so that every run is the same everywhere."""

import matplotlib
import pytest
import torch
import transformers
from captum_dexar.compatibility import missing_model, OLDEST_TRANSFORMERS_OF

matplotlib.use("Agg")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what the installed version of transformers lacks."""
    reasons = {kind: missing_model(kind) for kind in OLDEST_TRANSFORMERS_OF}
    if reasons["fuyu"]:
        version = transformers.__version__
        reasons["beams-smolvlm"] = f"generate() of transformers {version} fails on it"
    for item in items:
        name = item.nodeid.rpartition("/")[2]
        for kind, reason in reasons.items():
            if reason and kind in name:
                item.add_marker(pytest.mark.skip(reason=reason))
