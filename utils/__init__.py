import os
from importlib.util import find_spec

# Jupyter and Colab name a backend for their windows here. Where an environment lacks it, matplotlib
# cannot be imported; figures here need no window.
_module = os.environ.get("MPLBACKEND", "").partition("module://")[2].partition(".")[0]
if _module and not find_spec(_module):
    del os.environ["MPLBACKEND"]
