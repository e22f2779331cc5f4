"""The weight-shared supernet; a sub-network is an argument, never a state.

supernet(x, assignment) == extract(supernet, assignment)(x)    bit for bit
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbnas.assignment import Assignment, Space
from mbnas.backbones import Backbone
from mbnas.layers import ElasticMultiBitConv2d
from mbnas.networks import Network, Skeleton, multibit
from mbnas.settings import Surrogate


class Supernet(Skeleton):
    """Every network of a space at once, sharing latent weights and batch-norm."""

    kind = "supernet"

    def __init__(self, backbone: Backbone, space: Space) -> None:
        rows = backbone.searchable
        super().__init__(backbone, {row.name: ElasticMultiBitConv2d(row, space) for row in rows})
        self.space = space

    def forward(
        self,
        x: Tensor,
        assignment: Assignment,
        surrogate: Surrogate = Surrogate.STE,
        weight_surrogate: Surrogate = Surrogate.STE,
    ) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, classes) of one sub-network.

        The other arguments are those of :meth:`mbnas.networks.Network.forward`.

        Raises:
            SettingsError: if the assignment is not in the space.
        """
        self.space.require(assignment)
        names = (row.name for row in self.backbone.searchable)
        bases = dict(zip(names, assignment, strict=True))
        return self.propagate(
            x,
            lambda row, z: self.convolutions[row.name](
                z, self.norms[row.name], bases[row.name], surrogate, weight_surrogate
            ),
        )

    def network(self, assignment: Assignment) -> Network:
        """The sub-network as :func:`extract` makes it."""
        return extract(self, assignment)


def extract(supernet: Supernet, assignment: Assignment) -> Network:
    """The sub-network as a plain network with tensors of its own.

    Raises:
        SettingsError: if the assignment is not in the space.
    """
    supernet.space.require(assignment)
    with torch.device("meta"):
        network = multibit(supernet.backbone, assignment)
    private = {}  # where a layer of the network finds its quantizers in the supernet
    for row, bases in zip(supernet.backbone.searchable, assignment, strict=True):
        layer = f"convolutions.{row.name}"
        private[f"{layer}.weights."] = f"{layer}.weights.{bases.weights}."
        private[f"{layer}.activations."] = f"{layer}.activations.{bases.activations}."
    shared = supernet.state_dict()
    state = {}
    for key in network.state_dict():
        prefix = key[: key.rfind(".") + 1]
        state[key] = shared[private.get(prefix, prefix) + key.removeprefix(prefix)].clone()
    network.load_state_dict(state, assign=True)
    return network.train(supernet.training)
