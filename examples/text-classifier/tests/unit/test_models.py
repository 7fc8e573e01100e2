"""Models: shapes, gradients, and what must not depend on what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.data import PAD_ID
from src.models import FeatureClassifier, MyTransformerModel

VOCAB, CLASSES = 50, 4


@pytest.fixture
def model(fixed_seed: int, device: torch.device) -> MyTransformerModel:
    return MyTransformerModel(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_classes=CLASSES).to(device)


@pytest.fixture
def ids(device: torch.device) -> torch.Tensor:
    """(6, 10) without padding."""
    return torch.randint(1, VOCAB, (6, 10), generator=torch.Generator().manual_seed(4)).to(device)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 300), (5, 7)])
def test_logits_have_one_row_for_each_text(model, device, batch, length):
    logits = model(torch.ones(batch, length, dtype=torch.long, device=device))
    assert logits.shape == (batch, CLASSES)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("hidden_size", "num_layers"), [(1, 1), (7, 2), (20, 1), (33, 3), (64, 2)])
def test_every_size_works(device, ids, hidden_size, num_layers):
    model = MyTransformerModel(VOCAB, hidden_size, num_layers, CLASSES).to(device)
    assert model(ids).shape == (6, CLASSES)
    assert model.embed(ids).shape == (6, hidden_size)


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_layers", "num_classes"])
def test_sizes_that_make_no_sense_are_refused(name):
    sizes = {"vocab_size": 10, "hidden_size": 8, "num_layers": 1, "num_classes": 2} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        MyTransformerModel(**sizes)


def test_eval_mode_is_deterministic_and_training_mode_is_not(model, ids):
    model.eval()
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_every_parameter_receives_a_gradient(model, ids):
    nn.functional.cross_entropy(model(ids), torch.arange(6, device=ids.device) % CLASSES).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_texts_of_a_batch_do_not_influence_each_other(model, ids):
    model.eval()
    before = model(ids)
    changed = ids.clone()
    changed[2] = torch.arange(10, device=ids.device) + 1
    after = model(changed)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(after[others], before[others])
    assert not torch.allclose(after[2], before[2])


def test_the_gradient_of_one_text_reaches_no_other(model, ids):
    hidden = []
    model.eval().embedding.register_forward_hook(lambda *call: hidden.append(call[2]) or call[2].retain_grad())
    model(ids)[2].sum().backward()
    reached = hidden[0].grad.abs().sum(dim=(1, 2)) > 0
    assert reached.tolist() == [False, False, True, False, False, False]


def test_a_batch_gives_what_its_texts_give_alone(model, ids):
    model.eval()
    alone = torch.cat([model(row.unsqueeze(0)) for row in ids])
    torch.testing.assert_close(model(ids), alone)


@pytest.mark.parametrize("padding", [1, 20])
def test_padding_changes_nothing(model, ids, padding):
    model.eval()
    padded = torch.cat([ids, ids.new_full((6, padding), PAD_ID)], dim=1)
    torch.testing.assert_close(model(padded), model(ids))


def test_the_mask_of_the_dataset_is_the_one_the_model_derives(model, ids):
    model.eval()
    ids[:, 6:] = PAD_ID
    torch.testing.assert_close(model(ids, (ids != PAD_ID).long()), model(ids))
    assert not torch.allclose(model(ids, torch.ones_like(ids)), model(ids))


def test_a_text_of_padding_alone_is_finite_in_both_directions(model, device):
    ids = torch.full((2, 5), PAD_ID, device=device)
    ids[1, 0] = 3
    logits = model(ids)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_order_of_words_matters(model, ids):
    model.eval()
    assert not torch.allclose(model(ids), model(ids.flip(1)), atol=1e-4)


def test_an_id_outside_the_vocabulary_is_an_error(model):
    with pytest.raises(IndexError):
        model.cpu()(torch.tensor([[VOCAB]]))


@pytest.mark.parametrize("sizes", [(50, 32, 2, 4), (2, 8, 1, 2), (300, 20, 12, 7)])
def test_the_architecture_is_read_back_from_the_weights(sizes):
    model = MyTransformerModel(*sizes).eval()
    copy = MyTransformerModel.from_state_dict(model.state_dict())
    assert (copy.vocab_size, copy.hidden_size, copy.num_layers, copy.num_classes) == sizes
    assert not copy.training
    ids = torch.ones(2, 5, dtype=torch.long)
    assert torch.equal(copy(ids), model(ids))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {},
        lambda state: {"model": state},
        lambda state: {name: tensor for name, tensor in state.items() if name != "head.bias"},
        lambda state: state | {"extra.weight": torch.zeros(2)},
        lambda state: state | {"head.weight": torch.zeros(4, 5)},
        lambda state: state | {"embedding.weight": torch.zeros(3)},
        lambda state: [1, 2],
        lambda state: state | {"head.bias": "text"},
    ],
    ids=["empty", "checkpoint", "missing", "extra", "other shape", "not a matrix", "a list", "no tensor"],
)
def test_weights_of_something_else_are_refused(spoil):
    state = dict(MyTransformerModel(10, 8, 1, 4).state_dict())
    with pytest.raises(ValueError, match="not the state_dict of a MyTransformerModel"):
        MyTransformerModel.from_state_dict(spoil(state))


def test_weights_that_are_not_finite_are_refused():
    state = MyTransformerModel(10, 8, 1, 4).state_dict()
    state["head.bias"][2] = float("nan")
    with pytest.raises(ValueError, match=r"not finite in head\.bias"):
        MyTransformerModel.from_state_dict(state)


def test_the_baseline_maps_features_to_classes(tiny_model, small_batch):
    logits = tiny_model(small_batch["inputs"])
    assert logits.shape == (8, 4)
    nn.functional.cross_entropy(logits, small_batch["labels"]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tiny_model.parameters())


def test_without_a_hidden_layer_the_baseline_is_linear(fixed_seed):
    model = FeatureClassifier(3, 2)
    a, b, zero = torch.randn(1, 3), torch.randn(1, 3), torch.zeros(1, 3)
    torch.testing.assert_close(model(a + b) - model(zero), model(a) + model(b) - 2 * model(zero))
