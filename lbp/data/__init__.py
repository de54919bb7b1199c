"""Image data sets, read from local files without executing anything in them."""

from lbp.data.dataset import DataError, Dataset
from lbp.data.load import DATASETS, load, plain_name

__all__ = ["DATASETS", "DataError", "Dataset", "load", "plain_name"]
