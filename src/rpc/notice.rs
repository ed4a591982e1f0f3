//! What a server tells its client beside the responses, where the protocol has ids: on the wire an id of its own, and no
//! frame of the codec behind it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | [`ID`], big-endian: an id that no request has |
//! | 1 | the kind: 1 goodbye, 2 without a response |
//! | 1 | why there is no response: see [`Why`]; 0 in a goodbye |
//! | 8 | big-endian: the requests taken, or the id of the request |

/// The id of a notice. A client never gives it to a request.
pub(in crate::rpc) const ID: u64 = u64::MAX - 1;

/// Bytes of a notice, its id included.
pub(in crate::rpc) const BYTES: usize = 18;

const GOODBYE: u8 = 1;
const WITHOUT_RESPONSE: u8 = 2;

/// What a server tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rpc) enum Notice {
    /// Nothing follows. Of the requests of this connection, in the order in which they came, so many were taken, and each of
    /// them was answered or told to have no response. Those behind them were not taken, and never will be.
    Goodbye { taken: u64 },
    /// The request with this id was taken and has no response. The connection goes on.
    WithoutResponse { id: u64, why: Why },
}

/// Why a request has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::rpc) enum Why {
    Dropped = 1,
    Panicked = 2,
    TimedOut = 3,
    NotEncodable = 4,
}

impl Notice {
    pub(in crate::rpc) fn encode(self, out: &mut Vec<u8>) {
        let (kind, why, value) = match self {
            Notice::Goodbye { taken } => (GOODBYE, 0, taken),
            Notice::WithoutResponse { id, why } => (WITHOUT_RESPONSE, why as u8, id),
        };
        out.extend_from_slice(&ID.to_be_bytes());
        out.extend_from_slice(&[kind, why]);
        out.extend_from_slice(&value.to_be_bytes());
    }

    /// Whether a notice begins here.
    #[inline]
    pub(in crate::rpc) fn begins(bytes: &[u8]) -> bool {
        bytes.first_chunk() == Some(&ID.to_be_bytes())
    }

    /// The notice that begins here, of [`BYTES`] bytes. `Ok(None)` if not all of it has arrived.
    pub(in crate::rpc) fn decode(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some(bytes) = bytes.first_chunk::<BYTES>() else { return Ok(None) };
        let &[_, _, _, _, _, _, _, _, kind, why, ref value @ ..] = bytes;
        let value = u64::from_be_bytes(*value);
        let why = match (kind, why) {
            (GOODBYE, _) => return Ok(Some(Notice::Goodbye { taken: value })),
            (WITHOUT_RESPONSE, 1) => Why::Dropped,
            (WITHOUT_RESPONSE, 2) => Why::Panicked,
            (WITHOUT_RESPONSE, 3) => Why::TimedOut,
            (WITHOUT_RESPONSE, 4) => Why::NotEncodable,
            _ => return Err(format!("the server sent a notice of unknown kind {kind}.{why}")),
        };
        Ok(Some(Notice::WithoutResponse { id: value, why }))
    }
}

impl Why {
    pub(in crate::rpc) fn text(self) -> &'static str {
        match self {
            Why::Dropped => "the server's service dropped the reply",
            Why::Panicked => "the server's service panicked",
            Why::TimedOut => "the server's service did not reply in time",
            Why::NotEncodable => "the server's response could not be encoded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_come_back_as_they_were_sent() {
        let mut notices = vec![Notice::Goodbye { taken: 0 }, Notice::Goodbye { taken: u64::MAX }];
        for why in [Why::Dropped, Why::Panicked, Why::TimedOut, Why::NotEncodable] {
            notices.push(Notice::WithoutResponse { id: 0x0102_0304_0506_0708, why });
        }
        for notice in notices {
            let mut wire = Vec::new();
            notice.encode(&mut wire);
            assert_eq!(wire.len(), BYTES);
            assert!(Notice::begins(&wire) && !Notice::begins(&wire[..7]) && !Notice::begins(&wire[1..]));
            assert!((0..BYTES).all(|have| Notice::decode(&wire[..have]) == Ok(None)));
            wire.push(7);
            assert_eq!(Notice::decode(&wire), Ok(Some(notice)));
        }
    }

    #[test]
    fn the_wire_is_as_documented() {
        let mut wire = Vec::new();
        Notice::WithoutResponse { id: 258, why: Why::TimedOut }.encode(&mut wire);
        assert_eq!(wire, [255, 255, 255, 255, 255, 255, 255, 254, 2, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
        wire[8] = 9;
        assert!(Notice::decode(&wire).is_err());
    }
}
