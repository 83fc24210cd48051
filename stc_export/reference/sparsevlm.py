"""SparseVLM (arXiv 2410.04417, its released code): text tokens rate visual tokens, and some losers are merged."""

from __future__ import annotations

import torch
from torch import Tensor

from stc_export.reference.inside import Reduced, View, attention_weights, highest, staged_shares

#: Layers before the second, third and fourth stage, of 32.
_BOUNDS, _OF = (2, 6, 15), 32
#: Share of the dropped tokens that is recycled, and how many of those make one cluster.
_RECYCLED, _PER_CLUSTER = 0.3, 10


class SparseVlm:
    """Keeps what the *raters* attend to in the layer that has just run, and merges the best of the rest.

    Raters are the text tokens behind the video that the visual tokens look like most. Of the dropped tokens the best
    30 % are clustered (density peaks), ten to a cluster, and each cluster's mean is appended to the kept tokens at the
    position of its centre. Counts here include these.

    Published are four schedules of counts for 576 tokens, which no formula gives. Here stages end after the published
    layers (2, 6 and 15 of 32) in proportion, and keep 1, r, r^2 and r^3. Where two densities are equal, the released
    code decides by chance; here the lower index counts as denser.
    """

    def shares(self, layers: int, keep: float) -> tuple[float, ...]:
        """Return 1, r, r^2 and r^3 by stages.

        Raises:
            PolicyError: The first stage is more than ``keep`` already.
        """
        return staged_shares("sparsevlm", [max(1, round(layers * bound / _OF)) for bound in _BOUNDS], layers, keep)

    def reduce(self, view: View, count: int) -> Reduced:
        """Return ``count`` visual tokens: the best, then the merged ones."""
        visual = view.visual
        rows = raters(view.embedded, view.text, len(view.embedded) - view.text - visual.start, visual.start)
        scores = attention_weights(view, view.layer, view.before, rows + visual.stop)[:, visual].mean(dim=0)
        kept = highest(scores, kept_beside_clusters(visual.stop - visual.start, count))
        dropped = torch.ones_like(scores, dtype=torch.bool).index_fill_(0, kept, value=False).nonzero()[:, 0]
        recycled = dropped[highest(scores[dropped], _recycled(len(dropped)))]
        tokens, positions = view.now[visual], view.positions[visual]
        merged, centres = merge_clusters(tokens[recycled], count - len(kept))
        return Reduced(torch.cat([tokens[kept], merged]), torch.cat([positions[kept], positions[recycled[centres]]]))


def raters(embedded: Tensor, text: int, visual: int, first: int) -> Tensor:
    """Return the text tokens behind the video that visual tokens are likest, by their number behind the video.

    Args:
        embedded: The prompt [S0, D].
        text: Tokens behind the video.
        visual: Visual tokens.
        first: Row of the first of them.
    """
    likeness = embedded[first : first + visual].float() @ embedded[-text:].float().T
    shares = likeness.softmax(dim=1).mean(dim=0)
    return (shares >= shares.mean()).nonzero()[:, 0]  # >=, so that there is one even if all are equal


def kept_beside_clusters(total: int, count: int) -> int:
    """Return how many of ``total`` tokens are kept as they are, so that with the clusters there are ``count``.

    With fewer than the published number of clusters allowed, none is kept and there are that many clusters.
    """
    return max((kept for kept in range(count) if kept + _clusters(total - kept) <= count), default=0)


def _recycled(dropped: int) -> int:
    return int(dropped * _RECYCLED) + 1


def _clusters(dropped: int) -> int:
    return _recycled(dropped) // _PER_CLUSTER + 1


def merge_clusters(tokens: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Cluster tokens [N, D] by density peaks (DPC-KNN); return the mean of each cluster and the index of its centre.

    A token is dense when its ``clusters`` nearest tokens are near. Centres are dense and far from any denser token;
    the others belong to the nearest centre.
    """
    x = tokens.float()
    distance = torch.cdist(x, x) / x.shape[1] ** 0.5
    density = (-(distance.topk(clusters, largest=False).values ** 2).mean(dim=1)).exp()
    order = torch.argsort(density, descending=True, stable=True)
    rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    denser = rank[None, :] < rank[:, None]
    to_denser = torch.where(denser, distance, distance.max()).min(dim=1).values
    centres = highest(to_denser * density, clusters)
    belongs = distance[centres].argmin(dim=0).index_copy_(0, centres, torch.arange(clusters, device=centres.device))
    means = [tokens[belongs == cluster].mean(dim=0) for cluster in range(clusters)]
    return torch.stack(means).to(tokens.dtype), centres
