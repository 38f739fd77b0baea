"""Makes probabilities mean what they say: temperature scaling (Guo et al. 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def fit_temperature(logits: Tensor, labels: Sequence[int]) -> float:
    """The temperature of least negative log-likelihood, among 401 from 0.1 to 10 in equal ratios.

    Args:
        logits: [N, L] of texts that neither trained nor test the head.
        labels: the number of the label of each.
    """
    temperatures = torch.logspace(-1, 1, 401)
    losses = [negative_log_likelihood(logits / float(each), labels) for each in temperatures]
    return round(float(temperatures[losses.index(min(losses))]), 4)


def negative_log_likelihood(logits: Tensor, labels: Sequence[int]) -> float:
    """Mean over texts of -log p(true label), natural logarithm."""
    return float(functional.cross_entropy(logits, torch.tensor(labels)))
