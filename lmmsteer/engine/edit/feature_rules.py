"""Changes of the picture's projected features that mix their dimensions, as data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

TINY = 1e-12  # Below this length a vector has no direction.


@dataclass(frozen=True)
class FeatureResidual:
    """A small network's answer is added to every token.

    f' = f + alpha phi(f), phi(f) = W2 relu(W1 f + b1) + b2; alpha 0 leaves the features alone.

    w1: [width, d_model]; b1: [width]; w2: [d_model, width]; b2: [d_model]; float32.
    Source: Seth et al. 2023 (arXiv 2303.10431), the additive residual learner of DeAR.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    alpha: float = 1.0

    def apply(self, features: Tensor) -> Tensor:
        """features: [..., d_model], any dtype; computed in float32."""
        if self.alpha == 0:
            return features
        w1, b1, w2, b2 = (_beside(x, features) for x in (self.w1, self.b1, self.w2, self.b2))
        f = features.float()
        phi = linear(linear(f, w1, b1).relu(), w2, b2)
        return (f + self.alpha * phi).to(features.dtype)


@dataclass(frozen=True)
class FeatureRotation:
    """Every token is turned towards the point of the sphere that has no part in a subspace.

    h^ = h / |h|; t = log_mu(h^); t_clean = t - V^T (V t); g = g0 + (1 - g0) sigmoid(kappa (|V t| -
    median) / spread); h' = |h| Slerp(h^, exp_mu(t_clean); alpha g). alpha 0 leaves the features as
    they are; a token of length zero is left alone, and one whose goal is itself or its opposite.

    mean mu: [d_model], a unit vector; subspace V: [k, d_model], orthonormal rows, orthogonal to mu;
    float32. median, spread: of |V t|, where the gate is half open and how fast it opens. kappa: its
    steepness; floor g0 in [0, 1]: how far it is open to a token without any part in the subspace.
    Source: GGSS (arXiv 2608.25375).
    """

    mean: Tensor
    subspace: Tensor
    median: float
    spread: float
    kappa: float = 5.0
    floor: float = 0.3
    alpha: float = 1.0

    def apply(self, features: Tensor) -> Tensor:
        """features: [..., d_model], any dtype; computed in float32."""
        if self.alpha == 0:
            return features
        mean, subspace = _beside(self.mean, features), _beside(self.subspace, features)
        h = features.float()
        length = h.norm(dim=-1, keepdim=True)  # [..., 1]
        unit = h / length.clamp_min(TINY)
        tangent = log_map(mean, unit)
        part = tangent @ subspace.T  # [..., k]
        goal = exp_map(mean, tangent - part @ subspace)
        turned = slerp(unit, goal, self.alpha * self._gate(part.norm(dim=-1, keepdim=True)))
        turned = turned / turned.norm(dim=-1, keepdim=True).clamp_min(TINY)
        return torch.where(length > TINY, turned * length, h).to(features.dtype)

    def _gate(self, size: Tensor) -> Tensor:
        """How much of the way a token goes, in [g0, 1]. size |V t|: [..., 1]."""
        opened = (self.kappa * (size - self.median) / max(self.spread, TINY)).sigmoid()
        return self.floor + (1 - self.floor) * opened


def log_map(mean: Tensor, x: Tensor) -> Tensor:
    """The tangent vector at the mean whose geodesic reaches x.

    log_mu(x) = w (x - mu cos w) / sin w, cos w = mu . x; zero at the mean itself.
    mean: [d], x: [..., d], unit vectors.
    """
    cosine = (x @ mean).unsqueeze(-1)
    off = x - cosine * mean
    sine = off.norm(dim=-1, keepdim=True)
    return off * (torch.atan2(sine, cosine) / sine.clamp_min(TINY))


def exp_map(mean: Tensor, tangent: Tensor) -> Tensor:
    """The unit vector that a geodesic reaches: exp_mu(t) = mu cos |t| + t sin |t| / |t|.

    mean: [d], a unit vector; tangent: [..., d], orthogonal to it.
    """
    angle = tangent.norm(dim=-1, keepdim=True)
    return angle.cos() * mean + torch.sinc(angle / torch.pi) * tangent


def slerp(start: Tensor, goal: Tensor, share: Tensor) -> Tensor:
    """A share of the way from one unit vector to another, along their great circle.

    Beyond 1 it goes past the goal. A goal that is the start or its opposite shows no way, and the
    start is what comes out.
    start, goal: [..., d]; share: [..., 1].
    """
    cosine = (start * goal).sum(-1, keepdim=True)
    off = goal - cosine * start
    sine = off.norm(dim=-1, keepdim=True)
    angle = share * torch.atan2(sine, cosine)
    moved = angle.cos() * start + angle.sin() * off / sine.clamp_min(TINY)
    return torch.where(sine > TINY, moved, start)


def _beside(x: Tensor, features: Tensor) -> Tensor:
    return x.to(features.device, torch.float32)
