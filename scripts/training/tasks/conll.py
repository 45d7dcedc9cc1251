"""Texts with tagged words, read from CoNLL, from lists of tokens and tags, or from spans by character.

A CoNLL file has a token a line, its tag in the last column, and a blank line between sentences. JSON lines have
tokens and tags, or a text and spans by character, which become tags of IOB2. An error names the line or the number
of a bad tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import BinaryIO

import regex  # type: ignore[import-untyped]

from handler.tag_scheme import is_tag
from scripts.cli.console import ScriptError
from scripts.readers.annotations import why_unlabelled
from scripts.readers.formats import Reader, Record, row_lines
from scripts.readers.tables import ColumnMapping, Table

# A Chinese character, a run of letters, or one symbol; each with its marks, so that no word begins within a grapheme.
# \w of Python knows no combining marks: it ends a word before the accent of a decomposed letter, before the vowel sign
# of a Hindi syllable and before the points of Hebrew and Arabic. Format characters (joiners) stay in their word.
WORD = regex.compile(r"\p{Han}\p{M}*|[\w--\p{Han}][[\w\p{M}\p{Cf}]--\p{Han}]*|(?!\s)\X", regex.VERSION1)


@dataclass(frozen=True)
class TaggedText:
    """A text, the (start, end) characters of its words, and their tags."""

    text: str
    words: list[tuple[int, int]]
    tags: list[str]


def read_conll(name: str, file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the sentences of a CoNLL file, each numbered by its first line.

    The token is the first column, or the second if the first counts the tokens of every sentence (CoNLL-U, whose lines
    of several words, "1-2", and of words that are not in the text, "8.1", are left out); a line before a sentence that
    begins with # and ends in no tag is a comment.
    """
    sentences = [(row, list(enumerate(lines))) for row, lines in read_sentences(name, file)]
    words = [(row, [line for line in lines if not NO_WORD.fullmatch(line[1][0])]) for row, lines in sentences]
    if is_counted := all(columns[0] == str(n) for _, lines in words for n, (_, columns) in enumerate(lines, start=1)):
        sentences = words
    has_more = all(len(columns) > 2 for _, lines in sentences for _, columns in lines)
    token_column = int(is_counted and has_more and any(len(lines) > 1 for _, lines in sentences))
    for row, lines in sentences:
        tokens, tags = [columns[token_column] for _, columns in lines], [columns[-1] for _, columns in lines]
        yield row, {"tokens": tokens, "tags": tags, "lines": [offset for offset, _ in lines]}


def read_sentences(name: str, file: BinaryIO) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield the number of the first line and the columns of each line of the sentences of a CoNLL file."""
    sentence: list[list[str]] = []
    for row, line in enumerate(chain(row_lines(name, file), [""]), start=1):
        columns = re.split(r"\t" if "\t" in line else " +", line.strip())
        if columns in ([""], ["-DOCSTART-"]) or columns[0] == "-DOCSTART-":
            if sentence:
                yield row - len(sentence), sentence
            sentence = []
        elif not sentence and columns[0].startswith("#") and not is_tag(columns[-1]):
            continue
        elif len(columns) < 2:
            raise ScriptError(f"{name} row {row}: a token and its tag are needed, there is one column")
        else:
            sentence.append(columns)


NO_WORD = re.compile(r"\d+[-.]\d+")  # what counts a line of CoNLL-U that is no word
CONLL: dict[str, Reader] = dict.fromkeys((".conll", ".iob", ".bio"), read_conll)


def tag_error(table: Table, row: int, record: Record, column: str, position: int, reason: str) -> ScriptError:
    """Return an error about one tag of a sentence: by its line in a CoNLL file, else by its number."""
    lines = record.get("lines")
    if isinstance(lines, list):
        return table.error(row, column, reason, offset=lines[position])
    return table.error(row, column, f"tag {position + 1}: {reason}")


def tagged_text(table: Table, row: int, record: Record, columns: ColumnMapping) -> TaggedText:
    """Return the tagged text of one row: a list of tokens with tags, or a string with spans."""
    (column,) = columns.labels
    cell, label = record.get(columns.text), record.get(column)
    if not isinstance(label, list):
        reason = f"the tags are missing{why_unlabelled(record)}" if label is None else "the tags are not a list"
        raise table.error(row, column, reason)
    if isinstance(cell, str):
        return from_spans(table, row, column, table.text(row, record, columns.text), label)
    if not isinstance(cell, list):
        raise table.error(row, columns.text, "there is neither a text nor a list of tokens")
    tokens = [table.require_text(row, columns.text, token, f"token {n}") for n, token in enumerate(cell, start=1)]
    if len(tokens) != len(label):
        raise table.error(row, column, f"{len(label)} tags for {len(tokens)} tokens")
    if not tokens:
        raise table.error(row, columns.text, "there is no token")
    for position, tag in enumerate(label):
        if not (isinstance(tag, str) and is_tag(tag)):
            raise tag_error(table, row, record, column, position, "this is no tag such as B-PER, I-PER or O")
    words, start = [], 0
    for token in tokens:
        words.append((start, start + len(token)))
        start += len(token) + 1
    return TaggedText(" ".join(tokens), words, label)


def span_of(entity: object) -> tuple[int, int, str] | None:
    """Return start, end and type of an entity in one of the usual forms, else None.

    The forms: an object with start, end and label; [start, end, label] and start_offset, end_offset as in exports of
    Doccano; a list of one name in `labels` as in exports of Label Studio.

    >>> span_of([0, 4, "PER"]), span_of({"start_offset": 0, "end_offset": 4, "label": "PER"}), span_of(["PER"])
    ((0, 4, 'PER'), (0, 4, 'PER'), None)
    """
    if isinstance(entity, dict):
        names = entity.get("labels")
        entity = [
            entity.get("start", entity.get("start_offset")),
            entity.get("end", entity.get("end_offset")),
            names[0] if isinstance(names, list) and len(names) == 1 else entity.get("label"),
        ]
    if not (isinstance(entity, (list, tuple)) and len(entity) == 3):
        return None
    start, end, kind = entity
    if type(start) is not int or type(end) is not int or not isinstance(kind, str) or not kind.strip():
        return None
    return start, end, kind.strip()


def from_spans(table: Table, row: int, column: str, text: str, entities: list[object]) -> TaggedText:
    """Return a text whose entities, spans [start, end) of characters, are tags of its words by IOB2."""
    spans: list[tuple[int, int, str]] = []
    for number, entity in enumerate(entities, start=1):
        if (span := span_of(entity)) is None:
            raise table.error(row, column, f"entity {number}: start, end and label are needed")
        start, end, kind = span
        if not (0 <= start < end <= len(text) and text[start:end].strip()):
            raise table.error(row, column, f"entity {number}: characters {start} to {end} are no part of the text")
        spans.append((start, end, kind))
    spans.sort()
    if any(first[1] > second[0] for first, second in pairwise(spans)):
        raise table.error(row, column, "entities overlap")
    edges = sorted({edge for start, end, _ in spans for edge in (start, end)})
    words: list[tuple[int, int]] = []
    for piece in WORD.finditer(text):
        inner = [edge for edge in edges if piece.start() < edge < piece.end()]
        words.extend(zip([piece.start(), *inner], [*inner, piece.end()], strict=True))
    tags = ["O"] * len(words)
    for start, end, kind in spans:
        inside = [index for index, word in enumerate(words) if start <= word[0] and word[1] <= end]
        for index in inside:
            tags[index] = f"{'B' if index == inside[0] else 'I'}-{kind}"
    return TaggedText(text, words, tags)
