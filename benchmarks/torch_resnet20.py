"""ResNet-20 of prototxt/resnet20_cifar100 in plain PyTorch, trained on one batch of 128 that stays on the device.

    python torch_resnet20.py [--device cuda:0] [--iterations 1000]

The same layers, solver and precision as Caffe's: float32 without TF32, SGD with momentum 0.9 and weight decay 0.0001.
Prints the iterations per second. Needs nothing of this project, so that it can be copied to a machine on its own.
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters, which halves the image and doubles the channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.stride, self.more = (2, out - channels) if out != channels else (1, 0)
        self.conv1 = nn.Conv2d(channels, out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.more:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return functional.relu(x + y, inplace=True)


def resnet20(classes: int = 100) -> nn.Sequential:
    """(N, 3, 32, 32) images to (N, classes) scores."""
    layers: list = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    channels = 16
    for out in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(channels, out))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--warm", type=int, default=100)
    asked = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(1)
    net = resnet20().to(asked.device)
    images = torch.full((128, 3, 32, 32), 0.5, device=asked.device)
    labels = torch.full((128,), 3, device=asked.device)
    solver = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def steps(count: int) -> float:
        """Seconds for `count` iterations; the last loss is read, which waits for the device."""
        start = time.perf_counter()
        for _ in range(count):
            solver.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(net(images), labels)
            loss.backward()
            solver.step()
        loss.item()
        return time.perf_counter() - start

    steps(asked.warm)
    print(f"{asked.iterations / steps(asked.iterations):.2f} iterations a second")


if __name__ == "__main__":
    main()
