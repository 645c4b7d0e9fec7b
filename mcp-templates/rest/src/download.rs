//! Downloads from addresses that a service gives out, such as the signed address of a log.

use reqwest::Url;

use crate::{BaseUrl, Call, Client, Error, Trouble};

/// No more than this is read of one download, in bytes.
const READ_BYTES_MAX: u64 = 256 << 20;

/// The end of a download.
#[derive(Debug)]
pub struct Tail {
    /// The last bytes.
    pub bytes: Vec<u8>,
    /// The size of the whole in bytes.
    pub total_bytes: u64,
}

impl Client {
    /// Reads `address`, which the service gave out, and keeps its last `keep_bytes` bytes. Sends neither the credential
    /// nor any header of the service, follows no redirect, and takes https only, or http on a loopback address.
    ///
    /// # Errors
    /// [`Error`], fit to be shown to a language model; the address, which may be signed, is not in it.
    pub async fn download_tail(&self, address: &str, keep_bytes: usize) -> Result<Tail, Error> {
        self.tail(address, keep_bytes, READ_BYTES_MAX).await
    }

    /// Reads `address` as a whole; otherwise as [`Client::download_tail`].
    ///
    /// # Errors
    /// [`Error`], fit to be shown to a language model; [`Trouble::TooLarge`] beyond `bytes_max`.
    pub async fn download(&self, address: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let tail = self.tail(address, bytes_max, bytes_max as u64).await?;
        Ok(tail.bytes)
    }

    async fn tail(
        &self,
        address: &str,
        keep_bytes: usize,
        read_bytes_max: u64,
    ) -> Result<Tail, Error> {
        let url =
            downloadable(address).ok_or_else(|| Error::new(self.service(), Trouble::Malformed))?;
        let call = Call::get("/");
        let broken = |error: reqwest::Error| self.broken(&call, &error);
        let mut response = self.http()?.get(url).send().await.map_err(broken)?;
        if !response.status().is_success() {
            let refused = self.read(&call, response).await;
            return Err(refused
                .err()
                .unwrap_or_else(|| Error::new(self.service(), Trouble::Status)));
        }
        let mut tail = Tail {
            bytes: Vec::new(),
            total_bytes: 0,
        };
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            tail.total_bytes += chunk.len() as u64;
            if tail.total_bytes > read_bytes_max {
                let max = usize::try_from(read_bytes_max).unwrap_or(usize::MAX);
                return Err(self.advised(Error::new(self.service(), Trouble::TooLarge(max))));
            }
            tail.bytes.extend_from_slice(&chunk);
            // Cut at twice the size, so that each byte is moved at most once.
            if tail.bytes.len() > keep_bytes.saturating_mul(2) {
                cut(&mut tail.bytes, keep_bytes);
            }
        }
        cut(&mut tail.bytes, keep_bytes);
        Ok(tail)
    }
}

fn cut(bytes: &mut Vec<u8>, keep: usize) {
    let surplus = bytes.len().saturating_sub(keep);
    bytes.drain(..surplus);
}

/// The address, if its scheme and host are such that a [`BaseUrl`] may have them.
fn downloadable(address: &str) -> Option<Url> {
    let url = Url::parse(address).ok()?;
    BaseUrl::new(&url.origin().ascii_serialization()).ok()?;
    let anonymous = url.username().is_empty() && url.password().is_none();
    anonymous.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_or_loopback_is_downloaded() {
        for good in ["https://logs.example.com/a?sig=x", "http://127.0.0.1:9/a"] {
            assert!(downloadable(good).is_some(), "{good}");
        }
        for bad in [
            "http://logs.example.com/a",
            "https://u:p@logs.example.com/a",
            "file:///etc/passwd",
            "/a",
            "",
        ] {
            assert!(downloadable(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_end_is_kept() {
        let mut bytes = b"abcdef".to_vec();
        cut(&mut bytes, 2);
        assert_eq!(bytes, b"ef");
        cut(&mut bytes, 9);
        assert_eq!(bytes, b"ef");
    }
}
