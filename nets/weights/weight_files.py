"""Weight files of any code base: read without running code, recognised, brought to our names."""

import re
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import torch

from nets.backbones import BACKBONES, rename
from nets.ssd import build_spec
from nets.weights.families import COCO_DETECTORS, FAMILIES, PUBLISHED_NAMES
from utils.checkpoint import Checkpoint, parse_checkpoint, read_torch_file
from utils.cli import UserError, check_file, first_line, make_folder, resolve, shorten
from utils.multibox.spec import (CAFFE_MEAN, CAFFE_STD, COCO_SCALES, IMAGENET_MEAN, IMAGENET_STD,
                                 VOC_SCALES)

# Where files keep the state dict, from the outside in; and what training puts before its names:
# torch.compile, DataParallel, AveragedModel, a Lightning module.
WRAPPERS = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "model", "net", "network",
            "module", "model_state_dict", "state_dict", "weights")
PREFIXES = re.compile(r"^(?:(?:module|model|net|_orig_mod)\.)+|\b_orig_mod\.")


def download(url: str) -> Path:
    """Return the path of a file in model_data/, downloaded if need be; UserError if that fails."""
    target = make_folder("model_data") / Path(urlparse(url).path).name
    if not target.exists():
        print(f"downloading {url}")
        match = torch.hub.HASH_REGEX.search(target.name)
        try:
            torch.hub.download_url_to_file(url, str(target), match[1] if match else None)
        except (OSError, RuntimeError, HTTPException) as error:
            raise UserError(f"{url} could not be downloaded ({error}).\nFetch it elsewhere and put "
                            f"it at {shorten(target)}.") from None
    return target


def read_tensor_file(path: str | Path) -> object:
    """Return {name: tensor} of a Keras .h5 or NumPy .npz file; else what torch.save wrote.

    Raises UserError for a missing or damaged file, and for one that would run code.
    """
    path = check_file(path)
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".h5", ".hdf5"):
        return read_torch_file(path)
    try:
        arrays = dict(np.load(path, allow_pickle=False)) if suffix == ".npz" else _read_h5(path)
        return {name: torch.from_numpy(array.astype(np.float32))
                for name, array in arrays.items() if array.dtype.kind == "f"}
    except ImportError:
        raise UserError(f"{shorten(path)}: Keras files need h5py; run: pip install h5py") from None
    except Exception as error:  # h5py, zipfile and NumPy raise many types on damaged bytes
        raise UserError(f"{shorten(path)}: cannot be read ({first_line(error)}); get it again."
                        ) from None


def _read_h5(path):
    """Return {layer/.../weight: array} of a Keras file."""
    import h5py

    names = []
    with h5py.File(path, "r") as file:
        file.visit(names.append)
        return {name.removeprefix("model_weights/"): file[name][()] for name in names
                if isinstance(file[name], h5py.Dataset)}


def read_detector(path: str | Path, *, family: str = "auto",
                  class_names: tuple[str, ...] | None = None) -> tuple[Checkpoint, str]:
    """Read a detector, of this project or published; return (Checkpoint, family).

    `path` is a file, or a key of COCO_DETECTORS, downloaded once. `family` is a name in FAMILIES;
    "auto" recognises it by the names of the tensors. `class_names` are for published files with
    other classes than VOC's 20 or COCO's. UserError for an unreadable, unknown or unsafe file, or
    class names that do not fit it; the tensors are not yet compared with a network.
    """
    path = download(COCO_DETECTORS[path]) if path in COCO_DETECTORS else resolve(path)
    values = read_tensor_file(path)
    if checkpoint := parse_checkpoint(values, path):
        return checkpoint, "this project"
    tensors = _unwrap(values, path)
    family = _recognise(tensors, path, family)
    try:
        state = FAMILIES[family].read(tensors)
        spec, num_classes = _describe(state, family)
    except (ValueError, KeyError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{shorten(path)}: looks like {family}'s, but is not a whole SSD "
                        f"({first_line(error)}).") from None
    names = PUBLISHED_NAMES.get(num_classes, ()) if class_names is None else tuple(class_names)
    if len(names) != num_classes:
        raise UserError(f"{shorten(path)}: has {num_classes} classes, and {len(names)} names are "
                        "known; set classes_path to the list that it was trained with.")
    return Checkpoint(spec, names, state, {}, {}), family


def _unwrap(values, path):
    """Take the state dict, averaged weights first, out of wrappers, and prefixes off its names."""
    for key in WRAPPERS:
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    pairs = values.items() if isinstance(values, dict) else ()
    tensors = {PREFIXES.sub("", str(name)): value for name, value in pairs
               if torch.is_tensor(value) and name != "n_averaged"}
    if not tensors:
        raise UserError(f"{shorten(path)}: no tensors in it; is it a weights file?")
    return tensors


def _recognise(tensors, path, family):
    """Return the family that a file belongs to; where that is a guess, print it."""
    fitting = [name for name, entry in FAMILIES.items()
               if any(re.fullmatch(entry.signature, tensor) for tensor in tensors)]
    if not fitting or family not in ("auto", *fitting):
        known = " or ".join(fitting) or f"no known family ({', '.join(FAMILIES)})"
        raise UserError(f"{shorten(path)}: its tensors are those of {known}, weights_family is "
                        f"{family!r}. A classification network goes into backbone_weights.")
    if family != "auto":
        return family
    # torch.save keeps the order in which a network registers its modules.
    order = tuple(dict.fromkeys(name.split(".")[0] for name in tensors))
    chosen = next((name for name in fitting if FAMILIES[name].order == order), fitting[0])
    others = " or ".join(f'"{name}"' for name in fitting if name != chosen)
    if others:
        print(f"{shorten(path)}: taken for {chosen}'s, by the order of its tensors; set "
              f"weights_family to {others} if that is wrong")
    return chosen


def _describe(state, family):
    """Return (SSDSpec, number of classes without background) of a family's tensors."""
    prefixes = {name.split(".")[0] for name in state}
    backbone = next((name for name, entry in BACKBONES.items() if entry.prefix in prefixes),
                    "unknown backbone")
    heads = rename(state, [(r"(loc|conf)\.0\.(?:1\.)?weight", r"\1.0.weight")])  # SSDLite's "1."
    num_classes, rest = divmod(4 * len(heads["conf.0.weight"]), len(heads["loc.0.weight"]))
    if rest or num_classes < 2:
        raise ValueError("its heads do not fit together")
    num_classes -= 1
    entry, network = FAMILIES[family], BACKBONES[backbone]
    size = 512 if "conf.6.weight" in state else network.size
    coco, changes = entry.uses_coco_sizes(num_classes), entry.preset | network.describe(state)
    if (size, coco) in entry.sizes:
        changes["anchors_size"] = entry.sizes[size, coco]
    scales = COCO_SCALES if coco else VOC_SCALES
    return build_spec(backbone, size, scales=scales, **changes), num_classes


def read_backbone(source: str | Path, backbone: str) -> tuple[dict, dict]:
    """Read classification weights for a backbone, a name in BACKBONES.

    `source` is a file with torchvision's names, or "imagenet" for torchvision's own, downloaded
    once. Returns {name in SSDNet: tensor} and the fields of SSDSpec that they decide. Raises
    UserError without internet, for an unreadable file, and for one of another network.
    """
    entry = BACKBONES[backbone]
    path = download(entry.imagenet) if source == "imagenet" else resolve(source)
    values = _unwrap(read_tensor_file(path), path)
    renamed = rename(values, entry.names)
    if not renamed:
        raise UserError(f"{shorten(path)}: not a {backbone}. A detector goes into model_path.")
    # A VGG16 of torchvision's own training has a classifier; in Caffe's it is missing or NaN.
    classifier = values.get("classifier.0.weight")
    is_caffe = entry.is_caffe and (classifier is None or not classifier.isfinite().all())
    mean, std = (CAFFE_MEAN, CAFFE_STD) if is_caffe else (IMAGENET_MEAN, IMAGENET_STD)
    state = renamed | entry.convert(values)
    return state, {"mean": mean, "std": std, **entry.describe(state)}
