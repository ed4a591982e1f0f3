//! Addresses within the process.

use crate::accounts::{DEADLINE, wait_until};
use crate::ground::{Ground, Transport};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::time::Duration;
use trochus::Error;
use trochus::net::{Address, ListenOptions, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "names",
        |ground| ground.transport == Transport::Memory,
        [
            a_name_is_one_servers,
            who_knocks_in_vain_is_refused,
            who_connects_from_elsewhere_is_served_by_all_in_turn,
            who_connects_from_a_serving_reactor_stays_there,
            a_server_that_closes_resets_nobody_who_has_knocked,
            a_full_backlog_is_tried_again,
            two_ends_of_a_pair_meet_wherever_they_are,
        ]
    )]
}

fn a_name_is_one_servers(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.runtime.listen("memory:a name of its own", |_| Echo).unwrap();
    assert_eq!(*server.local_addr(), Address::Memory("a name of its own".into()));
    let error = stage.runtime.listen("memory:a name of its own", |_| Echo).unwrap_err();
    assert!(
        matches!(error, Error::Listen { .. }) && error.to_string().contains("a name of its own"),
        "{error}"
    );
    server.close();
    wait_until("it is free again", || stage.runtime.listen("memory:a name of its own", |_| Echo).is_ok());
    // Those without a name have different ones, and none that was there before.
    let (first, second) = (stage.listen(|_| Echo), stage.listen(|_| Echo));
    assert_ne!(first.local_addr(), second.local_addr());
    let before = first.local_addr().clone();
    first.close();
    let third = stage.listen(|_| Echo);
    assert_ne!(*third.local_addr(), before);
    stage.finish([second, third]);
}

fn who_knocks_in_vain_is_refused(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let error = stage.runtime.connect("memory:nobody", move || recorder.probe()).unwrap_err();
    assert!(error.to_string().contains("memory:nobody"), "{error}");
    assert!(
        matches!(error, Error::Connect { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused)
    );
    assert!(log.rest().is_empty());
    stage.finish([]);
}

fn who_connects_from_elsewhere_is_served_by_all_in_turn(ground: &Ground) {
    let (stage, elsewhere) = (ground.stage(), ground.single());
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| io.write(std::thread::current().name().unwrap_or_default().as_bytes()))
    });
    let (heard, listener) = crate::probe::log();
    let mut names = Vec::new();
    for _ in 0..6 {
        let listener = listener.clone();
        let handle = elsewhere.runtime.connect(server.local_addr(), move || listener.probe()).unwrap();
        names.push(heard.bytes_after_open(9));
        handle.close().unwrap();
        assert_eq!(heard.closed(), Ending::Closed);
    }
    names.sort();
    names.dedup();
    assert_eq!(names, [b"trochus-0", b"trochus-1"]);
    drop(log);
    elsewhere.finish([]);
    stage.finish([server]);
}

fn who_connects_from_a_serving_reactor_stays_there(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| io.write(std::thread::current().name().unwrap_or_default().as_bytes()))
    });
    for reactor in [0, 1, 1, 0, 0, 1] {
        let (heard, listener) = crate::probe::log();
        let options = StreamOptions::new();
        let handle = stage
            .runtime
            .connect_on(reactor, &options, server.local_addr(), move || listener.probe())
            .unwrap();
        assert_eq!(heard.bytes_after_open(9), format!("trochus-{reactor}").as_bytes());
        handle.close().unwrap();
        heard.closed();
    }
    drop(log);
    stage.finish([server]);
}

fn a_server_that_closes_resets_nobody_who_has_knocked(ground: &Ground) {
    let (stage, elsewhere) = (ground.stage(), ground.stage());
    let server = stage.listen(|_| Echo);
    let (log, recorder) = log();
    let pending: Vec<_> = (0..50)
        .map(|_| {
            let recorder = recorder.clone();
            let hello = move || recorder.probe().open(|io| io.write(b"hello"));
            elsewhere.runtime.connect_async(&StreamOptions::new(), server.local_addr(), hello)
        })
        .collect();
    let address = server.local_addr().clone();
    server.close();
    let mut served = 0;
    for connected in pending {
        // Who came too late is refused, and not let in to be reset.
        if connected.wait().is_ok() {
            served += 1;
        }
    }
    for _ in 0..served {
        let (_, end) = log.find(|event| match event {
            Event::Bytes(bytes) => Some((bytes, None)),
            Event::Closed(ending) => Some((Vec::new(), Some(ending))),
            _ => None,
        });
        assert_eq!(end, None, "somebody who was let in was not served");
    }
    wait_until("the name is gone", || elsewhere.runtime.connect(&address, || Echo).is_err());
    elsewhere.shutdown(Duration::ZERO);
    stage.finish([]);
}

fn a_full_backlog_is_tried_again(ground: &Ground) {
    let (stage, elsewhere) = (ground.single(), ground.single());
    let server = stage.listen_with(&ListenOptions::new().backlog(1), |_| Echo);
    // Nobody is let in while the reactor does something else.
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    stage.runtime.reactor(0).run(move |_| _ = held.recv_timeout(DEADLINE)).unwrap();
    let pending: Vec<_> = (0..10)
        .map(|_| elsewhere.runtime.connect_async(&StreamOptions::new(), server.local_addr(), || Echo))
        .collect();
    drop(go_on);
    for connected in pending {
        connected.wait().unwrap().abort().unwrap();
    }
    wait_until("all were let in", || stage.metrics().connections_opened == 10);
    elsewhere.finish([]);
    stage.finish([server]);
}

/// On one reactor, on two, and on those of two runtimes; what is sent first waits for the other end.
fn two_ends_of_a_pair_meet_wherever_they_are(ground: &Ground) {
    let (stage, elsewhere) = (ground.stage(), ground.single());
    for (there, reactor) in [(&stage, 0), (&stage, 1), (&elsewhere, 0)] {
        let (log, recorder) = log();
        let (one, other) = trochus::net::pair();
        let hello = recorder.clone();
        let options = StreamOptions::new();
        let first = stage
            .runtime
            .carry_on(0, &options, one, move || hello.probe().open(|io| io.write(b"hello")))
            .unwrap();
        log.opened();
        let second = there.runtime.carry_on(reactor, &options, other, || Echo).unwrap();
        assert_eq!(log.bytes(5), b"hello");
        assert_eq!(
            (first.peer_addr(), second.peer_addr()),
            (&Address::Memory("".into()), &Address::Memory("".into()))
        );
        second.close().unwrap();
        assert_eq!(log.closed(), Ending::ByPeer);
    }
    elsewhere.finish([]);
    stage.finish([]);
}
