"""The grammar of the search space: names, ranges, scales and conditions, as plain data.

One parameter is one line: ``loss.gamma: {float: [0.5, 5.0], scale: log, when: {loss.name: focal}}``. Whether a path
exists and takes such values is the business of ``study.config``; this package knows the grammar alone.
"""

from study.space.grammar import check_space, parse_space
from study.space.nodes import Condition, Fault, Scalar, SearchSpace, SpaceNode, same, takes
from study.space.walking import SpaceRow, Suggest, describe, is_active, walk

__all__ = [
    "Condition",
    "Fault",
    "Scalar",
    "SearchSpace",
    "SpaceNode",
    "SpaceRow",
    "Suggest",
    "check_space",
    "describe",
    "is_active",
    "parse_space",
    "same",
    "takes",
    "walk",
]
