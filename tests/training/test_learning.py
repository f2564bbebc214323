"""That a network learns: a sign error anywhere between boxes and weights must end here."""

import cv2
import numpy as np
import torch
from tiny_ssd import SIDE, TinySSD

from train import train_step
from utils.data.annotations import Record
from utils.data.demo_data import CLASS_NAMES, draw_scene
from utils.data.loader import collate
from utils.detections import Detections
from utils.evaluation.voc_ap import evaluate_voc, mean_ap
from utils.multibox.loss import MultiBoxLoss
from utils.multibox.postprocess import Thresholds, decode_outputs, select
from utils.training.optim import Schedule, make_optimizer, set_learning_rate

STEPS, BATCH = 120, 12


def draw(first, count):
    """Return drawn scenes as training samples of the input's size."""
    samples = []
    for k in range(first, first + count):
        image, objects = draw_scene(np.random.default_rng((9, k)))
        height, width = image.shape[:2]
        boxes = np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4)
        samples.append((
            cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA),
            boxes / np.float32([width, height, width, height]),
            np.array([CLASS_NAMES.index(name) for name, _, _ in objects], np.int64),
            np.array([difficult for *_, difficult in objects], bool), k))
    return samples


def measure(network, samples):
    """Return mAP@0.5 on samples, in fractions of the input."""
    network.eval()
    with torch.no_grad():
        outputs = network(collate(samples).images)
    kept = select(*decode_outputs(*outputs, network.coder), Thresholds(confidence=0.05), clip=True)
    records = [Record(None, *sample[1:4]) for sample in samples]
    detections = [Detections(*(part.numpy() for part in image)) for image in kept]
    return mean_ap(evaluate_voc(detections, records, len(CLASS_NAMES)))


def test_drawn_shapes_are_learnt_from_nothing():
    torch.manual_seed(0)
    network, samples = TinySSD(), draw(0, 200)
    criterion = MultiBoxLoss(network.coder, background_negatives=5)
    optimizer = make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4)
    schedule = Schedule(0.02, STEPS, kind="cosine", warmup_steps=20, min_lr_ratio=0.01)
    for step in range(STEPS):
        set_learning_rate(optimizer, schedule.rate(step, BATCH))
        chosen = np.random.default_rng(step).choice(len(samples), BATCH, replace=False)
        batch = collate([samples[k] for k in chosen], criterion.make_targets)
        train_step(network.train(), criterion, optimizer, [batch],
                   scaler=torch.amp.GradScaler("cpu", enabled=False), precision="fp32",
                   clip_grad_norm=10.0)
    assert measure(network, draw(1000, 60)) >= 0.8
