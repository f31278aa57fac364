"""Whether a user has changed a part of a model."""

from captum_dexar.attention_gradients.interception import is_unpatched
from captum_dexar.model import changes
from torch import nn


def users_change(root: nn.Module, with_hooks: bool = True) -> str | None:
    """What a user has changed in a module or inside it, in words, or None.

    What this package has replaced for the moment does not count.
    """
    return changes.users_change(root, is_unpatched, with_hooks)
