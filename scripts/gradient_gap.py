"""How far the gradient of a layer is from its forward function (paper, Fig. 1 and Sec. 3.2).

    python scripts/gradient_gap.py --out FOLDER

Along random directions d, and seen through random weights u, the change of the true forward
function over a step h against what backpropagation claims of it,

    true = u . (f(x + h d) - f(x - h d)) / 2 h,    claimed = d . (J^T u),
    error = sqrt(mean (true - claimed)^2 / mean true^2),

for one 3x3 convolution of every format as bases or bits grow, along its input (behind a batch-norm,
standard normal) and along its latent weights (of unit deviation). An error near 0 says that the
gradient tells how the layer changes; a gradient of zero would have 1. Picture and CSV.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import bench
import pandas as pd
import plotly.express as px
import torch
from torch import Tensor, nn

from mbnas import Bases, Surrogate
from mbnas.backbones import Row
from mbnas.files import write_text
from mbnas.formats import Family
from mbnas.layers import QuantizedConv2d, convolution
from mbnas.randomness import seeded

ROW = Row("layer", "main", 1, 16, 16, kernel=3, stride=1, size=8)
LOOKS = (
    ("input", Surrogate.STE),
    ("input", Surrogate.TANH),
    ("input", Surrogate.POLYNOMIAL),
    ("weights", Surrogate.STE),
    ("weights", Surrogate.TANH),
    ("weights", Surrogate.POLYNOMIAL),
)
SERIES: dict[str, Callable[[int], tuple[Family, Bases]]] = {
    "float": lambda _: (Family.FLOAT, Bases(8, 8)),
    "PACT, k bits": lambda k: (Family.PACT, Bases(k, k)),
    "MBN kxk": lambda k: (Family.MBN, Bases(k, k)),
    "MBN kx1": lambda k: (Family.MBN, Bases(k, 1)),
    "MBN 1xk": lambda k: (Family.MBN, Bases(1, k)),
}


def error(layer: QuantizedConv2d, along: str, h: float, surrogate: Surrogate, trials: int) -> float:
    """The error of the module's docstring, in float64."""
    norm = nn.BatchNorm2d(ROW.in_channels).double().eval()
    latent = layer.weight.detach()
    truths, misses = [], []
    for _ in range(trials):
        x = torch.randn(2, ROW.in_channels, ROW.size, ROW.size, dtype=torch.float64)
        start, scale = (x, 1.0) if along == "input" else (latent, float(latent.std()))

        def f(z: Tensor, x: Tensor = x) -> Tensor:
            image, weight = (z, latent) if along == "input" else (x, z)
            quantized = layer.activations(image, norm, surrogate)
            return nn.functional.conv2d(quantized, layer.weights(weight, surrogate), padding=1)

        d = scale * torch.randn_like(start)
        z = start.clone().requires_grad_()
        y = f(z)
        u = torch.randn_like(y)
        (pulled,) = torch.autograd.grad(y, z, u)
        with torch.no_grad():
            truth = ((f(start + h * d) - f(start - h * d)) * u).sum() / (2 * h)
            truths.append(truth**2)
            misses.append((truth - (pulled * d).sum()) ** 2)
    return float((torch.stack(misses).mean() / torch.stack(truths).mean()).sqrt())


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--trials", type=bench.positive, default=64)
    parser.add_argument(
        "--h", type=bench.above_zero, nargs="+", default=[0.1, 0.5], help="of the deviation"
    )
    parser.add_argument("--name", default="layer", help="of the result")
    arguments = parser.parse_args()
    rows = []
    for name, k, seed in product(SERIES, range(1, 9), range(3)):
        if name == "float" and k > 1:
            continue
        with seeded(seed, "layer"):
            layer = convolution(ROW, *SERIES[name](k)).double()
        for (along, surrogate), h in product(LOOKS, arguments.h):
            if name == "float" and surrogate is not Surrogate.STE:
                continue  # nothing in it needs one
            with seeded(seed, "directions", along):  # equal for all surrogates, steps and formats
                found = error(layer, along, h, surrogate, arguments.trials)
            rows.append((name, k, seed, along, h, surrogate.value, found))
    columns = ["format", "k", "seed", "along", "h", "surrogate", "error"]
    table = pd.DataFrame(rows, columns=columns)
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "gradient-gap"
    table.to_csv(target.with_suffix(".csv"), index=False, float_format="%.4g")
    mean = table.groupby(columns[:2] + columns[3:6], as_index=False).agg({"error": "mean"})
    figure = px.line(
        mean,
        x="k",
        y="error",
        color="format",
        line_dash="surrogate",
        facet_col="along",
        facet_row="h",
        markers=True,
        template="plotly_white",
    )
    write_text(target.with_suffix(".html"), figure.to_html())
    keys = ["format", "along", "h", "surrogate"]
    summary = [
        dict(zip(keys, key, strict=True))
        | {"error": part.sort_values("k")["error"].round(4).tolist()}
        for key, part in mean.groupby(keys, sort=False)
    ]
    for each in summary:
        print(*each.values())
    print(f"{target}.csv and .html")
    print(
        bench.keep(
            f"gap-{arguments.name}", {"trials": arguments.trials, "seeds": 3, "error": summary}
        )
    )


if __name__ == "__main__":
    bench.run(main)
