//! Nothing grows, and nobody waits for anybody in vain.

use crate::support::*;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;
use trochus::net::{CloseReason, Handle, Handler, Io, ListenOptions, StreamOptions};

/// Pauses at once, and says how it can be reached.
struct Pauses(mpsc::Sender<Handle>, Recorder);

impl Handler for Pauses {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.pause_reading();
        self.0.send(io.handle()).unwrap();
    }

    fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.1.tell(Seen::Bytes(bytes.to_vec()));
        bytes.len()
    }

    fn on_close(&mut self, reason: &CloseReason, reactor: &mut trochus::Reactor) {
        Echo(self.1.clone()).on_close(reason, reactor);
    }
}

#[test]
fn who_pauses_holds_little_and_gets_everything_in_the_end() {
    on_each_backend(|runtime| {
        let (send, handles) = mpsc::channel();
        let (log, recorder) = log();
        let options = ListenOptions::new().tls(server());
        let send = std::sync::Mutex::new(send);
        let make =
            move |_: &trochus::net::Incoming<'_>| Pauses(send.lock().unwrap().clone(), recorder.clone());
        let server = runtime.listen_with(&options, "127.0.0.1:0", make).unwrap();
        let mut client = connect(&server, client_config(ALL));
        let mut sock: TcpStream = client.sock.try_clone().unwrap();
        client.flush().unwrap();
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut sock).unwrap();
        }
        let handle = handles.recv_timeout(PATIENCE).unwrap();
        let sent = pattern(16 << 20);
        client.sock.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut written = 0;
        let blocked = sent.chunks(16 << 10).any(|piece| {
            client.conn.writer().write_all(piece).unwrap();
            written += piece.len();
            while client.conn.wants_write() {
                if let Err(error) = client.conn.write_tls(&mut sock) {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                    return true;
                }
            }
            false
        });
        assert!(blocked, "the peer has to wait at some point");
        let held = runtime.memory_budget().held;
        assert!(held > 0 && held < 1 << 20, "{held} bytes are held");
        // The rest of what was begun goes on.
        client.sock.set_write_timeout(Some(PATIENCE)).unwrap();
        handle.resume_reading().unwrap();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut sock).unwrap();
        }
        let mut received = Vec::new();
        while received.len() < written {
            match log.next() {
                Seen::Bytes(bytes) => received.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
        assert!(received[..written] == sent[..written]);
    });
}

/// Writes all the time and never looks whether anybody reads.
struct Floods;

impl Handler for Floods {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.write(&[7; 4 << 20]);
    }

    fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

#[test]
fn who_takes_nothing_is_cut_off_in_time_and_holds_no_more_than_was_written() {
    on_each_backend(|runtime| {
        let stream =
            StreamOptions::new().write_stall_timeout(Duration::from_millis(300)).send_buffer(64 << 10);
        let options = ListenOptions::new().tls(server()).stream(stream);
        let server = runtime.listen_with(&options, "127.0.0.1:0", |_| Floods).unwrap();
        let mut client = connect(&server, client_config(ALL));
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
        let mut most = 0;
        eventually("it is cut off", || {
            most = most.max(runtime.memory_budget().held);
            runtime.metrics().write_stalls == 1
        });
        // What is sealed at the moment is held in addition, and only for as long.
        assert!(most <= (4 << 20) + (1 << 20), "{most}");
        eventually("nothing is held", || runtime.memory_budget().held == 0);
    });
}

/// What other threads write does not keep the connection from being read.
#[test]
fn what_other_threads_write_is_not_this_sides_answer() {
    on_each_backend(|runtime| {
        let (send, handles) = mpsc::channel();
        struct Tells(mpsc::Sender<Handle>, Recorder);
        impl Handler for Tells {
            fn on_open(&mut self, io: &mut Io<'_>) {
                self.0.send(io.handle()).unwrap();
            }
            fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
                let _ = Echo(self.1.clone()).on_bytes(io, bytes);
                bytes.len()
            }
        }
        let (log, recorder) = log();
        let send = std::sync::Mutex::new(send);
        let stream = StreamOptions::new().output_limits(1 << 10, 256 << 10).send_buffer(64 << 10);
        let options = ListenOptions::new().tls(server()).stream(stream);
        let make =
            move |_: &trochus::net::Incoming<'_>| Tells(send.lock().unwrap().clone(), recorder.clone());
        let server = runtime.listen_with(&options, "127.0.0.1:0", make).unwrap();
        let mut client = connect(&server, client_config(ALL));
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
        let handle = handles.recv_timeout(PATIENCE).unwrap();
        let pushed = pattern(8 << 20);
        handle.write(&pushed).unwrap();
        let mut sent = 0;
        eventually("nothing more is taken", || {
            std::thread::sleep(Duration::from_millis(100));
            let before = std::mem::replace(&mut sent, runtime.metrics().sent_bytes);
            sent == before
        });
        assert!(sent < pushed.len() as u64, "some of it waits, and a part of that sealed");
        // The peer does not read, and is read all the same.
        // More than once: behind the first one it is looked at what waits.
        for n in 0..3 {
            client.write_all(&[n]).unwrap();
            let Seen::Bytes(bytes) = log.next() else { panic!("not read") };
            assert_eq!(bytes, [n]);
        }
        assert!(receive(&mut client, pushed.len()) == pushed);
        assert_eq!(receive(&mut client, 3), [0, 1, 2]);
        handle.close().unwrap();
    });
}
