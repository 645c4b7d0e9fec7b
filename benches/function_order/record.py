#!/usr/bin/env python3
"""Records which functions a running `minimcp serve` needs, for build.rs beside it.

    benches/function_order/record.py [PROGRAM]

PROGRAM is a release build with its symbols; without it one is made, which takes long:

    cargo rustc --release --locked --bin minimcp -- -C strip=none

`serve` runs below valgrind's callgrind (Debian package `valgrind`), which needs no counters of the processor. What is
needed most often stands first: calls of the stateless era, calls within a session, then the life of instances, then
the start and the end.

The names hold what the compiler makes of the crates they come from: another compiler gives all of them others, another
dependency in Cargo.toml more than half. Record anew after that, and before a release; how many of the former names are
still there is told at the end.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import urlparse

HERE = Path(__file__).resolve().parent
NAMES = HERE / "names.txt"
CALLS = 500
INSTANCES = 12
REVISION = "2026-07-28"
META = "io.modelcontextprotocol/"


def main():
    program = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else build()
    known = symbols(program)
    former = NAMES.read_text().split() if NAMES.exists() else []
    with tempfile.TemporaryDirectory(prefix="minimcp-order-") as folder:
        dumps = run(program, Path(folder))
        order = {}
        for dump in dumps:
            for name, _ in instructions(dump).most_common():
                # Of a recursion, callgrind tells each level.
                order.setdefault(name.split("'")[0])
    names = [name for name in order if name in known]
    NAMES.write_text("\n".join(names) + "\n")
    kept = sum(name in known for name in former)
    print(f"{len(names)} functions; of the {len(former)} names before, {kept} are still in the program")


def build():
    cargo = ["cargo", "rustc", "--release", "--locked", "--bin", "minimcp", "--", "-C", "strip=none"]
    subprocess.run(cargo, cwd=HERE.parent.parent, check=True)
    return HERE.parent.parent / "target/release/minimcp"


def symbols(program):
    listed = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in listed.splitlines())
    found = {row[2] for row in rows if len(row) == 3 and row[1] in "tT"}
    if not found:
        sys.exit(f"{program} has no symbols: build it with '-C strip=none'")
    return found


def run(program, folder):
    """Runs the daemon through its phases; the answer is a dump of each, what matters most first."""
    daemon = Daemon(program, folder)
    try:
        daemon.wait()
        start = daemon.dump("start")
        instances = [daemon.create(f"n{count}") for count in range(INSTANCES)]
        for count in range(3):
            daemon.api("GET", "/mcps?limit=1000")
            daemon.api("GET", f"/mcps/{instances[count]['id']}")
            daemon.api("GET", f"/mcps/{instances[count]['id']}/logs")
            daemon.api("POST", f"/mcps/{instances[count]['id']}/restart")
        # What follows a call by and by (records, measures) belongs to the life as well.
        calls(instances[-1], CALLS, stateless=True)
        for instance in instances[:3]:
            daemon.api("DELETE", f"/mcps/{instance['id']}")
        life = daemon.dump("life")
        calls(instances[-1], CALLS, stateless=True)
        stateless = daemon.dump("stateless")
        calls(instances[-2], CALLS, stateless=False)
        session = daemon.dump("session")
    finally:
        end = daemon.end()
    return [stateless, session, life, start, end]


class Daemon:
    """`serve` below callgrind, with all that it has in one folder."""

    def __init__(self, program, folder):
        self.folder = folder
        self.port = free_port()
        for name in ("templates/null", "data", "run"):
            (folder / name).mkdir(parents=True)
        command = json.dumps([str(program), "bench-part", "null"])
        (folder / "templates/null/template.toml").write_text(
            'schema = 1\nname = "null"\ntitle = "null"\ndescription = "It does next to nothing."\n\n'
            f'[server]\ntransport = "stdio"\ncommand = {command}\n'
        )
        config = folder / "config.toml"
        config.write_text(CONFIG.format(d=folder, port=self.port))
        config.chmod(0o600)
        self.child = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--demangle=no", "--trace-children=no",
             f"--callgrind-out-file={folder}/callgrind", program, "serve", "--config", config],
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(folder / "run")},
            cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "stderr").open("w"), start_new_session=True,
        )

    def wait(self):
        until = time.monotonic() + 120
        while True:
            try:
                return self.api("GET", "/mcps?limit=1")
            except OSError:
                if self.child.poll() is not None or time.monotonic() > until:
                    sys.exit((self.folder / "stderr").read_text())
                time.sleep(0.2)

    def api(self, method, path, body=None):
        token = (self.folder / "data/admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        url = f"http://127.0.0.1:{self.port}/api/v1{path}"
        asked = urllib.request.Request(url, method=method, data=data, headers=headers)
        with urllib.request.urlopen(asked, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def create(self, name):
        return self.api("POST", "/mcps?wait=ready", {"template": "null", "name": name})

    def dump(self, name):
        """What was done since the last dump."""
        before = set(self.folder.glob("callgrind.*"))
        command = ["callgrind_control", f"--dump={name}", str(self.child.pid)]
        subprocess.run(command, check=True, capture_output=True)
        (new,) = set(self.folder.glob("callgrind.*")) - before
        return new.rename(self.folder / name)

    def end(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
        return self.folder / "callgrind"


def calls(instance, count, stateless):
    """So many calls, one at a time over one connection."""
    url = urlparse(instance["access_url"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
               "Authorization": f"Bearer {instance['access_token']}"}

    def post(body):
        connection.request("POST", url.path, json.dumps(body, separators=(",", ":")), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300 or b'"error"' in text:
            sys.exit(f"{answer.status}: {text.decode()}")
        return answer

    params = {"name": "echo", "arguments": {"text": "x"}}
    if stateless:
        headers |= {"MCP-Protocol-Version": REVISION, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}
        params["_meta"] = {META + "protocolVersion": REVISION, META + "clientCapabilities": {},
                           META + "clientInfo": {"name": "record", "version": "1"}}
    else:
        begin = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "record", "version": "1"}}
        opened = post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": begin})
        headers |= {"MCP-Protocol-Version": "2025-06-18", "Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
        post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    for number in range(1, count + 1):
        post({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})


def instructions(dump):
    """Instructions of each function by itself: the callgrind format, of which costs of calls are passed over."""
    names, found, current, is_call = {}, Counter(), None, False
    for line in dump.open():
        named = re.match(r"(c?fn)=\((\d+)\)(?: (.*))?", line)
        if named:
            kind, number, name = named.groups()
            if name:
                names[number] = name.strip()
            if kind == "fn":
                current = names[number]
        elif line.startswith("calls="):
            is_call = True
        elif current and line[:1] in "0123456789+-*":
            if not is_call:
                found[current] += int(line.split()[1])
            is_call = False
    return found


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


CONFIG = """
[api]
port = {port}
admin_token_file = "{d}/data/admin-token"
[database]
url = "sqlite:{d}/data/minimcp.db"
[runtime]
template_dirs = ["{d}/templates"]
imports_dir = "{d}/data/templates"
instance_dir = "{d}/data/instances"
keeper_socket = "{d}/data/keeper.sock"
keeper_linger = false
[packages]
dir = "{d}/data/packages"
[logs]
spool_dir = "{d}/data/spool"
[calls]
spool_dir = "{d}/data/call-spool"
[secrets]
key_file = "{d}/data/master-key"
"""

if __name__ == "__main__":
    main()
