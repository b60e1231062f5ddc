"""The processes in which models are measured side by side. Imports little: the server is to begin before all else."""

import os
from multiprocessing import forkserver, get_all_start_methods, get_context
from threading import Thread
from typing import Any

# What every worker needs; the server imports it once, and workers are forked from there.
ROOMS = ["loadbearing.cli.study", "sklearn.linear_model", "torch.func"]


def context() -> Any:
    """How workers are started; the server begins to import at once, and does so while this process imports too.

    Workers are not forked from here: a process that has used threads cannot be forked safely.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    forkserver.set_forkserver_preload(ROOMS)
    forkserver.ensure_running()
    return get_context("forkserver")


def start_worker() -> None:
    """Set up a worker process: one thread, since small tensors gain nothing from more."""
    import torch
    from threadpoolctl import threadpool_limits
    from transformers.utils import logging

    from ..hooks.workers import end_with_parent

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    os.environ["HF_HUB_OFFLINE"] = "1"  # all weights are in the package
    torch.set_num_threads(1)
    threadpool_limits(1)
    Thread(target=end_with_parent, daemon=True).start()
