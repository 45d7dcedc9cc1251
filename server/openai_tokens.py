"""Token ids of OpenAI's models -> text.

LangChain's `OpenAIEmbeddings` sends ids of cl100k_base instead of texts unless it is told otherwise. They mean nothing
to another model, so they are decoded with OpenAI's vocabulary where the operator gives it, and refused otherwise.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handler.errors import ConfigError

VARIABLE = "SERVE_OPENAI_VOCABULARY"  # of the environment: the file


@dataclass(frozen=True)
class OpenAITokens:
    """A vocabulary in the format of tiktoken: a line of base64 and the id for each token."""

    name: str
    tokens: Mapping[int, bytes]

    @classmethod
    def read(cls, path: Path) -> OpenAITokens:
        """Read a file; raises ConfigError."""
        try:
            lines = (line.split() for line in path.read_text(encoding="ascii").splitlines() if line)
            tokens = {int(number): base64.b64decode(token, validate=True) for token, number in lines}
        except OSError as error:
            raise ConfigError(f"{VARIABLE}={path} cannot be read: {error.strerror}") from error
        except (ValueError, binascii.Error) as error:
            raise ConfigError(f"{VARIABLE}={path} is no vocabulary of tiktoken, as cl100k_base.tiktoken is") from error
        return cls(path.name, tokens)

    def n_bytes(self, texts: Iterable[Sequence[int]]) -> int:
        """Return the bytes of texts of tokens together; raises KeyError for an id that is not in the vocabulary."""
        return sum(len(self.tokens[number]) for ids in texts for number in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; raises KeyError for an id that is not in the vocabulary.

        A client that cuts a long text between two tokens may cut a character, which becomes U+FFFD.

        >>> OpenAITokens("", {0: b"caf", 1: b"\\xc3", 2: b"\\xa9"}).decode([0, 1, 2])
        'café'
        """
        return b"".join(self.tokens[number] for number in ids).decode("utf-8", "replace")
