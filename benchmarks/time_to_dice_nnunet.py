"""nnU-Net's half of time_to_dice.py: its own trainer for a budget of wall-clock minutes, then its own validation.

    PYTHON_WITH_NNUNETV2 benchmarks/time_to_dice_nnunet.py WORK DATA --minutes 20 [--fold 0] [--seed 17] [--threads 2]

Plan, sampling, augmentation, loss, optimiser and polynomial schedule are nnU-Net's; an epoch has 10 steps instead of
250, and the number of epochs is set so that they fill the budget: it is corrected after each epoch by the time the
epochs have taken. Looks at up to 8 held-out cases, ten a training, stand outside the clock. At the end its validation
on whole volumes, without mirroring. Augmentation runs in the training process, with all threads for the network. Prints
one JSON line; goes on at its checkpoint after an interruption. Written for nnunetv2 2.8.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ID, NAME = 104, "Dataset104_Hippocampus"
CLASSES = {"anterior": 1, "posterior": 2}
STEPS_AN_EPOCH = 10
LOOKS, CASES_A_LOOK = 10, 8
CHECKPOINT_SECONDS = 120


def set_folders(work: Path, threads: int) -> None:
    """nnU-Net reads its folders and its number of workers when it is imported."""
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(work / name)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc="1", nnUNet_compile="f")
    os.environ["OMP_NUM_THREADS"] = str(threads)


def prepare(work: Path, data: Path, threads: int) -> Path:
    """Plans and preprocesses by nnU-Net's own functions, and writes the folds of splits.csv."""
    raw, prepared = work / "raw" / NAME, work / "preprocessed" / NAME
    if not (prepared / "nnUNetPlans_3d_fullres").is_dir():
        from nnunetv2.experiment_planning.plan_and_preprocess_api import (
            extract_fingerprints,
            plan_experiments,
            preprocess,
        )

        cases = sorted(path.name.removesuffix(".nii.gz") for path in (data / "images").glob("*.nii.gz"))
        for name, ending in (("images", "_0000"), ("labels", "")):
            (raw / f"{name}Tr").mkdir(parents=True, exist_ok=True)
            for case in cases:
                shutil.copy(data / name / f"{case}.nii.gz", raw / f"{name}Tr" / f"{case}{ending}.nii.gz")
        described = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, **CLASSES}}
        described |= {"numTraining": len(cases), "file_ending": ".nii.gz"}
        (raw / "dataset.json").write_text(json.dumps(described))
        extract_fingerprints([ID], num_processes=threads)
        plan_experiments([ID])
        preprocess([ID], configurations=("3d_fullres",), num_processes=(threads,))
    folds: dict[int, list[str]] = {}
    with (data / "splits.csv").open() as stream:
        for row in csv.DictReader(stream):
            folds.setdefault(int(row["fold"]), []).append(row["case"])
    splits = [
        {"train": sorted(c for g, cases in folds.items() if g != f for c in cases), "val": sorted(folds[f])}
        for f in sorted(folds)
    ]
    (prepared / "splits_final.json").write_text(json.dumps(splits))
    return prepared


def make_trainer(prepared: Path, fold: int, going_on: bool) -> Any:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    dataset = json.loads((prepared / "dataset.json").read_text())
    trainer = nnUNetTrainer(
        {**plans, "continue_training": going_on}, "3d_fullres", fold, dataset, torch.device("cpu")
    )
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = STEPS_AN_EPOCH, 1
    # Its pictures and checkpoints come once in 250 steps; once in 10 they would cost it time that they normally do not.
    trainer.disable_checkpointing = True
    trainer.logger.plot_progress_png = lambda folder: None
    trainer.initialize()
    return trainer


class Budget:
    """Trains for so many minutes; keeps what a resumed training needs beside nnU-Net's own checkpoint."""

    def __init__(self, work: Path, prepared: Path, fold: int, minutes: float, seed: int) -> None:
        import numpy as np
        import torch

        self.seconds_wanted = 60 * minutes
        self.place = work / "budgets" / f"fold{fold}-{minutes:g}min-seed{seed}"
        self.place.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.kept = self.place / "checkpoint.pth", self.place / "so_far.json"
        self.state: dict[str, Any] = {"seconds": 0.0, "steps": 0, "curve": [], "over": False}
        going_on = self.kept.is_file() and self.checkpoint.is_file()
        if going_on:
            self.state = json.loads(self.kept.read_text())
        torch.manual_seed(seed + self.state["steps"])
        np.random.seed(seed + self.state["steps"])
        self.trainer = make_trainer(prepared, fold, going_on=False)
        self.trainer.num_epochs = 10**6  # set anew after each epoch
        if going_on:
            self.trainer.load_checkpoint(str(self.checkpoint))

    def go(self) -> None:
        """Epochs until the budget is used up."""
        trainer = self.trainer
        if self.state["over"]:
            return
        os.environ.update(nnUNet_n_proc_DA="0")  # augmentation in the training process
        trainer.on_train_start()
        saved = time.monotonic()
        while self.state["seconds"] < self.seconds_wanted:
            start = time.monotonic()
            self._epoch()
            self.state["seconds"] += time.monotonic() - start
            self.state["steps"] += STEPS_AN_EPOCH
            share = self.state["seconds"] / self.seconds_wanted
            if share * LOOKS >= len(self.state["curve"]) + 1:
                self.look()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        self.state["over"] = True
        self.save()

    def _epoch(self) -> None:
        import torch

        trainer, epochs = self.trainer, self.state["steps"] // STEPS_AN_EPOCH
        if epochs:
            planned = epochs * self.seconds_wanted / max(self.state["seconds"], 1e-9)
            trainer.lr_scheduler.max_steps = max(epochs + 1, round(planned))
        else:
            trainer.lr_scheduler.max_steps = 100
        trainer.current_epoch = epochs
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        steps = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(STEPS_AN_EPOCH)]
        trainer.on_train_epoch_end(steps)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()

    def save(self) -> None:
        part = self.checkpoint.with_suffix(".part")
        self.trainer.disable_checkpointing = False
        self.trainer.save_checkpoint(str(part))
        self.trainer.disable_checkpointing = True
        part.replace(self.checkpoint)
        self.kept.write_text(json.dumps(self.state))

    def look(self) -> None:
        """A point of the curve: mean Dice of each class over some held-out cases, on nnU-Net's grid."""
        import numpy as np
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        trainer = self.trainer
        predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_mirroring=False,
            perform_everything_on_device=True,
            device=trainer.device,
            allow_tqdm=False,
        )
        trainer.set_deep_supervision_enabled(False)
        trainer.network.eval()
        predictor.manual_initialization(
            trainer.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            None,
        )
        names = sorted(trainer.do_split()[1])
        places = np.linspace(0, len(names) - 1, min(CASES_A_LOOK, len(names))).round().astype(int)
        cases = trainer.dataset_class(trainer.preprocessed_dataset_folder, [names[k] for k in places])
        found: dict[str, list[float]] = {name: [] for name in CLASSES}
        with torch.no_grad():
            for case in cases.identifiers:
                image, target, *_ = cases.load_case(case)
                logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image[:]))
                labels, truth = logits.argmax(0).numpy(), np.asarray(target[:])[0]
                for name, value in CLASSES.items():
                    a, b = labels == value, truth == value
                    found[name].append(2 * float((a & b).sum()) / max(1, int(a.sum() + b.sum())))
        trainer.set_deep_supervision_enabled(True)
        trainer.network.train()
        dice = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
        point = {
            "seconds": round(self.state["seconds"], 1),
            "step": self.state["steps"],
            "dice": dice,
        }
        self.state["curve"].append(point)
        print(point, file=sys.stderr, flush=True)

    def validate(self) -> dict[str, Any]:
        """Its own validation of all held-out cases, mirroring off."""
        trainer = self.trainer
        trainer.inference_allowed_mirroring_axes = None
        trainer.perform_actual_validation(False)
        summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
        return {
            "dice": {name: round(summary["mean"][str(value)]["Dice"], 4) for name, value in CLASSES.items()},
            "cases": len(summary["metric_per_case"]),
        }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    prepared = prepare(options.work, options.data, options.threads)
    torch.set_num_threads(options.threads)
    budget = Budget(options.work, prepared, options.fold, options.minutes, options.seed)
    budget.go()
    from importlib.metadata import version

    state = budget.state
    names = ("nnunetv2", "torch", "batchgeneratorsv2")
    return {
        "seconds": round(state["seconds"], 1),
        "steps": state["steps"],
        "seconds_per_step": round(state["seconds"] / state["steps"], 3),
        "precision": "fp32",
        "batch": budget.trainer.batch_size,
        **budget.validate(),
        "curve": state["curve"],
        "peer_versions": {name: version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.work = options.work.resolve()
    set_folders(options.work, options.threads)
    with contextlib.redirect_stdout(sys.stderr):
        facts = measure(options)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
