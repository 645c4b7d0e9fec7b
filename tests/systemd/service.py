"""What MiniMCP promises as a service, tried out inside a fresh systemd. Started by `run` beside this file, as root.

Every trial prints a line as it goes; one that does not hold prints why, and the exit status is 1 at the end.
"""

import json
import os
import pathlib
import pwd
import re
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
import upgrading

API = "http://127.0.0.1:7420"
DATA = pathlib.Path("/var/lib/minimcp/data")
PROTOCOL = "2025-11-25"
UNITS = ("minimcp-keeper", "minimcp")

failures = []
notes = {}


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def equal(left, right, what):
    check(left == right, f"{what}: {left!r} is not {right!r}")


def sh(command, **options):
    """The command's stdout; its failure is the trial's."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, **options)
    check(done.returncode == 0, f"`{command}` exits with {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def until(condition, what, timeout_s=30):
    """Waits until `condition` answers something true, and gives that back."""
    deadline = time.monotonic() + timeout_s
    last = None
    while time.monotonic() < deadline:
        try:
            found = condition()
            if found:
                return found
        except (OSError, AssertionError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}" + (f" ({last})" if last else ""))


def unit(name):
    lines = sh(f"systemctl show {name}").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def main_pid(name):
    return int(unit(name)["MainPID"])


def process(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def processes_of_the_service():
    uid = pwd.getpwnam("minimcp").pw_uid
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == uid or f"{uid}\t" in (folder / "status").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def http(method, url, body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers.setdefault("Content-Type", "application/json")
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers, answer.read().decode()


def api(method, path, body=None):
    token = (DATA / "admin-token").read_text().strip()
    text = http(method, f"{API}/api/v1{path}", body, Authorization=f"Bearer {token}")[1]
    return json.loads(text) if text else None


def ready():
    return until(lambda: http("GET", f"{API}/readyz"), "the API is ready")


def instance(name):
    return api("GET", f"/mcps/{name}")


def running(name):
    return until(lambda: (found := instance(name))["status"] == "running" and found, f"{name} is running", 60)


def create(template, **more):
    made = api("POST", "/mcps?wait=ready", {"template": template, "name": template, **more})
    equal(made["status"], "running", f"{template} after its creation ({made['reason']})")
    return made


def rpc(made, method, params, number=1, **headers):
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    if number is not None:
        message["id"] = number
    accept = "application/json, text/event-stream"
    found, text = http("POST", made["access_url"], message, Accept=accept,
                       Authorization=f"Bearer {made['access_token']}", **headers)
    if "text/event-stream" in found.get("Content-Type", ""):
        texts = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        messages = [json.loads(text) for text in texts if text]
        return found, next(message for message in messages if message.get("id") == number)
    return found, json.loads(text) if text else None


def call(made, tool, **arguments):
    """Calls a tool through the access URL, as a new client; the text of its answer."""
    client = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": {"name": "trial", "version": "1"}}
    headers, answer = rpc(made, "initialize", client)
    check("result" in answer, f"initialize answers {answer}")
    session = {"MCP_Protocol_Version": answer["result"]["protocolVersion"]}
    if "Mcp-Session-Id" in headers:
        session["Mcp_Session_Id"] = headers["Mcp-Session-Id"]
    rpc(made, "notifications/initialized", {}, None, **session)
    answer = rpc(made, "tools/call", {"name": tool, "arguments": arguments}, 2, **session)[1]
    check("result" in answer, f"{tool} answers {answer}")
    return answer["result"]["content"][0]["text"]


def add_template(name, command):
    folder = pathlib.Path("/usr/local/share/minimcp/templates") / name
    folder.mkdir(parents=True)
    (folder / "template.toml").write_text(
        f'schema = 1\nname = "{name}"\ntitle = "{name}"\ndescription = "A trial."\n'
        f'[server]\ntransport = "stdio"\ncommand = {json.dumps(command)}\n'
    )


def as_server(made, command):
    """Runs a command in the server's own file system, as its user, who owns the namespace around it."""
    enter = (f"setpriv --reuid=minimcp --regid=minimcp --clear-groups nsenter --target {made['pid']} "
             "--user --mount --preserve-credentials")
    return subprocess.run([*enter.split(), "sh", "-c", command], capture_output=True, text=True)


def drop_in(name, text):
    folder = pathlib.Path(f"/etc/systemd/system/{name}.service.d")
    folder.mkdir(exist_ok=True)
    (folder / "trial.conf").write_text(text)
    sh("systemctl daemon-reload")


# ---- the trials, in order; each builds on those before it


def installed_word_for_word():
    """README's commands bring up both units"""
    readme = pathlib.Path("README.md").read_text()
    block = re.search(r"## Install as a service.*?```console\n(.*?)```", readme, re.DOTALL).group(1)
    commands = [line[2:] for line in block.splitlines() if line.startswith("# ")]
    check(len(commands) >= 7, f"README has only the commands {commands}")
    for command in commands:
        sh(command)
    # A second time, as for an upgrade, harms nothing: above all it keeps the key.
    key = pathlib.Path("/etc/minimcp/master-key").read_text()
    for command in commands:
        sh(command)
    equal(pathlib.Path("/etc/minimcp/master-key").read_text() == key, True, "the same master key")
    for name in UNITS:
        found = unit(name)
        equal((found["Type"], found["ActiveState"], found["NRestarts"]), ("notify", "active", "0"), name)
    # `systemctl start` came back after READY=1, so there is nothing to wait for.
    http("GET", f"{API}/readyz")


def hardened():
    """both run as minimcp, without capabilities, under a filter; verify has no complaint"""
    uid = str(pwd.getpwnam("minimcp").pw_uid)
    for name in UNITS:
        status = process(main_pid(name))
        equal(set(status["Uid"].split()), {uid}, f"{name}'s user")
        equal([status[key] for key in ("CapEff", "CapBnd")], ["0" * 16] * 2, f"{name}'s capabilities")
        equal([status[key] for key in ("NoNewPrivs", "Seccomp")], ["1", "2"], f"{name}'s filter")
        complaints = subprocess.run(["systemd-analyze", "verify", f"{name}.service"], capture_output=True, text=True)
        about_us = [line for line in complaints.stderr.splitlines() if "minimcp" in line]
        equal(about_us, [], f"systemd-analyze verify {name}")
        score = sh(f"systemd-analyze security {name} | tail -n 1")
        notes[f"exposure of {name}"] = re.search(r"[0-9.]+ \w+", score).group(0)


def files_in_their_places():
    """data, socket and token are private; the master key is the credential's"""
    for path, mode in {DATA: "700", DATA / "admin-token": "600", DATA / "minimcp.db": "600",
                       pathlib.Path("/run/minimcp/api.sock"): "600",
                       pathlib.Path("/run/minimcp-keeper/keeper.sock"): "600"}.items():
        equal(sh(f"stat -c '%a %U' {path}").split(), [mode, "minimcp"], str(path))
    check(not (DATA / "master-key").exists(), "a key file was made although a credential is there")
    equal(sh("stat -c '%a %U' /etc/minimcp/master-key").split(), ["600", "root"], "the master key")
    api("POST", "/credentials", {"name": "sealed", "value": "trial-credential-value"})
    database = b"".join(path.read_bytes() for path in DATA.glob("minimcp.db*"))
    check(b"trial-credential-value" not in database, "a credential lies open in the database")


def command_line_finds_the_service():
    """`minimcp` as root needs no option; config check takes the file as installed"""
    sh("minimcp templates", cwd="/")
    sh("minimcp config check --config /etc/minimcp/config.toml", cwd="/")
    notes["doctor"] = sh("minimcp doctor || true", cwd="/")


def an_instance_works():
    """demo is made through the API, called through its access URL, isolated"""
    made = create("demo")
    notes["made"] = made
    check("hello" in call(made, "echo", text="hello"), "echo does not echo")
    notes["isolation of demo"] = made["isolation"]
    for layer in ("pid-namespace", "user-namespace", "own-proc", "no-new-privs", "limits", "limit-processes"):
        state = made["isolation"].get(layer, "absent")
        check(state.split(":")[0] == "on", f"{layer} is {state} in {made['isolation']}")
    equal(process(made["pid"])["NSpid"].split()[-1] == str(made["pid"]), False, "the same pid inside")


def same_child(made, pid):
    found = running("demo")
    equal((found["pid"], found["access_url"], found["restarts"]), (pid, made["access_url"], 0), "pid, URL, restarts")
    check("again" in call(made, "echo", text="again"), "the access URL does not work")


def restart_keeps_children():
    """systemctl restart minimcp, with the program replaced: same child, same URL, same token"""
    made = notes["made"]
    before = main_pid("minimcp")
    sh("install -m 0755 target/release/minimcp /usr/bin/minimcp")
    sh("systemctl restart minimcp")
    check(main_pid("minimcp") != before, "serve was not restarted")
    ready()
    same_child(made, made["pid"])


def upgrade_keeps_children():
    """minimcp upgrade: the new program is asked first, every process is kept, and a broken one changes nothing"""
    notes["upgrade"] = upgrading.trial(main_pid, equal, sh)
    same_child(notes["made"], notes["made"]["pid"])


def a_killed_serve_comes_back():
    """kill -9 of serve: systemd starts it again, it adopts"""
    made = notes["made"]
    before = main_pid("minimcp")
    os.kill(before, signal.SIGKILL)
    until(lambda: main_pid("minimcp") not in (0, before) and unit("minimcp")["ActiveState"] == "active", "serve again")
    ready()
    same_child(made, made["pid"])


def the_watchdog_is_fed():
    """a short watchdog finds serve alive; a serve that hangs is replaced, its children adopted"""
    made = notes["made"]
    drop_in("minimcp", "[Service]\nWatchdogSec=2s\n")
    sh("systemctl restart minimcp")
    ready()
    fed, before = unit("minimcp"), main_pid("minimcp")
    equal(fed["WatchdogUSec"], "2s", "WatchdogSec")
    # Longer than two watchdogs: whoever is not fed is dead by then.
    time.sleep(5)
    equal((main_pid("minimcp"), unit("minimcp")["NRestarts"]), (before, fed["NRestarts"]), "pid and restarts")
    os.kill(before, signal.SIGSTOP)
    until(lambda: main_pid("minimcp") not in (0, before) and unit("minimcp")["ActiveState"] == "active", "a new serve")
    check("Watchdog timeout" in sh("journalctl -u minimcp --no-pager"), "it was not the watchdog")
    ready()
    same_child(made, made["pid"])
    sh("rm -r /etc/systemd/system/minimcp.service.d && systemctl daemon-reload && systemctl restart minimcp")
    ready()


def reload_reads_templates():
    """systemctl reload minimcp: a template put beside the others can be run at once, without a new process"""
    config = pathlib.Path("/etc/minimcp/config.toml")
    text = config.read_text()
    changed = text.replace("template_dirs = []", 'template_dirs = ["/usr/local/share/minimcp/templates"]')
    check(text != changed, "config.toml has no template_dirs to fill")
    config.write_text(changed)
    pathlib.Path("/usr/local/share/minimcp/templates").mkdir(parents=True, exist_ok=True)
    sh("systemctl restart minimcp")
    ready()
    before = main_pid("minimcp")
    known = {template["name"] for template in api("GET", "/templates")["items"]}
    check("python-trial" not in known, "the template is there before it was written")
    sh("mkdir -p /opt/trial && cp fixtures/servers/*.py /opt/trial/")
    add_template("python-trial", ["python3", "/opt/trial/mcp_lines.py"])
    sh("systemctl reload minimcp")
    until(lambda: "python-trial" in {template["name"] for template in api("GET", "/templates")["items"]}, "reloaded")
    equal(main_pid("minimcp"), before, "serve's pid")


def python_server_sees_no_secrets():
    """a Python server runs under the keeper; keys, tokens and database are not in its world"""
    made = create("python-trial")
    equal(call(made, "echo", text="snake"), "snake", "echo")
    names = json.loads(call(made, "environment"))
    foreign = [name for name in names if re.match("MINIMCP|CREDENTIALS|NOTIFY|LISTEN|WATCHDOG|INVOCATION|JOURNAL", name)]
    equal(foreign, [], "variables of the service in the instance")
    notes["folder of python-trial"] = call(made, "folder")
    notes["python-trial"] = made
    # What everyone may read proves the way.
    check("root" in as_server(made, "cat /etc/passwd").stdout, "no way into the server's file system")
    for path in ("/etc/minimcp/config.toml", "/var/lib/minimcp/data/minimcp.db", "/var/lib/minimcp/data/admin-token",
                 "/run/minimcp/api.json", "/run/credentials/minimcp.service/minimcp-master-key"):
        check(pathlib.Path(path).exists(), f"{path} is not even there for root")
        check(as_server(made, f"cat {path}").returncode != 0, f"{path} can be read by the server")


def servers_write_where_they_may():
    """a server writes into its folder and /tmp; elsewhere once template, config.toml and the keeper's unit say so"""
    made = notes["python-trial"]
    sh("install -d -o minimcp /srv/notes /srv/other; mkdir -p /home/ann && touch /home/ann/seen && chmod 755 /home/ann")
    own = notes["folder of python-trial"]
    for path, may in {own: True, "/tmp": True, "/srv/notes": False, "/var/lib/minimcp": False, "/usr/local": False}.items():
        equal(as_server(made, f"touch {path}/trial").returncode == 0, may, f"writing into {path}")
    check(as_server(made, "ls /home/ann/seen").returncode != 0, "/home is seen")
    check(not pathlib.Path("/tmp/trial").exists(), "/tmp is the host's")
    drop_in("minimcp-keeper", "[Service]\nReadWritePaths=/srv/notes\n")
    template = pathlib.Path("/usr/local/share/minimcp/templates/python-trial/template.toml")
    template.write_text(template.read_text() + '[sandbox]\nwrite = ["/srv/notes"]\n')
    sh("sed -i 's,^allow_write = .*,allow_write = [\"/srv/notes\"],' /etc/minimcp/config.toml")
    sh("systemctl restart minimcp-keeper")
    ready()
    made = running("python-trial")
    equal(call({**notes["python-trial"], **made}, "folder"), own, "the folder after a restart of the keeper")
    for path, may in {"/srv/notes": True, "/srv/other": False}.items():
        equal(as_server(made, f"touch {path}/trial").returncode == 0, may, f"writing into {path} now")


def node_server_runs():
    """an official Node server runs under the keeper"""
    if not pathlib.Path("/usr/local/bin/node").exists():
        return "no Node here"
    made = create("everything")
    check("node" in call(made, "echo", message="node"), "echo")
    notes["isolation of everything"] = made["isolation"]
    return None


def the_keeper_can_die():
    """kill -9 of the keeper: every child ends with it, both units come back, so do the instances"""
    made = notes["made"]
    before = [running(name)["pid"] for name in ("demo", "python-trial")]
    old = main_pid("minimcp-keeper")
    os.kill(old, signal.SIGKILL)
    until(lambda: main_pid("minimcp-keeper") not in (0, old), "a new keeper")
    until(lambda: unit("minimcp")["ActiveState"] == "active", "serve")
    ready()
    until(lambda: running("demo")["pid"] not in (None, *before), "a new child")
    check(not any(pathlib.Path(f"/proc/{pid}").exists() for pid in before), "children outlived their keeper")
    check("back" in call(made, "echo", text="back"), "the access URL does not work")


def stopping_the_keeper_leaves_nothing():
    """systemctl stop minimcp-keeper: no process is left; starting minimcp brings all back at the same URLs"""
    made = notes["made"]
    sh("systemctl stop minimcp-keeper")
    equal(processes_of_the_service(), [], "processes left")
    equal(unit("minimcp-keeper")["Result"], "success", "the keeper's end")
    equal(unit("minimcp")["ActiveState"], "inactive", "minimcp without its keeper")
    sh("systemctl start minimcp")
    ready()
    running("demo")
    check("risen" in call(made, "echo", text="risen"), "the access URL does not work")


def stop_leaves_children():
    """systemctl stop minimcp leaves the children to the keeper; a start adopts them"""
    made, pid = notes["made"], running("demo")["pid"]
    sh("systemctl stop minimcp")
    check(pathlib.Path(f"/proc/{pid}").exists(), "the child ended with serve")
    equal(unit("minimcp")["Result"], "success", "serve's end")
    sh("systemctl start minimcp")
    ready()
    equal(running("demo")["pid"], pid, "the child's pid")
    check("more" in call(made, "echo", text="more"), "the access URL does not work")


def a_backup_brings_the_service_back():
    """a backup by the README's words while the service runs; after the data is lost, the same URL and token again"""
    made = notes["made"]
    sh("runuser -u minimcp -- sh -c 'cd /var/lib/minimcp && minimcp backup save backup.tar.gz'", cwd="/")
    check("kept" in call(made, "echo", text="kept"), "the access URL does not work while it is saved")
    sh("systemctl stop minimcp minimcp-keeper")
    sh("rm -r data/instances data/minimcp.db*", cwd="/var/lib/minimcp")
    sh("systemd-run --uid minimcp --working-directory /var/lib/minimcp --pipe --wait "
       "--property LoadCredential=minimcp-master-key:/etc/minimcp/master-key minimcp backup restore backup.tar.gz", cwd="/")
    sh("systemctl start minimcp")
    ready()
    running("demo")
    check("restored" in call(made, "echo", text="restored"), "the access URL does not work")


def the_journal_is_clean():
    """no secret, no complaint about the units and none about rights that stay in the journal"""
    journal = sh("journalctl -u minimcp -u minimcp-keeper --no-pager -o cat")
    for secret in (notes["made"]["access_token"], (DATA / "admin-token").read_text().strip(),
                   pathlib.Path("/etc/minimcp/master-key").read_text().strip(), "trial-credential-value"):
        check(secret not in journal, "a secret is in the journal")
    # A cgroup that is gone before it is killed is no fault of a unit.
    lines = [line for line in journal.splitlines() if "Failed to kill control group" not in line]
    complaints = [line for line in lines if re.search(r"[Uu]nknown|[Ii]gnoring|[Nn]ot supported", line)]
    equal(complaints, [], "systemd about the units")
    check("keeps rights" not in journal, "serve could not give up what it does not need")
    notes["errors in the journal"] = [line for line in journal.splitlines() if re.search(r"ERROR|panicked", line)]


def quickstart_without_root():
    """`minimcp quickstart` as an ordinary user with an empty home"""
    sh("systemctl stop minimcp minimcp-keeper; rm -rf /home/ann; useradd --create-home ann")
    out = pathlib.Path("/tmp/quickstart")
    with out.open("w") as stdout:
        started = subprocess.Popen(
            ["setpriv", "--reuid=ann", "--regid=ann", "--init-groups", "--no-new-privs", "env", "-i", "HOME=/home/ann",
             "PATH=/usr/bin:/bin", "minimcp", "quickstart"], cwd="/home/ann", stdout=stdout, stderr=stdout)
    try:
        made = until(lambda: json.loads(pathlib.Path("/home/ann/.local/share/minimcp/demo.json").read_text()), "demo", 60)
        check("ann" in call(made, "echo", text="ann"), "the access URL does not work")
        listed = sh("setpriv --reuid=ann --regid=ann --init-groups env -i HOME=/home/ann PATH=/usr/bin:/bin "
                    "minimcp --json inspect demo")
        notes["isolation of quickstart's demo"] = json.loads(listed)["isolation"]
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(30)
    uid = pwd.getpwnam("ann").pw_uid
    left = sh(f"pgrep -u {uid} || true").split()
    equal(left, [], f"processes left by the quickstart ({out.read_text()[-500:]})")


TRIALS = (
    installed_word_for_word,
    hardened,
    files_in_their_places,
    command_line_finds_the_service,
    an_instance_works,
    restart_keeps_children,
    upgrade_keeps_children,
    a_killed_serve_comes_back,
    the_watchdog_is_fed,
    reload_reads_templates,
    python_server_sees_no_secrets,
    servers_write_where_they_may,
    node_server_runs,
    the_keeper_can_die,
    stopping_the_keeper_leaves_nothing,
    stop_leaves_children,
    a_backup_brings_the_service_back,
    the_journal_is_clean,
    quickstart_without_root,
)


def main():
    print(sh("systemctl --version").splitlines()[0], "on Linux", os.uname().release)
    for trial in TRIALS:
        from_s = time.monotonic()
        # The trials start the units more often in a minute than StartLimitBurst lets an operator do.
        subprocess.run(["systemctl", "reset-failed", *UNITS], capture_output=True)
        try:
            word = trial()
            verdict = f"skipped: {word}" if word else "ok"
        except Exception as error:  # whatever it is, the other trials still tell something
            failures.append(trial.__name__)
            verdict = f"FAILED: {error}" if isinstance(error, AssertionError) else f"FAILED\n{traceback.format_exc()}"
        print(f"{time.monotonic() - from_s:6.1f} s  {trial.__doc__}: {verdict}")
        if failures and trial is installed_word_for_word:
            break
    for what, value in notes.items():
        if what not in ("made", "python-trial"):
            print(f"-- {what}: {value if isinstance(value, str) else json.dumps(value)}")
    if failures:
        print(sh("journalctl -u minimcp -u minimcp-keeper --no-pager -o short-monotonic | tail -n 80"))
        print("failed:", ", ".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
