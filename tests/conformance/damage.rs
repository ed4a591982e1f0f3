//! A handler that takes away output which was written before ends its own connection and harms nobody else.

use crate::ground::{Ground, Peer};
use crate::panics::costs_one_connection;
use crate::probe::{Ending, Log, Probe, log};
use crate::{Suite, suite};
use bytes::Bytes;
use trochus::net::Io;

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "damage",
            |_| true,
            [
                in_on_open,
                in_on_bytes,
                in_on_bytes_that_are_shown_again,
                in_on_end,
                in_on_notify,
                in_on_timer,
                hidden_behind_more_output,
                in_one_go_with_a_close,
                taking_back_what_lies_behind_is_none,
            ]
        ),
        suite!("damage", Ground::has_sockets, [of_what_another_thread_wrote]),
    ]
}

fn damage(io: &mut Io<'_>) {
    io.write(b"head");
    io.write_bytes(Bytes::from_static(b"body"));
    io.out().clear();
}

#[track_caller]
fn damages(
    ground: &Ground,
    probe: impl Fn(Probe) -> Probe + Send + Sync + 'static,
    provoke: impl FnOnce(&Peer, &Log),
) {
    assert_eq!(costs_one_connection(ground, Ending::OutputDamaged, probe, provoke).handler_panics, 0);
}

fn in_on_open(ground: &Ground) {
    damages(ground, |probe| probe.open(damage), |_, _| {});
}

fn in_on_bytes(ground: &Ground) {
    let probe = |probe: Probe| {
        probe.bytes(|io, bytes| {
            damage(io);
            bytes.len()
        })
    };
    damages(ground, probe, |victim, _| victim.send(b"x"));
}

fn in_on_bytes_that_are_shown_again(ground: &Ground) {
    let probe = |probe: Probe| {
        let mut calls = 0;
        probe.bytes(move |io, bytes| {
            calls += 1;
            match calls {
                1 => io.pause_reading(),
                _ => damage(io),
            }
            (calls - 1) * bytes.len()
        })
    };
    damages(ground, probe, |victim, log| {
        let handle = log.opened();
        victim.send(b"x");
        assert_eq!(log.bytes(1), b"x");
        handle.resume_reading().unwrap();
    });
}

fn in_on_end(ground: &Ground) {
    damages(ground, |probe| probe.end(damage), |victim, _| victim.end_output());
}

fn in_on_notify(ground: &Ground) {
    damages(ground, |probe| probe.notify(damage), |_, log| log.opened().notify().unwrap());
}

fn in_on_timer(ground: &Ground) {
    let probe = |probe: Probe| probe.open(|io| io.set_timer(std::time::Duration::from_millis(1)));
    damages(ground, move |p| probe(p).timer(damage), |_, _| {});
}

/// What is written behind the gap does not fill it.
fn hidden_behind_more_output(ground: &Ground) {
    let hide = |io: &mut Io<'_>| {
        damage(io);
        io.write_bytes(Bytes::from_static(b"another"));
        io.write(b"and much more than there was before");
    };
    damages(ground, move |probe| probe.notify(hide), |_, log| log.opened().notify().unwrap());
}

fn in_one_go_with_a_close(ground: &Ground) {
    let close = |io: &mut Io<'_>| {
        io.write_bytes(Bytes::from_static(b"body"));
        damage(io);
        io.close();
    };
    damages(ground, move |probe| probe.notify(close), |_, log| log.opened().notify().unwrap());
}

/// There is nothing by reference in it, but whose bytes are whose is kept count of.
fn of_what_another_thread_wrote(ground: &Ground) {
    let write = |io: &mut Io<'_>| {
        let handle = io.handle();
        // Within one turn: the bytes are there, and not sent yet, when the handler is told.
        handle.try_write(b"from elsewhere").unwrap();
        handle.notify().unwrap();
    };
    damages(ground, move |probe| probe.open(write).notify(|io| io.out().clear()), |_, _| {});
}

fn taking_back_what_lies_behind_is_none(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| {
            io.write(b"nothing by reference: ");
            io.out().clear();
            io.write(b"one ");
            io.write_bytes(Bytes::from_static(b"two "));
            let before = io.out().len();
            io.write(b"a mistake");
            io.out().truncate(before);
            io.write(b"three");
            io.close();
        })
    });
    let peer = Peer::connect(server.local_addr());
    assert_eq!(peer.receive_to_end(), b"one two three");
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}
