"""Pushing, pulling and reading data, by the real clients against the test Hub; each script is a user's process."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from conftest import SENTENCES
from hub_server import WRITE_TOKEN, Account
from huggingface_hub import ModelCard

from seqgan_hf import hub as hub_module
from seqgan_hf.hub import how_to_push, stage_checkpoint

ROOT = Path(__file__).parent.parent
QUICK = [
    "--mle_epochs", "1", "--max_steps", "2", "--num_rollouts", "1", "--discriminator_warmup_steps", "1",
    "--discriminator_samples", "8", "--num_test_samples", "20", "--per_device_train_batch_size", "4",
    "--logging_steps", "1", "--disable_tqdm", "true",
]  # fmt: skip

RECIPE = [
    "accelerate", "launch", "--num_processes", "1", str(ROOT / "recipes" / "obama_speech.py"), "--sample",
    "--output_dir", "run", *QUICK,
]  # fmt: skip
CONFIGS = """---
configs:
- config_name: early
  data_files: early/*.jsonl
- config_name: late
  data_files:
  - {split: train, path: late/train.jsonl}
  - {split: test, path: late/test.jsonl}
---
"""

# A tiny pair on rows of text, and `play`, which trains it with whatever settings a test has.
PRELUDE = """
import json, os, sys, torch
from datasets import Dataset, load_dataset
from seqgan_hf import *
from seqgan_hf.tokenization import train_tokenizer

SENTENCES = json.loads(os.environ["SENTENCES"])
tokenizer = train_tokenizer(SENTENCES, 280)
special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
special["vocab_size"] = len(tokenizer)
data = Dataset.from_dict({"text": SENTENCES})

def judge():
    torch.manual_seed(1)
    return TextCNNForSequenceClassification(TextCNNConfig(**special, filter_sizes=(2,), num_filters=(4,)))

def play(generator=None, trainer_kwargs={}, resume=None, **settings):
    torch.manual_seed(0)
    args = SeqGANConfig(**{
        "output_dir": "run", "max_steps": 2, "per_device_train_batch_size": 4, "max_completion_length": 6,
        "num_rollouts": 1, "discriminator_warmup_steps": 1, "discriminator_steps": 1, "discriminator_samples": 8,
        "logging_steps": 1, "save_steps": 1, "learning_rate": 1e-2, "disable_tqdm": True, "log_completions": False,
        "discriminator_learning_rate": 1e-2, **settings})
    generator = LSTMForCausalLM(LSTMConfig(**special)) if generator is None else generator
    trainer = SeqGANTrainer(generator, judge(), args, train_dataset=data, processing_class=tokenizer, **trainer_kwargs)
    trainer.train(resume_from_checkpoint=resume)
    return trainer
"""


@pytest.fixture
def hub(machine):
    return machine.new_hub({WRITE_TOKEN: Account("user")})


@pytest.fixture
def client(hub, machine, tmp_path):
    """Return a function that runs a command, or Python source behind PRELUDE, as a user of the test Hub."""

    def run(command: str | list[str], *arguments: str, code: int = 0, **more: str) -> str:
        if isinstance(command, str):
            command = ["python", "-c", PRELUDE + textwrap.dedent(command), *arguments]
        result = machine.run(command, tmp_path, SENTENCES=json.dumps(SENTENCES), **more)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


def run_card(client, text: str) -> str:
    """Run the code of a card where this package cannot be imported, and return what it prints."""
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code) == 3 and all("user/" in block for block in code)
    return client(["python", "-c", "import sys; sys.modules['seqgan_hf'] = None\n" + "\n".join(code)])


def test_the_recipes_push_serves_a_stranger_without_the_package(hub, client, tmp_path):
    """The recipe's command, then each block of the card in a process that cannot import the package."""
    push = ["--push_to_hub", "--hub_model_id", "user/obama", "--report_to", "tensorboard"]
    said = client([*RECIPE, *push, "--output_dir", str(tmp_path / "run")])
    assert f"Pushed: {hub.endpoint}/user/obama" in said
    files = hub.files("user/obama")
    assert {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "lstm.py", "cnn.py", "curves.png",
        "training_args.json", "metrics.json", "discriminator/config.json",
        "discriminator/model.safetensors", "discriminator/tokenizer.json",
    } <= set(files)  # fmt: skip
    assert not [name for name in files if name.startswith(("mle", "completions", "_", "checkpoint"))]
    assert any(name.startswith("runs/") for name in files)
    for name, content in files.items():  # what was where on the machine that trained it is nobody's business
        assert str(tmp_path).encode() not in content and str(ROOT).encode() not in content, name

    card = ModelCard(files["README.md"].decode())
    stages = json.loads(files["metrics.json"])["stages"]
    assert {"MLE", "MLE, best temperature", "SeqGAN", "real texts"} <= set(stages)
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results | {"temperature": 1.0} == stages["SeqGAN"] and "temperature" not in results
    assert "nearest in training" in said and "nearest.json" not in files

    said = run_card(client, card.text)
    assert 0 <= float(re.search(r"P\(real\) = (\S+)", said)[1]) <= 1


def test_each_strategy_pushes_what_it_promises_and_no_secret(hub, client):
    client(
        """
        for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
            trainer = play(
                output_dir=strategy, push_to_hub=True, hub_model_id=f"user/{strategy}", hub_strategy=strategy,
                hub_always_push=True, hub_token=os.environ["HF_TOKEN"], model_init_kwargs={"token": "hf_of_the_base"},
            )
            assert not os.path.isdir(f"{strategy}/_push")
            trainer.push_to_hub(language="en")
        from huggingface_hub import snapshot_download
        from seqgan_hf.samples import length_of_run
        assert length_of_run("user/checkpoint") == 6
        whole = play(output_dir="whole", max_steps=3)
        pulled = snapshot_download("user/checkpoint", allow_patterns="last-checkpoint/*")
        again = play(output_dir="again", max_steps=3, resume=f"{pulled}/last-checkpoint")
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), name
        """
    )
    pushes = ["End of training", "Training in progress, step 2", "Training in progress, step 1", "initial commit"]
    pair = {
        "model.safetensors",
        "discriminator/model.safetensors",
        "tokenizer.json",
        "training_args.json",
        "README.md",
    }
    for strategy in ("every_save", "checkpoint", "all_checkpoints"):
        assert hub.commits(f"user/{strategy}") == pushes
        _, second, first, _ = hub.repo(f"user/{strategy}").log("main")
        before, after = (hub.files(f"user/{strategy}", revision=commit.id) for commit in (first, second))
        assert pair <= set(before)
        for weights in ("model.safetensors", "discriminator/model.safetensors"):
            assert before[weights] != after[weights]
        assert "2 updates of the generator" in after["README.md"].decode()
    assert hub.commits("user/end") == ["End of training", "initial commit"]
    assert "last-checkpoint/seqgan_state.pt" in hub.files("user/checkpoint")
    assert {f"checkpoint-{step}/optimizer.pt" for step in (1, 2)} <= set(hub.files("user/all_checkpoints"))
    for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
        files = hub.files(f"user/{strategy}")
        assert not any(
            secret in content for content in files.values() for secret in (WRITE_TOKEN.encode(), b"of_the_base")
        )
        assert not [name for name in files if name.endswith("training_args.bin")]
        assert json.loads(files["training_args.json"])["max_completion_length"] == 6


def test_a_run_whose_every_push_fails_ends_well_and_says_how_to_repeat_it(hub, client, tmp_path):
    hub.fail("POST", "/commit/", status=503)
    push = ["--push_to_hub", "--hub_model_id", "user/obama", "--save_strategy", "steps", "--save_steps", "1"]
    said = client([*RECIPE, *push])
    assert "The push 'Training in progress, step 1' to `user/obama` failed (HfHubHTTPError: " in said
    assert "The push 'Model save' to `user/obama` failed (HfHubHTTPError: " in said
    assert "Nothing is lost: all of it is on disk. Repeat it by: hf upload user/obama run ." in said
    assert "SeqGAN" in said and (tmp_path / "run" / "discriminator" / "model.safetensors").is_file()
    required = [*push, "--hub_push_required", "true", "--resume_from_checkpoint", "true"]
    assert "PushError: The push 'Model save'" in client([*RECIPE, *required], code=1)

    hub.heal()
    assert set(hub.files("user/obama")) == {".gitattributes"}
    client(shlex.split(re.findall(r"Repeat it by: (.*)", said)[-1]))
    files = hub.files("user/obama")
    assert files["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert "discriminator/model.safetensors" in files and not [name for name in files if name.startswith("checkpoint")]


def test_a_repository_that_cannot_be_created_is_said_before_any_training(hub, client):
    hub.fail("POST", "/repos/create", status=403)
    said = client(
        """
        import runpy
        recipe, flags = map(json.loads, sys.argv[1:])
        main = runpy.run_path(recipe)["main"]
        push = {"push_to_hub": True, "hub_model_id": "user/obama"}
        as_flags = ["--push_to_hub", "--hub_model_id", "user/obama"]
        for start in (lambda: main(["--sample", *as_flags, *flags]), lambda: play(**push)):
            try:
                start()
            except PushError as error:
                print(error)
        """,
        *map(json.dumps, (str(ROOT / "recipes" / "obama_speech.py"), QUICK)),
    )
    sentence = (
        "`push_to_hub` was asked for, but the repository `user/obama` could not be created or reached on the Hub"
    )
    assert said.count(sentence) == 2 and "Stage 1" not in said
    assert (
        "Log in by `hf auth login` with a token that may write, check `hub_model_id`, or leave `push_to_hub`" in said
    )


def test_an_explicit_push_that_fails_is_an_error_and_a_saved_one_is_reported(hub, client, tmp_path):
    hub.fail("POST", "/commit/", status=503)
    said = client(
        """
        from seqgan_hf.hub import PushError
        trainer = play(push_to_hub=True, hub_model_id="user/pair", save_strategy="no")
        trainer.save_model()
        assert len(trainer.failed_pushes) == 1
        try:
            trainer.push_to_hub()
        except PushError as error:
            print("raised:", error)
        trainer.save_model("elsewhere")
        """
    )
    assert "raised: The push 'End of training' to `user/pair` failed" in said
    assert {"config.json", "README.md"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_what_failed_in_the_background_can_be_repeated_without_saving(hub, client):
    hub.fail("POST", "/commit/", status=503)
    said = client("play(push_to_hub=True, hub_model_id='user/pair', save_total_limit=1)")
    command = re.findall(r"Repeat it by: (.*)", said)[-1]
    hub.heal()
    client(shlex.split(command))
    assert {"model.safetensors", "discriminator/model.safetensors", "README.md"} <= set(hub.files("user/pair"))


def test_pushes_that_failed_are_said_where_training_fails_too(hub, client):
    hub.fail("POST", "/commit/", status=503)
    said = client(
        """
        step = SeqGANTrainer.training_step
        def fails_at_last(self, *args):
            if self.state.global_step == 1:
                raise FloatingPointError("diverged")
            return step(self, *args)
        SeqGANTrainer.training_step = fails_at_last
        play(push_to_hub=True, hub_model_id="user/pair")
        """,
        code=1,
    )
    assert "FloatingPointError: diverged" in said
    assert "The push 'Training in progress, step 1' to `user/pair` failed" in said


def test_a_token_a_branch_and_privacy_are_as_the_settings_say(hub, client):
    """The process is not logged in: the settings alone have tokens."""
    client(
        """
        from seqgan_hf.loading import hub_arguments, load_generator, load_tokenizer
        token = os.environ["A_TOKEN"]
        play(
            push_to_hub=True, hub_model_id="user/draft", hub_token=token, hub_private_repo=True, hub_revision="next",
        ).push_to_hub()
        found = {"token": token, "revision": "next", "trust_remote_code": True}
        load_generator("user/draft", **found)
        tokenizer = load_tokenizer("user/draft", **hub_arguments({**found, "dtype": torch.float32}))
        try:
            load_tokenizer("user/draft")
        except OSError as error:
            assert "it is private and you may not read it" in str(error)
        else:
            raise AssertionError("a private repository was read without a token")
        """,
        HF_TOKEN="",
        A_TOKEN=WRITE_TOKEN,
    )
    assert hub.repo("user/draft").private
    assert hub.commits("user/draft") == ["initial commit"]
    assert hub.commits("user/draft", revision="next")[0] == "End of training"


def test_a_hub_that_does_not_answer_is_not_taken_for_a_missing_tokenizer(hub, client):
    hub.add_repo("someone/ids", {"config.json": "{}"})
    hub.fail(None, "/resolve/main/token", status=418)  # one that the clients do not try again
    said = client("from seqgan_hf.loading import find_tokenizer\nfind_tokenizer('someone/ids')", code=1)
    assert "Could not load `tokenizer_config.json` of `someone/ids`" in said
    hub.heal()
    assert "None" in client("from seqgan_hf.loading import find_tokenizer\nprint(find_tokenizer('someone/ids'))")


def test_an_adapter_alone_is_trained_pushed_and_loaded_by_peft(hub, client):
    """LoRA on a tiny Llama from the Hub, and on a BERT that judges it."""
    said = client(
        """
        from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
        from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM
        from seqgan_hf import merge_adapter

        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        torch.manual_seed(3)
        networks = {
            "llama": LlamaForCausalLM(LlamaConfig(**special, **sizes, max_position_embeddings=64)),
            "bert": BertForSequenceClassification(BertConfig(**special, **sizes, max_position_embeddings=64)),
        }
        for name, network in networks.items():
            network.push_to_hub(f"user/{name}")
            tokenizer.push_to_hub(f"user/{name}")
        args = SeqGANConfig(
            output_dir="run", max_steps=3, per_device_train_batch_size=4, max_completion_length=6, num_rollouts=1,
            discriminator_warmup_steps=1, discriminator_samples=8, learning_rate=1e-2, beta=0.1, disable_tqdm=True,
            push_to_hub=True, hub_model_id="user/lora", discriminator_learning_rate=1e-2, log_completions=False,
        )
        trainer = SeqGANTrainer(
            "user/llama", "user/bert", args, train_dataset=data,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"),
            discriminator_peft_config=LoraConfig(task_type="SEQ_CLS", r=2, target_modules="all-linear"),
        )
        head = trainer.discriminator.model.get_base_model().classifier.modules_to_save["default"].weight.detach().clone()
        trainer.train()
        trainer.push_to_hub()
        assert not torch.equal(head, trainer.discriminator.model.get_base_model().classifier.weight)

        def base_weights(model):
            return {
                name.replace(".base_layer", "").removeprefix("base_model.model."): value
                for name, value in model.state_dict().items() if "lora_" not in name
            }

        trained, before = base_weights(trainer.model), networks["llama"].state_dict()
        assert set(trained) == set(before) and all(torch.equal(trained[name], before[name]) for name in before)

        ids = torch.tensor([[1, 5, 6, 7]])
        with torch.no_grad():
            expected = trainer.model.eval()(ids).logits
            pulled = AutoPeftModelForCausalLM.from_pretrained("user/lora").eval()
            torch.testing.assert_close(pulled(ids).logits, expected)
            assert not torch.allclose(networks["llama"].eval()(ids).logits, expected, atol=1e-4)
            torch.testing.assert_close(AutoModelForCausalLM.from_pretrained("user/lora").eval()(ids).logits, expected)
            base = AutoModelForSequenceClassification.from_pretrained("user/bert", num_labels=2)
            D = PeftModel.from_pretrained(base, "user/lora", subfolder="discriminator").eval()
            torch.testing.assert_close(D(ids).logits, trainer.discriminator.model.eval()(ids).logits)
            merged = merge_adapter("user/lora", "merged")
            whole = AutoModelForCausalLM.from_pretrained("merged").eval()
            torch.testing.assert_close(whole(ids).logits, expected)
            ids = tokenizer(data[0]["text"], return_tensors="pt")["input_ids"][:, :6]  # as long as a completion
            print("P(real) was", D(ids).logits.softmax(-1)[0, 1].item())
        """
    )
    files = hub.files("user/lora")
    assert {"adapter_model.safetensors", "discriminator/adapter_model.safetensors"} <= set(files)
    assert "model.safetensors" not in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "peft" and card.data.base_model == ["user/llama"]
    code = run_card(client, card.text.replace("We have come a long way.", SENTENCES[0]))
    assert float(re.search(r"P\(real\) = (\S+)", code)[1]) == pytest.approx(
        float(re.search(r"P\(real\) was (\S+)", said)[1]), abs=1e-5
    )


def lines(count: int, what: str) -> str:
    return "".join(
        json.dumps({"text": f"{sentence} {what} {i}"}) + "\n" for i in range(count) for sentence in SENTENCES
    )


def test_texts_from_the_hub_feed_the_recipe_and_a_stream_gives_the_same(hub, client, tmp_path):
    hub.add_repo(
        "user/speeches",
        {"early/train.jsonl": lines(4, "early"), "late/train.jsonl": lines(4, "late"), "late/test.jsonl": lines(1, "new"),
         "README.md": CONFIGS},
        repo_type="dataset",
    )  # fmt: skip
    hub.commit("user/speeches", {"late/train.jsonl": lines(2, "broken")}, "Break", "dataset")
    first = hub.repo("user/speeches", "dataset").log("main")[1].id
    from_hub = ["--dataset_name", "user/speeches", "--dataset_config", "late", "--dataset_revision", first]
    runs = {
        "map": from_hub,
        "again": from_hub,
        "stream": [*from_hub, "--dataset_streaming", "true"],
        "few": [*from_hub, "--dataset_streaming", "true", "--max_samples", "12"],
        "few_map": [*from_hub, "--max_samples", "12"],
    }
    client(
        """
        import runpy
        recipe, common, runs = map(json.loads, sys.argv[1:])
        main = runpy.run_path(recipe)["main"]
        for name, flags in runs.items():
            main(["--preset", "smoke", "--vocab_size", "280", "--output_dir", name, *common, *flags])
        """,
        *map(json.dumps, (str(ROOT / "recipes" / "obama_speech.py"), QUICK, runs)),
    )
    reports = {name: json.loads((tmp_path / name / "metrics.json").read_text()) for name in runs}
    assert all(report["first_stage"].pop("cpu_seconds") > 0 for report in reports.values())
    measured = {
        name: [report[part] for part in ("stages", "samples", "first_stage")] for name, report in reports.items()
    }
    assert measured["map"] == measured["again"] == measured["stream"]
    assert measured["few"] == measured["few_map"] != measured["map"]
    assert (
        "late" in (tmp_path / "map" / "README.md").read_text()
        and first in (tmp_path / "map" / "README.md").read_text()
    )


def test_gated_private_and_missing_are_told_apart(hub, client):
    hub.add_repo("someone/gated", {"config.json": "{}"}, gated=True)
    hub.add_repo("someone/gated", {"train.jsonl": lines(1, "x")}, repo_type="dataset", gated=True)
    hub.add_repo("someone/private", {"config.json": "{}"}, private=True)
    hub.add_repo("someone/private", {"train.jsonl": lines(1, "x")}, repo_type="dataset", private=True)
    hub.add_repo("someone/open", {"train.jsonl": lines(1, "x")}, repo_type="dataset")
    said = client(
        """
        from seqgan_hf.loading import load_discriminator, load_generator, load_texts, load_tokenizer

        for name in ("gated", "private", "missing"):
            for load in (load_generator, load_discriminator, load_tokenizer, load_texts):
                try:
                    load(f"someone/{name}")
                except OSError as error:
                    print(name, load.__name__, error)
        try:
            load_texts("someone/open", revision="nowhere")
        except OSError as error:
            print(error)
        """
    )
    for load in ("load_generator", "load_discriminator", "load_tokenizer", "load_texts"):
        assert re.search(
            rf"gated {load} Could not load the .* `someone/gated`: access to it is restricted. Accept", said
        )
        for name in ("private", "missing"):
            sentence = f"`someone/{name}`: the Hub has no `someone/{name}`, or it is private and you may not read it"
            assert re.search(rf"{name} {load} Could not load the .*{re.escape(sentence)}", said), (name, load)
    assert "Could not load the dataset `someone/open`: it has no such revision." in said


def test_the_command_that_repeats_a_push_survives_odd_names():
    assert how_to_push("user/pair", "my runs/it's", "a b") == (
        "hf upload user/pair 'my runs/it'\"'\"'s' . --exclude '_*' --exclude 'checkpoint-*' --exclude 'completions/*' "
        "--exclude 'mle*/*' --exclude 'control_*/*' --exclude 'melodies/*' --exclude nearest.json --exclude config.yaml "
        "--exclude trainer_state.json --revision 'a b'"
    )


def test_a_staged_checkpoint_outlives_its_deletion_and_leaves_the_state_of_training_out(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint-7"
    (checkpoint / "discriminator").mkdir(parents=True)
    for name in (
        "model.safetensors",
        "optimizer.pt",
        "seqgan_state.pt",
        "tokenizer.json",
        "discriminator/model.safetensors",
    ):
        (checkpoint / name).write_text(name)
    (tmp_path / "README.md").write_text("card")
    kept = {"README.md", "model.safetensors", "tokenizer.json", "discriminator"}
    assert {path.name for path in stage_checkpoint(checkpoint, tmp_path, None).iterdir()} == kept
    # Without hard links the files are copied.
    monkeypatch.setattr(hub_module.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    stage = stage_checkpoint(checkpoint, tmp_path, "last-checkpoint")
    for path in sorted(checkpoint.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert {path.name for path in stage.iterdir()} == kept | {"last-checkpoint"}
    assert (stage / "last-checkpoint" / "seqgan_state.pt").read_text() == "seqgan_state.pt"
    assert (stage / "discriminator" / "model.safetensors").read_text() == "discriminator/model.safetensors"
