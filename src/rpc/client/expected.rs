//! Requests that were sent, and whom their responses are for.

use super::call::Promise;
use crate::codec::{Correlation, CorrelationKind};
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a client's connection waits for.
pub(in crate::rpc) enum Expected<Res> {
    /// In the order of the requests. Streamed ones are only counted; `tail` are those behind all others.
    InOrder { next: VecDeque<Next<Res>>, tail: u64 },
    /// By id: the entry's number, and behind it how often that number was used.
    ById { calls: Slab<(u64, Promise<Res>)>, uses: u64, streamed: u64, numbers: Numbers },
    /// Every response goes to the callback.
    Uncorrelated,
}

pub(in crate::rpc) enum Next<Res> {
    Streamed(u64),
    Call(Promise<Res>),
}

/// Whom a response is for.
pub(in crate::rpc) enum Recipient<Res> {
    Callback,
    Call(Promise<Res>),
    /// A call that nobody waits for any more.
    Nobody,
}

impl<Res> Expected<Res> {
    pub(in crate::rpc) fn of<C: Correlation>() -> Self {
        match C::KIND {
            CorrelationKind::InOrder => Expected::InOrder { next: VecDeque::new(), tail: 0 },
            CorrelationKind::ById => {
                Expected::ById { calls: Slab::new(), uses: 0, streamed: 0, numbers: Numbers::of::<C>() }
            }
            CorrelationKind::Uncorrelated => Expected::Uncorrelated,
        }
    }

    /// Calls in flight.
    pub(in crate::rpc) fn calls(&self) -> usize {
        match self {
            Expected::InOrder { next, .. } => next.len(),
            Expected::ById { calls, .. } => calls.len(),
            Expected::Uncorrelated => 0,
        }
    }

    /// Requests in flight; 0 if nobody can know.
    pub(in crate::rpc) fn requests(&self) -> u64 {
        match self {
            Expected::InOrder { next, tail } => tail + next.iter().map(Next::requests).sum::<u64>(),
            Expected::ById { calls, streamed, .. } => calls.len() as u64 + streamed,
            Expected::Uncorrelated => 0,
        }
    }

    /// Those of them that are not calls.
    pub(in crate::rpc) fn streamed_requests(&self) -> u64 {
        match self {
            Expected::InOrder { next, tail } => tail + next.iter().map(Next::streamed).sum::<u64>(),
            Expected::ById { streamed, .. } => *streamed,
            Expected::Uncorrelated => 0,
        }
    }

    /// Requests in flight whose responses somebody waits for.
    pub(in crate::rpc) fn awaited_requests(&self) -> u64 {
        let calls = match self {
            Expected::InOrder { next, .. } => next.iter().filter(|next| next.is_wanted_call()).count(),
            Expected::ById { calls, .. } => calls.iter().filter(|(_, (_, call))| call.is_wanted()).count(),
            Expected::Uncorrelated => 0,
        };
        self.streamed_requests() + calls as u64
    }

    /// Whether a response may come that somebody waits for.
    pub(in crate::rpc) fn is_awaited(&self) -> bool {
        match self {
            Expected::InOrder { next, tail } => {
                *tail > 0 || next.iter().any(|next| next.streamed() > 0 || next.is_wanted_call())
            }
            Expected::ById { calls, streamed, .. } => {
                *streamed > 0 || calls.iter().any(|(_, (_, call))| call.is_wanted())
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
            Expected::InOrder { .. } | Expected::Uncorrelated => 0,
        }
    }

    /// The call with that id was sent.
    pub(in crate::rpc) fn call(&mut self, promise: Promise<Res>) {
        match self {
            Expected::InOrder { next, tail } => {
                if *tail > 0 {
                    next.push_back(Next::Streamed(std::mem::take(tail)));
                }
                next.push_back(Next::Call(promise));
            }
            Expected::ById { calls, uses, numbers, .. } => {
                calls.insert((*uses, promise));
                *uses = numbers.next_use(*uses);
            }
            Expected::Uncorrelated => promise.lose(&Arc::from("the protocol has no correlation")),
        }
    }

    /// Takes the streamed requests that come next, for as many responses to be handed out without asking for each.
    pub(in crate::rpc) fn take_streamed(&mut self) -> u64 {
        let Expected::InOrder { next, tail } = self else { return 0 };
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
        if let Expected::InOrder { next, tail } = self
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
    pub(in crate::rpc) fn recipient(&mut self, id: u64) -> Option<Recipient<Res>> {
        match self {
            Expected::Uncorrelated => Some(Recipient::Callback),
            Expected::InOrder { next, .. } => match next.pop_front()? {
                Next::Call(promise) if promise.is_wanted() => Some(Recipient::Call(promise)),
                Next::Call(_) => Some(Recipient::Nobody),
                Next::Streamed(_) => None,
            },
            Expected::ById { streamed, numbers, .. } if id == numbers.streamed() => {
                *streamed = streamed.checked_sub(1)?;
                Some(Recipient::Callback)
            }
            Expected::ById { calls, numbers, .. } => {
                let (key, used) = numbers.parts(id);
                // A response that comes after its call timed out has no entry any more.
                if calls.get(key).is_none_or(|(uses, _)| *uses != used) {
                    return Some(Recipient::Nobody);
                }
                let (_, promise) = calls.remove(key);
                Some(if promise.is_wanted() { Recipient::Call(promise) } else { Recipient::Nobody })
            }
        }
    }

    /// Makes room for other calls where that needs no response: those that timed out.
    pub(in crate::rpc) fn forget_unwanted(&mut self) {
        if let Expected::ById { calls, .. } = self {
            calls.retain(|_, (_, promise)| promise.is_wanted());
        }
    }

    /// Nothing more will come.
    pub(in crate::rpc) fn lose(&mut self, reason: &Arc<str>) {
        match self {
            Expected::InOrder { next, tail } => {
                *tail = 0;
                next.drain(..).for_each(|next| match next {
                    Next::Streamed(_) => {}
                    Next::Call(promise) => promise.lose(reason),
                });
            }
            Expected::ById { calls, streamed, .. } => {
                *streamed = 0;
                calls.drain().for_each(|(_, promise)| promise.lose(reason));
            }
            Expected::Uncorrelated => {}
        }
    }
}

impl<Res> Next<Res> {
    fn streamed(&self) -> u64 {
        match self {
            Next::Streamed(count) => *count,
            Next::Call(_) => 0,
        }
    }

    fn is_wanted_call(&self) -> bool {
        matches!(self, Next::Call(promise) if promise.is_wanted())
    }

    fn requests(&self) -> u64 {
        match self {
            Next::Streamed(count) => *count,
            Next::Call(_) => 1,
        }
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

    /// As many calls at a time can be told apart. Two fewer than there are keys, which keeps clear of `streamed` and of notices.
    pub(in crate::rpc) fn most_calls(self) -> usize {
        ((1_u64 << self.key_bits) - 2).try_into().unwrap_or(usize::MAX)
    }

    fn call(self, key: usize, uses: u64) -> u64 {
        uses << self.key_bits | key as u64
    }

    fn next_use(self, uses: u64) -> u64 {
        (uses + 1) & (self.max >> self.key_bits)
    }

    fn parts(self, number: u64) -> (usize, u64) {
        ((number & ((1_u64 << self.key_bits) - 1)) as usize, number >> self.key_bits)
    }

    fn streamed(self) -> u64 {
        self.max
    }
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
                assert!(number < C::MAX_NUMBER - 1, "{number:#x} of {:#x}", C::MAX_NUMBER);
                assert_eq!(numbers.parts(number), (key, uses));
            }
            uses = numbers.next_use(uses);
        }
        let last = C::MAX_NUMBER >> numbers.key_bits;
        assert!(numbers.call(most_calls - 1, last) < C::MAX_NUMBER - 1);
        assert_eq!(numbers.next_use(last), 0, "and from the start");
    }

    #[test]
    fn numbers_fit_the_ids_that_carry_them() {
        numbers_fit::<ById>((1 << 32) - 2);
        numbers_fit::<Narrow<{ (1 << 53) - 1 }>>((1 << 32) - 2);
        numbers_fit::<Narrow<{ (1 << 44) - 1 }>>((1 << 32) - 2);
        numbers_fit::<Narrow<{ u32::MAX as u64 }>>((1 << 20) - 2);
    }
}
