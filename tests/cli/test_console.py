"""What the command line prints besides its own texts."""

import warnings

from captum_dexar.cli import console


def test_warnings_of_the_package_are_visible_lines() -> None:
    usual = warnings.formatwarning
    with console.printing():
        ours = warnings.formatwarning(
            UserWarning("Sample \x1b[31m is skipped"), UserWarning, console.__file__, 3
        )
        theirs = warnings.formatwarning(UserWarning("x"), UserWarning, __file__, 3)
    assert ours == "\nSample \\x1b[31m is skipped\n"
    assert theirs == usual(UserWarning("x"), UserWarning, __file__, 3)
    assert warnings.formatwarning is usual
