//! What the request-response experiments send, and how each response is checked.

use trochus::codec::{Protocol, Request, RequestRef, Response, ResponseRef};

/// The messages of an experiment. Each tells by its content who made it and which one it is.
pub(crate) trait Load: Clone + Send + Sync + 'static {
    type Protocol: Protocol + Sync;

    /// So many can be told apart by their messages.
    const MOST_PRODUCERS: usize = u32::MAX as usize;

    fn protocol(&self) -> Self::Protocol;

    /// The request with this number of this producer.
    fn request(&self, producer: u32, number: u64) -> Request<Self::Protocol>;

    /// What the server answers.
    fn answer(request: RequestRef<'_, Self::Protocol>) -> Response<Self::Protocol>;

    /// Which producer made the request of this response, if its content is to be trusted.
    fn producer(response: &ResponseRef<'_, Self::Protocol>) -> u32;

    /// Whether it is, in every part, the response to the request with this number of this producer.
    fn is_right(&self, producer: u32, number: u64, response: &ResponseRef<'_, Self::Protocol>) -> bool;
}

/// The responses of one connection, each of which must be the next one of its producer.
#[derive(Debug)]
pub(crate) struct Check<L> {
    load: L,
    /// The connection's producers are this one and each `stride` further on.
    first: u32,
    stride: u32,
    /// If there is more than one producer: the number of each one's next response.
    next: Vec<u64>,
    received: u64,
    wrong: Option<String>,
}

impl<L: Load> Check<L> {
    /// For the connection whose producers are `first` and each `stride` further on, below `producers`.
    pub(crate) fn new(load: L, first: usize, stride: usize, producers: usize) -> Self {
        let producers = (first..producers).step_by(stride).len();
        let next = vec![0; if producers > 1 { producers } else { 0 }];
        Check { load, first: first as u32, stride: stride as u32, next, received: 0, wrong: None }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    #[inline]
    pub(crate) fn take(&mut self, response: &ResponseRef<'_, L::Protocol>) {
        let number = self.received;
        self.received += 1;
        let right = if self.next.is_empty() {
            self.load.is_right(self.first, number, response)
        } else {
            self.is_next(response)
        };
        if !right {
            self.complain();
        }
    }

    #[inline]
    fn is_next(&mut self, response: &ResponseRef<'_, L::Protocol>) -> bool {
        let producer = L::producer(response);
        let index = (producer.wrapping_sub(self.first) / self.stride) as usize;
        let Some(next) = self.next.get_mut(index) else { return false };
        let number = *next;
        *next += 1;
        self.load.is_right(producer, number, response)
    }

    #[cold]
    fn complain(&mut self) {
        let number = self.received;
        self.wrong.get_or_insert_with(|| format!("response {number} is not the one that was due"));
    }

    /// How many responses there were, if all were right.
    pub(crate) fn verdict(&mut self) -> Result<u64, String> {
        self.wrong.take().map_or(Ok(self.received), Err)
    }
}
