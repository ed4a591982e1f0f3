//! What all of these tests need: a runtime that is watched, raw peers, and a small executor.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use trochus::codec::Int32;
use trochus::reactor::Address;
use trochus::rpc::{Client, Reply};
use trochus::{Backend, Runtime};

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Long enough for what must not happen before.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

thread_local! {
    static PLACE: Cell<&'static str> = const { Cell::new(TCP) };
}

const TCP: &str = "127.0.0.1:0";

/// Where servers of the test that runs listen, at an address that nobody else has.
pub(crate) fn anywhere() -> &'static str {
    PLACE.get()
}

/// Runs a test on each backend, over TCP and in memory, and fails if it hangs.
pub(crate) fn on_each_ground(test: impl Fn(&Runtime) + Clone + Send + 'static) {
    on_each(&[TCP, "memory:"], test);
}

/// The same for tests whose peers are sockets.
pub(crate) fn on_each_backend(test: impl Fn(&Runtime) + Clone + Send + 'static) {
    on_each(&[TCP], test);
}

fn on_each(places: &[&'static str], test: impl Fn(&Runtime) + Clone + Send + 'static) {
    for backend in Backend::available() {
        for place in places.iter().copied() {
            let test = test.clone();
            let on_ground = move || {
                PLACE.set(place);
                test(&runtime(backend));
            };
            watched(&format!("{backend}, {place}"), on_ground);
        }
    }
}

/// Fails instead of hanging.
pub(crate) fn watched(what: &str, test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        panic!("hangs on {what}");
    }
    if let Err(panic) = thread.join() {
        eprintln!("on {what}:");
        resume_unwind(panic);
    }
}

pub(crate) fn runtime(backend: Backend) -> Runtime {
    Runtime::builder().backend(backend).reactors(2).build().unwrap()
}

/// Keeps a reactor of a runtime from doing anything until what this returns is dropped.
pub(crate) fn hold(runtime: &Runtime, index: usize) -> mpsc::Sender<()> {
    let (free, stuck) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let wait = move |_: &mut trochus::Reactor| {
        tell.send(()).unwrap();
        assert!(stuck.recv().is_err());
    };
    runtime.reactor(index).run(wait).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    free
}

/// Waits for something that other threads bring about.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Replies that a service keeps, for the test to send.
pub(crate) type Kept = Receiver<(i32, Reply<i32>)>;

/// A service that keeps every reply, and where they come out.
pub(crate) fn keeper() -> (impl Fn(i32, Reply<i32>) + Send + Sync + 'static, Kept) {
    let (keep, kept) = mpsc::channel();
    let keep = Mutex::new(keep);
    let service = move |n: i32, reply: Reply<i32>| {
        // The test may be over.
        let _ = keep.lock().unwrap().send((n, reply));
    };
    (service, kept)
}

pub(crate) fn next(kept: &Kept) -> (i32, Reply<i32>) {
    kept.recv_timeout(PATIENCE).expect("a request")
}

/// For sockets of the standard library.
pub(crate) fn plain(address: &Address) -> SocketAddr {
    let Address::Tcp(address) = address else { panic!("not a TCP address: {address}") };
    *address
}

/// A plain socket as a client.
pub(crate) fn dial(address: &Address) -> TcpStream {
    let stream = TcpStream::connect(plain(address)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A plain socket as a server.
pub(crate) fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client of a plain server that does what the test wants, and the server's end of the connection.
pub(crate) fn client_of_plain_server(runtime: &Runtime) -> (Client<Int32>, TcpStream) {
    let (listener, address) = listen();
    let client = Client::connect(runtime, address, Int32).unwrap();
    (client, accept(&listener))
}

/// Ends a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

pub(crate) fn write_ints(stream: &mut TcpStream, numbers: impl IntoIterator<Item = i32>) {
    let bytes: Vec<u8> = numbers.into_iter().flat_map(i32::to_be_bytes).collect();
    stream.write_all(&bytes).unwrap();
}

pub(crate) fn read_ints(stream: &mut TcpStream, count: usize) -> Vec<i32> {
    let mut bytes = vec![0; 4 * count];
    stream.read_exact(&mut bytes).unwrap();
    ints(&bytes)
}

/// What a server says beside its responses: the kind, why, and the number.
pub(crate) fn read_notice(stream: &mut TcpStream) -> (u8, u8, u64) {
    let (mut id, mut kind, mut value) = ([0; 8], [0; 2], [0; 8]);
    for part in [&mut id[..], &mut kind, &mut value] {
        stream.read_exact(part).unwrap();
    }
    assert_eq!(u64::from_be_bytes(id), u64::MAX - 1, "a notice");
    (kind[0], kind[1], u64::from_be_bytes(value))
}

/// All numbers up to the end of the stream.
pub(crate) fn rest_of_ints(stream: &mut TcpStream) -> Vec<i32> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    ints(&bytes)
}

/// Everything up to a reset; an end in good order is none.
pub(crate) fn rest_until_reset(stream: &mut TcpStream) -> Vec<u8> {
    let (mut received, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("it ended in good order behind {received:?}"),
            Ok(read) => received.extend_from_slice(&bytes[..read]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                return received;
            }
        }
    }
}

pub(crate) fn ints(bytes: &[u8]) -> Vec<i32> {
    let (numbers, rest) = bytes.as_chunks();
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
    numbers.iter().map(|bytes| i32::from_be_bytes(*bytes)).collect()
}

pub(crate) fn end_output(stream: &TcpStream) {
    match stream.shutdown(Shutdown::Write) {
        // Whoever was reset has no output any more.
        Err(error) if error.kind() == ErrorKind::NotConnected => {}
        ended => ended.unwrap(),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// Drives many futures on one thread; the outputs in the order of the futures.
pub(crate) fn block_on_all<F: Future + Unpin>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut open: VecDeque<(usize, F)> = futures.into_iter().enumerate().collect();
    let mut outputs: Vec<Option<F::Output>> = open.iter().map(|_| None).collect();
    block_on(std::future::poll_fn(|context| {
        open.retain_mut(|(index, future)| match std::pin::Pin::new(future).poll(context) {
            Poll::Ready(output) => {
                outputs[*index] = Some(output);
                false
            }
            Poll::Pending => true,
        });
        if open.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }));
    outputs.into_iter().map(|output| output.expect("each was driven to its end")).collect()
}
