"""Whatever a weight file holds, it is read or refused in one line, and runs no code."""

import io

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nets.weights.weight_files import read_detector, read_tensor_file
from utils.cli import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def torch_bytes(**options):
    buffer = io.BytesIO()
    torch.save({"vgg.0.weight": torch.ones(4, 3, 3, 3), "conf.0.weight": torch.ones(84, 4),
                "loc.0.weight": torch.ones(16, 4), "format": "x"}, buffer, **options)
    return buffer.getvalue()


def npz_bytes():
    buffer = io.BytesIO()
    np.savez(buffer, **{"multibox/conf/0/W": np.ones((84, 4), np.float32)})
    return buffer.getvalue()


def h5_bytes():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["conv4_3_norm_mbox_conf/x/kernel:0"] = np.ones((3, 3, 4, 84), np.float32)
    return buffer.getvalue()


FILES = {".pth": torch_bytes(), ".pt": torch_bytes(_use_new_zipfile_serialization=False),
         ".npz": npz_bytes(), ".h5": h5_bytes()}


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(sorted(FILES)), st.data())
def test_any_damage(folder, suffix, draw):
    """Bytes replaced, cut out and put in, or the end of the file missing."""
    data = bytearray(FILES[suffix])
    for _ in range(draw.draw(st.integers(1, 4))):
        start = draw.draw(st.integers(0, len(data)))
        end = start + draw.draw(st.sampled_from((0, 1, 4, 40, 10 ** 6)))
        data[start:end] = draw.draw(st.binary(max_size=8))
    path = folder / f"damaged{suffix}"
    path.write_bytes(data)
    try:
        read_tensor_file(path)
        read_detector(path)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
