"""Imports run one way through the rooms of the house (README, "How it is built")."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

# A file may import its own folder and these.
MAY_IMPORT = {
    "utils/multibox": set(),
    "utils": {"utils/multibox"},
    "utils/data": {"utils/multibox", "utils"},
    "utils/training": {"utils/multibox", "utils", "utils/data"},
    "utils/evaluation": {"utils/multibox", "utils", "utils/data"},
    "utils/media": {"utils/multibox", "utils", "utils/data"},
    "nets": {"utils/multibox", "utils", "nets/weights"},
    "nets/weights": {"utils/multibox", "utils", "nets"},
    "nets/runtimes": {"utils/multibox", "utils", "nets", "nets/weights"},
}
FILES = [path for path in sorted(REPO.glob("*.py")) + sorted(REPO.glob("*/**/*.py"))
         if path.parent == REPO or path.relative_to(REPO).parts[0] in ("utils", "nets")]


def room_of(path):
    return path.parent.relative_to(REPO).as_posix()


def rooms_imported(path):
    """Return the folders whose files a file imports, wherever in it the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = ([node.module] if isinstance(node, ast.ImportFrom) else
                 [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        for name in names:
            file = REPO / (name.replace(".", "/") + ".py")
            if file.is_file():
                rooms.add(room_of(file) if file.parent != REPO else file.stem)
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_run_one_way(path):
    room = room_of(path)
    allowed = {*MAY_IMPORT, "ssd"} if room == "." else MAY_IMPORT[room] | {room}
    assert rooms_imported(path) <= allowed


def test_the_paper_needs_torch_and_numpy_alone():
    kept = {"torch", "numpy", "utils"}
    for path in (REPO / "utils/multibox").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                top = node.module.split(".")[0]
                assert top in kept or top in __import__("sys").stdlib_module_names, path
