"""The training loop, in one readable file. No hooks: a system that trains otherwise brings its own step.

The weights that are kept are those of the last step (their running average with `train.ema`). The schedule brings the
rate down to zero, so the last weights are the settled ones; picking the best of ten looks at a few validation cases
would follow their noise, and would flatter the scores of those very cases.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from medseg.core.errors import Interrupted, UserError
from medseg.core.progress import Progress, say
from medseg.train.checkpoints import read_facts, restore_checkpoint, save_checkpoint
from medseg.train.devices import (
    Precision,
    agree,
    choose_precision,
    lay_out,
    make_fabric,
    memory_in_words,
    threads,
)
from medseg.train.freeze import Frozen
from medseg.train.history import History
from medseg.train.job import Job, Trained, continued
from medseg.train.look import Look, Looker, weights_of
from medseg.train.meter import Meter
from medseg.train.objective import Objective, forward_through, known_channels, step_loss
from medseg.train.optimiser import Average, Statistics, build_optimiser
from medseg.train.prefetch import Prefetch
from medseg.train.procedures.procedure import Learning
from medseg.train.procedures.table import build_procedure
from medseg.train.progressing import Progressing
from medseg.train.sampler import Patches, Sampler
from medseg.train.schedule import Clock, LookTimes, rate_factor
from medseg.train.stopping import StopRequest, watch_for_stop
from medseg.train.undrawn import require_honoured

if TYPE_CHECKING:
    from torch import Tensor, nn

BAD_STEPS = 20
"""So many steps in a row without a finite loss and gradient end a training."""

SETTLED, COLLAPSED = 1, 2

Augment = Callable[["Tensor", "Tensor", np.random.Generator], "tuple[Tensor, Tensor]"]


def train(net: nn.Module, job: Job, augment: Augment | None = None) -> Trained:
    """Trains `net` in place and returns what it came to; goes on where an interrupted training stopped.

    Raises Interrupted after Ctrl-C or SIGTERM, with a checkpoint written, and UserError when memory does not suffice
    or the loss stays infinite.
    """
    if not job.train:
        raise UserError("no training case has a label", hint="add labels, or predict with predict.model")
    require_honoured(net, job)
    with threads(job.cores), memory_in_words(job.plan.batch_size, job.plan.patch_size):
        training = Training(net, job, augment)
        with watch_for_stop() as stop:
            training.go(stop)
        return training.finish()


class Training:
    """The state of a training, and the few things that are done with it."""

    def __init__(self, net: nn.Module, job: Job, augment: Augment | None) -> None:
        self.job, self.settings, self.augment, self.raw = job, job.settings, augment, net
        facts = continued(job, read_facts(job.folder.checkpoints))
        self.precision = (
            Precision(facts["precision"], "as before the interruption")
            if facts
            else choose_precision(self.settings.precision, job.device, job.plan.dims)
        )
        lay_out(net, job.device, self.precision)
        self.fabric = make_fabric(job.device, self.precision)
        self.rank = self.fabric.global_rank
        self.frozen = Frozen.of(net, self.settings.freeze)
        self.net, self.optimiser = self.fabric.setup(net, build_optimiser(self.settings.optimizer, net))
        self.statistics = Statistics(net)
        objective = Objective(self.settings, job.plan)
        self.loss_of = step_loss(net, self.net, objective, job.plan.patch_size)
        sampling = replace(job.sampling, rank=self.rank, processes=self.fabric.world_size)
        self.sampler = Sampler(job.train, sampling)
        self.procedure = build_procedure(self.settings.procedure, job.unlabelled, sampling)
        self._require_one_process()
        decay = self.settings.ema or self.procedure.decay
        self.average = Average(net, decay) if decay is not None else None
        self.procedure.begin(self._learning(objective))
        self.looker = Looker(job.val, job.plan, self.precision.autocast)
        self.clock = Clock.of(self.settings, job.timer)
        self.times = LookTimes.of(self.settings)
        if self.times.steps_between is not None:
            self.looker.limit_by_windows(self.times.steps_between)
        self.history = History(job.folder.history)
        self.progressing = Progressing(self.settings.patience)
        self.bad, self.waited, self.rate, self.rate_t, self.meter = 0, 0.0, 0.0, 0.0, Meter()
        self.notes: list[str] = [self.procedure.note] if self.procedure.note else []
        self.last_look: Look | None = None
        self.saved_at = time.monotonic()
        if facts is not None:
            self._resume(facts)
        else:
            self.history.clear()

    def go(self, stop: StopRequest) -> None:
        """Steps until the time or the number of steps is used up, or somebody asks for an end."""
        clock = self.clock
        waited_before = self.waited
        self.raw.train()
        clock.run()
        reader = Prefetch(self._read, clock.step + 1, stop=lambda: bool(stop), doing=self.sampler.in_words)
        with self._bar() as bar, reader as batches:
            for batch in batches:
                self._report(stop)
                t, asked_to_stop, over = agree(self.fabric, clock.t, bool(stop), self._ending())
                if asked_to_stop:
                    self._interrupted(stop)
                if over:
                    self._say_ending(collapsed=over > SETTLED)
                if t >= 1 or over:
                    break
                loss = self.step(batch, t)
                clock.step += 1
                self.waited = waited_before + batches.waited
                self.history.add(loss)
                self._show(bar)
                if line := self.meter.after_step(self.sampler.epoch(clock.step), clock.seconds, self.waited):
                    say(f"train    {line}")
                if time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_minutes:
                    self.save()
            else:  # asked to stop while no batch came
                self._interrupted(stop)
        clock.pause()
        self.save()  # a full disk at the very end costs nothing, and the training may be prolonged

    def _interrupted(self, stop: StopRequest) -> NoReturn:
        self.save()
        raise Interrupted(f"training was asked to stop ({stop.reason}) after step {self.clock.step}")

    def _read(self, step: int) -> tuple[Patches, Patches | None]:
        return self.sampler.batch(step), self.procedure.batch(step)

    def step(self, drawn: tuple[Patches, Patches | None], t: float) -> float:
        """One optimiser step at position t of the training; returns the loss.

        Everything random in it follows from the seed and the number of the step.
        """
        import torch

        batch, unlabelled = drawn
        number = self.clock.step + 1
        self.frozen.hold_still()
        self.statistics.keep()
        seeds = [self.job.seed, number, self.rank]
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
        if self.clock.step % self.settings.rate_every == 0:
            self.rate_t = t
        factor = rate_factor(t, self.settings.schedule, self.settings.warmup, self.rate_t)
        self.rate = self.settings.optimizer.rate * factor
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        images, targets = self.fabric.to_device([torch.from_numpy(a) for a in (batch.images, batch.targets)])
        if self.augment is not None:
            with self.meter.augmenting():
                images, targets = self.augment(images, targets, np.random.default_rng([*seeds, 2]))
        loss = self.loss_of(images, targets, known_channels(self.job, batch.cases, images.device))
        if unlabelled is not None:
            others = self.fabric.to_device(torch.from_numpy(unlabelled.images))
            extra = self.procedure.extra(others, t, np.random.default_rng([*seeds, 3]))
            loss = loss if extra is None else loss + extra
        value = float(loss.detach())
        if self._learn(loss):
            self.bad = 0
            if self.average is not None:
                self.average.update(self.raw, number)
        else:
            value = math.nan
            self.statistics.put_back()
            self._count_bad()
        self.optimiser.zero_grad(set_to_none=True)
        return value

    def _learn(self, loss: Tensor) -> bool:
        """Gradient and step, unless the loss of any process or the gradient is not finite."""
        (is_bad,) = agree(self.fabric, not math.isfinite(float(loss.detach())))
        if is_bad:
            return False
        self.fabric.backward(loss)
        if not self._gradients_are_finite():
            return False
        self.optimiser.step()
        return True

    def _report(self, stop: StopRequest) -> None:
        """A look or a line of the history when it is time for one; the last ones are written by `finish`.

        Not when somebody waits for the end: whoever resumes the training writes them first.
        """
        if self.clock.is_over or stop:
            return
        if self.times.is_due(self.clock):
            self.look(stop)
        elif self.history.is_due(self.clock.t):
            self.write()

    def look(self, stop: StopRequest | None = None) -> None:
        """Scores a few validation cases and writes a line; nothing of it when asked to stop meanwhile."""
        if not self.looker.cases or self.rank:
            self.times.after(self.clock, 0.0)
            return self.write()
        limit = self.times.seconds_for_first if self.last_look is None else None
        with weights_of(self.raw, self.average.weights if self.average else None):
            look = self.looker.look(self.raw, limit, lambda: bool(stop))
        if look is None:
            return None
        self.last_look = look
        self.times.after(self.clock, look.seconds)
        self.write(look)
        self.progressing.after_look(look.dice, self.clock.t, self.clock.step, self.history.last_mean)
        return None

    def _ending(self) -> int:
        """0: goes on; SETTLED or COLLAPSED: the looks say that more steps are of no use."""
        if self.progressing.collapsed and self.settings.collapse == "stop":
            return COLLAPSED
        return SETTLED if self.progressing.settled else 0

    def _say_ending(self, collapsed: bool) -> None:
        """Notes a Dice that no longer rises; raises UserError for a network that finds nothing."""
        watched = self.progressing
        if not collapsed:
            self.notes.append(
                f"ended after step {self.clock.step}: no better Dice than {watched.best:.3f} in {watched.since} validations"
            )
            return
        self.save()
        raise UserError(
            f"the network finds nothing: Dice 0 in the last {len(watched.empty)} validations, and the loss no longer "
            f"falls; stopped after step {self.clock.step}",
            "train",
            f"lower train.optimizer.rate (now {self.settings.optimizer.rate:g}), raise train.foreground (now "
            f"{self.settings.foreground:g}), or look at the labels with `medseg check`; train.collapse: warn goes on",
        )

    def finish(self) -> Trained:
        """The kept weights are in the network afterwards, and have been looked at."""
        if self.clock.step == 0:
            raise UserError("the training ended before its first step", hint="give more train.minutes")
        averaged = self.average is not None
        if self.average is not None:
            self.raw.load_state_dict(self.average.weights)
            self.average = None
        self.look()
        if self.last_look is not None and self.last_look.dice == 0:
            self.notes.append("the network finds nothing in the validation cases: their Dice is 0")
        self.raw.eval()
        return Trained(
            steps=self.clock.step,
            seconds=self.clock.seconds,
            epochs=self.sampler.epoch(self.clock.step),
            precision=self.precision,
            data_wait_percent=self._wait_percent(),
            augment_percent=self.meter.percent(self.clock.seconds),
            scores={} if self.last_look is None else self.last_look.as_scores(),
            notes=tuple(self.notes),
            averaged=averaged,
        )

    def write(self, look: Look | None = None) -> None:
        """Appends a line to history.jsonl."""
        import psutil

        if self.rank:
            return
        facts = {
            "step": self.clock.step,
            "epoch": round(self.sampler.epoch(self.clock.step), 3),
            "seconds": round(self.clock.seconds, 2),
            "rate": self.rate,
            "val_dice": None if look is None else look.dice,
            "val_iou": None if look is None else look.iou,
            "val_dice_of_class": {} if look is None else look.dice_of_class,
            "data_wait_percent": self._wait_percent(),
            "augment_percent": self.meter.percent(self.clock.seconds),
            "ram_bytes": psutil.Process().memory_info().rss,
        }
        self.history.write(self.clock.t, facts)

    def save(self) -> None:
        """Writes the checkpoint that an interrupted or prolonged training continues from."""
        self.saved_at = time.monotonic()
        if self.rank:
            return
        facts = {
            **self.job.marks,
            "precision": self.precision.name,
            "step": self.clock.step,
            "seconds": self.clock.seconds,
            "waited": self.waited,
            "augmented": self.meter.augmented,
            "rate": self.rate,
            "next_look": [self.times.next_t, self.times.next_step],
            "looked_at": list(self.looker.cases) if self.last_look is not None else None,
            "last_look": None if self.last_look is None else vars(self.last_look),
            "history": self.history.state(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "rate_t": self.rate_t,
            "progressing": self.progressing.state(),
            "length": [self.settings.minutes, self.settings.steps],
        }
        weights = None if self.average is None else self.average.weights
        place, kept = self.job.folder.checkpoints, self.procedure.tensors()
        save_checkpoint(place, self.raw, self.optimiser, weights, facts, kept)

    def _resume(self, facts: dict[str, Any]) -> None:
        weights = None if self.average is None else self.average.weights
        kept = restore_checkpoint(self.job.folder.checkpoints, self.raw, self.optimiser, weights)
        if kept:
            self.procedure.restore(kept)
        self.fabric.strategy.precision.load_state_dict(facts["scaler"])
        self.clock.restore(int(facts["step"]), float(facts["seconds"]))
        self.waited, self.rate = float(facts["waited"]), float(facts["rate"])
        self.rate_t = float(facts["rate_t"])
        self.meter.augmented = float(facts.get("augmented", 0.0))
        self.progressing.restore(facts["progressing"])
        longer = facts["length"] != [self.settings.minutes, self.settings.steps]
        if longer:
            self.times.pass_by(self.clock)
            self.rate_t = self.clock.t_at_multiple_of(self.settings.rate_every)
        else:
            self.times.next_t, self.times.next_step = facts["next_look"]
        self.history.restore(facts["history"])
        if facts["last_look"] is not None:
            self.last_look = Look(**facts["last_look"])
            self.looker.cases = {name: self.looker.cases[name] for name in facts["looked_at"]}
            self.times.reserve(self.clock, self.last_look.seconds)
        rest = "; its length was changed, so the learning rate follows the new one" if longer else ""
        say(f"train    goes on after step {self.clock.step} ({self.clock.t:.0%} done){rest}")

    def _learning(self, objective: Objective) -> Learning:
        """What the procedure works with."""
        return Learning(
            raw=self.raw,
            net=self.net,
            whole=lambda net: forward_through(self.raw, net, self.job.plan.patch_size),
            fabric=self.fabric,
            objective=objective,
            average=self.average,
            augment=self.augment,
        )

    def _require_one_process(self) -> None:
        if self.procedure.needs_unlabelled and self.fabric.world_size > 1:
            raise UserError(
                f"{self.settings.procedure} runs in one process, and {self.fabric.world_size} were started",
                "train.procedure",
                "train on one device, or set train.procedure: supervised",
            )

    def _gradients_are_finite(self) -> bool:
        """Clips the gradient; with fp16 the loss scaler itself leaves out steps that overflow."""
        limit = math.inf if self.settings.clip is None else self.settings.clip
        norm = self.fabric.clip_gradients(self.net, self.optimiser, max_norm=limit, error_if_nonfinite=False)
        return self.precision.name == "fp16" or bool(norm.isfinite())

    def _count_bad(self) -> None:
        self.bad += 1
        if self.bad == 1:
            say(f"train    step {self.clock.step + 1} has no finite loss or gradient and is left out")
        if self.bad >= BAD_STEPS:
            raise UserError(
                f"the loss or its gradient was not finite for {BAD_STEPS} steps, last at step {self.clock.step + 1}",
                "train",
                f"lower train.optimizer.rate (now {self.settings.optimizer.rate:g}) or set train.precision: fp32 "
                f"(now {self.precision.name})",
            )

    def _bar(self) -> Progress:
        if self.settings.minutes is None and self.settings.steps is not None:
            return Progress("train", self.settings.steps, "steps")
        return Progress("train", 100.0, "%")

    def _show(self, bar: Progress) -> None:
        look = self.last_look
        dice = "" if look is None or look.dice is None else f", val Dice {look.dice:.3f}"
        note = f"step {self.clock.step}, loss {self.history.last_loss:.3f}{dice}, waited {self._wait_percent():.0f} % for data"
        bar.set(self.clock.t * bar.total, note)

    def _wait_percent(self) -> float:
        return round(100 * self.waited / max(self.clock.seconds, 1e-9), 1)
