"""A training's log in the form of Caffe's solver.cpp, from what the device has kept."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO

import numpy as np

from caffe_split.engine.log import Log, number
from gpu_study_parts.arms import Schedule


def train_log(schedule: Schedule, state: Mapping[str, np.ndarray], folder: str, name: str) -> str:
    """Its lines up to the iteration at which it stands. The times are those of writing: the device keeps none."""
    text = StringIO()
    log = Log(text)
    now, tested = int(state["now"][0]), state["tested"]
    log.info("Initializing solver from parameters: ")
    log.info(f"Creating training net from net file: {folder}/train_val.prototxt")
    log.info(f"Solving {name}")
    log.info("Learning Rate Policy: multistep")
    rates, losses = schedule.rates(), state["losses"]
    for iteration in range(0, now + 1, schedule.interval):
        if iteration % schedule.test_interval == 0 and iteration // schedule.test_interval < int(state["test"][0]):
            loss, accuracy = tested[iteration // schedule.test_interval]
            if loss or accuracy:
                log.info(f"Iteration {iteration}, Testing net (#0)")
                log.info(f"    Test net output #0: accuracy = {number(float(accuracy))}")
                log.info(f"    Test net output #1: loss = {number(float(loss))} (* 1 = {number(float(loss))} loss)")
        if iteration < now:
            loss = number(float(losses[iteration]))
            log.info(f"Iteration {iteration}, loss = {loss}")
            log.info(f"    Train net output #0: loss = {loss} (* 1 = {loss} loss)")
            log.info(f"Iteration {iteration}, lr = {number(float(rates[iteration]))}")
    if now == schedule.total:
        log.info(f"Iteration {now}, loss = {number(float(losses[now - 1]))}")
        log.info("Optimization Done.")
    return text.getvalue()
