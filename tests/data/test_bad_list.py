"""Broken and hostile lists: a UserError of two lines, or a listed decision."""

from bad_inputs import image, png_header, refused, table

from utils.data.annotations import check_same_classes, read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset, batches, make_loader
from utils.image import load_image
from utils.multibox.spec import SSDSpec
from utils.training.checks import read_lists

GOOD_LINE = "{p} 5,5,40,30,0\n"
# name, text of the train list, what the error says
LISTS = [
    ("number missing", GOOD_LINE + "{p} 5,5,40,0\n", "own_train.txt, line 2|5,5,40,0"),
    ("letters", "{p} 5,five,40,30,0\n", "line 1|5,five,40,30,0"),
    ("no class", "{p} 5,5,40,30,\n", "line 1"),
    ("too many numbers", "{p} 5,5,40,30,0,1,1\n", "line 1"),
    ("class too high", "{p} 5,5,40,30,2\n", "line 1: class 2, but there are 2 class names"),
    ("class beyond all", "{p} 5,5,40,30,99999999999999999999\n", "line 1"),
    ("class of 400 digits", "{p} 5,5,40,30," + "9" * 400, "line 1"),
    ("edge of 400 digits", "{p} 5,5," + "9" * 400 + ",30,0\n", "line 1"),
    ("negative class", "{p} 5,5,40,30,-1\n", "line 1"),
    ("no area", "{p} 5,5,5,30,0\n", "line 1: a box without area"),
    ("swapped", "{p} 40,30,5,5,0\n", "line 1: a box without area"),
    ("nan", "{p} nan,5,40,30,0\n", "line 1"),
    ("exponent", "{p} 5,5,4e1,30,0\n", "line 1"),
    ("spaces in the object", "{p} 5, 5, 40, 30, 0\n", "line 1"),
    ("tab", "{p}\t5,5,40,30,0\n", "line 1"),
    ("tab between objects", "{p} 5,5,40,30,0\t5,5,40,31,1\n", "line 1"),
    ("no path", " 5,5,40,30,0\n", "line 1"),
    ("no image's path", "/etc/passwd 5,5,40,30,0\n", "line 1|passwd"),
    ("only blank lines", "\n \n\t\n", "own_train.txt: no images in the list"),
    ("empty", "", "no images in the list"),
    ("binary", bytes(range(256)), "own_train.txt: not a UTF-8 text file"),
    ("UTF-16", "a.jpg 5,5,40,30,0".encode("utf-16"), "not a UTF-8 text file"),
    ("zeros", bytes(1000), "line 1"),
    ("no objects", "{p}\n", "own_train.txt: no objects in any image"),
]


def write_lists(folder, train, classes="cat\ndog\n"):
    """Write train and val lists as bytes, their class names and an image; return the settings."""
    image().save(folder / "a.jpg")
    train = train if isinstance(train, bytes) else train.format(p=folder / "a.jpg").encode()
    (folder / "own_train.txt").write_bytes(train)
    (folder / "own_val.txt").write_text(f"{folder}/a.jpg 5,5,40,30,0\n")
    if classes is not None:
        (folder / "own_classes.txt").write_text(classes)
    return {name: str(folder / f"own_{name.partition('_')[0]}.txt")
            for name in ("train_list", "val_list")}


def read(settings, **changes):
    return read_lists(**{"classes_path": "", "train_on_difficult": True} | settings | changes)


@table(LISTS)
def test_list(tmp_path, case):
    _, text, words = case
    refused(words, read, write_lists(tmp_path, text))


# name, the class list beside the lists, what the error says
LIST_CLASSES = [
    ("missing", None, "own_classes.txt"), ("empty", "", "own_classes.txt: no class names"),
    ("twice", "cat\ncat\n", "'cat' stands twice"), ("too few", "", "own_classes.txt"),
    ("reordered", "dog\ncat\n", "different classes: number 1 is 'cat'|voc_annotation.py"),
    ("one more", "cat\ndog\ncow\n", "number 3 is 'nothing' in the first, 'cow' in the second"),
]


@table(LIST_CLASSES)
def test_classes_of_a_list(tmp_path, case):
    _, names, words = case
    (tmp_path / "mine.txt").write_text("cat\ndog\n")
    settings = write_lists(tmp_path, GOOD_LINE, names)
    refused(words, read, settings, classes_path=str(tmp_path / "mine.txt"))


def test_classes_of_the_weights(tmp_path):
    settings = write_lists(tmp_path, GOOD_LINE)
    names = read_list(settings["train_list"])[1]
    refused("the weights and|number 1 is 'dog'", check_same_classes, names[::-1], "the weights",
            names, settings["train_list"])


def test_list_itself_missing_or_a_folder(tmp_path):
    settings = write_lists(tmp_path, GOOD_LINE)
    refused("nowhere_train.txt|voc_annotation.py", read, settings,
            train_list=str(tmp_path / "nowhere_train.txt"))
    refused("Is a directory", read, settings, train_list=str(tmp_path))


def test_zero_byte_in_a_path(tmp_path):
    settings = write_lists(tmp_path, GOOD_LINE + f"{tmp_path}/a\0b.jpg 5,5,40,30,0\n")
    refused(r"line 2|a\x00b.jpg|null byte", read, settings)
    refused(r"a\x00b.jpg|null byte", load_image, f"{tmp_path}/a\0b.jpg")


@table([("deleted", lambda path: path.unlink(), "No such file"),
        ("emptied", lambda path: path.write_bytes(b""), "not an image"),
        ("overwritten", lambda path: path.write_text("text"), "not an image"),
        ("folder", lambda path: (path.unlink(), path.mkdir()), "not a file with an image"),
        ("bomb", lambda path: path.write_bytes(png_header(60000, 60000)), "not an image")])
def test_training_stops_and_names_the_image(tmp_path, case):
    _, spoil, words = case
    records = read(write_lists(tmp_path, GOOD_LINE))[0]
    spoil(tmp_path / "a.jpg")
    dataset = DetectionDataset(records, SSDSpec(), AUGMENTATIONS["light"], 0)
    loader = make_loader(dataset, 1, seed=0, num_workers=0, pin_memory=False)
    refused(f"{tmp_path}/a.jpg|{words}", list, batches(loader))
