"""`Discriminator`: a sequence classifier, its tokenizer and its optimizer; it scores, learns and is tested."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .adapters import is_adapter
from .chunks import RowLimit, naming_knobs
from .completions import Completions, decode_ids
from .config import DISCRIMINATOR_LOSSES
from .fitting import (
    GENERATED,
    REAL,
    check_labels,
    fit_padding,
    fit_rows,
    label_settings,
    own_tokenizer,
    reads_generator,
    ready_for_batches,
)
from .processes import add_gradients, largest, process_index, put_together, share_of, total
from .states import dropout_off, own_randomness

logger = logging.get_logger(__name__)

ReadGenerator = Callable[..., dict[str, torch.Tensor]]

# More texts at once are no faster there, and what they need is not given back to the system: after thousands of batches
# of a thousand texts, memory had grown by a quarter.
_MEMORY_KNOBS = "Lower `discriminator_batch_size` or `max_completion_length`, or train an adapter of it alone"
_MOST_SCORED_ON_CPU = 256


class Discriminator:
    """
    D of the game: tells real texts from generated ones.

    It reads the generator's token ids where both share one tokenizer, and decoded, re-encoded text otherwise. Real and
    generated texts take the same way, so it sees the same surface of both: no start token, the same padding, an EOS where
    the text ends.

    Args:
        model (`PreTrainedModel`): Any `AutoModelForSequenceClassification` with two labels, 0 generated and 1 real. A
            trained head with other names for them is warned of, one that has them the other way round is refused.
        generator_processing_class (`PreTrainedTokenizerBase`, *optional*): The generator's tokenizer.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The discriminator's own. `None`: it reads the
            generator's ids.
        reads_prompt (`bool`): Whether prompts stand before the completions it reads; off where all texts share one
            start token, which says nothing.
        pad_token_id (`int`): The generator's padding token.
        pad_is_a_token (`bool`): Whether that token may stand in a text, too.
        generator_vocab_size (`int`): The ids that the generator can write: the rows of its embedding. Those beyond its
            tokenizer stand for no text; where the discriminator's embedding has fewer of them, it gets as many, or, as
            an adapter or a reader of the generator, refuses a text that has one.
        loss (`str`): `cross_entropy` or `pairwise`; see [`discriminator_loss`].
        learning_rate (`float`): Of AdamW, constant.
        weight_decay (`float`): Of AdamW.
        batch_size (`int`): Texts per update, real and generated together.
        max_grad_norm (`float`): Gradients are clipped to this norm; 0: never.
        score_batch_size (`int`): Texts scored at once; on a CPU at most 256.
        learns_prefixes (`bool`): Whether it learns to judge every prefix of a text and not the whole alone. Its output
            then has `prefix_logits`, as [`LikelihoodRatioForSequenceClassification`]'s.
        read_generator (`Callable`, *optional*): Takes texts, the names of what a model with `config.reads_generator`
            reads beside them, and its language models, and returns that: `losses.reader_of` the generator.

    Raises:
        ValueError: If the model has not two labels, or they stand the other way round, or it cannot read what the
            generator writes.

    Attributes:
        pad_token_id (`int`): Its padding token. One that the generator may write as a word, such as EOS, is replaced
            where the model reads up to it.
        pads_anew (`bool`): Whether it replaces another that the model came with.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        generator_processing_class: PreTrainedTokenizerBase | None,
        processing_class: PreTrainedTokenizerBase | None,
        reads_prompt: bool,
        pad_token_id: int,
        generator_vocab_size: int,
        pad_is_a_token: bool = False,
        loss: str = "cross_entropy",
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        batch_size: int = 64,
        max_grad_norm: float = 1.0,
        score_batch_size: int = 512,
        learns_prefixes: bool = False,
        read_generator: ReadGenerator | None = None,
    ) -> None:
        if model.config.num_labels != 2:
            raise ValueError(
                f"The discriminator must have two labels, generated and real; got {model.config.num_labels}. Load it "
                "with `num_labels=2`."
            )
        check_labels(model)
        self.model = model
        self.generator_processing_class = generator_processing_class
        self.processing_class = own_tokenizer(
            model, generator_processing_class, processing_class, generator_vocab_size
        )
        if self.processing_class is not None and (reads_generator(model) or learns_prefixes):
            raise ValueError(
                "A discriminator that reads the generator beside the text, or judges each of its prefixes, reads the "
                f"generator's tokens; {type(model).__name__} came with a tokenizer of its own. Leave "
                "`discriminator_processing_class` out, and take one with the generator's vocabulary."
            )
        self.reads_prompt = reads_prompt
        self.loss = loss
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.score_batch_size = score_batch_size
        self.row_limit = RowLimit("texts to be judged", "rollout_batch_size")
        self.learns_prefixes = learns_prefixes
        self.read_generator = read_generator
        self.autocast: Callable[[], AbstractContextManager] = nullcontext
        for name, value in label_settings().items():
            setattr(model.config, name, value)
        before = model.config.pad_token_id
        self._known_ids = None
        if self.processing_class is None:
            self._known_ids = fit_rows(model, generator_vocab_size)
            fit_padding(model, pad_token_id, pad_is_a_token, generator_vocab_size)
        else:
            self.processing_class = ready_for_batches(self.processing_class, reads_prompt)
            model.config.pad_token_id = self.processing_class.pad_token_id
        self.pad_token_id: int = model.config.pad_token_id
        self.pads_anew = before not in (None, self.pad_token_id)
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in model.parameters())
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=learning_rate,
            weight_decay=weight_decay,
            fused=fused,
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def encode(self, texts: Completions) -> dict[str, torch.Tensor]:
        """
        Turn texts into what the model reads.

        Args:
            texts (`Completions`): Real or generated.

        Returns:
            `dict`: `input_ids` and `attention_mask` of shape `(batch_size, longest)`, right-padded, on the model's
            device, and whatever else its tokenizer gives.
        """
        if self.processing_class is None:
            ids, mask = texts.sequences(self.reads_prompt, self.pad_token_id)
            self._check_known(ids, mask)
            inputs = {"input_ids": ids, "attention_mask": mask}
            wanted = reads_generator(self.model)
            if wanted and self.read_generator is not None:
                models = getattr(self.model, "language_models", ())
                inputs |= self.read_generator(texts.to(self.device), wanted, models)
            return {name: tensor.to(self.device) for name, tensor in inputs.items()}
        strings = self.decode(texts)
        encoded = self.processing_class(
            strings, padding=True, padding_side="right", truncation=True, max_length=self.context_length,
            return_tensors="pt",
        )  # fmt: skip
        if encoded["input_ids"].shape[1] == 0:
            # Blank texts alone: a token is needed to read anything.
            encoded = {name: torch.ones(len(strings), 1, dtype=torch.long) for name in encoded}
            encoded["input_ids"].fill_(self.pad_token_id)
        elif encoded["input_ids"].shape[1] == self.context_length:
            logger.warning_once(
                f"Some texts fill the {self.context_length} tokens that the discriminator reads, and are cut there. "
                "Lower `max_completion_length`, or take a discriminator with a longer context, to silence this."
            )
        return {name: tensor.to(self.device) for name, tensor in encoded.items()}

    def _check_known(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        if self._known_ids is None or not bool((unknown := (ids >= self._known_ids) & mask.bool()).any()):
            return
        raise ValueError(
            f"A text has token {ids[unknown][0].item()}, which stands for nothing in the generator's tokenizer, and the "
            f"discriminator's embedding has {self._known_ids} rows. Pass a discriminator with as many rows as the "
            "generator, or train it whole and not as an adapter, so that it gets them."
        )

    def decode(self, texts: Completions) -> list[str]:
        """Return the texts as strings, without special tokens (or as numbers, where there is no tokenizer)."""
        ids, mask = texts.sequences(self.reads_prompt, self.pad_token_id)
        return decode_ids(ids, mask, self.generator_processing_class)

    def describe(self, texts: Completions, scores: torch.Tensor) -> list[dict[str, Any]]:
        """
        Return texts with their scores, for people.

        Args:
            texts (`Completions`): Real or generated.
            scores (`torch.Tensor` of shape `(batch_size,)`): From [`score`].

        Returns:
            `list[dict]`: each with `prompt` (empty where texts have none of their own), `completion` and `score`,
            P(real) in [0, 1].
        """
        prompts = [""] * len(texts)
        if self.reads_prompt:
            prompts = decode_ids(texts.prompt_ids, texts.prompt_mask, self.generator_processing_class)
        written = decode_ids(texts.completion_ids, texts.completion_mask, self.generator_processing_class)
        return [
            {"prompt": prompt, "completion": completion, "score": score}
            for prompt, completion, score in zip(prompts, written, scores.sigmoid().tolist(), strict=True)
        ]

    @property
    def context_length(self) -> int | None:
        """The most tokens the model reads; `None`: no limit."""
        return context_length(self.model, self.processing_class)

    def logits(self, encoded: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the log-odds of real against generated, a `torch.Tensor` of shape `(batch_size,)`."""
        with self.autocast():
            logits = self.model(**encoded).logits.float()
        if logits.shape[1:] != (2,):
            raise ValueError(
                f"The discriminator must give two logits a text; {type(self.model).__name__} gave {tuple(logits.shape)} "
                f"for {len(logits)} texts. Load a sequence classifier with `num_labels=2`."
            )
        return logits[:, REAL] - logits[:, GENERATED]

    def prefix_logits(self, encoded: dict[str, torch.Tensor]) -> torch.Tensor:
        """
        Return the log-odds of the first 0, 1, ... tokens, a `torch.Tensor` of shape `(batch_size, longest + 1)`.

        Raises:
            ValueError: If the model judges whole texts only.
        """
        with self.autocast():
            logits = getattr(self.model(**encoded), "prefix_logits", None)
        if logits is None:
            raise ValueError(
                "`num_rollouts=0` leaves it to the discriminator to judge unfinished texts, so its output must have "
                f"`prefix_logits`, as that of LikelihoodRatioForSequenceClassification; {type(self.model).__name__} has "
                "none. Set `num_rollouts` to at least 1."
            )
        return logits.float()

    def score_prefixes(self, texts: Completions) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Judge every prefix of some texts. Dropout is off.

        Args:
            texts (`Completions`): Real or generated.

        Returns:
            `tuple` of two `torch.Tensor`: log-odds after each token of a completion, of shape `(batch_size,
            completion_length)` and 0 behind it, and of its prompt alone, of shape `(batch_size,)`.
        """

        def judge(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
            batch = texts.select(rows).to(self.device)
            logits = self.prefix_logits(self.encode(batch))
            first = batch.prompt_mask.sum(dim=1) if self.reads_prompt else torch.zeros_like(batch.lengths)
            place = first.unsqueeze(1) + torch.arange(batch.completion_ids.shape[1] + 1, device=self.device)
            values = logits.gather(1, place.clamp(max=logits.shape[1] - 1))
            return values[:, 1:] * batch.completion_mask, values[:, 0]

        with torch.inference_mode(), dropout_off(self.model):
            parts = list(self.row_limit.split(len(texts), self._scored_at_once, judge))
        after, before = zip(*parts, strict=True)
        return torch.cat(after), torch.cat(before)

    def score(self, texts: Completions) -> torch.Tensor:
        """
        Judge finished texts. Dropout is off. Of equal texts one is read, and texts of like length are read together.

        Args:
            texts (`Completions`): Real or generated.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`: log-odds that a text is real; their sigmoid is P(real).
        """
        distinct, which = texts.to(self.device).distinct(self.reads_prompt, self.pad_token_id)
        lengths = distinct.lengths + (distinct.prompt_mask.sum(dim=1) if self.reads_prompt else 0)
        by_length = lengths.argsort(stable=True)

        def judge(rows: slice) -> torch.Tensor:
            return self.logits(self.encode(distinct.select(by_length[rows])))

        with torch.inference_mode(), dropout_off(self.model):
            logits = torch.cat(list(self.row_limit.split(len(distinct), self._scored_at_once, judge)))
        scores = torch.empty_like(logits)
        scores[by_length] = logits
        return scores[which]

    @property
    def _scored_at_once(self) -> int:
        on_cpu = self.device.type == "cpu"
        return min(self.score_batch_size, _MOST_SCORED_ON_CPU) if on_cpu else self.score_batch_size

    def _encode_together(self, texts: Completions) -> dict[str, torch.Tensor]:
        """Encode texts, each process those of its share."""
        mine, count = share_of(len(texts)), len(texts)
        inputs = self.encode(texts.select(mine))
        longest = largest(inputs["input_ids"].shape[1], self.device)
        return {
            name: put_together(_widened(name, tensor, longest, self.pad_token_id), mine, count)
            for name, tensor in inputs.items()
        }

    def update(self, real: Completions, generated: Completions, epochs: int, seed: int) -> dict[str, float]:
        """
        Learn from one set of real and generated texts: Algorithm 1, line 16
        (https://huggingface.co/papers/1609.05473).

        Several processes call this at once, with the same texts. Each learns from its share of every batch, and the
        gradients are added up: but for dropout, it is what one process would do.

        Args:
            real (`Completions`): Real texts.
            generated (`Completions`): Completions; for the `pairwise` loss as many as real texts, the k-th of the prompt
                of the k-th real one.
            epochs (`int`): Over the set.
            seed (`int`): Of the order and the dropout, on random states of their own: the generator's samples do not
                depend on how the discriminator was trained.

        Returns:
            `dict`: `loss`, `accuracy_real` and `accuracy_generated` on the texts trained on, averaged over the updates.

        Raises:
            FloatingPointError: If the loss is not finite; the weights are as before that update.
            MemoryError: If a batch does not fit into memory.
            ValueError: If not as many texts are real as generated for `pairwise`.
        """
        if self.loss == "pairwise":
            _require_pairs(len(real), len(generated))
        self.model.train()
        batches = [self._encode_together(real), self._encode_together(generated)]
        labels = torch.cat([torch.full((len(real),), REAL), torch.full((len(generated),), GENERATED)])
        labels = labels.to(self.device)
        inputs = _concatenate(batches, self.pad_token_id)
        lengths = inputs["attention_mask"].sum(dim=1).cpu()  # known on the host: no batch waits for the device
        counts = lengths if self.learns_prefixes else torch.ones_like(lengths)
        order = torch.Generator().manual_seed(seed)
        losses, correct = [], []
        own_seed = seed + 7_919 * process_index()
        with own_randomness(own_seed, self.device), naming_knobs("An update of the discriminator", _MEMORY_KNOBS):
            for _ in range(epochs):
                for index, whole in self._batches(len(real), len(generated), order):
                    share = (counts[index].sum() / counts[whole].sum()).item()
                    longest = max(int(lengths[index].max()), 1) if len(index) else 1
                    index = index.to(self.device)
                    batch = {name: tensor[index, :longest] for name, tensor in inputs.items()}
                    loss, logits = self._loss(batch, labels[index])
                    losses.append(self._step(loss, share))
                    correct.append(
                        torch.stack([(logits.detach() > 0) == (labels[index] == REAL), labels[index] == REAL])
                    )
        self.model.eval()
        is_correct, is_real = torch.cat(correct, dim=1)
        sums = [part.sum() for part in (is_correct & is_real, is_real, is_correct & ~is_real, ~is_real)]
        correct_real, num_real, correct_generated, num_generated = total(torch.stack(sums)).tolist()
        return {
            "loss": total(torch.stack(losses)).mean().item(),
            "accuracy_real": correct_real / num_real,
            "accuracy_generated": correct_generated / num_generated,
        }

    def _batches(
        self, num_real: int, num_generated: int, order: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """
        Cut one epoch into batches of row numbers, for the pairwise loss with the k-th text of both kinds in the same one:
        this process's share of each, and the whole.
        """
        if self.loss != "pairwise":
            for whole in torch.randperm(num_real + num_generated, generator=order).split(self.batch_size):
                yield whole[share_of(len(whole))], whole
            return
        for some in torch.randperm(num_real, generator=order).split(max(self.batch_size // 2, 1)):
            mine = some[share_of(len(some))]
            yield torch.cat([mine, mine + num_real]), torch.cat([some, some + num_real])

    def _loss(self, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a batch, 0 if it is empty, and the logits of its whole texts."""
        if len(labels) == 0:
            return torch.zeros((), device=self.device), torch.zeros(0, device=self.device)
        if not self.learns_prefixes:
            logits = self.logits(batch)
            return discriminator_loss(logits, labels == REAL, self.loss), logits
        every, counts = self.prefix_logits(batch)[:, 1:], batch["attention_mask"].bool()
        is_real = (labels == REAL).unsqueeze(1).expand_as(every)
        return discriminator_loss(every[counts], is_real[counts], self.loss), every[:, -1]

    def _step(self, loss: torch.Tensor, share: float) -> torch.Tensor:
        """Learn from all processes' losses, and return what this one's adds to their mean."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss * share
        if loss.requires_grad:
            loss.backward()
        add_gradients(self.model)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        total_norm = nn.utils.get_total_norm(gradients)
        value, norm = torch.stack([loss.detach(), total_norm]).tolist()
        if not math.isfinite(value + norm):
            raise _diverged(f"The discriminator's loss is {value}, the norm of its gradient {norm}")
        if 0 < self.max_grad_norm < norm:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.max_grad_norm, total_norm)
        self.optimizer.step()
        return loss.detach()

    def _score_together(self, texts: Completions) -> torch.Tensor:
        """Score texts, each process those of its share."""
        mine = share_of(len(texts))
        scores = self.score(texts.select(mine)) if mine.stop > mine.start else torch.zeros(0, device=self.device)
        return put_together(scores, mine, len(texts))

    def evaluate(self, real: Completions, generated: Completions) -> dict[str, float]:
        """
        Test on texts that were not trained on. Several processes call this at once, with the same texts.

        Args:
            real (`Completions`): Held-out real texts.
            generated (`Completions`): Completions not yet trained on.

        Returns:
            `dict`: `accuracy_real`, `accuracy_generated`, their mean `accuracy` and `auc`, all in [0, 1]; 0.5 is chance
            for the last two.
        """
        real_scores, generated_scores = (self._score_together(texts) for texts in (real, generated))
        accuracy_real = (real_scores > 0).float().mean().item()
        accuracy_generated = (generated_scores <= 0).float().mean().item()
        return {
            "accuracy_real": accuracy_real,
            "accuracy_generated": accuracy_generated,
            "accuracy": (accuracy_real + accuracy_generated) / 2,
            "auc": area_under_curve(real_scores, generated_scores),
        }

    def save(self, output_dir: str | Path) -> None:
        """Write the model (of an adapter, that alone) and the tokenizer of its texts, loadable by the Auto classes."""
        self.model.save_pretrained(output_dir)
        (Path(output_dir) / "README.md").unlink(missing_ok=True)  # peft's form to fill in; the pair has one card
        tokenizer = self.processing_class or self.generator_processing_class
        if tokenizer is not None:
            tokenizer.save_pretrained(output_dir)

    def load(self, directory: str | Path) -> None:
        """Read weights that [`save`] wrote, for the model in place."""
        if is_adapter(self.model):
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(self.model, load_peft_weights(str(directory), device=str(self.device)))
            return
        saved = type(self.model).from_pretrained(directory, dtype=self.model.dtype)
        self.model.load_state_dict(saved.state_dict())


def discriminator_loss(scores: torch.Tensor, is_real: torch.Tensor, loss: str) -> torch.Tensor:
    """
    Say how badly scores tell real texts from generated ones.

    Args:
        scores (`torch.Tensor` of shape `(batch_size,)`): Log-odds.
        is_real (`torch.Tensor` of shape `(batch_size,)`): Which texts are real.
        loss (`str`): `cross_entropy` (SeqGAN, Eq. 5, https://huggingface.co/papers/1609.05473), or `pairwise`, where the
            k-th real text should score above the k-th generated one (Bradley-Terry, as in GAD,
            https://huggingface.co/papers/2511.10643). The latter leaves scores open up to a constant.

    Returns:
        `torch.Tensor`: a scalar, nats per text or per pair.

    Raises:
        ValueError: If `loss` is unknown, or not as many texts are real as generated for `pairwise`.
    """
    if loss == "cross_entropy":
        return nn.functional.binary_cross_entropy_with_logits(scores, is_real.to(scores.dtype))
    if loss != "pairwise":
        raise ValueError(f"`loss` must be one of {', '.join(DISCRIMINATOR_LOSSES)}; got {loss!r}.")
    real, generated = scores[is_real], scores[~is_real]
    _require_pairs(len(real), len(generated))
    return nn.functional.softplus(generated - real).mean()


def _require_pairs(num_real: int, num_generated: int) -> None:
    if num_real != num_generated:
        raise ValueError(
            f"The pairwise loss compares real texts with as many generated ones; got {num_real} and {num_generated}."
        )


def _diverged(what: str) -> FloatingPointError:
    return FloatingPointError(
        f"{what}. Its weights are as before this update. Lower `discriminator_learning_rate`, or check the real texts."
    )


def area_under_curve(real_scores: torch.Tensor, generated_scores: torch.Tensor) -> float:
    """
    Probability that a real text scores above a generated one, ties counting half.

    Args:
        real_scores (`torch.Tensor` of shape `(num_real,)`): Any scores.
        generated_scores (`torch.Tensor` of shape `(num_generated,)`): Scores of the same kind.

    Returns:
        `float` in [0, 1]; 0.5 is chance.
    """
    ordered = generated_scores.sort().values
    below = torch.searchsorted(ordered, real_scores, right=False)
    not_above = torch.searchsorted(ordered, real_scores, right=True)
    return ((below + not_above).double().mean() / (2 * len(generated_scores))).item()


def context_length(model: PreTrainedModel, processing_class: PreTrainedTokenizerBase | None = None) -> int | None:
    """
    Return the most tokens a network reads at once, special tokens included.

    Args:
        model (`PreTrainedModel`): With a `config`.
        processing_class (`PreTrainedTokenizerBase`, *optional*): Its tokenizer, whose own limit holds, too.

    Returns:
        `int`, or `None` if nothing limits it.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and "roberta" in model.config.model_type:
        # RoBERTa and its kin number positions from the padding id on.
        positions -= (model.config.pad_token_id or 0) + 1
    limits = [positions, getattr(processing_class, "model_max_length", None)]
    # Tokenizers without a limit say 1e30.
    return min((limit for limit in limits if limit is not None and limit < 1e9), default=None)


def _concatenate(batches: list[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    longest = max(batch["input_ids"].shape[1] for batch in batches)

    return {
        name: torch.cat([_widened(name, batch[name], longest, pad_token_id) for batch in batches])
        for name in batches[0]
    }


def _widened(name: str, tensor: torch.Tensor, width: int, pad_token_id: int) -> torch.Tensor:
    """Pad one of the tensors that a model reads to the right."""
    behind = (0, 0) * (tensor.dim() - 2) + (0, width - tensor.shape[1])
    return nn.functional.pad(tensor, behind, value=pad_token_id if name == "input_ids" else 0)
