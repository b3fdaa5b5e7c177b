"""
Draw the bundled texts of the recipes' `smoke` presets: quatrains, melodies and captions that nobody has written.

    python recipes/data/draw.py

They are for trying out that everything works. `sample_speech.txt` was written by hand.
"""

import random
from pathlib import Path

FOLDER = Path(__file__).parent
NUM_TEXTS = 400

WHO = "春风 明月 秋雨 寒江 孤舟 青山 白云 落花 晚钟 古寺 远客 故人 夕阳 归雁 清溪 微霜 残灯 老树 新燕 渔火".split()
DOES = "入 照 过 满 随 对 隔 送 绕 近 生 望".split()
WHAT = "江南 空林 旧楼 天涯 柴门 客心 小桥 平沙 西窗 荒城 竹径 石泉 千家 孤村 寒灯 高台".split()

# Degrees of a major scale, as steps from its root; phrases of eight steps follow the plan A A B A.
SCALE = (0, 2, 4, 5, 7, 9, 11, 12, 14, 16)
ROOTS = (40, 42, 45, 47)

SUBJECTS = "man,woman,boy,girl,dog,cat,group of people,small bird,brown horse,young couple".split(",")
ACTS = "riding,holding,looking at,standing next to,sitting on,playing with,walking past,sleeping on".split(",")
THINGS = "red bicycle,wooden bench,kite,white boat,kitchen table,train,surfboard,pile of books,street sign".split(",")
PLACES = "in a park,on a busy street,near the beach,inside a room,under a tree,in front of a building".split(",")


def quatrain(rng: random.Random) -> str:
    """Return four lines of five characters: who does what, each thing once."""
    parts = (rng.sample(words, 4) for words in (WHO, DOES, WHAT))
    return "".join("".join(line) for line in zip(*parts, strict=True))


def melody(rng: random.Random) -> str:
    """Return 32 steps of a tune: a phrase twice, another, and the first again, on one scale."""
    root = rng.choice(ROOTS)
    first, second = phrase(rng), phrase(rng)
    return " ".join(str(0 if degree is None else root + SCALE[degree]) for degree in [*first, *first, *second, *first])


def phrase(rng: random.Random) -> list[int | None]:
    """Return eight degrees of the scale that move by small steps, some held; now and then it ends with a rest."""
    degree = rng.choice((0, 2, 4))
    degrees: list[int | None] = []
    for _ in range(8):
        degrees.append(degree)
        degree = min(max(degree + rng.choice((-1, 0, 0, 1, 1, 2, -2)), 0), len(SCALE) - 1)
    if rng.random() < 0.2:
        degrees[-1] = None
    return degrees


def caption(rng: random.Random) -> str:
    """Return what a picture might show."""
    subject, act, thing = rng.choice(SUBJECTS), rng.choice(ACTS), rng.choice(THINGS)
    return f"a {subject} {act} a {thing} {rng.choice(PLACES)}."


def main() -> None:
    for name, draw in (("sample_quatrains", quatrain), ("sample_melodies", melody), ("sample_captions", caption)):
        rng = random.Random(name)
        texts: dict[str, None] = {}
        while len(texts) < NUM_TEXTS:
            texts[draw(rng)] = None
        (FOLDER / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
