"""The examples and the README's snippet run, and what they assert holds."""

import pathlib
import re
import shutil
import subprocess
import sys

import pages
import pytest

pytestmark = pytest.mark.slow

ROOT = pages.ROOT
README = (ROOT / "README.md").read_text()


def run(*arguments, cwd):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_membrane_on_a_coarse_mesh(tmp_path):
    pytest.importorskip("skfem")
    script = ROOT / "examples" / "membrane.py"
    result = run(script, "--cells", "24", "--steps", "4", "--output", "picture.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "% after" in result.stdout
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


SMALL = {
    "quickstart": ((), "autodiff of eigh       nan"),
    "finite_elements": (("--cells", 10), "200 parameters, 81 unknowns: 4 contractions"),
    "orr_sommerfeld": (("--order", 48, "--grid", 2, "--curve", 3), "neutral curve: 7 points"),
    "band_structure": (("--pixels", 16, "--points", 3), "long waves: group velocity"),
    "damped_structure": (("--elements", 8, "--steps", 40), "% after"),
    "delay": (("--delays", 31), "stable up to τ = 0.78521"),
    "crossing": (("--steps", 25), "order changes"),
    "max_eigenvalue": ((), "above the minimum"),
    "symmetric_membrane": (("--points", 12, "--steps", 30), "least norm: λ₂/λ₁"),
    "exceptional_point": (("--distances", 12, "--trials", 4), "relative error ~ κ^"),
    "buckling": ((), "of the uniform load, the second mode appears at"),
    "waveguide": ((), "layer on the core: Δn ="),
    "host_assembly": (("--cells", 4), "32 derivatives"),
    "topology": (("--cells", 8, "--steps", 40), "least norm: λ₁ 0.0971 →"),
    "torch_layers": (("--steps", 3), "gradient of 4742 weights"),
}


@pytest.mark.parametrize("name", SMALL)
def test_examples_with_small_settings(name, tmp_path):
    settings, text = SMALL[name]
    if name == "torch_layers":
        pytest.importorskip("torch", reason="needs torch")
    script = ROOT / "examples" / f"{name}.py"
    result = run(script, *settings, "--output", "picture.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert text in result.stdout
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_sharded_schroedinger(tmp_path):
    pytest.importorskip("matfree", reason="needs matfree")
    script = ROOT / "examples" / "sharded_schroedinger.py"
    settings = "--points", 16, "--devices", 4, "--output", "picture.png"
    result = run(script, *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "4 devices in 1 processes" in result.stdout
    assert "gradient norm" in result.stdout
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_mpi_membrane(tmp_path):
    """The gradient is the same on one rank and on two."""
    pytest.importorskip("slepc4py", reason="needs petsc4py")
    launcher = shutil.which("mpiexec", path=pathlib.Path(sys.executable).parent)
    if launcher is None:
        pytest.skip("needs petsc4py with mpiexec")
    norms = []
    for ranks in ("1", "2"):
        script = [str(ROOT / "examples" / "mpi_membrane.py"), "--cells", "40"]
        command = [launcher, "-n", ranks, sys.executable, "-m", "mpi4py", *script]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500
        )
        assert result.returncode == 0, result.stdout + result.stderr
        norms.append(float(re.search(r"gradient norm (\S+)", result.stdout)[1]))
    assert abs(norms[0] - norms[1]) < 1e-10 * norms[0]


def test_the_readmes_snippet():
    (snippet,) = pages.blocks(README)
    path = ROOT / "README.md"
    exec(compile(snippet, str(path), "exec"), {})


def test_the_readmes_first_two_blocks_are_one_line_each():
    blocks = re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)[:2]
    assert all(len(block.strip().splitlines()) == 1 for block in blocks)
    assert "examples/membrane.py" in blocks[0]
    assert blocks[1].strip().endswith("python -m pytest")
