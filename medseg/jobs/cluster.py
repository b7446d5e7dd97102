"""Workers of a Dask cluster behind `concurrent.futures.Executor`: on this computer, as batch jobs, as pods.

Dask, dask-jobqueue and dask-kubernetes (extra `cluster`) start the workers, send them their tasks and notice when one
is gone; what it did is then done by another. The files of a cohort have to lie where every worker sees them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from medseg.config_types import Cluster
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.jobs.executor import worker_count

QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
"""Batch systems -> the class of dask-jobqueue that writes their job files."""

LOST_WORKERS_ALLOWED = 3
"""A case is begun again so often after its worker was lost; a job that comes to its time limit counts as lost."""

START_SECONDS = 300
"""How long the first worker of this computer may take to start. Batch jobs may wait in their queue for days."""

ONE_CASE_A_WORKER = ("--nthreads", "1", "--memory-limit", "0")
"""A case uses all cores of its worker; memory is limited by the batch system, since Dask would kill what is only large."""


class DaskWorkers(Executor):
    """The workers of `compute.cluster`."""

    def __init__(self, settings: Cluster) -> None:
        dask = _library("dask", settings)
        client_of = _library("distributed", settings).Client
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        dask.config.set(DASK)
        self._cluster = None if settings.address else _cluster(settings)
        try:
            self._client = client_of(settings.address or self._cluster, timeout=START_SECONDS)
            if settings.address is None and settings.kind == "dask":
                self._client.wait_for_workers(1, START_SECONDS)
        except (OSError, TimeoutError) as err:
            raise UserError(
                "no Dask scheduler answers" if settings.address else "no Dask worker has started",
                f"compute.cluster.address {settings.address}" if settings.address else "compute.cluster dask",
                "start one with `dask scheduler`" if settings.address else "is the computer very busy?",
            ) from err
        self._pool = self._client.get_executor(pure=False)
        say(f"  workers: {describe(settings)}")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function of a module of medseg in one of the workers."""
        return self._pool.submit(fn, *args, **kwargs)  # type: ignore[no-any-return]

    @property
    def pids(self) -> list[int]:
        """The process numbers of the workers, each on its own machine."""
        return list(self._client.run(os.getpid).values())

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.shutdown(wait=kind is None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers that were started here; those of a running scheduler are left to it."""
        with suppress(TimeoutError, OSError):
            self._pool.shutdown(wait=wait and not cancel_futures)
            self._client.close()
            if self._cluster is not None:
                self._cluster.close()


DASK = {
    "distributed.scheduler.allowed-failures": LOST_WORKERS_ALLOWED,
    # A worker gets its next case when it has finished one: nothing waits behind a long case.
    "distributed.scheduler.worker-saturation": 1.0,
    # Tasks keep the interpreter busy for minutes; a worker is gone when its connection is.
    "distributed.scheduler.worker-ttl": None,
}


def describe(settings: Cluster) -> str:
    """The workers in words: "8 batch jobs of slurm"."""
    if settings.address:
        return "those of the Dask scheduler at the address given"
    count = worker_count(settings)
    kinds = {"processes": "processes of this computer", "dask": "Dask workers on this computer",
             "kubernetes": "pods"}  # fmt: skip
    return f"{count} {kinds.get(settings.kind, f'batch jobs of {settings.kind}')}"


def _library(name: str, settings: Cluster) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as err:
        package = {"dask_jobqueue": "dask-jobqueue", "dask_kubernetes.operator": "dask-kubernetes"}.get(
            name, name
        )
        raise UserError(
            f"compute.cluster {settings.kind} needs the package {package}",
            "compute.cluster",
            f'install "medseg[{"kubernetes" if "kubernetes" in name else "cluster"}]"',
        ) from err


def _cluster(settings: Cluster) -> Any:
    if settings.kind == "dask":
        return _on_this_computer(settings)
    count = worker_count(settings)
    try:
        if settings.kind == "kubernetes":
            made = _library("dask_kubernetes.operator", settings).KubeCluster(**pods(settings))
            made.scale(count)
            return made
        made = getattr(_library("dask_jobqueue", settings), QUEUES[settings.kind])(**batch_jobs(settings))
    except (TypeError, ValueError, OSError, RuntimeError) as err:
        raise UserError(
            f"the cluster could not be set up ({err})",
            f"compute.cluster.options of kind {settings.kind}",
            "the options are those of dask-jobqueue or dask-kubernetes",
        ) from err
    # Not `scale`: a job that came to its time limit is followed by another.
    made.adapt(minimum_jobs=count, maximum_jobs=count)
    return made


def batch_jobs(settings: Cluster) -> dict[str, Any]:
    """The keywords for dask-jobqueue's cluster: the options given, one case a worker, a process a job."""
    given = dict(settings.options)
    extra = given.pop("worker_extra_args", [])
    more = [str(one) for one in extra] if isinstance(extra, list) else [str(extra)]
    return {"processes": 1, "cores": 1, "memory": "8GB", "death_timeout": START_SECONDS, **given,
            "worker_extra_args": [*more, *ONE_CASE_A_WORKER]}  # fmt: skip


def pods(settings: Cluster) -> dict[str, Any]:
    """The keywords for dask-kubernetes' cluster: the options given, one case a worker."""
    return {"name": "medseg", **settings.options, "worker_command": ["dask", "worker", *ONE_CASE_A_WORKER]}


def _on_this_computer(settings: Cluster) -> Any:
    """A scheduler in this process; workers are programs of their own, so that no script is started again for them."""
    import distributed
    from distributed.deploy.spec import SpecCluster
    from distributed.deploy.subprocess import SubprocessWorker

    import medseg

    package, known = str(Path(medseg.__file__).parents[1]), os.environ.get("PYTHONPATH", "")
    if package not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, known]))
    here = {"host": "127.0.0.1", "dashboard": False}
    kwargs = {**here, "nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    worker = {
        "cls": SubprocessWorker,
        "options": {"worker_class": "distributed.Nanny", "worker_kwargs": kwargs},
    }
    scheduler = {"cls": distributed.Scheduler, "options": {**here, "port": 0}}
    workers = dict.fromkeys(range(worker_count(settings)), worker)
    return SpecCluster(workers=workers, scheduler=scheduler, worker=worker, silence_logs=logging.CRITICAL)
