"""
SeqGAN's synthetic experiment (its Table 1): a random LSTM, the oracle, is the true distribution.

    accelerate launch recipes/synthetic_oracle.py --preset smoke                   # under 3 minutes on 2 cores
    accelerate launch recipes/synthetic_oracle.py --preset smoke --oracle target_params.npz

NLL_oracle is the likelihood of generated texts under the oracle: it rewards precision alone, and a lower temperature
lowers it, too. So NLL_test, that of the oracle's texts under the generator, stands beside it, and a colder
maximum-likelihood generator stands in the table as the rival. All flags: --help.
"""

from seqgan_hf.arguments import SyntheticRecipeArguments
from seqgan_hf.oracle import load_oracle, make_oracle
from seqgan_hf.recipe import in_a_row, seeds_table, start
from seqgan_hf.synthetic import play_on_oracle


def main(argv: list[str] | None = None) -> None:
    args, config = start(__file__, SyntheticRecipeArguments, argv, __doc__, default_preset="smoke")
    oracle = (load_oracle(args.oracle) if args.oracle else make_oracle(args.oracle_seed)).to(config.device)
    reports = [play_on_oracle(args, one, oracle) for one in in_a_row(config, args.seeds)]
    if args.seeds > 1:
        print(f"\n{args.seeds} seeds, mean and standard deviation:\n{seeds_table(reports)}")


if __name__ == "__main__":
    main()
