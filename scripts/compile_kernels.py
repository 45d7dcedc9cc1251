#!/usr/bin/env python3
"""Compile the code in C for the processors that it is fast on, with the compiler in .venv (ziglang).

scripts/setup.sh does this. The results lie beside their sources: those of handler/engine/native are part of every
archive that scripts/package.py builds from then on and need no compiler there, those of scripts/training/native train
(without PyTorch these are left out).
What is compiled already is left as it is.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse


def main() -> None:
    """Compile for every level of instructions."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from scripts.archives.kernel_compiler import compile_all

    compile_all()


if __name__ == "__main__":
    run(main)
