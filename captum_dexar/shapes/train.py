"""Trains a model on the drawn shapes: ``python -m captum_dexar.shapes.train``."""

from captum_dexar.shapes.world import WORLD
from captum_dexar.training.run import main

if __name__ == "__main__":
    main(WORLD)
