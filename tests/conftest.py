"""What holds for the whole suite."""

import os

# Threads that wait for work sleep, which has to be said before torch is imported. By default they spin, and where
# another program wants the processor too, operations on small tensors then take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
