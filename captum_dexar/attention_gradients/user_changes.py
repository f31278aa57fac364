"""Whether a user has changed a part of a model."""

from captum_dexar.attention_gradients.interception import is_unpatched
from captum_dexar.model.changes import (
    is_of_user,
    is_offloading,
    named_tree,
    users_hook,
)
from torch import nn


def users_change(root: nn.Module) -> str | None:
    """What a user has changed in a module or inside it, in words, or None.

    Neither what this package has replaced for the moment counts, nor offloading.
    """
    for name, module in named_tree(root):
        hook = users_hook(module)
        if hook is not None:
            return f"a {hook} on {name}"
        if not is_unpatched(module) and not is_offloading(module):
            return f"another forward method on {name}"
        if is_of_user(module):
            return f"{name}, a {type(module).__module__}.{type(module).__qualname__}"
    return None
