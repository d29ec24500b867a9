#!/usr/bin/env python3
"""Measures a merchant's route under load, bare and behind several checks. All traffic stays on loopback.

    compare.py run           measures, writes compare.csv, prints the table
    compare.py table         prints the table of compare.csv
    compare.py plot          writes compare.svg from compare.csv
    compare.py instructions  counts the instructions of the whole process per request
    compare.py nginx         measures the checks of nginx in turns of one process, writes nginx.csv, prints its table
    compare.py gateways      measures the configurations of docs/forward-auth.md, writes gateways.csv, prints its table

Each round restarts every service in random order and sends requests to it. Other work on the machine, the effects of
the previous service and the memory layout of a process therefore affect all services alike. Each ratio is relative to
the bare route in the same round.

`nginx` starts all servers once, and sends requests to the ports of one nginx in turn. The intervals are therefore
narrow even on a noisy machine. Each ratio is relative to `allow`/`deny` in the same round.
"""

import argparse
import contextlib
import csv
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import gateways

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = os.environ.get("CARGO_TARGET_DIR")
PATH = "/callbacks/v2/payments/order-1"
BODY = json.dumps({"reference": "order-1", "pad": "x" * 221})
CONNECTIONS = 64

PORTS = {
    "bare": 18100,
    "bare again": 18101,
    "no-op layer": 18102,
    "least check": 18103,
    "layer": 18104,
    "layer around the router": 18105,
    "axum-client-ip + HashSet": 18106,
    "nginx allow/deny": 18107,
    "Caddy remote_ip": 18108,
    "nginx auth_request": 18109,
    "nginx geo followed": 18111,
    "nginx hybrid, listed": 18112,
    "nginx auth_request, no keep-alive": 18113,
}
SERVE = 18110

# For each service without a proxy, the argument that selects its check.
CHECKS = {
    "bare": "bare",
    "bare again": "bare",
    "no-op layer": "no-op",
    "least check": "least",
    "layer": "layer",
    "layer around the router": "around",
    "axum-client-ip + HashSet": "client-ip",
}

LUA = """
wrk.method = "POST"
wrk.body = '%s'
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("result %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(99), errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
""" % BODY

NGINX = """
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  geo $callback_listed {{ default 0; include {dir}/callers.geo; }}
  upstream app {{ server 127.0.0.1:{bare}; keepalive 64; keepalive_requests 1000000000; }}
  upstream verify {{ server 127.0.0.1:{serve}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{static};
    {rules}
    deny all;
    location / {{ proxy_pass http://app; }}
  }}
  server {{
    listen 127.0.0.1:{auth};
    location / {{ auth_request /verify; proxy_pass http://app; }}
    location = /verify {{
      internal;
      proxy_pass http://verify;
      proxy_bind 127.0.0.9;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection "";
      proxy_set_header X-Real-IP $remote_addr;
    }}
  }}
  server {{
    listen 127.0.0.1:{geo};
    location / {{
      if ($callback_listed = 0) {{ return 403; }}
      proxy_pass http://app;
    }}
  }}
  # The hybrid of docs/firewall.md.
  server {{
    listen 127.0.0.1:{hybrid};
    recursive_error_pages on;
    location / {{
      error_page 418 = @check;
      if ($callback_listed = 0) {{ return 418; }}
      proxy_pass http://app;
    }}
    location @check {{ auth_request /verify; proxy_pass http://app; }}
    location = /verify {{
      internal;
      proxy_pass http://verify;
      proxy_bind 127.0.0.9;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection "";
      proxy_set_header X-Real-IP $remote_addr;
    }}
  }}
  # Opens a connection for each request to the endpoint, as nginx before 1.29.7 does by default.
  server {{
    listen 127.0.0.1:{old};
    location / {{ auth_request /verify; proxy_pass http://app; }}
    location = /verify {{
      internal;
      proxy_pass http://127.0.0.1:{serve}/verify;
      proxy_http_version 1.0;
      proxy_bind 127.0.0.9;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection close;
      proxy_set_header X-Real-IP $remote_addr;
    }}
  }}
}}
"""

LISTED = [f"20.0.{at}.7" for at in range(15)] + ["127.0.0.1"]

CADDY = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  bind 127.0.0.1
  @listed remote_ip {listed}
  handle @listed {{
    reverse_proxy 127.0.0.1:{bare}
  }}
  handle {{
    respond 403
  }}
}}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["run", "table", "plot", "instructions", "nginx", "gateways"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path, help="of `gateways`: path of callback-source, else it is built")
    args = parser.parse_args()
    args.csv = args.csv or HERE / {"gateways": "gateways.csv", "nginx": "nginx.csv"}.get(args.what, "compare.csv")
    if args.what == "gateways":
        gateways.run(args)
        return gateways.table(args.csv)
    if args.what == "nginx":
        turns(args)
        return table(read(args.csv), "nginx allow/deny")
    if args.what == "run":
        run(args)
    if args.what == "instructions":
        return instructions()
    rows = read(args.csv)
    if args.what == "plot":
        args.csv.with_suffix(".svg").write_text(plot(rows))
    else:
        table(rows)


def target(workspace):
    return pathlib.Path(TARGET) if TARGET else workspace / "target"


def build():
    cargo = ["cargo", "build", "--release", "--locked", "--quiet"]
    subprocess.run(cargo, cwd=HERE, check=True)
    return target(HERE) / "release" / "bench"


def prepare():
    """Builds the service and the command, and checks the ports."""
    for tool in ("nginx", "caddy", "wrk"):
        if not shutil.which(tool):
            sys.exit(f"`{tool}` is not installed")
    service = build()
    cli = ["cargo", "build", "--release", "--locked", "--quiet", "--package", "callback-source-cli"]
    subprocess.run(cli, cwd=ROOT, check=True)
    command = target(ROOT) / "release" / "callback-source"
    for port in [*PORTS.values(), SERVE]:
        free(port)
    return service, command


def run(args):
    service, command = prepare()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o755)
        write_files(scratch, command)
        names = list(PORTS)
        for number in range(args.rounds):
            random.Random(number).shuffle(names)
            for name in names:
                with contextlib.ExitStack() as stack:
                    start(stack, name, service, command, scratch)
                    status = post(PORTS[name])
                    assert status == 200, f"{name}: {status}"
                    load(scratch, PORTS[name], 1)
                    rows.append([number, name, *load(scratch, PORTS[name], args.seconds)])
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    write(args.csv, rows)


def turns(args):
    service, command = prepare()
    names = [name for name in PORTS if name.startswith("nginx")]
    rows = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o755)
        write_files(scratch, command)
        start(stack, "nginx hybrid, listed", service, command, scratch)
        for name in names:
            assert post(PORTS[name]) == 200, name
            load(scratch, PORTS[name], 1)
        for number in range(args.rounds):
            random.Random(number).shuffle(names)
            rows += [[number, name, *load(scratch, PORTS[name], args.seconds)] for name in names]
    write(args.csv, rows)


def write(path, rows):
    """Writes a file after a complete run. After an aborted run, the previous file is kept."""
    with path.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["round", "service", "requests_per_second", "p99_us", "errors"])
        out.writerows(rows)


def follow(scratch):
    """Returns the arguments of a follower that writes the file of `geo`."""
    return ["follow", "--allow", ",".join(LISTED), f"file:nginx-geo:{scratch}/callers.geo"]


def write_files(scratch, command):
    (scratch / "post.lua").write_text(LUA)
    # nginx does not start without the file that `geo` includes.
    subprocess.run([command, *follow(scratch), "--once"], check=True)
    (scratch / "nginx.conf").write_text(NGINX.format(
        dir=scratch, bare=PORTS["bare"], serve=SERVE, static=PORTS["nginx allow/deny"],
        auth=PORTS["nginx auth_request"], geo=PORTS["nginx geo followed"], hybrid=PORTS["nginx hybrid, listed"],
        old=PORTS["nginx auth_request, no keep-alive"], rules=" ".join(f"allow {address};" for address in LISTED),
    ))
    (scratch / "Caddyfile").write_text(CADDY.format(
        port=PORTS["Caddy remote_ip"], bare=PORTS["bare"], listed=" ".join(LISTED)))


def start(stack, name, service, command, scratch):
    """Starts a service with its proxy and its endpoint, and waits until all of them listen."""
    run = lambda *line, **env: stack.enter_context(running(line, env))
    proxied = name not in CHECKS
    behind = "bare" if proxied else name
    run(service, CHECKS[behind], PORTS[behind])
    ports = {PORTS[behind], PORTS[name]}
    if name in ("nginx geo followed", "nginx hybrid, listed"):
        run(command, *follow(scratch))
    if name.startswith("nginx auth_request") or name == "nginx hybrid, listed":
        run(
            command, "serve", "--stop-delay", "0s", "--listen", f"127.0.0.1:{SERVE}", "--allow", "127.0.0.1/32",
            "--trusted-proxy", "127.0.0.9", "--client-ip-header", "x-real-ip",
            # No verdict in this benchmark depends on this host, so no DNS server listens at this address.
            "--host", "callback.example.com", "--dns-server", "127.0.0.1:9",
        )
        ports.add(SERVE)
    if name.startswith("nginx"):
        run("nginx", "-c", scratch / "nginx.conf")
    if name.startswith("Caddy"):
        run("caddy", "run", "--config", scratch / "Caddyfile", "--adapter", "caddyfile",
            GOMAXPROCS="1", XDG_DATA_HOME=str(scratch), XDG_CONFIG_HOME=str(scratch))
    for port in ports:
        wait_for(port)


@contextlib.contextmanager
def running(line, env):
    process = subprocess.Popen(
        [str(part) for part in line], env={**os.environ, **env}, preexec_fn=lambda: pin(0),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def pin(core):
    """Pins a process to a core. The service and its proxies use one core, and the load generator uses another core."""
    if os.cpu_count() >= 2:
        os.sched_setaffinity(0, {core})


def free(port):
    """Exits if a port is in use, because a process of an earlier run would be measured instead."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        sys.exit(f"something listens on port {port}")


def wait_for(port):
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


def post(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response.status


def load(scratch, port, seconds):
    script = scratch / "post.lua"
    wrk = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{port}{PATH}"],
        capture_output=True, text=True, check=True, preexec_fn=lambda: pin(1))
    requests, duration, p99, errors = map(int, re.search(r"result (\d+) (\d+) (\d+) (\d+)", wrk.stdout).groups())
    return round(requests / duration * 1e6), p99, errors


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def paired(rows, column, base="bare"):
    """Returns the ratios of each service to the service `base` in the same round."""
    value = {(row["round"], row["service"]): float(row[column]) for row in rows}
    rounds = sorted({row["round"] for row in rows}, key=int)
    return {name: [value[at, name] / value[at, base] for at in rounds] for name in measured(rows)}


def measured(rows):
    """Returns the services of a run, in the order of the table. An older file lacks services that were added later."""
    names = {row["service"] for row in rows}
    return [name for name in PORTS if name in names]


def ratios(rows, column, base="bare"):
    """Returns the median of the ratios and its 95 % interval for each service."""
    result = {}
    for name, of in paired(rows, column, base).items():
        chance = random.Random(1)
        medians = sorted(statistics.median(chance.choices(of, k=len(of))) for _ in range(10_000))
        result[name] = statistics.median(of), medians[250], medians[-251]
    return result


def table(rows, base="bare"):
    throughput, p99 = ratios(rows, "requests_per_second", base), ratios(rows, "p99_us", base)
    rounds = paired(rows, "requests_per_second", base)
    errors = {name: sum(int(row["errors"]) for row in rows if row["service"] == name) for name in measured(rows)}
    print("| | requests/s | throughput [95 %] | single rounds | p99 | p99 [95 %] | errors |\n|---|---|---|---|---|---|---|")
    for name in measured(rows):
        mine = [row for row in rows if row["service"] == name]
        median = lambda column: statistics.median(float(row[column]) for row in mine)
        ratio = lambda of: "{:.3f} [{:.3f}, {:.3f}]".format(*of[name])
        print(f"| {name} | {median('requests_per_second'):,.0f} | {ratio(throughput)} "
              f"| {min(rounds[name]):.3f} to {max(rounds[name]):.3f} "
              f"| {median('p99_us') / 1000:.2f} ms | {ratio(p99)} | {errors[name]} |")


def plot(rows):
    throughput = ratios(rows, "requests_per_second")
    names = [name for name in throughput if name != "bare"]
    left, width, step, top = 190, 420, 34, 40
    most = max(1.1, *(high for _, _, high in throughput.values()))
    at = lambda ratio: left + ratio / most * width
    bottom = top + step * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {bottom + 40}" '
        'font-family="sans-serif" font-size="13" fill="#333">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{left}" y="20">Throughput as a ratio to the bare route, median and 95 % interval</text>',
    ]
    for tick in range(0, int(most * 10) // 2 + 1):
        x = at(tick / 5)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{bottom}" stroke="{"#333" if tick == 5 else "#ddd"}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick / 5:.1f}</text>')
    for number, name in enumerate(names):
        middle, low, high = throughput[name]
        y = top + step * number + step // 2
        colour = "#2a6f97" if name.startswith("layer") else "#a0a0a0"
        parts += [
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{name}</text>',
            f'<rect x="{left}" y="{y - 9}" width="{at(middle) - left:.1f}" height="18" fill="{colour}"/>',
            f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{y}" y2="{y}" stroke="#000" stroke-width="2"/>',
            f'<text x="{at(high) + 8:.1f}" y="{y + 4}">{middle:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def instructions():
    """Prints the instructions per request. They are the count for 5,000 requests minus the count for 1,000 requests,
    which excludes the start."""
    service = build()
    bare = None
    for check in dict.fromkeys(CHECKS.values()):
        few, many = (collected(service, check, requests) for requests in (1_000, 5_000))
        each = (many - few) / 4_000
        bare = bare or each
        print(f"| {check} | {each:,.0f} | {each / bare:.3f} |", flush=True)


def collected(service, check, requests):
    port = PORTS["bare"]
    free(port)
    # Head and body are in one segment, so that each request causes the same number of reads.
    request = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    ).encode()
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    process = subprocess.Popen([*valgrind, service, check, str(port)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(port)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(requests):
                connection.sendall(request)
                response = connection.recv(4096)
                assert response.startswith(b"HTTP/1.1 200") and response.endswith(b"received 256"), response
    finally:
        process.terminate()
    return int(re.search(r"Collected : (\d+)", process.communicate()[1]).group(1))


main()
