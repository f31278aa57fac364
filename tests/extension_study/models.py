"""The models of the study: seeds of recipes, none left out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StudiedModel:
    """A model that the study trains.

    Attributes:
        name (str): its name in tables
        world (str): the drawn world
        recipe (str): how it is trained, see ``captum_dexar/training/README.md``
        seed (int): of its training
    """

    name: str
    world: str
    recipe: str
    seed: int

    @property
    def command(self) -> str:
        """What trains it, but for ``--out``."""
        return (
            f"python -m captum_dexar.{self.world}.train --recipe {self.recipe} "
            f"--seed {self.seed}"
        )

    @property
    def saw_masks(self) -> bool:
        """Whether it was trained with the masks of objects."""
        return self.recipe != "words"


MODELS = {
    one.name: one
    for one in (
        *(StudiedModel(f"words-{seed}", "shapes", "words", seed) for seed in range(3)),
        *(
            StudiedModel(f"patches-{seed}", "shapes", "patches-fast", seed)
            for seed in range(3)
        ),
        *(
            StudiedModel(f"letters-{seed}", "letters", "words", seed)
            for seed in range(2)
        ),
    )
}
