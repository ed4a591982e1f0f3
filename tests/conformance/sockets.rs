//! Listening sockets that are handed over or shared, and those without a file.

use crate::ground::{Ground, Peer};
use crate::probe::Echo;
use crate::servers::is_served;
use crate::{Suite, suite};
#[cfg(target_os = "linux")]
use std::sync::mpsc;
use trochus::net::{Address, ListenOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "sockets",
            Ground::has_sockets,
            [
                its_sockets_are_handed_over,
                one_owner_comes_while_the_other_leaves,
                a_socket_from_outside_is_served
            ]
        ),
        suite!("sockets", Ground::is_tcp, [a_port_is_shared_by_those_who_ask]),
        #[cfg(target_os = "linux")]
        suite!("sockets", Ground::is_unix, [a_name_without_a_file_is_listened_on]),
    ]
}

fn its_sockets_are_handed_over(ground: &Ground) {
    let (old, new) = (ground.stage(), ground.stage());
    let server = old.listen(|_| Echo);
    let address = server.local_addr().clone();
    let sockets = server.sockets().unwrap();
    assert_eq!(sockets.len(), if ground.is_tcp() && cfg!(target_os = "linux") { 2 } else { 1 });
    old.finish([server]);
    // Between the two, connections queue up.
    let waiting: Vec<Peer> = (0..6).map(|_| Peer::connect(&address)).collect();
    let later = new.runtime.listen_on(&ListenOptions::new(), sockets, |_| Echo).unwrap();
    assert_eq!(*later.local_addr(), address);
    let more: Vec<Peer> = (0..6).map(|_| Peer::connect(&address)).collect();
    waiting.iter().chain(&more).for_each(is_served);
    drop((waiting, more));
    is_served(&Peer::connect(&address));
    new.finish([later]);
    if let Address::Unix(path) = address {
        // Nobody knows who is the last to need it.
        std::fs::remove_file(path).unwrap();
    }
}

fn one_owner_comes_while_the_other_leaves(ground: &Ground) {
    for leaves_first in [true, false] {
        change_owners(ground, leaves_first);
    }
}

fn change_owners(ground: &Ground, leaves_first: bool) {
    let (old, new) = (ground.stage(), ground.stage());
    let server = old.listen(|_| Echo);
    let address = server.local_addr().clone();
    let sockets = server.sockets().unwrap();
    let connect = || (0..6).map(|_| Peer::connect(&address)).collect::<Vec<Peer>>();
    let mut leaving = Some(server);
    if leaves_first {
        drop(leaving.take());
    }
    let mut peers = connect();
    let later = new.runtime.listen_on(&ListenOptions::new(), sockets, |_| Echo).unwrap();
    peers.extend(connect());
    // Or both accept for a while.
    drop(leaving);
    peers.extend(connect());
    peers.iter().for_each(is_served);
    drop(peers);
    old.finish([]);
    is_served(&Peer::connect(&address));
    new.finish([later]);
    if let Address::Unix(path) = address {
        std::fs::remove_file(path).unwrap();
    }
}

fn a_socket_from_outside_is_served(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(64);
    listener.set_nonblocking(true).unwrap();
    let server = stage.runtime.listen_on(&ListenOptions::new(), [listener], |_| Echo).unwrap();
    assert_eq!(*server.local_addr(), address);
    let peers: Vec<Peer> = (0..4).map(|_| Peer::connect(&address)).collect();
    peers.iter().for_each(is_served);
    // One socket, two reactors: both have some.
    let opened = |index| stage.runtime.reactor(index).metrics().connections_opened;
    assert_eq!((opened(0), opened(1)), (2, 2));
    drop(peers);
    let silent = Peer::unconnected(&address);
    #[cfg(target_os = "linux")]
    {
        let error = stage.runtime.listen_on(&ListenOptions::new(), [silent.0], |_| Echo).unwrap_err();
        assert!(error.to_string().contains("does not listen"), "{error}");
    }
    let none: [std::net::TcpListener; 0] = [];
    assert!(stage.runtime.listen_on(&ListenOptions::new(), none, |_| Echo).is_err());
    stage.finish([server]);
    if let Address::Unix(path) = address {
        std::fs::remove_file(path).unwrap();
    }
}

fn a_port_is_shared_by_those_who_ask(ground: &Ground) {
    let (one, other) = (ground.stage(), ground.single());
    let sharing = ListenOptions::new().reuse_port(true);
    let first = one.listen_with(&sharing, |_| Echo);
    let address = first.local_addr().clone();
    let second = other.runtime.listen_with(&sharing, &address, |_| Echo).unwrap();
    assert!(other.runtime.listen(&address, |_| Echo).is_err());
    for _ in 0..10 {
        is_served(&Peer::connect(&address));
    }
    drop(first);
    one.finish([]);
    is_served(&Peer::connect(&address));
    other.finish([second]);
}

#[cfg(target_os = "linux")]
fn a_name_without_a_file_is_listened_on(ground: &Ground) {
    let stage = ground.stage();
    let name = format!("unix:@trochus-conformance-{}", std::process::id());
    let server = stage.runtime.listen(&name, |_| Echo).unwrap();
    assert_eq!(server.local_addr().to_string(), name);
    let (log, recorder) = crate::probe::log();
    let (tell, told) = mpsc::channel();
    let probe = recorder.probe().open(move |io| tell.send(io.peer_addr().to_string()).unwrap());
    let client = stage.runtime.connect(&name, move || probe).unwrap();
    log.opened();
    client.write(b"x").unwrap();
    assert_eq!(log.bytes(1), b"x");
    assert_eq!(told.recv().unwrap(), name);
    assert!(stage.runtime.listen(&name, |_| Echo).is_err());
    client.close().unwrap();
    log.closed();
    stage.finish([server]);
}
