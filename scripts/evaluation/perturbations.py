"""Changes of a text that leave its meaning: pure functions of the text and a seeded generator.

Each returns the text itself where there is nothing to change. None adds or removes blanks at the edges of a text, so
that a part of a text can be changed alone.
"""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial

Perturbation = Callable[[str, random.Random], str]

NEIGHBOURS = {
    "a": "sqz", "b": "vghn", "c": "xdfv", "d": "serfc", "e": "wrsd", "f": "drtgv", "g": "ftyhb", "h": "gyujn", "i": "uojk",
    "j": "huikm", "k": "jiol", "l": "kop", "m": "njk", "n": "bhjm", "o": "ipkl", "p": "ol", "q": "wa", "r": "etdf",
    "s": "awedx", "t": "ryfg", "u": "yihj", "v": "cfgb", "w": "qeas", "x": "zsdc", "y": "tugh", "z": "asx",
}  # fmt: skip
HOMOGLYPHS = str.maketrans("aceopxyABCEHKMOPTX", "асеорхуАВСЕНКМОРТХ")  # noqa: RUF001 - Cyrillic letters that look Latin
CONTRACTIONS = {
    "i am": "I'm", "you are": "you're", "we are": "we're", "they are": "they're", "it is": "it's", "that is": "that's",
    "i have": "I've", "i will": "I'll", "i would": "I'd", "do not": "don't", "does not": "doesn't", "did not": "didn't",
    "is not": "isn't", "are not": "aren't", "was not": "wasn't", "cannot": "can't", "can not": "can't",
    "will not": "won't", "would not": "wouldn't", "has not": "hasn't", "have not": "haven't", "what is": "what's",
    "where is": "where's", "how is": "how's",
}  # fmt: skip
EXPANSIONS = {short.lower(): full for full, short in CONTRACTIONS.items() if full != "can not"}
CONTRACTED = [
    (re.compile(rf"\b({'|'.join(map(re.escape, sorted(table, key=len, reverse=True)))})\b", re.IGNORECASE), table)
    for table in (CONTRACTIONS, EXPANSIONS)
]
BEFORE, AFTER = "Good morning to you. ", " Thank you for reading this."
TYPING_RATE = 0.05  # errors by letter
WORD_WITH_LETTERS = re.compile(r"[^\W\d_]{4,}")
BIG_NUMBER = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d{4,9})(?![\d.,]*\d)")


def lower_case(text: str, _: random.Random) -> str:
    """Write it in small letters."""
    return text.lower()


def upper_case(text: str, _: random.Random) -> str:
    """Write it in capitals."""
    return text.upper()


def no_punctuation(text: str, _: random.Random) -> str:
    """Leave out punctuation marks, except within words and numbers."""
    return re.sub(
        r"(?<!\w)[^\w\s]+|[^\w\s]+(?!\w)", lambda match: "" if is_punctuation(match.group()) else match.group(), text
    )


def is_punctuation(characters: str) -> bool:
    """Return whether every character is a punctuation mark."""
    return all(unicodedata.category(character).startswith("P") for character in characters)


def extra_spaces(text: str, generator: random.Random) -> str:
    """Double about every third blank."""
    return re.sub(r"(?<=\S) (?=\S)", lambda _: "  " if generator.random() < 1 / 3 else " ", text)


def typing_errors(text: str, generator: random.Random) -> str:
    """Swap, leave out, double or mistype about one letter in twenty, at least one of a longer text."""
    letters = [index for index, character in enumerate(text) if character.lower() in NEIGHBOURS]
    inner = [index for index in letters if 0 < index < len(text) - 1]
    count = max(len(inner) > 3, round(TYPING_RATE * len(inner)))
    characters = list(text)
    for index in generator.sample(inner, min(count, len(inner))):
        kind = generator.randrange(4)
        letter = characters[index]
        if kind == 0 and characters[index + 1 : index + 2] and characters[index + 1].isalpha():
            characters[index], characters[index + 1] = characters[index + 1], letter
        elif kind == 1 and letter:
            characters[index] = ""
        elif kind == 2:
            characters[index] = letter * 2
        elif letter.lower() in NEIGHBOURS:
            other = generator.choice(NEIGHBOURS[letter.lower()])
            characters[index] = other.upper() if letter.isupper() else other
    return "".join(characters)


def no_accents(text: str, _: random.Random) -> str:
    """Write accented Latin letters without their accents."""
    decomposed = unicodedata.normalize("NFD", text)
    kept = [
        character
        for index, character in enumerate(decomposed)
        if not (unicodedata.combining(character) and index and "LATIN" in unicodedata.name(decomposed[index - 1], ""))
    ]
    return unicodedata.normalize("NFC", "".join(kept)) if len(kept) < len(decomposed) else text


def homoglyphs(text: str, generator: random.Random) -> str:
    """Replace one word's letters by those of another alphabet that look alike, as filters are evaded."""
    words = [
        match for match in WORD_WITH_LETTERS.finditer(text) if match.group().translate(HOMOGLYPHS) != match.group()
    ]
    if not words:
        return text
    word = generator.choice(words)
    return text[: word.start()] + word.group().translate(HOMOGLYPHS) + text[word.end() :]


def truncation(text: str, _: random.Random) -> str:
    """Leave out the last fifth of the words, at least one of five."""
    words = text.split(" ")
    n_left_out = len(words) // 5
    return " ".join(words[:-n_left_out]) if n_left_out else text


def contractions(text: str, _: random.Random) -> str:
    """Contract "do not" to "don't", and expand "don't" to "do not" where nothing can be contracted."""
    for pattern, table in CONTRACTED:
        changed = pattern.sub(partial(replaced, table), text)
        if changed != text:
            return changed
    return text


def replaced(table: Mapping[str, str], match: re.Match[str]) -> str:
    """Return what a table has for a match, with its case."""
    return like(match.group(), table[match.group().lower()])


def like(word: str, other: str) -> str:
    """Return another word with the case of the first letter of a word."""
    return (
        other[0].upper() + other[1:]
        if word[0].isupper()
        else other
        if other.startswith("I'")
        else other[0].lower() + other[1:]
    )


def sentence_before(text: str, _: random.Random) -> str:
    """Put a sentence that says nothing in front."""
    return BEFORE + text


def sentence_after(text: str, _: random.Random) -> str:
    """Put a sentence that says nothing behind."""
    return text + AFTER


def repeated_word(text: str, generator: random.Random) -> str:
    """Write one word twice, as fast typists do."""
    words = [match for match in re.finditer(r"\S+", text) if any(map(str.isalpha, match.group()))]
    if len(words) < 2:
        return text
    word = generator.choice(words)
    return f"{text[: word.end()]} {word.group()}{text[word.end() :]}"


def number_formats(text: str, _: random.Random) -> str:
    """Write 1,000 as 1000 and the other way round."""

    def other(match: re.Match[str]) -> str:
        digits = match.group()
        return digits.replace(",", "") if "," in digits else f"{int(digits):,}" if digits[0] != "0" else digits

    return BIG_NUMBER.sub(other, text)


PERTURBATIONS: dict[str, Perturbation] = {
    "lower case": lower_case,
    "upper case": upper_case,
    "no punctuation": no_punctuation,
    "extra spaces": extra_spaces,
    "typing errors": typing_errors,
    "no accents": no_accents,
    "homoglyphs": homoglyphs,
    "truncation": truncation,
    "contractions": contractions,
    "sentence before": sentence_before,
    "sentence after": sentence_after,
    "repeated word": repeated_word,
    "number formats": number_formats,
}
# Perturbations that change a text as a whole, not its parts, and where they do.
WHOLE_TEXT: Mapping[str, str] = {"sentence before": "before", "sentence after": "after", "truncation": "end"}


def perturb(text: str, name: str, seed: int = 0) -> str:
    """Return a text changed by one perturbation: the same for the same text, name and seed."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return PERTURBATIONS[name](text, random.Random(digest))  # noqa: S311 - a change of a text, not a secret
