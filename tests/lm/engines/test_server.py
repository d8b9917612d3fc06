"""A server is started with its run, ends with it, and says why it could not start."""

import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from tercet.errors import FailedError, InputError
from tercet.lm.engines.server import started, words_of

SCRIPT = """
import http.server, os, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        text = '{"words": "%s", "dev": "%s"}' % (" ".join(sys.argv[1:]), os.environ["VLLM_SERVER_DEV_MODE"])
        self.wfile.write(text.encode())
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def test_a_server_runs_until_its_run_ends(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SCRIPT)
    command = f"{sys.executable} {tmp_path / 'server.py'} serve --mine 'a b'"
    with started(command, Path("MODEL"), ["--ours"], tmp_path / "log") as client:
        found = client.get("/health")
        port = client.url.rpartition(":")[2]
        assert found == {"words": f"serve MODEL --mine a b --ours --host 127.0.0.1 --port {port}", "dev": "1"}
    with pytest.raises(URLError):
        urllib.request.urlopen(client.url, timeout=5)


def test_a_server_that_ends_while_it_starts_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'print(\"no memory for the cache\"); raise SystemExit(4)'"
    with (
        pytest.raises(FailedError, match=r"while it started \(exit code 4\); the log .*\n  no memory for the cache"),
        started(command, Path("MODEL"), [], tmp_path / "log"),
    ):
        pass


@pytest.mark.parametrize(("command", "fault"), [("no-such-program serve", "no such program"), ("vllm 'a", "quot")])
def test_a_command_that_starts_nothing_is_an_input_error(command: str, fault: str) -> None:
    with pytest.raises(InputError, match=rf"ppo\.engine_command=.*{fault}"):
        words_of(command)
