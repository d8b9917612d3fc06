"""The page of an update over HTTP: which requests reach the explainer, and which are refused."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.web.conftest import answering, call

from tercet.errors import InputError
from tercet.web.inspect_page import app


class Repeats:
    """An explainer that tells what it was asked."""

    def about(self) -> dict[str, Any]:
        return {"updates": ["ppo 1"]}

    def update(self, name: str, epoch: int | None, settings: Mapping[str, float]) -> dict[str, Any]:
        if name != "ppo 1":
            raise InputError(f"update {name!r}")
        return {"name": name, "epoch": epoch, "settings": settings}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with answering(app(Repeats(), "127.0.0.1", debug=True)) as port:
        yield port


def test_the_page_loads_nothing_from_other_sites(port: int) -> None:
    status, page, headers = call(port, "GET", "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert b"https://" not in page and page.count(b"http://") == 1  # the name space of SVG
    assert call(port, "GET", "/about")[1] == {"updates": ["ppo 1"]}


@pytest.mark.parametrize("epoch", [None, 0, 3])
def test_an_update_is_explained_with_the_settings_of_the_page(port: int, epoch: int | None) -> None:
    body = {"update": "ppo 1", "epoch": epoch, "settings": {"gamma": 1, "lam": 0.5, "kl_coef": 0}}
    status, found, _ = call(port, "POST", "/update", body)
    assert (status, found) == (200, {"name": "ppo 1", "epoch": epoch, "settings": body["settings"]})


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"update": "ppo 2"}, 404),
        ({"update": 1}, 400),
        ({"update": None}, 400),
        ({"epoch": "0"}, 400),
        ({"epoch": True}, 400),
        ({"settings": []}, 400),
        ({"settings": {"gamma": 1.5}}, 400),
        ({"settings": {"lam": -0.1}}, 400),
        ({"settings": {"kl_coef": "1"}}, 400),
        ({"settings": {"clip_range": True}}, 400),
        ({"settings": {"seed": 1}}, 400),
        ({"settings": {"kl_coef": 10**400}}, 400),
    ],
)
def test_other_requests_are_refused(port: int, changes: dict[str, Any], status: int) -> None:
    found, reply, _ = call(port, "POST", "/update", {"update": "ppo 1", "epoch": 0, "settings": {}} | changes)
    assert (found, bool(reply["error"])) == (status, True)


def test_only_the_page_itself_needs_no_key() -> None:
    with answering(app(Repeats(), "127.0.0.1", key="secret")) as port:
        assert [call(port, "GET", path)[0] for path in ("/", "/about")] == [200, 401]
        assert call(port, "GET", "/about", Authorization="Bearer secret")[0] == 200


def test_pictures_are_those_of_a_row_and_only_an_arm_has_them() -> None:
    class Filmed(Repeats):
        def pictures(self, name: str, row: int) -> list[str]:
            if row > 1:
                raise InputError(f"row {row}: update {name} shows rows 0 to 1")
            return [f"data:,{row}"]

    with answering(app(Filmed(), "127.0.0.1")) as port:
        assert call(port, "POST", "/pictures", {"update": "ppo 1", "row": 1})[1] == {"pictures": ["data:,1"]}
        assert call(port, "POST", "/pictures", {"update": "ppo 1", "row": 2})[0] == 404
        for body in ({"update": "ppo 1"}, {"update": 1, "row": 0}, {"update": "ppo 1", "row": True}):
            assert call(port, "POST", "/pictures", body)[0] == 400
    with answering(app(Repeats(), "127.0.0.1")) as port:
        assert call(port, "POST", "/pictures", {"update": "ppo 1", "row": 1})[0] == 400
