"""Sequences that are not text: scikit-learn's handwritten digits, told from patches by the same attention pooling.

The formula is the model, not the encoder: here an image is a sequence of 9 patches, each of 16 pixels and a place.
"""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from models.figures import label_figures, scored
from models.network import LabelHead

_SIDE = 8  # pixels of an image's side
_PATCH = 4  # pixels of a patch's side: large enough to hold a stroke
_STEP = 2  # pixels from one patch to the next
_PLACES = ((_SIDE - _PATCH) // _STEP + 1) ** 2
_WIDTH = 128
_TEST = 450  # images that are reported on
_EPOCHS = 30
_BATCH = 64


class DigitNetwork(nn.Module):
    """Two layers over each patch alone, then attention over patches and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        features = _PATCH**2 + _PLACES
        self.encoder = nn.Sequential(nn.Linear(features, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH))
        self.head = LabelHead(_WIDTH, 10, attention_width=32, classifier_width=_WIDTH, dropout=0.1)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, 10] and attention [B, 9] from patches [B, 9, 25]."""
        logits, alpha = self.head(self.encoder(patches), torch.ones(patches.shape[:2], device=patches.device))
        return logits, alpha


def patches(images: Any) -> Tensor:
    """Pixels and place of each patch [N, 9, 25], from images [N, 8, 8] of values from 0 to 16."""
    whole = torch.from_numpy(np.asarray(images, np.float32) / 16).unsqueeze(1)  # [N, 1, 8, 8]
    pixels = functional.unfold(whole, _PATCH, stride=_STEP).transpose(1, 2)  # [N, 9, 16]
    places = torch.eye(_PLACES).expand(len(pixels), -1, -1)
    return torch.cat([pixels, places], dim=2)


def run(seed: int = 0) -> dict[str, Any]:
    """Train on 1,347 images and test on 450 that chose nothing; takes seconds.

    Returns:
        Figures as of `models.figures.label_figures`.
    """
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    inputs, labels = patches(digits.images[order]), torch.from_numpy(digits.target[order]).long()
    train, test = slice(_TEST, None), slice(0, _TEST)
    torch.manual_seed(seed)
    network = DigitNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.01)
    count = len(labels) - _TEST
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=_EPOCHS * -(-count // _BATCH))
    for _ in range(_EPOCHS):
        for chosen in torch.split(torch.randperm(count), _BATCH):
            logits, _ = network(inputs[train][chosen])
            loss = functional.cross_entropy(logits, labels[train][chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        logits, _ = network(inputs[test])
    return label_figures(scored(logits.numpy(), labels[test].numpy(), 1.0), [str(digit) for digit in range(10)])
