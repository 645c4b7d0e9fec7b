"""`minimcp upgrade` of the unit to a program that dies at its start, tried out inside a fresh systemd. Started by `run`
beside this file, as root.
"""

import pathlib
import subprocess
import sys
import time
import traceback

from service import UNITS, an_instance_works, call, check, equal, installed_word_for_word, main_pid, notes, ready, running, sh, unit, until

PROGRAM = pathlib.Path("/usr/bin/minimcp")
#: The same program, which asks for another lock when it serves, in a folder that is not there: it tells its version, finds
#: configuration and database in order, and dies.
BROKEN = pathlib.Path("/tmp/minimcp-broken")


def broken_program():
    """a program is made that passes every question and cannot serve"""
    text = PROGRAM.read_bytes()
    check(b".lock" in text, "the lock of the instances' folder has another name by now")
    BROKEN.write_bytes(text.replace(b".lock", b".l/ck"))
    BROKEN.chmod(0o755)
    equal(sh(f"{BROKEN} --version"), sh(f"{PROGRAM} --version"), "the version")


def facts():
    return {
        "instance": running("demo")["pid"],
        "restarts": running("demo")["restarts"],
        "keeper": main_pid("minimcp-keeper"),
        "program": PROGRAM.stat().st_ino,
    }


def serves(before, after):
    """The unit is up with the former program, and the instance has its process and its URL."""
    until(lambda: unit("minimcp")["ActiveState"] == "active" and main_pid("minimcp") not in (0, before), after)
    ready()
    serve = main_pid("minimcp")
    equal(pathlib.Path(f"/proc/{serve}/exe").stat().st_ino, PROGRAM.stat().st_ino, "what serve runs")
    check("again" in call(notes["made"], "echo", text="again"), f"the access URL does not work {after}")


def put_back():
    """minimcp upgrade to a program that dies at its start: the former one is in its place and serves, nothing else changed"""
    found, serve = facts(), main_pid("minimcp")
    done = subprocess.run(["minimcp", "upgrade", "--binary", str(BROKEN)], capture_output=True, text=True, cwd="/")
    equal((done.returncode, done.stdout), (1, ""), f"the upgrade, which says {done.stderr!r}")
    # It waited for the former program, so there is nothing to wait for here.
    equal(unit("minimcp")["ActiveState"], "active", f"the unit after {done.stderr!r}")
    for words in ("did not come up", "journalctl -u minimcp", "the former program is back in its place and serves"):
        check(words in done.stderr, f"{words!r} is not in {done.stderr!r}")
    serves(serve, "after the upgrade")
    equal(facts(), found, "instance, keeper and program")
    # It goes on as the program that serves, as after any restart.
    keeper = pathlib.Path(f"/proc/{main_pid('minimcp-keeper')}/exe")
    until(lambda: keeper.stat().st_ino == PROGRAM.stat().st_ino, "the keeper runs the former program")
    check("cannot" in sh("journalctl -u minimcp --no-pager -o cat"), "the journal does not tell why")


def by_hand():
    """the same with the program in its place already: it is told, and the instance waits until an operator puts it right"""
    found = facts()
    former = PROGRAM.with_suffix(".kept")
    sh(f"cp {PROGRAM} {former} && mv {BROKEN} {PROGRAM}")
    done = subprocess.run(["minimcp", "upgrade"], capture_output=True, text=True, cwd="/")
    equal(done.returncode, 1, f"the upgrade, which says {done.stderr!r}")
    check("did not come up" in done.stderr and "former program" not in done.stderr, done.stderr)
    check(pathlib.Path(f"/proc/{found['instance']}").exists(), "the instance's process is gone")
    sh(f"mv {former} {PROGRAM} && systemctl reset-failed minimcp; systemctl restart minimcp")
    serves(0, "after the program was put back by hand")
    now = facts()
    equal((now["instance"], now["keeper"]), (found["instance"], found["keeper"]), "instance and keeper")


TRIALS = (installed_word_for_word, an_instance_works, broken_program, put_back, by_hand)


def main():
    print(sh("systemctl --version").splitlines()[0], "with a program that dies")
    for trial in TRIALS:
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
