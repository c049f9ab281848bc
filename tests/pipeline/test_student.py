"""Students made from a model's own layers: which stay, what they compute, and that they are made once, by content."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import models, recipe, student
from pipeline.recipe import RecipeError
from pipeline.roles import Student
from pipeline.student import StudentError, chosen, evenly, figures, line, make, sliced
from pipeline.think import CLOSE, OPEN
from tests import tiny

IDS = [[5, 60, 7, 90, 11, 3], [200, 1, 2, 33, 44, 55]]
PLAIN = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 12}


def silent(line: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with four layers."""
    return tiny.build(tmp_path_factory.mktemp("source") / "four", layers=4)


def role(model: Path | str, **values: Any) -> Student:
    return Student(model=str(model), **values)


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(IDS), use_cache=False).logits


def by_hand(folder: Path, layers: list[int]) -> Any:
    """A whole model that skips the layers left out."""
    model = loaded(folder)
    kept = [model.model.layers[number] for number in layers]
    del model.model.layers[:]
    model.model.layers.extend(kept)
    model.config.num_hidden_layers = len(layers)
    if model.config.to_dict().get("layer_types"):
        model.config.layer_types = [model.config.layer_types[number] for number in layers]
    return model


@pytest.mark.parametrize(
    ("count", "total", "layers"),
    [(6, 12, [0, 2, 4, 7, 9, 11]), (1, 5, [0]), (2, 24, [0, 23]), (4, 4, [0, 1, 2, 3]), (3, 6, [0, 3, 5])],
)
def test_a_number_of_layers_means_even_steps_with_the_first_and_the_last(
    count: int, total: int, layers: list[int]
) -> None:
    assert evenly(count, total) == layers


def test_every_number_of_layers_gives_as_many_different_ones() -> None:
    for total in range(1, 40):
        for count in range(1, total + 1):
            found = evenly(count, total)
            assert len(found) == len(set(found)) == count
            assert found == sorted(found)
            assert 0 <= found[0] <= found[-1] < total


@pytest.mark.parametrize(
    ("config", "layers", "says"),
    [
        (PLAIN, 13, "asks for 13 layers; the model has 12, numbered 0 to 11"),
        (PLAIN, (0, 12), "asks for layer 12; the model has 12"),
        ({"architectures": ["BertModel"], "num_hidden_layers": 12}, 6, "found BertModel with 12 layers"),
        ({"architectures": ["VisionForCausalLM"], "text_config": PLAIN}, 6, "with None layers"),
        ({**PLAIN, "mlp_only_layers": [0]}, 6, "mixes layers with and without experts"),
        ({**PLAIN, "decoder_sparse_step": 2}, 6, "mixes layers with and without experts"),
        ({**PLAIN, "first_k_dense_replace": 1}, 6, "mixes layers with and without experts"),
    ],
)
def test_layers_that_a_model_does_not_have_are_refused(config: dict[str, Any], layers: Any, says: str) -> None:
    with pytest.raises(StudentError, match=says):
        chosen(config, layers)


def test_what_a_configuration_says_of_each_layer_follows_the_layers() -> None:
    kinds = ["full_attention"] * 2 + ["sliding_attention"] * 2
    config = {"num_hidden_layers": 4, "layer_types": kinds, "max_window_layers": 2, "eos_token_id": [1, 2, 3, 4]}
    assert sliced(config, [0, 3]) == {
        "num_hidden_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"],
        "max_window_layers": 1,
        "eos_token_id": [1, 2, 3, 4],
    }
    assert config["layer_types"] == kinds


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which a student was made of layers 0 and 3, in a process of its own as any run makes it."""
    root = tmp_path_factory.mktemp("project")
    models.fetch(role(source, layers=[0, 3]), root, silent)
    return root


def test_a_shallow_student_computes_what_its_source_would_without_the_other_layers(source: Path, made: Path) -> None:
    folder = models.fetch(role(source, layers=[0, 3]), made, silent)
    shallow = loaded(folder)
    assert shallow.config.num_hidden_layers == len(shallow.model.layers) == 2
    assert shallow.config.tie_word_embeddings
    assert logits(shallow).equal(logits(by_hand(source, [0, 3])))
    assert not logits(shallow).equal(logits(by_hand(source, [0, 1])))
    texts = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    assert {name for name in texts if (folder / name).exists()} == texts
    assert (folder / "chat_template.jinja").read_text() == (source / "chat_template.jinja").read_text()


def test_its_size_and_how_much_smaller_it_is_are_told(source: Path, made: Path) -> None:
    found = figures(models.fetch(role(source, layers=[0, 3]), made, silent))
    whole = figures(source)
    assert whole == {"parameters": sum(weight.numel() for weight in loaded(source).parameters())}
    assert found["source_parameters"] == whole["parameters"]
    assert found["compression_ratio"] == whole["parameters"] / found["parameters"] > 1
    assert "layers 0, 3 of 4" in line(found)
    assert line(whole) == f"student: {whole['parameters'] / 1e6:,.1f} M parameters"


def test_a_made_student_is_known_by_what_it_is_made_from_and_how(source: Path, tmp_path: Path) -> None:
    def identity(model: Path, **values: Any) -> str:
        return models.resolve(role(model, **values), tmp_path).identity

    copy = shutil.copytree(source, tmp_path / "elsewhere" / "copy")
    wanted = identity(source, layers=[0, 3])
    assert identity(copy, layers=[0, 3]) == wanted
    others = [identity(source, layers=[0, 2]), identity(source, layers=2), identity(source, think_tokens=True)]
    assert len({wanted, *others, identity(source)}) == 5
    (copy / "tokenizer.json").write_text("{}")
    assert identity(copy, layers=[0, 3]) != wanted


@pytest.fixture
def makes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Students are made in this process; every time is noted."""
    calls: list[Any] = []

    def here(*values: Any) -> None:
        calls.append(values)
        make(*values)

    monkeypatch.setattr(student, "run_make", here)
    return calls


def test_a_student_is_made_once_and_again_where_its_files_changed(
    source: Path, made: Path, makes: list[Any], tmp_path: Path
) -> None:
    folder = models.fetch(role(source, layers=[0, 3]), made, silent)
    assert makes == []
    assert folder.parent == made / "data" / "models" / "made"
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-4] + b"torn")
    assert models.fetch(role(source, layers=[0, 3]), made, silent) == folder
    assert len(makes) == 1
    assert (folder / "model.safetensors").read_bytes() == weights
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_student_that_cannot_be_made_says_why(source: Path, tmp_path: Path) -> None:
    for early in (models.foresee, models.fetch):
        with pytest.raises(models.ModelError, match=r"No student can be made from .*asks for layer 7; the model has 4"):
            early(role(source, layers=[0, 7]), tmp_path, silent)
    with pytest.raises(models.ModelError, match="No model 'nowhere'"):
        models.resolve(role("nowhere", layers=2), tmp_path)


def untied(folder: Path) -> Path:
    """A tiny Qwen2 with four layers, two of them with a sliding window, its head a matrix of its own, rows to spare."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = tiny.tokenizer()
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=3,
        max_window_layers=2,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_sliding_windows_and_a_head_of_its_own_are_kept(tmp_path: Path) -> None:
    source, dest = untied(tmp_path / "source"), tmp_path / "made"
    make(source, dest, [1, 3], False)
    shallow = loaded(dest)
    assert shallow.config.layer_types == ["full_attention", "sliding_attention"]
    assert not shallow.config.tie_word_embeddings
    assert logits(shallow).equal(logits(by_hand(source, [1, 3])))


def test_a_layer_stays_what_it_was_where_a_configuration_names_a_pattern_alone(tmp_path: Path) -> None:
    """As Gemma 3's does on the hub: every sixth layer sees all of the text, the others a window of it."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    source, dest, tokenizer = tmp_path / "source", tmp_path / "made", tiny.tokenizer()
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), num_hidden_layers=6, head_dim=16, sliding_window=3, pad_token_id=0, **sizes
    )
    Gemma3ForCausalLM(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    written = json.loads((source / "config.json").read_text())
    assert written.pop("layer_types")[5] == "full_attention"
    (source / "config.json").write_text(json.dumps({**written, "sliding_window_pattern": 6}))
    make(source, dest, [1, 5], False)
    shallow = loaded(dest)
    assert shallow.config.layer_types == ["sliding_attention", "full_attention"]
    assert logits(shallow).equal(logits(by_hand(source, [1, 5])))


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_think_tokens_start_as_the_mean_of_their_pieces_and_change_nothing_else(
    source: Path, tmp_path: Path, kind: str
) -> None:
    from pipeline.templates import encode, load_tokenizer

    source = source if kind == "tied" else untied(tmp_path / "source")
    make(source, tmp_path / "made", None, True)
    before, after = load_tokenizer(source), load_tokenizer(tmp_path / "made")
    assert after.chat_template == before.chat_template
    text = f"What is 12 + 30?\n{OPEN}\n12 + 30 = 42\n{CLOSE}\n\nIt is 42."
    assert after.decode(encode(after, text)) == text
    plain = text.replace(OPEN, "").replace(CLOSE, "")
    assert encode(after, plain) == encode(before, plain)
    old, new = loaded(source), loaded(tmp_path / "made")
    assert new.config.vocab_size == (len(after) if kind == "tied" else old.config.vocab_size)
    for tag in (OPEN, CLOSE):
        (row,) = encode(after, tag)
        pieces = encode(before, tag)
        assert len(pieces) > 1
        for one, other in ((old.get_input_embeddings(), new.get_input_embeddings()), (old.lm_head, new.lm_head)):
            assert other.weight[row].allclose(one.weight[pieces].mean(dim=0), atol=1e-6)
        assert (logits(new)[..., row] <= logits(new)[..., pieces].max(dim=-1).values + 1e-6).all()
    rows = min(len(before), old.config.vocab_size)
    assert logits(new)[..., :rows].equal(logits(old)[..., :rows])
    assert figures(tmp_path / "made")["added_tokens"] == [OPEN, CLOSE]


def test_tags_that_are_tokens_already_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "one", None, True)
    make(tmp_path / "one", tmp_path / "two", None, True)
    assert figures(tmp_path / "two")["added_tokens"] == []
    assert (tmp_path / "two/model.safetensors").read_bytes() == (tmp_path / "one/model.safetensors").read_bytes()


def written(**student_values: Any) -> Student:
    values = {
        "teacher": {"model": "big", "engine": student_values.pop("engine", "vllm")},
        "more_teachers": {"coder": {"model": "code", "engine": "hf"}},
        "student": student_values,
        "seed": {"sources": [{"kind": "file", "path": "a.jsonl"}]},
    }
    found = recipe.check(values, "mine", "mine.yaml")
    assert json.loads(json.dumps(found.resolved()))["student"]["from"] is None
    return found.student


def test_from_stands_for_a_teachers_model() -> None:
    assert written(**{"from": "teacher", "layers": [0, 2]}) == role("big", layers=[0, 2])
    assert written(**{"from": "coder", "layers": 3}) == role("code", layers=3)
    assert written(model="small") == role("small")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"from": "techer", "layers": 2}, "from is 'techer'; .* Did you mean teacher?"),
        ({"from": "teacher", "layers": 2, "engine": "openai"}, "engine is openai: it has no weights here"),
        ({"from": "teacher", "model": "small"}, "found model 'small' and from 'teacher'; expected one of them"),
        ({"layers": 2}, "found model '' and from None"),
        ({"model": "small", "layers": []}, "expected a number of layers from 1 on"),
        ({"model": "small", "layers": 0}, "expected a number of layers from 1 on"),
        ({"model": "small", "layers": [2, 1]}, "rising"),
        ({"model": "small", "layers": [-1, 1]}, "from 0 on"),
        ({"model": "small", "frm": "teacher"}, "student.frm: unknown key. Did you mean from?"),
    ],
)
def test_a_student_of_nothing_or_of_two_things_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says.replace("?", r"\?")):
        written(**values)
