"""The tests. While they run, a thread of torch that waits for another sleeps: its core is for the tests beside it."""

import os

os.environ["OMP_WAIT_POLICY"] = "passive"  # read when torch is imported, here and in what is started; no number changes
