"""What `b4m bench` says of its measurements: one row for each contender, the ratios, a table."""

import statistics
from collections.abc import Mapping, Sequence

from ..backbones.attention import told

PHASES = ("data", "forward", "backward", "optimizer")


def row(contender, rates: Mapping[str, float]) -> dict:
    """What was measured of one bench.Contender. rates: TFLOP/s of matrix products on this device, by dtype."""
    totals = sorted(sum(times.values()) for times in contender.times)
    median = statistics.median(totals)
    rate = contender.tflop / median
    phases = {p: statistics.median(times.get(p, 0.0) for times in contender.times) for p in PHASES}
    return {
        "group": contender.group,
        "name": contender.name,
        "seconds": median,
        "fastest": totals[0],
        "slowest": totals[-1],
        "samples_per_second": contender.rows / median,
        "phases": phases,
        "tflop": contender.tflop,
        "tflop_per_second": rate,
        "share_of_matmul": {name: rate / best for name, best in rates.items()},
        "peak_mb": contender.peak_mb,
        "attention": contender.attention,
        "operators": contender.operators,
    }


def ratios(rows: Sequence[dict]) -> dict[str, float]:
    """Median seconds of each row over those of ours in its group; and the optimizer's share of our steps."""
    found = {}
    for row in rows:
        ours = next(r for r in rows if r["group"] == row["group"] and (r["name"].startswith("ours")))
        if row is not ours:
            found[f"{row['group']}: {row['name']} / ours"] = row["seconds"] / ours["seconds"]
        elif row["group"].endswith(("one", "stage")):
            found[f"{row['group']}: optimizer's share"] = row["phases"]["optimizer"] / row["seconds"]
    return found


def shown(report: dict) -> str:
    """The report as a table."""
    head = (
        f"{'':34}{'ms/step':>9}{'spread':>15}"
        + "".join(f"{p:>11}" for p in PHASES)
        + f"{'TFLOP/s':>9}{'MB':>8}"
    )
    lines = [f"{report['machine']['device']}, {report['machine']['threads']} threads", head]
    for row in report["rows"]:
        spread = f"{1e3 * row['fastest']:.1f}-{1e3 * row['slowest']:.1f}"
        phases = "".join(f"{1e3 * row['phases'][p]:>11.1f}" for p in PHASES)
        lines.append(
            f"{row['group'] + ': ' + row['name']:34}{1e3 * row['seconds']:>9.1f}{spread:>15}{phases}"
            f"{row['tflop_per_second']:>9.3f}{row['peak_mb']:>8.0f}"
        )
    rates = ", ".join(f"{name} {rate:.3f}" for name, rate in report["matmul_tflop_per_second"].items())
    lines += [f"{name}: {ratio:.3f}" for name, ratio in report["ratios"].items()]
    order = "last" if report["model"]["channels_last"] else "first"
    lines += [f"matmul TFLOP/s: {rates}", f"convolutions: channels {order}", *_attention(report["rows"])]
    return "\n".join([*lines, *_concepts(report.get("concepts", ()))])


def _attention(rows: Sequence[dict]) -> list[str]:
    """The kernels that attention took, with the contenders that did."""
    who: dict[str, list[str]] = {}
    for row in rows:
        if row["attention"]:
            who.setdefault(told(row["attention"]), []).append(f"{row['group']}: {row['name']}")
    return [f"attention: {kernels} ({'; '.join(names)})" for kernels, names in who.items()]


CONCEPT = {  # column of a concept's row -> its title
    "seconds": "s to file",
    "first_image_seconds": "s to image",
    "cpu_seconds": "CPU s",
    "peak_mb": "MB",
    "peak_gpu_mb": "GPU MB",
    "content": "content",
    "prompt": "prompt",
    "content_right": "right",
}


def _concepts(rows: Sequence[dict]) -> list[str]:
    """Whole concepts as lines of a table; nothing without any."""
    if not rows:
        return []
    lines = [f"{'a whole concept':34}" + "".join(f"{title:>11}" for title in CONCEPT.values())]
    for row in rows:
        cells = [f"{row[name]:>11.3g}" if name in row else f"{'':>11}" for name in CONCEPT]
        lines.append(
            f"{row['name']:34}" + "".join(cells) + (f"  {row['problem']}" if "problem" in row else "")
        )
    return lines
