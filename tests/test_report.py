"""The report in a real browser: what it says is what the results say, it is usable, and nothing in the data is run."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Dialog, Error, Page, expect, sync_playwright

import loadbearing as lb
from loadbearing.analyses.claims import judge, verdicts
from loadbearing.cli import main
from loadbearing.cli.own import run_own_study
from loadbearing.cli.page import PAGE, write_report
from loadbearing.cli.single import FILE, single
from loadbearing.cli.study import FIGURES, run_study
from loadbearing.core import InputError
from loadbearing.hooks import generate

INSTALL = (
    "the report is tested in a real Chromium, and none starts here: install one (apt-get install chromium, brew "
    "install chromium, or python -m playwright install chromium)"
)
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"'><b onmouseover=alert(4)>",
    "\u202eright to left\u200f",
    "\x1b[31mred\x07 nul\x00",
    "half \ud800 surrogate",
    "{{ 7 * 7 }} {% raw %}",
    "<!--",
    "x" * 10_000,
)
# What the page says of an outcome of the channels.
SAID = {
    "donor's": "follows the donor",
    "recipient's": "keeps its own",
    "implied": "implied by text and prompt",
    "broken": "broken",
}
Opened = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium without a window. That there is none is a failure: the page would not be tested."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            pytest.fail(f"{INSTALL}\n{error}", pytrace=False)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Open a page; at the end nothing may have been run, asked of the network, or complained of."""
    events: list[str] = []
    contexts = []

    def dismiss(dialog: Dialog) -> None:
        events.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(path: Path, **options: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **options))
        contexts[-1].set_default_timeout(10_000)
        page = contexts[-1].new_page()
        page.on("dialog", dismiss)
        page.on("console", lambda message: events.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: events.append(f"error: {error}"))
        page.on(
            "request", lambda request: events.append(f"request: {request.url[:80]}") if _leaves(request.url) else None
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert events == []


def _leaves(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


@pytest.fixture(scope="session")
def debate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two organisms: one that writes a chain of thought, and one that answers at once."""
    out = tmp_path_factory.mktemp("report") / "debate"
    run_study(out, pairs=8, names=["sft", "direct"], progress=False)
    write_report(out)
    return out


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one model on a task, by the steps that single problems are shown by."""
    out = tmp_path_factory.mktemp("report") / "own"
    only = ("channels", "ledger", "decodability")
    run_own_study(out, "organism:both", problems=48, pairs=4, max_new_tokens=16, only=only, progress=False)
    return out


@pytest.fixture
def copied(own: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(own, tmp_path / "copy"))


def change(path: Path, how: Callable[[Any], object]) -> None:
    """Change what a JSON file holds."""
    told = json.loads(path.read_text())
    how(told)
    path.write_text(json.dumps(told))


def result(run: Path, kind: str) -> Any:
    return lb.load(run / "results" / f"{kind}.safetensors")


def choose(page: Page, prompt: str) -> None:
    """Look for a problem and open it."""
    page.get_by_label("Find").fill(prompt)
    page.locator("#list button").first.click()


def cells_of(page: Page, table: str) -> list[list[str]]:
    """The texts of a table, row by row, by a part of its caption."""
    rows = page.get_by_role("table", name=table).first.locator("tbody tr").all()
    return [[cell.inner_text().strip() for cell in row.locator("th, td").all()] for row in rows]


def value(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("\N{MINUS SIGN}", "-"))


def test_a_study_writes_a_page_that_needs_nothing(debate: Path, opened: Opened) -> None:
    text = (debate / PAGE).read_text()
    assert "http://" not in text and "https://" not in text and "<link" not in text
    page = opened(debate / PAGE)
    expect(page).to_have_title("debate: loadbearing")
    expect(page.get_by_role("heading", name="Single problems")).to_be_visible()
    models = page.locator("#models table").first
    assert models.locator("tbody th[scope=row]").all_inner_texts() == ["sft", "direct"]
    assert page.locator("table:not(:has(caption))").count() == page.locator("th:not([scope])").count() == 0
    figures = page.locator("figure img")
    assert figures.count() == len(list((debate / "figures").glob("*.png"))) > 0
    drawn = {path.stem for path in (debate / "figures").glob("*.png")}
    # Those are of models that were set by hand, of a study without pairs, and of tasks with hints.
    assert drawn == {*FIGURES} - {"known", "ablation", "monitor"}
    assert "Figure" not in page.locator("figcaption").all_inner_texts()
    for figure in figures.all():
        assert figure.get_attribute("alt")
        assert figure.evaluate("image => image.complete && image.naturalWidth") > 100
    page.get_by_text("All that the study printed").click()
    assert page.locator("pre").inner_text().split() == (debate / "table.txt").read_text().split()


def test_models_of_a_study_are_switched(debate: Path, opened: Opened) -> None:
    page = opened(debate / PAGE)
    expect(page.locator("#strip .cot")).to_be_visible()
    page.get_by_label("Model", exact=True).select_option("direct")
    expect(page.locator("#strip .cot")).to_have_count(0)
    expect(page.locator("#cells")).to_contain_text("No wires were measured")
    expect(page.locator("#segment")).to_contain_text("There is no ledger")
    page.locator("#strip button[data-segment=prompt]").click()
    expect(page.get_by_role("table", name="Bits read where it answers at once")).to_be_visible()


def test_a_step_shows_its_part_in_the_ledger(own: Path, opened: Opened) -> None:
    ledger, page = result(own, "ledger"), opened(own / PAGE)
    prompt = json.loads((own / "results" / FILE).read_text())["runs"][3]["prompt"]
    choose(page, prompt)
    expect(page.locator("#detail h3")).to_have_text(prompt)
    at = ledger.coords["problem"].index(prompt)
    page.locator("#strip button[data-segment='step.2']").click()
    for source, target, caption in (("step.2", None, "swapped alone"), (None, "step.2", "with one source swapped")):
        for name, here, *numbers in cells_of(page, f"step.2 {'swapped' if source else 'decoded'}"):
            edge = (target or name, source or name)
            t, s = ledger.targets.index(edge[0]), ledger.sources.index(edge[1])
            expected = "moved" if ledger.load[t, s, at] == 1 else "unchanged" if ledger.keep[t, s, at] == 1 else ""
            assert expected in here, (caption, edge)
            assert numbers[0].startswith(f"{ledger.rate('load', *edge)[0]:.2f}")


def test_probes_by_layer_are_those_of_the_result(own: Path, opened: Opened) -> None:
    probes, page = result(own, "decodability"), opened(own / PAGE)
    at = 5
    choose(page, probes.coords["problem"][at])
    page.locator("#strip button[data-segment='step.1']").click()
    shown = cells_of(page, "Bits read in this run")
    place = probes.places.index("cot step.1[-1]")
    for v, variable in enumerate(probes.variables):
        assert shown[v][0].startswith(variable)
        bits = [value(text) for text in shown[v][1:]]
        np.testing.assert_allclose(bits, probes.bits[place, 0, :, v, at], atol=0.06)
        means = [value(text) for text in shown[v + len(probes.variables)][1:]]
        np.testing.assert_allclose(means, probes.bits[place, 0, :, v].mean(-1), atol=0.06)


def test_the_eight_cells_are_those_of_the_pair(own: Path, opened: Opened) -> None:
    channels, page = result(own, "channels"), opened(own / PAGE)
    told = json.loads((own / "results" / FILE).read_text())
    recipient, donor = told["pairs"][0]
    texts = {run["problem"]: run["prompt"] for run in told["runs"]}
    for direction, (one, other) in enumerate(((recipient, donor), (donor, recipient))):
        choose(page, texts[one])
        page.locator("#row").select_option(label=f"{channels.variables[channels.variable[0]]}: {texts[other]}")
        shown = cells_of(page, "A filled dot")
        for cell, (direct, relay, tokens, answer, log_odds, p_donor, p_own, *_) in enumerate(shown):
            assert ["donor" in text for text in (direct, relay, tokens)] == [bool(cell >> bit & 1) for bit in range(3)]
            assert answer.split(" ", 1)[1] == SAID[channels.coords["outcome"][channels.outcome[0, direction, cell]]]
            log_p = channels.log_p[0, direction, cell]
            assert value(log_odds) == pytest.approx(log_p[0] - log_p[1], abs=0.06)
            assert float(p_donor) == pytest.approx(np.exp(log_p[0]), abs=0.006)
            assert float(p_own) == pytest.approx(np.exp(log_p[1]), abs=0.006)


def click_outcomes(page: Page, run: Path, cell: int) -> list[int]:
    """Click every outcome under one change and hold what is shown against the result; how many problems have each."""
    channels, found = result(run, "channels"), []
    pairs = json.loads((run / "results" / FILE).read_text())["pairs"]
    for code, name in enumerate(channels.coords["outcome"]):
        expected = {pairs[row][direction] for row, direction in np.argwhere(channels.outcome[..., cell] == code)}
        found.append(len(expected))
        button = page.locator("#outcomes button", has_text=SAID[name])
        expect(button.locator("b")).to_have_text(str(len(expected)))
        if not expected:
            expect(button).to_be_disabled()
            continue
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#range")).to_contain_text(f"of {len(expected)}")
        shown = page.locator("#list .prompt").all_inner_texts()
        assert len(shown) == len(expected) and set(shown) == expected
        assert page.locator("#detail h3").inner_text() in expected
        button.click()
    return found


def test_every_outcome_shows_the_problems_that_have_it(copied: Path, opened: Opened) -> None:
    """Outcomes are drawn, since this model has two of the four; one change is left with a single one."""
    channels = result(copied, "channels")
    outcome = np.random.default_rng(0).integers(len(SAID), size=channels.outcome.shape, dtype=np.int8)
    outcome[..., 7] = channels.coords["outcome"].index("broken")
    replace(channels, outcome=outcome).save(copied / "results" / "channels.safetensors")
    page = opened(write_report(copied))
    for cell in range(8):
        page.get_by_label("What is changed").select_option(f"cell:{cell}")
        shown = click_outcomes(page, copied, cell)
        assert (min(shown) > 0) if cell < 7 else shown == [0, 0, 0, max(shown)]


def test_filters_count_and_show_what_they_say(own: Path, opened: Opened) -> None:
    page = opened(own / PAGE)
    follows, keeps, *_ = click_outcomes(page, own, 4)
    assert follows and keeps
    everything = json.loads((own / "results" / FILE).read_text())["problems"]
    expect(page.locator("#range")).to_contain_text(f"of {everything}")
    ledger = result(own, "ledger")
    page.get_by_label("What is changed").select_option(label="step.1 swapped, step.2 decoded")
    load = ledger.by_problem("load", "step.2", "step.1")
    expect(page.locator("#outcomes button").first).to_contain_text(str(int(np.nansum(load == 1))))
    page.locator("#outcomes button:enabled").first.click()
    page.get_by_label("Find").fill("no such text")
    expect(page.locator("#range")).to_have_text("no problem")
    expect(page.locator("#list button")).to_have_count(0)


def test_hovering_shows_a_step_and_leaves_what_was_chosen(own: Path, opened: Opened) -> None:
    page = opened(own / PAGE)
    expect(page.locator("#segment h4").first).to_have_text("Ledger: step.1")
    page.locator("#strip button[data-segment='step.3']").hover()
    expect(page.locator("#segment h4").first).to_have_text("Ledger: step.3")
    page.locator("#detail h3").hover()
    expect(page.locator("#segment h4").first).to_have_text("Ledger: step.1")


def test_the_keyboard_is_enough(own: Path, opened: Opened) -> None:
    page = opened(own / PAGE)
    page.locator("#find").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('problem')"):
            break
    page.keyboard.press("ArrowDown")
    second = page.evaluate("document.activeElement.querySelector('.prompt').textContent")
    page.keyboard.press("Enter")
    expect(page.locator("#detail h3")).to_have_text(second)
    page.keyboard.press("Tab")
    focused = page.locator("#strip button:focus")
    expect(focused).to_have_attribute("data-segment", "step.1")
    page.keyboard.press("ArrowRight")
    expect(focused).to_have_attribute("data-segment", "step.2")
    assert focused.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    expect(page.locator("#segment h4").first).to_have_text("Ledger: step.1")
    page.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-pressed", "true")
    status = page.locator("#say[role=status]")
    expect(status).to_contain_text("step.2 is")
    expect(status).to_contain_text("Swapped alone, it moves step.3")
    page.keyboard.press("Home")
    expect(focused).to_have_attribute("data-segment", "prompt")
    unnamed = "buttons => buttons.filter(b => !(b.ariaLabel || b.textContent).trim()).length"
    assert page.locator("button").evaluate_all(unnamed) == 0


def test_dark_and_light(own: Path, opened: Opened) -> None:
    page = opened(own / PAGE, color_scheme="dark")

    def paper() -> int:
        colour = str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        return int(colour.partition("(")[2].split(",")[0])

    button = page.get_by_role("button", name="Theme")
    assert paper() < 60
    button.click()
    expect(button).to_have_text("Theme: light")
    assert paper() > 200
    page.reload()
    assert paper() > 200  # it is remembered
    button.click()
    assert paper() < 60


def test_a_phone(own: Path, opened: Opened) -> None:
    page = opened(own / PAGE, has_touch=True)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#strip button[data-segment='step.2']").tap()
    expect(page.locator("#segment h4").first).to_have_text("Ledger: step.2")


def test_two_thousand_problems(copied: Path, opened: Opened) -> None:
    """As many rows as that, of the real ones again and again."""
    n, channels = 2000, result(copied, "channels")

    def multiply(told: dict[str, Any]) -> None:
        runs = told["runs"]
        told["runs"] = [{**runs[i % len(runs)], "problem": f"{i}", "prompt": f"problem {i}"} for i in range(n)]
        told["pairs"] = [[f"{i}", f"{n - 1 - i}"] for i in range(n)]
        told["problems"] = n

    change(copied / "results" / FILE, multiply)
    rows = np.arange(n) % len(channels.variable)
    arrays = {name: array[rows] for name, array in channels.arrays().items()}
    replace(channels, **arrays).save(copied / "results" / "channels.safetensors")
    path = write_report(copied)
    assert path.stat().st_size < 3e6
    times, clicks = [], []
    for _ in range(3):  # the best of three: this machine may do other things
        page = opened(path)
        expect(page.locator("#range")).to_have_text("1\N{EN DASH}50 of 2,000")
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        clicks.append(
            page.evaluate(
                """() => { const began = performance.now();
                document.querySelector('#outcomes button:enabled').click();
                document.body.getBoundingClientRect(); return performance.now() - began; }"""
            )
        )
    assert min(times) < 2000 and min(clicks) < 200
    assert page.locator("#list button").count() == 50
    page.get_by_role("button", name="Later problems").click()
    expect(page.locator("#range")).to_contain_text("51\N{EN DASH}100 of")


def test_nothing_in_the_data_is_run_and_all_is_shown(copied: Path, opened: Opened) -> None:
    def poison(told: dict[str, Any]) -> None:
        for run, text in zip(told["runs"], HOSTILE, strict=False):
            run |= {"prompt": f"poison {text}", "gold": text, "answer": text}
            start, _ = run["spans"]["cot"]
            run["tokens"][start] = text

    change(copied / "results" / FILE, poison)
    change(copied / "table.json", lambda told: told.update(notes=list(HOSTILE), used={HOSTILE[0]: {HOSTILE[1]: 1}}))
    change(copied / "study.json", lambda told: told["identity"].update(task=HOSTILE[1]))
    table = (copied / "table.csv").read_text()
    (copied / "table.csv").write_text(table.replace("\nboth,", f'\n"{HOSTILE[0]}{HOSTILE[4]}",', 1))
    (copied / "table.txt").write_text(HOSTILE[1] + HOSTILE[5])
    judged = verdicts(judge(lambda *_: HOSTILE[1]))
    judged.to_csv(copied / "claims.csv", index=False)
    page = opened(write_report(copied, name=HOSTILE[1]))
    expect(page.locator("h1")).to_have_text(HOSTILE[1])
    expect(page.locator("#models tbody th").first).to_have_text(HOSTILE[0] + "\\u202eright to left\\u200f")
    expect(page.locator("#notes li").nth(5)).to_have_text("\\x1b[31mred\\x07 nul\\x00")
    for number, text in enumerate(HOSTILE):
        page.locator("#list button").nth(number).click()
        seen = lb.core.printable(text)
        expect(page.locator("#strip .cot .token").first).to_have_text(seen)
        expect(page.locator("#detail h3")).to_contain_text(f"poison {seen[:50]}")
        expect(page.locator("#detail dd").first).to_contain_text(seen[:50])
        page.locator("#strip .segment").nth(1).hover()
    assert page.locator("img:not(figure img)").count() == page.locator("main b[onmouseover]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_scripts_of_others_are_forbidden_by_the_page(own: Path, tmp_path: Path, browser: Browser) -> None:
    """Even where one came into it: the policy knows the hashes of its own two."""
    path = tmp_path / "page.html"
    path.write_text((own / PAGE).read_text().replace("<main>", "<main><script>document.title = 'run'</script>"))
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.title() == "own: loadbearing"
    assert any("Content Security Policy" in text for text in said)
    page.close()


def test_verdicts_stand_in_a_table(debate: Path, tmp_path: Path, opened: Opened) -> None:
    run = Path(shutil.copytree(debate, tmp_path / "judged"))
    frame = verdicts(judge(lambda *_: "no model is here"))
    rows = frame.to_dict("records")
    rows[0] |= {"verdict": "supported", "estimate": 0.91, "low": 0.8, "high": 0.97, "reason": ""}
    frame = pd.DataFrame(rows)
    frame.to_csv(run / "claims.csv", index=False)
    page = opened(write_report(run))
    shown = cells_of(page, "What was claimed")
    assert len(shown) == len(frame)
    assert "supported" in shown[0][1] and "0.91 [0.80, 0.97]" in shown[0][2]
    assert "not settled" in shown[1][1] and "no model is here" in shown[1][1] and "not measured" in shown[1][2]
    expect(page.locator(".tally")).to_contain_text(f"{len(frame) - 1} not settled")


def test_a_study_that_kept_no_runs(copied: Path, opened: Opened) -> None:
    (copied / "results" / FILE).unlink()
    page = opened(write_report(copied))
    expect(page.locator("#coverage")).to_have_text("This study kept no runs of single problems.")
    expect(page.locator("#range")).to_have_text("no problem")


def test_what_is_kept_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lb.hooks.load("organism:sft")
    assert model.task is not None
    runs = list(generate(model, model.task.problems(8), max_new_tokens=16))
    whole = single(model.tokenizer, runs)
    assert whole["problems"] == len(whole["runs"]) == 8 and whole["pairs"] == []
    for run, told in zip(runs, whole["runs"], strict=True):
        assert len(told["tokens"]) == len(run.ids)
        assert "".join(told["tokens"]) == model.tokenizer.decode(list(run.ids))
        assert told["prompt"] == run.problem.prompt
    monkeypatch.setattr("loadbearing.cli.single.TOKENS", 3 * len(runs[0].ids))
    part = single(model.tokenizer, runs)
    assert (part["problems"], part["runs"]) == (8, whole["runs"][:3])


def test_the_same_study_gives_the_same_page(own: Path, tmp_path: Path) -> None:
    again = write_report(own, tmp_path / "again.html")
    assert again.read_bytes() == (own / PAGE).read_bytes()


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["loadbearing", "report", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert command(monkeypatch, str(own), "--out", str(out)) == 0
    assert capsys.readouterr().out == f"{out}: {out.stat().st_size / 1e6:.1f} MB\n"
    assert command(monkeypatch, str(tmp_path)) == 2
    assert "is no folder of a study: expected study.json, or manifest.json and table.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("table.csv", None, "is not finished"),
        ("study.json", "{", "is no JSON"),
        ("study.json", "[]", "is no folder of a study"),
        ("table.csv", "", "is no table"),
        ("claims.csv", "id\na\n", "holds no verdicts"),
        (f"results/{FILE}", "{}", "is not what a study writes"),
        (f"results/{FILE}", '{"runs": 3}', "is not what a study writes"),
        ("results/ledger.safetensors", "no", "is no result of loadbearing"),
    ],
)
def test_folders_that_are_broken(copied: Path, name: str, text: str | None, told: str) -> None:
    (copied / PAGE).unlink()
    (copied / name).unlink() if text is None else (copied / name).write_text(text)
    with pytest.raises(InputError, match=told):
        write_report(copied)
    assert not (copied / PAGE).exists()
