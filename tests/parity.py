"""What the parity fixtures were recorded with: the rule that fills weights, the image."""

import json
import zlib

import numpy as np
import torch


def fill_state_dict(keys, seed):
    """Return {name: tensor} filled by the rule that the parity fixtures were recorded with.

    Args:
        keys: list of (name, shape).
        seed: int.
    """
    return {name: _fill(name, shape, seed) for name, shape in keys}


def _fill(name, shape, seed):
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    z = rng.standard_normal(size=shape)
    if name.endswith("running_mean"):
        z = 0.1 * z
    elif name.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif len(shape) == 4:
        z = z * np.sqrt(2 / np.prod(shape[1:])) / (60 if shape[1] == 3 else 1)
    elif name.endswith("bias"):
        z = 0.05 * z
    elif len(shape) == 1 and any(part in name for part in ("L2Norm", "l2_norm", "scale_weight")):
        z = 20 + z
    else:
        z = 0.4 + 0.05 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def fixture_image():
    """Return the 640x480 RGB image of the parity fixtures."""
    rng = np.random.Generator(np.random.PCG64(0))
    return rng.integers(0, 256, (48, 64, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)


def fixture_keys(fixture):
    """Return the (name, shape) list of a fixture archive."""
    return [(name, tuple(shape)) for name, shape in json.loads(str(fixture["keys"]))]
