"""Figures for reports."""

from matplotlib.figure import Figure


def new_figure(title, xlabel, ylabel):
    """Return (figure, axes) that need no display."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes
