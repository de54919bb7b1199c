"""One line per image in a file that survives every interruption, and the division of the images over processes."""

from lbp.results.file import ResultsError, ResultsFile, read_lines, read_records
from lbp.results.run import existing_files, run_images

__all__ = ["ResultsError", "ResultsFile", "existing_files", "read_lines", "read_records", "run_images"]
