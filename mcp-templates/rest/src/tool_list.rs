//! The tools of a server: their schemas are made when the first call needs them, and the list is answered with a text
//! that was written when the server was built. Making and printing the schemas took half of a start.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use memchr::memmem::Finder;
use rmcp::{
    handler::server::router::tool::ToolRouter,
    model::{JsonObject, Tool},
};
use tokio::io::AsyncWrite;

/// The tools of a server `S`, made at the first use.
pub struct Tools<S> {
    make: Box<dyn Fn() -> ToolRouter<S> + Send + Sync>,
    made: OnceLock<ToolRouter<S>>,
    /// What the list holds instead of all tools, when [`WrittenList`] takes its place on the way out.
    stand_in: Option<Tool>,
}

impl<S: Send + Sync + 'static> Tools<S> {
    /// The tools that `make` makes.
    pub fn new(make: impl Fn() -> ToolRouter<S> + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            made: OnceLock::new(),
            stand_in: None,
        }
    }

    /// The tools with how each is called.
    pub fn router(&self) -> &ToolRouter<S> {
        self.made.get_or_init(|| (self.make)())
    }

    /// One tool, as `rmcp::tool_handler` asks for it.
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.router().get(name)
    }

    /// All tools by name, as `rmcp::tool_handler` asks for them.
    pub fn list_all(&self) -> Vec<Tool> {
        match &self.stand_in {
            Some(stand_in) => vec![stand_in.clone()],
            None => self.router().list_all(),
        }
    }

    /// From now on the list is `tools`, each the JSON of one tool, which must be what [`Tools::router`] has: a test of
    /// the server holds them together. The answer must go out through [`crate::serve_with_list`].
    pub fn write_list<'a>(&mut self, tools: impl IntoIterator<Item = &'a str>) -> WrittenList {
        let mut text = String::from("[");
        for tool in tools {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(tool);
        }
        text.push(']');
        // Nobody can know the name, so no other answer can hold it.
        let random = || RandomState::new().hash_one(0_u8);
        let name = format!("{:016x}{:016x}", random(), random());
        let stand_in = Tool::new(name, "", Arc::new(JsonObject::new()));
        let mark = serde_json::to_vec(&[&stand_in]);
        self.stand_in = mark.is_ok().then_some(stand_in);
        WrittenList {
            mark: mark.unwrap_or_default(),
            text,
        }
    }
}

/// A list of tools as JSON, and what it replaces in an answer.
pub struct WrittenList {
    mark: Vec<u8>,
    text: String,
}

/// A writer of whole messages that puts the list where its stand-in is.
pub(crate) struct ListWriter<W> {
    inner: W,
    text: String,
    mark: Finder<'static>,
    /// How much of the text is out, while the stand-in's place is written.
    written: usize,
}

impl<W> ListWriter<W> {
    pub(crate) fn new(inner: W, list: WrittenList) -> Self {
        Self {
            inner,
            text: list.text,
            mark: Finder::new(&list.mark).into_owned(),
            written: 0,
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for ListWriter<W> {
    /// The frames of `rmcp` are encoded as a whole before they are written, so a mark is never cut by the end of
    /// `bytes`; what was not taken comes again.
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let inner = Pin::new(&mut this.inner);
        match this.mark.find(bytes) {
            Some(0) if !this.mark.needle().is_empty() => {}
            Some(before) if before > 0 => return inner.poll_write(context, &bytes[..before]),
            _ => return inner.poll_write(context, bytes),
        }
        let mut inner = inner;
        while let Some(rest) = this
            .text
            .as_bytes()
            .get(this.written..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(inner.as_mut().poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => this.written += written,
            }
        }
        this.written = 0;
        Poll::Ready(Ok(this.mark.needle().len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn tools() -> Tools<()> {
        Tools::new(ToolRouter::new)
    }

    #[tokio::test]
    async fn the_list_takes_the_place_of_its_stand_in_through_a_narrow_pipe() {
        let mut tools = tools();
        let long = format!(r#"{{"name":"a","description":"{}"}}"#, "x".repeat(300));
        let list = tools.write_list([long.as_str(), r#"{"name":"b"}"#]);
        let stand_in = serde_json::to_string(&tools.list_all()).expect("JSON");
        let (near, mut far) = duplex(7);
        let mut writer = ListWriter::new(near, list);
        let message = format!("{{\"tools\":{stand_in},\"next\":1}}\n{{}}\n{stand_in}\n");
        let writing = async {
            writer.write_all(message.as_bytes()).await.expect("written");
            writer.shutdown().await.expect("shut down");
        };
        let mut read = String::new();
        let (_written, outcome) = tokio::join!(writing, far.read_to_string(&mut read));
        outcome.expect("text");
        let all = format!("[{long},{{\"name\":\"b\"}}]");
        assert_eq!(
            read,
            format!("{{\"tools\":{all},\"next\":1}}\n{{}}\n{all}\n")
        );
    }

    #[test]
    fn a_list_that_was_not_written_is_made() {
        let mut written = tools();
        assert!(written.list_all().is_empty());
        let list = written.write_list([]);
        assert_eq!(list.text, "[]");
        let other = tools().write_list([]);
        assert_ne!(
            list.mark, other.mark,
            "each process has a stand-in of its own"
        );
    }
}
