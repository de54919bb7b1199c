"""The sub-commands of `lbp`, one file each."""
