"""Tag schemes: how the labels of tokens or words divide a text into spans (IOB1, IOB2, IOBES, BILOU).

A tag is "O" or a prefix, a hyphen and a type (B-PER). `TagScheme` says which tags may follow one another in training
data; `LabelSpans` reads spans off any sequence of a model's labels, also one that no scheme allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LabelIds: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class TagScheme:
    """The prefixes of a scheme and the order in which they may stand; seqeval has a scheme of the same name."""

    name: str
    prefixes: str  # in the order of a model's labels
    always_begins: bool = True  # every span begins with B; else B only separates a span from one of its type before it
    closing_prefix: str = ""  # of the last word of a span of several words, if the scheme has one

    def first_invalid(self, tags: Sequence[str]) -> int | None:
        """Return the index of the first tag that the scheme does not allow there; None where all are allowed."""
        previous, previous_type = "O", ""
        for index, tag in enumerate([*tags, "O"]):
            prefix, _, tag_type = tag.partition("-")
            if not self.allows(previous, prefix, same_type=previous_type == tag_type):
                return min(index, len(tags) - 1)
            previous, previous_type = prefix, tag_type
        return None

    def allows(self, previous: str, prefix: str, *, same_type: bool) -> bool:
        """Return whether a prefix may follow another one, of the same type or not."""
        is_open = previous in ("B", "I") and same_type
        if prefix not in ("O", *self.prefixes):
            return False
        if self.closing_prefix:  # IOBES, BILOU: a span continues until it is closed
            return is_open if prefix in ("I", self.closing_prefix) else previous not in ("B", "I")
        if self.always_begins:  # IOB2
            return is_open if prefix == "I" else True
        return is_open if prefix == "B" else True  # IOB1

    def span_tags(self, tag_type: str, n_words: int, previous: str = "O") -> list[str]:
        """Return the tags of a span of words that stands behind the tag `previous`.

        >>> IOB2.span_tags("PER", 2), SCHEMES[1].span_tags("PER", 2, "I-PER"), SCHEMES[2].span_tags("PER", 3)
        (['B-PER', 'I-PER'], ['B-PER', 'I-PER'], ['B-PER', 'I-PER', 'E-PER'])
        """
        prefixes = ["B" if self.always_begins or previous[2:] == tag_type else "I", *"I" * (n_words - 1)]
        if self.closing_prefix:
            prefixes[-1] = self.closing_prefix if n_words > 1 else self.prefixes[-1]
        return [f"{prefix}-{tag_type}" for prefix in prefixes]

    def labels(self, types: Iterable[str]) -> list[str]:
        """Return every tag of some types, O first."""
        return ["O", *(f"{prefix}-{tag_type}" for tag_type in sorted(set(types)) for prefix in self.prefixes)]


IOB2 = TagScheme("IOB2", "BI")
SCHEMES = (
    IOB2,
    TagScheme("IOB1", "BI", always_begins=False),
    TagScheme("IOBES", "BIES", closing_prefix="E"),
    TagScheme("BILOU", "BILU", closing_prefix="L"),
)


@dataclass(frozen=True)
class LabelSpans:
    """The spans that a model's labels mean; arrays of shape (labels,)."""

    labels: list[str]
    groups: list[str]  # of each label, the type of its spans
    types: LabelIds  # neighbours in one span share this number
    opens: NDArray[np.bool_]  # whether a span begins with the label
    closes: NDArray[np.bool_]  # whether a span ends with the label

    def starts(self, label_ids: LabelIds) -> LabelIds:
        """Return the indices in a sequence of labels where spans begin; a run of O is a span too."""
        types = self.types[label_ids]
        is_new = (types[1:] != types[:-1]) | self.opens[label_ids[1:]] | self.closes[label_ids[:-1]]
        return np.flatnonzero(np.concatenate(([True], is_new)))

    def span_types(self, tags: Sequence[str]) -> list[str]:
        """Return the type of each span of a tagged sentence.

        >>> LabelSpans.from_labels(["O", "B-PER", "I-PER", "I-LOC"]).span_types(["B-PER", "I-PER", "O", "I-LOC"])
        ['PER', 'LOC']
        """
        starts = self.starts(np.array([self.labels.index(tag) for tag in tags], dtype=np.intp))
        return [self.groups[self.labels.index(tags[start])] for start in starts if tags[start] != "O"]

    @classmethod
    def from_labels(cls, labels: Sequence[str]) -> LabelSpans:
        """Detect from a model's labels how they form spans.

        IOB, where B- begins a span, as the pipeline of transformers reads all labels. BILOU and IOBES (BMES) if every
        prefix is one of theirs and one of L-, U-, E-, S- beside B- is among them: U- and S- are spans of one token, L-
        and E- end a span. A label without a prefix continues a span of the same label.

        >>> LabelSpans.from_labels(["O", "B-PER", "I-PER"]).opens.tolist()
        [False, True, False]
        >>> LabelSpans.from_labels(["O", "B-X", "L-X"]).closes.tolist()
        [False, False, True]
        """
        prefixes = {label.split("-", 1)[0] for label in labels if "-" in label}
        has_closing = prefixes <= set("BILUESM") and "B" in prefixes and bool(prefixes & set("LUES"))
        known, opening = ("BILUESM", "BUS") if has_closing else ("BI", "B")
        split = [(label[0], label[2:]) if label[1:2] == "-" and label[0] in known else ("", label) for label in labels]
        types = [tag_type for _, tag_type in split]
        return cls(
            list(labels),
            [label.split("-", 1)[-1] for label in labels],
            np.array([types.index(tag_type) for tag_type in types]),
            np.array([prefix != "" and prefix in opening for prefix, _ in split]),
            np.array([has_closing and prefix != "" and prefix in "LUES" for prefix, _ in split]),
        )


def is_tag(tag: str) -> bool:
    """Return whether a tag is of any scheme.

    >>> is_tag("O"), is_tag("B-PER"), is_tag("PER"), is_tag("B-")
    (True, True, False, False)
    """
    prefix, hyphen, tag_type = tag.partition("-")
    return tag == "O" or (prefix in tuple("BILUES") and bool(hyphen and tag_type))


def detect_scheme(sentences: Sequence[Sequence[str]]) -> tuple[TagScheme | None, int, int]:
    """Return the first scheme that allows all tags of all sentences.

    Returns:
        The scheme; or None, and the indices of the sentence and of the tag that the likeliest scheme does not allow.
    """
    used = {tag[0] for tags in sentences for tag in tags if tag != "O"}
    candidates = [scheme for scheme in SCHEMES if used <= set(scheme.prefixes)] or list(SCHEMES[:1])
    faults = []
    for scheme in candidates:
        invalid = (
            (row, index) for row, tags in enumerate(sentences) if (index := scheme.first_invalid(tags)) is not None
        )
        fault = next(invalid, None)
        if fault is None:
            return scheme, 0, 0
        faults.append(fault)
    return None, *faults[0]
