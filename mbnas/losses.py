"""What an attack drives up: losses of each image, ``loss(logits (B, K), y (B,)) -> (B,)``.

Cross-entropy stops having a gradient where softmax saturates, which binary networks, whose logits
are large, do early; the others do not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y (Madry et al. 2018)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{i != y} z_i - z_y, positive where the image is lost (Carlini & Wagner 2017)."""
    right, rival = _right_and_rival(logits, y)
    return rival - right


def logit_ratio(logits: Tensor, y: Tensor) -> Tensor:
    """The margin over z_(1) - z_(3), the gap between the largest logit and the third.

    Difference-of-logits ratio, DLR (Croce & Hein 2020, Eq. 6): no scale or shift of the logits
    changes it. Two classes have no third, and any ratio of them is constant: theirs is the margin.
    """
    right, rival = _right_and_rival(logits, y)
    if logits.shape[1] < 3:
        return rival - right
    first, _, third = logits.topk(3, dim=1).values.unbind(dim=1)
    return (rival - right) / (first - third).clamp(min=1e-12)


def targeted_logit_ratio(logits: Tensor, pair: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) for label y and class t to reach.

    Targeted difference-of-logits ratio (Croce & Hein 2020, Eq. 7). Fewer than four classes have no
    such ratio, and one of three logits is constant where two of them are z_y and z_t: theirs is the
    plain difference.

    Args:
        logits: (B, K).
        pair: y and t of each image, (B, 2).
    """
    right, reached = logits.gather(1, pair).unbind(dim=1)
    if logits.shape[1] < 4:
        return reached - right
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(dim=1)
    return (reached - right) / (first - (third + fourth) / 2).clamp(min=1e-12)


def rescaled_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of z / |z_y - max_{i != y} z_i|, whose divisor counts as a constant.

    The margin of every image becomes 1, where softmax is far from saturated (after Gupta &
    Ajanthan 2022, who look for one temperature for the network).
    """
    right, rival = _right_and_rival(logits.detach(), y)
    return cross_entropy(logits / (right - rival).abs().clamp(min=1e-12)[:, None], y)


def _right_and_rival(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logit of the label and the largest other one, (B,) each."""
    label = y[:, None]
    others = logits.scatter(1, label, -torch.inf)
    return logits.gather(1, label)[:, 0], others.max(dim=1).values
