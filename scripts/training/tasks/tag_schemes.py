"""The schemes in which tags of words make spans: IOB1, IOB2, IOBES and BILOU.

A tag is "O" or a prefix, a hyphen and a type (B-PER). A scheme says which tag may follow which; the scheme of a file
is the first one that all its sentences keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """Which prefixes there are and what each may follow; seqeval has a scheme of the same name."""

    name: str
    prefixes: str  # in the order of a model's labels
    begins: bool = True  # every span begins with B; else B only parts a span from one of its type before it
    closes: str = ""  # the prefix that ends a span of several words, if the scheme has one

    def fault(self, tags: Sequence[str]) -> int | None:
        """Return the place of the first tag that must not stand there."""
        before, kind = "O", ""
        for place, tag in enumerate([*tags, "O"]):
            prefix, _, now = tag.partition("-")
            if not self.follows(before, prefix, same=kind == now):
                return min(place, len(tags) - 1)
            before, kind = prefix, now
        return None

    def follows(self, before: str, prefix: str, *, same: bool) -> bool:
        """Tell whether a prefix may follow another one, of the same type or not."""
        inside = before in ("B", "I") and same
        if prefix not in ("O", *self.prefixes):
            return False
        if self.closes:  # IOBES, BILOU: an open span goes on until it is closed
            return inside if prefix in ("I", self.closes) else before not in ("B", "I")
        if self.begins:  # IOB2
            return inside if prefix == "I" else True
        return inside if prefix == "B" else True  # IOB1

    def labels(self, types: Iterable[str]) -> list[str]:
        """Return every tag there can be, O first."""
        return ["O", *(f"{prefix}-{kind}" for kind in sorted(set(types)) for prefix in self.prefixes)]


IOB2 = Scheme("IOB2", "BI")
SCHEMES = (
    IOB2,
    Scheme("IOB1", "BI", begins=False),
    Scheme("IOBES", "BIES", closes="E"),
    Scheme("BILOU", "BILU", closes="L"),
)


def is_tag(tag: str) -> bool:
    """Tell whether a tag is of any scheme.

    >>> is_tag("O"), is_tag("B-PER"), is_tag("PER"), is_tag("B-")
    (True, True, False, False)
    """
    prefix, hyphen, kind = tag.partition("-")
    return tag == "O" or (prefix in tuple("BILUES") and bool(hyphen and kind))


def scheme_of(sentences: Sequence[Sequence[str]]) -> tuple[Scheme | None, int, int]:
    """Return the scheme of tagged sentences; without one, the sentence and the tag that break the likeliest."""
    used = {tag[0] for tags in sentences for tag in tags if tag != "O"}
    likeliest = [scheme for scheme in SCHEMES if used <= set(scheme.prefixes)] or list(SCHEMES[:1])
    faults = []
    for scheme in likeliest:
        found = ((row, place) for row, tags in enumerate(sentences) if (place := scheme.fault(tags)) is not None)
        fault = next(found, None)
        if fault is None:
            return scheme, 0, 0
        faults.append(fault)
    return None, *faults[0]


def spans(tags: Sequence[str]) -> list[str]:
    """Return the type of each span of a sentence that keeps its scheme: one for each word that begins one.

    >>> spans(["B-PER", "I-PER", "O", "I-LOC"])
    ['PER', 'LOC']
    """
    found, before = [], "O"
    for tag in tags:
        begins = tag[0] in "BUS" or (tag[0] == "I" and before[2:] != tag[2:])
        if begins:
            found.append(tag[2:])
        before = tag
    return found
