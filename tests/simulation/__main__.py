"""Many schedules, one for each integer; a failing one is printed with the command that replays it.

python -m tests.simulation N [first seed] [processes]
python -m tests.simulation -v SEED          one schedule, with everything that happened
"""

from __future__ import annotations

import sys

from tests.simulation import campaign

if __name__ == "__main__":
    raise SystemExit(campaign.main(sys.argv[1:]))
