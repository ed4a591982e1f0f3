//! Listening sockets that this process was given when it was started: by a service manager, or by its predecessor.

use super::listen::Listeners;
use crate::error::{Error, Result};
use crate::reactor::{Address, ToAddresses, inherited_descriptor, is_served_at};
use socket2::Socket;
use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a service manager passes on: see `sd_listen_fds(3)`.
const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";
pub(super) const MANAGERS: [&str; 3] = [PID, COUNT, NAMES];

/// What a predecessor passes on: its process id, the descriptor to say ready at, and `descriptor=name` for each socket, with
/// colons between. A process does not know the id of its successor when it writes the variables, but the successor knows its parent.
pub(super) const PASSED: &str = "TROCHUS_PASSED";

/// The first one behind those that every process has.
const FIRST: RawFd = 3;

/// What a predecessor is told.
pub(super) const READY: u8 = b'+';

/// The listening sockets that were passed to this process; from [`inherited`]. Those that nobody takes are closed with it.
#[derive(Debug, Default)]
#[must_use = "sockets that nobody takes are closed, and a predecessor waits for `ready`"]
pub struct Inherited {
    sockets: Vec<InheritedSocket>,
    predecessor: Option<UnixStream>,
}

#[derive(Debug)]
struct InheritedSocket {
    name: String,
    address: Address,
    socket: OwnedFd,
}

/// The listening sockets that were passed to this process when it was started: by a service manager that speaks systemd's protocol
/// of socket activation (`LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`), or by a predecessor ([`Successor`](super::Successor)). None if
/// there are none, or if they were meant for another process, one that this one descends from. From now on no process that this one
/// starts inherits them.
///
/// Each is given out once: a second call finds none. Best called before anything else, when nothing has been served yet that an error
/// would interrupt.
///
/// ```no_run
/// # use trochus::{Runtime, net::{self, Handler, Io, ListenOptions}};
/// # struct Echo;
/// # impl Handler for Echo { fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize { bytes.len() } }
/// # fn main() -> trochus::Result<()> {
/// let mut inherited = net::inherited()?;
/// let runtime = Runtime::new()?;
/// // What was passed by that name, or else that address.
/// let server = runtime.listen(inherited.take_or("web", "0.0.0.0:8000")?, |_peer| Echo)?;
/// inherited.ready(); // a predecessor, if there is one, may leave
/// # drop(server);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Error::InvalidSetting`] where the variables are wrong, or tell of a descriptor that is none, or none of a stream socket that
/// listens, over TCP or Unix-domain. Then none is given out.
pub fn inherited() -> Result<Inherited> {
    static GIVEN_OUT: AtomicBool = AtomicBool::new(false);
    if GIVEN_OUT.swap(true, Ordering::SeqCst) {
        return Ok(Inherited::default());
    }
    let passed = Passed::find(|name| env::var_os(name), process::id(), parent_id())?;
    let sockets = passed.sockets.map(|found| found.and_then(InheritedSocket::take)).collect::<Result<_>>()?;
    let bell = passed.bell.map(|bell| inherited_descriptor(bell).map_err(|error| wrong(PASSED, error)));
    Ok(Inherited { sockets, predecessor: bell.transpose()?.map(UnixStream::from) })
}

impl Inherited {
    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The names and the addresses of those that are left. Several may have the same name. Without `LISTEN_FDNAMES` a service manager's
    /// are all `unknown`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Address)> {
        self.sockets.iter().map(|socket| (&*socket.name, &socket.address))
    }

    /// Takes all that have this name, for [`Runtime::listen_on`](crate::Runtime::listen_on), or in the place of an address.
    pub fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        self.sockets.extract_if(.., |socket| socket.name == name).map(|socket| socket.socket).collect()
    }

    /// Takes all that have this name; if there are none, this is `address`.
    pub fn take_or(&mut self, name: &str, address: impl ToAddresses) -> Result<Listeners> {
        let sockets = self.take(name);
        if sockets.is_empty() {
            address.to_addresses().map(Listeners::At)
        } else {
            Ok(Listeners::On(sockets))
        }
    }

    /// Whether a predecessor waits to be told that this process is [`ready`](Self::ready).
    pub fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Tells the predecessor, if there is one, that this process serves in its place: it may leave from now on. Closes the sockets that
    /// nobody has taken. A predecessor whose successor drops this without calling it takes that for a failure, and goes on.
    pub fn ready(self) {
        if let Some(mut predecessor) = self.predecessor {
            // One that has ended in the meantime need not be told, and one that has given up waiting ends this process by itself.
            let _ = predecessor.write_all(&[READY]);
        }
    }
}

impl InheritedSocket {
    fn take((descriptor, name, variable): Found) -> Result<Self> {
        let cannot =
            |error| wrong(variable, format!("descriptor {descriptor} ({name}) cannot be served: {error}"));
        let socket = Socket::from(inherited_descriptor(descriptor).map_err(cannot)?);
        let address = is_served_at(&socket).map_err(cannot)?;
        Ok(InheritedSocket { name, address, socket: socket.into() })
    }
}

/// A descriptor, its name, and the variable that tells of it.
type Found = (RawFd, String, &'static str);

/// What the variables tell of.
struct Passed {
    /// However many are said to be there, nothing is made of them before the one in front was found.
    sockets: Box<dyn Iterator<Item = Result<Found>>>,
    bell: Option<RawFd>,
}

impl Passed {
    fn find(variable: impl Fn(&str) -> Option<OsString>, process: u32, parent: u32) -> Result<Self> {
        let text = |name: &'static str| {
            let text = variable(name).map(OsString::into_string);
            text.transpose().map_err(|text| wrong(name, format!("{text:?} is not text")))
        };
        if let Some(passed) = text(PASSED)?
            && let Some(passed) = Passed::by_predecessor(&passed, parent)?
        {
            return Ok(passed);
        }
        match (text(PID)?, text(COUNT)?) {
            (Some(pid), Some(count)) if number::<u32>(PID, &pid)? == process => {
                Passed::by_manager(number(COUNT, &count)?, text(NAMES)?)
            }
            (Some(pid), _) => number::<u32>(PID, &pid).map(|_| Passed::nothing()),
            (None, _) => Ok(Passed::nothing()),
        }
    }

    fn nothing() -> Self {
        Passed { sockets: Box::new(std::iter::empty()), bell: None }
    }

    /// `None` if they are another process'.
    fn by_predecessor(passed: &str, parent: u32) -> Result<Option<Self>> {
        let mut fields = passed.split(':');
        let mut next = || fields.next().ok_or_else(|| wrong(PASSED, format!("{passed:?} ends too early")));
        if number::<u32>(PASSED, next()?)? != parent {
            return Ok(None);
        }
        let bell = descriptor(PASSED, next()?)?;
        let socket = |field: &str| match field.split_once('=') {
            Some((number, name)) => Ok((descriptor(PASSED, number)?, name.to_owned(), PASSED)),
            None => Err(wrong(PASSED, format!("{field:?} names no socket"))),
        };
        let sockets: Vec<Result<Found>> = fields.map(socket).collect();
        Ok(Some(Passed { sockets: Box::new(sockets.into_iter()), bell: Some(bell) }))
    }

    fn by_manager(count: u32, names: Option<String>) -> Result<Self> {
        let end = RawFd::try_from(count).ok().and_then(|count| FIRST.checked_add(count));
        let end = end.ok_or_else(|| wrong(COUNT, format!("there are no {count} descriptors")))?;
        let names: Option<Vec<String>> = names.map(|names| names.split(':').map(str::to_owned).collect());
        if let Some(names) = &names
            // A split of nothing is one empty name.
            && names.len() != (count as usize).max(1)
        {
            return Err(wrong(NAMES, format!("it has {} names for {count} descriptors", names.len())));
        }
        let name =
            move |index: usize| names.as_ref().map_or("unknown".to_owned(), |names| names[index].clone());
        let sockets = (FIRST..end).enumerate().map(move |(index, number)| Ok((number, name(index), COUNT)));
        Ok(Passed { sockets: Box::new(sockets), bell: None })
    }
}

fn descriptor(variable: &str, text: &str) -> Result<RawFd> {
    let number = number(variable, text)?;
    if number < FIRST {
        return Err(wrong(variable, format!("{number} cannot be a socket that was passed on")));
    }
    Ok(number)
}

fn number<N: std::str::FromStr>(variable: &str, text: &str) -> Result<N> {
    text.parse().map_err(|_| wrong(variable, format!("{text:?} is no number that it may have")))
}

fn wrong(variable: &str, why: impl std::fmt::Display) -> Error {
    Error::InvalidSetting(format!("the environment's {variable} is wrong: {why}"))
}
