"""The loop: it learns, it can be cut anywhere, it says what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg.core.errors import Interrupted, UserError
from medseg.train import prefetch
from medseg.train.checkpoints import FILE, read_facts
from medseg.train.loop import train
from medseg.train.sampler import Sampler

TIMES = ("seconds", "data_wait_percent", "augment_percent", "ram_bytes")


def history(job) -> list[dict]:
    return [json.loads(line) for line in job.folder.history.read_text().splitlines()]


def curve(job) -> list[dict]:
    """The history without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in history(job)]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def shaken(images, targets, rng):
    """An augmentation that draws."""
    return images + float(rng.normal(0, 0.1)), targets


def cut_at(step: int, number: int = signal.SIGTERM) -> Callable:
    """An augmentation in whose `step`-th call the process is asked to stop."""
    calls = []

    def augment(images, targets, rng):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return shaken(images, targets, rng)

    return augment


def test_it_learns_to_find_balls(job: Callable, small: Callable) -> None:
    net, given = small(), job(steps=60, batch_size=2)
    result = train(net, given)
    assert result.scores["dice"] > 0.85
    assert result.scores["per_class"]["ball"]["dice"] == result.scores["dice"]
    losses = [line["loss"] for line in history(given)]
    assert losses[-1] < 0.6 * losses[0]
    assert not net.training


def test_history_lines_say_what_the_curves_need(job: Callable, small: Callable) -> None:
    given = job(steps=20, val={})
    train(small(), given)
    lines = history(given)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert set(lines[0]) == {
        "step",
        "epoch",
        "seconds",
        "loss",
        "rate",
        "val_dice",
        "val_iou",
        "val_dice_of_class",
        *TIMES,
    }
    assert lines[-1]["epoch"] == 8.0
    assert all(line["val_dice"] is None for line in lines)


def test_ten_looks_at_the_validation_cases(job: Callable, small: Callable) -> None:
    given = job(steps=40)
    train(small(), given)
    assert [line["step"] for line in history(given) if line["val_dice"] is not None] == list(range(4, 41, 4))


def test_two_trainings_with_one_seed_are_equal_to_the_last_bit(job: Callable, small: Callable) -> None:
    nets = [small(), small(), small()]
    jobs = [job("a"), job("b"), job("c", seed=18)]
    for net, given in zip(nets, jobs):
        train(net, given, shaken)
    assert same_weights(nets[0], nets[1])
    assert curve(jobs[0]) == curve(jobs[1])
    assert not same_weights(nets[0], nets[2])


@pytest.mark.parametrize("step", [1, 4, 7])
@pytest.mark.parametrize("optimizer", [{"name": name, "rate": 0.02} for name in ("adamw", "sgd", "muon")])
def test_a_training_cut_anywhere_ends_like_the_uncut_one(
    job: Callable, small: Callable, step: int, optimizer: dict
) -> None:
    settings = {"optimizer": optimizer, "ema": 0.9}
    uncut, whole = small(), job("uncut", **settings)
    train(uncut, whole, shaken)
    first, cut = small(), job("cut", **settings)
    with pytest.raises(Interrupted, match=f"SIGTERM.*after step {step}"):
        train(first, cut, cut_at(step))
    assert read_facts(cut.folder.checkpoints)["step"] == step
    # Another random start, to be sure that everything comes from the checkpoint.
    torch.manual_seed(99)
    resumed = type(first)()
    train(resumed, cut, shaken)
    assert same_weights(uncut, resumed)
    assert curve(whole) == curve(cut)


def test_a_stop_during_a_look_leaves_the_look_to_the_next_time(
    job: Callable, small: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.train.look import Looker

    uncut, whole = small(), job("uncut", validate_every=4)
    train(uncut, whole)
    first, cut = small(), job("cut", validate_every=4)
    count = Looker._count

    def stopped(self, net, case):
        os.kill(os.getpid(), signal.SIGTERM)
        return count(self, net, case)

    monkeypatch.setattr(Looker, "_count", stopped)
    with pytest.raises(Interrupted, match="after step 4"):
        train(first, cut)
    monkeypatch.undo()
    resumed = small()
    train(resumed, cut)
    assert same_weights(uncut, resumed)
    assert curve(whole) == curve(cut)


def test_a_stop_is_answered_while_the_disk_does_not_answer(
    job: Callable, small: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader hangs for good: a checkpoint is written all the same, and resumed it ends like an uncut training."""
    hangs = threading.Event()
    uncut, whole = small(), job("uncut")
    train(uncut, whole)

    def hanging(self: Sampler, step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        hangs.wait()

    first, cut = small(), job("cut")
    monkeypatch.setattr(Sampler, "batch", hanging)
    monkeypatch.setattr(prefetch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(prefetch, "LEAVE_SECONDS", 0.0)
    with pytest.raises(Interrupted, match="asked to stop"):
        train(first, cut)
    monkeypatch.undo()
    hangs.set()
    assert (cut.folder.checkpoints / FILE).is_file()
    resumed = small()
    train(resumed, cut)
    assert same_weights(uncut, resumed)


def test_ctrl_c_is_a_stop_as_well_and_handlers_are_put_back(job: Callable, small: Callable) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGINT"):
        train(small(), job(), cut_at(2, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_kill_between_checkpoints_loses_no_more_than_the_steps_since(
    job: Callable, small: Callable
) -> None:
    uncut, whole = small(), job("uncut")
    train(uncut, whole, shaken)
    given = job("killed", checkpoint_minutes=1e-9)

    class Killed(BaseException):
        """Stands for a power cut: nothing handles it."""

    def die(images, targets, rng):
        facts = read_facts(given.folder.checkpoints)
        if facts is not None and facts["step"] == 5:
            raise Killed
        return shaken(images, targets, rng)

    with pytest.raises(Killed):
        train(small(), given, die)
    with given.folder.history.open("a") as stream:
        stream.write('{"step": 6, "loss"')  # a line that was being written
    resumed = small()
    train(resumed, given, shaken)
    assert same_weights(uncut, resumed)
    assert curve(given) == curve(whole)


def test_a_checkpoint_of_another_training_is_not_continued(job: Callable, small: Callable) -> None:
    with pytest.raises(Interrupted):
        train(small(), job("run"), cut_at(3))
    changed, plain = job("run", loss="ce"), job("plain", loss="ce")
    nets = [small(), small()]
    train(nets[0], changed, shaken)
    train(nets[1], plain, shaken)
    assert same_weights(*nets)
    assert len(history(changed)) == len(history(plain))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of checkpoints."""
    lines: list[str] = []
    monkeypatch.setattr("medseg.train.job.say", lines.append)
    return lines


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "ce", "clip": 5.0}, "after step 3 was made with other train.clip, train.loss"),
        ({"seed": 3}, "after step 3 was made with other compute.seed"),
        ({"data_key": "new"}, "after step 3 was made with other data"),
        ({"steps": 2}, "after step 3 lies beyond the end that is asked for now"),
    ],
)
def test_steps_that_are_given_up_are_said_with_the_reason(
    job: Callable, small: Callable, said: list[str], changes: dict, reason: str
) -> None:
    with pytest.raises(Interrupted):
        train(small(), job("run"), cut_at(3))
    train(small(), job("run", **changes), shaken)
    assert said == [f"train    starts from the beginning: the checkpoint {reason}"]


def test_a_plan_that_changed_between_is_named(
    job: Callable, small: Callable, plan: Callable, said: list[str]
) -> None:
    with pytest.raises(Interrupted):
        train(small(), job("run"), cut_at(3))
    train(small(), job("run", plan=plan(batch_size=1)), shaken)
    assert said[0].endswith("was made with other batch_size of the plan")


def test_nothing_is_said_of_a_checkpoint_where_a_finished_training_is_done_again(
    job: Callable, small: Callable, said: list[str]
) -> None:
    from medseg.train.checkpoints import mark_finished

    train(small(), job("run"))
    mark_finished(job("run").folder.checkpoints)
    train(small(), job("run", loss="ce"))
    assert said == []


def test_checkpoints_hold_no_pickle(job: Callable, small: Callable) -> None:
    given = job(checkpoint_minutes=1e-9)
    train(small(), given)
    files = list(given.folder.checkpoints.iterdir())
    assert [path.name for path in files] == [FILE]
    head = int.from_bytes(files[0].read_bytes()[:8], "little")
    assert json.loads(files[0].read_bytes()[8 : 8 + head])["__metadata__"]["format"] == "2"


def test_a_damaged_checkpoint_is_not_used(job: Callable, small: Callable, said: list[str]) -> None:
    given = job()
    with pytest.raises(Interrupted):
        train(small(), given, cut_at(3))
    path = given.folder.checkpoints / FILE
    whole = path.read_bytes()
    for size in (40, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert read_facts(given.folder.checkpoints) is None
    assert train(small(), given).steps == 8
    assert said == ["train    starts from the beginning: its checkpoint cannot be read"]


def test_minutes_end_a_training_and_count_over_interruptions(job: Callable, small: Callable) -> None:
    given = job(steps=None, minutes=2.5 / 60)
    with pytest.raises(Interrupted):
        train(small(), given, cut_at(2))
    before = read_facts(given.folder.checkpoints)["seconds"]
    result = train(small(), given)
    assert result.seconds > before
    assert result.seconds > 2
    assert result.steps > 2
    assert history(given)[-1]["val_dice"] is not None


def test_the_averaged_weights_are_kept(job: Callable, small: Callable) -> None:
    plain, averaged = small(), small()
    train(plain, job("a"))
    train(averaged, job("b", ema=0.99))
    assert not same_weights(plain, averaged)
    trail: list[torch.Tensor] = []

    class Watched(type(plain)):
        def forward(self, x):
            trail.append(self.body[4].bias.detach().clone())
            return super().forward(x)

    torch.manual_seed(5)
    watched = Watched()
    train(watched, job("c", ema=0.99, val={}))
    trail = [*trail[1:], plain.body[4].bias.detach()]
    mean = small().body[4].bias.detach().clone()
    for number, weights in enumerate(trail, start=1):
        decay = min(0.99, (1 + number) / (10 + number))
        mean = decay * mean + (1 - decay) * weights
    assert torch.allclose(watched.body[4].bias, mean, atol=1e-6)


def test_a_loss_that_is_not_finite_once_is_left_out(job: Callable, small: Callable) -> None:
    def poison(images, targets, rng):
        return (images * float("nan"), targets) if poison.calls.pop(0) else (images, targets)

    poison.calls = [0, 0, 1, 0, 0, 0, 0, 0]
    net = small()
    result = train(net, job(), poison)
    assert result.steps == 8
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_a_step_that_is_left_out_leaves_the_running_statistics_too(job: Callable, small: Callable) -> None:
    class Spike(nn.Module):
        """Computes what is not finite in the third step, as half precision does where it overflows."""

        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            return x * float("inf") if self.training and self.calls == 3 else x

    net = small()
    net.body.insert(1, Spike())
    result = train(net, job(steps=4))
    assert net.body[2].running_var.isfinite().all()
    assert result.scores["dice"] > 0


def test_a_gradient_that_is_not_finite_is_left_out_although_nothing_is_clipped(
    job: Callable, small: Callable
) -> None:
    class Cliff(nn.Module):
        """The root of 0: its value is finite, its gradient is not."""

        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            return x + (x - x).abs().sqrt() if self.training and self.calls == 3 else x

    net = small()
    net.body.append(Cliff())
    train(net, job(steps=4, clip=None))
    assert all(p.isfinite().all() for p in net.parameters())


def test_without_clipping_the_steps_are_those_of_a_limit_that_is_never_met(
    job: Callable, small: Callable
) -> None:
    nets = [small(), small()]
    train(nets[0], job("a", clip=None))
    train(nets[1], job("b", clip=1e9))
    assert same_weights(*nets)


def test_a_loss_that_stays_infinite_ends_the_training_with_a_remedy(job: Callable, small: Callable) -> None:
    with pytest.raises(UserError, match="not finite for 20 steps, last at step 20") as caught:
        train(small(), job(steps=100), lambda images, targets, rng: (images * float("nan"), targets))
    assert "train.optimizer.rate (now 0.02)" in caught.value.hint


def test_no_training_case_is_said(job: Callable, small: Callable) -> None:
    with pytest.raises(UserError, match="no training case has a label"):
        train(small(), job(train={}))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: x")]
)
def test_too_large_a_batch_is_said_with_the_settings_to_lower(
    job: Callable, small: Callable, error: Exception
) -> None:
    def burst(images, targets, rng):
        raise error

    with pytest.raises(UserError, match="2 patches of 16x16x16 voxels") as caught:
        train(small(), job(), burst)
    assert "lower train.batch_size" in caught.value.hint


def test_other_errors_stay_what_they_are(job: Callable, small: Callable) -> None:
    def broken(images, targets, rng):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        train(small(), job(), broken)


def test_bf16_trains_and_weights_stay_float32(job: Callable, small: Callable) -> None:
    net = small()
    result = train(net, job(precision="bf16"))
    assert result.precision.name == "bf16"
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_auto_says_why_it_chose_a_number_type() -> None:
    from medseg.train.devices import choose_precision

    chosen = choose_precision("auto", "cpu", 3)
    assert chosen.name in ("fp32", "bf16")
    assert "times" in chosen.reason
    assert choose_precision("fp16", "cuda", 3).reason == "set in the pipeline file"
    assert choose_precision("auto", "mps", 3).name == "fp32"


def test_a_system_that_brings_its_own_step_is_trained_by_it(job: Callable, small: Callable) -> None:
    class Own(type(small())):
        asked = 0

        def training_step(self, images, targets, objective):
            Own.asked += 1
            return objective(self(images), targets)

    torch.manual_seed(5)
    net, plain = Own(), small()
    train(net, job("own"))
    train(plain, job("plain"))
    assert Own.asked == 8
    assert same_weights(net, plain)


@pytest.mark.parametrize("name", ["nnunet-plain", "u-net", "v-net"])
def test_systems_of_the_zoo_train_for_a_step(job: Callable, plan: Callable, name: str) -> None:
    from medseg.config import System
    from medseg.model.folder import build_system

    given = job(steps=1, val={}, plan=plan(patch_size=[32, 32, 32]))
    net = build_system(System(name=name, size="tiny"), given.plan)
    before = [p.detach().clone() for p in net.parameters()]
    train(net, given)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_a_large_case_is_looked_at_alone_when_looks_are_dear(
    job: Callable, ball: Callable, small: Callable
) -> None:
    val = {f"v{i}": ball(i, n=32) for i in range(8)}
    given = job(steps=10, val=val)
    assert train(small(), given).scores["n"] == 1
    given = job("long", steps=10, val=val, validate_every=2000)
    assert train(small(), given).scores["n"] == 8


def test_signals_are_not_touched_outside_the_main_thread(job: Callable, small: Callable) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, small(), job(steps=2)).result().steps == 2


def test_no_process_is_started(job: Callable, small: Callable, tmp_path: Path) -> None:
    import multiprocessing

    import psutil

    before = len(psutil.Process().children(recursive=True))
    train(small(), job(steps=2))
    assert len(psutil.Process().children(recursive=True)) == before
    assert not multiprocessing.active_children()


DISTRIBUTED = """
import os, sys, torch
sys.path.insert(0, sys.argv[2])
from conftest import make_ball
from pathlib import Path
from torch import nn
from medseg.config import IntensityPlan, Plan, System, Train
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo
from medseg.train.job import Job
from medseg.train.loop import train
torch.set_num_threads(1)
processes = int(os.environ.get("WORLD_SIZE", "1"))
rank = os.environ.get("RANK", "0")
plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("ball", 1, (1, 2, 3)).as_json()], out_channels=2,
            intensity=[IntensityPlan(scheme="none")], patch_size=[16] * 3, batch_size=2 // processes)
cases = {f"t{i}": make_ball(i) for i in range(5)}
folder = RunFolder(Path(sys.argv[1], "run"))
settings = Train(steps=3, precision="fp32", loss="ce", optimizer={"name": "sgd", "rate": 0.1, "momentum": 0.9})
job = Job(System(name="u-net"), settings, plan, cases, {"v": make_ball(9)}, folder)
torch.manual_seed(5)
net = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.InstanceNorm3d(6, affine=True), nn.ReLU(),
                    nn.Conv3d(6, 2, 3, padding=1))
train(net, job)
from safetensors.torch import save_file
save_file({k: v.contiguous() for k, v in net.state_dict().items()}, sys.argv[1] + f"/rank{rank}.safetensors")
"""


def test_two_processes_learn_what_one_with_both_patches_learns(tmp_path: Path) -> None:
    """2 processes x batch 1 = 1 process x batch 2: same cases, same boxes, same gradients; rank 0 alone writes."""
    import socket
    import subprocess
    import sys

    from safetensors.torch import load_file

    script = tmp_path / "distributed.py"
    script.write_text(DISTRIBUTED)
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    except OSError as err:
        pytest.skip(f"no port can be opened here: {err}")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    place = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    for name, start in (("two", [*launcher, "--master-port", str(port)]), ("one", [])):
        out = tmp_path / name
        out.mkdir()
        command = [sys.executable, *start, str(script), str(out), str(Path(__file__).parent)]
        subprocess.run(command, check=True, capture_output=True, timeout=500, env={**os.environ, **place})
    first, second = (load_file(tmp_path / "two" / f"rank{rank}.safetensors") for rank in (0, 1))
    alone = load_file(tmp_path / "one" / "rank0.safetensors")
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, atol=1e-5), name
    lines = [
        json.loads(line) for line in (tmp_path / "two" / "run" / "history.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3]
