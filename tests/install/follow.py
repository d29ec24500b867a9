#!/usr/bin/env python3
"""Follows docs/install.md word for word: writes its files, runs its commands, and compares their output.

    tests/install/follow.py --program target/debug/callback-source

The script needs root. It runs in separate namespaces, so that it can use the paths and ports of the page, and no packet
leaves the machine. A comment above a block of the page names the use of the block:

    install: file PATH      the content of a file
    install: here           commands on the machine of the web server, with their output; `…` is any text
    install: elsewhere      the same on another machine, whose address is not listed
    install: restart        the program is started again, as the unit starts it
    install: reload         the program reads its configuration again
    install: reload-nginx   nginx is started, or reads its configuration again

At the end, a callback from a listed address must reach the shop, and a callback from an unlisted address must not reach
it. An alert of the package must fire in promtool. With --picture, Chromium takes a screenshot of the status page.
"""

import argparse
import http.server
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "install.md"
UNIT = ROOT / "packaging" / "systemd" / "callback-source.service"
ALERTS = ROOT / "packaging" / "prometheus"
sys.path.insert(0, str(ROOT / "tests" / "gateways"))
SERVER, UNLISTED, LISTED = "192.0.2.1", "192.0.2.2", "104.45.28.230"
READY = "http://127.0.0.1:8481/readyz"


def blocks(page):
    """Returns the marked blocks, each as line number, use, and lines."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        marker = re.fullmatch(r"<!-- install: (.+) -->", line)
        if marker:
            start = number + 2
            end = lines.index("```", start)
            yield number + 1, marker[1], lines[start:end]


def commands(lines):
    """Returns the commands of a console block with their output."""
    found = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0] + "\n" + line, [])
        else:
            found[-1][1].append(line)
    return found


def run(*words):
    subprocess.run(words, check=True)


class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests = []

    def respond(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = respond

    def log_message(self, *_):
        pass


class Machine:
    """The machine with the web server, and a second machine, `elsewhere`, that is connected to the first."""

    def __init__(self, folder, program):
        self.folder, self.program = folder, program
        self.serve = self.nginx = None
        run("mount", "--make-rprivate", "/")
        etc = folder / "etc"
        run("cp", "--archive", "/etc", str(etc))
        shutil.rmtree(etc / "callback-source", ignore_errors=True)
        (etc / "callback-source").mkdir()
        for site in (etc / "nginx" / "sites-enabled").glob("*"):
            site.unlink()
        (etc / "resolv.conf").unlink()
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        with open(etc / "hosts", "a", encoding="utf-8") as hosts:
            hosts.write(f"\n{SERVER} shop.example\n")
        run("mount", "--bind", str(etc), "/etc")
        for path, inside in (("/run", ""), ("/var/log", "nginx"), ("/var/lib", "nginx"), ("/var/lib", "callback-source")):
            if not os.path.ismount(path) or path == "/run":
                run("mount", "-t", "tmpfs", "tmpfs", path)
            os.makedirs(os.path.join(path, inside), exist_ok=True)
        (folder / "bin").mkdir()
        (folder / "bin" / "callback-source").symlink_to(program)
        self.environment = {"PATH": f"{folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

        self.elsewhere = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        here, there = os.readlink("/proc/self/ns/net"), f"/proc/{self.elsewhere.pid}/ns/net"
        wait_for(lambda: os.readlink(there) != here, "the second network namespace")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "front", "type", "veth", "peer", "name", "away")
        run("ip", "link", "set", "away", "netns", str(self.elsewhere.pid))
        run("ip", "address", "add", f"{SERVER}/24", "dev", "front")
        run("ip", "link", "set", "front", "up")
        run("ip", "route", "add", LISTED, "dev", "front")
        for words in (f"address add {UNLISTED}/24 dev away", f"address add {LISTED}/32 dev away", "link set away up"):
            run(*self.from_elsewhere("ip"), *words.split())

    def from_elsewhere(self, *words):
        return ["nsenter", f"--net=/proc/{self.elsewhere.pid}/ns/net", *words]

    def check(self, command, expected, prefix=()):
        words = [*prefix, "bash", "-c", command]
        result = subprocess.run(words, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        output = result.stdout.decode(errors="replace").replace("\r", "").splitlines()
        pattern = "\n".join(expected)
        if not re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), "\n".join(output), re.S):
            raise SystemExit(f"`{command}` printed {output}, expected {expected}; exit code {result.returncode}")

    def restart(self):
        """Starts the program as the unit does."""
        if self.serve:
            self.serve.send_signal(signal.SIGTERM)
            if self.serve.wait(timeout=30) != 0:
                raise SystemExit(f"the service ended with {self.serve.returncode}")
        start = re.search(r"^ExecStart=/usr/bin/callback-source (.+)$", UNIT.read_text(encoding="utf-8"), re.M)
        words = [str(self.program), *shlex.split(start[1])]
        self.serve = subprocess.Popen(words, env=self.environment, stderr=open(self.folder / "log", "ab"))
        wait_for(lambda: status(READY) == 200, "the service to be ready")

    def reload(self):
        self.serve.send_signal(signal.SIGHUP)
        log = self.folder / "log"
        wait_for(lambda: b"configuration reloaded" in log.read_bytes(), "the reload")

    def reload_nginx(self):
        if self.nginx:
            self.nginx.send_signal(signal.SIGHUP)
        else:
            self.nginx = subprocess.Popen(["nginx", "-g", "daemon off;"])
        wait_for(lambda: status(f"http://{SERVER}/") is not None, "nginx")


def status(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait_for(condition, what):
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited for {what} for 30 s")
        time.sleep(0.02)


def take(picture, folder):
    """Takes a screenshot of the status page."""
    picture.unlink(missing_ok=True)
    home = folder / "chromium"
    environment = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    home.mkdir()
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         f"--user-data-dir={home}", "--window-size=1280,900", f"--screenshot={picture}",
         "http://127.0.0.1:8481/status?still"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=True)
    if not picture.read_bytes().startswith(b"\x89PNG"):
        raise SystemExit(f"{picture} is no picture")
    print(f"a picture of the status page: {picture}")


def follow(program, picture):
    import matrix

    class Dns(matrix.Dns):
        """A DNS server that answers a question for any name with the listed address, on port 53."""

        def __init__(self):
            self.addresses, self.delay, self.ttl = {LISTED}, 0.0, 300
            self.socket = matrix.socket.socket(matrix.socket.AF_INET, matrix.socket.SOCK_DGRAM)
            self.socket.bind(("127.0.0.1", 53))
            threading.Thread(target=self.run, daemon=True).start()

    count = 0
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(pathlib.Path(folder), program)
        try:
            Dns()
            shop = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Shop)
            threading.Thread(target=shop.serve_forever, daemon=True).start()
            for line, use, lines in blocks(PAGE):
                print(f"docs/install.md:{line}: {use}", flush=True)
                count += 1
                word, _, rest = use.partition(" ")
                if word == "file":
                    pathlib.Path(rest).write_text("\n".join(lines) + "\n", encoding="utf-8")
                elif word == "restart" and lines == ["sudo systemctl restart callback-source"]:
                    machine.restart()
                elif word == "reload" and lines == ["sudo systemctl reload callback-source"]:
                    machine.reload()
                elif word == "reload-nginx" and lines == ["sudo systemctl reload nginx"]:
                    machine.reload_nginx()
                elif word in ("here", "elsewhere"):
                    prefix = machine.from_elsewhere() if word == "elsewhere" else ()
                    for command, expected in commands(lines):
                        machine.check(command, expected, prefix)
                else:
                    raise SystemExit(f"docs/install.md:{line}: unknown use `{use}`")
            if count < 12:
                raise SystemExit(f"only {count} blocks of docs/install.md are marked")

            Shop.requests.clear()
            callback = "curl --silent --output /dev/null --write-out '%{http_code}' --data '{}' http://shop.example/vipps/end"
            machine.check(f"{callback} --interface {LISTED}", ["200"], machine.from_elsewhere())
            machine.check(f"{callback} --interface {UNLISTED}", ["403"], machine.from_elsewhere())
            if Shop.requests != ["/vipps/end"]:
                raise SystemExit(f"the shop received {Shop.requests}")
            run("promtool", "test", "rules", str(ALERTS / "tests.yml"))
            if picture:
                take(picture, pathlib.Path(folder))
        except BaseException:
            log = pathlib.Path(folder) / "log"
            print(log.read_text(errors="replace") if log.exists() else "", file=sys.stderr)
            raise
        finally:
            for process in (machine.serve, machine.nginx, machine.elsewhere):
                if process:
                    process.terminate()
                    process.wait()
    print(f"followed {count} blocks; the shop is guarded, and the three questions have their answers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path, metavar="PATH", help="takes a picture of the status page")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    picture = arguments.picture and arguments.picture.resolve()
    if arguments.inside:
        return follow(arguments.program.resolve(), picture)
    tools = ("unshare", "nsenter", "ip", "nginx", "curl", "mount", "promtool", *["chromium"] * bool(picture))
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [tool for tool in tools if not shutil.which(tool, path=path)]
    if os.geteuid() != 0 or missing:
        print(f"skipped: docs/install.md is not followed; it needs root and {', '.join(missing or tools)}", file=sys.stderr)
        sys.exit(os.environ.get("REQUIRE_SERVERS") == "1")
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
    os.environ["PATH"] = path
    words += [__file__, "--program", str(arguments.program.resolve()), "--inside"]
    if picture:
        words += ["--picture", str(picture)]
    sys.exit(subprocess.run(words).returncode)


if __name__ == "__main__":
    main()
