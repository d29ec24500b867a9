"""Measures the processor time of the configurations of docs/forward-auth.md, for `compare.py gateways`.

Each round starts every server anew, in random order. A load generator sends callbacks from a listed address over 64
connections. The processor time of the server in front and of the endpoint is the time of their processes, divided by
the number of callbacks. The shop is a minimal responder, whose time is not included.
"""

import contextlib
import csv
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests" / "gateways"))
import matrix  # noqa: E402

CONNECTIONS = 64
TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """
upstream callback_source {{ server VERIFY; keepalive 64; }}
server {{
    listen LISTEN;
    {server}
    location /vipps/ {{ {route} proxy_pass http://UPSTREAM; }}
    {location}
}}
"""
STATIC = NGINX.format(
    server="", location="",
    route=" ".join(f"allow 20.0.{number}.7;" for number in range(15)) + f" allow {matrix.LISTED}; deny all;")
RETURN = NGINX.format(
    server="", route="auth_request /check;", location="location = /check { internal; return 200; }")
# An earlier configuration of the page, in which nginx opens a connection for each request to the endpoint.
BEFORE = NGINX.format(
    server="", route="auth_request /check;", location="""location = /check {
        internal;
        proxy_pass http://VERIFY/verify;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header X-Real-IP $remote_addr;
    }""")


def without(pattern):
    """Returns a change that removes the text with the request to the endpoint from the page's configuration. Only one
    file of the configuration has that text."""
    def change(text, **_):
        return re.sub(pattern, "", text, flags=re.S)
    return change


def instead(text):
    return lambda _, **__: text


# The columns are: name, gateway of the matrix, change of the gateway's configuration, endpoint.
NONE, SERVE, LEAST = "none", "serve", "least"
ROWS = [
    ("nginx, `proxy_pass` alone", "nginx 1.22", instead(NGINX.format(server="", route="", location="")), NONE),
    ("nginx, `allow`/`deny`", "nginx 1.22", instead(STATIC), NONE),
    ("nginx, `auth_request` to `return 200`", "nginx 1.22", instead(RETURN), NONE),
    ("nginx, as documented", "nginx 1.22", None, SERVE),
    ("nginx, as documented, least responder", "nginx 1.22", None, LEAST),
    ("nginx, a connection for each question", "nginx 1.22", instead(BEFORE), SERVE),
    ("nginx 1.31, `proxy_pass` alone", "nginx 1.31", instead(NGINX.format(server="", route="", location="")), NONE),
    ("nginx 1.31, as documented", "nginx 1.31", None, SERVE),
    ("Caddy, `reverse_proxy` alone", "Caddy 2.11", without(r"\t\tforward_auth.*?\n\t\t\}\n"), NONE),
    ("Caddy, as documented", "Caddy 2.11", None, SERVE),
    ("Traefik alone", "Traefik 3.7", without(r"      middlewares: \[callback-source\]\n"), NONE),
    ("Traefik, as documented", "Traefik 3.7", None, SERVE),
    ("HAProxy alone", "HAProxy 2.6", without(r"    http-request (lua|return status (403|503))[^\n]*\n"), NONE),
    ("HAProxy, as documented", "HAProxy 2.6", None, SERVE),
    ("Apache alone", "Apache 2.4", without(r"        LuaHookAccessChecker[^\n]*\n"), NONE),
    ("Apache, as documented", "Apache 2.4", None, SERVE),
    ("Envoy alone", "Envoy 1.40, HTTP", without(r"                  - name: envoy.filters.http.ext_authz.*?(?=                  - name: envoy.filters.http.router)"), NONE),
    ("Envoy over HTTP, as documented", "Envoy 1.40, HTTP", None, SERVE),
    ("Envoy over gRPC, as documented", "Envoy 1.40, gRPC", None, SERVE),
]
BARE = {name: bare for name, bare in zip(
    [name for name, *_ in ROWS],
    [[alone for alone, *_ in ROWS[:at + 1] if alone.endswith("alone")][-1] for at in range(len(ROWS))])}


class Least:
    """A minimal responder, as the shop or in place of `serve`."""

    def __init__(self, peers):
        # Another process may take the free port first. The responder then ends at once.
        for _ in range(5):
            self.port = self.grpc = matrix.free_port()
            self.process = subprocess.Popen([peers, "respond", str(self.port)])
            matrix.wait_until("the start of the responder", lambda: self.process.poll() is not None
                              or matrix.is_open(self.port))
            if self.process.poll() is None:
                return
        raise RuntimeError("the responder does not start")

    def stop(self):
        self.process.kill()
        self.process.wait()


def run(args):
    build = ["cargo", "build", "--release", "--locked", "--quiet"]
    subprocess.run(build, cwd=HERE / "peers", check=True)
    if args.program is None:
        subprocess.run([*build, "--package", "callback-source-cli"], cwd=ROOT, check=True)
        args.program = ROOT / "target" / "release" / "callback-source"
    peers = HERE / "peers" / "target" / "release" / "peers"
    venv = ROOT / "target" / "gateways"
    page = matrix.PAGE.read_text(encoding="utf-8")
    programs = {name: program for name, program, _ in matrix.gateways(venv)}
    rows, names = [], list(ROWS)
    for number in range(args.rounds):
        random.Random(number).shuffle(names)
        for name, server, change, endpoint in names:
            if not programs[server]:
                sys.exit(f"{server} is not installed")
            (gateway,) = [gateway for other, _, gateway in matrix.gateways(venv) if other == server]
            if change:
                own = gateway.extra if server.startswith("Caddy") else (lambda text, **_: text)
                gateway.extra = lambda text, own=own, change=change, **names: own(change(text), **names)
            elif not server.startswith("Caddy"):
                # The matrix adds a second listener, which is not needed here.
                gateway.extra = lambda text, **_: text
            rows.append([number, name, *measure(gateway, endpoint, args, peers, page)])
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    with args.csv.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["round", "configuration", "requests_per_second", "p99_us", "errors", "server_us", "endpoint_us"])
        out.writerows(rows)


def measure(gateway, endpoint, args, peers, page):
    """Returns requests per second, 99th percentile, errors, and the processor time per callback of server and
    endpoint."""
    dns, shop = matrix.Dns(), Least(peers)
    started, process = [shop], None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        try:
            if endpoint == SERVE:
                verify = matrix.Endpoint(str(args.program), dns, gateway.header)
                started.append(verify)
                matrix.wait_until("the first lookup", verify.is_ready)
            elif endpoint == LEAST:
                verify = Least(peers)
                started.append(verify)
            else:
                verify = shop
            process, port, _ = gateway.start(page, shop, verify, folder)
            for pid in (*group(process.pid), *(server.process.pid for server in started)):
                pin(pid, 0)
            load(peers, port, 1)
            asks = verify is not shop
            before = seconds(group(process.pid)), seconds([verify.process.pid]) if asks else 0
            requests, errors, p99, took = load(peers, port, args.seconds)
            after = seconds(group(process.pid)), seconds([verify.process.pid]) if asks else 0
        finally:
            if process:
                matrix.stop(process)
            for server in started:
                server.stop()
    each = [round((end - start) / requests * 1e6, 2) for start, end in zip(before, after)]
    return [round(requests / took), p99, errors, *each]


def pin(pid, core):
    """Pins every thread of a process to a core. All servers use one core, and the load generator uses the other
    core."""
    if os.cpu_count() >= 2:
        for thread in os.listdir(f"/proc/{pid}/task"):
            # A thread may have ended. New threads run on the core of their creator.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), {core})


def group(leader):
    """Returns the processes of a server, which is the leader of its own process group."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.getpgid(int(entry)) == leader:
                    found.append(int(entry))
            except ProcessLookupError:
                pass
    return found


def seconds(pids):
    """Returns the processor time of processes, in seconds."""
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def load(peers, port, duration):
    start = time.monotonic()
    done = subprocess.run(
        [peers, "load", f"{matrix.FRONT}:{port}", matrix.LISTED, str(CONNECTIONS), str(duration)],
        capture_output=True, text=True, check=True, preexec_fn=lambda: pin(os.getpid(), 1))
    requests, errors, p99 = map(int, done.stdout.split())
    return requests, errors, p99, time.monotonic() - start


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    value = {(row["round"], row["configuration"]): row for row in rows}
    rounds = sorted({row["round"] for row in rows}, key=int)

    def median(name, column):
        return statistics.median(float(value[at, name][column]) for at in rounds)

    def added(name):
        """Returns the processor time that a configuration adds to that of its server alone, in each round."""
        both = lambda at, of: sum(float(value[at, of][column]) for column in ("server_us", "endpoint_us"))
        return [both(at, name) - both(at, BARE[name]) for at in rounds]

    print("| configuration | server | endpoint | added to the server alone | throughput over the server alone | errors "
          "|\n|---|---|---|---|---|---|")
    for name, *_ in ROWS:
        extra = added(name)
        ratio = statistics.median(
            float(value[at, name]["requests_per_second"]) / float(value[at, BARE[name]]["requests_per_second"])
            for at in rounds)
        errors = sum(int(value[at, name]["errors"]) for at in rounds)
        print(f"| {name} | {median(name, 'server_us'):.1f} µs | {median(name, 'endpoint_us'):.1f} µs "
              f"| {statistics.median(extra):+.1f} µs ({min(extra):+.1f} to {max(extra):+.1f}) | {ratio:.2f} | {errors} |")
    ratios = [new / old for new, old in zip(
        added("nginx, as documented"), added("nginx, a connection for each question"))]
    print(f"\nnginx, as documented, over a connection for each question: {statistics.median(ratios):.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f})")
    ratios = [float(value[at, "nginx, as documented"]["endpoint_us"])
              / float(value[at, "nginx, as documented, least responder"]["endpoint_us"]) for at in rounds]
    print(f"serve over the least responder: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
