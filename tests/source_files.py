"""Files of COCO, YOLO and CSV sources, for their tests."""

from PIL import Image


def plain(objects):
    """Return (name, box, difficult) of each object."""
    return [tuple(item[:3]) for item in objects]


def save(path, size=(50, 40)):
    """Save a black image; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def by_key(found):
    """Return ({key: Annotation}, problems)."""
    return {item.key: item for item in found[0]}, found[1]
