//! The process that takes the place of this one, and gets its sockets.

use super::inherit::{MANAGERS, PASSED, READY};
use crate::config::{DRAIN_TIMEOUT, LONGEST_WAIT};
use crate::error::{Error, Result};
use crate::reactor::{is_served_at, pass_descriptors};
use socket2::Socket;
use std::fmt::Write;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{self, Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// The longest name of a socket, in bytes, as with systemd.
const LONGEST_NAME: usize = 255;

/// A process that is to take the place of this one: it gets this one's listening sockets, and serves on with
/// [`inherited`](super::inherited). Until it has said that it is ready, this one goes on; from then on both accept, and this one can
/// stop in good order. No connection is refused or reset meanwhile, because the sockets stay open, with what is queued there.
///
/// ```no_run
/// # use trochus::net::{self, Server, Successor};
/// # use std::{process::Command, time::Duration};
/// # fn hand_over(program: &str, server: &Server) -> trochus::Result<()> {
/// let successor = Successor::start(Command::new(program), [("web", server.sockets()?)])?;
/// successor.wait_until_ready(Duration::from_secs(10))?; // if it fails, this process serves on as before
/// server.stop(Duration::from_secs(5))?;
/// # Ok(())
/// # }
/// ```
///
/// A successor that is dropped before it was waited for is ended. On Linux before 5.19, where a listening socket must block for
/// io_uring and must not for the fallback, both processes have to run on the same backend.
#[derive(Debug)]
#[must_use = "a successor that is dropped is ended: `wait_until_ready`"]
pub struct Successor {
    child: Option<Child>,
    bell: UnixStream,
}

impl Successor {
    /// Starts `command` as the successor, with `sockets` by their names, which may be the same for several.
    ///
    /// It has to be the process that is started which takes the sockets, or a program that this one replaces itself by (`exec`);
    /// they mean nothing to the processes that it starts. No other process that this one starts inherits them. Where the program
    /// may be replaced while it runs, ask for the path of it ([`std::env::current_exe`]) at the beginning: later, the system
    /// may tell the path of a file that is gone.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`]: a name is empty, has more than 255 bytes, a colon or control characters, or a socket does not listen.
    /// [`Error::System`]: the command could not be started.
    pub fn start<N: AsRef<str>, S: Into<OwnedFd>>(
        mut command: Command,
        sockets: impl IntoIterator<Item = (N, impl IntoIterator<Item = S>)>,
    ) -> Result<Self> {
        let cannot = |source| Error::System { action: "start a successor", source };
        let (bell, theirs) = UnixStream::pair().map_err(cannot)?;
        let mut descriptors = vec![clear_of_the_standard_ones(theirs.into()).map_err(cannot)?];
        let mut passed = format!("{}:{}", process::id(), descriptors[0].as_raw_fd());
        for (name, sockets) in sockets {
            let name = check(name.as_ref())?;
            for socket in sockets {
                let socket = Socket::from(clear_of_the_standard_ones(socket.into()).map_err(cannot)?);
                is_served_at(&socket).map_err(|error| {
                    Error::InvalidSetting(format!("a successor cannot serve the socket {name:?}: {error}"))
                })?;
                let _ = write!(passed, ":{}={name}", socket.as_raw_fd());
                descriptors.push(socket.into());
            }
        }
        // What this process was given itself is not the successor's.
        MANAGERS.iter().for_each(|variable| _ = command.env_remove(variable));
        command.env(PASSED, passed);
        pass_descriptors(&mut command, descriptors);
        let child = command.spawn().map_err(cannot)?;
        // The command has this process' copies of what was passed on: with the bell's, its end would never be heard.
        drop(command);
        Ok(Successor { child: Some(child), bell })
    }

    /// The successor's process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits until the successor has said that it is [`ready`](super::Inherited::ready), and gives its process. If it has ended, says
    /// nothing within `limit`, or lets go of what it was given, it is ended, and that is the error: this process serves on.
    ///
    /// # Errors
    ///
    /// [`Error::System`] tells what became of it. On a reactor's own thread this is [`Error::OnReactorThread`], and the successor is
    /// ended.
    pub fn wait_until_ready(mut self, limit: Duration) -> Result<Child> {
        Error::if_on_reactor_thread("Successor::wait_until_ready", "wait on a thread of the program's own")?;
        let deadline = Instant::now() + limit.min(LONGEST_WAIT);
        let heard = self.listen(deadline);
        let Some(child) = self.child.take() else { return Err(Error::Stopped) };
        if let Ok(true) = heard {
            return Ok(child);
        }
        // One that has let go of what it was given has no more to wait for than its own last words.
        let ended = end(child, deadline.min(Instant::now() + DRAIN_TIMEOUT));
        let source = match heard {
            Err(error) if is_timeout(&error) => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it was not ready within {limit:?}, and was ended"),
            ),
            Err(error) => error,
            Ok(_) => io::Error::other(format!("it gave up before it was ready ({ended})")),
        };
        Err(Error::System { action: "hand over to a successor", source })
    }

    /// Whether it has said that it is ready; if not, it never will.
    fn listen(&mut self, deadline: Instant) -> io::Result<bool> {
        let mut said = [0];
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match self.bell.set_read_timeout(Some(left)) {
                // On Apple's kernel: the other end is closed, so reading waits for nothing.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                set => set?,
            }
            match self.bell.read(&mut said) {
                Ok(bytes) => return Ok(bytes == 1 && said == [READY]),
                // It ended with something unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child, Instant::now());
        }
    }
}

/// Sees it end, or ends it once that is over, and says how it did.
fn end(mut child: Child, deadline: Instant) -> String {
    // One that fails says why before it ends.
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What a process is started with takes the first three.
fn clear_of_the_standard_ones(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    // A copy never has one of them.
    if descriptor.as_raw_fd() > 2 { Ok(descriptor) } else { descriptor.try_clone() }
}

fn check(name: &str) -> Result<&str> {
    let fits = (1..=LONGEST_NAME).contains(&name.len());
    if fits && !name.contains(|c: char| c == ':' || c.is_control()) {
        return Ok(name);
    }
    Err(Error::InvalidSetting(format!(
        "{name:?} cannot be the name of a socket: it needs 1 to {LONGEST_NAME} bytes without colons and control characters"
    )))
}
