"""Tasks in YAML, and a tiny model that they ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from .tasks_by_hand import FIRST, FUNCTIONS, SECOND, choice_task, group, said_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks in lm-eval's YAML, with their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    first, second, said = (folder / f"{name}.jsonl" for name in ("first", "second", "said"))
    for path, rows in ((first, FIRST), (second, SECOND)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shot = {"num_fewshot": 1, "fewshot_split": "test"}
    sampled = said_task("local_sampled", said, 3)
    sampled["generation_kwargs"] |= {"do_sample": True, "temperature": 1.5}
    filtered = said_task("local_filtered", said, 3)
    filtered["filter_list"] = [
        {"name": "as-said", "filter": [{"function": "take_first"}]},
        {"name": "bare", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
    ]
    configs = [
        choice_task("local_first", first, "acc", "acc_norm"),
        choice_task("local_second", second, "acc"),
        choice_task("local_normed", first, "acc_norm"),
        choice_task("local_shot", first, "acc", **shot),
        choice_task("local_share", first, "acc", process_results="functions.share"),
        choice_task("local_unscored", first, "acc", process_results="functions.share_of_most"),
        choice_task("local_nothing", first, "acc", process_results="functions.nothing"),
        choice_task("local_package", first, "acc", process_results="needs.function"),
        choice_task("local_hub", first, "acc", dataset_path="nobody/nothing", dataset_kwargs={}),
        said_task("local_said", said, 3),
        said_task("local_long", first, 100),
        sampled,
        filtered,
        group("local_group", by_size=True),
        group("local_alike", by_size=False),
    ]
    for config in configs:
        text = yaml.safe_dump(config).replace("process_results: ", "process_results: !function ")
        (folder / f"{config.get('task') if 'group' not in config else config['group']}.yaml").write_text(text)
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "needs.py").write_text("import a_package_that_nobody_has\n")
    return folder


@pytest.fixture
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
