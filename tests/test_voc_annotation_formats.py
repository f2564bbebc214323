"""voc_annotation.py: the report, strict runs, several years, other formats."""

import json

import numpy as np
import pytest
from voc_folder import SPLITS, Folder, no_search, save, twenty, voc  # noqa: F401 (fixtures)

from utils.cli import UserError


def test_the_report_lies_beside_the_lists(twenty, monkeypatch, capsys):
    voc, ids = twenty
    monkeypatch.undo()  # the search and the plots, once
    voc.xml(ids[0], ("cat", 1, 1, 30, 30), ("dog", 1, 1, 300, 30))
    voc.run(input_shape=(260, 260), backbone="mobilenetv2")
    text = (voc.path / "dataset_report.html").read_text(encoding="utf-8")
    assert "cover" in capsys.readouterr().out and "cover" in text
    assert f"{ids[0]}.xml, object 2 (dog)" in text and text.count("data:image/png") == 2
    assert text.count("data:image/jpeg") == 12


def test_strict_writes_no_lists(twenty):
    voc, ids = twenty
    voc.xml(ids[0], ("dog", 1, 1, 30, 30))
    for name, members in zip(SPLITS, (ids[:14], ids[14:17], ids[17:])):
        voc.split(name, members)
    voc.xml(ids[1], ("cat", 1, 1, 300, 30))
    with pytest.raises(UserError, match="^1 problems and strict = True"):
        voc.run(strict=True)
    assert not list(voc.path.glob("2007_*.txt"))
    voc.xml(ids[1], ("cat", 1, 1, 30, 30))
    voc.run(strict=True)
    assert len(list(voc.path.glob("2007_*.txt"))) == 3


def test_years_are_joined(twenty):
    voc, ids = twenty
    later = Folder(voc.path / "more", "2012")
    later.fill(ids, "dog")
    later.root.rename(voc.root.parent / "VOC2012")
    voc.run(years=("2007", "2012"), test_share=0.2, val_share=0.1)
    records = [record for name in SPLITS for record in voc.list(name)]
    assert [len(voc.list(name)) for name in SPLITS] == [28, 4, 8]
    # Equal names are different images, with the class of their year.
    assert len({record.path for record in records}) == 40
    assert all(record.labels.tolist() == ["VOC2012" in str(record.path)] for record in records)
    for year in ("2007", "2012"):
        main_dir = voc.root.parent / f"VOC{year}" / "ImageSets" / "Main"
        assert len((main_dir / "train.txt").read_text().split()) == 14


def write_source(folder, form, names):
    """Write images with one cat each, at edges (10, 10, 30, 30), in one of the formats."""
    for name in names:
        save(folder / f"{name}.jpg")
    if form == "coco":
        (folder / "a.json").write_text(json.dumps({
            "images": [{"id": k, "file_name": f"{name}.jpg", "width": 50, "height": 40}
                       for k, name in enumerate(names)],
            "categories": [{"id": 4, "name": "cat"}],
            "annotations": [{"image_id": k, "category_id": 4, "bbox": [10, 10, 20, 20]}
                            for k in range(len(names))]}))
    elif form == "csv":
        rows = [f"{name}.jpg,cat,10,10,30,30\n" for name in names]
        (folder / "a.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + "".join(rows))
    else:
        (folder / "data.yaml").write_text("names: [dog, cat]")
        for name in names:
            (folder / f"{name}.txt").write_text("1 0.4 0.5 0.4 0.5")


@pytest.mark.parametrize("form", ["coco", "yolo", "csv"])
def test_other_formats_are_drawn_from(voc, form):
    source, names = voc.path / "source", [f"p {k}" for k in range(20)]
    write_source(source, form, names)
    voc.run(annotation_format=form, annotation_path=str(source))
    found = {name: voc.list(name) for name in SPLITS}
    assert [len(found[name]) for name in SPLITS] == [16, 2, 2]
    records = sum(found.values(), [])
    assert sorted(record.path.stem for record in records) == sorted(names)
    for record in records:
        np.testing.assert_allclose(record.boxes_px, [[10, 10, 30, 30]], atol=1e-3)
        assert record.labels.tolist() == [0] and record.path.is_file()


@pytest.mark.parametrize("form", ["coco", "yolo", "csv"])
def test_split_folders_are_kept(voc, form):
    for name, folder in zip(SPLITS, ("train", "valid", "test")):
        write_source(voc.path / "source" / folder, form, [f"{name}{k}" for k in range(3)])
    voc.run(annotation_format=form, annotation_path=str(voc.path / "source"))
    for name in SPLITS:
        assert sorted(voc.listed(name)) == [f"{name}{k}" for k in range(3)]


@pytest.mark.parametrize("form, path", [("coco", ""), ("yolo", "none"), ("csv", "VOCdevkit")])
def test_other_formats_need_a_path(voc, form, path):
    with pytest.raises(UserError, match="annotation_path"):
        voc.run(annotation_format=form, annotation_path=str(voc.path / path) if path else "")
