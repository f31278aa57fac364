"""Accuracy of a model's answers: ``python -m captum_dexar.letters.accuracy``."""

from captum_dexar.letters.world import WORLD
from captum_dexar.worlds.accuracy import main

if __name__ == "__main__":
    main(WORLD)
