"""What README.md and docs/ say is run here, command by command, and looked up in the files.

Commands are read out of the documents and run in order, as they stand there, in a copy of the
repository with a few drawn images. The tables below say what makes them small, and which are not
run and why; a command of neither kind fails here, and so does an entry that no document has.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nets.runtimes.export import NEEDED_TORCH

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
RUNNER = Path(__file__).with_name("readme_commands.py")

COMMAND = re.compile(r"(python3?|torchrun|make|pip|tensorboard|source) [-\w./]")
# Beginnings of commands of which nothing is looked at, and why.
LEFT_OUT = {
    "pip install": "a download",
    "python -m pip install": "a download",
    "make demo": "minutes; its recipe is compared with the demo by hand",
    "make test": "minutes; this is part of it",
    "make bench": "minutes",
    "python -m benchmarks": "the same",
    "python -m pytest": "the same",
    "tensorboard": "does not end",
    "source .venv/bin/activate": "for a shell",
    "python3 -m venv": "where packages go",
}
# Beginnings of commands of which only the flags are looked at, and why.
ONLY_PARSED = {
    "python predict.py photo.jpg --model_path coco": "a download",
    "python predict.py --mode video --video_path 0": "a camera",
    "torchrun --nnodes=2": "two machines",
    "python -m benchmarks.step": "minutes, with the whole VGG16",
    "python -m benchmarks.runtimes": "minutes, with the whole VGG16",
    "python -m benchmarks.tiles": "minutes",
    "python -m benchmarks.kill": "minutes",
    "python -m benchmarks.nodes": "minutes",
}
# Started as processes; the other torchrun commands go through their flags and run as one process.
AS_PROCESSES = "torchrun --nproc_per_node=2 get_map.py"
# Pattern in a command -> flags that are put behind it; of a flag given twice the last counts.
SMALLER = {
    r"demo_data": "--images 8 --held_out 1",
    r"--mode fps": "--batch_sizes 1",
    r"export_precision int8": "--export_outputs raw",
    r"--epochs": "--epochs 1",
}
# File of the copy -> what is edited there; the first is what the README tells people to edit, the
# rest makes a VGG16 with a thirty-second of the channels, and one epoch of it.
EDITS = {
    "voc_annotation.py": {'"model_data/voc_classes.txt"': '"model_data/my_classes.txt"'},
    "train.py": {"epochs: int = 60": "epochs: int = 1",
                 "num_workers: int = 2": "num_workers: int = 0"},
    "predict.py": {"show: bool = True": "show: bool = False",
                   "FPS_SECONDS = 3": "FPS_SECONDS = 0.01"},
    "nets/vgg.py": {
        '64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512':
        '2, 2, "M", 4, 4, "M", 8, 8, 8, "C", 16, 16, 16, "M", 16, 16, 16',
        "(512, 1024, 3, padding=6": "(16, 32, 3, padding=6", "(1024, 1024, 1)": "(32, 32, 1)"},
    "nets/backbones.py": {
        "((512, 256, 3, 2, 1), (256, 128, 3, 2, 1), (256, 128, 3, 1, 0), (256, 128, 3, 1, 0))":
        "((16, 8, 3, 2, 1), (8, 4, 3, 2, 1), (8, 4, 3, 1, 0), (8, 4, 3, 1, 0))",
        "taps=(23, 35), channels=(512, 1024)": "taps=(23, 35), channels=(16, 32)"},
}




def items():
    """Yield (kind, text) of what stands in the documents, in order.

    Kinds: "python", a block of it; "command", a line of another block or code within a sentence;
    "listing", any other block.
    """
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for language, block, code in re.findall(
                r"^```(\w*)\n(.*?)^```|(?<!`)`([^`\n]+)`", text, re.M | re.S):
            lines = [re.sub(r"\s+#.*", "", line) for line in (block or code).splitlines() if line]
            are_commands = [bool(COMMAND.match(line)) for line in lines]
            if language == "python":
                yield language, block
            elif any(are_commands):
                assert all(are_commands), f"commands and other lines in one block: {lines}"
                yield from (("command", line) for line in lines)
            elif block:
                yield "listing", block


def texts(kind):
    """Return the items of a kind, each once."""
    return list(dict.fromkeys(text for found, text in items() if found == kind))


def starts(text, table):
    """Return the entries of a table with which a command begins."""
    return [entry for entry in table if f"{text} ".startswith(f"{entry} ")]


def step_for(kind, text):
    """Return what readme_commands.py does with an item, by keyword."""
    if kind == "python":
        return {"text": text, "how": "run", "code": text}
    smaller = " ".join(flags for pattern, flags in SMALLER.items() if re.search(pattern, text))
    how = ("parse" if starts(text, ONLY_PARSED) else
           "processes" if text == AS_PROCESSES else "run")
    return {"text": text, "how": how, "words": shlex.split(f"{text} {smaller}")}


def copy_repository(folder):
    """Copy what the commands need, with the edits."""
    for path in REPO.glob("*.py"):
        shutil.copy2(path, folder)
    for name in ("nets", "utils", "benchmarks", "examples", "img", "model_data"):
        shutil.copytree(REPO / name, folder / name,
                        ignore=shutil.ignore_patterns("*.pth", "*.onnx"))
    for name, changes in EDITS.items():
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in changes.items():
            assert text.count(old) == 1, f"{name}: {old} is not there once; mend EDITS"
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")


def run_all(folder):
    """Run the documents' commands in a copy of the repository; return [{text, status, output}]."""
    copy_repository(folder)
    steps = [step_for(kind, text) for kind, text in dict.fromkeys(items())
             if kind == "python" or kind == "command" and not starts(text, LEFT_OUT)]
    (folder / "steps.json").write_text(json.dumps(steps), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, RUNNER, "steps.json"], cwd=folder, text=True, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {
            "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PET_STANDALONE": "1",
            "PYTHONDONTWRITEBYTECODE": ""})
    assert done.returncode == 0, done.stdout
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_every_command_runs_and_writes_what_is_promised(tmp_path):
    """One test, since test workers would each run all for their own."""
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "pandas", "pycocotools"):
        pytest.importorskip(name)
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < NEEDED_TORCH:
        pytest.skip("exporting needs a newer PyTorch")
    results = run_all(tmp_path)
    failed = [f"{result['text']}\nexit status {result['status']}\n{result['output'][-2000:]}"
              for result in results if result["status"] or "Traceback (most" in result["output"]]
    assert not failed, "\n\n".join(failed)
    missing = [name for name in promised() if not list(tmp_path.glob(re.sub("<.*?>", "*", name)))]
    assert not missing


def promised():
    """Return the files of the README's layout that a script "writes", of the table of map_out/, and
    those that commands name by a flag."""
    layout = next(text for text in texts("listing") if "train.py writes" in text)
    found = []
    for line in re.findall(r"^(.*\S) +\w+\.py writes$", layout, re.M):
        first, *others = line.removesuffix(" ...").split()
        found += [first, *(str(Path(first).with_name(name)) for name in others)]
    table = re.findall(r"^\| (`.*?) \|", (REPO / "docs/evaluation.md").read_text("utf-8"), re.M)
    found += [f"map_out/{name}" for row in table for name in re.findall(r"`([^`]+)`", row)]
    assert {"dataset_report.html", "logs/<date>/history.csv", "map_out/errors.png"} <= {*found}
    for text in texts("command"):
        if not starts(text, ONLY_PARSED):
            found += re.findall(r"--(?:\w+_(?:path|dir|list)|folder) ([\w/.]+)", text)
    return found


@pytest.mark.parametrize("name, table", [("LEFT_OUT", LEFT_OUT), ("ONLY_PARSED", ONLY_PARSED),
                                         ("AS_PROCESSES", [AS_PROCESSES])])
def test_tables_hold_nothing_that_no_document_has(name, table):
    used = {entry for text in texts("command") for entry in starts(text, table)}
    assert set(table) == used, f"mend {name}"


def test_a_block_without_commands_is_known():
    """Else a command of a new kind would be taken for something to read."""
    known = ("train.py writes", "utils/training/", "@inproceedings")
    assert [text for text in texts("listing") if not any(part in text for part in known)] == []


@pytest.mark.parametrize("pattern", SMALLER)
def test_what_makes_commands_small_is_used(pattern):
    assert any(re.search(pattern, text) for text in texts("command"))


def test_make_demo_is_the_demo_by_hand():
    recipe = (REPO / "Makefile").read_text("utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    recipe = recipe.replace("$(BIN)/", "").replace("$(DEMO)", "demo").replace("\\\n", " ")
    by_hand = [shlex.split(text) for text in texts("command")
               if " demo/" in text or "demo_data" in text]
    assert [shlex.split(line) for line in recipe.splitlines()[1:]] == by_hand


def source_texts():
    """Return all texts of the project's Python, with {} for what f-strings fill in."""
    found = []
    for path in REPO.rglob("*.py"):
        if path.relative_to(REPO).parts[0] in ("tests", ".venv"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "{}"
                                     for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_that_the_readme_quotes_are_the_projects():
    section = DOCUMENTS[0].read_text(encoding="utf-8").partition("| you see | do |")[2]
    quoted = re.findall(r"^\| `([^`]+)`", section.partition("\n## ")[0], re.M)
    assert len(quoted) >= 7
    known = "\n".join(source_texts())
    for message in quoted:
        # What stands between names, numbers and punctuation, which are those of the case.
        parts = re.split(r"\.\.\.\S*|'[^']*'|\bN x|[\d.]+|[,;:]", message)
        parts = [part.strip() for part in parts if len(part.strip()) > 2]
        assert parts and all(part in known for part in parts), f"{message}: {parts}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            path = document.parent / name if name else document
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def anchors(path):
    """Return the anchors that GitHub makes of the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_names_what_is_there():
    tree = next(text for text in texts("listing") if "utils/training/" in text)
    for line in tree.splitlines():
        names = re.findall(r"\S+\.py|[a-z_/]+/", line)
        assert names, line
        # In brackets stand files of the folder.
        names += [f"{names[0]}{name}.py" for inside in re.findall(r"\((.*?)\)", line)
                  for name in inside.split(", ")]
        assert [name for name in names if not (REPO / name).exists()] == [], line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_and_paths_in_the_text_are_the_projects(document):
    """Settings (`eval_period`, `tile = 300`) are words of the source, paths with a / are there."""
    codes = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", document.read_text(encoding="utf-8"))
    source = "\n".join(path.read_text(encoding="utf-8") for path in REPO.rglob("*.py")
                       if path.relative_to(REPO).parts[0] not in ("tests", ".venv"))
    names = {code.partition(" = ")[0] for code in codes}
    unknown = {name for name in names if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
               and not re.search(rf"\b{name}\b", source)}
    missing = {name for name in names if re.fullmatch(r"\w+/[\w/]*\w\.py", name)
               and not (REPO / name).exists()}
    assert not unknown | missing
