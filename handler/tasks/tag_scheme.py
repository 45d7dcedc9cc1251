"""How the labels of tokens divide a text into entities: IOB, BILOU, IOBES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Places: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Scheme:
    """How labels divide a text into entities: for each label its entity, and whether it opens or closes one."""

    groups: list[str]  # what an entity is called
    tags: Places  # (labels,): a number that neighbours must share to be one entity
    opens: NDArray[np.bool_]  # (labels,)
    closes: NDArray[np.bool_]  # (labels,)

    def begins(self, labels: Places) -> Places:
        """Return where in a row of labels entities begin."""
        tags = self.tags[labels]
        new = (tags[1:] != tags[:-1]) | self.opens[labels[1:]] | self.closes[labels[:-1]]
        return np.flatnonzero(np.concatenate(([True], new)))

    @classmethod
    def of(cls, labels: Sequence[str]) -> Scheme:
        """Read the scheme off the labels.

        IOB, where B- opens an entity, as the pipeline of transformers reads every label. BILOU and IOBES (BMES) where
        every prefix is one of theirs and one of L-, U-, E-, S- beside B- is among them: there U- and S- are entities
        of one token, and L- and E- close one. A label without a prefix continues its like.

        >>> Scheme.of(["O", "B-PER", "I-PER"]).opens.tolist(), Scheme.of(["O", "B-X", "L-X"]).closes.tolist()
        ([False, True, False], [False, False, True])
        """
        prefixes = {label.split("-", 1)[0] for label in labels if "-" in label}
        closing = prefixes <= set("BILUESM") and "B" in prefixes and bool(prefixes & set("LUES"))
        known, opening = ("BILUESM", "BUS") if closing else ("BI", "B")
        split = [(label[0], label[2:]) if label[1:2] == "-" and label[0] in known else ("", label) for label in labels]
        tags = [tag for _, tag in split]
        return cls(
            [label.split("-", 1)[-1] for label in labels],
            np.array([tags.index(tag) for tag in tags]),
            np.array([prefix != "" and prefix in opening for prefix, _ in split]),
            np.array([closing and prefix != "" and prefix in "LUES" for prefix, _ in split]),
        )
