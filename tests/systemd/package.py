"""What the Debian package promises, tried out inside a fresh systemd. Started by `run` beside this file, as root.

The machine is rebooted in the midst of it: `run` boots it again, and the second half goes on with what the first one
wrote down. Every trial prints a line; one that does not hold prints why, and the exit status is 1 at the end.
"""

import json
import pathlib
import subprocess
import sys
import time
import traceback

from service import API, DATA, UNITS, api, call, check, create, equal, http, instance, main_pid, notes, ready, running, sh, unit, until

KEY = pathlib.Path("/etc/minimcp/master-key")
CONFIG = pathlib.Path("/etc/minimcp/config.toml")
#: What the first half leaves to the second.
KEPT = pathlib.Path("/var/tmp/trial.json")
#: Longer than it takes to go down, shorter than the machine stays off (`run`).
LEASE_S = 6


def version():
    return sh("dpkg-query --show --showformat '${Version}' minimcp")


def install(number):
    (package,) = pathlib.Path("/srv/minimcp/packages").glob(f"minimcp_*{number}_*.deb")
    return sh(f"DEBIAN_FRONTEND=noninteractive dpkg --install {package}")


def works(name, word):
    """The instance is up and answers through the URL that it had at first."""
    made, found = notes[name], running(name)
    equal(found["access_url"], made["access_url"], f"{name}'s URL")
    check(word in call(made, "echo", text=word), f"{name}'s access URL does not work")
    return found


def installed():
    """dpkg --install: both units enabled and running, a key made, the command line finds them"""
    said = install("one")
    check("keep a copy of /etc/minimcp/master-key" in said, f"nothing is said about the key: {said}")
    for name in UNITS:
        found = unit(name)
        equal((found["ActiveState"], found["UnitFileState"]), ("active", "enabled"), name)
    http("GET", f"{API}/readyz")
    for path, mode in {KEY: "600 root root", CONFIG: "640 root minimcp", DATA: "700 minimcp minimcp"}.items():
        equal(sh(f"stat -c '%a %U %G' {path}").strip(), mode, str(path))
    sh("minimcp templates && minimcp config check --config /etc/minimcp/config.toml", cwd="/")
    for name in UNITS:
        notes[f"exposure of {name}"] = sh(f"systemd-analyze security {name} | tail -n 1").strip()
    warnings = sh("journalctl -u minimcp -u minimcp-keeper --no-pager -o cat | grep -E 'WARN|ERROR' || true")
    equal(warnings, "", "warnings in the journal")


def an_instance_works():
    """demo, with a lease and without, through its access URL"""
    notes["demo"] = create("demo")
    works("demo", "hello")


def upgraded():
    """the package is upgraded: settings and key stay, daemon and keeper are the new program, instances the same processes"""
    CONFIG.write_text(CONFIG.read_text() + "\n# A word of the operator.\n")
    key, pid, serve, keeper = KEY.read_text(), running("demo")["pid"], main_pid("minimcp"), main_pid("minimcp-keeper")
    install("two")
    check(version().endswith("two"), f"the version is {version()}")
    ready()
    equal(KEY.read_text() == key, True, "the same master key")
    check("A word of the operator." in CONFIG.read_text(), "the settings were overwritten")
    equal(sh(f"stat -c '%a %U %G' {CONFIG}").strip(), "640 root minimcp", "the settings' owner after the upgrade")
    check(main_pid("minimcp") not in (0, serve), "the daemon is the old one")
    equal(main_pid("minimcp-keeper"), keeper, "the keeper's pid")
    program = pathlib.Path(f"/proc/{keeper}/exe")
    until(lambda: program.readlink() == pathlib.Path("/usr/bin/minimcp"), f"the keeper is the new program, not {program.readlink()}")
    equal((works("demo", "upgraded")["pid"], instance("demo")["restarts"]), (pid, 0), "demo's process")


def a_restart_and_a_kill():
    """systemctl restart and kill --signal=KILL: the same instances go on"""
    pid = running("demo")["pid"]
    for command in ("systemctl restart minimcp", "systemctl kill --signal=KILL --kill-whom=main minimcp"):
        before = main_pid("minimcp")
        sh(command)
        until(lambda: main_pid("minimcp") not in (0, before) and unit("minimcp")["ActiveState"] == "active", command)
        ready()
        equal(works("demo", "again")["pid"], pid, f"demo's process after {command}")


def goes_down():
    """what runs, what is stopped, and what expires while the machine is off, before a reboot"""
    create("demo", name="rests")
    api("POST", "/mcps/rests/stop")
    create("demo", name="short", ttl=f"{LEASE_S}s")
    notes["launches of short"] = instance("short")["generation"]
    notes["pid before"] = running("demo")["pid"]
    notes["boot"] = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    KEPT.write_text(json.dumps(notes))
    # So that the end of this process is not taken for the end of the trial (`run`).
    pathlib.Path("/run/rebooting").touch()
    sh("systemctl reboot")


def comes_back():
    """after the reboot: what ran runs at the same URL, what was stopped rests, what expired stays down"""
    for name in UNITS:
        until(lambda: unit(name)["ActiveState"] == "active", f"{name} starts by itself", 60)
    ready()
    works("demo", "rebooted")
    equal(instance("rests")["status"], "stopped", "an instance that was stopped")
    found = until(lambda: (short := instance("short"))["status"] == "expired" and short, "short is expired")
    equal(found["generation"], notes["launches of short"], "launches of an instance that expired meanwhile")


def removed():
    """dpkg --remove: nothing runs, nothing is enabled, data and key stay"""
    pid = running("demo")["pid"]
    sh("dpkg --remove minimcp")
    check(not pathlib.Path(f"/proc/{pid}").exists(), "an instance outlived the package")
    left = subprocess.run(["pgrep", "-u", "minimcp"], capture_output=True, text=True).stdout.split()
    equal(left, [], "processes of the service")
    check(not pathlib.Path("/usr/bin/minimcp").exists() and not list(pathlib.Path("/usr/lib/systemd").rglob("minimcp*")), "files")
    check(KEY.exists() and (DATA / "minimcp.db").exists(), "data or key went with the package")


def installed_again():
    """installed again: the same instances at the same URLs"""
    install("two")
    ready()
    works("demo", "returned")


def purged():
    """dpkg --purge: no file, unit, link or mount is left"""
    sh("dpkg --purge minimcp")
    found = sh("find / -xdev \\( -path /srv -o -path /proc -o -path /var/tmp -o -path /var/log -o -path /sys \\) -prune "
               "-o -name '*minimcp*' -print").split()
    equal(found, [], "files left")
    loaded = sh("systemctl list-units --all --no-legend 'minimcp*'")
    check("running" not in loaded, f"units left: {loaded}")


FIRST = (installed, an_instance_works, upgraded, a_restart_and_a_kill, goes_down)
SECOND = (comes_back, removed, installed_again, purged)


def main():
    second = KEPT.exists()
    if second:
        notes.update(json.loads(KEPT.read_text()))
    else:
        print(sh("systemctl --version").splitlines()[0], "with the Debian package")
    for trial in SECOND if second else FIRST:
        from_s = time.monotonic()
        subprocess.run(["systemctl", "reset-failed", *UNITS], capture_output=True)
        try:
            trial()
            verdict = "ok"
        except Exception as error:  # whatever it is, the journal says more below
            verdict = f"FAILED: {error}" if isinstance(error, AssertionError) else f"FAILED\n{traceback.format_exc()}"
        print(f"{time.monotonic() - from_s:6.1f} s  {trial.__doc__}: {verdict}", flush=True)
        if verdict != "ok":
            print(subprocess.run("journalctl -u minimcp -u minimcp-keeper --no-pager -o short-monotonic | tail -n 60",
                                 shell=True, capture_output=True, text=True).stdout)
            return 1
    if second:
        for what in ("exposure of minimcp-keeper", "exposure of minimcp"):
            print(f"-- {what}: {notes[what]}")
    else:
        # The reboot ends this; success is what the second half says.
        time.sleep(60)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
