//! Requests that were sent, and whom their responses are for.

use super::call::state::{NO_ID, Pending, Promise};
use crate::codec::{Correlation, CorrelationKind};
use crate::rpc::{CallError, Cause};
use slab::Slab;
use std::collections::VecDeque;

/// What a client's connection waits for.
pub(in crate::rpc) enum Expected<Req, Res> {
    /// In the order of the requests. Streamed ones are only counted; `tail` are those behind all others.
    InOrder { next: VecDeque<Next<Req, Res>>, calls: usize, tail: u64 },
    /// By id: the entry's number, and behind it how often that number was used.
    ById { calls: Slab<(u64, InFlight<Req, Res>)>, uses: u64, streamed: u64, numbers: Numbers },
    /// Every response goes to the callback.
    Uncorrelated,
}

pub(in crate::rpc) enum Next<Req, Res> {
    Streamed(u64),
    Call(InFlight<Req, Res>),
}

/// A call that was sent.
pub(in crate::rpc) struct InFlight<Req, Res> {
    pub(in crate::rpc) promise: Promise<Res>,
    /// Kept to be sent again if the server says that it did not take it, with its bytes on the wire.
    pub(in crate::rpc) kept: Option<(Req, usize)>,
}

/// Whom a response is for.
pub(in crate::rpc) enum Recipient<Req, Res> {
    Callback,
    Call(InFlight<Req, Res>),
    /// A call with several responses, of which this is one. Unless it is the last one, the call goes
    /// [back](Expected::put_back).
    Part(InFlight<Req, Res>),
    /// A call that nobody waits for any more.
    Nobody(InFlight<Req, Res>),
    /// An id that no request has any more.
    Unknown,
}

impl<Req, Res> Expected<Req, Res> {
    /// `uses` goes on from the connection before, so that no id is used on two of them.
    pub(in crate::rpc) fn of<C: Correlation>(uses: u64) -> Self {
        match C::KIND {
            CorrelationKind::InOrder => Expected::InOrder { next: VecDeque::new(), calls: 0, tail: 0 },
            CorrelationKind::ById => {
                Expected::ById { calls: Slab::new(), uses, streamed: 0, numbers: Numbers::of::<C>() }
            }
            CorrelationKind::Uncorrelated => Expected::Uncorrelated,
        }
    }

    pub(in crate::rpc) fn uses(&self) -> u64 {
        match self {
            Expected::ById { uses, .. } => *uses,
            Expected::InOrder { .. } | Expected::Uncorrelated => 0,
        }
    }

    /// Calls in flight.
    pub(in crate::rpc) fn calls(&self) -> usize {
        match self {
            Expected::InOrder { calls, .. } => *calls,
            Expected::ById { calls, .. } => calls.len(),
            Expected::Uncorrelated => 0,
        }
    }

    /// Requests in flight; 0 if nobody can know.
    pub(in crate::rpc) fn requests(&self) -> u64 {
        self.streamed_requests() + self.calls() as u64
    }

    /// Those of them that are not calls.
    pub(in crate::rpc) fn streamed_requests(&self) -> u64 {
        match self {
            Expected::InOrder { next, tail, .. } => tail + next.iter().map(Next::streamed).sum::<u64>(),
            Expected::ById { streamed, .. } => *streamed,
            Expected::Uncorrelated => 0,
        }
    }

    /// Requests in flight whose responses somebody waits for.
    pub(in crate::rpc) fn awaited_requests(&self) -> u64 {
        let calls = match self {
            Expected::InOrder { next, .. } => next.iter().filter(|next| next.is_wanted_call()).count(),
            Expected::ById { calls, .. } => {
                calls.iter().filter(|(_, (_, call))| call.promise.is_wanted()).count()
            }
            Expected::Uncorrelated => 0,
        };
        self.streamed_requests() + calls as u64
    }

    /// Whether a response may come that somebody waits for.
    pub(in crate::rpc) fn is_awaited(&self) -> bool {
        match self {
            Expected::InOrder { next, tail, .. } => {
                *tail > 0 || next.iter().any(|next| next.streamed() > 0 || next.is_wanted_call())
            }
            Expected::ById { calls, streamed, .. } => {
                *streamed > 0 || calls.iter().any(|(_, (_, call))| call.promise.is_wanted())
            }
            Expected::Uncorrelated => true,
        }
    }

    /// So many streamed requests were sent.
    #[inline]
    pub(in crate::rpc) fn streamed(&mut self, count: u64) {
        match self {
            Expected::InOrder { tail, .. } => *tail += count,
            Expected::ById { streamed, .. } => *streamed += count,
            Expected::Uncorrelated => {}
        }
    }

    /// The id that the next call's request will have on the wire, if the protocol has ids.
    pub(in crate::rpc) fn next_call_id(&self) -> u64 {
        match self {
            Expected::ById { calls, uses, numbers, .. } => numbers.call(calls.vacant_key(), *uses),
            Expected::InOrder { .. } | Expected::Uncorrelated => NO_ID,
        }
    }

    /// No call will have that id.
    pub(in crate::rpc) fn skip_call_id(&mut self) {
        if let Expected::ById { uses, numbers, .. } = self {
            *uses = numbers.next_use(*uses);
        }
    }

    /// The call with that id was sent.
    pub(in crate::rpc) fn call(&mut self, call: InFlight<Req, Res>) {
        match self {
            Expected::InOrder { next, calls, tail } => {
                if *tail > 0 {
                    next.push_back(Next::Streamed(std::mem::take(tail)));
                }
                *calls += 1;
                next.push_back(Next::Call(call));
            }
            Expected::ById { calls, uses, numbers, .. } => {
                calls.insert((*uses, call));
                *uses = numbers.next_use(*uses);
            }
            // The types rule it out: without correlation there are no calls.
            Expected::Uncorrelated => drop(call),
        }
    }

    /// Takes the streamed requests that come next, for as many responses to be handed out without asking for each.
    pub(in crate::rpc) fn take_streamed(&mut self) -> u64 {
        let Expected::InOrder { next, tail, .. } = self else { return 0 };
        match next.front() {
            None => std::mem::take(tail),
            Some(Next::Streamed(count)) => {
                let count = *count;
                next.pop_front();
                count
            }
            Some(Next::Call(_)) => 0,
        }
    }

    /// Puts back those that were taken and have no response yet.
    pub(in crate::rpc) fn put_back_streamed(&mut self, count: u64) {
        if let Expected::InOrder { next, tail, .. } = self
            && count > 0
        {
            if next.is_empty() {
                *tail += count;
            } else {
                next.push_front(Next::Streamed(count));
            }
        }
    }

    /// Whom the response with this id is for, when no streamed request comes next. `None`: for nobody who asked.
    pub(in crate::rpc) fn recipient(&mut self, id: u64) -> Option<Recipient<Req, Res>> {
        match self {
            Expected::Uncorrelated => Some(Recipient::Callback),
            Expected::InOrder { next, calls, .. } => match next.pop_front()? {
                Next::Call(call) => {
                    *calls -= 1;
                    Some(call.into_recipient())
                }
                Next::Streamed(_) => None,
            },
            Expected::ById { streamed, numbers, .. } if id == numbers.streamed() => {
                *streamed = streamed.checked_sub(1)?;
                Some(Recipient::Callback)
            }
            // A response that comes after its call timed out has no entry any more, as a rule.
            Expected::ById { .. } => {
                Some(self.forget(id).map_or(Recipient::Unknown, InFlight::into_recipient))
            }
        }
    }

    /// The call with this id is given up: how many bytes of its request were kept. Another one takes its place; but one with several
    /// responses, which go on coming, keeps it where their id would be another's by and by.
    pub(in crate::rpc) fn give_up(&mut self, id: u64) -> usize {
        let Expected::ById { calls, numbers, .. } = self else { return 0 };
        let (key, used) = numbers.parts(id);
        let Some((_, call)) = calls.get_mut(key).filter(|(uses, _)| *uses == used) else { return 0 };
        let bytes = call.kept_bytes();
        if call.promise.has_parts() && !numbers.come_never_again() {
            call.kept = None;
        } else {
            calls.remove(key);
        }
        bytes
    }

    /// Another response is for the call that was [taken out](Self::recipient) for this one, with this id.
    pub(in crate::rpc) fn put_back(&mut self, id: u64, call: InFlight<Req, Res>) {
        match self {
            Expected::InOrder { next, calls, .. } => {
                *calls += 1;
                next.push_front(Next::Call(call));
            }
            Expected::ById { calls, numbers, .. } => {
                let (key, used) = numbers.parts(id);
                // The entry that has become free last is the next to be used.
                let at = calls.insert((used, call));
                assert_eq!(at, key, "nothing was sent meanwhile");
            }
            Expected::Uncorrelated => drop(call),
        }
    }

    /// Takes the call with this id out, if it is in flight.
    fn forget(&mut self, id: u64) -> Option<InFlight<Req, Res>> {
        let Expected::ById { calls, numbers, .. } = self else { return None };
        let (key, used) = numbers.parts(id);
        calls.get(key).filter(|(uses, _)| *uses == used)?;
        Some(calls.remove(key).1)
    }

    /// Nothing more will come.
    pub(in crate::rpc) fn lose(&mut self, cause: &Cause) {
        self.drain().into_iter().for_each(|call| call.promise.lose(cause));
    }

    /// Nothing more will come, and what was not answered was not taken. Those that were kept, in the order in which they were
    /// sent; the others are told. And how many were taken all the same, and lost: those of whose responses some had come.
    pub(in crate::rpc) fn take_back(&mut self, cause: &Cause) -> (VecDeque<Pending<Req, Res>>, u64) {
        let (mut back, mut lost) = (VecDeque::new(), 0);
        for InFlight { promise, kept } in self.drain() {
            if promise.has_begun() {
                lost += u64::from(promise.is_wanted());
                promise.lose(cause);
                continue;
            }
            promise.was_not_sent();
            match kept {
                Some((request, _)) if promise.is_wanted() => back.push_back(Pending { request, promise }),
                _ => promise.fail(CallError::NotSent(cause.clone())),
            }
        }
        (back, lost)
    }

    /// All calls, in the order in which they were sent; the streamed requests are forgotten.
    fn drain(&mut self) -> Vec<InFlight<Req, Res>> {
        match self {
            Expected::InOrder { next, calls, tail } => {
                (*tail, *calls) = (0, 0);
                let calls = next.drain(..).filter_map(|next| match next {
                    Next::Streamed(_) => None,
                    Next::Call(call) => Some(call),
                });
                calls.collect()
            }
            Expected::ById { calls, uses, streamed, numbers } => {
                *streamed = 0;
                let mut all: Vec<_> = calls.drain().collect();
                // The number goes round: what was used last is the nearest to `uses` from below.
                all.sort_by_key(|(used, _)| std::cmp::Reverse(numbers.age(*used, *uses)));
                all.into_iter().map(|(_, call)| call).collect()
            }
            Expected::Uncorrelated => Vec::new(),
        }
    }
}

impl<Req, Res> Next<Req, Res> {
    fn streamed(&self) -> u64 {
        match self {
            Next::Streamed(count) => *count,
            Next::Call(_) => 0,
        }
    }

    fn is_wanted_call(&self) -> bool {
        matches!(self, Next::Call(call) if call.promise.is_wanted())
    }
}

impl<Req, Res> InFlight<Req, Res> {
    fn into_recipient(self) -> Recipient<Req, Res> {
        if self.promise.has_parts() {
            Recipient::Part(self)
        } else if self.promise.is_wanted() {
            Recipient::Call(self)
        } else {
            Recipient::Nobody(self)
        }
    }

    /// Bytes on the wire, if the request is kept.
    pub(in crate::rpc) fn kept_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |(_, bytes)| *bytes)
    }
}

/// How ids are numbered: the entry's key in the low bits, how often one was used above it, and all ones for streamed requests. Where
/// there are 64 bits that is half and half.
#[derive(Clone, Copy)]
pub(in crate::rpc) struct Numbers {
    max: u64,
    key_bits: u32,
}

impl Numbers {
    /// An entry is used so often, in powers of two, before a number comes again: until then a response that comes too late is
    /// known as such.
    const LEAST_USE_BITS: u32 = 12;

    pub(in crate::rpc) const fn of<C: Correlation>() -> Self {
        const { assert!(C::MAX_NUMBER >= u32::MAX as u64 && C::MAX_NUMBER.wrapping_add(1) & C::MAX_NUMBER == 0) };
        let bits = C::MAX_NUMBER.count_ones();
        let key_bits = if bits < 32 + Self::LEAST_USE_BITS { 32 - Self::LEAST_USE_BITS } else { 32 };
        Numbers { max: C::MAX_NUMBER, key_bits }
    }

    /// As many calls at a time can be told apart. Three fewer than there are keys, which keeps clear of `streamed`, of notices and
    /// of what was not asked for.
    pub(in crate::rpc) fn most_calls(self) -> usize {
        ((1_u64 << self.key_bits) - 3).try_into().unwrap_or(usize::MAX)
    }

    /// Whether one is not used again while responses to it may still come, however many do.
    fn come_never_again(self) -> bool {
        self.max >> self.key_bits >= u32::MAX.into()
    }

    fn call(self, key: usize, uses: u64) -> u64 {
        uses << self.key_bits | key as u64
    }

    fn next_use(self, uses: u64) -> u64 {
        (uses + 1) & (self.max >> self.key_bits)
    }

    /// How long ago an entry was used, when this is the next use.
    fn age(self, used: u64, next: u64) -> u64 {
        next.wrapping_sub(used) & (self.max >> self.key_bits)
    }

    fn parts(self, number: u64) -> (usize, u64) {
        ((number & ((1_u64 << self.key_bits) - 1)) as usize, number >> self.key_bits)
    }

    fn streamed(self) -> u64 {
        self.max
    }
}

/// The number of what no request asked for, next to those of notices and streamed requests.
pub(in crate::rpc) const fn unasked_number<C: Correlation>() -> u64 {
    C::MAX_NUMBER - 2
}

/// The id of streamed requests.
#[inline]
pub(in crate::rpc) fn streamed_id<C: Correlation>() -> C::Id {
    C::id_from(C::MAX_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{ById, Decode, DecodeError, Decoded, Encode, EncodeError, Tagged};
    use crate::rpc::client::call::parts::Incoming;
    use crate::rpc::client::call::state::CallState;
    use std::sync::Arc;

    /// Ids of 32 bits, as many protocols have them; and what JavaScript can count.
    #[derive(Clone, Copy, Debug)]
    struct Narrow<const MAX: u64>;

    impl<const MAX: u64> Correlation for Narrow<MAX> {
        type Id = u64;
        const KIND: CorrelationKind = CorrelationKind::ById;
        const MAX_NUMBER: u64 = MAX;

        fn id_from(number: u64) -> u64 {
            number
        }

        fn number_of(id: u64) -> Option<u64> {
            Some(id)
        }

        fn decode<'a, D: Decode>(
            decoder: &mut D,
            input: &'a [u8],
        ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
            ById::decode(decoder, input)
        }

        fn encode<T: ?Sized, E: Encode<T>>(
            encoder: &mut E,
            id: u64,
            item: &T,
            out: &mut Vec<u8>,
        ) -> Result<(), EncodeError> {
            ById::encode(encoder, id, item, out)
        }
    }

    fn numbers_fit<C: Correlation>(most_calls: usize) {
        let numbers = Numbers::of::<C>();
        assert_eq!(numbers.most_calls(), most_calls);
        assert_eq!(numbers.streamed(), C::MAX_NUMBER);
        let mut uses = 0;
        for _ in 0..10_000 {
            for key in [0, 1, most_calls - 1] {
                let number = numbers.call(key, uses);
                assert!(number < unasked_number::<C>(), "{number:#x} of {:#x}", C::MAX_NUMBER);
                assert_eq!(numbers.parts(number), (key, uses));
            }
            uses = numbers.next_use(uses);
        }
        let last = C::MAX_NUMBER >> numbers.key_bits;
        assert!(numbers.call(most_calls - 1, last) < unasked_number::<C>());
        assert_eq!(numbers.next_use(last), 0, "and from the start");
    }

    #[test]
    fn numbers_fit_the_ids_that_carry_them() {
        numbers_fit::<ById>((1 << 32) - 3);
        numbers_fit::<Narrow<{ (1 << 53) - 1 }>>((1 << 32) - 3);
        numbers_fit::<Narrow<{ (1 << 44) - 1 }>>((1 << 32) - 3);
        numbers_fit::<Narrow<{ u32::MAX as u64 }>>((1 << 20) - 3);
    }

    #[test]
    fn calls_come_back_in_the_order_in_which_they_were_sent_if_anybody_waits() {
        // The numbers go round once between them.
        let numbers = Numbers::of::<ById>();
        let mut expected = Expected::<u32, u32>::of::<ById>(numbers.max >> numbers.key_bits);
        let states: Vec<_> = (0..6).map(|_| CallState::<u32>::new(None)).collect();
        let call =
            |n: u32| InFlight { promise: Promise::of(&states[n as usize]), kept: (n != 4).then_some((n, 1)) };
        let first = expected.next_call_id();
        (0..3).for_each(|n| expected.call(call(n)));
        // An entry that is used again lies before older ones.
        assert!(expected.forget(first).is_some());
        (3..6).for_each(|n| expected.call(call(n)));
        states[2].give_up();
        let (back, lost) = expected.take_back(&Cause::new(std::io::ErrorKind::UnexpectedEof, "it ended"));
        assert_eq!(back.iter().map(|pending| pending.request).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(lost, 0);
        assert!(matches!(states[4].take(None), Some(Err(CallError::NotSent(_)))), "it was not kept");
    }

    fn in_parts() -> Arc<CallState<u32>> {
        CallState::in_parts(Incoming::new(Box::new(|response| *response == 0), 100, Arc::default()))
    }

    #[test]
    fn a_given_up_call_with_several_responses_keeps_its_id_until_the_last_one() {
        let mut expected = Expected::<u32, u32>::of::<Narrow<{ u32::MAX as u64 }>>(0);
        let (state, id) = (in_parts(), expected.next_call_id());
        expected.call(InFlight { promise: Promise::of(&state), kept: Some((1, 10)) });
        state.give_up();
        assert_eq!((expected.give_up(id), expected.give_up(id)), (10, 0), "it is not made again");
        // However many there are in the meantime.
        for n in 0..10_000 {
            let (state, other) = (CallState::<u32>::new(None), expected.next_call_id());
            assert_ne!(other, id, "behind {n} calls");
            expected.call(InFlight { promise: Promise::of(&state), kept: Some((1, 3)) });
            state.give_up();
            assert_eq!((expected.give_up(other), expected.give_up(other), expected.calls()), (3, 0, 1));
            let Some(Recipient::Part(call)) = expected.recipient(id) else { panic!("it is its own") };
            assert!(!call.promise.ends_with(&7) && !call.promise.put(7, 60), "nothing is kept");
            expected.put_back(id, call);
        }
        let Some(Recipient::Part(call)) = expected.recipient(id) else { panic!("it is its own") };
        assert!(call.promise.ends_with(&0));
        assert!(matches!(expected.recipient(id), Some(Recipient::Unknown)));
        assert_eq!(expected.calls(), 0);
    }

    #[test]
    fn where_ids_never_come_again_a_given_up_call_makes_room_for_another() {
        let mut expected = Expected::<u32, u32>::of::<ById>(0);
        let (state, id) = (in_parts(), expected.next_call_id());
        expected.call(InFlight { promise: Promise::of(&state), kept: Some((1, 10)) });
        assert_eq!((expected.give_up(id), expected.calls()), (10, 0));
        expected.call(InFlight { promise: Promise::of(&in_parts()), kept: None });
        assert!(matches!(expected.recipient(id), Some(Recipient::Unknown)), "what still comes is nobody's");
        assert_eq!(expected.calls(), 1);
    }
}
