import math
import re

import pytest
import torch
from conftest import BOS, PAD, VOCAB_SIZE
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from seqgan_hf import LikelihoodRatioConfig, LikelihoodRatioForSequenceClassification
from seqgan_hf.models import ratio as ratio_module

TEXTS = [[5, 9, 3, 14, 2], [7, 2], [4, 4, 11, 2]]
LENGTHS = [len(text) for text in TEXTS]
IDS = torch.tensor([text + [PAD] * (5 - len(text)) for text in TEXTS])
MASK = torch.tensor([[1] * length + [0] * (5 - length) for length in LENGTHS])
LOGPS = -3 * torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) * MASK
STATES = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))
BATCH = {"input_ids": IDS, "attention_mask": MASK, "generator_logps": LOGPS, "generator_states": STATES}
READERS = [("lstm",), ("gpt2", "llama", "lstm")]


@pytest.fixture
def build(tiny_model):
    """Return a function that makes a discriminator which reads with tiny models."""

    def make(*names, **settings):
        models = [tiny_model(name) for name in names or ("lstm",)]
        settings = {"start_token_id": BOS, "pad_token_id": PAD} | settings
        return LikelihoodRatioForSequenceClassification.from_language_models(models, **settings).eval()

    return make


def learned(model):
    """Give every weight that is trained a value that it could have learned, so that all parts of a logit show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


def read(model, **changed):
    """Let a model read the batch, and of the generator what it asks for."""
    inputs = BATCH | changed
    if "generator_states" not in model.config.reads_generator:
        del inputs["generator_states"]
    return model(**inputs)


def logit(output):
    return output.logits[:, 1] - output.logits[:, 0]


def by_hand(models, text, place):
    """Log of the mean probability that models give one token of a text, read without padding and without masks."""
    read = torch.tensor([[BOS, *text[:place]]])
    with torch.no_grad():
        chances = [model(read).logits[0, -1].double().softmax(-1)[text[place]].item() for model in models]
    return math.log(sum(chances) / len(chances))


@pytest.mark.parametrize("names", READERS, ids=len)
def test_it_begins_as_the_log_likelihood_ratio(names, build, tiny_model):
    models = [tiny_model(name) for name in names]
    expected = [
        sum(by_hand(models, text, place) - LOGPS[row, place].item() for place in range(len(text)))
        for row, text in enumerate(TEXTS)
    ]
    assert logit(read(build(*names))).tolist() == pytest.approx(expected, rel=1e-5)


def test_learned_weights_and_bias_by_hand(build, tiny_model):
    model = build()
    with torch.no_grad():
        model.correction.copy_(torch.tensor([0.5, -0.25]))
        model.bias.fill_(0.3)
    likelihood = by_hand([tiny_model("lstm")], TEXTS[1], 0) + by_hand([tiny_model("lstm")], TEXTS[1], 1)
    expected = 0.3 + 1.5 * likelihood - 0.75 * LOGPS[1].sum().item()
    assert logit(read(model))[1].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("names", READERS, ids=len)
def test_every_prefix_has_the_logit_of_the_text_cut_there(names, build):
    model = learned(build(*names, hidden_size=4, generator_hidden_size=6))
    output = read(model)
    assert output.prefix_logits.shape == (3, 6)
    torch.testing.assert_close(output.prefix_logits[:, 0], model.bias.expand(3))
    for row, length in enumerate(LENGTHS):
        for count in range(1, length + 1):
            cut = {name: tensor[row : row + 1, :count] for name, tensor in BATCH.items()}
            torch.testing.assert_close(output.prefix_logits[row, count], logit(model(**cut))[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logit(output), output.prefix_logits[range(3), LENGTHS])


@pytest.mark.parametrize("filler", [PAD, 12])
def test_padding_changes_nothing(filler, build):
    model = learned(build("gpt2", "lstm", hidden_size=4, generator_hidden_size=6))
    ids = F.pad(IDS, (0, 3)).masked_fill(F.pad(MASK, (0, 3)) == 0, filler)
    padded = model(
        input_ids=ids,
        attention_mask=F.pad(MASK, (0, 3)),
        generator_logps=F.pad(LOGPS, (0, 3), value=-7.0),
        generator_states=F.pad(STATES, (0, 0, 0, 3), value=7.0),
    )
    expected = read(model).prefix_logits
    torch.testing.assert_close(padded.prefix_logits[:, :6], expected)
    torch.testing.assert_close(logit(padded), expected[:, -1])


def test_a_missing_mask_comes_from_the_pad_token(build):
    without_mask = {"input_ids": IDS, "generator_logps": LOGPS}
    assert torch.equal(build()(**without_mask).logits, read(build()).logits)
    full = build()(**without_mask, attention_mask=torch.ones_like(IDS)).logits
    assert torch.equal(build(pad_token_id=None)(**without_mask).logits, full)
    assert not torch.allclose(full, read(build()).logits)


def test_tokens_that_the_generator_did_not_write_are_read_and_not_judged(build, tiny_model):
    wrote = torch.tensor([[1, 0, 0, 1, 1], [1, 0, 0, 0, 0], [1, 0, 1, 1, 0]])
    output = read(build(), generator_mask=wrote)
    for row, text in enumerate(TEXTS):
        expected = [0.0]
        for place in range(len(text)):
            step = by_hand([tiny_model("lstm")], text, place) - LOGPS[row, place].item()
            expected.append(expected[-1] + wrote[row, place].item() * step)
        assert output.prefix_logits[row, : len(text) + 1].tolist() == pytest.approx(expected, rel=1e-5)
    assert not read(build(), generator_mask=torch.zeros_like(wrote)).prefix_logits.any()


def test_language_models_learn_nothing_and_keep_their_dropout_off(build):
    model = build("lstm", "gpt2", hidden_size=4, generator_hidden_size=6, dropout=0.5)
    model.train()
    assert model.dropout.training and not any(module.training for module in model.language_models.modules())
    read(learned(model), labels=torch.tensor([1, 0, 1])).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("language_models."), name
        assert parameter.requires_grad != name.startswith("language_models."), name


def test_the_loss_is_the_cross_entropy_of_the_log_odds(build):
    model, labels = build(), torch.tensor([1, 0, 1])
    output = read(model, labels=labels)
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(logit(output), labels.float()))


def test_what_it_adds_of_its_own_begins_as_nothing(build):
    model = build(hidden_size=4, generator_hidden_size=6)
    assert model.config.reads_generator == ("generator_logps", "generator_states")
    assert torch.equal(read(model).prefix_logits, read(build()).prefix_logits)
    assert read(model.train()).logits.requires_grad


@pytest.mark.parametrize("generator_hidden_size", [0, 6], ids=["tokens", "states"])
def test_what_the_ratio_cannot_tell_is_learned(generator_hidden_size, build):
    """Where states are read, the texts are equal; where they are not, the tokens are not."""
    model = build(hidden_size=8, generator_hidden_size=generator_hidden_size).train()
    ids = torch.tensor([[5, 6]] * 2 if generator_hidden_size else [[5, 6], [6, 5]])
    with torch.no_grad():
        logps = model._likelihood(ids, torch.ones_like(ids))  # the generator's are the same: every ratio is 1
    inputs = {"input_ids": ids, "generator_logps": logps, "labels": torch.tensor([0, 1])}
    if generator_hidden_size:
        inputs["generator_states"] = torch.eye(2).repeat_interleave(3, 1).unsqueeze(1).expand(2, 2, 6)
    assert model(**inputs).loss.item() == pytest.approx(math.log(2))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    assert model(**inputs).loss < 0.1


def test_its_language_models_are_copies(build, tiny_model):
    originals = [tiny_model("lstm"), tiny_model("llama")]
    model = LikelihoodRatioForSequenceClassification.from_language_models(originals, start_token_id=BOS)
    before = read(model).logits
    with torch.no_grad():
        for parameter in [p for original in originals for p in original.parameters()]:
            assert parameter.requires_grad
            parameter.zero_()
    assert torch.equal(read(model).logits, before)


def test_many_texts_are_read_block_by_block(build, monkeypatch):
    model, counts = build("lstm", "gpt2"), []
    expected = read(model).prefix_logits
    monkeypatch.setattr(ratio_module, "_LOGITS_AT_ONCE", 2 * 5 * VOCAB_SIZE)
    model.language_models[1].register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    torch.testing.assert_close(read(model).prefix_logits, expected)
    assert counts == [2, 1]


def test_what_its_language_models_say_may_be_given(build):
    model = build()
    with torch.no_grad():
        said = model._likelihood(IDS, MASK)
    expected = read(model).prefix_logits
    for parameter in model.language_models.parameters():
        parameter.data.zero_()  # they are not asked again
    torch.testing.assert_close(read(model, language_logps=said).prefix_logits, expected)
    assert not torch.allclose(read(model).prefix_logits, expected)


@pytest.mark.parametrize("names", [("lstm",), ("llama", "lstm"), ("gpt2",)], ids="-".join)
def test_saved_model_loads_with_equal_outputs_and_config(names, build, tmp_path):
    model = learned(build(*names, hidden_size=4, generator_hidden_size=6))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is LikelihoodRatioForSequenceClassification
    assert loaded.config.id2label == {0: "generated", 1: "real"} and loaded.config.start_token_id == BOS
    torch.testing.assert_close(read(loaded).prefix_logits, read(model).prefix_logits)


def test_language_models_stay_frozen_where_they_are_loaded(build, tmp_path):
    build(hidden_size=4).save_pretrained(tmp_path)
    loaded = LikelihoodRatioForSequenceClassification.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in loaded.language_models.parameters())
    assert loaded.correction.requires_grad and loaded.lstm.weight_ih_l0.requires_grad


def test_weights_missing_from_a_checkpoint_are_drawn_as_configured(build, tmp_path, nan_where_nothing_is_drawn):
    build().save_pretrained(tmp_path)
    loaded = LikelihoodRatioForSequenceClassification.from_pretrained(tmp_path, hidden_size=4).eval()
    for name, parameter in loaded.named_parameters():
        assert parameter.isfinite().all(), name
    torch.testing.assert_close(read(loaded).logits, read(build()).logits)


def test_what_it_reads_of_the_generator_must_be_given(build):
    message = (
        "This discriminator reads the generator beside the text: `generator_logps` is missing. "
        "`seqgan_hf.discriminator.Discriminator` passes it."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()(IDS, MASK)
    with pytest.raises(ValueError, match="`generator_states` is missing"):
        build(hidden_size=4, generator_hidden_size=6)(IDS, MASK, LOGPS)
    message = (
        "`generator_states` must have width `generator_hidden_size`, 5; this generator's are 6 wide. Set it to that."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(build(hidden_size=4, generator_hidden_size=5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_size": -1}, "`hidden_size` must be at least 0, got -1."),
        ({"embedding_size": 0}, "`embedding_size` must be at least 1, got 0."),
        ({"generator_hidden_size": -1}, "`generator_hidden_size` must be at least 0, got -1."),
        (
            {"generator_hidden_size": 6},
            "`generator_hidden_size` is read by the LSTM of `hidden_size`, which is 0, so there is none: set both or "
            "neither.",
        ),
        ({"dropout": 1.0}, "`dropout` must lie in [0, 1), got 1.0."),
    ],
)
def test_config_rejects_bad_values(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LikelihoodRatioConfig(**arguments)


def test_without_a_language_model_there_is_nothing_to_read_with():
    message = "`language_models` must hold at least one configuration; see `from_language_models`."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LikelihoodRatioForSequenceClassification(LikelihoodRatioConfig())
