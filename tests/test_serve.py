"""`python -m runner.serve`: predictions over HTTP, by a server in a process of its own."""

import io
import json
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.browsing import browsing, screenshot, visible, visiting
from helpers.problems import about
from helpers.serving import Answer, Serving, asked
from helpers.trained import place, table, train
from runner import serve
from runner.data.digits import digits
from runner.errors import Problem
from runner.runs.predictor import Predictor
from runner.saved.run import find


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("serve")) as folder:
        yield folder


@pytest.fixture(scope="module")
def run(there: Path) -> Path:
    return train("digits", "trainer.epochs=5")


@pytest.fixture(scope="module")
def mixed(there: Path) -> Path:
    """A table with numbers, blanks, a decimal comma, categories and dates."""
    rows = ["age;city;joined;rate;label"]
    for number in range(60):
        city, day = ("Rome", "Oslo", "12")[number % 3], f"2024-0{1 + number % 9}-1{number % 10}"
        rows.append(f"{number if number % 7 else ''};{city};{day};{number},5;{'yes' if number > 30 else 'no'}")
    (there / "mixed.csv").write_text("\n".join(rows))
    return train("mixed", "data=table", "data.path=mixed.csv")


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Serving]:
    with Serving(run, "timeout=1", "max_mb=1", "max_rows=100") as serving:
        yield serving


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Digits as `runner.predict` takes them: float32 (360, 1, 8, 8), from 0 to 1."""
    source = digits()
    assert source.test is not None
    return source.test[0].numpy()


def predicted(run: Path, images: np.ndarray) -> list[dict[str, Any]]:
    """The answer of the run's predictor, as the server writes it."""
    predictor = Predictor(find(str(run)))
    return as_objects(*predictor.table(predictor(torch.from_numpy(images))))


def as_objects(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    pairs = (zip(header, row, strict=True) for row in rows)
    return [{name: text if name == "class" else float(text) for name, text in row} for row in pairs]


def close(answer: Answer, wanted: list[dict[str, Any]]) -> bool:
    """Whether predictions are the same, but for the last bits: a batch is computed in another order."""
    assert answer.status == 200, answer
    pairs = list(zip(answer.content["predictions"], wanted, strict=True))
    assert [set(one) for one, _ in pairs] == [set(other) for _, other in pairs]
    return all(
        one[name] == value if isinstance(value, str) else one[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
        for one, other in pairs
        for name, value in other.items()
    )


def test_all_forms_of_samples_get_the_predictions_of_the_run(server: Serving, run: Path, images: np.ndarray) -> None:
    chosen = images[:3]
    wanted = predicted(run, chosen)
    flat = chosen.reshape(3, 64).tolist()
    names = [f"pixel {place}" for place in range(64)]
    for body in (
        {"inputs": chosen.tolist()},
        {"instances": chosen.tolist(), "signature_name": "serving_default"},
        {"inputs": chosen[:, 0].tolist()},  # grey images without their channel
        {"dataframe_split": {"columns": names, "data": flat}},
        {"dataframe_records": [dict(zip(names, row, strict=True)) for row in flat]},
        chosen.tolist(),
    ):
        assert close(server.ask(body), wanted)
    assert close(server.ask({"inputs": chosen[0].tolist()}), wanted[:1])
    text = "\n".join([",".join(names), *(",".join(map(str, row)) for row in flat)]).encode()
    assert close(server.ask(text, "text/csv"), wanted)
    table = server.ask({"inputs": chosen.tolist()}, accept="text/csv")
    assert table.headers["content-type"].startswith("text/csv")
    header, *rows = table.content.splitlines()
    assert header == "sample,class," + ",".join(f"p_{place}" for place in range(10))
    assert [row.split(",")[:2] for row in rows] == [[str(place), one["class"]] for place, one in enumerate(wanted)]


def test_an_uploaded_image_is_read_as_predict_reads_it(server: Serving, run: Path, images: np.ndarray) -> None:
    pixels = np.rint(images[0, 0] * 255).astype(np.uint8)
    file = Path("one.png")
    Image.fromarray(pixels).save(file)
    predictor = Predictor(find(str(run)))
    wanted = as_objects(*predictor.table(predictor(predictor.read(str(file)).load(0, 1))))
    assert close(server.ask(file.read_bytes(), "image/png"), wanted)


def test_what_the_model_is_can_be_asked(server: Serving, run: Path) -> None:
    known = server.ask(path="/metadata").content
    assert known["run"] == "digits" and known["input"]["shape"] == [1, 8, 8] and known["output"][0] == "class"
    assert str(run.parent) not in json.dumps(known), "no path of the machine"
    assert close(server.ask(known["input"]["example"]), predicted(run, np.zeros((1, 1, 8, 8), np.float32)))
    schema = server.ask(path="/openapi.json").content["paths"]["/invocations"]["post"]
    assert set(schema["requestBody"]["content"]) == {"application/json", "text/csv", "image/*"}
    for path in ("/health", "/ping"):
        assert server.ask(path=path).content == {"status": "ready"}
    page = server.ask(path="/")
    assert "<!doctype html>" in page.content and "http" not in page.content.replace("http-equiv", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


ONE = [[[0.5] * 8] * 8]


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b'{"inputs": [', "application/json", 400, "not JSON"),
        (b'{"inputs": [[NaN]]}', "application/json", 400, "NaN is not a number of JSON"),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
        (b"\xff\xfe", "application/json", 400, "not JSON"),
        ({"input": [ONE]}, "application/json", 422, "did you mean inputs?"),
        ({"inputs": [ONE], "instances": [ONE]}, "application/json", 422, "send one of them"),
        ({"inputs": [[1, 2, 3]]}, "application/json", 422, "the shape is (1, 3), the model takes (1, 8, 8)"),
        ({"inputs": [[1], [2, 3]]}, "application/json", 422, "the lists have different lengths"),
        ({"inputs": [[["a"] * 8] * 8]}, "application/json", 422, "needs lists of numbers"),
        ({"inputs": [[[2**70] * 8] * 8]}, "application/json", 422, "needs lists of numbers"),
        ({"inputs": []}, "application/json", 422, "the shape is (0), the model takes"),
        (json.dumps({"inputs": [ONE]}).replace("0.5", "1e999").encode(), "application/json", 422, "NaN or infinite"),
        ({"inputs": [[[16] * 8] * 8]}, "application/json", 422, "divide them by 16"),
        ({"inputs": [ONE], "params": {"seed": 1}}, "application/json", 422, "seed is not a parameter"),
        ({"inputs": [ONE] * 101}, "application/json", 413, "101 samples, more than 100"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "application/json", 422, "row 0 has 2 cells"),
        (b"a,b\n1,2\n", "text/csv", 422, "the shape is (1, 2)"),
        (b"", "text/csv", 422, "the CSV: "),
        (b"\x1f\x8b\x08\x00", "text/csv", 415, "compressed"),
        (b"not an image", "image/png", 422, "the image cannot be read"),
        (b"GIF89a", "image/gif", 422, "send one of BMP, JPEG"),
        (b"abc", "text/plain", 415, "this model reads application/json, text/csv, image/*"),
        (b"x" * 1_000_001, "application/json", 413, "1,000,001 bytes, more than 1,000,000"),
    ],
)
def test_a_wrong_request_is_one_sentence(server: Serving, body: Any, kind: str, status: int, said: str) -> None:
    answer = server.ask(body, kind)
    assert (answer.status, said in answer.content["message"]) == (status, True), answer.content
    assert "\n" not in answer.content["message"] and answer.content["error_code"]


def test_other_addresses_and_methods_are_refused(server: Serving) -> None:
    assert server.ask(path="/predict").status == 404
    assert server.ask(path="/invocations").status == 405
    assert server.ask(b"{}", path="/metadata").status == 405
    assert server.ask(b"{}", content_encoding="gzip").status == 415
    bomb = io.BytesIO()
    Image.new("1", (10_000, 8_000)).save(bomb, "PNG")
    assert server.ask(bomb.getvalue(), "image/png").status == 413, "a small file with 80 million pixels"
    assert server.send(b"no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    asked = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n"
    assert server.send(asked).startswith(b"HTTP/1.1 413 "), "before it is sent"


def test_a_request_that_does_not_arrive_whole_is_given_up(server: Serving) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    gone = server.connect()
    gone.sendall(head + b'{"inputs"')
    gone.close()
    with ThreadPoolExecutor() as pool:
        halves = list(pool.map(server.send, [head + b'{"inputs"', head[:40], b""]))
    assert [half[:12] for half in halves] == [b"HTTP/1.1 408"] * 3
    assert server.ask({"inputs": [ONE]}).status == 200


def test_many_clients_lose_nothing_and_memory_stays(server: Serving, run: Path, images: np.ndarray) -> None:
    wanted = predicted(run, images)
    bodies = [json.dumps({"inputs": image.tolist()}).encode() for image in images[:60, None]]
    large = b"[" + b"0.5," * 200_000

    def client(number: int) -> int:
        for at, body in enumerate(bodies[number::6]):
            assert close(server.ask(body), wanted[number + 6 * at : number + 6 * at + 1])
            assert server.ask(large if at % 5 == 0 else b'{"inputs": [[1', "application/json").status in (400, 422)
        return len(bodies[number::6])

    def all_clients() -> int:
        with ThreadPoolExecutor(6) as pool:
            return sum(pool.map(client, range(6)))

    assert all_clients() == 60
    before = server.megabytes
    for _ in range(2):
        all_clients()
    assert server.megabytes - before < 20, "MB"


@pytest.mark.soak
def test_a_thousand_requests_by_sixteen_clients_among_bad_ones(run: Path, images: np.ndarray) -> None:
    wanted = predicted(run, images)
    bodies = [json.dumps({"inputs": image.tolist()}).encode() for image in images[:, None]]
    half = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"1" * 400_000
    bad = [
        (b'{"inputs": [[1', "application/json", 400),
        (b"[" + b"0.5," * 240_000 + b"1]", "application/json", 422),
        (b"x" * 3_000_000, "application/json", 413),
        (b"\x89PNG" * 100_000, "image/png", 422),
        (b"a,b\n" * 100_000, "text/csv", 422),
    ]
    with Serving(run, "timeout=2", "max_mb=1") as server:

        def client(number: int) -> int:
            answered = 0
            for place in range(number, 1000, 16):
                assert close(server.ask(bodies[place % 360]), wanted[place % 360 : place % 360 + 1])
                answered += 1
                if place % 7 == 0:
                    body, kind, status = bad[place % 5]
                    assert server.ask(body, kind).status == status
                if place % 50 == 0:
                    with server.connect() as left:
                        left.sendall(half)
                if place % 250 == 0:
                    assert server.send(half).startswith(b"HTTP/1.1 408 ")
            return answered

        memory = []
        for _ in range(4):
            with ThreadPoolExecutor(16) as pool:
                assert sum(pool.map(client, range(16))) == 1000
            memory.append(server.megabytes)
        assert memory[-1] - memory[1] < 20, memory  # MB; the first ones fill the pools of the allocator
        code, printed = server.end()
    assert code == 0 and printed.startswith("served     4,000 requests, and refused "), printed


@pytest.mark.soak
def test_the_page_predicts_in_a_browser(run: Path, mixed: Path, images: np.ndarray) -> None:
    Image.fromarray(np.rint(images[0, 0] * 255).astype(np.uint8)).save("shown.png")
    with Serving(run) as pictures, Serving(mixed) as rows, browsing() as browser:
        best = pictures.ask(Path("shown.png").read_bytes(), "image/png").content["predictions"][0]["class"]
        with visiting(browser) as page:
            page.goto(f"http://127.0.0.1:{pictures.port}/")
            page.set_input_files("input[type=file]", "shown.png")
            assert visible(page.locator(".best")).text_content() == best
            screenshot(page, "serve_image")
            page.get_by_text("Clear").click()
            box = page.locator("canvas").bounding_box()
            assert box is not None
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20, steps=5)
            page.mouse.up()
            assert str(visible(page.locator(".best")).text_content()).isdecimal()
        with visiting(browser) as page:
            page.goto(f"http://127.0.0.1:{rows.port}/")
            page.fill("input[name=city]", "Bern")
            page.get_by_role("button", name="Predict").click()
            assert visible(page.locator(".best")).text_content() in ("yes", "no")
            assert "categories that training did not have" in str(page.locator("#answer").text_content())
            page.fill("input[name=age]", "old")
            page.get_by_role("button", name="Predict").click()
            assert "cannot read 'old'" in str(visible(page.locator(".bad")).text_content())
            screenshot(page, "serve_table")


def test_rows_of_a_table_are_sent_by_name(mixed: Path) -> None:
    predictor = Predictor(find(str(mixed)))
    new = Path("new.csv")
    new.write_text("joined;city;age;rate;more\n2024-03-11;Oslo;31;3,5;x\n2024-05-15;12;;40,25;y\n")
    wanted = as_objects(*predictor.table(predictor(predictor.read(str(new)).load(0, 2))))
    rows = [
        {"joined": "2024-03-11", "city": "Oslo", "age": 31, "rate": 3.5, "more": [1]},
        {"joined": "2024-05-15", "city": 12, "age": None, "rate": "40,25"},
    ]
    columns = ["age", "city", "joined", "rate"]
    lists = [[row[name] for name in columns] for row in rows]
    for body in (
        {"inputs": rows},
        {"dataframe_records": rows},
        {"instances": lists},
        {"dataframe_split": {"columns": columns, "data": lists, "index": [5, 6]}},
        {"inputs": {name: [row[name] for row in rows] for name in columns}},
    ):
        assert close(asked(mixed, body), wanted)
    assert close(asked(mixed, rows[0]), wanted[:1])
    assert close(asked(mixed, new.read_bytes(), "text/csv"), wanted)
    unseen = asked(mixed, {**rows[0], "city": "Bern"})
    assert unseen.status == 200 and unseen.content["notes"] == [
        "city: 1 row with categories that training did not have ('Bern')"
    ]
    for body, said in (
        ({"inputs": [{"age": 1, "city": "Rome"}]}, "row 0: lacks the columns joined, rate"),
        ({**rows[0], "age": "old"}, "column age: cannot read 'old'; send numbers"),
        ({**rows[0], "age": True}, "column age: cannot read 'True'"),
        ({**rows[0], "joined": "soon"}, "column joined: cannot read 'soon'; send dates such as"),
        ({**rows[0], "age": {}}, "row 0, column age: a cell is a object"),
        ({"inputs": [[1, 2]]}, "row 0 has 2 cells, not 4"),
        ({"inputs": {"age": [1], "city": ["a", "b"], "joined": [None], "rate": [1]}}, "different numbers of cells"),
        ({"inputs": []}, "no rows"),
        ({"inputs": 5}, "not a table"),
    ):
        refused = asked(mixed, body)
        assert (refused.status, said in refused.content["message"]) == (422, True), refused


def test_numbers_of_a_table_are_sent_by_name(there: Path) -> None:
    table(there / "price.csv", "price")
    run = train("price", "data=csv", "data.path=price.csv", "data.target=price", "loss=mse")
    predictor = Predictor(find(str(run)))
    wanted = as_objects(*predictor.table(predictor(torch.tensor([[4.0, 5.0], [1.5, 2.0]], dtype=torch.float64))))
    assert [set(one) for one in wanted] == [{"price"}] * 2
    rows = [{"height": 5, "width": 4.0}, {"width": 1.5, "height": 2, "price": 7}]
    assert close(asked(run, {"inputs": rows}), wanted)
    assert close(asked(run, {"inputs": [[4, 5], [1.5, 2]]}), wanted)
    assert close(asked(run, b"height,width\n5,4\n2,1.5\n", "text/csv"), wanted)
    for body, said in (
        ({**rows[0], "width": "4"}, "column width is '4', not a number"),
        ({**rows[0], "width": None}, "column width is blank"),
        (json.dumps(rows[0]).replace("4.0", "1e999").encode(), "column width: the number is not finite"),
        ({**rows[0], "width": 10**400}, "too large"),
    ):
        refused = asked(run, body)
        assert (refused.status, said in refused.content["message"]) == (422, True), refused


def test_wrong_arguments_are_exit_2(run: Path, reported: list[Problem]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert serve.main([f"run={run}", f"port={taken}"]) == 2
    assert about(reported) == [("port", "unavailable")] and f"port={taken}" in reported[0].text
    for arguments, problem in (
        ([f"run={run}", "port=http"], ("port", "range")),
        ([f"run={run}", "port=0", "host=nowhere.invalid"], ("host", "unavailable")),
        ([f"run={run}", "port=0", "max_mb=0"], ("max_mb", "range")),
        (["run=nothing", "port=0"], ("run", "file")),
        (["port=0"], ("run", "missing")),
    ):
        reported.clear()
        assert serve.main(arguments) == 2
        assert about(reported) == [problem]


def test_a_signal_ends_it_after_the_requests_at_work(server: Serving) -> None:  # the last test: the server is gone
    body = json.dumps({"inputs": [ONE]}).encode()
    head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with server.connect() as connection, server.connect():
        connection.sendall(head % len(body) + body[:9])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        connection.sendall(body[9:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    _, printed = server.process.communicate(timeout=10)
    assert server.process.returncode == 0
    assert [line.split()[0] for line in printed.splitlines()] == ["served"], printed
