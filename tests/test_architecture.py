"""The import directions of the two packages, and what importing them must not pull in. Held on the syntax tree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each line may import from the lines above it and from its own.
LAYERS = (
    (
        "install",
        "section",
        "records",
        "text",
        "think",
        "lock",
        "statistics",
        "expression",
        "canonical",
        "heap",
        "child",
        "key_index",
        "seccomp",
        "isolation",
        "sandbox",
    ),
    ("roles", "manifest"),
    (
        "shards",
        "templates",
        "similarity",
        "digests",
        "convert",
        "mirror",
        "student",
        "quantisation",
        "journal",
        "label_model",
        "label_codec",
        "soft_labels",
        "label_journal",
    ),
    ("models", "doctor", "store", "engines", "verifiers", "rules", "objectives"),
    (
        "embedding",
        "orders",
        "routing",
        "rounds",
        "pilot",
        "training",
        "sources",
        "page",
        "scoring",
        "ballots",
        "variants",
        "golds",
    ),
    ("schedule", "wanted", "readings", "traces"),
    ("sampling",),
    ("adaptive", "augment", "labelling"),
    ("blending", "choosing", "general", "shares", "verdicts"),
    ("stage",),
    ("opinions", "ratings"),
    ("stages",),
    ("plan",),
    ("recipe",),
    ("run", "output"),
    ("runner", "peek", "estimate", "check", "publish", "serve"),
    ("display", "tables"),
    ("cli",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HEAVY = (
    "torch",
    "transformers",
    "vllm",
    "datasets",
    "trl",
    "peft",
    "accelerate",
    "polars",
    "matplotlib",
    "numba",
    "reasoning_gym",
    "math_verify",
)


def modules() -> list[Path]:
    return sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/**/*.py")])


def unit(dotted: str) -> str | None:
    """The layer's name of a dotted module: pipeline.rules.length -> rules, stages.mix -> stages."""
    package, _, rest = dotted.partition(".")
    if package == "stages":
        return "stages"
    return rest.split(".")[0] or None if package == "pipeline" else None


def imports(path: Path) -> list[str]:
    """Every project module that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module in ("pipeline", "stages")
                else [node.module]
            )
    return [name for name in found if name.split(".")[0] in ("pipeline", "stages")]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_run_one_way(path: Path) -> None:
    own = unit(dotted(path))
    if own is None:
        return
    for name in imports(path):
        other = unit(name)
        if other is None or name == "pipeline.__version__":
            continue
        assert own in RANK, f"{dotted(path)} has no place in LAYERS"
        assert other in RANK, f"{name} has no place in LAYERS"
        assert (own, other) != ("stages", "stages"), f"{dotted(path)} imports another stage: {name}"
        assert RANK[other] <= RANK[own], f"{dotted(path)} imports {name}, which knows more than it"


def test_importing_the_command_line_and_every_stage_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, pipeline.cli\n"
        "from pipeline import plan\n"
        "plan.stages()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"


def calls(path: Path) -> set[str]:
    """Names of functions called in a file: print, write_table, ..."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    return found


def test_only_shards_opens_parquet_for_writing() -> None:
    writers = [
        dotted(path)
        for path in modules()
        if calls(path) & {"write_table", "ParquetWriter", "write_parquet", "to_parquet"}
    ]
    assert writers == ["pipeline.shards"]


def test_only_the_command_line_prints() -> None:
    def prints(path: Path) -> bool:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" for node in ast.walk(tree))

    assert [dotted(path) for path in modules() if prints(path)] == []


def test_only_one_file_knows_the_think_tags() -> None:
    knowing = [
        dotted(path) for path in modules() if "think>" in path.read_text(encoding="utf-8").replace("<think> tags", "")
    ]
    assert knowing == ["pipeline.think"]


def test_the_top_level_is_what_the_design_says() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    assert top <= {
        "pyproject.toml",
        "README.md",
        "pipeline",
        "stages",
        "prompts",
        "tests",
        "data",
        "Makefile",
        "LICENSE",
    }
