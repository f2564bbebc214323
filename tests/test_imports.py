"""The order of the house: a file imports only files named before it (README, "How it is built")."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

# Packages in the order of their imports, and the files of each in the order of theirs.
ORDER = {
    "utils": "streams memory cli ahead detections coco_ids device distributed spec boxes priors "
             "nms postprocess resize image tiling draw tensor_files checkpoint page",
    "utils.data": "annotations sources voc coco yolo csv_table splits layouts decoder "
                  "image_check doctor prior_fit dataset_report augment loader demo_data",
    "utils.training": "matching loss optim checks history summary samples board run_state "
                      "run_folder stopping trainer run_loop",
    "utils.evaluation": "assignment voc_ap coco_ap detection_files errors gallery map_report "
                        "map_page advice compare scoring",
    "utils.media": "frames outputs viewer",
    "nets": "vgg backbones ssd first_scale download families weight_files backbone_weights "
             "transfer build runtime onnx_runtime opening quantise export inspection",
}
# What a package may import beside itself; the files of utils are open to all packages.
KNOWS = {
    "utils": (),
    "utils.data": ("utils",),
    "utils.training": ("utils", "utils.data.annotations", "utils.data.augment",
                       "utils.data.loader"),
    "utils.evaluation": ("utils", "utils.data.annotations", "utils.data.loader"),
    "utils.media": ("utils",),
    "nets": ("utils",),
}
SCRIPTS = [path.stem for path in sorted(REPO.glob("*.py"))]


def files_of(package):
    folder = REPO / package.replace(".", "/")
    return [path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def modules():
    """Return {module name: path} of the whole project, tests and benchmarks apart."""
    found = {f"{package}.{path.stem}": path for package in ORDER for path in files_of(package)}
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


def members(package):
    return [f"{package}.{name}" for name in ORDER[package].split()]


def allowed(module):
    """Return the modules that a module may import."""
    package = module.rpartition(".")[0]
    if not package:
        library = {name for names in map(members, ORDER) for name in names}
        # voc_annotation.py examines the network that the defaults of train.py would train.
        known = {"ssd": set(), "voc_annotation": {"ssd", "train"}}
        return library | known.get(module, {"ssd"})
    before = members(package)
    known = {name for other in KNOWS[package]
             for name in (members(other) if other in ORDER else [other])}
    return known | set(before[:before.index(module)])


def test_the_files_are_found():
    assert {"train", "predict", "ssd", "voc_annotation", "get_map"} <= set(SCRIPTS)
    assert "utils.boxes" in imports_of(REPO / "utils" / "data" / "augment.py")


def test_every_package_is_in_the_order():
    found = {".".join(path.parent.relative_to(REPO).parts)
             for top in ("utils", "nets") for path in (REPO / top).rglob("__init__.py")}
    assert found == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_every_file_has_its_place_in_the_order(package):
    unplaced = {f"{package}.{path.stem}" for path in files_of(package)} - set(members(package))
    assert not unplaced, "give these a place in ORDER at the top of this file"


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_only_what_stands_before(module):
    assert imports_of(modules()[module]) <= allowed(module)


def test_loss_needs_no_matching():
    assert "utils.training.matching" not in imports_of(REPO / "utils" / "training" / "loss.py")


@pytest.mark.parametrize("package", ORDER)
def test_init_files_are_empty(package):
    assert (REPO / package.replace(".", "/") / "__init__.py").read_bytes() == b""
