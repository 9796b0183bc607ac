"""How often the tests of faults try each; the table of docs/reliability.md has these counts."""

import os

KILLS = int(os.environ.get("FAULT_KILLS", "20"))  # of a run alone, and of one of two processes
SOAK_SECONDS = 60 * float(os.environ.get("FAULT_SOAK_MINUTES", "10"))
POISONED_RUNS = 5
SEED = int(os.environ.get("FAULT_SEED", "0"))  # of when and whom a fault strikes
