"""Distinct, feasible architectures of a space, however rare they are.

Three ways, each begun where the one before is no longer worth it:

    1. Draw encodings uniformly and keep what satisfies the bounds. What comes out
       is uniform over feasible encodings.
    2. Where less than ``RARE`` of the draws satisfy them: random walks that never
       leave the feasible set. A walk starts at a draw that was kept or at the
       cheapest architecture of a feasible frame (``frames``), which exists if
       anything feasible does. A step redraws one coordinate uniformly among its
       choices that stay feasible (Gibbs sampling), so the walk tends to the uniform
       distribution over feasible encodings; ``SWEEPS`` redraws per coordinate come
       before its first result.
    3. Where walks find little that is new: all that is left, by completing every
       feasible frame coordinate by coordinate. A partial choice is kept exactly
       where its cheapest completion is feasible, so no work is wasted, and at the
       end the space is known to hold no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from sret_nas.arch import Architecture
from sret_nas.space.coding import Codes
from sret_nas.space.encodings import BLOCK, Encodings
from sret_nas.space.frames import feasible_frames, within

RARE = 1e-3
"""Share of feasible draws below which walks are faster."""
PILOT = 1 << 16
"""Draws before that share is believed; also, the encodings up to which all are looked at."""
WALKS = 512
SWEEPS = 8
STALE = 0.02
"""Share of new architectures among results below which the rest is enumerated."""
MOST_ROWS = 200_000
"""Partial choices that are held at once; where there are more, a random part of them."""
SUBSET = 16
"""Choices of one coordinate that a step looks at; a random part where there are more."""


class Draws:
    """An endless supply of distinct feasible architectures, until the space holds no more.

    Args:
        space: The encodings of a space.
        limits: Upper bounds by metric: ``macs``, ``params``, ``peak_bytes``.
        rng: Where all randomness comes from.

    Attributes:
        draws: Encodings drawn uniformly so far.
        kept: How many of them were feasible.
    """

    def __init__(
        self, space: Encodings, limits: Mapping[str, float], rng: np.random.Generator
    ) -> None:
        self.space = space
        self.pilot = PILOT if space.transform is None else PILOT // 4  # each is slow
        self.limits = limits
        self.rng = rng
        self.draws = 0
        self.kept = 0
        self._ids: set[str] = set()
        self._keys: set[bytes] = set()
        self._hits: list[Codes] = []

    def __iter__(self) -> Iterator[Architecture]:
        if self.space.size <= PILOT:
            codes = self.space.coding.all_codes(0, self.space.size)
            yield from self._new(self.rng.permutation(self._feasible(codes)))
            return
        yield from self._by_rejection()
        if self.space.transform is None:
            yield from self._by_walks(self.frames())
            yield from self._new(self.rng.permutation(self._rest()))
        elif self._hits:
            yield from self._by_walks(self.space.coding.array([]))

    def _feasible(self, codes: Codes) -> Codes:
        """The encodings that satisfy all bounds."""
        if not self.limits:
            return codes
        parts = [codes[i : i + BLOCK] for i in range(0, len(codes), BLOCK)]
        kept = [
            part[within(self.space.costs(part, tuple(self.limits)), self.limits)] for part in parts
        ]
        return np.concatenate(kept) if kept else codes

    def _new(self, codes: Codes) -> Iterator[Architecture]:
        """The architectures that were not there yet, by id."""
        for start in range(0, len(codes), 64):
            part = codes[start : start + 64]
            if self.space.transform is None:
                keys = [row.tobytes() for row in self.space.coding.keys(part)]
                fresh = [i for i, key in enumerate(keys) if key not in self._keys]
                self._keys.update(keys)
                part = part[fresh]
            for arch in self.space.decode_many(part):
                if arch.id not in self._ids:
                    self._ids.add(arch.id)
                    yield arch

    def _by_rejection(self) -> Iterator[Architecture]:
        rows, found_lately, known = 256, 0, 0
        while True:
            found = self._feasible(self.space.coding.random_codes(rows, self.rng))
            self.draws += rows
            self.kept += len(found)
            if len(self._hits) < WALKS:
                self._hits += list(found)
            yield from self._new(found)
            found_lately += len(found)
            if self.draws >= self.pilot and self.kept < RARE * self.draws:
                return
            if found_lately >= WALKS:
                if len(self._ids) - known < STALE * found_lately:
                    return
                found_lately, known = 0, len(self._ids)
            rows = min(2 * rows, BLOCK)

    def frames(self) -> Codes:
        """Feasible encodings, of which there are some wherever anything is feasible."""
        return feasible_frames(self.space.coding, self.limits, self.rng).codes

    def _by_walks(self, frames: Codes) -> Iterator[Architecture]:
        hits = self.space.coding.array(self._hits[:WALKS])
        sources = [source for source in (hits, frames) if len(source)]
        if not sources:
            return
        which = self.rng.integers(len(sources), size=WALKS)
        walks = np.stack([sources[w][self.rng.integers(len(sources[w]))] for w in which])
        for _ in range(SWEEPS - 1):
            walks = self.sweep(walks)
        while True:
            walks = self.sweep(walks)
            before = len(self._ids)
            yield from self._new(walks)
            if len(self._ids) - before < STALE * len(walks):
                return

    def sweep(self, walks: Codes) -> Codes:
        """Walk on from feasible encodings, as many steps as there are coordinates."""
        for _ in range(walks.shape[1]):
            walks = self._step(walks)
        return walks

    def _step(self, walks: Codes) -> Codes:
        """Redraw one coordinate of every walk among the choices that stay feasible."""
        n, counts = len(walks), self.space.coding.counts
        at = self.rng.integers(walks.shape[1], size=n)
        looked_at = np.minimum(counts[at], SUBSET)
        row = np.repeat(np.arange(n), looked_at)
        here = (np.arange(len(row)), at[row])
        offset = here[0] - np.repeat(np.cumsum(looked_at) - looked_at, looked_at)
        count = counts[at[row]]
        moved = walks[row]
        # All choices, beginning with the current one. Of too many, random ones beside it: either
        # way two choices reach each other equally often, so the uniform distribution is kept.
        other = np.where(count > SUBSET, self.rng.integers(count), (moved[here] + offset) % count)
        moved[here] = np.where(offset == 0, moved[here], other)
        ok = within(self.space.costs(moved, tuple(self.limits)), self.limits) if self.limits else 1
        chance = (1 - self.rng.random(len(row))) * (ok | (offset == 0))
        out: Codes = moved[np.lexsort((chance, row))[np.cumsum(looked_at) - 1]]
        return out

    def _rest(self) -> Codes:
        """Every feasible choice of fields, one encoding each; a random part of too many."""
        coding = self.space.coding
        rows = self.frames()
        # Group counts last: of loops that a block does not have (yet), they make no difference.
        framed = {d.name for d in (coding.top["image_size"], coding.top["stem_stride"])}
        framed |= {s.fields[name].name for s in coding.stages for name in ("heads", "head_dim")}
        names = [name for name in coding.at if name not in framed]
        for name in sorted(names, key=lambda name: ".groups." in name):
            j = coding.at[name]
            choices = np.arange(coding.counts[j])
            rows = np.repeat(rows, len(choices), axis=0)
            rows[:, j] = np.tile(choices, len(rows) // len(choices))
            rows = self._feasible(rows)
            _, first = np.unique(coding.keys(rows), axis=0, return_index=True)
            rows = rows[first]
            if len(rows) > MOST_ROWS:
                rows = rows[self.rng.choice(len(rows), MOST_ROWS, replace=False)]
        return rows
