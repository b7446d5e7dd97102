"""Tables of a cross-validation: who trains and who validates; test cases stay apart, failed ones stay out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.data.folds import fold_numbers, has_test_cases, write_fold_cases, write_pooled_cases


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Six cases in three folds, two test cases, one that failed its check."""
    rows = [(f"case-{n}", n % 3, "val" if n % 3 == 0 else "train", "ok") for n in range(6)]
    rows += [("test-0", None, "test", "ok"), ("test-1", None, "test", "ok"), ("bad", 7, "train", "failed")]
    table = pd.DataFrame(rows, columns=["case", "fold", "split", "status"]).astype({"fold": "Int64"})
    table.to_parquet(tmp_path / "cases.parquet", index=False)
    return RunFolder(tmp_path)


def splits(folder: RunFolder) -> dict[str, str]:
    return pd.read_parquet(folder.cases).set_index("case")["split"].to_dict()


def test_all_means_the_folds_of_cases_that_can_be_used(run: RunFolder) -> None:
    assert fold_numbers(run, "all") == [0, 1, 2]
    assert fold_numbers(run, [2, 0, 2]) == [0, 2]
    with pytest.raises(UserError, match=r"no fold 5, 7; there are 0, 1, 2"):
        fold_numbers(run, [0, 5, 7])


def test_each_fold_validates_once_and_test_cases_never(run: RunFolder) -> None:
    validated = []
    for fold in range(3):
        member = run.fold(f"fold-{fold}")
        write_fold_cases(member, fold)
        found = splits(member)
        validated += [case for case, split in found.items() if split == "val"]
        assert [found["test-0"], found["test-1"]] == ["test", "test"]
    assert sorted(validated) == [f"case-{n}" for n in range(6)]
    assert splits(run)["case-0"] == "val"  # the run's own table is left as it is


def test_without_a_fold_the_split_is_that_of_the_run(run: RunFolder) -> None:
    write_fold_cases(run.fold("split"), None)
    assert splits(run.fold("split")) == splits(run)


def test_the_shared_plan_is_made_from_all_folds_but_no_test_case(run: RunFolder) -> None:
    write_pooled_cases(run)
    found = splits(run.pooled)
    assert {found[f"case-{n}"] for n in range(6)} == {"train"}
    assert found["test-0"] == "test"
    assert has_test_cases(run)


def test_members_share_the_run_and_keep_their_own_cases_and_journal(run: RunFolder) -> None:
    member = run.fold("fold-1")
    assert member.is_fold
    assert not run.pooled.is_fold
    assert member.prepared == run.prepared
    assert member.sources == run.sources
    assert member.journal != run.journal
    assert run.system("v-net").fold("fold-0").check_json == run.check_json


def test_only_complete_members_are_joined_in_the_order_of_their_numbers(run: RunFolder) -> None:
    for name in ("fold-10", "fold-2", "fold-2-seed-18", "fold-0"):
        run.fold(name).path.mkdir(parents=True)
        if name != "fold-0":
            run.fold(name).member.write_text("{}")
    assert [m.path.name for m in run.finished_folds()] == ["fold-2", "fold-2-seed-18", "fold-10"]


def test_folds_need_cases_that_were_dealt_out(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"case": ["a", "b"], "fold": [None, None], "split": ["train", "val"], "status": ["ok", "ok"]}
    )
    table.to_parquet(tmp_path / "cases.parquet", index=False)
    with pytest.raises(UserError, match="the cases have no folds") as caught:
        fold_numbers(RunFolder(tmp_path), "all")
    assert "data.split.file" in str(caught.value)
    with pytest.raises(UserError, match="not been checked"):
        fold_numbers(RunFolder(tmp_path / "elsewhere"), "all")
