//! Ranges of files as output: each byte in its place, bounded, and never a part as if it were the whole.

use crate::accounts::wait_until;
use crate::ground::{Ground, Peer, Stage, pattern};
use crate::probe::{Ending, Event, Log, Probe, log};
use crate::{Suite, suite};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use trochus::config::{FILE_AHEAD_BYTES, FILE_READ_BYTES};
use trochus::net::{FileError, Io, Server, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "files",
            |_| true,
            [
                files_of_any_size_are_sent_whole,
                what_is_written_keeps_its_place_among_files,
                a_thousand_files_in_a_row_are_sent,
                an_end_comes_behind_the_file,
                what_other_threads_write_comes_behind_the_file,
                a_slow_reader_has_little_of_a_large_file_in_memory,
                a_file_that_shrinks_is_never_taken_for_a_whole_one,
                a_file_that_cannot_be_read_is_told,
                what_is_no_file_is_refused,
                whoever_takes_nothing_of_a_file_is_cut_off,
                an_end_amid_a_file_closes_it,
                a_reactor_that_ends_amid_files_closes_them,
                a_stop_amid_a_file_is_no_end_of_it,
                a_relay_sends_behind_a_file,
            ]
        ),
        suite!(
            "files",
            Ground::is_plain,
            [many_connections_send_files_at_a_time, a_range_may_lie_beyond_four_gigabytes]
        ),
    ]
}

const SHORT: Duration = Duration::from_millis(100);

/// A file that has no name.
fn file_of(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

fn whole(file: &Arc<File>) -> Range<u64> {
    0..file.metadata().unwrap().len()
}

fn is_closed(file: &Arc<File>) -> bool {
    Arc::strong_count(file) == 1
}

/// Little fits between the two ends.
fn narrow() -> StreamOptions {
    StreamOptions::new().send_buffer(16 << 10)
}

fn narrow_peer(server: &Server) -> Peer {
    Peer::prepared(server.local_addr(), |socket| socket.set_recv_buffer_size(16 << 10).unwrap())
}

/// A server that does this with each connection that opens.
fn opens(
    stage: &Stage,
    options: StreamOptions,
    open: impl Fn(&mut Io<'_>) + Clone + Send + Sync + 'static,
) -> (Log, Server) {
    let (log, recorder) = log();
    let server = stage.listen_stream(options, move |_| {
        let open = open.clone();
        recorder.probe().open(move |io| open(io)).shutdown(|io| io.close_unfinished())
    });
    (log, server)
}

fn files_of_any_size_are_sent_whole(ground: &Ground) {
    let stage = ground.single();
    let content = pattern((5 << 20) + 12_345);
    let file = file_of(&content);
    let (read, ahead) = (FILE_READ_BYTES as u64, FILE_AHEAD_BYTES as u64);
    let all = content.len() as u64;
    let mut ranges = vec![0..0, 0..1, all - 1..all, all..all, 5..all - 5, 0..all, 1..2];
    for around in [16 << 10, read / 4, read, ahead, 2 * ahead] {
        ranges.extend([around - 1, around, around + 1].map(|len| 7..len + 7));
    }
    for range in ranges {
        let (sent, asked) = (file.clone(), range.clone());
        let (log, server) = opens(&stage, StreamOptions::new(), move |io| {
            io.write_file(sent.clone(), asked.clone()).unwrap();
            io.close();
        });
        let peer = Peer::connect(server.local_addr());
        let got = peer.receive_to_end();
        assert!(got == content[range.start as usize..range.end as usize], "{range:?}: {} bytes", got.len());
        drop(peer);
        assert_eq!(log.closed(), Ending::Closed);
        drop(server);
    }
    let metrics = stage.finish([]);
    assert!(metrics.file_bytes > all && metrics.file_reads > 0 && metrics.files_failed == 0);
    assert!(is_closed(&file));
}

/// Copied, by reference, and files, in one go and in several, with each other between them.
fn what_is_written_keeps_its_place_among_files(ground: &Ground) {
    let stage = ground.single();
    let content = pattern(1 << 20);
    let file = file_of(&content);
    let mut expected = Vec::new();
    for n in 0..40usize {
        let (start, end) = (n * 1_000, n * 1_000 + n * n * 300);
        expected.extend(format!("before {n} ").into_bytes());
        expected.extend(&content[start..end]);
        expected.extend(&content[..n * 1_000]);
        expected.extend(&content[start..end]);
        expected.extend(b"behind");
    }
    let (sent, by_reference) = (file.clone(), bytes::Bytes::from(content));
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        let (file, by_reference, next) = (sent.clone(), by_reference.clone(), Arc::new(AtomicUsize::new(0)));
        let some = move |io: &mut Io<'_>| {
            for _ in 0..8 {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let range = n as u64 * 1_000..n as u64 * 1_000 + (n * n) as u64 * 300;
                io.write(format!("before {n} ").as_bytes());
                io.write_file(file.clone(), range.clone()).unwrap();
                io.write_bytes(by_reference.slice(..n * 1_000));
                io.write_file(file.clone(), range).unwrap();
                io.write(b"behind");
                if n == 39 {
                    io.close();
                }
            }
        };
        let more = some.clone();
        recorder.probe().open(some).drained(move |io| {
            assert_eq!((io.pending(), io.pending_file_bytes()), (0, 0));
            more(io);
        })
    });
    let peer = Peer::connect(server.local_addr());
    let got = peer.receive_to_end();
    let same = got.iter().zip(&expected).take_while(|(got, sent)| got == sent).count();
    assert!(got == expected, "{same} bytes are right of {}, and {} came", expected.len(), got.len());
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
    assert!(is_closed(&file));
}

fn a_thousand_files_in_a_row_are_sent(ground: &Ground) {
    let stage = ground.single();
    let content = pattern(100_000);
    let file = file_of(&content);
    let range = |n: usize| n * 37..n * 37 + n % 3_000;
    let sent = file.clone();
    let (log, server) = opens(&stage, StreamOptions::new(), move |io| {
        for n in 0..1_000 {
            let Range { start, end } = range(n);
            // Each has its own descriptor, as files that are opened one by one have.
            let file = if n % 50 == 0 { Arc::new(sent.try_clone().unwrap()) } else { sent.clone() };
            io.write_file(file, start as u64..end as u64).unwrap();
        }
        io.shutdown_write();
    });
    let peer = Peer::connect(server.local_addr());
    let expected: Vec<u8> = (0..1_000).flat_map(|n| content[range(n)].iter().copied()).collect();
    assert!(peer.receive_to_end() == expected);
    drop(peer);
    log.closed();
    stage.finish([server]);
    assert!(is_closed(&file));
}

/// A half-close, and a close, are told to the peer behind the last byte; and `on_drained` comes then, and `on_room` not before all is
/// read.
fn an_end_comes_behind_the_file(ground: &Ground) {
    for half in [true, false] {
        let stage = ground.single();
        let content = pattern(3 << 20);
        let file = file_of(&content);
        let (log, recorder) = log();
        let sent = file.clone();
        let server = stage.listen(move |_| {
            let sent = sent.clone();
            let open = move |io: &mut Io<'_>| {
                let all = whole(&sent);
                io.write_file(sent.clone(), all.clone()).unwrap();
                assert_eq!((io.pending(), io.pending_file_bytes()), (0, all.end));
                io.write(b"the end");
                assert_eq!(io.pending(), 7);
                if half {
                    io.shutdown_write()
                } else {
                    io.close()
                }
                io.write(b"too late");
                io.write_file(sent.clone(), all).unwrap();
            };
            let room = |io: &mut Io<'_>| assert_eq!(io.pending_file_bytes(), 0);
            recorder.probe().open(open).room(room)
        });
        let peer = Peer::connect(server.local_addr());
        assert!(peer.receive_to_end() == [&content[..], b"the end"].concat());
        if half {
            peer.send(b"still open");
            peer.end_output();
            log.opened();
            let drained = log.find(|event| match event {
                Event::Drained => Some(true),
                Event::Bytes(_) => Some(false),
                _ => None,
            });
            assert!(drained, "input came before it was told that all is sent");
            assert_eq!(log.bytes(10), b"still open");
        }
        drop(peer);
        let ending = log.closed();
        assert!(matches!(ending, Ending::Closed | Ending::ByPeer), "{ending:?}");
        stage.finish([server]);
        assert!(is_closed(&file));
    }
}

fn what_other_threads_write_comes_behind_the_file(ground: &Ground) {
    let stage = ground.single();
    let content = pattern(4 << 20);
    let file = file_of(&content);
    let sent = file.clone();
    let (log, server) = opens(&stage, narrow().output_limits(40_000, 64 << 20), move |io| {
        io.write(b"before ");
        let all = whole(&sent);
        io.write_file(sent.clone(), all).unwrap();
    });
    let peer = narrow_peer(&server);
    let handle = log.opened();
    let lines: Vec<u8> = (0..20_000).flat_map(|n| format!(" line {n}").into_bytes()).collect();
    lines.chunks(10_000).for_each(|some| handle.write(some).unwrap());
    handle.shutdown_write().unwrap();
    // They do not keep the peer from being read, however much of the file has been sent.
    let mut got = peer.receive(1 << 20);
    peer.send(b"heard");
    assert_eq!(log.bytes(5), b"heard");
    got.extend(peer.receive_to_end());
    assert!(got == [b"before ", &content[..], &lines].concat());
    drop(peer);
    log.closed();
    stage.finish([server]);
}

/// And it is not closed for it, whatever the limits of output are.
fn a_slow_reader_has_little_of_a_large_file_in_memory(ground: &Ground) {
    let stage = ground.single();
    let content = pattern(24 << 20);
    let file = file_of(&content);
    let ahead = 100_000;
    let sent = file.clone();
    let options = narrow().output_limits(200_000, 400_000).file_ahead(ahead);
    let (log, server) = opens(&stage, options, move |io| {
        let all = whole(&sent);
        io.write_file(sent.clone(), all).unwrap();
        io.shutdown_write();
    });
    let peer = narrow_peer(&server);
    log.opened();
    let mut got = Vec::new();
    let mut most = 0;
    for _ in 0..30 {
        got.extend(peer.receive(100_000));
        std::thread::sleep(Duration::from_millis(2));
        let gauges = stage.runtime.gauges().unwrap();
        most = most.max(gauges.iter().map(|gauges| gauges.held_bytes).max().unwrap());
    }
    // What is read ahead, and what is being read into.
    assert!(most as usize <= ahead + FILE_READ_BYTES, "{most} bytes were held");
    got.extend(peer.receive_to_end());
    assert!(got == content);
    drop(peer);
    log.closed();
    stage.finish([server]);
}

/// All that the peer can read, and how that ends.
fn read_all(peer: &Peer) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let end = (&peer.0).read_to_end(&mut bytes);
    (bytes, end.err().map(|error| error.kind()))
}

fn a_file_that_shrinks_is_never_taken_for_a_whole_one(ground: &Ground) {
    for then in [|_: &mut Io<'_>| {}, |io: &mut Io<'_>| io.close(), |io: &mut Io<'_>| io.shutdown_write()] {
        let stage = ground.single();
        let content = pattern(8 << 20);
        let file = file_of(&content);
        let sent = file.clone();
        let (log, server) = opens(&stage, narrow(), move |io| {
            let all = whole(&sent);
            io.write_file(sent.clone(), all).unwrap();
            io.write(b"and this would look like the end of it");
            then(io);
        });
        let peer = narrow_peer(&server);
        log.opened();
        peer.receive(1_000);
        file.set_len(7 << 20).unwrap();
        let (got, end) = read_all(&peer);
        let ending = log.closed();
        let Ending::FileFailed { missing, kind, text } = ending else { panic!("{ending:?}") };
        assert_eq!((missing, kind), (1 << 20, ErrorKind::UnexpectedEof), "{text}");
        assert!(text.contains("1048576") && content[1_000..].starts_with(&got));
        if ground.has_resets() {
            assert_eq!(end, Some(ErrorKind::ConnectionReset));
        }
        drop(peer);
        assert_eq!(stage.finish([server]).files_failed, 1);
        assert!(is_closed(&file));
    }
}

fn a_file_that_cannot_be_read_is_told(ground: &Ground) {
    let stage = ground.single();
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().write_all(&[7; 1_000]).unwrap();
    let file = Arc::new(File::options().write(true).open(named.path()).unwrap());
    let sent = file.clone();
    let (log, server) = opens(&stage, StreamOptions::new(), move |io| {
        io.write_file(sent.clone(), 0..1_000).unwrap();
        io.close();
    });
    let peer = Peer::connect(server.local_addr());
    let ending = log.closed();
    let Ending::FileFailed { missing: 1_000, text, .. } = ending else { panic!("{ending:?}") };
    assert!(text.contains("os error 9"), "{text}");
    assert_eq!(read_all(&peer).0, b"");
    drop(peer);
    stage.finish([server]);
    assert!(is_closed(&file));
}

fn what_is_no_file_is_refused(ground: &Ground) {
    let stage = ground.single();
    let (log, server) = opens(&stage, StreamOptions::new(), |io| {
        for path in ["/", "/dev/null", "/dev/zero"] {
            let refusal = io.write_file(File::open(path).unwrap(), 0..0).unwrap_err();
            assert!(matches!(refusal, FileError::NotRegular), "{path}: {refusal}");
        }
        let (pipe, _writer) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        assert!(matches!(io.write_file(pipe, 0..1), Err(FileError::NotRegular)));
        let refusal = io.write_file(file_of(b"12345"), 0..6).unwrap_err();
        assert!(refusal.to_string().contains("5 bytes"), "{refusal}");
        io.write(b"all there is");
        io.close();
    });
    let peer = Peer::connect(server.local_addr());
    assert_eq!(peer.receive_to_end(), b"all there is");
    drop(peer);
    log.closed();
    stage.finish([server]);
}

/// The limits of time are those of any output.
fn whoever_takes_nothing_of_a_file_is_cut_off(ground: &Ground) {
    let limit = Duration::from_millis(500);
    for closes in [false, true] {
        let stage = ground.single();
        let file = file_of(&pattern(8 << 20));
        let sent = file.clone();
        let options = narrow().write_stall_timeout(limit).flush_timeout(limit);
        let (log, server) = opens(&stage, options, move |io| {
            let all = whole(&sent);
            io.write_file(sent.clone(), all).unwrap();
            if closes {
                io.close();
            }
        });
        let peer = narrow_peer(&server);
        log.opened();
        // Who takes a little now and then is not.
        for _ in 0..5 {
            std::thread::sleep(limit / 4);
            // A send's progress shows when it has ended.
            peer.receive(2 * trochus::config::SEND_BYTES);
        }
        let ending = log.closed();
        match ending {
            Ending::FlushTimeout if closes => {}
            Ending::WriteStalled { text } if !closes => assert!(text.contains("500ms"), "{text}"),
            other => panic!("{other:?}"),
        }
        let (got, end) = read_all(&peer);
        assert!(got.len() < 2 << 20);
        if ground.has_resets() {
            assert_eq!(end, Some(ErrorKind::ConnectionReset));
        }
        drop(peer);
        stage.finish([server]);
        assert!(is_closed(&file));
    }
}

/// However it comes: by the handler, by another thread, or by the peer.
fn an_end_amid_a_file_closes_it(ground: &Ground) {
    let ends: [fn(&trochus::net::Handle, Peer); 4] = [
        |handle, _| handle.abort().unwrap(),
        |_, peer| peer.reset(),
        |_, peer| peer.0.shutdown(Shutdown::Both).unwrap(),
        |handle, _| handle.notify().unwrap(),
    ];
    for end in ends {
        let stage = ground.single();
        let file = file_of(&pattern(8 << 20));
        let (log, recorder) = log();
        let sent = file.clone();
        let server = stage.listen_stream(narrow(), move |_| {
            let sent = sent.clone();
            let open = move |io: &mut Io<'_>| {
                let all = whole(&sent);
                io.write_file(sent.clone(), all.clone()).unwrap();
                io.write_file(sent.clone(), all).unwrap();
            };
            recorder.probe().open(open).notify(|io| io.abort())
        });
        for _ in 0..5 {
            let peer = narrow_peer(&server);
            let handle = log.opened();
            peer.receive(1_000);
            end(&handle, peer);
            log.closed();
        }
        stage.finish([server]);
        assert!(is_closed(&file));
    }
}

/// Dropped, drained, or shut down, with reads in flight or not.
fn a_reactor_that_ends_amid_files_closes_them(ground: &Ground) {
    let file = file_of(&pattern(8 << 20));
    for turns in 0..12 {
        let mut reactor = ground.reactor_builder().build().unwrap();
        let (listener, address) = ground.listener(8);
        let (_log, recorder) = log();
        for _ in 0..3 {
            let sent = file.clone();
            let open = move |io: &mut Io<'_>| {
                let all = whole(&sent);
                io.write_file(sent.clone(), all).unwrap();
            };
            reactor.connect(&narrow(), &address, recorder.probe().open(open).shutdown(|_| {}));
        }
        let peers: Vec<Peer> = (0..turns.min(3)).map(|_| Peer::over(listener.accept().unwrap().0)).collect();
        for _ in 0..turns {
            reactor.turn(Some(Duration::from_millis(1))).unwrap();
        }
        if turns % 2 == 0 {
            reactor.drain(Duration::from_millis(1)).unwrap();
            assert_eq!(reactor.outstanding(), Default::default());
        }
        drop(reactor);
        assert!(is_closed(&file), "after {turns} turns");
        drop(peers);
        if let trochus::net::Address::Unix(path) = address {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// What was written is sent, a file as well, if there is time; the peer sees a reset behind it.
fn a_stop_amid_a_file_is_no_end_of_it(ground: &Ground) {
    for grace in [Duration::from_secs(30), SHORT] {
        let stage = ground.single();
        let content = pattern(4 << 20);
        let file = file_of(&content);
        let (log, recorder) = log();
        let sent = file.clone();
        let server = stage.listen_stream(narrow(), move |_| {
            let sent = sent.clone();
            let open = move |io: &mut Io<'_>| {
                let all = whole(&sent);
                io.write_file(sent.clone(), all).unwrap();
            };
            recorder.probe().open(open).shutdown(|io| io.close_unfinished())
        });
        let peer = narrow_peer(&server);
        log.opened();
        peer.receive(1_000);
        let reads_on = grace > SHORT;
        let reader = std::thread::spawn(move || {
            if !reads_on {
                std::thread::sleep(SHORT * 3);
            }
            read_all(&peer)
        });
        drop(server);
        stage.shutdown(grace);
        let (got, end) = reader.join().unwrap();
        assert!(content[1_000..].starts_with(&got) && (got.len() == content.len() - 1_000) == reads_on);
        if ground.has_resets() {
            assert_eq!(end, Some(ErrorKind::ConnectionReset));
        }
        assert!(is_closed(&file));
    }
}

/// What the other side of a relay says follows what its peer was sent before.
fn a_relay_sends_behind_a_file(ground: &Ground) {
    let stage = ground.single();
    let content = pattern(3 << 20);
    let file = file_of(&content);
    let sent = file.clone();
    let (log, recorder) = log();
    let (upstream, address) = ground.listener(1);
    let server = stage.listen_stream(narrow(), move |_| {
        let (sent, target, recorder) = (sent.clone(), address.clone(), recorder.clone());
        recorder.probe().open(move |io| {
            let all = whole(&sent);
            io.write_file(sent.clone(), all).unwrap();
            let (here, target, recorder) = (io.id(), target.clone(), recorder.clone());
            io.defer(move |reactor| {
                let joins = move |io: &mut Io<'_>| {
                    let there = io.id();
                    io.defer(move |reactor| assert!(reactor.relay(here, there, 100_000, |_, _| {})));
                };
                reactor.connect(&StreamOptions::new(), &target, Probe::open(recorder.probe(), joins));
            });
        })
    });
    let peer = narrow_peer(&server);
    let other = Peer::over(upstream.accept().unwrap().0);
    let said = pattern(500_000);
    let expected = [&content[..], &said].concat();
    let speaker = std::thread::spawn(move || {
        other.send(&said);
        other.end_output();
        other.receive_to_end()
    });
    peer.send(b"hello there");
    assert!(peer.receive_to_end() == expected);
    peer.end_output();
    assert_eq!(speaker.join().unwrap(), b"hello there");
    drop((peer, log));
    stage.finish([server]);
    assert!(is_closed(&file));
}

fn many_connections_send_files_at_a_time(ground: &Ground) {
    let stage = ground.stage();
    let content = pattern(600_000);
    let file = file_of(&content);
    let sent = file.clone();
    let (_log, server) = opens(&stage, StreamOptions::new(), move |io| {
        let all = whole(&sent);
        io.write_file(sent.clone(), all).unwrap();
        io.shutdown_write();
    });
    let peers: Vec<Peer> = (0..200).map(|_| Peer::connect(server.local_addr())).collect();
    for peer in peers {
        assert!(peer.receive_to_end() == content);
    }
    stage.finish([server]);
    assert!(is_closed(&file));
}

/// Most of such a file is a hole, which is read as zeroes.
fn a_range_may_lie_beyond_four_gigabytes(ground: &Ground) {
    let stage = ground.single();
    let start = u64::from(u32::MAX) - 1_000;
    let content = pattern(100_000);
    let mut file = tempfile::tempfile().unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    file.write_all(&content).unwrap();
    let file = Arc::new(file);
    let sent = file.clone();
    let (log, server) = opens(&stage, StreamOptions::new(), move |io| {
        io.write_file(sent.clone(), start - 5..start + 100_000).unwrap();
        io.write_file(sent.clone(), whole(&sent)).unwrap();
        assert_eq!(io.pending_file_bytes(), 100_005 + start + 100_000);
        io.close();
    });
    let peer = Peer::connect(server.local_addr());
    assert!(peer.receive(100_005) == [&[0; 5], &content[..]].concat());
    // All of it, if it is not cut off.
    assert!(peer.receive(10 << 20).iter().all(|byte| *byte == 0));
    drop(peer);
    log.closed();
    stage.finish([server]);
    wait_until("it is closed", || is_closed(&file));
}
