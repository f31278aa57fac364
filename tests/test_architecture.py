"""The floors of the house: a file imports from floors below its own only.

Inside a room, and in the package as a whole, no file imports itself by way of others.
"""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import captum_dexar
import pytest

ROOT = Path(captum_dexar.__file__).parent
# From the bottom up. README.md beside the package's files has the same picture.
FLOORS = (
    {"compatibility", "worlds"},
    {"model", "maps", "training", "visualization"},
    {"families", "letters", "shapes"},
    {"inputs"},
    {"decoding", "vlm_forward"},
    {"attention_gradients"},
    {"methods"},
    {"baselines", "captum_methods", "result"},
    {"vlm_attribution"},
    {"comparison", "metrics"},
    {"evaluation"},
    {"__init__"},
    {"app"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAX_ROOT_FILES = 6
MAX_CLASS_LINES = 300


def source_files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


@cache
def modules() -> frozenset[str]:
    return frozenset(map(module_of, source_files()))


def file_of(name: str) -> str:
    """The file that a dotted name is imported from: its module, or its package."""
    while name not in modules():
        if f"{name}.__init__" in modules():
            return f"{name}.__init__"
        name = name.rpartition(".")[0]
    return name


def imports(path: Path) -> set[str]:
    """Files of this package that a file imports, at any level of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {file_of(name) for name in names if name.split(".")[0] == ROOT.name}


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", source_files(), ids=module_of)
def test_imports_go_down(path: Path) -> None:
    room = room_of(module_of(path))
    # The public names are resolved lazily, from any floor.
    for imported in {room_of(name) for name in imports(path)} - {room, "__init__"}:
        if room != "__init__":
            assert FLOOR_OF[imported] < FLOOR_OF[room], f"{room} imports {imported}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    lazy = f"{ROOT.name}.__init__"
    graph = {
        module_of(path): imports(path) - {lazy}
        for path in source_files()
        if module_of(path) != lazy
    }
    # Raises CycleError, which names the files.
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


def test_every_room_has_a_floor() -> None:
    rooms = {
        path.stem if path.is_file() else path.name
        for path in ROOT.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms == set(FLOOR_OF)


def test_few_files_lie_loose() -> None:
    files = [path.name for path in ROOT.iterdir() if path.is_file()]
    assert len([name for name in files if name != "README.md"]) <= MAX_ROOT_FILES


@pytest.mark.parametrize("path", source_files(), ids=module_of)
def test_long_classes_have_a_reason(path: Path) -> None:
    """It stands in a comment above the class."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.end_lineno is not None:
            if node.end_lineno - node.lineno + 1 > MAX_CLASS_LINES:
                above = lines[node.lineno - len(node.decorator_list) - 2]
                assert above.startswith("#"), f"{node.name} is long"


@pytest.mark.parametrize("path", source_files(), ids=module_of)
def test_hooks_act_in_one_thread(path: Path) -> None:
    """Only the file that sees to it registers any."""
    registered = [
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("register_")
        and node.attr.endswith("_hook")
    ]
    assert not registered or module_of(path) == "captum_dexar.model.thread_hooks"
