"""Shared by all tests: the repo on the import path, property tests, and a short training."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Property tests: few examples, always the same; HYPOTHESIS_PROFILE=long looks for new ones.
settings.register_profile("default", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with lists of 8 images to train on and 4 to measure, of drawn shapes."""
    import voc_annotation
    from utils.data import demo_data

    folder = tmp_path_factory.mktemp("with space")
    demo_data.main(demo_data.DemoSettings(folder=str(folder), images=14, held_out=0))
    with pytest.MonkeyPatch.context() as patch:  # the search for priors takes seconds
        patch.setattr("utils.data.dataset_report.fit_priors", lambda boxes, spec, *_, **__: spec)
        voc_annotation.main(voc_annotation.AnnotationSettings(
            classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
            lists_dir=str(folder), val_share=0.3, test_share=0.1))
    for name, count in (("train", 8), ("val", 4)):
        lines = (folder / f"2007_{name}.txt").read_text().splitlines(keepends=True)
        (folder / f"{name}.txt").write_text("".join(lines[:count + 1]))
    return folder


@pytest.fixture(scope="session")
def short_training(data):
    """Settings of a training of seconds with the `tiny` backbone, as {name: value}."""
    return {"train_list": str(data / "train.txt"), "val_list": str(data / "val.txt"),
            "backbone": "resnet50", "backbone_weights": "", "input_shape": (128, 128),
            "epochs": 3, "batch_size": 2, "num_workers": 0, "device": "cpu", "precision": "fp32",
            "sample_period": 0, "run_name": "run"}


@pytest.fixture
def flags(short_training):
    """The same, to be changed."""
    return dict(short_training)


@pytest.fixture
def tiny(monkeypatch):
    """Let resnet50 be a backbone of three layers."""
    import tiny_train
    tiny_train.use_tiny(monkeypatch)
