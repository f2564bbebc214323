"""get_map.py: the figures on the screen and in files; detections of files; wrong settings."""

import json

import pytest
from tiny_detector import NAMES, photo, tiny_detector

import get_map
from utils.cli import VERSION, UserError
from utils.data.annotations import list_text, read_list
from utils.evaluation.voc_ap import evaluate_voc


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list of three images, and random weights."""
    folder = tmp_path_factory.mktemp("with space")
    tiny_detector().save(folder / "best.pth")
    lines = [f"{photo(folder / f'{k}.png', k)} 5,5,{40 + k},30,0 20,10,60,50,0\n"
             for k in range(3)]
    header = list_text([], NAMES)
    (folder / "2007_test.txt").write_text(header + "".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def measure(folder, tmp_path, capsys):
    """Return a call that runs get_map.py and returns its output."""
    def run(**changes):
        get_map.main(get_map.MapSettings(**{
            "model_path": str(folder / "best.pth"), "device": "cpu",
            "test_list": str(folder / "2007_test.txt"),
            "map_out_path": str(tmp_path / "map_out"), **changes}))
        return capsys.readouterr().out
    return run


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_files_hold_the_figures_that_are_printed(measure, folder, tmp_path):
    out, map_out = measure(), tmp_path / "map_out"
    values = read_json(map_out / "results.json")
    assert list(values["classes"]) == list(NAMES) and len(values["coco"]) == 12
    assert values["classes"]["dog"]["ap_area"] is None and values["classes"]["dog"]["objects"] == 0
    assert values["classes"]["cat"]["objects"] == 6
    assert f"mAP@0.5 {values['map_area']:.4f}" in out
    assert (map_out / "results.txt").read_text(encoding="utf-8") in out
    text = (map_out / "report.html").read_text(encoding="utf-8")
    assert f"{values['map_area']:.4f}" in text and "0.png" in text
    model = f"model {folder.name}/best.pth, confidence 0.5, the default; measured"
    assert model in text and model in out
    assert values["detector"]["model"] == f"{folder.name}/best.pth"
    assert values["classes"]["cat"]["at_confidence"]["confidence"] == 0.5
    assert values["version"] == VERSION
    results = tiny_detector().evaluate(read_list(folder / "2007_test.txt")[0])
    assert values["map_area"] == pytest.approx(results[0].ap_area, abs=1e-6)


def test_other_thresholds_are_those_of_voc_at_them(measure, folder, tmp_path):
    out = measure(iou=(0.3, 0.75))
    values = read_json(tmp_path / "map_out" / "results.json")
    records, _ = read_list(folder / "2007_test.txt")
    detections = tiny_detector().detect_records(records)
    for iou in ("0.3", "0.75"):
        cat = evaluate_voc(detections, records, 2, iou_threshold=float(iou))[0]
        assert f"mAP@{iou} {cat.ap_area:.4f} (area), {cat.ap_11_point:.4f} (11-point)" in out
        assert values["by_iou"][iou]["ap_area"]["cat"] == pytest.approx(cat.ap_area, abs=1e-6)
    assert values["iou"] == 0.3 and values["map_area"] == values["by_iou"]["0.3"]["map_area"]
    assert values["map_area"] > values["by_iou"]["0.75"]["map_area"] and "AP 0.75" in out


def test_detections_that_were_written_have_the_same_figures(measure, tmp_path):
    """Without weights, and from wherever they lie."""
    measure()
    for form in (".", "detections.json"):
        measure(detections=str(tmp_path / "map_out" / form), model_path="no such file",
                map_out_path=str(tmp_path / "again"))
        one, other = (read_json(tmp_path / name / "results.json") for name in ("map_out", "again"))
        for name in ("coco", "by_iou", "errors", "best_f1"):  # the rest goes by the confidence
            assert one[name] == other[name]


@pytest.mark.parametrize("changes, message", [
    ({"detections": "nowhere.json"}, "no such file or folder"),
    ({"batch_size": 0}, "batch_size must lie in 1"),
    ({"iou": (0.5, 0)}, "iou must lie in 0.01"),
    ({"precision": "int8"}, "precision must be one of"),
    ({"test_list": "nowhere/2007_test.txt"}, "Run voc_annotation.py"),
    ({"compare": ("map_out",)}, "needs two folders"),
])
def test_settings_that_cannot_work(measure, changes, message):
    with pytest.raises(UserError, match=message):
        measure(**changes)
