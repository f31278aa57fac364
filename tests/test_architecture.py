"""The floors of the house: a file imports from floors below its own only."""

import ast
from pathlib import Path

import captum_dexar
import pytest

PACKAGE = Path(captum_dexar.__file__).parent
FLOORS = {
    "baselines": 5,
    "captum_methods": 5,
    "checked_prompt": 3,
    "composition": 1,
    "layout": 0,
    "metrics": 1,
    "scoring": 0,
    "shapes": 0,
    "visualization": 0,
    "answer_result": 4,
    "answer_scores": 2,
    "answer_tokens": 0,
    "attention_gradients": 1,
    "decoding": 2,
    "families": 1,
    "image_tokens": 1,
    "inputs": 3,
    "memory_budget": 0,
    "model_state": 0,
    "result_file": 1,
    "result_plots": 2,
    "result": 3,
    "step_attributions": 0,
    "words": 0,
    "vlm_batches": 5,
    "vlm_forward": 2,
    "layer_dexar": 5,
    "live_dexar": 4,
    "stepwise": 4,
    "vlm_attribution": 7,
    "comparison": 8,
    "comparison_table": 4,
    "evaluation": 8,
    "method_arguments": 6,
    "method_names": 6,
    "cli": 9,
    "__main__": 10,
}
MAX_LINES = 400


def _room(name: str) -> str:
    return name.removeprefix("captum_dexar").lstrip(".").split(".")[0]


def _source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> list[str]:
    """Rooms of this package that a file imports, at any level."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "captum_dexar":
                names += [f"captum_dexar.{alias.name}" for alias in node.names]
            else:
                names.append(node.module)
    return [_room(name) for name in names if name.startswith("captum_dexar.")]


@pytest.mark.parametrize("path", _source_files(), ids=lambda p: p.stem)
def test_imports_go_down(path: Path) -> None:
    room = _room(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    if room == "__init__":
        return
    for imported in _imports(path):
        if imported in FLOORS and imported != room:
            assert FLOORS[imported] < FLOORS[room], f"{room} imports {imported}"


def test_every_room_has_a_floor() -> None:
    rooms = {
        path.stem if path.is_file() else path.name
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("path", _source_files(), ids=lambda p: p.stem)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
