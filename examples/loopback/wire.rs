//! What the two ends say to each other around the content.

/// What a client wants to do with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The pattern, to the server.
    Bulk,
    /// The pattern, both ways.
    Duplex,
    /// Messages, one at a time, each sent back.
    PingPong,
}

/// A client's first bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hello {
    pub(crate) mode: Mode,
    /// The client's number for it, for messages to people.
    pub(crate) connection: u32,
    /// Bytes of a write, or of a message.
    pub(crate) size: u32,
}

pub(crate) const HELLO_BYTES: usize = 20;
const HELLO_MAGIC: &[u8; 8] = b"trochus1";

/// The largest size that a server agrees to.
pub(crate) const MAX_SIZE: u32 = 16 << 20;

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(HELLO_MAGIC);
        bytes[8] = self.mode as u8;
        bytes[12..16].copy_from_slice(&self.connection.to_le_bytes());
        bytes[16..].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, &'static str> {
        if !bytes.starts_with(HELLO_MAGIC) {
            return Err("this is not a client of the loopback example");
        }
        let mode =
            [Mode::Bulk, Mode::Duplex, Mode::PingPong].into_iter().find(|mode| *mode as u8 == bytes[8]);
        let mode = mode.ok_or("the client asks for an experiment that is unknown here")?;
        let [connection, size] = [12, 16].map(|at| u32::from_le_bytes(field(bytes, at)));
        if size == 0 || size > MAX_SIZE {
            return Err("the client asks for a size beyond 16 MiB, or none");
        }
        Ok(Hello { mode, connection, size })
    }
}

/// A server's last bytes on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Bytes that it received and found right.
    pub(crate) received: u64,
    /// Bytes that it sent.
    pub(crate) sent: u64,
}

pub(crate) const VERDICT_BYTES: usize = 24;
const VERDICT_MAGIC: &[u8; 8] = b"verified";

impl Verdict {
    pub(crate) fn encode(&self) -> [u8; VERDICT_BYTES] {
        let mut bytes = [0; VERDICT_BYTES];
        bytes[..8].copy_from_slice(VERDICT_MAGIC);
        bytes[8..16].copy_from_slice(&self.received.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sent.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; VERDICT_BYTES] = bytes.try_into().ok()?;
        let [received, sent] = [8, 16].map(|at| u64::from_le_bytes(field(bytes, at)));
        bytes.starts_with(VERDICT_MAGIC).then_some(Verdict { received, sent })
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice is as long as the array")
}
