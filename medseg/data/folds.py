"""The tables of cases of a cross-validation: who trains and who validates in each of its trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg.core.errors import UserError
from medseg.core.run import RunFolder


def fold_numbers(folder: RunFolder, wanted: Sequence[int] | str) -> list[int]:
    """The folds that are meant: `all`, or those named. Raises UserError when there are none, or not these."""
    there = sorted({int(n) for n in _cross_validated(read_table(folder.root))["fold"]})
    if not there:
        raise UserError(
            "the cases have no folds: the data set says itself which ones validate, or too few have labels",
            "train.folds",
            "leave train.folds out, or give folds by data.split.file (columns case and fold)",
        )
    if wanted == "all":
        return there
    strange = [str(n) for n in wanted if n not in there]
    if strange:
        raise UserError(
            f"there is no fold {', '.join(strange)}; there are {', '.join(map(str, there))}",
            "train.folds",
            "give all or some of these; data.split.folds says how many are dealt",
        )
    return sorted({int(n) for n in wanted})


def write_fold_cases(member: RunFolder, fold: int | None) -> None:
    """cases.parquet of one training: cases of `fold` validate, those of other folds train, test cases stay apart.

    None: the split that the run has.
    """
    table = read_table(member.root)
    if fold is not None:
        dealt = _cross_validated(table).index
        table.loc[dealt, "split"] = ["val" if n == fold else "train" for n in table.loc[dealt, "fold"]]
    _write(table, member)


def write_pooled_cases(folder: RunFolder) -> None:
    """cases.parquet in which the cases of all folds train: the plan that all trainings share is made from them."""
    table = read_table(folder.root)
    table.loc[_cross_validated(table).index, "split"] = "train"
    _write(table, folder.pooled)


def has_test_cases(folder: RunFolder) -> bool:
    """Whether cases were set aside for the final score."""
    table = read_table(folder.root)
    return bool(((table["split"] == "test") & (table["status"] == "ok")).any())


def read_table(folder: RunFolder) -> Any:
    """cases.parquet of a run. Raises UserError when the data has not been checked yet."""
    import pandas as pd

    path = folder.path / "cases.parquet"
    if not path.exists():
        raise UserError("the data has not been checked yet", path.name, "run `medseg check` first")
    return pd.read_parquet(path)


def _cross_validated(table: Any) -> Any:
    """The rows that were dealt into folds and can be used."""
    return table[table["fold"].notna() & table["split"].isin(["train", "val"]) & (table["status"] == "ok")]


def _write(table: Any, folder: RunFolder) -> None:
    from medseg.core.atomic import atomic_path

    with atomic_path(folder.cases) as part:
        table.to_parquet(part, index=False)
