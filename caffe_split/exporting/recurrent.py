"""LSTM and RNN, step by step: ONNX's own start anew with each sequence, Caffe's where its second bottom is 0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffe_split.exporting.site import CannotExpressError, Exporter, Site


def steps(site: Site, name: str, step: str) -> list[str]:
    """The value of each time step, axis 0 gone."""
    count = site.bottoms[0].shape[0]
    parts = [name]
    if count > 1:
        made = site.op("Split", [name, site.constant(f"{step}s", [1] * count)], outputs=count, axis=0)
        parts = site.to.makers[made].outputs
    axes = site.constant(f"{step}_axis", [0])
    return [site.op("Squeeze", [part, axes]) for part in parts]


def projected(site: Site, bottom: int, weight: int, bias: int | None, step: str) -> str:
    """The bottom times a weight, for all steps at once; without its axes behind that of the batch."""
    name, value = site.bottoms[bottom].name, site.bottoms[bottom]
    from_axis = 2 if bottom == 0 else 1
    rows = site.op("Flatten", [name], axis=from_axis) if value.rank != from_axis or bottom == 0 else name
    blobs = [site.blob(weight)] + ([] if bias is None else [site.blob(bias)])
    made = site.op("Gemm", [rows, *blobs], transB=1)
    if bottom:
        return made
    if not value.is_fixed(0, 1):
        raise CannotExpressError("its number of time steps would vary")
    batch = value.shape[1] if value.is_fixed(1, 2) else -1
    return site.op("Reshape", [made, site.constant(step, [value.shape[0], batch, site.blobs[weight][1].shape[0]])])


class _Unrolled:
    """What LSTM and RNN have in common: inputs per step, what goes on from step to step, and the tops."""

    def __init__(self, site: Site, states: int) -> None:
        options = site.options("recurrent_param")
        self.site, self.count = site, int(options.get("num_output"))
        exposed = bool(options.get("expose_hidden"))
        static = len(site.bottoms) - (states if exposed else 0) > 2
        self.hidden = 3 if static else 2
        inputs = projected(site, 0, 0, 1, "steps")
        if static:
            still = projected(site, 2, 2, None, "static")
            inputs = site.op("Add", [inputs, still])
        self.inputs = steps(site, inputs, "step")
        conts = steps(site, site.bottoms[1].name, "cont")
        axis = site.constant("last_axis", [-1])
        self.conts = [site.op("Unsqueeze", [cont, axis]) for cont in conts]
        self.states: list[str] = []
        if exposed:
            zero = site.constant("state_axis", [0])
            self.states = [site.op("Squeeze", [bottom.name, zero]) for bottom in site.bottoms[-states:]]
        self.exposed = exposed

    def finish(self, outputs: list[str], states: list[str]) -> None:
        """The tops: all outputs behind each other and, where they are exposed, the last states."""
        site, axis = self.site, self.site.constant("time", [0])
        rows = [site.op("Unsqueeze", [output, axis]) for output in outputs]
        site.op("Concat", rows, 0, axis=0)
        if self.exposed:
            for number, state in enumerate(states, start=1):
                site.op("Unsqueeze", [state, axis], number)


def lstm(site: Site) -> None:
    """Gates i, f, o and g, in this order; before each step h and c are times cont, c as part of f."""
    run = _Unrolled(site, 2)
    h, c = run.states if run.states else ("", "")
    outputs = []
    for x, cont in zip(run.inputs, run.conts):
        gates = x
        if h:
            kept = site.op("Mul", [cont, h])
            gates = site.op("Add", [x, site.op("Gemm", [kept, site.blob(run.hidden)], transB=1)])
        parts = site.op("Split", [gates, _quarters(site, run.count)], outputs=4, axis=1)
        i, f, o, g = site.to.makers[parts].outputs
        made = site.op("Mul", [site.op("Sigmoid", [i]), site.op("Tanh", [g])])
        if c:
            forget = site.op("Mul", [cont, site.op("Sigmoid", [f])])
            made = site.op("Add", [site.op("Mul", [forget, c]), made])
        c = made
        h = site.op("Mul", [site.op("Sigmoid", [o]), site.op("Tanh", [c])])
        outputs.append(h)
    run.finish(outputs, [h, c])


def _quarters(site: Site, count: int) -> str:
    name = f"{site.layer.name}/gates"
    site.to.constants.setdefault(name, np.array([count] * 4, np.int64))
    site.to.names.add(name)
    return name


def rnn(site: Site) -> None:
    """Each h = tanh(W_h (cont * h) + W_x x + b); the output is tanh(W_o h + b_o)."""
    run = _Unrolled(site, 1)
    h = run.states[0] if run.states else ""
    outputs = []
    for x, cont in zip(run.inputs, run.conts):
        inner = x
        if h:
            kept = site.op("Mul", [cont, h])
            inner = site.op("Add", [x, site.op("Gemm", [kept, site.blob(run.hidden)], transB=1)])
        h = site.op("Tanh", [inner])
        last = [site.blob(run.hidden + 1), site.blob(run.hidden + 2)]
        outputs.append(site.op("Tanh", [site.op("Gemm", [h, *last], transB=1)]))
    run.finish(outputs, [h])


def lstm_unit(site: Site) -> None:
    """One step: the cells and the hidden values, from the cells before, the gates and the marks."""
    cells, gates, marks = (bottom.name for bottom in site.bottoms)
    mark = site.pad_axes(marks, 1)
    parts = site.op("Split", [gates, _quarters(site, site.bottoms[0].shape[2])], outputs=4, axis=2)
    i, f, o, g = site.to.makers[parts].outputs
    kept = site.op("Mul", [site.op("Mul", [mark, site.op("Sigmoid", [f])]), cells])
    made = site.op("Mul", [site.op("Sigmoid", [i]), site.op("Tanh", [g])])
    new = site.op("Add", [kept, made], 0)
    site.op("Mul", [site.op("Sigmoid", [o]), site.op("Tanh", [new])], 1)


EXPORTERS: Mapping[str, Exporter] = {"LSTM": lstm, "RNN": rnn, "LSTMUnit": lstm_unit}
