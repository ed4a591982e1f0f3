//! The limit on connections.

use crate::accounts::wait_until;
use crate::ground::{Ground, Peer};
use crate::probe::{Echo, log};
use crate::{Suite, suite};
use std::time::Duration;
use trochus::net::ListenOptions;

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "limits",
        |_| true,
        [
            who_is_too_many_is_refused_until_somebody_leaves,
            one_peer_has_so_many_and_no_more,
            one_peer_comes_so_often_and_no_more,
            an_idle_reactor_sleeps,
        ]
    )]
}

fn who_is_too_many_is_refused_until_somebody_leaves(ground: &Ground) {
    const MOST: usize = 3;
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_with(&ListenOptions::new().max_connections(MOST), move |_| recorder.echo());
    let served = |peer: &Peer| {
        peer.send(b"served?");
        assert_eq!(peer.receive(7), b"served?");
    };
    for round in 1..=3 {
        let peers: Vec<Peer> = (0..MOST).map(|_| Peer::connect(server.local_addr())).collect();
        peers.iter().for_each(served);
        assert_eq!(server.connections(), MOST);
        Peer::is_refused_at(server.local_addr());
        Peer::is_refused_at(server.local_addr());
        peers.iter().for_each(served);
        assert_eq!(stage.metrics().connections_refused, 2 * round);
        drop(peers);
        (0..MOST).for_each(|_| drop(log.closed()));
        wait_until("the seats are free", || server.connections() == 0);
    }
    let metrics = stage.finish([server]);
    assert_eq!(metrics.connections_opened, 3 * MOST as u64);
}

fn one_peer_has_so_many_and_no_more(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = ListenOptions::new().max_connections_per_peer(2);
    let server = stage.listen_with(&options, move |_| recorder.echo());
    let served = |peer: &Peer| {
        peer.send(b"served?");
        assert_eq!(peer.receive(7), b"served?");
    };
    let mut peers: Vec<Peer> = (0..2).map(|_| Peer::connect(server.local_addr())).collect();
    peers.iter().for_each(served);
    // Whoever comes over a Unix-domain socket has no address, and no such limit.
    let limited = u64::from(ground.is_tcp());
    for round in 1..=2 {
        if limited == 0 {
            peers.push(Peer::connect(server.local_addr()));
            served(&peers[peers.len() - 1]);
            continue;
        }
        Peer::is_refused_at(server.local_addr());
        assert_eq!((stage.metrics().peers_over_limit, stage.metrics().connections_refused), (round, round));
        drop(peers.pop());
        log.closed();
        wait_until("the seat is free", || server.connections() == 1);
        peers.push(Peer::connect(server.local_addr()));
        peers.iter().for_each(served);
    }
    drop(peers);
    assert_eq!(stage.finish([server]).peers_over_limit, 2 * limited);
}

fn one_peer_comes_so_often_and_no_more(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = ListenOptions::new().max_rate_per_peer(3, Duration::from_secs(3600));
    let server = stage.listen_with(&options, move |_| recorder.probe());
    for _ in 0..3 {
        drop(Peer::connect(server.local_addr()));
        log.closed();
    }
    if ground.is_tcp() {
        Peer::is_refused_at(server.local_addr());
    } else {
        drop(Peer::connect(server.local_addr()));
        log.closed();
    }
    assert_eq!(stage.finish([server]).peers_over_limit, u64::from(ground.is_tcp()));
}

/// Nothing to do must cost nothing: not a turn, however long it takes.
fn an_idle_reactor_sleeps(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let peers: Vec<Peer> = (0..10).map(|_| Peer::connect(server.local_addr())).collect();
    for peer in &peers {
        peer.send(b"x");
        assert_eq!(peer.receive(1), b"x");
    }
    let mut turns = stage.metrics().turns;
    wait_until("no turn happens for a while", || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        let before = std::mem::replace(&mut turns, stage.metrics().turns);
        before == turns
    });
    drop(peers);
    stage.finish([server]);
}
