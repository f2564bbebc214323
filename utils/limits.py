"""Settings that cannot work, found before anything is read."""

import math
from typing import Literal, get_args, get_origin, get_type_hints

from utils.cli import UserError


def check_fields(settings, limits: dict[str, tuple[float, float]]) -> None:
    """Raise UserError for a setting that is none of its choices, not finite, or out of limits.

    Args:
        settings: a dataclass object; fields of a Literal type must hold one of its values, and
            numbers, alone or in a tuple, must be finite.
        limits: {field: (lowest, highest)}, both allowed.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise UserError(f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}.")
        low, high = limits.get(name, (-math.inf, math.inf))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} must be finite, got {value}.")
            if isinstance(number, (int, float)) and not low <= number <= high:
                raise UserError(f"{name} must lie in {low}..{high}, got {value}.")
