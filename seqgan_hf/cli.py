"""
Settings, learning curves, samples, evaluation and blind tests by people, from the command line.

  seqgan-hf config [NAME ...]                      print the settings of a run, as a commented YAML file
  seqgan-hf plot RUN [RUN ...] [-o FILE]           draw the learning curves of a run, or of several
  seqgan-hf report RUN [RUN ...] [-o FILE]         write a page that shows a run, or several side by side
  seqgan-hf sample MODEL [-n 20]                   write texts with any causal language model
  seqgan-hf evaluate MODEL --dataset_name TEXTS    measure held-out likelihood and BLEU over the temperature
  seqgan-hf judge --model MODEL --dataset_name TEXTS
                                                   let people tell real texts from generated ones, in a browser
  seqgan-hf turing --model MODEL --dataset_name TEXTS
                                                   the same for yourself: ten texts, in the terminal
  seqgan-hf merge ADAPTER OUTPUT_DIR               make a whole model of a generator's adapter

Each has a --help of its own.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_matplotlib_available

from .arguments import EvaluateArguments, JudgeArguments, SampleArguments, TuringArguments
from .checkpoints import DISCRIMINATOR_FOLDER
from .completions import decode_ids
from .corpora import load_held_out
from .data import TextFormat
from .evaluation import evaluate_generator, evaluation_table
from .flags import parse_config, settings_as_yaml
from .loading import find_tokenizer, load_generator, merge_adapter
from .plots import plot_runs, plot_temperature_sweep, read_log_history
from .redaction import publishable
from .report import Findings, ask_networks, read_run
from .report_page import write_report
from .samples import (
    USUAL_LENGTH,
    complete_prompts,
    encode_prompt,
    length_of_run,
    load_saved_discriminator,
    samples_table,
    score_texts,
    write_samples,
)
from .space_export import export_space
from .trial_making import open_trial
from .turing import take_test
from .verdicts import judge_results

_CONFIG_HELP = """\
Print the settings of a run as a YAML file: each with its description, its choices and its default.

  seqgan-hf config > run.yaml
  python recipes/obama_speech.py run.yaml --dataset_name speeches.txt
"""
_PLOT_HELP = """\
Draw the learning curves of a run: rewards, the discriminator's verdicts, the generator, and where the time goes.
Several runs lie over each other, at most four.
"""
_REPORT_HELP = """\
Write a page that shows a run, or up to four side by side: warnings, results, quality and diversity, learning curves,
settings, samples over training from the same random numbers, and what the discriminator makes of each token. The page is
one file and needs no network; its pictures lie beside it, too. RUN is an output_dir.

  seqgan-hf report obama-run
  seqgan-hf report game-run control-run -o comparison.html
"""
_SAMPLE_HELP = """\
Write texts with any causal language model, trained here or not, by plain sampling. If a discriminator was saved with
it, P(real), the discriminator's verdict, stands beside each text. MODEL is a Hub id or a path.

  seqgan-hf sample gpt2-seqgan -n 20 --temperature 0.9
  seqgan-hf sample gpt2-seqgan -n 1000 --output texts.jsonl
"""
_EVALUATE_HELP = """\
Measure a causal language model on texts that it was not trained on: their likelihood, and BLEU, length and variety of
its samples, at several softmax temperatures. A gain that a lower temperature of the model before training gives, too,
is none. MODEL is a Hub id or a path. Prints a table; writes evaluation.json and sweep.png. In the table, NLL is that of
the real texts; the rest is of the samples: BLEU against the real texts, mean length, and how many end, are distinct,
and are copied word for word from the real texts.

  seqgan-hf evaluate gpt2-seqgan --dataset_name speeches/ --output_dir gpt2-seqgan/evaluation
"""
_JUDGE_HELP = """\
Let people judge, blind and in a browser, which texts are real and which a model wrote: real texts that the models were
not trained on, and as many of each model, shuffled for each judge. The FIRST model is the baseline that the others are
tested against: in the paper that of maximum likelihood. The trial is made once, in --output_dir; called again, with
that folder alone, this goes on with it, and all votes are kept.

  seqgan-hf judge --model run/mle --model run --dataset_name speeches/ --items 20
  seqgan-hf judge --output_dir judge                              go on
  seqgan-hf judge --results judge                                 what people said, and whether D agrees
  seqgan-hf judge --output_dir judge --export-space my-space      the same page, to be pushed as a Space
"""
_TURING_HELP = """\
Judge ten texts yourself, in the terminal: r is real, g is generated, q ends. Votes are kept in --output_dir, as those of
`seqgan-hf judge` are, and `seqgan-hf judge --results` counts them.

  seqgan-hf turing --model run --dataset_name speeches/
"""
_MERGE_HELP = """\
Merge a generator's adapter into the model it belongs to, and save the whole, which needs no peft. ADAPTER is a Hub id
or a path.

  seqgan-hf merge llama-seqgan llama-seqgan-whole
"""


def main(argv: Sequence[str] | None = None) -> None:
    """
    Run a command of `seqgan-hf`.

    Args:
        argv (`Sequence[str]`, *optional*): The command and its arguments; `sys.argv[1:]` by default.

    Raises:
        SystemExit: With code 1 after an expected error, told in a sentence on stderr; with code 2 and the usage where
            the command line cannot be parsed.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _parser("seqgan-hf", __doc__, usage="seqgan-hf COMMAND ...")
    parser.add_argument("command", choices=_COMMANDS, help=argparse.SUPPRESS)
    command = parser.parse_args(argv[:1]).command
    try:
        _COMMANDS[command](argv[1:])
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        parser.exit(1, f"seqgan-hf {command}: {error}\n")


def _parser(prog: str, description: str | None, usage: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog, usage, description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def _config(argv: list[str]) -> None:
    parser = _parser("seqgan-hf config", _CONFIG_HELP)
    parser.add_argument("names", nargs="*", metavar="NAME", help="print these settings alone")
    print(settings_as_yaml(parser.parse_args(argv).names), end="")


def _plot(argv: list[str]) -> None:
    parser = _parser("seqgan-hf plot", _PLOT_HELP)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="an output_dir, a checkpoint or a trainer_state.json")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the PNG file; by default curves.png, beside what is drawn if that is one run",
    )
    args = parser.parse_args(argv)
    histories = {run: read_log_history(run) for run in args.runs}
    run = Path(args.runs[0])
    folder = Path() if len(histories) > 1 else run if run.is_dir() else run.parent
    output = args.output or folder / "curves.png"
    print(f"Learning curves: {plot_runs(histories, output)}")


def _report(argv: list[str]) -> None:
    parser = _parser("seqgan-hf report", _REPORT_HELP)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="an output_dir")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the page; by default report.html, in the run if that is one"
    )
    parser.add_argument("-n", "--num_samples", type=int, default=3, help="samples of each kind (default: 3)")
    parser.add_argument("--seed", type=int, default=42, help="decides the samples (default: 42)")
    parser.add_argument("--read_only", action="store_true", help="load no model: show what was logged alone")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the models' own code, if they bring any")
    args = parser.parse_args(argv)
    if args.num_samples < 1:
        raise ValueError(
            f"`--num_samples` must be at least 1; got {args.num_samples}. Leave models out by `--read_only`."
        )
    runs = [read_run(run) for run in args.runs]
    findings = [
        Findings() if args.read_only else ask_networks(run, args.num_samples, args.seed, args.trust_remote_code)
        for run in runs
    ]
    output = args.output or (Path() if len(runs) > 1 else runs[0].folder) / "report.html"
    page = write_report(runs, findings, output)
    print(f"Report: {page} ({page.stat().st_size / 2**20:.1f} MiB)")


def _sample(argv: list[str]) -> None:
    name, args = _parse("sample", argv, SampleArguments, _SAMPLE_HELP)
    model, tokenizer, hub = _load(name, args)
    text_format = TextFormat.from_model(model, tokenizer, _length(name, args))
    judge, has_prompt = None, args.prompt is not None
    if args.scores:
        judge = load_saved_discriminator(name, DISCRIMINATOR_FOLDER, model, tokenizer, text_format, has_prompt, **hub)
    prompts = [encode_prompt(args.prompt, tokenizer, text_format)] * args.num_samples
    texts = complete_prompts(model, prompts, text_format, args.seed, args.temperature, args.batch_size)
    rows = [
        {"prompt": args.prompt, "completion": text} if has_prompt else {"text": text}
        for text in decode_ids(texts.completion_ids, texts.completion_mask, tokenizer)
    ]
    if judge is not None:
        scores = score_texts(judge, texts, args.batch_size)
        rows = [row | {"score": score} for row, score in zip(rows, scores, strict=True)]
    if args.output is None:
        print(samples_table(rows))
    else:
        print(f"{len(rows):,} texts: {write_samples(rows, args.output)}")


def _evaluate(argv: list[str]) -> None:
    name, args = _parse("evaluate", argv, EvaluateArguments, _EVALUATE_HELP)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    texts, split = load_held_out(args)
    model, tokenizer, _ = _load(name, args)
    args.max_completion_length = _length(name, args)
    report = evaluate_generator(
        model,
        texts,
        tokenizer,
        args.max_completion_length,
        args.temperatures,
        args.num_samples,
        args.batch_size,
        args.seed,
    )
    settings = publishable({"model": name, **dataclasses.asdict(args), "split": split})
    kept = json.dumps({**report, "settings": settings}, indent=1, ensure_ascii=False)
    (output_dir / "evaluation.json").write_text(kept, encoding="utf-8")
    title = f"{name} on the split `{split}` of {args.dataset_name}"
    print(f"{title}\n{evaluation_table(report)}")
    drawn = "(pip install 'seqgan_hf[plots]' to have the sweep drawn)"
    if is_matplotlib_available():
        drawn = str(plot_temperature_sweep(report["sweep"], output_dir / "sweep.png", title))
    print(f"\nReport: {output_dir / 'evaluation.json'}\nPicture: {drawn}")


def _judge(argv: list[str]) -> None:
    (args,) = parse_config((JudgeArguments,), _gathered(argv, "--model"), _JUDGE_HELP, prog="seqgan-hf judge")
    if args.results is not None:
        print(judge_results(args.results, args.add_votes))
        return
    if args.export_space is not None:
        print(export_space(open_trial(args, args.items), args.output_dir, args.export_space))
        return
    try:
        from .judge_server import place_at, serve
    except ImportError as error:
        raise ImportError(
            "A page needs the packages starlette and uvicorn: pip install 'seqgan_hf[judge]'."
        ) from error
    trial = open_trial(args, args.items)
    serve(trial, args.output_dir, args.host, args.port, place_at(args.host, args.allowed_hosts))


def _turing(argv: list[str]) -> None:
    (args,) = parse_config((TuringArguments,), _gathered(argv, "--model"), _TURING_HELP, prog="seqgan-hf turing")
    print(take_test(open_trial(args, args.items // (1 + max(len(args.model), 1))), args.output_dir))


def _gathered(argv: Sequence[str], flag: str) -> list[str]:
    """Make of `--model A ... --model B` one flag with both values."""
    values: list[str] = []
    rest: list[str] = []
    takes = False
    for arg in argv:
        name, separator, value = arg.partition("=")
        if arg.startswith("-"):
            takes = name == flag
            if takes:
                values += [value] * bool(separator)
                continue
        (values if takes else rest).append(arg)
    return [*rest, flag, *values] if values else rest


def _merge(argv: list[str]) -> None:
    parser = _parser("seqgan-hf merge", _MERGE_HELP)
    parser.add_argument("adapter", metavar="ADAPTER", help="a Hub id or a path")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="where the whole model goes")
    args = parser.parse_args(argv)
    merge_adapter(args.adapter, args.output_dir)
    print(f"Merged: {args.output_dir}")


def _parse(command: str, argv: list[str], arguments: type, description: str) -> tuple[str, Any]:
    """Read MODEL, which comes first, and the rest into a dataclass: flags, or a YAML file and flags over it."""
    asks_for_help = argv[:1] in (["-h"], ["--help"])
    if not asks_for_help and (not argv or argv[0].startswith("-")):
        raise ValueError(f"MODEL comes first: seqgan-hf {command} MODEL [flags]. It is a Hub id or a path.")
    name, rest = ("", argv) if asks_for_help else (argv[0], argv[1:])
    (args,) = parse_config((arguments,), rest, description, prog=f"seqgan-hf {command} MODEL")
    return name, args


def _load(
    name: str, args: SampleArguments | EvaluateArguments
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, dict[str, Any]]:
    """Load a model and its tokenizer, and return what else is to be told to whoever loads from the same place."""
    hub: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
    if args.revision is not None:
        hub["revision"] = args.revision
    model = load_generator(name, **hub).to(PartialState().device).eval()
    return model, find_tokenizer(name, **hub), hub


def _length(name: str, args: SampleArguments | EvaluateArguments) -> int:
    return args.max_completion_length or length_of_run(name, args.revision) or USUAL_LENGTH


_COMMANDS = {
    "config": _config,
    "plot": _plot,
    "report": _report,
    "sample": _sample,
    "evaluate": _evaluate,
    "judge": _judge,
    "turing": _turing,
    "merge": _merge,
}

if __name__ == "__main__":
    main()
