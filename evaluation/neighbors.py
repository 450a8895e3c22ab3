"""Exact nearest neighbours in blocks: never a full distance matrix, so 50,000 x 50,000 at 1280-d needs 4 GiB at most.

Squared distances come from one float64 matrix product a block, |x|^2 + |y|^2 - 2 x.y around the references' mean. Its
cancellation makes identical rows come out at about 1e-7 instead of 0 and breaks ties at random, so the product only
*selects*: it carries a bound of its own rounding, and every pair that the bound leaves in doubt is computed again as
sqrt(sum((x - y)^2)). What is returned therefore does not depend on the block, d(x, y) equals d(y, x) to the last bit,
identical rows are at distance 0, and `<` against `<=` means what it says. Rows that repeat (a collapsed model) are
found by their hash and computed once: all their pairs would be in doubt.
"""

import hashlib

import numpy as np

from evaluation.result import check_count, check_features, check_same_dimension

__all__ = ["count_within", "nearest", "normalized"]

BLOCK = 2048
_REFINED_NUMBERS = 2**21  # numbers in one refinement's differences: 16 MiB


def normalized(features, name="features"):
    """Rows scaled to length 1, `[n, d]` -> `[n, d]` float64: Euclidean distance on them is sqrt(2 - 2 cosine).

    Raises:
        ValueError: for a row of zeros, which has no direction.
    """
    features = check_features(name, features, minimum=1).astype(np.float64)
    scale = np.abs(features).max(axis=1, keepdims=True)  # squares of very large or small numbers would overflow
    if not scale.all():
        row = int(np.argmin(scale))
        raise ValueError(
            f"`{name}` must have no zero rows to be normalized. Received: row {row} is all zeros. Use Euclidean distance, or leave that image out."
        )
    features /= scale
    features /= np.sqrt(np.square(features).sum(axis=1, keepdims=True))
    return features


def nearest(queries, references, k=1, exclude_self=False, block=BLOCK, progress=None):
    """The k nearest references of every query, by Euclidean distance, nearest first; ties go to the lower index.

    Args:
        queries: `[n, d]`.
        references: `[m, d]`; may be the same array.
        k: neighbours a query.
        exclude_self: leave reference i out for query i, by index: a duplicate elsewhere is still a neighbour, at 0.
            Queries and references must be the same rows.
        block: rows of queries and of references at a time. Memory is about 5 block^2 + 2 block d numbers; the answer
            does not depend on it.
        progress: called with (queries done, queries in all) after every block of queries.

    Returns:
        (distances, indices), both `[n, k]`, float64 and int64.
    """
    queries, references = _pair(queries, references)
    if exclude_self and queries.shape != references.shape:
        raise ValueError(
            f"`exclude_self` must go with the same rows on both sides. Received: queries {queries.shape}, references {references.shape}. Pass the same array twice."
        )
    k = check_count(
        "k",
        k,
        1,
        len(references) - bool(exclude_self),
        " (below the number of references where a point is not its own neighbour)",
    )
    kept = _kept_copies(references, k + bool(exclude_self))
    pairs = _Pairs(queries, references if len(kept) == len(references) else references[kept], block)
    distances, indices = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)

    for rows in pairs.query_blocks():
        best = np.full((rows.stop - rows.start, k), np.inf)  # upper bounds of the k smallest so far, sorted
        found = []
        for columns, lower, doubt in pairs.bounds(rows):
            if exclude_self:
                own = np.flatnonzero((kept[columns] >= rows.start) & (kept[columns] < rows.stop))
                lower[kept[columns][own] - rows.start, own] = np.inf

            # The upper bounds of any k references bound the k-th smallest distance from above.
            open_rows = np.flatnonzero(lower.min(axis=1) <= best[:, -1])
            candidates = lower[open_rows]
            few = min(k, candidates.shape[1])
            chosen = np.argpartition(candidates, few - 1, axis=1)[:, :few]
            upper = np.take_along_axis(candidates, chosen, 1) + doubt(open_rows[:, None], chosen)
            best[open_rows] = np.sort(np.concatenate([best[open_rows], upper], axis=1), axis=1)[:, :k]

            near, far = np.nonzero((candidates <= best[open_rows, -1:]) & (candidates < np.inf))
            found.append((open_rows[near], far + columns.start, candidates[near, far]))

        i, j, lower = (np.concatenate(part) for part in zip(*found))
        possible = lower <= best[i, -1]
        i, j = i[possible], j[possible]
        exact = pairs.distances(i + rows.start, j)
        order = np.lexsort((j, exact, i))
        first = np.searchsorted(i[order], np.arange(rows.stop - rows.start))
        chosen = order[first[:, None] + np.arange(k)]
        distances[rows], indices[rows] = exact[chosen], kept[j[chosen]]
        if progress is not None:
            progress(rows.stop, len(queries))
    return distances, indices


def count_within(queries, references, radii, strict=False, block=BLOCK, progress=None):
    """Counts the pairs (query, reference) whose distance is at most the reference's radius (below it, if `strict`).

    Args:
        queries: `[n, d]`.
        references: `[m, d]`, centres of balls.
        radii: `[m]`.
        strict: < in place of <=.
        block, progress: as for `nearest`.

    Returns:
        (by_query, by_reference): balls that hold each query `[n]`, and queries that each ball holds `[m]`; int64.
    """
    queries, references = _pair(queries, references)
    radii = np.asarray(radii, np.float64)
    if radii.shape != (len(references),) or not np.isfinite(radii).all() or (radii < 0).any():
        raise ValueError(
            f"`radii` must be {len(references)} finite numbers >= 0, one a reference. Received: shape {radii.shape}. Take them from `nearest`."
        )
    queries, query_copies, query_of = _without_copies(queries)
    references, reference_copies, reference_of, radii = _without_copies(references, radii)
    pairs = _Pairs(queries, references, block)
    by_query, by_reference = np.zeros(len(queries), np.int64), np.zeros(len(references), np.int64)
    slack = 8 * np.finfo(np.float64).eps  # of squaring the radius

    for rows in pairs.query_blocks():
        for columns, lower, doubt in pairs.bounds(rows):
            squares = np.square(radii[columns])
            i, j = np.nonzero(lower <= squares * (1 + slack))
            unsure = lower[i, j] + doubt(i, j) >= squares[j] * (1 - slack)
            exact = pairs.distances(i[unsure] + rows.start, j[unsure] + columns.start)
            limits = radii[columns][j[unsure]]
            inside = np.ones(len(i), bool)
            inside[unsure] = exact < limits if strict else exact <= limits
            i, j = i[inside] + rows.start, j[inside] + columns.start
            np.add.at(by_query, i, reference_copies[j])
            np.add.at(by_reference, j, query_copies[i])
        if progress is not None:
            progress(rows.stop, len(queries))
    return by_query[query_of], by_reference[reference_of]


def _pair(queries, references):
    queries, references = (
        check_features("queries", queries, minimum=1),
        check_features("references", references, minimum=1),
    )
    check_same_dimension(queries=queries, references=references)
    return queries, references


class _Pairs:
    """Distances between two sets: bounds of all of them, block by block, and exact ones of chosen pairs."""

    def __init__(self, queries, references, block):
        self.queries, self.references, self.block = queries, references, check_count("block", block, 1)
        self.shift = references.mean(axis=0, dtype=np.float64)
        # A product of d terms is off by d eps |x||y| at most, the norms likewise: twice that on either side.
        self.rounding = 4 * (queries.shape[1] + 8) * np.finfo(np.float64).eps

    def query_blocks(self):
        return self._blocks(len(self.queries))

    def _blocks(self, count):
        return [slice(start, min(start + self.block, count)) for start in range(0, count, self.block)]

    def bounds(self, rows):
        """Yields (columns, lower bounds of squared distances, function (i, j) -> how far above the upper bounds are)."""
        x = self.queries[rows] - self.shift
        xx = np.square(x).sum(axis=1)
        for columns in self._blocks(len(self.references)):
            y = self.references[columns] - self.shift
            yy = np.square(y).sum(axis=1)
            lower = x @ y.T
            lower *= -2
            lower += (1 - self.rounding) * xx[:, None]
            lower += (1 - self.rounding) * yy
            yield columns, lower, lambda i, j, yy=yy: 2 * self.rounding * (xx[i] + yy[j])

    def distances(self, i, j):
        """Exact distances of the pairs (queries[i], references[j])."""
        result = np.empty(len(i))
        step = max(1, _REFINED_NUMBERS // self.queries.shape[1])
        for start in range(0, len(i), step):
            part = slice(start, start + step)
            difference = self.queries[i[part]].astype(np.float64)
            difference -= self.references[j[part]]
            np.square(difference, out=difference)
            result[part] = np.sqrt(difference.sum(axis=1))
        return result


def _digests(features):
    return [
        hashlib.blake2b((row.astype(np.float64) + 0.0).tobytes(), digest_size=16).digest() for row in features
    ]  # + 0.0: -0 is 0


def _kept_copies(features, copies):
    """Indices of the rows without those that have `copies` equal rows before them: no ordered search for as many needs these."""
    seen, kept = {}, []
    for i, digest in enumerate(_digests(features)):
        seen[digest] = seen.get(digest, 0) + 1
        if seen[digest] <= copies:
            kept.append(i)
    return np.array(kept)


def _without_copies(features, radii=None):
    """(unique rows, how often each occurs, which of them each row is), and the radii of the unique pairs (row, radius)."""
    keys = _digests(features) if radii is None else list(zip(_digests(features), radii.tolist()))
    number, first = {}, []
    for i, key in enumerate(keys):
        if number.setdefault(key, len(number)) == len(first):
            first.append(i)
    which = np.array([number[key] for key in keys])
    unique = features if len(first) == len(features) else features[first]
    return (unique, np.bincount(which), which) if radii is None else (unique, np.bincount(which), which, radii[first])
