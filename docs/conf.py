"""The documentation, built by Sphinx from this folder and the READMEs of the project.

    python -m sphinx --fail-on-warning -c docs . site

The source folder is the project's, so that a README is one text, read beside the code
and on the site.
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "docs"))

project = "captum_dexar"
author = "The captum_dexar authors"
copyright = author
release = metadata.version("captum-dexar")

root_doc = "docs/index"
include_patterns = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "captum_dexar/README.md",
    "captum_dexar/**/README.md",
    "docs/**",
    "tests/benchmarks/README.md",
    "tests/big_models/README.md",
    "tests/extension_study/README.md",
    "tutorials/*.ipynb",
    "tutorials/README.md",
]
exclude_patterns = ["**/.ipynb_checkpoints", "docs/site"]

extensions = [
    "links_between_files",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks are stored with the outputs of a real run
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types stand in the docstrings, as in Captum's
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "captum_dexar"
html_extra_path = ["site"]  # leads from the top to the home page


def setup(app):
    app.connect("builder-inited", draw_demo)


def draw_demo(app):
    """Makes the interactive page of the home page, by the command that readers have."""
    if app.builder.format != "html":
        return
    demo = Path(app.outdir) / "_static" / "demo"
    command = [sys.executable, "-m", "captum_dexar", "demo", "--out", str(demo)]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
