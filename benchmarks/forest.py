"""One isolation forest, four ways to score with it: our kernel and ONNX Runtime on our fused file, the file
of skl2onnx's converter, and scikit-learn itself.

Rows come one at a time (``row_ms``, the call from Python included) and in blocks (``rows_s``), on one core.
skl2onnx is measured when it is installed beside the product.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from rich.console import Console
from rich.table import Table

from anomalyze.models.export import ensemble_to_onnx
from anomalyze.models.forest import DEFAULT_INPUTS, Forest, fold_forest, train_forest
from anomalyze.models.kernel import TreeKernel
from anomalyze.models.runtime import OnnxScorer

Rows = npt.NDArray[np.float32]
Score = Callable[[Rows], object]
# A block as the detector has them under load.
BLOCK_ROWS = 5_000
SHORTEST_S = 0.3
ROUNDS = 5


def main() -> None:
    """Train, measure each way in turns, print a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="of simulated history to train on")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4096, help="rows that a tree is grown from")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    rows = make_rows(options.rows)
    forest = train_forest(
        rows, [i.one_sided for i in DEFAULT_INPUTS], seed=1, trees=options.trees, samples_max=options.samples
    )
    fused = ensemble_to_onnx(fold_forest(forest))
    ways: dict[str, tuple[Score, int]] = {
        "kernel": (TreeKernel.from_onnx(fused).score, 20 * BLOCK_ROWS),
        "onnxruntime": (OnnxScorer(fused).score, 4 * BLOCK_ROWS),
        "scikit_learn": (forest.score, BLOCK_ROWS),
    }
    if find_spec("skl2onnx") is not None:
        ways["skl2onnx"] = (load_skl2onnx(forest), BLOCK_ROWS)
    result = measure(ways, rows)
    check_agreement(ways, forest, rows[:BLOCK_ROWS])
    show(result)
    document = json.dumps(result)
    if options.json:
        options.json.write_text(document)
    print(document)


def make_rows(count: int) -> Rows:
    """float32 ``[count, 8]`` with the shapes of the default inputs: ratios, amounts, counts, flags."""
    rng = np.random.default_rng(1)
    columns = [
        rng.normal(0, 0.6, count),
        rng.normal(0, 1.2, count),
        np.maximum(0, rng.normal(-0.5, 0.6, count)),
        rng.lognormal(3.5, 1.1, count),
        rng.poisson(0.3, count) + 1.0,
        rng.exponential(10, count),
        1.0 * (rng.random(count) < 0.02),
        rng.exponential(1.0, count),
    ]
    return np.column_stack(columns).astype(np.float32)


def load_skl2onnx(forest: Forest) -> Score:
    """The converter's file on ONNX Runtime, one thread; it takes prepared rows."""
    from skl2onnx import to_onnx

    example = np.zeros((1, len(forest.fill)), dtype=np.float32)
    model = to_onnx(forest.estimator, example, target_opset={"": 21, "ai.onnx.ml": 3})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda rows: session.run(
        ["scores"], {session.get_inputs()[0].name: forest.preparation.apply(rows)}
    )


def measure(ways: dict[str, tuple[Score, int]], rows: Rows) -> dict[str, dict[str, float]]:
    """Best of a few rounds that take turns, so that a noisy neighbour meets all ways alike."""
    result = {way: {"row_ms": float("inf"), "rows_s": 0.0} for way in ways}
    for _ in range(ROUNDS):
        for way, (score, count) in ways.items():
            blocks = np.resize(rows, (count, rows.shape[1]))
            score(blocks[:1])
            score(blocks[:BLOCK_ROWS])
            calls, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < SHORTEST_S:
                score(rows[calls % len(rows)][None])
                calls += 1
            row_ms = (time.perf_counter() - begin) / calls * 1000
            begin = time.perf_counter()
            for start in range(0, count, BLOCK_ROWS):
                score(blocks[start : start + BLOCK_ROWS])
            rows_s = count / (time.perf_counter() - begin)
            result[way]["row_ms"] = min(result[way]["row_ms"], round(row_ms, 5))
            result[way]["rows_s"] = max(result[way]["rows_s"], round(rows_s))
    return result


def check_agreement(ways: dict[str, tuple[Score, int]], forest: Forest, rows: Rows) -> None:
    """What is compared must be the same answer."""
    kernel, reference = ways["kernel"][0](rows), ways["onnxruntime"][0](rows)
    if not np.array_equal(np.asarray(kernel), np.asarray(reference)):
        raise SystemExit("the kernel and ONNX Runtime disagree")
    if np.abs(np.exp2(np.asarray(kernel, dtype=np.float64)) - np.exp2(forest.score(rows))).max() > 1e-5:
        raise SystemExit("the exported forest and scikit-learn's disagree by more than 1e-5")


def show(result: dict[str, dict[str, float]]) -> None:
    """A table for people."""
    table = Table("way", "one row, ms", "rows/s in blocks", title="isolation forest, one core")
    for way, figures in result.items():
        table.add_row(way, f"{figures['row_ms']:.4f}", f"{figures['rows_s']:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
