"""How results with several variables are drawn: which of them share a pair of axes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Variables of a result that are drawn on one pair of axes.

    Parameters
    ----------
    variables : tuple of str
        Their names; those a result lacks are left out.
    title : str
        Over the panel.
    about : str
        What is seen, in a sentence or two.
    faint : tuple of str
        Those that stand back.
    noisy : bool
        Neighbouring steps differ much: a page draws their mean, and each of them faintly.
    log_y : bool
        Whether the axis is logarithmic.
    percent : bool
        Shares, written per cent.
    if_varied : bool
        Left out of pages where nothing ever changes.
    """

    variables: tuple[str, ...]
    title: str
    about: str = ""
    faint: tuple[str, ...] = ()
    noisy: bool = False
    log_y: bool = False
    percent: bool = False
    if_varied: bool = False


TELEMETRY: tuple[Panel, ...] = (
    Panel(
        variables=("eval_accuracy", "batch_accuracy"),
        title="Accuracy",
        about="On the test set and, faint, on the mini-batch of each update.",
        faint=("batch_accuracy",),
        percent=True,
    ),
    Panel(
        variables=("eval_loss", "loss"),
        title="Loss",
        about="On the test set and, faint, on the mini-batch of each update.",
        faint=("loss",),
    ),
    Panel(
        variables=("gradient_norm",),
        title="Gradient norm",
        about="L2 norm of the mini-batch gradient of the update that led to each step.",
        log_y=True,
        noisy=True,
    ),
    Panel(
        variables=("gradient_mean_abs",),
        title="Gradient, mean absolute value",
        about="Mean |g| of the same gradient over the selected weights.",
        log_y=True,
        noisy=True,
    ),
    Panel(
        variables=("weight_distance_init", "weight_distance_final"),
        title="Distance from the first and the last weights",
        about="Euclidean distance ‖w − r‖₂ of the weights from those of step 0 and from the last.",
    ),
    Panel(
        variables=("cosine_init", "cosine_final"),
        title="Direction",
        about="Cosine of the angle between the weights and the first and the last ones.",
    ),
    Panel(
        variables=("sign_flips_init", "sign_flips_final"),
        title="Signs that differ from the first and the last",
        about="Share of weights whose sign is opposite to the one at step 0, and at the end.",
        percent=True,
    ),
    Panel(
        variables=("sign_flips_previous",),
        title="Signs flipped since the previous step",
        about="Share of weights whose sign is opposite to the one at the previous recorded step.",
        percent=True,
        noisy=True,
    ),
    Panel(
        variables=("weight_change",),
        title="Distance moved since the previous step",
        about="Euclidean distance from the weights at the previous recorded step.",
        log_y=True,
        noisy=True,
    ),
    Panel(
        variables=("relative_change",),
        title="Relative change since the previous step",
        about="‖Δw‖ / ‖w‖ since the previous recorded step.",
        log_y=True,
        noisy=True,
    ),
    Panel(
        variables=("weight_magnitude",),
        title="Mean absolute weight",
        about="Mean |w| over the selected weights.",
    ),
    Panel(
        variables=("weight_min", "weight_max"),
        title="Smallest and largest weight",
        about="The extremes of the selected weights.",
    ),
    Panel(
        variables=("zeros",),
        title="Weights that are zero",
        about="Share of the selected weights that are exactly zero.",
        percent=True,
        if_varied=True,
    ),
    Panel(
        variables=("lr",),
        title="Learning rate",
        about="Of the optimizer's first parameter group.",
        if_varied=True,
    ),
)
"""The paper's figure 3, and what is had for nothing beside it."""

ALIGNMENT: tuple[Panel, ...] = (
    Panel(
        variables=("update_cosine", "gradient_cosine"),
        title="Direction of the updates",
        about="Cosine of each update with the one before, and with minus its mini-batch gradient.",
        noisy=True,
    ),
    Panel(
        variables=("autocorrelation",),
        title="Autocorrelation of the updates",
        about="Of updates so many recorded steps apart, over all selected steps.",
    ),
)

HESSIAN_SPECTRUM: tuple[Panel, ...] = (
    Panel(
        variables=("eigenvalues",),
        title="Largest Hessian eigenvalues",
        about="Of the training loss on a fixed subset, algebraically largest first; of a "
        "sub-network over its surviving weights.",
    ),
    Panel(
        variables=("sharpness", "two_over_lr", "stability_bound"),
        title="Sharpness",
        about="The largest eigenvalue; 2 / learning rate, beyond which plain gradient descent is "
        "unstable; and the bound of the run's own optimizer, 2 (1 + momentum) / learning rate "
        "(edge of stability).",
    ),
)

GGN_SPECTRUM: tuple[Panel, ...] = (
    Panel(
        variables=("eigenvalues",),
        title="Largest eigenvalues of the Gauss-Newton matrix",
        about="On a fixed subset of the training examples; of a sub-network over its surviving "
        "weights.",
    ),
)

LEARNING_COEFFICIENT: tuple[Panel, ...] = (
    Panel(
        variables=("learning_coefficient", "by_chain"),
        title="Local learning coefficient",
        about="From the rise of the loss around each snapshot; faint, each chain.",
        faint=("by_chain",),
    ),
)

DENSITY: tuple[Panel, ...] = (
    Panel(
        variables=("density",),
        title="Spectral density of the Hessian",
        about="Share of eigenvalues near each value, a curve for each step.",
        log_y=True,
    ),
)

GRADIENT_SUBSPACE: tuple[Panel, ...] = (
    Panel(
        variables=("gradient_share",),
        title="Gradient within the top Hessian subspace",
        about="Share of the squared gradient that lies in the span of the top eigenvectors.",
        percent=True,
    ),
    Panel(
        variables=("overlap_previous", "overlap_last"),
        title="How the top subspace turns",
        about="Overlap of the span of the top eigenvectors with the previous and with the last "
        "one; 1 is the same subspace.",
    ),
)
