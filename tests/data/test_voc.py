"""VOC XML, and finding the images of annotations."""

import pytest

from utils.cli import UserError
from utils.data.sources import ImageIndex, walk_files, whole_size
from utils.data.voc import parse_xml, read_voc, voc_objects

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def corners(*values):
    """Return corner tags, as many as there are values."""
    return "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(CORNERS, values))


def xml_object(box=(1, 1, 10, 20), name="cat", extra=""):
    """Return an <object>; box None leaves the bndbox out."""
    box = "" if box is None else f"<bndbox>{corners(*box)}</bndbox>"
    return f"<object><name>{name}</name>{extra}{box}</object>"


def size_of(root):
    return whole_size(root.findtext("size/width"), root.findtext("size/height"))


class Voc:
    """A VOC folder whose images are empty files."""

    def __init__(self, root):
        self.root = root
        for name in ("Annotations", "JPEGImages"):
            (root / name).mkdir(parents=True)

    def image(self, name):
        path = self.root / "JPEGImages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def xml(self, name, contents="", data=None):
        path = self.root / "Annotations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data or f"<annotation>{contents}</annotation>".encode())
        return path

    def read(self):
        """Return ({key: Annotation}, problems)."""
        annotations, problems = read_voc(self.root)
        return {item.key: item for item in annotations}, problems


@pytest.fixture
def voc(tmp_path):
    return Voc(tmp_path / "VOC2007")


@pytest.fixture
def objects(tmp_path):
    """Return a function from the contents of an annotation to its objects, without problems."""
    def write_and_read(contents):
        (tmp_path / "a.xml").write_text(f"<annotation>{contents}</annotation>", encoding="utf-8")
        found, problems = voc_objects(parse_xml(tmp_path / "a.xml"), "a.xml")
        assert not problems
        return found
    return write_and_read


def test_voc_pixels_become_edges(objects):
    # Pixels 1..10 across and 1..20 down are ten columns and twenty rows.
    item, = objects(xml_object())
    assert item == ("cat", (0, 0, 10, 20), False, "object 1")
    one_pixel, = objects(xml_object((7, 3, 7, 3)))
    x1, y1, x2, y2 = one_pixel.box_px
    assert (x1, y1) == (6, 2) and (x2 - x1) * (y2 - y1) == 1


def test_edges_give_the_devkit_overlap(objects):
    a, b = (25, 10, 60, 55), (40, 2, 90, 33)
    columns = set(range(25, 61)) & set(range(40, 91))
    rows = set(range(10, 56)) & set(range(2, 34))
    first, second = (item.box_px for item in objects(xml_object(a) + xml_object(b)))
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    assert width * height == len(columns) * len(rows)


def test_fractions_are_kept(objects):
    item, = objects(xml_object((1.5, "2.25", " 10.75\n", "2e1")))
    assert item.box_px == (0.5, 1.25, 10.75, 20)


@pytest.mark.parametrize("extra, difficult", [
    ("", False), ("<difficult>0</difficult>", False), ("<difficult>1</difficult>", True),
    ("<difficult></difficult>", False), ("<difficult> 1 </difficult>", True),
    ("<difficult>True</difficult><pose>Left</pose>", True),
    ("<difficult>Unspecified</difficult>", False)])
def test_difficult_may_be_missing(objects, extra, difficult):
    assert objects(xml_object(extra=extra))[0].difficult is difficult


def test_parts_are_not_objects(objects):
    part = f"<part><name>head</name><bndbox>{corners(2, 2, 3, 3)}</bndbox></part>"
    item, = objects(xml_object(extra=part))
    assert item.name == "cat" and item.box_px == (0, 0, 10, 20)


def test_objects_keep_their_order_and_names(objects):
    names = ["traffic light", "Ampel ö", "红绿灯", "cat", "светофор", "a &amp; b"]
    found = objects("".join(xml_object(name=f" {name}\n") for name in names))
    assert [item.name for item in found] == [*names[:-1], "a & b"]


@pytest.mark.parametrize("size, expected", [
    ("<size><width>50</width><height>40</height></size>", (50, 40)), ("", None), ("<size/>", None),
    ("<size><height>40</height><width>50.0</width><depth>3</depth></size>", (50, 40)),
    ("<size><width>0</width><height>0</height></size>", None),
    ("<size><width>nan</width><height>inf</height></size>", None),
    ("<size><width>-5</width><height>40</height></size>", None),
    ("<size><width>x</width><height>40</height></size>", None)])
def test_size_where_it_makes_sense(voc, size, expected):
    assert size_of(parse_xml(voc.xml("a.xml", size))) == expected


@pytest.mark.parametrize("codec, declared, name", [
    ("utf-8", None, "ö 车"), ("utf-8-sig", None, "ö 车"), ("utf-8-sig", "utf-8", "ö 车"),
    ("utf-16", None, "ö 车"), ("utf-16", "UTF-16", "ö 车"), ("latin-1", "ISO-8859-1", "Hündchen"),
    ("cp1252", "windows-1252", "Hündchen"), ("gb2312", "gb2312", "汽车"), ("gbk", "GBK", "汽車"),
    ("shift_jis", "Shift_JIS", "自動車"), ("euc-kr", "EUC-KR", "자동차"),
    ("cp1251", "cp1251", "кот")])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings(voc, codec, declared, name, newline):
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    text = f"{head}<annotation>\n{xml_object(name=name)}\n</annotation>\n".replace("\n", newline)
    root = parse_xml(voc.xml("a.xml", data=text.encode(codec)))
    assert voc_objects(root, "a.xml") == ([(name, (0, 0, 10, 20), False, "object 1")], [])


@pytest.mark.parametrize("codec", ["utf-8", "gb2312", "utf-16"])
@pytest.mark.parametrize("prefix, attribute", [("", "xmlns"), ("v:", "xmlns:v")])
def test_namespaces_are_taken_off(voc, codec, prefix, attribute):
    body = xml_object() + "<size><width>50</width><height>40</height></size>"
    body = body.replace("</", "\0").replace("<", f"<{prefix}").replace("\0", f"</{prefix}")
    text = (f'<?xml version="1.0" encoding="{codec}"?><{prefix}annotation '
            f'{attribute}="http://example.org/voc">{body}</{prefix}annotation>')
    root = parse_xml(voc.xml("a.xml", data=text.encode(codec)))
    assert voc_objects(root, "a.xml") == ([("cat", (0, 0, 10, 20), False, "object 1")], [])
    assert size_of(root) == (50, 40)


@pytest.mark.parametrize("data", [
    b"", b"<annotation>", b"hello", b"<a></b>", b"\x00\x01", b"<a>\xff\xfe</a>",
    b'<?xml version="1.0" encoding="no-such"?><a>\xe4</a>',
    b'<?xml version="1.0" encoding="gb2312"?><a>\xff\xff</a>'])
def test_broken_xml_is_named(tmp_path, data):
    (tmp_path / "broken one.xml").write_bytes(data)
    with pytest.raises(UserError, match="broken one.xml"):
        parse_xml(tmp_path / "broken one.xml")


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be"])
def test_entities_are_refused(tmp_path, codec):
    mark = "" if codec == "utf-8" else "\ufeff"
    text = f'{mark}<!DOCTYPE a [<!ENTITY b "{"x" * 100}">]><a>&b;&b;&b;</a>'
    (tmp_path / "bomb.xml").write_bytes(text.encode(codec))
    with pytest.raises(UserError, match="bomb.xml.*entities"):
        parse_xml(tmp_path / "bomb.xml")


def test_missing_xml_and_folder_are_named(tmp_path):
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(UserError, match=path.name):
            parse_xml(path)


@pytest.mark.parametrize("second", [
    xml_object(None), xml_object((1, 2, 3)), xml_object((1, 2, "x", 4)), xml_object((1, 2, "", 4)),
    xml_object(name=" "), f"<object><bndbox>{corners(1, 2, 3, 4)}</bndbox></object>"])
def test_bad_object_is_counted_from_one(voc, second):
    voc.image("ab.jpg")
    voc.xml("ab.xml", xml_object() + second + xml_object(name="dog"))
    found, (problem,) = voc.read()
    assert problem.kind == "bad object" and problem.where.startswith("ab.xml, object 2")
    assert [item.name for item in found["ab"].objects] == ["cat", "dog"]


def test_nan_and_far_boxes_are_left_to_the_doctor(objects):
    item, = objects(xml_object(("nan", "-inf", 7, 1e9)))
    assert str(item.box_px) == "(nan, -inf, 7.0, 1000000000.0)"


@pytest.mark.parametrize("ending", [
    ".jpg", ".JPG", ".Jpg", ".jpeg", ".JPEG", ".png", ".PNG", ".bmp", ".tif", ".TIFF", ".webp"])
def test_endings_in_any_letter_case(voc, ending):
    path = voc.image(f"a{ending}")
    voc.xml("a.XML", xml_object())
    found, problems = voc.read()
    assert found["a"].image == path and not problems


@pytest.mark.parametrize("stem", [
    "a b", "a.b.c", "a(1)", "[a]", "a, b", "ö", "图 1", "a'b&c", "a.jpg", "-1", "a\u0308"])
def test_odd_file_names(voc, stem):
    path = voc.image(f"{stem}.jpg")
    voc.image("other.jpg")
    voc.xml(f"{stem}.xml", xml_object())
    voc.xml("other.xml", xml_object())
    found, problems = voc.read()
    assert found[stem].image == path and not problems


def test_sub_folders_keep_equal_names_apart(voc):
    paths = {key: voc.image(f"{key}.jpg") for key in ("1", "cats/1", "dogs/1", "dogs/old/1")}
    for key in paths:
        voc.xml(f"{key}.xml", xml_object())
    found, problems = voc.read()
    assert {key: item.image for key, item in found.items()} == paths and not problems
    assert found["dogs/old/1"].origin == "dogs/old/1.xml"


def test_flat_xml_finds_an_image_in_a_sub_folder(voc):
    path, one, two = map(voc.image, ("deep/er/a.jpg", "x/b.jpg", "y/b.jpg"))
    voc.xml("a.xml")
    voc.xml("b.xml")
    found, problems = voc.read()
    assert found["a"].image == path
    # Two images have that name: neither is taken.
    assert found["b"].image is None
    assert {problem.where for problem in problems} == {str(one), str(two)}


@pytest.mark.parametrize("filename", [
    "photo 7.png", "/home/me/photo 7.png", "C:\\data\\photo 7.png", "sub/photo 7.png"])
def test_filename_is_the_fallback(voc, filename):
    path = voc.image("sub/photo 7.png")
    voc.image("sub/photo 8.png")
    voc.xml("7.xml", f"<filename>{filename}</filename>")
    assert voc.read()[0]["7"].image == path


def test_a_wrong_filename_does_not_hide_the_image(voc):
    path = voc.image("a.jpg")
    voc.image("b.jpg")
    voc.xml("a.xml", "<filename>b.jpg</filename>")
    assert voc.read()[0]["a"].image == path


def test_images_without_xml_are_reported(voc):
    voc.image("a.jpg")
    lonely = voc.image("sub/b.png")
    voc.image("notes.txt")
    voc.xml("a.xml", xml_object())
    voc.xml("gone.xml", xml_object())
    found, (problem,) = voc.read()
    assert (problem.kind, problem.where) == ("no annotation", str(lonely))
    assert found["gone"].image is None


def test_unreadable_xml_is_a_problem_not_the_end(voc):
    for name in "abc":
        voc.image(f"{name}.jpg")
        voc.xml(f"{name}.xml", xml_object())
    path = voc.xml("b.xml", data=b"<annotation>")
    found, problems = voc.read()
    assert sorted(found) == ["a", "c"]
    first = problems[0]
    assert (first.kind, first.where) == ("unreadable annotation", str(path))


def test_circles_of_links_end(voc):
    voc.image("sub/a.jpg")
    voc.xml("sub/a.xml", xml_object())
    for name in ("Annotations", "JPEGImages"):
        (voc.root / name / "sub" / "up").symlink_to(voc.root / name, target_is_directory=True)
    found, problems = voc.read()
    assert list(found) == ["sub/a"] and not problems


def test_linked_folders_inside_are_entered_once(voc, tmp_path):
    (tmp_path / "disk" / "x").mkdir(parents=True)
    (tmp_path / "disk" / "x" / "far.png").touch()
    for name in ("one", "two"):
        (voc.root / "JPEGImages" / name).symlink_to(tmp_path / "disk", target_is_directory=True)
    voc.xml("far.xml")
    (item,), problems = read_voc(voc.root)
    assert item.image.resolve() == tmp_path / "disk" / "x" / "far.png" and not problems


def test_a_linked_image_folder_is_entered(voc, tmp_path):
    path = voc.image("a.jpg")
    voc.xml("a.xml")
    path.parent.rename(tmp_path / "elsewhere")
    (voc.root / "JPEGImages").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert voc.read()[0]["a"].image.name == "a.jpg"


@pytest.mark.parametrize("folder", ["Annotations", "JPEGImages"])
def test_missing_folders_are_named(voc, folder):
    voc.xml("a.xml")
    (voc.root / folder).rename(voc.root / "other")
    with pytest.raises(UserError, match=f"{folder}.*VOCdevkit_path"):
        voc.read()


def test_walk_files_skips_other_endings(tmp_path):
    for name in ("a.txt", "b.TXT", "txt", "sub.txt/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert set(walk_files(tmp_path, (".txt",))) == {"a.txt", "b.TXT", "sub.txt/c.txt"}


def test_image_index_of_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="none of the 1 annotated images is in it, such as 'a.jpg'"):
        ImageIndex(tmp_path).find_all([("a", "a.jpg")])


def test_a_bare_name_in_another_folder_is_not_taken(voc):
    paths = {name: voc.image(f"{name}.jpg") for name in ("a/1", "a/2", "3", "deep/4")}
    for name in ("a/1", "b/1", "b/2", "3", "b/3", "4"):
        voc.xml(f"{name}.xml", xml_object())
    found, _ = voc.read()
    images = {key: item.image for key, item in found.items()}
    assert images == {"a/1": paths["a/1"], "b/1": None, "b/2": None, "3": paths["3"],
                      "b/3": None, "4": paths["deep/4"]}


def test_an_image_that_two_annotations_could_mean_is_nobodys(voc):
    voc.image("1.jpg")
    other = voc.image("2.jpg")
    for name in ("a/1", "b/1", "b/2"):
        voc.xml(f"{name}.xml")
    found, problems = voc.read()
    assert [found[key].image for key in ("a/1", "b/1", "b/2")] == [None, None, other]
    assert [problem.where.endswith("1.jpg") for problem in problems] == [True]


def test_accents_are_the_same_in_both_forms(voc):
    path = voc.image("cafe\u0301.jpg")
    voc.xml("caf\u00e9.xml", xml_object(name="the\u0301"))
    item = voc.read()[0]["caf\u00e9"]
    assert item.image == path and item.objects[0].name == "th\u00e9"


@pytest.mark.parametrize("second", [
    f"<object><name>cat</name><name>dog</name><bndbox>{corners(1, 2, 3, 4)}</bndbox></object>",
    f"<object><name>cat</name><bndbox>{corners(1, 2, 3, 4)}</bndbox>"
    f"<bndbox>{corners(5, 6, 7, 8)}</bndbox></object>",
    f"<object><name>cat</name><bndbox>{corners(1, 2, 3, 4)}<xmin>9</xmin></bndbox></object>"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_fields_twice_in_an_object_are_a_problem(voc, second, codec):
    voc.image("a.jpg")
    voc.xml("a.xml", data=f"<annotation>{xml_object()}{second}</annotation>".encode(codec))
    found, (problem,) = voc.read()
    assert problem.kind == "bad object" and problem.where.startswith("a.xml, object 2")
    assert len(found["a"].objects) == 1


def test_parts_and_owners_have_names_of_their_own(voc):
    voc.image("a.jpg")
    part = f"<part><name>head</name><bndbox>{corners(2, 2, 3, 3)}</bndbox></part>"
    voc.xml("a.xml", f"<owner><name>me</name></owner>{xml_object(extra=part * 2)}")
    found, problems = voc.read()
    assert not problems and found["a"].objects == [("cat", (0, 0, 10, 20), False, "object 1")]


@pytest.mark.parametrize("change", [
    str.upper, str.title, lambda text: text.replace("object>", "Object>"),
    lambda text: text.replace("bndbox", "BndBox"), lambda text: text.replace("xmin", "XMin")])
def test_tags_in_another_letter_case_are_read(voc, change):
    voc.image("a.jpg")
    text = f"<annotation>{xml_object(name='x')}{xml_object(name='x')}</annotation>"
    voc.xml("a.xml", data=change(text).encode())
    found, problems = voc.read()
    assert not problems and [item.box_px for item in found["a"].objects] == [(0, 0, 10, 20)] * 2


@pytest.mark.parametrize("text, complaint", [
    ('<annotation><box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/></annotation>', "<box>"),
    ('<annotations><image name="a.jpg"><box label="cat" xtl="1"/></image></annotations>', "<box>"),
    ("<annotation><polygon><pt/></polygon></annotation>", "<polygon>"),
    (f"<annotation><objekt><bndbox>{corners(1, 2, 3, 4)}</bndbox></objekt></annotation>", "bndbox"),
    ("<html/>", "<html>"),
    (f"<set><annotation><filename>a.jpg</filename>{xml_object()}</annotation><annotation>"
     f"<filename>b.jpg</filename>{xml_object()}</annotation></set>", "several images")])
def test_other_xml_never_makes_an_image_background(voc, text, complaint):
    voc.image("a.jpg")
    voc.image("b.jpg")
    voc.xml("a.xml", data=text.encode())
    voc.xml("b.xml", "<source><image>flickr</image></source>")  # true background
    found, (problem,) = voc.read()
    assert list(found) == ["b"] and problem.kind == "unreadable annotation"
    assert complaint in problem.what and problem.where.endswith("a.xml")


BOX = f"<bndbox>{corners(1, 2, 3, 4)}</bndbox>"


@pytest.mark.parametrize("stray, objects, faults", [
    (f"<objekt>{BOX}</objekt>", 1, 1), (BOX * 2, 1, 1), (f"<list>{xml_object()}</list>", 2, 0),
    (xml_object(extra=f"<part>{BOX}</part>"), 2, 0),
    (xml_object(extra=f"<item>{BOX}</item>"), 2, 1),
    (f"<object>{BOX}</object>", 1, 1)])
def test_a_box_that_is_no_objects_own_is_named(voc, stray, objects, faults):
    voc.image("a.jpg")
    voc.xml("a.xml", xml_object() + stray)
    found, problems = voc.read()
    assert len(found["a"].objects) == objects
    assert [problem.kind for problem in problems] == ["bad object"] * faults


@pytest.mark.parametrize("ending", [".gif", ".heic", ".AVIF"])
def test_images_of_kinds_that_are_not_read_are_named(voc, ending):
    voc.image("a.jfif")
    voc.image(f"b{ending}")
    voc.xml("a.xml", xml_object())
    voc.xml("b.xml", xml_object())
    found, (problem,) = voc.read()
    assert found["a"].image.name == "a.jfif" and found["b"].image is None
    assert problem.where.endswith(f"b{ending}") and "convert" in problem.what


@pytest.mark.parametrize("wanted, path, agree", [
    ("a/1.jpg", "1.jpg", True), ("x/a/1.jpg", "a/1.jpg", True), ("1.jpg", "a/1.jpg", True),
    ("a/1.jpg", "b/1.jpg", False), ("A/1.JPG", "a/1.jpg", True), ("/home/a/1.jpg", "b/1.jpg", True),
    ("a/b/1.jpg", "a/1.jpg", False)])
def test_folders_agree_where_one_path_ends_the_other(tmp_path, wanted, path, agree):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    for name in (path, "other.jpg"):
        (tmp_path / name).touch()
    found = ImageIndex(tmp_path).find_all([(wanted[:-4], wanted), ("other", None)])[0]
    assert found == (tmp_path / path if agree else None)
