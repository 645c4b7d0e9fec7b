"""`minimcp upgrade` of the unit; one of the trials of service.py beside this file."""

import json
import pathlib
import subprocess


def trial(main_pid, equal, sh):
    """What the command told of an upgrade, after two that it refused."""
    before = main_pid("minimcp")
    script = pathlib.Path("/tmp/broken")
    script.write_text("#!/bin/sh\necho minimcp 9.9.9\n")
    for binary, why in ((script, "is no program"), ("/bin/true", "is no minimcp")):
        command = ["minimcp", "upgrade", "--binary", str(binary)]
        refused = subprocess.run(command, capture_output=True, text=True, cwd="/")
        told = why in refused.stderr and "nothing was changed" in refused.stderr
        equal((refused.returncode, told), (1, True), f"an upgrade to {binary}, which says {refused.stderr!r}")
    equal(main_pid("minimcp"), before, "the daemon after broken programs")
    report = json.loads(sh("minimcp upgrade --json --binary /srv/minimcp/target/release/minimcp", cwd="/"))
    equal(main_pid("minimcp") == before, False, "the same serve")
    equal((report["pid"], report["lost"]), (main_pid("minimcp"), []), "the report")
    equal([heard["failed"] for heard in report["waits"]], [0, 0], "fresh connections that failed")
    return report
