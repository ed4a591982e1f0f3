//! Limits of a proactor, with defaults.

use std::io;

/// Limits of a [`Proactor`](crate::Proactor). Start from [`Settings::default`] and change what matters.
///
/// | limit | default |
/// | --- | --- |
/// | [`buffers`](Settings::buffers) | 256 |
/// | [`buffer_bytes`](Settings::buffer_bytes) | 16 KiB |
/// | [`receives_per_turn`](Settings::receives_per_turn) | 8 |
/// | [`sends_per_turn`](Settings::sends_per_turn) | 8 |
/// | [`accepts_per_turn`](Settings::accepts_per_turn) | 64 |
/// | [`bytes_per_send`](Settings::bytes_per_send) | unlimited |
/// | [`events_per_turn`](Settings::events_per_turn) | 1024 |
/// | [`file_threads`](Settings::file_threads) | 4 |
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Settings {
    pub(crate) buffers: u16,
    pub(crate) buffer_bytes: usize,
    pub(crate) receives_per_turn: usize,
    pub(crate) sends_per_turn: usize,
    pub(crate) accepts_per_turn: usize,
    pub(crate) bytes_per_send: usize,
    pub(crate) events_per_turn: usize,
    pub(crate) file_threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            buffers: 256,
            buffer_bytes: 16 * 1024,
            receives_per_turn: 8,
            sends_per_turn: 8,
            accepts_per_turn: 64,
            bytes_per_send: usize::MAX,
            events_per_turn: 1024,
            file_threads: 4,
        }
    }
}

impl Settings {
    /// Number of receive buffers, shared by all sources. At least 1.
    pub fn buffers(mut self, count: u16) -> Self {
        self.buffers = count;
        self
    }

    /// Size of one receive buffer in bytes. At least 1.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How many buffers one source may fill in one [`wait`](crate::Proactor::wait), so that a greedy peer
    /// does not starve the others; fewer, when its share of the pool's free ones is less. At least 1.
    pub fn receives_per_turn(mut self, count: usize) -> Self {
        self.receives_per_turn = count;
        self
    }

    /// How many send calls one source may make in one [`wait`](crate::Proactor::wait): a peer that drains as
    /// fast as we send would otherwise keep the loop to itself for the length of its payload. At least 1.
    pub fn sends_per_turn(mut self, count: usize) -> Self {
        self.sends_per_turn = count;
        self
    }

    /// How many connections one listener may accept in one [`wait`](crate::Proactor::wait). At least 1.
    pub fn accepts_per_turn(mut self, count: usize) -> Self {
        self.accepts_per_turn = count;
        self
    }

    /// After how many bytes a send completes although its payload has more, so that progress shows: the caller sends
    /// the rest. At least 1.
    pub fn bytes_per_send(mut self, bytes: usize) -> Self {
        self.bytes_per_send = bytes;
        self
    }

    /// How many readiness events one [`wait`](crate::Proactor::wait) takes from the selector; more wait for the next.
    /// Few of them keep turns short where thousands of sockets are ready. At least 1.
    pub fn events_per_turn(mut self, count: usize) -> Self {
        self.events_per_turn = count;
        self
    }

    /// How many threads may read files at a time; each is started when there is something for it to read. At least 1.
    pub fn file_threads(mut self, count: usize) -> Self {
        self.file_threads = count;
        self
    }

    /// Checks every limit; returns the size of the whole pool in bytes.
    pub(crate) fn pool_bytes(&self) -> io::Result<usize> {
        let limits = [
            ("buffers", usize::from(self.buffers)),
            ("buffer_bytes", self.buffer_bytes),
            ("receives_per_turn", self.receives_per_turn),
            ("sends_per_turn", self.sends_per_turn),
            ("accepts_per_turn", self.accepts_per_turn),
            ("bytes_per_send", self.bytes_per_send),
            ("events_per_turn", self.events_per_turn),
            ("file_threads", self.file_threads),
        ];
        if let Some((name, _)) = limits.iter().find(|(_, value)| *value == 0) {
            return Err(invalid(format!("{name} is 0; it must be at least 1")));
        }
        usize::from(self.buffers)
            .checked_mul(self.buffer_bytes)
            .filter(|bytes| isize::try_from(*bytes).is_ok())
            .ok_or_else(|| {
                invalid(format!(
                    "{} buffers of {} bytes exceed the address space; lower buffers or buffer_bytes",
                    self.buffers, self.buffer_bytes
                ))
            })
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().pool_bytes().unwrap(), 4 << 20);
    }

    #[test]
    fn a_zero_is_refused_by_name() {
        let cases = [
            (Settings::default().buffers(0), "buffers is 0"),
            (Settings::default().buffer_bytes(0), "buffer_bytes is 0"),
            (Settings::default().receives_per_turn(0), "receives_per_turn is 0"),
            (Settings::default().sends_per_turn(0), "sends_per_turn is 0"),
            (Settings::default().accepts_per_turn(0), "accepts_per_turn is 0"),
            (Settings::default().bytes_per_send(0), "bytes_per_send is 0"),
            (Settings::default().events_per_turn(0), "events_per_turn is 0"),
        ];
        for (settings, expected) in cases {
            let error = settings.pool_bytes().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_pool_larger_than_memory_is_refused() {
        for bytes in [usize::MAX, usize::MAX / 256, isize::MAX as usize / 255] {
            let error = Settings::default().buffer_bytes(bytes).pool_bytes().unwrap_err();
            assert!(error.to_string().contains("address space"), "{error}");
        }
    }
}
