"""Opening a net or a solver for the commands: what it is, the other one, old forms, slips, forks' schemas."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.layertypes.foreign import why_not_known
from caffe_split.net.layers import all_layers
from caffe_split.net.solver_nets import solver_test_nets
from caffe_split.net.training import open_training
from caffe_split.net.which_net import solver_net_path
from tests.support import caffe_split

NET = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }'
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, text: str) -> Path:
    Path(name).write_text(text)
    return Path(name)


@pytest.mark.parametrize("key", ["net", "train_net"])
def test_each_finds_the_other(key: str) -> None:
    net, solver = put("n.prototxt", NET), put("s.prototxt", f'{key}: "n.prototxt" base_lr: 0.1\n')
    put("other.prototxt", 'net: "m.prototxt"\n')
    for path in (net, solver):
        training = open_training(path)
        assert (training.net_path, training.solver_path) == (net, solver)
        assert str(training.net) == NET and training.upgraded == () and not training.is_inline


def test_an_old_net_is_opened_in_todays_form_or_as_written() -> None:
    text = 'layers { name: "r" type: RELU bottom: "a" top: "a" }  # old\n'
    path = put("n.prototxt", 'input: "a" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1\n' + text)
    training = open_training(path)
    assert [layer.type for layer in all_layers(training.net)] == ["Input", "ReLU"]
    assert training.upgraded == ("layers became layer (1 layers)", "input became a layer of type Input")
    assert path.read_text().endswith(text)  # the file stays
    kept = open_training(path, upgrade=False)
    assert str(kept.net) == path.read_text() and kept.upgraded == ()
    with pytest.raises(CaffeSplitError, match=r"n.prototxt:2:1: the net is in the old form"):
        all_layers(kept.net)


def test_a_net_of_today_is_opened_as_written() -> None:
    text = NET + 'layer { name: "b" type: "BatchNorm" bottom: "data" param { lr_mult: 0 } param { } param { } }\n'
    training = open_training(put("n.prototxt", text))
    assert str(training.net) == text and training.upgraded == ()
    assert str(read_net("n.prototxt", upgrade=True)) == text


@pytest.mark.parametrize("linked", ["the net", "its folder"])
def test_a_net_that_is_a_link_keeps_its_solver(linked: str) -> None:
    """Its folder and its name are those by which it is given."""
    Path("x").mkdir()
    Path("common/C").mkdir(parents=True)
    target = put("common/C/base.prototxt" if linked == "the net" else "common/C/n.prototxt", NET)
    if linked == "the net":
        Path("x/A").mkdir()
        Path("x/A/n.prototxt").symlink_to(target.resolve())
    else:
        Path("x/A").symlink_to(target.parent.resolve())
    for name in ("n.prototxt", "A/n.prototxt", "elsewhere/A/n.prototxt"):
        solver = put("x/A/s.prototxt", f'net: "{name}" base_lr: 0.1\n')
        assert open_training("x/A/n.prototxt").solver_path == solver


@pytest.mark.parametrize(
    ("name", "is_it"),
    [
        ("n.prototxt", True),
        ("../A/n.prototxt", True),
        ("models/A/n.prototxt", True),
        ("elsewhere/A/n.prototxt", True),
        ("/no/such/folder/A/n.prototxt", True),
        ("models/B/n.prototxt", False),
        ("B/n.prototxt", False),
        ("elsewhere/C/n.prototxt", False),
        ("/no/such/folder/C/n.prototxt", False),
        ("models/A/m.prototxt", False),
    ],
)
def test_a_solver_of_a_net_of_the_same_name_is_not_the_nets_own(name: str, is_it: bool) -> None:
    """Seen from a folder in which its path leads nowhere: all of bvlc's nets are called train_val.prototxt."""
    for folder in ("A", "B"):
        Path("x/models", folder).mkdir(parents=True)
        put(f"x/models/{folder}/n.prototxt", NET)
    solver = put("x/models/A/s.prototxt", f'net: "{name}" base_lr: 0.1\n')
    training = open_training("x/models/A/n.prototxt")
    assert training.solver_path == (solver if is_it else None)
    said = f"{solver}: its net is {name}, of another folder, which is not there; it is not taken for the solver of "
    assert [note.startswith(said) for note in training.notes] == [True] * ("C/" in name)


@pytest.mark.parametrize("key", ["net_param", "train_net_param"])
def test_a_net_within_a_solver(key: str) -> None:
    path = put("s.prototxt", f"base_lr: 0.1\n{key} {{\n  # mine\n  {NET}  {CONV}\n}}\n")
    training = open_training(path)
    assert training.is_inline and training.net_path == Path(f"s_{key[:-6]}.prototxt")
    assert str(training.net) == f"# mine\n{NET}{CONV}\n"
    assert [layer.field.line for layer in all_layers(training.net)] == [4, 5]
    with pytest.raises(CaffeSplitError, match=r"in the solver itself, .* into s_\w*net\.prototxt, and give"):
        solver_net_path(training.solver)


def test_old_layers_within_a_solver_are_refused_as_caffe_passes_over_them() -> None:
    training = open_training(put("s.prototxt", "net_param {\n layers { type: RELU } }"))
    with pytest.raises(CaffeSplitError, match=r"s.prototxt:2:2: the net is in the old form"):
        all_layers(training.net)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("n.prototxt", "layer { }\nlayers { }", "n.prototxt:2:1: `layers` (old form) here and `layer` (new form) at"),
        ("n.prototxt", "layer {", "n.prototxt:1:8: the file ends, but 'layer' opened at 1:7 has no '}'"),
        ("n.prototxt", "dim: 3", "n.prototxt: expected a net or a solver, but it has no field of either"),
        ("n.prototxt", "# nothing\n", "n.prototxt: nothing in it; expected a net or a solver"),
        ("s.prototxt", "base_lr: 1", "s.prototxt: a solver names one training net"),
        ("s.prototxt", "net: 'm'", 's.prototxt: net is "m", which is not there seen from'),
        ("s.prototxt", "net: 's.prototxt'", "s.prototxt: this is a solver, expected a net"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_by_every_command(name: str, text: str, expected: str, here: Path) -> None:
    put(name, text)
    for command in (("tpm", name), ("instrument", name, "--window", "0:10"), ("make-derived", name, "--iter", 1)):
        done = caffe_split(*command, cwd=here, status=1)
        assert expected in done.stderr and done.stderr.count("\n") == 1


def test_slips_and_a_forks_fields_are_kept_and_noted() -> None:
    net = put("n.prototxt", NET.replace("layer {", "layer { botom: 'x'") + NET.replace("layer {", "layer { botom: 'y'"))
    put("s.prototxt", "net: 'n.prototxt' max_itr: 3 lr_policy: 'setp' warmup_iter: 5")
    assert open_training(net).notes == (
        "n.prototxt:1:9: LayerParameter has no field 'botom'; did you mean 'bottom'?; kept as it is, 2 times, last at "
        "line 2",
        "s.prototxt:1:19: SolverParameter has no field 'max_itr'; did you mean 'max_iter'?; kept as it is",
        "s.prototxt:1:48: SolverParameter has no field 'warmup_iter' in BVLC's Caffe; kept as it is",
        "s.prototxt:1:30: there is no lr_policy 'setp'; did you mean 'step'?; kept as it is",
    )


def test_a_forks_schema(here: Path) -> None:
    """A field that is known by the fork's schema is checked and typed, and not noted; what it does is not known."""
    ours = (importlib.resources.files("caffe_split.formats.prototxt") / "caffe.proto").read_text()
    fork = put(
        "fork.proto",
        ours.replace(
            "message ConvolutionParameter {", "message ConvolutionParameter { repeated uint32 kernel_sizes = 901;"
        ),
    )
    put("n.prototxt", NET + CONV.replace("kernel_size: 3", "kernel_size: 3 kernel_sizes: 5"))
    assert "did you mean 'kernel_size'?" in open_training("n.prototxt").notes[0]
    training = open_training("n.prototxt", caffe_proto=fork)
    param = all_layers(training.net)[1].message.sub("convolution_param")
    assert param is not None and param.get_all("kernel_sizes") == [5] and training.notes == ()
    assert why_not_known(all_layers(training.net)[1]) == (
        "what its convolution_param.kernel_sizes does is known to a fork of Caffe only"
    )
    put("n.prototxt", NET + CONV.replace("kernel_size: 3", "kernel_size: 3 kernel_sizes: 'x'"))
    with pytest.raises(CaffeSplitError, match="expected an integer, found 'x'"):
        open_training("n.prototxt", caffe_proto=fork)
    bad = put("bad.proto", "message {")
    with pytest.raises(CaffeSplitError, match=r"bad\.proto:1:"):
        open_training("n.prototxt", caffe_proto=bad)


def test_a_net_without_data_is_watched_by_its_input_fields(here: Path) -> None:
    put("n.prototxt", 'input: "data"\ninput_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n' + CONV + "\n")
    done = caffe_split("instrument", "n.prototxt", "--window", "0:10", cwd=here).stdout
    assert done.startswith('input: "data"\ninput_shape {') and "dim: 4\n      dim: 3\n      dim: 3" in done


@pytest.mark.parametrize("command", ["instrument", "tpm", "make-derived", "verify", "fold", "summary", "draw"])
def test_every_command_that_reads_nets_takes_a_forks_schema(command: str, here: Path) -> None:
    assert "--caffe-proto" in caffe_split(command, "--help", cwd=here).stdout


def test_nets_are_made_for_testing_in_the_order_of_caffe() -> None:
    """First those within the solver, then those in files, wherever they stand, then the net that is trained."""
    inner = 'test_net_param { name: "%s" } '
    put("a.prototxt", 'name: "a" ' + NET)
    put("n.prototxt", 'name: "n" ' + NET)
    text = f'net: "n.prototxt" test_net: "a.prototxt" {inner % "b"} {inner % "c"} test_iter: [1, 2, 3, 4]'
    training = open_training(put("s.prototxt", text))
    assert training.solver is not None
    assert [net.get("name") for net in solver_test_nets(training.solver, training.net)] == ["b", "c", "a", "n"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('net: "n.prototxt" test_net: "n.prototxt"', "0 test_iter for 1 test nets"),
        ('train_net: "n.prototxt" test_net: "n.prototxt" test_iter: 1 test_iter: 1', "2 test_iter for 1 test nets"),
    ],
)
def test_test_nets_without_their_test_iter_are_refused(text: str, expected: str) -> None:
    put("n.prototxt", NET)
    training = open_training(put("s.prototxt", text))
    assert training.solver is not None
    with pytest.raises(CaffeSplitError, match=f"s.prototxt: {expected}"):
        solver_test_nets(training.solver, training.net)


def test_a_solver_that_only_tests_is_not_the_nets_second_one(tmp_path: Path) -> None:
    """As `multisplit` leaves one beside each net; alone it is the net's solver."""
    (tmp_path / "n.prototxt").write_text('layer { name: "d" type: "Input" top: "d" }')
    for name, iterations in (("tests", 0), ("trains", 9)):
        (tmp_path / f"{name}.prototxt").write_text(f'net: "{tmp_path}/n.prototxt" max_iter: {iterations}')
        assert open_training(tmp_path / "n.prototxt").solver_path == tmp_path / f"{name}.prototxt"
