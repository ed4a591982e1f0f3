//! Socket options and settings: those that reach the kernel, and those that are refused.

use crate::ground::{Ground, Peer};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::io::ErrorKind;
use std::sync::mpsc;
use std::time::Duration;
use trochus::Error;
use trochus::net::{ListenOptions, StreamOptions, ToAddresses};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "options",
            Ground::has_sockets,
            [
                buffer_sizes_reach_the_kernel,
                impossible_settings_are_refused_by_name,
                a_short_backlog_serves_all
            ]
        ),
        suite!(
            "options",
            Ground::is_tcp,
            [tcp_options_reach_the_kernel, tcp_options_are_off_unless_asked_for]
        ),
    ]
}

fn buffer_sizes_reach_the_kernel(ground: &Ground) {
    let stage = ground.stage();
    let (send, sizes) = mpsc::channel();
    let options = StreamOptions::new().receive_buffer(50_000).send_buffer(60_000);
    let report = move || {
        let send = send.clone();
        log().1.probe().open(move |io| {
            let socket = io.socket().unwrap();
            send.send((socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap())).unwrap();
        })
    };
    let accepted = report.clone();
    let server = stage.listen_stream(options.clone(), move |_| accepted());
    let client = stage.runtime.connect_with(&options, server.local_addr(), report).unwrap();
    for _side in 0..2 {
        let (receive, send) = sizes.recv().unwrap();
        // Linux doubles what it is asked for, to cover its bookkeeping.
        assert!([50_000, 100_000].contains(&receive), "{receive}");
        // A Unix-domain server's sockets do not inherit this from their listener.
        assert!([60_000, 120_000].contains(&send), "{send}");
    }
    client.close().unwrap();
    stage.finish([server]);
}

/// Whether no-delay and keep-alive are on, and the user timeout where there is one.
type Tcp = (bool, bool, Option<Duration>);

fn tcp_options(ground: &Ground, options: &StreamOptions) -> [Tcp; 2] {
    let stage = ground.stage();
    let (send, seen) = mpsc::channel();
    let report = move || {
        let send = send.clone();
        log().1.probe().open(move |io| {
            let socket = io.socket().unwrap();
            #[cfg(target_os = "linux")]
            let timeout = socket.tcp_user_timeout().unwrap();
            #[cfg(not(target_os = "linux"))]
            let timeout = None;
            send.send((socket.tcp_nodelay().unwrap(), socket.keepalive().unwrap(), timeout)).unwrap();
        })
    };
    let accepted = report.clone();
    let server = stage.listen_stream(options.clone(), move |_| accepted());
    let client = stage.runtime.connect_with(options, server.local_addr(), report).unwrap();
    let both = [seen.recv().unwrap(), seen.recv().unwrap()];
    client.close().unwrap();
    stage.finish([server]);
    both
}

fn tcp_options_reach_the_kernel(ground: &Ground) {
    let timeout = Duration::from_secs(7);
    let options =
        StreamOptions::new().nodelay(false).keepalive(Duration::from_secs(60)).user_timeout(timeout);
    let timeout = cfg!(target_os = "linux").then_some(timeout);
    assert_eq!(tcp_options(ground, &options), [(false, true, timeout); 2]);
}

fn tcp_options_are_off_unless_asked_for(ground: &Ground) {
    let both = tcp_options(ground, &StreamOptions::new());
    assert!(both.iter().all(|(nodelay, keepalive, _)| *nodelay && !keepalive), "{both:?}");
}

fn impossible_settings_are_refused_by_name(ground: &Ground) {
    let refused = |builder: trochus::net::RuntimeBuilder, words: &str| match builder.build().unwrap_err() {
        Error::InvalidSetting(text) => assert!(text.contains(words), "{text}"),
        other => panic!("{other:?}"),
    };
    refused(ground.runtime_builder().reactors(0), "at least one reactor");
    refused(ground.runtime_builder().pool(3, 4096), "not 3");
    refused(ground.runtime_builder().pool(0, 4096), "not 0");
    refused(ground.runtime_builder().pool(4, 0), "not 0 bytes");
    let stage = ground.stage();
    for (options, words) in [
        (StreamOptions::new().output_limits(0, 10), "0 and 10"),
        (StreamOptions::new().output_limits(11, 10), "11 and 10"),
        (StreamOptions::new().input_limit(0), "input"),
        (StreamOptions::new().outbox_limit(0), "outbox"),
    ] {
        let listen = ListenOptions::new().stream(options.clone());
        let error = stage.runtime.listen_with(&listen, ground.fresh_address(), |_| Echo).unwrap_err();
        assert!(matches!(&error, Error::InvalidSetting(text) if text.contains(words)), "{error}");
        let error = stage.runtime.connect_with(&options, ground.fresh_address(), || Echo).unwrap_err();
        assert!(matches!(&error, Error::InvalidSetting(text) if text.contains(words)), "{error}");
    }
    // A label of more than 63 characters is no name, so nobody is asked for it.
    let name = format!("{}:80", "x".repeat(70));
    let error = name.to_addresses().unwrap_err();
    assert!(matches!(&error, Error::Address { address, .. } if *address == name), "{error}");
    let error = stage.runtime.connect(name.as_str(), || Echo).unwrap_err();
    assert_ne!(std::io::Error::from(error).kind(), ErrorKind::ConnectionRefused);
    stage.finish([]);
}

fn a_short_backlog_serves_all(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_with(&ListenOptions::new().backlog(1), move |_| recorder.echo());
    for byte in 0..50 {
        let peer = Peer::connect(server.local_addr());
        peer.send(&[byte]);
        assert_eq!(peer.receive(1), [byte]);
    }
    for _ in 0..50 {
        assert_eq!(log.closed(), Ending::ByPeer);
    }
    assert!(!log.rest().iter().any(|event| matches!(event, Event::Opened(_))));
    stage.finish([server]);
}
