"""Lack of memory: how to tell it, and what to lower."""

import math
import re
from typing import Any

# PyTorch, cuDNN, cuBLAS, OpenCV and the C library each say it in their own words.
OUT_OF_MEMORY = re.compile(r"out of memory|(can't|cannot) allocate memory|not enough memory|"
                           r"insufficient memory|bad_alloc|alloc_failed", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, the computer's or a GPU's."""
    of_library = isinstance(error, (RuntimeError, OSError)) or type(error).__module__ == "cv2"
    return isinstance(error, MemoryError) or bool(of_library and OUT_OF_MEMORY.search(str(error)))


def smaller_batches(settings: Any) -> dict[str, int]:
    """Return {setting: value} of smaller batches; with accumulate a step has as many images."""
    names = ["batch_size"] + ["freeze_batch_size"] * bool(getattr(settings, "freeze_epochs", 0))
    sizes = {name: getattr(settings, name, 1) for name in names}
    common, least = math.gcd(*sizes.values()), min(sizes.values())
    # Batch norm, which VGG has none of, refuses batches of 1.
    most = least if getattr(settings, "backbone", "") == "vgg" else least // 2
    factor = next((k for k in range(2, most + 1) if common % k == 0), None)
    smaller = {name: value // (factor or 2) for name, value in sizes.items() if value > 1}
    if factor and hasattr(settings, "accumulate"):
        smaller["accumulate"] = factor * settings.accumulate
    return smaller


def flags_for_less(settings: Any) -> str:
    """Return the flags, a space before each, that go on with smaller batches; "" for none."""
    smaller = smaller_batches(settings)
    return "".join(f" --{name} {value}" for name, value in smaller.items()
                   if "accumulate" in smaller)


def out_of_memory(settings: Any) -> str:
    """Return the message that says what to lower, and from which value to which."""
    sizes = [f"{'raise ' * (name == 'accumulate')}{name} {getattr(settings, name)} -> {value}"
             for name, value in smaller_batches(settings).items()]
    lower = [" and ".join(sizes)] * bool(sizes)
    lower += [f"{name} {getattr(settings, name)}" for name in ("input_shape", "num_workers")
              if getattr(settings, name, 0)]
    return (f"out of memory; lower {', then '.join(lower) or 'the size of the images'}, or close "
            "other programs.")
