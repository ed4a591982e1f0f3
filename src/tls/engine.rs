//! TLS without input or output, over the unbuffered interface of rustls 0.23: what the rest of this crate knows of rustls' state
//! machine is here.

use super::info::Info;
use rustls::Error;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus,
};
use std::cell::RefCell;

/// Bytes of a record's payload at most, and what the record adds to it at most.
const RECORD_BYTES: usize = 16 << 10;
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// Room for what is sent in front of records, such as a new key's announcement, that saves a second attempt.
const SPARE_ROOM: usize = 256;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Handshaking,
    Open,
    /// The peer has ended its output with close_notify.
    Ended,
}

/// Either side of a connection.
///
/// Of the bytes that are not used up, the engine remembers what it did to them: they have to come again as they were left, in front of
/// all that follows.
pub(super) trait Records {
    /// Goes on with what has arrived. Says how many of the bytes are used up, and puts what they were behind `plain`; what is to be
    /// sent, behind `said`, also when it fails: then that is an alert.
    fn feed(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, said: &mut Vec<u8>) -> Result<usize, Error>;

    fn progress(&self) -> Progress;

    /// Puts records of `plain` behind `into`; `held` are the bytes that are not used up.
    fn seal(&mut self, held: &mut [u8], plain: &[u8], into: &mut Vec<u8>) -> Result<(), Error>;

    /// Puts close_notify behind `into`, unless there cannot be one.
    fn close(&mut self, held: &mut [u8], into: &mut Vec<u8>);

    /// What was agreed on, once there is nothing left to agree on.
    fn info(&self) -> Info;
}

/// A side of the protocol: rustls has the same for both, but under no common name.
pub(super) trait Side {
    type Data;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }
}

pub(super) struct Engine<S> {
    side: S,
    ended: bool,
    server_name: Option<String>,
}

thread_local! {
    /// The name that the client hello that is being processed asks for: rustls tells it only to who picks a certificate.
    static ASKED_FOR: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes which name the peer of the connection that is being processed on this thread asks for.
pub(super) fn note_server_name(name: Option<&str>) {
    ASKED_FOR.set(name.map(str::to_owned));
}

impl<S: Side> Engine<S> {
    pub(super) fn new(side: S, server_name: Option<String>) -> Self {
        Engine { side, ended: false, server_name }
    }

    /// Has the peer hear why it fails. What was not used up has to be shown here, too: positions in it are remembered. But it must not
    /// be looked at once more, for what is wrong with it would be found twice.
    fn say_alert(&mut self, held: &mut [u8], plain: &mut Vec<u8>, said: &mut Vec<u8>) {
        while self.side.common().wants_write() {
            match self.side.process(held).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(said, |room| data.encode(room)),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        plain.extend_from_slice(record.payload);
                    }
                }
                _ => return,
            }
        }
    }
}

impl<S: Side> Records for Engine<S> {
    fn feed(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>, said: &mut Vec<u8>) -> Result<usize, Error> {
        let mut used = 0;
        let error = loop {
            // What another connection left there is not this one's.
            ASKED_FOR.take();
            let UnbufferedStatus { mut discard, state } = self.side.process(&mut bytes[used..]);
            let mut is_blocked = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(said, |room| data.encode(room)),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(ConnectionState::ReadEarlyData(_)) => break Error::General("unasked early data".into()),
                Ok(_) => is_blocked = true,
                Err(error) => {
                    used += discard;
                    break error;
                }
            }
            used += discard;
            if let Some(name) = ASKED_FOR.take() {
                self.server_name = Some(name);
            }
            if is_blocked {
                return Ok(used);
            }
        };
        ASKED_FOR.take();
        self.say_alert(&mut bytes[used..], plain, said);
        Err(error)
    }

    fn progress(&self) -> Progress {
        match (self.ended, self.side.common().is_handshaking()) {
            (true, _) => Progress::Ended,
            (false, true) => Progress::Handshaking,
            (false, false) => Progress::Open,
        }
    }

    fn seal(&mut self, held: &mut [u8], plain: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
        loop {
            let UnbufferedStatus { state, .. } = self.side.process(held);
            match state? {
                ConnectionState::EncodeTlsData(mut data) => encode(into, |room| data.encode(room)),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let records = plain.len().div_ceil(RECORD_BYTES);
                    let room = plain.len() + records * RECORD_OVERHEAD + SPARE_ROOM;
                    return encrypt(into, room, |room| traffic.encrypt(plain, room));
                }
                // What is held was looked at before, and nothing has come since.
                _ => return Err(Error::General("cannot write at this moment".into())),
            }
        }
    }

    fn close(&mut self, held: &mut [u8], into: &mut Vec<u8>) {
        while let UnbufferedStatus { state: Ok(state), .. } = self.side.process(held) {
            match state {
                ConnectionState::EncodeTlsData(mut data) => encode(into, |room| data.encode(room)),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let _ = encrypt(into, SPARE_ROOM, |room| traffic.queue_close_notify(room));
                    return;
                }
                ConnectionState::PeerClosed => self.ended = true,
                _ => return,
            }
        }
    }

    fn info(&self) -> Info {
        let common = self.side.common();
        Info::new(common, self.server_name.clone())
    }
}

/// Puts what is encoded behind `into`.
fn encode(into: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let (before, mut room) = (into.len(), SPARE_ROOM);
    loop {
        into.resize(before + room, 0);
        match encode(&mut into[before..]) {
            Ok(len) => return into.truncate(before + len),
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => return into.truncate(before),
        }
    }
}

fn encrypt(
    into: &mut Vec<u8>,
    mut room: usize,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    let before = into.len();
    loop {
        into.resize(before + room, 0);
        match encrypt(&mut into[before..]) {
            Ok(len) => {
                into.truncate(before + len);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) => room = size.required_size,
            Err(EncryptError::EncryptExhausted) => {
                into.truncate(before);
                return Err(Error::EncryptError);
            }
        }
    }
}
