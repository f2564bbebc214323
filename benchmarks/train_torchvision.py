"""Train torchvision's SSD300 on the lists of voc_annotation.py, by its reference recipe.

    python -m benchmarks.train_torchvision --backbone_weights vgg16_imagenet.pth
    python get_map.py --model_path bench/torchvision.pth --classes_path 2007_classes.txt

The recipe is that of torchvision's references/detection/train.py for ssd300_vgg16: SGD, its "ssd"
augmentation, a warm-up in the first epoch, drops after 2/3 and 11/12 of the epochs, the first stage
of VGG16 frozen, mixed precision by autocast (--amp). Its learning rate, 0.002, is for 32 images.
"""

import time
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader
from torchvision.models.detection import ssd300_vgg16

from benchmarks.torchvision_ssd import ReferenceImages, reference_loss
from utils.cli import make_folder, resolve, run
from utils.data.annotations import read_list
from utils.multibox.spec import SSDSpec


@dataclass(frozen=True)
class ReferenceSettings:
    """A training of torchvision's SSD300."""

    train_list: str = "2007_train.txt"
    # Convolutions of VGG16, as ImageNet weights name them (features.0.weight).
    backbone_weights: str = "model_data/vgg16_features-amdegroot-88682ab5.pth"
    path: str = "bench/torchvision.pth"  # where the trained weights go
    epochs: int = 12
    batch_size: int = 8
    learning_rate: float = 0.002  # as it is, for any batch
    precision: str = "bf16"  # or fp32
    seed: int = 0


def main(settings: ReferenceSettings) -> None:
    """Train, and print the loss and the seconds of each epoch."""
    torch.manual_seed(settings.seed)
    records, names = read_list(settings.train_list)
    network = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=len(names) + 1)
    weights = torch.load(resolve(settings.backbone_weights), weights_only=True)
    layers = [*network.backbone.features, *network.backbone.extra[0]]  # of VGG16, in its order
    for name, value in weights.items():
        if name.startswith("features."):
            _, index, part = name.split(".")
            getattr(layers[int(index)], part).data.copy_(value)
    network.backbone.features[:4].requires_grad_(False)  # conv1_1 and conv1_2, its default
    optimizer = torch.optim.SGD([value for value in network.parameters() if value.requires_grad],
                                settings.learning_rate, 0.9, weight_decay=5e-4)
    drops = [round(share * settings.epochs) for share in (2 / 3, 11 / 12)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops)
    loader = DataLoader(ReferenceImages(records, SSDSpec()), settings.batch_size, shuffle=True,
                        drop_last=True, num_workers=2, collate_fn=list)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, len(loader) - 1)
    for epoch in range(settings.epochs):
        start, total = time.perf_counter(), 0.0
        for batch in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                loss = reference_loss(network, *zip(*batch), "cpu")
            loss.backward()
            optimizer.step()
            total += loss.item()
            if epoch == 0:
                warm_up.step()
        schedule.step()
        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}, "
              f"{time.perf_counter() - start:.0f} s", flush=True)
    make_folder(resolve(settings.path).parent)
    torch.save(network.state_dict(), resolve(settings.path))


if __name__ == "__main__":
    run(main, ReferenceSettings)
