"""The order of the house: a file imports only files named before it (DESIGN, "The house")."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

LAYERS = (
    "cli spec boxes distributed device",
    "priors matching postprocess image annotations sources other_sources evaluation draw "
    "checkpoint training",
    "loss augment doctor prior_fit report dataset_report dataloader trainer demo_data",
)
UTILS = [f"utils.{name}" for layer in LAYERS for name in layer.split()]
NETS = [f"nets.{name}" for name in
        ("vgg backbones ssd download backbone_weights transfer weights export").split()]
SCRIPTS = [path.stem for path in sorted(REPO.glob("*.py"))]
# All that nets may know of utils.
NETS_KNOW = {f"utils.{name}" for name in "cli spec boxes priors postprocess checkpoint".split()}


def files_of(package):
    return [path for path in sorted((REPO / package).glob("*.py")) if path.stem != "__init__"]


def modules():
    """Return {module name: path} of the whole project, tests apart."""
    found = {f"{package}.{path.stem}": path for package in ("utils", "nets")
             for path in files_of(package)}
    return found | {name: REPO / f"{name}.py" for name in SCRIPTS}


def imports_of(path):
    """Return the project's modules that a file imports, wherever in the file the import stands."""
    names, found = set(modules()), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            wanted = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= names.intersection(wanted)
    return found


def allowed(module):
    """Return the modules that a module may import."""
    if module.startswith("utils."):
        return set(UTILS[:UTILS.index(module)])
    if module.startswith("nets."):
        return NETS_KNOW | set(NETS[:NETS.index(module)])
    library = set(UTILS) | set(NETS)
    return library if module == "ssd" else library | {"ssd"}


def test_the_files_are_found():
    assert {"train", "predict", "ssd", "voc_annotation", "get_map"} <= set(SCRIPTS)
    assert "utils.boxes" in imports_of(REPO / "utils" / "augment.py")


@pytest.mark.parametrize("package, order", [("utils", UTILS), ("nets", NETS)])
def test_every_file_has_its_place_in_the_order(package, order):
    unplaced = {f"{package}.{path.stem}" for path in files_of(package)} - set(order)
    assert not unplaced, "give these a place in the order at the top of this file"


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_only_what_stands_before(module):
    assert imports_of(modules()[module]) <= allowed(module)


def test_utils_never_know_the_networks():
    for path in files_of("utils"):
        assert not any(name.startswith("nets.") or name in SCRIPTS for name in imports_of(path))


def test_loss_needs_no_matching():
    assert "utils.matching" not in imports_of(REPO / "utils" / "loss.py")


@pytest.mark.parametrize("package", ["utils", "nets"])
def test_init_files_are_empty(package):
    assert (REPO / package / "__init__.py").read_bytes() == b""
