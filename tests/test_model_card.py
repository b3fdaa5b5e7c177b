"""Cards are read here as the Hub reads them: metadata by huggingface_hub, Markdown by a renderer that is not ours."""

import ast
import dataclasses
import itertools
import random
import re
import unicodedata
from html.parser import HTMLParser

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from markdown_it import MarkdownIt

from seqgan_hf.model_card import CardFacts, NetworkFacts, escape, render_model_card

STAGES = {
    "MLE": {"nll": 4.7141, "perplexity": 111.51, "bleu2": 0.548},
    "MLE, temperature 0.75": {"nll": 4.9120, "perplexity": 135.91, "bleu2": 0.611},
    "SeqGAN": {"nll": 4.7131, "perplexity": 111.40, "bleu2": 0.533},
}
NASTY = [
    "a | b || c |---|", "`code` ``` ~~~ ``", "line\nline\r\n\nparagraph\tand\x0btabs", "<script>alert(1)</script>",
    "</td></tr></table></details><details open>", "[x](javascript:alert(1))", "![x](https://example.com/pixel.png)",
    "---\nlicense: mit\n---", "- x: 1\n  y: [", "@somebody #12 mail me@example.com", "https://example.com/a?b=c&d=e",
    "www.example.com, example.com. http://x.org", "<https://example.com> <me@example.com>", "$x^2$ and $$y$$ \\(z\\)",
    "\x00\x07\x1b[31mred\x7f\x85", "\ud800lone\udfff", "\u202eevil\u202c \u2066x\u2069 zero\u200b\u200d\ufeffwidth",
    "{{ facts }} {% raw %} {# no #} {{ 7 * 7 }}", "&lt;b&gt; &amp; &#60; &copy; &#x3c;", "\\| \\\\| \\*not\\*", "# one",
    "1. one", "2) two", "* a", "+ b", "> quote", "=== ", "**bold** __strong__ _em_ *em* ~~del~~ ~sub~", "[^1]",
    "[ref]: /url 'x'", "| x |\n|---|\n| y |", ":smile: (c) ... -- \"quoted\" 'it\'s'", "[ ] [x] todo", "a_b_c snake_ _x",
    "]]>", "<!-- hidden", "<?php ?>", "ftp://x.y mailto:me@x.y tel:123", "\u2028\u2029 \u00a0 \u3000 x", "word " * 100,
    "|" * 1000, "", " \n ", "\U0001d518 é 日本 🙂 ﷽ \u0301combining", "'''", '"""', "C:\\temp\\x", "%(a)s {0} ${HOME}",
]  # fmt: skip


def random_texts(count=300):
    rng = random.Random(0)
    pieces = [
        *"|`*_[]()<>#&;:/\\!@.,-+=~$'\"{}% \n\tab1é",
        "www.",
        "http://",
        "x.com",
        "&#124;",
        "</td>",
        "\u202e",
        "---",
    ]
    for _ in range(count):
        anything = (
            chr(rng.choice([rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x110000)])) for _ in "ab"
        )
        yield "".join(rng.choice([*pieces, *anything]) for _ in range(rng.randrange(1, 40)))


def shown(text, most=300):
    """What a reader should see of a text, written anew: one line, nothing that shows nothing, cut."""
    spaced = "".join(" " if char.isspace() else char for char in text)
    visible = "".join(char for char in spaced if unicodedata.category(char) not in {"Cc", "Cf", "Cs"})
    line = re.sub(" +", " ", visible).strip()
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


class Page(HTMLParser):
    """The tags of a page with their attributes, its texts, and the texts of its cells, headings and code blocks."""

    def __init__(self, markdown, preset="gfm-like"):
        super().__init__()
        self.tags, self.texts, self.inside, self.open = [], "", {}, []
        self.feed(MarkdownIt(preset, {"linkify": True, "html": True}).render(markdown))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(attributes)))
        self.open.append(tag)
        self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass  # an image, say, has no end

    def handle_data(self, data):
        self.texts += data
        for tag in self.open:
            self.inside[tag][-1] += data

    def handle_comment(self, data):
        self.tags.append(("comment", data))


def minimal_facts(**changes):
    facts = CardFacts(
        model_id="speeches-gpt2",
        title="speeches-gpt2",
        generator=NetworkFacts("GPT2LMHeadModel"),
        discriminator=NetworkFacts("BertForSequenceClassification"),
        start_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        max_completion_length=32,
    )
    return dataclasses.replace(facts, **changes)


def full_facts(**changes):
    facts = minimal_facts(
        model_id="tester/speeches-gpt2",
        generator=NetworkFacts("GPT2LMHeadModel", "distilbert/distilgpt2"),
        discriminator=NetworkFacts("RobertaForSequenceClassification", "distilbert/distilroberta-base"),
        dataset="tester/speeches",
        dataset_config="plain",
        dataset_split="test",
        dataset_revision="main",
        settings={
            "reward_control": "none",
            "num_rollouts": 4,
            "temperature": 1.0,
            "mle_epochs": 5.0,
            "vocab_size": 40,
        },
        defaults={"mle_epochs": 3.0},
        stages=STAGES,
        num_updates=200,
        num_sets=1050,
        seed=42,
        seconds=723.4,
        held_out_auc=0.6412,
        curves="curves.png",
        samples=[
            {"prompt": "", "completion": "We work for the town, and it works for us.", "score": 0.71},
            {"prompt": "", "completion": "A bridge is | a <b>promise</b>\n\n---\n", "score": 0.028},
            {"prompt": "", "completion": " ", "score": None},
        ],
        language="en",
        license="apache-2.0",
        tags=["speeches"],
        versions={"seqgan_hf": "0.1.0", "transformers": "5.23.0", "torch": "2.13.0"},
    )
    return dataclasses.replace(facts, **changes)


def variants():
    """Cards of every kind of pair."""
    for tokenizer, prompts, reads_ids, adapter, other_adapter, remote in itertools.product(
        [True, False], [0, 1, 2], *[[True, False]] * 4
    ):
        yield full_facts(
            has_tokenizer=tokenizer,
            is_conditional=prompts > 0,
            is_chat=prompts == 2 and tokenizer,
            discriminator_reads_ids=reads_ids,
            discriminator_reads_prompt=prompts > 0,
            is_adapter=adapter,
            discriminator_is_adapter=other_adapter,
            generator=NetworkFacts("LSTMForCausalLM", needs_remote_code=remote),
            discriminator=NetworkFacts("TextCNNForSequenceClassification", needs_remote_code=remote),
            eos_token_id=2 if remote else None,
        )


def metadata(card, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(card, encoding="utf-8")
    return ModelCard.load(path).data


def body(card):
    return card.split("\n---\n", 1)[1]


def code_blocks(card):
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("preset", ["gfm-like", "gfm-like2", "commonmark"])
@pytest.mark.parametrize("place", ["# {}", "{}", "so {} it is", "- {} x", "> {}", "[{}](https://x.org)"])
def test_escaped_text_comes_back_as_text_and_nothing_else(place, preset):
    plain = Page(place.format("x"), preset)
    for text in [*NASTY, *random_texts()]:
        page = Page(place.format(escape(text)), preset)
        expected = place.strip("#->[ ").replace("](https://x.org)", "").format(shown(text)).strip()
        if shown(text):
            assert page.tags == plain.tags, text
            assert page.texts.strip() == expected, text


@pytest.mark.parametrize("preset", ["gfm-like", "gfm-like2"])
def test_escaped_text_stays_in_its_cell(preset):
    tags = ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    for text in [*NASTY, *random_texts()]:
        page = Page(f"| a | b |\n|---|---|\n| {escape(text)} | 1 |\n", preset)
        assert [tag for tag, _ in page.tags] == tags, text
        assert page.inside["td"] == [shown(text), "1"], text


@pytest.mark.parametrize(
    "text", ["www.example.com", "https://x.org", "me@example.com", "~~x~~", "a | b", "<b>", "&lt;"]
)
def test_unescaped_text_would_not_come_back(text):
    page = Page(f"| a | b |\n|---|---|\n| {text} | 1 |\n")
    assert page.inside["td"] != [text, "1"] or {"a", "s", "b"} & {tag for tag, _ in page.tags}


def test_escaped_text_can_be_written_and_is_one_line():
    for text in [*NASTY, *random_texts()]:
        escape(text).encode("utf-8")
        assert len(escape(text).splitlines()) <= 1


def test_escape_cuts_before_it_escapes():
    assert escape("||||", most=3) == "&#124;&#124;…"
    assert escape("ab cd", most=4) == "ab…"
    assert escape("ab cd", most=5) == "ab cd"


def test_escape_leaves_prose_legible():
    text = "In 2017 the town's well-known bridge, num_rollouts 0.75, was open. We know."
    assert escape(text) == text


@pytest.mark.parametrize("text", NASTY)
def test_no_string_changes_the_form_of_the_card(text, tmp_path):
    """A harmless card and one whose every string is nasty have the same tags, and the same keys in their metadata."""

    def facts(word):
        word = word if word.strip() else word + "x y"  # what is blank is left out of the card
        return full_facts(
            model_id=word, title=word, generator=NetworkFacts(word, word), discriminator=NetworkFacts(word, word),
            dataset=word, dataset_config=word, dataset_split=word, dataset_revision=word, curves=None, language=[word],
            settings={word: word, "baseline": word, "num_rollouts": 3}, license=word, tags=[word], versions={word: word},
            stages={word: {word: 1.0}, "SeqGAN": {word: 2.0}},
            samples=[{"prompt": word, "completion": word, "score": 0.5}],
        )  # fmt: skip

    looks_local = re.search(r"[/\\]", text)  # then it is not shown at all
    plain, nasty = render_model_card(facts("x/y\\z" if looks_local else "x y")), render_model_card(facts(text))
    nasty.encode("utf-8")
    assert [tag for tag, _ in Page(body(nasty)).tags] == [tag for tag, _ in Page(body(plain)).tags]
    assert list(metadata(nasty, tmp_path).to_dict()) == list(metadata(plain, tmp_path).to_dict())
    assert metadata(nasty, tmp_path)["tags"][-1] == shown(text, 10_000) or not text.strip()
    for block in code_blocks(nasty):
        (assignment,) = [node for node in ast.parse(block).body if isinstance(node, ast.Assign)][:1]
        assert shown(assignment.value.value) == shown(text) or not text.strip()


def test_metadata_comes_back(tmp_path):
    data = metadata(render_model_card(full_facts()), tmp_path).to_dict()
    assert data.pop("model-index")[0]["name"] == "speeches-gpt2"
    assert data == {
        "base_model": ["distilbert/distilgpt2"],
        "base_model_relation": "finetune",
        "datasets": ["tester/speeches"],
        "language": ["en"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["seqgan", "seqgan_hf", "adversarial", "generated_from_trainer", "speeches"],
    }


def test_results_are_those_of_the_final_stage(tmp_path):
    results = metadata(render_model_card(full_facts()), tmp_path).eval_results
    assert {result.metric_type: result.metric_value for result in results} == STAGES["SeqGAN"]
    assert results[0] == EvalResult(
        task_type="text-generation",
        task_name="Text Generation",
        dataset_type="tester/speeches",
        dataset_name="tester/speeches",
        dataset_config="plain",
        dataset_split="test",
        dataset_revision="main",
        metric_type="nll",
        metric_name="NLL",
        metric_value=4.7131,
    )


@pytest.mark.parametrize("stages", [{}, {"MLE": {"nll": 4.0}}, {"SeqGAN": {}}, {"SeqGAN": {"nll": float("nan")}}])
def test_without_results_of_the_final_stage_there_is_no_model_index(stages):
    card = render_model_card(full_facts(stages=stages))
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1])


def test_what_is_not_finite_stays_out_of_the_metadata(tmp_path):
    stages = {"SeqGAN": {"nll": float("inf"), "perplexity": float("nan"), "bleu2": 0.5}}
    card = render_model_card(full_facts(stages=stages))
    assert [result.metric_type for result in metadata(card, tmp_path).eval_results] == ["bleu2"]
    assert "| SeqGAN | inf | nan | 0.5000 |" in card


def test_an_adapter_is_filed_under_peft(tmp_path):
    card = render_model_card(full_facts(is_adapter=True))
    data = metadata(card, tmp_path)
    assert (data["library_name"], data["base_model_relation"]) == ("peft", "adapter")
    assert data["base_model"] == ["distilbert/distilgpt2"]
    assert 'adapter_kwargs={"subfolder": "discriminator"}' in card


def test_an_adapter_whose_model_pads_otherwise_is_loaded_without_its_padding():
    pad = "pad_token_id=None,"
    settings = {"discriminator_is_adapter": True, "discriminator_reads_ids": True}
    assert pad in render_model_card(full_facts(**settings, discriminator_pads_anew=True))
    assert pad not in render_model_card(full_facts(**settings))


def test_networks_from_scratch_have_no_base_model(tmp_path):
    data = metadata(render_model_card(minimal_facts()), tmp_path).to_dict()
    assert set(data) == {"library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize("path", ["/home/ann/texts", "~/texts.txt", "../texts", "C:\\texts", "C:/texts", "ann/my/texts",
                                  "texts.jsonl", "https://user:secret@host/texts"])  # fmt: skip
def test_local_paths_are_not_told(path):
    networks = {"generator": NetworkFacts("A", path), "discriminator": NetworkFacts("B", path)}
    settings = {"output_dir": "ann-dir", "model_init_kwargs": {"token": "hf_x"}, "hub_token": "hf_x", "oracle": path}
    card = render_model_card(full_facts(**networks, dataset=path, settings=settings | {"model_name_or_path": "ann"}))
    assert escape(path) not in card and path not in card
    assert not re.search("ann-dir|hf_x|ann ", card)
    assert "a local model" in card and "The real texts are not named." in card


@pytest.mark.parametrize("description", ["420 sentences about a town", "speeches"])
def test_a_description_of_the_texts_is_shown_and_is_no_dataset_id(description, tmp_path):
    card = render_model_card(full_facts(dataset=description))
    assert f"Real texts: {description}, configuration plain" in card
    data = metadata(card, tmp_path)
    result = data.eval_results[0]
    assert (data.datasets, result.dataset_type, result.dataset_name) == (None, "unknown", description)


@pytest.mark.parametrize("control", ["constant", "shuffled", "random"])
def test_a_control_says_so_before_all_else(control, tmp_path):
    card = render_model_card(full_facts(settings={"reward_control": control}))
    first = Page(body(card).split("A generator")[0])
    assert [tag for tag, _ in first.tags][:3] == ["h1", "blockquote", "p"]
    assert "This is a control run, not a result of SeqGAN." in first.texts and control in first.texts
    assert metadata(card, tmp_path).eval_results[0].metric_name == f"NLL (a control run, reward {control})"
    assert "control run" not in render_model_card(full_facts())


def test_settings_other_than_the_defaults_stand_first():
    page = body(render_model_card(full_facts()))
    prominent, collapsed = page.split("## Settings")[1].split("## Results")[0].split("<details>")
    assert "| num_rollouts | 4 | 16 |\n| mle_epochs | 5.0 | 3.0 |" in prominent
    assert "temperature" not in prominent and "vocab_size" not in prominent
    assert "| temperature | 1.0 |" in collapsed and "| vocab_size | 40 |" in collapsed


def test_samples_show_prompts_where_there_are_some():
    card = render_model_card(full_facts())
    assert Page(body(card)).inside["td"][-6:] == [
        "We work for the town, and it works for us.", "0.71", "A bridge is | a <b>promise</b> ---", "0.03", "(empty)",
        "\u2013",
    ]  # fmt: skip
    prompted = render_model_card(full_facts(samples=[{"prompt": "We", "completion": " work", "score": 1.0}]))
    assert Page(body(prompted)).inside["td"][-3:] == ["We", "work", "1.00"]


def test_the_colder_rival_is_missed_where_it_was_not_measured():
    assert "(not measured here)" not in render_model_card(full_facts())
    assert "(not measured here)" in render_model_card(full_facts(stages={"SeqGAN": {"nll": 4.0}}))


def test_seeds_are_counted():
    assert "**One seed:**" in render_model_card(full_facts())
    assert "Means of 5 seeds." in render_model_card(full_facts(num_seeds=5))


@pytest.mark.parametrize("facts", [minimal_facts(), full_facts(), *variants()])
def test_cards_are_tidy_and_their_code_compiles(facts):
    card = render_model_card(facts)
    assert "\n\n\n" not in card and not re.search(r"[ \t]\n", card) and card.endswith("\n")
    assert not re.search(r"\n## [^\n]*\n+(## |$)", card)  # a section without content
    assert "{{ " not in card and "{%" not in card and "None" not in body(card) and "Undefined" not in card
    blocks = code_blocks(card)
    assert len(blocks) == (3 if facts.has_tokenizer else 2)
    for block in blocks:
        compile(block, "card", "exec")
        assert "&#" not in block and "seqgan_hf" not in block
    remote = (facts.generator.needs_remote_code, facts.discriminator.needs_remote_code)
    for block, needed in ((blocks[0], remote[0]), (blocks[-2], remote[0]), (blocks[-1], remote[1])):
        running_code = re.findall(r"Auto\w+\.from_pretrained|pipeline\(", block)
        assert block.count("trust_remote_code=True") == (needed and len(running_code))


def test_sections_without_facts_disappear():
    headings = re.findall(r"^## (.*)$", render_model_card(minimal_facts()), re.MULTILINE)
    assert headings == ["How to use", "Data", "The two networks", "Limits", "Citation"]
    headings = re.findall(r"^## (.*)$", render_model_card(full_facts()), re.MULTILINE)
    assert headings == [
        "How to use", "Data", "The two networks", "Settings", "Results", "Learning curves", "Samples", "Limits",
        "Citation", "Framework versions",
    ]  # fmt: skip


def test_the_same_facts_give_the_same_card():
    assert render_model_card(full_facts()) == render_model_card(full_facts())


def test_every_fact_is_described():
    for facts in (CardFacts, NetworkFacts):
        for field in dataclasses.fields(facts):
            assert re.search(rf"\b{field.name}\b", facts.__doc__), field.name
