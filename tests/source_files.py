"""What the tests of COCO, YOLO and CSV readers share."""


def plain(objects):
    """Return (name, box, difficult) of each object."""
    return [tuple(item[:3]) for item in objects]


def by_key(result):
    """Return ({key: Annotation}, problems) of what a reader returns."""
    return {item.key: item for item in result[0]}, result[1]


def kinds(problems):
    return [problem.kind for problem in problems]
