"""The two metrics of SQuAD.

Source: Rajpurkar et al. 2016 (SQuAD 1.1) and 2018 (2.0, with questions that the context does not answer).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """Return an answer without case, punctuation, articles and repeated spaces, as the metrics compare it.

    >>> normalised("The  U.S.  Army")
    'us army'
    """
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, target: str) -> float:
    """Return 1.0 for equal normalised answers, else 0.0."""
    return float(normalised(answer) == normalised(target))


def f1(answer: str, target: str) -> float:
    """Return the F1 over the words of two answers; an empty answer equals only an empty one.

    >>> f1("the old town of Rome", "Old Town"), f1("", "Rome"), f1("", "")
    (0.6666666666666666, 0.0, 1.0)
    """
    answer_words, target_words = normalised(answer).split(), normalised(target).split()
    if not answer_words or not target_words:
        return float(answer_words == target_words)
    n_shared = sum((Counter(answer_words) & Counter(target_words)).values())
    return 2 * n_shared / (len(answer_words) + len(target_words))


def squad_metrics(targets: Sequence[Sequence[str]], answers: Sequence[str]) -> dict[str, float]:
    """Return the means over the questions, each against its best target; without targets, "" is the right answer."""
    nonempty = [[target for target in alternatives if normalised(target)] or [""] for alternatives in targets]
    pairs = list(zip(answers, nonempty, strict=True))
    return {
        key: sum(max(metric(answer, target) for target in alternatives) for answer, alternatives in pairs) / len(pairs)
        for key, metric in {"exact_match": exact_match, "f1": f1}.items()
    }
