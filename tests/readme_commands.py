"""Run commands of the documents in one process, in the copy of the repository that one stands in.

    python readme_commands.py steps.json        # results.json is written beside it

test_readme.py starts this and says which commands. PyTorch takes seconds to import, so that a
process for each would take minutes.
"""

import contextlib
import io
import json
import runpy
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import cv2
import torch
import tyro
from PIL import Image
from torch.distributed.run import parse_args

from nets.backbones import BACKBONES
from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings
from utils import cli
from utils.data import demo_data

NAMES = ("person", "car", "triangle", "star")  # two that the documents look for
ANSWERS = "a.jpg\nq\n"  # to predict.py, which asks


def main(path):
    """Put in place what the documents take as given, run the steps in order, keep what came."""
    prepare()
    results = [run_step(**step) for step in json.loads(Path(path).read_text(encoding="utf-8"))]
    Path("results.json").write_text(json.dumps(results), encoding="utf-8")


def prepare():
    """Draw a user's images, and fill a detector and ImageNet weights with random numbers."""
    demo_data.main(demo_data.DemoSettings(folder="made", images=10, held_out=2))
    for path in Path("made/VOCdevkit").rglob("*.xml"):
        text = path.read_text(encoding="utf-8")
        for drawn, name in zip(demo_data.CLASS_NAMES, NAMES):
            text = text.replace(f"<name>{drawn}<", f"<name>{name}<")
        path.write_text(text, encoding="utf-8")
    for place in ("VOCdevkit", "bccd"):
        shutil.copytree("made/VOCdevkit", place, dirs_exist_ok=True)
    for place in ("model_data/my_classes.txt", "bccd/bccd_classes.txt"):
        Path(place).write_text("\n".join(NAMES), encoding="utf-8")
    shutil.copytree("made/held_out", "photos")
    for place in ("a.jpg", "b.jpg", "image.jpg"):
        shutil.copy("made/held_out/000010.jpg", place)
    image = cv2.resize(cv2.imread("a.jpg"), (96, 64))
    video = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 64))
    for _ in range(3):
        video.write(image)
    video.release()
    network = SSDNet(len(NAMES) + 1, build_spec("vgg", 300))
    SSD(SSDSettings(device="cpu"), network=network, class_names=NAMES).save("best.pth")
    weights = {name.replace("vgg.", "features."): value for name, value
               in network.state_dict().items() if name.startswith("vgg.")}
    # Where a download would lie, so that nothing is downloaded.
    for place in ("vgg16_imagenet.pth", f"model_data/{Path(BACKBONES['vgg'].imagenet).name}"):
        torch.save(weights, place)


def run_step(text, how, words=(), code=""):
    """Run, or only parse, one command or Python block; return what a user would see of it.

    `how` is "run", "parse", or "processes" for a torchrun that really starts its processes.
    """
    output, status, start = io.StringIO(), 0, time.process_time()
    argv, true_run = sys.argv, cli.run
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            sys.stdin = io.StringIO(ANSWERS)
            cli.run = parse_flags if how == "parse" else true_run
            if code:
                exec(compile(code, text, "exec"), {"__name__": "__main__"})
            elif how == "processes":
                run_processes(words[1:])
            else:
                run_script(words)
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        status = 1
        output.write(traceback.format_exc())
    finally:
        sys.argv, cli.run = argv, true_run
    return {"text": text, "status": status, "output": output.getvalue(),
            "seconds": time.process_time() - start}


def parse_flags(main, settings_class):
    """Stand for `utils.cli.run` where flags are looked at and nothing is run."""
    cli.check_fields(tyro.cli(settings_class, use_underscores=True))


def run_processes(arguments):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    sys.exit(done.returncode)


def run_script(words):
    """Run `python x.py ...`, `python -m x ...`, or as one process what torchrun would start."""
    if words[0] == "torchrun":
        torchrun = parse_args(words[1:])
        words = ["python", torchrun.training_script, *torchrun.training_script_args]
    if words[1] == "-m":
        sys.argv = words[2:]
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words[1:]
        runpy.run_path(words[1], run_name="__main__")


if __name__ == "__main__":
    Image.Image.show = lambda image, *_: None  # no windows
    main(sys.argv[1])
