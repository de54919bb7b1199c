"""`python -m lbp` is the command `lbp`."""

from lbp.cli import main

main()
