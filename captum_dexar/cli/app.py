"""``captum-dexar app``: a page to ask, and to see where each word comes from."""

from __future__ import annotations

import argparse
import warnings
from importlib.util import find_spec
from typing import Any, TYPE_CHECKING

from captum_dexar.cli.loading import loaded_model
from captum_dexar.cli.options import add_loading, InputError

if TYPE_CHECKING:
    from captum_dexar.cli.options import Commands
    from PIL import Image
    from torch import nn

DEFAULT_PORT = 7860
# The first one is that of ``captum-dexar demo``.
_SCENES = (3, 0, 1, 2, 4, 5, 6, 7)
_BUNDLED = "the bundled model, which describes drawn scenes of 96 x 96 pixels"


def add_to(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "app",
        help="a local page: ask about an image, and watch where each word comes from",
        description="Serves a page on this machine: choose an image, ask, watch the "
        "words come with their heatmaps, compare methods. Without --model the bundled "
        "model describes drawn scenes, offline. Nothing is sent elsewhere, and nothing "
        "of a visitor's is kept when the page is closed. Needs "
        'pip install "captum-dexar[app]".',
    )
    parser.add_argument("--model", metavar="ID_OR_FOLDER", help="the model to load")
    add_loading(parser)
    parser.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"port of the page; 0 takes a free one (default: {DEFAULT_PORT})",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at (default: 127.0.0.1, this machine only). With any "
        "other address, everybody who can reach it can use the model: there is no "
        "password",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    if find_spec("gradio") is None:
        raise InputError(
            "the app needs Gradio, which is not installed. Install it with: "
            'pip install "captum-dexar[app]"'
        )
    # It is said on the page; here it would come with every token.
    warnings.filterwarnings("ignore", message="The map of the whole answer is zero")
    model, processor, name, scenes = _model(options)
    from captum_dexar.app.server import application, LOCAL, serve

    hosts = LOCAL if options.host in LOCAL else ["*"]
    with application(
        model,
        processor,
        model_name=name,
        scenes=scenes,
        new_tokens=options.max_new_tokens or 25,
        hosts=hosts,
    ) as app:
        try:
            serve(app, options.host, options.port, _say)
        except OSError as error:
            raise InputError(
                f"the page can't be served at {options.host}:{options.port}: "
                f"{error.strerror or error}. Give another --port; 0 takes a free one."
            ) from None


def _say(address: str) -> None:
    print(f"The page is at {address}  (Ctrl-C ends it)", flush=True)


def _model(
    options: argparse.Namespace,
) -> tuple[nn.Module, Any, str, list[Image.Image]]:
    """The model, its processor, its name, and scenes to choose from."""
    model, processor = loaded_model(options)
    if options.model is not None:
        return model, processor, options.model, []
    from captum_dexar.shapes import make_scene

    return model, processor, _BUNDLED, [make_scene(seed).image for seed in _SCENES]


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"must be between 0 and 65535, got {value}")
    return value
