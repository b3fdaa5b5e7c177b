import copy
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import prune
from transformers import AutoConfig, AutoModelForSequenceClassification

from seqgan_hf.models import TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.models import cnn as cnn_module

VOCAB_SIZE, PAD = 13, 0


@pytest.fixture(autouse=True)
def shares_of_small_networks(monkeypatch):
    monkeypatch.setattr(cnn_module, "_FEWEST_PRODUCTS", 0)


def random_ids(num_rows: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB_SIZE, (num_rows, length), generator=torch.Generator().manual_seed(3))


def build(**arguments) -> TextCNNForSequenceClassification:
    torch.manual_seed(0)
    arguments = {
        "vocab_size": VOCAB_SIZE,
        "embedding_size": 6,
        "filter_sizes": (1, 2, 3, 7),
        "num_filters": (3, 4, 5, 2),
    } | arguments
    return TextCNNForSequenceClassification(TextCNNConfig(**arguments)).eval()


@pytest.fixture
def model() -> TextCNNForSequenceClassification:
    return build()


@pytest.fixture
def sums() -> TextCNNForSequenceClassification:
    """Logit 0 is the highest sum of 1, logit 1 of 2 neighbouring token ids: every number can be checked by hand."""
    model = build(
        vocab_size=10, embedding_size=1, filter_sizes=(1, 2), num_filters=(1, 1), num_highway_layers=0, dropout=0.0
    )
    with torch.no_grad():
        model.embeddings.weight.copy_(torch.arange(10.0).unsqueeze(1))
        for convolution in model.convolutions:
            convolution.weight.fill_(1.0)
            convolution.bias.zero_()
        model.classifier.weight.copy_(torch.eye(2))
        model.classifier.bias.zero_()
    return model


def test_default_config_is_the_discriminator_of_the_paper():
    config = TextCNNConfig()
    assert config.filter_sizes == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    assert sum(config.num_filters) == 1720
    assert (config.embedding_size, config.num_highway_layers, config.dropout) == (64, 1, 0.25)


def test_two_labels_are_generated_and_real():
    config = TextCNNConfig()
    assert config.id2label == {0: "generated", 1: "real"}
    assert config.label2id == {"generated": 0, "real": 1}
    assert TextCNNConfig(num_labels=2).id2label == {0: "generated", 1: "real"}


def test_other_labels_are_kept():
    assert TextCNNConfig(num_labels=3).num_labels == 3
    assert TextCNNConfig(id2label={0: "ham", 1: "spam"}).id2label == {0: "ham", 1: "spam"}
    assert build(num_labels=3)(torch.tensor([[1, 2]])).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 0}, "`vocab_size` must be at least 1, got 0."),
        ({"embedding_size": 0}, "`embedding_size` must be at least 1, got 0."),
        (
            {"filter_sizes": (1, 2), "num_filters": (10,)},
            (
                "`filter_sizes` and `num_filters` must have the same length, at least 1: one number of filters per "
                "width. Got 2 and 1."
            ),
        ),
        (
            {"filter_sizes": (), "num_filters": ()},
            (
                "`filter_sizes` and `num_filters` must have the same length, at least 1: one number of filters per "
                "width. Got 0 and 0."
            ),
        ),
        (
            {"filter_sizes": (1, 0), "num_filters": (1, 1)},
            "Every value of `filter_sizes` must be at least 1, got (1, 0).",
        ),
        (
            {"filter_sizes": (1, 2), "num_filters": (0, 1)},
            "Every value of `num_filters` must be at least 1, got (0, 1).",
        ),
        ({"num_highway_layers": -1}, "`num_highway_layers` must be at least 0, got -1."),
        ({"dropout": 1.0}, "`dropout` must lie in [0, 1), got 1.0."),
        ({"embedding_dropout": -0.1}, "`embedding_dropout` must lie in [0, 1), got -0.1."),
        ({"normalization": "batch"}, "`normalization` must be none, layer or spectral, got 'batch'."),
    ],
)
def test_config_rejects_bad_values(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TextCNNConfig(**arguments)


def test_weights_start_as_in_the_paper():
    model = build(vocab_size=500, embedding_size=16, filter_sizes=(1, 4), num_filters=(50, 50), num_labels=20)
    embedding = model.embeddings.weight
    assert -1 <= embedding.min() < -0.99 and 0.99 < embedding.max() <= 1
    assert embedding.std().item() == pytest.approx(3**-0.5, rel=0.05)
    for layer in (*model.convolutions, model.classifier):
        # A normal distribution cut at two standard deviations keeps 0.88 of its width.
        assert layer.weight.std().item() == pytest.approx(0.088, rel=0.1)
        assert 0.18 < layer.weight.abs().max() <= 0.2
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.1))
    highway = model.highway[0]
    assert torch.equal(highway.gate.bias, torch.full_like(highway.gate.bias, -2.0))
    assert not highway.transform.bias.any()
    for layer in (highway.gate, highway.transform):
        assert layer.weight.std().item() == pytest.approx(0.1, rel=0.1)  # Glorot: sqrt(2 / (100 + 100))


def test_auto_classes_build_it_from_a_config():
    config = AutoConfig.for_model("seqgan_textcnn", vocab_size=7, filter_sizes=[2], num_filters=[3])
    assert type(config) is TextCNNConfig
    model = AutoModelForSequenceClassification.from_config(config)
    assert type(model) is TextCNNForSequenceClassification
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("ids", "mask", "expected"),
    [
        ([3, 1, 4, 2], [1, 1, 1, 1], [4, 6]),  # windows 3+1, 1+4, 4+2
        ([3, 1, 9, 9], [1, 1, 0, 0], [3, 4]),  # 1+padding does not count
        ([3, 9, 9, 9], [1, 0, 0, 0], [3, 3]),  # shorter than the window: 3+zero counts
        ([9, 9, 1, 3], [0, 0, 1, 1], [3, 4]),  # padded on the left
        ([3, 9, 1, 9], [1, 0, 1, 0], [3, 4]),  # the real tokens become neighbours
        ([9, 9, 9, 9], [0, 0, 0, 0], [0, 0]),  # nothing but padding
    ],
)
def test_window_rule_by_hand(sums, ids, mask, expected):
    filler = torch.tensor([9, 9, 9, 9])  # a full row beside it must not matter
    output = sums(torch.stack([torch.tensor(ids), filler]), attention_mask=torch.tensor([mask, [1, 1, 1, 1]]))
    assert output.logits.tolist() == [expected, [9, 18]]


def test_window_at_the_end_of_a_padded_row_does_not_count(sums):
    """With a negative bias on the ids, a window half over padding would beat every full one."""
    with torch.no_grad():
        sums.embeddings.weight.sub_(8)  # ids 1 to 3 become -7 to -5, still less than padding's 0
        for convolution in sums.convolutions:
            convolution.bias.fill_(20.0)
    logits = sums(torch.tensor([[3, 1, 0, 0]]), attention_mask=torch.tensor([[1, 1, 0, 0]])).logits
    assert logits.tolist() == [[20 - 5, 20 - 5 - 7]]


def test_features_are_never_negative(sums):
    with torch.no_grad():
        for convolution in sums.convolutions:
            convolution.bias.fill_(-4.0)
    assert sums(torch.tensor([[3, 1, 2]])).logits.tolist() == [[0, 0]]  # ReLU of 3 - 4 and 3 + 1 - 4


def test_full_rows_get_the_valid_convolution_of_the_paper(model):
    ids = torch.randint(VOCAB_SIZE, (4, 9), generator=torch.Generator().manual_seed(1))
    channels = model.embeddings(ids).transpose(1, 2)
    pooled = [F.relu(F.conv1d(channels, conv.weight, conv.bias)).amax(-1) for conv in model.convolutions]
    features = torch.cat(pooled, dim=1)
    highway = model.highway[0]
    gate = torch.sigmoid(highway.gate(features))
    features = gate * F.relu(highway.transform(features)) + (1 - gate) * features
    expected = model.classifier(features)
    torch.testing.assert_close(model(ids).logits, expected)
    torch.testing.assert_close(model(ids, attention_mask=torch.ones_like(ids)).logits, expected)


@pytest.mark.parametrize("length", [1, 2, 5, 7, 9])
@pytest.mark.parametrize("filler", [PAD, 12])
def test_padding_on_either_side_changes_nothing(model, length, filler):
    """Lengths below, at and above the widest filter, 7."""
    ids = torch.randint(1, VOCAB_SIZE, (3, length), generator=torch.Generator().manual_seed(1))
    expected = model(ids).logits
    for left, right in [(0, 1), (0, 10), (1, 0), (10, 0), (3, 4)]:
        padded = F.pad(ids, (left, right), value=filler)
        mask = F.pad(torch.ones_like(ids), (left, right))
        torch.testing.assert_close(model(padded, attention_mask=mask).logits, expected)


def test_ragged_batch_equals_its_rows(model):
    rows = [[5, 7], [3, 9, 2, 11, 4, 8, 1, 2, 2], [4], [6, 6, 1, 2, 3, 4, 5]]
    ids = torch.tensor([row + [PAD] * (9 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (9 - len(row)) for row in rows])
    expected = torch.cat([model(torch.tensor([row])).logits for row in rows])
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, expected)


def test_missing_mask_comes_from_the_pad_token():
    ids = torch.tensor([[5, 7, PAD, PAD]])
    mask = torch.tensor([[1, 1, 0, 0]])
    without, with_pad = build(), build(pad_token_id=PAD)
    assert torch.equal(with_pad(ids).logits, with_pad(ids, attention_mask=mask).logits)
    assert torch.equal(without(ids).logits, without(ids, attention_mask=torch.ones_like(ids)).logits)
    assert not torch.allclose(without(ids).logits, with_pad(ids).logits)
    assert torch.equal(with_pad(ids, attention_mask=torch.ones_like(ids)).logits, without(ids).logits)


def test_rows_without_tokens_are_finite_and_alike(model):
    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    output = model(ids, attention_mask=torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 0]]), labels=torch.tensor([0, 1, 1]))
    assert torch.isfinite(output.logits).all()
    assert torch.equal(output.logits[0], output.logits[2])
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("normalization", ["none", "layer", "spectral"])
@pytest.mark.parametrize("length", [1, 2, 7, 11])
@pytest.mark.parametrize("masked", ["nowhere", "left", "right", "anywhere", "everywhere"])
def test_without_gradient_shares_of_tokens_give_what_the_convolutions_give(normalization, length, masked):
    model = build(normalization=normalization)
    ids = random_ids(9, length)
    place = torch.arange(length)
    kept = torch.randint(0, length + 1, (9, 1), generator=torch.Generator().manual_seed(1))
    mask = {
        "nowhere": torch.ones(9, length, dtype=torch.bool),
        "left": place >= kept,
        "right": place < kept,
        "anywhere": torch.rand(9, length, generator=torch.Generator().manual_seed(2)) < 0.5,
        "everywhere": torch.zeros(9, length, dtype=torch.bool),
    }[masked]
    expected = model(input_ids=ids, attention_mask=mask).logits
    assert model._shares is None
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits
    assert (model._shares is None) == (normalization == "spectral")  # its weights are computed anew at each call
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["embeddings.weight", "convolutions.0.weight", "convolutions.2.bias"])
def test_the_shares_follow_weights_however_they_change(model, part):
    ids = random_ids(9, 11)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        model.get_parameter(part).data.add_(1.0)  # which no version counter sees
        found = model(input_ids=ids).logits
    expected = model(input_ids=ids).logits.detach()
    assert not torch.allclose(expected, before, atol=0.01)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_shares_are_kept_between_calls_and_go_in_training(model):
    with torch.no_grad():
        model(input_ids=random_ids(9, 11))
        shares = model._shares
        model.eval()(input_ids=random_ids(3, 11))
        assert model._shares is shares is not None
        model.train()(input_ids=random_ids(3, 11))
    assert model._shares is None


def test_the_shares_are_neither_copied_nor_saved(model, tmp_path):
    with torch.no_grad():
        model(input_ids=random_ids(9, 11))
    assert copy.deepcopy(model)._shares is None
    torch.save(model, tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt", weights_only=False)._shares is None
    assert model._shares is not None


def test_dropout_of_the_embeddings_acts_without_gradient_too():
    model = build(embedding_dropout=0.5, dropout=0.0)
    ids = random_ids(9, 11)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("limit", ["_MOST_SHARES", "_FEWEST_PRODUCTS", "_VOCABULARY_OF_A_CALL"])
def test_no_shares_are_computed_where_they_are_too_many_or_few_tokens_would_read_them(model, monkeypatch, limit):
    num_rows, per_token = VOCAB_SIZE + 1, 1 * 3 + 2 * 4 + 3 * 5 + 7 * 2
    ids = random_ids(1, num_rows // 2)
    for value, made in {
        "_MOST_SHARES": ((num_rows * per_token - 1, False), (num_rows * per_token, True)),
        "_FEWEST_PRODUCTS": ((6 * per_token + 1, False), (6 * per_token, True)),
        "_VOCABULARY_OF_A_CALL": ((1, False), (2, True)),
    }[limit]:
        monkeypatch.setattr(cnn_module, limit, value)
        with torch.no_grad():
            model(input_ids=ids)
        assert (model._shares is not None) is made


def _replace_embedding(model):
    model.embeddings = torch.nn.Sequential(model.embeddings, torch.nn.Tanh())


def _limit_norm(model):
    model.embeddings.max_norm = 0.5


def _hook(model):
    model.embeddings.register_forward_hook(lambda module, inputs, output: output * 2)


def _hook_before(model):
    model.convolutions[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))


def _prune(model):
    prune.l1_unstructured(model.convolutions[1], "weight", amount=0.5)


def _own_forward(model):
    model.convolutions[1].forward = lambda inputs: -F.conv1d(inputs, model.convolutions[1].weight)


def _dilate(model):
    model.convolutions[1].dilation = (2,)


def _no_bias(model):
    model.convolutions[1].bias = None


@pytest.mark.parametrize(
    "change",
    [_replace_embedding, _limit_norm, _hook, _hook_before, _prune, _own_forward, _dilate, _no_bias],
    ids=lambda change: change.__name__[1:],
)
def test_a_layer_that_is_not_as_it_was_built_is_run(model, change):
    ids = random_ids(9, 11)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        change(model)
        found = model(input_ids=ids).logits
    assert model._shares is None
    assert not torch.allclose(found, before, atol=1e-4)
    torch.testing.assert_close(found, model(input_ids=ids).logits.detach())


def test_no_shares_are_computed_in_less_precision_or_while_a_trace_is_made(model):
    ids = random_ids(9, 11)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids)
        torch.jit.trace(model, (ids,), strict=False, check_trace=False)
        other = copy.deepcopy(model).double()
        other(input_ids=ids)
    assert model._shares is None is other._shares


def test_weights_that_a_transformation_holds_are_not_kept(model):
    ids, parameters = random_ids(9, 11), dict(model.named_parameters())
    several = {name: torch.stack([weight, 2 * weight]) for name, weight in parameters.items()}
    with torch.no_grad():
        found = torch.vmap(lambda own: torch.func.functional_call(model, own, (ids,)).logits)(several)
        assert torch.isfinite(found).all() and model._shares is None
        torch.testing.assert_close(found[0], model(input_ids=ids).logits, rtol=1e-5, atol=1e-6)


def test_a_hook_may_hold_what_a_convolution_gave(model):
    model.convolutions[1].register_full_backward_hook(lambda module, gave, received: None)
    mask = torch.arange(11) < torch.tensor([[11], [3], [5]])
    model(input_ids=random_ids(3, 11), attention_mask=mask).logits.sum().backward()
    assert torch.isfinite(model.convolutions[1].weight.grad).all()


@pytest.mark.parametrize("token", [-1, VOCAB_SIZE])
def test_a_token_outside_the_vocabulary_is_an_error_with_and_without_gradient(model, token):
    ids = random_ids(9, 11)
    ids[4, 5] = token
    for with_gradient in (True, False):
        with torch.set_grad_enabled(with_gradient), pytest.raises(IndexError, match="out of range"):
            model(input_ids=ids)


def test_embeddings_can_replace_ids(model):
    ids = torch.tensor([[5, 7, 3], [2, 2, 4]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embeds, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)


def test_loss_is_cross_entropy_and_leaves_the_config_alone(model):
    ids, labels = torch.tensor([[5, 7, 3], [2, 2, 4], [1, 1, 1]]), torch.tensor([1, 0, -100])
    log_probs = model(ids).logits.log_softmax(-1)
    total = -(log_probs[0, 1] + log_probs[1, 0])
    torch.testing.assert_close(model(ids, labels=labels).loss, total / 2)
    torch.testing.assert_close(model(ids, labels=labels, num_items_in_batch=torch.tensor(8)).loss, total / 8)
    assert model.config.problem_type is None


def test_gradient_reaches_every_parameter():
    # Many filters: with few, ReLU may by chance close the one on the way to a bias.
    model = build(num_filters=(20, 20, 20, 20), num_highway_layers=2)
    model(torch.tensor([[5, 7, 3], [2, 2, 4]]), labels=torch.tensor([1, 0])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_padding_gets_no_gradient(model):
    ids = torch.tensor([[5, 7, 9, 9]])
    model(ids, attention_mask=torch.tensor([[1, 1, 0, 0]]), labels=torch.tensor([1])).loss.backward()
    assert model.embeddings.weight.grad[5].any()
    assert not model.embeddings.weight.grad[9].any()


def test_dropout_acts_in_training_only(model):
    ids = torch.tensor([[5, 7, 3]])
    torch.manual_seed(0)
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)


def test_dropout_of_the_embeddings_acts_in_training_only():
    model, ids = build(embedding_dropout=0.5, dropout=0.0), torch.tensor([[5, 7, 3]])
    torch.testing.assert_close(model(ids).logits, build(dropout=0.0)(ids).logits)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)


def test_the_default_has_the_weights_of_saved_models_and_no_more(model):
    expected = ["embeddings.weight"]
    layers = [*(f"convolutions.{index}" for index in range(4)), "highway.0.transform", "highway.0.gate", "classifier"]
    expected += [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert list(model.state_dict()) == expected


def trained(model, steps=20):
    """Take so large steps that no weight stays near where it began."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ids = torch.randint(VOCAB_SIZE, (8, 9), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(ids, labels=torch.arange(8) % 2).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("normalization", "furthest_from_one"), [("spectral", 1e-3), ("none", None)])
def test_spectral_normalization_holds_every_layer_at_singular_value_one(normalization, furthest_from_one):
    model, ids = trained(build(normalization=normalization)), torch.tensor([[5, 7, 3]])
    model.train()
    for _ in range(200):  # each forward pass takes one step of power iteration
        model(ids)
    layers = [module for module in model.eval().modules() if isinstance(module, (torch.nn.Conv1d, torch.nn.Linear))]
    largest = torch.stack([torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2) for layer in layers])
    assert len(layers) == 4 + 2 + 1
    distance = (largest - 1).abs().max()
    assert distance > 0.5 if furthest_from_one is None else distance < furthest_from_one


def test_layer_normalization_takes_size_and_level_from_the_features_of_a_text(model):
    normalised, ids = build(normalization="layer"), torch.tensor([[5, 7, 3], [2, 2, 4]])
    seen = []
    normalised.highway.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        logits = normalised(ids).logits
        for convolution in normalised.convolutions:
            convolution.weight.mul_(100)
            convolution.bias.mul_(100)
        torch.testing.assert_close(normalised(ids).logits, logits, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(seen[0].mean(dim=1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[1].var(dim=1, correction=0), torch.ones(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Pass exactly one of `input_ids` and `inputs_embeds`."),
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 4)},
            "`attention_mask` must have shape (2, 3) to match the input, got (2, 4).",
        ),
    ],
)
def test_forward_rejects_what_does_not_fit(model, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(**arguments)


def test_labels_need_two_classes():
    message = "`labels` need a model with `num_labels` of at least 2, got 1: its cross-entropy is 0."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(num_labels=1)(torch.tensor([[1, 2]]), labels=torch.tensor([0]))


def test_saved_model_loads_with_equal_outputs_and_config(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is TextCNNForSequenceClassification
    assert loaded.config.filter_sizes == (1, 2, 3, 7)
    assert loaded.config.id2label == {0: "generated", 1: "real"}
    ids = torch.tensor([[5, 7, 3], [2, 2, 4]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("normalization", ["layer", "spectral"])
def test_a_saved_normalised_model_loads_with_equal_outputs(normalization, tmp_path):
    model, ids = trained(build(normalization=normalization)), torch.tensor([[5, 7, 3], [2, 2, 4]])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.normalization == normalization
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_a_layer_normalization_missing_from_a_checkpoint_begins_as_configured(
    model, tmp_path, nan_where_nothing_is_drawn
):
    model.save_pretrained(tmp_path)
    loaded = TextCNNForSequenceClassification.from_pretrained(tmp_path, normalization="layer")
    assert loaded.norm.weight.tolist() == [1.0] * 14 and loaded.norm.bias.tolist() == [0.0] * 14


def test_weights_missing_from_a_checkpoint_are_drawn_as_configured(model, tmp_path):
    """The highway layer that the checkpoint has must survive; the one that it lacks must get its gate bias."""
    with torch.no_grad():
        model.highway[0].gate.bias.fill_(0.5)
    model.save_pretrained(tmp_path)
    config = TextCNNConfig.from_pretrained(tmp_path, num_highway_layers=2)
    loaded = TextCNNForSequenceClassification.from_pretrained(tmp_path, config=config)
    assert torch.equal(loaded.highway[0].gate.bias, torch.full((14,), 0.5))
    assert torch.equal(loaded.highway[0].transform.weight, model.highway[0].transform.weight)
    assert torch.equal(loaded.highway[1].gate.bias, torch.full((14,), -2.0))


def test_saved_model_loads_where_this_package_is_missing(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    ids, mask = [[5, 7, 3], [2, 2, 4]], [[1, 1, 1], [1, 1, 0]]
    expected = model(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    script = f"""
        import sys
        sys.modules["seqgan_hf"] = None  # importing it now raises
        import torch
        from transformers import AutoModelForSequenceClassification
        model = AutoModelForSequenceClassification.from_pretrained(
            {str(tmp_path / "model")!r}, trust_remote_code=True
        )
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        assert model.config.id2label == {{0: "generated", 1: "real"}}
        logits = model(torch.tensor({ids}), attention_mask=torch.tensor({mask})).logits
        torch.testing.assert_close(logits, torch.tensor({expected.tolist()}))
        model.save_pretrained({str(tmp_path / "again")!r})
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "again" / "cnn.py").read_text() == Path(cnn_module.__file__).read_text()
