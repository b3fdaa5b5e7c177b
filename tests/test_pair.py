"""What keeps both networks together, where no Hub is needed: cards and saved folders."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from conftest import BOS, EOS, PAD
from datasets import Dataset
from test_trainer import config, moved, play, texts, weights
from transformers import GenerationConfig

from seqgan_hf import LikelihoodRatioForSequenceClassification, SeqGANTrainer
from seqgan_hf.completions import Completions
from seqgan_hf.discriminator import area_under_curve
from seqgan_hf.loading import load_discriminator, load_generator
from seqgan_hf.samples import load_saved_discriminator


def auc_of_card(trainer):
    card = (Path(trainer.args.output_dir) / "README.md").read_text(encoding="utf-8")
    return float(re.search(r"AUC of\s+([0-9.]+) ", card)[1])


def test_a_card_in_the_middle_changes_nothing_in_the_game(tiny_model, tmp_path):
    class WithCards(SeqGANTrainer):
        def training_step(self, *args, **kwargs):
            self.create_model_card()
            return super().training_step(*args, **kwargs)

    final = []
    for kind in (SeqGANTrainer, WithCards):
        args = config(tmp_path, max_steps=3)
        trainer = kind(tiny_model("lstm"), tiny_model("bert"), args, train_dataset=texts())
        trainer.train()
        final.append(trainer)
    assert not moved(weights(final[0].model), final[1].model)
    assert not moved(weights(final[0].discriminator.model), final[1].discriminator.model)


def test_the_cards_auc_is_that_of_the_discriminator_as_it_is_now(tiny_model, tmp_path):
    """The log has the mean of its tests since the last log, each before it learned from a set: not the same."""
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, max_steps=2))
    trainer.create_model_card()
    written = trainer._fresh_completions(128, trainer.args.seed)
    real = trainer.texts.first_held_out(128)
    judge = trainer.discriminator
    assert auc_of_card(trainer) == pytest.approx(area_under_curve(judge.score(real), judge.score(written)), abs=5e-4)
    with torch.no_grad():
        for parameter in judge.model.parameters():
            parameter.zero_()
    trainer.create_model_card()
    assert auc_of_card(trainer) == 0.5


def test_a_saved_folder_has_its_arguments_in_words_and_no_pickle(tiny_model, tmp_path):
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, save_strategy="steps", save_steps=1))
    trainer.save_model()
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        assert json.loads((folder / "training_args.json").read_text())["max_completion_length"] == 6
        assert not (folder / "training_args.bin").exists()
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 1
    trainer.save_model(str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere" / "README.md").exists()
    assert (tmp_path / "elsewhere" / "discriminator" / "config.json").is_file()


def test_adapters_resume_exactly_with_the_discriminators(tiny_model, tmp_path):
    peft = pytest.importorskip("peft")

    def run(folder, steps, resume=None):
        torch.manual_seed(0)
        lora = {"r": 2, "target_modules": "all-linear"}
        trainer = SeqGANTrainer(
            tiny_model("llama"),
            tiny_model("bert"),
            config(
                tmp_path,
                output_dir=str(tmp_path / folder),
                max_steps=steps,
                save_strategy="steps",
                save_steps=1,
                beta=0.1,
                rollout_update_rate=0.5,
            ),
            train_dataset=texts(),
            peft_config=peft.LoraConfig(task_type="CAUSAL_LM", **lora),
            discriminator_peft_config=peft.LoraConfig(task_type="SEQ_CLS", **lora),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole", 4)
    run("first", 2)
    again = run("first", 4, resume=str(tmp_path / "first" / "checkpoint-2"))
    assert not moved(weights(whole.model), again.model)
    assert not moved(weights(whole.discriminator.model), again.discriminator.model)
    assert not moved(weights(whole.rollout_policy), again.rollout_policy)
    state = torch.load(tmp_path / "first" / "checkpoint-2" / "seqgan_state.pt", weights_only=True)
    assert all("lora_" in name for name in state["rollout_policy"])  # and not the model below
    base = tiny_model("bert").state_dict()
    for name, value in whole.discriminator.model.get_base_model().state_dict().items():
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        if plain in base:
            assert torch.equal(value, base[plain]), name


@pytest.mark.parametrize("pad_token_id", [None, EOS])
def test_an_adapter_on_a_discriminator_without_padding_loads_as_its_card_says(
    pad_token_id, tiny_model, tmp_path, monkeypatch, capsys
):
    """All pad with EOS, as GPT-2 does, and the discriminator takes the last token before padding for the end."""
    peft = pytest.importorskip("peft")
    base, generator = tiny_model("gpt2_classifier"), tiny_model("gpt2")
    base.config.pad_token_id = pad_token_id
    base.save_pretrained(tmp_path / "base")
    generator.config.pad_token_id = None
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"], init_lora_weights=False)
    judge = load_discriminator(str(tmp_path / "base"), lora)
    trainer = play(generator, judge, config(tmp_path, save_strategy="steps", save_steps=1))
    trainer.save_model()
    rows = [{"prompt_ids": [BOS], "completion_ids": ids} for ids in ([4, 5, 6, EOS], [4, 5, 6], [7, 8, 9, 7, 8, 9])]
    some = Completions.collate(rows, EOS)
    scores = trainer.discriminator.score(some)
    assert scores[0] != scores[1]
    saved = load_saved_discriminator(str(tmp_path / "run"), "discriminator", trainer.model, None, trainer.text_format)
    torch.testing.assert_close(saved.score(some), scores)
    again = SeqGANTrainer(
        generator, load_discriminator(str(tmp_path / "base"), lora), trainer.args, train_dataset=texts()
    )
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(again.discriminator.score(some), scores)
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n([^`]*AutoModelForSequenceClassification[^`]*)^```$", card, re.MULTILINE)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert float(capsys.readouterr().out.split("=")[1]) == pytest.approx(scores[0].sigmoid().item(), rel=1e-4)


def test_conversations_play_and_their_card_says_so(tokenizer, tiny_model, tmp_path):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ '</s>' if m['role'] == 'assistant' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chats = [
        [{"role": "user", "content": "the town"}, {"role": "assistant", "content": answer}]
        for answer in ("works", "we work", "is open") * 8
    ]
    generator, judge = tiny_model("llama"), tiny_model("cnn")
    for model in (generator, judge):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    trainer = play(
        generator, judge, config(tmp_path), Dataset.from_dict({"messages": chats}), processing_class=tokenizer
    )
    trainer.save_model()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "the town" not in card  # prompts are training data
    assert "apply_chat_template" in card and "Each is a prompt and its completion" in card
    assert all(sample["prompt"] == "user: the townassistant: " for sample in trainer.sample_texts)


@pytest.mark.parametrize("first_adapted", [False, True])
def test_a_folder_that_held_the_other_kind_loads_as_what_was_saved_last(first_adapted, tiny_model, tmp_path):
    """A whole model beside the adapter of an earlier run once loaded with that adapter."""
    peft = pytest.importorskip("peft")
    tiny_model("llama").save_pretrained(tmp_path / "base")
    for adapted in (first_adapted, not first_adapted):
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear") if adapted else None
        trainer = play(load_generator(str(tmp_path / "base"), lora), tiny_model("cnn"), config(tmp_path))
        trainer.save_model()
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        expected = trainer.model.eval()(ids).logits
        torch.testing.assert_close(load_generator(str(tmp_path / "run")).eval()(ids).logits, expected)


@pytest.mark.parametrize("judge_is_adapted", [False, True], ids=["generator", "discriminator"])
def test_an_adapter_is_not_saved_over_the_model_it_belongs_to(judge_is_adapted, tiny_model, tmp_path):
    """`save_model` once removed that model's config.json and weights, which nothing else held."""
    peft = pytest.importorskip("peft")
    adapters = {
        "peft_config": peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]),
        "discriminator_peft_config": peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]),
    }
    folder = tmp_path / "run" / "discriminator" if judge_is_adapted else tmp_path / "run"
    name = "bert" if judge_is_adapted else "llama"
    tiny_model(name).save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    networks = [tiny_model("llama"), str(folder)] if judge_is_adapted else [str(folder), tiny_model("bert")]
    message = (
        f"`output_dir` must leave the model alone that an adapter belongs to, and {folder} holds it. Give another one."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SeqGANTrainer(*networks, config(tmp_path), train_dataset=texts(), **adapters)
    elsewhere = config(tmp_path, output_dir=str(tmp_path / "elsewhere"))
    trainer = SeqGANTrainer(*networks, elsewhere, train_dataset=texts(), **adapters)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        trainer.save_model(str(tmp_path / "run"))
    trainer.save_model()
    assert {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()} == before
    whole = {"peft_config" if not judge_is_adapted else "discriminator_peft_config": None}
    SeqGANTrainer(
        *networks, config(tmp_path), train_dataset=texts(), **adapters | whole
    )  # the whole may be trained on


def test_the_card_counts_the_updates_of_the_model_that_was_kept(tiny_model, tmp_path):
    settings = {
        "max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "nll", "greater_is_better": False, "learning_rate": 0.5,
    }  # fmt: skip
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, **settings), eval_dataset=texts())
    assert trainer.state.best_global_step != 3
    trainer.save_model()
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"{trainer.state.best_global_step} update" in card and "3 updates of the generator" not in card


def test_plain_sampling_is_what_the_saved_generator_does_by_itself(tiny_model, tmp_path):
    generator = tiny_model("llama")
    generator.generation_config.repetition_penalty = 1.3
    play(generator, tiny_model("cnn"), config(tmp_path, temperature=0.7)).save_model()
    saved = GenerationConfig.from_pretrained(tmp_path / "run")
    assert (saved.do_sample, saved.top_k, saved.temperature) == (True, 0, 0.7)
    assert saved.repetition_penalty in (None, 1.0)


@pytest.mark.parametrize(
    ("came_with", "saved_with"), [([EOS, 7], [EOS, 7]), ([7, EOS, 8], [EOS, 7, 8]), ([EOS], EOS), (EOS, EOS), (7, EOS)]
)
def test_a_saved_generator_ends_at_every_eos_that_it_came_with(came_with, saved_with, tiny_model, tmp_path):
    """A chat model ends its turns by one EOS and texts by another; only the tokenizer's was saved."""
    generator = tiny_model("llama")
    generator.generation_config.eos_token_id = came_with
    play(generator, tiny_model("cnn"), config(tmp_path)).save_model()
    saved = GenerationConfig.from_pretrained(tmp_path / "run")
    assert saved.eos_token_id == saved_with
    assert (saved.bos_token_id, saved.pad_token_id, saved.do_sample, saved.max_new_tokens) == (BOS, PAD, True, 6)
    again = load_generator(str(tmp_path / "run"))
    assert (
        SeqGANTrainer(
            again, tiny_model("cnn"), config(tmp_path), train_dataset=texts()
        ).saved_generation_config.eos_token_id
        == saved_with
    )


def test_code_of_both_networks_in_files_of_one_name_is_not_mixed(tiny_model, tmp_path, caplog):
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    save = trainer.discriminator.save

    def save_as_lstm(folder):
        save(folder)
        (Path(folder) / "cnn.py").rename(Path(folder) / "lstm.py")

    trainer.discriminator.save = save_as_lstm
    logging.getLogger("transformers").propagate = True
    trainer.save_model()
    assert "Both networks bring their code in a file lstm.py" in caplog.text
    assert "LSTMForCausalLM" in (tmp_path / "run" / "lstm.py").read_text()


@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_code_that_both_networks_share_lies_once_at_the_root(name, tiny_model, tmp_path, caplog, run_elsewhere):
    """A discriminator that reads with models of the generator's kind brings the same lstm.py, and its own ratio.py."""
    reader = tiny_model("lstm")
    reader.lm_head.bias.data[5] += 1  # the ratio to the generator would be 1
    judge = LikelihoodRatioForSequenceClassification.from_language_models([reader], start_token_id=1, pad_token_id=0)
    trainer = SeqGANTrainer(tiny_model(name), judge, config(tmp_path, num_rollouts=0), train_dataset=texts())
    logging.getLogger("transformers").propagate = True
    trainer.save_model()
    trainer.save_model()  # over what was saved before
    assert "bring their code" not in caplog.text
    folder = tmp_path / "run"
    for code in ("lstm.py", "ratio.py"):
        assert (folder / code).read_bytes() == (folder / "discriminator" / code).read_bytes()
    if name == "llama":
        return
    output = run_elsewhere(
        """
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
        import sys, torch
        folder = sys.argv[1]
        G = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        ids = torch.tensor([[5, 6, 7]])
        logps = G(torch.tensor([[1, 5, 6]])).logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        for where in ({}, {"subfolder": "discriminator"}):  # as on a disk, and as on the Hub
            place = folder if where else folder + "/discriminator"
            D = AutoModelForSequenceClassification.from_pretrained(place, trust_remote_code=True, **where).eval()
            print(D(ids, generator_logps=logps).logits[0, 1].item())
        """,
        folder,
    )
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logps = trainer.model.eval()(torch.tensor([[1, 5, 6]])).logits.log_softmax(-1)
        expected = judge.eval()(ids, generator_logps=logps.gather(-1, ids.unsqueeze(-1)).squeeze(-1)).logits[0, 1]
    assert abs(expected) > 0.1
    assert [float(number) for number in output.split()] == pytest.approx([expected.item()] * 2, rel=1e-4)


def test_a_card_sends_who_asks_a_discriminator_that_reads_the_generator_to_the_package(tiny_model, tmp_path):
    judge = LikelihoodRatioForSequenceClassification.from_language_models([tiny_model("lstm")], start_token_id=1)
    trainer = SeqGANTrainer(tiny_model("lstm"), judge, config(tmp_path, num_rollouts=0), train_dataset=texts())
    trainer.save_model()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "`seqgan-hf sample run`" in card and "turns its verdict on every unfinished text into a reward" in card
    assert "AutoModelForSequenceClassification" not in card and "Monte Carlo" not in card
