import copy
import logging
import re

import pytest
import torch
from conftest import BOS, DISCRIMINATORS, EOS, PAD, SENTENCES, VOCAB_SIZE
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GenerationMixin,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from seqgan_hf import LikelihoodRatioForSequenceClassification, TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.completions import Completions
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.discriminator import Discriminator, area_under_curve, discriminator_loss
from seqgan_hf.generation import generate_completions, sampling_config
from seqgan_hf.loading import load_discriminator
from seqgan_hf.losses import generator_view, reader_of
from seqgan_hf.models.ratio import PrefixClassifierOutput
from seqgan_hf.rollout import score_rollouts
from seqgan_hf.tokenization import train_tokenizer


def discriminator(model, **kwargs):
    defaults = {
        "generator_processing_class": None,
        "processing_class": None,
        "reads_prompt": False,
        "pad_token_id": PAD,
        "generator_vocab_size": VOCAB_SIZE,
    }
    return Discriminator(model, **{**defaults, **kwargs})


def texts(*completions, prompt=(1,)):
    rows = [{"prompt_ids": list(prompt), "completion_ids": list(ids)} for ids in completions]
    return Completions.collate(rows, PAD)


REAL = texts([4, 5, EOS], [4, 6, 7, EOS], [4, EOS], [4, 5, 5, 5])
GENERATED = texts([9, 5, EOS], [9, 6, 7, EOS], [9, EOS], [9, 5, 5, 5])


class Copyist(PreTrainedModel, GenerationMixin):
    """
    Writes real texts, token for token: chance decides the first token (or the prompt does), memory the rest.

    Its cache holds the ids it has read.
    """

    config_class = GPT2Config

    def __init__(self, config, memory):
        super().__init__(config)
        self.embeddings = torch.nn.Embedding(config.vocab_size, 1)
        self.memory = [tuple(text) for text in memory]
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, **kwargs):
        seen = input_ids[:, None, :, None].float()
        ids = past_key_values.update(seen, seen, 0)[0][:, 0, :, 0].long()
        logits = torch.full((len(ids), 1, self.config.vocab_size), -torch.inf)
        for row, text in enumerate(ids.tolist()):
            text = tuple(text[text.index(self.config.bos_token_id) :])
            longer = [known for known in self.memory if known[: len(text)] == text and len(known) > len(text)]
            logits[row, 0, [known[len(text)] for known in longer] or [self.config.eos_token_id]] = 0.0
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


class SumOfIds(PreTrainedModel):
    """Takes for the log-odds of every prefix the sum of its token ids, so that each can be checked by hand."""

    config_class = GPT2Config

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = torch.nn.Embedding.from_pretrained(
            torch.arange(float(config.vocab_size)).unsqueeze(1), False
        )
        self.dropout = torch.nn.Dropout(0.5)

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask):
        values = self.dropout(self.embeddings(input_ids).squeeze(-1)) * attention_mask
        sums = torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))
        logits = torch.stack([torch.zeros(len(sums)), sums[:, -1]], dim=1)
        return PrefixClassifierOutput(logits=logits, prefix_logits=sums)


def rows_read(judge, batch):
    """What D reads of each text, without padding."""
    encoded = judge.encode(batch)
    return [
        tuple(ids[mask.bool()].tolist())
        for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize("form", ["text", "prompt"])
@pytest.mark.parametrize("tokenizers", ["same", "own"])
@pytest.mark.parametrize("ends", [True, False], ids=["eos", "no_eos"])
def test_a_generator_that_copies_real_texts_is_beyond_any_discriminator(form, tokenizers, ends, tokenizer):
    """
    Through the real path: `generate_completions` and `score_rollouts`. Any difference in BOS, EOS, cuts or prompts would
    give a text that was never among the real ones, and a cheating discriminator its tell.
    """
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    text_format = TextFormat(bos, eos if ends else None, pad, 14)
    column = {"text": SENTENCES}
    if form == "prompt":
        column = {"prompt": [f"<s>{s.split()[0]}" for s in SENTENCES], "completion": SENTENCES}
    rows = list(prepare_dataset(Dataset.from_dict(column), tokenizer, text_format))
    if not ends:
        rows = [row for row in rows if len(row["completion_ids"]) == 14]
    real = Completions.collate(rows, pad)
    ended = (real.completion_ids == eos).any(dim=1)
    assert ends == bool(ended.any()) and not ended.all()  # texts that end, and texts that are cut
    judge = discriminator(
        TextCNNForSequenceClassification(TextCNNConfig(vocab_size=300, filter_sizes=(1,), num_filters=(2,))),
        generator_processing_class=tokenizer,
        processing_class=None if tokenizers == "same" else train_tokenizer(SENTENCES[:3], 265),
        reads_prompt=form == "prompt",
        pad_token_id=pad,
        generator_vocab_size=len(tokenizer),
    )
    known = set(rows_read(judge, real))
    copyist = Copyist(
        GPT2Config(vocab_size=len(tokenizer), n_layer=1, bos_token_id=bos, eos_token_id=eos),
        [row["prompt_ids"] + row["completion_ids"] for row in rows],
    )
    config = sampling_config(text_format)
    generated = generate_completions(copyist, real.prompt_ids, real.prompt_mask, config, num_generations=4)
    assert set(rows_read(judge, generated)) <= known and len(set(rows_read(judge, generated))) > 2

    def score(batch):
        assert set(rows_read(judge, batch)) <= known
        return torch.zeros(len(batch))

    score_rollouts(copyist, generated, score, config, num_rollouts=2, stride=3, batch_size=16, from_prompt=True)


def test_a_cheating_discriminator_is_at_chance_against_the_copyist():
    """Were BOS or padding on one side only, a few epochs would tell them apart."""
    texts_of_two = [[4 + i, 5, EOS] if i % 2 else [4 + i, 6, 7, EOS] for i in range(8)]
    real = texts(*texts_of_two * 40)
    config = GPT2Config(vocab_size=VOCAB_SIZE, n_layer=1, bos_token_id=1, eos_token_id=EOS)
    copyist = Copyist(config, [[1, *ids] for ids in texts_of_two])
    settings = sampling_config(TextFormat(1, EOS, PAD, 9))
    generated = generate_completions(copyist, real.prompt_ids, real.prompt_mask, settings)
    judge = discriminator(DISCRIMINATORS["cnn"](), learning_rate=1e-2, batch_size=32)
    judge.update(real, generated, epochs=3, seed=1)
    assert abs(judge.evaluate(real, generated)["auc"] - 0.5) < 0.1


def test_the_last_eos_is_read_even_where_it_is_also_the_padding():
    """GPT-2: BOS, EOS and padding are one id, and its classifier looks for the last token that is no padding."""
    model = DISCRIMINATORS["gpt2_classifier"]()
    judge = discriminator(model, pad_token_id=EOS, pad_is_a_token=True)
    with_eos, without = texts([5, 6, EOS]), texts([5, 6])
    assert model.config.pad_token_id == VOCAB_SIZE
    assert judge.score(with_eos) != judge.score(without)
    shared = judge.score(texts([5, 6, EOS], [5, 6, 7, 8, 9]))[0]
    torch.testing.assert_close(judge.score(with_eos)[0], shared)


@pytest.mark.parametrize("pads_with_eos", [True, False])
def test_a_classifier_that_came_with_eos_as_padding_reads_eos(pads_with_eos, caplog):
    """As if it had none: else a text that ends and one that was cut there are the same to it."""
    model = GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=VOCAB_SIZE, n_embd=16, n_layer=1, n_head=2, pad_token_id=EOS, eos_token_id=EOS, bos_token_id=EOS
        )
    )
    model.train()
    pad = EOS if pads_with_eos else PAD
    logging.getLogger("transformers").propagate = True
    judge = discriminator(model, pad_token_id=pad, pad_is_a_token=pads_with_eos)
    assert model.training and judge.pads_anew and "The discriminator pads with token" not in caplog.text
    assert model.config.pad_token_id == (VOCAB_SIZE if pads_with_eos else PAD)
    with_eos = judge.score(texts([5, 6, EOS]))
    assert with_eos != judge.score(texts([5, 6]))
    torch.testing.assert_close(judge.score(texts([5, 6, EOS], [5, 6, 7, 8, 9]))[:1], with_eos)


def test_a_classifier_that_is_told_the_end_by_the_mask_keeps_its_padding_token(tiny_model, caplog):
    model = tiny_model("bert")
    model.config.pad_token_id = EOS
    logging.getLogger("transformers").propagate = True
    judge = discriminator(model, pad_token_id=EOS, pad_is_a_token=True)
    assert not judge.pads_anew and model.get_input_embeddings().num_embeddings == VOCAB_SIZE and not caplog.text
    discriminator(model)
    assert "The discriminator pads with token 2, which the generator may write as a word" in caplog.text


@pytest.mark.parametrize("adapted", [["c_attn"], ["c_attn", "wte"]], ids=["", "embedding"])
def test_an_adapter_of_a_model_without_padding_token_loads_again(adapted, tiny_model, tmp_path):
    """GPT-2 has none. A row for one, in the model below, was saved with the adapter, and nothing could load that."""
    peft = pytest.importorskip("peft")
    tiny_model("gpt2_classifier").save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=adapted, init_lora_weights=False, fan_in_fan_out=True
    )
    judge = discriminator(load_discriminator(str(tmp_path / "base"), lora), pad_token_id=EOS, pad_is_a_token=True)
    judge.update(REAL, GENERATED, epochs=1, seed=1)
    alone, beside_a_longer_one = texts([5, 6, EOS]), texts([5, 6, EOS], [5, 6, 7, 8, 9])
    score = judge.score(alone)
    torch.testing.assert_close(judge.score(beside_a_longer_one)[:1], score)
    assert score != judge.score(texts([5, 6]))
    judge.save(tmp_path / "adapter")
    again = discriminator(load_discriminator(str(tmp_path / "adapter")), pad_token_id=EOS, pad_is_a_token=True)
    torch.testing.assert_close(again.score(beside_a_longer_one), judge.score(beside_a_longer_one))
    plain = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=2).eval()
    logits = plain(**again.encode(alone)).logits
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], score)


def test_a_tokenizer_without_padding_is_completed_on_a_copy(tokenizer):
    own = train_tokenizer(SENTENCES[:3], 265)
    own.pad_token = None
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(own), n_embd=8, n_layer=1, n_head=1))
    judge = discriminator(
        model, generator_processing_class=tokenizer, processing_class=own, generator_vocab_size=len(tokenizer)
    )
    assert own.pad_token is None and model.config.pad_token_id == own.eos_token_id
    ids = [tokenizer(text)["input_ids"] for text in SENTENCES[:3]]
    alone = torch.cat([judge.score(texts(row)) for row in ids])
    torch.testing.assert_close(judge.score(texts(*ids)), alone)
    assert judge.score(texts([tokenizer.bos_token_id])).isfinite().all()  # decodes to nothing


def test_a_long_prompt_is_cut_before_the_completion_is(tokenizer):
    own = train_tokenizer(SENTENCES[:3], 265)
    own.model_max_length = 10
    judge = discriminator(
        TextCNNForSequenceClassification(TextCNNConfig(vocab_size=300, filter_sizes=(1,), num_filters=(2,))),
        generator_processing_class=tokenizer, processing_class=own, reads_prompt=True, generator_vocab_size=280,
    )  # fmt: skip
    prompt = tokenizer(SENTENCES[0])["input_ids"]
    first, second = (texts(tokenizer(word)["input_ids"], prompt=prompt) for word in ("work", "us"))
    assert not torch.equal(judge.encode(first)["input_ids"], judge.encode(second)["input_ids"])


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_it_learns_to_tell_texts_apart_and_scores_without_dropout(name, tiny_model):
    judge = discriminator(tiny_model(name), learning_rate=1e-2, batch_size=4)
    metrics = judge.update(REAL, GENERATED, epochs=40, seed=1)
    assert metrics["loss"] < 0.6
    assert judge.evaluate(REAL, GENERATED) == {
        "accuracy_real": 1, "accuracy_generated": 1, "accuracy": 1, "auc": 1,
    }  # fmt: skip
    with torch.no_grad():
        probability = judge.model(**judge.encode(REAL)).logits.softmax(dim=-1)
    assert judge.model.config.id2label[1] == "real" and probability[:, 1].min() > 0.5
    judge.model.train()
    assert torch.equal(judge.score(REAL), judge.score(REAL))
    assert judge.model.training


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_scores_do_not_depend_on_what_shares_the_batch(name, tiny_model):
    judge = discriminator(tiny_model(name))
    together = judge.score(REAL)
    apart = torch.cat([judge.score(REAL.select(slice(i, i + 1))) for i in range(len(REAL))])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_training_moves_no_global_random_state(tiny_model):
    judge = discriminator(tiny_model("bert"))
    before = torch.get_rng_state()
    judge.update(REAL, GENERATED, epochs=2, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_not_two_labels_is_refused():
    model = BertForSequenceClassification(
        BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    )
    message = "The discriminator must have two labels, generated and real; got 3. Load it with `num_labels=2`."
    with pytest.raises(ValueError, match=re.escape(message)):
        discriminator(model)


def test_a_smaller_vocabulary_is_refused(tiny_model):
    message = f"it knows {VOCAB_SIZE} tokens and the generator writes 500. Pass the discriminator's own tokenizer"
    with pytest.raises(ValueError, match=re.escape(message)):
        discriminator(tiny_model("cnn"), generator_vocab_size=500)


def of_its_family(model, tokenizer, num_rows):
    """A discriminator with the generator's tokenizer, of 280 tokens, beside a generator with an embedding of 300 rows."""
    model.resize_token_embeddings(num_rows, mean_resizing=False)
    return {
        "model": model,
        "generator_processing_class": tokenizer,
        "processing_class": copy.deepcopy(tokenizer),
        "generator_vocab_size": 300,
    }


@pytest.mark.parametrize("passed", [True, False], ids=["tokenizer", "none"])
def test_a_smaller_model_of_one_family_reads_all_that_the_generator_can_write(passed, tokenizer, tiny_model, tmp_path):
    """Qwen2.5 has embeddings of 151,936 rows (0.5B) and of 152,064 (7B), and one tokenizer."""
    family = of_its_family(tiny_model("bert"), tokenizer, len(tokenizer))
    judge = discriminator(**family | ({} if passed else {"processing_class": None}))
    assert judge.processing_class is None and judge.model.config.vocab_size == 300
    some = texts([270, 299, EOS], [270, EOS])
    expected = judge.score(some)
    judge.save(tmp_path)
    again = discriminator(**family | {"model": load_discriminator(str(tmp_path))})
    torch.testing.assert_close(again.score(some), expected)


def test_an_adapter_of_a_smaller_model_refuses_what_stands_for_no_text(tokenizer, tiny_model):
    peft = pytest.importorskip("peft")
    family = of_its_family(tiny_model("gpt2_classifier"), tokenizer, 290)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    judge = discriminator(
        **family | {"model": load_discriminator(family["model"], lora)}, pad_token_id=EOS, pad_is_a_token=True
    )
    assert judge.score(texts([270, 289, EOS], [270, EOS])).isfinite().all()
    message = (
        "A text has token 290, which stands for nothing in the generator's tokenizer, and the discriminator's embedding "
        "has 290 rows. Pass a discriminator with as many rows as the generator, or train it whole and not as an adapter, "
        "so that it gets them."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        judge.score(texts([270, 290, EOS], [270, EOS]))


def test_a_tokenizer_with_more_tokens_than_its_model_is_refused(tokenizer, tiny_model):
    message = (
        "The discriminator has the generator's tokenizer, of 280 tokens, and an embedding of 270 rows. Call "
        "`discriminator.resize_token_embeddings(280)`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        discriminator(**of_its_family(tiny_model("bert"), tokenizer, 270))


def test_texts_that_cannot_be_decoded_are_refused(tiny_model, tokenizer):
    message = "The discriminator has a tokenizer of its own, so the generator's texts must be decoded for it"
    with pytest.raises(ValueError, match=re.escape(message)):
        discriminator(tiny_model("cnn"), processing_class=tokenizer)


def test_a_loss_that_is_not_finite_stops_before_the_update(tiny_model):
    judge = discriminator(tiny_model("cnn"))
    with torch.no_grad():
        next(judge.model.parameters())[4].fill_(float("nan"))
    before = {name: value.clone() for name, value in judge.model.state_dict().items()}
    with pytest.raises(
        FloatingPointError,
        match=r"The discriminator's loss is nan, the norm of its gradient nan\. Its weights are as before",
    ):
        judge.update(REAL, GENERATED, epochs=1, seed=1)
    for name, value in judge.model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_area_under_curve_counts_ties_as_half():
    assert area_under_curve(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])) == (1 + 0.5 + 1 + 1) / 4
    assert area_under_curve(torch.tensor([0.0]), torch.tensor([1.0])) == 0


def test_labels_are_named(tiny_model):
    judge = discriminator(tiny_model("bert"))
    assert judge.model.config.id2label == {0: "generated", 1: "real"}


@pytest.mark.parametrize(
    "labels",
    [("LABEL_0", "LABEL_1"), ("generated", "real"), ("Fake", "Real"), ("ChatGPT", "Human"), ("AI-generated", "human")],
)
def test_labels_of_a_new_head_and_of_a_detector_that_has_them_as_the_game_pass_in_silence(labels, tiny_model, caplog):
    model = tiny_model("bert")
    model.config.id2label = dict(enumerate(labels))
    logging.getLogger("transformers").propagate = True
    assert discriminator(model).model.config.id2label == {0: "generated", 1: "real"}
    assert not caplog.text


@pytest.mark.parametrize("labels", [("Human", "ChatGPT"), ("REAL", "FAKE"), ("human-written", "not human")])
def test_a_detector_whose_labels_stand_the_other_way_round_is_refused(labels, tiny_model):
    """Its verdicts were taken the wrong way round without a word: the generator was rewarded for looking generated."""
    model = tiny_model("bert")
    model.config.id2label = dict(enumerate(labels))
    message = (
        f"The discriminator must have the labels generated (0) and real (1); got {labels[0]!r} (0) and {labels[1]!r} "
        "(1), which would reward the generator for the opposite. Swap the two rows of its head, or, if the names are "
        "wrong, set `discriminator.config.id2label` to {0: 'generated', 1: 'real'}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        discriminator(model)


def test_labels_of_another_kind_are_warned_of(tiny_model, caplog):
    model = tiny_model("bert")
    model.config.id2label = {0: "not real", 1: "POSITIVE"}
    logging.getLogger("transformers").propagate = True
    discriminator(model)
    assert "The discriminator has the labels 'not real' (0) and 'POSITIVE' (1). They are taken for generated" in (
        caplog.text
    )


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_scores_depend_neither_on_repeats_nor_on_order_nor_on_batches(name, tiny_model):
    several = texts([4, 5, EOS], [9, 6, 7, 8, EOS], [4, 5, EOS], [9, EOS], [4, 5, EOS], [7, 6, EOS])
    judge = discriminator(tiny_model(name), score_batch_size=2)
    one_by_one = torch.cat([judge.score(several.select(slice(row, row + 1))) for row in range(len(several))])
    torch.testing.assert_close(judge.score(several), one_by_one, rtol=1e-4, atol=1e-5)


def test_equal_texts_are_read_once_and_texts_of_like_length_together(tiny_model):
    judge = discriminator(tiny_model("cnn"), score_batch_size=2)
    read = []
    judge.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"]), with_kwargs=True
    )
    judge.score(texts([4, 5, 6, 7, EOS], [9, EOS], [4, 5, 6, 7, EOS], [8, EOS], [9, EOS], [4, 6, 6, 7, EOS]))
    assert [tuple(ids.shape) for ids in read] == [(2, 2), (2, 5)]


def test_texts_with_other_prompts_are_other_texts_only_where_prompts_are_read(tiny_model):
    rows = [{"prompt_ids": [1, first], "completion_ids": [4, 5, EOS]} for first in (6, 7, 6)]
    several = Completions.collate(rows, PAD)
    assert len(several.distinct(True, PAD)[0]) == 2 and len(several.distinct(False, PAD)[0]) == 1
    scores = discriminator(tiny_model("cnn"), reads_prompt=True).score(several)
    assert scores[0] == scores[2] != scores[1]


def test_scores_may_be_learned_from(tiny_model):
    """Tensors of inference mode cannot be saved for a gradient."""
    scores = discriminator(tiny_model("cnn")).score(REAL)
    weight = torch.ones((), requires_grad=True)
    (weight * scores).sum().backward()
    assert weight.grad.item() == pytest.approx(scores.sum().item())


def test_the_losses_by_hand():
    scores, is_real = torch.tensor([2.0, 0.5, -1.0, 1.5]), torch.tensor([True, False, True, False])
    cross_entropy = -(torch.tensor([2.0, -0.5, -1.0, -1.5]).sigmoid().log().mean())
    torch.testing.assert_close(discriminator_loss(scores, is_real, "cross_entropy"), cross_entropy)
    pairwise = -(torch.tensor([2.0 - 0.5, -1.0 - 1.5]).sigmoid().log().mean())
    torch.testing.assert_close(discriminator_loss(scores, is_real, "pairwise"), pairwise)
    torch.testing.assert_close(discriminator_loss(scores + 7, is_real, "pairwise"), pairwise)


def test_a_loss_that_is_unknown_or_lacks_partners_is_refused():
    with pytest.raises(ValueError, match=re.escape("`loss` must be one of cross_entropy, pairwise; got 'hinge'.")):
        discriminator_loss(torch.zeros(2), torch.tensor([True, False]), "hinge")
    message = "The pairwise loss compares real texts with as many generated ones; got 2 and 1."
    with pytest.raises(ValueError, match=re.escape(message)):
        discriminator_loss(torch.zeros(3), torch.tensor([True, False, True]), "pairwise")


def test_the_pairwise_loss_learns_to_rank_real_texts_higher(tiny_model):
    judge = discriminator(tiny_model("cnn"), learning_rate=1e-2, batch_size=4, loss="pairwise")
    assert judge.update(REAL, GENERATED, epochs=40, seed=1)["loss"] < 0.3
    assert judge.evaluate(REAL, GENERATED)["auc"] == 1
    swapped = discriminator(tiny_model("cnn"), learning_rate=1e-2, batch_size=4, loss="pairwise")
    swapped.update(GENERATED, REAL, epochs=40, seed=1)
    assert swapped.evaluate(REAL, GENERATED)["auc"] == 0


def test_a_pair_is_of_one_prompt(tiny_model):
    """GAD compares both answers to a prompt; two shuffles of their own once compared answers to any two prompts."""
    prompts = range(10, 20)
    real, generated = (
        Completions.collate([{"prompt_ids": [prompt], "completion_ids": [token, EOS]} for prompt in prompts], PAD)
        for token in (4, 9)
    )
    judge = discriminator(tiny_model("cnn"), reads_prompt=True, loss="pairwise", batch_size=6)
    read = []
    judge.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"][:, :2].tolist()), with_kwargs=True
    )
    judge.update(real, generated, epochs=2, seed=1)
    orders = []
    for rows in read:
        half = len(rows) // 2
        assert rows[:half] == [[prompt, 4] for prompt, _ in rows[half:]]
        assert all(token == 9 for _, token in rows[half:])
        orders += [prompt for prompt, _ in rows[:half]]
    assert sorted(orders[:10]) == sorted(orders[10:]) == list(prompts) and orders[:10] != orders[10:]


def test_pairs_without_a_partner_are_refused_before_they_are_read(tiny_model):
    judge = discriminator(tiny_model("cnn"), loss="pairwise")
    message = "The pairwise loss compares real texts with as many generated ones; got 4 and 3."
    with pytest.raises(ValueError, match=re.escape(message)):
        judge.update(REAL, GENERATED.select(slice(3)), epochs=1, seed=1)


def test_a_loss_without_end_and_a_gradient_with_one_stop_before_the_update(tiny_model):
    """An infinite logit gives a loss of NaN, and a gradient that looks like any other."""
    judge = discriminator(tiny_model("cnn"))
    with torch.no_grad():
        judge.model.classifier.bias[1] = torch.inf
    before = [parameter.clone() for parameter in judge.model.parameters()]
    with pytest.raises(FloatingPointError, match=r"The discriminator's loss is (nan|inf), the norm of its gradient"):
        judge.update(REAL, GENERATED, epochs=1, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(before, judge.model.parameters(), strict=True))


# ---- Discriminators that read the generator, and that judge unfinished texts -----------------------------------------

ROWS = [
    {"prompt_ids": [1, 8, 9], "completion_ids": [4, EOS]},
    {"prompt_ids": [1], "completion_ids": [5, 6, 7, EOS]},
    {"prompt_ids": [1, 10], "completion_ids": [EOS]},
]
RAGGED = Completions.collate(ROWS, PAD)


@pytest.fixture
def ratio(tiny_model):
    """Return a function that makes a discriminator which reads with a tiny Llama, and a tiny LSTM as its generator."""

    def make(reads_prompt=False, generator=None, hidden_size=0, **kwargs):
        model = LikelihoodRatioForSequenceClassification.from_language_models(
            [tiny_model("llama")], start_token_id=BOS, pad_token_id=PAD, hidden_size=hidden_size,
            generator_hidden_size=32 if hidden_size else 0,
        )  # fmt: skip
        reader = reader_of(generator or tiny_model("lstm"), reads_prompt)
        return discriminator(model, reads_prompt=reads_prompt, read_generator=reader, **kwargs)

    return make


@pytest.mark.parametrize("reads_prompt", [False, True])
@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_what_reads_as_the_generator_does_finds_nothing(name, reads_prompt, tiny_model):
    model = LikelihoodRatioForSequenceClassification.from_language_models(
        [tiny_model(name)], start_token_id=BOS, pad_token_id=PAD
    )
    judge = discriminator(model, reads_prompt=reads_prompt, read_generator=reader_of(tiny_model(name), reads_prompt))
    unprompted = Completions.collate([{**row, "prompt_ids": [BOS]} for row in ROWS], PAD)
    found, _ = judge.score_prefixes(RAGGED if reads_prompt else unprompted)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-4, rtol=0)


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_what_it_reads_of_the_generator_stands_beside_the_texts(reads_prompt, ratio, tiny_model):
    judge = ratio(reads_prompt, hidden_size=4)
    encoded = judge.encode(RAGGED)
    wanted = ("generator_logps", "generator_states")
    expected = generator_view(tiny_model("lstm"), RAGGED, reads_prompt, wanted, [tiny_model("llama")])
    assert set(encoded) == {"input_ids", "attention_mask", *wanted, "language_logps", "generator_mask"}
    assert all(torch.equal(encoded[name], tensor) for name, tensor in expected.items())
    assert encoded["generator_states"].shape == (*encoded["input_ids"].shape, 32)


def test_a_discriminator_that_reads_texts_alone_gets_nothing_else(tiny_model):
    judge = discriminator(tiny_model("cnn"), read_generator=reader_of(tiny_model("lstm"), False))
    assert set(judge.encode(RAGGED)) == {"input_ids", "attention_mask"}


def test_it_reads_texts_whose_padding_is_a_token(tiny_model):
    """GPT-2: BOS, EOS and padding are one id. The mask tells the padding, so it needs none of its own."""
    model = LikelihoodRatioForSequenceClassification.from_language_models([tiny_model("gpt2")], start_token_id=EOS)
    reader = reader_of(tiny_model("gpt2"), False)
    judge = discriminator(model, pad_token_id=EOS, pad_is_a_token=True, read_generator=reader)
    torch.testing.assert_close(judge.score(texts([5, 6, EOS], [5, 6, 7, 8, 9]))[:1], judge.score(texts([5, 6, EOS])))


def test_its_scores_follow_the_generator(ratio, tiny_model):
    generator = tiny_model("lstm")
    judge = ratio(generator=generator)
    before = judge.score(REAL), judge.score_prefixes(REAL)[0]
    with torch.no_grad():
        generator.lm_head.bias[4] += 5.0  # all these texts begin so: less of a sign now that they are real
    assert not torch.isclose(judge.score(REAL), before[0]).any()
    assert (judge.score_prefixes(REAL)[0][:, 0] < before[1][:, 0] - 1).all()


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_scores_of_prefixes_by_hand(reads_prompt):
    model = SumOfIds(GPT2Config(vocab_size=VOCAB_SIZE, pad_token_id=PAD)).train()
    judge = discriminator(model, reads_prompt=reads_prompt, score_batch_size=2)
    after, before = judge.score_prefixes(RAGGED)
    assert before.tolist() == ([18, 1, 11] if reads_prompt else [0, 0, 0])
    expected = torch.tensor([[4.0, 6, 0, 0], [5, 11, 18, 20], [2, 0, 0, 0]])
    torch.testing.assert_close(after, (expected + before.unsqueeze(1)) * RAGGED.completion_mask)
    assert model.training and model.dropout.training


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_the_score_of_the_last_prefix_is_that_of_the_text(reads_prompt, ratio):
    judge = ratio(reads_prompt, hidden_size=4, score_batch_size=2)
    with torch.no_grad():
        judge.model.bias.fill_(0.7)
        judge.model.head.weight.normal_()
    after, before = judge.score_prefixes(RAGGED)
    assert after.shape == RAGGED.completion_ids.shape and not after[RAGGED.completion_mask == 0].any()
    last = after.gather(1, RAGGED.lengths.unsqueeze(1) - 1).squeeze(1)
    torch.testing.assert_close(last, judge.score(RAGGED))
    torch.testing.assert_close(before, torch.full((3,), 0.7))  # nothing is known of a text before its first token
    for row in range(3):
        alone = judge.score_prefixes(RAGGED.select(slice(row, row + 1)))
        torch.testing.assert_close(alone[0][0], after[row, : alone[0].shape[1]], rtol=1e-5, atol=1e-5)


def test_a_discriminator_of_prefixes_learns_from_each_of_them(ratio):
    judge = ratio(learns_prefixes=True, batch_size=8)
    logits, counts = [], []
    for texts_of_one, is_real in ((REAL, 1.0), (GENERATED, 0.0)):
        scores = judge.score_prefixes(texts_of_one)[0][texts_of_one.completion_mask.bool()]
        logits.append(scores)
        counts.append(torch.full_like(scores, is_real))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(counts))
    metrics = judge.update(REAL, GENERATED, epochs=1, seed=1)
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert 0 <= metrics["accuracy_real"] <= 1 and 0 <= metrics["accuracy_generated"] <= 1


@pytest.mark.parametrize("learns_prefixes", [False, True])
def test_a_likelihood_ratio_learns_its_weights_and_leaves_its_language_models(learns_prefixes, ratio):
    judge = ratio(learns_prefixes=learns_prefixes, learning_rate=3e-2, batch_size=8)
    before = {name: value.clone() for name, value in judge.model.state_dict().items()}
    first = judge.update(REAL, GENERATED, epochs=1, seed=1)["loss"]
    judge.update(REAL, GENERATED, epochs=40, seed=1)
    assert judge.update(REAL, GENERATED, epochs=1, seed=1)["loss"] < 0.7 * first
    for name, value in judge.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("language_models."), name


def test_unfinished_texts_are_refused_by_a_discriminator_of_whole_ones(tiny_model):
    message = (
        "`num_rollouts=0` leaves it to the discriminator to judge unfinished texts, so its output must have "
        "`prefix_logits`, as that of LikelihoodRatioForSequenceClassification; TextCNNForSequenceClassification has "
        "none. Set `num_rollouts` to at least 1."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        discriminator(tiny_model("cnn")).score_prefixes(REAL)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        discriminator(tiny_model("cnn"), learns_prefixes=True).update(REAL, GENERATED, epochs=1, seed=1)
