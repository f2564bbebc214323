"""The multibox loss against a loop over images and priors."""

import math

import pytest
import torch

from utils.multibox.coder import BoxCoder
from utils.multibox.loss import MultiBoxLoss
from utils.multibox.matching import IGNORED, Targets
from utils.multibox.spec import SSDSpec

CODER = BoxCoder(SSDSpec())


def loss_of(loc, conf, targets, normaliser=1.0, **options):
    return MultiBoxLoss(CODER, **options)(loc, conf, targets, normaliser)


def mine(losses, labels, background_negatives=0):
    criterion = MultiBoxLoss(CODER, background_negatives=background_negatives)
    return criterion.mine_hard_negatives(losses, labels)


def count(labels, background_negatives=0):
    criterion = MultiBoxLoss(CODER, background_negatives=background_negatives)
    return criterion.count(Targets(labels, None))


def naive_smooth_l1(difference):
    size = abs(difference)
    return 0.5 * size ** 2 if size < 1 else size - 0.5


def naive_cross_entropy(scores, label):
    top = max(scores)
    return top + math.log(sum(math.exp(score - top) for score in scores)) - scores[label]


def naive_loss(loc, conf, labels, loc_targets, ratio):
    """Return the summed (loc, conf) losses from nested lists, image by image."""
    loc_loss = conf_loss = 0.0
    for b, image in enumerate(labels):
        positives = [p for p, label in enumerate(image) if label > 0]
        for p in positives:
            loc_loss += sum(naive_smooth_l1(x - t) for x, t in zip(loc[b][p], loc_targets[b][p]))
            conf_loss += naive_cross_entropy(conf[b][p], image[p])
        negatives = sorted((naive_cross_entropy(conf[b][p], 0)
                            for p, label in enumerate(image) if label == 0), reverse=True)
        conf_loss += sum(negatives[:ratio * len(positives)])
    return loc_loss, conf_loss


def random_case(seed, batch=4, priors=60, classes=5, positive_rate=0.1):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(batch, priors, 4, generator=generator) * 2
    conf = torch.randn(batch, priors, classes, generator=generator) * 3
    labels = torch.randint(1, classes, (batch, priors), generator=generator)
    draw = torch.rand(batch, priors, generator=generator)
    labels[draw > positive_rate] = 0
    labels[draw > 0.9] = IGNORED
    return loc, conf, Targets(labels, torch.randn(batch, priors, 4, generator=generator))


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("positive_rate", [0.02, 0.1, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_loop(ratio, positive_rate, seed):
    loc, conf, targets = random_case(seed, positive_rate=positive_rate)
    parts = loss_of(loc, conf, targets, negatives_per_positive=ratio)
    expected = naive_loss(loc.tolist(), conf.tolist(), targets.labels.tolist(),
                          targets.loc.tolist(), ratio)
    assert parts.loc.item() == pytest.approx(expected[0], rel=1e-5)
    assert parts.conf.item() == pytest.approx(expected[1], rel=1e-5)


def test_loss_by_hand():
    # One positive: offsets 0.5 and 2 away give 0.125 + 1.5. Equal scores cost log 2 each; three of
    # the four negatives are taken, one of them certain and wrong: log(1 + e^4).
    loc = torch.tensor([[[0.5, 0.0, -2.0, 0.0]] + [[9.0] * 4] * 4])
    conf = torch.tensor([[[0.0, 0.0], [0.0, 4.0], [0.0, 0.0], [0.0, 0.0], [8.0, 0.0]]])
    targets = Targets(torch.tensor([[1, 0, 0, 0, 0]]), torch.zeros(1, 5, 4))
    parts = loss_of(loc, conf, targets)
    assert parts.loc.item() == pytest.approx(1.625)
    assert parts.conf.item() == pytest.approx(3 * math.log(2) + math.log(1 + math.exp(4)))


def test_no_objects_cost_nothing_and_have_finite_gradients():
    loc, conf, targets = random_case(0)
    loc.requires_grad_()
    conf.requires_grad_()
    empty = Targets(torch.zeros_like(targets.labels), targets.loc)
    parts = loss_of(loc, conf, empty)
    assert parts.loc.item() == 0 and parts.conf.item() == 0
    (parts.loc + parts.conf).backward()
    assert torch.equal(loc.grad, torch.zeros_like(loc))
    assert torch.equal(conf.grad, torch.zeros_like(conf))


def test_background_images_are_mined_and_weighed():
    labels = torch.tensor([[0, 0, 0, 0, -1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    losses = torch.tensor([[1.0, 5, 2, 3, 9], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    chosen = mine(losses, labels, 2)
    assert chosen.tolist() == [[False, True, False, True, False],
                               [False, False, True, True, True],
                               [True, True, False, False, False]]
    # 2 / 3 for each background image, 1 for the object (its 3 negatives are worth as much).
    assert count(labels, 2) == pytest.approx(1 + 2 * 2 / 3)
    assert count(labels) == 1
    # More wanted than there are candidates.
    assert count(labels[:1], 30) == pytest.approx(4 / 3)


def test_ignored_priors_get_no_gradient():
    loc, conf, targets = random_case(1)
    ignored = targets.labels == IGNORED
    # The hardest of all, were they negatives.
    conf[ignored] = torch.tensor([-50.0, 50, 0, 0, 0])
    loc.requires_grad_()
    conf.requires_grad_()
    parts = loss_of(loc, conf, targets)
    (parts.loc + parts.conf).backward()
    assert ignored.any()
    assert not conf.grad[ignored].any() and not loc.grad[ignored].any()
