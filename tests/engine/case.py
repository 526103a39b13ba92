"""A case of a layer to hold against the real Caffe, and what makes one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Rng = np.random.Generator


@dataclass
class Case:
    """A net of one layer "l" (or the text given) over inputs. integers: bottoms that hold labels below that number.
    positive: bottoms of values above 0. back: whether Caffe can go back through it."""

    text: str
    inputs: dict[str, tuple[int, ...]]
    tops: list[str] = field(default_factory=lambda: ["y"])
    integers: dict[str, int] = field(default_factory=dict)
    positive: tuple[str, ...] = ()
    back: bool = True
    phase: str = "TRAIN"
    # Bottoms to which no gradient goes.
    constant: tuple[str, ...] = ()
    # Whether to make Caffe go back to the inputs.
    force: bool = True
    # The bottoms are drawn so many times as large; and whole, so that there are equal ones.
    factor: float = 1
    whole: bool = False

    def prototxt(self) -> str:
        """The whole net."""
        text = "force_backward: true\n" if self.back and self.force else ""
        for name, shape in self.inputs.items():
            dims = " ".join(f"dim: {n}" for n in shape)
            text += f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
        return text + self.text


def layer(kind: str, bottoms: str = "x", tops: str = "y", options: str = "") -> str:
    wires = " ".join(f'bottom: "{b}"' for b in bottoms.split()) + " " + " ".join(f'top: "{t}"' for t in tops.split())
    return f'layer {{ name: "l" type: "{kind}" {wires} {options} }}\n'


def image(rng: Rng, channels: int | None = None, least: int = 5) -> tuple[int, ...]:
    n, c, h, w = rng.integers(2, 5), rng.integers(2, 7), *rng.integers(least, least + 7, size=2)
    return int(n), int(channels or c), int(h), int(w)
