//! Bytes both ways, and how streams end.

use crate::support::*;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;
use trochus::net::{Address, CloseReason, Handler, Io, ListenOptions, StreamOptions};
use trochus::tls::Version;

#[test]
fn a_handler_is_called_once_the_handshake_is_over_and_knows_what_was_agreed_on() {
    on_each_backend(|runtime| {
        for (versions, version) in [(TLS13, Version::Tls13), (TLS12, Version::Tls12)] {
            let (server, log) = serve(runtime, server());
            let mut client = connect(&server, client_config(versions));
            std::thread::sleep(Duration::from_millis(20));
            assert!(log.is_silent(), "it is connected, and has said nothing");
            echoes(&mut client, b"hello");
            let info = log.opened();
            assert_eq!((info.version(), info.is_resumed(), info.alpn()), (version, false, None));
            assert_eq!(info.server_name(), Some("localhost"));
            assert!(info.cipher_suite().contains("_WITH_") == (version == Version::Tls12), "{info:?}");
            assert_eq!(info.peer_certificates().len(), 0);
        }
    });
}

#[test]
fn much_goes_through_in_both_directions() {
    const LEN: usize = 20 << 20;
    on_each_backend(|runtime| {
        for versions in [TLS13, TLS12] {
            let (server, log) = serve(runtime, server());
            let mut client = connect(&server, client_config(versions));
            let sent = pattern(LEN);
            // A piece at a time: this peer writes without reading.
            for piece in sent.chunks(300_001) {
                echoes(&mut client, piece);
            }
            end_output(&mut client);
            assert_eq!(receive_to_end(&mut client), b"");
            let (received, seen) = log.rest();
            assert!(matches!(seen, Seen::End) && received == sent);
            assert!(matches!(log.closed(), CloseReason::ByPeer));
        }
    });
}

/// Writes much at once, of copied pieces and shared ones, and ends.
struct Flood(usize);

impl Handler for Flood {
    fn on_open(&mut self, io: &mut Io<'_>) {
        let all = pattern(self.0);
        for (n, piece) in all.chunks(70_000).enumerate() {
            for piece in piece.chunks([7, 70_000, 1_000][n % 3]) {
                if n % 2 == 0 { io.write(piece) } else { io.write_bytes(piece.to_vec().into()) }
            }
        }
        io.close();
    }

    fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

#[test]
fn much_that_is_written_at_once_arrives_whole_in_large_records() {
    const LEN: usize = 5 << 20;
    on_each_backend(|runtime| {
        let options = ListenOptions::new().tls(server());
        let server = runtime.listen_with(&options, "127.0.0.1:0", |_| Flood(LEN)).unwrap();
        let mut client = connect(&server, client_config(ALL));
        assert!(receive_to_end(&mut client) == pattern(LEN));
        let metrics = runtime.metrics();
        assert!(metrics.sends < 40, "{} sends of {LEN} bytes", metrics.sends);
        assert!((metrics.sent_bytes as usize) < LEN + LEN / 200 + 10_000, "{}", metrics.sent_bytes);
    });
}

#[test]
fn the_end_of_the_peers_output_is_told_and_this_sides_goes_on() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut client = connect(&server, client_config(ALL));
        client.write_all(b"all of it").unwrap();
        end_output(&mut client);
        // It ends at the socket only when it has been answered.
        assert_eq!(receive_to_end(&mut client), b"all of it");
        let (received, seen) = log.rest();
        assert!(matches!(seen, Seen::End) && received == b"all of it", "{seen:?}");
        assert!(matches!(log.closed(), CloseReason::ByPeer));
    });
}

#[test]
fn an_end_without_close_notify_is_told_apart() {
    on_each_backend(|runtime| {
        for versions in [TLS13, TLS12] {
            let (server, log) = serve(runtime, server());
            let mut client = connect(&server, client_config(versions));
            echoes(&mut client, b"a part");
            client.sock.shutdown(Shutdown::Write).unwrap();
            let (received, seen) = log.rest();
            assert_eq!(received, b"a part");
            assert!(matches!(seen, Seen::Closed(CloseReason::Truncated)), "{seen:?}");
            // Nor is the peer told that this was all.
            let error = client.read(&mut [0; 16]).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}");
        }
    });
}

#[test]
fn an_abort_is_no_end_for_the_peer() {
    struct Aborts;
    impl Handler for Aborts {
        fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
            io.write(b"never sent");
            io.abort();
            bytes.len()
        }
    }
    on_each_backend(|runtime| {
        let options = ListenOptions::new().tls(server());
        let server = runtime.listen_with(&options, "127.0.0.1:0", |_| Aborts).unwrap();
        let mut client = connect(&server, client_config(ALL));
        client.write_all(b"x").unwrap();
        assert!(client.read(&mut [0; 16]).is_err());
    });
}

#[test]
fn a_client_of_ours_reads_and_writes_and_ends() {
    on_each_backend(|runtime| {
        for versions in [TLS13, TLS12] {
            let (address, accepted) = accept(server_config(versions));
            let (log, recorder) = log();
            let options = StreamOptions::new().tls(client());
            let address = Address::Tcp(address);
            let connecting = runtime.connect_async(&options, address, move || Echo(recorder));
            let mut peer = accepted.join().unwrap();
            let sent = pattern(3 << 20);
            for piece in sent.chunks(200_000) {
                echoes(&mut peer, piece);
            }
            connecting.wait().unwrap();
            let info = log.opened();
            assert_eq!(info.server_name(), Some("localhost"));
            assert_eq!(info.peer_certificates().next(), Some(&LOCALHOST.der()[..]));
            end_output(&mut peer);
            assert_eq!(receive_to_end(&mut peer), b"");
            let (received, seen) = log.rest();
            assert!(matches!(seen, Seen::End) && received == sent);
        }
    });
}

#[test]
fn a_drain_ends_with_close_notify_for_who_is_at_rest() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut client = connect(&server, client_config(ALL));
        echoes(&mut client, b"done");
        let thread = std::thread::spawn(move || receive_to_end(&mut client));
        let drained = server.stop(PATIENCE).unwrap();
        assert_eq!(thread.join().unwrap(), b"", "in good order");
        assert_eq!(drained.cut_off, 0, "{drained:?}");
        assert!(matches!(log.closed(), CloseReason::Closed));
    });
}

#[test]
fn over_unix_domain_sockets_as_well() {
    on_each_backend(|runtime| {
        let path = tempfile::tempdir().unwrap();
        let path = path.path().join("socket");
        let (_, served) = log();
        let options = ListenOptions::new().tls(server());
        let server = runtime.listen_with(&options, path, move |_| Echo(served.clone())).unwrap();
        let (log, recorder) = log();
        struct Asks(Echo);
        impl Handler for Asks {
            fn on_open(&mut self, io: &mut Io<'_>) {
                io.write(&pattern(2 << 20));
                io.shutdown_write();
            }
            fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
                self.0.on_bytes(io, bytes)
            }
            fn on_end(&mut self, io: &mut Io<'_>) {
                self.0.on_end(io);
            }
            fn on_close(&mut self, reason: &CloseReason, reactor: &mut trochus::Reactor) {
                self.0.on_close(reason, reactor);
            }
        }
        // It writes more at once than the other side holds for it.
        let options = StreamOptions::new().tls(client()).throttle_reading(false);
        let _pending = runtime.connect_async(&options, server.local_addr().clone(), || Asks(Echo(recorder)));
        let (received, seen) = log.rest();
        assert!(matches!(seen, Seen::End), "{seen:?}");
        assert!(received == pattern(2 << 20));
    });
}
