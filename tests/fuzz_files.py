"""Sound files for the fuzzer to spoil, and what spoils them. Knows nothing of the project."""

import io
import json
import random
import re
import warnings
import xml.etree.ElementTree as ElementTree
import zlib

import cv2
import numpy as np
from PIL import Image

SIZE = (64, 48)
STEMS = tuple(f"p{k}" for k in range(8))
CLASSES = ("cat", "dog")
SPLIT_FILES = {"train": STEMS[:6], "val": STEMS[6:7], "test": STEMS[7:]}

ODD_NUMBERS = ("nan", "inf", "-inf", "1e400", "-1", "0", "-0", "1e-30", "99999999999999999999",
               "9" * 400, "0x10", "1_0", "\u0663", "5.5", "4e1", "1e5", "2147483648", "True", "½",
               "1,5", "+3", "", " ", "8", "12", "33")
ODD_TEXTS = ("", " ", "\0", "\ud800", "\udcff", "é", "e\u0301", "\u2028", "\x85", "../..",
             "~nobody", "~$a", "a" * 5000,
             "$x$", "<b>", "{{7*7}}", "%s", "\x1b[31m", "\u202e", "nan", "true",
             "#", "\t", "\r", "\ufeff", "con", "-1", "0", "p1.jpg", "P0.JPG", "./p0.jpg", "cat")
ODD_VALUES = (None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 1e-300,
              float("nan"), float("inf"), -float("inf"), "",
              "0", "1", "5", "nan", "cat", "\0", "\ud800", b"x", [],
              {}, (), [[]], {"a": 1}, [1, 2, 3, 4], [None] * 4, "a" * 5000)


def boxes_of(k):
    """Return the two sound objects of image k: (name, xmin, ymin, xmax, ymax)."""
    return ("cat", 5 + k, 5, 40, 30), ("dog", 9, 9 + k, 44, 40)


def photo(seed, size=SIZE):
    """Return a smooth PIL image with a little noise, another one for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(20, 236, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BILINEAR)).astype(int)
    noisy = smooth + rng.integers(-4, 5, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image, kind, **options):
    """Return a PIL image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sound_images(folder):
    """Return {relative path: bytes} of the eight images."""
    return {f"{folder}{stem}.jpg": encoded(photo(k), "jpeg") for k, stem in enumerate(STEMS)}


def sound_xml(k):
    """Return the text of a VOC annotation with two objects."""
    rows = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>0</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in boxes_of(k))
    return (f"<annotation><folder>VOC2007</folder><filename>p{k}.jpg</filename><size><width>64"
            f"</width><height>48</height><depth>3</depth></size>{rows}</annotation>")


def sound_coco():
    """Return COCO's structure with two objects an image."""
    rows = [(k, box) for k in range(8) for box in boxes_of(k)]
    return {"info": {"year": 2017},
            "images": [{"id": k, "file_name": f"p{k}.jpg", "width": 64, "height": 48}
                       for k in range(8)],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
            "annotations": [{"id": n, "image_id": k, "category_id": 3 if name == "cat" else 7,
                             "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0, "area": 9.0}
                            for n, (k, (name, x1, y1, x2, y2)) in enumerate(rows)]}


def sound_labels(k):
    """Return the text of a YOLO label file; its edges lie on whole pixels."""
    return "".join(f"{CLASSES.index(name)} {(x1 + x2) / 128} {(y1 + y2) / 96} {(x2 - x1) / 64} "
                   f"{(y2 - y1) / 48}\n" for name, x1, y1, x2, y2 in boxes_of(k))


def sound_csv():
    """Return the text of a CSV table with two objects an image."""
    rows = [f"p{k}.jpg,{','.join(map(str, box))}" for k in range(8) for box in boxes_of(k)]
    return "\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]) + "\n"


# ---- Spoiling ----


def spoil_bytes(rng, data):
    """Return (spoilt bytes, what was done)."""
    data, size = bytearray(data), len(data)
    place = rng.randrange(size)
    length = rng.choice((1, 2, 8, 64, max(1, size // 10), max(1, size // 4)))
    end = min(size, place + length)
    how = rng.choice(("flip", "flip", "flips", "cut", "end", "insert", "zero", "set", "repeat",
                      "random"))
    if how in ("flip", "flips"):
        for at in [place] + [rng.randrange(size) for _ in range(9 * (how == "flips"))]:
            data[at] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[place:end]
    elif how == "end":
        del data[place:]
    elif how == "insert":
        data[place:place] = rng.randbytes(length)
    elif how == "zero":
        data[place:end] = bytes(end - place)
    elif how == "set":
        data[place:end] = b"\xff" * (end - place)
    elif how == "repeat":
        data[place:place] = data[place:end]
    else:
        data[place:end] = rng.randbytes(end - place)
    return bytes(data), f"{how} at {place}, {end - place} bytes"


def spoil_text(rng, text):
    """Return text with some of its numbers, words, lines or characters spoilt."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        lines = text.split("\n")
        line = rng.randrange(len(lines))
        how = rng.choice(("number", "number", "word", "drop line", "repeat line", "swap",
                          "character", "space", "blank"))
        if how in ("number", "word"):
            pattern = r"-?\d+(?:\.\d+)?" if how == "number" else r"[A-Za-z]\w*"
            found = list(re.finditer(pattern, text))
            if found:
                hit = rng.choice(found)
                new = rng.choice(ODD_NUMBERS if how == "number" else ODD_TEXTS)
                text = text[:hit.start()] + new + text[hit.end():]
            continue
        if how == "drop line":
            del lines[line]
        elif how == "repeat line":
            lines.insert(line, lines[line])
        elif how == "swap":
            other = rng.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
        elif how == "blank":
            lines.insert(line, rng.choice(("", " ", "\t", "#", "# cat")))
        else:
            at = rng.randrange(len(lines[line]) + 1)
            new = rng.choice(ODD_TEXTS) if how == "character" else rng.choice((" ", "\t", "\xa0"))
            lines[line] = lines[line][:at] + new + lines[line][at:]
        text = "\n".join(lines)
    return text


def to_bytes(rng, text):
    """Encode text, mostly in UTF-8; halves of characters become what is not UTF-8."""
    encoding = rng.choice(("utf-8",) * 12 + ("utf-16", "latin-1", "utf-8-sig", "cp1252", "utf-32"))
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def spoil_text_file(rng, text):
    """Return (bytes, what was done) of a spoilt text file."""
    if rng.random() < 0.4:
        return spoil_bytes(rng, text.encode())
    return to_bytes(rng, spoil_text(rng, text)), "text"


def spoil_xml(rng, text):
    """Return (bytes, what was done) of an XML file spoilt in its structure or its bytes."""
    if rng.random() < 0.4:
        return spoil_text_file(rng, text)
    root, notes = ElementTree.fromstring(text), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        parent = rng.choice([node for node in root.iter() if len(node)] or [root])
        if not len(parent):
            break
        node = rng.choice(list(parent))
        how = rng.choice(("delete", "repeat", "rename", "upper", "text", "text", "move", "swap",
                          "nest", "attribute"))
        notes.append(f"{how} <{node.tag}>")
        if how == "delete":
            parent.remove(node)
        elif how == "repeat":
            parent.append(ElementTree.fromstring(ElementTree.tostring(node)))
        elif how == "rename":
            node.tag = rng.choice(("box", "object", "part", "name", "bndbox", "xmin", "Object"))
        elif how == "upper":
            node.tag = node.tag.upper()
        elif how == "text":
            number = (node.text or "").strip().isdigit()
            node.text = rng.choice(ODD_NUMBERS if number else ODD_TEXTS)
        elif how == "attribute":
            node.set("xmlns", "http://example.org")
        elif how == "nest":
            parent.remove(node)
            parent.insert(0, ElementTree.Element("item"))
            parent[0].append(node)
        else:
            parent.remove(node)
            (parent if how == "swap" else root).insert(0, node)
    text = ElementTree.tostring(root, encoding="unicode")
    if rng.random() < 0.02:
        deep = rng.choice((200, 5000, 100_000))
        text = text.replace("<object>", "<a>" * deep + "</a>" * deep + "<object>", 1)
    return to_bytes(rng, text), ", ".join(notes)


def places(value, path=()):
    """Yield the paths of all values inside dicts, lists and tuples."""
    items = (value.items() if isinstance(value, dict) else
             enumerate(value) if isinstance(value, (list, tuple)) else ())
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def with_change(value, path, change):
    """Return a copy of a structure in which change(container, key) was carried out at a path."""
    was_tuple = isinstance(value, tuple)
    copy = list(value) if isinstance(value, (list, tuple)) else dict(value)
    if len(path) == 1:
        change(copy, path[0])
    else:
        copy[path[0]] = with_change(copy[path[0]], path[1:], change)
    return tuple(copy) if was_tuple else copy


def spoil_value(rng, value):
    """Return (structure with one to three values spoilt, what was done)."""
    notes = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        every = list(places(value))
        if not every:
            break
        depth = rng.choice(sorted({len(path) for path in every}))
        path = rng.choice([path for path in every if len(path) == depth])
        odd = rng.choice(ODD_VALUES)
        how = rng.choice(("odd", "odd", "odd", "delete", "repeat", "text", "wrap", "deep"))

        def change(container, key):
            if how == "delete":
                del container[key]
            elif how == "repeat" and isinstance(container, list):
                container.insert(key, container[key])
            elif how == "text":
                container[key] = str(container[key])[:5000]
            elif how == "wrap":
                container[key] = [container[key]]
            elif how == "deep":
                for _ in range(rng.choice((3, 100))):
                    container[key] = [container[key]]
            else:
                container[key] = odd
        value = with_change(value, path, change)
        notes.append(f"{how} {'.'.join(map(str, path))[:80]} {repr(odd)[:40] * (how == 'odd')}")
    return value, "; ".join(notes)


def spoil_coco(rng):
    """Return (bytes, what was done) of a spoilt COCO JSON file."""
    if rng.random() < 0.3:
        return spoil_text_file(rng, json.dumps(sound_coco()))
    value, note = spoil_value(rng, sound_coco())
    text = json.dumps(value, default=repr, ensure_ascii=rng.random() < 0.7)
    if rng.random() < 0.02:
        deep = rng.choice((500, 100_000))
        text = text.replace("[", "[" * deep + "]" * deep + ",", 1)
    return to_bytes(rng, text), note


# ---- Images ----

FORMATS = {"jpeg": {"quality": 90}, "progressive": {"quality": 90, "progressive": True}, "png": {},
           "bmp": {}, "tiff": {}, "tiff-deflate": {"compression": "tiff_adobe_deflate"},
           "tiff-lzw": {"compression": "tiff_lzw"}, "webp": {"quality": 90},
           "webp-lossless": {"lossless": True}, "avif": {"quality": 80, "speed": 10}}
SUFFIXES = {"jpeg": ".jpg", "progressive": ".jpg", "avif": ".jpg"}


def random_image(rng):
    """Return (format, bytes, suffix) of a sound image file."""
    Image.init()
    kind = rng.choice([kind for kind in FORMATS if kind != "avif" or "AVIF" in Image.SAVE])
    size = rng.randrange(60, 200), rng.randrange(60, 200)
    options = dict(FORMATS[kind])
    if rng.random() < 0.2 and kind != "bmp":
        exif = Image.Exif()
        exif[0x112] = rng.randrange(1, 9)
        options["exif"] = exif
    image = photo(rng.randrange(1 << 30), size)
    if rng.random() < 0.2 and kind in ("png", "jpeg", "tiff"):
        image = image.convert(rng.choice(("L", "P", "RGBA", "I;16") if kind == "png" else ("L",)))
    name = {"progressive": "jpeg"}.get(kind, kind.partition("-")[0])
    suffix = SUFFIXES.get(kind, f".{name}")
    if rng.random() < 0.1:
        suffix = rng.choice((".jpg", ".png", ".webp", ".tif"))
    return kind, encoded(image, name, **options), suffix


def rows_destroyed(before, after):
    """Return the part of the rows that differ by more than 25 grey levels on average."""
    if before.shape != after.shape:
        return 0.0
    return float((np.abs(before.astype(int) - after).mean((1, 2)) > 25).mean())


def png_is_broken(data):
    """Tell whether a chunk's checksum is wrong or the pixel data cannot be unpacked."""
    place, packed = 8, b""
    while place + 12 <= len(data):
        length = int.from_bytes(data[place:place + 4], "big")
        body = data[place + 4:place + 8 + length]
        if zlib.crc32(body) != int.from_bytes(data[place + 8 + length:place + 12 + length], "big"):
            return True
        packed += body[4:] if body[:4] == b"IDAT" else b""
        place += 12 + length
        if body[:4] == b"IEND":
            break
    try:
        zlib.decompress(packed)
    except zlib.error:
        return True
    return False


def libjpeg_warns(data, stderr_size):
    """Tell whether libjpeg itself says that the data is corrupt; stderr must go to a file.

    One byte too many before the end mark does not count: cameras add some.
    """
    before = stderr_size()
    cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if stderr_size() == before:
        return False
    with open("/proc/self/fd/2", "rb") as said:
        said.seek(before)
        return b": 1 extraneous bytes before marker 0xd9" not in said.read()


def pillow_says_sound(data):
    """Tell whether Pillow decodes an image to its end without an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(io.BytesIO(data)).load()
    except Exception:  # whatever it is, the file is not sound
        return False
    return True


def generator(seed, kind, number):
    """Return the random generator of a case; it depends on nothing but these three."""
    return random.Random(f"{seed}:{kind}:{number}")
