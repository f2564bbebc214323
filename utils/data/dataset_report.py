"""The dataset doctor's report, as sections of a page that are printed too."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from utils.cli import UserError
from utils.data.annotations import Record
from utils.data.augment import AUGMENTATIONS
from utils.data.doctor import Doctor
from utils.data.prior_fit import Objects, augmented_boxes, boxes_at_input, covered, fit_priors
from utils.data.samples import DETECTED, choose_samples, draw_marked, draw_record
from utils.data.sources import DECISIONS, Problem
from utils.image import load_image
from utils.multibox.boxes import area
from utils.multibox.spec import TILES, SSDSpec
from utils.page import Card, Section, image_uri
from utils.tiling import window_grid

MATCH_IOU = 0.5  # a prior with this IoU is a positive, as train.py has it
SHOWN_PROBLEMS = 10  # of a kind on the screen; the page has all of them
SAMPLES, EXAMPLES = 12, 4  # images of the data, and of a kind of problem
FEW = 20  # objects of a class in val, whose AP is rough with fewer
RARE, ALIKE = 10, 0.8  # times fewer objects, and difflib's ratio, of a class that may be a slip
SIZE_GROUPS = (("tiny, under 8 px", 0, 8), ("small, 8 to 32 px", 8, 32),
               ("medium, 32 to 96 px", 32, 96), ("large, over 96 px", 96, np.inf))  # roots of areas
SERIOUS = {"image left out": "images left out", "object left out": "objects left out",
           "left out": "annotations left out", "image not used": "images not used",
           "kept in both: take one out": "images in two splits"}  # decisions that need a hand
# The cheapest choice within CLOSE of the best is advised, where it covers WORTH more than now.
CLOSE, WORTH = 0.03, 0.02
TILE_SCALES = (6, 4, 3, 2, 1.5, 1, 0.75, 0.5)  # tiles to choose from, in sides of the input
CHOICE_IMAGES = 1000  # images that are enough to choose
# To be trained; the same with the paper's priors, the same for 512x512, or None where the priors
# come with a detector.
Specs = tuple[SSDSpec, SSDSpec | None, SSDSpec | None]


class Choice(NamedTuple):
    """A way to train, and what it covers."""

    name: str
    spec: SSDSpec
    covered: float  # share of objects whose best prior is a positive
    passes: float  # work for an image, in passes of the present network


def examine(lists: Mapping[str, Sequence[Record]], doctor: Doctor,
            specs: Specs, *, augmentation: str, about: Sequence[str], seed: int
            ) -> tuple[list[Card], list[Section]]:
    """Return the report's answers and sections, the verdict first; `about` are lines for it."""
    names, records = doctor.class_names, sum(map(list, lists.values()), [])
    records = [record for record in records if len(record.labels)]
    lacking, few = find_rare_classes(lists, names)
    few += find_slips(records, names)
    faults = [*find_faults(lists, doctor), *lacking]
    verdict, *notes = faults or ["Ready for train.py"]
    cards = answer(lists, names, faults, doctor.problems)
    images = [(record.path.name, image_uri(draw_record(record, load_image(record.path), names)))
              for record in choose_samples(records, SAMPLES, seed=seed)]
    sections = [Section(verdict, text="\n".join([*notes, *few, *about]), folded=not [*notes, *few]),
                problem_section(doctor.problems),
                Section("Images and objects", count_table(lists, names))]
    if records:
        objects = [(record.boxes_px.clip(0, record.size * 2), record.size) for record in records]
        labels = np.concatenate([record.labels for record in records])
        table = coverage_table(boxes_at_input(objects, specs[0]), labels, names, specs[0])
        choices = find_choices(objects, specs, augmentation, seed)
        card, section = choice_section(choices, augmentation)
        cards.append(card)
        sections += [section, Section("Priors", table, folded=True)]
    return cards, [*sections, Section("Samples", images=images)]


def answer(lists: Mapping[str, Sequence[Record]], class_names: Sequence[str],
           faults: Sequence[str], problems: Sequence[Problem]) -> list[Card]:
    """Return the cards on the state of the data."""
    counts = {split: np.bincount(np.concatenate([record.labels for record in records]),
                                 minlength=len(class_names))
              for split, records in lists.items() if records}
    rare = min(range(len(class_names)), key=lambda label: [row[label] for row in counts.values()])
    images = ", ".join(f"{len(records)} in {split}" for split, records in lists.items())
    left_out = sum(DECISIONS[problem.kind] == "image left out" for problem in problems)
    objects = ", ".join(f"{row[rare]} of {row.sum()} objects in {split}"
                        for split, row in counts.items())
    cards = [Card("Are the data ready?", "yes", "Run train.py.", "good"),
             Card("How many images?", str(sum(map(len, lists.values()))),
                  f"{images}; {left_out} left out."),
             Card("Which class is rarest?", class_names[rare], f"{objects}."),
             Card("Which problem is most frequent?", "none", "All boxes fit their images.", "good")]
    if faults:
        cards[0] = cards[0]._replace(answer="fix this first", sentence=faults[0], tone="warn")
    for kind, count in Counter(problem.kind for problem in problems).most_common(1):
        cards[3] = cards[3]._replace(answer=f"{count} x {kind}", tone="warn",
                                     sentence=f"{DECISIONS[kind].capitalize()}.")
    return cards


def format_section(section: Section) -> str:
    """Return a section as text for the screen: aligned columns, the first problems of each kind."""
    lines = ["", section.heading]
    widths = [max(map(len, column)) for column in zip(*section.rows)]
    for row in section.rows:
        lines.append("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    lines += [part for part in (section.text, section.code) if part]
    for part in section.details:
        lines += [part.heading, *(f"    {where}: {what}"
                                  for where, what in part.rows[1:SHOWN_PROBLEMS + 1])]
    return "\n".join(lines)


def find_faults(lists: Mapping[str, Sequence[Record]], doctor: Doctor) -> list[str]:
    """Return what needs a hand, the worst first."""
    decisions = Counter(DECISIONS[kind] for kind, *_ in doctor.problems if kind != "unknown class")
    faults, lost = [], doctor.unknown.total()
    if lost:
        total = lost + sum(len(record.labels) for records in lists.values() for record in records)
        faults.append(f"{lost} of {total} objects are lost: fix the class list")
    faults += [f"not in the class list: {name!r}, {count} objects left out"
               for name, count in doctor.unknown.most_common()]
    return faults + [f"{words}: {decisions[decision]}, see Problems"
                     for decision, words in SERIOUS.items() if decisions[decision]]


def find_rare_classes(lists: Mapping[str, Sequence[Record]], class_names: Sequence[str]
                      ) -> tuple[list[str], list[str]]:
    """Return lines on classes without objects in some splits, and on those with few in val."""
    counts = {split: Counter(label for record in records for label in record.labels[
        (split == "train") | ~record.difficult].tolist())
        for split, records in lists.items() if records}
    lacking = defaultdict(list)  # names of splits -> classes
    for label, name in enumerate(class_names):
        lacking[", ".join(split for split in counts if not counts[split][label])].append(name)
    few = [f"{class_names[label]} {count}"
           for label, count in sorted(counts.get("val", {}).items()) if count < FEW]
    return ([f"no object in {splits} that counts (difficult ones do not): {', '.join(names)}; "
             "label more, or draw anew with --overwrite_splits"
             for splits, names in lacking.items() if splits],
            [f"few objects in val, so that AP is rough: {', '.join(few)}; label more, or draw anew "
             "with --val_share 0.2 --overwrite_splits"] if few else [])


def find_slips(records: Sequence[Record], class_names: Sequence[str]) -> list[str]:
    """Return lines on rare classes whose names resemble those of frequent ones: sevn, seven."""
    counts = Counter(class_names[label] for record in records for label in record.labels)
    return [f"{name!r} ({count} objects) is much like {other!r} ({counts[other]}): if that is a "
            "slip, rename it in the annotations" for name, count in counts.items()
            for other in get_close_matches(name, [other for other in counts if counts[other]
                                                  >= RARE * count], n=1, cutoff=ALIKE)]


def problem_section(problems: Sequence[Problem]) -> Section:
    """Return the section that lists the problems by kind."""
    details = []
    for kind, decision in DECISIONS.items():
        rows = [[problem.where, problem.what] for problem in problems if problem.kind == kind]
        if rows:
            heading = f"{len(rows)} x {kind} ({decision})"
            images = draw_problems([problem for problem in problems if problem.kind == kind])
            details.append(Section(heading, [["where", "what"], *rows], images=images,
                                   folded=decision not in SERIOUS))
    details.sort(key=lambda part: part.folded)
    return Section("Problems", text="" if details else "no problems found", details=details)


def draw_problems(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Return (caption, data URI) of problems that images show, the smallest boxes first."""
    images, shown = [], [problem for problem in problems if problem.images]
    shown.sort(key=lambda problem: area(np.array(problem.box_px or (0, 0, 0, 0))))
    for problem in shown[:EXAMPLES]:
        for path in problem.images:
            with contextlib.suppress(UserError):  # without this image the list has all problems
                image, caption = load_image(path), problem.where if problem.box_px else path.name
                whole = (0, 0, image.shape[1], image.shape[0])
                low, high = np.sort(np.reshape(problem.box_px or whole, (2, 2)), axis=0)
                box = np.nan_to_num([[*low - 1, *high + 1]])  # around the object
                drawn = draw_marked(image, box, [DETECTED], np.zeros((0, 4)))
                images.append((caption, image_uri(drawn)))
    return images


def count_table(lists: Mapping[str, Sequence[Record]], class_names: Sequence[str]
                ) -> list[list[str]]:
    """Return the numbers of images and objects by class and split."""
    columns = [["class", *class_names, "all", "difficult", "without objects"]]
    classes = range(len(class_names))
    for split, records in lists.items():
        labels = [record.labels.tolist() for record in records]
        images = Counter(label for members in labels for label in set(members))
        objects = Counter(label for members in labels for label in members)
        difficult = sum(int(record.difficult.sum()) for record in records)
        columns += [
            [f"{split} images", *(images[k] for k in classes), len(labels), "-", labels.count([])],
            [f"{split} objects", *(objects[k] for k in classes), objects.total(), difficult, "-"]]
    return [list(map(str, row)) for row in zip(*columns)]


def coverage_table(boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str],
                   spec: SSDSpec) -> list[list[str]]:
    """Return the share of objects whose best prior is a positive, by class and size."""
    has_prior = covered(boxes, spec, MATCH_IOU)
    sides = np.sqrt(area(boxes)) * spec.size
    groups = [(name, labels == label) for label, name in enumerate(class_names)]
    groups += [(name, (sides >= low) & (sides < high)) for name, low, high in SIZE_GROUPS]
    rows = [["objects, at the input's size", "number", f"best prior IoU >= {MATCH_IOU:g}"]]
    for name, mask in [*groups, ("all", labels >= 0)]:
        rows.append([name, str(mask.sum()), f"{has_prior[mask].mean():.1%}" if mask.any() else "-"])
    return rows


def find_choices(objects: Objects, specs: Specs, augmentation: str, seed: int) -> list[Choice]:
    """Return the present setting and others, with priors fitted to what training shows."""
    objects, (present, paper, large) = objects[::len(objects) // CHOICE_IMAGES + 1], specs

    def choice(name, spec, paper=None):
        boxes = augmented_boxes(objects, spec, AUGMENTATIONS[augmentation], seed)
        if paper:
            spec = fit_priors(boxes, spec, paper, match_iou=MATCH_IOU, seed=seed)
        windows = [len(window_grid(*size, spec.tile)[0]) if spec.tile else 1 for _, size in objects]
        return Choice(name, spec, float(covered(boxes, spec, MATCH_IOU).mean()),
                      np.mean(windows) * (spec.size / present.size)**2)

    choices, fitted = [choice("as set", present)], ", fitted priors" if paper else ""
    if paper:
        choices.append(choice("fitted priors", present, paper))
    if large and large.size > present.size:
        choices.append(choice(f"{large.size}x{large.size}, fitted priors", large, large))
    largest = 0.8 * np.median([max(size) for _, size in objects])
    tiled = []
    for tile in [round(present.size * scale) for scale in TILE_SCALES]:
        if TILES[0] <= tile <= largest >= present.size and not present.tile and (
                not tiled or tiled[-1].covered < 1 - CLOSE):
            tiled.append(choice(f"tiles of {tile}{fitted}", replace(present, tile=tile),
                                paper and replace(paper, tile=tile)))
    best = max((option.covered for option in tiled), default=0)
    return choices + [option for option in tiled if option.covered >= best - CLOSE][:1]


def choice_section(choices: Sequence[Choice], augmentation: str) -> tuple[Card, Section]:
    """Return which choice is advised, and the table of choices with its settings."""
    best = max(choice.covered for choice in choices)
    present, advised = choices[0], min(
        (choice for choice in choices if choice.covered >= best - CLOSE),
        key=lambda choice: (round(choice.passes, 3), -choice.covered))
    rows = [["setting", "objects covered", "time an image, now 1"]]
    rows += [[name, f"{share:.1%}", f"{passes:.1f}"] for name, _, share, passes in choices]
    text = (f"An object is covered where a prior fits it (IoU >= {MATCH_IOU:g}): others are hardly "
            "learned. Half of those counted are as in the images, half as training changes them "
            f"(augmentation {augmentation}).\n")
    if advised.covered < present.covered + WORTH:
        advice = "Leave the settings: no other is worth its work."
        return (Card("Which settings?", "leave them", advice, "good"),
                Section("Settings", rows, f"{text}{advice}"))
    ratios = set(advised.spec.aspect_ratios)
    values = {"input_shape": advised.spec.input_shape, "tile": advised.spec.tile,
              "anchors_size": advised.spec.anchors_size,
              "aspect_ratios": ratios.pop() if len(ratios) == 1 else ()}
    lines = [f"{name} = {value}" for name, value in values.items()
             if getattr(advised.spec, name) != getattr(present.spec, name)]
    return (Card("Which settings?", advised.name, f"They cover {advised.covered:.1%} of the "
                 f"objects, the present ones {present.covered:.1%}; copy them from below.", "warn"),
            Section("Settings", rows, f"{text}Take {advised.name}, in train.py:", "\n".join(lines)))
