"""``captum-dexar app``: what it says before it serves anything."""

import socket
import sys

import pytest
from captum_dexar.cli import main


def test_without_gradio_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--model", "nothing/that/exists"]) == 2
    error = capsys.readouterr().err
    assert 'pip install "captum-dexar[app]"' in error and "Traceback" not in error


@pytest.mark.parametrize("port", ["-1", "65536", "many"])
def test_ports_are_checked(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["app", "--port", port])
    assert stop.value.code == 2 and "--port" in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the extra app, Gradio, is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["app", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in error and "another --port" in error
