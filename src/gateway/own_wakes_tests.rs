use std::{
    convert::Infallible,
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Notify,
};

use super::*;

/// A server that reads a body, waits until it may answer, and says how long the body was; and how often its connection
/// was polled.
struct Server {
    client: DuplexStream,
    polls: Arc<AtomicUsize>,
    read: Arc<Notify>,
    may_answer: Arc<Notify>,
}

impl Server {
    fn start(answer: fn(usize) -> BoxBody<Bytes, Infallible>) -> Self {
        let (client, stream) = tokio::io::duplex(1 << 16);
        let (polls, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let may_answer = Arc::new(Notify::new());
        let server = Self {
            client,
            polls: polls.clone(),
            read: read.clone(),
            may_answer: may_answer.clone(),
        };
        tokio::spawn(async move {
            let wakes = OwnWakes::new();
            let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                let body = wakes.body(request.into_body());
                let (read, may_answer) = (&read, &may_answer);
                wakes.answering(async move {
                    let body = body.collect().await.expect("a body").to_bytes();
                    read.notify_one();
                    may_answer.notified().await;
                    Ok::<_, Infallible>(hyper::Response::new(answer(body.len())))
                })
            });
            let io = TokioIo::new(stream);
            let mut connection = pin!(http1::Builder::new().serve_connection(io, service));
            let mut counted = pin!(poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                connection.as_mut().poll(cx)
            }));
            poll_fn(|cx| wakes.poll(counted.as_mut(), cx)).await
        });
        server
    }

    async fn ask(&mut self, head: &str, parts: &[&str]) {
        let head = format!("POST / HTTP/1.1\r\nhost: h\r\n{head}\r\n\r\n");
        let first = head + parts.first().copied().unwrap_or_default();
        self.client.write_all(first.as_bytes()).await.expect("sent");
        for part in parts.iter().skip(1) {
            // The server sees what was there before it gets more.
            tokio::task::yield_now().await;
            self.client.write_all(part.as_bytes()).await.expect("sent");
        }
    }

    async fn answer(&mut self, end: &str) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            let read = self.client.read_buf(&mut answer).await.expect("an answer");
            assert!(read > 0, "it ended");
        }
        String::from_utf8(answer).expect("a text")
    }
}

fn length(of: usize) -> BoxBody<Bytes, Infallible> {
    Full::from(format!("{of}.")).boxed()
}

#[tokio::test]
async fn a_request_that_is_there_and_its_answer_take_a_poll_each() {
    let mut server = Server::start(length);
    let mut known = 0;
    for round in 1..=3 {
        server.ask("content-length: 5", &["hello"]).await;
        server.read.notified().await;
        // Whoever was woken meanwhile is polled now.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let before = server.polls.load(Ordering::Relaxed);
        server.may_answer.notify_one();
        assert!(server.answer("5.").await.starts_with("HTTP/1.1 200"));
        let after = server.polls.load(Ordering::Relaxed);
        // The very first one may have found nothing.
        let spare = usize::from(round == 1);
        let request = before - known;
        assert!(request <= 1 + spare, "{request} polls for a request");
        let answer = after - before;
        assert!(answer <= 1, "{answer} polls for an answer");
        known = after;
    }
}

#[tokio::test]
async fn a_body_in_parts_is_read_to_its_end() {
    let mut server = Server::start(length);
    for (head, parts, length) in [
        ("content-length: 9", &["abc", "def", "ghi"][..], "9."),
        ("content-length: 2", &["", "a", "b"], "2."),
        (
            "transfer-encoding: chunked",
            &["3\r\nabc\r\n", "1\r\nd", "\r\n0\r\n", "\r\n"],
            "4.",
        ),
        ("content-length: 0", &[], "0."),
    ] {
        server.ask(head, parts).await;
        server.read.notified().await;
        server.may_answer.notify_one();
        server.answer(length).await;
    }
}

#[tokio::test]
async fn a_client_that_waits_for_the_word_to_go_on_gets_it() {
    let mut server = Server::start(length);
    server
        .ask("content-length: 3\r\nexpect: 100-continue", &[])
        .await;
    server.answer("100 Continue\r\n\r\n").await;
    server.client.write_all(b"abc").await.expect("sent");
    server.may_answer.notify_one();
    server.answer("3.").await;
}

/// An answer that wakes itself for each of its parts.
struct Slowly(usize);

impl Body for Slowly {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        match self.0 {
            40.. => Poll::Ready(None),
            turn if turn % 2 == 0 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x"))))),
            _ => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_wakes_itself_is_polled_again() {
    let mut server = Server::start(|_| Slowly(0).boxed());
    server.ask("content-length: 1", &["a"]).await;
    server.may_answer.notify_one();
    let answer = server.answer("0\r\n\r\n").await;
    assert_eq!(answer.matches("\r\nx").count(), 19, "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_during_a_call_is_noticed() {
    let mut server = Server::start(length);
    server.ask("content-length: 1", &["a"]).await;
    server.read.notified().await;
    let polls = server.polls.clone();
    let may_answer = server.may_answer.clone();
    drop(server);
    // The task of the connection, which holds the other half, ends without an answer.
    while Arc::strong_count(&may_answer) > 1 {
        tokio::task::yield_now().await;
    }
    assert!(polls.load(Ordering::Relaxed) <= 3);
}
