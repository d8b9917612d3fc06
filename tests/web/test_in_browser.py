"""The pages in a real browser: pip install playwright, and Debian's chromium."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from tests.web.conftest import answering
from typer.testing import CliRunner

from tercet.arm.explain import Inspection as OfArm
from tercet.arm.play.video import encode
from tercet.cli import app as command_line
from tercet.feedback.answers import read_answers
from tercet.feedback.sheets import Kind, write_sheet
from tercet.lm.explain import Inspection
from tercet.lm.serving.engine import Engine
from tercet.runs.folder import RunFolder
from tercet.web import chat_page, inspect_page, label_page
from tercet.web.label import Desk
from tercet.web.server import listening

pytestmark = pytest.mark.slow
HOSTILE = "<b>Hi</b><script>document.title='broken'</script> مرحبا 你好"
SECONDS = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open an address in a new page; an error in the page's script fails the test."""
    errors: list[str] = []

    def open_page(address: str, **options: Any) -> Any:
        page = browser.new_page(**options)
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    assert errors == []


def wait_for(page: Any, selector: str, num: int) -> None:
    """Wait until that many elements are there."""
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(page.locator(selector)).to_have_count(num, timeout=SECONDS)


def say(page: Any, text: str, num: int = 2) -> None:
    page.fill("#text", text)
    page.keyboard.press("Enter")
    wait_for(page, ".turn:last-child .score", num)
    texts = page.locator(".turn:last-child .answer .text")
    while num > 1 and len(set(texts.all_inner_texts())) == 1:  # the same by chance: there is no better one
        page.locator(".turn:last-child button", has_text="Again").nth(1).click()
        wait_for(page, ".busy", 0)
        wait_for(page, ".turn:last-child .score", num)


def test_chat(engine: Engine, tmp_path: Path, open_page: Any) -> None:
    pairs = tmp_path / "feedback" / "chat.jsonl"
    with answering(chat_page.app(engine, tmp_path, "127.0.0.1")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=en", color_scheme="dark")
        page.fill("#longest", "12")
        say(page, HOSTILE)
        assert page.locator(".said").inner_text() == HOSTILE  # text, not HTML
        assert page.title().startswith("Chat")
        assert page.locator("html").get_attribute("data-theme") == "dark"

        page.locator(".prefer").nth(1).click()
        page.wait_for_selector(".better")
        row = json.loads(pairs.read_text())
        answers = page.locator(".answer .text").all_inner_texts()
        assert (row["chosen_stage"], row["prompt"][0]["content"]) == ("sft", HOSTILE)
        assert row["chosen"].split() == answers[1].split()
        say(page, "And why?")  # both go on from the chosen answer
        page.click("#by-token")
        assert page.locator(".turn:last-child .text span").count() > 4
        page.click("h1")
        page.keyboard.press("1")
        wait_for(page, ".better", 2)
        prompt = json.loads(pairs.read_text().splitlines()[1])["prompt"]
        assert [turn["content"] for turn in prompt] == [HOSTILE, row["chosen"], "And why?"]
        page.keyboard.press("1")  # takes it back
        wait_for(page, ".better", 1)
        assert len(pairs.read_text().splitlines()) == 1

        before = page.locator(".turn:last-child .answer").nth(0).inner_text()
        page.locator(".turn:last-child button", has_text="Again").nth(0).click()
        wait_for(page, ".busy", 0)
        assert page.locator(".turn:last-child .answer").nth(0).inner_text() != before
        page.locator("#stages button").nth(1).click()  # sft no longer answers
        say(page, "Only one now", num=1)

        other = open_page(f"http://127.0.0.1:{port}/?lang=zh", viewport={"width": 375, "height": 700})
        assert other.locator("#send").inner_text() == "发送"
        assert other.evaluate("document.documentElement.scrollWidth") <= 375
        other.locator("summary").click()
        other.fill("#longest", "200")
        other.fill("#text", "你好")
        other.click("#send")
        other.wait_for_selector(".busy")
        other.keyboard.press("Escape")
        wait_for(other, ".busy", 0)
        assert "已停止" in other.locator(".answer").nth(0).inner_text()
        for finishes, num in {("stopped", "stopped"): 0, ("stop", "stopped"): 0, ("stop", "length"): 2}.items():
            one, two = ({"text": f"Answer {number}", "finish": finish} for number, finish in enumerate(finishes))
            given = {"base": one, "sft": two}
            other.evaluate(
                "(all) => { for (const name in all) Object.assign(turns[0].answers[name], all[name]); }", given
            )
            other.evaluate("draw()")
            wait_for(other, ".prefer:enabled", num)  # an answer that was broken off is neither better nor worse
    page.fill("#text", "Is anybody there?")  # the server has ended
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .error")
    assert "does not answer" in page.locator(".answer .error").nth(0).inner_text()
    with answering(chat_page.app(engine, tmp_path, "127.0.0.1"), port=port):  # and has started again
        say(page, "And now?", num=1)


def test_a_chat_that_is_too_long_goes_on_without_its_oldest_turns(
    engine: Engine, tmp_path: Path, open_page: Any
) -> None:
    with answering(chat_page.app(engine, tmp_path, "127.0.0.1", key="a/b")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=zh#key=a%2Fb")
        page.fill("#longest", "12")
        say(page, "a" * 120)
        say(page, "b" * 120)  # the model reads 256 bytes
        assert page.locator(".turn:last-child .note").nth(0).inner_text().startswith("最早的几轮")
        page.fill("#longest", "999999")
        page.fill("#text", "c")
        page.click("#send")
        page.wait_for_selector(".answer .error")
        assert "须为 1 到 131072 的整数" in page.locator(".answer .error").nth(0).inner_text()
        other = open_page(f"http://127.0.0.1:{port}/?lang=zh#key=wrong")
        other.get_by_text("请打开命令打印出的地址，其中带有密钥。").wait_for()


def texts(run: Path, name: str, kind: Kind, num: int) -> Path:
    """Write a sheet of texts, hostile ones and empty ones among them."""
    prompt = [{"role": "system", "text": "<i>Be brief.</i>"}, {"role": "user", "text": HOSTILE}]

    def one(number: int) -> dict[str, str]:
        text = f"{HOSTILE} {number}"
        return {"answer": text} if kind == "thumbs" else {"left": text, "right": ""}

    write_sheet(run / "feedback" / name, kind, "", lambda _: [{"prompt": prompt} | one(i) for i in range(num)])
    return run


def label(run: Path, port: int, **options: Any) -> Any:
    """Start the page of `tercet label` as a process."""
    command = [sys.executable, "-m", "tercet", "label", str(run), "--port", str(port), *options.pop("more", ())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "label: http" in process.stdout.readline()
    return process


def test_label(tmp_path: Path, open_page: Any) -> None:
    texts(tmp_path, "asked-1", "answers", 3)
    texts(tmp_path, "asked-2", "thumbs", 2)
    desk = Desk(tmp_path)
    with answering(label_page.app(desk, "127.0.0.1")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=en", color_scheme="dark")
        page.get_by_text("Which one is better?").wait_for()
        assert page.locator("#prompt p").nth(1).inner_text() == f"User\n{HOSTILE}"  # text, not HTML
        assert page.locator("#left-text").inner_text() == f"{HOSTILE} 0"
        assert page.locator("#right-text").inner_text() == "(empty answer)"
        assert page.locator("#right-text.empty").count() == 1
        assert page.locator("html").get_attribute("data-theme") == "dark"
        assert "0 of 5" in page.title()
        page.fill("#who", "Ana")
        page.click("h1")
        page.keyboard.press("1")
        page.get_by_text("1 of 5").wait_for()
        before = dict(desk._shown)
        page.evaluate("keep()")  # what a timer does
        assert desk._shown.keys() == before.keys() and desk._shown != before

        phone = {"width": 375, "height": 700}
        other = open_page(f"http://127.0.0.1:{port}/?lang=zh", viewport=phone, has_touch=True, is_mobile=True)
        other.get_by_text("哪一个更好？").wait_for()
        assert other.locator("#left-text").inner_text() == f"{HOSTILE} 2"  # the first page shows the one before
        assert other.evaluate("document.documentElement.scrollWidth") <= 375
        assert other.locator("#right-text").inner_text() == "（空回答）"
        boxes = [other.locator(f"#{side}-text").bounding_box() for side in ("left", "right")]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]  # one below the other
        assert other.locator("[data-say=left]").inner_text() == "上面更好"
        other.fill("#who", "李雷 <b>")
        other.locator("#who").blur()
        other.locator("[data-say=right]").first.tap()
        other.get_by_text("这个回答好吗？").wait_for()
        other.get_by_role("button", name="不好").tap()
        page.keyboard.press("2")
        page.get_by_text("There is no question for you now.").wait_for()  # the other page shows the last one
        other.locator("[data-say=up]").tap()
        page.get_by_text("All questions are answered.").wait_for()
        assert "李雷 <b>" in page.locator("#people").inner_text()
        for number in (4, 3):
            page.keyboard.press("u")
            page.get_by_text(f"{number} of 5").wait_for()
        assert page.locator("#left-text").inner_text() == f"{HOSTILE} 0"
    desk.close()
    rows = read_answers(tmp_path / "feedback")
    assert [(row["who"], row["said"]) for row in rows] == [("李雷 <b>", word) for word in ("right", "down", "up")]
    assert all(0 < row["seconds"] < 60 for row in rows)


def test_label_with_a_key_shows_videos_and_says_in_chinese_what_is_wrong(tmp_path: Path, open_page: Any) -> None:
    def write(folder: Path) -> list[dict[str, str]]:
        for number, colour in enumerate((40, 200)):
            encode(folder / f"{number}.mp4", [np.full((240, 320, 3), colour, dtype=np.uint8)] * 12)
        return [{"left": "0.mp4", "right": "1.mp4"}, {"left": "1.mp4", "right": "0.mp4"}]

    write_sheet(tmp_path / "feedback" / "asked", "pairs", "Higher is better.", write)
    desk = Desk(tmp_path)
    with answering(label_page.app(desk, "127.0.0.1", key="a/b")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=zh#key=a%2Fb")
        page.wait_for_function("() => document.getElementById('right').currentTime > 0")
        assert page.locator("#left").get_attribute("src").startswith("blob:")
        page.fill("#who", "李雷")
        page.click("h1")
        page.keyboard.press("1")
        page.get_by_text("已回答 1 / 2").wait_for()
        page.wait_for_function("() => document.getElementById('right').currentTime > 0")
        desk.answer({"sheet": "asked", "question": 1, "said": "left", "who": "李雷"})  # in another window
        page.keyboard.press("2")
        page.get_by_text("这个问题你已经回答过了").wait_for()
        for hash in ("", "#key=wrong", "#key=%E9%"):
            other = open_page(f"http://127.0.0.1:{port}/?lang=zh{hash}")
            other.get_by_text("请打开命令打印出的地址，其中带有密钥。").wait_for()
    desk.close()


def test_labels_of_two_people_agree_and_outlive_the_server(tmp_path: Path, open_page: Any) -> None:
    texts(tmp_path, "asked", "answers", 4)
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    process = label(tmp_path, port, more=["--same", "1"])
    pages = {who: open_page(f"http://127.0.0.1:{port}/?lang=en") for who in ("Ana", "Bo")}
    for who, page in pages.items():
        page.get_by_text("Which one is better?").wait_for()
        page.fill("#who", who)
        page.click("h1")
    for number, (first, second) in enumerate(["11", "12", "22"], 1):
        for page, key in zip(pages.values(), (first, second), strict=True):
            page.keyboard.press(key)
            page.get_by_text(f"{number} of 4").wait_for()
    # p_o = 2/3, p_e = 2/3 * 1/3 + 1/3 * 2/3 = 4/9
    pages["Bo"].get_by_text("kappa 0.40, equal in 2 of 3").wait_for()
    process.kill()
    process.communicate()
    pages["Ana"].keyboard.press("1")
    pages["Ana"].get_by_text("The server does not answer").wait_for()
    process = label(tmp_path, port, more=["--same", "1"])
    for who, page in pages.items():
        page.keyboard.press("1")
        page.get_by_text("All questions are answered.").wait_for()
        assert page.locator("#alert").is_hidden(), who
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "all questions are answered: give the run's command again\n"
    assert len(read_answers(tmp_path / "feedback")) == 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the preset tiny up to PPO."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    for step in ("sft", "reward", "ppo"):
        short = ["ppo.num_updates=3", "ppo.eval_every=3", "sft.max_steps=2", "reward.num_sampled_pairs=16"]
        done = CliRunner().invoke(command_line, ["lm", step, "--preset", "tiny", "--out", str(path), *short])
        assert done.exit_code == 0, done.output
    return path


def number(page: Any, name: str) -> float:
    """A number of the table of the token."""
    cell = page.locator("#numbers tr", has=page.get_by_text(name, exact=True)).locator("td").nth(1)
    return float(cell.inner_text().replace("\N{MINUS SIGN}", "-"))


def test_inspect(run: Path, open_page: Any) -> None:
    inspection = Inspection(RunFolder.read(run))
    with answering(inspect_page.app(inspection, "127.0.0.1")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=en", viewport={"width": 1440, "height": 900})
        wait_for(page, ".response", 16)
        last_epoch = inspection.config.ppo.epochs - 1
        assert page.locator("#epoch-now").inner_text() == f"in epoch {last_epoch + 1}"
        expected = inspection.update("ppo 3", last_epoch, {})["rows"]
        wait_for(page, "#metrics td.ok", 17)  # all equal to what training logged
        wait_for(page, "#metrics td.off", 0)
        page.locator(".response").nth(4).locator(".token").nth(2).hover()
        assert number(page, "whitened advantage") == pytest.approx(expected[4]["advantage"][2], abs=6e-5)
        assert number(page, "ratio") == pytest.approx(expected[4]["ratio"][2], abs=6e-5)
        page.click("h1")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        assert number(page, "value") == pytest.approx(expected[5]["value"][3], abs=6e-5)
        page.get_by_role("cell", name="delta", exact=True).hover()
        assert "delta = r + gamma" in page.locator("#formula").inner_text()

        page.locator("#set-lam").fill("0")  # what if
        wait_for(page, ".setting.changed", 1)
        page.wait_for_selector("#metrics td.off")
        assert number(page, "advantage") == number(page, "delta")
        page.click("#reset")
        wait_for(page, "#metrics td.off", 0)
        page.locator("#epoch").fill(str(last_epoch + 1))
        page.get_by_text("A further step on this rollout would").wait_for()
        page.locator("#update").fill("0")
        page.get_by_text("In this update only the critic is trained.").wait_for()
        assert number(page, "value") == pytest.approx(
            inspection.update("ppo 1", None, {})["rows"][5]["value"][3], abs=6e-5
        )
        page.click("#theme")
        assert page.locator("html").get_attribute("data-theme") == "dark"

        other = open_page(f"http://127.0.0.1:{port}/?lang=zh", viewport={"width": 375, "height": 700})
        wait_for(other, ".response", 16)
        with other.expect_popup() as opened:
            other.get_by_role("link", name="重要性比率").click()
        opened.value.wait_for_load_state()
        assert unquote(opened.value.url).endswith("/docs/zh/ppo.md#9-策略模型的损失")
        assert opened.value.evaluate("document.documentElement.scrollWidth") <= 375
        assert other.locator("#reset").inner_text() == "恢复为运行时的设置"
        assert other.evaluate("document.documentElement.scrollWidth") <= 375
    page.locator("#set-lam").fill("0.5")  # the server has ended
    page.get_by_text("The server does not answer").wait_for()
    with answering(inspect_page.app(inspection, "127.0.0.1"), port=port):  # and has started again
        page.click("#reset")
        wait_for(page, "#metrics td.off", 0)
        page.get_by_text("The server does not answer").wait_for(state="hidden")


def test_a_number_of_inspect_leads_to_its_formula_and_back_without_losing_the_place(run: Path, open_page: Any) -> None:
    inspection = Inspection(RunFolder.read(run))
    with answering(inspect_page.app(inspection, "127.0.0.1", key="a/b")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=en#key=a%2Fb", color_scheme="dark")
        wait_for(page, ".response", 16)
        page.locator(".response").nth(4).locator(".token").nth(2).hover()
        before = number(page, "delta")
        with page.expect_popup() as opened:
            page.get_by_role("link", name="delta", exact=True).click()
        formulas = opened.value
        formulas.wait_for_load_state()
        assert formulas.url.endswith("/docs/ppo.md#7-advantages")
        box = formulas.locator("[id='7-advantages']").bounding_box()
        assert -1 <= box["y"] < 60  # in sight
        assert formulas.locator("html").get_attribute("data-theme") == "dark"
        page.get_by_role("link", name="docs/ppo.md#7-advantages").click()  # that of the formula: the same second page
        formulas.get_by_role("link", name="whitened advantage").click()
        page.wait_for_function("() => document.getElementById('formula').innerText.startsWith('whitened advantage')")
        assert number(page, "delta") == before  # the same token
        page.locator("#update").fill("0")  # the key is known still
        page.get_by_text("In this update only the critic is trained.").wait_for()
        formulas.get_by_role("link", name="中文").click()
        formulas.get_by_role(
            "link", name="参考模型的对数概率"
        ).first.click()  # another language: the page is loaded again
        page.get_by_text("逐词元查看一次 PPO 更新").wait_for()
        wait_for(page, ".response", 16)
        page.wait_for_function("() => document.getElementById('formula').innerText.startsWith('参考模型的对数概率')")
        assert len(page.context.pages) == 2


def test_inspect_opens_at_the_last_epoch_that_was_used(tmp_path: Path, open_page: Any) -> None:
    short = ["ppo.num_updates=3", "ppo.eval_every=3", "sft.max_steps=2", "reward.num_sampled_pairs=16", "ppo.epochs=4"]
    for step in ("sft", "reward", "ppo"):
        more = ["ppo.lr=0.05", "ppo.kl_stop=0.02"]
        done = CliRunner().invoke(
            command_line, ["lm", step, "--preset", "tiny", "--out", str(tmp_path / "run"), *short, *more]
        )
        assert done.exit_code == 0, done.output
    inspection = Inspection(RunFolder.read(tmp_path / "run"))
    used = [inspection.update(name, None, {})["used_epochs"] for name in ("ppo 1", "ppo 3")]
    assert used[0] == 4 > used[1]  # the first trains the critic alone
    with answering(inspect_page.app(inspection, "127.0.0.1")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=en")
        wait_for(page, ".response", 16)
        assert page.locator("#epoch-now").inner_text() == f"in epoch {used[1]}"
        page.locator("#update").fill("0")
        page.get_by_text("in epoch 4", exact=True).wait_for()
        page.locator("#update").fill("2")
        page.get_by_text(f"in epoch {used[1]}", exact=True).wait_for()
        page.locator("#epoch").fill("3")
        page.get_by_text("in epoch 4 (not used)").wait_for()
        page.locator("#update").fill("1")  # whoever has chosen an epoch keeps it
        page.get_by_text("in epoch 4").wait_for()


def test_inspect_of_an_arm_shows_the_picture_of_each_step(tmp_path: Path, open_page: Any) -> None:
    settings = "horizon=12 threads=1 reward.segment_length=4 bc.demonstrations=none ppo.num_envs=8 ppo.num_updates=2"
    settings += " ppo.num_minibatches=2 ppo.num_eval_states=4 ppo.algorithm=rloo ppo.group_size=4"
    out = ["--preset", "reach", "--out", str(tmp_path / "arm")]
    done = CliRunner().invoke(command_line, ["arm", "ppo", *out, *settings.split()])
    assert done.exit_code == 0, done.output
    inspection = OfArm(RunFolder.read(tmp_path / "arm"))
    with answering(inspect_page.app(inspection, "127.0.0.1")) as port:
        page = open_page(f"http://127.0.0.1:{port}/?lang=en", viewport={"width": 1440, "height": 900})
        wait_for(page, ".response", 8)
        wait_for(page, ".side", 2)  # two groups, side by side
        boxes = [page.locator(".side .response").nth(number).bounding_box() for number in (0, 1)]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
        wait_for(page, "#metrics td.off", 0)
        page.click("h1")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        page.get_by_text("The arm after step 5").wait_for()
        shown = page.locator("#image").get_attribute("src")
        assert shown == inspection.pictures("ppo 2", 0)[4]
        page.locator(".side .token").nth(12 + 7).hover()  # the next member of the group
        page.get_by_text("The arm after step 8").wait_for()
        assert page.locator("#image").get_attribute("src") == inspection.pictures("ppo 2", 1)[7]
        expected = inspection.update("ppo 2", None, {})["rows"][1]
        assert number(page, "reward") == pytest.approx(expected["reward"][7], abs=6e-5)
        page.click("#language")
        page.get_by_text("第 8 步之后的机械臂").wait_for()
