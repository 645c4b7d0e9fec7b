//! `minimcp calls`: who called which tool.

use super::{arguments::CallsOptions, failure::Failure, instances::resolve, output::Output};
use crate::{
    client::{Client, call_records::CallFilter},
    wire::CallEntry,
};

pub(super) async fn print(
    client: &Client,
    options: CallsOptions,
    out: Output,
) -> Result<(), Failure> {
    let instance = resolve(client, &options.instance).await?;
    let filter = CallFilter {
        tool: options.tool,
        token: options.token,
        outcome: options.outcome,
        since: options.since,
        limit: options.limit,
    };
    let reply = client.tool_calls(&instance, &filter).await?;
    if out.json {
        return out.line(reply.json());
    }
    let items = reply.read()?.items;
    if items.is_empty() {
        return out.line("No call matches.");
    }
    out.line(&listed(&items, out))
}

fn listed(items: &[CallEntry], out: Output) -> String {
    let rows = items
        .iter()
        .map(|call| {
            let code = call.code.map(|code| format!(" ({code})"));
            [
                call.started_at.clone(),
                call.tool.clone(),
                call.token.clone(),
                format!("{}{}", call.outcome, code.unwrap_or_default()),
                took(call.duration_us),
                format!("{}/{}", call.request_bytes, call.answer_bytes),
            ]
        })
        .collect();
    let header = ["time", "tool", "token", "outcome", "took", "bytes in/out"];
    out.table(header, rows)
}

fn took(duration_us: i64) -> String {
    let (ms, us) = (duration_us / 1_000, duration_us % 1_000);
    if ms >= 1_000 {
        format!("{}.{:03} s", ms / 1_000, ms % 1_000)
    } else {
        format!("{ms}.{us:03} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(took(7), "0.007 ms");
        assert_eq!(took(1_234), "1.234 ms");
        assert_eq!(took(61_002_999), "61.002 s");
    }
}
