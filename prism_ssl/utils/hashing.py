"""Stable hashes: the same on every machine, Python version and run."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def shard_worker(scan_id: str, n_workers: int) -> int:
    """Which of ``n_workers`` pool actors owns a scan (guide, section 6.3)."""
    return int(hashlib.sha256(scan_id.encode()).hexdigest(), 16) % n_workers


def short_id(*parts: str, length: int = 16) -> str:
    """A hex id of ``length`` characters from the parts; parts are length-prefixed, so ("ab","c") != ("a","bc")."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def stable_int(*parts: str | int) -> int:
    """A non-negative 63-bit integer from the parts."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def content_hash(value: Any) -> str:
    """A 16-character hash of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
