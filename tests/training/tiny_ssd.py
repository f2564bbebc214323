"""A network that trains in seconds, for tests of what stands around it."""

import torch
from torch import nn

from utils.multibox.coder import BoxCoder
from utils.multibox.spec import IMAGENET_MEAN, IMAGENET_STD, SSDSpec

SIDE = 64
SPEC = SSDSpec(backbone="tiny", input_shape=(SIDE, SIDE), grids=(8, 4, 2), steps=None,
               anchors_size=(14, 24, 36, 52), aspect_ratios=((2,),) * 3, mean=IMAGENET_MEAN,
               std=IMAGENET_STD)


class TinySSD(nn.Module):
    """Six convolutions and heads on three maps, written without the project's own network."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.spec, self.num_classes, self.coder = SPEC, 5, BoxCoder(SPEC)
        self.stages = nn.ModuleList(
            nn.Sequential(*(layer for k in range(depth) for layer in (
                nn.Conv2d(into if k == 0 else out, out, 3, stride=2 if k < strided else 1,
                          padding=1), norm(out), nn.ReLU())))
            for into, out, depth, strided in ((3, 32, 3, 3), (32, 64, 1, 1), (64, 64, 1, 1)))
        self.heads = nn.ModuleList(nn.Conv2d(out, 4 * (4 + 5), 3, padding=1)
                                   for out in (32, 64, 64))

    @property
    def pretrained_layers(self):
        return self.stages[0]

    def forward(self, images):
        mean, std = (torch.tensor(value)[:, None, None] for value in (SPEC.mean, SPEC.std))
        x, rows = (images.float() - mean) / std, []
        for stage, head in zip(self.stages, self.heads):
            x = stage(x)
            rows.append(head(x).permute(0, 2, 3, 1).reshape(len(x), -1, 9))
        rows = torch.cat(rows, 1).float()
        return rows[..., :4], rows[..., 4:]


def group_norm(channels):
    """Batch norm makes a batch more than the sum of its images; this does not."""
    return nn.GroupNorm(8, channels)
