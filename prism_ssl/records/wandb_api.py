"""Open the W&B API client (``wandb.Api``), with its errors as ``TrackingError``."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import settled
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.wandb_client import client_errors, load_client

WITHOUT_W_AND_B = "pass --tracking.mode offline (or disabled) to train without it"
"""End of an error text: how to train without W&B."""


def has_key(config: PrismConfig) -> bool:
    """Whether the client finds a W&B key on this machine; does not prompt, and contacts no server."""
    return bool(load_client(temporary_root(config.run.tmp_root)).login(prompt=False, verify=False))


def open_api(config: PrismConfig) -> Any:
    """The API client (``wandb.Api``) with timeout ``tracking.init_timeout_s``; raises ``TrackingError``."""
    tracking = settled(config.tracking)
    overrides = {"project": tracking.project} | ({"entity": tracking.entity} if tracking.entity else {})
    wandb = load_client(temporary_root(config.run.tmp_root))
    with service_errors():
        return wandb.Api(overrides, timeout=max(1, round(config.tracking.init_timeout_s)))


def service_errors(otherwise: str = WITHOUT_W_AND_B) -> AbstractContextManager[None]:
    """Turn the client's errors in the block into a ``TrackingError``; its text ends with ``otherwise``, the way without
    W&B."""
    return client_errors(otherwise)
