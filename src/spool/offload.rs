//! A spool for asynchronous callers: each call runs where it may block.

use std::io;

use super::{Place, Spool, SpoolRow};

/// A spool with one owner, whose calls run on the pool of blocking threads.
pub struct Offloaded<R> {
    /// Absent only while a call has it, or after one panicked.
    spool: Option<Spool<R>>,
}

impl<R: SpoolRow> Offloaded<R> {
    /// Takes a spool over.
    #[must_use]
    pub fn new(spool: Spool<R>) -> Self {
        Self { spool: Some(spool) }
    }

    /// Runs a call that blocks on the file system where it may.
    ///
    /// # Errors
    /// Those of the call; and every time after a call that panicked.
    pub async fn call<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Spool<R>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let Some(mut spool) = self.spool.take() else {
            return Err(io::Error::other("the spool is broken"));
        };
        let called = tokio::task::spawn_blocking(move || {
            let answer = call(&mut spool);
            (spool, answer)
        });
        let (spool, answer) = called.await.map_err(io::Error::other)?;
        self.spool = Some(spool);
        answer
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spool.as_ref().is_none_or(Spool::is_empty)
    }

    /// See [`Spool::accepts`].
    pub fn accepts(&mut self) -> bool {
        self.spool.as_mut().is_some_and(Spool::accepts)
    }

    /// See [`Spool::bytes`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::bytes)
    }

    /// See [`Spool::bytes_behind`].
    #[must_use]
    pub fn bytes_behind(&self, place: Place) -> u64 {
        self.spool
            .as_ref()
            .map_or(0, |spool| spool.bytes_behind(place))
    }
}
