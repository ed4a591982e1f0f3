//! Room for what other threads and tasks write: who waits for it, how long, and what they are told.

use crate::accounts::wait_until;
use crate::ground::{Ground, Peer, pattern};
use crate::handles::{clog, clogged};
use crate::probe::{Ending, Event, log};
use crate::{Suite, suite};
use bytes::Bytes;
use std::future::Future;
use std::io::IoSlice;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;
use trochus::net::{Handle, HandleError, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "writers",
        |_| true,
        [
            the_limit_counts_the_write_itself,
            a_writer_gives_up_in_time,
            every_way_to_write_keeps_the_order,
            tasks_wait_for_room,
            a_waiting_task_hears_of_the_end,
            a_task_that_gives_up_has_written_nothing,
            on_a_reactors_thread_a_write_does_not_wait,
            the_burst_of_one_turn_is_no_slow_peer,
            what_is_pending_is_told,
            a_close_that_takes_too_long_can_be_cut_short,
            a_task_is_told_by_the_waker_it_came_with_last,
        ]
    )]
}

fn the_limit_counts_the_write_itself(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let mut accepted = clog(&handle, &[7; 10_000]);
    let room = handle.room();
    assert!(room < 10_000, "{room}");
    assert_eq!(handle.try_write(&vec![7; room + 1]), Err(HandleError::Full { limit: 100_000 }));
    assert_eq!(handle.try_write(&[7; 50_000]), Err(HandleError::Full { limit: 100_000 }));
    handle.try_write_bytes(Bytes::from(vec![7; room])).unwrap();
    accepted += room;
    assert_eq!(handle.room(), 0);
    let one = [IoSlice::new(&[]), IoSlice::new(&[7])];
    assert_eq!(handle.try_write_vectored(&one), Err(HandleError::Full { limit: 100_000 }));
    assert_eq!(handle.try_write(b""), Ok(()), "nothing finds room anywhere");
    assert!(peer.receive(accepted).iter().all(|byte| *byte == 7));
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn a_writer_gives_up_in_time(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let mut accepted = clog(&handle, &[1; 10_000]);
    // The kernel may find room for some more yet.
    while handle.write_timeout(&[1; 10_000], Duration::from_millis(20)) != Err(HandleError::TimedOut) {
        accepted += 10_000;
    }
    assert_eq!(handle.write_timeout(&[2; 10_000], Duration::ZERO), Err(HandleError::TimedOut));
    let writer = thread::spawn({
        let handle = handle.clone();
        move || handle.write_timeout(&[3; 10_000], Duration::MAX)
    });
    let all = peer.receive(accepted + 10_000);
    assert!(all[..accepted].iter().all(|byte| *byte == 1) && all[accepted..].iter().all(|byte| *byte == 3));
    writer.join().unwrap().unwrap();
    handle.write_timeout(b"there is room", Duration::ZERO).unwrap();
    assert_eq!(peer.receive(13), b"there is room");
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    assert_eq!(handle.write_timeout(b"x", Duration::MAX), Err(HandleError::Closed));
    stage.finish([server]);
}

fn every_way_to_write_keeps_the_order(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let message = pattern(400_000);
    let writer = thread::spawn({
        let (handle, message) = (handle.clone(), message.clone());
        move || {
            for (number, chunk) in message.chunks(1_000).enumerate() {
                let (front, back) = chunk.split_at(number % 1_000);
                match number % 5 {
                    0 => handle.write(chunk).unwrap(),
                    1 => handle.write_bytes(Bytes::copy_from_slice(chunk)).unwrap(),
                    2 => handle.write_vectored(&[IoSlice::new(front), IoSlice::new(back)]).unwrap(),
                    3 => block_on(handle.write_async(chunk.to_vec())).unwrap(),
                    _ => {
                        block_on(handle.writable(chunk.len())).unwrap();
                        handle.try_write(chunk).unwrap();
                    }
                }
            }
            handle.close().unwrap();
        }
    });
    assert!(peer.receive_to_end() == message);
    writer.join().unwrap();
    stage.finish([server]);
}

fn tasks_wait_for_room(ground: &Ground) {
    const TASKS: usize = 20;
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let accepted = clog(&handle, &[9; 10_000]);
    let writers: Vec<_> = (0..TASKS)
        .map(|number| {
            let handle = handle.clone();
            thread::spawn(move || block_on(handle.write_async(vec![number as u8; 60_000])))
        })
        .collect();
    let all = peer.receive(accepted + TASKS * 60_000);
    writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
    let mut seen: Vec<u8> = all[accepted..].chunks(60_000).map(|chunk| chunk[0]).collect();
    assert!(all[accepted..].chunks(60_000).all(|chunk| chunk.iter().all(|byte| *byte == chunk[0])));
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..TASKS as u8));
    drop(peer);
    stage.finish([server]);
}

fn a_waiting_task_hears_of_the_end(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    for end in [Handle::abort, Handle::shutdown_write] {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        clog(&handle, &[0; 10_000]);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let handle = handle.clone();
                thread::spawn(move || {
                    let mut written = Ok(());
                    while written.is_ok() {
                        // The kernel may find room for some more yet.
                        written = block_on(handle.write_async(vec![0; 60_000]));
                    }
                    (written, block_on(handle.writable(60_000)))
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(2));
        end(&handle).unwrap();
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), (Err(HandleError::Closed), Err(HandleError::Closed)));
        }
        peer.reset();
        log.closed();
    }
    stage.finish([server]);
}

fn a_task_that_gives_up_has_written_nothing(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let accepted = clog(&handle, &[1; 10_000]);
    let woken = Arc::new(Count::default());
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    {
        // Asked again and again it takes one place, and none once it is dropped.
        let mut given_up = pin!(handle.write_async(vec![2; 60_000]));
        for _ in 0..1_000 {
            assert_eq!(given_up.as_mut().poll(&mut context), Poll::Pending);
        }
        assert_eq!(Arc::strong_count(&woken), 3);
    }
    assert_eq!(Arc::strong_count(&woken), 2);
    let mut kept = pin!(handle.write_async(vec![3; 60_000]));
    let mut other = pin!(handle.writable(60_000));
    assert!(kept.as_mut().poll(&mut context).is_pending() && other.as_mut().poll(&mut context).is_pending());
    assert_eq!(Arc::strong_count(&woken), 4);
    let first = peer.receive(accepted);
    assert!(first.iter().all(|byte| *byte == 1));
    wait_until("both were woken", || woken.0.load(Ordering::SeqCst) == 2);
    assert_eq!(kept.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    assert!(peer.receive(60_000).iter().all(|byte| *byte == 3));
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn on_a_reactors_thread_a_write_does_not_wait(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let (told, results) = mpsc::channel();
    let told = Arc::new(Mutex::new(told));
    let server = stage.listen(move |_| {
        let told = told.clone();
        recorder.probe().open(move |io| {
            let handle = io.handle();
            let results = [
                handle.write(b"x"),
                handle.write_timeout(b"x", Duration::MAX),
                handle.write_bytes(Bytes::from_static(b"x")),
                handle.write_vectored(&[IoSlice::new(b"x")]),
            ];
            results.into_iter().for_each(|result| told.lock().unwrap().send(result).unwrap());
            handle.try_write(b"y").unwrap();
        })
    });
    let peer = Peer::connect(server.local_addr());
    for _ in 0..4 {
        let error = results.recv().unwrap().unwrap_err();
        assert!(
            matches!(error, HandleError::OnReactorThread { .. }) && error.to_string().contains("try_write")
        );
    }
    log.opened();
    assert_eq!(peer.receive(1), b"y");
    drop(peer);
    stage.finish([server]);
}

/// Its own outbox is small, but its peer is not slow.
fn the_burst_of_one_turn_is_no_slow_peer(ground: &Ground) {
    const BURST: usize = 1_000_000;
    let stage = ground.single();
    let (log, recorder) = log();
    let listener = Arc::new(Mutex::new(None::<Handle>));
    let options = StreamOptions::new().outbox_limit(1_000).output_limits(BURST, 64 << 20);
    let server = stage.listen_stream(options, move |_| {
        let listener = listener.clone();
        recorder.probe().bytes(move |io, bytes| {
            match bytes {
                b"!" => {
                    let listener = listener.lock().unwrap().clone().unwrap();
                    pattern(BURST).chunks(1_000).for_each(|chunk| listener.try_write(chunk).unwrap());
                }
                _ => *listener.lock().unwrap() = Some(io.handle()),
            }
            bytes.len()
        })
    });
    let (listener, speaker) = (Peer::connect(server.local_addr()), Peer::connect(server.local_addr()));
    listener.send(b"listens");
    log.find(|event| matches!(event, Event::Bytes(_)).then_some(()));
    for _ in 0..3 {
        speaker.send(b"!");
        assert!(listener.receive(BURST) == pattern(BURST));
    }
    drop((listener, speaker));
    stage.finish([server]);
}

fn what_is_pending_is_told(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let accepted = clog(&handle, &[1; 10_000]);
    let pending = handle.pending();
    assert!(pending > 90_000 && pending <= accepted, "{pending} of {accepted}");
    peer.receive(accepted);
    wait_until("nothing is pending", || handle.pending() == 0);
    assert!(handle.room() >= 100_000);
    drop(peer);
    stage.finish([server]);
}

fn a_close_that_takes_too_long_can_be_cut_short(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    clog(&handle, &[1; 10_000]);
    handle.close().unwrap();
    assert!(handle.is_closed());
    assert_eq!(handle.notify(), Err(HandleError::Closed));
    handle.abort().unwrap();
    assert_eq!(log.closed(), Ending::Aborted);
    drop(peer);
    stage.finish([server]);
}

fn a_task_is_told_by_the_waker_it_came_with_last(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(clogged(), move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let accepted = clog(&handle, &[1; 10_000]);
    let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let mut waiting = pin!(handle.write_async(vec![2; 60_000]));
    for count in [&first, &last] {
        let waker = Waker::from(count.clone());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    peer.receive(accepted);
    wait_until("the last waker was called", || last.0.load(Ordering::SeqCst) == 1);
    assert_eq!(first.0.load(Ordering::SeqCst), 0);
    assert_eq!(block_on(waiting), Ok(()));
    peer.receive(60_000);
    drop(peer);
    stage.finish([server]);
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        thread::park();
    }
}
