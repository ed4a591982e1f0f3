//! A request-response server and client over buffers in memory: what the layers above ask of a `Protocol`.

use std::fmt::Debug;

use trochus::codec::{
    ById, ByteLines, Codec, Correlation, Decode, DecodeError, Decoded, EncodeError, Int32, LengthDelimited,
    Lines, Pair, Protocol, Raw, Request, RequestRef, Response, ResponseRef,
};

/// How a service answers.
struct Reply<'a, T> {
    answer: &'a mut Option<T>,
}

impl<T> Reply<'_, T> {
    fn send(self, response: impl Into<T>) {
        *self.answer = Some(response.into());
    }
}

struct Server<P: Protocol, F> {
    requests: P::RequestCodec,
    responses: P::ResponseCodec,
    service: F,
}

impl<P, F> Server<P, F>
where
    P: Protocol,
    F: FnMut(RequestRef<'_, P>, Reply<'_, Response<P>>),
{
    fn bind(protocol: P, service: F) -> Self {
        Self { requests: protocol.request_codec(), responses: protocol.response_codec(), service }
    }

    /// Answers all whole requests of `input`; returns how many bytes they took.
    fn on_bytes(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, DecodeError> {
        let mut rest = input;
        while let Decoded::Item { item: (id, request), consumed } =
            P::Correlation::decode(&mut self.requests, rest)?
        {
            rest = &rest[consumed..];
            let mut answer = None;
            (self.service)(request, Reply { answer: &mut answer });
            let response = answer.expect("the services of this test answer at once");
            P::Correlation::encode(&mut self.responses, id, &response, out)
                .expect("a response that can be written");
        }
        Ok(input.len() - rest.len())
    }
}

struct Client<P: Protocol> {
    requests: P::RequestCodec,
    responses: P::ResponseCodec,
}

impl<P: Protocol> Client<P> {
    fn connect(protocol: &P) -> Self {
        Self { requests: protocol.request_codec(), responses: protocol.response_codec() }
    }

    fn send(
        &mut self,
        id: <P::Correlation as Correlation>::Id,
        request: &Request<P>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        P::Correlation::encode(&mut self.requests, id, request, out)
    }

    fn on_bytes(
        &mut self,
        mut input: &[u8],
        mut each: impl FnMut(<P::Correlation as Correlation>::Id, ResponseRef<'_, P>),
    ) {
        while let Decoded::Item { item: (id, response), consumed } =
            P::Correlation::decode(&mut self.responses, input).expect("responses of our own server")
        {
            input = &input[consumed..];
            each(id, response);
        }
        assert!(input.is_empty(), "{} bytes of no response", input.len());
    }
}

/// Sends the requests, hands the wire to the server in pieces of `piece` bytes, returns the responses with their ids.
fn round_trip<P, F>(
    protocol: P,
    service: F,
    requests: Vec<(<P::Correlation as Correlation>::Id, Request<P>)>,
    piece: usize,
) -> Vec<(<P::Correlation as Correlation>::Id, Response<P>)>
where
    P: Protocol,
    F: FnMut(RequestRef<'_, P>, Reply<'_, Response<P>>),
{
    let mut client = Client::connect(&protocol);
    let mut server = Server::bind(protocol, service);
    let mut wire = Vec::new();
    for (id, request) in &requests {
        client.send(id.clone(), request, &mut wire).unwrap();
    }
    let (mut pending, mut out) = (Vec::new(), Vec::new());
    for bytes in wire.chunks(piece) {
        pending.extend_from_slice(bytes);
        let consumed = server.on_bytes(&pending, &mut out).unwrap();
        pending.drain(..consumed);
    }
    assert!(pending.is_empty());
    let mut responses = Vec::new();
    client.on_bytes(&out, |id, response| responses.push((id, P::ResponseCodec::into_owned(response))));
    responses
}

fn in_order<T>(items: impl IntoIterator<Item = T>) -> Vec<((), T)> {
    items.into_iter().map(|item| ((), item)).collect()
}

const PIECES: [usize; 5] = [1, 2, 3, 7, usize::MAX];

#[test]
fn numbers_in_order() {
    for piece in PIECES {
        let responses =
            round_trip(Int32, |n: i32, reply: Reply<i32>| reply.send(n + 1), in_order(0..50), piece);
        assert_eq!(responses, in_order(1..51));
    }
}

#[test]
fn closures_need_no_types() {
    let responses = round_trip(Int32, |n, reply| reply.send(n * 2), in_order([3, 4]), 1);
    assert_eq!(responses, in_order([6, 8]));
    let responses = round_trip(
        Pair::new(Lines::new(), Int32),
        |line, reply| reply.send(line.len() as i32),
        in_order(["a".to_owned(), "bcd".to_owned()]),
        1,
    );
    assert_eq!(responses, in_order([1, 3]));
}

#[test]
fn numbers_by_id_and_without() {
    let requests: Vec<(u64, i32)> = (0..50).map(|n| (u64::MAX - n as u64, n)).collect();
    let expected: Vec<_> = requests.iter().map(|&(id, n)| (id, n + 1)).collect();
    for piece in PIECES {
        let service = |n: i32, reply: Reply<i32>| reply.send(n + 1);
        assert_eq!(round_trip(Int32.by_id(), service, requests.clone(), piece), expected);
        assert_eq!(round_trip(Int32.uncorrelated(), service, in_order([1, 2]), piece), in_order([2, 3]));
        assert_eq!(round_trip(Int32.by_id().in_order(), service, in_order([1, 2]), piece), in_order([2, 3]));
    }
}

#[test]
fn frames_are_seen_in_place_and_answered_with_owned_ones() {
    for piece in PIECES {
        let mut seen = Vec::new();
        let responses = round_trip(
            LengthDelimited::new(),
            |frame: &[u8], reply: Reply<bytes::Bytes>| {
                seen.push(frame.len());
                reply.send(frame.to_ascii_uppercase());
            },
            in_order([b"one".as_slice().into(), b"".as_slice().into(), b"three".as_slice().into()]),
            piece,
        );
        assert_eq!(responses, in_order([&b"ONE"[..], b"", b"THREE"].map(Into::into)));
        assert_eq!(seen, [3, 0, 5]);
    }
}

#[test]
fn frames_and_lines_by_id() {
    for piece in PIECES {
        let frames = round_trip(
            LengthDelimited::new().by_id(),
            |frame: &[u8], reply: Reply<_>| reply.send(frame.to_vec()),
            vec![(3, b"a".as_slice().into()), (1, b"".as_slice().into())],
            piece,
        );
        assert_eq!(frames, [(3, b"a".as_slice().into()), (1, b"".as_slice().into())]);
        let lines = round_trip(
            ByteLines::new().by_id(),
            |line: &[u8], reply: Reply<_>| reply.send(line.to_vec()),
            vec![(0x0a0a, b"x".as_slice().into())],
            piece,
        );
        assert_eq!(lines, [(0x0a0a, b"x".as_slice().into())]);
    }
}

#[test]
fn raw_bytes_come_back_as_a_stream() {
    let mut server = Server::bind(Raw, |bytes: &[u8], reply: Reply<bytes::Bytes>| reply.send(bytes.to_vec()));
    let mut out = Vec::new();
    assert_eq!(server.on_bytes(b"abc", &mut out).unwrap(), 3);
    assert_eq!(server.on_bytes(b"de", &mut out).unwrap(), 2);
    assert_eq!(out, b"abcde");
}

#[test]
fn good_requests_before_a_bad_one_are_answered() {
    let mut server = Server::bind(Lines::new(), |line: &str, reply: Reply<String>| reply.send(line));
    let mut out = Vec::new();
    assert!(matches!(server.on_bytes(b"good\n\xff\n", &mut out), Err(DecodeError::InvalidUtf8(_))));
    assert_eq!(out, b"good\n");
}

#[test]
fn codecs_can_be_named_and_shown() {
    fn shown<C: Codec + Debug>(codec: C) -> String {
        format!("{codec:?}")
    }
    assert_eq!(shown(Int32), "Int32");
    assert!(shown(LengthDelimited::new()).contains("max_frame_bytes: 1048576"));
    assert!(ById::decode(&mut Int32, &[0; 12]).is_ok());
}

#[cfg(feature = "json")]
#[test]
fn json_with_types_of_its_own_each_way() {
    use serde::{Deserialize, Serialize};
    use trochus::codec::JsonLines;

    #[derive(Serialize, Deserialize, Clone)]
    struct Question {
        text: String,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Answer {
        words: usize,
    }

    let questions = ["how many words", "two\nlines", ""].map(|text| Question { text: text.to_owned() });
    for piece in PIECES {
        let answers = round_trip(
            JsonLines::<Question, Answer>::new(),
            |question: Question, reply: Reply<Answer>| {
                reply.send(Answer { words: question.text.split_whitespace().count() });
            },
            in_order(questions.clone()),
            piece,
        );
        assert_eq!(answers, in_order([3, 2, 0].map(|words| Answer { words })));
    }
}
