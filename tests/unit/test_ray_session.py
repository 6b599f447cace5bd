from __future__ import annotations

import socket

import pytest

from prism_ssl.errors import ClusterUnreachable
from prism_ssl.utils.ray_session import refuse_dead_head


def test_a_head_that_is_gone_is_named_at_once_and_one_that_listens_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        refuse_dead_head(address)
    with pytest.raises(ClusterUnreachable, match=rf"RAY_ADDRESS is {address} and no Ray head answers there .*unset"):
        refuse_dead_head(address)


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1"])
def test_addresses_that_ray_looks_up_itself_are_left_to_it(address: str) -> None:
    refuse_dead_head(address)
