"""Whatever a weight file holds, it is read or refused in one line, and runs no code."""

import dataclasses
import io

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nets.weights.weight_files import read_detector, read_tensor_file
from ssd import SSDSettings
from train import TrainSettings
from utils.cli import UserError, check_fields

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts,
                                                                max_size=3), max_leaves=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def one_line(error):
    return "\n" not in str(error) and len(str(error)) < 500


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


def assert_read_or_refused(path, data):
    path.write_bytes(data)
    try:
        values = read_tensor_file(path)
        assert not isinstance(values, dict) or path.suffix != ".npz" or all(
            value.dtype == torch.float32 for value in values.values())
        read_detector(path)
    except UserError as error:
        assert one_line(error)


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(sorted(FILES)), st.data())
def test_any_damage(folder, suffix, draw):
    """Bytes replaced, cut out and put in, or the end of the file missing."""
    data = bytearray(FILES[suffix])
    for _ in range(draw.draw(st.integers(1, 4))):
        start = draw.draw(st.integers(0, len(data)))
        end = start + draw.draw(st.sampled_from((0, 1, 4, 40, 10 ** 6)))
        data[start:end] = draw.draw(st.binary(max_size=8))
    assert_read_or_refused(folder / f"damaged{suffix}", bytes(data))


@pytest.mark.parametrize("kind", [SSDSettings, TrainSettings])
@given(st.data())
def test_any_value_of_a_setting(kind, draw):
    field = draw.draw(st.sampled_from(dataclasses.fields(kind)))
    value = draw.draw(PLAIN | st.tuples(st.integers(), st.floats()))
    try:
        check_fields(dataclasses.replace(kind(), **{field.name: value}))
    except UserError as error:
        assert str(error).startswith(f"{field.name} must ")
