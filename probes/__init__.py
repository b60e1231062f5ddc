"""Probes: estimators in scikit-learn's manner and what they tell, in bits. Loads no language-model library."""

from .information import group_folds, null_log_p, v_information
from .logistic import LogisticProbe
from .ridge import RidgeProbe, RidgeRegressor

__all__ = ["LogisticProbe", "RidgeProbe", "RidgeRegressor", "group_folds", "null_log_p", "v_information"]
