//! Both directions of request-response, and how a response finds its request.

use std::{fmt::Debug, hash::Hash, marker::PhantomData};

use super::{Codec, Decode, DecodeError, Decoded, Encode, EncodeError};

/// What a client sends, what a server answers, and how the two are matched.
///
/// Every [`Codec`] is a protocol: the same items both ways, in order. [`Pair`] has a codec for each direction. The
/// matching is part of the type and can be exchanged:
///
/// ```
/// use trochus::codec::{ById, Correlation, Int32, Protocol};
///
/// let protocol = Int32.by_id(); // an 8-byte id, then the number
/// let mut wire = Vec::new();
/// ById::encode(&mut protocol.request_codec(), 7, &1, &mut wire)?;
/// assert_eq!(wire, [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Protocol: Clone + Send + 'static {
    /// What client sends to server.
    type RequestCodec: Codec;
    /// What server sends to client.
    type ResponseCodec: Codec;
    /// How a response finds its request.
    type Correlation: Correlation;

    /// A codec for one connection's requests: the server's decoder, the client's encoder.
    #[must_use]
    fn request_codec(&self) -> Self::RequestCodec;

    /// A codec for one connection's responses: the server's encoder, the client's decoder.
    #[must_use]
    fn response_codec(&self) -> Self::ResponseCodec;

    /// Responses leave in the order of their requests, even when they are ready out of order.
    #[must_use]
    fn in_order(self) -> Correlated<Self, InOrder> {
        Correlated::new(self)
    }

    /// An 8-byte big-endian id goes before each frame, both ways; responses leave when they are ready.
    ///
    /// Does not compile for codecs without boundaries ([`Raw`](super::Raw)).
    #[must_use]
    fn by_id(self) -> Correlated<Self, ById> {
        const {
            assert!(
                <Self::RequestCodec as Decode>::KEEPS_BOUNDARIES
                    && <Self::ResponseCodec as Decode>::KEEPS_BOUNDARIES,
                "an id needs a frame to go with"
            );
        }
        Correlated::new(self)
    }

    /// Responses leave when they are ready, and the application matches them.
    #[must_use]
    fn uncorrelated(self) -> Correlated<Self, Uncorrelated> {
        Correlated::new(self)
    }
}

/// The owned form of a request of protocol `P`: what a client sends.
pub type Request<P> = <<P as Protocol>::RequestCodec as Decode>::Owned;

/// The owned form of a response of protocol `P`: what a server sends.
pub type Response<P> = <<P as Protocol>::ResponseCodec as Decode>::Owned;

/// A request of protocol `P` as a server receives it; it may borrow from the received bytes.
pub type RequestRef<'a, P> = <<P as Protocol>::RequestCodec as Decode>::Item<'a>;

/// A response of protocol `P` as a client receives it; it may borrow from the received bytes.
pub type ResponseRef<'a, P> = <<P as Protocol>::ResponseCodec as Decode>::Item<'a>;

impl<C: Codec> Protocol for C {
    type RequestCodec = C;
    type ResponseCodec = C;
    type Correlation = InOrder;

    fn request_codec(&self) -> C {
        self.clone()
    }

    fn response_codec(&self) -> C {
        self.clone()
    }
}

/// A protocol whose requests and responses have different codecs, in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pair<Req, Res> {
    request: Req,
    response: Res,
}

impl<Req: Codec, Res: Codec> Pair<Req, Res> {
    /// A protocol of these two codecs.
    #[must_use]
    pub const fn new(request: Req, response: Res) -> Self {
        Self { request, response }
    }
}

impl<Req: Codec, Res: Codec> Protocol for Pair<Req, Res> {
    type RequestCodec = Req;
    type ResponseCodec = Res;
    type Correlation = InOrder;

    fn request_codec(&self) -> Req {
        self.request.clone()
    }

    fn response_codec(&self) -> Res {
        self.response.clone()
    }
}

/// The protocol `P` with another way to match; made by [`Protocol::by_id`] and its siblings. The outermost counts.
#[derive(Clone, Copy, Debug)]
pub struct Correlated<P, C> {
    protocol: P,
    correlation: PhantomData<C>,
}

impl<P, C> Correlated<P, C> {
    const fn new(protocol: P) -> Self {
        Self { protocol, correlation: PhantomData }
    }
}

impl<P: Protocol, C: Correlation> Protocol for Correlated<P, C> {
    type RequestCodec = P::RequestCodec;
    type ResponseCodec = P::ResponseCodec;
    type Correlation = C;

    fn request_codec(&self) -> Self::RequestCodec {
        self.protocol.request_codec()
    }

    fn response_codec(&self) -> Self::ResponseCodec {
        self.protocol.response_codec()
    }
}

/// How a response finds its request: one of [`InOrder`], [`ById`], [`Uncorrelated`].
///
/// Request-response decodes and encodes through it; where there is no id on the wire, this is the codec itself and costs
/// nothing.
pub trait Correlation: sealed::Sealed + Copy + Debug + Send + 'static {
    /// What goes with each frame on the wire: `u64`, or `()` for nothing.
    type Id: Copy + Debug + Eq + Hash + Send + 'static;

    /// Which of the three it is.
    const KIND: CorrelationKind;

    /// Whether a server may say something that is no response, under an id that no request has. A client expects it then.
    #[doc(hidden)]
    const HAS_NOTICES: bool = false;

    /// The id that has this number; nothing where there are no ids.
    #[doc(hidden)]
    fn id_from(number: u64) -> Self::Id;

    /// The number of an id; 0 where there are no ids.
    #[doc(hidden)]
    fn number_of(id: Self::Id) -> u64;

    /// Decodes the first item of `input` and its id.
    ///
    /// # Errors
    ///
    /// As for [`Decode::decode`].
    fn decode<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError>;

    /// Appends the id and the item to `out`.
    ///
    /// # Errors
    ///
    /// As for [`Encode::encode`]: nothing is then left in `out`.
    fn encode<T: ?Sized, E: Encode<T>>(
        encoder: &mut E,
        id: Self::Id,
        item: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError>;
}

/// A correlation by which a response finds its request without the application's help: [`InOrder`] and [`ById`].
pub trait Matching: Correlation {}

impl Matching for InOrder {}
impl Matching for ById {}

/// An item of decoder `D`, and the id that came with it.
pub type Tagged<'a, C, D> = (<C as Correlation>::Id, <D as Decode>::Item<'a>);

/// The [`Correlation`] as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CorrelationKind {
    /// See [`InOrder`](struct@InOrder).
    InOrder,
    /// See [`ById`](struct@ById).
    ById,
    /// See [`Uncorrelated`](struct@Uncorrelated).
    Uncorrelated,
}

/// The n-th response of a connection belongs to its n-th request.
#[derive(Clone, Copy, Debug)]
pub struct InOrder;

/// Request and response carry the same 64-bit id, 8 bytes big-endian before the frame.
///
/// One id, 2^64 - 2, is no request's: behind it a server says something that is no response, in ten bytes. The first one is 1 for
/// a goodbye, or 2 for a request that has no response; the second says why it has none (1 its reply was dropped, 2 the service
/// panicked, 3 it took too long, 4 the response cannot be encoded); then come 8 bytes, big-endian: how many of the connection's
/// requests were taken, or the id of the request. Behind a goodbye nothing follows, and what was not taken by then never is.
#[derive(Clone, Copy, Debug)]
pub struct ById;

/// The application matches responses with requests, if it has to.
#[derive(Clone, Copy, Debug)]
pub struct Uncorrelated;

macro_rules! without_id {
    ($($name:ident)*) => {$(
        impl Correlation for $name {
            type Id = ();

            const KIND: CorrelationKind = CorrelationKind::$name;

            #[inline]
            fn id_from(_number: u64) {}

            #[inline]
            fn number_of((): ()) -> u64 {
                0
            }

            #[inline]
            fn decode<'a, D: Decode>(
                decoder: &mut D,
                input: &'a [u8],
            ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
                Ok(decoder.decode(input)?.map(|item| ((), item)))
            }

            #[inline]
            fn encode<T: ?Sized, E: Encode<T>>(
                encoder: &mut E,
                (): (),
                item: &T,
                out: &mut Vec<u8>,
            ) -> Result<(), EncodeError> {
                encoder.encode(item, out)
            }
        }
    )*};
}

without_id! { InOrder Uncorrelated }

impl Correlation for ById {
    type Id = u64;

    const KIND: CorrelationKind = CorrelationKind::ById;
    const HAS_NOTICES: bool = true;

    #[inline]
    fn id_from(number: u64) -> u64 {
        number
    }

    #[inline]
    fn number_of(id: u64) -> u64 {
        id
    }

    #[inline]
    fn decode<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
        let Some((id, frame)) = input.split_first_chunk() else {
            return Ok(Decoded::NeedMore { at_least: size_of::<u64>() - input.len() });
        };
        Ok(match decoder.decode(frame)? {
            Decoded::Item { item, consumed } => {
                Decoded::Item { item: (u64::from_be_bytes(*id), item), consumed: size_of::<u64>() + consumed }
            }
            Decoded::NeedMore { at_least } => Decoded::NeedMore { at_least },
        })
    }

    #[inline]
    fn encode<T: ?Sized, E: Encode<T>>(
        encoder: &mut E,
        id: u64,
        item: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&id.to_be_bytes());
        encoder.encode(item, out).inspect_err(|_| out.truncate(start))
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::InOrder {}
    impl Sealed for super::ById {}
    impl Sealed for super::Uncorrelated {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Int32, LengthDelimited, Lines};

    fn kind<P: Protocol>(_: &P) -> CorrelationKind {
        P::Correlation::KIND
    }

    #[test]
    fn the_outermost_correlation_counts() {
        assert_eq!(kind(&Int32), CorrelationKind::InOrder);
        assert_eq!(kind(&Int32.by_id()), CorrelationKind::ById);
        assert_eq!(kind(&Int32.by_id().uncorrelated()), CorrelationKind::Uncorrelated);
        assert_eq!(kind(&Pair::new(Int32, Lines::new()).by_id().in_order()), CorrelationKind::InOrder);
        assert_eq!(size_of_val(&Int32.by_id()), 0);
    }

    #[test]
    fn an_id_goes_before_its_frame() {
        let (mut codec, mut out) = (LengthDelimited::new(), Vec::new());
        ById::encode(&mut codec, 0x0102, "x", &mut out).unwrap();
        assert_eq!(out, b"\0\0\0\0\0\0\x01\x02\0\0\0\x01x");
        for have in 0..out.len() {
            let Decoded::NeedMore { at_least } = ById::decode(&mut codec, &out[..have]).unwrap() else {
                panic!("an item of {have} bytes");
            };
            assert!((1..=out.len() - have).contains(&at_least), "{at_least} after {have}");
        }
        let item = (0x0102, &b"x"[..]);
        assert_eq!(ById::decode(&mut codec, &out).unwrap(), Decoded::Item { item, consumed: 13 });
    }

    #[test]
    fn an_id_does_not_stay_behind_when_its_item_fails() {
        let mut out = b"before".to_vec();
        let mut codec = LengthDelimited::new().max_frame_bytes(2);
        assert!(ById::encode(&mut codec, 1, "too long", &mut out).is_err());
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_line_feed_inside_of_an_id_ends_no_line() {
        let (mut codec, mut out) = (Lines::new(), Vec::new());
        ById::encode(&mut codec, 0x0a0a_0a0a, "text", &mut out).unwrap();
        let item = (0x0a0a_0a0a, "text");
        for have in 0..out.len() {
            assert!(matches!(ById::decode(&mut codec, &out[..have]), Ok(Decoded::NeedMore { .. })));
        }
        assert_eq!(ById::decode(&mut codec, &out).unwrap(), Decoded::Item { item, consumed: 13 });
    }
}
