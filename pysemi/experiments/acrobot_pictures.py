"""Pictures of the double pendulum under control, in the form of the paper's Figures 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pysemi.experiments.acrobot_control import SwingUp
from pysemi.experiments.data.acrobot import LENGTH
from pysemi.experiments.experiment import Run
from pysemi.experiments.figure import COLOURS, new_figure, new_grid, to_png
from pysemi.experiments.section import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["acrobot_pictures", "evolution_figure", "frames_figure"]

FRAMES = 10
BETWEEN = 10
"""Observations from one frame to the next: half a second."""

SPACING = 2.3 * LENGTH
"""From one frame's pivot to the next one's, m."""

VIEW = 2 * LENGTH + 0.2
"""From a pivot to the top, m."""


def acrobot_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Frames and evolution of one swing: of the seminorm's first seed, as in the paper."""
    run = min(runs, key=lambda run: (run.row["arm"] != "seminorm", run.row["seed"]))
    swing = SwingUp(**run.directory.exhibits())
    shown = (
        f"By the model of arm {run.row['arm']}, seed {run.row['seed']}, from hanging straight "
        f"down. {_outcome(swing)}"
    )
    return [
        Picture(
            "frames",
            "The double pendulum is swung up",
            f"In the form of the paper's Figure 2. {shown} In grey, the way of its tip since the "
            "frame before; dotted, how high it can be.",
            frames_figure(swing),
        ),
        Picture(
            "evolution",
            "Angles, velocities and torques while it is swung up",
            f"In the form of the paper's Figure 3; q₁ is the first joint's angle, q₂ the second's. "
            f"{shown}",
            evolution_figure(swing),
        ),
    ]


def _outcome(swing: SwingUp) -> str:
    if swing.settled is None:
        return f"It is not upright at the end, after {swing.t[-1]:.0f} s."
    return f"It is upright, with both angles within 0.1 rad, from {swing.settled:.1f} s on."


def frames_figure(swing: SwingUp) -> bytes:
    """The pendulum every half second (Figure 2), as PNG."""
    elbow = LENGTH * _direction(swing.q[:, 0])
    tip = elbow + LENGTH * _direction(swing.q.sum(axis=1))
    figure, (axes,) = new_figure(1, height=1.9, subplot_kw={"aspect": "equal"})
    axes.axhline(2 * LENGTH, color="0.6", linewidth=0.8, linestyle=":")
    for frame, index in enumerate(range(0, len(swing.t), BETWEEN)[:FRAMES]):
        pivot = np.array([frame * SPACING, 0.0])
        way = pivot + tip[max(0, index - BETWEEN) : index + 1]
        axes.plot(*way.T, color="0.6", linewidth=1)
        joints = pivot + np.stack([np.zeros(2), elbow[index], tip[index]])
        for rod, colour in zip((joints[:2], joints[1:]), COLOURS, strict=False):
            axes.plot(*rod.T, color=colour, linewidth=4, solid_capstyle="round")
        axes.plot(*joints[:2].T, "o", color="white", markeredgecolor="black", markersize=4.5)
        axes.text(pivot[0], -VIEW, f"{swing.t[index]:.1f} s", ha="center", va="top")
    axes.set(xlim=(-VIEW / 2, (FRAMES - 1) * SPACING + VIEW / 2), ylim=(-VIEW - 0.4, VIEW))
    axes.set_axis_off()
    return to_png(figure)


def evolution_figure(swing: SwingUp) -> bytes:
    """Angles, velocities and torques over time (Figure 3), as PNG."""
    figure, grid = new_grid(2, 3, height=1.9, sharex=True)
    for joint, (angle, velocity, torque) in enumerate(grid):
        name = "₁₂"[joint]
        _over_time(angle, swing, np.cos(swing.q[:, joint]), f"cos q{name}", linestyle="--")
        _over_time(angle, swing, np.sin(swing.q[:, joint]), f"sin q{name}", colour=COLOURS[0])
        angle.set(ylabel=f"q{name}", ylim=(-1.15, 1.15))
        # Upright, cos q₁ is -1 and cos q₂ is 1.
        angle.legend(frameon=False, fontsize=8, loc=("upper right", "lower right")[joint])
        _over_time(velocity, swing, swing.velocity[:, joint])
        velocity.set_ylabel(f"q{name}′ (rad/s)")
        _over_time(torque, swing, swing.torque[:, joint], drawstyle="steps-post")
        torque.set_ylabel(f"u{name} (N m)")
    for axes in grid[-1]:
        axes.set(xlabel="t (s)", xlim=(0, swing.t[-1]))
    return to_png(figure)


def _over_time(
    axes: Axes,
    swing: SwingUp,
    values: NDArray[np.float64],
    label: str = "",
    *,
    colour: str = COLOURS[1],
    linestyle: str = "-",
    drawstyle: str = "default",
) -> None:
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.plot(swing.t, values, label=label, color=colour, linestyle=linestyle, drawstyle=drawstyle)


def _direction(
    angle: NDArray[np.float64],
) -> NDArray[np.float64]:
    # From the vertical downwards, to the right.
    return np.stack([np.sin(angle), -np.cos(angle)], axis=-1)
