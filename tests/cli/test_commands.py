"""Every command on a small shop: what it prints, as text and as JSON."""
from __future__ import annotations
from pathlib import Path
from conftest import settings  # noqa
def test_x(trained: Path, mmfed) -> None:
    for args in (["evaluate","demo"],["audit","demo"],["recommend","demo","--user","u03"],["report","plain"]):
        r = mmfed(*args); print(args, r.code); print(r.out); print(r.err)
