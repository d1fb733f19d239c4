"""Memory over time, as a picture."""

from pathlib import Path

from agentmem.demo.plan import MB
from agentmem.demo.run import Outcome

_LOGICAL, _RESIDENT, _BUDGET = "#9aa5b1", "#0b6e99", "#d1495b"


def draw(outcome: Outcome, path: Path) -> None:
    """Draw what the agents held and what this machine had to hold for it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    seconds = [sample.seconds for sample in outcome.samples]
    logical = [sample.logical_bytes / MB for sample in outcome.samples]
    resident = [sample.resident_bytes / MB for sample in outcome.samples]
    budget = outcome.plan.memory_max_bytes / MB

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.fill_between(seconds, logical, color=_LOGICAL, alpha=0.45, label="held by agents")
    above.fill_between(seconds, resident, color=_RESIDENT, label="in RAM")
    above.legend(loc="upper left", frameon=False)
    above.set_title(_title(outcome), loc="left", fontweight="bold")
    below.plot(seconds, resident, color=_RESIDENT, linewidth=1.4)
    below.axhline(budget, color=_BUDGET, linewidth=1, linestyle="--")
    below.annotate(
        f"budget of the store: {budget:,.0f} MB",
        (seconds[-1], 0),
        xytext=(-6, 8),
        textcoords="offset points",
        ha="right",
        color=_BUDGET,
    )
    below.set_title("in RAM, enlarged (all processes and the daemon)", loc="left", fontsize=10)
    below.set_ylim(0, 1.2 * max(budget, *resident))
    below.set_xlabel("seconds")
    for axes in (above, below):
        axes.set_ylabel("MB")
        axes.set_xlim(0, seconds[-1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda amount, _: f"{amount:,.0f}"))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    above.set_ylim(0)
    if outcome.synthetic:
        above.text(
            0.02,
            0.7,
            "SYNTHETIC text",
            transform=above.transAxes,
            color=_BUDGET,
            fontweight="bold",
        )
    figure.savefig(path, dpi=140)


def _title(outcome: Outcome) -> str:
    record = outcome.record
    ssd = f" and {record['cold_bytes'] / MB:,.0f} MB of SSD" if outcome.plan.cold else ""
    return (
        f"{record['agents']} agents hold {record['logical_bytes'] / MB:,.0f} MB"
        f" in {record['resident_bytes_peak'] / MB:,.0f} MB of RAM{ssd}"
    )
