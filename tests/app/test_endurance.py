"""The harness of endurance: its users do all that they can, and faults are seen."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from captum_dexar.app.server import application
from captum_dexar.shapes import load_vlm
from tests.app.endurance.expected import Asked, check_result, known_questions
from tests.app.endurance.journal import Journal
from tests.app.endurance.pictures import bad_files, File, pictures
from tests.app.endurance.server_process import Sample
from tests.app.page_visitor import served
from tests.app.test_uploads import file_of

pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")
pytest.importorskip("psutil", reason="psutil is not installed")
from tests.app.endurance.__main__ import problems, table  # noqa: E402
from tests.app.endurance.run import run, thirds  # noqa: E402
from tests.app.endurance.users import downloads, Gone, User, World  # noqa: E402
