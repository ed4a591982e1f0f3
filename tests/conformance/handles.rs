//! What other threads do to a connection and to a reactor.

use crate::accounts::wait_until;
use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Ending, Event, log};
use crate::{Suite, suite};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use trochus::net::{Handle, HandleError, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "handles",
        |_| true,
        [
            writes_of_several_threads_all_arrive_in_order,
            a_full_outbox_says_so_and_a_writer_waits,
            a_waiting_writer_hears_of_the_end,
            a_write_beyond_the_limit_goes_through_alone,
            close_sends_what_was_written_before,
            abort_ends_at_once,
            after_the_end_everything_says_so,
            after_the_outputs_end_writes_are_refused,
            a_notification_survives_the_outputs_end,
            what_is_accepted_while_the_output_ends_is_sent,
            every_notification_takes_effect,
            every_command_runs,
        ]
    )]
}

const THREADS: u64 = 4;

fn in_threads(act: impl Fn(u64) + Send + Sync) {
    thread::scope(|scope| {
        (0..THREADS).for_each(|index| {
            let act = &act;
            scope.spawn(move || act(index));
        });
    });
}

fn writes_of_several_threads_all_arrive_in_order(ground: &Ground) {
    const EACH: u64 = 400;
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    in_threads(|thread| {
        for number in 0..EACH {
            let record = [thread.to_le_bytes(), number.to_le_bytes()].concat();
            match number % 3 {
                0 => handle.write(&record).unwrap(),
                1 => handle.try_write(&record).unwrap(),
                _ => handle.try_write_bytes(Bytes::from(record)).unwrap(),
            }
        }
    });
    handle.close().unwrap();
    let all = peer.receive_to_end();
    assert_eq!(all.len() as u64, THREADS * EACH * 16);
    let mut next = [0; THREADS as usize];
    for record in all.chunks(16) {
        let [thread, number] =
            [0, 8].map(|at| u64::from_le_bytes(record[at..at + 8].try_into().unwrap()) as usize);
        assert_eq!(number, next[thread], "of thread {thread}");
        next[thread] += 1;
    }
    drop(peer);
    stage.finish([server]);
}

/// A connection whose peer does not read, and whose queues are full up to the outbox. How much was accepted.
pub(crate) fn clog(handle: &Handle, chunk: &[u8]) -> usize {
    let mut accepted = 0;
    let mut refused = 0;
    // Full for good once the reactor has taken what it will take, and the kernel, which may look again behind 200 ms.
    while refused < 30 {
        match handle.try_write(chunk) {
            Ok(()) => (accepted, refused) = (accepted + chunk.len(), 0),
            Err(HandleError::Full { limit }) => {
                assert_eq!(limit, 100_000);
                assert!(HandleError::Full { limit }.to_string().contains("100000"));
                refused += 1;
                thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(other) => panic!("{other}"),
        }
    }
    accepted
}

pub(crate) fn clogged() -> StreamOptions {
    StreamOptions::new().outbox_limit(100_000).output_limits(50_000, 1 << 20).send_buffer(16 << 10)
}

fn a_full_outbox_says_so_and_a_writer_waits(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let chunk = pattern(10_210);
    let accepted = clog(&handle, &chunk);
    let writer = thread::spawn({
        let (handle, chunk) = (handle.clone(), chunk.clone());
        move || (0..20).try_for_each(|_| handle.write(&chunk))
    });
    let expected = chunk.repeat(accepted / chunk.len() + 20);
    assert!(peer.receive(expected.len()) == expected, "what was accepted arrives, and nothing else");
    writer.join().unwrap().unwrap();
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn a_waiting_writer_hears_of_the_end(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    clog(&handle, &[0; 10_000]);
    let writer = thread::spawn({
        let handle = handle.clone();
        move || loop {
            if let Err(error) = handle.write(&[0; 10_000]) {
                return error;
            }
        }
    });
    handle.abort().unwrap();
    assert_eq!(writer.join().unwrap(), HandleError::Closed);
    assert_eq!(log.closed(), Ending::Aborted);
    drop(peer);
    stage.finish([server]);
}

fn a_write_beyond_the_limit_goes_through_alone(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let message = pattern(500_000);
    handle.write(&message).unwrap();
    assert!(peer.receive(message.len()) == message);
    drop(peer);
    stage.finish([server]);
}

fn close_sends_what_was_written_before(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    for _ in 0..20 {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        let message = pattern(200_000);
        message.chunks(50_000).for_each(|chunk| handle.write(chunk).unwrap());
        handle.close().unwrap();
        assert!(peer.receive_to_end() == message);
        drop(peer);
        assert_eq!(log.closed(), Ending::Closed);
    }
    stage.finish([server]);
}

fn abort_ends_at_once(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    log.opened().abort().unwrap();
    peer.sees_the_end();
    assert_eq!(log.closed(), Ending::Aborted);
    stage.finish([server]);
}

fn after_the_end_everything_says_so(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    assert!(!handle.is_closed());
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    wait_until("the handle knows", || handle.is_closed());
    assert_eq!(handle.write(b"x"), Err(HandleError::Closed));
    assert_eq!(handle.try_write(b"x"), Err(HandleError::Closed));
    assert_eq!(handle.try_write_bytes(Bytes::from_static(b"x")), Err(HandleError::Closed));
    assert_eq!(handle.notify(), Err(HandleError::Closed));
    let commands = stage.metrics().commands;
    for _ in 0..2 {
        // To ask for an end that has come already is no error, and nobody is told: the reactor may know another connection by
        // the number that this one had.
        assert_eq!(handle.shutdown_write(), Ok(()));
        assert_eq!(handle.close(), Ok(()));
        assert_eq!(handle.abort(), Ok(()));
        assert_eq!(handle.pause_reading(), Err(HandleError::Closed));
        assert_eq!(handle.resume_reading(), Err(HandleError::Closed));
    }
    assert_eq!(stage.metrics().commands, commands);
    stage.finish([server]);
    assert_eq!(handle.close(), Ok(()));
    assert_eq!(handle.notify(), Err(HandleError::Closed));
    assert!(log.rest().is_empty());
}

fn after_the_outputs_end_writes_are_refused(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    handle.write(b"all").unwrap();
    handle.shutdown_write().unwrap();
    assert_eq!(peer.receive_to_end(), b"all");
    assert_eq!(handle.try_write(b"more"), Err(HandleError::Closed), "accepted is delivered");
    assert_eq!(handle.write(b"more"), Err(HandleError::Closed));
    handle.notify().unwrap();
    log.find(|event| matches!(event, Event::Notified).then_some(()));
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

/// Two commands that the reactor finds together: what the first takes over, it must not take from the second.
fn a_notification_survives_the_outputs_end(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    for round in 0..20 {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        if round % 2 == 0 {
            handle.shutdown_write().unwrap();
            handle.notify().unwrap();
        } else {
            handle.notify().unwrap();
            handle.write(b"with it").unwrap();
            handle.shutdown_write().unwrap();
        }
        log.find(|event| matches!(event, Event::Notified).then_some(()));
        drop(peer);
        log.closed();
    }
    stage.finish([server]);
}

/// Another thread writes all the while. What it was told has been accepted arrives.
fn what_is_accepted_while_the_output_ends_is_sent(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    for round in 0..100 {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        let writer = thread::spawn({
            let handle = handle.clone();
            move || {
                let mut accepted = 0;
                while handle.try_write(b"x").is_ok() {
                    accepted += 1;
                }
                accepted
            }
        });
        thread::sleep(std::time::Duration::from_micros(200));
        if round % 2 == 0 { handle.shutdown_write() } else { handle.close() }.unwrap();
        let accepted = writer.join().unwrap();
        assert_eq!(peer.receive_to_end().len(), accepted, "in round {round}");
        drop(peer);
        assert_eq!(log.closed(), Ending::Closed);
    }
    stage.finish([server]);
}

fn every_notification_takes_effect(ground: &Ground) {
    const EACH: u64 = 2_000;
    let stage = ground.stage();
    let (log, recorder) = log();
    let (given, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let server = stage.listen({
        let (given, seen) = (given.clone(), seen.clone());
        move |_| {
            let (given, seen) = (given.clone(), seen.clone());
            recorder.probe().notify(move |_| seen.store(given.load(Ordering::SeqCst), Ordering::SeqCst))
        }
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    in_threads(|thread| {
        for number in 0..EACH {
            given.fetch_add(1, Ordering::SeqCst);
            handle.notify().unwrap();
            // Now and then long enough for the reactor to fall asleep.
            if number % 500 == 100 * thread {
                wait_until("this one has been seen", || seen.load(Ordering::SeqCst) > number);
            }
        }
    });
    wait_until("the last one has been seen", || seen.load(Ordering::SeqCst) == THREADS * EACH);
    drop(peer);
    stage.finish([server]);
}

fn every_command_runs(ground: &Ground) {
    const EACH: u64 = 3_000;
    let stage = ground.single();
    let reactor = stage.runtime.reactor(0);
    let ran = Arc::new(AtomicU64::new(0));
    let before = reactor.metrics();
    in_threads(|_| {
        for number in 0..EACH {
            let ran = ran.clone();
            reactor.run(move |_| _ = ran.fetch_add(1, Ordering::Relaxed)).unwrap();
            if number % 100 == 0 {
                reactor.wake();
            }
        }
    });
    wait_until("all have run", || ran.load(Ordering::Relaxed) == THREADS * EACH);
    let wakes = THREADS * (EACH + EACH / 100);
    wait_until("all are counted", || reactor.metrics().commands - before.commands == THREADS * EACH);
    let after = reactor.metrics();
    assert_eq!(after.wakes_sent + after.wakes_saved - before.wakes_sent - before.wakes_saved, wakes);
    stage.finish([]);
}
