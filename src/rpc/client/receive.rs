//! Responses, from a client's connection to whom they are for.

use super::caller::{Caller, Requests};
use super::expected::{Recipient, unasked_number};
use super::requester::Requester;
use crate::codec::{Correlation, Decode, DecodeError, Decoded, Protocol, ResponseRef};
use crate::reactor::Io;
use crate::rpc::Cause;
use crate::rpc::notice::{self, Notice};
use std::io::ErrorKind;

impl<P: Protocol, K: Caller<P>> Requester<P, K> {
    /// Hands the responses out that have arrived: how many bytes they were, and how many there must be for the next one; `None` if
    /// that is there, and has to wait.
    pub(super) fn receive(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> Result<(usize, Option<usize>), Cause> {
        let Some(engine) = &mut self.engine else { return Ok((bytes.len(), Some(0))) };
        let (room, limit) = (engine.options.room(io.pending()), engine.options.input_limit());
        let (codec, expected, accepts) = (&mut self.requests, &mut self.expected, !self.finishing);
        let mut requests = Requests::<P>::new(codec, expected, io.out(), room, accepts, &engine.target);
        requests.input = bytes;
        let wanted = loop {
            let input = requests.input;
            if P::Correlation::HAS_NOTICES && Notice::begins(input) {
                let Some(notice) =
                    Notice::decode(input).map_err(|text| Cause::new(ErrorKind::InvalidData, text))?
                else {
                    break notice::BYTES;
                };
                requests.input = &input[notice::BYTES..];
                match notice {
                    Notice::Goodbye { .. } => self.goodbye = true,
                    Notice::WithoutResponse { id, why } => match requests.recipient(id) {
                        Some(Recipient::Call(call) | Recipient::Part(call)) => {
                            self.kept -= call.kept_bytes();
                            call.promise.lose(&Cause::new(ErrorKind::Other, why.text()));
                        }
                        Some(Recipient::Callback) => {
                            self.unanswered += 1;
                            self.unanswered_pushed += 1;
                        }
                        Some(Recipient::Nobody(call)) => self.kept -= call.kept_bytes(),
                        Some(Recipient::Unknown) => {}
                        None => return Err(fault("the server refused what nobody asked for")),
                    },
                }
                continue;
            }
            let decoded = P::Correlation::decode(&mut self.responses, input);
            let decoded = decoded.map_err(|error| Cause::new(ErrorKind::InvalidData, error.to_string()))?;
            let ((id, response), taken) = match decoded {
                Decoded::Item { item, consumed } => (item, consumed),
                Decoded::NeedMore { at_least } => break input.len().saturating_add(at_least),
            };
            requests.input = &input[taken..];
            hand_out(&mut engine.caller, &mut self.kept, &mut requests, id, response, taken)?;
        };
        let held = requests.held();
        if !held.is_empty() {
            return Ok((bytes.len() - held.len(), None));
        }
        if wanted > limit {
            let text = format!(
                "the server sends a response of at least {wanted} bytes; the limit is {limit} (`StreamOptions::input_limit`)"
            );
            return Err(Cause::new(ErrorKind::InvalidData, text));
        }
        Ok((bytes.len() - requests.input.len(), Some(wanted)))
    }

    /// The server has ended its output. Hands out the response that lasted until then, if the codec knows such. Whether the
    /// output ended in good order.
    pub(super) fn receive_last(&mut self, io: &mut Io<'_>) -> Result<(), Cause> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let rest = io.unconsumed().to_vec();
        let cut_off = |bytes| {
            let text = format!("the server's output ended within a response, of which it sent {bytes} bytes");
            Cause::new(ErrorKind::UnexpectedEof, text)
        };
        if P::Correlation::HAS_NOTICES && Notice::begins(&rest) {
            return Err(cut_off(rest.len()));
        }
        let last = match P::Correlation::decode_eof(&mut self.responses, &rest) {
            Ok(last) => last,
            Err(DecodeError::UnexpectedEnd { bytes }) => return Err(cut_off(bytes)),
            Err(error) => return Err(Cause::new(ErrorKind::InvalidData, error.to_string())),
        };
        let Some((id, response)) = last else { return Ok(()) };
        let (codec, expected) = (&mut self.requests, &mut self.expected);
        let mut requests = Requests::<P>::new(codec, expected, io.out(), 0, false, &engine.target);
        hand_out(&mut engine.caller, &mut self.kept, &mut requests, id, response, rest.len())?;
        self.proved = true;
        Ok(())
    }
}

/// Gives a response to whom it is for.
#[inline(always)]
fn hand_out<P: Protocol, K: Caller<P>>(
    caller: &mut K,
    kept: &mut usize,
    requests: &mut Requests<'_, P>,
    id: <P::Correlation as Correlation>::Id,
    response: ResponseRef<'_, P>,
    bytes: usize,
) -> Result<(), Cause> {
    let number = P::Correlation::number_of(id);
    match number.and_then(|number| requests.recipient(number)) {
        Some(Recipient::Callback) => caller.on_response(requests, response),
        Some(Recipient::Call(call)) => {
            *kept -= call.kept_bytes();
            call.promise.fulfil(<P::ResponseCodec as Decode>::into_owned(response));
        }
        Some(Recipient::Part(call)) => {
            *kept -= call.kept_bytes();
            let response = <P::ResponseCodec as Decode>::into_owned(response);
            requests.hand_out_part(number.unwrap_or_default(), call, response, bytes);
        }
        Some(Recipient::Nobody(call)) => *kept -= call.kept_bytes(),
        Some(Recipient::Unknown) if number == Some(unasked_number::<P::Correlation>()) => {
            caller.on_push(requests, response);
        }
        Some(Recipient::Unknown) => {}
        None => return Err(fault("the server sent a response to no request")),
    }
    Ok(())
}

fn fault(text: &str) -> Cause {
    Cause::new(ErrorKind::InvalidData, text)
}
