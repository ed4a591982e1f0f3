//! What the kernel may read and write on behalf of an operation, in a slot of the operation's own.

use super::connect::Connecting;
use super::entry::Message;
use crate::buf::Payload;
use crate::driver::{GENERATIONS, Token};
use std::fs::File;
use std::sync::Arc;

/// Operations that own memory until their final completion. There may be several of one table entry.
///
/// The kernel knows an operation by its *key*: a token of the same kind that names the slot instead of the entry.
#[derive(Debug, Default)]
pub(super) struct Operations {
    slots: Vec<Slot>,
    /// The slot that was used last is the first to be used again.
    free: Vec<u32>,
    /// The newest operation of each table entry, by the entry's index; older ones are linked behind it.
    newest: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    /// As the caller named it. `None` if the slot is free.
    token: Option<Token>,
    memory: Memory,
    /// Counts the uses of the slot, so that no cancellation finds the next one's operation.
    generation: u32,
    older: u32,
}

/// Ends a list of slots.
const NONE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) enum Memory {
    #[default]
    Nothing,
    /// The message header is there when the payload is more than one slice.
    Send(Payload, Option<Box<Message>>),
    Connect(Connecting),
    /// The file stays open until then.
    Read(#[expect(dead_code, reason = "it is there to be kept")] Arc<File>, Vec<u8>),
}

impl Operations {
    /// A slot for an operation, which then holds its memory; gives the key that the kernel is to know it by.
    pub(super) fn insert(&mut self, token: Token, memory: Memory) -> Token {
        let entry = token.index() as usize;
        if self.newest.len() <= entry {
            self.newest.resize(entry + 1, NONE);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { token: None, memory: Memory::Nothing, generation: 0, older: NONE });
            self.slots.len() as u32 - 1
        });
        let older = std::mem::replace(&mut self.newest[entry], index);
        let slot = &mut self.slots[index as usize];
        let generation = (slot.generation + 1) % GENERATIONS;
        *slot = Slot { token: Some(token), memory, generation, older };
        Token::new(token.kind(), generation, index)
    }

    /// Whose operation this is.
    pub(super) fn token(&self, key: Token) -> Token {
        let slot = &self.slots[key.index() as usize];
        debug_assert_eq!(slot.generation, key.generation(), "{key:?} has ended");
        slot.token.expect("the kernel completes what was submitted")
    }

    /// Ends an operation: the kernel lets go of its memory.
    pub(super) fn remove(&mut self, key: Token) -> (Token, Memory) {
        let token = self.token(key);
        let slot = &mut self.slots[key.index() as usize];
        slot.token = None;
        let (memory, older) = (std::mem::take(&mut slot.memory), slot.older);
        let newest = &mut self.newest[token.index() as usize];
        if *newest == key.index() {
            *newest = older;
        } else {
            let mut newer = *newest as usize;
            while self.slots[newer].older != key.index() {
                newer = self.slots[newer].older as usize;
            }
            self.slots[newer].older = older;
        }
        self.free.push(key.index());
        (token, memory)
    }

    /// The keys of the operations that were submitted as `token`, the newest first.
    pub(super) fn keys(&self, token: Token) -> impl Iterator<Item = Token> {
        let mut next = self.newest.get(token.index() as usize).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let slot = self.slots.get(next as usize)?;
            let key = Token::new(token.kind(), slot.generation, next);
            next = slot.older;
            Some((slot.token, key))
        })
        .filter_map(move |(owner, key)| (owner == Some(token)).then_some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Kind;
    use proptest::prelude::*;

    fn payload(mark: u8) -> Memory {
        let mut payload = Payload::default();
        payload.text().push(mark);
        Memory::Send(payload, None)
    }

    proptest! {
        /// Whatever is submitted and completed in whatever order, each operation keeps its own memory, and a
        /// cancellation names all operations of its entry and no other.
        #[test]
        fn operations_keep_what_is_theirs(steps in prop::collection::vec((0u32..4, 0usize..8, any::<bool>()), 0..200)) {
            let mut operations = Operations::default();
            let mut model: Vec<(Token, Token, u8)> = Vec::new();
            for (mark, (entry, nth, submit)) in steps.into_iter().enumerate() {
                let mark = mark as u8;
                if submit || model.is_empty() {
                    let token = Token::new(Kind::Send, 7, entry);
                    let key = operations.insert(token, payload(mark));
                    prop_assert!(model.iter().all(|(_, other, _)| *other != key));
                    model.push((token, key, mark));
                } else {
                    let (token, key, mark) = model.remove(nth % model.len());
                    prop_assert_eq!(operations.token(key), token);
                    let (owner, memory) = operations.remove(key);
                    prop_assert_eq!(owner, token);
                    let Memory::Send(payload, None) = memory else { panic!("another one's memory") };
                    prop_assert_eq!(payload.as_single(), Some(&[mark][..]));
                }
                for entry in 0..5 {
                    let token = Token::new(Kind::Send, 7, entry);
                    let mut expected: Vec<Token> =
                        model.iter().filter(|(owner, ..)| *owner == token).map(|(_, key, _)| *key).collect();
                    expected.reverse();
                    prop_assert_eq!(operations.keys(token).collect::<Vec<_>>(), expected);
                    prop_assert_eq!(operations.keys(Token::new(Kind::Send, 8, entry)).count(), 0);
                }
            }
        }
    }

    #[test]
    fn a_slot_that_is_used_again_has_another_key() {
        let mut operations = Operations::default();
        let token = Token::new(Kind::Send, 1, 3);
        let first = operations.insert(token, payload(1));
        operations.remove(first);
        let second = operations.insert(token, payload(2));
        assert_eq!(first.index(), second.index());
        assert_ne!(first, second);
    }
}
