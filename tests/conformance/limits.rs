//! The limit on connections.

use crate::accounts::wait_until;
use crate::ground::{Ground, Peer};
use crate::probe::{Echo, log};
use crate::{Suite, suite};
use trochus::net::ListenOptions;

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "limits",
        |_| true,
        [who_is_too_many_is_refused_until_somebody_leaves, an_idle_reactor_sleeps]
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
