//! JSON answers that are too large to be held: read while they come in, by a parser that keeps what it wants.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use reqwest::Response;
use tokio::sync::mpsc;

use crate::{Call, Client, Error, Trouble, client::Attempts};

/// Pieces that wait for the parser; it holds the network up, not the memory.
const PIECES_WAITING: usize = 4;

impl Client {
    /// Sends `call` and gives its JSON, as it comes in, to `parse` on a thread of its own. What `parse` keeps is all
    /// that is held of it. Not more than `bytes_max` bytes are read.
    ///
    /// # Errors
    /// [`Error`], fit to be shown to a language model; [`Trouble::Malformed`] when `parse` fails.
    pub async fn send_streamed<T: Send + 'static>(
        &self,
        call: Call,
        bytes_max: u64,
        parse: fn(&mut dyn Read) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::default();
        loop {
            let outcome = match self.attempt(&call).await {
                Ok(response) => self.parse_stream(&call, response, bytes_max, parse).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(parsed) => return Ok(parsed),
                Err(error) => attempts.wait(self, &call, error).await?,
            }
        }
    }

    async fn parse_stream<T: Send + 'static>(
        &self,
        call: &Call,
        mut response: Response,
        bytes_max: u64,
        parse: fn(&mut dyn Read) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let status = response.status();
        if !status.is_success() {
            return match self.read(call, response).await {
                Ok(_) => Err(Error::new(self.service(), Trouble::Malformed)),
                Err(error) => Err(error),
            };
        }
        let cap = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        if response
            .content_length()
            .is_some_and(|length| length > bytes_max)
        {
            return Err(self.too_large(call, status, cap));
        }
        let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
        let parser = tokio::task::spawn_blocking(move || {
            let mut reader = io::BufReader::with_capacity(64 * 1024, Pieces::new(receiver));
            parse(&mut reader)
        });
        let mut total = 0_u64;
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| self.broken(call, &error))?
        {
            total += piece.len() as u64;
            if total > bytes_max {
                return Err(self.too_large(call, status, cap));
            }
            // A parser that failed reads no more, and tells below.
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        drop(pieces);
        match parser.await {
            Ok(Ok(parsed)) => Ok(parsed),
            // The parser's own words may repeat a part of the answer.
            Ok(Err(_)) | Err(_) => {
                let mut error = Error::new(self.service(), Trouble::Malformed);
                error.failure.status = Some(status.as_u16());
                Err(self.advised(error))
            }
        }
    }
}

/// The pieces as one stream of bytes. It ends when the sender is gone.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Pieces {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece[..length]);
        self.piece.advance(length);
        Ok(length)
    }
}
