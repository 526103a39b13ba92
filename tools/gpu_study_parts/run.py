"""One training on a device: everything of a step in tensors there, so that it can be captured in a CUDA graph.

The whole step (batch, crops and mirrors, kernels put together, forward, backward, update) reads and counts the
iteration in a tensor of the device; nothing is read by the host until it is asked for. On processors the same code runs
step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.nn import functional

from gpu_study_parts.images import MEAN, SCALE, SIDE, Data, Way
from gpu_study_parts.layout import Layout
from gpu_study_parts.net import Program, Weights
from gpu_study_parts.norms import Norms
from gpu_study_parts.sites import Sites
from gpu_study_parts.watch import Watch

MOMENTUM, DECAY = 0.9, 1e-4


class Run:
    """A training: a net from weights, `rates` by iteration, `draws` on the device, shared with others of its seed.

    tests: how many tests there are room for; test_batch: images of a test that are forwarded together.
    """

    def __init__(
        self,
        way: Way,
        program: Program,
        weights: Weights,
        data: Data,
        draws: torch.Tensor,
        rates: np.ndarray,
        *,
        tests: int,
        test_batch: int = 1000,
    ) -> None:
        self.way, self.program, self.data, self.draws = way, program, data, draws
        self.layout = layout = Layout(program)
        self.batch, self.test_batch = draws.shape[1], min(test_batch, len(data.test))
        device = way.device
        self.values, self.speed, self.gradient = (torch.zeros(layout.size, device=device) for _ in range(3))
        self.lr_mult = torch.as_tensor(layout.lr_mult).to(device)
        self.pull = torch.as_tensor(layout.decay_mult * np.float32(DECAY)).to(device)
        self.rates = torch.as_tensor(rates.astype(np.float32)).to(device)
        self.sites = Sites(way, layout, self.values, self.gradient, weights)
        self.norms = Norms(layout, self.values, self.gradient)
        self.watch = Watch(layout, self.values)
        heads = [(layout.places[program.fc, index], program.params[program.fc, index].shape) for index in (0, 1)]
        self.head = [self.values[s : s + n].detach().view(shape).requires_grad_() for (s, n), shape in heads]
        self.head_gradients = [self.gradient[s : s + n].view(shape) for (s, n), shape in heads]
        self.norm_behind = {op[2]: op[3] for op in program.ops if op[0] == "norm"}
        self.frozen = {name: [np.array(blob) for blob in weights[name]] for name in program.frozen}
        self.now, self.test = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.losses, self.tested = torch.zeros(len(rates), device=device), torch.zeros(tests, 2, device=device)
        self.x = torch.zeros(self.batch, SIDE, SIDE, way.channels, device=device, dtype=way.dtype)
        self.y = torch.zeros(self.batch, dtype=torch.int64, device=device)
        self.records, self.pixels = torch.arange(self.batch, device=device), torch.arange(SIDE, device=device)
        self.mean = torch.tensor(MEAN, device=device)
        self.graphs: dict[str, torch.cuda.CUDAGraph] = {}
        self.load(weights)

    # -- weights and state

    def load(self, weights: Weights) -> None:
        """Take over the blobs of a caffemodel, and stand before the first iteration, without momentum."""
        self.values.copy_(torch.as_tensor(self.layout.flat(weights)))
        means, variances, gathered = self.layout.statistics(weights)
        self.norms.means.copy_(torch.as_tensor(means))
        self.norms.variances.copy_(torch.as_tensor(variances))
        self.norms.gathered.fill_(gathered)
        for tensor in (self.speed, self.now, self.test):
            tensor.zero_()

    def _state(self) -> dict[str, torch.Tensor]:
        own = {name: getattr(self, name) for name in ("values", "speed", "now", "test", "losses", "tested")}
        norms = {name: getattr(self.norms, name) for name in ("means", "variances", "gathered")}
        return {**own, **norms, **{name: getattr(self.watch, name) for name in Watch.NAMES}}

    def state(self) -> dict[str, torch.Tensor]:
        """Copies, on the device, of all that the training goes on from, its losses and tests so far among them."""
        return {name: tensor.clone() for name, tensor in self._state().items()}

    def restore(self, state: Mapping[str, np.ndarray | torch.Tensor]) -> None:
        """Go on from a state of the same net."""
        for name, tensor in self._state().items():
            tensor.copy_(torch.as_tensor(state[name]))

    def blobs(self, state: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        """All layers' blobs, as a caffemodel holds them, of a state on the host."""
        found = {**self.layout.blobs(state["values"]), **self.frozen}
        gathered = float(state["gathered"][0])
        return {**found, **self.layout.statistics_blobs(state["means"], state["variances"], gathered)}

    # -- a step

    def step(self) -> None:
        """One iteration."""
        loss = self.gradients()
        with torch.no_grad():
            self.losses.index_copy_(0, self.now, loss.reshape(1))
            self._update()
            self.now.add_(1)

    def gradients(self) -> torch.Tensor:
        """The loss of the next batch; all gradients in `gradient`, and the running sums moved on."""
        own, convs = self.way.own_kernels, self.way.convs is not None
        self.sites.compose()
        self.next_batch()
        self.norms.start(own)
        images, wanted = self.x, [*self.sites.kernels, *self.head, *([] if own else self.norms.learnt)]
        if convs:
            # Convolutions then add to their kernels' gradients themselves; asking for the images' leads past all.
            self.gradient.zero_()
            self.sites.composed_gradient.zero_()
            images = self.x.detach().requires_grad_()
            wanted = [images, *self.head]
        norm = self.norms.own if own else self.norms.plain
        loss = functional.cross_entropy(self._forward(images, norm, self._own_conv if convs else None), self.y)
        found = torch.autograd.grad(loss, wanted, allow_unused=convs)
        count = 1 if convs else len(self.sites.kernels)
        if not convs:
            self.sites.take(found[:count])
        with torch.no_grad():
            torch._foreach_copy_([*self.head_gradients, *([] if own else self.norms.targets())], list(found[count:]))
        self.sites.take_apart()
        return loss.detach()

    def next_batch(self) -> None:
        """The images and labels of iteration `now` into `x` and `y`."""
        if self.way.own_kernels:
            from gpu_study_parts import kernels

            kernels.batch(self.data.images, self.data.labels, self.draws, self.now, self.x, self.y)
            return
        record = (self.now * self.batch + self.records) % len(self.data.images)
        drawn = self.draws.index_select(0, self.now)[0].long()
        rows = drawn[:, 0, None] + self.pixels
        columns = torch.where(drawn[:, 2, None] > 0, SIDE - 1 - self.pixels, self.pixels) + drawn[:, 1, None]
        images = self.data.images[record[:, None, None], rows[:, :, None], columns[:, None, :]]
        self.x.copy_((images.float() - self.mean) * SCALE)
        self.y.copy_(self.data.labels[record])

    def _forward(self, images: torch.Tensor, norm: Callable, conv: Callable | None = None) -> torch.Tensor:
        """The scores (images, classes); `norm` does a BatchNorm and what follows, `conv` a convolution, if given."""
        blobs = {"data": images.permute(0, 3, 1, 2)}
        for kind, top, bottom, *more in self.program.ops:
            if kind == "conv" and conv is not None:
                blobs[top] = conv(blobs[bottom], more[0], bottom == "data")
            elif kind == "conv":
                site = self.program.sites[more[0]]
                blobs[top] = functional.conv2d(blobs[bottom], self.sites.kernels[more[0]], None, site.stride, site.pad)
            elif kind == "norm":
                number, relu, other = more
                blobs[top] = norm(blobs[bottom], number, relu, None if other is None else blobs[other])
            elif kind == "relu":
                blobs[top] = functional.relu(blobs[bottom])
            elif kind == "add":
                blobs[top] = blobs[bottom[0]] + blobs[bottom[1]]
            elif kind == "half":
                blobs[top] = blobs[bottom][:, :, ::2, ::2]
            elif kind == "zero":
                blobs[top] = torch.zeros_like(blobs[bottom])
            elif kind == "concat":
                blobs[top] = torch.cat([blobs[name] for name in bottom], 1)
            elif kind == "mean":
                blobs[top] = blobs[bottom].float().mean((2, 3))
            elif kind == "fc":
                blobs[top] = functional.linear(blobs[bottom], *self.head)
        return blobs[bottom]  # what the loss, the last operation, reads

    def _own_conv(self, blob: torch.Tensor, number: int, first: bool) -> torch.Tensor:
        from gpu_study_parts import convs

        site, norm = self.program.sites[number], self.norm_behind.get(self.program.sites[number].top)
        how = convs.Choice()
        if self.way.convs and convs.possible(blob.shape[1], site):
            how = self.way.convs.get((blob.shape[1], site.shape[0], blob.shape[2]), how)
        if how.forward is not None and norm is not None:
            self.norms.summed.add(norm)
        sums = None if norm is None else self.norms.each[norm].sums
        kernel, target = self.sites.kernels[number], self.sites.gradients[number]
        return convs.Conv.apply(blob, kernel, target, sums, site, how, first)

    def _update(self) -> None:
        """Caffe's SGD."""
        if self.way.own_kernels:
            from gpu_study_parts import kernels

            arrays = self.values, self.speed, self.gradient, self.lr_mult, self.pull
            kernels.update(*arrays, rates=self.rates, now=self.now, momentum=MOMENTUM)
            return
        slope = torch.addcmul(self.gradient, self.pull, self.values)
        rate = self.rates.index_select(0, self.now) * self.lr_mult
        self.speed.mul_(MOMENTUM).addcmul_(rate, slope)
        self.values.sub_(self.speed)

    @torch.no_grad()
    def measure(self) -> None:
        """Test the net on all test images: mean loss and accuracy into the next row of `tested`."""
        self.sites.compose()
        norm = self.norms.tested(self.way.own_kernels)
        loss, right = torch.zeros(1, device=self.way.device), torch.zeros(1, device=self.way.device)
        for start in range(0, len(self.data.test), self.test_batch):
            labels = self.data.test_labels[start : start + self.test_batch]
            scores = self._forward(self.data.test[start : start + self.test_batch], norm)
            loss += functional.cross_entropy(scores, labels, reduction="sum")
            right += (scores.argmax(1) == labels).sum()
        self.tested.index_copy_(0, self.test, torch.cat([loss, right]).reshape(1, 2) / len(self.data.test))
        self.test.add_(1)

    # -- captured

    def _works(self) -> dict[str, Callable[[], object]]:
        return {"step": self.step, "test": self.measure, "begin": self.watch.begin, "sample": self.watch.sample}

    def capture(self, unroll: int = 1) -> None:
        """On CUDA devices: capture one graph each of a step, `unroll` steps ("steps"), a test, the samples of TPM."""
        if self.way.device.type != "cuda":
            return
        self.stream = torch.cuda.Stream(self.way.device)
        kept, works = self.state(), self._works()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            # What is compiled, chosen and allocated once has to be before the capture.
            self.step()
            for work in works.values():
                work()
                self.now.zero_()
                self.test.zero_()
        self.stream.synchronize()
        works["steps"] = lambda: [self.step() for _ in range(unroll)]
        for name, work in works.items():
            graph = torch.cuda.CUDAGraph()
            # Not torch.cuda.graph: that waits for the whole device, where other trainings run.
            with torch.cuda.stream(self.stream):
                graph.capture_begin(capture_error_mode="thread_local")
                work()
                graph.capture_end()
            self.graphs[name] = graph
        with torch.cuda.stream(self.stream), torch.no_grad():
            self.restore(kept)
        self.stream.synchronize()

    def do(self, name: str) -> None:
        """One of the captured works, on this training's own stream; on processors the work itself ("steps" is one)."""
        if self.graphs:
            with torch.cuda.stream(self.stream):
                self.graphs[name].replay()
        else:
            self._works()["step" if name == "steps" else name]()
