"""The loss curve as a PNG. Knows losses and matplotlib, and opens no window."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loradock_adapters.training.losses import Losses
from loradock_adapters.training.smoothing import smooth


def plot_losses(losses: Losses, path: Path, *, title: str) -> None:
    """Draw train loss (each step, and smoothed) and held-out loss against optimiser steps."""
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: no global state, no display
    axes = figure.add_subplot()
    steps = [point.step for point in losses.train]
    axes.plot(steps, [p.loss for p in losses.train], color="#9bb8d3", linewidth=0.8, label="train, each step")
    axes.plot(steps, smooth([p.loss for p in losses.train]), color="#1f5f99", linewidth=1.8, label="train, smoothed")
    if losses.held_out:
        axes.plot(
            [point.step for point in losses.held_out],
            [point.loss for point in losses.held_out],
            color="#c4501b",
            marker="o",
            markersize=4,
            label="held out",
        )
    axes.set(title=title, xlabel="optimiser step", ylabel="loss per answer token (nats)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    # Without the creation date and version, so that equal losses give equal bytes.
    figure.savefig(path, metadata={"Software": None})
