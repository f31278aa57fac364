"""``python -m captum_dexar`` runs the command ``captum-dexar``."""

import sys


def main() -> int:
    """Runs the command; returns its exit code."""
    try:
        from captum_dexar.cli import main as run
    except KeyboardInterrupt:
        print("captum-dexar: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
