"""`make deploy` without a server: said at once, in our words."""

from __future__ import annotations

import pytest

from deployments.register import require_server


def test_a_server_that_is_not_there_is_named_before_anything_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.preflight.SERVER_ATTEMPTS", 1)
    with pytest.raises(SystemExit, match=r"got nothing from http://127.0.0.1:9/api, .* Start it w"):
        require_server("http://127.0.0.1:9/api")
    with pytest.raises(SystemExit, match=r"got '127.0.0.1:4200/api', expected one such as http:"):
        require_server("127.0.0.1:4200/api")
    with pytest.raises(SystemExit, match="got no PREFECT_API_URL, expected that of a Prefect serv"):
        require_server(None)
