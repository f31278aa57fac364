"""The picture of scenes in the world's README."""

from pathlib import Path

import numpy as np
from captum_dexar.letters import make_scene
from captum_dexar.letters.gallery import gallery, main
from PIL import Image


def test_every_scene_has_its_caption() -> None:
    figure = gallery(range(5))
    for seed, axes in enumerate(figure.axes):
        scene = make_scene(seed)
        (shown,) = axes.images
        assert np.array_equal(np.asarray(shown.get_array()), np.asarray(scene.image))
        (text,) = axes.texts
        assert text.get_text().split() == scene.caption.split()


def test_the_command_writes_a_picture(tmp_path: Path) -> None:
    main(["--scenes", "3", "--out", str(tmp_path / "scenes.png")])
    with Image.open(tmp_path / "scenes.png") as image:
        assert image.width > 800
