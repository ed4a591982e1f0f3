//! Limits of time: whoever exceeds one loses his connection, with a reason and a counter of its own.

use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Ending, Event, Probe, log};
use crate::{Suite, suite};
use std::io::{ErrorKind, Read};
use std::time::Duration;
use trochus::Metrics;
use trochus::net::{ListenOptions, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "deadlines",
        |_| true,
        [
            a_peer_that_says_nothing_is_closed_in_good_order,
            a_peer_that_is_idle_is_closed_in_good_order,
            half_a_message_ends_with_a_reset,
            a_slow_reader_is_reset,
            who_is_old_is_asked_to_end,
            who_keeps_to_all_limits_notices_nothing,
        ]
    )]
}

const SHORT: Duration = Duration::from_millis(300);

/// A connection of which the peer reads all that there is, and how that ended on either side.
#[track_caller]
fn life(
    ground: &Ground,
    options: ListenOptions,
    probe: impl Fn(Probe) -> Probe + Send + Sync + 'static,
    says: &[u8],
) -> (Ending, Vec<u8>, Option<ErrorKind>, Metrics) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen_with(&options, move |_| probe(recorder.probe()));
    let peer = Peer::connect(server.local_addr());
    peer.send(says);
    let ending = log.closed();
    let mut bytes = Vec::new();
    let end = (&peer.0).read_to_end(&mut bytes);
    drop(peer);
    (ending, bytes, end.err().map(|error| error.kind()), stage.finish([server]))
}

fn stream(options: StreamOptions) -> ListenOptions {
    ListenOptions::new().stream(options)
}

fn echo(probe: Probe) -> Probe {
    probe.bytes(|io, bytes| {
        io.write(bytes);
        bytes.len()
    })
}

fn a_peer_that_says_nothing_is_closed_in_good_order(ground: &Ground) {
    let options = || stream(StreamOptions::new().opening_timeout(SHORT).close_timeout(SHORT));
    let greets = |probe: Probe| probe.open(|io| io.write(b"hello"));
    let (ending, bytes, end, metrics) = life(ground, options(), greets, b"");
    assert_eq!((ending, &bytes[..], end), (Ending::Opening, &b"hello"[..], None));
    assert_eq!((metrics.opening_timeouts, metrics.connections_over_limit), (1, 1));
}

fn a_peer_that_is_idle_is_closed_in_good_order(ground: &Ground) {
    let options = stream(StreamOptions::new().idle_timeout(SHORT).close_timeout(SHORT));
    let (ending, bytes, end, metrics) = life(ground, options, echo, b"hello");
    assert_eq!((ending, &bytes[..], end), (Ending::Idle, &b"hello"[..], None));
    assert_eq!((metrics.idle_timeouts, metrics.connections_over_limit), (1, 1));
}

fn half_a_message_ends_with_a_reset(ground: &Ground) {
    let options = stream(StreamOptions::new().message_timeout(SHORT));
    let (ending, _, end, metrics) = life(ground, options, |probe| probe.bytes(|_, _| 0), b"hal");
    assert_eq!(ending, Ending::Message { pending: 3 });
    // Bytes that a reader never sees end a Unix-domain socket with one as well, on some systems.
    assert!(end == Some(ErrorKind::ConnectionReset) || !ground.has_resets(), "{end:?}");
    assert_eq!((metrics.message_timeouts, metrics.connections_over_limit), (1, 1));
}

fn a_slow_reader_is_reset(ground: &Ground) {
    let options = StreamOptions::new().send_buffer(16 << 10).write_rate(usize::MAX, SHORT);
    let much = |probe: Probe| probe.open(|io| io.write(&pattern(16 << 20)));
    let (ending, bytes, end, metrics) = life(ground, stream(options), much, b"");
    assert_eq!(ending, Ending::TooSlow);
    assert!(bytes.len() < 16 << 20 && (end == Some(ErrorKind::ConnectionReset) || !ground.has_resets()));
    assert_eq!((metrics.slow_readers, metrics.connections_over_limit), (1, 1));
}

fn who_is_old_is_asked_to_end(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen_with(&ListenOptions::new().lifetime(SHORT), move |_| {
        recorder.probe().shutdown(|io| {
            io.write(b"goodbye");
            io.close();
        })
    });
    let peer = Peer::connect(server.local_addr());
    assert_eq!(peer.receive_to_end(), b"goodbye");
    drop(peer);
    log.find(|event| matches!(event, Event::Asked).then_some(()));
    assert_eq!(log.closed(), Ending::Closed);
    let metrics = stage.finish([server]);
    assert_eq!(
        (metrics.lifetimes_over, metrics.lifetimes_exceeded, metrics.connections_over_limit),
        (1, 0, 0)
    );
}

fn who_keeps_to_all_limits_notices_nothing(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let long = Duration::from_secs(600);
    let options = StreamOptions::new()
        .opening_timeout(long)
        .message_timeout(long)
        .idle_timeout(long)
        .write_stall_timeout(long)
        .write_rate(1, long);
    let server = stage.listen_with(&stream(options).lifetime(long), move |_| echo(recorder.probe()));
    let peer = Peer::connect(server.local_addr());
    for round in 0..50 {
        let message = pattern(1 << (round % 17));
        peer.send(&message);
        assert!(peer.receive(message.len()) == message);
    }
    assert!(stage.runtime.gauges().unwrap()[0].timers <= 1, "one timer is enough");
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    assert_eq!(stage.finish([server]).connections_over_limit, 0);
}
