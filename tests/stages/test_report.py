"""The page loads nothing, runs nothing, escapes everything; its figures are those of report.json and add up."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.page.html import duration, visible
from stages.report import STAGE, Config, choose, cut, run, spread, token_lengths
from tests import synthetic
from tests.desk import DeskInputs, DeskOutput


def inputs(folder: Path, **manifests: Any) -> DeskInputs:
    made = synthetic.tables()
    known = synthetic.manifests(made) | manifests
    tables = {
        name: made[read.stage][read.dataset].select(read.columns) for name, read in STAGE.reads.items() if read.dataset
    }
    read_by = {name: known[read.stage] for name, read in STAGE.reads.items() if read.stage in known}
    return DeskInputs(folder, tables=tables, manifests=read_by)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    output = DeskOutput(folder)
    run(Config(), inputs(folder), output)
    return output.folder / "page"


@pytest.fixture(scope="module")
def report(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((page / "report.json").read_text(encoding="utf-8"))
    return found


class Elements(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "img", "link", "path", "use"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "use"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def elements(page: Path) -> Elements:
    return Elements((page / "index.html").read_text(encoding="utf-8"))


def test_exports_stand_in_a_table_of_their_own_where_there_are_some(
    tmp_path: Path, report: dict[str, Any], elements: Elements
) -> None:
    assert report["exports"] == []
    assert "With fewer bits" not in "".join(elements.text)
    known = synthetic.manifests(synthetic.tables())["eval"]
    row = {"model": "student_int8", "weight_bytes": 12_000_000, "tokens_per_s": None, "mean_tokens": 3.0}
    row |= {"pass_at_1": 0.5, "interval": [0.4, 0.6], "difference": {"difference": -0.125, "interval": [-0.2, 0.1]}}
    output = DeskOutput(tmp_path)
    known = known.model_copy(update={"facts": {**known.facts, "exports": [row]}})
    run(Config(), inputs(tmp_path, eval=known), output)
    text = "".join(Elements((output.folder / "page/index.html").read_text(encoding="utf-8")).text)
    assert "With fewer bits" in text
    assert "student_int812–0.5000.400 to 0.600-0.125-0.200 to 0.100" in text


def test_problems_that_no_teacher_was_asked_are_counted(
    tmp_path: Path, report: dict[str, Any], elements: Elements
) -> None:
    assert report["not_asked"] == []
    assert "no teacher was asked" not in "".join(elements.text)
    known = synthetic.manifests(synthetic.tables())["generate"]
    facts = {**known.facts, "unrouted": {"<law>": 1200, "art": 3}, "unverifiable_skipped": 7}
    output = DeskOutput(tmp_path)
    run(Config(), inputs(tmp_path, generate=known.model_copy(update={"facts": facts})), output)
    text = "".join(Elements((output.folder / "page/index.html").read_text(encoding="utf-8")).text)
    assert (
        "no teacher was asked: 1,200 (no teacher's route fits <law>); 3 (no teacher's route fits art); "
        "7 (variants whose answer nobody knows)."
    ) in text


def test_the_page_runs_no_script_and_loads_nothing(elements: Elements) -> None:
    assert not {"script", "iframe", "img", "link", "object", "embed", "base", "form"} & set(elements.tags)
    assert [name for name, _ in elements.attributes if name.startswith("on")] == []
    addresses = [
        value for name, value in elements.attributes if name in ("src", "href", "xlink:href", "action", "style")
    ]
    assert [value for value in addresses if value and ("//" in value or "javascript" in value)] == []
    policy = [value for _, value in elements.attributes if value and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_a_hostile_trace_is_shown_as_it_was_written(elements: Elements) -> None:
    text = "".join(elements.text)
    assert "<script>alert('trace')</script> {{ 7*7 }} </details><img src=x onerror=alert(1)> [U+0000][U+202E]" in text
    assert "\x00" not in text
    assert "\u202e" not in text


def test_every_element_is_closed_and_every_id_is_used_once(elements: Elements) -> None:
    assert elements.open == []
    ids = [value for name, value in elements.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_facts_have_the_agreed_places(report: dict[str, Any]) -> None:
    for model in ("teacher", "base", "student"):
        row = report["models"][model]
        low, high = row["interval"]
        assert low <= row["pass_at_1"] <= high
        assert row["mean_tokens"] > 0
        assert 0 <= row["truncated_share"] <= 1
    assert set(report["paired"]["student_minus_base"]) >= {"difference", "interval"}
    assert set(report["gap_recovered"]) >= {"value", "interval"}
    assert report["questions"] == 40
    assert report["seconds"] == dict.fromkeys(
        ("seed", "generate", "verify", "filter", "dedupe", "decontaminate", "mix", "sft", "eval"), 12.5
    )
    assert report["base_prompt"] == "examples"


def test_the_funnel_and_the_lengths_add_up_to_the_traces(report: dict[str, Any]) -> None:
    assert report["traces"] == 120
    assert sum(row["traces"] for row in report["funnel"]) == 120
    assert sum(row["traces"] for row in report["lengths"].values()) == 120
    assert report["funnel"][-1]["reason"] == "kept"


def test_the_canaries_and_what_was_looked_for_are_shown(report: dict[str, Any], elements: Elements) -> None:
    assert [(row["items"], row["hits"]) for row in report["contamination"]["sets"]] == [(40, 3), (7, 0)]
    text = "".join(elements.text)
    assert "19 of 20 canaries were found" in text
    assert "Missed: eval 12ab" in text


def test_the_page_says_what_the_json_says(report: dict[str, Any], elements: Elements) -> None:
    text = "".join(elements.text)
    for model in ("teacher", "base", "student"):
        assert f"{report['models'][model]['pass_at_1']:.3f}" in text
    assert f"{report['paired']['student_minus_base']['difference']:+.3f}" in text
    assert f"{report['gap_recovered']['value']:.1%}" in text
    for row in report["funnel"]:
        assert row["reason"] in text
    assert "digest-of-student" in text


def test_a_run_without_a_gap_or_a_validation_loss_still_has_a_page(tmp_path: Path) -> None:
    made = synthetic.manifests(synthetic.tables())
    facts = made["eval"].facts | {"gap_recovered": {"value": None, "interval": [None, None], "questions": 40}}
    changed = {
        "eval": made["eval"].model_copy(update={"facts": facts}),
        "sft": made["sft"].model_copy(update={"facts": {}}),
    }
    output = DeskOutput(tmp_path)
    run(Config(), inputs(tmp_path, **changed), output)
    assert "no gap" in (output.folder / "page" / "index.html").read_text(encoding="utf-8")


def test_the_same_run_gives_the_same_page(tmp_path: Path, page: Path) -> None:
    output = DeskOutput(tmp_path)
    run(Config(), inputs(tmp_path), output)
    assert (output.folder / "page" / "index.html").read_bytes() == (page / "index.html").read_bytes()


def test_samples_are_chosen_by_id_whatever_the_order_of_rows() -> None:
    fates = [{"id": name, "kept": name < "d", "stage": "verify", "reason": "wrong_answer"} for name in "gbfacde"]
    config = Config(kept_traces=2, traces_per_reason=3)
    expected = {("mix", "kept"): ["a", "b"], ("verify", "wrong_answer"): ["d", "e", "f"]}
    assert choose(config, fates) == choose(config, fates[::-1]) == expected


def test_a_trace_cut_off_is_counted_apart() -> None:
    import pyarrow as pa

    table = pa.table({"id": ["a", "b", "c"], "finish": ["stop", "length", "stop"], "completion_tokens": [5, 9, 7]})
    assert token_lengths([table], {"a", "b"}) == {"kept": [5], "dropped": [7], "cut off": [9]}
    assert spread([3, 1, 2]) == {"traces": 3, "mean": 2.0, "median": 2, "p95": 3, "longest": 3}
    assert spread([])["mean"] is None


def test_a_failed_completion_has_no_length() -> None:
    import pyarrow as pa

    table = pa.table({"id": ["a", "b", "c"], "finish": ["stop", "error", "stop"], "completion_tokens": [5, 0, 7]})
    assert token_lengths([table], {"a"}) == {"kept": [5], "dropped": [7], "cut off": []}


def test_the_median_lies_in_the_middle_and_one_of_twenty_above_the_95th_percentile() -> None:
    found = spread(list(range(20, 0, -1)))
    assert (found["median"], found["p95"], found["longest"]) == (10.5, 19, 20)
    assert spread([4])["p95"] == 4
    assert [spread(list(range(1, count + 1)))["p95"] for count in (2, 21, 40, 100, 101)] == [2, 20, 38, 95, 96]


@pytest.mark.parametrize(
    ("text", "shown"), [(None, None), ("abc", "abc"), ("abcd", "abcd"), ("abcdef", "abcd\n[... 2 more characters]")]
)
def test_a_long_text_says_what_was_left_out(text: str | None, shown: str | None) -> None:
    assert cut(text, 4) == shown


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "–"), (0.3, "0.3 s"), (42.4, "42 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_durations_are_said_as_a_person_would(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_hidden_characters_are_written_out() -> None:
    assert visible("a\tb\nc\r\n\u200bd\u202e\ud800é✓") == "a\tb\nc\n[U+200B]d[U+202E][U+D800]é✓"
