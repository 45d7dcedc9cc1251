"""The speed room: encodings -> values.

An `Engine` holds one model on one device. The encoder (nearly all of the work) computes in the chosen precision, the
embeddings before it and the head after it stay in fp32. Sequences travel packed, end to end with no padding; a model
whose attention cannot be replaced is found out by a probe at load and travels padded, sorted by length.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from handler.batching import Batch, VarlenMetadata, distinct, plan
from handler.config import ServingConfig
from handler.engine.attention import PACKED
from handler.engine.encoder import PackedEncoder, encoder_name, packed_encoder
from handler.engine.int8 import IntegerEncoder
from handler.engine.precision import Precision, choose
from handler.engine.probe import HiddenStates, alike, probe_of
from handler.engine.threads import Threads
from handler.engine.weights import load_weights
from handler.errors import (
    ConfigError,
    DeviceLost,
    InternalError,
    ModelMismatch,
    OutOfMemory,
    Overloaded,
    RequestError,
)
from handler.sequences import Encoding
from handler.tasks import Output, Pooler
from handler.tokenization import first_position

logger = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}


class DeviceUsage(NamedTuple):
    """How busy a device was."""

    device: str  # its number among those of its kind, as TorchServe tells it
    seconds: float  # that it computed for this engine
    used_bytes: int  # of its memory, by whomever


class Engine:
    """One model on one device, ready to run."""

    def __init__(
        self,
        model: PreTrainedModel,
        main: Pooler,
        config: ServingConfig,
        device: torch.device | None = None,
        *,
        pad_id: int = 0,
        type_ids: bool = True,
        packed: bool = True,
    ) -> None:
        """Place a model in fp32 on a device, choose its precision and find out whether it can travel packed.

        Args:
            main: the use that the model's head is for.
            pad_id: the token that a padded batch is filled with.
            type_ids: whether the model's tokenizer hands segments on, as transformers' own callers would see it.
            packed: False keeps the attention that transformers chose, for a reference to compare with.

        Raises:
            ConfigError: a precision that the device does not have.
            ModelMismatch: a text's values would depend on the padding beside it.
        """
        self.device = device or torch.device("cpu")
        self.main = main
        name = encoder_name(model.base_model)
        encoder = getattr(model.base_model, name) if name else None
        integers = isinstance(encoder, IntegerEncoder)
        self.precision: Precision = choose(config.precision, self.device, floats=not integers, integers=integers)
        self.max_batch_tokens = config.max_batch_tokens or BATCH_TOKENS[self.device.type]
        self.device_failed = False  # whether the device failed for good, as a GPU does for a process after some errors
        self.pad_id = pad_id
        self.first_position = first_position(model.config)
        self.model = model.train(False).requires_grad_(False).to(self.device)
        self._threads = Threads()
        self._exact: list[Output] = []  # what the probe says in fp32
        self._takes_type_ids = type_ids and (getattr(model.config, "type_vocab_size", 0) or 0) > 1
        if integers:  # proven when it was packed, and by its golden answers
            self.packed = True
            model.set_attn_implementation(PACKED)
            return
        if encoder is not None:
            encoder.register_forward_pre_hook(self._enter_encoder, with_kwargs=True)
            encoder.register_forward_hook(self._leave_encoder, with_kwargs=True)
        del encoder  # its weights go layer by layer when ours settles
        self.packed = self._can_pack(packed and name is not None)
        self._settle(getattr(model.base_model, name) if name else model)

    @classmethod
    def load(
        cls,
        folder: Path,
        auto_class: str,
        main: Pooler,
        config: ServingConfig,
        device: torch.device | None = None,
        **options: Any,
    ) -> Engine:
        """Load the weights of a model folder with a class of transformers, from safetensors only.

        Those for int8 lie in a file of their own, and are taken where the precision says so.

        Raises:
            ModelMismatch: no weights, or weights that are not all of this architecture.
            ConfigError: a precision that the device does not have.
        """
        return cls(load_weights(folder, auto_class, main, config, device), main, config, device, **options)

    def run(
        self, encodings: Sequence[Encoding], uses: Sequence[Pooler] | None = None, deadline: float = math.inf
    ) -> list[Output | RequestError]:
        """Compute the values of every encoding, in order; equal ones are computed once, short ones first.

        Args:
            uses: what each encoding is computed for; by default all for the main use.
            deadline: on the clock of `time.monotonic`. Then no further batch is begun: what is left is Overloaded.

        A batch that fails is split: by halves where memory ran out, row by row otherwise, so that a failure stays with
        the rows that cause it.
        """
        uses = uses or [self.main] * len(encodings)
        found: dict[int, Output | RequestError] = {}
        batches = self._batches(encodings, uses)
        work = ((use, [encodings[row[0]] for row in rows]) for use, rows in batches)
        for (_, rows), values in zip(batches, self._compute(work, deadline), strict=True):
            found.update((index, value) for row, value in zip(rows, values, strict=True) for index in row)
        return [found[index] for index in range(len(encodings))]

    def _compute(
        self, batches: Iterable[tuple[Pooler, list[Encoding]]], deadline: float
    ) -> Iterator[list[Output | RequestError]]:
        """Yield the values of every batch, in order."""
        for use, members in batches:
            yield self._attempt(use, members) if time.monotonic() < deadline else self._too_late(members)

    def _too_late(self, encodings: list[Encoding]) -> list[Output | RequestError]:
        # TorchServe would kill the worker, and with it the answers that are ready.
        return [Overloaded("too much for one batch: send fewer or shorter texts at once")] * len(encodings)

    def _batches(self, encodings: Sequence[Encoding], uses: Sequence[Pooler]) -> list[tuple[Pooler, list[list[int]]]]:
        """Plan forward passes, short ones first; a row of one holds the indices of all encodings equal to it."""
        batches = []
        for use in dict.fromkeys(uses):
            members = [index for index, its in enumerate(uses) if its is use]
            equal = [[members[i] for i in group] for group in distinct([encodings[index] for index in members])]
            lengths = [len(encodings[group[0]]) for group in equal]
            for rows in plan(lengths, self.max_batch_tokens, padded=not self.packed):
                batches.append((use, [equal[row] for row in rows]))
        return sorted(batches, key=lambda batch: len(encodings[batch[1][0][0]]))  # a plan's rows: longest first

    def warm_up(self, max_length: int) -> None:
        """Run the smallest and the largest batches once, so that no request pays for first-time work.

        Raises:
            ConfigError: the model cannot compute in this precision.
        """
        token = probe_of(self.model.config)[0].ids[0]
        for lengths in ([2], [max_length], [8] * max(1, self.max_batch_tokens // 8)):
            try:
                self._forward(self.main, [Encoding([token] * length, [0] * length) for length in lengths])
            except (RuntimeError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"{type(self.model).__name__} does not run with handler.precision {self.precision.name} and "
                    f"handler.max_batch_tokens {self.max_batch_tokens}: {' '.join(str(error).split())[:200]}"
                ) from error
        if self.device.type == "cpu":
            self._threads.find(lambda n: self._forward(self.main, [Encoding([token] * 8, [0] * 8)] * (n // 8)))

    def _attempt(self, use: Pooler, encodings: list[Encoding]) -> list[Output | RequestError]:
        try:
            return (
                [self.mark_device_failed()] * len(encodings)
                if self.device_failed
                else list(self._forward(use, encodings))
            )
        except torch.AcceleratorError:
            return [self.mark_device_failed()] * len(encodings)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                return self._one_by_one(use, encodings, error)
        except Exception as error:  # noqa: BLE001 - whatever fails, it must not take the neighbours along
            return self._one_by_one(use, encodings, error)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(encodings) == 1:
            logger.error("out of memory with one sequence of %d tokens", len(encodings[0]))
            return [OutOfMemory("not enough memory for this text")]
        middle = len(encodings) // 2
        logger.warning("out of memory with %d sequences: halving", len(encodings))
        return [*self._attempt(use, encodings[:middle]), *self._attempt(use, encodings[middle:])]

    def mark_device_failed(self) -> DeviceLost:
        """Compute nothing any more, for nothing on the device can be trusted; return what to answer."""
        if not self.device_failed:
            logger.error("the device is lost, this worker ends")
        self.device_failed = True
        return DeviceLost("the device failed: ask again, another worker takes over")

    def _one_by_one(self, use: Pooler, encodings: list[Encoding], error: Exception) -> list[Output | RequestError]:
        # The message of an exception may hold a user's text: only its type and place are logged.
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        logger.error("%s at %s with %d sequences", type(error).__name__, where, len(encodings))
        if len(encodings) == 1:
            return [InternalError(f"unexpected {type(error).__name__} while computing")]
        return [values for encoding in encodings for values in self._attempt(use, [encoding])]

    @torch.inference_mode()
    def _forward(self, use: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        """Run one batch; the values leave the device once."""
        if use.forward_scope == "nothing":
            return [np.empty(0, np.float32)] * len(encodings)
        with self._threads.of(sum(map(len, encodings))):
            batch = self.build_batch(use, encodings)
            packed = use.pool(self.call(use, batch), batch)
        ends = np.cumsum(packed.counts)[:-1]
        return np.split(packed.values.float().cpu().numpy(), ends)

    def build_batch(self, use: Pooler, encodings: Sequence[Encoding]) -> Batch:
        """Put encodings on the device, packed or padded."""
        places = [use.token_positions(encoding) for encoding in encodings]
        reads = [place for place in places if place is not None] or None
        if self.packed:
            return Batch.packed(encodings, self.device, self.first_position, self.model.config.pad_token_id, reads)
        return Batch.padded(encodings, self.device, self.pad_id, reads)

    def call(self, use: Pooler, batch: Batch, embeddings: Tensor | None = None) -> Any:
        """Run the model, or its encoder alone, on a batch; on other embeddings than those of its tokens if given.

        Args:
            embeddings: of the words, (*batch.input_ids.shape, width of an embedding).

        Returns:
            The output of the model of transformers.
        """
        words = {"input_ids": batch.input_ids} if embeddings is None else {"inputs_embeds": embeddings}
        arguments: dict[str, Any] = dict(words)
        if self._takes_type_ids:
            arguments["token_type_ids"] = batch.type_ids
        if batch.varlen is not None:
            arguments |= {"position_ids": batch.position_ids, "varlen": batch.varlen}
        else:
            arguments["attention_mask"] = batch.attention_mask
        return (self.model if use.forward_scope == "head" else self.model.base_model)(**arguments)

    def _enter_encoder(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Cast what enters the encoder to its precision: hidden states and additive masks."""
        dtype = self.precision.dtype
        return tuple(_cast(value, dtype) for value in args), {name: _cast(kwargs[name], dtype) for name in kwargs}

    def _leave_encoder(self, _: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Narrow packed states to the tokens that are read, if those are not all, and return to fp32."""
        varlen: VarlenMetadata | None = kwargs.get("varlen")
        states = output[0]
        if varlen is not None and varlen.read is not None:
            states = states[0, varlen.read].unsqueeze(1)  # (read tokens, 1, width): as many sequences of one token
        if isinstance(output, tuple):
            return (states.float(), *output[1:])
        output[next(iter(output))] = states.float()
        return output

    def device_usage(self) -> DeviceUsage | None:
        """Return what the device was used for since this was asked before; None: it does not keep count."""
        return None

    @property
    def differentiable(self) -> bool:
        """Whether scores have gradients, from which explanations are made."""
        return self.precision.has_gradients

    def _settle(self, encoder: nn.Module) -> None:
        """Bring the encoder into its precision; raises ModelMismatch where that changes answers in fp32."""
        if not isinstance(encoder, PackedEncoder):
            encoder.to(dtype=self.precision.dtype)
            return
        probe = probe_of(self.model.config)
        before = self._try(probe) if self.precision.dtype == torch.float32 else []
        encoder.settle(self.precision.dtype, self.device)
        if before and not all(map(alike, before, self._try(probe))):
            raise ModelMismatch(f"{type(self.model).__name__} is computed differently with weights laid out for speed")

    def _can_pack(self, wanted: bool) -> bool:
        """Compare, in fp32, a probe computed alone, padded and packed, and leave the model set accordingly."""
        self.packed = False
        probe = probe_of(self.model.config)
        precision, self.precision = self.precision, self.precision._replace(dtype=torch.float32)
        try:
            self._exact = padded = self._try(probe)
            alone = [row for one in zip(*(self._try([encoding]) for encoding in probe), strict=True) for row in one]
            if not all(map(alike, padded, alone)):
                raise ModelMismatch(
                    f"{type(self.model).__name__} lets padding change the answer to a text, which would then depend on "
                    "its company: this family cannot be served"
                )
            return wanted and self._packs_like(padded, probe)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            name = type(self.model).__name__
            raise ModelMismatch(f"{name} cannot be run as a BERT: {type(error).__name__} on a few tokens") from error
        finally:
            self.precision = precision

    def _try(self, probe: list[Encoding]) -> list[Output]:
        """Return the hidden states of every sequence, and then the values of the main use."""
        return [*self._forward(HiddenStates(), probe), *self._forward(self.main, probe)]

    def _packs_like(self, padded: list[Output], probe: list[Encoding]) -> bool:
        """Try our own encoder, then that of transformers with our attention; leave what gives the same answers."""
        base, before = self.model.base_model, self.model.config._attn_implementation
        name = encoder_name(base)
        ours = packed_encoder(self.model)
        theirs = getattr(base, name) if name else None
        for encoder in (ours, theirs):
            if encoder is None or name is None:
                continue
            setattr(base, name, encoder)
            try:
                self.packed = True
                self.model.set_attn_implementation(PACKED)
                if all(map(alike, self._try(probe), padded)):
                    return True
                reason = "its packed answers differ"
            except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
                reason = f"{type(error).__name__} in its packed forward"
            whose = "of transformers" if encoder is theirs else "of ours"
            logger.warning(
                "%s cannot travel packed through the encoder %s: %s", type(self.model).__name__, whose, reason
            )
            self.packed = False
            self.model.set_attn_implementation(before)
        return False


def engine_for(device: torch.device | None) -> type[Engine]:
    """Return the engine of a kind of device."""
    if device is None or device.type != "cuda":
        return Engine
    from handler.engine.cuda import CudaEngine  # of no use to a machine without a GPU

    return CudaEngine


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; on a CPU, PyTorch says it with a RuntimeError of its allocator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
