"""What a built wheel carries, seen from a process that has only the wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_installed_elsewhere_has_every_file_it_needs(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "seqgan_hf").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= packed
    assert not any(name.startswith(("tests", "recipes", "benchmarks")) for name in packed)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import seqgan_hf, evaluate; "
        f"assert seqgan_hf.__file__.startswith({str(tmp_path)!r}); from seqgan_hf.metrics import Bleu; "
        "print(Bleu().compute(predictions=['a b'], reference_corpus=['a b'], max_order=2)['bleu2'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.stdout.strip() == "1.0", result.stderr
