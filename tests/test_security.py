"""What is loaded runs no code, and what is written or said tells no secret."""

import ast
import copy
import itertools
import json
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from test_trainer import config, texts

from seqgan_hf import SeqGANTrainer, TextCNNForSequenceClassification
from seqgan_hf.hub import how_to_push
from seqgan_hf.loading import load_discriminator, load_generator

PACKAGE = Path(__file__).parent.parent / "seqgan_hf"


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture(scope="module")
def saved_run(_models, tmp_path_factory):
    """Return the folder of a run of two updates, each with a checkpoint."""
    folder = tmp_path_factory.mktemp("saved")
    args = config(folder, max_steps=2, save_strategy="steps", save_steps=1)
    SeqGANTrainer(copy.deepcopy(_models["lstm"]), copy.deepcopy(_models["cnn"]), args, train_dataset=texts()).train()
    return folder / "run"


@pytest.mark.parametrize("name", ["seqgan_state.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_with_a_planted_payload_is_refused(name, saved_run, tiny_model, tmp_path):
    checkpoint, proof = saved_run / "checkpoint-1", tmp_path / "proof"
    before = (checkpoint / name).read_bytes()
    trainer = SeqGANTrainer(
        tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, max_steps=2), train_dataset=texts()
    )
    message = f"{checkpoint} is refused: a file of it holds more than tensors and numbers, and might run code."
    try:
        torch.save({"state": Payload(proof), "param_groups": []}, checkpoint / name)
        with pytest.raises(ValueError, match=re.escape(message)):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    finally:
        (checkpoint / name).write_bytes(before)
    assert not proof.exists()
    torch.save(Payload(proof), tmp_path / "control.pt")
    torch.load(tmp_path / "control.pt", weights_only=False)
    assert proof.exists(), "the payload works where it is let"


@pytest.mark.parametrize("load", [load_generator, load_discriminator])
def test_weights_that_are_a_pickle_are_refused(load, tiny_model, tmp_path):
    model, proof = tiny_model("gpt2" if load is load_generator else "bert"), tmp_path / "proof"
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"weight": Payload(proof)}, tmp_path / "model" / "pytorch_model.bin")
    message = (
        r"it has no weights as safetensors\. Save them as such .* pass `use_safetensors` false in `model_init_kwargs`"
    )
    with pytest.raises(OSError, match=message):
        load(str(tmp_path / "model"))
    assert not proof.exists()


def test_an_adapter_that_is_a_pickle_is_refused(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    tiny_model("llama").save_pretrained(tmp_path / "base")
    base = load_generator(str(tmp_path / "base"))
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(
        tmp_path / "lora"
    )
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    torch.save({}, tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(OSError, match="it has no weights as safetensors"):
        load_generator(str(tmp_path / "lora"))


def test_a_pickle_that_is_asked_for_is_read_as_tensors_alone(tiny_model, tmp_path):
    model, proof = tiny_model("gpt2"), tmp_path / "proof"
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    again = load_generator(str(tmp_path / "model"), use_safetensors=False)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    torch.save({"weight": Payload(proof)}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unpickl|safe"):
        load_generator(str(tmp_path / "model"), use_safetensors=False)
    assert not proof.exists()


RUNS_CODE = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def test_no_call_of_the_package_reads_a_pickle_or_runs_what_it_reads():
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                where = f"{path.name}, line {call.lineno}"
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                name = ast.unparse(call.func)
                assert name not in RUNS_CODE, where
                assert name != "torch.load" or given["weights_only"] == "True", where
                assert given.get("trust_remote_code") != "True", where


def test_code_that_a_model_brings_is_not_run_unless_asked_for(tiny_model, tmp_path):
    TextCNNForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
    tiny_model("cnn").save_pretrained(tmp_path / "model")
    proof = tmp_path / "proof"
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    described |= {
        "model_type": "unheard_of",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(described))
    (tmp_path / "model" / "own.py").write_text(f"import os\nos.mkdir({str(proof)!r})\n")
    for load in (load_generator, load_discriminator):
        with pytest.raises(Exception, match="trust_remote_code"):
            load(str(tmp_path / "model"))
    assert not proof.exists()


@pytest.mark.parametrize("name", ["user/../../secret", "../no/such/folder", "user/na me", "a/b/c"])
def test_a_name_that_leads_elsewhere_is_neither_a_model_nor_a_dataset(name, unreachable_hub):
    with pytest.raises(OSError, match=re.escape(f"Could not load the generator `{name}`: ")):
        load_generator(name)


def test_what_a_run_publishes_tells_neither_secrets_nor_folders_of_this_machine(tiny_model, tmp_path, capfd, caplog):
    secret, home = "hf_PlantedSecret", tmp_path / "home" / "planted_user"
    args = config(
        tmp_path, output_dir=str(home / "run"), save_strategy="steps", save_steps=1, hub_token=secret,
        log_completions=True,
        model_init_kwargs={"token": secret, "cache_dir": str(home / "cache")},
    )  # fmt: skip
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
    trainer.train()
    trainer.save_model()
    files = [str(path.relative_to(home / "run")) for path in (home / "run").rglob("*") if path.is_file()]
    pushed = list(filter_repo_objects(files, ignore_patterns=list(how_to_push_patterns())))
    assert {"README.md", "training_args.json", "config.json", "discriminator/config.json"} <= set(pushed)
    for name in pushed:
        content = (home / "run" / name).read_bytes()
        assert secret.encode() not in content, name
        assert b"planted_user" not in content, name
    said = capfd.readouterr()
    assert secret not in said.out + said.err + caplog.text


def how_to_push_patterns():
    words = shlex.split(how_to_push("user/name", "run"))
    return [word for flag, word in itertools.pairwise(words) if flag == "--exclude"]
