"""Ray's dashboard of a run outside a job: for who has the token, and on this machine only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CODE = """
import os, sys, urllib.error, urllib.request
from pathlib import Path
import psutil
from prism_ssl.utils.ray_cluster.session import dashboard_words, ray_environment, ray_session

def status(headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(f"http://{address}/api/version", headers=headers)).status
    except urllib.error.HTTPError as error:
        return error.code

root = Path(sys.argv[1])
with ray_environment(root), ray_session(1, 2**27, root, dashboard=True) as address:
    words = dashboard_words(address)
    token = Path(words.rpartition("cat ")[2])
    port = int(address.rpartition(":")[2])
    hosts = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    print(words.startswith(f"Ray dashboard: http://{address}, "), hosts, oct(token.stat().st_mode & 0o777))
    print(status({}), status({"Authorization": f"Bearer {token.read_text()}"}))
print(token.exists())
"""


def test_the_dashboard_answers_on_the_loopback_to_who_has_the_token(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert told.stdout.splitlines() == ["True {'127.0.0.1'} 0o600", "401 200", "False"], told.stderr
