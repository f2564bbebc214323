"""Weights from the internet, kept in model_data/."""

from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch

from utils.cli import UserError, make_folder, shorten


def download(url: str) -> Path:
    """Fetch a file to model_data/ unless it is there; return its absolute Path.

    Where the name carries the publisher's hash, as in name-0123abcd.pth, the file is checked
    against it. Raises UserError without internet and for a broken download, which is removed.
    """
    target = make_folder("model_data") / Path(urlparse(url).path).name
    if target.exists():
        return target
    found = torch.hub.HASH_REGEX.search(target.name)
    print(f"downloading {url}")
    try:
        torch.hub.download_url_to_file(url, str(target), found[1] if found else None)
    except (URLError, OSError, RuntimeError) as error:
        target.unlink(missing_ok=True)
        raise UserError(f"{url} could not be downloaded ({error}).\nFetch it elsewhere and put it "
                        f"at {shorten(target)}.") from None
    return target
