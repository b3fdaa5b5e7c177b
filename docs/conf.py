"""Settings of Sphinx. This fails on any broken reference: sphinx-build -W --keep-going -q -b html docs docs/_build"""

import dataclasses
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext import napoleon

import seqgan_hf
from seqgan_hf import SeqGANConfig, arguments

project = "seqgan_hf"
author = "the authors of seqgan_hf"
version = release = seqgan_hf.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"seqgan_hf {version}"
html_copy_source = False

myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types, and shapes and ranges beside them
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(torch|transformers|datasets|peft|evaluate|huggingface_hub|rich|subprocess)\..*")]


def settings_table(config_class: type) -> str:
    """
    Lay out the fields of a dataclass as a Markdown table.

    Args:
        config_class (`type`): Fields that it inherits are left out.

    Returns:
        `str`: name, default, and the `help` of each field with its choices.
    """
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for option in dataclasses.fields(config_class):
        if option.init and option.name in config_class.__annotations__:
            default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
            shown = "required" if default is dataclasses.MISSING else f"`{default!r}`"
            choices = ", ".join(f"`{choice}`" for choice in option.metadata.get("choices", ()))
            text = option.metadata["help"].replace("|", r"\|") + (f" One of {choices}." if choices else "")
            lines.append(f"| `{option.name}` | {shown} | {text} |")
    return "\n".join(lines)


_CONFIG_CLASSES = (
    SeqGANConfig,
    arguments.DatasetArguments,
    arguments.TextRecipeArguments,
    arguments.SyntheticRecipeArguments,
    arguments.SampleArguments,
    arguments.EvaluateArguments,
)
myst_substitutions = {config_class.__name__: settings_table(config_class) for config_class in _CONFIG_CLASSES}


def markdown_to_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn [`Name`] into a reference, which must have a target, `code` into a literal, and `Args:` into a list."""

    def convert(match: re.Match) -> str:
        if match["name"] is None:
            return f"``{match['code']}``"
        return f":py:obj:`{match['tilde']}.{match['name']}`"  # the dot: whatever module it is in

    markup = r"\[`(?P<tilde>~?)(?P<name>[\w.]+)`\]|`(?P<code>[^`]+)`"
    text = re.sub(markup, convert, "\n".join(lines))
    # Of `train, validation (`Dataset`)` a field of its own (`use_param`) would make nonsense.
    config = napoleon.Config(napoleon_use_param=False, napoleon_use_rtype=False)
    # In a property's docstring, napoleon takes what stands before the first colon for a type.
    what = "method" if what == "property" else what
    lines[:] = napoleon.GoogleDocstring(text, config, app, what, name, obj, options).lines()


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", markdown_to_rst)
