"""Files and names of others: nothing in them is run, no path in them is followed, and only our own errors come out."""

import json
import pickle
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import loadbearing as lb
from loadbearing import analyses, tasks
from loadbearing.analyses.claims import load_claims
from loadbearing.cli.app import app
from loadbearing.cli.options import print_table
from loadbearing.core import InputError, LoadbearingError, printable
from loadbearing.hooks import Store, resolve
from loadbearing.hooks.card import Card

# The same examples every time; files are rewritten for each of them.
QUICK = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

HOSTILE = [
    "$x$",
    "$\\frac{$",
    "a_b^{c%d\\e",
    "two\nlines",
    "\u202eright to left\u200f",
    "\U0001f600 emoji",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b",
    "<script>alert(1)</script>",
    "x" * 10_000,
    "half \ud800 surrogate",
    "\x1b[31mred\x1b[0m\x07",
    "nul\x00",
]


# Nothing is run.


class Mark:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path: Path, random_module: Callable[..., Any], word_tokenizer: Any) -> Path:
    """A tiny model in a folder."""
    folder = tmp_path / "model"
    random_module("llama", word_tokenizer).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_pickle_is_not_opened(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Mark(mark)))
    with pytest.raises(InputError, match="only safetensors are read"):
        lb.hooks.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_python_files_of_a_model_are_not_run(folder: Path, tmp_path: Path, file: str) -> None:
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Own: pass\n")
    own = {"config.json": {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.Own"}}
    change(folder / file, auto_map=own.get(file, {"AutoTokenizer": ["own.Own", "own.Own"]}))
    if file == "config.json":
        change(folder / file, model_type="own", architectures=["Own"])
    else:
        change(folder / file, tokenizer_class="Own")
    with suppress(InputError):  # a tokenizer of a known kind is loaded without its own file
        lb.hooks.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch mark') }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content }}",
        "{{ range(10 ** 12) | list }}",
        "{% for %}",
    ],
)
def test_a_template_stays_in_its_sandbox(
    template: str, bpe_tokenizer: Any, random_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = type(bpe_tokenizer).from_pretrained(_saved(bpe_tokenizer, tmp_path / "tokenizer"))
    tokenizer.chat_template = template
    model = lb.hooks.load(random_module("qwen3", tokenizer), tokenizer=tokenizer, format="chat")
    with pytest.raises(InputError, match="the chat template"):
        lb.hooks.generate(model, tasks.load("modular-sum").problems(1), max_new_tokens=1)
    assert not (tmp_path / "mark").exists()


def _saved(tokenizer: Any, where: Path) -> Path:
    tokenizer.save_pretrained(where)
    return where


# What runs code from data, and where that is meant: by file, the text, and why.
RUNS_CODE = re.compile(
    r"\bpickle\b|torch\.load\(|(?<![.\w])eval\(|(?<![.\w])exec\(|yaml\.load\(|shell=True|os\.system"
    r"|trust_remote_code=True|allow_pickle=True|\bmarshal\b"
)
MEANT: dict[str, str] = {}


def test_no_source_runs_what_it_reads(root: Path, rooms: tuple[str, ...]) -> None:
    found = {
        f"{path.relative_to(root)}: {line.strip()}"
        for room in rooms
        for path in (root / room).rglob("*.py")
        for line in path.read_text().splitlines()
        if RUNS_CODE.search(re.sub(r'"[^"]*"|#.*', "", line)) and not _told(line)
    }
    assert found == set(MEANT)


def _told(line: str) -> bool:
    """Whether a line is prose, such as a docstring."""
    return not re.search(r"import pickle|pickle\.|\(|=", line)


# No path in a name is followed.

CARD = {"name": "own", "summary": "s", "task": "modular-sum", "modes": ["cot"], "format": {}, "recipe": {}}
PATHS = ["../../x", "/etc/passwd", "organism:../x", "a\x00b", "n" * 5000, "..", "", "C:\\x", "a/b", "\x1b[31m"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["name", "start"])
def test_a_name_on_a_card_is_no_path(key: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({**CARD, key: path}))
    with pytest.raises(InputError, match=f"is not a card: '{key}' is .*expected a name of letters"):
        Card.load(tmp_path)


@pytest.mark.parametrize("task", ["jsonl:/etc/passwd", "jsonl:../x.jsonl?extra=ignore", "dataset:x", "inspect:x.eval"])
def test_a_task_on_a_card_is_no_file(task: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({**CARD, "task": task}))
    with pytest.raises(InputError, match="expected a task of its own, not a file"):
        Card.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"modes": "cot"},
        {"modes": ["guess"]},
        {"seed": "0"},
        {"format": {"open": 3}},
        {"format": {"own": ""}},
        {"cut": [{"queries": 3, "keys": "cot"}]},
        {"cut": [{"queries": "cue", "keys": "cot", "path": "x"}]},
        {"curve": [1]},
        {"accuracy": {"cot": "high"}},
        {"own": 1},
    ],
)
def test_a_card_holds_what_a_card_holds(changes: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({**CARD, **changes}))
    with pytest.raises(InputError, match=r"card\.json"):
        Card.load(tmp_path)


@pytest.mark.parametrize("name", PATHS)
def test_an_organism_s_name_is_no_path(name: str) -> None:
    with pytest.raises(LoadbearingError, match="unknown organism"):
        lb.hooks.load(f"organism:{name}")


# Broken files.


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, organism: Any) -> tuple[Path, bytes]:
    """A result's file, and what is in it."""
    model = organism("copy-direct")
    path = tmp_path_factory.mktemp("result") / "result.safetensors"
    analyses.channels(model, model.task.pairs(4), target="answer", cot="task").save(path)
    return path, path.read_bytes()


def broken(data: st.DataObject, whole: bytes) -> bytes:
    """Bytes with one thing wrong: flipped, cut off, put in, taken out, or none of the original."""
    at = data.draw(st.integers(0, len(whole) - 1))
    more = data.draw(st.binary(min_size=1, max_size=12))
    return data.draw(
        st.sampled_from(
            [
                whole[:at] + more + whole[at + len(more) :],
                whole[:at],
                whole[:at] + more + whole[at:],
                whole[:at] + whole[at + len(more) :],
                more,
                b"",
            ]
        )
    )


def ours(call: Callable[[], Any]) -> None:
    """Whatever goes wrong is told by an error of ours."""
    with suppress(LoadbearingError):
        call()


@QUICK
@given(data=st.data())
def test_broken_results(data: st.DataObject, result: tuple[Path, bytes]) -> None:
    path = result[0].with_name("broken.safetensors")
    size = struct.unpack("<Q", result[1][:8])[0]
    header = result[1][8 : 8 + size]
    if data.draw(st.booleans()):  # a header that is a header: only then is what it says looked at
        header = broken(data, header)
        path.write_bytes(struct.pack("<Q", len(header)) + header + result[1][8 + size :])
    else:
        path.write_bytes(broken(data, result[1]))
    ours(lambda: lb.load(path))


def rewritten(result: tuple[Path, bytes], **changes: Any) -> Path:
    """The result with other words in our part of its header."""
    size = struct.unpack("<Q", result[1][:8])[0]
    header = json.loads(result[1][8 : 8 + size])
    own = json.loads(header["__metadata__"]["loadbearing"])
    header["__metadata__"]["loadbearing"] = json.dumps({**own, **changes})
    return _written(result, header, size)


def _written(result: tuple[Path, bytes], header: dict[str, Any], size: int) -> Path:
    text = json.dumps(header).encode()
    path = result[0].with_name("rewritten.safetensors")
    path.write_bytes(struct.pack("<Q", len(text)) + text + result[1][8 + size :])
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "os.system"},
        {"kind": ["Channels"]},
        {"kind": "../channels"},
        {"schema": "1"},
        {"schema": 99},
        {"coords": []},
        {"coords": {"cell": ["a"]}},
        {"coords": {"variable": "value"}},
        {"coords": {"cell": None}},
        {"identity": [1]},
        {"circumstance": "x"},
    ],
)
def test_a_header_that_does_not_fit(changes: dict[str, Any], result: tuple[Path, bytes]) -> None:
    with pytest.raises(InputError):
        lb.load(rewritten(result, **changes))


@pytest.mark.parametrize(
    "tensor",
    [
        {"data_offsets": [0, 1 << 60]},
        {"data_offsets": [-8, 8]},
        {"data_offsets": [8, 0]},
        {"shape": [1 << 40, 1 << 40]},
        {"shape": [-1]},
        {"dtype": "object"},
    ],
)
def test_tensors_that_are_not_there(tensor: dict[str, Any], result: tuple[Path, bytes]) -> None:
    size = struct.unpack("<Q", result[1][:8])[0]
    header = json.loads(result[1][8 : 8 + size])
    header["log_p"] |= tensor
    with pytest.raises(InputError, match="is no result of loadbearing"):
        lb.load(_written(result, header, size))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(data=st.data())
def test_broken_cards(data: st.DataObject, tmp_path: Path) -> None:
    whole = json.dumps(CARD).encode()
    key = data.draw(st.sampled_from([*CARD, "cut", "curve", "known", "start", "measure", "elicited"]))
    other = json.dumps({**CARD, key: data.draw(JSON)}).encode()
    (tmp_path / "card.json").write_bytes(data.draw(st.sampled_from([other, broken(data, whole), broken(data, other)])))
    ours(lambda: Card.load(tmp_path))


@QUICK
@given(data=st.data())
def test_broken_questions(data: st.DataObject, tmp_path: Path) -> None:
    whole = b'{"prompt": [{"text": "6", "name": "a.1"}, {"text": " + 2"}], "answer": "8", "cot": "6 8", "id": 1}\n'
    key = data.draw(st.sampled_from(["prompt", "answer", "cot", "transcript", "values", "partner", "id"]))
    other = json.dumps({"prompt": "6 + 2", key: data.draw(JSON)}).encode() + b"\n"
    (tmp_path / "q.jsonl").write_bytes(
        whole + data.draw(st.sampled_from([other, broken(data, whole), broken(data, other)]))
    )
    ours(lambda: tasks.load(f"jsonl:{tmp_path / 'q.jsonl'}").problems(2))


@QUICK
@given(data=st.data())
def test_broken_claims(data: st.DataObject, tmp_path: Path, root: Path) -> None:
    whole = (root / "analyses" / "claims.toml").read_bytes()
    path = tmp_path / "claims.toml"
    start = whole.find(b"level")
    path.write_bytes(
        broken(data, whole[start:] if data.draw(st.booleans()) else b'level = 0.05\n[[claim]]\nid = "a"\n')
    )
    ours(lambda: load_claims(path))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, organism: Any) -> tuple[Path, dict[str, bytes]]:
    """A store of two shards, and what is in its files."""
    model = organism("copy-direct")
    folder = tmp_path_factory.mktemp("stored") / "store"
    positions = ["prompt[-1]"]
    Store.create(folder, model, model.task.problems(4), sites=["resid_post"], positions=positions, shard_size=2).fill()
    return folder, {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@settings(QUICK, max_examples=100)
@given(data=st.data())
def test_broken_stores(data: st.DataObject, stored: tuple[Path, dict[str, bytes]]) -> None:
    folder, whole = stored
    name = data.draw(st.sampled_from(sorted(whole)))
    (folder / name).write_bytes(broken(data, whole[name]))

    def read() -> None:
        store = Store.open(folder)
        store.verify()
        store.select("resid_post", layer=0)

    try:
        ours(read)
    finally:
        (folder / name).write_bytes(whole[name])


# Hostile words.

WORDS = st.text(max_size=20) | st.sampled_from(HOSTILE)


@QUICK
@given(text=WORDS)
def test_positions(text: str) -> None:
    spans = {"prompt": (0, 5), "step.1": (5, 6), "step.2": (6, 8)}
    for position in (text, f"prompt[{text}]", f"step.{text}", f"prompt[{'9' * 5000}]"):
        ours(lambda position=position: resolve(spans, position))  # type: ignore[misc]


@QUICK
@given(text=WORDS)
def test_specs(text: str) -> None:
    for spec in (text, f"modular-sum:{text}", f"copy:cot={text}", f"modular-sum:terms={text}", f"jsonl:{text}"):
        ours(lambda spec=spec: tasks.load(spec))  # type: ignore[misc]


@settings(QUICK, max_examples=15)
@given(text=WORDS)
@pytest.mark.parametrize(
    "options",
    [
        ["channels", "--model", "organism:copy-direct", "--target"],
        ["channels", "--model", "organism:copy-direct", "--cot", "task", "--task"],
        ["channels", "--model", "organism:copy-direct", "--parts", "parts", "--shard"],
        ["channels", "--model"],
        ["ledger", "--model", "organism:copy-direct", "--cot"],
    ],
)
def test_the_command_line(options: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if options[-1] == "--model":
        text = f"organism:{text}"  # any other text is the name of a model on the hub
    found = CliRunner().invoke(app, [*options, text])
    assert found.exception is None or isinstance(found.exception, LoadbearingError | SystemExit), found.exception


def test_what_steers_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    words = [word for word in HOSTILE if "\ud800" not in word]  # which no table can hold
    print_table(pd.DataFrame({"name": words, "value": 1.0}))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800]", capsys.readouterr().out)


@given(text=st.text())
def test_printable_text_is_seen_and_stays_what_it_is(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown and all(c == "\n" or c.isprintable() or c.isspace() for c in shown)
    assert len(printable(text, 10).encode("ascii", "backslashreplace")) <= 100
