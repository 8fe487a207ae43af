"""Distributed hyperparameter studies for ordinal, imbalanced, multi-source medical images."""

__version__ = "0.1.0"
