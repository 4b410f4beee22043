"""`rupert report`: a study's page, and its tables and figures for papers, from its folder alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rupert.cli.arguments import Parser, divided
from rupert.cli.study_page import REPORT, measured_beside, study_page
from rupert.cli.verify import in_words
from rupert.errors import UnknownName, UsageError
from rupert.evidence import Evidence
from rupert.report.exports.images import ImageFormat, drawings, images
from rupert.report.exports.latex import latex
from rupert.report.exports.markdown import markdown
from rupert.report.exports.outputs import refuse_foreign, write_files
from rupert.report.exports.separated import separated
from rupert.report.page import Beside
from rupert.report.sheets import Table
from rupert.report.study_figures import study_figures
from rupert.report.study_sheets import study_tables
from rupert.study.evidence import evidence, verified

IMAGES: tuple[ImageFormat, ...] = get_args(ImageFormat)
FORMATS = ("html", "markdown", "latex", "csv", *IMAGES)
MARKDOWN, LATEX = "report.md", "report.tex"


def configure(parser: Parser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", type=Path, help="of `rupert run`: its --output-dir; the study may still be running")
    parser.add_argument("--output-dir", type=Path, help="where the files go (default: the study's folder)")
    parser.add_argument(
        "--format", nargs="+", default=["html"], metavar="FORMAT", help=f"{', '.join(FORMATS)} (default: html)"
    )
    parser.add_argument(
        "--ladder",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]FOLDER",
        help="of `rupert ladder`: what breaking each model costs, on the page; the others are compared with the first: "
        "none=L0 seam=L1",
    )
    parser.add_argument(
        "--geometry", type=Path, metavar="FOLDER", help="of `rupert geometry`: where gradients pull, on the page"
    )
    parser.add_argument(
        "--show-unsafe",
        action="store_true",
        help="put texts into the page that a judge calls harmful, or that come from harmful corpora, behind a click; "
        "without it they are not in the file",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and say where they are."""
    wanted = _wanted(arguments.format)
    found = evidence(arguments.folder)
    if not found.rows:
        raise UsageError(
            f"{str(arguments.folder)!r}: none of {len(found.cells)} models is measured yet; see how far they are with "
            f"`rupert status {arguments.folder}`"
        )
    measured = measured_beside(found, arguments.ladder, arguments.geometry)
    beside = replace(measured, show_unsafe=arguments.show_unsafe)
    folder = arguments.output_dir or arguments.folder
    tables = study_tables(found)
    panels = drawings(study_figures(found)) if set(wanted) & set(IMAGES) else {}
    is_own = folder.resolve() == arguments.folder.resolve()
    refuse_foreign(list(_names(wanted, tables, panels)), folder, own=(REPORT,) if is_own else ())
    files = _files(wanted, found, tables, arguments.folder, beside)
    files |= {f"figures/{name}": image for name, image in _drawn(wanted, panels).items()}
    write_files(files, folder)
    for cell in found.missing:
        print(f"not measured: {cell.name} ({'; '.join(cell.missing)})")
    for name in files:
        print(folder / name)
    return 0


def _wanted(given: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(divided(given)))
    for name in names:
        if name not in FORMATS:
            raise UnknownName("--format", name, FORMATS)
    return names


def _names(wanted: Sequence[str], tables: Sequence[Table], panels: Iterable[str]) -> Iterator[str]:
    """The files that will be written, before anything is."""
    for kind in wanted:
        match kind:
            case "html":
                yield REPORT
            case "markdown":
                yield MARKDOWN
            case "latex":
                yield LATEX
            case "csv":
                yield from (f"tables/{table.name}.csv" for table in tables)
            case _:
                yield from (f"figures/{name}.{kind}" for name in panels)


def _files(
    wanted: Sequence[str], found: Evidence, tables: Sequence[Table], folder: Path, beside: Beside
) -> dict[str, bytes]:
    title = f"{found.study}: {found.model}"
    texts: dict[str, str] = {}
    if "html" in wanted:
        texts[REPORT] = study_page(found, folder, [in_words(one) for one in verified(folder)], beside)
    if "markdown" in wanted:
        texts[MARKDOWN] = markdown(title, tables)
    if "latex" in wanted:
        texts[LATEX] = latex(title, tables)
    if "csv" in wanted:
        texts |= {f"tables/{table.name}.csv": separated(table) for table in tables}
    return {name: text.encode() for name, text in texts.items()}


def _drawn(wanted: Sequence[str], panels: Mapping[str, dict[str, Any]]) -> dict[str, bytes]:
    formats = [kind for kind in IMAGES if kind in wanted]
    return images(panels, formats) if formats else {}
