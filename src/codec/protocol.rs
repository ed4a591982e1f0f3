//! Both directions of request-response, and how a response finds its request.

use std::marker::PhantomData;

use super::{ById, Codec, Correlation, CorrelationKind, Decode, InOrder, Uncorrelated};

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
        self.correlated()
    }

    /// Responses find their requests as `C` says: for ids of one's own, see [`Correlation`].
    ///
    /// With ids, does not compile for codecs without boundaries ([`Raw`](super::Raw)).
    #[must_use]
    fn correlated<C: Correlation>(self) -> Correlated<Self, C> {
        const {
            assert!(
                !matches!(C::KIND, CorrelationKind::ById)
                    || (<Self::RequestCodec as Decode>::KEEPS_BOUNDARIES
                        && <Self::ResponseCodec as Decode>::KEEPS_BOUNDARIES),
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
    pub(super) const fn new(protocol: P) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Int32, Lines};

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
}
