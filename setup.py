from pathlib import Path

from setuptools import find_packages, setup

extras = {
    "music": ["mido>=1.3"],
    "peft": ["peft>=0.18"],
    "plots": ["matplotlib>=3.8"],
    "rich": ["rich>=13.8"],
    "mauve": ["mauve-text>=0.4"],
    "docs": ["sphinx>=8", "myst-parser>=4", "furo>=2025.7.19"],
    "trackers": ["tensorboard>=2.16", "trackio>=0.20", "wandb>=0.20"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "nltk>=3.9",
        "sacrebleu>=2.4",
        "scipy>=1.11",
        "peft>=0.18",
        "matplotlib>=3.8",
        "mido>=1.3",
        "mauve-text>=0.4",
        "markdown-it-py[linkify]>=3",
        "playwright>=1.50",
        "bitsandbytes>=0.48; platform_system == 'Linux'",
    ],
}
extras["dev"] = [
    *extras["test"],
    *extras["rich"],
    *extras["trackers"],
    *extras["docs"],
    "ruff>=0.12",
    "mypy>=1.15",
    "types-PyYAML",
    "build>=1.2",
    "setuptools>=68",
    "wheel",
]

setup(
    name="seqgan_hf",
    version="0.1.0",
    description="Adversarial fine-tuning of causal language models: SeqGAN for the Hugging Face stack",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["seqgan_hf", "seqgan_hf.*"]),
    package_data={"seqgan_hf": ["py.typed", "metrics/*/README.md", "templates/*"]},
    entry_points={"console_scripts": ["seqgan-hf = seqgan_hf.cli:main"]},
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17,<6",
        "datasets>=4.0,<6",
        "tokenizers>=0.22",
        "accelerate>=1.10,<2",
        "evaluate>=0.4.5",
        "huggingface_hub>=1.5,<3",
        "jinja2>=3.1",
        "numpy>=1.26",
        "psutil>=5.9",
        "pyarrow>=15",
        "pyyaml>=6",
        "tqdm>=4.66",
    ],
    extras_require=extras,
)
