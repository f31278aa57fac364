"""Settings that several test modules share."""

from functools import lru_cache

import torch
from tests.families.cases import CASES
from tests.right_or_refused.setting import Setting
from tests.right_or_refused.wrappers import PLAIN, WRAPPERS


@lru_cache(maxsize=6)
def setting_of(
    family: str, wrapper: str = PLAIN.name, dtype: torch.dtype = torch.float32
) -> Setting:
    """A family's tiny model under a wrapper, both by their names."""
    (case,) = [case for case in CASES if case.name == family]
    (change,) = [change for change in (PLAIN, *WRAPPERS) if change.name == wrapper]
    return Setting(case, change, dtype)
