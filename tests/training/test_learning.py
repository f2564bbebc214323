"""That a network learns: a sign error anywhere between boxes and weights must end here."""

import cv2
import numpy as np
import torch
from old_postprocess import postprocess
from tiny_ssd import SIDE, SPEC, TinySSD

from utils.data.annotations import Record
from utils.data.demo_data import CLASS_NAMES, draw_scene
from utils.data.loader import Sample, collate
from utils.evaluation.voc_ap import evaluate_voc, mean_ap
from utils.image import normalise
from utils.postprocess import Detections
from utils.training.optim import Schedule, make_optimizer, set_learning_rate
from utils.training.trainer import Objective, Trainer

STEPS, BATCH = 200, 16


def draw(first, count):
    """Return drawn scenes as Samples of the input's size."""
    samples = []
    for k in range(first, first + count):
        image, objects = draw_scene(np.random.default_rng((9, k)))
        height, width = image.shape[:2]
        boxes = np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4)
        samples.append(Sample(
            cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA),
            boxes / np.float32([width, height, width, height]),
            np.array([CLASS_NAMES.index(name) for name, _, _ in objects], np.int64),
            np.array([difficult for *_, difficult in objects], bool), k))
    return samples


def measure(network, samples):
    """Return mAP@0.5 on samples, in fractions of the input."""
    network.eval()
    with torch.no_grad():
        loc, conf = network(normalise(collate(samples).images, SPEC))
    found = postprocess(loc, conf, network.priors, SPEC, confidence=0.05, nms_iou=0.45,
                        max_per_class=100, max_per_image=100)
    records = [Record(None, s.boxes, s.labels, s.difficult) for s in samples]
    return mean_ap(evaluate_voc([Detections(*(part.numpy() for part in image))
                                 for image in found], records, len(CLASS_NAMES)))


def test_drawn_shapes_are_learnt_from_nothing():
    torch.manual_seed(0)
    network, samples = TinySSD(), draw(0, 320)
    schedule = Schedule(num_images=len(samples), epochs=STEPS * BATCH // len(samples),
                        batch_size=BATCH, accumulate=1, freeze_epochs=0, freeze_batch_size=1,
                        learning_rate=0.02, kind="cosine", warmup_steps=20, min_lr_ratio=0.01)
    trainer = Trainer(
        network, make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4), None,
        schedule, Objective(match_iou=0.5, negatives_per_positive=3.0, background_negatives=5,
                            train_on_difficult=True),
        device=torch.device("cpu"), precision="fp32", num_workers=0, clip_grad_norm=10.0)
    for step in range(schedule.total_steps()):
        set_learning_rate(trainer.optimizer, schedule.rate(step, 0))
        chosen = np.random.default_rng(step).choice(len(samples), BATCH, replace=False)
        network.train()
        trainer.train_step([collate([samples[k] for k in chosen])])
    held_out = measure(network, draw(1000, 60))
    print(f"held-out mAP {held_out:.3f}")
    assert held_out >= 0.8
