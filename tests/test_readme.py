"""What README.md and docs/ name is there: links, files, settings, and the flags of commands."""

import json
import re
import shlex
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPO / "README.md", REPO / "README_zh.md", *sorted((REPO / "docs").glob("*.md"))]
SOURCES = {path: path.read_text(encoding="utf-8")
           for path in [*REPO.glob("*.py"), *(path for room in ("nets", "utils", "benchmarks")
                                              for path in (REPO / room).rglob("*.py"))]}
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def code(document):
    """Return the code of a document: lines of its blocks, and what stands in backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```|(?<!`)`([^`\n]+)`",
                        document.read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in "".join(block).splitlines()]


def cells(notebook):
    """Return the lines of code of a notebook, without the ! of commands."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [line.strip(" !\n") for cell in cells for line in cell["source"]]


def commands(lines):
    """Yield (command, script) of the lines that start a script or a module of the project."""
    pattern = r"(?:python3?|torchrun .*?) (?:-m )?([\w.]+)"
    for line in dict.fromkeys(lines):
        if match := re.match(pattern, line):
            name = match[1] if match[1].endswith(".py") else match[1].replace(".", "/") + ".py"
            if (REPO / name) in SOURCES:
                yield line, REPO / name


NOTEBOOK = REPO / "examples" / "own_data.ipynb"
LINES = [line for document in DOCUMENTS for line in code(document)]


def anchors(document):
    """Return the anchors that GitHub makes of the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            path = document.parent / name if name else document
            assert path.exists() and (not anchor or anchor in anchors(path)), target


@each_document
def test_files_and_settings_are_the_projects(document):
    """Settings (`eval_period`, `tile = 300`) are words of the source, paths with a / exist."""
    names = {text.partition(" = ")[0] for text in code(document)}
    source = "\n".join(SOURCES.values())
    unknown = {name for name in names if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
               and not re.search(rf"\b{name}\b", source)}
    missing = {name for name in names if re.fullmatch(r"\w+/[\w/]*\w\.py", name)
               and not (REPO / name).exists()}
    assert not unknown | missing


@pytest.mark.parametrize("command, script", [*commands(LINES + cells(NOTEBOOK))])
def test_flags_of_commands_are_settings(command, script):
    fields = SOURCES[script] + SOURCES[REPO / "ssd.py"]  # predict.py and get_map.py inherit
    words = shlex.split(command)
    for word in words[words.index(next(w for w in words if script.stem in w)):]:
        if word.startswith("--"):
            name = word[2:].partition("=")[0]
            assert re.search(rf"^    ({name}|{name.removeprefix('no_')}): ", fields, re.M), word


def test_make_demo_is_the_demo_by_hand():
    recipe = (REPO / "Makefile").read_text("utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    recipe = recipe.replace("$(BIN)/", "").replace("$(DEMO)", "demo").replace("\\\n", " ")
    by_hand = [shlex.split(command) for command, _ in commands(LINES) if "demo" in command]
    assert [shlex.split(line) for line in recipe.splitlines()[1:]] == by_hand
