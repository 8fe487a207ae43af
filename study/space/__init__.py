"""The grammar of the search space: names, ranges, scales and conditions, as plain data.

One parameter is one line: ``loss.gamma: {float: [0.5, 5.0], scale: log, when: {loss.name: focal}}``. Whether a path
exists and takes such values is the business of ``study.config``; this package knows the grammar alone.
"""

from study.space.grammar import check_space, parse_space
from study.space.nodes import (
    NUMBERS,
    Branch,
    Condition,
    Fault,
    Scalar,
    SearchSpace,
    SpaceNode,
    can_be,
    params_of,
    plain,
    providers,
    same,
    takes,
    values_at,
)
from study.space.sizes import UnitPoint, cells, count, finite_values, grid_turn, num_values
from study.space.walking import SpaceRow, Suggest, active_nodes, describe, is_active, value_in, walk

__all__ = [
    "NUMBERS",
    "Branch",
    "Condition",
    "Fault",
    "Scalar",
    "SearchSpace",
    "SpaceNode",
    "SpaceRow",
    "Suggest",
    "UnitPoint",
    "active_nodes",
    "can_be",
    "cells",
    "check_space",
    "count",
    "describe",
    "finite_values",
    "grid_turn",
    "is_active",
    "num_values",
    "params_of",
    "parse_space",
    "plain",
    "providers",
    "same",
    "takes",
    "value_in",
    "values_at",
    "walk",
]
