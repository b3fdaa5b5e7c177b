import pytest
import torch
from conftest import SENTENCES
from datasets import Dataset

from seqgan_hf import LSTMConfig, LSTMForCausalLM
from seqgan_hf.pretraining import LikelihoodCollator, pretrain_generator


def setup(tokenizer):
    torch.manual_seed(0)
    dataset = Dataset.from_dict({"text": SENTENCES})
    model = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer)))
    return model, dataset.select(range(7)), dataset.select(range(7, 10))


def test_the_collator_labels_completions_alone():
    rows = [{"prompt_ids": [1, 4], "completion_ids": [5, 2]}, {"prompt_ids": [1], "completion_ids": [6, 7, 8, 2]}]
    batch = LikelihoodCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 2, 0], [1, 6, 7, 8, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 5, 2, -100], [-100, 6, 7, 8, 2]]


def test_it_stops_early_and_keeps_the_best_state(tokenizer, tmp_path):
    model, train, held_out = setup(tokenizer)
    metrics = pretrain_generator(
        model, train, held_out, tokenizer, tmp_path, epochs=200, learning_rate=3e-2, batch_size=4, patience=2,
        disable_tqdm=True,
    )  # fmt: skip
    assert 3 <= metrics["epochs"] < 200
    nll, count = 0.0, 0
    for text in held_out["text"]:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            nll += model.eval()(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert metrics["nll"] == pytest.approx(nll / count, rel=1e-4)


def test_without_patience_all_epochs_are_trained_and_the_last_state_is_kept(tokenizer, tmp_path):
    model, train, held_out = setup(tokenizer)
    metrics = pretrain_generator(
        model, train, held_out, tokenizer, tmp_path, epochs=5, batch_size=4, patience=0, disable_tqdm=True
    )
    assert metrics["epochs"] == 5
    assert not list(tmp_path.glob("checkpoint-*"))
