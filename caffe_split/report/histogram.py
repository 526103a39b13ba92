"""TPM histograms as SVG: how the kernels of a split layer moved, fast ones over slow ones."""

from __future__ import annotations

import math

import numpy as np

from caffe_split.report.derived_from import LayerSplit, Scores
from caffe_split.report.markup import Html, element
from caffe_split.tpm.scores import ENTROPY_BINS

_WIDTH, _HEIGHT = 240, 132
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 14, 20


def histogram(layer: LayerSplit) -> Html:
    """The kernels' TPM in the bins over which its entropy is taken; nothing for a layer without scores."""
    scores = layer.scores
    if scores is None:
        return Html("")
    fast, slow = (_counts(scores, kernels) for kernels in (layer.fast, layer.slow))
    highest = max(1, int((fast + slow).max()))
    bottom, room = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    pieces: list[Html] = []
    for place in range(ENTROPY_BINS):
        y = float(bottom)
        for name, count in (("slow", int(slow[place])), ("fast", int(fast[place]))):
            if count:
                height = room * count / highest
                y -= height
                pieces.append(_bar(name, place, y, height))
        total = int(fast[place] + slow[place])
        if total:
            middle = (_x(place) + _x(place + 1)) / 2
            pieces.append(_text(str(total), middle, y - 3, "middle"))
    pieces.append(_line("axis", _LEFT, bottom, _WIDTH - _RIGHT, bottom))
    pieces += [_text(f"{at / ENTROPY_BINS:g}", _x(at), bottom + 13, "middle") for at in (0, 5, 10)]
    if 0 <= scores.null <= 1:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * scores.null
        pieces.append(_line("null", x, _TOP - 4, x, bottom))
    picture = element(
        "svg",
        element("title", _described(layer, fast, slow)),
        *pieces,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="histogram",
    )
    frozen = sum(map(math.isnan, scores.tpm))
    facts = f"entropy {_number(scores.entropy)}, {len(scores.tpm)} kernels" + (f", {frozen} frozen" if frozen else "")
    return element("figure", picture, element("figcaption", element("b", layer.name), element("br"), facts))


def _counts(scores: Scores, kernels: tuple[int, ...]) -> np.ndarray:
    values = np.array([scores.tpm[kernel] for kernel in kernels])
    return np.histogram(values[~np.isnan(values)], bins=ENTROPY_BINS, range=(0.0, 1.0))[0]


def _described(layer: LayerSplit, fast: np.ndarray, slow: np.ndarray) -> str:
    bins = [
        f"{place / ENTROPY_BINS:g} to {(place + 1) / ENTROPY_BINS:g}: {fast[place]} fast and {slow[place]} slow"
        for place in range(ENTROPY_BINS)
        if fast[place] + slow[place]
    ]
    return f"TPM of the kernels of {layer.name}. " + "; ".join(bins)


def _x(place: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * place / ENTROPY_BINS


def _bar(name: str, place: int, y: float, height: float) -> Html:
    x = _x(place) + 1
    return element(
        "rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{_x(place + 1) - x - 1:.1f}", height=f"{height:.1f}", class_=name
    )


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> Html:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=name)


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
