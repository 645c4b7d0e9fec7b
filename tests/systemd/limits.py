"""The limits of an instance's cgroup, tried out where the keeper has all controllers: what is over them is stopped, is
told by its name, and hurts nobody else. Started as root by `vm` beside this file.
"""

import json
import pathlib
import subprocess
import sys
import time

from service import UNITS, api, call, check, create, equal, installed_word_for_word, main_pid, notes, sh, until

CGROUPS = pathlib.Path("/sys/fs/cgroup/system.slice/minimcp-keeper.service")
MIB = 1 << 20
LIMITS = {"max_memory_bytes": 64 * MIB, "max_processes": 20, "max_cpu_percent": 30, "cpu_weight": 50}


def soon(condition, what):
    """An emulated machine is slow."""
    return until(condition, what, 180)


def hog():
    folder = pathlib.Path("/usr/local/share/minimcp/templates/hog")
    folder.mkdir(parents=True, exist_ok=True)
    sh("mkdir -p /opt/trial && cp fixtures/servers/*.py /opt/trial/")
    command = ["/usr/bin/python3", "/opt/trial/hog.py"]
    limits = "".join(f"{name} = {value}\n" for name, value in LIMITS.items())
    (folder / "template.toml").write_text(
        'schema = 1\nname = "hog"\ntitle = "Hog"\ndescription = "A trial."\n[server]\ntransport = "stdio"\n'
        f"command = {json.dumps(command)}\n[limits]\n{limits}[sandbox]\nrequire = [\"cgroup-limits\"]\n"
        '[restart]\npolicy = "always"\n[health]\nstart_timeout = "5m"\ntimeout = "1m"\n'
    )
    config = pathlib.Path("/etc/minimcp/config.toml")
    config.write_text(config.read_text().replace("template_dirs = []", f'template_dirs = ["{folder.parent}"]'))
    sh("systemctl restart minimcp")
    soon(lambda: api("GET", "/templates/hog"), "the template is read")


def leaves():
    return sorted(CGROUPS.glob("child-*"))


def the_controllers_are_ours():
    """the keeper passes memory, pids, cpu and io on, and stays in a cgroup of its own"""
    passed = set((CGROUPS / "cgroup.subtree_control").read_text().split())
    check({"memory", "pids", "cpu"} <= passed, f"only {passed} are passed on")
    inside = (CGROUPS / "keeper/cgroup.procs").read_text().split()
    equal(inside, [str(main_pid("minimcp-keeper"))], "the keeper's cgroup")
    hog()
    made = create("hog")
    notes["made"] = made
    told = {name: state for name, state in made["isolation"].items() if "limit" in name or "cgroup" in name}
    notes["what is told"] = told
    for name in ("cgroup", "cgroup-limits", "limit-memory", "limit-processes", "limit-cpu"):
        check(told[name].startswith("on"), f"{name} is {told[name]}")
    leaf, = leaves()
    found = {name: (leaf / name).read_text().split() for name in ("memory.max", "pids.max", "cpu.max", "cpu.weight")}
    equal(found, {"memory.max": [str(64 * MIB)], "pids.max": ["21"], "cpu.max": ["30000", "100000"],
                  "cpu.weight": ["50"]}, "what the kernel was told")
    notes["neighbour"] = create("demo")


def processes_are_capped():
    """no more processes than the limit; the cgroup counts them, as a lower pids.max than RLIMIT_NPROC shows"""
    count = int(call(notes["made"], "fork", count=200))
    check(10 < count < 21, f"{count} processes at the same time")
    leaf = next(leaf for leaf in leaves() if notes["made"]["id"] in leaf.name)
    (leaf / "pids.max").write_text("10")
    count = int(call(notes["made"], "fork", count=200))
    check(0 < count < 10, f"{count} processes at the same time")
    check("max 0" not in (leaf / "pids.events").read_text(), "the kernel counted no refusal")


def cpu_time_is_capped():
    """cpu.max bites"""
    leaf = next(leaf for leaf in leaves() if notes["made"]["id"] in leaf.name)
    began = time.monotonic()
    used = int(call(notes["made"], "spin", ms=4_000))
    whole = (time.monotonic() - began) * 1000
    notes["CPU time"] = f"{used} ms of {whole:.0f} ms"
    check(used < whole / 2, f"{used} ms of CPU time in {whole:.0f} ms")
    stat = dict(line.split() for line in (leaf / "cpu.stat").read_text().splitlines())
    check(int(stat["nr_throttled"]) > 0, f"never throttled: {stat}")


def memory_kills_are_told():
    """memory.max bites, the end is told as want of memory, the next launch works, the neighbour is the same"""
    neighbour = notes["neighbour"]
    try:
        answer = call(notes["made"], "fill", mebibytes=400)
        raise SystemExit(f"400 MiB were there: {answer}")
    except AssertionError as error:
        check("want of memory" in str(error), str(error))
    made = soon(lambda: (now := api("GET", "/mcps/hog"))["status"] == "running" and now["generation"] > 1 and now,
                "it comes back")
    equal(made["last_exit"]["out_of_memory"], True, "told as want of memory")
    equal(call(notes["made"] | {"access_url": made["access_url"]}, "fill", mebibytes=8), "all of it", "the next launch")
    equal(api("GET", "/mcps/demo")["pid"], neighbour["pid"], "the neighbour's process")
    equal(sh("systemctl show minimcp-keeper -p NRestarts --value").strip(), "0", "restarts of the keeper")


def frozen_memory_is_taken_back():
    """the memory of a frozen instance goes to swap, and is all there when a request wants it"""
    sh("dd if=/dev/zero of=/swap bs=1M count=256 2>&1 && chmod 600 /swap && mkswap /swap && swapon /swap")
    reclaim = api("GET", "/diagnostics")["reclaim"]
    check("memory.reclaim" in reclaim, f"reclaim is {reclaim}")
    made = notes["made"] | {"access_url": api("GET", "/mcps/hog")["access_url"]}
    equal(call(made, "keep", mebibytes=32), "32 MiB", "what it keeps")
    leaf = next(leaf for leaf in leaves() if made["id"] in leaf.name)
    held = lambda name: int((leaf / name).read_text())
    before = held("memory.current")
    check(before > 32 * MIB, f"it holds {before} bytes")
    api("PATCH", "/mcps/hog", {"freeze_after": "1s"})
    soon(lambda: held("memory.current") < 8 * MIB, "its memory is taken back")
    after = held("memory.current")
    notes["frozen"] = f"{before / MIB:.1f} MiB, then {after / MIB:.1f} MiB and {held('memory.swap.current') / MIB:.1f} MiB of swap"
    equal(api("GET", "/mcps/hog")["status"], "frozen", "its status")
    equal(call(made, "keep", mebibytes=0), "32 MiB", "what it still keeps")
    api("PATCH", "/mcps/hog", {"freeze_after": "0s"})


def nothing_stays_behind():
    """a cgroup goes with its child; the keeper's unit starts again after a kill"""
    api("POST", "/mcps/hog/stop?wait=ready")
    soon(lambda: not [leaf for leaf in leaves() if notes["made"]["id"] in leaf.name], "its cgroup is gone")
    before = main_pid("minimcp-keeper")
    sh(f"kill -9 {before}")
    soon(lambda: main_pid("minimcp-keeper") not in (0, before), "another keeper")
    soon(lambda: (now := api("GET", "/mcps/demo"))["status"] == "running" and now["generation"] > 1, "demo is back")
    equal(len(leaves()), 1, "cgroups of children")
    # serve may begin again with its keeper.
    soon(lambda: api("GET", "/mcps/demo")["isolation"]["cgroup-limits"] == "on", "limits under the new keeper")


def main():
    print(sh("systemctl --version").splitlines()[0])
    failed = False
    for trial in (installed_word_for_word, the_controllers_are_ours, processes_are_capped, cpu_time_is_capped,
                  memory_kills_are_told, frozen_memory_is_taken_back, nothing_stays_behind):
        began = time.monotonic()
        subprocess.run(["systemctl", "reset-failed", *UNITS], capture_output=True)
        try:
            trial()
            verdict = "ok"
        except Exception as error:  # the other trials still tell something
            failed, verdict = True, f"FAILED: {type(error).__name__}: {error}"
        print(f"{time.monotonic() - began:6.1f} s  {trial.__doc__}: {verdict}", flush=True)
    for what in ("what is told", "CPU time", "frozen"):
        print(f"-- {what}: {notes.get(what)}")
    if failed:
        print(sh("journalctl -u minimcp -u minimcp-keeper --no-pager -o short-monotonic | tail -n 40"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
