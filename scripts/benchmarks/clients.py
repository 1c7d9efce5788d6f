"""Clients of a server of predictions: each sends its requests one after the other, on one connection."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator

WARM = 100
"""Requests before the clock starts."""


def make_messages() -> list[bytes]:
    """Return a request for each test image of digits."""
    from runner.data.digits import digits

    test = digits().test
    assert test is not None
    bodies = [json.dumps({"inputs": [image]}).encode() for image in test[0].tolist()]
    head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return [head % len(body) + body for body in bodies]


def ask(port: int, messages: list[bytes], requests: int, clients: int) -> dict[str, list[float]]:
    """Send requests.

    Args:
        port: of a server on this machine.
        messages: which are sent one after the other, and again from the first.
        requests: how many.
        clients: that send them.

    Returns:
        The seconds of all requests, and the 99th percentile of those of one.

    Raises:
        RuntimeError: a request was lost, or its answer is not that of its image.
    """
    asyncio.run(_all(port, messages, WARM, clients))
    began = time.perf_counter()
    answers = asyncio.run(_all(port, messages, requests, clients))
    seconds = time.perf_counter() - began
    if len(answers) != requests:
        raise RuntimeError(f"{requests - len(answers)} of {requests} requests have no answer")
    best: dict[int, int] = {}
    for place, answer, _ in answers:
        first = json.loads(answer)["predictions"][0]
        scores = first if isinstance(first, list) else [first[f"p_{digit}"] for digit in range(10)]
        if best.setdefault(place, scores.index(max(scores))) != scores.index(max(scores)):
            raise RuntimeError(f"image {place} has got different answers")
    if len(set(best.values())) < 10:
        raise RuntimeError("some digits were never answered")
    latencies = sorted(latency for *_, latency in answers)
    return {"seconds": [seconds], "p99": [statistics.quantiles(latencies, n=100)[98]]}


async def _all(port: int, messages: list[bytes], requests: int, clients: int) -> list[tuple[int, bytes, float]]:
    """Return the number of the image, the answer and the seconds of each request."""
    numbers = iter(range(requests))
    each = await asyncio.gather(*(_client(port, messages, numbers) for _ in range(clients)))
    return [answer for answers in each for answer in answers]


async def _client(port: int, messages: list[bytes], numbers: Iterator[int]) -> list[tuple[int, bytes, float]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for number in numbers:
        place = number % len(messages)
        began = time.perf_counter()
        writer.write(messages[place])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(head.decode())
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answers.append((place, await reader.readexactly(length), time.perf_counter() - began))
    writer.close()
    return answers
