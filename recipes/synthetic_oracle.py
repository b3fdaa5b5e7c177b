"""
SeqGAN's synthetic experiment (Section 5): a random LSTM, the oracle, is the true distribution.

    accelerate launch recipes/synthetic_oracle.py --preset smoke                   # under 3 minutes on 2 cores
    accelerate launch recipes/synthetic_oracle.py --preset smoke --oracle target_params.npz

NLL_oracle is the likelihood of generated texts under the oracle: it rewards precision alone, and a lower temperature
lowers it, too. So NLL_test, that of the oracle's texts under the generator, stands beside it, and a colder
maximum-likelihood generator stands in the table as the rival. All flags: --help.
"""

import dataclasses

from seqgan_hf import (
    LSTMConfig,
    LSTMForCausalLM,
    SeqGANTrainer,
    TextCNNConfig,
    TextCNNForSequenceClassification,
)
from seqgan_hf.arguments import SyntheticRecipeArguments
from seqgan_hf.config import publishable
from seqgan_hf.data import TextFormat, prepare_dataset
from seqgan_hf.evaluation import mean_nll
from seqgan_hf.oracle import as_dataset, load_oracle, make_oracle
from seqgan_hf.pair import game_settings
from seqgan_hf.recipe import announce_game, finish, likelihood_stage, start, which_checkpoint
from seqgan_hf.samples import sample_texts


def main(argv: list[str] | None = None) -> None:
    args, config = start(__file__, SyntheticRecipeArguments, argv, __doc__, default_preset="smoke")
    oracle = (load_oracle(args.oracle) if args.oracle else make_oracle(args.oracle_seed)).to(config.device)
    text_format = TextFormat.from_model(oracle, None, config.max_completion_length)
    real = sample_texts(oracle, text_format, 2 * args.num_texts, config.seed)
    train, test = (prepare_dataset(as_dataset(part), None, text_format) for part in real.halves())

    sizes = {"vocab_size": oracle.config.vocab_size, "bos_token_id": oracle.config.bos_token_id}
    generator = LSTMForCausalLM(LSTMConfig(**sizes, embedding_size=args.embedding_size, hidden_size=args.hidden_size))
    generator, first_stage = likelihood_stage(args, config, generator, train, test)
    discriminator = TextCNNForSequenceClassification(
        TextCNNConfig(vocab_size=oracle.config.vocab_size, pad_token_id=text_format.pad_token_id)
    )
    trainer = SeqGANTrainer(generator, discriminator, config, train_dataset=train, eval_dataset=test)
    trainer.card["dataset"] = "texts of a randomly drawn LSTM, the synthetic oracle of SeqGAN"

    def nll(temperature: float = 1.0) -> dict[str, float]:
        samples = sample_texts(generator, text_format, args.num_test_samples, config.seed, temperature)
        return {
            "NLL_oracle": mean_nll(oracle, samples),
            "NLL_test": mean_nll(generator, real.halves()[1], temperature),
        }

    stages = {"MLE": nll(), f"MLE, temperature {args.rival_temperature}": nll(args.rival_temperature)}
    announce_game(config)
    trainer.train(resume_from_checkpoint=which_checkpoint(config))
    stages["SeqGAN"] = nll()
    settings = publishable(dataclasses.asdict(args)) | game_settings(config)
    report = {"stages": stages, "first_stage": first_stage, "samples": [], "settings": settings}
    finish(
        trainer, report, f"Nats per token (lower is better). The oracle's own texts have {mean_nll(oracle, real):.4f}."
    )


if __name__ == "__main__":
    main()
