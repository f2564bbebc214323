"""Weight files of others, read safely: .pth, .h5 and .npz to our state dict and its spec."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from nets.backbones import BACKBONES
from nets.download import download
from nets.families import (
    COCO_DETECTOR,
    FAMILIES,
    NOT_READ,
    PUBLISHED_NAMES,
    choose_by_order,
    matching_families,
)
from nets.ssd import build_spec
from utils.checkpoint import (
    MAX_CLASSES,
    Checkpoint,
    check_unpacked,
    check_weights_file,
    is_checkpoint,
    one_line,
    parse_checkpoint,
    read_tensor_file,
)
from utils.cli import UserError, shorten
from utils.spec import COCO_SCALES, VOC_SCALES, SSDSpec

OWN_FORMAT = "this project"  # stands where a family is named


def read_detector(path: str | Path, *, family: str = "auto",
                  class_names: tuple[str, ...] | None = None) -> tuple[Checkpoint, str]:
    """Read a detector from a checkpoint of this project or a published weight file.

    Args:
        path: the file, or "coco" for torchvision's SSD300 trained on COCO, downloaded once.
        family: a name in FAMILIES; "auto" tells by the contents. Where several families name
            their tensors alike, their order tells, and what was taken is printed.
        class_names: for files with other classes than VOC's 20 or COCO's; None: by their count.

    Returns:
        (Checkpoint, family); family is OWN_FORMAT for checkpoints. The tensors are still to be
        compared with a network.

    Raises:
        UserError: an unreadable, unknown or unsafe file, or class names that do not fit it.
    """
    if path == "coco":
        path = download(COCO_DETECTOR.url)
    path = check_weights_file(path)
    values = read_weights(path)
    if is_checkpoint(values):
        return parse_checkpoint(values, path), OWN_FORMAT
    values = unwrap(values, path)
    family = recognise(values, path, family)
    state = FAMILIES[family].read(values)
    spec, num_classes = describe(state, family, path)
    names = names_for(num_classes, class_names, path)
    return Checkpoint(spec, names, state, {}, {}), family


def read_weights(path: Path) -> object:
    """Return the contents of a PyTorch, Keras .h5 or NumPy .npz file, told by the contents."""
    with open(path, "rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return read_h5(path)
    with one_line(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith(".npy") for name in archive.namelist()):
                    return read_npz(archive, path)
    return read_tensor_file(path)


def read_h5(path: Path) -> dict[str, torch.Tensor]:
    """Return {layer/.../weight: tensor} of a Keras file.

    Raises UserError for a damaged file, and for what Keras does not write: compressed or external
    numbers, whose size the file does not tell.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(f"{shorten(path)}: Keras files need h5py; run: pip install h5py") from None
    tensors, size = {}, 0

    def keep(name, item):
        nonlocal size
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        storage = item.id.get_create_plist()
        if storage.get_nfilters() or storage.get_external_count() or item.is_virtual:
            raise UserError(f"{shorten(path)}: {name[-60:]!r} is compressed or lies in another "
                            "file; store it plainly (h5repack -f NONE).")
        size += item.size * max(4, item.dtype.itemsize)
        check_unpacked(size, path)
        tensors[name.removeprefix("model_weights/")] = _to_tensor(item[()])
    with one_line(path), h5py.File(path, "r") as file:
        file.visititems(keep)
    return tensors


def read_npz(archive: zipfile.ZipFile, path: Path) -> dict[str, torch.Tensor]:
    """Return {name: tensor} of a NumPy archive; pickled objects are refused by NumPy."""
    check_unpacked(sum(entry.file_size for entry in archive.infolist()), path)
    tensors = {}
    for entry in archive.infolist():
        # No more is unpacked than the declared size, and its checksum is tested.
        data = io.BytesIO(archive.read(entry))
        array = np.lib.format.read_array(data, allow_pickle=False)
        if array.dtype.kind == "f":
            tensors[entry.filename.removesuffix(".npy")] = _to_tensor(array)
    return tensors


def _to_tensor(array):
    """Return an array as float32; what is beyond its range becomes infinite, refused later."""
    with np.errstate(all="ignore"):
        return torch.from_numpy(array.astype(np.float32))


def unwrap(values: object, path: Path) -> dict[str, torch.Tensor]:
    """Take the state dict out of the usual wrappers and off the prefix of data-parallel training.

    Raises UserError where no tensors are found.
    """
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict):
        raise UserError(f"{shorten(path)}: holds a {type(values).__name__}, not a state dict.")
    tensors = {name.removeprefix("module."): value for name, value in values.items()
               if isinstance(name, str) and torch.is_tensor(value)}
    if not tensors:
        raise UserError(f"{shorten(path)}: no tensors in it; is it a weights file?")
    # One number in the file may be a tensor of any size, by strides of 0.
    check_unpacked(4 * sum(value.numel() for value in tensors.values()), path)
    return tensors


def recognise(tensors: dict, path: Path, family: str = "auto") -> str:
    """Return the family that a file belongs to; where that is a guess, print it.

    Raises UserError where it is none that can be read, or not the one that was named.
    """
    if family not in ("auto", *FAMILIES):
        raise UserError(f"weights_family must be auto, {', '.join(FAMILIES)}; got {family!r}.")
    found = matching_families(tensors)
    if not found:
        raise UserError(f"{shorten(path)}: {_what_else(tensors)}.")
    if family in found:
        return family
    if family != "auto":
        raise UserError(f"{shorten(path)}: weights_family is {family!r}, but the tensors are "
                        f"those of {' or '.join(found)}; leave it \"auto\".")
    if len(found) == 1:
        return found[0]
    chosen, reason = choose_by_order(found, tensors)
    others = " or ".join(f'"{other}"' for other in found if other != chosen)
    print(f"{shorten(path)}: taken for {chosen}'s, because {reason}; set weights_family to "
          f"{others} if that is wrong")
    return chosen


def _what_else(tensors):
    """Say what a file is that no family has."""
    for pattern, what in NOT_READ.items():
        if any(re.fullmatch(pattern, name) for name in tensors):
            return what
    return (f"not an SSD of a known family ({', '.join(FAMILIES)}); "
            f"it begins with {next(iter(tensors))[:60]!r}")


def describe(state: dict, family: str, path: Path) -> tuple[SSDSpec, int]:
    """Tell (SSDSpec, number of classes without background) from our state dict and the family.

    Raises UserError where the tensors are too few or too odd for that.
    """
    backbone = next((name for name, entry in BACKBONES.items()
                     if any(key.startswith(f"{entry.prefix}.") for key in state)), None)
    loc, conf = state.get("loc.0.weight"), state.get("conf.0.weight")
    if backbone is None or loc is None or conf is None or min(loc.ndim, conf.ndim) != 4:
        raise UserError(f"{shorten(path)}: looks like {family}'s, but is not a whole SSD; "
                        "the backbone or the heads on its first feature map are missing.")
    size = 512 if "conf.6.weight" in state else 300
    boxes = max(1, loc.shape[0] // 4)
    num_classes = conf.shape[0] // boxes - 1
    if not 1 <= num_classes <= MAX_CLASSES or conf.shape[0] % boxes or loc.shape[0] % 4:
        raise UserError(f"{shorten(path)}: looks like {family}'s, but is not a whole SSD; its "
                        f"heads have {loc.shape[0]} and {conf.shape[0]} channels.")
    entry = FAMILIES[family]
    coco = entry.uses_coco_sizes(num_classes)
    changes = dict(entry.preset)
    if (size, coco) in entry.sizes:
        changes["anchors_size"] = entry.sizes[size, coco]
    try:
        spec = build_spec(backbone, size, scales=COCO_SCALES if coco else VOC_SCALES, **changes)
    except (ValueError, KeyError) as error:
        raise UserError(f"{shorten(path)}: looks like {family}'s, but {error}.") from None
    return spec, num_classes


def names_for(num_classes: int, class_names: tuple[str, ...] | None,
              path: Path) -> tuple[str, ...]:
    """Return the class names for a file without names.

    Raises UserError where they are not known, or the given ones do not fit.
    """
    if class_names is not None:
        if len(class_names) == num_classes:
            return tuple(class_names)
        raise UserError(f"{shorten(path)}: has {num_classes} classes, classes_path has "
                        f"{len(class_names)}; name the list that it was trained with.")
    if num_classes in PUBLISHED_NAMES:
        return PUBLISHED_NAMES[num_classes]
    raise UserError(f"{shorten(path)}: has {num_classes} classes and no names; set classes_path to "
                    "the list that it was trained with.")
