"""``python -m captum_dexar`` is the command ``captum-dexar``."""

import sys

from captum_dexar.cli import main

sys.exit(main())
