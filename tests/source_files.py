"""What the tests of readers share."""

from utils.data.layouts import read_source


def read(*args, **options):
    """Return (annotations, problems) of a source."""
    source = read_source(*args, **options)
    return source.annotations, source.problems


def read_by_key(*args):
    """Return ({key: Annotation}, problems) of a source; the keys of no split begin with /."""
    items, problems = read(*args)
    return {item.key.removeprefix("/"): item for item in items}, problems


def plain(objects):
    """Return (name, box, difficult) of each object."""
    return [tuple(item[:3]) for item in objects]


def kinds(problems):
    return [problem.kind for problem in problems]
