"""Word embeddings of the training data's tokens alone: the result of training all of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from scripts.training import compact

TOKENS = [0, 3, 5, 8, 13, 21]
RARE = 40  # a token that is in no training batch


def model_of(head: str = "BertForSequenceClassification") -> Any:
    """Return a random model without dropout."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    return getattr(transformers, head)(config).train()


def train(model: Any, steps: range) -> None:
    """Train with a learning rate that changes, weight decay and clipped gradients."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.3, fused=True)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        tokens = torch.tensor(TOKENS)[torch.randint(len(TOKENS), (4, 6), generator=generator)]
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 + step % 3)
        model.zero_grad()
        model(tokens, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def table(model: Any) -> Tensor:
    weights: Tensor = model.state_dict()["bert.embeddings.word_embeddings.weight"]
    return weights


def test_the_result_is_that_of_training_all_rows() -> None:
    """Rows of other tokens are decayed as well, and serve validation meanwhile; checkpoints have every row."""
    plain, model = model_of(), model_of()
    start, rare = table(model).clone(), torch.tensor([[3, RARE, 5]])
    with compact.vocabulary(model, TOKENS):
        assert len(model.get_input_embeddings().weight) == len(TOKENS) + 1
        for steps in (range(6), range(6, 9)):
            train(plain, steps)
            train(model, steps)
            torch.testing.assert_close(table(model), table(plain), rtol=1e-5, atol=1e-7)
            with torch.no_grad():
                logits = model.eval()(rare).logits
                torch.testing.assert_close(logits, plain.eval()(rare).logits, rtol=1e-4, atol=1e-6)
            model.train(), plain.train()
    assert not torch.equal(table(model)[RARE], start[RARE])
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, weights in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weights, rtol=1e-4, atol=1e-6)
    assert type(model.get_input_embeddings()) is torch.nn.Embedding


def test_a_checkpoint_is_loaded_to_go_on_from() -> None:
    """Training goes on from a state dict, also in a new process, whose model is the first one again."""
    model, resumed = model_of(), model_of()
    with compact.vocabulary(model, TOKENS):
        train(model, range(3))
        checkpoint = copy.deepcopy(model.state_dict())
        train(model, range(3, 6))
    with compact.vocabulary(resumed, TOKENS):
        resumed.load_state_dict(checkpoint)
        assert torch.equal(table(resumed), checkpoint["bert.embeddings.word_embeddings.weight"])
        train(resumed, range(3, 6))
    torch.testing.assert_close(table(resumed), table(model), rtol=1e-6, atol=1e-8)


def test_a_token_that_is_no_parameter_is_refused_in_training() -> None:
    """Its gradient would be lost without a word."""
    model = model_of()
    with compact.vocabulary(model, TOKENS), pytest.raises(ValueError, match="not among those of the training data"):
        model(torch.tensor([[3, RARE]]), labels=torch.tensor([0]))


def test_all_rows_are_trained_where_all_have_gradients() -> None:
    """Tied output embeddings, frozen ones, and data with most of the vocabulary change nothing."""
    frozen = model_of()
    frozen.get_input_embeddings().weight.requires_grad_(False)
    for model, tokens in ((model_of("BertForMaskedLM"), TOKENS), (frozen, TOKENS), (model_of(), range(40))):
        own = model.get_input_embeddings()
        with compact.vocabulary(model, tokens):
            assert model.get_input_embeddings() is own
