"""Broken and hostile annotations and images: a UserError of two lines, or a listed decision."""

import os

import cv2
import numpy as np
import pytest
from bad_inputs import (
    GOOD,
    Voc,
    annotate,
    annotation,
    boxed,
    encoded,
    image,
    jpeg_header,
    jpeg_with_orientation,
    jpeg_with_thumbnail,
    listed,
    png_header,
    refused,
    said,
    sized,
    table,
)
from PIL import Image

from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.image_check import is_truncated
from utils.data.loader import DetectionDataset, Loader
from utils.image import as_rgb_array, image_size, load_image
from utils.multibox.spec import SSDSpec

ENTITIES = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10 if k else "lol" * 10}">' for k in range(10))

# name, what follows the good object in p0.xml, what is said, objects that p0 is left with
OBJECTS = [
    ("text", boxed("left", 5, 30, 30), "bad object|p0.xml, object 2 (cat)|no bndbox", 1),
    ("empty", boxed("", 5, 30, 30), "bad object|object 2 (cat)", 1),
    ("nan", boxed("nan", 5, 30, 30), "coordinate not a number|object 2 (cat)", 1),
    ("inf", boxed(5, 5, "inf", 30), "coordinate not a number|inf", 1),
    ("minus inf", boxed("-Infinity", 5, 30, 30), "coordinate not a number", 1),
    ("overflow", boxed(5, 5, "1e999", 30), "coordinate not a number", 1),
    ("huge", boxed(5, 5, "1e300", 30), "outside the image|clipped", 2),
    ("huge everywhere", boxed("1e300", "1e300", "2e300", "2e300"), "no area", 1),
    ("negative", boxed(-50, -50, 30, 30), "outside the image|(-51, -51, 30, 30)", 2),
    ("negative everywhere", boxed(-50, -50, -30, -30), "no area|object left out", 1),
    ("beyond", boxed(200, 5, 300, 30), "no area|in a 64x48 image", 1),
    ("swapped", boxed(40, 5, 9, 30), "corners swapped|put right", 2),
    ("just beyond", boxed(65, 5, 65, 30), "no area", 1),
    ("zeros", boxed(0, 0, 0, 0), "no area", 1),
    ("decimal commas", boxed("5,5", 5, "30,5", 30), "bad object", 1),
    ("no bndbox", "<object><name>cat</name></object>", "bad object|object 2 (cat)", 1),
    ("no corner", boxed(5, 5, 30, 30).replace("<ymax>30</ymax>", ""), "bad object", 1),
    ("no name", GOOD.replace("<name>cat</name>", ""), "bad object|no class name", 1),
    ("blank name", GOOD.replace("cat", ""), "bad object|no class name", 1),
    ("name of spaces", GOOD.replace("cat", " \t\n "), "bad object|no class name", 1),
    ("nothing in it", "<object/>", "bad object|object 2 (?)", 1),
    ("unknown class", GOOD.replace("cat", "Cta"),
     "unknown class|'Cta', 1 objects left out; did you mean 'cat'?", 1),
    ("very long class", GOOD.replace("cat", "c" * 100_000), "unknown class", 1),
    ("markup in the class", GOOD.replace("cat", "&lt;script&gt;"), "unknown class|<script>", 1),
    ("duplicates", GOOD * 3000, "3000 x duplicate (object left out)", 1),
    ("size zero", sized(0, 0), "", 1),
    ("size negative", sized(-64, -48), "", 1),
    ("size in words", sized("wide", "high"), "", 1),
    ("size inf", sized("inf", "inf"), "", 1),
    ("size wrong", sized(500, 100), "size disagrees|p0.xml: annotated 500x100", 1),
    ("size huge", sized("64e300", "48e300"), "size disagrees|boxes scaled|no area", 0),
    ("size lopsided", sized("1e308", 1), "size disagrees|boxes taken as they are", 1),
    ("filename outside", "<filename>../../../../etc/passwd</filename>", "", 1),
    ("filename absolute", "<filename>/etc/passwd</filename>", "", 1),
    ("filename of Windows", r"<filename>C:\Users\me\p0.jpg</filename>", "", 1),
]


@table(OBJECTS)
def test_object(tmp_path, capsys, case):
    _, parts, words, left = case
    voc = Voc(tmp_path)
    voc.xml(GOOD, parts)
    annotate(voc)
    said(words, capsys.readouterr().out)
    assert listed(voc) == {"p0": left, "p1": 2, "p2": 2, "p3": 2}


def test_filename_outside_is_not_followed(tmp_path, capsys):
    voc = Voc(tmp_path)
    secret = tmp_path / "secret.jpg"
    image().save(secret)
    voc.replaced()
    for name in ("../../../secret.jpg", str(secret)):
        voc.xml(f"<filename>{name}</filename>", GOOD)
        annotate(voc)
        said("image missing|p0.xml: no image for 'p0'", capsys.readouterr().out)
        assert "p0" not in listed(voc) and "secret" not in listed(voc)


XML = annotation(GOOD)
# name, content of p0.xml, what is said; p0 is left out
ANNOTATIONS = [
    ("cut short", XML[:len(XML) // 2], "p0.xml: not a readable XML file"),
    ("empty", "", "no element found"),
    ("only spaces", " \n ", "p0.xml"),
    ("html", "<!DOCTYPE html><html><body><br>404</body></html>", "mismatched tag"),
    ("well-formed html", "<html><body>404</body></html>", "<html> is no VOC annotation"),
    ("another tool's", "<annotations><image id='0'/></annotations>", "<annotations> is no VOC"),
    ("json", '{"images": []}', "p0.xml"),
    ("binary", bytes(range(256)) * 4, "p0.xml"),
    ("zeros", bytes(4096), "p0.xml"),
    ("an image", encoded(image(), "png"), "p0.xml"),
    ("billion laughs", f"<!DOCTYPE a [{ENTITIES}]>" + annotation("&e9;", GOOD), "entities"),
    ("billion laughs in UTF-16",
     f"<!DOCTYPE a [{ENTITIES}]>{annotation('&e9;')}".encode("utf-16"), "entities"),
    ("billion laughs in UTF-7",
     b"<?xml version='1.0' encoding='u7'?>" + f"<!DOCTYPE a [{ENTITIES}]>&e9;".replace(
         "<!E", "+ADw-!E").encode(), "p0.xml"),
    ("external entity", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
     + annotation("<object><name>&x;</name></object>"), "entities"),
    ("undefined entity", annotation("<object><name>&x;</name></object>"), "undefined entity"),
    ("unknown encoding", '<?xml version="1.0" encoding="klingon"?>' + XML, "unknown encoding"),
    ("no text encoding", '<?xml version="1.0" encoding="zlib"?>' + XML, "p0.xml"),
    ("wrong encoding", '<?xml version="1.0" encoding="UTF-16"?>' + XML, "p0.xml"),
    ("latin-1 undeclared", annotation(GOOD.replace("cat", "café")).encode("latin-1"), "p0.xml"),
    ("broken declaration", '<?xml version="1.0" ' + "encoding='x' " * 100_000, "p0.xml"),
    ("two roots", XML * 2, "junk after document element"),
    ("control characters", XML.replace("cat", "c\x01t"), "p0.xml"),
]


@table(ANNOTATIONS)
def test_annotation_file(tmp_path, capsys, case):
    _, data, words = case
    voc = Voc(tmp_path)
    voc.xml_bytes(data if isinstance(data, bytes) else data.encode())
    annotate(voc)
    out = capsys.readouterr().out
    said(f"1 x unreadable annotation (left out)|{words}", out)
    assert "root:" not in out
    assert listed(voc) == {"p1": 2, "p2": 2, "p3": 2}


def test_external_dtd_is_not_read(tmp_path):
    voc = Voc(tmp_path)
    (tmp_path / "x.dtd").write_text("<!ELEMENT broken")
    voc.xml_bytes(f'<!DOCTYPE a SYSTEM "{tmp_path}/x.dtd">{XML}'.encode())
    annotate(voc)
    assert listed(voc)["p0"] == 1


@pytest.mark.parametrize("tag, words", [("part", ""), ("object", "30001 x bad object")])
def test_deep_nesting(tmp_path, capsys, tag, words):
    voc = Voc(tmp_path)
    voc.xml(GOOD, f"<{tag}>" * 30_001, f"</{tag}>" * 30_001)
    annotate(voc)
    said(words, capsys.readouterr().out)
    assert listed(voc)["p0"] == 1


def text_file(voc):
    voc.image(b"this is no image\n" * 50)


def dangling_link(voc):
    voc.replaced().symlink_to("nowhere.jpg")


def link_circle(voc):
    path = voc.replaced()
    path.symlink_to("other.jpg")
    (voc.images / "other.jpg").symlink_to(path)


def noise():
    """Return an image that is more data than header in any format."""
    levels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def cut(kind, share=0.6):
    """Return a builder that leaves a share of p0's file."""
    def build(voc):
        data = encoded(noise(), kind)
        voc.image(data[:int(share * len(data))])
    return build


def cut_behind_thumbnail(voc):
    data = jpeg_with_thumbnail(noise())
    voc.image(data[:int(0.9 * len(data))])


def to_zero_device(voc):
    voc.replaced().symlink_to("/dev/zero")


# name, what happens to p0.jpg, what is said, whether load_image must fail; p0 is left out
IMAGES = [
    ("zero bytes", lambda voc: voc.image(b""), "image unreadable|p0.jpg", True),
    ("text", text_file, "image unreadable|not an image that can be read", True),
    ("only a JPEG mark", lambda voc: voc.image(b"\xff\xd8"), "image unreadable", True),
    # OpenCV 5 refuses these; version 4 fills the rest with grey, which the doctor must notice.
    ("cut JPEG", cut("jpeg"), "p0.jpg", None),
    ("JPEG without its last byte", cut("jpeg", 0.9999), "p0.jpg", None),
    ("cut JPEG with thumbnail", cut_behind_thumbnail, "p0.jpg", None),
    ("cut JPEG header", cut("jpeg", 0.01), "image unreadable", True),
    ("cut PNG", cut("png"), "p0.jpg", None),
    ("cut BMP", cut("bmp"), "p0.jpg", None),
    ("cut WEBP", cut("webp"), "p0.jpg", True),
    ("bomb PNG", lambda voc: voc.image(png_header(60000, 60000)), "image unreadable", True),
    ("bomb JPEG", lambda voc: voc.image(jpeg_header(60000, 60000)), "image unreadable", True),
    ("empty PNG", lambda voc: voc.image(png_header(0, 0)), "image unreadable", True),
    ("folder", lambda voc: voc.replaced().mkdir(), "image missing|p0.xml", True),
    ("dangling link", dangling_link, "image unreadable|No such file", True),
    ("link circle", link_circle, "image unreadable|symbolic links", True),
    ("pipe", lambda voc: os.mkfifo(voc.replaced()), "image missing", None),
    ("endless device", to_zero_device, "image missing", None),
    ("gone", lambda voc: voc.replaced(), "image missing|no image for 'p0'", True),
]


@table(IMAGES)
def test_image(tmp_path, capsys, case):
    _, build, words, unloadable = case
    voc = Voc(tmp_path)
    build(voc)
    annotate(voc)
    said(f"image left out|{words}", capsys.readouterr().out)
    assert listed(voc) == {"p1": 2, "p2": 2, "p3": 2}
    path = voc.images / "p0.jpg"
    if unloadable:
        refused(str(path), load_image, path)


@pytest.mark.parametrize("share, cut", [(1, False), (0.99, True), (0.5, True)])
def test_the_end_mark_of_a_thumbnail_is_not_the_images(share, cut):
    for data in (encoded(noise(), "jpeg"), jpeg_with_thumbnail(noise())):
        assert is_truncated(data[:int(share * len(data))]) == cut


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_unreadable_permissions(tmp_path, capsys):
    voc = Voc(tmp_path)
    (voc.images / "p0.jpg").chmod(0)
    (voc.xmls / "p1.xml").chmod(0)
    (voc.main / "train.txt").write_text("p0\np1\np2\n")
    annotate(voc)
    said("image unreadable|unreadable annotation", capsys.readouterr().out)
    assert listed(voc) == {"p2": 2, "p3": 2}


def grey16():
    return Image.fromarray(np.asarray(image().convert("L")).astype(np.uint16) * 257)


# name, bytes of an image that is unusual but good, levels that decoders may differ by
UNUSUAL = [
    ("grey", lambda: encoded(image().convert("L"), "jpeg"), 2),
    ("black and white", lambda: encoded(image().convert("1"), "png"), 0),
    ("palette", lambda: encoded(image().convert("P"), "png"), 0),
    ("palette with alpha", lambda: encoded(image().convert("P"), "png", transparency=3), 0),
    ("RGBA", lambda: encoded(image().convert("RGBA"), "png"), 0),
    ("transparent", lambda: encoded(Image.merge(
        "RGBA", [*image().split(), Image.linear_gradient("L").resize((64, 48))]), "png"), 0),
    ("grey with alpha", lambda: encoded(image().convert("LA"), "png"), 0),
    ("16 bits", lambda: encoded(grey16(), "png"), 1),
    ("16 bits TIFF", lambda: encoded(grey16(), "tiff"), 1),
    ("CMYK", lambda: encoded(image().convert("CMYK"), "jpeg"), 3),
    ("GIF", lambda: encoded(image(), "gif"), 1),
    ("PNG", lambda: encoded(image(), "png"), 0),
    ("WEBP", lambda: encoded(image(), "webp"), 3),
    ("one pixel", lambda: encoded(image(0, (1, 1)), "png"), 0),
    ("a row", lambda: encoded(image(0, (500, 1)), "png"), 0),
    ("a column", lambda: encoded(image(0, (1, 500)), "png"), 0),
    ("orientation in letters", lambda: jpeg_with_orientation(2, 2, b"6\0\0\0"), 2),
    ("orientation 9", lambda: jpeg_with_orientation(3, 1, b"\x09\0\0\0"), 2),
    ("orientation 6", lambda: jpeg_with_orientation(3, 1, b"\x06\0\0\0"), 2),
    ("thumbnail", lambda: jpeg_with_thumbnail(image()), 2),
]


@table(UNUSUAL)
def test_unusual_image_loads_and_trains(tmp_path, capsys, case):
    _, build, tolerance = case
    voc = Voc(tmp_path)
    path = voc.image(build())
    if not cv2.haveImageReader(str(path)):
        pytest.skip("this OpenCV does not read the format")
    loaded = load_image(path)
    with Image.open(path) as image:
        other = as_rgb_array(image)
    assert loaded.dtype == other.dtype == np.uint8 and loaded.shape == other.shape
    assert loaded.shape[1::-1] == tuple(image_size(path))
    assert np.abs(loaded.astype(int) - other).max() <= tolerance
    height, width = loaded.shape[:2]
    voc.xml(boxed(1, 1, width, height))
    annotate(voc)
    assert listed(voc)["p0"] == 1
    records, _ = read_list(tmp_path / "2007_train.txt")
    for name in AUGMENTATIONS:
        dataset = DetectionDataset(records, SSDSpec(), AUGMENTATIONS[name], 0)
        [[batch]] = Loader(dataset, batch_size=2, accumulate=1, seed=0, num_workers=0).epoch(0)
        assert batch.images.shape == (2, 3, 300, 300) and batch.boxes.isfinite().all()


def test_everything_at_once_with_the_whole_report(tmp_path, capsys):
    """Nothing left out: priors are searched, figures and samples drawn."""
    voc = Voc(tmp_path)
    voc.xml(*(parts for name, parts, *_ in OBJECTS if name != "size lopsided"))
    for k, (_, data, _) in enumerate(ANNOTATIONS):
        (voc.xmls / f"a{k}.xml").write_bytes(data if isinstance(data, bytes) else data.encode())
    annotate(voc, quick=False)
    said(f"{len(ANNOTATIONS)} x unreadable annotation|report:", capsys.readouterr().out)
    assert (tmp_path / "dataset_report.html").stat().st_size > 10_000
