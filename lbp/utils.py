"""Names that scripts written for auto_LiRPA import from its `utils`."""

import logging

from lbp.specification import Flatten, get_spec_matrix

__all__ = ["Flatten", "get_spec_matrix", "logger"]

logger = logging.getLogger("lbp")
"""The package's logger, without handlers of its own: the application decides where messages go."""
