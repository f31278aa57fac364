"""Trains a model on letters and digits: ``python -m captum_dexar.letters.train``."""

from captum_dexar.letters.world import WORLD
from captum_dexar.training.run import main

if __name__ == "__main__":
    main(WORLD)
