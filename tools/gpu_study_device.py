"""One training on a device: everything of a step in tensors there, so that it can be captured in a CUDA graph.

The whole step (batch, crops and mirrors, kernels put together, forward, backward, update) reads and counts the iteration in
a tensor of the device; nothing is read by the host until somebody asks. On processors the same code runs step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID251
from gpu_study_net import Added, Kernel, Layout, Leaf, Mixed, Program, Stacked, Weights
from torch.nn import functional as F  # noqa: TID251

MEAN, SCALE, SIDE = (125.3, 123.0, 113.9), 0.015625, 32
MOMENTUM, DECAY = 0.9, 1e-4


@dataclass(frozen=True)
class Way:
    """How steps are computed: `dtype` of images and what becomes of them, whether by our own kernels (Triton)."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    own_kernels: bool = False
    # Of our own convolutions, by (channels in, out, height); None: cuDNN's alone.
    convs: Mapping | None = None

    @property
    def name(self) -> str:
        kind = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        own = "" if not self.own_kernels else ", own kernels" if self.convs is None else ", own kernels and convolutions"
        return kind + own


@dataclass
class Data:
    """Training images uint8 (N, side, side, 3), padded, and their labels; test images as nets read them; int64 labels."""

    images: torch.Tensor
    labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor

    @classmethod
    def of(cls, way: Way, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], pad: int = 4) -> Data:
        """From uint8 (N, 32, 32, 3) and labels; the training images gain a border of zeros."""
        images = np.pad(train[0], ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        mean = torch.tensor(MEAN, device=way.device)
        tests = (torch.as_tensor(np.array(test[0])).to(way.device).float() - mean) * SCALE
        wide = 8 if way.own_kernels else 3
        shown = torch.zeros(*tests.shape[:3], wide, device=way.device, dtype=way.dtype)
        shown[..., :3] = tests
        return cls(
            torch.as_tensor(images).to(way.device),
            torch.as_tensor(np.array(train[1])).to(way.device, torch.int64),
            shown,
            torch.as_tensor(np.array(test[1])).to(way.device, torch.int64),
        )


def draws_of(seed: int, steps: int, batch: int, pad: int = 4) -> np.ndarray:
    """uint8 (steps, batch, 3): row, column, whether mirrored, of each image of each batch; alike in all arms of a seed."""
    generator = np.random.default_rng([seed, 7])
    drawn = generator.integers(0, [2 * pad + 1, 2 * pad + 1, 2], size=(steps, batch, 3), dtype=np.uint8)
    return drawn


class Composer:
    """Puts the kernels of split sites together from their parts, and takes gradients back. All in float32."""

    def __init__(self, layout: Layout, values: torch.Tensor, gradient: torch.Tensor, weights: Weights) -> None:
        self.layout, self.values, self.gradient = layout, values, gradient
        self.device = values.device
        self.buffers: dict[tuple[int, str], torch.Tensor] = {}
        self.frozen: dict[str, torch.Tensor] = {}
        self.kept: dict[int, torch.Tensor] = {}
        for site in layout.split:
            self._freeze(site, site.kernel, weights)

    def _freeze(self, site, kernel: Kernel, weights: Weights) -> None:
        if isinstance(kernel, Leaf):
            if kernel.frozen:
                window = self.layout.window(site, kernel, weights)
                self.frozen[kernel.layer] = torch.as_tensor(window).to(self.device)
        else:
            for part in (kernel.inner,) if isinstance(kernel, Mixed) else kernel.parts:
                self._freeze(site, part, weights)

    def _of(self, flat: torch.Tensor, layer: str) -> torch.Tensor:
        first, count = self.layout.places[layer, 0]
        rows = self.layout.program.params[layer, 0].shape[0]
        return flat[first : first + count].view(rows, -1)

    def _buffer(self, kernel: Kernel, what: str, rows: int, columns: int) -> torch.Tensor:
        key = id(kernel), what
        if key not in self.buffers:
            self.buffers[key] = torch.empty(rows, columns, device=self.device)
        return self.buffers[key]

    def rows(self, kernel: Kernel) -> int:
        if isinstance(kernel, Leaf):
            return len(self.frozen[kernel.layer]) if kernel.frozen else len(self._of(self.values, kernel.layer))
        if isinstance(kernel, Mixed):
            return len(self._of(self.values, kernel.layer))
        if isinstance(kernel, Added):
            return self.rows(kernel.parts[0])
        return sum(self.rows(part) for part in kernel.parts)

    def home(self, kernel: Kernel) -> int | None:
        """Where in the flat arrays a gradient of `kernel` is that of its parts, as it stands; None where nowhere."""
        if isinstance(kernel, Leaf):
            return None if kernel.frozen else self.layout.places[kernel.layer, 0][0]
        if isinstance(kernel, Added):
            return self.home(kernel.parts[0]) if isinstance(kernel.parts[0], Leaf) else None
        if isinstance(kernel, Stacked):
            homes = [self.home(part) for part in kernel.parts]
            if any(home is None for home in homes):
                return None
            for part, home, following in zip(kernel.parts, homes, homes[1:]):
                first = part.parts[0] if isinstance(part, Added) else part
                if not isinstance(first, Leaf) or home + self.layout.places[first.layer, 0][1] != following:
                    return None
            return homes[0]
        return None

    # -- the way there

    def value(self, kernel: Kernel, columns: int) -> torch.Tensor:
        if isinstance(kernel, Leaf):
            return self.frozen[kernel.layer] if kernel.frozen else self._of(self.values, kernel.layer)
        out = self._buffer(kernel, "value", self.rows(kernel), columns)
        self.put(kernel, out)
        self.kept[id(kernel)] = out
        return out

    def put(self, kernel: Kernel, out: torch.Tensor) -> None:
        """Write the kernels (rows, columns) into `out`."""
        columns = out.shape[1]
        if isinstance(kernel, Leaf):
            out.copy_(self.value(kernel, columns))
        elif isinstance(kernel, Mixed):
            torch.mm(self._of(self.values, kernel.layer), self._kept(kernel.inner, columns), out=out)
        elif isinstance(kernel, Stacked):
            first = 0
            for part in kernel.parts:
                rows = self.rows(part)
                self.put(part, out[first : first + rows])
                first += rows
        else:
            first, *others = kernel.parts
            if isinstance(first, Leaf) and isinstance(others[0], Mixed):
                mixed = others.pop(0)
                inner = self._kept(mixed.inner, columns)
                torch.addmm(self.value(first, columns), self._of(self.values, mixed.layer), inner, out=out)
            elif isinstance(first, Leaf) and isinstance(others[0], Leaf):
                torch.add(self.value(first, columns), self.value(others.pop(0), columns), out=out)
            else:
                self.put(first, out)
            for other in others:
                if isinstance(other, Mixed):
                    out.addmm_(self._of(self.values, other.layer), self._kept(other.inner, columns))
                else:
                    out.add_(self.value(other, columns))

    def _kept(self, kernel: Kernel, columns: int) -> torch.Tensor:
        """The value of what a 1x1 layer mixes, which its gradient needs."""
        made = self.value(kernel, columns)
        self.kept[id(kernel)] = made
        return made

    # -- the way back

    def back(self, kernel: Kernel, gradient: torch.Tensor, at_home: bool = False) -> None:
        """Give every part its gradient. `at_home`: `gradient` stands where that of the first leaves belongs."""
        columns = gradient.shape[1]
        if isinstance(kernel, Leaf):
            if not kernel.frozen and not at_home:
                self._of(self.gradient, kernel.layer).copy_(gradient)
        elif isinstance(kernel, Mixed):
            matrix, inner = self._of(self.values, kernel.layer), kernel.inner
            torch.mm(gradient, self.kept[id(inner)].t(), out=self._of(self.gradient, kernel.layer))
            home, rows = self.home(inner), matrix.shape[1]
            if home is None:
                below = self._buffer(inner, "gradient", rows, columns)
            else:
                below = self.gradient[home : home + rows * columns].view(rows, columns)
            torch.mm(matrix.t(), gradient, out=below)
            self.back(inner, below, home is not None)
        elif isinstance(kernel, Stacked):
            first = 0
            for part in kernel.parts:
                rows = self.rows(part)
                self.back(part, gradient[first : first + rows], at_home)
                first += rows
        else:
            for index, part in enumerate(kernel.parts):
                self.back(part, gradient, at_home and index == 0)


class Run:
    """A training: a net from weights, `rates` by iteration, `draws` on the device, shared with others of its seed."""

    def __init__(
        self,
        way: Way,
        program: Program,
        weights: Weights,
        data: Data,
        draws: torch.Tensor,
        rates: np.ndarray,
        tests: int,
        test_batch: int = 1000,
    ) -> None:
        self.way, self.program, self.data, self.draws = way, program, data, draws
        self.layout = Layout(program)
        self.batch, self.steps = draws.shape[1], len(rates)
        self.test_batch = min(test_batch, len(data.test))
        device, size = way.device, self.layout.size
        self.values, self.speed, self.gradient = (torch.zeros(size, device=device) for _ in range(3))
        self.lr_mult = torch.as_tensor(self.layout.lr_mult).to(device)
        self.pull = torch.as_tensor(self.layout.decay_mult * np.float32(DECAY)).to(device)
        self.rates = torch.as_tensor(rates.astype(np.float32)).to(device)
        channels = sum(count for *_, count in program.norms)
        self.means, self.variances = torch.zeros(channels, device=device), torch.zeros(channels, device=device)
        self.gathered = torch.zeros(1, device=device)
        self.now = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(self.steps, device=device)
        self.test = torch.zeros(1, dtype=torch.int64, device=device)
        self.tested = torch.zeros(tests, 2, device=device)
        self.frozen = {name: [np.array(blob) for blob in weights[name]] for name in program.frozen}
        self._make_kernels(weights)
        self._make_norms()
        self._make_watch()
        self.x = torch.zeros(self.batch, SIDE, SIDE, data.test.shape[3], device=device, dtype=way.dtype)
        self.y = torch.zeros(self.batch, dtype=torch.int64, device=device)
        self.records = torch.arange(self.batch, device=device)
        self.pixels = torch.arange(SIDE, device=device)
        self.mean = torch.tensor(MEAN, device=device)
        self.graphs: dict[str, torch.cuda.CUDAGraph] = {}
        self.load(weights)

    # -- building

    def _make_kernels(self, weights: Weights) -> None:
        """Arrays of all sites' kernels in float32 and as images see them; of their gradients."""
        device, layout = self.way.device, self.layout
        self.composer = Composer(layout, self.values, self.gradient, weights)
        self.composed = torch.zeros(sum(site.shape[0] * site.columns for site in layout.split), device=device)
        self.composed_gradient = torch.zeros_like(self.composed)
        low = self.way.dtype != torch.float32
        kernels = sum(count for (name, _), (first, count) in layout.places.items() if name in self.program.kernels
                      and first < layout.direct)  # fmt: skip
        self.whole = kernels
        self.seen = torch.zeros(kernels + len(self.composed), device=device, dtype=self.way.dtype) if low else None
        self.site_parts: list[tuple[torch.Tensor, torch.Tensor]] = []  # of split sites: value, gradient, as matrices
        self.kernels: list[torch.Tensor] = []
        self.kernel_gradients: list[torch.Tensor] = []
        self.wide: torch.Tensor | None = None
        first = 0
        for site in self.program.sites:
            count, (n, c, height, width) = site.shape[0] * site.columns, site.shape
            if isinstance(site.kernel, Leaf):
                start = layout.places[site.kernel.layer, 0][0]
                value, gradient = (flat[start : start + count] for flat in (self.values, self.gradient))
            else:
                start = kernels + first
                value = self.composed[first : first + count]
                gradient = self.composed_gradient[first : first + count]
                self.site_parts.append((value.view(n, -1), gradient.view(n, -1)))
                first += count
            shown = value if self.seen is None else self.seen[start : start + count]
            shown = shown.detach().view(n, height, width, c).permute(0, 3, 1, 2)
            target = gradient.view(n, height, width, c).permute(0, 3, 1, 2)
            if c == 3 and self.way.own_kernels:
                self.wide = torch.zeros(n, height, width, 8, device=device, dtype=self.way.dtype).permute(0, 3, 1, 2)
                self.narrow = shown
                shown = self.wide
            self.kernels.append(shown.requires_grad_())
            self.kernel_gradients.append(target)
        self.sides: list[torch.cuda.Stream] = []
        if device.type == "cuda" and layout.split:
            self.sides = [torch.cuda.Stream(device) for _ in range(4)]

    def _make_norms(self) -> None:
        """Views a norm: factor, bias, their gradients, running sums, sums of the step."""
        device = self.way.device
        total = len(self.means)
        self.sums = torch.zeros(4 * total, device=device)
        self.norms = []
        first = 0
        for _, scale, channels in self.program.norms:
            views = [
                flat[start : start + count]
                for index in (0, 1)
                for start, count in [self.layout.places[scale, index]]
                for flat in (self.values, self.gradient)
            ]
            rows = slice(first, first + channels)
            sums = self.sums[4 * first : 4 * first + 2 * channels]
            back = self.sums[4 * first + 2 * channels : 4 * (first + channels)]
            self.norms.append((*views, self.means[rows], self.variances[rows], sums, back))
            first += channels
        self.norm_behind = {op[2]: op[3] for op in self.program.ops if op[0] == "norm"}
        self.summed: set[int] = set()  # norms whose sums the convolution before them adds up
        scales = [scale for _, scale, _ in self.program.norms]
        factors, biases = self.layout.places[scales[0], 0][0], self.layout.places[scales[0], 1][0]
        self.factors, self.biases = (self.values[start : start + total] for start in (factors, biases))
        self.head = [
            self.values[start : start + count].detach().view(self.program.params[self.program.fc, index].shape)
            .requires_grad_()
            for index in (0, 1)
            for start, count in [self.layout.places[self.program.fc, index]]
        ]  # fmt: skip
        self.head_gradients = [
            self.gradient[start : start + count].view(self.program.params[self.program.fc, index].shape)
            for index in (0, 1)
            for start, count in [self.layout.places[self.program.fc, index]]
        ]

    def _make_watch(self) -> None:
        """What TPM looks at: a row a kernel, then one a layer."""
        names = self.program.watched
        owner = np.full(self.layout.size, 0, np.int64)
        shapes = [self.program.params[name, 0].shape for name in names]
        self.watched = [(name, shape) for name, shape in zip(names, shapes)]
        kernels = sum(shape[0] for shape in shapes)
        row, layers = 0, np.zeros(kernels + 1, np.int64)
        owner[:] = kernels
        for index, (name, shape) in enumerate(self.watched):
            first, count = self.layout.places[name, 0]
            owner[first : first + count] = row + np.repeat(np.arange(shape[0]), count // shape[0])
            layers[row : row + shape[0]] = index
            row += shape[0]
        layers[kernels] = len(names)
        device = self.way.device
        self.owner, self.layer_of = torch.as_tensor(owner).to(device), torch.as_tensor(layers).to(device)
        double = {"dtype": torch.float64, "device": device}
        rows = kernels + 1 + len(names) + 1
        self.path, self.displacement = torch.zeros(rows, **double), torch.zeros(rows, **double)
        self.first_values, self.last_values = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.norm_start, self.norm_stop = torch.zeros(rows, **double), torch.zeros(rows, **double)

    # -- weights

    def load(self, weights: Weights, speed: np.ndarray | None = None, iteration: int = 0, test: int = 0) -> None:
        """Take the blobs of a caffemodel over; momentum none unless given."""
        self.values.copy_(torch.as_tensor(self.layout.flat(weights)))
        self.speed.zero_() if speed is None else self.speed.copy_(torch.as_tensor(speed))
        means, variances, gathered = self.layout.statistics(weights)
        self.means.copy_(torch.as_tensor(means))
        self.variances.copy_(torch.as_tensor(variances))
        self.gathered.fill_(gathered)
        self.now.fill_(iteration)
        self.test.fill_(test)

    def state(self) -> dict[str, torch.Tensor]:
        """Copies, on the device, of all that the training goes on from; `losses` and `tested` among them."""
        names = ("values", "speed", "means", "variances", "gathered", "now", "test", "losses", "tested", "path",
                 "displacement", "first_values", "last_values", "norm_start", "norm_stop")  # fmt: skip
        return {name: getattr(self, name).clone() for name in names}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        for name, array in state.items():
            getattr(self, name).copy_(torch.as_tensor(array))

    def blobs(self, state: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        """All layers' blobs, as a caffemodel holds them, of a state on the host."""
        found = self.layout.blobs(np.asarray(state["values"]))
        found.update(self.frozen)
        gathered = float(np.asarray(state["gathered"])[0])
        found.update(
            self.layout.statistics_blobs(np.asarray(state["means"]), np.asarray(state["variances"]), gathered)
        )
        return found

    # -- a step

    @torch.no_grad()
    def _compose(self) -> None:
        """Put split kernels together, and show all to the images in their precision."""
        if self.site_parts:
            self._beside(lambda site, value, _: self.composer.put(site.kernel, value))
        if self.seen is not None:
            self.seen[: self.whole].copy_(self.values[: self.whole])
            if self.site_parts:
                self.seen[self.whole :].copy_(self.composed)
        if self.wide is not None:
            self.wide[:, :3].copy_(self.narrow)

    def _beside(self, work) -> None:
        """Do `work` for every split site, on several streams where there are."""
        pairs = list(zip(self.layout.split, self.site_parts))
        if not self.sides:
            for site, (value, gradient) in pairs:
                work(site, value, gradient)
            return
        main = torch.cuda.current_stream()
        for index, side in enumerate(self.sides):
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for site, (value, gradient) in pairs[index :: len(self.sides)]:
                    work(site, value, gradient)
        for side in self.sides:
            main.wait_stream(side)

    def _next_batch(self) -> None:
        if self.way.own_kernels:
            import gpu_study_kernels as kernels

            data = self.data
            kernels.batch(data.images, data.labels, self.draws, self.now, self.x, self.y)
            return
        record = (self.now * self.batch + self.records) % len(self.data.images)
        drawn = self.draws.index_select(0, self.now)[0].long()
        rows = drawn[:, 0, None] + self.pixels
        columns = torch.where(drawn[:, 2, None] > 0, SIDE - 1 - self.pixels, self.pixels) + drawn[:, 1, None]
        images = self.data.images[record[:, None, None], rows[:, :, None], columns[:, None, :]]
        self.x.copy_((images.float() - self.mean) * SCALE)
        self.y.copy_(self.data.labels[record])

    def _forward(self, x: torch.Tensor, norm, conv=None) -> torch.Tensor:
        """The scores (images, classes); `norm(blob, number, relu, other)` does a BatchNorm and what follows, `conv(blob,
        number)` a site's convolution where it is not PyTorch's."""
        blobs = {"data": x.permute(0, 3, 1, 2)}
        for op in self.program.ops:
            kind, top, bottom = op[:3]
            if kind == "conv":
                site = self.program.sites[op[3]]
                if conv is not None:
                    blobs[top] = conv(blobs[bottom], op[3], bottom == "data")
                else:
                    blobs[top] = F.conv2d(blobs[bottom], self.kernels[op[3]], None, site.stride, site.pad)
            elif kind == "norm":
                other = None if op[5] is None else blobs[op[5]]
                blobs[top] = norm(blobs[bottom], op[3], op[4], other)
            elif kind == "relu":
                blobs[top] = F.relu(blobs[bottom])
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
                blobs[top] = F.linear(blobs[bottom], *self.head)
            elif kind == "loss":
                return blobs[bottom]
        raise AssertionError("a net without a loss")

    def _own_norm(self, blob, number, relu, other):
        import gpu_study_kernels as kernels

        factor, dfactor, bias, dbias, means, variances, sums, back = self.norms[number]
        program = self.program
        return kernels.Norm.apply(
            blob, other, relu, sums, back, factor, bias, dfactor, dbias, means, variances, program.eps, program.fraction,
            number in self.summed,
        )  # fmt: skip

    def _own_conv(self, blob, number, first):
        import gpu_study_convs as convs

        site, how = self.program.sites[number], convs.Choice()
        if convs.possible(blob.shape[1], site):
            how = self.way.convs.get((blob.shape[1], site.shape[0], blob.shape[2]), how)
        norm = self.norm_behind.get(site.top)
        sums = None if norm is None else self.norms[norm][6]
        if how.forward is not None and norm is not None:
            self.summed.add(norm)
        return convs.Conv.apply(
            blob, self.kernels[number], self.kernel_gradients[number], sums, site.stride, site.pad, how, first
        )

    def _plain_norm(self, blob, number, relu, other):
        _, _, _, _, means, variances, _, _ = self.norms[number]
        factor, bias = self.plain[2 * number : 2 * number + 2]
        mean, variance = torch.zeros_like(means), torch.zeros_like(variances)
        out = F.batch_norm(blob, mean, variance, factor, bias, True, 1.0, self.program.eps)
        with torch.no_grad():
            means.mul_(self.program.fraction).add_(mean)
            variances.mul_(self.program.fraction).add_(variance)
        out = out if other is None else out + other
        return F.relu(out) if relu else out

    def gradients(self) -> torch.Tensor:
        """The loss of the next batch; its gradients in `gradient`, and the running sums moved on."""
        self._compose()
        self._next_batch()
        own = self.way.own_kernels
        self.gathered.mul_(self.program.fraction).add_(1)
        wanted = [*self.kernels, *self.head]
        targets = [*self.kernel_gradients, *self.head_gradients]
        convs = self.way.convs is not None
        if convs:
            # Convolutions add to their kernels' gradients by themselves; on the way to the images all are passed.
            self.gradient.zero_()
            self.composed_gradient.zero_()
            images = self.x.detach().requires_grad_()
            wanted, targets = [*self.head, images], self.head_gradients
        if own:
            self.sums.zero_()
        else:
            self.plain = [view.detach().requires_grad_() for norm in self.norms for view in (norm[0], norm[2])]
            wanted += self.plain
            targets += [view for norm in self.norms for view in (norm[1], norm[3])]
        shown = images if convs else self.x
        scores = self._forward(
            shown, self._own_norm if own else self._plain_norm, self._own_conv if convs else None
        )
        loss = F.cross_entropy(scores, self.y)
        found = list(torch.autograd.grad(loss, wanted, allow_unused=convs))
        with torch.no_grad():
            if convs:
                torch._foreach_copy_(targets, found[:-1])
            else:
                if self.wide is not None:
                    found[0] = found[0][:, :3]
                # One call for each precision: a mixed one copies blob by blob.
                for first, stop in ((0, len(self.kernels)), (len(self.kernels), len(found))):
                    torch._foreach_copy_(targets[first:stop], found[first:stop])
            if self.site_parts:
                self._beside(lambda site, _, gradient: self.composer.back(site.kernel, gradient))
        return loss.detach()

    def step(self) -> None:
        """One iteration."""
        loss = self.gradients()
        with torch.no_grad():
            self.losses.index_copy_(0, self.now, loss.reshape(1))
            if self.way.own_kernels:
                import gpu_study_kernels as kernels

                kernels.update(
                    self.values, self.speed, self.gradient, self.lr_mult, self.pull, self.rates, self.now, MOMENTUM
                )
            else:
                slope = torch.addcmul(self.gradient, self.pull, self.values)
                rate = self.rates.index_select(0, self.now) * self.lr_mult
                self.speed.mul_(MOMENTUM).addcmul_(rate, slope)
                self.values.sub_(self.speed)
            self.now.add_(1)

    # -- looking at it

    @torch.no_grad()
    def measure(self) -> None:
        """Test the net on all test images: mean loss and accuracy into the next row of `tested`."""
        self._compose()
        scale = torch.where(self.gathered == 0, torch.zeros_like(self.gathered), 1 / self.gathered)
        a = self.factors * torch.rsqrt(self.variances * scale + self.program.eps)
        b = self.biases - self.means * scale * a
        first = np.cumsum([0, *(count for *_, count in self.program.norms)])

        def norm(blob, number, relu, other):
            rows = slice(int(first[number]), int(first[number + 1]))
            if self.way.own_kernels:
                import gpu_study_kernels as kernels

                return kernels.affine(blob, other, relu, a[rows], b[rows])
            out = blob * a[rows].to(blob.dtype).view(1, -1, 1, 1) + b[rows].to(blob.dtype).view(1, -1, 1, 1)
            out = out if other is None else out + other
            return F.relu(out) if relu else out

        loss, right = torch.zeros(1, device=self.way.device), torch.zeros(1, device=self.way.device)
        count = len(self.data.test)
        for start in range(0, count, self.test_batch):
            labels = self.data.test_labels[start : start + self.test_batch]
            scores = self._forward(self.data.test[start : start + self.test_batch], norm)
            loss += F.cross_entropy(scores, labels, reduction="sum")
            right += (scores.argmax(1) == labels).sum()
        self.tested.index_copy_(0, self.test, torch.cat([loss, right]).reshape(1, 2) / count)
        self.test.add_(1)

    @torch.no_grad()
    def _lengths(self, flat: torch.Tensor) -> torch.Tensor:
        """L2 norms in double: a kernel each (and one that counts nothing), then a layer each (likewise)."""
        squares = flat.double().square()
        kernels = torch.zeros(len(self.layer_of), dtype=torch.float64, device=flat.device)
        kernels.index_add_(0, self.owner, squares)
        layers = torch.zeros(len(self.watched) + 1, dtype=torch.float64, device=flat.device)
        layers.index_add_(0, self.layer_of, kernels)
        return torch.cat([kernels, layers]).sqrt()

    @torch.no_grad()
    def sample_first(self) -> None:
        """The first sample of a window of TPM."""
        self.first_values.copy_(self.values)
        self.last_values.copy_(self.values)
        self.path.zero_()
        self.displacement.zero_()
        self.norm_start.copy_(self._lengths(self.values))

    @torch.no_grad()
    def sample(self) -> None:
        """A further sample."""
        self.path.add_(self._lengths(self.values.double() - self.last_values.double()))
        self.displacement.copy_(self._lengths(self.values.double() - self.first_values.double()))
        self.last_values.copy_(self.values)
        self.norm_stop.copy_(self._lengths(self.values))

    def scores(self, state: Mapping[str, np.ndarray], window: tuple[int, int], interval: int) -> list[dict]:
        """What TPM saw, of a state on the host: the fields of `LayerScores`, a layer each."""
        kernels, found, row = len(self.layer_of), [], 0
        for index, (name, shape) in enumerate(self.watched):
            rows, whole = slice(row, row + shape[0]), kernels + index
            row += shape[0]
            found.append({
                "layer": name, "start": window[0], "stop": window[1], "interval": interval,
                "steps": (window[1] - window[0]) // interval, "shape": tuple(shape),
                "displacement": np.array(state["displacement"][rows]), "path": np.array(state["path"][rows]),
                "layer_displacement": float(state["displacement"][whole]), "layer_path": float(state["path"][whole]),
                "norm_start": float(state["norm_start"][whole]), "norm_stop": float(state["norm_stop"][whole]),
            })  # fmt: skip
        return found

    # -- captured

    def capture(self, unroll: int = 1) -> None:
        """Capture what is done to one graph each: `unroll` steps, one step, a test, the samples. On CUDA devices."""
        if self.way.device.type != "cuda":
            return
        self.stream = torch.cuda.Stream(self.way.device)
        kept = {name: tensor.clone() for name, tensor in self.state().items()}
        self.stream.wait_stream(torch.cuda.current_stream())
        works = {"step": self.step, "test": self.measure, "sample_first": self.sample_first, "sample": self.sample}
        if unroll > 1:
            works["steps"] = lambda: [self.step() for _ in range(unroll)]
        with torch.cuda.stream(self.stream):
            for name in ("step", "test", "sample_first", "sample"):
                works[name]()
                self.now.zero_()
                self.test.zero_()
            self.step()
        self.stream.synchronize()
        for name, work in works.items():
            graph = torch.cuda.CUDAGraph()
            # Not torch.cuda.graph: that waits for the whole device, where other trainings run.
            with torch.cuda.stream(self.stream):
                graph.capture_begin(capture_error_mode="thread_local")
                work()
                graph.capture_end()
            self.graphs[name] = graph
        with torch.cuda.stream(self.stream), torch.no_grad():
            for name, tensor in kept.items():
                getattr(self, name).copy_(tensor)
        self.stream.synchronize()

    def do(self, name: str) -> None:
        """Do one of the captured works, on this training's own stream; or the work itself on processors."""
        if self.way.device.type == "cuda":
            with torch.cuda.stream(self.stream):
                self.graphs[name].replay()
            return
        {"step": self.step, "test": self.measure, "sample_first": self.sample_first, "sample": self.sample}[name]()
