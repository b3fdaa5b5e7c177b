"""
Is a game needed to learn from language models? Their generator, taught by them directly: the rival of `modern`.

    python benchmarks/distillation.py --oracle target_params.npz --output_dir outputs/distilled

Maximum likelihood and the language models are those of the recipe's preset `modern` (with `--resume_from_checkpoint true`
those that `output_dir` has). Instead of the game, each update draws fresh texts from one of the models that its
discriminator reads with, these and a copy of the generator, and moves the generator towards their mean next-token
distribution there (Hinton et al. 2015,
https://huggingface.co/papers/1503.02531; for language models, on the teacher's texts, Kim & Rush 2016,
https://huggingface.co/papers/1606.07947). Updates, texts of each, optimizer and learning rate are those of the game.
`metrics.json` is that of the recipe, with the stage `distilled` instead of `SeqGAN`.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, get_scheduler

from seqgan_hf.arguments import SyntheticRecipeArguments
from seqgan_hf.bench import point_at
from seqgan_hf.checkpoints import write_whole
from seqgan_hf.completions import Completions
from seqgan_hf.config import SeqGANConfig
from seqgan_hf.data import TextFormat
from seqgan_hf.evaluation import stages_table
from seqgan_hf.loading import switch_off_dropout
from seqgan_hf.losses import completion_logits
from seqgan_hf.models import LikelihoodRatioForSequenceClassification
from seqgan_hf.oracle import load_oracle, make_oracle
from seqgan_hf.randomness import named_key
from seqgan_hf.recipe import begin, start
from seqgan_hf.samples import sample_texts
from seqgan_hf.synthetic import OracleBench, before_the_game

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "synthetic_oracle.py"
_TEXTS = 1000  # the name of what is drawn here, among those of a seed
AT_ONCE = 128  # texts whose distributions over the vocabulary are held at a time


def mean_probabilities(models: Sequence[nn.Module], texts: Completions) -> torch.Tensor:
    """
    Return the mean next-token distribution of some models, a mixture anew at every position.

    Args:
        models (`Sequence[nn.Module]`): Causal language models of one vocabulary.
        texts (`Completions`): On their device.

    Returns:
        `torch.Tensor` of shape `(batch_size, completion_length, vocab_size)`; without gradients.
    """
    first, *others = models
    with torch.no_grad():
        total = completion_logits(first, *texts.tensors()).softmax(dim=-1)
        for model in others:
            total += completion_logits(model, *texts.tensors()).softmax(dim=-1)
    return total.div_(len(models))


def distillation_loss(student: nn.Module, teachers: Sequence[nn.Module], texts: Completions) -> torch.Tensor:
    """
    Return the cross-entropy of the student's next-token distributions under the teachers' mean: over all the vocabulary,
    at every token of the texts.

    Args:
        student (`nn.Module`): A causal language model.
        teachers (`Sequence[nn.Module]`): Others of its vocabulary.
        texts (`Completions`): On their device.

    Returns:
        `torch.Tensor`: sum over tokens, nats.
    """
    target = mean_probabilities(teachers, texts)
    logps = completion_logits(student, *texts.tensors()).log_softmax(dim=-1)
    return -((target * logps).sum(dim=-1) * texts.completion_mask).sum()


def mean_nll_of(models: Sequence[PreTrainedModel], rows: Sequence[Any], pad_token_id: int) -> float:
    """Return what the models' mean thinks of texts: nats per token."""
    total, count = 0.0, 0
    for first in range(0, len(rows), AT_ONCE):
        texts = Completions.collate(rows[first : first + AT_ONCE], pad_token_id).to(models[0].device)
        logps = mean_probabilities(models, texts).gather(2, texts.completion_ids.unsqueeze(2)).squeeze(2).log()
        total -= float((logps * texts.completion_mask).sum())
        count += int(texts.completion_mask.sum())
    return total / count


def distill(
    student: PreTrainedModel, teachers: Sequence[PreTrainedModel], text_format: TextFormat, config: SeqGANConfig
) -> list[float]:
    """
    Teach a generator by language models, on fresh texts of theirs in turn.

    Args:
        student (`PreTrainedModel`): Trained in place, without dropout, as in the game.
        teachers (`Sequence[PreTrainedModel]`): Of its vocabulary and special tokens.
        text_format (`TextFormat`): These.
        config (`SeqGANConfig`): `max_steps` updates of `per_device_train_batch_size` texts; the learning rate and its
            schedule, `max_grad_norm`, `weight_decay`, `seed`.

    Returns:
        `list[float]`: the loss of each update, nats per token.
    """
    for model in (student, *teachers):
        switch_off_dropout(model)
    student.train()  # without dropout as it is, but an LSTM on a GPU learns in this mode alone
    optimizer = torch.optim.AdamW(student.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = get_scheduler(config.lr_scheduler_type, optimizer, 0, config.max_steps)
    losses = []
    for step in tqdm(range(config.max_steps), "Distillation", unit="update", disable=config.disable_tqdm):
        teacher = teachers[step % len(teachers)]
        batch_size = config.per_device_train_batch_size
        seed = named_key(config.seed, _TEXTS, step)
        texts = sample_texts(teacher, text_format, batch_size, seed, batch_size=batch_size)
        num_tokens = int(texts.completion_mask.sum())
        loss = 0.0
        for first in range(0, len(texts), AT_ONCE):
            part = distillation_loss(student, teachers, texts.select(slice(first, first + AT_ONCE))) / num_tokens
            part.backward()
            loss += float(part.detach())
        nn.utils.clip_grad_norm_(student.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def main(argv: Sequence[str] | None = None) -> None:
    args, config = start(str(RECIPE), SyntheticRecipeArguments, argv, __doc__, default_preset="modern")
    if args.discriminator != "likelihood_ratio" or not args.game:
        raise SystemExit(
            "The teachers are the language models that a likelihood ratio reads with in a game, and here are none: "
            f"discriminator is {args.discriminator} and game {str(args.game).lower()}. Leave both as the preset "
            "modern has them."
        )
    if begin(args, config):
        print(f"{config.output_dir} is finished.")
        return
    oracle = (load_oracle(args.oracle) if args.oracle else make_oracle(args.oracle_seed)).to(config.device)
    bench, folder = OracleBench(args, config, oracle), Path(config.output_dir)
    student, reader, report = before_the_game(args, config, bench)
    assert isinstance(reader, LikelihoodRatioForSequenceClassification)
    teachers = cast(list[PreTrainedModel], list(reader.language_models))
    for model in (student, *teachers):
        model.to(config.device)
    began = time.process_time()
    report["losses"] = distill(student, teachers, bench.text_format, config)
    report["cpu_seconds"]["distillation"] = time.process_time() - began
    report["curves"]["distilled"] = bench.curve(student)
    report["stages"] = {stage: dict(point_at(curve)) for stage, curve in report["curves"].items()}
    report["teachers_nll"] = mean_nll_of(teachers, list(bench.validation), bench.text_format.pad_token_id)
    student.save_pretrained(folder)
    write_whole(folder / "metrics.json", json.dumps(report, indent=1))
    print(stages_table(report["stages"]))


if __name__ == "__main__":
    main()
