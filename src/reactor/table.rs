//! Numbered entries whose numbers can be told apart from those of earlier tenants.

use crate::driver::{Kind, Token};
use slab::Slab;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which entry of a reactor's [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    index: u32,
    generation: u32,
}

impl Id {
    pub(crate) fn token(self, kind: Kind) -> Token {
        Token::new(kind, self.generation, self.index)
    }
}

impl From<Token> for Id {
    fn from(token: Token) -> Self {
        Id { index: token.index(), generation: token.generation() }
    }
}

/// Which connection. No other one of this process ever has the same, so it can be kept for as long as one likes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    serial: u64,
    /// Where its reactor finds it.
    id: Id,
}

impl ConnectionId {
    pub(crate) fn new(id: Id) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        ConnectionId { serial: NEXT.fetch_add(1, Ordering::Relaxed), id }
    }

    /// Where to look; what is found there may be another one, because places are given to others.
    pub(crate) fn place(self) -> Id {
        self.id
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({})", self.serial)
    }
}

/// A number, counted from 1 in the order in which the process' connections began.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.serial, f)
    }
}

/// A slab whose entries answer only to an [`Id`] of their own generation.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slab: Slab<(u32, T)>,
    next_generation: u32,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Table { slab: Slab::new(), next_generation: 0 }
    }

    pub(crate) fn insert(&mut self, make: impl FnOnce(Id) -> T) -> Id {
        let generation = self.next_generation;
        self.next_generation = (generation + 1) % crate::driver::GENERATIONS;
        let vacant = self.slab.vacant_entry();
        let id = Id { index: vacant.key() as u32, generation };
        vacant.insert((generation, make(id)));
        id
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        match self.slab.get_mut(id.index as usize) {
            Some((generation, entry)) if *generation == id.generation => Some(entry),
            _ => None,
        }
    }

    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        match self.slab.get(id.index as usize) {
            Some((generation, entry)) if *generation == id.generation => Some(entry),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, id: Id) -> Option<T> {
        self.get(id)?;
        Some(self.slab.remove(id.index as usize).1)
    }

    /// Changes with each insertion.
    pub(crate) fn insertions(&self) -> u32 {
        self.next_generation
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<Id> {
        self.slab
            .iter()
            .map(|(index, (generation, _))| Id { index: index as u32, generation: *generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// An id answers for its own entry only, whatever was removed and put in its place.
        #[test]
        fn an_id_finds_its_own_entry_or_none(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let (mut table, mut live, mut dead) = (Table::new(), HashMap::new(), Vec::new());
            for (n, (insert, pick)) in steps.into_iter().enumerate() {
                if insert || live.is_empty() {
                    let id = table.insert(|_| n);
                    prop_assert_eq!(live.insert(id, n), None);
                } else {
                    let mut ids: Vec<Id> = live.keys().copied().collect();
                    ids.sort();
                    let id = *pick.get(&ids);
                    prop_assert_eq!(table.remove(id), live.remove(&id));
                    dead.push(id);
                }
                prop_assert_eq!(table.len(), live.len());
                for (id, n) in &live { prop_assert_eq!(table.get_mut(*id), Some(&mut n.clone())) }
                for id in &dead { prop_assert!(table.get(*id).is_none() && table.get_mut(*id).is_none() && table.remove(*id).is_none()) }
            }
        }
    }
}
