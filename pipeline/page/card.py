"""The README of a published dataset: front matter and text, all of it from the manifests and the rows.

It writes no file; `publish.py` does.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import pyarrow as pa
import yaml

from pipeline import __version__
from pipeline.roles import LOCAL
from pipeline.rounds import LAST_STUDENT

MEANINGS = {
    "id": "the trace's id: a hash of all that could change the teacher's words",
    "problem_id": "the problem's id: a hash of its text",
    "parent_id": "the problem that the teacher rewrote into this one; null for a source's own",
    "prompt": "the conversation so far, as the student is asked",
    "completion": "the reply to learn",
    "finish": "how the teacher's completion ended: `stop` by itself, `length` cut off by its limit",
    "spans": "how the completion was laid out from the teacher's raw text: copied raw[start:end], or inserted text",
    "split": "train or validation; all traces of a problem are on one side",
    "place": "where in the order of training it stands, from 0 to below 1; null where there is no order",
    "domain": "the problem's domain",
    "task": "the problem's task within its domain",
    "answer": "the reference answer that the verifier compared with",
    "teacher": "the model that wrote the trace",
    "weights": "the digest of its weights, or their hub commit",
    "sampling": "every sampling value, as JSON",
    "source": "where the problem comes from",
    "license": "the licence of that source",
}
# Licence ids that the Hugging Face hub knows; any other name goes there as "other".
# fmt: off
HUB_LICENSES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odc-by", "odbl", "pddl", "bsd",
    "bsd-2-clause", "bsd-3-clause", "gpl", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense", "openrail",
    "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma", "unknown", "other",
}
# fmt: on
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def hub_licenses(names: Sequence[str | None]) -> list[str]:
    """The hub's ids for licences as the rows name them, sorted: unknown where a row names none."""
    lowered = {(name or "unknown").strip().lower().replace(" ", "-") or "unknown" for name in names}
    return sorted({name if name in HUB_LICENSES else "other" for name in lowered})


def size_category(rows: int) -> str:
    """The hub's word for a number of rows."""
    return next((word for limit, word in _SIZES if rows < limit), "n>10M")


def front_matter(
    name: str, licenses: Sequence[str | None], rows: Mapping[str, int], domains: Sequence[str], languages: Sequence[str]
) -> str:
    """The YAML between the card's dashes, as the hub reads it."""
    hub = hub_licenses(licenses)
    values: dict[str, Any] = {"pretty_name": name, "license": hub[0] if len(hub) == 1 else hub}
    if "other" in hub:
        others = sorted({name for name in licenses if name and hub_licenses([name]) == ["other"]})
        values |= {"license_name": ", ".join(others)}
    if languages:
        values["language"] = list(languages)
    tags = ["reasoning", "distillation", "synthetic", "chain-of-thought", "seqdistill", *sorted(set(domains))]
    values |= {
        "task_categories": ["text-generation"],
        "size_categories": [size_category(sum(rows.values()))],
        "tags": list(dict.fromkeys(tags)),
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows],
            }
        ],
    }
    return _yaml(values)


def teachers_of(recipe: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The teachers of a resolved recipe by their names, as plain values."""
    return {"teacher": recipe.get("teacher", {}), **recipe.get("more_teachers", {})}


def card(
    manifests: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, int],
    written: Mapping[str, int],
    writers: Collection[str],
    sources: Sequence[Mapping[str, Any]],
    domains: Sequence[str],
    schema: pa.Schema,
    languages: Sequence[str],
) -> str:
    """The whole README.

    manifests: by stage, made shareable (see `scrub.py`), "mix" among them; rows: examples per split; written: how many
    are traces, ready (no teacher wrote them), and repeats of either; writers: the recipe's names of the teachers that
    rows name; sources: dicts of source, license, task, examples.
    """
    mix = manifests["mix"]
    generate = manifests.get("generate", mix)
    recipe = mix["recipe"]
    funnel = mix["facts"].get("funnel", [])
    known = generate["identity"]["models"]
    declared = teachers_of(recipe)
    asked = {name: role for name, role in declared.items() if name in known} or declared
    kept = {name: role for name, role in asked.items() if name in writers}
    trained = f"a student trained from `{recipe.get('student', {}).get('model', 'an unnamed model')}`"
    teachers = [
        {
            **role,
            "weights": known.get(name, "not recorded"),
            "called": trained if role.get("model") == LAST_STUDENT else f"`{role.get('model', 'an unnamed teacher')}`",
        }
        for name, role in (kept or asked).items()
    ]
    template = _environment().get_template("card.md.jinja")
    return template.render(
        front_matter=front_matter(mix["run"], [row["license"] for row in sources], rows, domains, languages),
        name=mix["run"],
        description=recipe.get("description", ""),
        rows=rows,
        kept=written["traces"],
        repeats=written["repeats"],
        ready=written["ready"],
        traces=sum(row["traces"] for row in funnel),
        sources=sources,
        version=__version__,
        commit=mix["commit"],
        finished=mix["finished"],
        teachers=teachers,
        written_by=" and ".join(role["called"] for role in teachers),
        local=LOCAL,
        sampling=_sampling(recipe),
        prompts=generate["identity"]["prompts"],
        funnel=funnel,
        columns=[
            {"name": field.name, "type": str(field.type), "meaning": MEANINGS.get(field.name, "")} for field in schema
        ],
        recipe=_yaml(recipe),
    )


def _sampling(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe's generate section says about sampling, flat."""
    values: dict[str, Any] = {}
    for key, item in recipe.get("generate", {}).items():
        if isinstance(item, dict) and key == "sampling":
            values |= item
        elif not isinstance(item, dict | list):
            values[key] = item
    return values


def _environment() -> jinja2.Environment:
    """Markdown templates: plain text, so that nothing is escaped but what goes into table cells."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (resources.files(__package__) / name).read_text(encoding="utf-8")),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["thousands"] = lambda value: f"{value:,}"
    return environment


def _cell(value: Any) -> str:
    """A value in one cell of a Markdown table; names from data can neither break it nor carry markup."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub(r"([|<>`*_\[\]\\])", r"\\\1", " ".join(text.split()))


def _yaml(values: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110))
