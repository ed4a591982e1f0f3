//! Who reaches a connection, how, and in which order what they ask for happens.

use crate::accounts::{DEADLINE, INTENDED, wait_until};
use crate::ground::{Ground, Peer};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::net::{Address, ConnectionId, Handle, HandleError, Handler, Io};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "reach",
        |_| true,
        [
            what_is_asked_for_happens_in_order,
            what_is_accepted_while_the_connection_closes_arrives,
            a_handle_tells_whose_it_is,
            connections_reach_each_other_on_their_reactor,
            a_reactor_does_something_and_says_what_came_of_it,
        ]
    )]
}

fn a_reactor_does_something_and_says_what_came_of_it(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let peer = Peer::connect(server.local_addr());
    wait_until("it is there", || stage.metrics().connections() == 1);
    let asked: Vec<_> = (0..stage.runtime.reactors())
        .map(|index| stage.runtime.run_on(index, |reactor| (thread::current().id(), reactor.connections())))
        .collect();
    let answers: Vec<_> = asked.into_iter().map(|asked| asked.wait().unwrap()).collect();
    assert_eq!(answers.iter().map(|(_, connections)| connections).sum::<usize>(), 1);
    assert!(answers.iter().all(|(id, _)| *id != thread::current().id()));
    assert_eq!(answers.iter().map(|(id, _)| id).collect::<HashSet<_>>().len(), answers.len());
    // It is done, whether anybody wants to know or not.
    let (tell, told) = std::sync::mpsc::channel();
    drop(stage.runtime.run_on(0, move |_| tell.send(7)));
    assert_eq!(told.recv_timeout(DEADLINE), Ok(7));
    let panics = stage.runtime.run_on(0, |_| -> u8 { panic!("{INTENDED}") });
    assert!(matches!(panics.wait(), Err(trochus::Error::Stopped)));
    assert_eq!(stage.runtime.run_on(0, |_| 8).wait().unwrap(), 8);
    drop(peer);
    stage.finish_after_panics([server]);
}

fn what_is_asked_for_happens_in_order(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().notify(|io| io.write(b" last words")));
    for ends in [Handle::shutdown_write, Handle::close] {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        handle.write(b"first").unwrap();
        handle.notify().unwrap();
        handle.pause_reading().unwrap();
        handle.resume_reading().unwrap();
        ends(&handle).unwrap();
        // At once, and not only when the reactor has come to it.
        assert_eq!(handle.try_write(b"too late"), Err(HandleError::Closed));
        assert_eq!(handle.room(), 0);
        assert_eq!(peer.receive_to_end(), b"first last words");
        assert_eq!(handle.try_write(b"too late"), Err(HandleError::Closed));
        drop(peer);
        assert_eq!(log.closed(), Ending::Closed);
    }
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    handle.resume_reading().unwrap();
    handle.pause_reading().unwrap();
    handle.notify().unwrap();
    assert!(matches!(log.next(), Event::Notified));
    peer.send(b"unread");
    assert_eq!(peer.receive(11), b" last words");
    handle.notify().unwrap();
    log.find(|event| match event {
        Event::Notified => Some(()),
        Event::Drained => None,
        other => panic!("{other:?}"),
    });
    handle.resume_reading().unwrap();
    assert_eq!(log.bytes(6), b"unread");
    assert_eq!(peer.receive(11), b" last words");
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn what_is_accepted_while_the_connection_closes_arrives(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            if bytes[0] == b'c' {
                io.close()
            } else {
                io.shutdown_write()
            }
            bytes.len()
        })
    });
    for round in 0..60 {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        let writer = thread::spawn(move || {
            (0u64..).take_while(|number| handle.write(&number.to_le_bytes()).is_ok()).count()
        });
        peer.send(if round % 2 == 0 { b"c" } else { b"s" });
        let received = peer.receive_to_end();
        let accepted = writer.join().unwrap();
        assert_eq!(received.len(), accepted * 8, "in round {round}");
        drop(peer);
        assert_eq!(log.closed(), Ending::Closed);
    }
    stage.finish([server]);
}

fn a_handle_tells_whose_it_is(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let ids = Arc::new(Mutex::new(Vec::new()));
    let server = stage.listen({
        let ids = ids.clone();
        move |_| {
            let ids = ids.clone();
            recorder.probe().open(move |io| ids.lock().unwrap().push(io.id()))
        }
    });
    let peers: Vec<_> = (0..6).map(|_| Peer::connect(server.local_addr())).collect();
    let handles: Vec<_> = peers.iter().map(|_| log.opened()).collect();
    wait_until("all have opened", || ids.lock().unwrap().len() == peers.len());
    let known: HashSet<_> = ids.lock().unwrap().iter().copied().collect();
    assert_eq!(known, handles.iter().map(Handle::id).collect());
    assert_eq!(known.len(), peers.len());
    assert_eq!(
        handles.iter().cloned().chain(handles.iter().cloned()).collect::<HashSet<_>>().len(),
        peers.len()
    );
    assert!(handles[0] == handles[0].clone() && handles[0] != handles[1]);
    for handle in &handles {
        assert_eq!(handle.local_addr(), Some(server.local_addr()));
        assert_eq!(handle.pending(), 0);
        assert!(handle.room() >= trochus::config::OUTBOX_BYTES);
    }
    if ground.is_tcp() {
        let here: HashSet<_> = peers.iter().map(|peer| peer.0.local_addr().unwrap().as_socket()).collect();
        let told = handles.iter().map(|handle| match handle.peer_addr() {
            Address::Tcp(address) => Some(*address),
            _ => None,
        });
        assert_eq!(here, told.collect());
    }
    drop(peers);
    stage.finish([server]);
    assert_eq!((handles[0].room(), handles[0].pending()), (0, 0));
}

/// Tells everybody what one of them says, without a handle.
struct Chat {
    said: usize,
    room: Rc<RefCell<Vec<ConnectionId>>>,
}

impl Handler for Chat {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.room.borrow_mut().push(io.id());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let (text, room, own) = (bytes.to_vec(), self.room.clone(), io.id());
        io.defer(move |reactor| {
            for id in room.borrow().iter().copied().filter(|id| *id != own) {
                reactor.with_connection(id, |io| io.write(&text));
            }
            let said = reactor.with_handler(own, |chat: &mut Chat, io| {
                chat.said += text.len();
                assert_eq!(io.id(), own);
                chat.said
            });
            assert!(said.is_some_and(|said| said >= text.len()));
            assert_eq!(reactor.with_handler(own, |_: &mut Echo, _| ()), None, "it is no such handler");
        });
        bytes.len()
    }
}

fn connections_reach_each_other_on_their_reactor(ground: &Ground) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    let room = Rc::<RefCell<Vec<ConnectionId>>>::default();
    let listener = reactor
        .listen(ground.fresh_address(), {
            let room = room.clone();
            move |_| Chat { said: 0, room: room.clone() }
        })
        .unwrap();
    let peers: Vec<_> = (0..5).map(|_| Peer::connect(listener.local_addr())).collect();
    while room.borrow().len() < peers.len() {
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    let talk = thread::spawn(move || {
        for (number, peer) in peers.iter().enumerate() {
            peer.send(b"hello all");
            for (_, other) in peers.iter().enumerate().filter(|(other, _)| *other != number) {
                assert_eq!(other.receive(9), b"hello all");
            }
        }
        peers
    });
    while !talk.is_finished() {
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    let peers = talk.join().unwrap();
    let ids = room.borrow().clone();
    let before = reactor.metrics();
    // A stream in memory comes from another thread.
    assert!(before.commands == 0 || !ground.has_sockets());
    assert_eq!(reactor.with_connection(ids[0], |io| io.close()), Some(()));
    assert_eq!(reactor.with_connection(ids[0], |_| ()), None, "it is being closed");
    assert_eq!(reactor.with_connection(ids[1], |_| panic!("{INTENDED}")), None::<()>);
    assert_eq!(reactor.metrics().handler_panics, 1);
    drop(peers);
    while reactor.connections() > 0 {
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    // Others have their places now.
    let others: Vec<_> = ids.iter().map(|_| Peer::connect(listener.local_addr())).collect();
    while reactor.connections() < others.len() {
        reactor.turn(Some(Duration::from_millis(1))).unwrap();
    }
    assert!(ids.iter().all(|id| reactor.with_connection(*id, |_| ()).is_none()));
    drop(others);
    reactor.drain(DEADLINE).unwrap();
    assert_eq!(reactor.outstanding(), Default::default());
}
