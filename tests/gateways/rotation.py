#!/usr/bin/env python3
"""Sends callbacks through nginx, Traefik and Envoy over gRPC while the zone rotates, and judges every response.

    tests/gateways/rotation.py --program target/debug/callback-source --venv DIR [--count 100000] [--seconds 12]

The gateways have the configurations of docs/forward-auth.md. Every half second, one of the rotating addresses leaves
the zone and another address enters it. For each callback, the history of the zone determines the right result:

- a callback must reach the shop if its address has been in the zone for 6 s, or left the zone less than the linger time
  ago;
- a callback must get 403 if its address left the zone more than 14 s ago, or was never in the zone;
- at other times, either result is right, because the list gets the new answer after the TTL or by an on-demand refresh.

If the shop received the unchanged callback, the caller must get the shop's 201. Otherwise, the caller must get 403. On
a busy machine, a gateway that did not get a verdict in time responds with 503. The callback is then sent again, as the
provider does. The table shows the number of these responses. `--count` is the number of callbacks for each gateway, and
`--seconds` is the minimum time for them. All traffic stays on 127.0.0.0/8.
"""

import argparse
import asyncio
import os
import pathlib
import shutil
import sys
import tempfile
import time

import matrix

ALWAYS = [f"127.0.1.{number}" for number in range(1, 17)]
ROTATING = [f"127.0.3.{number}" for number in range(1, 61)]
NEVER = [f"127.0.2.{number}" for number in range(1, 15)]
# Seconds between two changes, and the number of rotating addresses that are in the zone at any time.
STEP, WINDOW = 0.5, 16
# TTL, minimum TTL and linger time of the endpoint, in seconds.
TTL, LINGER = 1, 3
# An address lingers until the next answer, even if the linger time is shorter. The lookup of that answer may take 5 s.
LONGEST_LINGER = 8
# Time until the list must know a change. It is the sum of the TTL, the second after the TTL, the jitter, and a margin
# for a busy machine.
KNOWN = 6
ATTEMPTS = 10
GATEWAYS = ["nginx 1.22", "Traefik 3.7", "Envoy 1.40, gRPC"]


class Zone:
    """The zone's history: for each address, the times at which it entered and left."""

    def __init__(self, dns):
        self.dns, self.position, self.changes = dns, 0, 0
        self.stays = {address: [] for address in ALWAYS + ROTATING + NEVER}
        start = time.monotonic() - 3600
        for address in ALWAYS:
            self.stays[address].append([start, None])
        self.current = []
        self.publish()

    def publish(self):
        at = [(self.position + number) % len(ROTATING) for number in range(WINDOW)]
        current = [ROTATING[number] for number in at]
        for address in set(current) - set(self.current):
            self.stays[address].append([time.monotonic(), None])
        self.dns.addresses = {*ALWAYS, *current}
        for address in set(self.current) - set(current):
            self.stays[address][-1][1] = time.monotonic()
        self.current = current

    async def rotate(self):
        while True:
            await asyncio.sleep(STEP)
            self.position += 1
            self.changes += 1
            self.publish()

    def expected(self, address, start, end):
        """Returns `True` if a callback at this time must reach the shop, `False` if it must not, and `None` if either
        is right."""
        stays = self.stays[address]
        if any(entered + KNOWN <= start and (left is None or end <= left + LINGER) for entered, left in stays):
            return True
        if all(end < entered or (left is not None and left + LONGEST_LINGER + KNOWN < start) for entered, left in stays):
            return False
        return None


class Shop:
    """A shop that records the callbacks that it received."""

    def __init__(self):
        self.got, self.changed = {}, 0

    async def start(self):
        self.server = await asyncio.start_server(self.serve, matrix.FRONT, 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while True:
                head, body = await read(reader)
                target = head.split(b" ")[1].decode()
                self.got[target] = self.got.get(target, 0) + 1
                self.changed += head[:5] != b"POST " or body.decode() != body_of(target)
                writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


def status_of(head):
    return int(head.split()[1])


def body_of(target):
    return f'{{"orderId":"{target}"}}'


async def read(reader):
    """Returns head and body of a message."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"\r\ntransfer-encoding: chunked" in lower:
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return head, body
    length = lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return head, await reader.readexactly(int(length or 0))


class Callers:
    """Sends callbacks from every address until `count` callbacks are judged. Each address keeps its connection open."""

    def __init__(self, zone, shop, port, count, seconds):
        self.zone, self.shop, self.port, self.left, self.judged = zone, shop, port, count, 0
        self.results = {"admitted": 0, "refused": 0, "either": 0}
        self.again, self.wrong = 0, []
        self.start, self.pause = time.monotonic(), seconds / count

    async def call_from(self, address):
        reader = writer = None
        while self.left > 0:
            self.left -= 1
            self.judged += 1
            number = self.judged
            # Spreads the callbacks over the time of `--seconds`, so that the zone rotates even during a short run.
            await asyncio.sleep(self.start + number * self.pause - time.monotonic())
            target = f"/vipps/{address}/{number}"
            body = body_of(target)
            request = f"POST {target} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            for _ in range(ATTEMPTS):
                start, head = time.monotonic(), b""
                try:
                    kept = writer is not None
                    if not kept:
                        opened = asyncio.open_connection(matrix.FRONT, self.port, local_addr=(address, 0))
                        reader, writer = await opened
                    writer.write(request.encode())
                    head, _ = await asyncio.wait_for(read(reader), 20)
                except (OSError, EOFError, asyncio.TimeoutError) as error:
                    # A gateway may close a kept connection at this moment.
                    if not kept or target in self.shop.got:
                        self.wrong.append(f"{target}: {error!r}")
                if not head or b"\r\nconnection: close" in head.lower():
                    if writer:
                        writer.close()
                    reader = writer = None
                if (head and status_of(head) != 503) or target in self.shop.got:
                    break
                self.again += bool(head)
            self.judge(address, target, head, start)

    def judge(self, address, target, head, start):
        end = time.monotonic()
        status = status_of(head) if head else 0
        got = self.shop.got.pop(target, 0)
        expected = self.zone.expected(address, start, end)
        outcome = (status, got)
        if outcome == (201, 1) and expected is not False:
            self.results["either" if expected is None else "admitted"] += 1
        elif outcome == (403, 0) and expected is not True:
            self.results["either" if expected is None else "refused"] += 1
        else:
            self.wrong.append(f"{target}: {status}, shop {got}, must reach the shop: {expected}")


async def run(gateway, program, page, count, seconds):
    """Returns the gateway's row of the table, and the errors."""
    dns = matrix.Dns()
    dns.ttl = TTL
    zone, shop = Zone(dns), Shop()
    await shop.start()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="rotation-"))
    endpoint = process = None
    loop = asyncio.get_running_loop()
    try:
        flags = ["--min-ttl", f"{TTL}s", "--linger", f"{LINGER}s"]
        endpoint = await loop.run_in_executor(
            None, lambda: matrix.Endpoint(program, dns, gateway.header, flags=flags))
        await loop.run_in_executor(None, matrix.wait_until, "the first lookup", endpoint.is_ready)
        process, port, _ = await loop.run_in_executor(None, gateway.start, page, shop, endpoint, folder)
        shop.got.clear()
        shop.changed = 0
        rotating = asyncio.create_task(zone.rotate())
        callers = Callers(zone, shop, port, count, seconds)
        start = time.monotonic()
        await asyncio.gather(*map(callers.call_from, ALWAYS + ROTATING + NEVER))
        took = time.monotonic() - start
        rotating.cancel()
    finally:
        if process:
            matrix.stop(process)
        if endpoint:
            endpoint.stop()
        shop.server.close()
        shutil.rmtree(folder, ignore_errors=True)
    if shop.got or shop.changed:
        callers.wrong.append(f"the shop got {len(shop.got)} callbacks without a response, {shop.changed} changed ones")
    results = callers.results
    if not all(results[name] for name in ("admitted", "refused")):
        callers.wrong.append(f"nothing was judged: {results}")
    row = [gateway.name, f"{sum(results.values()) + len(callers.wrong):,}", f"{results['admitted']:,}",
           f"{results['refused']:,}", f"{results['either']:,}", str(callers.again), str(zone.changes),
           f"{took:.0f} s", str(len(callers.wrong))]
    return row, callers.wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="path of callback-source")
    parser.add_argument("--venv", help="virtual environment with the gateways")
    parser.add_argument("--only", nargs="+", default=GATEWAYS, help="names of gateways")
    parser.add_argument("--count", type=int, default=100_000, help="callbacks for each gateway")
    parser.add_argument("--seconds", type=float, default=12, help="least time for each gateway")
    arguments = parser.parse_args()
    program = os.path.abspath(arguments.program)
    venv = os.path.abspath(arguments.venv) if arguments.venv else None
    page = matrix.PAGE.read_text(encoding="utf-8")
    print("| gateway | callbacks | must pass, passed | must get 403, got it | either, both right | 503, sent again "
          "| changes of the zone | time | wrong |\n|---|---|---|---|---|---|---|---|---|")
    failed = False
    for name, installed, gateway in matrix.gateways(venv):
        if name not in arguments.only:
            continue
        if not installed:
            print(f"skipped: {name} is not installed", file=sys.stderr)
            failed |= os.environ.get("REQUIRE_SERVERS") == "1"
            continue
        row, wrong = asyncio.run(run(gateway, program, page, arguments.count, arguments.seconds))
        print("| " + " | ".join(row) + " |", flush=True)
        for line in wrong[:20]:
            print(f"wrong: {name}: {line}", file=sys.stderr)
        failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
