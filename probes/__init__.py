"""Probes: estimators in scikit-learn's manner, what they tell in bits, subspaces. Loads no language-model library."""

from .calibration import Calibration, calibration
from .circular import CircularProbe
from .codelength import Codelength, online_codelength
from .conditional import conditional_v_information
from .controls import Selectivity, control_labels, selectivity, shuffled
from .erasure import LeaceEraser
from .estimate import Estimate
from .held_out import HeldOut, held_out, v_information
from .information import fold_numbers, group_folds, null_log_p, pointwise_v_information
from .logistic import LogisticProbe
from .lowrank import LowRankProbe
from .means import DiscriminantProbe, MeanDifferenceProbe
from .mlp import MLPProbe
from .ridge import RidgeProbe, RidgeRegressor
from .subspace import orthonormal, overlap, principal_angles, project, random_subspace, remove, swap
from .sweep import Sweep, sweep

__all__ = [
    "Calibration",
    "CircularProbe",
    "Codelength",
    "DiscriminantProbe",
    "Estimate",
    "HeldOut",
    "LeaceEraser",
    "LogisticProbe",
    "LowRankProbe",
    "MLPProbe",
    "MeanDifferenceProbe",
    "RidgeProbe",
    "RidgeRegressor",
    "Selectivity",
    "Sweep",
    "calibration",
    "conditional_v_information",
    "control_labels",
    "fold_numbers",
    "group_folds",
    "held_out",
    "null_log_p",
    "online_codelength",
    "orthonormal",
    "overlap",
    "pointwise_v_information",
    "principal_angles",
    "project",
    "random_subspace",
    "remove",
    "selectivity",
    "shuffled",
    "swap",
    "sweep",
    "v_information",
]
