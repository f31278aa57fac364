"""``python -m captum_dexar`` runs the command ``captum-dexar``."""

import sys

from captum_dexar.cli import main

sys.exit(main())
