//! A call record as it lies in the spool: JSON, so that a later build can read it.

use crate::{domain::call::NumberedCall, spool::SpoolRow, tally::Numbered};

impl Numbered for NumberedCall {
    fn number(&self) -> (i64, i64) {
        (self.writer, self.number)
    }
}

impl SpoolRow for NumberedCall {
    fn encode(&self, out: &mut Vec<u8>) {
        if let Err(error) = serde_json::to_writer(out, self) {
            // Neither its keys nor a Vec can fail; what is half written fails to decode.
            tracing::error!(%error, "a call record cannot be written as JSON");
        }
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    fn cost_bytes(&self) -> usize {
        let arguments = self.record.arguments.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.record.tool.len() + arguments
    }
}
