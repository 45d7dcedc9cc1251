"""A run: answer the missing parts of a job on a cluster, and report progress."""

from __future__ import annotations

import time

from handler.protocol import JSON
from scripts.cli.console import ScriptError, counted, progress, say
from scripts.scoring import cluster
from scripts.scoring.job import ScoringJob
from scripts.scoring.scorer import ScorerConfig


def answer(ray: object, job: ScoringJob, config: ScorerConfig, pool: cluster.WorkerPool) -> None:
    """Answer the missing parts and report progress.

    Raises:
        ScriptError: workers failed, or a part ended every worker that had it.
    """
    missing = job.missing()
    kept = job.rows - sum(job.parts[index].rows for index in missing)
    if kept:
        say(f"{kept} of {job.rows} rows are answered already: going on from there")
    if not missing:
        return
    each = f"{counted(pool.cores, 'core')} and {pool.gpus:g} GPUs"
    say(f"{counted(job.rows - kept, 'row')} for {counted(pool.count, 'worker')} of {each}")
    began, rows, processes, left_out = time.perf_counter(), 0, set[str](), list[int]()
    served: JSON = None
    with progress() as bar:
        task = bar.add_task("rows", total=job.rows, completed=kept)
        for result in cluster.run(ray, job, config, pool):
            if "left_out" in result:
                left_out.append(result["part"])
                continue
            if result["serves"] != served:
                served = result["serves"]
                job.require_same_model(served)
            processes.add(result["process"])
            rows += result["rows"]
            bar.update(task, advance=result["rows"])
    seconds = time.perf_counter() - began
    died = max(0, len(processes) - pool.count)
    suffix = f"; {counted(died, 'worker')} died, replaced by others" if died else ""
    say(f"{counted(rows, 'row')} in {seconds:.1f} s ({rows / seconds:.1f} a second){suffix}")
    if left_out:
        raise ScriptError(f"some rows ended the worker that had them, again and again: {job.describe(left_out)}")


def report(manifest: JSON) -> int:
    """Report the counts of a complete folder; return the exit code."""
    errors = ", ".join(f"{count} {kind}" for kind, count in manifest["errors"].items())
    say(f"{manifest['rows']} rows, each once; errors: {errors or 'none'}")
    return 1 if manifest["errors"] else 0
