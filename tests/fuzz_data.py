"""Kinds of the fuzzer: annotations, splits, lists, class lists, images. See fuzz.py.

Each kind makes a case (files and what is known of them) and checks it: the project must refuse
it with a UserError, name the trouble, or give what an independent reading of the files gives.
"""

import contextlib
import csv
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import fuzz_files as files
import numpy as np
import yaml
from fuzz_files import SIZE, SPLIT_FILES, STEMS

import voc_annotation
from utils.cli import UserError, describe_error
from utils.data import dataset_report
from utils.data.annotations import read_class_names, read_list
from utils.data.image_check import inspect_images
from utils.image import image_size, load_image


TRUE, FALSE = (1, True, "1"), (0, False, "0", None, "")


class Silent(Exception):
    """A damaged file was taken without a word: what is wrong in general, and the details."""


class Case(NamedTuple):
    """One input: {relative path: bytes}, what was done to it, and what the check must know."""

    files: dict
    note: str
    facts: dict


def polite(error):
    """Assert that what is printed of a UserError is short and can be; return "refused"."""
    text = describe_error(error)
    text.encode("utf-8")
    if not 0 < len(text.strip().splitlines()) <= 2 or len(text) >= 1000:
        raise Silent("a message that is too long or empty", f"{len(text)} letters: {text[:200]}")
    return "refused"


def be_quick():
    """Leave out what takes most of a run of voc_annotation.py and reads no file."""
    nothing = SimpleNamespace(anchors_size=(), aspect_ratios=(), before=0, after=0)
    for module in (voc_annotation, dataset_report):
        for name, quick in (("suggest_priors", lambda *_, **__: nothing),
                            ("plot_boxes", lambda *_, **__: []),
                            ("contact_sheet", lambda *_, **__: [])):
            if hasattr(module, name):
                setattr(module, name, quick)
    if hasattr(voc_annotation, "build_spec"):
        voc_annotation.build_spec = lru_cache(voc_annotation.build_spec)


def annotate(folder, **settings):
    """Run voc_annotation.py; return (what it printed, {split: {stem: objects}}), None if refused.

    An object is (class name, box as edges, difficult).
    """
    settings = {"classes_path": str(folder / "mine.txt"), "lists_dir": str(folder)} | settings
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as out:
        with contextlib.redirect_stdout(out):
            try:
                voc_annotation.main(voc_annotation.AnnotationSettings(**settings))
            except UserError as error:
                polite(error)
                return None
        out.flush()
        text = out.buffer.getvalue().decode()
    lists = {}
    for split in SPLIT_FILES:
        if (path := folder / f"2007_{split}.txt").exists():
            records, names = read_list(path)
            lists[split] = {}
            for record in records:
                lists[split].setdefault(record.path.stem, []).extend(
                    (names[label], tuple(map(float, box)), bool(difficult))
                    for box, label, difficult in zip(record.boxes_px, record.labels,
                                                     record.difficult))
    return text, lists


def listed(lists):
    """Return {stem: objects} of all splits together."""
    return {stem: objects for images in lists.values() for stem, objects in images.items()}


def is_clean(text):
    """Tell whether voc_annotation.py found nothing to say."""
    return "no problems found" in text


def mentions(text, stem):
    """Tell whether a problem of this image's files was printed, or may be among those left out."""
    return re.search(rf"\b{stem}\b", text) or re.search(r"\band \d+ more", text)


def clean_box(box):
    """Return a box as the list must have it, None where its problem must be named."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or x1 > x2 or y1 > y2:
        return None
    inside = tuple(min(max(value, 0.0), float(side)) for value, side in zip(box, SIZE * 2))
    if max(abs(a - b) for a, b in zip(box, inside)) > 1 + 1e-6:
        return None
    return None if min(inside[2] - inside[0], inside[3] - inside[1]) < 0.99 else inside


def same_objects(expected, found):
    """Tell whether two lists of objects agree; difficult None stands for either."""
    if len(expected) != len(found):
        return False
    for (name, box, difficult), (name2, box2, difficult2) in zip(
            sorted(expected, key=lambda item: item[:2]), sorted(found, key=lambda item: item[:2])):
        if (name != name2 or max(abs(a - b) for a, b in zip(box, box2)) > 0.01
                or difficult not in (None, difficult2)):
            return False
    return True


def demand(expected, found, what):
    """Raise Silent unless the objects are those expected, none of them with a problem."""
    if None in expected:
        raise Silent("a damaged object is gone or taken, and nothing was said",
                     f"{what}: expected {expected}, got {found}")
    if not same_objects(expected, found):
        raise Silent("the objects are not those of the file, and nothing was said",
                     f"{what}: expected {expected}, got {found}")


# ---- VOC ----


class Voc:
    """XML files. An object that cannot be read, or read otherwise, must be named with its file.

    Independent reading: ElementTree; an object is whatever holds two of the four edges, in any
    letter case, outside <part>. No statement on files whose name is mentioned in what was printed.
    """

    name = "voc"

    def sound(self, spoil=None):
        root = "VOCdevkit/VOC2007/"
        made = {f"{root}Annotations/p{k}.xml": files.sound_xml(k).encode() for k in range(8)}
        made |= files.sound_images(f"{root}JPEGImages/")
        made |= {f"{root}ImageSets/Main/{split}.txt": "".join(f"{s}\n" for s in stems).encode()
                 for split, stems in SPLIT_FILES.items()}
        return Case(made | {"mine.txt": b"cat\ndog\n"}, "sound", {})

    def make(self, rng):
        made, notes = self.sound().files, []
        for k in rng.sample(range(5), rng.choice((1, 4))):
            path = f"VOCdevkit/VOC2007/Annotations/p{k}.xml"
            made[path], note = files.spoil_xml(rng, files.sound_xml(k))
            notes.append(f"p{k}: {note}")
        return Case(made, "; ".join(notes), {})

    def check(self, folder, case):
        result = annotate(folder, VOCdevkit_path=str(folder / "VOCdevkit"))
        if result is None:
            return "refused"
        text, lists = result
        found = listed(lists)
        for stem in STEMS:
            if mentions(text, stem):
                continue
            expected = self.expected(case.files[f"VOCdevkit/VOC2007/Annotations/{stem}.xml"])
            if stem not in found or expected is None:
                raise Silent("an XML file unreadable or its image left out, and nothing was said",
                             stem)
            demand(expected, found[stem], f"{stem}.xml")
        return "accepted"

    def expected(self, data):
        """Return the objects of a file, None in the place of a damaged one; None for no XML."""
        try:
            root = ElementTree.fromstring(data)
        except (ElementTree.ParseError, ValueError, LookupError):
            return None
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2].lower()
        parts = {inner for part in root.iter("part") for inner in part.iter()}
        parents = {child: parent for parent in root.iter() for child in parent}
        objects = [node for node in root.iter("object")
                   if len(node) and node.find("bndbox") is None]
        expected = [None] * len([node for node in objects if node not in parts])
        for box in root.iter():
            edges = {"xmin", "ymin", "xmax", "ymax"} & {child.tag for child in box}
            if len(edges) >= 2 and box not in parts:
                expected.append(self._object(parents.get(box), box))
        return expected

    def _object(self, parent, box):
        if parent is None or len(parent.findall("name")) != 1:
            return None
        try:
            x1, y1, x2, y2 = (float(box.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
        except (TypeError, ValueError):
            return None
        edges = clean_box((x1 - 1, y1 - 1, x2, y2)) if x1 <= x2 and y1 <= y2 else None
        difficult = (parent.findtext("difficult") or "").strip()
        return edges and ((parent.findtext("name") or "").strip(), edges,
                          {"0": False, "1": True, "": False}.get(difficult))


class Splits(Voc):
    """Split files: every line names an image that is then in that list, or a problem is named.

    An annotated image that no list has must be named too.
    """

    name = "splits"

    def make(self, rng):
        made, split = self.sound().files, rng.choice(tuple(SPLIT_FILES))
        path = f"VOCdevkit/VOC2007/ImageSets/Main/{split}.txt"
        text = "".join(f"{stem}{rng.choice(('', '', '  1', ' -1'))}\n"
                       for stem in SPLIT_FILES[split])
        made[path], note = files.spoil_text_file(rng, text)
        return Case(made, note, {})

    def check(self, folder, case):
        result = annotate(folder, VOCdevkit_path=str(folder / "VOCdevkit"))
        if result is None:
            return "refused"
        text, lists = result
        found = listed(lists)
        for stem in STEMS:
            if stem not in found and not mentions(text, stem):
                raise Silent("an annotated image is in no list, and nothing was said", stem)
        for split in SPLIT_FILES:
            data = case.files[f"VOCdevkit/VOC2007/ImageSets/Main/{split}.txt"]
            for line in data.decode("utf-8-sig", "replace").splitlines():
                key = re.sub(r"\s+-?[01]$", "", line.strip())
                if key and key not in lists.get(split, ()) and is_clean(text):
                    raise Silent("a name in a split file is not in the list", f"{split}: {key!a}")
        return "accepted"


# ---- Other formats: one file for all images, so "no problems found" speaks for all ----


class Coco:
    """COCO JSON: every annotation is in the lists as json.loads reads it, or a problem is named."""

    name = "coco"

    def sound(self):
        made = files.sound_images("data/") | {"mine.txt": b"cat\ndog\n"}
        return Case(made | {"data/all.json": json.dumps(files.sound_coco()).encode()}, "sound", {})

    def make(self, rng):
        made = self.sound().files
        made["data/all.json"], note = files.spoil_coco(rng)
        return Case(made, note, {})

    def check(self, folder, case, ending="json"):
        result = annotate(folder, annotation_format=self.name, test_share=0.25, val_share=0.25,
                          annotation_path=str(folder / self.place))
        if result is None:
            return "refused"
        text, lists = result
        if is_clean(text):
            expected = self.expected(case.files)
            if expected is not None:
                found = listed(lists)
                for stem in STEMS:
                    demand(expected.get(stem, []), found.get(stem, []), stem)
        return "accepted"

    place = "data/all.json"

    def expected(self, made):
        """Return {stem: objects}, with None for a damaged one; None for no opinion."""
        values = json.loads(made[self.place].decode("utf-8-sig"))
        names = {number(item["id"]): item["name"] for item in values["categories"]}
        images = {number(item["id"]): item.get("file_name") for item in values["images"]}
        expected = {}
        for row in values["annotations"]:
            try:
                stem = stem_of(images[number(row["image_id"])])
                item = self._object(row, names)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                stem, item = "p0", None
            expected.setdefault(stem, []).append(item)
        return expected

    def _object(self, row, names):
        name = names[number(row["category_id"])]
        if not isinstance(row["bbox"], list) or isinstance(name, bool):
            return None
        x, y, width, height = (float(value) for value in row["bbox"])
        crowd = row.get("iscrowd")
        difficult = True if crowd in TRUE else False if crowd in FALSE else None
        edges = clean_box((x, y, x + width, y + height))
        return edges and (str(name).strip(), edges, difficult)


def number(value):
    """Return an id as a number where it is the text of one, which is allowed."""
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


def stem_of(name):
    """Return the stem of a sound image that a file name means; ValueError for another name."""
    stem = os.path.splitext(str(name).replace("\\", "/").rpartition("/")[2].strip().lower())[0]
    if stem not in STEMS:
        raise ValueError(name)
    return stem


class Csv(Coco):
    """CSV tables: every row is in the lists, or a problem is named.

    Independent reading: the csv module; a row of more cells than the header is damaged. No
    opinion where the header was changed.
    """

    name, place = "csv", "data/all.csv"

    def sound(self):
        made = files.sound_images("data/") | {"mine.txt": b"cat\ndog\n"}
        return Case(made | {self.place: files.sound_csv().encode()}, "sound", {})

    def make(self, rng):
        made = self.sound().files
        made[self.place], note = files.spoil_text_file(rng, files.sound_csv())
        return Case(made, note, {})

    def expected(self, made):
        text = made[self.place].decode("utf-8-sig")
        header, *rows = csv.reader(io.StringIO(text))
        if header != files.sound_csv().split("\n")[0].split(","):
            return None
        expected = {}
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            try:
                stem, name, edges = stem_of(row[0]), row[1].strip(), [c.strip() for c in row[2:]]
                if not name and not any(edges):
                    continue
                item = (name, clean_box(tuple(map(float, edges))), False)
                item = item if name and item[1] else None
            except (ValueError, IndexError):
                stem, item = "p0", None
            expected.setdefault(stem, []).append(item)
        return expected


class Yolo(Coco):
    """YOLO text and its class names: every line of labels is in the lists, or a problem is named.

    Independent reading: split() and float(), names by PyYAML or by the number of the line. No
    opinion on data.yaml that is no YAML or has names that are no texts, and on comments.
    """

    name, place = "yolo", "data"

    def sound(self):
        made = files.sound_images("data/images/") | {"mine.txt": b"cat\ndog\n"}
        made |= {f"data/labels/p{k}.txt": files.sound_labels(k).encode() for k in range(8)}
        return Case(made | {"data/data.yaml": b"nc: 2\nnames: [cat, dog]\n"}, "sound", {})

    def make(self, rng):
        made, note = self.sound().files, ""
        names = rng.choice(("names: [cat, dog]\nnc: 2\n", "names:\n  0: cat\n  1: dog\n",
                            "nc: 2\nnames:\n- cat\n- dog\n", "names: {0: cat, 1: dog}\n",
                            "path: ../x\nnames: ['cat', \"dog\"]\n", "names:\n  1: dog\n  0: cat\n",
                            "names:\n  1: cat\n  2: dog\n", "names: &n [cat, dog]\nother: *n\n",
                            "names: [\n  cat,\n  dog,\n]\n", "{names: [cat, dog], nc: 2}\n"))
        made["data/data.yaml"] = names.encode()
        if rng.random() < 0.3:
            made["data/classes.txt"] = b"cat\ndog\n"
            if rng.random() < 0.5:
                del made["data/data.yaml"]
        how = rng.choice(("labels", "labels", "names", "names", "folder", "nothing"))
        if how == "labels":
            for k in rng.sample(range(8), 2):
                made[f"data/labels/p{k}.txt"], text = files.spoil_text_file(
                    rng, files.sound_labels(k))
                note += text
        elif how == "names":
            path = rng.choice([path for path in ("data/data.yaml", "data/classes.txt")
                               if path in made])
            made[path], note = files.spoil_text_file(rng, made[path].decode())
        elif how == "folder":
            note = rng.choice(("data/Labels/", "data/label/", "data/images/", "data/labels/x/"))
            made = {path.replace("data/labels/", note): data for path, data in made.items()}
        return Case(made, f"{how} {note}", {})

    def expected(self, made):
        names = [self._names(path, made[path]) for path in ("data/data.yaml", "data/classes.txt")
                 if path in made]
        if None in names:
            return None
        names = names[0] if len(names) == 1 or names[0] == names[1] else {}
        expected = {}
        for path, data in made.items():
            stem = Path(path).stem
            if path.endswith(".txt") and stem in STEMS:
                lines = data.decode("utf-8-sig", "replace").splitlines()
                expected[stem] = [self._line(line.split(), names) for line in lines if line.split()]
        return expected

    def _names(self, path, data):
        """Return {number: name}, or None for no opinion."""
        try:
            text = data.decode("utf-8-sig")
            if path.endswith(".txt"):
                lines = [line.strip() for line in text.rstrip().splitlines()]
                if not lines or any(line[:1] == "#" for line in lines):
                    return None
                return dict(enumerate(lines))
            found = yaml.safe_load(text)["names"]
            found = found if isinstance(found, dict) else dict(enumerate(found))
        except Exception:  # whatever a YAML file may do to PyYAML
            return None
        fit = all(type(k) is int and isinstance(v, str) for k, v in found.items())
        return found if fit else None

    def _line(self, cells, names):
        try:
            label, cx, cy, w, h = map(float, cells[:5])
            if len(cells) > 6 or label not in names:
                return None
        except ValueError:
            return None
        edges = clean_box(((cx - w / 2) * 64, (cy - h / 2) * 48, (cx + w / 2) * 64,
                           (cy + h / 2) * 48))
        return edges and (names[label].strip(), edges, False)


# ---- Lists and class lists ----


class Lists:
    """List files: each line gives the boxes that it says, and no line is lost.

    Independent reading: what stands behind the last image suffix is split at spaces and commas.
    """

    name = "lists"

    def prepare(self, folder):
        """Let voc_annotation.py write the lists; the folder's name must not change the cases."""
        voc = Voc().sound()
        for path, data in voc.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        annotate(folder, VOCdevkit_path=str(folder / "VOCdevkit"))
        home = str(folder / "VOCdevkit").encode()
        self.made = {path.name: path.read_bytes().replace(home, b"/data/my images")
                     for path in folder.glob("2007_*.txt")}
        self.lines = self.made["2007_train.txt"].decode().splitlines()

    def sound(self):
        return Case(dict(self.made), "sound", {})

    def make(self, rng):
        made, note = dict(self.made), ""
        text = made["2007_train.txt"].decode()
        if rng.random() < 0.2:
            text = text.replace(",0 ", ",0,1 ").replace("p1.jpg", "p 1 5,5,9,9,0.jpg")
        made["2007_train.txt"], note = files.spoil_text_file(rng, text)
        return Case(made, note, {})

    def check(self, folder, case):
        try:
            records, names = read_list(folder / "2007_train.txt")
        except UserError as error:
            return polite(error)
        text = case.files["2007_train.txt"].decode("utf-8-sig")
        lines = [line for line in text.splitlines()
                 if line.strip() and not line.startswith("# classes:")]
        if len(lines) != len(records):
            raise Silent("lines of a list were lost", f"{len(lines)} gave {len(records)} records")
        for line, record in zip(lines, records):
            self._same(line.strip(), record, len(names))
        return "accepted"

    def _same(self, line, record, num_classes):
        path = re.match(r".*\.(?:jpe?g|png|bmp|tiff?|webp)(?=\s|$)", line, re.IGNORECASE)
        parts = Path(path[0].strip()).parts if path else ("", "")
        if record.path.parts[-len(parts):][1:] != parts[1:]:
            raise Silent("a line gave another image", f"{line!a:.300} gave {str(record.path)!a}")
        rows = [list(map(float, item.split(","))) for item in line[path.end():].split()]
        found = [[*map(float, box), int(label), *[1] * difficult] for box, label, difficult in
                 zip(record.boxes_px, record.labels, record.difficult.tolist())]
        rows = [row[:5] if len(row) == 6 and row[5] == 0 else row for row in rows]
        agree = len(rows) == len(found) and all(
            len(a) == len(b) and np.allclose(a, b, rtol=1e-6) for a, b in zip(rows, found))
        if not agree or not np.isfinite(record.boxes_px).all() or any(
                not 0 <= label < num_classes for label in record.labels):
            raise Silent("a line gave other boxes than it says", f"{line!a:.300} gave {found}")


class ClassLists:
    """Class lists: each line with letters in it gives a name that stands in that line."""

    name = "classes"
    text = "aeroplane\ntraffic light\nchat noir\nétoile\n猫\ncar, small\n"

    def sound(self):
        return Case({"mine.txt": self.text.encode()}, "sound", {})

    def make(self, rng):
        data, note = files.spoil_text_file(rng, self.text)
        return Case({"mine.txt": data}, note, {})

    def check(self, folder, case):
        try:
            names = read_class_names(folder / "mine.txt")
        except UserError as error:
            return polite(error)
        lines = case.files["mine.txt"].decode("utf-8-sig").splitlines()
        lines = [line for line in lines if line.strip()]
        commented = any(line.lstrip()[:1] == "#" for line in lines)
        if not commented and (len(lines) != len(names) or len(set(names)) != len(names)):
            raise Silent("a class list gave other names", f"{lines!a:.900} gave {names!a:.900}")
        return "accepted"


# ---- Images ----


def stderr_size():
    """Return how much was written to stderr, which the fuzzer sends into a file."""
    return os.fstat(2).st_size


class Images:
    """Images: what inspect_images calls sound can be loaded, and has its pixels.

    Silent acceptance, only where the damage shows (an eighth of the rows differs by over 25 grey
    levels) and can be told from the file alone: a tenth of the file is missing at its end,
    libjpeg itself complains of the data, or a checksum of the PNG is wrong.
    """

    name = "images"

    def sound(self):
        return self.make(files.generator(0, "sound", 0), spoilt=False)

    def make(self, rng, spoilt=True):
        kind, data, suffix = files.random_image(rng)
        spoilt_data, note = files.spoil_bytes(rng, data) if spoilt else (data, "sound")
        if spoilt and rng.random() < 0.2:
            spoilt_data, more = files.spoil_bytes(rng, spoilt_data or b"x")
            note += f", {more}"
        facts = {"kind": kind, "suffix": suffix, "sound": data, "path": f"a{suffix}"}
        return Case({f"a{suffix}": spoilt_data}, f"{kind}: {note}", facts)

    def check(self, folder, case):
        path = folder / case.facts["path"]
        facts = inspect_images([path], num_threads=1)[path]
        for call in (image_size, load_image):
            try:
                image = call(path)
            except UserError as error:
                polite(error)
                image = None
        if facts.fault:
            return "refused"
        if image is None:
            raise Silent("inspect_images finds no fault and load_image cannot read it")
        if image.dtype != np.uint8 or image.shape != (*tuple(facts.size)[::-1], 3):
            raise Silent("inspect_images and load_image disagree", f"{facts.size}, {image.shape}")
        data, sound = case.files[path.name], case.facts["sound"]
        (folder / f"sound{path.suffix}").write_bytes(sound)
        share = files.rows_destroyed(load_image(folder / f"sound{path.suffix}"), image)
        if share > 1 / 8 and (reason := self.noticeable(case.facts["kind"], data, sound)):
            raise Silent(f"destroyed pixels of a {case.facts['kind']} image ({reason}), and no "
                         "problem is reported", f"{share:.0%} of the rows")
        return "accepted"

    def noticeable(self, kind, data, sound):
        """Return how a reader could have known of the damage, or None."""
        if len(data) < 0.9 * len(sound) and sound.startswith(data):
            return "the end is missing"
        if kind in ("jpeg", "progressive") and files.libjpeg_warns(data, stderr_size):
            return "libjpeg complains"
        if kind == "png" and files.png_is_broken(data):
            return "a checksum is wrong"
        return None


KINDS = (Voc, Splits, Coco, Csv, Yolo, Lists, ClassLists, Images)
