"""voc_annotation.py on small copies of VOC07+12 and of COCO's own folder."""

import json

import pytest
from voc_folder import SPLITS, Folder, no_search, save, voc  # noqa: F401 (fixtures)

from utils.cli import UserError

# VOC's own counts by 400: 2,501 + 2,510 = 5,011 and 4,952; 5,717 + 5,823 = 11,540.
OFFICIAL = {"2007": {"train": 6, "val": 6, "test": 12}, "2012": {"train": 14, "val": 15}}
EXTRA = 6  # VOC2012 has annotated images in no list


def make_year(path, year):
    """Write a year of VOC with its official files; return {split: ids}."""
    folder, counts = Folder(path / year, year), OFFICIAL[year]
    ids = [f"{year}_{k:06d}" for k in range(sum(counts.values()) + EXTRA * (year == "2012"))]
    folder.fill(ids)
    # The splits are mixed, as VOC's are.
    splits = {"train": ids[:2 * counts["train"]:2], "val": ids[1:2 * counts["val"]:2],
              "test": ids[counts["train"] + counts["val"]:] if "test" in counts else []}
    splits["trainval"] = sorted(splits["train"] + splits["val"])
    for name, members in splits.items():
        if members:
            folder.split(name, members)
            folder.split(f"aeroplane_{name}", [f"{key} {-1 + k % 3:2d}" for k, key in
                                               enumerate(members)])
    folder.root.rename(path / "VOCdevkit" / f"VOC{year}")
    return splits


@pytest.fixture
def official(voc):  # noqa: F811
    """Return (folder, {year: splits}) of VOC07+12."""
    voc.root.rename(voc.path / "away")
    return voc, {year: make_year(voc.path, year) for year in OFFICIAL}


def state(folder):
    return {path: path.read_bytes() for path in folder.glob("VOCdevkit/*/ImageSets/Main/*")}


@pytest.mark.parametrize("val_share", [0, 0.1])
def test_trainval_of_both_years_and_the_test_of_2007(official, val_share, capsys):
    voc, splits = official
    before = state(voc.path)
    found = []
    for _ in range(2):
        voc.run(years=("2007", "2012"), train_on="trainval", val_share=val_share)
        found.append({name: voc.listed(name) for name in SPLITS
                      if (voc.path / f"2007_{name}.txt").exists()})
    lists = found[0]
    assert found[1] == lists and state(voc.path) == before
    trainval = splits["2007"]["trainval"] + splits["2012"]["trainval"]
    assert len(trainval) == 41 and lists["test"] == splits["2007"]["test"]
    assert sorted(lists["train"] + lists.get("val", [])) == sorted(trainval)
    assert len(lists.get("val", [])) == (1 + 3 if val_share else 0)
    assert f"{EXTRA} x in no split" in capsys.readouterr().out


def test_train_alone_takes_the_official_train_and_val(official):
    voc, splits = official
    before = state(voc.path)
    voc.run(years=("2007", "2012"))
    for name in SPLITS:
        assert voc.listed(name) == splits["2007"][name] + splits["2012"][name]
    assert state(voc.path) == before
    with pytest.raises(UserError, match="7 problems and strict"):
        voc.run(years=("2012",), strict=True)  # no dog, and the six


def test_without_a_val_split_an_older_list_cannot_be_used(official, capsys):
    voc, _ = official
    voc.run(years=("2007",))
    voc.run(years=("2007",), train_on="trainval", val_share=0)
    assert "2007_val.txt of an earlier run is now 2007_val.txt.old" in capsys.readouterr().out
    assert not (voc.path / "2007_val.txt").exists()


def coco(folder, images, first):
    """Write images and return COCO values of them."""
    for k in images:
        save(folder / f"{k:012d}.jpg")
    return {"images": [{"id": k, "file_name": f"{k:012d}.jpg"} for k in images],
            "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
            "annotations": [{"id": k, "image_id": k, "category_id": 17, "iscrowd": 0,
                             "bbox": [first, 2, 10, 10]} for k in images]}


@pytest.mark.parametrize("inside", ["", "images/"])
def test_cocos_own_folder_keeps_its_split(voc, inside):  # noqa: F811
    source = voc.path / "coco"
    (source / "annotations").mkdir(parents=True)
    for name, images in (("train2017", range(8)), ("val2017", range(100, 103))):
        values = coco(source / f"{inside}{name}", images, first=len(images))
        for kind in ("instances", "captions", "person_keypoints"):
            text = json.dumps(values if kind == "instances" else {"images": [], "annotations": []})
            (source / "annotations" / f"{kind}_{name}.json").write_text(text)
    voc.run(annotation_format="coco", annotation_path=str(source))
    assert voc.listed("train") == [f"{k:012d}" for k in range(8)]
    assert voc.listed("val") == [f"{k:012d}" for k in range(100, 103)]
    assert voc.list("train")[0].boxes_px.tolist() == [[8, 2, 18, 12]]
    assert voc.list("val")[0].boxes_px.tolist() == [[3, 2, 13, 12]]
    assert not (voc.path / "2007_test.txt").exists()
    assert not list(source.rglob("*drawn*"))
