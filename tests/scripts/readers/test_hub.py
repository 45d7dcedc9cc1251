"""Datasets: the same labels as from the same file, whatever the datasets library would make of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from scripts.cli.console import ScriptError
from scripts.readers import hub, tables
from scripts.readers.tables import Table
from scripts.training import tasks

NAMES = ["001", "1", "true", "1e3", "2024-01-01", "None", "NA", "null", "nan", "007", "-1"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def read(folder: Path) -> dict[str, Table]:
    """Read a local dataset as train.py does."""
    return hub.read_dataset(str(folder), None, lambda path: tasks.readers("auto", path))


def labels(table: Table) -> list[object]:
    """Return the label of every row."""
    return [record["label"] for _, record in table.rows]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".csv.gz"])
def test_a_folder_names_labels_as_its_file_does(suffix: str, tmp_path: Path) -> None:
    mark = "\t" if suffix == ".tsv" else ","
    if "json" in suffix:
        rows = [{"text": "x", "label": name} for name in [*NAMES, 1, True]]
        content = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    else:
        content = "".join(f"{mark.join(row)}\n" for row in [("text", "label"), *(("x", name) for name in NAMES)])
    plain = tmp_path / f"plain{suffix.removesuffix('.gz')}"
    plain.write_text(content)
    folder = tmp_path / "data"
    folder.mkdir()
    if suffix.endswith(".gz"):
        (folder / f"train{suffix}").write_bytes(gzip.compress(content.encode()))
    else:
        (folder / f"train{suffix}").write_text(content)
    table = read(folder)["train"]
    assert labels(table) == labels(tables.read(plain, tasks.readers("auto", plain)))
    names = {table.label(row, record, "label") for row, record in table.rows}
    assert names == set(NAMES)
    assert str(table.error(table.rows[0][0], "label", "x")).startswith(f"train{suffix.removesuffix('.gz')} row ")


def test_labels_stay_apart_far_down(tmp_path: Path) -> None:
    """The library reads a CSV in pieces of 10,000 rows, and guesses the type of each."""
    rows = ["x,7"] * 10_001 + ["y,007"]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    assert set(labels(read(tmp_path)["train"])) == {"7", "007"}


def card(folder: Path, names: list[str]) -> None:
    """Write a dataset's card that names the classes of `label`."""
    classes = "".join(f"          '{number}': '{name}'\n" for number, name in enumerate(names))
    (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:\n{classes}---\n"
    )


@pytest.mark.parametrize(
    ("names", "cells", "expected"),
    [
        (["1", "2", "3"], ["1", "2", "3"], ["1", "2", "3"]),  # the library shifts them by one and refuses the 3
        (["bad", "good"], ["good", "bad", "good"], ["good", "bad", "good"]),
        (["bad", "good"], ["0", "1", "-1"], ["bad", "good", None]),
    ],
)
def test_class_names_of_a_card(names: list[str], cells: list[str], expected: list[str | None], tmp_path: Path) -> None:
    card(tmp_path, names)
    (tmp_path / "train.csv").write_text("".join(f"x,{cell}\n" for cell in ["label", *cells]).replace("x,l", "text,l"))
    assert labels(read(tmp_path)["train"]) == expected


def test_the_separator_of_a_card(tmp_path: Path) -> None:
    """Excel writes semicolons in most of Europe; the label stays 001 there too."""
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  sep: ';'\n---\n")
    (tmp_path / "train.csv").write_text("text;label\nx, y;001\n")
    assert read(tmp_path)["train"].rows == ((0, {"text": "x, y", "label": "001"}),)


def test_a_class_that_the_card_does_not_name(tmp_path: Path) -> None:
    card(tmp_path, ["bad", "good"])
    (tmp_path / "train.csv").write_text("text,label\nx,1\ny,2\n")
    with pytest.raises(ScriptError, match=r"train\.csv row 3, column label: the label is not one of the 2 classes"):
        read(tmp_path)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    """One split, which the library's own loader refuses, or several; class numbers are names."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]}, features=features).select([1, 2])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "two")
    tables = read(tmp_path / "one") | {f"two {name}": table for name, table in read(tmp_path / "two").items()}
    assert {name: labels(table) for name, table in tables.items()} == {
        "train": ["yes", "no"],
        "two train": ["yes", "no"],
        "two test": ["yes", "no"],
    }


def test_rows_of_several_files_keep_their_place(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"train-0000{number}-of-00002.csv").write_text(f"text,label\nx,{number}\ny,\n")
    table = read(tmp_path)["train"]
    assert labels(table) == ["0", "", "1", ""]
    with pytest.raises(ScriptError, match=r"train-00001-of-00002\.csv row 3, column label: the label is missing"):
        table.label(*table.rows[3], "label")


def test_errors_of_the_library_are_one_line(tmp_path: Path) -> None:
    """The library raises tracebacks of 40 to 80 lines, whose last line is not the reason."""
    for name, content in {
        "empty": {"readme.rst": b"x"},
        "parquet": {"train.parquet": b"PAR1"},
        "card": {"README.md": b"---\nconfigs: [1\n---\n", "train.csv": b"text,label\nx,a\n"},
        "bytes": {"train.csv": b"text,label\n\xff,a\n"},
        "xml": {"train.xml": b"<a"},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, data in content.items():
            (folder / file).write_bytes(data)
        with pytest.raises(ScriptError) as refused:
            read(folder)
        assert "\n" not in str(refused.value), name
        assert len(str(refused.value)) < 400, name
