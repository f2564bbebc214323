"""Files of tensors, read without running any code: PyTorch's, Keras's .h5 and NumPy's .npz."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from utils.cli import UserError, check_file, shorten

# Bytes of tensors that a weights file may unfold to: seven SSD512, or a whole VGG16 and half.
# What claims more is crafted or damaged, and is refused before memory is taken.
MAX_UNPACKED = 2 ** 30


def read_tensor_file(path: str | Path, copies: int = 1) -> object:
    """Return what a file holds, on the CPU; its format is told by the contents.

    That is {name: tensor} for .h5 and .npz, and whatever plain object was saved for PyTorch's,
    which may have as many numbers as so many copies of the weights.
    Raises UserError for files that are missing, empty, a web page, damaged (a checksum is wrong,
    where there are any), too large when unpacked, of another kind, or holding code.
    """
    path = check_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{shorten(path)}: {error.strerror}; check the path.") from None
    if not start:
        raise UserError(f"{shorten(path)}: the file is empty; get it again.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{shorten(path)}: a web page, not weights: the download failed; "
                        "get it again.")
    try:
        return _read(path, start, copies)
    except UserError:
        raise
    except Exception as error:
        # On damaged bytes the parsers of PyTorch, zip, NumPy and HDF5 raise any type of
        # exception, SystemError and MemoryError included.
        raise UserError(f"{shorten(path)}: {_complaint(error, start)}") from None


def _read(path, start, copies):
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_h5(path)
    if start.startswith(b"PK\x03\x04") or zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_unpacked(sum(entry.file_size for entry in archive.infolist()), path, copies)
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged[-60:]!r}")
            if any(name.endswith(".npy") for name in archive.namelist()):
                return _read_npz(path)
    else:
        check_unpacked(path.stat().st_size, path, copies)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def _complaint(error, start):
    """Say what is wrong with a file, from a parser's exception and the file's first bytes."""
    # A KeyError is an unknown opcode of the pickle: its text would be a number.
    unpickling = isinstance(error, (pickle.UnpicklingError, KeyError))
    # "Unsupported operand" is what garbage gives; code is named as a global or a class. NumPy says
    # "allow_pickle". A bare pickle of protocol 3 or later is not torch.save's and may hold any
    # code; old PyTorch stops at its first byte.
    if (re.search(r"GLOBAL|Unsupported (global|class)|REDUCE|allow_pickle", str(error))
            or unpickling and start.startswith((b"\x80\x03", b"\x80\x04", b"\x80\x05"))):
        return ("refused, loading it would run code that it holds beside its tensors; ask its "
                "author for a plain state dict.")
    reason = "not a weights file" if unpickling else first_line(error)
    return f"cannot be read ({reason}); the file is damaged, incomplete, or of another kind."


def first_line(value: object) -> str:
    """Return the first sentence of an exception or a name in a file, printable and short."""
    text = (str(value).splitlines() or [""])[0].split(". ")[0].strip()
    return "".join(c if c.isprintable() else "?" for c in text[:120]) or type(value).__name__


def check_unpacked(size: int, path: Path, copies: int = 1) -> None:
    """Raise UserError where a file would take more memory than weights of an SSD can need."""
    if size > copies * MAX_UNPACKED:
        raise UserError(f"{shorten(path)}: refused, it would unpack to {size / 2 ** 30:.1f} GiB; "
                        f"{copies * MAX_UNPACKED / 2 ** 30:g} GiB at most are read.")


def _read_h5(path):
    """Return {layer/.../weight: tensor} of a Keras file.

    Compressed or external numbers are refused: Keras writes none, and their size is not told.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(f"{shorten(path)}: Keras files need h5py; run: pip install h5py") from None
    found = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.append((name, item)))
        arrays = {name.removeprefix("model_weights/"): item for name, item in found
                  if isinstance(item, h5py.Dataset) and item.dtype.kind == "f"}
        for name, item in arrays.items():
            storage = item.id.get_create_plist()
            if storage.get_nfilters() or storage.get_external_count() or item.is_virtual:
                raise UserError(f"{shorten(path)}: {name[-60:]!r} is compressed or lies in another "
                                "file; store it plainly (h5repack -f NONE).")
        check_unpacked(sum(item.size * max(4, item.dtype.itemsize) for item in arrays.values()),
                       path)
        return {name: _to_tensor(item[()]) for name, item in arrays.items()}


def _read_npz(path):
    """Return {name: tensor} of a NumPy archive; pickled objects are refused by NumPy."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return {name: _to_tensor(array) for name, array in arrays.items() if array.dtype.kind == "f"}


def _to_tensor(array):
    """Return an array as float32; what is beyond its range becomes infinite, refused later."""
    with np.errstate(all="ignore"):
        return torch.from_numpy(array.astype(np.float32))
