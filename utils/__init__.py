import os
from importlib.util import find_spec

# Jupyter's backend for windows, without which matplotlib cannot be imported where it is missing.
if "matplotlib_inline" in os.environ.get("MPLBACKEND", "") and not find_spec("matplotlib_inline"):
    del os.environ["MPLBACKEND"]
