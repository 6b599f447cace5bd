"""Wait until the cluster of RAY_ADDRESS has so many nodes: ``... wait_for_nodes NODES SECONDS``; exit code 1 if not."""

from __future__ import annotations

import logging
import sys
import time

import ray

_POLL_S = 0.5


def main(nodes: int, limit_s: float) -> int:
    """0 once that many nodes live, 1 when they do not within ``limit_s``."""
    give_up = time.monotonic() + limit_s
    ray.init(log_to_driver=False, logging_level=logging.WARNING)
    while sum(node["Alive"] for node in ray.nodes()) < nodes:
        if time.monotonic() >= give_up:
            return 1
        time.sleep(_POLL_S)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
