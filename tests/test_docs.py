"""
The documentation builds without a broken reference, and every program and command in it runs as it stands.

A page runs in a folder of its own, from top to bottom: ```python blocks in one process, ```bash blocks beside it, and
```yaml blocks are settings that `parse_config` reads. The Hub is a local one that holds tiny models under the names that
the pages use, and `SIZES` keeps runs short. Marks in a page, unseen by its readers:

    <!-- file: NAME -->     the next block is the contents of a file
    <!-- fails -->          the next block must fail, and print what the block behind it shows

Every `python`, `seqgan-hf`, ... of a page is a fork of one process (`fork_server`), which keeps the runs short.
"""

import dataclasses
import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
import traceback
from pathlib import Path

import pytest
from fork_server import ForkServer
from hub_server import WRITE_TOKEN, Account

import seqgan_hf

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "recipes" / "README.md"]
SPHINX = ["sphinx-build", "-W", "--keep-going", "-q", "-b", "html"]

# The most of each setting in the runs of a page, whatever it says itself. Nothing else of a page is changed.
SIZES = {
    "max_steps": 2, "num_rollouts": 1, "rollout_batch_size": 64, "logging_steps": 1, "save_steps": 1,
    "discriminator_warmup_steps": 1, "discriminator_steps": 1, "discriminator_samples": 8, "mle_epochs": 1,
    "num_test_samples": 10, "num_texts": 100, "num_samples": 10, "max_completion_length": 16,
}  # fmt: skip
# These install what the tests run in, or ask the reader something.
_NOT_RUN = re.compile(r"^(\S*pip install|python3? -m venv|hf auth login$)")

# ---- The process that all programs of a page are forks of ---------------------------------------------------------

MODULES = ["seqgan_hf.cli", "seqgan_hf.recipe", "sphinx.cmd.build"]
PROGRAMS = {"sphinx-build": "sphinx.cmd.build:main", "page": "test_docs:run_page"}


def keep_runs_short() -> None:
    """Let no setting of [`SIZES`] be larger in this process and in its forks."""
    from seqgan_hf import SeqGANConfig, arguments

    for config_class in (
        SeqGANConfig, arguments.TextRecipeArguments, arguments.SyntheticRecipeArguments, arguments.EvaluateArguments
    ):  # fmt: skip
        _keep_small(config_class)


def _keep_small(config_class: type) -> None:
    make = config_class.__init__
    defaults = {field.name: field.default for field in dataclasses.fields(config_class) if field.name in SIZES}

    @functools.wraps(make)
    def make_small(self, *args, **kwargs):
        sizes = {name: kwargs.get(name, default) for name, default in defaults.items()}
        small = {name: size if size is None else min(size, SIZES[name]) for name, size in sizes.items()}
        make(self, *args, **{**kwargs, **small})

    config_class.__init__ = make_small


# ---- A page --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Block:
    """A fenced block of a page, its line there, and the mark above it."""

    language: str
    text: str
    line: int
    mark: str = ""


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, without what the README says that the CI runs."""
    text = page.read_text(encoding="utf-8")
    fence = r"^(?:<!-- (?P<mark>.*?) -->\n)?(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^ *```$"
    blocks = [
        Block(
            match["language"],
            textwrap.dedent(match["text"]),
            text[: match.start("text")].count("\n") + 1,
            match["mark"] or "",
        )
        for match in re.finditer(fence, text, re.DOTALL | re.MULTILINE)
    ]
    return [block for block in blocks if ".venv/bin/pip" not in block.text]


def run_page() -> None:
    """Run the blocks of the page that is the argument, here."""
    page = Path(sys.argv[1])
    blocks = read_blocks(page)
    namespace = {"__name__": "__main__"}
    start = time.monotonic()
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        seconds = time.monotonic() - start
        print(f"\n==== {page.name}, line {block.line}, after {seconds:.1f} s: {block.language}", flush=True)
        if block.mark.startswith("file: "):
            path = Path(block.mark.removeprefix("file: "))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.mark == "fails":
            said = _words(_failure(block, namespace))
            print(said)
            assert _words(following.text) in said, f"it did not say what line {following.line} shows"
        elif block.language == "python":
            exec(compile(block.text, f"{page.name} from line {block.line}", "exec"), namespace)
        elif block.language == "bash":
            subprocess.run(_bash(block), check=True)
        elif block.language == "yaml":
            _check_settings(block)


def _bash(block: Block) -> list[str]:
    lines = [line for line in block.text.splitlines() if not _NOT_RUN.match(line)]
    return ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]


def _failure(block: Block, namespace: dict) -> str:
    """Run a block that must fail, and return what it said."""
    if block.language == "bash":
        result = subprocess.run(_bash(block), capture_output=True, text=True, check=False)
        assert result.returncode, "this must fail, and did not"
        return result.stdout + result.stderr
    try:
        exec(block.text, namespace)
    except Exception as error:
        return "".join(traceback.format_exception_only(error))
    raise AssertionError("this must fail, and did not")


def _words(text: str) -> str:
    return " ".join(text.split())


def _check_settings(block: Block) -> None:
    """Let `parse_config` read a block of YAML as the settings of a recipe."""
    from seqgan_hf import SeqGANConfig, parse_config
    from seqgan_hf.arguments import TextRecipeArguments

    path = Path("settings_of_a_page.yaml")
    path.write_text(block.text, encoding="utf-8")
    parse_config((TextRecipeArguments, SeqGANConfig), [str(path), "--dataset_name", "texts.txt"])


# ---- The tests -----------------------------------------------------------------------------------------------------


def sentences() -> list[str]:
    return (ROOT / "recipes" / "data" / "sample_speech.txt").read_text(encoding="utf-8").splitlines()[:60]


def tiny_models() -> dict[str, tuple]:
    """Build what stands for the models of the pages: a tokenizer of the same kind, and a network of the same class."""
    import torch
    from tokenizers.processors import RobertaProcessing
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        RobertaConfig,
        RobertaForMaskedLM,
    )

    from seqgan_hf.tokenization import train_tokenizer

    def tokenizer(vocab_size, **special):
        trained = train_tokenizer(sentences(), vocab_size)
        return PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, **special)

    gpt2 = tokenizer(300, bos_token="</s>", eos_token="</s>", model_max_length=1024)
    roberta = tokenizer(320, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512)
    ends = [(token, roberta.convert_tokens_to_ids(token)) for token in ("</s>", "<s>")]
    roberta.backend_tokenizer.post_processor = RobertaProcessing(*ends, add_prefix_space=False)
    chat = tokenizer(310, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=8192)
    chat.chat_template = (
        "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}

    def special(tokenizer, *names):
        return {"vocab_size": len(tokenizer)} | {
            f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names
        }

    torch.manual_seed(0)
    gpt2_model = GPT2LMHeadModel(GPT2Config(**special(gpt2, "bos", "eos"), n_embd=16, n_layer=2, n_head=2))
    roberta_model = RobertaForMaskedLM(
        RobertaConfig(**special(roberta, "bos", "eos", "pad"), **sizes, max_position_embeddings=514)
    )
    wide = {**sizes, "hidden_size": 64, "intermediate_size": 64}  # bitsandbytes packs blocks of weights
    llama_model = LlamaForCausalLM(
        LlamaConfig(**special(chat, "bos", "eos", "pad"), **wide, max_position_embeddings=8192)
    )
    return {
        "openai-community/gpt2": (gpt2_model, gpt2),
        "distilbert/distilgpt2": (gpt2_model, gpt2),
        "distilbert/distilroberta-base": (roberta_model, roberta),
        "HuggingFaceTB/SmolLM2-135M": (llama_model, chat),
        "HuggingFaceTB/SmolLM2-135M-Instruct": (llama_model, chat),
    }


def small_datasets() -> dict[str, dict[str, str]]:
    """Build what stands for the datasets of the pages: files by path, with the same splits and columns."""
    lines = sentences()
    texts = [{"text": line} for line in lines]
    chats = [
        {"messages": [{"role": "user", "content": line}, {"role": "assistant", "content": answer}]}
        for line, answer in itertools.pairwise(lines)
    ]
    reviews = [{"text": line, "label": number % 2} for number, line in enumerate(lines)]

    def files(folder: str, **splits: list[dict]) -> dict[str, str]:
        card = f"---\nconfigs:\n- config_name: {folder}\n  data_dir: {folder}\n---\n"
        rows = {f"{folder}/{name}.jsonl": "\n".join(map(json.dumps, split)) for name, split in splits.items()}
        return {"README.md": card, **rows}

    return {
        "Salesforce/wikitext": files(
            "wikitext-2-raw-v1", train=texts[40:] * 12, validation=texts[:20], test=texts[20:40]
        ),
        "HuggingFaceTB/smoltalk": files("everyday-conversations", train=chats, test=chats[:10]),
        "stanfordnlp/imdb": files("plain_text", train=reviews[20:], test=reviews[:20]),
    }


@pytest.fixture(scope="module")
def environment(machine, tmp_path_factory):
    """Fill the Hub, start the process that all programs are forks of, and return their environment."""
    folder = tmp_path_factory.mktemp("docs")
    hub = machine.new_hub({WRITE_TOKEN: Account("you")})
    for name, parts in tiny_models().items():
        for part in parts:
            part.save_pretrained(folder / name)
        hub.add_repo(name, {path.name: path.read_bytes() for path in (folder / name).iterdir()})
    for name, files in small_datasets().items():
        hub.add_repo(name, files, repo_type="dataset")
    variables = machine.environment() | {"TOKENIZERS_PARALLELISM": "false"}
    prepare = "test_docs:keep_runs_short"
    with ForkServer(folder, variables, MODULES, PROGRAMS, prepare, python=machine.python) as server:
        yield server.environment


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def run(environment):
    """Return a function that runs a command in a folder, and gives its exit code and what it prints."""

    def run(command: list, folder: Path) -> tuple[int, str]:
        result = subprocess.run(
            list(map(str, command)), env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        return result.returncode, result.stdout

    return run


@pytest.fixture
def reader(tmp_path) -> Path:
    """Return a folder with what a reader has at hand: the repository's files, and texts of his own."""
    for name in ("recipes", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = sentences()
    (tmp_path / "speeches").mkdir()
    for name, texts in {"train": lines[:40], "validation": lines[40:50], "test": lines[50:]}.items():
        for path in (tmp_path / "speeches" / f"{name}.txt", tmp_path / f"{name}.txt"):
            path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    (tmp_path / "speeches.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_the_documentation_builds_without_a_broken_reference(run, tmp_path):
    inventory = pytest.importorskip("sphinx.util.inventory").InventoryFile
    code, said = run([*SPHINX, DOCS, tmp_path], ROOT)
    assert code == 0, said
    with (tmp_path / "objects.inv").open("rb") as file:
        objects = inventory.load(file, "", lambda base, uri: uri)
    documented = {name for kind, names in objects.items() if kind.startswith("py:") for name in names}
    assert {f"seqgan_hf.{name}" for name in seqgan_hf.__all__} <= documented
    modules = {f"seqgan_hf.{path.stem}" for path in (ROOT / "seqgan_hf").glob("[!_]*.py")}
    assert modules - documented == {"seqgan_hf.cli", "seqgan_hf.trainer"}  # on pages of their own, and in the package


def test_a_broken_reference_of_any_kind_fails_the_build(run, tmp_path):
    pytest.importorskip("sphinx")
    shutil.copy(DOCS / "conf.py", tmp_path)
    (tmp_path / "index.md").write_text(
        "# Home\n\n[a](missing.md) [b](index.md#nowhere) {py:class}`seqgan_hf.Missing` ![c](missing.png)\n\n"
        "```{eval-rst}\n.. autofunction:: seqgan_hf.rewards.leave_one_out_advantages\n```\n"
    )
    (tmp_path / "orphan.md").write_text("# Orphan\n")
    code, said = run([*SPHINX, tmp_path, tmp_path / "html"], tmp_path)
    assert code != 0
    broken = ("'missing.md'", "'nowhere'", "seqgan_hf.Missing", "missing.png", "orphan.md", "average_rollout_scores")
    assert [what for what in broken if what not in said] == [], said


@pytest.mark.parametrize("page", [page for page in PAGES if read_blocks(page)], ids=name_of)
def test_what_a_page_tells_its_reader_to_run_runs(page, run, reader):
    code, said = run(["page", page], reader)
    print(said)
    assert code == 0
