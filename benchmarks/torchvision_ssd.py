"""torchvision's ssd300_vgg16 beside this project's: the same weights, its own ways."""

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.transforms import v2

from nets.backbones import rename
from nets.ssd import SSDNet
from nets.weights.families import TORCHVISION
from utils.data.augment import CROP_TRIALS


def as_torchvision(network: SSDNet, *, same_priors: bool) -> SSD:
    """Return torchvision's SSD300 in eval mode with the weights of an SSDNet of VGG16 at 300.

    Its own priors are clipped; with `same_priors` it has the network's.
    """
    spec = network.spec
    reference = ssd300_vgg16(weights=None, weights_backbone=None,
                             num_classes=network.num_classes).eval()
    # Our tensors' names -> torchvision's.
    names = rename({name: name for name in reference.state_dict()}, TORCHVISION)
    reference.load_state_dict({names[name]: value for name, value in network.state_dict().items()})
    if same_priors:
        reference.anchor_generator = DefaultBoxGenerator(
            spec.aspect_ratios, scales=[size / spec.size for size in spec.anchors_size],
            steps=spec.steps, clip=False)
    return reference


class Distort(v2.RandomPhotometricDistort):
    """SSD's colour changes: torchvision swaps channels besides, half of the time."""

    def make_params(self, flat_inputs):
        return super().make_params(flat_inputs) | {"channel_permutation": None}


def augmentations(mean):
    """Return the SSD augmentation as torchvision's references write it, with SSD's numbers."""
    fill = {tv_tensors.Image: mean, "others": 0}
    return [Distort(hue=(-0.1, 0.1)), v2.RandomZoomOut(fill=fill),
            v2.RandomIoUCrop(trials=CROP_TRIALS), v2.RandomHorizontalFlip()]


def read_sample(record, chain):
    """Make one sample of a Record with torchvision alone: a dict of image, boxes, labels."""
    image = tv_tensors.Image(decode_jpeg(read_file(str(record.path)), mode=ImageReadMode.RGB))
    boxes = tv_tensors.BoundingBoxes(record.boxes_px, format="XYXY", canvas_size=image.shape[-2:])
    return chain({"image": image, "boxes": boxes, "labels": torch.from_numpy(record.labels)})


class ReferenceImages(Dataset):
    """Records as torchvision's reference training reads them; the network resizes."""

    def __init__(self, records, spec):
        self.records = records
        self.chain = v2.Compose([*augmentations(spec.mean), v2.SanitizeBoundingBoxes(),
                                 v2.ToDtype(torch.float32, scale=True)])

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        sample = read_sample(self.records[index], self.chain)
        return sample["image"], {"boxes": sample["boxes"], "labels": sample["labels"] + 1}


def reference_loss(network, images, targets, device):
    """Return the loss of torchvision's network for lists of images and of targets."""
    images = [image.to(device) for image in images]
    targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
    return sum(network.train()(images, targets).values())


def batch_as_lists(batch):
    """Return a Batch of this project's loader as lists of images and of targets."""
    size = batch.images.shape[-1]
    return list(batch.images / 255.0), [
        {"boxes": boxes[labels >= 0] * size, "labels": labels[labels >= 0] + 1}
        for boxes, labels in zip(batch.boxes, batch.labels)]
