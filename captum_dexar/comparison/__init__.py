"""Compares several methods on the same answer.

Only the table of names is imported eagerly, because the command line reads it.
"""

from typing import Any, TYPE_CHECKING

from captum_dexar.comparison.methods import METHODS, named_methods, NamedMethod

if TYPE_CHECKING:
    from captum_dexar.comparison.comparison import compare, Comparison

__all__ = ["Comparison", "METHODS", "NamedMethod", "compare", "named_methods"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """``compare`` and ``Comparison``, imported when first used (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from captum_dexar.comparison import comparison

        return getattr(comparison, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
