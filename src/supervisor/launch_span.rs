//! The trace of a launch: from the wish to the handshake, its turn and its process in between.

use super::actor::Actor;
use crate::traces::{Span, SpanKind};

impl Actor {
    /// Begins it, below whoever asked.
    pub(super) fn begin_launch_span(&mut self) {
        let asked = self.route.asked.take();
        self.launch_span = Span::begin(SpanKind::Internal, || "launch".to_owned(), &asked);
        if let Some(span) = &mut self.launch_span {
            let generation = i64::try_from(self.life.generation.0).unwrap_or(i64::MAX);
            span.put("minimcp.instance.id", self.record.id.to_string());
            span.put("minimcp.instance.name", self.record.slug().to_string());
            span.put("minimcp.template", self.record.template.to_string());
            span.put("minimcp.generation", generation);
        }
    }

    /// Something of it is done.
    pub(super) fn launch_event(&mut self, name: &'static str) {
        if let Some(span) = &mut self.launch_span {
            span.event(name);
        }
    }

    /// It ends without a server that answers.
    pub(super) fn launch_failed(&mut self, kind: &'static str) {
        if let Some(mut span) = self.launch_span.take() {
            span.fail(kind);
        }
    }
}
