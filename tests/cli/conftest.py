"""A saved model and an image, as the command line is given them."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers.processors import llava_processor
from tests.helpers.tiny_models import tiny_vlm


@pytest.fixture(name="folder", scope="session")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model and its processor."""
    folder = tmp_path_factory.mktemp("model")
    model: Any = tiny_vlm()
    model.save_pretrained(folder)
    llava_processor().save_pretrained(folder)
    return folder


@pytest.fixture(name="image")
def _image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.radial_gradient("L").resize((60, 40)).save(path)
    return path
