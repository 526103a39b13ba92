"""plot_loss.py: what is drawn, where it goes, what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.text import Text

from caffe_split.cli.plot_loss import SIZE
from caffe_split.errors import CaffeSplitError
from caffe_split.plot import figure as picture
from caffe_split.plot import series
from caffe_split.plot.window import follow
from caffe_split.trainlog import read_log
from caffe_split.trainlog.follow import Follower

LOGS = Path(__file__).parents[1] / "trainlog" / "logs"
HEAD = "I0305 15:{:02d}:{:02d}.000000 1 solver.cpp:1] "


def collected(*names: str, **options: object) -> series.Curves:
    return series.collect([read_log(LOGS / f"{name}.log") for name in names], **options)  # type: ignore[arg-type]


def drawn(curves: series.Curves, average: int = 1, log_scale: bool = False) -> Figure:
    figure = Figure(figsize=SIZE, layout="constrained")
    picture.draw(figure, curves, average, log_scale)
    return figure


def training(folder: Path, shift: float, displays: int = 60) -> Path:
    """A run that displays every 10 iterations, tests every 50 and lowers its rate at 300."""
    folder.mkdir(parents=True)
    text = ""
    for k in range(displays):
        head, i = HEAD.format(k // 60, k % 60), 10 * k
        if i % 50 == 0:
            text += f"{head}Iteration {i}, Testing net (#0)\n"
            text += f"{head}    Test net output #0: accuracy = {0.5 + shift + i / 2000}\n"
            text += f"{head}    Test net output #1: loss = {2 - shift - i / 1000}\n"
        text += f"{head}Iteration {i}, loss = {3 - i / 300 + (k % 2) / 5}\n"
        text += f"{head}Iteration {i}, lr = {0.1 if i < 300 else 0.01}\n"
    (folder / "train.log").write_text(text)
    return folder / "train.log"


def test_curves_are_what_the_logs_say() -> None:
    curves = collected("bvlc_2016", "resumed")
    assert curves.names == ["bvlc_2016.log", "resumed.log"]
    assert [(c.run, c.output, c.y.tolist()) for c in curves.accuracy] == [
        (0, "accuracy", [0.1, 0.55]),
        (1, "accuracy", [0.5, 0.51, 0.62, 0.63, 0.64, 0.65, 0.66]),
    ]
    assert curves.train[1].x.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert [(s.x, s.rate, s.runs) for s in curves.steps] == [(200, 0.01, (0,))]


def test_a_log_without_values_is_named(tmp_path: Path) -> None:
    training(tmp_path / "a", 0)
    (tmp_path / "b.log").write_text(HEAD.format(0, 0) + "Iteration 0, Testing net (#0)\n")
    code = "import sys; from caffe_split.cli.plot_loss import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "a/train.log", "b.log", "--out", "x.png"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == "note: b.log: no value in it to draw\n" and done.stdout == "wrote x.png\n"


def test_baseline_first_and_named_by_folder(tmp_path: Path) -> None:
    paths = [training(tmp_path / name, 0) for name in ("derived1", "baseline")]
    curves = series.collect([read_log(path) for path in paths])
    assert curves.names == ["baseline", "derived1"]
    assert [(s.x, s.runs) for s in curves.steps] == [(300, (0, 1))]


def test_outputs_and_an_axis_of_time_can_be_chosen() -> None:
    curves = collected("bvlc_2016", x="time", outputs=["loss"])
    assert curves.x_label == "time since the start, minutes"
    assert curves.train[0].x == pytest.approx([1.1001 / 60, 11.1001 / 60, 31.1001 / 60])
    assert curves.train[0].y.tolist() == [2.39211, 1.51, 1.12]  # the net's output, not Caffe's average of it
    assert curves.accuracy == []
    with pytest.raises(CaffeSplitError, match="no log has an output named nonsense; they have: loss, accuracy"):
        collected("bvlc_2016", outputs=["nonsense"])


def test_of_many_outputs_the_last_ones_are_drawn() -> None:
    curves = collected("googlenet")
    assert [c.output for c in curves.accuracy] == ["loss2/top-1", "loss2/top-5", "loss3/top-1", "loss3/top-5"]
    assert [c.output for c in curves.loss] == ["loss1/loss1", "loss2/loss1", "loss3/loss3"]


def test_a_moving_average_leaves_out_nan_and_inf() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0, np.inf, 7.0])
    assert series.moving_average(values, 2) == pytest.approx([1, 2, np.nan, 5, np.nan, 7], nan_ok=True)
    assert series.moving_average(values, 100) == pytest.approx([1, 2, np.nan, 3, np.nan, 4], nan_ok=True)


@pytest.mark.parametrize("count", [1, 2, 7, 59, 60, 61])
def test_a_moving_average_is_the_mean_of_the_last_values(count: int) -> None:
    values = np.sin(np.arange(60.0))
    expected = [values[max(0, k + 1 - count) : k + 1].mean() for k in range(60)]
    assert series.moving_average(values, count) == pytest.approx(expected)


@pytest.mark.parametrize("unknown", [False, True])
def test_a_spike_moves_only_the_means_that_it_is_in(unknown: bool) -> None:
    values = np.concatenate([np.ones(20), [1e20], np.full(30, 0.5)])
    if unknown:
        values[3] = np.nan
    mean = series.moving_average(values, 5)
    assert mean[25:] == pytest.approx(0.5) and mean[20:25].min() > 1e18 and np.nanmax(mean[:20]) == pytest.approx(1)


def test_thinning_keeps_the_extremes() -> None:
    x = np.arange(100_000.0)
    y = np.sin(x / 1000)
    y[31_415], y[77_777] = 9, np.nan
    thin_x, thin_y = series.thin(x, y)
    assert len(thin_x) <= series.MOST_POINTS + 2 and (np.diff(thin_x) > 0).all()
    assert np.nanmax(thin_y) == 9 and thin_x[0] == 0 and thin_x[-1] > 99_900


def test_best_point_is_never_nan() -> None:
    curve = series.Curve(0, "a", np.arange(4.0), np.array([np.nan, 2, np.inf, 1]))
    assert series.best_point(curve, lowest=True) == 3 and series.best_point(curve, lowest=False) == 1
    assert series.best_point(series.Curve(0, "a", np.zeros(1), np.full(1, np.nan)), lowest=True) is None
    assert series.best_point(series.Curve(0, "a", np.arange(3.0), np.array([5.0, 5, 4])), lowest=False) == 1


def test_first_values_do_not_press_the_rest_flat(tmp_path: Path) -> None:
    path = training(tmp_path / "a", 0)
    assert not any("outside" in text.get_text() for axis in drawn_of(path) for text in axis.texts)
    path.write_text(path.read_text().replace("#0: accuracy = 0.5\n", "#0: accuracy = -7\n"))
    accuracy = drawn_of(path)[1]
    assert any("-7 to 0.775" in text.get_text() for text in accuracy.texts)
    low, high = accuracy.get_ylim()
    assert 0.4 < low < 0.525 and 0.775 < high < 0.9


def drawn_of(path: Path) -> list[Any]:
    return list(drawn(series.collect([read_log(path)])).axes)


def test_the_figure_shows_each_run_and_its_best(tmp_path: Path) -> None:
    runs = ["baseline", "derived1", "derived2"]
    logs = [read_log(training(tmp_path / name, k / 100)) for k, name in enumerate(runs)]
    figure = drawn(series.collect(logs), average=3)
    train, accuracy, _ = figure.axes
    assert [axis.get_ylabel() for axis in figure.axes] == ["train loss\n(mean of 3)", "test accuracy", "test loss"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == runs
    faint = [line for line in train.lines if line.get_alpha() is not None]
    assert len(faint) == 3  # the raw curves
    # The best points, each with its number, in the run's colour; no number over another.
    assert [text.get_text() for text in accuracy.texts] == ["0.7950", "0.7850", "0.7750"]
    assert len({text.get_color() for text in accuracy.texts}) == 3
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in accuracy.texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert all(accuracy.get_window_extent().contains(box.x0, box.y0) for box in boxes)
    assert [text.get_text() for text in train.texts] == ["lr 0.01"]


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("average", [1, 5])
@pytest.mark.parametrize("name", sorted(path.stem for path in LOGS.glob("*.log")))
def test_every_log_can_be_drawn(name: str, average: int, log_scale: bool) -> None:
    drawn(collected(name), average, log_scale)


@pytest.mark.parametrize("log_scale", [False, True])
def test_an_output_whose_values_are_all_replaced_is_drawn(tmp_path: Path, log_scale: bool) -> None:
    """A resumed run replaces the only test that printed the loss."""
    said = "I1128 10:00:0%d.000000  7 solver.cpp:1] %s\n"
    tested, accuracy = "Iteration %d, Testing net (#0)", "    Test net output #0: accuracy = 0.5"
    lines = [(0, "Initializing solver"), (1, tested % 0), (1, accuracy), (2, tested % 100), (2, accuracy)]
    lines += [(2, "    Test net output #1: loss = 1.0")]
    lines += [(3, "Initializing solver"), (4, tested % 100), (4, accuracy)]
    (tmp_path / "train.log").write_text("".join(said % line for line in lines))
    curves = series.collect([read_log(tmp_path / "train.log")])
    (loss,) = curves.loss
    assert len(loss.x) == 0 and loss.earlier is not None and loss.earlier[1].tolist() == [1.0]
    assert drawn(curves, 1, log_scale).axes[1].get_ylabel() == "test loss"


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    environment.update(variables)
    script = Path(__file__).parents[2] / "tools" / "plot_loss.py"
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_display_that_is_none_writes_the_file_and_says_so(tmp_path: Path) -> None:
    training(tmp_path / "a", 0)
    done = run(tmp_path, "a/train.log", DISPLAY=":4711")
    assert done.returncode == 0 and done.stdout.startswith("no window on :4711 (not a display, or no toolkit ")
    assert done.stdout.endswith("): wrote loss.png\n") and (tmp_path / "loss.png").stat().st_size > 5000


def test_no_display_writes_the_file_and_says_so(tmp_path: Path) -> None:
    training(tmp_path / "a", 0)
    done = run(tmp_path, "a/train.log")
    assert done.returncode == 0 and done.stdout == "no display: wrote loss.png\n"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    for name, start in (("x.svg", b"<?xml"), ("x.pdf", b"%PDF")):
        assert run(tmp_path, "a/train.log", "--no_refresh", "--avg", "3", "--out", name).returncode == 0
        assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["loss.png", "x.svg", "x.pdf"])
def test_only_its_own_pictures_are_replaced(tmp_path: Path, name: str) -> None:
    training(tmp_path / "a", 0)
    words = ["a/train.log", *([] if name == "loss.png" else ["--out", name])]
    assert [run(tmp_path, *words).returncode for _ in range(2)] == [0, 0]
    Figure().savefig(tmp_path / name)  # the user's own, by Matplotlib, too
    mine = (tmp_path / name).read_bytes()
    done = run(tmp_path, *words)
    assert (
        done.returncode == 1
        and f"{name} exists and is no picture that plot_loss.py of this version drew" in done.stderr
    )
    assert (tmp_path / name).read_bytes() == mine


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["a/train.log", "--out", "x.gif"], 1, "must end in .png, .svg, .pdf"),
        (["a/train.log", "--out", "nowhere/x.png"], 1, "nowhere/x.png"),
        (["missing.log"], 1, "missing.log"),
        (["empty.log"], 1, "nothing to draw"),
        (["test.log"], 1, "no line of a training in test.log"),
        ([], 2, "LOGS"),
        (["a/train.log", "--avg", "0"], 2, "--avg"),
        (["missing.log", "a/train.log"], 1, "missing.log"),
    ],
)
def test_bad_input_is_said_and_readable_logs_are_drawn(
    tmp_path: Path, words: list[str], status: int, said: str
) -> None:
    training(tmp_path / "a", 0)
    (tmp_path / "empty.log").write_text("")
    (tmp_path / "test.log").write_text("I0305 15:00:02.000000 1 caffe.cpp:304] Batch 0, accuracy = 0.9\n")
    done = run(tmp_path, *words)
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr
    # The readable ones are still drawn.
    assert (tmp_path / "loss.png").exists() == (words == ["missing.log", "a/train.log"])


def test_the_window_follows_what_is_appended(tmp_path: Path) -> None:
    path = training(tmp_path / "a", 0)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    follower = Follower(path)
    follower.poll()
    figure = Figure(layout="constrained")
    looks = []

    class Timer:
        def add_callback(self, look: object) -> None:
            looks.append(look)

        def start(self) -> None:
            pass

    figure.canvas.new_timer = lambda interval: Timer()  # type: ignore[method-assign, assignment, return-value]
    draws = []
    follow(figure, [follower], lambda target: draws.append(target), 1.0)
    looks[0]()
    assert draws == []  # nothing new
    path.write_text(text)
    looks[0]()
    assert draws == [figure] and follower.log.size == len(text)
    path.unlink()
    looks[0]()  # a log that was moved away does not end the window
    assert draws == [figure]


def test_dozens_of_runs_have_a_line_each(tmp_path: Path) -> None:
    logs = [read_log(training(tmp_path / f"run{k}", k / 100)) for k in range(40)]
    drawing = drawn(series.collect(logs))
    lines = {(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in drawing.axes[0].lines}  # noqa: SLF001
    assert len({line for line in lines}) >= 40
    drawing.canvas.draw()
    (legend,) = drawing.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == 40 and box.y1 <= drawing.bbox.y1 and box.y0 >= drawing.bbox.y0
    for axis in drawing.axes[1:]:
        # Places relative to the points, which all stand at the same iteration: the numbers' own boxes.
        texts = [text for text in axis.texts if text.get_text()[0].isdigit()]
        boxes = [Text.get_window_extent(text).translated(*axis.transData.transform(text.xy)) for text in texts]
        assert len(boxes) > 3 and not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
