//! The server that most rows are about: sends back the frames that it gets.

use crate::Result;
use std::time::Duration;
use trochus::net::{Handler, Io, ListenOptions, Server, StreamOptions};
use trochus::{Backend, Runtime};

/// Bytes of a good client's frame, with its length.
pub(crate) const FRAME: usize = 64;

/// What a length may say at most.
pub(crate) const LONGEST: usize = 1 << 20;

/// Frames of a length, in 4 bytes, and so many bytes.
#[derive(Debug)]
struct Frames;

impl Handler for Frames {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let mut whole = 0;
        while let Some((length, rest)) = bytes[whole..].split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > LONGEST {
                io.abort();
                return bytes.len();
            }
            if rest.len() < length {
                break;
            }
            whole += 4 + length;
        }
        io.write(&bytes[..whole]);
        whole
    }
}

/// The frame that good clients send.
pub(crate) fn frame() -> [u8; FRAME] {
    let mut frame = [7; FRAME];
    frame[..4].copy_from_slice(&(FRAME as u32 - 4).to_be_bytes());
    frame
}

pub(crate) fn runtime(backend: Backend) -> Result<Runtime> {
    Ok(Runtime::builder().backend(backend).reactors(1).build()?)
}

pub(crate) fn listen(runtime: &Runtime, options: &ListenOptions) -> Result<Server> {
    Ok(runtime.listen_with(options, "127.0.0.1:0", |_peer| Frames)?)
}

/// All limits of time, none of which is reached.
pub(crate) fn all_deadlines() -> ListenOptions {
    let stream = StreamOptions::new()
        .opening_timeout(Duration::from_secs(60))
        .message_timeout(Duration::from_secs(60))
        .idle_timeout(Duration::from_secs(300))
        .write_stall_timeout(Duration::from_secs(120))
        .write_rate(64 << 10, Duration::from_secs(60));
    ListenOptions::new().stream(stream).lifetime(Duration::from_secs(3600))
}

/// None at all.
pub(crate) fn no_deadlines() -> ListenOptions {
    let stream = StreamOptions::new()
        .opening_timeout(Duration::MAX)
        .message_timeout(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .write_stall_timeout(Duration::MAX);
    ListenOptions::new().stream(stream).lifetime(Duration::MAX)
}
