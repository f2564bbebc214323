"""Weights from the internet, kept in model_data/."""

from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch

from utils.cli import UserError, make_folder, shorten


def download(url: str) -> Path:
    """Fetch a file to model_data/ unless it is there; return its absolute Path.

    Where the name carries the publisher's hash, as in name-0123abcd.pth, the file is checked
    against it before it comes there. Raises UserError without internet and for a broken download.
    """
    target = make_folder("model_data") / Path(urlparse(url).path).name
    if target.exists():
        return target
    found = torch.hub.HASH_REGEX.search(target.name)
    print(f"downloading {url}")
    try:
        torch.hub.download_url_to_file(url, str(target), found[1] if found else None)
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise UserError(f"{url} could not be downloaded ({error}).\nFetch it elsewhere and put it "
                        f"at {shorten(target)}.") from None
    return target
