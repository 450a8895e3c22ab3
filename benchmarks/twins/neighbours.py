"""Nearest neighbours by torch.cdist, a block of queries at a time."""

import torch

BLOCK = 2048


def nearest(queries, references, k):
    """The k smallest distances of each query, `[n, k]`, in order."""
    parts = (torch.cdist(part, references).topk(k, largest=False).values for part in queries.split(BLOCK))
    return torch.cat(list(parts))


def inside(queries, references, radii):
    """Whether each query is within the radius of a reference."""
    return torch.cat([(torch.cdist(part, references) <= radii).any(1) for part in queries.split(BLOCK)])
