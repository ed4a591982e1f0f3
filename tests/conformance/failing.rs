//! A reactor that ends without being asked to: it is noticed, and nothing goes on pretending.
#![allow(unsafe_code)]

use crate::accounts::{DEADLINE, wait_until};
use crate::ground::{Ground, Peer, Stage, Transport};
use crate::probe::{Echo, Ending, log};
use crate::{Suite, suite};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use trochus::net::{Handle, ReactorFailure, StreamOptions};
use trochus::{Error, Reactor};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "failing",
            |_| true,
            [
                a_reactor_that_fails_is_told_of,
                everybody_knows_while_one_is_being_told,
                what_it_had_is_lost_and_said_to_be,
                the_others_serve_on,
                when_all_have_failed_nothing_pretends,
                a_failure_ends_the_wait_for_a_signal,
            ]
        ),
        suite!(
            "failing",
            |ground| ground.transport == Transport::Tcp4,
            [whoever_accepts_for_others_says_that_it_is_gone]
        ),
    ]
}

/// Takes the descriptor away from under the backend.
fn break_backend(reactor: &mut Reactor) {
    let nothing = File::open("/dev/null").unwrap();
    // SAFETY: both descriptors are open. The one that is replaced stays open, as something else, until the reactor closes it.
    assert!(unsafe { libc::dup2(nothing.as_raw_fd(), reactor.as_raw_fd()) } >= 0);
}

fn fail(stage: &Stage, index: usize) {
    stage.runtime.reactor(index).run(break_backend).unwrap();
    wait_until("the failure is told of", || {
        stage.runtime.failures().iter().any(|failure| failure.reactor == index)
    });
}

fn a_reactor_that_fails_is_told_of(ground: &Ground) {
    let (tell, told) = mpsc::channel::<ReactorFailure>();
    let stage = ground.stage_with(ground.runtime_builder().on_failure(move |failure| {
        tell.send(failure.clone()).unwrap();
    }));
    stage.runtime.health().unwrap();
    let mut awaited = stage.runtime.wait_async();
    assert!(awaited.try_take().is_none());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.runtime.wait());
        fail(&stage, 1);
        for result in [waiting.join().unwrap(), awaited.wait(), stage.runtime.health()] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::ReactorFailed { reactor: 1, .. }), "{error}");
            assert!(error.to_string().contains("wait for completions"), "{error}");
        }
    });
    let failure = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(stage.runtime.failures(), [failure]);
    assert_eq!(stage.metrics().reactor_failures, 1);
    // What comes later finds it as it is.
    assert!(stage.runtime.wait().is_err() && stage.runtime.wait_async().wait().is_err());
    let error = stage.runtime.shutdown(DEADLINE).unwrap_err();
    assert!(matches!(error, Error::ReactorFailed { reactor: 1, .. }));
    assert!(told.recv().is_err(), "told of once");
}

/// Whoever is told of a failure takes his time, and what the reactor had is given back only then.
fn everybody_knows_while_one_is_being_told(ground: &Ground) {
    let (tell, told) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (released, in_vain) = (Mutex::new(released), Arc::new(AtomicBool::new(false)));
    let waited_in_vain = in_vain.clone();
    let stage = ground.stage_with(ground.runtime_builder().on_failure(move |_| {
        tell.send(()).unwrap();
        let ended = released.lock().unwrap().recv_timeout(DEADLINE);
        waited_in_vain.store(ended == Err(mpsc::RecvTimeoutError::Timeout), Ordering::SeqCst);
    }));
    let server = stage.listen(|_| Echo);
    std::thread::scope(|scope| {
        let (begin, begun) = mpsc::channel();
        let waiting = [(); 8].map(|()| {
            let (stage, begin) = (&stage, begin.clone());
            scope.spawn(move || {
                begin.send(()).unwrap();
                stage.runtime.wait()
            })
        });
        for _ in &waiting {
            begun.recv().unwrap();
            // Time for them to wait; who comes later finds it as it is.
            stage.runtime.run_on(0, |_| ()).wait().unwrap();
        }
        stage.runtime.reactor(1).run(break_backend).unwrap();
        told.recv_timeout(DEADLINE).unwrap();
        waiting.into_iter().for_each(|waiting| assert!(waiting.join().unwrap().is_err()));
        for _ in 0..4 {
            let connecting = stage.runtime.connect_async(&StreamOptions::new(), server.local_addr(), || Echo);
            let client = connecting.wait_timeout(DEADLINE).expect("it goes to one that is there").unwrap();
            client.close().unwrap();
        }
    });
    drop(release);
    assert!(stage.runtime.shutdown(DEADLINE).is_err());
    assert!(!in_vain.load(Ordering::SeqCst), "it had to wait for the end");
}

fn what_it_had_is_lost_and_said_to_be(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(8);
    let (log, recorder) = log();
    let connect = |index, recorder: crate::probe::Recorder| -> (Handle, Peer) {
        let options = StreamOptions::new();
        let handle = stage.runtime.connect_on(index, &options, &address, move || recorder.probe()).unwrap();
        (handle, Peer::over(listener.accept().unwrap().0))
    };
    let (lost, lost_peer) = connect(1, recorder.clone());
    let (kept, kept_peer) = connect(0, recorder);
    fail(&stage, 1);
    assert_eq!(log.closed(), Ending::Shutdown);
    assert!(lost.is_closed() && lost.write(b"x").is_err() && lost.notify().is_err());
    // A reset, or for a Unix-domain socket an end.
    let end = std::io::Read::read(&mut &lost_peer.0, &mut [0; 8]);
    assert!(if ground.has_resets() { end.is_err() } else { matches!(end, Ok(0)) }, "{end:?}");
    assert!(stage.runtime.reactor(1).run(|_| ()).is_err());
    kept.write(b"here").unwrap();
    assert_eq!(kept_peer.receive(4), b"here");
    let metrics = stage.metrics();
    drop(kept_peer);
    assert!(stage.runtime.shutdown(DEADLINE).is_err());
    assert_eq!((metrics.connections_opened, metrics.connections_closed), (2, 1));
}

fn is_served(peer: &Peer) {
    peer.send(b"served?");
    assert_eq!(peer.receive(7), b"served?");
}

fn the_others_serve_on(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    // Of a Unix-domain server the first reactor accepts for all.
    fail(&stage, 1);
    assert!(server.is_accepting());
    for _ in 0..20 {
        is_served(&Peer::connect(server.local_addr()));
    }
    let later = stage.listen(|_| Echo);
    for _ in 0..4 {
        is_served(&Peer::connect(later.local_addr()));
        let (log, recorder) = log();
        let client = stage.runtime.connect(later.local_addr(), move || recorder.probe()).unwrap();
        log.opened();
        client.write(b"x").unwrap();
        assert_eq!(log.bytes(1), b"x");
        client.close().unwrap();
        assert_eq!(log.closed(), Ending::Closed);
    }
    let named = stage.runtime.connect_on(1, &StreamOptions::new(), later.local_addr(), || Echo);
    assert!(matches!(named, Err(Error::ReactorFailed { reactor: 1, .. })));
    let stopped = server.stop(Duration::from_secs(20)).unwrap();
    assert_eq!(stopped.cut_off, 0);
    drop(later);
    assert!(stage.runtime.shutdown(DEADLINE).is_err());
}

fn when_all_have_failed_nothing_pretends(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    fail(&stage, 1);
    fail(&stage, 0);
    assert!(!server.is_accepting());
    assert!(Peer::try_connect(server.local_addr()).is_err());
    let connect = stage.runtime.connect(server.local_addr(), || Echo).unwrap_err();
    let listen = stage.runtime.listen(ground.fresh_address(), |_| Echo).unwrap_err();
    for error in [connect, listen] {
        assert!(matches!(error, Error::ReactorFailed { .. }), "{error}");
    }
    assert_eq!(server.stop(Duration::MAX).unwrap().cut_off, 0);
    assert_eq!(stage.runtime.failures().len(), 2);
    assert!(stage.runtime.shutdown(Duration::MAX).is_err());
}

fn a_failure_ends_the_wait_for_a_signal(ground: &Ground) {
    let stage = ground.stage();
    let reactor = stage.runtime.reactor(0).clone();
    let running = std::thread::spawn(move || stage.runtime.run_until_interrupted());
    reactor.run(break_backend).unwrap();
    let error = running.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::ReactorFailed { reactor: 0, .. }));
}

fn whoever_accepts_for_others_says_that_it_is_gone(ground: &Ground) {
    let stage = ground.stage();
    let path = crate::ground::fresh_path();
    let server = stage.runtime.listen(&path, |_| Echo).unwrap();
    is_served(&Peer::connect(server.local_addr()));
    fail(&stage, 0);
    assert!(!server.is_accepting() && !path.exists());
    // Another one can be opened in its place.
    let server = stage.runtime.listen(&path, |_| Echo).unwrap();
    is_served(&Peer::connect(server.local_addr()));
    drop(server);
    assert!(stage.runtime.shutdown(DEADLINE).is_err());
}
