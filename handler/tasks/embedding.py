"""Make the embedding of a text from the outputs of its tokens: pooling, the layers behind it, prompts, similarity."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from handler.arrays import ArraySegments, Segments, TensorSegments, namespace, split
from handler.errors import ConfigError, InvalidInput
from handler.model_folder import ModelFolder
from handler.sentence_layers import normalize
from handler.sentence_modules import PoolingMode, Similarity, SpladePooling
from handler.sentence_router import InputType
from handler.sequences import Encoding, EncodingOptions
from handler.tasks.base import Task
from handler.tasks.parameters import Choice, Parameter, String
from handler.tasks.queries import Output, Pooler, RaggedOutput, SequenceOutput
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch


class SentencePooler(Pooler):
    """Pool the outputs of the tokens of a text as the Pooling module of sentence-transformers does.

    Several modes are concatenated. Special tokens are pooled too, the first `n_excluded` tokens (of a prompt) are not.
    """

    forward_scope = "encoder"

    def __init__(self, modes: tuple[PoolingMode, ...], n_excluded: int = 0) -> None:
        self.modes = modes
        self.n_excluded = n_excluded

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        """Return the tokens that the modes read; of a text that is all prompt, every token."""
        first = self.n_excluded if self.n_excluded < len(encoding) else 0
        if set(self.modes) <= {"cls", "lasttoken"}:
            return tuple(first if mode == "cls" else len(encoding) - 1 for mode in self.modes)
        return range(first, len(encoding)) if self.n_excluded else None

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        states: Any = batch.tokens(output[0])  # (tokens that are read, width), in fp32
        ones = (1,) * len(batch.counts)
        if set(self.modes) <= {"cls", "lasttoken"}:
            return RaggedOutput(states.reshape(len(ones), -1), ones)
        segments = segments_of(states, batch)
        pooled = [self._pool(mode, states, segments, batch.seq_lens) for mode in self.modes]
        return RaggedOutput(namespace(states).concatenate(pooled, -1), ones)

    def _pool(self, mode: PoolingMode, states: Any, segments: Segments, lengths: Sequence[int]) -> Any:
        """Return the vectors (texts, width) of one mode."""
        if mode == "cls":
            return segments.first(states)
        if mode == "lasttoken":
            return segments.last(states)
        if mode == "max":
            return segments.max(states)
        if mode == "weightedmean":
            weights = segments.positions(lengths)  # of a token: its position in the text, prompt included
            return segments.sum(states * weights) / segments.sum(weights)
        sizes = segments.sizes()
        return segments.sum(states) / (sizes**0.5 if mode == "mean_sqrt_len_tokens" else sizes)


def segments_of(states: Any, batch: Batch) -> Segments:
    """Divide the states of the tokens that are read by their texts; a GPU is not waited for."""
    if isinstance(states, np.ndarray):
        return ArraySegments(batch.counts)
    return TensorSegments(batch.count_array(), len(states))


@functools.cache
def sentence_pooler(modes: tuple[PoolingMode, ...], n_excluded: int) -> SentencePooler:
    """Return the one pooler of these modes, so that queries with the same pooling share forward passes."""
    return SentencePooler(modes, n_excluded)


class SparsePooler(Pooler):
    """Pool the logits of the tokens of a text as the SpladePooling module of sentence-transformers does."""

    n_excluded = 0  # tokens of a prompt are pooled

    def __init__(self, pooling: SpladePooling, vocab_size: int) -> None:
        self.pooling, self.logits_per_token = pooling, vocab_size

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        """Return the weights (texts, vocabulary)."""
        logits = batch.tokens(output["logits"])  # (tokens, vocabulary)
        weights = [self.pooling.pool(part) for part in split(logits, batch.counts)]
        return RaggedOutput(namespace(logits).stack(weights), (1,) * len(weights))


class TablePooler(Pooler):
    """Run nothing for texts whose weights are looked up by their tokens."""

    forward_scope = "nothing"

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return RaggedOutput(np.empty(0, np.float32), (0,) * len(batch.seq_lens))


TABLE_POOLER = TablePooler()


class Embedder:
    """What embeddings of a model are made of: its prompts, its poolers and the layers behind them."""

    def __init__(self, model: ModelFolder, tokenizer: Tokenizer) -> None:
        self.modules = model.embedding
        self.has_modules = model.has_modules
        splade = self.modules.splade
        self._sparse_pooler = SparsePooler(splade, model.config.vocab_size) if splade else None
        self.width = self.modules.width or model.config.hidden_size
        self._tokenizer = tokenizer

    def parameters(self, **own: Parameter) -> dict[str, Parameter]:
        """Return the parameters of a task that makes embeddings, its own ones among them."""
        description = "mean of all tokens, or the first one"
        pooling = Choice(accepted=("mean", "cls"), default="mean", description=description)
        is_chosen = not self.has_modules and not self.modules.splade
        return {**({"pooling": pooling} if is_chosen else {}), **own, **self.prompt_parameters()}

    def prompt_parameters(self) -> dict[str, Parameter]:
        """Return the parameters that `prompt` reads."""
        names = tuple(self.modules.prompts)
        by_name = Choice(accepted=names, description="a prompt of the model's folder")
        return {
            "prompt": String(description="text before each input; by default that of the model's folder"),
            **({"prompt_name": by_name} if names else {}),
        }

    def prompt(self, values: Mapping[str, Any], input_type: InputType | None = None) -> str:
        """Return the text that stands before the inputs of a request; raises InvalidInput."""
        prompt, name = values.get("prompt"), values.get("prompt_name")
        if prompt is not None and name is not None:
            raise InvalidInput("prompt and prompt_name exclude each other")
        if name is not None:
            return self.modules.prompts[name]
        if (
            prompt is None and input_type is not None
        ):  # the library has an empty prompt for either, whatever the default
            return self.modules.prompts.get(input_type, "")
        return self.modules.default_prompt if prompt is None else str(prompt)

    def reading(self, options: EncodingOptions, input_type: InputType | None) -> tuple[EncodingOptions, Pooler]:
        """Return how a text is encoded, and what pools it: for the table of weights, or for the model."""
        if input_type in self.modules.table_inputs:
            return replace(options, by_table=True), TABLE_POOLER
        return options, self.pooler()

    def pooler(self, values: Mapping[str, Any] | None = None, prompt: str = "") -> SentencePooler | SparsePooler:
        """Return what pools the texts of a request with these parameters and this prompt."""
        if self._sparse_pooler:
            return self._sparse_pooler
        modes = (values["pooling"],) if values and "pooling" in values else self.modules.pooling
        n_excluded = 0 if self.modules.include_prompt or not prompt else self._tokenizer.prompt_length(prompt)
        return sentence_pooler(modes, n_excluded)

    def keep(self, vector: Output, n_kept: int | None) -> Output:
        """Return the first numbers of an embedding; of a SparseEncoder its heaviest weights, the others being 0."""
        return keep_heaviest(vector, n_kept) if self.modules.splade else vector[:n_kept]

    def embed(self, windows: Sequence[SequenceOutput], input_type: InputType | None = None) -> Output:
        """Return the embedding (width,) of a text from its windows; of a SparseEncoder the weights (vocabulary,)."""
        if self.modules.table and input_type in self.modules.table_inputs:
            return self.modules.table.embed([token for window in windows for token in window.encoding.ids])
        if self.modules.splade:
            return self.modules.splade.merge(np.concatenate([window.values for window in windows]))
        pooled = merge_windows(windows)
        embedding: Output = self.modules.project(pooled[None])[0]
        return embedding


def keep_heaviest(weights: Output, n_kept: int | None) -> Output:
    """Return weights (vocabulary,) of which all but the `n_kept` of the largest absolute values are 0.

    >>> keep_heaviest(np.array([1.0, 3.0, 2.0], dtype=np.float32), 2)
    array([0., 3., 2.], dtype=float32)
    """
    if n_kept is None or n_kept >= len(weights):
        return weights
    heaviest = np.argsort(-np.abs(weights), kind="stable")[:n_kept]
    kept = np.zeros_like(weights)
    kept[heaviest] = weights[heaviest]
    return kept


def embedding_options(task: Task) -> EncodingOptions:
    """Return how texts are encoded for embeddings: windows share no token, so that each token counts once.

    Raises:
        ConfigError: windows over a text with a prompt that is not pooled, which only the first of them holds.
    """
    modules = task.model.embedding
    if task.overflow == "window" and not modules.include_prompt and modules.prompts:
        raise ConfigError(
            "handler.overflow is window, but the Pooling of this folder has include_prompt false: accepted are "
            "truncate and refuse"
        )
    return EncodingOptions(task.overflow, stride=0)


def merge_windows(windows: Sequence[SequenceOutput]) -> Output:
    """Return the vector of one text: the mean of the vectors of its windows, weighted by their numbers of tokens.

    With the pooling `mean` this is the mean over all tokens of the text and the special tokens of every window.
    """
    if len(windows) == 1:
        vector: Output = windows[0].values[0]
        return vector
    vectors = np.stack([window.values[0] for window in windows])
    mean: Output = np.average(vectors, axis=0, weights=[len(window.encoding) for window in windows]).astype(np.float32)
    return mean


# As sentence-transformers computes them: distances are negated, so that more similar is always larger.
SIMILARITY_FUNCTIONS: dict[Similarity, Callable[[Output, Output], float]] = {
    "cosine": lambda a, b: float(normalize(a) @ normalize(b)),
    "dot": lambda a, b: float(a @ b),
    "euclidean": lambda a, b: -float(np.linalg.norm(a - b)),
    "manhattan": lambda a, b: -float(np.abs(a - b).sum()),
    # Of the vectors of tokens: those of a query, then those of a document.
    "maxsim": lambda a, b: float((a @ b.T).max(1).sum()),
    "meanmaxsim": lambda a, b: float((a @ b.T).max(1).mean()),
}
