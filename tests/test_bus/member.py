"""A member of a group in a process of its own: prints what it owns, and polls until it is killed.

Run as ``python -m tests.test_bus.member KIND ADDRESS PREFIX``.
"""

from __future__ import annotations

import json
import sys

from tests.test_bus.conftest import PARTITIONS, Member, open_log


def main() -> None:
    """Join and poll for ever."""
    bus = open_log(*sys.argv[1:4])
    member = Member(bus)
    shown = 0
    while True:
        member.poll(0.2)
        owned = sorted(member.consumer.assignment())
        if len(owned) == PARTITIONS and not shown:
            print(json.dumps(owned), flush=True)
            shown = 1


if __name__ == "__main__":
    main()
