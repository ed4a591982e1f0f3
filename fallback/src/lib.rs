//! A proactor over readiness: submit operations, reap completions, on epoll and kqueue.
//!
//! A program written for completions (io_uring) needs a second way where there is no io_uring. This crate
//! gives readiness the shape of completions: operations that stay armed, receives into a shared pool of
//! buffers, sends that own their payload until they are done, cancellations that complete.
//!
//! An echo of one connection:
//!
//! ```
//! use socket2::Socket;
//! use std::io::{Read, Write};
//! use std::net::{Shutdown, TcpListener, TcpStream};
//! use std::os::fd::AsRawFd;
//! use std::rc::Rc;
//! use trochus_fallback::{Event, Proactor, Received, Settings};
//!
//! # fn main() -> std::io::Result<()> {
//! const ACCEPT: u64 = 0;
//! const RECEIVE: u64 = 1;
//! const SEND: u64 = 2;
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let address = listener.local_addr()?;
//! let client = std::thread::spawn(move || -> std::io::Result<String> {
//!     let mut stream = TcpStream::connect(address)?;
//!     stream.write_all(b"hello")?;
//!     stream.shutdown(Shutdown::Write)?;
//!     let mut answer = String::new();
//!     stream.read_to_string(&mut answer)?;
//!     Ok(answer)
//! });
//!
//! let mut proactor = Proactor::new(Settings::default())?;
//! let listener = Rc::new(Socket::from(listener));
//! proactor.attach(Rc::clone(&listener))?;
//! proactor.accept(listener.as_raw_fd(), ACCEPT);
//!
//! let mut peer = -1;
//! let mut unsent = Vec::new();
//! let mut completions = Vec::new();
//! let mut open = true;
//! while open {
//!     proactor.wait(None, &mut |completion| completions.push(completion))?;
//!     for completion in completions.drain(..) {
//!         match completion.event {
//!             Event::Accepted(socket) => {
//!                 let socket = Rc::new(socket?);
//!                 peer = socket.as_raw_fd();
//!                 proactor.attach(socket)?;
//!                 proactor.receive(peer, RECEIVE); // Stays armed.
//!             }
//!             Event::Received(received) => match received? {
//!                 Received { buffer: Some(buffer), len } => {
//!                     unsent.extend_from_slice(proactor.bytes(buffer, len));
//!                     proactor.release(buffer);
//!                 }
//!                 _end_of_stream => proactor.send(peer, std::mem::take(&mut unsent), SEND),
//!             },
//!             Event::Sent(sent, _payload) => {
//!                 sent?;
//!                 proactor.detach(peer); // Closes the connection: we kept no `Rc` of it.
//!                 open = false;
//!             }
//!             Event::Connected(_) | Event::Read(..) => unreachable!("nothing of the kind was asked for"),
//!         }
//!     }
//! }
//! assert_eq!(client.join().unwrap()?, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! [`Proactor`] keeps a source per attached socket: its pending operations and its remembered readiness. A
//! [`wait`](Proactor::wait) runs the sources that can do something, asks the selector (which sleeps only if
//! nothing was done), and runs those that became ready. [`Settings`] bounds the work per source and turn.
//! [`Completion`] and [`Event`] are what comes out, [`BufferId`] names a buffer of the pool, [`Payload`] is
//! what a send owns, and a [`Waker`] ends a wait from another thread. A [`FileReader`] is the threads that read files, of which no
//! selector tells anything; it can be used by itself.
//!
//! # Semantics
//!
//! - Submitting makes no system call on a socket and completes nothing; both happen in `wait`. A read of a file begins at once,
//!   on a thread of its own, and completes in `wait` as well.
//! - Every operation has one final completion, `more == false`. Accepts and receives may have others before
//!   it.
//! - A final completion leaves nothing behind: the payload is back, no buffer is held.
//! - Tokens are opaque. Telling a late completion from a current one is the caller's part.
//!
//! # Non-goals
//!
//! Datagrams, files other than regular ones and writing to those, timers, TLS, Windows, selectors that are not edge-triggered (`poll`, `select`), and more
//! than one thread per proactor. Sockets are attached by the caller, who sets their options.

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("trochus-fallback needs epoll or kqueue");

mod completion;
mod files;
mod payload;
mod pool;
mod proactor;
mod settings;
mod source;
mod sys;
mod waker;

pub use completion::{Completion, Event, Received};
pub use files::{FileRead, FileReader, fitting};
pub use payload::{MAX_SLICES, Payload, fill};
pub use pool::BufferId;
pub use proactor::Proactor;
pub use settings::Settings;
pub use waker::Waker;

/// The sockets and addresses of this crate's interface.
pub use socket2;

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
