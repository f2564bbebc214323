"""Finding the image of an annotation by its path or its name."""

import pytest

from utils.cli import UserError, walk_files
from utils.data.sources import Annotation, ImageIndex


def match(folder, files, wanted):
    """Return the relative paths that an index of the files matches to paths without ending."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    pairs = [item if isinstance(item, tuple) else (item, "") for item in wanted]
    return ImageIndex(folder).match([Annotation(key, "", None, [], None, file_name)
                                     for key, file_name in pairs])


@pytest.mark.parametrize("files, wanted, expected", [
    (["A.JPG"], ["a"], ["A.JPG"]), (["a.b.png"], ["a.b"], ["a.b.png"]),
    (["cafe\u0301.jpg"], ["caf\u00e9"], ["cafe\u0301.jpg"]),
    # Of several endings the one of the file name, of several letter cases the same one.
    (["a.jpg", "a.png"], [("a", "a.png")], ["a.png"]), (["a.jpg", "A.jpg"], ["a"], ["a.jpg"]),
    # Sub-folders keep equal names apart.
    (["1.jpg", "c/1.jpg", "d/1.jpg"], ["d/1", "1"], ["d/1.jpg", "1.jpg"]),
    # A name alone is enough where it means one image.
    (["deep/er/a.jpg"], ["a"], ["deep/er/a.jpg"]), (["a.jpg"], ["x/a"], ["a.jpg"]),
    (["x/b.jpg", "y/b.jpg", "c.jpg"], ["b", "c"], [None, "c.jpg"]),
    (["a/1.jpg", "b/1.jpg"], [("home/me/a/1", "")], ["a/1.jpg"]),
    # The file name, from whatever machine, comes before the name of the annotation.
    (["sub/photo 7.png", "sub/photo 8.png"], [("7", "C:\\data\\photo 7.png")], ["sub/photo 7.png"]),
    (["a b.jpg", "c%20d.jpg"], [("1", "a%20b.jpg"), ("2", "c%20d.jpg")], ["a b.jpg", "c%20d.jpg"]),
    # An image that two annotations could mean belongs to neither, unless its path is the same.
    (["1.jpg", "2.jpg"], ["a/1", "b/1", "b/2"], [None, None, "2.jpg"]),
    (["p1.jpg"], [("p0", "p1.jpg"), ("p1", "p1.jpg")], [None, "p1.jpg"])])
def test_which_image_an_annotation_means(tmp_path, files, wanted, expected):
    assert match(tmp_path, files, wanted) == expected


def test_no_image_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="no annotated image such as 'a.jpg'"):
        match(tmp_path, ["b.jpg"], [("a", "a.jpg")])
    with pytest.raises(UserError, match="no such folder"):
        ImageIndex(tmp_path / "none")


def test_files_are_sorted_and_linked_folders_entered(tmp_path):
    for name in ("in/b.txt", "in/a.TXT", "in/sub.txt/c.txt", "out/e.txt", "in/._b.txt",
                 "in/.ipynb_checkpoints/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    names = ["a.TXT", "b.txt", "link/e.txt", "sub.txt/c.txt"]
    assert list(walk_files(tmp_path / "in").items()) == [
        (name, tmp_path / "in" / name) for name in names]
