"""Probes: estimators in scikit-learn's manner and what they tell, in bits. Loads no language-model library."""

from .information import group_folds, null_log_p, v_information
from .ridge import RidgeProbe

__all__ = ["RidgeProbe", "group_folds", "null_log_p", "v_information"]
