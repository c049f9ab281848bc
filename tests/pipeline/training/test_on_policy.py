"""On-policy training on tiny models: prompts are an evaluation's, and only padding is cut off."""

import inspect
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.objectives.on_policy import OnPolicyExec
from pipeline.roles import Student, Teacher
from pipeline.stage import StageError
from pipeline.templates import end_token_id, load_tokenizer, prompt_ids
from pipeline.training.material import prepare
from stages import sft
from tests import tiny
from tests.desk import DeskInputs, DeskOutput
from tests.tiny import weights

OWN = {"prompts_per_step": 4, "max_tokens": 6, "teacher_dtype": "float32"}
VALUES: dict[str, Any] = {
    "objective": "on_policy",
    "epochs": 1,
    "learning_rate": 1e-2,
    "compute_dtype": "float32",
    "save_dtype": "float32",
    "early_stopping_patience": None,
    "exec": {"threads": 1},
}


def padded(folder: Path, rows: int) -> Path:
    """Give a tiny model of a folder so many more rows in its vocabulary than its tokenizer has tokens."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(5)
    model.resize_token_embeddings(len(tiny.tokenizer()) + rows, mean_resizing=False)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student and a teacher of one tokenizer, their vocabularies padded to other sizes."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "student": padded(tiny.build(folder / "student"), 5),
        "teacher": padded(tiny.build(folder / "teacher", seed=1), 13),
    }


def trained(folder: Path, models: dict[str, Path], **values: Any) -> DeskOutput:
    rows = tiny.examples(12, validation=2)
    inputs = DeskInputs(
        folder,
        {"examples": pa.Table.from_pylist(rows)},
        teacher=Teacher(model="teacher"),
        student=Student(model="student"),
        models=models,
    )
    output = DeskOutput(folder)
    own = OWN | values.pop("on_policy", {})
    sft.run(sft.Config(**{**VALUES, **values, "on_policy": own}), inputs, output)
    return output


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> DeskOutput:
    return trained(tmp_path_factory.mktemp("whole"), models)


def test_the_student_learns_from_its_teacher_and_keeps_the_shape_it_had(
    done: DeskOutput, models: dict[str, Path]
) -> None:
    losses = [loss for _, loss in done.facts["loss"]]
    assert len(losses) == done.facts["steps"] == 3
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert [math.isfinite(loss) for _, loss in done.facts["eval_loss"]] == [True]
    before, after = weights(models["student"]), weights(done.folder / "checkpoint")
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    size = len(tiny.tokenizer())
    name = "model.embed_tokens.weight"
    assert after[name][size:].equal(before[name][size:]), "the padding was trained"
    assert not after[name][:size].equal(before[name][:size])
    assert 3 * 4 <= done.facts["loss_tokens"] <= 12 * 6


def test_a_vocabulary_loses_padding_alone_and_gets_it_back(models: dict[str, Path]) -> None:
    import torch
    from transformers import LlamaForCausalLM

    from pipeline.training import on_policy

    model = LlamaForCausalLM.from_pretrained(models["teacher"])
    ids = torch.tensor([[5, 9, 300]])
    size = on_policy.vocabulary_size(tiny.tokenizer())
    with torch.no_grad():
        before = model(ids).logits
        padding = on_policy.trim(model, size)
        trimmed = model(ids).logits
        on_policy.restore(model, padding)
        after = model(ids).logits
    assert trimmed.shape[-1] == model_size(before) - 13 == size
    assert torch.allclose(trimmed, before[..., :size], atol=1e-6)  # a product of another size is summed otherwise
    assert after.equal(before)
    with pytest.raises(ValueError, match=r"its tokenizer 9000 tokens"):
        on_policy.trim(model, 9000)


def model_size(logits: Any) -> int:
    return int(logits.shape[-1])


def divergence(trainer: Any, inputs: dict[str, Any], beta: float, temperature: float) -> float:
    """The generalised Jensen-Shannon divergence of GKD per answer token, from whole distributions in float64."""
    import torch

    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        student, teacher = (
            model(input_ids=ids, attention_mask=mask)
            .logits[:, -width - 1 : -1]
            .double()
            .div(temperature)
            .log_softmax(-1)
            for model in (trainer.model, trainer.teacher_model)
        )
    mixture = ((1 - beta) * student.exp() + beta * teacher.exp()).log()
    each = beta * (teacher.exp() * (teacher - mixture)).sum(-1)
    each += (1 - beta) * (student.exp() * (student - mixture)).sum(-1)
    answered = inputs["completion_mask"].bool()
    return float(each[answered].mean())


def test_the_student_is_asked_token_for_token_as_an_evaluation_asks_and_learns_gkds_divergence(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.training import on_policy

    asked: dict[str, list[int]] = {}
    real = on_policy.OnPolicyTrainer._generate_and_score_completions

    def watched(self: Any, inputs: list[dict[str, Any]]) -> Any:
        made = real(self, inputs)
        for row, ids, mask in zip(inputs, made["prompt_ids"], made["prompt_mask"], strict=True):
            asked[row["id"]] = ids[mask.bool()].tolist()
        return made

    losses: list[tuple[float, float]] = []
    computed = on_policy.OnPolicyTrainer._compute_loss

    def compared(self: Any, student: Any, inputs: dict[str, Any], count: Any) -> Any:
        found = computed(self, student, inputs, count)
        losses.append((float(found[0].detach()), divergence(self, inputs, 0.3, 0.7)))
        return found

    monkeypatch.setattr(on_policy.OnPolicyTrainer, "_generate_and_score_completions", watched)
    monkeypatch.setattr(on_policy.OnPolicyTrainer, "_compute_loss", compared)
    trained(tmp_path, models, on_policy={"beta": 0.3, "temperature": 0.7})
    assert len(losses) == 4
    assert [loss for loss, _ in losses] == pytest.approx([dense for _, dense in losses], rel=1e-4)
    tokenizer = load_tokenizer(models["student"])
    expected = {row["id"]: prompt_ids(tokenizer, row["prompt"]) for row in tiny.examples(12, validation=2)}  # type: ignore[arg-type]
    assert asked == expected


def test_it_begins_with_an_sft_checkpoint_where_the_recipe_names_one(
    tmp_path: Path, models: dict[str, Path], done: DeskOutput
) -> None:
    begun = done.folder / "checkpoint"
    output = trained(tmp_path, models, start=str(begun), learning_rate=1e-12)
    before, after = weights(begun), weights(output.folder / "checkpoint")
    assert all(value.allclose(after[name], atol=1e-6) for name, value in before.items())


def other_teacher(folder: Path) -> Path:
    """A teacher whose tokenizer knows other tokens, and whose template has another shape."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    bpe.train_from_iterator(
        ["What is the answer? " * 3],
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.chat_template = "<s>{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[answer] "
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(made) + 4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> dict[str, Path]:
    return {**models, "teacher": other_teacher(tmp_path_factory.mktemp("foreign"))}


def test_a_teacher_with_another_tokenizer_is_refused_unless_the_recipe_says_so(
    tmp_path: Path, foreign: dict[str, Path], models: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=r"another tokenizer.*sft\.on_policy\.across"):
        trained(tmp_path / "a", foreign)
    with pytest.raises(ValueError, match=r"the same tokenizer.*leave sft\.on_policy\.across out"):
        trained(tmp_path / "b", models, on_policy={"across": {}})


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_a_teacher_with_another_tokenizer_is_asked_in_its_own_template(
    tmp_path: Path, foreign: dict[str, Path], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    from trl.experimental.gold import gold_trainer

    seen: list[tuple[str, str]] = []
    real = gold_trainer.build_teacher_inputs_from_texts

    def watched(tokenizer: Any, prompts: list[str], completions: list[str], **named: Any) -> Any:
        seen.extend(zip(prompts, completions, strict=True))
        return real(tokenizer, prompts, completions, **named)

    met: list[tuple[Any, Any]] = []
    aligned = gold_trainer.ULDLoss._align_by_byte_offsets

    def meeting(ours: Any, theirs: Any) -> Any:
        met.append((ours, theirs))
        return aligned(ours, theirs)

    monkeypatch.setattr(gold_trainer, "build_teacher_inputs_from_texts", watched)
    monkeypatch.setattr(gold_trainer.ULDLoss, "_align_by_byte_offsets", staticmethod(meeting))
    output = trained(tmp_path, foreign, on_policy={"across": {"on_policy_share": share}})
    losses = [loss for _, loss in output.facts["loss"]]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    assert {prompt for prompt, _ in seen} == {
        f"<s>[user] {row['prompt'][0]['content']}\n[answer] "  # type: ignore[index]
        for row in tiny.examples(12, validation=2)
    }
    assert not any("<|im_end|>" in completion for _, completion in seen)
    if not share:  # a trace's end takes up no bytes on either side, and is compared
        assert all(ours[-1] == theirs[-1] == [ours[-2][1]] * 2 for ours, theirs in met)
    traces = {row["completion"][0]["content"] for row in tiny.examples(12, validation=2)}  # type: ignore[index]
    # An evaluation goes by the traces; a training by them, or by the student's own answers.
    assert ({completion for _, completion in seen} == traces) == (share == 0.0)
    before, after = weights(foreign["student"]), weights(output.folder / "checkpoint")
    assert any(not value.equal(after[name]) for name, value in before.items())


def test_the_end_of_an_answer_takes_up_no_bytes(
    tmp_path: Path, foreign: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.training.across import AcrossTrainer

    tokenizer = load_tokenizer(foreign["student"])
    end, eager = end_token_id(tokenizer), tmp_path / "eager"
    student: Any = AutoModelForCausalLM.from_pretrained(foreign["student"])
    with torch.no_grad():
        student.get_output_embeddings().weight[end] *= 30  # at half of all places its likeliest token
    student.save_pretrained(eager)
    tokenizer.save_pretrained(eager)
    parts: list[dict[str, Any]] = []
    fill = AcrossTrainer._fill_buffer

    def watched(self: Any, *given: Any) -> None:
        fill(self, *given)
        parts.extend(self._buffered_inputs)

    monkeypatch.setattr(AcrossTrainer, "_fill_buffer", watched)
    trained(tmp_path / "run", {**foreign, "student": eager}, on_policy={"across": {}})
    ends = torch.cat([part["byte_offsets"][part["labels"] == end] for part in parts])
    rest = torch.cat([part["byte_offsets"][(part["labels"] != end) & (part["labels"] != -100)] for part in parts])
    assert len(ends)
    assert (ends[:, 0] == ends[:, 1]).all()
    assert (rest[:, 0] < rest[:, 1]).all()


@pytest.mark.parametrize("across", [False, True])
def test_the_student_answers_as_the_recipe_says_whatever_its_generation_configuration_does(
    tmp_path: Path, models: dict[str, Path], foreign: dict[str, Path], monkeypatch: pytest.MonkeyPatch, across: bool
) -> None:
    """Qwen2.5's penalises repetition, and that of a base model knows no end of a turn."""
    import shutil

    from transformers import GenerationConfig, LlamaForCausalLM

    own = shutil.copytree(models["student"], tmp_path / "own")
    pad = load_tokenizer(own).pad_token_id
    GenerationConfig(repetition_penalty=1.3, min_p=0.2, do_sample=True, eos_token_id=pad).save_pretrained(own)
    used: list[Any] = []
    real = LlamaForCausalLM._prepare_generation_config

    def watched(self: Any, *given: Any, **named: Any) -> Any:
        used.append(real(self, *given, **named)[0])
        return real(self, *given, **named)

    monkeypatch.setattr(LlamaForCausalLM, "_prepare_generation_config", watched)
    on_policy = {"top_p": 0.9, "temperature": 0.7} | ({"across": {}} if across else {})
    output = trained(tmp_path, {**(foreign if across else models), "student": own}, on_policy=on_policy)
    assert used
    for config in used:
        assert (config.temperature, config.top_p, config.top_k) == (0.7, 0.9, 0)
        assert config.repetition_penalty == 1.0
        assert not config.min_p
        assert set(config.eos_token_id) == {end_token_id(load_tokenizer(own)), pad}
    kept = GenerationConfig.from_pretrained(output.folder / "checkpoint")
    assert (kept.repetition_penalty, kept.min_p) == (1.3, 0.2)


def test_gold_is_what_this_code_was_written_for() -> None:
    """It is experimental: what is overridden, and what is relied on, by name and by parameters."""
    from trl.experimental.gold import GOLDConfig, GOLDTrainer, gold_trainer

    def parameters(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert parameters(GOLDTrainer._fill_buffer) == ["self", "generation_batch", "buffer_steps"]
    assert parameters(GOLDTrainer._prepare_inputs) == ["self", "generation_batch"]
    assert parameters(gold_trainer.build_teacher_inputs_from_texts) == [
        "tokenizer",
        "prompt_texts",
        "completion_texts",
        "use_extended_uld",
    ]
    source = inspect.getsource(GOLDTrainer.compute_loss)
    for key in ("original_prompt_text", "original_completion_text", "byte_offsets"):
        assert f'"{key}"' in source
    assert "_buffered_inputs" in inspect.getsource(GOLDTrainer._fill_buffer)
    fields = set(GOLDConfig.__dataclass_fields__)
    assert {
        "lmbda",
        "beta",
        "use_uld_loss",
        "use_extended_uld",
        "uld_use_hybrid_loss",
        "uld_skip_student_eos",
        "uld_skip_teacher_eos",
        "uld_token_merge_strategy",
        "teacher_tokenizer_name_or_path",
    } <= fields


def test_an_adapter_that_could_not_learn_new_tokens_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    from pipeline.student import make

    make(models["student"], tmp_path / "given", None, True)
    given = {**models, "student": tmp_path / "given"}
    with pytest.raises(ValueError, match=r"was given 2 new tokens.*Set sft\.method: full"):
        trained(tmp_path, given, method="lora")
    with pytest.raises(ValueError, match=r"whose tokenizer lacks 2 of the student's tokens \(</think>, say\)"):
        trained(tmp_path, given, method="lora", start=str(models["student"]))
    shutil.copytree(given["student"], tmp_path / "knows")
    learnt = {**given, "teacher": padded(shutil.copytree(tmp_path / "knows", tmp_path / "teacher"), 3)}
    assert trained(tmp_path, learnt, method="lora", start=str(tmp_path / "knows")).facts["steps"] > 0


def test_a_prompt_is_asked_whatever_the_length_of_its_trace_and_padding_is_not_foretold() -> None:
    tokenizer = tiny.tokenizer()
    short, long = tiny.examples(12), tiny.examples(12)
    for row in long:
        row |= {"id": f"{row['id']}-long", "completion": [{"role": "assistant", "content": "12 + 30 = 42. " * 90}]}
    values = {**VALUES, "max_length": 200, "batch_tokens": 32}
    own = prepare(sft.Config(**values, on_policy=OWN), tokenizer, [*long, *short[6:]], None)
    assert [one.prompt for one in own.train] == [
        one.prompt for one in prepare(sft.Config(), tokenizer, short, None).train
    ]
    assert (own.audit.too_long, own.audit.padding_share) == (0, 0.0)
    read = prepare(sft.Config(max_length=200), tokenizer, [*long, *short[6:]], None)
    assert (len(read.train), read.audit.too_long) == (6, 12)


def test_an_answer_longer_than_what_the_teacher_reads_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    short = tiny.build(tmp_path / "short", positions=128)
    with pytest.raises(ValueError, match="and the teacher has only 128 positions"):
        trained(tmp_path, {**models, "teacher": short}, max_length=128, on_policy={"max_tokens": 120})


def test_in_a_process_of_its_own_the_student_learns_the_same(
    tmp_path: Path, models: dict[str, Path], done: DeskOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There vLLM would leave its memory and its environment, and here it leaves neither."""
    from pipeline.training import process

    def to_start(config: sft.Config, root: Path) -> process.Start | None:
        asking = config.model_copy(update={"on_policy": config.on_policy.model_copy(update={"exec": vllm})})  # type: ignore[union-attr]
        return real(asking, root)

    real, vllm = sft.to_start, OnPolicyExec(vllm=True)
    monkeypatch.setattr(sft, "to_start", to_start)
    apart = trained(tmp_path, models)
    assert apart.facts["loss"] == done.facts["loss"]
    assert (apart.work / "processes" / process.RESULT).is_file()
    before, after = weights(done.folder / "checkpoint"), weights(apart.folder / "checkpoint")
    assert {name for name, value in before.items() if not value.equal(after[name])} == set()


def test_vllm_without_a_gpu_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(StageError, match="torch sees no GPU"):
        trained(tmp_path, models, on_policy={"exec": {"vllm": True}})


def test_vllm_is_refused_weights_that_drift_as_an_adapter_is_put_on_and_taken_off(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    with pytest.raises(StageError, match=r"sft\.method is lora on weights held in bfloat16; expected float32"):
        trained(tmp_path, models, method="lora", master_dtype="bfloat16", on_policy={"exec": {"vllm": True}})


@pytest.mark.parametrize("method", ["full", "lora"])
def test_vllm_begins_with_the_vocabulary_and_the_end_of_an_answer_that_are_trained(
    tmp_path: Path, models: dict[str, Path], method: str
) -> None:
    """TRL has vLLM read the student's folder, and then fills in the weights, whose shapes have to be the same."""
    import shutil

    import torch
    from transformers import AutoConfig, GenerationConfig

    from pipeline.objectives.on_policy import Config
    from pipeline.training import model, on_policy
    from pipeline.training.encode import Encoded
    from pipeline.training.options import Lora
    from pipeline.training.settings import adapter
    from pipeline.training.trainer import Plan

    student = tmp_path / "student"
    shutil.copytree(models["student"], student)
    (student / "generation_config.json").write_text('{"eos_token_id": 0, "temperature": 0.6}')  # a base model's
    made = model.load(student, "float32", "sdpa", None if method == "full" else adapter(Lora(), []), 0, False)
    setting = on_policy.Setting(
        config=Config(exec={"vllm": True}, max_tokens=7),
        shared={"output_dir": str(tmp_path / "trainer")},
        plan=Plan(None, [], [], 0),
        student=made,
        tokenizer=tiny.tokenizer(),
        teacher=models["teacher"],
        train=[Encoded("a", (), "", [5, 6, 7], [8]), Encoded("b", (), "", [5], [8])],
        validation=[Encoded("c", (), "", [5, 6], [8])],
        compute_dtype=torch.bfloat16,
        callbacks=[],
    )
    assert on_policy.longest(setting) == 3 + 7
    given = on_policy.given(setting, tiny.tokenizer())["model"]
    served = Path(given.name_or_path)
    assert served != student
    rows = {name: len(value) for name, value in weights(served).items() if "embed" in name or "head" in name}
    assert set(rows.values()) == {given.get_input_embeddings().weight.shape[0]} == {len(tiny.tokenizer())}
    assert AutoConfig.from_pretrained(served).vocab_size == len(tiny.tokenizer())
    assert GenerationConfig.from_pretrained(served).eos_token_id == [end_token_id(tiny.tokenizer()), 0]
    assert load_tokenizer(served).eos_token_id == end_token_id(tiny.tokenizer())
    assert {value.dtype for value in weights(served).values()} == {torch.bfloat16}
