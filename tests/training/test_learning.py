"""That a network learns: a sign error anywhere between boxes and weights must end here."""

import cv2
import numpy as np
import torch
from torch import nn

from utils.data.annotations import Record
from utils.data.demo_data import CLASS_NAMES, draw_scene
from utils.data.loader import Sample, collate
from utils.evaluation.voc_ap import evaluate_voc, mean_ap
from utils.image import normalise
from utils.postprocess import Detections, postprocess
from utils.priors import make_priors
from utils.spec import IMAGENET_MEAN, IMAGENET_STD, SSDSpec
from utils.training.optim import Schedule, make_optimizer, seed_everything, set_learning_rate
from utils.training.trainer import Objective, Trainer

SIDE, STEPS, BATCH = 64, 200, 16
SPEC = SSDSpec(backbone="tiny", input_shape=(SIDE, SIDE), grids=(8, 4, 2), steps=None,
               anchors_size=(14, 24, 36, 52), aspect_ratios=((2,),) * 3, mean=IMAGENET_MEAN,
               std=IMAGENET_STD)


class TinySSD(nn.Module):
    """Six convolutions and heads on three maps, written without the project's own network."""

    def __init__(self):
        super().__init__()
        self.spec, self.pretrained_layers = SPEC, nn.Sequential()
        self.stages = nn.ModuleList(
            nn.Sequential(*(layer for k in range(depth) for layer in (
                nn.Conv2d(into if k == 0 else out, out, 3, stride=2 if k < strided else 1,
                          padding=1), nn.BatchNorm2d(out), nn.ReLU())))
            for into, out, depth, strided in ((3, 32, 3, 3), (32, 64, 1, 1), (64, 64, 1, 1)))
        self.heads = nn.ModuleList(nn.Conv2d(out, 4 * (4 + 5), 3, padding=1)
                                   for out in (32, 64, 64))
        self.register_buffer("priors", make_priors(SPEC))

    def forward(self, x):
        rows = []
        for stage, head in zip(self.stages, self.heads):
            x = stage(x)
            rows.append(head(x).permute(0, 2, 3, 1).reshape(len(x), -1, 9))
        rows = torch.cat(rows, 1).float()
        return rows[..., :4], rows[..., 4:]


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
    seed_everything(0)
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
