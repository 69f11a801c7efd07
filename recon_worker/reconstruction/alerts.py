"""Alerts on the reconstructions of a run, computed from their metrics: not finite, collapsed, or no longer better."""

from collections.abc import Iterator, Mapping

_WATCHED = {
    "recon/stitched/phase_ssim": 0.2,
    "recon/stitched/frc_cutoff_half": 0.2,  # cycles/px: it halves where the smallest resolved detail doubles
    "recon/patches/r_factor": 0.2,
}
"""Metrics that are compared with their best value, the most meaningful first, and a floor for each. A collapse is a
fall by half from at least the floor or, of the R-factor, a doubling to at least the floor: smaller values vary by
chance."""
_LOWER_IS_BETTER = frozenset({"recon/patches/r_factor"})
_OF_TRUTH = ("/phase_mae_rad", "/phase_ssim", "/frc_cutoff_half")
"""Ends of the names of metrics that need a ground truth."""
STAGNATION_EPOCHS = 10
"""Logged epochs without a better reconstruction after which a training run stagnates."""


def alerts(history: Mapping[int, Mapping[str, float]]) -> dict[int, str]:
    """Return the alerts of a run, by epoch. Each kind of alert is given once, at its first occurrence.

    Args:
        history: Metrics of each logged epoch, by their names in MLflow, without values that are not finite. Epoch 0,
            the untrained network, is ignored.
    """
    found: dict[str, tuple[int, str]] = {}
    best: dict[str, tuple[int, float]] = {}
    epochs = sorted(epoch for epoch in history if epoch > 0)
    has_truth = any(name.endswith(_OF_TRUTH) for metrics in history.values() for name in metrics)
    # The R-factor of a noisy pattern rises while the object improves.
    watched = [name for name in _WATCHED if not (has_truth and name in _LOWER_IS_BETTER)]
    for number, epoch in enumerate(epochs):
        metrics = history[epoch]
        for kind, text in (*_of_one(metrics), *_compared(metrics, best)):
            found.setdefault(kind, (epoch, text))
        for name in metrics.keys() & watched:
            if name not in best or _is_better(name, metrics[name], best[name][1]):
                best[name] = epoch, metrics[name]
        leading = next((name for name in watched if name in best), None)
        if leading is not None and number - epochs.index(best[leading][0]) >= STAGNATION_EPOCHS:
            since = f"since epoch {best[leading][0]} ({leading} {best[leading][1]:.3g})"
            text = f"no better reconstruction for {STAGNATION_EPOCHS} logged epochs, {since}"
            found.setdefault("stagnation", (epoch, text))
    texts: dict[int, list[str]] = {}
    for epoch, text in found.values():
        texts.setdefault(epoch, []).append(text)
    return {epoch: ", ".join(texts[epoch]) for epoch in sorted(texts)}


def _of_one(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Yield the alerts, as (kind, text), that need no other epoch."""
    shares = {name: value for name, value in metrics.items() if name.endswith("/finite_share")}
    worst = min(shares, key=lambda name: shares[name], default=None)
    if worst is not None and shares[worst] < 1:
        yield "not finite", f"NaN or infinite values in {100 * (1 - shares[worst]):.2g} % of the prediction ({worst})"


def _compared(metrics: Mapping[str, float], best: Mapping[str, tuple[int, float]]) -> Iterator[tuple[str, str]]:
    """Yield the alert of a collapse against the best earlier epochs, given by metric as (epoch, value)."""
    for name, floor in _WATCHED.items():
        if name not in metrics or name not in best:
            continue
        value, (epoch, earlier) = metrics[name], best[name]
        if name in _LOWER_IS_BETTER and value >= max(2 * earlier, floor):
            yield "collapse", f"{name} rose from {earlier:.3g} (epoch {epoch}) to {value:.3g}"
        elif name not in _LOWER_IS_BETTER and earlier >= floor and value <= earlier / 2:
            yield "collapse", f"{name} fell from {earlier:.3g} (epoch {epoch}) to {value:.3g}"


def _is_better(name: str, value: float, than: float) -> bool:
    return value < than if name in _LOWER_IS_BETTER else value > than
