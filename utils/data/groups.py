"""Which images a draw must not part: copies, Roboflow's versions of a photo, frames of a video."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.doctor import ImageFacts
from utils.data.sources import Annotation

ROBOFLOW = re.compile(r"(.+)[._-](?:jpe?g|png|bmp|webp|tiff?)\.rf\.\w+", re.I)  # name_jpg.rf.<hash>
SAME_SCENE = 0.5  # likeness of neighbours by number; of unlike images it is below 0.45
# A video of more than WHOLE of all images is cut into PIECES, else little would be left to draw.
WHOLE, PIECES = 0.25, 0.1


class Candidate(NamedTuple):
    """An image that may be drawn."""

    group: int  # images of one group stay together
    labels: frozenset[str]  # class names of its objects, without difficult ones


def find_candidates(annotations: Mapping[str, Annotation], facts: Mapping[Path, ImageFacts]
                    ) -> dict[str, Candidate]:
    """Return {key: Candidate} of the annotations that can be read, and their images too."""
    images = {key: facts[item.image] for key, item in annotations.items()
              if item.image and item.objects is not None and facts[item.image].size}
    first = {}  # content -> name of the first image with it
    names = {key: first.setdefault(image.digest, _source_name(annotations[key].image))
             for key, image in images.items()}
    runs = _find_runs({names[key]: image for key, image in images.items()})
    groups = {name: group for group, run in enumerate(runs) for name in run}
    return {key: Candidate(groups[name], frozenset(item.name for item in annotations[key].objects
                                                   if not item.difficult))
            for key, name in names.items()}


def _source_name(path):
    """Return the name that Roboflow's versions of an image share, or the image's own path."""
    match = ROBOFLOW.fullmatch(path.stem)
    return match[1] if match else path.with_suffix("").as_posix()


def _find_runs(images):
    """Return the names of {name: ImageFacts} in groups, of frames of one video or one name."""
    order = sorted(images, key=lambda name: [int(part) if k % 2 else part for k, part
                                             in enumerate(re.split(r"(\d+)", name))])
    rows = np.array([images[name].fingerprint for name in order])
    runs = [order[:1]]
    for previous, name, likeness in zip(order, order[1:], (rows[1:] * rows[:-1]).sum(1)):
        if likeness >= SAME_SCENE and re.sub(r"\d+", "", previous) == re.sub(r"\d+", "", name):
            runs[-1].append(name)
        else:
            runs.append([name])
    steps = [max(1, round(PIECES * len(order))) if len(run) > WHOLE * len(order) else len(run)
             for run in runs]
    return [run[start:start + step] for run, step in zip(runs, steps)
            for start in range(0, len(run), step or 1)]
