//! Socket files: who owns one, and whether anybody does.
//!
//! A server that goes without removing its file leaves it behind, and no other can listen there until it is gone. To find
//! that out, to remove it and to listen is more than one step, so servers that start or end in the same directory take
//! turns: they lock the directory. Nothing is left behind for that.

use super::system;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for others that start or end in the same directory. They need a millisecond; whoever locks it for
/// longer is none of them, and is not waited for.
const PATIENCE_TO_START: Duration = Duration::from_secs(2);

/// The same for one that ends, which happens on a reactor's thread.
const PATIENCE_TO_END: Duration = Duration::from_millis(20);

/// A socket file that this process made, and removes when this is dropped. That should be before its socket is closed:
/// as long as that is open, no other file has the same number.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Others have the socket as well.
    kept: bool,
}

/// Binds and listens there, in the place of a server that has gone.
pub(super) fn listen_at(
    socket: &Socket,
    path: &Path,
    backlog: i32,
    mode: Option<u32>,
) -> io::Result<SocketFile> {
    let turn = lock_directory(path, PATIENCE_TO_START);
    remove_stale(path)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::at(path)?;
    // If what follows fails, the turn ends first: to remove the file takes one of its own.
    let _turn = turn;
    if let Some(mode) = mode {
        // Before anybody can connect.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    Ok(file)
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(SocketFile {
            path: path.to_path_buf(),
            device: metadata.dev(),
            inode: metadata.ino(),
            kept: false,
        })
    }

    /// Leaves it where it is, for others who have the socket as well.
    pub(in crate::reactor) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let _turn = lock_directory(&self.path, PATIENCE_TO_END);
        let is_own = |there: &Metadata| (there.dev(), there.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(|there| is_own(&there)) {
            // If somebody has removed it in between, so much the better.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Waits for whoever starts or ends in the same directory. `None` if it cannot be locked, which is no reason not to listen.
fn lock_directory(path: &Path, patience: Duration) -> Option<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(directory).ok()?;
    let start = Instant::now();
    loop {
        match system::try_lock(&directory) {
            Ok(()) => return Some(directory),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return None,
        }
    }
}

/// Removes the socket file of a server that has gone: nobody accepts there any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "a file that is not a socket is there"));
    }
    // A server that is seen to be there need not be knocked at.
    if is_listed(path) || is_answered(path)? {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    fs::remove_file(path)
}

/// Whether the system lists a socket that is bound there. If not, there may still be one, in another namespace or bound
/// by another name.
fn is_listed(path: &Path) -> bool {
    let Ok(sockets) = fs::read("/proc/net/unix") else { return false };
    let wanted = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    // Seven columns, then the name, which may have spaces.
    sockets.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let bound = line.strip_suffix(wanted).is_some_and(|before| before.ends_with(b" "));
        // `__SO_ACCEPTCON`: those that it accepted have the same name, and may outlive it.
        bound && line.split(|byte| *byte == b' ').nth(3) == Some(b"00010000")
    })
}

fn is_answered(path: &Path) -> io::Result<bool> {
    // Linux says EAGAIN when a server's queue is full. Others say that nobody listens, so they are asked for a while.
    let attempts = if cfg!(target_os = "linux") { 1 } else { 20 };
    for attempt in 0..attempts {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        match probe.connect(&SockAddr::unix(path)?) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Ok(true),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn fresh_path() -> PathBuf {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("trochus-file-{}-{number}", std::process::id()))
    }

    fn listen(path: &Path) -> io::Result<(Socket, SocketFile)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        listen_at(&socket, path, 8, None).map(|file| (socket, file))
    }

    #[test]
    fn of_many_that_start_over_a_stale_file_one_has_it_and_keeps_it() {
        for _ in 0..100 {
            let path = fresh_path();
            drop(UnixListener::bind(&path).unwrap());
            let (start, wins) = (Barrier::new(4), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        let Ok((socket, file)) = listen(&path) else { return };
                        wins.fetch_add(1, Ordering::SeqCst);
                        // The others come to their end while this one is there.
                        std::thread::sleep(Duration::from_millis(5));
                        UnixStream::connect(&path).expect("the file still leads to its owner");
                        drop(file);
                        drop(socket);
                    });
                }
            });
            assert!(wins.load(Ordering::SeqCst) >= 1 && !path.exists());
        }
    }

    #[test]
    fn a_file_that_somebody_else_has_put_there_stays() {
        let path = fresh_path();
        let (socket, file) = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        // While the first one's inode is in use, the second one has another.
        let second = UnixListener::bind(&path).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
        drop((socket, second));
        fs::remove_file(&path).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_server_that_is_there_is_not_knocked_at() {
        let path = fresh_path();
        let owner = UnixListener::bind(&path).unwrap();
        owner.set_nonblocking(true).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(owner.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_connection_that_outlives_its_server_does_not_keep_the_file() {
        let path = fresh_path();
        let owner = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (accepted, _) = owner.accept().unwrap();
        drop(owner);
        let (socket, file) = listen(&path).unwrap();
        drop((client, accepted, file, socket));
        assert!(!path.exists());
    }

    #[test]
    fn the_mode_is_what_was_asked_for() {
        let path = fresh_path();
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let file = listen_at(&socket, &path, 8, Some(0o600)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
    }
}
