//! Calls of session-era clients at a stateless server: what it asks by an input-required result becomes requests to
//! the client, on the stream of the call, and the call is made once more with the answers.
//!
//! The call stays in the table meanwhile, under an id that the child never sees, so that a cancellation, the time limit
//! and the death of the child end it as they end any other.

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    failure::{INTERNAL_ERROR, error_message},
    in_flight::{ASKED_MAX, InFlight, Origin, Table},
    message::{Envelope, quote},
    translate::{
        InputRequired, capability_for, input_required, missing_capability, retried, session_answer,
    },
    wire::Wire,
};

/// Most times that one call may ask its client.
pub const ROUNDS_MAX: u32 = 16;
/// The methods whose results may ask for input.
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// What a call needs to come to its end at a server of the other era.
pub struct Crossing {
    method: Box<str>,
    /// The request as the child got it last; only of a method that may ask.
    sent: Bytes,
    rounds: u32,
    waiting: Option<Waiting>,
}

/// What a call waits for between two rounds.
struct Waiting {
    state: Option<Box<str>>,
    questions: usize,
    /// Key and raw result.
    responses: Vec<(String, String)>,
}

impl Crossing {
    /// Of a call of this method, which was not sent yet.
    #[must_use]
    pub fn of(method: &str) -> Box<Self> {
        Box::new(Self {
            method: method.into(),
            sent: Bytes::new(),
            rounds: 0,
            waiting: None,
        })
    }

    /// Whether its client is asked now, and the child does nothing.
    #[must_use]
    pub fn is_between_rounds(&self) -> bool {
        self.waiting.is_some()
    }
}

impl Table {
    /// Drops the questions of a call that ended; `true` when the child knows of no such call, because it was between
    /// two rounds.
    pub fn forget_round(&mut self, call: &InFlight) -> bool {
        let between = call
            .crossing
            .as_ref()
            .is_some_and(|crossing| crossing.is_between_rounds());
        if between {
            // No other call has its questions in this mailbox.
            self.asked
                .retain(|_, asked| !asked.is_of_round_in(&call.mailbox));
        }
        between
    }
}

/// Keeps what was sent to the child for a later round, if the method may have one.
pub fn keep_for_retry(wire: &Wire, id: u64, line: &[u8]) {
    if let Some(call) = wire.table().calls.get_mut(&id)
        && let Some(crossing) = &mut call.crossing
        && MAY_ASK.contains(&&*crossing.method)
    {
        crossing.sent = Bytes::copy_from_slice(line);
    }
}

/// The child answered a call, which was taken out of the table: the client gets the answer, or is asked.
pub fn ended(wire: &Wire, call: InFlight, line: &[u8], answer: &Envelope<'_>) {
    let Some(crossing) = &call.crossing else {
        return;
    };
    let asks = answer
        .result
        .filter(|_| !crossing.sent.is_empty())
        .and_then(|result| input_required(result.get()));
    match asks {
        Some(required) => ask(wire, call, required),
        None => {
            let answer = session_answer(line, answer, &call.client_id, &crossing.method);
            call.mailbox.answer(answer);
        }
    }
}

fn fail(call: &InFlight, text: &str) {
    let answer = error_message(&call.client_id, INTERNAL_ERROR, text, None);
    call.mailbox.answer(answer);
}

fn ask(wire: &Wire, mut call: InFlight, required: InputRequired) {
    let Some(crossing) = &mut call.crossing else {
        return;
    };
    crossing.rounds += 1;
    if crossing.rounds > ROUNDS_MAX {
        let text = format!(
            "The server asked for input {ROUNDS_MAX} times without coming to an end; the call was given up."
        );
        return fail(&call, &text);
    }
    for (_, method, _) in &required.requests {
        let Some(capability) = capability_for(method) else {
            let text = format!("The server asks for {method:?}, which no client knows.");
            return fail(&call, &text);
        };
        if !call.caller.can_answer(method) {
            let answer = missing_capability(&call.client_id, capability);
            return call.mailbox.answer(answer);
        }
    }
    crossing.waiting = Some(Waiting {
        state: required.state,
        questions: required.requests.len(),
        responses: Vec::new(),
    });
    if required.requests.is_empty() {
        return retry(wire, call);
    }
    call.parked = true;
    call.touched = Instant::now();
    let (session, mailbox, client_id) = (
        call.caller.session,
        call.mailbox.clone(),
        call.client_id.clone(),
    );
    let mut table = wire.table();
    if table.asked.len() + required.requests.len() > ASKED_MAX {
        drop(table);
        return fail(&call, "Too many requests wait for clients.");
    }
    let Some(id) = begin_again(&mut table, call) else {
        return;
    };
    let mut questions = Vec::with_capacity(required.requests.len());
    for (key, method, params) in required.requests {
        let origin = Origin::Round(id, key.into());
        if let Ok(ours) = table.ask(origin, session, mailbox.clone()) {
            let method = quote(&method);
            questions.push(format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{ours},\"method\":{method},\"params\":{params}}}"
            ));
        }
    }
    drop(table);
    for question in questions {
        if !mailbox.push_or_refuse(question.into()) {
            give_up(
                wire,
                id,
                "the client of this call reads too slowly, or left",
            );
            tracing::debug!(%client_id, "a client could not be asked");
            return;
        }
    }
    wire.watch_time();
}

/// Takes a call in under a new id; `None` when the child is gone or has too much to do, which its client was told.
fn begin_again(table: &mut Table, call: InFlight) -> Option<u64> {
    let (mailbox, client_id) = (call.mailbox.clone(), call.client_id.clone());
    match table.begin(call) {
        Ok(id) => Some(id),
        Err(super::in_flight::Refused::Failed(failure)) => {
            mailbox.answer(failure.answer(&client_id));
            None
        }
        Err(super::in_flight::Refused::Full) => {
            let text = "Too many calls are under way at this server.";
            mailbox.answer(error_message(&client_id, INTERNAL_ERROR, text, None));
            None
        }
    }
}

/// A client answered one question of a round; the last answer sends the call on its way again.
pub fn answered(wire: &Wire, id: u64, key: &str, response: &Envelope<'_>) {
    let mut table = wire.table();
    let Some(call) = table.calls.get_mut(&id) else {
        return;
    };
    call.touched = Instant::now();
    let Some(waiting) = call
        .crossing
        .as_mut()
        .and_then(|crossing| crossing.waiting.as_mut())
    else {
        return;
    };
    let Some(result) = response.result else {
        // There is no place for an error among the answers: the call ends with it.
        if let Some(call) = table.end(id) {
            table.forget_round(&call);
            drop(table);
            let error = response.error.map_or("{}", |error| error.get());
            let client_id = &call.client_id;
            let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{client_id},\"error\":{error}}}");
            call.mailbox.answer(answer.into());
        }
        return;
    };
    waiting
        .responses
        .push((key.to_owned(), result.get().to_owned()));
    if waiting.responses.len() == waiting.questions
        && let Some(call) = table.end(id)
    {
        drop(table);
        retry(wire, call);
    }
}

fn retry(wire: &Wire, mut call: InFlight) {
    let Some(crossing) = &mut call.crossing else {
        return;
    };
    let Some(waiting) = crossing.waiting.take() else {
        return;
    };
    let sent = std::mem::take(&mut crossing.sent);
    call.parked = false;
    call.touched = Instant::now();
    let Some(id) = begin_again(&mut wire.table(), call) else {
        return;
    };
    let line = match retried(&sent, id, &waiting.responses, waiting.state.as_deref()) {
        Ok(line) => line,
        Err(error) => return give_up(wire, id, &error.to_string()),
    };
    keep_for_retry(wire, id, &line);
    match wire.send(line) {
        // As for a first try: the call is answered with the cause when the child is found dead.
        Ok(()) | Err(super::NotSent::Closed) => wire.watch_time(),
        Err(error) => give_up(wire, id, &error.to_string()),
    }
}

/// Ends a call whose client cannot be asked, or not be served.
pub fn give_up(wire: &Wire, id: u64, cause: &str) {
    let mut table = wire.table();
    if let Some(call) = table.end(id) {
        table.forget_round(&call);
        drop(table);
        fail(&call, &format!("The call was given up: {cause}."));
    }
}
