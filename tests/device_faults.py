"""Ten device mistakes that tests/test_gpu.py has to see, with SLOW_TESTS=1."""

import shutil
import sys
from pathlib import Path

TRAINING = "test_a_training_stops_goes_on_and_never_waits_in_a_step"
DETECTION = "test_detections_are_those_of_the_cpu"
FAULTS = [  # (file, what stands there, what a mistake makes of it, the test that sees it)
    ("train.py", "stack(", "stack(", TRAINING), ("ssd.py", "stack(", "stack(", DETECTION),  # green
    ("nets/runtimes/torch.py", "torch.as_tensor(images).to(self.device)",
     "torch.as_tensor(images)", DETECTION),
    ("nets/runtimes/inspect.py", "[1][0].cpu()", "[1][0]", DETECTION),
    ("utils/multibox/postprocess.py", "images], 1).cpu()", "images], 1)", DETECTION),
    ("utils/multibox/loss.py", "device=labels.device)", "device='cpu')", TRAINING),
    ("utils/multibox/loss.py", "torch.where(positive, smooth_l1, 0).sum()",
     "smooth_l1[positive].sum()", TRAINING),
    ("utils/data/loader.py", "non_blocking=True", "non_blocking=False", TRAINING),
    ("utils/device.py", "self._event.synchronize()", "pass", TRAINING),
    ("utils/training/run.py", "Checkpoint(**on_cpu(checkpoint._asdict()))", "checkpoint", TRAINING),
    ("train.py", "torch.stack(parts).detach()", "sum(parts).item()", TRAINING),
    ("train.py", "MultiBoxLoss(BoxCoder(network.spec)", "MultiBoxLoss(network.coder", TRAINING)]


def failure_in_copy(folder: str, fault: tuple[str, str, str, str], arguments: dict) -> str:
    """Return how a test fails in a copy of the project with a mistake; "" where it is green."""
    copy, (file, right, wrong, test) = Path(folder, "copy"), fault
    shutil.copytree(Path(__file__).parents[1], copy, ignore=shutil.ignore_patterns(
        ".*", "logs", "VOCdevkit", "*.pth", "__pycache__"))
    text = (copy / file).read_text(encoding="utf-8")
    assert text.count(right) == 1, fault
    (copy / file).write_text(text.replace(right, wrong), encoding="utf-8")
    sys.path[:0] = [str(copy), str(copy / "tests")]
    import test_gpu
    assert test_gpu.train.__file__ == str(copy / "train.py")
    try:
        test_gpu._run_pretended(test, arguments)
    except BaseException as error:
        return repr(error)
    return ""
