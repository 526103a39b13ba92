"""Writing the text of a net, layer by layer."""

from __future__ import annotations


class Text:
    """A net under construction. Each method adds layers behind `bottom` and returns the name of the last top."""

    def __init__(self, name: str, *shape: int) -> None:
        self.lines = [f'name: "{name}"']
        self.count = 0
        self.input("data", *shape)

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"

    def input(self, name: str, *shape: int) -> str:
        dims = " ".join(f"dim: {n}" for n in shape)
        self.lines.append(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}'
        )
        return name

    def layer(self, kind: str, bottoms: str, options: str = "", name: str = "", tops: str = "") -> str:
        """`bottoms` and `tops` are names separated by blanks; without `tops` the layer's name is its top."""
        self.count += 1
        name = name or f"{kind.lower()}{self.count}"
        tops = tops or name
        wires = " ".join([*(f'bottom: "{b}"' for b in bottoms.split()), *(f'top: "{t}"' for t in tops.split())])
        self.lines.append(f'layer {{ name: "{name}" type: "{kind}" {wires} {options} }}')
        return tops.split()[0]

    def relu(self, bottom: str, kind: str = "ReLU") -> str:
        return self.layer(kind, bottom, tops=bottom)

    def conv(
        self, bottom: str, outputs: int, kernel: int, stride: int = 1, pad: int | None = None, more: str = ""
    ) -> str:
        pad = kernel // 2 if pad is None else pad
        size = f"num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {pad} {more}"
        return self.layer("Convolution", bottom, f"convolution_param {{ {size} }}")

    def uneven(self, bottom: str, outputs: int, height: int, width: int) -> str:
        size = f"num_output: {outputs} kernel_h: {height} kernel_w: {width} pad_h: {height // 2} pad_w: {width // 2}"
        return self.normed(self.layer("Convolution", bottom, f"convolution_param {{ {size} bias_term: false }}"))

    def conv_relu(
        self, bottom: str, outputs: int, kernel: int, stride: int = 1, pad: int | None = None, more: str = ""
    ) -> str:
        return self.relu(self.conv(bottom, outputs, kernel, stride, pad, more))

    def norm(self, bottom: str, in_place: bool = True) -> str:
        """BatchNorm and Scale."""
        top = bottom if in_place else ""
        made = self.layer("BatchNorm", bottom, tops=top)
        return self.layer("Scale", made, "scale_param { bias_term: true }", tops=made)

    def normed(self, bottom: str, relu: str = "ReLU") -> str:
        made = self.norm(bottom)
        return self.relu(made, relu) if relu else made

    def conv_norm(
        self,
        bottom: str,
        outputs: int,
        kernel: int,
        stride: int = 1,
        pad: int | None = None,
        *,
        relu: str = "ReLU",
        more: str = "",
    ) -> str:
        return self.normed(self.conv(bottom, outputs, kernel, stride, pad, f"bias_term: false {more}"), relu)

    def pool(self, bottom: str, kernel: int, stride: int, pad: int = 0, kind: str = "MAX") -> str:
        size = f"pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad}"
        return self.layer("Pooling", bottom, f"pooling_param {{ {size} }}")

    def global_pool(self, bottom: str) -> str:
        return self.layer("Pooling", bottom, "pooling_param { pool: AVE global_pooling: true }")

    def concat(self, *bottoms: str) -> str:
        return self.layer("Concat", " ".join(bottoms))

    def add(self, *bottoms: str) -> str:
        return self.layer("Eltwise", " ".join(bottoms))

    def product(self, bottom: str, outputs: int) -> str:
        return self.layer("InnerProduct", bottom, f"inner_product_param {{ num_output: {outputs} }}")

    def softmax(self, bottom: str, axis: int = 1) -> str:
        return self.layer("Softmax", bottom, f"softmax_param {{ axis: {axis} }}", name="prob")
