"""get_map.py: figures on the screen first, then in files; the settings of weights; bad folders."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fill_state_dict, fixture_keys
from tiny_detector import NAMES, photo, tiny_detector

import get_map
from ssd import SSD
from utils.cli import UserError
from utils.data.annotations import read_list


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list of three images with its classes, and random weights."""
    folder = tmp_path_factory.mktemp("with space")
    tiny_detector().save(folder / "best.pth")
    lines = [f"{photo(folder / f'{k}.png', k)} 5,5,{40 + k},30,0 20,10,60,50,0\n"
             for k in range(3)]
    (folder / "2007_test.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "2007_classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return folder


@pytest.fixture
def measure(folder, tmp_path, capsys):
    """Return a call that runs get_map.py; its output is in `measure.out` whatever happens."""
    def run(**changes):
        values = {"model_path": str(folder / "best.pth"), "device": "cpu",
                  "test_list": str(folder / "2007_test.txt"),
                  "map_out_path": str(tmp_path / "map_out"), **changes}
        try:
            get_map.main(get_map.MapSettings(**values))
        finally:
            run.out = capsys.readouterr().out
        return run.out
    return run


def test_files_hold_what_is_printed(measure, folder, tmp_path):
    out = measure()
    values = json.loads((tmp_path / "map_out" / "results.json").read_text(encoding="utf-8"))
    assert list(values["classes"]) == list(NAMES)
    assert values["classes"]["dog"]["ap_area"] is None and values["classes"]["dog"]["objects"] == 0
    assert values["classes"]["cat"]["objects"] == 6
    assert f"mAP@0.5 {values['map_area']:.4f}" in out
    assert (tmp_path / "map_out" / "results.txt").read_text(encoding="utf-8") in out
    assert (tmp_path / "map_out" / "precision_recall.png").stat().st_size > 5000
    records, _ = read_list(folder / "2007_test.txt")
    results, _ = tiny_detector().evaluate(records)
    assert values["map_area"] == pytest.approx(results[0].ap_area, abs=1e-6)


def test_figures_are_printed_though_files_cannot_be_written(measure, tmp_path):
    map_out = tmp_path / "map_out"
    (map_out / "results.txt").mkdir(parents=True)
    with pytest.raises(UserError, match=r"results\.txt: cannot be written.*\n1 files are missing"):
        measure()
    assert "mAP@0.5 0." in measure.out
    assert {"results.txt", "results.json", "precision_recall.png", "errors.png", "confusion.png",
            "detections.json", "comp4",
            "ground_truth.json"} <= {path.name for path in map_out.iterdir()}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_figures_are_printed_on_a_full_disk(measure, tmp_path, monkeypatch):
    """The old files stay as they were."""
    measure()
    files = [path for path in (tmp_path / "map_out").rglob("*.*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    monkeypatch.setattr(Path, "unlink", lambda path, **_: None)
    for path in files:
        if not path.with_suffix(".part").is_symlink():
            path.with_suffix(".part").symlink_to("/dev/full")
    count = len(files)
    with pytest.raises(UserError, match=rf"No space left on device\).\n{count} files are missing"):
        measure()
    assert "mAP@0.5 0." in measure.out
    assert before == {path: path.read_bytes() for path in before}


def test_a_folder_that_cannot_be_made_stops_before_the_work(measure, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the folder cannot be made"):
        measure(map_out_path=str(tmp_path / "file"))


def test_the_settings_of_the_weights_reach_the_detector(measure, tmp_path, monkeypatch):
    """The same file scored with the conventions of two families gives two detectors."""
    fixture = np.load(Path(__file__).parent / "fixtures" / "bubbliiiing-vgg.npz")
    torch.save(fill_state_dict(fixture_keys(fixture), 7), tmp_path / "published.pth")
    names = tmp_path / "names.txt"
    rows = next(shape[0] for name, shape in fixture_keys(fixture) if name == "conf.0.weight") // 4
    names.write_text("\n".join(f"c{k}" for k in range(rows - 1)))
    seen = []
    monkeypatch.setattr(SSD, "detect_records", lambda self, *_, **__: seen.append(self) or 1 / 0)
    monkeypatch.setattr(get_map, "check_same_classes", lambda *_: None)
    for family in ("amdegroot", "bubbliiiing"):
        with pytest.raises(ZeroDivisionError):
            measure(model_path=str(tmp_path / "published.pth"), weights_family=family,
                    classes_path=str(names))
    one, other = (detector.spec for detector in seen)
    assert one != other and seen[0].precision == "fp32"
    assert seen[0].class_names == tuple(f"c{k}" for k in range(rows - 1))


def test_every_flag_that_messages_name_exists():
    fields = get_map.MapSettings.__dataclass_fields__
    assert {"model_path", "classes_path", "weights_family", "device", "precision"} <= set(fields)
    assert fields["precision"].default == "fp32"
    # Thresholds for looking have no say in scoring.
    assert not {"confidence", "nms_iou"} & set(fields)


@pytest.mark.parametrize("form", [".", "detections.json", "comp4"])
def test_detections_that_were_written_have_the_same_figures(form, measure, tmp_path):
    """Without weights, and from wherever they lie."""
    out = measure()
    again = measure(detections=str(tmp_path / "map_out" / form), model_path="no such file",
                    map_out_path=str(tmp_path / "again"))
    assert again.splitlines()[:-1] == out.splitlines()[-len(again.splitlines()):-1]
    values = [json.loads((tmp_path / folder / "results.json").read_text(encoding="utf-8"))
              for folder in ("map_out", "again")]
    assert values[0] == values[1] and len(values[0]["coco"]) == 12


def test_classes_without_objects_or_detections_are_shown(measure, folder, tmp_path):
    path = tmp_path / "some.json"
    path.write_text(json.dumps([{"image_id": "1", "category_id": "cat", "score": 0.625,
                                 "bbox": [20, 10, 40, 40]}]))
    out = measure(detections=str(path))
    values = json.loads((tmp_path / "map_out" / "results.json").read_text(encoding="utf-8"))
    assert values["map_area"] == values["classes"]["cat"]["ap_area"] == pytest.approx(1 / 6)
    assert values["classes"]["dog"]["ap_area"] is values["classes"]["dog"]["best_f1"] is None
    assert values["best_f1"]["f1"] == pytest.approx(2 / 7)
    assert "1 of 2 classes are not in the mean, for want of objects: dog" in out
    assert "for predict.py: --confidence 0.624\n" in out
    path.write_text("[]")
    assert "1 of 2 classes were never detected: cat" in measure(detections=str(path))
    assert "nothing was found of 6 objects" in measure.out


def test_the_size_of_an_image_is_read_once(measure, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("utils.evaluation.detection_files.image_size",
                        lambda path: seen.append(path) or (96, 64))
    (tmp_path / "some.json").write_text("[]")
    measure(detections=str(tmp_path / "some.json"))
    assert len(seen) == len(set(seen)) == 3


def test_an_image_twice_stops_before_the_work(measure, folder, tmp_path):
    lines = (folder / "2007_test.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "2007_test.txt").write_text("\n".join([*lines, lines[0]]))
    (tmp_path / "2007_classes.txt").write_text("\n".join(NAMES))
    with pytest.raises(UserError, match=r"0\.png stands twice in the list"):
        measure(test_list=str(tmp_path / "2007_test.txt"))


@pytest.mark.parametrize("changes, message", [
    ({"detections": "nowhere.json"}, "no such file or folder"),
    ({"detections": os.devnull}, "not a file"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"precision": "int8"}, "precision must be one of"),
    ({"weights_family": "junk"}, "weights_family must be one of"),
    ({"test_list": "nowhere/2007_test.txt"}, "Run voc_annotation.py"),
])
def test_settings_that_cannot_work(measure, changes, message):
    with pytest.raises(UserError, match=message):
        measure(**changes)


def test_lists_of_other_classes_are_refused(measure, folder, tmp_path):
    (tmp_path / "2007_test.txt").write_text((folder / "2007_test.txt").read_text())
    (tmp_path / "2007_classes.txt").write_text("\n".join(NAMES[::-1]))
    with pytest.raises(UserError, match="number 1 is 'cat' in the first, 'dog'"):
        measure(test_list=str(tmp_path / "2007_test.txt"))


def test_the_report_and_the_comparison_of_two_runs(measure, folder, tmp_path):
    measure()
    values = json.loads((tmp_path / "map_out" / "results.json").read_text(encoding="utf-8"))
    text = (tmp_path / "map_out" / "report.html").read_text(encoding="utf-8")
    assert f"{values['map_area']:.4f}" in text and "confidence of 0.01" in text
    assert f"{values['errors']['background']['cost']:.4f}" in text and "0.png" in text
    rows = json.loads((tmp_path / "map_out" / "detections.json").read_text(encoding="utf-8"))
    rows += [{"image_id": k, "category_id": 1, "bbox": [20, 10, 40, 40], "score": 1}
             for k in range(3)]  # named by number, the images have their names as ids
    better = tmp_path / "better.json"
    better.write_text(json.dumps(rows), encoding="utf-8")
    measure(map_out_path=str(tmp_path / "better"), detections=str(better))
    assert "better.json" in (tmp_path / "better" / "report.html").read_text(encoding="utf-8")
    out = measure(compare=(str(tmp_path / "map_out"), str(tmp_path / "better")), test_list="none")
    assert "images that got better: 3" in out and "images that got worse: 0" in out
    with pytest.raises(UserError, match="needs two folders"):
        measure(compare=("map_out",))
