"""Samplers for Optuna: the one that knows the costs, and its parts."""

from sret_nas.samplers.known_cost import KnownCostSampler

__all__ = ["KnownCostSampler"]
