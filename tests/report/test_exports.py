"""Tables and figures for papers: what stands in them, and that nothing in a name acts."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest

from rupert.errors import FolderError, MissingDependency, UsageError
from rupert.evidence import Evidence, MeasuredCell
from rupert.records import Metric, ResultRow
from rupert.report.exports.images import drawings, images
from rupert.report.exports.latex import latex, latex_table
from rupert.report.exports.markdown import markdown, markdown_table
from rupert.report.exports.outputs import LIST_FILE, refuse_foreign, write_files
from rupert.report.exports.separated import separated
from rupert.report.exports.text import visible
from rupert.report.figures import Figure, drawing
from rupert.report.sheets import Cell, Column, Number, Table, number_column
from rupert.report.study_sheets import study_tables

HOSTILE = (
    "</td><script>alert(1)</script>|[x](http://e.org)![i](j)`c`\n@all "
    "\\input{/etc/passwd} $x_1^2$ ~#%&{}\u202eabc\x1b[2J"
)
HARM = Number("67\u202f%", 2 / 3, 0.46, 0.82, "46\N{EN DASH}83", 24)


def table(*rows: tuple[Cell, ...], n: int | None = None) -> Table:
    columns = (Column("defense"), Column("harm", is_number=True, n=n))
    return Table("verdict", "What held", "How to read it.", columns, rows)


def test_markdown_is_a_table_of_github() -> None:
    assert markdown_table(table(("sdd", HARM), ("", None))) == (
        "## What held\n\n"
        "| defense | harm |\n| --- | ---: |\n| sdd | 67\u202f% (46\N{EN DASH}83) n = 24 |\n"
        "| \N{EN DASH} | \N{EN DASH} |\n\nHow to read it."
    )
    assert "| harm, n = 24 |\n" in markdown_table(table(("sdd", HARM), n=24))
    assert "| 67\u202f% (46\N{EN DASH}83) |" in markdown_table(table(("sdd", HARM), n=24))


def test_nothing_in_a_name_is_markup_of_markdown() -> None:
    text = markdown(HOSTILE, [table((HOSTILE, HARM))])
    row = next(line for line in text.splitlines() if "67" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert re.search(r"[<\n\x1b\u202e@]|://", row) is None
    assert re.search(r"(?<!\\)[`\[\]_*~#$]", row.replace("&#64;", "").replace("&#58;", "")) is None
    assert "U+202E" in row
    assert "U+001B" in row
    assert text.splitlines()[0].startswith("# &lt;/td&gt;")


def test_latex_uses_booktabs() -> None:
    lines = latex_table(table(("sdd", HARM), ("none", None))).splitlines()
    assert lines[5:12] == [
        r"\begin{tabular}{@{}lr@{}}",
        r"\toprule",
        r"defense & harm \\",
        r"\midrule",
        r"sdd & 67\,\% {\footnotesize (46--83)} $n$ = 24 \\",
        r"none & -- \\",
        r"\bottomrule",
    ]
    assert r"harm ($n = 24$) \\" in latex_table(table(("sdd", HARM), n=24))


def test_latex_is_balanced_and_nothing_in_a_name_is_a_command() -> None:
    text = latex(HOSTILE, [table((HOSTILE, HARM)), table(("[2pt]", None))])
    plain = re.sub(r"\\[{}$&#%_]", "", text)
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    for name in ("document", "table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 0
    known = (
        r"documentclass|usepackage|begin|end|section|centering|caption|label|resizebox|ifdim|else|fi|width|linewidth|"
        r"toprule|midrule|bottomrule|footnotesize|text(?:backslash|less|greater|bar|ascii\w+|quotedbl)"
    )
    assert re.sub(rf"\\(?:{known})(?![a-zA-Z])", "", re.sub(r"\\[\\,{}$&#%_]", "", text)).count("\\") == 0
    assert "\n{}[2pt] & -- \\\\" in text
    written = text[text.index("\\section") :].replace("{!}{%", "")
    assert re.search(r"(?<!\\)[_#%^~]", written) is None
    assert all(ord(character) < 0x100 for character in text)
    (row,) = (line for line in text.splitlines() if "67" in line)
    assert len(re.findall(r"(?<!\\)&", row)) == 1


def test_csv_has_value_interval_and_n_unrounded() -> None:
    found = list(csv.reader(io.StringIO(separated(table(("sdd", HARM), ("=1+1", None))))))
    assert found == [
        ["defense", "harm", "harm low", "harm high", "harm n"],
        ["sdd", "0.6666666666666666", "0.46", "0.82", "24"],
        ["'=1+1", "", "", "", ""],
    ]


def test_latin_letters_stand_in_latex_and_what_lies_above_is_written_by_its_number() -> None:
    text = latex_table(table(("Zürich ÿ", HARM), ("Ā", HARM)))
    assert "Zürich ÿ" in text
    assert "U+0100" in text


def test_what_has_no_look_is_written_by_its_number() -> None:
    assert visible("a\u202eb\x00\u2028\td\nMüller\u202f%") == "aU+202EbU+0000U+2028 d Müller\u202f%"


def evidence(values: dict[tuple[str, str, str], float], missing: tuple[MeasuredCell, ...] = ()) -> Evidence:
    cells: dict[tuple[str, str], list[Metric]] = {}
    for (defense, attack, metric), value in values.items():
        metrics = cells.setdefault((defense, attack), [])
        metrics.append(Metric(metric, value, max(0.0, value - 0.05), min(1.0, value + 0.05), 100))
    measured = tuple(
        MeasuredCell(seed=0, defense=defense, attack=attack, origins=(), metrics=tuple(metrics))
        for (defense, attack), metrics in cells.items()
    )
    rows = tuple(
        ResultRow(
            study="s",
            model="m",
            defense=cell.defense,
            attack=cell.attack,
            seed=0,
            metric=metric.name,
            value=metric.value,
            low=metric.low,
            high=metric.high,
            n=metric.n,
        )
        for cell in measured
        for metric in cell.metrics
    )
    return Evidence(
        study="s",
        model="m",
        command="",
        seeds=(0,),
        defenses={},
        attacks={},
        notes=(),
        cells=(*measured, *missing),
        rows=rows,
        all_rows=rows,
        exchanges=lambda _: iter(()),
    )


MMLU, OPENBOOKQA = "ability/mmlu", "ability/openbookqa"
VALUES = {
    ("none", "none", "harm"): 0.0,
    ("none", "none", "ability"): 0.45,
    ("none", "none", MMLU): 0.5,
    ("none", "none", OPENBOOKQA): 0.4,
    ("none", "none", "score/gsm8k"): 0.3,
    ("none", "fine_tune-1e-4", "harm"): 0.9,
    ("none", "fine_tune-1e-4", "ability"): 0.45,
    ("none", "fine_tune-1e-4", MMLU): 0.5,
    ("none", "fine_tune-1e-4", OPENBOOKQA): 0.3,
    ("sdd", "none", "harm"): 0.0,
    ("sdd", "none", "ability"): 0.4,
    ("sdd", "none", MMLU): 0.4,
    ("sdd", "none", OPENBOOKQA): 0.0,
    ("sdd", "benign", MMLU): 0.5,
    ("sdd", "fine_tune-1e-4", "harm"): 0.1,
    ("sdd", "fine_tune-1e-4", "ability"): 0.2,
    ("sdd", "fine_tune-1e-4", MMLU): 0.3,
    ("sdd", "fine_tune-1e-4", OPENBOOKQA): 0.1,
}


def texts(found: Table) -> list[list[str]]:
    return [
        [cell.text.replace("\u202f", " ") if isinstance(cell, Number) else cell or "-" for cell in row]
        for row in found.rows
    ]


def test_the_tables_of_a_study() -> None:
    found = {one.name: one for one in study_tables(evidence(VALUES))}
    assert list(found) == ["verdict", "table-1", "attacks", "ability"]
    assert texts(found["verdict"]) == [
        ["undefended", "lr 1e-4", "-", "0 %", "90 %", "45 %", "45 %"],
        ["sdd", "lr 1e-4", "lower", "0 %", "10 %", "40 %", "20 %"],
    ]
    assert [column.title for column in found["table-1"].columns] == [
        "defense",
        "ability, all tasks",
        "MMLU",
        "OpenBookQA",
        "fine-tuned: gsm8k",
    ]
    assert texts(found["table-1"]) == [
        ["undefended", "45 %", "50 %", "40 %", "30 %"],
        ["sdd", "40 %", "40 %", "0 %", "-"],
    ]
    assert [row[:3] for row in texts(found["attacks"])] == [
        ["no attack", "undefended", "0 %"],
        ["no attack", "sdd", "0 %"],
        ["lr 1e-4", "undefended", "90 %"],
        ["lr 1e-4", "sdd", "10 %"],
    ]


def test_changes_of_ability_are_relative_and_from_nothing_there_are_none() -> None:
    found = next(one for one in study_tables(evidence(VALUES)) if one.name == "ability")
    assert [column.title for column in found.columns] == [
        "defense",
        "fine-tuning",
        "MMLU",
        "change",
        "OpenBookQA",
        "change",
    ]
    minus = "\N{MINUS SIGN}"
    assert texts(found) == [
        ["undefended", "none", "50 %", "-", "40 %", "-"],
        ["undefended", "malicious: lr 1e-4", "50 %", "+0.0 %", "30 %", f"{minus}25.0 %"],
        ["sdd", "none", "40 %", "-", "0 %", "-"],
        ["sdd", "benign", "50 %", "+25.0 %", "-", "-"],
        ["sdd", "malicious: lr 1e-4", "30 %", f"{minus}25.0 %", "10 %", "-"],
    ]


def test_what_was_not_measured_is_said_by_name() -> None:
    gap = MeasuredCell(seed=1, defense="sdd", attack="benign", origins=(), missing=("attack sdd-benign: running",))
    tables = study_tables(evidence({("sdd", "none", "harm"): 0.5}, missing=(gap,)))
    assert [one.name for one in tables] == ["verdict", "attacks", "missing"]
    assert tables[-1].rows == (("sdd / benign / seed 1", "attack sdd-benign: running"),)
    assert texts(tables[0]) == [["sdd", "none was run", "not measured", "50 %"]]


def test_n_stands_in_the_heading_where_all_cells_share_it() -> None:
    assert number_column("harm", [HARM, None]).n == 24
    assert number_column("harm", [HARM, Number("0", 0.0, n=12)]).n is None
    assert number_column("harm", [HARM, Number("0", 0.0)]).n is None


def panel(title: str) -> object:
    return drawing([{"type": "scatter", "x": [1], "y": [0.5]}], {"title": {"text": title}})


def test_a_figure_is_handed_over_for_paper() -> None:
    drawn = drawings([Figure("one", "t", "c", (panel("a"),)), Figure("two", "t", "c", (panel("b"), panel("c")))])
    assert list(drawn) == ["one", "two-1", "two-2"]
    json.dumps(drawn)
    assert drawn["two-2"]["data"][0]["y"] == [0.5]
    layout = drawn["two-2"]["layout"]
    assert layout["title"]["text"] == "c"
    assert layout["template"]["layout"]["paper_bgcolor"] == layout["template"]["layout"]["plot_bgcolor"] == "white"
    assert "system-ui" not in layout["template"]["layout"]["font"]["family"]


def test_without_kaleido_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(MissingDependency) as refused:
        images({}, ["svg"])
    assert str(refused.value) == "kaleido is not installed; pip install 'rupert[figures]'"


def test_without_a_browser_the_remedy_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "chrome"))
    with pytest.raises(UsageError) as refused:
        images(drawings([Figure("one", "t", "c", (panel("a"),))]), ["svg"])
    assert str(refused.value) == (
        f"--format svg, pdf: BROWSER_PATH: {str(tmp_path / 'chrome')!r} is no browser that starts; "
        "install Chrome or Chromium, or name one with BROWSER_PATH=/path/to/chromium"
    )


def test_own_files_are_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for content in (b"one", b"two"):
        refuse_foreign(["report.md", "tables/a.csv"], folder)
        write_files({"report.md": content, "tables/a.csv": content}, folder)
        assert (folder / "tables" / "a.csv").read_bytes() == content
    refuse_foreign(["report.md", "tables/a.csv", "report.tex"], folder)
    assert {path.name for path in folder.iterdir()} == {"report.md", "tables", LIST_FILE}


def test_a_crash_between_two_files_leaves_both_rupert_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files({"a": b"1", "b": b"1"}, tmp_path)
    replace = Path.replace

    def crash(path: Path, target: Path) -> Path:
        if target == tmp_path / "b":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_files({"a": b"2", "b": b"2"}, tmp_path)
    monkeypatch.undo()
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"2", b"1")
    refuse_foreign(["a", "b"], tmp_path)


def test_a_file_of_the_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(FolderError, match=r"report\.md' is not as rupert wrote it; move it, or name another folder"):
        refuse_foreign(["report.html", "report.md"], tmp_path)
    refuse_foreign(["report.md"], tmp_path, own=["report.md"])
    write_files({"report.tex": b"ours"}, tmp_path)
    (tmp_path / "report.tex").write_text("edited")
    with pytest.raises(FolderError, match=r"report\.tex"):
        refuse_foreign(["report.tex"], tmp_path)
    (tmp_path / "report.csv").symlink_to(tmp_path / "nothing")
    with pytest.raises(FolderError, match=r"report\.csv"):
        refuse_foreign(["report.csv"], tmp_path)


@pytest.mark.parametrize("name", ["file/report.md", "folder", "file"])
def test_a_place_that_cannot_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FolderError, match="--output-dir: "):
        refuse_foreign([name], tmp_path)


def test_a_damaged_list_is_told(tmp_path: Path) -> None:
    (tmp_path / LIST_FILE).write_text("[]")
    with pytest.raises(FolderError, match="damaged"):
        refuse_foreign(["report.md"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LIST_FILE]
