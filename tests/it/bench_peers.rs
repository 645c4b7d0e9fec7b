//! The peers of `benches/peers`: told apart, and started as they are asked to be. A bench has no tests of its own.

#[path = "../../benches/peers/kind.rs"]
#[expect(dead_code, reason = "no peer runs here")]
mod kind;

use std::path::Path;

use kind::ALL;

/// Each kind's `--help`, in short: what tells the three of one name apart must not be in another's.
const HELPS: [(&str, &str); 4] = [
    (
        "mcp-proxy-rust",
        "Standalone MCP proxy\n  -c, --config <CONFIG>\n      --from-mcp-json <PATH>  Run with just a .mcp.json",
    ),
    (
        "supergateway",
        "  --stdio  Command to run\n  --streamableHttp  URL\n  --outputTransport  Transport for output.\n  --port",
    ),
    (
        "mcp-proxy-node",
        "mcp-proxy [options] -- <command>\n  --port\n  --stateless\n  --streamEndpoint  The stream endpoint",
    ),
    (
        "mcp-proxy-python",
        "usage: mcp-proxy [-h] [--transport {sse,streamablehttp}]\n [--named-server-config FILE_PATH] [--port PORT]",
    ),
];

#[test]
fn programs_of_one_name_are_told_apart() {
    for (name, help) in HELPS {
        let told: Vec<_> = ALL.iter().filter(|kind| kind.is_told_by(help)).collect();
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert_eq!(told[0].name, name);
        assert!(told[0].install.contains(told[0].program));
    }
    assert!(!ALL.iter().any(|kind| kind.is_told_by("--config --port")));
}

#[test]
fn each_is_started_before_the_servers_that_are_asked_of_it() {
    let command = ["/bin/server", "--flag"].map(str::to_owned);
    for kind in ALL {
        let launch = kind.launch(4_321, 2, &command, Path::new("/folder"));
        let all = launch.arguments.join(" ") + launch.config.as_deref().unwrap_or_default();
        for part in ["/bin/server", "--flag", "4321"] {
            assert!(all.contains(part), "{}: {launch:?}", kind.name);
        }
        let reads = launch.arguments.iter().any(|word| word == "/folder/config");
        assert_eq!(reads, launch.config.is_some(), "{}: {launch:?}", kind.name);
        assert_eq!(reads, kind.is_host_of_many, "{}", kind.name);
        let [first, second] = [0, 1].map(|number| kind.endpoint(4_321, number));
        assert_eq!(first.host, "127.0.0.1:4321");
        let differ = (&first.path, &first.tool) != (&second.path, &second.tool);
        assert_eq!(differ, kind.is_host_of_many, "{}", kind.name);
    }
}
