"""Perturbations are pure, seeded, and change what they say and nothing else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.evaluation.perturbations import PERTURBATIONS, WHOLE_TEXT, perturb
from tests.support.samples import TEXTS

SENTENCE = "I do not know where my parcel is, it cost 1,299 euros and José paid!"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lower case", "i do not know where my parcel is, it cost 1,299 euros and josé paid!"),
        ("upper case", "I DO NOT KNOW WHERE MY PARCEL IS, IT COST 1,299 EUROS AND JOSÉ PAID!"),
        ("no punctuation", "I do not know where my parcel is it cost 1,299 euros and José paid"),
        ("no accents", "I do not know where my parcel is, it cost 1,299 euros and Jose paid!"),
        ("truncation", "I do not know where my parcel is, it cost 1,299 euros"),
        ("contractions", "I don't know where my parcel is, it cost 1,299 euros and José paid!"),
        ("sentence before", f"Good morning to you. {SENTENCE}"),
        ("sentence after", f"{SENTENCE} Thank you for reading this."),
        ("number formats", "I do not know where my parcel is, it cost 1299 euros and José paid!"),
    ],
)
def test_what_each_perturbation_does(name: str, expected: str) -> None:
    """Those without chance, on one sentence."""
    assert perturb(SENTENCE, name) == expected


def test_numbers_and_contractions_go_both_ways() -> None:
    """1299 gets a comma, "don't" is written out; a year-like number with a zero in front stays."""
    assert perturb("it cost 1299 euros", "number formats") == "it cost 1,299 euros"
    assert perturb("call 0049", "number formats") == "call 0049"
    assert perturb("Don't ask, it's late", "contractions") == "Do not ask, it is late"


def test_chance_changes_little() -> None:
    """Typing errors change few letters; one word is repeated, or looks alike elsewhere; blanks are doubled."""
    typed = perturb(SENTENCE, "typing errors")
    assert typed != SENTENCE
    assert abs(len(typed) - len(SENTENCE)) <= 3
    assert sum(a != b for a, b in zip(typed.split(), SENTENCE.split(), strict=False)) <= 5
    repeated = perturb(SENTENCE, "repeated word").split()
    assert len(repeated) == len(SENTENCE.split()) + 1
    lookalike = perturb(SENTENCE, "homoglyphs")
    assert len(lookalike) == len(SENTENCE)
    assert any("CYRILLIC" in unicodedata.name(character) for character in lookalike)
    assert perturb(SENTENCE, "extra spaces").split() == SENTENCE.split()
    assert "  " in perturb(SENTENCE, "extra spaces")


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_is_pure(name: str) -> None:
    """The same text and seed give the same text; another seed may give another one; no difficult text fails."""
    for text in [*TEXTS, ""]:
        assert perturb(text, name, 1) == perturb(text, name, 1)
    if name in ("typing errors", "repeated word", "extra spaces"):
        assert len({perturb(SENTENCE, name, seed) for seed in range(10)}) > 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_parts_keep_their_blanks(text: str) -> None:
    """Where parts of a text are changed alone, the blanks between them stay."""
    for name in PERTURBATIONS:
        if name not in WHOLE_TEXT:
            changed = perturb(f" {text} ", name)
            assert changed.startswith(" "), name
            assert changed.endswith(" "), name
