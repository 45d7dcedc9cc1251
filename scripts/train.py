#!/usr/bin/env python3
"""Fine-tune a BERT. --problem names the task; by default the data's columns choose it.

  scripts/train.py --train examples/intents/train.csv --validation examples/intents/validation.csv \\
      --test examples/intents/test.csv --output models/intents

  problem        data (columns are chosen by name)                  example of --train
  single         text, label: CSV, TSV, JSON, JSONL, Parquet        intents.csv
  multi          several labels for a text: lists or columns of 0/1 topics.csv --label-separator ";"
  regression     text, number                                       stars.csv --label-column stars
  entailment     premise, hypothesis, label; serves zero-shot       nli.csv
  ranking        query, text, label from 0 to 1: a cross-encoder    passages.csv
  entities       CoNLL; JSONL with tokens and tags, or with         names.conll
                 text and entities (start, end, label); exports
                 of Doccano and Label Studio
  answers        SQuAD 1.1 or 2.0: JSON                             squad.json
  masked-words   plain text, a passage a line                       mails.txt --problem masked-words
  next-sentence  plain text, a sentence a line, a blank line        books.txt --problem next-sentence
                 between documents
  pretraining    the same, both objectives of BERT                  books.txt --problem pretraining

Texts of single, multi and regression may be pairs (--pair-column). Instead of files, --dataset NAME reads a dataset
from the hub or a local folder; its CSV, JSON and Parquet files are read as --train reads them. The best epoch on the
validation data is kept; without such data a part of the training data is held out, whole queries, contexts and
documents of it. The output folder holds the model, its tokenizer and training.json, which records what it was made
from. While training runs it also holds checkpoints/: after an interruption the same command with --resume continues
from the last finished epoch, to the same result.
"""

from __future__ import annotations

from scripts.cli.command import run

from collections.abc import Sequence

from scripts.training.run import run as train
from scripts.training.settings import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune from a command line."""
    train(parse(argv, __doc__ or ""))


if __name__ == "__main__":
    run(main)
