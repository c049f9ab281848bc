"""A recipe: YAML values checked against the stages' own configs, with `--set` on top and did-you-mean for wrong keys.

It computes nothing and reads no data: values in, frozen sections out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from pipeline import plan
from pipeline.engines import hf
from pipeline.roles import LOCAL, Judge, Peer, Role, Student, Teacher, thinkers, thinking_budget
from pipeline.rounds import LAST_STUDENT, Rounds, as_teacher
from pipeline.section import Section
from pipeline.text import closest
from pipeline.think import writes_tags


class RecipeError(Exception):
    """A recipe cannot be used; the message says what was found, what was expected, and the fix."""


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: the run's name, its models, and a config for each stage."""

    name: str
    description: str
    teacher: Teacher
    more_teachers: Mapping[str, Teacher]
    student: Student
    sections: Mapping[str, Section]
    judge: Judge | None = None
    peer: Peer | None = None
    rounds: Rounds = field(default_factory=Rounds)
    silent: frozenset[str] = frozenset()  # the teachers that are not asked for traces

    @property
    def teachers(self) -> dict[str, Teacher]:
        """All teachers that are asked for traces by name, the one called "teacher" first."""
        known = {"teacher": self.teacher, **self.more_teachers}
        return {name: teacher for name, teacher in known.items() if name not in self.silent}

    @property
    def roles(self) -> dict[str, Role]:
        """All models by name."""
        return {"teacher": self.teacher, **self.more_teachers, "student": self.student, **self._optional}

    @property
    def _optional(self) -> dict[str, Role]:
        found: dict[str, Role | None] = {"judge": self.judge, "peer": self.peer}
        return {name: role for name, role in found.items() if role is not None}

    def named(self, role: str) -> tuple[str, ...]:
        """The names of the models that a stage means by a role: "teachers" stands for all of them, "judge" and "peer"
        for none where there is none."""
        if role in ("judge", "peer") and role not in self._optional:
            return ()
        return tuple(self.teachers) if role == "teachers" else (role,)

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults included, as JSON."""
        return {
            "name": self.name,
            "description": self.description,
            "teacher": self.teacher.model_dump(mode="json"),
            "more_teachers": {name: role.model_dump(mode="json") for name, role in self.more_teachers.items()},
            "student": self.student.model_dump(mode="json", by_alias=True),
            **{name: role.model_dump(mode="json", by_alias=True) for name, role in self._optional.items()},
            "rounds": self.rounds.model_dump(mode="json"),
            **{name: section.model_dump(mode="json") for name, section in self.sections.items()},
        }

    def in_round(self, checkpoint: Path | None, deciding: bool) -> "Recipe":
        """This recipe as one of its rounds has it.

        checkpoint: where the last round's student lies; None in the first one. deciding: eval asks the block that
        decides between rounds, not its own.
        """
        sections: dict[str, Any] = dict(self.sections)
        more, silent = dict(self.more_teachers), self.silent
        if checkpoint is not None:
            mix = sections["mix"]
            thinks = writes_tags(mix.trace_format, [teacher.thinking for teacher in self.teachers.values()])
            more[LAST_STUDENT] = as_teacher(self.student, thinks is not False)
            silent = frozenset() if self.rounds.keep_teachers else frozenset({"teacher", *self.more_teachers})
            if self.rounds.start == "last":
                sections["sft"] = sections["sft"].model_copy(update={"start": str(checkpoint)})
        # To name the last student, or a teacher that is silent from now on, is no mistake in the other rounds.
        apart = {LAST_STUDENT, "teacher", *self.more_teachers} - ({"teacher", *more} - silent)
        generate = sections["generate"]
        here: dict[str, Any] = {"routes": {name: one for name, one in generate.routes.items() if name not in apart}}
        if named := generate.further_labellers():
            here["labelled_by"] = tuple(name for name in named if name not in apart)
        sections["generate"] = generate.model_copy(update=here)
        labels = {LAST_STUDENT if name == LAST_STUDENT else self.roles[name].label for name in apart}
        sections["sft"] = sections["sft"].without_teachers(labels)
        if deciding:
            sections["eval"] = sections["eval"].model_copy(update={"split": self.rounds.split})
        return replace(self, more_teachers=more, silent=silent, sections=sections)


@cache
def model() -> type[BaseModel]:
    """The pydantic model of a whole recipe, made from the stages' configs."""
    fields: dict[str, Any] = {"name": (str | None, None), "description": (str, "")}
    fields |= {"teacher": (Teacher, ...), "more_teachers": (dict[str, Teacher], {}), "student": (Student, ...)}
    fields |= {"judge": (Judge | None, None), "peer": (Peer | None, None), "rounds": (Rounds, Rounds())}
    for stage in plan.stages():
        required = any(field.is_required() for field in stage.config.model_fields.values())
        fields[stage.name] = (stage.config, ... if required else stage.config())
    return create_model("RecipeModel", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def load(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file, with `a.b=c` settings applied on top. Raises RecipeError.

    path: a file, or the bare name of a shipped recipe where no file is called so.
    """
    shipped = {file.stem: file for file in (Path(__file__).parent / "recipes").glob("*.yaml")}
    if not path.exists():
        path = shipped.get(str(path), path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"No recipe at {path}. Shipped recipes: {', '.join(sorted(shipped)) or 'none'}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    values = _values(text, str(path))
    if type(values.get("rounds")) is int:
        values["rounds"] = {"count": values["rounds"]}  # so that its keys can be set
    for setting in settings:
        _apply(values, setting)
    return check(values, path.stem, str(path))


def check(values: dict[str, Any], name: str, where: str) -> Recipe:
    """A recipe from plain values; `name` is the run's where the recipe gives none. Raises RecipeError."""
    try:
        checked = model().model_validate(values)
    except ValidationError as error:
        lines = [_complaint(item) for item in error.errors()]
        raise RecipeError(f"{where} is not a valid recipe:\n" + "\n".join(f"  {line}" for line in lines)) from error
    sections = {stage: getattr(checked, stage) for stage in plan.ORDER}
    run = getattr(checked, "name", None) or name
    if not run.replace("-", "").replace("_", "").replace(".", "").isalnum() or run.startswith("."):
        given = "name is" if getattr(checked, "name", None) else "it has no name, so that its file's is taken:"
        raise RecipeError(
            f"{where}: {given} {run!r}; expected letters, digits, '-', '_' and '.', since it names a folder. Set name."
        )
    keys = ("description", "teacher", "more_teachers", "student", "judge", "peer", "rounds")
    models = {key: getattr(checked, key) for key in keys}
    _check_names(models["more_teachers"], where)
    teachers = {"teacher": models["teacher"], **models["more_teachers"]}
    for key in ("student", "peer"):
        models[key] = models[key] and _with_model(models[key], key, teachers, where)
    recipe = Recipe(name=run, **models, sections=sections)
    _check_rounds(recipe, where)
    if recipe.rounds.count == 1:
        recipe = recipe.in_round(None, deciding=False)  # that names the last student, for rounds that are not run
    try:
        thinkers(recipe.teachers)
        _check_teachers_named(recipe)
        _check_fitting(recipe)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    return recipe


# Names of models that mean something by themselves.
_TAKEN = ("teacher", "teachers", "student", "judge", "peer", LAST_STUDENT)


def _check_names(teachers: Mapping[str, Teacher], where: str) -> None:
    for name in teachers:
        if name in _TAKEN or not name.replace("-", "").replace("_", "").isalnum():
            raise RecipeError(
                f"{where}: more_teachers has the name {name!r}; expected letters, digits, '-' and '_', and none of "
                f"{', '.join(_TAKEN[:-1])} and {_TAKEN[-1]}."
            )


def _check_rounds(recipe: Recipe, where: str) -> None:
    """Raise RecipeError for rounds that could not be run, or whose choice would use up the held-out block."""
    rounds, sections = recipe.rounds, cast(dict[str, Any], recipe.sections)
    if rounds.count == 1:
        return
    if rounds.split == sections["eval"].split:
        raise RecipeError(
            f"{where}: rounds.split and eval.split are both {rounds.split!r}; a round chosen by a block's scores looks "
            f"better there than it is. Expected two blocks: one that decides (rounds.split), one that is reported."
        )
    if recipe.student.engine not in LOCAL:
        raise RecipeError(
            f"{where}: student.engine is {recipe.student.engine}; with rounds the student is a teacher too, and a "
            f"checkpoint on the disk runs on {' or '.join(LOCAL)}. Set student.engine to one of them."
        )
    if sections["generate"].logprobs and recipe.student.engine != "vllm":
        raise RecipeError(
            f"{where}: generate.logprobs is {sections['generate'].logprobs}, and student.engine is "
            f"{recipe.student.engine}; with rounds the student is a teacher too, and vllm alone tells what it held for "
            f"likely. Set student.engine: vllm, or generate.logprobs: 0."
        )
    shares = sections["mix"].teacher_shares
    if shares and LAST_STUDENT not in shares:
        raise RecipeError(
            f"{where}: mix.teacher_shares has no share of {LAST_STUDENT}, whose traces would be bought from round 2 on "
            f"and dropped; expected one, since rounds.count is {rounds.count}. Add it, or leave teacher_shares out."
        )


def _check_fitting(recipe: Recipe) -> None:
    """Raises ValueError for sections of which one wants what another one does not give."""
    sections = cast(dict[str, Any], recipe.sections)
    generate, evaluate = sections["generate"], sections["eval"]
    if sections["sft"].objective == "soft_labels" and not generate.logprobs:
        raise ValueError(
            "sft.objective is soft_labels, and generate.logprobs is 0: nothing is kept of the teachers' distributions. "
            "Set generate.logprobs (50, say), or another objective."
        )
    if sections["mix"].prefer == "judge" and not sections["verify"].rate:
        raise ValueError(
            "mix.prefer is judge, and verify.rate is false: no trace is rated. Set verify.rate: true and name a model "
            "under `judge`, or prefer shortest, diverse or first."
        )
    made = {"generate.max_tokens": generate.max_tokens, "generate.second_max_tokens": generate.second_max_tokens or 0}
    student = recipe.student.model_copy(update={"engine": evaluate.student_engine or recipe.student.engine})
    asked = recipe.teachers | ({"student": recipe.student} if recipe.rounds.count > 1 else {})
    examined = {"teacher": recipe.teacher, "student": student}
    short = [*_short(asked, made), *_short(examined, {"eval.max_tokens": evaluate.max_tokens})]
    if recipe.judge is not None:
        short += _short({"judge": recipe.judge}, {"judge.max_tokens": recipe.judge.max_tokens})
    if short:
        raise ValueError(
            f"answers would be cut off below their limit, since max_model_len holds prompt and answer together: "
            f"{', '.join(short)}. Raise max_model_len there, or lower the limit."
        )
    for key, roles, section in (("generate", asked, generate), ("eval", examined, evaluate)):
        for name, role in roles.items():
            if role.engine == "hf":
                try:
                    hf.generation_values(section.sampling)
                except ValueError as error:
                    raise ValueError(f"{key}.sampling, which {_place(name)} is asked with: {error}.") from error
    if open_ended := _open_ended(recipe.teachers, "generate.max_tokens", generate.max_tokens):
        raise ValueError(open_ended)


def _open_ended(roles: Mapping[str, Role], key: str, limit: int) -> str:
    """What is wrong with a limit of answers that a budget of reasoning uses up alone, in words; empty where none is."""
    for name, role in roles.items():
        if (thinking_budget(role) or 0) >= limit:
            return (
                f"{_place(name)}.thinking_budget is {thinking_budget(role)}, and {key} is {limit}: answers would end "
                f"before their reasoning is closed. Raise the limit above the budget, by as many tokens as an answer "
                f"takes."
            )
    return ""


def doubts(recipe: Recipe) -> list[str]:
    """What is worth a second look before anything is bought: limits of one section that another one does not meet."""
    sections = cast(dict[str, Any], recipe.sections)
    limits = {key: getattr(sections["generate"], key) or 0 for key in ("max_tokens", "second_max_tokens")}
    key, longest = max(limits.items(), key=lambda item: item[1])
    longest = min(longest, sections["filter"].max_tokens or longest)
    found = []
    if sections["mix"].trace_format != "answer":
        # On its own answers a student learns from prompts alone, and their length is what is limited.
        if longest > (most := sections["sft"].max_length) and sections["sft"].on_policy is None:
            found.append(
                f"generate.{key} lets a trace have {longest:,} tokens, and sft.max_length is {most:,} with its prompt: "
                f"longer examples are dropped, and where they are many sft refuses. Raise sft.max_length, or lower it."
            )
        if longest > (most := sections["eval"].max_tokens):
            found.append(
                f"generate.{key} lets a trace have {longest:,} tokens, and eval.max_tokens is {most:,}: answers as "
                f"long as the longest traces are cut off there. Raise eval.max_tokens, or lower it."
            )
    found.append(_open_ended({"teacher": recipe.teacher}, "eval.max_tokens", sections["eval"].max_tokens))
    return [doubt for doubt in found if doubt]


def _short(roles: Mapping[str, Role], limits: Mapping[str, int]) -> Iterator[str]:
    """Limits of answers that their models are opened with no room for."""
    for name, role in roles.items():
        for key, limit in limits.items():
            if role.engine in LOCAL and limit >= role.max_model_len:
                yield f"{key} is {limit}, and {_place(name)}.max_model_len is {role.max_model_len}"


def _place(name: str) -> str:
    return name if name in _TAKEN else f"more_teachers.{name}"


def _check_teachers_named(recipe: Recipe) -> None:
    """Raises ValueError where mix gives a share, or sft a weight, to a teacher that there is not."""
    labels = {teacher.label for teacher in recipe.teachers.values()}
    if recipe.rounds.count > 1:
        labels |= {LAST_STUDENT}
    mix, sft = cast(Any, recipe.sections["mix"]), cast(Any, recipe.sections["sft"])
    for name in mix.teacher_shares:
        # Without rounds it has no traces, and its share is nobody's: a recipe may be run as its first round alone.
        if name not in labels and name != LAST_STUDENT:
            near = closest(name, labels)
            raise ValueError(
                f"mix.teacher_shares has a share of the teacher {name!r}; expected one of {', '.join(sorted(labels))}"
                f"{f': did you mean {near!r}?' if near else '.'}"
            )
    if sft.soft_labels is not None:
        sft.soft_labels.weights.check(labels, sft.soft_labels.weights.domains)


def _with_model(student: Student, role: str, teachers: Mapping[str, Teacher], where: str) -> Student:
    """The student, or its peer, with the model of the teacher that its `from` names."""
    if student.source is None:
        return student
    teacher = teachers.get(student.source)
    if teacher is None:
        near = closest(student.source, teachers)
        hint = f" Did you mean {near}?" if near else ""
        raise RecipeError(
            f"{where}: {role}.from is {student.source!r}; expected one of the teachers, {', '.join(teachers)}.{hint}"
        )
    if teacher.engine not in LOCAL:
        raise RecipeError(
            f"{where}: {role}.from is {student.source}, whose engine is {teacher.engine}: it has no weights here to "
            f"make a student from. Expected a teacher on engine {' or '.join(LOCAL)}; or name the student's "
            f"source by itself: {role}.model with the same layers."
        )
    return student.model_copy(update={"model": teacher.model, "source": None})


class _Loader(yaml.SafeLoader):
    """YAML without anchors, and with doubled keys and halves of surrogate pairs refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem=f"aliases are not allowed; write the value out (line {self.line + 1})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no text: refused below
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            problem = f"{value!r} holds half of a surrogate pair, which no file can hold; write the character itself"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value


def _truth(loader: _Loader, node: Any) -> Any:
    """true and false, yes and no. YAML counts on and off among them; here they are words, as options are called."""
    word = loader.construct_scalar(node)
    return word if word.lower() in ("on", "off") else loader.construct_yaml_bool(node)


_Loader.add_constructor("tag:yaml.org,2002:bool", _truth)


def _values(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML that a recipe can use: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(
            f"{where} holds {type(values).__name__}; expected sections such as teacher:, student:, seed:."
        )
    return values


def _apply(values: dict[str, Any], setting: str) -> None:
    key, found, text = setting.partition("=")
    if not found or not key.strip():
        raise RecipeError(f"--set {setting}: expected a.b=value, for example --set generate.samples=4.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {setting}: the value is not YAML: {error}") from error
    *path, last = key.strip().split(".")
    place: Any = values
    for part in path:
        place = _step(place, part, setting)
    if isinstance(place, list):
        place[_index(place, last, setting)] = value
    else:
        place[last] = value


def _step(place: Any, part: str, setting: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, setting)]
    child = place.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise RecipeError(f"--set {setting}: {part} holds {child!r}, which has no keys inside.")
    return child


def _index(place: list[Any], part: str, setting: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise RecipeError(
            f"--set {setting}: {part} is no place in a list of {len(place)}; expected 0 to {len(place) - 1}."
        )
    return int(part)


def _complaint(item: Any) -> str:
    place = list(item["loc"])
    dotted = ".".join(str(part) for part in place)
    if item["type"] == "extra_forbidden":
        known = _known_keys(place[:-1])
        near = closest(str(place[-1]), known)
        hint = f" Did you mean {near}?" if near else f" Known keys: {', '.join(sorted(known))}." if known else ""
        return f"{dotted}: unknown key.{hint}"
    if item["type"] == "missing":
        return f"{dotted}: missing; a value is needed."
    return f"{dotted}: {item['msg']} (found {item.get('input')!r})"


def _known_keys(place: Sequence[Any]) -> list[str]:
    """The keys of the section at a place; tags of unions and list positions on the way are passed over."""
    kinds: list[Any] = [model()]
    for part in place:
        inner = [_inside(kind.model_fields[part].annotation) for kind in kinds if part in kind.model_fields]
        kinds = [kind for group in inner for kind in group] if inner else _tagged(kinds, part)
    return [field.alias or key for kind in kinds for key, field in kind.model_fields.items()]


def _tagged(kinds: list[Any], part: Any) -> list[Any]:
    """Where a place's part is the tag of a union, the union's members that carry it."""
    members = [
        kind for kind in kinds if "kind" in kind.model_fields and part in get_args(kind.model_fields["kind"].annotation)
    ]
    return members or kinds


def _inside(annotation: Any) -> list[Any]:
    """The section types within a field's annotation, however they are nested."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _inside(part)]
