//! Names of operations, small enough to travel through the kernel.

use std::fmt;

/// Which of a connection's or listener's operations a [`Token`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Accept = 1,
    Connect = 2,
    Receive = 3,
    Send = 4,
    /// Of a file.
    Read = 5,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Kind> {
        let kinds = [Kind::Accept, Kind::Connect, Kind::Receive, Kind::Send, Kind::Read];
        kinds.into_iter().find(|kind| *kind as u8 == bits)
    }
}

/// Kind (8 bits), generation (24 bits) and index (32 bits) of the table entry that an operation belongs to.
///
/// No pointer, no look-up by hash: the index finds the entry, and a generation that is not the entry's own marks a
/// completion that came too late.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

/// Generations count up to here and start again.
pub(crate) const GENERATIONS: u32 = 1 << 24;

impl Token {
    pub(crate) fn new(kind: Kind, generation: u32, index: u32) -> Token {
        debug_assert!(generation < GENERATIONS);
        Token((kind as u64) << 56 | u64::from(generation) << 32 | u64::from(index))
    }

    /// `None` if the bits were not a token's.
    pub(crate) fn from_bits(bits: u64) -> Option<Token> {
        Kind::from_bits((bits >> 56) as u8).map(|_| Token(bits))
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn kind(self) -> Kind {
        Kind::from_bits((self.0 >> 56) as u8).expect("every token was made with a kind")
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & (GENERATIONS - 1)
    }

    pub(crate) fn index(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind(), self.index(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_keeps_its_parts(kind in 1u8..6, generation in 0..GENERATIONS, index: u32) {
            let kind = Kind::from_bits(kind).unwrap();
            let token = Token::from_bits(Token::new(kind, generation, index).bits()).unwrap();
            prop_assert_eq!((token.kind(), token.generation(), token.index()), (kind, generation, index));
        }
    }

    #[test]
    fn foreign_bits_are_no_token() {
        assert_eq!(Token::from_bits(0), None);
        assert_eq!(Token::from_bits(u64::MAX), None);
    }
}
