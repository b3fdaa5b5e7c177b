"""A round of a tiny game, for a launcher: `torchrun --nproc_per_node 2 play_a_round.py OUTPUT_DIR`."""

import sys

from datasets import Dataset

from seqgan_hf import SeqGANConfig, SeqGANTrainer
from seqgan_hf.models import LSTMConfig, LSTMForCausalLM, TextCNNConfig, TextCNNForSequenceClassification

if __name__ == "__main__":
    args = SeqGANConfig(
        output_dir=sys.argv[1], max_steps=1, max_completion_length=4, num_rollouts=1, per_device_train_batch_size=2,
        discriminator_samples=4, discriminator_warmup_steps=1, save_strategy="steps", save_steps=1, disable_tqdm=True,
        log_completions=False,
    )  # fmt: skip
    trainer = SeqGANTrainer(
        LSTMForCausalLM(LSTMConfig(vocab_size=9, embedding_size=4, hidden_size=4, pad_token_id=0, bos_token_id=1)),
        TextCNNForSequenceClassification(TextCNNConfig(vocab_size=9, filter_sizes=(1,), num_filters=(2,))),
        args,
        train_dataset=Dataset.from_dict({"input_ids": [[3, 4, 5, 6]] * 20}),
    )
    trainer.train()
    if trainer.is_world_process_zero():
        print(f"Played on {args.world_size} processes.")
