"""A look at the data before training: label counts, duplicates, leakage, empty texts, personal data by kind.

Only numbers are reported, never a text. A finding is not always a fault; --strict refuses to train with any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import regex  # type: ignore[import-untyped]

from scripts.cli.console import ScriptError, say
from scripts.readers.tables import look_of
from scripts.training.splits import Splits
from scripts.training.tasks.base import Examples, TrainingTask

MAX_LABELS = 12  # in a line; more are summed up
FEW_EXAMPLES = 5  # of a label, below which it is a finding
VISIBLE = regex.compile(r"[^\p{Cc}\p{Cf}\p{Cn}\p{Cs}\p{Z}\p{M}]")


def report(splits: Splits, strict: bool) -> None:
    """Print the label counts and the findings; raises ScriptError for any finding if `strict`."""
    counts = splits.task.label_counts(splits.train)
    if counts:
        say(f"data: {splits.train.name}: {format_counts(counts)}")
    all_findings = list(findings(splits))
    for finding in all_findings:
        say(f"data: {finding}")
    if strict and all_findings:
        raise ScriptError(f"--strict: {'; '.join(all_findings)}: correct the data, or train without --strict")


def format_counts(counts: dict[str, int]) -> str:
    """Return label counts as text, the rarest labels first where there are many.

    >>> format_counts({"a": 3, "b": 1}), format_counts({str(n): n for n in range(20)})[-25:]
    ('a 3, b 1', '9 9, 10 10, 11 11, 8 more')
    """
    if len(counts) <= MAX_LABELS:
        return ", ".join(f"{label} {n}" for label, n in counts.items())
    rarest = sorted(counts.items(), key=lambda item: item[1])[:MAX_LABELS]
    return f"{', '.join(f'{label} {n}' for label, n in rarest)}, {len(counts) - MAX_LABELS} more"


def findings(splits: Splits) -> Iterator[str]:
    """Yield what is odd about the data, what and how many."""
    task, train = splits.task, splits.train
    rare = {label: n for label, n in task.label_counts(train).items() if n < FEW_EXAMPLES}
    if task.problem_type and rare:
        yield f"labels with fewer than {FEW_EXAMPLES} {task.unit_name} in {train.name}: {format_counts(rare)}"
    for names in look_alikes(task.label_counts(train)):
        yield f"the labels {' and '.join(map(ascii, names))} of {train.name} look alike, and are different labels"
    parts = {"train": train, "validation": splits.validation, "test": splits.test}
    examples_by_texts: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for example in train.rows:
        examples_by_texts[task.texts(example)].append(example)
    repeated = [examples for examples in examples_by_texts.values() if len(examples) > 1]
    if repeated:
        n_repeated = sum(len(examples) - 1 for examples in repeated)
        n_conflicts = sum(any(example != examples[0] for example in examples) for examples in repeated)
        conflict = f", with different labels: {n_conflicts}" if n_conflicts else ""
        yield f"{task.unit_name} that repeat others of {train.name}: {n_repeated}{conflict}"
    for name, examples in parts.items():
        if examples is None:
            continue
        if name != "train" and (n := sum(task.texts(example) in examples_by_texts for example in examples.rows)):
            yield f"{task.unit_name} of {name} that are also in train: {n} of {len(examples)}"
        yield from content_findings(name, examples, task)


def look_alikes(labels: Iterable[str]) -> list[list[str]]:
    """Return the labels that a person hardly tells apart: by case, blanks, Unicode forms or ends of numbers.

    >>> look_alikes(["joy", "Joy", "fear", "1", "1.0"])
    [['joy', 'Joy'], ['1', '1.0']]
    """
    groups: dict[str | float, list[str]] = defaultdict(list)
    for label in labels:
        groups[look_of(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def content_findings(name: str, examples: Examples[Any], task: TrainingTask[Any]) -> Iterator[str]:
    """Yield how many examples have a text without visible characters, and how many have personal data."""
    if n := sum(not all(VISIBLE.search(text) for text in task.texts(example)) for example in examples.rows):
        yield f"{task.unit_name} of {name} without any visible character: {n}"
    for kind, has in PERSONAL_DATA.items():
        if n := sum(any(has(text) for text in task.texts(example)) for example in examples.rows):
            yield f"{task.unit_name} of {name} that seem to hold {kind}: {n}"


# --- personal data ---------------------------------------------------------------------------------------------------

EMAIL = regex.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
PHONE = regex.compile(r"(?<![\w+])(\+|00)[1-9][\d ()/.-]{7,20}\d(?!\w)")
DIGITS = regex.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)")
IBAN = regex.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")


def has_card_number(text: str) -> bool:
    """Return whether a text has 13 to 19 digits whose check digit is that of a payment card (Luhn).

    >>> has_card_number("paid with 4111 1111 1111 1111"), has_card_number("order 4111 1111 1111 1112")
    (True, False)
    """
    for match in DIGITS.finditer(text):
        digits = [int(character) for character in match.group() if character.isdecimal()][::-1]
        doubled = (2 * digit - 9 * (digit > 4) for digit in digits[1::2])
        if (sum(digits[::2]) + sum(doubled)) % 10 == 0:
            return True
    return False


def has_iban(text: str) -> bool:
    """Return whether a text has an account number with the check digits of ISO 13616.

    >>> has_iban("to DE89 3704 0044 0532 0130 00"), has_iban("to DE88 3704 0044 0532 0130 00")
    (True, False)
    """
    for match in IBAN.finditer(text):
        code = match.group().replace(" ", "")
        for end in range(len(code), 14, -1):  # words in capitals may follow
            if int("".join(str(int(character, 36)) for character in code[4:end] + code[:4])) % 97 == 1:
                return True
    return False


PERSONAL_DATA: dict[str, Callable[[str], bool]] = {
    "an e-mail address": lambda text: "@" in text and bool(EMAIL.search(text)),
    "a telephone number": lambda text: bool(PHONE.search(text)),
    "the number of a payment card": has_card_number,
    "an IBAN": has_iban,
}
