//! The header of the PROXY protocol, versions 1 and 2: what a proxy says of its client before anything of that comes.
//!
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>. The crate `ppp` knows what the fields mean. Where a header ends is
//! found out here, for it is told from the end of one only when it is whole: what has come of a number or of an address may look
//! like all of it, or like none.

use super::filter::{Filter, State, Through};
use super::handler::CloseReason;
use crate::reactor::socket::address::Address;
use ppp::{v1, v2};
use std::net::SocketAddr;

/// The longest header of version 1, with its end (2.1 of the specification).
const LONGEST_LINE: usize = 107;

/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// Of version 2: what comes before the part that has a length.
const FIXED: usize = 16;
const VERSION_AND_COMMAND: usize = 12;
/// Version 2, and the proxy speaks for itself, as when it looks whether anybody is there.
const LOCAL: u8 = 0x20;

/// A header that is whole: its length in bytes, and the client, unless the proxy speaks for itself or does not know.
type Header = (usize, Option<SocketAddr>);

/// `None` if more has to come. Or what is wrong with it.
fn parse(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => parse_line(bytes),
        Some(_) => parse_binary(bytes),
    }
}

fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let len = bytes.len().min(with.len());
    bytes[..len] == with[..len]
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    if !begins(bytes, WORD) {
        return Err("there is none");
    }
    let most = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = most.iter().position(|byte| *byte == b'\n') else {
        return if most.len() < LONGEST_LINE { Ok(None) } else { Err("it is longer than 107 bytes") };
    };
    let line = &most[..=end];
    let header = v1::Header::try_from(line).map_err(|_| "it is not as version 1 says")?;
    if header.header.len() != line.len() {
        return Err("it is not as version 1 says");
    }
    let client = match header.addresses {
        v1::Addresses::Tcp4(both) => Some(SocketAddr::from((both.source_address, both.source_port))),
        v1::Addresses::Tcp6(both) => Some(SocketAddr::from((both.source_address, both.source_port))),
        v1::Addresses::Unknown => None,
    };
    Ok(Some((line.len(), client)))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    if !begins(bytes, v2::PROTOCOL_PREFIX) {
        return Err("there is none");
    }
    let Some(&[.., high, low]) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let len = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if bytes[VERSION_AND_COMMAND] == LOCAL {
        // Whatever else it says is not looked at.
        return Ok((bytes.len() >= len).then_some((len, None)));
    }
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => return Ok(None),
        Err(_) => return Err("it is not as version 2 says"),
    };
    let client = match header.addresses {
        // Of anything else than a stream, and of Unix-domain clients, there is nothing to be told.
        _ if header.protocol != v2::Protocol::Stream => None,
        v2::Addresses::IPv4(both) => Some(SocketAddr::from((both.source_address, both.source_port))),
        v2::Addresses::IPv6(both) => Some(SocketAddr::from((both.source_address, both.source_port))),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    };
    Ok(Some((len, client)))
}

/// Waits for the header, and is gone behind it.
#[derive(Debug, Default)]
pub(in crate::reactor) struct Expects {
    held: Vec<u8>,
}

impl Filter for Expects {
    fn begin(&mut self, _through: &mut Through<'_>) -> Result<State, CloseReason> {
        Ok(State::Handshaking)
    }

    fn receive(&mut self, bytes: &mut [u8], through: &mut Through<'_>) -> Result<State, CloseReason> {
        let before = self.held.len();
        let parsed = if before == 0 {
            parse(bytes)
        } else {
            self.held.extend_from_slice(bytes);
            parse(&self.held)
        };
        match parsed {
            Ok(None) if before == 0 => {
                self.held.extend_from_slice(bytes);
                Ok(State::Handshaking)
            }
            Ok(None) => Ok(State::Handshaking),
            Ok(Some((len, client))) => {
                if let Some(client) = client {
                    *through.peer = Address::Tcp(client).to_canonical();
                }
                self.held = Vec::new();
                Ok(State::Gone(len - before))
            }
            Err(problem) => Err(refused(through.peer, problem)),
        }
    }

    fn seal(&mut self, _plain: &[u8], _into: &mut Vec<u8>) -> Result<(), CloseReason> {
        unreachable!("it is gone before anything is written")
    }

    fn end_output(&mut self, _into: &mut Vec<u8>) {}

    fn held_input(&self) -> usize {
        self.held.len()
    }
}

/// For whoever speaks for itself.
#[derive(Debug)]
pub(in crate::reactor) struct ExpectsNothing;

impl Filter for ExpectsNothing {
    fn begin(&mut self, _through: &mut Through<'_>) -> Result<State, CloseReason> {
        Ok(State::Gone(0))
    }

    fn receive(&mut self, _bytes: &mut [u8], _through: &mut Through<'_>) -> Result<State, CloseReason> {
        Ok(State::Gone(0))
    }

    fn seal(&mut self, _plain: &[u8], _into: &mut Vec<u8>) -> Result<(), CloseReason> {
        unreachable!("it is gone before anything is written")
    }

    fn end_output(&mut self, _into: &mut Vec<u8>) {}

    fn held_input(&self) -> usize {
        0
    }
}

/// Says so, for the connection has no handler yet.
pub(in crate::reactor) fn refused(peer: &Address, problem: &'static str) -> CloseReason {
    let reason = CloseReason::ProxyHeader { problem };
    crate::log::proxy_header_refused(peer, &reason);
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// Of version 2.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family], &len, body].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn headers() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let v6: Vec<u8> =
            [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[1], &[0x12, 0x34, 0, 80]].concat();
        let with_more = [V4, &[4, 0, 3, 1, 2, 3]].concat();
        let longest = [V4, &vec![0xEE; 65535 - V4.len()]].concat();
        let line = |text: &str| text.as_bytes().to_vec();
        vec![
            (line("PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n"), client("192.0.2.7:4660")),
            (line("PROXY TCP6 2001:db8::1 ::1 4660 80\r\n"), client("[2001:db8::1]:4660")),
            (line("PROXY UNKNOWN\r\n"), None),
            (line("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), None),
            (binary(0x21, 0x11, V4), client("192.0.2.7:4660")),
            (binary(0x21, 0x21, &v6), client("[2001:db8::1]:4660")),
            (binary(0x21, 0x11, &with_more), client("192.0.2.7:4660")),
            (binary(0x21, 0x11, &longest), client("192.0.2.7:4660")),
            (binary(0x21, 0x00, &[]), None),
            (binary(0x21, 0x12, V4), None),
            (binary(0x21, 0x31, &[b'x'; 216]), None),
            // The proxy itself, whatever it says beside that.
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &[1, 2]), None),
            (binary(0x20, 0x77, V4), None),
        ]
    }

    #[test]
    fn each_header_is_understood_once_it_is_whole_and_not_before() {
        for (header, client) in headers() {
            let all = [&header[..], b"and more\n"].concat();
            assert_eq!(parse(&all), Ok(Some((header.len(), client))), "{header:?}");
            // All of the beginnings, and of a long one those that are not alike.
            for cut in (0..header.len()).filter(|cut| *cut < 200 || header.len() - cut < 200) {
                assert_eq!(parse(&header[..cut]), Ok(None), "{cut} bytes of {header:?}");
            }
        }
    }

    /// Feeds the pieces to a filter: whom it takes for the peer, and what is behind the header.
    fn feed(pieces: &[&[u8]]) -> Result<(Address, Vec<u8>), CloseReason> {
        let (mut filter, mut peer) = (Expects::default(), Address::Tcp(([127, 0, 0, 1], 1).into()));
        let (mut plain, mut said, mut rest) = (Vec::new(), Vec::new(), None);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            match &mut rest {
                Some(rest) => Vec::extend_from_slice(rest, piece),
                None => {
                    let through = &mut Through { plain: &mut plain, said: &mut said, peer: &mut peer };
                    if let State::Gone(used) = filter.receive(&mut bytes, through)? {
                        rest = Some(bytes.split_off(used));
                    }
                }
            }
        }
        assert!(plain.is_empty() && said.is_empty());
        Ok((peer, rest.unwrap_or_default()))
    }

    #[test]
    fn what_follows_is_left_wherever_it_is_cut() {
        for (header, client) in headers().into_iter().filter(|(header, _)| header.len() < 300) {
            let all = [&header[..], b"body"].concat();
            let expected = client.unwrap_or(([127, 0, 0, 1], 1).into());
            for cut in 0..all.len() {
                let (peer, rest) = feed(&[&all[..cut], &all[cut..]]).unwrap();
                assert_eq!(
                    (peer, &rest[..]),
                    (Address::Tcp(expected), &b"body"[..]),
                    "{header:?} cut at {cut}"
                );
            }
            let bytes: Vec<&[u8]> = all.chunks(1).collect();
            assert_eq!(feed(&bytes).unwrap(), (Address::Tcp(expected), b"body".to_vec()));
        }
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_proxy_has_its_ipv4_address() {
        let (peer, _) = feed(&[b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4660 80\r\n"]).unwrap();
        assert_eq!(peer, Address::Tcp(client("192.0.2.7:4660").unwrap()));
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_shows() {
        let too_long = [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat();
        assert_eq!(too_long.len(), LONGEST_LINE + 1);
        for (bytes, at_most) in [
            (&b"GET / HTTP/1.1\r\n"[..], 1),
            (b"POST / HTTP/1.1\r\n", 2),
            (b"\x16\x03\x01", 1),
            (b"\r\n\r\nQUIT", 5),
            (&too_long, LONGEST_LINE),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n", 38),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\n", 39),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 65536\r\n", 43),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80 1\r\n", 42),
            (b"PROXY TCP4 192.0.2.256 10.0.0.1 4660 80\r\n", 42),
            (b"PROXY TCP4 ::1 ::1 4660 80\r\n", 30),
            (b"PROXY TCP5 192.0.2.7 10.0.0.1 4660 80\r\n", 40),
            (b"PROXY UNKNOWN\rx\r\n", 18),
            (b"PROXY\tTCP4 192.0.2.7 10.0.0.1 4660 80\r\n", 6),
            (&binary(0x11, 0x11, V4), 16),
            (&binary(0x22, 0x11, V4), 16),
            (&binary(0x21, 0x41, V4), 16),
            (&binary(0x21, 0x13, V4), 16),
            // Too short for what it says that it has.
            (&binary(0x21, 0x11, &V4[1..]), 16),
            (&binary(0x21, 0x21, V4), 16),
        ] {
            let refused = (1..=bytes.len()).find(|len| parse(&bytes[..*len]).is_err());
            assert!(refused.is_some_and(|len| len <= at_most), "{:?} at {refused:?}", bytes.escape_ascii());
        }
    }

    proptest! {
        /// However it is cut, what is made of it is the same, and nothing panics.
        #[test]
        fn the_pieces_make_no_difference(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            which in 0usize..20,
            at in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            // Mostly a header in which one byte is wrong.
            if let Some((header, _)) = headers().get(which).filter(|(header, _)| header.len() < 300) {
                let (at, wrong) = (at.index(header.len()), bytes.first().copied());
                bytes.splice(..0, header.iter().copied());
                bytes[at] = wrong.unwrap_or(bytes[at]);
            }
            let cut = cut.index(bytes.len() + 1);
            let whole = feed(&[&bytes]).map_err(|error| error.to_string());
            let pieces = feed(&[&bytes[..cut], &bytes[cut..]]).map_err(|error| error.to_string());
            prop_assert_eq!(whole, pieces);
        }
    }
}
