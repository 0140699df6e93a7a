"""Two plain convolutional denoisers that low-dose CT papers compare with; a single slice in, a single slice out.

    CNN10     Chen et al. (2017), Biomed. Opt. Express 8:679       three layers, 9 x 9, 3 x 3 and 5 x 5; 24,513 weights
    RED-CNN   Chen et al. (2017), IEEE Trans. Med. Imaging 36:2524 five convolutions and five transposed ones, 5 x 5,
                                                                   96 channels, three shortcuts; 1,848,865 weights

Layers as published, with one change: RED-CNN's last ReLU is left out. It presumes values above zero; ours are
HU / 1024, where fat and lung are negative.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 96
LAYERS = 5
KERNEL = 5


class CNN10(nn.Module):
    """(B, 1, rows, columns) -> the same shape."""

    smallest = 9  # pixels a side: its largest kernel

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 9, padding=4),
            nn.ReLU(),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 5, padding=2),
        )

    def forward(self, y: Tensor) -> Tensor:
        return self.layers(y)


class REDCNN(nn.Module):
    """(B, 1, rows, columns) -> the same shape; sides of more than 20 pixels, which its five layers take off."""

    smallest = LAYERS * (KERNEL - 1) + 1

    def __init__(self) -> None:
        super().__init__()
        inward = [nn.Conv2d(1 if k == 0 else CHANNELS, CHANNELS, KERNEL) for k in range(LAYERS)]
        outward = [nn.ConvTranspose2d(CHANNELS, 1 if k == LAYERS - 1 else CHANNELS, KERNEL) for k in range(LAYERS)]
        self.inward, self.outward = nn.ModuleList(inward), nn.ModuleList(outward)

    def forward(self, y: Tensor) -> Tensor:
        shortcuts, x = [], y
        for k, layer in enumerate(self.inward):
            if k in (0, 2, 4):
                shortcuts.append(x)  # y, and the answers of the second and the fourth layer
            x = F.relu(layer(x))
        for k, layer in enumerate(self.outward):
            x = layer(x)
            if k in (0, 2, 4):
                x = x + shortcuts.pop()
            x = x if k == LAYERS - 1 else F.relu(x)
        return x


PLAIN: dict[str, type[CNN10] | type[REDCNN]] = {"cnn10": CNN10, "redcnn": REDCNN}
