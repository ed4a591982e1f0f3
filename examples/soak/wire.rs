//! Requests and responses, as the service and all kinds of clients make and check them.

use std::io::{self, Read};

/// A request and how long its response is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) number: u64,
    pub(crate) response: u32,
}

/// The longest frame.
pub(crate) const FRAME: usize = 64 << 10;

/// Bytes of a request.
const REQUEST: usize = 20;

/// The id of what a server tells beside its responses, and the bytes behind it.
const NOTICE: (u64, usize) = (u64::MAX - 1, 10);

impl Asked {
    pub(crate) fn to_bytes(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&seal(self.number).to_be_bytes());
        bytes[16..].copy_from_slice(&self.response.to_be_bytes());
        bytes
    }

    /// `None` if nobody here has made it.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REQUEST] = bytes.try_into().ok()?;
        let (number, rest) = bytes.split_first_chunk()?;
        let (sealed, response) = rest.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        let response = u32::from_be_bytes(response.try_into().ok()?);
        (u64::from_be_bytes(*sealed) == seal(number)).then_some(Asked { number, response })
    }

    pub(crate) fn answer(self) -> Vec<u8> {
        (0..self.response as usize).map(|index| self.byte(index)).collect()
    }

    pub(crate) fn is_answer(self, response: &[u8]) -> bool {
        let mut bytes = response.iter().enumerate();
        response.len() == self.response as usize && bytes.all(|(index, byte)| *byte == self.byte(index))
    }

    fn byte(self, index: usize) -> u8 {
        (self.number as usize ^ index) as u8
    }

    /// The request as a plain socket sends it, with its number as the id.
    pub(crate) fn frame(self) -> Vec<u8> {
        let mut frame = self.number.to_be_bytes().to_vec();
        frame.extend_from_slice(&(REQUEST as u32).to_be_bytes());
        frame.extend_from_slice(&self.to_bytes());
        frame
    }
}

fn seal(number: u64) -> u64 {
    (number ^ 0x5eed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

/// The next response at a plain socket, with its id; `None` for what a server tells before it stops.
pub(crate) fn read_response(stream: &mut impl Read) -> io::Result<Option<(u64, Vec<u8>)>> {
    let (mut id, mut len) = ([0; 8], [0; 4]);
    stream.read_exact(&mut id)?;
    if u64::from_be_bytes(id) == NOTICE.0 {
        stream.read_exact(&mut [0; NOTICE.1])?;
        return Ok(None);
    }
    stream.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len) as usize;
    if len > FRAME {
        return Err(io::Error::other(format!("a response of {len} bytes")));
    }
    let mut response = vec![0; len];
    stream.read_exact(&mut response)?;
    Ok(Some((u64::from_be_bytes(id), response)))
}
