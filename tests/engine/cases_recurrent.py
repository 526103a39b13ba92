"""Cases of the layers that carry a state: x (time, streams, ...), and m, which is 0 where a sequence begins."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.case import Case, Rng, layer


def recurrent(
    rng: Rng, kind: str, static: bool = False, exposed: bool = False, steps: int = 0, marks: bool = True
) -> Case:
    time, streams, count = steps or int(rng.integers(2, 6)), int(rng.integers(2, 4)), int(rng.integers(1, 5))
    inputs = {"x": (time, streams, *map(int, rng.integers(1, 4, size=2))), "m": (time, streams)}
    if static:
        inputs["s"] = (streams, int(rng.integers(1, 4)), 2)
    tops = ["y"]
    if exposed:
        states = ["h", "c"] if kind == "LSTM" else ["h"]
        inputs.update({f"{name}0": (1, streams, count) for name in states})
        tops += [f"{name}T" for name in states]
    options = f"recurrent_param {{ num_output: {count} expose_hidden: {str(exposed).lower()} }}"
    return Case(
        layer(kind, " ".join(inputs), " ".join(tops), options),
        inputs,
        tops,
        integers={"m": 2} if marks else {},
        constant=("m",),
    )


def unit(rng: Rng, marks: bool = True) -> Case:
    streams, count = int(rng.integers(2, 5)), int(rng.integers(1, 5))
    inputs = {"c": (1, streams, count), "g": (1, streams, 4 * count), "m": (1, streams)}
    return Case(
        layer("LSTMUnit", "c g m", "y z"), inputs, ["y", "z"], integers={"m": 2} if marks else {}, constant=("m",)
    )


CASES: dict[str, Callable[[Rng], Case]] = {
    "lstm": lambda r: recurrent(r, "LSTM"),
    "lstm_one_step": lambda r: recurrent(r, "LSTM", steps=1),
    "lstm_static": lambda r: recurrent(r, "LSTM", static=True),
    "lstm_exposed": lambda r: recurrent(r, "LSTM", exposed=True),
    "lstm_static_exposed": lambda r: recurrent(r, "LSTM", static=True, exposed=True),
    "lstm_marks_of_any_value": lambda r: recurrent(r, "LSTM", marks=False),
    "rnn": lambda r: recurrent(r, "RNN"),
    "rnn_one_step": lambda r: recurrent(r, "RNN", steps=1),
    "rnn_static": lambda r: recurrent(r, "RNN", static=True),
    "rnn_static_exposed": lambda r: recurrent(r, "RNN", static=True, exposed=True),
    "lstm_unit": unit,
    "lstm_unit_marks_of_any_value": lambda r: unit(r, marks=False),
}
