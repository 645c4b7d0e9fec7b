//! Questions for names and their answers, as far as a gate needs them (RFC 1035): one question, in which nothing is
//! compressed; the answer repeats it and adds one address. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::domain::egress;

/// An address of version 4.
pub(super) const A: u16 = 1;
/// An address of version 6.
pub(super) const AAAA: u16 = 28;
/// The Internet's class.
const IN: u16 = 1;
const HEADER_LEN: usize = 12;
/// How long an answer may be kept, in seconds: shorter than a name keeps its address.
const TTL_S: u32 = 60;

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The name in its one form; `None`: it is no name of a host.
    pub(super) host: Option<String>,
    /// [`A`], [`AAAA`] or another.
    pub(super) kind: u16,
    /// Where the question ends in the packet.
    end: usize,
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// This address.
    V4(Ipv4Addr),
    /// This address.
    V6(Ipv6Addr),
    /// The name is there, but not with such a record.
    NoRecord,
    /// There is no such name.
    NoSuchName,
    /// It cannot be answered now.
    Failure,
}

impl Question {
    /// Reads a packet; `None`: it is not a question of the usual kind, and gets no answer.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_LEN] = packet.first_chunk()?;
        // A question (QR 0) of the standard kind (opcode 0), one of them, without answers.
        let counts = &header[4..10];
        if header[2] & 0xf8 != 0 || counts != [0, 1, 0, 0, 0, 0] {
            return None;
        }
        let mut at = HEADER_LEN;
        let mut text = String::new();
        let mut is_text = true;
        loop {
            let len = usize::from(*packet.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            if len > 63 || at - HEADER_LEN > 255 {
                return None;
            }
            let label = packet.get(at..at + len)?;
            at += len;
            if !text.is_empty() {
                text.push('.');
            }
            let plain = label
                .iter()
                .all(|byte| byte.is_ascii_graphic() && *byte != b'.');
            is_text &= plain;
            text.extend(label.iter().map(|byte| char::from(*byte)));
        }
        let tail: &[u8; 4] = packet.get(at..)?.first_chunk()?;
        let kind = u16::from_be_bytes([tail[0], tail[1]]);
        let class = u16::from_be_bytes([tail[2], tail[3]]);
        if class != IN {
            return None;
        }
        Some(Self {
            host: egress::name(&text).filter(|_| is_text),
            kind,
            end: at + 4,
        })
    }

    /// The answer to `packet`, of which this was read.
    pub(super) fn reply(&self, packet: &[u8], answer: Answer) -> Vec<u8> {
        let code = match answer {
            Answer::V4(_) | Answer::V6(_) | Answer::NoRecord => 0,
            Answer::Failure => 2,
            Answer::NoSuchName => 3,
        };
        let mut reply = packet.get(..self.end).unwrap_or_default().to_vec();
        let address: Option<(u16, Vec<u8>)> = match answer {
            Answer::V4(address) => Some((A, address.octets().to_vec())),
            Answer::V6(address) => Some((AAAA, address.octets().to_vec())),
            _ => None,
        };
        if let Some(header) = reply.first_chunk_mut::<HEADER_LEN>() {
            // An answer (QR), with the wish for recursion as it was asked; recursion is offered.
            header[2] = 0x80 | (header[2] & 0x01);
            header[3] = 0x80 | code;
            header[6..].fill(0);
            header[7] = u8::from(address.is_some());
        }
        if let Some((kind, address)) = address {
            // The name is the question's, which begins behind the header.
            reply.extend_from_slice(&[0xc0, HEADER_LEN as u8]);
            reply.extend_from_slice(&kind.to_be_bytes());
            reply.extend_from_slice(&IN.to_be_bytes());
            reply.extend_from_slice(&TTL_S.to_be_bytes());
            reply.extend_from_slice(&(address.len() as u16).to_be_bytes());
            reply.extend_from_slice(&address);
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(name: &str, kind: u16) -> Vec<u8> {
        let mut packet = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            packet.push(label.len() as u8);
            packet.extend_from_slice(label.as_bytes());
        }
        packet.push(0);
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&[0, 1]);
        // EDNS, as every resolver of today adds it.
        packet.extend_from_slice(&[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let packet = packet("API.Example.com", A);
        let question = Question::parse(&packet).expect("a question");
        assert_eq!(question.host.as_deref(), Some("api.example.com"));
        let reply = question.reply(&packet, Answer::V4(Ipv4Addr::new(198, 18, 0, 7)));
        assert_eq!(
            reply[..12],
            [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]
        );
        assert_eq!(reply[reply.len() - 6..], [0, 4, 198, 18, 0, 7]);
        assert_eq!(
            reply[12..question.end],
            packet[12..question.end],
            "asked as it was, case and all"
        );
        let reply = question.reply(&packet, Answer::NoSuchName);
        assert_eq!((reply[3], reply[7], reply.len()), (0x83, 0, question.end));
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let good = packet("a.b", A);
        for (at, byte) in [
            (2, 0x80),
            (2, 0x08),
            (5, 0),
            (5, 2),
            (7, 1),
            (12, 64),
            (12, 0xc0),
            (19, 2),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Question::parse(&bad), None, "{at}: {byte}");
        }
        for end in 0..good.len() - 11 {
            assert_eq!(Question::parse(&good[..end]), None);
        }
        let long = vec!["a".repeat(63); 5].join(".");
        assert_eq!(Question::parse(&packet(&long, A)), None);
    }

    #[test]
    fn what_is_no_host_has_no_name() {
        for name in ["a b.c", "1.2.3.4", "a\u{1}.b", ""] {
            let question = Question::parse(&packet(name, A)).expect("a question");
            assert_eq!(question.host, None, "{name:?}");
        }
        let mut dotted = packet("axb", A);
        dotted[14] = b'.';
        assert_eq!(
            Question::parse(&dotted).expect("a question").host,
            None,
            "a dot inside of a label"
        );
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), good in any::<bool>()) {
            let packet = if good { [packet("a.example.com", 1), bytes].concat() } else { bytes };
            if let Some(question) = Question::parse(&packet) {
                let reply = question.reply(&packet, Answer::V6(Ipv6Addr::LOCALHOST));
                prop_assert!(reply.len() <= packet.len() + 28);
            }
        }
    }
}
