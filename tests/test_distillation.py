"""The rival that learns from the language models directly."""

import json

import distillation
import pytest
import torch
from conftest import BOS, VOCAB_SIZE

from seqgan_hf import LSTMConfig, LSTMForCausalLM, SeqGANConfig
from seqgan_hf.data import TextFormat
from seqgan_hf.evaluation import mean_nll
from seqgan_hf.samples import sample_texts

SMALL = [
    "--oracle_seed", "1", "--num_texts", "40", "--num_validation_texts", "20", "--num_test_samples", "20",
    "--mle_epochs", "1", "--max_steps", "2", "--per_device_train_batch_size", "8", "--temperatures", "1", "0.8",
    "--disable_tqdm", "true",
]  # fmt: skip


def language_model(seed):
    torch.manual_seed(seed)
    return LSTMForCausalLM(LSTMConfig(vocab_size=VOCAB_SIZE, bos_token_id=BOS, initializer_range=0.7)).eval()


@pytest.fixture
def texts():
    model = language_model(9)
    return sample_texts(model, TextFormat.from_model(model, None, 5), 6, seed=3)


def test_the_mean_of_models_is_that_of_their_probabilities(texts):
    models = [language_model(0), language_model(1)]
    ids = torch.cat([texts.prompt_ids, texts.completion_ids], dim=1)
    with torch.no_grad():
        expected = sum(model(ids).logits.softmax(dim=-1) for model in models)[:, :-1] / 2
    found = distillation.mean_probabilities(models, texts)
    assert torch.allclose(found, expected, atol=1e-6)
    rows = [{"prompt_ids": [BOS], "completion_ids": row.tolist()} for row in texts.completion_ids]
    alone = distillation.mean_nll_of(models[:1], rows, 0)
    assert alone == pytest.approx(mean_nll(models[0], texts), abs=1e-5)


def test_a_student_of_its_teacher_has_its_entropy_as_loss_and_no_gradient(texts):
    model, teacher = language_model(0), language_model(0)
    loss = distillation.distillation_loss(model, [teacher], texts)
    probabilities = distillation.mean_probabilities([teacher], texts)
    assert float(loss.detach()) == pytest.approx(float(-probabilities.xlogy(probabilities).sum()), rel=1e-5)
    loss.backward()
    assert max(float(weight.grad.abs().max()) for weight in model.parameters()) < 1e-4
    assert all(weight.grad is None for weight in teacher.parameters())


def test_a_student_comes_nearer_to_its_teachers(tmp_path):
    student, teachers = language_model(0), [language_model(1), language_model(2)]
    text_format = TextFormat.from_model(student, None, 5)
    config = SeqGANConfig(
        str(tmp_path), max_steps=60, per_device_train_batch_size=32, learning_rate=1e-2, disable_tqdm=True,
        report_to="none", use_cpu=True,
    )  # fmt: skip
    losses = distillation.distill(student, teachers, text_format, config)
    assert len(losses) == 60 and sum(losses[-5:]) < sum(losses[:5]) - 0.5


def test_a_run_leaves_both_curves_and_takes_the_networks_that_are_there(tmp_path):
    command = [*SMALL, "--output_dir", str(tmp_path)]
    distillation.main(command)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert list(report["curves"]) == ["MLE", "distilled"]
    assert [point["temperature"] for point in report["curves"]["distilled"]] == [1.0, 0.8, 0.75]
    assert report["curves"]["MLE"] != report["curves"]["distilled"]
    assert len(report["losses"]) == 2 and len(report["language_models"]) == 2
    assert all(report["cpu_seconds"][part] > 0 for part in ("mle", "language_models", "distillation"))

    distillation.main([*command, "--resume_from_checkpoint", "true"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == report, "a finished run is not made again"

    weights = (tmp_path / "mle_1" / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "metrics.json").unlink()
    distillation.main([*command, "--resume_from_checkpoint", "true"])
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert again["curves"] == report["curves"] and again["losses"] == report["losses"]
    assert (tmp_path / "mle_1" / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    ("flag", "found"),
    [(["--discriminator", "cnn"], "cnn and game true"), (["--game", "false"], "likelihood_ratio and game false")],
)
def test_a_run_without_language_models_says_that_there_is_no_teacher(tmp_path, flag, found):
    with pytest.raises(SystemExit, match=f"here are none: discriminator is {found}. Leave both as the preset modern"):
        distillation.main([*SMALL, *flag, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
