//! A blocking HTTP/1.1 client on one connection, so that the measuring costs little. Loopback and JSON only.

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How long an answer may take, unless it is said.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The value of `Mcp-Session-Id`, if there is one.
    pub session: Option<String>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// One connection that is kept open.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    /// Head lines of every request, each with its line end.
    pub fixed: String,
    line: String,
}

impl Connection {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn open(host: &str) -> io::Result<Self> {
        Self::open_with(host, PATIENCE)
    }

    /// The same, for answers that may take so long, which is more than nothing.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_with(host: &str, patience: Duration) -> io::Result<Self> {
        let writer = TcpStream::connect(host)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(patience))?;
        Ok(Self {
            reader: BufReader::new(writer.try_clone()?),
            writer,
            fixed: format!("Host: {host}\r\nAccept: application/json, text/event-stream\r\n"),
            line: String::new(),
        })
    }

    /// Sends a request and reads its answer to the end.
    ///
    /// # Errors
    /// Those of the connection, and what is no HTTP.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let mut request = String::with_capacity(self.fixed.len() + body.len() + path.len() + 128);
        request.push_str(method);
        request.push(' ');
        request.push_str(path);
        request.push_str(" HTTP/1.1\r\n");
        request.push_str(&self.fixed);
        if !body.is_empty() {
            request.push_str("Content-Type: application/json\r\n");
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        self.writer.write_all(request.as_bytes())?;
        let status = self.next_line()?.split(' ').nth(1).map(str::parse);
        let Some(Ok(status)) = status else {
            return Err(fault(&format!("no status: {}", self.line)));
        };
        let (mut length, mut chunked, mut session) = (None, false, None);
        loop {
            let line = self.next_line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.trim().eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("mcp-session-id") {
                session = Some(value.trim().to_owned());
            }
        }
        let mut body = Vec::new();
        match (length, status) {
            _ if chunked => while self.read_chunk(&mut body)? {},
            (Some(length), _) => {
                body.resize(length, 0);
                self.reader.read_exact(&mut body)?;
            }
            (None, 202 | 204) => {}
            _ => return Err(fault("an answer without a length")),
        }
        Ok(Answer {
            status,
            session,
            body,
        })
    }

    /// Appends the next chunk; false when it was the last one.
    fn read_chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let size = self.next_line()?.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| fault("a chunk without a size"))?;
        let before = body.len();
        body.resize(before + size, 0);
        self.reader.read_exact(&mut body[before..])?;
        self.next_line()?;
        Ok(size > 0)
    }

    fn next_line(&mut self) -> io::Result<&str> {
        self.line.clear();
        if self.reader.read_line(&mut self.line)? == 0 {
            return Err(fault("the connection was closed"));
        }
        Ok(self.line.trim_end())
    }
}

fn fault(text: &str) -> io::Error {
    io::Error::other(text.to_owned())
}
